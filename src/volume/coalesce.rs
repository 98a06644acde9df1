//! Carrying once what one segment overwrites.
//!
//! Own writes of one file that follow each other, each built on the one before and none sealed yet,
//! become one op under the name of the last: a database's thousand small writes are not a thousand
//! ops for everybody. Only where no other op has met the file in between or since, so that the
//! view stays as it is, row by row; that is checked before anything is changed.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::extents::Layers;
use super::fold::fold_within;
use super::op::{OP_INLINE_MAX_BYTES, OP_PIECES_MAX, OpKind, Write};
use super::overlay::{Base, Effects, Overlay, Room};
use super::record::Record;
use super::rows::{RowKey, Stored};
use super::state::State;
use super::{Result, Volume, VolumeError};
use crate::base::{Ino, OpId};
use crate::store::{Batch, Table, VALUE_MAX_BYTES};

/// Writes of one file, each built on the one before.
#[derive(Default)]
struct Chain {
    writes: Vec<(OpId, Record)>,
}

/// An op that does what several did.
struct United {
    id: OpId,
    record: Record,
    /// The others.
    replaced: Vec<OpId>,
}

impl Volume {
    /// Unites drafts that overwrite each other.
    pub(super) fn coalesce(&self, state: &mut State) -> Result<()> {
        if !std::mem::take(&mut state.rewrites) {
            return Ok(());
        }
        let mut batch = Batch::new();
        let (mut gone, mut united) = (Vec::new(), Vec::new());
        for chain in self.chains(state)? {
            let Some(whole) = self.unite(&chain)? else {
                continue;
            };
            for id in whole.replaced {
                batch.delete(Table::Op, id.to_key());
                gone.push(id);
            }
            batch.put(Table::Op, whole.id.to_key(), whole.record.encode());
            united.push(whole.id);
        }
        if gone.is_empty() {
            return Ok(());
        }
        self.view.rows.commit(batch)?;
        for id in gone.iter().chain(&united) {
            state.drop_kind(*id);
        }
        // What a merge knew of the ops that are gone.
        state.index = None;
        gone.sort_unstable();
        state
            .drafts
            .retain(|draft| gone.binary_search(draft).is_err());
        Ok(())
    }

    /// Returns the chains of drafts that nothing else has met.
    fn chains(&self, state: &State) -> Result<Vec<Chain>> {
        let Some(first) = state.drafts.front() else {
            return Ok(Vec::new());
        };
        let mut chains: BTreeMap<Ino, Chain> = BTreeMap::new();
        // Inode rows of files with a chain, by digest.
        let mut files: HashMap<u64, Ino> = HashMap::new();
        let mut failed = None;
        let mut visit = |key: &[u8], value: &[u8]| {
            // One that replaces so much is no small write, and what it met is much to read.
            if value.len() > RECORD_MAX_BYTES {
                chains.clear();
                files.clear();
                return ControlFlow::Continue(());
            }
            let (id, record) = match (OpId::from_key(key), Record::decode(value)) {
                (Some(id), Ok(record)) => (id, record),
                (None, _) => {
                    failed = Some(BAD_OP_KEY);
                    return ControlFlow::Break(());
                }
                (_, Err(error)) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            };
            if let Some((ino, base)) = self.plain_write(id, &record) {
                let chain = chains.entry(ino).or_default();
                let goes_on = chain.writes.last().is_some_and(|(last, _)| {
                    // What was seen in between is not what the first had seen.
                    *last == base && state.group_of(*last) == state.group_of(id)
                });
                if !goes_on {
                    chain.writes.clear();
                }
                chain.writes.push((id, record));
                files.insert(RowKey::Inode(ino).digest(), ino);
                return ControlFlow::Continue(());
            }
            let written = record.writes.iter().map(|(key, _)| key.digest());
            for digest in written.chain(record.reads.iter().copied()) {
                if let Some(ino) = files.remove(&digest) {
                    chains.remove(&ino);
                }
            }
            ControlFlow::Continue(())
        };
        self.view
            .rows
            .scan(Table::Op, &first.to_key(), None, &mut visit)?;
        if let Some(error) = failed {
            return Err(error);
        }
        let chains = chains.into_values();
        Ok(chains.filter(|chain| chain.writes.len() > 1).collect())
    }

    /// Returns file and base of an own write that changed the file it names and nothing else.
    fn plain_write(&self, id: OpId, record: &Record) -> Option<(Ino, OpId)> {
        let write = record.kind.as_write()?;
        let own_rows = record.writes.iter().all(|(key, _)| match key {
            RowKey::Inode(ino) | RowKey::Extent(ino, _) => *ino == write.ino,
            _ => false,
        });
        (id.log == self.config.log.own_log() && own_rows).then_some((write.ino, write.base))
    }

    /// Returns the op that does what the end of a chain does, as much of it as one op can do, with
    /// its record, and the ops before it that it replaces; `None` where that is none, or where the
    /// view would not be the same.
    fn unite(&self, chain: &Chain) -> Result<Option<United>> {
        let Some((from, kind)) = last_that_fit(&chain.writes) else {
            return Ok(None);
        };
        let (Some(writes), Some((last, _))) = (chain.writes.get(from..), chain.writes.last())
        else {
            return Ok(None);
        };
        if kind.flaw().is_some() {
            return Ok(None);
        }
        // The file as it was before them.
        let mut overlay = Overlay::default();
        for (_, record) in writes.iter().rev() {
            for (key, before) in &record.writes {
                let row = match before {
                    Some(bytes) => Some(Stored::decode(key, bytes.clone())?),
                    None => None,
                };
                overlay.rows.insert(*key, row);
            }
        }
        let base = Base {
            view: &self.view,
            overlay: &overlay,
        };
        let effects = match fold_within(base, *last, &kind, Room::of_bytes(UNDO_MAX_BYTES)) {
            Err(VolumeError::TooMuch) => return Ok(None),
            effects => effects?,
        };
        if !self.leads_to_the_view(&overlay, &effects)? {
            return Ok(None);
        }
        let replaced = writes.iter().map(|(id, _)| *id).filter(|id| id != last);
        Ok(Some(United {
            id: *last,
            record: Record::new(Arc::new(kind), &effects),
            replaced: replaced.collect(),
        }))
    }

    /// Tells whether effects on top of an overlay make the rows that are in the view.
    fn leads_to_the_view(&self, overlay: &Overlay, effects: &Effects) -> Result<bool> {
        let mut rows = overlay.rows.clone();
        for effect in &effects.writes {
            rows.insert(effect.key, effect.after.clone());
        }
        for (key, row) in &rows {
            let now = self.view.row(key)?;
            let bytes = |row: &Option<super::rows::Row>| row.as_ref().map(|row| row.bytes.clone());
            if bytes(row) != bytes(&now) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Returns the write that does what the last writes of a chain do, as many as fit into one op, and
/// the place of the first of them; `None` where they are less than two.
fn last_that_fit(writes: &[(OpId, Record)]) -> Option<(usize, OpKind)> {
    let mut whole: Option<(usize, Layers, Write)> = None;
    for (index, (_, record)) in writes.iter().enumerate() {
        let write = record.kind.as_write()?;
        if let Some((_, layers, merged)) = &mut whole {
            layers.add(&write.pieces, write.size);
            let (pieces, inline_bytes) = layers.extent();
            if pieces <= OP_PIECES_MAX && inline_bytes <= OP_INLINE_MAX_BYTES {
                merged.size = write.size;
                merged.mtime = write.mtime;
                merged.ctime = write.ctime;
                merged.mode = write.mode.or(merged.mode);
                continue;
            }
        }
        let alone = Write {
            pieces: Vec::new(),
            ..write.clone()
        };
        whole = Some((index, Layers::new(&write.pieces, write.size), alone));
    }
    let (from, layers, merged) = whole?;
    let pieces = layers.into_pieces();
    (from + 1 < writes.len()).then_some((from, OpKind::Write(Write { pieces, ..merged })))
}

/// Most bytes of rows that a united op meets: its record, which is one row, keeps them to be undone.
const UNDO_MAX_BYTES: usize = VALUE_MAX_BYTES / 2;

/// Largest record that is looked at: the writer waits meanwhile.
const RECORD_MAX_BYTES: usize = 512 << 10;

const BAD_OP_KEY: VolumeError = VolumeError::Corrupt {
    what: "the key of an op",
};
