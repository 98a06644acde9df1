//! The local disk: the row database and the sealed chunks of one peer, each with a memory twin.
//!
//! Owns: [`Rows`] (an ordered, transactional key/value table set), [`Chunks`] (sealed chunks by
//! id), [`Store`] (the two together), [`state::StateDir`] (the folder they live in, its lock and its
//! format version), [`codec`] (how row values are encoded), [`memory::MemoryDisk`] (the twin, which
//! can also crash). Must never know: the network, what rows mean, plaintext of chunks.
//!
//! Order of durability: a chunk is durable before the rows that name it, so callers that need both
//! use [`Store::sync`]. Between syncs the operating system may write anything; what survives a power
//! cut is everything synced, and of the rows committed later a prefix in commit order. A process
//! that is killed loses nothing that was committed or put.

pub mod chunks;
pub mod codec;
pub mod disk;
pub mod memory;
pub mod state;

pub mod buffered;
pub mod tree;

mod batch;
mod beside;
mod compact;
mod current;
mod error;
mod first_start;
mod footprint;
mod gate;
mod group;
mod holder;
mod layer;
mod local;
mod mark;
mod memtable;
mod opening;
mod rebuild;
mod rescue;
mod space;
mod staged;
mod table;
#[cfg(test)]
mod told;
mod trial;
mod wal;
mod whole;

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub use batch::Batch;
pub use beside::BesideRows;
pub use chunks::Adopted;
pub use error::StoreError;
pub use first_start::is_founded;
pub use footprint::{Footprint, Held};
pub use gate::Gate;
pub use holder::holder;
pub use layer::{Filling, IsLayered, LayerRows, LayeredRows, MoveVisitor};
pub use rebuild::Rebuild;
pub use rescue::Rescued;
pub use state::StateDir;
pub use table::Table;

use crate::base::ChunkId;
use crate::base::memory::Budget;
use crate::crypto::{CHUNK_HEAD_BYTES, LocalKey};

/// Longest key of a row: what the row database can hold less the table tag.
pub const KEY_MAX_BYTES: usize = 4096;

/// Largest value of a row: a full segment with room for its header and seal.
pub const VALUE_MAX_BYTES: usize = 32 << 20;

/// Greatest batch that goes to the row log as one, in bytes of values; far below what its recovery
/// reads as one record. A greater one goes in steps (`store/staged.rs`).
pub(crate) const BATCH_MAX_BYTES: usize = 128 << 20;

/// Largest sealed chunk that [`Chunks::put`] takes: a full chunk with room for its seal.
pub const SEALED_MAX_BYTES: usize = (crate::base::limits::CHUNK_BYTES as usize) + 4096;

/// What a scan calls with the key and the value of each row.
pub type RowVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// What a scan of keys calls with each.
pub type KeyVisitor<'a> = dyn FnMut(&[u8]) -> ControlFlow<()> + 'a;

/// A row that was frozen: its table, key and value.
pub type FrozenRow = (Table, Vec<u8>, Vec<u8>);

/// The rows that [`Rows::freeze`] returns.
pub type FrozenRows<'a> = Box<dyn Iterator<Item = Result<FrozenRow, StoreError>> + 'a>;

/// An ordered set of tables with atomic batches.
///
/// Reads see every batch committed before them. The order of commits is the order of recovery: of
/// the batches that were not yet synced a crash keeps a prefix.
pub trait Rows: Send + Sync + std::fmt::Debug {
    /// Returns the value of a row, `None` where there is no such row.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Calls `f` for each row with `start <= key < end` in ascending key order until it breaks.
    ///
    /// The scan sees the rows as they were when it began; `f` may read and commit.
    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError>;

    /// Calls `f` for the same rows as [`Rows::scan`], in descending key order.
    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError>;

    /// Calls `f` with the keys of the same rows as [`Rows::scan`]: nothing reads or opens values.
    fn scan_keys(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut KeyVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.scan(table, start, end, &mut |key, _| f(key))
    }

    /// Returns the rows of the tables from one to another, by table and in key order, as they are now: they
    /// stay so for as long as the caller takes, who holds off no commit. `None` where that cannot be told now,
    /// as rows are on their way from one table to another, or by such rows at all.
    fn freeze(&self, _: Table, _: Table) -> Result<Option<FrozenRows<'_>>, StoreError> {
        Ok(None)
    }

    /// Applies all changes of a batch or none; visible at once, durable at the next sync.
    ///
    /// [`StoreError::Full`] leaves the rows as they were. Each other error poisons the store.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// Waits until most of what was committed before is where it does not lie in memory any more. Who commits
    /// very much calls it in between, and holds no lock that others wait for.
    fn settle(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Tells whether so many bytes could be written without eating into what is kept back for removals.
    fn has_room(&self, _bytes: u64) -> bool {
        true
    }

    /// Makes everything that was committed before this call durable.
    ///
    /// Concurrent callers share one flush of the disk. A failure poisons the store: what the disk
    /// holds is unknown from then on, so writes are refused and reads still served.
    fn sync(&self) -> Result<(), StoreError>;
}

/// How much the chunk store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChunkUsage {
    /// Chunks held.
    pub count: u64,
    /// Sum of their sealed lengths.
    pub bytes: u64,
    /// The first eight bytes of their ids, each with all others by exclusive or: which they are.
    pub ids: u64,
}

impl ChunkUsage {
    /// Returns what an id adds to [`ChunkUsage::ids`], and takes away again.
    pub fn of(id: ChunkId) -> u64 {
        id.0.first_chunk()
            .map_or(0, |first| u64::from_le_bytes(*first))
    }
}

/// Sealed chunks by id.
///
/// The store does not hash what it takes and gives: [`Chunks::get`] after a disk fault can return
/// bytes that do not match the id, so the caller that needs certainty checks `BLAKE3(bytes) == id`,
/// deletes what fails and fetches it anew.
pub trait Chunks: Send + Sync + std::fmt::Debug {
    /// Stores a chunk; does nothing where it is already held. Durable at the next sync.
    ///
    /// [`StoreError::Full`] leaves the store as it was.
    fn put(&self, id: ChunkId, sealed: &[u8]) -> Result<(), StoreError>;

    /// Returns the sealed bytes as they lie on the disk, `None` where the chunk is not held.
    ///
    /// [`StoreError::Corrupt`] says that the disk holds fewer bytes than it should.
    fn get(&self, id: ChunkId) -> Result<Option<Bytes>, StoreError>;

    /// Returns a part of the sealed bytes as they lie on the disk, `None` where the chunk is not
    /// held: what `wanted` picks when it is told how many there are, up to their end.
    ///
    /// Nothing says that the part is the chunk's but that it opens under the head.
    fn get_part(
        &self,
        id: ChunkId,
        wanted: &dyn Fn(usize) -> Range<usize>,
    ) -> Result<Option<ChunkPart>, StoreError>;

    /// Returns the sealed length without reading the chunk, `None` where it is not held.
    fn len(&self, id: ChunkId) -> Result<Option<u64>, StoreError>;

    /// Forgets a chunk; its space returns to the disk after the next sync.
    fn delete(&self, id: ChunkId) -> Result<(), StoreError>;

    /// Makes the bytes of everything that was put before this call durable.
    ///
    /// The index lies in the rows: [`Store::sync`] makes both durable, in the right order.
    fn sync(&self) -> Result<(), StoreError>;

    /// Returns when the room of everything that was deleted before is free on the disk. Takes the
    /// disk's time.
    fn give_back(&self) -> Result<(), StoreError> {
        self.sync()
    }

    /// Calls `f` with the id and sealed length of each chunk, in id order, until it breaks.
    fn for_each(
        &self,
        f: &mut dyn FnMut(ChunkId, u64) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Returns how much is held.
    fn usage(&self) -> ChunkUsage;
}

/// A part of a sealed chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkPart {
    /// What the chunk begins with; zeros behind the end of a shorter one.
    pub head: [u8; CHUNK_HEAD_BYTES],
    /// Length of the sealed chunk.
    pub len: usize,
    /// The part.
    pub bytes: Bytes,
}

/// The rows and the chunks of one peer.
#[derive(Debug, Clone)]
pub struct Store {
    /// The row database.
    pub rows: Arc<dyn Rows>,
    /// The chunk store.
    pub chunks: Arc<dyn Chunks>,
    /// Closed when the folder is to be left as it is, but that more is appended.
    pub gate: Gate,
}

/// What may be chosen about a store on the local disk; nothing here changes the format.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Memory for blocks of the row database.
    pub row_cache_bytes: u64,
    /// Rows are gathered in memory up to about this size before they go to the row database.
    pub table_bytes: usize,
    /// Log files of rows that are in the row database are kept up to this size.
    pub log_bytes: u64,
    /// A chunk file that is as long as this is followed by a new one.
    pub chunk_file_max_bytes: u64,
    /// The file that takes up the reserve of the rows; `None` leaves the reserve to other programs.
    pub ballast: Option<PathBuf>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            row_cache_bytes: 64 << 20,
            table_bytes: 16 << 20,
            log_bytes: 0,
            chunk_file_max_bytes: 256 << 20,
            ballast: None,
        }
    }
}

impl StoreOptions {
    /// Returns the usual options, with as much memory as a budget has for them.
    pub fn within(budget: Budget) -> Self {
        let usual = Self::default();
        // Tables that are filled and flushed at once take several times this.
        let table_bytes = budget.part(usual.table_bytes as u64, 16);
        let table_bytes = table_bytes.max(TABLE_MIN_BYTES);
        Self {
            row_cache_bytes: budget.part(usual.row_cache_bytes, 8),
            table_bytes: usize::try_from(table_bytes).unwrap_or(usual.table_bytes),
            ..usual
        }
    }
}

/// With smaller tables each flush is more work than what it flushes.
const TABLE_MIN_BYTES: u64 = 1 << 20;

impl Store {
    /// Opens or creates the store in a state folder, which the caller holds as a [`StateDir`].
    ///
    /// Brings back everything that was synced, and of the later commits a prefix. Where this fails
    /// the folder is as it was; damage is told by [`StoreError::Unusable`].
    pub fn open(folder: &Path, key: &LocalKey) -> Result<Self, StoreError> {
        let options = StoreOptions {
            ballast: Some(folder.join(state::BALLAST_FILE)),
            ..StoreOptions::within(Budget::of_caches())
        };
        Self::open_with(folder, key, &options)
    }

    /// Opens or creates the store as [`Store::open`] does, with chosen sizes.
    pub fn open_with(
        folder: &Path,
        key: &LocalKey,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        opening::open(folder, key, options).map_err(|error| error.at(folder))
    }

    /// Returns what can still be read of a state folder that is damaged, as a store in memory, and
    /// how much is left out. Nothing in the folder is changed.
    pub fn rescue(folder: &Path, key: &LocalKey) -> Result<(Self, Rescued), StoreError> {
        rescue::open(folder, key)
    }

    /// Returns an empty store in memory, for tests; [`memory::MemoryDisk`] is the one that crashes.
    pub fn memory() -> Self {
        memory::MemoryDisk::plain().store()
    }

    /// Makes everything durable that was put and committed before: chunks first, then rows.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.chunks.sync()?;
        self.rows.sync()
    }
}
