//! Reports as text for people.

use std::fmt::Write;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::units::show_size;
use crate::base::text::shown;
use crate::base::when::moment;
use crate::daemon::report::{
    CollectReport, FileReport, FolderReport, PeerReport, StatusReport, SyncReport, WorkerReport,
};

pub(super) fn parse<T: DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    crate::daemon::path_to_hex(bytes)
}

/// Returns what the system said without the number at its end.
pub(super) fn io_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

pub(super) fn ago(ms: Option<u64>) -> String {
    match ms {
        None => "never".to_owned(),
        Some(ms) if ms < 1_000 => "now".to_owned(),
        Some(ms) if ms < 120_000 => format!("{} s ago", ms / 1_000),
        Some(ms) if ms < 7_200_000 => format!("{} min ago", ms / 60_000),
        Some(ms) => format!("{} h ago", ms / 3_600_000),
    }
}

pub(super) fn status(value: &Value) -> Option<String> {
    let report: StatusReport = parse(value)?;
    let mut out = String::new();
    let mut row = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<14}{text}");
    };
    row("volume", report.volume_id);
    row(
        "this peer",
        format!("{} ({}), {}", report.name, report.role, report.peer_id),
    );
    if let Some(mountpoint) = report.mountpoint {
        row("mounted on", mountpoint);
    }
    row("state", report.state);
    row("listening on", report.listen);
    row(
        "members",
        format!("{}, {} connected", report.members, report.connected),
    );
    row(
        "held",
        format!(
            "{} chunks, {}",
            report.held_chunks,
            show_size(report.held_bytes)
        ),
    );
    row(
        "cached",
        format!(
            "{} chunks, {}",
            report.cached_chunks,
            show_size(report.cached_bytes)
        ),
    );
    row(
        "on disk",
        format!(
            "{}: rows {}, segments {}, chunks {}; {} of it held for later",
            show_size(report.disk_bytes),
            show_size(report.disk_rows_bytes),
            show_size(report.disk_segments_bytes),
            show_size(report.disk_chunks_bytes),
            show_size(report.held_for_later_bytes),
        ),
    );
    row(
        "room",
        format!(
            "{} of {}",
            show_size(report.free_bytes),
            show_size(report.capacity_bytes)
        ),
    );
    row("replicated", report.protection.sentence);
    if report.pending_bytes > 0 || report.pending_segments > 0 || report.pending_chunks > 0 {
        let pending = format!(
            "{} chunks and {} log segments, {}",
            report.pending_chunks,
            report.pending_segments,
            show_size(report.pending_bytes)
        );
        let pending = match (report.rate_bytes_s, report.left_s) {
            (Some(rate), Some(left)) => {
                format!("{pending}, {}/s, about {left} s left", show_size(rate))
            }
            _ => pending,
        };
        row("pending", pending);
    }
    if report.untaken_segments > 0 {
        let untaken = format!(
            "{} log segments, {}: nobody has them",
            report.untaken_segments,
            show_size(report.untaken_bytes)
        );
        row("not taken", untaken);
    }
    row("conflicts", report.conflicts.to_string());
    if let Some(inodes) = report.inodes {
        row("inodes", inodes.to_string());
    }
    let contact = match report.last_contact_ms {
        None if report.members <= 1 => "nobody else is a member".to_owned(),
        last => ago(last),
    };
    row("last contact", contact);
    for trouble in report.troubles {
        let began = ago(Some(now_ms().saturating_sub(trouble.since_ms)));
        row("trouble", trouble.what);
        row("", format!("began {began}; {}", trouble.advice));
    }
    for advice in report.advice {
        row("advice", advice);
    }
    if let Some(asking) = report.asking {
        row("waiting", asking);
    }
    Some(out)
}

pub(super) fn workers(value: &Value) -> Option<String> {
    let workers: Vec<WorkerReport> = parse(value)?;
    let now_ms = now_ms();
    let since = |then_ms: u64| ago(Some(now_ms.saturating_sub(then_ms)));
    let mut out = String::new();
    for worker in workers {
        let of = worker.peer.map(|peer| format!(" ({})", shown(&peer)));
        let name = format!("{}{}", worker.name, of.unwrap_or_default());
        let doing = match worker.waits_for {
            Some(what) => format!("waits for {what}"),
            None => format!("{}, began {}", worker.state, since(worker.since_ms)),
        };
        let last = match worker.last_ms {
            Some(last_ms) => format!("last step {}", since(last_ms)),
            None => "no step done".to_owned(),
        };
        let _ = writeln!(out, "{name:<24}{}", worker.does);
        let _ = writeln!(out, "{:24}{doing}; {last}", "");
        if let Some(error) = worker.error {
            let mut failed = format!("{:24}", "");
            if let Some(first_ms) = worker.failing_since_ms {
                let count = worker.failures;
                let _ = write!(failed, "failed {count} times, first {}", since(first_ms));
            }
            if let Some(next_ms) = worker.next_try_ms {
                let left_s = next_ms.saturating_sub(now_ms).div_ceil(1_000);
                let _ = write!(failed, ", tries again in {left_s} s");
            }
            let _ = writeln!(out, "{failed}: {}", shown(&error));
        }
    }
    Some(out)
}

fn now_ms() -> u64 {
    use crate::base::Clock;
    crate::base::time::SystemClock::new().wall_ms()
}

pub(super) fn folder(value: &Value) -> Option<String> {
    let report: FolderReport = parse(value)?;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} ({}), {} files and {} folders, {}{}",
        report.path,
        report.kind,
        report.files,
        report.folders,
        show_size(report.bytes),
        if report.complete {
            ""
        } else {
            ", and more that was not counted"
        }
    );
    let mut row = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<14}{text}");
    };
    row("here", show_size(report.here_bytes));
    row("away", show_size(report.away_bytes));
    row(
        "at risk",
        match (report.at_risk_files, report.unknown_bytes) {
            (0, 0) => format!("nothing: {} copies of all", report.replicas_wanted),
            (0, _) => "nothing that is known".to_owned(),
            (files, _) => format!(
                "{files} files, {} on fewer than {} peers",
                show_size(report.at_risk_bytes),
                report.replicas_wanted
            ),
        },
    );
    if report.unknown_bytes > 0 {
        let unknown = show_size(report.unknown_bytes);
        row("unknown", format!("{unknown}: holders cannot be asked"));
    }
    if report.dirty_bytes > 0 {
        row("not journaled", show_size(report.dirty_bytes));
    }
    Some(out)
}

pub(super) fn folder_line(value: &Value) -> Option<String> {
    let report: FolderReport = parse(value)?;
    Some(format!(
        "{} files and {} folders, {}",
        report.files,
        report.folders,
        show_size(report.bytes)
    ))
}

pub(super) fn file(value: &Value) -> Option<String> {
    let report: FileReport = parse(value)?;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} ({}), {}",
        shown(&report.path),
        report.kind,
        show_size(report.size)
    );
    let _ = writeln!(
        out,
        "in the log {}, not yet journaled {}, not yet replicated {}",
        show_size(report.inline_bytes),
        show_size(report.dirty_bytes),
        show_size(report.pending_bytes)
    );
    if report.away_bytes > 0 {
        let _ = writeln!(out, "not here: {}", away(&report));
    }
    if let Some(why) = &report.incomplete {
        let _ = writeln!(out, "incomplete: {why}");
    }
    let copies = report
        .replicas_min
        .map_or_else(|| "unknown".to_owned(), |min| min.to_string());
    let _ = writeln!(
        out,
        "copies: {copies} of {} at least; its last change is on {}",
        report.replicas_wanted,
        report.log_holders.join(", ")
    );
    for chunk in report.chunks {
        let here = if chunk.local { "here" } else { "away" };
        let id = chunk.id.get(..16).unwrap_or(&chunk.id).to_owned();
        let _ = writeln!(
            out,
            "{:>14} +{:<8} {id} {here} {} copies: {}{}",
            chunk.offset,
            chunk.len,
            chunk
                .replicas
                .map_or_else(|| "unknown".to_owned(), |count| count.to_string()),
            chunk.holders.join(", "),
            if chunk.unknown.is_empty() {
                String::new()
            } else {
                format!("; cannot ask {}", chunk.unknown.join(", "))
            }
        );
    }
    Some(out)
}

/// Returns how much of a file is elsewhere, and where.
fn away(report: &FileReport) -> String {
    let mut out = show_size(report.away_bytes);
    if !report.away_on.is_empty() {
        let _ = write!(out, ", on {}", report.away_on.join(", "));
    }
    if report.unreadable_bytes > 0 {
        let bytes = show_size(report.unreadable_bytes);
        let _ = write!(
            out,
            "; {bytes} of it cannot be read now: no peer that is connected has it"
        );
    }
    let _ = write!(
        out,
        "; written by {}, {}",
        shown(&report.writer),
        moment(report.written_ms)
    );
    out
}

pub(super) fn peers(value: &Value, verbose: bool) -> Option<String> {
    let peers: Vec<PeerReport> = parse(value)?;
    if peers.is_empty() {
        return Some("no other peers yet: invite one with dfs invite".to_owned());
    }
    let mut out = String::new();
    for peer in peers {
        let id = if verbose {
            peer.peer_id.as_str()
        } else {
            peer.peer_id.get(..8)?
        };
        let rtt = peer
            .rtt_ms
            .map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms"));
        let _ = write!(
            out,
            "{:<26} {:<8} {:<22} {:<10} rtt {rtt:<9} last contact {}",
            format!("{} ({id})", shown(&peer.name)),
            peer.role,
            peer.address.as_deref().unwrap_or("-"),
            peer.state,
            ago(peer.last_contact_ms)
        );
        if let (Some(rate), Some(left)) = (peer.rate_bytes_s, peer.left_s) {
            let _ = write!(out, "  sending {}/s, {left} s left", show_size(rate));
        }
        if verbose && let (Some(free), Some(all)) = (peer.free_bytes, peer.capacity_bytes) {
            let _ = write!(out, "  {} free of {}", show_size(free), show_size(all));
        }
        out.push('\n');
    }
    Some(out)
}

/// Returns how far a sync is; `whole_bytes` is the most that was pending.
pub(super) fn sync_line(report: &SyncReport, whole_bytes: u64) -> String {
    let done = whole_bytes.saturating_sub(report.pending_bytes);
    let percent = done.saturating_mul(100).checked_div(whole_bytes);
    let mut line = format!(
        "{} %: {} chunks, {} log segments, {} to go",
        percent.unwrap_or(0),
        report.pending_chunks,
        report.pending_segments,
        show_size(report.pending_bytes)
    );
    if !report.unreachable.is_empty() {
        let _ = write!(line, "; waiting for {}", report.unreachable.join(", "));
    }
    line
}

pub(super) fn synced(value: &Value) -> Option<String> {
    let report: SyncReport = parse(value)?;
    Some(if report.is_done() {
        report.protection.sentence
    } else {
        sync_line(&report, report.pending_bytes)
    })
}

pub(super) fn collecting(value: &Value) -> Option<String> {
    let report: CollectReport = parse(value)?;
    let later = report.waiting_bytes.saturating_add(report.past_bytes);
    Some(format!(
        "freed {}, {} wait",
        show_size(report.freed_bytes),
        show_size(later)
    ))
}

pub(super) fn collected(value: &Value) -> Option<String> {
    let report: CollectReport = parse(value)?;
    let mut out = match report.freed_chunks {
        0 => "freed nothing here".to_owned(),
        1 => format!("freed {} here (1 chunk)", show_size(report.freed_bytes)),
        count => format!(
            "freed {} here ({count} chunks)",
            show_size(report.freed_bytes)
        ),
    };
    if report.waiting_bytes > 0 {
        let size = show_size(report.waiting_bytes);
        let _ = write!(
            out,
            "\n{size} more go as soon as all members have heard of it"
        );
    }
    if report.kept_bytes > 0 {
        let size = show_size(report.kept_bytes);
        let _ = write!(
            out,
            "\n{size} can be had back (dfs history), for as long as the volume says (dfs config history), or \
             are in snapshots, until these are removed (dfs snapshot)"
        );
    }
    if report.past_bytes > 0 {
        let size = show_size(report.past_bytes);
        let _ = write!(
            out,
            "\n{size} more wait until all members that were here in the last 30 days have what was \
             changed since, and for programs that have removed files open"
        );
    }
    Some(out)
}

pub(super) fn waited(what: &str, max: std::time::Duration) -> String {
    format!("waited {} s for {what} in vain", max.as_secs())
}
