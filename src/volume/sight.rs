//! What the authors of ops had seen: which of two ops crossed, and which was built on the other.
//!
//! An op is folded behind all that sorts before it, and its author may not have seen all of that. The
//! header of its segment says exactly what it had seen, as folding another's segment ends the own
//! one: all that the record names which it states, or one before that, and of what no record names up
//! to then what it lists. Rows of the table `Draft` keep that for each segment, by the log that the ops
//! are named after and the first of them, as long as one of them may be folded again.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::committed::Committed;
use super::view::View;
use super::{Result, VolumeError};
use crate::base::{LogId, OpId, Stamp};
use crate::store::{Batch, Rows, Table, codec};
use crate::wire::limits::SEEN_MAX;
use crate::wire::{RecordRef, Seen, SegmentHeader};

/// What an author had folded when it issued the ops of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Past {
    /// The newest record of the chain.
    pub(super) record: RecordRef,
    /// What no record up to that one names.
    pub(super) seen: Vec<Seen>,
}

impl Past {
    /// Returns what the author of a segment says.
    pub(super) fn of(header: &SegmentHeader) -> Self {
        Self {
            record: header.record,
            seen: header.seen.clone(),
        }
    }
}

/// What the author of an op had seen.
#[derive(Debug, Clone)]
pub(super) enum Sight {
    /// All that is folded: of ops that are issued here and now.
    Everything {
        /// The newest record that the header of their segment states as folded.
        record: u64,
    },
    /// Some of it.
    Only {
        /// What its author had folded, beside what came before in the same log.
        past: Arc<Past>,
        /// Which record names which ops.
        committed: Arc<Committed>,
        /// True where ops that sort behind it may be folded already.
        is_late: bool,
    },
}

/// Most bytes of a row.
const ROW_MAX_BYTES: usize = SEEN_MAX * 64;

const KEY_BYTES: usize = 16;

fn key(log: LogId, first: Stamp) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&log.0.to_be_bytes());
    key[8..].copy_from_slice(&first.0.to_be_bytes());
    key
}

fn first_of(key: &[u8]) -> Option<OpId> {
    let key: &[u8; KEY_BYTES] = key.try_into().ok()?;
    let (log, first) = key.split_at(8);
    Some(OpId {
        stamp: Stamp(u64::from_be_bytes(first.try_into().ok()?)),
        log: LogId(u64::from_be_bytes(log.try_into().ok()?)),
    })
}

fn decode(value: &[u8]) -> Result<Past> {
    Ok(codec::decode(value, ROW_MAX_BYTES)?)
}

/// Puts what had been seen when `first` and the ops behind it were issued.
pub(super) fn put(batch: &mut Batch, first: OpId, past: &Past) {
    let value = codec::encode(past);
    batch.put(Table::Draft, key(first.log, first.stamp), value);
}

/// Removes that.
pub(super) fn delete(batch: &mut Batch, first: OpId) {
    batch.delete(Table::Draft, key(first.log, first.stamp));
}

/// Returns what had been seen at the ops of a log, those first that hold the op at `from`.
pub(super) fn of_log(rows: &dyn Rows, log: LogId, from: Stamp) -> Result<Vec<(OpId, Past)>> {
    let mut found = Vec::new();
    let mut failed = None;
    let end = log.0.checked_add(1).map(|next| key(LogId(next), Stamp(0)));
    let (start, end) = (key(log, Stamp(0)), end.as_ref().map(|end| &end[..]));
    rows.scan_rev(Table::Draft, &start, end, &mut |key, value| {
        match (first_of(key), decode(value)) {
            (Some(first), Ok(past)) => {
                found.push((first, past));
                if first.stamp > from {
                    return ControlFlow::Continue(());
                }
            }
            (None, _) => failed = Some(BAD_KEY),
            (_, Err(error)) => failed = Some(error),
        }
        ControlFlow::Break(())
    })?;
    found.reverse();
    failed.map_or(Ok(found), Err)
}

/// Puts that the rows of a log are gone of which all ops come up to `end`: but the last of them where
/// ops behind it may belong to it.
pub(super) fn delete_until(
    rows: &dyn Rows,
    batch: &mut Batch,
    log: LogId,
    end: Stamp,
    goes_on: bool,
) -> Result<()> {
    let mut last: Option<Vec<u8>> = None;
    let (start, end) = (key(log, Stamp(0)), key(log, end.next()));
    rows.scan_keys(Table::Draft, &start, Some(&end), &mut |key| {
        if let Some(before) = last.replace(key.to_vec()) {
            batch.delete(Table::Draft, before);
        }
        ControlFlow::Continue(())
    })?;
    if let Some(last) = last.filter(|_| !goes_on) {
        batch.delete(Table::Draft, last);
    }
    Ok(())
}

/// Puts into a batch that what had been seen at the segments of a log is forgotten which begin at a stamp or
/// behind it.
pub(super) fn delete_from(
    rows: &dyn Rows,
    batch: &mut Batch,
    log: LogId,
    from: Stamp,
) -> Result<()> {
    let end = log.0.checked_add(1).map(|next| key(LogId(next), Stamp(0)));
    let (start, end) = (key(log, from), end.as_ref().map(|end| &end[..]));
    rows.scan_keys(Table::Draft, &start, end, &mut |key| {
        batch.delete(Table::Draft, key);
        ControlFlow::Continue(())
    })?;
    Ok(())
}

/// What was seen at the ops of a slice, before that is committed.
#[derive(Debug, Default)]
pub(super) struct Sights {
    new: BTreeMap<(LogId, Stamp), Arc<Past>>,
    /// What was looked up.
    known: BTreeMap<(LogId, Stamp), Known>,
}

/// What was seen at the ops of a segment, from the first of them on.
#[derive(Debug, Clone)]
struct Known {
    past: Arc<Past>,
    /// The first op of the same log that it is not about.
    end: Option<Stamp>,
}

impl Sights {
    /// Takes note of a segment whose first op comes now.
    pub(super) fn add(&mut self, first: OpId, past: &Arc<Past>) {
        self.new.insert((first.log, first.stamp), Arc::clone(past));
    }

    /// Puts the rows of what is new.
    pub(super) fn put(&self, batch: &mut Batch) {
        for ((log, stamp), past) in &self.new {
            let (log, stamp) = (*log, *stamp);
            put(batch, OpId { stamp, log }, past);
        }
    }

    /// Returns what the author of an op had seen.
    pub(super) fn of(
        &mut self,
        view: &View,
        committed: &Arc<Committed>,
        id: OpId,
        is_late: bool,
    ) -> Result<Sight> {
        let settled = committed.base_line;
        let committed = Arc::clone(committed);
        let only = |past: Arc<Past>| Sight::Only {
            past,
            committed,
            is_late,
        };
        let upto = ..=(id.log, id.stamp);
        let new = self.new.range(upto).next_back();
        if let Some((_, past)) = new.filter(|((log, _), _)| *log == id.log) {
            return Ok(only(Arc::clone(past)));
        }
        let known = self.known.range(upto).next_back();
        if let Some(((log, _), known)) = known
            && *log == id.log
            && known.end.is_none_or(|end| id.stamp < end)
        {
            return Ok(only(Arc::clone(&known.past)));
        }
        let Some((first, known)) = of_segment(&*view.rows, id)? else {
            // Its row went with what could be folded again: whatever comes now comes behind it.
            return Ok(Sight::Everything { record: settled });
        };
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        let past = Arc::clone(&known.past);
        self.known.insert((first.log, first.stamp), known);
        Ok(only(past))
    }
}

/// Segments of which is kept what was seen at their ops.
const KNOWN_MAX: usize = 256;

/// Returns what had been seen at the last segment of a log that begins at an op or before it, and the first
/// op of that.
fn of_segment(rows: &dyn Rows, id: OpId) -> Result<Option<(OpId, Known)>> {
    let mut found = None;
    let (start, next) = (key(id.log, Stamp(0)), key(id.log, id.stamp.next()));
    rows.scan_rev(Table::Draft, &start, Some(&next), &mut |key, value| {
        found = Some((first_of(key), decode(value)));
        ControlFlow::Break(())
    })?;
    let Some((first, past)) = found else {
        return Ok(None);
    };
    let (first, past) = (first.ok_or(BAD_KEY)?, Arc::new(past?));
    let mut end = None;
    let stop = id.log.0.checked_add(1);
    let stop = stop.map(|next| key(LogId(next), Stamp(0)));
    let stop = stop.as_ref().map(|stop| &stop[..]);
    rows.scan_keys(Table::Draft, &next, stop, &mut |key| {
        end = first_of(key).map(|first| first.stamp);
        ControlFlow::Break(())
    })?;
    Ok(Some((first, Known { past, end })))
}

impl Sight {
    /// Returns the newest record that the author had folded for sure: what an op that it names removed
    /// is gone for the author's ops, on every device, whether its rows are still there or not.
    pub(super) fn record(&self) -> u64 {
        match self {
            Self::Everything { record } => *record,
            Self::Only { past, .. } => past.record.number,
        }
    }

    /// Tells whether the author of op `id` had seen op `other`.
    pub(super) fn saw(&self, id: OpId, other: OpId) -> bool {
        let Self::Only {
            past, committed, ..
        } = self
        else {
            return true;
        };
        if other.log == id.log {
            return other.stamp <= id.stamp;
        }
        let named = committed.number(other);
        if named.is_some_and(|number| number <= past.record.number) {
            return true;
        }
        let of_log = past.seen.iter().find(|seen| seen.log == other.log);
        of_log.is_some_and(|seen| seen.last >= other.stamp)
    }
}

const BAD_KEY: VolumeError = VolumeError::Corrupt {
    what: "the key of what was seen",
};
