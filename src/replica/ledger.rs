//! The books: which chunks are here and why, who confirmed to hold them, and what is still to be
//! sent to whom.
//!
//! Two tables. `Held` has a row for each chunk that is here: [`Holding`]. `Pending` is a queue for
//! each peer: the key is the peer's id and the chunk's, so what one peer is due is one scan, and a
//! peer that is away costs the others nothing. Counters, and of each queue what is due next, are
//! kept in memory and rebuilt from the rows at the start.

#[cfg(test)]
mod check;
mod collect;
mod edit;
mod holding;
mod missing;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use parking_lot::Mutex;

#[cfg(test)]
pub(super) use self::check::is_held;
pub(super) use self::edit::{Counters, Queue};
pub(super) use self::holding::{Holding, Kind, Plan, doubted};
pub(super) use self::window::{FIRST, after};

use self::edit::{Edit, State, join};
use self::holding::{decode, insert, remove};
use super::ReplicaError;
use super::limits::DUE_WINDOW_MAX;
use crate::base::{ChunkId, PeerId};
use crate::store::{Batch, ChunkUsage, Store, StoreError, Table};

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
        Self::load_with(store, DUE_WINDOW_MAX)
    }

    /// Reads the rows as [`Ledger::load`] does; keeps up to `window_max` ids of each queue.
    fn load_with(store: Store, window_max: usize) -> Result<Self, ReplicaError> {
        let mut state = State::new(window_max);
        let mut ids = 0;
        store.rows.scan(Table::Held, &[], None, &mut |key, value| {
            if let (Some(id), Some(holding)) = (ChunkId::from_slice(key), decode(value)) {
                state.count(id, None, Some(&holding));
                ids ^= ChunkUsage::of(id);
            }
            ControlFlow::Continue(())
        })?;
        missing::load(&store, &mut state)?;
        let ledger = Self {
            store,
            state: Mutex::new(state),
        };
        ledger.adopt_strays(ids)?;
        Ok(ledger)
    }

    /// Books chunks that are on disk without a row as cached: a crash fell between the two.
    ///
    /// `ids` is [`ChunkUsage::ids`] of those that have a row: one that is lost and one that has
    /// none are as many as before.
    fn adopt_strays(&self, ids: u64) -> Result<(), ReplicaError> {
        let booked = {
            let state = self.state.lock();
            state.counters.held_count + state.counters.cached_count
        };
        let usage = self.store.chunks.usage();
        if (usage.count, usage.ids) == (booked, ids) {
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
                if let (Some(id), Some(_)) = (ChunkId::from_slice(key), decode(value))
                    && on_disk.remove(&id).is_none()
                {
                    lost.push(id);
                }
                ControlFlow::Continue(())
            })?;
        for id in lost {
            self.lose(id)?;
        }
        for (id, len) in on_disk {
            // What is left of a damaged one.
            if self.is_missing(&id) {
                continue;
            }
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
    /// candidates is in the rows before a check against the new ones scans them. Who confirmed before
    /// record `asked` is asked again: the copy may have been given up since.
    pub(super) fn author(
        &self,
        id: ChunkId,
        sealed: &[u8],
        asked: u64,
        plan_of: &dyn Fn(&ChunkId) -> Plan,
    ) -> Result<(), ReplicaError> {
        let mut edit = self.edit();
        if let Some(authored) = &mut edit.state.authored {
            authored.insert(id);
        }
        let old = self.holding(&id)?;
        if self.store.chunks.len(id)?.is_none() {
            self.store.chunks.put(id, sealed)?;
        }
        let is_known = |old: &Holding| {
            old.kind != Kind::Cached && old.asked >= asked && old.unnamed_since_ms.is_none()
        };
        if old.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        let mut new = Holding::new(len_of(sealed), Kind::Kept);
        new.count_on(asked.max(old.as_ref().map_or(0, |old| old.asked)));
        new.replan(&plan_of(&id), &|_| true);
        edit.set(id, old, Some(new)).commit()
    }

    /// Asks the holders again for those of some chunks that were asked for before record `named`,
    /// behind which an op of this device names them: what they said may hold no more.
    pub(super) fn renew(
        &self,
        ids: &[ChunkId],
        named: u64,
        asked: u64,
        plan_of: &dyn Fn(&ChunkId) -> Plan,
    ) -> Result<bool, ReplicaError> {
        let mut edit = self.edit();
        let once: HashSet<&ChunkId> = ids.iter().collect();
        for id in once {
            let Some(old) = self.holding(id)?.filter(|old| old.is_stale(named)) else {
                continue;
            };
            let mut new = old.clone();
            new.count_on(asked.max(named));
            new.confirmed.clear();
            new.replan(&plan_of(id), &|_| true);
            edit = edit.set(*id, Some(old), Some(new));
        }
        let any = !edit.changes.is_empty();
        edit.commit()?;
        Ok(any)
    }

    /// Returns the newest record that any of some chunks were asked for at.
    pub(super) fn asked(&self, ids: &[ChunkId]) -> Result<u64, ReplicaError> {
        let mut newest = 0;
        for id in ids {
            newest = newest.max(self.holding(id)?.map_or(0, |holding| holding.asked));
        }
        Ok(newest)
    }

    /// Books a chunk that another peer put here, or asked to hold, or that was fetched.
    ///
    /// `hold` says at which record it was asked for; `None` keeps what is held already and else books
    /// it as cached.
    pub(super) fn keep(
        &self,
        id: ChunkId,
        sealed: &[u8],
        hold: Option<u64>,
    ) -> Result<(), ReplicaError> {
        let edit = self.edit();
        let old = self.holding(&id)?;
        if self.store.chunks.len(id)?.is_none() {
            self.store.chunks.put(id, sealed)?;
        }
        let mut new = old
            .clone()
            .unwrap_or_else(|| Holding::new(len_of(sealed), Kind::Cached));
        if let Some(asked) = hold {
            new.kind = Kind::Held;
            new.count_on(asked);
        }
        if old.as_ref() == Some(&new) {
            return Ok(());
        }
        edit.set(id, old, Some(new)).commit()
    }

    /// Turns cached chunks into held ones on request of a peer that knows the chain up to record
    /// `asked`; returns for each id whether it is held now.
    pub(super) fn hold(&self, ids: &[ChunkId], asked: u64) -> Result<Vec<bool>, ReplicaError> {
        let mut edit = self.edit();
        let mut flags = Vec::with_capacity(ids.len());
        for (index, id) in ids.iter().enumerate() {
            let old = self.holding(id)?;
            flags.push(old.is_some());
            // An id named twice is edited once, else it would be counted twice.
            let again = ids.iter().take(index).any(|other| other == id);
            if let Some(old) = old.filter(|_| !again) {
                let mut new = old.clone();
                new.kind = Kind::Held;
                new.count_on(asked);
                if new != old {
                    edit = edit.set(*id, Some(old), Some(new));
                }
            }
        }
        edit.commit()?;
        Ok(flags)
    }

    /// Books that `peer` holds `ids` durably, which was asked for them at record `asked`; of those that were
    /// asked for anew since, that says nothing.
    pub(super) fn confirm(
        &self,
        peer: PeerId,
        ids: &[ChunkId],
        asked: u64,
        wanted: &dyn Fn() -> usize,
    ) -> Result<(), ReplicaError> {
        let mut edit = self.edit();
        let wanted = wanted();
        for id in ids {
            if let Some(old) = self.holding(id)? {
                if old.asked > asked {
                    continue;
                }
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
        let Some(start) = cursor.map_or(Some(FIRST), |id| after(&id)) else {
            return Ok(None);
        };
        self.store
            .rows
            .scan(Table::Held, &start.0, None, &mut |key, value| {
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
        from: ChunkId,
        max: usize,
    ) -> Result<Vec<ChunkId>, ReplicaError> {
        let scan = |from, to, max| self.scan_queue(peer, from, to, max);
        // Under the lock, so that the rows are those that the window was told of.
        let windows = &mut self.state.lock().windows;
        Ok(windows.due(peer, from, max, &scan)?)
    }

    /// Reads up to `max` ids `from <= id < to` of a queue from its rows.
    fn scan_queue(
        &self,
        peer: &PeerId,
        from: ChunkId,
        to: Option<ChunkId>,
        max: usize,
    ) -> Result<Vec<ChunkId>, StoreError> {
        // Not farther than the queue: behind it, too, removed rows would be stepped over.
        let end = to.map_or_else(
            || [&join(peer, &LAST)[..], &[0]].concat(),
            |to| join(peer, &to),
        );
        let mut ids = Vec::new();
        self.store.rows.scan(
            Table::Pending,
            &join(peer, &from),
            Some(&end),
            &mut |key, _| {
                ids.extend(key.get(32..).and_then(ChunkId::from_slice));
                if ids.len() < max {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )?;
        Ok(ids)
    }

    /// Notes which chunks are made here from now on, or no longer.
    pub(super) fn note_authored(&self, notes: bool) {
        self.state.lock().authored = notes.then(HashSet::new);
    }

    /// Says which chunks are not evicted from now on.
    pub(super) fn pin(&self, ids: HashSet<ChunkId>) {
        self.state.lock().pinned = ids;
    }

    /// Marks a cached chunk as just used.
    pub(super) fn touch(&self, id: &ChunkId) {
        self.state.lock().cached.promote(id);
    }

    /// Evicts cached chunks, the least recently used first, until they are at most `max_bytes`.
    pub(super) fn evict(&self, max_bytes: u64) -> Result<u64, ReplicaError> {
        let mut evicted = 0;
        let mut pinned = Vec::new();
        loop {
            let mut edit = self.edit();
            let next = match edit.state.counters.cached_bytes > max_bytes {
                true => edit.state.cached.pop_lru(),
                false => None,
            };
            let Some((id, len)) = next else {
                for (id, len) in pinned {
                    let row = self.holding(&id)?;
                    if row.is_some_and(|row| row.kind == Kind::Cached) {
                        edit.state.cached.put(id, len);
                    }
                }
                return Ok(evicted);
            };
            if edit.state.pinned.contains(&id) {
                pinned.push((id, len));
                continue;
            }
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
            unqueued: Vec::new(),
        }
    }
}

fn len_of(sealed: &[u8]) -> u32 {
    u32::try_from(sealed.len()).unwrap_or(u32::MAX)
}

/// The greatest id.
const LAST: ChunkId = ChunkId([u8::MAX; 32]);
