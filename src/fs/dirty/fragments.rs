//! Changed ranges of a file in order, on the grid of chunks.
//!
//! Invariants: fragments never overlap, none is empty, and none but a hole crosses a border of
//! the grid, so that a fragment that fills its cell is one chunk.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Sealing;
use crate::base::limits::{CHUNK_BYTES, INLINE_MAX_BYTES};
use crate::volume::Source;

/// A changed range: its start is its key in [`Fragments`].
#[derive(Debug, Clone)]
pub(in crate::fs) struct Fragment {
    /// Bytes covered.
    pub(in crate::fs) len: u64,
    /// What is there now.
    pub(in crate::fs) body: Body,
}

/// What a changed range holds.
#[derive(Debug, Clone)]
pub(in crate::fs) enum Body {
    /// Written bytes, still growing.
    Memory(Vec<u8>),
    /// A part of a full cell that is being sealed, from `skip` bytes into it.
    Sealing(Arc<Sealing>, u32),
    /// Bytes that are in the volume already: copied by reference.
    Stored(Source),
    /// Nothing: reads as zeros.
    Hole,
}

/// The changed ranges of a file.
#[derive(Debug, Default)]
pub(in crate::fs) struct Fragments {
    map: BTreeMap<u64, Fragment>,
}

impl Fragments {
    /// Returns how many there are.
    pub(in crate::fs) fn len(&self) -> usize {
        self.map.len()
    }

    /// Returns all in order of their start.
    pub(in crate::fs) fn iter(&self) -> impl Iterator<Item = (u64, &Fragment)> {
        self.map.iter().map(|(start, fragment)| (*start, fragment))
    }

    /// Returns the stretches that they cover, in order; neighbours are one.
    pub(in crate::fs) fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (start, fragment) in &self.map {
            let end = start + fragment.len;
            match ranges.last_mut() {
                Some(last) if last.end == *start => last.end = end,
                _ => ranges.push(*start..end),
            }
        }
        ranges
    }

    /// Returns those that overlap `range`, in order.
    pub(in crate::fs) fn overlapping(
        &self,
        range: Range<u64>,
    ) -> impl Iterator<Item = (u64, &Fragment)> {
        let first = self.first_overlapping(range.start);
        self.map
            .range(first..range.end.max(first))
            .map(|(start, fragment)| (*start, fragment))
    }

    /// Returns the bytes that are held in memory.
    pub(in crate::fs) fn memory_bytes(&self) -> u64 {
        self.map
            .values()
            .map(|fragment| match &fragment.body {
                Body::Memory(bytes) => bytes.len() as u64,
                Body::Sealing(sealing, _) => sealing.memory_bytes(),
                Body::Stored(_) | Body::Hole => 0,
            })
            .sum()
    }

    /// Returns whether some of them go into chunks, which have to be made and durable first.
    pub(in crate::fs) fn needs_chunks(&self) -> bool {
        self.map.values().any(|fragment| match &fragment.body {
            Body::Memory(bytes) => bytes.len() as u64 > INLINE_MAX_BYTES,
            Body::Sealing(..) => true,
            Body::Stored(_) | Body::Hole => false,
        })
    }

    /// Puts bytes at `offset`.
    pub(in crate::fs) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let room = CHUNK_BYTES - at % CHUNK_BYTES;
            let take = usize::try_from(room).map_or(rest.len(), |room| room.min(rest.len()));
            let (piece, next) = rest.split_at(take);
            self.write_in_cell(at, piece);
            at += take as u64;
            rest = next;
        }
    }

    /// Makes a range a hole.
    pub(in crate::fs) fn punch(&mut self, range: Range<u64>) {
        self.remove(range.clone());
        if range.start < range.end {
            let len = range.end - range.start;
            let body = Body::Hole;
            self.map.insert(range.start, Fragment { len, body });
        }
    }

    /// Puts a reference to stored bytes at `offset`; it must not cross a border of the grid.
    pub(in crate::fs) fn refer(&mut self, offset: u64, len: u64, source: Source) {
        debug_assert!(len > 0 && offset % CHUNK_BYTES + len <= CHUNK_BYTES);
        self.remove(offset..offset + len);
        let body = Body::Stored(source);
        self.map.insert(offset, Fragment { len, body });
    }

    /// Forgets what is changed in a range: what the volume holds there shows through again.
    pub(in crate::fs) fn remove(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        self.split_at(range.start);
        self.split_at(range.end);
        let keys: Vec<u64> = self.map.range(range).map(|(start, _)| *start).collect();
        for key in keys {
            self.map.remove(&key);
        }
    }

    /// Takes the written bytes of the cell at `start` if they fill it, leaving what `seal`
    /// makes of them.
    pub(in crate::fs) fn seal_full_cell(
        &mut self,
        start: u64,
        seal: impl FnOnce(Bytes) -> Arc<Sealing>,
    ) -> bool {
        let Some(fragment) = self.map.get_mut(&start) else {
            return false;
        };
        let Body::Memory(bytes) = &mut fragment.body else {
            return false;
        };
        if bytes.len() as u64 != CHUNK_BYTES {
            return false;
        }
        let plain = Bytes::from(std::mem::take(bytes));
        fragment.body = Body::Sealing(seal(plain), 0);
        true
    }

    /// Returns the oldest range that is being sealed and still holds memory.
    pub(in crate::fs) fn first_sealing(&self) -> Option<Arc<Sealing>> {
        self.map.values().find_map(|fragment| match &fragment.body {
            Body::Sealing(sealing, _) if sealing.memory_bytes() > 0 => Some(Arc::clone(sealing)),
            _ => None,
        })
    }

    /// Replaces the body of the fragment at `start`.
    pub(in crate::fs) fn replace_body(&mut self, start: u64, body: Body) {
        if let Some(fragment) = self.map.get_mut(&start) {
            fragment.body = body;
        }
    }

    /// Takes the body of the fragment at `start` out of its place, leaving a hole there.
    pub(in crate::fs) fn take_body(&mut self, start: u64) -> Option<Body> {
        let fragment = self.map.get_mut(&start)?;
        Some(std::mem::replace(&mut fragment.body, Body::Hole))
    }

    fn first_overlapping(&self, at: u64) -> u64 {
        match self.map.range(..=at).next_back() {
            Some((start, fragment)) if start + fragment.len > at => *start,
            _ => at,
        }
    }

    fn write_in_cell(&mut self, at: u64, data: &[u8]) {
        let end = at + data.len() as u64;
        if self.overwrite(at, data) {
            return;
        }
        self.remove(at..end);
        let cell = at - at % CHUNK_BYTES;
        let start = match self.growing_before(at, cell) {
            Some((start, bytes)) => {
                reserve(bytes, data.len());
                bytes.extend_from_slice(data);
                self.grow(start, data.len() as u64);
                start
            }
            None => {
                let mut bytes = Vec::new();
                if at == cell && data.len() >= SEQUENTIAL_BYTES {
                    bytes.reserve_exact(CELL_BYTES);
                }
                bytes.extend_from_slice(data);
                let len = data.len() as u64;
                let body = Body::Memory(bytes);
                self.map.insert(at, Fragment { len, body });
                at
            }
        };
        self.join_next(start, end, cell + CHUNK_BYTES);
    }

    /// Copies `data` in place where one written fragment holds the whole range.
    fn overwrite(&mut self, at: u64, data: &[u8]) -> bool {
        let Some((start, fragment)) = self.map.range_mut(..=at).next_back() else {
            return false;
        };
        let Body::Memory(bytes) = &mut fragment.body else {
            return false;
        };
        let Ok(skip) = usize::try_from(at - start) else {
            return false;
        };
        match bytes
            .get_mut(skip..)
            .and_then(|rest| rest.get_mut(..data.len()))
        {
            Some(place) => {
                place.copy_from_slice(data);
                true
            }
            None => false,
        }
    }

    /// Returns the written fragment of the same cell that ends at `at`.
    fn growing_before(&mut self, at: u64, cell: u64) -> Option<(u64, &mut Vec<u8>)> {
        let (start, fragment) = self.map.range_mut(cell..at).next_back()?;
        let end = start + fragment.len;
        match &mut fragment.body {
            Body::Memory(bytes) if end == at => Some((*start, bytes)),
            _ => None,
        }
    }

    fn grow(&mut self, start: u64, by: u64) {
        if let Some(fragment) = self.map.get_mut(&start) {
            fragment.len += by;
        }
    }

    /// Joins the written fragment that begins at `end` to the one at `start` which ends there.
    fn join_next(&mut self, start: u64, end: u64, cell_end: u64) {
        let joins = end < cell_end
            && self
                .map
                .get(&end)
                .is_some_and(|next| matches!(next.body, Body::Memory(_)));
        if !joins {
            return;
        }
        let Some(Fragment {
            len,
            body: Body::Memory(tail),
        }) = self.map.remove(&end)
        else {
            return;
        };
        if let Some(fragment) = self.map.get_mut(&start)
            && let Body::Memory(bytes) = &mut fragment.body
        {
            bytes.extend_from_slice(&tail);
            fragment.len += len;
        }
    }

    /// Cuts the fragment that holds `at` in two there.
    fn split_at(&mut self, at: u64) {
        let Some((start, fragment)) = self.map.range_mut(..at).next_back() else {
            return;
        };
        let head = at - start;
        if fragment.len <= head {
            return;
        }
        let tail_len = fragment.len - head;
        let body = match &mut fragment.body {
            Body::Memory(bytes) => {
                let head = usize::try_from(head).expect("a fragment lies within a cell");
                Body::Memory(bytes.split_off(head))
            }
            Body::Sealing(sealing, skip) => {
                Body::Sealing(Arc::clone(sealing), *skip + within_cell(head))
            }
            Body::Stored(Source::Inline(bytes)) => {
                let head = usize::try_from(head).expect("a fragment lies within a cell");
                Body::Stored(Source::Inline(bytes.split_off(head)))
            }
            Body::Stored(Source::Chunk { id, skip }) => Body::Stored(Source::Chunk {
                id: *id,
                skip: *skip + within_cell(head),
            }),
            Body::Hole => Body::Hole,
        };
        fragment.len = head;
        let len = tail_len;
        self.map.insert(at, Fragment { len, body });
    }
}

/// Grows like a vector, but to a whole cell at once where it gets large.
fn reserve(bytes: &mut Vec<u8>, more: usize) {
    if bytes.capacity() - bytes.len() < more && bytes.len() + more >= SEQUENTIAL_BYTES {
        bytes.reserve_exact(CELL_BYTES.saturating_sub(bytes.len()).max(more));
    }
}

fn within_cell(len: u64) -> u32 {
    u32::try_from(len).expect("a fragment lies within a cell")
}

/// A write of this size at the start of a cell is taken for the start of a sequential one.
const SEQUENTIAL_BYTES: usize = 64 << 10;

const CELL_BYTES: usize = CHUNK_BYTES as usize;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(fragments: &Fragments) {
        let mut last = 0;
        for (start, fragment) in fragments.iter() {
            assert!(fragment.len > 0 && start >= last);
            last = start + fragment.len;
            if let Body::Memory(bytes) = &fragment.body {
                assert_eq!(bytes.len() as u64, fragment.len);
                assert_eq!(start / CHUNK_BYTES, (last - 1) / CHUNK_BYTES);
            }
        }
    }

    #[test]
    fn sequential_writes_fill_whole_cells() {
        let mut fragments = Fragments::default();
        let data = vec![7u8; 128 << 10];
        for index in 0..16u64 {
            fragments.write(index * data.len() as u64, &data);
        }
        assert_eq!(fragments.len(), 2);
        assert!(
            fragments
                .iter()
                .all(|(_, fragment)| fragment.len == CHUNK_BYTES)
        );
    }

    #[test]
    fn a_write_across_a_border_makes_two_fragments() {
        let mut fragments = Fragments::default();
        fragments.write(CHUNK_BYTES - 3, b"abcdef");
        let starts: Vec<_> = fragments.iter().map(|(start, f)| (start, f.len)).collect();
        assert_eq!(starts, [(CHUNK_BYTES - 3, 3), (CHUNK_BYTES, 3)]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        Punch(u64, u64),
        Remove(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Around the border at CHUNK_BYTES: 32 bytes on each side.
        let at = CHUNK_BYTES - 32..CHUNK_BYTES + 32;
        prop_oneof![
            (at.clone(), proptest::collection::vec(1u8.., 1..24))
                .prop_map(|(a, d)| Step::Write(a, d)),
            (at.clone(), 0u64..40).prop_map(|(a, l)| Step::Punch(a, l)),
            (at, 0u64..40).prop_map(|(a, l)| Step::Remove(a, l)),
        ]
    }

    proptest! {
        #[test]
        fn fragments_are_what_was_written_last(steps in proptest::collection::vec(step(), 0..24)) {
            let base = CHUNK_BYTES - 32;
            let mut model: Vec<Option<u8>> = vec![None; 160];
            let mut fragments = Fragments::default();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        for (index, byte) in data.iter().enumerate() {
                            model[(at - base) as usize + index] = Some(*byte);
                        }
                        fragments.write(at, &data);
                    }
                    Step::Punch(at, len) => {
                        model[(at - base) as usize..][..len as usize].fill(Some(0));
                        fragments.punch(at..at + len);
                    }
                    Step::Remove(at, len) => {
                        model[(at - base) as usize..][..len as usize].fill(None);
                        fragments.remove(at..at + len);
                    }
                }
                check(&fragments);
                let mut seen: Vec<Option<u8>> = vec![None; 160];
                for (start, fragment) in fragments.iter() {
                    let range = (start - base) as usize..(start - base + fragment.len) as usize;
                    for (index, place) in seen[range].iter_mut().enumerate() {
                        *place = Some(match &fragment.body {
                            Body::Memory(bytes) => bytes[index],
                            _ => 0,
                        });
                    }
                }
                prop_assert_eq!(&seen, &model);
            }
        }
    }
}
