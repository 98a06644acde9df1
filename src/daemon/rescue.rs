//! A mount of what is left of a damaged state folder, to copy out what only it has: read-only,
//! without a network, and nothing in the folder is changed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;

use super::birth::keys_in;
use super::config::{Config, Fsync, host_name};
use super::error::DaemonError;
use super::past;
use super::peer::{Parts, Peer};
use super::run::{FOLD_QUEUE_MAX, SEAL_QUEUE_MAX, Started, Stop, cores, pool, wait};
use crate::base::limits::MEMORY_CACHE_BYTES;
use crate::base::time::SystemClock;
use crate::base::{Clock, Rng};
use crate::crypto::Identity;
use crate::fs::FsConfig;
use crate::fuse::{self, Prepared};
use crate::node::NodeConfig;
use crate::replica::ReplicaConfig;
use crate::store::state::read_private;
use crate::store::{Rescued, Store, StoreError, holder};
use crate::transport::{Connection, Transport, TransportError};

/// Mounts what can be read, and serves until the mount is taken away or the process is to end.
pub(super) async fn serve(
    config: Config,
    prepared: Prepared,
    told: impl FnOnce(&Started),
) -> Result<(), DaemonError> {
    let mut stop = Stop::new()?;
    let path = config.state.join("identity.key");
    if holder(&config.state).is_some() {
        let path = config.state;
        return Err(StoreError::InUse { path }.into());
    }
    let Some(bytes) = read_private(&path)? else {
        return Err(StoreError::KeyMissing { path }.into());
    };
    let identity = Identity::from_bytes(&bytes);
    let identity = Arc::new(identity.map_err(|_| DaemonError::KeyDamaged { path })?);
    let (store, rescued) = Store::rescue(&config.state, &identity.local_key())?;
    let Some(keys) = keys_in(&store)? else {
        return Err(DaemonError::NothingLeft {
            state: config.state,
        });
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let node = NodeConfig {
        identity: Arc::clone(&identity),
        name: host_name(),
        seeds: Vec::new(),
        machine: Arc::new(Vec::new()),
        capacity_bytes: 0,
        pool: pool("node", 1, SEAL_QUEUE_MAX)?,
    };
    let fs = FsConfig {
        read_only: true,
        groups: Some(Arc::new(fuse::groups_of)),
        owner: Some(Arc::new(fuse::owner_of)),
        ..FsConfig::default()
    };
    let peer = Peer::start(Parts {
        identity,
        keys: Some(keys),
        store,
        transport: Arc::new(NoNetwork),
        clock,
        rng: Rng::from_entropy(),
        node,
        replica: ReplicaConfig {
            capacity_bytes: 0,
            cache_bytes: 0,
        },
        fs,
        memory_cache_bytes: MEMORY_CACHE_BYTES,
        seal_pool: pool("seal", cores(), SEAL_QUEUE_MAX)?,
        fold_pool: pool("fold", 1, FOLD_QUEUE_MAX)?,
        fsync: Fsync::Local,
    })
    .await?;
    let Some(member) = peer.member_parts() else {
        return Err(DaemonError::NothingLeft {
            state: config.state,
        });
    };
    let handle = tokio::runtime::Handle::current();
    past::show(member, handle.clone());
    let mounted = fuse::mount(&prepared, Arc::clone(&member.fs), handle)?;
    told(&Started {
        volume: peer.node().volume().to_string(),
        state: config.state,
        listen: NoNetwork.local_addr(),
        mountpoint: Some(prepared.mountpoint().to_owned()),
        new_volume: false,
        joined: false,
        rescued: Some(summary(&rescued)),
    });
    let outcome = wait(Some(mounted), &mut stop).await;
    peer.abandon().await;
    outcome
}

/// Returns what was found, one line.
fn summary(rescued: &Rescued) -> String {
    let Rescued {
        rows,
        lost,
        damages,
    } = rescued;
    let mut line = format!("{rows} rows could be read, {lost} pieces could not");
    for damage in damages {
        line.push_str("; ");
        line.push_str(damage);
    }
    line
}

/// Reaches nobody, and nobody reaches it.
struct NoNetwork;

#[async_trait]
impl Transport for NoNetwork {
    fn local_addr(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
    }

    async fn connect(&self, addr: SocketAddr) -> Result<Arc<dyn Connection>, TransportError> {
        Err(TransportError::Unreachable { addr })
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        std::future::pending().await
    }

    async fn close(&self) {}
}
