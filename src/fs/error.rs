//! What can go wrong in the filesystem; `fuse` chooses the errno of each.

use crate::base::{ChunkId, Ino};
use crate::data::DataError;
use crate::store::StoreError;
use crate::volume::VolumeError;

/// Says why a filesystem operation failed. Variants name the condition, in POSIX words.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// No such file or directory.
    #[error("no such file or directory")]
    NotFound,
    /// The name or attribute exists.
    #[error("exists already")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// A name is longer than NAME_MAX, or a symlink target than PATH_MAX.
    #[error("name too long")]
    NameTooLong,
    /// An argument makes no sense: a name with `/`, a directory moved into itself, ...
    #[error("invalid argument: {what}")]
    Invalid {
        /// What about it.
        what: &'static str,
    },
    /// The extended attribute is not there.
    #[error("no such attribute")]
    NoAttribute,
    /// Not permitted to anyone: a hard link to a directory, a write to a virtual attribute.
    #[error("operation not permitted")]
    NotPermitted,
    /// Access denied: a default access control list on what is not a directory.
    #[error("access denied")]
    Access,
    /// The file has the most links it can have.
    #[error("too many links")]
    TooManyLinks,
    /// The offset is beyond the largest file.
    #[error("file too large")]
    FileTooLarge,
    /// An extended attribute's value is larger than XATTR_SIZE_MAX.
    #[error("attribute too large")]
    AttributeTooLarge,
    /// An extended attribute's name is longer than XATTR_NAME_MAX, or its value too long for the
    /// caller's buffer.
    #[error("out of range")]
    Range,
    /// The disk or the volume is full.
    #[error("no space left")]
    NoSpace,
    /// The mount, or this peer's role, does not allow changes.
    #[error("read-only")]
    ReadOnly,
    /// The handle is not open, or not open for this.
    #[error("bad file handle")]
    BadHandle,
    /// The inode does not exist any more, though the kernel names it.
    #[error("stale inode {0}")]
    Stale(Ino),
    /// No data or hole at or after the offset.
    #[error("no such range")]
    NoSuchRange,
    /// The operation or mode is not supported.
    #[error("not supported")]
    Unsupported,
    /// The bytes are not here, and all who could have them say that they have not.
    #[error("no peer has chunk {0:?}")]
    Missing(ChunkId),
    /// The bytes are not here, and nobody who has them answers.
    #[error("chunk {0:?} is out of reach")]
    Unreachable(ChunkId),
    /// The bytes that are here are not those that the chunk's name stands for.
    #[error("chunk {0:?} is damaged")]
    Corrupt(ChunkId),
    /// The bytes do not open with the volume's keys.
    #[error("chunk {0:?} is not of this volume")]
    Unauthentic(ChunkId),
    /// The bytes did not come in time.
    #[error("timed out")]
    TimedOut,
    /// Contents could not be read or kept for a reason of this machine.
    #[error(transparent)]
    Data(DataError),
    /// The volume's rows could not be read or written.
    #[error(transparent)]
    Volume(VolumeError),
}

impl From<StoreError> for FsError {
    fn from(error: StoreError) -> Self {
        VolumeError::from(error).into()
    }
}

impl From<VolumeError> for FsError {
    fn from(error: VolumeError) -> Self {
        match error {
            VolumeError::Store(StoreError::Full) => Self::NoSpace,
            VolumeError::NoInode(ino) => Self::Stale(ino),
            VolumeError::Busy => Self::TimedOut,
            VolumeError::Over => Self::ReadOnly,
            VolumeError::Reserved => Self::NotPermitted,
            error => Self::Volume(error),
        }
    }
}
