//! Which applied ops touch which rows: what a merge asks to find whom an earlier op concerns.

use std::collections::{BTreeSet, HashMap};

use super::overlay::Effects;
use super::record::Record;
use super::rows::RowKey;
use crate::base::OpId;

/// The rows that recent ops touched, by digest.
#[derive(Debug)]
pub(super) struct TouchIndex {
    /// Every applied op above this one is in the index.
    pub(super) above: OpId,
    touches: HashMap<u64, Vec<Touch>>,
}

#[derive(Debug, Clone, Copy)]
struct Touch {
    id: OpId,
    way: Way,
}

/// How an op touched a row, or the counts in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Wrote,
    /// Added to it: in any order with others who did.
    Counted,
}

impl Way {
    /// Tells whether the order of two ops that touched one thing so matters.
    fn crosses(self, other: Self) -> bool {
        !matches!(
            (self, other),
            (Self::Read, Self::Read) | (Self::Counted, Self::Counted)
        )
    }
}

impl TouchIndex {
    /// Returns an index for a view whose newest op is `newest`.
    pub(super) fn new(newest: OpId) -> Self {
        Self {
            above: newest,
            touches: HashMap::new(),
        }
    }

    /// Takes note of an applied op.
    pub(super) fn add(&mut self, id: OpId, record: &Record) {
        for (digest, way) in digests(record) {
            let touches = self.touches.entry(digest).or_default();
            let at = touches.partition_point(|touch| touch.id < id);
            match touches.get_mut(at).filter(|touch| touch.id == id) {
                Some(touch) if touch.way != way => touch.way = Way::Wrote,
                Some(_) => {}
                None => touches.insert(at, Touch { id, way }),
            }
        }
    }

    /// Forgets an op that is undone.
    pub(super) fn remove(&mut self, id: OpId, record: &Record) {
        for (digest, _) in digests(record) {
            if let Some(touches) = self.touches.get_mut(&digest) {
                let at = touches.partition_point(|touch| touch.id < id);
                if touches.get(at).is_some_and(|touch| touch.id == id) {
                    touches.remove(at);
                }
            }
        }
    }

    /// Returns the ops above `id` that the effects of `id` concern: they touched what it writes, or
    /// wrote what it read.
    pub(super) fn concerned(&self, id: OpId, effects: &Effects) -> BTreeSet<OpId> {
        let mut found = BTreeSet::new();
        for effect in &effects.writes {
            if effect.is_write {
                self.collect(effect.key.digest(), id, Way::Wrote, &mut found);
            }
            if effect.delta.is_some() {
                self.collect(effect.key.counts_digest(), id, Way::Counted, &mut found);
            }
        }
        for digest in &effects.reads {
            self.collect(*digest, id, Way::Read, &mut found);
        }
        found
    }

    /// Adds the ops above `id` that touched what the op of `record` wrote, but for those that
    /// `followed` says were added before: for each row the op above which that is so. Rows that
    /// very many ops touch, a busy directory's, cost each of them once.
    pub(super) fn dependent(
        &self,
        id: OpId,
        record: &Record,
        followed: &mut HashMap<u64, OpId>,
        found: &mut Vec<OpId>,
    ) {
        let written = record
            .writes
            .iter()
            .map(|(key, _)| (key.digest(), Way::Wrote));
        let counted = record.deltas.iter().map(|(ino, _)| {
            let digest = RowKey::Inode(*ino).counts_digest();
            (digest, Way::Counted)
        });
        for (digest, way) in written.chain(counted) {
            let end = followed.get(&digest).copied();
            if end.is_some_and(|end| end <= id) {
                continue;
            }
            followed.insert(digest, id);
            let Some(touches) = self.touches.get(&digest) else {
                continue;
            };
            let start = touches.partition_point(|touch| touch.id <= id);
            let later = touches.iter().skip(start);
            let later = later.filter(|touch| way.crosses(touch.way));
            let later = later.map(|touch| touch.id);
            // The op at the end itself was not among those above it.
            found.extend(later.take_while(|id| end.is_none_or(|end| *id <= end)));
        }
    }

    fn collect(&self, digest: u64, above: OpId, way: Way, found: &mut BTreeSet<OpId>) {
        let Some(touches) = self.touches.get(&digest) else {
            return;
        };
        let start = touches.partition_point(|touch| touch.id <= above);
        let later = touches.iter().skip(start);
        let crossing = later.filter(|touch| way.crosses(touch.way));
        found.extend(crossing.map(|touch| touch.id));
    }
}

fn digests(record: &Record) -> impl Iterator<Item = (u64, Way)> + '_ {
    let reads = record.reads.iter().map(|digest| (*digest, Way::Read));
    let writes = record
        .writes
        .iter()
        .map(|(key, _)| (key.digest(), Way::Wrote));
    let counted = record.deltas.iter().map(|(ino, _)| {
        let digest = RowKey::Inode(*ino).counts_digest();
        (digest, Way::Counted)
    });
    reads.chain(writes).chain(counted)
}
