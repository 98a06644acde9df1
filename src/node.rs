//! The embedded peer: sessions, requests, the roster, joining, log sync, discovery.
//!
//! Owns: [`Node`] and what it keeps of the others ([`PeerInfo`], [`LogStore`], the roster), and
//! what it tells its owner ([`NodeEvent`]). Must never know: plaintext, names of files.

mod config;
mod error;
mod event;
pub mod log;
pub mod roster;
pub mod token;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;

pub use config::NodeConfig;
pub use error::NodeError;
pub use event::{ChunkHandler, KeyWrapper, NodeEvent, PeerInfo, PeerState};
pub use log::{Accepted, LogError, LogHead, LogStore};
pub use roster::{Member, Role, Roster, RosterError};
pub use token::{InviteSecret, InviteToken, TokenError};

use crate::base::{Clock, PeerId, Rng, VolumeId};
use crate::store::Store;
use crate::transport::Transport;
use crate::wire::{Request, Response, SealedSegment};

/// How long a peer may be silent before it is suspected.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(6);

/// A running peer.
pub struct Node {
    log: LogStore,
    events: broadcast::Sender<NodeEvent>,
    config: NodeConfig,
    volume: VolumeId,
    transport: Arc<dyn Transport>,
}

impl Node {
    /// Returns the volume that a store belongs to, `None` for a fresh one.
    pub fn volume_of(_store: &Store) -> Result<Option<VolumeId>, NodeError> {
        Ok(None)
    }

    /// Makes a new volume with this peer as its admin, in the store; durable on return.
    pub fn create_volume(
        _config: &NodeConfig,
        _store: &Store,
        _clock: &dyn Clock,
        _rng: &Rng,
    ) -> Result<VolumeId, NodeError> {
        Err(NodeError::NoVolume)
    }

    /// Starts the peer: its sessions, its syncing, its answers.
    pub fn start(
        transport: Arc<dyn Transport>,
        config: NodeConfig,
        store: Store,
        _clock: Arc<dyn Clock>,
        _rng: Rng,
    ) -> Result<Arc<Self>, NodeError> {
        let volume = Self::volume_of(&store)?.ok_or(NodeError::NoVolume)?;
        let log = LogStore::open(Arc::clone(&store.rows), volume, config.identity.device())?;
        let (events, _) = broadcast::channel(1024);
        Ok(Arc::new(Self {
            log,
            events,
            config,
            volume,
            transport,
        }))
    }

    /// Ends all tasks and sessions and closes the transport.
    pub async fn shutdown(&self) {
        self.transport.close().await;
    }

    /// Returns this peer.
    pub fn id(&self) -> PeerId {
        self.config.identity.id()
    }

    /// Returns the volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Returns what this peer may do.
    pub fn role(&self) -> Role {
        Role::Admin
    }

    /// Returns the address that the transport listens at.
    pub fn local_addr(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    /// Returns what is known of each other peer of the roster, in the order of their ids.
    pub fn peers(&self) -> Vec<PeerInfo> {
        Vec::new()
    }

    /// Returns the peers with a session that answer.
    pub fn connected(&self) -> Vec<PeerId> {
        Vec::new()
    }

    /// Returns up to `n` peers of the roster closest to a key, this one included, closest first.
    pub fn closest(&self, _key: &[u8; 32], _n: usize) -> Vec<PeerId> {
        vec![self.id()]
    }

    /// Sends a request to a connected peer; `within` bounds all of it.
    pub async fn request(
        &self,
        peer: PeerId,
        _request: Request,
        _payload: Bytes,
        _within: Duration,
    ) -> Result<(Response, Bytes), NodeError> {
        Err(NodeError::NotConnected { peer })
    }

    /// Sets who answers what others ask about chunks; until then they are told to try later.
    pub fn set_chunk_handler(&self, _handler: Arc<dyn ChunkHandler>) {}

    /// Sets how the volume keys are wrapped for a new member.
    pub fn set_key_wrapper(&self, _wrapper: KeyWrapper) {}

    /// Says how many bytes this peer could still take.
    pub fn set_free_bytes(&self, _free_bytes: u64) {}

    /// Returns the logs.
    pub fn log(&self) -> &LogStore {
        &self.log
    }

    /// Tells the peers of own segments that are in the log durably: they are pushed at once.
    pub fn publish(&self, segments: &[SealedSegment]) {
        if let Some(last) = segments.last() {
            self.log.publish(last.header.seg_no);
        }
    }

    /// Returns how many own segments are not yet on `copies` peers, this one included.
    pub fn unpushed_segments(&self, _copies: usize) -> u64 {
        0
    }

    /// Returns a receiver of everything that happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<NodeEvent> {
        self.events.subscribe()
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}
