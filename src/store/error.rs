//! What can go wrong on the local disk.

use std::io;
use std::path::{Path, PathBuf};

/// Says why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused an operation on a file or folder.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes on the disk are not what was written there.
    #[error("the local store is damaged: {what}")]
    Corrupt {
        /// What was found, and where.
        what: &'static str,
    },
    /// A sealed row does not open: damaged, moved, or sealed with another key.
    #[error("a row of the local store does not open with this peer's key")]
    Unauthentic,
    /// The disk has no room; nothing was changed.
    #[error("no space left on the disk of the local store")]
    Full,
    /// An earlier write or sync failed, so writes are refused until the store is opened again.
    #[error("the local store refuses writes because an earlier write to the disk failed")]
    Poisoned,
    /// Another process holds the state folder.
    #[error("the state folder {} is in use by another process", path.display())]
    InUse {
        /// The state folder.
        path: PathBuf,
    },
    /// The state folder was written by a newer release.
    #[error(
        "the state folder was written by a newer dfs (format {found}, this one knows up to {known}): \
         upgrade this one"
    )]
    TooNew {
        /// Version found in the folder.
        found: u32,
        /// Newest version that this release reads.
        known: u32,
    },
    /// Others than the owner may enter the state folder or read its secrets.
    #[error("{} must be accessible to its owner alone (chmod go=)", path.display())]
    NotPrivate {
        /// The folder or file.
        path: PathBuf,
    },
    /// The state folder cannot be written.
    #[error("the state folder {} is not writable", path.display())]
    NotWritable {
        /// The state folder.
        path: PathBuf,
    },
    /// The folder holds something else than the state of a peer.
    #[error("{} is not a dfs state folder", path.display())]
    NotState {
        /// The folder.
        path: PathBuf,
    },
    /// A value or key is larger than the store takes.
    #[error("{len} bytes are more than the {max} that the store takes here")]
    TooLarge {
        /// Length given.
        len: usize,
        /// Largest length.
        max: usize,
    },
    /// The row database failed in a way that is not the system's or the disk's fault.
    #[error("the row database failed: {source}")]
    Database {
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// Returns the error for a failed operation on a path: [`StoreError::Full`] where the disk has
    /// no room, else [`StoreError::Io`].
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        if is_full(&source) {
            return Self::Full;
        }
        Self::Io {
            op,
            path: path.to_owned(),
            source,
        }
    }
}

/// Tells whether the system said that there is no room: disk, quota or file size limit.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
