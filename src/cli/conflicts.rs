//! The verbs about what two people changed at once: list it, show how it differs, choose.

use std::fmt::Write;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::args::{ConflictsArgs, ResolveArgs};
use super::client::{Failure, PATIENCE, output, pick, print_line};
use super::exit::Exit;
use super::members::label;
use super::show::{hex, io_error, parse};
use crate::base::text::shown;
use crate::base::when::moment;
use crate::daemon::control::{self, Request};
use crate::daemon::report::{ConflictReport, SideReport};

pub(super) fn list(args: &ConflictsArgs) -> Result<(), Failure> {
    let fact = &args.fact;
    let (state, inside) = pick(&fact.target, fact.path.as_deref())?;
    let path = inside.filter(|path| !path.as_os_str().is_empty());
    let path = path.map(|path| hex(&path.into_os_string().into_vec()));
    let value = control::ask(&state, &Request::Conflicts { path }, PATIENCE, |_| {})?;
    if !args.diff {
        return output(fact.json, &value, text);
    }
    for conflict in &reports(&value)? {
        if let (Some(kept), Some(aside)) = (&conflict.kept, &conflict.aside) {
            print_line(&differences(kept, aside)?);
        } else {
            print_line(&line(conflict));
        }
    }
    Ok(())
}

fn reports(value: &Value) -> Result<Vec<ConflictReport>, Failure> {
    parse(value).ok_or_else(|| failed("the daemon is of another version: restart it"))
}

fn failed(message: impl Into<String>) -> Failure {
    Failure {
        exit: Exit::Failed,
        message: message.into(),
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure {
        exit: Exit::Usage,
        message: message.into(),
    }
}

/// Returns one line for each conflict.
fn text(value: &Value) -> Option<String> {
    let conflicts: Vec<ConflictReport> = parse(value)?;
    if conflicts.is_empty() {
        return Some("no conflicts".to_owned());
    }
    if std::io::stdout().is_terminal() {
        eprintln!("settle one with: dfs resolve PATH --keep DEVICE|mine|theirs|both");
    }
    let lines: Vec<String> = conflicts.iter().map(line).collect();
    Some(lines.join("\n"))
}

fn line(conflict: &ConflictReport) -> String {
    let (kept, aside) = (&conflict.kept, &conflict.aside);
    let first = kept.as_ref().or(aside.as_ref());
    let path = first.map_or_else(|| "what is gone".to_owned(), |side| shown(&side.path));
    let mut out = format!("{path}: {}; ", conflict.kind);
    let by = |device: &str, id: &str, ms| format!("{}, {}", label(device, id), moment(ms));
    match (kept, aside) {
        (Some(kept), Some(aside)) => {
            let kept = by(&kept.device, &kept.device_id, kept.time_ms);
            let other = by(&aside.device, &aside.device_id, aside.time_ms);
            let path = shown(&aside.path);
            let _ = write!(
                out,
                "that of {kept} has the name; that of {other} is kept beside it: {path}"
            );
        }
        (None, Some(aside)) => {
            let by = by(&aside.device, &aside.device_id, aside.time_ms);
            let _ = write!(out, "this is that of {by}; what had the name is gone");
        }
        (_, None) => {
            let acts = conflict.acts.iter().map(|act| {
                let by = label(&act.device, &act.device_id);
                let when = act.time_ms.map(|ms| format!(", {}", moment(ms)));
                format!("{} by {by}{}", shown(&act.did), when.unwrap_or_default())
            });
            out.push_str(&acts.collect::<Vec<_>>().join("; "));
        }
    }
    out
}

fn path_of(side: &SideReport) -> PathBuf {
    let bytes = crate::base::id::from_hex(&side.path_hex);
    bytes.map_or_else(
        || PathBuf::from(&side.path),
        |bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes)),
    )
}

/// Returns how two sides differ, as diff(1) says it.
fn differences(kept: &SideReport, aside: &SideReport) -> Result<String, Failure> {
    let label = |side: &SideReport| {
        let by = label(&side.device, &side.device_id);
        format!("{} ({by}, {})", shown(&side.path), moment(side.time_ms))
    };
    let told = Command::new("diff")
        .args(["--unified", "--recursive", "--no-dereference"])
        .args(["--label", &label(kept), "--label", &label(aside), "--"])
        .args([path_of(kept), path_of(aside)])
        .output();
    let told = told.map_err(|error| {
        failed(format!(
            "cannot run diff (package diffutils): {}",
            io_error(&error)
        ))
    })?;
    match told.status.code() {
        Some(0) => Ok(format!(
            "{} and {} are the same",
            shown(&kept.path),
            shown(&aside.path)
        )),
        Some(1) => Ok(String::from_utf8_lossy(&told.stdout).trim_end().to_owned()),
        _ => {
            let said = String::from_utf8_lossy(&told.stderr);
            Err(failed(format!("diff failed: {}", shown(said.trim_end()))))
        }
    }
}

/// What is to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// All sides.
    Both,
    /// What has the name.
    Kept,
    /// What stands aside in the conflict of this place in the list.
    Aside(usize),
}

/// Settles the conflicts of a path, by what a person would do by hand: the copies are removed, or
/// one is moved over the file.
pub(super) fn resolve(args: &ResolveArgs) -> Result<(), Failure> {
    let (state, inside) = pick(&args.target, Some(&args.path))?;
    let inside = inside.unwrap_or_default().into_os_string().into_vec();
    let path = Some(hex(&inside));
    let value = control::ask(&state, &Request::Conflicts { path }, PATIENCE, |_| {})?;
    let conflicts = reports(&value)?;
    if conflicts.is_empty() {
        return Err(failed(format!(
            "{} is in no conflict",
            shown(&args.path.to_string_lossy())
        )));
    }
    let settle = |is_meant: fn(&ConflictReport) -> bool| {
        let ids = conflicts.iter().filter(|conflict| is_meant(conflict));
        let ids: Vec<String> = ids.map(|conflict| conflict.id.clone()).collect();
        let request = Request::Settle { ids };
        control::ask(&state, &request, PATIENCE, |_| {}).map(|_| ())
    };
    let done = match choose(&conflicts, args.keep.as_deref())? {
        Choice::Both => {
            settle(|_| true)?;
            vec!["all of it stays; taken off the list".to_owned()]
        }
        Choice::Kept => {
            let asides = conflicts
                .iter()
                .filter_map(|conflict| conflict.aside.as_ref());
            let done = asides.map(remove).collect::<Result<_, _>>()?;
            settle(|conflict| conflict.aside.is_none())?;
            done
        }
        Choice::Aside(chosen) => {
            let done = keep_aside(&conflicts, chosen)?;
            settle(|conflict| conflict.aside.is_none())?;
            done
        }
    };
    let value = serde_json::json!({ "done": done });
    output(args.json, &value, |_| Some(done.join("\n")))
}

fn choose(conflicts: &[ConflictReport], keep: Option<&str>) -> Result<Choice, Failure> {
    let stands_aside = conflicts.iter().any(|conflict| conflict.aside.is_some());
    let keep = match keep {
        Some("both") => return Ok(Choice::Both),
        None if !stands_aside => return Ok(Choice::Both),
        Some(keep) => keep,
        None => {
            return Err(usage(
                "say which side is to stay: --keep DEVICE|mine|theirs|both",
            ));
        }
    };
    let kept = conflicts.iter().find_map(|conflict| conflict.kept.as_ref());
    let aside = conflicts
        .iter()
        .enumerate()
        .filter_map(|(index, conflict)| {
            let side = conflict.aside.as_ref()?;
            Some((Choice::Aside(index), side))
        });
    let kept = kept.map(|side| (Choice::Kept, side));
    let sides: Vec<_> = kept.into_iter().chain(aside).collect();
    if sides.len() < 2 {
        return Err(usage(
            "there is nothing to choose from here: --keep both takes it off the list",
        ));
    }
    let is_meant = |side: &SideReport| match keep {
        "mine" => side.is_mine,
        "theirs" => !side.is_mine,
        // Digits of the id tell devices of one name apart, and a path two sides of one device.
        name => {
            let is_path = std::path::absolute(name).is_ok_and(|path| path == path_of(side));
            let is_id = name.len() >= 8 && side.device_id.starts_with(name);
            is_path || is_id || side.device == name
        }
    };
    let meant: Vec<_> = sides.iter().filter(|(_, side)| is_meant(side)).collect();
    match meant.as_slice() {
        [(choice, _)] => Ok(*choice),
        found => {
            let names = sides.iter().map(|(_, side)| {
                let by = label(&side.device, &side.device_id);
                format!("{by} at {}", shown(&side.path))
            });
            let names = names.collect::<Vec<_>>().join(", ");
            let what = if found.is_empty() {
                "none of the sides is"
            } else {
                "several sides are"
            };
            Err(usage(format!(
                "{what} {}: there are {names}; name a device, or one of the paths",
                shown(keep)
            )))
        }
    }
}

/// Moves what stands aside to the name, and removes the other copies.
fn keep_aside(conflicts: &[ConflictReport], chosen: usize) -> Result<Vec<String>, Failure> {
    let conflict = conflicts.get(chosen);
    let Some((kept, aside)) =
        conflict.and_then(|conflict| conflict.kept.as_ref().zip(conflict.aside.as_ref()))
    else {
        return Err(failed("what had the name is gone: move the copy there"));
    };
    if kept.is_folder || aside.is_folder {
        return Err(failed(format!(
            "{} is a folder: move away what is not to stay, by hand",
            shown(if kept.is_folder {
                &kept.path
            } else {
                &aside.path
            })
        )));
    }
    take_place(&path_of(aside), &path_of(kept))?;
    let mut done = vec![format!(
        "{} is what {} wrote",
        shown(&kept.path),
        shown(&aside.device)
    )];
    let others = conflicts.iter().enumerate();
    let others = others.filter(|(index, _)| *index != chosen);
    for other in others.filter_map(|(_, conflict)| conflict.aside.as_ref()) {
        done.push(remove(other)?);
    }
    Ok(done)
}

/// Puts what is at one path at another: into the file there, where that has other names, which mean the same.
fn take_place(from: &Path, to: &Path) -> Result<(), Failure> {
    let has_names = std::fs::symlink_metadata(to).is_ok_and(|to| to.is_file() && to.nlink() > 1);
    let is_file = std::fs::symlink_metadata(from).is_ok_and(|from| from.is_file());
    let taken = match has_names && is_file {
        true => write_over(from, to).and_then(|()| match std::fs::remove_file(from) {
            // What says the same as what it stands aside of is one with that.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }),
        false => std::fs::rename(from, to),
    };
    taken.map_err(|error| {
        let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
        failed(format!(
            "cannot move {} to {}: {}",
            shown(&from),
            shown(&to),
            io_error(&error)
        ))
    })
}

fn write_over(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut from = std::fs::File::open(from)?;
    let mut to = std::fs::File::options()
        .write(true)
        .truncate(true)
        .open(to)?;
    std::io::copy(&mut from, &mut to)?;
    // What it is copied from goes next.
    to.sync_all()
}

fn remove(side: &SideReport) -> Result<String, Failure> {
    let path = shown(&side.path);
    if side.is_folder {
        return Err(failed(format!(
            "{path} is a folder: look what is to stay of it, and remove it by hand"
        )));
    }
    match std::fs::remove_file(path_of(side)) {
        Ok(()) => Ok(format!("{path} is removed")),
        Err(error) => Err(failed(format!(
            "cannot remove {path}: {}",
            io_error(&error)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::report::ActReport;

    fn side(path: &str, device: &str, is_mine: bool) -> SideReport {
        SideReport {
            path: path.to_owned(),
            path_hex: hex(path.as_bytes()),
            device: device.to_owned(),
            device_id: format!("{:0<16}", hex(device.as_bytes())),
            is_mine,
            ..SideReport::default()
        }
    }

    fn conflict(kept: Option<SideReport>, aside: Option<SideReport>) -> ConflictReport {
        ConflictReport {
            id: "1".to_owned(),
            kind: "two writes from one version".to_owned(),
            path: kept.as_ref().map(|side| side.path.clone()),
            copy: aside.as_ref().map(|side| side.path.clone()),
            device: aside.as_ref().map_or("b", |side| &side.device).to_owned(),
            device_id: "62".to_owned(),
            time_ms: 0,
            kept,
            aside,
            acts: vec![ActReport {
                did: "written".to_owned(),
                device: "a".to_owned(),
                device_id: "61".to_owned(),
                time_ms: None,
            }],
        }
    }

    #[test]
    fn a_side_is_chosen_by_device_and_nothing_is_guessed() {
        let file = || Some(side("/m/f", "b", false));
        let two = [
            conflict(file(), Some(side("/m/f (a)", "a", true))),
            conflict(file(), Some(side("/m/f (c)", "c", false))),
        ];
        let one = two.get(..1).unwrap_or_default();
        let chosen = |of: &[ConflictReport], keep| choose(of, Some(keep)).ok();
        assert_eq!(chosen(&two, "both"), Some(Choice::Both));
        assert_eq!(chosen(&two, "b"), Some(Choice::Kept));
        assert_eq!(chosen(&two, "c"), Some(Choice::Aside(1)));
        assert_eq!(chosen(&two, "mine"), Some(Choice::Aside(0)));
        assert_eq!(chosen(one, "theirs"), Some(Choice::Kept));
        assert_eq!(chosen(&two, "theirs"), None, "that are two");
        assert_eq!(chosen(&two, "d"), None);
        assert_eq!(chosen(&two, "6300000000000000"), Some(Choice::Aside(1)));
        let both_of_c = [conflict(
            Some(side("/m/f", "c", false)),
            Some(side("/m/f (c)", "c", false)),
        )];
        assert_eq!(chosen(&both_of_c, "c"), None, "that are two");
        assert_eq!(chosen(&both_of_c, "/m/f"), Some(Choice::Kept));
        assert_eq!(chosen(&both_of_c, "/m/f (c)"), Some(Choice::Aside(0)));
        let note = [conflict(file(), None)];
        assert_eq!(chosen(&note, "b"), None, "nothing stands aside");
        assert_eq!(chosen(&note, "both"), Some(Choice::Both));
        assert_eq!(choose(&note, None).ok(), Some(Choice::Both));
        assert_eq!(choose(&two, None).ok(), None, "it has to be said");
    }

    #[test]
    fn each_conflict_is_a_line_with_the_paths_of_both_sides() {
        let file = side("/m/f", "b", false);
        let both = conflict(Some(file.clone()), Some(side("/m/f (a)", "a", true)));
        let told = line(&both);
        assert!(told.starts_with("/m/f: two writes"), "{told}");
        assert!(told.contains(" b ("), "who has the name: {told}");
        assert!(told.ends_with(": /m/f (a)"), "{told}");
        let alone = line(&conflict(None, Some(side("/m/f (a)", "a", true))));
        assert!(alone.starts_with("/m/f (a): "), "{alone}");
        assert_eq!(
            alone.matches("/m/").count(),
            1,
            "nothing is beside it: {alone}"
        );
        let note = line(&conflict(Some(file), None));
        assert!(note.starts_with("/m/f: "), "{note}");
        assert!(note.ends_with("; written by a (61)"), "{note}");
        assert!(!note.contains('?'), "{note}");
    }
}
