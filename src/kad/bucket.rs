//! One bucket: contacts at like distance, the least recently seen first.

use std::time::Duration;

use super::{Contact, FAILURES_MAX, K};
use crate::base::PeerId;

/// Up to K contacts, and one that waits for a place.
///
/// Contacts that stayed long are likely to stay on, so a full bucket gives a place away only when
/// its least recently seen contact does not answer: nobody can flush a table with new identities.
#[derive(Debug, Clone, Default)]
pub struct KBucket {
    /// Least recently seen first.
    entries: Vec<Entry>,
    pending: Option<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    contact: Contact,
    seen: Duration,
    failures: u32,
}

/// What became of a contact that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It was known, and counts as the most recently seen now.
    Refreshed,
    /// It has a place now.
    Added,
    /// It took the place of a contact that had failed to answer.
    Replaced(PeerId),
    /// The bucket is full. The caller asks `check` for a sign of life, and reports what comes of
    /// it as seen or failed; that decides between the two.
    Pending {
        /// The least recently seen contact.
        check: Contact,
    },
    /// It is the local peer, which no bucket holds.
    Local,
}

impl KBucket {
    /// Takes note that a contact was heard from, at `now` of any clock that never goes back.
    pub fn seen(&mut self, contact: Contact, now: Duration) -> Seen {
        let entry = Entry {
            contact,
            seen: now,
            failures: 0,
        };
        let peer = entry.contact.peer;
        if let Some(at) = self.position(&peer) {
            self.entries.remove(at);
            self.entries.push(entry);
            if at == 0 {
                // The one that was to be checked lives, so it stays.
                self.pending = None;
            }
            return Seen::Refreshed;
        }
        if self.entries.len() < K {
            self.forget_pending(&peer);
            self.entries.push(entry);
            return Seen::Added;
        }
        if let Some(at) = self.entries.iter().position(|entry| entry.failures > 0) {
            let evicted = self.entries.remove(at);
            self.forget_pending(&peer);
            self.entries.push(entry);
            return Seen::Replaced(evicted.contact.peer);
        }
        let Some(oldest) = self.entries.first() else {
            unreachable!("a full bucket has a first entry");
        };
        let check = oldest.contact.clone();
        self.pending = Some(entry);
        Seen::Pending { check }
    }

    /// Takes note that a contact did not answer; returns it where that cost it its place.
    pub fn failed(&mut self, peer: &PeerId) -> Option<Contact> {
        self.forget_pending(peer);
        let at = self.position(peer)?;
        let entry = self.entries.get_mut(at)?;
        entry.failures += 1;
        if self.pending.is_none() && entry.failures < FAILURES_MAX {
            return None;
        }
        self.remove(peer)
    }

    /// Takes a contact out; the pending one takes the place.
    pub fn remove(&mut self, peer: &PeerId) -> Option<Contact> {
        self.forget_pending(peer);
        let at = self.position(peer)?;
        let removed = self.entries.remove(at);
        if let Some(pending) = self.pending.take() {
            let at = self
                .entries
                .partition_point(|entry| entry.seen <= pending.seen);
            self.entries.insert(at, pending);
        }
        Some(removed.contact)
    }

    /// Returns the contact of a peer.
    pub fn contact(&self, peer: &PeerId) -> Option<&Contact> {
        Some(&self.entries.get(self.position(peer)?)?.contact)
    }

    /// Returns the contacts, the least recently seen first.
    pub fn contacts(&self) -> impl Iterator<Item = &Contact> {
        self.entries.iter().map(|entry| &entry.contact)
    }

    /// Returns the contact that waits for a place.
    pub fn pending(&self) -> Option<&Contact> {
        self.pending.as_ref().map(|entry| &entry.contact)
    }

    /// Returns how many contacts have a place: at most K.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Says whether no contact has a place.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, peer: &PeerId) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| entry.contact.peer == *peer)
    }

    fn forget_pending(&mut self, peer: &PeerId) {
        if self.pending().is_some_and(|contact| contact.peer == *peer) {
            self.pending = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contact(number: u8) -> Contact {
        Contact::new(PeerId([number; 32]), [([10, 0, 0, number], 4750).into()])
    }

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn full() -> KBucket {
        let mut bucket = KBucket::default();
        for number in 0..K as u8 {
            assert_eq!(
                bucket.seen(contact(number), at(u64::from(number))),
                Seen::Added
            );
        }
        bucket
    }

    #[test]
    fn a_full_bucket_checks_its_oldest_and_keeps_it_when_it_answers() {
        let mut bucket = full();
        let seen = bucket.seen(contact(100), at(100));
        assert_eq!(seen, Seen::Pending { check: contact(0) });
        assert_eq!(bucket.pending(), Some(&contact(100)));
        assert_eq!(bucket.seen(contact(0), at(101)), Seen::Refreshed);
        assert_eq!(bucket.pending(), None);
        assert_eq!(bucket.contacts().next(), Some(&contact(1)));
        assert_eq!(bucket.contacts().last(), Some(&contact(0)));
    }

    #[test]
    fn an_oldest_that_does_not_answer_makes_place() {
        let mut bucket = full();
        bucket.seen(contact(100), at(100));
        assert_eq!(bucket.failed(&PeerId([0; 32])), Some(contact(0)));
        assert_eq!(bucket.contact(&PeerId([100; 32])), Some(&contact(100)));
        assert_eq!((bucket.len(), bucket.pending()), (K, None));
    }

    #[test]
    fn a_doubtful_contact_yields_at_once_and_leaves_after_three_failures() {
        let mut bucket = full();
        assert_eq!(bucket.failed(&PeerId([7; 32])), None);
        let seen = bucket.seen(contact(100), at(100));
        assert_eq!(seen, Seen::Replaced(PeerId([7; 32])));
        for _ in 0..FAILURES_MAX - 1 {
            assert_eq!(bucket.failed(&PeerId([8; 32])), None);
        }
        assert_eq!(bucket.failed(&PeerId([8; 32])), Some(contact(8)));
        assert_eq!(bucket.len(), K - 1);
    }

    #[test]
    fn an_answer_clears_failures_and_brings_new_addresses() {
        let mut bucket = full();
        bucket.failed(&PeerId([7; 32]));
        bucket.failed(&PeerId([7; 32]));
        let moved = Contact::new(PeerId([7; 32]), [([10, 9, 9, 9], 1).into()]);
        assert_eq!(bucket.seen(moved.clone(), at(50)), Seen::Refreshed);
        assert_eq!(bucket.failed(&PeerId([7; 32])), None);
        assert_eq!(bucket.contact(&PeerId([7; 32])), Some(&moved));
    }

    proptest! {
        #[test]
        fn buckets_never_exceed_k_nor_hold_a_peer_twice(
            events in prop::collection::vec((0u8..60, 0u8..4), 0..400),
        ) {
            let mut bucket = KBucket::default();
            for (time, (number, event)) in events.into_iter().enumerate() {
                match event {
                    0 => { bucket.failed(&PeerId([number; 32])); }
                    1 if number % 8 == 0 => { bucket.remove(&PeerId([number; 32])); }
                    _ => { bucket.seen(contact(number), at(time as u64)); }
                }
                let mut peers: Vec<_> = bucket.contacts().map(|contact| contact.peer).collect();
                peers.extend(bucket.pending().map(|contact| contact.peer));
                let held = peers.len();
                peers.sort();
                peers.dedup();
                prop_assert_eq!(peers.len(), held);
                prop_assert!(bucket.len() <= K);
                prop_assert!(bucket.pending().is_none() || bucket.len() == K);
                prop_assert!(bucket.entries.is_sorted_by_key(|entry| entry.seen));
            }
        }
    }
}
