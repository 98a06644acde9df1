//! Which ops a record of the chain names, and so the order of all ops: record by record, and by stamp
//! and log inside one and among those that none names yet.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::{Result, VolumeError};
use crate::base::{LogId, OpId, Stamp};
use crate::store::{Batch, Rows, Table};

/// A place in the order of all ops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// The record that names the op; [`Rank::TENTATIVE`] where none does.
    pub(super) record: u64,
    /// The op.
    pub(super) id: OpId,
}

impl Rank {
    /// Greater than the number of any record.
    pub(super) const TENTATIVE: u64 = u64::MAX;

    /// Returns the place of an op that no record names.
    pub(super) fn tentative(id: OpId) -> Self {
        let record = Self::TENTATIVE;
        Self { record, id }
    }
}

/// The folded records, by what they name: of each log runs of ops.
#[derive(Debug, Clone, Default)]
pub(super) struct Committed {
    /// The last op of each run and the record that names it, ascending in both.
    logs: BTreeMap<LogId, Vec<(Stamp, u64)>>,
    /// The record up to which what was replaced is looked up no more.
    pub(super) base_line: u64,
}

const KEY_BYTES: usize = 16;

fn key(log: LogId, last: Stamp) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&log.0.to_be_bytes());
    key[8..].copy_from_slice(&last.0.to_be_bytes());
    key
}

impl Committed {
    /// Reads what the rows hold.
    pub(super) fn load(rows: &dyn Rows) -> Result<Self> {
        let mut committed = Self::default();
        let mut is_damaged = false;
        rows.scan(Table::Committed, &[], None, &mut |key, value| {
            match (Self::parse(key), value.try_into()) {
                (Some((log, last)), Ok(number)) => {
                    committed.add(log, last, u64::from_be_bytes(number));
                }
                _ => is_damaged = true,
            }
            ControlFlow::Continue(())
        })?;
        if is_damaged {
            return Err(VolumeError::Corrupt {
                what: "which record names an op",
            });
        }
        Ok(committed)
    }

    /// Returns the log and the last op that the key of a row names.
    pub(super) fn parse(key: &[u8]) -> Option<(LogId, Stamp)> {
        let (log, last) = key.split_first_chunk::<8>()?;
        let last: [u8; 8] = last.try_into().ok()?;
        let (log, last) = (u64::from_be_bytes(*log), u64::from_be_bytes(last));
        Some((LogId(log), Stamp(last)))
    }

    /// Takes note that a record names the ops of a log up to `last` that none before it names.
    pub(super) fn add(&mut self, log: LogId, last: Stamp, number: u64) {
        if last > self.end(log) {
            self.logs.entry(log).or_default().push((last, number));
        }
    }

    /// Puts the row of that.
    pub(super) fn put(batch: &mut Batch, log: LogId, last: Stamp, number: u64) {
        batch.put(Table::Committed, key(log, last), number.to_be_bytes());
    }

    /// Forgets which of the records up to the base line names an op: that one of them does is all that
    /// is still asked.
    pub(super) fn forget(&mut self, batch: &mut Batch) {
        let number = self.base_line;
        for (log, runs) in &mut self.logs {
            let settled = runs.partition_point(|(_, of)| *of <= number);
            for (last, _) in runs.drain(..settled.saturating_sub(1)) {
                batch.delete(Table::Committed, key(*log, last));
            }
        }
    }

    /// Returns the greatest op that a record up to the base line names.
    pub(super) fn last_settled(&self) -> OpId {
        let number = self.base_line;
        let ends = self.logs.iter().filter_map(|(log, runs)| {
            let settled = runs.partition_point(|(_, of)| *of <= number);
            let (stamp, _) = runs.get(settled.checked_sub(1)?)?;
            Some(OpId {
                stamp: *stamp,
                log: *log,
            })
        });
        ends.max().unwrap_or_default()
    }

    /// Returns for each run of ops that a record above the base line names a place at or before its first.
    pub(super) fn firsts_above_base_line(&self) -> impl Iterator<Item = OpId> {
        self.logs.iter().flat_map(|(log, runs)| {
            let settled = self.settled_in(runs);
            let before = settled.checked_sub(1).and_then(|at| runs.get(at));
            let before = before.map_or(Stamp(0), |(last, _)| *last);
            let befores = [before].into_iter();
            let above = runs.iter().skip(settled);
            let befores = befores.chain(above.clone().map(|(last, _)| *last));
            let firsts = befores.zip(above).map(|(before, _)| OpId {
                stamp: before.next(),
                log: *log,
            });
            firsts.collect::<Vec<_>>()
        })
    }

    /// Tells whether it takes the run of a log with this last op to say which record names an op: of those
    /// up to the base line the last is enough.
    pub(super) fn is_run_needed(&self, log: LogId, last: Stamp) -> bool {
        let Some(runs) = self.logs.get(&log) else {
            return false;
        };
        let needed = self.settled_in(runs).saturating_sub(1);
        runs.iter().skip(needed).any(|(of, _)| *of == last)
    }

    fn settled_in(&self, runs: &[(Stamp, u64)]) -> usize {
        runs.partition_point(|(_, of)| *of <= self.base_line)
    }

    /// Returns the last op of a log that a record names.
    pub(super) fn end(&self, log: LogId) -> Stamp {
        let runs = self.logs.get(&log);
        runs.and_then(|runs| runs.last())
            .map_or(Stamp(0), |run| run.0)
    }

    /// Returns the record that names an op, `None` where none does.
    pub(super) fn number(&self, id: OpId) -> Option<u64> {
        let runs = self.logs.get(&id.log)?;
        let at = runs.partition_point(|(last, _)| *last < id.stamp);
        runs.get(at).map(|(_, number)| *number)
    }

    /// Tells whether no fold looks up any more what an op replaced or removed, whoever still has it.
    pub(super) fn is_settled(&self, id: OpId) -> bool {
        self.number(id)
            .is_some_and(|number| number <= self.base_line)
    }

    /// Returns where an op stands in the order.
    pub(super) fn rank(&self, id: OpId) -> Rank {
        Rank {
            record: self.number(id).unwrap_or(Rank::TENTATIVE),
            id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(log: u64, stamp: u64) -> OpId {
        OpId {
            stamp: Stamp(stamp),
            log: LogId(log),
        }
    }

    #[test]
    fn ops_are_ordered_by_record_then_by_stamp_and_tentative_ones_come_last() {
        let mut committed = Committed::default();
        committed.add(LogId(1), Stamp(10), 1);
        committed.add(LogId(2), Stamp(5), 2);
        committed.add(LogId(1), Stamp(20), 3);
        // Nothing new of that log.
        committed.add(LogId(1), Stamp(20), 4);
        let ops = [
            op(1, 10),
            op(2, 3),
            op(2, 5),
            op(1, 11),
            op(1, 20),
            op(2, 6),
            op(1, 21),
        ];
        let numbers = ops.map(|op| committed.number(op));
        let expected = [Some(1), Some(2), Some(2), Some(3), Some(3), None, None];
        assert_eq!(numbers, expected);
        let ranks = ops.map(|op| committed.rank(op));
        assert!(ranks.is_sorted());
        assert_eq!(committed.number(op(3, 1)), None);

        committed.base_line = 2;
        assert_eq!(committed.last_settled(), op(1, 10));
        assert!(committed.is_settled(op(2, 5)) && !committed.is_settled(op(1, 11)));
        committed.base_line = 3;
        let mut batch = Batch::new();
        committed.forget(&mut batch);
        assert_eq!(
            batch.len(),
            1,
            "one run of the first log, and none of the second"
        );
        assert_eq!(committed.number(op(1, 5)), Some(3));
        assert_eq!(committed.number(op(1, 21)), None);
    }
}
