//! Two chains: which of them counts, how a peer goes over to it, and what authors had seen who stood on
//! the other.
//!
//! A fork comes of an era that an admin began while others went on, or of a voter whose folder was put
//! back. The records that are left stay in a table of their own, as a segment may state one of them as
//! what its author had folded: it had seen all that they name.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use super::drive::Outcome;
use super::fence::Pasts;
use super::keep::{Chain, State};
use super::marks::{MARKED_KEY, Since};
use super::record::{Record, SegmentName};
use super::row::Tip;
use super::stored::{Link, put_row};
use super::vote::Notary;
use crate::base::{DeviceId, LogId, Stamp};
use crate::log::LogError;
use crate::store::{Batch, Table, codec};
use crate::wire::{RecordRef, Seen};

/// Hashes of records that are kept in memory, so that the heads of segments cost no row each.
const HASHES_MAX: usize = 4096;

/// Records of other chains of which it is kept what their authors had folded.
const FOOTINGS_MAX: usize = 64;

/// Most records that are left behind each other: what stands on more is told to be damaged.
const LEFT_MAX: usize = 1 << 20;

/// What the author of a segment had folded of the chain, by the record that it states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footing {
    /// The newest record of this chain that it had folded.
    pub number: u64,
    /// What records of another chain named behind that one, by log: its last segment, and the last of its ops.
    pub beyond: BTreeMap<LogId, Seen>,
}

impl Footing {
    /// Returns the last segments of logs that records of another chain named.
    pub fn ends(&self) -> impl Iterator<Item = (LogId, u64)> {
        let named = self.beyond.values().filter(|seen| seen.seg_no > 0);
        named.map(|seen| (seen.log, seen.seg_no))
    }

    /// Notes a segment that a record of another chain named. What it carries of another log of its author is
    /// that one's, too.
    fn note(&mut self, name: &SegmentName) {
        let of_ops = Seen {
            log: name.last.log,
            seg_no: 0,
            hash: [0; 32],
            last: name.last.stamp,
        };
        self.add(of_ops);
        self.add(Seen {
            log: name.log,
            seg_no: name.seg_no,
            hash: name.hash,
            last: Stamp::default(),
        });
    }

    fn add(&mut self, seen: Seen) {
        let at = self.beyond.entry(seen.log).or_insert(seen);
        if at.seg_no < seen.seg_no {
            (at.seg_no, at.hash) = (seen.seg_no, seen.hash);
        }
        at.last = seen.last.max(at.last);
    }
}

/// Where the record stands that a segment states.
enum Standing {
    /// On this chain, or on one that parts from it.
    Known(Footing),
    /// On records of which the newest that is not here is this one.
    Lacks(RecordRef),
}

/// Which of two chains counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Winner {
    Ours,
    Theirs,
}

/// What is kept so that no row is read twice, since this peer went over to this chain.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// How often it did.
    turns: u64,
    hashes: BTreeMap<u64, [u8; 32]>,
    /// What had been folded of this chain by who had folded a record of another one, by its hash.
    footings: BTreeMap<[u8; 32], Footing>,
}

impl Chain {
    /// Says whether a record is one of this chain.
    pub fn has(&self, record: RecordRef) -> Result<bool, LogError> {
        let turns = {
            let memory = self.memory.lock();
            if let Some(hash) = memory.hashes.get(&record.number) {
                return Ok(*hash == record.hash);
            }
            memory.turns
        };
        let Some(found) = self.get(record.number)? else {
            return Ok(false);
        };
        let mut memory = self.memory.lock();
        if memory.turns == turns {
            memory.hashes.insert(record.number, found.hash());
        }
        if memory.hashes.len() > HASHES_MAX {
            memory.hashes.pop_first();
        }
        Ok(found.hash() == record.hash)
    }

    /// Returns what an author had folded that states a record; `None` where that record is not known
    /// here.
    pub fn footing(&self, record: RecordRef) -> Result<Option<Footing>, LogError> {
        match self.standing(record)? {
            Standing::Known(footing) => Ok(Some(footing)),
            Standing::Lacks(_) => Ok(None),
        }
    }

    /// Returns the record that has to be here before it is known what an author had folded who states
    /// one; `None` where that is known.
    pub fn lacks(&self, record: RecordRef) -> Result<Option<RecordRef>, LogError> {
        match self.standing(record)? {
            Standing::Known(_) => Ok(None),
            Standing::Lacks(lacking) => Ok(Some(lacking)),
        }
    }

    fn standing(&self, record: RecordRef) -> Result<Standing, LogError> {
        // A segment of before the first record states none.
        if record == RecordRef::default() || self.has(record)? {
            return Ok(Standing::Known(Footing {
                number: record.number,
                beyond: BTreeMap::new(),
            }));
        }
        let turns = self.memory.lock().turns;
        let mut beyond = Footing {
            number: 0,
            beyond: BTreeMap::new(),
        };
        let mut at = record;
        for _ in 0..LEFT_MAX {
            let known = self.memory.lock().footings.get(&at.hash).cloned();
            if let Some(known) = known {
                return Ok(self.stands_beside(record, known, beyond, turns));
            }
            let left = self.left(at.hash)?.map(|left| left.record);
            // What a segment states may be no number of that record.
            let Some(left) = left.filter(|left| left.number == at.number) else {
                return Ok(Standing::Lacks(at));
            };
            left.segments.iter().for_each(|name| beyond.note(name));
            let Some(before) = left.before() else {
                break;
            };
            if !self.has(before)? {
                at = before;
                continue;
            }
            // It has become part of this chain meanwhile, or what continues this chain is no other one: it
            // comes as part of this.
            if self.has(at)? || before.number >= self.tip().number {
                return Ok(Standing::Lacks(record));
            }
            let common = Footing {
                number: before.number,
                beyond: BTreeMap::new(),
            };
            return Ok(self.stands_beside(record, common, beyond, turns));
        }
        Err(LogError::MalformedRecord {
            what: "a chain that was left, which has no beginning",
        })
    }

    /// Keeps and returns where a record stands of another chain, by where one before it does and what those
    /// between them name. It is kept unless this peer has gone over to another chain since.
    fn stands_beside(
        &self,
        record: RecordRef,
        mut footing: Footing,
        named: Footing,
        turns: u64,
    ) -> Standing {
        for seen in named.beyond.into_values() {
            footing.add(seen);
        }
        let memory = &mut *self.memory.lock();
        if memory.footings.len() >= FOOTINGS_MAX {
            memory.footings.clear();
        }
        if memory.turns == turns {
            memory.footings.insert(record.hash, footing.clone());
        }
        Standing::Known(footing)
    }

    /// Returns a record that was left and those before it, newest first and encoded, up to the first of
    /// this chain.
    pub fn left_range(
        &self,
        record: RecordRef,
        max_bytes: usize,
        max_count: usize,
    ) -> Result<Vec<Vec<u8>>, LogError> {
        let (mut links, mut room) = (Vec::new(), max_bytes);
        let mut next = Some(record);
        while let Some(at) = next
            && links.len() < max_count
        {
            // Who asks is on another chain: of this one, too, it may lack records.
            let bytes = match self.rows.get(Table::Left, &at.hash)? {
                Some(bytes) => Some(bytes),
                None if self.has(at)? => self.rows.get(Table::Chain, &at.number.to_be_bytes())?,
                None => None,
            };
            let Some(bytes) = bytes.filter(|bytes| links.is_empty() || bytes.len() <= room) else {
                break;
            };
            room = room.saturating_sub(bytes.len());
            let link = Link::from_bytes(&bytes)?;
            next = link.record.before();
            links.push(bytes.to_vec());
        }
        Ok(links)
    }

    /// Keeps records of another chain, as [`Chain::left_range`] returned them for a record that a segment
    /// states. Says whether any of them was not here. Their hashes prove them: it is the author of that
    /// segment who says by them what it had folded, and no votes are asked for.
    ///
    /// # Errors
    ///
    /// [`LogError::MalformedRecord`] where they are others, or the store's error.
    pub fn keep_left(
        &self,
        lacking: RecordRef,
        links: &[impl AsRef<[u8]>],
    ) -> Result<bool, LogError> {
        let mut batch = Batch::new();
        let mut next = Some(lacking);
        for link in links {
            let bytes = link.as_ref();
            let record = Link::from_bytes(bytes)?.record;
            let is_next = |at: RecordRef| at.number == record.number && at.hash == record.hash();
            if !next.is_some_and(is_next) {
                return Err(LogError::MalformedRecord {
                    what: "a record that was asked for",
                });
            }
            let at = record.reference();
            if self.has(at)? || self.left(at.hash)?.is_some() {
                break;
            }
            batch.put(Table::Left, at.hash, bytes);
            next = record.before();
        }
        let any = !batch.is_empty();
        if any {
            self.rows.commit(batch)?;
        }
        Ok(any)
    }

    /// Says whether a row of the table `Left` is what it is kept as.
    pub fn is_left(key: &[u8], value: &[u8]) -> bool {
        Link::from_bytes(value).is_ok_and(|link| link.record.hash() == *key)
    }

    fn left(&self, hash: [u8; 32]) -> Result<Option<Link>, LogError> {
        let bytes = self.rows.get(Table::Left, &hash)?;
        let link = bytes.map(|bytes| Link::from_bytes(&bytes));
        link.transpose()
    }

    /// Says whether an encoded record stands right behind one of this chain, or is one of it; and
    /// returns its number.
    pub fn joins(&self, link: &[u8]) -> Result<(u64, bool), LogError> {
        let record = Link::from_bytes(link)?.record;
        let before = RecordRef {
            era: record.era,
            number: record.number.saturating_sub(1),
            hash: record.prev,
        };
        Ok((record.number, self.has(before)?))
    }

    /// Returns the first of some encoded records, in their order, in whose place this chain has another one.
    pub fn parts_at(&self, links: &[impl AsRef<[u8]>]) -> Result<Option<RecordRef>, LogError> {
        let tip = self.tip().number;
        for link in links {
            let at = Link::from_bytes(link.as_ref())?.record.reference();
            if at.number > tip {
                break;
            }
            if !self.has(at)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Goes over to another chain where that is the one that counts: `links` are records that begin
    /// behind one of this chain and are not of it, encoded, as far as they were fetched. Says whether it
    /// did.
    ///
    /// # Errors
    ///
    /// [`LogError::Uncertified`] where one of them does not follow the one before or is not proved, and
    /// those of [`Chain::accept`].
    pub fn weigh(
        &self,
        links: &[impl AsRef<[u8]>],
        now: Duration,
        notary: &dyn Notary,
    ) -> Result<Option<Outcome>, LogError> {
        let mut state = self.state.lock();
        let mut theirs: Vec<Link> = Vec::new();
        let mut common = None;
        for link in links {
            let link = Link::from_bytes(link.as_ref())?;
            if theirs.is_empty() && self.has(link.record.reference())? {
                continue;
            }
            let uncertified = LogError::Uncertified {
                era: link.record.era,
                number: link.record.number,
            };
            let before = match theirs.last() {
                Some(before) => Tip::of(&before.record),
                None => {
                    let number = link.record.number.checked_sub(1);
                    let before = number.map(|number| self.get(number)).transpose()?;
                    let before = before.flatten().map(|before| Tip::of(&before));
                    let Some(before) = before.filter(|tip| tip.at.hash == link.record.prev) else {
                        return Err(uncertified);
                    };
                    common = Some(before.clone());
                    before
                }
            };
            let volume = self.founding.volume;
            link.certificate
                .check(volume, &before, &link.record, notary)?;
            theirs.push(link);
        }
        let Some(common) = common else {
            return Ok(None);
        };
        // What is named up to a checkpoint that counts is here no more to be put in another order.
        if common.at.number < self.shown.lock().settled {
            return Ok(None);
        }
        let ours = self.behind(common.at.number)?;
        // What names what nobody has gives way. What is missing of both says nothing of either.
        let held = self.hold_in(&mut state)?;
        let held = if held < common.at.number {
            u64::MAX
        } else {
            held
        };
        let counting = ours.partition_point(|link| link.record.number <= held);
        let counting = &ours[..counting];
        let is_settled = theirs.iter().any(|link| notary.counts(&link.record));
        let is_ours = || winner(counting, &theirs, common.at.era, notary) == Winner::Ours;
        if !is_settled && is_ours() {
            return Ok(None);
        }
        tracing::warn!(
            common = common.at.number,
            left = ours.len(),
            "another chain counts: this peer goes over to it"
        );
        self.go_over(&mut state, &ours, &theirs, now).map(Some)
    }

    /// Returns the records of this chain behind one.
    pub(super) fn behind(&self, number: u64) -> Result<Vec<Link>, LogError> {
        let start = number.saturating_add(1).to_be_bytes();
        let mut links = Vec::new();
        let mut failed = None;
        self.rows.scan(
            Table::Chain,
            &start,
            None,
            &mut |_, value| match Link::from_bytes(value) {
                Ok(link) => {
                    links.push(link);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        match failed {
            Some(error) => Err(error),
            None => Ok(links),
        }
    }

    /// Puts other records in the place of those of this chain, in one batch.
    pub(super) fn go_over(
        &self,
        state: &mut State,
        ours: &[Link],
        theirs: &[Link],
        now: Duration,
    ) -> Result<Outcome, LogError> {
        let Some(last) = theirs.last() else {
            return Ok(Outcome::default());
        };
        let mut batch = Batch::new();
        let mut named: BTreeMap<LogId, u64> = BTreeMap::new();
        let (mut untaken, mut taken) = (BTreeSet::new(), BTreeMap::new());
        for link in ours {
            let record = &link.record;
            batch.put(Table::Left, record.hash(), codec::encode(link));
            batch.delete(Table::Chain, record.number.to_be_bytes());
            for statement in &record.statements {
                if state.taken.get(statement) == Some(&record.number) {
                    batch.delete(Table::Taken, *statement);
                    untaken.insert(*statement);
                }
            }
            for name in &record.segments {
                // What the first of them names comes behind what is named all the same.
                named.entry(name.log).or_insert(name.seg_no - 1);
            }
        }
        for link in theirs {
            let record = &link.record;
            let key = record.number.to_be_bytes();
            batch.put(Table::Chain, key, codec::encode(link));
            for statement in &record.statements {
                let known = state.taken.get(statement);
                if known.is_none() || untaken.contains(statement) {
                    batch.put(Table::Taken, *statement, record.number.to_be_bytes());
                    taken.entry(*statement).or_insert(record.number);
                }
            }
            for name in &record.segments {
                named.insert(name.log, name.seg_no);
            }
        }
        for (log, last) in &named {
            batch.put(Table::Named, log.0.to_be_bytes(), last.to_be_bytes());
        }
        let number = theirs.first().map_or(0, |link| link.record.number);
        let marks = theirs.iter().filter(|link| link.record.is_checkpoint);
        let marked = match marks.map(|link| link.record.number).max() {
            Some(marked) => marked,
            None => self.last_marked(state.marked, number.saturating_sub(1))?,
        };
        batch.put(Table::Meta, MARKED_KEY, marked.to_be_bytes());
        state.agreement.adopt(now, Tip::of(&last.record));
        let output = state.agreement.poll();
        put_row(&mut batch, &output);
        if let Err(error) = self.rows.commit(batch) {
            self.begin_again(state, now)?;
            return Err(error.into());
        }
        state.named.extend(named);
        state
            .taken
            .retain(|statement, _| !untaken.contains(statement));
        state.taken.extend(taken);
        (state.fence, state.pasts) = (None, Pasts::default());
        (state.marked, state.since) = (marked, Since::default());
        {
            let mut memory = self.memory.lock();
            let turns = memory.turns + 1;
            *memory = Memory {
                turns,
                ..Memory::default()
            };
        }
        state.last = self.last_naming(last.record.number)?;
        let common = theirs.first().and_then(|link| link.record.before());
        let common = self.get(common.map_or(0, |common| common.number))?;
        let common = common.map_or_else(RecordRef::default, |common| common.reference());
        state.held = state.held.min(common.number);
        {
            let mut shown = self.shown.lock();
            if shown.durable.number > common.number {
                shown.durable = common;
            }
        }
        self.hold_in(state)?;
        Ok(self.show(state, output, 0))
    }
}

/// Returns the device that began the last era of some records behind one of an era.
fn founder(links: &[Link], mut era: u64) -> Option<DeviceId> {
    let mut founder = None;
    for link in links {
        if link.record.era > era {
            era = link.record.era;
            founder = link.certificate.votes.first().map(|(device, _)| *device);
        }
    }
    founder
}

/// Judges two chains from where they part: one whose founder is no admin any more counts only where it
/// took that into account itself; then the one that took into account that the other's founder was
/// removed; then the later era; of one era that of the more senior admin, the longer, and the one whose
/// last record has the smaller hash.
fn winner(ours: &[Link], theirs: &[Link], era: u64, notary: &dyn Notary) -> Winner {
    let ends = |links: &[Link], founder: Option<DeviceId>| {
        founder.is_some_and(|founder| {
            let mut links = links.iter();
            links.any(|link| notary.ends(&link.record, founder))
        })
    };
    let (own, other) = (founder(ours, era), founder(theirs, era));
    let is_void = |links: &[Link], founder: Option<DeviceId>| {
        founder.is_some_and(|founder| {
            notary.seniority(founder).is_none() && !ends(links, Some(founder))
        })
    };
    if is_void(theirs, other) {
        return Winner::Ours;
    }
    match (ends(ours, other), ends(theirs, own)) {
        (true, false) => return Winner::Ours,
        (false, true) => return Winner::Theirs,
        (true, true) | (false, false) => {}
    }
    let place = |links: &[Link], founder: Option<DeviceId>| {
        let tip = links.last().map(|link| &link.record);
        let (era, number) = tip.map_or((0, 0), |tip| (tip.era, tip.number));
        let seniority = founder.and_then(|founder| notary.seniority(founder));
        let hash = tip.map_or([0xff; 32], Record::hash);
        (
            era,
            std::cmp::Reverse(seniority.unwrap_or(u64::MAX)),
            number,
            std::cmp::Reverse(hash),
        )
    };
    if place(theirs, other) > place(ours, own) {
        Winner::Theirs
    } else {
        Winner::Ours
    }
}
