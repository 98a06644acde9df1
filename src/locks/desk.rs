//! Where the programs of a machine ask for locks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::client::{Client, Effect, Outcome, Reach};
use super::held::Ask;
use crate::base::{Clock, DeviceId, Ino, LogId};
use crate::wire::{LockHow, LockKey, LockRange, LockWord};

/// Locks of one kind do not stand against those of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockSpace {
    /// Those of flock(2).
    Whole,
    /// Those of fcntl(2), of processes and of open files.
    Record,
}

/// The answer to who asks for a lock.
#[derive(Debug)]
pub enum Answer {
    /// It is decided.
    Now(Outcome),
    /// It will be.
    Later {
        /// For [`Desk::cancel`].
        ticket: u64,
        /// Tells what became of it.
        outcome: oneshot::Receiver<Outcome>,
    },
}

/// Returns the key of a file.
type Keys = Box<dyn Fn(LockSpace, Ino) -> LockKey + Send>;

/// Takes what programs ask, from any thread, and never waits.
pub struct Desk {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Files that are known here.
    known: AtomicUsize,
    /// There is something to do.
    wake: Notify,
}

struct State {
    client: Client,
    keys: Keys,
    /// A file has one key for as long as anything is known of it here, whatever it is one with by then.
    known: HashMap<(LockSpace, Ino), LockKey>,
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
    effects: Vec<Effect>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

impl Desk {
    /// Returns one of a machine that is alone.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::new(State {
                client: Client::new(0),
                keys: Box::new(|space, ino| {
                    let mut key = [0; 16];
                    let (head, tail) = key.split_at_mut(8);
                    head.copy_from_slice(&ino.0.to_le_bytes());
                    tail.fill(u8::from(space == LockSpace::Whole));
                    LockKey(key)
                }),
                known: HashMap::new(),
                waiting: HashMap::new(),
                effects: Vec::new(),
            }),
            known: AtomicUsize::new(0),
            wake: Notify::new(),
        }
    }

    /// Sets which run this is, and by which keys others know files; to be called before anybody asks.
    pub fn open(&self, run: u64, keys: impl Fn(LockSpace, Ino) -> LockKey + Send + 'static) {
        let mut state = self.state.lock();
        state.client.set_run(run);
        state.keys = Box::new(keys);
    }

    /// Sets whether locks fail where nobody grants them.
    pub fn set_strict(&self, is_strict: bool) {
        self.state.lock().client.set_strict(is_strict);
    }

    /// Asks for a lock; the key of `ask` is looked up.
    pub fn ask(&self, space: LockSpace, ino: Ino, ask: Ask) -> Answer {
        let state = &mut *self.state.lock();
        let keys = &state.keys;
        let known = state.known.entry((space, ino));
        let key = *known.or_insert_with(|| keys(space, ino));
        let ask = Ask {
            key,
            can_deadlock: space == LockSpace::Record,
            ..ask
        };
        if space == LockSpace::Whole && ask.how != LockHow::Test {
            let now = self.clock.monotonic();
            state
                .client
                .convert(now, key, ask.owner, ask.range.exclusive);
        }
        let answer = match state.client.ask(self.clock.monotonic(), ask) {
            Ok(outcome) => Answer::Now(outcome),
            Err(ticket) => {
                let (sender, outcome) = oneshot::channel();
                state.waiting.insert(ticket, sender);
                Answer::Later { ticket, outcome }
            }
        };
        self.settle(state);
        answer
    }

    /// Gives a range back.
    pub fn unlock(&self, space: LockSpace, ino: Ino, owner: u64, range: LockRange) {
        self.with(space, ino, |client, now, key| {
            client.unlock(now, key, owner, range);
        });
    }

    /// Gives back what a process has locked by fcntl(2): it closes one of its handles.
    pub fn close_of(&self, ino: Ino, owner: u64) {
        self.with(LockSpace::Record, ino, |client, now, key| {
            client.unlock_owner(now, key, owner);
        });
    }

    /// Gives back what was locked through a handle: nobody has it any more.
    pub fn close(&self, handle: u64) {
        if self.known.load(Ordering::Acquire) > 0 {
            let state = &mut *self.state.lock();
            state.client.close(self.clock.monotonic(), handle);
            self.settle(state);
        }
    }

    /// Gives up waiting; false where it is decided already.
    pub fn cancel(&self, ticket: u64) -> bool {
        let state = &mut *self.state.lock();
        let is_waiting = state.client.cancel(self.clock.monotonic(), ticket);
        if is_waiting {
            state.waiting.remove(&ticket);
        }
        self.settle(state);
        is_waiting
    }

    /// Says whether some of a file are locked by fcntl(2) here.
    pub fn has_records(&self, ino: Ino) -> bool {
        let mut has = false;
        self.with(LockSpace::Record, ino, |client, _, key| {
            has = client.is_locked(key);
        });
        has
    }

    /// Does what is due, as things are with the others.
    pub fn tick(&self, reach: Reach) {
        let state = &mut *self.state.lock();
        state.client.tick(self.clock.monotonic(), reach);
        let client = &state.client;
        state.known.retain(|_, key| !client.is_unknown(*key));
        self.settle(state);
    }

    /// Takes what who grants locks says.
    pub fn receive(&self, from: DeviceId, word: LockWord) {
        let state = &mut *self.state.lock();
        state.client.receive(self.clock.monotonic(), from, word);
        self.settle(state);
    }

    /// Says that all is handed over that was written before it was asked for.
    pub fn published(&self, head: Option<(LogId, u64)>) {
        let state = &mut *self.state.lock();
        state.client.published(self.clock.monotonic(), head);
        self.settle(state);
    }

    /// Says which are folded, and the kernel knows; and which are not to be had.
    pub fn folded(&self, done: &BTreeMap<LogId, u64>, gone: &BTreeMap<LogId, u64>) {
        let state = &mut *self.state.lock();
        let now = self.clock.monotonic();
        state.client.folded(now, done, gone);
        self.settle(state);
    }

    /// Returns of how many files locks are of this machine alone although there are others, and of how many
    /// another machine has locks that are held here, too.
    pub fn told(&self) -> (usize, usize) {
        self.state.lock().client.told(self.clock.monotonic())
    }

    /// Returns what is to be done.
    pub fn effects(&self) -> Vec<Effect> {
        std::mem::take(&mut self.state.lock().effects)
    }

    /// Resolves when there may be something to do.
    pub async fn work(&self) {
        self.wake.notified().await;
    }

    fn with(
        &self,
        space: LockSpace,
        ino: Ino,
        change: impl FnOnce(&mut Client, std::time::Duration, LockKey),
    ) {
        if self.known.load(Ordering::Acquire) == 0 {
            return;
        }
        let state = &mut *self.state.lock();
        if let Some(key) = state.known.get(&(space, ino)).copied() {
            change(&mut state.client, self.clock.monotonic(), key);
            if state.client.is_unknown(key) {
                state.known.remove(&(space, ino));
            }
            self.settle(state);
        }
    }

    /// Answers who waits, and leaves the rest to who works.
    fn settle(&self, state: &mut State) {
        for effect in state.client.poll() {
            match effect {
                Effect::Done { ticket, outcome } => {
                    if let Some(waiting) = state.waiting.remove(&ticket) {
                        // Who is gone cancels, or gives back what was granted.
                        let _ = waiting.send(outcome);
                    }
                }
                effect => state.effects.push(effect),
            }
        }
        self.known.store(state.known.len(), Ordering::Release);
        if !state.effects.is_empty() {
            self.wake.notify_one();
        }
    }
}
