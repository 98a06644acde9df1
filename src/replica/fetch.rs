//! Getting a chunk from those who hold it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::limits::{
    COMING_PAUSE, EXPECT_LOOK, FETCH_GRACE, FETCH_PARALLEL_MAX, GET_TIMEOUT, HEDGE,
};
use super::peers::{Answer, Ask, Link, Peers};
use super::{Replica, ReplicaError, is_chunk};
use crate::base::task::spawn;
use crate::base::time::{sleep, timeout};
use crate::base::{ChunkId, PeerId};
use crate::crypto::chunk_head;
use crate::node::{NodeEvent, Transfer};
use crate::store::ChunkPart;
use crate::transport::Priority;

/// How fast a peer has been lately, and how much is asked of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Speed {
    /// Moving average of the time that a chunk took; zero before the first.
    average: Duration,
    /// Chunks asked for and not yet received.
    in_flight: u32,
}

/// What is fetched of a chunk.
#[derive(Debug, Clone)]
struct Wanted {
    id: ChunkId,
    /// These of the sealed bytes; `None` for all.
    part: Option<Range<usize>>,
}

/// What came of a chunk, checked against its id.
#[derive(Debug)]
enum Found {
    Whole(Bytes),
    Part(ChunkPart),
}

impl Wanted {
    fn whole(id: ChunkId) -> Self {
        Self { id, part: None }
    }

    fn ask(&self) -> Ask {
        match &self.part {
            None => Ask::Get(self.id),
            Some(part) => Ask::GetPart(self.id, part.clone()),
        }
    }

    /// Returns what a holder sent, if it is what the id says; takes a core's time.
    fn check(&self, answer: Answer) -> Option<Found> {
        match (answer, &self.part) {
            (Answer::Get(Some(sealed)), None) => {
                is_chunk(&self.id, &sealed).then_some(Found::Whole(sealed))
            }
            (Answer::GetPart(Some(part)), Some(wanted)) => {
                let (head, bytes) = part.verify(self.id, wanted)?;
                // A copy: a slice would keep all that came.
                let bytes = Bytes::copy_from_slice(&bytes);
                let len = part.len;
                Some(Found::Part(ChunkPart { head, len, bytes }))
            }
            _ => None,
        }
    }

    /// Takes what is wanted of a chunk that is here.
    fn cut(&self, sealed: Bytes) -> Found {
        let Some(wanted) = &self.part else {
            return Found::Whole(sealed);
        };
        let end = wanted.end.min(sealed.len());
        Found::Part(ChunkPart {
            head: chunk_head(&sealed),
            len: sealed.len(),
            bytes: sealed.slice(wanted.start.min(end)..end),
        })
    }
}

/// What one holder sent.
#[derive(Debug)]
enum Reply {
    /// What is wanted, checked against the id.
    Good(Found),
    /// Other bytes.
    Corrupt,
    /// It has not got the chunk.
    Missing,
    /// No answer.
    Unreachable,
}

/// Peers asked for one chunk, and what they said.
#[derive(Debug, Default)]
struct Search {
    asked: Vec<PeerId>,
    queue: VecDeque<PeerId>,
    corrupt: usize,
    unreachable: Vec<PeerId>,
}

impl Replica {
    /// Returns the sealed bytes of a chunk: from this disk, or from other peers; see
    /// [`Replica::fetch_for`].
    pub async fn fetch(
        self: &Arc<Self>,
        id: ChunkId,
        limit: Duration,
    ) -> Result<Bytes, ReplicaError> {
        let transfer = Transfer::new(Priority::Awaited);
        self.fetch_for(id, limit, &transfer).await
    }

    /// Returns the sealed bytes of a chunk: from this disk, or from other peers. Gives up where no
    /// byte of it has come from anybody for `limit`.
    ///
    /// The fastest expected holder is asked first, the next one when the first is slower than
    /// usual or fails, then every other linked peer, then whom a lookup finds. What comes is
    /// checked against the id and kept: held where this peer is a holder, else as cache. Where
    /// holders are unreachable, waits a moment for a session to come up.
    pub async fn fetch_for(
        self: &Arc<Self>,
        id: ChunkId,
        limit: Duration,
        transfer: &Arc<Transfer>,
    ) -> Result<Bytes, ReplicaError> {
        match self.read_on_pool(id).await {
            Ok(Some(sealed)) => return Ok(sealed),
            Ok(None) | Err(ReplicaError::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
        match self
            .fetch_wanted(&Wanted::whole(id), limit, transfer)
            .await?
        {
            (Found::Whole(sealed), is_kept) => {
                if !is_kept {
                    self.keep_fetched(id, sealed.clone()).await?;
                }
                Ok(sealed)
            }
            (Found::Part(_), _) => Err(ReplicaError::Missing { id }),
        }
    }

    /// Returns some of the sealed bytes of a chunk from other peers, checked against its id without the
    /// others: at most [`PART_MAX_BYTES`]. They are not kept; else as [`Replica::fetch_for`].
    ///
    /// [`PART_MAX_BYTES`]: super::limits::PART_MAX_BYTES
    pub async fn fetch_part(
        self: &Arc<Self>,
        id: ChunkId,
        part: Range<usize>,
        limit: Duration,
        transfer: &Arc<Transfer>,
    ) -> Result<ChunkPart, ReplicaError> {
        let part = Some(part);
        match self
            .fetch_wanted(&Wanted { id, part }, limit, transfer)
            .await?
        {
            (Found::Part(part), _) => Ok(part),
            (Found::Whole(_), _) => Err(ReplicaError::Missing { id }),
        }
    }

    /// Returns what is wanted from other peers, or from here where that comes first, which is told.
    async fn fetch_wanted(
        self: &Arc<Self>,
        wanted: &Wanted,
        limit: Duration,
        transfer: &Arc<Transfer>,
    ) -> Result<(Found, bool), ReplicaError> {
        let id = wanted.id;
        let Some(peers) = self.peers.clone() else {
            return Err(ReplicaError::Missing { id });
        };
        let search = async {
            let search = self.search_with_grace(&peers, wanted, limit, transfer);
            tokio::select! {
                biased;
                sealed = self.arrival(id) => Ok((wanted.cut(sealed), true)),
                found = search => found.map(|found| (found, false)),
            }
        };
        let mut search = std::pin::pin!(search);
        let started = self.clock.monotonic();
        loop {
            let since = transfer.moved_at().unwrap_or_default().max(started);
            let left = (since + limit).saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return Err(ReplicaError::TimedOut { id });
            }
            if let Ok(outcome) = timeout(left, search.as_mut()).await {
                return outcome;
            }
        }
    }

    /// Waits until a chunk is here, put by another peer or fetched by somebody else.
    async fn arrival(self: &Arc<Self>, id: ChunkId) -> Bytes {
        let mut changes = self.watch();
        loop {
            changes.changed().await;
            if !matches!(self.is_local(id), Ok(true)) {
                continue;
            }
            if let Ok(Some(sealed)) = self.read_on_pool(id).await {
                return sealed;
            }
        }
    }

    async fn keep_fetched(
        self: &Arc<Self>,
        id: ChunkId,
        sealed: Bytes,
    ) -> Result<(), ReplicaError> {
        let replica = Arc::clone(self);
        let keep = move || {
            let hold = replica.view().is_target(&id) && replica.has_room(sealed.len());
            replica.store.chunks.put(id, &sealed)?;
            replica.ledger.keep(id, &sealed, hold.then_some(0))?;
            replica.changed();
            replica.trim()
        };
        match self.pool.call(keep).await.unwrap_or(Ok(())) {
            // A disk without room still lets the reader have what came.
            Err(ReplicaError::Store(error)) => {
                tracing::debug!(%id, %error, "a fetched chunk is not kept");
                Ok(())
            }
            other => other,
        }
    }

    /// Searches, and once more for each session that comes up within the grace: as long as a read may
    /// last where one may come, a moment else.
    async fn search_with_grace(
        self: &Arc<Self>,
        peers: &Arc<dyn Peers>,
        wanted: &Wanted,
        limit: Duration,
        transfer: &Arc<Transfer>,
    ) -> Result<Found, ReplicaError> {
        let mut events = peers.subscribe();
        let started = self.clock.monotonic();
        let had_links = !peers.links().is_empty();
        loop {
            let outcome = self.search(peers, wanted, transfer).await;
            let is_away = match outcome {
                Err(ReplicaError::Unreachable { .. }) => true,
                // Who comes may have it.
                Err(ReplicaError::Missing { .. }) => false,
                _ => return outcome,
            };
            loop {
                // Where somebody was there, or gave something, the session may come back.
                let grace_end = match transfer.moved_at() {
                    Some(moved_at) if is_away => moved_at.max(started) + limit,
                    _ if peers.expects_more() => started + limit,
                    _ if is_away && had_links && peers.links().is_empty() => started + limit,
                    _ if is_away => started + FETCH_GRACE.min(limit),
                    _ => return outcome,
                };
                let left = grace_end.saturating_sub(self.clock.monotonic());
                if left.is_zero() {
                    return outcome;
                }
                let look = left.min(EXPECT_LOOK);
                if timeout(look, next_up(&mut events)).await.is_ok() {
                    break;
                }
            }
        }
    }

    async fn search(
        self: &Arc<Self>,
        peers: &Arc<dyn Peers>,
        wanted: &Wanted,
        transfer: &Arc<Transfer>,
    ) -> Result<Found, ReplicaError> {
        let id = wanted.id;
        let view = self.view();
        let me = peers.me();
        let mut expected = view.plan(&id).targets;
        expected.retain(|peer| *peer != me);
        let links = peers.links();
        let mut search = Search::default();
        search.plan(self.order(&links, &expected));
        search.plan(self.order(&links, &view.ranked(&id)));
        search.plan(self.order(&links, &links.iter().map(|l| l.peer).collect::<Vec<_>>()));
        // Expected holders without a session: the node may be able to dial them.
        search.plan(expected.iter().copied());
        search.queue.retain(|peer| *peer != me);

        let found = self
            .ask_all(peers, wanted, &links, &mut search, transfer)
            .await;
        if let Some(found) = found {
            return Ok(found);
        }
        search.plan(
            peers
                .lookup(&id)
                .await
                .into_iter()
                .filter(|peer| *peer != me),
        );
        let found = self
            .ask_all(peers, wanted, &links, &mut search, transfer)
            .await;
        if let Some(found) = found {
            return Ok(found);
        }
        let unreachable = expected
            .iter()
            .filter(|peer| search.unreachable.contains(peer))
            .count();
        Err(if search.corrupt > 0 {
            ReplicaError::Corrupt { id }
        } else if unreachable > 0 {
            ReplicaError::Unreachable { id, unreachable }
        } else {
            ReplicaError::Missing { id }
        })
    }

    /// Asks the queued peers, one more whenever the last is late or fails, until one has it.
    async fn ask_all(
        self: &Arc<Self>,
        peers: &Arc<dyn Peers>,
        wanted: &Wanted,
        links: &[Link],
        search: &mut Search,
        transfer: &Arc<Transfer>,
    ) -> Option<Found> {
        let (sender, mut replies) = mpsc::channel(FETCH_PARALLEL_MAX);
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut is_due = true;
        loop {
            if is_due
                && attempts.len() < FETCH_PARALLEL_MAX
                && let Some(peer) = search.queue.pop_front()
            {
                let sender = sender.clone();
                attempts.push(self.attempt(peers, peer, wanted, links, sender, transfer));
            }
            let patience = attempts.last()?.patience;
            let hedge = async {
                if search.queue.is_empty() || attempts.len() >= FETCH_PARALLEL_MAX {
                    std::future::pending::<()>().await;
                }
                sleep(patience).await;
            };
            let (peer, reply): (PeerId, Reply) = tokio::select! {
                biased;
                // A sender is kept here, so the channel is open.
                reply = replies.recv() => reply?,
                () = hedge => {
                    is_due = true;
                    continue;
                }
            };
            attempts.retain(|attempt| attempt.peer != peer);
            is_due = true;
            match reply {
                Reply::Good(found) => return Some(found),
                Reply::Corrupt => search.corrupt += 1,
                Reply::Missing => {}
                Reply::Unreachable => search.unreachable.push(peer),
            }
        }
    }

    /// Asks one peer in the background; the answer goes to `sender`.
    fn attempt(
        self: &Arc<Self>,
        peers: &Arc<dyn Peers>,
        peer: PeerId,
        wanted: &Wanted,
        links: &[Link],
        sender: mpsc::Sender<(PeerId, Reply)>,
        transfer: &Arc<Transfer>,
    ) -> Attempt {
        let rtt = links
            .iter()
            .find(|link| link.peer == peer)
            .map_or(HEDGE.1, |link| link.rtt);
        let average = self
            .speeds
            .lock()
            .get(&peer)
            .map_or(Duration::ZERO, |s| s.average);
        // Twice what is usual; before the first chunk, a few round trips.
        let patience = (average * 2).max(rtt * 3).clamp(HEDGE.0, HEDGE.1);
        let replica = Arc::clone(self);
        let (peers, transfer) = (Arc::clone(peers), Arc::clone(transfer));
        let wanted = wanted.clone();
        let task = spawn(async move {
            let reply = replica.ask_one(&peers, peer, wanted, &transfer).await;
            let _ = sender.send((peer, reply)).await;
        });
        Attempt {
            peer,
            patience,
            task,
        }
    }

    async fn ask_one(
        self: &Arc<Self>,
        peers: &Arc<dyn Peers>,
        peer: PeerId,
        wanted: Wanted,
        transfer: &Transfer,
    ) -> Reply {
        let load = Load::new(Arc::clone(self), peer);
        let asked_at = self.clock.monotonic();
        let answer = loop {
            let get = peers.ask_for(peer, wanted.ask(), GET_TIMEOUT, transfer);
            match get.await {
                // The fetch ends when it is there.
                Ok(Answer::Coming) => {
                    transfer.moved(self.clock.monotonic());
                    sleep(COMING_PAUSE).await;
                }
                answer => break answer,
            }
        };
        drop(load);
        let answer = match answer {
            Ok(answer @ (Answer::Get(Some(_)) | Answer::GetPart(Some(_)))) => answer,
            Ok(Answer::Get(None) | Answer::GetPart(None)) => return Reply::Missing,
            Ok(_) | Err(_) => return Reply::Unreachable,
        };
        let (id, is_whole) = (wanted.id, wanted.part.is_none());
        let checked = self.pool.call(move || wanted.check(answer)).await;
        let Some(Some(found)) = checked else {
            tracing::warn!(%peer, %id, "a holder sent a corrupt chunk");
            return Reply::Corrupt;
        };
        if is_whole {
            let took = self.clock.monotonic().saturating_sub(asked_at);
            let mut speeds = self.speeds.lock();
            let speed = speeds.entry(peer).or_default();
            speed.average = if speed.average.is_zero() {
                took
            } else {
                (speed.average * 7 + took) / 8
            };
        }
        Reply::Good(found)
    }

    /// Returns those of `peers` that are linked, the one that will probably answer first in front.
    fn order(&self, links: &[Link], peers: &[PeerId]) -> Vec<PeerId> {
        let speeds = self.speeds.lock();
        let mut order: Vec<(Duration, PeerId)> = links
            .iter()
            .filter(|link| peers.contains(&link.peer))
            .map(|link| {
                let speed = speeds.get(&link.peer).copied().unwrap_or_default();
                let one = speed.average.max(link.rtt).max(Duration::from_micros(1));
                (one.saturating_mul(1 + speed.in_flight), link.peer)
            })
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, peer)| peer).collect()
    }
}

impl Search {
    /// Queues those that were not queued before.
    fn plan(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        for peer in peers {
            if !self.asked.contains(&peer) {
                self.asked.push(peer);
                self.queue.push_back(peer);
            }
        }
    }
}

/// A question under way; dropped, it is given up.
#[derive(Debug)]
struct Attempt {
    peer: PeerId,
    /// How long its answer is waited for before another peer is asked too.
    patience: Duration,
    task: JoinHandle<()>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a chunk as asked of a peer for as long as it lives.
#[derive(Debug)]
struct Load {
    replica: Arc<Replica>,
    peer: PeerId,
}

impl Load {
    fn new(replica: Arc<Replica>, peer: PeerId) -> Self {
        replica.speeds.lock().entry(peer).or_default().in_flight += 1;
        Self { replica, peer }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(speed) = self.replica.speeds.lock().get_mut(&self.peer) {
            speed.in_flight = speed.in_flight.saturating_sub(1);
        }
    }
}

/// Waits until a session comes up, or may have.
async fn next_up(events: &mut tokio::sync::broadcast::Receiver<NodeEvent>) {
    loop {
        match events.recv().await {
            Ok(NodeEvent::PeerUp(_)) | Err(RecvError::Lagged(_)) => return,
            Ok(_) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
