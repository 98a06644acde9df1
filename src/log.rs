//! The logs: every device's hash-chained sequence of sealed segments, as rows of the local store.
//!
//! Owns: [`LogStore`], what is checked of a segment before it is stored, and what peers may be told of.
//! Must never know: plaintext, names, sockets.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::base::limits::CLOCK_SKEW_MAX;
use crate::base::{DeviceId, Stamp, VolumeId};
use crate::store::{Batch, Rows, StoreError, Table, codec};
use crate::wire::{SealedSegment, Vector};

/// Says why a segment is not taken, or why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row of the log is missing or damaged.
    #[error("the local log of device {device:016x} is damaged at segment {seg_no}", device = .device.0)]
    Corrupt {
        /// Whose log.
        device: DeviceId,
        /// Which segment.
        seg_no: u64,
    },
    /// The segment belongs to another volume.
    #[error("a segment of another volume")]
    OtherVolume,
    /// Segments before this one are missing here; to be fetched first.
    #[error("segment {seg_no} of device {device:016x} comes after {have}", device = .device.0)]
    Gap {
        /// Whose log.
        device: DeviceId,
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
}

/// Where a device's log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// Number of the last segment.
    pub seg_no: u64,
    /// Its [`SealedSegment::hash`]: the next one's `prev`.
    pub hash: [u8; 32],
    /// Stamp of its last op.
    pub last: Stamp,
    /// What the segments up to it take, in bytes.
    pub bytes: u64,
}

/// What came of a batch of segments from another peer.
#[derive(Debug, Default)]
pub struct Accepted {
    /// Devices whose log grew, with their new last number.
    pub grown: Vector,
    /// The first segment of each device that was refused, and why; what follows it was not tried.
    pub refused: BTreeMap<DeviceId, LogError>,
}

/// All logs of the volume as this peer has them.
///
/// Own segments: [`LogStore::append`] (with the rows that belong to the same moment), then
/// [`Rows::sync`], then [`LogStore::publish`]; before that no peer is told of them, because a
/// published segment must never be forgotten by its author. Others' segments come in through
/// [`LogStore::accept`], and count as had by this peer after [`Rows::sync`] too.
///
/// Invariants: the segments of a device are contiguous from 1 and chained by hash; a segment's
/// stamps are above all of those before it; a row is never replaced.
#[derive(Debug)]
pub struct LogStore {
    rows: Arc<dyn Rows>,
    volume: VolumeId,
    own: DeviceId,
    /// Held while a batch is committed, so that two batches never race for one place in a log.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    heads: BTreeMap<DeviceId, LogHead>,
    /// What peers may be told of: durable here.
    offered: Vector,
}

impl LogStore {
    /// Opens the logs in the rows of a store and makes durable what a killed process left behind.
    pub fn open(rows: Arc<dyn Rows>, volume: VolumeId, own: DeviceId) -> Result<Self, LogError> {
        let mut heads = BTreeMap::new();
        let mut damaged = None;
        rows.scan(Table::LogHead, &[], None, &mut |key, value| {
            let device = key.try_into().map(u64::from_be_bytes).map(DeviceId);
            match (device, codec::decode::<LogHead>(value, HEAD_MAX_BYTES)) {
                (Ok(device), Ok(head)) => {
                    heads.insert(device, head);
                    ControlFlow::Continue(())
                }
                (device, _) => {
                    damaged = Some(device.unwrap_or_default());
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(device) = damaged {
            return Err(LogError::Corrupt { device, seg_no: 0 });
        }
        if !heads.is_empty() {
            rows.sync()?;
        }
        let offered = heads
            .iter()
            .map(|(device, head)| (*device, head.seg_no))
            .collect();
        Ok(Self {
            rows,
            volume,
            own,
            state: Mutex::new(State { heads, offered }),
        })
    }

    /// Returns the device that appends here.
    pub fn own_device(&self) -> DeviceId {
        self.own
    }

    /// Returns for each device the number of the last segment that is here.
    pub fn vector(&self) -> Vector {
        let state = self.state.lock();
        let heads = state.heads.iter();
        heads.map(|(device, head)| (*device, head.seg_no)).collect()
    }

    /// Returns for each device the last segment that peers may be told of.
    pub fn offered(&self) -> Vector {
        self.state.lock().offered.clone()
    }

    /// Returns the bytes of all segments that are here.
    pub fn bytes(&self) -> u64 {
        let state = self.state.lock();
        state.heads.values().map(|head| head.bytes).sum()
    }

    /// Returns where a device's log ends; `None` for an empty one.
    pub fn head(&self, device: DeviceId) -> Option<LogHead> {
        self.state.lock().heads.get(&device).copied()
    }

    /// Appends own segments, in one commit with `with`; visible at once, durable at the next sync.
    ///
    /// # Errors
    ///
    /// [`LogError::Gap`], [`LogError::Forked`] or [`LogError::Malformed`] where the segments do not
    /// continue the own log (nothing is changed then), or the store's error.
    pub fn append(&self, segments: &[SealedSegment], with: Batch) -> Result<(), LogError> {
        let mut batch = with;
        let mut state = self.state.lock();
        let mut head = state.heads.get(&self.own).copied();
        for segment in segments {
            if segment.header.device != self.own {
                return Err(LogError::NotAuthor(segment.header.device));
            }
            check_form(segment, self.volume)?;
            check_place(segment, head.as_ref())?;
            head = Some(put(&mut batch, segment, head.as_ref()));
        }
        if let (Some(head), false) = (head, segments.is_empty()) {
            put_head(&mut batch, self.own, head);
        }
        self.rows.commit(batch)?;
        if let Some(head) = head {
            state.heads.insert(self.own, head);
        }
        Ok(())
    }

    /// Says that own segments up to `seg_no` are durable, so that peers may be told of them.
    pub fn publish(&self, seg_no: u64) {
        let mut state = self.state.lock();
        let have = state.heads.get(&self.own).map_or(0, |head| head.seg_no);
        let offered = state.offered.entry(self.own).or_default();
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
        let mut checked: Vec<&SealedSegment> = Vec::new();
        let have = self.vector();
        for segment in segments {
            let device = segment.header.device;
            let known = have.get(&device).copied().unwrap_or(0);
            if accepted.refused.contains_key(&device) || segment.header.seg_no <= known {
                continue;
            }
            let verdict = check_form(segment, self.volume)
                .and_then(|()| verify(segment))
                // Of what its author has signed: a date that another forged says nothing of him.
                .and_then(|()| check_time(segment, now_ms));
            match verdict {
                Ok(()) => checked.push(segment),
                Err(error) => {
                    accepted.refused.insert(device, error);
                }
            }
        }
        self.store(&checked, &mut accepted)?;
        if !accepted.grown.is_empty() {
            self.rows.sync()?;
            let mut state = self.state.lock();
            for (device, seg_no) in &accepted.grown {
                let offered = state.offered.entry(*device).or_default();
                *offered = (*offered).max(*seg_no);
            }
        }
        Ok(accepted)
    }

    /// Returns one segment, `None` where it is not here.
    pub fn get(&self, device: DeviceId, seg_no: u64) -> Result<Option<SealedSegment>, LogError> {
        let Some(bytes) = self
            .rows
            .get(Table::Segment, &segment_key(device, seg_no))?
        else {
            return Ok(None);
        };
        SealedSegment::from_bytes(&Bytes::from(bytes))
            .map(Some)
            .map_err(|_| LogError::Corrupt { device, seg_no })
    }

    /// Returns a device's segments from number `from` on, up to `max_bytes` of them but at least
    /// one where there is one.
    pub fn range(
        &self,
        device: DeviceId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<SealedSegment>, LogError> {
        let mut segments = Vec::new();
        let mut bytes_total = 0usize;
        let mut seg_no = from;
        let mut damaged = false;
        let end = device.0.checked_add(1).map(u64::to_be_bytes);
        let start = segment_key(device, from);
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
            return Err(LogError::Corrupt { device, seg_no });
        }
        Ok(segments)
    }

    /// Commits those of the verified segments that continue their logs.
    fn store(&self, checked: &[&SealedSegment], accepted: &mut Accepted) -> Result<(), LogError> {
        if checked.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        let mut batch = Batch::new();
        let mut heads: BTreeMap<DeviceId, LogHead> = BTreeMap::new();
        for segment in checked {
            let device = segment.header.device;
            let head = heads
                .get(&device)
                .or_else(|| state.heads.get(&device))
                .copied();
            if accepted.refused.contains_key(&device)
                || head.is_some_and(|head| segment.header.seg_no <= head.seg_no)
            {
                continue;
            }
            match check_place(segment, head.as_ref()) {
                Ok(()) => {
                    heads.insert(device, put(&mut batch, segment, head.as_ref()));
                }
                Err(error) => {
                    accepted.refused.insert(device, error);
                }
            }
        }
        for (device, head) in &heads {
            put_head(&mut batch, *device, *head);
            accepted.grown.insert(*device, head.seg_no);
        }
        if !batch.is_empty() {
            self.rows.commit(batch)?;
            state.heads.extend(heads);
        }
        Ok(())
    }
}

/// Largest encoded [`LogHead`].
const HEAD_MAX_BYTES: usize = 64;

/// Returns the row key of a segment: its byte order is the order of each log.
fn segment_key(device: DeviceId, seg_no: u64) -> [u8; 16] {
    let mut key = [0u8; 16];
    key[..8].copy_from_slice(&device.0.to_be_bytes());
    key[8..].copy_from_slice(&seg_no.to_be_bytes());
    key
}

/// Puts a segment's row into a batch and returns the head that it makes of the one before.
fn put(batch: &mut Batch, segment: &SealedSegment, before: Option<&LogHead>) -> LogHead {
    let header = &segment.header;
    let key = segment_key(header.device, header.seg_no);
    let bytes = segment.to_bytes();
    let len = bytes.len() as u64;
    batch.put(Table::Segment, key, bytes);
    LogHead {
        bytes: before.map_or(0, |head| head.bytes).saturating_add(len),
        seg_no: header.seg_no,
        hash: segment.hash(),
        last: header.last,
    }
}

fn put_head(batch: &mut Batch, device: DeviceId, head: LogHead) {
    batch.put(Table::LogHead, device.0.to_be_bytes(), codec::encode(&head));
}

/// Checks what can be said of a segment alone.
fn check_form(segment: &SealedSegment, volume: VolumeId) -> Result<(), LogError> {
    let header = &segment.header;
    if header.volume != volume {
        return Err(LogError::OtherVolume);
    }
    if header.seg_no == 0
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

/// Checks that a segment is not from further in the future than clocks may differ.
fn check_time(segment: &SealedSegment, now_ms: u64) -> Result<(), LogError> {
    let ahead_ms = segment.header.last.ms().saturating_sub(now_ms);
    if u128::from(ahead_ms) > CLOCK_SKEW_MAX.as_millis() {
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
        return Err(LogError::Gap {
            device,
            seg_no,
            have,
        });
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
