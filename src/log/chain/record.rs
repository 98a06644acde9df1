//! The record: what the chain says of one step of the order, its bytes and its hash.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::row::Tip;
use crate::base::id::to_hex;
use crate::base::limits::SEGMENT_OPS_MAX;
use crate::base::{DeviceId, LogId, OpId, VolumeId};
use crate::log::LogError;
use crate::store::codec;
use crate::wire::{RecordRef, SealedSegment, bounded};

/// Most segments that one record names: as many as it may name ops, with one op each.
pub const SEGMENTS_MAX: usize = SEGMENT_OPS_MAX;

/// Most logs whose end one record states: ten years of a machine that starts once a day.
pub const ENDED_MAX: usize = 4096;

/// Most statements that one record takes into account; those that are left go into the next.
pub const STATEMENTS_MAX: usize = 1024;

/// Most voters. There are one or three, never two, with which each could stop the other.
pub const VOTERS_MAX: usize = 3;

/// One who votes on the next record.
///
/// The incarnation is that of the row in which a voter keeps its promises: who lost the row is
/// another voter, until a record names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Voter {
    /// Whose vote it is.
    pub device: DeviceId,
    /// Which row of that device.
    pub incarnation: u64,
}

/// A segment that a record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentName {
    /// The log.
    pub log: LogId,
    /// Its number in that log.
    pub seg_no: u64,
    /// Its hash: a branch of a log is another segment.
    pub hash: [u8; 32],
    /// The last of its ops: who reads the record long after knows up to where they went.
    pub last: OpId,
}

impl SegmentName {
    /// Returns the name of a segment.
    pub fn of(segment: &SealedSegment) -> Self {
        let header = &segment.header;
        Self {
            log: header.log(),
            seg_no: header.seg_no,
            hash: segment.hash(),
            last: OpId {
                stamp: header.last,
                log: header.op_log(),
            },
        }
    }
}

/// What a record says. Encoded field by field in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordBody {
    /// How often an admin began the chain anew.
    pub era: u64,
    /// One more than that of the record before, also across eras; 0 for the first of a volume.
    pub number: u64,
    /// The record before; zeros for record 0.
    pub prev: [u8; 32],
    /// The segments that it names, those that others build on first. How many ops and bytes they
    /// hold is judged by whoever makes the record and by the voters.
    #[serde(deserialize_with = "bounded::list::<_, _, SEGMENTS_MAX>")]
    pub segments: Vec<SegmentName>,
    /// Logs of which no segment will be named any more; ascending.
    #[serde(deserialize_with = "bounded::list::<_, _, ENDED_MAX>")]
    pub ended: Vec<LogId>,
    /// Hashes of the statements that it is the first to take into account; ascending.
    #[serde(deserialize_with = "bounded::list::<_, _, STATEMENTS_MAX>")]
    pub statements: Vec<[u8; 32]>,
    /// The number of the record up to which what was replaced is looked up no more.
    pub base_line: u64,
    /// When it was made by its maker's wall clock, milliseconds since 1970; may go back.
    pub time_ms: u64,
    /// Who decides the next record; ascending by device.
    #[serde(deserialize_with = "bounded::list::<_, _, VOTERS_MAX>")]
    pub voters: Vec<Voter>,
    /// Whether the rows at this record make a checkpoint.
    pub is_checkpoint: bool,
}

/// A record of the right form, with its hash. Clones share the body; equal means of equal hash.
///
/// That it continues a chain and was decided is another matter: [`Record::follows`] and
/// [`super::Certificate`].
#[derive(Clone)]
pub struct Record {
    body: Arc<RecordBody>,
    hash: [u8; 32],
}

impl Record {
    /// Largest form of [`Record::to_bytes`]: the greatest lists (50 bytes a segment, 9 a log, 32 a
    /// statement, 18 a voter) and what is always there.
    pub const MAX_BYTES: usize = 384 << 10;

    pub(super) const VERSION: u8 = 1;
    const HASH_DOMAIN: &str = "dfs/1 record";

    /// Returns the record that says this.
    ///
    /// # Errors
    ///
    /// [`LogError::MalformedRecord`] where a list is too long or not in its order, where there is
    /// neither one voter nor three, and where record 0 follows something or another does not.
    pub fn new(body: RecordBody) -> Result<Self, LogError> {
        body.check()?;
        let hash = blake3::derive_key(Self::HASH_DOMAIN, &body.to_bytes());
        Ok(Self {
            body: Arc::new(body),
            hash,
        })
    }

    /// Returns the stored form: version byte, then the body through the codec.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.body.to_bytes()
    }

    /// Returns the record of its stored form, which may come from anybody.
    ///
    /// # Errors
    ///
    /// [`LogError::MalformedRecord`] for anything that [`Record::to_bytes`] does not write,
    /// [`LogError::RecordTooNew`] for a greater version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LogError> {
        let malformed = LogError::MalformedRecord { what: "its bytes" };
        let Some((&version, rest)) = bytes.split_first() else {
            return Err(malformed);
        };
        if version > Self::VERSION {
            return Err(LogError::RecordTooNew {
                found: version,
                known: Self::VERSION,
            });
        }
        let Ok(body) = codec::decode::<RecordBody>(rest, Self::MAX_BYTES - 1) else {
            return Err(malformed);
        };
        // A number has longer forms than its shortest; a record has one form.
        if body.to_bytes() != bytes {
            return Err(malformed);
        }
        Self::new(body)
    }

    /// Returns the hash by which the record is named: a BLAKE3 of its bytes.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Returns where the record stands.
    pub fn reference(&self) -> RecordRef {
        RecordRef {
            era: self.era,
            number: self.number,
            hash: self.hash,
        }
    }

    /// Returns where the record before it stands, `None` for record 0. Its era may be an earlier one: that
    /// does not follow from this record.
    pub(super) fn before(&self) -> Option<RecordRef> {
        let number = self.number.checked_sub(1)?;
        Some(RecordRef {
            era: self.era,
            number,
            hash: self.prev,
        })
    }

    /// Returns the id of the volume whose record 0 this is; `None` for any other record.
    pub fn volume(&self) -> Option<VolumeId> {
        (self.number == 0).then_some(VolumeId(self.hash))
    }

    /// Says whether the record begins an era right behind `tip`: it names nothing, and is signed by an
    /// admin in place of the voters, of whom too few are left.
    pub fn begins_era(&self, tip: &Tip) -> bool {
        tip.at.era.checked_add(1) == Some(self.era)
            && tip.at.number.checked_add(1) == Some(self.number)
            && self.prev == tip.at.hash
            && self.base_line == tip.base_line
            && self.segments.is_empty()
    }

    /// Says whether the record may stand right behind `tip`, in the same era: its number and `prev`
    /// continue it, and the base line neither goes back nor beyond it.
    pub fn follows(&self, tip: &Tip) -> bool {
        self.era == tip.at.era
            && tip.at.number.checked_add(1) == Some(self.number)
            && self.prev == tip.at.hash
            && (tip.base_line..=tip.at.number).contains(&self.base_line)
    }
}

impl Deref for Record {
    type Target = RecordBody;
    fn deref(&self) -> &RecordBody {
        &self.body
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Record {}

impl std::hash::Hash for Record {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = to_hex(&self.hash[..4]);
        write!(f, "Record({}.{} {hash})", self.era, self.number)
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Version, &*self.body).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (_, body) = <(Version, RecordBody)>::deserialize(deserializer)?;
        Self::new(body).map_err(D::Error::custom)
    }
}

/// The version of a record, which is the first byte of it wherever it lies.
struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Record::VERSION.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            Record::VERSION => Ok(Self),
            version => Err(D::Error::custom(format_args!("version {version}"))),
        }
    }
}

impl RecordBody {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![Record::VERSION];
        codec::encode_into(self, &mut bytes);
        bytes
    }

    /// Checks what follows from the body alone.
    fn check(&self) -> Result<(), LogError> {
        let flaw = |what| Err(LogError::MalformedRecord { what });
        let is_first = self.number == 0;
        if is_first != (self.prev == [0; 32]) || is_first && (self.era != 0) {
            return flaw("the record before");
        }
        let names: BTreeSet<&[u8; 32]> = self.segments.iter().map(|name| &name.hash).collect();
        if self.segments.len() > SEGMENTS_MAX || names.len() != self.segments.len() {
            return flaw("its segments");
        }
        if self.ended.len() > ENDED_MAX || !ascends(&self.ended) {
            return flaw("the logs that ended");
        }
        if self.statements.len() > STATEMENTS_MAX || !ascends(&self.statements) {
            return flaw("its statements");
        }
        let devices: Vec<DeviceId> = self.voters.iter().map(|voter| voter.device).collect();
        if !matches!(devices.len(), 1 | VOTERS_MAX) || !ascends(&devices) {
            return flaw("its voters");
        }
        if self.base_line >= self.number.max(1) {
            return flaw("its base line");
        }
        Ok(())
    }
}

/// Says whether each item is greater than the one before.
pub(super) fn ascends<T: Ord>(items: &[T]) -> bool {
    items.windows(2).all(|pair| pair[0] < pair[1])
}
