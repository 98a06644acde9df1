//! What the kernel must forget when the volume changed behind it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Fs, Invalidation};
use crate::base::Ino;
use crate::volume::{Change, FileKind};

/// Longest path that the kernel is asked for.
const PATH_MAX_BYTES: usize = 3072;

impl Fs {
    /// Returns what the kernel must drop from its caches after a merge, each thing once, and
    /// nothing that it cannot know.
    ///
    /// Unwritten changes of a file that got new content are written now: they build on the old
    /// one, and would show over the new one until their commit lets the fold keep both.
    pub fn apply_changes(
        &self,
        changes: impl IntoIterator<Item = Change> + Clone,
    ) -> Vec<Invalidation> {
        let mut content = BTreeSet::new();
        let mut attr = BTreeSet::new();
        let mut entries: BTreeMap<(Ino, Bytes), Option<Ino>> = BTreeMap::new();
        for change in changes.clone() {
            match change {
                Change::Attr(ino) => {
                    attr.insert(ino);
                }
                Change::Content(ino) => {
                    let twins = self.twins(ino);
                    let files = twins.into_iter().chain([ino]);
                    content.extend(files.flat_map(|file| self.volume.numbers_of(file)));
                }
                Change::Entry { gone, .. } => {
                    if let Some(child) = gone {
                        self.follow_merged(child);
                    }
                }
            }
        }
        for change in changes {
            if let Change::Entry { parent, name, gone } = change {
                // Times, links and size of the directory went along.
                attr.insert(parent);
                let parent = self.number_of(parent);
                if self.inodes.is_known(parent) {
                    // Of a directory that became a part of another each name comes twice.
                    let before = entries.entry((parent, name)).or_default();
                    *before = before.or(gone);
                }
            }
        }
        let attr: BTreeSet<Ino> = attr
            .into_iter()
            .flat_map(|ino| match self.kept_number(ino) {
                Some(number) => vec![number],
                None => self.volume.numbers_of(ino),
            })
            .collect();
        let names = entries.into_iter();
        let names = names.map(|((parent, name), gone)| self.name_invalidation(parent, &name, gone));
        let names: Vec<Invalidation> = names.collect();
        let mut invalid = names;
        for ino in &content {
            if let Some(node) = self.inodes.known(*ino) {
                self.write_out_in_background(&node);
                let mut content = node.content();
                if let Some(shown) = content.cached.take() {
                    content.stale.get_or_insert(shown);
                }
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

    /// Says that the kernel has dropped the pages of a file that it had before, and all names that it
    /// was told of before that.
    pub fn pages_dropped(&self, ino: Ino) {
        if let Some(node) = self.inodes.known(ino) {
            node.content().stale = None;
        }
        self.restore_number(ino);
    }

    /// Returns the files that show the content of a file, too, as far as the kernel may know.
    fn twins(&self, ino: Ino) -> Vec<Ino> {
        match self.volume.inode(ino) {
            Ok(Some(inode)) => inode.kin.beside.clone(),
            Ok(None) | Err(_) => Vec::new(),
        }
    }

    /// Keeps the number of a directory that the kernel knows where it became a part of one that the
    /// kernel does not.
    fn follow_merged(&self, child: Ino) {
        if self.inodes.is_known(child)
            && let Ok(Some(inode)) = self.volume.inode(child)
            && inode.is_dir()
            && inode.ino != child
            && !self.inodes.is_known(inode.ino)
        {
            self.keep_number(child, inode.ino);
        }
    }

    /// The kernel takes what a deleted name stood for as dead: only so where no name is left. And it
    /// takes a directory from under who works in it where its name is dropped: only so where another
    /// one has that.
    fn name_invalidation(&self, parent: Ino, name: &[u8], gone: Option<Ino>) -> Invalidation {
        let name = name.to_vec();
        let there = self.volume.dirent(parent, &name).ok().flatten();
        let there = there.map(|there| (self.number_of(there.ino), there.kind));
        let gone = gone.map(|child| (child, self.number_of(child)));
        let known = gone.filter(|(_, number)| self.inodes.is_known(*number));
        let Some((file, child)) = known else {
            return match there {
                // It came from elsewhere.
                Some((ino, FileKind::Dir)) if self.inodes.is_known(ino) => {
                    self.moved(parent, name, ino)
                }
                _ => Invalidation::Entry { parent, name },
            };
        };
        if self.is_dead(file) {
            self.note_departed(parent, &name, child);
            return Invalidation::Delete {
                parent,
                child,
                name,
            };
        }
        if there == Some((child, FileKind::Dir)) {
            return Invalidation::Content(parent);
        }
        self.moved(parent, name, child)
    }

    /// Returns what the kernel is to do about a name that a node has, or had while it is elsewhere.
    fn moved(&self, parent: Ino, name: Vec<u8>, child: Ino) -> Invalidation {
        match self.way_to(child) {
            Some((to, path)) => Invalidation::Moved {
                parent,
                name,
                child,
                to,
                path,
            },
            None => Invalidation::Entry { parent, name },
        }
    }

    /// Returns the directory that a directory is in, by the number that the kernel knows, and the path
    /// to it; `None` for what is no directory, or has no path that can be asked for.
    fn way_to(&self, dir: Ino) -> Option<(Ino, Vec<u8>)> {
        let mut at = self.volume.inode(dir).ok()??;
        if !at.is_dir() {
            return None;
        }
        let to = self.number_of(at.home.as_ref()?.parent);
        let mut names: Vec<Bytes> = Vec::new();
        let mut length = 0;
        while at.ino != Ino::ROOT {
            let home = at.home?;
            length += home.name.len() + 1;
            if length > PATH_MAX_BYTES {
                return None;
            }
            names.push(home.name);
            at = self.volume.inode(home.parent).ok()??;
        }
        names.reverse();
        Some((to, names.join(&b'/')))
    }

    fn note_departed(&self, parent: Ino, name: &[u8], child: Ino) {
        if let Ok(Some(inode)) = self.volume.inode(child)
            && inode.is_dir()
        {
            self.keep_departed(parent, name, child);
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
