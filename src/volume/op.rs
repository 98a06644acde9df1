//! Ops: changes of metadata, named by their intent and by what their author saw.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::types::{FileKind, Piece, Place};
use crate::base::{Ino, OpId, Timespec};

/// A change with its name in the total order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// When and by whom.
    pub id: OpId,
    /// What.
    pub kind: OpKind,
}

/// What an op wants to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpKind {
    /// Makes the root directory; the first op of a volume.
    Format {
        /// Owner of the root.
        uid: u32,
        /// Group of the root.
        gid: u32,
        /// Permission bits of the root.
        mode: u32,
        /// When.
        time: Timespec,
    },
    /// Names the device that authors this log: the first op of each, and on a change of name.
    Device {
        /// The name that people gave it.
        name: String,
    },
    /// Makes a node; its number follows from the op ([`ino_of`]).
    Create(Create),
    /// Gives a file one more name.
    Link {
        /// The file.
        ino: Ino,
        /// Where the name goes.
        to: Place,
        /// When: ctime of the file, times of the directory.
        time: Timespec,
    },
    /// Removes a name of a file.
    Unlink {
        /// The name.
        from: Place,
        /// The file that its author meant.
        ino: Ino,
        /// The content that its author saw; newer content is not removed.
        saw: OpId,
        /// When.
        time: Timespec,
    },
    /// Removes an empty directory.
    Rmdir {
        /// The name.
        from: Place,
        /// The directory that its author meant.
        ino: Ino,
        /// When.
        time: Timespec,
    },
    /// Moves a node, or with `exchange` swaps two.
    Rename {
        /// Where its author saw it.
        from: Place,
        /// Where it goes.
        to: Place,
        /// The node.
        ino: Ino,
        /// What its author saw at `to`: its content version tells a file that was changed since.
        replaced: Option<Replaced>,
        /// True to put what was replaced in the place of the other.
        exchange: bool,
        /// When.
        time: Timespec,
    },
    /// Changes attributes; `None` leaves one alone.
    SetAttr {
        /// The node.
        ino: Ino,
        /// Permission bits.
        mode: Option<u32>,
        /// Owner.
        uid: Option<u32>,
        /// Group.
        gid: Option<u32>,
        /// Content time.
        mtime: Option<Timespec>,
        /// Change time.
        ctime: Timespec,
    },
    /// Replaces ranges and sets the size: write, truncate (no pieces), punch and zero (holes).
    Write(Write),
    /// Adds to the end: concurrent appends all stay.
    Append(Append),
    /// Sets an extended attribute.
    SetXattr {
        /// The node.
        ino: Ino,
        /// Name of the attribute.
        name: Bytes,
        /// Value of the attribute.
        value: Bytes,
        /// Change time.
        time: Timespec,
    },
    /// Removes an extended attribute.
    RemoveXattr {
        /// The node.
        ino: Ino,
        /// Name of the attribute.
        name: Bytes,
        /// Change time.
        time: Timespec,
    },
    /// Says that a conflict is settled.
    Resolve {
        /// The conflict's op.
        conflict: OpId,
    },
}

/// The fields of [`OpKind::Create`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// Where.
    pub at: Place,
    /// What.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u64,
    /// Target of a symlink.
    pub target: Option<Bytes>,
    /// All its times, and those of the directory.
    pub time: Timespec,
    /// Extended attributes that it starts with: inherited ACLs.
    pub xattrs: Vec<(Bytes, Bytes)>,
}

/// The fields of [`OpKind::Write`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The file.
    pub ino: Ino,
    /// The content version that its author built on.
    pub base: OpId,
    /// Size afterwards: what lies beyond is cut, growing makes a hole.
    pub size: u64,
    /// What is replaced, in order.
    pub pieces: Vec<Piece>,
    /// Content time afterwards.
    pub mtime: Timespec,
    /// Change time afterwards.
    pub ctime: Timespec,
    /// Permission bits afterwards, where the write clears setuid or setgid.
    pub mode: Option<u32>,
}

/// The fields of [`OpKind::Append`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    /// The file.
    pub ino: Ino,
    /// The content version that its author built on.
    pub base: OpId,
    /// Bytes appended.
    pub len: u64,
    /// The bytes; offsets count from the start of what is appended.
    pub pieces: Vec<Piece>,
    /// Content time afterwards.
    pub mtime: Timespec,
    /// Change time afterwards.
    pub ctime: Timespec,
    /// Permission bits afterwards, where the write clears setuid or setgid.
    pub mode: Option<u32>,
}

/// What a rename meant to replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The node.
    pub ino: Ino,
    /// The content that its author saw.
    pub saw: OpId,
}

/// Returns the number of the node that op `id` creates: the same on every member, never one of
/// the small numbers that have a meaning.
pub fn ino_of(id: OpId) -> Ino {
    derive_ino(b"dfs ino 1", id)
}

fn derive_ino(domain: &[u8], id: OpId) -> Ino {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain);
    hasher.update(&id.to_key());
    let mut first = [0u8; 8];
    hasher.finalize_xof().fill(&mut first);
    let number = u64::from_be_bytes(first) & (u64::MAX >> 1);
    // Numbers below 16 are for what has a fixed meaning (the root is 1).
    Ino(number.max(16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DeviceId, Stamp};

    #[test]
    fn inode_numbers_are_stable_and_distinct() {
        let id = OpId {
            stamp: Stamp(7),
            device: DeviceId(9),
        };
        assert_eq!(ino_of(id), ino_of(id));
        assert!(ino_of(id).0 >= 16 && ino_of(id).0 <= u64::MAX >> 1);
    }
}
