//! Node records: a peer's own signed word on where it is and what it gives.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::bounded::{self, BoundedBytes};
use super::codec::{self, WireError};
use super::limits::{ADDRS_MAX, NAME_MAX_BYTES, RECORD_MAX_BYTES};
use crate::base::{PeerId, VolumeId};
use crate::crypto::Signature;

/// Where a peer is and what it gives, in its own words. Its role stands on the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The volume.
    pub volume: VolumeId,
    /// The peer that speaks.
    pub peer: PeerId,
    /// Wall time of the peer when it signed, milliseconds since 1970; the newest record counts.
    pub signed_ms: u64,
    /// Name for people.
    #[serde(deserialize_with = "bounded::text::<_, NAME_MAX_BYTES>")]
    pub name: String,
    /// Addresses at which it may be reached, the likeliest first.
    #[serde(deserialize_with = "bounded::list::<_, _, ADDRS_MAX>")]
    pub addrs: Vec<SocketAddr>,
    /// Bytes that it gives to the swarm.
    pub capacity_bytes: u64,
    /// Bytes of them that are free.
    pub free_bytes: u64,
}

/// A [`NodeRecord`] as it travels: encoded and signed, not yet verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRecord {
    /// The encoded record.
    pub record: BoundedBytes<RECORD_MAX_BYTES>,
    /// Ed25519 signature of the peer over the encoded record.
    pub signature: Signature,
}

impl NodeRecord {
    /// The signing domain of node records.
    pub const DOMAIN: &'static str = "dfs node record 1";

    /// Returns the bytes that are signed.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Returns the record of its bytes.
    ///
    /// # Errors
    ///
    /// [`WireError`] for anything that [`NodeRecord::encode`] did not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        codec::decode(bytes, "a node record")
    }
}
