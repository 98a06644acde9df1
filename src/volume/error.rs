//! What can go wrong in the room.

use crate::base::{DeviceId, Ino};

/// Says why the volume could not answer or apply.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
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
}
