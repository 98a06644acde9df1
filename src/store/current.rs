//! The newest version of the tree, to look rows up in while the next one is written.
//!
//! The database keeps its readers out while it makes a new version durable, which takes several
//! flushes of the disk: whoever looks for a name would wait for them, and with him all whose requests
//! are behind his. A version does not change, and its files stay while somebody has it.

use std::fmt;
use std::mem;
use std::sync::Arc;

use fjall::{AbstractTree, Keyspace, LsmError};
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

/// The newest version that is known to be durable.
pub(super) struct Current {
    look: RwLock<Arc<Look>>,
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
            look: RwLock::new(look_into(tree)),
            renewing: Mutex::new(()),
            gate,
        }
    }

    /// Returns what there is of a row. Waits for nobody who writes.
    pub(super) fn get(&self, key: &[u8]) -> Result<Found, LsmError> {
        let look = Arc::clone(&self.look.read());
        look(key)
    }

    /// Takes the newest version; to be called by whoever made one.
    pub(super) fn renew(&self, tree: &Keyspace) {
        let _renewing = self.renewing.lock();
        let look = look_into(tree);
        let old = mem::replace(&mut *self.look.write(), look);
        // Files go with the last who has them, and none goes while the folder may be copied.
        if !self.gate.is_open() {
            mem::forget(old);
        }
    }
}

fn look_into(tree: &Keyspace) -> Arc<Look> {
    let version = tree.tree.current_version();
    Arc::new(move |key| {
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
