//! Rows over which others are made, while these go on: a layer that counts from one batch on.
//!
//! While a layer is *made*, who makes it reads rows as they were when it began, with what the layer has in
//! their place, and nobody else sees it: a batch of the others puts rows that it changes into the layer as
//! they were, where that has none of its own. One small batch then says that the layer counts (the
//! *turn*): from there on all look there first. At last its rows are moved to their tables, some at a time.
//! A crash before the turn leaves none of them, a crash behind it all.

mod fill;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use xxhash_rust::xxh3::xxh3_64;

pub use self::fill::Filling;

use self::fill::FILL_KEY;
use super::batch::stored_key;
use super::{Batch, FrozenRows, KeyVisitor, RowVisitor, Rows, StoreError, Table};
use crate::base::marks::Marks;

/// The row of the turn: no table has its tag.
const TURN_KEY: &[u8] = &[0];

/// The first key that a row in the layer may have.
const FIRST_KEY: &[u8] = &[1];

/// The table that is its own of who makes a layer: below there is nothing of it, and nothing of it is moved.
const MAKERS: Table = Table::Undone;

/// Bytes of one step of what goes in steps: some milliseconds, for which others wait.
const STEP_BYTES: usize = 128 << 10;

/// Bytes of the rows that are moved in one step, each of which is looked up.
const MOVED_BYTES: usize = 32 << 10;

/// Rows, and bytes of them, that a walk takes at once from each of the two; few at first, as many a walk ends
/// at the first that it finds.
const FIRST_SLICE_ROWS: usize = 4;
const SLICE_ROWS: usize = 256;
const SLICE_BYTES: usize = 1 << 20;

const IDLE: u8 = 0;
const MADE: u8 = 1;
const TURNED: u8 = 2;
/// Tables are filled, and the layer has what others see of them.
const FILLED: u8 = 3;

/// Says whether a row of a table, with a key, may lie in the layer.
pub type IsLayered = fn(Table, &[u8]) -> bool;

/// What [`LayeredRows::move_some`] calls with each row that is moved and differs, of the tables that are asked
/// for: its table and key, its value before and now, and the batch that moves it.
pub type MoveVisitor<'a> = dyn FnMut(Table, &[u8], Option<&[u8]>, Option<&[u8]>, &mut Batch) -> Result<(), StoreError>
    + 'a;

/// Rows over `inner`; see the module.
#[derive(Debug)]
pub struct LayeredRows {
    inner: Arc<dyn Rows>,
    is_layered: IsLayered,
    mode: AtomicU8,
    /// Held by each batch; alone where batches must not come between. Which rows a layer may have that is
    /// made: what is put there is marked before, so who has read what is below and finds no mark then has
    /// read what the layer has nothing of.
    order: RwLock<Option<Arc<Marks>>>,
    /// The last row of the layer that was moved: nothing is put before it once the layer counts, and to
    /// look there again would be to pass all that is gone.
    moved: Mutex<Vec<u8>>,
}

/// Rows as who makes the layer sees them.
#[derive(Debug)]
pub struct LayerRows {
    rows: Arc<LayeredRows>,
    marks: Arc<Marks>,
}

impl LayeredRows {
    /// Returns the rows over others. Where a layer counts already, [`LayeredRows::move_some`] is to be
    /// called until nothing is left.
    pub fn open(inner: Arc<dyn Rows>, is_layered: IsLayered) -> Result<Self, StoreError> {
        let turned = inner.get(Table::Layer, TURN_KEY)?.is_some();
        let filled = inner.get(Table::Layer, FILL_KEY)?.is_some();
        let mode = AtomicU8::new(match (turned, filled) {
            (true, _) => TURNED,
            (false, true) => FILLED,
            (false, false) => IDLE,
        });
        Ok(Self {
            inner,
            is_layered,
            mode,
            order: RwLock::default(),
            moved: Mutex::new(FIRST_KEY.to_vec()),
        })
    }

    /// Begins a layer: it is empty. Nothing may be committed between what the caller knows of the rows and
    /// this.
    pub fn begin(self: &Arc<Self>) -> Result<LayerRows, StoreError> {
        if self.is_filling() {
            // Something broke off for want of room.
            self.give_up_filling()?;
        }
        self.clear()?;
        let marks = Arc::new(Marks::large());
        let mut order = self.order.write();
        *order = Some(Arc::clone(&marks));
        self.mode.store(MADE, Ordering::SeqCst);
        Ok(LayerRows {
            rows: Arc::clone(self),
            marks,
        })
    }

    /// Gives up a layer that does not count, and filling.
    pub fn abandon(&self) -> Result<(), StoreError> {
        if self.is_filling() {
            return self.give_up_filling();
        }
        {
            let mut order = self.order.write();
            *order = None;
            self.mode.store(IDLE, Ordering::SeqCst);
        }
        self.clear()
    }

    /// Says that the layer counts from now on.
    pub fn turn(&self) -> Result<(), StoreError> {
        let mut order = self.order.write();
        let mut turn = Batch::new();
        turn.put(Table::Layer, TURN_KEY, []);
        self.inner.commit(turn)?;
        *order = None;
        *self.moved.lock() = FIRST_KEY.to_vec();
        self.mode.store(TURNED, Ordering::SeqCst);
        Ok(())
    }

    /// Says whether a layer counts that is not moved.
    pub fn is_turned(&self) -> bool {
        self.mode.load(Ordering::SeqCst) == TURNED
    }

    /// Moves some rows of a layer that counts to their tables, and tells those of some tables; says whether
    /// there are more.
    pub fn move_some(
        &self,
        is_told: &dyn Fn(Table) -> bool,
        visit: &mut MoveVisitor<'_>,
    ) -> Result<bool, StoreError> {
        let order = self.order.write();
        let (mut moved, mut bytes, mut is_last) = (Vec::new(), 0, true);
        let mut take = |key: &[u8], value: &[u8]| {
            if bytes >= MOVED_BYTES {
                is_last = false;
                return ControlFlow::Break(());
            }
            bytes += key.len() + value.len();
            moved.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        let from = self.moved.lock().clone();
        self.inner.scan(Table::Layer, &from, None, &mut take)?;
        let last = moved.last().map(|(key, _)| key.clone());
        let mut step = Batch::new();
        for (stored, value) in moved {
            step.delete(Table::Layer, &stored);
            let Some((table, key)) = parted(&stored).filter(|(table, _)| *table != MAKERS) else {
                continue;
            };
            let now = decoded(&value);
            if is_told(table) {
                let before = self.inner.get(table, key)?;
                if before.as_deref() == now {
                    // It was undone, and made again as it was.
                    continue;
                }
                visit(table, key, before.as_deref(), now, &mut step)?;
            }
            match now {
                Some(value) => step.put(table, key, value),
                None => step.delete(table, key),
            }
        }
        if is_last {
            step.delete(Table::Layer, TURN_KEY);
        }
        self.inner.commit(step)?;
        if let Some(last) = last {
            *self.moved.lock() = last;
        }
        if is_last {
            self.mode.store(IDLE, Ordering::SeqCst);
        }
        // Who waits comes before the next step.
        RwLockWriteGuard::unlock_fair(order);
        Ok(!is_last)
    }

    /// Removes what lies in the layer, some rows at a time.
    fn clear(&self) -> Result<(), StoreError> {
        let mut from = FIRST_KEY.to_vec();
        loop {
            let (mut step, mut bytes, mut next) = (Batch::new(), 0, None);
            let mut visit = |key: &[u8]| {
                if bytes >= STEP_BYTES {
                    next = Some(key.to_vec());
                    return ControlFlow::Break(());
                }
                bytes += key.len();
                step.delete(Table::Layer, key);
                ControlFlow::Continue(())
            };
            let rows = &self.inner;
            rows.scan_keys(Table::Layer, &from, None, &mut visit)?;
            if !step.is_empty() {
                rows.commit(step)?;
            }
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    /// Returns what the layer has of a row: `None` nothing, `Some(None)` that it is not there.
    fn layer(&self, table: Table, key: &[u8]) -> Result<Option<Option<Vec<u8>>>, StoreError> {
        let value = self.inner.get(Table::Layer, &stored_key(table, key))?;
        Ok(value.map(|mut value| {
            let is_there = value.first() == Some(&1);
            is_there.then(|| value.split_off(1))
        }))
    }

    /// Walks a table with what the layer has in the place of what is below. Who reads the layer first misses
    /// nothing that is moved meanwhile; who reads it last nothing that is put there meanwhile.
    fn walk(
        &self,
        range: (Table, &[u8], Option<&[u8]>),
        is_reverse: bool,
        layer_first: bool,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        let (table, start, end) = range;
        let mut start = start.to_vec();
        let mut end = end.map(<[u8]>::to_vec);
        let mut max = FIRST_SLICE_ROWS;
        loop {
            let below = |rows: &mut Slice| {
                rows.read(&*self.inner, (table, &start, end.as_deref()), is_reverse)
            };
            let (from, to) = super::batch::stored_range(table, &start, end.as_deref());
            let above = |rows: &mut Slice| {
                rows.read(&*self.inner, (Table::Layer, &from, Some(&to)), is_reverse)
            };
            let (mut lower, mut upper) = (Slice::of(max), Slice::of(max));
            max = SLICE_ROWS.min(8 * max);
            if layer_first {
                above(&mut upper)?;
                below(&mut lower)?;
            } else {
                below(&mut lower)?;
                above(&mut upper)?;
            }
            upper.strip();
            let is_before = |a: &[u8], b: &[u8]| if is_reverse { a > b } else { a < b };
            // Up to where both were read.
            let ends = [lower.next.take(), upper.next.take()];
            let next = ends
                .into_iter()
                .flatten()
                .reduce(|a, b| if is_before(&a, &b) { a } else { b });
            let is_within = |key: &[u8]| next.as_ref().is_none_or(|next| is_before(key, next));
            let mut lower = lower
                .rows
                .into_iter()
                .filter(|(key, _)| is_within(key))
                .peekable();
            let mut upper = upper
                .rows
                .into_iter()
                .filter(|(key, _)| is_within(key))
                .peekable();
            loop {
                let takes_upper = match (lower.peek(), upper.peek()) {
                    (None, None) => break,
                    (Some(_), None) => false,
                    (None, Some(_)) => true,
                    (Some((low, _)), Some((up, _))) => !is_before(low, up),
                };
                if !takes_upper {
                    if let Some((key, value)) = lower.next()
                        && f(&key, &value).is_break()
                    {
                        return Ok(());
                    }
                    continue;
                }
                if let Some((key, value)) = upper.next() {
                    lower.next_if(|(low, _)| *low == key);
                    if let Some(value) = decoded(&value)
                        && f(&key, value).is_break()
                    {
                        return Ok(());
                    }
                }
            }
            match next {
                Some(mut next) if is_reverse => {
                    // It is still to come.
                    next.push(0);
                    end = Some(next);
                }
                Some(next) => start = next,
                None => return Ok(()),
            }
        }
    }
}

/// Rows of a table, and the key of the next one.
struct Slice {
    /// How many it takes.
    max: usize,
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    next: Option<Vec<u8>>,
}

impl Slice {
    fn of(max: usize) -> Self {
        Self {
            max,
            rows: Vec::new(),
            next: None,
        }
    }

    fn read(
        &mut self,
        rows: &dyn Rows,
        (table, start, end): (Table, &[u8], Option<&[u8]>),
        is_reverse: bool,
    ) -> Result<(), StoreError> {
        let mut bytes = 0;
        let mut visit = |key: &[u8], value: &[u8]| {
            if self.rows.len() >= self.max || bytes >= SLICE_BYTES {
                self.next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            bytes += key.len() + value.len();
            self.rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        if is_reverse {
            rows.scan_rev(table, start, end, &mut visit)
        } else {
            rows.scan(table, start, end, &mut visit)
        }
    }

    /// Takes the tables from the keys of rows of the layer.
    fn strip(&mut self) {
        let keys = self.rows.iter_mut().map(|(key, _)| key);
        for key in keys.chain(&mut self.next) {
            key.drain(..1.min(key.len()));
        }
    }
}

/// Returns the table and the key of a row by its key in the layer.
fn parted(stored: &[u8]) -> Option<(Table, &[u8])> {
    let (tag, key) = stored.split_first()?;
    Some((Table::from_tag(*tag)?, key))
}

/// Returns the number of a row among the [`Marks`] of a layer.
fn mark_of(table: Table, key: &[u8]) -> u64 {
    xxh3_64(key) ^ u64::from(table.tag()).wrapping_mul(TAG_FACTOR)
}

/// An odd constant with well spread bits (the golden ratio times 2^64).
const TAG_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the value of a row by its value in the layer; `None` where it is not there.
fn decoded(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(&[1])
}

/// Calls `f` with rows until it breaks off.
fn visit_all(mut rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>, f: &mut RowVisitor<'_>) {
    let _ = rows.try_for_each(|(key, value)| f(&key, &value));
}

fn encoded(value: Option<&[u8]>) -> Vec<u8> {
    let Some(value) = value else {
        return vec![0];
    };
    let mut encoded = Vec::with_capacity(1 + value.len());
    encoded.push(1);
    encoded.extend_from_slice(value);
    encoded
}

impl Rows for LayeredRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if self.is_turned()
            && (self.is_layered)(table, key)
            && let Some(value) = self.layer(table, key)?
        {
            return Ok(value);
        }
        if self.is_filling()
            && (self.is_layered)(table, key)
            && let Some(value) = self.get_beside_filling(table, key)?
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
        if self.is_filling()
            && let Some(rows) = self.rows_beside_filling((table, start, end))?
        {
            visit_all(rows.into_iter(), f);
            return Ok(());
        }
        if self.is_turned() {
            return self.walk((table, start, end), false, true, f);
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
        if self.is_filling()
            && let Some(rows) = self.rows_beside_filling((table, start, end))?
        {
            visit_all(rows.into_iter().rev(), f);
            return Ok(());
        }
        if self.is_turned() {
            return self.walk((table, start, end), true, true, f);
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
        if self.is_filling()
            && let Some(rows) = self.rows_beside_filling((table, start, end))?
        {
            visit_all(rows.into_iter(), &mut |key, _| f(key));
            return Ok(());
        }
        if self.is_turned() {
            return self.walk((table, start, end), false, true, &mut |key, _| f(key));
        }
        self.inner.scan_keys(table, start, end, f)
    }

    fn freeze(&self, first: Table, last: Table) -> Result<Option<FrozenRows<'_>>, StoreError> {
        let _order = self.order.read();
        match self.is_turned() || self.is_filling() {
            true => Ok(None),
            false => self.inner.freeze(first, last),
        }
    }

    fn commit(&self, mut batch: Batch) -> Result<(), StoreError> {
        {
            let _order = self.order.read();
            match self.mode.load(Ordering::SeqCst) {
                IDLE => return self.inner.commit(batch),
                TURNED => {
                    let mut unstaged = Batch::new();
                    for (table, key, _) in batch.iter() {
                        if (self.is_layered)(table, key) {
                            unstaged.delete(Table::Layer, stored_key(table, key));
                        }
                    }
                    batch.append(unstaged);
                    return self.inner.commit(batch);
                }
                FILLED => return self.inner.commit(self.batch_beside_filling(&batch)),
                _ => {}
            }
        }
        let order = self.order.write();
        if let Some(marks) = &*order {
            let mut before = Batch::new();
            for (table, key, _) in batch
                .iter()
                .filter(|(table, key, _)| (self.is_layered)(*table, key))
            {
                let mark = mark_of(table, key);
                if marks.may_have(mark) && self.layer(table, key)?.is_some() {
                    continue;
                }
                let value = encoded(self.inner.get(table, key)?.as_deref());
                before.put(Table::Layer, stored_key(table, key), value);
                marks.mark(mark);
            }
            batch.append(before);
        }
        self.inner.commit(batch)
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

impl LayerRows {
    fn commit_step(&self, step: Batch) -> Result<(), StoreError> {
        // Nothing comes between what a batch of the others finds in the layer and what it puts there.
        let _order = self.rows.order.write();
        self.rows.inner.commit(step)
    }
}

impl Rows for LayerRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let rows = &self.rows;
        if !(rows.is_layered)(table, key) {
            return rows.inner.get(table, key);
        }
        let mark = mark_of(table, key);
        if self.marks.may_have(mark)
            && let Some(value) = rows.layer(table, key)?
        {
            return Ok(value);
        }
        let value = rows.inner.get(table, key)?;
        // Others may have changed it meanwhile, and have put it there as it was.
        if !self.marks.may_have(mark) {
            return Ok(value);
        }
        Ok(rows.layer(table, key)?.unwrap_or(value))
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.rows.walk((table, start, end), false, false, f)
    }

    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.rows.walk((table, start, end), true, false, f)
    }

    /// Puts changes into the layer, some at a time: a crash leaves none of them in any case.
    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let (mut step, mut bytes) = (Batch::new(), 0);
        for (table, key, value) in batch.iter() {
            if !(self.rows.is_layered)(table, key) {
                continue;
            }
            bytes += key.len() + value.map_or(0, <[u8]>::len);
            match value {
                None if table == MAKERS => step.delete(Table::Layer, stored_key(table, key)),
                value => step.put(Table::Layer, stored_key(table, key), encoded(value)),
            }
            self.marks.mark(mark_of(table, key));
            if bytes >= STEP_BYTES {
                self.commit_step(std::mem::take(&mut step))?;
                bytes = 0;
            }
        }
        self.commit_step(step)
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.rows.inner.settle()
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.rows.inner.has_room(bytes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.rows.inner.sync()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::Rng;
    use crate::store::Store;
    use crate::store::memory::MemoryDisk;
    use crate::store::told::{RowsDone, ToldRows};

    fn all(rows: &dyn Rows, is_reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        if is_reverse {
            rows.scan_rev(Table::Inode, &[], None, &mut visit).unwrap();
            found.reverse();
        } else {
            rows.scan(Table::Inode, &[], None, &mut visit).unwrap();
        }
        found
    }

    fn keys(rows: &dyn Rows, table: Table) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut visit = |key: &[u8]| {
            found.push(key.to_vec());
            ControlFlow::Continue(())
        };
        rows.scan_keys(table, &[], None, &mut visit).unwrap();
        found
    }

    fn expect(rows: &dyn Rows, model: &BTreeMap<Vec<u8>, Vec<u8>>) {
        let expected: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(all(rows, false), expected);
        assert_eq!(all(rows, true), expected);
        assert!(keys(rows, Table::Inode).iter().eq(model.keys()));
        for n in 0..1000u16 {
            let key = n.to_be_bytes();
            assert_eq!(
                rows.get(Table::Inode, &key).unwrap().as_ref(),
                model.get(&key[..])
            );
        }
    }

    fn change(rng: &Rng, rows: &dyn Rows, model: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
        let mut batch = Batch::new();
        for _ in 0..200 {
            let key = (rng.below(1000) as u16).to_be_bytes().to_vec();
            if rng.below(3) == 0 {
                batch.delete(Table::Inode, &key);
                model.remove(&key);
            } else {
                let value = rng.bytes::<8>().to_vec();
                batch.put(Table::Inode, &key, value.clone());
                model.insert(key, value);
            }
        }
        rows.commit(batch).unwrap();
    }

    #[test]
    fn a_layer_is_made_over_rows_that_go_on_and_counts_from_its_turn_on() {
        for seed in 0..20 {
            let rng = Rng::from_seed(seed);
            let store = Store::memory();
            let rows = LayeredRows::open(Arc::clone(&store.rows), |table, _| table == Table::Inode);
            let rows = Arc::new(rows.unwrap());
            let mut used = BTreeMap::new();
            change(&rng, &*rows, &mut used);
            change(&rng, &*rows, &mut used);
            let layer = rows.begin().unwrap();
            let mut made = used.clone();
            for _ in 0..3 {
                change(&rng, &layer, &mut made);
                change(&rng, &*rows, &mut used);
                expect(&layer, &made);
                expect(&*rows, &used);
            }
            if seed % 2 == 0 {
                rows.abandon().unwrap();
                expect(&*rows, &used);
                assert!(keys(&*store.rows, Table::Layer).is_empty());
                // The next one begins with what is there now.
                let layer = rows.begin().unwrap();
                change(&rng, &*rows, &mut used.clone());
                expect(&layer, &used);
                continue;
            }
            rows.turn().unwrap();
            expect(&*rows, &made);
            change(&rng, &*rows, &mut made);
            expect(&*rows, &made);
            // As after a crash.
            let rows = LayeredRows::open(Arc::clone(&store.rows), |table, _| table == Table::Inode);
            let rows = rows.unwrap();
            expect(&rows, &made);
            let mut differing = 0;
            let mut visit =
                |_: Table, _: &[u8], before: Option<&[u8]>, now: Option<&[u8]>, _: &mut Batch| {
                    assert!(before != now);
                    differing += 1;
                    Ok(())
                };
            while rows.move_some(&|_| true, &mut visit).unwrap() {}
            assert!(differing > 0 && !rows.is_turned());
            expect(&rows, &made);
            expect(&*store.rows, &made);
            assert!(keys(&*store.rows, Table::Layer).is_empty());
        }
    }

    fn put(rows: &dyn Rows, n: u8, value: &[u8]) {
        let mut batch = Batch::new();
        batch.put(Table::Inode, [n], value);
        rows.commit(batch).unwrap();
    }

    /// Rows that tell what is done below, of which two are there.
    fn told() -> (Arc<ToldRows>, Arc<LayeredRows>) {
        let told = ToldRows::new(Store::memory().rows);
        let below = Arc::clone(&told) as Arc<dyn Rows>;
        let rows = LayeredRows::open(below, |table, _| table == Table::Inode);
        let rows = Arc::new(rows.unwrap());
        put(&*rows, 1, b"first");
        put(&*rows, 2, b"second");
        (told, rows)
    }

    fn expect_two(rows: &dyn Rows, first: &[u8], when: &str) {
        let expected = [(vec![1], first.to_vec()), (vec![2], b"second".to_vec())];
        assert_eq!(all(rows, false), expected, "{when}");
    }

    #[test]
    fn who_makes_a_layer_sees_no_change_of_the_others_whenever_it_comes() {
        // Between any two steps of a walk or a look.
        for step in 0..3 {
            for is_walk in [false, true] {
                let (told, rows) = told();
                let layer = rows.begin().unwrap();
                told.do_behind(step, move || put(&*rows, 1, b"other"));
                if is_walk {
                    expect_two(&layer, b"first", &format!("step {step}"));
                }
                let value = layer.get(Table::Inode, &[1]).unwrap();
                assert_eq!(value.as_deref(), Some(&b"first"[..]), "step {step}");
            }
        }
    }

    #[test]
    fn who_reads_a_layer_that_counts_misses_nothing_that_is_moved_meanwhile() {
        for step in 0..3 {
            for is_walk in [false, true] {
                let (told, rows) = told();
                let layer = rows.begin().unwrap();
                put(&layer, 1, b"made");
                rows.turn().unwrap();
                let mover = Arc::clone(&rows);
                told.do_behind(step, move || {
                    let more = mover.move_some(&|_| false, &mut |_, _, _, _, _| Ok(()));
                    assert!(!more.unwrap());
                });
                if is_walk {
                    expect_two(&*rows, b"made", &format!("step {step}"));
                }
                let value = rows.get(Table::Inode, &[1]).unwrap();
                assert_eq!(value.as_deref(), Some(&b"made"[..]), "step {step}");
            }
        }
    }

    #[test]
    fn a_row_that_only_seems_to_be_in_a_layer_is_kept_there_as_it_was() {
        let (_, rows) = told();
        let layer = rows.begin().unwrap();
        // Another row with the same mark is there.
        layer.marks.mark(mark_of(Table::Inode, &[1]));
        put(&*rows, 1, b"other");
        expect_two(&layer, b"first", "with a mark");
        put(&*rows, 1, b"and again");
        expect_two(&layer, b"first", "with a mark and a row");
        expect_two(&*rows, b"and again", "of the others");
    }

    #[test]
    fn a_batch_goes_into_a_layer_in_few_steps_that_are_not_long() {
        const ROWS: usize = 40;
        for len in [10, STEP_BYTES / 4, 2 * STEP_BYTES] {
            let (told, rows) = told();
            let layer = rows.begin().unwrap();
            let mut batch = Batch::new();
            for n in 0..ROWS {
                batch.put(Table::Inode, [n as u8], vec![7; len]);
            }
            told.take();
            layer.commit(batch).unwrap();
            let commits = told.take_commits();
            assert!(
                commits.iter().all(|bytes| *bytes <= STEP_BYTES + len + 100),
                "{commits:?}"
            );
            assert!(
                commits.len() <= 2 + ROWS * len / STEP_BYTES,
                "{}",
                commits.len()
            );
            assert_eq!(all(&layer, false).len(), ROWS);
        }
    }

    #[test]
    fn who_makes_a_layer_looks_only_where_a_row_may_lie() {
        let (told, rows) = told();
        let layer = rows.begin().unwrap();
        put(&layer, 1, b"made");
        told.take();
        layer.get(Table::Inode, &[1]).unwrap().unwrap();
        assert_eq!(told.take(), [RowsDone::Get(Table::Layer)]);
        layer.get(Table::Inode, &[2]).unwrap().unwrap();
        assert_eq!(told.take(), [RowsDone::Get(Table::Inode)]);
    }

    #[test]
    fn a_walk_that_ends_early_reads_little() {
        let disk = MemoryDisk::new();
        let rows = LayeredRows::open(disk.bare_rows(), |table, _| table == Table::Inode);
        let rows = Arc::new(rows.unwrap());
        (0..=255).for_each(|n| put(&*rows, n, b"below"));
        let layer = rows.begin().unwrap();
        (0..=255).for_each(|n| put(&layer, n, b"above"));
        disk.take_scanned();
        let mut visit = |_: &[u8], _: &[u8]| ControlFlow::Break(());
        layer.scan(Table::Inode, &[], None, &mut visit).unwrap();
        let scanned = disk.take_scanned();
        assert!(scanned.all <= 2 * (FIRST_SLICE_ROWS + 1), "{scanned:?}");
    }
}
