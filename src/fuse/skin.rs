//! The handlers: one short body each, alike, with no decision that `fs` could take.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use super::answer::{
    answer, answer_attr, answer_data, answer_entry, answer_new_dir, answer_offset, answer_written,
    answer_xattr, run,
};
use super::capabilities::negotiate;
use super::convert::{caller, fh, file_attr, no_entry, open_flags, set_time};
use super::crew::Crew;
use super::listing::{self, Listed};
use super::locking::Asked;
use super::notify::Gate;
use super::numbers::{Numbers, Shown};
use super::pace::Pace;
use super::waiting::Waiting;
use crate::base::{Ino, task::Pool};
use crate::fs::{
    self, Fallocate, Fs, FsError, ReadPlan, RenameMode, Seek, SetAttr, Sought, XattrMode,
};
use crate::volume::is_past;

/// Answers the kernel from an [`Fs`].
#[derive(Debug)]
pub(super) struct Skin {
    pub(super) fs: Arc<Fs>,
    /// Which of the threads read.
    pub(super) crew: Crew,
    /// Where reads wait for peers.
    pub(super) runtime: Handle,
    /// Where flushes wait for the disk.
    pub(super) disk: Pool,
    /// Where what is of the past waits for peers.
    pub(super) past: Pool,
    /// Says when they need not.
    pub(super) pace: Arc<Pace>,
    /// Keeps the replies of those who wait there.
    pub(super) waiting: Waiting,
    /// Held by whoever makes an answer that the kernel keeps.
    pub(super) gate: Gate,
    /// By which the kernel knows inodes.
    pub(super) numbers: Numbers,
    /// The kernel is to keep no pages of files.
    pub(super) direct_io: bool,
}

impl Skin {
    /// Returns what the kernel is to do with the pages of a file that it opened, and whether it
    /// need not tell us of each close.
    fn file_flags(&self, ino: Ino, opened: &fs::Opened, flags: fs::OpenFlags) -> FopenFlags {
        let pages = match self.direct_io {
            true => FopenFlags::FOPEN_DIRECT_IO,
            false => open_flags(opened.keep_cache),
        };
        // A close gives back what the process has locked by whatever handle.
        match flags.changes_content() || self.fs.locks().has_records(ino) {
            true => pages,
            false => pages | FopenFlags::FOPEN_NOFLUSH,
        }
    }

    pub(super) fn ino(&self, number: INodeNo) -> Ino {
        self.numbers.ino(number)
    }

    fn listed(&self, number: INodeNo, handle: FileHandle, offset: u64) -> Listed<'_> {
        Listed {
            fs: &self.fs,
            numbers: &self.numbers,
            dir: self.ino(number),
            fh: fh(handle),
            offset,
        }
    }
}

/// The largest range that one copy_file_range answers for: fuser answers in 32 bits, and a copy is
/// one operation on the serving thread. The caller asks again for the rest.
const COPY_MAX_BYTES: u64 = 1 << 30;

impl Filesystem for Skin {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _turn = self.crew.turn();
        if let Some(parent) = self.of_past(parent) {
            return self.lookup_past(req, parent, name, reply);
        }
        let _gate = self.gate.hold();
        match self.run("lookup", |fs| fs.lookup(self.ino(parent), name.as_bytes())) {
            // An entry with inode 0 says "not there, and you may remember it".
            Err(Errno::ENOENT) => {
                let ttl = self.fs.config().negative_ttl;
                reply.entry(&ttl, &no_entry(), Generation(0));
            }
            outcome => answer_entry(&self.numbers, reply, outcome),
        }
    }

    fn forget(&self, _req: &Request, number: INodeNo, nlookup: u64) {
        let _turn = self.crew.turn();
        let ino = self.ino(number);
        self.numbers.forget(number, nlookup);
        let _ = self.run("forget", |fs| {
            fs.forget(ino, nlookup);
            Ok(())
        });
    }

    fn getattr(&self, req: &Request, number: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _turn = self.crew.turn();
        if let Some(ino) = self.of_past(number) {
            return self.getattr_past(req, ino, reply);
        }
        let _gate = self.gate.hold();
        let found = self.run("getattr", |fs| fs.getattr(self.ino(number)));
        answer_attr(&self.numbers, reply, found.as_ref().map_err(|errno| *errno));
    }

    fn setattr(
        &self,
        req: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _turn = self.crew.turn();
        // A change of owner that names neither owner nor group: chown(2) with -1 twice. Of root it
        // may as well be what precedes a write, which takes nothing away from root's files.
        let names_nothing =
            mode.or(uid).or(gid).is_none() && size.is_none() && atime.is_none() && mtime.is_none();
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            fh: handle.map(fh),
            // What the kernel's FATTR_KILL_SUIDGID says, which fuser keeps to itself: always for a
            // change of owner, for a truncation unless the caller has CAP_FSETID, as root has.
            kill_privileges: uid.or(gid).is_some(),
            kill_privileges_of_user: names_nothing || size.is_some(),
        };
        let (caller, number) = (caller(req, 0), self.ino(number));
        if size.is_some_and(|size| self.is_cut_slow(number, size)) {
            let (fs, gate) = (Arc::clone(&self.fs), self.gate.clone());
            let numbers = self.numbers.clone();
            self.disk.run(move || {
                let changed = run(&fs, "setattr", |fs| fs.setattr(caller, number, set));
                // What the kernel keeps is made under the gate, which nobody holds for long.
                let _gate = gate.hold();
                let found = changed.and_then(|_| run(&fs, "getattr", |fs| fs.getattr(number)));
                answer_attr(&numbers, reply, found.as_ref().map_err(|errno| *errno));
            });
            return;
        }
        let _gate = self.gate.hold();
        let changed = self.run("setattr", |fs| fs.setattr(caller, number, set));
        answer_attr(
            &self.numbers,
            reply,
            changed.as_ref().map_err(|errno| *errno),
        );
    }

    fn readlink(&self, req: &Request, number: INodeNo, reply: ReplyData) {
        let _turn = self.crew.turn();
        if let Some(ino) = self.of_past(number) {
            return self.readlink_past(req, ino, reply);
        }
        match self.run("readlink", |fs| fs.readlink(self.ino(number))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let _turn = self.crew.turn();
        let _gate = self.gate.hold();
        let caller = caller(req, umask);
        let outcome = self.run("mknod", |fs| {
            fs.mknod(caller, self.ino(parent), name.as_bytes(), mode, rdev)
        });
        answer_entry(&self.numbers, reply, outcome);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let _turn = self.crew.turn();
        let _gate = self.gate.hold();
        let caller = caller(req, umask);
        let outcome = self.run("mkdir", |fs| {
            fs.mkdir(caller, self.ino(parent), name.as_bytes(), mode)
        });
        answer_new_dir(&self.numbers, reply, outcome);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.crew.turn();
        answer(
            reply,
            self.run("unlink", |fs| fs.unlink(self.ino(parent), name.as_bytes())),
        );
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.crew.turn();
        answer(
            reply,
            self.run("rmdir", |fs| fs.rmdir(self.ino(parent), name.as_bytes())),
        );
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let _turn = self.crew.turn();
        let _gate = self.gate.hold();
        let target = target.as_os_str().as_bytes();
        let outcome = self.run("symlink", |fs| {
            fs.symlink(
                caller(req, 0),
                self.ino(parent),
                link_name.as_bytes(),
                target,
            )
        });
        answer_entry(&self.numbers, reply, outcome);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _turn = self.crew.turn();
        let leaves_whiteout = flags.contains(RenameFlags::RENAME_WHITEOUT);
        let rest = flags - RenameFlags::RENAME_WHITEOUT;
        let mode = if rest.is_empty() {
            RenameMode::Replace
        } else if rest == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(Errno::EINVAL);
        };
        let caller = caller(req, 0);
        let from = (self.ino(parent), name.as_bytes().to_vec());
        let to = (self.ino(newparent), newname.as_bytes().to_vec());
        // What is unwritten of the file goes first.
        let is_slow = self.fs.is_rename_slow(from.0, &from.1);
        let rename = move |fs: &Fs| {
            let (from, to) = ((from.0, &*from.1), (to.0, &*to.1));
            match leaves_whiteout {
                true => fs.rename_leaving_whiteout(caller, from, to, mode),
                false => fs.rename(from, to, mode),
            }
        };
        match is_slow {
            true => self.run_apart("rename", reply, rename, answer),
            false => answer(reply, self.run("rename", rename)),
        }
    }

    fn link(
        &self,
        _req: &Request,
        number: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let _turn = self.crew.turn();
        let _gate = self.gate.hold();
        let outcome = self.run("link", |fs| {
            fs.link(self.ino(number), self.ino(newparent), newname.as_bytes())
        });
        answer_entry(&self.numbers, reply, outcome);
    }

    fn open(&self, req: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.crew.turn();
        let flags = fs::OpenFlags::from_raw(flags.0);
        if let Some(ino) = self.of_past(number) {
            return self.open_past((req, reply), ino, flags);
        }
        match self.run("open", |fs| {
            fs.open(caller(req, 0), self.ino(number), flags)
        }) {
            Ok(opened) => {
                let handle = FileHandle(opened.fh.0);
                reply.opened(handle, self.file_flags(self.ino(number), &opened, flags));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let _turn = self.crew.turn();
        let _gate = self.gate.hold();
        let caller = caller(req, umask);
        let flags = fs::OpenFlags::from_raw(flags);
        let outcome = self.run("create", |fs| {
            fs.create(caller, self.ino(parent), name.as_bytes(), mode, flags)
        });
        match outcome {
            Ok(fs::Created { entry, opened }) => {
                let shown = Shown::of(&entry.attr);
                let (number, generation) = self.numbers.looked_up(&entry, shown);
                // One duration serves name and attributes in this reply: the shorter is right for both.
                reply.created(
                    &entry.attr_ttl.min(entry.entry_ttl),
                    &file_attr(number, &entry.attr),
                    Generation(generation),
                    FileHandle(opened.fh.0),
                    self.file_flags(entry.attr.ino, &opened, flags),
                );
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _turn = self.crew.turn();
        if let Some(ino) = self.of_past(number) {
            return self.read_past(req, (ino, fh(handle)), (offset, size), reply);
        }
        let outcome = self.run("read", |fs| {
            fs.read(self.ino(number), fh(handle), offset, size as usize)
        });
        match outcome {
            Ok(ReadPlan::Ready(pieces)) => answer_data(reply, &pieces),
            Ok(ReadPlan::Wait(pending)) => self.read_later(req, pending, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        open_flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _turn = self.crew.turn();
        let (number, handle) = (self.ino(number), fh(handle));
        let open_flags = fs::OpenFlags::from_raw(open_flags.0);
        let flags = fs::WriteFlags {
            kill_privileges: write_flags
                .contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID)
                .then(|| caller(req, 0)),
            from_cache: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            append: Some(open_flags.append),
            sync: open_flags.sync,
        };
        if open_flags.sync {
            // Waits for the disk as fsync does; the data is the serving thread's buffer.
            let data = data.to_vec();
            let write = move |fs: &Fs| fs.write(number, handle, offset, &data, flags);
            return self.run_durably("write", (number, req), reply, write, answer_written);
        }
        let outcome = self.run("write", |fs| fs.write(number, handle, offset, data, flags));
        answer_written(reply, outcome);
    }

    fn flush(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let _turn = self.crew.turn();
        let (number, handle) = (self.ino(number), fh(handle));
        // Before anything that takes a while: who asks for a lock next comes after this.
        self.fs.locks().close_of(number, lock_owner.0);
        // A close whose bytes go into chunks waits for the disk, any other for a few rows. None
        // waits for a peer, and a process that ends closes its files: so it is no wait to give up.
        if self.fs.is_flush_slow(number) {
            let flush = move |fs: &Fs| fs.flush(number, handle);
            self.run_apart("flush", reply, flush, answer);
        } else {
            answer(reply, self.run("flush", |fs| fs.flush(number, handle)));
        }
    }

    fn release(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.crew.turn();
        let (number, handle) = (self.ino(number), fh(handle));
        self.fs.locks().close(handle.0);
        let release = move |fs: &Fs| fs.release(number, handle);
        // Pages of a mapping may have come after the last flush.
        match self.fs.is_close_slow(number) {
            true => self.run_apart("release", reply, release, answer),
            false => answer(reply, self.run("release", release)),
        }
    }

    fn fsync(
        &self,
        req: &Request,
        number: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.crew.turn();
        let (number, handle) = (self.ino(number), fh(handle));
        let fsync = move |fs: &Fs| fs.fsync(number, handle);
        self.run_durably("fsync", (number, req), reply, fsync, answer);
    }

    fn fsyncdir(
        &self,
        req: &Request,
        number: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.crew.turn();
        let (number, handle) = (self.ino(number), fh(handle));
        let fsync = move |fs: &Fs| fs.fsyncdir(number, handle);
        self.run_durably("fsyncdir", (number, req), reply, fsync, answer);
    }

    fn opendir(&self, req: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.crew.turn();
        if let Some(ino) = self.of_past(number) {
            return self.opendir_past((req, reply), ino);
        }
        match self.run("opendir", |fs| fs.opendir(self.ino(number))) {
            Ok(opened) => reply.opened(
                FileHandle(opened.fh.0),
                open_flags(opened.keep_cache) | FopenFlags::FOPEN_CACHE_DIR,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let _turn = self.crew.turn();
        if let Some(ino) = self.of_past(number) {
            let at = (ino, fh(handle), offset);
            return self.list_past(false, (req, reply), at, listing::readdir);
        }
        let _gate = self.gate.hold();
        listing::readdir(self.listed(number, handle, offset), reply);
    }

    fn readdirplus(
        &self,
        req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let _turn = self.crew.turn();
        if let Some(ino) = self.of_past(number) {
            let at = (ino, fh(handle), offset);
            return self.list_past(true, (req, reply), at, listing::readdirplus);
        }
        let _gate = self.gate.hold();
        listing::readdirplus(self.listed(number, handle, offset), reply);
    }

    fn releasedir(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _turn = self.crew.turn();
        answer(
            reply,
            self.run("releasedir", |fs| {
                fs.releasedir(self.ino(number), fh(handle))
            }),
        );
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let _turn = self.crew.turn();
        match self.run("statfs", Fs::statfs) {
            Ok(space) => reply.statfs(
                space.blocks,
                space.blocks_free,
                space.blocks_free,
                space.files,
                space.files_free,
                space.block_bytes,
                space.name_bytes_max,
                space.block_bytes,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let _turn = self.crew.turn();
        let outcome = self.run("setxattr", |fs| {
            let mode = XattrMode::from_raw(flags).ok_or(FsError::Invalid { what: "flags" })?;
            fs.setxattr(
                caller(req, 0),
                self.ino(number),
                name.as_bytes(),
                value,
                mode,
            )
        });
        answer(reply, outcome);
    }

    fn getxattr(&self, req: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _turn = self.crew.turn();
        if let Some(ino) = self.of_past(number) {
            let name = name.as_bytes().to_vec();
            return self.xattr_past((req, reply), size, move |fs| fs.getxattr(ino, &name));
        }
        let outcome = self.run("getxattr", |fs| {
            fs.getxattr(self.ino(number), name.as_bytes())
        });
        answer_xattr(reply, size, outcome);
    }

    fn listxattr(&self, req: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let _turn = self.crew.turn();
        if let Some(ino) = self.of_past(number) {
            let caller = caller(req, 0);
            return self.xattr_past((req, reply), size, move |fs| fs.listxattr(caller, ino));
        }
        let outcome = self.run("listxattr", |fs| {
            fs.listxattr(caller(req, 0), self.ino(number))
        });
        answer_xattr(reply, size, outcome);
    }

    fn removexattr(&self, _req: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.crew.turn();
        answer(
            reply,
            self.run("removexattr", |fs| {
                fs.removexattr(self.ino(number), name.as_bytes())
            }),
        );
    }

    fn getlk(
        &self,
        req: &Request,
        number: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let _turn = self.crew.turn();
        let asked = Asked::new((handle, owner, pid), (start, end), kind);
        self.test_lock((number, req), asked, reply);
    }

    fn setlk(
        &self,
        req: &Request,
        number: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.crew.turn();
        let asked = Asked::new((handle, owner, pid), (start, end), kind);
        self.set_lock((number, req), asked, sleep, reply);
    }

    /// Answers as a filesystem without any does; the default would warn about each.
    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let _turn = self.crew.turn();
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let _turn = self.crew.turn();
        let outcome = self.run("fallocate", |fs| {
            let mode = Fallocate::from_raw(mode).ok_or(FsError::Unsupported)?;
            fs.fallocate(
                caller(req, 0),
                self.ino(number),
                fh(handle),
                offset,
                length,
                mode,
            )
        });
        answer(reply, outcome);
    }

    fn lseek(
        &self,
        req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let _turn = self.crew.turn();
        let seek = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            // The kernel answers the others itself.
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let (number, handle) = (self.ino(number), fh(handle));
        if is_past(number) {
            let sought = move |fs: &Fs| fs.lseek(number, handle, offset, seek);
            return self.run_past("lseek", (req, reply), sought, |reply, at| {
                answer_offset(reply, *at);
            });
        }
        let first = self.run("lseek", |fs| fs.lseek_some(number, handle, offset, seek));
        match first {
            Ok(Sought::Found(found)) => answer_offset(reply, Ok(found)),
            Err(errno) => answer_offset(reply, Err(errno)),
            // A file of very many pieces: others go on meanwhile.
            Ok(Sought::Further(next)) => {
                let further = move |fs: &Fs| fs.lseek(number, handle, next, seek);
                self.run_apart("lseek", reply, further, answer_offset);
            }
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _turn = self.crew.turn();
        let caller = caller(req, 0);
        let from = (self.ino(ino_in), fh(fh_in), offset_in);
        let to = (self.ino(ino_out), fh(fh_out), offset_out);
        let copy = move |fs: &Fs| {
            let copied = fs.copy_file_range(caller, from, to, len.min(COPY_MAX_BYTES))?;
            // At most what was asked for, which fits.
            Ok(usize::try_from(copied).unwrap_or(0))
        };
        if is_past(from.0) {
            return self.run_past("copy_file_range", (req, reply), copy, |reply, copied| {
                answer_written(reply, *copied);
            });
        }
        // What is unwritten of the source goes first, and much that is of the target before more.
        match self.fs.is_flush_slow(from.0) || self.fs.is_flush_slow(to.0) {
            true => self.run_apart("copy_file_range", reply, copy, answer_written),
            false => answer_written(reply, self.run("copy_file_range", copy)),
        }
    }
}
