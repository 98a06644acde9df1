//! How well what was written here is protected, and how far its replication is.

use std::sync::Arc;

use super::error::DaemonError;
use super::facts::{names, segment_bytes};
use super::look::log_refused;
use super::peer::Peer;
use super::report::{ProtectionReport, SyncReport};
use crate::base::limits::REPLICAS;
use crate::node::PeerState;

/// Returns what is not yet where it should be.
pub(super) fn sync(peer: &Arc<Peer>) -> Result<SyncReport, DaemonError> {
    let progress = peer.replica().progress();
    let node = peer.node();
    let segments = node.unpushed_segments(peer.replicas_wanted());
    let member = peer.member_parts();
    let drafts = member.map_or(0, |member| member.volume.counts().drafts);
    let dirty = member.map_or(0, |member| member.fs.counts().dirty_bytes);
    let names = names(peer);
    let peers = node.peers();
    let mut refused = Vec::new();
    for other in &peers {
        if let Some(refusal) = &other.refusal {
            refused.push(format!("{} refuses: {refusal}", other.name));
        }
        if let Some(refusal) = &other.refuses_log {
            refused.push(log_refused(&other.name, refusal));
        }
    }
    let refuses = |id| {
        let mut others = peers.iter();
        others.any(|other| other.id == id && other.refusal.is_some())
    };
    let blocked = progress.blocked.iter().map(|blocked| blocked.peer);
    let mut waited_for: Vec<_> = blocked.collect();
    if segments > 0 {
        let offline = peers
            .iter()
            .filter(|other| other.state != PeerState::Connected);
        waited_for.extend(offline.map(|other| other.id));
    }
    waited_for.sort_unstable();
    waited_for.dedup();
    let name = |id| {
        let known = names.get(id).cloned();
        known.unwrap_or_else(|| id.short())
    };
    let unreachable = waited_for.iter().filter(|id| !refuses(**id)).map(name);
    let mut report = SyncReport {
        pending_chunks: progress.pending_count + u64::from(progress.checking),
        pending_bytes: progress.pending_bytes + segment_bytes(node, segments) + dirty,
        pending_segments: segments + drafts,
        unreachable: unreachable.collect(),
        missing_chunks: progress.missing_count,
        missing_files: peer.lost_files(),
        refused,
        removed: node.role().is_none(),
        protection: ProtectionReport::default(),
    };
    report.protection = protection(peer, &report, progress.fewest);
    Ok(report)
}

/// Returns on how many disks all is that was written here, and that in words.
fn protection(peer: &Peer, pending: &SyncReport, fewest_disks: Option<usize>) -> ProtectionReport {
    let node = peer.node();
    let members = node.roster().members().len();
    let possible = peer.replicas_wanted().min(REPLICAS);
    let pushed = |copies: &usize| node.unpushed_segments(*copies) == 0;
    let segments = (1..=possible).rev().find(pushed).unwrap_or(1);
    let chunks = fewest_disks.unwrap_or_else(|| peer.replica().wanted());
    let mut have = segments.min(chunks).min(possible);
    if pending.missing_chunks > 0 {
        have = 0;
    } else if pending.removed || pending.pending_segments > 0 && segments == possible {
        // Drafts, which nobody has been sent; or nobody takes what is sent.
        have = have.min(1);
    } else if !pending.is_done() && have == possible {
        // Not yet known.
        have = have.saturating_sub(1).max(1);
    }
    let copies = format!("{have} of {REPLICAS} copies");
    let sentence = if pending.missing_chunks > 0 {
        format!("{copies}: {} chunks are lost", pending.missing_chunks)
    } else if pending.removed {
        format!("{copies}: this peer was removed, and nobody takes what it writes")
    } else if members <= 1 {
        format!("{copies}: this is the only member (dfs invite)")
    } else if have < possible {
        let waits = match (&pending.refused[..], &pending.unreachable[..]) {
            ([], []) => String::new(),
            ([], names) => format!(", waiting for {}", names.join(", ")),
            (refused, _) => format!(", as {}", refused.join(", and ")),
        };
        format!("{copies}: the rest is on its way{waits}")
    } else if have < REPLICAS {
        format!("{copies}: there are only {members} members (dfs invite)")
    } else {
        format!("{copies}: all is replicated")
    };
    ProtectionReport {
        wanted: REPLICAS,
        have,
        sentence,
    }
}
