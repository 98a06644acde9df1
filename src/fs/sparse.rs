//! Holes and ranges: fallocate, lseek, copy_file_range.

use std::ops::Range;

use super::dirty::Dirty;
use super::inode_table::Content;
use super::layout::Span;
use super::{Caller, Fallocate, FileHandle, FileKind, Fs, FsError, Result, Seek};
use crate::base::Ino;
use crate::base::limits::{CHUNK_BYTES, FILE_MAX_BYTES, INLINE_MAX_BYTES};
use crate::volume::Source;

impl Fs {
    /// Changes how a range is allocated (fallocate(2)).
    ///
    /// Space is not set aside: a reservation extends the file and fails where the volume is full
    /// now.
    pub fn fallocate(
        &self,
        caller: Caller,
        ino: Ino,
        fh: FileHandle,
        offset: u64,
        len: u64,
        mode: Fallocate,
    ) -> Result<()> {
        self.check_writable()?;
        let handle = self.handles.of(ino, fh)?;
        if !handle.flags.write {
            return Err(FsError::BadHandle);
        }
        if len == 0 {
            return Err(FsError::Invalid {
                what: "empty range",
            });
        }
        let end = offset.checked_add(len).filter(|end| *end <= FILE_MAX_BYTES);
        let end = end.ok_or(FsError::FileTooLarge)?;
        if matches!(mode, Fallocate::Reserve { .. }) {
            self.check_room(ino, offset..end)?;
        }
        let node = self.inodes.node(ino);
        let mut content = node.content();
        let inode = self.inode(ino)?;
        if inode.kind != FileKind::File {
            return Err(FsError::Invalid {
                what: "not a regular file",
            });
        }
        let now = self.now();
        let dirty = self.dirty(&node, &mut content, &inode);
        match mode {
            Fallocate::Reserve { .. } => {}
            Fallocate::PunchHole | Fallocate::ZeroRange { .. } => dirty.punch(offset, end),
        }
        let grows = match mode {
            Fallocate::Reserve { keep_size } | Fallocate::ZeroRange { keep_size } => !keep_size,
            Fallocate::PunchHole => false,
        };
        if grows && end > dirty.size {
            dirty.set_size(end);
        }
        dirty.touch(now);
        self.recharge(&mut content);
        if caller.uid != 0 {
            self.kill_privileges(caller, ino, &mut content, now)?;
        }
        Ok(())
    }

    /// Checks that what a range lacks fits, after giving up what nothing needs where it does not.
    fn check_room(&self, ino: Ino, range: Range<u64>) -> Result<()> {
        let Some(source) = &self.config.capacity else {
            return Ok(());
        };
        let fits = |len| source().free_bytes >= len;
        if fits(range.end - range.start) {
            return Ok(());
        }
        let missing = self.missing_bytes(ino, range)?;
        if fits(missing) {
            return Ok(());
        }
        self.make_room(missing);
        fits(missing).then_some(()).ok_or(FsError::NoSpace)
    }

    /// Returns how many bytes of a range are neither stored nor written.
    fn missing_bytes(&self, ino: Ino, range: Range<u64>) -> Result<u64> {
        let node = self.inodes.node(ino);
        let content = node.content();
        let inode = self.inode(ino)?;
        let dirty = content.dirty.as_deref();
        let size = dirty.map_or(inode.size, |dirty| dirty.size);
        let mut missing = range.end.saturating_sub(size.max(range.start));
        let mut at = range.start;
        while at < range.end.min(size) {
            let end = at
                .saturating_add(SEEK_WINDOW_BYTES)
                .min(range.end)
                .min(size);
            let spans = self.spans(ino, dirty, at..end)?;
            let holes = spans.iter().filter(|span| matches!(span, Span::Zeros(_)));
            missing += holes.map(Span::len).sum::<u64>();
            at = end;
        }
        Ok(missing)
    }

    /// Finds the next data or hole at or after `offset` (lseek(2)).
    pub fn lseek(&self, ino: Ino, fh: FileHandle, offset: u64, seek: Seek) -> Result<u64> {
        self.handles.of(ino, fh)?;
        let node = self.inodes.node(ino);
        let content = node.content();
        let inode = self.inode(ino)?;
        let dirty = content.dirty.as_deref();
        let size = dirty.map_or(inode.size, |dirty| dirty.size);
        if offset >= size {
            return Err(FsError::NoSuchRange);
        }
        let mut at = offset;
        // Windows grow, so that a hole of a tebibyte takes few steps.
        let mut window = SEEK_WINDOW_BYTES;
        while at < size {
            let end = at.saturating_add(window).min(size);
            for span in self.spans(ino, dirty, at..end)? {
                let is_hole = matches!(span, Span::Zeros(_));
                if is_hole == (seek == Seek::Hole) {
                    return Ok(at);
                }
                at += span.len();
            }
            window = window.saturating_mul(2);
        }
        match seek {
            // The end of every file is a hole.
            Seek::Hole => Ok(size),
            Seek::Data => Err(FsError::NoSuchRange),
        }
    }

    /// Copies a range within the volume by reference; returns how many bytes, 0 at the end.
    ///
    /// Both files then share chunks; nothing is fetched or sealed. Copies at most
    /// [`COPY_BYTES_MAX`] at once. That a target must not append now is the kernel's to check.
    pub fn copy_file_range(
        &self,
        caller: Caller,
        from: (Ino, FileHandle, u64),
        to: (Ino, FileHandle, u64),
        len: u64,
    ) -> Result<u64> {
        self.check_writable()?;
        let (source, target) = (
            self.handles.of(from.0, from.1)?,
            self.handles.of(to.0, to.1)?,
        );
        if !source.flags.read || !target.flags.write {
            return Err(FsError::BadHandle);
        }
        let len = len.min(COPY_BYTES_MAX);
        if to.2.saturating_add(len) > FILE_MAX_BYTES {
            return Err(FsError::FileTooLarge);
        }
        let same = from.0 == to.0;
        if same && from.2 < to.2.saturating_add(len) && to.2 < from.2.saturating_add(len) {
            return Err(FsError::Invalid {
                what: "overlapping ranges",
            });
        }
        let spans = self.copied_spans(from.0, from.2, len)?;
        let node = self.inodes.node(to.0);
        let mut content = node.content();
        let inode = self.inode(to.0)?;
        let now = self.now();
        let copied = {
            let dirty = self.dirty(&node, &mut content, &inode);
            dirty.appends_only = false;
            let mut at = to.2;
            for span in spans {
                let end = at + span.len();
                self.put_span(dirty, at, span)?;
                dirty.size = dirty.size.max(end);
                at = end;
            }
            if at > to.2 {
                dirty.touch(now);
            }
            at - to.2
        };
        self.recharge(&mut content);
        if caller.uid != 0 {
            self.kill_privileges(caller, to.0, &mut content, now)?;
        }
        self.relieve(&node, &mut content)?;
        drop(content);
        self.relieve_others(to.0);
        Ok(copied)
    }

    /// Returns where the bytes of a range are once all of them are in the volume.
    fn copied_spans(&self, ino: Ino, offset: u64, len: u64) -> Result<Vec<Span>> {
        let node = self.inodes.node(ino);
        let mut content = node.content();
        self.commit(&node, &mut content)?;
        let inode = self.inode(ino)?;
        let end = offset.saturating_add(len).min(inode.size);
        if offset >= end {
            return Ok(Vec::new());
        }
        if let Content { dirty: None, .. } = *content {
            self.touch_atime(&inode, &mut content, self.now());
        }
        self.spans(ino, None, offset..end)
    }

    fn put_span(&self, dirty: &mut Dirty, at: u64, span: Span) -> Result<()> {
        match span {
            Span::Bytes(bytes) => dirty.fragments.write(at, &bytes),
            Span::Zeros(len) => dirty.fragments.punch(at..at + len),
            Span::Chunk { id, range } => {
                let len = u64::from(range.end - range.start);
                // A few bytes are not worth a reference that pins a chunk.
                if len <= INLINE_MAX_BYTES
                    && let Some(bytes) = self.contents.read_local(id, range.clone())?
                {
                    dirty.fragments.write(at, &bytes);
                    return Ok(());
                }
                for (start, part) in cut_on_grid(at, &range) {
                    let source = Source::Chunk {
                        id,
                        skip: part.start,
                    };
                    let len = u64::from(part.end - part.start);
                    dirty.fragments.refer(start, len, source);
                }
            }
        }
        Ok(())
    }
}

/// Cuts a range of a chunk that is to lie at `at` of a file on the borders of the file's grid.
fn cut_on_grid(at: u64, range: &Range<u32>) -> Vec<(u64, Range<u32>)> {
    let mut parts = Vec::new();
    let mut at = at;
    let mut from = range.start;
    while from < range.end {
        let room = u32::try_from(CHUNK_BYTES - at % CHUNK_BYTES).unwrap_or(u32::MAX);
        let to = from.saturating_add(room).min(range.end);
        parts.push((at, from..to));
        at += u64::from(to - from);
        from = to;
    }
    parts
}

/// First stretch in which lseek looks.
const SEEK_WINDOW_BYTES: u64 = 64 * CHUNK_BYTES;

/// Most bytes of one copy: a thousand references, and what a 32-bit answer can say.
const COPY_BYTES_MAX: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_lies_askew_is_cut_at_each_border() {
        let parts = cut_on_grid(CHUNK_BYTES - 10, &(5..30));
        assert_eq!(parts, [(CHUNK_BYTES - 10, 5..15), (CHUNK_BYTES, 15..30)]);
        assert_eq!(cut_on_grid(7, &(0..100)), [(7, 0..100)]);
    }
}
