//! Carrying once what one segment overwrites.
//!
//! Own writes of one file that follow each other, each built on the one before and none sealed yet,
//! become one op under the name of the last: a database's thousand small writes are not a thousand
//! ops for everybody. Only where no other op has met the file in between or since, so that the
//! view stays as it is, row by row; that is checked before anything is changed.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::extents::layer;
use super::fold::fold;
use super::op::{OpKind, Write};
use super::overlay::{Base, Effects, Overlay};
use super::record::Record;
use super::rows::{RowKey, Stored};
use super::state::State;
use super::{Result, Volume, VolumeError};
use crate::base::{Ino, OpId};
use crate::store::{Batch, Table};

/// Writes of one file, each built on the one before.
#[derive(Default)]
struct Chain {
    writes: Vec<(OpId, Record)>,
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
            let Some((last, record)) = self.unite(&chain)? else {
                continue;
            };
            let replaced = chain.writes.iter().map(|(id, _)| *id);
            for id in replaced.filter(|id| *id != last) {
                batch.delete(Table::Op, id.to_key());
                gone.push(id);
            }
            batch.put(Table::Op, last.to_key(), record.encode());
            united.push(last);
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
                if chain.writes.last().is_none_or(|(last, _)| *last != base) {
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
        let OpKind::Write(write) = &*record.kind else {
            return None;
        };
        let own_rows = record.writes.iter().all(|(key, _)| match key {
            RowKey::Inode(ino) | RowKey::Extent(ino, _) => *ino == write.ino,
            _ => false,
        });
        (id.device == self.device && own_rows).then_some((write.ino, write.base))
    }

    /// Returns the op that does what a chain does, with its record; `None` where it is too large,
    /// or where the view would not be the same.
    fn unite(&self, chain: &Chain) -> Result<Option<(OpId, Record)>> {
        let mut writes = chain.writes.iter().filter_map(|(_, record)| {
            let OpKind::Write(write) = &*record.kind else {
                return None;
            };
            Some(write)
        });
        let (Some(first), Some((last, _))) = (writes.next(), chain.writes.last()) else {
            return Ok(None);
        };
        let kind = OpKind::Write(writes.fold(first.clone(), then));
        if kind.flaw().is_some() {
            return Ok(None);
        }
        // The file as it was before the chain.
        let mut overlay = Overlay::default();
        for (_, record) in chain.writes.iter().rev() {
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
        let effects = fold(base, *last, &kind)?;
        if !self.leads_to_the_view(&overlay, &effects)? {
            return Ok(None);
        }
        Ok(Some((*last, Record::new(Arc::new(kind), &effects))))
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

/// Returns the write that does what `whole` and then `next` do.
fn then(whole: Write, next: &Write) -> Write {
    Write {
        pieces: layer(&whole.pieces, whole.size, &next.pieces, next.size),
        size: next.size,
        mtime: next.mtime,
        ctime: next.ctime,
        mode: next.mode.or(whole.mode),
        ..whole
    }
}

const BAD_OP_KEY: VolumeError = VolumeError::Corrupt {
    what: "the key of an op",
};
