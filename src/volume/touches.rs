//! Which ops touched what, by digest: a sorted set that takes little more memory than what is in it.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::{Bound, RangeBounds};

use crate::base::{LogId, OpId, Stamp};

/// One op that touched something: digest and stamp, high halves first, and the number of the log. Without
/// padding, so that one takes 20 bytes.
type Touch = [u32; 5];

/// Pairs of a digest and an op, in the order of the digests.
#[derive(Debug, Default)]
pub(super) struct Touches {
    /// Sorted, none empty, each below the next.
    blocks: Vec<Vec<Touch>>,
    /// Logs by number.
    logs: Vec<LogId>,
    numbers: HashMap<LogId, u32>,
    len: usize,
}

/// A block of more is parted: what is moved to insert one is some kilobytes.
const BLOCK_MAX: usize = 256;

/// Room is added to a block for so many at a time.
const BLOCK_STEP: usize = 16;

fn halves(whole: u64) -> [u32; 2] {
    [(whole >> 32) as u32, whole as u32]
}

fn whole(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn touch(digest: u64, stamp: Stamp, log: u32) -> Touch {
    let ([a, b], [c, d]) = (halves(digest), halves(stamp.0));
    [a, b, c, d, log]
}

impl Touches {
    /// Adds an op that touched something.
    pub(super) fn insert(&mut self, digest: u64, id: OpId) {
        let next = u32::try_from(self.logs.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(id.log).or_insert_with(|| {
            self.logs.push(id.log);
            next
        });
        let touch = touch(digest, id.stamp, number);
        let at = self.block_of(&touch);
        let Some(block) = self.blocks.get_mut(at) else {
            self.blocks.push(vec![touch]);
            self.len += 1;
            return;
        };
        let Err(place) = block.binary_search(&touch) else {
            return;
        };
        if block.len() == block.capacity() {
            block.reserve_exact(BLOCK_STEP);
        }
        block.insert(place, touch);
        self.len += 1;
        if block.len() > BLOCK_MAX {
            let rest = block.split_off(BLOCK_MAX / 2);
            block.shrink_to_fit();
            self.blocks.insert(at + 1, rest);
        }
    }

    /// Takes an op out.
    pub(super) fn remove(&mut self, digest: u64, id: OpId) {
        let Some(number) = self.numbers.get(&id.log) else {
            return;
        };
        let touch = touch(digest, id.stamp, *number);
        let at = self.block_of(&touch);
        if let Some(block) = self.blocks.get_mut(at)
            && let Ok(place) = block.binary_search(&touch)
        {
            block.remove(place);
            self.len -= 1;
            if block.is_empty() {
                self.blocks.remove(at);
            }
        }
    }

    /// Visits the ops within a range that touched something, in the order of their stamps.
    pub(super) fn within(
        &self,
        digest: u64,
        range: (Bound<OpId>, Bound<OpId>),
    ) -> impl Iterator<Item = OpId> + '_ {
        let (Bound::Included(first) | Bound::Excluded(first)) = range.0 else {
            return self.from(digest, Stamp(0), range);
        };
        self.from(digest, first.stamp, range)
    }

    fn from(
        &self,
        digest: u64,
        first: Stamp,
        range: (Bound<OpId>, Bound<OpId>),
    ) -> impl Iterator<Item = OpId> + '_ {
        let last = match range.1 {
            Bound::Included(last) | Bound::Excluded(last) => last.stamp,
            Bound::Unbounded => Stamp(u64::MAX),
        };
        let (from, to) = (touch(digest, first, 0), touch(digest, last, u32::MAX));
        let at = self.block_of(&from);
        let mut blocks = self.blocks.get(at..).unwrap_or_default().iter();
        let first = blocks.next().map_or(&[][..], |block| {
            let place = block.partition_point(|touch| *touch < from);
            block.get(place..).unwrap_or_default()
        });
        let all = first.iter().chain(blocks.flatten());
        let all = all.take_while(move |touch| **touch <= to);
        let ids = all.filter_map(|[_, _, high, low, log]| {
            let stamp = Stamp(whole(*high, *low));
            let log = *self.logs.get(*log as usize)?;
            Some(OpId { stamp, log })
        });
        ids.filter(move |id| range.contains(id))
    }

    /// Returns which block holds a touch, or is to hold it.
    fn block_of(&self, touch: &Touch) -> usize {
        let starts_before = |block: &Vec<Touch>| {
            let first = block.first().map(|first| first.cmp(touch));
            first != Some(Ordering::Greater)
        };
        let behind = self.blocks.partition_point(starts_before);
        behind.saturating_sub(1)
    }

    /// Returns how many bytes it takes, about.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        let blocks = self.blocks.iter();
        let blocks =
            blocks.map(|block| size_of::<Vec<Touch>>() + block.capacity() * size_of::<Touch>());
        blocks.sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::Rng;

    #[test]
    fn it_has_what_a_set_has_and_takes_little_more() {
        for seed in 0..4 {
            let rng = Rng::from_seed(seed);
            let (mut touches, mut model) = (Touches::default(), BTreeSet::new());
            let some = |rng: &Rng| {
                let stamp = Stamp(rng.below(3000) << 30);
                // Not in the order of their numbers.
                let log = LogId(u64::MAX / (1 + rng.below(5)));
                // Some are touched by very many.
                let digest = rng.below(1 + rng.below(200)) << 31;
                (digest, OpId { stamp, log })
            };
            for step in 0..8000 {
                let (digest, id) = some(&rng);
                if rng.below(3) > 0 || step < 2000 {
                    touches.insert(digest, id);
                    model.insert((digest, id));
                } else {
                    touches.remove(digest, id);
                    model.remove(&(digest, id));
                }
            }
            assert_eq!(touches.len, model.len(), "seed {seed}");
            for _ in 0..100 {
                let (digest, one) = some(&rng);
                let other = some(&rng).1;
                let bound = |id, which| match which {
                    0 => Bound::Included(id),
                    1 => Bound::Excluded(id),
                    _ => Bound::Unbounded,
                };
                let (first, last) = (one.min(other), one.max(other));
                let range = (bound(first, rng.below(3)), bound(last, rng.below(3)));
                let found: BTreeSet<OpId> = touches.within(digest, range).collect();
                let all = model.iter().filter(|(of, _)| *of == digest);
                let all = all.map(|(_, id)| *id).filter(|id| range.contains(id));
                assert_eq!(found, all.collect(), "seed {seed}");
            }
        }
        let rng = Rng::from_seed(1);
        let mut touches = Touches::default();
        for stamp in 0..100_000 {
            let (stamp, log) = (Stamp(stamp), LogId(stamp % 2));
            touches.insert(u64::from_be_bytes(rng.bytes()), OpId { stamp, log });
        }
        let each = touches.bytes() as f64 / touches.len as f64;
        assert!(each < 23.0, "{each} bytes for one of 20");
    }
}
