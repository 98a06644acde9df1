//! Parts of sealed bytes that are checked against the id of all of them: BLAKE3 is a tree, and hashes
//! beside the way to a part stand for what is left out.

use std::ops::Range;

use blake3::hazmat::{
    HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use blake3::{CHUNK_LEN, Hasher};
use bytes::Bytes;

use super::frames::{CHUNK_HEAD_BYTES, chunk_head};
use crate::base::ChunkId;

/// Most hashes of a part: on each side of three ranges one a level of a tree of 4,096 leaves.
pub const PART_HASHES_MAX: usize = 6 * 12;

type Hash = [u8; 32];

/// A part of sealed bytes, and what shows that it is one: the range that was asked for, the head, and
/// the last byte, which shows how many there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenPart {
    /// Length of all sealed bytes.
    pub len: usize,
    /// Hashes of the subtrees that are left out, from left to right.
    pub hashes: Vec<Hash>,
    /// The leaves of the tree that have a byte of the part, one behind the other.
    pub bytes: Bytes,
}

impl ProvenPart {
    /// Cuts a range out of sealed bytes; also returns the id of all of them. What lies beyond their end
    /// is left out.
    pub fn of(sealed: &[u8], wanted: &Range<usize>) -> (ChunkId, Self) {
        let runs = runs(sealed.len(), wanted);
        let mut hashes = Vec::new();
        let root = root(sealed.len(), &runs, &mut |subtree, is_in| {
            let bytes = sealed.get(subtree.clone())?;
            if is_in {
                return Some(Subtree::Bytes(bytes));
            }
            hashes.push(hash_of(subtree.start, bytes));
            hashes.last().copied().map(Subtree::Hash)
        });
        let bytes = runs.iter().filter_map(|run| sealed.get(run.clone()));
        let bytes = bytes.collect::<Vec<_>>().concat().into();
        let len = sealed.len();
        let id = root.expect("each subtree of the bytes lies within them");
        (ChunkId(id), Self { len, hashes, bytes })
    }

    /// Returns the head and the range that was asked for, if they are those of the sealed bytes with
    /// this id; the head is filled up with zeros where there are fewer bytes.
    pub fn verify(
        &self,
        id: ChunkId,
        wanted: &Range<usize>,
    ) -> Option<([u8; CHUNK_HEAD_BYTES], Bytes)> {
        let runs = runs(self.len, wanted);
        let (mut hashes, mut rest) = (self.hashes.iter(), &self.bytes[..]);
        let root = root(self.len, &runs, &mut |subtree, is_in| {
            if !is_in {
                return hashes.next().copied().map(Subtree::Hash);
            }
            let (bytes, later) = rest.split_at_checked(subtree.len())?;
            rest = later;
            Some(Subtree::Bytes(bytes))
        });
        if root != Some(id.0) || hashes.next().is_some() || !rest.is_empty() {
            return None;
        }
        let head = chunk_head(self.bytes.get(..self.len.min(CHUNK_HEAD_BYTES))?);
        let end = wanted.end.min(self.len);
        let wanted = wanted.start.min(end)..end;
        let mut before = 0;
        for run in runs {
            if run.start <= wanted.start && wanted.end <= run.end {
                let at = before + wanted.start - run.start;
                return Some((head, self.bytes.slice(at..at + wanted.len())));
            }
            before += run.len();
        }
        None
    }
}

/// What is known of a subtree.
enum Subtree<'a> {
    Hash(Hash),
    Bytes(&'a [u8]),
}

/// Gives what is known of the subtree over a range, of which all bytes are in the part or none.
type Known<'a, 'b> = dyn FnMut(&Range<usize>, bool) -> Option<Subtree<'a>> + 'b;

/// Returns the runs of leaves that have a byte of a part, ascending.
fn runs(len: usize, wanted: &Range<usize>) -> Vec<Range<usize>> {
    let end = wanted.end.min(len);
    let parts = [
        0..len.min(CHUNK_HEAD_BYTES),
        wanted.start.min(end)..end,
        len.saturating_sub(1)..len,
    ];
    let mut runs: Vec<Range<usize>> = Vec::new();
    for part in parts {
        let start = part.start / CHUNK_LEN * CHUNK_LEN;
        let end = part.end.next_multiple_of(CHUNK_LEN).min(len);
        match runs.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => runs.push(start..end),
        }
    }
    runs
}

/// Returns the hash of so many bytes.
fn root<'a>(len: usize, runs: &[Range<usize>], known: &mut Known<'a, '_>) -> Option<Hash> {
    if len <= CHUNK_LEN {
        // One leaf, in which the head is.
        return match known(&(0..len), true)? {
            Subtree::Hash(_) => None,
            Subtree::Bytes(bytes) => Some(blake3::hash(bytes).into()),
        };
    }
    let [left, right] = halves(&(0..len));
    let left = node(&left, runs, known)?;
    let right = node(&right, runs, known)?;
    Some(merge_subtrees_root(&left, &right, Mode::Hash).into())
}

fn node<'a>(of: &Range<usize>, runs: &[Range<usize>], known: &mut Known<'a, '_>) -> Option<Hash> {
    let is_in = runs
        .iter()
        .any(|run| run.start <= of.start && of.end <= run.end);
    let is_touched = runs
        .iter()
        .any(|run| run.start < of.end && of.start < run.end);
    if is_in || !is_touched {
        return Some(match known(of, is_in)? {
            Subtree::Hash(hash) => hash,
            Subtree::Bytes(bytes) => hash_of(of.start, bytes),
        });
    }
    let [left, right] = halves(of);
    let left = node(&left, runs, known)?;
    let right = node(&right, runs, known)?;
    Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
}

/// Returns the halves of a subtree of more than one leaf.
fn halves(of: &Range<usize>) -> [Range<usize>; 2] {
    let middle = of.start + left_subtree_len(of.len() as u64) as usize;
    [of.start..middle, middle..of.end]
}

/// Returns the hash of the subtree that begins at `start`, which is not the root.
fn hash_of(start: usize, bytes: &[u8]) -> Hash {
    Hasher::new()
        .set_input_offset(start as u64)
        .update(bytes)
        .finalize_non_root()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use crate::crypto::chunk_id;

    fn sealed(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_part_of_any_length_is_shown_to_be_one() {
        for len in [
            0,
            1,
            36,
            37,
            1023,
            1024,
            1025,
            2048,
            2049,
            5000,
            70_001,
            1 << 20,
        ] {
            let sealed = sealed(len);
            let near = |at: usize| [at.saturating_sub(1), at, at + 1];
            let places = [0, 37, 1024, 2048, len / 2, len].into_iter().flat_map(near);
            let places: Vec<usize> = places.collect();
            for start in &places {
                for end in places.iter().filter(|end| *end >= start) {
                    let wanted = *start..*end;
                    let (id, part) = ProvenPart::of(&sealed, &wanted);
                    assert_eq!(id, chunk_id(&sealed));
                    assert!(part.hashes.len() <= PART_HASHES_MAX);
                    let (head, bytes) = part.verify(id, &wanted).unwrap();
                    assert_eq!(head, chunk_head(&sealed));
                    assert_eq!(bytes, sealed[*start.min(&len)..*end.min(&len)]);
                }
            }
        }
    }

    #[test]
    fn a_frame_of_a_full_chunk_takes_little_more_than_itself() {
        let sealed = sealed((1 << 20) + 1061);
        let wanted = 37 + 20 * 16_400..37 + 21 * 16_400;
        let (_, part) = ProvenPart::of(&sealed, &wanted);
        let len = part.bytes.len() + 32 * part.hashes.len();
        assert!(len < 16_400 + 4 * 1024, "{len}");
    }

    #[test]
    fn no_change_of_a_part_goes_unseen() {
        let rng = Rng::from_seed(3);
        let sealed = sealed(100_000);
        let wanted = 50_000..54_000;
        let (id, part) = ProvenPart::of(&sealed, &wanted);
        let refused = |part: &ProvenPart| part.verify(id, &wanted).is_none();
        for _ in 0..200 {
            let at = u32::from_le_bytes(rng.bytes::<4>()) as usize % part.bytes.len();
            let mut bytes = part.bytes.to_vec();
            bytes[at] ^= 1;
            let changed = ProvenPart {
                bytes: bytes.into(),
                ..part.clone()
            };
            assert!(refused(&changed), "byte {at}");
        }
        for index in 0..part.hashes.len() {
            let mut changed = part.clone();
            changed.hashes[index][7] ^= 1;
            assert!(refused(&changed));
            let mut fewer = part.clone();
            fewer.hashes.remove(index);
            assert!(refused(&fewer));
            let mut more = part.clone();
            more.hashes.insert(index, [0; 32]);
            assert!(refused(&more));
        }
        // Another length is found, too: the last byte is there.
        for len in (0..200_000)
            .step_by(97)
            .chain([99_999, 100_001, usize::MAX / 2])
        {
            let changed = ProvenPart {
                len,
                ..part.clone()
            };
            assert!(refused(&changed), "{len} bytes");
        }
        // Another place, another chunk.
        assert!(part.verify(id, &(60_000..64_000)).is_none());
        assert!(part.verify(chunk_id(b"other"), &wanted).is_none());
        let cut = part.bytes.slice(1..);
        let cut = ProvenPart {
            bytes: cut,
            ..part.clone()
        };
        assert!(refused(&cut));
    }
}
