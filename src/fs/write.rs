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
        self.check_writable(ino)?;
        let handle = self.handles.of(ino, fh)?;
        if !handle.flags.write {
            return Err(FsError::BadHandle);
        }
        let append = flags.append.unwrap_or(handle.flags.append) && !flags.from_cache;
        let len = data.len() as u64;
        let end = match append {
            true => u64::MAX,
            false => offset.saturating_add(len),
        };
        self.take_room(end, len)?;
        let is_durable = handle.flags.sync || flags.sync;
        let node = self.inodes.node(ino);
        let mut content = node.content();
        if let Some(failed) = content.failed.take() {
            return Err(*failed);
        }
        let mut cleared = Vec::new();
        let mut flags = flags;
        if is_durable {
            // What came before stays, whatever becomes of this write.
            self.commit(&node, &mut content)?;
            // Cleared with the content that takes them away, or not.
            if let (Some(caller), 1..) = (flags.kill_privileges.take(), len) {
                cleared = self.privilege_ops(caller, ino, &mut content, self.now())?;
            }
        }
        self.write_locked(&node, &mut content, (offset, append), data, flags)?;
        if is_durable {
            self.commit_or_forget(&node, &mut content, cleared)?;
            drop(content);
            self.volume.sync()?;
            return Ok(data.len());
        }
        drop(content);
        self.relieve_others(ino);
        Ok(data.len())
    }

    /// Puts bytes into memory, after all that may fail.
    fn write_locked(
        &self,
        node: &Arc<Node>,
        content: &mut Content,
        (offset, append): (u64, bool),
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<()> {
        let now = self.now();
        let mut is_old = false;
        let len = data.len() as u64;
        let fits = |offset: u64| offset.saturating_add(len) <= FILE_MAX_BYTES;
        if !append && !fits(offset) {
            return Err(FsError::FileTooLarge);
        }
        if data.is_empty() {
            return Ok(());
        }
        self.relieve(node, content, len)?;
        if let Some(caller) = flags.kill_privileges {
            self.kill_privileges(caller, node.ino, content, now)?;
        }
        let dirty = match &mut content.dirty {
            Some(dirty) => dirty,
            None => {
                let mut inode = self.inode(node.ino)?;
                if flags.from_cache {
                    is_old = self.go_back(content, &mut inode)?;
                }
                self.dirty(node, content, &inode)
            }
        };
        let offset = if append { dirty.size } else { offset };
        if !fits(offset) {
            return Err(FsError::FileTooLarge);
        }
        let end = offset + len;
        if !append {
            dirty.rewrite();
        }
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
        content.charged += len;
        self.dirty_bytes.fetch_add(len, Ordering::Relaxed);
        if is_old {
            // Nobody is to read it over what there is now.
            self.commit_in_background(node, content);
        }
        Ok(())
    }

    /// Turns an inode into what it was when the kernel got the pages that it writes now; says whether
    /// that was another content.
    fn go_back(&self, content: &Content, inode: &mut Inode) -> Result<bool> {
        let shown = content.stale.or(content.cached);
        let Some(shown) = shown.filter(|shown| *shown != inode.version) else {
            return Ok(false);
        };
        let Some(size) = self.volume.size_at(self.file(inode.ino), shown)? else {
            return Ok(false);
        };
        (inode.version, inode.size) = (shown, size);
        Ok(true)
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

    /// Clears setuid and setgid before a change of content, unless by root.
    pub(super) fn kill_privileges_of_user(
        &self,
        caller: Caller,
        ino: Ino,
        content: &mut Content,
        now: Timespec,
    ) -> Result<()> {
        let inode = self.inode(ino)?;
        // Looked at first: nearly all files have none, and who asks may have to be found out.
        let has_some = inode.mode & (SETUID | SETGID) != 0 || inode.xattrs > 0;
        match has_some && !self.is_root(caller) {
            true => self.kill_privileges(caller, ino, content, now),
            false => Ok(()),
        }
    }

    /// Clears setuid and setgid before an unprivileged write.
    fn kill_privileges(
        &self,
        caller: Caller,
        ino: Ino,
        content: &mut Content,
        now: Timespec,
    ) -> Result<()> {
        let ops = self.privilege_ops(caller, ino, content, now)?;
        if !ops.is_empty() {
            self.volume.write()?.apply_together(ops)?;
        }
        Ok(())
    }

    /// Returns what clears setuid, setgid and capabilities of a file.
    fn privilege_ops(
        &self,
        caller: Caller,
        ino: Ino,
        content: &mut Content,
        now: Timespec,
    ) -> Result<Vec<OpKind>> {
        if content
            .dirty
            .as_ref()
            .is_some_and(|dirty| dirty.privileges_clear)
        {
            return Ok(Vec::new());
        }
        let inode = self.inode(ino)?;
        let mode = self.without_privileges(caller, &inode);
        let cleared = (mode != inode.mode).then(|| OpKind::SetAttr {
            ino: self.file(ino),
            mode: Some(mode),
            uid: None,
            gid: None,
            mtime: None,
            ctime: now,
        });
        let capability = match inode.xattrs {
            0 => None,
            _ => self.without_capability(ino, now)?,
        };
        let ops: Vec<_> = cleared.into_iter().chain(capability).collect();
        if let Some(dirty) = &mut content.dirty {
            // A setgid bit that stays for this caller may have to go for the next.
            dirty.privileges_clear = ops.is_empty() && mode & (SETUID | SETGID) == 0;
        }
        Ok(ops)
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

    fn is_over_limit(&self, more: u64) -> bool {
        let held = self.dirty_bytes.load(Ordering::Relaxed);
        held.saturating_add(more) > self.config.dirty_bytes_max
    }

    /// Makes room for `more` bytes where too much is unwritten: first by waiting for the cells of this
    /// file that are being sealed, then by writing the file. Of very many ranges, by writing some.
    pub(super) fn relieve(&self, node: &Arc<Node>, content: &mut Content, more: u64) -> Result<()> {
        let many = content
            .dirty
            .as_ref()
            .is_some_and(|dirty| dirty.fragments.len() >= DIRTY_FRAGMENTS_MAX);
        if many {
            self.commit_some(node, content)?;
        }
        if content.dirty.is_none() || !self.is_over_limit(more) {
            return Ok(());
        }
        self.recharge(content);
        while self.is_over_limit(more) {
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
        if !self.is_over_limit(0) {
            return;
        }
        for node in self.inodes.dirty() {
            if node.ino == ino || !self.is_over_limit(0) {
                continue;
            }
            // What takes long is not for the thread that answers the kernel.
            if let Some(mut content) = node.try_content()
                && !content.dirty.as_ref().is_some_and(|dirty| dirty.is_long)
            {
                self.commit_in_background(&node, &mut content);
            }
        }
    }
}

/// Most changed ranges of one file that wait: beyond, each write also writes an op's worth of them.
const DIRTY_FRAGMENTS_MAX: usize = 1024;
