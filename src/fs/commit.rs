//! Commits: unwritten changes of a file become ops of the volume.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::dirty::{Body, Dirty, Sealing};
use super::inode_table::{Content, Node};
use super::layout::Span;
use super::{Fs, FsError, Invalidation, Result};
use crate::base::limits::{CHUNK_BYTES, DRAFT_AGE_MAX, INLINE_MAX_BYTES};
use crate::base::{Ino, OpId};
use crate::volume::{Append, Inode, OpKind, Piece, Source, VolumeError, Write, Writer};

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
        self.commit(node, &mut node.content())
    }

    fn is_worth_sealing(&self, ino: Ino, dirty: &Dirty) -> Result<bool> {
        Ok(dirty.fragments.needs_chunks() && self.readable(ino)?.is_some())
    }

    /// Returns an inode that somebody can still read: it has a name or a handle.
    fn readable(&self, ino: Ino) -> Result<Option<Inode>> {
        match self.inode(ino) {
            Ok(inode) if inode.is_orphan() && self.inodes.opens(ino) == 0 => Ok(None),
            Ok(inode) => Ok(Some(inode)),
            // Reaped.
            Err(FsError::Stale(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Turns the unwritten changes of a file into ops. On failure they stay as they are.
    pub(super) fn commit(&self, node: &Arc<Node>, content: &mut Content) -> Result<()> {
        let Some(mut dirty) = content.dirty.take() else {
            return Ok(());
        };
        match self.commit_changes(node, content, &mut dirty) {
            Ok(()) => {
                self.dirty_bytes
                    .fetch_sub(content.charged, Ordering::Relaxed);
                content.charged = 0;
                if let Some(dropped) = self.inodes.mark_clean(node.ino) {
                    self.retire_with(&dropped, content.atime);
                }
                Ok(())
            }
            Err(error) => {
                content.dirty = Some(dirty);
                self.recharge(content);
                Err(error)
            }
        }
    }

    fn commit_changes(
        &self,
        node: &Arc<Node>,
        content: &mut Content,
        dirty: &mut Dirty,
    ) -> Result<()> {
        let Some(inode) = self.readable(node.ino)? else {
            return Ok(());
        };
        if !dirty.content_changed {
            self.volume.write()?.apply(OpKind::SetAttr {
                ino: inode.ino,
                mode: None,
                uid: None,
                gid: None,
                mtime: Some(dirty.mtime),
                ctime: dirty.ctime.max(inode.ctime),
            })?;
            return Ok(());
        }
        // Without anything stored there is nothing to gather: most files are written once.
        if !dirty.appends_only && inode.stored > 0 {
            self.fold_cells(&inode, dirty)?;
        }
        // What a write out has not met yet: all under way before the first is waited for.
        self.start_sealing(dirty);
        let pieces = pieces(dirty, &self.contents)?;
        let seen = dirty.base;
        let mut writer = self.volume.write()?;
        let Some(before) = writer.inode(node.ino)? else {
            return Ok(());
        };
        let before = Inode {
            ino: node.ino,
            ..before
        };
        let version = apply(&mut writer, &before, dirty, pieces)?;
        drop(writer);
        if before.version != seen {
            // The fold put this write in the place of what somebody else wrote, or beside it.
            content.cached = None;
            self.invalid.lock().push(Invalidation::Content(node.ino));
        } else if content.cached == Some(seen) {
            content.cached = Some(version);
        }
        Ok(())
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

    /// Gathers the fragments of cells that have too many into one run, where all is here.
    fn fold_cells(&self, inode: &Inode, dirty: &mut Dirty) -> Result<()> {
        let mut cells: Vec<u64> = dirty
            .fragments
            .iter()
            .filter(|(_, fragment)| matches!(fragment.body, Body::Memory(_)))
            .map(|(start, _)| start - start % CHUNK_BYTES)
            .collect();
        cells.dedup();
        for cell in cells {
            let range = cell..(cell + CHUNK_BYTES).min(dirty.size);
            let stored = self.volume.extents(inode.ino, range.clone())?.len();
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
    fn gather(&self, start: u64, spans: &[Span]) -> Result<Vec<(u64, Vec<u8>)>> {
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

/// Returns what the op replaces, in order and within the size. All large ranges are sealed.
fn pieces(dirty: &Dirty, contents: &super::contents::Contents) -> Result<Vec<Piece>> {
    let mut pieces = Vec::with_capacity(dirty.fragments.len());
    for (start, fragment) in dirty.fragments.iter() {
        let len = fragment.len.min(dirty.size.saturating_sub(start));
        if len == 0 {
            continue;
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
        pieces.push(Piece { offset, len, src });
    }
    Ok(pieces)
}

/// Applies the changes as one op, or as several where they are too many for one, or replace too much
/// at once. Each leaves a state that the file could have had: cut, then a prefix of the pieces.
fn apply(
    writer: &mut Writer<'_>,
    before: &Inode,
    dirty: &mut Dirty,
    pieces: Vec<Piece>,
) -> Result<OpId> {
    let mut size = dirty.base_size.min(dirty.size);
    let ctime = dirty.ctime.max(before.ctime);
    let appends = dirty.appends_only;
    let mut steps = steps(pieces, size, dirty.size);
    let mut now = before.size;
    while let Some(step) = steps.pop_front() {
        let end = end_of(&step.pieces);
        let kind = if appends {
            append(before, dirty, step.pieces.clone(), size)
        } else {
            OpKind::Write(Write {
                ino: before.ino,
                base: dirty.base,
                size: step.size,
                pieces: step.pieces.clone(),
                mtime: dirty.mtime,
                ctime,
                mode: None,
            })
        };
        dirty.base = match writer.apply(kind) {
            Err(VolumeError::TooMuch) if !appends => {
                let smaller = step.halves(now).ok_or(VolumeError::TooMuch)?;
                smaller
                    .into_iter()
                    .rev()
                    .for_each(|half| steps.push_front(half));
                continue;
            }
            applied => applied?.id,
        };
        size = size.max(end);
        now = step.size;
        if appends {
            // What is applied would be appended once more by a second try.
            dirty.base_size = size;
            dirty.fragments.remove(0..size);
        }
    }
    Ok(dirty.base)
}

/// What one op is to do.
struct Step {
    pieces: Vec<Piece>,
    /// Size of the file afterwards.
    size: u64,
}

impl Step {
    /// Returns two steps that do the same to a file of `now` bytes; `None` where one has to do.
    fn halves(mut self, now: u64) -> Option<[Self; 2]> {
        if self.size.saturating_add(CHUNK_BYTES) < now {
            let size = self.size + (now - self.size) / 2;
            let pieces = Vec::new();
            return Some([Self { pieces, size }, self]);
        }
        let first = match self.pieces.as_mut_slice() {
            [] => return None,
            // A hole of any length.
            [piece] if piece.src.is_none() && piece.len > CHUNK_BYTES => {
                let len = piece.len / 2;
                let first = Piece {
                    len,
                    ..piece.clone()
                };
                piece.offset += len;
                piece.len -= len;
                vec![first]
            }
            [_] => return None,
            pieces => {
                let half = pieces.len() / 2;
                self.pieces.drain(..half).collect()
            }
        };
        let size = now.max(end_of(&first));
        let pieces = first;
        Some([Self { pieces, size }, self])
    }
}

/// Returns the steps that apply pieces to a file of `from` bytes, which has `size` at the end.
fn steps(pieces: Vec<Piece>, from: u64, size: u64) -> VecDeque<Step> {
    let mut batches = batches(pieces);
    let last = batches.pop().unwrap_or_default();
    let mut reached = from;
    let steps = batches.into_iter().map(|pieces| {
        reached = reached.max(end_of(&pieces));
        Step {
            pieces,
            size: reached,
        }
    });
    let mut steps: VecDeque<Step> = steps.collect();
    steps.push_back(Step { pieces: last, size });
    steps
}

fn end_of(pieces: &[Piece]) -> u64 {
    pieces.last().map_or(0, |piece| piece.offset + piece.len)
}

fn append(before: &Inode, dirty: &Dirty, mut pieces: Vec<Piece>, from: u64) -> OpKind {
    let mut len = 0;
    for piece in &mut pieces {
        piece.offset -= from;
        len = piece.offset + piece.len;
    }
    OpKind::Append(Append {
        ino: before.ino,
        base: dirty.base,
        len,
        pieces,
        mtime: dirty.mtime,
        ctime: dirty.ctime.max(before.ctime),
        mode: None,
    })
}

fn batches(pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
    let mut batches: Vec<Vec<Piece>> = Vec::new();
    let mut inline = 0;
    for piece in pieces {
        let own = match &piece.src {
            Some(Source::Inline(bytes)) => bytes.len(),
            Some(Source::Chunk { .. }) | None => 0,
        };
        match batches.last_mut() {
            Some(batch) if batch.len() < OP_PIECES_MAX && inline + own <= OP_INLINE_BYTES_MAX => {
                batch.push(piece);
                inline += own;
            }
            _ => {
                batches.push(vec![piece]);
                inline = own;
            }
        }
    }
    batches
}

/// Most stored fragments of one cell before its author gathers them: a read of a cell then looks
/// at this many rows at most, and 4 KiB overwrites are gathered once a quarter of a cell.
const CELL_FRAGMENTS_MAX: usize = 64;

/// Most inline bytes of one op: an eighth of a segment's body.
const OP_INLINE_BYTES_MAX: usize = 128 << 10;

/// Most pieces of one op: about 16 KiB of references to chunks.
const OP_PIECES_MAX: usize = 256;
