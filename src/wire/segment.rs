//! The sealed segment: a signed batch of one device's ops, opaque to whoever has no volume key.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec::WireError;
use crate::base::limits::SEGMENT_BODY_MAX_BYTES;
use crate::base::{DeviceId, Stamp, VolumeId};
use crate::crypto::Signature;

/// The signing domain of segments.
pub const SEGMENT_DOMAIN: &str = "dfs segment 1";

/// What anyone may know of a segment: where it stands in its device's log, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// The volume; a segment of another volume is never stored.
    pub volume: VolumeId,
    /// The author.
    pub device: DeviceId,
    /// Position in the author's log, from 1 without gaps.
    pub seg_no: u64,
    /// [`SealedSegment::hash`] of the segment before, zeros for the first.
    pub prev: [u8; 32],
    /// Stamp of the first op.
    pub first: Stamp,
    /// Stamp of the last op; not below `first`.
    pub last: Stamp,
    /// How many ops the body holds.
    pub op_count: u32,
    /// Epoch of the volume key that seals the body.
    pub epoch: u32,
}

impl SegmentHeader {
    /// Length of [`SegmentHeader::to_bytes`].
    pub const BYTES: usize = 32 + 8 + 8 + 32 + 8 + 8 + 4 + 4;

    /// Returns the fixed layout that is signed and that binds the body (as associated data):
    /// the fields in their order, numbers little-endian.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0u8; Self::BYTES];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&self.volume.0);
        put(&self.device.0.to_le_bytes());
        put(&self.seg_no.to_le_bytes());
        put(&self.prev);
        put(&self.first.0.to_le_bytes());
        put(&self.last.0.to_le_bytes());
        put(&self.op_count.to_le_bytes());
        put(&self.epoch.to_le_bytes());
        bytes
    }

    /// Returns the header of the fixed layout.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut reader = Reader(bytes);
        Self {
            volume: VolumeId(reader.take()),
            device: DeviceId(u64::from_le_bytes(reader.take())),
            seg_no: u64::from_le_bytes(reader.take()),
            prev: reader.take(),
            first: Stamp(u64::from_le_bytes(reader.take())),
            last: Stamp(u64::from_le_bytes(reader.take())),
            op_count: u32::from_le_bytes(reader.take()),
            epoch: u32::from_le_bytes(reader.take()),
        }
    }
}

/// Takes fixed parts off the front of an array whose total length the caller has settled.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut part = [0u8; N];
        if let Some((head, tail)) = self.0.split_at_checked(N) {
            part.copy_from_slice(head);
            self.0 = tail;
        }
        part
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
            .field("seg_no", &self.header.seg_no)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl SealedSegment {
    /// Largest sealed body: the plaintext's limit and room for nonce, tag and framing.
    pub const BODY_MAX_BYTES: usize = SEGMENT_BODY_MAX_BYTES + 1024;

    /// Bytes that a segment has beyond its body in [`SealedSegment::to_bytes`].
    pub const OVERHEAD_BYTES: usize = 1 + SegmentHeader::BYTES + Self::SIGNATURE_BYTES;

    const SIGNATURE_BYTES: usize = 64;
    const LAYOUT: u8 = 1;

    /// Returns what the author signs: the header's bytes and the BLAKE3 of the body.
    pub fn signed_bytes(header: &SegmentHeader, body: &[u8]) -> Vec<u8> {
        let mut bytes = header.to_bytes().to_vec();
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
        let mut bytes = Vec::with_capacity(Self::OVERHEAD_BYTES + self.body.len());
        bytes.push(Self::LAYOUT);
        bytes.extend_from_slice(&self.header.to_bytes());
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
        let Some((header, rest)) = rest.split_first_chunk::<{ SegmentHeader::BYTES }>() else {
            return Err(malformed);
        };
        let Some((signature, _)) = rest.split_first_chunk::<{ Self::SIGNATURE_BYTES }>() else {
            return Err(malformed);
        };
        Ok(Self {
            header: SegmentHeader::from_bytes(header),
            signature: Signature(*signature),
            body: bytes.slice(Self::OVERHEAD_BYTES..),
        })
    }
}
