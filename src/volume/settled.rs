//! What is settled: the ops that nothing undoes any more, and how far what undo needs is given up.

use std::sync::Arc;

use super::Result;
use super::committed::Committed;
use super::progress::LogProgress;
use crate::base::{LogId, OpId};
use crate::store::{Batch, Rows, Table, codec};

/// The ops of which no fold looks up any more what they replaced or removed.
pub(super) struct Settled {
    cut: OpId,
    committed: Arc<Committed>,
}

impl Settled {
    /// Returns the greatest of them.
    pub(super) fn end(&self) -> OpId {
        self.cut.max(self.committed.last_settled())
    }

    /// Tells whether an op is one of them.
    pub(super) fn has(&self, id: OpId) -> bool {
        id <= self.cut || self.committed.is_settled(id)
    }
}

/// How far what undo needs is given up.
///
/// The cut never goes back, and is in the rows before what it covers goes; what is gone is at the cut at
/// most, or below the base line of the folded records.
#[derive(Debug, Default)]
pub(super) struct Trimmed {
    /// No op up to this one is ever undone: its record may be gone.
    pub(super) cut: OpId,
    /// The records up to this one are gone.
    pub(super) gone: OpId,
    /// The base line up to which what was replaced is given up.
    pub(super) base_line: u64,
    /// True where no other device authors ops: nothing can sort before what is sealed. Drafts keep
    /// their records even so: a device that is admitted now has not seen them.
    pub(super) alone: bool,
}

impl Trimmed {
    /// Reads what the rows hold.
    pub(super) fn load(
        rows: &dyn Rows,
        own: &[LogId],
        progress: &LogProgress,
        alone: bool,
    ) -> Result<Self> {
        let mut trimmed = Self {
            alone,
            ..Self::default()
        };
        if let Some(bytes) = rows.get(Table::Meta, CUT_KEY)? {
            trimmed.cut = codec::decode(&bytes, VALUE_MAX_BYTES)?;
        }
        if alone {
            let sealed = own.iter().map(|log| OpId {
                stamp: progress.sealed(*log),
                log: *log,
            });
            trimmed.cut = trimmed.cut.max(sealed.max().unwrap_or_default());
        }
        Ok(trimmed)
    }

    /// Puts the cut into a batch.
    pub(super) fn put_cut(batch: &mut Batch, cut: OpId) {
        batch.put(Table::Meta, CUT_KEY, codec::encode(&cut));
    }

    /// Returns what is settled by that, and by the records that are folded.
    pub(super) fn settled(&self, committed: &Arc<Committed>) -> Settled {
        Settled {
            cut: self.cut,
            committed: Arc::clone(committed),
        }
    }
}

/// The row of the cut.
pub(super) const CUT_KEY: &[u8] = b"volume/cut";

const VALUE_MAX_BYTES: usize = 256;
