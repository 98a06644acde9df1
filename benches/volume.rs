//! How fast ops are applied here and merged from elsewhere: `cargo bench --bench volume`.
//!
//! Each line is one run on fresh stores; `memory` is the twin without a disk, `local` the real one
//! in a temporary folder (`TMPDIR`), without a sync between ops.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dfs::base::time::SimClock;
use dfs::base::{Clock, Ino, OpId, Rng, Timespec, VolumeId};
use dfs::crypto::{Identity, VolumeKeys};
use dfs::log::LogStore;
use dfs::log::chain::{Chain, Founding};
use dfs::store::Store;
use dfs::store::state::StateDir;
use dfs::volume::{
    Create, FileKind, OpKind, Piece, Place, Source, Volume, VolumeConfig, VolumeContext, Write,
};

const VOLUME: VolumeId = VolumeId([9; 32]);

/// Entries made in a directory before the next one is made.
const DIR_ENTRIES: usize = 1000;

struct Bench {
    rng: Rng,
    keys: Arc<VolumeKeys>,
    identities: Vec<Arc<Identity>>,
    local: bool,
}

struct Device {
    volume: Volume,
    log: Arc<LogStore>,
    clock: Arc<SimClock>,
    _folder: Option<tempfile::TempDir>,
}

impl Bench {
    fn new() -> Self {
        let rng = Rng::from_seed(1);
        let identity = |_| Arc::new(Identity::generate(&rng).expect("a key"));
        Self {
            identities: (0..2).map(identity).collect(),
            keys: Arc::new(VolumeKeys::generate(&rng)),
            local: false,
            rng,
        }
    }

    fn device(&self, index: usize, alone: bool) -> Device {
        let identity = Arc::clone(&self.identities[index]);
        let folder = self.local.then(|| tempfile::tempdir().expect("a folder"));
        let store = match &folder {
            Some(folder) => {
                let path = folder.path().join("state");
                StateDir::open_or_create(&path).expect("a state folder");
                Store::open(&path, &identity.local_key()).expect("a store")
            }
            None => Store::memory(),
        };
        let log = LogStore::open(Arc::clone(&store.rows), VOLUME, identity.device(), 1);
        let log = Arc::new(log.expect("a log"));
        let clock = SimClock::new(1_767_312_000_000);
        let founding = Founding {
            volume: VOLUME,
            founder: self.identities[0].device(),
        };
        let (rows, now) = (Arc::clone(&store.rows), clock.monotonic());
        let chain = Chain::open(rows, Arc::clone(&log), founding, identity.device(), now, 1);
        let config = VolumeConfig {
            store,
            log: Arc::clone(&log),
            chain: Arc::new(chain.expect("a chain")),
            keys: Arc::clone(&self.keys),
            identity,
            volume: VOLUME,
            name: format!("device {index}"),
        };
        let context = VolumeContext {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            rng: self.rng.clone(),
        };
        let volume = Volume::open(config, context, alone).expect("a volume");
        if index == 0 {
            volume.format(0, 0, 0o755).expect("a root");
        }
        Device {
            volume,
            log,
            clock,
            _folder: folder,
        }
    }

    fn report(&self, what: &str, count: usize, since: Start) {
        let seconds = since.wall.elapsed().as_secs_f64();
        let cpu_seconds = (cpu_ns() - since.cpu_ns) as f64 / 1e9;
        let store = if self.local { "local " } else { "memory" };
        let us = |seconds: f64| seconds * 1e6 / count as f64;
        println!(
            "{store} {what:<62} {count:>7} in {seconds:6.2} s {:>8.0}/s {:>7.2} us, cpu {:>7.2} us",
            count as f64 / seconds,
            us(seconds),
            us(cpu_seconds)
        );
    }

    fn run(&self) {
        for alone in [true, false] {
            let device = self.device(0, alone);
            let who = if alone { "alone" } else { "shared" };
            let start = now();
            let files = device.create("d", 100_000);
            self.report(&format!("create, {who}"), files.len(), start);
            let start = now();
            for (ino, version) in files.iter().take(30_000) {
                device.write(*ino, *version, 4096);
            }
            self.report(
                &format!("write 4 KiB into a new file, {who}"),
                30_000,
                start,
            );
            let start = now();
            device.volume.seal_drafts().expect("segments");
            self.report(&format!("seal, {who}"), 130_000, start);
            let start = now();
            for (ino, _) in files.iter().take(30_000) {
                let extents = device.volume.extents(*ino, 0..4096).expect("an answer");
                assert_eq!(extents.len(), 1);
            }
            self.report(&format!("extents of a small file, {who}"), 30_000, start);
            let start = now();
            for (ino, _) in files.iter().take(30_000) {
                assert!(device.volume.inode(*ino).expect("an answer").is_some());
            }
            self.report(&format!("inode, {who}"), 30_000, start);
        }
        let (a, b) = (self.device(0, false), self.device(1, false));
        let count = a.create("d", 100_000).len();
        a.volume.seal_drafts().expect("segments");
        let start = now();
        b.pull(&a);
        self.report("merge creates in order", count, start);
        self.crossing(
            "merge creates that cross in other folders",
            "x",
            "y",
            30_000,
        );
        self.crossing("merge creates that cross in one folder", "x", "x", 30_000);
    }

    fn crossing(&self, what: &str, first: &str, second: &str, count: usize) {
        let (a, b) = (self.device(0, false), self.device(1, false));
        a.volume.seal_drafts().expect("segments");
        b.pull(&a);
        for round in 0..count / DIR_ENTRIES {
            a.create(&format!("{first}{round}-"), DIR_ENTRIES);
            b.create(&format!("{second}{round}-"), DIR_ENTRIES);
            a.clock.advance(std::time::Duration::from_millis(5));
            b.clock.advance(std::time::Duration::from_millis(5));
        }
        a.volume.seal_drafts().expect("segments");
        let start = now();
        let undone = b.pull(&a);
        self.report(&format!("{what}, {undone} undone"), count, start);
    }
}

impl Device {
    fn create(&self, prefix: &str, count: usize) -> Vec<(Ino, OpId)> {
        let mut files = Vec::with_capacity(count);
        let mut dir = Ino::ROOT;
        for index in 0..count {
            if index % DIR_ENTRIES == 0 {
                let name = format!("{prefix}{}", index / DIR_ENTRIES);
                dir = self.make(Ino::ROOT, name, FileKind::Dir).0;
            }
            let name = format!("{prefix}file{index}");
            files.push(self.make(dir, name, FileKind::File));
        }
        files
    }

    fn make(&self, parent: Ino, name: String, kind: FileKind) -> (Ino, OpId) {
        let mut writer = self.volume.write().expect("free");
        let name = Bytes::from(name);
        assert!(writer.dirent(parent, &name).expect("an answer").is_none());
        let create = Create {
            at: Place { parent, name },
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: None,
            time: Timespec::default(),
            xattrs: Vec::new(),
        };
        let applied = writer.apply(OpKind::Create(create)).expect("applied");
        (applied.ino, applied.id)
    }

    fn write(&self, ino: Ino, base: OpId, len: u64) {
        let bytes = Bytes::from(vec![7; usize::try_from(len).expect("small")]);
        let write = Write {
            ino,
            base,
            size: len,
            pieces: vec![Piece {
                offset: 0,
                len,
                src: Some(Source::Inline(bytes)),
            }],
            mtime: Timespec::default(),
            ctime: Timespec::default(),
            mode: None,
            empties: false,
        };
        self.volume
            .write()
            .expect("free")
            .apply(OpKind::Write(write))
            .expect("applied");
    }

    fn pull(&self, from: &Self) -> usize {
        for (device, last) in from.log.offered() {
            let mut next = self.log.vector().get(&device).copied().unwrap_or(0) + 1;
            while next <= last {
                let range = from.log.range(device, next, 4 << 20).expect("segments");
                let accepted = self.log.accept(&range, u64::MAX >> 20, &|_| Ok(()));
                assert!(accepted.expect("stored").refused.is_empty());
                next += range.len() as u64;
            }
        }
        self.volume.apply_segments().expect("merged").undone_count
    }
}

/// When a measurement started.
struct Start {
    wall: Instant,
    cpu_ns: u64,
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark asks the machine for time"
)]
fn now() -> Start {
    Start {
        wall: Instant::now(),
        cpu_ns: cpu_ns(),
    }
}

/// Returns how long this thread has had a processor: what counts on a machine that is busy.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split_whitespace().next();
    first.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn main() {
    // `cargo bench --bench volume -- memory` runs one half alone.
    let only = std::env::args().find(|argument| argument == "memory" || argument == "local");
    let mut bench = Bench::new();
    for local in [false, true] {
        let name = if local { "local" } else { "memory" };
        if only.as_ref().is_none_or(|only| only == name) {
            bench.local = local;
            bench.run();
        }
    }
}
