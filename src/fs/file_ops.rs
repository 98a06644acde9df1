//! Open files: open, read, flush, fsync, release.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::dirty::Dirty;
use super::handles::Handle;
use super::inode_table::Node;
use super::layout::Span;
use super::{
    Caller, FileHandle, FileKind, Fs, FsError, OpenFlags, Opened, PendingRead, ReadPlan,
    Replicated, Result,
};
use crate::base::Ino;
use crate::volume::{Inode, Source};

impl Fs {
    /// Opens a regular file.
    pub fn open(&self, caller: Caller, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        let node = self.inodes.node(ino);
        let mut content = node.content();
        let inode = self.inode(ino)?;
        match inode.kind {
            FileKind::File => {}
            FileKind::Dir => return Err(FsError::IsDirectory),
            _ => {
                return Err(FsError::Invalid {
                    what: "not a regular file",
                });
            }
        }
        if flags.write || flags.truncate {
            self.check_writable(ino)?;
        }
        if flags.truncate {
            let now = self.now();
            let is_long = inode.stored > 0 && self.is_cut_long(ino, 0)?;
            if caller.uid != 0 {
                self.kill_privileges_of_user(caller, ino, &mut content, now)?;
            }
            let dirty = self.dirty(&node, &mut content, &inode);
            if dirty.size > 0 {
                dirty.set_size(0);
                dirty.is_long |= is_long;
            }
            dirty.touch(now);
            self.recharge(&mut content);
        }
        let version = current_version(&inode, content.dirty.as_deref());
        let keep_cache = content.cached.replace(version) == Some(version);
        Ok(Opened {
            fh: self.open_handle(ino, flags),
            keep_cache,
        })
    }

    /// Registers an open handle; the volume keeps the inode from now on.
    pub(super) fn open_handle(&self, ino: Ino, flags: OpenFlags) -> FileHandle {
        let writes = flags.changes_content();
        if self.inodes.opened(ino, writes) {
            self.volume.hold(ino);
        }
        if writes {
            self.volume.keep_lineage(ino);
        }
        self.handles.open(ino, flags)
    }

    /// Reads up to `len` bytes at `offset`: unwritten ones, those in memory and on this disk at
    /// once, others by a [`PendingRead`].
    pub fn read(&self, ino: Ino, fh: FileHandle, offset: u64, len: usize) -> Result<ReadPlan> {
        let handle = self.handles.of(ino, fh)?;
        if !handle.flags.read {
            return Err(FsError::BadHandle);
        }
        let node = self.inodes.node(ino);
        let (spans, end, size) = {
            let mut content = node.content();
            self.part_from_others(&node, &mut content);
            // Read under the lock: a commit moves what is unwritten into the row.
            let dirty = content.dirty.as_deref();
            let (inode, spans, end) = self.volume.undisturbed(ino, || {
                let inode = self.inode_as_is(ino)?;
                let size = dirty.map_or(inode.size, |dirty| dirty.size);
                let end = offset.saturating_add(len as u64).min(size);
                let spans = match offset < end {
                    true => self.spans(ino, dirty, offset..end)?,
                    false => Vec::new(),
                };
                Ok::<_, FsError>((inode, spans, end))
            })?;
            if !handle.flags.noatime {
                self.touch_atime(&inode, &mut content, self.now());
            }
            if offset >= end {
                return Ok(ReadPlan::Ready(Vec::new()));
            }
            let dirty = content.dirty.as_deref();
            let read = (spans, end, inode.size);
            // The first pages after those that the kernel dropped.
            let version = current_version(&inode, dirty);
            if content.stale.is_none() {
                content.cached.get_or_insert(version);
            }
            read
        };
        self.read_ahead(&handle, offset..end, size)?;
        self.plan(spans)
    }

    fn plan(&self, spans: Vec<Span>) -> Result<ReadPlan> {
        let mut pieces = Vec::with_capacity(spans.len());
        let mut missing = false;
        for span in spans {
            match span {
                Span::Chunk { id, range } => match self.contents.read_local(id, range.clone())? {
                    Some(bytes) => pieces.push(Span::Bytes(bytes)),
                    None => {
                        missing = true;
                        pieces.push(Span::Chunk { id, range });
                    }
                },
                span => pieces.push(span),
            }
        }
        let pending = PendingRead::new(self.contents.clone(), pieces, self.config.fetch_timeout);
        if missing {
            return Ok(ReadPlan::Wait(pending));
        }
        Ok(ReadPlan::Ready(pending.ready()))
    }

    /// Asks for the chunks that a sequential reader will want next.
    fn read_ahead(&self, handle: &Handle, range: Range<u64>, size: u64) -> Result<()> {
        let len = range.end - range.start;
        let Some(wanted) = handle.readahead.lock().on_read(range.start, len) else {
            return Ok(());
        };
        if wanted.start >= size {
            return Ok(());
        }
        let wanted = wanted.start..wanted.end.min(size);
        let mut ids = Vec::new();
        let mut looked = 0;
        self.volume
            .each_extent(self.file(handle.ino), wanted, &mut |extent| {
                if let Source::Chunk { id, .. } = extent.src {
                    ids.push(id);
                }
                looked += 1;
                match looked < AHEAD_PIECES_MAX {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
        ids.dedup();
        self.contents.prefetch(&ids);
        Ok(())
    }

    /// Hands what was written to the journal: called at each close(2).
    ///
    /// Also tells, once, of a write in the background that failed. A handle that cannot write has
    /// nothing to hand over, and leaves what others write alone.
    pub fn flush(&self, ino: Ino, fh: FileHandle) -> Result<()> {
        let handle = self.handles.of(ino, fh)?;
        match self.inodes.known(ino) {
            Some(node) if handle.changes_content() => self.write_out_and_tell(&node),
            _ => Ok(()),
        }
    }

    /// Returns when what was written to the inode is on this disk.
    pub fn fsync(&self, ino: Ino, fh: FileHandle) -> Result<()> {
        self.handles.of(ino, fh)?;
        if let Some(node) = self.inodes.known(ino) {
            self.write_out_and_tell(&node)?;
        }
        Ok(self.volume.sync()?)
    }

    /// Tells whether an fsync waits for other holders, too.
    pub fn waits_for_holders(&self) -> bool {
        self.config.replicated.is_some() && self.waits_for_holders.load(Ordering::Relaxed)
    }

    /// Sets whether an fsync waits for other holders, where it was told how to.
    pub fn wait_for_holders(&self, waits: bool) {
        self.waits_for_holders.store(waits, Ordering::Relaxed);
    }

    /// Returns what is still to be awaited after an fsync, an fsyncdir or an `O_SYNC` write: where
    /// that was asked for, other holders must have it, too.
    pub fn replicated(&self) -> Option<Replicated> {
        let wait = self.config.replicated.as_ref();
        wait.filter(|_| self.waits_for_holders()).map(|wait| wait())
    }

    /// Returns whether a flush of the file has to wait for the disk, or is more than an op or two:
    /// better not on the thread that answers the kernel.
    pub fn is_flush_slow(&self, ino: Ino) -> bool {
        let Some(node) = self.inodes.known(ino) else {
            return false;
        };
        // Who holds the content is at work on it.
        node.try_content().is_none_or(|content| {
            let dirty = content.dirty.as_ref();
            dirty.is_some_and(|dirty| {
                dirty.is_long
                    || dirty.fragments.len() > FEW_RANGES
                    || dirty.fragments.needs_chunks()
            })
        })
    }

    fn write_out_and_tell(&self, node: &Arc<Node>) -> Result<()> {
        let written = self.write_out(node);
        let failed = node.content().failed.take();
        written?;
        failed.map_or(Ok(()), |error| Err(*error))
    }

    /// Closes a handle.
    pub fn release(&self, ino: Ino, fh: FileHandle) -> Result<()> {
        let handle = self.handles.close(ino, fh)?;
        let closed = self.inodes.closed(ino);
        if let (true, Some(node)) = (handle.changes_content(), closed.node) {
            // Pages of a mapping may have come after the last flush.
            self.write_out_in_background(&node);
        }
        if closed.was_last_of_writers {
            if let Err(error) = self.unite_cuts(ino) {
                tracing::debug!(%error, "a file stays cut as it was written");
            }
            self.volume.let_lineage_go(ino);
            // Somebody may have opened it meanwhile.
            if self.inodes.is_open_to_write(ino) {
                self.volume.keep_lineage(ino);
            }
        }
        self.retire(closed.dropped);
        Ok(())
    }
}

/// Most pieces that are looked at for a reader who may want them next.
const AHEAD_PIECES_MAX: usize = 128;

/// Changed ranges that an op or two hold.
const FEW_RANGES: usize = 256;

/// Returns the version that the kernel's pages show: they contain what is unwritten.
fn current_version(inode: &Inode, dirty: Option<&Dirty>) -> crate::base::OpId {
    dirty.map_or(inode.version, |dirty| dirty.base)
}
