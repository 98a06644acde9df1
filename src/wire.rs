//! Message types and their bytes: what two peers say to each other, with versions and limits.
//!
//! Owns: the requests and replies ([`Request`], [`Response`]), what they are made of ([`Hello`],
//! [`Refusal`], [`ChunkRequest`], [`SignedRecord`]), the sealed segment of a log
//! ([`SealedSegment`]), and the codec. Must never know: sockets, the store, who is on the roster.
//! docs/wire.md describes the bytes.
//!
//! Invariants: decoding never panics and never allocates more than a small multiple of the input;
//! each list has a named maximum in [`limits`]; the whole input must be consumed; bytes of chunks
//! never pass through the codec but follow raw behind the message.

mod asking;
pub mod bounded;
mod chunk;
mod codec;
mod hello;
pub mod limits;
mod lock;
mod message;
mod record;
mod segment;

pub use asking::{Asked, Asking, Denial, PassedAsking, SignedAsking, VolumeMark};
pub use chunk::{ChunkLen, ChunkRefusal, ChunkRequest, ChunkResponse};
pub use codec::{WIRE_VERSION, WireError};
pub use hello::{FEATURES, Hello, InviteRefusal, RecoveryRefusal, Refusal};
pub use lock::{LockAnswer, LockHow, LockKey, LockRange, LockWant, LockWish, LockWord};
pub use message::{
    CheckpointBytes, JoinInfo, LetterBytes, LinkBytes, LogRefusal, PieceOf, Redeem, Redeemed,
    Request, Response, Settled, StartsBytes, StatementBytes, SyncState, Vector,
};
pub use record::{NodeRecord, SignedRecord};
pub use segment::{RecordRef, SEGMENT_DOMAIN, SealedSegment, Seen, SegmentHeader};
