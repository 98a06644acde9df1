//! A filesystem with all rooms below it, on a store in memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dfs::base::task::Pool;
use dfs::base::time::SimClock;
use dfs::base::{Clock, Rng, Timespec, VolumeId};
use dfs::crypto::{Identity, VolumeKeys};
use dfs::data::Data;
use dfs::fs::{Fs, FsConfig};
use dfs::log::LogStore;
use dfs::log::chain::{Chain, Founding};
use dfs::replica::{Replica, ReplicaConfig};
use dfs::store::Store;
use dfs::store::memory::MemoryDisk;
use dfs::volume::{Volume, VolumeConfig, VolumeContext};

use crate::volume_laws::cluster::shared_rows;

static IDENTITY: LazyLock<Arc<Identity>> =
    LazyLock::new(|| Arc::new(Identity::generate(&Rng::from_seed(1)).unwrap()));

/// The device that folds everything from scratch.
static ORACLE: LazyLock<Arc<Identity>> =
    LazyLock::new(|| Arc::new(Identity::generate(&Rng::from_seed(4)).unwrap()));

const VOLUME: VolumeId = VolumeId([7; 32]);

/// Where a filesystem lives while it is not mounted.
pub(crate) struct Disk {
    pub(crate) store: Store,
    /// What remembers what is durable, where power cuts are among the operations.
    memory: Option<MemoryDisk>,
    pub(super) keys: Arc<VolumeKeys>,
    pub(crate) clock: Arc<SimClock>,
    /// No other device authors ops: nothing is kept for undoing.
    pub(crate) alone: bool,
    /// How often the volume was opened: each start begins a log of its own.
    runs: AtomicU64,
}

impl Disk {
    /// Returns an empty disk with a new volume.
    pub(crate) fn new() -> Self {
        Self::on(Store::memory())
    }

    /// Returns an empty store with a new volume.
    pub(crate) fn on(store: Store) -> Self {
        let disk = Self::found_on(store);
        disk.volume().format(0, 0, 0o755).unwrap();
        disk
    }

    /// Says whether no other device authors ops.
    pub(crate) fn alone(self, alone: bool) -> Self {
        Self { alone, ..self }
    }

    /// Returns a store that holds a volume, or nothing yet.
    pub(crate) fn found_on(store: Store) -> Self {
        Self {
            store,
            memory: None,
            keys: Arc::new(VolumeKeys::generate(&Rng::from_seed(2))),
            clock: SimClock::new(1_700_000_000_000),
            alone: true,
            runs: AtomicU64::default(),
        }
    }

    /// Returns an empty disk with a new volume that can lose power.
    pub(super) fn losing_power() -> Self {
        let memory = MemoryDisk::new();
        let disk = Self::on(memory.store());
        disk.store.sync().unwrap();
        Self {
            memory: Some(memory),
            ..disk
        }
    }

    /// Returns what can be told to be full.
    pub(super) fn memory(&self) -> MemoryDisk {
        self.memory.clone().expect("a disk in memory")
    }

    /// Loses power: what was never synced is gone, but for a prefix that `chance` chooses.
    pub(super) fn cut_power(&mut self, chance: &Rng) {
        let memory = self.memory.as_ref().expect("a disk that can lose power");
        let left = memory.crash(chance);
        self.store = left.store();
        self.memory = Some(left);
    }

    /// Returns the time of day.
    pub(super) fn time(&self) -> Timespec {
        self.clock.wall()
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

    /// Checks that the view is the fold of the log from scratch, as another device does it. For
    /// volumes with other authors: one alone forgets what nobody can ask for.
    pub(crate) fn check_fold(&self) {
        assert!(!self.alone);
        let (log, volume) = self.open(self.store.clone(), &IDENTITY);
        volume.seal_drafts().unwrap();
        let other = Store::memory();
        let (copy, oracle) = self.open(other.clone(), &ORACLE);
        let logs = log.logs_of(IDENTITY.device()).into_iter();
        let range = |name| log.range(name, 1, usize::MAX).unwrap();
        let segments: Vec<_> = logs.flat_map(range).collect();
        let now = self.clock.wall_ms();
        let accepted = copy.accept(&segments, now, &|_| Ok(())).unwrap();
        assert!(accepted.refused.is_empty());
        let merged = oracle.apply_segments().unwrap();
        assert!(merged.refused.is_empty());
        assert!(merged.waiting.is_empty(), "a segment names what is nowhere");
        let (rows, expected) = (shared_rows(&self.store), shared_rows(&other));
        for (key, row) in &expected {
            assert_eq!(rows.get(key), Some(row), "row {key:?}");
        }
        assert_eq!(rows.len(), expected.len());
    }

    fn volume(&self) -> Volume {
        self.open(self.store.clone(), &IDENTITY).1
    }

    fn open(&self, store: Store, identity: &Arc<Identity>) -> (Arc<LogStore>, Volume) {
        let rows = Arc::clone(&store.rows);
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let log = Arc::new(LogStore::open(rows, VOLUME, identity.device(), run).unwrap());
        let founding = Founding {
            volume: VOLUME,
            founder: IDENTITY.device(),
        };
        let (rows, now) = (Arc::clone(&store.rows), self.clock.monotonic());
        let of = Arc::clone(&log);
        let chain = Chain::open(rows, of, founding, identity.device(), now, run).unwrap();
        let config = VolumeConfig {
            store,
            log: Arc::clone(&log),
            chain: Arc::new(chain),
            keys: Arc::clone(&self.keys),
            identity: Arc::clone(identity),
            volume: VOLUME,
            name: "laptop".to_owned(),
        };
        let context = VolumeContext {
            clock: self.clock.clone(),
            rng: Rng::from_seed(3),
        };
        (log, Volume::open(config, context, self.alone).unwrap())
    }
}
