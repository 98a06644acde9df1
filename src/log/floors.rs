//! Floors: logs of which the segments up to one are not needed here any more, as the rows of a checkpoint
//! have all that they say.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::checkpoint::LogStart;
use super::{LogError, LogHead, LogStore, put_head, segment_key};
use crate::base::{DeviceId, LogId, OpId};
use crate::store::{Batch, Rows, Table, codec};
use crate::wire::{SealedSegment, Vector};

/// Logs of which a floor is noted in one batch: 320 bytes each with its head.
const NOTE_SLICE: usize = 1024;

/// Segments that are removed in one batch.
const DROP_SLICE: usize = 1024;

/// Most bytes of segments that are read at a time.
const READ_BYTES: usize = 4 << 20;

/// Largest encoded [`Floor`].
const FLOOR_MAX_BYTES: usize = 160;

/// Where a log begins here.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Floor {
    /// The last segment that is not needed.
    start: LogStart,
    /// The last segment whose row is gone for sure; those from there to the floor may be here yet.
    dropped: u64,
}

impl LogStore {
    /// Says that the segments up to some are not needed here: what they say the rows of a checkpoint have
    /// from now on, here or wherever this peer would get it. So a log that is shorter here goes on behind
    /// them, and what is here up to them is removed. Never goes back. All of it is durable on return but
    /// for the removal, which a crash leaves to the next opening.
    ///
    /// A log that parts from what is here, where its author wrote two histories, is left as it is.
    ///
    /// # Errors
    ///
    /// Those of the store; a part may be done then, and the rest by another call.
    pub fn start_at(&self, starts: &[LogStart]) -> Result<(), LogError> {
        let _turn = self.starting.lock();
        for starts in starts.chunks(NOTE_SLICE) {
            self.note_floors(starts)?;
        }
        self.drop_below()
    }

    /// Returns the last segment of a log that is not needed here; 0 where all are.
    pub fn floor(&self, log: LogId) -> u64 {
        self.start_of(log).map_or(0, |start| start.seg_no)
    }

    /// Returns where a log begins here that does not begin at its first segment.
    pub fn start_of(&self, log: LogId) -> Option<LogStart> {
        self.floors.read().get(&log).map(|floor| floor.start)
    }

    /// Returns where the logs begin here that do not begin at their first segments, ascending.
    pub fn starts(&self) -> Vec<LogStart> {
        self.floors.read().values().map(|at| at.start).collect()
    }

    /// Returns up to which segment a log is not needed here, of those of which that is any.
    pub fn floors(&self) -> Vector {
        let floors = self.floors.read();
        let floors = floors.iter().map(|(log, at)| (*log, at.start.seg_no));
        floors.filter(|(_, seg_no)| *seg_no > 0).collect()
    }

    /// Returns those that can be read in the rows of a damaged store.
    pub fn starts_in(rows: &dyn Rows) -> Result<Vec<LogStart>, LogError> {
        let mut starts = Vec::new();
        rows.scan(Table::Floor, &[], None, &mut |_, value| {
            let floor = codec::decode::<Floor>(value, FLOOR_MAX_BYTES);
            let start = floor.ok().map(|floor| floor.start);
            starts.extend(start.filter(LogStart::is_sound));
            ControlFlow::Continue(())
        })?;
        Ok(starts)
    }

    /// Returns the segment that carries an op which no segment here does, where it may lie below the floor
    /// of a later log of its author: what a start leaves the next one seals before all else.
    pub(super) fn below_floor(&self, device: DeviceId, op: OpId) -> Option<(LogId, u64)> {
        // What the own log does not hold it has not sealed yet.
        if op.log == self.own_log() {
            return None;
        }
        let floors = self.floors.read();
        let of_device = floors.values().map(|floor| floor.start);
        let mut of_device = of_device.filter(|start| start.device == device);
        let carrier = of_device.find(|start| op.stamp <= start.last);
        carrier.map(|start| (start.log, start.seg_no))
    }

    /// Notes floors, and moves heads to them.
    fn note_floors(&self, starts: &[LogStart]) -> Result<(), LogError> {
        let mut news = Vec::new();
        for start in starts {
            let known = self.state.lock().heads.get(&start.log).copied();
            let is_news = match start.seg_no {
                0 => known.is_none(),
                seg_no => seg_no > self.floor(start.log) && !self.parts_from(start)?,
            };
            if is_news {
                let head = known.unwrap_or_else(|| head_at(start));
                let left = self.bytes_behind(start.log, start.seg_no, head.seg_no)?;
                news.push((*start, left, head.bytes));
            }
        }
        if news.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        let (mut floors, mut moved) = (BTreeMap::new(), Vec::new());
        {
            let mut state = self.state.lock();
            let mut heads = BTreeMap::new();
            for (start, left, before) in news {
                let known = state.heads.get(&start.log);
                let head = match known.filter(|head| head.seg_no >= start.seg_no) {
                    // What was appended since is not among what was read.
                    Some(head) => LogHead {
                        bytes: left + head.bytes.saturating_sub(before),
                        ..*head
                    },
                    None => {
                        moved.push((start.log, start.seg_no));
                        head_at(&start)
                    }
                };
                put_head(&mut batch, start.log, head);
                heads.insert(start.log, head);
                if start.seg_no > 0 {
                    let floor = self.floors.read().get(&start.log).copied();
                    let dropped = floor.map_or(0, |floor| floor.dropped);
                    let floor = Floor { start, dropped };
                    put_floor(&mut batch, &floor);
                    floors.insert(start.log, floor);
                }
            }
            self.rows.commit(batch)?;
            state.heads.extend(heads);
        }
        // Before that nobody is told where a log ends now, and nothing is removed.
        self.rows.sync()?;
        let mut state = self.state.lock();
        for (log, seg_no) in moved.into_iter().filter(|(_, seg_no)| *seg_no > 0) {
            let offered = state.offered.entry(log).or_default();
            *offered = (*offered).max(seg_no);
        }
        self.floors.write().extend(floors);
        Ok(())
    }

    /// Says whether a log goes on in another way here, or is not to be moved: nobody but this device makes
    /// longer what it appends to.
    fn parts_from(&self, start: &LogStart) -> Result<bool, LogError> {
        let head = self.head(start.log);
        let have = head.map_or(0, |head| head.seg_no);
        let parts = match head {
            _ if have < start.seg_no => start.log == self.own_log(),
            Some(head) if have == start.seg_no => head.hash != start.hash,
            _ => {
                let here = self.get(start.log, start.seg_no)?;
                here.is_some_and(|segment| segment.hash() != start.hash)
            }
        };
        if parts {
            let (log, seg_no) = (start.log, start.seg_no);
            tracing::warn!(%log, seg_no, "a checkpoint has another history of a log");
        }
        Ok(parts)
    }

    /// Returns the bytes of the segments of a log behind one, up to its end.
    fn bytes_behind(&self, log: LogId, seg_no: u64, end: u64) -> Result<u64, LogError> {
        let (mut sum, mut from) = (0, seg_no + 1);
        while from <= end {
            let segments = self.range(log, from, READ_BYTES)?;
            let Some(last) = segments.last() else {
                break;
            };
            from = last.header.seg_no + 1;
            let sizes = segments.iter().map(SealedSegment::to_bytes);
            sum += sizes.map(|bytes| bytes.len() as u64).sum::<u64>();
        }
        Ok(sum)
    }

    /// Removes the rows of segments up to the floors.
    pub(super) fn drop_below(&self) -> Result<(), LogError> {
        let open = |floor: &&Floor| floor.dropped < floor.start.seg_no;
        let open: Vec<Floor> = self.floors.read().values().filter(open).copied().collect();
        for floor in open {
            self.drop_of(floor)?;
        }
        Ok(())
    }

    /// Removes the rows of a log up to its floor, which is durable.
    fn drop_of(&self, mut floor: Floor) -> Result<(), LogError> {
        let log = floor.start.log;
        let end = segment_key(log, floor.start.seg_no.saturating_add(1));
        while floor.dropped < floor.start.seg_no {
            let mut batch = Batch::new();
            let mut last = None;
            let from = segment_key(log, floor.dropped + 1);
            self.rows
                .scan_keys(Table::Segment, &from, Some(&end), &mut |key| {
                    if batch.len() == DROP_SLICE {
                        return ControlFlow::Break(());
                    }
                    batch.delete(Table::Segment, key);
                    let number = key.get(8..).and_then(|number| number.try_into().ok());
                    last = number.map(u64::from_be_bytes);
                    ControlFlow::Continue(())
                })?;
            let is_all = batch.len() < DROP_SLICE;
            floor.dropped = last.filter(|_| !is_all).unwrap_or(floor.start.seg_no);
            put_floor(&mut batch, &floor);
            self.rows.commit(batch)?;
            self.floors.write().insert(log, floor);
        }
        Ok(())
    }
}

/// Returns the head of a log of which nothing is here but where it begins.
fn head_at(start: &LogStart) -> LogHead {
    LogHead {
        seg_no: start.seg_no,
        hash: start.hash,
        last: start.last,
        admission: start.admission,
        ..LogHead::of(start.device, start.incarnation)
    }
}

fn put_floor(batch: &mut Batch, floor: &Floor) {
    let key = floor.start.log.0.to_be_bytes();
    batch.put(Table::Floor, key, codec::encode(floor));
}

/// Returns the floors in the rows of a store.
pub(super) fn stored(rows: &dyn Rows) -> Result<BTreeMap<LogId, Floor>, LogError> {
    let mut floors = BTreeMap::new();
    let mut damaged = None;
    rows.scan(Table::Floor, &[], None, &mut |key, value| {
        let log = key.try_into().map(u64::from_be_bytes).map(LogId);
        let floor = codec::decode::<Floor>(value, FLOOR_MAX_BYTES).ok();
        let floor = floor.filter(|floor| log.is_ok_and(|log| floor.start.log == log));
        match floor {
            Some(floor) => {
                floors.insert(floor.start.log, floor);
                ControlFlow::Continue(())
            }
            None => {
                damaged = Some(log.unwrap_or_default());
                ControlFlow::Break(())
            }
        }
    })?;
    match damaged {
        Some(log) => Err(LogError::Corrupt { log, seg_no: 0 }),
        None => Ok(floors),
    }
}

#[cfg(test)]
mod tests;
