//! The table of machines that ask to be admitted, wherever they ask: bounded, and each entry lives
//! only as long as its machine goes on asking. No tasks and no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::places::{Origin, Place, place};
use crate::base::PeerId;
use crate::base::limits::{ASKING_MAX, CLOCK_SKEW_MAX};
use crate::wire::limits::ASKINGS_MAX;
use crate::wire::{Denial, PassedAsking};

/// How long an entry stays without a word of its machine, which asks again every few seconds.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(20);

/// An asking that is known is passed on again when the machine's word is this much newer.
const PASS_EVERY: Duration = Duration::from_secs(5);

/// Returns whether somebody who began to ask at `since_ms` has done so for too long; a clock that is
/// within the allowed skew shortens nobody's time, and one that is far ahead keeps nothing for longer.
pub(super) fn is_over(since_ms: u64, now_ms: u64) -> bool {
    Duration::from_millis(now_ms.abs_diff(since_ms)) > ASKING_MAX + CLOCK_SKEW_MAX
}

/// One machine that asks.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) passed: PassedAsking,
    /// The member that told of it last; `None` where the machine asks here.
    pub(super) via: Option<PeerId>,
    heard: Duration,
    /// The machine's clock in what was passed on last.
    passed_ms: u64,
}

impl Open {
    pub(super) fn peer(&self) -> PeerId {
        self.passed.signed.asking.identity.id()
    }
}

/// What a word of a machine was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// A machine that was not known; to be passed on.
    New,
    /// It still asks; to be passed on.
    Refreshed,
    /// Nothing that others have to hear.
    Old,
    /// There is no place for it.
    Full,
}

/// Who asks, and who was denied.
#[derive(Debug, Default)]
pub(super) struct Askings {
    /// Who has asked for longest comes first.
    open: Vec<(PeerId, Open)>,
    denied: BTreeMap<PeerId, Denial>,
}

impl Askings {
    /// Takes a verified word of a machine.
    pub(super) fn take(
        &mut self,
        passed: PassedAsking,
        via: Option<PeerId>,
        now: Duration,
    ) -> Taken {
        let peer = passed.signed.asking.identity.id();
        let clock_ms = passed.signed.asking.clock_ms;
        if let Some((_, open)) = self.open.iter_mut().find(|(known, _)| *known == peer) {
            // What comes round again says nothing, and what it says here itself says most.
            let is_echo = via.is_some() && open.via.is_none();
            if clock_ms <= open.passed.signed.asking.clock_ms || is_echo {
                return Taken::Old;
            }
            let pause_ms = u64::try_from(PASS_EVERY.as_millis()).unwrap_or(u64::MAX);
            let is_due = clock_ms >= open.passed_ms.saturating_add(pause_ms);
            if is_due {
                open.passed_ms = clock_ms;
            }
            (open.passed, open.via, open.heard) = (passed, via, now);
            return if is_due { Taken::Refreshed } else { Taken::Old };
        }
        let origin = |passed: &PassedAsking, via| Origin::new(passed.addr, via);
        let held: Vec<Origin> = self
            .open
            .iter()
            .map(|(_, open)| origin(&open.passed, open.via))
            .collect();
        match place(&held, &origin(&passed, via), ASKINGS_MAX) {
            Place::Free => {}
            Place::InsteadOf(at) => drop(self.open.remove(at)),
            Place::Taken => return Taken::Full,
        }
        let open = Open {
            passed,
            via,
            heard: now,
            passed_ms: clock_ms,
        };
        self.open.push((peer, open));
        Taken::New
    }

    /// Takes a verified denial; says whether it is new. Of too many the oldest are forgotten.
    pub(super) fn deny(&mut self, denial: Denial) -> bool {
        self.forget(&denial.peer);
        if self.denied.contains_key(&denial.peer) {
            return false;
        }
        self.denied.insert(denial.peer, denial);
        if self.denied.len() > ASKINGS_MAX {
            let oldest = self.denied.values().min_by_key(|denial| denial.denied_ms);
            if let Some(peer) = oldest.map(|denial| denial.peer) {
                self.denied.remove(&peer);
            }
        }
        true
    }

    pub(super) fn is_denied(&self, peer: &PeerId) -> bool {
        self.denied.contains_key(peer)
    }

    /// Takes a machine off the table.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.open.retain(|(known, _)| known != peer);
    }

    /// Returns a machine that asks.
    pub(super) fn get(&self, peer: &PeerId) -> Option<&Open> {
        let found = self.open.iter().find(|(known, _)| known == peer);
        found.map(|(_, open)| open)
    }

    /// Returns those that ask, who has done so for longest first.
    pub(super) fn open(&self) -> impl Iterator<Item = &Open> {
        self.open.iter().map(|(_, open)| open)
    }

    /// Returns the denials that still hold.
    pub(super) fn denials(&self) -> impl Iterator<Item = &Denial> {
        self.denied.values()
    }

    /// Forgets who has fallen silent or asked for too long, and denials as old.
    pub(super) fn expire(&mut self, now: Duration, now_ms: u64) {
        self.open.retain(|(_, open)| {
            now.saturating_sub(open.heard) < SILENCE_MAX
                && !is_over(open.passed.signed.asking.since_ms, now_ms)
        });
        self.denied
            .retain(|_, denial| !is_over(denial.denied_ms, now_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{PublicIdentity, Signature};
    use crate::wire::{Asking, SignedAsking, VolumeMark};

    const SECOND: Duration = Duration::from_secs(1);

    fn asking(key: u16, addr: &str, clock_ms: u64) -> PassedAsking {
        let identity = PublicIdentity {
            spki: key.to_le_bytes().to_vec(),
            signing: [0; 32],
            certificate: Vec::new(),
        };
        let asking = Asking {
            volume: VolumeMark([0; 32]),
            identity,
            name: "laptop".to_owned(),
            since_ms: 1_000,
            clock_ms,
        };
        PassedAsking {
            signed: SignedAsking {
                asking,
                signature: Signature([0; 64]),
            },
            addr: addr.parse().unwrap(),
        }
    }

    fn denial(peer: PeerId, denied_ms: u64) -> Denial {
        Denial {
            volume: VolumeMark([0; 32]),
            peer,
            admin: PeerId([0; 32]),
            denied_ms,
            signature: Signature([0; 64]),
        }
    }

    #[test]
    fn who_asks_again_stands_once_and_is_passed_on_now_and_then() {
        let mut table = Askings::default();
        let mut told = Vec::new();
        for second in 0..12 {
            let word = asking(1, "192.0.2.1:1", 1_000 + second * 1_000);
            told.push(table.take(word.clone(), None, SECOND * second as u32));
            // Two ways lead here, and the other one is longer.
            let echo = table.take(word, Some(PeerId([9; 32])), SECOND);
            assert_eq!(echo, Taken::Old);
        }
        assert_eq!(told.iter().filter(|taken| **taken == Taken::New).count(), 1);
        let passed = told.iter().filter(|taken| **taken == Taken::Refreshed);
        assert_eq!(passed.count(), 2);
        assert_eq!(table.open().count(), 1);
        assert_eq!(table.open().next().unwrap().via, None);
    }

    #[test]
    fn who_falls_silent_or_asks_too_long_is_forgotten() {
        let mut table = Askings::default();
        table.take(asking(1, "192.0.2.1:1", 1_000), None, SECOND);
        table.expire(SILENCE_MAX, 1_000);
        assert_eq!(table.open().count(), 1);
        table.expire(SILENCE_MAX + SECOND, 1_000);
        assert_eq!(table.open().count(), 0);

        table.take(asking(1, "192.0.2.1:1", 1_000), None, SECOND);
        let over = (ASKING_MAX + CLOCK_SKEW_MAX).as_millis() as u64;
        table.expire(SECOND, 1_000 + over);
        assert_eq!(table.open().count(), 1);
        table.expire(SECOND, 1_001 + over);
        assert_eq!(table.open().count(), 0);
    }

    #[test]
    fn a_hundred_strangers_at_once_leave_a_place_for_another_address() {
        let mut table = Askings::default();
        for key in 0..100 {
            table.take(asking(key, "192.0.2.1:1", 1_000), None, SECOND);
        }
        assert_eq!(table.open().count(), ASKINGS_MAX);
        let again = table.take(asking(200, "192.0.2.1:9", 1_000), None, SECOND);
        assert_eq!(again, Taken::Full);
        let other = table.take(asking(201, "192.0.2.2:1", 1_000), None, SECOND);
        assert_eq!(other, Taken::New);
        let told = table.take(
            asking(202, "192.0.2.1:1", 1_000),
            Some(PeerId([1; 32])),
            SECOND,
        );
        assert_eq!(told, Taken::New);
        assert_eq!(table.open().count(), ASKINGS_MAX);
    }

    #[test]
    fn denials_hold_for_as_long_as_one_may_ask_and_are_bounded() {
        let mut table = Askings::default();
        table.take(asking(1, "192.0.2.1:1", 1_000), None, SECOND);
        let peer = table.open().next().unwrap().peer();
        assert!(table.deny(denial(peer, 5_000)));
        assert!(!table.deny(denial(peer, 6_000)));
        assert!(table.is_denied(&peer) && table.get(&peer).is_none());
        for other in 0..100 {
            table.deny(denial(PeerId([other; 32]), 7_000 + u64::from(other)));
        }
        assert_eq!(table.denials().count(), ASKINGS_MAX);
        assert!(!table.is_denied(&peer) && table.is_denied(&PeerId([99; 32])));
        table.expire(SECOND, u64::MAX);
        assert_eq!(table.denials().count(), 0);
    }
}
