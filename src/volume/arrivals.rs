//! When nodes changed here by what others did: times that this machine keeps for itself.
//!
//! What arrives late has the times of its author, which programs that look for what changed since
//! (backups, git) have left behind them. So the ctime that this machine shows is no earlier than the
//! moment of the change here. Nothing is kept of what this device does itself.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::Result;
use super::rows::{Row, RowKey, Value};
use super::view::{View, is_private};
use crate::base::marks::Marks;
use crate::base::{Ino, Timespec};
use crate::store::{Batch, Rows, Table, codec};

/// Longest encoded time.
const TIME_MAX_BYTES: usize = 32;

/// Which nodes have a time of arrival.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Those that may have one, and those that another stands for: the others cost no look at the
    /// disk.
    marks: Marks,
}

impl Arrivals {
    /// Returns those in the rows.
    pub(super) fn open(rows: &dyn Rows) -> Self {
        let marks = Marks::default();
        let mut count = 0;
        let mut mark = |key: &[u8]| {
            if let Ok(ino) = key.try_into().map(u64::from_be_bytes) {
                marks.mark(ino);
            }
            count += 1;
            match count < Marks::FULL {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let scanned = [Table::Arrival, Table::Alias]
            .into_iter()
            .try_for_each(|table| rows.scan_keys(table, &[], None, &mut mark));
        if scanned.is_err() || count >= Marks::FULL {
            marks.mark_all();
        }
        Self { marks }
    }

    /// Returns those of rows that nobody looked through: any node may be elsewhere.
    pub(super) fn unknown() -> Self {
        let marks = Marks::default();
        marks.mark_all();
        Self { marks }
    }

    /// Returns when what others did last changed a node here.
    pub(super) fn get(&self, view: &View, ino: Ino) -> Result<Option<Timespec>> {
        if !self.marks.may_have(ino.0) {
            return Ok(None);
        }
        // It may be a part of another directory by now.
        let at = view.dir(ino)?;
        let row = view.rows.get(Table::Arrival, &at.0.to_be_bytes())?;
        let time = row.map(|row| codec::decode(&row, TIME_MAX_BYTES));
        Ok(time.transpose()?)
    }

    /// Puts the times of the nodes that a merge changes into its batch, of which some are `gone`.
    pub(super) fn put(
        &self,
        changed: &BTreeSet<Ino>,
        gone: &dyn Fn(Ino) -> bool,
        now: Timespec,
        batch: &mut Batch,
    ) {
        let time = codec::encode(&now);
        for ino in changed.iter().copied() {
            if gone(ino) {
                self.remove(ino, batch);
            } else {
                self.marks.mark(ino.0);
                batch.put(Table::Arrival, ino.0.to_be_bytes(), time.clone());
            }
        }
    }

    /// Puts the time of a node into the batch that moves a row of it, as what others did changed that.
    pub(super) fn put_moved(
        &self,
        table: Table,
        key: &[u8],
        (before, after): (Option<&[u8]>, Option<&[u8]>),
        now: Timespec,
        batch: &mut Batch,
    ) {
        let key = super::anew::like(table).and_then(|like| RowKey::parse(&like, key).ok());
        let Some(
            RowKey::Inode(ino)
            | RowKey::Xattr(ino, _)
            | RowKey::Dirent(ino, _)
            | RowKey::Link(ino, ..),
        ) = key
        else {
            return;
        };
        if table == Table::Inode && after.is_none() {
            self.remove(ino, batch);
        } else if before != after {
            self.marks.mark(ino.0);
            batch.put(Table::Arrival, ino.0.to_be_bytes(), codec::encode(&now));
        }
    }

    /// Returns false where no other node stands for this one.
    pub(super) fn may_be_elsewhere(&self, ino: Ino) -> bool {
        self.marks.may_have(ino.0)
    }

    /// Says that another node stands for this one.
    pub(super) fn note_elsewhere(&self, ino: Ino) {
        self.marks.mark(ino.0);
    }

    /// Removes the time of a node that goes.
    pub(super) fn remove(&self, ino: Ino, batch: &mut Batch) {
        if self.marks.may_have(ino.0) {
            batch.delete(Table::Arrival, ino.0.to_be_bytes());
        }
    }
}

/// Returns the node of which a row changes, as far as somebody can see.
pub(super) fn changed(key: &RowKey, before: Option<&Row>, after: Option<&Row>) -> Option<Ino> {
    // A content does not change without the row of its file, which names it; the others may.
    let ino = match key {
        RowKey::Inode(ino)
        | RowKey::Xattr(ino, _)
        | RowKey::Dirent(ino, _)
        | RowKey::Link(ino, ..) => *ino,
        _ => return None,
    };
    let differs = match (before, after) {
        (Some(before), Some(after)) => match (&before.value, &after.value) {
            (Value::Dirent(before), Value::Dirent(after)) => {
                before.ino != after.ino || before.name != after.name
            }
            _ => before.bytes != after.bytes,
        },
        (None, None) => false,
        _ => true,
    };
    (differs && !is_private(ino)).then_some(ino)
}
