//! The invariants of the books, checked against the rows by the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::Ledger;
use super::edit::{State, join};
use super::holding::{Kind, decode};
use crate::base::{ChunkId, PeerId};
use crate::replica::limits::DUE_WINDOW_MAX;
use crate::store::{Store, Table};

/// Tells whether a store's books say that a chunk is held.
pub(in crate::replica) fn is_held(store: &Store, id: &ChunkId) -> bool {
    let row = store.rows.get(Table::Held, &id.0).unwrap();
    row.as_deref()
        .and_then(decode)
        .is_some_and(|holding| holding.kind == Kind::Held)
}

impl Ledger {
    /// Checks the invariants of the books against the rows.
    pub(in crate::replica) fn check(&self) {
        let mut counted = State::new(DUE_WINDOW_MAX);
        let mut queued = BTreeSet::new();
        let scan = |table, f: &mut dyn FnMut(&[u8], &[u8])| {
            self.store.rows.scan(table, &[], None, &mut |key, value| {
                f(key, value);
                ControlFlow::Continue(())
            })
        };
        scan(Table::Held, &mut |key, value| {
            let (id, holding) = (ChunkId::from_slice(key).unwrap(), decode(value).unwrap());
            queued.extend(holding.queued.iter().map(|peer| join(peer, &id)));
            assert!(
                self.store.chunks.len(id).unwrap().is_some(),
                "{id:?} is booked, not here"
            );
            counted.count(id, None, Some(&holding));
        })
        .unwrap();
        let mut queues: BTreeMap<PeerId, BTreeSet<ChunkId>> = BTreeMap::new();
        scan(Table::Pending, &mut |key, _| {
            assert!(queued.remove(key), "a row nobody queued");
            let (peer, id) = key.split_at(32);
            let queue = queues.entry(PeerId::from_slice(peer).unwrap()).or_default();
            queue.insert(ChunkId::from_slice(id).unwrap());
        })
        .unwrap();
        assert!(queued.is_empty(), "a queued peer has no row");
        let state = self.state.lock();
        state.windows.check(&queues);
        assert_eq!(state.counters, counted.counters);
        assert_eq!(state.cached.len(), counted.cached.len());
    }
}
