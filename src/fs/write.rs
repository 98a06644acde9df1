//! Writing: bytes go to memory, full cells to the pool, and what is too much to the volume.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::attr_ops::{SETGID, SETUID};
use super::dirty::{Dirty, Sealing};
use super::inode_table::{Content, Node};
use super::{Caller, FileHandle, Fs, FsError, Result, WriteFlags};
use crate::base::limits::{CHUNK_BYTES, FILE_MAX_BYTES};
use crate::base::{Ino, Timespec};
use crate::volume::{Inode, OpKind};

impl Fs {
    /// Writes `data` and returns how many bytes were taken: all of them.
    ///
    /// With an `O_APPEND` handle the bytes go to the end of the file as it is now, whatever
    /// `offset` says. Waits only where too much is unwritten, for the local disk.
    pub fn write(
        &self,
        ino: Ino,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<usize> {
        self.check_writable()?;
        let handle = self.handles.of(ino, fh)?;
        if !handle.flags.write {
            return Err(FsError::BadHandle);
        }
        let append = flags.append.unwrap_or(handle.flags.append);
        let len = data.len() as u64;
        let end = if append && !flags.from_cache {
            u64::MAX
        } else {
            offset.saturating_add(len)
        };
        self.take_room(end, len)?;
        let node = self.inodes.node(ino);
        let mut content = node.content();
        self.write_locked(&node, &mut content, offset, data, append, flags)?;
        if handle.flags.sync || flags.sync {
            self.commit(&node, &mut content)?;
            drop(content);
            self.volume.sync()?;
            return Ok(data.len());
        }
        drop(content);
        self.relieve_others(ino);
        Ok(data.len())
    }

    fn write_locked(
        &self,
        node: &Arc<Node>,
        content: &mut Content,
        offset: u64,
        data: &[u8],
        append: bool,
        flags: WriteFlags,
    ) -> Result<()> {
        if let Some(failed) = content.failed.take() {
            return Err(*failed);
        }
        let now = self.now();
        if content.dirty.is_none() {
            let inode = self.inode(node.ino)?;
            self.dirty(node, content, &inode);
        }
        if let Some(caller) = flags.kill_privileges {
            self.kill_privileges(caller, node.ino, content, now)?;
        }
        let Some(dirty) = &mut content.dirty else {
            return Ok(());
        };
        let append = append && !flags.from_cache;
        let offset = if append { dirty.size } else { offset };
        let end = offset.saturating_add(data.len() as u64);
        if end > FILE_MAX_BYTES {
            return Err(FsError::FileTooLarge);
        }
        if data.is_empty() {
            return Ok(());
        }
        dirty.appends_only &= append;
        dirty.write(offset, data);
        dirty.touch(now);
        let mut cell = offset - offset % CHUNK_BYTES;
        while cell < end {
            let contents = &self.contents;
            dirty
                .fragments
                .seal_full_cell(cell, |plain| Sealing::start(contents, plain));
            cell += CHUNK_BYTES;
        }
        self.charge(content, data.len() as u64);
        self.relieve(node, content)
    }

    /// Returns the unwritten changes of a file, none yet where it was clean.
    pub(super) fn dirty<'a>(
        &self,
        node: &Arc<Node>,
        content: &'a mut Content,
        inode: &Inode,
    ) -> &'a mut Dirty {
        if content.dirty.is_none() {
            self.inodes.mark_dirty(node);
        }
        content
            .dirty
            .get_or_insert_with(|| Box::new(Dirty::new(inode, self.clock.monotonic())))
    }

    /// Clears setuid and setgid before an unprivileged write.
    pub(super) fn kill_privileges(
        &self,
        caller: Caller,
        ino: Ino,
        content: &mut Content,
        now: Timespec,
    ) -> Result<()> {
        if content
            .dirty
            .as_ref()
            .is_some_and(|dirty| dirty.privileges_clear)
        {
            return Ok(());
        }
        let inode = self.inode(ino)?;
        let mode = self.without_privileges(caller, &inode);
        if mode != inode.mode {
            self.volume.write()?.apply(OpKind::SetAttr {
                ino,
                mode: Some(mode),
                uid: None,
                gid: None,
                mtime: None,
                ctime: now,
            })?;
        }
        if inode.xattrs > 0 {
            self.remove_capability(ino, now)?;
        }
        if let Some(dirty) = &mut content.dirty {
            // A setgid bit that stays for this caller may have to go for the next.
            dirty.privileges_clear = mode & (SETUID | SETGID) == 0;
        }
        Ok(())
    }

    fn charge(&self, content: &mut Content, bytes: u64) {
        content.charged += bytes;
        self.dirty_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Charges a file with what it holds in memory now.
    pub(super) fn recharge(&self, content: &mut Content) {
        let exact = content
            .dirty
            .as_ref()
            .map_or(0, |dirty| dirty.fragments.memory_bytes());
        self.dirty_bytes
            .fetch_sub(content.charged, Ordering::Relaxed);
        self.dirty_bytes.fetch_add(exact, Ordering::Relaxed);
        content.charged = exact;
    }

    fn is_over_limit(&self) -> bool {
        self.dirty_bytes.load(Ordering::Relaxed) > self.config.dirty_bytes_max
    }

    /// Makes room where too much is unwritten: first by waiting for the cells of this file that
    /// are being sealed, then by writing the file.
    pub(super) fn relieve(&self, node: &Arc<Node>, content: &mut Content) -> Result<()> {
        let many = content
            .dirty
            .as_ref()
            .is_some_and(|dirty| dirty.fragments.len() > DIRTY_FRAGMENTS_MAX);
        if many {
            return self.commit(node, content);
        }
        if !self.is_over_limit() {
            return Ok(());
        }
        self.recharge(content);
        while self.is_over_limit() {
            let sealing = content
                .dirty
                .as_ref()
                .and_then(|dirty| dirty.fragments.first_sealing());
            let Some(sealing) = sealing else {
                return self.commit(node, content);
            };
            sealing.settle(&self.contents)?;
            self.recharge(content);
        }
        Ok(())
    }

    /// Writes other files while too much is unwritten. Skips those that are busy.
    pub(super) fn relieve_others(&self, ino: Ino) {
        if !self.is_over_limit() {
            return;
        }
        for node in self.inodes.dirty() {
            if node.ino == ino || !self.is_over_limit() {
                continue;
            }
            if let Some(mut content) = node.try_content() {
                self.commit_in_background(&node, &mut content);
            }
        }
    }
}

/// Most changed ranges of one file that wait. A commit of so many is a handful of ops.
const DIRTY_FRAGMENTS_MAX: usize = 1024;
