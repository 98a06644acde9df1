//! A filesystem with all rooms below it, on a store in memory.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dfs::base::task::Pool;
use dfs::base::time::SimClock;
use dfs::base::{Clock, Rng, VolumeId};
use dfs::crypto::{Identity, VolumeKeys};
use dfs::data::Data;
use dfs::fs::{Fs, FsConfig};
use dfs::node::LogStore;
use dfs::replica::{Replica, ReplicaConfig};
use dfs::store::Store;
use dfs::volume::{Volume, VolumeConfig, VolumeContext};

static IDENTITY: LazyLock<Arc<Identity>> =
    LazyLock::new(|| Arc::new(Identity::generate(&Rng::from_seed(1)).unwrap()));

const VOLUME: VolumeId = VolumeId([7; 32]);

/// Where a filesystem lives while it is not mounted.
pub(super) struct Disk {
    pub(super) store: Store,
    pub(super) keys: Arc<VolumeKeys>,
    pub(super) clock: Arc<SimClock>,
    /// No other device authors ops: nothing is kept for undoing.
    pub(super) alone: bool,
}

impl Disk {
    /// Returns an empty disk with a new volume.
    pub(super) fn new() -> Self {
        Self::on(Store::memory())
    }

    /// Returns an empty store with a new volume.
    pub(super) fn on(store: Store) -> Self {
        let disk = Self {
            store,
            keys: Arc::new(VolumeKeys::generate(&Rng::from_seed(2))),
            clock: SimClock::new(1_700_000_000_000),
            alone: true,
        };
        disk.volume().format(0, 0, 0o755).unwrap();
        disk
    }

    /// Returns the time of day in whole seconds.
    pub(super) fn now(&self) -> i64 {
        self.clock.wall().secs
    }

    /// Lets a second pass.
    pub(super) fn advance(&self) {
        self.clock.advance(Duration::from_secs(1));
    }

    /// Mounts with small limits, so that they are met.
    pub(super) fn mount(&self) -> Fs {
        self.mount_with(FsConfig {
            dirty_bytes_max: 3 << 20,
            ..FsConfig::default()
        })
    }

    /// Mounts.
    pub(super) fn mount_with(&self, config: FsConfig) -> Fs {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let replica = Replica::new(
            self.store.clone(),
            None,
            ReplicaConfig::default(),
            Arc::clone(&clock),
            Pool::inline(),
        )
        .unwrap();
        let data = Data::new(
            Arc::clone(&self.keys),
            replica,
            Pool::inline(),
            Arc::clone(&clock),
            4 << 20,
        );
        Fs::new(Arc::new(self.volume()), data, clock, config)
    }

    fn volume(&self) -> Volume {
        let rows = Arc::clone(&self.store.rows);
        let log = LogStore::open(rows, VOLUME, IDENTITY.device()).unwrap();
        let config = VolumeConfig {
            store: self.store.clone(),
            log: Arc::new(log),
            keys: Arc::clone(&self.keys),
            identity: Arc::clone(&IDENTITY),
            volume: VOLUME,
            name: "laptop".to_owned(),
        };
        let context = VolumeContext {
            clock: self.clock.clone(),
            rng: Rng::from_seed(3),
        };
        Volume::open(config, context, self.alone).unwrap()
    }
}
