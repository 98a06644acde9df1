//! Drafts: own ops that no segment holds yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::Result;
use super::op::OpKind;
use super::progress::LogProgress;
use super::sight::{self, Past};
use crate::base::{Ino, LogId, OpId, Stamp};
use crate::store::{Rows, Table};
use crate::wire::Seen;

/// Drafts that were issued while their author had seen the same.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// The first of them.
    pub(super) first: OpId,
    /// What was folded by then.
    pub(super) past: Past,
}

/// The drafts, in the order in which they were issued.
///
/// Added behind by who applies ops; taken off in front by who seals; only who holds the lock of sealing
/// changes those in between.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    ids: VecDeque<OpId>,
    /// By what was seen when they were issued, oldest first; no segment spans two. Each has a draft.
    groups: VecDeque<Group>,
    /// True where something was folded since the last draft was issued.
    saw_more: bool,
    /// The newest of them as they were applied, so that sealing need not read their records.
    kinds: HashMap<OpId, Arc<OpKind>>,
    /// What `kinds` takes, in bytes, about.
    kinds_bytes: usize,
    /// Files that they have written; a second write of one is worth a look for what it overwrites.
    written: HashSet<Ino>,
    /// True when one may overwrite what another wrote.
    rewrites: bool,
    /// What had been seen by who issued drafts that lie elsewhere, beside which this volume is folded, with
    /// the logs of these: one may end by a record that is folded here first.
    pub(super) anchors: Vec<(LogId, Seen)>,
}

impl Drafts {
    /// Reads what the rows hold of own logs.
    pub(super) fn load(rows: &dyn Rows, own: &[LogId], progress: &LogProgress) -> Result<Self> {
        let ids = ids_in(rows, own, progress)?;
        Ok(Self {
            groups: groups_in(rows, &ids)?.into(),
            rewrites: ids.len() > 1,
            ids: ids.into(),
            // What is folded already is behind these drafts.
            saw_more: true,
            ..Self::default()
        })
    }

    /// Takes over from those of before what the rows do not say.
    pub(super) fn keep_of(&mut self, before: &mut Self) {
        self.kinds = std::mem::take(&mut before.kinds);
        self.kinds_bytes = before.kinds_bytes;
        self.written = std::mem::take(&mut before.written);
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Says whether all own ops are sealed.
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Returns the oldest one.
    pub(super) fn front(&self) -> Option<OpId> {
        self.ids.front().copied()
    }

    /// Returns the one before which there are so many.
    pub(super) fn get(&self, index: usize) -> Option<OpId> {
        self.ids.get(index).copied()
    }

    /// Visits them, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = OpId> {
        self.ids.iter().copied()
    }

    /// Visits them, newest first.
    pub(super) fn iter_rev(&self) -> impl Iterator<Item = OpId> {
        self.ids.iter().rev().copied()
    }

    /// Visits the groups, oldest first.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    /// Returns how a draft was applied, `None` where its record has to be read.
    pub(super) fn kind(&self, id: OpId) -> Option<Arc<OpKind>> {
        self.kinds.get(&id).cloned()
    }

    /// Returns what the newest take in memory, in bytes, about.
    pub(super) fn bytes(&self) -> usize {
        self.kinds_bytes
    }

    /// Takes note that something else was folded: the next draft's author has seen more.
    pub(super) fn see_more(&mut self) {
        self.saw_more = true;
    }

    /// Returns the record that the header of the segment of a new op will state, where it goes into the
    /// group of the last draft.
    pub(super) fn record_of_last(&self, own_log: LogId) -> Option<u64> {
        let goes_on = !self.saw_more && !self.ids.is_empty();
        let last = self.groups.back().filter(|_| goes_on)?;
        (last.first.log == own_log).then_some(last.past.record.number)
    }

    /// Tells whether a new op opens a group.
    pub(super) fn opens_group(&self, first: OpId) -> bool {
        let last = self.groups.back();
        let goes_on = !self.saw_more && last.is_some_and(|last| last.first.log == first.log);
        !goes_on || self.ids.is_empty()
    }

    /// Adds a group, of drafts that are pushed now.
    pub(super) fn open_group(&mut self, group: Group) {
        self.groups.push_back(group);
        self.saw_more = false;
    }

    /// Adds an own op that was just applied.
    pub(super) fn push(&mut self, id: OpId, kind: &Arc<OpKind>) {
        self.ids.push_back(id);
        let bytes = self.kinds_bytes + kind.room();
        // Beyond that sealing lags behind, and reads records.
        if bytes <= KINDS_MAX_BYTES {
            self.kinds_bytes = bytes;
            self.kinds.insert(id, Arc::clone(kind));
        }
        if let Some(write) = kind.as_write() {
            self.rewrites |= !self.written.insert(write.ino);
        }
    }

    /// Returns which group a draft belongs to.
    pub(super) fn group_of(&self, draft: OpId) -> usize {
        self.groups.partition_point(|group| group.first <= draft)
    }

    /// Returns the groups that have no draft left without the `count` oldest drafts.
    pub(super) fn groups_within(&self, count: usize) -> impl Iterator<Item = &Group> {
        self.groups.iter().take(self.groups_done(count))
    }

    fn groups_done(&self, count: usize) -> usize {
        let Some(next) = self.get(count) else {
            return self.groups.len();
        };
        let begun = self.groups.partition_point(|group| group.first <= next);
        begun.saturating_sub(1)
    }

    /// Forgets which files were written: those whose drafts are sealed now.
    pub(super) fn begin_seal(&mut self) {
        self.written.clear();
    }

    /// Takes the oldest drafts off, as a segment holds them.
    pub(super) fn sealed(&mut self, count: usize) {
        let done = self.groups_done(count);
        self.groups.drain(..done);
        let sealed: Vec<OpId> = self.ids.drain(..count).collect();
        for id in sealed {
            self.drop_kind(id);
        }
    }

    /// Says whether it is worth a look what the drafts overwrite of each other, and takes it for done.
    pub(super) fn take_rewrites(&mut self) -> bool {
        std::mem::take(&mut self.rewrites)
    }

    /// Takes note that nobody looked.
    pub(super) fn look_again(&mut self) {
        self.rewrites = true;
    }

    /// Takes those off that `whole` does the work of; they are in order.
    pub(super) fn united(&mut self, whole: OpId, replaced: &[OpId]) {
        for id in replaced.iter().chain([&whole]) {
            self.drop_kind(*id);
        }
        self.ids
            .retain(|draft| replaced.binary_search(draft).is_err());
    }

    /// Takes those off that were put aside: all of their logs.
    pub(super) fn put_aside(&mut self, aside: &BTreeSet<OpId>) {
        let logs: BTreeSet<LogId> = aside.iter().map(|draft| draft.log).collect();
        self.ids.retain(|draft| !aside.contains(draft));
        self.groups.retain(|group| !logs.contains(&group.first.log));
        for draft in aside {
            self.drop_kind(*draft);
        }
    }

    /// Returns what was seen by who issued drafts of the logs that `of` takes, or some that lie elsewhere.
    pub(super) fn seen_by(&self, of: impl Fn(LogId) -> bool) -> Vec<Seen> {
        let seen = self.seen().into_iter();
        seen.filter(|(log, _)| of(*log))
            .map(|(_, seen)| seen)
            .collect()
    }

    /// Returns what was seen by who issued drafts, or some that lie elsewhere, with the logs of these.
    pub(super) fn seen(&self) -> Vec<(LogId, Seen)> {
        let of_group = |group: &'_ Group| {
            let log = group.first.log;
            let seen = group.past.seen.iter();
            seen.map(|seen| (log, *seen)).collect::<Vec<_>>()
        };
        let seen = self.groups.iter().flat_map(of_group);
        seen.chain(self.anchors.iter().copied()).collect()
    }

    /// Forgets how a draft was applied: it is sealed, or another one does what it did.
    fn drop_kind(&mut self, id: OpId) {
        if let Some(kind) = self.kinds.remove(&id) {
            self.kinds_bytes = self.kinds_bytes.saturating_sub(kind.room());
        }
    }
}

/// Finds the ops of own logs that no segment holds which is folded, in order.
pub(super) fn ids_in(rows: &dyn Rows, own: &[LogId], progress: &LogProgress) -> Result<Vec<OpId>> {
    let ends = own.iter().map(|log| (*log, progress.sealed(*log)));
    let ends: BTreeMap<LogId, Stamp> = ends.collect();
    let first = ends.values().min().copied().unwrap_or_default();
    let from = OpId {
        stamp: first.next(),
        log: LogId(0),
    };
    let mut drafts = Vec::new();
    rows.scan_keys(Table::Op, &from.to_key(), None, &mut |key| {
        let id = OpId::from_key(key);
        drafts.extend(id.filter(|id| ends.get(&id.log).is_some_and(|end| id.stamp > *end)));
        ControlFlow::Continue(())
    })?;
    Ok(drafts)
}

/// Finds what had been seen at drafts.
pub(super) fn groups_in(rows: &dyn Rows, drafts: &[OpId]) -> Result<Vec<Group>> {
    let mut first: BTreeMap<LogId, Stamp> = BTreeMap::new();
    for draft in drafts {
        first.entry(draft.log).or_insert(draft.stamp);
    }
    let mut groups = Vec::new();
    for (log, from) in first {
        let rows = sight::of_log(rows, log, from)?;
        groups.extend(rows.into_iter().map(|(first, past)| Group { first, past }));
    }
    groups.sort_unstable_by_key(|group| group.first);
    Ok(groups)
}

/// Most memory for drafts as they were applied.
const KINDS_MAX_BYTES: usize = 8 << 20;
