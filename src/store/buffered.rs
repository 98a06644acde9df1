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

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
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
use super::{KeyVisitor, RowVisitor, Rows, StoreError, Table};
use crate::base::task;
use crate::crypto::RowSealer;

/// Key of the row in which the tree says up to which batch it holds the log; below each table's tag.
const FLUSHED_KEY: &[u8] = &[0];

/// A table larger than its limit by this factor makes commits wait for the flush before.
const OVERFULL: usize = 4;

/// The part of a table that is left in a log file whose blocks were never written.
const EARLY: usize = 16;

/// Log files that are kept for the next tables.
const FREE_FILES_MAX: usize = 2;

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
    /// Log files that nobody needs any more, to be made the next ones.
    free: Vec<u64>,
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
        let mut free = Vec::new();
        if !replayed.files.is_empty() {
            // What they held is in the tree; it must stay there without them.
            tree.sync()?;
            free = keep_some(&*disk, folder, replayed.files.iter().copied())?;
        }
        let log = match free.pop() {
            Some(free) => LogFile::recycle(&*disk, free, number),
            None => LogFile::create(&*disk, number, options.table_bytes as u64),
        };
        let log = log.map_err(|e| StoreError::io("make the row log in", folder, e))?;
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
                flush: Mutex::new(Flush {
                    free,
                    ..Flush::default()
                }),
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
        {
            let mut flush = rows.shared.flush.lock();
            flush.has_thread = true;
            // Of nothing: it makes the next log file.
            flush.is_wanted = true;
        }
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
        table.for_each(&mut |key, value| {
            // Most of what is removed was made a moment ago, and the tree never had it. What cannot
            // be looked for may be there.
            if value.is_some() || tree.contains(key).unwrap_or(true) {
                change(key, value);
            }
        });
    })
}

/// Keeps files for recycling and removes the others.
fn keep_some(
    disk: &dyn Disk,
    folder: &Path,
    files: impl Iterator<Item = u64>,
) -> Result<Vec<u64>, StoreError> {
    let io = |e| StoreError::io("look at a row log in", folder, e);
    let (mut kept, mut superfluous) = (Vec::new(), Vec::new());
    for number in files {
        let file = disk.open(&wal::name_of(number), false).map_err(io)?;
        if kept.len() < FREE_FILES_MAX && wal::is_kept(file.size().map_err(io)?) {
            kept.push(number);
        } else {
            superfluous.push(number);
        }
    }
    remove(disk, folder, superfluous.into_iter())?;
    Ok(kept)
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
            // A new log file is soon left for one that was written ahead.
            let is_early = !writer.log.is_written && held >= self.options.table_bytes / EARLY;
            if held < self.options.table_bytes && !is_early {
                return Ok(());
            }
            let mut flush = self.flush.lock();
            if held < self.options.table_bytes && flush.spare.is_none() {
                return Ok(());
            }
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

    fn is_overfull(&self) -> bool {
        self.layers.read().active.bytes() >= self.options.table_bytes * OVERFULL
    }

    fn freeze(&self, writer: &mut Writer, spare: Option<LogFile>) -> Result<(), StoreError> {
        let io = |e| StoreError::io("make the row log in", &self.folder, e);
        let next = match spare {
            Some(spare) => spare,
            None => match self.next_log(writer.log.number + 1, LogFile::create) {
                Ok(next) => next,
                // Rows are removed from a full disk all the same: the log goes on in its file.
                Err(error) if is_full(&error) && !self.is_overfull() => return Ok(()),
                Err(error) => return Err(io(error)),
            },
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
        self.retire()?;
        // Ahead of the next table, which cannot be frozen before this flush ends.
        if self.flush.lock().has_thread {
            self.prepare();
        }
        Ok(())
    }

    /// Gives up the log files of what is in the tree, where they have become large enough.
    fn retire(&self) -> Result<(), StoreError> {
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
            let free = std::mem::take(&mut self.flush.lock().free);
            let free = keep_some(&*self.disk, &self.folder, free.into_iter().chain(numbers))?;
            self.flush.lock().free = free;
        }
        Ok(())
    }

    /// Makes a log file of one that is free, else by `create`.
    fn next_log(
        &self,
        number: u64,
        create: impl FnOnce(&dyn Disk, u64, u64) -> io::Result<LogFile>,
    ) -> io::Result<LogFile> {
        let free = self.flush.lock().free.pop();
        match free {
            Some(free) => LogFile::recycle(&*self.disk, free, number),
            None => create(&*self.disk, number, self.options.table_bytes as u64),
        }
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
        if let Ok(spare) = self.next_log(newest + 1, LogFile::create_written) {
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
    fn merged(&self, start: &[u8], end: &[u8], walk: Walk) -> Merged<'_> {
        let is_reverse = matches!(walk, Walk::Backwards);
        // Under the lock no other table can be flushed than the one that is seen here.
        let layers = self.layers.read();
        let cursor = |table: &Arc<Memtable>| table.cursor(start.to_vec(), end.to_vec(), is_reverse);
        Merged {
            active: cursor(&layers.active),
            flushing: layers.flushing.as_ref().map(cursor),
            tree: match walk {
                Walk::Keys => self.tree.keys(start, end),
                Walk::Forwards | Walk::Backwards => self.tree.range(start, end, is_reverse),
            },
            tree_next: None,
            is_reverse,
        }
    }

    fn visit(
        &self,
        start: &[u8],
        end: &[u8],
        walk: Walk,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        if start >= end {
            return Ok(());
        }
        let mut rows = self.merged(start, end, walk);
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

/// How rows are walked.
#[derive(Debug, Clone, Copy)]
enum Walk {
    Forwards,
    Backwards,
    /// Forwards; values do not matter.
    Keys,
}

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
        self.shared.visit(&start, &end, Walk::Forwards, f)
    }

    fn scan_keys(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut KeyVisitor<'_>,
    ) -> Result<(), StoreError> {
        let (start, end) = stored_range(table, start, end);
        let visit = &mut |key: &[u8], _: &[u8]| f(key);
        self.shared.visit(&start, &end, Walk::Keys, visit)
    }

    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        let (start, end) = stored_range(table, start, end);
        self.shared.visit(&start, &end, Walk::Backwards, f)
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
