//! The sealed segment: a signed batch of one device's ops, opaque to whoever has no volume key.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec::WireError;
use super::limits::SEEN_MAX;
use crate::base::limits::SEGMENT_BODY_MAX_BYTES;
use crate::base::{DeviceId, LogId, Stamp, VolumeId};
use crate::crypto::Signature;

/// The signing domain of segments.
pub const SEGMENT_DOMAIN: &str = "dfs segment 1";

/// A place in the commit chain.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct RecordRef {
    /// Which start of the chain.
    pub era: u64,
    /// Which record of it.
    pub number: u64,
    /// The record's hash.
    pub hash: [u8; 32],
}

/// Up to where an author had folded a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seen {
    /// Which log.
    pub log: LogId,
    /// Its last segment that was folded; 0 where only ops of it were that lie in others.
    pub seg_no: u64,
    /// [`SealedSegment::hash`] of that segment.
    pub hash: [u8; 32],
    /// Stamp of the last op that is named after the log and was folded.
    pub last: Stamp,
}

/// What anyone may know of a segment: where it stands in its log, when it was written, and what its
/// author had seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// The volume; a segment of another volume is never stored.
    pub volume: VolumeId,
    /// The author.
    pub device: DeviceId,
    /// Which start of the author's daemon sealed it: with the device it names the log.
    pub incarnation: u64,
    /// Which start of the author's daemon issued the ops: an earlier one where that ended before
    /// it had sealed them.
    pub origin: u64,
    /// Position in the log, from 1 without gaps.
    pub seg_no: u64,
    /// [`SealedSegment::hash`] of the segment before, zeros for the first.
    pub prev: [u8; 32],
    /// The newest record that the author had folded when it issued the first op.
    pub record: RecordRef,
    /// Stamp of the first op.
    pub first: Stamp,
    /// Stamp of the last op; not below `first`.
    pub last: Stamp,
    /// How many ops the body holds.
    pub op_count: u32,
    /// Epoch of the volume key that seals the body.
    pub epoch: u32,
    /// What the author had folded beyond `record` when it issued the ops, a log once, by log.
    pub seen: Vec<Seen>,
    /// The statement of the roster that admitted the author, on which the log stands: of the first
    /// segment of a log, and of no other.
    pub admission: Option<[u8; 32]>,
}

impl SegmentHeader {
    /// Length of [`SegmentHeader::to_bytes`] without what was seen and the admission.
    pub const FIXED_BYTES: usize = 32 + 4 * 8 + 32 + (8 + 8 + 32) + 8 + 8 + 4 + 4 + 4;

    /// What each log that was seen adds to it.
    pub const SEEN_BYTES: usize = 8 + 8 + 32 + 8;

    /// What the first of a log adds to it.
    pub const ADMISSION_BYTES: usize = 32;

    /// Returns the log that the segment is part of.
    pub fn log(&self) -> LogId {
        LogId::of(self.device, self.incarnation)
    }

    /// Returns the log that the ops in it are named after.
    pub fn op_log(&self) -> LogId {
        LogId::of(self.device, self.origin)
    }

    /// Returns the layout that is signed and that binds the body (as associated data): the fields
    /// in their order, numbers little-endian, what was seen behind its count; the admission where there
    /// is one, which the number of the segment tells.
    pub fn to_bytes(&self) -> Vec<u8> {
        let len = Self::FIXED_BYTES + self.seen.len() * Self::SEEN_BYTES + Self::ADMISSION_BYTES;
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&self.volume.0);
        bytes.extend_from_slice(&self.device.0.to_le_bytes());
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        bytes.extend_from_slice(&self.origin.to_le_bytes());
        bytes.extend_from_slice(&self.seg_no.to_le_bytes());
        bytes.extend_from_slice(&self.prev);
        bytes.extend_from_slice(&self.record.era.to_le_bytes());
        bytes.extend_from_slice(&self.record.number.to_le_bytes());
        bytes.extend_from_slice(&self.record.hash);
        bytes.extend_from_slice(&self.first.0.to_le_bytes());
        bytes.extend_from_slice(&self.last.0.to_le_bytes());
        bytes.extend_from_slice(&self.op_count.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        let count = u32::try_from(self.seen.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&count.to_le_bytes());
        for seen in &self.seen {
            bytes.extend_from_slice(&seen.log.0.to_le_bytes());
            bytes.extend_from_slice(&seen.seg_no.to_le_bytes());
            bytes.extend_from_slice(&seen.hash);
            bytes.extend_from_slice(&seen.last.0.to_le_bytes());
        }
        if let Some(admission) = &self.admission {
            bytes.extend_from_slice(admission);
        }
        bytes
    }

    /// Takes a header off the front of `bytes`, `None` where they are too short or say that more was
    /// seen than [`SEEN_MAX`] logs.
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let mut header = Self {
            volume: VolumeId(reader.take()?),
            device: DeviceId(reader.number()?),
            incarnation: reader.number()?,
            origin: reader.number()?,
            seg_no: reader.number()?,
            prev: reader.take()?,
            record: RecordRef {
                era: reader.number()?,
                number: reader.number()?,
                hash: reader.take()?,
            },
            first: Stamp(reader.number()?),
            last: Stamp(reader.number()?),
            op_count: u32::from_le_bytes(reader.take()?),
            epoch: u32::from_le_bytes(reader.take()?),
            seen: Vec::new(),
            admission: None,
        };
        let count = u32::from_le_bytes(reader.take()?);
        let count = usize::try_from(count).ok().filter(|n| *n <= SEEN_MAX)?;
        for _ in 0..count {
            header.seen.push(Seen {
                log: LogId(reader.number()?),
                seg_no: reader.number()?,
                hash: reader.take()?,
                last: Stamp(reader.number()?),
            });
        }
        if header.seg_no == 1 {
            header.admission = Some(reader.take()?);
        }
        *bytes = reader.0;
        Some(header)
    }
}

/// Takes parts off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (part, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*part)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// A signed, sealed batch of one device's ops as it lies in the log and travels between peers.
///
/// Whoever receives one checks chain, author and signature before it is stored; the body opens
/// with a volume key alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSegment {
    /// What anyone may know.
    pub header: SegmentHeader,
    /// The sealed ops.
    pub body: Bytes,
    /// The author's Ed25519 signature over [`SealedSegment::signed_bytes`].
    pub signature: Signature,
}

impl std::fmt::Debug for SealedSegment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedSegment")
            .field("device", &self.header.device)
            .field("incarnation", &self.header.incarnation)
            .field("seg_no", &self.header.seg_no)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl SealedSegment {
    /// Largest sealed body: the plaintext's limit and room for nonce, tag and framing.
    pub const BODY_MAX_BYTES: usize = SEGMENT_BODY_MAX_BYTES + 1024;

    /// Bytes that a segment has at most beyond its body and what was seen in [`SealedSegment::to_bytes`].
    pub const OVERHEAD_BYTES: usize =
        1 + SegmentHeader::FIXED_BYTES + SegmentHeader::ADMISSION_BYTES + Self::SIGNATURE_BYTES;

    const SIGNATURE_BYTES: usize = 64;
    const LAYOUT: u8 = 1;

    /// Returns what the author signs: the header's bytes and the BLAKE3 of the body.
    pub fn signed_bytes(header: &SegmentHeader, body: &[u8]) -> Vec<u8> {
        let mut bytes = header.to_bytes();
        bytes.extend_from_slice(blake3::hash(body).as_bytes());
        bytes
    }

    /// Returns the BLAKE3 of header, body and signature: the next segment's `prev`.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.header.to_bytes());
        hasher.update(&self.body);
        hasher.update(&self.signature.0);
        *hasher.finalize().as_bytes()
    }

    /// Returns the form in which a segment is stored: layout byte, header, signature, body.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = self.header.to_bytes();
        let overhead = 1 + header.len() + Self::SIGNATURE_BYTES;
        let mut bytes = Vec::with_capacity(overhead + self.body.len());
        bytes.push(Self::LAYOUT);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&self.signature.0);
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Returns the segment of its stored form; the body shares the memory of `bytes`.
    ///
    /// # Errors
    ///
    /// [`WireError`] where the bytes have another layout or length. Nothing is verified.
    pub fn from_bytes(bytes: &Bytes) -> Result<Self, WireError> {
        let malformed = WireError::Malformed { what: "a segment" };
        let Some((&layout, rest)) = bytes.split_first() else {
            return Err(WireError::Empty);
        };
        match layout {
            Self::LAYOUT => {}
            0 => return Err(malformed),
            found => return Err(WireError::TooNew { found }),
        }
        let mut rest = rest;
        let Some(header) = SegmentHeader::take(&mut rest) else {
            return Err(malformed);
        };
        let Some((signature, body)) = rest.split_first_chunk::<{ Self::SIGNATURE_BYTES }>() else {
            return Err(malformed);
        };
        Ok(Self {
            header,
            signature: Signature(*signature),
            body: bytes.slice_ref(body),
        })
    }
}
