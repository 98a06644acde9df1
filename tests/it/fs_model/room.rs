//! The `fs` room as an executor of the model: what the kernel does before it asks is done here.

use std::collections::BTreeMap;

use dfs::base::{Ino, Rng, Timespec};
use dfs::fs::{
    Attr, Caller, Fallocate, FileHandle, FileKind, Fs, FsCounts, FsError, OpenFlags, ReadPlan,
    RenameMode, Reply, Seek, SetAttr, WriteFlags, XattrMode,
};
use mount_tests::model::content::Ranges;
use mount_tests::model::executor::{
    self, Allocate, Errno, Executor, Flags, Kind, Listed, Nanos, Outcome, Path, Place, Renaming,
    SetTime, Subject, UMASK, USER, XattrSet,
};

use super::faults::Faults;
use super::mount::Disk;

const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
    umask: UMASK,
};

/// Who has no privileges, and one group.
const NOBODY: Caller = Caller {
    uid: USER,
    gid: USER,
    pid: 2,
    umask: UMASK,
};

/// A mounted filesystem of this process.
pub(crate) struct Room {
    disk: Disk,
    fs: Option<Fs>,
    /// What chooses among the disks that a power cut may leave.
    chance: Rng,
    /// Lookups that this "kernel" has to give back.
    lookups: BTreeMap<Ino, u64>,
    /// Handles that are open.
    handles: usize,
    /// Who changes contents.
    caller: Caller,
    /// What makes writes fail.
    faults: Option<Faults>,
}

/// An open file. It holds a lookup.
#[derive(Debug)]
pub(crate) struct RoomFile {
    ino: Ino,
    fh: FileHandle,
    append: bool,
}

/// A directory that is being listed. It holds a lookup.
pub(crate) struct RoomDir {
    ino: Ino,
    fh: FileHandle,
    cookie: u64,
}

impl Room {
    /// Mounts what is on a disk.
    pub(crate) fn new(disk: Disk, chance: Rng) -> Self {
        Self {
            fs: Some(disk.mount()),
            disk,
            chance,
            lookups: BTreeMap::new(),
            handles: 0,
            caller: CALLER,
            faults: None,
        }
    }

    /// Lets writes to the disk fail now and then.
    pub(super) fn failing(self, faults: Faults) -> Self {
        let faults = Some(faults);
        Self { faults, ..self }
    }

    /// Returns the filesystem.
    pub(crate) fn fs(&self) -> &Fs {
        self.fs.as_ref().expect("mounted between operations")
    }

    /// Unmounts and returns where it lived.
    pub(crate) fn into_disk(self) -> Disk {
        self.disk
    }

    /// Finds a node; its lookup is to be given back.
    fn find(&mut self, path: &Path) -> Outcome<Ino> {
        let mut at = Ino::ROOT;
        for name in path {
            let found = self.fs().lookup(at, name);
            self.give_back(at);
            at = found.map_err(errno)?.attr.ino;
            *self.lookups.entry(at).or_default() += 1;
        }
        Ok(at)
    }

    fn give_back(&mut self, ino: Ino) {
        if ino == Ino::ROOT {
            return;
        }
        let count = self.lookups.get_mut(&ino).expect("it was looked up");
        *count -= 1;
        if *count == 0 {
            self.lookups.remove(&ino);
        }
        self.fs().forget(ino, 1);
    }

    /// Takes note of a lookup that an operation counted and that is kept.
    fn learn(&mut self, ino: Ino) {
        *self.lookups.entry(ino).or_default() += 1;
    }

    /// Does something with a node by its path.
    fn with<T>(
        &mut self,
        path: &Path,
        act: impl FnOnce(&Fs, Ino) -> Result<T, FsError>,
    ) -> Outcome<T> {
        let ino = self.find(path)?;
        let done = act(self.fs(), ino).map_err(errno);
        self.give_back(ino);
        done
    }

    /// Does something with a node by path or handle.
    fn on<T>(
        &mut self,
        subject: Subject<'_, RoomFile>,
        act: impl FnOnce(&Fs, Ino, Option<FileHandle>) -> Result<T, FsError>,
    ) -> Outcome<T> {
        match subject {
            Subject::Path(path) => self.with(path, |fs, ino| act(fs, ino, None)),
            Subject::Open(file) => act(self.fs(), file.ino, Some(file.fh)).map_err(errno),
        }
    }

    /// The kernel looks up what is to be made: where it is there, the filesystem is not asked. Asked
    /// even so, it must refuse.
    fn make(
        &mut self,
        at: Place<'_>,
        make: impl FnOnce(&Fs, Ino) -> Result<Ino, FsError>,
    ) -> Outcome {
        let dir = self.find(at.dir)?;
        let there = self.fs().lookup(dir, at.name);
        let made = make(self.fs(), dir);
        let done = match (there, made) {
            (Ok(entry), made) => {
                self.fs().forget(entry.attr.ino, 1);
                assert!(made.is_err(), "made what is there");
                Err(Errno::EXIST)
            }
            (Err(_), Ok(ino)) => {
                self.learn(ino);
                Ok(())
            }
            (Err(_), Err(error)) => Err(errno(error)),
        };
        self.give_back(dir);
        done
    }

    fn opened(&mut self, ino: Ino, fh: FileHandle, append: bool) -> RoomFile {
        self.handles += 1;
        RoomFile { ino, fh, append }
    }

    fn is_within(&mut self, dir: &Path, node: &[Vec<u8>]) -> bool {
        dir.starts_with(node)
    }
}

impl Executor for Room {
    type File = RoomFile;
    type Dir = RoomDir;

    fn begin(&mut self) {
        self.disk.advance();
        if let Some(faults) = &mut self.faults {
            faults.begin();
        }
    }

    fn end(&mut self) -> bool {
        self.faults.as_mut().is_some_and(Faults::end)
    }

    fn now(&self) -> Nanos {
        nanos(self.disk.time())
    }

    fn create(&mut self, at: Place<'_>, mode: u32, flags: Flags) -> Outcome<RoomFile> {
        let raw = open_flags(flags);
        let mut opened = None;
        self.make(at, |fs, dir| {
            let raw = OpenFlags {
                exclusive: true,
                ..raw
            };
            let created = fs.create(CALLER, dir, at.name, mode, raw)?;
            opened = Some((created.entry.attr.ino, created.opened.fh));
            Ok(created.entry.attr.ino)
        })?;
        let (ino, fh) = opened.expect("it was made");
        // One lookup goes with the file, one stays as in a kernel that remembers.
        let entry = self.find(at.dir).and_then(|dir| {
            let found = self.fs().lookup(dir, at.name).map_err(errno);
            self.give_back(dir);
            found
        })?;
        self.learn(entry.attr.ino);
        Ok(self.opened(ino, fh, flags.append))
    }

    fn open(&mut self, path: &Path, flags: Flags) -> Outcome<RoomFile> {
        let ino = self.find(path)?;
        match self.fs().open(self.caller, ino, open_flags(flags)) {
            Ok(opened) => Ok(self.opened(ino, opened.fh, flags.append)),
            Err(error) => {
                self.give_back(ino);
                Err(errno(error))
            }
        }
    }

    fn open_to_look(&mut self, path: &Path) -> Outcome<RoomFile> {
        let ino = self.find(path)?;
        let flags = OpenFlags {
            read: true,
            ..OpenFlags::default()
        };
        let opened = self.fs().open(CALLER, ino, flags).map_err(errno)?;
        Ok(self.opened(ino, opened.fh, false))
    }

    fn close(&mut self, file: RoomFile) -> Outcome {
        let flushed = self.fs().flush(file.ino, file.fh);
        let released = self.fs().release(file.ino, file.fh);
        self.handles -= 1;
        self.give_back(file.ino);
        flushed.and(released).map_err(errno)
    }

    fn mknod(&mut self, at: Place<'_>, kind: Kind, mode: u32, rdev: u32) -> Outcome {
        let bits = match kind {
            Kind::File => libc::S_IFREG,
            Kind::Fifo => libc::S_IFIFO,
            Kind::Socket => libc::S_IFSOCK,
            Kind::CharDev => libc::S_IFCHR,
            Kind::BlockDev => libc::S_IFBLK,
            Kind::Dir | Kind::Symlink => return Err(Errno::INVAL),
        };
        self.make(at, |fs, dir| {
            let made = fs.mknod(CALLER, dir, at.name, bits | mode, rdev)?;
            Ok(made.attr.ino)
        })
    }

    fn mkdir(&mut self, at: Place<'_>, mode: u32) -> Outcome {
        self.make(at, |fs, dir| {
            Ok(fs.mkdir(CALLER, dir, at.name, mode & 0o1777)?.attr.ino)
        })
    }

    fn symlink(&mut self, at: Place<'_>, target: &[u8]) -> Outcome {
        if target.len() > 4095 || target.is_empty() {
            let dir = self.find(at.dir)?;
            let refused = self.fs().symlink(CALLER, dir, at.name, target);
            self.give_back(dir);
            return refused.map(drop).map_err(errno);
        }
        self.make(at, |fs, dir| {
            Ok(fs.symlink(CALLER, dir, at.name, target)?.attr.ino)
        })
    }

    fn link(&mut self, path: &Path, at: Place<'_>) -> Outcome {
        let ino = self.find(path)?;
        let linked = self.make(at, |fs, dir| Ok(fs.link(ino, dir, at.name)?.attr.ino));
        self.give_back(ino);
        linked
    }

    fn unlink(&mut self, at: Place<'_>) -> Outcome {
        self.with(at.dir, |fs, dir| fs.unlink(dir, at.name))
    }

    fn rmdir(&mut self, at: Place<'_>) -> Outcome {
        self.with(at.dir, |fs, dir| fs.rmdir(dir, at.name))
    }

    fn rename(&mut self, from: Place<'_>, to: Place<'_>, how: Renaming) -> Outcome {
        let (a, b) = (self.find(from.dir)?, self.find(to.dir)?);
        let mode = match how {
            Renaming::Replace => RenameMode::Replace,
            Renaming::NoReplace => RenameMode::NoReplace,
            Renaming::Exchange => RenameMode::Exchange,
            Renaming::Whiteout => RenameMode::Replace,
        };
        // The kernel looks up both names, in this order, and knows what is an ancestor of what.
        let source = self.fs().lookup(a, from.name);
        let target = self.fs().lookup(b, to.name);
        let renamed = match how {
            Renaming::Whiteout => {
                let names = ((a, from.name), (b, to.name));
                self.fs()
                    .rename_leaving_whiteout(CALLER, names.0, names.1, mode)
            }
            _ => self.fs().rename((a, from.name), (b, to.name), mode),
        };
        for entry in [&source, &target].into_iter().flatten() {
            self.fs().forget(entry.attr.ino, 1);
        }
        self.give_back(a);
        self.give_back(b);
        let path = |place: Place<'_>| [place.dir, &[place.name.to_vec()]].concat();
        let over_ancestor = matches!(how, Renaming::Replace | Renaming::Whiteout)
            && target.is_ok()
            && !self.is_within(to.dir, &path(from))
            && self.is_within(from.dir, &path(to));
        match (source, target) {
            (Err(error), _) => {
                assert!(renamed.is_err());
                Err(errno(error))
            }
            (Ok(_), Err(error @ FsError::NameTooLong)) => {
                assert!(renamed.is_err());
                Err(errno(error))
            }
            _ if over_ancestor => {
                assert!(renamed.is_err());
                Err(Errno::NOTEMPTY)
            }
            _ => renamed.map_err(errno),
        }
    }

    fn become_user(&mut self, is_user: bool) -> Outcome {
        self.caller = if is_user { NOBODY } else { CALLER };
        Ok(())
    }

    fn write(&mut self, file: &RoomFile, at: u64, data: &[u8], durable: bool) -> Outcome {
        let flags = WriteFlags {
            sync: durable,
            kill_privileges: (self.caller.uid != 0).then_some(self.caller),
            ..WriteFlags::default()
        };
        let written = self.fs().write(file.ino, file.fh, at, data, flags);
        assert_eq!(written.map_err(errno)?, data.len());
        Ok(())
    }

    fn truncate(&mut self, subject: Subject<'_, RoomFile>, size: u64) -> Outcome {
        let caller = self.caller;
        self.on(subject, |fs, ino, fh| {
            let set = SetAttr {
                size: Some(size),
                fh,
                kill_privileges_of_user: true,
                ..SetAttr::default()
            };
            fs.setattr(caller, ino, set).map(drop)
        })
    }

    fn allocate(&mut self, file: &RoomFile, at: u64, len: u64, how: Allocate) -> Outcome {
        let mode = match how {
            Allocate::Punch => Fallocate::PunchHole,
            Allocate::Zero(keep_size) => Fallocate::ZeroRange { keep_size },
            Allocate::Reserve(keep_size) => Fallocate::Reserve { keep_size },
        };
        let done = self
            .fs()
            .fallocate(self.caller, file.ino, file.fh, at, len, mode);
        done.map_err(errno)
    }

    fn copy(&mut self, from: (&RoomFile, u64), to: (&RoomFile, u64), len: u64) -> Outcome<u64> {
        if to.0.append {
            // The kernel refuses, by what the descriptor has now.
            return Err(Errno::BADF);
        }
        // The kernel asks for no more than there is.
        let size = self.fs().getattr(from.0.ino).map_err(errno)?.attr.size;
        let len = len.min(size.saturating_sub(from.1));
        let mut done = 0;
        while done < len {
            let copied = self.fs().copy_file_range(
                self.caller,
                (from.0.ino, from.0.fh, from.1 + done),
                (to.0.ino, to.0.fh, to.1 + done),
                len - done,
            );
            match copied.map_err(errno) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn flush(&mut self, file: &RoomFile) -> Outcome {
        self.fs().flush(file.ino, file.fh).map_err(errno)
    }

    fn fsync(&mut self, file: &RoomFile, _: bool) -> Outcome {
        self.fs().fsync(file.ino, file.fh).map_err(errno)
    }

    fn fsync_dir(&mut self, path: &Path) -> Outcome {
        self.with(path, |fs, ino| {
            let fh = fs.opendir(ino)?.fh;
            let synced = fs.fsyncdir(ino, fh);
            fs.releasedir(ino, fh).and(synced)
        })
    }

    fn sync(&mut self) -> Outcome<bool> {
        self.fs().sync_all().map_err(errno)?;
        Ok(true)
    }

    fn chmod(&mut self, subject: Subject<'_, RoomFile>, mode: u32) -> Outcome {
        self.on(subject, |fs, ino, fh| {
            let set = SetAttr {
                mode: Some(mode),
                fh,
                ..SetAttr::default()
            };
            fs.setattr(CALLER, ino, set).map(drop)
        })
    }

    fn chown(
        &mut self,
        subject: Subject<'_, RoomFile>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Outcome {
        self.on(subject, |fs, ino, fh| {
            let set = SetAttr {
                uid,
                gid,
                fh,
                kill_privileges: true,
                ..SetAttr::default()
            };
            fs.setattr(CALLER, ino, set).map(drop)
        })
    }

    fn utimes(
        &mut self,
        subject: Subject<'_, RoomFile>,
        atime: SetTime,
        mtime: SetTime,
    ) -> Outcome {
        if (atime, mtime) == (SetTime::Omit, SetTime::Omit) {
            return Ok(());
        }
        let time = |time| match time {
            SetTime::Omit => None,
            SetTime::Now => Some(dfs::fs::SetTime::Now),
            SetTime::At(time) => Some(dfs::fs::SetTime::At(Timespec {
                secs: i64::try_from(time.div_euclid(SECOND)).unwrap(),
                nanos: u32::try_from(time.rem_euclid(SECOND)).unwrap(),
            })),
        };
        self.on(subject, |fs, ino, fh| {
            let set = SetAttr {
                atime: time(atime),
                mtime: time(mtime),
                fh,
                ..SetAttr::default()
            };
            fs.setattr(CALLER, ino, set).map(drop)
        })
    }

    fn set_xattr(
        &mut self,
        subject: Subject<'_, RoomFile>,
        name: &[u8],
        value: &[u8],
        how: XattrSet,
    ) -> Outcome {
        let mode = match how {
            XattrSet::Either => XattrMode::Either,
            XattrSet::Create => XattrMode::Create,
            XattrSet::Replace => XattrMode::Replace,
        };
        self.on(subject, |fs, ino, _| {
            fs.setxattr(CALLER, ino, name, value, mode)
        })
    }

    fn remove_xattr(&mut self, subject: Subject<'_, RoomFile>, name: &[u8]) -> Outcome {
        self.on(subject, |fs, ino, _| {
            // What is no directory has no default list, and the kernel knows.
            let is_default = name == b"system.posix_acl_default";
            if is_default && fs.getattr(ino)?.attr.kind != FileKind::Dir {
                return Ok(());
            }
            fs.removexattr(ino, name)
        })
    }

    fn stat(&mut self, subject: Subject<'_, RoomFile>) -> Outcome<executor::Attr> {
        self.on(subject, |fs, ino, _| Ok(attr_of(&fs.getattr(ino)?.attr)))
    }

    fn xattrs(&mut self, subject: Subject<'_, RoomFile>) -> Outcome<BTreeMap<Vec<u8>, Vec<u8>>> {
        self.on(subject, |fs, ino, _| {
            let list = fs.listxattr(CALLER, ino)?;
            let names = list
                .split(|byte| *byte == 0)
                .filter(|name| !name.is_empty());
            names
                .map(|name| Ok((name.to_vec(), fs.getxattr(ino, name)?.to_vec())))
                .collect()
        })
    }

    fn read_link(&mut self, path: &Path) -> Outcome<Vec<u8>> {
        self.with(path, |fs, ino| Ok(fs.readlink(ino)?.to_vec()))
    }

    fn read(&mut self, file: &RoomFile) -> Outcome<Vec<u8>> {
        Ok(read_all(self.fs(), file.ino, file.fh))
    }

    fn data_ranges(&mut self, file: &RoomFile, size: u64) -> Outcome<Ranges> {
        let fs = self.fs();
        let mut ranges = Ranges::default();
        let mut at = 0;
        while at < size {
            let data = match fs.lseek(file.ino, file.fh, at, Seek::Data) {
                Err(FsError::NoSuchRange) => break,
                data => data.map_err(errno)?,
            };
            at = fs
                .lseek(file.ino, file.fh, data, Seek::Hole)
                .map_err(errno)?;
            ranges.add(data, at);
        }
        match fs.lseek(file.ino, file.fh, size, Seek::Data) {
            Err(FsError::NoSuchRange) => Ok(ranges),
            Err(error) => Err(errno(error)),
            Ok(_) => Err(Errno::RANGE),
        }
    }

    fn open_dir(&mut self, path: &Path) -> Outcome<RoomDir> {
        let ino = self.find(path)?;
        let fh = self.fs().opendir(ino).map_err(errno)?.fh;
        self.handles += 1;
        Ok(RoomDir { ino, fh, cookie: 0 })
    }

    /// Lists in replies of three entries.
    fn read_dir(&mut self, dir: &mut RoomDir) -> Outcome<Vec<Listed>> {
        let mut listed = Vec::new();
        let mut cookie = dir.cookie;
        let done = self.fs().readdir(dir.ino, dir.fh, cookie, &mut |entry| {
            if listed.len() == 3 {
                return Reply::Full;
            }
            assert!(entry.cookie > cookie && entry.cookie <= i64::MAX as u64);
            cookie = entry.cookie;
            listed.push((entry.name.to_vec(), entry.ino.0, kind_of(entry.kind)));
            Reply::Taken
        });
        dir.cookie = cookie;
        done.map_err(errno)?;
        Ok(listed)
    }

    fn close_dir(&mut self, dir: RoomDir) -> Outcome {
        let closed = self.fs().releasedir(dir.ino, dir.fh);
        self.handles -= 1;
        self.give_back(dir.ino);
        closed.map_err(errno)
    }

    fn tick(&mut self) -> Outcome {
        assert!(self.fs().tick().is_empty());
        Ok(())
    }

    fn publish(&mut self) -> Outcome {
        let sealed = self.fs().volume().seal_drafts();
        // It fails where there is no room for the log.
        sealed.map_err(|_| Errno::NOSPC)?;
        if self.disk.alone {
            // As the daemon does now and then where there is no other member.
            self.fs().collect().map_err(errno)?;
        }
        Ok(())
    }

    fn remount(&mut self) -> Outcome {
        for (ino, nlookup) in std::mem::take(&mut self.lookups) {
            self.fs().forget(ino, nlookup);
        }
        self.fs().sync_all().map_err(errno)?;
        let counts = self.fs().counts();
        assert_eq!(counts, FsCounts::default(), "after the last forget");
        // Two do not live on one disk; and a start is no call.
        self.fs = None;
        if let Some(faults) = &self.faults {
            faults.lift();
        }
        self.fs = Some(self.disk.mount());
        Ok(())
    }

    fn kill(&mut self, _: Vec<RoomFile>, _: Vec<RoomDir>) -> Outcome {
        self.fs = None;
        self.lookups.clear();
        self.handles = 0;
        self.fs = Some(self.disk.mount());
        Ok(())
    }

    fn cut_power(&mut self, files: Vec<RoomFile>, dirs: Vec<RoomDir>) -> Outcome {
        self.disk.cut_power(&self.chance);
        self.kill(files, dirs)
    }

    fn check(&mut self) -> Result<(), String> {
        let counts = self.fs().counts();
        let (lookups, handles) = (self.lookups.values().sum::<u64>(), self.handles);
        if (counts.nlookup, counts.handles) != (lookups, handles) {
            return Err(format!(
                "{counts:?} for {lookups} lookups, {handles} handles"
            ));
        }
        Ok(())
    }
}

const SECOND: Nanos = 1_000_000_000;

fn nanos(time: Timespec) -> Nanos {
    Nanos::from(time.secs) * SECOND + Nanos::from(time.nanos)
}

fn open_flags(flags: Flags) -> OpenFlags {
    OpenFlags {
        read: true,
        write: true,
        append: flags.append,
        truncate: flags.truncate,
        ..OpenFlags::default()
    }
}

fn attr_of(attr: &Attr) -> executor::Attr {
    executor::Attr {
        ino: attr.ino.0,
        kind: kind_of(attr.kind),
        mode: attr.mode,
        nlink: u64::from(attr.nlink),
        uid: attr.uid,
        gid: attr.gid,
        rdev: u64::from(attr.rdev),
        size: attr.size,
        blocks: attr.blocks,
        mtime: nanos(attr.mtime),
        ctime: nanos(attr.ctime),
    }
}

fn kind_of(kind: FileKind) -> Kind {
    match kind {
        FileKind::File => Kind::File,
        FileKind::Dir => Kind::Dir,
        FileKind::Symlink => Kind::Symlink,
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => Kind::Socket,
        FileKind::CharDev => Kind::CharDev,
        FileKind::BlockDev => Kind::BlockDev,
    }
}

/// Returns what a program would get; the errors that no operation of the model may meet panic.
fn errno(error: FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::NOENT,
        FsError::Exists => Errno::EXIST,
        FsError::NotDirectory => Errno::NOTDIR,
        FsError::IsDirectory => Errno::ISDIR,
        FsError::NotEmpty => Errno::NOTEMPTY,
        FsError::NameTooLong => Errno::NAMETOOLONG,
        FsError::Invalid { .. } => Errno::INVAL,
        FsError::NoAttribute => Errno::NODATA,
        FsError::NotPermitted => Errno::PERM,
        FsError::Access => Errno::ACCESS,
        FsError::BadHandle => Errno::BADF,
        FsError::NoSuchRange => Errno::NXIO,
        FsError::Unsupported => Errno::OPNOTSUPP,
        FsError::NoSpace => Errno::NOSPC,
        error => panic!("unexpected: {error}"),
    }
}

/// Reads a file to its end.
pub(super) fn read_all(fs: &Fs, ino: Ino, fh: FileHandle) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match fs.read(ino, fh, bytes.len() as u64, 700_000).unwrap() {
            ReadPlan::Ready(pieces) if pieces.is_empty() => return bytes,
            ReadPlan::Ready(pieces) => pieces.iter().for_each(|piece| bytes.extend(piece)),
            ReadPlan::Wait(_) => panic!("everything is here"),
        }
    }
}

/// Returns the outcome as a program sees it.
pub(super) fn outcome<T>(result: Result<T, FsError>) -> Outcome<T> {
    result.map_err(errno)
}
