//! Requests about what the volume was: names and attributes of then may be on other peers. So they are answered
//! by threads of their own, and keep nobody waiting who asks for what there is now. Who asked may be killed
//! meanwhile.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{
    Errno, FileHandle, FopenFlags, INodeNo, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEntry, ReplyLseek, ReplyOpen, ReplyXattr, Request,
};

use super::answer::{answer_attr, answer_data, answer_entry, answer_xattr, run};
use super::convert::{caller, open_flags};
use super::listing::{self, Listed};
use super::running::read_parked;
use super::skin::Skin;
use super::waiting::Refusable;
use crate::base::Ino;
use crate::fs::{self, Entry, Fs, FsError, Opened, ReadPlan};
use crate::volume::{is_fleeting, is_past};

/// Threads that wait for peers at a time.
pub(super) const THREADS: usize = 4;

/// Requests that wait for a thread before who reads them waits, too.
pub(super) const QUEUE_MAX: usize = 1024;

macro_rules! refusable {
    ($($reply:ty),*) => {$(
        impl Refusable for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}

refusable!(
    ReplyEntry,
    ReplyAttr,
    ReplyOpen,
    ReplyXattr,
    ReplyLseek,
    ReplyDirectory,
    ReplyDirectoryPlus
);

impl Skin {
    /// Returns the inode that a request is about, where that is of the past.
    pub(super) fn of_past(&self, number: INodeNo) -> Option<Ino> {
        let ino = self.ino(number);
        is_past(ino).then_some(ino)
    }

    /// Runs an operation that may wait for peers, and answers.
    pub(super) fn run_past<R: Refusable, T: 'static>(
        &self,
        what: &'static str,
        asked: (&Request, R),
        operation: impl FnOnce(&Fs) -> Result<T, FsError> + Send + 'static,
        answer: impl FnOnce(R, &Result<T, Errno>) + Send + 'static,
    ) {
        self.run_past_or_undo(what, asked, operation, answer, |_, _| {});
    }

    /// Runs an operation as [`Skin::run_past`] does; where who asked was killed meanwhile, `undo` takes back what
    /// the kernel will never hear of.
    fn run_past_or_undo<R: Refusable, T: 'static>(
        &self,
        what: &'static str,
        (req, reply): (&Request, R),
        operation: impl FnOnce(&Fs) -> Result<T, FsError> + Send + 'static,
        answer: impl FnOnce(R, &Result<T, Errno>) + Send + 'static,
        undo: impl FnOnce(&Fs, T) + Send + 'static,
    ) {
        let fs = Arc::clone(&self.fs);
        let parked = self.waiting.park(req.pid(), reply);
        self.past.run(move || {
            let outcome = run(&fs, what, operation);
            let mut is_told = false;
            parked.answer(|reply| {
                is_told = true;
                answer(reply, &outcome);
            });
            if let (false, Ok(value)) = (is_told, outcome) {
                undo(&fs, value);
            }
        });
    }

    pub(super) fn lookup_past(&self, req: &Request, parent: Ino, name: &OsStr, reply: ReplyEntry) {
        let (numbers, name) = (self.numbers.clone(), name.as_bytes().to_vec());
        self.run_past_or_undo(
            "lookup",
            (req, reply),
            move |fs| fs.lookup(parent, &name),
            move |reply, found: &Result<Entry, Errno>| answer_entry(&numbers, reply, *found),
            |fs, entry| fs.forget(entry.attr.ino, 1),
        );
    }

    pub(super) fn getattr_past(&self, req: &Request, ino: Ino, reply: ReplyAttr) {
        let numbers = self.numbers.clone();
        self.run_past(
            "getattr",
            (req, reply),
            move |fs| fs.getattr(ino),
            move |reply, found| answer_attr(&numbers, reply, found.as_ref().map_err(|e| *e)),
        );
    }

    pub(super) fn readlink_past(&self, req: &Request, ino: Ino, reply: ReplyData) {
        self.run_past(
            "readlink",
            (req, reply),
            move |fs| fs.readlink(ino),
            |reply, target| match target {
                Ok(target) => reply.data(target),
                Err(errno) => reply.error(*errno),
            },
        );
    }

    pub(super) fn open_past(
        &self,
        (req, reply): (&Request, ReplyOpen),
        ino: Ino,
        flags: fs::OpenFlags,
    ) {
        let (caller, is_direct) = (caller(req, 0), self.direct_io);
        self.run_past_or_undo(
            "open",
            (req, reply),
            move |fs| fs.open(caller, ino, flags),
            move |reply, opened| {
                let flags = |opened: &Opened| match is_direct {
                    true => FopenFlags::FOPEN_DIRECT_IO,
                    false => open_flags(opened.keep_cache),
                };
                answer_opened(reply, opened, flags);
            },
            move |fs, opened| drop(fs.release(ino, opened.fh)),
        );
    }

    pub(super) fn opendir_past(&self, (req, reply): (&Request, ReplyOpen), ino: Ino) {
        self.run_past_or_undo(
            "opendir",
            (req, reply),
            move |fs| fs.opendir(ino),
            move |reply, opened| {
                let flags = |_: &Opened| match is_fleeting(ino) {
                    true => FopenFlags::empty(),
                    false => FopenFlags::FOPEN_CACHE_DIR,
                };
                answer_opened(reply, opened, flags);
            },
            move |fs, opened| drop(fs.releasedir(ino, opened.fh)),
        );
    }

    pub(super) fn read_past(
        &self,
        req: &Request,
        (ino, handle): (Ino, fs::FileHandle),
        (offset, size): (u64, u32),
        reply: ReplyData,
    ) {
        let (fs, runtime) = (Arc::clone(&self.fs), self.runtime.clone());
        let parked = self.waiting.park_ahead(req.pid(), reply);
        self.past.run(move || {
            let plan = run(&fs, "read", |fs| {
                fs.read(ino, handle, offset, size as usize)
            });
            match plan {
                Ok(ReadPlan::Ready(pieces)) => {
                    parked.answer(|reply| answer_data(reply, &pieces));
                }
                Ok(ReadPlan::Wait(pending)) => read_parked(&runtime, pending, parked),
                Err(errno) => parked.answer(|reply| reply.error(errno)),
            }
        });
    }

    /// Lists a folder, with attributes (`plus`) or without: first to have here what is listed, then into the reply.
    pub(super) fn list_past<R: Refusable>(
        &self,
        is_plus: bool,
        (req, reply): (&Request, R),
        (ino, handle, offset): (Ino, fs::FileHandle, u64),
        list: impl FnOnce(Listed<'_>, R) + Send + 'static,
    ) {
        let (numbers, fs) = (self.numbers.clone(), Arc::clone(&self.fs));
        let parked = self.waiting.park(req.pid(), reply);
        self.past.run(move || {
            let listed = Listed {
                fs: &fs,
                numbers: &numbers,
                dir: ino,
                fh: handle,
                offset,
            };
            let warmed = run(&fs, "readdir", |_| listing::warm(listed, is_plus));
            parked.answer(|reply| match warmed {
                Ok(()) => list(listed, reply),
                Err(errno) => reply.refuse(errno),
            });
        });
    }

    pub(super) fn xattr_past<T: AsRef<[u8]> + 'static>(
        &self,
        asked: (&Request, ReplyXattr),
        room: u32,
        read: impl FnOnce(&Fs) -> Result<T, FsError> + Send + 'static,
    ) {
        self.run_past("getxattr", asked, read, move |reply, value| {
            let value = value.as_ref().map(AsRef::as_ref).map_err(|errno| *errno);
            answer_xattr(reply, room, value);
        });
    }
}

fn answer_opened(
    reply: ReplyOpen,
    opened: &Result<Opened, Errno>,
    flags: impl FnOnce(&Opened) -> FopenFlags,
) {
    match opened {
        Ok(opened) => reply.opened(FileHandle(opened.fh.0), flags(opened)),
        Err(errno) => reply.error(*errno),
    }
}
