//! A filesystem in this process, on a store in memory or on disk, and its mount.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dfs::base::task::Pool;
use dfs::base::time::SystemClock;
use dfs::base::{Clock, Rng, VolumeId, limits};
use dfs::crypto::{Identity, VolumeKeys};
use dfs::data::Data;
use dfs::fs::{Fs, FsConfig};
use dfs::fuse::{MountOptions, Mounted, Prepared};
use dfs::log::LogStore;
use dfs::log::chain::{Chain, Founding};
use dfs::replica::{Replica, ReplicaConfig};
use dfs::store::Store;
use dfs::volume::{Volume, VolumeConfig, VolumeContext};
use mount_tests::{machine, scenario};

/// Returns a filesystem over a fresh volume on `store`.
pub(crate) fn new_fs(store: Store) -> Arc<Fs> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let rng = Rng::from_entropy();
    let identity = Arc::new(Identity::generate(&rng).expect("an identity"));
    let keys = Arc::new(VolumeKeys::generate(&rng));
    let id = VolumeId([7; 32]);
    let log = LogStore::open(Arc::clone(&store.rows), id, identity.device(), 1);
    let log = Arc::new(log.expect("a log"));
    let founding = Founding {
        volume: id,
        founder: identity.device(),
    };
    let (rows, now) = (Arc::clone(&store.rows), clock.monotonic());
    let chain = Chain::open(rows, Arc::clone(&log), founding, identity.device(), now, 1);
    let config = VolumeConfig {
        store: store.clone(),
        log,
        chain: Arc::new(chain.expect("a chain")),
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
pub(crate) fn mount(
    fs: &Arc<Fs>,
    options: MountOptions,
    runtime: &tokio::runtime::Runtime,
) -> Mounted {
    let prepared = Prepared::new(options).expect("a mountpoint that fits");
    dfs::fuse::mount(&prepared, Arc::clone(fs), runtime.handle().clone()).expect("a mount")
}

/// A mounted filesystem of this process.
pub(crate) struct Local {
    pub(crate) fs: Arc<Fs>,
    pub(crate) mounted: Mounted,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) root: PathBuf,
}

impl Local {
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }
}

/// Runs a body on a mount in memory and takes it away in good order.
pub(crate) fn on_mount(name: &str, options: &str, body: impl FnOnce(&Local)) {
    scenario(name, 3 * MINUTES, |s| {
        let root = s.new_folder("mnt");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let fs = new_fs(Store::memory());
        let mut asked = MountOptions::new(&root);
        asked.parse(options).expect("known options");
        let mounted = mount(&fs, asked, &runtime);
        let local = Local {
            fs,
            mounted,
            runtime,
            root,
        };
        body(&local);
        let closed = local.runtime.block_on(local.mounted.close());
        assert!(closed.is_ok(), "{closed:?}");
        assert!(machine::mounts_below(&local.root).is_empty());
        local.fs.sync_all().expect("synced");
    });
}

/// Lets the kernel forget what it can, so that it asks again.
pub(crate) fn drop_caches() {
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
}

const MINUTES: Duration = Duration::from_secs(60);
