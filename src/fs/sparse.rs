//! Holes and ranges: fallocate, lseek, copy_file_range.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;

use super::dirty::Dirty;
use super::inode_table::Content;
use super::layout::Span;
use super::{Caller, Fallocate, FileHandle, FileKind, Fs, FsError, Result, Seek, Sought};
use crate::base::limits::{CHUNK_BYTES, FILE_MAX_BYTES, INLINE_MAX_BYTES};
use crate::base::{ChunkId, Ino};
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
        self.check_writable(ino)?;
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
        let takes_away = !matches!(mode, Fallocate::Reserve { .. });
        // First what may fail.
        let light_end = |range| self.volume.light_end(self.file(ino), range);
        let is_long = takes_away && light_end(offset..end)? < end.min(inode.size);
        self.relieve(&node, &mut content, 0)?;
        if caller.uid != 0 {
            self.kill_privileges_of_user(caller, ino, &mut content, now)?;
        }
        let inode = self.inode(ino)?;
        let dirty = self.dirty(&node, &mut content, &inode);
        if takes_away {
            dirty.punch(offset, end);
            dirty.is_long |= is_long;
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

    /// Returns how many bytes of a range are neither stored nor written; of one with very many pieces,
    /// how many at the least.
    fn missing_bytes(&self, ino: Ino, range: Range<u64>) -> Result<u64> {
        let node = self.inodes.node(ino);
        let content = node.content();
        let inode = self.inode(ino)?;
        let dirty = content.dirty.as_deref();
        let size = dirty.map_or(inode.size, |dirty| dirty.size);
        let mut missing = range.end.saturating_sub(size.max(range.start));
        let end = range.end.min(size);
        let range = range.start..end.max(range.start);
        let (mut hole, mut holes, mut looked) = (None, 0, 0);
        let mut rest = range.end;
        self.each_run(ino, dirty, range.clone(), &mut |at, is_hole| {
            holes += hole.take().map_or(0, |from| at - from);
            if looked == SEEK_PIECES_MAX {
                rest = at;
                return ControlFlow::Break(());
            }
            looked += 1;
            hole = is_hole.then_some(at);
            ControlFlow::Continue(())
        })?;
        holes += hole.map_or(0, |from| rest - from);
        // What was not looked at is taken to have all that the file has elsewhere.
        let seen = (rest - range.start).saturating_sub(holes);
        let changed = dirty.map_or(0, |dirty| {
            let changed = dirty.fragments.overlapping(rest..range.end);
            changed.map(|(_, fragment)| fragment.len).sum()
        });
        let elsewhere = inode.stored.saturating_sub(seen).saturating_add(changed);
        missing += holes + (range.end - rest).saturating_sub(elsewhere);
        Ok(missing)
    }

    /// Finds the next data or hole at or after `offset` (lseek(2)).
    pub fn lseek(&self, ino: Ino, fh: FileHandle, offset: u64, seek: Seek) -> Result<u64> {
        let mut at = offset;
        loop {
            match self.lseek_some(ino, fh, at, seek)? {
                Sought::Found(found) => return Ok(found),
                Sought::Further(next) => at = next,
            }
        }
    }

    /// Does as [`Fs::lseek`], but looks at a thousand pieces at most, and then says where to go on.
    pub fn lseek_some(&self, ino: Ino, fh: FileHandle, offset: u64, seek: Seek) -> Result<Sought> {
        self.handles.of(ino, fh)?;
        let node = self.inodes.node(ino);
        let mut content = node.content();
        self.part_from_others(&node, &mut content);
        let inode = self.inode(ino)?;
        let dirty = content.dirty.as_deref();
        let size = dirty.map_or(inode.size, |dirty| dirty.size);
        if offset >= size {
            return Err(FsError::NoSuchRange);
        }
        let mut looked = 0;
        let mut stopped = None;
        self.each_run(ino, dirty, offset..size, &mut |at, is_hole| {
            if is_hole == (seek == Seek::Hole) {
                stopped = Some(Sought::Found(at));
            } else if looked == SEEK_PIECES_MAX {
                stopped = Some(Sought::Further(at));
            }
            looked += 1;
            match stopped {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        })?;
        match (stopped, seek) {
            (Some(stopped), _) => Ok(stopped),
            // The end of every file is a hole.
            (None, Seek::Hole) => Ok(Sought::Found(size)),
            (None, Seek::Data) => Err(FsError::NoSuchRange),
        }
    }

    /// Copies a range within the volume by reference; returns how many bytes, 0 at the end.
    ///
    /// Both files then share chunks; nothing is fetched or sealed. Copies so much at once as is the
    /// work of a few milliseconds: the caller asks again for the rest. That a target must not append
    /// now is the kernel's to check.
    pub fn copy_file_range(
        &self,
        caller: Caller,
        from: (Ino, FileHandle, u64),
        to: (Ino, FileHandle, u64),
        len: u64,
    ) -> Result<u64> {
        self.check_writable(to.0)?;
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
        // First what may fail.
        let patches = self.patches(self.copied_spans(from.0, from.2, len)?, to.2)?;
        let node = self.inodes.node(to.0);
        let mut content = node.content();
        let now = self.now();
        let in_memory = patches.iter().map(|(_, patch)| patch.memory_bytes());
        self.relieve(&node, &mut content, in_memory.sum())?;
        let Some((last, patch)) = patches.last() else {
            return Ok(0);
        };
        if caller.uid != 0 {
            self.kill_privileges_of_user(caller, to.0, &mut content, now)?;
        }
        let inode = self.inode(to.0)?;
        let end = last + patch.len();
        let dirty = self.dirty(&node, &mut content, &inode);
        dirty.rewrite();
        for (at, patch) in patches {
            patch.put(dirty, at);
        }
        dirty.size = dirty.size.max(end);
        dirty.touch(now);
        self.recharge(&mut content);
        drop(content);
        self.relieve_others(to.0);
        Ok(end - to.2)
    }

    /// Returns where the bytes of the start of a range are once all of them are in the volume: of so
    /// much of it as is the work of a few milliseconds.
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
        self.first_spans(ino, offset..end, (COPY_PIECES_MAX, COPY_COST_MAX), &cost_of)
    }

    /// Returns what is to be put where, for spans that go to `at`.
    fn patches(&self, spans: Vec<Span>, at: u64) -> Result<Vec<(u64, Patch)>> {
        let mut patches = Vec::with_capacity(spans.len());
        let mut at = at;
        for span in spans {
            let len = span.len();
            match span {
                Span::Bytes(bytes) => patches.push((at, Patch::Bytes(bytes))),
                Span::Zeros(len) => patches.push((at, Patch::Hole(len))),
                Span::Chunk { id, range } => {
                    // A few bytes are not worth a reference that pins a chunk.
                    let bytes = match len <= INLINE_MAX_BYTES {
                        true => self.contents.read_local(id, range.clone())?,
                        false => None,
                    };
                    match bytes {
                        Some(bytes) => patches.push((at, Patch::Bytes(bytes))),
                        None => {
                            let parts = cut_on_grid(at, &range).into_iter();
                            patches.extend(parts.map(|(at, part)| (at, Patch::Chunk(id, part))));
                        }
                    }
                }
            }
            at += len;
        }
        Ok(patches)
    }
}

/// Returns what it costs to copy a span, in bytes: those that are copied, or opened to be.
fn cost_of(span: &Span) -> u64 {
    match span {
        Span::Bytes(bytes) => bytes.len() as u64,
        Span::Chunk { .. } if span.len() <= INLINE_MAX_BYTES => CHUNK_BYTES / 8,
        Span::Chunk { .. } | Span::Zeros(_) => 0,
    }
}

/// What a copy puts into a file.
enum Patch {
    Bytes(Bytes),
    Hole(u64),
    /// A part of a chunk, within a cell of the file.
    Chunk(ChunkId, Range<u32>),
}

impl Patch {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Hole(len) => *len,
            Self::Chunk(_, range) => u64::from(range.end - range.start),
        }
    }

    fn memory_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Hole(_) | Self::Chunk(..) => 0,
        }
    }

    fn put(self, dirty: &mut Dirty, at: u64) {
        let len = self.len();
        match self {
            Self::Bytes(bytes) => dirty.fragments.write(at, &bytes),
            Self::Hole(_) => dirty.fragments.punch(at..at + len),
            Self::Chunk(id, range) => {
                let skip = range.start;
                let source = Source::Chunk { id, skip };
                dirty.fragments.refer(at, len, source);
            }
        }
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

/// Pieces that one lseek looks at before others have their turn: a millisecond or two.
const SEEK_PIECES_MAX: usize = 1024;

/// Most pieces of one copy.
const COPY_PIECES_MAX: usize = 256;

/// Most bytes that one copy takes out of rows, or of chunks for that matter.
const COPY_COST_MAX: u64 = 1 << 20;

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
