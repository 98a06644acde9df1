//! Where a listing goes on, in 31 bits: what `telldir` of a 32-bit program can hold
//! (not with `-o ino64`).
//!
//! A position of `fs` is made of a hash of the name before it, in 63 bits. Its upper 30 bits are a
//! position as well: behind all names whose hashes begin with them. Such a short one needs no memory
//! and means the same for ever. Where several names begin alike, which is rare, those before the last
//! of them get a position out of a table of this mount, in the other half of the 31 bits.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::base::Ino;

/// Turns positions of `fs` into short ones and back.
#[derive(Debug, Default)]
pub(super) struct Positions {
    table: Mutex<Table>,
}

/// Positions between names that begin alike: a directory, and a position of `fs` in it.
#[derive(Debug, Default)]
struct Table {
    numbers: HashMap<(Ino, u64), u64>,
    /// The same by number, from `first` on.
    places: VecDeque<(Ino, u64)>,
    first: u64,
}

impl Positions {
    /// Returns the short position of `cookie`, behind which `next` follows, if anything does.
    pub(super) fn short(&self, dir: Ino, cookie: u64, next: Option<u64>) -> u64 {
        let begin = begin(cookie);
        if cookie <= DOTS || next.is_none_or(|next| begin != self::begin(next)) {
            return begin;
        }
        let mut table = self.table.lock();
        NAMED | (table.number((dir, cookie)) % NAMED)
    }

    /// Returns the position of `fs` that a short one stands for, `None` where nobody knows any more.
    pub(super) fn long(&self, dir: Ino, short: u64) -> Option<u64> {
        if short <= DOTS {
            return Some(short);
        }
        if short < NAMED {
            return Some(((short + 1) << LOWER_BITS) - 1);
        }
        let (of, cookie) = self.table.lock().place(short)?;
        (of == dir).then_some(cookie)
    }
}

impl Table {
    fn number(&mut self, place: (Ino, u64)) -> u64 {
        if let Some(number) = self.numbers.get(&place) {
            return *number;
        }
        if self.places.len() >= PLACES_MAX
            && let Some(oldest) = self.places.pop_front()
        {
            self.numbers.remove(&oldest);
            self.first += 1;
        }
        let number = self.first + self.places.len() as u64;
        self.places.push_back(place);
        self.numbers.insert(place, number);
        number
    }

    fn place(&self, short: u64) -> Option<(Ino, u64)> {
        let at = short.wrapping_sub(self.first) % NAMED;
        self.places.get(usize::try_from(at).ok()?).copied()
    }
}

/// Returns what a position begins with; `.` and `..` come before all names.
fn begin(cookie: u64) -> u64 {
    match cookie {
        0..=DOTS => cookie,
        _ => (cookie >> LOWER_BITS).max(DOTS + 1),
    }
}

/// The position behind `..`; that behind `.` is 1.
const DOTS: u64 = 2;

/// Bits of a position of `fs` that a short one has not.
const LOWER_BITS: u32 = 33;

/// From here on short positions are numbers of the table.
const NAMED: u64 = 1 << 30;

/// Places that are remembered: of a directory with a million names 500 are expected to be in use. A
/// program that comes back to an older one gets EINVAL.
const PLACES_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const DIR: Ino = Ino(7);

    /// A directory of positions, as `fs` lists it.
    #[derive(Clone)]
    struct Folder(BTreeSet<u64>);

    impl Folder {
        /// Lists up to `count` from a short position on, as a kernel sees them.
        fn list(&self, positions: &Positions, from: u64, count: usize) -> Vec<(u64, u64)> {
            let from = positions.long(DIR, from).unwrap();
            let mut rest = self.0.range(from + 1..).copied().peekable();
            let mut listed = Vec::new();
            while let Some(cookie) = rest.next()
                && listed.len() < count
            {
                let short = positions.short(DIR, cookie, rest.peek().copied());
                assert!((DOTS + 1..1 << 31).contains(&short), "{short}");
                listed.push((cookie, short));
            }
            listed
        }
    }

    /// Some that begin alike, at both ends too.
    fn folder() -> Folder {
        let end = i64::MAX as u64;
        let mut all = BTreeSet::from([3, 4, 9, 1 << 33, 3 << 33, (4 << 33) - 1, 4 << 33]);
        all.extend([end - 2, end - 1, end, (1 << 62) + 5, 1 << 62, 6 << 33]);
        Folder(all)
    }

    #[test]
    fn all_are_listed_once_in_any_replies_and_a_position_means_the_same_again() {
        let positions = Positions::default();
        let folder = folder();
        for count in 1..=folder.0.len() {
            let (mut all, mut at) = (Vec::new(), DOTS);
            loop {
                let listed = folder.list(&positions, at, count);
                let Some((_, last)) = listed.last() else {
                    break;
                };
                at = *last;
                all.extend(listed);
            }
            let cookies: Vec<u64> = all.iter().map(|(cookie, _)| *cookie).collect();
            assert_eq!(cookies, folder.0.iter().copied().collect::<Vec<_>>());
            let shorts: BTreeSet<u64> = all.iter().map(|(_, short)| *short).collect();
            assert_eq!(shorts.len(), all.len(), "two alike");
            for (cookie, short) in all {
                let next = folder.list(&positions, short, 1);
                let expected = folder.0.range(cookie + 1..).next();
                assert_eq!(next.first().map(|(cookie, _)| cookie), expected);
            }
        }
    }

    #[test]
    fn what_stays_is_listed_once_whatever_is_added_and_removed_at_the_place() {
        let full = folder();
        let all: Vec<u64> = full.0.iter().copied().collect();
        for stops in 1..all.len() {
            for changed in &all {
                for is_there_first in [true, false] {
                    let (mut first, mut then) = (full.clone(), full.clone());
                    let other = if is_there_first {
                        &mut then
                    } else {
                        &mut first
                    };
                    other.0.remove(changed);
                    let positions = Positions::default();
                    let begun = first.list(&positions, DOTS, stops);
                    let at = begun.last().unwrap().1;
                    let rest = then.list(&positions, at, usize::MAX);
                    for stays in all.iter().filter(|one| *one != changed) {
                        let listed = begun.iter().chain(&rest);
                        let times = listed.filter(|(cookie, _)| cookie == stays).count();
                        assert_eq!(times, 1, "{stays:x}, {changed:x} changed behind {at:x}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_place_is_of_one_directory_and_the_oldest_are_forgotten() {
        let positions = Positions::default();
        let name = |number: u64| (1 << 40) + number;
        let short = |number| positions.short(DIR, name(number), Some(name(number) + 1));
        let first = short(0);
        assert_eq!(positions.long(DIR, first), Some(name(0)));
        assert_eq!(positions.long(Ino(8), first), None);
        for number in 0..PLACES_MAX as u64 {
            short(number);
        }
        assert_eq!(short(0), first);
        let newest = short(PLACES_MAX as u64);
        assert_eq!(positions.long(DIR, first), None);
        assert_eq!(positions.long(DIR, newest), Some(name(PLACES_MAX as u64)));
        assert_eq!(positions.long(DIR, newest + 1), None);
        assert_eq!(positions.table.lock().numbers.len(), PLACES_MAX);
        // The numbers come round.
        let mut table = positions.table.lock();
        (table.first, table.places, table.numbers) = (NAMED - 1, [].into(), HashMap::new());
        drop(table);
        let (last, again) = (short(1), short(2));
        assert_eq!((last, again), (2 * NAMED - 1, NAMED));
        assert_eq!(positions.long(DIR, last), Some(name(1)));
        assert_eq!(positions.long(DIR, again), Some(name(2)));
    }
}
