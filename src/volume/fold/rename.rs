//! Moving, replacing and swapping.

use super::{Fold, Result};
use crate::base::{Ino, Timespec};
use crate::volume::op::Replaced;
use crate::volume::types::{Conflict, ConflictKind, Dirent, Inode, Place};

/// The fields of [`crate::volume::OpKind::Rename`].
pub(super) struct Rename<'a> {
    pub(super) from: &'a Place,
    pub(super) to: &'a Place,
    pub(super) ino: Ino,
    pub(super) replaced: Option<Replaced>,
    pub(super) exchange: bool,
    pub(super) time: Timespec,
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
        if node.is_dir() && self.is_within(to.parent, node.ino)? {
            return self.conflict(ConflictKind::CycleDropped, node.ino, Some(to));
        }
        let from = self.source(&node, rename.from, &to)?;
        if from.as_ref() == Some(&to) {
            return Ok(());
        }
        if let Some(there) = self.entry(to.parent, &to.name)? {
            if there.ino == node.ino {
                // Two names of one file: POSIX leaves both.
                return Ok(());
            }
            if let Some(replaced) = rename.replaced
                && self.inode(replaced.ino)?.map(|other| other.ino) == Some(there.ino)
            {
                match &from {
                    Some(from) if rename.exchange => {
                        return self.exchange(&node, from, there.ino, &to, rename.time);
                    }
                    _ if rename.exchange => {}
                    _ => self.make_room(&node, &there, replaced, &to, rename.time)?,
                }
            }
        }
        if let Some(from) = from {
            self.detach(node.ino, &from, rename.time)?;
            self.settle(node.ino)?;
        }
        self.place(node.ino, &to, rename.time)?;
        if node.is_dir() {
            let moved = self.inode(node.ino)?.map_or(node.ino, |dir| dir.ino);
            self.keep_contents(moved, rename.time)?;
        }
        Ok(())
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
            if node.home.as_ref() != Some(to) {
                self.conflict(ConflictKind::MovedTwice, node.ino, node.home.clone())?;
            }
            return Ok(node.home.clone());
        }
        Ok(None)
    }

    /// Takes away what the rename was meant to replace, unless that has changed since.
    fn make_room(
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
        if other.is_dir() {
            self.tx.depend_on_counts(other.ino)?;
            if node.is_dir() && other.entries == 0 {
                self.detach(other.ino, to, time)?;
                self.bury(other.ino)?;
            }
            // Else both become one, or the file steps aside.
            return Ok(());
        }
        let seen = self.locate(other.ino, replaced.saw)?;
        self.detach(other.ino, to, time)?;
        if other.nlink > 1 || seen == (other.ino, other.version) {
            return self.bury(other.ino);
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
        })
    }

    fn exchange(
        &mut self,
        node: &Inode,
        from: &Place,
        other: Ino,
        to: &Place,
        time: Timespec,
    ) -> Result<()> {
        let Some(other) = self.row_of(other)? else {
            return Ok(());
        };
        if other.is_dir() && self.is_within(from.parent, other.ino)? {
            return self.conflict(ConflictKind::CycleDropped, other.ino, Some(from.clone()));
        }
        self.detach(node.ino, from, time)?;
        self.detach(other.ino, to, time)?;
        self.attach(node.ino, to, time)?;
        self.attach(other.ino, from, time)
    }
}
