//! The stretch of each peer's queue that is kept in memory, so that what is due next is found
//! without the rows.
//!
//! A row of `Pending` that is removed goes on lying in the row database until that is merged, and
//! each scan steps over it: a scan for what is due costs as much as was ever sent there. Nearly
//! always the whole queue is in memory, and nothing is scanned at all. A queue that is longer than
//! that is read from the rows stretch by stretch as the push goes through it.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{ChunkId, PeerId};

/// The smallest id.
pub(in crate::replica) const FIRST: ChunkId = ChunkId([0; 32]);

/// Reads up to so many ids of a queue from the rows, in order: from the first id on, up to and
/// without the second.
pub(super) type Scan<'a, E> =
    dyn Fn(ChunkId, Option<ChunkId>, usize) -> Result<Vec<ChunkId>, E> + 'a;

/// The stretches of all queues.
///
/// [`Windows::insert`] and [`Windows::remove`] are told of each change of the queues once it is in
/// the rows, and of no other: so the rows that [`Windows::due`] scans and the stretches agree.
#[derive(Debug)]
pub(super) struct Windows {
    /// Most ids of one queue that are kept, at least two.
    max: usize,
    /// A peer that has none is due nothing.
    of: BTreeMap<PeerId, Window>,
}

/// A stretch of a queue: what is queued with `from <= id < to` is in `ids`, and nothing else is.
#[derive(Debug)]
struct Window {
    ids: BTreeSet<ChunkId>,
    from: ChunkId,
    /// `None` where the stretch goes to the end of the queue.
    to: Option<ChunkId>,
}

impl Windows {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: max.max(2),
            of: BTreeMap::new(),
        }
    }

    /// Notes that a chunk is queued for `peer`.
    pub(super) fn insert(&mut self, peer: PeerId, id: ChunkId) {
        let window = self.of.entry(peer).or_insert_with(Window::whole);
        if window.covers(&id) && window.ids.insert(id) {
            window.shrink(self.max);
        }
    }

    /// Notes that a chunk is no longer queued for `peer`.
    pub(super) fn remove(&mut self, peer: &PeerId, id: &ChunkId) {
        if let Some(window) = self.of.get_mut(peer) {
            window.ids.remove(id);
        }
    }

    /// Notes that nothing is queued for `peer` any more.
    pub(super) fn clear(&mut self, peer: &PeerId) {
        self.of.remove(peer);
    }

    /// Returns up to `count` ids queued for `peer` from `from` on, in order; `scan` reads the rows
    /// of that peer.
    pub(super) fn due<E>(
        &mut self,
        peer: &PeerId,
        from: ChunkId,
        count: usize,
        scan: &Scan<'_, E>,
    ) -> Result<Vec<ChunkId>, E> {
        let Some(window) = self.of.get_mut(peer) else {
            return Ok(Vec::new());
        };
        if !window.covers(&from) {
            window.move_to(from, self.max, scan)?;
        }
        let (mut due, mut from) = (Vec::with_capacity(count), from);
        loop {
            let missing = count - due.len();
            due.extend(window.ids.range(from..).take(missing));
            match window.to {
                Some(to) if due.len() < count => {
                    window.extend(to, self.max, scan)?;
                    from = to;
                }
                _ => return Ok(due),
            }
        }
    }
}

impl Window {
    /// Returns the stretch of a queue in which there is nothing yet.
    fn whole() -> Self {
        Self {
            ids: BTreeSet::new(),
            from: FIRST,
            to: None,
        }
    }

    fn covers(&self, id: &ChunkId) -> bool {
        self.from <= *id && self.to.is_none_or(|to| *id < to)
    }

    /// Gives up the upper half where there are more than `max`.
    fn shrink(&mut self, max: usize) {
        if self.ids.len() <= max {
            return;
        }
        if let Some(middle) = self.ids.iter().nth(max / 2).copied() {
            self.ids.split_off(&middle);
            self.to = Some(middle);
        }
    }

    /// Makes the stretch cover `from`, which it does not. What lies between is read where it is
    /// little: so a queue that has become short is soon here as a whole.
    fn move_to<E>(&mut self, from: ChunkId, max: usize, scan: &Scan<'_, E>) -> Result<(), E> {
        let next = (from < self.from).then_some(self.from);
        let rows = scan(from, next, max / 2)?;
        let is_all = rows.len() < max / 2;
        if is_all && next.is_some() {
            self.ids.extend(rows);
            self.from = from;
            self.shrink(max);
            return Ok(());
        }
        *self = Self {
            to: if is_all { None } else { behind(&rows) },
            ids: rows.into_iter().collect(),
            from,
        };
        Ok(())
    }

    /// Reads on behind the end `to`; gives up what lies before it where room is needed.
    fn extend<E>(&mut self, to: ChunkId, max: usize, scan: &Scan<'_, E>) -> Result<(), E> {
        let rows = scan(to, None, max / 2)?;
        if self.ids.len() + rows.len() > max {
            self.ids.clear();
            self.from = to;
        }
        self.to = if rows.len() < max / 2 {
            None
        } else {
            behind(&rows)
        };
        self.ids.extend(rows);
        Ok(())
    }
}

/// Returns the smallest id greater than `id`.
pub(in crate::replica) fn after(id: &ChunkId) -> Option<ChunkId> {
    let mut next = *id;
    for byte in next.0.iter_mut().rev() {
        let (sum, is_carried) = byte.overflowing_add(1);
        *byte = sum;
        if !is_carried {
            return Some(next);
        }
    }
    None
}

fn behind(rows: &[ChunkId]) -> Option<ChunkId> {
    rows.last().and_then(after)
}

#[cfg(test)]
impl Windows {
    /// Checks that each stretch has what is queued between its ends and nothing else.
    pub(super) fn check(&self, queues: &BTreeMap<PeerId, BTreeSet<ChunkId>>) {
        for (peer, queue) in queues {
            let window = self.of.get(peer).expect("a queue has a stretch in memory");
            assert!(window.ids.len() <= self.max, "{}", window.ids.len());
            let queued = queue.iter().filter(|id| window.covers(id));
            assert!(window.ids.iter().eq(queued), "{peer:?} {window:?}");
        }
        for (peer, window) in &self.of {
            assert!(queues.contains_key(peer), "{peer:?} {window:?}");
        }
    }
}
