//! What crossed is listed until somebody settles it: by a mark on what stands aside, or on the only node there
//! is, which goes with the name that it has.

use super::{Fold, Result, WRONG_KIND};
use crate::base::{Ino, OpId};
use crate::volume::rows::{RowKey, Value};
use crate::volume::types::{Conflict, ConflictKind, Inode, Place};

impl Fold<'_> {
    pub(super) fn resolve_conflict(&mut self, op: OpId) -> Result<()> {
        let key = RowKey::Conflict(op);
        let conflict = match self.tx.get(key)? {
            Some(Value::Conflict(conflict)) => Conflict {
                resolved: true,
                ..conflict.clone()
            },
            Some(_) => return Err(WRONG_KIND),
            None => return Ok(()),
        };
        self.tx.put(key, Value::Conflict(conflict))
    }

    /// Settles the conflict of a node that loses the name that it has from it; each is that of what
    /// does not stand aside.
    pub(super) fn settle(&mut self, ino: Ino, lost: &Place) -> Result<()> {
        let Some(mut inode) = self.row_of(ino)? else {
            return Ok(());
        };
        if let Some(conflict) = inode.conflict
            && let Some(Value::Conflict(conflict)) = self.tx.get(RowKey::Conflict(conflict))?
            && conflict.other == Some(ino)
            && conflict.other_name.as_ref() != Some(&lost.name)
        {
            return Ok(());
        }
        let Some(conflict) = inode.conflict.take_if(|conflict| *conflict != self.id) else {
            return Ok(());
        };
        self.save(inode)?;
        self.resolve_conflict(conflict)
    }

    /// Records that this op crossed another one, and what it says does not count; the first record of an
    /// op stays.
    pub(super) fn conflict(
        &mut self,
        kind: ConflictKind,
        ino: Ino,
        place: Option<Place>,
    ) -> Result<()> {
        self.conflict_against(kind, ino, place, self.id)
    }

    /// Records that this op crossed another one, `lost`, and which of both does not count.
    pub(super) fn conflict_against(
        &mut self,
        kind: ConflictKind,
        ino: Ino,
        place: Option<Place>,
        lost: OpId,
    ) -> Result<()> {
        let device = self.tx.device_of(lost.log);
        self.conflict_with(Conflict {
            op: self.id,
            kind,
            ino,
            place,
            other: None,
            other_name: None,
            device,
            resolved: false,
        })
    }

    /// Returns the op that took the last name off a node, which has none.
    pub(super) fn removed_by(&mut self, ino: Ino) -> Result<Option<OpId>> {
        Ok(match self.tx.get(RowKey::Orphan(ino))? {
            Some(Value::Orphan(removed)) => Some(removed.by),
            _ => None,
        })
    }

    /// Records a conflict and marks the node that stands aside, or the only one, with it: it is
    /// settled when that loses the name that it has now, and by the next conflict of that.
    pub(super) fn conflict_with(&mut self, mut conflict: Conflict) -> Result<()> {
        if self.tx.get(RowKey::Conflict(conflict.op))?.is_some() {
            if self.tx.get(RowKey::Conflict(self.id))?.is_some() {
                return Ok(());
            }
            conflict.op = self.id;
        }
        let op = conflict.op;
        if let Some(other) = conflict.other {
            self.stand_beside(conflict.ino, other)?;
        }
        if let Some(mut inode) = self.row_of(conflict.other.unwrap_or(conflict.ino))? {
            let before = inode.conflict.replace(op);
            self.save(inode)?;
            if let Some(before) = before {
                self.resolve_conflict(before)?;
            }
        }
        self.tx.put(RowKey::Conflict(op), Value::Conflict(conflict))
    }

    /// Notes that what several appended stands in one file, where nobody has to look at that for another
    /// reason: one of a form of its own, as an archive, is none any more.
    pub(super) fn note_joined(&mut self, ino: Ino) -> Result<()> {
        let Some(node) = self.row_of(ino)? else {
            return Ok(());
        };
        let is_gone = node.kin.twin.is_some() || node.is_orphan();
        if is_gone || self.open_conflict(&node)?.is_some() {
            return Ok(());
        }
        self.conflict(ConflictKind::Joined, ino, node.home)
    }

    /// Takes a file off the list that stands there for what was joined in it, and has that no more.
    pub(super) fn unjoin(&mut self, node: &mut Inode) -> Result<()> {
        let conflict = self.open_conflict(node)?;
        let Some(joined) = conflict.filter(|conflict| conflict.kind == ConflictKind::Joined) else {
            return Ok(());
        };
        node.conflict = None;
        self.resolve_conflict(joined.op)
    }

    /// Returns the conflict that a node is marked with, where nobody has settled it.
    pub(super) fn open_conflict(&mut self, node: &Inode) -> Result<Option<Conflict>> {
        let Some(conflict) = node.conflict else {
            return Ok(None);
        };
        Ok(match self.tx.get(RowKey::Conflict(conflict))? {
            Some(Value::Conflict(conflict)) if !conflict.resolved => Some(conflict.clone()),
            _ => None,
        })
    }

    /// Lets a directory stand on the list for another one that becomes a part of it, unless it stands there
    /// itself.
    pub(super) fn list_for(&mut self, part: &Inode, into: Ino) -> Result<()> {
        let (Some(conflict), Some(mut dir)) = (self.open_conflict(part)?, self.row_of(into)?)
        else {
            return Ok(());
        };
        if conflict.other.is_some() || self.open_conflict(&dir)?.is_some() {
            return self.resolve_conflict(conflict.op);
        }
        dir.conflict = Some(conflict.op);
        self.save(dir)?;
        let key = RowKey::Conflict(conflict.op);
        let ino = into;
        self.tx
            .put(key, Value::Conflict(Conflict { ino, ..conflict }))
    }
}
