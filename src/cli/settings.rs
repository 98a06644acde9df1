//! `dfs config`: the settings of this machine, shown and changed.

use std::fmt::Write;

use serde_json::Value;

use super::args::{ConfigArgs, FsyncArg, Key};
use super::units::{parse_duration, parse_listen, parse_size, show_duration, show_size};
use crate::daemon::Fsync;
use crate::daemon::Schedule;
use crate::daemon::control::{Change, Request};
use crate::daemon::report::ConfigReport;

/// Returns what is to be asked of the daemon; the error is one line for the user.
pub(super) fn request(args: &ConfigArgs) -> Result<Request, String> {
    let change = match (args.key, args.value.as_deref()) {
        (Some(key), Some(value)) => Some(change(key, value)?),
        _ => None,
    };
    Ok(Request::Config { change })
}

fn change(key: Key, value: &str) -> Result<Change, String> {
    let wrong = |why: String| format!("config: {why}");
    Ok(match key {
        Key::Listen => Change::Listen(parse_listen(value).map_err(wrong)?),
        Key::Capacity => Change::Capacity(parse_size(value).map_err(wrong)?),
        Key::Cache => Change::Cache(parse_size(value).map_err(wrong)?),
        Key::Fsync => Change::Fsync(match value {
            "local" => Fsync::Local,
            "replicated" => Fsync::Replicated,
            _ => return Err(wrong(format!("'{value}' is neither local nor replicated"))),
        }),
        Key::Name => Change::Name(value.to_owned()),
        Key::Memory => Change::Memory(parse_size(value).map_err(wrong)?),
        Key::History => {
            let time = parse_duration(value).map_err(wrong)?;
            Change::History(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        }
        Key::Snapshots => Change::Snapshots(parse_schedule(value).map_err(wrong)?),
    })
}

/// Returns the text for one key, or for all.
pub(super) fn show(value: &Value, key: Option<Key>) -> Option<String> {
    let report: ConfigReport = serde_json::from_value(value.clone()).ok()?;
    let lines = [
        (Key::Listen, listen(&report)),
        (Key::Name, report.name),
        (Key::Capacity, show_size(report.capacity_bytes)),
        (Key::Cache, show_size(report.cache_bytes)),
        (Key::Fsync, fsync(report.fsync).to_owned()),
        (Key::Memory, show_size(report.memory_bytes)),
        (Key::History, show_duration(report.history_ms / 1000)),
        (Key::Snapshots, show_schedule(report.snapshots)),
    ];
    let mut out = String::new();
    for (each, text) in lines {
        match key {
            None => {
                let _ = writeln!(out, "{:<9} {text}", each.as_str());
            }
            Some(key) if key == each => out.push_str(&text),
            Some(_) => {}
        }
    }
    Some(out)
}

fn listen(report: &ConfigReport) -> String {
    match &report.listen {
        Some(asked) if report.listens_later => {
            format!("{asked} (from the next start on; now {})", report.listening)
        }
        Some(asked) if *asked == report.listening => asked.clone(),
        Some(asked) => format!("{asked} (now {})", report.listening),
        None => format!("{} (chosen)", report.listening),
    }
}

/// Returns the schedule that a text says, like `hourly:24 daily:7 weekly:4`.
fn parse_schedule(text: &str) -> Result<Schedule, String> {
    let mut schedule = Schedule::default();
    if text == "off" {
        return Ok(schedule);
    }
    let wrong = || {
        format!("'{text}' is no schedule: write one like \"hourly:24 daily:7 weekly:4\", or off")
    };
    for part in text.split_whitespace() {
        let (kind, count) = part.split_once(':').ok_or_else(wrong)?;
        let count = count.parse().ok().filter(|count| *count <= KEPT_MAX);
        let of = match kind {
            "hourly" => &mut schedule.hourly,
            "daily" => &mut schedule.daily,
            "weekly" => &mut schedule.weekly,
            _ => return Err(wrong()),
        };
        *of = count.ok_or_else(wrong)?;
    }
    match schedule.is_off() {
        true => Err(wrong()),
        false => Ok(schedule),
    }
}

/// Most snapshots of a kind that are kept by a schedule.
const KEPT_MAX: u16 = 1000;

fn show_schedule(schedule: Schedule) -> String {
    let kinds = [
        ("hourly", schedule.hourly),
        ("daily", schedule.daily),
        ("weekly", schedule.weekly),
    ];
    let kinds = kinds.into_iter().filter(|(_, count)| *count > 0);
    let kinds: Vec<String> = kinds
        .map(|(kind, count)| format!("{kind}:{count}"))
        .collect();
    match kinds.is_empty() {
        true => "off".to_owned(),
        false => kinds.join(" "),
    }
}

fn fsync(fsync: Fsync) -> &'static str {
    match fsync {
        Fsync::Local => "local",
        Fsync::Replicated => "replicated",
    }
}

impl From<FsyncArg> for Fsync {
    fn from(arg: FsyncArg) -> Self {
        match arg {
            FsyncArg::Local => Self::Local,
            FsyncArg::Replicated => Self::Replicated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_shown_as_it_is_said() {
        for text in ["hourly:24 daily:7 weekly:4", "daily:30", "off"] {
            assert_eq!(show_schedule(parse_schedule(text).unwrap()), text);
        }
        for text in [
            "",
            "on",
            "hourly",
            "hourly:x",
            "yearly:1",
            "daily:0",
            "daily:2000",
        ] {
            assert!(parse_schedule(text).is_err(), "{text}");
        }
    }
}
