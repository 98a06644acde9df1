//! The background push: one worker for each linked peer, which works off that peer's queue.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::ledger::{FIRST, after};
use super::limits::{
    ASKED_PAUSE, BACKOFF, FAST_BYTES_PER_SECOND, FULL_BACKOFF, HOLD_BATCH, HOLD_TIMEOUT,
    PUT_BATCH_BYTES, PUT_BATCH_CHUNKS, PUT_LANES, PUT_TIMEOUT, SLOW_BATCH_BYTES,
};
use super::mend::Mend;
use super::peers::{Answer, Ask, AskError, PutOutcome};
use super::recheck::Recheck;
use super::{Peers, Replica, ReplicaError};
use crate::base::task::spawn;
use crate::base::time::{Backoff, sleep};
use crate::base::told::Changes;
use crate::base::worker::{Failed, Job, Step, Worker, Workers};
use crate::base::{ChunkId, PeerId};
use crate::node::{NodeEvent, Transfer};
use crate::transport::Priority;

/// How a pass over the queue of a peer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// The queue was read to its end.
    Done,
    /// The peer has no room.
    Full,
    /// The queue was read to its end, but for what the peer is fetching by itself.
    Asked,
    /// The peer did not answer, or not usefully.
    Failed,
}

/// The worker that follows sessions and the roster: who is to hold what, and who is pushed to.
struct Links {
    replica: Arc<Replica>,
    peers: Arc<dyn Peers>,
    events: Receiver<NodeEvent>,
    workers: Arc<Workers>,
    pushing: BTreeMap<PeerId, Task>,
    /// The peer that came or went.
    moved: Option<PeerId>,
    is_closed: bool,
}

impl Links {
    /// Starts workers for linked peers that have none, and ends those of the others.
    fn employ(&mut self) {
        let links = self.peers.links();
        let is_linked = |peer: &PeerId| links.iter().any(|link| link.peer == *peer);
        self.pushing.retain(|peer, _| is_linked(peer));
        for link in &links {
            self.pushing.entry(link.peer).or_insert_with(|| {
                let push = Push::new(&self.replica, &self.peers, link.peer);
                Task(spawn(self.workers.run(push)))
            });
        }
    }
}

impl Worker for Links {
    fn job(&self) -> Job {
        Job::new("links", "sees who is to hold what as peers come and go")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        if self.is_closed {
            return Ok(Step::Over);
        }
        // A session that was replaced gets a new worker, without the old one's pause.
        if let Some(peer) = self.moved.take() {
            self.pushing.remove(&peer);
            self.replica.crossing.forget(peer);
            self.replica.mend.notify_one();
        }
        // Who waits for the swarm in a fetch, or shows progress, looks anew.
        self.replica.changed();
        self.replica.refresh_view();
        self.employ();
        Ok(Step::Idle("a peer to come or go"))
    }

    async fn wait(&mut self) {
        loop {
            match self.events.recv().await {
                Ok(NodeEvent::PeerUp(peer) | NodeEvent::PeerDown(peer)) => {
                    self.moved = Some(peer);
                    return;
                }
                Ok(NodeEvent::RosterChanged) | Err(RecvError::Lagged(_)) => return,
                Ok(_) => {}
                Err(RecvError::Closed) => {
                    self.is_closed = true;
                    return;
                }
            }
        }
    }
}

/// The worker that works off the queue of a peer.
struct Push {
    replica: Arc<Replica>,
    peers: Arc<dyn Peers>,
    peer: PeerId,
    changes: Changes,
    /// How long it pauses before the next pass; `None` where it waits for something to send.
    pause: Option<Duration>,
    /// How long the peer is left alone that fetches by itself.
    asked: Backoff,
}

impl Push {
    fn new(replica: &Arc<Replica>, peers: &Arc<dyn Peers>, peer: PeerId) -> Self {
        Self {
            replica: Arc::clone(replica),
            peers: Arc::clone(peers),
            peer,
            changes: replica.watch(),
            pause: None,
            asked: Backoff::new(BACKOFF.0, ASKED_PAUSE),
        }
    }
}

impl Worker for Push {
    fn job(&self) -> Job {
        let job = Job::new("push", "sends the peer the chunks that it is to hold");
        job.of(self.peer).again(BACKOFF.0, BACKOFF.1)
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        self.changes.mark_unchanged();
        self.pause = None;
        let (replica, peer) = (&self.replica, self.peer);
        let before = replica.ledger.queue(&peer);
        if before.count == 0 {
            return Ok(Step::Idle("chunks to send"));
        }
        match replica.pass(&self.peers, peer).await? {
            Pass::Done if replica.ledger.queue(&peer) != before => {
                self.asked.reset();
                Ok(Step::Busy)
            }
            Pass::Done => Err(Failed::new("the peer takes nothing of what waits for it")),
            Pass::Failed => Err(Failed::new("the peer does not answer as it should")),
            Pass::Full => {
                self.pause = Some(FULL_BACKOFF);
                Ok(Step::Idle("room at the peer"))
            }
            Pass::Asked => {
                self.pause = Some(self.asked.failed());
                Ok(Step::Idle("the peer, which fetches by itself"))
            }
        }
    }

    async fn wait(&mut self) {
        match self.pause {
            Some(pause) => sleep(pause).await,
            None => self.changes.changed().await,
        }
    }
}

impl Replica {
    /// Pushes what is pending to its holders until the future is dropped; returns at once where
    /// this peer is alone.
    ///
    /// One worker pushes to each peer with a session, one fetches what the disk lost, one checks what is held
    /// when others are to hold it, and one follows sessions and the roster: they are listed in `workers`.
    pub async fn run(self: Arc<Self>, workers: Arc<Workers>) {
        let Some(peers) = self.peers.clone() else {
            return;
        };
        let checks = Recheck::new(&self);
        let _checker = Task(spawn(workers.run(checks)));
        let mends = Mend::new(&self, &peers);
        let _mender = Task(spawn(workers.run(mends)));
        let links = Links {
            events: peers.subscribe(),
            replica: self,
            peers,
            workers: Arc::clone(&workers),
            pushing: BTreeMap::new(),
            moved: None,
            is_closed: false,
        };
        workers.run(links).await;
    }

    /// Goes once through the queue of `peer`, from this peer's place in the space of ids around.
    async fn pass(
        self: &Arc<Self>,
        peers: &Arc<dyn Peers>,
        peer: PeerId,
    ) -> Result<Pass, ReplicaError> {
        let start = self.view().push_start();
        let full = AtomicBool::new(false);
        let mut asked = false;
        for (from, end) in [(start, None), (FIRST, Some(start))] {
            let mut next = Some(from);
            while let Some(from) = next {
                let mut due = self.ledger.due(&peer, from, HOLD_BATCH)?;
                let is_last = due.len() < HOLD_BATCH;
                if let Some(end) = end {
                    due.retain(|id| *id < end);
                }
                let Some(last) = due.last().copied() else {
                    break;
                };
                match self.offer(peers, peer, due, &full).await? {
                    Pass::Failed => return Ok(Pass::Failed),
                    Pass::Asked => asked = true,
                    Pass::Done | Pass::Full => {}
                }
                next = if is_last { None } else { after(&last) };
            }
        }
        Ok(if full.into_inner() {
            Pass::Full
        } else if asked {
            Pass::Asked
        } else {
            Pass::Done
        })
    }

    /// Asks `peer` which of `ids` it holds and sends the others.
    async fn offer(
        self: &Arc<Self>,
        peers: &Arc<dyn Peers>,
        peer: PeerId,
        ids: Vec<ChunkId>,
        full: &AtomicBool,
    ) -> Result<Pass, ReplicaError> {
        let record = self.ledger.asked(&ids)?;
        let ask = Ask::Hold(ids.clone(), record);
        let held = match peers.ask(peer, ask, HOLD_TIMEOUT).await {
            Ok(Answer::Hold(held)) if held.len() == ids.len() => held,
            Ok(_) => return Ok(log_failure(peer, AskError::Refused)),
            Err(error) => return Ok(log_failure(peer, error)),
        };
        let (mut there, mut missing) = (Vec::new(), VecDeque::new());
        for (id, held) in ids.into_iter().zip(held) {
            if held {
                there.push(id);
            } else {
                missing.push_back(id);
            }
        }
        self.confirm(peer, &there, record)?;
        let offered = missing.len();
        let now = self.clock.monotonic();
        if !is_fast(peers, peer) {
            missing.retain(|id| !self.crossing.is_asked(peer, *id, now));
        }
        let asked = AtomicBool::new(missing.len() < offered);

        let missing = Mutex::new(missing);
        let [one, two]: [_; PUT_LANES] =
            std::array::from_fn(|_| self.lane(peers, peer, &missing, (full, &asked)));
        let (one, two) = tokio::join!(one, two);
        Ok(match (one?, two?) {
            (Pass::Done, Pass::Done) if asked.into_inner() => Pass::Asked,
            (Pass::Done, other) => other,
            _ => Pass::Failed,
        })
    }

    /// Sends batches of `missing` until it is empty or the peer fails. From the moment the peer
    /// says that it is full, other holders are found instead.
    async fn lane(
        self: &Arc<Self>,
        peers: &Arc<dyn Peers>,
        peer: PeerId,
        missing: &Mutex<VecDeque<ChunkId>>,
        (full, asked): (&AtomicBool, &AtomicBool),
    ) -> Result<Pass, ReplicaError> {
        loop {
            if full.load(Ordering::Relaxed) {
                let rest = std::mem::take(&mut *missing.lock());
                for id in rest {
                    self.pass_on(peer, id)?;
                }
                return Ok(Pass::Done);
            }
            let is_fast = is_fast(peers, peer);
            let mib = if is_fast { PUT_BATCH_BYTES >> 20 } else { 1 };
            // The semaphore is never closed.
            let _permit = self.puts.acquire_many(mib as u32).await;
            if !is_fast {
                // The peer asked for them since they were offered.
                let now = self.clock.monotonic();
                let is_asked = |id: &ChunkId| self.crossing.is_asked(peer, *id, now);
                let mut missing = missing.lock();
                let before = missing.len();
                missing.retain(|id| !is_asked(id));
                asked.fetch_or(missing.len() < before, Ordering::Relaxed);
            }
            let batch = self.next_batch(peer, missing, is_fast).await?;
            if batch.is_empty() {
                return Ok(Pass::Done);
            }
            let ids: Vec<ChunkId> = batch.iter().map(|(id, _)| *id).collect();
            let transfer = Transfer::new(Priority::Background);
            // A fast line has carried it before anybody could ask.
            let crossing = (!is_fast).then(|| self.crossing.put(peer, &ids, &transfer));
            let record = self.ledger.asked(&ids)?;
            let put = Ask::Put(batch, record);
            let answer = peers.ask_for(peer, put, PUT_TIMEOUT, &transfer);
            let answer = answer.await;
            drop(crossing);
            let outcomes = match answer {
                Ok(Answer::Put(outcomes)) if outcomes.len() == ids.len() => outcomes,
                Ok(_) => return Ok(log_failure(peer, AskError::Refused)),
                Err(error) => return Ok(log_failure(peer, error)),
            };
            let mut stored = Vec::with_capacity(ids.len());
            for (id, outcome) in ids.into_iter().zip(outcomes) {
                match outcome {
                    PutOutcome::Stored => stored.push(id),
                    PutOutcome::Full => {
                        self.pass_on(peer, id)?;
                        full.store(true, Ordering::Relaxed);
                    }
                    PutOutcome::Corrupt | PutOutcome::Failed => {
                        tracing::warn!(%peer, %id, ?outcome, "a holder did not take a chunk");
                        self.confirm(peer, &stored, record)?;
                        return Ok(Pass::Failed);
                    }
                }
            }
            self.confirm(peer, &stored, record)?;
        }
    }

    /// Takes the next chunks from `missing`, up to a full batch, and reads them. What goes to a slow
    /// peer is one chunk, so that each is there as early as it can be, or a few small ones.
    async fn next_batch(
        self: &Arc<Self>,
        peer: PeerId,
        missing: &Mutex<VecDeque<ChunkId>>,
        is_fast: bool,
    ) -> Result<Vec<(ChunkId, Bytes)>, ReplicaError> {
        let bytes_max = if is_fast {
            PUT_BATCH_BYTES
        } else {
            SLOW_BATCH_BYTES
        };
        let mut batch = Vec::with_capacity(PUT_BATCH_CHUNKS);
        let mut bytes = 0;
        while batch.len() < PUT_BATCH_CHUNKS && bytes < bytes_max {
            let Some(id) = missing.lock().pop_front() else {
                break;
            };
            match self.read_on_pool(id).await {
                Ok(Some(sealed)) => {
                    let is_over = bytes + sealed.len() as u64 > bytes_max;
                    if !is_fast && is_over && !batch.is_empty() {
                        missing.lock().push_front(id);
                        break;
                    }
                    bytes += sealed.len() as u64;
                    batch.push((id, sealed));
                }
                // It was lost, and is on the list of what is missing; it is queued anew when it
                // is back.
                Ok(None) | Err(ReplicaError::Corrupt { .. }) => self.ledger.unqueue(peer, id)?,
                Err(error) => return Err(error),
            }
        }
        Ok(batch)
    }

    /// Books that `peer` holds `ids`; what is released by that may be evicted at once.
    fn confirm(&self, peer: PeerId, ids: &[ChunkId], asked: u64) -> Result<(), ReplicaError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.ledger
            .confirm(peer, ids, asked, &|| self.view().wanted())?;
        self.changed();
        self.trim()
    }

    /// Finds another holder for a chunk that `peer` has no room for.
    fn pass_on(&self, peer: PeerId, id: ChunkId) -> Result<(), ReplicaError> {
        let now = self.clock.monotonic();
        let full = {
            let mut full = self.full.lock();
            full.retain(|_, until| *until > now);
            full.insert(peer, now + FULL_BACKOFF);
            full.clone()
        };
        let view_of = |id: &ChunkId| {
            let view = self.view();
            (view.ranked(id), view.plan(id))
        };
        let found = self
            .ledger
            .redirect(peer, id, &view_of, &|other| !full.contains_key(other))?;
        if !found {
            tracing::debug!(%peer, %id, "no peer has room for a chunk");
        }
        self.changed();
        Ok(())
    }
}

/// A worker that ends with its handle.
#[derive(Debug)]
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells whether full batches go to a peer.
fn is_fast(peers: &Arc<dyn Peers>, peer: PeerId) -> bool {
    let links = peers.links();
    let link = links.iter().find(|link| link.peer == peer);
    link.is_some_and(|link| link.sent_rate >= FAST_BYTES_PER_SECOND)
}

fn log_failure(peer: PeerId, error: AskError) -> Pass {
    tracing::debug!(%peer, %error, "a push to a holder failed");
    Pass::Failed
}
