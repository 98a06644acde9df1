//! A state folder whose peer is a member of nothing yet: how it is known, and taken away again.

use std::path::Path;

use super::StoreError;
use super::state::{
    FORMAT_FILE, KEY_FILE, SETUP_NAMES, StateDir, format_of, refused, sync_folder, write_private,
};

/// Lies in a state folder from its first moment until a volume was made or joined.
pub(super) const FIRST_START_FILE: &str = "first-start";

/// Returns whether a state folder at `path` holds what a start may go on with, without changing
/// anything: not where it is missing or empty, or where a first start was cut short.
pub fn is_founded(path: &Path) -> Result<bool, StoreError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(StoreError::NotState {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(refused("list", path, error)),
    };
    let mut holds_more = false;
    for entry in entries {
        let name = entry.map_err(|e| refused("list", path, e))?.file_name();
        if name == FIRST_START_FILE {
            return Ok(false);
        }
        holds_more |= !SETUP_NAMES.iter().any(|known| name == *known);
    }
    Ok(holds_more)
}

impl StateDir {
    /// Returns whether no volume was made or joined with this folder yet. Until then nothing in it
    /// is worth keeping but the key, which may have been shown to somebody.
    pub fn is_first_start(&self) -> bool {
        self.file(FIRST_START_FILE).exists()
    }

    /// Notes durably that the folder's peer is a member of a volume from now on.
    pub fn founded(&self) -> Result<(), StoreError> {
        match std::fs::remove_file(self.file(FIRST_START_FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io(
                "remove",
                &self.file(FIRST_START_FILE),
                error,
            )),
            _ => sync_folder(self.path()),
        }
    }

    /// Takes away what a first start that came to nothing has made: the folder's contents, and the
    /// folders that were not there before it. Does nothing once the folder is [`Self::founded`].
    ///
    /// Nothing in it may be open any more.
    pub fn discard(self) {
        if !self.is_first_start() {
            return;
        }
        // The mark goes last: what a crash leaves is still known for what it is.
        self.clear(&[FIRST_START_FILE, "lost+found"]);
        let _ = std::fs::remove_file(self.file(FIRST_START_FILE));
        for folder in &self.made {
            // One that holds something else by now stays.
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }

    /// Takes away what a first start has made that is to go on later, all but the key: somebody may
    /// know it by now. Does nothing once the folder is [`Self::founded`].
    ///
    /// Nothing in it may be open any more.
    pub fn suspend(self) {
        if !self.is_first_start() {
            return;
        }
        // Nothing is put in any more.
        if let Err(error) = write_private(&self.file(FORMAT_FILE), &format_of(0)) {
            tracing::warn!(%error, "a first start leaves all that it made");
            return;
        }
        self.clear(&[FIRST_START_FILE, FORMAT_FILE, KEY_FILE, "lost+found"]);
    }

    fn clear(&self, keep: &[&str]) {
        let Ok(entries) = std::fs::read_dir(self.path()) else {
            return;
        };
        let entries: Vec<_> = entries.flatten().collect();
        for entry in &entries {
            if keep.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let path = entry.path();
            let gone = match entry.file_type() {
                Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(&path),
                _ => std::fs::remove_file(&path),
            };
            if let Err(error) = gone {
                tracing::warn!(path = %path.display(), %error, "a failed first start leaves this");
            }
        }
    }

    pub(super) fn begin_first_start(&self) -> Result<(), StoreError> {
        write_private(&self.file(FIRST_START_FILE), b"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_start_that_failed_leaves_the_disk_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/state");
        assert!(!is_founded(&deep).unwrap());
        let state = StateDir::open_or_create(&deep).unwrap();
        write_private(&state.identity_key(), b"secret").unwrap();
        assert!(!is_founded(&deep).unwrap());
        state.discard();
        assert_eq!(root.path().read_dir().unwrap().count(), 0);

        // A folder that was there stays, and so do those with something else in them.
        std::fs::create_dir(root.path().join("a")).unwrap();
        let state = StateDir::open_or_create(&deep).unwrap();
        std::fs::write(root.path().join("a/note"), "mine").unwrap();
        state.discard();
        assert!(root.path().join("a/note").exists());
        assert!(!root.path().join("a/b").exists());
    }

    #[test]
    fn a_first_start_that_is_to_go_on_leaves_its_key() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        let state = StateDir::open_or_create(&path).unwrap();
        write_private(&state.identity_key(), b"secret").unwrap();
        std::fs::write(state.rows().join("rows"), "rows").unwrap();
        state.suspend();
        let mut left: Vec<_> = path.read_dir().unwrap().flatten().collect();
        left.sort_by_key(std::fs::DirEntry::file_name);
        let left: Vec<_> = left.iter().map(std::fs::DirEntry::file_name).collect();
        assert_eq!(left, ["first-start", "format", "identity.key"]);
        assert!(!is_founded(&path).unwrap());
        let state = StateDir::open_or_create(&path).unwrap();
        assert_eq!(std::fs::read(state.identity_key()).unwrap(), b"secret");
        state.founded().unwrap();
        std::fs::write(state.rows().join("rows"), "rows").unwrap();
        let rows = state.rows();
        state.suspend();
        assert!(rows.join("rows").exists());
    }

    #[test]
    fn a_folder_is_founded_once_a_volume_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        let state = StateDir::open_or_create(&path).unwrap();
        write_private(&state.identity_key(), b"secret").unwrap();
        drop(state);
        // Cut short: the next start goes on with it.
        let state = StateDir::open_or_create(&path).unwrap();
        assert!(state.is_first_start());
        state.founded().unwrap();
        assert!(is_founded(&path).unwrap());
        state.discard();
        assert_eq!(std::fs::read(path.join("identity.key")).unwrap(), b"secret");
        let state = StateDir::open_or_create(&path).unwrap();
        assert!(!state.is_first_start());
        drop(state);

        // What is nobody's state is not taken for a missing one.
        let other = root.path().join("other");
        std::fs::create_dir(&other).unwrap();
        assert!(!is_founded(&other).unwrap());
        std::fs::write(other.join("thesis.txt"), "text").unwrap();
        assert!(is_founded(&other).unwrap());
        assert!(is_founded(&other.join("thesis.txt")).is_err());
    }
}
