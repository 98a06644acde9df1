//! Rows whose batches may be of any size, over rows whose batches may not.
//!
//! The row log takes a batch as one record, which is held in memory and must fit its recovery. A
//! greater one goes in steps: its changes are *staged*, some at a time, beside the tables; one small
//! batch then says that they count (the *turn*), and from there on reads look among them first; at
//! last they are moved to their tables, some at a time. A crash before the turn leaves none of them,
//! a crash behind it all.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::{Batch, FrozenRows, KeyVisitor, RowVisitor, Rows, StoreError, Table};

/// Greatest batch that goes as one, in bytes of keys and values: some ten milliseconds of the row log.
const WHOLE_MAX_BYTES: usize = 16 << 20;

/// Bytes of one step of a greater one.
const STEP_BYTES: usize = 8 << 20;

/// The row of the turn: no table has its tag.
const TURN_KEY: &[u8] = &[0];

/// Set in the first byte of a staged key where the row is removed. No table has so great a tag.
const REMOVED: u8 = 0x80;

/// Returns rows in memory whose batches may be of any size. Nothing there fails to open.
pub(super) fn over(inner: Arc<dyn Rows>) -> Arc<dyn Rows> {
    match StagedRows::open(Arc::clone(&inner)) {
        Ok(rows) => Arc::new(rows),
        Err(_) => inner,
    }
}

/// Rows over `inner`; see the module.
#[derive(Debug)]
pub(super) struct StagedRows {
    inner: Arc<dyn Rows>,
    /// True while staged changes count and are not all moved.
    turned: AtomicBool,
    /// Held by each batch that goes as one, and alone by one that does not.
    order: RwLock<()>,
    whole_max: usize,
    step: usize,
}

impl StagedRows {
    /// Opens the rows over others: finishes what had turned, and drops what had not.
    pub(super) fn open(inner: Arc<dyn Rows>) -> Result<Self, StoreError> {
        Self::with_sizes(inner, WHOLE_MAX_BYTES, STEP_BYTES)
    }

    /// Opens the rows as [`StagedRows::open`] does, with chosen sizes.
    fn with_sizes(inner: Arc<dyn Rows>, whole_max: usize, step: usize) -> Result<Self, StoreError> {
        let turned = inner.get(Table::Staged, TURN_KEY)?.is_some();
        let rows = Self {
            inner,
            turned: AtomicBool::new(turned),
            order: RwLock::new(()),
            whole_max,
            step,
        };
        let done = if turned {
            rows.move_all()
        } else {
            rows.drop_staged()
        };
        match done {
            // A full disk can be opened: what there is to do is done when there is room.
            Ok(()) | Err(StoreError::Full) => Ok(rows),
            Err(error) => Err(error),
        }
    }

    fn is_turned(&self) -> bool {
        self.turned.load(Ordering::Acquire)
    }

    /// Commits a batch in steps.
    fn commit_staged(&self, batch: &Batch) -> Result<(), StoreError> {
        // What an earlier one left behind on a full disk.
        self.drop_staged()?;
        let staged = self.stage(batch).and_then(|()| {
            let mut turn = Batch::new();
            turn.put(Table::Staged, TURN_KEY, []);
            self.inner.commit(turn)
        });
        if let Err(error) = staged {
            // What is left is not looked at, and goes at the next start where it cannot go now.
            let _ = self.drop_staged();
            return Err(error);
        }
        self.turned.store(true, Ordering::Release);
        match self.move_all() {
            // The changes count, wherever they lie: the next batch moves them.
            Err(StoreError::Full) => Ok(()),
            moved => moved,
        }
    }

    /// Commits a batch while staged changes count and cannot be moved: of its rows nothing is staged
    /// any more.
    fn commit_before_moving(&self, mut batch: Batch) -> Result<(), StoreError> {
        let mut unstaged = Batch::new();
        for (table, key, _) in batch.iter() {
            for removed in [0, REMOVED] {
                unstaged.delete(Table::Staged, staged_key(table, key, removed));
            }
        }
        batch.append(unstaged);
        self.inner.commit(batch)
    }

    fn stage(&self, batch: &Batch) -> Result<(), StoreError> {
        let (mut step, mut bytes) = (Batch::new(), 0);
        for (table, key, value) in batch.iter() {
            let removed = if value.is_none() { REMOVED } else { 0 };
            let value = value.unwrap_or_default();
            bytes += key.len() + value.len();
            step.put(Table::Staged, staged_key(table, key, removed), value);
            if bytes >= self.step {
                self.inner.commit(std::mem::take(&mut step))?;
                bytes = 0;
            }
        }
        if step.is_empty() {
            return Ok(());
        }
        self.inner.commit(step)
    }

    /// Moves all staged changes to their tables.
    fn move_all(&self) -> Result<(), StoreError> {
        loop {
            let (mut step, mut bytes, mut is_last) = (Batch::new(), 0, true);
            let mut visit = |key: &[u8], value: &[u8]| {
                if bytes >= self.step {
                    is_last = false;
                    return ControlFlow::Break(());
                }
                bytes += key.len() + value.len();
                step.delete(Table::Staged, key);
                if let Some((tag, key)) = key.split_first()
                    && let Some(table) = Table::from_tag(tag & !REMOVED)
                {
                    if tag & REMOVED == 0 {
                        step.put(table, key, value);
                    } else {
                        step.delete(table, key);
                    }
                }
                ControlFlow::Continue(())
            };
            // The turn goes with the last of them.
            self.inner.scan(Table::Staged, &[1], None, &mut visit)?;
            if is_last {
                step.delete(Table::Staged, TURN_KEY);
            }
            self.inner.commit(step)?;
            if is_last {
                self.turned.store(false, Ordering::Release);
                return Ok(());
            }
        }
    }

    /// Drops staged changes that do not count.
    fn drop_staged(&self) -> Result<(), StoreError> {
        loop {
            let (mut step, mut bytes) = (Batch::new(), 0);
            let mut visit = |key: &[u8]| {
                step.delete(Table::Staged, key);
                bytes += key.len();
                if bytes < self.step {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            };
            self.inner
                .scan_keys(Table::Staged, &[1], None, &mut visit)?;
            if step.is_empty() {
                return Ok(());
            }
            self.inner.commit(step)?;
        }
    }

    /// Returns what is staged of a row: `None` nothing, `Some(None)` that it is removed.
    fn staged(&self, table: Table, key: &[u8]) -> Result<Option<Option<Vec<u8>>>, StoreError> {
        let put = staged_key(table, key, 0);
        if let Some(value) = self.inner.get(Table::Staged, &put)? {
            return Ok(Some(Some(value)));
        }
        let removed = staged_key(table, key, REMOVED);
        let removed = self.inner.get(Table::Staged, &removed)?;
        Ok(removed.map(|_| None))
    }

    /// Returns what is staged of the rows of a range, by key.
    fn staged_range(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<BTreeMap<Vec<u8>, Option<Vec<u8>>>, StoreError> {
        let mut found = BTreeMap::new();
        for removed in [0, REMOVED] {
            let first = staged_key(table, start, removed);
            let last = match end {
                Some(end) => staged_key(table, end, removed),
                None => vec![(table.tag() | removed).saturating_add(1)],
            };
            let mut visit = |key: &[u8], value: &[u8]| {
                let value = (removed == 0).then(|| value.to_vec());
                found.insert(key.get(1..).unwrap_or_default().to_vec(), value);
                ControlFlow::Continue(())
            };
            self.inner
                .scan(Table::Staged, &first, Some(&last), &mut visit)?;
        }
        Ok(found)
    }

    /// Scans rows with what is staged in the place of what is not.
    fn scan_turned(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        // Looked at first: what is moved in between is met in its table, with the same value.
        let staged = self.staged_range(table, start, end)?;
        let mut staged = staged.into_iter().collect::<Vec<_>>();
        if !reverse {
            staged.reverse();
        }
        let is_before = |a: &[u8], b: &[u8]| if reverse { a > b } else { a < b };
        let mut broke = false;
        let mut visit = |key: &[u8], value: &[u8]| {
            while let Some((next, _)) = staged.last()
                && !is_before(key, next)
            {
                let is_same = next == key;
                if let Some((next, Some(value))) = staged.pop()
                    && f(&next, &value).is_break()
                {
                    broke = true;
                    return ControlFlow::Break(());
                }
                if is_same {
                    return ControlFlow::Continue(());
                }
            }
            let flow = f(key, value);
            broke = flow.is_break();
            flow
        };
        if reverse {
            self.inner.scan_rev(table, start, end, &mut visit)?;
        } else {
            self.inner.scan(table, start, end, &mut visit)?;
        }
        while let (false, Some((next, value))) = (broke, staged.pop()) {
            broke = value.is_some_and(|value| f(&next, &value).is_break());
        }
        Ok(())
    }
}

fn staged_key(table: Table, key: &[u8], removed: u8) -> Vec<u8> {
    let mut staged = Vec::with_capacity(1 + key.len());
    staged.push(table.tag() | removed);
    staged.extend_from_slice(key);
    staged
}

fn bytes_of(batch: &Batch) -> usize {
    let bytes =
        |(_, key, value): (_, &[u8], Option<&[u8]>)| key.len() + value.map_or(0, <[u8]>::len);
    batch.iter().map(bytes).sum()
}

impl Rows for StagedRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if self.is_turned()
            && let Some(value) = self.staged(table, key)?
        {
            return Ok(value);
        }
        self.inner.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        if self.is_turned() {
            return self.scan_turned(table, start, end, false, f);
        }
        self.inner.scan(table, start, end, f)
    }

    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        if self.is_turned() {
            return self.scan_turned(table, start, end, true, f);
        }
        self.inner.scan_rev(table, start, end, f)
    }

    fn scan_keys(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut KeyVisitor<'_>,
    ) -> Result<(), StoreError> {
        if self.is_turned() {
            return self.scan_turned(table, start, end, false, &mut |key, _| f(key));
        }
        self.inner.scan_keys(table, start, end, f)
    }

    fn freeze(&self, first: Table, last: Table) -> Result<Option<FrozenRows<'_>>, StoreError> {
        let _order = self.order.read();
        match self.is_turned() {
            true => Ok(None),
            false => self.inner.freeze(first, last),
        }
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if bytes_of(&batch) <= self.whole_max {
            let _order = self.order.read();
            if !self.is_turned() {
                return self.inner.commit(batch);
            }
        }
        let _order = self.order.write();
        let is_whole = bytes_of(&batch) <= self.whole_max;
        if self.is_turned() {
            match self.move_all() {
                // The disk is full, and this batch may be what makes room.
                Err(StoreError::Full) if is_whole => return self.commit_before_moving(batch),
                moved => moved?,
            }
        }
        if is_whole {
            return self.inner.commit(batch);
        }
        self.commit_staged(&batch)
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.inner.settle()
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.inner.has_room(bytes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }
}

#[cfg(test)]
mod tests;
