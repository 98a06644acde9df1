//! Checkpoints: what those say who hold the rows at a record, and where the logs go on behind it.
//!
//! A member makes a checkpoint where a record says so, as soon as it has folded it: a tree of all rows
//! by which whoever has a key can take them over, and the end of each log up to there. So neither the
//! segments up to there nor the rows before are needed by anybody who comes later.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::base::{ChunkId, DeviceId, LogId, Stamp, VolumeId};
use crate::crypto::Signature;
use crate::log::LogError;
use crate::store::codec;
use crate::wire::limits::{CHECKPOINT_MAX_BYTES, STARTS_MAX_BYTES};
use crate::wire::{RecordRef, bounded};

/// The signing domain of checkpoints.
pub const CHECKPOINT_DOMAIN: &str = "dfs checkpoint 1";

/// Most logs of which a checkpoint says where they end: 112 bytes each at most, so 1.8 MiB. Four times
/// those that peers tell of.
pub const STARTS_MAX: usize = 16_384;

/// The rows of a volume at a record: of all who made it at that record one is as good as another where
/// these are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The record, which says that it is one.
    pub record: RecordRef,
    /// A keyed hash of all rows.
    pub rows: [u8; 32],
    /// [`LogStarts::hash`] of where the logs go on.
    pub logs: [u8; 32],
}

/// Where the rows of a checkpoint can be had. That these are the rows shows once they are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tree {
    /// The chunk of the root.
    pub root: ChunkId,
    /// Length of that chunk.
    pub len: u32,
    /// How many levels of nodes lie below the root.
    pub level: u8,
}

/// The word of a member that it has the rows of a checkpoint; not yet verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedCheckpoint {
    /// The member.
    pub device: DeviceId,
    /// What it has.
    pub checkpoint: Checkpoint,
    /// Where it lies.
    pub tree: Tree,
    /// Ed25519 signature of the member over [`SignedCheckpoint::signed_bytes`], in the domain
    /// [`CHECKPOINT_DOMAIN`].
    pub signature: Signature,
}

impl SignedCheckpoint {
    /// Longest form of [`SignedCheckpoint::to_bytes`], and some: three numbers of 9 bytes and one of 5, four
    /// hashes, a signature of 64 bytes, two bytes.
    pub const MAX_BYTES: usize = CHECKPOINT_MAX_BYTES;

    const VERSION: u8 = 1;

    /// Returns what is signed.
    pub fn signed_bytes(
        volume: VolumeId,
        device: DeviceId,
        checkpoint: &Checkpoint,
        tree: &Tree,
    ) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        codec::encode_into(&(volume, device, checkpoint, tree), &mut bytes);
        bytes
    }

    /// Returns the stored form: version byte, then the fields through the codec.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        codec::encode_into(self, &mut bytes);
        bytes
    }

    /// Returns the word of its stored form, which may come from anybody.
    ///
    /// # Errors
    ///
    /// [`LogError::MalformedRecord`] for anything that [`SignedCheckpoint::to_bytes`] does not write,
    /// [`LogError::RecordTooNew`] for a greater version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LogError> {
        let what = "a word on a checkpoint";
        let word: Self = versioned(bytes, Self::VERSION, Self::MAX_BYTES, what)?;
        match word.to_bytes() == bytes {
            true => Ok(word),
            false => Err(LogError::MalformedRecord { what }),
        }
    }
}

/// The last segment of a log that records up to a checkpoint name, and whose the log is: a peer that
/// has the checkpoint needs none of the segments up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStart {
    /// The log.
    pub log: LogId,
    /// The author.
    pub device: DeviceId,
    /// Which start of the author's daemon.
    pub incarnation: u64,
    /// The admission on which the log stands; zeros where that is not known.
    pub admission: [u8; 32],
    /// The number of the segment; 0 for a log of which none is named, as its ops lie in others.
    pub seg_no: u64,
    /// The hash of the segment; zeros where there is none.
    pub hash: [u8; 32],
    /// Stamp of its last op.
    pub last: Stamp,
}

impl LogStart {
    /// Says whether the log has the name that its author and its incarnation give it, and nothing is
    /// said of a segment that is none.
    pub(super) fn is_sound(&self) -> bool {
        let is_none = self.hash == [0; 32] && self.last == Stamp::default();
        LogId::of(self.device, self.incarnation) == self.log && (self.seg_no > 0 || is_none)
    }
}

/// Where the logs go on behind a checkpoint: ascending by log, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogStarts(Vec<LogStart>);

impl LogStarts {
    /// Longest form of [`LogStarts::to_bytes`], which fits a message.
    pub const MAX_BYTES: usize = 16 + STARTS_MAX * START_MAX_BYTES;

    const VERSION: u8 = 1;
    const HASH_DOMAIN: &str = "dfs/1 starts of logs";

    /// Returns the list of these.
    ///
    /// # Errors
    ///
    /// [`LogError::MalformedRecord`] where there are too many, where one is not greater than the one
    /// before, has another name than its author and its incarnation give it, or says something of a
    /// segment that is none.
    pub fn new(starts: Vec<LogStart>) -> Result<Self, LogError> {
        let ascends = starts.windows(2).all(|pair| pair[0].log < pair[1].log);
        let is_sound = |start: &LogStart| {
            let is_none = start.hash == [0; 32] && start.last == Stamp::default();
            LogId::of(start.device, start.incarnation) == start.log && (start.seg_no > 0 || is_none)
        };
        if starts.len() > STARTS_MAX || !ascends || !starts.iter().all(is_sound) {
            let what = "the starts of logs";
            return Err(LogError::MalformedRecord { what });
        }
        Ok(Self(starts))
    }

    /// Returns the stored form, of which there is one: version byte, then the list through the codec.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        codec::encode_into(&self.0, &mut bytes);
        bytes
    }

    /// Returns the list of its stored form, which may come from anybody.
    ///
    /// # Errors
    ///
    /// [`LogError::MalformedRecord`] for anything that [`LogStarts::to_bytes`] does not write,
    /// [`LogError::RecordTooNew`] for a greater version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LogError> {
        let what = "the starts of logs";
        let List(starts) = versioned(bytes, Self::VERSION, Self::MAX_BYTES, what)?;
        let starts = Self::new(starts)?;
        // A number has longer forms than its shortest.
        match starts.to_bytes() == bytes {
            true => Ok(starts),
            false => Err(LogError::MalformedRecord { what }),
        }
    }

    /// Returns the hash by which a checkpoint names the list: a BLAKE3 of its bytes.
    pub fn hash(&self) -> [u8; 32] {
        blake3::derive_key(Self::HASH_DOMAIN, &self.to_bytes())
    }
}

impl Deref for LogStarts {
    type Target = [LogStart];
    fn deref(&self) -> &[LogStart] {
        &self.0
    }
}

/// Longest encoded [`LogStart`]: five numbers of 9 bytes and two hashes.
const START_MAX_BYTES: usize = 5 * 9 + 2 * 32;

const _: () = assert!(LogStarts::MAX_BYTES <= STARTS_MAX_BYTES);

#[derive(Deserialize)]
struct List(#[serde(deserialize_with = "bounded::list::<_, _, STARTS_MAX>")] Vec<LogStart>);

/// Returns what stands behind a version byte.
fn versioned<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    known: u8,
    max_bytes: usize,
    what: &'static str,
) -> Result<T, LogError> {
    match bytes.split_first() {
        Some((found, _)) if *found > known => Err(LogError::RecordTooNew {
            found: *found,
            known,
        }),
        Some((_, rest)) => {
            codec::decode(rest, max_bytes).map_err(|_| LogError::MalformedRecord { what })
        }
        None => Err(LogError::MalformedRecord { what }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use crate::base::stored;

    fn start(device: u64, incarnation: u64, seg_no: u64) -> LogStart {
        let device = DeviceId(device);
        LogStart {
            log: LogId::of(device, incarnation),
            device,
            incarnation,
            admission: [1; 32],
            seg_no,
            hash: [if seg_no == 0 { 0 } else { 2 }; 32],
            last: if seg_no == 0 {
                Stamp::default()
            } else {
                Stamp(1 << 60)
            },
        }
    }

    fn starts(count: u64) -> Vec<LogStart> {
        let mut starts: Vec<_> = (0..count).map(|n| start(n, n + 7, n)).collect();
        starts.sort_by_key(|start| start.log);
        starts
    }

    fn word() -> SignedCheckpoint {
        let record = RecordRef {
            era: 1,
            number: 300,
            hash: [3; 32],
        };
        SignedCheckpoint {
            device: DeviceId(9),
            checkpoint: Checkpoint {
                record,
                rows: [4; 32],
                logs: [5; 32],
            },
            tree: Tree {
                root: ChunkId([6; 32]),
                len: 70_000,
                level: 2,
            },
            signature: Signature([7; 64]),
        }
    }

    #[test]
    fn checkpoints_have_the_bytes_that_they_always_had() {
        let (word, starts) = (word(), LogStarts::new(starts(3)).unwrap());
        let signed = SignedCheckpoint::signed_bytes(
            VolumeId([8; 32]),
            word.device,
            &word.checkpoint,
            &word.tree,
        );
        let samples = [
            ("word", word.to_bytes()),
            ("signed", signed),
            ("starts", starts.to_bytes()),
            ("hash", starts.hash().to_vec()),
        ];
        let bytes = stored::check("docs/checkpoint.txt", &[], &samples);
        assert_eq!(SignedCheckpoint::from_bytes(&bytes[0]).unwrap(), word);
        assert_eq!(LogStarts::from_bytes(&bytes[2]).unwrap(), starts);
    }

    #[test]
    fn starts_of_logs_have_one_form() {
        let good = starts(4);
        assert_eq!(*LogStarts::new(good.clone()).unwrap(), good);
        let of = |change: &dyn Fn(&mut Vec<LogStart>)| {
            let mut starts = good.clone();
            change(&mut starts);
            assert!(LogStarts::new(starts.clone()).is_err());
            let mut bytes = vec![1];
            codec::encode_into(&starts, &mut bytes);
            let read = LogStarts::from_bytes(&bytes);
            assert!(
                matches!(read, Err(LogError::MalformedRecord { .. })),
                "{read:?}"
            );
        };
        of(&|starts| starts.swap(0, 1));
        of(&|starts| starts.insert(1, starts[0]));
        of(&|starts| starts[1].incarnation += 1);
        of(&|starts| starts[1].device.0 += 1);
        let empty = good.iter().position(|start| start.seg_no == 0).unwrap();
        of(&|starts| starts[empty].hash[0] = 1);
        of(&|starts| starts[empty].last = Stamp(1));
    }

    #[test]
    fn as_many_logs_fit_as_may_be_said_and_not_one_more() {
        let mut many: Vec<_> = (0..=STARTS_MAX as u64)
            .map(|n| start(n << 40, u64::MAX - n, u64::MAX))
            .collect();
        many.sort_by_key(|start| start.log);
        for one in &mut many {
            one.last = Stamp(u64::MAX);
        }
        assert!(LogStarts::new(many.clone()).is_err());
        let mut bytes = vec![1];
        codec::encode_into(&many, &mut bytes);
        assert!(LogStarts::from_bytes(&bytes).is_err());
        many.pop();
        let most = LogStarts::new(many).unwrap();
        let bytes = most.to_bytes();
        assert!(bytes.len() <= LogStarts::MAX_BYTES);
        assert_eq!(LogStarts::from_bytes(&bytes).unwrap(), most);
    }

    #[test]
    fn bytes_of_anybody_are_refused_and_never_panic() {
        let (word, starts) = (
            word().to_bytes(),
            LogStarts::new(starts(3)).unwrap().to_bytes(),
        );
        assert!(word.len() <= SignedCheckpoint::MAX_BYTES);
        for len in 0..word.len() {
            assert!(SignedCheckpoint::from_bytes(&word[..len]).is_err());
        }
        for len in 0..starts.len() {
            assert!(LogStarts::from_bytes(&starts[..len]).is_err());
        }
        let newer = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes[0] += 1;
            bytes
        };
        let word_of = SignedCheckpoint::from_bytes(&newer(&word));
        assert!(matches!(word_of, Err(LogError::RecordTooNew { .. })));
        let starts_of = LogStarts::from_bytes(&newer(&starts));
        assert!(matches!(starts_of, Err(LogError::RecordTooNew { .. })));
        let seed = 1;
        let rng = Rng::from_seed(seed);
        for round in 0..2_000 {
            for good in [&word, &starts] {
                let mut bytes = good.clone();
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << rng.below(8);
                bytes.push(0);
                bytes.truncate(good.len() + usize::from(rng.below(2) == 0));
                if let Ok(word) = SignedCheckpoint::from_bytes(&bytes) {
                    assert_eq!(word.to_bytes(), bytes, "seed {seed}, round {round}");
                }
                if let Ok(starts) = LogStarts::from_bytes(&bytes) {
                    assert_eq!(starts.to_bytes(), bytes, "seed {seed}, round {round}");
                }
            }
        }
    }
}
