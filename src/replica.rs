//! Replication: where sealed chunks belong, bringing them there, and getting them back.
//!
//! Owns: [`placement`] (which peers hold a chunk), the books of what is here and why
//! (`ledger.rs`), the background push to the holders (`push.rs`), the check of everything held
//! after a change of the roster (`recheck.rs`), fetching with hedging (`fetch.rs`), serving other
//! peers (`serve.rs`). Must never know: keys, plaintext, files.
//!
//! ```text
//!   put ──> store + Held row + Pending rows ──> one worker a peer: Hold? ──> Put ──> confirmed
//!   fetch ──> expected holders, hedged ──> other links ──> lookup ──> verified, kept as cache
//! ```
//!
//! Invariants:
//! 1. Bytes that came from another peer are hashed before anything else is done with them.
//! 2. A chunk made here is never evicted before R peers confirmed that they hold it durably.
//! 3. A holder confirms only what is synced to its disk.
//! 4. What this peer has to hold or to send and has lost is on the books as missing (`mend.rs`):
//!    nothing counts as replicated because it was forgotten.
//! 5. `Pending` has a row for (peer, chunk) exactly where the chunk's `Held` row queues that peer.

pub mod limits;
pub mod peers;
pub mod placement;

mod collect;
mod crossing;
mod fetch;
mod ledger;
mod mend;
mod node_peers;
mod push;
mod recheck;
mod serve;
mod survey;
#[cfg(test)]
pub(crate) mod tests;
mod view;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

pub use self::collect::{Collected, Collection, Named, Names, Terms, UNNAMED_MIN};
pub use self::node_peers::NodePeers;
pub use self::peers::Peers;
pub use self::survey::Whereabouts;

use self::ledger::{Kind, Ledger};
use self::view::View;
use crate::base::memory::Budget;
use crate::base::task::Pool;
use crate::base::time::timeout;
use crate::base::told::{Changes, Told};
use crate::base::{ChunkId, Clock, PeerId};
use crate::store::{ChunkPart, Store, StoreError};

/// Says why a chunk cannot be had or kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReplicaError {
    /// Every peer that could hold the chunk was asked, and none has it.
    #[error("no peer has chunk {id}")]
    Missing {
        /// The chunk.
        id: ChunkId,
    },
    /// Holders of the chunk cannot be reached, and no other peer has it.
    #[error("{unreachable} holders of chunk {id} cannot be reached")]
    Unreachable {
        /// The chunk.
        id: ChunkId,
        /// How many of the expected holders gave no answer.
        unreachable: usize,
    },
    /// What holders sent, or the local disk holds, is not the chunk, and no good copy was found.
    #[error("the copies of chunk {id} that were found are corrupt")]
    Corrupt {
        /// The chunk.
        id: ChunkId,
    },
    /// The deadline passed first.
    #[error("chunk {id} was not received in time")]
    TimedOut {
        /// The chunk.
        id: ChunkId,
    },
    /// The local store failed.
    #[error(transparent)]
    Store(Arc<StoreError>),
}

impl From<StoreError> for ReplicaError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// What this peer gives to the swarm, and keeps for itself.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaConfig {
    /// Bytes of sealed chunks that this peer holds for others before it says that it is full.
    /// What is made here is always kept.
    pub capacity_bytes: u64,
    /// Bytes of sealed chunks that are kept only because they were read.
    pub cache_bytes: u64,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self {
            capacity_bytes: u64::MAX,
            cache_bytes: limits::DISK_CACHE_BYTES,
        }
    }
}

/// What is known of one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkStatus {
    /// Its sealed bytes are on this peer's disk.
    pub local: bool,
    /// Peers known to hold it, this one included where it is a holder; for a chunk that is not
    /// here, the expected ones.
    pub holders: Vec<PeerId>,
    /// How many holders there should be now.
    pub wanted: usize,
    /// Length of the sealed bytes; 0 where the chunk is not here.
    pub len: u64,
    /// It is not yet known to be on as many holders as wanted.
    pub pending: bool,
}

/// Totals of what is on this peer's disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Chunks that this peer must keep.
    pub held_count: u64,
    /// Their sealed bytes.
    pub held_bytes: u64,
    /// Chunks that may be evicted.
    pub cached_count: u64,
    /// Their sealed bytes.
    pub cached_bytes: u64,
    /// Chunks not yet known to be on R holders.
    pub pending_count: u64,
    /// Their sealed bytes.
    pub pending_bytes: u64,
}

/// How far replication is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncProgress {
    /// Chunks not yet known to be on R holders.
    pub pending_count: u64,
    /// Their sealed bytes.
    pub pending_bytes: u64,
    /// The roster changed and what is held is still being checked against it, so that the numbers
    /// may grow.
    pub checking: bool,
    /// Chunks that this peer has to hold or to send, and has lost.
    pub missing_count: u64,
    /// The fewest disks that any of the pending chunks is on; `None` where none is pending.
    pub fewest: Option<usize>,
    /// What waits for peers that have no session, in the order of their ids.
    pub blocked: Vec<Blocked>,
}

impl SyncProgress {
    /// Tells whether everything is on R holders.
    pub fn is_synced(&self) -> bool {
        self.pending_count == 0 && self.missing_count == 0 && !self.checking
    }
}

/// What waits for one unreachable peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// The peer.
    pub peer: PeerId,
    /// Chunks that it is to hold.
    pub count: u64,
    /// Their sealed bytes.
    pub bytes: u64,
}

/// The chunks of this peer and their copies elsewhere.
///
/// `put`, `get_local`, `status` and `usage` answer from the local disk and never wait for a peer.
/// Nothing is pushed unless [`Replica::run`] is running.
pub struct Replica {
    store: Store,
    peers: Option<Arc<dyn Peers>>,
    config: Mutex<ReplicaConfig>,
    clock: Arc<dyn Clock>,
    pool: Pool,
    ledger: Ledger,
    view: Mutex<Arc<View>>,
    /// Counts changes of the books and of the view; workers and progress watchers wait on it.
    changes: Arc<Told<u64>>,
    /// Told when a chunk is missing, and when one that is may be had.
    mend: Notify,
    /// Bounds the memory of the batches that are being sent.
    puts: Semaphore,
    /// Tells how many bytes of chunks the disk still takes; unset: any.
    room: OnceLock<Box<RoomOf>>,
    speeds: Mutex<BTreeMap<PeerId, fetch::Speed>>,
    /// Chunks on their way to peers that may ask for them meanwhile.
    crossing: crossing::Crossing,
    /// Until when a peer that said it is full is not chosen as a stand-in.
    full: Mutex<BTreeMap<PeerId, Duration>>,
    /// Tells what names chunks; unset where that cannot be seen.
    names: OnceLock<Arc<dyn Names>>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

/// Tells how many bytes of chunks the disk still takes.
type RoomOf = dyn Fn() -> u64 + Send + Sync;

impl Replica {
    /// Opens the books in `store`. Without `peers` this peer is alone and its own only holder.
    ///
    /// Reads every row of the books once.
    pub fn new(
        store: Store,
        peers: Option<Arc<dyn Peers>>,
        config: ReplicaConfig,
        clock: Arc<dyn Clock>,
        pool: Pool,
    ) -> Result<Arc<Self>, ReplicaError> {
        let ledger = Ledger::load(store.clone())?;
        let view = Mutex::new(Arc::new(View::of(peers.as_deref())));
        let replica = Arc::new(Self {
            store,
            peers,
            config: Mutex::new(config),
            clock,
            pool,
            ledger,
            view,
            changes: Arc::default(),
            mend: Notify::new(),
            puts: Semaphore::new(limits::puts_in_flight_mib(Budget::of_process())),
            room: OnceLock::new(),
            speeds: Mutex::new(BTreeMap::new()),
            crossing: crossing::Crossing::default(),
            full: Mutex::new(BTreeMap::new()),
            names: OnceLock::new(),
        });
        replica.resume_recheck()?;
        Ok(replica)
    }

    /// Returns the sealed bytes that wait to be sent to a peer.
    pub fn queued_bytes(&self, peer: &PeerId) -> u64 {
        self.ledger.queue(peer).bytes
    }

    /// Keeps a chunk that was made here and queues it for its holders.
    ///
    /// Durable at the next [`Store::sync`]. Putting the same chunk again changes nothing.
    pub fn put(&self, id: ChunkId, sealed: &[u8]) -> Result<(), ReplicaError> {
        self.store.chunks.put(id, sealed)?;
        let asked = self.newest_record();
        self.ledger
            .author(id, sealed, asked, &|id| self.view().plan(id))?;
        self.changed();
        self.trim()
    }

    /// Returns the sealed bytes of a chunk that is here, checked against its id; `None` where it
    /// is not here. A copy that is found to be damaged counts as not here from then on.
    pub fn get_local(&self, id: ChunkId) -> Result<Option<Bytes>, ReplicaError> {
        match self.get_unchecked(id)? {
            Some(sealed) if !is_chunk(&id, &sealed) => self.note_damage(id),
            checked => Ok(checked),
        }
    }

    /// Returns the sealed bytes as they lie on the local disk; `None` where the chunk is not here.
    ///
    /// For who opens them: a seal that opens is as good as the id, and costs no second pass over
    /// the bytes. What does not open is asked for again with [`Replica::get_local`].
    pub fn get_unchecked(&self, id: ChunkId) -> Result<Option<Bytes>, ReplicaError> {
        self.looked_up(id, self.store.chunks.get(id))
    }

    /// Returns a part of the sealed bytes as it lies on the local disk; `None` where the chunk is not
    /// here: what `wanted` picks when it is told how many there are.
    ///
    /// For who opens it, as [`Replica::get_unchecked`].
    pub fn get_part(
        &self,
        id: ChunkId,
        wanted: &dyn Fn(usize) -> Range<usize>,
    ) -> Result<Option<ChunkPart>, ReplicaError> {
        self.looked_up(id, self.store.chunks.get_part(id, wanted))
    }

    /// Keeps the books when a chunk was looked for on the local disk.
    fn looked_up<T>(
        &self,
        id: ChunkId,
        found: Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, ReplicaError> {
        match found {
            Ok(None) => {
                if self.ledger.holding(&id)?.is_some() && self.ledger.lose(id)? {
                    tracing::warn!(%id, "a chunk is gone from the local disk");
                    self.mend.notify_one();
                    self.changed();
                }
                Ok(None)
            }
            Ok(found) => {
                self.ledger.touch(&id);
                Ok(found)
            }
            Err(StoreError::Corrupt { .. }) => self.note_damage(id),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a damaged copy off the books; fails with [`ReplicaError::Corrupt`] the first time.
    fn note_damage<T>(&self, id: ChunkId) -> Result<Option<T>, ReplicaError> {
        if !self.ledger.lose(id)? {
            return Ok(None);
        }
        tracing::warn!(%id, "a chunk on the local disk is corrupt");
        self.mend.notify_one();
        self.changed();
        Err(ReplicaError::Corrupt { id })
    }

    /// Tells whether a chunk is on this peer's disk and not known to be damaged, without reading it.
    pub fn is_local(&self, id: ChunkId) -> Result<bool, ReplicaError> {
        Ok(self.store.chunks.len(id)?.is_some() && !self.ledger.is_missing(&id))
    }

    /// Returns what is known of a chunk.
    pub fn status(&self, id: ChunkId) -> Result<ChunkStatus, ReplicaError> {
        let plan = self.view().plan(&id);
        let Some(holding) = self.ledger.holding(&id)? else {
            return Ok(ChunkStatus {
                local: false,
                holders: plan.targets,
                wanted: plan.wanted,
                len: 0,
                pending: false,
            });
        };
        let mut holders = holding.confirmed;
        if holding.kind == Kind::Held {
            holders.push(plan.me);
            holders.sort_unstable();
        }
        Ok(ChunkStatus {
            local: true,
            holders,
            wanted: plan.wanted,
            len: u64::from(holding.len),
            pending: holding.short,
        })
    }

    /// Returns the totals.
    pub fn usage(&self) -> Usage {
        let counters = self.ledger.counters();
        Usage {
            held_count: counters.held_count,
            held_bytes: counters.held_bytes,
            cached_count: counters.cached_count,
            cached_bytes: counters.cached_bytes,
            pending_count: counters.pending_count,
            pending_bytes: counters.pending_bytes,
        }
    }

    /// Returns how many copies of a chunk there are to be: the lesser of [`REPLICAS`] and the
    /// peers of the roster that store.
    ///
    /// [`REPLICAS`]: crate::base::limits::REPLICAS
    pub fn wanted(&self) -> usize {
        self.view().wanted()
    }

    /// Changes what this peer gives and keeps: what is cached beyond it is given up, what is held
    /// for others stays.
    pub fn set_config(&self, config: ReplicaConfig) -> Result<(), ReplicaError> {
        *self.config.lock() = config;
        self.changed();
        self.trim()
    }

    /// Returns how far replication is now.
    pub fn progress(&self) -> SyncProgress {
        self.refresh_view();
        let counters = self.ledger.counters();
        let links = self
            .peers
            .as_ref()
            .map(|peers| peers.links())
            .unwrap_or_default();
        let is_linked = |peer: &PeerId| links.iter().any(|link| link.peer == *peer);
        SyncProgress {
            pending_count: counters.pending_count,
            pending_bytes: counters.pending_bytes,
            checking: self.view().is_unchecked(),
            missing_count: self.ledger.missing().len() as u64,
            fewest: counters.fewest(),
            blocked: counters
                .queues
                .iter()
                .filter(|(peer, _)| !is_linked(peer))
                .map(|(peer, queue)| Blocked {
                    peer: *peer,
                    count: queue.count,
                    bytes: queue.bytes,
                })
                .collect(),
        }
    }

    /// Returns what tells whenever [`Replica::progress`] may have changed.
    pub fn watch(&self) -> Changes {
        Changes::of(&self.changes)
    }

    /// Waits until every chunk is on R holders, as far as this peer has to see to it.
    ///
    /// Where `limit` passes first, returns what is still missing.
    pub async fn wait_synced(&self, limit: Duration) -> Result<(), SyncProgress> {
        let wait = async {
            let mut changes = self.watch();
            while !self.progress().is_synced() {
                changes.changed().await;
            }
        };
        timeout(limit, wait).await.map_err(|_| self.progress())
    }

    /// Gives up chunks that are only cached, the least recently used first, until there are `bytes`
    /// fewer of them; returns whether there were any.
    pub fn evict(&self, bytes: u64) -> Result<bool, ReplicaError> {
        let cached = self.ledger.counters().cached_bytes;
        Ok(self.ledger.evict(cached.saturating_sub(bytes))? > 0)
    }

    /// Returns when the room of everything that was given up is free on the disk.
    pub fn give_back(&self) -> Result<(), ReplicaError> {
        Ok(self.store.chunks.give_back()?)
    }

    /// Sets who tells how many bytes of chunks this peer's disk still takes. Set once.
    pub fn set_room(&self, room: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.room.set(Box::new(room));
    }

    /// Takes note of a change of the books.
    fn changed(&self) {
        self.changes.change(|count| *count = count.wrapping_add(1));
    }

    /// Tells whether `len` more bytes may be held for others.
    fn has_room(&self, len: usize) -> bool {
        let len = len as u64;
        self.ledger.held_bytes().saturating_add(len) <= self.config.lock().capacity_bytes
            && self.room.get().is_none_or(|room| room() >= len)
    }

    /// Brings the cache under its limit.
    fn trim(&self) -> Result<(), ReplicaError> {
        self.ledger.evict(self.config.lock().cache_bytes)?;
        Ok(())
    }
}

fn is_chunk(id: &ChunkId, sealed: &[u8]) -> bool {
    *blake3::hash(sealed).as_bytes() == id.0
}
