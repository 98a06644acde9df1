//! The rows on the local disk: fjall, one tree for all tables, values sealed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions};
use parking_lot::{Condvar, Mutex};

use super::batch::{Batch, stored_key, stored_range};
use super::disk::Folder;
use super::group::GroupSync;
use super::journal::{self, EmptyJournal, JournalSync};
use super::memory::check_batch;
use super::space::{Reserve, Space};
use super::{RowVisitor, Rows, StoreError, StoreOptions, Table};
use crate::crypto::RowSealer;

/// Rows in a folder of their own.
///
/// One tree holds all tables, the table's tag before each key: one memtable to flush, so journals
/// are given back early, and one lookup path to keep warm. Large values lie outside the tree, so
/// that compaction does not copy them.
pub(super) struct LocalRows {
    tree: Keyspace,
    sealer: RowSealer,
    group: GroupSync,
    journal: JournalSync,
    space: Space,
    folder: PathBuf,
    /// Bytes in the journal that the next opening would have to replay, about.
    replay_bytes: AtomicU64,
    /// Before `emptied`, because closing it waits for its workers.
    database: Database,
    emptied: EmptyJournal,
}

impl fmt::Debug for LocalRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalRows")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl LocalRows {
    /// Opens or creates the database in `folder`; brings back every synced batch and a prefix of
    /// those committed later.
    pub(super) fn open(
        folder: &Path,
        sealer: RowSealer,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let repaired = journal::repair(folder)?;
        if repaired.cut_bytes > 0 {
            tracing::warn!(
                repaired.cut_bytes,
                "the row journal ended in an incomplete write that was never synced; it is cut off"
            );
        }
        let opened = || -> fjall::Result<(Database, Keyspace)> {
            let database = Database::builder(folder)
                .cache_size(options.row_cache_bytes)
                .worker_threads(WORKER_THREADS)
                .max_journaling_size(JOURNALS_MAX_BYTES)
                .max_cached_files(Some(OPEN_FILES_MAX))
                .open()?;
            let tree = database.keyspace(TREE, || tree_options(options))?;
            Ok((database, tree))
        };
        // The database asserts what its files say about themselves; damage there must not end the
        // process.
        let opened = catch_unwind(AssertUnwindSafe(opened)).map_err(|_| StoreError::Corrupt {
            what: "the row database does not open",
        })?;
        let (database, tree) = opened.map_err(|e| database_error("open", folder, e))?;
        Ok(Self {
            tree,
            sealer,
            group: GroupSync::default(),
            journal: JournalSync::new(folder.to_owned()),
            space: Space::new(
                Arc::new(Folder::new(folder)),
                folder.to_owned(),
                Reserve::ROWS,
            ),
            folder: folder.to_owned(),
            replay_bytes: AtomicU64::new(repaired.kept_bytes),
            database,
            emptied: EmptyJournal::new(folder.to_owned()),
        })
    }

    fn open_value(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let opened = self.sealer.open(key, sealed);
        opened.map_err(|_| StoreError::Unauthentic)
    }

    fn visit(
        &self,
        rows: impl Iterator<Item = fjall::Guard>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        for row in rows {
            let row = row.into_inner();
            let (key, sealed) = row.map_err(|e| database_error("read", &self.folder, e))?;
            let value = self.open_value(&key, &sealed)?;
            if f(key.get(1..).unwrap_or_default(), &value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Rows for LocalRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = stored_key(table, key);
        let sealed = self.tree.get(&key);
        match sealed.map_err(|e| database_error("read", &self.folder, e))? {
            Some(sealed) => self.open_value(&key, &sealed).map(Some),
            None => Ok(None),
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
        if start >= end {
            return Ok(());
        }
        self.visit(self.tree.range(start..end), f)
    }

    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        let (start, end) = stored_range(table, start, end);
        if start >= end {
            return Ok(());
        }
        self.visit(self.tree.range(start..end).rev(), f)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let bytes = check_batch(&batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        self.group.check()?;
        // A batch that only removes rows frees room, so it may use the reserve.
        if bytes > 0 {
            self.space.take(bytes)?;
        }
        let mut changes = self.database.batch();
        for (key, value) in batch.into_changes() {
            match value {
                Some(value) => {
                    let sealed = self.sealer.seal(&key, &value);
                    changes.insert(&self.tree, key, sealed);
                }
                None => changes.remove(&self.tree, key),
            }
        }
        // The default durability of a batch hands it to the operating system before it returns, so
        // a killed process loses nothing.
        changes.commit().map_err(|e| {
            self.group.poison();
            database_error("write", &self.folder, e)
        })?;
        self.replay_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.group.wrote();
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.group.sync(|| self.journal.sync())
    }
}

impl Drop for LocalRows {
    /// Moves a long journal into the tree, so that the next opening need not replay it.
    fn drop(&mut self) {
        let is_long = self.replay_bytes.load(Ordering::Relaxed) > REPLAY_MAX_BYTES;
        if !is_long || self.group.check().is_err() || self.tree.rotate_memtable().is_err() {
            return;
        }
        // The database's own wait has no end where its worker failed.
        let (never, clock) = (Condvar::new(), Mutex::new(()));
        for _ in 0..CLOSE_WAIT.as_millis() / CLOSE_POLL.as_millis() {
            if self.tree.sealed_memtable_count() == 0 {
                self.emptied.allow();
                return;
            }
            never.wait_for(&mut clock.lock(), CLOSE_POLL);
        }
    }
}

/// Returns the error of the row database as one of the store's.
fn database_error(op: &'static str, folder: &Path, error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => {
            StoreError::io(op, folder, source)
        }
        fjall::Error::Poisoned => StoreError::Poisoned,
        fjall::Error::Locked => StoreError::InUse {
            path: folder.to_owned(),
        },
        source => StoreError::Database {
            source: Box::new(source),
        },
    }
}

fn tree_options(options: &StoreOptions) -> KeyspaceCreateOptions {
    let separation = KvSeparationOptions::default().separation_threshold(LARGE_VALUE_BYTES);
    KeyspaceCreateOptions::default()
        .max_memtable_size(options.memtable_bytes)
        // Index and filter blocks go through the bounded cache, but for the two newest levels.
        .with_kv_separation(Some(separation))
}

/// A journal longer than this is moved into the tree on closing: replaying takes about a second for
/// 64 MB.
const REPLAY_MAX_BYTES: u64 = 4 << 20;

/// How long closing waits for that; without it the next opening takes longer, nothing more.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
const CLOSE_POLL: Duration = Duration::from_millis(5);

/// Name of the one tree.
const TREE: &str = "rows";

/// One worker flushes and compacts in turn. With a second one the first does not compact but passes
/// that work on in a loop while the second is at it, which takes a core of its own.
const WORKER_THREADS: usize = 1;

/// Journals beyond this make the database flush. A journal is cut at 64 MB, so this holds the
/// newest one and those whose memtable is being flushed.
const JOURNALS_MAX_BYTES: u64 = 192 << 20;

/// Descriptors that the database keeps open, of the 1024 that a process has by default.
const OPEN_FILES_MAX: usize = 200;

/// Values from this size on lie outside the tree: contents of small files and segments, which
/// would otherwise be copied at each compaction.
const LARGE_VALUE_BYTES: u32 = 2 << 10;

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::base::Rng;
    use crate::crypto::{Identity, LocalKey};

    fn local_key(seed: u64) -> LocalKey {
        Identity::generate(&Rng::from_seed(seed))
            .unwrap()
            .local_key()
    }

    fn open(folder: &Path, key: &LocalKey, epoch: u32) -> Result<LocalRows, StoreError> {
        LocalRows::open(folder, key.sealer(epoch), &StoreOptions::default())
    }

    fn put(rows: &LocalRows, key: &[u8], value: &[u8]) {
        let mut batch = Batch::new();
        batch.put(Table::Meta, key, value);
        rows.commit(batch).unwrap();
    }

    #[test]
    fn rows_come_back_after_reopening_and_only_with_their_key() {
        let folder = tempfile::tempdir().unwrap();
        let key = local_key(1);
        let rows = open(folder.path(), &key, 1).unwrap();
        put(&rows, b"a", b"small");
        put(&rows, b"b", &[7; 100_000]);
        put(&rows, b"c", b"");
        let mut batch = Batch::new();
        batch.put(Table::Inode, b"", b"of another table");
        batch.delete(Table::Meta, b"c");
        rows.commit(batch).unwrap();
        rows.sync().unwrap();
        assert!(matches!(
            open(folder.path(), &key, 2),
            Err(StoreError::InUse { .. })
        ));
        drop(rows);

        let rows = open(folder.path(), &key, 2).unwrap();
        let get = |key: &[u8]| rows.get(Table::Meta, key).unwrap();
        assert_eq!(get(b"a").unwrap(), b"small");
        assert_eq!(get(b"b").unwrap(), [7; 100_000]);
        assert_eq!(get(b"c"), None);
        let mut seen = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            seen.push((key.to_vec(), value.len()));
            ControlFlow::Continue(())
        };
        rows.scan(Table::Meta, b"", None, &mut visit).unwrap();
        rows.scan_rev(Table::Meta, b"a", Some(b"b"), &mut visit)
            .unwrap();
        rows.scan(Table::Meta, b"b", Some(b"a"), &mut visit)
            .unwrap();
        let a = (b"a".to_vec(), 5);
        assert_eq!(seen, [a.clone(), (b"b".to_vec(), 100_000), a]);
        drop(rows);

        let rows = open(folder.path(), &local_key(2), 3).unwrap();
        assert!(matches!(
            rows.get(Table::Meta, b"a"),
            Err(StoreError::Unauthentic)
        ));
    }

    #[test]
    fn a_long_journal_is_emptied_by_closing_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let key = local_key(1);
        let rows = open(folder.path(), &key, 1).unwrap();
        for n in 0..600u64 {
            put(&rows, &n.to_be_bytes(), &[n as u8; 10_000]);
        }
        drop(rows);
        assert_eq!(journal::repair(folder.path()).unwrap().kept_bytes, 0);
        for epoch in 2..4 {
            let rows = open(folder.path(), &key, epoch).unwrap();
            for n in 0..600u64 {
                let row = rows.get(Table::Meta, &n.to_be_bytes()).unwrap();
                assert_eq!(row.unwrap(), [n as u8; 10_000]);
            }
            put(&rows, b"later", &epoch.to_le_bytes());
            let later = rows.get(Table::Meta, b"later").unwrap().unwrap();
            assert_eq!(later, epoch.to_le_bytes());
        }
        let rows = open(folder.path(), &key, 4).unwrap();
        let later = rows.get(Table::Meta, b"later").unwrap().unwrap();
        assert_eq!(later, 3u32.to_le_bytes());
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let rows = open(folder.path(), &local_key(1), 1).unwrap();
        let mut batch = Batch::new();
        batch.put(Table::Meta, [0; super::super::KEY_MAX_BYTES + 1], []);
        assert!(matches!(
            rows.commit(batch),
            Err(StoreError::TooLarge { .. })
        ));
        let mut batch = Batch::new();
        batch.put(Table::Meta, [0; super::super::KEY_MAX_BYTES], []);
        rows.commit(batch).unwrap();
    }
}
