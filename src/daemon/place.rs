//! Whether the state folder is the one that this peer left: not a copy that was put in its place, or that
//! runs somewhere else.
//!
//! A file in the folder and a row name each other: the row says which file it was, by its number and the
//! time when it was made, which no copy keeps. What such a look misses, as a whole disk that was put back,
//! is found out from the others.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::error::DaemonError;
use crate::node::NodeError;
use crate::store::{Batch, Rows, Table, codec};

const FILE_NAME: &str = "place";

const ROW_KEY: &[u8] = b"daemon/place";

const ROW_MAX_BYTES: usize = 64;

/// A file among all that there ever were on its disk, as far as the filesystem tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    number: u64,
    /// When it was made, nanoseconds since 1970; `None` where that is not kept.
    born_ns: Option<u64>,
}

impl Place {
    fn of(file: &Metadata) -> Self {
        let born = file.created().ok();
        let since = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born_ns = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
        Self {
            number: file.ino(),
            born_ns,
        }
    }
}

/// Looks whether a state folder with these rows is another than the one in which they were written, and
/// calls `doubt` where it is; then it is the one from now on.
pub(super) fn check(
    state: &Path,
    rows: &dyn Rows,
    doubt: impl FnOnce() -> Result<(), DaemonError>,
) -> Result<(), DaemonError> {
    let path = state.join(FILE_NAME);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::create(&path),
        opened => opened,
    };
    let file = file.and_then(|file| file.metadata());
    let file = file.map_err(|source| DaemonError::Io {
        what: "look at",
        path,
        source,
    })?;
    let here = Place::of(&file);
    let row = rows.get(Table::Meta, ROW_KEY).map_err(NodeError::from)?;
    let known = row.map(|row| codec::decode::<Place>(&row, ROW_MAX_BYTES));
    // A row that says nothing says no good either.
    let is_moved = known.map(|known| known.ok() != Some(here));
    if is_moved == Some(false) {
        return Ok(());
    }
    if is_moved == Some(true) {
        doubt()?;
    }
    let mut batch = Batch::new();
    batch.put(Table::Meta, ROW_KEY, codec::encode(&here));
    rows.commit(batch).map_err(NodeError::from)?;
    Ok(())
}

/// Puts that rows are not those that were left in their folder: the next look is in doubt.
pub(super) fn disown(batch: &mut Batch) {
    batch.put(Table::Meta, ROW_KEY, []);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    /// Says whether there is doubt.
    fn is_moved(state: &Path, store: &Store) -> bool {
        let mut moved = false;
        let doubted = check(state, &*store.rows, || {
            moved = true;
            Ok(())
        });
        doubted.unwrap();
        moved
    }

    #[test]
    fn a_copy_of_the_folder_is_another_one_and_the_folder_itself_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let (state, copy) = (temp.path().join("state"), temp.path().join("copy"));
        std::fs::create_dir(&state).unwrap();
        std::fs::create_dir(&copy).unwrap();
        let store = Store::memory();
        assert!(!is_moved(&state, &store), "a new folder");
        assert!(!is_moved(&state, &store));
        let renamed = temp.path().join("renamed");
        std::fs::rename(&state, &renamed).unwrap();
        assert!(!is_moved(&renamed, &store), "the same by another name");
        std::fs::copy(renamed.join(FILE_NAME), copy.join(FILE_NAME)).unwrap();
        assert!(is_moved(&copy, &store));
        assert!(!is_moved(&copy, &store), "it is known by now");
        std::fs::remove_file(copy.join(FILE_NAME)).unwrap();
        assert!(is_moved(&copy, &store), "of a copy without it");
        // Where that cannot be noted it is asked again.
        let failed = check(&renamed, &*store.rows, || Err(NodeError::NoKeys.into()));
        assert!(failed.is_err());
        assert!(is_moved(&renamed, &store));
    }
}
