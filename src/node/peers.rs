//! The table of peers: what is known of each, which have a session, and who is dialled when.
//!
//! No tasks and no clock: the moments are handed in, so that the rules can be tested alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::book::AddressBook;
use super::session::Session;
use crate::base::{PeerId, Rng};
use crate::store::{StoreError, codec};
use crate::wire::{LogRefusal, NodeRecord, RecordRef, Refusal, Settled, SignedRecord, Vector};

/// How long a peer may be silent before it is suspected.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(6);

/// How long a peer may be silent before its session is given up.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(15);

/// First pause after a failed dial; doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// Longest pause between two dials of one peer, where few are away: with the time that a dial takes,
/// peers find each other within 10 s of being reachable.
const BACKOFF_MAX: Duration = Duration::from_secs(3);

/// Peers that may be away without longer pauses. A dial is a few packets of 1,200 bytes to each
/// address in 11 s, so that many of them leave a slow line its air.
const AWAY_FEW: u32 = 8;

/// Largest encoded [`Remembered`].
const REMEMBERED_MAX_BYTES: usize = 256 << 10;

/// Everything known of one peer.
#[derive(Default)]
pub(super) struct Peer {
    /// Its newest verified record, with the form that others can verify.
    pub(super) record: Option<(NodeRecord, SignedRecord)>,
    /// Where it was reached or says that it is.
    pub(super) addrs: AddressBook,
    pub(super) session: Option<Arc<Session>>,
    /// Whether its owner was told that the peer is up.
    pub(super) up: bool,
    /// Wall time of its last answer, milliseconds since 1970.
    pub(super) last_contact_ms: Option<u64>,
    pub(super) vector: Vector,
    /// The newest record of the commit chain that it had when it last told.
    pub(super) chain: RecordRef,
    /// The least record that the fold of an op of it may look back to.
    pub(super) needs: u64,
    /// The era of the chain by which that counts.
    pub(super) needs_era: u64,
    /// Which of its rows may vote on records, once it said so.
    pub(super) voter: Option<u64>,
    /// What followed from its rows when it last told.
    pub(super) settled: Option<Settled>,
    /// Whether it waits for a checkpoint.
    pub(super) asks_checkpoint: bool,
    pub(super) free_bytes: u64,
    /// How far its clock was ahead of the own one when it last told, milliseconds.
    pub(super) clock_ahead_ms: i64,
    pub(super) refusal: Option<Refusal>,
    /// Why it does not take this peer's log, as it said last.
    pub(super) refuses_log: Option<LogRefusal>,
    pub(super) dial: Dial,
    /// Counts the dials: one that was overtaken says nothing any more.
    pub(super) dials: u64,
    /// Whether the last dial led to nobody, and nothing is new since.
    is_missed: bool,
    backoff: Backoff,
}

/// Whether a dial of a peer is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Dial {
    /// None is.
    #[default]
    Idle,
    /// An address is being tried.
    Connecting,
    /// The connection stands and the hello is on its way: a hello of the peer that comes now has
    /// crossed it.
    Greeting,
}

/// When to try again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backoff {
    failures: u32,
    next: Duration,
}

impl Backoff {
    /// Takes note of a failed attempt; the pause has up to a quarter of jitter, so that peers that
    /// lost each other at one moment do not dial in step.
    pub(super) fn failed(&mut self, now: Duration, pause_max: Duration, rng: &Rng) {
        let pause = BACKOFF_MIN
            .saturating_mul(1 << self.failures.min(10))
            .min(pause_max);
        let quarter_ms = u64::try_from(pause.as_millis() / 4).unwrap_or(0);
        let jitter = Duration::from_millis(rng.below(quarter_ms.saturating_add(1)));
        self.failures = self.failures.saturating_add(1);
        self.next = now + pause - jitter;
    }

    /// Lets the next attempt come at once.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Tells whether an attempt is due.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        now >= self.next
    }
}

/// What outlives a restart of a peer's knowledge of another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) addrs: Vec<SocketAddr>,
    pub(super) last_contact_ms: Option<u64>,
    pub(super) record: Option<SignedRecord>,
    pub(super) vector: Vector,
    pub(super) needs: u64,
    pub(super) needs_era: u64,
}

impl Remembered {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        codec::decode(bytes, REMEMBERED_MAX_BYTES)
    }
}

impl Peer {
    /// Returns the least record that it may look back to, in a chain of this era: any, where what it said is
    /// of another.
    pub(super) fn needs_in(&self, era: u64) -> u64 {
        match self.needs_era == era {
            true => self.needs,
            false => 0,
        }
    }

    /// Takes note of what it says that it may look back to, in a chain of this era.
    pub(super) fn note_needs(&mut self, era: u64, needs: u64) {
        // States overtake each other, and what is needed only grows along one chain.
        self.needs = needs.max(self.needs_in(era));
        self.needs_era = era;
    }

    /// Takes a verified record where it is newer, and says whether it names a new address; the
    /// peer is dialled anew then.
    pub(super) fn learn(&mut self, record: NodeRecord, signed: SignedRecord) -> Learned {
        let known = self.record.as_ref().map_or(0, |(known, _)| known.signed_ms);
        if record.signed_ms <= known {
            return Learned::Nothing;
        }
        let learned = if self.addrs.learn(&record.addrs) {
            Learned::Address
        } else {
            Learned::Record
        };
        if learned == Learned::Address && self.session.is_none() {
            self.dial_soon();
            if self.dial == Dial::Connecting {
                // What is being tried may be where the peer was.
                self.dial = Dial::Idle;
            }
        }
        self.free_bytes = record.free_bytes;
        self.record = Some((record, signed));
        learned
    }

    /// Tells whether there is no session, or one whose peer does not answer: it may have moved.
    pub(super) fn wants_session(&self) -> bool {
        self.session.is_none() || !self.up
    }

    /// Tells whether the peer is to be dialled now.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.wants_session()
            && self.dial == Dial::Idle
            && !self.addrs.is_empty()
            && self.backoff.is_due(now)
    }

    /// Tells whether there may be a session in a moment: one is on its way, or no dial has failed
    /// since the peer was met.
    pub(super) fn may_come(&self) -> bool {
        let is_tried = !self.is_missed && !self.addrs.is_empty();
        self.session.is_none() && (is_tried || self.dial == Dial::Greeting)
    }

    /// Takes note of a dial that led to no session.
    pub(super) fn dial_failed(&mut self, now: Duration, pause_max: Duration, rng: &Rng) {
        self.dial = Dial::Idle;
        self.is_missed = true;
        self.backoff.failed(now, pause_max, rng);
    }

    /// Takes note that a session ended: the peer is dialled after a pause.
    pub(super) fn lost(&mut self, now: Duration, pause_max: Duration, rng: &Rng) {
        self.dial_failed(now, pause_max, rng);
        self.is_missed = false;
    }

    /// Lets the next dial come at once.
    pub(super) fn dial_soon(&mut self) {
        self.is_missed = false;
        self.backoff.reset();
    }

    /// Returns what is worth remembering.
    pub(super) fn remember(&self) -> Remembered {
        Remembered {
            addrs: self.addrs.to_vec(),
            last_contact_ms: self.last_contact_ms,
            record: self.record.as_ref().map(|(_, signed)| signed.clone()),
            vector: self.vector.clone(),
            needs: self.needs,
            needs_era: self.needs_era,
        }
    }
}

/// What a record told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learned {
    /// Nothing new.
    Nothing,
    /// The record is newer, but names no new address.
    Record,
    /// The record names a new address.
    Address,
}

/// A HOST:PORT that the owner named, at which nobody is known yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Seed {
    /// Where it led when it was looked up last.
    pub(super) addrs: Vec<SocketAddr>,
    /// Who was found there last.
    pub(super) found: Option<PeerId>,
    pub(super) dialling: bool,
    pub(super) backoff: Backoff,
}

/// The peers of the roster (without this one) and the seeds.
#[derive(Default)]
pub(super) struct PeerTable {
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) seeds: BTreeMap<String, Seed>,
}

impl PeerTable {
    /// Returns the session of a peer.
    pub(super) fn session(&self, peer: &PeerId) -> Option<Arc<Session>> {
        self.peers.get(peer)?.session.clone()
    }

    /// Returns all sessions, in the order of their peers.
    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        let peers = self.peers.values();
        peers.filter_map(|peer| peer.session.clone()).collect()
    }

    /// Marks a peer as being dialled; `false` where it is, has a session, or is not due.
    pub(super) fn claim_dial(&mut self, peer: &PeerId, now: Duration) -> bool {
        let due = self.peers.get_mut(peer).filter(|peer| peer.is_due(now));
        due.map(|peer| {
            peer.dial = Dial::Connecting;
            peer.dials += 1;
        })
        .is_some()
    }

    /// Returns the seeds to be dialled now: those where nobody with a session was found.
    pub(super) fn due_seeds(&self, now: Duration) -> Vec<String> {
        let seeds = self.seeds.iter().filter(|(_, seed)| {
            let reached = match &seed.found {
                Some(peer) => self.peers.get(peer).is_some_and(|p| !p.wants_session()),
                None => seed.addrs.iter().any(|addr| self.sessions_at(addr)),
            };
            !reached && !seed.dialling && seed.backoff.is_due(now)
        });
        seeds.map(|(host, _)| host.clone()).collect()
    }

    /// Returns the longest pause between two dials of one peer now.
    pub(super) fn pause_max(&self) -> Duration {
        let away = self.peers.values().filter(|peer| peer.wants_session());
        let away = u32::try_from(away.count()).unwrap_or(u32::MAX);
        BACKOFF_MAX.saturating_mul((away / AWAY_FEW).max(1))
    }

    /// Lets the next dial of everybody come at once.
    pub(super) fn dial_all_soon(&mut self) {
        for peer in self.peers.values_mut() {
            peer.dial_soon();
        }
        for seed in self.seeds.values_mut() {
            seed.backoff.reset();
        }
    }

    /// Tells whether a peer without a session may have one in a moment.
    pub(super) fn expects_any(&self) -> bool {
        self.peers.values().any(Peer::may_come)
    }

    fn sessions_at(&self, addr: &SocketAddr) -> bool {
        // Where nobody answers any more the name may lead elsewhere by now.
        let met = self.peers.values().filter(|peer| !peer.wants_session());
        let mut sessions = met.filter_map(|peer| peer.session.as_ref());
        sessions.any(|session| session.remote_addr() == *addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::VolumeId;
    use crate::crypto::Signature;
    use crate::wire::bounded::BoundedBytes;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let rng = Rng::from_seed(1);
        let mut backoff = Backoff::default();
        assert!(backoff.is_due(Duration::ZERO));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            backoff.failed(Duration::ZERO, BACKOFF_MAX, &rng);
            pauses.push(backoff.next);
        }
        assert!(pauses[0] >= BACKOFF_MIN * 3 / 4 && pauses[0] <= BACKOFF_MIN);
        assert!(pauses[11] >= BACKOFF_MAX * 3 / 4 && pauses[11] <= BACKOFF_MAX);
        assert!(!backoff.is_due(pauses[11] - Duration::from_millis(1)));
        assert!(backoff.is_due(pauses[11]));
        backoff.reset();
        assert!(backoff.is_due(Duration::ZERO));
    }

    #[test]
    fn a_new_address_is_dialled_at_once() {
        let rng = Rng::from_seed(1);
        let mut peer = Peer::default();
        let now = Duration::from_secs(1);
        let learn = |peer: &mut Peer, signed_ms, port| {
            let record = NodeRecord {
                volume: VolumeId([0; 32]),
                peer: PeerId([0; 32]),
                signed_ms,
                name: String::new(),
                addrs: vec![addr(port)],
                capacity_bytes: 0,
                free_bytes: 0,
            };
            let signed = SignedRecord {
                record: BoundedBytes::new(record.encode()).unwrap(),
                signature: Signature([0; 64]),
            };
            peer.learn(record, signed)
        };
        assert!(!peer.is_due(now));
        assert_eq!(learn(&mut peer, 1, 1), Learned::Address);
        assert!(peer.is_due(now) && peer.may_come());
        peer.dial_failed(now, BACKOFF_MAX, &rng);
        assert!(!peer.is_due(now) && !peer.may_come());
        assert_eq!(learn(&mut peer, 2, 1), Learned::Record);
        assert!(!peer.is_due(now));
        assert_eq!(learn(&mut peer, 2, 2), Learned::Nothing);
        assert_eq!(learn(&mut peer, 3, 2), Learned::Address);
        assert!(peer.is_due(now) && peer.may_come());
    }
}
