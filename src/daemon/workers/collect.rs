//! Gives up chunks that nothing names any more, once they are worth looking for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{NEXT_TICK, TICK_INTERVAL};
use crate::base::time::{sleep, timeout};
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::base::{Clock, PeerId};
use crate::daemon::error::DaemonError;
use crate::daemon::peer::Peer;
use crate::fs::{Fs, RoomSource};
use crate::node::PeerState;
use crate::replica::{Collected, Named, Names, UNNAMED_MIN};

/// Bytes that nothing seems to name any more before chunks are collected, where the capacity is not
/// small; else this fraction of it.
const MIN_BYTES: u64 = 64 << 20;
const MIN_FRACTION: u64 = 32;

/// How long what names chunks may be told to others as it was: less than [`UNNAMED_MIN`], so that what they
/// hear when a chunk goes is of after they heard first that nothing names it.
const NAMED_AGE_MAX: Duration = Duration::from_secs(10);

/// How long at least lies between two collections that others ask for.
const ASKED_PAUSE: Duration = Duration::from_secs(5);

/// How often a peer without keys asks what is named, where nobody says that there is something to collect,
/// and where what waits may go as the base line has moved.
const LOOK_PAUSE: Duration = Duration::from_secs(3_600);
const MOVED_PAUSE: Duration = Duration::from_secs(20);

/// How long after its start such a peer asks for the first time.
const FIRST_LOOK: Duration = Duration::from_secs(60);

/// What collections did since the start.
#[derive(Debug, Clone)]
pub(in crate::daemon) struct Sum {
    /// How many there were.
    pub(in crate::daemon) runs: u64,
    /// Chunks that were given up.
    pub(in crate::daemon) count: u64,
    /// Their sealed bytes.
    pub(in crate::daemon) bytes: u64,
    /// What the last one found, or why it could not look.
    pub(in crate::daemon) last: Result<Collected, String>,
}

/// Who asks for collections, and what they did.
#[derive(Debug)]
pub(in crate::daemon) struct Collections {
    is_asked: AtomicBool,
    asked: Notify,
    sum: watch::Sender<Sum>,
}

impl Default for Collections {
    fn default() -> Self {
        let sum = Sum {
            runs: 0,
            count: 0,
            bytes: 0,
            last: Ok(Collected::default()),
        };
        Self {
            is_asked: AtomicBool::new(false),
            asked: Notify::new(),
            sum: watch::Sender::new(sum),
        }
    }
}

impl Collections {
    /// Has the worker collect at its next step.
    pub(in crate::daemon) fn ask(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
        self.asked.notify_one();
    }

    /// Returns what they did, and do from now on.
    pub(in crate::daemon) fn watch(&self) -> watch::Receiver<Sum> {
        self.sum.subscribe()
    }

    fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed)
    }

    /// Takes note of what one did.
    fn note(&self, found: Result<Collected, String>) {
        let given = found.as_ref().copied().unwrap_or_default();
        if given.count > 0 {
            let (chunks, bytes) = (given.count, given.bytes);
            tracing::info!(chunks, bytes, "gave up chunks that nothing names any more");
        }
        self.sum.send_modify(|sum| {
            sum.runs += 1;
            sum.count += given.count;
            sum.bytes += given.bytes;
            sum.last = found;
        });
    }
}

/// What names chunks on this machine, for peers that cannot see it.
pub(in crate::daemon) struct OfVolume {
    fs: Arc<Fs>,
    collections: Arc<Collections>,
    clock: Arc<dyn Clock>,
    known: Mutex<Option<(Duration, Arc<Named>)>>,
}

impl OfVolume {
    /// Returns what tells it of the volume that `fs` shows.
    pub(in crate::daemon) fn new(
        fs: &Arc<Fs>,
        collections: &Arc<Collections>,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            fs: Arc::clone(fs),
            collections: Arc::clone(collections),
            clock: Arc::clone(clock),
            known: Mutex::new(None),
        })
    }
}

impl Names for OfVolume {
    fn named(&self) -> Option<Arc<Named>> {
        // Others wait for the one who looks.
        let mut known = self.known.lock();
        let now = self.clock.monotonic();
        if let Some((at, named)) = &*known
            && now.saturating_sub(*at) < NAMED_AGE_MAX
        {
            return Some(Arc::clone(named));
        }
        match self.fs.named() {
            Ok(named) => {
                let named = Arc::new(named);
                *known = Some((now, Arc::clone(&named)));
                Some(named)
            }
            Err(error) => {
                tracing::warn!(%error, "what names chunks cannot be told");
                None
            }
        }
    }

    fn collect(&self, _: PeerId) {
        self.collections.ask();
    }
}

/// The worker.
pub(super) struct Collect {
    peer: Arc<Peer>,
    /// When the last collection ended; none before the first.
    ended: Option<Duration>,
    /// Whom a peer asked last that cannot see what names chunks.
    turn: usize,
    /// What that one left, and the base line by then: for a peer that cannot see what names chunks.
    left: (Collected, u64),
}

impl Collect {
    pub(super) fn new(peer: &Arc<Peer>) -> Self {
        Self {
            peer: Arc::clone(peer),
            ended: None,
            turn: 0,
            left: (Collected::default(), 0),
        }
    }

    /// Collects on a member that reads: all of it where that is asked for, else what is due.
    async fn collect(&mut self, is_asked: bool) -> Result<Option<Collected>, Failed> {
        let peer = &self.peer;
        let Some(member) = peer.member_parts() else {
            return self.collect_by(is_asked).await;
        };
        let fs = Arc::clone(&member.fs);
        let worth = MIN_BYTES.min(peer.node().capacity_bytes() / MIN_FRACTION);
        let collect = move || match is_asked {
            true => fs.collect().map(Some),
            false => fs.collect_if_due(worth),
        };
        let collected = peer.fold_pool().call(collect).await;
        Ok(collected.ok_or(DaemonError::WorkerFailed)??)
    }

    /// Collects where only others see what names chunks: by what one of them says.
    async fn collect_by(&mut self, is_asked: bool) -> Result<Option<Collected>, Failed> {
        let peer = &self.peer;
        if !(is_asked || self.is_due()) {
            return Ok(None);
        }
        let peers = peer.node().peers().into_iter();
        let readers = peers.filter(|of| of.state == PeerState::Connected && of.role.reads());
        let readers: Vec<PeerId> = readers.map(|of| of.id).collect();
        // Each in its turn: nobody alone says what goes.
        self.turn = self.turn.wrapping_add(1);
        let Some(of) = readers.get(self.turn % readers.len().max(1)).copied() else {
            return Ok(None);
        };
        let base_line = peer.node().chain().base_line();
        let wait_ms = peer.room().history_ms().max(millis(UNNAMED_MIN));
        let now_ms = peer.clock().wall_ms();
        let found = peer.replica().collect_by(of, now_ms, wait_ms).await;
        let found = found.map_err(|error| Failed::new(error.to_string()))?;
        let Some(found) = found else {
            return Err(Failed::new("who sees what names chunks does not say so"));
        };
        self.left = (found, base_line);
        Ok(Some(found))
    }

    fn is_due(&self) -> bool {
        let (left, base_line) = &self.left;
        let (node, clock) = (self.peer.node(), self.peer.clock());
        let Some(ended) = self.ended else {
            return clock.monotonic() >= FIRST_LOOK;
        };
        let ago = clock.monotonic().saturating_sub(ended);
        let is_time = left
            .next_ms
            .is_some_and(|next_ms| next_ms <= clock.wall_ms());
        let has_moved = left.is_blocked && node.chain().base_line() != *base_line;
        is_time || has_moved && ago >= MOVED_PAUSE || ago >= LOOK_PAUSE
    }
}

impl Worker for Collect {
    fn job(&self) -> Job {
        let job = Job::new("collect", "gives up chunks that nothing names any more");
        job.again(Duration::from_secs(5), Duration::from_secs(300))
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        let collections = Arc::clone(self.peer.collections());
        let ended = self.ended.unwrap_or_default();
        let now = self.peer.clock().monotonic();
        let is_early = now.saturating_sub(ended) < ASKED_PAUSE;
        let is_asked = collections.is_asked() && !(is_early && self.ended.is_some());
        if is_asked {
            collections.is_asked.store(false, Ordering::Relaxed);
        }
        let found = self.collect(is_asked).await;
        match &found {
            Ok(None) => return Ok(Step::Idle(NEXT_TICK)),
            Ok(Some(found)) => collections.note(Ok(*found)),
            Err(error) => collections.note(Err(error.why().to_owned())),
        }
        self.ended = Some(self.peer.clock().monotonic());
        let found = found?.unwrap_or_default();
        if found.count + found.waiting > 0 {
            self.peer.tell_to_collect(false).await;
        }
        Ok(Step::Idle(NEXT_TICK))
    }

    async fn wait(&mut self) {
        let asked = &self.peer.collections().asked;
        // Whether it was asked for is looked at next.
        let _ = timeout(TICK_INTERVAL, asked.notified()).await;
        if self.peer.collections().is_asked() {
            sleep(TICK_INTERVAL).await;
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
