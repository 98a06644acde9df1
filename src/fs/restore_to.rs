//! Making a tree what it was: as ordinary new changes, each of which a program could make.
//!
//! What is there already stays the node that it is, also where it was moved within the tree. The rest is made
//! anew, of the same chunks. What was not there then goes last. Broken off, it is gone on with by doing it again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Fs, FsError, Result};
use crate::base::Ino;
use crate::volume::{Change, Dirent, Extent, FileKind, Inode, OpKind, PastVolume, Place, Source};

/// What was done to make a tree what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Brought {
    /// Names that are there again.
    pub back: u64,
    /// Nodes that were there, and have other contents or attributes now.
    pub changed: u64,
    /// Names that were not there then, and are no more.
    pub removed: u64,
    /// Bytes of the files that were made or written.
    pub bytes: u64,
}

impl Fs {
    /// Checks that something was at a path, and may be made again.
    ///
    /// # Errors
    ///
    /// [`FsError::NotFound`] where nothing was there; [`FsError::ReadOnly`] where changes are refused.
    pub fn check_was(&self, past: &PastVolume, names: &[Vec<u8>]) -> Result<()> {
        self.check_writable(Ino::ROOT)?;
        let mut was = Ino::ROOT;
        for name in names {
            was = past.dirent(was, name)?.ok_or(FsError::NotFound)?.ino;
        }
        Ok(())
    }

    /// Makes what is at a path what it was; `told` hears how far it is.
    ///
    /// # Errors
    ///
    /// Those of [`Fs::check_was`], and of the volume.
    pub fn restore_to(
        &self,
        past: &PastVolume,
        names: &[Vec<u8>],
        told: &mut dyn FnMut(&Brought),
    ) -> Result<Brought> {
        self.check_was(past, names)?;
        self.sync_all()?;
        let mut work = Work {
            fs: self,
            past,
            told,
            top: None,
            done: Brought::default(),
            made: BTreeMap::new(),
            open: Vec::new(),
            folders: Vec::new(),
            extra: Vec::new(),
        };
        let (mut dir, mut old) = (Ino::ROOT, Ino::ROOT);
        for (at, name) in names.iter().enumerate() {
            let entry = past.dirent(old, name)?.ok_or(FsError::NotFound)?;
            let there = work.there(dir, name)?;
            let is_folder = entry.kind == FileKind::Dir;
            (dir, old) = match there {
                Some(there) if there.is_dir() && is_folder => (there.ino, entry.ino),
                _ => {
                    work.entry(dir, &entry)?;
                    // What was made on the way is a folder without anything beside it.
                    if at + 1 < names.len() {
                        work.open.clear();
                    }
                    match work.there(dir, name)? {
                        Some(made) if made.is_dir() && is_folder => (made.ino, entry.ino),
                        _ => return work.end(),
                    }
                }
            };
        }
        work.top = Some(dir);
        work.open.push((dir, old));
        work.folders.push((dir, old));
        work.all()?;
        work.end()
    }
}

struct Work<'a> {
    fs: &'a Fs,
    past: &'a PastVolume,
    told: &'a mut dyn FnMut(&Brought),
    /// The directory within which nodes may be moved.
    top: Option<Ino>,
    done: Brought,
    /// What has the place of a node that had several names.
    made: BTreeMap<Ino, Ino>,
    /// Directories to be looked through, with the one that each is to be like.
    open: Vec<(Ino, Ino)>,
    /// The same, once looked through: what is made in them changes their times.
    folders: Vec<(Ino, Ino)>,
    /// Names that were not there then.
    extra: Vec<(Ino, Bytes)>,
}

impl Work<'_> {
    fn there(&self, dir: Ino, name: &[u8]) -> Result<Option<Inode>> {
        match self.fs.volume.dirent(dir, name)? {
            Some(entry) => Ok(self.fs.volume.inode(entry.ino)?),
            None => Ok(None),
        }
    }

    fn all(&mut self) -> Result<()> {
        let mut seen = BTreeSet::new();
        while let Some((dir, old)) = self.open.pop() {
            if !seen.insert(dir) {
                continue;
            }
            let entries = self.past.entries(old)?;
            let names: BTreeSet<&Bytes> = entries.iter().map(|entry| &entry.name).collect();
            let extra = &mut self.extra;
            self.fs.volume.readdir(dir, None, &mut |_, entry| {
                if !names.contains(&entry.name) {
                    extra.push((dir, entry.name.clone()));
                }
                true
            })?;
            for entry in &entries {
                self.entry(dir, entry)?;
            }
        }
        Ok(())
    }

    /// Gives a name what it had.
    fn entry(&mut self, dir: Ino, entry: &Dirent) -> Result<()> {
        let Some(node) = self.past.inode(entry.ino)? else {
            return Ok(());
        };
        let has_names = node.nlink > 1 && !node.is_dir();
        let twin = self.made.get(&node.ino).copied();
        let there = self.there(dir, &entry.name)?;
        let place = Place {
            parent: dir,
            name: entry.name.clone(),
        };
        let now = match there {
            Some(there) if self.may_stay(&there, &node, twin)? => {
                if twin.is_none() {
                    self.bring(&there, &node)?;
                }
                there.ino
            }
            there => {
                if there.is_some() {
                    self.remove(dir, &entry.name)?;
                }
                let twin = match twin {
                    None if has_names => self.other_name(&node)?,
                    twin => twin,
                };
                let now = match (twin, self.elsewhere(dir, &node)?) {
                    (Some(ino), _) => {
                        let (to, time) = (place, self.fs.now());
                        self.apply(OpKind::Link { ino, to, time })?;
                        ino
                    }
                    (None, Some(moved)) => {
                        self.rename(&moved, place)?;
                        self.bring(&moved, &node)?;
                        moved.ino
                    }
                    (None, None) => self.make(place, &node)?,
                };
                self.done.back += 1;
                self.changed(dir, &entry.name, None);
                if has_names {
                    self.changed_node(now);
                }
                now
            }
        };
        if has_names {
            self.made.insert(node.ino, now);
        }
        if node.is_dir() {
            self.open.push((now, node.ino));
            self.folders.push((now, node.ino));
        }
        (self.told)(&self.done);
        Ok(())
    }

    /// Tells whether what has a name can become what had it: it has no other name that was something else, and
    /// was not at another place itself, where it may be wanted.
    fn may_stay(&self, there: &Inode, node: &Inode, twin: Option<Ino>) -> Result<bool> {
        let is_alike = match there.is_dir() || node.is_dir() {
            true => there.kind == node.kind,
            false => {
                let of = |node: &Inode| (node.kind, node.rdev, node.target.clone());
                of(there) == of(node)
            }
        };
        if !is_alike || twin.is_some_and(|twin| twin != there.ino) {
            return Ok(false);
        }
        if there.ino == node.ino {
            return Ok(true);
        }
        let is_alone = there.is_dir() || there.nlink == 1;
        Ok(is_alone && self.past.inode(there.ino)?.is_none())
    }

    fn make(&mut self, place: Place, node: &Inode) -> Result<Ino> {
        let xattrs = self.past.xattrs(node.ino)?;
        let content = match node.kind {
            FileKind::File => Some(self.past.content(node.clone())?),
            _ => None,
        };
        let made = self.fs.make_anew(place, node, &xattrs, content.as_ref())?;
        self.done.bytes += content.map_or(0, |content| content.inode.size);
        Ok(made)
    }

    /// Finds a node with several names at another one that it had, in the tree, and makes it what it was.
    fn other_name(&mut self, node: &Inode) -> Result<Option<Ino>> {
        let Some(now) = self.fs.volume.inode(node.ino)? else {
            return Ok(None);
        };
        let is_one = now.ino == node.ino && now.kind == node.kind && !now.is_orphan();
        let (Some(home), Some(top)) = (now.home.as_ref().filter(|_| is_one), self.top) else {
            return Ok(None);
        };
        let then = self.past.dirent(home.parent, &home.name)?;
        let is_in_place = then.is_some_and(|then| then.ino == node.ino);
        if !is_in_place || !self.fs.volume.is_below(home.parent, top)? {
            return Ok(None);
        }
        self.bring(&now, node)?;
        Ok(Some(now.ino))
    }

    /// Returns a node that was moved away from a place where it was alone, to another one in the tree.
    fn elsewhere(&self, dir: Ino, node: &Inode) -> Result<Option<Inode>> {
        let volume = &self.fs.volume;
        let Some(now) = volume.inode(node.ino)? else {
            return Ok(None);
        };
        let is_one = now.ino == node.ino && now.kind == node.kind && !now.is_orphan();
        let has_one_name = now.is_dir() || now.nlink == 1 && node.nlink == 1;
        let Some(home) = now.home.as_ref().filter(|_| is_one && has_one_name) else {
            return Ok(None);
        };
        let Some(top) = self.top else { return Ok(None) };
        let is_in_the_way = now.is_dir() && volume.is_below(dir, now.ino)?;
        let is_here = !is_in_the_way && volume.is_below(home.parent, top)?;
        Ok(is_here.then_some(now))
    }

    fn rename(&mut self, node: &Inode, to: Place) -> Result<()> {
        let Some(from) = node.home.clone() else {
            return Ok(());
        };
        self.apply(OpKind::Rename {
            from: from.clone(),
            to,
            ino: node.ino,
            replaced: None,
            exchange: false,
            time: self.fs.now(),
        })?;
        self.changed(from.parent, &from.name, Some(node.ino));
        Ok(())
    }

    /// Gives a node the content and the attributes that it, or the one of its place, had. A folder gets its
    /// attributes when all is done in it.
    fn bring(&mut self, there: &Inode, node: &Inode) -> Result<()> {
        let mut changes = false;
        if node.kind == FileKind::File && !self.has_content(there, node)? {
            let content = self.past.content(node.clone())?;
            let number = self.fs.number_of(there.ino);
            self.fs.put_content_of(number, &content, node.mtime)?;
            self.done.bytes += node.size;
            changes = true;
        }
        if !node.is_dir() {
            changes |= self.set_attributes(there.ino, node)?;
        }
        self.done.changed += u64::from(changes);
        Ok(())
    }

    fn has_content(&self, there: &Inode, node: &Inode) -> Result<bool> {
        if there.size != node.size {
            return Ok(false);
        }
        if there.ino == node.ino && there.written_by == node.written_by {
            return Ok(true);
        }
        let now = self.fs.volume.extents(there.ino, 0..there.size)?;
        let then = self.past.content(node.clone())?.extents;
        Ok(joined(now) == joined(then))
    }

    /// Gives a node the attributes that one had; tells whether that changes any but its mtime, or that of a file.
    fn set_attributes(&mut self, ino: Ino, node: &Inode) -> Result<bool> {
        let fs = self.fs;
        let now = fs.volume.inode(ino)?.ok_or(FsError::NotFound)?;
        let mut changes = false;
        if now.xattrs > 0 || node.xattrs > 0 {
            let then: BTreeMap<Bytes, Bytes> = self.past.xattrs(node.ino)?.into_iter().collect();
            let time = fs.now();
            for name in fs.volume.xattr_names(ino)? {
                if !then.contains_key(&name) {
                    self.apply(OpKind::RemoveXattr { ino, name, time })?;
                    changes = true;
                }
            }
            for (name, value) in then {
                if fs.volume.xattr(ino, &name)?.as_ref() != Some(&value) {
                    self.apply(OpKind::SetXattr {
                        ino,
                        name,
                        value,
                        time,
                    })?;
                    changes = true;
                }
            }
        }
        let now = fs.volume.inode(ino)?.ok_or(FsError::NotFound)?;
        let differs = |is_other: bool, then: u32| is_other.then_some(then);
        let mode = differs(now.mode != node.mode, node.mode);
        let uid = differs(now.uid != node.uid, node.uid);
        let gid = differs(now.gid != node.gid, node.gid);
        let mtime = (now.mtime != node.mtime).then_some(node.mtime);
        changes |= mode.or(uid).or(gid).is_some() || mtime.is_some() && !node.is_dir();
        if changes || mtime.is_some() {
            self.apply(OpKind::SetAttr {
                ino,
                mode,
                uid,
                gid,
                mtime,
                ctime: fs.now(),
            })?;
            self.changed_node(ino);
        }
        Ok(changes)
    }

    /// Removes a name, and all below it.
    fn remove(&mut self, dir: Ino, name: &Bytes) -> Result<()> {
        let mut open = vec![(dir, name.clone(), false)];
        while let Some((dir, name, is_emptied)) = open.pop() {
            let Some(node) = self.there(dir, &name)? else {
                continue;
            };
            if node.is_dir() && node.entries > 0 {
                // Somebody else makes something in it: so it stays.
                if is_emptied {
                    continue;
                }
                open.push((dir, name, true));
                self.fs.volume.readdir(node.ino, None, &mut |_, entry| {
                    open.push((node.ino, entry.name.clone(), false));
                    true
                })?;
                continue;
            }
            self.fs.keep_if_last_name(&node);
            let (ino, saw, time) = (node.ino, node.goes_with_a_name(), self.fs.now());
            let from = Place {
                parent: dir,
                name: name.clone(),
            };
            self.apply(match node.is_dir() {
                true => OpKind::Rmdir { from, ino, time },
                false => OpKind::Unlink {
                    from,
                    ino,
                    saw,
                    time,
                },
            })?;
            self.done.removed += 1;
            self.changed(dir, &name, Some(ino));
            (self.told)(&self.done);
        }
        Ok(())
    }

    fn apply(&self, op: OpKind) -> Result<()> {
        self.fs.volume.write()?.apply(op)?;
        Ok(())
    }

    /// Lets the kernel look a name up anew, of which `gone` lost it.
    fn changed(&self, parent: Ino, name: &Bytes, gone: Option<Ino>) {
        let name = name.clone();
        let entry = Change::Entry { parent, name, gone };
        let node = gone.map(Change::Attr);
        let changes: Vec<Change> = std::iter::once(entry).chain(node).collect();
        let invalid = self.fs.apply_changes(changes);
        self.fs.invalid.lock().extend(invalid);
    }

    fn changed_node(&self, ino: Ino) {
        let invalid = self.fs.apply_changes([Change::Attr(ino)]);
        self.fs.invalid.lock().extend(invalid);
    }

    /// Removes what was not there, and gives folders the attributes that they had.
    fn end(mut self) -> Result<Brought> {
        for (dir, name) in std::mem::take(&mut self.extra) {
            self.remove(dir, &name)?;
        }
        for (dir, old) in std::mem::take(&mut self.folders) {
            if let Some(node) = self.past.inode(old)? {
                let changes = self.set_attributes(dir, &node)?;
                self.done.changed += u64::from(changes);
            }
        }
        self.fs.volume.sync()?;
        Ok(self.done)
    }
}

/// Returns extents so that those of one content are the same, however it was written.
fn joined(extents: Vec<Extent>) -> Vec<(u64, u64, Source)> {
    let mut found: Vec<(u64, u64, Source)> = Vec::new();
    for Extent {
        offset, len, src, ..
    } in extents
    {
        match (found.last_mut(), &src) {
            (
                Some((at, before, Source::Chunk { id, skip })),
                Source::Chunk {
                    id: next,
                    skip: behind,
                },
            ) if *at + *before == offset
                && id == next
                && u64::from(*skip) + *before == u64::from(*behind) =>
            {
                *before += len;
            }
            _ => found.push((offset, len, src)),
        }
    }
    found
}
