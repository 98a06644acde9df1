//! Arithmetic of extents: what stays of a file's extents under a write, and nothing else.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::types::{Extent, Piece, Source};
use crate::base::ChunkId;
use crate::base::limits::{CHUNK_BYTES, FILE_MAX_BYTES};

/// Says which limit a list of pieces breaks, `None` where it is sound.
pub(super) fn check_pieces(pieces: &[Piece], size: u64) -> Option<&'static str> {
    if size > FILE_MAX_BYTES {
        return Some("a file larger than the limit");
    }
    for piece in pieces {
        let Some(end) = piece.offset.checked_add(piece.len) else {
            return Some("a piece that ends beyond 64 bits");
        };
        if end > FILE_MAX_BYTES {
            return Some("a piece beyond the largest file");
        }
        match &piece.src {
            None => {}
            Some(_) if piece.len == 0 || piece.len > CHUNK_BYTES => {
                return Some("a piece of no byte or of more than a chunk");
            }
            Some(Source::Inline(bytes)) if bytes.len() as u64 != piece.len => {
                return Some("a piece whose bytes do not fit its length");
            }
            Some(Source::Chunk { skip, .. }) if u64::from(*skip) + piece.len > CHUNK_BYTES => {
                return Some("a piece beyond the end of a chunk");
            }
            Some(_) => {}
        }
    }
    None
}

/// Returns pieces moved to where an append starts.
pub(super) fn shifted(pieces: &[Piece], start: u64) -> Vec<Piece> {
    pieces
        .iter()
        .map(|piece| Piece {
            offset: piece.offset.saturating_add(start),
            ..piece.clone()
        })
        .collect()
}

/// Tells whether pieces, in order, replace all of a file of a size.
pub(super) fn covers(pieces: &[Piece], size: u64) -> bool {
    let mut end = 0;
    for piece in pieces {
        if piece.offset != end {
            return false;
        }
        end = piece.offset.saturating_add(piece.len);
    }
    end > 0 && end >= size
}

/// Returns the part of an extent within `start..end`, `None` where they do not meet.
pub(super) fn cut(extent: &Extent, start: u64, end: u64) -> Option<Extent> {
    let from = extent.offset.max(start);
    let to = extent.end().min(end);
    if from >= to {
        return None;
    }
    if from == extent.offset && to == extent.end() {
        return Some(extent.clone());
    }
    let skip = from - extent.offset;
    let len = to - from;
    let src = match &extent.src {
        Source::Inline(bytes) => Source::Inline(slice(bytes, skip, len)),
        Source::Chunk { id, skip: before } => Source::Chunk {
            id: *id,
            // An extent is at most a chunk long, so the sum fits.
            skip: before.saturating_add(u32::try_from(skip).unwrap_or(u32::MAX)),
        },
    };
    Some(Extent {
        offset: from,
        len,
        src,
    })
}

/// Returns what lies in some ranges of a file, in order, one behind the other from its start, and the
/// bytes that it takes.
pub(super) fn gathered(extents: &[Extent], ranges: &[Range<u64>]) -> (Vec<Extent>, u64) {
    let mut parts = Vec::new();
    let mut size = 0u64;
    for range in ranges {
        let within = extents
            .iter()
            .filter_map(|extent| cut(extent, range.start, range.end));
        parts.extend(within.map(|part| Extent {
            offset: part.offset - range.start + size,
            ..part
        }));
        size += range.end.saturating_sub(range.start);
    }
    (parts, size)
}

/// Copies the part out: a slice would keep the whole of a large buffer alive in a small row.
fn slice(bytes: &Bytes, skip: u64, len: u64) -> Bytes {
    let start = usize::try_from(skip).unwrap_or(usize::MAX);
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    Bytes::copy_from_slice(
        bytes
            .get(start..start.saturating_add(len))
            .unwrap_or_default(),
    )
}

/// Returns the range that pieces and a change of size touch, `None` where nothing is touched.
pub(super) fn touched(pieces: &[Piece], old_size: u64, new_size: u64) -> Option<(u64, u64)> {
    let mut start = u64::MAX;
    let mut end = 0;
    for piece in pieces.iter().filter(|piece| piece.len > 0) {
        start = start.min(piece.offset);
        end = end.max(piece.offset.saturating_add(piece.len));
    }
    if new_size < old_size {
        start = start.min(new_size);
        end = u64::MAX;
    }
    (start < end).then_some((start, end))
}

/// Returns the pieces in groups that are far from one another, so that what lies between groups need
/// not be looked at. Within a group they are in their order.
pub(super) fn groups(pieces: &[Piece]) -> Vec<Vec<Piece>> {
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    let piece = |index: usize| pieces.get(index).filter(|piece| piece.len > 0);
    order.retain(|index| piece(*index).is_some());
    order.sort_by_key(|index| piece(*index).map(|piece| piece.offset));
    let mut groups: Vec<(u64, Vec<usize>)> = Vec::new();
    for index in order {
        let Some(piece) = piece(index) else { continue };
        let end = piece.offset.saturating_add(piece.len);
        match groups.last_mut() {
            Some((last, group)) if piece.offset <= last.saturating_add(GROUP_GAP_BYTES) => {
                group.push(index);
                *last = end.max(*last);
            }
            _ => groups.push((end, vec![index])),
        }
    }
    let in_order = |(_, mut group): (u64, Vec<usize>)| {
        group.sort_unstable();
        group.into_iter().filter_map(piece).cloned().collect()
    };
    groups.into_iter().map(in_order).collect()
}

/// What lies between two pieces of a group, at most: as many small extents as a search costs.
const GROUP_GAP_BYTES: u64 = CHUNK_BYTES / 8;

/// Returns the extents of a file after a write: `extents` are those that overlap what the write
/// touches, in order; the result takes their place. Pieces apply in order, then the size cuts.
pub(super) fn overwrite(extents: Vec<Extent>, pieces: &[Piece], size: u64) -> Vec<Extent> {
    let mut layers = Layers {
        pieces: BTreeMap::new(),
        size,
        inline_bytes: 0,
    };
    for Extent { offset, len, src } in extents {
        let src = Some(src);
        layers.insert(Piece { offset, len, src });
    }
    for piece in pieces {
        layers.put(piece);
    }
    layers.cut(size, u64::MAX);
    let extent = |piece: Piece| {
        let Piece { offset, len, src } = piece;
        src.map(|src| Extent { offset, len, src })
    };
    layers.pieces.into_values().filter_map(extent).collect()
}

/// What several writes of a file do, one after the other: the pieces of the write that does the
/// same at once. They do not overlap, and lie within the size that the last one leaves.
///
/// Each piece costs a look-up and what it overlaps, so that a thousand writes of a hundred pieces
/// are no more work than a hundred thousand pieces.
#[derive(Debug)]
pub(super) struct Layers {
    /// By offset.
    pieces: BTreeMap<u64, Piece>,
    size: u64,
    inline_bytes: usize,
}

impl Layers {
    /// Returns what one write does that leaves a file of `size` bytes.
    pub(super) fn new(pieces: &[Piece], size: u64) -> Self {
        let mut layers = Self {
            pieces: BTreeMap::new(),
            size,
            inline_bytes: 0,
        };
        layers.add(pieces, size);
        layers
    }

    /// Adds the write that came next.
    pub(super) fn add(&mut self, pieces: &[Piece], size: u64) {
        // What was cut off before is not there when the file becomes longer.
        if self.size < size {
            self.put(&Piece {
                offset: self.size,
                len: size - self.size,
                src: None,
            });
        }
        for piece in pieces {
            self.put(piece);
        }
        self.cut(size, u64::MAX);
        self.size = size;
    }

    /// Returns how many pieces there are, and how many bytes they hold themselves.
    pub(super) fn extent(&self) -> (usize, usize) {
        (self.pieces.len(), self.inline_bytes)
    }

    /// Returns the pieces in order.
    pub(super) fn into_pieces(self) -> Vec<Piece> {
        self.pieces.into_values().collect()
    }

    fn put(&mut self, piece: &Piece) {
        if piece.len > 0 {
            self.cut(piece.offset, piece.offset.saturating_add(piece.len));
            self.insert(piece.clone());
        }
    }

    /// Takes out what lies within `start..end`.
    fn cut(&mut self, start: u64, end: u64) {
        let before = self.pieces.range(..start).next_back();
        let first = before.filter(|(_, piece)| piece.offset.saturating_add(piece.len) > start);
        let first = first.map(|(offset, _)| *offset);
        let met = self.pieces.range(start..end).map(|(offset, _)| *offset);
        let met: Vec<u64> = first.into_iter().chain(met).collect();
        for offset in met {
            let Some(old) = self.pieces.remove(&offset) else {
                continue;
            };
            self.inline_bytes -= inline_bytes(&old);
            let rest = [cut_piece(&old, 0, start), cut_piece(&old, end, u64::MAX)];
            rest.into_iter()
                .flatten()
                .for_each(|part| self.insert(part));
        }
    }

    fn insert(&mut self, piece: Piece) {
        self.inline_bytes += inline_bytes(&piece);
        self.pieces.insert(piece.offset, piece);
    }
}

fn inline_bytes(piece: &Piece) -> usize {
    match &piece.src {
        Some(Source::Inline(bytes)) => bytes.len(),
        Some(Source::Chunk { .. }) | None => 0,
    }
}

/// Returns the part of a piece within `start..end`, `None` where they do not meet.
fn cut_piece(piece: &Piece, start: u64, end: u64) -> Option<Piece> {
    let extent = Extent {
        offset: piece.offset,
        len: piece.len,
        // A hole is cut as any chunk is.
        src: piece.src.clone().unwrap_or(Source::Inline(Bytes::new())),
    };
    let part = cut(&extent, start, end)?;
    Some(Piece {
        offset: part.offset,
        len: part.len,
        src: piece.src.as_ref().map(|_| part.src),
    })
}

/// Returns the bytes that extents cover.
pub(super) fn stored_bytes(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.len).sum()
}

/// Tells whether two lists of extents hold the same bytes as far as their sources show, however they
/// are cut: inline bytes are compared, with holes as zeros; chunks by id and range.
pub(super) fn same_content(a: &[Extent], b: &[Extent]) -> bool {
    let (mut a, mut b) = (a, b);
    let mut at = 0;
    loop {
        let end = run_end(&mut a, at).min(run_end(&mut b, at));
        if end == u64::MAX {
            return true;
        }
        let is_same = match (source_at(a, at, end), source_at(b, at, end)) {
            (None, None) => true,
            (Some(Part::Bytes(bytes)), None) | (None, Some(Part::Bytes(bytes))) => {
                bytes.iter().all(|byte| *byte == 0)
            }
            (a, b) => a == b,
        };
        if !is_same {
            return false;
        }
        at = end;
    }
}

/// What one extent shows in a range.
#[derive(PartialEq, Eq)]
enum Part<'a> {
    Bytes(&'a [u8]),
    Chunk(ChunkId, u64),
}

/// Takes off what lies before `at`; returns where the extent or the hole ends that is there.
fn run_end(extents: &mut &[Extent], at: u64) -> u64 {
    while let Some((first, rest)) = extents.split_first() {
        if first.end() > at {
            return if first.offset > at {
                first.offset
            } else {
                first.end()
            };
        }
        *extents = rest;
    }
    u64::MAX
}

/// Returns what the first extent shows in a range, which lies in it or before it: then that is a hole.
fn source_at(extents: &[Extent], at: u64, end: u64) -> Option<Part<'_>> {
    let extent = extents.first().filter(|extent| extent.offset <= at)?;
    let skip = at - extent.offset;
    Some(match &extent.src {
        Source::Inline(bytes) => {
            let range =
                [skip, end - extent.offset].map(|to| usize::try_from(to).unwrap_or(usize::MAX));
            Part::Bytes(bytes.get(range[0]..range[1]).unwrap_or_default())
        }
        Source::Chunk { id, skip: before } => Part::Chunk(*id, skip + u64::from(*before)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ChunkId;
    use crate::base::Rng;

    /// Byte `at` of the test chunk `id`.
    fn chunk_byte(id: u8, at: u64) -> u8 {
        id.wrapping_mul(31).wrapping_add(at as u8)
    }

    fn render(extents: &[Extent], size: u64) -> Vec<Option<u8>> {
        let mut bytes = vec![None; size as usize];
        let mut last = 0;
        for extent in extents {
            assert!(extent.len > 0 && extent.offset >= last && extent.end() <= size);
            last = extent.end();
            for at in 0..extent.len {
                let byte = match &extent.src {
                    Source::Inline(inline) => {
                        assert_eq!(inline.len() as u64, extent.len);
                        inline[at as usize]
                    }
                    Source::Chunk { id, skip } => chunk_byte(id.0[0], u64::from(*skip) + at),
                };
                bytes[(extent.offset + at) as usize] = Some(byte);
            }
        }
        bytes
    }

    fn naive(bytes: &mut Vec<Option<u8>>, pieces: &[Piece], size: u64) {
        for piece in pieces {
            let end = (piece.offset + piece.len) as usize;
            if bytes.len() < end {
                bytes.resize(end, None);
            }
            for at in 0..piece.len {
                bytes[(piece.offset + at) as usize] = match &piece.src {
                    None => None,
                    Some(Source::Inline(inline)) => Some(inline[at as usize]),
                    Some(Source::Chunk { id, skip }) => {
                        Some(chunk_byte(id.0[0], u64::from(*skip) + at))
                    }
                };
            }
        }
        bytes.resize(size as usize, None);
    }

    fn piece(offset: u64, len: u64, kind: u8, tag: u8) -> Piece {
        let src = match kind {
            0 => None,
            1 => Some(Source::Inline(Bytes::from(
                (0..len).map(|n| tag + n as u8).collect::<Vec<_>>(),
            ))),
            _ => Some(Source::Chunk {
                id: ChunkId([tag; 32]),
                skip: 2,
            }),
        };
        Piece { offset, len, src }
    }

    /// Every two writes within six bytes, of each kind, with each size after.
    #[test]
    fn writes_agree_with_a_naive_byte_array() {
        let ranges: Vec<(u64, u64)> = (0..6)
            .flat_map(|from| (1..=6 - from).map(move |len| (from, len)))
            .collect();
        for &(from1, len1) in &ranges {
            for kind1 in 1..3 {
                let first = piece(from1, len1, kind1, 40);
                for &(from2, len2) in &ranges {
                    for kind2 in 0..3 {
                        for size in 0..7 {
                            check(&first, &piece(from2, len2, kind2, 80), size);
                        }
                    }
                }
            }
        }
    }

    fn check(first: &Piece, second: &Piece, size: u64) {
        let mut expected = Vec::new();
        naive(&mut expected, std::slice::from_ref(first), 6);
        let whole = overwrite(Vec::new(), std::slice::from_ref(first), 6);
        assert_eq!(render(&whole, 6), expected);
        naive(&mut expected, std::slice::from_ref(second), size);
        // Only what the write touches is handed over, as the fold does.
        let (start, end) = touched(std::slice::from_ref(second), 6, size).unwrap();
        let meets = |e: &&Extent| e.offset < end && e.end() > start;
        let inside = whole.iter().filter(meets).cloned().collect();
        let mut after: Vec<_> = whole.iter().filter(|e| !meets(e)).cloned().collect();
        after.extend(overwrite(inside, std::slice::from_ref(second), size));
        after.sort_by_key(|e| e.offset);
        assert_eq!(
            render(&after, size),
            expected,
            "{first:?} {second:?} {size}"
        );
        let both = [first.clone(), second.clone()];
        let at_once = overwrite(Vec::new(), &both, size);
        assert!(same_content(&at_once, &after));
        assert_eq!(
            stored_bytes(&after),
            expected.iter().filter(|byte| byte.is_some()).count() as u64
        );
    }

    /// Every two writes within six bytes, of each kind, with each size after each.
    #[test]
    fn two_writes_in_one_agree_with_a_naive_byte_array() {
        let ranges: Vec<(u64, u64)> = (0..6)
            .flat_map(|from| (1..=6 - from).map(move |len| (from, len)))
            .collect();
        let old = overwrite(Vec::new(), &[piece(0, 5, 1, 10)], 5);
        for (&(from1, len1), &(from2, len2)) in ranges
            .iter()
            .flat_map(|one| ranges.iter().map(move |two| (one, two)))
        {
            for (kind1, kind2) in [(1, 1), (0, 1), (2, 0), (1, 2)] {
                let first = [piece(from1, len1, kind1, 40)];
                let then = [piece(from2, len2, kind2, 80)];
                for (size1, size2) in [(2, 6), (6, 2), (6, 6), (0, 5), (4, 4)] {
                    let apart = overwrite(overwrite(old.clone(), &first, size1), &then, size2);
                    let mut layers = Layers::new(&first, size1);
                    layers.add(&then, size2);
                    let whole = layers.into_pieces();
                    assert_eq!(check_pieces(&whole, size2), None);
                    let at_once = overwrite(old.clone(), &whole, size2);
                    assert_eq!(at_once, apart, "{first:?} {size1} {then:?} {size2}");
                }
            }
        }
    }

    #[test]
    fn many_writes_in_one_do_what_they_do_one_by_one() {
        for seed in 0..200 {
            let rng = Rng::from_seed(seed);
            let old = overwrite(Vec::new(), &[piece(0, 40, 1, 10)], 40);
            let (mut apart, mut layers) = (old.clone(), None::<Layers>);
            for n in 0..12 {
                let pieces: Vec<Piece> = (0..rng.below(4))
                    .map(|_| {
                        let (offset, len) = (rng.below(50), 1 + rng.below(12));
                        piece(offset, len, rng.below(3) as u8, n)
                    })
                    .collect();
                let size = rng.below(60);
                apart = overwrite(apart, &pieces, size);
                match &mut layers {
                    Some(layers) => layers.add(&pieces, size),
                    None => layers = Some(Layers::new(&pieces, size)),
                }
                let layers = layers.as_ref().unwrap();
                let whole: Vec<Piece> = layers.pieces.values().cloned().collect();
                assert_eq!(check_pieces(&whole, size), None, "seed {seed}");
                let inline = whole.iter().map(inline_bytes).sum();
                assert_eq!(layers.extent(), (whole.len(), inline), "seed {seed}");
                let at_once = overwrite(old.clone(), &whole, size);
                assert!(same_content(&at_once, &apart), "seed {seed}, write {n}");
            }
        }
    }

    #[test]
    fn groups_keep_their_order_and_their_distance() {
        for seed in 0..50 {
            let rng = Rng::from_seed(seed);
            let pieces: Vec<Piece> = (0..rng.below(30))
                .map(|n| {
                    let offset = rng.below(6) * CHUNK_BYTES + rng.below(CHUNK_BYTES / 4);
                    piece(offset, rng.below(40), 1, n as u8)
                })
                .collect();
            let groups = groups(&pieces);
            let count: usize = groups.iter().map(Vec::len).sum();
            assert_eq!(count, pieces.iter().filter(|piece| piece.len > 0).count());
            let place = |wanted: &Piece| pieces.iter().position(|piece| piece == wanted);
            let range = |group: &Vec<Piece>| {
                assert!(group.is_sorted_by_key(place), "seed {seed}");
                touched(group, 0, 0).unwrap()
            };
            let ranges: Vec<_> = groups.iter().map(range).collect();
            let is_far = |pair: &[(u64, u64)]| pair[0].1 + GROUP_GAP_BYTES < pair[1].0;
            assert!(ranges.windows(2).all(is_far), "seed {seed}: {ranges:?}");
        }
    }

    #[test]
    fn content_is_compared_across_other_cuts() {
        let split = overwrite(
            Vec::new(),
            &[piece(0, 2, 1, 10), piece(2, 2, 1, 12), piece(4, 1, 2, 7)],
            5,
        );
        let whole = overwrite(Vec::new(), &[piece(0, 4, 1, 10), piece(4, 1, 2, 7)], 5);
        let other = overwrite(Vec::new(), &[piece(0, 4, 1, 11), piece(4, 1, 2, 7)], 5);
        assert!(same_content(&split, &whole));
        assert!(!same_content(&split, &other));
        // Written zeros, and none.
        let inline = |offset, bytes: &'static [u8]| Extent {
            offset,
            len: bytes.len() as u64,
            src: Source::Inline(Bytes::from_static(bytes)),
        };
        let dense = [inline(0, b"\0a\0"), inline(3, b"\0b\0\0")];
        let sparse = [inline(1, b"a"), inline(4, b"b\0")];
        assert!(same_content(&dense, &sparse) && same_content(&sparse, &dense));
        assert!(!same_content(&dense, &sparse[..1]) && !same_content(&[], &sparse));
        assert!(same_content(&dense[..0], &[inline(2, b"\0\0")]));
        let chunk = overwrite(Vec::new(), &[piece(0, 4, 1, 10)], 4);
        assert!(!same_content(&chunk, &[]) && !same_content(&dense, &chunk));
    }

    #[test]
    fn pieces_beyond_the_limits_are_named() {
        let sound = piece(0, 4, 1, 1);
        assert_eq!(check_pieces(std::slice::from_ref(&sound), 4), None);
        let mut long = sound.clone();
        long.len = 5;
        assert!(check_pieces(&[long], 4).is_some());
        let mut far = sound.clone();
        far.offset = u64::MAX - 1;
        assert!(check_pieces(&[far], 4).is_some());
        assert!(check_pieces(&[], FILE_MAX_BYTES + 1).is_some());
        let hole = Piece {
            offset: 0,
            len: 1 << 40,
            src: None,
        };
        assert_eq!(check_pieces(&[hole], 4), None);
    }
}
