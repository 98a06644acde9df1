//! Moving, replacing and swapping.

use super::{Fold, Result};
use crate::base::{Ino, OpId, Timespec};
use crate::volume::op::Replaced;
use crate::volume::rows::{Removed, RowKey, Value};
use crate::volume::types::{Conflict, ConflictKind, Dirent, Inode, Place};
use crate::volume::view::dirent_range;

/// The fields of [`crate::volume::OpKind::Rename`].
pub(super) struct Rename<'a> {
    pub(super) from: &'a Place,
    pub(super) to: &'a Place,
    pub(super) ino: Ino,
    pub(super) replaced: Option<Replaced>,
    pub(super) exchange: bool,
    pub(super) time: Timespec,
}

/// Where a file that a move replaces stands aside.
struct Aside {
    place: Place,
    /// The file, and its content.
    replaced: Replaced,
    conflict: OpId,
}

impl Fold<'_> {
    pub(super) fn rename(&mut self, rename: &Rename<'_>) -> Result<()> {
        let Some(node) = self.inode(rename.ino)?.filter(|n| n.ino != Ino::ROOT) else {
            return Ok(());
        };
        let to = Place {
            parent: self.live_dir(rename.to.parent, rename.time)?,
            name: rename.to.name.clone(),
        };
        if let Some(replaced) = rename.replaced.filter(|_| rename.exchange) {
            return self.exchange(&node, rename, replaced, &to);
        }
        if node.is_dir() && self.is_within(to.parent, node.ino)? {
            return self.conflict(ConflictKind::CycleDropped, node.ino, Some(to));
        }
        let aside = match rename.replaced {
            Some(replaced) => self.replaced_aside(&node, replaced, &to)?,
            None => None,
        };
        let (to, meant, conflict) = match aside {
            Some(aside) => (aside.place, Some(aside.replaced), Some(aside.conflict)),
            None => (to, rename.replaced, None),
        };
        let there = self.entry(to.parent, &to.name)?;
        let there = there.filter(|there| there.ino != node.ino);
        let replaced = match (&there, meant) {
            (Some(there), Some(replaced)) => {
                let other = self.inode(replaced.ino)?.map(|other| other.ino);
                (other == Some(there.ino)).then(|| (there.clone(), replaced))
            }
            _ => None,
        };
        if self.is_moved_later(&node)? {
            // What it was to replace is gone by it all the same, where it is as it was seen.
            if let Some((there, replaced)) = replaced {
                self.take_away(&node, &there, replaced, &to, rename.time)?;
            }
            return self.conflict(ConflictKind::MovedTwice, node.ino, Some(to));
        }
        self.stand_alone(node.ino)?;
        let from = self.source(&node, rename.from, &to)?;
        if from.as_ref() == Some(&to) {
            return Ok(());
        }
        let has_name = there.is_none() && self.entry(to.parent, &to.name)?.is_some();
        if has_name {
            // Two names of one file: POSIX leaves both.
            return Ok(());
        }
        if let Some(replaced) = meant {
            self.unlink_twin(&to, replaced.ino, replaced.saw)?;
        }
        let before = replaced.as_ref().map(|(there, _)| there.ino);
        let equal = match replaced {
            Some((there, replaced)) => self.make_room(&node, &there, replaced, &to, rename.time)?,
            None => None,
        };
        // Before it can become one with another, from which other things were removed.
        let is_kept = node.is_dir() && from.is_some();
        if is_kept {
            self.keep_contents(node.ino, rename.time)?;
        }
        if let Some(from) = from {
            self.detach(node.ino, &from, rename.time)?;
            self.settle(node.ino, &from)?;
            self.succeed(node.ino, &from, rename.time)?;
        }
        if self.is_full_beside_full(&node, &to)? {
            self.place_beside(&node, &to, rename.time)?;
        } else {
            self.place(node.ino, &to, rename.time)?;
        }
        if let Some(equal) = equal {
            self.place(equal, &to, rename.time)?;
        }
        if let Some(conflict) = conflict {
            self.stand_in_conflict(conflict, node.ino, &to, rename.time)?;
        } else if let Some(before) = before.filter(|_| !node.is_dir()) {
            self.stay_beside(before, node.ino, rename.time)?;
        }
        if node.is_dir() && !is_kept {
            let moved = self.inode(node.ino)?.map_or(node.ino, |dir| dir.ino);
            self.keep_contents(moved, rename.time)?;
        }
        Ok(())
    }

    /// Returns where the file, or the content of it, that a move replaces stands aside of the name that
    /// it was replaced at: a file that is saved by moves over itself stays one lineage, which has one
    /// conflict file.
    fn replaced_aside(
        &mut self,
        node: &Inode,
        replaced: Replaced,
        to: &Place,
    ) -> Result<Option<Aside>> {
        let other = self.inode(replaced.ino)?;
        let Some(mut other) = other.filter(|other| !other.is_dir() && !node.is_dir()) else {
            return Ok(None);
        };
        let (holder, saw) = self.locate(other.ino, replaced.saw)?;
        if holder != other.ino {
            match self.row_of(holder)?.filter(|fork| fork.version == saw) {
                Some(fork) => other = fork,
                None => return Ok(None),
            }
        }
        let there = self.entry(to.parent, &to.name)?;
        if other.ino == node.ino || there.is_some_and(|there| there.ino == other.ino) {
            return Ok(None);
        }
        let (ino, aside) = (other.ino, self.aside(&other, to)?);
        let at = aside.zip(other.conflict);
        Ok(at.map(|((_, place), conflict)| Aside {
            place,
            replaced: Replaced { ino, saw },
            conflict,
        }))
    }

    /// Lets a file stand in a conflict for the one that it replaced there.
    fn stand_in_conflict(
        &mut self,
        conflict: OpId,
        ino: Ino,
        at: &Place,
        time: Timespec,
    ) -> Result<()> {
        let key = RowKey::Conflict(conflict);
        let row = match self.tx.get(key)? {
            Some(Value::Conflict(row)) => row.clone(),
            _ => return Ok(()),
        };
        let there = self.entry(at.parent, &at.name)?;
        let node = self.row_of(ino)?.filter(|node| node.nlink == 1);
        let Some(mut node) = node.filter(|_| there.is_some_and(|there| there.ino == ino)) else {
            return self.resolve_conflict(conflict);
        };
        let kept = row.ino;
        if let Some(before) = node.conflict.replace(conflict).filter(|op| *op != conflict) {
            self.resolve_conflict(before)?;
        }
        self.save(node)?;
        let other = Some(ino);
        let resolved = false;
        let row = Conflict {
            other,
            resolved,
            ..row
        };
        self.tx.put(key, Value::Conflict(row))?;
        self.stand_beside(kept, ino)?;
        self.settle_equal(ino, time)
    }

    /// Takes away what a move was to replace that is dropped itself, where it is as it was seen.
    fn take_away(
        &mut self,
        node: &Inode,
        there: &Dirent,
        replaced: Replaced,
        to: &Place,
        time: Timespec,
    ) -> Result<()> {
        let Some(other) = self.row_of(there.ino)? else {
            return Ok(());
        };
        let is_as_seen = if other.is_dir() {
            self.tx.depend_on_counts(other.ino)?;
            node.is_dir() && other.entries == 0
        } else {
            let seen = self.locate(other.ino, replaced.saw)?;
            other.nlink > 1 || seen == (other.ino, other.version) && !self.leave_unseen(&other)?
        };
        if is_as_seen && self.saw(there.by) {
            let had = self.detach(other.ino, to, time)?;
            self.settle(other.ino, to)?;
            self.bury(other.ino, had)?;
            self.succeed(other.ino, to, time)?;
        }
        Ok(())
    }

    /// Swaps two nodes, each of them where no later op has moved it.
    fn exchange(
        &mut self,
        node: &Inode,
        rename: &Rename<'_>,
        replaced: Replaced,
        to: &Place,
    ) -> Result<()> {
        let time = rename.time;
        let from = Place {
            parent: self.live_dir(rename.from.parent, time)?,
            name: rename.from.name.clone(),
        };
        let other = self.inode(replaced.ino)?;
        let one = self.standing(Some(node.clone()))?;
        let two = self.standing(other)?;
        if let (Some(one), Some(two)) = (&one, &two)
            && one.ino == two.ino
        {
            // Both are one by now, which is in one place.
            return Ok(());
        }
        for (moved, to) in [(&one, to), (&two, &from)] {
            if let Some(moved) = moved
                && moved.is_dir()
                && self.is_within(to.parent, moved.ino)?
            {
                return self.conflict(ConflictKind::CycleDropped, moved.ino, Some(to.clone()));
            }
        }
        let mut moves = Vec::new();
        for (moved, from, to) in [(one, &from, to), (two, to, &from)] {
            let Some(moved) = moved else {
                continue;
            };
            if self.is_moved_later(&moved)? {
                self.conflict(ConflictKind::MovedTwice, moved.ino, Some(to.clone()))?;
            } else if let Some(at) = self.leaves(&moved, from, to)? {
                moves.push((moved, at, to));
            }
        }
        for (moved, at, _) in &moves {
            if moved.is_dir() && at.is_some() {
                self.keep_contents(moved.ino, time)?;
            }
        }
        // Both leave before one comes.
        for (moved, at, _) in &moves {
            if let Some(at) = at {
                self.detach(moved.ino, at, time)?;
                self.settle(moved.ino, at)?;
            }
        }
        for (moved, _, to) in &moves {
            self.place(moved.ino, to, time)?;
        }
        for (moved, at, _) in &moves {
            if moved.is_dir() && at.is_none() {
                let moved = self.inode(moved.ino)?.map_or(moved.ino, |dir| dir.ino);
                self.keep_contents(moved, time)?;
            }
        }
        Ok(())
    }

    /// Returns the place that a node leaves which is exchanged, none for one that was removed unseen and
    /// is back by this; `None` where it stays as it is.
    fn leaves(&mut self, node: &Inode, from: &Place, to: &Place) -> Result<Option<Option<Place>>> {
        if node.is_orphan() {
            let row = self.tx.get(RowKey::Orphan(node.ino))?;
            let is_seen = match row {
                Some(Value::Orphan(Removed { by, .. })) => {
                    let by = *by;
                    self.saw(by)
                }
                _ => false,
            };
            return Ok((!is_seen).then_some(None));
        }
        let at = self.source(node, from, to)?;
        Ok((at.as_ref() != Some(to)).then_some(at))
    }

    /// Tells whether a node with one name got it by a later op, which this one had not seen: of two
    /// that move a node the later one counts, whichever a record named first.
    fn is_moved_later(&mut self, node: &Inode) -> Result<bool> {
        let Some(home) = node.home.as_ref().filter(|_| !node.is_orphan()) else {
            return Ok(false);
        };
        if !node.is_dir() && node.nlink != 1 {
            return Ok(false);
        }
        let there = self.entry(home.parent, &home.name)?;
        Ok(there.is_some_and(|there| there.ino == node.ino && there.by > self.id))
    }

    /// Returns the place that a moved node leaves, `None` where it has none (any more).
    fn source(&mut self, node: &Inode, from: &Place, to: &Place) -> Result<Option<Place>> {
        let parent = self.inode(from.parent)?.map_or(from.parent, |dir| dir.ino);
        let from = Place {
            parent,
            name: from.name.clone(),
        };
        let there = self.entry(from.parent, &from.name)?;
        if there.is_some_and(|there| there.ino == node.ino) {
            return Ok(Some(from));
        }
        if node.is_orphan() {
            return Ok(None);
        }
        if node.is_dir() || node.nlink == 1 {
            // Someone else moved it before: the later place wins.
            if node.home.as_ref() != Some(to) && self.aside(node, &from)?.is_none() {
                let there = match &node.home {
                    Some(home) => self.entry(home.parent, &home.name)?,
                    None => None,
                };
                let lost = there.map_or(self.id, |there| there.by);
                let (kind, place) = (ConflictKind::MovedTwice, node.home.clone());
                self.conflict_against(kind, node.ino, place, lost)?;
            }
            return Ok(node.home.clone());
        }
        Ok(None)
    }

    /// Tells whether a directory with entries meets another one that was moved to its place with
    /// entries: what two people called the same by moving it there is not the same.
    fn is_full_beside_full(&mut self, node: &Inode, to: &Place) -> Result<bool> {
        let there = self.entry(to.parent, &to.name)?;
        let Some(there) = there.filter(|there| node.is_dir() && there.ino != node.ino) else {
            return Ok(false);
        };
        let Some(other) = self.row_of(there.ino)?.filter(Inode::is_dir) else {
            return Ok(false);
        };
        if there.by == other.created_by {
            return Ok(false);
        }
        Ok(self.had_entries(node.ino, self.id)? && self.had_entries(other.ino, there.by)?)
    }

    /// Tells whether a directory has entries from before the op that moved it.
    fn had_entries(&mut self, dir: Ino, moved: OpId) -> Result<bool> {
        self.tx.depend_on_counts(dir)?;
        let (low, high) = dirent_range(dir);
        let entries = self.tx.scan(low, high)?;
        let is_before = |value: &Value| matches!(value, Value::Dirent(entry) if entry.by < moved);
        Ok(entries.iter().any(|(_, value)| is_before(value)))
    }

    /// Takes away what the rename was meant to replace, unless that has changed since. Returns a file
    /// that is kept and says the same as what takes its place: it is to be one with that.
    fn make_room(
        &mut self,
        node: &Inode,
        there: &Dirent,
        replaced: Replaced,
        to: &Place,
        time: Timespec,
    ) -> Result<Option<Ino>> {
        let Some(other) = self.row_of(there.ino)? else {
            return Ok(None);
        };
        if other.is_dir() {
            self.tx.depend_on_counts(other.ino)?;
            if node.is_dir() && other.entries == 0 {
                let had = self.detach(other.ino, to, time)?;
                self.settle(other.ino, to)?;
                self.bury(other.ino, had)?;
            }
            // Else both become one, or the file steps aside.
            return Ok(None);
        }
        let seen = self.locate(other.ino, replaced.saw)?;
        let had = self.detach(other.ino, to, time)?;
        let is_seen =
            other.nlink > 1 || seen == (other.ino, other.version) && !self.leave_unseen(&other)?;
        if is_seen {
            self.settle(other.ino, to)?;
            self.bury(other.ino, had)?;
            self.succeed_aside(other.ino, node.ino, to, time)?;
            return Ok(None);
        }
        if self.is_same(node, &other)? {
            self.bury(other.ino, had)?;
            return Ok(Some(other.ino));
        }
        let device = self.tx.device_of(other.written_by.log);
        let aside = self.attach_aside(&other, to, other.written_by, time)?;
        self.conflict_with(Conflict {
            op: self.id,
            kind: ConflictKind::ReplacedKept,
            ino: node.ino,
            place: Some(to.clone()),
            other: Some(other.ino),
            other_name: Some(aside.name),
            device,
            resolved: false,
        })?;
        Ok(None)
    }
}
