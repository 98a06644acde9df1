//! The records that this peer keeps for the swarm.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Distance, Key, Record, RecordError, RecordKind};
use crate::base::PeerId;
use crate::crypto::PublicIdentity;

/// A bounded, expiring store of verified records, in memory.
///
/// When it is full, records close to the local peer displace farther ones: those are its to keep,
/// as lookups for them end here.
#[derive(Debug, Clone)]
pub struct RecordStore {
    local: Key,
    capacity: usize,
    /// By distance from the local peer, so that the last is the first to go.
    records: BTreeMap<Distance, Record>,
}

/// What became of a record that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is new, or newer than the one that it replaces.
    Stored,
    /// It was here already.
    Known,
}

impl RecordStore {
    /// Most records kept by default: with 1 KiB values 4 MiB.
    pub const CAPACITY: usize = 4096;

    /// Longest time that a record may count from now on; authors sign a new one well before.
    pub const LIFETIME_MAX: Duration = Duration::from_secs(48 * 3600);

    /// Returns an empty store of a peer for up to `capacity` records.
    pub fn new(local: PeerId, capacity: usize) -> Self {
        Self {
            local: local.into(),
            capacity,
            records: BTreeMap::new(),
        }
    }

    /// Keeps a record after checking everything about it. `author` was checked before; `now_ms` is
    /// the time of day in milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// All of [`RecordError`] but `Malformed` and `TooNew`; nothing is changed then.
    pub fn put(
        &mut self,
        record: Record,
        author: &PublicIdentity,
        now_ms: u64,
    ) -> Result<Put, RecordError> {
        if record.expires_ms() <= now_ms {
            return Err(RecordError::Expired);
        }
        let lifetime_max_ms = u64::try_from(Self::LIFETIME_MAX.as_millis()).unwrap_or(u64::MAX);
        if record.expires_ms() - now_ms > lifetime_max_ms {
            return Err(RecordError::TooLasting);
        }
        let distance = self.local.distance(&record.key());
        if let Some(known) = self.records.get(&distance) {
            if *known == record {
                return Ok(Put::Known);
            }
            if known.rank() >= record.rank() {
                return Err(RecordError::Stale {
                    seq: record.seq(),
                    known: known.seq(),
                });
            }
        }
        // Last, as it is the dearest.
        record.verify(author)?;
        if !self.records.contains_key(&distance) {
            self.make_place(distance, now_ms)?;
        }
        self.records.insert(distance, record);
        Ok(Put::Stored)
    }

    /// Returns the record of an author on a matter, unless its time is over.
    pub fn get(&self, author: &PeerId, kind: RecordKind, now_ms: u64) -> Option<&Record> {
        self.get_key(&Record::key_of(author, kind), now_ms)
    }

    /// Returns the record at a key, unless its time is over.
    pub fn get_key(&self, key: &Key, now_ms: u64) -> Option<&Record> {
        self.records
            .get(&self.local.distance(key))
            .filter(|record| record.expires_ms() > now_ms)
    }

    /// Returns the records whose time is not over, closest to the local peer first: those to
    /// replicate.
    pub fn records(&self, now_ms: u64) -> impl Iterator<Item = &Record> {
        self.records
            .values()
            .filter(move |record| record.expires_ms() > now_ms)
    }

    /// Forgets what expired; returns how many records that were.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let before = self.records.len();
        self.records
            .retain(|_, record| record.expires_ms() > now_ms);
        before - self.records.len()
    }

    /// Forgets all records of an author, as for a member that was removed.
    pub fn remove_author(&mut self, author: &PeerId) {
        self.records.retain(|_, record| record.author() != *author);
    }

    /// Returns how many records are held, expired ones included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Says whether none is held.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Makes sure that one more record at `distance` fits.
    fn make_place(&mut self, distance: Distance, now_ms: u64) -> Result<(), RecordError> {
        if self.records.len() < self.capacity || self.expire(now_ms) > 0 {
            return Ok(());
        }
        match self.records.last_entry() {
            Some(farthest) if *farthest.key() > distance => {
                farthest.remove();
                Ok(())
            }
            _ => Err(RecordError::Full),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::OnceLock;

    use bytes::Bytes;

    use super::*;
    use crate::base::Rng;
    use crate::crypto::Identity;

    pub(crate) fn identity(index: usize) -> &'static Identity {
        static IDENTITIES: [OnceLock<Identity>; 3] = [const { OnceLock::new() }; 3];
        IDENTITIES[index].get_or_init(|| Identity::generate(&Rng::from_seed(index as u64)).unwrap())
    }

    const NOW_MS: u64 = 1_000_000;

    fn record(author: usize, seq: u64, value: &'static str) -> Record {
        let value = Bytes::from_static(value.as_bytes());
        let expires_ms = NOW_MS + 1000;
        Record::sign(identity(author), RecordKind::Node, seq, expires_ms, value).unwrap()
    }

    fn put(store: &mut RecordStore, record: Record) -> Result<Put, RecordError> {
        let author = (0..3)
            .map(|index| identity(index).public())
            .find(|identity| identity.id() == record.author())
            .unwrap();
        store.put(record, &author, NOW_MS)
    }

    #[test]
    fn the_newest_record_counts_whatever_the_order() {
        let records = [
            record(0, 1, "one"),
            record(0, 2, "two"),
            record(0, 2, "tie"),
        ];
        let mut winners = Vec::new();
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut store = RecordStore::new(PeerId([0; 32]), 10);
            for index in order {
                let _ = put(&mut store, records[index].clone());
            }
            let author = identity(0).id();
            let winner = store.get(&author, RecordKind::Node, NOW_MS).unwrap();
            assert_eq!(winner.seq(), 2);
            winners.push(winner.clone());
        }
        winners.dedup();
        assert_eq!(winners.len(), 1);
    }

    #[test]
    fn the_same_record_is_known_and_an_older_one_is_stale() {
        let mut store = RecordStore::new(PeerId([0; 32]), 10);
        assert_eq!(put(&mut store, record(0, 5, "five")), Ok(Put::Stored));
        assert_eq!(put(&mut store, record(0, 5, "five")), Ok(Put::Known));
        let stale = RecordError::Stale { seq: 4, known: 5 };
        assert_eq!(put(&mut store, record(0, 4, "four")), Err(stale));
        assert_eq!(put(&mut store, record(0, 6, "six")), Ok(Put::Stored));
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn nobody_writes_for_another() {
        let mut store = RecordStore::new(PeerId([0; 32]), 10);
        let refused = store.put(record(0, 1, "mine"), &identity(1).public(), NOW_MS);
        assert!(matches!(refused, Err(RecordError::Unauthentic(_))));
        let mut forged = record(0, 1, "mine").encode();
        let at = forged.len() - 66;
        forged[at] ^= 1;
        let forged = Record::decode(&forged).unwrap();
        let refused = put(&mut store, forged);
        assert!(matches!(refused, Err(RecordError::Unauthentic(_))));
        assert!(store.is_empty());
    }

    #[test]
    fn records_expire_and_may_not_last_for_ever() {
        let mut store = RecordStore::new(PeerId([0; 32]), 10);
        let author = identity(0);
        put(&mut store, record(0, 1, "soon")).unwrap();
        let late_ms = NOW_MS + 1000;
        assert!(
            store
                .get(&author.id(), RecordKind::Node, late_ms - 1)
                .is_some()
        );
        assert!(store.get(&author.id(), RecordKind::Node, late_ms).is_none());
        assert_eq!(store.records(late_ms).count(), 0);
        let late = store.put(record(0, 2, "late"), &author.public(), late_ms);
        assert_eq!(late, Err(RecordError::Expired));
        assert_eq!((store.expire(late_ms), store.len()), (1, 0));

        let lasting = Record::sign(author, RecordKind::Node, 1, u64::MAX, Bytes::new()).unwrap();
        assert_eq!(put(&mut store, lasting), Err(RecordError::TooLasting));
    }

    #[test]
    fn a_full_store_keeps_what_is_closest() {
        let records = [record(0, 1, "a"), record(1, 1, "b"), record(2, 1, "c")];
        let local = PeerId([0x5a; 32]);
        let mut by_distance = records.to_vec();
        by_distance.sort_by_key(|record| Key::from(local).distance(&record.key()));
        let mut store = RecordStore::new(local, 2);
        put(&mut store, by_distance[1].clone()).unwrap();
        put(&mut store, by_distance[2].clone()).unwrap();
        assert_eq!(put(&mut store, by_distance[0].clone()), Ok(Put::Stored));
        assert_eq!(
            put(&mut store, by_distance[2].clone()),
            Err(RecordError::Full)
        );
        let kept: Vec<_> = store.records(NOW_MS).cloned().collect();
        assert_eq!(kept, by_distance[..2]);
        let newer = Record::sign(
            (0..3)
                .map(identity)
                .find(|author| author.id() == kept[1].author())
                .unwrap(),
            RecordKind::Node,
            2,
            NOW_MS + 1,
            Bytes::new(),
        );
        assert_eq!(put(&mut store, newer.unwrap()), Ok(Put::Stored));
        store.remove_author(&kept[0].author());
        assert_eq!(store.len(), 1);
    }
}
