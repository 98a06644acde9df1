//! Locks of programs: what the kernel asks, and whom it asks to wait.

use std::sync::Arc;
use std::time::Duration;

use fuser::{Errno, FileHandle, INodeNo, LockOwner, ReplyEmpty, ReplyLock, Request};

use super::skin::Skin;
use super::waiting::{Parked, Refusable};
use crate::base::task;
use crate::base::time::{sleep, timeout};
use crate::fs::Fs;
use crate::locks::{Answer, Ask, LockSpace, Outcome};
use crate::wire::{LockHow, LockRange};

/// How long a lock is waited for by who cannot be seen, and so could not be interrupted: fuser answers the
/// kernel's INTERRUPT by itself, with ENOSYS, and the kernel sends none any more.
const UNSEEN_MAX: Duration = Duration::from_secs(60);

/// A lock as the kernel asks for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    handle: FileHandle,
    owner: LockOwner,
    start: u64,
    end: u64,
    kind: i32,
    pid: u32,
}

impl Asked {
    /// Returns what `pid` asks by a handle for an owner: some bytes, of which the last is named.
    pub(super) fn new(
        (handle, owner, pid): (FileHandle, LockOwner, u32),
        (start, end): (u64, u64),
        kind: i32,
    ) -> Self {
        Self {
            handle,
            owner,
            start,
            end,
            kind,
            pid,
        }
    }

    fn range(&self) -> LockRange {
        LockRange {
            start: self.start,
            end: self.end,
            exclusive: self.kind == libc::F_WRLCK,
        }
    }

    fn ask(&self, how: LockHow) -> Ask {
        Ask::new(self.owner.0, self.handle.0, self.pid, self.range(), how)
    }

    /// Says of which kind the lock is. The kernel tells it in a field that fuser does not pass on; it
    /// stands behind those that it does, in the buffer in which the request came. Where these are not
    /// found there, nothing is known.
    #[expect(unsafe_code, reason = "fuser keeps the flags of a lock to itself")]
    fn space(&self, req: &Request) -> LockSpace {
        let header = std::ptr::from_ref(req).cast::<u8>();
        // SAFETY: a request is its header, which fuser borrows from the buffer into which it was read,
        // and the kernel writes a whole `struct fuse_lk_in` of 48 bytes behind that of each request
        // for a lock; bytes are read, of which any value is valid.
        let body: [u8; LOCK_BYTES] = unsafe {
            header
                .add(HEADER_BYTES)
                .cast::<[u8; LOCK_BYTES]>()
                .read_unaligned()
        };
        let word = |at: usize| {
            let bytes = body.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_ne_bytes)
        };
        let known = [self.handle.0, self.owner.0, self.start, self.end];
        let is_it = (0..)
            .step_by(8)
            .map(word)
            .zip(known)
            .all(|(found, known)| found == known);
        match is_it && word(FLAGS_AT) & LK_FLOCK != 0 {
            true => LockSpace::Whole,
            false => LockSpace::Record,
        }
    }
}

/// `struct fuse_in_header`, `struct fuse_lk_in`, and its field `lk_flags` (include/uapi/linux/fuse.h).
const HEADER_BYTES: usize = 40;
const LOCK_BYTES: usize = 48;
const FLAGS_AT: usize = 40;
const LK_FLOCK: u64 = 1;

/// How long a release may take that was sent before.
const RELEASE_TIME: Duration = Duration::from_millis(20);

impl Refusable for ReplyLock {
    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Skin {
    /// Sets or gives back a lock.
    pub(super) fn set_lock(
        &self,
        (number, req): (INodeNo, &Request),
        asked: Asked,
        waits: bool,
        reply: ReplyEmpty,
    ) {
        let (ino, space) = (self.numbers.ino(number), asked.space(req));
        if asked.kind == libc::F_UNLCK {
            self.fs
                .locks()
                .unlock(space, ino, asked.owner.0, asked.range());
            return reply.ok();
        }
        let how = if waits { LockHow::Wait } else { LockHow::Try };
        let ask = asked.ask(how);
        let answer = self.fs.locks().ask(space, ino, ask);
        // close(2) waits for no release, by which flock(2) locks go: who had it may have closed it already.
        let may_go = space == LockSpace::Whole && !waits;
        match answer {
            Answer::Now(outcome) if !(may_go && matches!(outcome, Outcome::Refused { .. })) => {
                answer_set(reply, outcome);
            }
            answer => {
                let parked = self.waiting.park_for_signals(req.pid(), reply);
                let fs = Arc::clone(&self.fs);
                let _context = self.runtime.enter();
                task::spawn(async move {
                    let answer = match answer {
                        Answer::Now(_) => {
                            sleep(RELEASE_TIME).await;
                            fs.locks().ask(space, ino, ask)
                        }
                        answer => answer,
                    };
                    let decided = match answer {
                        Answer::Now(outcome) => Some(outcome),
                        Answer::Later { ticket, outcome } => {
                            decided(&fs, &parked, ticket, outcome).await
                        }
                    };
                    let mut is_told = false;
                    parked.answer(|reply| {
                        is_told = true;
                        answer_set(reply, decided.unwrap_or(Outcome::Unavailable));
                    });
                    // Who was interrupted in that moment has no lock.
                    if !is_told && decided == Some(Outcome::Granted) {
                        fs.locks().unlock(space, ino, ask.owner, ask.range);
                    }
                });
            }
        }
    }

    /// Tells what is in the way of a lock.
    pub(super) fn test_lock(
        &self,
        (number, req): (INodeNo, &Request),
        asked: Asked,
        reply: ReplyLock,
    ) {
        let ino = self.numbers.ino(number);
        let ask = asked.ask(LockHow::Test);
        match self.fs.locks().ask(LockSpace::Record, ino, ask) {
            Answer::Now(outcome) => answer_test(reply, outcome),
            Answer::Later { ticket, outcome } => {
                let parked = self.waiting.park_for_signals(req.pid(), reply);
                let fs = Arc::clone(&self.fs);
                let _context = self.runtime.enter();
                task::spawn(async move {
                    let decided = decided(&fs, &parked, ticket, outcome).await;
                    parked.answer(|reply| {
                        answer_test(reply, decided.unwrap_or(Outcome::Unavailable));
                    });
                });
            }
        }
    }
}

/// Waits until it is decided what becomes of a lock; `None` where nobody waits for it any more.
async fn decided<R: Refusable>(
    fs: &Fs,
    parked: &Parked<R>,
    ticket: u64,
    mut outcome: tokio::sync::oneshot::Receiver<Outcome>,
) -> Option<Outcome> {
    let limit = if parked.is_seen() {
        Duration::MAX
    } else {
        UNSEEN_MAX
    };
    let decided = async {
        tokio::select! {
            biased;
            decided = &mut outcome => decided.ok(),
            () = parked.given_up() => None,
        }
    };
    if let Ok(Some(decided)) = timeout(limit, decided).await {
        return Some(decided);
    }
    match fs.locks().cancel(ticket) {
        true => None,
        false => outcome.await.ok(),
    }
}

fn answer_set(reply: ReplyEmpty, outcome: Outcome) {
    match outcome {
        Outcome::Granted => reply.ok(),
        Outcome::Refused { .. } => reply.error(Errno::EAGAIN),
        Outcome::Deadlock => reply.error(Errno::EDEADLK),
        Outcome::Unavailable => reply.error(Errno::ENOLCK),
    }
}

fn answer_test(reply: ReplyLock, outcome: Outcome) {
    match outcome {
        Outcome::Granted => reply.locked(0, 0, libc::F_UNLCK, 0),
        Outcome::Refused { range, pid } => {
            let kind = if range.exclusive {
                libc::F_WRLCK
            } else {
                libc::F_RDLCK
            };
            // The kernel knows no greater offset.
            let end = range.end.min(i64::MAX.unsigned_abs());
            reply.locked(range.start, end, kind, pid);
        }
        Outcome::Deadlock | Outcome::Unavailable => reply.error(Errno::ENOLCK),
    }
}
