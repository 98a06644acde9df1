//! A folder of a mount, driven by system calls.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, Dev, FallocateFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Stat,
    Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
};

use rustix::io::ReadWriteFlags;

use super::content::Ranges;
use super::executor::{
    Allocate, Attr, Errno, Executor, Flags, Kind, Listed, Nanos, Outcome, Path, Place, Renaming,
    SetTime, Subject, UMASK, XattrSet,
};

/// How the daemon behind a mount is ended and begun again.
pub trait Daemon {
    /// Unmounts in order and mounts again.
    fn remount(&mut self);
    /// Kills it by SIGKILL and mounts again.
    fn kill(&mut self);
}

/// A folder of a mount, or the same folder of several mounts of one volume. Sets the umask of this
/// process.
#[derive(Debug)]
pub struct Mount<D> {
    daemon: D,
    folders: Vec<PathBuf>,
    /// Which of the mounts is used.
    turn: usize,
    root: OwnedFd,
}

impl<D: Daemon> Mount<D> {
    /// Returns the folder at these paths, which are there; the first one is used.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened.
    pub fn new(daemon: D, folders: Vec<PathBuf>) -> Outcome<Self> {
        rustix::process::umask(Mode::from_raw_mode(UMASK));
        let root = open_root(folders.first().ok_or(Errno::INVAL)?)?;
        Ok(Self {
            daemon,
            folders,
            turn: 0,
            root,
        })
    }

    /// Uses another of the mounts from now on.
    ///
    /// # Errors
    ///
    /// Where its folder cannot be opened.
    pub fn turn_to(&mut self, turn: usize) -> Outcome {
        self.turn = turn;
        self.root = open_root(self.folders.get(turn).ok_or(Errno::INVAL)?)?;
        Ok(())
    }

    /// Opens a directory as a place for names.
    fn walk(&self, path: &Path) -> Outcome<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::openat(&self.root, ".", flags, Mode::empty())?;
        for name in path {
            at = rustix::fs::openat(&at, &name[..], flags, Mode::empty())?;
        }
        Ok(at)
    }

    /// Returns the directory that holds a node, and its name there; the root is `.` in itself.
    fn split<'a>(&self, path: &'a Path) -> Outcome<(OwnedFd, &'a [u8])> {
        match path.split_last() {
            Some((name, dir)) => Ok((self.walk(dir)?, name)),
            None => Ok((self.walk(&[])?, b".")),
        }
    }

    /// Forgets the folder while `end` ends its filesystem, and opens it anew.
    fn around(&mut self, end: impl FnOnce(&mut D)) -> Outcome {
        // What holds the folder would keep the filesystem busy.
        self.root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        end(&mut self.daemon);
        self.turn_to(self.turn)
    }

    /// Returns a path that leads to a node through a descriptor, for calls without one.
    fn by_descriptor(dir: &OwnedFd, name: &[u8]) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        path
    }
}

fn open_root(folder: &std::path::Path) -> Outcome<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty())
}

impl<D: Daemon> Executor for Mount<D> {
    type File = OwnedFd;
    type Dir = OwnedFd;

    #[expect(
        clippy::disallowed_methods,
        reason = "the times of a real mount are those of the real clock"
    )]
    fn now(&self) -> Nanos {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Nanos::try_from(since.expect("after 1970").as_nanos()).expect("before the year 10^21")
    }

    fn create(&mut self, at: Place<'_>, mode: u32, flags: Flags) -> Outcome<OwnedFd> {
        let dir = self.walk(at.dir)?;
        let flags = open_flags(flags) | OFlags::CREATE;
        rustix::fs::openat(&dir, at.name, flags, Mode::from_raw_mode(mode))
    }

    fn open(&mut self, path: &Path, flags: Flags) -> Outcome<OwnedFd> {
        let (dir, name) = self.split(path)?;
        rustix::fs::openat(&dir, name, open_flags(flags), Mode::empty())
    }

    fn open_to_look(&mut self, path: &Path) -> Outcome<OwnedFd> {
        let (dir, name) = self.split(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&dir, name, flags, Mode::empty())
    }

    fn close(&mut self, file: OwnedFd) -> Outcome {
        // close(2) through rustix tells no error; the flush of a duplicate does the same and does.
        drop(file);
        Ok(())
    }

    fn mknod(&mut self, at: Place<'_>, kind: Kind, mode: u32, rdev: u32) -> Outcome {
        let dir = self.walk(at.dir)?;
        let kind = match kind {
            Kind::File => FileType::RegularFile,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDev => FileType::CharacterDevice,
            Kind::BlockDev => FileType::BlockDevice,
            Kind::Dir | Kind::Symlink => return Err(Errno::INVAL),
        };
        let mode = Mode::from_raw_mode(mode);
        rustix::fs::mknodat(&dir, at.name, kind, mode, Dev::from(rdev))
    }

    fn mkdir(&mut self, at: Place<'_>, mode: u32) -> Outcome {
        let dir = self.walk(at.dir)?;
        rustix::fs::mkdirat(&dir, at.name, Mode::from_raw_mode(mode))
    }

    fn symlink(&mut self, at: Place<'_>, target: &[u8]) -> Outcome {
        let dir = self.walk(at.dir)?;
        rustix::fs::symlinkat(target, &dir, at.name)
    }

    fn link(&mut self, path: &Path, at: Place<'_>) -> Outcome {
        let (from, name) = self.split(path)?;
        let to = self.walk(at.dir)?;
        rustix::fs::linkat(&from, name, &to, at.name, AtFlags::empty())
    }

    fn unlink(&mut self, at: Place<'_>) -> Outcome {
        let dir = self.walk(at.dir)?;
        rustix::fs::unlinkat(&dir, at.name, AtFlags::empty())
    }

    fn rmdir(&mut self, at: Place<'_>) -> Outcome {
        let dir = self.walk(at.dir)?;
        rustix::fs::unlinkat(&dir, at.name, AtFlags::REMOVEDIR)
    }

    fn rename(&mut self, from: Place<'_>, to: Place<'_>, how: Renaming) -> Outcome {
        let (a, b) = (self.walk(from.dir)?, self.walk(to.dir)?);
        let flags = match how {
            Renaming::Replace => RenameFlags::empty(),
            Renaming::NoReplace => RenameFlags::NOREPLACE,
            Renaming::Exchange => RenameFlags::EXCHANGE,
            Renaming::Whiteout => RenameFlags::WHITEOUT,
        };
        rustix::fs::renameat_with(&a, from.name, &b, to.name, flags)
    }

    fn write(&mut self, file: &OwnedFd, at: u64, data: &[u8], durable: bool) -> Outcome {
        let flags = match durable {
            true => ReadWriteFlags::DSYNC,
            false => ReadWriteFlags::empty(),
        };
        let mut written = 0;
        while written < data.len() {
            let rest = IoSlice::new(data.get(written..).unwrap_or_default());
            written += rustix::io::pwritev2(file, &[rest], at + written as u64, flags)?;
        }
        Ok(())
    }

    fn truncate(&mut self, subject: Subject<'_, OwnedFd>, size: u64) -> Outcome {
        match subject {
            Subject::Open(file) => rustix::fs::ftruncate(file, size),
            Subject::Path(path) => {
                let (dir, name) = self.split(path)?;
                let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                // truncate(2) by path, with the errors of what cannot be opened.
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => {}
                    FileType::Directory => return Err(Errno::ISDIR),
                    _ => return Err(Errno::INVAL),
                }
                let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
                rustix::fs::ftruncate(&file, size)
            }
        }
    }

    fn allocate(&mut self, file: &OwnedFd, at: u64, len: u64, how: Allocate) -> Outcome {
        let keep = |keep| match keep {
            true => FallocateFlags::KEEP_SIZE,
            false => FallocateFlags::empty(),
        };
        let flags = match how {
            Allocate::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            Allocate::Zero(keeps) => FallocateFlags::ZERO_RANGE | keep(keeps),
            Allocate::Reserve(keeps) => keep(keeps),
        };
        rustix::fs::fallocate(file, flags, at, len)
    }

    fn copy(&mut self, from: (&OwnedFd, u64), to: (&OwnedFd, u64), len: u64) -> Outcome<u64> {
        let (mut source, mut target) = (from.1, to.1);
        let len = usize::try_from(len).map_err(|_| Errno::INVAL)?;
        let (from, to) = (from.0, to.0);
        let copied =
            rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), len)?;
        Ok(copied as u64)
    }

    fn flush(&mut self, file: &OwnedFd) -> Outcome {
        drop(rustix::io::dup(file)?);
        Ok(())
    }

    fn fsync(&mut self, file: &OwnedFd, data_only: bool) -> Outcome {
        match data_only {
            true => rustix::fs::fdatasync(file),
            false => rustix::fs::fsync(file),
        }
    }

    fn fsync_dir(&mut self, path: &Path) -> Outcome {
        let dir = self.open_dir(path)?;
        rustix::fs::fsync(&dir)
    }

    fn sync(&mut self) -> Outcome<bool> {
        // The kernel does not pass syncfs(2) on to FUSE filesystems of ordinary mounts.
        let root = self.open_dir(&[])?;
        rustix::fs::fsync(&root)?;
        Ok(false)
    }

    fn chmod(&mut self, subject: Subject<'_, OwnedFd>, mode: u32) -> Outcome {
        let mode = Mode::from_raw_mode(mode);
        match subject {
            Subject::Open(file) => rustix::fs::fchmod(file, mode),
            Subject::Path(path) => {
                let (dir, name) = self.split(path)?;
                rustix::fs::chmodat(&dir, name, mode, AtFlags::empty())
            }
        }
    }

    fn chown(
        &mut self,
        subject: Subject<'_, OwnedFd>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Outcome {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        match subject {
            Subject::Open(file) => rustix::fs::fchown(file, uid, gid),
            Subject::Path(path) => {
                let (dir, name) = self.split(path)?;
                rustix::fs::chownat(&dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn utimes(&mut self, subject: Subject<'_, OwnedFd>, atime: SetTime, mtime: SetTime) -> Outcome {
        let times = Timestamps {
            last_access: timespec(atime),
            last_modification: timespec(mtime),
        };
        match subject {
            Subject::Open(file) => rustix::fs::futimens(file, &times),
            Subject::Path(path) => {
                let (dir, name) = self.split(path)?;
                rustix::fs::utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn set_xattr(
        &mut self,
        subject: Subject<'_, OwnedFd>,
        name: &[u8],
        value: &[u8],
        how: XattrSet,
    ) -> Outcome {
        let flags = match how {
            XattrSet::Either => XattrFlags::empty(),
            XattrSet::Create => XattrFlags::CREATE,
            XattrSet::Replace => XattrFlags::REPLACE,
        };
        match subject {
            Subject::Open(file) => rustix::fs::fsetxattr(file, name, value, flags),
            Subject::Path(path) => {
                let (dir, node) = self.split(path)?;
                rustix::fs::lsetxattr(Self::by_descriptor(&dir, node), name, value, flags)
            }
        }
    }

    fn remove_xattr(&mut self, subject: Subject<'_, OwnedFd>, name: &[u8]) -> Outcome {
        match subject {
            Subject::Open(file) => rustix::fs::fremovexattr(file, name),
            Subject::Path(path) => {
                let (dir, node) = self.split(path)?;
                rustix::fs::lremovexattr(Self::by_descriptor(&dir, node), name)
            }
        }
    }

    fn stat(&mut self, subject: Subject<'_, OwnedFd>) -> Outcome<Attr> {
        let stat = match subject {
            Subject::Open(file) => rustix::fs::fstat(file)?,
            Subject::Path(path) => {
                let (dir, name) = self.split(path)?;
                rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?
            }
        };
        attr_of(&stat)
    }

    fn xattrs(&mut self, subject: Subject<'_, OwnedFd>) -> Outcome<BTreeMap<Vec<u8>, Vec<u8>>> {
        let split = match subject {
            Subject::Open(_) => None,
            Subject::Path(path) => Some(self.split(path)?),
        };
        let mut buffer = vec![0; 64 << 10];
        let by_path = split.map(|(dir, name)| (Self::by_descriptor(&dir, name), dir));
        let len = match (&subject, &by_path) {
            (Subject::Open(file), _) => rustix::fs::flistxattr(file, &mut buffer[..])?,
            (_, Some((path, _))) => rustix::fs::llistxattr(&path[..], &mut buffer[..])?,
            (_, None) => return Err(Errno::INVAL),
        };
        let list = buffer.get(..len).unwrap_or_default().to_vec();
        let mut xattrs = BTreeMap::new();
        for name in list
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let len = match (&subject, &by_path) {
                (Subject::Open(file), _) => rustix::fs::fgetxattr(file, name, &mut buffer[..])?,
                (_, Some((path, _))) => rustix::fs::lgetxattr(&path[..], name, &mut buffer[..])?,
                (_, None) => return Err(Errno::INVAL),
            };
            let value = buffer.get(..len).unwrap_or_default().to_vec();
            xattrs.insert(name.to_vec(), value);
        }
        Ok(xattrs)
    }

    fn read_link(&mut self, path: &Path) -> Outcome<Vec<u8>> {
        let (dir, name) = self.split(path)?;
        let target = rustix::fs::readlinkat(&dir, name, Vec::new())?;
        Ok(target.into_bytes())
    }

    fn read(&mut self, file: &OwnedFd) -> Outcome<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut block = vec![0; 256 << 10];
        loop {
            match rustix::io::pread(file, &mut block[..], bytes.len() as u64)? {
                0 => return Ok(bytes),
                len => bytes.extend_from_slice(block.get(..len).unwrap_or_default()),
            }
        }
    }

    fn data_ranges(&mut self, file: &OwnedFd, size: u64) -> Outcome<Ranges> {
        let mut ranges = Ranges::default();
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                data => data?,
            };
            at = rustix::fs::seek(file, SeekFrom::Hole(data))?;
            ranges.add(data, at);
        }
        match rustix::fs::seek(file, SeekFrom::Data(size)) {
            Err(Errno::NXIO) => Ok(ranges),
            Err(errno) => Err(errno),
            Ok(_) => Err(Errno::RANGE),
        }
    }

    fn open_dir(&mut self, path: &Path) -> Outcome<OwnedFd> {
        let (dir, name) = self.split(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&dir, name, flags, Mode::empty())
    }

    fn read_dir(&mut self, dir: &mut OwnedFd) -> Outcome<Vec<Listed>> {
        let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
        let mut raw = RawDir::new(dir.as_fd(), &mut buffer);
        let mut listed = Vec::new();
        // The iterator asks the kernel again where its buffer is empty: one buffer is enough here.
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes().to_vec();
            listed.push((name, entry.ino(), kind_of(entry.file_type())?));
            if raw.is_buffer_empty() {
                break;
            }
        }
        Ok(listed)
    }

    fn close_dir(&mut self, dir: OwnedFd) -> Outcome {
        drop(dir);
        Ok(())
    }

    fn remount(&mut self) -> Outcome {
        self.around(D::remount)
    }

    fn kill(&mut self, files: Vec<OwnedFd>, dirs: Vec<OwnedFd>) -> Outcome {
        self.around(|daemon| {
            daemon.kill();
            drop((files, dirs));
        })
    }

    fn cut_power(&mut self, _: Vec<OwnedFd>, _: Vec<OwnedFd>) -> Outcome {
        // The machine of a real mount keeps its power.
        Err(Errno::NOSYS)
    }
}

fn open_flags(flags: Flags) -> OFlags {
    let mut raw = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    raw.set(OFlags::TRUNC, flags.truncate);
    raw.set(OFlags::APPEND, flags.append);
    raw.set(OFlags::EXCL, flags.exclusive);
    raw
}

fn timespec(time: SetTime) -> Timespec {
    const SECOND: Nanos = 1_000_000_000;
    match time {
        SetTime::Omit => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        SetTime::Now => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        },
        SetTime::At(time) => Timespec {
            tv_sec: i64::try_from(time.div_euclid(SECOND)).expect("a time of the model"),
            tv_nsec: i64::try_from(time.rem_euclid(SECOND)).expect("below a second"),
        },
    }
}

fn kind_of(kind: FileType) -> Outcome<Kind> {
    Ok(match kind {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDev,
        FileType::BlockDevice => Kind::BlockDev,
        FileType::Unknown => return Err(Errno::NOTSUP),
    })
}

#[expect(
    clippy::unnecessary_cast,
    reason = "the widths of the fields of stat differ between machines"
)]
fn attr_of(stat: &Stat) -> Outcome<Attr> {
    let time = |secs: i64, nanos: i64| Nanos::from(secs) * 1_000_000_000 + Nanos::from(nanos);
    Ok(Attr {
        ino: stat.st_ino as u64,
        kind: kind_of(FileType::from_raw_mode(stat.st_mode))?,
        mode: stat.st_mode as u32 & 0o7777,
        nlink: stat.st_nlink as u64,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u64,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
    })
}

/// Room for a handful of entries, so that listings take several calls.
const LISTING_BYTES: usize = 600;
