//! Requests that wait for more than this machine's memory, and who asked for them.
//!
//! fuser does not pass on the kernel's INTERRUPT, and the kernel lets nobody go whose request is
//! being answered, SIGKILL or not. So a request that may wait leaves its reply here ([`Waiting::park`])
//! while a thread looks now and then at who asked: it is answered once, by whoever has the result,
//! or with EINTR when its caller is being killed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fuser::{Errno, ReplyData, ReplyEmpty, ReplyWrite};
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::caller::{Caller, Callers};
use crate::base::task;

/// A reply that can say that nothing came of it.
pub(super) trait Refusable: std::fmt::Debug + Send + 'static {
    /// Answers with an errno.
    fn refuse(self, errno: Errno);
}

impl Refusable for ReplyData {
    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Refusable for ReplyEmpty {
    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Refusable for ReplyWrite {
    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

/// The requests that wait; the thread that looks after them ends with it.
#[derive(Debug)]
pub(super) struct Waiting {
    /// `None` where nobody can be looked at.
    callers: Option<Callers>,
    shared: Arc<Shared>,
}

impl Waiting {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let callers = Callers::of_this_machine();
        let shared = Arc::new(Shared::default());
        match callers.clone() {
            Some(callers) => {
                let of_thread = Arc::clone(&shared);
                task::thread("fuse-waiting", move || of_thread.run(&callers))?;
            }
            None => tracing::debug!("/proc shows other processes: a killed caller waits on"),
        }
        Ok(Self { callers, shared })
    }

    /// Takes a reply into keeping; `tid` is the thread that waits for it, as the request says.
    pub(super) fn park<R: Refusable>(&self, tid: u32, reply: R) -> Parked<R> {
        let caller = self.callers.as_ref().and_then(|_| Caller::of(tid));
        self.keep(caller, reply)
    }

    /// Takes a reply into keeping that the caller does not have to wait for: it may end before.
    pub(super) fn park_ahead<R: Refusable>(&self, tid: u32, reply: R) -> Parked<R> {
        let callers = self.callers.as_ref();
        let caller = callers.and_then(|callers| callers.with_process(tid));
        self.keep(caller, reply)
    }

    /// Takes a reply into keeping of a wait that any signal ends.
    pub(super) fn park_for_signals<R: Refusable>(&self, tid: u32, reply: R) -> Parked<R> {
        let caller = self.callers.as_ref().and_then(|_| Caller::of(tid));
        self.keep(caller.map(Caller::heeding_signals), reply)
    }

    fn keep<R: Refusable>(&self, caller: Option<Caller>, reply: R) -> Parked<R> {
        let slot = Arc::new(Slot {
            reply: Mutex::new(Some(reply)),
            given_up: Notify::new(),
        });
        let watched = caller.map(|caller| {
            let slot: Arc<dyn GiveUp> = Arc::<Slot<R>>::clone(&slot);
            self.shared.add(Watched { caller, slot })
        });
        Parked {
            slot,
            watched,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut table = self.shared.table.lock();
        table.closed = true;
        self.shared.wake.notify_one();
    }
}

/// A reply in keeping. Dropped unanswered, it says EIO, as fuser does for every reply.
#[derive(Debug)]
pub(super) struct Parked<R: Refusable> {
    slot: Arc<Slot<R>>,
    /// Its number in the table, where there is a caller to look at.
    watched: Option<u64>,
    shared: Arc<Shared>,
}

impl<R: Refusable> Parked<R> {
    /// Answers, unless the caller was given up.
    pub(super) fn answer(self, answer: impl FnOnce(R)) {
        let reply = self.slot.reply.lock().take();
        if let Some(reply) = reply {
            answer(reply);
        }
    }

    /// Says whether it can be seen that nobody waits any more.
    pub(super) fn is_seen(&self) -> bool {
        self.watched.is_some()
    }

    /// Resolves when the caller was given up: there is nobody left to work for.
    pub(super) async fn given_up(&self) {
        let given_up = self.slot.given_up.notified();
        if self.slot.reply.lock().is_some() {
            given_up.await;
        }
    }
}

impl<R: Refusable> Drop for Parked<R> {
    fn drop(&mut self) {
        if let Some(number) = self.watched {
            self.shared.table.lock().watched.remove(&number);
        }
    }
}

#[derive(Debug)]
struct Slot<R> {
    /// Taken by the one who answers.
    reply: Mutex<Option<R>>,
    given_up: Notify,
}

/// A slot of whatever kind of reply.
trait GiveUp: std::fmt::Debug + Send + Sync {
    fn give_up(&self);
}

impl<R: Refusable> GiveUp for Slot<R> {
    fn give_up(&self) {
        let reply = self.reply.lock().take();
        if let Some(reply) = reply {
            reply.refuse(Errno::EINTR);
            self.given_up.notify_waiters();
        }
    }
}

#[derive(Debug)]
struct Watched {
    caller: Caller,
    slot: Arc<dyn GiveUp>,
}

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    /// There is somebody to look at, or the table was closed.
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    watched: BTreeMap<u64, Watched>,
    /// The thread waits to be woken; else it looks at the table by itself soon.
    asleep: bool,
    closed: bool,
}

impl Shared {
    fn add(&self, watched: Watched) -> u64 {
        let mut table = self.table.lock();
        let number = table.next;
        table.next += 1;
        table.watched.insert(number, watched);
        if table.asleep {
            table.asleep = false;
            self.wake.notify_one();
        }
        number
    }

    fn run(&self, callers: &Callers) {
        while self.pause() {
            let seen: Vec<(u64, Caller)> = {
                let table = self.table.lock();
                let watched = table.watched.iter();
                watched.map(|(number, one)| (*number, one.caller)).collect()
            };
            for (number, mut caller) in seen {
                let is_doomed = callers.is_doomed(&mut caller);
                let slot = {
                    let mut table = self.table.lock();
                    // Answered meanwhile, where it is not there any more.
                    let Some(watched) = table.watched.get_mut(&number) else {
                        continue;
                    };
                    watched.caller = caller;
                    is_doomed.then(|| Arc::clone(&watched.slot))
                };
                if let Some(slot) = slot {
                    tracing::debug!(?caller, "a caller was killed while it waited");
                    slot.give_up();
                }
            }
        }
    }

    /// Waits until it is time for a look; returns false when the table was closed.
    ///
    /// A request is not looked at before it has waited for a while, so that the many that are
    /// answered soon cost no look, and no waking either while there is one after another.
    fn pause(&self) -> bool {
        let mut table = self.table.lock();
        if table.watched.is_empty() {
            table.asleep = true;
            while table.asleep && !table.closed {
                self.wake.wait(&mut table);
            }
        }
        if !table.closed {
            self.wake.wait_for(&mut table, LOOK_EVERY);
        }
        !table.closed
    }
}

/// Between two looks: a killed process is gone within a second, with two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::sync::mpsc;

    /// Tells how it was answered.
    #[derive(Debug)]
    struct Probe(mpsc::Sender<Result<(), Errno>>);

    impl Refusable for Probe {
        fn refuse(self, errno: Errno) {
            self.0.send(Err(errno)).unwrap();
        }
    }

    fn probe() -> (Probe, mpsc::Receiver<Result<(), Errno>>) {
        let (sender, receiver) = mpsc::channel();
        (Probe(sender), receiver)
    }

    fn succeed(probe: Probe) {
        probe.0.send(Ok(())).unwrap();
    }

    #[test]
    fn an_answer_is_given_once_by_whoever_has_it() {
        let waiting = Waiting::start().unwrap();
        for tid in [0, std::process::id()] {
            let (reply, answers) = probe();
            let parked = waiting.park(tid, reply);
            parked.answer(succeed);
            let all: Vec<_> = answers.iter().collect();
            assert!(matches!(all[..], [Ok(())]), "{all:?}");
        }
        assert!(waiting.shared.table.lock().watched.is_empty());
    }

    #[tokio::test]
    async fn a_caller_that_ended_is_given_up() {
        let waiting = Waiting::start().unwrap();
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (reply, answers) = probe();
        let parked = waiting.park_ahead(child.id(), reply);
        child.kill().unwrap();
        let answer = answers.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(matches!(answer, Err(Errno::EINTR)), "{answer:?}");
        parked.given_up().await;
        parked.answer(succeed);
        assert!(answers.recv().is_err(), "answered twice");
        child.wait().unwrap();
    }
}
