//! What of the commit chain is folded.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Result;
use super::committed::Committed;
use crate::base::{LogId, OpId, Stamp};
use crate::log::chain::{Fence, Record};
use crate::store::{Batch, Rows, Table, codec};
use crate::wire::RecordRef;

/// The records that are folded, and what follows from them.
///
/// Records are folded one by one, in their order. While one is, the order is already that which it makes
/// ([`FoldedChain::name`]); the rest follows once that is committed ([`FoldedChain::fold`]), or the order
/// of before comes back.
#[derive(Debug, Default)]
pub(super) struct FoldedChain {
    /// The newest one.
    pub(super) record: RecordRef,
    /// The latest time that ops are dated by while that is the newest, milliseconds since 1970.
    pub(super) last_ms: u64,
    /// Which of them names which ops, and the base line of the newest.
    pub(super) committed: Arc<Committed>,
    /// No applied op below this one is tentative.
    pub(super) tentative: OpId,
    /// What has ended by the newest.
    pub(super) fence: Option<Arc<Fence>>,
}

impl FoldedChain {
    /// Returns what is folded where there are no rows; `first` is record 0 of the chain.
    pub(super) fn new(first: RecordRef) -> Self {
        Self {
            record: first,
            ..Self::default()
        }
    }

    /// Reads what the rows hold. Latest time and fence follow from the chain, and are set by who has it.
    pub(super) fn load(rows: &dyn Rows, first: RecordRef) -> Result<Self> {
        let mut chain = Self::new(first);
        let mut committed = Committed::load(rows)?;
        if let Some(bytes) = rows.get(Table::Meta, RECORD_KEY)? {
            (chain.record, committed.base_line) = codec::decode(&bytes, VALUE_MAX_BYTES)?;
        }
        chain.committed = Arc::new(committed);
        Ok(chain)
    }

    /// Puts the newest folded record and the base line into a batch.
    pub(super) fn put_record(batch: &mut Batch, record: &Record) {
        let value = codec::encode(&(record.reference(), record.base_line));
        batch.put(Table::Meta, RECORD_KEY, value);
    }

    /// Takes into account what a record names that is about to be folded: the last op of each log.
    pub(super) fn name(&mut self, record: &Record, ends: &BTreeMap<LogId, Stamp>) {
        let committed = Arc::make_mut(&mut self.committed);
        committed.base_line = record.base_line;
        for (log, last) in ends {
            committed.add(*log, *last, record.number);
        }
    }

    /// Takes note that a record is folded and committed; no applied op below `tentative` is one now.
    pub(super) fn fold(&mut self, record: RecordRef, last_ms: u64, tentative: Option<OpId>) {
        (self.record, self.last_ms) = (record, last_ms);
        if let Some(first) = tentative {
            self.tentative = first;
        }
    }
}

/// The row of the newest folded record.
pub(super) const RECORD_KEY: &[u8] = b"volume/record";

const VALUE_MAX_BYTES: usize = 256;
