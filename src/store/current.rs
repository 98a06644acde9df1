//! The newest version of the tree, to look rows up in, and to walk over, while the next one is written.
//!
//! The database keeps its readers out while it makes a new version durable, which takes several
//! flushes of the disk: whoever looks for a name would wait for them, and with him all whose requests
//! are behind his. A version does not change, and its files stay while somebody has it.

use std::fmt;
use std::mem;
use std::sync::Arc;

use fjall::{AbstractTree, Keyspace, LsmError};
use lsm_tree::Tree;
use parking_lot::{Mutex, RwLock};
use xxhash_rust::xxh3::xxh3_64;

use super::gate::Gate;

/// What a version says of a row.
pub(super) enum Found {
    /// There is no such row.
    Nothing,
    /// The row's value.
    Value(Vec<u8>),
    /// A value that lies outside the tree: the database finds it.
    Apart,
}

type Look = dyn Fn(&[u8]) -> Result<Found, LsmError> + Send + Sync;

/// The rows of a walk, in the order of their keys.
pub(super) type Walked = Box<dyn DoubleEndedIterator<Item = Result<(Vec<u8>, Found), LsmError>>>;

type Walk = dyn Fn(&[u8], &[u8]) -> Walked + Send + Sync;

/// A version as it was taken.
struct Taken {
    look: Box<Look>,
    walk: Box<Walk>,
}

/// The newest version that is known to be durable.
pub(super) struct Current {
    taken: RwLock<Arc<Taken>>,
    /// Held while a version is taken, so that an older one never takes the place of a newer.
    renewing: Mutex<()>,
    gate: Gate,
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl Current {
    pub(super) fn new(tree: &Keyspace, gate: Gate) -> Self {
        Self {
            taken: RwLock::new(take(tree)),
            renewing: Mutex::new(()),
            gate,
        }
    }

    /// Returns what there is of a row. Waits for nobody who writes.
    pub(super) fn get(&self, key: &[u8]) -> Result<Found, LsmError> {
        let taken = Arc::clone(&self.taken.read());
        let found = (taken.look)(key);
        let_go(taken, &self.gate);
        found
    }

    /// Returns the rows with `start <= key < end`, as of this version. Waits for nobody who writes.
    pub(super) fn walk(&self, start: &[u8], end: &[u8]) -> Walked {
        let taken = Arc::clone(&self.taken.read());
        Box::new(Walking {
            rows: Some((taken.walk)(start, end)),
            taken: Some(taken),
            gate: self.gate.clone(),
        })
    }

    /// Takes the newest version; to be called by whoever made one.
    pub(super) fn renew(&self, tree: &Keyspace) {
        let _renewing = self.renewing.lock();
        let taken = take(tree);
        let old = mem::replace(&mut *self.taken.write(), taken);
        let_go(old, &self.gate);
    }
}

/// Lets go of a version: its files go with the last who has it, and none goes while the folder may be
/// copied.
fn let_go(taken: Arc<Taken>, gate: &Gate) {
    if Arc::strong_count(&taken) == 1 && !gate.is_open() {
        mem::forget(taken);
    }
}

/// A walk that has its version until it ends.
struct Walking {
    rows: Option<Walked>,
    taken: Option<Arc<Taken>>,
    gate: Gate,
}

impl Iterator for Walking {
    type Item = Result<(Vec<u8>, Found), LsmError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.as_mut()?.next()
    }
}

impl DoubleEndedIterator for Walking {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.rows.as_mut()?.next_back()
    }
}

impl Drop for Walking {
    fn drop(&mut self) {
        self.rows = None;
        if let Some(taken) = self.taken.take() {
            let_go(taken, &self.gate);
        }
    }
}

fn take(tree: &Keyspace) -> Arc<Taken> {
    let whole = tree.tree.get_version_history_lock().latest_version();
    let walk = move |start: &[u8], end: &[u8]| -> Walked {
        let range = start..end;
        let rows = Tree::create_internal_range(whole.clone(), &range, u64::MAX, None);
        Box::new(rows.map(|row| {
            let row = row?;
            let found = match u8::from(row.key.value_type) {
                IS_APART => Found::Apart,
                _ => Found::Value(row.value.to_vec()),
            };
            Ok((row.key.user_key.to_vec(), found))
        }))
    };
    Arc::new(Taken {
        look: look_into(tree),
        walk: Box::new(walk),
    })
}

fn look_into(tree: &Keyspace) -> Box<Look> {
    let version = tree.tree.current_version();
    Box::new(move |key| {
        let hash = xxh3_64(key);
        let levels = version.iter_levels();
        let runs = levels.flat_map(|level| level.iter());
        for table in runs.filter_map(|run| run.get_for_key(key)) {
            let Some(row) = table.get(key, u64::MAX, hash)? else {
                continue;
            };
            return Ok(match u8::from(row.key.value_type) {
                IS_APART => Found::Apart,
                _ if row.is_tombstone() => Found::Nothing,
                _ => Found::Value(row.value.to_vec()),
            });
        }
        Ok(Found::Nothing)
    })
}

/// The kind of a row whose value lies outside the tree.
const IS_APART: u8 = 4;
