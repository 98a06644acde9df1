//! Where the bytes of a file are: its unwritten changes over the extents of the volume.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;

use super::dirty::{Body, Dirty, Fragment, SealedPlace};
use super::{Fs, Result};
use crate::base::{ChunkId, Ino};
use crate::volume::{Extent, Source};

/// A range of a file and where its bytes are.
#[derive(Debug, Clone)]
pub(super) enum Span {
    /// Here.
    Bytes(Bytes),
    /// In a chunk's plaintext.
    Chunk { id: ChunkId, range: Range<u32> },
    /// Nowhere: this many zeros.
    Zeros(u64),
}

impl Span {
    /// Returns the bytes covered.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Chunk { range, .. } => u64::from(range.end - range.start),
            Self::Zeros(len) => *len,
        }
    }
}

impl Fs {
    /// Returns where the bytes of `range` are, in order and without gaps.
    ///
    /// The caller has cut the range at the size of the file.
    pub(super) fn spans(
        &self,
        ino: Ino,
        dirty: Option<&Dirty>,
        range: Range<u64>,
    ) -> Result<Vec<Span>> {
        let mut spans = Vec::new();
        let mut at = range.start;
        if let Some(dirty) = dirty {
            for (start, fragment) in dirty.fragments.overlapping(range.clone()) {
                let from = start.max(at);
                let to = (start + fragment.len).min(range.end);
                if from >= to {
                    continue;
                }
                self.base_spans(ino, at..from, &mut spans)?;
                spans.push(dirty_span(start, fragment, from..to));
                at = to;
            }
        }
        self.base_spans(ino, at..range.end, &mut spans)?;
        Ok(spans)
    }

    /// Returns where the bytes of the start of `range` are in the volume, in order and without gaps:
    /// of the whole range, or of so many pieces, or of what costs so much.
    ///
    /// The caller has cut the range at the size of the file.
    pub(super) fn first_spans(
        &self,
        ino: Ino,
        range: Range<u64>,
        (pieces_max, cost_max): (usize, u64),
        cost_of: &dyn Fn(&Span) -> u64,
    ) -> Result<Vec<Span>> {
        let mut spans = Vec::new();
        let mut at = range.start;
        let mut cost = 0;
        let mut is_full = false;
        self.volume
            .each_extent(self.file(ino), range.clone(), &mut |extent| {
                let from = extent.offset.max(at);
                let to = extent.end().min(range.end);
                if from < to {
                    if at < from {
                        spans.push(Span::Zeros(from - at));
                    }
                    let span = extent_span(extent, from..to);
                    cost += cost_of(&span);
                    spans.push(span);
                    at = to;
                    is_full = spans.len() >= pieces_max || cost >= cost_max;
                }
                match is_full {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })?;
        if !is_full && at < range.end {
            spans.push(Span::Zeros(range.end - at));
        }
        Ok(spans)
    }

    /// Visits the stretches of data and the holes of `range`, in order: where each begins, and
    /// whether it is a hole; `f` breaks to stop, and nothing beyond is looked at.
    ///
    /// The caller has cut the range at the size of the file.
    pub(super) fn each_run(
        &self,
        ino: Ino,
        dirty: Option<&Dirty>,
        range: Range<u64>,
        f: &mut dyn FnMut(u64, bool) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut at = range.start;
        if let Some(dirty) = dirty {
            for (start, fragment) in dirty.fragments.overlapping(range.clone()) {
                let from = start.max(at);
                let to = (start + fragment.len).min(range.end);
                if from >= to {
                    continue;
                }
                let is_hole = matches!(fragment.body, Body::Hole);
                if self.each_base_run(ino, at..from, f)?.is_break() || f(from, is_hole).is_break() {
                    return Ok(());
                }
                at = to;
            }
        }
        self.each_base_run(ino, at..range.end, f).map(drop)
    }

    fn each_base_run(
        &self,
        ino: Ino,
        range: Range<u64>,
        f: &mut dyn FnMut(u64, bool) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut at = range.start;
        let mut flow = ControlFlow::Continue(());
        self.volume
            .each_extent(self.file(ino), range.clone(), &mut |extent| {
                let from = extent.offset.max(at);
                let to = extent.end().min(range.end);
                if from < to {
                    if at < from {
                        flow = f(at, true);
                    }
                    if flow.is_continue() {
                        flow = f(from, false);
                    }
                    at = to;
                }
                flow
            })?;
        if flow.is_continue() && at < range.end {
            flow = f(at, true);
        }
        Ok(flow)
    }

    fn base_spans(&self, ino: Ino, range: Range<u64>, spans: &mut Vec<Span>) -> Result<()> {
        if range.start >= range.end {
            return Ok(());
        }
        let mut at = range.start;
        for extent in self.volume.extents(self.file(ino), range.clone())? {
            let from = extent.offset.max(at);
            let to = extent.end().min(range.end);
            if from >= to {
                continue;
            }
            if at < from {
                spans.push(Span::Zeros(from - at));
            }
            spans.push(extent_span(&extent, from..to));
            at = to;
        }
        if at < range.end {
            spans.push(Span::Zeros(range.end - at));
        }
        Ok(())
    }
}

fn dirty_span(start: u64, fragment: &Fragment, range: Range<u64>) -> Span {
    let inside = within(start, &range);
    match &fragment.body {
        Body::Memory(bytes) => Span::Bytes(
            bytes
                .get(usizes(&inside))
                .map(Bytes::copy_from_slice)
                .unwrap_or_default(),
        ),
        Body::Sealing(sealing, skip) => {
            let part = inside.start + skip..inside.end + skip;
            match sealing.place() {
                SealedPlace::Memory(bytes) => Span::Bytes(bytes.slice(usizes(&part))),
                SealedPlace::Chunk(sealed) => Span::Chunk {
                    id: sealed.id,
                    range: part,
                },
            }
        }
        Body::Stored(source) => source_span(source, inside),
        Body::Hole => Span::Zeros(range.end - range.start),
    }
}

fn extent_span(extent: &Extent, range: Range<u64>) -> Span {
    source_span(&extent.src, within(extent.offset, &range))
}

fn source_span(source: &Source, inside: Range<u32>) -> Span {
    match source {
        // A row whose bytes are fewer than it says reads as zeros beyond them.
        Source::Inline(bytes) if (inside.end as usize) <= bytes.len() => {
            Span::Bytes(bytes.slice(usizes(&inside)))
        }
        Source::Inline(_) => Span::Zeros(u64::from(inside.end - inside.start)),
        Source::Chunk { id, skip } => Span::Chunk {
            id: *id,
            range: inside.start.saturating_add(*skip)..inside.end.saturating_add(*skip),
        },
    }
}

/// Returns `range` counted from `start`. Fragments and extents lie within a chunk.
fn within(start: u64, range: &Range<u64>) -> Range<u32> {
    let from = u32::try_from(range.start - start).unwrap_or(u32::MAX);
    let to = u32::try_from(range.end - start).unwrap_or(u32::MAX);
    from..to
}

fn usizes(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}
