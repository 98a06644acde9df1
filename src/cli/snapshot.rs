//! `dfs snapshot`: keeps the volume as it is, lists what was kept, lets go of it.

use serde_json::Value;

use super::args::{SnapshotArgs, SnapshotVerb};
use super::client::{Failure, PATIENCE, output, pick, print_line};
use super::show::parse;
use super::units::show_size;
use crate::base::Clock;
use crate::base::text::shown;
use crate::base::time::SystemClock;
use crate::base::when::exact;
use crate::daemon::control::{self, Request};
use crate::daemon::report::{SnapshotReport, SnapshotsReport};

pub(super) fn run(args: &SnapshotArgs) -> Result<(), Failure> {
    let (state, _) = pick(&args.target, None)?;
    let ask = |request: &Request| control::ask(&state, request, PATIENCE, |_| {});
    match &args.verb {
        SnapshotVerb::Create { name } => {
            let name = name.clone();
            let name = name.unwrap_or_else(|| exact(SystemClock::new().wall_ms()));
            output(false, &ask(&Request::CreateSnapshot { name })?, created)
        }
        SnapshotVerb::List { json } => output(*json, &ask(&Request::Snapshots)?, listed),
        SnapshotVerb::Remove { name } => {
            ask(&Request::RemoveSnapshot { name: name.clone() })?;
            print_line(&format!("removed {}", shown(name)));
            Ok(())
        }
    }
}

fn created(value: &Value) -> Option<String> {
    let report: SnapshotReport = parse(value)?;
    let name = shown(&report.name);
    Some(match report.waits {
        false => format!("{name} keeps the volume as it is now"),
        true => format!("{name} is made as soon as what others did is folded (dfs snapshot list)"),
    })
}

fn listed(value: &Value) -> Option<String> {
    let report: SnapshotsReport = parse(value)?;
    let mut lines: Vec<String> = report.snapshots.iter().map(line).collect();
    let asked = report.asked.iter();
    lines.extend(asked.map(|name| format!("{}: being made", shown(name))));
    match lines.is_empty() {
        true => Some("no snapshots (dfs snapshot create)".to_owned()),
        false => Some(lines.join("\n")),
    }
}

fn line(kept: &SnapshotReport) -> String {
    let (when, by, name) = (exact(kept.time_ms), shown(&kept.device), shown(&kept.name));
    let (size, nodes) = (show_size(kept.bytes), kept.nodes);
    format!("{when}  {size:>10} in {nodes} files and folders, by {by}: {name}")
}
