//! The facts that a running peer tells: what the control socket carries and `--json` prints.
//!
//! Field names are a contract (design.md, section 7): scripts read them. Fields may be added,
//! never renamed or removed.

use serde::{Deserialize, Serialize};

use super::config::Fsync;
use crate::node::Schedule;

/// What one peer knows of its volume and of itself (`dfs status`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusReport {
    /// The volume, 64 hex digits.
    pub volume_id: String,
    /// This peer, 64 hex digits.
    pub peer_id: String,
    /// This peer's name.
    pub name: String,
    /// `admin`, `writer`, `reader` or `storage`.
    pub role: String,
    /// Where the volume is mounted; absent for a storage peer.
    pub mountpoint: Option<String>,
    /// The state folder.
    pub state: String,
    /// The UDP address that this peer listens on.
    pub listen: String,
    /// Peers on the roster, this one included.
    pub members: usize,
    /// Peers with a session now.
    pub connected: usize,
    /// Chunks that this peer must hold, and their sealed bytes.
    pub held_chunks: u64,
    /// Sealed bytes of the chunks that this peer must hold.
    pub held_bytes: u64,
    /// Chunks kept beyond that.
    pub cached_chunks: u64,
    /// Sealed bytes of the chunks kept beyond that.
    pub cached_bytes: u64,
    /// Chunks not yet at as many holders as wanted.
    pub pending_chunks: u64,
    /// Sealed bytes not yet at as many holders as wanted: chunks and this peer's log.
    pub pending_bytes: u64,
    /// Segments of this peer's log that too few peers have.
    pub pending_segments: u64,
    /// Bytes a second that go to the connected peers for which something waits; absent where none
    /// does.
    pub rate_bytes_s: Option<u64>,
    /// Seconds until the slowest of them has what waits for it, at its rate.
    pub left_s: Option<u64>,
    /// Copies wanted of each chunk with today's roster.
    pub replicas_wanted: usize,
    /// Conflicts that wait for a decision.
    pub conflicts: u64,
    /// Files, folders and links in the volume, where this peer can read them.
    pub inodes: Option<u64>,
    /// Inodes that the kernel holds a reference to now.
    pub inodes_in_use: Option<u64>,
    /// Lookups of them that the kernel has not given back.
    pub lookups: Option<u64>,
    /// Files and folders that are open now.
    pub open_handles: Option<u64>,
    /// Files with changes that are not yet in the journal.
    pub dirty_inodes: Option<u64>,
    /// Bytes of those changes.
    pub dirty_bytes: Option<u64>,
    /// Milliseconds since the last word from any peer; absent where there was none.
    pub last_contact_ms: Option<u64>,
    /// Milliseconds since this daemon was started.
    pub uptime_ms: u64,
    /// The daemon's process id.
    pub pid: u32,
    /// What went wrong and still matters, in words; empty where all is well.
    pub warnings: Vec<String>,
    /// What would be wise to do, although nothing went wrong.
    pub advice: Vec<String>,
    /// What the state folder takes on its disk, in bytes: rows, segments, chunks, and what this peer
    /// works with: the row log, what is kept back for removing files, the activity log.
    pub disk_bytes: u64,
    /// Of that, the rows of the database that are not segments.
    pub disk_rows_bytes: u64,
    /// Of that, the segments of all logs.
    pub disk_segments_bytes: u64,
    /// Of that, the chunk files.
    pub disk_chunks_bytes: u64,
    /// Of that, what no file here needs now: segments, which are kept for members to come, and
    /// chunks that the next collection gives up.
    pub held_for_later_bytes: u64,
    /// What this peer gives at most, in bytes of rows, segments and chunks.
    pub capacity_bytes: u64,
    /// What still fits here, by the capacity and by the disk.
    pub free_bytes: u64,
    /// The same with the time.
    pub troubles: Vec<TroubleReport>,
    /// Who asks to be admitted, where this peer's user may decide.
    #[serde(default)]
    pub asking: Option<String>,
    /// On how many disks all is that was written here.
    pub protection: ProtectionReport,
    /// How far the order of the changes is fixed.
    #[serde(default)]
    pub order: OrderReport,
    /// Log segments that no other peer has, where this one was removed.
    pub untaken_segments: u64,
    /// Their bytes.
    pub untaken_bytes: u64,
    /// The release.
    pub version: String,
}

/// What stopped and has not gone on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TroubleReport {
    /// What happened.
    pub what: String,
    /// When, milliseconds since 1970.
    pub since_ms: u64,
    /// What to do.
    pub advice: String,
}

/// What a worker of the daemon does in the background.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerReport {
    /// What it is called.
    pub name: String,
    /// The peer that it works for, by its name; absent for one that works for all.
    pub peer: Option<String>,
    /// What it is there for.
    pub does: String,
    /// `works`, `waits`, `pauses` (after a failure) or `panicked` (it has ended).
    pub state: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// What it waits for; absent where it does not wait.
    pub waits_for: Option<String>,
    /// When it has done a step last, milliseconds since 1970; absent where it has done none.
    pub last_ms: Option<u64>,
    /// How many steps it has done.
    pub steps: u64,
    /// What it fails with, or what the panic said; absent where the last step was done.
    pub error: Option<String>,
    /// When it failed first, milliseconds since 1970.
    pub failing_since_ms: Option<u64>,
    /// How often it has failed since.
    pub failures: u64,
    /// When it tries again, milliseconds since 1970; absent where it is not in a pause.
    pub next_try_ms: Option<u64>,
}

/// How far the order of the changes is fixed by records of the commit chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderReport {
    /// How often an admin began the chain anew, as too few of those who decided were left.
    pub era: u64,
    /// The number of the newest record.
    pub record: u64,
    /// When it was made, milliseconds since 1970; 0 where there is none yet.
    pub record_ms: u64,
    /// Log segments that no record names yet.
    pub waiting_segments: u64,
    /// Who decides the next one.
    pub decided_by: Vec<String>,
    /// Who of them does not answer now.
    pub missed: Vec<String>,
    /// Whose chain is another one.
    pub parted: Vec<String>,
}

/// On how many disks all is that was written here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectionReport {
    /// How many there should be, however few members there are.
    pub wanted: usize,
    /// How many there are at least.
    pub have: usize,
    /// That in words, with what is missing.
    pub sentence: String,
}

/// What is true of one file now (`dfs status FILE`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileReport {
    /// The path as it was asked for.
    pub path: String,
    /// Inode number.
    pub ino: u64,
    /// `file`, `directory`, `symlink` or `special`.
    pub kind: String,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that lie in rows and travel with the log.
    pub inline_bytes: u64,
    /// Bytes written but not yet handed to the journal.
    pub dirty_bytes: u64,
    /// Bytes that are not yet at as many holders as wanted.
    pub pending_bytes: u64,
    /// Whether every byte can be read with no network.
    pub local: bool,
    /// The fewest copies that the last change or any chunk is known to have; absent where that
    /// cannot be known now.
    pub replicas_min: Option<usize>,
    /// Copies wanted.
    pub replicas_wanted: usize,
    /// Names of the peers known to have the last change of the content, this one included.
    pub log_holders: Vec<String>,
    /// Why more of the file may be to come, in words; absent where nothing says so.
    pub incomplete: Option<String>,
    /// Bytes of it that are not on this machine.
    #[serde(default)]
    pub away_bytes: u64,
    /// Names of the peers known to hold some of them; of those without a session marked so.
    #[serde(default)]
    pub away_on: Vec<String>,
    /// Of these bytes those that no peer has which could be asked: they cannot be read now.
    #[serde(default)]
    pub unreadable_bytes: u64,
    /// The device that wrote it last.
    #[serde(default)]
    pub writer: String,
    /// When, milliseconds since 1970.
    #[serde(default)]
    pub written_ms: u64,
    /// The chunks in the order of the file.
    pub chunks: Vec<ChunkReport>,
}

/// Where one chunk lies.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChunkReport {
    /// The chunk, 64 hex digits.
    pub id: String,
    /// Where its first byte stands in the file.
    pub offset: u64,
    /// How many bytes of the file it carries.
    pub len: u64,
    /// Whether it is on this machine.
    pub local: bool,
    /// Names of the peers known to hold it, this one included; a copy here that may be dropped at
    /// any time is marked as a cache.
    pub holders: Vec<String>,
    /// Copies known, without a cached one; absent where none is and holders could not be asked.
    pub replicas: Option<usize>,
    /// Names of the peers that should hold it and could not be asked.
    pub unknown: Vec<String>,
}

/// What is true of all below a folder now (`dfs status DIR`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FolderReport {
    /// The path as it was asked for.
    pub path: String,
    /// Inode number.
    pub ino: u64,
    /// `directory`.
    pub kind: String,
    /// Files, links and the like.
    pub files: u64,
    /// Folders below it.
    pub folders: u64,
    /// Their sizes.
    pub bytes: u64,
    /// Bytes that can be read with no network.
    pub here_bytes: u64,
    /// Bytes that are on other peers alone.
    pub away_bytes: u64,
    /// Bytes known to be on fewer peers than wanted.
    pub at_risk_bytes: u64,
    /// Files with such bytes, or with a last change that too few peers have.
    pub at_risk_files: u64,
    /// Bytes of which holders could not be asked.
    pub unknown_bytes: u64,
    /// Bytes written but not yet handed to the journal.
    pub dirty_bytes: u64,
    /// Copies wanted.
    pub replicas_wanted: usize,
    /// Whether everything was counted.
    pub complete: bool,
}

/// One other peer (`dfs peers`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerReport {
    /// The peer, 64 hex digits.
    pub peer_id: String,
    /// Its name.
    pub name: String,
    /// `admin`, `writer`, `reader` or `storage`.
    pub role: String,
    /// Its address, where one is known.
    pub address: Option<String>,
    /// `connected`, `suspect` or `offline`.
    pub state: String,
    /// Round trip in milliseconds while connected.
    pub rtt_ms: Option<f64>,
    /// Bytes a second that chunks and segments went to it lately; absent before any did.
    pub rate_bytes_s: Option<u64>,
    /// Seconds until it has what waits for it, at that rate; absent where nothing waits or no rate is
    /// known.
    pub left_s: Option<u64>,
    /// Milliseconds since its last word; absent where there was none.
    pub last_contact_ms: Option<u64>,
    /// Segments of this peer's log that it has not confirmed to have.
    pub missing_segments: u64,
    /// Disk space that it offers.
    pub capacity_bytes: Option<u64>,
    /// Disk space that it has left of that.
    pub free_bytes: Option<u64>,
}

/// One peer of the roster (`dfs members`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberReport {
    /// The peer, 64 hex digits.
    pub peer_id: String,
    /// Its name.
    pub name: String,
    /// `admin`, `writer`, `reader` or `storage`.
    pub role: String,
    /// Whether this is the peer that answers.
    pub this: bool,
    /// `this`, `connected`, `suspect` or `offline`.
    pub state: String,
    /// Milliseconds since its last word; absent where there was none.
    pub last_contact_ms: Option<u64>,
    /// When it was admitted, milliseconds since 1970.
    pub admitted_ms: u64,
    /// What it might do before this request changed it; else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_before: Option<String>,
}

/// One invite (`dfs invite --list`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InviteEntry {
    /// Names the invite, 64 hex digits.
    pub id: String,
    /// What the new peer may do.
    pub role: String,
    /// The admin that made it: its name and the first digits of its id.
    pub issued_by: String,
    /// When it was made, milliseconds since 1970.
    pub issued_ms: u64,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
    /// `open`, `used`, `expired` or `revoked`.
    pub state: String,
    /// Whom it admitted: its name and the first digits of its id.
    pub used_by: Option<String>,
}

/// A new recovery phrase (`dfs recovery`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecoveryReport {
    /// The words.
    pub phrase: String,
    /// How many phrases it takes the place of.
    pub replaced: usize,
    /// Addresses of this peer, of which one may be passed to `--peer`.
    pub addresses: Vec<String>,
}

/// A recovery phrase that holds (`dfs recovery --list`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecoveryEntry {
    /// As whom it acts, 64 hex digits.
    pub id: String,
    /// The admin that made it: its name and the first digits of its id.
    pub made_by: String,
    /// When, milliseconds since 1970.
    pub made_ms: u64,
}

/// One conflict (`dfs conflicts`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConflictReport {
    /// Names the conflict.
    pub id: String,
    /// What met, in words.
    pub kind: String,
    /// The path of what kept the name, where that is now; absent where it is gone.
    pub path: Option<String>,
    /// The path of what stands aside; absent where nothing does.
    pub copy: Option<String>,
    /// What kept the name, where it is there.
    pub kept: Option<SideReport>,
    /// What stands aside, where something does.
    pub aside: Option<SideReport>,
    /// Where nothing does, who did what.
    #[serde(default)]
    pub acts: Vec<ActReport>,
    /// The device whose change moved aside.
    pub device: String,
    /// The first 16 digits of that peer's id.
    pub device_id: String,
    /// When it was written, milliseconds since 1970.
    pub time_ms: u64,
}

/// What a path was before (`dfs history`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HistoryReport {
    /// The path below the mountpoint.
    pub path: String,
    /// The contents that a file has or had, newest first.
    pub versions: Vec<VersionReport>,
    /// What was removed from a folder and from those below it, newest first.
    pub removed: Vec<RemovedReport>,
}

/// One content of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VersionReport {
    /// When it was written, milliseconds since 1970.
    pub time_ms: u64,
    /// The name of the device that wrote it.
    pub device: String,
    /// The first 16 digits of that peer's id.
    pub device_id: String,
    /// Bytes.
    pub size: u64,
    /// `there` for what is there now, `replaced`, or `removed` for what was there when the file was removed.
    pub state: String,
    /// When it was replaced or removed, milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// The name of the device that did.
    pub until_device: Option<String>,
}

/// Something that was removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemovedReport {
    /// The path below the mountpoint.
    pub path: String,
    /// The same in hex.
    pub path_hex: String,
    /// Whether it was a folder; what was removed from that before is in the list by itself.
    pub is_folder: bool,
    /// When it was removed, milliseconds since 1970.
    pub time_ms: u64,
    /// The name of the device that removed it.
    pub device: String,
    /// The first 16 digits of that peer's id.
    pub device_id: String,
    /// Bytes of a file.
    pub size: u64,
}

/// What a restore brought back (`dfs restore`).
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct RestoreReport {
    /// Files and what else is no folder.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Names that something has by now; what was removed there is not back.
    pub taken: u64,
    /// The time of the content of a file that is back, milliseconds since 1970.
    pub time_ms: Option<u64>,
}

/// What was done to make a tree what it was (`dfs restore --to`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RestoreToReport {
    /// The name of the snapshot.
    pub snapshot: String,
    /// Of which moment it is, milliseconds since 1970.
    pub time_ms: u64,
    /// The name of the snapshot of what was there before; absent where nothing was done yet.
    pub before: Option<String>,
    /// Names that are there again.
    pub back: u64,
    /// Files and folders that were there, and are now what they were.
    pub changed: u64,
    /// Names that were not there then, and are no more.
    pub removed: u64,
    /// Bytes of the files that were made or written.
    pub bytes: u64,
}

/// What somebody did that crossed something else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActReport {
    /// What, in words: `removed`, `moved to /there`.
    pub did: String,
    /// The name of the device.
    pub device: String,
    /// The first 16 digits of that peer's id.
    pub device_id: String,
    /// When, milliseconds since 1970; absent where that is not known any more.
    pub time_ms: Option<u64>,
}

/// One of two things that met.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SideReport {
    /// Where it is now, from the root of the machine's tree; below the volume's root where that is not
    /// mounted.
    pub path: String,
    /// The bytes of that path, hex: it need not be text.
    pub path_hex: String,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// The name of the device that wrote it.
    pub device: String,
    /// The first 16 digits of that peer's id.
    pub device_id: String,
    /// Whether that is the peer that is asked.
    pub is_mine: bool,
    /// When it was written, milliseconds since 1970.
    pub time_ms: u64,
}

/// A token (`dfs invite`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InviteReport {
    /// Names the invite, 64 hex digits.
    pub id: String,
    /// What the new peer passes to `--invite`.
    pub token: String,
    /// What the new peer may do.
    pub role: String,
    /// When the token ends, milliseconds since 1970.
    pub expires_ms: u64,
    /// Addresses to pass to `--peer`.
    pub addresses: Vec<String>,
}

/// How far replication is (`dfs sync`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    /// Chunks not yet at as many holders as wanted.
    pub pending_chunks: u64,
    /// Sealed bytes not yet at as many holders as wanted.
    pub pending_bytes: u64,
    /// Segments of this peer's log that too few peers have.
    pub pending_segments: u64,
    /// Names of the peers that are waited for and cannot be reached.
    pub unreachable: Vec<String>,
    /// Chunks that this peer has to hold or to send, and has lost.
    pub missing_chunks: u64,
    /// Files that name lost chunks, a few of them.
    pub missing_files: Vec<String>,
    /// Which peers refuse this one or its changes, and why.
    pub refused: Vec<String>,
    /// This peer was removed from the volume.
    pub removed: bool,
    /// On how many disks all is that was written here.
    pub protection: ProtectionReport,
}

impl SyncReport {
    /// Returns whether nothing is pending.
    pub fn is_done(&self) -> bool {
        self.pending_chunks == 0
            && self.pending_bytes == 0
            && self.pending_segments == 0
            && self.missing_chunks == 0
    }
}

/// The settings of a peer (`dfs config`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfigReport {
    /// The UDP address that it was told to listen on; absent where it chooses.
    pub listen: Option<String>,
    /// The UDP address that it listens on.
    pub listening: String,
    /// Whether `listen` holds from the next start on only.
    pub listens_later: bool,
    /// Its name for the other members.
    pub name: String,
    /// Disk space that it offers to the volume.
    pub capacity_bytes: u64,
    /// Disk space for chunks beyond what it must hold.
    pub cache_bytes: u64,
    /// What fsync waits for: `local` or `replicated`.
    pub fsync: Fsync,
    /// Memory that its caches of rows and contents take at most from the next start on.
    pub memory_bytes: u64,
    /// How long the volume keeps what was replaced or removed, milliseconds.
    pub history_ms: u64,
    /// How many snapshots the volume makes by itself and keeps.
    #[serde(default)]
    pub snapshots: Schedule,
}

/// The snapshots that are kept (`dfs snapshot list`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SnapshotsReport {
    /// Oldest first.
    pub snapshots: Vec<SnapshotReport>,
    /// Names of those that were asked for here and are not made yet.
    pub asked: Vec<String>,
}

/// A snapshot.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// Its name.
    pub name: String,
    /// Of which moment it is, milliseconds since 1970.
    pub time_ms: u64,
    /// Name of the device that made it.
    pub device: String,
    /// Files, folders and other nodes in it; 0 where it is being made.
    pub nodes: u64,
    /// Bytes of the contents of its files; 0 where it is being made.
    pub bytes: u64,
    /// Whether its moment is not chosen yet, as something else is being done.
    pub waits: bool,
}

/// What `dfs gc` did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectReport {
    /// Chunks that were given up here.
    pub freed_chunks: u64,
    /// Their sealed bytes.
    pub freed_bytes: u64,
    /// Sealed bytes of chunks here that nothing names and that go later.
    pub waiting_bytes: u64,
    /// When the first of them goes, milliseconds since 1970; absent where that is not known.
    pub next_ms: Option<u64>,
    /// Sealed bytes of chunks here that only what members may look back to names.
    pub past_bytes: u64,
    /// Sealed bytes of chunks here that only what can be had back names (`dfs history`), and snapshots.
    #[serde(default)]
    pub kept_bytes: u64,
}

/// What a machine that asks to be admitted shows to whoever started it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AskReport {
    /// What an admin passes to `dfs approve`.
    pub code: String,
    /// Four words that stand on the admin's screen, too.
    pub words: String,
    /// The peer that is asked.
    pub address: String,
    /// The name under which this machine asks.
    pub name: String,
    /// Whether it would only store, without a mount.
    pub stores: bool,
}

/// A machine that asks to be admitted (`dfs approve`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AskingReport {
    /// What `dfs approve` takes.
    pub code: String,
    /// Four words that stand on its screen, too.
    pub words: String,
    /// The name that it gives itself.
    pub name: String,
    /// Where it was seen.
    pub address: String,
    /// Milliseconds since it began to ask, by its own clock.
    pub since_ms: u64,
    /// The machine, 64 hex digits.
    pub peer_id: String,
    /// Name of the member that told of it; this peer's own where it asks here.
    pub told_by: String,
}

/// A machine that was admitted (`dfs approve CODE`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdmittedReport {
    /// The new member, 64 hex digits.
    pub peer_id: String,
    /// Its name.
    pub name: String,
    /// `admin`, `writer`, `reader` or `storage`.
    pub role: String,
    /// Four words that stand on its screen, too.
    pub words: String,
}
