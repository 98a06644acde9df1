//! Commits: unwritten changes of a file become ops of the volume.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::dirty::{Body, Dirty, Sealing};
use super::inode_table::{Content, Node};
use super::layout::Span;
use super::{Fs, FsError, Invalidation, Result};
use crate::base::limits::{CHUNK_BYTES, DRAFT_AGE_MAX, INLINE_MAX_BYTES};
use crate::base::{Ino, OpId};
use crate::volume::{Append, Inode, OpKind, Piece, Source, VolumeError, Write};

impl Fs {
    /// Writes everything dirty and returns when it is on this disk.
    ///
    /// Goes on after a file that fails and returns the first failure.
    pub fn sync_all(&self) -> Result<()> {
        let mut first_error = None;
        for node in self.inodes.dirty() {
            if let Err(error) = self.write_out(&node) {
                first_error.get_or_insert(error);
            }
        }
        // The access times of this machine are worth no failure: a full disk has no room for them.
        if let Err(error) = self.save_atimes() {
            tracing::warn!(%error, "access times are not kept");
        }
        self.volume.sync()?;
        first_error.map_or(Ok(()), Err)
    }

    /// Writes what has been dirty for [`DRAFT_AGE_MAX`]; to be called a few times a second.
    ///
    /// Returns what the kernel must drop from its caches because a write met somebody else's.
    /// A failure is told to the next flush or fsync of its file.
    pub fn tick(&self) -> Vec<Invalidation> {
        let now = self.clock.monotonic();
        for node in self.inodes.dirty() {
            // Who holds the content is about to write it, or will be met by the next tick.
            let is_old = node.try_content().is_some_and(|content| {
                let dirty = content.dirty.as_ref();
                dirty.is_some_and(|dirty| now.saturating_sub(dirty.since) >= DRAFT_AGE_MAX)
            });
            if is_old {
                self.write_out_in_background(&node);
            }
        }
        self.retire_numbers();
        std::mem::take(&mut *self.invalid.lock())
    }

    /// Writes a file where nobody waits for the result.
    pub(super) fn write_out_in_background(&self, node: &Arc<Node>) {
        if let Err(error) = self.write_out(node) {
            self.keep_failure(node, &mut node.content(), error);
        }
    }

    /// Commits where nobody waits for the result.
    pub(super) fn commit_in_background(&self, node: &Arc<Node>, content: &mut Content) {
        if let Err(error) = self.commit(node, content) {
            self.keep_failure(node, content, error);
        }
    }

    /// Keeps a failure for the next flush or fsync; the data waits for another try.
    fn keep_failure(&self, node: &Arc<Node>, content: &mut Content, error: FsError) {
        tracing::warn!(ino = node.ino.0, %error, "unwritten data stays in memory");
        if let Some(dirty) = &mut content.dirty {
            dirty.since = self.clock.monotonic();
        }
        content.failed.get_or_insert_with(|| Box::new(error));
    }

    /// Writes a file: what takes the disk's time is done before the file is locked for the ops.
    pub(super) fn write_out(&self, node: &Arc<Node>) -> Result<()> {
        let sealings = match &mut node.content().dirty {
            // What nobody can read any more is dropped by the commit, also from a full disk.
            Some(dirty) if dirty.content_changed && self.is_worth_sealing(node.ino, dirty)? => {
                self.start_sealing(dirty)
            }
            _ => Vec::new(),
        };
        if !sealings.is_empty() {
            for sealing in &sealings {
                sealing.settle(&self.contents)?;
            }
            self.volume.sync_chunks()?;
        }
        let mut content = node.content();
        let mut slices = 0;
        while self.commit_some(node, &mut content)? {
            slices += 1;
            // Who asks for the file meanwhile waits for a slice, not for all of it. Who writes it all
            // the time does not keep this going for ever.
            if slices < SLICES_APART_MAX {
                MutexGuard::bump(&mut content);
            }
        }
        Ok(())
    }

    fn is_worth_sealing(&self, ino: Ino, dirty: &Dirty) -> Result<bool> {
        Ok(dirty.fragments.needs_chunks() && self.readable(ino)?.is_some())
    }

    /// Returns an inode that somebody can still read: it has a name or a handle.
    fn readable(&self, ino: Ino) -> Result<Option<Inode>> {
        match self.inode(ino) {
            Ok(inode) if inode.is_orphan() && self.inodes.opens(ino) == 0 => {
                // What is written to a file that others removed brings it back.
                let is_back = self.volume.is_removed_elsewhere(self.file(ino))?;
                Ok(is_back.then_some(inode))
            }
            Ok(inode) => Ok(Some(inode)),
            // Reaped.
            Err(FsError::Stale(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Turns the unwritten changes of a file into ops. On failure those stay as they are that are not
    /// in an op.
    pub(super) fn commit(&self, node: &Arc<Node>, content: &mut Content) -> Result<()> {
        while self.commit_some(node, content)? {}
        Ok(())
    }

    /// Turns unwritten changes of a file into one op, as many of them as are the work of a few
    /// milliseconds; returns whether there are more.
    pub(super) fn commit_some(&self, node: &Arc<Node>, content: &mut Content) -> Result<bool> {
        let Some(mut dirty) = content.dirty.take() else {
            return Ok(false);
        };
        match self.commit_slice(node, content, &mut dirty) {
            Ok(false) => {
                if dirty.is_rough {
                    self.invalid.lock().push(Invalidation::Attr(node.ino));
                }
                self.settle_clean(node, content);
                Ok(false)
            }
            more => {
                content.dirty = Some(dirty);
                self.recharge(content);
                more
            }
        }
    }

    /// Turns all unwritten changes of a file and `others` into ops of one batch; on failure, all of
    /// the changes are forgotten. For the changes of one call, which is then done or not.
    pub(super) fn commit_or_forget(
        &self,
        node: &Arc<Node>,
        content: &mut Content,
        others: Vec<OpKind>,
    ) -> Result<()> {
        let outcome = match content.dirty.take() {
            Some(mut dirty) => self.commit_whole(node, content, &mut dirty, others),
            None => Ok(()),
        };
        self.settle_clean(node, content);
        outcome
    }

    /// Takes note that nothing of a file is unwritten any more.
    fn settle_clean(&self, node: &Arc<Node>, content: &mut Content) {
        self.dirty_bytes
            .fetch_sub(content.charged, Ordering::Relaxed);
        content.charged = 0;
        if let Some(dropped) = self.inodes.mark_clean(node.ino) {
            self.retire_with(&dropped, content.atime);
        }
    }

    /// Commits the first of the changes; returns whether there are more.
    fn commit_slice(
        &self,
        node: &Arc<Node>,
        content: &mut Content,
        dirty: &mut Dirty,
    ) -> Result<bool> {
        let Some(inode) = self.readable(node.ino)? else {
            return Ok(false);
        };
        let inode = match self.bring_back(node, content, dirty)? {
            Some(back) => back,
            None => inode,
        };
        if !dirty.content_changed {
            let mut writer = self.volume.write()?;
            let inode = Inode {
                ino: self.file(node.ino),
                ..inode
            };
            writer.apply(times(&inode, dirty))?;
            return Ok(false);
        }
        let end = first_end(dirty);
        self.gather_cells(&inode, dirty, end)?;
        // What a write out has not met yet: all under way before the first is waited for.
        self.start_sealing(dirty);
        let mut step = self.next_step(node.ino, dirty, end)?;
        let seen = dirty.base;
        let mut writer = self.volume.write()?;
        let file = self.file(node.ino);
        let Some(before) = writer.inode(file)? else {
            return Ok(false);
        };
        let others = self.others(&before, node.ino)?;
        let before = Inode {
            ino: file,
            ..before
        };
        let version = loop {
            let kind = step.kind(&before, dirty);
            // What crosses the write of another device meets the whole file.
            let is_light = before.version == seen;
            let applied = match is_light {
                true => writer.apply_lightly(kind),
                false => writer.apply(kind),
            };
            match applied {
                Err(VolumeError::TooMuch) if is_light => match step.first_half(dirty) {
                    Some(half) => step = half,
                    None => break writer.apply(step.kind(&before, dirty))?.id,
                },
                applied => break applied?.id,
            }
        };
        drop(writer);
        self.note_cuts(node.ino, dirty, &step.pieces, version);
        dirty.is_applied(&step, version);
        self.note_version(node, content, before.version == seen, (seen, version));
        self.tell_others(others)?;
        Ok(!step.is_last)
    }

    /// Commits all changes in one batch, together with `others`.
    fn commit_whole(
        &self,
        node: &Arc<Node>,
        content: &mut Content,
        dirty: &mut Dirty,
        others: Vec<OpKind>,
    ) -> Result<()> {
        let Some(inode) = self.readable(node.ino)? else {
            return Ok(());
        };
        let inode = match self.bring_back(node, content, dirty)? {
            Some(back) => back,
            None => inode,
        };
        self.gather_cells(&inode, dirty, u64::MAX)?;
        self.start_sealing(dirty);
        let mut rest = pieces(dirty, &self.contents, u64::MAX)?;
        let mut writer = self.volume.write()?;
        let file = self.file(node.ino);
        let Some(before) = writer.inode(file)? else {
            return Ok(());
        };
        let twins = self.others(&before, node.ino)?;
        let before = Inode {
            ino: file,
            ..before
        };
        let mut together = writer.together();
        for kind in others {
            together.add(kind)?;
        }
        if !dirty.content_changed {
            together.add(times(&before, dirty))?;
            return Ok(together.commit()?);
        }
        let seen = dirty.base;
        loop {
            let mut step = Step::of(&mut rest, false, dirty);
            let id = loop {
                match together.add(step.kind(&before, dirty)) {
                    Err(VolumeError::TooMuch) => {
                        let half = step.first_half(dirty).ok_or(VolumeError::TooMuch)?;
                        let tail = step.pieces.split_off(half.pieces.len());
                        tail.into_iter()
                            .rev()
                            .for_each(|piece| rest.push_front(piece));
                        step = half;
                    }
                    added => break added?.id,
                }
            };
            self.note_cuts(node.ino, dirty, &step.pieces, id);
            dirty.is_applied(&step, id);
            if step.is_last {
                break;
            }
        }
        together.commit()?;
        drop(writer);
        self.note_version(node, content, before.version == seen, (seen, dirty.base));
        self.tell_others(twins)
    }

    /// Lets the kernel's pages follow a commit that turned content `seen` into `version`, where it
    /// was what there was; else the fold put this write in the place of what somebody else wrote,
    /// or beside it.
    fn note_version(
        &self,
        node: &Arc<Node>,
        content: &mut Content,
        is_next: bool,
        (seen, version): (OpId, OpId),
    ) {
        if content.stale == Some(seen) {
            content.stale = Some(version);
        }
        if !is_next {
            content.cached = None;
            self.invalid.lock().push(Invalidation::Content(node.ino));
        } else if content.cached == Some(seen) {
            content.cached = Some(version);
        }
    }

    /// Returns what the next op does: cuts the file, or replaces the first ranges, as far as that is
    /// the work of a few milliseconds.
    fn next_step(&self, ino: Ino, dirty: &mut Dirty, end: u64) -> Result<Step> {
        if dirty.is_emptied && dirty.size > 0 {
            if dirty.base_size > 0 {
                let all = 0..dirty.base_size;
                return Ok(Step {
                    pieces: Vec::new(),
                    size: self.volume.light_start(self.file(ino), all)?,
                    is_last: false,
                });
            }
            (dirty.appends_only, dirty.is_emptied) = (true, false);
        }
        if !dirty.appends_only && dirty.size < dirty.base_size {
            let size = self
                .volume
                .light_start(self.file(ino), dirty.size..dirty.base_size)?;
            if size > dirty.size {
                return Ok(Step {
                    pieces: Vec::new(),
                    size,
                    is_last: false,
                });
            }
        }
        let mut first = pieces(dirty, &self.contents, end)?;
        let mut is_more = end < u64::MAX;
        // A hole takes away whatever is there.
        let long = |piece: &Piece| piece.src.is_none() && piece.len > CHUNK_BYTES;
        if let Some(index) = first.iter().position(long)
            && let Some(piece) = first.get_mut(index)
        {
            let range = piece.offset..piece.offset + piece.len;
            let end = self.volume.light_end(self.file(ino), range.clone())?;
            if range.start < end && end < range.end {
                piece.len = end - range.start;
                first.truncate(index + 1);
                is_more = true;
            }
        }
        Ok(Step::of(&mut first, is_more, dirty))
    }

    /// Starts to seal written ranges that are too large to travel with the op; returns all that
    /// are under way.
    fn start_sealing(&self, dirty: &mut Dirty) -> Vec<Arc<Sealing>> {
        let large: Vec<u64> = dirty
            .fragments
            .iter()
            .filter(|(_, fragment)| {
                matches!(fragment.body, Body::Memory(_)) && fragment.len > INLINE_MAX_BYTES
            })
            .map(|(start, _)| start)
            .collect();
        for start in large {
            if let Some(Body::Memory(mut bytes)) = dirty.fragments.take_body(start) {
                // The room for a whole cell would stay with the cached plaintext.
                bytes.shrink_to_fit();
                let sealing = Sealing::start(&self.contents, Bytes::from(bytes));
                dirty
                    .fragments
                    .replace_body(start, Body::Sealing(sealing, 0));
            }
        }
        let bodies = dirty.fragments.iter().map(|(_, fragment)| &fragment.body);
        bodies
            .filter_map(|body| match body {
                Body::Sealing(sealing, _) => Some(Arc::clone(sealing)),
                Body::Memory(_) | Body::Stored(_) | Body::Hole => None,
            })
            .collect()
    }

    /// Gathers the fragments of cells that have too many into one run, where all is here; of the
    /// cells before `end`.
    fn gather_cells(&self, inode: &Inode, dirty: &mut Dirty, end: u64) -> Result<()> {
        // Without anything stored there is nothing to gather: most files are written once.
        let appends = dirty.appends_only || dirty.is_emptied;
        if !dirty.content_changed || appends || inode.stored == 0 {
            return Ok(());
        }
        let mut cells: Vec<u64> = dirty
            .fragments
            .overlapping(0..end)
            .filter(|(_, fragment)| matches!(fragment.body, Body::Memory(_)))
            .map(|(start, _)| start - start % CHUNK_BYTES)
            .collect();
        cells.dedup();
        for cell in cells {
            let range = cell..(cell + CHUNK_BYTES).min(dirty.size);
            let mut stored = 0;
            self.volume
                .each_extent(self.file(inode.ino), range.clone(), &mut |_| {
                    stored += 1;
                    match stored < CELL_FRAGMENTS_MAX {
                        true => ControlFlow::Continue(()),
                        false => ControlFlow::Break(()),
                    }
                })?;
            if range.is_empty() || stored < CELL_FRAGMENTS_MAX {
                continue;
            }
            let spans = self.spans(inode.ino, Some(dirty), range)?;
            for (start, bytes) in self.gather(cell, &spans)? {
                dirty.fragments.write(start, &bytes);
            }
        }
        Ok(())
    }

    /// Returns the runs of bytes of some spans that begin at `start`, without those that are one
    /// span already. Nothing where a chunk is not here: then the fragments stay as they are.
    pub(super) fn gather(&self, start: u64, spans: &[Span]) -> Result<Vec<(u64, Vec<u8>)>> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut at = start;
        let mut joined = 0;
        for span in spans {
            let bytes = match span {
                Span::Zeros(_) => None,
                Span::Bytes(bytes) => Some(bytes.clone()),
                Span::Chunk { id, range } => match self.contents.read_local(*id, range.clone())? {
                    Some(bytes) => Some(bytes),
                    None => return Ok(Vec::new()),
                },
            };
            match (bytes, runs.last_mut()) {
                (Some(bytes), Some((_, run))) if joined > 0 => {
                    run.extend_from_slice(&bytes);
                    joined += 1;
                }
                (Some(bytes), _) => {
                    runs.push((at, bytes.to_vec()));
                    joined = 1;
                }
                (None, _) => {
                    if joined == 1 {
                        runs.pop();
                    }
                    joined = 0;
                }
            }
            at += span.len();
        }
        if joined == 1 {
            runs.pop();
        }
        Ok(runs)
    }
}

/// Returns an op that sets the times alone.
fn times(before: &Inode, dirty: &Dirty) -> OpKind {
    OpKind::SetAttr {
        ino: before.ino,
        mode: None,
        uid: None,
        gid: None,
        mtime: Some(dirty.mtime),
        ctime: dirty.ctime.max(before.ctime),
    }
}

/// Returns the end of the cells that the next op may touch; `u64::MAX` where that is all.
fn first_end(dirty: &Dirty) -> u64 {
    let mut inline = 0;
    for (index, (start, fragment)) in dirty.fragments.iter().enumerate() {
        if index == OP_PIECES_MAX || inline >= OP_INLINE_BYTES_MAX as u64 {
            let end = start.next_multiple_of(CHUNK_BYTES);
            let is_last = dirty.fragments.overlapping(end..u64::MAX).next().is_none();
            return if is_last { u64::MAX } else { end };
        }
        inline += match &fragment.body {
            Body::Memory(bytes) if fragment.len <= INLINE_MAX_BYTES => bytes.len() as u64,
            _ => 0,
        };
    }
    u64::MAX
}

/// Returns what is replaced before `end`, in order and within the size. All large ranges are sealed.
fn pieces(
    dirty: &Dirty,
    contents: &super::contents::Contents,
    end: u64,
) -> Result<VecDeque<Piece>> {
    let mut pieces = VecDeque::new();
    for (start, fragment) in dirty.fragments.overlapping(0..end) {
        let len = fragment.len.min(dirty.size.saturating_sub(start));
        if len == 0 {
            break;
        }
        let src = match &fragment.body {
            Body::Memory(bytes) => Some(Source::Inline(Bytes::copy_from_slice(bytes))),
            Body::Sealing(sealing, skip) => Some(Source::Chunk {
                id: sealing.settle(contents)?.id,
                skip: *skip,
            }),
            Body::Stored(source) => Some(source.clone()),
            Body::Hole => None,
        };
        let offset = start;
        pieces.push_back(Piece { offset, len, src });
    }
    Ok(pieces)
}

/// What one op does. Each leaves a state that the file could have had: cut, then a prefix of the
/// pieces.
struct Step {
    pieces: Vec<Piece>,
    /// Size of the file afterwards.
    size: u64,
    /// Nothing is unwritten afterwards.
    is_last: bool,
}

impl Step {
    /// Takes the pieces of one op off the front of `rest`, behind which there may be more.
    fn of(rest: &mut VecDeque<Piece>, is_more: bool, dirty: &Dirty) -> Self {
        let mut pieces = Vec::new();
        let mut inline = 0;
        while let Some(piece) = rest.front() {
            let own = match &piece.src {
                Some(Source::Inline(bytes)) => bytes.len(),
                Some(Source::Chunk { .. }) | None => 0,
            };
            let is_full = pieces.len() == OP_PIECES_MAX || inline + own > OP_INLINE_BYTES_MAX;
            if is_full && !pieces.is_empty() {
                break;
            }
            inline += own;
            pieces.extend(rest.pop_front());
        }
        let is_last = rest.is_empty() && !is_more;
        let size = match is_last {
            true => dirty.size,
            false => size_within(dirty, &pieces),
        };
        Self {
            pieces,
            size,
            is_last,
        }
    }

    /// Returns a step that does the first half of this; `None` where one has to do it.
    fn first_half(&self, dirty: &Dirty) -> Option<Self> {
        let half = self.pieces.len() / 2;
        let pieces = self.pieces.get(..half).filter(|half| !half.is_empty())?;
        Some(Self {
            size: size_within(dirty, pieces),
            pieces: pieces.to_vec(),
            is_last: false,
        })
    }

    /// Returns the op.
    fn kind(&self, before: &Inode, dirty: &Dirty) -> OpKind {
        let ctime = dirty.ctime.max(before.ctime);
        let (ino, base, mtime) = (before.ino, dirty.base, dirty.mtime);
        let mut pieces = self.pieces.clone();
        if dirty.appends_only {
            for piece in &mut pieces {
                piece.offset -= dirty.base_size;
            }
            return OpKind::Append(Append {
                ino,
                base,
                len: end_of(&pieces),
                pieces,
                mtime,
                ctime,
                mode: None,
            });
        }
        OpKind::Write(Write {
            ino,
            base,
            size: self.size,
            empties: self.pieces.is_empty() && (dirty.size == 0 || dirty.is_emptied),
            pieces,
            mtime,
            ctime,
            mode: None,
        })
    }
}

impl Dirty {
    /// Takes note that a step is in the volume: what is left builds on it.
    fn is_applied(&mut self, step: &Step, version: OpId) {
        self.is_anew &= step.pieces.is_empty();
        match &*step.pieces {
            // What was appended since the file was emptied is still to be written.
            [] => self.fragments.remove(step.size.max(self.size)..u64::MAX),
            pieces => self.fragments.remove(0..end_of(pieces)),
        }
        self.base = version;
        self.base_size = step.size;
    }
}

/// Returns the size of a file of which some of the changes are not applied yet.
fn size_within(dirty: &Dirty, pieces: &[Piece]) -> u64 {
    dirty.base_size.min(dirty.size).max(end_of(pieces))
}

fn end_of(pieces: &[Piece]) -> u64 {
    pieces.last().map_or(0, |piece| piece.offset + piece.len)
}

/// Most stored fragments of one cell before its author gathers them: a read of a cell then looks
/// at this many rows at most, and 4 KiB overwrites are gathered once a quarter of a cell.
const CELL_FRAGMENTS_MAX: usize = 64;

/// Most inline bytes of one op: an eighth of a segment's body.
const OP_INLINE_BYTES_MAX: usize = 128 << 10;

/// Most pieces of one op: about 16 KiB of references to chunks.
const OP_PIECES_MAX: usize = 256;

/// Ops between which others may have a file that is written out.
const SLICES_APART_MAX: usize = 4096;
