//! Devices of one volume in one process, and how they exchange segments.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use dfs::base::time::SimClock;
use dfs::base::{Clock, Ino, LogId, OpId, Rng, VolumeId};
use dfs::crypto::{Identity, VolumeKeys};
use dfs::log::LogStore;
use dfs::log::chain::{Chain, Ending, Founding, Outcome};
use dfs::store::memory::{MemoryDisk, Scanned};
use dfs::store::{Batch, Store, Table};
use dfs::volume::{
    Append, Applied, Conflict, ConflictKind, Create, Extent, FileKind, Inode, Merged, OpKind,
    Piece, Place, Replaced, Source, Volume, VolumeConfig, VolumeContext, VolumeError, Write,
};
use parking_lot::Mutex;

mod chains;
mod checkpoints;

pub(crate) use chains::{Takes, meet_all};

/// Devices that tests use; making an RSA key takes a while.
pub(crate) const DEVICES_MAX: usize = 5;

static IDENTITIES: LazyLock<Vec<Arc<Identity>>> = LazyLock::new(|| {
    let rng = Rng::from_seed(7);
    (0..DEVICES_MAX)
        .map(|_| Arc::new(Identity::generate(&rng).unwrap()))
        .collect()
});

pub(crate) static KEYS: LazyLock<Arc<VolumeKeys>> =
    LazyLock::new(|| Arc::new(VolumeKeys::generate(&Rng::from_seed(8))));

const VOLUME: VolumeId = VolumeId([3; 32]);

/// 2026-01-02: the date in conflict names.
const START_MS: u64 = 1_767_312_000_000;

/// The tables whose rows all devices share.
pub(crate) const SHARED: [Table; 10] = [
    Table::Inode,
    Table::Dirent,
    Table::Extent,
    Table::Xattr,
    Table::Orphan,
    Table::Alias,
    Table::Fork,
    Table::Conflict,
    Table::Device,
    Table::Volume,
];

/// Rows that all devices share, by table and key.
pub(crate) type SharedRows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Returns every row of a store that all devices share.
pub(crate) fn shared_rows(store: &Store) -> SharedRows {
    let mut rows = BTreeMap::new();
    for table in SHARED.into_iter().chain([Table::Dated]) {
        let mut take = |key: &[u8], value: &[u8]| {
            let mut value = value.to_vec();
            if table == Table::Inode {
                let mut inode = Inode::of_row(Ino(0), &value).unwrap();
                // The ctime of a directory is each machine's own.
                if inode.is_dir() {
                    inode.ctime = Default::default();
                    value = inode.to_row();
                }
            }
            rows.insert((table, key.to_vec()), value);
            ControlFlow::Continue(())
        };
        store.rows.scan(table, &[], None, &mut take).unwrap();
    }
    rows
}

/// Returns rows without the mtimes of directories, and what says who set them.
pub(crate) fn without_times(mut rows: SharedRows) -> SharedRows {
    rows.retain(|(table, _), _| *table != Table::Dated);
    let inodes = rows
        .iter_mut()
        .filter(|((table, _), _)| *table == Table::Inode);
    for value in inodes.map(|(_, value)| value) {
        let inode = Inode::of_row(Ino(0), value).unwrap();
        if inode.is_dir() {
            *value = inode.without_times().to_row();
        }
    }
    rows
}

/// What a device knows of who was removed: the admission that each statement ends.
#[derive(Default)]
pub(crate) struct Roll(Mutex<BTreeMap<[u8; 32], [u8; 32]>>);

impl Roll {
    /// Hears that an admission ended.
    pub(crate) fn end(&self, admission: [u8; 32]) {
        // It is its own inverse.
        let statement = Self::ended_by(&admission);
        self.0.lock().insert(statement, admission);
    }

    /// Returns the admission that a statement ends.
    fn ended_by(statement: &[u8; 32]) -> [u8; 32] {
        statement.map(|byte| byte ^ 0xff)
    }

    /// Says whether nobody was removed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Says whether that is known.
    pub(crate) fn ends(&self, admission: [u8; 32]) -> bool {
        self.0.lock().values().any(|of| *of == admission)
    }

    fn learn(&self, from: &Self) {
        let known = from.0.lock().clone();
        self.0.lock().extend(known);
    }
}

impl dfs::log::chain::Roll for Roll {
    fn endings(&self) -> Vec<[u8; 32]> {
        self.0.lock().keys().copied().collect()
    }

    fn ending(&self, statement: &[u8; 32]) -> Option<Ending> {
        if *statement == VOLUME.0 {
            return Some(Ending::default());
        }
        self.0.lock().get(statement).map(|admission| Ending {
            admissions: vec![*admission],
            removed: Some(*admission),
        })
    }

    fn line(&self, admission: &[u8; 32]) -> Vec<[u8; 32]> {
        vec![*admission]
    }
}

/// A device: its disk survives the volume's restart.
pub(crate) struct Device {
    disk: MemoryDisk,
    pub(crate) store: Store,
    pub(crate) log: Arc<LogStore>,
    pub(crate) chain: Arc<Chain>,
    pub(crate) volume: Arc<Volume>,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) roll: Arc<Roll>,
    kept: Arc<checkpoints::Kept>,
    /// By which it writes.
    pub(crate) admission: [u8; 32],
    index: usize,
    alone: bool,
    /// How often the volume was opened: each start begins a log of its own.
    runs: u64,
}

/// Returns the name of the device at an index, as in conflict names.
pub(crate) fn name_of(index: usize) -> String {
    ["anna", "ben", "carl", "dora", "emil"][index].to_owned()
}

fn open(
    store: &Store,
    (index, admission): (usize, [u8; 32]),
    roll: &Arc<Roll>,
    clock: &Arc<SimClock>,
    alone: bool,
    run: u64,
) -> (Arc<LogStore>, Arc<Chain>, Arc<Volume>) {
    try_open(store, (index, admission), roll, clock, alone, run).unwrap()
}

/// What a device has open.
type Opened = (Arc<LogStore>, Arc<Chain>, Arc<Volume>);

fn try_open(
    store: &Store,
    (index, admission): (usize, [u8; 32]),
    roll: &Arc<Roll>,
    clock: &Arc<SimClock>,
    alone: bool,
    run: u64,
) -> Result<Opened, VolumeError> {
    let identity = Arc::clone(&IDENTITIES[index]);
    let rows = Arc::clone(&store.rows);
    let log = Arc::new(LogStore::open(rows, VOLUME, identity.device(), run)?);
    log.stand_on(admission);
    let founding = Founding {
        volume: VOLUME,
        founder: IDENTITIES[0].device(),
    };
    if index == 0 && run == 1 {
        let mut batch = Batch::new();
        Chain::found(&mut batch, founding).unwrap();
        store.rows.commit(batch).unwrap();
    }
    let (rows, now) = (Arc::clone(&store.rows), clock.monotonic());
    let of = Arc::clone(&log);
    let chain = Chain::open(rows, of, founding, identity.device(), now, run)?;
    let roll = Arc::<Roll>::clone(roll);
    let chain = Arc::new(chain.with_roll(roll));
    let config = VolumeConfig {
        store: store.clone(),
        log: Arc::clone(&log),
        chain: Arc::clone(&chain),
        keys: Arc::clone(&KEYS),
        identity,
        volume: VOLUME,
        name: name_of(index),
    };
    let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
    let context = VolumeContext {
        clock,
        rng: Rng::from_seed(index as u64),
    };
    let volume = Volume::open(config, context, alone)?;
    if index % 2 == 1 {
        // Whatever it has to undo it folds beside the view.
        volume.undo_at_most(0);
    }
    Ok((log, chain, Arc::new(volume)))
}

impl Device {
    /// Returns a device with an empty volume.
    pub(crate) fn new(index: usize) -> Self {
        Self::with_disk(index, MemoryDisk::new(), false)
    }

    /// Returns a device that is the only author.
    pub(crate) fn alone() -> Self {
        let device = Self::with_disk(0, MemoryDisk::new(), true);
        device.volume.format(1000, 1000, 0o755).unwrap();
        device
    }

    fn with_disk(index: usize, disk: MemoryDisk, alone: bool) -> Self {
        let store = disk.store();
        let clock = SimClock::new(START_MS);
        let (roll, admission) = (Arc::default(), chains::first_admission(index));
        let (log, chain, volume) = open(&store, (index, admission), &roll, &clock, alone, 1);
        let device = Self {
            kept: Arc::default(),
            disk,
            store,
            log,
            chain,
            volume,
            clock,
            roll,
            admission,
            index,
            alone,
            runs: 1,
        };
        device.keep_checkpoints();
        device
    }

    /// Opens the volume anew over the same rows.
    pub(crate) fn restart(&mut self) {
        self.runs += 1;
        let who = (self.index, self.admission);
        let (clock, roll) = (&self.clock, &self.roll);
        let (log, chain, volume) = open(&self.store, who, roll, clock, self.alone, self.runs);
        self.log = log;
        self.chain = chain;
        self.volume = volume;
        self.keep_checkpoints();
    }

    /// Returns what a power cut leaves.
    pub(crate) fn crashed(&self, rng: &Rng) -> MemoryDisk {
        self.disk.crash(rng)
    }

    /// Opens the volume on what a power cut leaves.
    pub(crate) fn crash(&mut self, rng: &Rng) {
        self.disk = self.disk.crash(rng);
        self.store = self.disk.store();
        self.restart();
        // A log is durable before what is folded of it.
        self.volume.apply_segments().unwrap();
    }

    /// Lets the disk refuse every write, or none.
    pub(crate) fn refuse_writes(&self, refuses: bool) {
        self.disk.set_writes_left(refuses.then_some(0));
    }

    /// Lets the disk take so many writes more.
    pub(crate) fn refuse_writes_after(&self, count: u64) {
        self.disk.set_writes_left(Some(count));
    }

    /// Puts a copy in the place of what is here and takes what another has, until the power goes behind so many
    /// writes and syncs; returns how many more there might have been, `None` where it went.
    pub(crate) fn pull_until_cut(
        &mut self,
        copy: MemoryDisk,
        from: &Self,
        after: u64,
    ) -> Option<u64> {
        copy.cut_power_after(after, Box::new(|| {}));
        self.disk = copy;
        self.store = self.disk.store();
        self.runs += 100;
        let who = (self.index, self.admission);
        let (clock, roll) = (&self.clock, &self.roll);
        let opened = try_open(&self.store, who, roll, clock, self.alone, self.runs);
        if let Ok((log, chain, volume)) = opened {
            (self.log, self.chain, self.volume) = (log, chain, volume);
            self.keep_checkpoints();
            self.try_pull(from);
        }
        self.disk.power_left()
    }

    /// Takes what another has published; says whether the disk took it.
    pub(crate) fn try_pull(&self, from: &Self) -> bool {
        let have = self.log.vector();
        let mut segments = Vec::new();
        for log in from.log.offered().into_keys() {
            let next = have.get(&log).copied().unwrap_or(0) + 1;
            segments.extend(from.log.range(log, next, usize::MAX).unwrap());
        }
        self.roll.learn(&from.roll);
        let links = from
            .chain
            .range(self.chain.tip().number, usize::MAX, usize::MAX);
        let (device, now) = (from.identity().device(), self.clock.monotonic());
        let judge = self.judge();
        let (outcome, taken) = self.chain.accept(&links.unwrap(), device, now, &judge);
        if taken.is_err() {
            return false;
        }
        self.see_to(outcome);
        let now = self.clock.wall_ms() + 300_000;
        let accepted = self.log.accept(&segments, now, &|_| Ok(()));
        accepted.is_ok() && {
            // What a full disk did not take is told by the next call alone.
            let first = self.volume.apply_segments();
            first.is_ok() && self.volume.apply_segments().is_ok()
        }
    }

    /// Returns how many bytes the largest batch since the last call took.
    pub(crate) fn take_largest_bytes(&self) -> u64 {
        self.disk.take_largest_bytes()
    }

    /// Returns how many bytes of rows were written since the last call.
    pub(crate) fn take_written_bytes(&self) -> u64 {
        self.disk.take_written_bytes()
    }

    /// Returns what lies on its disk, in bytes.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.disk.used_bytes()
    }

    /// Returns how many rows the largest batch since the last call changed.
    pub(crate) fn take_largest_batch(&self) -> usize {
        self.disk.take_largest_batch()
    }

    /// Returns how many rows the scans since the last call looked at.
    pub(crate) fn take_scanned(&self) -> Scanned {
        self.disk.take_scanned()
    }

    /// Returns a copy of all that is here, drafts included.
    pub(crate) fn copy(&self) -> MemoryDisk {
        self.store.sync().unwrap();
        self.disk.crash(&Rng::from_seed(0))
    }

    /// Puts a copy in the place of what is here.
    pub(crate) fn put_back(&mut self, copy: MemoryDisk) {
        self.disk = copy;
        self.store = self.disk.store();
        // Each start draws a number that no other has.
        self.runs += 100;
        self.restart();
    }

    /// Opens the volume on another store.
    pub(crate) fn open_on(&mut self, store: Store) {
        self.store = store;
        self.runs += 100;
        self.restart();
    }

    /// Puts a copy in the place of what is here, whose disk may fail; says whether it opens.
    pub(crate) fn try_put_back(&mut self, copy: MemoryDisk) -> bool {
        let store = copy.store();
        self.disk = copy;
        self.runs += 100;
        let who = (self.index, self.admission);
        let (clock, roll) = (&self.clock, &self.roll);
        let opened = try_open(&store, who, roll, clock, self.alone, self.runs);
        opened.is_ok()
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn identity(&self) -> &'static Identity {
        &IDENTITIES[self.index]
    }

    /// Makes what this device does next later than what the others do until the next sync.
    pub(crate) fn later(&self) {
        self.clock.advance(Duration::from_millis(100));
    }

    pub(crate) fn apply(&self, kind: OpKind) -> Applied {
        // Each op has a millisecond of its own, so that tests say which of two is the later.
        self.clock.advance(Duration::from_millis(1));
        self.volume.write().unwrap().apply(kind).unwrap()
    }

    /// Takes what `from` has published that is not here, `max` segments of each log.
    pub(crate) fn pull(&self, from: &Self, max: usize) -> Merged {
        let logs: Vec<LogId> = from.log.offered().into_keys().collect();
        self.pull_some(from, &logs, max)
    }

    /// Takes what `from` has published of some logs that is not here.
    pub(crate) fn pull_logs(&self, from: &Self, logs: &[LogId]) -> Merged {
        self.pull_some(from, logs, usize::MAX)
    }

    fn pull_some(&self, from: &Self, logs: &[LogId], max: usize) -> Merged {
        let mut segments = Vec::new();
        let have = self.log.vector();
        for log in logs {
            let next = have.get(log).copied().unwrap_or(0) + 1;
            let range = from.log.range(*log, next, usize::MAX).unwrap();
            segments.extend(range.into_iter().take(max));
        }
        self.take_records(from);
        self.learn_left(from, &segments);
        let now = self.clock.wall_ms() + 300_000;
        let accepted = self.log.accept(&segments, now, &|_| Ok(())).unwrap();
        assert!(accepted.refused.is_empty());
        let merged = self.volume.apply_segments().unwrap();
        assert!(merged.refused.is_empty());
        merged
    }

    pub(crate) fn publish(&self) {
        self.volume.seal_drafts().unwrap();
    }

    /// Takes the records that another device has, without folding them.
    pub(crate) fn take_records(&self, from: &Self) {
        self.roll.learn(&from.roll);
        self.take_records_alone(from);
    }

    /// Takes the records that another device has, and nothing of what it knows of the members.
    pub(crate) fn take_records_alone(&self, from: &Self) {
        self.take_links(from, self.chain.tip().number, usize::MAX);
    }

    /// Takes up to `max` of the records behind one that another device has.
    fn take_links(&self, from: &Self, after: u64, max: usize) {
        from.chain.hold().unwrap();
        let links = from.chain.range(after, max, max).unwrap();
        let (device, now) = (from.identity().device(), self.clock.monotonic());
        let (outcome, taken) = self.chain.accept(&links, device, now, &self.judge());
        taken.unwrap();
        self.see_to(outcome);
    }

    /// Does what a step of the chain leaves to do.
    fn see_to(&self, outcome: Outcome) {
        if let Some(tip) = outcome.grew
            && self.store.rows.sync().is_ok()
        {
            self.chain.publish(tip);
        }
    }

    /// Makes one record of what is published here, where there is anything to name, and folds it.
    /// Only the first device can.
    pub(crate) fn commit(&self) -> Merged {
        self.commit_from(0)
    }

    /// Makes a record as [`Device::commit`] does, where nobody looks back beyond record `needed`.
    pub(crate) fn commit_from(&self, needed: u64) -> Merged {
        self.make_record(needed);
        self.volume.apply_segments().unwrap()
    }

    /// Takes all that `from` has in the order of its fold: record by record, and the rest.
    fn pull_in_order(&self, from: &Self) -> usize {
        let mut undone = 0;
        self.roll.learn(&from.roll);
        let now = self.clock.wall_ms() + 300_000;
        for number in 1..=from.chain.tip().number {
            let record = from.chain.get(number).unwrap().unwrap();
            for name in &record.segments {
                let segment = from.log.get(name.log, name.seg_no).unwrap().unwrap();
                assert_eq!(segment.hash(), name.hash);
                self.learn_left(from, std::slice::from_ref(&segment));
                let accepted = self.log.accept(&[segment], now, &|_| Ok(())).unwrap();
                assert!(accepted.refused.is_empty());
            }
            let merged = self.volume.apply_segments().unwrap();
            assert!(merged.waiting.is_empty(), "a record is closed");
            self.take_links(from, number - 1, 1);
            undone += merged.undone_count + self.volume.apply_segments().unwrap().undone_count;
        }
        undone + self.pull(from, usize::MAX).undone_count
    }

    /// Returns how many ops can still be folded again.
    pub(crate) fn record_count(&self) -> usize {
        self.row_count(Table::Op)
    }

    /// Returns how many rows are here that only what is folded again needs.
    pub(crate) fn left_count(&self) -> usize {
        let tables = [Table::Op, Table::OpPart, Table::Draft];
        tables.map(|table| self.row_count(table)).iter().sum()
    }

    fn row_count(&self, table: Table) -> usize {
        let mut count = 0;
        let mut visit = |_: &[u8]| {
            count += 1;
            ControlFlow::Continue(())
        };
        let scanned = self.store.rows.scan_keys(table, &[], None, &mut visit);
        scanned.map(|()| count).unwrap()
    }

    /// Tells whether an op is folded here, of those that can still be folded again.
    pub(crate) fn has_folded(&self, id: OpId) -> bool {
        let row = self.store.rows.get(Table::Op, &id.to_key()).unwrap();
        row.is_some()
    }

    /// Returns every shared row. What was taken back with a removal has moved the times of directories on
    /// where it was seen.
    pub(crate) fn rows(&self) -> SharedRows {
        let rows = shared_rows(&self.store);
        match self.roll.is_empty() {
            true => rows,
            false => without_times(rows),
        }
    }

    pub(crate) fn inode(&self, ino: Ino) -> Inode {
        self.volume.inode(ino).unwrap().unwrap()
    }

    /// Returns the node at a path, `None` where there is none.
    pub(crate) fn find(&self, path: &str) -> Option<Inode> {
        let mut inode = self.inode(Ino::ROOT);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let dirent = self.volume.dirent(inode.ino, name.as_bytes()).unwrap()?;
            inode = self.inode(dirent.ino);
        }
        Some(inode)
    }

    pub(crate) fn at(&self, path: &str) -> Inode {
        self.find(path)
            .unwrap_or_else(|| panic!("no {path} in {:?}", self.list("")))
    }

    /// Returns the names in a directory, sorted.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let mut names = Vec::new();
        let dir = self.at(path).ino;
        self.volume
            .readdir(dir, None, &mut |_, dirent| {
                names.push(String::from_utf8(dirent.name.to_vec()).unwrap());
                true
            })
            .unwrap();
        names.sort();
        names
    }

    fn place(&self, path: &str) -> Place {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        place(self.at(dir).ino, name.as_bytes())
    }

    pub(crate) fn make(&self, path: &str, kind: FileKind) -> Ino {
        let at = self.place(path);
        self.apply(create(at, kind, self.clock.wall())).ino
    }

    pub(crate) fn mkdir(&self, path: &str) -> Ino {
        self.make(path, FileKind::Dir)
    }

    /// Replaces the content of a file, which is made where it is not there.
    pub(crate) fn put(&self, path: &str, text: &str) -> OpId {
        if self.find(path).is_none() {
            self.make(path, FileKind::File);
        }
        self.overwrite(self.at(path).ino, text)
    }

    pub(crate) fn overwrite(&self, ino: Ino, text: &str) -> OpId {
        let base = self.inode(ino).version;
        self.apply(write(ino, base, text)).id
    }

    pub(crate) fn append(&self, path: &str, text: &str) -> OpId {
        let inode = self.at(path);
        let time = self.clock.wall();
        let kind = OpKind::Append(Append {
            ino: inode.ino,
            base: inode.version,
            len: text.len() as u64,
            pieces: vec![inline(0, text)],
            mtime: time,
            ctime: time,
            mode: None,
        });
        self.apply(kind).id
    }

    pub(crate) fn unlink(&self, path: &str) {
        let inode = self.at(path);
        let kind = OpKind::Unlink {
            from: self.place(path),
            ino: inode.ino,
            saw: inode.goes_with_a_name(),
            time: self.clock.wall(),
        };
        self.apply(kind);
    }

    pub(crate) fn rmdir(&self, path: &str) {
        let kind = OpKind::Rmdir {
            from: self.place(path),
            ino: self.at(path).ino,
            time: self.clock.wall(),
        };
        self.apply(kind);
    }

    pub(crate) fn rename(&self, from: &str, to: &str, exchange: bool) {
        let replaced = self.find(to).map(|inode| Replaced {
            ino: inode.ino,
            saw: inode.goes_with_a_name(),
        });
        let kind = OpKind::Rename {
            from: self.place(from),
            to: self.place(to),
            ino: self.at(from).ino,
            replaced,
            exchange,
            time: self.clock.wall(),
        };
        self.apply(kind);
    }

    pub(crate) fn link(&self, from: &str, to: &str) {
        let kind = OpKind::Link {
            ino: self.at(from).ino,
            to: self.place(to),
            time: self.clock.wall(),
        };
        self.apply(kind);
    }

    /// Returns the content of a file as text; holes are `.`.
    pub(crate) fn text(&self, path: &str) -> String {
        self.text_of(self.at(path).ino)
    }

    pub(crate) fn text_of(&self, ino: Ino) -> String {
        String::from_utf8(self.bytes_of(ino)).unwrap()
    }

    pub(crate) fn bytes_of(&self, ino: Ino) -> Vec<u8> {
        let size = self.inode(ino).size;
        render(&self.volume.extents(ino, 0..u64::MAX).unwrap(), size)
    }

    /// Returns every path with the content of files.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let mut open = vec![String::new()];
        while let Some(dir) = open.pop() {
            for name in self.list(&dir) {
                let path = format!("{dir}/{name}");
                let inode = self.at(&path);
                if inode.is_dir() {
                    open.push(path);
                } else {
                    files.insert(path, self.text_of(inode.ino));
                }
            }
        }
        files
    }

    pub(crate) fn conflicts(&self) -> Vec<(ConflictKind, Option<String>)> {
        let open = |conflict: Conflict| {
            let name = conflict.other_name;
            let name = name.map(|name| String::from_utf8(name.to_vec()).unwrap());
            (conflict.kind, name)
        };
        let conflicts = self.volume.conflicts().unwrap();
        conflicts.into_iter().map(open).collect()
    }
}

/// Returns the bytes that extents show; holes are `.`, chunks a letter of their id.
pub(crate) fn render(extents: &[Extent], size: u64) -> Vec<u8> {
    let mut bytes = vec![b'.'; size as usize];
    let mut last = 0;
    for extent in extents {
        let fits = extent.offset >= last && extent.len > 0 && extent.end() <= size;
        assert!(
            fits,
            "{} + {} behind {last} of {size}",
            extent.offset, extent.len
        );
        last = extent.end();
        for at in 0..extent.len {
            bytes[(extent.offset + at) as usize] = match &extent.src {
                Source::Inline(inline) => inline[at as usize],
                Source::Chunk { id, skip } => b'A' + ((u64::from(*skip) + at) as u8 ^ id.0[0]) % 26,
            };
        }
    }
    bytes
}

pub(crate) fn place(parent: Ino, name: &[u8]) -> Place {
    Place {
        parent,
        name: Bytes::copy_from_slice(name),
    }
}

pub(crate) fn inline(offset: u64, text: &str) -> Piece {
    Piece {
        offset,
        len: text.len() as u64,
        src: Some(Source::Inline(Bytes::copy_from_slice(text.as_bytes()))),
    }
}

pub(crate) fn write(ino: Ino, base: OpId, text: &str) -> OpKind {
    let time = dfs::base::Timespec::default();
    let pieces = match text {
        "" => Vec::new(),
        text => vec![inline(0, text)],
    };
    OpKind::Write(Write {
        ino,
        base,
        size: text.len() as u64,
        pieces,
        mtime: time,
        ctime: time,
        mode: None,
        empties: false,
    })
}

pub(crate) fn create(at: Place, kind: FileKind, time: dfs::base::Timespec) -> OpKind {
    OpKind::Create(Create {
        at,
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        rdev: 0,
        target: (kind == FileKind::Symlink).then(|| Bytes::from_static(b"target")),
        time,
        xattrs: Vec::new(),
    })
}

/// Returns `count` devices that all know a root made by the first.
pub(crate) fn cluster(count: usize) -> Vec<Device> {
    let devices: Vec<Device> = (0..count).map(Device::new).collect();
    devices[0].volume.format(1000, 1000, 0o755).unwrap();
    for device in &devices {
        device.volume.announce().unwrap();
    }
    sync(&devices);
    devices
}

/// Lets every device publish and learn all, and checks that all agree with the oracle. All clocks
/// show the same afterwards.
pub(crate) fn sync(devices: &[Device]) {
    exchange_all(devices);
    agree(devices);
}

/// Lets every device publish and learn all. All clocks show the same afterwards.
pub(crate) fn exchange_all(devices: &[Device]) {
    let newest = devices.iter().map(|device| device.clock.monotonic()).max();
    for device in devices {
        let behind = newest.unwrap_or_default() - device.clock.monotonic();
        device.clock.advance(behind);
    }
    for device in devices {
        device.publish();
    }
    for device in devices {
        for other in devices {
            device.pull(other, usize::MAX);
        }
    }
}

/// Reads all rows of a device again, and checks that they are what was put there.
pub(crate) fn read_again(device: &Device) {
    // A round that was begun goes on first.
    for _ in 0..2 {
        loop {
            if let Some(checked) = device.volume.check_rows().unwrap() {
                assert!(checked.is_right, "{} has other rows", device.index);
                break;
            }
        }
    }
}

/// Checks that all devices hold the rows of the fold from scratch, and a sound tree.
pub(crate) fn agree(devices: &[Device]) {
    let oracle = Device::new(DEVICES_MAX - 1);
    let mut union = devices[0].log.vector();
    for device in devices {
        assert_eq!(device.log.vector(), union, "a device has not everything");
        union.extend(device.log.vector());
    }
    let undone = oracle.pull_in_order(&devices[0]);
    assert_eq!(undone, 0, "the oracle undoes nothing");
    let expected = oracle.rows();
    super::tree::check(&oracle);
    for device in devices {
        let rows = device.rows();
        for (key, row) in &expected {
            assert_eq!(
                rows.get(key),
                Some(row),
                "{} differs at {key:?}",
                device.index
            );
        }
        assert_eq!(rows.len(), expected.len(), "{} has more rows", device.index);
        read_again(device);
        assert_eq!(device.volume.counts(), oracle.volume.counts());
    }
}
