//! What a node tells its owner, and what its owner does for it.

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;

use super::error::NodeError;
use super::roster::Role;
use crate::base::{LogId, PeerId};
use crate::crypto::PublicIdentity;
use crate::wire::{ChunkRequest, ChunkResponse, LogRefusal, Refusal, Vector};

/// Something that happened at the node. A subscriber that falls behind loses the oldest events and
/// is told so by its receiver; every event can be made up for by asking for the state itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// A session with a peer stands, or a suspected one answers again.
    PeerUp(PeerId),
    /// A peer does not answer any more, or its session ended.
    PeerDown(PeerId),
    /// Segments of a log of another device were stored, durably, up to this number.
    Segments {
        /// Which log.
        log: LogId,
        /// The last number that is here.
        seg_no: u64,
    },
    /// A peer has another history of this device's log: this peer's state was restored from an old
    /// copy, or two run with one identity. What was written since is not taken by the others.
    OwnLogForked {
        /// The peer.
        peer: PeerId,
    },
    /// The roster changed: members came, left, or were removed.
    RosterChanged,
    /// There is no session with a peer, because one of the two refuses it.
    Refused {
        /// Where the peer is.
        addr: SocketAddr,
        /// The reason.
        refusal: Refusal,
    },
    /// A machine asks to be admitted, or was denied.
    AskingsChanged,
    /// The commit chain grew, durably.
    Chain,
    /// A newer checkpoint counts.
    Checkpoint {
        /// The number of its record.
        number: u64,
    },
}

/// How a peer stands to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerState {
    /// A session stands, and the peer answered in the last seconds.
    Connected,
    /// A session stands, but the peer has not answered for [`super::SUSPECT_AFTER`].
    Suspect,
    /// There is no session.
    Offline,
}

/// What is known of a peer of the roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// The peer.
    pub id: PeerId,
    /// Name for people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Where it is or was reached last; `None` where no address is known.
    pub addr: Option<SocketAddr>,
    /// How it stands to this peer.
    pub state: PeerState,
    /// Bytes a second that bulk went out at lately; 0 before any.
    pub sent_rate: u64,
    /// The same of what came in.
    pub received_rate: u64,
    /// Round-trip time of the session, milliseconds.
    pub rtt_ms: Option<u64>,
    /// Wall time of its last answer, milliseconds since 1970; `None` for never.
    pub last_contact_ms: Option<u64>,
    /// Bytes that it gives to the swarm, by its own word.
    pub capacity_bytes: u64,
    /// Bytes of them that are free, by its own word.
    pub free_bytes: u64,
    /// The segments that it had when it last told.
    pub vector: Vector,
    /// How far its clock was ahead of the own one when it last told, milliseconds.
    pub clock_ahead_ms: i64,
    /// Why there is no session, where one of the two refuses it.
    pub refusal: Option<Refusal>,
    /// Why it does not take this peer's log, where it does not.
    pub refuses_log: Option<LogRefusal>,
    /// Whether it said what only a newer program than this knows, since its session stands.
    pub says_newer: bool,
}

/// Serves what other peers ask about chunks.
#[async_trait]
pub trait ChunkHandler: Send + Sync + 'static {
    /// Answers one request of a member; `payload` is the raw bytes behind it, and the returned
    /// bytes travel raw behind the answer. Many run at once, bounded for each peer.
    async fn handle(
        &self,
        from: PeerId,
        request: ChunkRequest,
        payload: Bytes,
    ) -> (ChunkResponse, Bytes);
}

/// Draws the keys of an epoch that is to begin, and wraps them for each of its heirs, in their order;
/// `None` where the keys before it are not at hand. Taken over they are when they come by the roster.
pub type EpochDrawer = Box<dyn Fn(&[PublicIdentity]) -> Option<Vec<Vec<u8>>> + Send + Sync>;

/// Returns the last segments that this peer has folded, of which none is in the past of another, durable:
/// what a member of this role, that is about to be admitted, has to fold before it changes anything.
/// From then on nothing is given up that a member which writes may ask for.
pub type Shower = Box<dyn Fn(Role) -> Result<Vector, NodeError> + Send + Sync>;

/// Wraps the volume keys for a new member (OAEP); `None` where they are not at hand.
pub type KeyWrapper = Box<dyn Fn(&PublicIdentity) -> Option<Vec<u8>> + Send + Sync>;
