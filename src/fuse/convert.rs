//! Values of `fs` to values of fuser and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, FopenFlags, INodeNo, Request, TimeOrNow};

use crate::base::Timespec;
use crate::fs::{Attr, Caller, FileHandle, FileKind, SetTime};

/// The unit of I/O that stat(2) recommends: a page, since stdio sizes its buffers by it.
const BLKSIZE: u32 = 4096;

pub(super) fn fh(handle: fuser::FileHandle) -> FileHandle {
    FileHandle(handle.0)
}

pub(super) fn caller(request: &Request, umask: u32) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
        umask,
    }
}

/// Returns owner and group for files of a process, which most requests do not say on a mount that
/// allows id-mapped ones; `None` where it is gone or cannot be seen.
pub fn owner_of(pid: u32) -> Option<(u32, u32)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // Real, effective, saved, and the one for files.
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_ascii_whitespace().nth(3)?.parse().ok()
    };
    Some((of("Uid:")?, of("Gid:")?))
}

/// Returns the groups of a process beside its own, which FUSE does not pass; none where it is gone.
///
/// They decide no access (the kernel does), only whether a change takes a setgid bit away.
pub fn groups_of(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    let groups = line.unwrap_or_default().split_ascii_whitespace();
    groups.filter_map(|group| group.parse().ok()).collect()
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDev => FileType::CharDevice,
        FileKind::BlockDev => FileType::BlockDevice,
    }
}

/// Returns attributes as the kernel has them, under the number by which it knows the inode.
pub(super) fn file_attr(number: INodeNo, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: number,
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        // Twelve bits fit in sixteen.
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLKSIZE,
        flags: 0,
    }
}

/// Returns the reply to a lookup that found nothing: the kernel keeps it when the inode is 0.
pub(super) fn no_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn open_flags(keep_cache: bool) -> FopenFlags {
    if keep_cache {
        FopenFlags::FOPEN_KEEP_CACHE
    } else {
        FopenFlags::empty()
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(requested_time(time)),
    }
}

fn system_time(time: Timespec) -> SystemTime {
    let seconds = Duration::from_secs(time.secs.unsigned_abs());
    let whole = if time.secs < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    whole
        .and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanos.into())))
        .unwrap_or(UNIX_EPOCH)
}

/// Returns the time that a program asked for.
///
/// fuser 0.18 reads the kernel's pair (seconds below zero, nanoseconds forwards) as if the
/// nanoseconds counted backwards, too. Both parts survive in the distance from 1970, so the pair
/// is read off there as the kernel sent it.
fn requested_time(time: SystemTime) -> Timespec {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Timespec {
            secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        },
        Err(before) => Timespec {
            secs: 0i64.saturating_sub_unsigned(before.duration().as_secs()),
            nanos: before.duration().subsec_nanos(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        // As fuser makes it of the kernel's (-2 s, 800,000,000 ns), which is 1.2 s before 1970.
        let from_fuser = UNIX_EPOCH - Duration::new(2, 800_000_000);
        let time = requested_time(from_fuser);
        assert_eq!((time.secs, time.nanos), (-2, 800_000_000));
        let shown = system_time(time);
        assert_eq!(shown, UNIX_EPOCH - Duration::from_millis(1200));
    }

    #[test]
    fn times_at_the_ends_of_the_range_do_not_panic() {
        for secs in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX] {
            for nanos in [0, 1, 999_999_999] {
                let shown = system_time(Timespec { secs, nanos });
                if secs >= 0 {
                    let time = requested_time(shown);
                    assert_eq!((time.secs, time.nanos), (secs, nanos));
                }
            }
        }
    }
}
