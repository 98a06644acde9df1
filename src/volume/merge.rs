//! Merging ops that may stand before what is applied: undo what they concern, fold, redo.
//!
//! Invariant between two ops: the view is the fold, in order, of all ops that are applied and not in
//! `todo`. An op that stands before applied ones is folded on top of them first. Where they touched
//! nothing that it writes, and wrote nothing that it read, the two orders make the same view.
//! Otherwise they are undone by their before-images, newest first, with all that built on them, and
//! folded again behind it. Whatever an op reads includes whatever its reads depended on, so nothing
//! stale stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::committed::Rank;
use super::fold::fold_within;
use super::index::Touched;
use super::op::OpKind;
use super::overlay::{Base, Delta, Effects, Overlay, Room};
use super::record::Record;
use super::rows::{Dated, Row, RowKey, Stored, Value};
use super::sight::Sights;
use super::state::State;
use super::todo::{ReadAhead, Todo};
use super::trim::before;
use super::types::{Field, Inode};
use super::view::View;
use super::{Result, VolumeError};
use crate::base::{Ino, OpId};
use crate::store::{Batch, Rows};

/// Ops that a merge undoes under the writer's lock: with their folding some 15 ms. One that has to undo more
/// is made beside the view.
pub(super) const UNDONE_MAX: usize = 256;

/// What one op may meet under that lock.
const MERGE_ROOM: Room = Room {
    bytes: 8 << 20,
    rows: 4096,
};

/// Rows and records, and bytes of them, that a merge which nobody sees keeps before it writes them.
const KEPT_MAX: usize = 4096;
const KEPT_MAX_BYTES: usize = 4 << 20;

/// Looks up how those of some applied ops touched rows that stand behind one. Only a merge changes that, so
/// who merges needs no lock for it.
pub(super) fn touched_behind(
    rows: &dyn Rows,
    first: OpId,
    ids: &BTreeSet<OpId>,
) -> Result<Touched> {
    let mut touched = Touched::default();
    for id in ids.range(first..) {
        let record = Record::load(rows, *id)?.ok_or(LOST_RECORD)?;
        touched.add(*id, &record);
    }
    Ok(touched)
}

/// A merge of one slice of ops, to be committed as a whole.
pub(super) struct Merge<'a> {
    pub(super) view: &'a View,
    pub(super) state: &'a mut State,
    pub(super) overlay: Overlay,
    pub(super) todo: Todo,
    ahead: ReadAhead,
    sights: Sights,
    /// How many ops it may undo; `None` where nobody sees what it makes, or waits for it.
    bound: Option<usize>,
    /// Bytes of what the overlay holds, about.
    kept_bytes: usize,
    /// Ops that wait for nothing: a record names them.
    pub(super) named: BTreeSet<OpId>,
    /// How many ops were undone.
    pub(super) undone_count: usize,
    /// Most bytes of ops that waited in memory, about.
    pub(super) waiting_bytes: usize,
}

impl<'a> Merge<'a> {
    pub(super) fn new(
        view: &'a View,
        state: &'a mut State,
        todo: Todo,
        sights: Sights,
        bound: Option<usize>,
    ) -> Self {
        Self {
            bound,
            kept_bytes: 0,
            named: BTreeSet::new(),
            view,
            state,
            overlay: Overlay::default(),
            todo,
            ahead: ReadAhead::default(),
            sights,
            undone_count: 0,
            waiting_bytes: 0,
        }
    }

    /// Folds all that is to do.
    pub(super) fn run(&mut self) -> Result<()> {
        loop {
            let waiting = self.todo.bytes() + self.state.deferred.bytes();
            self.waiting_bytes = self.waiting_bytes.max(waiting);
            let Some((rank, kind)) = self.todo.pop_first() else {
                return Ok(());
            };
            let id = rank.id;
            let kind = match kind {
                Some(kind) => kind,
                None => self.ahead.take(self.view, &mut self.overlay, id)?,
            };
            let base = Base {
                view: self.view,
                overlay: &self.overlay,
                committed: &self.state.chain.committed,
            };
            if id <= self.state.trimmed.cut {
                // Folded on top of what it should have come before: the views may differ by it.
                tracing::warn!(?id, "an op arrived from below the stable cut");
            }
            // What is newer than everything concerns nobody, which is the common case.
            let is_late = id <= self.state.newest || rank != Rank::tentative(id);
            if is_late && self.state.may_be_applied(self.view, id) && base.record(id)?.is_some() {
                continue;
            }
            let committed = &self.state.chain.committed;
            let sight = self.sights.of(self.view, committed, id, is_late)?;
            let room = self.bound.map_or(Room::ENDLESS, |_| MERGE_ROOM);
            let effects = fold_within(base, id, &kind, &sight, room)?;
            if is_late {
                let concerned = self.concerned(rank, &effects)?;
                if !concerned.is_empty() {
                    self.undo(concerned)?;
                    self.todo.insert(rank, kind);
                    continue;
                }
            }
            self.keep(rank, kind, effects);
            self.write_some()?;
        }
    }

    /// Writes what the overlay holds where that is much and nobody sees it.
    fn write_some(&mut self) -> Result<()> {
        let kept = self.overlay.rows().len() + self.overlay.records.len();
        let is_much = kept >= KEPT_MAX || self.kept_bytes >= KEPT_MAX_BYTES;
        if self.bound.is_some() || !is_much {
            return Ok(());
        }
        self.kept_bytes = 0;
        let overlay = std::mem::take(&mut self.overlay);
        self.state.commit(self.view, overlay, Batch::new(), None)?;
        Ok(self.view.rows.settle()?)
    }

    /// Undoes those of the applied ops from `first` on that a record passes, without naming them, which an
    /// op that it names crossed behind them, and all that built on them. The order is still the one before
    /// the record. How the named ones `touched` rows was looked up before.
    pub(super) fn undo_passed(
        &mut self,
        first: OpId,
        named: &BTreeSet<OpId>,
        touched: &Touched,
    ) -> Result<()> {
        self.index_above(before(first))?;
        let committed = &self.state.chain.committed;
        let crossing = self.state.index.as_mut();
        let crossing = crossing.map_or_else(BTreeSet::new, |index| {
            index.crossing_below(committed, first, touched)
        });
        let passed = crossing.difference(named);
        self.undo(passed.map(|id| Rank::tentative(*id)).collect())
    }

    /// Undoes applied ops that no record names yet, and all that built on them.
    pub(super) fn undo_all(&mut self, ids: BTreeSet<OpId>) -> Result<()> {
        let applied = |id: &OpId| !matches!(self.overlay.records.get(id), Some(None));
        let ids: BTreeSet<OpId> = ids.into_iter().filter(applied).collect();
        let Some(first) = ids.first() else {
            return Ok(());
        };
        self.index_above(before(*first))?;
        self.undo(ids.into_iter().map(Rank::tentative).collect())
    }

    /// Undoes applied ops that count no more, and all that built on them, of which the others wait to be
    /// folded again.
    pub(super) fn take_back_all(&mut self, ids: &BTreeSet<OpId>) -> Result<()> {
        self.undo_all(ids.clone())?;
        self.todo.forget(&mut self.overlay, |id| ids.contains(&id));
        Ok(())
    }

    /// Gives the ops to do that a record names, which is folded now, their places in the order.
    pub(super) fn rank_anew(&mut self) {
        self.todo.rank_anew(&self.state.chain.committed);
    }

    fn record(&self, id: OpId) -> Result<Arc<Record>> {
        let base = Base {
            view: self.view,
            overlay: &self.overlay,
            committed: &self.state.chain.committed,
        };
        base.record(id)?.ok_or(LOST_RECORD)
    }

    /// Takes an op's effects into the overlay.
    fn keep(&mut self, rank: Rank, kind: Arc<OpKind>, effects: Effects) {
        let record = Record::new(kind, &effects);
        self.state.note(rank, &record);
        self.kept_bytes += record.kind.room();
        for effect in effects.writes {
            let bytes = |row: &Option<Row>| row.as_ref().map_or(0, |row| row.bytes.len());
            self.kept_bytes += bytes(&effect.before) + 2 * bytes(&effect.after);
            self.overlay.put_effect(effect);
        }
        let record = Some(Arc::new(record));
        self.overlay.records.insert(rank.id, record);
    }

    /// Returns the applied ops above a place that the effects of the op there concern.
    fn concerned(&mut self, rank: Rank, effects: &Effects) -> Result<BTreeSet<Rank>> {
        // Below the cut nothing is undone: its records may be gone.
        let above = rank.max(Rank {
            record: rank.record,
            id: self.state.trimmed.cut,
        });
        self.index_above(match rank.record {
            Rank::TENTATIVE => above.id,
            // Any op that no record names stands above what one does.
            _ => before(self.state.chain.tentative),
        })?;
        let committed = &self.state.chain.committed;
        let index = self.state.index.as_mut();
        Ok(index.map_or_else(BTreeSet::new, |index| {
            index.concerned(committed, above, effects)
        }))
    }

    /// Sees to it that the index has all applied ops behind one.
    fn index_above(&mut self, above: OpId) -> Result<()> {
        self.state
            .index_above(self.view, &self.overlay, above, Room::ENDLESS)?;
        Ok(())
    }

    /// Undoes ops and all that built on them, newest first, and puts them back to do.
    fn undo(&mut self, concerned: BTreeSet<Rank>) -> Result<()> {
        let mut ranks: BTreeSet<Rank> = BTreeSet::new();
        let mut followed = HashMap::new();
        let mut open: Vec<Rank> = concerned.into_iter().collect();
        while let Some(rank) = open.pop() {
            if !ranks.insert(rank) {
                continue;
            }
            if self
                .bound
                .is_some_and(|max| self.undone_count + ranks.len() > max)
            {
                return Err(VolumeError::TooMuch);
            }
            let record = self.record(rank.id)?;
            if let Some(index) = &self.state.index {
                let committed = &self.state.chain.committed;
                index.dependent(committed, rank, &record, &mut followed, &mut open);
            }
        }
        drop((followed, open));
        // Read again: all of them may be more than the memory is to hold.
        for rank in ranks.into_iter().rev() {
            let record = self.record(rank.id)?;
            self.take_back(&record)?;
            if let Some(index) = &mut self.state.index {
                index.remove(rank.id, &record);
            }
            self.overlay.records.insert(rank.id, None);
            let waits = self.state.defers && rank.record == Rank::TENTATIVE;
            let todo = match waits && !self.named.contains(&rank.id) {
                true => &mut self.state.deferred,
                false => &mut self.todo,
            };
            let kind = Arc::clone(&record.kind);
            match self.bound {
                Some(_) => todo.insert(rank, kind),
                None => {
                    self.kept_bytes += kind.room();
                    todo.insert_undone(rank, kind, &mut self.overlay);
                }
            }
            self.undone_count += 1;
            let befores = record.writes.iter();
            let bytes = befores.map(|(_, before)| before.as_ref().map_or(0, |before| before.len()));
            self.kept_bytes += 2 * bytes.sum::<usize>();
            self.write_some()?;
        }
        Ok(())
    }
}

impl Merge<'_> {
    /// Puts the rows back as they were before an op on which nothing builds any more. Counts of
    /// directories are those of now less what the op added: others count side by side with it.
    fn take_back(&mut self, record: &Record) -> Result<()> {
        let deltas: BTreeMap<Ino, Delta> = record.deltas.iter().copied().collect();
        for (key, before) in &record.writes {
            let mut row = match before {
                Some(bytes) => Some(Stored::decode(key, bytes.clone())?),
                None => None,
            };
            if let (RowKey::Inode(ino), Some(before)) = (key, &row)
                && let Value::Inode(before) = &before.value
                && before.is_dir()
            {
                let mut dir = before.clone();
                if let Some(now) = self.dir(*ino)? {
                    dir.count_back(&now, deltas.get(ino).copied());
                    dir.ctime = now.ctime.max(before.ctime);
                    // That is no part of what is undone.
                    dir.mtime = now.mtime;
                    dir.cells.take(Field::Mtime, &now.cells);
                } else if let Some(Dated { mtime, by }) = self.dated(*ino)? {
                    dir.mtime = mtime;
                    if by != dir.created_by {
                        dir.cells.set(Field::Mtime, by);
                    }
                }
                row = Some(Stored::encode(Value::Inode(dir)));
            }
            self.overlay.put(*key, row);
        }
        for (ino, delta) in deltas {
            let key = RowKey::Inode(ino);
            if record.writes.iter().any(|(written, _)| *written == key) {
                continue;
            }
            if let Some(mut dir) = self.dir(ino)? {
                delta.take_from(&mut dir);
                let row = Stored::encode(Value::Inode(dir));
                self.overlay.put(key, Some(row));
            }
        }
        Ok(())
    }

    /// Returns when a directory changed that is a part of another.
    fn dated(&self, ino: Ino) -> Result<Option<Dated>> {
        let base = Base {
            view: self.view,
            overlay: &self.overlay,
            committed: &self.state.chain.committed,
        };
        let row = base.row(&RowKey::Dated(ino))?;
        Ok(row.and_then(|row| match &row.value {
            Value::Dated(dated) => Some(*dated),
            _ => None,
        }))
    }

    /// Returns a directory's row as it is now.
    fn dir(&self, ino: Ino) -> Result<Option<Inode>> {
        let base = Base {
            view: self.view,
            overlay: &self.overlay,
            committed: &self.state.chain.committed,
        };
        let row = base.row(&RowKey::Inode(ino))?;
        Ok(row.and_then(|row| match &row.value {
            Value::Inode(inode) if inode.is_dir() => Some(inode.clone()),
            _ => None,
        }))
    }
}

const LOST_RECORD: VolumeError = VolumeError::Corrupt {
    what: "the record of an op above the cut is missing",
};
