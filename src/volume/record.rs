//! Records of applied ops: what it takes to undo one and to know what depends on it.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Result;
use super::op::OpKind;
use super::overlay::{Delta, Effect, Effects};
use super::rows::RowKey;
use crate::base::{Ino, OpId};
use crate::store::{Batch, Rows, Table, codec};

/// An applied op with the rows that it touched.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// What the op wanted.
    pub(super) kind: Arc<OpKind>,
    /// Digests of the rows that it read and left alone.
    pub(super) reads: Vec<u64>,
    /// The rows that it changed, as they were before.
    pub(super) writes: Vec<(RowKey, Option<Bytes>)>,
    /// Directories whose counts it changed.
    pub(super) deltas: Vec<(Ino, Delta)>,
}

/// A record as it lies in its row.
#[derive(Serialize)]
struct Encoded<'a> {
    kind: &'a OpKind,
    reads: &'a [u64],
    writes: &'a [(RowKey, Option<Bytes>)],
    deltas: &'a [(Ino, Delta)],
}

/// The same, owned.
#[derive(Deserialize)]
struct Decoded {
    kind: OpKind,
    reads: Vec<u64>,
    writes: Vec<(RowKey, Option<Bytes>)>,
    deltas: Vec<(Ino, Delta)>,
}

fn part_key(id: OpId, part: u32) -> Vec<u8> {
    let mut key = id.to_key().to_vec();
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// Returns the bounds of the keys of an op's parts.
fn part_range(id: OpId) -> (Vec<u8>, Option<Vec<u8>>) {
    let next = u128::from_be_bytes(id.to_key()).checked_add(1);
    (
        id.to_key().to_vec(),
        next.map(|next| next.to_be_bytes().to_vec()),
    )
}

/// What a key or a digest takes, at most about.
const ROW_ROOM_BYTES: usize = 40;

/// What one row holds of a record, so that no batch grows with it: an op may meet any number of rows. The
/// first part that is shorter is the last one.
const PART_BYTES: usize = Record::PART_BYTES;

impl Record {
    /// Bytes of one row; a record that takes as many goes on in others.
    pub(super) const PART_BYTES: usize = 4 << 20;

    /// Returns the record of an op that was just folded.
    pub(super) fn new(kind: Arc<OpKind>, effects: &Effects) -> Self {
        let before = |effect: &Effect| {
            let before = effect.before.as_ref();
            (effect.key, before.map(|row| row.bytes.clone()))
        };
        let delta = |effect: &Effect| match (effect.key, effect.delta) {
            (RowKey::Inode(ino), Some(delta)) => Some((ino, delta)),
            _ => None,
        };
        Self {
            kind,
            reads: effects.reads.clone(),
            writes: effects
                .writes
                .iter()
                .filter(|effect| effect.is_write)
                .map(before)
                .collect(),
            deltas: effects.writes.iter().filter_map(delta).collect(),
        }
    }

    /// Returns the record of an op from the store.
    pub(super) fn load(rows: &dyn Rows, id: OpId) -> Result<Option<Self>> {
        match rows.get(Table::Op, &id.to_key())? {
            Some(bytes) => Ok(Some(Self::of_row(rows, id, bytes)?)),
            None => Ok(None),
        }
    }

    /// Returns the record of an op whose row holds `bytes`.
    pub(super) fn of_row(rows: &dyn Rows, id: OpId, mut bytes: Vec<u8>) -> Result<Self> {
        // A row as long as one can be goes on in others.
        if bytes.len() == PART_BYTES {
            let (start, end) = part_range(id);
            rows.scan(Table::OpPart, &start, end.as_deref(), &mut |_, part| {
                bytes.extend_from_slice(part);
                // What is behind it is left of a longer record of the op, folded in another place.
                match part.len() {
                    PART_BYTES => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            })?;
        }
        Self::decode(&bytes)
    }

    /// Puts the record of an op.
    pub(super) fn put(&self, batch: &mut Batch, id: OpId) {
        // The table in memory keeps it: in no more than it takes.
        let bytes = Bytes::copy_from_slice(&self.encode());
        let mut parts = 0u32;
        for start in (0..=bytes.len()).step_by(PART_BYTES) {
            let part = bytes.slice(start..(start + PART_BYTES).min(bytes.len()));
            if start == 0 {
                batch.put_bytes(Table::Op, id.to_key(), part);
            } else {
                batch.put_bytes(Table::OpPart, part_key(id, parts), part);
                parts += 1;
            }
        }
    }

    /// Puts that the parts of records are gone which rows beyond their first hold, of those ops that
    /// `is_gone` says; there are hardly ever any.
    pub(super) fn delete_parts(
        rows: &dyn Rows,
        batch: &mut Batch,
        is_gone: &dyn Fn(OpId) -> bool,
    ) -> Result<()> {
        rows.scan_keys(Table::OpPart, &[], None, &mut |key| {
            let id = key.get(..OpId::KEY_BYTES).and_then(OpId::from_key);
            if id.is_some_and(is_gone) {
                batch.delete(Table::OpPart, key);
            }
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let before = |(_, before): &(RowKey, Option<Bytes>)| before.as_ref().map_or(0, Bytes::len);
        let befores: usize = self.writes.iter().map(before).sum();
        let rows = self.reads.len() + self.writes.len();
        let mut bytes = Vec::with_capacity(self.kind.room() + befores + rows * ROW_ROOM_BYTES);
        let encoded = Encoded {
            kind: &self.kind,
            reads: &self.reads,
            writes: &self.writes,
            deltas: &self.deltas,
        };
        codec::encode_into(&encoded, &mut bytes);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        // What an op met is as much as there is: the rows themselves have their limits.
        let decoded: Decoded = codec::decode(bytes, bytes.len())?;
        Ok(Self {
            kind: Arc::new(decoded.kind),
            reads: decoded.reads,
            writes: decoded.writes,
            deltas: decoded.deltas,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{LogId, Stamp};
    use crate::store::Store;

    #[test]
    fn a_record_of_any_length_is_read_as_it_was_put_last() {
        let rows = Store::memory().rows;
        let id = OpId {
            stamp: Stamp(7),
            log: LogId(9),
        };
        let of = |count: usize| Record {
            kind: Arc::new(OpKind::Device { name: "x".into() }),
            // Nine bytes each.
            reads: vec![u64::MAX; count],
            writes: Vec::new(),
            deltas: Vec::new(),
        };
        let empty = of(0).encode().len();
        // Longer and shorter by turns; and one that ends where a row does.
        let exact = Record {
            kind: Arc::new(OpKind::Device {
                name: "x".repeat(2 * PART_BYTES - empty - 3),
            }),
            ..of(0)
        };
        assert_eq!(exact.encode().len() % PART_BYTES, 0);
        // Those of others lie before and behind it.
        let beside = [Stamp(6), Stamp(8)].map(|stamp| OpId { stamp, ..id });
        for other in beside {
            let mut batch = Batch::new();
            of(700_000).put(&mut batch, other);
            rows.commit(batch).unwrap();
        }
        for record in [
            of(1),
            of(2_000_000),
            exact,
            of(600_000),
            of(1),
            of(1_000_000),
        ] {
            let mut batch = Batch::new();
            record.put(&mut batch, id);
            assert!(
                batch
                    .iter()
                    .all(|(_, _, value)| value.unwrap().len() <= PART_BYTES)
            );
            rows.commit(batch).unwrap();
            let read = Record::load(&*rows, id).unwrap().unwrap();
            assert_eq!((read.kind, read.reads), (record.kind, record.reads));
        }
    }
}
