//! The table of peers: what is known of each, which have a session, and who is dialled when.
//!
//! No tasks and no clock: the moments are handed in, so that the rules can be tested alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::session::Session;
use crate::base::{PeerId, Rng};
use crate::store::{StoreError, codec};
use crate::wire::limits::ADDRS_MAX;
use crate::wire::{NodeRecord, Refusal, SignedRecord, Vector};

/// How long a peer may be silent before it is suspected.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(6);

/// How long a peer may be silent before its session is given up.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(15);

/// First pause after a failed dial; doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// Longest pause between two dials of one peer.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Most addresses kept for a peer: those of its record and as many that were seen.
const KNOWN_ADDRS_MAX: usize = 2 * ADDRS_MAX;

/// Largest encoded [`Remembered`].
const REMEMBERED_MAX_BYTES: usize = 256 << 10;

/// Everything known of one peer.
#[derive(Default)]
pub(super) struct Peer {
    /// Its newest verified record, with the form that others can verify.
    pub(super) record: Option<(NodeRecord, SignedRecord)>,
    /// Where it was reached or says that it is, the likeliest first.
    pub(super) addrs: Vec<SocketAddr>,
    pub(super) session: Option<Arc<Session>>,
    /// Whether its owner was told that the peer is up.
    pub(super) up: bool,
    /// Wall time of its last answer, milliseconds since 1970.
    pub(super) last_contact_ms: Option<u64>,
    pub(super) vector: Vector,
    pub(super) free_bytes: u64,
    pub(super) refusal: Option<Refusal>,
    pub(super) dial: Dial,
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
    pub(super) fn failed(&mut self, now: Duration, rng: &Rng) {
        let pause = BACKOFF_MIN
            .saturating_mul(1 << self.failures.min(10))
            .min(BACKOFF_MAX);
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
}

impl Remembered {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        codec::decode(bytes, REMEMBERED_MAX_BYTES)
    }
}

impl Peer {
    /// Puts an address at which the peer was met first in line, and says whether it is new.
    pub(super) fn met_at(&mut self, addr: SocketAddr) -> bool {
        let known = self.addrs.iter().position(|known| *known == addr);
        if let Some(at) = known {
            self.addrs.remove(at);
        }
        self.addrs.insert(0, addr);
        self.addrs.truncate(KNOWN_ADDRS_MAX);
        known.is_none()
    }

    /// Puts an address that did not lead to the peer last in line.
    pub(super) fn missed_at(&mut self, addr: SocketAddr) {
        if let Some(at) = self.addrs.iter().position(|known| *known == addr) {
            self.addrs.remove(at);
            self.addrs.push(addr);
        }
    }

    /// Takes a verified record where it is newer, and says whether it names a new address; the
    /// peer is dialled anew then.
    pub(super) fn learn(&mut self, record: NodeRecord, signed: SignedRecord) -> Learned {
        let known = self.record.as_ref().map_or(0, |(known, _)| known.signed_ms);
        if record.signed_ms <= known {
            return Learned::Nothing;
        }
        let mut learned = Learned::Record;
        for addr in record.addrs.iter().take(ADDRS_MAX) {
            if !self.addrs.contains(addr) && self.addrs.len() < KNOWN_ADDRS_MAX {
                self.addrs.push(*addr);
                learned = Learned::Address;
            }
        }
        if learned == Learned::Address && self.session.is_none() {
            self.backoff.reset();
        }
        self.free_bytes = record.free_bytes;
        self.record = Some((record, signed));
        learned
    }

    /// Tells whether the peer is to be dialled now.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.session.is_none()
            && self.dial == Dial::Idle
            && !self.addrs.is_empty()
            && self.backoff.is_due(now)
    }

    /// Takes note of a dial that led to no session.
    pub(super) fn dial_failed(&mut self, now: Duration, rng: &Rng) {
        self.dial = Dial::Idle;
        self.backoff.failed(now, rng);
    }

    /// Lets the next dial come at once.
    pub(super) fn dial_soon(&mut self) {
        self.backoff.reset();
    }

    /// Returns what is worth remembering.
    pub(super) fn remember(&self) -> Remembered {
        Remembered {
            addrs: self.addrs.clone(),
            last_contact_ms: self.last_contact_ms,
            record: self.record.as_ref().map(|(_, signed)| signed.clone()),
            vector: self.vector.clone(),
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

/// An address that the owner named, at which nobody is known yet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seed {
    /// Who was found there last.
    pub(super) found: Option<PeerId>,
    pub(super) dialling: bool,
    pub(super) backoff: Backoff,
}

/// The peers of the roster (without this one) and the seeds.
#[derive(Default)]
pub(super) struct PeerTable {
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) seeds: BTreeMap<SocketAddr, Seed>,
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
        due.map(|peer| peer.dial = Dial::Connecting).is_some()
    }

    /// Returns the seeds to be dialled now: those where nobody with a session was found.
    pub(super) fn due_seeds(&self, now: Duration) -> Vec<SocketAddr> {
        let seeds = self.seeds.iter().filter(|(addr, seed)| {
            let reached = match &seed.found {
                Some(peer) => self.peers.get(peer).is_some_and(|p| p.session.is_some()),
                None => self.sessions_at(addr),
            };
            !reached && !seed.dialling && seed.backoff.is_due(now)
        });
        seeds.map(|(addr, _)| *addr).collect()
    }

    fn sessions_at(&self, addr: &SocketAddr) -> bool {
        let mut sessions = self.peers.values().filter_map(|peer| peer.session.as_ref());
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
            backoff.failed(Duration::ZERO, &rng);
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
    fn addresses_are_bounded_and_the_last_that_worked_comes_first() {
        let mut peer = Peer::default();
        for port in 0..100 {
            assert!(peer.met_at(addr(port)));
        }
        assert_eq!(peer.addrs.len(), KNOWN_ADDRS_MAX);
        assert!(!peer.met_at(addr(95)));
        assert_eq!(peer.addrs[0], addr(95));
        peer.missed_at(addr(95));
        assert_eq!(*peer.addrs.last().unwrap(), addr(95));
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
        assert!(peer.is_due(now));
        peer.dial_failed(now, &rng);
        assert!(!peer.is_due(now));
        assert_eq!(learn(&mut peer, 2, 1), Learned::Record);
        assert!(!peer.is_due(now));
        assert_eq!(learn(&mut peer, 2, 2), Learned::Nothing);
        assert_eq!(learn(&mut peer, 3, 2), Learned::Address);
        assert!(peer.is_due(now));
    }
}
