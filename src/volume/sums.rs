//! Settled sums: at a record, while nothing is tentative, all members have the same rows. Each keeps a
//! keyed sum of its own, so that two can tell whether that is so, and reads its rows again and again to
//! see whether they are what was put there.
//!
//! The sum is over the hashes of the rows that all share, each with its table and key, modulo 2^128: what
//! changes a row adds the new hash and takes the old one away, in the batch that changes it. Left out is
//! what each machine has for itself: private copies, the times of directories, and when what has no name
//! is given up.

use std::ops::ControlFlow;

use super::anew::{self, SHARED};
use super::rows::{KeyBytes, Row, RowKey, Stored, Value};
use super::state::State;
use super::types::Inode;
use super::view::{is_private, xattr_range};
use super::{Result, Volume};
use crate::base::{Ino, OpId, Stamp};
use crate::crypto::VolumeKeys;
use crate::store::Table;
use crate::wire::{RecordRef, Settled};

/// Rows that are read again under one hold of the writer's lock.
const SLICE_ROWS: usize = 128;

/// Most nodes without a name, and rows of them, that are left out of a sum: where there are more none is
/// told.
const NAMELESS_MAX: usize = 1024;
const NAMELESS_ROWS_MAX: usize = 1 << 14;

/// A sum of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Sum([u8; 16]);

impl Sum {
    fn number(self) -> u128 {
        u128::from_le_bytes(self.0)
    }

    pub(super) fn add(&mut self, hash: u128) {
        self.0 = self.number().wrapping_add(hash).to_le_bytes();
    }

    pub(super) fn take(&mut self, hash: u128) {
        self.0 = self.number().wrapping_sub(hash).to_le_bytes();
    }

    /// Takes note that a row changes.
    pub(super) fn change(
        &mut self,
        keys: &VolumeKeys,
        key: &RowKey,
        before: Option<&Row>,
        after: Option<&Row>,
    ) {
        if is_own(key) {
            return;
        }
        if let Some(row) = before {
            self.take(hash_of(keys, key, row));
        }
        if let Some(row) = after {
            self.add(hash_of(keys, key, row));
        }
    }
}

/// Tells whether a row is of a private copy, or of the times of a directory.
fn is_own(key: &RowKey) -> bool {
    match key {
        RowKey::Inode(ino) | RowKey::Extent(ino, _) | RowKey::Xattr(ino, _) => is_private(*ino),
        RowKey::Dated(_) => true,
        _ => false,
    }
}

fn hash_of(keys: &VolumeKeys, key: &RowKey, row: &Row) -> u128 {
    let bytes: KeyBytes = key.bytes();
    let shared = shared_dir(&row.value).map(|dir| dir.to_row());
    let value = shared.as_deref().unwrap_or(&row.bytes);
    hash(keys, key.table(), bytes.as_ref(), value)
}

fn hash(keys: &VolumeKeys, table: Table, key: &[u8], value: &[u8]) -> u128 {
    u128::from_le_bytes(keys.row_hash(table.tag(), key, value))
}

/// Returns a directory without its times; `None` for other rows.
fn shared_dir(value: &Value) -> Option<Inode> {
    match value {
        Value::Inode(inode) if inode.is_dir() => Some(inode.clone().without_times()),
        _ => None,
    }
}

/// Returns the hash of a row as it lies in the store, whatever is wrong with it.
pub(super) fn hash_stored(keys: &VolumeKeys, table: Table, key: &[u8], value: &[u8]) -> u128 {
    let parsed = anew::like(table).and_then(|like| RowKey::parse(&like, key).ok());
    let row = parsed.filter(|_| table == Table::Inode).and_then(|key| {
        let value = value.to_vec().into();
        Some((key, Stored::decode(&key, value).ok()?))
    });
    match row {
        Some((key, row)) => hash_of(keys, &key, &row),
        None => hash(keys, table, key, value),
    }
}

/// How far the rows are read again.
#[derive(Debug, Default)]
pub(super) struct Check {
    /// The table, by its place among those that all share, and the last key that was read there.
    table: usize,
    key: Vec<u8>,
    sum: Sum,
    rows: u64,
}

impl Check {
    /// Takes note that a row changes that was read already.
    pub(super) fn change(
        &mut self,
        keys: &VolumeKeys,
        key: &RowKey,
        before: Option<&Row>,
        after: Option<&Row>,
    ) {
        let Some(table) = SHARED.iter().position(|table| *table == key.table()) else {
            return;
        };
        if (table, key.bytes().as_ref()) <= (self.table, &*self.key) {
            self.sum.change(keys, key, before, after);
        }
    }
}

/// What came of reading all rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// How many there are.
    pub rows: u64,
    /// Whether they are what was put there.
    pub is_right: bool,
}

impl Volume {
    /// Reads some more of the rows again, in rounds; at the end of one says what came of it.
    pub fn check_rows(&self) -> Result<Option<Checked>> {
        let keys = &*self.config.keys;
        let mut state = self.state.lock();
        let mut check = state.totals.check.take().unwrap_or_default();
        let mut left = SLICE_ROWS;
        while left > 0 {
            let Some(table) = SHARED.get(check.table).copied() else {
                break;
            };
            let mut from = check.key.clone();
            if !from.is_empty() {
                from.push(0);
            }
            let mut is_through = true;
            self.view.rows.scan(table, &from, None, &mut |key, value| {
                if left == 0 {
                    is_through = false;
                    return ControlFlow::Break(());
                }
                left -= 1;
                check.key = key.to_vec();
                if !anew::is_of_private(table, key) {
                    check.sum.add(hash_stored(keys, table, key, value));
                    check.rows += 1;
                }
                ControlFlow::Continue(())
            })?;
            if is_through {
                (check.table, check.key) = (check.table + 1, Vec::new());
            }
        }
        if check.table < SHARED.len() {
            state.totals.check = Some(check);
            return Ok(None);
        }
        let is_right = check.sum == state.totals.sum();
        state.totals.found = (!is_right).then_some(check.sum);
        Ok(Some(Checked {
            rows: check.rows,
            is_right,
        }))
    }

    /// Returns the newest folded record and what follows from the rows at it, where nothing is tentative:
    /// the same for all members then. `None` where something is, and where the rows are known to be wrong
    /// nothing that is equal to what others say.
    pub fn at_rest(&self) -> Result<Option<Settled>> {
        let state = self.state.lock();
        if !self.is_at_rest(&state) {
            return Ok(None);
        }
        let mut sum = state.totals.found.unwrap_or_else(|| state.totals.sum());
        if !self.take_nameless(&mut sum)? {
            return Ok(None);
        }
        let record: RecordRef = state.chain.record;
        let mut said = record.hash.to_vec();
        said.extend_from_slice(&sum.0);
        let mac = self.config.keys.row_hash(0, &said, &[]);
        Ok(Some(Settled { record, mac }))
    }

    /// Tells whether all that is here is folded, and named by the records that are.
    fn is_at_rest(&self, state: &State) -> bool {
        let is_named = state.progress.iter().all(|(log, at)| {
            let (stamp, log) = (at.stamp, *log);
            stamp == Stamp::default() || state.chain.committed.number(OpId { stamp, log }).is_some()
        });
        let ends = self.config.log.vector();
        let is_folded = ends.iter().all(|(log, seg_no)| {
            let at = state.progress.get(log);
            at.is_some_and(|at| at.seg_no >= *seg_no && at.named >= *seg_no)
        });
        state.drafts.is_empty()
            && is_named
            && is_folded
            && self.config.chain.tip() == state.chain.record
            && state.chain.record.number > 0
    }

    /// Takes the rows of what has no name out of a sum; says whether that was possible.
    fn take_nameless(&self, sum: &mut Sum) -> Result<bool> {
        let keys = &*self.config.keys;
        let (mut nameless, mut rows) = (Vec::new(), 0);
        let (from, to) = (RowKey::Orphan(Ino(0)), RowKey::Orphan(Ino(u64::MAX)));
        self.view.scan(&from, &to, &mut |key, row| {
            sum.take(hash_of(keys, &key, &row));
            if let RowKey::Orphan(ino) = key {
                nameless.push(ino);
            }
            match nameless.len() > NAMELESS_MAX {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if nameless.len() > NAMELESS_MAX {
            return Ok(false);
        }
        for ino in nameless {
            if let Some(row) = self.view.row(&RowKey::Inode(ino))? {
                sum.take(hash_of(keys, &RowKey::Inode(ino), &row));
            }
            let end = Ino(ino.0.saturating_add(1));
            let extents = (RowKey::Extent(ino, 0), RowKey::Extent(end, 0));
            for (from, to) in [extents, xattr_range(ino)] {
                self.view.scan(&from, &to, &mut |key, row| {
                    sum.take(hash_of(keys, &key, &row));
                    rows += 1;
                    match rows > NAMELESS_ROWS_MAX {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                })?;
            }
        }
        Ok(rows <= NAMELESS_ROWS_MAX)
    }
}
