//! The other peers as this room needs them; the node implements it, tests have their own.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;

use super::placement::Candidate;
use crate::base::{ChunkId, PeerId};
use crate::crypto::ProvenPart;
use crate::node::{NodeEvent, Transfer};
use crate::transport::Priority;

/// The swarm around this peer. Nothing that it returns is trusted: ids are checked by the caller.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Returns this peer's own id.
    fn me(&self) -> PeerId;

    /// Returns every peer of the roster that stores chunks, this one included where it does.
    fn candidates(&self) -> Vec<Candidate>;

    /// Returns the peers that have a session now, in the order of their ids.
    fn links(&self) -> Vec<Link>;

    /// Tells whether peers without a session may have one in a moment.
    fn expects_more(&self) -> bool {
        false
    }

    /// Asks `peer` one question for `transfer`, whose progress it shows; `timeout` counts from the
    /// last of it. A peer without a session may be dialled.
    async fn ask_for(
        &self,
        peer: PeerId,
        ask: Ask,
        timeout: Duration,
        transfer: &Transfer,
    ) -> Result<Answer, AskError>;

    /// Asks `peer` one question that nobody waits for; see [`Peers::ask_for`].
    async fn ask(&self, peer: PeerId, ask: Ask, timeout: Duration) -> Result<Answer, AskError> {
        let transfer = Transfer::new(Priority::Background);
        self.ask_for(peer, ask, timeout, &transfer).await
    }

    /// Finds the peers closest to `id` that the swarm knows of, beyond the roster of this peer.
    async fn lookup(&self, id: &ChunkId) -> Vec<PeerId>;

    /// Returns the newest record of the chain that this peer knows.
    fn newest_record(&self) -> u64;

    /// Returns the stream of what changes from now on; a receiver that lags must look anew.
    fn subscribe(&self) -> broadcast::Receiver<NodeEvent>;
}

/// A peer with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Who it is.
    pub peer: PeerId,
    /// The measured round trip.
    pub rtt: Duration,
    /// Bytes a second that bulk went out at lately; 0 before any.
    pub sent_rate: u64,
}

/// A question about chunks.
#[derive(Debug, Clone)]
pub enum Ask {
    /// Which of these does the peer hold? What it has only cached, it holds from then on. With the newest
    /// record that was known to who asked for the last of them.
    Hold(Vec<ChunkId>, u64),
    /// Hold these, with the record as for [`Ask::Hold`]; at most [`super::limits::PUT_BATCH_CHUNKS`] of
    /// them.
    Put(Vec<(ChunkId, Bytes)>, u64),
    /// Send this one.
    Get(ChunkId),
    /// Send these of its sealed bytes; at most [`super::limits::PART_MAX_BYTES`].
    GetPart(ChunkId, Range<usize>),
    /// Which of these does the peer hold? Changes nothing there.
    Query(Vec<ChunkId>),
    /// The asking peer has lost these, and found nobody who has them.
    Lost(Vec<ChunkId>),
    /// Which of these does anything name that the peer sees?
    Named(Vec<ChunkId>),
    /// There is something to collect.
    Collect,
}

/// The answer to an [`Ask`], of the same kind.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To a `Hold` or `Query`: one flag for each id asked, in order: held durably.
    Hold(Vec<bool>),
    /// One outcome for each chunk sent, in order.
    Put(Vec<PutOutcome>),
    /// The sealed bytes, unverified; `None` where the peer has not got them.
    Get(Option<Bytes>),
    /// The part, unverified; `None` where the peer has not got the chunk.
    GetPart(Option<ProvenPart>),
    /// To a get: the peer is putting this chunk to who asks, and goes on with that.
    Coming,
    /// To what is only told.
    Noted,
    /// To a `Named`: one flag for each id asked, in order, and the record below which no op on its way
    /// was issued.
    Named {
        /// That record.
        base_line: u64,
        /// Whether something names the chunk.
        named: Vec<bool>,
    },
}

/// What a holder did with a chunk that was put to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is on the holder's disk, durably.
    Stored,
    /// The holder has no room left.
    Full,
    /// The bytes do not hash to the id.
    Corrupt,
    /// The holder could not write it.
    Failed,
}

/// Why a question got no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No session, and none could be made.
    #[error("the peer cannot be reached")]
    Unreachable,
    /// No answer in time.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The peer refused, or answered another question.
    #[error("the peer refused or answered nonsense")]
    Refused,
}
