//! What the writer knows beside the rows, and how changes are committed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::Result;
use super::arrivals;
use super::committed::Rank;
use super::drafts::{Drafts, Group};
use super::folded::{FoldedChain, RECORD_KEY};
use super::index::TouchIndex;
use super::overlay::{Effect, Overlay};
use super::progress::{LogProgress, Progress};
use super::record::Record;
use super::rows::{Row, RowKey, Value};
use super::settled::{CUT_KEY, Settled, Trimmed};
use super::sight::{self, Past};
use super::todo::Todo;
use super::totals::{TOTALS_KEY, Totals};
use super::types::{Change, Counts, FileKind};
use super::view::{View, as_inode, is_private};
use super::writer::FoldedOp;
use crate::base::{ChunkSet, LogId, OpId, Timespec};
use crate::store::{Batch, Rows, Table, codec};
use crate::wire::limits::SEEN_MAX;
use crate::wire::{RecordRef, Seen};

/// What the holder of the writer's lock keeps.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The greatest op that was applied.
    pub(super) newest: OpId,
    /// What of the commit chain is folded.
    pub(super) chain: FoldedChain,
    /// What the rows add up to.
    pub(super) totals: Totals,
    /// Own ops that no segment holds yet.
    pub(super) drafts: Drafts,
    /// How far each log is folded.
    pub(super) progress: LogProgress,
    /// Rows that recent ops touched, while a merge goes on.
    pub(super) index: Option<TouchIndex>,
    /// How far what undo needs is given up.
    pub(super) trimmed: Trimmed,
    /// Ops of the own tail that were undone and wait until the records at hand are folded; nobody waits for
    /// the view meanwhile.
    pub(super) deferred: Todo,
    /// Whether such ops wait.
    pub(super) defers: bool,
    /// Chunks that own changes have named since a look at all that is named began; `None` while there is
    /// none.
    pub(super) named: Option<ChunkSet>,
}

/// The single values that a fold makes.
pub(super) const META_KEYS: [&[u8]; 3] = [TOTALS_KEY, CUT_KEY, RECORD_KEY];

impl State {
    /// Returns the state of a volume without rows.
    pub(super) fn new(first: RecordRef, alone: bool) -> Self {
        Self {
            chain: FoldedChain::new(first),
            trimmed: Trimmed {
                alone,
                ..Trimmed::default()
            },
            ..Self::default()
        }
    }

    /// Reads the state that the rows imply; `first` is record 0 of the chain.
    pub(super) fn load(
        rows: &dyn Rows,
        own: &[LogId],
        first: RecordRef,
        alone: bool,
    ) -> Result<Self> {
        let progress = LogProgress::load(rows)?;
        let mut state = Self {
            chain: FoldedChain::load(rows, first)?,
            totals: Totals::load(rows)?,
            drafts: Drafts::load(rows, own, &progress)?,
            trimmed: Trimmed::load(rows, own, &progress, alone)?,
            newest: progress.newest(),
            progress,
            ..Self::default()
        };
        rows.scan_rev(Table::Op, &[], None, &mut |key, _| {
            state.newest = state.newest.max(OpId::from_key(key).unwrap_or_default());
            ControlFlow::Break(())
        })?;
        Ok(state)
    }

    /// Says whether nothing is folded of others, and nothing was ever made here.
    pub(super) fn is_blank(&self) -> bool {
        let has_progress = self.progress.iter().next().is_some();
        let is_first = self.chain.record.number == 0;
        is_first && !has_progress && self.drafts.is_empty() && !self.trimmed.alone
    }

    /// Takes over from a state of before what the rows do not say.
    pub(super) fn keep_of(&mut self, before: &mut Self) {
        self.drafts.keep_of(&mut before.drafts);
        self.named = before.named.take();
    }

    /// Takes over from the state in whose place this one comes what own ops are about, and what the rows do
    /// not say.
    pub(super) fn take_own_of(&mut self, before: &mut Self) {
        self.drafts = std::mem::take(&mut before.drafts);
        self.drafts.see_more();
        self.totals.found = before.totals.found.take();
        self.named = before.named.take();
        self.trimmed.alone = before.trimmed.alone;
        self.index = None;
    }

    /// Returns what is folded of the logs but one, as the header of a segment of that log says it.
    fn past(&self, own: LogId) -> Past {
        let mut progress = self.progress.clone();
        // What an earlier start did not seal is seen all the same.
        for draft in self.drafts.iter() {
            progress.add_op(draft);
        }
        let number = self.chain.record.number;
        Past {
            record: self.chain.record,
            seen: progress.beyond(&self.chain.committed, number, |log| log != own),
        }
    }

    /// Returns the record that the header of the segment of a new op will state.
    pub(super) fn record_of_new(&self, own_log: LogId) -> u64 {
        let last = self.drafts.record_of_last(own_log);
        last.unwrap_or(self.chain.record.number)
    }

    /// Returns the drafts' group that a new op opens, `None` where it belongs to the last one.
    fn new_group(&self, first: OpId) -> Option<Group> {
        self.drafts.opens_group(first).then(|| Group {
            first,
            past: self.past(first.log),
        })
    }

    /// Returns what the oldest drafts had seen, as a segment of the own log says it. Ops that an
    /// earlier start issued come behind all that this device sealed since.
    pub(super) fn past_of_drafts(&self, own_log: LogId, own_logs: &[LogId]) -> Past {
        let Some(group) = self.drafts.groups().next() else {
            return self.past(own_log);
        };
        if group.first.log == own_log {
            return group.past.clone();
        }
        let is_before = |log: LogId| log != own_log && own_logs.contains(&log);
        let number = group.past.record.number;
        let sealed = self
            .progress
            .beyond(&self.chain.committed, number, is_before);
        let sealed = sealed.into_iter().map(|seen| (seen.log, seen));
        let mut seen: BTreeMap<LogId, Seen> = sealed.collect();
        for before in &group.past.seen {
            seen.entry(before.log).or_insert(*before);
        }
        // Of their own log the ops before them alone.
        if let Some(own) = seen.get_mut(&group.first.log) {
            own.last = own.last.min(group.first.stamp);
        }
        Past {
            record: group.past.record,
            seen: seen.into_values().take(SEEN_MAX).collect(),
        }
    }

    /// Returns what tells of which ops no fold looks up any more what they replaced or removed.
    pub(super) fn settled(&self) -> Settled {
        self.trimmed.settled(&self.chain.committed)
    }

    /// Commits what ops of this device did, one after the other, in one batch.
    pub(super) fn commit_ops(&mut self, view: &View, ops: &[FoldedOp]) -> Result<()> {
        let mut batch = Batch::new();
        let (mut tally, keys) = (self.totals.tally(), view.keys());
        let group = ops.first().and_then(|op| self.new_group(op.id));
        if let Some(group) = &group {
            sight::put(&mut batch, group.first, &group.past);
        }
        for op in ops {
            for Effect {
                key, before, after, ..
            } in &op.effects
            {
                tally.change(keys, key, before.as_ref(), after.as_ref());
                put_row(view, &mut batch, key, after.as_ref());
            }
            op.record.put(&mut batch, op.id);
        }
        self.totals.put(&mut batch, &tally);
        view.rows.commit(batch)?;
        if let Some(check) = &mut self.totals.check {
            for effect in ops.iter().flat_map(|op| &op.effects) {
                let (before, after) = (effect.before.as_ref(), effect.after.as_ref());
                check.change(keys, &effect.key, before, after);
            }
        }
        let effects = ops.iter().flat_map(|op| &op.effects);
        view.install(effects.map(|effect| (&effect.key, &effect.after)));
        self.totals.set(tally);
        if let Some(group) = group {
            self.drafts.open_group(group);
        }
        Ok(())
    }

    /// Commits an overlay, together with what else is in `batch`; returns what it changes, where that
    /// is what others did and `arrived` at that moment.
    pub(super) fn commit(
        &mut self,
        view: &View,
        overlay: Overlay,
        mut batch: Batch,
        arrived: Option<Timespec>,
    ) -> Result<Vec<Change>> {
        let wants_changes = arrived.is_some();
        let mut arrivals = BTreeSet::new();
        let (mut changes, mut dated) = (Vec::new(), Vec::new());
        let (mut tally, keys) = (self.totals.tally(), view.keys());
        let mut check = self.totals.check.take();
        for (key, laid) in overlay.rows() {
            let (before, after) = (laid.below(view, key)?, &laid.now);
            debug_assert_eq!(
                before.as_ref().map(|row| row.bytes.clone()),
                view.row(key)?.map(|row| row.bytes.clone()),
                "the overlay is on top of what is committed"
            );
            tally.change(keys, key, before.as_ref(), after.as_ref());
            if let Some(check) = &mut check {
                check.change(keys, key, before.as_ref(), after.as_ref());
            }
            if wants_changes {
                changes.extend(change(key, before.as_ref(), after.as_ref())?);
                arrivals.extend(arrivals::changed(key, before.as_ref(), after.as_ref()));
            }
            if let (RowKey::Dated(ino), true) = (key, wants_changes) {
                dated.push(*ino);
            }
            if let (RowKey::Inode(ino), None, None) = (key, after, arrived) {
                view.arrivals.remove(*ino, &mut batch);
            }
            put_row(view, &mut batch, key, after.as_ref());
        }
        if let Some(now) = arrived {
            let gone = |ino| matches!(overlay.row(&RowKey::Inode(ino)), Some(None));
            view.arrivals.put(&arrivals, &gone, now, &mut batch);
        }
        Record::delete_parts(&*view.rows, &mut batch, &|id| {
            overlay.records.contains_key(&id)
        })?;
        for (id, record) in &overlay.records {
            match record {
                Some(record) => record.put(&mut batch, *id),
                None => batch.delete(Table::Op, id.to_key()),
            }
        }
        for (id, kind) in &overlay.undone {
            match kind {
                Some(kind) => batch.put(Table::Undone, id.to_key(), codec::encode(&**kind)),
                None => batch.delete(Table::Undone, id.to_key()),
            }
        }
        self.totals.put(&mut batch, &tally);
        view.rows.commit(batch)?;
        let rows = overlay.rows().iter();
        view.install(rows.map(|(key, laid)| (key, &laid.now)));
        // Where it failed the rows are read again from the first one on.
        self.totals.check = check;
        self.totals.set(tally);
        for part in dated {
            changes.push(Change::Attr(view.dir(part)?));
        }
        Ok(changes)
    }

    /// Returns the sums over the volume.
    pub(super) fn counts(&self) -> Counts {
        let drafts = self.drafts.len() as u64;
        Counts {
            drafts,
            ..self.totals.counts()
        }
    }

    /// Tells whether an op may be among those that are applied: one of another device that is behind all
    /// that is folded of its log is not.
    pub(super) fn may_be_applied(&self, view: &View, id: OpId) -> bool {
        let is_folded = |at: &Progress| id.stamp <= at.stamp;
        self.progress.get(&id.log).is_some_and(is_folded) || view.may_be_own(id.log)
    }

    /// Takes note of an applied op.
    pub(super) fn note(&mut self, rank: Rank, record: &Record) {
        self.newest = self.newest.max(rank.id);
        if rank == Rank::tentative(rank.id) {
            self.chain.tentative = self.chain.tentative.min(rank.id);
        }
        if let Some(index) = &mut self.index {
            index.add(rank.id, record);
        }
    }
}

fn put_row(view: &View, batch: &mut Batch, key: &RowKey, row: Option<&Row>) {
    if let RowKey::Alias(ino) = key {
        view.arrivals.note_elsewhere(*ino);
    }
    match row {
        Some(row) => batch.put_bytes(key.table(), key.bytes(), row.bytes.clone()),
        None => batch.delete(key.table(), key.bytes()),
    }
}

/// Returns what a kernel cache has to forget about a row.
pub(super) fn change(
    key: &RowKey,
    before: Option<&Row>,
    after: Option<&Row>,
) -> Result<Option<Change>> {
    Ok(match key {
        RowKey::Inode(ino) if !is_private(*ino) => {
            let content = match (before, after) {
                (Some(before), Some(after)) => {
                    let (before, after) = (as_inode(before)?, as_inode(after)?);
                    before.kind == FileKind::File && before.version != after.version
                }
                _ => false,
            };
            Some(if content {
                Change::Content(*ino)
            } else {
                Change::Attr(*ino)
            })
        }
        RowKey::Dirent(parent, _) => {
            let entry = |row: Option<&Row>| match row.map(|row| &row.value) {
                Some(Value::Dirent(dirent)) => Some((dirent.name.clone(), dirent.ino)),
                _ => None,
            };
            let (before, after) = (entry(before), entry(after));
            let gone = before.as_ref().map(|(_, ino)| *ino);
            before.or(after).map(|(name, _)| Change::Entry {
                parent: *parent,
                name,
                gone,
            })
        }
        _ => None,
    })
}
