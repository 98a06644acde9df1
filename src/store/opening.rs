//! Opening a store in two steps: look, which writes nothing and refuses what is damaged; then go on.

use std::path::Path;
use std::sync::Arc;

use super::buffered::{self, BufferOptions, BufferedRows};
use super::chunks::LocalChunks;
use super::disk::{Disk, Folder};
use super::gate::Gate;
use super::local::LocalTree;
use super::staged::StagedRows;
use super::{Rows, Store, StoreError, StoreOptions, state, trial, whole};
use crate::base::Clock;
use crate::base::time::SystemClock;
use crate::crypto::LocalKey;

/// What looking found.
#[derive(Debug)]
struct Look {
    /// The folder says whose it is.
    is_owned: bool,
    /// No epoch above that was used.
    epoch: u32,
    tree: whole::Found,
}

pub(super) fn open(
    folder: &Path,
    key: &LocalKey,
    options: &StoreOptions,
) -> Result<Store, StoreError> {
    let look = look(folder, key)?;
    let epoch = state::next_epoch(look.epoch, SystemClock::new().wall_ms());
    let sealer = key.sealer(epoch);
    let rows = folder.join(state::ROWS_FOLDER);
    if let whole::Found::Nothing = look.tree {
        match std::fs::remove_dir_all(&rows) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("make anew", &rows, e));
            }
            _ => state::create_private(&rows)?,
        }
    }
    if let whole::Found::Earlier { contents, .. } = &look.tree {
        tracing::warn!("the row database goes back to an earlier version; the log has the rest");
        for (path, content) in contents {
            state::write_private(path, content)?;
        }
    }
    let gate = Gate::default();
    let tree = LocalTree::open(&rows, sealer.clone(), options, gate.clone())?;
    let log = folder.join(state::WAL_FOLDER);
    let buffer = BufferOptions {
        table_bytes: options.table_bytes,
        log_bytes: options.log_bytes,
    };
    let disk = Arc::new(Folder::new(&log));
    let tree = Arc::new(tree);
    let rows = BufferedRows::open_with_thread(disk, &log, tree, sealer, buffer, gate.clone())?;
    if !look.is_owned {
        state::set_owner(folder, key.owner())?;
    }
    if let Some(ballast) = &options.ballast
        && let Err(error) = rows.set_ballast(ballast)
    {
        tracing::warn!(%error, "no room is kept back");
    }
    let rows: Arc<dyn Rows> = Arc::new(StagedRows::open(Arc::new(rows))?);
    let chunks = Arc::new(Folder::new(&folder.join(state::CHUNKS_FOLDER)));
    let chunks = LocalChunks::open_with_thread(
        chunks,
        Arc::clone(&rows),
        options.chunk_file_max_bytes,
        gate.clone(),
    )?;
    Ok(Store {
        rows,
        chunks: Arc::new(chunks),
        gate,
    })
}

/// Finds out whether the folder can be opened with this key. Writes nothing.
fn look(folder: &Path, key: &LocalKey) -> Result<Look, StoreError> {
    super::rebuild::check(folder)?;
    let owner = state::owner_of(folder)?;
    if owner.is_some_and(|owner| owner != key.owner()) {
        return Err(StoreError::KeyForeign {
            path: folder.join(state::KEY_FILE),
        });
    }
    let rows = folder.join(state::ROWS_FOLDER);
    let log = folder.join(state::WAL_FOLDER);
    let chunks = folder.join(state::CHUNKS_FOLDER);
    for folder in [&rows, &log, &chunks] {
        if !folder
            .try_exists()
            .map_err(|e| StoreError::io("look at", folder, e))?
        {
            return Err(StoreError::Damaged {
                path: folder.clone(),
                what: "is missing",
            });
        }
    }
    let disk = Folder::new(&log);
    let seen = buffered::look(&disk, &log, &key.sealer(0))?;
    let tree = match whole::look(&rows) {
        Ok(whole::Found::Nothing) | Err(StoreError::Damaged { .. }) if seen.tree_is_needless => {
            whole::Found::Nothing
        }
        // The making of this folder was cut short.
        Ok(whole::Found::Nothing) | Err(StoreError::Damaged { .. })
            if owner.is_none()
                && is_empty(&disk, &log)?
                && is_empty(&Folder::new(&chunks), &chunks)? =>
        {
            whole::Found::Nothing
        }
        Ok(whole::Found::Nothing) => {
            return Err(StoreError::Damaged {
                path: rows.join("version"),
                what: "is missing",
            });
        }
        found => found?,
    };
    trial::check(&rows, &log, key, &tree)?;
    Ok(Look {
        is_owned: owner.is_some(),
        epoch: seen.epoch,
        tree,
    })
}

fn is_empty(disk: &dyn Disk, folder: &Path) -> Result<bool, StoreError> {
    let names = disk
        .names()
        .map_err(|e| StoreError::io("list", folder, e))?;
    Ok(names.is_empty())
}
