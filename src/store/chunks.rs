//! Sealed chunks in append-only files, with their index in the rows.
//!
//! A chunk is one record of a chunk file, written with one call, and one index row that names the
//! place. The row is committed right after the bytes, so a killed process loses nothing; but a power
//! cut may keep the row and lose the bytes. Therefore each chunk is **fresh** (a second row says so)
//! until its bytes are synced, and opening reads the fresh ones and forgets those whose bytes do not
//! match their id. A deleted chunk is **dead** (a row says so) until its room is given back, which
//! waits until the deletion itself is durable: no durable index row ever names room given back.
//!
//! Departures: room is given back by punching holes; a file goes as a whole when nothing in it is
//! alive. Nothing is ever moved.
//!
//! Reading a chunk compares what lies there with what was asked for: the record names its chunk, and
//! the index row, which is sealed, has the head of the bytes. Who reads a part of one gets the head
//! from the row and opens the part with that. So records that were exchanged, by accident or on
//! purpose, are found.

mod adopt;
mod layout;
mod reclaim;
mod recover;

pub use self::adopt::Adopted;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::{Condvar, Mutex};

use self::layout::{FIRST_OFFSET, Head, Place, Totals};
use self::reclaim::Reclaimer;
use super::batch::Batch;
use super::disk::{Disk, DiskFile};
use super::gate::Gate;
use super::group::GroupSync;
use super::memory::check_sealed;
use super::space::{Reserve, Space};
use super::{ChunkPart, ChunkUsage, Chunks, Rows, StoreError, Table};
use crate::base::ChunkId;
use crate::crypto::chunk_head;

/// The chunks in the files of a [`Disk`].
#[derive(Debug)]
pub struct LocalChunks {
    core: Arc<Core>,
    reclaim: Reclaim,
}

/// Who gives back the room of deleted chunks.
#[derive(Debug)]
enum Reclaim {
    /// The caller of a sync, before it returns: one thread, one order.
    Inline,
    /// A thread of its own, because giving back room costs as much as a sync.
    Background(Reclaimer),
}

/// What the callers and the reclaiming thread share.
#[derive(Debug)]
struct Core {
    disk: Arc<dyn Disk>,
    rows: Arc<dyn Rows>,
    file_max_bytes: u64,
    space: Space,
    group: GroupSync,
    gate: Gate,
    /// Taken before the lock of `handles`, never the other way round. Held while the rows of a put
    /// or a deletion are committed, so that the totals in the rows follow those in memory.
    state: Mutex<State>,
    /// Signalled when a chunk is no longer busy.
    idle: Condvar,
    handles: Mutex<LruCache<u32, Arc<dyn DiskFile>>>,
    /// Held while room is given back.
    reclaiming: Mutex<()>,
    /// Counted up before room is given back, so that a reader notices that it may have read zeros.
    reclaims: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u32, FileState>,
    /// Where the next record goes; `None` before the first put.
    tail: Option<Tail>,
    /// Chunks that are being put or deleted by someone.
    busy: HashSet<ChunkId>,
    /// Chunks whose rows are committed and whose bytes are not yet synced.
    fresh: BTreeSet<Place>,
    /// Those of them that a copier of the folder may have missed: they stay fresh.
    late: BTreeSet<Place>,
    /// Files of the fresh chunks.
    dirty: BTreeMap<u32, Arc<dyn DiskFile>>,
    /// Places of deleted chunks whose room is not yet given back.
    dead: Vec<Place>,
    /// A file was made since the names were synced.
    new_names: bool,
}

#[derive(Debug, Default)]
struct FileState {
    totals: Totals,
    /// Records that are being written and have no rows yet.
    writing: u32,
}

#[derive(Debug, Clone)]
struct Tail {
    number: u32,
    offset: u64,
    file: Arc<dyn DiskFile>,
}

impl LocalChunks {
    /// Opens the chunk files of `disk` by their index in `rows`; room is given back by syncs.
    ///
    /// A file that reaches `file_max_bytes` is followed by a new one.
    pub fn open(
        disk: Arc<dyn Disk>,
        rows: Arc<dyn Rows>,
        file_max_bytes: u64,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            core: Arc::new(Core::open(disk, rows, file_max_bytes, Gate::default())?),
            reclaim: Reclaim::Inline,
        })
    }

    /// Opens the chunk files as [`LocalChunks::open`] does; a thread gives back room after syncs,
    /// while `gate` is open.
    pub fn open_with_thread(
        disk: Arc<dyn Disk>,
        rows: Arc<dyn Rows>,
        file_max_bytes: u64,
        gate: Gate,
    ) -> Result<Self, StoreError> {
        let core = Arc::new(Core::open(disk, rows, file_max_bytes, gate)?);
        let reclaimer = Reclaimer::start(Arc::clone(&core)).map_err(|e| failed("watch", e))?;
        Ok(Self {
            core,
            reclaim: Reclaim::Background(reclaimer),
        })
    }
}

impl Core {
    fn open(
        disk: Arc<dyn Disk>,
        rows: Arc<dyn Rows>,
        file_max_bytes: u64,
        gate: Gate,
    ) -> Result<Self, StoreError> {
        let state = recover::recover(&*disk, &*rows)?;
        let core = Self {
            space: Space::new(Arc::clone(&disk), FOLDER.into(), Reserve::CHUNKS),
            disk,
            rows,
            file_max_bytes,
            group: GroupSync::default(),
            gate,
            state: Mutex::new(state),
            idle: Condvar::new(),
            handles: Mutex::new(LruCache::new(HANDLES_MAX)),
            reclaiming: Mutex::new(()),
            reclaims: AtomicU64::new(0),
        };
        // What is fresh or dead since before is worth a sync.
        core.group.wrote();
        Ok(core)
    }

    fn place(&self, id: ChunkId) -> Result<Option<Place>, StoreError> {
        Ok(self.find(id)?.map(|(place, _)| place))
    }

    /// Returns where a chunk lies and what it begins with.
    fn find(&self, id: ChunkId) -> Result<Option<(Place, Head)>, StoreError> {
        match self.rows.get(Table::ChunkIndex, id.as_bytes())? {
            Some(row) => layout::parse_index(&row).map(Some),
            None => Ok(None),
        }
    }

    fn handle(&self, number: u32) -> Result<Arc<dyn DiskFile>, StoreError> {
        if let Some(file) = self.handles.lock().get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = match self.disk.open(&layout::file_name(number), false) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(LOST),
            opened => opened.map_err(|e| failed("open", e))?,
        };
        self.handles.lock().put(number, Arc::clone(&file));
        Ok(file)
    }

    /// Waits until nobody else puts or deletes this chunk, and keeps others waiting in turn.
    fn claim(&self, id: ChunkId) -> Claim<'_> {
        let mut state = self.state.lock();
        while !state.busy.insert(id) {
            self.idle.wait(&mut state);
        }
        Claim { core: self, id }
    }

    /// Reserves room for a record at the tail, in a new file where the last one is full.
    fn allocate(&self, len: u32) -> Result<(Place, Arc<dyn DiskFile>), StoreError> {
        let mut state = self.state.lock();
        let tail = match state.tail.take() {
            Some(tail) if tail.offset < self.file_max_bytes => tail,
            full => self.next_file(full, &mut state)?,
        };
        let place = Place {
            file: tail.number,
            offset: tail.offset,
            len,
        };
        state.files.entry(place.file).or_default().writing += 1;
        let file = Arc::clone(&tail.file);
        state.tail = Some(Tail {
            offset: place.end(),
            ..tail
        });
        Ok((place, file))
    }

    fn next_file(&self, full: Option<Tail>, state: &mut State) -> Result<Tail, StoreError> {
        let last = state
            .files
            .last_key_value()
            .map_or(0, |(number, _)| *number);
        let number = last + 1;
        let made = self
            .disk
            .open(&layout::file_name(number), true)
            .and_then(|file| {
                file.write_at(&layout::file_header(number), &[], 0)?;
                Ok(file)
            });
        match made {
            Ok(file) => {
                state.new_names = true;
                self.handles.lock().put(number, Arc::clone(&file));
                Ok(Tail {
                    number,
                    offset: FIRST_OFFSET,
                    file,
                })
            }
            Err(e) => {
                state.tail = full;
                Err(failed("make", e))
            }
        }
    }

    /// Gives back what [`LocalChunks::allocate`] reserved for a record that did not come to be.
    fn abandon(&self, place: Place, file: &dyn DiskFile) {
        // No row names this room, so it may go at once; what cannot be given back stays a hole.
        let _ = file.punch(place.offset, place.end() - place.offset);
        let mut state = self.state.lock();
        if let Some(file) = state.files.get_mut(&place.file) {
            file.writing = file.writing.saturating_sub(1);
        }
        if let Some(tail) = &mut state.tail
            && tail.number == place.file
            && tail.offset == place.end()
        {
            tail.offset = place.offset;
        }
    }

    /// Commits the rows of a record whose bytes are written.
    fn enter(
        &self,
        id: ChunkId,
        place: Place,
        head: Head,
        file: &Arc<dyn DiskFile>,
    ) -> Result<usize, StoreError> {
        let mut state = self.state.lock();
        let entry = state.files.entry(place.file).or_default();
        let mut totals = entry.totals;
        totals.add(id, place);
        let mut batch = Batch::new();
        batch.put(
            Table::ChunkIndex,
            id.as_bytes(),
            layout::index_row(place, head),
        );
        batch.put(
            Table::ChunkFresh,
            place.to_key(),
            layout::fresh_row(id, place),
        );
        batch.put(Table::ChunkFile, place.file.to_be_bytes(), totals.to_row());
        self.rows.commit(batch)?;
        entry.totals = totals;
        entry.writing = entry.writing.saturating_sub(1);
        state.fresh.insert(place);
        if !self.gate.is_open() {
            state.late.insert(place);
        }
        state.dirty.insert(place.file, Arc::clone(file));
        Ok(state.fresh.len())
    }

    /// Makes the bytes of the fresh chunks durable.
    fn flush(&self) -> Result<(), StoreError> {
        let (dirty, fresh, new_names) = {
            let mut state = self.state.lock();
            (
                std::mem::take(&mut state.dirty),
                std::mem::take(&mut state.fresh),
                std::mem::take(&mut state.new_names),
            )
        };
        if new_names {
            self.disk.sync_names().map_err(|e| failed("sync", e))?;
        }
        for file in dirty.values() {
            file.sync_data().map_err(|e| failed("sync", e))?;
        }
        let mut batch = Batch::new();
        for place in fresh {
            if !self.state.lock().late.contains(&place) {
                batch.delete(Table::ChunkFresh, place.to_key());
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.rows.commit(batch)
    }
}

impl Core {
    /// Stores a chunk; returns how many are fresh, `None` where it was held already.
    fn put(&self, id: ChunkId, sealed: &[u8]) -> Result<Option<usize>, StoreError> {
        check_sealed(sealed)?;
        let _claim = self.claim(id);
        if self.place(id)?.is_some() {
            if matches!(self.get(id), Ok(Some(held)) if held == sealed) {
                return Ok(None);
            }
            // What the disk made of it is worth nothing.
            self.forget(id)?;
        }
        self.group.check()?;
        self.space.take(sealed.len() as u64, false)?;
        let (place, file) = self.allocate(sealed.len() as u32)?;
        let header = layout::record_header(id, place);
        let entered = file
            .write_at(&header, sealed, place.offset)
            .map_err(|e| failed("write", e))
            .and_then(|()| self.enter(id, place, chunk_head(sealed), &file));
        if entered.is_err() {
            self.abandon(place, &*file);
        }
        let fresh_count = entered?;
        self.group.wrote();
        Ok(Some(fresh_count))
    }

    fn get(&self, id: ChunkId) -> Result<Option<Bytes>, StoreError> {
        let whole = |place: Place| (place.offset, place.record_len());
        let Some((place, head, record)) = self.read(id, &whole)? else {
            return Ok(None);
        };
        let sealed = record.slice(layout::RECORD_HEADER_BYTES as usize..);
        if !record.starts_with(&layout::record_header(id, place)) || chunk_head(&sealed) != head {
            return Err(MISPLACED);
        }
        Ok(Some(sealed))
    }

    fn get_part(
        &self,
        id: ChunkId,
        wanted: &dyn Fn(usize) -> Range<usize>,
    ) -> Result<Option<ChunkPart>, StoreError> {
        let part = |place: Place| {
            let len = place.len as usize;
            let Range { start, end } = wanted(len);
            let end = end.min(len);
            (
                place.body() + start.min(end) as u64,
                end.saturating_sub(start),
            )
        };
        let read = self.read(id, &part)?;
        Ok(read.map(|(place, head, bytes)| ChunkPart {
            head,
            len: place.len as usize,
            bytes,
        }))
    }

    /// Reads what `part` picks (offset in the file, length) where a chunk lies.
    fn read(
        &self,
        id: ChunkId,
        part: &dyn Fn(Place) -> (u64, usize),
    ) -> Result<Option<(Place, Head, Bytes)>, StoreError> {
        loop {
            let reclaims = self.reclaims.load(Ordering::Acquire);
            let Some((place, head)) = self.find(id)? else {
                return Ok(None);
            };
            let (offset, len) = part(place);
            let read = self
                .handle(place.file)
                .and_then(|file| file.read_at(len, offset).map_err(|e| failed("read", e)));
            // The chunk may have been deleted since the index was read, and its room given back.
            if self.reclaims.load(Ordering::Acquire) != reclaims && self.place(id)? != Some(place) {
                continue;
            }
            let bytes = read?;
            if bytes.len() != len {
                return Err(LOST);
            }
            return Ok(Some((place, head, bytes)));
        }
    }

    fn delete(&self, id: ChunkId) -> Result<(), StoreError> {
        let _claim = self.claim(id);
        self.forget(id)
    }

    /// Deletes a chunk that the caller has claimed.
    fn forget(&self, id: ChunkId) -> Result<(), StoreError> {
        let Some(place) = self.place(id)? else {
            return Ok(());
        };
        self.group.check()?;
        {
            let mut state = self.state.lock();
            let entry = state.files.entry(place.file).or_default();
            let mut totals = entry.totals;
            totals.remove(id, place);
            let mut batch = Batch::new();
            batch.delete(Table::ChunkIndex, id.as_bytes());
            batch.delete(Table::ChunkFresh, place.to_key());
            batch.put(Table::ChunkDead, place.to_key(), place.len.to_le_bytes());
            batch.put(Table::ChunkFile, place.file.to_be_bytes(), totals.to_row());
            self.rows.commit(batch)?;
            entry.totals = totals;
            state.fresh.remove(&place);
            state.dead.push(place);
        }
        self.group.wrote();
        Ok(())
    }
}

impl Chunks for LocalChunks {
    fn put(&self, id: ChunkId, sealed: &[u8]) -> Result<(), StoreError> {
        match self.core.put(id, sealed)? {
            Some(fresh_count) if fresh_count >= FRESH_MAX => self.sync(),
            _ => Ok(()),
        }
    }

    fn get(&self, id: ChunkId) -> Result<Option<Bytes>, StoreError> {
        self.core.get(id)
    }

    fn get_part(
        &self,
        id: ChunkId,
        wanted: &dyn Fn(usize) -> Range<usize>,
    ) -> Result<Option<ChunkPart>, StoreError> {
        self.core.get_part(id, wanted)
    }

    fn len(&self, id: ChunkId) -> Result<Option<u64>, StoreError> {
        Ok(self.core.place(id)?.map(|place| u64::from(place.len)))
    }

    fn delete(&self, id: ChunkId) -> Result<(), StoreError> {
        self.core.delete(id)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let core = &self.core;
        match &self.reclaim {
            Reclaim::Inline => core.group.sync(|| {
                core.flush()?;
                core.reclaim(&mut || false)
            }),
            Reclaim::Background(reclaimer) => {
                core.group.sync(|| core.flush())?;
                // Not for nothing: each fsync comes here.
                if !core.state.lock().dead.is_empty() {
                    reclaimer.wake();
                }
                Ok(())
            }
        }
    }

    fn give_back(&self) -> Result<(), StoreError> {
        let core = &self.core;
        core.group.sync(|| core.flush())?;
        core.reclaim(&mut || false)?;
        core.settle()
    }

    fn for_each(
        &self,
        f: &mut dyn FnMut(ChunkId, u64) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut result = Ok(());
        let mut visit = |key: &[u8], row: &[u8]| {
            let id = ChunkId::from_slice(key).ok_or(StoreError::Corrupt {
                what: "a key of the chunk index",
            });
            match id.and_then(|id| Ok((id, layout::parse_index(row)?))) {
                Ok((id, (place, _))) => f(id, u64::from(place.len)),
                Err(e) => {
                    result = Err(e);
                    ControlFlow::Break(())
                }
            }
        };
        self.core
            .rows
            .scan(Table::ChunkIndex, &[], None, &mut visit)?;
        result
    }

    fn usage(&self) -> ChunkUsage {
        let state = self.core.state.lock();
        let mut usage = ChunkUsage::default();
        for file in state.files.values() {
            usage.count += file.totals.count;
            usage.bytes += file.totals.bytes;
            usage.ids ^= file.totals.ids;
        }
        usage
    }
}

/// The right to put or delete one chunk, until dropped.
struct Claim<'a> {
    core: &'a Core,
    id: ChunkId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.core.state.lock().busy.remove(&self.id);
        self.core.idle.notify_all();
    }
}

fn failed(op: &'static str, source: io::Error) -> StoreError {
    StoreError::io(op, Path::new(FOLDER), source)
}

/// What messages call the chunk files; a [`Disk`] has no path.
const FOLDER: &str = "the chunk files";

const LOST: StoreError = StoreError::Corrupt {
    what: "a chunk file is shorter than its index says, or missing",
};

const MISPLACED: StoreError = StoreError::Corrupt {
    what: "a chunk file has something else where a chunk should be",
};

/// Chunk files kept open: 32 GiB of chunks at 256 MiB each, of the 1024 descriptors of a process.
const HANDLES_MAX: std::num::NonZeroUsize = std::num::NonZeroUsize::new(128).unwrap();

/// So many chunks may wait for a sync; a gigabyte that opening would have to read and hash.
const FRESH_MAX: usize = 1024;

#[cfg(test)]
mod tests;
