//! Where an operation runs: on the thread that read the request, on the pool for the disk, or with the
//! runtime, where it waits for peers.

use std::sync::Arc;
use std::time::Duration;

use fuser::{Errno, ReplyData, Request};
use tokio::runtime::Handle;

use super::answer::{answer_data, failure, run};
use super::skin::Skin;
use super::waiting::{Parked, Refusable};
use crate::base::{Ino, task};
use crate::fs::{Fs, FsError, PendingRead};

/// How long a read may take whose bytes keep coming: a request of the kernel is at most two chunks,
/// which take three minutes at 128 kbit/s. `fs` ends it where nothing comes.
const READ_MAX: Duration = Duration::from_secs(3600);

impl Skin {
    /// Runs one operation on this thread; a panic in it fails this operation alone.
    pub(super) fn run<T>(
        &self,
        what: &'static str,
        operation: impl FnOnce(&Fs) -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        run(&self.fs, what, operation)
    }

    /// Runs an operation on one file that promises durability, and so waits for the disk.
    ///
    /// That is done on the pool, unless the wait is short. Where other holders are part of the
    /// promise, the answer comes when they have it, too; but nobody waits for them on a thread of
    /// the pool: those who wait for the disk alone would wait behind.
    pub(super) fn run_durably<R: Refusable, T: Send + 'static>(
        &self,
        what: &'static str,
        (number, req): (Ino, &Request),
        reply: R,
        operation: impl FnOnce(&Fs) -> Result<T, FsError> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) {
        if self.pace.is_wait_short()
            && !self.fs.is_flush_slow(number)
            && !self.fs.waits_for_holders()
        {
            let outcome = self.pace.measure(|| run(&self.fs, what, operation));
            return answer(reply, outcome);
        }
        let (fs, runtime) = (Arc::clone(&self.fs), self.runtime.clone());
        let pace = Arc::clone(&self.pace);
        let parked = self.waiting.park(req.pid(), reply);
        self.disk.run(move || {
            let outcome = pace.measure(|| run(&fs, what, operation));
            let replicated = fs.replicated().filter(|_| outcome.is_ok());
            let Some(replicated) = replicated else {
                return parked.answer(|reply| answer(reply, outcome));
            };
            let _context = runtime.enter();
            task::spawn(async move {
                let replicated = tokio::select! {
                    replicated = replicated => replicated,
                    () = parked.given_up() => return,
                };
                let outcome = match replicated {
                    Ok(()) => outcome,
                    Err(error) => Err(failure(what, &error)),
                };
                parked.answer(|reply| answer(reply, outcome));
            });
        });
    }

    /// Runs an operation that takes longer than others are to wait, on the pool. It waits for no peer
    /// and for no flush of the disk, so it is no wait to give up.
    pub(super) fn run_apart<R: Send + 'static, T: 'static>(
        &self,
        what: &'static str,
        reply: R,
        operation: impl FnOnce(&Fs) -> Result<T, FsError> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) {
        let fs = Arc::clone(&self.fs);
        self.disk
            .run(move || answer(reply, run(&fs, what, operation)));
    }

    /// Tells whether to cut a file is more than others are to wait for.
    pub(super) fn is_cut_slow(&self, number: Ino, size: u64) -> bool {
        self.fs.is_flush_slow(number) || self.fs.is_cut_long(number, size).unwrap_or(false)
    }

    /// Answers a read when its bytes have come. `fs` bounds the wait; the bound here is for a `fs`
    /// that does not, since a reply that never comes makes a process that waits for ever.
    pub(super) fn read_later(&self, req: &Request, pending: PendingRead, reply: ReplyData) {
        let parked = self.waiting.park_ahead(req.pid(), reply);
        read_parked(&self.runtime, pending, parked);
    }
}

/// Answers a read whose reply is in keeping as [`Skin::read_later`] does.
pub(super) fn read_parked(runtime: &Handle, pending: PendingRead, parked: Parked<ReplyData>) {
    let _context = runtime.enter();
    task::spawn(async move {
        let outcome = tokio::select! {
            outcome = crate::base::time::timeout(READ_MAX, pending.complete()) => outcome,
            () = parked.given_up() => return,
        };
        let outcome = outcome.unwrap_or(Err(FsError::TimedOut));
        parked.answer(|reply| match outcome {
            Ok(pieces) => answer_data(reply, &pieces),
            Err(error) => reply.error(failure("read", &error)),
        });
    });
}
