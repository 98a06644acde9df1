//! The books: which chunks are here and why, who confirmed to hold them, and what is still to be
//! sent to whom.
//!
//! Two tables. `Held` has a row for each chunk that is here: [`Holding`]. `Pending` is a queue for
//! each peer: the key is the peer's id and the chunk's, so what one peer is due is one scan, and a
//! peer that is away costs the others nothing. Counters are kept in memory and rebuilt from the
//! rows at the start.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::ReplicaError;
use super::limits::{HOLDERS_MAX, ROW_MAX_BYTES};
use crate::base::{ChunkId, PeerId};
use crate::store::{Batch, Store, Table, codec};

/// Why a chunk is on this peer's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// Fetched for a reader, or released: may be evicted at any time.
    Cached,
    /// Made here, but to be held by others: kept until R of them have it.
    Kept,
    /// This peer is one of the holders.
    Held,
}

/// What is known of a chunk that is on this peer's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holding {
    /// Length of the sealed bytes.
    pub(super) len: u32,
    /// Why it is here.
    pub(super) kind: Kind,
    /// Fewer than R peers are known to hold it, and this peer is to see to it.
    pub(super) short: bool,
    /// Others that confirmed to hold it durably, sorted.
    pub(super) confirmed: Vec<PeerId>,
    /// Others that are to be asked and sent it, sorted; each has a row of `Pending`.
    pub(super) queued: Vec<PeerId>,
}

/// Where a chunk belongs, as computed from the current candidates.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// This peer.
    pub(super) me: PeerId,
    /// The R holders by rank.
    pub(super) targets: Vec<PeerId>,
    /// How many holders there must be.
    pub(super) wanted: usize,
}

impl Holding {
    fn new(len: u32, kind: Kind) -> Self {
        Self {
            len,
            kind,
            short: false,
            confirmed: Vec::new(),
            queued: Vec::new(),
        }
    }

    /// Returns how many peers are known to hold the chunk, this one included.
    pub(super) fn copies(&self) -> usize {
        self.confirmed.len() + usize::from(self.kind == Kind::Held)
    }

    /// Follows from the rest: short or not, kept or released.
    fn settle(&mut self, wanted: usize) {
        self.short = self.kind != Kind::Cached && self.copies() < wanted;
        if self.kind == Kind::Kept && !self.short && self.queued.is_empty() {
            self.kind = Kind::Cached;
        }
    }

    fn confirm(&mut self, peer: PeerId) {
        remove(&mut self.queued, &peer);
        if self.confirmed.len() < HOLDERS_MAX {
            insert(&mut self.confirmed, peer);
        }
    }

    /// Takes over a new plan; `is_member` says who may still count as a holder.
    fn replan(&mut self, plan: &Plan, is_member: &dyn Fn(&PeerId) -> bool) {
        self.confirmed.retain(is_member);
        self.queued.clear();
        for target in &plan.targets {
            if *target != plan.me && !self.confirmed.contains(target) {
                insert(&mut self.queued, *target);
            }
        }
        self.kind = if plan.targets.contains(&plan.me) {
            Kind::Held
        } else {
            Kind::Kept
        };
        self.settle(plan.wanted);
    }
}

/// Totals of the books.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters {
    pub(super) held_count: u64,
    pub(super) held_bytes: u64,
    pub(super) cached_count: u64,
    pub(super) cached_bytes: u64,
    pub(super) pending_count: u64,
    pub(super) pending_bytes: u64,
    pub(super) queues: BTreeMap<PeerId, Queue>,
}

/// What one peer is still to be asked and sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Queue {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

#[derive(Debug)]
struct State {
    counters: Counters,
    /// The evictable chunks, most recently used first.
    cached: LruCache<ChunkId, u32>,
}

/// The books of one peer. All changes of the two tables, and all deletions of chunks, go through
/// it one after another.
#[derive(Debug)]
pub(super) struct Ledger {
    store: Store,
    /// Innermost lock of this room; never held across an await.
    state: Mutex<State>,
}

impl Ledger {
    /// Reads the rows and counts. A row that does not decode is dropped: the chunk is adopted as
    /// cached, or re-checked, later.
    pub(super) fn load(store: Store) -> Result<Self, ReplicaError> {
        let mut state = State {
            counters: Counters::default(),
            cached: LruCache::unbounded(),
        };
        store.rows.scan(Table::Held, &[], None, &mut |key, value| {
            if let (Some(id), Some(holding)) = (ChunkId::from_slice(key), decode(value)) {
                state.count(id, None, Some(&holding));
            }
            ControlFlow::Continue(())
        })?;
        let ledger = Self {
            store,
            state: Mutex::new(state),
        };
        ledger.adopt_strays()?;
        Ok(ledger)
    }

    /// Books chunks that are on disk without a row as cached: a crash fell between the two.
    fn adopt_strays(&self) -> Result<(), ReplicaError> {
        let booked = {
            let state = self.state.lock();
            state.counters.held_count + state.counters.cached_count
        };
        if self.store.chunks.usage().count == booked {
            return Ok(());
        }
        let mut on_disk: BTreeMap<ChunkId, u32> = BTreeMap::new();
        self.store.chunks.for_each(&mut |id, len| {
            on_disk.insert(id, u32::try_from(len).unwrap_or(u32::MAX));
            ControlFlow::Continue(())
        })?;
        let mut lost = Vec::new();
        self.store
            .rows
            .scan(Table::Held, &[], None, &mut |key, value| {
                if let (Some(id), Some(_)) = (ChunkId::from_slice(key), decode(value)) {
                    if on_disk.remove(&id).is_none() {
                        lost.push(id);
                    }
                }
                ControlFlow::Continue(())
            })?;
        for id in lost {
            self.forget(id)?;
        }
        for (id, len) in on_disk {
            self.edit()
                .set(id, None, Some(Holding::new(len, Kind::Cached)))
                .commit()?;
        }
        Ok(())
    }

    /// Returns the totals.
    pub(super) fn counters(&self) -> Counters {
        self.state.lock().counters.clone()
    }

    /// Returns the bytes that this peer must keep.
    pub(super) fn held_bytes(&self) -> u64 {
        self.state.lock().counters.held_bytes
    }

    /// Returns how much `peer` is still to be asked and sent.
    pub(super) fn queue(&self, peer: &PeerId) -> Queue {
        self.state
            .lock()
            .counters
            .queues
            .get(peer)
            .copied()
            .unwrap_or_default()
    }

    /// Returns what is known of a chunk; `None` where it is not here.
    pub(super) fn holding(&self, id: &ChunkId) -> Result<Option<Holding>, ReplicaError> {
        Ok(self
            .store
            .rows
            .get(Table::Held, &id.0)?
            .as_deref()
            .and_then(decode))
    }

    /// Books a chunk made here. `sealed` is written again where an eviction came between.
    ///
    /// `plan_of` is asked under the lock, here and elsewhere: so an edit that used the old
    /// candidates is in the rows before a check against the new ones scans them.
    pub(super) fn author(
        &self,
        id: ChunkId,
        sealed: &[u8],
        plan_of: &dyn Fn(&ChunkId) -> Plan,
    ) -> Result<(), ReplicaError> {
        let edit = self.edit();
        let old = self.holding(&id)?;
        if self.store.chunks.len(id)?.is_none() {
            self.store.chunks.put(id, sealed)?;
        }
        if old.as_ref().is_some_and(|old| old.kind != Kind::Cached) {
            return Ok(());
        }
        let mut new = Holding::new(len_of(sealed), Kind::Kept);
        new.replan(&plan_of(&id), &|_| true);
        edit.set(id, old, Some(new)).commit()
    }

    /// Books a chunk that another peer put here, or asked to hold, or that was fetched.
    ///
    /// `hold` false keeps what is held already and else books it as cached.
    pub(super) fn keep(&self, id: ChunkId, sealed: &[u8], hold: bool) -> Result<(), ReplicaError> {
        let edit = self.edit();
        let old = self.holding(&id)?;
        if self.store.chunks.len(id)?.is_none() {
            self.store.chunks.put(id, sealed)?;
        }
        let mut new = old
            .clone()
            .unwrap_or_else(|| Holding::new(len_of(sealed), Kind::Cached));
        if hold {
            new.kind = Kind::Held;
        }
        if old.as_ref() == Some(&new) {
            return Ok(());
        }
        edit.set(id, old, Some(new)).commit()
    }

    /// Turns cached chunks into held ones on request of a peer; returns for each id whether it is
    /// held now.
    pub(super) fn hold(&self, ids: &[ChunkId]) -> Result<Vec<bool>, ReplicaError> {
        let mut edit = self.edit();
        let mut flags = Vec::with_capacity(ids.len());
        for (index, id) in ids.iter().enumerate() {
            let old = self.holding(id)?;
            flags.push(old.is_some());
            // An id named twice is edited once, else it would be counted twice.
            let again = ids.iter().take(index).any(|other| other == id);
            if let Some(old) = old.filter(|old| old.kind != Kind::Held && !again) {
                let new = Holding {
                    kind: Kind::Held,
                    ..old.clone()
                };
                edit = edit.set(*id, Some(old), Some(new));
            }
        }
        edit.commit()?;
        Ok(flags)
    }

    /// Books that `peer` holds `ids` durably.
    pub(super) fn confirm(
        &self,
        peer: PeerId,
        ids: &[ChunkId],
        wanted: &dyn Fn() -> usize,
    ) -> Result<(), ReplicaError> {
        let mut edit = self.edit();
        let wanted = wanted();
        for id in ids {
            if let Some(old) = self.holding(id)? {
                let mut new = old.clone();
                new.confirm(peer);
                new.settle(wanted);
                edit = edit.set(*id, Some(old), Some(new));
            } else {
                edit = edit.unqueue(peer, *id)?;
            }
        }
        edit.commit()
    }

    /// Passes chunk `id` from `peer`, which refused it, to the first by rank that is neither
    /// confirmed nor queued nor refused by `usable`. Returns whether one was found; else this peer
    /// itself goes on holding it, and `peer` stays queued.
    pub(super) fn redirect(
        &self,
        peer: PeerId,
        id: ChunkId,
        plan_of: &dyn Fn(&ChunkId) -> (Vec<PeerId>, Plan),
        usable: &dyn Fn(&PeerId) -> bool,
    ) -> Result<bool, ReplicaError> {
        let edit = self.edit();
        let Some(old) = self.holding(&id)? else {
            edit.unqueue(peer, id)?.commit()?;
            return Ok(true);
        };
        let mut new = old.clone();
        let (ranked, plan) = plan_of(&id);
        let stand_in = ranked.iter().find(|other| {
            **other != plan.me
                && !old.confirmed.contains(other)
                && !old.queued.contains(other)
                && usable(other)
        });
        if let Some(stand_in) = stand_in {
            remove(&mut new.queued, &peer);
            insert(&mut new.queued, *stand_in);
        } else if new.kind == Kind::Kept && ranked.contains(&plan.me) {
            new.kind = Kind::Held;
        }
        new.settle(plan.wanted);
        if new != old {
            edit.set(id, Some(old), Some(new)).commit()?;
        }
        Ok(stand_in.is_some())
    }

    /// Checks up to `max` chunks after `cursor` against new plans; returns the last id seen, `None`
    /// at the end.
    pub(super) fn recheck(
        &self,
        cursor: Option<ChunkId>,
        max: usize,
        plan_of: &dyn Fn(&ChunkId) -> Plan,
        is_member: &dyn Fn(&PeerId) -> bool,
    ) -> Result<Option<ChunkId>, ReplicaError> {
        let mut edit = self.edit();
        let mut slice = Vec::with_capacity(max);
        let start = cursor.map_or_else(Vec::new, |id| after(&id));
        self.store
            .rows
            .scan(Table::Held, &start, None, &mut |key, value| {
                if let (Some(id), Some(holding)) = (ChunkId::from_slice(key), decode(value)) {
                    slice.push((id, holding));
                }
                if slice.len() < max {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        let last = slice
            .last()
            .filter(|_| slice.len() == max)
            .map(|(id, _)| *id);
        for (id, old) in slice
            .into_iter()
            .filter(|(_, old)| old.kind != Kind::Cached)
        {
            let mut new = old.clone();
            new.replan(&plan_of(&id), is_member);
            if new != old {
                edit = edit.set(id, Some(old), Some(new));
            }
        }
        edit.commit()?;
        Ok(last)
    }

    /// Returns up to `max` chunks queued for `peer` with ids from `from` on, in order.
    pub(super) fn due(
        &self,
        peer: &PeerId,
        from: &[u8],
        max: usize,
    ) -> Result<Vec<ChunkId>, ReplicaError> {
        let mut start = peer.0.to_vec();
        start.extend_from_slice(from);
        let mut due = Vec::with_capacity(max);
        self.store
            .rows
            .scan(Table::Pending, &start, None, &mut |key, _| {
                let Some((owner, id)) = split(key) else {
                    return ControlFlow::Continue(());
                };
                if owner != *peer {
                    return ControlFlow::Break(());
                }
                due.push(id);
                if due.len() < max {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        Ok(due)
    }

    /// Drops everything about a chunk that is no longer here, and its bytes.
    pub(super) fn forget(&self, id: ChunkId) -> Result<(), ReplicaError> {
        let edit = self.edit();
        let old = self.holding(&id)?;
        edit.set(id, old, None)
            .commit_then(|| self.store.chunks.delete(id))
    }

    /// Marks a cached chunk as just used.
    pub(super) fn touch(&self, id: &ChunkId) {
        self.state.lock().cached.promote(id);
    }

    /// Evicts cached chunks, the least recently used first, until they are at most `max_bytes`.
    pub(super) fn evict(&self, max_bytes: u64) -> Result<u64, ReplicaError> {
        let mut evicted = 0;
        loop {
            let mut edit = self.edit();
            if edit.state.counters.cached_bytes <= max_bytes {
                return Ok(evicted);
            }
            let Some((id, _)) = edit.state.cached.pop_lru() else {
                return Ok(evicted);
            };
            // The list and the rows agree; where they do not, the rows are right.
            let Some(old) = self.holding(&id)?.filter(|old| old.kind == Kind::Cached) else {
                continue;
            };
            edit = edit.set(id, Some(old), None);
            edit.commit_then(|| self.store.chunks.delete(id))?;
            evicted += 1;
        }
    }

    fn edit(&self) -> Edit<'_> {
        Edit {
            ledger: self,
            state: self.state.lock(),
            batch: Batch::new(),
            changes: Vec::new(),
        }
    }
}

/// A change of the books under way: holds the lock, collects the rows, counts when they are in.
struct Edit<'a> {
    ledger: &'a Ledger,
    state: MutexGuard<'a, State>,
    batch: Batch,
    changes: Vec<(ChunkId, Option<Holding>, Option<Holding>)>,
}

impl Edit<'_> {
    /// Replaces what is known of a chunk; `old` is what the row says now. Once a chunk and edit.
    fn set(mut self, id: ChunkId, old: Option<Holding>, new: Option<Holding>) -> Self {
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
    fn unqueue(mut self, peer: PeerId, id: ChunkId) -> Result<Self, ReplicaError> {
        let key = join(&peer, &id);
        if self.ledger.store.rows.get(Table::Pending, &key)?.is_some() {
            self.batch.delete(Table::Pending, key);
        }
        Ok(self)
    }

    fn commit(self) -> Result<(), ReplicaError> {
        self.commit_then(|| Ok(()))
    }

    /// Commits the rows, counts, then runs `then` still under the lock.
    fn commit_then(
        mut self,
        then: impl FnOnce() -> Result<(), crate::store::StoreError>,
    ) -> Result<(), ReplicaError> {
        if !self.batch.is_empty() {
            self.ledger
                .store
                .rows
                .commit(std::mem::take(&mut self.batch))?;
            for (id, old, new) in std::mem::take(&mut self.changes) {
                self.state.count(id, old.as_ref(), new.as_ref());
            }
        }
        Ok(then()?)
    }
}

impl State {
    /// Moves the totals from what was known of a chunk to what is known now.
    fn count(&mut self, id: ChunkId, old: Option<&Holding>, new: Option<&Holding>) {
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
            }
            for peer in &old.queued {
                if let Some(queue) = counters.queues.get_mut(peer) {
                    subtract(&mut queue.count, &mut queue.bytes, len);
                    if queue.count == 0 {
                        counters.queues.remove(peer);
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
            }
            for peer in &new.queued {
                let queue = counters.queues.entry(*peer).or_default();
                add(&mut queue.count, &mut queue.bytes, len);
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

fn insert(sorted: &mut Vec<PeerId>, peer: PeerId) {
    if let Err(index) = sorted.binary_search(&peer) {
        sorted.insert(index, peer);
    }
}

fn remove(sorted: &mut Vec<PeerId>, peer: &PeerId) {
    sorted.retain(|other| other != peer);
}

fn decode(row: &[u8]) -> Option<Holding> {
    codec::decode(row, ROW_MAX_BYTES).ok()
}

fn len_of(sealed: &[u8]) -> u32 {
    u32::try_from(sealed.len()).unwrap_or(u32::MAX)
}

/// Returns the key of a row of `Pending`.
fn join(peer: &PeerId, id: &ChunkId) -> Vec<u8> {
    [peer.0, id.0].concat()
}

/// Returns the smallest key greater than `id`.
pub(super) fn after(id: &ChunkId) -> Vec<u8> {
    let mut key = id.0.to_vec();
    key.push(0);
    key
}

fn split(key: &[u8]) -> Option<(PeerId, ChunkId)> {
    let (peer, id) = key.split_at_checked(32)?;
    Some((PeerId::from_slice(peer)?, ChunkId::from_slice(id)?))
}
