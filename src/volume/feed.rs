//! Feeding the merge: ops of all logs in slices of the total order.
//!
//! Logs are read side by side, and an op is handed on when no log that goes on can still hold an
//! earlier one. So a peer that catches up with many devices' months of ops folds them nearly in
//! order, and undoes only what really crossed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::merge::{Merge, Todo};
use super::op::OpKind;
use super::segments::open;
use super::state::{Progress, State};
use super::types::Change;
use super::{Result, Volume, VolumeError};
use crate::base::{DeviceId, OpId, Stamp};
use crate::store::Batch;

/// Ops merged under one hold of the writer's lock: some 10 ms, which a request may wait.
const SLICE_OPS: usize = 512;

/// Most ops of a slice that had to undo many: the cost of undoing is shared by more ops then.
const SLICE_OPS_MAX: usize = 1 << 15;

/// Bytes of segments of one device that are read ahead.
const READ_AHEAD_BYTES: usize = 2 << 20;

/// What [`Volume::apply_segments`] did.
#[derive(Debug, Default)]
pub struct Merged {
    /// What kernel caches have to forget, in no order, a thing perhaps more than once.
    pub changes: Vec<Change>,
    /// How many ops of others were folded.
    pub op_count: usize,
    /// How many applied ops were undone and folded again.
    pub undone_count: usize,
    /// Devices whose log stops at a segment that cannot be read (yet), and why.
    pub refused: BTreeMap<DeviceId, VolumeError>,
}

/// Ops that are read and not yet folded.
#[derive(Debug, Default)]
pub(super) struct Feed {
    logs: BTreeMap<DeviceId, Queue>,
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

#[derive(Debug)]
struct QueuedOp {
    id: OpId,
    kind: OpKind,
    /// The segment that is done with this op.
    done: Option<u64>,
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
    /// Those of the store and the log; what was folded before stays.
    pub fn apply_segments(&self) -> Result<Merged> {
        let mut feed = self.feed.lock();
        let mut merged = Merged::default();
        let result = self.feed_merge(&mut feed, &mut merged);
        self.state.lock().index = None;
        if result.is_err() {
            // What was taken and not committed is read again.
            *feed = Feed::default();
        }
        result.map(|()| merged)
    }

    fn feed_merge(&self, feed: &mut Feed, merged: &mut Merged) -> Result<()> {
        let mut slice_ops = SLICE_OPS;
        loop {
            self.read_logs(feed, merged)?;
            let slice = feed.take(slice_ops);
            if slice.is_empty() {
                return Ok(());
            }
            let undone = self.merge_slice(slice, merged)?;
            slice_ops = SLICE_OPS.max(undone).min(SLICE_OPS_MAX);
        }
    }

    /// Merges one slice; returns how many ops it had to undo.
    fn merge_slice(&self, slice: Vec<QueuedOp>, merged: &mut Merged) -> Result<usize> {
        let mut progress = BTreeMap::new();
        let mut todo = Todo::new();
        let mut state = self.state.lock();
        for op in slice {
            let device = op.id.device;
            let at = progress
                .entry(device)
                .or_insert_with(|| state.progress.get(&device).copied().unwrap_or_default());
            at.stamp = at.stamp.max(op.id.stamp);
            at.seg_no = op.done.unwrap_or(at.seg_no);
            self.hlc.observe(op.id.stamp);
            todo.insert(op.id, Arc::new(op.kind));
        }
        merged.op_count += todo.len();
        let mut batch = Batch::new();
        for (device, progress) in &progress {
            State::put_progress(&mut batch, *device, progress);
        }
        let mut merge = Merge::new(&self.view, &mut state, todo);
        merge.run()?;
        let (overlay, undone) = (merge.overlay, merge.undone_count);
        merged.undone_count += undone;
        let changes = state.commit(&self.view, overlay, batch, true)?;
        state.progress.extend(progress);
        merged.changes.extend(changes);
        // A file that is back is no longer a private matter of its handles.
        self.drop_private(&mut state, |ino| {
            let row = self.view.row(&super::rows::RowKey::Inode(ino));
            row.is_ok_and(|row| {
                row.as_ref()
                    .and_then(|row| super::view::as_inode(row).ok())
                    .is_some_and(|inode| !inode.is_orphan())
            })
        })?;
        Ok(undone)
    }

    /// Reads ahead in every log of which nothing is queued.
    fn read_logs(&self, feed: &mut Feed, merged: &mut Merged) -> Result<()> {
        let log = &self.config.log;
        for (device, end) in log.vector() {
            let done = self.state.lock().progress.get(&device).copied();
            let done = done.unwrap_or_default();
            let queue = feed.logs.entry(device).or_default();
            queue.read = queue.read.max(done.seg_no);
            queue.goes_on = queue.read < end && !merged.refused.contains_key(&device);
            if !queue.goes_on || !queue.ops.is_empty() {
                continue;
            }
            for segment in log.range(device, queue.read + 1, READ_AHEAD_BYTES)? {
                let seg_no = segment.header.seg_no;
                let ops = match open(&self.config.keys, &segment) {
                    Ok(ops) => ops,
                    Err(error @ VolumeError::BadSegment { .. }) => {
                        tracing::warn!("{error}: skipped");
                        Vec::new()
                    }
                    Err(error) => {
                        tracing::warn!("{error}: this device's log waits");
                        merged.refused.insert(device, error);
                        break;
                    }
                };
                queue.push(seg_no, ops, &done);
                queue.read_stamp = segment.header.last;
            }
            queue.goes_on = queue.read < end && !merged.refused.contains_key(&device);
        }
        Ok(())
    }
}

impl Queue {
    /// Adds a segment's ops, without those that are folded already.
    fn push(&mut self, seg_no: u64, ops: Vec<(OpId, OpKind)>, done: &Progress) {
        for (id, kind) in ops {
            if id.stamp > done.stamp {
                let done = None;
                self.ops.push_back(QueuedOp { id, kind, done });
            }
        }
        if let Some(last) = self.ops.back_mut() {
            last.done = Some(seg_no);
        }
        self.read = seg_no;
    }
}

impl Feed {
    /// Takes up to `max` ops in the total order, none that a log may still have an earlier one for.
    fn take(&mut self, max: usize) -> Vec<QueuedOp> {
        let open_ends = self.logs.iter().filter(|(_, queue)| queue.goes_on);
        let horizon = open_ends.map(|(_, queue)| queue.read_stamp).min();
        let mut slice = Vec::new();
        while slice.len() < max {
            let fronts = self.logs.iter().filter_map(|(device, queue)| {
                let front = queue.ops.front()?;
                Some((front.id, *device))
            });
            let Some((id, device)) = fronts.min() else {
                break;
            };
            if horizon.is_some_and(|horizon| id.stamp > horizon) {
                break;
            }
            let queue = self.logs.get_mut(&device);
            slice.extend(queue.and_then(|queue| queue.ops.pop_front()));
        }
        slice
    }
}
