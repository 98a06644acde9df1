//! Locks between peers: whoever leads those who decide records grants them, and words about them travel
//! as letters do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::Node;
use crate::base::time::sleep;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::base::{DeviceId, PeerId};
use crate::locks::{Manager, Reach, Standing, TICK, Voter};
use crate::log::chain::Message;
use crate::wire::{LockWord, Vector};

/// Words that wait to be read; of more the oldest are lost, and said again.
const WAITING_MAX: usize = 4_096;

/// Reads what is said to the programs of this peer.
type Reader = Arc<dyn Fn(DeviceId, LockWord) + Send + Sync>;

/// Words about locks that came and were not read, and who reads some of them.
#[derive(Default)]
pub(super) struct Words {
    waiting: Mutex<VecDeque<(DeviceId, LockWord)>>,
    wake: Notify,
    reader: RwLock<Option<Reader>>,
    standing: Mutex<Standing>,
}

impl Words {
    /// Takes a word of a member.
    pub(super) fn put(&self, from: DeviceId, word: LockWord) {
        let mut waiting = self.waiting.lock();
        waiting.push_back((from, word));
        if waiting.len() > WAITING_MAX {
            waiting.pop_front();
        }
        self.wake.notify_one();
    }
}

/// The worker that grants locks, while it is this peer's to do.
pub(super) struct Granting {
    node: Arc<Node>,
    manager: Manager,
    voter: Voter,
    next_tick: Duration,
}

impl Granting {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        let now = node.now();
        Self {
            node: Arc::clone(node),
            manager: Manager::default(),
            voter: Voter::new(now, DeviceId::from(node.id)),
            next_tick: now,
        }
    }

    async fn tick(&mut self) {
        let node = Arc::clone(&self.node);
        // The chain may be waiting for the disk.
        let look = move || (node.chain.lead(), node.logs_known());
        let Some(((ballot, voters, is_changing), here)) = self.node.config.pool.call(look).await
        else {
            return;
        };
        let is_alone = self.node.roster().members().len() <= 1;
        let standing = Standing {
            leads: ballot.is_some() && !is_alone,
            round: ballot.map_or(0, |ballot| ballot.round),
            voters,
            is_changing,
        };
        self.manager.tick(self.node.now(), &standing, &here);
        *self.node.locks.standing.lock() = standing;
    }

    fn read(&mut self, from: DeviceId, word: LockWord) {
        let (node, now) = (&self.node, self.node.now());
        match word {
            LockWord::Vouch {
                manager,
                sent_ms,
                voters,
            } => {
                let standing = node.locks.standing.lock().clone();
                let asked = (from, manager, sent_ms);
                if let Some(word) = self.voter.vouch(now, asked, &voters, &standing) {
                    node.say_of_locks(Some(from), word);
                }
            }
            word @ (LockWord::Answer(_) | LockWord::Renewed { .. }) => {
                let reader = node.locks.reader.read().clone();
                if let Some(reader) = reader {
                    reader(from, word);
                }
            }
            word => self.manager.receive(now, from, word),
        }
    }
}

impl Worker for Granting {
    fn job(&self) -> Job {
        Job::new("locks", "grants the locks of programs to machines")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        if self.node.now() >= self.next_tick {
            self.next_tick = self.node.now() + TICK;
            self.tick().await;
        }
        let words = std::mem::take(&mut *self.node.locks.waiting.lock());
        for (from, word) in words {
            self.read(from, word);
        }
        for (to, word) in self.manager.poll() {
            self.node.say_of_locks(Some(to), word);
        }
        Ok(Step::Idle("machines that ask for locks"))
    }

    async fn wait(&mut self) {
        tokio::select! {
            biased;
            () = self.node.locks.wake.notified() => {}
            () = sleep(self.next_tick.saturating_sub(self.node.now())) => {}
        }
    }
}

impl Node {
    /// Sets who reads what is said to the programs of this peer.
    pub fn read_of_locks(&self, reader: impl Fn(DeviceId, LockWord) + Send + Sync + 'static) {
        *self.locks.reader.write() = Some(Arc::new(reader));
    }

    /// Says something about locks to a member, or to all who may grant them; it may be lost.
    pub fn say_of_locks(self: &Arc<Self>, to: Option<DeviceId>, word: LockWord) {
        let all = match to {
            Some(to) => vec![to],
            None => self.locks.standing.lock().voters.clone(),
        };
        let own = DeviceId::from(self.id);
        for to in all {
            match to == own {
                true => self.locks.put(own, word.clone()),
                false => self.post(to, Message::Lock(word.clone())),
            }
        }
    }

    /// Returns whether somebody is to be asked for locks, and is there.
    pub fn lock_reach(&self) -> Reach {
        let roster = self.roster();
        if roster.members().len() <= 1 {
            return Reach::Alone;
        }
        let voters = self.locks.standing.lock().voters.clone();
        let table = self.table.lock();
        let is_here = |device: &&DeviceId| {
            let id: Option<PeerId> = roster.author(**device).map(|author| author.id);
            id.is_some_and(|id| {
                id == self.id
                    || table
                        .peers
                        .get(&id)
                        .is_some_and(|peer| peer.up && peer.session.is_some())
            })
        };
        match voters.iter().filter(is_here).count() > voters.len() / 2 {
            true => Reach::Guarded,
            false => Reach::Cut,
        }
    }

    /// Returns up to where logs go that count, of all that is heard.
    fn logs_known(&self) -> Vector {
        let mut known = self.log.vector();
        {
            let table = self.table.lock();
            for peer in table.peers.values().filter(|peer| peer.session.is_some()) {
                for (log, end) in &peer.vector {
                    let most = known.entry(*log).or_default();
                    *most = (*end).max(*most);
                }
            }
        }
        self.counting(known)
    }
}
