//! The plaintext of a segment: ops, each behind its length.
//!
//! The length lets a program that is older than the author's step from op to op and read the number
//! of each kind: so what it does not know yet is told from what is no op for anybody. The first has
//! to wait, as whoever knows it folds it; the second is skipped by all alike.

use super::op::OpKind;
use super::{Result, VolumeError};
use crate::base::limits::SEGMENT_BODY_MAX_BYTES;
use crate::base::{Stamp, variants};
use crate::store::codec;
use crate::wire::SegmentHeader;

/// First byte of a segment's plaintext: the version of what follows. It is raised with every change
/// but a new kind of op at the end of [`OpKind`].
const BODY_VERSION: u8 = 1;

/// Most bytes in front of the ops: the version and their number.
pub(super) const HEAD_MAX_BYTES: usize = 1 + MARKED_MAX_BYTES;

/// Most bytes of an encoded number.
const MARKED_MAX_BYTES: usize = 1 + size_of::<u64>();

/// Appends an op to the ops of a segment.
pub(super) fn put(ops: &mut Vec<u8>, stamp: Stamp, kind: &OpKind) {
    let op = codec::encode(kind);
    codec::encode_into(&stamp, ops);
    codec::encode_into(&(op.len() as u64), ops);
    ops.extend_from_slice(&op);
}

/// Returns the plaintext of a segment with these ops.
pub(super) fn whole(op_count: usize, ops: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_MAX_BYTES + ops.len());
    bytes.push(BODY_VERSION);
    codec::encode_into(&(op_count as u64), &mut bytes);
    bytes.extend_from_slice(ops);
    bytes
}

/// Returns the ops of a plaintext.
///
/// # Errors
///
/// [`VolumeError::TooNew`] where it takes a newer program to know what the ops are,
/// [`VolumeError::BadSegment`] where that takes none.
pub(super) fn open(plain: &[u8], header: &SegmentHeader) -> Result<Vec<(Stamp, OpKind)>> {
    let bad = |what| VolumeError::BadSegment {
        device: header.device,
        seg_no: header.seg_no,
        what,
    };
    let too_new = |what, found, known| VolumeError::TooNew {
        device: header.device,
        seg_no: header.seg_no,
        what,
        found,
        known,
    };
    let Some((&version, body)) = plain.split_first() else {
        return Err(bad("nothing in it"));
    };
    if version > BODY_VERSION {
        let (found, known) = (version.into(), BODY_VERSION.into());
        return Err(too_new("version", found, known));
    }
    if version != BODY_VERSION {
        return Err(bad("no version"));
    }
    let ops = frames(body, header.op_count).map_err(bad)?;
    let ascending = ops.windows(2).all(|pair| match pair {
        [(a, _), (b, _)] => a < b,
        _ => true,
    });
    let first = ops.first().map(|(stamp, _)| *stamp);
    let last = ops.last().map(|(stamp, _)| *stamp);
    if !ascending || first != Some(header.first) || last != Some(header.last) {
        return Err(bad("stamps that do not fit its header"));
    }
    // What no program reads is skipped whatever else is there, so that all do the same: whether the
    // rest is known is looked at first, and then the log waits for who knows it all.
    let numbers = ops.iter().map(|(_, op)| codec::take_number(&mut &**op));
    let newest = numbers.flatten().max().unwrap_or(0);
    // An op begins with the number of its kind, from 0.
    let known = u64::from(variants::count::<OpKind>()).saturating_sub(1);
    if newest > known {
        return Err(too_new("newest kind of change", newest, known));
    }
    let ops = ops.into_iter().map(|(stamp, op)| {
        let kind = codec::decode(op, SEGMENT_BODY_MAX_BYTES);
        kind.map(|kind| (stamp, kind))
    });
    let ops: std::result::Result<Vec<_>, _> = ops.collect();
    ops.map_err(|_| bad("an op that does not decode"))
}

/// Returns stamp and bytes of each op.
fn frames(body: &[u8], op_count: u32) -> std::result::Result<Vec<(Stamp, &[u8])>, &'static str> {
    const CUT: &str = "its body does not decode";
    let mut rest = body;
    if codec::take_number(&mut rest) != Some(op_count.into()) {
        return Err("another number of ops than its header says");
    }
    let mut ops = Vec::new();
    for _ in 0..op_count {
        let stamp = codec::take_number(&mut rest).map(Stamp).ok_or(CUT)?;
        let len = codec::take_number(&mut rest).and_then(|len| usize::try_from(len).ok());
        let op = len.and_then(|len| rest.split_at_checked(len)).ok_or(CUT)?;
        ops.push((stamp, op.0));
        rest = op.1;
    }
    if rest.is_empty() { Ok(ops) } else { Err(CUT) }
}

#[cfg(test)]
mod tests;
