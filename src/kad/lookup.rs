//! The iterative lookup: asks ever closer peers until the closest have answered.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ALPHA, Contact, Distance, K, Key};
use crate::base::PeerId;

/// How long a peer is waited for before the next is asked in its place; a late answer counts still.
const PATIENCE: Duration = Duration::from_secs(2);

/// Contacts taken from one answer; a well-behaved peer sends no more.
const CLOSER_MAX: usize = K;

/// Peers asked by one lookup. In a swarm of n peers about log2(n) + K are needed: 40 for a million.
const ASKED_MAX: usize = 8 * K;

/// Peers kept besides those asked; farther ones than these cannot become results.
const CANDIDATES_MAX: usize = 8 * K;

/// Finds the K live peers closest to a key.
///
/// The driver calls [`Lookup::next`] and does what it says until it says [`Next::Done`]. Each
/// [`Next::Ask`] is answered by one [`Lookup::on_success`] or [`Lookup::on_failure`]; both are
/// welcome at any later time, too.
#[derive(Debug, Clone)]
pub struct Lookup {
    target: Key,
    local: PeerId,
    peers: BTreeMap<Distance, Entry>,
    asked: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    contact: Contact,
    state: PeerState,
}

/// Where a peer is in the lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PeerState {
    /// It was named and not asked yet.
    Named,
    /// It was asked and is waited for until the deadline.
    Waiting { until: Duration },
    /// Its deadline passed. It takes no place among the asked any more; it may still answer.
    Overdue,
    /// It answered; final.
    Answered,
    /// It was not reached; an answer that comes yet counts.
    Failed,
}

/// What the driver of a lookup does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Ask this contact for the peers closest to the target, then call [`Lookup::next`] again.
    Ask(Contact),
    /// Wait for an answer, at most until this point of the driver's clock.
    Wait {
        /// When the first of the asked is overdue.
        until: Duration,
    },
    /// The lookup is over; [`Lookup::closest`] has its result.
    Done,
}

impl Lookup {
    /// Starts a lookup of `target` from the contacts that `local` knows to be closest.
    pub fn new(local: PeerId, target: Key, seeds: impl IntoIterator<Item = Contact>) -> Self {
        let mut lookup = Self {
            target,
            local,
            peers: BTreeMap::new(),
            asked: 0,
        };
        lookup.learn(seeds.into_iter().take(CANDIDATES_MAX));
        lookup
    }

    /// Returns what is looked up.
    pub fn target(&self) -> Key {
        self.target
    }

    /// Says what to do at `now`, of a clock that never goes back.
    pub fn next(&mut self, now: Duration) -> Next {
        let mut waiting = 0;
        let mut first_until: Option<Duration> = None;
        for entry in self.peers.values_mut() {
            if let PeerState::Waiting { until } = entry.state {
                if until <= now {
                    entry.state = PeerState::Overdue;
                } else {
                    waiting += 1;
                    first_until = Some(first_until.map_or(until, |first| first.min(until)));
                }
            }
        }
        if let (true, Some(ask)) = (waiting < ALPHA && self.asked < ASKED_MAX, self.next_named()) {
            ask.state = PeerState::Waiting {
                until: now + PATIENCE,
            };
            let contact = ask.contact.clone();
            self.asked += 1;
            return Next::Ask(contact);
        }
        // Those that are waited for may be, or name, closer ones than those that answered.
        match first_until {
            Some(until) => Next::Wait { until },
            None => Next::Done,
        }
    }

    /// Takes the answer of a peer: the contacts that it knows to be closest.
    pub fn on_success(&mut self, peer: &PeerId, closer: impl IntoIterator<Item = Contact>) {
        let Some(entry) = self.entry(peer) else {
            return;
        };
        if matches!(entry.state, PeerState::Named | PeerState::Answered) {
            // Not asked, or heard before.
            return;
        }
        entry.state = PeerState::Answered;
        self.learn(closer.into_iter().take(CLOSER_MAX));
    }

    /// Takes note that a peer was not reached.
    pub fn on_failure(&mut self, peer: &PeerId) {
        if let Some(entry) = self.entry(peer)
            && matches!(entry.state, PeerState::Waiting { .. } | PeerState::Overdue)
        {
            entry.state = PeerState::Failed;
        }
    }

    /// Returns the peers that answered, at most K of them, the closest first.
    pub fn closest(&self) -> Vec<Contact> {
        self.peers
            .values()
            .filter(|entry| entry.state == PeerState::Answered)
            .take(K)
            .map(|entry| entry.contact.clone())
            .collect()
    }

    /// Returns how many peers were asked.
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// Returns the closest peer worth asking: named, and with fewer than K closer ones that
    /// answered or still may.
    fn next_named(&mut self) -> Option<&mut Entry> {
        let mut closer = 0;
        for entry in self.peers.values_mut() {
            match entry.state {
                _ if closer == K => return None,
                PeerState::Named => return Some(entry),
                PeerState::Waiting { .. } | PeerState::Answered => closer += 1,
                PeerState::Overdue | PeerState::Failed => {}
            }
        }
        None
    }

    fn entry(&mut self, peer: &PeerId) -> Option<&mut Entry> {
        let distance = self.target.distance(&Key::from(*peer));
        self.peers.get_mut(&distance)
    }

    /// Adds contacts that are new, and forgets the farthest that were never asked.
    fn learn(&mut self, contacts: impl Iterator<Item = Contact>) {
        for contact in contacts {
            if contact.peer == self.local {
                continue;
            }
            let distance = self.target.distance(&contact.key());
            // What is known of a peer stays: an answer must not put another's addresses in.
            self.peers.entry(distance).or_insert_with(|| Entry {
                contact: Contact::new(contact.peer, contact.addrs),
                state: PeerState::Named,
            });
        }
        while self.peers.len() > CANDIDATES_MAX + self.asked {
            let farthest = self
                .peers
                .iter()
                .rev()
                .find(|(_, entry)| entry.state == PeerState::Named)
                .map(|(distance, _)| *distance);
            let Some(farthest) = farthest else { return };
            self.peers.remove(&farthest);
        }
    }
}

#[cfg(test)]
mod tests;
