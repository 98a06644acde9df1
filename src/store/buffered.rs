//! Rows behind a write-ahead log: a commit is one write to the log and an insertion in memory; the
//! tree gets the rows later, many at once, each as it was left last.
//!
//! ```text
//! commit ──> log file (sealed, appended)        sync ──> fdatasync of the log
//!        └─> active table ──full──> flushing table ──apply──> tree ──sync──> log files removed
//! read: active table, else flushing table, else tree
//! ```
//!
//! A directory's inode that a thousand creates change goes to the tree once, and what was removed
//! before it went there never does. The order of batches in the log is the order of recovery: the
//! tree holds a prefix of them and says which, and the log is replayed behind it up to the first
//! batch that is missing.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};

use super::batch::{Batch, stored_key, stored_range};
use super::disk::{Disk, DiskFile};
use super::error::is_full;
use super::group::GroupSync;
use super::memory::check_batch;
use super::memtable::{Cursor, Memtable};
use super::space::{Reserve, Space};
use super::tree::{Tree, TreeRow};
use super::wal::{self, LogFile, Replayed};
use super::{RowVisitor, Rows, StoreError, Table};
use crate::base::task;
use crate::crypto::RowSealer;

/// Key of the row in which the tree says up to which batch it holds the log; below each table's tag.
const FLUSHED_KEY: &[u8] = &[0];

/// A table larger than its limit by this factor makes commits wait for the flush before.
const OVERFULL: usize = 4;

/// A table smaller than this is left to the log at closing: replaying it takes some milliseconds.
const LEFT_TO_LOG_BYTES: usize = 1 << 20;

/// What may be chosen about buffered rows.
#[derive(Debug, Clone, Copy)]
pub struct BufferOptions {
    /// Rows are flushed to the tree when they take this much memory, in bytes.
    pub table_bytes: usize,
    /// Log files of flushed tables are kept up to this size, in bytes, before the tree is synced
    /// for them: until then they are what makes its rows durable.
    pub log_bytes: u64,
}

/// Rows whose newest commits lie in a log and in memory.
#[derive(Debug)]
pub struct BufferedRows {
    shared: Arc<Shared>,
    flusher: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    tree: Arc<dyn Tree>,
    disk: Arc<dyn Disk>,
    /// For messages.
    folder: PathBuf,
    sealer: RowSealer,
    space: Space,
    group: GroupSync,
    options: BufferOptions,
    /// Number of the last batch that is known to be durable.
    durable: AtomicU64,
    /// Held while a batch is logged and applied. Locks are taken in the order of these fields.
    writer: Mutex<Writer>,
    layers: RwLock<Layers>,
    /// Files that hold batches which are not known to be durable, ascending; the last is written to.
    unsynced: Mutex<Vec<OpenLog>>,
    flush: Mutex<Flush>,
    /// Told of each change of `flush`.
    flush_changed: Condvar,
}

#[derive(Debug)]
struct Writer {
    log: LogFile,
    /// Number of the last batch.
    last: u64,
    /// Room for encoding, kept.
    body: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Layers {
    active: Arc<Memtable>,
    flushing: Option<Arc<Memtable>>,
}

#[derive(Debug, Clone)]
struct OpenLog {
    number: u64,
    file: Arc<dyn DiskFile>,
}

#[derive(Debug, Default)]
struct Flush {
    /// A table waits to be flushed, or is being flushed.
    is_wanted: bool,
    /// The next log file, made ahead.
    spare: Option<LogFile>,
    /// Log files of tables that are in the tree: number and length.
    retired: VecDeque<(u64, u64)>,
    /// Log file of the table that is being flushed.
    retiring: Option<(u64, u64)>,
    /// The flusher has a thread, and shall end.
    has_thread: bool,
    is_closing: bool,
}

impl BufferedRows {
    /// Opens the rows of `tree` with the log on `disk`; brings back every synced batch and a prefix
    /// of those committed later. `folder` is where the disk is, for messages.
    ///
    /// Flushes in the caller's thread.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        tree: Arc<dyn Tree>,
        sealer: RowSealer,
        options: BufferOptions,
    ) -> Result<Self, StoreError> {
        let flushed = flushed_of(&*tree)?;
        let mut table = Vec::new();
        let replayed = wal::replay(&*disk, folder, &sealer, flushed, &mut |seq, changes| {
            table.push((seq, changes));
        })?;
        report(&replayed);
        let recovered = Memtable::new(flushed);
        for (seq, changes) in table {
            recovered.apply(seq, changes);
        }
        if recovered.last() > flushed {
            apply(&*tree, &recovered)?;
        }
        let number = replayed.files.last().map_or(1, |last| last + 1);
        let io = |e| StoreError::io("make the row log in", folder, e);
        let log = LogFile::create(&*disk, number).map_err(io)?;
        if !replayed.files.is_empty() {
            // What they held is in the tree; it must stay there without them.
            tree.sync()?;
            remove(&*disk, folder, replayed.files.iter().copied())?;
        }
        let open = OpenLog {
            number,
            file: Arc::clone(&log.file),
        };
        let last = recovered.last();
        Ok(Self {
            shared: Arc::new(Shared {
                tree,
                space: Space::new(Arc::clone(&disk), folder.to_owned(), Reserve::ROWS),
                disk,
                folder: folder.to_owned(),
                sealer,
                group: GroupSync::default(),
                options,
                durable: AtomicU64::new(last),
                writer: Mutex::new(Writer {
                    log,
                    last,
                    body: Vec::new(),
                }),
                layers: RwLock::new(Layers {
                    active: Arc::new(Memtable::new(last)),
                    flushing: None,
                }),
                unsynced: Mutex::new(vec![open]),
                flush: Mutex::default(),
                flush_changed: Condvar::new(),
            }),
            flusher: None,
        })
    }

    /// Opens the rows as [`BufferedRows::open`] does, with a thread that flushes.
    pub fn open_with_thread(
        disk: Arc<dyn Disk>,
        folder: &Path,
        tree: Arc<dyn Tree>,
        sealer: RowSealer,
        options: BufferOptions,
    ) -> Result<Self, StoreError> {
        let mut rows = Self::open(disk, folder, tree, sealer, options)?;
        rows.shared.flush.lock().has_thread = true;
        let shared = Arc::clone(&rows.shared);
        let thread = task::thread("row-flush", move || shared.run())
            .map_err(|e| StoreError::io("start a thread for", folder, e))?;
        rows.flusher = Some(thread);
        Ok(rows)
    }

    /// Lets the room that is kept back lie in a file.
    pub(super) fn set_ballast(&self, path: &Path) -> Result<(), StoreError> {
        self.shared.space.set_ballast(path)
    }
}

fn report(replayed: &Replayed) {
    if replayed.count > 0 {
        tracing::info!(batches = replayed.count, "the row log was replayed");
    }
    if replayed.lost > 0 {
        tracing::warn!(
            batches = replayed.lost,
            "the row log ended in batches that were never synced; they are given up"
        );
    }
}

fn flushed_of(tree: &dyn Tree) -> Result<u64, StoreError> {
    let corrupt = StoreError::Corrupt {
        what: "the row that says how far the row log is flushed",
    };
    match tree.get(FLUSHED_KEY)? {
        Some(bytes) => bytes.try_into().map(u64::from_le_bytes).or(Err(corrupt)),
        None => Ok(0),
    }
}

/// Moves a table into the tree.
fn apply(tree: &dyn Tree, table: &Memtable) -> Result<(), StoreError> {
    tree.apply(&mut |change| {
        change(FLUSHED_KEY, Some(&table.last().to_le_bytes()));
        table.for_each(change);
    })
}

fn remove(
    disk: &dyn Disk,
    folder: &Path,
    files: impl Iterator<Item = u64>,
) -> Result<(), StoreError> {
    for number in files {
        let removed = disk.remove(&wal::name_of(number));
        removed.map_err(|e| StoreError::io("remove a row log in", folder, e))?;
    }
    Ok(())
}

impl Shared {
    /// Makes the next commit go to an empty table where the active one is full.
    fn make_room(&self, writer: &mut Writer) -> Result<(), StoreError> {
        loop {
            let held = self.layers.read().active.bytes();
            if held < self.options.table_bytes {
                return Ok(());
            }
            let mut flush = self.flush.lock();
            if !flush.is_wanted {
                let spare = flush.spare.take();
                drop(flush);
                return self.freeze(writer, spare);
            }
            if held < self.options.table_bytes * OVERFULL {
                return Ok(());
            }
            self.group.check()?;
            // Ends with the flush, which a failure ends too.
            self.flush_changed.wait(&mut flush);
        }
    }

    fn freeze(&self, writer: &mut Writer, spare: Option<LogFile>) -> Result<(), StoreError> {
        let io = |e| StoreError::io("make the row log in", &self.folder, e);
        let next = match spare {
            Some(spare) => spare,
            None => LogFile::create(&*self.disk, writer.log.number + 1).map_err(io)?,
        };
        self.unsynced.lock().push(OpenLog {
            number: next.number,
            file: Arc::clone(&next.file),
        });
        let old = std::mem::replace(&mut writer.log, next);
        let mut layers = self.layers.write();
        let active = Arc::new(Memtable::new(writer.last));
        layers.flushing = Some(std::mem::replace(&mut layers.active, active));
        drop(layers);
        let mut flush = self.flush.lock();
        flush.is_wanted = true;
        flush.retiring = Some((old.number, old.len));
        let has_thread = flush.has_thread;
        drop(flush);
        if has_thread {
            self.flush_changed.notify_all();
            return Ok(());
        }
        self.flush_table()
    }

    /// Moves the flushing table into the tree. A failure is final, as of every write.
    fn flush_table(&self) -> Result<(), StoreError> {
        // The tree asserts what its files say; damage there must not leave commits waiting.
        let moved = catch_unwind(AssertUnwindSafe(|| self.move_table()));
        let outcome = moved.unwrap_or(Err(StoreError::Corrupt {
            what: "the row database takes no rows",
        }));
        if outcome.is_err() {
            self.group.poison();
        }
        self.flush.lock().is_wanted = false;
        self.flush_changed.notify_all();
        outcome
    }

    fn move_table(&self) -> Result<(), StoreError> {
        let table = self.layers.read().flushing.clone();
        if let Some(table) = table {
            apply(&*self.tree, &table)?;
            self.layers.write().flushing = None;
        }
        // Ahead of the next table, which cannot be frozen before this flush ends.
        if self.flush.lock().has_thread {
            self.prepare();
        }
        let mut flush = self.flush.lock();
        let retiring = flush.retiring.take();
        flush.retired.extend(retiring);
        let held: u64 = flush.retired.iter().map(|(_, len)| len).sum();
        if held > self.options.log_bytes {
            let retired = std::mem::take(&mut flush.retired);
            drop(flush);
            self.tree.sync()?;
            let last = retired.back().map_or(0, |(number, _)| *number);
            // Their batches are durable in the tree.
            self.unsynced.lock().retain(|log| log.number > last);
            let numbers = retired.iter().map(|(number, _)| *number);
            remove(&*self.disk, &self.folder, numbers)?;
        }
        Ok(())
    }

    /// Flushes whenever that is wanted, until closing.
    fn run(&self) {
        let mut flush = self.flush.lock();
        loop {
            if flush.is_wanted {
                drop(flush);
                if let Err(error) = self.flush_table() {
                    tracing::error!(%error, "rows cannot be moved into the tree");
                }
                flush = self.flush.lock();
                continue;
            }
            if flush.is_closing {
                return;
            }
            self.flush_changed.wait(&mut flush);
        }
    }

    /// Makes the next log file ahead of need. Where that fails, whoever needs one tries again.
    fn prepare(&self) {
        let Some(newest) = self.unsynced.lock().last().map(|log| log.number) else {
            return;
        };
        if let Ok(spare) = LogFile::create(&*self.disk, newest + 1) {
            self.flush.lock().spare = Some(spare);
        }
    }

    fn log(&self, writer: &mut Writer, batch: Batch) -> Result<(), StoreError> {
        let seq = writer.last + 1;
        let durable = self.durable.load(Ordering::Acquire);
        wal::encode(&mut writer.body, durable, batch.changes());
        let logged = writer.log.append(&self.sealer, seq, &writer.body);
        if let Err(error) = logged {
            if !is_full(&error) {
                self.group.poison();
            }
            return Err(StoreError::io("write the row log in", &self.folder, error));
        }
        if writer.body.capacity() > BODY_KEPT_BYTES {
            writer.body = Vec::new();
        }
        writer.last = seq;
        let active = Arc::clone(&self.layers.read().active);
        active.apply(seq, batch.into_changes());
        self.group.wrote();
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        // Before the files: what is committed from now on may be in none of them.
        let last = self.layers.read().active.last();
        let files = self.unsynced.lock().clone();
        let io = |e| StoreError::io("sync the row log in", &self.folder, e);
        for log in &files {
            log.file.sync_data().map_err(io)?;
        }
        if let Some(newest) = files.last() {
            self.unsynced
                .lock()
                .retain(|log| log.number >= newest.number);
        }
        self.durable.fetch_max(last, Ordering::AcqRel);
        Ok(())
    }

    /// Returns what a scan walks, all as of one moment.
    fn merged(&self, start: &[u8], end: &[u8], is_reverse: bool) -> Merged<'_> {
        // Under the lock no other table can be flushed than the one that is seen here.
        let layers = self.layers.read();
        let cursor = |table: &Arc<Memtable>| table.cursor(start.to_vec(), end.to_vec(), is_reverse);
        Merged {
            active: cursor(&layers.active),
            flushing: layers.flushing.as_ref().map(cursor),
            tree: self.tree.range(start, end, is_reverse),
            tree_next: None,
            is_reverse,
        }
    }

    fn visit(
        &self,
        start: &[u8],
        end: &[u8],
        is_reverse: bool,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        if start >= end {
            return Ok(());
        }
        let mut rows = self.merged(start, end, is_reverse);
        while let Some((key, value)) = rows.next()? {
            if f(key.get(1..).unwrap_or_default(), value.as_ref()).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Room for encoding that is kept between commits; one that was larger is given back.
const BODY_KEPT_BYTES: usize = 1 << 20;

/// A value out of memory or out of the tree.
enum RowValue {
    Buffered(Bytes),
    Tree(Vec<u8>),
}

impl AsRef<[u8]> for RowValue {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Buffered(value) => value,
            Self::Tree(value) => value,
        }
    }
}

/// Rows of all layers in key order; of one key the newest layer's.
struct Merged<'a> {
    active: Cursor,
    flushing: Option<Cursor>,
    tree: Box<dyn Iterator<Item = TreeRow> + 'a>,
    tree_next: Option<(Vec<u8>, Vec<u8>)>,
    is_reverse: bool,
}

impl Merged<'_> {
    fn next(&mut self) -> Result<Option<(Vec<u8>, RowValue)>, StoreError> {
        loop {
            if self.tree_next.is_none() {
                self.tree_next = self.tree.next().transpose()?;
            }
            let from_tree = self.tree_next.as_ref().map(|(key, _)| &**key);
            let flushing = self.flushing.as_mut().and_then(Cursor::peek);
            let active = self.active.peek();
            let keys = [active, flushing, from_tree].into_iter().flatten();
            let first = if self.is_reverse {
                keys.max()
            } else {
                keys.min()
            };
            let Some(first) = first else {
                return Ok(None);
            };
            let is_next = [active, flushing, from_tree].map(|key| key == Some(first));
            let [is_active, is_flushing, is_tree] = is_next;
            let active = is_active.then(|| self.active.take()).flatten();
            let flushing = match &mut self.flushing {
                Some(flushing) if is_flushing => flushing.take(),
                _ => None,
            };
            let tree = if is_tree { self.tree_next.take() } else { None };
            match (active.or(flushing), tree) {
                (Some((key, Some(value))), _) => {
                    return Ok(Some((key, RowValue::Buffered(value))));
                }
                // Removed.
                (Some((_, None)), _) => {}
                (None, Some((key, value))) => return Ok(Some((key, RowValue::Tree(value)))),
                (None, None) => return Ok(None),
            }
        }
    }
}

impl Rows for BufferedRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = stored_key(table, key);
        let layers = self.shared.layers.read();
        let found = layers.active.get(&key);
        let found = found.or_else(|| layers.flushing.as_ref()?.get(&key));
        drop(layers);
        match found {
            Some(value) => Ok(value.map(Vec::from)),
            None => self.shared.tree.get(&key),
        }
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        let (start, end) = stored_range(table, start, end);
        self.shared.visit(&start, &end, false, f)
    }

    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        let (start, end) = stored_range(table, start, end);
        self.shared.visit(&start, &end, true, f)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let bytes = check_batch(&batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        let shared = &*self.shared;
        shared.group.check()?;
        // A batch that only removes rows frees room, so it may use the reserve.
        if bytes > 0 {
            let is_removal = batch.changes().values().any(Option::is_none);
            shared.space.take(bytes, is_removal)?;
        }
        let mut writer = shared.writer.lock();
        shared.make_room(&mut writer)?;
        shared.log(&mut writer, batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.shared.group.sync(|| self.shared.sync())
    }
}

impl Drop for BufferedRows {
    /// Moves a large table into the tree, so that the next opening need not replay it.
    fn drop(&mut self) {
        self.shared.flush.lock().is_closing = true;
        self.shared.flush_changed.notify_all();
        if let Some(flusher) = self.flusher.take() {
            // It ends after the flush that it is at; one that panicked has said so.
            let _ = flusher.join();
        }
        let shared = &*self.shared;
        shared.flush.lock().has_thread = false;
        let mut writer = shared.writer.lock();
        let held = shared.layers.read().active.bytes();
        if held > LEFT_TO_LOG_BYTES && shared.group.check().is_ok() {
            let spare = shared.flush.lock().spare.take();
            if let Err(error) = shared.freeze(&mut writer, spare) {
                tracing::warn!(%error, "rows stay in the log until the next start");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::base::Rng;
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
            let tree = LocalTree::open(&tree, sealer.clone(), &options).unwrap();
            let log = self.folder.path().join("wal");
            let disk = Arc::new(Folder::new(&log));
            let options = BufferOptions {
                table_bytes,
                log_bytes: LOG_BYTES,
            };
            if has_thread {
                BufferedRows::open_with_thread(disk, &log, Arc::new(tree), sealer, options)
            } else {
                BufferedRows::open(disk, &log, Arc::new(tree), sealer, options)
            }
            .unwrap()
        }

        fn log_files(&self) -> usize {
            let log = self.folder.path().join("wal");
            std::fs::read_dir(log).unwrap().count()
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
            batch.put(Table::Inode, [n], vec![value; 100]);
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
    fn the_log_is_given_back_once_its_rows_are_in_the_tree() {
        let mut machine = Machine::new();
        let rows = machine.open(1 << 20, false);
        let value = vec![7; 100 << 10];
        for n in 0..600u32 {
            let mut batch = Batch::new();
            batch.put(Table::Inode, n.to_be_bytes(), value.clone());
            rows.commit(batch).unwrap();
        }
        let most = LOG_BYTES / (1 << 20) + 2;
        assert!(machine.log_files() as u64 <= most);
        drop(rows);
        let rows = machine.open(1 << 20, true);
        assert_eq!(all(&rows, b"", false).len(), 600);
        assert_eq!(machine.log_files(), 1);
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
}
