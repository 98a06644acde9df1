//! This device's part in making the chain longer: what it takes of others, says to them, and proposes.

use std::collections::BTreeSet;
use std::time::Duration;

use super::core::Output;
use super::keep::{Chain, State};
use super::liveness::Agreement;
use super::message::Message;
use super::naming::{Endorser, Naming};
use super::record::{Record, RecordBody, STATEMENTS_MAX, Voter};
use super::row::Tip;
use super::stored::{LOST_ROW, Link, stored_row};
use super::vote::{Ballot, Certificate, Notary, Vote};
use crate::base::DeviceId;
use crate::log::LogError;
use crate::wire::{RecordRef, Vector};

/// What a step leaves to do for who drives the chain, in this order: sync the rows where `must_sync`
/// says so, send the messages, and where the chain grew [`Chain::publish`] it. So no voter forgets what
/// others have seen of it.
#[derive(Debug, Default)]
#[must_use]
pub struct Outcome {
    /// Whether the rows hold what must be durable before anything of this is told.
    pub must_sync: bool,
    /// What to say to which voter; it may be lost.
    pub messages: Vec<(DeviceId, Message)>,
    /// The newest record, where the chain is longer.
    pub grew: Option<RecordRef>,
    /// Whether this device leads and the last record that it made names all that one may, so that there
    /// may be more to name.
    pub is_full: bool,
}

/// What the next record says beside what it names.
#[derive(Debug, Clone, Default)]
pub struct Proposal {
    /// When it is made, milliseconds since 1970.
    pub now_ms: u64,
    /// The least record that the fold of any op to come may look back to: the base line follows it, in a
    /// record that names nothing where nothing more comes.
    pub needed: u64,
    /// Whether a member asks that it be a checkpoint: see [`Chain::marked`].
    pub asks_checkpoint: bool,
    /// Who is to decide the records behind it, ascending by device; `None` for those that decide now.
    pub voters: Option<Vec<Voter>>,
    /// Whether it is one where none is due, too.
    pub is_checkpoint: bool,
}

impl Outcome {
    /// Returns what is left to do after a step and the next one.
    fn and(mut self, next: Self) -> Self {
        self.messages.extend(next.messages);
        Self {
            must_sync: self.must_sync || next.must_sync,
            messages: self.messages,
            grew: next.grew.or(self.grew),
            is_full: next.is_full,
        }
    }
}

impl Chain {
    /// Gives this device, which decides alone, its vote back: it has heard how long the chain of the
    /// others is, or there are none.
    pub fn trust(&self, now: Duration) -> Result<Outcome, LogError> {
        let mut state = self.state.lock();
        let before = state.agreement.tip().at.number;
        state.agreement.trust_row();
        self.settle(&mut state, before, now)
    }

    /// Takes records that a peer handed over, as [`Chain::range`] returned them there, up to the first
    /// that does not continue this chain.
    ///
    /// # Errors
    ///
    /// [`LogError::MalformedRecord`] and its like for what is no record, [`LogError::Uncertified`]
    /// where one is here or does not follow what is here, or the store's error. What came before it
    /// is taken all the same, so that the outcome is to be seen to in any case.
    pub fn accept(
        &self,
        links: &[impl AsRef<[u8]>],
        from: DeviceId,
        now: Duration,
        notary: &dyn Notary,
    ) -> (Outcome, Result<(), LogError>) {
        let mut state = self.state.lock();
        let before = state.agreement.tip().at.number;
        let mut taken = Ok(());
        for link in links {
            let link = match Link::from_bytes(link.as_ref()) {
                Ok(link) => link,
                Err(error) => {
                    taken = Err(error);
                    break;
                }
            };
            let (era, number) = (link.record.era, link.record.number);
            if number <= state.agreement.tip().at.number {
                continue;
            }
            // What a former admin began may be void: that is weighed with all that follows.
            let begins = link.record.era > state.agreement.tip().at.era;
            let founder = link.certificate.votes.first();
            if begins && founder.is_none_or(|(by, _)| notary.seniority(*by).is_none()) {
                taken = Err(LogError::Uncertified { era, number });
                break;
            }
            let message = Message::Decided {
                record: link.record,
                certificate: link.certificate,
            };
            self.step(&mut state, notary, |agreement, notary| {
                agreement.receive(now, from, message, notary);
            });
            if state.agreement.tip().at.number != number {
                taken = Err(LogError::Uncertified { era, number });
                break;
            }
        }
        match self.settle(&mut state, before, now) {
            Ok(outcome) => (outcome, taken),
            Err(error) => (Outcome::default(), Err(error)),
        }
    }

    /// Takes what another device says of the agreement, whose letter it is proved to be.
    pub fn receive(
        &self,
        from: DeviceId,
        message: Message,
        now: Duration,
        notary: &dyn Notary,
    ) -> Result<Outcome, LogError> {
        let mut state = self.state.lock();
        let before = state.agreement.tip().at.number;
        self.step(&mut state, notary, |agreement, notary| {
            agreement.receive(now, from, message, notary);
        });
        self.settle(&mut state, before, now)
    }

    /// Does what is due for the agreement, and proposes the next record where this device leads the
    /// voters and there is something to say: segments that peers may be told of and no record names,
    /// other voters, what ended somebody's right to write, a base line below which something lies, or that it
    /// is a checkpoint. What is
    /// here of who lost it in this record may be named. To be called once a second or more often.
    pub fn extend(
        &self,
        now: Duration,
        proposal: Proposal,
        notary: &dyn Notary,
    ) -> Result<Outcome, LogError> {
        let mut state = self.state.lock();
        let before = state.agreement.tip().at.number;
        self.step(&mut state, notary, |agreement, notary| {
            agreement.tick(now, notary);
        });
        // What that decided is in the rows before anything builds on it.
        let outcome = self.settle(&mut state, before, now)?;
        if !state.agreement.is_free() {
            return Ok(outcome);
        }
        let tip = state.agreement.tip().clone();
        let offered = self.offered_counting(&mut state)?;
        let footing = |record| self.footing(record);
        let next = Naming::new(&self.log, &state.named, tip.at.number, &footing).all(&offered)?;
        let statements = self.roll.endings().into_iter();
        let statements = statements.filter(|statement| !state.taken.contains_key(statement));
        let statements: BTreeSet<[u8; 32]> = statements.take(STATEMENTS_MAX).collect();
        let needed = proposal.needed.min(next.needed).min(tip.at.number);
        let base_line = needed.max(tip.base_line);
        let settles = tip.base_line < state.last && base_line >= state.last;
        let voters = proposal.voters.unwrap_or_else(|| tip.voters.clone());
        let names_any = !next.names.is_empty() || !statements.is_empty();
        let is_due = self.is_mark_due(&mut state, proposal.now_ms, proposal.asks_checkpoint)?;
        let is_news = settles || names_any || is_due || voters != tip.voters;
        let number = tip.at.number.checked_add(1);
        let Some(number) = number.filter(|_| is_news) else {
            return Ok(outcome);
        };
        let record = Record::new(RecordBody {
            era: tip.at.era,
            number,
            prev: tip.at.hash,
            segments: next.names,
            ended: Vec::new(),
            statements: statements.into_iter().collect(),
            base_line,
            time_ms: proposal.now_ms,
            voters,
            is_checkpoint: is_due || proposal.is_checkpoint,
        })?;
        // What it names was looked at a moment ago.
        if state.agreement.propose(now, record, notary) {
            state.is_full = next.is_full;
        }
        let made = self.settle(&mut state, tip.at.number, now)?;
        Ok(outcome.and(made))
    }

    /// Begins an era, in which this device decides alone: an admin does so where of those who decide too few
    /// are members any more. It stands behind the newest record up to which all is here that records name:
    /// what somebody named who is gone, and nobody has, could be folded nowhere.
    ///
    /// # Errors
    ///
    /// [`LogError::Uncertified`] where this device is no admin, or the store's error.
    pub fn begin_era(
        &self,
        now: Duration,
        now_ms: u64,
        notary: &dyn Notary,
    ) -> Result<Outcome, LogError> {
        let mut state = self.state.lock();
        let newest = state.agreement.tip().at;
        let held = self.hold_in(&mut state)?;
        let tip = match self.get(held)? {
            Some(record) if held < newest.number => Tip::of(&record),
            _ => state.agreement.tip().clone(),
        };
        let (Some(era), Some(number)) = (tip.at.era.checked_add(1), tip.at.number.checked_add(1))
        else {
            return Ok(Outcome::default());
        };
        let record = Record::new(RecordBody {
            era,
            number,
            prev: tip.at.hash,
            segments: Vec::new(),
            ended: Vec::new(),
            statements: Vec::new(),
            base_line: tip.base_line,
            time_ms: now_ms,
            voters: vec![self.own],
            is_checkpoint: false,
        })?;
        let ballot = Ballot {
            round: era,
            leader: self.own.device,
        };
        let volume = self.founding.volume;
        let vote = Vote::new(volume, &record, ballot);
        let certificate = Certificate {
            ballot,
            votes: vec![(self.own.device, notary.sign(&vote))],
        };
        if tip.at == newest {
            state.agreement.begin_era(now, record, certificate, notary);
            return self.settle(&mut state, newest.number, now);
        }
        certificate.check(volume, &tip, &record, notary)?;
        let ours = self.behind(tip.at.number)?;
        let begun = Link {
            record,
            certificate,
        };
        self.go_over(&mut state, &ours, &[begun], now)
    }

    /// Has the agreement do something; it endorses only what this device holds.
    fn step(
        &self,
        state: &mut State,
        notary: &dyn Notary,
        step: impl FnOnce(&mut Agreement, &dyn Notary),
    ) {
        let offered = match self.offered_counting(state) {
            Ok(offered) => offered,
            Err(error) => {
                tracing::warn!(%error, "no vote for a record whose segments cannot be read");
                Vector::new()
            }
        };
        let footing = |record| self.footing(record);
        let endorser = Endorser {
            notary,
            footing: &footing,
            log: &self.log,
            named: &state.named,
            offered: &offered,
            roll: &*self.roll,
            base_line: state.agreement.tip().base_line,
        };
        step(&mut state.agreement, &endorser);
    }

    /// Says that the records up to one are durable, so that peers may be told of them.
    pub fn publish(&self, tip: RecordRef) {
        let mut shown = self.shown.lock();
        // Another chain that counts may be shorter.
        if tip == shown.tip || tip.number > shown.durable.number {
            shown.durable = tip;
        }
    }

    /// Writes what a step of the agreement leaves to be written. Where that fails the agreement goes
    /// on from what is on the disk, and nothing of it is told.
    fn settle(&self, state: &mut State, before: u64, now: Duration) -> Result<Outcome, LogError> {
        let output = state.agreement.poll();
        match self.write(state, &output) {
            Ok(named) => {
                state.named.extend(named);
                for (record, _) in &output.decided {
                    for statement in &record.statements {
                        state.taken.entry(*statement).or_insert(record.number);
                        state.fence = None;
                    }
                }
                let marks = output.decided.iter().map(|(record, _)| record);
                let marks = marks.filter(|record| record.is_checkpoint);
                let marked = marks.map(|record| record.number).max();
                state.marked = state.marked.max(marked.unwrap_or(0));
                let records = output.decided.iter().map(|(record, _)| record);
                let naming = records.filter(|record| !record.segments.is_empty());
                let last = naming.map(|record| record.number).max();
                state.last = state.last.max(last.unwrap_or(0));
                if !output.decided.is_empty() {
                    self.hold_in(state)?;
                }
                Ok(self.show(state, output, before))
            }
            Err(error) => {
                self.begin_again(state, now)?;
                Err(error)
            }
        }
    }

    /// Goes on from what is on the disk.
    pub(super) fn begin_again(&self, state: &mut State, now: Duration) -> Result<(), LogError> {
        let row = stored_row(&*self.rows)?.ok_or(LOST_ROW)?;
        let seed = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        state.agreement = Agreement::new(self.founding.volume, row, now, seed);
        Ok(())
    }

    /// Shows what a step that is written has changed since record `before`.
    pub(super) fn show(&self, state: &State, output: Output, before: u64) -> Outcome {
        let Tip {
            at: tip, base_line, ..
        } = *state.agreement.tip();
        {
            let mut shown = self.shown.lock();
            (shown.tip, shown.base_line) = (tip, base_line);
        }
        let grew = (tip.number > before).then_some(tip);
        Outcome {
            must_sync: output.must_sync || grew.is_some(),
            messages: output.messages,
            grew,
            is_full: grew.is_some() && state.agreement.leads() && state.is_full,
        }
    }
}
