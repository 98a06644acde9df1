//! The rows on the local disk: fjall, one tree for all tables, values sealed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, Readable};
use parking_lot::{Condvar, Mutex};

use super::journal::{self, EmptyJournal};
use super::tree::{Tree, TreeChange, TreeRow};
use super::{StoreError, StoreOptions};
use crate::crypto::RowSealer;

/// Rows in a folder of their own.
///
/// One tree holds all tables, the table's tag before each key: one lookup path to keep warm. Large
/// values lie outside the tree, so that compaction does not copy them. Rows are written into the
/// tree's files at once; its journal has only what a folder of an older program brings along.
pub(super) struct LocalTree {
    tree: Keyspace,
    sealer: RowSealer,
    folder: PathBuf,
    /// Bytes in the journal that the next opening would have to replay, about.
    replay_bytes: u64,
    /// Before `emptied`, because closing it waits for its workers.
    database: Database,
    emptied: EmptyJournal,
}

impl fmt::Debug for LocalTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalTree")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl LocalTree {
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
                .max_cached_files(Some(OPEN_FILES_MAX))
                .open()?;
            let tree = database.keyspace(TREE, tree_options)?;
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
            folder: folder.to_owned(),
            replay_bytes: repaired.kept_bytes,
            database,
            emptied: EmptyJournal::new(folder.to_owned()),
        })
    }

    /// Returns the rows as they are now; the tree's own range would show what is written while it
    /// is read.
    fn snapshot(&self, start: &[u8], end: &[u8]) -> fjall::Iter {
        self.database
            .snapshot()
            .range(&self.tree, start.to_vec()..end.to_vec())
    }

    fn open_value(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let opened = self.sealer.open(key, sealed);
        opened.map_err(|_| StoreError::Unauthentic)
    }

    fn open_row(&self, row: fjall::Guard) -> TreeRow {
        let row = row.into_inner();
        let (key, sealed) = row.map_err(|e| database_error("read", &self.folder, e))?;
        let value = self.open_value(&key, &sealed)?;
        Ok((key.to_vec(), value))
    }
}

impl Tree for LocalTree {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let sealed = self.tree.get(key);
        match sealed.map_err(|e| database_error("read", &self.folder, e))? {
            Some(sealed) => self.open_value(key, &sealed).map(Some),
            None => Ok(None),
        }
    }

    fn contains(&self, key: &[u8]) -> Result<bool, StoreError> {
        let there = self.tree.contains_key(key);
        there.map_err(|e| database_error("read", &self.folder, e))
    }

    fn range<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        is_reverse: bool,
    ) -> Box<dyn Iterator<Item = TreeRow> + 'a> {
        let rows = self.snapshot(start, end);
        if is_reverse {
            Box::new(rows.rev().map(|row| self.open_row(row)))
        } else {
            Box::new(rows.map(|row| self.open_row(row)))
        }
    }

    fn keys<'a>(&'a self, start: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = TreeRow> + 'a> {
        let rows = self.snapshot(start, end);
        Box::new(rows.map(|row| {
            let key = row.key();
            let key = key.map_err(|e| database_error("read", &self.folder, e))?;
            Ok((key.to_vec(), Vec::new()))
        }))
    }

    /// Writes the files of the tree at once, past its journal and its own table in memory: the rows
    /// come sorted and once each. Durable when this returns, as a new version of the tree.
    fn apply(&self, visit: &mut dyn FnMut(&mut TreeChange<'_>)) -> Result<(), StoreError> {
        let failed = |e| database_error("write", &self.folder, e);
        let mut ingestion = self.tree.start_ingestion().map_err(failed)?;
        let mut written = Ok(());
        visit(&mut |key, value| {
            if written.is_ok() {
                written = match value {
                    Some(value) => ingestion.write(key, self.sealer.seal(key, value)),
                    None => ingestion.write_tombstone(key),
                };
            }
        });
        // What was written of one that is given up is removed by the next opening.
        written.map_err(failed)?;
        ingestion.finish().map_err(failed)
    }

    /// Does nothing: what was applied is durable.
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Drop for LocalTree {
    /// Moves a journal into the tree, so that the next opening need not replay it.
    fn drop(&mut self) {
        if self.replay_bytes == 0 || self.tree.rotate_memtable().is_err() {
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

fn tree_options() -> KeyspaceCreateOptions {
    let separation = KvSeparationOptions::default().separation_threshold(LARGE_VALUE_BYTES);
    KeyspaceCreateOptions::default()
        // Index and filter blocks go through the bounded cache, but for the two newest levels.
        .with_kv_separation(Some(separation))
}

/// How long closing waits for that; without it the next opening takes longer, nothing more.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
const CLOSE_POLL: Duration = Duration::from_millis(5);

/// Name of the one tree.
const TREE: &str = "rows";

/// One worker flushes and compacts in turn. With a second one the first does not compact but passes
/// that work on in a loop while the second is at it, which takes a core of its own.
const WORKER_THREADS: usize = 1;

/// Descriptors that the database keeps open, of the 1024 that a process has by default.
const OPEN_FILES_MAX: usize = 200;

/// Values from this size on lie outside the tree: contents of small files and segments, which
/// would otherwise be copied at each compaction.
const LARGE_VALUE_BYTES: u32 = 2 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use crate::crypto::{Identity, LocalKey};

    fn local_key(seed: u64) -> LocalKey {
        Identity::generate(&Rng::from_seed(seed))
            .unwrap()
            .local_key()
    }

    fn open(folder: &Path, key: &LocalKey, epoch: u32) -> Result<LocalTree, StoreError> {
        LocalTree::open(folder, key.sealer(epoch), &StoreOptions::default())
    }

    fn put(tree: &LocalTree, key: &[u8], value: &[u8]) {
        tree.apply(&mut |change| change(key, Some(value))).unwrap();
    }

    #[test]
    fn rows_come_back_after_reopening_and_only_with_their_key() {
        let folder = tempfile::tempdir().unwrap();
        let key = local_key(1);
        let tree = open(folder.path(), &key, 1).unwrap();
        put(&tree, b"a", b"small");
        put(&tree, b"b", &[7; 100_000]);
        put(&tree, b"c", b"");
        tree.apply(&mut |change| {
            change(b"c", None);
            change(b"d", Some(b"in one step"));
        })
        .unwrap();
        tree.sync().unwrap();
        assert!(matches!(
            open(folder.path(), &key, 2),
            Err(StoreError::InUse { .. })
        ));
        drop(tree);

        let tree = open(folder.path(), &key, 2).unwrap();
        assert_eq!(tree.get(b"a").unwrap().unwrap(), b"small");
        assert_eq!(tree.get(b"b").unwrap().unwrap(), [7; 100_000]);
        assert_eq!(tree.get(b"c").unwrap(), None);
        let forward = tree.range(b"a", b"c", false);
        let mut later = tree.range(b"a", b"z", true);
        put(&tree, b"aa", b"too late for both");
        let seen: Vec<_> = forward.map(|row| row.unwrap().0).collect();
        assert_eq!(seen, [b"a", b"b"]);
        let last = later.next().unwrap().unwrap();
        assert_eq!(last, (b"d".to_vec(), b"in one step".to_vec()));
        assert_eq!(later.count(), 2);
        drop(tree);

        let tree = open(folder.path(), &local_key(2), 3).unwrap();
        assert!(matches!(tree.get(b"a"), Err(StoreError::Unauthentic)));
    }

    #[test]
    fn a_journal_of_an_older_program_is_emptied_by_closing_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let key = local_key(1);
        let tree = open(folder.path(), &key, 1).unwrap();
        let mut rows = tree.database.batch();
        for n in 0..600u64 {
            let (key, value) = (n.to_be_bytes(), [n as u8; 10_000]);
            rows.insert(&tree.tree, key, tree.sealer.seal(&key, &value));
        }
        rows.commit().unwrap();
        drop(tree);
        // That one did not know that there is something to empty.
        assert!(journal::repair(folder.path()).unwrap().kept_bytes > 0);
        let tree = open(folder.path(), &key, 2).unwrap();
        put(&tree, &7u64.to_be_bytes(), &[7; 10_000]);
        drop(tree);
        assert_eq!(journal::repair(folder.path()).unwrap().kept_bytes, 0);
        for epoch in 3..5 {
            let tree = open(folder.path(), &key, epoch).unwrap();
            for n in 0..600u64 {
                let row = tree.get(&n.to_be_bytes()).unwrap();
                assert_eq!(row.unwrap(), [n as u8; 10_000]);
            }
            put(&tree, b"later", &epoch.to_le_bytes());
            let later = tree.get(b"later").unwrap().unwrap();
            assert_eq!(later, epoch.to_le_bytes());
        }
        let tree = open(folder.path(), &key, 5).unwrap();
        let later = tree.get(b"later").unwrap().unwrap();
        assert_eq!(later, 4u32.to_le_bytes());
    }
}
