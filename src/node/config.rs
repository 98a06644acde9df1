//! What a node is told by whoever embeds it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::task::Pool;
use crate::crypto::Identity;

/// How a node presents itself and whom it turns to.
#[derive(Clone)]
pub struct NodeConfig {
    /// This peer's secret.
    pub identity: Arc<Identity>,
    /// Name of this peer for people; cut to [`crate::wire::limits::NAME_MAX_BYTES`].
    pub name: String,
    /// Addresses that are dialled though nobody is known there yet (`--peer`).
    pub seeds: Vec<SocketAddr>,
    /// Addresses at which others may reach this peer, where the socket does not tell: a peer that
    /// listens on all interfaces, or behind a forwarded port. Observed ones are added.
    pub advertise: Vec<SocketAddr>,
    /// Bytes that this peer gives to the swarm.
    pub capacity_bytes: u64,
    /// Where signatures are checked and batches committed; a full queue makes the node's runtime
    /// wait, so it should not be shared with bulk work.
    pub pool: Pool,
}

impl std::fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeConfig")
            .field("peer", &self.identity.id())
            .field("name", &self.name)
            .field("seeds", &self.seeds)
            .finish_non_exhaustive()
    }
}
