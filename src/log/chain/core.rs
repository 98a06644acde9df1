//! The safety of the agreement: one single-decree Paxos register a record (Lamport 2001), the next
//! only when the last is decided. No time, no chance, no order or reliability of messages.
//!
//! Every change here is checked by `tests/check.rs` and `tests/storm.rs` anew.

use std::collections::BTreeMap;

use super::message::Message;
use super::record::Record;
use super::row::{Row, Tip};
use super::vote::{Ballot, Certificate, Notary, Vote};
use crate::base::{DeviceId, VolumeId};
use crate::crypto::Signature;
use crate::wire::RecordRef;

/// What a step of the agreement leaves to do, in this order: write `row`, sync where `must_sync`
/// says so, then all else. Where the write fails nothing else of it may happen, and the agreement
/// is begun anew from the row that is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Output {
    /// The row as it is now, where it changed.
    pub row: Option<Row>,
    /// Whether the row holds a new promise or vote, which must be durable before it is told. Else
    /// only the tip moved, of which a crash may forget as much as it likes.
    pub must_sync: bool,
    /// Records that were decided, each continuing the one before; to be kept and spread.
    pub decided: Vec<(Record, Certificate)>,
    /// What to send to which voter.
    pub messages: Vec<(DeviceId, Message)>,
    /// Peers that lack the records behind these, to be sent as [`Message::Decided`] by who keeps
    /// the chain. A record that is none of the own chain means that there are two.
    pub lacking: Vec<(DeviceId, RecordRef)>,
}

/// One device's part in the agreement.
///
/// Invariants: `row.promised` never falls; nothing is accepted below it; a leader's ballot is
/// `row.promised`, because whatever raises that ends the lead.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Core {
    volume: VolumeId,
    row: Row,
    /// Tells the answers to this start of an unsure row from those to an earlier one.
    nonce: u64,
    role: Role,
    /// Greatest round that was heard of.
    seen: u64,
    out: Output,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Role {
    Following,
    /// Asks for promises.
    Preparing {
        ballot: Ballot,
        promises: BTreeMap<DeviceId, Option<(Ballot, Record)>>,
    },
    /// Has the promises of a majority of the voters, for the register behind the tip and for all
    /// later ones that the same voters decide.
    Leading {
        ballot: Ballot,
        task: Task,
    },
    /// Has no vote, because the row is unsure: asks the others what they promised and accepted.
    Recalling {
        heard: BTreeMap<DeviceId, (Ballot, Option<(Ballot, Record)>)>,
    },
}

/// What a leader is at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Task {
    /// May propose what it likes.
    Free,
    /// Must propose a record that may have been decided before, once this device endorses it.
    Bound(Record),
    /// Collects votes, its own included.
    Proposed {
        record: Record,
        votes: BTreeMap<DeviceId, Signature>,
    },
}

impl Core {
    /// Returns the agreement as `row` has it. An unsure row asks under `nonce`, which is used for
    /// this start alone.
    pub(super) fn new(volume: VolumeId, row: Row, nonce: u64) -> Self {
        let mut core = Self {
            volume,
            seen: row.promised.round,
            row,
            nonce,
            role: Role::Following,
            out: Output::default(),
        };
        core.follow();
        core
    }

    pub(super) fn row(&self) -> &Row {
        &self.row
    }

    pub(super) fn tip(&self) -> &Tip {
        &self.row.tip
    }

    /// Says whether this row is named for a vote on the next record; an unsure one has none yet.
    pub(super) fn is_voter(&self) -> bool {
        self.row.tip.voters.contains(&self.row.own)
    }

    pub(super) fn is_recalling(&self) -> bool {
        matches!(self.role, Role::Recalling { .. })
    }

    /// Returns the ballot at which this device leads.
    pub(super) fn leads(&self) -> Option<Ballot> {
        match &self.role {
            Role::Leading { ballot, .. } => Some(*ballot),
            Role::Following | Role::Preparing { .. } | Role::Recalling { .. } => None,
        }
    }

    /// Says whether [`Core::propose`] would take a record now.
    pub(super) fn is_free(&self) -> bool {
        matches!(
            self.role,
            Role::Leading {
                task: Task::Free,
                ..
            }
        )
    }

    /// Says whether the leader waits until it may endorse what an earlier one proposed.
    pub(super) fn is_bound(&self) -> bool {
        matches!(
            self.role,
            Role::Leading {
                task: Task::Bound(_),
                ..
            }
        )
    }

    /// Returns the voters of the next record but this device.
    pub(super) fn others(&self) -> Vec<DeviceId> {
        let voters = self.row.tip.voters.iter().map(|voter| voter.device);
        voters.filter(|device| *device != self.me()).collect()
    }

    /// Returns what is to be done since the last call.
    pub(super) fn poll(&mut self) -> Output {
        std::mem::take(&mut self.out)
    }

    /// Sends a message that says nothing of promises and votes.
    pub(super) fn send(&mut self, to: DeviceId, message: Message) {
        self.out.messages.push((to, message));
    }

    /// Tries to lead, at a ballot above all that were heard of.
    pub(super) fn campaign(&mut self, notary: &dyn Notary) {
        let top = self.seen.max(self.row.promised.round);
        // A round that cannot be counted up is a liar's; an admin's new era is the way on.
        let (true, false, Some(round)) = (self.is_voter(), self.is_recalling(), top.checked_add(1))
        else {
            return;
        };
        let leader = self.me();
        let ballot = Ballot { round, leader };
        self.seen = round;
        self.row.promised = ballot;
        self.wrote(true);
        let promises = BTreeMap::from([(leader, self.row.accepted.clone())]);
        self.role = Role::Preparing { ballot, promises };
        let after = self.row.tip.at;
        self.tell_voters(&Message::Prepare { after, ballot });
        self.lead_if_promised(notary);
    }

    /// Proposes the next record. False where this device is not free to, or the record does not
    /// follow the tip or is not endorsed here.
    pub(super) fn propose(&mut self, record: Record, notary: &dyn Notary) -> bool {
        let fits = self.is_free() && record.follows(&self.row.tip) && notary.endorses(&record);
        if fits {
            self.put(record, notary);
        }
        fits
    }

    /// Says again what has no answer yet.
    pub(super) fn resend(&mut self, notary: &dyn Notary) {
        let after = self.row.tip.at;
        match &self.role {
            Role::Following => {}
            Role::Preparing { ballot, .. } => {
                let ballot = *ballot;
                self.tell_voters(&Message::Prepare { after, ballot });
            }
            Role::Leading { ballot, task } => match task {
                Task::Free => {}
                Task::Bound(record) => {
                    let record = record.clone();
                    self.put(record, notary);
                }
                Task::Proposed { record, .. } => {
                    let (ballot, record) = (*ballot, record.clone());
                    self.tell_voters(&Message::Accept { ballot, record });
                }
            },
            Role::Recalling { .. } => {
                let nonce = self.nonce;
                self.tell_voters(&Message::Recall { after, nonce });
            }
        }
    }

    /// Leads no more, and asks for promises no more.
    pub(super) fn resign(&mut self) {
        if !self.is_recalling() {
            self.follow();
        }
    }

    /// Takes note that somebody has this ballot; where it is greater than the own, this device
    /// leads no more.
    pub(super) fn yield_to(&mut self, ballot: Ballot) {
        self.seen = self.seen.max(ballot.round);
        if let Role::Preparing { ballot: own, .. } | Role::Leading { ballot: own, .. } = &self.role
            && *own < ballot
        {
            self.role = Role::Following;
        }
    }

    /// Goes over to a record that the caller judged to be of the chain that counts: another era, or
    /// the winner of two chains.
    pub(super) fn adopt(&mut self, tip: Tip) {
        self.move_on(tip);
        self.follow();
        self.wrote(true);
    }

    /// Gives an unsure row its vote without asking the others.
    pub(super) fn trust_row(&mut self) {
        if self.is_recalling() {
            self.row.is_unsure = false;
            self.follow();
            self.wrote(true);
        }
    }

    /// Takes a decided record, whoever sends it.
    pub(super) fn learn(&mut self, record: Record, certificate: Certificate, notary: &dyn Notary) {
        let tip = &self.row.tip;
        let begins_era = record.begins_era(tip);
        if !(begins_era || record.follows(tip))
            || certificate
                .check(self.volume, tip, &record, notary)
                .is_err()
        {
            return;
        }
        let same_voters = !begins_era && record.voters == tip.voters;
        let is_own = !begins_era && self.leads() == Some(certificate.ballot);
        self.move_on(Tip::of(&record));
        self.out.decided.push((record, certificate));
        self.wrote(false);
        match &mut self.role {
            // The promises hold for the next register too: who gave them had accepted nothing there
            // and accepts nothing below them since.
            Role::Leading { task, .. } if is_own && same_voters => *task = Task::Free,
            Role::Following
            | Role::Preparing { .. }
            | Role::Leading { .. }
            | Role::Recalling { .. } => self.follow(),
        }
        // Of other voters they are no majority; who led the old ones knows first when the new begin.
        if is_own && !same_voters {
            self.campaign(notary);
        }
    }

    /// Takes a message of another device. Those of liveness are not for here.
    pub(super) fn step(&mut self, from: DeviceId, message: Message, notary: &dyn Notary) {
        if from == self.me() {
            return;
        }
        match message {
            Message::Decided {
                record,
                certificate,
            } => match after(&record) {
                Some(_) if record.begins_era(&self.row.tip) => {
                    self.learn(record, certificate, notary);
                }
                Some(after) if is_ahead(after, self.row.tip.at) => self.fall_behind(from),
                Some(_) => self.learn(record, certificate, notary),
                None => {}
            },
            Message::Behind { have } => self.out.lacking.push((from, have)),
            Message::Prepare { after, ballot } => {
                if self.may_answer(from, after, ballot) {
                    if ballot > self.row.promised {
                        self.row.promised = ballot;
                        self.role = Role::Following;
                        self.wrote(true);
                    }
                    let accepted = self.row.accepted.clone();
                    let promise = Message::Promise {
                        after,
                        ballot,
                        accepted,
                    };
                    self.send(from, promise);
                }
            }
            Message::Promise {
                after,
                ballot,
                accepted,
            } => {
                let fits = accepted
                    .as_ref()
                    .is_none_or(|(at, record)| *at < ballot && record.follows(&self.row.tip));
                if let Role::Preparing {
                    ballot: own,
                    promises,
                } = &mut self.role
                    && *own == ballot
                    && after == self.row.tip.at
                    && self.row.tip.has_voter(from)
                    && fits
                {
                    promises.insert(from, accepted);
                    self.lead_if_promised(notary);
                }
            }
            Message::Accept { ballot, record } => self.accept(from, ballot, record, notary),
            Message::Accepted {
                after,
                ballot,
                hash,
                signature,
            } => {
                if let Role::Leading {
                    ballot: own,
                    task: Task::Proposed { record, votes },
                } = &mut self.role
                    && *own == ballot
                    && after == self.row.tip.at
                    && record.hash() == hash
                    && self.row.tip.has_voter(from)
                    && notary.verify(from, &Vote::new(self.volume, record, ballot), &signature)
                {
                    votes.insert(from, signature);
                    self.decide_if_voted(notary);
                }
            }
            Message::Refused { promised } => {
                if self.row.tip.has_voter(from) {
                    self.yield_to(promised);
                }
            }
            Message::Recall { after, nonce } => {
                if self.is_in_step(from, after) {
                    let recalled = Message::Recalled {
                        after,
                        nonce,
                        promised: self.row.promised,
                        accepted: self.row.accepted.clone(),
                    };
                    self.send(from, recalled);
                }
            }
            Message::Recalled {
                after,
                nonce,
                promised,
                accepted,
            } => {
                if let Role::Recalling { heard } = &mut self.role
                    && self.nonce == nonce
                    && after == self.row.tip.at
                    && self.row.tip.has_voter(from)
                {
                    heard.insert(from, (promised, accepted));
                    self.vote_again_if_told();
                }
            }
            Message::Beat { .. }
            | Message::Heard { .. }
            | Message::Ask { .. }
            | Message::Would { .. }
            | Message::Lock(_) => {}
        }
    }

    /// Says whether a request stands behind the own tip and comes from one of its voters to one of
    /// them; who lacks records is told, or tells.
    pub(super) fn is_in_step(&mut self, from: DeviceId, after: RecordRef) -> bool {
        let own = self.row.tip.at;
        if is_ahead(after, own) {
            self.fall_behind(from);
        } else if after != own {
            self.out.lacking.push((from, after));
        }
        after == own && self.is_voter() && !self.is_recalling() && self.row.tip.has_voter(from)
    }

    fn me(&self) -> DeviceId {
        self.row.own.device
    }

    fn fall_behind(&mut self, from: DeviceId) {
        let have = self.row.tip.at;
        self.send(from, Message::Behind { have });
    }

    fn tell_voters(&mut self, message: &Message) {
        for to in self.others() {
            self.send(to, message.clone());
        }
    }

    fn wrote(&mut self, must_sync: bool) {
        self.out.row = Some(self.row.clone());
        self.out.must_sync |= must_sync;
    }

    /// Says whether a leader's request is to be answered with yes; a smaller ballot is refused.
    fn may_answer(&mut self, from: DeviceId, after: RecordRef, ballot: Ballot) -> bool {
        if ballot.leader != from || !self.is_in_step(from, after) {
            return false;
        }
        self.seen = self.seen.max(ballot.round);
        if ballot < self.row.promised {
            let promised = self.row.promised;
            self.send(from, Message::Refused { promised });
            return false;
        }
        true
    }

    /// Votes for a record, where nothing forbids it.
    fn accept(&mut self, from: DeviceId, ballot: Ballot, record: Record, notary: &dyn Notary) {
        let Some(after) = after(&record) else {
            return;
        };
        if !self.may_answer(from, after, ballot) || !record.follows(&self.row.tip) {
            return;
        }
        // A leader that proposes two records at one ballot lies; one vote a ballot is given.
        let is_other = |(at, accepted): &(Ballot, Record)| *at == ballot && *accepted != record;
        if self.row.accepted.as_ref().is_some_and(is_other) || !notary.endorses(&record) {
            return;
        }
        if ballot > self.row.promised {
            self.role = Role::Following;
        }
        let signature = notary.sign(&Vote::new(self.volume, &record, ballot));
        let hash = record.hash();
        let accepted = Some((ballot, record));
        if self.row.promised != ballot || self.row.accepted != accepted {
            self.row.promised = ballot;
            self.row.accepted = accepted;
            self.wrote(true);
        }
        let accepted = Message::Accepted {
            after,
            ballot,
            hash,
            signature,
        };
        self.send(from, accepted);
    }

    fn lead_if_promised(&mut self, notary: &dyn Notary) {
        let Role::Preparing { ballot, promises } = &self.role else {
            return;
        };
        if promises.len() < self.row.tip.majority() {
            return;
        }
        let ballot = *ballot;
        // What may have been decided was accepted by one of any majority, at no smaller ballot than
        // anything else.
        let bound = promises.values().flatten().max_by_key(|(at, _)| *at);
        let bound = bound.map(|(_, record)| record.clone());
        self.role = Role::Leading {
            ballot,
            task: Task::Free,
        };
        if let Some(record) = bound {
            self.put(record, notary);
        }
    }

    /// Votes for a record as its leader and asks the others to.
    fn put(&mut self, record: Record, notary: &dyn Notary) {
        let me = self.me();
        let Role::Leading { ballot, task } = &mut self.role else {
            return;
        };
        if !notary.endorses(&record) {
            *task = Task::Bound(record);
            return;
        }
        let ballot = *ballot;
        let signature = notary.sign(&Vote::new(self.volume, &record, ballot));
        *task = Task::Proposed {
            record: record.clone(),
            votes: BTreeMap::from([(me, signature)]),
        };
        self.row.accepted = Some((ballot, record.clone()));
        self.wrote(true);
        self.tell_voters(&Message::Accept { ballot, record });
        self.decide_if_voted(notary);
    }

    fn decide_if_voted(&mut self, notary: &dyn Notary) {
        let Role::Leading {
            ballot,
            task: Task::Proposed { record, votes },
        } = &self.role
        else {
            return;
        };
        if votes.len() < self.row.tip.majority() {
            return;
        }
        let certificate = Certificate {
            ballot: *ballot,
            votes: votes
                .iter()
                .map(|(device, vote)| (*device, *vote))
                .collect(),
        };
        let record = record.clone();
        self.tell_voters(&Message::Decided {
            record: record.clone(),
            certificate: certificate.clone(),
        });
        self.learn(record, certificate, notary);
    }

    /// Stands behind another record.
    fn move_on(&mut self, tip: Tip) {
        self.row.tip = tip;
        self.row.accepted = None;
    }

    /// Begins again as who neither leads nor has heard what it asked for.
    fn follow(&mut self) {
        self.role = if self.row.is_unsure {
            let heard = BTreeMap::new();
            Role::Recalling { heard }
        } else {
            Role::Following
        };
    }

    /// Votes again once more than n - majority others have answered, which of three are all.
    ///
    /// Each promise and vote that this row forgot was asked for by a leader that had durably
    /// promised or accepted the same and stood at that tip: one of those that answered, or this
    /// device, of which no vote ever left but in a certificate. So beyond this register it may have
    /// voted only where the next record is decided, unknown to those that answered, and names other
    /// voters. A majority has accepted that record then, and this device waits until it learns it.
    fn vote_again_if_told(&mut self) {
        let Role::Recalling { heard } = &self.role else {
            return;
        };
        let tip = &self.row.tip;
        let known = heard.values().filter_map(|(_, accepted)| accepted.as_ref());
        let newest = known.chain(self.row.accepted.as_ref());
        let newest = newest
            .filter(|(_, record)| record.follows(tip))
            .max_by_key(|(at, _)| *at)
            .cloned();
        let changes_voters = |(_, record): &(Ballot, Record)| record.voters != tip.voters;
        if heard.len() <= tip.voters.len() - tip.majority()
            || newest.as_ref().is_some_and(changes_voters)
        {
            return;
        }
        let promised = heard.values().map(|(promised, _)| *promised).max();
        self.row.promised = self.row.promised.max(promised.unwrap_or_default());
        self.row.accepted = newest;
        self.row.is_unsure = false;
        self.seen = self.seen.max(self.row.promised.round);
        self.follow();
        self.wrote(true);
    }
}

/// Says whether a tip is further than another: of a later era, or of a longer chain of one era.
pub(super) fn is_ahead(one: RecordRef, other: RecordRef) -> bool {
    (one.era, one.number) > (other.era, other.number)
}

/// Returns the record before this one, as it must be in the same era.
fn after(record: &Record) -> Option<RecordRef> {
    Some(RecordRef {
        era: record.era,
        number: record.number.checked_sub(1)?,
        hash: record.prev,
    })
}
