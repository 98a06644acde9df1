//! The rows on the local disk: fjall, one tree for all tables, values sealed.

use std::fmt;
use std::fs::OpenOptions;
use std::mem::ManuallyDrop;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, LsmError, Readable, Snapshot,
};

use super::compact::{Brake, Compactor, levels};
use super::current::{Current, Found};
use super::gate::Gate;
use super::tree::{Tree, TreeChange, TreeRow};
use super::{StoreError, StoreOptions};
use crate::base::panics;
use crate::crypto::RowSealer;

/// Rows in a folder of their own.
///
/// One tree holds all tables, the table's tag before each key: one lookup path to keep warm. Large
/// values lie outside the tree, so that compaction does not copy them. Rows are written into the
/// tree's files at once; its journal is empty.
pub(super) struct LocalTree {
    tree: ManuallyDrop<Keyspace>,
    sealer: RowSealer,
    folder: PathBuf,
    gate: Gate,
    brake: Brake,
    /// Before the database, whose files it holds.
    current: ManuallyDrop<Arc<Current>>,
    compactor: ManuallyDrop<Compactor>,
    database: ManuallyDrop<Database>,
}

impl fmt::Debug for LocalTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalTree")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl LocalTree {
    /// Opens or creates the database in `folder`. One that is there and whole is not written to,
    /// but that files which nothing names are removed.
    pub(super) fn open(
        folder: &Path,
        sealer: RowSealer,
        options: &StoreOptions,
        gate: Gate,
    ) -> Result<Self, StoreError> {
        empty_journals(folder)?;
        if folder.join("version").exists() {
            make_empty_files(folder)?;
        }
        let brake = Brake::new(gate.clone());
        let factory = brake.factory();
        let opened = || -> fjall::Result<(Database, Keyspace)> {
            let database = Database::builder(folder)
                .cache_size(options.row_cache_bytes)
                .worker_threads_unchecked(0)
                .max_cached_files(Some(OPEN_FILES_MAX))
                .with_compaction_filter_factories(Arc::new(move |_| Some(Arc::clone(&factory))))
                .open()?;
            let tree = database.keyspace(TREE, tree_options)?;
            Ok((database, tree))
        };
        // The database asserts what its files say about themselves; damage there must not end the
        // process.
        let opened = panics::caught(opened).map_err(|_| StoreError::Damaged {
            path: folder.to_owned(),
            what: "does not open",
        })?;
        let (database, tree) = opened.map_err(|e| database_error("open", folder, e))?;
        // A new one begins with one of 64 MiB, of nothing.
        empty_journals(folder)?;
        let current = Arc::new(Current::new(&tree, gate.clone()));
        let compactor = Compactor::start(&database, &tree, &brake, &current)
            .map_err(|e| StoreError::io("start a thread for", folder, e))?;
        Ok(Self {
            tree: ManuallyDrop::new(tree),
            sealer,
            folder: folder.to_owned(),
            gate,
            brake,
            current: ManuallyDrop::new(current),
            compactor: ManuallyDrop::new(compactor),
            database: ManuallyDrop::new(database),
        })
    }

    fn open_value(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let opened = self.sealer.open(key, sealed);
        opened.map_err(|_| StoreError::Unauthentic)
    }

    /// Opens a row of a walk. A value that lies apart is looked for as of `snapshot`, and is not there
    /// where the row was removed since the walk began: the layers above know that.
    fn open_row(
        &self,
        snapshot: &Snapshot,
        row: Result<(Vec<u8>, Found), LsmError>,
    ) -> Option<TreeRow> {
        let failed = |e| database_error("read", &self.folder, e);
        let (key, found) = match row {
            Ok(row) => row,
            Err(error) => return Some(Err(failed(error.into()))),
        };
        let value = match found {
            Found::Nothing => return None,
            Found::Value(sealed) => self.open_value(&key, &sealed),
            Found::Apart => match snapshot.get(&*self.tree, &key) {
                Ok(Some(sealed)) => self.open_value(&key, &sealed),
                Ok(None) => return None,
                Err(error) => Err(failed(error)),
            },
        };
        Some(value.map(|value| (key, value)))
    }
}

impl Tree for LocalTree {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let failed = |e| database_error("read", &self.folder, e);
        match self.current.get(key).map_err(|e| failed(e.into()))? {
            Found::Nothing => return Ok(None),
            Found::Value(sealed) => return self.open_value(key, &sealed).map(Some),
            Found::Apart => {}
        }
        match self.tree.get(key).map_err(failed)? {
            Some(sealed) => self.open_value(key, &sealed).map(Some),
            None => Ok(None),
        }
    }

    fn contains(&self, key: &[u8]) -> Result<bool, StoreError> {
        let there = self.current.get(key);
        let there = there.map_err(|e| database_error("read", &self.folder, e.into()))?;
        Ok(!matches!(there, Found::Nothing))
    }

    fn range<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        is_reverse: bool,
    ) -> Box<dyn Iterator<Item = TreeRow> + 'a> {
        let snapshot = self.database.snapshot();
        let rows = self.current.walk(start, end);
        let open = move |row| self.open_row(&snapshot, row);
        if is_reverse {
            Box::new(rows.rev().filter_map(open))
        } else {
            Box::new(rows.filter_map(open))
        }
    }

    fn keys<'a>(&'a self, start: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = TreeRow> + 'a> {
        Box::new(self.current.walk(start, end).map(|row| {
            let (key, _) = row.map_err(|e| database_error("read", &self.folder, e.into()))?;
            Ok((key, Vec::new()))
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
        if !self.gate.is_open() {
            return Err(StoreError::Frozen);
        }
        ingestion.finish().map_err(failed)?;
        self.current.renew(&self.tree);
        self.compactor.wake();
        Ok(())
    }

    fn count(&self) -> u64 {
        self.tree.approximate_len() as u64
    }

    fn rest(&self) {
        self.compactor.rest();
    }

    /// Does nothing: what was applied is durable.
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Drop for LocalTree {
    /// Closes the database, unless somebody may be copying it: closing removes files that were in
    /// use until then, so they are left to the end of the process, and to the next opening.
    #[expect(unsafe_code, reason = "closing or not closing is decided here")]
    fn drop(&mut self) {
        self.brake.close();
        if !self.gate.is_open() {
            return;
        }
        self.compactor.close();
        // SAFETY: each is dropped here and nowhere else, and nothing uses it afterwards.
        unsafe {
            ManuallyDrop::drop(&mut self.compactor);
            ManuallyDrop::drop(&mut self.current);
            ManuallyDrop::drop(&mut self.tree);
            ManuallyDrop::drop(&mut self.database);
        }
    }
}

/// Makes the files without content that the database must find: it does not open without its lock,
/// and without a journal it takes all rows for newer than any reader.
fn make_empty_files(folder: &Path) -> Result<(), StoreError> {
    let entries = std::fs::read_dir(folder).map_err(|e| StoreError::io("list", folder, e))?;
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let has_journal = names.any(|name| name.ends_with(".jnl"));
    let missing = ["lock"]
        .into_iter()
        .chain((!has_journal).then_some("0.jnl"));
    for name in missing {
        let path = folder.join(name);
        let mut options = OpenOptions::new();
        let made = options.append(true).create(true).mode(0o600).open(&path);
        made.map_err(|e| StoreError::io("open", &path, e))?;
    }
    Ok(())
}

/// Empties the journals of the database: nothing of ours goes through them, so what is in one is
/// damage or nothing.
fn empty_journals(folder: &Path) -> Result<(), StoreError> {
    let io = |op| move |e| StoreError::io(op, folder, e);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io("list")(e)),
    };
    for entry in entries {
        let path = entry.map_err(io("list"))?.path();
        if path.extension().is_some_and(|extension| extension == "jnl")
            && path.metadata().map_err(io("look at a file in"))?.len() > 0
        {
            let journal = OpenOptions::new().write(true).open(&path);
            let emptied = journal.and_then(|journal| journal.set_len(0));
            emptied.map_err(|e| StoreError::io("empty", &path, e))?;
        }
    }
    Ok(())
}

/// Returns the error of the row database as one of the store's.
fn database_error(op: &'static str, folder: &Path, error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(source) | fjall::Error::Storage(LsmError::Io(source)) => {
            StoreError::io(op, folder, source)
        }
        fjall::Error::Poisoned => StoreError::Poisoned,
        fjall::Error::Locked => StoreError::InUse {
            path: folder.to_owned(),
        },
        error => {
            tracing::error!(?error, folder = %folder.display(), op, "the row database failed");
            StoreError::Database {
                path: folder.to_owned(),
            }
        }
    }
}

fn tree_options() -> KeyspaceCreateOptions {
    // Of files with large values each is written anew that a quarter of has gone, where a compaction meets all
    // rows that name it; not only the oldest quarter of them, which of a few are none.
    let separation = KvSeparationOptions::default()
        .separation_threshold(LARGE_VALUE_BYTES)
        .age_cutoff(1.0);
    KeyspaceCreateOptions::default()
        // Index and filter blocks go through the bounded cache, but for the two newest levels.
        .with_kv_separation(Some(separation))
        .compaction_strategy(Arc::new(levels()))
}

/// Name of the one tree.
const TREE: &str = "rows";

/// Descriptors that the database keeps open, of the 1024 that a process has by default.
const OPEN_FILES_MAX: usize = 200;

/// Values from this size on lie outside the tree: contents of small files and segments, which
/// would otherwise be copied at each compaction.
const LARGE_VALUE_BYTES: u32 = 2 << 10;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use fjall::AbstractTree;

    use super::*;
    use crate::base::{Rng, task};
    use crate::crypto::{Identity, LocalKey};

    fn local_key(seed: u64) -> LocalKey {
        Identity::generate(&Rng::from_seed(seed))
            .unwrap()
            .local_key()
    }

    #[test]
    fn a_row_is_looked_up_while_a_new_version_is_made_durable() {
        let folder = tempfile::tempdir().unwrap();
        let key = local_key(1);
        let tree = Arc::new(open(folder.path(), &key, 1).unwrap());
        put(&tree, b"a", b"small");
        put(&tree, b"b", b"gone");
        tree.apply(&mut |change| change(b"b", None)).unwrap();
        // What the database holds meanwhile.
        let writing = tree.tree.tree.get_version_history_lock();
        let (sender, looked) = std::sync::mpsc::channel();
        let reader = Arc::clone(&tree);
        let looking = task::thread("look", move || {
            let found = [b"a", b"b", b"c"].map(|key| reader.get(key).unwrap());
            let there = [b"a", b"b", b"c"].map(|key| reader.contains(key).unwrap());
            let walked: Vec<_> = reader
                .range(b"a", b"d", false)
                .map(Result::unwrap)
                .collect();
            let keys = reader.keys(b"a", b"d").map(|row| row.unwrap().0);
            let keys: Vec<_> = keys.collect();
            sender.send((found, there, walked, keys)).unwrap();
        });
        let looked = looked.recv_timeout(Duration::from_secs(30));
        drop(writing);
        looking.unwrap().join().unwrap();
        let (found, there, walked, keys) = looked.expect("nobody is kept out");
        assert_eq!(walked, [(b"a".to_vec(), b"small".to_vec())]);
        assert_eq!(keys, [b"a"]);
        assert_eq!(found, [Some(b"small".to_vec()), None, None]);
        assert_eq!(there, [true, false, false]);
    }

    #[test]
    fn what_is_looked_up_follows_each_change_whoever_compacts() {
        let folder = tempfile::tempdir().unwrap();
        let key = local_key(1);
        let tree = open(folder.path(), &key, 1).unwrap();
        for round in 0..40_u32 {
            let value = round.to_le_bytes();
            tree.apply(&mut |change| {
                for name in 0..50_u8 {
                    let is_there = u32::from(name) != round;
                    let large = [name; 3000];
                    let value: &[u8] = if name % 7 == 0 { &large } else { &value };
                    change(&[name], is_there.then_some(value));
                }
            })
            .unwrap();
            let mut rows = Vec::new();
            for name in 0..50_u8 {
                let expected = match name {
                    _ if u32::from(name) == round => None,
                    _ if name % 7 == 0 => Some(vec![name; 3000]),
                    _ => Some(value.to_vec()),
                };
                assert_eq!(tree.get(&[name]).unwrap(), expected, "{round} {name}");
                assert_eq!(tree.contains(&[name]).unwrap(), expected.is_some());
                rows.extend(expected.map(|value| (vec![name], value)));
            }
            let walk = |is_reverse| tree.range(&[0], &[50], is_reverse).map(Result::unwrap);
            assert!(walk(false).eq(rows.iter().cloned()));
            assert!(walk(true).eq(rows.iter().rev().cloned()));
            let keys = tree.keys(&[0], &[50]).map(|row| row.unwrap().0);
            assert!(keys.eq(rows.iter().map(|(key, _)| key.clone())));
        }
    }

    fn open(folder: &Path, key: &LocalKey, epoch: u32) -> Result<LocalTree, StoreError> {
        let options = StoreOptions::default();
        LocalTree::open(folder, key.sealer(epoch), &options, Gate::default())
    }

    fn put(tree: &LocalTree, key: &[u8], value: &[u8]) {
        tree.apply(&mut |change| change(key, Some(value))).unwrap();
    }

    /// The files of a folder and of all below it, with their lengths.
    fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            match metadata.is_dir() {
                true => found.extend(files(&entry.path())),
                false => found.extend([(entry.path(), metadata.len())]),
            }
        }
        found
    }

    #[test]
    fn what_is_flushed_is_written_again_a_few_times_and_not_with_all_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = open(folder.path(), &local_key(1), 1).unwrap();
        // Each step is made here.
        tree.compactor.close();
        let rng = Rng::from_seed(5);
        let (mut flushed, mut written) = (0, 0);
        for _ in 0..64 {
            let mut keys: Vec<[u8; 16]> = (0..1000).map(|_| rng.bytes()).collect();
            keys.sort();
            tree.apply(&mut |change| {
                for key in &keys {
                    change(key, Some(&[7; 1000]));
                }
            })
            .unwrap();
            flushed += 1 << 20;
            let before = files(folder.path());
            let strategy = Arc::clone(&tree.tree.config.compaction_strategy);
            tree.tree.tree.compact(strategy, 0).unwrap();
            let after = files(folder.path());
            let new = after.iter().filter(|(name, _)| !before.contains_key(*name));
            written += new.map(|(_, len)| len).sum::<u64>();
        }
        assert!(written / flushed < 6, "{written} for {flushed}");
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
}
