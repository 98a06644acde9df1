//! Feeding the merge: ops of all logs in slices of the total order.
//!
//! Logs are read side by side, and an op is handed on when no log that goes on can still hold an
//! earlier one. So a peer that catches up with many devices' months of ops folds them nearly in
//! order, and undoes only what really crossed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::changes::Changes;
use super::committed::Rank;
use super::merge::Merge;
use super::op::OpKind;
use super::progress::{LogProgress, Progress};
use super::segments::open;
use super::sight::{Past, Sights};
use super::state::State;
use super::todo::Todo;
use super::view::private_of;
use super::{Result, Volume, VolumeError};
use crate::base::{Ino, LogId, OpId, Stamp};
use crate::log::chain::{Footing, Pasts};
use crate::store::Batch;
use crate::wire::limits::SEEN_MAX;
use crate::wire::{SealedSegment, Seen, Vector};

/// Most ops merged under one hold of the writer's lock: some 5 ms, which a request may wait.
const SLICE_OPS: usize = 256;

/// A hold that was longer, as the machine is busy with other things, is followed by one of half as many ops.
const HOLD_MAX: Duration = Duration::from_millis(6);

/// Most times that a slice is halved.
const HALVINGS_MAX: u32 = 3;

/// Most ops of a slice that had to undo many: the cost of undoing is shared by more ops then.
const SLICE_OPS_MAX: usize = 1 << 15;

/// Bytes of segments of one log that are read ahead, and of all logs: of each one segment at least.
const READ_AHEAD_BYTES: usize = 256 << 10;
const READ_AHEAD_MAX_BYTES: usize = 1 << 20;

/// What [`Volume::apply_segments`] did.
#[derive(Debug, Default)]
pub struct Merged {
    /// What kernel caches have to forget, in no order, a thing perhaps more than once.
    pub changes: Changes,
    /// How many ops of others were folded.
    pub op_count: usize,
    /// How many applied ops were undone and folded again.
    pub undone_count: usize,
    /// Most bytes of ops that waited in memory to be folded, beside what was read ahead of the logs, about.
    pub waiting_bytes: usize,
    /// Logs whose next segment waits for what its author had seen and is not here yet.
    pub waiting: BTreeMap<LogId, Missing>,
    /// The record that is not folded as statements are not here which it takes into account.
    pub lacks_statements: Option<u64>,
    /// Logs that stop at a segment that cannot be read (yet), and why.
    pub refused: BTreeMap<LogId, VolumeError>,
}

impl Merged {
    /// Tells whether nothing changed: a record that is folded changes the view without a new op, where
    /// it gives ops other places.
    pub fn is_nothing(&self) -> bool {
        self.op_count == 0 && self.changes.is_empty()
    }
}

/// What the author of a segment had folded and is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A segment of this log.
    Log(LogId),
    /// The record of the commit chain with this number.
    Record(u64),
}

/// Ops that are read and not yet folded.
#[derive(Debug, Default)]
pub(super) struct Feed {
    logs: BTreeMap<LogId, Queue>,
    /// What counts of the logs that are over.
    pub(super) pasts: Pasts,
    /// How often the slices were halved, as some took too long.
    halvings: u32,
}

#[derive(Debug, Default)]
struct Queue {
    ops: VecDeque<QueuedOp>,
    /// The last segment read.
    read: u64,
    /// Stamp of the last op read.
    read_stamp: Stamp,
    /// True when the log goes on behind what was read.
    goes_on: bool,
}

/// What is folded of logs and chain.
struct Folded {
    progress: LogProgress,
    /// The newest folded record that is one of the chain that counts.
    record: u64,
}

#[derive(Debug)]
struct QueuedOp {
    id: OpId,
    /// `None` where a segment has no op that counts.
    kind: Option<OpKind>,
    /// What the author of a segment had seen, with its first op.
    past: Option<Arc<Past>>,
    /// The segment that is done with this op.
    done: Option<Seen>,
}

impl Volume {
    /// Folds what has come into the logs since the last call, in slices; own ops go on in between.
    ///
    /// A segment that cannot be opened (a key that has not arrived, a newer version) stops its
    /// device's log and no other; one that its author filled with what is not ops is skipped, by
    /// every member alike.
    ///
    /// # Errors
    ///
    /// Those of the store and the log, where nothing was folded before: what was is returned first, as
    /// the kernel has to hear of it, and the next call meets the error again.
    pub fn apply_segments(&self) -> Result<Merged> {
        let mut merged = Merged::default();
        let mut result = self.apply_small(&mut merged);
        if matches!(result, Err(VolumeError::TooMuch)) {
            result = self.merge_large(&mut merged);
        }
        match result {
            Err(error) if merged.is_nothing() => return Err(error),
            Err(_) => {}
            Ok(()) => {
                // What was folded is told all the same, and this is tried again with the next.
                if let Err(error) = self.trim_settled() {
                    tracing::warn!(%error, "what nobody looks back to is not given up yet");
                }
            }
        }
        Ok(merged)
    }

    fn apply_small(&self, merged: &mut Merged) -> Result<()> {
        if self.check_moved().is_err() {
            // What an earlier one could not move on a full disk.
            let _sealing = self.sealing.lock();
            self.move_layer(merged)?;
        }
        let mut feed = self.feed.lock();
        let result = self.feed_and_commit(&mut feed, merged);
        if result.is_err() {
            // What was taken and not committed is read again.
            *feed = Feed::default();
            self.state.lock().index = None;
        }
        self.drop_index();
        result
    }

    /// Returns how many ops a merge may undo.
    pub(super) fn bound(&self) -> Option<usize> {
        let is_bounded = self.layer.is_some();
        is_bounded.then(|| self.undone_max.load(Ordering::Relaxed))
    }

    /// Folds record by record what the chain names, and then what no record names: so who comes back
    /// folds its own tail on top of what stands, and what stands is no tentative op among those of the tail
    /// before. A segment may wait for a record, and a record for segments.
    pub(super) fn feed_and_commit(&self, feed: &mut Feed, merged: &mut Merged) -> Result<()> {
        self.state.lock().defers = self.layer.is_none();
        while let Some(named) = self.named_at_hand()? {
            self.feed_merge(feed, merged, Some(&named))?;
            if !self.fold_records(feed, merged)? {
                break;
            }
        }
        self.fold_deferred()?;
        self.feed_merge(feed, merged, None)?;
        while self.fold_records(feed, merged)? {
            self.feed_merge(feed, merged, None)?;
        }
        Ok(())
    }

    /// Folds what waited until the records at hand are folded.
    fn fold_deferred(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.defers = false;
        let deferred = std::mem::take(&mut state.deferred);
        if deferred.is_empty() {
            return Ok(());
        }
        let sights = Sights::default();
        let mut merge = Merge::new(&self.view, &mut state, deferred, sights, self.bound());
        merge.run()?;
        let overlay = merge.overlay;
        state.commit(&self.view, overlay, Batch::new(), None)?;
        Ok(())
    }

    /// Folds what is in the logs and counts: all of it, or up to the last segments that are `named`.
    fn feed_merge(
        &self,
        feed: &mut Feed,
        merged: &mut Merged,
        named: Option<&Vector>,
    ) -> Result<()> {
        let mut slice_ops = SLICE_OPS;
        loop {
            self.read_logs(feed, merged, named)?;
            let slice = feed.take(slice_ops >> feed.halvings);
            if slice.is_empty() {
                return Ok(());
            }
            self.view.rows.settle()?;
            let (undone, held) = self.merge_slice(slice, merged)?;
            match self.bound() {
                None => slice_ops = SLICE_OPS.max(undone).min(SLICE_OPS_MAX),
                // Each slice undoes again what the ones before did.
                Some(bound) if merged.undone_count > bound + merged.op_count / 2 => {
                    return Err(VolumeError::TooMuch);
                }
                Some(_) => feed.pace(held),
            }
        }
    }

    /// Merges one slice; returns how many ops it had to undo, and how long the writer's lock was held.
    fn merge_slice(&self, slice: Vec<QueuedOp>, merged: &mut Merged) -> Result<(usize, Duration)> {
        let mut progress = BTreeMap::new();
        let mut todo = Todo::default();
        let mut sights = Sights::default();
        // They come in their order.
        let mut state = match slice.iter().find(|op| op.kind.is_some()) {
            Some(first) => self.lock_indexed(first.id)?,
            None => self.state.lock(),
        };
        let begin = self.context.clock.monotonic();
        for op in slice {
            let known = |log: LogId| state.progress.get(&log).copied().unwrap_or_default();
            let log = op.id.log;
            let at: &mut Progress = progress.entry(log).or_insert_with(|| known(log));
            at.stamp = at.stamp.max(op.id.stamp);
            if let Some(done) = op.done {
                let at = progress.entry(done.log).or_insert_with(|| known(done.log));
                (at.seg_no, at.hash) = (done.seg_no, done.hash);
            }
            self.hlc.observe(op.id.stamp);
            if let Some(past) = &op.past {
                sights.add(op.id, past);
            }
            if let Some(kind) = op.kind {
                // What a folded record names is folded, all of it.
                todo.insert(Rank::tentative(op.id), Arc::new(kind));
            }
        }
        let op_count = todo.len();
        let mut batch = Batch::new();
        for (log, progress) in &progress {
            progress.put(&mut batch, *log);
        }
        sights.put(&mut batch);
        let mut merge = Merge::new(&self.view, &mut state, todo, sights, self.bound());
        merge.run()?;
        merged.waiting_bytes = merged.waiting_bytes.max(merge.waiting_bytes);
        let (overlay, undone) = (merge.overlay, merge.undone_count);
        let changes = self.commit_merge(&mut state, overlay, batch)?;
        merged.undone_count += undone;
        state.progress.extend(progress);
        state.drafts.see_more();
        // Only what is in the rows counts: who goes on as long as something was folded ends otherwise
        // never on a disk that takes nothing.
        merged.op_count += op_count;
        merged.changes.extend(changes);
        self.drop_public(&mut state)?;
        // Who waits to change something comes before the next slice.
        MutexGuard::unlock_fair(state);
        let held = self.context.clock.monotonic().saturating_sub(begin);
        Ok((undone, held))
    }

    /// Drops the private copies of files that are back, but those that a number of the kernel stands
    /// for: who changed them goes on with them.
    pub(super) fn drop_public(&self, state: &mut MutexGuard<'_, State>) -> Result<()> {
        let is_back = |ino: Ino| {
            let row = self.view.row(&super::rows::RowKey::Inode(ino));
            row.is_ok_and(|row| {
                row.as_ref()
                    .and_then(|row| super::view::as_inode(row).ok())
                    .is_some_and(|inode| !inode.is_orphan())
            })
        };
        for ino in self.view.private_files() {
            if is_back(ino) && self.is_held(private_of(ino)) {
                self.view.part(ino);
            }
        }
        self.drop_private(state, is_back)
    }

    /// Reads ahead in every log of which nothing is queued, until no log goes on; where a record guides
    /// the fold, what that has `named`.
    fn read_logs(
        &self,
        feed: &mut Feed,
        merged: &mut Merged,
        named: Option<&Vector>,
    ) -> Result<()> {
        let (progress, record) = {
            let state = self.state.lock();
            (state.progress.clone(), state.chain.record)
        };
        // Where another chain counts than the one that is folded, both say the same up to where they part.
        let common = self.config.chain.footing(record)?;
        let record = common.map_or(0, |common| common.number);
        let folded = Folded { progress, record };
        let mut ends = self.config.log.vector();
        ends.extend(self.limits(feed, &ends)?);
        if let Some(named) = named {
            ends.retain(|log, end| {
                let last = named.get(log).copied().unwrap_or(0);
                *end = last.min(*end);
                last > 0
            });
        }
        let ahead = READ_AHEAD_MAX_BYTES / ends.len().max(1);
        let ahead = ahead.min(READ_AHEAD_BYTES);
        let mut goes_on = true;
        while goes_on {
            goes_on = false;
            merged.waiting.clear();
            for (log, end) in &ends {
                if !merged.refused.contains_key(log) {
                    goes_on |= self.read_log(feed, merged, &folded, (*log, *end, ahead))?;
                }
            }
        }
        Ok(())
    }

    /// Reads some bytes ahead in a log that ends in a segment, where nothing of it is queued; says whether that
    /// was something.
    fn read_log(
        &self,
        feed: &mut Feed,
        merged: &mut Merged,
        folded: &Folded,
        (log, end, ahead): (LogId, u64, usize),
    ) -> Result<bool> {
        let queue = feed.logs.entry(log).or_default();
        queue.read = queue
            .read
            .max(folded.progress.get(&log).map_or(0, |at| at.seg_no));
        queue.goes_on = queue.read < end;
        if !queue.goes_on || !queue.ops.is_empty() {
            return Ok(false);
        }
        let next = queue.read + 1;
        let mut stopped = false;
        for segment in self.config.log.range(log, next, ahead)? {
            if segment.header.seg_no > end {
                break;
            }
            let footing = self.config.chain.footing(segment.header.record)?;
            let footing = match feed.lacks(folded, &segment, footing) {
                Ok(footing) => footing,
                Err(needs) => {
                    merged.waiting.insert(log, needs);
                    stopped = true;
                    break;
                }
            };
            let past = self.past_of(Past::of(&segment.header), log, footing)?;
            let ops = match open(&self.config.keys, &segment) {
                Ok(ops) => ops,
                Err(error @ VolumeError::BadSegment { .. }) => {
                    tracing::warn!("{error}: skipped");
                    Vec::new()
                }
                Err(error) => {
                    tracing::warn!("{error}: this log waits");
                    merged.refused.insert(log, error);
                    stopped = true;
                    break;
                }
            };
            let named = segment.header.op_log();
            let folded = folded.progress.get(&named).map(|at| at.stamp);
            let queue = feed.logs.entry(log).or_default();
            queue.push(&segment, ops, past, folded.unwrap_or_default());
        }
        let queue = feed.logs.entry(log).or_default();
        // A log that waits has nothing that could come before what is read of the others.
        queue.goes_on = queue.read < end && !stopped;
        Ok(!queue.ops.is_empty())
    }
}

impl Volume {
    /// Returns what an author had folded at ops of its log `own`, in terms of this chain: what a record of
    /// another one named behind where the two part it had seen, too. That follows from the records alone,
    /// whatever of the segments is here.
    pub(super) fn past_of(&self, past: Past, own: LogId, footing: Footing) -> Result<Past> {
        if footing.number == past.record.number {
            return Ok(past);
        }
        let seen = past.seen.iter();
        let mut seen: BTreeMap<LogId, Seen> = seen.map(|seen| (seen.log, *seen)).collect();
        for (log, beyond) in footing.beyond {
            if log == own {
                continue;
            }
            let at = seen.entry(log).or_insert(beyond);
            if at.seg_no < beyond.seg_no {
                (at.seg_no, at.hash) = (beyond.seg_no, beyond.hash);
            }
            at.last = beyond.last.max(at.last);
        }
        let record = self.config.chain.get(footing.number)?;
        Ok(Past {
            record: record.map(|record| record.reference()).unwrap_or_default(),
            seen: seen.into_values().take(SEEN_MAX).collect(),
        })
    }
}

impl Queue {
    /// Adds a segment's ops, without those that are folded already.
    fn push(
        &mut self,
        segment: &SealedSegment,
        ops: Vec<(OpId, OpKind)>,
        past: Past,
        folded: Stamp,
    ) {
        let header = &segment.header;
        let done = Seen {
            log: header.log(),
            seg_no: header.seg_no,
            hash: segment.hash(),
            last: header.last,
        };
        let before = self.ops.len();
        let mut past = Some(Arc::new(past));
        for (id, kind) in ops.into_iter().filter(|(id, _)| id.stamp > folded) {
            self.ops.push_back(QueuedOp {
                id,
                kind: Some(kind),
                past: past.take(),
                done: None,
            });
        }
        let grown = self.ops.len() > before;
        match self.ops.back_mut().filter(|_| grown) {
            Some(last) => last.done = Some(done),
            None => self.ops.push_back(QueuedOp {
                id: OpId {
                    stamp: header.last,
                    log: header.op_log(),
                },
                kind: None,
                past: None,
                done: Some(done),
            }),
        }
        self.read = header.seg_no;
        self.read_stamp = header.last;
    }
}

impl Feed {
    /// Takes note of how long the lock was held for a slice.
    fn pace(&mut self, held: Duration) {
        if held > HOLD_MAX {
            self.halvings = HALVINGS_MAX.min(self.halvings + 1);
        } else if held < HOLD_MAX / 4 {
            self.halvings = self.halvings.saturating_sub(1);
        }
    }

    /// Fails with what a segment's author had seen that is neither folded, nor read and comes before the
    /// segment.
    fn lacks(
        &self,
        folded: &Folded,
        segment: &SealedSegment,
        footing: Option<Footing>,
    ) -> std::result::Result<Footing, Missing> {
        let header = &segment.header;
        let footing = footing.filter(|footing| footing.number <= folded.record);
        let footing = footing.ok_or(Missing::Record(header.record.number))?;
        let is_missing = |(log, seg_no): &(LogId, u64)| {
            let folded = folded.progress.get(log).map_or(0, |at| at.seg_no);
            let read = self.logs.get(log).map_or(0, |queue| queue.read);
            *seg_no > folded.max(read)
        };
        let seen = header.seen.iter().map(|seen| (seen.log, seen.seg_no));
        let missing = seen.chain(footing.ends()).find(is_missing);
        match missing {
            Some((log, _)) => Err(Missing::Log(log)),
            None => Ok(footing),
        }
    }

    /// Takes up to `max` ops in the total order, none that a log may still have an earlier one for.
    fn take(&mut self, max: usize) -> Vec<QueuedOp> {
        let open_ends = self.logs.iter().filter(|(_, queue)| queue.goes_on);
        let horizon = open_ends.map(|(_, queue)| queue.read_stamp).min();
        let mut slice = Vec::new();
        while slice.len() < max {
            let fronts = self.logs.iter().filter_map(|(log, queue)| {
                let front = queue.ops.front()?;
                Some((front.id, *log))
            });
            let Some((id, log)) = fronts.min() else {
                break;
            };
            if horizon.is_some_and(|horizon| id.stamp > horizon) {
                break;
            }
            let queue = self.logs.get_mut(&log);
            slice.extend(queue.and_then(|queue| queue.ops.pop_front()));
        }
        slice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_smaller_while_the_lock_is_held_for_long_and_grow_again() {
        let mut feed = Feed::default();
        let mut after = |held: Duration| {
            feed.pace(held);
            SLICE_OPS >> feed.halvings
        };
        let long = [128, 64, 32, 32].map(|_| after(2 * HOLD_MAX));
        assert_eq!(long, [128, 64, 32, 32]);
        assert_eq!(after(HOLD_MAX / 2), 32);
        let short = [64, 128, 256, 256].map(|_| after(Duration::ZERO));
        assert_eq!(short, [64, 128, 256, 256]);
    }
}
