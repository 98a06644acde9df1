//! What can go wrong in the room.

use crate::base::{ChunkId, DeviceId, Ino, LogId};
use crate::crypto::CryptoError;
use crate::log::LogError;
use crate::replica::ReplicaError;
use crate::store::StoreError;

/// Says why the volume could not answer or apply.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The logs of segments failed.
    #[error(transparent)]
    Log(LogError),
    /// A segment that was folded is not here.
    #[error("segment {seg_no} of the log {log} is not here")]
    NotHere {
        /// Which log.
        log: LogId,
        /// Which segment.
        seg_no: u64,
    },
    /// A node of the tree of a checkpoint is not here.
    #[error("a part of a checkpoint is not here: chunk {id}")]
    NoNode {
        /// Its chunk.
        id: ChunkId,
    },
    /// A node of a snapshot was made by a newer release, which may find more in it.
    #[error("a part of a snapshot was made by a newer version of dfs: chunk {id}")]
    NewerNode {
        /// Its chunk.
        id: ChunkId,
    },
    /// The tree of a checkpoint is not what its signers signed, or what they signed is no such thing.
    #[error("a checkpoint is not what was signed: {what}")]
    BadCheckpoint {
        /// What of it.
        what: &'static str,
    },
    /// The holders of what is about to be sealed could not be asked again.
    #[error(transparent)]
    Holders(#[from] ReplicaError),
    /// A row does not decode, or rows contradict each other.
    #[error("the volume's rows are damaged: {what}")]
    Corrupt {
        /// Which rows.
        what: &'static str,
    },
    /// The inode is not there (any more).
    #[error("no inode {0}")]
    NoInode(Ino),
    /// The op breaks a limit of the format; nothing was applied.
    #[error("malformed op: {what}")]
    BadOp {
        /// Which limit.
        what: &'static str,
    },
    /// The op replaces more stored bytes at once than one record keeps; nothing was applied. What it
    /// does in several ops is not refused.
    #[error("too much is replaced at once")]
    TooMuch,
    /// A segment of this device does not open, or its ops do not fit its header.
    #[error("bad segment {seg_no} of device {:016x}: {what}", device.0)]
    BadSegment {
        /// Its author.
        device: DeviceId,
        /// Its number.
        seg_no: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// A segment of this device does not open: its key has not arrived, or it was changed.
    #[error("segment {seg_no} of device {:016x} does not open: {source}", device.0)]
    Sealed {
        /// Its author.
        device: DeviceId,
        /// Its number.
        seg_no: u64,
        /// Why.
        source: CryptoError,
    },
    /// The name is no user's.
    #[error("this name is kept for what each machine shows of its own")]
    Reserved,
    /// This device has lost the right to write.
    #[error("this machine may not change the volume any more")]
    Over,
    /// Another holds the writer's lock for longer than a request may take: the disk hangs.
    #[error("the volume is busy: the disk does not take what is being written")]
    Busy,
    /// A segment was made by a newer release, which knows more.
    #[error(
        "segment {seg_no} of device {:016x} was made by a newer version of dfs (its {what} is {found}, \
         this one knows up to {known})",
        device.0
    )]
    TooNew {
        /// Its author.
        device: DeviceId,
        /// Its number.
        seg_no: u64,
        /// What is not known: the version of the whole, or the kind of an op.
        what: &'static str,
        /// Its number.
        found: u64,
        /// The greatest number that is known here.
        known: u64,
    },
}

impl From<LogError> for VolumeError {
    fn from(error: LogError) -> Self {
        match error {
            // One store holds both: its errors have one form.
            LogError::Store(error) => Self::Store(error),
            error => Self::Log(error),
        }
    }
}
