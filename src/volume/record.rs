//! Records of applied ops: what it takes to undo one and to know what depends on it.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Result;
use super::op::OpKind;
use super::overlay::{Effect, Effects};
use super::rows::RowKey;
use crate::base::OpId;
use crate::store::{Rows, Table, VALUE_MAX_BYTES, codec};

/// An applied op with the rows that it touched.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// What the op wanted.
    pub(super) kind: Arc<OpKind>,
    /// Digests of the rows that it read and left alone.
    pub(super) reads: Vec<u64>,
    /// The rows that it changed, as they were before.
    pub(super) writes: Vec<(RowKey, Option<Bytes>)>,
}

/// A record as it lies in its row.
#[derive(Serialize)]
struct Encoded<'a> {
    kind: &'a OpKind,
    reads: &'a [u64],
    writes: &'a [(RowKey, Option<Bytes>)],
}

/// The same, owned.
#[derive(Deserialize)]
struct Decoded {
    kind: OpKind,
    reads: Vec<u64>,
    writes: Vec<(RowKey, Option<Bytes>)>,
}

/// What a key or a digest takes, at most about.
const ROW_ROOM_BYTES: usize = 40;

impl Record {
    /// Returns the record of an op that was just folded.
    pub(super) fn new(kind: Arc<OpKind>, effects: &Effects) -> Self {
        let before = |effect: &Effect| {
            let before = effect.before.as_ref();
            (effect.key, before.map(|row| row.bytes.clone()))
        };
        Self {
            kind,
            reads: effects.reads.clone(),
            writes: effects.writes.iter().map(before).collect(),
        }
    }

    /// Returns the record of an op from the store.
    pub(super) fn load(rows: &dyn Rows, id: OpId) -> Result<Option<Self>> {
        match rows.get(Table::Op, &id.to_key())? {
            Some(bytes) => Ok(Some(Self::decode(&bytes)?)),
            None => Ok(None),
        }
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
        };
        codec::encode_into(&encoded, &mut bytes);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let decoded: Decoded = codec::decode(bytes, VALUE_MAX_BYTES)?;
        Ok(Self {
            kind: Arc::new(decoded.kind),
            reads: decoded.reads,
            writes: decoded.writes,
        })
    }
}
