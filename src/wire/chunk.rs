//! Messages about sealed chunks; their bytes travel raw behind the message.

use serde::{Deserialize, Serialize};

use super::bounded;
use super::limits::{CHUNKS_MAX, HAVE_MAX};
use crate::base::ChunkId;
use crate::crypto::PART_HASHES_MAX;

/// Names one chunk of a put and how many bytes of the payload are its.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkLen {
    /// The chunk; the receiver checks the bytes against it.
    pub id: ChunkId,
    /// Length of its sealed bytes.
    pub len: u32,
}

/// What one peer asks another about chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkRequest {
    /// Hands over chunks to keep; the payload is their sealed bytes one after another.
    Put {
        /// The chunks in the order of the payload.
        #[serde(deserialize_with = "bounded::list::<_, _, CHUNKS_MAX>")]
        chunks: Vec<ChunkLen>,
        /// The newest record that was known to who asked for the last of them.
        asked: u64,
    },
    /// Asks for the sealed bytes of a chunk.
    Get {
        /// The chunk.
        id: ChunkId,
    },
    /// Asks which of these chunks the peer keeps.
    Have {
        /// The chunks.
        #[serde(deserialize_with = "bounded::list::<_, _, HAVE_MAX>")]
        ids: Vec<ChunkId>,
        /// As in a put.
        asked: u64,
    },
    /// Asks which of these chunks the peer keeps, and leaves it at that: answered as a have.
    Query {
        /// The chunks.
        #[serde(deserialize_with = "bounded::list::<_, _, HAVE_MAX>")]
        ids: Vec<ChunkId>,
    },
    /// Says that the asking peer has lost these chunks.
    Lost {
        /// The chunks.
        #[serde(deserialize_with = "bounded::list::<_, _, HAVE_MAX>")]
        ids: Vec<ChunkId>,
    },
    /// Asks for a part of the sealed bytes of a chunk, and what shows that it is one.
    GetPart {
        /// The chunk.
        id: ChunkId,
        /// First byte.
        start: u32,
        /// First byte behind it; the chunk may end before.
        end: u32,
    },
    /// Asks which of these chunks are named by anything that the peer sees.
    Named {
        /// The chunks.
        #[serde(deserialize_with = "bounded::list::<_, _, HAVE_MAX>")]
        ids: Vec<ChunkId>,
    },
    /// Says that there are chunks that nothing names any more.
    Collect,
}

/// The answer to a [`ChunkRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkResponse {
    /// To a put: one answer for each chunk, in its order. What was stored is durable.
    Stored {
        /// `None` where the chunk was stored or was there already.
        #[serde(deserialize_with = "bounded::list::<_, _, CHUNKS_MAX>")]
        refused: Vec<Option<ChunkRefusal>>,
    },
    /// To a get: the payload is the sealed bytes.
    Found,
    /// To a get: this peer does not keep the chunk.
    Missing,
    /// To a have: one answer for each chunk, in its order.
    Have {
        /// Whether the chunk is kept here.
        #[serde(deserialize_with = "bounded::list::<_, _, HAVE_MAX>")]
        kept: Vec<bool>,
    },
    /// The whole request is refused.
    Refused(ChunkRefusal),
    /// To a loss, or to what is to be collected: noted.
    Noted,
    /// To a get: a put of the chunk to the asking peer is under way.
    Coming,
    /// To a get of a part: the payload is the leaves of the BLAKE3 tree over the sealed bytes that have
    /// a byte of the part, of the head, or the last one.
    Part {
        /// Length of the sealed bytes.
        len: u32,
        /// Hashes of the subtrees that are left out, from left to right.
        #[serde(deserialize_with = "bounded::list::<_, _, PART_HASHES_MAX>")]
        hashes: Vec<[u8; 32]>,
    },
    /// To a named: one answer for each chunk, in its order.
    Named {
        /// The record below which no op on its way was issued.
        base_line: u64,
        /// Whether the chunk is named.
        #[serde(deserialize_with = "bounded::list::<_, _, HAVE_MAX>")]
        named: Vec<bool>,
    },
}

/// Why a peer does not take or give a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ChunkRefusal {
    /// The capacity that the peer gives is used up.
    #[error("the peer is full")]
    Full,
    /// The bytes are not those that the id names.
    #[error("the bytes are not those that the chunk's id names")]
    Corrupt,
    /// The lengths and the payload do not fit together.
    #[error("the request does not fit its payload")]
    Malformed,
    /// The peer's store fails.
    #[error("the peer's store fails")]
    Failed,
    /// The peer has no handler for chunks yet or has too much to do; to be tried again.
    #[error("the peer is busy")]
    Busy,
}
