//! What a merge of long histories costs, and who waits for it: `cargo bench --bench merge -- [CASE]... [--ops N]
//! [--row-cache MIB]`.
//!
//! Two devices on real stores in a temporary folder (`TMPDIR`) are apart while each makes so many ops
//! (100,000), and then one takes what the other has. A second thread meanwhile looks names up, makes
//! files and syncs. Each line says how fast that was, what was undone, how much memory it took above what
//! the process had before (when the device had walked as many other files, and read its rows again as
//! members do in rounds), the largest batch that it handed to the store, and how long the other thread had to wait.
//! Caches and tables are a daemon's where nothing is said; `--row-cache` bounds the blocks of the database
//! that are kept: a larger cache is not full after so few ops, and fills in the merge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs::base::memory::Budget;
use dfs::base::time::SimClock;
use dfs::base::{Clock, DeviceId, Ino, OpId, Rng, Timespec, VolumeId};
use dfs::crypto::{Identity, Signature, VolumeKeys};
use dfs::log::LogStore;
use dfs::log::chain::{Chain, Founding, Notary, Outcome, Proposal, Record, VOTE_DOMAIN, Vote};
use dfs::store::state::StateDir;
use dfs::store::{Batch, KeyVisitor, RowVisitor, Rows, Store, StoreError, StoreOptions, Table};
use dfs::volume::{
    Create, Dirent, FileKind, OpKind, Piece, Place, Source, Volume, VolumeConfig, VolumeContext,
    Write,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOLUME: VolumeId = VolumeId([9; 32]);

/// Rows that take note of the largest batch.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn Rows>,
    largest: AtomicUsize,
}

impl Rows for Watched {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.inner.scan(table, start, end, f)
    }

    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.inner.scan_rev(table, start, end, f)
    }

    fn scan_keys(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut KeyVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.inner.scan_keys(table, start, end, f)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let bytes = batch.iter();
        let bytes = bytes.map(|(_, key, value)| key.len() + value.map_or(0, <[u8]>::len));
        self.largest.fetch_max(bytes.sum(), Ordering::Relaxed);
        self.inner.commit(batch)
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.inner.settle()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }
}

struct Bench {
    rng: Rng,
    keys: Arc<VolumeKeys>,
    identities: Vec<Arc<Identity>>,
    /// Ops on each side.
    ops: usize,
    /// Memory for blocks of the row database, where it is to be another than a daemon's.
    row_cache_bytes: Option<u64>,
}

struct Device {
    index: usize,
    volume: Volume,
    log: Arc<LogStore>,
    chain: Arc<Chain>,
    clock: Arc<SimClock>,
    rows: Arc<Watched>,
    judge: Judge,
    _folder: tempfile::TempDir,
}

/// Signs as one device, and verifies as everybody does.
struct Judge {
    own: Arc<Identity>,
    all: Vec<Arc<Identity>>,
}

impl Notary for Judge {
    fn sign(&self, vote: &Vote) -> Signature {
        self.own.sign(VOTE_DOMAIN, &vote.to_bytes())
    }

    fn verify(&self, device: DeviceId, vote: &Vote, signature: &Signature) -> bool {
        let author = self.all.iter().find(|author| author.device() == device);
        author.is_some_and(|author| {
            let public = author.public();
            public
                .verify(VOTE_DOMAIN, &vote.to_bytes(), signature)
                .is_ok()
        })
    }

    fn may_begin_era(&self, _: DeviceId) -> bool {
        false
    }

    fn seniority(&self, _: DeviceId) -> Option<u64> {
        None
    }

    fn ends(&self, _: &Record, _: DeviceId) -> bool {
        false
    }

    fn endorses(&self, _: &Record) -> bool {
        true
    }
}

impl Bench {
    fn device(&self, index: usize) -> Device {
        let identity = Arc::clone(&self.identities[index]);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        StateDir::open_or_create(&path).expect("a state folder");
        // As a daemon has them, where nothing else is said.
        let mut options = StoreOptions::within(Budget::of_caches());
        if let Some(bytes) = self.row_cache_bytes {
            options.row_cache_bytes = bytes;
        }
        let key = identity.local_key();
        let mut store = Store::open_with(&path, &key, &options).expect("a store");
        let rows = Arc::new(Watched {
            inner: Arc::clone(&store.rows),
            largest: AtomicUsize::new(0),
        });
        store.rows = Arc::<Watched>::clone(&rows);
        let log = LogStore::open(Arc::clone(&store.rows), VOLUME, identity.device(), 1);
        let log = Arc::new(log.expect("a log"));
        log.stand_on([1; 32]);
        let clock = SimClock::new(1_767_312_000_000);
        let founding = Founding {
            volume: VOLUME,
            founder: self.identities[0].device(),
        };
        if index == 0 {
            let mut batch = Batch::new();
            Chain::found(&mut batch, founding).expect("a founding");
            store.rows.commit(batch).expect("committed");
        }
        let (chain_rows, now) = (Arc::clone(&store.rows), clock.monotonic());
        let of = Arc::clone(&log);
        let chain = Chain::open(chain_rows, of, founding, identity.device(), now, 1);
        let chain = Arc::new(chain.expect("a chain"));
        let config = VolumeConfig {
            store,
            log: Arc::clone(&log),
            chain: Arc::clone(&chain),
            keys: Arc::clone(&self.keys),
            identity: Arc::clone(&identity),
            volume: VOLUME,
            name: format!("device {index}"),
        };
        let context = VolumeContext {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            rng: self.rng.clone(),
        };
        let volume = Volume::open(config, context, false).expect("a volume");
        if index == 0 {
            volume.format(0, 0, 0o755).expect("a root");
        }
        Device {
            index,
            volume,
            log,
            chain,
            clock,
            rows,
            judge: Judge {
                own: identity,
                all: self.identities.clone(),
            },
            _folder: folder,
        }
    }

    /// Returns two devices that both know what `prepare` made on the first, and as many other files as
    /// fill what a device keeps in memory.
    fn pair(&self, prepare: impl FnOnce(&Device)) -> (Device, Device) {
        let (a, b) = (self.device(0), self.device(1));
        let base = a.mkdir(Ino::ROOT, "base");
        a.creates(base, "base-", self.ops);
        prepare(&a);
        a.mkdir(Ino::ROOT, "probe");
        a.publish();
        a.commit();
        b.pull(&a);
        b.volume.announce().expect("a name");
        b.publish();
        a.pull(&b);
        a.commit();
        b.pull(&a);
        (a, b)
    }

    fn report(&self, what: &str, at: &Device, from: &Device, count: usize) {
        let (merged, seen) = at.pull_watched(from);
        let seconds = merged.time.as_secs_f64();
        let p = |waits: &mut Vec<Duration>| {
            waits.sort_unstable();
            let at = |part: usize| waits.get(waits.len() * part / 1000);
            let ms = |wait: Option<&Duration>| wait.map_or(0.0, |wait| wait.as_secs_f64() * 1e3);
            format!("{:.1}/{:.0}", ms(at(990)), ms(waits.last()))
        };
        let mut waits = seen;
        println!(
            "{what:<46} {:>6.2} s {:>7.0}/s, {:>5.2} s busy {:>7.0}/s  undone {:>7}  +{:>4} MiB  batch {:>5.1} MiB  \
             p99/max ms: lookup {:>9} create {:>9} fsync {:>9}",
            seconds,
            count as f64 / seconds,
            merged.busy.as_secs_f64(),
            count as f64 / merged.busy.as_secs_f64(),
            merged.undone,
            merged.memory >> 20,
            merged.largest as f64 / (1 << 20) as f64,
            p(&mut waits[0]),
            p(&mut waits[1]),
            p(&mut waits[2]),
        );
    }

    fn run(&self, case: &str) {
        let n = self.ops;
        let names = |device: &Device| format!("of-{}-", device.index);
        match case {
            "order" => {
                let (a, b) = self.pair(|a| {
                    a.mkdir(Ino::ROOT, "d");
                });
                a.creates(a.dir("d"), &names(&a), n);
                a.publish();
                self.report("in order, no records", &b, &a, n);
            }
            "order-records" => {
                let (a, b) = self.pair(|a| {
                    a.mkdir(Ino::ROOT, "d");
                });
                a.with_records(n, |index| {
                    a.create(a.dir("d"), &format!("{}{index}", names(&a)));
                });
                self.report("in order, records", &b, &a, n);
            }
            "cross" | "cross-records" => {
                let (a, b) = self.pair(|a| {
                    a.mkdir(Ino::ROOT, "d");
                });
                let make = |device: &Device, index: usize| {
                    let name = match index % 1000 {
                        0 => format!("same-{index}"),
                        _ => format!("{}{index}", names(device)),
                    };
                    device.create(device.dir("d"), &name);
                };
                self.apart(case, &a, &b, &make, &make);
                self.both(case, &a, &b);
            }
            "write" | "write-records" => {
                let (a, b) = self.pair(|a| {
                    a.create(Ino::ROOT, "f");
                });
                let write = |device: &Device, index: usize| {
                    let (ino, version) = device.file("f");
                    device.write(ino, version, (index % 64) as u64 * 64, 64);
                    // Else one op carries all.
                    if index.is_multiple_of(64) {
                        device.publish();
                    }
                };
                self.apart(case, &a, &b, &write, &write);
                self.both(case, &a, &b);
            }
            "rename" | "rename-records" => {
                let (a, b) = self.pair(|a| {
                    let x = a.mkdir(Ino::ROOT, "x");
                    a.mkdir(Ino::ROOT, "y");
                    a.mkdir(x, "d");
                });
                let rename = |device: &Device, index: usize| {
                    let (x, y) = (device.dir("x"), device.dir("y"));
                    let (from, to) = if index.is_multiple_of(2) {
                        (x, y)
                    } else {
                        (y, x)
                    };
                    device.rename(from, to, "d");
                };
                let d = b.at(b.dir("x"), "d");
                let make = |device: &Device, index: usize| {
                    device.create(d, &format!("{}{index}", names(device)));
                };
                self.apart(case, &a, &b, &rename, &make);
                self.both(case, &a, &b);
            }
            "remove" | "remove-records" => {
                let half = n / 2;
                let (a, b) = self.pair(|a| {
                    let d = a.mkdir(Ino::ROOT, "d");
                    a.creates(d, "file", half);
                });
                let d = a.dir("d");
                let remove = |device: &Device, index: usize| {
                    if index < half {
                        device.unlink(d, &format!("file{index}"));
                    } else if index == half {
                        device.rmdir("d");
                    }
                };
                let write = |device: &Device, index: usize| {
                    let ino = device.at(d, &format!("file{}", index % half));
                    let version = device
                        .volume
                        .inode(ino)
                        .expect("rows")
                        .expect("there")
                        .version;
                    device.write(ino, version, 0, 64);
                };
                self.apart(case, &a, &b, &remove, &write);
                self.both(case, &a, &b);
            }
            "dirs" | "dirs-records" => {
                let (a, b) = self.pair(|_| {});
                let make = |device: &Device, index: usize| {
                    if index == 0 {
                        device.mkdir(Ino::ROOT, "same");
                    }
                    device.create(device.dir("same"), &format!("{}{index}", names(device)));
                };
                self.apart(case, &a, &b, &make, &make);
                self.both(case, &a, &b);
            }
            "pieces" | "pieces-records" => {
                let (a, b) = self.pair(|a| {
                    a.create(Ino::ROOT, "f");
                });
                let write = |device: &Device, index: usize| {
                    let (ino, version) = device.file("f");
                    device.write(ino, version, index as u64 * 128, 64);
                };
                self.apart(case, &a, &b, &write, &write);
                self.both(case, &a, &b);
            }
            _ => eprintln!("no such case: {case}"),
        }
    }

    /// Lets each of two devices do its ops without having seen those of the other, in the same time.
    /// With records the first one is the only voter.
    fn apart(
        &self,
        case: &str,
        a: &Device,
        b: &Device,
        on_a: &dyn Fn(&Device, usize),
        on_b: &dyn Fn(&Device, usize),
    ) {
        if case.ends_with("-records") {
            a.with_records(self.ops, |index| on_a(a, index));
        } else {
            a.without(self.ops, |index| on_a(a, index));
        }
        b.without(self.ops, |index| on_b(b, index));
    }

    /// Lets each of two devices take what the other has: the second is the one that comes back.
    fn both(&self, case: &str, a: &Device, b: &Device) {
        self.report(&format!("{case}: who comes back"), b, a, self.ops);
        self.report(&format!("{case}: who was there"), a, b, self.ops);
        if case.ends_with("-records") {
            a.commit();
            self.report(&format!("{case}: the records of that"), b, a, self.ops);
        }
        let (left, right) = (a.volume.counts(), b.volume.counts());
        if (left.inodes, left.conflicts) != (right.inodes, right.conflicts) {
            println!("  the two differ by the files of the other thread: {left:?} {right:?}");
        }
    }
}

struct Pulled {
    time: Duration,
    /// How long the thread that merges was on a processor.
    busy: Duration,
    undone: usize,
    memory: usize,
    largest: usize,
}

impl Device {
    fn with_records(&self, count: usize, op: impl Fn(usize)) {
        for index in 0..count {
            op(index);
            self.tick(index);
            if index % 4096 == 4095 {
                self.publish();
                self.commit();
            }
        }
        self.publish();
        self.commit();
    }

    fn without(&self, count: usize, op: impl Fn(usize)) {
        for index in 0..count {
            op(index);
            self.tick(index);
            if index % 4096 == 4095 {
                self.publish();
            }
        }
        self.publish();
    }

    fn tick(&self, index: usize) {
        if index.is_multiple_of(10) {
            self.clock.advance(Duration::from_millis(1));
        }
    }

    fn publish(&self) {
        self.volume.seal_drafts().expect("segments");
    }

    fn commit(&self) {
        loop {
            let (now, now_ms) = (self.clock.monotonic(), self.clock.wall_ms());
            let proposal = Proposal {
                now_ms,
                needed: 0,
                voters: None,
                asks_checkpoint: false,
                is_checkpoint: false,
            };
            let outcome = self.chain.extend(now, proposal, &self.judge);
            let grew = outcome.as_ref().is_ok_and(|outcome| outcome.grew.is_some());
            self.see_to(outcome.expect("a step"));
            self.volume.apply_segments().expect("folded");
            if !grew {
                return;
            }
        }
    }

    fn see_to(&self, outcome: Outcome) {
        if let Some(tip) = outcome.grew {
            self.rows.sync().expect("synced");
            self.chain.publish(tip);
        }
    }

    /// Takes all that another has; returns how many ops were undone.
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
        from.chain.hold().expect("looked at");
        loop {
            let after = self.chain.tip().number;
            let links = from.chain.range(after, 4 << 20, 64).expect("records");
            if links.is_empty() {
                break;
            }
            let (of, now) = (from.volume.device(), self.clock.monotonic());
            let (outcome, taken) = self.chain.accept(&links, of, now, &self.judge);
            taken.expect("records");
            self.see_to(outcome);
        }
        let merged = self.volume.apply_segments().expect("merged");
        assert!(merged.waiting.is_empty() && merged.refused.is_empty());
        merged.undone_count
    }

    /// Takes all that another has, while a second thread uses the volume; returns how long that one
    /// waited for lookups, creates and syncs.
    fn pull_watched(&self, from: &Self) -> (Pulled, [Vec<Duration>; 3]) {
        self.rows.largest.store(0, Ordering::Relaxed);
        self.walk(Ino::ROOT);
        self.reread();
        // What was high before does not count.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let before = memory("VmRSS");
        let is_done = AtomicBool::new(false);
        let (pulled, waits) = std::thread::scope(|scope| {
            let probe = scope.spawn(|| self.probe(&is_done));
            let (start, busy) = (now(), busy());
            let undone = self.pull(from);
            let (time, busy) = (start.elapsed(), self::busy().saturating_sub(busy));
            is_done.store(true, Ordering::Relaxed);
            let pulled = Pulled {
                time,
                busy,
                undone,
                memory: memory("VmHWM").saturating_sub(before),
                largest: self.rows.largest.load(Ordering::Relaxed),
            };
            (pulled, probe.join().expect("a thread"))
        });
        self.publish();
        (pulled, waits)
    }

    /// Looks at all that there is, as who was there for a while has: what is kept in memory is full then.
    fn walk(&self, dir: Ino) {
        let mut entries = Vec::new();
        let mut visit = |_, entry: &Dirent| {
            entries.push((entry.ino, entry.kind));
            true
        };
        self.volume.readdir(dir, None, &mut visit).expect("rows");
        for (ino, kind) in entries {
            let inode = self.volume.inode(ino).expect("rows");
            assert!(inode.is_some(), "an entry of nothing");
            if kind == FileKind::Dir {
                self.walk(ino);
            }
        }
    }

    /// Reads all rows again, as each member does in rounds while it rests: what of them is kept as blocks of
    /// the database is full then, too.
    fn reread(&self) {
        while self.volume.check_rows().expect("rows").is_none() {}
    }

    fn probe(&self, is_done: &AtomicBool) -> [Vec<Duration>; 3] {
        let mut waits: [Vec<Duration>; 3] = Default::default();
        let dir = self.dir("probe");
        let mut timed = |which: usize, op: &dyn Fn()| {
            let start = now();
            op();
            waits[which].push(start.elapsed());
        };
        let mut round = 0;
        while !is_done.load(Ordering::Relaxed) {
            timed(0, &|| {
                let found = self.volume.dirent(Ino::ROOT, b"probe").expect("rows");
                assert!(found.is_some(), "an own name is gone");
            });
            timed(1, &|| {
                self.create(
                    dir,
                    &format!("of {} {round} {}", self.index, self.clock.wall_ms()),
                );
            });
            timed(2, &|| self.volume.sync().expect("synced"));
            round += 1;
            #[expect(
                clippy::disallowed_methods,
                reason = "a benchmark uses the machine's time"
            )]
            std::thread::sleep(Duration::from_millis(2));
        }
        waits
    }

    fn at(&self, parent: Ino, name: &str) -> Ino {
        let found = self.volume.dirent(parent, name.as_bytes()).expect("rows");
        found.unwrap_or_else(|| panic!("no {name}")).ino
    }

    fn dir(&self, name: &str) -> Ino {
        self.at(Ino::ROOT, name)
    }

    fn file(&self, name: &str) -> (Ino, OpId) {
        let ino = self.at(Ino::ROOT, name);
        let inode = self.volume.inode(ino).expect("rows").expect("there");
        (ino, inode.version)
    }

    fn apply(&self, kind: OpKind) -> Ino {
        let mut writer = self.volume.write().expect("free");
        writer.apply(kind).expect("applied").ino
    }

    fn make(&self, parent: Ino, name: &str, kind: FileKind) -> Ino {
        self.apply(OpKind::Create(Create {
            at: place(parent, name),
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: None,
            time: self.clock.wall(),
            xattrs: Vec::new(),
        }))
    }

    fn mkdir(&self, parent: Ino, name: &str) -> Ino {
        self.make(parent, name, FileKind::Dir)
    }

    fn create(&self, parent: Ino, name: &str) -> Ino {
        self.make(parent, name, FileKind::File)
    }

    fn creates(&self, dir: Ino, prefix: &str, count: usize) {
        self.without(count, |index| {
            self.create(dir, &format!("{prefix}{index}"));
        });
    }

    fn write(&self, ino: Ino, base: OpId, offset: u64, len: u64) {
        let size = self.volume.inode(ino).expect("rows").expect("there").size;
        let bytes = Bytes::from(vec![7 + self.index as u8; len as usize]);
        self.apply(OpKind::Write(Write {
            ino,
            base,
            size: size.max(offset + len),
            pieces: vec![Piece {
                offset,
                len,
                src: Some(Source::Inline(bytes)),
            }],
            mtime: Timespec::default(),
            ctime: Timespec::default(),
            mode: None,
            empties: false,
        }));
    }

    fn rename(&self, from: Ino, to: Ino, name: &str) {
        let ino = self.at(from, name);
        self.apply(OpKind::Rename {
            from: place(from, name),
            to: place(to, name),
            ino,
            replaced: None,
            exchange: false,
            time: self.clock.wall(),
        });
    }

    fn unlink(&self, parent: Ino, name: &str) {
        let ino = self.at(parent, name);
        let inode = self.volume.inode(ino).expect("rows").expect("there");
        self.apply(OpKind::Unlink {
            from: place(parent, name),
            ino,
            saw: inode.goes_with_a_name(),
            time: self.clock.wall(),
        });
    }

    fn rmdir(&self, name: &str) {
        let ino = self.dir(name);
        self.apply(OpKind::Rmdir {
            from: place(Ino::ROOT, name),
            ino,
            time: self.clock.wall(),
        });
    }
}

fn place(parent: Ino, name: &str) -> Place {
    Place {
        parent,
        name: Bytes::copy_from_slice(name.as_bytes()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark asks the machine for time"
)]
fn now() -> Instant {
    Instant::now()
}

/// Returns how long this thread was on a processor.
fn busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split_whitespace().next();
    Duration::from_nanos(nanos.and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

/// Returns a figure of this process's memory, in bytes.
fn memory(which: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(which));
    let kib = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
    kib.and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0) << 10
}

const CASES: [&str; 14] = [
    "order",
    "order-records",
    "cross",
    "cross-records",
    "dirs",
    "dirs-records",
    "remove",
    "remove-records",
    "rename",
    "rename-records",
    "write",
    "write-records",
    "pieces",
    "pieces-records",
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |option: &str| {
        let at = arguments.iter().position(|argument| argument == option);
        let value = at.and_then(|at| arguments.get(at + 1));
        value.map(|value| value.parse().expect("a number"))
    };
    let is_wanted = |case: &str| arguments.iter().any(|argument| argument == case);
    let rng = Rng::from_seed(1);
    let identity = |_| Arc::new(Identity::generate(&rng).expect("a key"));
    let bench = Bench {
        identities: (0..2).map(identity).collect(),
        keys: Arc::new(VolumeKeys::generate(&rng)),
        rng: rng.clone(),
        ops: number("--ops").unwrap_or(100_000),
        row_cache_bytes: number("--row-cache").map(|mib| (mib as u64) << 20),
    };
    let any = CASES.iter().any(|case| is_wanted(case));
    for case in CASES.iter().filter(|case| !any || is_wanted(case)) {
        bench.run(case);
    }
}
