//! Which applied ops touch which rows: what a merge asks to find whom an earlier op concerns.

use std::collections::{BTreeSet, HashMap};
use std::ops::{Bound, ControlFlow};

use parking_lot::MutexGuard;

use super::committed::{Committed, Rank};
use super::op::ino_of;
use super::overlay::{Effects, Overlay, Room};
use super::record::Record;
use super::rows::RowKey;
use super::state::State;
use super::touches::Touches;
use super::trim::{after, before};
use super::view::View;
use super::{Result, Volume, VolumeError};
use crate::base::OpId;
use crate::store::Table;

/// The rows that recent ops touched, by digest.
///
/// It knows ops by their ids alone: which record names one is looked up where it is asked for, so that a
/// record that names thousands changes nothing here. What the folded records name is never found.
#[derive(Debug)]
pub(super) struct TouchIndex {
    /// Every applied op behind this one that no folded record names is in the index.
    pub(super) above: OpId,
    /// Who touched a row so. Apart by how: of the very many that read a busy row, or count in it, none
    /// is looked at by another who does.
    touches: Touches,
    /// Ops that were added.
    added: usize,
    /// Whether it was asked for since it was last looked at.
    is_of_use: bool,
}

/// An index of more ops is made anew where it is needed again. With some 70 bytes an op, some 9 MB.
const KEPT_OPS_MAX: usize = 1 << 17;

/// What is added to the index under one hold of the writer's lock: some milliseconds.
const INDEX_STEP: Room = Room {
    bytes: 1 << 20,
    rows: 512,
};

impl State {
    /// Adds applied ops to the index, newest first, until it has all behind `above`, or so much was looked
    /// at; says whether it has all. What `overlay` holds was added as it was folded.
    pub(super) fn index_above(
        &mut self,
        view: &View,
        overlay: &Overlay,
        above: OpId,
        room: Room,
    ) -> Result<bool> {
        let newest = self.newest;
        let committed = &self.chain.committed;
        let folded = self.chain.record.number;
        let index = self.index.get_or_insert_with(|| {
            let mut index = TouchIndex::new(newest);
            for (id, record) in &overlay.records {
                record.iter().for_each(|record| index.add(*id, record));
            }
            index
        });
        if above >= index.above {
            return Ok(true);
        }
        // Below the first that is tentative there is nothing to add, however much lies there.
        let start = above.max(before(self.chain.tentative));
        if start >= index.above {
            index.above = above;
            return Ok(true);
        }
        let (start, end) = (after(start).to_key(), after(index.above).to_key());
        let mut left = Some(room);
        let mut failed = None;
        view.rows
            .scan_rev(Table::Op, &start, Some(&end), &mut |key, value| {
                let Some(id) = OpId::from_key(key) else {
                    failed = Some(BAD_OP_KEY);
                    return ControlFlow::Break(());
                };
                let is_open = committed.number(id).is_none_or(|number| number > folded);
                if is_open && !overlay.records.contains_key(&id) {
                    match Record::of_row(&*view.rows, id, value.to_vec()) {
                        Ok(record) => index.add(id, &record),
                        Err(error) => {
                            failed = Some(error);
                            return ControlFlow::Break(());
                        }
                    }
                }
                index.above = before(id);
                left = left.and_then(|left| left.after_bytes(value.len()));
                match left {
                    Some(_) => ControlFlow::Continue(()),
                    None => ControlFlow::Break(()),
                }
            })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let has_all = left.is_some();
        if has_all {
            index.above = above;
        }
        Ok(has_all)
    }
}

impl Volume {
    /// Returns the writer's lock once the index has all applied ops behind one, which is made in steps: own
    /// ops go on in between. A volume that nobody sees makes it in one go.
    pub(super) fn lock_indexed(&self, above: OpId) -> Result<MutexGuard<'_, State>> {
        let room = self.bound().map_or(Room::ENDLESS, |_| INDEX_STEP);
        let nothing = Overlay::default();
        loop {
            let mut state = self.state.lock();
            let above = above.max(state.trimmed.cut);
            if above >= state.newest || state.index_above(&self.view, &nothing, above, room)? {
                return Ok(state);
            }
            MutexGuard::unlock_fair(state);
        }
    }

    /// Gives up an index that was not asked for since this was called last, or that is large.
    pub(super) fn drop_index(&self) {
        let mut state = self.state.lock();
        let is_kept = |index: &mut TouchIndex| index.was_of_use() && index.is_small();
        if state.index.as_mut().is_some_and(|index| !is_kept(index)) {
            state.index = None;
        }
    }

    /// Gives up an index that own ops have made large, where no merge goes on.
    pub(super) fn spare_index(&self, state: &mut State) {
        let is_large = state.index.as_ref().is_some_and(|index| !index.is_small());
        if is_large && self.feed.try_lock().is_some() {
            state.index = None;
        }
    }
}

const BAD_OP_KEY: VolumeError = VolumeError::Corrupt {
    what: "the key of an op",
};

/// How an op touched a row, or the counts in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    Read,
    Wrote,
    /// Added to it: in any order with others who did.
    Counted,
}

impl Way {
    /// Returns the key of those who touch a row so.
    fn key(self, digest: u64) -> u64 {
        let mark = match self {
            Self::Read => 0,
            Self::Wrote => 0xbb67_ae85_84ca_a73b,
            Self::Counted => 0x3c6e_f372_fe94_f82b,
        };
        digest ^ mark
    }

    /// Returns how another op touches the same thing where the order of the two matters.
    fn crossing(self) -> &'static [Self] {
        match self {
            Self::Read => &[Self::Wrote, Self::Counted],
            Self::Wrote => &[Self::Read, Self::Wrote, Self::Counted],
            Self::Counted => &[Self::Read, Self::Wrote],
        }
    }
}

/// The rows that some ops touched, with the last of them that did. Rows that very many touch are in it once.
#[derive(Debug, Default)]
pub(super) struct Touched {
    ends: HashMap<(u64, Way), OpId>,
}

impl Touched {
    /// Takes note of an op.
    pub(super) fn add(&mut self, id: OpId, record: &Record) {
        for touch in touches(record) {
            let end = self.ends.entry(touch).or_default();
            *end = id.max(*end);
        }
    }
}

impl TouchIndex {
    /// Returns an index for a view whose newest op is `newest`.
    pub(super) fn new(newest: OpId) -> Self {
        Self {
            above: newest,
            touches: Touches::default(),
            added: 0,
            is_of_use: true,
        }
    }

    /// Takes note of an applied op.
    pub(super) fn add(&mut self, id: OpId, record: &Record) {
        self.added += 1;
        for (digest, way) in kept_touches(id, record) {
            self.touches.insert(way.key(digest), id);
        }
    }

    /// Forgets an op that is undone.
    pub(super) fn remove(&mut self, id: OpId, record: &Record) {
        for (digest, way) in kept_touches(id, record) {
            self.touches.remove(way.key(digest), id);
        }
    }

    /// Tells whether it is worth its memory when nothing is merged.
    pub(super) fn is_small(&self) -> bool {
        self.added <= KEPT_OPS_MAX
    }

    /// Tells whether it was asked for since this was asked last.
    pub(super) fn was_of_use(&mut self) -> bool {
        std::mem::take(&mut self.is_of_use)
    }

    /// Returns the ops above a place that the effects of the op there concern: they touched what it
    /// writes, or wrote what it read.
    pub(super) fn concerned(
        &mut self,
        committed: &Committed,
        at: Rank,
        effects: &Effects,
    ) -> BTreeSet<Rank> {
        self.is_of_use = true;
        let mut found = BTreeSet::new();
        let mut add = |touch| found.extend(self.above(committed, touch, at, None));
        for effect in &effects.writes {
            if effect.is_write {
                add((effect.key.digest(), Way::Wrote));
                nameless(&effect.key).for_each(&mut add);
            }
            if effect.delta.is_some() {
                add((effect.key.counts_digest(), Way::Counted));
            }
        }
        for digest in &effects.reads {
            add((*digest, Way::Read));
        }
        found
    }

    /// Returns the tentative ops below some others, from one on, for which the order with one of those matters.
    pub(super) fn crossing_below(
        &mut self,
        committed: &Committed,
        first: OpId,
        others: &Touched,
    ) -> BTreeSet<OpId> {
        self.is_of_use = true;
        let mut found = BTreeSet::new();
        for ((digest, way), end) in others.ends.iter().filter(|(_, end)| first < **end) {
            for way in way.crossing() {
                let range = (Bound::Included(first), Bound::Excluded(*end));
                let below = self.within((*digest, *way), range);
                found.extend(below.filter(|id| committed.number(*id).is_none()));
            }
        }
        found
    }

    /// Adds the ops above a place that touched what the op there, of this record, wrote, but for those
    /// that `followed` says were added before: for each row the place above which that is so. Rows that
    /// very many ops touch, a busy directory's, cost each of them once.
    pub(super) fn dependent(
        &self,
        committed: &Committed,
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
            let before = found.len();
            // The op at the end itself was not among those above it.
            found.extend(self.above(committed, touch, at, end));
            // Nearly all rows are touched by one op alone, and are not met again.
            if found.len() > before || end.is_some() {
                followed.insert(touch.0, at);
            }
        }
    }

    /// Returns who touched a row so, of those in a range, in order.
    fn within(
        &self,
        (digest, way): (u64, Way),
        range: (Bound<OpId>, Bound<OpId>),
    ) -> impl Iterator<Item = OpId> + '_ {
        self.touches.within(way.key(digest), range)
    }

    /// Returns the ops above a place, up to an end where there is one, for which the order with one that
    /// touches a row so there matters.
    fn above<'a>(
        &'a self,
        committed: &'a Committed,
        (digest, way): (u64, Way),
        at: Rank,
        end: Option<Rank>,
    ) -> impl Iterator<Item = Rank> + 'a {
        // Above what a record names stands all that none does, whenever it was done.
        let start = match at.record {
            Rank::TENTATIVE => Bound::Excluded(at.id),
            _ if end.is_some_and(|end| end.record == at.record) => Bound::Excluded(at.id),
            _ => Bound::Unbounded,
        };
        let stop = match end {
            Some(end) if end.record == at.record => Bound::Included(end.id.max(at.id)),
            _ => Bound::Unbounded,
        };
        let ways = way.crossing().iter();
        let ids = ways.flat_map(move |way| self.within((digest, *way), (start, stop)));
        ids.map(|id| committed.rank(id))
            .filter(move |rank| *rank > at && end.is_none_or(|end| *rank <= end))
    }
}

/// Returns what an op touched, and how, but for the rows of the node that it made: whoever touches those
/// had seen the op, and so comes behind it.
fn kept_touches(id: OpId, record: &Record) -> impl Iterator<Item = (u64, Way)> + '_ {
    let made = record.kind.shape().makes();
    let made = made.then(|| RowKey::Inode(ino_of(id)));
    let made = made.map(|key| [key.digest(), key.counts_digest()]);
    touches(record).filter(move |(digest, _)| made.is_none_or(|made| !made.contains(digest)))
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
