//! Where the frames of a sealed chunk lie. docs/format.md has the byte map.

use std::ops::Range;

use super::aead::TAG_BYTES;

/// Bytes of plaintext in a frame; the last one of a chunk may have fewer.
pub const FRAME_BYTES: usize = 16 << 10;

/// Length of what a sealed chunk begins with: version u8, epoch u32 LE, keyed hash of the plaintext
/// `[32]`.
pub const CHUNK_HEAD_BYTES: usize = 1 + 4 + 32;

/// A frame with its tag.
const SEALED_FRAME_BYTES: usize = FRAME_BYTES + TAG_BYTES;

/// The frames of one chunk: its head, then each frame's ciphertext and tag.
///
/// A chunk without plaintext has one frame, so that there is a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frames {
    plain_len: usize,
}

impl Frames {
    /// Returns the frames of so many bytes of plaintext.
    pub fn of_plain(plain_len: usize) -> Self {
        Self { plain_len }
    }

    /// Returns the frames of so many sealed bytes; `None` where no chunk has that length.
    pub fn of_sealed(sealed_len: usize) -> Option<Self> {
        let body = sealed_len.checked_sub(CHUNK_HEAD_BYTES)?;
        let count = body.div_ceil(SEALED_FRAME_BYTES);
        let frames = Self::of_plain(body.checked_sub(count.max(1) * TAG_BYTES)?);
        // A last frame of nothing but its tag is none.
        (frames.count() == count).then_some(frames)
    }

    /// Returns the length of the plaintext.
    pub fn plain_len(self) -> usize {
        self.plain_len
    }

    /// Returns the length of the sealed chunk.
    pub fn sealed_len(self) -> usize {
        CHUNK_HEAD_BYTES + self.plain_len + self.count() * TAG_BYTES
    }

    /// Returns how many there are.
    pub fn count(self) -> usize {
        self.plain_len.div_ceil(FRAME_BYTES).max(1)
    }

    /// Returns the frames that hold a range of the plaintext, of which what lies beyond the end is
    /// left out; none for an empty one.
    pub fn holding(self, range: &Range<usize>) -> Range<usize> {
        let end = range.end.min(self.plain_len);
        if range.start >= end {
            return 0..0;
        }
        range.start / FRAME_BYTES..end.div_ceil(FRAME_BYTES)
    }

    /// Returns which bytes of the plaintext some frames hold.
    pub fn plain(self, frames: &Range<usize>) -> Range<usize> {
        let at = |frame: usize| (frame * FRAME_BYTES).min(self.plain_len);
        at(frames.start)..at(frames.end)
    }

    /// Returns where some frames lie among the sealed bytes.
    pub fn sealed(self, frames: &Range<usize>) -> Range<usize> {
        let Range { start, end } = sealed_range(frames);
        start.min(self.sealed_len())..end.min(self.sealed_len())
    }
}

/// Returns where some frames lie among the sealed bytes of a chunk of any length, which may end
/// before.
pub fn sealed_range(frames: &Range<usize>) -> Range<usize> {
    let at = |frame: usize| CHUNK_HEAD_BYTES + frame * SEALED_FRAME_BYTES;
    at(frames.start)..at(frames.end)
}

/// Returns what sealed bytes begin with; what is shorter is filled up with zeros.
pub fn chunk_head(sealed: &[u8]) -> [u8; CHUNK_HEAD_BYTES] {
    let mut head = [0; CHUNK_HEAD_BYTES];
    for (to, from) in head.iter_mut().zip(sealed) {
        *to = *from;
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_is_that_of_one_plaintext_or_of_none() {
        let near = |around: usize| around.saturating_sub(20)..around + 20;
        let lens = [0, FRAME_BYTES, 2 * FRAME_BYTES, 1 << 20].map(near);
        for len in lens.into_iter().flatten() {
            let frames = Frames::of_plain(len);
            assert_eq!(Frames::of_sealed(frames.sealed_len()), Some(frames));
        }
        let mut sealed_lens = std::collections::BTreeSet::new();
        for len in 0..3 * FRAME_BYTES {
            sealed_lens.insert(Frames::of_plain(len).sealed_len());
        }
        for len in 0..Frames::of_plain(3 * FRAME_BYTES).sealed_len() {
            let is_one = Frames::of_sealed(len).is_some();
            assert_eq!(is_one, sealed_lens.contains(&len), "{len}");
        }
    }

    #[test]
    fn frames_lie_one_behind_the_other_and_cover_what_is_asked_for() {
        let frames = Frames::of_plain(2 * FRAME_BYTES + 1);
        assert_eq!(frames.count(), 3);
        let mut end = CHUNK_HEAD_BYTES;
        for frame in 0..3 {
            let (sealed, plain) = (
                frames.sealed(&(frame..frame + 1)),
                frames.plain(&(frame..frame + 1)),
            );
            assert_eq!(sealed.start, end);
            assert_eq!(sealed.len(), plain.len() + TAG_BYTES);
            end = sealed.end;
        }
        assert_eq!(end, frames.sealed_len());
        assert_eq!(frames.sealed(&(0..9)), CHUNK_HEAD_BYTES..end);
        for (range, expected) in [
            (0..1, 0..1),
            (FRAME_BYTES - 1..FRAME_BYTES, 0..1),
            (FRAME_BYTES - 1..FRAME_BYTES + 1, 0..2),
            (FRAME_BYTES..usize::MAX, 1..3),
            (2 * FRAME_BYTES..2 * FRAME_BYTES + 1, 2..3),
            (2 * FRAME_BYTES + 1..usize::MAX, 0..0),
            (7..7, 0..0),
        ] {
            assert_eq!(frames.holding(&range), expected, "{range:?}");
        }
        assert_eq!(Frames::of_plain(0).holding(&(0..9)), 0..0);
    }
}
