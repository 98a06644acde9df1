//! What members say of checkpoints, as this peer keeps it: the newest words of each, the one that counts,
//! and where logs go on behind those that somebody may ask for.
//!
//! Whose word may be believed, and when enough of them say the same, others judge.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use super::LogError;
use super::checkpoint::{Checkpoint, LogStarts, SignedCheckpoint};
use crate::base::DeviceId;
use crate::store::{Batch, Rows, Table, codec};

/// Words that are kept of one member: an hour apart they reach back over most of a day.
const WORDS_OF_ONE_MAX: usize = 16;

/// Lists of starts that are kept at once; each is 1.8 MiB at most.
const STARTS_KEPT_MAX: usize = 8;

const COUNTED_KEY: &[u8] = b"c";
const WORD_TAG: u8 = b'w';
const STARTS_TAG: u8 = b's';

/// Largest encoded [`Checkpoint`].
const CHECKPOINT_MAX_BYTES: usize = 128;

/// The words of members on checkpoints, in the rows of a store.
#[derive(Debug)]
pub struct Checkpoints {
    rows: Arc<dyn Rows>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By member and number of the record; of two for one record the smaller, so that all keep the same.
    words: BTreeMap<(DeviceId, u64), SignedCheckpoint>,
    /// The newest that counts.
    counted: Option<Checkpoint>,
    /// The lists that are here.
    starts: BTreeSet<[u8; 32]>,
}

impl Checkpoints {
    /// Opens what lies in the rows of a store. What cannot be read is dropped: others hand it on again.
    pub fn open(rows: Arc<dyn Rows>) -> Result<Self, LogError> {
        let mut state = State::default();
        let mut bad = Batch::new();
        rows.scan(Table::Checkpoint, &[], None, &mut |key, value| {
            match key.split_first() {
                Some((&WORD_TAG, _)) if let Ok(word) = SignedCheckpoint::from_bytes(value) => {
                    state.words.insert(key_of(&word), word);
                }
                Some((&STARTS_TAG, hash)) if let Ok(hash) = hash.try_into() => {
                    state.starts.insert(hash);
                }
                _ if key == COUNTED_KEY => {
                    state.counted = codec::decode(value, CHECKPOINT_MAX_BYTES).ok();
                }
                _ => bad.delete(Table::Checkpoint, key),
            }
            ControlFlow::Continue(())
        })?;
        if !bad.is_empty() {
            rows.commit(bad)?;
        }
        Ok(Self {
            rows,
            state: Mutex::new(state),
        })
    }

    /// Returns all words, each as one member said it.
    pub fn words(&self) -> Vec<SignedCheckpoint> {
        self.state.lock().words.values().cloned().collect()
    }

    /// Says whether a word is here, or another one is kept in its place.
    pub fn knows(&self, word: &SignedCheckpoint) -> bool {
        let state = self.state.lock();
        let is_old = state.is_below(word);
        let known = state.words.get(&key_of(word));
        is_old || known.is_some_and(|known| rank(known) <= rank(word))
    }

    /// Returns what tells two peers apart that know different words.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("dfs/1 words on checkpoints");
        for word in self.state.lock().words.values() {
            hasher.update(&word.to_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Keeps words that were found to be of members; durable on return. Says whether any was new.
    pub fn add(&self, words: Vec<SignedCheckpoint>) -> Result<bool, LogError> {
        let mut state = self.state.lock();
        let mut batch = Batch::new();
        let mut kept = state.words.clone();
        let mut any = false;
        for word in words {
            let key = key_of(&word);
            let known = kept.get(&key);
            if state.is_below(&word) || known.is_some_and(|known| rank(known) <= rank(&word)) {
                continue;
            }
            kept.insert(key, word);
            let of_one = kept.range((key.0, 0)..=(key.0, u64::MAX));
            let more = of_one.clone().count().saturating_sub(WORDS_OF_ONE_MAX);
            let old: Vec<_> = of_one.take(more).map(|(key, _)| *key).collect();
            any |= !old.contains(&key);
            kept.retain(|key, _| !old.contains(key));
        }
        if any {
            state.put_words(&mut batch, &kept);
            self.rows.commit(batch)?;
            state.words = kept;
            drop(state);
            self.rows.sync()?;
        }
        Ok(any)
    }

    /// Forgets what those said who are none of these any more.
    pub fn keep_of(&self, is_member: &dyn Fn(DeviceId) -> bool) -> Result<bool, LogError> {
        let mut state = self.state.lock();
        let mut kept = state.words.clone();
        kept.retain(|(device, _), _| is_member(*device));
        if kept.len() == state.words.len() {
            return Ok(false);
        }
        let mut batch = Batch::new();
        state.put_words(&mut batch, &kept);
        self.rows.commit(batch)?;
        state.words = kept;
        Ok(true)
    }

    /// Returns the newest checkpoint that counts.
    pub fn counted(&self) -> Option<Checkpoint> {
        self.state.lock().counted
    }

    /// Says that a checkpoint counts, from now on whoever joins: what is older is forgotten. Durable on
    /// return.
    pub fn count(&self, checkpoint: Checkpoint) -> Result<(), LogError> {
        let mut state = self.state.lock();
        let mut kept = state.words.clone();
        kept.retain(|(_, number), _| *number >= checkpoint.record.number);
        let mut batch = Batch::new();
        state.put_words(&mut batch, &kept);
        let asked: BTreeSet<[u8; 32]> = kept.values().map(|word| word.checkpoint.logs).collect();
        let useless = |hash: &[u8; 32]| *hash != checkpoint.logs && !asked.contains(hash);
        let useless: Vec<[u8; 32]> = state.starts.iter().copied().filter(useless).collect();
        for hash in &useless {
            batch.delete(Table::Checkpoint, starts_key(hash));
        }
        batch.put(Table::Checkpoint, COUNTED_KEY, codec::encode(&checkpoint));
        self.rows.commit(batch)?;
        state.words = kept;
        state.starts.retain(|hash| !useless.contains(hash));
        state.counted = Some(checkpoint);
        drop(state);
        Ok(self.rows.sync()?)
    }

    /// Says that none counts any more: this peer went over to another chain.
    pub fn count_none(&self) -> Result<(), LogError> {
        let mut state = self.state.lock();
        let mut batch = Batch::new();
        batch.delete(Table::Checkpoint, COUNTED_KEY);
        self.rows.commit(batch)?;
        state.counted = None;
        Ok(())
    }

    /// Keeps where logs go on behind a checkpoint of which somebody speaks; of the oldest lists one goes
    /// where there are too many.
    pub fn put_starts(&self, starts: &LogStarts) -> Result<(), LogError> {
        let hash = starts.hash();
        let mut state = self.state.lock();
        if state.starts.contains(&hash) {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.put(Table::Checkpoint, starts_key(&hash), starts.to_bytes());
        let mut gone = None;
        if state.starts.len() >= STARTS_KEPT_MAX {
            let counted = state.counted.map(|counted| counted.logs);
            let newest = |hash: &[u8; 32]| {
                let words = state.words.iter();
                let of_it = words.filter(|(_, word)| word.checkpoint.logs == *hash);
                of_it.map(|((_, number), _)| *number).max()
            };
            let spare = state.starts.iter().filter(|of| Some(**of) != counted);
            gone = spare.min_by_key(|hash| newest(hash)).copied();
        }
        if let Some(gone) = gone {
            batch.delete(Table::Checkpoint, starts_key(&gone));
        }
        self.rows.commit(batch)?;
        state.starts.insert(hash);
        state.starts.retain(|hash| Some(*hash) != gone);
        Ok(())
    }

    /// Returns the list of a hash, `None` where it is not here or damaged.
    pub fn starts(&self, hash: &[u8; 32]) -> Result<Option<LogStarts>, LogError> {
        if !self.state.lock().starts.contains(hash) {
            return Ok(None);
        }
        let bytes = self.rows.get(Table::Checkpoint, &starts_key(hash))?;
        let starts = bytes.and_then(|bytes| LogStarts::from_bytes(&bytes).ok());
        Ok(starts.filter(|starts| starts.hash() == *hash))
    }
}

impl State {
    fn is_below(&self, word: &SignedCheckpoint) -> bool {
        let number = word.checkpoint.record.number;
        let counted = self.counted.as_ref();
        counted.is_some_and(|counted| number < counted.record.number)
    }

    /// Puts what changes where others words are kept.
    fn put_words(&self, batch: &mut Batch, kept: &BTreeMap<(DeviceId, u64), SignedCheckpoint>) {
        for key in self.words.keys().filter(|key| !kept.contains_key(*key)) {
            batch.delete(Table::Checkpoint, word_key(*key));
        }
        for (key, word) in kept {
            if self.words.get(key) != Some(word) {
                batch.put(Table::Checkpoint, word_key(*key), word.to_bytes());
            }
        }
    }
}

fn key_of(word: &SignedCheckpoint) -> (DeviceId, u64) {
    (word.device, word.checkpoint.record.number)
}

/// Returns by what one of two words of one member at one record is kept.
fn rank(word: &SignedCheckpoint) -> Vec<u8> {
    word.to_bytes()
}

fn word_key((device, number): (DeviceId, u64)) -> Vec<u8> {
    let mut key = vec![WORD_TAG];
    key.extend_from_slice(&device.0.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn starts_key(hash: &[u8; 32]) -> Vec<u8> {
    let mut key = vec![STARTS_TAG];
    key.extend_from_slice(hash);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ChunkId, LogId, Stamp};
    use crate::crypto::Signature;
    use crate::log::checkpoint::{LogStart, Tree};
    use crate::store::Store;
    use crate::wire::RecordRef;

    fn word(device: u64, number: u64, rows: u8) -> SignedCheckpoint {
        SignedCheckpoint {
            device: DeviceId(device),
            checkpoint: Checkpoint {
                record: RecordRef {
                    era: 0,
                    number,
                    hash: [1; 32],
                },
                rows: [rows; 32],
                logs: [2; 32],
            },
            tree: Tree {
                root: ChunkId([3; 32]),
                len: 4,
                level: 5,
            },
            signature: Signature([6; 64]),
        }
    }

    fn open(store: &Store) -> Checkpoints {
        Checkpoints::open(Arc::clone(&store.rows)).unwrap()
    }

    #[test]
    fn all_who_heard_the_same_words_in_any_order_keep_the_same() {
        let many: Vec<_> = (1..=40).map(|number| word(1, number, 0)).collect();
        let words = [vec![word(2, 7, 9), word(2, 7, 8), word(3, 7, 8)], many].concat();
        let (store, other) = (Store::memory(), Store::memory());
        let (ours, theirs) = (open(&store), open(&other));
        assert!(ours.add(words.clone()).unwrap());
        for word in words.iter().rev() {
            theirs.add(vec![word.clone()]).unwrap();
        }
        assert_eq!(ours.words(), theirs.words());
        assert_eq!(ours.digest(), theirs.digest());
        assert!(!ours.add(words.clone()).unwrap());
        assert_eq!(ours.words().len(), WORDS_OF_ONE_MAX + 2);
        assert!(words[..3].iter().all(|word| ours.knows(word)));
        assert!(!ours.knows(&word(4, 7, 8)) && !ours.knows(&word(2, 7, 0)));
        let again = open(&store);
        assert_eq!(again.words(), ours.words());
        // Who is no member says nothing any more.
        assert!(again.keep_of(&|device| device != DeviceId(1)).unwrap());
        assert!(!again.keep_of(&|device| device != DeviceId(1)).unwrap());
        assert_eq!(open(&store).words(), [word(2, 7, 8), word(3, 7, 8)]);
    }

    #[test]
    fn what_counts_stays_and_what_is_older_goes() {
        let store = Store::memory();
        let words = open(&store);
        let all = [word(1, 5, 0), word(1, 6, 0), word(2, 6, 0), word(1, 7, 0)];
        words.add(all.to_vec()).unwrap();
        words.count(word(1, 6, 0).checkpoint).unwrap();
        for words in [words, open(&store)] {
            assert_eq!(words.words(), [&all[1], &all[3], &all[2]].map(Clone::clone));
            assert_eq!(words.counted(), Some(all[1].checkpoint));
            assert!(words.knows(&all[0]) && !words.add(vec![all[0].clone()]).unwrap());
        }
        open(&store).count_none().unwrap();
        assert_eq!(open(&store).counted(), None);
    }

    #[test]
    fn lists_are_kept_as_long_as_somebody_speaks_of_them() {
        let store = Store::memory();
        let list = |incarnation: u64| {
            let device = DeviceId(1);
            let log = LogId::of(device, incarnation);
            let start = LogStart {
                log,
                device,
                incarnation,
                admission: [0; 32],
                seg_no: 1,
                hash: [1; 32],
                last: Stamp(1),
            };
            LogStarts::new(vec![start]).unwrap()
        };
        let words = open(&store);
        for number in 1..=12 {
            let mut of_list = word(1, number, 0);
            of_list.checkpoint.logs = list(number).hash();
            words.add(vec![of_list]).unwrap();
            words.put_starts(&list(number)).unwrap();
        }
        let here = |words: &Checkpoints| {
            let has = |n: &u64| words.starts(&list(*n).hash()).unwrap().is_some();
            (1..=12).filter(has).collect::<Vec<_>>()
        };
        assert_eq!(here(&words), (5..=12).collect::<Vec<_>>());
        let mut counted = word(1, 10, 0).checkpoint;
        counted.logs = list(10).hash();
        words.count(counted).unwrap();
        for words in [words, open(&store)] {
            assert_eq!(here(&words), [10, 11, 12]);
            assert_eq!(words.starts(&list(11).hash()).unwrap(), Some(list(11)));
        }
        // A damaged one is asked for again.
        let mut batch = Batch::new();
        let key = starts_key(&list(11).hash());
        batch.put(Table::Checkpoint, key, list(12).to_bytes());
        store.rows.commit(batch).unwrap();
        assert_eq!(here(&open(&store)), [10, 12]);
    }
}
