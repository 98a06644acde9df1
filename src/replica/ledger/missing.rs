//! What this peer has to hold or to send, and has lost: on the books until it is back.

use std::ops::ControlFlow;

use super::edit::State;
use super::holding::{Holding, Kind, Plan, remove};
use super::{Ledger, len_of};
use crate::base::{ChunkId, PeerId};
use crate::replica::limits::MISSING_MAX;
use crate::replica::{ReplicaError, is_chunk};
use crate::store::{Batch, Store, StoreError, Table};

/// Rows of [`Table::Replica`] that name a missing chunk begin so.
const MISSING_PREFIX: &[u8] = b"missing/";

/// Returns the key of the row that says that a chunk is missing.
pub(super) fn missing_key(id: &ChunkId) -> Vec<u8> {
    [MISSING_PREFIX, &id.0].concat()
}

/// Reads which chunks are missing.
pub(super) fn load(store: &Store, state: &mut State) -> Result<(), ReplicaError> {
    let missing = &mut state.missing;
    let rows = &store.rows;
    rows.scan(Table::Replica, MISSING_PREFIX, None, &mut |key, _| {
        let id = key.strip_prefix(MISSING_PREFIX);
        let Some(id) = id.and_then(ChunkId::from_slice) else {
            return ControlFlow::Break(());
        };
        missing.insert(id, false);
        ControlFlow::Continue(())
    })?;
    Ok(())
}

impl Ledger {
    /// Takes a chunk off the books whose bytes here are damaged or gone. One that this peer has to
    /// hold or to send is missing from then on, and what is left of it stays until a good copy takes its
    /// place: frames that are whole can be read. Looks again first, as another may have put a good one
    /// in its place; returns whether it was so and not known.
    pub(in crate::replica) fn lose(&self, id: ChunkId) -> Result<bool, ReplicaError> {
        let mut edit = self.edit();
        match self.store.chunks.get(id) {
            Ok(Some(sealed)) if is_chunk(&id, &sealed) => return Ok(false),
            Ok(_) | Err(StoreError::Corrupt { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let old = self.holding(&id)?;
        if old.is_none() && edit.state.missing.contains_key(&id) {
            return Ok(false);
        }
        let is_due = old.as_ref().is_some_and(|old| old.kind != Kind::Cached);
        let is_kept = is_due && edit.state.missing.len() < MISSING_MAX;
        if is_kept {
            edit.state.missing.insert(id, false);
            edit.batch.put(Table::Replica, missing_key(&id), []);
        }
        let edit = edit.set(id, old, None);
        match is_kept {
            true => edit.commit()?,
            false => edit.commit_then(|| self.store.chunks.delete(id))?,
        }
        Ok(true)
    }

    /// Tells whether a chunk is missing.
    pub(in crate::replica) fn is_missing(&self, id: &ChunkId) -> bool {
        self.state.lock().missing.contains_key(id)
    }

    /// Returns what is missing.
    pub(in crate::replica) fn missing(&self) -> Vec<ChunkId> {
        self.state.lock().missing.keys().copied().collect()
    }

    /// Returns what is missing and nobody was found to have.
    pub(in crate::replica) fn lost(&self) -> Vec<ChunkId> {
        let state = self.state.lock();
        let lost = state.missing.iter().filter(|(_, nobody)| **nobody);
        lost.map(|(id, _)| *id).collect()
    }

    /// Takes note which of the missing chunks nobody was found to have.
    pub(in crate::replica) fn note_nobody_has(&self, ids: &[ChunkId]) {
        let mut state = self.state.lock();
        for (id, nobody) in &mut state.missing {
            *nobody = ids.contains(id);
        }
    }

    /// Takes chunks off the list of what is missing, and drops what is left of them.
    pub(in crate::replica) fn give_up(&self, ids: &[ChunkId]) -> Result<(), ReplicaError> {
        let mut state = self.state.lock();
        let mut batch = Batch::new();
        for id in ids {
            batch.delete(Table::Replica, missing_key(id));
            if state.missing.contains_key(id) && self.holding(id)?.is_none() {
                self.store.chunks.delete(*id)?;
            }
        }
        self.store.rows.commit(batch)?;
        state.missing.retain(|id, _| !ids.contains(id));
        Ok(())
    }

    /// Makes this peer see to it again that a chunk that is back is on enough holders.
    pub(in crate::replica) fn reinstate(
        &self,
        id: ChunkId,
        sealed: &[u8],
        asked: u64,
        plan_of: &dyn Fn(&ChunkId) -> Plan,
    ) -> Result<(), ReplicaError> {
        let edit = self.edit();
        if self.store.chunks.len(id)?.is_none() {
            return Ok(());
        }
        let old = self.holding(&id)?;
        let mut new = old
            .clone()
            .unwrap_or_else(|| Holding::new(len_of(sealed), Kind::Cached));
        // What it was asked for at is not known any more.
        new.count_on(asked);
        new.replan(&plan_of(&id), &|_| true);
        edit.set(id, old, Some(new)).commit()
    }

    /// Books that `peer` does not hold chunks that it had confirmed, and queues them for it; returns
    /// whether there were any.
    pub(in crate::replica) fn unconfirm(
        &self,
        peer: PeerId,
        ids: &[ChunkId],
        plan_of: &dyn Fn(&ChunkId) -> Plan,
    ) -> Result<bool, ReplicaError> {
        let mut edit = self.edit();
        for (index, id) in ids.iter().enumerate() {
            let again = ids.iter().take(index).any(|other| other == id);
            let Some(old) = self
                .holding(id)?
                .filter(|old| !again && old.confirmed.contains(&peer))
            else {
                continue;
            };
            let mut new = old.clone();
            remove(&mut new.confirmed, &peer);
            new.replan(&plan_of(id), &|_| true);
            edit = edit.set(*id, Some(old), Some(new));
        }
        let any = !edit.changes.is_empty();
        edit.commit()?;
        Ok(any)
    }

    /// Drops the queue row of a chunk that is not here any more.
    pub(in crate::replica) fn unqueue(
        &self,
        peer: PeerId,
        id: ChunkId,
    ) -> Result<(), ReplicaError> {
        let edit = self.edit();
        if self.holding(&id)?.is_some() {
            return Ok(());
        }
        edit.unqueue(peer, id)?.commit()
    }
}
