//! Gives up chunks that nothing names any more, once they are worth looking for.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{NEXT_TICK, TICK_INTERVAL};
use crate::base::time::timeout;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::base::{ChunkId, Clock, PeerId};
use crate::daemon::error::DaemonError;
use crate::daemon::peer::{Member, Peer};
use crate::fs::FsError;
use crate::node::PeerState;
use crate::replica::{Collected, Named, Names, Terms, UNNAMED_MIN};

/// Bytes that nothing seems to name any more before chunks are collected: this part of all that is kept here, no
/// fewer than some and no more than many, and where the capacity is small this fraction of it.
const WORTH_PART: u64 = 8;
const WORTH_MIN_BYTES: u64 = 4 << 20;
const WORTH_MAX_BYTES: u64 = 64 << 20;
const MIN_FRACTION: u64 = 32;

/// How long what names chunks may be told to others as it was: less than [`UNNAMED_MIN`], so that what they
/// hear when a chunk goes is of after they heard first that nothing names it.
const NAMED_AGE_MAX: Duration = Duration::from_secs(20);

/// How long at least lies between two collections that others ask for; they take a tenth of the time at most.
const TOLD_PAUSE: Duration = Duration::from_secs(5);
const PAUSE_FACTOR: u32 = 9;

/// Pause before a member is asked again that has to find out first what names chunks.
const BUSY_PAUSE: Duration = Duration::from_secs(2);

/// How often it is looked what this machine alone may name: the base line stands for a minute before it passes
/// a record.
const KEEP_OWN_PAUSE: Duration = Duration::from_secs(10);

/// Chunks of that which are fetched each time, and how long one may take.
const FETCHED_MAX: usize = 64;
const FETCH_MAX: Duration = Duration::from_secs(5);

/// How often a member is asked that is busy before another is.
const TRIES_MAX: u32 = 15;

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

/// Who asks for collections, and what they did; tells others what names chunks.
pub(in crate::daemon) struct Collections {
    clock: Arc<dyn Clock>,
    /// The owner of this machine asks for one.
    is_asked: AtomicBool,
    /// Another peer says that there is something to collect.
    is_told: AtomicBool,
    /// Another peer asks what names chunks.
    is_wanted: AtomicBool,
    wake: Notify,
    /// What names chunks, as it was some time ago.
    known: Mutex<Option<(Duration, Arc<Named>)>>,
    sum: watch::Sender<Sum>,
}

impl Collections {
    /// Returns those of a peer that was just started.
    pub(in crate::daemon) fn new(clock: &Arc<dyn Clock>) -> Arc<Self> {
        let sum = Sum {
            runs: 0,
            count: 0,
            bytes: 0,
            last: Ok(Collected::default()),
        };
        Arc::new(Self {
            clock: Arc::clone(clock),
            is_asked: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
            is_wanted: AtomicBool::new(false),
            wake: Notify::new(),
            known: Mutex::new(None),
            sum: watch::Sender::new(sum),
        })
    }

    /// Has the worker collect at its next step.
    pub(in crate::daemon) fn ask(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Returns what they did, and do from now on.
    pub(in crate::daemon) fn watch(&self) -> watch::Receiver<Sum> {
        self.sum.subscribe()
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

impl Names for Collections {
    fn named(&self) -> Option<Arc<Named>> {
        if let Some((at, named)) = &*self.known.lock()
            && self.clock.monotonic().saturating_sub(*at) < NAMED_AGE_MAX
        {
            return Some(Arc::clone(named));
        }
        self.is_wanted.store(true, Ordering::Relaxed);
        self.wake.notify_one();
        None
    }

    fn collect(&self, _: PeerId) {
        self.is_told.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

/// The worker.
pub(super) struct Collect {
    peer: Arc<Peer>,
    /// When the last collection, or look for others, ended; none before the first.
    ended: Option<Duration>,
    /// Before these times others have no collection, and no look, done for them.
    pause_until: Duration,
    look_pause_until: Duration,
    /// When it was looked last what this machine alone may name, and what that was.
    kept_own: Duration,
    own: HashSet<ChunkId>,
    /// Whom a peer asked last that cannot see what names chunks, and where it broke off.
    turn: usize,
    broke_off: Option<ChunkId>,
    /// When a member is asked again that was busy, and how often it was.
    next_try: Duration,
    tries: u32,
    /// Since when nothing names chunks that the disk lost.
    lost: BTreeMap<ChunkId, u64>,
    /// What that one found so far, and what the last one left, with the base line by then.
    found: Collected,
    left: (Collected, u64),
}

impl Collect {
    pub(super) fn new(peer: &Arc<Peer>) -> Self {
        Self {
            peer: Arc::clone(peer),
            ended: None,
            pause_until: Duration::ZERO,
            look_pause_until: Duration::ZERO,
            kept_own: Duration::ZERO,
            own: HashSet::new(),
            turn: 0,
            broke_off: None,
            next_try: Duration::ZERO,
            tries: 0,
            lost: BTreeMap::new(),
            found: Collected::default(),
            left: (Collected::default(), 0),
        }
    }

    /// Collects on a member that reads: whatever is there where that is asked for, else what is due.
    async fn collect(
        &mut self,
        member: &Member,
        is_asked: bool,
    ) -> Result<Option<Collected>, Failed> {
        let fs = Arc::clone(&member.fs);
        let kept = self.peer.room().kept_bytes();
        let worth = (kept / WORTH_PART).clamp(WORTH_MIN_BYTES, WORTH_MAX_BYTES);
        let worth = worth.min(self.peer.node().capacity_bytes() / MIN_FRACTION);
        let collect = move || match is_asked {
            true => fs.collect(),
            false => fs.collect_if_due(worth),
        };
        let collected = self.peer.fold_pool().call(collect).await;
        let collected = collected.ok_or(DaemonError::WorkerFailed)??;
        if is_asked && collected.is_none() {
            // Something is being folded.
            self.peer
                .collections()
                .is_asked
                .store(true, Ordering::Relaxed);
        }
        Ok(collected)
    }

    /// Finds out for others what names chunks.
    async fn look(&mut self, member: &Member) -> Result<(), Failed> {
        let fs = Arc::clone(&member.fs);
        let began = self.peer.clock().monotonic();
        let named = self.peer.fold_pool().call(move || fs.named()).await;
        let named = match named.ok_or(DaemonError::WorkerFailed)? {
            // Something is being folded: who asks does so again.
            Err(FsError::TimedOut) => return Ok(()),
            named => named?,
        };
        *self.peer.collections().known.lock() = Some((began, Arc::new(named)));
        let now = self.peer.clock().monotonic();
        let took = now.saturating_sub(began);
        self.look_pause_until = now + took.saturating_mul(PAUSE_FACTOR);
        Ok(())
    }

    /// Keeps here what this machine alone may name: others give it up.
    async fn keep_own(&mut self, member: &Member) -> Result<(), Failed> {
        let now = self.peer.clock().monotonic();
        if now.saturating_sub(self.kept_own) < KEEP_OWN_PAUSE {
            return Ok(());
        }
        self.kept_own = now;
        let (fs, replica) = (Arc::clone(&member.fs), Arc::clone(self.peer.replica()));
        let before = std::mem::take(&mut self.own);
        let keep = move || -> Result<_, DaemonError> {
            let own: HashSet<ChunkId> = fs.named_here()?.into_iter().collect();
            // What an op names by now was told to its holders a second later.
            let elsewhere = replica.pin(own.union(&before).copied().collect());
            Ok((own, elsewhere))
        };
        let kept = self.peer.fold_pool().call(keep).await;
        let (own, elsewhere) = kept.ok_or(DaemonError::WorkerFailed)??;
        self.own = own;
        let elsewhere = elsewhere.map_err(|error| Failed::new(error.to_string()))?;
        // Others still have it: the base line has not passed the removal yet, or only just.
        for id in elsewhere.into_iter().take(FETCHED_MAX) {
            let fetched = self.peer.replica().fetch(id, FETCH_MAX).await;
            if let Err(error) = fetched {
                tracing::debug!(%id, %error, "a part of a file that others removed is not here");
                break;
            }
        }
        Ok(())
    }

    /// Collects where only others see what names chunks: by what one of them says.
    async fn collect_by(&mut self, is_asked: bool) -> Result<Option<Collected>, Failed> {
        let peer = Arc::clone(&self.peer);
        let now = peer.clock().monotonic();
        let goes_on = self.broke_off.is_some() && now >= self.next_try;
        let is_due = now >= self.pause_until && self.is_due();
        if !(is_asked || goes_on || is_due) {
            return Ok(None);
        }
        let peers = peer.node().peers().into_iter();
        let readers = peers.filter(|of| of.state == PeerState::Connected && of.role.reads());
        let readers: Vec<PeerId> = readers.map(|of| of.id).collect();
        // Each in its turn: where there are two nobody alone says what goes.
        if self.broke_off.is_none() {
            self.turn = self.turn.wrapping_add(1);
        }
        let Some(of) = readers.get(self.turn % readers.len().max(1)).copied() else {
            let told = &peer.collections().is_told;
            told.fetch_or(is_asked, Ordering::Relaxed);
            return Ok(None);
        };
        let base_line = peer.node().chain().base_line();
        let terms = Terms {
            now_ms: peer.clock().wall_ms(),
            wait_ms: millis(UNNAMED_MIN),
            base_line,
        };
        let replica = peer.replica();
        let found = &mut self.found;
        let broke_off = replica
            .collect_by(of, &terms, self.broke_off, found, &mut self.lost)
            .await;
        self.broke_off = broke_off.map_err(|error| Failed::new(error.to_string()))?;
        if self.broke_off.is_some() {
            // It finds out, and says so a moment later.
            self.next_try = peer.clock().monotonic() + BUSY_PAUSE;
            self.tries += 1;
            if self.tries >= TRIES_MAX {
                // From the beginning, by what the next one says.
                (self.tries, self.broke_off) = (0, Some(ChunkId([0; 32])));
                self.found = Collected::default();
                self.turn = self.turn.wrapping_add(1);
            }
            return Ok(None);
        }
        self.tries = 0;
        let found = std::mem::take(&mut self.found);
        if found.count > 0 {
            let of_pool = Arc::clone(replica);
            let given = peer.asking_pool().call(move || of_pool.give_back()).await;
            let given = given.ok_or(DaemonError::WorkerFailed)?;
            given.map_err(|error| Failed::new(error.to_string()))?;
        }
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

    /// Does what is due; returns what a collection found, if there was one.
    async fn work(&mut self) -> Result<Option<Collected>, Failed> {
        let peer = Arc::clone(&self.peer);
        let collections = peer.collections();
        let now = peer.clock().monotonic();
        let (is_free, may_look) = (now >= self.pause_until, now >= self.look_pause_until);
        let take = |flag: &AtomicBool, may: bool| may && flag.swap(false, Ordering::Relaxed);
        let is_asked = take(&collections.is_asked, true) | take(&collections.is_told, is_free);
        let Some(member) = peer.member_parts() else {
            return self.collect_by(is_asked).await;
        };
        if let Err(error) = self.keep_own(member).await {
            tracing::warn!(
                error = error.why(),
                "what only this machine names may be evicted"
            );
        }
        if take(&collections.is_wanted, may_look) {
            self.look(member).await?;
        }
        self.collect(member, is_asked).await
    }
}

impl Worker for Collect {
    fn job(&self) -> Job {
        let job = Job::new("collect", "gives up chunks that nothing names any more");
        job.again(Duration::from_secs(2), Duration::from_secs(60))
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        let clock = self.peer.clock();
        let began = clock.monotonic();
        let found = self.work().await;
        let now = clock.monotonic();
        let took = now.saturating_sub(began);
        self.pause_until = self
            .pause_until
            .max(now + took.saturating_mul(PAUSE_FACTOR));
        match &found {
            Ok(None) => return Ok(Step::Idle(NEXT_TICK)),
            Ok(Some(found)) => self.peer.collections().note(Ok(*found)),
            Err(error) => self.peer.collections().note(Err(error.why().to_owned())),
        }
        self.ended = Some(now);
        let pause = took.saturating_mul(PAUSE_FACTOR).max(TOLD_PAUSE);
        self.pause_until = self.pause_until.max(now + pause);
        let found = found?.unwrap_or_default();
        if found.count + found.waiting > 0 && self.peer.member_parts().is_some() {
            self.peer.tell_to_collect(false).await;
        }
        Ok(Step::Idle(NEXT_TICK))
    }

    async fn wait(&mut self) {
        let _ = timeout(TICK_INTERVAL, self.peer.collections().wake.notified()).await;
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
