//! A change of the books: rows and totals together.

use std::collections::{BTreeMap, HashSet};

use lru::LruCache;
use parking_lot::MutexGuard;

use super::Ledger;
use super::holding::{Holding, Kind};
use super::missing::missing_key;
use super::window::Windows;
use crate::base::limits::REPLICAS;
use crate::base::{ChunkId, PeerId};
use crate::replica::ReplicaError;
use crate::store::{Batch, StoreError, Table, codec};

/// Totals of the books.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::replica) struct Counters {
    pub(in crate::replica) held_count: u64,
    pub(in crate::replica) held_bytes: u64,
    pub(in crate::replica) cached_count: u64,
    pub(in crate::replica) cached_bytes: u64,
    pub(in crate::replica) pending_count: u64,
    pub(in crate::replica) pending_bytes: u64,
    pub(in crate::replica) queues: BTreeMap<PeerId, Queue>,
    /// The pending ones by the number of disks that they are on, the last one and more.
    by_disks: [u64; REPLICAS + 1],
}

impl Counters {
    /// Returns the fewest disks that a pending chunk is on.
    pub(in crate::replica) fn fewest(&self) -> Option<usize> {
        self.by_disks.iter().position(|count| *count > 0)
    }

    fn count_disks(&mut self, holding: &Holding, add: bool) {
        if let Some(count) = self.by_disks.get_mut(holding.disks().min(REPLICAS)) {
            *count = if add {
                count.saturating_add(1)
            } else {
                count.saturating_sub(1)
            };
        }
    }
}

/// What one peer is still to be asked and sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::replica) struct Queue {
    pub(in crate::replica) count: u64,
    pub(in crate::replica) bytes: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) counters: Counters,
    /// The evictable chunks, most recently used first.
    pub(super) cached: LruCache<ChunkId, u32>,
    /// Chunks that were made here since a collection began; `None` while there is none.
    pub(super) authored: Option<HashSet<ChunkId>>,
    /// Chunks that are not evicted.
    pub(super) pinned: HashSet<ChunkId>,
    /// What is due next to each peer.
    pub(super) windows: Windows,
    /// What this peer has to hold or to send and has lost, and whether nobody was found who has it.
    pub(super) missing: BTreeMap<ChunkId, bool>,
}

/// A change of the books under way: holds the lock, collects the rows, counts when they are in.
pub(super) struct Edit<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) state: MutexGuard<'a, State>,
    pub(super) batch: Batch,
    pub(super) changes: Vec<(ChunkId, Option<Holding>, Option<Holding>)>,
    /// Rows of queues that are dropped and were not counted.
    pub(super) unqueued: Vec<(PeerId, ChunkId)>,
}

impl Edit<'_> {
    /// Replaces what is known of a chunk; `old` is what the row says now. Once a chunk and edit.
    pub(super) fn set(mut self, id: ChunkId, old: Option<Holding>, new: Option<Holding>) -> Self {
        if new.is_some() && self.state.missing.remove(&id).is_some() {
            self.batch.delete(Table::Replica, missing_key(&id));
        }
        match &new {
            Some(new) => self.batch.put(Table::Held, id.0, codec::encode(new)),
            None => self.batch.delete(Table::Held, id.0),
        }
        let none = Vec::new();
        let queued = |holding: &Option<Holding>| holding.as_ref().map(|h| h.queued.clone());
        let before = queued(&old).unwrap_or_else(|| none.clone());
        let now = queued(&new).unwrap_or(none);
        let len = new
            .as_ref()
            .or(old.as_ref())
            .map_or(0, |holding| holding.len);
        for peer in before.iter().filter(|peer| !now.contains(peer)) {
            self.batch.delete(Table::Pending, join(peer, &id));
        }
        for peer in now.iter().filter(|peer| !before.contains(peer)) {
            self.batch
                .put(Table::Pending, join(peer, &id), len.to_le_bytes());
        }
        self.changes.push((id, old, new));
        self
    }

    /// Drops a queue row whose chunk has no row of its own any more. Such a row is not counted.
    pub(super) fn unqueue(mut self, peer: PeerId, id: ChunkId) -> Result<Self, ReplicaError> {
        let key = join(&peer, &id);
        if self.ledger.store.rows.get(Table::Pending, &key)?.is_some() {
            self.batch.delete(Table::Pending, key);
            self.unqueued.push((peer, id));
        }
        Ok(self)
    }

    pub(super) fn commit(self) -> Result<(), ReplicaError> {
        self.commit_then(|| Ok(()))
    }

    /// Commits the rows, counts, then runs `then` still under the lock.
    pub(super) fn commit_then(
        mut self,
        then: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), ReplicaError> {
        if !self.batch.is_empty() {
            self.ledger
                .store
                .rows
                .commit(std::mem::take(&mut self.batch))?;
            for (id, old, new) in std::mem::take(&mut self.changes) {
                self.state.count(id, old.as_ref(), new.as_ref());
            }
            for (peer, id) in &self.unqueued {
                self.state.windows.remove(peer, id);
            }
        }
        Ok(then()?)
    }
}

impl State {
    /// Returns the totals of no rows; up to `window_max` ids of each queue will be kept.
    pub(super) fn new(window_max: usize) -> Self {
        Self {
            counters: Counters::default(),
            cached: LruCache::unbounded(),
            authored: None,
            pinned: HashSet::new(),
            windows: Windows::new(window_max),
            missing: BTreeMap::new(),
        }
    }

    /// Moves the totals from what was known of a chunk to what is known now.
    pub(super) fn count(&mut self, id: ChunkId, old: Option<&Holding>, new: Option<&Holding>) {
        let counters = &mut self.counters;
        if let Some(old) = old {
            let len = u64::from(old.len);
            if old.kind == Kind::Cached {
                subtract(&mut counters.cached_count, &mut counters.cached_bytes, len);
            } else {
                subtract(&mut counters.held_count, &mut counters.held_bytes, len);
            }
            if old.short {
                subtract(
                    &mut counters.pending_count,
                    &mut counters.pending_bytes,
                    len,
                );
                counters.count_disks(old, false);
            }
            for peer in &old.queued {
                self.windows.remove(peer, &id);
                if let Some(queue) = counters.queues.get_mut(peer) {
                    subtract(&mut queue.count, &mut queue.bytes, len);
                    if queue.count == 0 {
                        counters.queues.remove(peer);
                        self.windows.clear(peer);
                    }
                }
            }
        }
        if let Some(new) = new {
            let len = u64::from(new.len);
            if new.kind == Kind::Cached {
                add(&mut counters.cached_count, &mut counters.cached_bytes, len);
            } else {
                add(&mut counters.held_count, &mut counters.held_bytes, len);
            }
            if new.short {
                add(
                    &mut counters.pending_count,
                    &mut counters.pending_bytes,
                    len,
                );
                counters.count_disks(new, true);
            }
            for peer in &new.queued {
                let queue = counters.queues.entry(*peer).or_default();
                add(&mut queue.count, &mut queue.bytes, len);
                self.windows.insert(*peer, id);
            }
        }
        match new {
            Some(new) if new.kind == Kind::Cached => {
                self.cached.put(id, new.len);
            }
            _ => {
                self.cached.pop(&id);
            }
        }
    }
}

fn add(count: &mut u64, bytes: &mut u64, len: u64) {
    *count += 1;
    *bytes += len;
}

fn subtract(count: &mut u64, bytes: &mut u64, len: u64) {
    *count = count.saturating_sub(1);
    *bytes = bytes.saturating_sub(len);
}

/// Returns the key of a row of `Pending`.
pub(super) fn join(peer: &PeerId, id: &ChunkId) -> Vec<u8> {
    [peer.0, id.0].concat()
}
