//! What a node is told by whoever embeds it.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::base::task::Pool;
use crate::crypto::Identity;

/// How a node presents itself and whom it turns to.
#[derive(Clone)]
pub struct NodeConfig {
    /// This peer's secret.
    pub identity: Arc<Identity>,
    /// Name of this peer for people; cut to [`crate::wire::limits::NAME_MAX_BYTES`].
    pub name: String,
    /// HOST:PORT that are dialled though nobody is known there yet (`--peer`); looked up anew at
    /// each dial.
    pub seeds: Vec<String>,
    /// The machine around the node.
    pub machine: Arc<dyn Machine>,
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

/// What the machine around a node knows of the network, asked whenever it is needed: addresses come
/// and go, and names move.
#[async_trait]
pub trait Machine: Send + Sync + 'static {
    /// Returns where others may reach a socket that is bound to `listen` now, the likeliest first.
    /// Observed addresses are added by the node.
    fn addrs(&self, listen: SocketAddr) -> Vec<SocketAddr>;

    /// Looks a HOST:PORT up, within a time of its own; empty where it leads nowhere now.
    async fn resolve(&self, host: &str) -> Vec<SocketAddr>;
}

/// A machine that never moves, and knows no names.
#[async_trait]
impl Machine for Vec<SocketAddr> {
    fn addrs(&self, _: SocketAddr) -> Self {
        self.clone()
    }

    async fn resolve(&self, host: &str) -> Self {
        host.parse().into_iter().collect()
    }
}
