//! Requests and replies: every message that passes between two peers.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::asking::{Asked, Denial, PassedAsking, SignedAsking, VolumeMark};
use super::bounded::{self, BoundedBytes};
use super::chunk::{ChunkRequest, ChunkResponse};
use super::codec::{self, Kinds, WireError};
use super::hello::{Hello, Refusal};
use super::limits::{
    ALIKE_MAX, ASKINGS_MAX, CHECKPOINT_MAX_BYTES, CHECKPOINTS_MAX, LETTER_MAX_BYTES, LETTERS_MAX,
    LINK_MAX_BYTES, LINKS_MAX, NAME_MAX_BYTES, PIECEWISE_MAX_BYTES, RECORDS_MAX, SECRET_MAX_BYTES,
    SEGMENTS_MAX, SHOWN_MAX, STARTS_MAX_BYTES, STATEMENT_MAX_BYTES, STATEMENTS_MAX, VECTOR_MAX,
    WANTS_MAX, WRAPPED_KEYS_MAX_BYTES,
};
use super::record::SignedRecord;
use super::segment::{RecordRef, SealedSegment};
use crate::base::{LogId, PeerId, VolumeId, variants};
use crate::crypto::PublicIdentity;

/// For each log the number of the last segment that is here, all before it included.
pub type Vector = BTreeMap<LogId, u64>;

/// An encoded, signed roster statement; the node room knows what is in it.
pub type StatementBytes = BoundedBytes<STATEMENT_MAX_BYTES>;

/// An encoded record of the commit chain with its certificate; the log room knows what is in it.
pub type LinkBytes = BoundedBytes<LINK_MAX_BYTES>;

/// A letter between those who decide records, encoded; nothing is checked yet.
pub type LetterBytes = BoundedBytes<LETTER_MAX_BYTES>;

/// The word of a member on a checkpoint, encoded; the log room knows what is in it.
pub type CheckpointBytes = BoundedBytes<CHECKPOINT_MAX_BYTES>;

/// Where logs go on behind a checkpoint, encoded; the log room knows what is in it.
pub type StartsBytes = BoundedBytes<STARTS_MAX_BYTES>;

/// Which request is one of [`ChunkRequest`].
const CHUNK_REQUEST: u32 = 10;

/// What one peer asks another.
///
/// This enum, [`ChunkRequest`] and [`Response`] grow at their ends alone. A peer that does not know
/// a kind says so ([`Refusal::Unknown`]); whether it does is said in [`Hello::features`] before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Opens the session. Answer: [`Response::Hello`].
    Hello(Hello),
    /// Asks, as a stranger who knows the volume's id, for its roster. Answer: [`Response::Join`].
    Join {
        /// The volume.
        volume: VolumeId,
        /// The asking peer's wall clock, milliseconds since 1970.
        clock_ms: u64,
    },
    /// Redeems an invite. Answer: [`Response::Redeemed`].
    Redeem(Redeem),
    /// Compares what the two know, and shows that both live. Answer: [`Response::Sync`].
    Sync(SyncState),
    /// Hands over the next segments of a log. Answer: [`Response::Sync`] once they are durable.
    Push {
        /// Segments of one or more devices, ascending within each.
        #[serde(deserialize_with = "bounded::list::<_, _, SEGMENTS_MAX>")]
        segments: Vec<SealedSegment>,
    },
    /// Asks for segments. Answer: [`Response::Segments`].
    Pull {
        /// For each log the first number that is wanted.
        #[serde(deserialize_with = "bounded::map::<_, _, _, WANTS_MAX>")]
        from: Vector,
        /// Bytes of segments that the answer may have; one segment it may have always.
        room: u32,
    },
    /// Hands over roster statements. Answer: [`Response::Done`].
    RosterPush {
        /// The statements.
        #[serde(deserialize_with = "bounded::list::<_, _, STATEMENTS_MAX>")]
        statements: Vec<StatementBytes>,
    },
    /// Asks for roster statements. Answer: [`Response::Roster`].
    RosterPull {
        /// How many statements of the answering peer's order to skip.
        skip: u32,
    },
    /// Asks for the records of the peers closest to a key. Answer: [`Response::Nodes`].
    FindNode {
        /// The key.
        key: [u8; 32],
    },
    /// Hands over node records to keep and pass on. Answer: [`Response::Done`].
    PutRecords {
        /// The records.
        #[serde(deserialize_with = "bounded::list::<_, _, RECORDS_MAX>")]
        records: Vec<SignedRecord>,
    },
    /// Something about chunks. Answer: [`Response::Chunk`].
    Chunk(ChunkRequest),
    /// Shows a peer that is not on the roster that this one knows the volume's id, without telling
    /// it. Answer: [`Response::Roster`].
    Introduce {
        /// A random number.
        nonce: [u8; 32],
        /// Follows from the nonce, the volume's id and both peers.
        proof: [u8; 32],
    },
    /// Asks, as a stranger, of which volume the peer is. Answer: [`Response::Knocked`].
    Knock {
        /// The asking peer's wall clock, milliseconds since 1970.
        clock_ms: u64,
    },
    /// Asks, as a stranger, to be admitted. Answer: [`Response::Asked`], after a while where
    /// nothing changes.
    Ask(SignedAsking),
    /// Hands over who asks to be admitted and who is not, to be passed on. Answer:
    /// [`Response::Done`].
    Askings {
        /// Those that ask.
        #[serde(deserialize_with = "bounded::list::<_, _, ASKINGS_MAX>")]
        askings: Vec<PassedAsking>,
        /// Those that an admin does not admit.
        #[serde(deserialize_with = "bounded::list::<_, _, ASKINGS_MAX>")]
        denials: Vec<Denial>,
    },
    /// Asks, as a stranger who knows a recovery phrase, for the roster. Answer: [`Response::Join`].
    Recover {
        /// A secret that follows from the phrase, and from which the phrase does not follow.
        secret: [u8; 32],
        /// The asking peer's wall clock, milliseconds since 1970.
        clock_ms: u64,
    },
    /// Hands over one piece of a large request, which is the payload; without one it only asks.
    /// Answer: [`Response::Pieces`], and to the last piece the answer to the request.
    Piece {
        /// The request.
        of: PieceOf,
        /// Which piece it is.
        index: u8,
    },
    /// Asks something whose answer may be large, and for one piece of it then. Answer: that of the
    /// request, or [`Response::Large`].
    Piecewise {
        /// The encoded request.
        request: BoundedBytes<PIECEWISE_MAX_BYTES>,
        /// How urgent the answer is: 0 nobody waits, 1 read ahead, 2 a program waits, 3 logs.
        priority: u8,
        /// Which piece is wanted first.
        index: u8,
    },
    /// Asks for one more piece of a large answer. Answer: [`Response::PieceBytes`].
    Rest {
        /// The answer, named by the BLAKE3 of its body and payload.
        blob: [u8; 32],
        /// How urgent the piece is.
        priority: u8,
        /// Which piece is wanted.
        index: u8,
    },
    /// Asks for records of the commit chain. Answer: [`Response::Chain`].
    Chain {
        /// The number of the record that is here; those behind it are wanted.
        after: u64,
        /// Bytes of records that the answer may have; one record it may have always.
        room: u32,
    },
    /// Hands over letters of those who decide records, for the peer or to be handed on by it. Answer:
    /// [`Response::Done`].
    Letters {
        /// The letters, each signed by whom it is from.
        #[serde(deserialize_with = "bounded::list::<_, _, LETTERS_MAX>")]
        letters: Vec<LetterBytes>,
    },
    /// Asks, as a member whose state folder was damaged, for the volume keys. Answer:
    /// [`Response::Redeemed`] with nothing else in it; the roster can be asked for then.
    Restore {
        /// The asking peer's wall clock, milliseconds since 1970.
        clock_ms: u64,
    },
    /// Asks for a record that a segment states and that is not of the own chain, and for those before
    /// it. Answer: [`Response::Chain`], newest first.
    Left {
        /// The record.
        record: RecordRef,
        /// Bytes of records that the answer may have; one record it may have always.
        room: u32,
    },
    /// Hands over all that the peer knows of what members say of checkpoints. Answer:
    /// [`Response::Checkpoints`].
    Checkpoints {
        /// The words, each signed by whose it is.
        #[serde(deserialize_with = "bounded::list::<_, _, CHECKPOINTS_MAX>")]
        words: Vec<CheckpointBytes>,
    },
    /// Asks where logs go on behind a checkpoint. Answer: [`Response::Starts`].
    Starts {
        /// The hash by which the checkpoint names that.
        hash: [u8; 32],
    },
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// The session is open.
    Hello(Hello),
    /// What a stranger may know.
    Join(JoinInfo),
    /// The asking peer is a member now.
    Redeemed(Redeemed),
    /// What the answering peer knows.
    Sync(SyncState),
    /// Segments from the start of the wanted ranges, as many as fit one message.
    Segments {
        /// The segments, ascending within each device.
        #[serde(deserialize_with = "bounded::list::<_, _, SEGMENTS_MAX>")]
        segments: Vec<SealedSegment>,
    },
    /// Roster statements.
    Roster {
        /// The statements from the place asked for.
        #[serde(deserialize_with = "bounded::list::<_, _, STATEMENTS_MAX>")]
        statements: Vec<StatementBytes>,
        /// How many statements there are in all.
        total: u32,
    },
    /// The closest peers known.
    Nodes {
        /// Their records, closest first.
        #[serde(deserialize_with = "bounded::list::<_, _, RECORDS_MAX>")]
        records: Vec<SignedRecord>,
    },
    /// The answer of the chunk handler.
    Chunk(ChunkResponse),
    /// Done, with nothing to say.
    Done,
    /// The request is refused.
    Refused(Refusal),
    /// Of which volume the answering peer is.
    Knocked {
        /// The volume, not named.
        volume: VolumeMark,
    },
    /// What became of an asking.
    Asked(Asked),
    /// Pieces of a large request that are here.
    Pieces {
        /// One bit for each piece, the first the lowest.
        have: u64,
    },
    /// The answer is large; the payload is the piece that was asked for.
    Large(PieceOf),
    /// The payload is a piece of a large answer.
    PieceBytes,
    /// Records of the commit chain, as many as fit one message.
    Chain {
        /// The records behind the one that is known, ascending.
        #[serde(deserialize_with = "bounded::list::<_, _, LINKS_MAX>")]
        links: Vec<LinkBytes>,
    },
    /// What members say of checkpoints.
    Checkpoints {
        /// The words, each signed by whose it is.
        #[serde(deserialize_with = "bounded::list::<_, _, CHECKPOINTS_MAX>")]
        words: Vec<CheckpointBytes>,
    },
    /// Where logs go on behind a checkpoint.
    Starts {
        /// The list, `None` where the peer does not have it.
        starts: Option<StartsBytes>,
    },
}

/// A message that travels in pieces of 32 KiB: its encoded body and its payload one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceOf {
    /// BLAKE3 of the message.
    pub blob: [u8; 32],
    /// Length of the body.
    pub body_len: u32,
    /// Length of body and payload.
    pub len: u32,
}

/// What a peer knows: exchanged every few seconds and when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncState {
    /// The peer's wall clock, milliseconds since 1970.
    pub clock_ms: u64,
    /// Digest of the roster statements that the peer knows.
    pub roster_digest: [u8; 32],
    /// Bytes that the peer could still take.
    pub free_bytes: u64,
    /// The segments that the peer has, durably.
    #[serde(deserialize_with = "bounded::map::<_, _, _, VECTOR_MAX>")]
    pub vector: Vector,
    /// Why the peer does not take the log of the one that it tells this, where it does not.
    pub refuses: Option<LogRefusal>,
    /// The newest record of the commit chain that the peer has, durably.
    pub record: RecordRef,
    /// The least record that the fold of any op of the peer may look back to, of those that no record
    /// names yet and of all to come; 0 where the peer does not know.
    pub needs: u64,
    /// The incarnation of the row in which the peer keeps what it promises as a voter.
    pub voter: u64,
    /// What follows from the rows of the peer, where nothing of it is tentative.
    pub settled: Option<Settled>,
    /// Peers with a session to this one that have as much as it of what the one that it tells this wrote, who
    /// may not reach them.
    #[serde(deserialize_with = "bounded::list::<_, _, ALIKE_MAX>")]
    pub alike: Vec<PeerId>,
    /// Digest of the words on checkpoints that the peer knows.
    pub checkpoints: [u8; 32],
    /// Whether the peer waits for a checkpoint.
    pub asks_checkpoint: bool,
}

/// What follows from the rows of a volume at a record, while nothing is tentative: the same for all
/// members that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The record.
    pub record: RecordRef,
    /// A keyed hash of its hash and of the sum of the rows.
    pub mac: [u8; 16],
}

/// Why a peer does not take a log any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogRefusal {
    /// Its next segment is dated further ahead of the peer's clock than is allowed.
    Ahead {
        /// How far, milliseconds.
        ahead_ms: u64,
    },
    /// It does not continue what the peer has: its author wrote two histories.
    Forked {
        /// The first segment that differs.
        seg_no: u64,
    },
    /// Its author may not write.
    NotAllowed,
    /// It builds on a record of the chain that the peer could not get.
    Unfounded {
        /// The number of the record.
        number: u64,
    },
}

/// What a stranger who knows the volume's id is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinInfo {
    /// The answering peer's wall clock, milliseconds since 1970.
    pub clock_ms: u64,
    /// The first statements of the roster; the rest by [`Request::RosterPull`].
    #[serde(deserialize_with = "bounded::list::<_, _, STATEMENTS_MAX>")]
    pub statements: Vec<StatementBytes>,
    /// How many statements there are in all.
    pub total: u32,
    /// Records of the admins that the peer knows: where an invite can be redeemed.
    #[serde(deserialize_with = "bounded::list::<_, _, RECORDS_MAX>")]
    pub admins: Vec<SignedRecord>,
    /// What the peer has folded, for who knows a recovery phrase and so admits itself; else empty.
    #[serde(deserialize_with = "bounded::map::<_, _, _, SHOWN_MAX>")]
    pub shown: Vector,
}

/// A request to become a member: sent to a verified admin alone, as it holds the secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeem {
    /// The volume.
    pub volume: VolumeId,
    /// The secret of the invite.
    pub secret: BoundedBytes<SECRET_MAX_BYTES>,
    /// The new member's keys.
    pub identity: PublicIdentity,
    /// The new member's name for people.
    #[serde(deserialize_with = "bounded::text::<_, NAME_MAX_BYTES>")]
    pub name: String,
}

impl std::fmt::Debug for Redeem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redeem")
            .field("volume", &self.volume)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a new member gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeemed {
    /// The statements that admit the new member.
    #[serde(deserialize_with = "bounded::list::<_, _, STATEMENTS_MAX>")]
    pub statements: Vec<StatementBytes>,
    /// Records of peers of the volume that the admin knows, its own among them.
    #[serde(deserialize_with = "bounded::list::<_, _, RECORDS_MAX>")]
    pub records: Vec<SignedRecord>,
    /// The volume keys, wrapped for the new member; `None` for a storage peer.
    pub wrapped_keys: Option<BoundedBytes<WRAPPED_KEYS_MAX_BYTES>>,
}

impl Request {
    /// Returns the bytes of the request.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Returns the request of its bytes.
    ///
    /// # Errors
    ///
    /// [`WireError`] for anything that is not a request of a known version within its limits;
    /// [`WireError::Unknown`] where only a newer program can tell what it is.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        codec::decode(bytes, "a request").map_err(|error| match error {
            WireError::Malformed { .. } => {
                let kinds = Kinds {
                    count: variants::count::<Self>(),
                    nested: (CHUNK_REQUEST, variants::count::<ChunkRequest>()),
                };
                codec::unknown_kind(bytes, &kinds)
                    .map_or(error, |found| WireError::Unknown { found })
            }
            error => error,
        })
    }
}

impl Response {
    /// Returns the bytes of the reply.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Returns the reply of its bytes.
    ///
    /// # Errors
    ///
    /// [`WireError`] for anything that is not a reply of a known version within its limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        codec::decode(bytes, "a reply")
    }
}
