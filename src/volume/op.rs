//! Ops: changes of metadata, named by their intent and by what their author saw.

// A new kind of op must not be taken for one that needs nothing.
#![deny(clippy::wildcard_enum_match_arm)]

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::aside::not_aside;
use super::checkpoint::tree::LEVELS_MAX;
use super::extents::check_pieces;
use super::types::{FileKind, Piece, Place, Source};
use crate::base::limits::{
    NAME_MAX_BYTES, SEGMENT_BODY_MAX_BYTES, SYMLINK_MAX_BYTES, XATTR_NAME_MAX_BYTES,
    XATTR_VALUE_MAX_BYTES,
};
use crate::base::{Ino, LogId, OpId, Timespec};
use crate::log::checkpoint::Tree;

/// A change with its name in the total order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// When and by whom.
    pub id: OpId,
    /// What.
    pub kind: OpKind,
}

/// What an op wants to change.
///
/// This enum grows at its end alone, and the fields of a variant never change: its number and its
/// bytes lie in the segments of every member. A program that does not know a variant tells it by its
/// number and stops there. What else an op is made of ([`FileKind`], [`Source`]) has no such number: who adds
/// to that raises the version of segment bodies, or makes a new variant here.
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
        /// The content that its author removed with it, of a file with other names none (the op that never
        /// was): other content is not removed.
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
    /// Keeps what its author saw of the volume at a moment.
    Snapshot(Kept),
    /// Lets go of a snapshot.
    DropSnapshot {
        /// The op that made it.
        snapshot: OpId,
    },
}

/// The fields of [`OpKind::Snapshot`], and its row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What people call it.
    pub name: String,
    /// Of which moment it is, milliseconds since 1970.
    pub time_ms: u64,
    /// Where the rows of that moment are.
    pub tree: Tree,
    /// Files, directories and other nodes in it.
    pub nodes: u64,
    /// Bytes that the extents of its files cover.
    pub bytes: u64,
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
    /// True for a step of emptying a file, which more cuts follow.
    pub empties: bool,
}

impl Write {
    /// Tells whether this is to leave nothing in the file, by itself or with the cuts that follow.
    pub(super) fn is_emptying(&self) -> bool {
        (self.size == 0 || self.empties) && self.pieces.is_empty()
    }
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
    /// The content that its author removed, as in [`OpKind::Unlink`].
    pub saw: OpId,
}

/// Most pieces of one op: 4,096 chunks are 4 GiB of a file and 200 KiB of a segment.
pub const OP_PIECES_MAX: usize = 4096;

/// Most inline bytes of one op: half of what a segment holds, so that each op fits one.
pub const OP_INLINE_MAX_BYTES: usize = SEGMENT_BODY_MAX_BYTES / 2;

/// Longest name of a device.
const DEVICE_NAME_MAX_BYTES: usize = 255;

/// Most extended attributes that a node starts with.
const CREATE_XATTRS_MAX: usize = 16;

impl OpKind {
    /// Returns the limit of the format that the op breaks, `None` for a sound one. A flawed op from
    /// elsewhere does nothing.
    pub(super) fn flaw(&self) -> Option<&'static str> {
        match self {
            Self::Format { .. }
            | Self::SetAttr { .. }
            | Self::Resolve { .. }
            | Self::DropSnapshot { .. } => None,
            Self::Device { name } => {
                (name.len() > DEVICE_NAME_MAX_BYTES).then_some("a device name too long")
            }
            Self::Create(create) => flaw_of_place(&create.at).or_else(|| flaw_of_create(create)),
            Self::Link { to: place, .. }
            | Self::Unlink { from: place, .. }
            | Self::Rmdir { from: place, .. } => flaw_of_place(place),
            Self::Rename { from, to, .. } => flaw_of_place(from).or_else(|| flaw_of_place(to)),
            Self::Write(write) => flaw_of_pieces(&write.pieces, write.size),
            Self::Append(append) => flaw_of_pieces(&append.pieces, append.len),
            Self::SetXattr { name, value, .. } => flaw_of_xattr(name, value),
            Self::RemoveXattr { name, .. } => flaw_of_xattr(name, &[]),
            Self::Snapshot(kept) => {
                let is_deep = kept.tree.level > LEVELS_MAX;
                let flaw = is_deep.then_some("a tree of too many levels");
                flaw.or_else(|| flaw_of_name(kept.name.as_bytes()))
            }
        }
    }
}

fn flaw_of_place(place: &Place) -> Option<&'static str> {
    flaw_of_name(&place.name)
}

/// Returns what is wrong with a name in a directory.
pub(super) fn flaw_of_name(name: &[u8]) -> Option<&'static str> {
    if name.is_empty() || name.len() > NAME_MAX_BYTES {
        return Some("a name of no or too many bytes");
    }
    if name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Some("a name that no directory can hold");
    }
    None
}

fn flaw_of_create(create: &Create) -> Option<&'static str> {
    let target_len = create.target.as_ref().map_or(0, Bytes::len);
    if target_len > SYMLINK_MAX_BYTES
        || create.target.is_some() != (create.kind == FileKind::Symlink)
    {
        return Some("the target of a symlink");
    }
    let bytes = create.xattrs.iter().map(|(_, value)| value.len());
    if create.xattrs.len() > CREATE_XATTRS_MAX || bytes.sum::<usize>() > OP_INLINE_MAX_BYTES {
        return Some("too many extended attributes at once");
    }
    let mut flaws = create
        .xattrs
        .iter()
        .map(|(name, value)| flaw_of_xattr(name, value));
    flaws.find_map(|flaw| flaw)
}

fn flaw_of_pieces(pieces: &[Piece], size: u64) -> Option<&'static str> {
    if pieces.len() > OP_PIECES_MAX {
        return Some("too many pieces");
    }
    let inline = pieces.iter().map(|piece| match &piece.src {
        Some(Source::Inline(bytes)) => bytes.len(),
        Some(Source::Chunk { .. }) | None => 0,
    });
    if inline.sum::<usize>() > OP_INLINE_MAX_BYTES {
        return Some("too many inline bytes");
    }
    check_pieces(pieces, size)
}

fn flaw_of_xattr(name: &[u8], value: &[u8]) -> Option<&'static str> {
    if name.is_empty() || name.len() > XATTR_NAME_MAX_BYTES || name.contains(&0) {
        return Some("the name of an extended attribute");
    }
    (value.len() > XATTR_VALUE_MAX_BYTES).then_some("an extended attribute too long")
}

/// Returns the number of the node that op `id` creates: the same on every member, never one of
/// the small numbers that have a meaning.
pub fn ino_of(id: OpId) -> Ino {
    derive_ino(b"dfs ino 1", id)
}

/// Returns the number of the conflict file that op `id` makes.
pub(super) fn fork_ino_of(id: OpId) -> Ino {
    derive_ino(b"dfs fork ino 1", id)
}

/// Returns the name of the content that append `id` makes behind content `before`, which its author
/// had not seen. It sorts beside the append.
pub(super) fn joined_version(before: OpId, id: OpId) -> OpId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"dfs joined version 1");
    hasher.update(&before.to_key());
    hasher.update(&id.to_key());
    let mut log = [0u8; 8];
    hasher.finalize_xof().fill(&mut log);
    OpId {
        stamp: id.stamp,
        log: LogId(u64::from_be_bytes(log)),
    }
}

/// Characters of [`mark_of`].
pub(super) const MARK_CHARS: usize = 16;

/// Returns characters that tell op `id` from others in the names of files.
pub(super) fn mark_of(id: OpId) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"dfs conflict name 1");
    hasher.update(&id.to_key());
    let mut bytes = [0u8; MARK_CHARS];
    hasher.finalize_xof().fill(&mut bytes);
    let digit = |byte: &u8| DIGITS.get(usize::from(byte % 32)).copied();
    bytes.iter().filter_map(digit).map(char::from).collect()
}

fn derive_ino(domain: &[u8], id: OpId) -> Ino {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain);
    hasher.update(&id.to_key());
    let mut first = [0u8; 8];
    hasher.finalize_xof().fill(&mut first);
    let number = not_aside(u64::from_be_bytes(first) & (u64::MAX >> 1));
    // Numbers below 16 are for what has a fixed meaning (the root is 1).
    Ino(number.max(16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Stamp;

    #[test]
    fn inode_numbers_are_stable_and_distinct() {
        let id = OpId {
            stamp: Stamp(7),
            log: LogId(9),
        };
        assert_eq!(ino_of(id), ino_of(id));
        assert_ne!(ino_of(id), fork_ino_of(id));
        assert!(ino_of(id).0 >= 16 && ino_of(id).0 <= u64::MAX >> 1);
    }
}
