//! Segments: own ops sealed for the others, and what is inside one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::body;
use super::op::OpKind;
use super::progress::Progress;
use super::record::Record;
use super::settled::Trimmed;
use super::sight::{self, Past};
use super::state::State;
use super::trim::TRIM_SLICE;
use super::{Result, Volume, VolumeError};
use crate::base::limits::{SEGMENT_BODY_MAX_BYTES, SEGMENT_OPS_MAX};
use crate::base::{ChunkId, LogId, OpId, Stamp};
use crate::crypto::VolumeKeys;
use crate::log::LogError;
use crate::store::{Batch, Table};
use crate::wire::{SEGMENT_DOMAIN, SealedSegment, SegmentHeader};

impl Volume {
    /// Seals the ops that no segment holds yet, appends the segments to the own log and makes them
    /// durable. Returns them for pushing; the log offers them to peers from then on.
    ///
    /// Trims too, where no other device authors ops.
    pub fn seal_drafts(&self) -> Result<Vec<SealedSegment>> {
        let mut ahead = self.sealing.lock();
        self.check_moved()?;
        let mut sealed = Vec::new();
        while let Some(segment) = self.seal_next()? {
            *ahead = Some(segment.header.seg_no);
            sealed.push(segment);
        }
        if let Some(last) = *ahead {
            self.config.store.sync()?;
            self.config.log.publish(last);
            *ahead = None;
        }
        self.trim_alone()?;
        Ok(sealed)
    }

    /// Seals the ops that fill segments, so that what undoes them can be given up. The next
    /// [`Volume::seal_drafts`] makes those segments durable and lets the log offer them; it does not
    /// return them.
    pub fn seal_ahead(&self) -> Result<()> {
        let mut ahead = self.sealing.lock();
        self.check_moved()?;
        while self.state.lock().drafts.bytes() >= SEGMENT_BODY_MAX_BYTES {
            let Some(segment) = self.seal_next()? else {
                break;
            };
            *ahead = Some(segment.header.seg_no);
        }
        self.trim_alone()
    }

    /// Seals one segment, while the writer's lock is free: drafts do not change but by the one who
    /// seals, and new ones are added behind them.
    fn seal_next(&self) -> Result<Option<SealedSegment>> {
        self.coalesce()?;
        let (drafts, past) = {
            let mut state = self.state.lock();
            state.drafts.begin_seal();
            let log = &self.config.log;
            let past = state.past_of_drafts(log.own_log(), &log.logs_of(self.device));
            (take_drafts(&state), past)
        };
        if drafts
            .first()
            .is_some_and(|draft| self.is_left_out(draft.id))
        {
            return Ok(None);
        }
        let Some(body) = self.encode_drafts(&drafts)? else {
            return Ok(None);
        };
        let log = &self.config.log;
        let head = log.head(log.own_log());
        let seg_no = head.map_or(0, |head| head.seg_no) + 1;
        let prev = head.map_or([0; 32], |head| head.hash);
        let segment = self.seal(seg_no, prev, past, &body)?;
        if let (Some(told), false) = (self.on_seal.get(), body.chunks.is_empty()) {
            told(&body.chunks, segment.header.record.number)?;
        }
        let sealed = drafts.iter().take(body.op_count).map(|draft| draft.id);

        let mut state = self.state.lock();
        // They were put aside meanwhile.
        if state.drafts.front() != drafts.first().map(|draft| draft.id) {
            return Ok(None);
        }
        let mut batch = Batch::new();
        let progress = sealed_progress(&state, &segment, &body);
        for (log, progress) in &progress {
            progress.put(&mut batch, *log);
        }
        let mut cut = state.trimmed.cut;
        if state.trimmed.alone {
            // The first of them: that a full disk takes this, which gives room back. A trim removes the
            // others, some at a time.
            // Not where they are history first.
            let sealed = sealed.take(TRIM_SLICE).filter(|_| !self.keeps_history());
            for id in sealed {
                batch.delete(Table::Op, id.to_key());
            }
            cut = cut.max(OpId {
                stamp: body.last,
                log: body.log,
            });
            Trimmed::put_cut(&mut batch, cut);
        }
        // With others, what is sealed may be folded again behind what they wrote.
        let done = state.drafts.groups_within(body.op_count);
        for group in done.filter(|_| state.trimmed.alone) {
            sight::delete(&mut batch, group.first);
        }
        log.append(std::slice::from_ref(&segment), batch)?;
        state.trimmed.cut = cut;
        state.progress.extend(progress);
        state.drafts.sealed(body.op_count);
        Ok(Some(segment))
    }

    /// Encodes the ops of the next segment, as many of the drafts as one may hold.
    fn encode_drafts(&self, drafts: &[Draft]) -> Result<Option<Body>> {
        let Some(first) = drafts.first() else {
            return Ok(None);
        };
        let mut ops = Vec::new();
        let (mut op_count, mut last) = (0, first.id.stamp);
        let mut chunks = Vec::new();
        // Ops that an earlier start of this device left behind are named after its log.
        let log = first.id.log;
        for draft in drafts.iter().take_while(|draft| draft.id.log == log) {
            let kind = match &draft.kind {
                Some(kind) => Arc::clone(kind),
                None => {
                    let record = Record::load(&*self.view.rows, draft.id)?;
                    record.ok_or(LOST_RECORD)?.kind
                }
            };
            let end = ops.len();
            body::put(&mut ops, draft.id.stamp, &kind);
            if ops.len() + body::HEAD_MAX_BYTES > SEGMENT_BODY_MAX_BYTES && op_count > 0 {
                ops.truncate(end);
                break;
            }
            op_count += 1;
            last = draft.id.stamp;
            chunks.extend(kind.shape().chunks());
        }
        Ok(Some(Body {
            bytes: body::whole(op_count, &ops),
            op_count,
            chunks,
            log,
            first: first.id.stamp,
            last,
        }))
    }

    fn seal(&self, seg_no: u64, prev: [u8; 32], past: Past, body: &Body) -> Result<SealedSegment> {
        let keys = &self.config.keys;
        let log = &self.config.log;
        let lost = LogError::Corrupt {
            log: body.log,
            seg_no: 0,
        };
        let origin = log.incarnation_of(body.log).ok_or(lost)?;
        let admission = log.admission(log.own_log()).unwrap_or_default();
        loop {
            let header = SegmentHeader {
                volume: self.config.volume,
                device: self.device,
                incarnation: log.incarnation(),
                origin,
                seg_no,
                prev,
                record: past.record,
                seen: past.seen.clone(),
                admission: (seg_no == 1).then_some(admission),
                first: body.first,
                last: body.last,
                op_count: u32::try_from(body.op_count).unwrap_or(u32::MAX),
                epoch: keys.epoch(),
            };
            let sealed = keys.seal_segment(&self.context.rng, &header.to_bytes(), &body.bytes);
            if VolumeKeys::epoch_of(&sealed) != Some(header.epoch) {
                // The keys were changed in between; the header is bound to the body.
                continue;
            }
            let body = Bytes::from(sealed);
            let signed = SealedSegment::signed_bytes(&header, &body);
            let signature = self.config.identity.sign(SEGMENT_DOMAIN, &signed);
            return Ok(SealedSegment {
                header,
                body,
                signature,
            });
        }
    }
}

/// An own op that is to be sealed.
struct Draft {
    id: OpId,
    /// `None` where its record has to be read.
    kind: Option<Arc<OpKind>>,
}

/// The plaintext of a segment.
struct Body {
    bytes: Vec<u8>,
    op_count: usize,
    /// What the ops name.
    chunks: Vec<ChunkId>,
    /// The log that the ops are named after.
    log: LogId,
    first: Stamp,
    last: Stamp,
}

/// Returns how far the logs are folded that a sealed segment is about.
fn sealed_progress(
    state: &State,
    segment: &SealedSegment,
    body: &Body,
) -> BTreeMap<LogId, Progress> {
    let header = &segment.header;
    let known = |log: LogId| (log, state.progress.get(&log).copied().unwrap_or_default());
    let mut progress = BTreeMap::from([known(header.log()), known(body.log)]);
    if let Some(own) = progress.get_mut(&header.log()) {
        (own.seg_no, own.hash) = (header.seg_no, segment.hash());
    }
    if let Some(named) = progress.get_mut(&body.log) {
        named.stamp = named.stamp.max(body.last);
    }
    progress
}

/// Returns the oldest drafts, at least as many as a segment holds, those that had seen the same.
fn take_drafts(state: &State) -> Vec<Draft> {
    let mut bytes = 0;
    let end = state.drafts.groups().nth(1).map(|group| group.first);
    let oldest = state.drafts.iter().take(SEGMENT_OPS_MAX);
    let oldest = oldest.take_while(|id| end.is_none_or(|end| *id < end));
    let drafts = oldest.map(|id| Draft {
        id,
        kind: state.drafts.kind(id),
    });
    // The estimate of an op is more than it takes, but never by more than this factor.
    let is_room = |draft: &Draft| {
        let is_room = bytes <= SEGMENT_BODY_MAX_BYTES * 2;
        bytes += draft.kind.as_ref().map_or(0, |kind| kind.room());
        is_room
    };
    drafts.take_while(is_room).collect()
}

const LOST_RECORD: VolumeError = VolumeError::Corrupt {
    what: "the record of an op that is not sealed is missing",
};

/// Returns the ops of a segment whose place and signature the log has checked.
pub(super) fn open(keys: &VolumeKeys, segment: &SealedSegment) -> Result<Vec<(OpId, OpKind)>> {
    let header = &segment.header;
    let plain = keys
        .open_segment(&header.to_bytes(), &segment.body)
        .map_err(|source| VolumeError::Sealed {
            device: header.device,
            seg_no: header.seg_no,
            source,
        })?;
    let ops = body::open(&plain, header)?.into_iter();
    let log = header.op_log();
    Ok(ops
        .map(|(stamp, kind)| (OpId { stamp, log }, kind))
        .collect())
}
