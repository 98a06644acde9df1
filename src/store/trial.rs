//! The row database is opened on trial, on a second folder with the same files: it removes what its
//! version does not name when it is opened, and whether it is the one that belongs to the log is
//! only known then.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::gate::Gate;
use super::local::LocalTree;
use super::tree::Tree;
use super::whole::Found;
use super::{StoreError, StoreOptions, buffered, state};
use crate::crypto::LocalKey;

/// Fails where what was found does not belong to the log beside it, or does not open.
///
/// An earlier version counts where the log has all that came later: a copy of the folder that was
/// taken while a new version came into being is such a folder.
pub(super) fn check(
    rows: &Path,
    log: &Path,
    key: &LocalKey,
    found: &Found,
) -> Result<(), StoreError> {
    let contents: &[(PathBuf, Vec<u8>)] = match found {
        Found::Whole {
            has_left_overs: true,
        } => &[],
        Found::Earlier { contents, .. } => contents,
        // Opening it changes nothing.
        Found::Whole { .. } | Found::Nothing => return Ok(()),
    };
    let trial = match Twin::of(rows) {
        Ok(trial) => trial,
        // Without it the database itself tells, a little later.
        Err(error) if contents.is_empty() => {
            tracing::debug!(%error, "the row database is not opened on trial");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let outcome = open(rows, &trial, key, contents)
        .and_then(|flushed| buffered::check_flushed(log, &key.sealer(0), flushed));
    match (outcome, found) {
        (Ok(()), _) => Ok(()),
        (Err(error), Found::Earlier { damage, .. }) => {
            tracing::warn!(%error, "an earlier version of the row database does not do");
            Err(damage.again())
        }
        (Err(error), _) => Err(error),
    }
}

fn open(
    rows: &Path,
    trial: &Twin,
    key: &LocalKey,
    contents: &[(PathBuf, Vec<u8>)],
) -> Result<u64, StoreError> {
    for (path, content) in contents {
        let inside = path.strip_prefix(rows).unwrap_or(path);
        state::write_private(&trial.path.join(inside), content)?;
    }
    let options = StoreOptions::default();
    let tree = LocalTree::open(&trial.path, key.sealer(0), &options, Gate::default())?;
    buffered::flushed_of(&tree as &dyn Tree)
}

/// A second folder of the row database, outside the state folder; removed when dropped.
#[derive(Debug)]
pub(super) struct Twin {
    pub(super) path: PathBuf,
}

impl Twin {
    /// Makes it: the large files, which are never changed, are links.
    pub(super) fn of(rows: &Path) -> Result<Self, StoreError> {
        let io = |e| StoreError::io("look for", rows, e);
        let rows = std::path::absolute(rows).map_err(io)?;
        let above = std::env::temp_dir();
        for number in 0..NUMBERS_MAX {
            let path = above.join(format!("dfs-rows-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(|e| StoreError::io("make", &path, e))?,
            }
            let twin = Self { path };
            copy(&rows, &twin.path)?;
            return Ok(twin);
        }
        Err(StoreError::io(
            "make a folder in",
            &above,
            std::io::ErrorKind::AlreadyExists.into(),
        ))
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let io = |e| StoreError::io("list", from, e);
    state::create_private(to)?;
    for entry in std::fs::read_dir(from).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(name) = path.file_name() else {
            continue;
        };
        let target = to.join(name);
        let is_constant = from.ends_with("tables") || from.ends_with("blobs");
        if path.is_dir() {
            copy(&path, &target)?;
        } else if is_constant {
            let linked = std::os::unix::fs::symlink(&path, &target);
            linked.map_err(|e| StoreError::io("make", &target, e))?;
        } else {
            std::fs::copy(&path, &target).map_err(|e| StoreError::io("copy", &path, e))?;
        }
    }
    Ok(())
}

/// So many folders of one process may lie there.
const NUMBERS_MAX: u32 = 10_000;
