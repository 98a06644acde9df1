//! The facts behind the reports: read from the rooms below at the moment of asking.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::ending::Wishes;
use super::error::DaemonError;
use super::locate::components;
use super::peer::{Member, Peer};
use super::protection::sync;
use super::report::{PeerReport, StatusReport, TroubleReport};
use super::settings::Live;
use crate::base::{Ino, LogId, PeerId};
use crate::node::{Node, PeerInfo, PeerState, Role};
use crate::wire::Vector;

/// What only the daemon around a peer knows.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// The state folder.
    pub(super) state: PathBuf,
    /// Where the volume is mounted.
    pub(super) mountpoint: Option<PathBuf>,
    /// What it was started with and what was changed since.
    pub(super) settings: Live,
    /// Where clients leave their wish that it ends.
    pub(super) wishes: Wishes,
}

impl Surroundings {
    /// Returns whether the daemon is on its way out: it was told to end, or its mount is gone.
    pub(super) async fn is_ending(&self) -> bool {
        let mountpoint = self.mountpoint.as_deref();
        self.wishes.is_told().await || mountpoint.is_some_and(|path| !crate::fuse::is_mounted(path))
    }
}

pub(super) fn status(
    peer: &Arc<Peer>,
    surroundings: &Surroundings,
) -> Result<StatusReport, DaemonError> {
    peer.look_around();
    let node = peer.node();
    let usage = peer.replica().usage();
    let pending = sync(peer)?;
    let peers = node.peers();
    let troubles = peer.troubles().open();
    let untaken = if pending.removed {
        peer.untaken()
    } else {
        (0, 0)
    };
    let clock = peer.clock();
    let now_ms = clock.wall_ms();
    let last_contact = peers.iter().filter_map(|peer| peer.last_contact_ms).max();
    let member = peer.member_parts();
    let counts = member.map(|member| member.volume.counts());
    let kernel = member.map(|member| member.fs.counts());
    let held = peer.room().held();
    let segments = node.log().bytes();
    let queued = |peer_id: &PeerId| peer.replica().queued_bytes(peer_id);
    let sending = peers
        .iter()
        .filter(|to| to.state == PeerState::Connected && to.sent_rate > 0 && queued(&to.id) > 0);
    let rate_bytes_s = sending
        .clone()
        .map(|to| to.sent_rate)
        .reduce(|sum, rate| sum + rate);
    let left_s = sending
        .filter_map(|to| left_s(queued(&to.id), to.sent_rate))
        .max();
    let superfluous = member.map_or(0, |member| member.fs.superfluous_bytes());
    let order = peer.order();
    Ok(StatusReport {
        volume_id: node.volume().to_string(),
        peer_id: node.id().to_string(),
        name: node
            .roster()
            .member(&node.id())
            .map(|member| member.name.clone())
            .unwrap_or_default(),
        role: role_name(node.role()),
        mountpoint: surroundings
            .mountpoint
            .as_ref()
            .map(|path| path.display().to_string()),
        state: surroundings.state.display().to_string(),
        listen: node.local_addr().to_string(),
        members: node.roster().members().len(),
        connected: node.connected().len(),
        held_chunks: usage.held_count,
        held_bytes: usage.held_bytes,
        cached_chunks: usage.cached_count,
        cached_bytes: usage.cached_bytes,
        pending_chunks: pending.pending_chunks,
        pending_bytes: pending.pending_bytes,
        pending_segments: pending.pending_segments,
        rate_bytes_s,
        left_s,
        replicas_wanted: peer.replicas_wanted(),
        conflicts: counts.map_or(0, |counts| counts.conflicts),
        inodes: counts.map(|counts| counts.inodes),
        inodes_in_use: kernel.map(|kernel| kernel.inodes as u64),
        lookups: kernel.map(|kernel| kernel.nlookup),
        open_handles: kernel.map(|kernel| kernel.handles as u64),
        dirty_inodes: kernel.map(|kernel| kernel.dirty_inodes as u64),
        dirty_bytes: kernel.map(|kernel| kernel.dirty_bytes),
        last_contact_ms: last_contact.map(|then| now_ms.saturating_sub(then)),
        uptime_ms: millis(clock.monotonic().saturating_sub(peer.started())),
        pid: std::process::id(),
        warnings: troubles
            .iter()
            .map(|trouble| format!("{}: {}", trouble.what, trouble.advice))
            .chain(super::asking::warning(node))
            .chain(member.and_then(super::history::warning))
            .collect(),
        advice: super::members::second_admin(peer)
            .into_iter()
            .chain(peer.order_advice(&order))
            .collect(),
        disk_bytes: held.all,
        disk_rows_bytes: held.rows.saturating_sub(segments),
        disk_segments_bytes: segments,
        disk_chunks_bytes: held.chunks,
        held_for_later_bytes: segments.saturating_add(superfluous),
        capacity_bytes: node.capacity_bytes(),
        free_bytes: peer.room().free_bytes(),
        troubles: troubles
            .into_iter()
            .map(|trouble| TroubleReport {
                what: trouble.what,
                since_ms: trouble.since_ms,
                advice: trouble.advice,
            })
            .collect(),
        asking: super::asking::warning(node),
        protection: pending.protection,
        order,
        untaken_segments: untaken.0,
        untaken_bytes: untaken.1,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn role_name(role: Option<Role>) -> String {
    role.map_or_else(|| "removed".to_owned(), |role| role.to_string())
}

/// Returns what people call the members: by name, and where several have one by id, too.
pub(super) fn names(peer: &Peer) -> BTreeMap<PeerId, String> {
    let roster = peer.node().roster();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for member in roster.members() {
        *counts.entry(&member.name).or_default() += 1;
    }
    let called = |member: &crate::node::Member| match counts.get(member.name.as_str()) {
        Some(2..) => format!("{} ({})", member.name, member.id.short()),
        _ => member.name.clone(),
    };
    roster
        .members()
        .map(|member| (member.id, called(member)))
        .collect()
}

/// Most segments whose bytes are added up one by one; of more the rest is taken to be like them.
const SEGMENTS_READ_MAX: u64 = 64;

/// Returns the bytes of the newest `count` segments of this peer's logs.
pub(super) fn segment_bytes(node: &Node, count: u64) -> u64 {
    let read = count.min(SEGMENTS_READ_MAX);
    let size = |log, seg_no| match node.log().get(log, seg_no) {
        Ok(Some(segment)) => segment.body.len() as u64,
        Ok(None) | Err(_) => 0,
    };
    let (mut sum, mut left) = (0u64, read);
    for (log, last) in node.own_ends().into_iter().rev() {
        let first = last.saturating_sub(left);
        sum = (first..last).fold(sum, |sum, before| sum + size(log, before + 1));
        left -= last - first;
    }
    sum.saturating_mul(count).checked_div(read).unwrap_or(0)
}

/// Returns how long so many bytes take, `None` where there are none or no rate is known.
fn left_s(bytes: u64, rate: u64) -> Option<u64> {
    (bytes > 0).then(|| bytes.checked_div(rate)).flatten()
}

pub(super) fn peers(peer: &Arc<Peer>) -> Vec<PeerReport> {
    let now_ms = peer.clock().wall_ms();
    let ends = peer.node().own_ends();
    let replica = peer.replica();
    let report = |peer: PeerInfo| PeerReport {
        rate_bytes_s: Some(peer.sent_rate).filter(|rate| *rate > 0),
        left_s: left_s(replica.queued_bytes(&peer.id), peer.sent_rate),
        missing_segments: missing(&ends, &peer.vector),
        peer_id: peer.id.to_string(),
        name: peer.name,
        role: peer.role.to_string(),
        address: peer.addr.map(|addr| addr.to_string()),
        state: match peer.state {
            PeerState::Connected => "connected",
            PeerState::Suspect => "suspect",
            PeerState::Offline => "offline",
        }
        .to_owned(),
        rtt_ms: peer.rtt_ms.map(|ms| ms as f64),
        last_contact_ms: peer.last_contact_ms.map(|then| now_ms.saturating_sub(then)),
        capacity_bytes: Some(peer.capacity_bytes),
        free_bytes: Some(peer.free_bytes),
    };
    peer.node().peers().into_iter().map(report).collect()
}

/// Returns how many segments of some logs a peer lacks.
fn missing(ends: &[(LogId, u64)], has: &Vector) -> u64 {
    let lacks = |(log, last): &(LogId, u64)| {
        let has = has.get(log).copied().unwrap_or(0);
        last.saturating_sub(has)
    };
    ends.iter().map(lacks).sum()
}

/// Returns the path of an inode below the mountpoint, where it has one.
pub(super) fn path_of_inode(member: &Member, ino: Ino) -> Option<String> {
    let home = member.volume.inode(ino).ok()??.home?;
    let path = path_to(member, home.parent, &home.name)?;
    Some(String::from_utf8_lossy(&path).into_owned())
}

/// Deepest path that is walked up for a report.
const DEPTH_MAX: usize = 4096;

/// Returns the path of `name` in the directory `parent`, below the mountpoint.
pub(super) fn path_to(member: &Member, parent: Ino, name: &[u8]) -> Option<Vec<u8>> {
    let mut parts = vec![name.to_vec()];
    let mut at = parent;
    while at != Ino::ROOT {
        let home = member.volume.inode(at).ok()??.home?;
        parts.push(home.name.to_vec());
        at = home.parent;
        if parts.len() > DEPTH_MAX {
            return None;
        }
    }
    parts.reverse();
    Some(parts.join(&b'/'))
}

/// Returns the inode at a path below the mountpoint; symlinks are not followed.
pub(super) fn find(member: &Member, hex: &str) -> Result<Ino, DaemonError> {
    let parts = components(hex).ok_or_else(|| DaemonError::BadRequest {
        what: "the path is not in hex".to_owned(),
    })?;
    let mut at = Ino::ROOT;
    for part in parts {
        at = member
            .volume
            .dirent(at, &part)?
            .ok_or(DaemonError::NoSuchFile)?
            .ino;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_where_there_is_something_and_a_rate() {
        assert_eq!(left_s(640_000, 64_000), Some(10));
        assert_eq!(left_s(0, 64_000), None);
        assert_eq!(left_s(640_000, 0), None);
    }
}
