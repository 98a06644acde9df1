//! The logs: the hash-chained sequences of sealed segments, one for each start of each device, as rows of the local store.
//!
//! Owns: [`LogStore`], what is checked of a segment before it is stored, and what peers may be told of;
//! and the commit chain over them ([`chain`]).
//! Must never know: plaintext, names, sockets.

pub mod chain;
pub mod checkpoint;
pub mod checkpoints;
mod floors;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::base::limits::{STAMP_AHEAD_MAX, STAMPS_BEGIN_MS};
use crate::base::{DeviceId, LogId, OpId, Stamp, VolumeId};
use crate::store::{Batch, Rows, StoreError, Table, codec};
use crate::wire::{RecordRef, SealedSegment, SegmentHeader, Vector};

use floors::Floor;

/// Says why a segment is not taken, or why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row of the log is missing or damaged.
    #[error("the local log {log} is damaged at segment {seg_no}")]
    Corrupt {
        /// Which log.
        log: LogId,
        /// Which segment.
        seg_no: u64,
    },
    /// The segment belongs to another volume.
    #[error("a segment of another volume")]
    OtherVolume,
    /// Segments before this one are missing here; to be fetched first.
    #[error("segment {seg_no} of log {log} comes after {have}")]
    Gap {
        /// Which log.
        log: LogId,
        /// The number that came.
        seg_no: u64,
        /// The last number that is here.
        have: u64,
    },
    /// The segment does not continue the log that is here: its author wrote two histories.
    #[error("device {device:016x} has two histories from segment {seg_no} on", device = .device.0)]
    Forked {
        /// Whose log.
        device: DeviceId,
        /// The first number that differs.
        seg_no: u64,
    },
    /// The signature is not the author's.
    #[error("segment {seg_no} of device {device:016x} is not signed by its author", device = .device.0)]
    Unauthentic {
        /// Whose log it claims to be.
        device: DeviceId,
        /// Which segment.
        seg_no: u64,
    },
    /// No peer of the roster is this device (yet).
    #[error("device {device:016x} is not on the roster", device = .0.0)]
    UnknownAuthor(DeviceId),
    /// The role of the author allows no changes, or it was removed before it made this one.
    #[error("device {device:016x} may not change the volume", device = .0.0)]
    NotAuthor(DeviceId),
    /// The author was removed, and the segment is in the past of nothing that counts.
    #[error("segment {seg_no} of device {device:016x} counts no more: its author was removed", device = .device.0)]
    Over {
        /// Whose log.
        device: DeviceId,
        /// Which segment.
        seg_no: u64,
    },
    /// A record that the segment builds on is not here; to be fetched first.
    #[error("segment {seg_no} of device {device:016x} builds on record {}, which is not here", record.number, device = .device.0)]
    Unfounded {
        /// Whose log.
        device: DeviceId,
        /// Which segment.
        seg_no: u64,
        /// Which record.
        record: RecordRef,
    },
    /// The stamps lie further ahead of this peer's clock than is allowed.
    #[error("segment {seg_no} of device {device:016x} is {ahead_ms} ms ahead of this clock", device = .device.0)]
    Future {
        /// Whose log.
        device: DeviceId,
        /// Which segment.
        seg_no: u64,
        /// How far ahead, milliseconds.
        ahead_ms: u64,
    },
    /// The segment breaks a rule of its form: number 0, stamps that go back, a body too large.
    #[error("segment {seg_no} of device {device:016x} is malformed", device = .device.0)]
    Malformed {
        /// Whose log.
        device: DeviceId,
        /// Which segment.
        seg_no: u64,
    },
    /// A record of the chain, or what belongs to one, breaks a rule of its form.
    #[error("a record of the chain is malformed: {what}")]
    MalformedRecord {
        /// What is wrong of it.
        what: &'static str,
    },
    /// What belongs to the chain was written by a newer program.
    #[error("a record of the chain has version {found}, this program knows up to {known}")]
    RecordTooNew {
        /// Its version.
        found: u8,
        /// The newest version that is known here.
        known: u8,
    },
    /// A voter says what only a newer program knows.
    #[error("a voter says what takes a newer dfs (kind {kind}): update dfs")]
    UnknownMessage {
        /// The number of what it says.
        kind: u32,
    },
    /// No majority of the voters signed the record.
    #[error("record {number} of era {era} is not signed by a majority of its voters")]
    Uncertified {
        /// The era of the record.
        era: u64,
        /// Its number.
        number: u64,
    },
}

/// Whose a log is, and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// The author.
    pub device: DeviceId,
    /// Which start of the author's daemon.
    pub incarnation: u64,
    /// Number of the last segment; 0 for a log whose ops are not sealed yet, or were sealed by a later
    /// start.
    pub seg_no: u64,
    /// Its [`SealedSegment::hash`]: the next one's `prev`.
    pub hash: [u8; 32],
    /// Stamp of its last op.
    pub last: Stamp,
    /// What the segments up to it take, in bytes.
    pub bytes: u64,
    /// The admission on which the log stands; zeros where that is not known.
    pub admission: [u8; 32],
}

impl LogHead {
    /// Returns the head of a log that has no segment yet.
    fn of(device: DeviceId, incarnation: u64) -> Self {
        Self {
            device,
            incarnation,
            seg_no: 0,
            hash: [0; 32],
            last: Stamp::default(),
            bytes: 0,
            admission: [0; 32],
        }
    }

    /// Returns the head of the log that the ops of a segment are named after.
    fn begun(header: &SegmentHeader) -> Self {
        Self::of(header.device, header.origin)
    }
}

/// What came of a batch of segments from another peer.
#[derive(Debug, Default)]
pub struct Accepted {
    /// Logs that grew, with their new last number.
    pub grown: Vector,
    /// The author of the first segment of each log that was refused, and why it was; what follows it
    /// was not tried.
    pub refused: BTreeMap<LogId, (DeviceId, LogError)>,
}

/// All logs of the volume as this peer has them.
///
/// Own segments: [`LogStore::append`] (with the rows that belong to the same moment), then
/// [`Rows::sync`], then [`LogStore::publish`]; before that no peer is told of them, because a
/// published segment must never be forgotten by its author. Others' segments come in through
/// [`LogStore::accept`], and count as had by this peer after [`Rows::sync`] too.
///
/// Every start of a daemon that writes begins a log of its own, so that a state folder that was put
/// back from a copy, or cloned, continues nobody's log; so does who lost the right to write and has it anew.
///
/// Invariants: the segments of a log are contiguous from 1, or from behind its floor
/// ([`LogStore::start_at`]), and chained by hash; a segment's stamps are above all of those before it; a
/// row is never replaced.
#[derive(Debug)]
pub struct LogStore {
    rows: Arc<dyn Rows>,
    volume: VolumeId,
    own: DeviceId,
    /// Which start of this device it is.
    incarnation: AtomicU64,
    /// Held while a batch is committed, so that two batches never race for one place in a log.
    state: Mutex<State>,
    /// A leaf: where logs begin that do not begin at their first segment.
    floors: RwLock<BTreeMap<LogId, Floor>>,
    /// Held by who moves floors, before all others.
    starting: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    heads: BTreeMap<LogId, LogHead>,
    /// What peers may be told of: durable here.
    offered: Vector,
    /// The admission by which this device writes.
    admission: [u8; 32],
}

impl LogStore {
    /// Opens the logs in the rows of a store and makes durable what a killed process left behind.
    ///
    /// `incarnation` is a random number of this start of the device: what it appends is a log that
    /// nobody began before.
    pub fn open(
        rows: Arc<dyn Rows>,
        volume: VolumeId,
        own: DeviceId,
        incarnation: u64,
    ) -> Result<Self, LogError> {
        let mut heads = BTreeMap::new();
        let mut damaged = None;
        rows.scan(Table::LogHead, &[], None, &mut |key, value| {
            let log = key.try_into().map(u64::from_be_bytes).map(LogId);
            match (log, codec::decode::<LogHead>(value, HEAD_MAX_BYTES)) {
                (Ok(log), Ok(head)) => {
                    heads.insert(log, head);
                    ControlFlow::Continue(())
                }
                (log, _) => {
                    damaged = Some(log.unwrap_or_default());
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(log) = damaged {
            return Err(LogError::Corrupt { log, seg_no: 0 });
        }
        let floors = floors::stored(&*rows)?;
        rows.sync()?;
        let offered = ends(&heads);
        let log = Self {
            rows,
            volume,
            own,
            incarnation: AtomicU64::new(incarnation),
            state: Mutex::new(State {
                heads,
                offered,
                admission: [0; 32],
            }),
            floors: RwLock::new(floors),
            starting: Mutex::new(()),
        };
        log.drop_below()?;
        Ok(log)
    }

    /// Returns the device that appends here.
    pub fn own_device(&self) -> DeviceId {
        self.own
    }

    /// Returns the log that is appended to here.
    pub fn own_log(&self) -> LogId {
        LogId::of(self.own, self.incarnation())
    }

    /// Returns which start of this device it is.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }

    /// Returns which start of its author's daemon wrote a log, `None` for a log that is not known.
    pub fn incarnation_of(&self, log: LogId) -> Option<u64> {
        if log == self.own_log() {
            return Some(self.incarnation());
        }
        let state = self.state.lock();
        state.heads.get(&log).map(|head| head.incarnation)
    }

    /// Says by which admission this device writes: on that its log stands, unless it has begun.
    pub fn stand_on(&self, admission: [u8; 32]) {
        self.state.lock().admission = admission;
    }

    /// Returns the admission by which this device writes, whatever its log stands on.
    pub fn standing(&self) -> [u8; 32] {
        self.state.lock().admission
    }

    /// Begins another log to append to, as a new start would: on the admission by which this device writes
    /// now. Called by who holds off all that appends.
    pub fn renew(&self, incarnation: u64) {
        self.incarnation.store(incarnation, Ordering::Relaxed);
    }

    /// Returns the admission on which a log stands, `None` for a log that is not known.
    pub fn admission(&self, log: LogId) -> Option<[u8; 32]> {
        let state = self.state.lock();
        let head = state.heads.get(&log);
        if log == self.own_log() && head.is_none_or(|head| head.seg_no == 0) {
            return Some(state.admission);
        }
        head.map(|head| head.admission)
    }

    /// Returns the author of a log, `None` for a log that is not known.
    pub fn author(&self, log: LogId) -> Option<DeviceId> {
        if log == self.own_log() {
            return Some(self.own);
        }
        let state = self.state.lock();
        state.heads.get(&log).map(|head| head.device)
    }

    /// Returns the logs that a device has written, the one that is appended to here included.
    pub fn logs_of(&self, device: DeviceId) -> Vec<LogId> {
        let state = self.state.lock();
        let of_device = state.heads.iter().filter(|(_, head)| head.device == device);
        let mut logs: Vec<LogId> = of_device.map(|(log, _)| *log).collect();
        if device == self.own && !logs.contains(&self.own_log()) {
            logs.push(self.own_log());
        }
        logs
    }

    /// Notes in the rows that the own log has begun, so that ops which no segment holds yet are known
    /// as this device's after a crash. Nothing where that is known.
    pub fn begin(&self) -> Result<(), LogError> {
        let log = self.own_log();
        let mut state = self.state.lock();
        if state.heads.contains_key(&log) {
            return Ok(());
        }
        let head = LogHead {
            admission: state.admission,
            ..LogHead::of(self.own, self.incarnation())
        };
        let mut batch = Batch::new();
        put_head(&mut batch, log, head);
        self.rows.commit(batch)?;
        state.heads.insert(log, head);
        Ok(())
    }

    /// Notes in the rows that a log of this device was begun by a start before this one, so that ops
    /// which no segment holds yet are known as this device's. Nothing where that is known.
    pub fn know(&self, incarnation: u64) -> Result<(), LogError> {
        let log = LogId::of(self.own, incarnation);
        let mut state = self.state.lock();
        if state.heads.contains_key(&log) {
            return Ok(());
        }
        let head = LogHead::of(self.own, incarnation);
        let mut batch = Batch::new();
        put_head(&mut batch, log, head);
        self.rows.commit(batch)?;
        state.heads.insert(log, head);
        Ok(())
    }

    /// Returns for each log the number of the last segment that is here.
    pub fn vector(&self) -> Vector {
        ends(&self.state.lock().heads)
    }

    /// Returns for each log the last segment that peers may be told of.
    pub fn offered(&self) -> Vector {
        self.state.lock().offered.clone()
    }

    /// Returns the bytes of all segments that are here.
    pub fn bytes(&self) -> u64 {
        let state = self.state.lock();
        state.heads.values().map(|head| head.bytes).sum()
    }

    /// Returns where a log ends; `None` for an empty one.
    pub fn head(&self, log: LogId) -> Option<LogHead> {
        let state = self.state.lock();
        state
            .heads
            .get(&log)
            .copied()
            .filter(|head| head.seg_no > 0)
    }

    /// Appends own segments, in one commit with `with`; visible at once, durable at the next sync.
    ///
    /// # Errors
    ///
    /// [`LogError::Gap`], [`LogError::Forked`] or [`LogError::Malformed`] where the segments do not
    /// continue the own log (nothing is changed then), or the store's error.
    pub fn append(&self, segments: &[SealedSegment], with: Batch) -> Result<(), LogError> {
        let mut batch = with;
        let own_log = self.own_log();
        let mut state = self.state.lock();
        let mut head = state.heads.get(&own_log).copied();
        for segment in segments {
            if segment.header.log() != own_log {
                return Err(LogError::NotAuthor(segment.header.device));
            }
            check_form(segment, self.volume)?;
            check_place(segment, head.as_ref())?;
            head = Some(put(&mut batch, segment, head.as_ref()));
        }
        if let (Some(head), false) = (head, segments.is_empty()) {
            put_head(&mut batch, own_log, head);
        }
        self.rows.commit(batch)?;
        if let Some(head) = head {
            state.heads.insert(own_log, head);
        }
        Ok(())
    }

    /// Says that own segments up to `seg_no` are durable, so that peers may be told of them.
    pub fn publish(&self, seg_no: u64) {
        let own_log = self.own_log();
        let mut state = self.state.lock();
        let have = state.heads.get(&own_log).map_or(0, |head| head.seg_no);
        let offered = state.offered.entry(own_log).or_default();
        *offered = (*offered).max(seg_no.min(have));
    }

    /// Stores segments that came from another peer and syncs; what is here already is skipped.
    ///
    /// Each segment passes `verify` (author, role, signature), then must continue its log. The
    /// segments of one device are taken in their order up to the first that is refused; other
    /// devices are not touched by that. `now_ms` is this peer's wall clock.
    ///
    /// # Errors
    ///
    /// Only the store's; what a peer did wrong is in [`Accepted::refused`].
    pub fn accept(
        &self,
        segments: &[SealedSegment],
        now_ms: u64,
        verify: &dyn Fn(&SealedSegment) -> Result<(), LogError>,
    ) -> Result<Accepted, LogError> {
        let mut accepted = Accepted::default();
        let mut checked: Vec<(LogId, &SealedSegment)> = Vec::new();
        let have = self.vector();
        for segment in segments {
            let log = segment.header.log();
            let known = have.get(&log).copied().unwrap_or(0);
            if accepted.refused.contains_key(&log) || segment.header.seg_no <= known {
                continue;
            }
            let verdict = check_form(segment, self.volume)
                .and_then(|()| verify(segment))
                // Of what its author has signed: a date that another forged says nothing of him.
                .and_then(|()| check_time(segment, now_ms));
            match verdict {
                Ok(()) => checked.push((log, segment)),
                Err(error) => {
                    accepted.refused.insert(log, (segment.header.device, error));
                }
            }
        }
        self.store(&checked, &mut accepted)?;
        if !accepted.grown.is_empty() {
            self.rows.sync()?;
            let mut state = self.state.lock();
            for (log, seg_no) in &accepted.grown {
                let offered = state.offered.entry(*log).or_default();
                *offered = (*offered).max(*seg_no);
            }
        }
        Ok(accepted)
    }

    /// Returns one segment, `None` where it is not here, or below the floor of its log.
    pub fn get(&self, log: LogId, seg_no: u64) -> Result<Option<SealedSegment>, LogError> {
        if seg_no <= self.floor(log) {
            return Ok(None);
        }
        let Some(bytes) = self.rows.get(Table::Segment, &segment_key(log, seg_no))? else {
            return Ok(None);
        };
        SealedSegment::from_bytes(&Bytes::from(bytes))
            .map(Some)
            .map_err(|_| LogError::Corrupt { log, seg_no })
    }

    /// Returns the hash of a segment and the stamp of its last op; `None` where it is not here, nor the one
    /// at the floor.
    pub fn end_at(&self, log: LogId, seg_no: u64) -> Result<Option<([u8; 32], Stamp)>, LogError> {
        if let Some(head) = self.head(log).filter(|head| head.seg_no == seg_no) {
            return Ok(Some((head.hash, head.last)));
        }
        if let Some(start) = self.start_of(log).filter(|start| start.seg_no == seg_no) {
            return Ok(Some((start.hash, start.last)));
        }
        let segment = self.get(log, seg_no)?;
        Ok(segment.map(|segment| (segment.hash(), segment.header.last)))
    }

    /// Returns a log's segments from number `from` on, up to `max_bytes` of them but at least
    /// one where there is one. None where the first is below the floor of the log: those behind it are of
    /// no use without it.
    pub fn range(
        &self,
        log: LogId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<SealedSegment>, LogError> {
        let mut segments = Vec::new();
        if from <= self.floor(log) && from > 0 {
            return Ok(segments);
        }
        let mut bytes_total = 0usize;
        let mut seg_no = from;
        let mut damaged = false;
        let end = log.0.checked_add(1).map(u64::to_be_bytes);
        let start = segment_key(log, from);
        self.rows.scan(
            Table::Segment,
            &start,
            end.as_ref().map(<[u8; 8]>::as_slice),
            &mut |_, value| {
                let segment = SealedSegment::from_bytes(&Bytes::copy_from_slice(value));
                let Some(segment) = segment.ok().filter(|s| s.header.seg_no == seg_no) else {
                    damaged = true;
                    return ControlFlow::Break(());
                };
                bytes_total += value.len();
                if bytes_total > max_bytes && !segments.is_empty() {
                    return ControlFlow::Break(());
                }
                segments.push(segment);
                seg_no += 1;
                ControlFlow::Continue(())
            },
        )?;
        if damaged && segments.is_empty() {
            return Err(LogError::Corrupt { log, seg_no });
        }
        Ok(segments)
    }

    /// Returns the log and the number of the segment that carries an op, `None` where none does yet.
    ///
    /// That is the log which the op is named after, but for ops that a start of the device had not
    /// sealed when it ended: those the next start seals, at the beginning of its own. Of an op below the
    /// floor it is the segment at the floor: who has that has the op, in one way or the other.
    pub fn find(&self, op: OpId) -> Result<Option<(LogId, u64)>, LogError> {
        if let Some(head) = self.head(op.log).filter(|head| op.stamp <= head.last) {
            let floor = self.start_of(op.log);
            if floor.is_some_and(|floor| op.stamp <= floor.last) {
                return Ok(floor.map(|floor| (op.log, floor.seg_no)));
            }
            // The first whose last op is not before it.
            let (mut low, mut high) = (self.floor(op.log) + 1, head.seg_no);
            while low < high {
                let middle = low + (high - low) / 2;
                let segment = self.get(op.log, middle)?;
                if segment.is_some_and(|segment| segment.header.last < op.stamp) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            return Ok(Some((op.log, low)));
        }
        let device = self.author(op.log);
        for log in device
            .map(|device| self.logs_of(device))
            .unwrap_or_default()
        {
            let mut seg_no = self.floor(log) + 1;
            while let Some(segment) = self.get(log, seg_no)? {
                let header = &segment.header;
                if header.op_log() == log {
                    break;
                }
                if header.op_log() == op.log && (header.first..=header.last).contains(&op.stamp) {
                    return Ok(Some((log, seg_no)));
                }
                seg_no += 1;
            }
        }
        Ok(device.and_then(|device| self.below_floor(device, op)))
    }

    /// Commits those of the verified segments that continue their logs.
    fn store(
        &self,
        checked: &[(LogId, &SealedSegment)],
        accepted: &mut Accepted,
    ) -> Result<(), LogError> {
        if checked.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        let mut batch = Batch::new();
        let mut heads: BTreeMap<LogId, LogHead> = BTreeMap::new();
        let mut ended = BTreeSet::new();
        for (log, segment) in checked {
            let head = heads.get(log).or_else(|| state.heads.get(log)).copied();
            let is_here = head.is_some_and(|head| segment.header.seg_no <= head.seg_no);
            if ended.contains(log) || is_here {
                continue;
            }
            match check_place(segment, head.as_ref()) {
                Ok(()) => {
                    heads.insert(*log, put(&mut batch, segment, head.as_ref()));
                    // Ops may be named after a log that has no segment.
                    let named = segment.header.op_log();
                    if !heads.contains_key(&named) && !state.heads.contains_key(&named) {
                        heads.insert(named, LogHead::begun(&segment.header));
                    }
                }
                Err(error) => {
                    ended.insert(*log);
                    // It comes before whatever was refused of that log by its looks.
                    let refused = &mut accepted.refused;
                    refused.insert(*log, (segment.header.device, error));
                }
            }
        }
        for (log, head) in &heads {
            put_head(&mut batch, *log, *head);
            if head.seg_no > 0 {
                accepted.grown.insert(*log, head.seg_no);
            }
        }
        if !batch.is_empty() {
            self.rows.commit(batch)?;
            state.heads.extend(heads);
        }
        Ok(())
    }
}

/// Returns the last segment of each log that has one.
fn ends(heads: &BTreeMap<LogId, LogHead>) -> Vector {
    let sealed = heads.iter().filter(|(_, head)| head.seg_no > 0);
    sealed.map(|(log, head)| (*log, head.seg_no)).collect()
}

/// Largest encoded [`LogHead`].
const HEAD_MAX_BYTES: usize = 128;

/// Returns the row key of a segment: its byte order is the order of each log.
fn segment_key(log: LogId, seg_no: u64) -> [u8; 16] {
    let mut key = [0u8; 16];
    key[..8].copy_from_slice(&log.0.to_be_bytes());
    key[8..].copy_from_slice(&seg_no.to_be_bytes());
    key
}

/// Puts a segment's row into a batch and returns the head that it makes of the one before.
fn put(batch: &mut Batch, segment: &SealedSegment, before: Option<&LogHead>) -> LogHead {
    let header = &segment.header;
    let key = segment_key(header.log(), header.seg_no);
    let bytes = segment.to_bytes();
    let len = bytes.len() as u64;
    batch.put(Table::Segment, key, bytes);
    LogHead {
        device: header.device,
        incarnation: header.incarnation,
        bytes: before.map_or(0, |head| head.bytes).saturating_add(len),
        seg_no: header.seg_no,
        hash: segment.hash(),
        last: header.last,
        admission: header
            .admission
            .or_else(|| before.map(|head| head.admission))
            .unwrap_or_default(),
    }
}

fn put_head(batch: &mut Batch, log: LogId, head: LogHead) {
    batch.put(Table::LogHead, log.0.to_be_bytes(), codec::encode(&head));
}

/// Checks what can be said of a segment alone.
fn check_form(segment: &SealedSegment, volume: VolumeId) -> Result<(), LogError> {
    let header = &segment.header;
    if header.volume != volume {
        return Err(LogError::OtherVolume);
    }
    if (header.seg_no == 1) != header.admission.is_some()
        || header.first > header.last
        || segment.body.len() > SealedSegment::BODY_MAX_BYTES
    {
        return Err(LogError::Malformed {
            device: header.device,
            seg_no: header.seg_no,
        });
    }
    Ok(())
}

/// Checks that a segment is not dated beyond what any clock that is wrong by accident says.
fn check_time(segment: &SealedSegment, now_ms: u64) -> Result<(), LogError> {
    // A machine that has lost its clock takes what others write today.
    let now_ms = now_ms.max(STAMPS_BEGIN_MS);
    let ahead_ms = segment.header.last.ms().saturating_sub(now_ms);
    if u128::from(ahead_ms) > STAMP_AHEAD_MAX.as_millis() {
        return Err(LogError::Future {
            device: segment.header.device,
            seg_no: segment.header.seg_no,
            ahead_ms,
        });
    }
    Ok(())
}

/// Checks that a segment continues the log that ends in `head`.
fn check_place(segment: &SealedSegment, head: Option<&LogHead>) -> Result<(), LogError> {
    let header = &segment.header;
    let (device, seg_no) = (header.device, header.seg_no);
    let have = head.map_or(0, |head| head.seg_no);
    if have.checked_add(1) != Some(seg_no) {
        let log = header.log();
        return Err(LogError::Gap { log, seg_no, have });
    }
    // Two devices whose logs have one name: not in this world, but what a peer sends is not of it.
    if head.is_some_and(|head| head.device != device) {
        return Err(LogError::Malformed { device, seg_no });
    }
    if header.prev != head.map_or([0; 32], |head| head.hash) {
        return Err(LogError::Forked { device, seg_no });
    }
    if head.is_some_and(|head| header.first <= head.last) {
        return Err(LogError::Malformed { device, seg_no });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
