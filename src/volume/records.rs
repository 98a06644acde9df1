//! Folding records of the chain: what one names stands, for good, before all that none names.
//!
//! A record is folded once all that it names is, so its ops are applied already, as tentative ones, in
//! the order of their stamps. Only those that it does not name and that came before some that it does
//! change places with them; where such two touched the same rows they are undone and folded again, the
//! named one first. No named op is undone afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::committed::Committed;
use super::feed::{Feed, Merged};
use super::folded::FoldedChain;
use super::index::Touched;
use super::merge::{Merge, touched_behind};
use super::progress::Progress;
use super::record::Record as Undo;
use super::settled::Settled;
use super::sight::{self, Sights};
use super::state::State;
use super::trim::{TRIM_SLICE, after, before};
use super::{Result, Volume, VolumeError};
use crate::base::limits::{STAMP_BEYOND_RECORD_MAX, STAMPS_BEGIN_MS};
use crate::base::{LogId, OpId, Stamp};
use crate::log::LogError;
use crate::log::chain::Record;
use crate::store::{Batch, Rows, Table};
use crate::wire::{RecordRef, Vector};

/// Ops that are looked at in one go for those that are settled.
const LOOK_SLICE: usize = 4096;

/// What a record names, by the log that the ops are named after.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// The last op of each log.
    pub(super) ends: BTreeMap<LogId, Stamp>,
    /// The last segment of each log.
    pub(super) segments: BTreeMap<LogId, u64>,
    /// The stamps of the first and the last op of each log.
    stamps: BTreeMap<LogId, (Stamp, Stamp)>,
}

/// The applied ops that a record finds.
#[derive(Debug, Default)]
struct Found {
    named: BTreeSet<OpId>,
    /// The first applied op that neither it nor a record before it names.
    passed: Option<OpId>,
    /// No applied op below this one is tentative once it is folded; `None` where it names no op.
    tentative: Option<OpId>,
}

impl Found {
    /// Returns the first op that the record passes: some that it names come behind it.
    fn crossed(&self) -> Option<OpId> {
        let last = self.named.last()?;
        self.passed.filter(|first| first < last)
    }
}

impl Volume {
    /// Returns the newest record of the chain that is folded: what it names and those before it stands,
    /// whatever else comes.
    pub fn record(&self) -> RecordRef {
        self.state.lock().chain.record
    }

    /// Returns the record up to which what was replaced is looked up no more.
    pub fn base_line(&self) -> u64 {
        self.state.lock().chain.committed.base_line
    }

    /// Returns the least record that the fold of any op of this device may look back to, of those that
    /// no record names yet and of all to come.
    pub fn needs(&self) -> u64 {
        let state = self.state.lock();
        let drafts = state.drafts.groups().map(|group| group.past.record.number);
        let least = drafts.min().unwrap_or(state.chain.record.number);
        let own = self.device;
        // Of others only what is sealed and not named: each says what it needs itself.
        let logs = state.progress.iter().filter(|(log, at)| {
            at.stamp > state.chain.committed.end(**log) && self.view.device_of(**log) == own
        });
        let logs: Vec<LogId> = logs.map(|(log, _)| *log).collect();
        let from = |log: LogId| state.chain.committed.end(log).next();
        let pasts = logs.into_iter().map(|log| {
            let rows = sight::of_log(&*self.view.rows, log, from(log));
            // What cannot be told is needed.
            rows.map_or(0, |rows| {
                let records = rows.iter().map(|(_, past)| past.record.number);
                records.min().unwrap_or(u64::MAX)
            })
        });
        pasts.fold(least, u64::min)
    }

    /// Gives up what no fold looks back to any more, since a record said so.
    pub(super) fn trim_settled(&self) -> Result<()> {
        let (settled, base_line, mut from) = {
            let state = self.state.lock();
            let base_line = state.chain.committed.base_line;
            if state.trimmed.base_line >= base_line {
                return Ok(());
            }
            (state.settled(), base_line, state.trimmed.gone)
        };
        let end = settled.end();
        loop {
            let (gone, next) = self.settled_ops(&settled, from, end)?;
            let mut batch = Batch::new();
            self.keep_replaced(gone.iter(), &mut batch)?;
            for id in &gone {
                batch.delete(Table::Op, id.to_key());
            }
            Undo::delete_parts(&*self.view.rows, &mut batch, &|id| gone.contains(&id))?;
            self.view.rows.settle()?;
            let _state = self.state.lock();
            if !batch.is_empty() {
                self.view.rows.commit(batch)?;
            }
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        // While it is known which record names what took their names.
        self.reap()?;
        {
            let mut state = self.state.lock();
            let mut batch = Batch::new();
            let committed = Arc::make_mut(&mut state.chain.committed);
            committed.forget(&mut batch);
            self.view.rows.commit(batch)?;
            state.trimmed.base_line = base_line;
        }
        self.thin_in_turn()
    }

    /// Returns a slice of settled ops whose records are here, from one on, and where the next begins.
    fn settled_ops(
        &self,
        settled: &Settled,
        from: OpId,
        end: OpId,
    ) -> Result<(BTreeSet<OpId>, Option<OpId>)> {
        let mut gone = BTreeSet::new();
        let (mut next, mut seen) = (None, 0);
        let (start, end) = (
            from.to_key(),
            OpId {
                stamp: end.stamp.next(),
                ..end
            }
            .to_key(),
        );
        let rows = &self.view.rows;
        rows.scan_keys(Table::Op, &start, Some(&end), &mut |key| {
            let id = OpId::from_key(key).unwrap_or_default();
            if gone.len() == TRIM_SLICE || seen == LOOK_SLICE {
                next = Some(id);
                return ControlFlow::Break(());
            }
            seen += 1;
            if settled.has(id) {
                gone.insert(id);
            }
            ControlFlow::Continue(())
        })?;
        Ok((gone, next))
    }

    /// Returns the last segments that the next record names, of each log, where all of them are here.
    pub(super) fn named_at_hand(&self) -> Result<Option<Vector>> {
        let Some(record) = self.unfolded_record()? else {
            return Ok(None);
        };
        let here = self.config.log.vector();
        let mut named = Vector::new();
        for name in &record.segments {
            if here.get(&name.log).is_none_or(|last| *last < name.seg_no) {
                return Ok(None);
            }
            let last = named.entry(name.log).or_default();
            *last = name.seg_no.max(*last);
        }
        Ok(self
            .config
            .chain
            .knows_statements_of(&record)
            .then_some(named))
    }

    /// Folds the records whose segments are all folded; says whether there were any.
    pub(super) fn fold_records(&self, feed: &mut Feed, merged: &mut Merged) -> Result<bool> {
        let mut any = false;
        while let Some(record) = self.next_record(merged)? {
            if self.fold_record(&record, merged)? {
                // What was read and counts no more is read again where it counts one day.
                *feed = Feed::default();
            }
            any = true;
        }
        Ok(any)
    }

    /// Returns the record behind the newest folded one, where it is here.
    pub(super) fn unfolded_record(&self) -> Result<Option<Record>> {
        let folded = self.state.lock().chain.record;
        let Some(next) = folded.number.checked_add(1) else {
            return Ok(None);
        };
        let next = self.config.chain.get(next)?;
        // Of another chain to which this peer has gone over nothing is folded behind this one.
        Ok(next.filter(|next| next.prev == folded.hash))
    }

    /// Says whether what is folded is of the chain: else this peer has gone over to another one since, and
    /// everything is to be folded anew.
    pub fn is_of_chain(&self) -> Result<bool> {
        let folded = self.record();
        Ok(folded == RecordRef::default() || self.config.chain.has(folded)?)
    }

    /// Returns the next record, where all that it names is folded.
    fn next_record(&self, merged: &mut Merged) -> Result<Option<Record>> {
        let record = self.unfolded_record()?;
        let lacks = |record: &&Record| !self.config.chain.knows_statements_of(record);
        merged.lacks_statements = record.as_ref().filter(lacks).map(|record| record.number);
        if merged.lacks_statements.is_some() {
            return Ok(None);
        }
        let state = self.state.lock();
        Ok(record.filter(|record| {
            record.segments.iter().all(|name| {
                let at = state.progress.get(&name.log);
                // What is below a floor is had with the rows of a checkpoint alone.
                at.is_some_and(|at| at.seg_no >= name.seg_no)
                    && name.seg_no > self.config.log.floor(name.log)
            })
        }))
    }

    /// Folds a record; says whether it ended somebody's right to write.
    fn fold_record(&self, record: &Record, merged: &mut Merged) -> Result<bool> {
        let named = self.named_by(record)?;
        let rows = &*self.view.rows;
        // Own ops go on while that is looked up: a record names thousands. They stand behind all that it names.
        let applied = Applied::of(&self.state.lock(), &named);
        let found = applied.find(rows, &named)?;
        let crossed = found.crossed().map(|first| {
            let touched = touched_behind(rows, first, &found.named)?;
            Ok::<_, VolumeError>((first, touched))
        });
        let crossed = crossed.transpose()?;
        let mut state = match &crossed {
            Some((first, _)) => self.lock_indexed(before(*first))?,
            None => self.state.lock(),
        };
        let order = Arc::clone(&state.chain.committed);
        let folded = self.fold_named(&mut state, record, (&named, &found, crossed), merged);
        let frozen = folded
            .as_ref()
            .ok()
            .and_then(|_| self.freeze_at(record, &state));
        if folded.is_err() {
            // Nothing of it is committed: the next try is to find the order as it was.
            state.chain.committed = order;
            state.index = None;
        }
        drop(state);
        if let Some(frozen) = frozen {
            self.make_checkpoint(frozen);
        }
        folded
    }

    fn fold_named(
        &self,
        state: &mut MutexGuard<'_, State>,
        record: &Record,
        (named, found, crossed): (&Named, &Found, Option<(OpId, Touched)>),
        merged: &mut Merged,
    ) -> Result<bool> {
        // What waits and is named now waits no longer.
        let is_named = |id: OpId| named.ends.get(&id.log).is_some_and(|end| id.stamp <= *end);
        let todo = state.deferred.take_named(is_named);
        let sights = Sights::default();
        let mut merge = Merge::new(&self.view, state, todo, sights, self.bound());
        merge.named = found.named.clone();
        if let Some((first, touched)) = crossed {
            merge.undo_passed(first, &found.named, &touched)?;
        }
        if record.base_line > merge.state.chain.committed.base_line {
            let late = late_for(&*self.view.rows, merge.state, record)?;
            merge.undo_all(late)?;
        }
        let fence = self.config.chain.fence_at(record.number);
        let back = self.taken_back(merge.state, &fence, record, named)?;
        merge.take_back_all(&back.ops)?;
        let is_back = |id: OpId| {
            back.progress
                .get(&id.log)
                .is_some_and(|at| id.stamp > at.stamp)
        };
        let deferred = &mut merge.state.deferred;
        deferred.forget(&mut merge.overlay, is_back);
        merge.state.chain.name(record, &named.ends);
        merge.rank_anew();
        merge.run()?;

        merged.waiting_bytes = merged.waiting_bytes.max(merge.waiting_bytes);
        let (overlay, undone) = (merge.overlay, merge.undone_count);
        // Beside the view nothing is set aside: what was there before is seen where it is shown.
        if self.layer.is_some() {
            let ops = back.ops.iter().chain(&back.drafts).copied();
            merged.changes.extend(self.keep_aside(ops)?);
        }
        let mut batch = Batch::new();
        self.put_back(&mut batch, &back)?;
        let mut progress: BTreeMap<LogId, Progress> = BTreeMap::new();
        for (log, last) in &named.ends {
            Committed::put(&mut batch, *log, *last, record.number);
            // Else what is folded next had seen what its own row says.
            let folded = state.progress.get(log).map(|at| at.stamp);
            let drafts = state.drafts.groups().any(|group| group.first.log == *log);
            let goes_on = drafts || folded > Some(*last);
            sight::delete_until(&*self.view.rows, &mut batch, *log, *last, goes_on)?;
        }
        for (log, seg_no) in &named.segments {
            let at = back.progress.get(log).or_else(|| state.progress.get(log));
            let mut at = at.copied().unwrap_or_default();
            at.named = at.named.max(*seg_no);
            at.put(&mut batch, *log);
            progress.insert(*log, at);
        }
        FoldedChain::put_record(&mut batch, record);
        let changes = self.commit_merge(state, overlay, batch)?;
        let ends = fence.len() > state.chain.fence.as_ref().map_or(0, |before| before.len());
        state.note_taken_back(back, fence);
        state.progress.extend(progress);
        let last_ms = last_ms(record.time_ms);
        // What was undone and folded again is of those that were found.
        state
            .chain
            .fold(record.reference(), last_ms, found.tentative);
        // What was taken back the ops before it had seen.
        if undone > 0 {
            state.drafts.see_more();
        }
        merged.undone_count += undone;
        merged.changes.extend(changes);
        self.drop_public(state)?;
        Ok(ends)
    }

    /// Looks up what a record names.
    fn named_by(&self, record: &Record) -> Result<Named> {
        let mut named = Named::default();
        for name in &record.segments {
            let (log, seg_no) = (name.log, name.seg_no);
            let segment = self.config.log.get(log, seg_no)?;
            let header = segment.ok_or(LogError::Corrupt { log, seg_no })?.header;
            let end = named.ends.entry(header.op_log()).or_default();
            *end = header.last.max(*end);
            // What an earlier start left may lie anywhere.
            let begin = if header.op_log() == log {
                header.first
            } else {
                Stamp(0)
            };
            let stamps = named.stamps.entry(header.op_log());
            let (first, last) = stamps.or_insert((begin, header.last));
            (*first, *last) = (begin.min(*first), header.last.max(*last));
            let last = named.segments.entry(log).or_default();
            *last = seg_no.max(*last);
        }
        Ok(named)
    }
}

/// Finds the tentative ops that may have looked back beyond the base line of a record: those of an author
/// that was away for so long, or was put back, that nobody waited for it any more.
fn late_for(rows: &dyn Rows, state: &State, record: &Record) -> Result<BTreeSet<OpId>> {
    let mut late = BTreeSet::new();
    for (log, at) in state.progress.iter() {
        let mut from = state.chain.committed.end(*log).next();
        if at.stamp < from {
            continue;
        }
        let pasts = sight::of_log(rows, *log, from)?;
        let ends = pasts.iter().skip(1).map(|(first, _)| first.stamp);
        let ends = ends.chain([at.stamp.next()]);
        for ((_, past), end) in pasts.iter().zip(ends) {
            if past.record.number < record.base_line {
                let of_log = |stamp| OpId { stamp, log: *log };
                let (start, stop) = (
                    of_log(from).to_key(),
                    OpId {
                        stamp: end,
                        log: LogId(0),
                    }
                    .to_key(),
                );
                rows.scan_keys(Table::Op, &start, Some(&stop), &mut |key| {
                    late.extend(OpId::from_key(key).filter(|id| id.log == *log));
                    ControlFlow::Continue(())
                })?;
            }
            from = end;
        }
    }
    Ok(late)
}

/// Returns the latest time that ops are dated by while the newest folded record has this time. A clock
/// that is far beyond is not believed: others would wait for its time, and it for theirs afterwards.
pub(super) fn last_ms(record_ms: u64) -> u64 {
    let beyond = u64::try_from(STAMP_BEYOND_RECORD_MAX.as_millis()).unwrap_or(u64::MAX);
    record_ms.max(STAMPS_BEGIN_MS).saturating_add(beyond)
}

/// What is applied when a record is about to be folded: only own ops are until it is.
struct Applied {
    committed: Arc<Committed>,
    /// No applied op below this one is tentative.
    tentative: OpId,
    /// No applied op below this one is tentative once the record is folded; `None` where none is then.
    beyond: Option<OpId>,
    newest: OpId,
}

impl Applied {
    fn of(state: &State, named: &Named) -> Self {
        Self {
            committed: Arc::clone(&state.chain.committed),
            tentative: state.chain.tentative,
            beyond: first_beyond(state, named),
            newest: state.newest,
        }
    }

    /// Finds the applied ops that a record names, and the first that no record names then.
    ///
    /// Looks at what lies between the first and the last of them of a log, and at what is named already: so each op
    /// is looked at by few records, however many are applied that none names.
    fn find(&self, rows: &dyn Rows, named: &Named) -> Result<Found> {
        let mut found = Found::default();
        if named.stamps.is_empty() {
            return Ok(found);
        }
        let is_named = |id: OpId| named.ends.get(&id.log).is_some_and(|end| id.stamp <= *end);
        // What an earlier record names stays until the base line passes it.
        let is_open = |id: OpId| self.committed.number(id).is_none();
        for (first, last) in stretches(&named.stamps) {
            let start = OpId {
                stamp: first,
                log: LogId(0),
            };
            let start = start.max(self.tentative);
            scan_ops(rows, start, Some(last), &mut |id| {
                if is_named(id) && is_open(id) {
                    found.named.insert(id);
                }
                ControlFlow::Continue(())
            })?;
        }
        if let Some(start) = self.beyond {
            scan_ops(rows, start.max(self.tentative), None, &mut |id| {
                if is_named(id) || !is_open(id) {
                    return ControlFlow::Continue(());
                }
                found.passed = Some(id);
                ControlFlow::Break(())
            })?;
        }
        found.tentative = Some(found.passed.unwrap_or_else(|| after(self.newest)));
        Ok(found)
    }
}

/// Returns the stretches of time in which the ops of some logs lie, ascending and apart from one another: who
/// was away for long brings what is old to what is new, and nothing in between is looked at.
fn stretches(logs: &BTreeMap<LogId, (Stamp, Stamp)>) -> Vec<(Stamp, Stamp)> {
    let mut all: Vec<(Stamp, Stamp)> = logs.values().copied().collect();
    all.sort_unstable();
    let mut apart: Vec<(Stamp, Stamp)> = Vec::new();
    for (first, last) in all {
        match apart.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => apart.push((first, last)),
        }
    }
    apart
}

/// Returns a place at or before the first applied op that neither a record names nor one that is about to be
/// folded; `None` where there is none.
fn first_beyond(state: &State, named: &Named) -> Option<OpId> {
    let beyond = state.progress.iter().filter_map(|(log, at)| {
        let end = named.ends.get(log).copied().unwrap_or_default();
        let end = end.max(state.chain.committed.end(*log));
        (at.stamp > end).then(|| OpId {
            stamp: end.next(),
            log: LogId(0),
        })
    });
    beyond.chain(state.drafts.front()).min()
}

/// Visits the applied ops from one on, up to those of a stamp where there is an end.
fn scan_ops(
    rows: &dyn Rows,
    from: OpId,
    end: Option<Stamp>,
    f: &mut dyn FnMut(OpId) -> ControlFlow<()>,
) -> Result<()> {
    let end = end.map(|stamp| OpId {
        stamp: stamp.next(),
        log: LogId(0),
    });
    let end = end.map(OpId::to_key);
    let mut is_damaged = false;
    let end = end.as_ref().map(<[u8; 16]>::as_slice);
    rows.scan_keys(
        Table::Op,
        &from.to_key(),
        end,
        &mut |key| match OpId::from_key(key) {
            Some(id) => f(id),
            None => {
                is_damaged = true;
                ControlFlow::Break(())
            }
        },
    )?;
    if is_damaged {
        return Err(VolumeError::Corrupt {
            what: "the key of an op",
        });
    }
    Ok(())
}
