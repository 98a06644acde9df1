//! Follows the newest checkpoint that counts: lets go of what led there, or takes it over; and asks for one when
//! nothing changes any more and segments are a good part of what is here.

use std::sync::Arc;
use std::time::Duration;

use super::TICK_INTERVAL;
use crate::base::time::sleep;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::daemon::checkpoints::Left;
use crate::daemon::peer::{Member, Peer};
use crate::daemon::troubles::Trouble;
use crate::log::checkpoint::Checkpoint;
use crate::wire::{RecordRef, Vector};

/// How long nothing moves before a checkpoint is taken over by who has something: what is missing comes from
/// another peer at the same time, perhaps.
const STALL_MAX: Duration = Duration::from_secs(5);

/// How long nothing changes before a checkpoint is asked for by who has segments that are this part of all that it
/// keeps, and are not few: by then nobody waits for what making it takes.
const REST: Duration = Duration::from_secs(30);
const SEGMENTS_PART: u64 = 8;
const SEGMENTS_MIN_BYTES: u64 = 1 << 20;

/// The worker.
pub(super) struct Checkpoints {
    peer: Arc<Peer>,
    member: Member,
    /// The one that is done with.
    done: Option<Checkpoint>,
    /// What was folded and here when something moved last, and when that was.
    moved: Option<(RecordRef, Vector, Duration)>,
    /// What was here when one was asked for last, because nothing changed, and the bytes of segments then.
    asked: Option<(Vector, u64)>,
}

impl Checkpoints {
    pub(super) fn new(peer: &Arc<Peer>, member: &Member) -> Self {
        Self {
            peer: Arc::clone(peer),
            member: member.clone(),
            done: None,
            moved: None,
            asked: None,
        }
    }

    /// Tells where members say different things of one record.
    fn tell_differing(&self) {
        let differing = self.peer.node().checkpoints_differ();
        let told = differing.map(|(number, devices)| {
            let names = devices.into_iter().map(|device| self.peer.device_name(device));
            let names = names.collect::<Vec<_>>().join(", ");
            let what = format!("{names} have not the same files after the same changes (record {number})");
            let advice = "run the same version of dfs on all of them; dfs status says there whose rows \
                          are damaged";
            (what, advice.to_owned())
        });
        self.peer.troubles().set(Trouble::Checkpoints, told);
    }

    /// Says for how long nothing has moved.
    fn stands_for(&mut self) -> Duration {
        let now = self.peer.clock().monotonic();
        let here = (self.member.volume.record(), self.peer.node().log().vector());
        match &self.moved {
            Some((record, have, at)) if (*record, have) == (here.0, &here.1) => {
                now.saturating_sub(*at)
            }
            _ => {
                self.moved = Some((here.0, here.1, now));
                Duration::ZERO
            }
        }
    }

    /// Asks for a checkpoint when nothing changes any more and segments are much of what is here: once for the
    /// same ones.
    fn ask_at_rest(&mut self) {
        let stands_for = self.stands_for();
        let segments = self.peer.node().log().bytes();
        if segments < SEGMENTS_MIN_BYTES || stands_for < REST {
            return;
        }
        let many = SEGMENTS_MIN_BYTES.max(self.peer.room().kept_bytes() / SEGMENTS_PART);
        // Where they do not go, whatever the reason, as many more have to come before the next one.
        let asked = self.asked.as_ref();
        let is_asked = asked.is_some_and(|(have, bytes)| {
            let is_same = self.moved.as_ref().is_some_and(|(_, now, _)| now == have);
            is_same || (*bytes..bytes.saturating_add(many)).contains(&segments)
        });
        if segments < many || is_asked || self.peer.node().is_at_checkpoint() {
            return;
        }
        let have = self.moved.as_ref().map(|(_, have, _)| have.clone());
        self.asked = have.map(|have| (have, segments));
        self.peer.node().ask_checkpoint();
    }
}

impl Worker for Checkpoints {
    fn job(&self) -> Job {
        Job::new(
            "take-over",
            "lets go of what led to a checkpoint, or takes one over",
        )
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        const IDLE: Step = Step::Idle("a checkpoint");
        self.tell_differing();
        self.ask_at_rest();
        self.peer.sign_checkpoints(&self.member).await?;
        let counted = self.peer.node().checkpoint();
        let awaits = counted.is_none() && self.member.volume.awaits_checkpoint()?;
        let told = awaits.then(|| {
            let what = "the files of this machine are made anew from a checkpoint, and none is here: the mount \
                        shows what is left, and takes no changes";
            let advice = "connect a machine that has them; it goes on by itself";
            (what.to_owned(), advice.to_owned())
        });
        self.peer.troubles().set(Trouble::Takeover, told);
        let Some(counted) = counted else {
            return Ok(IDLE);
        };
        if self.done == Some(counted.checkpoint) {
            return Ok(IDLE);
        }
        match self.peer.left_of(&self.member, &counted).await? {
            Left::Nothing => {
                self.peer.settle_on(&self.member, &counted).await?;
                self.done = Some(counted.checkpoint);
            }
            Left::Folding => {}
            Left::TakingOver { is_new } => {
                if is_new || self.stands_for() >= STALL_MAX {
                    self.peer.take_over(&self.member, &counted).await?;
                    return Ok(Step::Busy);
                }
            }
        }
        Ok(IDLE)
    }

    async fn wait(&mut self) {
        sleep(TICK_INTERVAL).await;
    }
}
