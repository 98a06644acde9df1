//! The chain as this peer keeps it: its rows, and this device's part in making it longer.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::core::Output;
use super::liveness::Agreement;
use super::message::Message;
use super::record::{Record, RecordBody, SEGMENTS_MAX, SegmentName, Voter};
use super::row::{Row, Tip};
use super::vote::{Certificate, Notary};
use crate::base::limits::SEGMENT_OPS_MAX;
use crate::base::{DeviceId, LogId, VolumeId};
use crate::log::{LogError, LogStore};
use crate::store::{Batch, Rows, Table, codec};
use crate::wire::limits::LINK_MAX_BYTES;
use crate::wire::{RecordRef, SealedSegment, Vector};

/// Most bytes of segments that one record names, but that a single one may always be named.
const RECORD_SEGMENTS_BYTES: usize = 8 << 20;

const ROW_KEY: &[u8] = b"chain/row";

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
                incarnation: 0,
            }],
            is_checkpoint: false,
        })
    }
}

/// A record with what proves it.
#[derive(Debug, Serialize, Deserialize)]
struct Link {
    record: Record,
    certificate: Certificate,
}

/// The commit chain as this peer has it.
///
/// What [`Chain::extend`] makes is told to peers after [`Rows::sync`] and [`Chain::publish`] only, so
/// that no voter forgets what others have seen.
///
/// Invariants: the rows of the chain are those of record 1 to the tip, each certified by the voters
/// of the one before; a log's segments are named in their order, each once.
pub struct Chain {
    rows: Arc<dyn Rows>,
    founding: Founding,
    own: DeviceId,
    state: Mutex<State>,
}

struct State {
    agreement: Agreement,
    /// The last segment of each log that a record names.
    named: Vector,
    /// The newest record that peers may be told of.
    offered: RecordRef,
    /// The newest record that names anything.
    last: u64,
}

/// What the next record may name.
#[derive(Debug)]
struct Next {
    names: Vec<SegmentName>,
    /// Whether that leaves others.
    is_full: bool,
    /// The least record that the author of one of them had folded.
    needed: u64,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("tip", &self.tip())
            .finish_non_exhaustive()
    }
}

impl Chain {
    /// Opens the chain in the rows of a store; the one of record 0 alone where they hold none.
    ///
    /// `now` is of a clock that never goes back, `seed` another number at each start.
    pub fn open(
        rows: Arc<dyn Rows>,
        founding: Founding,
        own: DeviceId,
        now: Duration,
        seed: u64,
    ) -> Result<Self, LogError> {
        let row = stored_row(&*rows, founding, own)?;
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
        let offered = row.tip.at;
        let chain = Self {
            rows,
            founding,
            own,
            state: Mutex::new(State {
                agreement: Agreement::new(founding.volume, row, now, seed),
                named,
                offered,
                last: 0,
            }),
        };
        let mut last = offered.number;
        while last > 0
            && chain
                .get(last)?
                .is_none_or(|record| record.segments.is_empty())
        {
            last -= 1;
        }
        chain.state.lock().last = last;
        Ok(chain)
    }

    /// Returns the newest record that is here.
    pub fn tip(&self) -> RecordRef {
        self.state.lock().agreement.tip().at
    }

    /// Returns the newest record that peers may be told of.
    pub fn offered(&self) -> RecordRef {
        self.state.lock().offered
    }

    /// Returns who decides the next record.
    pub fn voters(&self) -> Vec<DeviceId> {
        let state = self.state.lock();
        let voters = state.agreement.tip().voters.iter();
        voters.map(|voter| voter.device).collect()
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
    /// that does not continue this chain; durable when this returns. Says whether the chain grew.
    ///
    /// # Errors
    ///
    /// [`LogError::MalformedRecord`] and its like for what is no record, [`LogError::Uncertified`]
    /// where one is here or does not follow what is here, or the store's error.
    pub fn accept(
        &self,
        links: &[impl AsRef<[u8]>],
        from: DeviceId,
        now: Duration,
        notary: &dyn Notary,
    ) -> Result<bool, LogError> {
        let mut state = self.state.lock();
        let before = state.agreement.tip().at.number;
        let mut outcome = Ok(());
        for link in links {
            let link: Link = match codec::decode(link.as_ref(), LINK_MAX_BYTES) {
                Ok(link) => link,
                Err(error) => {
                    outcome = Err(error.into());
                    break;
                }
            };
            let (era, number) = (link.record.era, link.record.number);
            if number <= state.agreement.tip().at.number {
                continue;
            }
            let message = Message::Decided {
                record: link.record,
                certificate: link.certificate,
            };
            state.agreement.receive(now, from, message, notary);
            if state.agreement.tip().at.number != number {
                outcome = Err(LogError::Uncertified { era, number });
                break;
            }
        }
        self.settle(&mut state, now)?;
        let grew = state.agreement.tip().at.number > before;
        if grew {
            self.rows.sync()?;
            state.offered = state.agreement.tip().at;
        }
        outcome.map(|()| grew)
    }

    /// Makes the next record where this device leads the voters and there are segments that peers may
    /// be told of and no record names. Returns whether the record that it made, which then is to be
    /// synced and published, names all that one may, so that there may be more; `None` where it made
    /// none. `needed` is the least record that the fold of any op to come may look back to: the base
    /// line follows it, in a record that names nothing where nothing more comes.
    pub fn extend(
        &self,
        log: &LogStore,
        now: Duration,
        now_ms: u64,
        needed: u64,
        notary: &dyn Notary,
    ) -> Result<Option<bool>, LogError> {
        let mut state = self.state.lock();
        state.agreement.tick(now, notary);
        self.settle(&mut state, now)?;
        if !state.agreement.is_free() {
            return Ok(None);
        }
        let tip = state.agreement.tip().clone();
        let next = next_segments(log, &state.named, tip.at.number)?;
        let needed = needed.min(next.needed).min(tip.at.number);
        let base_line = needed.max(tip.base_line);
        let settles = tip.base_line < state.last && base_line >= state.last;
        let number = tip.at.number.checked_add(1);
        let Some(number) = number.filter(|_| settles || !next.names.is_empty()) else {
            return Ok(None);
        };
        let record = Record::new(RecordBody {
            era: tip.at.era,
            number,
            prev: tip.at.hash,
            segments: next.names,
            ended: Vec::new(),
            statements: Vec::new(),
            base_line,
            time_ms: now_ms,
            voters: tip.voters.clone(),
            is_checkpoint: false,
        })?;
        state.agreement.propose(now, record, notary);
        self.settle(&mut state, now)?;
        Ok((state.agreement.tip().at.number == number).then_some(next.is_full))
    }

    /// Says that the records that are here are durable, so that peers may be told of them.
    pub fn publish(&self) {
        let mut state = self.state.lock();
        state.offered = state.agreement.tip().at;
    }

    /// Writes what a step of the agreement leaves to be written. Where that fails the agreement goes
    /// on from what is on the disk.
    fn settle(&self, state: &mut State, now: Duration) -> Result<(), LogError> {
        let output = state.agreement.poll();
        match self.write(state, &output) {
            Ok(named) => {
                state.named.extend(named);
                let records = output.decided.iter().map(|(record, _)| record);
                let naming = records.filter(|record| !record.segments.is_empty());
                let last = naming.map(|record| record.number).max();
                state.last = state.last.max(last.unwrap_or(0));
                Ok(())
            }
            Err(error) => {
                let row = stored_row(&*self.rows, self.founding, self.own)?;
                let seed = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
                state.agreement = Agreement::new(self.founding.volume, row, now, seed);
                Err(error)
            }
        }
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
        }
        for (log, last) in &mut named {
            *last = (*last).max(state.named.get(log).copied().unwrap_or(0));
            batch.put(Table::Named, log.0.to_be_bytes(), last.to_be_bytes());
        }
        if let Some(row) = &output.row {
            batch.put(Table::Meta, ROW_KEY, row.to_bytes());
        }
        if !batch.is_empty() {
            self.rows.commit(batch)?;
        }
        Ok(named)
    }
}

/// Returns the row of this device's part in the agreement, the first one where none is kept yet.
fn stored_row(rows: &dyn Rows, founding: Founding, own: DeviceId) -> Result<Row, LogError> {
    if let Some(bytes) = rows.get(Table::Meta, ROW_KEY)? {
        return Row::from_bytes(&bytes);
    }
    let own = Voter {
        device: own,
        incarnation: 0,
    };
    Ok(Row::new(own, Tip::of(&founding.record()?)))
}

/// Returns the segments that the next record names, none before what it builds on: of those that peers
/// may be told of, as many as one record may name.
fn next_segments(log: &LogStore, named: &Vector, tip: u64) -> Result<Next, LogError> {
    let offered = log.offered();
    let mut taken: BTreeMap<LogId, u64> = BTreeMap::new();
    let mut names: Vec<SegmentName> = Vec::new();
    let mut needed = u64::MAX;
    let (mut ops, mut bytes) = (0, 0);
    loop {
        let before = names.len();
        for (log_id, end) in &offered {
            let of = |log: &LogId| {
                let named = named.get(log).copied().unwrap_or(0);
                taken.get(log).copied().unwrap_or(0).max(named)
            };
            let mut next = of(log_id) + 1;
            while next <= *end {
                let Some(segment) = log.get(*log_id, next)? else {
                    break;
                };
                let header = &segment.header;
                let is_closed = header.record.number <= tip
                    && header.seen.iter().all(|seen| {
                        let own = seen.log == *log_id && seen.seg_no < next;
                        own || seen.seg_no <= of(&seen.log)
                    });
                if !is_closed {
                    break;
                }
                ops += header.op_count as usize;
                bytes += segment.body.len();
                let is_full = ops > SEGMENT_OPS_MAX || bytes > RECORD_SEGMENTS_BYTES;
                if !names.is_empty() && (is_full || names.len() >= SEGMENTS_MAX) {
                    return Ok(Next {
                        names,
                        is_full: true,
                        needed,
                    });
                }
                needed = needed.min(header.record.number);
                names.push(name(&segment));
                next += 1;
            }
            if next > of(log_id) + 1 {
                taken.insert(*log_id, next - 1);
            }
        }
        if names.len() == before {
            return Ok(Next {
                names,
                is_full: false,
                needed,
            });
        }
    }
}

fn name(segment: &SealedSegment) -> SegmentName {
    SegmentName {
        log: segment.header.log(),
        seg_no: segment.header.seg_no,
        hash: segment.hash(),
    }
}
