//! Segments: own ops sealed for the others, and what is inside one.

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

/// Segments sealed under one hold of the writer's lock.
const SEAL_SLICE: usize = 4;

/// An op as it lies in a segment, whose header says the device.
#[derive(Debug, Serialize, Deserialize)]
struct SegmentOp {
    stamp: Stamp,
    kind: OpKind,
}

impl Volume {
    /// Seals the ops that no segment holds yet, appends the segments to the own log and makes them
    /// durable. Returns them for pushing; the log offers them to peers from then on.
    ///
    /// Trims too, where no other device authors ops.
    pub fn seal_drafts(&self) -> Result<Vec<SealedSegment>> {
        let _sealing = self.sealing.lock();
        let mut sealed = Vec::new();
        loop {
            let mut state = self.state.lock();
            let segments = self.seal_slice(&mut state)?;
            if segments.is_empty() {
                break;
            }
            drop(state);
            sealed.extend(segments);
        }
        if let Some(last) = sealed.last() {
            self.config.store.sync()?;
            self.config.log.publish(last.header.seg_no);
        }
        self.trim_alone()?;
        Ok(sealed)
    }

    fn seal_slice(&self, state: &mut State) -> Result<Vec<SealedSegment>> {
        self.coalesce(state)?;
        state.written.clear();
        let log = &self.config.log;
        let head = log.head(self.device);
        let mut seg_no = head.map_or(0, |head| head.seg_no);
        let mut prev = head.map_or([0; 32], |head| head.hash);
        let mut segments: Vec<SealedSegment> = Vec::new();
        let mut batch = Batch::new();
        let mut sealed_count = 0;
        while segments.len() < SEAL_SLICE && sealed_count < state.drafts.len() {
            let ops = self.collect_ops(state, sealed_count)?;
            sealed_count += ops.len();
            seg_no += 1;
            let segment = self.seal(seg_no, prev, &ops)?;
            prev = segment.hash();
            if state.alone {
                for op in &ops {
                    let id = OpId {
                        stamp: op.stamp,
                        device: self.device,
                    };
                    batch.delete(Table::Op, id.to_key());
                }
            }
            segments.push(segment);
        }
        let Some(last) = segments.last() else {
            return Ok(segments);
        };
        let progress = Progress {
            seg_no,
            stamp: last.header.last,
        };
        State::put_progress(&mut batch, self.device, &progress);
        let mut cut = state.cut;
        if state.alone {
            cut = cut.max(OpId {
                stamp: progress.stamp,
                device: self.device,
            });
            State::put_cut(&mut batch, cut);
        }
        log.append(&segments, batch)?;
        state.cut = cut;
        state.progress.insert(self.device, progress);
        state.drafts.drain(..sealed_count);
        state.counts.drafts = state.drafts.len() as u64;
        Ok(segments)
    }

    /// Returns the ops of the next segment: the drafts from `skip` on, up to what one may hold.
    fn collect_ops(&self, state: &State, skip: usize) -> Result<Vec<SegmentOp>> {
        let mut ops = Vec::new();
        let mut bytes = 1 + size_of::<u64>();
        for id in state.drafts.iter().skip(skip).take(SEGMENT_OPS_MAX) {
            let record = Record::load(&*self.view.rows, *id)?.ok_or(VolumeError::Corrupt {
                what: "the record of an op that is not sealed is missing",
            })?;
            let kind = std::sync::Arc::unwrap_or_clone(record.kind);
            let op = SegmentOp {
                stamp: id.stamp,
                kind,
            };
            bytes += codec::encode(&op).len();
            if bytes > SEGMENT_BODY_MAX_BYTES && !ops.is_empty() {
                break;
            }
            ops.push(op);
        }
        Ok(ops)
    }

    fn seal(&self, seg_no: u64, prev: [u8; 32], ops: &[SegmentOp]) -> Result<SealedSegment> {
        let (Some(first), Some(last)) = (ops.first(), ops.last()) else {
            return Err(VolumeError::Corrupt {
                what: "a segment of no ops",
            });
        };
        let keys = &self.config.keys;
        let mut body = vec![BODY_VERSION];
        body.extend(codec::encode(ops));
        loop {
            let header = SegmentHeader {
                volume: self.config.volume,
                device: self.device,
                seg_no,
                prev,
                first: first.stamp,
                last: last.stamp,
                op_count: u32::try_from(ops.len()).unwrap_or(u32::MAX),
                epoch: keys.epoch(),
            };
            let sealed = keys.seal_segment(&self.context.rng, &header.to_bytes(), &body);
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
