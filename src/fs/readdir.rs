//! Directories: opendir, readdir, readdirplus, fsyncdir.

use super::cookies::{Cookies, DOT, DOT_DOT};
use super::name_ops::trusted_in;
use super::{DirEntry, FileHandle, FileKind, Fs, FsError, OpenFlags, Opened, Reply, Result};
use crate::base::Ino;
use crate::volume::Inode;

impl Fs {
    /// Opens a directory.
    pub fn opendir(&self, ino: Ino) -> Result<Opened> {
        let inode = self.inode(ino)?;
        if !inode.is_dir() {
            return Err(FsError::NotDirectory);
        }
        let flags = OpenFlags {
            read: true,
            ..OpenFlags::default()
        };
        Ok(Opened {
            fh: self.open_handle(ino, flags),
            keep_cache: false,
        })
    }

    /// Lists a directory from after `cookie` (0: from the start) until the replier is full.
    ///
    /// What is there all the time is listed once, whatever others add and remove meanwhile.
    pub fn readdir(
        &self,
        ino: Ino,
        fh: FileHandle,
        cookie: u64,
        reply: &mut dyn FnMut(DirEntry<'_>) -> Reply,
    ) -> Result<()> {
        self.list(ino, fh, cookie, reply)
    }

    /// Lists a directory with the attributes of each entry; counts one `nlookup` for each taken.
    pub fn readdirplus(
        &self,
        ino: Ino,
        fh: FileHandle,
        cookie: u64,
        reply: &mut dyn FnMut(DirEntry<'_>) -> Reply,
    ) -> Result<()> {
        let mut failed = None;
        self.list(ino, fh, cookie, &mut |mut entry| {
            if entry.cookie <= DOT_DOT {
                return reply(entry);
            }
            let found = match self.lookup_departed(ino, entry.name) {
                Ok(None) => self.looked_up(self.file(entry.ino)),
                found => found,
            };
            match found {
                Ok(Some(plus)) => {
                    entry.entry = Some(trusted_in(ino, plus));
                    let answer = reply(entry);
                    if answer == Reply::Full {
                        self.forget(plus.attr.ino, 1);
                    }
                    answer
                }
                // Gone since it was listed.
                Ok(None) => Reply::Taken,
                Err(error) => {
                    failed = Some(error);
                    Reply::Full
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn list(
        &self,
        ino: Ino,
        fh: FileHandle,
        cookie: u64,
        reply: &mut dyn FnMut(DirEntry<'_>) -> Reply,
    ) -> Result<()> {
        self.handles.of(ino, fh)?;
        let dir = self.inode(ino)?;
        if cookie == 0 {
            self.note_access(&dir);
        }
        if dir.is_orphan() {
            // A removed directory has not even itself.
            return Ok(());
        }
        if !self.list_dots(&dir, cookie, reply) {
            return Ok(());
        }
        let mut cookies = Cookies::new();
        self.volume
            .readdir(ino, Cookies::start(cookie), &mut |key, dirent| {
                let own = cookies.next(key);
                if own <= cookie {
                    return true;
                }
                let entry = DirEntry {
                    ino: self.number_of(dirent.ino),
                    kind: dirent.kind,
                    name: &dirent.name,
                    cookie: own,
                    entry: None,
                };
                reply(entry) == Reply::Taken
            })?;
        Ok(())
    }

    /// Lists `.` and `..`; returns false when the reply is full.
    fn list_dots(
        &self,
        dir: &Inode,
        cookie: u64,
        reply: &mut dyn FnMut(DirEntry<'_>) -> Reply,
    ) -> bool {
        let dots: [(u64, &[u8], Ino); 2] =
            [(DOT, b".", dir.ino), (DOT_DOT, b"..", self.parent_of(dir))];
        for (own, name, ino) in dots {
            let entry = DirEntry {
                ino,
                kind: FileKind::Dir,
                name,
                cookie: own,
                entry: None,
            };
            if own > cookie && reply(entry) == Reply::Full {
                return false;
            }
        }
        true
    }

    /// Closes a directory.
    pub fn releasedir(&self, ino: Ino, fh: FileHandle) -> Result<()> {
        self.handles.close(ino, fh)?;
        self.retire(self.inodes.closed(ino).dropped);
        Ok(())
    }

    /// Returns when all changes of the directory are on this disk.
    pub fn fsyncdir(&self, ino: Ino, fh: FileHandle) -> Result<()> {
        self.handles.of(ino, fh)?;
        self.volume.sync().map_err(FsError::from)
    }
}
