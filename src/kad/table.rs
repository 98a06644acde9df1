//! The routing table: many contacts near the local key, few far away.

use std::time::Duration;

use super::{Contact, Distance, KBucket, Key, Seen};
use crate::base::{PeerId, Rng};

/// The contacts of one peer, in a bucket for each bit of distance.
///
/// The driver reports every sign of life with [`RoutingTable::seen`], every unanswered request with
/// [`RoutingTable::failed`], and looks up [`RoutingTable::refresh_key`] of the buckets that
/// [`RoutingTable::stale`] names, so that quiet parts of the space stay known.
#[derive(Debug, Clone)]
pub struct RoutingTable {
    local: PeerId,
    buckets: Vec<Slot>,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    bucket: KBucket,
    /// When a contact was seen or a lookup went through here.
    used: Duration,
}

impl RoutingTable {
    /// Returns the empty table of a peer.
    pub fn new(local: PeerId) -> Self {
        Self {
            local,
            buckets: vec![Slot::default(); Key::BITS],
        }
    }

    /// Returns the peer whose table this is.
    pub fn local(&self) -> PeerId {
        self.local
    }

    /// Takes note that a contact was heard from.
    pub fn seen(&mut self, contact: Contact, now: Duration) -> Seen {
        match self.slot_mut(&contact.peer) {
            Some(slot) => {
                slot.used = now;
                slot.bucket.seen(contact, now)
            }
            None => Seen::Local,
        }
    }

    /// Takes note that a contact did not answer; returns it where that cost it its place.
    pub fn failed(&mut self, peer: &PeerId) -> Option<Contact> {
        self.slot_mut(peer)?.bucket.failed(peer)
    }

    /// Takes a contact out, as for a member that was removed.
    pub fn remove(&mut self, peer: &PeerId) -> Option<Contact> {
        self.slot_mut(peer)?.bucket.remove(peer)
    }

    /// Returns the contact of a peer.
    pub fn contact(&self, peer: &PeerId) -> Option<&Contact> {
        let index = self.distance(peer).bucket_index()?;
        self.buckets.get(index)?.bucket.contact(peer)
    }

    /// Returns all contacts, from the nearest bucket to the farthest.
    pub fn contacts(&self) -> impl Iterator<Item = &Contact> {
        self.buckets.iter().flat_map(|slot| slot.bucket.contacts())
    }

    /// Returns how many contacts there are.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|slot| slot.bucket.len()).sum()
    }

    /// Says whether there is no contact.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|slot| slot.bucket.is_empty())
    }

    /// Returns up to `count` contacts, the closest to `target` first; never the local peer.
    ///
    /// Only the buckets that are needed are looked at. With d the distance from the local key to
    /// the target, the contacts of bucket i are nearer to the target than the local peer where bit
    /// i of d is set, the higher i the nearer; elsewhere they are farther, the higher i the farther.
    pub fn closest(&self, target: &Key, count: usize) -> Vec<Contact> {
        let distance = Key::from(self.local).distance(target);
        let nearer = (0..Key::BITS).rev().filter(|index| distance.bit(*index));
        let farther = (0..Key::BITS).filter(|index| !distance.bit(*index));
        let mut closest = Vec::new();
        for index in nearer.chain(farther) {
            if closest.len() >= count {
                break;
            }
            let Some(slot) = self.buckets.get(index) else {
                continue;
            };
            let mut contacts: Vec<_> = slot.bucket.contacts().cloned().collect();
            contacts.sort_by_key(|contact| contact.key().distance(target));
            closest.extend(contacts);
        }
        closest.truncate(count);
        closest
    }

    /// Takes note that a lookup for `target` was made: its bucket is fresh.
    pub fn looked_up(&mut self, target: &Key, now: Duration) {
        let index = Key::from(self.local).distance(target).bucket_index();
        if let Some(slot) = index.and_then(|index| self.buckets.get_mut(index)) {
            slot.used = now;
        }
    }

    /// Returns the buckets that nothing touched for `age`, from the nearest that holds a contact to
    /// the farthest; those nearer than that are covered by looking up the local key.
    pub fn stale(&self, now: Duration, age: Duration) -> Vec<usize> {
        let nearest = self
            .buckets
            .iter()
            .position(|slot| !slot.bucket.is_empty())
            .unwrap_or(Key::BITS);
        (nearest..Key::BITS)
            .filter(|index| {
                self.buckets
                    .get(*index)
                    .is_some_and(|slot| now.saturating_sub(slot.used) >= age)
            })
            .collect()
    }

    /// Returns a random key to look up, to refresh a bucket that [`RoutingTable::stale`] named.
    ///
    /// # Panics
    ///
    /// Where there is no such bucket.
    pub fn refresh_key(&self, bucket: usize, rng: &Rng) -> Key {
        Key::from(self.local).random_in_bucket(bucket, rng)
    }

    fn distance(&self, peer: &PeerId) -> Distance {
        Key::from(self.local).distance(&Key::from(*peer))
    }

    fn slot_mut(&mut self, peer: &PeerId) -> Option<&mut Slot> {
        let index = self.distance(peer).bucket_index()?;
        self.buckets.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::Rng;
    use crate::kad::K;

    fn contact(id: [u8; 32]) -> Contact {
        Contact::new(PeerId(id), [])
    }

    /// Ids that share a prefix with each other, so that near buckets are filled, too.
    fn id() -> impl Strategy<Value = [u8; 32]> {
        (any::<[u8; 32]>(), 0usize..32).prop_map(|(mut id, shared)| {
            id[..shared].fill(0);
            id
        })
    }

    proptest! {
        #[test]
        fn closest_first_equals_brute_force(
            local in id(),
            ids in prop::collection::vec(id(), 0..300),
            target in id(),
            count in 0usize..50,
        ) {
            let mut table = RoutingTable::new(PeerId(local));
            for (time, id) in ids.into_iter().enumerate() {
                table.seen(contact(id), Duration::from_secs(time as u64));
            }
            let target = Key::new(target);
            let mut all: Vec<_> = table.contacts().cloned().collect();
            all.sort_by_key(|contact| contact.key().distance(&target));
            all.truncate(count);
            prop_assert_eq!(table.closest(&target, count), all);
        }

        #[test]
        fn every_contact_is_in_the_bucket_of_its_distance(
            local in id(),
            ids in prop::collection::vec(id(), 0..300),
        ) {
            let mut table = RoutingTable::new(PeerId(local));
            for id in &ids {
                table.seen(contact(*id), Duration::ZERO);
            }
            for (index, slot) in table.buckets.iter().enumerate() {
                prop_assert!(slot.bucket.len() <= K);
                for contact in slot.bucket.contacts() {
                    prop_assert_eq!(table.distance(&contact.peer).bucket_index(), Some(index));
                    prop_assert_eq!(table.contact(&contact.peer), Some(contact));
                }
            }
        }
    }

    #[test]
    fn the_local_peer_has_no_place_in_its_table() {
        let mut table = RoutingTable::new(PeerId([1; 32]));
        assert_eq!(table.seen(contact([1; 32]), Duration::ZERO), Seen::Local);
        assert!(table.is_empty() && table.failed(&PeerId([1; 32])).is_none());
    }

    #[test]
    fn quiet_buckets_are_refreshed_by_a_key_of_their_own() {
        let hour = Duration::from_secs(3600);
        let rng = Rng::from_seed(5);
        let mut table = RoutingTable::new(PeerId([0; 32]));
        assert!(table.stale(hour, hour).is_empty());
        let near = Key::new([0; 32]).random_in_bucket(250, &rng);
        table.seen(contact(*near.as_bytes()), hour);
        assert_eq!(table.stale(hour, hour), [251, 252, 253, 254, 255]);
        for bucket in table.stale(hour, hour) {
            let target = table.refresh_key(bucket, &rng);
            table.looked_up(&target, hour);
        }
        assert!(table.stale(hour, hour).is_empty());
        assert_eq!(table.stale(hour * 2, hour).len(), 6);
    }
}
