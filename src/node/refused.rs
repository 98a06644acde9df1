//! Which logs are not taken here any further, and why: told here, and to their authors.

use std::collections::BTreeMap;

use crate::base::{DeviceId, LogId};
use crate::wire::LogRefusal;

/// Most logs of one device that want for a record and are kept in mind: it begins one at each start.
const UNFOUNDED_MAX: usize = 64;

/// The logs whose next segment was not taken from anybody.
#[derive(Debug, Default)]
pub(super) struct RefusedLogs {
    /// What is wrong with a device: its clock, its right to write. Devices are of the roster.
    faults: BTreeMap<DeviceId, LogRefusal>,
    /// The logs that want for a record that nobody hands over; their segments are signed.
    unfounded: BTreeMap<(DeviceId, LogId), Unfounded>,
}

#[derive(Debug)]
struct Unfounded {
    /// The number of the record.
    number: u64,
    /// False once another log of the device goes on: what it writes now is taken.
    is_told: bool,
}

impl RefusedLogs {
    /// Takes note of a log.
    pub(super) fn note(&mut self, device: DeviceId, log: LogId, refusal: LogRefusal) {
        let LogRefusal::Unfounded { number } = refusal else {
            self.faults.insert(device, refusal);
            return;
        };
        let key = (device, log);
        if let Some(unfounded) = self.unfounded.get_mut(&key) {
            unfounded.number = number;
        } else if self.unfounded_of(device).count() < UNFOUNDED_MAX {
            let is_told = true;
            self.unfounded.insert(key, Unfounded { number, is_told });
        }
    }

    /// Takes note that more of a log was taken. What was wrong with the device is over, and its other logs
    /// that want for a record go on wanting for it.
    pub(super) fn grew(&mut self, device: DeviceId, log: LogId) {
        self.faults.remove(&device);
        self.unfounded.remove(&(device, log));
        let range = (device, LogId(0))..=(device, LogId(u64::MAX));
        for (_, unfounded) in self.unfounded.range_mut(range) {
            unfounded.is_told = false;
        }
    }

    fn unfounded_of(&self, device: DeviceId) -> impl Iterator<Item = &Unfounded> {
        let range = (device, LogId(0))..=(device, LogId(u64::MAX));
        self.unfounded.range(range).map(|(_, unfounded)| unfounded)
    }

    /// Returns why a device's changes are not taken: what is wrong with the device, where there is that.
    pub(super) fn of(&self, device: DeviceId) -> Option<LogRefusal> {
        let mut told = self.unfounded_of(device).filter(|log| log.is_told);
        let number = told.next().map(|unfounded| unfounded.number);
        let unfounded = number.map(|number| LogRefusal::Unfounded { number });
        self.faults.get(&device).copied().or(unfounded)
    }

    /// Returns the devices whose changes are not taken, each with why.
    pub(super) fn all(&self) -> BTreeMap<DeviceId, LogRefusal> {
        let unfounded = self.unfounded.keys().map(|(device, _)| device);
        let devices = self.faults.keys().chain(unfounded);
        devices
            .filter_map(|device| Some((*device, self.of(*device)?)))
            .collect()
    }

    /// Says whether a log wants for a record that nobody hands over.
    pub(super) fn is_unfounded(&self, log: LogId) -> bool {
        self.unfounded.keys().any(|(_, of)| *of == log)
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
        // Another log of the same device goes on: this one does not, and nobody has to be told.
        refused.grew(alice, second);
        assert!(refused.is_unfounded(first));
        assert_eq!(refused.of(alice), None);
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
        refused.grew(bob, LogId(6));
        assert_eq!(refused.all(), BTreeMap::new());
    }

    #[test]
    fn however_many_logs_one_device_has_those_of_another_are_kept_in_mind() {
        let (alice, bob) = (DeviceId(1), DeviceId(2));
        let mut refused = RefusedLogs::default();
        for log in 0..4 * UNFOUNDED_MAX as u64 {
            refused.note(alice, LogId(log), UNFOUNDED);
            refused.note(alice, LogId(log), AHEAD);
        }
        assert_eq!(
            (refused.unfounded.len(), refused.faults.len()),
            (UNFOUNDED_MAX, 1)
        );
        refused.note(bob, LogId(u64::MAX), UNFOUNDED);
        assert!(refused.is_unfounded(LogId(u64::MAX)));
    }
}
