//! The memory twins of rows and chunks, and a disk in memory that can crash, fill up and rot.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::batch::{Batch, frozen_row, stored_key, stored_range, tables_range};
use super::{
    BATCH_MAX_BYTES, ChunkPart, ChunkUsage, Chunks, FrozenRows, KEY_MAX_BYTES, KeyVisitor,
    RowVisitor, Rows, SEALED_MAX_BYTES, Store, StoreError, Table, VALUE_MAX_BYTES,
};
use crate::base::{ChunkId, Rng};
use crate::crypto::chunk_head;

type RowMap = BTreeMap<Vec<u8>, Vec<u8>>;
type ChunkMap = BTreeMap<ChunkId, Bytes>;

/// A disk in memory that holds one store.
///
/// [`MemoryDisk::crash`] gives the disk as a power cut may leave it: everything synced, a prefix of
/// the later batches of rows, any subset of the later puts and deletes of chunks.
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Debug, Default)]
struct DiskState {
    rows: Arc<RowMap>,
    chunks: ChunkMap,
    chunk_bytes: u64,
    row_bytes: u64,
    /// What would survive a power cut; `None` where nobody will ask.
    durable: Option<Durable>,
    capacity: Option<u64>,
    /// Writes that still work; `None`: all.
    writes_left: Option<u64>,
    /// Writes that were refused for want of room.
    refused: u64,
    /// Most rows of one batch.
    largest_batch: usize,
    /// Most bytes of one.
    largest_bytes: u64,
    /// Bytes of all of them.
    written_bytes: u64,
    /// Rows that scans looked at.
    scanned: Scanned,
    failing_syncs: bool,
    poisoned: bool,
    /// When the power goes.
    cut: Option<Cut>,
}

/// How many rows scans looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scanned {
    /// The longest of those that read them.
    pub longest: usize,
    /// All together, those of keys alone included.
    pub all: usize,
}

/// A power cut to come.
struct Cut {
    /// Writes and syncs that still work.
    left: u64,
    /// Rows of a batch behind which it goes, with all that was written before on the disk.
    rows: Option<usize>,
    /// Told of it.
    told: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cut")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default, Clone)]
struct Durable {
    rows: RowMap,
    /// Batches committed since the last sync of the rows, in order.
    unsynced: Vec<Batch>,
    chunks: ChunkMap,
    /// Chunks put or deleted since the last sync of the chunks.
    touched: BTreeSet<ChunkId>,
}

impl MemoryDisk {
    /// Returns an empty disk that remembers what is durable, so that it can crash.
    pub fn new() -> Self {
        Self::with_state(DiskState {
            durable: Some(Durable::default()),
            ..DiskState::default()
        })
    }

    /// Returns an empty disk for tests that never crash it; [`MemoryDisk::crash`] empties it.
    pub(super) fn plain() -> Self {
        Self::with_state(DiskState::default())
    }

    fn with_state(state: DiskState) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Returns the store on this disk. All stores of one disk share their contents.
    pub fn store(&self) -> Store {
        Store {
            rows: super::staged::over(self.bare_rows()),
            chunks: Arc::new(MemoryChunks(Arc::clone(&self.state))),
            gate: super::Gate::default(),
        }
    }

    /// Returns the rows as they lie on the disk.
    pub(super) fn bare_rows(&self) -> Arc<dyn Rows> {
        Arc::new(MemoryRows(Arc::clone(&self.state)))
    }

    /// Returns the disk that a power cut at this moment leaves, chosen by `rng` among all possible.
    ///
    /// This disk and its stores stay as they are, for whoever still runs on them.
    pub fn crash(&self, rng: &Rng) -> Self {
        let state = self.state.lock();
        let Some(durable) = &state.durable else {
            return Self::plain();
        };
        let mut rows = durable.rows.clone();
        let kept = rng.below(durable.unsynced.len() as u64 + 1);
        for batch in durable.unsynced.iter().take(kept as usize) {
            apply(&mut rows, batch.clone());
        }
        let mut chunks = durable.chunks.clone();
        for id in &durable.touched {
            if rng.below(2) == 0 {
                continue;
            }
            match state.chunks.get(id) {
                Some(bytes) => chunks.insert(*id, bytes.clone()),
                None => chunks.remove(id),
            };
        }
        let survived = Durable {
            rows: rows.clone(),
            unsynced: Vec::new(),
            chunks: chunks.clone(),
            touched: BTreeSet::new(),
        };
        Self::with_state(DiskState {
            chunk_bytes: chunks.values().map(|bytes| bytes.len() as u64).sum(),
            row_bytes: rows.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum(),
            rows: Arc::new(rows),
            chunks,
            durable: Some(survived),
            capacity: state.capacity,
            ..DiskState::default()
        })
    }

    /// Limits what rows and chunks together may take; more is [`StoreError::Full`].
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Returns what rows and chunks take.
    pub fn used_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.row_bytes + state.chunk_bytes
    }

    /// Lets so many batches and chunks more be written; further ones are [`StoreError::Full`], also
    /// where they free room.
    pub fn set_writes_left(&self, count: Option<u64>) {
        self.state.lock().writes_left = count;
    }

    /// Returns how many writes were refused for want of room.
    pub fn refused(&self) -> u64 {
        self.state.lock().refused
    }

    /// Returns the number of rows of the largest batch since the last call.
    pub fn take_largest_batch(&self) -> usize {
        std::mem::take(&mut self.state.lock().largest_batch)
    }

    /// Returns the bytes of the largest batch since the last call.
    pub fn take_largest_bytes(&self) -> u64 {
        std::mem::take(&mut self.state.lock().largest_bytes)
    }

    /// Returns the bytes of all batches since the last call.
    pub fn take_written_bytes(&self) -> u64 {
        std::mem::take(&mut self.state.lock().written_bytes)
    }

    /// Returns how many rows the scans since the last call looked at, of those that look at values.
    pub fn take_scanned(&self) -> Scanned {
        std::mem::take(&mut self.state.lock().scanned)
    }

    /// Makes each sync fail from now on, or work again; the first failure poisons the store.
    pub fn fail_syncs(&self, failing: bool) {
        self.state.lock().failing_syncs = failing;
    }

    /// Cuts the power behind so many more writes and syncs: nothing is written or synced from then on, and
    /// `told` is called. [`MemoryDisk::crash`] gives what is left.
    pub fn cut_power_after(&self, count: u64, told: Box<dyn FnOnce() + Send>) {
        let rows = None;
        self.state.lock().cut = Some(Cut {
            left: count,
            rows,
            told,
        });
    }

    /// Returns behind how many more writes and syncs the power is cut, `None` where it will not be or was.
    pub fn power_left(&self) -> Option<u64> {
        self.state.lock().cut.as_ref().map(|cut| cut.left)
    }

    /// Ends all that is written behind the next batch of so many rows, as the kill of a process does:
    /// nothing that was written before is lost.
    pub fn end_behind(&self, rows: usize, told: Box<dyn FnOnce() + Send>) {
        self.state.lock().cut = Some(Cut {
            left: u64::MAX,
            rows: Some(rows),
            told,
        });
    }

    /// Flips one bit of a held chunk, on the disk for good; tells whether it is held.
    pub fn rot(&self, id: ChunkId) -> bool {
        let mut state = self.state.lock();
        let Some(bytes) = state.chunks.get(&id) else {
            return false;
        };
        let mut rotten = bytes.to_vec();
        if let Some(last) = rotten.last_mut() {
            *last ^= 1;
        }
        let rotten = Bytes::from(rotten);
        if let Some(durable) = &mut state.durable
            && durable.chunks.contains_key(&id)
        {
            durable.chunks.insert(id, rotten.clone());
        }
        state.chunks.insert(id, rotten);
        true
    }
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl DiskState {
    fn check_writable(&mut self, more_bytes: u64) -> Result<(), StoreError> {
        self.check_power()?;
        let needed = self.row_bytes + self.chunk_bytes + more_bytes;
        let is_full = self.capacity.is_some_and(|capacity| needed > capacity);
        if is_full || self.writes_left == Some(0) {
            self.refused += 1;
            return Err(StoreError::Full);
        }
        if let Some(left) = &mut self.writes_left {
            *left -= 1;
        }
        Ok(())
    }

    fn check_sync(&mut self) -> Result<(), StoreError> {
        self.poisoned |= self.failing_syncs;
        self.check_power()
    }

    /// Ends all, where that was to be behind a batch of so many rows.
    fn end_behind(&mut self, rows: usize) {
        let is_due = |cut: &mut Cut| cut.rows.is_some_and(|from| rows >= from);
        let Some(cut) = self.cut.take_if(is_due) else {
            return;
        };
        if let Some(durable) = &mut self.durable {
            for batch in std::mem::take(&mut durable.unsynced) {
                apply(&mut durable.rows, batch);
            }
        }
        self.poisoned = true;
        (cut.told)();
    }

    /// Counts a write or a sync down to the power cut.
    fn check_power(&mut self) -> Result<(), StoreError> {
        match &mut self.cut {
            Some(cut) if cut.left == 0 => self.poisoned = true,
            Some(cut) => cut.left -= 1,
            None => {}
        }
        if !self.poisoned {
            return Ok(());
        }
        if let Some(cut) = self.cut.take() {
            (cut.told)();
        }
        Err(StoreError::Poisoned)
    }
}

/// The rows of a [`MemoryDisk`].
#[derive(Debug, Clone)]
struct MemoryRows(Arc<Mutex<DiskState>>);

impl MemoryRows {
    /// A scan holds no lock while its callback runs, which may read and commit.
    fn snapshot(&self) -> Arc<RowMap> {
        Arc::clone(&self.0.lock().rows)
    }

    fn note_scan(&self, rows: usize) {
        let scanned = &mut self.0.lock().scanned;
        scanned.longest = scanned.longest.max(rows);
        scanned.all += rows;
    }
}

impl Rows for MemoryRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.lock().rows.get(&stored_key(table, key)).cloned())
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        let (start, end) = stored_range(table, start, end);
        if start < end {
            self.note_scan(visit(self.snapshot().range(start..end), f));
        }
        Ok(())
    }

    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        let (start, end) = stored_range(table, start, end);
        if start < end {
            self.note_scan(visit(self.snapshot().range(start..end).rev(), f));
        }
        Ok(())
    }

    fn scan_keys(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut KeyVisitor<'_>,
    ) -> Result<(), StoreError> {
        let (start, end) = stored_range(table, start, end);
        if start < end {
            let rows = self.snapshot();
            let keys = visit(rows.range(start..end), &mut |key, _| f(key));
            self.0.lock().scanned.all += keys;
        }
        Ok(())
    }

    fn freeze(&self, first: Table, last: Table) -> Result<Option<FrozenRows<'_>>, StoreError> {
        let (start, end) = tables_range(first, last);
        let rows = self.snapshot();
        let mut from = Bound::Included(start);
        Ok(Some(Box::new(std::iter::from_fn(move || {
            loop {
                let range = (from.clone(), Bound::Excluded(end.clone()));
                let (key, value) = rows.range::<Vec<u8>, _>(range).next()?;
                from = Bound::Excluded(key.clone());
                if let Some(row) = frozen_row(key, value.clone()) {
                    return Some(Ok(row));
                }
            }
        }))))
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let added = check_batch(&batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut state = self.0.lock();
        // A batch without values only frees room, so a full disk takes it.
        state.check_writable(added)?;
        state.largest_batch = state.largest_batch.max(batch.changes().len());
        state.largest_bytes = state.largest_bytes.max(added);
        state.written_bytes += added;
        if let Some(durable) = &mut state.durable {
            durable.unsynced.push(batch.clone());
        }
        let rows = batch.changes().len();
        let (more, less) = apply(Arc::make_mut(&mut state.rows), batch);
        state.row_bytes = (state.row_bytes + more).saturating_sub(less);
        state.end_behind(rows);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.0.lock();
        state.check_sync()?;
        if let Some(durable) = &mut state.durable {
            for batch in std::mem::take(&mut durable.unsynced) {
                apply(&mut durable.rows, batch);
            }
        }
        Ok(())
    }
}

/// The chunks of a [`MemoryDisk`].
#[derive(Debug, Clone)]
struct MemoryChunks(Arc<Mutex<DiskState>>);

impl Chunks for MemoryChunks {
    fn put(&self, id: ChunkId, sealed: &[u8]) -> Result<(), StoreError> {
        check_sealed(sealed)?;
        let mut state = self.0.lock();
        let held = state.chunks.get(&id);
        if held.is_some_and(|held| held == sealed) {
            return Ok(());
        }
        // What the disk made of it is worth nothing.
        let damaged_len = held.map_or(0, Bytes::len) as u64;
        state.check_writable(sealed.len() as u64)?;
        state.chunks.insert(id, Bytes::copy_from_slice(sealed));
        state.chunk_bytes += sealed.len() as u64;
        state.chunk_bytes -= damaged_len;
        if let Some(durable) = &mut state.durable {
            durable.touched.insert(id);
        }
        Ok(())
    }

    fn get(&self, id: ChunkId) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.lock().chunks.get(&id).cloned())
    }

    fn get_part(
        &self,
        id: ChunkId,
        wanted: &dyn Fn(usize) -> Range<usize>,
    ) -> Result<Option<ChunkPart>, StoreError> {
        let Some(sealed) = self.get(id)? else {
            return Ok(None);
        };
        let Range { start, end } = wanted(sealed.len());
        let end = end.min(sealed.len());
        Ok(Some(ChunkPart {
            head: chunk_head(&sealed),
            len: sealed.len(),
            bytes: sealed.slice(start.min(end)..end),
        }))
    }

    fn len(&self, id: ChunkId) -> Result<Option<u64>, StoreError> {
        Ok(self
            .0
            .lock()
            .chunks
            .get(&id)
            .map(|bytes| bytes.len() as u64))
    }

    fn delete(&self, id: ChunkId) -> Result<(), StoreError> {
        let mut state = self.0.lock();
        state.check_power()?;
        if let Some(bytes) = state.chunks.remove(&id) {
            state.chunk_bytes -= bytes.len() as u64;
            if let Some(durable) = &mut state.durable {
                durable.touched.insert(id);
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.0.lock();
        state.check_sync()?;
        let DiskState {
            chunks, durable, ..
        } = &mut *state;
        if let Some(durable) = durable {
            for id in std::mem::take(&mut durable.touched) {
                match chunks.get(&id) {
                    Some(bytes) => durable.chunks.insert(id, bytes.clone()),
                    None => durable.chunks.remove(&id),
                };
            }
        }
        Ok(())
    }

    fn for_each(
        &self,
        f: &mut dyn FnMut(ChunkId, u64) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let held: Vec<(ChunkId, u64)> = {
            let state = self.0.lock();
            let lens = state.chunks.iter().map(|(id, b)| (*id, b.len() as u64));
            lens.collect()
        };
        for (id, len) in held {
            if f(id, len).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn usage(&self) -> ChunkUsage {
        let state = self.0.lock();
        ChunkUsage {
            count: state.chunks.len() as u64,
            ids: state
                .chunks
                .keys()
                .fold(0, |ids, id| ids ^ ChunkUsage::of(*id)),
            bytes: state.chunk_bytes,
        }
    }
}

/// Visits rows; returns how many.
fn visit<'a>(
    rows: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
    f: &mut RowVisitor<'_>,
) -> usize {
    let mut count = 0;
    for (key, value) in rows {
        count += 1;
        if f(key.get(1..).unwrap_or_default(), value).is_break() {
            break;
        }
    }
    count
}

/// Applies a batch; returns the bytes added and removed.
fn apply(rows: &mut RowMap, batch: Batch) -> (u64, u64) {
    let (mut more, mut less) = (0, 0);
    for (key, value) in batch.into_changes() {
        let key_len = key.len();
        let replaced = match value {
            Some(value) => {
                more += (key_len + value.len()) as u64;
                rows.insert(key, Vec::from(value))
            }
            None => rows.remove(&key),
        };
        less += replaced.map_or(0, |old| (key_len + old.len()) as u64);
    }
    (more, less)
}

/// Refuses keys, values and batches beyond the limits; returns the bytes of the values.
pub(super) fn check_batch(batch: &Batch) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for (key, value) in batch.changes() {
        let len = value.as_ref().map_or(0, Bytes::len);
        for (len, max) in [(key.len(), KEY_MAX_BYTES + 1), (len, VALUE_MAX_BYTES)] {
            if len > max {
                return Err(StoreError::TooLarge { len, max });
            }
        }
        bytes += len as u64;
    }
    if bytes > BATCH_MAX_BYTES as u64 {
        return Err(StoreError::TooLarge {
            len: usize::try_from(bytes).unwrap_or(usize::MAX),
            max: BATCH_MAX_BYTES,
        });
    }
    Ok(bytes)
}

/// Refuses a sealed chunk beyond the limit.
pub(super) fn check_sealed(sealed: &[u8]) -> Result<(), StoreError> {
    if sealed.len() > SEALED_MAX_BYTES {
        return Err(StoreError::TooLarge {
            len: sealed.len(),
            max: SEALED_MAX_BYTES,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
        store.rows.get(Table::Meta, key).unwrap()
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest() {
        for seed in 0..64 {
            let rng = Rng::from_seed(seed);
            let disk = MemoryDisk::new();
            let store = disk.store();
            for n in 0..20u8 {
                let mut batch = Batch::new();
                batch.put(Table::Meta, [n], [n]);
                store.rows.commit(batch).unwrap();
                store.chunks.put(ChunkId([n; 32]), &[n]).unwrap();
                if n == 9 {
                    store.sync().unwrap();
                }
            }
            let after = disk.crash(&rng).store();
            let kept = (0..20u8).take_while(|n| value(&after, &[*n]).is_some());
            let kept = kept.count() as u8;
            assert!(kept >= 10, "seed {seed}");
            assert!(
                (kept..20).all(|n| value(&after, &[n]).is_none()),
                "seed {seed}"
            );
            for n in 0..10 {
                assert!(after.chunks.get(ChunkId([n; 32])).unwrap().is_some());
            }
            assert_eq!(store.chunks.usage().count, 20);
        }
    }

    #[test]
    fn the_power_goes_at_a_chosen_write_or_sync() {
        for count in 0..6 {
            let disk = MemoryDisk::new();
            let store = disk.store();
            let told = Arc::new(Mutex::new(0));
            let tell = Arc::clone(&told);
            disk.cut_power_after(count, Box::new(move || *tell.lock() += 1));
            let mut acknowledged = 0;
            for n in 0..3u8 {
                let mut batch = Batch::new();
                batch.put(Table::Meta, [n], [n]);
                let committed = store.rows.commit(batch);
                let synced = store.rows.sync();
                acknowledged += u64::from(committed.is_ok() && synced.is_ok());
            }
            assert_eq!(acknowledged, count / 2);
            assert_eq!(*told.lock(), u64::from(count < 6));
            let after = disk.crash(&Rng::from_seed(count)).store();
            let kept = (0..3u8).filter(|n| value(&after, &[*n]).is_some()).count() as u64;
            assert!(kept == acknowledged || kept == count.div_ceil(2), "{kept}");
        }
    }

    #[test]
    fn scans_see_a_snapshot_and_may_write() {
        let store = Store::memory();
        let mut batch = Batch::new();
        for n in 0..10u8 {
            batch.put(Table::Inode, [n], [n]);
        }
        batch.put(Table::Dirent, [0], [0]);
        store.rows.commit(batch).unwrap();
        let mut seen = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            let mut batch = Batch::new();
            batch.delete(Table::Inode, [key[0] + 1]);
            store.rows.commit(batch).unwrap();
            seen.push(key[0]);
            ControlFlow::Continue(())
        };
        store
            .rows
            .scan(Table::Inode, &[2], Some(&[5]), &mut visit)
            .unwrap();
        assert_eq!(seen, [2, 3, 4]);
        let mut seen = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            seen.push(key[0]);
            ControlFlow::Continue(())
        };
        store
            .rows
            .scan_rev(Table::Inode, &[], None, &mut visit)
            .unwrap();
        assert_eq!(seen, [9, 8, 7, 6, 2, 1, 0]);
    }

    #[test]
    fn a_full_disk_changes_nothing_and_a_failed_sync_poisons() {
        let disk = MemoryDisk::new();
        let store = disk.store();
        disk.set_capacity(Some(100));
        let id = ChunkId([1; 32]);
        assert!(matches!(
            store.chunks.put(id, &[0; 200]),
            Err(StoreError::Full)
        ));
        store.chunks.put(id, &[0; 50]).unwrap();
        assert!(disk.rot(id));
        disk.fail_syncs(true);
        assert!(matches!(store.sync(), Err(StoreError::Poisoned)));
        disk.fail_syncs(false);
        let mut batch = Batch::new();
        batch.put(Table::Meta, b"k", b"v");
        assert!(matches!(
            store.rows.commit(batch),
            Err(StoreError::Poisoned)
        ));
        assert!(store.chunks.get(id).unwrap().is_some());
    }
}
