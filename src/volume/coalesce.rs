//! Carrying once what one segment overwrites.
//!
//! Own writes of one file that follow each other, each built on the one before and none sealed yet,
//! become one op under the name of the last: a database's thousand small writes are not a thousand
//! ops for everybody. Only where no other op has met the file in between or since, so that the
//! view stays as it is, row by row; that is checked before anything is changed.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::committed::Committed;
use super::extents::Layers;
use super::fold::fold_within;
use super::history;
use super::op::{OP_INLINE_MAX_BYTES, OP_PIECES_MAX, OpKind, Write};
use super::overlay::{Base, Effects, Overlay, Room};
use super::record::Record;
use super::rows::{Row, RowKey, Stored};
use super::sight::Sight;
use super::state::State;
use super::trim::after;
use super::{Result, Volume, VolumeError};
use crate::base::{Ino, OpId};
use crate::store::{Batch, Table, VALUE_MAX_BYTES};

/// A write of a chain.
struct Link {
    id: OpId,
    record: Record,
    /// Size of the record's row.
    bytes: usize,
}

/// What drafts have written, as far as they were looked at.
struct Chains {
    /// Writes of one file, each built on the one before, which nothing else has met.
    files: BTreeMap<Ino, Vec<Link>>,
    /// Inode rows of files with a chain, by digest.
    inodes: HashMap<u64, Ino>,
    /// The next op to look at.
    next: OpId,
}

/// An op that does what several did.
struct United {
    id: OpId,
    record: Record,
    /// The others.
    replaced: Vec<OpId>,
}

impl Volume {
    /// Unites drafts that overwrite each other; by whoever seals, since drafts must not change but by
    /// that.
    ///
    /// They are read while the writer's lock is free. Under it, what came meanwhile is looked at, and
    /// some writes of one file are united: others wait for so much and no more. Returns how often the
    /// lock was held.
    pub(super) fn coalesce(&self) -> Result<usize> {
        let first = {
            let mut state = self.state.lock();
            let is_worth = state.drafts.take_rewrites();
            state.drafts.front().filter(|_| is_worth)
        };
        let Some(first) = first else {
            return Ok(0);
        };
        // A merge may undo drafts and redo them, so none begins meanwhile. Where one goes on, the next
        // seal does this.
        let Some(_feed) = self.feed.try_lock() else {
            self.state.lock().drafts.look_again();
            return Ok(0);
        };
        let mut chains = Chains {
            files: BTreeMap::new(),
            inodes: HashMap::new(),
            next: first,
        };
        self.look_on(&mut chains, usize::MAX)?;
        let long = chains.files.iter().filter(|(_, chain)| chain.len() > 1);
        let files: Vec<Ino> = long.map(|(ino, _)| *ino).collect();
        let mut holds = 0;
        for ino in files {
            while let Some(mut state) = self.lock_after(&mut chains)? {
                holds += 1;
                if !self.unite_some(&mut state, &mut chains, ino)? {
                    break;
                }
            }
        }
        Ok(holds)
    }

    /// Takes the writer's lock when all ops are looked at; `None` where they come faster than that.
    fn lock_after(&self, chains: &mut Chains) -> Result<Option<MutexGuard<'_, State>>> {
        for _ in 0..LOOKS_MAX {
            self.look_on(chains, usize::MAX)?;
            let state = self.state.lock();
            if self.look_on(chains, HELD_RECORDS_MAX)? {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    /// Unites the last writes of a file, as many as are the work of a few milliseconds; returns
    /// whether those before them may be united with what came of it.
    fn unite_some(&self, state: &mut State, chains: &mut Chains, ino: Ino) -> Result<bool> {
        let Some(chain) = chains.files.get_mut(&ino) else {
            return Ok(false);
        };
        // What was seen in between is not what the first had seen.
        let end = chain.last().map(|link| state.drafts.group_of(link.id));
        let seen = |link: &Link| Some(state.drafts.group_of(link.id)) == end;
        let from = chain.len() - light_count(chain, seen);
        let Some(whole) = self.unite(
            &state.chain.committed,
            chain.get(from..).unwrap_or_default(),
        )?
        else {
            return Ok(false);
        };
        let mut batch = Batch::new();
        for id in &whole.replaced {
            batch.delete(Table::Op, id.to_key());
        }
        let record = whole.record.encode();
        let bytes = record.len();
        batch.put(Table::Op, whole.id.to_key(), record);
        self.view.rows.commit(batch)?;
        if let Some(index) = &mut state.index {
            let gone = |link: &&Link| link.id == whole.id || whole.replaced.contains(&link.id);
            for link in chain.iter().filter(gone) {
                index.remove(link.id, &link.record);
            }
            index.add(whole.id, &whole.record);
        }
        state.drafts.united(whole.id, &whole.replaced);
        chain.truncate(chain.len() - whole.replaced.len() - 1);
        let is_more = !chain.is_empty() && chain.len() == from;
        chain.push(Link {
            id: whole.id,
            record: whole.record,
            bytes,
        });
        Ok(is_more)
    }

    /// Looks at the next ops, at `most` of them and so many bytes as others may wait for, or at all
    /// that there are where `most` is no limit; returns whether that was all.
    fn look_on(&self, chains: &mut Chains, most: usize) -> Result<bool> {
        let (mut left, mut bytes) = (most, 0);
        let mut is_all = true;
        let mut failed = None;
        let from = chains.next.to_key();
        let mut visit = |key: &[u8], value: &[u8]| {
            bytes += value.len();
            if most < usize::MAX && (left == 0 || bytes > LIGHT_BYTES) {
                is_all = false;
                return ControlFlow::Break(());
            }
            left -= 1;
            match self.look_at(chains, key, value) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        self.view.rows.scan(Table::Op, &from, None, &mut visit)?;
        failed.map_or(Ok(is_all), Err)
    }

    /// Adds an op to the chains, or ends those that it has met.
    fn look_at(&self, chains: &mut Chains, key: &[u8], value: &[u8]) -> Result<()> {
        let id = OpId::from_key(key).ok_or(BAD_OP_KEY)?;
        chains.next = after(id);
        // One that replaces so much is no small write, and what it met is much to read.
        if value.len() > RECORD_MAX_BYTES {
            chains.files.clear();
            chains.inodes.clear();
            return Ok(());
        }
        let record = Record::decode(value)?;
        if let Some((ino, base)) = self.plain_write(id, &record) {
            let chain = chains.files.entry(ino).or_default();
            let is_next = chain.last().is_some_and(|last| last.id == base);
            // What can be had back one day is no part of the content behind it.
            if !is_next || self.keeps_history() && !history::passes_by(ino, id, &record)? {
                chain.clear();
            }
            let bytes = value.len();
            chain.push(Link { id, record, bytes });
            chains.inodes.insert(RowKey::Inode(ino).digest(), ino);
            return Ok(());
        }
        let written = record.writes.iter().map(|(key, _)| key.digest());
        for digest in written.chain(record.reads.iter().copied()) {
            if let Some(ino) = chains.inodes.remove(&digest) {
                chains.files.remove(&ino);
            }
        }
        Ok(())
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
    fn unite(&self, committed: &Committed, chain: &[Link]) -> Result<Option<United>> {
        let Some((from, kind)) = last_that_fit(chain) else {
            return Ok(None);
        };
        let (Some(writes), Some(Link { id: last, .. })) = (chain.get(from..), chain.last()) else {
            return Ok(None);
        };
        if kind.flaw().is_some() {
            return Ok(None);
        }
        // The file as it was before them.
        let mut overlay = Overlay::default();
        for Link { record, .. } in writes.iter().rev() {
            for (key, before) in &record.writes {
                let row = match before {
                    Some(bytes) => Some(Stored::decode(key, bytes.clone())?),
                    None => None,
                };
                overlay.put(*key, row);
            }
        }
        let base = Base {
            view: &self.view,
            overlay: &overlay,
            committed,
        };
        let effects = match fold_within(
            base,
            *last,
            &kind,
            &Sight::Everything { record: 0 },
            Room::of_bytes(UNDO_MAX_BYTES),
        ) {
            Err(VolumeError::TooMuch) => return Ok(None),
            effects => effects?,
        };
        if !self.leads_to_the_view(&overlay, &effects)? {
            return Ok(None);
        }
        let replaced = writes.iter().map(|link| link.id).filter(|id| id != last);
        Ok(Some(United {
            id: *last,
            record: Record::new(Arc::new(kind), &effects),
            replaced: replaced.collect(),
        }))
    }

    /// Tells whether effects on top of an overlay make the rows that are in the view.
    fn leads_to_the_view(&self, overlay: &Overlay, effects: &Effects) -> Result<bool> {
        let rows = overlay.rows().iter();
        let mut rows: BTreeMap<&RowKey, &Option<Row>> =
            rows.map(|(key, row)| (key, &row.now)).collect();
        for effect in &effects.writes {
            rows.insert(&effect.key, &effect.after);
        }
        for (key, row) in rows {
            let now = self.view.row(key)?;
            let bytes = |row: &Option<Row>| row.as_ref().map(|row| row.bytes.clone());
            if bytes(row) != bytes(&now) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Returns the write that does what the last writes of a chain do, as many as fit into one op, and
/// the place of the first of them; `None` where they are less than two.
fn last_that_fit(writes: &[Link]) -> Option<(usize, OpKind)> {
    let mut whole: Option<(usize, Layers, Write)> = None;
    for (index, Link { record, .. }) in writes.iter().enumerate() {
        let write = record.kind.as_write()?;
        if let Some((_, layers, merged)) = &mut whole {
            layers.add(&write.pieces, write.size);
            let (pieces, inline_bytes) = layers.extent();
            if pieces <= OP_PIECES_MAX && inline_bytes <= OP_INLINE_MAX_BYTES {
                merged.size = write.size;
                merged.mtime = write.mtime;
                merged.ctime = write.ctime;
                merged.mode = write.mode.or(merged.mode);
                merged.empties = write.empties;
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

/// Returns how many of the last writes of a chain, of those that `may` be united, are at once.
fn light_count(chain: &[Link], may: impl Fn(&Link) -> bool) -> usize {
    let (mut bytes, mut rows) = (0, 0);
    let is_light = |link: &&Link| {
        bytes += link.bytes;
        rows += link.record.writes.len();
        bytes <= LIGHT_BYTES && rows <= LIGHT_ROWS && may(link)
    };
    chain.iter().rev().take_while(is_light).count()
}

/// Most bytes and rows of records that are united under one hold of the writer's lock.
const LIGHT_BYTES: usize = 1 << 20;
const LIGHT_ROWS: usize = 1024;

/// Most ops that are looked at under a hold of the writer's lock.
const HELD_RECORDS_MAX: usize = 64;

/// How often ops are looked at before they are found to come too fast.
const LOOKS_MAX: usize = 8;

const BAD_OP_KEY: VolumeError = VolumeError::Corrupt {
    what: "the key of an op",
};

#[cfg(test)]
mod tests {
    use super::*;

    fn link(rows: usize, bytes: usize) -> Link {
        let name = String::new();
        Link {
            id: OpId::default(),
            record: Record {
                kind: Arc::new(OpKind::Device { name }),
                reads: Vec::new(),
                writes: vec![(RowKey::Inode(Ino::ROOT), None); rows],
                deltas: Vec::new(),
            },
            bytes,
        }
    }

    #[test]
    fn what_is_united_under_one_hold_has_a_bound_in_bytes_and_in_rows() {
        let count = |links: usize, rows, bytes| {
            let chain: Vec<Link> = (0..links).map(|_| link(rows, bytes)).collect();
            light_count(&chain, |_| true)
        };
        assert_eq!(count(10, 1, 100), 10);
        assert_eq!(count(10_000, 2, 100), LIGHT_ROWS / 2);
        assert_eq!(count(10_000, 2, 64 << 10), LIGHT_BYTES / (64 << 10));
        assert_eq!(count(5, LIGHT_ROWS + 1, 100), 0);
        let chain = [link(1, 100), link(2, 100), link(1, 100)];
        let may = |link: &Link| link.record.writes.len() == 1;
        assert_eq!(light_count(&chain, may), 1);
    }
}
