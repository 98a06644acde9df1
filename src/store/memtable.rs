//! Rows that are logged and not yet in the tree, in memory, with snapshots.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use super::batch::Changes;
use super::tree::TreeChange;

/// An ordered map of the newest rows; a removed row is a row of `None`.
///
/// Each batch gets a number, and a [`Cursor`] goes on seeing the rows as of the batch that was the
/// last one when it was made.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    rows: RwLock<BTreeMap<Vec<u8>, Slot>>,
    /// Memory of the rows, about.
    bytes: AtomicUsize,
    /// What the rows take in the tree, about.
    net: AtomicUsize,
    /// How many rows there are.
    count: AtomicUsize,
    /// Number of the last batch; changes under the lock of `rows`.
    last: AtomicU64,
    /// Cursors that live; grows under the lock of `rows`.
    cursors: AtomicUsize,
}

#[derive(Debug)]
struct Slot {
    newest: Version,
    /// What cursors may still see; nearly always nothing, and so in as few bytes as that takes.
    older: Option<Box<Older>>,
}

/// Versions of a row, oldest first.
#[derive(Debug, Default)]
struct Older {
    versions: Vec<Version>,
}

#[derive(Debug, Clone)]
struct Version {
    seq: u64,
    value: Option<Bytes>,
}

impl Slot {
    fn at(&self, seq: u64) -> Option<&Version> {
        if self.newest.seq <= seq {
            return Some(&self.newest);
        }
        let older = &self.older.as_ref()?.versions;
        older.iter().rev().find(|version| version.seq <= seq)
    }
}

/// What a row takes beside its key and value: its place in the map.
const ROW_BYTES: usize = 96;

/// Returns what a row takes in the tree: its seal, and what the database says of it.
fn in_tree(key_len: usize, value: Option<&Bytes>) -> usize {
    let sealed = value.map_or(0, |value| value.len() + SEAL_BYTES);
    key_len + sealed + TREE_ROW_BYTES
}

/// Nonce and tag.
const SEAL_BYTES: usize = 28;

/// Lengths, number and kind of a row in a block, and its part of the filter.
const TREE_ROW_BYTES: usize = 12;

impl Memtable {
    /// Returns an empty table whose last batch is `seq`.
    pub(super) fn new(seq: u64) -> Self {
        Self {
            last: AtomicU64::new(seq),
            ..Self::default()
        }
    }

    /// Applies the changes of batch `seq`, which is above all before it; visible as a whole.
    pub(super) fn apply(&self, seq: u64, changes: Changes) {
        let (mut added, mut grown, mut shrunk, mut count) = (0, 0, 0, 0);
        let mut rows = self.rows.write();
        let watched = self.cursors.load(Ordering::Acquire) > 0;
        for (key, value) in changes {
            let (key_len, value_len) = (key.len(), value.as_ref().map_or(0, Bytes::len));
            grown += in_tree(key_len, value.as_ref());
            let newest = Version { seq, value };
            match rows.entry(key) {
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    added += ROW_BYTES + key_len + value_len;
                    count += 1;
                    vacant.insert(Slot {
                        newest,
                        older: None,
                    });
                }
                std::collections::btree_map::Entry::Occupied(mut slot) => {
                    let slot = slot.get_mut();
                    let old = std::mem::replace(&mut slot.newest, newest);
                    // Counted as if it were kept: a row that is written again and again fills the
                    // log, which the size of the table stands for.
                    added += value_len;
                    shrunk += in_tree(key_len, old.value.as_ref());
                    if watched {
                        slot.older.get_or_insert_default().versions.push(old);
                    } else {
                        slot.older = None;
                    }
                }
            }
        }
        self.bytes.fetch_add(added, Ordering::Relaxed);
        self.net.fetch_add(grown, Ordering::Relaxed);
        self.net.fetch_sub(shrunk, Ordering::Relaxed);
        self.count.fetch_add(count, Ordering::Relaxed);
        self.last.store(seq, Ordering::Release);
    }

    /// Returns the newest version of a row: `None` where the table does not know it, `Some(None)`
    /// where it was removed.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let rows = self.rows.read();
        rows.get(key).map(|slot| slot.newest.value.clone())
    }

    /// Returns the memory that the rows take, about, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns what the rows take in the tree, about, in bytes.
    pub(super) fn net_bytes(&self) -> usize {
        self.net.load(Ordering::Relaxed)
    }

    /// Returns how many rows there are, removed ones included.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the number of the last batch.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Calls `f` with the newest version of each row, in key order.
    pub(super) fn for_each(&self, f: &mut TreeChange<'_>) {
        for (key, slot) in self.rows.read().iter() {
            f(key, slot.newest.value.as_deref());
        }
    }

    /// Returns a cursor over the rows with `start <= key < end`, of which the first is not behind the second, as they
    /// are now.
    pub(super) fn cursor(
        self: &Arc<Self>,
        start: Vec<u8>,
        end: Vec<u8>,
        is_reverse: bool,
    ) -> Cursor {
        let rows = self.rows.read();
        // Under the lock: the next batch sees the cursor, or the cursor sees the batch.
        self.cursors.fetch_add(1, Ordering::AcqRel);
        let seq = self.last();
        drop(rows);
        Cursor {
            table: Arc::clone(self),
            seq,
            start: Bound::Included(start),
            end: Bound::Excluded(end),
            is_reverse,
            block: VecDeque::new(),
            block_rows: FIRST_BLOCK_ROWS,
            is_done: false,
        }
    }
}

/// Most rows taken from the table under one hold of its lock.
const BLOCK_ROWS: usize = 64;

/// Rows taken at first: many a walk ends at the first that it finds.
const FIRST_BLOCK_ROWS: usize = 4;

/// Walks the rows of a table as of one batch, removed ones included.
#[derive(Debug)]
pub(super) struct Cursor {
    table: Arc<Memtable>,
    seq: u64,
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    is_reverse: bool,
    block: VecDeque<(Vec<u8>, Option<Bytes>)>,
    /// Rows to take next.
    block_rows: usize,
    is_done: bool,
}

impl Cursor {
    /// Returns the key of the next row.
    pub(super) fn peek(&mut self) -> Option<&[u8]> {
        if self.block.is_empty() && !self.is_done {
            self.fill();
        }
        self.block.front().map(|(key, _)| &**key)
    }

    /// Returns the next row and steps behind it.
    pub(super) fn take(&mut self) -> Option<(Vec<u8>, Option<Bytes>)> {
        self.peek()?;
        self.block.pop_front()
    }

    fn fill(&mut self) {
        let rows = self.table.rows.read();
        let range = rows.range::<[u8], _>((as_slice(&self.start), as_slice(&self.end)));
        let (seq, block) = (self.seq, &mut self.block);
        let rows_max = self.block_rows;
        self.block_rows = (2 * rows_max).min(BLOCK_ROWS);
        let mut last = None;
        let mut push = |(key, slot): (&Vec<u8>, &Slot)| {
            if let Some(version) = slot.at(seq) {
                block.push_back((key.clone(), version.value.clone()));
            }
            last = Some(key.clone());
        };
        let count = if self.is_reverse {
            range.rev().take(rows_max).map(&mut push).count()
        } else {
            range.take(rows_max).map(&mut push).count()
        };
        self.is_done = count < rows_max;
        if let Some(last) = last {
            if self.is_reverse {
                self.end = Bound::Excluded(last);
            } else {
                self.start = Bound::Excluded(last);
            }
        }
        drop(rows);
        if self.block.is_empty() && !self.is_done {
            self.fill();
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.table.cursors.fetch_sub(1, Ordering::AcqRel);
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &[u8], value: Option<&[u8]>) -> Changes {
        BTreeMap::from([(key.to_vec(), value.map(Bytes::copy_from_slice))])
    }

    impl Memtable {
        fn older(&self, key: &[u8]) -> usize {
            let rows = self.rows.read();
            rows[key]
                .older
                .as_ref()
                .map_or(0, |older| older.versions.len())
        }
    }

    fn all(mut cursor: Cursor) -> Vec<(Vec<u8>, Option<Bytes>)> {
        std::iter::from_fn(|| cursor.take()).collect()
    }

    #[test]
    fn a_cursor_sees_one_moment_in_both_directions() {
        let table = Arc::new(Memtable::new(0));
        for n in 0..200u8 {
            table.apply(u64::from(n) + 1, change(&[n], Some(&[n])));
        }
        let forward = table.cursor(vec![10], vec![150], false);
        let backward = table.cursor(vec![10], vec![150], true);
        for n in 0..200u8 {
            let value = (n % 2 == 0).then_some(&b"new"[..]);
            table.apply(1000 + u64::from(n), change(&[n], value));
            table.apply(2000 + u64::from(n), change(&[n, 1], Some(b"between")));
        }
        let expected: Vec<_> = (10..150u8)
            .map(|n| (vec![n], Some(Bytes::from(vec![n]))))
            .collect();
        assert_eq!(all(forward), expected);
        assert_eq!(
            all(backward),
            expected.into_iter().rev().collect::<Vec<_>>()
        );
        assert_eq!(table.get(&[11]), Some(None));
        assert_eq!(table.get(&[12]), Some(Some(Bytes::from_static(b"new"))));
        assert_eq!(table.get(&[250]), None);
        assert_eq!(all(table.cursor(vec![20], vec![21], false)).len(), 2);
        for is_reverse in [false, true] {
            assert!(all(table.cursor(vec![20], vec![20], is_reverse)).is_empty());
        }
    }

    #[test]
    fn a_cursor_passes_however_many_rows_are_newer_than_it() {
        let table = Arc::new(Memtable::new(0));
        table.apply(1, change(&[100], Some(b"old")));
        let cursor = |is_reverse| table.cursor(vec![], vec![255], is_reverse);
        let cursors = [cursor(false), cursor(true)];
        for n in (0..100).chain(101..200) {
            table.apply(u64::from(n) + 2, change(&[n], Some(b"new")));
        }
        for mut cursor in cursors {
            assert_eq!(cursor.peek(), Some(&[100][..]));
            assert_eq!(all(cursor).len(), 1);
        }
    }

    #[test]
    fn versions_that_no_cursor_sees_are_dropped() {
        let table = Arc::new(Memtable::new(0));
        table.apply(1, change(b"a", Some(b"1")));
        let cursor = table.cursor(vec![], vec![255], false);
        table.apply(2, change(b"a", Some(b"2")));
        table.apply(3, change(b"a", Some(b"3")));
        assert_eq!(table.older(b"a"), 2);
        assert_eq!(
            all(cursor),
            [(b"a".to_vec(), Some(Bytes::from_static(b"1")))]
        );
        table.apply(4, change(b"a", None));
        assert_eq!(table.older(b"a"), 0);
    }
}
