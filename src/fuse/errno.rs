//! The errno of each error, in one exhaustive match: a new variant of [`FsError`] does not compile
//! without a choice here.

use fuser::Errno;

use crate::fs::FsError;

/// Returns what the system call fails with.
pub(super) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDirectory => Errno::ENOTDIR,
        FsError::IsDirectory => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::Invalid { .. } => Errno::EINVAL,
        FsError::NoAttribute => Errno::NO_XATTR,
        FsError::NotPermitted => Errno::EPERM,
        FsError::Access => Errno::EACCES,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::FileTooLarge => Errno::EFBIG,
        // setxattr(2) has E2BIG for the value; ERANGE is for names and for callers' buffers.
        FsError::AttributeTooLarge => Errno::E2BIG,
        FsError::Range => Errno::ERANGE,
        FsError::NoSpace => Errno::ENOSPC,
        FsError::ReadOnly => Errno::EROFS,
        FsError::BadHandle => Errno::EBADF,
        FsError::Stale(_) => Errno::ESTALE,
        // lseek(2): beyond the end of the file, or no data after the offset.
        FsError::NoSuchRange => Errno::ENXIO,
        // Not ENOSYS, after which the kernel would never ask again for this kind of operation.
        FsError::Unsupported => Errno::EOPNOTSUPP,
        // Not ETIMEDOUT or EHOSTUNREACH, which no program expects of read(2); the log has more.
        FsError::Missing(_) | FsError::Unreachable(_) | FsError::TimedOut => Errno::EIO,
        // Bytes or rows that are damaged: EIO as from a bad disk.
        FsError::Corrupt(_) | FsError::Unauthentic(_) => Errno::EIO,
        FsError::Data(_) | FsError::Volume(_) => Errno::EIO,
    }
}

/// Returns whether an error is what programs run into all day, and not worth a line in the log.
pub(super) fn is_ordinary(error: &FsError) -> bool {
    !matches!(
        errno(error),
        Errno::EIO | Errno::ENOSPC | Errno::ESTALE | Errno::EBADF
    )
}
