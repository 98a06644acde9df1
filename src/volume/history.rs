//! History: what files were before, and what was removed, for as long as the volume keeps it.
//!
//! What an op replaces lies in its undo record until no fold looks it up any more. When that record is
//! given up, what it has of contents and entries goes to the rows of this module, in the same batch; so do
//! the rows of a node that is reaped. All members give up the same records of the same ops, so all have the
//! same history; the rows are in no settled sum, as each member gives up when it comes to it.
//!
//! A version of a file is had back from the content that is there now, or that was there when it was
//! removed: through the undo records, then through these rows, each of which leads from the content that an
//! op made to the one before. Dropping a version merges the rows around it: the older image of an extent
//! wins. A step of all this moves a bounded number of rows, and a crash between two leaves each version that
//! is listed whole.
//!
//! Keys of the table, all numbers big-endian:
//!
//! | Key | Value |
//! |---|---|
//! | `V`, ino, op | [`Version`]: the inode as it was before the op replaced its content |
//! | `E`, ino, op, offset | the extent at the offset before that op, or that there was none |
//! | `N`, ino | [`Gone`]: the inode of a removed node |
//! | `X`, ino, offset | an extent of it |
//! | `A`, ino, hash of the name | an extended attribute of it |
//! | `L`, parent, hash of the name, op | [`Lost`]: the entry that the op removed or replaced |

mod keep;
mod look;
mod thin;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::committed::Committed;
use super::op::OpKind;
use super::record::Record;
use super::rows::{RowKey, Stored};
use super::types::{DirKey, FileKind, Inode, Place};
use super::view::{as_inode, is_private};
use super::{Result, Volume, VolumeError};
use crate::base::{Ino, OpId};
use crate::store::{Batch, Rows, Table, codec};

pub(super) use keep::RemovalTimes;
pub use look::{PastContent, Removals, Removed, Revision};

/// How long history is kept, and when it was looked through last.
#[derive(Debug)]
pub(super) struct History {
    /// Milliseconds; 0 keeps nothing. Shared with volumes that fold beside.
    kept_ms: Arc<AtomicU64>,
    /// The time of the newest record when it was looked through last.
    looked_ms: AtomicU64,
    /// Before this time nothing is kept, as there was no room; 0 where there was.
    short_ms: AtomicU64,
    /// Whether it is made beside the one in use, which it replaces as a whole.
    is_beside: bool,
}

/// The row of how long it is kept.
const KEPT_KEY: &[u8] = b"volume/history";

impl History {
    /// Reads what the rows hold.
    pub(super) fn load(rows: &dyn Rows) -> Result<Self> {
        let kept = rows.get(Table::Meta, KEPT_KEY)?;
        let kept = kept.and_then(|kept| kept.try_into().ok());
        let kept_ms = kept.map_or(0, u64::from_be_bytes);
        Ok(Self {
            kept_ms: Arc::new(kept_ms.into()),
            looked_ms: AtomicU64::default(),
            short_ms: AtomicU64::default(),
            is_beside: false,
        })
    }

    /// Returns one that keeps what this one does, of rows that are made beside.
    pub(super) fn beside(&self) -> Self {
        Self {
            kept_ms: Arc::clone(&self.kept_ms),
            looked_ms: AtomicU64::default(),
            short_ms: AtomicU64::default(),
            is_beside: true,
        }
    }
}

impl Volume {
    /// Sets for how many milliseconds what was replaced or removed can be had back. To begin with it cannot;
    /// what was set holds from the next opening on, too.
    pub fn keep_history(&self, kept_ms: u64) -> Result<()> {
        if self.history.kept_ms.load(Ordering::Relaxed) != kept_ms {
            let mut batch = Batch::new();
            batch.put(Table::Meta, KEPT_KEY, kept_ms.to_be_bytes());
            self.view.rows.commit(batch)?;
            self.history.kept_ms.store(kept_ms, Ordering::Relaxed);
            self.history.looked_ms.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Tells whether anything that was replaced or removed can be had back.
    pub(super) fn keeps_history(&self) -> bool {
        self.history.kept_ms.load(Ordering::Relaxed) > 0
    }

    fn times(&self) -> Times<'_> {
        Times {
            volume: self,
            committed: Arc::clone(&self.state.lock().chain.committed),
            of_records: BTreeMap::new(),
        }
    }
}

/// When ops counted for all: by the time of the record that names each. Of what none names any more by name
/// that is the time of its author.
struct Times<'a> {
    volume: &'a Volume,
    committed: Arc<Committed>,
    of_records: BTreeMap<u64, Option<u64>>,
}

impl Times<'_> {
    fn of(&mut self, id: OpId) -> Result<u64> {
        let own = id.stamp.ms();
        let Some(number) = self.committed.number(id) else {
            return Ok(own);
        };
        if let Some(known) = self.of_records.get(&number) {
            return Ok(known.unwrap_or(own));
        }
        let record = self.volume.config.chain.get(number)?;
        let time_ms = record.map(|record| record.time_ms);
        self.of_records.insert(number, time_ms);
        Ok(time_ms.unwrap_or(own))
    }
}

/// The way from the content that an op made to the one before.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Version {
    /// The inode as it was before.
    image: Bytes,
    /// The op that had made its content.
    of: OpId,
    /// When that was replaced, milliseconds since 1970.
    at_ms: u64,
    /// True for a content that was on the way to the next one.
    passes: bool,
    /// True for an op that took something away, and left the rest to be taken away or written.
    empties: bool,
    /// True while the row before is merged into this one: the content between is no version any more.
    merges: bool,
}

/// A node that was removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Gone {
    /// Its inode.
    inode: Bytes,
    /// The op that took its last name.
    by: OpId,
    /// When that was, milliseconds since 1970.
    at_ms: u64,
}

/// An entry that was removed, or whose place another node took.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Lost {
    /// The entry.
    entry: Bytes,
    /// When that was, milliseconds since 1970.
    at_ms: u64,
}

/// What of a record is history.
#[derive(Debug, Default)]
struct Parts {
    contents: Vec<Replaced>,
    lost: Vec<(Ino, DirKey, Bytes)>,
}

/// A content that an op replaced.
#[derive(Debug)]
struct Replaced {
    ino: Ino,
    image: Bytes,
    inode: Inode,
    passes: bool,
}

impl Parts {
    /// Returns what of the record of an op is history.
    fn of(id: OpId, record: &Record) -> Result<Self> {
        let mut parts = Self::default();
        for (key, image) in &record.writes {
            let Some(image) = image else { continue };
            match key {
                RowKey::Inode(ino) if !is_private(*ino) => {
                    if !may_replace_content(record, *ino) {
                        continue;
                    }
                    let row = Stored::decode(key, image.clone())?;
                    let inode = as_inode(&row)?.clone();
                    if inode.kind == FileKind::File && replaces_content(record, &inode) {
                        let passes = passes(&inode, id, &record.kind);
                        let (ino, image) = (*ino, image.clone());
                        parts.contents.push(Replaced {
                            ino,
                            image,
                            inode,
                            passes,
                        });
                    }
                }
                RowKey::Dirent(parent, hash) => {
                    let Some(place) = lost_place(&record.kind) else {
                        continue;
                    };
                    let row = Stored::decode(key, image.clone())?;
                    if let super::rows::Value::Dirent(dirent) = &row.value
                        && dirent.name == place.name
                    {
                        parts.lost.push((*parent, *hash, image.clone()));
                    }
                }
                _ => {}
            }
        }
        Ok(parts)
    }
}

/// Returns the place whose entry an op removes or replaces.
fn lost_place(kind: &OpKind) -> Option<&Place> {
    match kind {
        OpKind::Unlink { from, .. } | OpKind::Rmdir { from, .. } => Some(from),
        OpKind::Rename {
            to,
            replaced: Some(_),
            exchange: false,
            ..
        } => Some(to),
        _ => None,
    }
}

/// Says whether an op may have replaced the content of a node.
fn may_replace_content(record: &Record, ino: Ino) -> bool {
    let target = match (record.kind.as_write(), record.kind.as_append()) {
        (Some(write), _) => write.ino,
        (_, Some(append)) => append.ino,
        _ => return false,
    };
    target == ino || has_extents(record, ino)
}

fn has_extents(record: &Record, ino: Ino) -> bool {
    let is_extent = |key: &RowKey| matches!(key, RowKey::Extent(of, _) if *of == ino);
    record.writes.iter().any(|(key, _)| is_extent(key))
}

/// Says whether an op replaced the content of a node: the node may also have been touched only as another
/// got the content.
fn replaces_content(record: &Record, inode: &Inode) -> bool {
    let base = match (record.kind.as_write(), record.kind.as_append()) {
        (Some(write), _) => write.base,
        (_, Some(append)) => append.base,
        _ => return false,
    };
    let says_same = (RowKey::Fork(inode.ino, inode.version), None::<Bytes>);
    base == inode.version
        || has_extents(record, inode.ino)
        || record.writes.iter().any(|(key, _)| *key == says_same.0)
}

/// What one program adds to a file within so long is one content.
const ADDED_MS: u64 = 10_000;

/// What one program changes within a file within so long is one content.
const CHANGED_MS: u64 = 1_000;

/// Says whether a content was on the way to the next one. No op says when a file was closed: what the same
/// log goes on to add to at once, or to change in place, was not.
fn passes(before: &Inode, id: OpId, kind: &OpKind) -> bool {
    let made = before.written_by;
    if before.size == 0 && made == before.created_by {
        return true;
    }
    if made.log != id.log {
        return false;
    }
    let since_ms = id.stamp.ms().saturating_sub(made.stamp.ms());
    if before.size == 0 {
        return since_ms < ADDED_MS;
    }
    let Some(write) = kind.as_write() else {
        return since_ms < ADDED_MS;
    };
    let adds = write.size >= before.size && write.pieces.iter().all(|p| p.offset >= before.size);
    let is_whole = write.is_emptying() || super::extents::covers(&write.pieces, write.size);
    since_ms < if adds { ADDED_MS } else { CHANGED_MS } && (adds || !is_whole)
}

/// Says whether the content of a file that an op of the file replaced was on the way to the next one.
pub(super) fn passes_by(ino: Ino, id: OpId, record: &Record) -> Result<bool> {
    let mut contents = Parts::of(id, record)?.contents.into_iter();
    let content = contents.find(|content| content.ino == ino);
    Ok(content.is_none_or(|content| content.passes))
}

const VERSION_TAG: u8 = b'V';
const EXTENT_TAG: u8 = b'E';
const GONE_TAG: u8 = b'N';
const GONE_EXTENT_TAG: u8 = b'X';
const GONE_XATTR_TAG: u8 = b'A';
const LOST_TAG: u8 = b'L';

fn key(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![tag];
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

fn version_key(ino: Ino, op: OpId) -> Vec<u8> {
    key(VERSION_TAG, &[&ino.0.to_be_bytes(), &op.to_key()])
}

/// Returns the first bytes of the keys of the extents before an op.
fn extents_prefix(ino: Ino, op: OpId) -> Vec<u8> {
    key(EXTENT_TAG, &[&ino.0.to_be_bytes(), &op.to_key()])
}

fn extent_key(ino: Ino, op: OpId, offset: u64) -> Vec<u8> {
    let mut key = extents_prefix(ino, op);
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

/// Returns the first bytes of the keys of one kind of rows of a node.
fn node_prefix(tag: u8, ino: Ino) -> Vec<u8> {
    key(tag, &[&ino.0.to_be_bytes()])
}

fn lost_key(parent: Ino, hash: DirKey, op: OpId) -> Vec<u8> {
    key(LOST_TAG, &[&parent.0.to_be_bytes(), &hash.0, &op.to_key()])
}

/// Returns the end of the keys that begin with some bytes.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

const BAD_KEY: VolumeError = VolumeError::Corrupt {
    what: "the key of a row of history",
};

/// Returns the number in a key behind its tag, and what is behind that.
fn ino_in(key: &[u8]) -> Result<(Ino, &[u8])> {
    let rest = key.get(1..).ok_or(BAD_KEY)?;
    let (ino, rest) = rest.split_first_chunk::<8>().ok_or(BAD_KEY)?;
    Ok((Ino(u64::from_be_bytes(*ino)), rest))
}

fn op_in(rest: &[u8]) -> Result<(OpId, &[u8])> {
    let (op, rest) = rest
        .split_first_chunk::<{ OpId::KEY_BYTES }>()
        .ok_or(BAD_KEY)?;
    Ok((OpId::from_key(op).ok_or(BAD_KEY)?, rest))
}

fn offset_in(rest: &[u8]) -> Result<u64> {
    Ok(u64::from_be_bytes(rest.try_into().map_err(|_| BAD_KEY)?))
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    Ok(codec::decode(bytes, bytes.len())?)
}
