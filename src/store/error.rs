//! What can go wrong on the local disk.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::ChunkId;

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
    /// A file or folder of the store is not what was written there.
    #[error("{} {what}", path.display())]
    Damaged {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, to be read behind its path.
        what: &'static str,
    },
    /// The folder cannot be opened as it is; it was left as it was.
    #[error(
        "{damage}; nothing in {} was changed: rebuild it from the other members with \
         `dfs repair --state {} --peer HOST:PORT`, put it back from a backup, or copy out what is left \
         with `dfs-mount MOUNTPOINT --state {} -o rescue`",
        folder.display(), folder.display(), folder.display()
    )]
    Unusable {
        /// The state folder.
        folder: PathBuf,
        /// What is damaged.
        damage: Box<Self>,
    },
    /// The folder was set up, and the secret key of its peer is gone.
    #[error(
        "{} is missing: put it back from your backup, or join anew with \
         `dfs-mount MOUNTPOINT --state NEW --invite TOKEN`",
        path.display()
    )]
    KeyMissing {
        /// Where the key should lie.
        path: PathBuf,
    },
    /// The secret key is not the one that the folder was set up with.
    #[error(
        "{} is the key of another state folder: put the right one back from your backup, or join \
         anew with `dfs-mount MOUNTPOINT --state NEW --invite TOKEN`",
        path.display()
    )]
    KeyForeign {
        /// Where the key lies.
        path: PathBuf,
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
    /// The state folder was written by an early release that nothing reads any more.
    #[error(
        "the state folder was written by an early dfs (format {found}), which this one cannot \
         read: join anew with `dfs-mount MOUNTPOINT --state NEW --invite TOKEN`"
    )]
    TooOld {
        /// Version found in the folder.
        found: u32,
    },
    /// The state folder belongs to somebody else.
    #[error(
        "{} belongs to another user (uid {owner}): start dfs as that user, or hand it over with \
         chown -R",
        path.display()
    )]
    NotOwned {
        /// The folder or file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
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
    /// The mount is gone and somebody may be copying the folder, so nothing is moved in it; what
    /// this was for is done by the next opening.
    #[error("the state folder is being left as it is")]
    Frozen,
    /// A node of a tree of rows is not on this disk.
    #[error("a part of the rows is on other peers: chunk {id}")]
    Elsewhere {
        /// Its chunk.
        id: ChunkId,
    },
    /// The rows are of the past.
    #[error("rows of the past do not change")]
    OfThePast,
    /// The row database failed in a way that is not the system's fault; the log says how.
    #[error("the row database in {} cannot be read: a file there is damaged or missing", path.display())]
    Database {
        /// Its folder.
        path: PathBuf,
    },
}

impl StoreError {
    /// Returns the same damage once more.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Damaged { path, what } => Self::Damaged {
                path: path.clone(),
                what,
            },
            _ => Self::Corrupt {
                what: "the row database does not open",
            },
        }
    }

    /// Returns the error of an opening of a state folder: what is damage becomes
    /// [`StoreError::Unusable`], which says what to do.
    pub(super) fn at(self, folder: &Path) -> Self {
        let is_damage = match &self {
            Self::Corrupt { .. }
            | Self::Damaged { .. }
            | Self::Unauthentic
            | Self::Database { .. } => true,
            // What cannot be read for good.
            Self::Io { source, .. } => {
                source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            }
            _ => false,
        };
        if is_damage {
            return Self::Unusable {
                folder: folder.to_owned(),
                damage: Box::new(self),
            };
        }
        self
    }

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
