//! What the authors of ops had seen: which of two ops crossed, and which was built on the other.
//!
//! An op is folded behind all that sorts before it, and its author may not have seen all of that. The
//! header of its segment says exactly what it had seen, as folding another's segment ends the own
//! one. Rows of the table `Draft` keep that for each segment, by the log that the ops are named after
//! and the first of them, as long as one of them may be folded again.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::view::View;
use super::{Result, VolumeError};
use crate::base::limits::SEGMENT_OPS_MAX;
use crate::base::{LogId, OpId, Stamp};
use crate::store::{Batch, Rows, Table, codec};
use crate::wire::Seen;
use crate::wire::limits::SEEN_MAX;

/// What the author of an op had seen.
#[derive(Debug, Clone)]
pub(super) enum Sight {
    /// All that is folded: of ops that are issued here and now.
    Everything,
    /// Some of it.
    Only {
        /// What its author had folded, beside what came before in the same log.
        seen: Arc<[Seen]>,
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

fn decode(value: &[u8]) -> Result<Vec<Seen>> {
    Ok(codec::decode(value, ROW_MAX_BYTES)?)
}

/// Puts what had been seen when `first` and the ops behind it were issued.
pub(super) fn put(batch: &mut Batch, first: OpId, seen: &[Seen]) {
    let value = codec::encode(&seen);
    batch.put(Table::Draft, key(first.log, first.stamp), value);
}

/// Removes that.
pub(super) fn delete(batch: &mut Batch, first: OpId) {
    batch.delete(Table::Draft, key(first.log, first.stamp));
}

/// Returns what had been seen at the ops of a log, those first that hold the op at `from`.
pub(super) fn of_log(rows: &dyn Rows, log: LogId, from: Stamp) -> Result<Vec<(OpId, Vec<Seen>)>> {
    let mut found = Vec::new();
    let mut failed = None;
    let end = log.0.checked_add(1).map(|next| key(LogId(next), Stamp(0)));
    let (start, end) = (key(log, Stamp(0)), end.as_ref().map(|end| &end[..]));
    rows.scan_rev(Table::Draft, &start, end, &mut |key, value| {
        match (first_of(key), decode(value)) {
            (Some(first), Ok(seen)) => {
                found.push((first, seen));
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

/// What was seen at the ops of a slice, before that is committed.
#[derive(Debug, Default)]
pub(super) struct Sights {
    new: BTreeMap<(LogId, Stamp), Arc<[Seen]>>,
    /// What was looked up.
    known: BTreeMap<(LogId, Stamp), Arc<[Seen]>>,
}

impl Sights {
    /// Takes note of a segment whose first op comes now.
    pub(super) fn add(&mut self, first: OpId, seen: &Arc<[Seen]>) {
        self.new.insert((first.log, first.stamp), Arc::clone(seen));
    }

    /// Puts the rows of what is new.
    pub(super) fn put(&self, batch: &mut Batch) {
        for ((log, stamp), seen) in &self.new {
            let (log, stamp) = (*log, *stamp);
            put(batch, OpId { stamp, log }, seen);
        }
    }

    /// Returns what the author of an op had seen.
    pub(super) fn of(&mut self, view: &View, id: OpId, is_late: bool) -> Result<Sight> {
        let at = (id.log, id.stamp);
        let within = |map: &BTreeMap<(LogId, Stamp), Arc<[Seen]>>| {
            let (first, seen) = map.range(..=at).next_back()?;
            (first.0 == id.log).then(|| (first.1, Arc::clone(seen)))
        };
        if let Some((_, seen)) = within(&self.new) {
            return Ok(Sight::Only { seen, is_late });
        }
        if let Some(seen) = self.known.get(&at) {
            let seen = Arc::clone(seen);
            return Ok(Sight::Only { seen, is_late });
        }
        let mut rows = of_log_until(&*view.rows, id)?;
        let Some(seen) = rows.take() else {
            // Its row went with what could be folded again: whatever comes now comes behind it.
            return Ok(Sight::Everything);
        };
        let seen: Arc<[Seen]> = seen.into();
        if self.known.len() >= SEGMENT_OPS_MAX {
            self.known.clear();
        }
        self.known.insert(at, Arc::clone(&seen));
        Ok(Sight::Only { seen, is_late })
    }
}

/// Returns what had been seen at the last segment of a log that begins at an op or before it.
fn of_log_until(rows: &dyn Rows, id: OpId) -> Result<Option<Vec<Seen>>> {
    let mut found = None;
    let (start, end) = (key(id.log, Stamp(0)), key(id.log, id.stamp.next()));
    rows.scan_rev(Table::Draft, &start, Some(&end), &mut |_, value| {
        found = Some(decode(value));
        ControlFlow::Break(())
    })?;
    found.transpose()
}

impl Sight {
    /// Tells whether the author of op `id` had seen op `other`.
    pub(super) fn saw(&self, id: OpId, other: OpId) -> bool {
        let Self::Only { seen, .. } = self else {
            return true;
        };
        if other.log == id.log {
            return other.stamp <= id.stamp;
        }
        let of_log = seen.iter().find(|seen| seen.log == other.log);
        of_log.is_some_and(|seen| seen.last >= other.stamp)
    }
}

const BAD_KEY: VolumeError = VolumeError::Corrupt {
    what: "the key of what was seen",
};
