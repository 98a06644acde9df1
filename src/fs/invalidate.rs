//! What the kernel must forget when the volume changed behind it.

use std::collections::BTreeSet;

use super::{Fs, Invalidation};
use crate::base::Ino;
use crate::volume::Change;

impl Fs {
    /// Returns what the kernel must drop from its caches after a merge, each thing once, and
    /// nothing that it cannot know.
    ///
    /// Unwritten changes of a file that got new content are written now: they build on the old
    /// one, and would show over the new one until their commit lets the fold keep both.
    pub fn apply_changes(&self, changes: &[Change]) -> Vec<Invalidation> {
        let mut content = BTreeSet::new();
        let mut attr = BTreeSet::new();
        let mut names = Vec::new();
        let mut seen = BTreeSet::new();
        for change in changes {
            match change {
                Change::Attr(ino) => {
                    attr.insert(*ino);
                }
                Change::Content(ino) => {
                    content.insert(*ino);
                    content.extend(self.twins(*ino));
                }
                Change::Entry { parent, name, gone } => {
                    // Times, links and size of the directory went along.
                    attr.insert(*parent);
                    if self.inodes.is_known(*parent) && seen.insert((*parent, name.clone())) {
                        names.push(self.name_invalidation(*parent, name, *gone));
                    }
                }
            }
        }
        let mut invalid = names;
        for ino in &content {
            if let Some(node) = self.inodes.known(*ino) {
                self.write_out_in_background(&node);
                node.content().cached = None;
            }
            if self.inodes.is_known(*ino) {
                invalid.push(Invalidation::Content(*ino));
            }
        }
        for ino in attr {
            if !content.contains(&ino) && self.inodes.is_known(ino) {
                invalid.push(Invalidation::Attr(ino));
            }
        }
        invalid
    }

    /// Returns the files that show the content of a file, too, as far as the kernel may know.
    fn twins(&self, ino: Ino) -> Vec<Ino> {
        match self.volume.inode(ino) {
            Ok(Some(inode)) => inode.kin.beside.clone(),
            Ok(None) | Err(_) => Vec::new(),
        }
    }

    /// The kernel takes what a deleted name stood for as dead: only so where no name is left.
    fn name_invalidation(&self, parent: Ino, name: &[u8], gone: Option<Ino>) -> Invalidation {
        let name = name.to_vec();
        match gone {
            Some(child) if self.inodes.is_known(child) && self.is_dead(child) => {
                Invalidation::Delete {
                    parent,
                    child,
                    name,
                }
            }
            _ => Invalidation::Entry { parent, name },
        }
    }

    fn is_dead(&self, ino: Ino) -> bool {
        match self.volume.inode(ino) {
            Ok(Some(inode)) => inode.is_orphan(),
            Ok(None) => true,
            Err(_) => false,
        }
    }
}
