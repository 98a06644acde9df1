//! What a record may name: segments that are here, none before what it builds on.

use std::collections::BTreeMap;

use super::fence::Roll;
use super::fork::Footing;
use super::record::{Record, SEGMENTS_MAX, SegmentName};
use super::vote::{Notary, Vote};
use crate::base::limits::SEGMENT_OPS_MAX;
use crate::base::{DeviceId, LogId};
use crate::crypto::Signature;
use crate::log::{LogError, LogStore};
use crate::wire::{RecordRef, SealedSegment, Vector};

/// Most bytes of segments that one record names, but that a single one may always be named.
const RECORD_SEGMENTS_BYTES: usize = 8 << 20;

/// The names of a record as they are gathered.
pub(super) struct Naming<'a> {
    log: &'a LogStore,
    /// The last segment of each log that an earlier record names.
    named: &'a Vector,
    /// The record before.
    tip: u64,
    footing: &'a Foot<'a>,
    /// The last segment of each log that this one names.
    taken: BTreeMap<LogId, u64>,
    next: Next,
    ops: usize,
    bytes: usize,
}

/// Says what an author had folded that states a record.
pub(super) type Foot<'a> = dyn Fn(RecordRef) -> Result<Option<Footing>, LogError> + 'a;

/// What the next record may name.
#[derive(Debug)]
pub(super) struct Next {
    /// The segments, those that others build on first.
    pub(super) names: Vec<SegmentName>,
    /// Whether that leaves others.
    pub(super) is_full: bool,
    /// The least record that the author of one of them had folded.
    pub(super) needed: u64,
}

/// What became of a segment that was to be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    /// It builds on what is not named.
    Waits,
    /// One record names no more.
    Full,
}

impl<'a> Naming<'a> {
    /// Begins with nothing, behind record `tip`.
    pub(super) fn new(
        log: &'a LogStore,
        named: &'a Vector,
        tip: u64,
        footing: &'a Foot<'a>,
    ) -> Self {
        Self {
            log,
            named,
            tip,
            footing,
            taken: BTreeMap::new(),
            next: Next {
                names: Vec::new(),
                is_full: false,
                needed: u64::MAX,
            },
            ops: 0,
            bytes: 0,
        }
    }

    /// Returns the segments that the next record names: of those offered, as many as one record may name.
    pub(super) fn all(mut self, offered: &Vector) -> Result<Next, LogError> {
        loop {
            let before = self.next.names.len();
            for (log, end) in offered {
                while self.last(*log) < *end {
                    let Some(segment) = self.log.get(*log, self.last(*log) + 1)? else {
                        break;
                    };
                    match self.take(&segment)? {
                        Taken::Yes => {}
                        Taken::Waits => break,
                        Taken::Full => {
                            self.next.is_full = true;
                            return Ok(self.next);
                        }
                    }
                }
            }
            if self.next.names.len() == before {
                return Ok(self.next);
            }
        }
    }

    /// Says whether a record names only what this device offers, each behind what it builds on, no more than one record may name. A base line beyond `base_line`, that of the record
    /// before, must be one that none of it looks behind.
    pub(super) fn fits(
        mut self,
        offered: &Vector,
        record: &Record,
        base_line: u64,
    ) -> Result<bool, LogError> {
        for name in &record.segments {
            let is_next = self.last(name.log) + 1 == name.seg_no
                && offered.get(&name.log) >= Some(&name.seg_no);
            let found = match is_next {
                true => self.log.get(name.log, name.seg_no)?,
                false => None,
            };
            let Some(segment) = found.filter(|segment| SegmentName::of(segment) == *name) else {
                return Ok(false);
            };
            if self.take(&segment)? != Taken::Yes {
                return Ok(false);
            }
        }
        Ok(record.base_line <= self.next.needed.max(base_line))
    }

    /// Returns the last segment of a log that this record or one before it names.
    fn last(&self, log: LogId) -> u64 {
        let named = self.named.get(&log).copied().unwrap_or(0);
        self.taken.get(&log).copied().unwrap_or(0).max(named)
    }

    /// Takes the next segment of a log.
    fn take(&mut self, segment: &SealedSegment) -> Result<Taken, LogError> {
        let header = &segment.header;
        let log = header.log();
        let Some(footing) = (self.footing)(header.record)? else {
            return Ok(Taken::Waits);
        };
        let seen = header.seen.iter().map(|seen| (seen.log, seen.seg_no));
        let beyond = footing.ends();
        let mut past = seen.chain(beyond);
        let is_named = |(of, last)| last <= self.last(of);
        let is_closed = footing.number <= self.tip && past.all(is_named);
        if !is_closed {
            return Ok(Taken::Waits);
        }
        self.ops += header.op_count as usize;
        self.bytes += segment.body.len();
        let is_full = self.ops > SEGMENT_OPS_MAX || self.bytes > RECORD_SEGMENTS_BYTES;
        let names = &mut self.next.names;
        if !names.is_empty() && (is_full || names.len() >= SEGMENTS_MAX) {
            return Ok(Taken::Full);
        }
        names.push(SegmentName::of(segment));
        self.next.needed = self.next.needed.min(footing.number);
        self.taken.insert(log, header.seg_no);
        Ok(Taken::Yes)
    }
}

/// Who signs and judges for this device, and endorses what it holds alone.
pub(super) struct Endorser<'a> {
    pub(super) notary: &'a dyn Notary,
    pub(super) footing: &'a Foot<'a>,
    pub(super) log: &'a LogStore,
    pub(super) named: &'a Vector,
    /// What counts of what peers may be told of.
    pub(super) offered: &'a Vector,
    pub(super) roll: &'a dyn Roll,
    /// The base line of the newest record.
    pub(super) base_line: u64,
}

impl Notary for Endorser<'_> {
    fn sign(&self, vote: &Vote) -> Signature {
        self.notary.sign(vote)
    }

    fn verify(&self, device: DeviceId, vote: &Vote, signature: &Signature) -> bool {
        self.notary.verify(device, vote, signature)
    }

    fn counts(&self, record: &Record) -> bool {
        self.notary.counts(record)
    }

    fn may_begin_era(&self, device: DeviceId) -> bool {
        self.notary.may_begin_era(device)
    }

    fn seniority(&self, device: DeviceId) -> Option<u64> {
        self.notary.seniority(device)
    }

    fn ends(&self, record: &Record, device: DeviceId) -> bool {
        self.notary.ends(record, device)
    }

    fn endorses(&self, record: &Record) -> bool {
        let tip = record.number.saturating_sub(1);
        let naming = Naming::new(self.log, self.named, tip, self.footing);
        let mut statements = record.statements.iter();
        let knows = statements.all(|statement| self.roll.ending(statement).is_some());
        match naming.fits(self.offered, record, self.base_line) {
            Ok(fits) => fits && knows && self.notary.endorses(record),
            Err(error) => {
                tracing::warn!(%error, "no vote for a record whose segments cannot be read");
                false
            }
        }
    }
}
