//! The liveness of the agreement: who campaigns when, who leads how long, what is said again.
//!
//! Nothing here can break the agreement; that is the core's. Time is told with each call and need
//! not be the same or equally fast anywhere; chance comes from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::core::{Core, Output, is_ahead};
use super::message::Message;
use super::record::Record;
use super::row::{Row, Tip};
use super::vote::{Ballot, Certificate, Notary};
use crate::base::{DeviceId, Rng, VolumeId};
use crate::wire::RecordRef;

/// How often [`Agreement::tick`] is called at least where anything is to be said again; the pulse
/// of a session. More often does no harm: beats keep this pause.
pub const BEAT: Duration = Duration::from_secs(2);

/// How long a leader that was heard is left in peace: four beats, of which any one is enough.
const LEASE: Duration = Duration::from_secs(8);

/// How long a leader goes on without an answer from a majority: longer than a lease, so that a beat
/// that was lost both ways and said again costs no election.
const ALONE_MAX: Duration = Duration::from_secs(12);

/// One device's part in the agreement on the records of a volume, voter or not.
///
/// To drive it: [`Agreement::tick`] at each pulse, [`Agreement::receive`] for each message whose
/// sender is proved, [`Agreement::propose`] when there is something to name and
/// [`Agreement::is_free`]; after each call do what [`Agreement::poll`] says, in its order. `now` is
/// of a clock that never goes back. Each record of [`Output::decided`] is kept and told to the
/// other members; a record that came with them goes in as [`Message::Decided`]. Where the folder was
/// put back or moved, the row is written with [`Row::is_unsure`] before it begins.
#[derive(Debug)]
pub struct Agreement {
    core: Core,
    rng: Rng,
    /// When a leader was last heard, or this device last did what a leader would interrupt.
    heard: Duration,
    /// How long after that this device asks whether it may lead.
    patience: Duration,
    /// Until when the others are not to be disturbed, because a leader was heard.
    lease_until: Duration,
    asked: Option<Question>,
    /// When each voter last heard this leader.
    acks: BTreeMap<DeviceId, Duration>,
    next_beat: Duration,
}

/// The question whether a campaign is welcome, and who said yes.
#[derive(Debug)]
struct Question {
    round: u64,
    yes: BTreeSet<DeviceId>,
}

impl Agreement {
    /// Takes part in the agreement as `row` has it; `seed` is to be another one at each start.
    ///
    /// A leader that is there has the time of a lease to be heard, so a start disturbs nobody.
    pub fn new(volume: VolumeId, row: Row, now: Duration, seed: u64) -> Self {
        let rng = Rng::from_seed(seed);
        let nonce = rng.below(u64::MAX);
        let mut agreement = Self {
            core: Core::new(volume, row, nonce),
            rng,
            heard: now,
            patience: LEASE,
            lease_until: now + LEASE,
            asked: None,
            acks: BTreeMap::new(),
            next_beat: now,
        };
        agreement.rest(now);
        agreement
    }

    /// Returns the newest record that is known to be decided: the one to build on.
    pub fn tip(&self) -> &Tip {
        self.core.tip()
    }

    /// Returns the row as it is now.
    pub fn row(&self) -> &Row {
        self.core.row()
    }

    /// Says whether this device is named for a vote on the next record.
    pub fn is_voter(&self) -> bool {
        self.core.is_voter()
    }

    /// Says whether this voter's row is unsure, so that it has no vote until more than n - majority
    /// of the other voters have said what they know.
    pub fn is_recalling(&self) -> bool {
        self.core.is_recalling()
    }

    /// Says whether this device leads.
    pub fn leads(&self) -> bool {
        self.core.leads().is_some()
    }

    /// Says whether this device leads and may propose the next record.
    pub fn is_free(&self) -> bool {
        self.core.is_free()
    }

    /// Returns what is to be done since the last call.
    pub fn poll(&mut self) -> Output {
        self.core.poll()
    }

    /// Proposes the next record. False where this device is not free to, or the record does not
    /// follow [`Agreement::tip`] or is not endorsed here.
    pub fn propose(&mut self, now: Duration, record: Record, notary: &dyn Notary) -> bool {
        let led = self.leads();
        let taken = self.core.propose(record, notary);
        self.settle(now, led);
        taken
    }

    /// Goes over to another chain that counts: a new era, or the winner of two chains.
    pub fn adopt(&mut self, now: Duration, tip: Tip) {
        self.core.adopt(tip);
        self.rest(now);
    }

    /// Begins an era with a record of this device, an admin's, and its signature.
    pub fn begin_era(
        &mut self,
        now: Duration,
        record: Record,
        certificate: Certificate,
        notary: &dyn Notary,
    ) {
        let led = self.leads();
        self.core.learn(record, certificate, notary);
        self.settle(now, led);
    }

    /// Says that the row of a lone voter is whole though its folder was put back or moved. The
    /// caller knows it: nobody else is a member, or somebody was asked.
    pub fn trust_row(&mut self) {
        self.core.trust_row();
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Duration, notary: &dyn Notary) {
        let led = self.leads();
        if !self.is_voter() {
            return;
        }
        let is_beat = now >= self.next_beat;
        if is_beat {
            self.next_beat = now + BEAT;
        }
        let others = self.core.others();
        if self.is_recalling() {
            if is_beat {
                self.core.resend(notary);
            }
        } else if let Some(ballot) = self.core.leads() {
            let heard_by = |device: &DeviceId| {
                let at = self.acks.get(device);
                at.is_some_and(|at| now < *at + ALONE_MAX)
            };
            let fresh = others.iter().filter(|device| heard_by(device)).count();
            let is_alone = fresh + 1 < self.tip().majority();
            // One that may never endorse what it must propose gives others their turn, too.
            let is_stuck = self.core.is_bound();
            if (is_alone || is_stuck) && now >= self.heard + ALONE_MAX {
                self.core.resign();
                self.rest(now);
            } else if is_beat {
                let after = self.tip().at;
                for to in others {
                    self.core.send(to, Message::Beat { after, ballot });
                }
                self.core.resend(notary);
            }
        } else if others.is_empty() {
            self.core.campaign(notary);
        } else if now >= self.heard + self.patience {
            self.ask(now, &others);
        } else if is_beat {
            self.core.resend(notary);
        }
        self.settle(now, led);
    }

    /// Takes a message of another device.
    pub fn receive(
        &mut self,
        now: Duration,
        from: DeviceId,
        message: Message,
        notary: &dyn Notary,
    ) {
        let led = self.leads();
        match message {
            Message::Beat { after, ballot } => self.on_beat(now, from, after, ballot),
            Message::Heard { ballot } => {
                if self.core.leads() == Some(ballot) && self.tip().has_voter(from) {
                    self.acks.insert(from, now);
                }
            }
            Message::Ask { after, round } => {
                let is_in_step = self.core.is_in_step(from, after);
                if is_in_step && !self.leads() && now >= self.lease_until {
                    self.core.send(from, Message::Would { after, round });
                }
            }
            Message::Would { after, round } => {
                let is_own = after == self.tip().at && self.tip().has_voter(from);
                if let Some(asked) = self.asked.as_mut().filter(|asked| asked.round == round)
                    && is_own
                {
                    asked.yes.insert(from);
                    // This device says yes, too.
                    if asked.yes.len() + 1 >= self.core.tip().majority() {
                        self.asked = None;
                        self.core.campaign(notary);
                    }
                }
            }
            // Locks are the locks room's.
            Message::Lock(_) => {}
            Message::Prepare { .. }
            | Message::Promise { .. }
            | Message::Accept { .. }
            | Message::Accepted { .. }
            | Message::Decided { .. }
            | Message::Refused { .. }
            | Message::Behind { .. }
            | Message::Recall { .. }
            | Message::Recalled { .. } => self.core.step(from, message, notary),
        }
        self.settle(now, led);
    }

    fn on_beat(&mut self, now: Duration, from: DeviceId, after: RecordRef, ballot: Ballot) {
        if ballot.leader != from || !self.tip().has_voter(from) {
            return;
        }
        let is_ahead = is_ahead(after, self.tip().at);
        let is_in_step = self.core.is_in_step(from, after);
        // One that is ahead leads, although what it led to is not here yet.
        if !is_in_step && !is_ahead {
            return;
        }
        let promised = self.core.row().promised;
        if ballot < promised && is_in_step {
            self.core.send(from, Message::Refused { promised });
            return;
        }
        self.core.yield_to(ballot);
        if !self.leads() {
            self.rest(now);
            self.lease_until = now + LEASE;
        }
        self.core.send(from, Message::Heard { ballot });
    }

    /// Asks the others whether a campaign is welcome. Whoever hears a leader says no, so that one
    /// who was cut off alone disturbs nobody when it is back.
    fn ask(&mut self, now: Duration, others: &[DeviceId]) {
        self.core.resign();
        self.rest(now);
        // Of two who ask at one time the one who asks again sooner is not always the same.
        self.patience = BEAT + self.below(LEASE);
        let round = self.rng.below(u64::MAX);
        self.asked = Some(Question {
            round,
            yes: BTreeSet::new(),
        });
        let after = self.tip().at;
        for to in others {
            self.core.send(*to, Message::Ask { after, round });
        }
    }

    /// Takes note of what a call changed: `led` is whether this device led before.
    fn settle(&mut self, now: Duration, led: bool) {
        if led && !self.leads() {
            self.rest(now);
        }
        if self.leads() && !led {
            self.heard = now;
            self.acks.clear();
            self.asked = None;
            self.next_beat = now;
        }
    }

    /// Begins to wait anew.
    fn rest(&mut self, now: Duration) {
        self.heard = now;
        self.patience = LEASE + self.below(LEASE);
        self.asked = None;
    }

    fn below(&self, bound: Duration) -> Duration {
        let millis = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.rng.below(millis))
    }
}
