//! How much of what the volume holds of a file its unwritten changes hide.

use std::ops::Range;

use crate::base::OpId;

/// Ranges whose extents are asked for one by one; those of more are asked for at once, with all
/// that lies between.
const RANGES_ASKED_MAX: usize = 8;

/// The bytes that the volume holds where a file was changed, as far as they were asked for.
///
/// Each of the changed ranges costs a scan of the rows, and a file that is written here and there
/// is asked for its attributes after each write: so what is known of the others is kept.
#[derive(Debug, Default)]
pub(in crate::fs) struct Hidden {
    /// The content version that was asked.
    version: OpId,
    /// Sorted and apart, each with its bytes.
    known: Vec<(Range<u64>, u64)>,
}

impl Hidden {
    /// Returns how many bytes of content `version` lie in `ranges`, which are sorted and apart.
    ///
    /// `extents` returns the ranges of those that meet a range, in order; it is asked for what is not
    /// known.
    pub(in crate::fs) fn bytes_in<E>(
        &mut self,
        version: OpId,
        ranges: Vec<Range<u64>>,
        extents: &mut dyn FnMut(Range<u64>) -> Result<Vec<Range<u64>>, E>,
    ) -> Result<u64, E> {
        if self.version != version {
            self.known.clear();
            self.version = version;
        }
        let mut counted: Vec<(Range<u64>, u64)> =
            ranges.into_iter().map(|range| (range, 0)).collect();
        let mut gaps = Vec::new();
        let mut known = self.known.iter().peekable();
        for (index, (range, bytes)) in counted.iter_mut().enumerate() {
            let mut at = range.start;
            while let Some((part, part_bytes)) = known.next_if(|(part, _)| part.end <= range.end) {
                // One that was cut since says nothing about what is left of it.
                if part.start >= at {
                    if part.start > at {
                        gaps.push((index, at..part.start));
                    }
                    *bytes += part_bytes;
                    at = part.end;
                }
            }
            if at < range.end {
                gaps.push((index, at..range.end));
            }
        }
        let bulk = match &*gaps {
            [(_, first), .., (_, last)] if gaps.len() > RANGES_ASKED_MAX => {
                Some(extents(first.start..last.end)?)
            }
            _ => None,
        };
        for (index, gap) in gaps {
            let found = match &bulk {
                Some(all) => overlap(all, &gap),
                None => overlap(&extents(gap.clone())?, &gap),
            };
            if let Some((_, bytes)) = counted.get_mut(index) {
                *bytes += found;
            }
        }
        self.known = counted;
        Ok(self.known.iter().map(|(_, bytes)| bytes).sum())
    }
}

/// Returns how many bytes of some extents, which are in order, lie in a range.
fn overlap(extents: &[Range<u64>], range: &Range<u64>) -> u64 {
    let first = extents.partition_point(|extent| extent.end <= range.start);
    let met = extents.iter().skip(first);
    met.take_while(|extent| extent.start < range.end)
        .map(|extent| extent.end.min(range.end) - extent.start.max(range.start))
        .sum()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;
    use crate::base::Rng;
    use crate::base::time::Stamp;

    fn extent(offset: u64, len: u64) -> Range<u64> {
        offset..offset + len
    }

    #[test]
    fn overlaps_are_counted_once() {
        let extents = [extent(0, 10), extent(10, 5), extent(30, 10)];
        let bytes: Vec<u64> = [0..100, 2..4, 5..12, 14..31, 39..80, 15..30]
            .iter()
            .map(|range| overlap(&extents, range))
            .collect();
        assert_eq!(bytes, [25, 2, 7, 2, 1, 0]);
        assert_eq!(overlap(&[], &(0..100)), 0);
    }

    /// A file of some bytes: each is stored or not, and hidden by a change or not.
    struct Model {
        version: OpId,
        stored: [bool; 200],
        changed: [bool; 200],
        asked: Cell<u64>,
    }

    impl Model {
        fn ranges(&self) -> Vec<Range<u64>> {
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for at in (0..200).filter(|at| self.changed[*at as usize]) {
                match ranges.last_mut() {
                    Some(last) if last.end == at => last.end += 1,
                    _ => ranges.push(at..at + 1),
                }
            }
            ranges
        }

        /// Extents of up to seven bytes, whole where they meet the range.
        fn extents(&self, range: &Range<u64>) -> Vec<Range<u64>> {
            self.asked.set(self.asked.get() + range.end - range.start);
            let mut extents: Vec<Range<u64>> = Vec::new();
            for at in (0..200).filter(|at| self.stored[*at as usize]) {
                match extents.last_mut() {
                    Some(last) if last.end == at && last.end - last.start < 7 => last.end += 1,
                    _ => extents.push(extent(at, 1)),
                }
            }
            extents.retain(|extent| extent.start < range.end && extent.end > range.start);
            extents
        }

        fn ask(&self, hidden: &mut Hidden) -> u64 {
            let mut extents = |range| Ok::<_, Infallible>(self.extents(&range));
            let Ok(bytes) = hidden.bytes_in(self.version, self.ranges(), &mut extents);
            bytes
        }
    }

    fn model(rng: &Rng) -> Model {
        let mut model = Model {
            version: OpId::default(),
            stored: [false; 200],
            changed: [false; 200],
            asked: Cell::new(0),
        };
        model.stored.fill_with(|| rng.below(3) > 0);
        model
    }

    #[test]
    fn what_is_hidden_is_what_a_byte_by_byte_count_says() {
        for seed in 4_100..4_150 {
            println!("seed {seed}");
            let rng = Rng::from_seed(seed);
            let mut model = model(&rng);
            let mut hidden = Hidden::default();
            for step in 1..200 {
                let start = rng.below(200) as usize;
                let end = (start + 1 + rng.below(20) as usize).min(200);
                match rng.below(12) {
                    // Truncated: the changes beyond are gone.
                    0 => model.changed[start..].fill(false),
                    // Written by somebody else.
                    1 => {
                        model.stored.fill_with(|| rng.below(3) > 0);
                        model.version = OpId {
                            stamp: Stamp(step),
                            log: crate::base::LogId(1),
                        };
                    }
                    2 => model.changed[start..end].fill(false),
                    _ => model.changed[start..end].fill(true),
                }
                if rng.below(3) > 0 {
                    let both = model.stored.iter().zip(&model.changed);
                    let expected = both.filter(|(stored, changed)| **stored && **changed);
                    assert_eq!(model.ask(&mut hidden), expected.count() as u64);
                }
            }
        }
    }

    #[test]
    fn what_is_known_is_not_asked_for_again() {
        let mut model = model(&Rng::from_seed(1));
        let mut hidden = Hidden::default();
        // Ranges that grow and join, one byte at a time.
        for at in (0..200).step_by(2).chain((1..200).step_by(2)) {
            model.changed[at] = true;
            model.ask(&mut hidden);
            model.ask(&mut hidden);
        }
        assert_eq!(model.asked.get(), 200);
    }
}
