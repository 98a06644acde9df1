//! Names: lookup, forget, readlink, link, unlink, rmdir.

use std::time::Duration;

use bytes::Bytes;

use super::create_ops::{check_name, live_dir};
use super::{Entry, FileKind, Fs, FsError, Result};
use crate::base::Ino;
use crate::base::limits::{LINK_MAX, NAME_MAX_BYTES};
use crate::volume::{Inode, OpKind, Place, is_aside, is_fleeting, is_past};

impl Fs {
    /// Finds a name in a directory; counts one `nlookup`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Entry> {
        if name.len() > NAME_MAX_BYTES {
            return Err(FsError::NameTooLong);
        }
        let ino = match name {
            b"." => self.file(parent),
            b".." => self.parent_of(&self.inode(parent)?),
            name => return self.lookup_name(parent, name),
        };
        self.looked_up(ino)?.ok_or(FsError::NotFound)
    }

    fn lookup_name(&self, parent: Ino, name: &[u8]) -> Result<Entry> {
        let named = || {
            let dirent = self.volume.dirent(parent, name)?;
            Ok::<_, FsError>(dirent.ok_or(FsError::NotFound)?.ino)
        };
        if let Some(entry) = self.lookup_departed(parent, name)? {
            return Ok(entry);
        }
        let mut ino = named()?;
        loop {
            if let Some(entry) = self.looked_up(ino)? {
                return Ok(trusted_in(parent, entry));
            }
            // Since a merge a moment ago the name may stand for something else.
            match named()? {
                now if now == ino => return Err(FsError::NotFound),
                now => ino = now,
            }
        }
    }

    /// Looks up a directory that was removed and goes on to be shown.
    pub(super) fn lookup_departed(&self, parent: Ino, name: &[u8]) -> Result<Option<Entry>> {
        match self.departed(parent, name) {
            Some(ino) => self.looked_up(ino),
            None => Ok(None),
        }
    }

    /// Takes back `nlookup` lookups of an inode.
    pub fn forget(&self, ino: Ino, nlookup: u64) {
        self.retire(self.inodes.forget(ino, nlookup));
    }

    /// Returns the directory that holds `dir`; the root holds itself.
    pub(super) fn parent_of(&self, dir: &Inode) -> Ino {
        dir.home.as_ref().map_or(Ino::ROOT, |home| home.parent)
    }

    /// Returns the target of a symlink.
    pub fn readlink(&self, ino: Ino) -> Result<Bytes> {
        let inode = self.inode(ino)?;
        if inode.kind != FileKind::Symlink {
            return Err(FsError::Invalid {
                what: "not a symlink",
            });
        }
        self.note_access(&inode);
        Ok(inode.target.unwrap_or_default())
    }

    /// Makes another name of an inode.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Entry> {
        self.check_writable(ino)?;
        self.check_writable(parent)?;
        check_name(name)?;
        let mut writer = self.volume.write()?;
        let inode = writer.inode(self.file(ino))?.ok_or(FsError::NotFound)?;
        if inode.is_dir() {
            return Err(FsError::NotPermitted);
        }
        live_dir(&writer, parent)?;
        if writer.dirent(parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        if inode.is_orphan() {
            return Err(FsError::NotFound);
        }
        if inode.nlink >= LINK_MAX {
            return Err(FsError::TooManyLinks);
        }
        writer.apply(OpKind::Link {
            ino: inode.ino,
            to: place(parent, name),
            time: self.now(),
        })?;
        drop(writer);
        let number = self.number_of(inode.ino);
        self.inodes.remember(number);
        let attr = self.attr(number)?;
        Ok(self.entry(attr))
    }

    /// Removes a name of anything but a directory. An open file stays readable and writable.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        check_name(name)?;
        if is_past(parent) {
            return Err(FsError::ReadOnly);
        }
        if is_aside(parent) {
            return self.remove_aside(parent, name, false);
        }
        self.check_writable(parent)?;
        let mut writer = self.volume.write()?;
        let dirent = writer.dirent(parent, name)?.ok_or(FsError::NotFound)?;
        if dirent.kind == FileKind::Dir {
            return Err(FsError::IsDirectory);
        }
        let inode = writer.inode(dirent.ino)?.ok_or(FsError::NotFound)?;
        self.keep_if_last_name(&inode);
        writer.apply(OpKind::Unlink {
            from: place(parent, name),
            ino: inode.ino,
            saw: inode.goes_with_a_name(),
            time: self.now(),
        })?;
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        if name == b".." {
            return Err(FsError::NotEmpty);
        }
        check_name(name)?;
        if is_past(parent) {
            return Err(FsError::ReadOnly);
        }
        if is_aside(parent) {
            return self.remove_aside(parent, name, true);
        }
        self.check_writable(parent)?;
        let mut writer = self.volume.write()?;
        let dirent = writer.dirent(parent, name)?.ok_or(FsError::NotFound)?;
        if dirent.kind != FileKind::Dir {
            return Err(FsError::NotDirectory);
        }
        let inode = writer.inode(dirent.ino)?.ok_or(FsError::NotFound)?;
        check_empty(&inode)?;
        self.keep_if_last_name(&inode);
        writer.apply(OpKind::Rmdir {
            from: place(parent, name),
            ino: inode.ino,
            time: self.now(),
        })?;
        Ok(())
    }

    /// Removes what was set aside: this machine's own, which it may whatever its role is.
    fn remove_aside(&self, parent: Ino, name: &[u8], is_dir: bool) -> Result<()> {
        let dirent = self.volume.dirent(parent, name)?;
        let dirent = dirent.ok_or(FsError::NotFound)?;
        match (dirent.kind == FileKind::Dir, is_dir) {
            (true, false) => return Err(FsError::IsDirectory),
            (false, true) => return Err(FsError::NotDirectory),
            _ => {}
        }
        let inode = self.volume.inode(dirent.ino)?.ok_or(FsError::NotFound)?;
        check_empty(&inode)?;
        if !self.volume.remove_aside(parent, name)? {
            return Err(FsError::ReadOnly);
        }
        Ok(())
    }

    /// Lets the volume keep an inode that is about to lose its last name while the kernel knows
    /// it: it may be open, or somebody's working directory.
    pub(super) fn keep_if_last_name(&self, inode: &Inode) {
        let last = inode.is_dir() || inode.nlink <= 1;
        if !last {
            return;
        }
        for number in self.volume.numbers_of(inode.ino) {
            if self.inodes.outlives_its_name(number) {
                self.volume.hold(number);
            }
        }
    }
}

/// Returns an entry as it is shown in a directory: not for the kernel to remember where that changes by
/// itself.
pub(super) fn trusted_in(parent: Ino, entry: Entry) -> Entry {
    match is_fleeting(parent) {
        true => Entry {
            entry_ttl: Duration::ZERO,
            attr_ttl: Duration::ZERO,
            ..entry
        },
        false => entry,
    }
}

/// Checks that a directory can be removed or replaced.
pub(super) fn check_empty(dir: &Inode) -> Result<()> {
    match dir.entries {
        0 => Ok(()),
        _ => Err(FsError::NotEmpty),
    }
}

/// Returns the place of a name.
pub(super) fn place(parent: Ino, name: &[u8]) -> Place {
    Place {
        parent,
        name: Bytes::copy_from_slice(name),
    }
}
