//! A filesystem in this process, on a store in memory or on disk, and its mount.

use std::path::Path;
use std::sync::Arc;

use dfs::base::task::Pool;
use dfs::base::time::SystemClock;
use dfs::base::{Clock, Rng, VolumeId, limits};
use dfs::crypto::{Identity, VolumeKeys};
use dfs::data::Data;
use dfs::fs::{Fs, FsConfig};
use dfs::fuse::{MountOptions, Mounted, Prepared};
use dfs::log::LogStore;
use dfs::replica::{Replica, ReplicaConfig};
use dfs::store::Store;
use dfs::volume::{Volume, VolumeConfig, VolumeContext};

/// Returns a filesystem over a fresh volume on `store`.
pub(crate) fn new_fs(store: Store) -> Arc<Fs> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let rng = Rng::from_entropy();
    let identity = Arc::new(Identity::generate(&rng).expect("an identity"));
    let keys = Arc::new(VolumeKeys::generate(&rng));
    let id = VolumeId([7; 32]);
    let log = LogStore::open(Arc::clone(&store.rows), id, identity.device()).expect("a log");
    let config = VolumeConfig {
        store: store.clone(),
        log: Arc::new(log),
        keys: Arc::clone(&keys),
        identity,
        volume: id,
        name: "test".to_owned(),
    };
    let context = VolumeContext {
        clock: Arc::clone(&clock),
        rng,
    };
    let volume = Volume::open(config, context, true).expect("a volume");
    volume.format(0, 0, 0o755).expect("a root");
    let pool = Pool::threads("seal", 2, 64).expect("threads");
    let settings = ReplicaConfig::default();
    let replica = Replica::new(store, None, settings, Arc::clone(&clock), pool.clone());
    let replica = replica.expect("a replica");
    let cache = limits::MEMORY_CACHE_BYTES;
    let data = Data::new(keys, replica, pool, Arc::clone(&clock), cache);
    // As a daemon has it: many requests do not say who asks.
    let config = FsConfig {
        groups: Some(Arc::new(dfs::fuse::groups_of)),
        owner: Some(Arc::new(dfs::fuse::owner_of)),
        ..FsConfig::default()
    };
    Arc::new(Fs::new(Arc::new(volume), data, clock, config))
}

/// Mounts a filesystem.
pub(crate) fn mount(fs: &Arc<Fs>, at: &Path, runtime: &tokio::runtime::Runtime) -> Mounted {
    let prepared = Prepared::new(MountOptions::new(at)).expect("a mountpoint that fits");
    dfs::fuse::mount(&prepared, Arc::clone(fs), runtime.handle().clone()).expect("a mount")
}
