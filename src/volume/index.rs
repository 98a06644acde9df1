//! Which applied ops touch which rows: what a merge asks to find whom an earlier op concerns.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ops::{Bound, RangeBounds};

use super::committed::Rank;
use super::overlay::Effects;
use super::record::Record;
use super::rows::RowKey;
use crate::base::OpId;

/// The rows that recent ops touched, by digest.
#[derive(Debug)]
pub(super) struct TouchIndex {
    /// Every applied op above this place is in the index.
    pub(super) above: Rank,
    /// Who touched a row so, in order. Apart by how: of the very many that read a busy row, or count in
    /// it, none is looked at by another who does.
    touches: HashMap<(u64, Way), Few>,
}

/// Places. Nearly all rows are touched by one op: that costs no set.
#[derive(Debug)]
enum Few {
    One(Rank),
    /// Boxed, as it is rare: a row that all ops touch, a busy directory's, is touched by very many.
    Many(Box<BTreeSet<Rank>>),
}

impl Few {
    fn insert(&mut self, at: Rank) {
        match self {
            Self::One(rank) if *rank == at => {}
            Self::One(rank) => *self = Self::Many(Box::new(BTreeSet::from([*rank, at]))),
            Self::Many(ranks) => {
                ranks.insert(at);
            }
        }
    }

    /// Takes a place out; says whether none is left.
    fn remove(&mut self, at: Rank) -> bool {
        match self {
            Self::One(rank) => *rank == at,
            Self::Many(ranks) => {
                ranks.remove(&at);
                ranks.is_empty()
            }
        }
    }

    /// Returns those that a range holds, in order.
    fn range(&self, range: (Bound<Rank>, Bound<Rank>)) -> impl Iterator<Item = Rank> + '_ {
        let (one, many) = match self {
            Self::One(rank) => (Some(*rank).filter(|rank| range.contains(rank)), None),
            Self::Many(ranks) => (None, Some(ranks.range(range))),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }
}

/// How an op touched a row, or the counts in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    Read,
    Wrote,
    /// Added to it: in any order with others who did.
    Counted,
}

impl Way {
    /// Returns how another op touches the same thing where the order of the two matters.
    fn crossing(self) -> &'static [Self] {
        match self {
            Self::Read => &[Self::Wrote, Self::Counted],
            Self::Wrote => &[Self::Read, Self::Wrote, Self::Counted],
            Self::Counted => &[Self::Read, Self::Wrote],
        }
    }
}

impl TouchIndex {
    /// Returns an index for a view whose newest op stands at `newest`.
    pub(super) fn new(newest: Rank) -> Self {
        Self {
            above: newest,
            touches: HashMap::new(),
        }
    }

    /// Takes note of an applied op.
    pub(super) fn add(&mut self, at: Rank, record: &Record) {
        for touch in touches(record) {
            match self.touches.entry(touch) {
                Entry::Occupied(few) => few.into_mut().insert(at),
                Entry::Vacant(vacant) => {
                    vacant.insert(Few::One(at));
                }
            }
        }
    }

    /// Forgets an op that is undone.
    pub(super) fn remove(&mut self, at: Rank, record: &Record) {
        for touch in touches(record) {
            if let Entry::Occupied(mut few) = self.touches.entry(touch)
                && few.get_mut().remove(at)
            {
                few.remove();
            }
        }
    }

    /// Returns the ops above a place that the effects of the op there concern: they touched what it
    /// writes, or wrote what it read.
    pub(super) fn concerned(&self, at: Rank, effects: &Effects) -> BTreeSet<Rank> {
        let mut found = BTreeSet::new();
        for effect in &effects.writes {
            if effect.is_write {
                found.extend(self.above((effect.key.digest(), Way::Wrote), at));
                found.extend(nameless(&effect.key).flat_map(|touch| self.above(touch, at)));
            }
            if effect.delta.is_some() {
                found.extend(self.above((effect.key.counts_digest(), Way::Counted), at));
            }
        }
        for digest in &effects.reads {
            found.extend(self.above((*digest, Way::Read), at));
        }
        found
    }

    /// Returns the tentative ops below some others, from one on, for which the order with one of those, of
    /// these records, matters. Rows that very many of them touch are looked at once.
    pub(super) fn crossing_below<'a>(
        &self,
        first: OpId,
        others: impl Iterator<Item = (OpId, &'a Record)>,
    ) -> BTreeSet<OpId> {
        let mut ends: HashMap<(u64, Way), OpId> = HashMap::new();
        for (id, record) in others {
            for touch in touches(record) {
                let end = ends.entry(touch).or_default();
                *end = id.max(*end);
            }
        }
        let mut found = BTreeSet::new();
        for ((digest, way), end) in ends {
            for way in way.crossing() {
                let (from, end) = (Rank::tentative(first), Rank::tentative(end));
                if from < end {
                    let range = (Bound::Included(from), Bound::Excluded(end));
                    let below = self.within((digest, *way), range);
                    found.extend(below.map(|rank| rank.id));
                }
            }
        }
        found
    }

    /// Adds the ops above a place that touched what the op there, of this record, wrote, but for those
    /// that `followed` says were added before: for each row the place above which that is so. Rows that
    /// very many ops touch, a busy directory's, cost each of them once.
    pub(super) fn dependent(
        &self,
        at: Rank,
        record: &Record,
        followed: &mut HashMap<u64, Rank>,
        found: &mut Vec<Rank>,
    ) {
        for touch in touches(record).filter(|(_, way)| *way != Way::Read) {
            let end = followed.get(&touch.0).copied();
            if end.is_some_and(|end| end <= at) {
                continue;
            }
            followed.insert(touch.0, at);
            // The op at the end itself was not among those above it.
            let later = self.above(touch, at);
            found.extend(later.filter(|at| end.is_none_or(|end| *at <= end)));
        }
    }

    /// Returns who touched a row so, of those in a range, in order.
    fn within(
        &self,
        touch: (u64, Way),
        range: (Bound<Rank>, Bound<Rank>),
    ) -> impl Iterator<Item = Rank> + '_ {
        let few = self.touches.get(&touch).into_iter();
        few.flat_map(move |few| few.range(range))
    }

    /// Returns the ops above a place for which the order with one that touches a row so there matters.
    fn above(&self, (digest, way): (u64, Way), at: Rank) -> impl Iterator<Item = Rank> + '_ {
        let ways = way.crossing().iter();
        let range = (Bound::Excluded(at), Bound::Unbounded);
        ways.flat_map(move |way| self.within((digest, *way), range))
    }
}

/// Returns what an op touched, and how.
fn touches(record: &Record) -> impl Iterator<Item = (u64, Way)> + '_ {
    let reads = record.reads.iter().map(|digest| (*digest, Way::Read));
    let writes = record
        .writes
        .iter()
        .map(|(key, _)| (key.digest(), Way::Wrote));
    let counted = record.deltas.iter().map(|(ino, _)| {
        let digest = RowKey::Inode(*ino).counts_digest();
        (digest, Way::Counted)
    });
    let nameless = record.writes.iter().flat_map(|(key, _)| nameless(key));
    reads.chain(writes).chain(counted).chain(nameless)
}

/// Returns how who writes a row touches the set of nodes without a name: in any order with others who
/// take a last name or give one back.
fn nameless(key: &RowKey) -> impl Iterator<Item = (u64, Way)> + use<> {
    let is_one = matches!(key, RowKey::Orphan(_));
    is_one
        .then(|| (RowKey::nameless_digest(), Way::Counted))
        .into_iter()
}
