//! Files that others removed while a program here has them open, and writes them: they are back.
//!
//! Nothing is written onto what others removed, as they may have given it up by then: the file is made
//! anew, with all that it had, and the number that the kernel has stands for the new one.

use super::fold::{conflict_names, label};
use super::op::{Create, OpKind, Write};
use super::rows::{Removed, RowKey, Value};
use super::types::{Extent, FileKind, Inode, Piece, Place, Source};
use super::{Result, Volume, Writer};
use crate::base::{Ino, Timespec};

/// Most pieces of one of the ops that write a file anew, and most of their bytes that lie in rows.
const PIECES_MAX: usize = 256;
const INLINE_BYTES_MAX: usize = 128 << 10;

/// Ops that are applied together: few files are longer.
const TOGETHER_MAX: usize = 16;

impl Volume {
    /// Tells whether a file has no name because others removed it.
    pub fn is_removed_elsewhere(&self, file: Ino) -> Result<bool> {
        let Some(inode) = self.view.inode(file)?.filter(Inode::is_orphan) else {
            return Ok(false);
        };
        let row = self.view.row(&RowKey::Orphan(inode.ino))?;
        Ok(match row.as_deref().map(|row| &row.value) {
            Some(Value::Orphan(Removed { by, .. })) => self.device_of(by.log) != self.device,
            _ => false,
        })
    }
}

impl Writer<'_> {
    /// Makes the file anew that a number stands for, where others removed it, and lets the number stand
    /// for the new one; returns that.
    ///
    /// # Errors
    ///
    /// Those of [`Writer::apply`]: what was made by then is there.
    pub fn bring_back(&mut self, number: Ino, time: Timespec) -> Result<Option<Inode>> {
        let volume = self.volume();
        let file = volume.file_of(number);
        if !volume.is_removed_elsewhere(file)? {
            return Ok(None);
        }
        let Some(old) = self.inode(file)?.filter(|old| old.kind == FileKind::File) else {
            return Ok(None);
        };
        let mut xattrs = Vec::new();
        for name in self.xattr_names(file)? {
            if let Some(value) = self.xattr(file, &name)? {
                xattrs.push((name, value));
            }
        }
        let create = OpKind::Create(Create {
            at: self.place_for(&old)?,
            kind: FileKind::File,
            mode: old.mode,
            uid: old.uid,
            gid: old.gid,
            rdev: 0,
            target: None,
            time,
            xattrs: Vec::new(),
        });
        let mut parts = parts(self.extents(file, 0..u64::MAX)?, old.size).into_iter();
        let mut together = self.together();
        let made = together.add(create)?;
        for (name, value) in xattrs {
            let ino = made.ino;
            together.add(OpKind::SetXattr {
                ino,
                name,
                value,
                time,
            })?;
        }
        let mut base = made.id;
        loop {
            for (pieces, size) in parts.by_ref().take(TOGETHER_MAX) {
                let write = OpKind::Write(Write {
                    ino: made.ino,
                    base,
                    size,
                    pieces,
                    mtime: old.mtime,
                    ctime: time,
                    mode: None,
                    empties: false,
                });
                base = together.add(write)?.id;
            }
            together.commit()?;
            if parts.len() == 0 {
                break;
            }
            together = self.together();
        }
        self.volume().move_number(number, made.ino);
        self.inode(made.ino)
    }

    /// Returns a free place for a file that is to be back: its last one, or beside that.
    fn place_for(&self, old: &Inode) -> Result<Place> {
        let numbered = || format!("{:016x}", old.ino.0).into();
        let (mut parent, name) = match &old.home {
            Some(home) => (home.parent, home.name.clone()),
            None => (Ino::ROOT, numbered()),
        };
        let is_live = |dir: &Inode| dir.is_dir() && !dir.is_orphan();
        match self.inode(parent)?.filter(is_live) {
            Some(dir) => parent = dir.ino,
            None => parent = Ino::ROOT,
        }
        let volume = self.volume();
        let label = label(&volume.config.name);
        let beside = conflict_names(&name, false, &label, self.next_id());
        for name in std::iter::once(name.clone()).chain(beside) {
            if self.dirent(parent, &name)?.is_none() {
                return Ok(Place { parent, name });
            }
        }
        Ok(Place {
            parent: Ino::ROOT,
            name: numbered(),
        })
    }
}

/// Returns the pieces of a file of a size, as many as an op takes at a time, and the size that each op
/// leaves.
fn parts(extents: Vec<Extent>, size: u64) -> Vec<(Vec<Piece>, u64)> {
    let mut parts: Vec<(Vec<Piece>, u64)> = Vec::new();
    let mut inline = 0;
    for Extent { offset, len, src } in extents {
        let own = match &src {
            Source::Inline(bytes) => bytes.len(),
            Source::Chunk { .. } => 0,
        };
        inline += own;
        let src = Some(src);
        let piece = Piece { offset, len, src };
        match parts.last_mut() {
            Some((pieces, end)) if pieces.len() < PIECES_MAX && inline <= INLINE_BYTES_MAX => {
                *end = piece.offset + piece.len;
                pieces.push(piece);
            }
            _ => {
                inline = own;
                parts.push((vec![piece], offset + len));
            }
        }
    }
    match parts.last_mut() {
        Some((_, end)) => *end = size,
        None if size > 0 => parts.push((Vec::new(), size)),
        None => {}
    }
    parts
}
