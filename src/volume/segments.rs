//! Segments: own ops sealed for the others, and what is inside one.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::op::OpKind;
use super::record::Record;
use super::state::{Progress, State};
use super::{Result, Volume, VolumeError};
use crate::base::limits::{SEGMENT_BODY_MAX_BYTES, SEGMENT_OPS_MAX};
use crate::base::{OpId, Stamp};
use crate::crypto::VolumeKeys;
use crate::store::{Batch, Table, codec};
use crate::wire::{SEGMENT_DOMAIN, SealedSegment, SegmentHeader};

/// First byte of a segment's plaintext: the version of what follows.
const BODY_VERSION: u8 = 1;

/// An op as it lies in a segment, whose header says the device.
#[derive(Debug, Serialize, Deserialize)]
struct SegmentOp<K = OpKind> {
    stamp: Stamp,
    kind: K,
}

impl Volume {
    /// Seals the ops that no segment holds yet, appends the segments to the own log and makes them
    /// durable. Returns them for pushing; the log offers them to peers from then on.
    ///
    /// Trims too, where no other device authors ops.
    pub fn seal_drafts(&self) -> Result<Vec<SealedSegment>> {
        let mut ahead = self.sealing.lock();
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
        while self.state.lock().kinds_bytes >= SEGMENT_BODY_MAX_BYTES {
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
        let drafts = {
            let mut state = self.state.lock();
            self.coalesce(&mut state)?;
            state.written.clear();
            take_drafts(&state)
        };
        let Some(body) = self.encode_drafts(&drafts)? else {
            return Ok(None);
        };
        let log = &self.config.log;
        let head = log.head(self.device);
        let seg_no = head.map_or(0, |head| head.seg_no) + 1;
        let prev = head.map_or([0; 32], |head| head.hash);
        let segment = self.seal(seg_no, prev, &body)?;
        let progress = Progress {
            seg_no,
            stamp: body.last,
        };
        let sealed = drafts.iter().take(body.op_count).map(|draft| draft.id);

        let mut state = self.state.lock();
        let mut batch = Batch::new();
        State::put_progress(&mut batch, self.device, &progress);
        let mut cut = state.cut;
        if state.alone {
            for id in sealed.clone() {
                batch.delete(Table::Op, id.to_key());
            }
            cut = cut.max(OpId {
                stamp: progress.stamp,
                device: self.device,
            });
            State::put_cut(&mut batch, cut);
        }
        log.append(std::slice::from_ref(&segment), batch)?;
        state.cut = cut;
        state.progress.insert(self.device, progress);
        state.drafts.drain(..body.op_count);
        for id in sealed {
            state.drop_kind(id);
        }
        state.counts.drafts = state.drafts.len() as u64;
        Ok(Some(segment))
    }

    /// Encodes the ops of the next segment, as many of the drafts as one may hold.
    fn encode_drafts(&self, drafts: &[Draft]) -> Result<Option<Body>> {
        let Some(first) = drafts.first() else {
            return Ok(None);
        };
        let mut ops = Vec::new();
        let (mut op_count, mut last) = (0, first.id.stamp);
        for draft in drafts {
            let kind = match &draft.kind {
                Some(kind) => Arc::clone(kind),
                None => {
                    let record = Record::load(&*self.view.rows, draft.id)?;
                    record.ok_or(LOST_RECORD)?.kind
                }
            };
            let op = SegmentOp {
                stamp: draft.id.stamp,
                kind: &*kind,
            };
            let end = ops.len();
            codec::encode_into(&op, &mut ops);
            if ops.len() + BODY_HEAD_BYTES > SEGMENT_BODY_MAX_BYTES && op_count > 0 {
                ops.truncate(end);
                break;
            }
            op_count += 1;
            last = draft.id.stamp;
        }
        // The ops are encoded as a sequence: its length, then each.
        let mut bytes = vec![BODY_VERSION];
        codec::encode_into(&(op_count as u64), &mut bytes);
        bytes.append(&mut ops);
        Ok(Some(Body {
            bytes,
            op_count,
            first: first.id.stamp,
            last,
        }))
    }

    fn seal(&self, seg_no: u64, prev: [u8; 32], body: &Body) -> Result<SealedSegment> {
        let keys = &self.config.keys;
        loop {
            let header = SegmentHeader {
                volume: self.config.volume,
                device: self.device,
                seg_no,
                prev,
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
    first: Stamp,
    last: Stamp,
}

/// Returns the oldest drafts, at least as many as a segment holds.
fn take_drafts(state: &State) -> Vec<Draft> {
    let mut bytes = 0;
    let oldest = state.drafts.iter().take(SEGMENT_OPS_MAX);
    let drafts = oldest.map(|id| Draft {
        id: *id,
        kind: state.kinds.get(id).cloned(),
    });
    // The estimate of an op is more than it takes, but never by more than this factor.
    let is_room = |draft: &Draft| {
        let is_room = bytes <= SEGMENT_BODY_MAX_BYTES * 2;
        bytes += draft.kind.as_ref().map_or(0, |kind| kind.room());
        is_room
    };
    drafts.take_while(is_room).collect()
}

/// Version and length of the sequence in front of the ops.
const BODY_HEAD_BYTES: usize = 1 + size_of::<u64>();

const LOST_RECORD: VolumeError = VolumeError::Corrupt {
    what: "the record of an op that is not sealed is missing",
};

/// Returns the ops of a segment whose place and signature the log has checked.
pub(super) fn open(keys: &VolumeKeys, segment: &SealedSegment) -> Result<Vec<(OpId, OpKind)>> {
    let header = &segment.header;
    let bad = |what| VolumeError::BadSegment {
        device: header.device,
        seg_no: header.seg_no,
        what,
    };
    let plain = keys
        .open_segment(&header.to_bytes(), &segment.body)
        .map_err(|source| VolumeError::Sealed {
            device: header.device,
            seg_no: header.seg_no,
            source,
        })?;
    let Some((&version, body)) = plain.split_first() else {
        return Err(bad("nothing in it"));
    };
    if version > BODY_VERSION {
        return Err(VolumeError::TooNew {
            device: header.device,
            seg_no: header.seg_no,
            found: version,
            known: BODY_VERSION,
        });
    }
    let ops: Vec<SegmentOp> = codec::decode(body, SealedSegment::BODY_MAX_BYTES)
        .map_err(|_| bad("its body does not decode"))?;
    if ops.len() != usize::try_from(header.op_count).unwrap_or(usize::MAX) {
        return Err(bad("another number of ops than its header says"));
    }
    let ascending = ops.windows(2).all(|pair| match pair {
        [a, b] => a.stamp < b.stamp,
        _ => true,
    });
    let first = ops.first().map(|op| op.stamp);
    let last = ops.last().map(|op| op.stamp);
    if !ascending || first != Some(header.first) || last != Some(header.last) {
        return Err(bad("stamps that do not fit its header"));
    }
    let id = |stamp| OpId {
        stamp,
        device: header.device,
    };
    Ok(ops.into_iter().map(|op| (id(op.stamp), op.kind)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::to_hex;
    use crate::base::{DeviceId, Ino, Timespec};
    use crate::volume::{Create, FileKind, Piece, Place, Source, Write, ino_of};

    fn example() -> Vec<SegmentOp> {
        let id = OpId {
            stamp: Stamp::from_ms(1_767_312_000_000),
            device: DeviceId(0x0102_0304_0506_0708),
        };
        let time = Timespec {
            secs: 1_767_312_000,
            nanos: 5,
        };
        let create = Create {
            at: Place {
                parent: Ino::ROOT,
                name: Bytes::from_static(b"hi.txt"),
            },
            kind: FileKind::File,
            mode: 0o644,
            uid: 1000,
            gid: 1000,
            rdev: 0,
            target: None,
            time,
            xattrs: Vec::new(),
        };
        let write = Write {
            ino: ino_of(id),
            base: id,
            size: 5,
            pieces: vec![Piece {
                offset: 0,
                len: 5,
                src: Some(Source::Inline(Bytes::from_static(b"hello"))),
            }],
            mtime: time,
            ctime: time,
            mode: None,
        };
        vec![
            SegmentOp {
                stamp: id.stamp,
                kind: OpKind::Create(create),
            },
            SegmentOp {
                stamp: id.stamp.next(),
                kind: OpKind::Write(write),
            },
        ]
    }

    /// The example of docs/format.md. Who changes what it shows changes the format.
    #[test]
    fn ops_are_encoded_as_documented() {
        let document = include_str!("../../docs/format.md");
        for op in example() {
            let hex = to_hex(&codec::encode(&op));
            let pairs: Vec<&str> = (0..hex.len())
                .step_by(2)
                .map(|at| &hex[at..at + 2])
                .collect();
            for line in pairs.chunks(16) {
                let line = line.join(" ");
                assert!(document.contains(&line), "not in docs/format.md: {line}");
            }
        }
    }
}
