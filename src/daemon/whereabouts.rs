//! Where the bytes of one file, or of all files below a folder, are.
//!
//! What the books of this peer do not know is asked of the others, who answer within a few seconds
//! or count as unknown. A number of copies that is told is never more than was confirmed, and never
//! fewer than is known.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::error::DaemonError;
use super::facts::{find, names};
use super::peer::{Member, Peer};
use super::report::{ChunkReport, FileReport, FolderReport};
use crate::base::{ChunkId, DeviceId, Ino, LogId, OpId, PeerId, Stamp};
use crate::node::{Node, PeerInfo, PeerState};
use crate::replica::Whereabouts;
use crate::volume::{DirKey, FileKind, Inode, Source};

/// How long the others are asked for the chunks of a file, or of a slice of a folder.
const ASK_MAX: Duration = Duration::from_secs(3);

/// Chunks of one file that the others are asked for: 64 GiB. Of more, the books alone tell.
const ASKED_MAX: usize = 64 << 10;

/// Entries that are looked at in one job, and chunks that are asked for at once.
const SLICE_ENTRIES: usize = 1_000;
const SLICE_CHUNKS: usize = 8 << 10;

/// Entries of a folder that are counted; beyond them the sums say that they are not all.
const ENTRIES_MAX: u64 = 2_000_000;

/// A writer that was heard of no longer after a change may have had more to say of it.
const JUST_WRITTEN_MS: u64 = 60_000;

/// What a path names.
pub(super) enum Found {
    File(FileReport),
    Folder(Folder),
}

/// Looks a path below the mountpoint up.
pub(super) async fn look_up(peer: &Arc<Peer>, path: &str) -> Result<Found, DaemonError> {
    let member = peer.member_parts().ok_or(DaemonError::NoFiles)?;
    let ino = find(member, path)?;
    let inode = member.volume.inode(ino)?.ok_or(DaemonError::NoSuchFile)?;
    if inode.is_dir() {
        return Ok(Found::Folder(Folder::new(peer, ino)));
    }
    file(peer, member, ino, inode).await.map(Found::File)
}

async fn file(
    peer: &Arc<Peer>,
    member: &Member,
    ino: Ino,
    inode: Inode,
) -> Result<FileReport, DaemonError> {
    let (volume, asked) = (Arc::clone(&member.volume), peer.asking_pool());
    let extents = asked.call(move || volume.extents(ino, 0..u64::MAX)).await;
    let extents = extents.ok_or(DaemonError::WorkerFailed)??;
    let mut ids: Vec<ChunkId> = Vec::new();
    for extent in &extents {
        if let Source::Chunk { id, .. } = extent.src {
            ids.push(id);
        }
    }
    let mut seen = HashSet::new();
    ids.retain(|id| seen.insert(*id));
    let (asked, rest) = ids.split_at(ids.len().min(ASKED_MAX));
    let mut known = peer.replica().survey(asked, ASK_MAX).await?;
    known.extend(peer.replica().survey(rest, Duration::ZERO).await?);

    let names = names(peer);
    let name = |id: &PeerId| names.get(id).cloned().unwrap_or_else(|| id.short());
    let all = |ids: &[PeerId]| ids.iter().map(name).collect::<Vec<_>>();
    let log = log_holders(peer.node(), inode.written_by);
    let wanted = peer.replicas_wanted();
    let mut report = FileReport {
        path: String::new(),
        ino: ino.0,
        kind: kind_word(inode.kind).to_owned(),
        size: member.fs.getattr(ino)?.attr.size,
        inline_bytes: 0,
        dirty_bytes: member.fs.unwritten_bytes(ino),
        pending_bytes: 0,
        local: true,
        replicas_min: Some(log.len()),
        replicas_wanted: wanted,
        log_holders: all(&log),
        incomplete: None,
        away_bytes: 0,
        away_on: Vec::new(),
        unreadable_bytes: 0,
        writer: writer(peer, inode.written_by),
        written_ms: inode.written_by.stamp.ms(),
        chunks: Vec::new(),
    };
    let connected: BTreeSet<PeerId> = peer.node().connected().into_iter().collect();
    let mut away_on = BTreeSet::new();
    let mut counted = HashSet::new();
    let mut nowhere = 0;
    for extent in extents {
        let id = match extent.src {
            Source::Inline(bytes) => {
                report.inline_bytes += bytes.len() as u64;
                continue;
            }
            Source::Chunk { id, .. } => id,
        };
        let place = known.get(&id).cloned().unwrap_or_default();
        let replicas = copies(&place);
        report.local &= place.local;
        report.replicas_min = report.replicas_min.zip(replicas).map(|(a, b)| a.min(b));
        if counted.insert(id) {
            report.pending_bytes += if place.pending { place.len } else { 0 };
            nowhere += u64::from(replicas == Some(0) && !place.local);
        }
        if !place.local {
            report.away_bytes += extent.len;
            away_on.extend(place.holders.iter().copied());
            if !place
                .holders
                .iter()
                .any(|holder| connected.contains(holder))
            {
                report.unreadable_bytes += extent.len;
            }
        }
        let mut holders = all(&place.holders);
        if place.local && !place.holders.contains(&peer.node().id()) {
            holders.push(format!("{} (cache)", name(&peer.node().id())));
        }
        report.chunks.push(ChunkReport {
            id: id.to_string(),
            offset: extent.offset,
            len: extent.len,
            local: place.local,
            holders,
            replicas,
            unknown: all(&place.unknown),
        });
    }
    if log.len() < wanted {
        report.pending_bytes += report.inline_bytes;
    }
    let state = |id: &PeerId| {
        if connected.contains(id) {
            ""
        } else {
            " (away)"
        }
    };
    let away_on = away_on
        .iter()
        .map(|id| format!("{}{}", name(id), state(id)));
    report.away_on = away_on.collect();
    report.incomplete = incomplete(peer, &inode, nowhere);
    Ok(report)
}

/// Returns the name of the device that issued an op.
fn writer(peer: &Peer, op: OpId) -> String {
    let device = peer.node().log().author(op.log);
    device.map_or_else(String::new, |device| peer.device_name(device))
}

/// Returns how many copies there are; `None` where that is not known.
fn copies(place: &Whereabouts) -> Option<usize> {
    let is_known = !place.holders.is_empty() || place.unknown.is_empty();
    is_known.then_some(place.holders.len())
}

fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Dir => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo | FileKind::Socket | FileKind::CharDev | FileKind::BlockDev => "special",
    }
}

/// Returns why more of a file may be to come, where that can be known.
fn incomplete(peer: &Peer, inode: &Inode, nowhere: u64) -> Option<String> {
    if nowhere > 0 {
        return Some(format!("no peer has {nowhere} of its chunks"));
    }
    let node = peer.node();
    let log = inode.written_by.log;
    let device = node.log().author(log)?;
    let have = node.log().head(log).map_or(0, |head| head.seg_no);
    let peers = node.peers();
    let told = |info: &PeerInfo| info.vector.get(&log).copied();
    let last = peers.iter().filter_map(told).max().unwrap_or(0);
    let name = peer.device_name(device);
    if last > have {
        let more = last - have;
        return Some(format!(
            "{more} log segments of its writer, {name}, have not arrived yet"
        ));
    }
    let writer = peers
        .iter()
        .find(|info| DeviceId::from(info.id) == device)?;
    let last_ms = writer.last_contact_ms.unwrap_or(0);
    let is_away = writer.state != PeerState::Connected;
    let is_new = inode.written_by.stamp.ms().saturating_add(JUST_WRITTEN_MS) > last_ms;
    (is_away && is_new).then(|| {
        let away_s = peer.clock().wall_ms().saturating_sub(last_ms) / 1_000;
        format!("its writer, {name}, has been away for {away_s} s and may have more of it")
    })
}

/// Returns the peers that are known to have an op durably: in a segment of its author's log.
fn log_holders(node: &Node, op: OpId) -> Vec<PeerId> {
    // What was done here is on this disk, whether it is in the log yet or not.
    let me = Some(node.id()).filter(|id| node.log().author(op.log) == Some(DeviceId::from(*id)));
    let Ok(Some((log, seg_no))) = node.log().find(op) else {
        return me.into_iter().collect();
    };
    let has = |vector: &BTreeMap<LogId, u64>| vector.get(&log) >= Some(&seg_no);
    let others = node.peers().into_iter().filter(|info| has(&info.vector));
    let mut holders: BTreeSet<PeerId> = others.map(|info| info.id).chain(me).collect();
    if has(&node.log().offered()) {
        holders.insert(node.id());
    }
    holders.into_iter().collect()
}

/// The sums of a folder, added up in slices.
pub(super) struct Folder {
    peer: Arc<Peer>,
    report: FolderReport,
    /// Folders that are still to be read, and behind which entry.
    open: Vec<(Ino, Option<DirKey>)>,
    /// Chunks counted already: files may share them.
    counted: HashSet<ChunkId>,
    /// Up to which stamp enough peers have a log.
    safe: BTreeMap<LogId, Stamp>,
    wanted: usize,
}

/// What one slice found.
#[derive(Default)]
struct Slice {
    /// For each file, whether its ops are on enough peers, and its chunks with their bytes.
    files: Vec<(bool, Vec<(ChunkId, u64)>)>,
}

impl Folder {
    fn new(peer: &Arc<Peer>, ino: Ino) -> Self {
        Self {
            peer: Arc::clone(peer),
            report: FolderReport {
                ino: ino.0,
                kind: "directory".to_owned(),
                replicas_wanted: peer.replicas_wanted(),
                complete: true,
                ..FolderReport::default()
            },
            open: vec![(ino, None)],
            counted: HashSet::new(),
            safe: BTreeMap::new(),
            wanted: peer.replicas_wanted(),
        }
    }

    /// Returns the sums so far.
    pub(super) fn report(&self) -> &FolderReport {
        &self.report
    }

    /// Adds a slice; returns false when there is no more.
    pub(super) async fn go_on(&mut self) -> Result<bool, DaemonError> {
        if self.open.is_empty() {
            return Ok(false);
        }
        if self.report.files + self.report.folders >= ENTRIES_MAX {
            self.report.complete = false;
            return Ok(false);
        }
        let member = self.peer.member_parts().ok_or(DaemonError::NoFiles)?;
        let member = member.clone();
        let node = Arc::clone(self.peer.node());
        let mut walk = Walk {
            open: std::mem::take(&mut self.open),
            safe: std::mem::take(&mut self.safe),
            report: std::mem::take(&mut self.report),
            wanted: self.wanted,
            slice: Slice::default(),
        };
        let pool = self.peer.asking_pool();
        let walked = pool
            .call(move || walk.read(&member, &node).map(|()| walk))
            .await;
        let walk = walked.ok_or(DaemonError::WorkerFailed)??;
        (self.open, self.safe, self.report) = (walk.open, walk.safe, walk.report);
        self.add(walk.slice).await?;
        Ok(true)
    }

    /// Adds the chunks of a slice, once it is known where they are.
    async fn add(&mut self, slice: Slice) -> Result<(), DaemonError> {
        let mut ids: Vec<ChunkId> = Vec::new();
        for (_, chunks) in &slice.files {
            ids.extend(chunks.iter().map(|(id, _)| *id));
        }
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(*id));
        let mut known = BTreeMap::new();
        for batch in ids.chunks(SLICE_CHUNKS) {
            known.extend(self.peer.replica().survey(batch, ASK_MAX).await?);
        }
        for (is_safe, chunks) in slice.files {
            let mut at_risk = !is_safe;
            for (id, len) in chunks {
                let place = known.get(&id).cloned().unwrap_or_default();
                let is_short = copies(&place).is_some_and(|copies| copies < place.wanted);
                let may_be_short = place.holders.len() + place.unknown.len() >= place.wanted;
                let is_unknown = !place.unknown.is_empty() && may_be_short;
                at_risk |= is_short && !is_unknown;
                if !self.counted.insert(id) {
                    continue;
                }
                if place.local {
                    self.report.here_bytes += len;
                } else {
                    self.report.away_bytes += len;
                }
                if is_unknown {
                    self.report.unknown_bytes += len;
                } else if is_short {
                    self.report.at_risk_bytes += len;
                }
            }
            self.report.at_risk_files += u64::from(at_risk);
        }
        Ok(())
    }
}

/// The part of a walk that reads rows.
struct Walk {
    open: Vec<(Ino, Option<DirKey>)>,
    safe: BTreeMap<LogId, Stamp>,
    report: FolderReport,
    wanted: usize,
    slice: Slice,
}

impl Walk {
    fn read(&mut self, member: &Member, node: &Node) -> Result<(), DaemonError> {
        let (mut left, mut chunks) = (SLICE_ENTRIES, 0);
        while left > 0 && chunks < SLICE_CHUNKS {
            let Some((folder, after)) = self.open.pop() else {
                return Ok(());
            };
            let mut entries = Vec::new();
            member.volume.readdir(folder, after, &mut |key, entry| {
                entries.push((key, entry.ino, entry.kind));
                entries.len() < left
            })?;
            if let (true, Some((key, ..))) = (entries.len() >= left, entries.last()) {
                self.open.push((folder, Some(*key)));
            }
            left = left.saturating_sub(entries.len());
            for (_, ino, kind) in entries {
                if kind == FileKind::Dir {
                    self.report.folders += 1;
                    self.open.push((ino, None));
                } else {
                    chunks += self.file(member, node, ino)?;
                }
            }
        }
        Ok(())
    }

    /// Counts a file; returns how many chunks it has.
    fn file(&mut self, member: &Member, node: &Node, ino: Ino) -> Result<usize, DaemonError> {
        let Some(inode) = member.volume.inode(ino)? else {
            return Ok(0);
        };
        self.report.files += 1;
        self.report.bytes += inode.size;
        let op = inode.written_by;
        let wanted = self.wanted;
        let safe = self.safe.entry(op.log);
        let safe = *safe.or_insert_with(|| safe_stamp(node, op.log, wanted));
        let mut chunks = Vec::new();
        let mut inline = 0;
        for extent in member.volume.extents(ino, 0..u64::MAX)? {
            match extent.src {
                Source::Inline(bytes) => inline += bytes.len() as u64,
                Source::Chunk { id, .. } => chunks.push((id, extent.len)),
            }
        }
        self.report.here_bytes += inline;
        let is_safe = op.stamp <= safe || log_holders(node, op).len() >= wanted;
        if !is_safe {
            self.report.at_risk_bytes += inline;
        }
        self.report.dirty_bytes += member.fs.unwritten_bytes(ino);
        let count = chunks.len();
        self.slice.files.push((is_safe, chunks));
        Ok(count)
    }
}

/// Returns the stamp of the last op of a log that as many peers as wanted have durably.
fn safe_stamp(node: &Node, log: LogId, wanted: usize) -> Stamp {
    let here = node.log().offered().get(&log).copied().unwrap_or(0);
    let told = |info: PeerInfo| info.vector.get(&log).copied().unwrap_or(0);
    let mut have: Vec<u64> = node.peers().into_iter().map(told).collect();
    have.push(here);
    have.sort_unstable_by(|a, b| b.cmp(a));
    let nth = have.get(wanted.saturating_sub(1)).copied().unwrap_or(0);
    match node.log().end_at(log, nth.min(here)) {
        Ok(Some((_, last))) => last,
        Ok(None) | Err(_) => Stamp::default(),
    }
}
