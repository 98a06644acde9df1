//! Contents: plaintext chunks in and out of the sealed ones.
//!
//! Owns: the sealing pipeline ([`Data::seal`]), the plaintext cache in memory (`cache.rs`), the
//! sharing of one opening among its readers (`flight.rs`), [`Readahead`] and background prefetch.
//! Must never know: files, extents, which peer holds what.
//!
//! ```text
//!   seal ──> pool: seal ──> replica.put ──> cache ──> ticket
//!   read ──> cache ──> replica.get_part ──> open its frames      (any thread)
//!                 ├──> replica.fetch_part ──> open ──> cache     (runtime; a few frames)
//!                 └──> replica.fetch ──> open ──> cache          (runtime)
//!   prefetch ──> pool: replica.get ──> open ──> cache
//! ```
//!
//! A read opens the frames that hold its range. What it takes of a frame leaves the rest for the next
//! read, so such frames are cached; whole ones go to the kernel's cache, and here would be twice.
//! Whole chunks are opened ahead of who reads on; from a peer they come whole, unless somebody reads
//! a few frames here and there (`parts.rs`).

mod cache;
mod failures;
mod flight;
mod parts;
mod prefetch;
mod readahead;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc;

pub use self::parts::SMALL_READ_BYTES;
pub use self::readahead::Readahead;

use self::cache::{Cache, Key};
use self::failures::Failures;
use self::flight::{Flight, Goal};
use self::parts::Parts;
use crate::base::limits::{CHUNK_BYTES, FETCH_TIMEOUT};
use crate::base::task::{Pool, spawn};
use crate::base::time::timeout;
use crate::base::worker::Workers;
use crate::base::{ChunkId, Clock};
use crate::crypto::{CryptoError, FRAME_BYTES, Frames, VolumeKeys};
use crate::replica::{Collection, Replica, ReplicaError};
use crate::store::ChunkPart;
use crate::transport::Priority;

/// Chunks being sealed at once: 16 of 1 MiB, plain and sealed, are 32 MiB.
pub const SEALS_IN_FLIGHT_MAX: usize = 16;

/// Chunks being prefetched at once: enough to keep several holders busy, 16 MiB in all.
pub const PREFETCH_PARALLEL: usize = 8;

/// Chunks that may wait to be prefetched; more are not remembered, as prefetching is a hint.
pub const PREFETCH_QUEUE_MAX: usize = 256;

/// Says why contents cannot be read or kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DataError {
    /// The chunk cannot be had or kept: missing, corrupt, unreachable, late, or the disk failed.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// The bytes are those that the id names, but this volume's keys do not open them.
    #[error("chunk {id} does not open: {source}")]
    Open {
        /// The chunk.
        id: ChunkId,
        /// Why not.
        source: CryptoError,
    },
    /// A plaintext is larger than a chunk.
    #[error("{len} bytes do not fit a chunk")]
    TooLarge {
        /// Length given.
        len: usize,
    },
    /// The work was given up: the program is ending, or has a mistake that was logged.
    #[error("the work on a chunk was given up")]
    Aborted,
}

/// Names a sealed chunk and says how long its plaintext is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// The sealed chunk.
    pub id: ChunkId,
    /// Bytes of the plaintext.
    pub len: u32,
}

/// The plaintext side of the chunks of one volume.
///
/// `seal` and `read_local` may block the calling thread for as long as the local disk or the pool
/// takes, never for a peer; call them from a thread that the pool does not need. `read` is for the
/// runtime.
pub struct Data {
    keys: Arc<VolumeKeys>,
    replica: Arc<Replica>,
    pool: Pool,
    clock: Arc<dyn Clock>,
    /// Innermost lock.
    cache: Mutex<Cache>,
    /// What is being opened. Taken before `cache`, never held across an await.
    flights: Mutex<BTreeMap<Goal, Arc<Flight>>>,
    /// A leaf lock.
    parts: Mutex<Parts>,
    /// A leaf lock.
    failures: Mutex<Failures>,
    seals: Arc<Gate>,
    prefetches: mpsc::Sender<ChunkId>,
    /// Taken by [`Data::run`].
    prefetch_queue: Mutex<Option<mpsc::Receiver<ChunkId>>>,
}

/// Returns how many chunks are sealed at once beside a cache: each takes 2 MiB meanwhile.
fn seals_in_flight(memory_cache_bytes: u64) -> usize {
    let fit = usize::try_from(memory_cache_bytes / SEAL_CACHE_BYTES).unwrap_or(usize::MAX);
    fit.clamp(SEALS_IN_FLIGHT_MIN, SEALS_IN_FLIGHT_MAX)
}

/// Bytes of the cache for each chunk that is sealed at once.
const SEAL_CACHE_BYTES: u64 = 8 << 20;

/// So many are sealed at once beside the smallest cache: one a core.
const SEALS_IN_FLIGHT_MIN: usize = 2;

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Data")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

impl Data {
    /// Returns the contents over `replica`, with at most `memory_cache_bytes` of plaintext in memory.
    pub fn new(
        keys: Arc<VolumeKeys>,
        replica: Arc<Replica>,
        pool: Pool,
        clock: Arc<dyn Clock>,
        memory_cache_bytes: u64,
    ) -> Arc<Self> {
        let (prefetches, prefetch_queue) = mpsc::channel(PREFETCH_QUEUE_MAX);
        Arc::new(Self {
            keys,
            replica,
            pool,
            clock,
            cache: Mutex::new(Cache::new(memory_cache_bytes)),
            flights: Mutex::new(BTreeMap::new()),
            failures: Mutex::default(),
            parts: Mutex::default(),
            seals: Arc::new(Gate::new(seals_in_flight(memory_cache_bytes))),
            prefetches,
            prefetch_queue: Mutex::new(Some(prefetch_queue)),
        })
    }

    /// Seals a plaintext of at most [`CHUNK_BYTES`] on the pool, stores it, queues it for its
    /// holders and keeps the plaintext in the cache.
    ///
    /// Blocks while [`SEALS_IN_FLIGHT_MAX`] chunks are being sealed, fewer beside a small cache. The
    /// chunk is in the store when the ticket says so, and durable at the store's next sync.
    pub fn seal(self: &Arc<Self>, plain: Bytes) -> SealTicket {
        let (sender, receiver) = blocking::sync_channel(1);
        let ticket = SealTicket { receiver };
        if plain.len() as u64 > CHUNK_BYTES {
            let _ = sender.send(Err(DataError::TooLarge { len: plain.len() }));
            return ticket;
        }
        let pass = Gate::enter(&self.seals);
        let data = Arc::clone(self);
        self.pool.run(move || {
            let outcome = data.seal_now(plain);
            drop(pass);
            let _ = sender.send(outcome);
        });
        ticket
    }

    /// Begins a collection: chunks that are sealed from now on are not given up by it.
    pub fn collection(&self) -> Collection<'_> {
        self.replica.collection()
    }

    fn seal_now(&self, plain: Bytes) -> Result<ChunkRef, DataError> {
        // At most CHUNK_BYTES, which `seal` checked.
        let len = plain.len() as u32;
        let sealed = self.keys.seal_chunk(&plain);
        self.replica.put(sealed.id, &sealed.bytes)?;
        self.cache.lock().insert(Key::whole(sealed.id), plain);
        Ok(ChunkRef { id: sealed.id, len })
    }

    /// Returns a part of a chunk's plaintext from memory or the local disk; `None` where the chunk
    /// must come from a peer.
    ///
    /// The part of `range` beyond the plaintext's end is cut off. A local copy of which the wanted
    /// frames are corrupt counts as not here.
    pub fn read_local(&self, id: ChunkId, range: Range<usize>) -> Result<Option<Bytes>, DataError> {
        if let Some(plain) = self.cached(id, &range) {
            return Ok(Some(plain));
        }
        // Where all of it is being opened, that ends sooner than another opening would.
        let flight = self.flights.lock().get(&Goal::whole(id)).cloned();
        if let Some(Ok(Some(plain))) = flight.and_then(|flight| flight.wait_local()) {
            return Ok(Some(slice(&plain, range)));
        }
        self.open_range(id, range)
    }

    /// Returns a part of a chunk's plaintext from memory, the local disk or a peer; gives up where
    /// nothing of it has come for `limit`.
    ///
    /// Readers of one chunk share one opening, and for a moment also its failure where no peer
    /// could give the chunk. Ranges are cut off as for [`Data::read_local`].
    pub async fn read(
        self: &Arc<Self>,
        id: ChunkId,
        range: Range<usize>,
        limit: Duration,
    ) -> Result<Bytes, DataError> {
        let goal = self.goal_of(id, &range)?;
        self.read_as(goal, range, limit, Priority::Awaited).await
    }

    async fn read_as(
        self: &Arc<Self>,
        goal: Goal,
        range: Range<usize>,
        limit: Duration,
        priority: Priority,
    ) -> Result<Bytes, DataError> {
        let id = goal.id;
        let started = self.clock.monotonic();
        let timed_out = || DataError::from(ReplicaError::TimedOut { id });
        if let Some(error) = self.failed_lately(id)? {
            return Err(error);
        }
        loop {
            let (flight, is_pilot) = match self.board(&goal, &range, priority) {
                Boarded::Cached(plain) => return Ok(plain),
                Boarded::Passenger(flight) => (flight, false),
                Boarded::Pilot(flight) => {
                    let (data, flown, goal) = (Arc::clone(self), Arc::clone(&flight), goal.clone());
                    // In the background: a reader that is interrupted leaves the others theirs.
                    spawn(async move { data.fly(goal, &flown, limit).await });
                    (flight, true)
                }
            };
            flight.transfer.raise(priority);
            let landed = loop {
                let moved_at = flight.transfer.moved_at().unwrap_or_default();
                let end = moved_at.max(started) + limit;
                let left = end.saturating_sub(self.clock.monotonic());
                if left.is_zero() {
                    return Err(timed_out());
                }
                if let Ok(landed) = timeout(left, flight.wait()).await {
                    break landed;
                }
            };
            match landed {
                Ok(Some(plain)) => return Ok(goal.cut(&plain, &range)),
                // Another reader looked only here, or had less time.
                Ok(None) => {}
                Err(DataError::Replica(ReplicaError::TimedOut { .. })) if !is_pilot => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns why a chunk could not be had a moment ago, unless it is here by now or on its way.
    fn failed_lately(&self, id: ChunkId) -> Result<Option<DataError>, DataError> {
        let Some(error) = self.failures.lock().lately(&id, self.clock.monotonic()) else {
            return Ok(None);
        };
        let is_coming = self.is_coming(&id) || self.is_cached(&id);
        Ok((!is_coming && !self.replica.is_local(id)?).then_some(error))
    }

    /// Brings chunks into memory in the background: a hint, dropped where there is too much.
    /// Nothing happens unless [`Data::run`] is running.
    pub fn prefetch(&self, ids: &[ChunkId]) {
        for id in ids {
            if !self.is_cached(id) && !self.is_coming(id) {
                let _ = self.prefetches.try_send(*id);
            }
        }
    }

    /// Works off what is to be prefetched, until the future is dropped; is listed in `workers`.
    pub async fn run(self: Arc<Self>, workers: Arc<Workers>) {
        let queue = self.prefetch_queue.lock().take();
        if let Some(queue) = queue {
            workers.run(prefetch::Prefetch::new(self, queue)).await;
        }
    }

    /// Tells whether a chunk's whole plaintext is in memory.
    pub fn is_cached(&self, id: &ChunkId) -> bool {
        self.cache.lock().contains(&Key::whole(*id))
    }

    /// Tells whether all of a chunk is being opened.
    fn is_coming(&self, id: &ChunkId) -> bool {
        self.flights.lock().contains_key(&Goal::whole(*id))
    }

    /// Returns the bytes of plaintext in memory.
    pub fn cached_bytes(&self) -> u64 {
        self.cache.lock().bytes()
    }

    /// Drops all plaintext from memory.
    pub fn clear_cache(&self) {
        self.cache.lock().clear();
    }

    /// Returns the sealed side.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// Finds a range in memory, or the opening of its goal under way, or begins one.
    fn board(&self, goal: &Goal, range: &Range<usize>, priority: Priority) -> Boarded {
        let mut flights = self.flights.lock();
        if let Some(plain) = self.cached(goal.id, range) {
            return Boarded::Cached(plain);
        }
        if let Some(flight) = flights.get(goal) {
            return Boarded::Passenger(Arc::clone(flight));
        }
        let flight = Arc::new(Flight::new(priority));
        flights.insert(goal.clone(), Arc::clone(&flight));
        Boarded::Pilot(flight)
    }

    /// Opens what is wanted of a chunk for everyone who waits for it.
    async fn fly(self: &Arc<Self>, goal: Goal, flight: &Arc<Flight>, limit: Duration) {
        let id = goal.id;
        let lead = Lead {
            data: self,
            goal: &goal,
            flight,
        };
        if let Some(frames) = &goal.frames {
            flight.go_remote();
            let outcome = self.fetch_frames(id, frames, limit, &flight.transfer).await;
            return lead.land(outcome.map(Some));
        }
        let (data, flown, of) = (Arc::clone(self), Arc::clone(flight), goal.clone());
        // The stage ends inside the job: with an inline pool no thread ever sees it begun.
        let local = move || {
            let outcome = data.open_local(id);
            if let Ok(None) = outcome {
                flown.go_remote();
            } else {
                Lead {
                    data: &data,
                    goal: &of,
                    flight: &flown,
                }
                .land(outcome.clone());
            }
            matches!(outcome, Ok(None))
        };
        if self.pool.call(local).await != Some(true) {
            return;
        }
        let fetched = self.replica.fetch_for(id, limit, &flight.transfer).await;
        let sealed = match self.note_fetched(id, fetched) {
            Ok(sealed) => sealed,
            Err(error) => return lead.land(Err(error)),
        };
        let data = Arc::clone(self);
        let opened = self.pool.call(move || data.open(id, &sealed)).await;
        lead.land(opened.unwrap_or(Err(DataError::Aborted)).map(Some));
    }

    /// Takes note of how a fetch ended.
    fn note_fetched<T>(
        &self,
        id: ChunkId,
        fetched: Result<T, ReplicaError>,
    ) -> Result<T, DataError> {
        let fetched = fetched.map_err(DataError::from);
        let now = self.clock.monotonic();
        let outcome = fetched.as_ref().map(|_| ());
        self.failures.lock().note(id, now, outcome);
        fetched
    }

    /// Returns a range of a chunk's plaintext that is in memory.
    fn cached(&self, id: ChunkId, range: &Range<usize>) -> Option<Bytes> {
        let mut cache = self.cache.lock();
        if let Some(plain) = cache.get(&Key::whole(id)) {
            return Some(slice(&plain, range.clone()));
        }
        let frame = range.start / FRAME_BYTES;
        let start = frame * FRAME_BYTES;
        if range.end > start + FRAME_BYTES {
            return None;
        }
        let plain = cache.get(&Key::frame(id, frame))?;
        Some(slice(
            &plain,
            range.start - start..range.end.saturating_sub(start),
        ))
    }

    /// Opens the frames of a local chunk that hold a range.
    fn open_range(&self, id: ChunkId, range: Range<usize>) -> Result<Option<Bytes>, DataError> {
        let of = |len| Frames::of_sealed(len).map(|frames| (frames, frames.holding(&range)));
        let wanted = |len| of(len).map_or(0..0, |(frames, wanted)| frames.sealed(&wanted));
        let part = match self.replica.get_part(id, &wanted) {
            Ok(Some(part)) => part,
            Ok(None) | Err(ReplicaError::Corrupt { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let opened = self.open_part(id, &part, &range);
        self.unless_damaged(id, opened)
    }

    /// Opens frames that hold a range of a chunk's plaintext, and keeps those that it does not take
    /// whole.
    fn open_part(
        &self,
        id: ChunkId,
        part: &ChunkPart,
        range: &Range<usize>,
    ) -> Result<Bytes, DataError> {
        let failed = |source| DataError::Open { id, source };
        let frames = Frames::of_sealed(part.len).ok_or_else(|| failed(CryptoError::Unauthentic))?;
        let wanted = frames.holding(range);
        let opened = self
            .keys
            .open_frames(&part.head, frames, wanted.clone(), &part.bytes);
        let plain = Bytes::from(opened.map_err(failed)?);
        let all = frames.plain(&wanted);
        let is_taken_whole =
            |held: &Range<usize>| range.start <= held.start && held.end <= range.end;
        // The first and the last one: one in between is taken whole.
        let last = wanted.end.saturating_sub(1);
        let edges = wanted
            .clone()
            .filter(|frame| *frame == wanted.start || *frame == last);
        for frame in edges {
            let held = frames.plain(&(frame..frame + 1));
            if is_taken_whole(&held) {
                continue;
            }
            let edge = slice(&plain, held.start - all.start..held.end - all.start);
            // A copy where there is more: a slice would keep all of it in memory.
            let edge = match wanted.len() {
                1 => edge,
                _ => Bytes::copy_from_slice(&edge),
            };
            self.cache.lock().insert(Key::frame(id, frame), edge);
        }
        Ok(slice(
            &plain,
            range.start.saturating_sub(all.start)..range.end.saturating_sub(all.start),
        ))
    }

    fn open_local(&self, id: ChunkId) -> Result<Option<Bytes>, DataError> {
        let opened = match self.replica.get_unchecked(id) {
            Ok(Some(sealed)) => self.open(id, &sealed),
            Ok(None) | Err(ReplicaError::Corrupt { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.unless_damaged(id, opened)
    }

    /// Passes on what was opened of a local chunk; `None` where it does not open as it is damaged.
    fn unless_damaged(
        &self,
        id: ChunkId,
        opened: Result<Bytes, DataError>,
    ) -> Result<Option<Bytes>, DataError> {
        let Err(DataError::Open { .. }) = &opened else {
            return opened.map(Some);
        };
        // Damaged bytes are found by this check, and fetched anew; whole ones that do not open were
        // sealed with another key.
        match self.replica.get_local(id) {
            Ok(Some(_)) => opened.map(Some),
            Ok(None) | Err(ReplicaError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens sealed bytes, whose seal is the check, and keeps the plaintext.
    fn open(&self, id: ChunkId, sealed: &[u8]) -> Result<Bytes, DataError> {
        let plain = self
            .keys
            .open_chunk(sealed)
            .map_err(|source| DataError::Open { id, source })?;
        let plain = Bytes::from(plain);
        self.cache.lock().insert(Key::whole(id), plain.clone());
        Ok(plain)
    }
}

/// A chunk on its way into the store.
#[derive(Debug)]
#[must_use = "the chunk is stored only when `wait` says so"]
pub struct SealTicket {
    receiver: blocking::Receiver<Result<ChunkRef, DataError>>,
}

impl SealTicket {
    /// Blocks until the chunk is in the store.
    pub fn wait(self) -> Result<ChunkRef, DataError> {
        self.receiver.recv().unwrap_or(Err(DataError::Aborted))
    }
}

/// What a reader finds.
enum Boarded {
    /// The range is in memory.
    Cached(Bytes),
    /// Another reader opens it.
    Passenger(Arc<Flight>),
    /// This reader is to open it.
    Pilot(Arc<Flight>),
}

/// The duty to end a flight, however its pilot ends.
struct Lead<'a> {
    data: &'a Data,
    goal: &'a Goal,
    flight: &'a Arc<Flight>,
}

impl Lead<'_> {
    fn land(&self, outcome: Result<Option<Bytes>, DataError>) {
        // Taken off the board first: who comes later finds the cache or begins anew.
        let mut flights = self.data.flights.lock();
        if flights
            .get(self.goal)
            .is_some_and(|flight| Arc::ptr_eq(flight, self.flight))
        {
            flights.remove(self.goal);
        }
        drop(flights);
        self.flight.land(outcome);
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if !self.flight.is_done() {
            self.land(Err(DataError::Aborted));
        }
    }
}

/// Lets a limited number in; the others block.
#[derive(Debug)]
struct Gate {
    free: Mutex<usize>,
    left: Condvar,
}

impl Gate {
    fn new(free: usize) -> Self {
        Self {
            free: Mutex::new(free),
            left: Condvar::new(),
        }
    }

    fn enter(gate: &Arc<Self>) -> Pass {
        let mut free = gate.free.lock();
        while *free == 0 {
            gate.left.wait(&mut free);
        }
        *free -= 1;
        Pass(Arc::clone(gate))
    }
}

/// A place behind a [`Gate`], given back when dropped.
#[derive(Debug)]
struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.left.notify_one();
    }
}

fn slice(plain: &Bytes, range: Range<usize>) -> Bytes {
    let start = range.start.min(plain.len());
    let end = range.end.clamp(start, plain.len());
    plain.slice(start..end)
}
