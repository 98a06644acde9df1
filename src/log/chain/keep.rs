//! The chain as this peer keeps it: its rows, and this device's part in making it longer.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::core::Output;
use super::fence::{Fence, NoChanges, Pasts, Roll};
use super::fork::Memory;
use super::liveness::Agreement;
use super::message::Message;
use super::naming::{Endorser, Naming};
use super::record::{Record, RecordBody, STATEMENTS_MAX, Voter};
use super::row::{Row, Tip};
use super::vote::{Ballot, Certificate, Notary, Vote};
use crate::base::{DeviceId, LogId, Rng, VolumeId};
use crate::log::{LogError, LogStore};
use crate::store::{Batch, Rows, Table, codec};
use crate::wire::limits::LINK_MAX_BYTES;
use crate::wire::{RecordRef, Vector};

const ROW_KEY: &[u8] = b"chain/row";

/// The incarnation of the row of who founds a volume. All others are random.
const FOUNDERS_ROW: u64 = 0;

const LOST_ROW: LogError = LogError::MalformedRecord {
    what: "the row of the voter, which is gone",
};

/// What every peer of a volume knows of the beginning of its chain.
#[derive(Debug, Clone, Copy)]
pub struct Founding {
    /// The volume: the hash of the statement that founded it.
    pub volume: VolumeId,
    /// The device that founded it, which decides the first record alone.
    pub founder: DeviceId,
}

impl Founding {
    /// Returns record 0, which follows from this alone and needs no certificate.
    pub fn record(self) -> Result<Record, LogError> {
        Record::new(RecordBody {
            era: 0,
            number: 0,
            prev: [0; 32],
            segments: Vec::new(),
            ended: Vec::new(),
            statements: vec![self.volume.0],
            base_line: 0,
            time_ms: 0,
            voters: vec![Voter {
                device: self.founder,
                incarnation: FOUNDERS_ROW,
            }],
            is_checkpoint: false,
        })
    }
}

/// A record with what proves it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) record: Record,
    pub(super) certificate: Certificate,
}

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
    /// Who is to decide the records behind it, ascending by device; `None` for those that decide now.
    pub voters: Option<Vec<Voter>>,
}

/// The commit chain as this peer has it.
///
/// Invariants: the rows of the chain are those of record 1 to the tip, each certified by the voters
/// of the one before; a log's segments are named in their order, each once.
pub struct Chain {
    pub(super) rows: Arc<dyn Rows>,
    pub(super) log: Arc<LogStore>,
    pub(super) founding: Founding,
    own: Voter,
    roll: Arc<dyn Roll>,
    pub(super) memory: Mutex<Memory>,
    /// A leaf, so that nobody who asks for these waits for the disk.
    shown: Mutex<Shown>,
    pub(super) state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct Shown {
    /// The newest record that is here.
    tip: RecordRef,
    /// The newest one that peers may be told of.
    offered: RecordRef,
    /// The base line that the newest one states.
    base_line: u64,
}

pub(super) struct State {
    pub(super) agreement: Agreement,
    /// The last segment of each log that a record names.
    pub(super) named: Vector,
    /// The newest record that names anything.
    pub(super) last: u64,
    /// Whether the record that this device proposed last leaves segments that are not named.
    is_full: bool,
    /// The statements that records took into account, with the first that did.
    pub(super) taken: BTreeMap<[u8; 32], u64>,
    /// What they end; `None` where that has to be looked up.
    pub(super) fence: Option<Arc<Fence>>,
    pub(super) pasts: Pasts,
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

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("tip", &self.tip())
            .finish_non_exhaustive()
    }
}

impl Chain {
    /// Puts the row of the device that founds a volume, which decides its first record: of a store that
    /// never had one.
    pub fn found(batch: &mut Batch, founding: Founding) -> Result<(), LogError> {
        let own = Voter {
            device: founding.founder,
            incarnation: FOUNDERS_ROW,
        };
        let row = Row::new(own, Tip::of(&founding.record()?));
        batch.put(Table::Meta, ROW_KEY, row.to_bytes());
        Ok(())
    }

    /// Notes in the rows of a store, before its chain is opened, that they may be older than what this
    /// device has signed: its folder was put back from a copy, or moved. It has no vote until it has
    /// heard what others know.
    pub fn doubt(rows: &dyn Rows) -> Result<(), LogError> {
        let Some(mut row) = stored_row(rows)? else {
            return Ok(());
        };
        row.is_unsure = true;
        let mut batch = Batch::new();
        batch.put(Table::Meta, ROW_KEY, row.to_bytes());
        Ok(rows.commit(batch)?)
    }

    /// Opens the chain in the rows of a store; the one of record 0 alone where they hold none. Where they
    /// hold no row of this device either, it begins one that has never voted.
    ///
    /// `now` is of a clock that never goes back, `seed` another number at each start.
    pub fn open(
        rows: Arc<dyn Rows>,
        log: Arc<LogStore>,
        founding: Founding,
        own: DeviceId,
        now: Duration,
        seed: u64,
    ) -> Result<Self, LogError> {
        let row = match stored_row(&*rows)? {
            Some(row) => row,
            None => begin_row(&*rows, founding, own, seed)?,
        };
        let mut named = Vector::new();
        let mut is_damaged = false;
        rows.scan(Table::Named, &[], None, &mut |key, value| {
            let log = key.try_into().map(u64::from_be_bytes).map(LogId);
            let seg_no = value.try_into().map(u64::from_be_bytes);
            match (log, seg_no) {
                (Ok(log), Ok(seg_no)) => {
                    named.insert(log, seg_no);
                }
                _ => is_damaged = true,
            }
            ControlFlow::Continue(())
        })?;
        if is_damaged {
            return Err(LogError::MalformedRecord {
                what: "a row of what records name",
            });
        }
        let taken = stored_taken(&*rows, founding)?;
        let shown = Shown {
            tip: row.tip.at,
            offered: row.tip.at,
            base_line: row.tip.base_line,
        };
        let chain = Self {
            rows,
            log,
            founding,
            own: row.own,
            roll: Arc::new(NoChanges),
            memory: Mutex::default(),
            shown: Mutex::new(shown),
            state: Mutex::new(State {
                agreement: Agreement::new(founding.volume, row, now, seed),
                named,
                last: 0,
                is_full: false,
                taken,
                fence: None,
                pasts: Pasts::default(),
            }),
        };
        let last = chain.last_naming(shown.tip.number)?;
        chain.state.lock().last = last;
        Ok(chain)
    }

    /// Returns the chain of a volume whose members change: as the roll says.
    pub fn with_roll(self, roll: Arc<dyn Roll>) -> Self {
        Self { roll, ..self }
    }

    /// Returns what is asked about the members.
    pub fn roll(&self) -> &Arc<dyn Roll> {
        &self.roll
    }

    /// Says whether the statements are here that a record takes into account; until then it is as if
    /// it were unknown.
    pub fn knows_statements_of(&self, record: &Record) -> bool {
        let mut statements = record.statements.iter();
        statements.all(|statement| self.roll.ending(statement).is_some())
    }

    /// Returns what has ended by a record, of the statements that are here.
    pub fn fence_at(&self, number: u64) -> Fence {
        self.fence_of(&self.state.lock(), number).0
    }

    /// Returns what has ended by what is known of the members, whether a record took it into account or
    /// not.
    pub fn fence_of_roll(&self) -> Fence {
        let mut fence = Fence::new(Arc::clone(&self.roll));
        let endings = self.roll.endings().into_iter();
        for ending in endings.filter_map(|statement| self.roll.ending(&statement)) {
            fence.add(ending);
        }
        fence
    }

    /// Returns what has ended by the newest record.
    pub fn fence(&self) -> Arc<Fence> {
        self.fence_at_tip(&mut self.state.lock())
    }

    /// Says how far the logs count that are over, of what peers may be told of and is not named: see
    /// [`Pasts::limits`].
    pub fn limits(&self) -> Result<Vector, LogError> {
        self.limits_at_tip(&mut self.state.lock(), &self.log.offered())
    }

    /// Returns up to where logs count that are over, but for what records name: see [`Pasts::reach`].
    pub fn reach(&self) -> Result<Vector, LogError> {
        let mut state = self.state.lock();
        let fence = self.fence_at_tip(&mut state);
        let State { named, pasts, .. } = &mut *state;
        let named = |id: LogId| named.get(&id).copied().unwrap_or(0);
        pasts.reach(self, &fence, &self.log.vector(), &named, &[])
    }

    fn limits_at_tip(&self, state: &mut State, ends: &Vector) -> Result<Vector, LogError> {
        let fence = self.fence_at_tip(state);
        let State { named, pasts, .. } = state;
        let named = |id: LogId| named.get(&id).copied().unwrap_or(0);
        pasts.limits(self, &fence, ends, &named, &[])
    }

    fn fence_at_tip(&self, state: &mut State) -> Arc<Fence> {
        if let Some(fence) = &state.fence {
            return Arc::clone(fence);
        }
        let (fence, is_whole) = self.fence_of(state, u64::MAX);
        let fence = Arc::new(fence);
        state.fence = is_whole.then(|| Arc::clone(&fence));
        fence
    }

    /// Returns what has ended by a record, and whether that is all of it.
    fn fence_of(&self, state: &State, number: u64) -> (Fence, bool) {
        let mut fence = Fence::new(Arc::clone(&self.roll));
        let mut is_whole = true;
        for (statement, _) in state.taken.iter().filter(|(_, by)| **by <= number) {
            match self.roll.ending(statement) {
                Some(ending) => fence.add(ending),
                None => is_whole = false,
            }
        }
        (fence, is_whole)
    }

    /// Returns what counts of what peers may be told of.
    fn offered_counting(&self, state: &mut State) -> Result<Vector, LogError> {
        let mut offered = self.log.offered();
        let limits = self.limits_at_tip(state, &offered)?;
        offered.extend(limits);
        Ok(offered)
    }

    /// Returns the newest record that is here.
    pub fn tip(&self) -> RecordRef {
        self.shown.lock().tip
    }

    /// Returns the newest record that peers may be told of.
    pub fn offered(&self) -> RecordRef {
        self.shown.lock().offered
    }

    /// Returns up to which record what was replaced is looked up no more.
    pub fn base_line(&self) -> u64 {
        self.shown.lock().base_line
    }

    /// Returns who decides the next record.
    pub fn voters(&self) -> Vec<Voter> {
        self.state.lock().agreement.tip().voters.clone()
    }

    /// Returns as whom this device may vote.
    pub fn own_voter(&self) -> Voter {
        self.own
    }

    /// Says whether this device leads those who decide.
    pub fn leads(&self) -> bool {
        self.state.lock().agreement.leads()
    }

    /// Says whether this device decides alone, and has no vote since its folder was put back or moved.
    pub fn is_in_doubt(&self) -> bool {
        let state = self.state.lock();
        let is_alone = state.agreement.tip().voters == [self.own];
        is_alone && state.agreement.is_recalling()
    }

    /// Gives this device, which decides alone, its vote back: it has heard how long the chain of the
    /// others is, or there are none.
    pub fn trust(&self, now: Duration) -> Result<Outcome, LogError> {
        let mut state = self.state.lock();
        let before = state.agreement.tip().at.number;
        state.agreement.trust_row();
        self.settle(&mut state, before, now)
    }

    /// Returns the last segment of each log that a record names.
    pub fn all_named(&self) -> Vector {
        self.state.lock().named.clone()
    }

    /// Returns the last segment of a log that a record names, 0 where none of it is.
    pub fn named(&self, log: LogId) -> u64 {
        self.state.lock().named.get(&log).copied().unwrap_or(0)
    }

    /// Returns a record, `None` where it is not here.
    pub fn get(&self, number: u64) -> Result<Option<Record>, LogError> {
        if number == 0 {
            return self.founding.record().map(Some);
        }
        let Some(bytes) = self.rows.get(Table::Chain, &number.to_be_bytes())? else {
            return Ok(None);
        };
        let link: Link = codec::decode(&bytes, LINK_MAX_BYTES)?;
        Ok(Some(link.record))
    }

    /// Returns the records behind number `after` with their certificates, encoded, up to `max_bytes` of
    /// them but at least one where there is one.
    pub fn range(
        &self,
        after: u64,
        max_bytes: usize,
        max_count: usize,
    ) -> Result<Vec<Vec<u8>>, LogError> {
        let offered = self.offered().number;
        let (start, mut room) = (after.saturating_add(1).to_be_bytes(), max_bytes);
        let end = offered.checked_add(1).map(u64::to_be_bytes);
        let mut links: Vec<Vec<u8>> = Vec::new();
        let end = end.as_ref().map(<[u8; 8]>::as_slice);
        self.rows.scan(Table::Chain, &start, end, &mut |_, value| {
            if links.len() >= max_count || !links.is_empty() && value.len() > room {
                return ControlFlow::Break(());
            }
            room = room.saturating_sub(value.len());
            links.push(value.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(links)
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
            let link: Link = match codec::decode(link.as_ref(), LINK_MAX_BYTES) {
                Ok(link) => link,
                Err(error) => {
                    taken = Err(error.into());
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
    /// other voters, what ended somebody's right to write, or a base line below which something lies. What is
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
        let is_news = settles || names_any || voters != tip.voters;
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
            is_checkpoint: false,
        })?;
        // What it names was looked at a moment ago.
        if state.agreement.propose(now, record, notary) {
            state.is_full = next.is_full;
        }
        let made = self.settle(&mut state, tip.at.number, now)?;
        Ok(outcome.and(made))
    }

    /// Begins an era behind the newest record, in which this device decides alone: an admin does so where
    /// of those who decide too few are members any more.
    pub fn begin_era(
        &self,
        now: Duration,
        now_ms: u64,
        notary: &dyn Notary,
    ) -> Result<Outcome, LogError> {
        let mut state = self.state.lock();
        let tip = state.agreement.tip().clone();
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
        let vote = Vote::new(self.founding.volume, &record, ballot);
        let certificate = Certificate {
            ballot,
            votes: vec![(self.own.device, notary.sign(&vote))],
        };
        state.agreement.begin_era(now, record, certificate, notary);
        self.settle(&mut state, tip.at.number, now)
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
        if tip == shown.tip || tip.number > shown.offered.number {
            shown.offered = tip;
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
                let records = output.decided.iter().map(|(record, _)| record);
                let naming = records.filter(|record| !record.segments.is_empty());
                let last = naming.map(|record| record.number).max();
                state.last = state.last.max(last.unwrap_or(0));
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

    /// Returns the newest record up to one that names anything.
    pub(super) fn last_naming(&self, mut number: u64) -> Result<u64, LogError> {
        let names_nothing = |record: Record| record.segments.is_empty();
        while number > 0 && self.get(number)?.is_none_or(names_nothing) {
            number -= 1;
        }
        Ok(number)
    }

    fn write(&self, state: &State, output: &Output) -> Result<Vector, LogError> {
        let mut batch = Batch::new();
        let mut named = Vector::new();
        for (record, certificate) in &output.decided {
            for segment in &record.segments {
                let last: &mut u64 = named.entry(segment.log).or_default();
                *last = segment.seg_no.max(*last);
            }
            let link = Link {
                record: record.clone(),
                certificate: certificate.clone(),
            };
            let key = record.number.to_be_bytes();
            batch.put(Table::Chain, key, codec::encode(&link));
            let statements = record.statements.iter();
            for statement in statements.filter(|of| !state.taken.contains_key(*of)) {
                batch.put(Table::Taken, statement, key);
            }
        }
        for (log, last) in &mut named {
            *last = (*last).max(state.named.get(log).copied().unwrap_or(0));
            batch.put(Table::Named, log.0.to_be_bytes(), last.to_be_bytes());
        }
        put_row(&mut batch, output);
        if !batch.is_empty() {
            self.rows.commit(batch)?;
        }
        Ok(named)
    }
}

/// Returns the statements that records took into account, with the first that did.
fn stored_taken(rows: &dyn Rows, founding: Founding) -> Result<BTreeMap<[u8; 32], u64>, LogError> {
    let mut taken = BTreeMap::from([(founding.volume.0, 0)]);
    let mut is_damaged = false;
    rows.scan(Table::Taken, &[], None, &mut |key, value| {
        match (key.try_into(), value.try_into().map(u64::from_be_bytes)) {
            (Ok(statement), Ok(number)) => {
                taken.insert(statement, number);
            }
            _ => is_damaged = true,
        }
        ControlFlow::Continue(())
    })?;
    if is_damaged {
        return Err(LogError::MalformedRecord {
            what: "a row of what records took into account",
        });
    }
    Ok(taken)
}

/// Puts the row of this device's part in the agreement, where a step changed it.
pub(super) fn put_row(batch: &mut Batch, output: &Output) {
    if let Some(row) = &output.row {
        batch.put(Table::Meta, ROW_KEY, row.to_bytes());
    }
}

/// Returns the row of this device's part in the agreement.
fn stored_row(rows: &dyn Rows) -> Result<Option<Row>, LogError> {
    let bytes = rows.get(Table::Meta, ROW_KEY)?;
    bytes.map(|bytes| Row::from_bytes(&bytes)).transpose()
}

/// Begins a row of this device, which joined or lost the one that it had.
fn begin_row(
    rows: &dyn Rows,
    founding: Founding,
    own: DeviceId,
    seed: u64,
) -> Result<Row, LogError> {
    let own = Voter {
        device: own,
        incarnation: Rng::from_seed(seed).below(u64::MAX - 1) + 1,
    };
    let row = Row::new(own, Tip::of(&founding.record()?));
    let mut batch = Batch::new();
    batch.put(Table::Meta, ROW_KEY, row.to_bytes());
    rows.commit(batch)?;
    Ok(row)
}
