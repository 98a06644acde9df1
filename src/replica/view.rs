//! The candidates as last seen, and what follows from them.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::ledger::{FIRST, Plan, after, doubted};
use super::limits::RECHECK_SLICE;
use super::peers::Peers;
use super::placement::{self, Candidate};
use super::{Replica, ReplicaError};
use crate::base::limits::REPLICAS;
use crate::base::{ChunkId, PeerId};
use crate::store::{Batch, Store, Table};

/// Who stores, as this peer sees it; immutable, replaced as a whole.
#[derive(Debug)]
pub(super) struct View {
    me: PeerId,
    /// Sorted by peer.
    candidates: Vec<Candidate>,
    /// What is held has not been checked against these candidates to the end.
    unchecked: bool,
}

impl View {
    /// Asks `peers`; without them this peer is alone.
    pub(super) fn of(peers: Option<&dyn Peers>) -> Self {
        let Some(peers) = peers else {
            let me = PeerId([0; 32]);
            let alone = Candidate {
                peer: me,
                weight: 1,
                host: 0,
            };
            return Self {
                me,
                candidates: vec![alone],
                unchecked: false,
            };
        };
        let mut candidates = peers.candidates();
        candidates.retain(|candidate| candidate.weight > 0);
        // Where nobody offers to store, what is made here stays here.
        if candidates.is_empty() {
            candidates.push(Candidate {
                peer: peers.me(),
                weight: 1,
                host: 0,
            });
        }
        candidates.sort_unstable();
        candidates.dedup_by_key(|candidate| candidate.peer);
        Self {
            me: peers.me(),
            candidates,
            unchecked: false,
        }
    }

    /// Returns how many holders each chunk should have.
    pub(super) fn wanted(&self) -> usize {
        self.candidates.len().min(REPLICAS)
    }

    /// Returns where a chunk belongs.
    pub(super) fn plan(&self, id: &ChunkId) -> Plan {
        let wanted = self.wanted();
        let targets = placement::holders(id, &self.candidates, wanted);
        Plan {
            me: self.me,
            targets,
            wanted,
        }
    }

    /// Tells whether this peer is to hold a chunk.
    pub(super) fn is_target(&self, id: &ChunkId) -> bool {
        self.plan(id).targets.contains(&self.me)
    }

    /// Returns all candidates of a chunk by rank.
    pub(super) fn ranked(&self, id: &ChunkId) -> Vec<PeerId> {
        placement::ranked(id, &self.candidates)
    }

    /// Tells whether a peer stores.
    pub(super) fn is_member(&self, peer: &PeerId) -> bool {
        self.candidates
            .binary_search_by_key(peer, |candidate| candidate.peer)
            .is_ok()
    }

    /// Tells whether a check of what is held is due or under way.
    pub(super) fn is_unchecked(&self) -> bool {
        self.unchecked
    }

    /// Returns where in the space of ids this peer begins to push: the candidates share it out
    /// evenly, so that holders of the same chunks rarely send the same one.
    pub(super) fn push_start(&self) -> ChunkId {
        let index = self
            .candidates
            .partition_point(|candidate| candidate.peer < self.me) as u64;
        let count = (self.candidates.len() as u64).max(1);
        let start = (u64::MAX / count).wrapping_mul(index).to_be_bytes();
        let mut id = FIRST;
        id.0[..8].copy_from_slice(&start);
        id
    }

    /// Names the candidates: equal digests yield equal plans.
    fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for candidate in &self.candidates {
            hasher.update(&candidate.peer.0);
            hasher.update(&candidate.weight.to_le_bytes());
            hasher.update(&candidate.host.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

impl Replica {
    /// Returns the candidates as last seen.
    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock())
    }

    /// Looks at the candidates anew; where they changed, a check of what is held becomes due.
    pub(super) fn refresh_view(&self) {
        let Some(peers) = &self.peers else { return };
        let mut fresh = View::of(Some(peers.as_ref()));
        {
            let mut view = self.view.lock();
            if view.candidates == fresh.candidates {
                return;
            }
            fresh.unchecked = true;
            *view = Arc::new(fresh);
        }
        self.changed();
    }

    /// Takes up a check that the last run of this peer did not end, or that it has yet to begin.
    pub(super) fn resume_recheck(&self) -> Result<(), ReplicaError> {
        if self.peers.is_none() {
            return Ok(());
        }
        let checked = self.store.rows.get(Table::Replica, CHECKED_KEY)?;
        let mut view = self.view.lock();
        if checked.as_deref() != Some(&view.digest()[..]) {
            let View { me, candidates, .. } = &**view;
            *view = Arc::new(View {
                me: *me,
                candidates: candidates.clone(),
                unchecked: true,
            });
        }
        Ok(())
    }

    /// Notes in the books of a store, before they are opened, that they may be older than what peers were
    /// asked since: its folder was put back from a copy, or moved. Nobody is believed to hold a chunk until
    /// asked again.
    pub fn doubt(store: &Store) -> Result<(), ReplicaError> {
        let mut start = Some(FIRST);
        while let Some(from) = start {
            let mut batch = Batch::new();
            let mut seen = 0;
            let mut last = None;
            let rows = &store.rows;
            rows.scan(Table::Held, &from.0, None, &mut |key, value| {
                let id = ChunkId::from_slice(key);
                last = id.or(last);
                if let (Some(id), Some(new)) = (id, doubted(value)) {
                    batch.put(Table::Held, id.0, new);
                }
                seen += 1;
                match seen < RECHECK_SLICE {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            store.rows.commit(batch)?;
            start = last
                .filter(|_| seen == RECHECK_SLICE)
                .and_then(|last| after(&last));
        }
        let mut batch = Batch::new();
        batch.delete(Table::Replica, CHECKED_KEY);
        Ok(store.rows.commit(batch)?)
    }

    /// Remembers that everything held was checked against `view`; nothing where another view came
    /// between.
    pub(super) fn finish_recheck(&self, checked: &Arc<View>) -> Result<(), ReplicaError> {
        let mut batch = Batch::new();
        batch.put(Table::Replica, CHECKED_KEY, checked.digest());
        self.store.rows.commit(batch)?;
        let mut view = self.view.lock();
        if Arc::ptr_eq(&view, checked) {
            let View { me, candidates, .. } = &**view;
            *view = Arc::new(View {
                me: *me,
                candidates: candidates.clone(),
                unchecked: false,
            });
        }
        Ok(())
    }
}

/// Row of the digest of the candidates that everything held was last checked against.
const CHECKED_KEY: &[u8] = b"checked";
