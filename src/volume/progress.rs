//! How far each log is folded.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::committed::Committed;
use super::{Result, VolumeError};
use crate::base::{LogId, OpId, Stamp};
use crate::store::{Batch, Rows, Table, codec};
use crate::wire::Seen;
use crate::wire::limits::SEEN_MAX;

/// How far a log is folded into the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The last segment of which every op is folded.
    pub(super) seg_no: u64,
    /// The hash of that segment.
    pub(super) hash: [u8; 32],
    /// The last op that is named after the log and folded, whichever log's segment it lay in: an op
    /// counts once.
    pub(super) stamp: Stamp,
    /// The last segment that a folded record names.
    pub(super) named: u64,
}

impl Progress {
    /// Returns up to where the log is folded, `None` where nothing of it is.
    fn as_seen(&self, log: LogId) -> Option<Seen> {
        (self.seg_no > 0 || self.stamp > Stamp::default()).then_some(Seen {
            log,
            seg_no: self.seg_no,
            hash: self.hash,
            last: self.stamp,
        })
    }

    /// Puts how far a log is folded into a batch.
    pub(super) fn put(&self, batch: &mut Batch, log: LogId) {
        batch.put(Table::Applied, log.0.to_be_bytes(), codec::encode(self));
    }
}

/// How far the logs are folded: the rows of the table `Applied`, as they were committed last.
///
/// Who commits a batch with such rows tells it here afterwards ([`LogProgress::extend`]), never before.
#[derive(Debug, Clone, Default)]
pub(super) struct LogProgress {
    logs: BTreeMap<LogId, Progress>,
}

impl LogProgress {
    /// Reads what the rows hold.
    pub(super) fn load(rows: &dyn Rows) -> Result<Self> {
        let mut logs = BTreeMap::new();
        let mut is_damaged = false;
        rows.scan(Table::Applied, &[], None, &mut |key, value| {
            let log = key.try_into().map(u64::from_be_bytes).map(LogId);
            match (log, codec::decode::<Progress>(value, VALUE_MAX_BYTES)) {
                (Ok(log), Ok(progress)) => {
                    logs.insert(log, progress);
                    ControlFlow::Continue(())
                }
                _ => {
                    is_damaged = true;
                    ControlFlow::Break(())
                }
            }
        })?;
        if is_damaged {
            return Err(VolumeError::Corrupt {
                what: "how far a log is folded",
            });
        }
        Ok(Self { logs })
    }

    /// Returns how far a log is folded, `None` where nothing of it is.
    pub(super) fn get(&self, log: &LogId) -> Option<&Progress> {
        self.logs.get(log)
    }

    /// Visits the logs of which something is folded.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&LogId, &Progress)> {
        self.logs.iter()
    }

    /// Takes over what was committed.
    pub(super) fn extend(&mut self, committed: BTreeMap<LogId, Progress>) {
        self.logs.extend(committed);
    }

    /// Takes into account that an op is applied which no folded segment holds.
    pub(super) fn add_op(&mut self, op: OpId) {
        let at = self.logs.entry(op.log).or_default();
        at.stamp = at.stamp.max(op.stamp);
    }

    /// Returns the last op of a log that a folded segment holds.
    pub(super) fn sealed(&self, log: LogId) -> Stamp {
        self.logs.get(&log).map_or(Stamp(0), |at| at.stamp)
    }

    /// Returns the greatest op that a folded segment holds.
    pub(super) fn newest(&self) -> OpId {
        let ends = self.logs.iter().map(|(log, at)| OpId {
            stamp: at.stamp,
            log: *log,
        });
        ends.max().unwrap_or_default()
    }

    /// Returns up to where those of the logs that `of` takes are folded, where the records up to
    /// `number` do not name all of that.
    pub(super) fn beyond(
        &self,
        committed: &Committed,
        number: u64,
        of: impl Fn(LogId) -> bool,
    ) -> Vec<Seen> {
        let beyond = self.logs.iter().filter(|(log, at)| {
            let (stamp, log) = (at.stamp, **log);
            if !of(log) {
                return false;
            }
            if stamp == Stamp::default() {
                return at.seg_no > at.named;
            }
            let named = committed.number(OpId { stamp, log });
            named.is_none_or(|named| named > number)
        });
        let seen = beyond.filter_map(|(log, progress)| progress.as_seen(*log));
        let mut seen: Vec<Seen> = seen.collect();
        // To say less than was seen makes conflicts, and loses nothing.
        if seen.len() > SEEN_MAX {
            seen.sort_unstable_by_key(|seen| std::cmp::Reverse(seen.last));
            seen.truncate(SEEN_MAX);
            seen.sort_unstable_by_key(|seen| seen.log);
        }
        seen
    }
}

const VALUE_MAX_BYTES: usize = 256;
