//! What the rows of the view add up to: the sums that people are shown, and the one that members compare.

use super::Result;
use super::rows::{Row, RowKey, Value};
use super::sums::{Check, Sum};
use super::types::Counts;
use crate::base::limits::INLINE_MAX_BYTES;
use crate::crypto::VolumeKeys;
use crate::store::{Batch, Rows, Table, codec};

/// Both sums over the rows, as one value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    counts: Counts,
    sum: Sum,
}

impl Tally {
    /// Takes note that a row changes.
    pub(super) fn change(
        &mut self,
        keys: &VolumeKeys,
        key: &RowKey,
        before: Option<&Row>,
        after: Option<&Row>,
    ) {
        if is_counted(key) {
            count(&mut self.counts, before, after);
        }
        self.sum.change(keys, key, before, after);
    }
}

/// What the rows add up to, as they were committed last.
///
/// A commit goes on from [`Totals::tally`], puts what comes of it into the batch that changes the rows,
/// and takes it over once that is committed: so the row of the sums is right after a crash.
#[derive(Debug, Default)]
pub(super) struct Totals {
    tally: Tally,
    /// How far the rows are read again.
    pub(super) check: Option<Check>,
    /// What the rows add up to, where that is not the sum of what was put there.
    pub(super) found: Option<Sum>,
}

impl Totals {
    /// Reads what the rows hold.
    pub(super) fn load(rows: &dyn Rows) -> Result<Self> {
        let mut totals = Self::default();
        if let Some(bytes) = rows.get(Table::Meta, TOTALS_KEY)? {
            let tally = &mut totals.tally;
            (tally.counts, tally.sum) = codec::decode(&bytes, VALUE_MAX_BYTES)?;
        }
        Ok(totals)
    }

    /// Returns the sums that people are shown, without drafts.
    pub(super) fn counts(&self) -> Counts {
        self.tally.counts
    }

    /// Returns the sum of the hashes of the rows that all members share.
    pub(super) fn sum(&self) -> Sum {
        self.tally.sum
    }

    /// Returns what a commit starts from.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// Puts what will be after a commit into its batch.
    pub(super) fn put(&self, batch: &mut Batch, next: &Tally) {
        if *next != self.tally {
            let value = codec::encode(&(next.counts, next.sum));
            batch.put(Table::Meta, TOTALS_KEY, value);
        }
    }

    /// Takes over what was committed.
    pub(super) fn set(&mut self, committed: Tally) {
        self.tally = committed;
    }
}

/// Tells whether the counts depend on a row.
fn is_counted(key: &RowKey) -> bool {
    matches!(key, RowKey::Inode(_) | RowKey::Conflict(_))
}

/// Adjusts the counts to a row that changes.
fn count(counts: &mut Counts, before: Option<&Row>, after: Option<&Row>) {
    let mut adjust = |row: Option<&Row>, sign: i64| match row.map(|row| &row.value) {
        // What another stands for is there once.
        Some(Value::Inode(inode)) if inode.kin.twin.is_none() => {
            let add = |sum: u64, bytes: u64| match sign {
                ..0 => sum.saturating_sub(bytes),
                _ => sum.saturating_add(bytes),
            };
            counts.inodes = counts.inodes.saturating_add_signed(sign);
            counts.bytes = add(counts.bytes, inode.stored);
            if inode.stored > INLINE_MAX_BYTES {
                counts.large_bytes = add(counts.large_bytes, inode.stored);
            }
        }
        Some(Value::Conflict(conflict)) if !conflict.resolved => {
            counts.conflicts = counts.conflicts.saturating_add_signed(sign);
        }
        _ => {}
    };
    // Added first: the sums never pass below zero on the way.
    adjust(after, 1);
    adjust(before, -1);
}

/// The row of the sums.
pub(super) const TOTALS_KEY: &[u8] = b"volume/counts";

const VALUE_MAX_BYTES: usize = 256;
