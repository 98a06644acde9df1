//! Which logs are not taken here any further, and why: told here, and to their authors.

use std::collections::BTreeMap;

use crate::base::{DeviceId, LogId};
use crate::wire::LogRefusal;

/// Most logs that are kept in mind; a device begins a new one at each start.
const REFUSED_MAX: usize = 1024;

/// The logs whose next segment was not taken from anybody.
#[derive(Debug, Default)]
pub(super) struct RefusedLogs(BTreeMap<(DeviceId, LogId), LogRefusal>);

impl RefusedLogs {
    /// Takes note of a log.
    pub(super) fn note(&mut self, device: DeviceId, log: LogId, refusal: LogRefusal) {
        if self.0.len() < REFUSED_MAX || self.0.contains_key(&(device, log)) {
            self.0.insert((device, log), refusal);
        }
    }

    /// Takes note that more of a log was taken. What was wrong with the device, its clock or its right to
    /// write, is over for its other logs, too; but one that wants for a record goes on wanting for it.
    pub(super) fn grew(&mut self, device: DeviceId, log: LogId) {
        self.0.retain(|(of, other), refusal| {
            *of != device || *other != log && matches!(refusal, LogRefusal::Unfounded { .. })
        });
    }

    /// Returns why a device's changes are not taken: what is wrong with the device, where there is that.
    pub(super) fn of(&self, device: DeviceId) -> Option<LogRefusal> {
        let of = self.0.range((device, LogId(0))..=(device, LogId(u64::MAX)));
        let mut of = of.map(|(_, refusal)| *refusal);
        let first = of.next()?;
        let is_fault = |refusal: &LogRefusal| !matches!(refusal, LogRefusal::Unfounded { .. });
        Some(
            std::iter::once(first)
                .chain(of)
                .find(is_fault)
                .unwrap_or(first),
        )
    }

    /// Returns the devices of which a log is not taken, each with why.
    pub(super) fn all(&self) -> BTreeMap<DeviceId, LogRefusal> {
        let devices = self.0.keys().map(|(device, _)| *device);
        devices
            .filter_map(|device| Some((device, self.of(device)?)))
            .collect()
    }

    /// Says whether a log wants for a record that nobody hands over.
    pub(super) fn is_unfounded(&self, log: LogId) -> bool {
        let mut refused = self.0.iter();
        refused
            .any(|((_, of), refusal)| *of == log && matches!(refusal, LogRefusal::Unfounded { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AHEAD: LogRefusal = LogRefusal::Ahead { ahead_ms: 7 };
    const UNFOUNDED: LogRefusal = LogRefusal::Unfounded { number: 3 };

    #[test]
    fn a_log_without_its_record_is_that_log_alone_and_a_wrong_clock_is_of_the_device() {
        let (alice, bob) = (DeviceId(1), DeviceId(2));
        let (first, second, of_bob) = (LogId(u64::MAX), LogId(0), LogId(5));
        let mut refused = RefusedLogs::default();
        refused.note(alice, first, UNFOUNDED);
        refused.note(bob, of_bob, LogRefusal::NotAllowed);
        assert!(refused.is_unfounded(first));
        assert!(!refused.is_unfounded(second) && !refused.is_unfounded(of_bob));
        assert_eq!(refused.of(alice), Some(UNFOUNDED));
        // Another log of the same device goes on: this one does not.
        refused.grew(alice, second);
        assert!(refused.is_unfounded(first));
        refused.note(alice, second, AHEAD);
        assert_eq!(refused.of(alice), Some(AHEAD));
        let all = BTreeMap::from([(alice, AHEAD), (bob, LogRefusal::NotAllowed)]);
        assert_eq!(refused.all(), all);
        refused.grew(alice, first);
        assert_eq!(
            (refused.of(alice), refused.is_unfounded(first)),
            (None, false)
        );
        refused.note(bob, LogId(6), UNFOUNDED);
        refused.grew(bob, LogId(7));
        assert_eq!(refused.all(), BTreeMap::from([(bob, UNFOUNDED)]));
    }

    #[test]
    fn of_very_many_logs_the_first_are_kept_in_mind() {
        let mut refused = RefusedLogs::default();
        for log in 0..2 * REFUSED_MAX as u64 {
            refused.note(DeviceId(1), LogId(log), UNFOUNDED);
        }
        assert_eq!(refused.0.len(), REFUSED_MAX);
        refused.note(DeviceId(1), LogId(0), AHEAD);
        assert_eq!(refused.of(DeviceId(1)), Some(AHEAD));
    }
}
