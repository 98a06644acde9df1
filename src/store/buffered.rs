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
//! batch that is missing. What was replayed is the first table, and its log is gone on with: opening
//! needs no room on the disk.

mod logs;
mod merged;
mod rest;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex, RwLock};

use self::logs::{Logs, keep_some, said};
pub(super) use self::logs::{check_flushed, look};
use self::merged::Walk;
use self::rest::{LOOK, Quiet};
use super::batch::{Batch, frozen_row, stored_key, stored_range, tables_range};
use super::disk::{Disk, DiskFile};
use super::error::is_full;
use super::gate::Gate;
use super::group::GroupSync;
use super::mark::{Mark, Said};
use super::memory::check_batch;
use super::memtable::Memtable;
use super::space::{Reserve, SMALL_BYTES, Space};
use super::tree::Tree;
use super::wal::{self, LogFile, Replayed};
use super::{FrozenRows, KeyVisitor, RowVisitor, Rows, StoreError, Table};
use crate::base::{panics, task};
use crate::crypto::RowSealer;

/// Key of the row in which the tree says up to which batch it holds the log; below each table's tag.
const FLUSHED_KEY: &[u8] = &[0];

/// A table larger than its limit by this factor makes commits wait for the flush before.
const OVERFULL: usize = 4;

/// The part of a table that is left in a log file whose blocks were never written.
const EARLY: usize = 16;

/// A table smaller than this is left to the log at closing: replaying it takes some milliseconds.
const LEFT_TO_LOG_BYTES: usize = 1 << 20;

/// No more is taken for a log file that is new: who has few rows has small files.
const NEW_FILE_MAX_BYTES: u64 = 2 << 20;

/// What may be chosen about buffered rows.
#[derive(Debug, Clone, Copy)]
pub struct BufferOptions {
    /// Rows are flushed to the tree when they take this much memory, in bytes.
    pub table_bytes: usize,
    /// Log files of flushed tables are kept up to this size, in bytes, before the tree is synced
    /// for them: until then they are what makes its rows durable.
    pub log_bytes: u64,
}

impl BufferOptions {
    /// Returns the room that is taken for a new log file. One that has to hold more grows, and
    /// is used again as long as it is.
    fn new_file_bytes(self) -> u64 {
        (self.table_bytes as u64).min(NEW_FILE_MAX_BYTES)
    }
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
    gate: Gate,
    /// How many rows the tree has, as of its last table.
    tree_rows: AtomicU64,
    /// Number of the last batch that is known to be durable.
    durable: AtomicU64,
    /// Number of the last batch after which the gate was open: whoever copies the folder has it.
    copied: AtomicU64,
    /// Held while a batch is logged and applied. Locks are taken in the order of these fields.
    writer: Mutex<Writer>,
    layers: RwLock<Layers>,
    /// Files that hold batches which are not known to be durable, ascending; the last is written to.
    unsynced: Mutex<Vec<OpenLog>>,
    flush: Mutex<Flush>,
    /// Told of each change of `flush`.
    flush_changed: Condvar,
    mark: Mutex<Mark>,
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
    /// How many tables went into the tree.
    moved: u64,
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
    /// That has found no room on the disk, and waits until there is some.
    is_stuck: bool,
    /// The next log file, made ahead.
    spare: Option<LogFile>,
    /// Above the number of each log file.
    next_number: u64,
    /// Number of the last batch that went to the tree.
    applied: u64,
    /// Log files of what is in the active table that are written to no more.
    held: Vec<(u64, u64)>,
    /// Log files of tables that are in the tree: number and length.
    retired: VecDeque<(u64, u64)>,
    /// Log files that nobody needs any more, to be made the next ones.
    free: Vec<u64>,
    /// Log files of the table that is being flushed.
    retiring: Vec<(u64, u64)>,
    /// This flush gives up what is not needed at rest, too.
    is_resting: bool,
    /// The flusher has a thread, and shall end.
    has_thread: bool,
    is_closing: bool,
}

impl BufferedRows {
    /// Opens the rows of `tree` with the log on `disk`; brings back every synced batch and a prefix
    /// of those committed later. `folder` is where the disk is, for messages.
    ///
    /// Flushes in the caller's thread. Where this fails it has written nothing.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        tree: Arc<dyn Tree>,
        sealer: RowSealer,
        options: BufferOptions,
    ) -> Result<Self, StoreError> {
        Self::open_behind(disk, folder, tree, sealer, options, Gate::default())
    }

    fn open_behind(
        disk: Arc<dyn Disk>,
        folder: &Path,
        tree: Arc<dyn Tree>,
        sealer: RowSealer,
        options: BufferOptions,
        gate: Gate,
    ) -> Result<Self, StoreError> {
        let flushed = flushed_of(&*tree)?;
        let said = said(&*disk, folder, &sealer)?;
        if said.is_some_and(|said| said.flushed > flushed) {
            return Err(StoreError::Damaged {
                path: folder.to_owned(),
                what: "belongs to newer rows than those that lie beside it",
            });
        }
        let table = Memtable::new(flushed);
        let replayed = wal::replay(
            &*disk,
            folder,
            &sealer,
            Some(flushed),
            &mut |seq, changes| {
                table.apply(seq, changes);
            },
        )?;
        replayed.check(said, flushed > 0, folder)?;
        report(&replayed);
        let last = replayed.last;
        let logs = Logs::take_over(&*disk, folder, replayed.files, flushed, options)?;
        let said = Said {
            epoch: sealer.epoch(),
            durable: said.map_or(0, |said| said.durable).max(flushed),
            flushed,
            file: logs.current.number,
        };
        let mark = Mark::open(&*disk, sealer.owner(), said);
        let mark = mark.map_err(|e| StoreError::io("write the mark in", folder, e))?;
        let tree_rows = AtomicU64::new(tree.count());
        let rows = Self {
            shared: Arc::new(Shared {
                tree_rows,
                tree,
                space: Space::new(Arc::clone(&disk), folder.to_owned(), Reserve::ROWS),
                disk,
                folder: folder.to_owned(),
                sealer,
                group: GroupSync::default(),
                options,
                gate,
                durable: AtomicU64::new(said.durable),
                copied: AtomicU64::new(last),
                writer: Mutex::new(Writer {
                    log: logs.current,
                    last,
                    body: Vec::new(),
                }),
                layers: RwLock::new(Layers {
                    active: Arc::new(table),
                    flushing: None,
                    moved: 0,
                }),
                unsynced: Mutex::new(logs.unsynced),
                flush: Mutex::new(Flush {
                    free: logs.free,
                    held: logs.held,
                    next_number: logs.next_number,
                    applied: flushed,
                    ..Flush::default()
                }),
                flush_changed: Condvar::new(),
                mark: Mutex::new(mark),
            }),
            flusher: None,
        };
        let room = rows.shared.writer.lock().log.room();
        rows.shared.space.set_log_room(room);
        rows.shared.measure();
        Ok(rows)
    }

    /// Opens the rows as [`BufferedRows::open`] does, with a thread that flushes while `gate` is
    /// open.
    pub fn open_with_thread(
        disk: Arc<dyn Disk>,
        folder: &Path,
        tree: Arc<dyn Tree>,
        sealer: RowSealer,
        options: BufferOptions,
        gate: Gate,
    ) -> Result<Self, StoreError> {
        let mut rows = Self::open_behind(disk, folder, tree, sealer, options, gate)?;
        {
            let mut flush = rows.shared.flush.lock();
            flush.has_thread = true;
            // Of nothing: it makes the next log file.
            flush.is_wanted = true;
        }
        // What an earlier process left unsynced.
        rows.shared.group.wrote();
        let shared = Arc::clone(&rows.shared);
        let thread = task::thread("row-flush", move || shared.run())
            .map_err(|e| StoreError::io("start a thread for", folder, e))?;
        rows.flusher = Some(thread);
        Ok(rows)
    }

    /// Gives up what is needed only while rows are written, where that is not left to a thread; tells whether it could
    /// be done.
    pub fn rest(&self) -> Result<bool, StoreError> {
        match self.flusher {
            Some(_) => Ok(false),
            None => self.shared.rest(),
        }
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

pub(super) fn flushed_of(tree: &dyn Tree) -> Result<u64, StoreError> {
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

impl Shared {
    /// Makes the next commit go to an empty table where the active one is full.
    fn make_room(&self, writer: &mut Writer) -> Result<(), StoreError> {
        loop {
            // Then the log goes on in its file.
            if self.gate.is_closed() {
                return Ok(());
            }
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
            if !flush.is_wanted || flush.is_stuck {
                drop(flush);
                return self.flush_full(writer, held);
            }
            if held < self.options.table_bytes * OVERFULL {
                return Ok(());
            }
            self.group.check()?;
            // Ends with the flush, which a failure ends too.
            self.flush_changed.wait(&mut flush);
        }
    }

    /// Has the active table flushed, or the one before it that found no room, where there is room now. Until then
    /// rows are removed from a full disk all the same: the log and the table go on.
    fn flush_full(&self, writer: &mut Writer, held: usize) -> Result<(), StoreError> {
        let layers = self.layers.read().clone();
        let stuck = layers.flushing.as_ref();
        let bytes =
            stuck.map_or_else(|| layers.active.net_bytes(), |table| table.net_bytes()) as u64;
        // The next log file takes room, too, where it is to be made.
        let flush = self.flush.lock();
        let new_file = match flush.spare.is_none() && flush.free.is_empty() {
            true => self.options.new_file_bytes(),
            false => 0,
        };
        drop(flush);
        let is_stuck = stuck.is_some();
        drop(layers);
        let bytes = bytes.saturating_add(new_file);
        self.space.set_flush(bytes);
        let missing = self.space.missing_for_flush(bytes);
        let is_due = held >= self.options.table_bytes;
        let is_overfull = held >= self.options.table_bytes * OVERFULL;
        let has_room = missing == 0 || is_due && self.space.give(missing);
        if !has_room && (!is_overfull || is_stuck) {
            self.space.set_flush(0);
            return match is_overfull {
                true => Err(StoreError::Full),
                false => Ok(()),
            };
        }
        let mut flush = self.flush.lock();
        if !flush.is_stuck {
            let spare = flush.spare.take();
            drop(flush);
            return self.freeze(writer, spare);
        }
        flush.is_stuck = false;
        if flush.has_thread {
            self.flush_changed.notify_all();
            // Memory takes no more before it is known.
            while is_overfull && flush.is_wanted && !flush.is_stuck {
                self.flush_changed.wait(&mut flush);
            }
        } else {
            drop(flush);
            self.flush_table()?;
            flush = self.flush.lock();
        }
        match is_overfull && flush.is_stuck {
            true => Err(StoreError::Full),
            false => Ok(()),
        }
    }

    /// Lets the log go on in another file that has its room already, where nothing else on the disk is left; tells
    /// whether there is one.
    fn go_on(&self, writer: &mut Writer) -> Result<bool, StoreError> {
        let mut flush = self.flush.lock();
        // It may be making a file, whose number is below the next.
        while flush.is_wanted && !flush.is_stuck {
            self.group.check()?;
            self.flush_changed.wait(&mut flush);
        }
        // Whoever copies the folder finds each file where it was.
        if !self.gate.is_open() {
            return Ok(false);
        }
        let spare = flush.spare.take();
        let is_free = !flush.free.is_empty();
        let number = flush.next_number;
        drop(flush);
        let io = |e| StoreError::io("go on with the row log in", &self.folder, e);
        let next = match spare {
            Some(spare) => spare,
            None if is_free => self.next_log(LogFile::create).map_err(io)?,
            None => {
                let path = self.folder.join(wal::name_of(number));
                if !self.space.turn_to_log(&path).map_err(io)? {
                    return Ok(false);
                }
                self.flush.lock().next_number = number + 1;
                LogFile::adopt(&*self.disk, number).map_err(io)?
            }
        };
        self.unsynced.lock().push(OpenLog {
            number: next.number,
            file: Arc::clone(&next.file),
        });
        let old = std::mem::replace(&mut writer.log, next);
        self.flush.lock().held.push((old.number, old.len));
        Ok(true)
    }

    /// Waits while the tables are more than one and a half that are full: those who do not call this may go
    /// on to several.
    fn settle(&self) -> Result<(), StoreError> {
        loop {
            if self.gate.is_closed() {
                return Ok(());
            }
            let layers = self.layers.read().clone();
            let flushing = layers.flushing.as_ref().map_or(0, |table| table.bytes());
            let held = layers.active.bytes() + flushing;
            drop(layers);
            let mut flush = self.flush.lock();
            let is_flushing = flush.is_wanted && !flush.is_stuck;
            if held < self.options.table_bytes / 2 * 3 || !is_flushing {
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
        let made = spare.map_or_else(|| self.next_log(LogFile::create), Ok);
        let next = match made {
            Ok(next) => next,
            Err(error) => {
                self.space.set_flush(0);
                // Rows are removed from a full disk all the same: the log goes on in its file.
                return match is_full(&error) && !self.is_overfull() {
                    true => Ok(()),
                    false => Err(io(error)),
                };
            }
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
        flush.retiring = std::mem::take(&mut flush.held);
        flush.retiring.push((old.number, old.len));
        let has_thread = flush.has_thread;
        drop(flush);
        if has_thread {
            self.flush_changed.notify_all();
            return Ok(());
        }
        self.flush_table()
    }

    /// Moves the flushing table into the tree. A failure is final, as of every write, but on a full disk.
    fn flush_table(&self) -> Result<(), StoreError> {
        // The tree asserts what its files say; damage there must not leave commits waiting.
        let moved = panics::caught(|| self.move_table());
        self.space.set_flush(0);
        let outcome = moved.unwrap_or(Err(StoreError::Corrupt {
            what: "the row database takes no rows",
        }));
        let outcome = match outcome {
            // The table stays in memory and in the log.
            Err(StoreError::Frozen) => Ok(()),
            Err(StoreError::Full) if self.layers.read().flushing.is_some() => {
                tracing::warn!("the disk is full: rows stay in the log until there is room");
                self.flush.lock().is_stuck = true;
                self.flush_changed.notify_all();
                return Ok(());
            }
            outcome => outcome.inspect_err(|_| self.group.poison()),
        };
        self.flush.lock().is_wanted = false;
        self.flush_changed.notify_all();
        outcome
    }

    fn move_table(&self) -> Result<(), StoreError> {
        if !self.gate.is_open() {
            return Err(StoreError::Frozen);
        }
        let table = self.layers.read().flushing.clone();
        if let Some(table) = table {
            apply(&*self.tree, &table)?;
            self.flush.lock().applied = table.last();
            self.tree_rows.store(self.tree.count(), Ordering::Relaxed);
            let mut layers = self.layers.write();
            layers.flushing = None;
            layers.moved += 1;
            drop(layers);
            self.measure();
            self.flush_changed.notify_all();
        }
        self.retire()?;
        if std::mem::take(&mut self.flush.lock().is_resting) {
            self.drop_long_logs()?;
        }
        // Ahead of the next table, which cannot be frozen before this flush ends.
        if self.flush.lock().has_thread {
            self.prepare();
        }
        Ok(())
    }

    /// Gives up the log files of what is in the tree, where they have become large enough.
    fn retire(&self) -> Result<(), StoreError> {
        let mut flush = self.flush.lock();
        let retiring = std::mem::take(&mut flush.retiring);
        flush.retired.extend(retiring);
        let held: u64 = flush.retired.iter().map(|(_, len)| len).sum();
        if held > self.options.log_bytes || flush.is_resting {
            let retired = std::mem::take(&mut flush.retired);
            let flushed = flush.applied;
            drop(flush);
            self.tree.sync()?;
            // Without the log nothing else tells that the tree must have it.
            let io = |e| StoreError::io("write the mark in", &self.folder, e);
            let mut mark = self.mark.lock();
            let said = mark.said();
            let durable = said.durable.max(flushed);
            let said = Said {
                durable,
                flushed,
                ..said
            };
            mark.say(said).and_then(|()| mark.sync()).map_err(io)?;
            drop(mark);
            if !self.gate.is_open() {
                return Err(StoreError::Frozen);
            }
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
        create: impl FnOnce(&dyn Disk, u64, u64) -> io::Result<LogFile>,
    ) -> io::Result<LogFile> {
        let mut flush = self.flush.lock();
        let (free, number) = (flush.free.pop(), flush.next_number);
        flush.next_number += 1;
        drop(flush);
        match free {
            Some(free) => LogFile::recycle(&*self.disk, free, number),
            None => create(&*self.disk, number, self.options.new_file_bytes()),
        }
    }

    /// Flushes whenever that is wanted, until closing; and gives up what is not needed at rest, once next to
    /// nothing was committed for a while.
    fn run(&self) {
        let mut quiet = Quiet::default();
        let mut flush = self.flush.lock();
        loop {
            if flush.is_wanted && !flush.is_stuck {
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
            if self.flush_changed.wait_for(&mut flush, LOOK).timed_out() {
                drop(flush);
                let active = Arc::clone(&self.layers.read().active);
                let is_due = quiet.is_due(active.last(), active.count());
                drop(active);
                match is_due.then(|| self.rest()) {
                    Some(Ok(true)) => quiet.rested(),
                    Some(Err(error)) => {
                        tracing::warn!(%error, "what is not needed at rest is kept");
                    }
                    Some(Ok(false)) | None => {}
                }
                flush = self.flush.lock();
            }
        }
    }

    /// Makes the next log file ahead of need. Where that fails, whoever needs one tries again.
    fn prepare(&self) {
        // Not with the last room there is, which is for removing files.
        let room = self.options.new_file_bytes();
        if self.flush.lock().free.is_empty() && !self.space.has_room(room) {
            return;
        }
        if let Ok(spare) = self.next_log(LogFile::create_written) {
            self.flush.lock().spare = Some(spare);
        }
    }

    /// Writes a batch to the log, a small one also to what is kept back, and applies it.
    fn log(&self, writer: &mut Writer, batch: Batch, is_small: bool) -> Result<(), StoreError> {
        let seq = writer.last + 1;
        let durable = self.durable.load(Ordering::Acquire);
        wal::encode(&mut writer.body, durable, batch.changes());
        while let Err(error) = writer.log.append(&self.sealer, seq, &writer.body) {
            if !is_full(&error) {
                self.group.poison();
            } else if is_small && self.go_on(writer)? {
                continue;
            }
            return Err(StoreError::io("write the row log in", &self.folder, error));
        }
        self.space.set_log_room(writer.log.room());
        if writer.body.capacity() > BODY_KEPT_BYTES {
            writer.body = Vec::new();
        }
        writer.last = seq;
        let active = Arc::clone(&self.layers.read().active);
        active.apply(seq, batch.into_changes());
        self.measure();
        self.group.wrote();
        if self.gate.is_open() {
            self.copied.store(seq, Ordering::Release);
        }
        Ok(())
    }

    /// Says how many rows there are and what a flush takes, for the reserve.
    fn measure(&self) {
        let layers = self.layers.read();
        let flushing = layers.flushing.as_ref();
        let rows = layers.active.count() + flushing.map_or(0, |table| table.count());
        let unflushed = layers.active.net_bytes() + flushing.map_or(0, |table| table.net_bytes());
        let tree = self.tree_rows.load(Ordering::Relaxed);
        let rows = tree.saturating_add(rows as u64);
        self.space.set_rows(rows, unflushed as u64);
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
        // A copier may have read the log before it was as long as that.
        let last = match self.gate.is_open() {
            true => last,
            false => last.min(self.copied.load(Ordering::Acquire)),
        };
        self.durable.fetch_max(last, Ordering::AcqRel);
        let mut mark = self.mark.lock();
        let said = mark.said();
        let said = Said {
            durable: said.durable.max(last),
            file: files.last().map_or(said.file, |log| log.number),
            ..said
        };
        let io = |e| StoreError::io("write the mark in", &self.folder, e);
        mark.say(said).map_err(io)
    }
}

/// Room for encoding that is kept between commits; one that was larger is given back.
const BODY_KEPT_BYTES: usize = 1 << 20;

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

    fn freeze(&self, first: Table, last: Table) -> Result<Option<FrozenRows<'_>>, StoreError> {
        let (start, end) = tables_range(first, last);
        let mut rows = self.shared.merged(&start, &end, Walk::Forwards);
        let next = move || rows.next().transpose();
        Ok(Some(Box::new(std::iter::from_fn(next).filter_map(|row| {
            row.map(|(key, value)| frozen_row(&key, value.into_vec()))
                .transpose()
        }))))
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let bytes = check_batch(&batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        let shared = &*self.shared;
        shared.group.check()?;
        let is_removal = batch.changes().values().any(Option::is_none);
        shared.space.take(bytes, is_removal)?;
        let mut writer = shared.writer.lock();
        shared.make_room(&mut writer)?;
        shared.log(&mut writer, batch, bytes <= SMALL_BYTES)
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.shared.settle()
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.shared.space.has_room(bytes)
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
        let active = Arc::clone(&shared.layers.read().active);
        let (held, net) = (active.bytes(), active.net_bytes() as u64);
        if shared.group.check().is_err() {
            return;
        }
        let is_stuck = shared.flush.lock().is_stuck;
        let has_room = !is_stuck && shared.space.missing_for_flush(net) == 0;
        if held > LEFT_TO_LOG_BYTES && has_room && shared.gate.is_open() {
            let spare = shared.flush.lock().spare.take();
            if let Err(error) = shared.freeze(&mut writer, spare) {
                tracing::warn!(%error, "rows stay in the log until the next start");
            }
        }
        drop(writer);
        let synced = shared.group.sync(|| shared.sync());
        let io = |e| StoreError::io("write the mark in", &shared.folder, e);
        if let Err(error) = synced.and_then(|()| shared.mark.lock().sync().map_err(io)) {
            tracing::warn!(%error, "the last rows may not be on the disk yet");
        }
    }
}
