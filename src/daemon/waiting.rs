//! Logs that wait for their past: what their authors had seen and this peer has not.
//!
//! That is usual for as long as segments are on their way, so it is a trouble only after a while.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::LogId;
use crate::volume::Missing;
use crate::wire::{RecordRef, Vector};

/// How long a log may wait before it is told: what it waits for comes from another peer at the same
/// time, over a slow line perhaps.
const TOLD_AFTER: Duration = Duration::from_secs(60);

/// A log that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    /// The log.
    pub(super) log: LogId,
    /// What it needs.
    pub(super) needs: Missing,
    /// Since when, milliseconds since 1970.
    pub(super) since_ms: u64,
}

/// The logs that wait; as many as there are logs at most.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    waits: Mutex<BTreeMap<LogId, Wait>>,
    /// The record that waits for statements of the roster.
    pub(super) statements: Since,
    /// The record that waits for changes which it names.
    pub(super) named: Since,
    /// What was here when another chain could not be folded anew: the newest record, the logs, and the
    /// digest of the roster.
    pub(super) anew: Mutex<Option<(RecordRef, Vector, [u8; 32])>>,
}

/// The record that waits for something, and since when, milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Since(Mutex<Option<(u64, u64)>>);

impl Since {
    /// Takes note of the record that waits now.
    pub(super) fn set(&self, record: Option<u64>, now_ms: u64) {
        let mut waits = self.0.lock();
        let since = waits.filter(|(of, _)| Some(*of) == record);
        *waits = record.map(|of| (of, since.map_or(now_ms, |(_, since)| since)));
    }

    /// Returns since when it has waited, where that is long.
    pub(super) fn long(&self, now_ms: u64) -> Option<u64> {
        let (_, since) = (*self.0.lock())?;
        (u128::from(now_ms.saturating_sub(since)) >= TOLD_AFTER.as_millis()).then_some(since)
    }
}

impl Waiting {
    /// Takes note of all logs that wait now, and for which others.
    pub(super) fn set(&self, waiting: &BTreeMap<LogId, Missing>, now_ms: u64) {
        let mut waits = self.waits.lock();
        waits.retain(|log, _| waiting.contains_key(log));
        for (log, needs) in waiting {
            let (log, needs) = (*log, *needs);
            let wait = waits.entry(log).or_insert(Wait {
                log,
                needs,
                since_ms: now_ms,
            });
            wait.needs = needs;
        }
    }

    /// Returns those that have waited for long.
    pub(super) fn long(&self, now_ms: u64) -> Vec<Wait> {
        let waits = self.waits.lock();
        let is_long = |wait: &&Wait| {
            u128::from(now_ms.saturating_sub(wait.since_ms)) >= TOLD_AFTER.as_millis()
        };
        waits.values().filter(is_long).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_long_is_told_with_when_it_began_until_it_goes_on() {
        let waiting = Waiting::default();
        let (a, b) = (LogId(1), LogId(2));
        let c = Missing::Log(LogId(3));
        waiting.set(&BTreeMap::from([(a, Missing::Record(7))]), 1_000);
        waiting.set(&BTreeMap::from([(a, c), (b, c)]), 31_000);
        assert_eq!(waiting.long(60_999), []);
        let wait = |log, since_ms| Wait {
            log,
            needs: c,
            since_ms,
        };
        assert_eq!(waiting.long(61_000), [wait(a, 1_000)]);
        waiting.set(&BTreeMap::from([(b, c)]), 62_000);
        assert_eq!(waiting.long(100_000), [wait(b, 31_000)]);
        waiting.set(&BTreeMap::new(), 100_000);
        waiting.statements.set(Some(4), 1_000);
        waiting.statements.set(Some(4), 2_000);
        assert_eq!(waiting.statements.long(60_999), None);
        assert_eq!(waiting.statements.long(61_000), Some(1_000));
        waiting.statements.set(None, 61_000);
        assert_eq!(waiting.statements.long(u64::MAX), None);
        assert_eq!(waiting.long(u64::MAX), []);
    }
}
