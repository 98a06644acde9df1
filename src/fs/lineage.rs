//! Files that were written here while open, and what others make of them meanwhile.
//!
//! The volume lets a number of the kernel go along with its content, away from the name
//! ([`Volume::keep_lineage`]). When nobody has it open any more, both files get the numbers that all
//! members show for them: names are looked up anew first, so that no program that asks for one file
//! opens the other.
//!
//! [`Volume::keep_lineage`]: crate::volume::Volume::keep_lineage

use std::sync::Arc;

use super::dirty::Dirty;
use super::inode_table::{Content, Node};
use super::{Fs, Invalidation, Result};
use crate::base::Ino;
use crate::volume::{Inode, Place};

impl Fs {
    /// Writes what is unwritten of a file that got another content meanwhile: who reads it is to find
    /// what was written here on top of what that was built on, and no mixture.
    pub(super) fn part_from_others(&self, node: &Arc<Node>, content: &mut Content) {
        let Some(dirty) = &content.dirty else {
            return;
        };
        let is_other = |version| version != dirty.base;
        if dirty.content_changed && self.inode(node.ino).is_ok_and(|at| is_other(at.version)) {
            self.commit_in_background(node, content);
        }
    }

    /// Brings a file back that others removed and that is written here; returns it.
    pub(super) fn bring_back(
        &self,
        node: &Node,
        content: &mut Content,
        dirty: &mut Dirty,
    ) -> Result<Option<Inode>> {
        let ino = node.ino;
        if !dirty.content_changed || !self.inode(ino)?.is_orphan() {
            return Ok(None);
        }
        let Some(back) = self.volume.write()?.bring_back(ino, self.now())? else {
            return Ok(None);
        };
        let before = std::mem::replace(&mut dirty.base, back.version);
        dirty.base_size = back.size;
        for shown in [&mut content.cached, &mut content.stale] {
            if *shown == Some(before) {
                *shown = Some(back.version);
            }
        }
        let mut invalid = self.invalid.lock();
        if let Some(Place { parent, name }) = &back.home {
            let (parent, name) = (self.number_of(*parent), name.to_vec());
            invalid.push(Invalidation::Entry { parent, name });
            invalid.push(Invalidation::Attr(parent));
        }
        invalid.push(Invalidation::Attr(ino));
        Ok(Some(Inode { ino, ..back }))
    }

    /// Begins to give back numbers that nobody has open any more.
    pub(super) fn retire_numbers(&self) {
        let is_open = |number| self.inodes.opens(number) > 0;
        for (number, places) in self.volume.retire_numbers(is_open) {
            self.look_up_anew(number, places);
        }
    }

    /// Gives a number back where the kernel has dropped what it knew of it.
    pub(super) fn restore_number(&self, number: Ino) {
        let is_open = |number| self.inodes.opens(number) > 0;
        if let Some(places) = self.volume.restore_number(number, is_open) {
            self.look_up_anew(number, places);
        }
    }

    /// Lets the kernel drop names, and after them the pages of a number.
    fn look_up_anew(&self, number: Ino, places: Vec<Place>) {
        let mut invalid = self.invalid.lock();
        for Place { parent, name } in places {
            let (parent, name) = (self.number_of(parent), name.to_vec());
            invalid.push(Invalidation::Entry { parent, name });
        }
        invalid.push(Invalidation::Content(number));
    }
}
