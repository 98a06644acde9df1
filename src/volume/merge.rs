//! Merging ops that may sort before what is applied: undo what they concern, fold, redo.
//!
//! Invariant between two ops: the view is the fold, in order, of all ops that are applied and not in
//! `todo`. An op that sorts before applied ones is folded on top of them first. Where they touched
//! nothing that it writes, and wrote nothing that it read, the two orders make the same view.
//! Otherwise they are undone by their before-images, newest first, with all that built on them, and
//! folded again behind it. Whatever an op reads includes whatever its reads depended on, so nothing
//! stale stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::fold::fold;
use super::index::TouchIndex;
use super::op::OpKind;
use super::overlay::{Base, Delta, Effects, Overlay};
use super::record::Record;
use super::rows::{RowKey, Stored, Value};
use super::sight::Sights;
use super::state::State;
use super::types::Inode;
use super::view::View;
use super::{Result, VolumeError};
use crate::base::{Ino, OpId};
use crate::store::Table;

/// Ops that wait to be folded.
pub(super) type Todo = BTreeMap<OpId, Arc<OpKind>>;

/// A merge of one slice of ops, to be committed as a whole.
pub(super) struct Merge<'a> {
    pub(super) view: &'a View,
    pub(super) state: &'a mut State,
    pub(super) overlay: Overlay,
    pub(super) todo: Todo,
    sights: Sights,
    /// How many ops were undone.
    pub(super) undone_count: usize,
}

impl<'a> Merge<'a> {
    pub(super) fn new(view: &'a View, state: &'a mut State, todo: Todo, sights: Sights) -> Self {
        Self {
            view,
            state,
            overlay: Overlay::default(),
            todo,
            sights,
            undone_count: 0,
        }
    }

    /// Folds all that is to do.
    pub(super) fn run(&mut self) -> Result<()> {
        while let Some((id, kind)) = self.todo.pop_first() {
            let base = Base {
                view: self.view,
                overlay: &self.overlay,
            };
            if id <= self.state.cut {
                // Folded on top of what it should have come before: the views may differ by it.
                tracing::warn!(?id, "an op arrived from below the stable cut");
            }
            // What is newer than everything concerns nobody, which is the common case.
            let is_late = id <= self.state.newest;
            if is_late && base.record(id)?.is_some() {
                continue;
            }
            let sight = self.sights.of(self.view, id, is_late)?;
            let effects = fold(base, id, &kind, &sight)?;
            if is_late {
                let concerned = self.concerned(id, &effects)?;
                if !concerned.is_empty() {
                    self.undo(concerned)?;
                    self.todo.insert(id, kind);
                    continue;
                }
            }
            self.keep(id, kind, effects);
        }
        Ok(())
    }

    /// Takes an op's effects into the overlay.
    fn keep(&mut self, id: OpId, kind: Arc<OpKind>, effects: Effects) {
        let record = Record::new(kind, &effects);
        self.state.note(id, &record);
        for effect in effects.writes {
            self.overlay.rows.insert(effect.key, effect.after);
        }
        self.overlay.records.insert(id, Some(Arc::new(record)));
    }

    /// Returns the applied ops above `id` that its effects concern.
    fn concerned(&mut self, id: OpId, effects: &Effects) -> Result<BTreeSet<OpId>> {
        let newest = self.state.newest;
        let mut index = match self.state.index.take() {
            Some(index) => index,
            None => {
                let mut index = TouchIndex::new(newest);
                for (id, record) in &self.overlay.records {
                    if let Some(record) = record {
                        index.add(*id, record);
                    }
                }
                index
            }
        };
        // Below the cut nothing is undone: its records may be gone.
        let above = id.max(self.state.cut);
        if above < index.above {
            self.extend(&mut index, above)?;
        }
        let concerned = index.concerned(above, effects);
        self.state.index = Some(index);
        Ok(concerned)
    }

    /// Adds the committed ops in `above..=index.above` to the index. Those of the overlay are in it
    /// since they were folded.
    fn extend(&self, index: &mut TouchIndex, above: OpId) -> Result<()> {
        let mut failed = None;
        let rows = &self.view.rows;
        let old = index.above;
        rows.scan(Table::Op, &above.to_key(), None, &mut |key, value| {
            let Some(id) = OpId::from_key(key) else {
                failed = Some(BAD_OP_KEY);
                return ControlFlow::Break(());
            };
            if id > old {
                return ControlFlow::Break(());
            }
            if id > above && !self.overlay.records.contains_key(&id) {
                match Record::of_row(&**rows, id, value.to_vec()) {
                    Ok(record) => index.add(id, &record),
                    Err(error) => {
                        failed = Some(error);
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        index.above = above;
        failed.map_or(Ok(()), Err)
    }

    /// Undoes ops and all that built on them, newest first, and puts them back to do.
    fn undo(&mut self, concerned: BTreeSet<OpId>) -> Result<()> {
        let mut records: BTreeMap<OpId, Arc<Record>> = BTreeMap::new();
        let mut followed = HashMap::new();
        let mut open: Vec<OpId> = concerned.into_iter().collect();
        while let Some(id) = open.pop() {
            if records.contains_key(&id) {
                continue;
            }
            let base = Base {
                view: self.view,
                overlay: &self.overlay,
            };
            let record = base.record(id)?.ok_or(LOST_RECORD)?;
            if let Some(index) = &self.state.index {
                index.dependent(id, &record, &mut followed, &mut open);
            }
            records.insert(id, record);
        }
        for (id, record) in records.into_iter().rev() {
            self.take_back(&record)?;
            if let Some(index) = &mut self.state.index {
                index.remove(id, &record);
            }
            self.overlay.records.insert(id, None);
            self.todo.insert(id, Arc::clone(&record.kind));
            self.undone_count += 1;
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
                && let Some(now) = self.dir(*ino)?
            {
                let mut dir = Inode {
                    entries: now.entries,
                    nlink: now.nlink,
                    mtime: now.mtime.max(before.mtime),
                    ctime: now.ctime.max(before.ctime),
                    ..before.clone()
                };
                if let Some(delta) = deltas.get(ino) {
                    delta.take_from(&mut dir);
                }
                // Whether it has a name is no count.
                if before.is_orphan() || now.is_orphan() {
                    dir.nlink = before.nlink;
                }
                row = Some(Stored::encode(Value::Inode(dir)));
            }
            self.overlay.rows.insert(*key, row);
        }
        for (ino, delta) in deltas {
            let key = RowKey::Inode(ino);
            if record.writes.iter().any(|(written, _)| *written == key) {
                continue;
            }
            if let Some(mut dir) = self.dir(ino)? {
                delta.take_from(&mut dir);
                let row = Stored::encode(Value::Inode(dir));
                self.overlay.rows.insert(key, Some(row));
            }
        }
        Ok(())
    }

    /// Returns a directory's row as it is now.
    fn dir(&self, ino: Ino) -> Result<Option<Inode>> {
        let base = Base {
            view: self.view,
            overlay: &self.overlay,
        };
        let row = base.row(&RowKey::Inode(ino))?;
        Ok(row.and_then(|row| match &row.value {
            Value::Inode(inode) if inode.is_dir() => Some(inode.clone()),
            _ => None,
        }))
    }
}

const BAD_OP_KEY: VolumeError = VolumeError::Corrupt {
    what: "the key of an op",
};

const LOST_RECORD: VolumeError = VolumeError::Corrupt {
    what: "the record of an op above the cut is missing",
};
