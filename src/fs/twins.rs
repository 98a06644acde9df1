//! Files that are one: what the kernel has to forget of one when the other changes.

use super::{Fs, Invalidation, Result};
use crate::base::Ino;
use crate::volume::{Inode, Place};

/// What a write to a file may concern beside that.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Numbers that show the same content.
    same: Vec<Ino>,
    /// Files with a name of their own that a write may make one with it.
    apart: Vec<(Ino, Place)>,
}

impl Fs {
    /// Returns what a write to an inode that the kernel knows as `ino` may concern.
    pub(super) fn others(&self, inode: &Inode, ino: Ino) -> Result<Others> {
        let mut others = Others::default();
        let file = self.file(ino);
        others.same.extend(self.volume.numbers_of(file));
        if inode.ino != file {
            others.same.extend(self.volume.numbers_of(inode.ino));
        }
        if inode.conflict.is_some()
            && let Some(home) = &inode.home
        {
            others.apart.push((inode.ino, home.clone()));
        }
        for beside in inode.kin.beside.iter().filter(|beside| **beside != file) {
            match self.volume.inode(*beside)? {
                Some(other) if other.ino == inode.ino => {
                    others.same.extend(self.volume.numbers_of(*beside));
                }
                Some(Inode {
                    ino,
                    home: Some(home),
                    ..
                }) => others.apart.push((ino, home)),
                _ => {}
            }
        }
        others.same.retain(|number| *number != ino);
        Ok(others)
    }

    /// Lets the kernel forget what a write changed of these.
    pub(super) fn tell_others(&self, others: Others) -> Result<()> {
        let mut invalid = Vec::new();
        let known = |ino: &Ino| self.inodes.is_known(*ino);
        for ino in others.same.into_iter().filter(known) {
            invalid.push(Invalidation::Content(ino));
        }
        for (ino, home) in others.apart {
            let is_one = matches!(self.volume.inode(ino)?, Some(inode) if inode.ino != ino);
            if is_one {
                let (parent, name) = (home.parent, home.name.to_vec());
                invalid.push(Invalidation::Entry { parent, name });
                invalid.push(Invalidation::Attr(parent));
                invalid.push(Invalidation::Attr(self.number_of(ino)));
            }
        }
        if !invalid.is_empty() {
            self.invalid.lock().extend(invalid);
        }
        Ok(())
    }
}
