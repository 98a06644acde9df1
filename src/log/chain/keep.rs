//! The chain as this peer keeps it.
//!
//! Its rows are in `stored.rs`, what has ended by its records in `ends.rs`, and how this device takes part
//! in making it longer in `drive.rs`; another chain is weighed in `fork.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::fence::{Fence, NoChanges, Pasts, Roll};
use super::fork::Memory;
use super::liveness::Agreement;
use super::marks::Since;
use super::record::{Record, Voter};
use super::stored::{Founding, Link, begin_row, stored_named, stored_row, stored_taken};
use super::vote::Ballot;
use crate::base::{DeviceId, LogId};
use crate::log::{LogError, LogStore};
use crate::store::{Rows, Table};
use crate::wire::{RecordRef, Vector};

/// The commit chain as this peer has it.
///
/// Invariants: the rows of the chain are those of record 1 to the tip, each certified by the voters
/// of the one before; a log's segments are named in their order, each once.
pub struct Chain {
    pub(super) rows: Arc<dyn Rows>,
    pub(super) log: Arc<LogStore>,
    pub(super) founding: Founding,
    pub(super) own: Voter,
    pub(super) roll: Arc<dyn Roll>,
    pub(super) memory: Mutex<Memory>,
    /// A leaf, so that nobody who asks for these waits for the disk.
    pub(super) shown: Mutex<Shown>,
    pub(super) state: Mutex<State>,
}

/// What is asked often.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    /// The newest record that is here.
    pub(super) tip: RecordRef,
    /// The newest one that is durable.
    pub(super) durable: RecordRef,
    /// The newest one up to which all is here that records name.
    pub(super) held: RecordRef,
    /// The base line that the newest one states.
    pub(super) base_line: u64,
    /// The newest checkpoint that counts.
    pub(super) settled: u64,
}

/// A record that names what is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wants {
    /// Its number.
    pub number: u64,
    /// The logs of what it names and is not here.
    pub logs: BTreeSet<LogId>,
    /// Who decided it.
    pub voters: Vec<Voter>,
}

/// What changes with the chain.
pub(super) struct State {
    pub(super) agreement: Agreement,
    /// The last segment of each log that a record names.
    pub(super) named: Vector,
    /// The newest record that names anything.
    pub(super) last: u64,
    /// The newest record that is a checkpoint.
    pub(super) marked: u64,
    pub(super) since: Since,
    /// The newest record up to which all is here that records name.
    pub(super) held: u64,
    /// Whether the record that this device proposed last leaves segments that are not named.
    pub(super) is_full: bool,
    /// The statements that records took into account, with the first that did.
    pub(super) taken: BTreeMap<[u8; 32], u64>,
    /// What they end; `None` where that has to be looked up.
    pub(super) fence: Option<Arc<Fence>>,
    pub(super) pasts: Pasts,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("tip", &self.tip())
            .finish_non_exhaustive()
    }
}

impl Chain {
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
        let named = stored_named(&*rows)?;
        let taken = stored_taken(&*rows, founding)?;
        let shown = Shown {
            tip: row.tip.at,
            durable: row.tip.at,
            held: row.tip.at,
            base_line: row.tip.base_line,
            settled: 0,
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
                marked: 0,
                since: Since::default(),
                held: 0,
                is_full: false,
                taken,
                fence: None,
                pasts: Pasts::default(),
            }),
        };
        {
            let state = &mut *chain.state.lock();
            state.last = chain.last_naming(shown.tip.number)?;
            state.marked = chain.stored_mark()?;
            state.held = chain.held_at_start(state)?;
            chain.hold_in(state)?;
        }
        Ok(chain)
    }

    /// Returns the newest record that is here.
    pub fn tip(&self) -> RecordRef {
        self.shown.lock().tip
    }

    /// Returns the newest record that peers may be told of: durable here, with all that records up to it
    /// name. What lies behind counts nowhere if nobody has what it names, and gives way then.
    pub fn offered(&self) -> RecordRef {
        let shown = *self.shown.lock();
        match shown.held.number < shown.durable.number {
            true => shown.held,
            false => shown.durable,
        }
    }

    /// Looks again how much is here of what records name; says whether peers may be told of more of them.
    pub fn hold(&self) -> Result<bool, LogError> {
        let before = self.offered();
        self.hold_in(&mut self.state.lock())?;
        Ok(self.offered() != before)
    }

    /// Returns the first record that names what is not here; `None` where all is.
    pub fn wants(&self) -> Result<Option<Wants>, LogError> {
        let mut state = self.state.lock();
        let held = self.hold_in(&mut state)?;
        if held >= state.agreement.tip().at.number {
            return Ok(None);
        }
        let have = self.log.offered();
        let record = self.get(held + 1)?;
        let names = record.iter().flat_map(|record| record.segments.iter());
        let lacking = names.filter(|name| have.get(&name.log) < Some(&name.seg_no));
        let logs = lacking.map(|name| name.log).collect();
        let before = self.get(held)?;
        Ok(Some(Wants {
            number: held + 1,
            logs,
            voters: before.map_or_else(Vec::new, |before| before.voters.clone()),
        }))
    }

    /// Returns the newest record up to which all is here that records name.
    pub(super) fn hold_in(&self, state: &mut State) -> Result<u64, LogError> {
        let have = self.log.offered();
        let tip = state.agreement.tip().at;
        let is_here = |log: &LogId, seg_no: &u64| have.get(log) >= Some(seg_no);
        let mut named = state.named.iter();
        if named.all(|(log, seg_no)| *seg_no == 0 || is_here(log, seg_no)) {
            state.held = tip.number;
            self.shown.lock().held = tip;
            return Ok(tip.number);
        }
        while state.held < tip.number
            && let Some(record) = self.get(state.held + 1)?
            && let mut names = record.segments.iter()
            && names.all(|name| is_here(&name.log, &name.seg_no))
        {
            state.held += 1;
        }
        let held = self.get(state.held)?;
        let held = held.map_or_else(RecordRef::default, |record| record.reference());
        self.shown.lock().held = held;
        Ok(held.number)
    }

    /// Returns a record up to which all is here that records name, as near to the newest as what is missing.
    fn held_at_start(&self, state: &State) -> Result<u64, LogError> {
        let have = self.log.offered();
        let have = |log: &LogId| have.get(log).copied().unwrap_or(0);
        let named = state.named.iter();
        let mut missing: u64 = named
            .map(|(log, last)| last.saturating_sub(have(log)))
            .sum();
        let mut number = state.agreement.tip().at.number;
        while missing > 0
            && number > 0
            && let Some(record) = self.get(number)?
        {
            let names = record.segments.iter();
            let lacking = names.filter(|name| name.seg_no > have(&name.log)).count();
            missing = missing.saturating_sub(u64::try_from(lacking).unwrap_or(u64::MAX));
            number -= 1;
        }
        Ok(number)
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

    /// Returns the greatest ballot below which this device votes for nothing any more.
    pub fn promised(&self) -> Ballot {
        self.state.lock().agreement.row().promised
    }

    /// Returns the ballot at which this device leads those who decide, where it does, who that is, and whether
    /// it has accepted a record, not known to be decided, by which others do.
    pub fn lead(&self) -> (Option<Ballot>, Vec<DeviceId>, bool) {
        let state = self.state.lock();
        let (tip, row) = (state.agreement.tip(), state.agreement.row());
        let accepted = row.accepted.as_ref().map(|(_, record)| record);
        let is_changing = accepted
            .is_some_and(|record| record.number > tip.at.number && record.voters != tip.voters);
        let voters = tip.voters.iter().map(|voter| voter.device).collect();
        let ballot = state.agreement.leads().then_some(row.promised);
        (ballot, voters, is_changing)
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
        let link = Link::from_bytes(&bytes)?;
        Ok(Some(link.record))
    }

    /// Returns the statements that records took into account.
    pub fn statements(&self) -> BTreeSet<[u8; 32]> {
        self.state.lock().taken.keys().copied().collect()
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

    /// Returns the newest record up to one that names anything.
    pub(super) fn last_naming(&self, mut number: u64) -> Result<u64, LogError> {
        let names_nothing = |record: Record| record.segments.is_empty();
        while number > 0 && self.get(number)?.is_none_or(names_nothing) {
            number -= 1;
        }
        Ok(number)
    }
}
