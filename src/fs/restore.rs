//! Having back what was replaced or removed: as ordinary new changes.
//!
//! A content is written over the present one, which so becomes a version itself. A removed node is made
//! anew, under a new number: other machines may not have heard yet that the old one is gone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::inode_table::Content;
use super::{Fs, FsError, Invalidation, Result};
use crate::base::limits::CHUNK_BYTES;
use crate::base::{Ino, OpId, Timespec};
use crate::volume::{
    Create, Extent, FileKind, Inode, OpKind, PastContent, Piece, Place, Removals, Removed, Source,
    Together, VolumeError, Write,
};

/// What a restore brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Files and what else is no folder.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Names that are there by now, and stay as they are.
    pub taken: u64,
}

/// Where a path leads, as far as it is there or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The directory in which the last name is, or was.
    pub parent: Ino,
    /// The last name; `None` for the root.
    pub name: Option<Bytes>,
    /// What is there now.
    pub now: Option<Inode>,
    /// What had the name before, newest first.
    pub before: Vec<Removed>,
    /// Directories on the way that were removed: the directory that each is in, and it.
    removed: Vec<Removed>,
    /// The last directory on the way that is there.
    live: Ino,
}

/// Most pieces, and inline bytes, of one op that restores.
const PIECES_MAX: usize = 512;
const INLINE_MAX_BYTES: usize = 1 << 20;

/// Extended attributes with which a node is made; of more the others are set then.
const CREATE_XATTRS: usize = 16;

impl Fs {
    /// Returns how long ago a moment was, milliseconds.
    pub fn age_ms(&self, ms: u64) -> u64 {
        self.clock.wall_ms().saturating_sub(ms)
    }

    /// Follows a path through what is there and what was removed.
    pub fn way(&self, removals: &Removals<'_>, names: &[Vec<u8>]) -> Result<Way> {
        let root = self.volume.inode(Ino::ROOT)?.ok_or(FsError::NotFound)?;
        let mut way = Way {
            parent: Ino::ROOT,
            name: None,
            now: Some(root),
            before: Vec::new(),
            removed: Vec::new(),
            live: Ino::ROOT,
        };
        for name in names {
            let parent = match (&way.now, way.before.first()) {
                (Some(now), _) if now.is_dir() => {
                    way.live = now.ino;
                    now.ino
                }
                (None, Some(before)) if before.kind == FileKind::Dir => {
                    way.removed.push(before.clone());
                    before.ino
                }
                _ => return Err(FsError::NotFound),
            };
            way.now = match way.removed.is_empty() {
                true => match self.volume.dirent(parent, name)? {
                    Some(dirent) => self.volume.inode(dirent.ino)?,
                    None => None,
                },
                false => None,
            };
            way.before = removals.of(parent)?;
            way.before.retain(|removed| removed.name == name[..]);
            way.parent = parent;
            way.name = Some(Bytes::copy_from_slice(name));
        }
        match way.now.is_none() && way.before.is_empty() {
            true => Err(FsError::NotFound),
            false => Ok(way),
        }
    }

    /// Gives a file the content that the op `by` made of the file `of`, which may be the same one.
    ///
    /// # Errors
    ///
    /// [`FsError::NotFound`] where that is kept no longer; [`FsError::ReadOnly`] where changes are refused.
    pub fn restore_content(&self, file: Ino, of: Ino, by: OpId) -> Result<Restored> {
        let number = self.number_of(file);
        self.check_writable(number)?;
        let past = self.volume.content_by(of, by)?.ok_or(FsError::NotFound)?;
        self.put_content_of(number, &past, self.now())?;
        self.volume.sync()?;
        Ok(Restored {
            files: 1,
            bytes: past.inode.size,
            ..Restored::default()
        })
    }

    /// Makes anew what was removed at the end of a way, with the directories on the way, and all that was in
    /// it. Of `by` and what it was, where that is given: another content of the file.
    ///
    /// # Errors
    ///
    /// Those of [`Fs::restore_content`]; [`FsError::Exists`] where something has the name.
    pub fn restore_removed(
        &self,
        removals: &Removals<'_>,
        way: &Way,
        (of, by): (&Removed, Option<OpId>),
        told: &mut dyn FnMut(&Restored),
    ) -> Result<Restored> {
        if way.now.is_some() {
            return Err(FsError::Exists);
        }
        let mut work = Work::new(self, removals, told);
        let mut parent = way.live;
        for dir in &way.removed {
            parent = work.node(parent, dir, None)?.ok_or(FsError::NotFound)?;
        }
        let made = work.node(parent, of, by)?.ok_or(FsError::NotFound)?;
        if of.kind == FileKind::Dir {
            work.below(made, of.ino)?;
        }
        work.end()
    }

    /// Makes anew what was removed from a directory, and from those below it, where nothing has the name.
    ///
    /// # Errors
    ///
    /// Those of [`Fs::restore_content`].
    pub fn restore_below(
        &self,
        removals: &Removals<'_>,
        dir: Ino,
        told: &mut dyn FnMut(&Restored),
    ) -> Result<Restored> {
        let mut work = Work::new(self, removals, told);
        for parent in self.restorable_below(removals, dir)? {
            work.below(parent, parent)?;
        }
        work.end()
    }

    /// Returns the directories below one, and that itself, from which something was removed.
    pub fn restorable_below(&self, removals: &Removals<'_>, dir: Ino) -> Result<Vec<Ino>> {
        let mut found = Vec::new();
        for parent in removals.parents()? {
            let is_live = matches!(self.volume.inode(parent)?,
                Some(inode) if inode.is_dir() && !inode.is_orphan() && inode.ino == parent);
            if is_live && self.volume.is_below(parent, dir)? {
                found.push(parent);
            }
        }
        Ok(found)
    }

    /// Writes a content over what a number stands for, on top of what is unwritten of that.
    pub(super) fn put_content_of(
        &self,
        number: Ino,
        past: &PastContent,
        mtime: Timespec,
    ) -> Result<()> {
        let node = self.inodes.node(number);
        self.write_out(&node)?;
        let mut content = node.content();
        let before = self.inode(number)?;
        let others = self.others(&before, number)?;
        self.put_content(before.ino, past, mtime)?;
        let Content { cached, .. } = &mut *content;
        *cached = None;
        drop(content);
        self.tell_others(others)?;
        self.invalid.lock().push(Invalidation::Content(number));
        Ok(())
    }

    /// Writes a content over that of a file: in one op, or in several that are each the work of some
    /// milliseconds. No content in between is one that was had back.
    fn put_content(&self, file: Ino, past: &PastContent, mtime: Timespec) -> Result<()> {
        let size = past.inode.size;
        let (whole, end) = pieces(&past.extents, 0, size);
        if end == size {
            match self.put_pieces(file, whole, size, mtime) {
                Err(FsError::Volume(VolumeError::TooMuch)) => {}
                put => return put,
            }
        }
        let mut at = 0;
        while at < size {
            let end = self.volume.light_end(file, at..size)?;
            let (pieces, end) = pieces(&past.extents, at, end.max(at + 1));
            let now = self.volume.inode(file)?.ok_or(FsError::NotFound)?;
            self.put_pieces(file, pieces, now.size.max(end), mtime)?;
            at = end;
        }
        while let Some(now) = self.volume.inode(file)?.filter(|now| now.size > size) {
            let start = self.volume.light_start(now.ino, size..now.size)?;
            self.put_pieces(file, Vec::new(), start.min(now.size - 1), mtime)?;
        }
        Ok(())
    }

    /// Makes a node as one was, with the content that a file had; returns it.
    pub(super) fn make_anew(
        &self,
        at: Place,
        node: &Inode,
        xattrs: &[(Bytes, Bytes)],
        past: Option<&PastContent>,
    ) -> Result<Ino> {
        let mtime = past.map_or(node.mtime, |past| past.inode.mtime);
        let time = self.now();
        let (first, rest) = xattrs.split_at(xattrs.len().min(CREATE_XATTRS));
        let mut writer = self.volume.write()?;
        let mut together = writer.together();
        let made = together.add(OpKind::Create(Create {
            at,
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            rdev: node.rdev,
            target: node.target.clone(),
            time,
            xattrs: first.to_vec(),
        }))?;
        for (name, value) in rest {
            let (ino, name, value) = (made.ino, name.clone(), value.clone());
            together.add(OpKind::SetXattr {
                ino,
                name,
                value,
                time,
            })?;
        }
        let long = match past {
            Some(past) => !add_content(&mut together, (made.ino, made.id), past, mtime)?,
            None => false,
        };
        if !node.is_dir() {
            together.add(OpKind::SetAttr {
                ino: made.ino,
                mode: None,
                uid: None,
                gid: None,
                mtime: Some(mtime),
                ctime: time,
            })?;
        }
        together.commit()?;
        drop(writer);
        if let Some(past) = past.filter(|_| long) {
            self.put_content(made.ino, past, mtime)?;
        }
        Ok(made.ino)
    }

    fn put_pieces(&self, file: Ino, pieces: Vec<Piece>, size: u64, mtime: Timespec) -> Result<()> {
        let mut writer = self.volume.write()?;
        let now = writer.inode(file)?.ok_or(FsError::NotFound)?;
        writer.apply_lightly(OpKind::Write(Write {
            ino: now.ino,
            base: now.version,
            size,
            pieces,
            mtime,
            ctime: self.now(),
            mode: None,
            empties: false,
        }))?;
        Ok(())
    }
}

/// Returns the pieces that put extents, and holes between them, into a range: of a long one those of its
/// first part, and the end of that.
fn pieces(extents: &[Extent], start: u64, end: u64) -> (Vec<Piece>, u64) {
    let (mut pieces, mut at, mut inline) = (Vec::new(), start, 0);
    let first = extents.partition_point(|extent| extent.end() <= start);
    for extent in extents.get(first..).unwrap_or_default() {
        if extent.offset >= end {
            break;
        }
        if pieces.len() + 2 > PIECES_MAX || inline > INLINE_MAX_BYTES {
            return (pieces, at);
        }
        if extent.offset > at {
            pieces.push(hole(at, extent.offset));
            at = extent.offset;
        }
        let (skip, until) = (at - extent.offset, extent.end().min(end));
        let len = until - at;
        let src = match &extent.src {
            Source::Inline(bytes) => {
                let part = bytes.slice(skip as usize..(skip + len) as usize);
                inline += part.len();
                Source::Inline(part)
            }
            Source::Chunk { id, skip: before } => Source::Chunk {
                id: *id,
                skip: before.saturating_add(skip as u32),
            },
        };
        pieces.push(Piece {
            offset: at,
            len,
            src: Some(src),
        });
        at = until;
    }
    if at < end {
        pieces.push(hole(at, end));
    }
    (pieces, end)
}

fn hole(start: u64, end: u64) -> Piece {
    Piece {
        offset: start,
        len: end - start,
        src: None,
    }
}

/// One restore of what was removed.
struct Work<'a> {
    fs: &'a Fs,
    removals: &'a Removals<'a>,
    told: &'a mut dyn FnMut(&Restored),
    done: Restored,
    /// What was made for which removed node: one with several names gets them all.
    made: BTreeMap<Ino, Ino>,
    /// The folders that were made, with the times that they had: what is made in them changes these.
    folders: Vec<(Ino, Timespec)>,
}

impl<'a> Work<'a> {
    fn new(fs: &'a Fs, removals: &'a Removals<'a>, told: &'a mut dyn FnMut(&Restored)) -> Self {
        Self {
            fs,
            removals,
            told,
            done: Restored::default(),
            made: BTreeMap::new(),
            folders: Vec::new(),
        }
    }

    /// Makes what was removed from the directory `old`, in `dir`, which may be the same, and what was in that.
    fn below(&mut self, dir: Ino, old: Ino) -> Result<()> {
        let mut open = vec![(dir, old)];
        let mut seen = BTreeSet::new();
        while let Some((dir, old)) = open.pop() {
            if !seen.insert((dir, old)) {
                continue;
            }
            let mut names: BTreeSet<Bytes> = BTreeSet::new();
            for removed in self.removals.of(old)? {
                if !names.insert(removed.name.clone()) {
                    continue;
                }
                match self.fs.volume.dirent(dir, &removed.name)? {
                    Some(there) if there.kind == FileKind::Dir && there.kind == removed.kind => {
                        if there.ino != removed.ino {
                            open.push((there.ino, removed.ino));
                        }
                    }
                    Some(_) => self.done.taken += 1,
                    None => {
                        let made = self.node(dir, &removed, None)?;
                        if let Some(made) = made.filter(|_| removed.kind == FileKind::Dir) {
                            open.push((made, removed.ino));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes a removed node anew; `None` where it is kept no longer.
    fn node(&mut self, parent: Ino, removed: &Removed, by: Option<OpId>) -> Result<Option<Ino>> {
        let fs = self.fs;
        fs.check_writable(parent)?;
        let Some(node) = fs.volume.node_or_gone(removed.ino)? else {
            return Ok(None);
        };
        let place = Place {
            parent,
            name: removed.name.clone(),
        };
        let is_there = node.nlink > 0
            && fs
                .volume
                .inode(removed.ino)?
                .is_some_and(|n| !n.is_orphan());
        let other_name = match self.made.get(&removed.ino) {
            Some(made) => Some(*made),
            None => is_there.then_some(node.ino),
        };
        let made = match other_name {
            Some(_) if node.is_dir() => return Ok(None),
            Some(ino) => {
                let time = fs.now();
                let to = place;
                fs.volume.write()?.apply(OpKind::Link { ino, to, time })?;
                let number = fs.number_of(ino);
                fs.invalid.lock().push(Invalidation::Attr(number));
                ino
            }
            None => {
                let made = self.make(place, removed, &node, by)?;
                self.made.insert(removed.ino, made);
                made
            }
        };
        match node.is_dir() {
            true => {
                self.done.folders += 1;
                self.folders.push((made, node.mtime));
            }
            false => self.done.files += 1,
        }
        self.show(parent, &removed.name);
        Ok(Some(made))
    }

    /// Lets the kernel look a new name up.
    fn show(&mut self, parent: Ino, name: &Bytes) {
        let parent = self.fs.number_of(parent);
        if self.fs.inodes.is_known(parent) {
            let name = name.to_vec();
            let mut invalid = self.fs.invalid.lock();
            invalid.push(Invalidation::Entry { parent, name });
            invalid.push(Invalidation::Attr(parent));
        }
        (self.told)(&self.done);
    }

    fn make(
        &mut self,
        place: Place,
        removed: &Removed,
        node: &Inode,
        by: Option<OpId>,
    ) -> Result<Ino> {
        let fs = self.fs;
        let by = by.unwrap_or(node.written_by);
        let past = match node.kind {
            FileKind::File => {
                let past = fs.volume.content_by(removed.ino, by)?;
                Some(past.ok_or(FsError::NotFound)?)
            }
            _ => None,
        };
        let xattrs = match node.xattrs {
            0 => Vec::new(),
            _ => fs.volume.xattrs_or_gone(node.ino)?,
        };
        let made = fs.make_anew(place, node, &xattrs, past.as_ref())?;
        self.done.bytes += past.map_or(0, |past| past.inode.size);
        Ok(made)
    }

    fn end(self) -> Result<Restored> {
        for (ino, mtime) in self.folders {
            self.fs.volume.write()?.apply(OpKind::SetAttr {
                ino,
                mode: None,
                uid: None,
                gid: None,
                mtime: Some(mtime),
                ctime: self.fs.now(),
            })?;
        }
        self.fs.volume.sync()?;
        Ok(self.done)
    }
}

/// Adds the content of a new file to the ops that make it; says whether all of it.
fn add_content(
    together: &mut Together<'_, '_>,
    (ino, base): (Ino, OpId),
    past: &PastContent,
    mtime: Timespec,
) -> Result<bool> {
    let size = past.inode.size;
    if size == 0 {
        return Ok(true);
    }
    if size > CHUNK_BYTES * PIECES_MAX as u64 / 4 {
        return Ok(false);
    }
    let (pieces, end) = pieces(&past.extents, 0, size);
    if end < size {
        return Ok(false);
    }
    let write = OpKind::Write(Write {
        ino,
        base,
        size,
        pieces,
        mtime,
        ctime: mtime,
        mode: None,
        empties: false,
    });
    match together.add(write) {
        Ok(_) => Ok(true),
        Err(VolumeError::TooMuch) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
