//! Asks for the locks of the programs here where others have the volume, too: hands over what was written
//! under those that are given up, and folds what others wrote before one is used.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::base::time::sleep;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::base::{DeviceId, LogId};
use crate::daemon::peer::{Member, Peer};
use crate::daemon::troubles::Trouble;
use crate::fs::Fs;
use crate::locks::{Absent, Effect, Reach, TICK};
use crate::wire::Vector;

/// How long no majority may be there before locks are of this machine alone: at a start sessions come first.
const CUT_AFTER: Duration = Duration::from_secs(8);

/// How often what was written is tried to be handed over, and how long.
const HAND_OVER_AGAIN: Duration = Duration::from_secs(1);
const HAND_OVER_MAX: u32 = 30;

/// What came of what was to be folded.
struct Folded {
    done: Vector,
    gone: Vector,
    absent: Absent,
}

type Work<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// The worker.
pub(super) struct Locks {
    peer: Arc<Peer>,
    fs: Arc<Fs>,
    member: Member,
    next_tick: Duration,
    /// Since when a majority was not there.
    cut_since: Option<Duration>,
    handing: Work<Option<(LogId, u64)>>,
    folding: Work<Folded>,
    absent: Absent,
}

impl Locks {
    pub(super) fn new(peer: &Arc<Peer>, member: &Member) -> Self {
        let fs = Arc::clone(&member.fs);
        peer.node()
            .read_of_locks(move |from: DeviceId, word| fs.locks().receive(from, word));
        Self {
            peer: Arc::clone(peer),
            fs: Arc::clone(&member.fs),
            member: member.clone(),
            next_tick: Duration::ZERO,
            cut_since: None,
            handing: None,
            folding: None,
            absent: Absent::default(),
        }
    }

    fn tick(&mut self) {
        let now = self.peer.clock().monotonic();
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        let mut reach = self.peer.node().lock_reach();
        match reach {
            Reach::Cut if now < *self.cut_since.get_or_insert(now) + CUT_AFTER => {
                reach = Reach::Guarded;
            }
            Reach::Cut => {}
            Reach::Alone | Reach::Guarded => self.cut_since = None,
        }
        self.fs.locks().tick(reach);
        let (unguarded, lost) = self.fs.locks().told();
        let troubles = self.peer.troubles();
        let told = (unguarded > 0).then(|| {
            let what = format!("locks of {unguarded} files hold on this machine alone: nobody grants them");
            let advice = "connect this machine to most of those that decide the order of changes; mount \
                          with -o locks=strict to have programs refused locks meanwhile";
            (what, advice.to_owned())
        });
        troubles.set(Trouble::Locks, told);
        let told = (lost > 0).then(|| {
            let what =
                format!("another machine has locks of {lost} files that programs hold here, too");
            let advice = "end the programs that use them on one of the machines";
            (what, advice.to_owned())
        });
        troubles.set(Trouble::LostLocks, told);
    }

    fn begin(&mut self, effect: Effect) {
        match effect {
            Effect::Say { to, word } => self.peer.node().say_of_locks(to, word),
            Effect::Publish => {
                self.handing = Some(Box::pin(hand_over(Arc::clone(&self.peer))));
            }
            Effect::Fold { heads } => {
                let (peer, member) = (Arc::clone(&self.peer), self.member.clone());
                let absent = std::mem::take(&mut self.absent);
                self.folding = Some(Box::pin(fold(peer, member, heads, absent)));
            }
            // Whoever waits has it.
            Effect::Done { .. } => {}
        }
    }
}

/// Hands all over that programs wrote; returns up to where the log goes that has it.
async fn hand_over(peer: Arc<Peer>) -> Option<(LogId, u64)> {
    for _ in 0..HAND_OVER_MAX {
        // One file that cannot be written, whichever it is, keeps back nothing of the others.
        let written = peer.write_out().await;
        match peer.publish().await.and(written) {
            Ok(()) => break,
            Err(error) => {
                tracing::warn!(%error, "what was written under a lock is not handed over yet");
            }
        }
        sleep(HAND_OVER_AGAIN).await;
    }
    let log = peer.node().log();
    let own = log.own_log();
    log.vector().get(&own).map(|end| (own, *end))
}

/// Returns what is folded and the kernel knows, and what is not to be had, once there is any.
async fn fold(peer: Arc<Peer>, member: Member, heads: Vector, mut absent: Absent) -> Folded {
    match peer.folded_of(&member, &heads, &mut absent).await {
        Ok((done, gone)) => {
            if !gone.is_empty() {
                tracing::warn!("what was written under a lock did not come: its writer is gone");
            }
            Folded { done, gone, absent }
        }
        Err(error) => {
            tracing::warn!(%error, "what was written under a lock is not shown");
            let (done, gone) = (Vector::new(), heads);
            Folded { done, gone, absent }
        }
    }
}

/// Resolves when work is done that is under way.
async fn done<T>(work: &mut Work<T>) -> T {
    match work {
        Some(under_way) => {
            let outcome = under_way.as_mut().await;
            *work = None;
            outcome
        }
        None => std::future::pending().await,
    }
}

impl Worker for Locks {
    fn job(&self) -> Job {
        Job::new("lock-requests", "asks for the locks of programs here")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        self.tick();
        for effect in self.fs.locks().effects() {
            self.begin(effect);
        }
        Ok(Step::Idle("programs that ask for locks"))
    }

    async fn wait(&mut self) {
        let fs = Arc::clone(&self.fs);
        let pause = self.next_tick.saturating_sub(self.peer.clock().monotonic());
        tokio::select! {
            biased;
            () = fs.locks().work() => {}
            head = done(&mut self.handing) => fs.locks().published(head),
            folded = done(&mut self.folding) => {
                self.absent = folded.absent;
                fs.locks().folded(&folded.done, &folded.gone);
            }
            () = sleep(pause) => {}
        }
    }
}
