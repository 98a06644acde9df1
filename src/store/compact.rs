//! Compaction of the row database, in a thread of our own: the database's own workers know nothing
//! of the [`Gate`], and a new version of the tree must not appear under a copier's hands.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use fjall::compaction::Leveled;
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use fjall::{AbstractTree, Database, Keyspace, LsmError};
use parking_lot::{Condvar, Mutex};

use super::current::Current;
use super::gate::Gate;
use crate::base::{panics, task};

/// The thread that compacts; some steps for each time it is woken, as long as there is something to do.
#[derive(Debug)]
pub(super) struct Compactor {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    due: u32,
    rests: bool,
    closed: bool,
}

impl Compactor {
    pub(super) fn start(
        database: &Database,
        tree: &Keyspace,
        brake: &Brake,
        current: &Arc<Current>,
    ) -> std::io::Result<Self> {
        let signal = Arc::new(Signal::default());
        let of_thread = Arc::clone(&signal);
        let (database, tree, brake) = (database.clone(), tree.clone(), brake.clone());
        let current = Arc::clone(current);
        let thread = task::thread("row-compact", move || {
            of_thread.serve(&database, &tree, &brake, &current);
        })?;
        Ok(Self {
            signal,
            thread: Some(thread),
        })
    }

    /// Makes the thread look for something to compact.
    pub(super) fn wake(&self) {
        let mut state = self.signal.state.lock();
        state.due = (state.due + 1).min(DUE_MAX);
        self.signal.changed.notify_one();
    }

    /// Makes the thread give up what the tree still has of removed rows, where that is much.
    pub(super) fn rest(&self) {
        self.signal.state.lock().rests = true;
        self.signal.changed.notify_one();
    }

    /// Ends the thread and waits for that, which the brake makes short.
    pub(super) fn close(&mut self) {
        self.signal.state.lock().closed = true;
        self.signal.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic over there has been reported over there.
            let _ = thread.join();
        }
    }
}

impl Signal {
    fn serve(&self, database: &Database, tree: &Keyspace, brake: &Brake, current: &Current) {
        // What writing all once more did not change is not tried again: what a first time finds to be needless goes with
        // the second.
        let mut seen = Needless::default();
        loop {
            let rests = {
                let mut state = self.state.lock();
                while state.due == 0 && !state.rests && !state.closed {
                    self.changed.wait(&mut state);
                }
                if state.closed {
                    return;
                }
                let is_due = state.due > 0;
                state.due = state.due.saturating_sub(1);
                // What is due comes first.
                !is_due && std::mem::take(&mut state.rests)
            };
            if rests {
                let needless = Needless::of(tree);
                if !brake.is_on() && needless != seen && needless.is_much_of(tree) {
                    step(database, tree, brake, current, |watermark| {
                        tree.tree.major_compact(TREE_FILE_BYTES, watermark)
                    });
                    seen = needless;
                }
                if !brake.is_on() {
                    forget_versions(database, tree);
                }
                continue;
            }
            let steps = |watermark| tree.tree.compact(Arc::new(levels()), watermark);
            for _ in 0..STEPS_MAX {
                if brake.is_on() || !step(database, tree, brake, current, steps) {
                    break;
                }
            }
        }
    }
}

/// What a tree has that nobody needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Needless {
    /// Rows that say that one is removed.
    removals: u64,
    /// Bytes of large values that no row names.
    bytes: u64,
}

impl Needless {
    fn of(tree: &Keyspace) -> Self {
        Self {
            removals: tree.tree.tombstone_count(),
            bytes: tree.tree.stale_blob_bytes(),
        }
    }

    /// Tells whether that is a good part of the rows, or of what they take, and all of it is little enough to be
    /// written once more, and has room on the disk.
    ///
    /// What was removed from a level stays with what says so until both reach the last one, which takes as much
    /// again as the levels between hold.
    fn is_much_of(self, tree: &Keyspace) -> bool {
        let (bytes, rows) = (tree.disk_space(), tree.approximate_len() as u64);
        // Each stands for one that it hides.
        let gone = self.removals.saturating_mul(2);
        let is_much = gone > rows / GONE_PART || self.bytes > bytes / GONE_PART;
        let room = rustix::fs::statvfs(tree.path());
        let room = room.map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        is_much && (REST_MIN_BYTES..=REST_MAX_BYTES).contains(&bytes) && room / 2 > bytes
    }
}

/// Lets go of the files of versions that no reader has: the database does so only when it makes the next version
/// but one.
fn forget_versions(database: &Database, tree: &Keyspace) {
    let watermark = database.supervisor.snapshot_tracker.get_seqno_safe_to_gc();
    let mut versions = tree.tree.get_version_history_lock();
    if let Err(error) = versions.maintenance(&tree.tree.tree_config().path, watermark) {
        tracing::warn!(?error, "old versions of the row database are kept");
    }
}

/// Compacts once, where there is something to do; says whether that changed anything.
fn step(
    database: &Database,
    tree: &Keyspace,
    brake: &Brake,
    current: &Current,
    compact: impl Fn(u64) -> Result<(), LsmError>,
) -> bool {
    let tables = || -> Vec<_> {
        let version = tree.tree.current_version();
        version.iter_tables().map(|table| table.id()).collect()
    };
    let watermark = database.supervisor.snapshot_tracker.get_seqno_safe_to_gc();
    // The database asserts what its files say about themselves.
    let compact = || {
        let before = tables();
        compact(watermark).map(|()| before != tables())
    };
    match panics::caught(compact) {
        Ok(Ok(changed)) => {
            current.renew(tree);
            return changed;
        }
        // What was begun lies there as files that nothing names, until the next opening.
        _ if brake.is_on() => {}
        Ok(Err(error)) => tracing::warn!(?error, "the row database was not compacted"),
        Err(_) => tracing::error!("the row database was not compacted: damaged files"),
    }
    false
}

/// Returns how the tree is laid out in levels, also one that was made with another layout.
pub(super) fn levels() -> Leveled {
    Leveled::default().with_table_target_size(TREE_FILE_BYTES)
}

/// A file of the tree is about as large. The first level behind what was flushed holds four, each one behind
/// it ten times as much as the one before: few files of one level lie where one of the level before does. With the
/// 64 MiB of the database's own choice the first level is 256 MiB, all of which is written again for every
/// four tables that are flushed.
const TREE_FILE_BYTES: u64 = 4 << 20;

/// A flushed table moves about one file on in each level: so many steps keep up with what is flushed, and catch
/// up.
const STEPS_MAX: usize = 8;

/// All is written once more when one in so many rows is gone, or is there to say so.
const GONE_PART: u64 = 8;

/// What takes less is not worth it, and what takes more takes too long.
const REST_MIN_BYTES: u64 = 1 << 20;
const REST_MAX_BYTES: u64 = 1 << 30;

/// Stops a compaction that is running, before anything comes of it.
#[derive(Debug, Clone)]
pub(super) struct Brake {
    gate: Gate,
    closing: Arc<AtomicBool>,
}

impl Brake {
    pub(super) fn new(gate: Gate) -> Self {
        Self {
            gate,
            closing: Arc::default(),
        }
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    fn is_on(&self) -> bool {
        self.closing.load(Ordering::SeqCst) || !self.gate.is_open()
    }

    /// Returns what puts it into compactions.
    pub(super) fn factory(&self) -> Arc<dyn Factory> {
        Arc::new(BrakeFactory(AssertUnwindSafe(self.clone())))
    }
}

struct BrakeFactory(AssertUnwindSafe<Brake>);

impl Factory for BrakeFactory {
    fn name(&self) -> &'static str {
        "brake"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Braked {
            brake: self.0.0.clone(),
            rows: 0,
        })
    }
}

struct Braked {
    brake: Brake,
    rows: u32,
}

impl CompactionFilter for Braked {
    fn filter_item(&mut self, _: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        self.rows = self.rows.wrapping_add(1);
        if self.rows.is_multiple_of(ROWS_PER_LOOK) && self.brake.is_on() {
            return Err(std::io::Error::other("the store is closing").into());
        }
        Ok(Verdict::Keep)
    }

    /// What follows is the new version of the tree, and nothing but this can hold it back.
    fn finish(self: Box<Self>) {
        if !self.brake.gate.is_open() {
            let (never, end) = (Condvar::new(), Mutex::new(()));
            // Until the process ends, which whoever closed the gate is about to do.
            loop {
                never.wait(&mut end.lock());
            }
        }
    }
}

/// More steps than that are never due: one looks at the whole tree.
const DUE_MAX: u32 = 1000;

/// A look costs a system call.
const ROWS_PER_LOOK: u32 = 256;
