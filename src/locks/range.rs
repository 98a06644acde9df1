//! Ranges of bytes with a kind: what meets, what covers, what is left.

use crate::wire::LockRange;

/// All bytes that a file may have.
pub(super) const ALL: LockRange = LockRange {
    start: 0,
    end: u64::MAX,
    exclusive: true,
};

/// Says whether two ranges have a byte in common.
pub(super) fn meet(one: LockRange, other: LockRange) -> bool {
    one.start <= other.end && other.start <= one.end
}

/// Says whether two different owners cannot have both.
pub(super) fn conflict(one: LockRange, other: LockRange) -> bool {
    meet(one, other) && (one.exclusive || other.exclusive)
}

/// Returns what is left of a range, before and behind another.
pub(super) fn without(range: LockRange, taken: LockRange) -> [Option<LockRange>; 2] {
    if !meet(range, taken) {
        return [Some(range), None];
    }
    let before = taken
        .start
        .checked_sub(1)
        .filter(|_| taken.start > range.start);
    let behind = taken.end.checked_add(1).filter(|_| taken.end < range.end);
    [
        before.map(|end| LockRange { end, ..range }),
        behind.map(|start| LockRange { start, ..range }),
    ]
}

/// Returns ranges in order, none of which meets another or could be one with it; where some overlap, it is
/// exclusive where one of them is.
pub(super) fn union(ranges: impl IntoIterator<Item = LockRange>) -> Vec<LockRange> {
    let (exclusive, shared): (Vec<_>, Vec<_>) =
        ranges.into_iter().partition(|range| range.exclusive);
    let exclusive = joined(exclusive);
    let mut all: Vec<LockRange> = joined(shared)
        .into_iter()
        .flat_map(|range| minus(vec![range], &exclusive))
        .collect();
    all.extend(exclusive);
    all.sort_unstable();
    all
}

/// Joins ranges of one kind.
fn joined(mut ranges: Vec<LockRange>) -> Vec<LockRange> {
    ranges.sort_unstable();
    let mut joined: Vec<LockRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(1) => {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// Returns what is left of ranges without others.
fn minus(mut ranges: Vec<LockRange>, taken: &[LockRange]) -> Vec<LockRange> {
    for taken in taken {
        let left = ranges.into_iter().flat_map(|range| without(range, *taken));
        ranges = left.flatten().collect();
    }
    ranges
}

/// Says whether a range lies in others, which are as strong.
pub(super) fn is_covered(range: LockRange, by: &[LockRange]) -> bool {
    let strong: Vec<LockRange> = by
        .iter()
        .filter(|by| by.exclusive || !range.exclusive)
        .copied()
        .collect();
    minus(vec![range], &strong).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    fn range(start: u64, end: u64, exclusive: bool) -> LockRange {
        LockRange {
            start,
            end,
            exclusive,
        }
    }

    /// Returns for each byte whether it is locked, and how.
    fn bytes(ranges: &[LockRange]) -> [Option<bool>; 12] {
        std::array::from_fn(|byte| {
            let byte = byte as u64;
            let here = ranges
                .iter()
                .filter(|one| one.start <= byte && byte <= one.end);
            here.map(|one| one.exclusive).max()
        })
    }

    #[test]
    fn ranges_are_what_their_bytes_are() {
        let rng = Rng::from_seed(1);
        for round in 0..5_000 {
            let any = || {
                let start = rng.below(12);
                range(start, start + rng.below(12 - start), rng.below(2) == 0)
            };
            let some: Vec<LockRange> = (0..rng.below(6)).map(|_| any()).collect();
            let all = union(some.clone());
            assert_eq!(bytes(&all), bytes(&some), "round {round}: {some:?}");
            let ascend = all.windows(2).all(|two| two[0].end < two[1].start);
            assert!(ascend, "round {round}: {all:?}");
            let (one, other) = (any(), any());
            let left: Vec<LockRange> = without(one, other).into_iter().flatten().collect();
            for byte in 0..12 {
                let is_in = |range: &LockRange| range.start <= byte && byte <= range.end;
                let is_left = left.iter().any(is_in);
                assert_eq!(is_left, is_in(&one) && !is_in(&other), "round {round}");
            }
            let covers = (one.start..=one.end).all(|byte| {
                let here = bytes(&some)[usize::try_from(byte).unwrap()];
                here.is_some_and(|exclusive| exclusive || !one.exclusive)
            });
            assert_eq!(
                is_covered(one, &some),
                covers,
                "round {round}: {one:?} {some:?}"
            );
        }
        assert_eq!(union([ALL, range(3, 4, false)]), [ALL]);
        assert!(is_covered(range(u64::MAX, u64::MAX, true), &[ALL]));
        assert_eq!(without(ALL, ALL), [None, None]);
    }
}
