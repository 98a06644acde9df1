//! What nothing names any more: noted, and given up once nobody can come to name it.

use std::ops::ControlFlow;

use super::Ledger;
use super::holding::{Holding, Kind};
use crate::base::ChunkId;
use crate::replica::ReplicaError;
use crate::replica::collect::{Collected, Terms};
use crate::store::Table;

/// What becomes of a chunk.
enum Fate {
    /// It stays as it is booked.
    Stays,
    /// It stays, booked anew.
    Booked(Holding),
    /// It goes.
    Goes,
}

impl Ledger {
    /// Returns up to `max` of the chunks here, from one on, in order.
    pub(in crate::replica) fn ids_from(
        &self,
        from: ChunkId,
        max: usize,
    ) -> Result<Vec<ChunkId>, ReplicaError> {
        let mut ids = Vec::with_capacity(max);
        let mut add = |key: &[u8]| {
            ids.extend(ChunkId::from_slice(key));
            match ids.len() < max {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let rows = &self.store.rows;
        rows.scan_keys(Table::Held, &from.0, None, &mut add)?;
        Ok(ids)
    }

    /// Gives up those of some chunks that nothing names, and that nothing can come to name, by the terms
    /// of a collection; notes since when the others of them are unnamed.
    pub(in crate::replica) fn collect(
        &self,
        ids: &[(ChunkId, bool)],
        terms: &Terms,
        collected: &mut Collected,
    ) -> Result<(), ReplicaError> {
        let mut edit = self.edit();
        let mut gone = Vec::new();
        for (id, is_named) in ids {
            let authored = edit.state.authored.as_ref();
            let is_authored = authored.is_none_or(|authored| authored.contains(id));
            let Some(old) = self.holding(id)?.filter(|_| !is_authored) else {
                continue;
            };
            let len = u64::from(old.len);
            match fate(&old, *is_named, terms, collected) {
                Fate::Stays => {}
                Fate::Booked(new) => edit = edit.set(*id, Some(old), Some(new)),
                Fate::Goes => {
                    edit = edit.set(*id, Some(old), None);
                    collected.count += 1;
                    collected.bytes += len;
                    gone.push(*id);
                }
            }
        }
        edit.commit_then(|| gone.iter().try_for_each(|id| self.store.chunks.delete(*id)))
    }

    /// Returns what is known of some chunks, for the tests.
    #[cfg(test)]
    pub(in crate::replica) fn unnamed_since(&self, id: &ChunkId) -> Option<u64> {
        self.holding(id).unwrap()?.unnamed_since_ms
    }
}

fn fate(old: &Holding, is_named: bool, terms: &Terms, collected: &mut Collected) -> Fate {
    let booked = |since| {
        let mut new = old.clone();
        new.unnamed_since_ms = since;
        Fate::Booked(new)
    };
    if is_named {
        return match old.unnamed_since_ms {
            Some(_) => booked(None),
            None => Fate::Stays,
        };
    }
    // Nobody counts on a copy that was only read.
    if old.kind == Kind::Cached {
        return Fate::Goes;
    }
    // A clock that was put back begins anew.
    let since = old.unnamed_since_ms.filter(|since| *since <= terms.now_ms);
    let due = since.unwrap_or(terms.now_ms).saturating_add(terms.wait_ms);
    let is_passed = old.asked < terms.base_line;
    if is_passed && due <= terms.now_ms {
        return Fate::Goes;
    }
    collected.waiting += 1;
    collected.waiting_bytes += u64::from(old.len);
    if is_passed {
        let next = collected.next_ms.get_or_insert(due);
        *next = due.min(*next);
    } else {
        collected.is_blocked = true;
    }
    match since {
        Some(_) => Fate::Stays,
        None => booked(Some(terms.now_ms)),
    }
}
