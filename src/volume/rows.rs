//! Rows: the keys and values of the view's tables, and their bytes.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::op::Kept;
use super::types::{Conflict, DirKey, Dirent, Extent, Inode, Place};
use super::{Result, VolumeError};
use crate::base::{DeviceId, Ino, OpId, Timespec};
use crate::store::{Table, VALUE_MAX_BYTES, codec};

/// Names a row of the view. The derived order within a table is the order of the key bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) enum RowKey {
    /// An inode.
    Inode(Ino),
    /// An entry of a directory.
    Dirent(Ino, DirKey),
    /// The extent of a file that starts at an offset.
    Extent(Ino, u64),
    /// An extended attribute, by the keyed hash of its name.
    Xattr(Ino, DirKey),
    /// One of the places of a file that has several, by parent and entry.
    Link(Ino, Ino, DirKey),
    /// An inode that has no name left.
    Orphan(Ino),
    /// A directory that was merged into another.
    Alias(Ino),
    /// A version of a file that is no longer in the file itself.
    Fork(Ino, OpId),
    /// A conflict.
    Conflict(OpId),
    /// A device that authors ops.
    Device(DeviceId),
    /// When a directory that is a part of another changed.
    Dated(Ino),
    /// A snapshot, by the op that made it.
    Snapshot(OpId),
}

/// Where the content that a version names is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Fork {
    /// It lost against a concurrent write: its lineage goes on in a conflict file.
    File(Ino),
    /// A concurrent write made the same content.
    Same(OpId),
    /// It was appended behind what its author had not seen, so what its author saw is not a
    /// content that the file ever had.
    Joined,
}

/// What took the last name off a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Removed {
    /// The op that did.
    pub(super) by: OpId,
    /// The op from which the node had that name.
    pub(super) had: OpId,
}

/// The mtime of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dated {
    /// The time.
    pub(super) mtime: Timespec,
    /// The op that says so.
    pub(super) by: OpId,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Xattr {
    /// Name of the attribute.
    pub(super) name: Bytes,
    /// Value of the attribute.
    pub(super) value: Bytes,
    /// The op that set it.
    pub(super) by: OpId,
}

/// A decoded row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Of [`RowKey::Inode`].
    Inode(Inode),
    /// Of [`RowKey::Dirent`].
    Dirent(Dirent),
    /// Of [`RowKey::Extent`].
    Extent(Extent),
    /// Of [`RowKey::Xattr`].
    Xattr(Xattr),
    /// Of [`RowKey::Link`].
    Link(Place),
    /// Of [`RowKey::Orphan`].
    Orphan(Removed),
    /// Of [`RowKey::Alias`].
    Alias(Ino),
    /// Of [`RowKey::Fork`].
    Fork(Fork),
    /// Of [`RowKey::Conflict`].
    Conflict(Conflict),
    /// Of [`RowKey::Device`]: its name.
    Device(String),
    /// Of [`RowKey::Dated`].
    Dated(Dated),
    /// Of [`RowKey::Snapshot`].
    Snapshot(Kept),
}

/// A row as it lies in the store, with its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// The encoded value.
    pub(super) bytes: Bytes,
    /// The decoded value.
    pub(super) value: Value,
}

/// A row that caches, overlays and records share.
pub(super) type Row = Arc<Stored>;

impl Stored {
    /// Encodes a value.
    pub(super) fn encode(value: Value) -> Row {
        let bytes = match &value {
            Value::Inode(value) => value.to_row(),
            Value::Dirent(value) => value.to_row(),
            Value::Extent(value) => codec::encode(value),
            Value::Xattr(value) => codec::encode(value),
            Value::Link(value) => codec::encode(value),
            Value::Orphan(value) => codec::encode(value),
            Value::Alias(value) => codec::encode(value),
            Value::Fork(value) => codec::encode(value),
            Value::Conflict(value) => codec::encode(value),
            Value::Device(value) => codec::encode(value),
            Value::Dated(value) => codec::encode(value),
            Value::Snapshot(value) => codec::encode(value),
        };
        Arc::new(Self {
            bytes: Bytes::from(bytes),
            value,
        })
    }

    /// Decodes the bytes of the row `key`.
    pub(super) fn decode(key: &RowKey, bytes: Bytes) -> Result<Row> {
        let value = match key {
            RowKey::Inode(ino) => Value::Inode(Inode::of_row(*ino, &bytes)?),
            RowKey::Dirent(..) => Value::Dirent(Dirent::of_row(&bytes)?),
            RowKey::Extent(..) => Value::Extent(decode(&bytes)?),
            RowKey::Xattr(..) => Value::Xattr(decode(&bytes)?),
            RowKey::Link(..) => Value::Link(decode(&bytes)?),
            RowKey::Orphan(_) => Value::Orphan(decode(&bytes)?),
            RowKey::Alias(_) => Value::Alias(decode(&bytes)?),
            RowKey::Fork(..) => Value::Fork(decode(&bytes)?),
            RowKey::Conflict(_) => Value::Conflict(decode(&bytes)?),
            RowKey::Device(_) => Value::Device(decode(&bytes)?),
            RowKey::Dated(_) => Value::Dated(decode(&bytes)?),
            RowKey::Snapshot(_) => Value::Snapshot(decode(&bytes)?),
        };
        Ok(Arc::new(Self { bytes, value }))
    }
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    Ok(codec::decode(bytes, VALUE_MAX_BYTES)?)
}

/// The bytes of a key, on the stack.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyBytes {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl KeyBytes {
    /// Longest key: two inode numbers and a hash, and a tag.
    const MAX: usize = 33;

    fn new() -> Self {
        Self {
            bytes: [0; Self::MAX],
            len: 0,
        }
    }

    fn push(mut self, part: &[u8]) -> Self {
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(part) {
            *to = *from;
        }
        self.len = (self.len + part.len()).min(Self::MAX);
        self
    }
}

impl AsRef<[u8]> for KeyBytes {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// First bytes of the keys of places and of snapshots in the table that the volume shares among small things.
const LINK_TAG: u8 = b'L';
const SNAPSHOT_TAG: u8 = b'S';

impl RowKey {
    /// Returns the table of the row.
    pub(super) fn table(&self) -> Table {
        match self {
            Self::Inode(_) => Table::Inode,
            Self::Dirent(..) => Table::Dirent,
            Self::Extent(..) => Table::Extent,
            Self::Xattr(..) => Table::Xattr,
            Self::Link(..) | Self::Snapshot(_) => Table::Volume,
            Self::Orphan(_) => Table::Orphan,
            Self::Alias(_) => Table::Alias,
            Self::Fork(..) => Table::Fork,
            Self::Conflict(_) => Table::Conflict,
            Self::Device(_) => Table::Device,
            Self::Dated(_) => Table::Dated,
        }
    }

    /// Returns the key of the row in its table.
    pub(super) fn bytes(&self) -> KeyBytes {
        let key = KeyBytes::new();
        match self {
            Self::Inode(ino) | Self::Orphan(ino) | Self::Alias(ino) | Self::Dated(ino) => {
                key.push(&ino.0.to_be_bytes())
            }
            Self::Dirent(ino, hash) | Self::Xattr(ino, hash) => {
                key.push(&ino.0.to_be_bytes()).push(&hash.0)
            }
            Self::Extent(ino, offset) => key.push(&ino.0.to_be_bytes()).push(&offset.to_be_bytes()),
            Self::Link(ino, parent, hash) => key
                .push(&[LINK_TAG])
                .push(&ino.0.to_be_bytes())
                .push(&parent.0.to_be_bytes())
                .push(&hash.0),
            Self::Fork(ino, version) => key.push(&ino.0.to_be_bytes()).push(&version.to_key()),
            Self::Conflict(op) => key.push(&op.to_key()),
            Self::Device(device) => key.push(&device.0.to_be_bytes()),
            Self::Snapshot(op) => key.push(&[SNAPSHOT_TAG]).push(&op.to_key()),
        }
    }

    /// Tells whether these are the bytes of the key of a place.
    pub(super) fn is_of_link(bytes: &[u8]) -> bool {
        bytes.first() == Some(&LINK_TAG)
    }

    /// Returns the key whose bytes these are in the table of `like`.
    pub(super) fn parse(like: &Self, bytes: &[u8]) -> Result<Self> {
        let mut rest = bytes;
        let key = match like {
            Self::Inode(_) => Self::Inode(Ino(take_u64(&mut rest)?)),
            Self::Orphan(_) => Self::Orphan(Ino(take_u64(&mut rest)?)),
            Self::Alias(_) => Self::Alias(Ino(take_u64(&mut rest)?)),
            Self::Dirent(..) => Self::Dirent(Ino(take_u64(&mut rest)?), take_hash(&mut rest)?),
            Self::Xattr(..) => Self::Xattr(Ino(take_u64(&mut rest)?), take_hash(&mut rest)?),
            Self::Extent(..) => Self::Extent(Ino(take_u64(&mut rest)?), take_u64(&mut rest)?),
            Self::Link(..) | Self::Snapshot(_) if rest.first() == Some(&SNAPSHOT_TAG) => {
                rest = rest.get(1..).ok_or(BAD_KEY)?;
                Self::Snapshot(take_op(&mut rest)?)
            }
            Self::Link(..) | Self::Snapshot(_) => {
                rest = rest.strip_prefix(&[LINK_TAG]).ok_or(BAD_KEY)?;
                Self::Link(
                    Ino(take_u64(&mut rest)?),
                    Ino(take_u64(&mut rest)?),
                    take_hash(&mut rest)?,
                )
            }
            Self::Fork(..) => Self::Fork(Ino(take_u64(&mut rest)?), take_op(&mut rest)?),
            Self::Conflict(_) => Self::Conflict(take_op(&mut rest)?),
            Self::Device(_) => Self::Device(DeviceId(take_u64(&mut rest)?)),
            Self::Dated(_) => Self::Dated(Ino(take_u64(&mut rest)?)),
        };
        if rest.is_empty() {
            Ok(key)
        } else {
            Err(BAD_KEY)
        }
    }

    /// Returns a stable 64-bit digest of the key. Two keys with one digest make a merge undo more
    /// than it had to, nothing worse.
    pub(super) fn digest(&self) -> u64 {
        let mut digest = u64::from(self.table().tag()).wrapping_mul(DIGEST_FACTOR);
        for part in self.bytes().as_ref().chunks(8) {
            let mut word = [0u8; 8];
            for (to, from) in word.iter_mut().zip(part) {
                *to = *from;
            }
            digest = (digest ^ u64::from_le_bytes(word)).wrapping_mul(DIGEST_FACTOR);
            digest ^= digest >> 29;
        }
        digest
    }
}

/// What tells the digest of the counts of a directory from that of its row.
const COUNTS_MARK: u64 = 0x6a09_e667_f3bc_c909;

impl RowKey {
    /// Returns the digest that stands for the counts in a row: how many entries a directory has. Ops
    /// that make entries side by side change it, and none depends on the other.
    pub(super) fn counts_digest(&self) -> u64 {
        self.digest() ^ COUNTS_MARK
    }

    /// Returns the digest by which those who look for what has no name depend on all that take a last
    /// name or give one back.
    pub(super) fn nameless_digest() -> u64 {
        Self::Orphan(Ino(0)).counts_digest()
    }
}

/// An odd constant with well spread bits (the golden ratio times 2^64).
const DIGEST_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

const BAD_KEY: VolumeError = VolumeError::Corrupt {
    what: "a row key has the wrong length",
};

fn take_u64(rest: &mut &[u8]) -> Result<u64> {
    let (first, tail) = rest.split_first_chunk::<8>().ok_or(BAD_KEY)?;
    *rest = tail;
    Ok(u64::from_be_bytes(*first))
}

fn take_hash(rest: &mut &[u8]) -> Result<DirKey> {
    let (first, tail) = rest.split_first_chunk::<16>().ok_or(BAD_KEY)?;
    *rest = tail;
    Ok(DirKey(*first))
}

fn take_op(rest: &mut &[u8]) -> Result<OpId> {
    let (first, tail) = rest
        .split_first_chunk::<{ OpId::KEY_BYTES }>()
        .ok_or(BAD_KEY)?;
    *rest = tail;
    OpId::from_key(first).ok_or(BAD_KEY)
}

#[cfg(test)]
mod stored;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Stamp;

    #[test]
    fn keys_round_trip_and_sort_as_their_bytes() {
        let op = |n| OpId {
            stamp: Stamp(n),
            log: crate::base::LogId(n),
        };
        let keys = [
            [RowKey::Inode(Ino(1)), RowKey::Inode(Ino(300))],
            [
                RowKey::Dirent(Ino(1), DirKey([9; 16])),
                RowKey::Dirent(Ino(2), DirKey([1; 16])),
            ],
            [RowKey::Extent(Ino(1), 255), RowKey::Extent(Ino(1), 256)],
            [
                RowKey::Link(Ino(1), Ino(2), DirKey([1; 16])),
                RowKey::Link(Ino(1), Ino(3), DirKey([0; 16])),
            ],
            [RowKey::Fork(Ino(1), op(1)), RowKey::Fork(Ino(1), op(2))],
            [RowKey::Conflict(op(255)), RowKey::Conflict(op(256))],
            [RowKey::Snapshot(op(255)), RowKey::Snapshot(op(256))],
        ];
        for pair in keys {
            assert!(pair[0] < pair[1]);
            assert!(pair[0].bytes().as_ref() < pair[1].bytes().as_ref());
            assert_ne!(pair[0].digest(), pair[1].digest());
            for key in pair {
                assert_eq!(RowKey::parse(&key, key.bytes().as_ref()).unwrap(), key);
            }
        }
        assert!(RowKey::parse(&RowKey::Inode(Ino(1)), &[0; 9]).is_err());
    }
}
