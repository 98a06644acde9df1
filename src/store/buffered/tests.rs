//! The rows behind a log, against a map: wherever they lie and whatever is flushed meanwhile.

mod promises;

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;

use super::logs::FREE_FILES_MAX;
use super::*;
use crate::base::time::SystemClock;
use crate::base::{Clock, Rng};
use crate::crypto::Identity;
use crate::store::disk::Folder;
use crate::store::local::LocalTree;
use crate::store::{KEY_MAX_BYTES, StoreOptions};

const LOG_BYTES: u64 = 24 << 20;

struct Machine {
    folder: tempfile::TempDir,
    key: crate::crypto::LocalKey,
    opened: u32,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("wal")).unwrap();
        let identity = Identity::generate(&Rng::from_seed(1)).unwrap();
        Self {
            folder,
            key: identity.local_key(),
            opened: 0,
        }
    }

    fn open(&mut self, table_bytes: usize, has_thread: bool) -> BufferedRows {
        self.opened += 1;
        let sealer = self.key.sealer(self.opened);
        let options = StoreOptions::default();
        let tree = self.folder.path().join("rows");
        let tree = LocalTree::open(&tree, sealer.clone(), &options, Gate::default()).unwrap();
        let log = self.folder.path().join("wal");
        let disk = Arc::new(Folder::new(&log));
        let options = BufferOptions {
            table_bytes,
            log_bytes: LOG_BYTES,
        };
        if has_thread {
            BufferedRows::open_with_thread(
                disk,
                &log,
                Arc::new(tree),
                sealer,
                options,
                Gate::default(),
            )
        } else {
            BufferedRows::open(disk, &log, Arc::new(tree), sealer, options)
        }
        .unwrap()
    }

    fn log_files(&self) -> usize {
        let log = self.folder.path().join("wal");
        let files = std::fs::read_dir(log).unwrap();
        let names = files.map(|file| file.unwrap().file_name());
        names
            .filter(|name| name.to_str().unwrap().ends_with(".wal"))
            .count()
    }
}

fn all(rows: &BufferedRows, start: &[u8], is_reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        seen.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    if is_reverse {
        rows.scan_rev(Table::Inode, start, None, &mut visit)
    } else {
        rows.scan(Table::Inode, start, None, &mut visit)
    }
    .unwrap();
    seen
}

fn keys(rows: &BufferedRows, start: &[u8]) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    let mut visit = |key: &[u8]| {
        seen.push(key.to_vec());
        ControlFlow::Continue(())
    };
    rows.scan_keys(Table::Inode, start, None, &mut visit)
        .unwrap();
    seen
}

/// Random batches against a map, over many tables full and several openings.
#[test]
fn rows_are_as_a_map_wherever_they_lie() {
    for (seed, has_thread) in [(1, false), (2, true), (3, true)] {
        println!("seed {seed}");
        let rng = Rng::from_seed(seed);
        let mut machine = Machine::new();
        let mut model = std::collections::BTreeMap::new();
        for _ in 0..4 {
            let rows = machine.open(8 << 10, has_thread);
            for step in 0..400u32 {
                let mut batch = Batch::new();
                for _ in 0..=rng.below(4) {
                    let key = [rng.below(6) as u8, rng.below(40) as u8];
                    if rng.below(3) == 0 {
                        batch.delete(Table::Inode, key);
                        model.remove(&key[..]);
                    } else {
                        let value = vec![step as u8; rng.below(200) as usize];
                        batch.put(Table::Inode, key, value.clone());
                        model.insert(key.to_vec(), value);
                    }
                }
                rows.commit(batch).unwrap();
                if rng.below(8) == 0 {
                    let start = [rng.below(6) as u8];
                    let expected: Vec<_> = model
                        .range(start.to_vec()..)
                        .map(|(key, value)| (key.clone(), value.clone()))
                        .collect();
                    assert_eq!(all(&rows, &start, false), expected);
                    let is_same = keys(&rows, &start)
                        .iter()
                        .eq(expected.iter().map(|row| &row.0));
                    assert!(is_same, "step {step}");
                    let reverse: Vec<_> = expected.into_iter().rev().collect();
                    assert_eq!(all(&rows, &start, true), reverse);
                    let key = [rng.below(6) as u8, rng.below(40) as u8];
                    let got = rows.get(Table::Inode, &key).unwrap();
                    assert_eq!(got.as_ref(), model.get(&key[..]));
                }
                if rng.below(50) == 0 {
                    rows.sync().unwrap();
                }
            }
        }
    }
}

#[test]
fn a_scan_sees_one_moment_although_all_is_flushed_meanwhile() {
    let mut machine = Machine::new();
    let rows = machine.open(4 << 10, false);
    let put = |n: u8, value: u8| {
        let mut batch = Batch::new();
        // Some lie apart in the tree.
        let len = if n.is_multiple_of(16) { 3000 } else { 100 };
        batch.put(Table::Inode, [n], vec![value; len]);
        rows.commit(batch).unwrap();
    };
    for n in 0..200 {
        put(n, 1);
    }
    let mut seen = 0;
    let mut visit = |_: &[u8], value: &[u8]| {
        assert_eq!(value[0], 1);
        if seen == 0 {
            for n in 0..=255 {
                put(n, 2);
            }
        }
        seen += 1;
        ControlFlow::Continue(())
    };
    rows.scan(Table::Inode, b"", None, &mut visit).unwrap();
    assert_eq!(seen, 200);
    assert_eq!(rows.get(Table::Inode, &[255]).unwrap().unwrap()[0], 2);
}

#[test]
fn frozen_rows_of_several_tables_stay_whatever_is_put_and_removed_meanwhile() {
    let mut machine = Machine::new();
    let rows = machine.open(4 << 10, false);
    // Some lie apart in the tree.
    let len = |n: u8| if n.is_multiple_of(16) { 3000 } else { 100 };
    let tables = [Table::Inode, Table::Dirent, Table::Op];
    let put_all = |value: u8| {
        for n in 0..=255u8 {
            let mut batch = Batch::new();
            for table in tables {
                match value > 1 && n.is_multiple_of(3) {
                    true => batch.delete(table, [n]),
                    false => batch.put(table, [n], vec![value; len(n)]),
                }
            }
            rows.commit(batch).unwrap();
        }
    };
    put_all(1);
    let frozen = rows.freeze(Table::Inode, Table::Op).unwrap().unwrap();
    let others = rows.freeze(Table::Op, Table::Op).unwrap().unwrap();
    for value in 2..6 {
        put_all(value);
    }
    rows.sync().unwrap();
    let row = |(table, n): (Table, u8)| (table, vec![n], vec![1; len(n)]);
    let of_table = |table| (0..=255).map(move |n| row((table, n)));
    let frozen: Vec<_> = frozen.map(Result::unwrap).collect();
    assert!(frozen == tables.into_iter().flat_map(of_table).collect::<Vec<_>>());
    let others: Vec<_> = others.map(Result::unwrap).collect();
    assert!(others == of_table(Table::Op).collect::<Vec<_>>());
}

/// A tree in which something happens between the moment that a walk sees and its beginning.
struct Met {
    tree: LocalTree,
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl std::fmt::Debug for Met {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Met")
    }
}

impl Tree for Met {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.tree.get(key)
    }

    fn range<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        is_reverse: bool,
    ) -> Box<dyn Iterator<Item = crate::store::tree::TreeRow> + 'a> {
        let rows = self.tree.range(start, end, is_reverse);
        let meanwhile = self.meanwhile.lock().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        rows
    }

    fn apply(
        &self,
        visit: &mut dyn FnMut(&mut crate::store::tree::TreeChange<'_>),
    ) -> Result<(), StoreError> {
        self.tree.apply(visit)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.tree.sync()
    }
}

#[test]
fn tables_go_into_the_tree_while_a_walk_waits_for_it_and_the_walk_misses_nothing() {
    let machine = Machine::new();
    let sealer = machine.key.sealer(1);
    let options = StoreOptions::default();
    let folder = machine.folder.path().join("rows");
    let tree = LocalTree::open(&folder, sealer.clone(), &options, Gate::default()).unwrap();
    let tree = Arc::new(Met {
        tree,
        meanwhile: Mutex::default(),
    });
    let log = machine.folder.path().join("wal");
    let options = BufferOptions {
        table_bytes: 4 << 10,
        log_bytes: LOG_BYTES,
    };
    let disk = Arc::new(Folder::new(&log));
    let rows = BufferedRows::open(disk, &log, Arc::clone(&tree) as _, sealer, options).unwrap();
    let rows = Arc::new(rows);
    let put = |rows: &BufferedRows, n: u8| {
        let mut batch = Batch::new();
        batch.put(Table::Inode, [n], [n; 100]);
        rows.commit(batch).unwrap();
    };
    (0..10).for_each(|n| put(&rows, n));
    let of_writer = Arc::clone(&rows);
    *tree.meanwhile.lock() = Some(Box::new(move || {
        (10..=255).for_each(|n| put(&of_writer, n));
    }));
    let (sender, walked) = std::sync::mpsc::channel();
    let walking = task::thread("walk", move || sender.send(all(&rows, b"", false)).unwrap());
    let walked = walked.recv_timeout(Duration::from_secs(30));
    let walked = walked.expect("the walk keeps nobody out");
    walking.unwrap().join().unwrap();
    let keys: Vec<u8> = walked.iter().map(|(key, _)| key[0]).collect();
    assert_eq!(keys, (0..=255).collect::<Vec<u8>>());
}

#[test]
fn the_log_is_given_back_once_its_rows_are_in_the_tree() {
    let mut machine = Machine::new();
    let mut rows = machine.open(1 << 20, false);
    let value = vec![7; 100 << 10];
    for n in 0..600u32 {
        let mut batch = Batch::new();
        batch.put(Table::Inode, n.to_be_bytes(), value.clone());
        rows.commit(batch).unwrap();
    }
    let kept = FREE_FILES_MAX as u64;
    assert!(machine.log_files() as u64 <= LOG_BYTES / (1 << 20) + 2 + kept);
    for _ in 0..3 {
        drop(rows);
        rows = machine.open(1 << 20, true);
        assert_eq!(all(&rows, b"", false).len(), 600);
        assert!(machine.log_files() as u64 <= 1 + kept);
    }
}

#[test]
fn who_settles_in_between_leaves_less_than_two_tables_in_memory() {
    const TABLE: usize = 64 << 10;
    const ROW: usize = 4 << 10;
    let mut machine = Machine::new();
    let rows = machine.open(TABLE, true);
    let mut most = 0;
    for step in 0..500u32 {
        let mut batch = Batch::new();
        batch.put(Table::Inode, step.to_be_bytes(), vec![7; ROW]);
        rows.commit(batch).unwrap();
        rows.settle().unwrap();
        let layers = rows.shared.layers.read().clone();
        let flushing = layers.flushing.as_ref().map_or(0, |table| table.bytes());
        most = most.max(layers.active.bytes() + flushing);
    }
    assert!(most < TABLE / 2 * 3 + 2 * ROW, "{most} bytes");
}

#[test]
fn room_is_kept_back_for_all_rows_wherever_they_lie_and_not_for_what_they_hold() {
    const ROWS: u32 = 20_000;
    let mut machine = Machine::new();
    let rows = machine.open(64 << 10, false);
    let ballast = machine.folder.path().join("ballast");
    rows.set_ballast(&ballast).unwrap();
    let kept = || std::fs::metadata(&ballast).unwrap().blocks() * 512;
    let idle = kept();
    for first in (0..ROWS).step_by(50) {
        let mut batch = Batch::new();
        for n in first..first + 50 {
            // One in fifty lies apart in the tree.
            let len = if n == first { 9000 } else { 300 };
            batch.put(Table::Inode, n.to_be_bytes(), vec![7; len]);
        }
        rows.commit(batch).unwrap();
        let table = Arc::clone(&rows.shared.layers.read().active);
        let all = rows.shared.tree.count() + table.count() as u64;
        assert!(all > u64::from(first));
        let needed = 64 * all + 2 * table.net_bytes() as u64;
        assert!(kept() >= needed, "{} bytes for {all} rows", kept());
    }
    assert!(rows.shared.layers.read().moved > 3);
    let more = kept() - idle;
    assert!((1 << 20..2 << 20).contains(&more), "{more}");
    // As much is kept back by whoever opens them next.
    let before = kept();
    drop(rows);
    let rows = machine.open(64 << 10, false);
    rows.set_ballast(&ballast).unwrap();
    assert_eq!(kept(), before);
}

#[test]
fn rows_at_rest_take_no_more_than_as_many_that_were_never_changed() {
    const TABLE: usize = 4 << 20;
    const ROWS: u32 = 30_000;
    let bytes_in = |path: &Path| {
        let files = std::fs::read_dir(path).unwrap().map(Result::unwrap);
        // Compaction removes some meanwhile.
        let blocks = files.filter_map(|file| Some(file.metadata().ok()?.blocks()));
        blocks.sum::<u64>() * 512
    };
    let mut machine = Machine::new();
    let rows = machine.open_beside_others(TABLE, &Arc::default());
    let ballast = machine.folder.path().join("ballast");
    let tree = machine.folder.path().join("rows/keyspaces/1");
    for n in 0..ROWS {
        // As a file is made: its rows stay, and what undoes the op goes some thousand later.
        let mut batch = Batch::new();
        batch.put(Table::Inode, (n * 7919 % ROWS).to_be_bytes(), [7; 100]);
        let len = if n.is_multiple_of(100) { 9000 } else { 600 };
        batch.put(Table::Op, n.to_be_bytes(), vec![8; len]);
        if let Some(old) = n.checked_sub(3000) {
            batch.delete(Table::Op, old.to_be_bytes());
        }
        rows.commit(batch).unwrap();
    }
    let mut batch = Batch::new();
    for n in ROWS - 3000..ROWS {
        batch.delete(Table::Op, n.to_be_bytes());
    }
    rows.commit(batch).unwrap();
    let taken = || bytes_in(&tree.join("tables")) + bytes_in(&tree.join("blobs"));
    assert!(taken() > 10 << 20);
    let needed = u64::from(ROWS) * (5 + 100 + 28);
    // What the tree gives up it does in a thread of its own.
    let clock = SystemClock::new();
    let deadline = clock.monotonic() + Duration::from_secs(60);
    while taken() > needed * 5 / 4 {
        assert!(clock.monotonic() < deadline, "{} for {needed}", taken());
        rows.shared.rest().unwrap();
    }
    let log = bytes_in(&machine.folder.path().join("wal"));
    assert!(log <= (4 << 20) + (64 << 10), "{log} bytes of the row log");
    let kept = std::fs::metadata(&ballast).unwrap().blocks() * 512;
    let most = (3 << 20) + u64::from(ROWS) * 3 * 64;
    assert!(kept < most + (512 << 10), "{kept} kept back");
    assert_eq!(rows.shared.layers.read().active.count(), 0);

    // It goes on, and is all there at the next start.
    put(&rows, ROWS, 100).unwrap();
    rows.sync().unwrap();
    rows.shared.rest().unwrap();
    drop(rows);
    let rows = machine.open(TABLE, true);
    assert_eq!(keys(&rows, b"").len() as u32, ROWS + 1);
}

#[test]
fn a_new_log_file_is_small_and_grows_to_what_a_table_needs() {
    const TABLE: u64 = 16 << 20;
    let mut machine = Machine::new();
    let rows = machine.open(TABLE as usize, true);
    // Made ahead by the thread.
    drop(rows);
    let log = machine.folder.path().join("wal");
    let held = || {
        let files = std::fs::read_dir(&log).unwrap();
        let held = files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512);
        held.sum::<u64>()
    };
    assert!(held() < 5 << 20, "{} bytes for nothing", held());
    let rows = machine.open(TABLE as usize, false);
    for n in 0..60u32 {
        let mut batch = Batch::new();
        batch.put(Table::Inode, n.to_be_bytes(), vec![7; 1 << 20]);
        rows.commit(batch).unwrap();
    }
    drop(rows);
    assert!(held() > TABLE, "{} bytes", held());
    assert_eq!(
        all(&machine.open(TABLE as usize, false), b"", false).len(),
        60
    );
}

#[test]
fn what_is_too_large_is_refused() {
    let mut machine = Machine::new();
    let rows = machine.open(1 << 20, false);
    let mut batch = Batch::new();
    batch.put(Table::Meta, [0; KEY_MAX_BYTES + 1], []);
    assert!(matches!(
        rows.commit(batch),
        Err(StoreError::TooLarge { .. })
    ));
    let mut batch = Batch::new();
    batch.put(Table::Meta, [0; KEY_MAX_BYTES], []);
    rows.commit(batch).unwrap();
}

/// A disk that others fill to the last block: then no file is made, none grows.
#[derive(Debug)]
struct FullDisk {
    folder: Folder,
    is_full: Arc<AtomicBool>,
}

#[derive(Debug)]
struct FullFile {
    file: Arc<dyn DiskFile>,
    is_full: Arc<AtomicBool>,
}

impl FullDisk {
    fn new(folder: &Path, is_full: bool) -> Self {
        Self {
            folder: Folder::new(folder),
            is_full: Arc::new(AtomicBool::new(is_full)),
        }
    }
}

impl Disk for FullDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let is_full = self.is_full.load(Ordering::Relaxed);
        let file = match self.folder.open(name, create && !is_full) {
            Err(e) if create && e.kind() == io::ErrorKind::NotFound => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            opened => opened?,
        };
        let is_full = Arc::clone(&self.is_full);
        Ok(Arc::new(FullFile { file, is_full }))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.remove(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.folder.rename(from, to)
    }
    fn names(&self) -> io::Result<Vec<String>> {
        self.folder.names()
    }
    fn sync_names(&self) -> io::Result<()> {
        self.folder.sync_names()
    }
    fn room(&self) -> io::Result<crate::store::disk::Room> {
        let mut room = self.folder.room()?;
        if self.is_full.load(Ordering::Relaxed) {
            (room.available, room.last) = (0, 0);
        }
        Ok(room)
    }
}

impl DiskFile for FullFile {
    fn write_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed)
            && offset + (first.len() + second.len()) as u64 > self.file.size()?
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_at(first, second, offset)
    }
    fn read_at(&self, len: usize, offset: u64) -> io::Result<Bytes> {
        self.file.read_at(len, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch(offset, len)
    }
    fn reserve(&self, len: u64) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.reserve(len)
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

#[test]
fn a_disk_without_a_block_left_is_opened_and_rows_are_removed_from_it() {
    let mut machine = Machine::new();
    let put = |rows: &BufferedRows, n: u64| {
        let mut batch = Batch::new();
        batch.put(Table::Inode, n.to_be_bytes(), vec![n as u8; 500]);
        rows.commit(batch).unwrap();
    };
    let rows = machine.open(64 << 10, false);
    (0..300).for_each(|n| put(&rows, n));
    rows.sync().unwrap();
    // As a kill leaves it: the last table is in the log alone.
    let log = machine.folder.path().join("wal");
    let killed = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&log).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, killed.path().join(path.file_name().unwrap())).unwrap();
    }
    let tree = Arc::clone(&rows.shared.tree);
    drop(rows);
    let disk = Arc::new(FullDisk::new(killed.path(), true));
    let sealer = machine.key.sealer(9);
    let options = BufferOptions {
        table_bytes: 64 << 10,
        log_bytes: LOG_BYTES,
    };
    let rows = BufferedRows::open(disk, killed.path(), tree, sealer, options).unwrap();
    assert_eq!(all(&rows, b"", false).len(), 300);
    let mut batch = Batch::new();
    batch.delete(Table::Inode, 7u64.to_be_bytes());
    rows.commit(batch).unwrap();
    rows.sync().unwrap();
    assert_eq!(all(&rows, b"", false).len(), 299);
}

/// A tree that finds no room while others have taken it.
#[derive(Debug)]
struct FullTree {
    tree: LocalTree,
    is_full: Arc<AtomicBool>,
}

impl Tree for FullTree {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.tree.get(key)
    }
    fn range<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        is_reverse: bool,
    ) -> Box<dyn Iterator<Item = super::super::tree::TreeRow> + 'a> {
        self.tree.range(start, end, is_reverse)
    }
    fn apply(
        &self,
        visit: &mut dyn FnMut(&mut super::super::tree::TreeChange<'_>),
    ) -> Result<(), StoreError> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(StoreError::Full);
        }
        self.tree.apply(visit)
    }
    fn count(&self) -> u64 {
        self.tree.count()
    }
    fn rest(&self) {
        self.tree.rest();
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.tree.sync()
    }
}

impl Machine {
    /// Opens rows on a disk that others fill when `is_full` is set.
    fn open_beside_others(
        &mut self,
        table_bytes: usize,
        is_full: &Arc<AtomicBool>,
    ) -> BufferedRows {
        self.opened += 1;
        let sealer = self.key.sealer(self.opened);
        let options = StoreOptions::default();
        let tree = self.folder.path().join("rows");
        let tree = LocalTree::open(&tree, sealer.clone(), &options, Gate::default()).unwrap();
        let is_full = Arc::clone(is_full);
        let tree = FullTree {
            tree,
            is_full: Arc::clone(&is_full),
        };
        let log = self.folder.path().join("wal");
        let disk = FullDisk {
            folder: Folder::new(&log),
            is_full,
        };
        let options = BufferOptions {
            table_bytes,
            log_bytes: 0,
        };
        let rows = BufferedRows::open(Arc::new(disk), &log, Arc::new(tree), sealer, options);
        let rows = rows.unwrap();
        rows.set_ballast(&self.folder.path().join("ballast"))
            .unwrap();
        rows
    }
}

fn put(rows: &BufferedRows, n: u32, len: usize) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    batch.put(Table::Inode, n.to_be_bytes(), vec![n as u8; len]);
    rows.commit(batch)
}

/// As the removal of a file, which says in the log of the volume that it is gone.
fn remove(rows: &BufferedRows, n: u32) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    batch.delete(Table::Inode, n.to_be_bytes());
    batch.put(Table::Draft, n.to_be_bytes(), [7; 300]);
    rows.commit(batch)
}

#[test]
fn all_rows_are_removed_when_others_take_what_is_free_at_each_moment() {
    let mut machine = Machine::new();
    let is_full = Arc::default();
    let rows = machine.open_beside_others(16 << 20, &is_full);
    let ballast = machine.folder.path().join("ballast");
    let mut most = 0;
    for round in 0..3 {
        (0..4000).for_each(|n| put(&rows, n, 500).unwrap());
        let kept = std::fs::metadata(&ballast).unwrap().len();
        is_full.store(true, Ordering::Relaxed);
        // What is small goes on for a while, and what is not does not; neither may take what removals need.
        assert!(matches!(put(&rows, 9999, 300 << 10), Err(StoreError::Full)));
        let more = (4000..).find(|n| put(&rows, *n, 500).is_err()).unwrap();
        assert!(more > 4100, "{more}");
        let from = if round == 1 { 2000 } else { 0 };
        for n in from..more {
            remove(&rows, n)
                .unwrap_or_else(|error| panic!("round {round}, {n} of {more}: {error}"));
        }
        rows.sync().unwrap();
        let left = all(&rows, b"", false).len();
        assert_eq!(left as u32, from);
        most = most.max(kept);

        // Others leave.
        is_full.store(false, Ordering::Relaxed);
        put(&rows, 0, 5000).unwrap();
        assert!(std::fs::metadata(&ballast).unwrap().len() > 2 << 20);
    }
    assert!(most > 8 << 20, "{most}");
    drop(rows);
    let rows = machine.open_beside_others(16 << 20, &is_full);
    assert_eq!(all(&rows, b"", false).len(), 1);
}

#[test]
fn rows_are_removed_after_kills_while_others_take_what_is_free() {
    let mut machine = Machine::new();
    let is_full = Arc::default();
    let mut rows = machine.open_beside_others(16 << 20, &is_full);
    (0..3000).for_each(|n| put(&rows, n, 500).unwrap());
    is_full.store(true, Ordering::Relaxed);
    for n in 0..3000 {
        if n % 700 == 600 {
            // Closing moves nothing to the tree, as a kill does: there is no room for that.
            drop(rows);
            rows = machine.open_beside_others(16 << 20, &is_full);
            assert_eq!(all(&rows, b"", false).len() as u32, 3000 - n);
        }
        remove(&rows, n).unwrap_or_else(|error| panic!("{n}: {error}"));
    }
    assert!(all(&rows, b"", false).is_empty());
    assert!(!machine.folder.path().join("ballast").exists());
}

#[test]
fn a_flush_that_finds_no_room_waits_for_it_and_nothing_else_does() {
    const TABLE: usize = 256 << 10;
    let mut machine = Machine::new();
    let is_full = Arc::default();
    let rows = machine.open_beside_others(TABLE, &is_full);
    (0..1500).for_each(|n| put(&rows, n, 500).unwrap());
    is_full.store(true, Ordering::Relaxed);
    let moved = rows.shared.layers.read().moved;
    // Several tables full: what is given for a flush is taken by others each time.
    for n in 0..1500 {
        remove(&rows, n).unwrap_or_else(|error| panic!("{n}: {error}"));
    }
    assert!(rows.shared.flush.lock().is_stuck);
    assert!(rows.shared.layers.read().active.bytes() > TABLE);
    assert_eq!(rows.shared.layers.read().moved, moved);
    rows.sync().unwrap();
    rows.settle().unwrap();
    // Memory takes no more than a few tables.
    let more = (1500..9000).find(|n| put(&rows, *n, 500).is_err()).unwrap();
    assert!(rows.shared.layers.read().active.bytes() <= TABLE * OVERFULL + 4096);
    drop(rows);

    let rows = machine.open_beside_others(TABLE, &is_full);
    assert_eq!(all(&rows, b"", false).len() as u32, more - 1500);
    is_full.store(false, Ordering::Relaxed);
    (0..3000).for_each(|n| put(&rows, n, 500).unwrap());
    assert!(rows.shared.layers.read().moved > 3);
    assert!(!rows.shared.flush.lock().is_stuck);
    assert_eq!(all(&rows, b"", false).len(), 3000);
}

/// A tree that takes no more rows from a moment on.
struct Failing {
    tree: Arc<dyn Tree>,
    fails: AtomicBool,
}

impl std::fmt::Debug for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Failing")
    }
}

impl Tree for Failing {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.tree.get(key)
    }

    fn range<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        is_reverse: bool,
    ) -> Box<dyn Iterator<Item = crate::store::tree::TreeRow> + 'a> {
        self.tree.range(start, end, is_reverse)
    }

    fn apply(
        &self,
        visit: &mut dyn FnMut(&mut crate::store::tree::TreeChange<'_>),
    ) -> Result<(), StoreError> {
        match self.fails.load(Ordering::SeqCst) {
            true => Err(StoreError::Corrupt { what: "a tree" }),
            false => self.tree.apply(visit),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.tree.sync()
    }
}

#[test]
fn what_the_tree_does_not_take_stays_in_the_log_and_nothing_is_committed_behind_it() {
    for has_thread in [false, true] {
        let mut machine = Machine::new();
        let tree = Arc::clone(&machine.open(64 << 10, false).shared.tree);
        let log = machine.folder.path().join("wal");
        let options = BufferOptions {
            table_bytes: 64 << 10,
            log_bytes: LOG_BYTES,
        };
        let fails = AtomicBool::new(false);
        let failing = Arc::new(Failing { tree, fails });
        let (disk, sealer) = (Arc::new(Folder::new(&log)), machine.key.sealer(7));
        let of = Arc::clone(&failing) as Arc<dyn Tree>;
        let rows = match has_thread {
            true => {
                BufferedRows::open_with_thread(disk, &log, of, sealer, options, Gate::default())
            }
            false => BufferedRows::open(disk, &log, of, sealer, options),
        }
        .unwrap();
        failing.fails.store(true, Ordering::SeqCst);
        let put = |n: u64| {
            let mut batch = Batch::new();
            batch.put(Table::Inode, n.to_be_bytes(), vec![n as u8; 500]);
            rows.commit(batch)
        };
        // However many fit, the commits end.
        let refused = (0..10_000).find(|n| put(*n).is_err());
        let taken = refused.expect("commits that end");
        assert!(matches!(put(taken), Err(StoreError::Poisoned)));
        assert!(matches!(rows.sync(), Err(StoreError::Poisoned)));
        // What was taken is here, and after a start.
        let here = all(&rows, b"", false).len() as u64;
        assert!(here >= taken, "{here} of {taken}");
        drop((rows, failing));
        let rows = machine.open(64 << 10, false);
        let here = all(&rows, b"", false).len() as u64;
        assert!(here >= taken, "{here} of {taken} are left");
    }
}
