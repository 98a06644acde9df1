//! Which records are checkpoints: who leads says so in a record, once there is enough behind the last one.

use std::time::Duration;

use super::keep::{Chain, State};
use crate::log::LogError;
use crate::store::Table;
use crate::wire::Vector;

/// How long after a checkpoint the next one follows, where something was named since.
const MARK_PAUSE: Duration = Duration::from_secs(3_600);

/// How long after a checkpoint the next one follows at the soonest, where a member asks for it.
const ASKED_PAUSE: Duration = Duration::from_secs(60);

/// Bytes of segments behind a checkpoint that make the next one due.
const MARK_BYTES: u64 = 64 << 20;

/// Ops that make the first one due: fewer are folded sooner than a checkpoint is taken over.
const FIRST_MARK_OPS: u64 = 4_096;

/// Records of which it is looked up at a time what they name.
const LOOK_SLICE: u64 = 8;

pub(super) const MARKED_KEY: &[u8] = b"chain/marked";

/// What is named since the newest checkpoint, as far as it was looked up.
#[derive(Debug, Default)]
pub(super) struct Since {
    /// The checkpoint.
    mark: u64,
    /// When it was made.
    time_ms: Option<u64>,
    /// The last record that was looked at.
    read: u64,
    ops: u64,
    bytes: u64,
}

impl Chain {
    /// Returns the number of the newest record that is a checkpoint; 0 where none is.
    pub fn marked(&self) -> u64 {
        self.state.lock().marked
    }

    /// Says that a checkpoint counts: no other chain does that parts from this one before it.
    pub fn settle_at(&self, number: u64) {
        self.shown.lock().settled = number;
    }

    /// Returns the last segment of each log that a record up to one names.
    pub fn named_at(&self, number: u64) -> Result<Vector, LogError> {
        let (mut named, tip) = {
            let state = self.state.lock();
            (state.named.clone(), state.agreement.tip().at.number)
        };
        let mut seen = Vector::new();
        for behind in number.saturating_add(1)..=tip {
            let record = self.get(behind)?;
            for name in record.iter().flat_map(|record| record.segments.iter()) {
                seen.entry(name.log).or_insert(name.seg_no);
            }
        }
        for (log, first) in seen {
            match first {
                0 | 1 => named.remove(&log),
                first => named.insert(log, first - 1),
            };
        }
        named.retain(|_, last| *last > 0);
        Ok(named)
    }

    /// Says whether the next record is to be a checkpoint, by what its maker knows.
    pub(super) fn is_mark_due(
        &self,
        state: &mut State,
        now_ms: u64,
        is_asked: bool,
    ) -> Result<bool, LogError> {
        let tip = state.agreement.tip().at.number;
        if state.since.mark != state.marked {
            state.since = Since {
                mark: state.marked,
                read: state.marked,
                ..Since::default()
            };
        }
        if state.since.time_ms.is_none() {
            let first = self.get(state.marked.max(1))?;
            state.since.time_ms = first.map(|first| first.time_ms);
        }
        let Some(time_ms) = state.since.time_ms else {
            return Ok(false);
        };
        // A clock that went back says that it is long ago, too: else one that was wrong held them off.
        let age = Duration::from_millis(now_ms.abs_diff(time_ms));
        let is_first = state.marked == 0;
        if is_asked && state.marked < tip && (is_first || age >= ASKED_PAUSE) {
            return Ok(true);
        }
        if state.last <= state.marked {
            return Ok(false);
        }
        if age >= MARK_PAUSE {
            return Ok(true);
        }
        let until = tip.min(state.since.read.saturating_add(LOOK_SLICE));
        for number in state.since.read + 1..=until {
            let record = self.get(number)?;
            for name in record.iter().flat_map(|record| record.segments.iter()) {
                // What is below a floor is in a checkpoint.
                if let Some(segment) = self.log.get(name.log, name.seg_no)? {
                    state.since.ops += u64::from(segment.header.op_count);
                    state.since.bytes += segment.body.len() as u64;
                }
            }
            state.since.read = number;
        }
        let is_enough = is_first && state.since.ops >= FIRST_MARK_OPS;
        Ok(is_enough || state.since.bytes >= MARK_BYTES)
    }

    /// Returns the newest checkpoint up to a record, by what is kept of the newest one.
    pub(super) fn last_marked(&self, known: u64, mut number: u64) -> Result<u64, LogError> {
        if known <= number {
            return Ok(known);
        }
        while number > 0 && self.get(number)?.is_none_or(|record| !record.is_checkpoint) {
            number -= 1;
        }
        Ok(number)
    }

    pub(super) fn stored_mark(&self) -> Result<u64, LogError> {
        let bytes = self.rows.get(Table::Meta, MARKED_KEY)?;
        let number = bytes.map(|bytes| <[u8; 8]>::try_from(&bytes[..]));
        match number.transpose() {
            Ok(number) => Ok(number.map_or(0, u64::from_be_bytes)),
            Err(_) => Err(LogError::MalformedRecord {
                what: "the row of the newest checkpoint",
            }),
        }
    }
}
