//! Logs that wait for their past: what their authors had seen and this peer has not.
//!
//! That is usual for as long as segments are on their way, so it is a trouble only after a while.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::LogId;
use crate::base::time::Backoff;
use crate::store::StoreError;
use crate::volume::{Missing, VolumeError};
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
    /// What everything cannot be folded anew for, where another chain counts.
    pub(super) anew: Anew,
}

/// What folding anew takes: the newest record, the logs, and the digest of the roster.
pub(super) type Here = (RecordRef, Vector, [u8; 32]);

/// Why everything could not be folded anew, where another chain counts.
#[derive(Debug, Default)]
pub(super) struct Anew(Mutex<Option<NotAnew>>);

#[derive(Debug)]
struct NotAnew {
    /// What was here at the newest try.
    here: Here,
    /// Since when that has failed, milliseconds since 1970.
    since_ms: u64,
    /// Why.
    error: VolumeError,
    backoff: Backoff,
    /// When it is tried again, by the monotonic clock; `None` where something has to come first.
    again_at: Option<Duration>,
}

/// How long after a failure everything is folded anew again, at first and at most: it takes as long as the
/// history, and writes as much as all rows.
const ANEW_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

impl Anew {
    /// Says whether it is to be tried, with what is here.
    pub(super) fn is_due(&self, here: &Here, now: Duration) -> bool {
        let failed = self.0.lock();
        failed.as_ref().is_none_or(|failed| match failed.again_at {
            Some(again_at) => now >= again_at,
            None => failed.here != *here,
        })
    }

    /// Returns how long it is until it is tried again, where nothing has to come first.
    pub(super) fn pause(&self, now: Duration) -> Option<Duration> {
        let again_at = self.0.lock().as_ref()?.again_at?;
        Some(again_at.saturating_sub(now))
    }

    /// Takes note of a try that failed.
    pub(super) fn failed(&self, here: Here, error: VolumeError, now: Duration, now_ms: u64) {
        let mut failed = self.0.lock();
        let first = Backoff::new(ANEW_AGAIN.0, ANEW_AGAIN.1);
        let (since_ms, mut backoff) = failed
            .take()
            .map_or((now_ms, first), |failed| (failed.since_ms, failed.backoff));
        let again_at = match error {
            VolumeError::NotHere { .. } => None,
            _ => Some(now + backoff.failed()),
        };
        *failed = Some(NotAnew {
            here,
            since_ms,
            error,
            backoff,
            again_at,
        });
    }

    /// Takes note that it is done, or not to be done any more.
    pub(super) fn done(&self) {
        self.0.lock().take();
    }

    /// Returns what to say of it, and since when: what comes from another peer in a moment is not told.
    pub(super) fn told(&self, now_ms: u64) -> Option<(u64, String, &'static str)> {
        let failed = self.0.lock();
        let NotAnew {
            since_ms, error, ..
        } = failed.as_ref()?;
        let advice = match error {
            VolumeError::NotHere { .. } if !is_long(*since_ms, now_ms) => return None,
            VolumeError::NotHere { .. } => {
                "connect the machine that wrote it, or any that has it; it goes on by itself"
            }
            VolumeError::Store(StoreError::Full) => {
                "free room on the disk of the state folder; it goes on by itself"
            }
            VolumeError::Store(StoreError::Poisoned) => "check the disk, unmount, and mount again",
            _ => "see dfs log; if it goes on, unmount and mount again",
        };
        Some((*since_ms, error.to_string(), advice))
    }
}

/// Says whether what has waited since then has waited for long.
fn is_long(since_ms: u64, now_ms: u64) -> bool {
    u128::from(now_ms.saturating_sub(since_ms)) >= TOLD_AFTER.as_millis()
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
        is_long(since, now_ms).then_some(since)
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
        let long = waits.values().filter(|wait| is_long(wait.since_ms, now_ms));
        long.copied().collect()
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

    #[test]
    fn what_is_missing_is_waited_for_and_a_full_disk_is_tried_again_ever_more_rarely() {
        let here = |number: u64| {
            let record = RecordRef {
                number,
                ..RecordRef::default()
            };
            (record, Vector::new(), [0; 32])
        };
        let at = Duration::from_secs;
        let anew = Anew::default();
        assert!(anew.is_due(&here(1), at(0)));
        let (log, seg_no) = (LogId(1), 2);
        anew.failed(here(1), VolumeError::NotHere { log, seg_no }, at(0), 1_000);
        assert!(!anew.is_due(&here(1), at(9_999)), "only with more");
        assert!(anew.is_due(&here(2), at(0)));
        assert_eq!(anew.pause(at(0)), None);
        // It is on its way, as a rule.
        assert_eq!(anew.told(60_999), None);
        assert!(
            anew.told(61_000)
                .is_some_and(|(since_ms, ..)| since_ms == 1_000)
        );
        for pause in [5, 10, 20, 40, 80, 160, 300, 300] {
            anew.failed(here(2), StoreError::Full.into(), at(100), 2_000);
            assert_eq!(anew.pause(at(101)), Some(at(pause - 1)));
            // However much comes: each try takes as long as the history.
            assert!(!anew.is_due(&here(3), at(99 + pause)));
            assert!(anew.is_due(&here(2), at(100 + pause)));
            let (since_ms, ..) = anew.told(2_000).expect("told at once");
            assert_eq!(since_ms, 1_000);
        }
        anew.done();
        assert_eq!(anew.told(u64::MAX), None);
        assert!(anew.is_due(&here(2), at(0)));
    }
}
