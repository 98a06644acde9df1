//! The verbs about what was before: list it, have it back.

use std::io::IsTerminal;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::args::{HistoryArgs, RestoreArgs, TargetArgs};
use super::client::{Failure, output, pick};
use super::exit::Exit;
use super::members::{confirm, label};
use super::show::{hex, parse};
use super::units::{parse_duration, show_size};
use crate::base::Clock;
use crate::base::text::shown;
use crate::base::time::SystemClock;
use crate::base::when::{exact, moment, parse as parse_moment};
use crate::daemon::control::{self, Request};
use crate::daemon::report::{HistoryReport, RestoreReport, RestoreToReport, VersionReport};

/// How long the daemon may take to look all of it up, and between two words of how far it is.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn list(args: &HistoryArgs) -> Result<(), Failure> {
    let (state, path) = find(&args.target, &args.path)?;
    let value = control::ask(&state, &Request::History { path }, PATIENCE, |_| {})?;
    output(args.json, &value, text)
}

pub(super) fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    if let Some(to) = &args.to {
        return restore_to(args, to);
    }
    let (path, at_ms) = split(&args.path)?;
    let (state, path) = find(&args.target, &path)?;
    let request = Request::Restore {
        path,
        at_ms,
        deleted: args.deleted,
    };
    let answer = ask_drawing(args, &state, &request, restored)?;
    output(args.json, &answer, restored)
}

/// Asks for what takes a while, and draws on a terminal how far it is.
fn ask_drawing(
    args: &RestoreArgs,
    state: &Path,
    request: &Request,
    line: fn(&Value) -> Option<String>,
) -> Result<Value, Failure> {
    let live = std::io::stderr().is_terminal() && !args.json;
    let mut drawn = false;
    let answer = control::ask(state, request, PATIENCE, |value| {
        if live && let Some(line) = line(value) {
            eprint!("\r\x1b[K{line}");
            drawn = true;
        }
    });
    if drawn {
        eprint!("\r\x1b[K");
    }
    Ok(answer?)
}

fn restore_to(args: &RestoreArgs, to: &str) -> Result<(), Failure> {
    let (state, path) = find(&args.target, &args.path)?;
    let request = |confirmed| Request::RestoreTo {
        path: path.clone(),
        to: to.to_owned(),
        at_ms: time_of(to),
        confirmed,
    };
    if !args.yes {
        let found = control::ask(&state, &request(false), PATIENCE, |_| {})?;
        let found: RestoreToReport = parse(&found).ok_or_else(other_version)?;
        let question = format!(
            "make {} what it was on {} (snapshot {})? What is there now and was not there then is removed; \
             a snapshot is made of it before.",
            shown(&args.path.to_string_lossy()),
            moment(found.time_ms),
            shown(&found.snapshot)
        );
        confirm(&question, &found.snapshot)?;
    }
    let answer = ask_drawing(args, &state, &request(true), |value| {
        parse(value).as_ref().map(brought)
    })?;
    output(args.json, &answer, |value| {
        let report: RestoreToReport = parse(value)?;
        let mut out = brought(&report);
        if let Some(before) = &report.before {
            out.push_str(&format!(
                "\nwhat was there before is in the snapshot {}",
                shown(before)
            ));
        }
        Some(out)
    })
}

fn other_version() -> Failure {
    Failure {
        exit: Exit::Failed,
        message: "the daemon is of another version: restart it".to_owned(),
    }
}

fn brought(report: &RestoreToReport) -> String {
    format!(
        "{} brought back, {} changed, {} removed ({} written), as of {} (snapshot {})",
        report.back,
        report.changed,
        report.removed,
        show_size(report.bytes),
        moment(report.time_ms),
        shown(&report.snapshot)
    )
}

/// Returns a path and the time that stands behind it.
fn split(path: &Path) -> Result<(PathBuf, Option<u64>), Failure> {
    let bytes = path.as_os_str().as_bytes();
    let at = bytes.iter().rposition(|byte| *byte == b'@');
    // A file of that very name is meant, where there is one.
    let Some(at) = at.filter(|_| std::fs::symlink_metadata(path).is_err()) else {
        return Ok((path.to_owned(), None));
    };
    let (file, time) = bytes.split_at(at);
    let time = String::from_utf8_lossy(time.get(1..).unwrap_or_default()).into_owned();
    match time_of(&time) {
        Some(ms) => Ok((
            PathBuf::from(std::ffi::OsString::from_vec(file.to_vec())),
            Some(ms),
        )),
        None if time.contains('/') => Ok((path.to_owned(), None)),
        None => Err(Failure {
            exit: Exit::Usage,
            message: format!(
                "no time like {}: write one as dfs history does, or a span like 2h",
                shown(&time)
            ),
        }),
    }
}

/// Returns the moment that a text means: as it is written, or so long ago.
fn time_of(text: &str) -> Option<u64> {
    let ago = parse_duration(text).ok().map(|ago| {
        let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        SystemClock::new().wall_ms().saturating_sub(ago_ms)
    });
    parse_moment(text).or(ago)
}

/// Returns state folder and path below the mountpoint, in hex, of what is or was there.
fn find(target: &TargetArgs, path: &Path) -> Result<(PathBuf, String), Failure> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut gone = Vec::new();
    let mut there = path.as_path();
    // What is gone lies below what is there.
    while std::fs::symlink_metadata(there).is_err() {
        let (Some(name), Some(parent)) = (there.file_name(), there.parent()) else {
            break;
        };
        gone.push(name.to_owned());
        there = parent;
    }
    let (state, inside) = pick(target, Some(there))?;
    let mut inside = inside.unwrap_or_default();
    inside.extend(gone.iter().rev());
    Ok((state, hex(inside.as_os_str().as_bytes())))
}

fn text(value: &Value) -> Option<String> {
    let report: HistoryReport = parse(value)?;
    let mut lines: Vec<String> = report.versions.iter().map(version).collect();
    for removed in &report.removed {
        let size = match removed.is_folder {
            true => "folder".to_owned(),
            false => show_size(removed.size),
        };
        let by = label(&removed.device, &removed.device_id);
        let when = exact(removed.time_ms);
        let slash = if removed.is_folder { "/" } else { "" };
        lines.push(format!(
            "{when}  {size:>10}  removed by {by}: {}{slash}",
            shown(&removed.path)
        ));
    }
    if lines.is_empty() {
        return Some("nothing that was replaced or removed is kept of it".to_owned());
    }
    Some(lines.join("\n"))
}

fn version(version: &VersionReport) -> String {
    let by = label(&version.device, &version.device_id);
    let (when, size) = (exact(version.time_ms), show_size(version.size));
    let until = match (version.state.as_str(), version.until_ms) {
        ("there", _) | (_, None) => ", there now".to_owned(),
        (state, Some(until)) => {
            let by = version.until_device.as_deref().unwrap_or_default();
            format!(", {state} by {} {}", shown(by), exact(until))
        }
    };
    format!("{when}  {size:>10}  written by {by}{until}")
}

fn restored(value: &Value) -> Option<String> {
    let report: RestoreReport = parse(value)?;
    let count = |count: u64, one: &str, more: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    };
    let mut out = match (report.files, report.folders) {
        (0, 0) if report.time_ms.is_some() => "it is as it was then".to_owned(),
        (0, 0) => "nothing to have back".to_owned(),
        (files, 0) => format!("restored {}", count(files, "file", "files")),
        (files, folders) => format!(
            "restored {} in {}",
            count(files, "file", "files"),
            count(folders, "folder", "folders")
        ),
    };
    if report.files + report.folders > 0 {
        out.push_str(&format!(" ({})", show_size(report.bytes)));
        if let Some(time_ms) = report.time_ms {
            out.push_str(&format!(" as of {}", exact(time_ms)));
        }
    }
    if report.taken > 0 {
        let taken = count(report.taken, "name", "names");
        out.push_str(&format!(
            "\n{taken} not: something else is there by now (dfs restore FILE@TIME)"
        ));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_stands_behind_the_last_at() {
        let of = |text: &str| split(Path::new(text)).map_err(|_| ());
        let (path, at) = of("/no/a@b@2027-01-15").unwrap();
        assert_eq!(path, Path::new("/no/a@b"));
        assert!(at.is_some());
        assert!(of("/no/f@2h").unwrap().1.is_some());
        assert_eq!(of("/no/f").unwrap(), ("/no/f".into(), None));
        assert_eq!(of("/no@/f").unwrap(), ("/no@/f".into(), None));
        assert!(of("/no/f@yesterday").is_err());
    }
}
