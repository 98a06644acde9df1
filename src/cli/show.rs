//! Reports as text for people.

use std::fmt::Write;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::units::show_size;
use crate::daemon::report::{
    ConflictReport, FileReport, InviteReport, MemberReport, PeerReport, StatusReport, SyncReport,
};

fn parse<T: DeserializeOwned>(value: &Value) -> Option<T> {
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

fn ago(ms: Option<u64>) -> String {
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
    let pending = if report.pending_bytes == 0 && report.pending_segments == 0 {
        "nothing: all is replicated".to_owned()
    } else {
        format!(
            "{} chunks and {} log segments, {} not yet on {} peers",
            report.pending_chunks,
            report.pending_segments,
            show_size(report.pending_bytes),
            report.replicas_wanted
        )
    };
    row("pending", pending);
    row("conflicts", report.conflicts.to_string());
    if let Some(inodes) = report.inodes {
        row("inodes", inodes.to_string());
    }
    row("last contact", ago(report.last_contact_ms));
    for warning in report.warnings {
        row("warning", warning);
    }
    Some(out)
}

pub(super) fn file(value: &Value) -> Option<String> {
    let report: FileReport = parse(value)?;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} ({}), {}",
        report.path,
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
    if let Some(min) = report.replicas_min {
        let _ = writeln!(
            out,
            "copies of each chunk: {min} of {} at least",
            report.replicas_wanted
        );
    }
    for chunk in report.chunks {
        let here = if chunk.local { "here" } else { "away" };
        let id = chunk.id.get(..16).unwrap_or(&chunk.id).to_owned();
        let _ = writeln!(
            out,
            "{:>14} +{:<8} {id} {here} {} copies: {}",
            chunk.offset,
            chunk.len,
            chunk.replicas,
            chunk.holders.join(", ")
        );
    }
    Some(out)
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
            "{:<16} {id} {:<8} {:<22} {:<10} rtt {rtt:<9} last contact {}",
            peer.name,
            peer.role,
            peer.address.as_deref().unwrap_or("-"),
            peer.state,
            ago(peer.last_contact_ms)
        );
        if verbose && let (Some(free), Some(all)) = (peer.free_bytes, peer.capacity_bytes) {
            let _ = write!(out, "  {} free of {}", show_size(free), show_size(all));
        }
        out.push('\n');
    }
    Some(out)
}

pub(super) fn invite(value: &Value) -> Option<String> {
    let report: InviteReport = parse(value)?;
    let command = if report.role == "storage" {
        "dfs node"
    } else {
        "dfs-mount /mnt/dfs"
    };
    let peer = report.addresses.first().map_or("HOST:PORT", String::as_str);
    Some(format!(
        "One new {} can join with this token, once. On the new machine:\n  {command} --peer {peer} \
         --invite TOKEN\n{}",
        report.role, report.token
    ))
}

pub(super) fn members(value: &Value) -> Option<String> {
    let members: Vec<MemberReport> = parse(value)?;
    let mut out = String::new();
    for member in members {
        let this = if member.this { "  (this peer)" } else { "" };
        let _ = writeln!(
            out,
            "{} {:<8} {}{this}",
            member.peer_id, member.role, member.name
        );
    }
    Some(out)
}

pub(super) fn removed(value: &Value) -> Option<String> {
    let member: MemberReport = parse(value)?;
    Some(format!("removed {} ({})", member.name, member.peer_id))
}

pub(super) fn conflicts(value: &Value) -> Option<String> {
    let conflicts: Vec<ConflictReport> = parse(value)?;
    if conflicts.is_empty() {
        return Some("no conflicts".to_owned());
    }
    let mut out = String::new();
    for conflict in conflicts {
        let _ = writeln!(
            out,
            "{}  {}: {} kept beside {} (from {})",
            conflict.id.get(..16).unwrap_or(&conflict.id),
            conflict.kind,
            conflict.copy.as_deref().unwrap_or("?"),
            conflict.path.as_deref().unwrap_or("?"),
            conflict.device
        );
    }
    Some(out)
}

pub(super) fn sync_line(report: &SyncReport) -> String {
    let mut line = format!(
        "{} chunks, {} log segments, {} to go",
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
        "all is replicated".to_owned()
    } else {
        sync_line(&report)
    })
}

pub(super) fn waited(what: &str, max: std::time::Duration) -> String {
    format!("waited {} s for {what} in vain", max.as_secs())
}
