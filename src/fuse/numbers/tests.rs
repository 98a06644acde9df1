//! Tests of the short numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Shown::{New, Once, Remembered};
use super::*;
use crate::base::{Rng, Timespec};

/// The inodes of a volume, with the order in which they were made.
#[derive(Debug, Clone, Default)]
struct Volume {
    made: Arc<Mutex<BTreeMap<Ino, u64>>>,
    asked: Arc<AtomicUsize>,
}

impl Inodes for Volume {
    fn within(&self, range: RangeInclusive<u64>) -> Vec<Ino> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let all = self.made.lock();
        let found = all.range(Ino(*range.start())..=Ino(*range.end()));
        let mut found: Vec<(u64, Ino)> = found.map(|(ino, made)| (*made, *ino)).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, ino)| ino).collect()
    }
}

impl Volume {
    fn of(inodes: impl IntoIterator<Item = Ino>) -> Self {
        let volume = Self::default();
        for (made, ino) in (100..).zip(inodes) {
            volume.make(ino, made);
        }
        volume
    }

    fn make(&self, ino: Ino, made: u64) {
        self.made.lock().insert(ino, made);
    }

    /// Returns how often it was asked.
    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn short(&self, bits: u32) -> Short {
        Short::new(Box::new(self.clone()), bits)
    }

    /// As one that has forgotten some of those that programs remember.
    fn with_gaps(&self, bits: u32) -> Short {
        let short = self.short(bits);
        short.table.lock().remembered.has_gaps = true;
        short
    }
}

/// Two with one upper half: the second was made later.
const FIRST: Ino = Ino((77 << 31) + 9);
const SECOND: Ino = Ino((77 << 31) + 5);

#[test]
fn a_number_is_the_upper_half_and_stands_for_the_inode_after_a_forget_and_a_remount() {
    let volume = Volume::of([FIRST, Ino(u64::MAX >> 2)]);
    for _ in 0..2 {
        let short = volume.short(BITS);
        assert_eq!(short.number(FIRST, Remembered, 0), 77);
        assert_eq!(short.number(FIRST, Remembered, 1), 77);
        assert_eq!(short.ino(77), FIRST);
        short.forget(77, 1);
        assert_eq!(short.ino(77), FIRST);
        assert_eq!(short.ino(0x7fff_ffff), Ino(u64::MAX >> 2));
        // None has it.
        assert_eq!(short.ino(78), NOBODY);
    }
}

#[test]
fn the_root_is_one_and_nobody_else_is_nor_zero_nor_all_ones() {
    let ends = [Ino(5), Ino((1 << 31) + 5), Ino(u64::MAX >> 1)];
    let short = Volume::of(ends).short(BITS);
    assert_eq!(short.number(Ino::ROOT, Remembered, 1), 1);
    assert_eq!(short.ino(1), Ino::ROOT);
    short.forget(1, 1);
    assert_eq!(short.ino(1), Ino::ROOT);
    for ino in ends {
        let number = short.number(ino, Remembered, 0);
        assert!((2..u32::MAX).contains(&number), "{number}");
        assert_eq!(short.ino(number), ino);
    }
}

#[test]
fn of_two_that_share_an_upper_half_the_one_made_first_has_it_whoever_is_asked_for_first() {
    for order in [[FIRST, SECOND], [SECOND, FIRST]] {
        let short = Volume::of([FIRST, SECOND]).with_gaps(BITS);
        let numbers = order.map(|ino| (ino, short.number(ino, Remembered, 0)));
        let numbers = BTreeMap::from(numbers);
        assert_eq!(numbers[&FIRST], 77);
        let other = numbers[&SECOND];
        assert_ne!(other, 77);
        // And again when the kernel knows it, and when it has forgotten it.
        assert_eq!(short.number(SECOND, Remembered, 1), other);
        short.forget(other, 1);
        assert_eq!(short.number(SECOND, Remembered, 0), other);
        assert_eq!((short.ino(77), short.ino(other)), (FIRST, SECOND));
    }
}

#[test]
fn of_those_whose_numbers_nobody_remembers_only_what_the_kernel_knows_is_told_apart() {
    let volume = Volume::of([FIRST, SECOND]);
    let short = volume.short(BITS);
    for one in [SECOND, FIRST] {
        assert_eq!(short.number(one, Once, 1), 77);
        assert_eq!(short.ino(77), one);
        short.forget(77, 1);
    }
    // New ones, too.
    assert_eq!(short.number(Ino((80 << 31) + 1), New, 1), 80);
    assert_eq!(volume.asked(), 0);
    let short = volume.with_gaps(BITS);
    assert_eq!(short.number(SECOND, New, 1), 77);
    short.forget(77, 1);
    let short = volume.with_gaps(BITS);
    assert_eq!(volume.asked(), 0);
    assert_eq!(short.number(SECOND, Once, 1), 77);
    for shown in [Once, Remembered, New] {
        assert_ne!(short.number(FIRST, shown, 1), 77);
    }
    assert_eq!(short.ino(77), SECOND);
}

#[test]
fn a_number_that_programs_remember_stays_though_the_kernel_forgot_and_the_volume_is_not_asked() {
    for shown in [Remembered, New] {
        let volume = Volume::of([FIRST, SECOND]);
        let short = volume.short(BITS);
        for _ in 0..2 {
            assert_eq!(short.number(SECOND, shown, 1), 77);
            short.forget(77, 1);
        }
        assert_eq!(volume.asked(), 0);
        for shown in [Once, Remembered, New] {
            assert_ne!(short.number(FIRST, shown, 1), 77);
        }
        assert_eq!((short.number(SECOND, Once, 0), short.ino(77)), (77, SECOND));
    }
    // A file that gets a second name while the kernel knows it.
    let short = Volume::of([FIRST, SECOND]).short(BITS);
    assert_eq!(short.number(SECOND, Once, 1), 77);
    assert_eq!(short.number(SECOND, Remembered, 1), 77);
    short.forget(77, 2);
    assert_ne!(short.number(FIRST, Remembered, 0), 77);
}

#[test]
fn where_more_are_forgotten_than_are_remembered_the_volume_is_asked() {
    let volume = Volume::of([FIRST, SECOND]);
    let short = volume.short(BITS);
    let most = 2 * GENERATION as u64;
    let of = |number: u64| Ino(((1000 + number) << LOWER_BITS) + 1);
    let come_and_go = |number| {
        let number = short.number(of(number), Remembered, 1);
        short.forget(number, 1);
        let remembered = &short.table.lock().remembered;
        assert!(remembered.young.len() + remembered.old.len() <= most as usize);
        remembered.has_gaps
    };
    assert!(!(0..most).any(come_and_go));
    assert!(come_and_go(most));
    assert_eq!(volume.asked(), 0);
    // Not for those of late, nor for what the kernel knows.
    assert!((GENERATION as u64..most).all(come_and_go));
    assert_eq!(volume.asked(), 0);
    for _ in 0..2 {
        assert_eq!(short.number(of(0), Remembered, 1), 1000);
        assert_eq!(volume.asked(), 1);
    }
    assert_ne!(short.number(SECOND, Remembered, 1), 77);
}

#[test]
fn what_the_kernel_knows_keeps_its_number_whatever_comes_and_goes_in_the_volume() {
    let volume = Volume::of([SECOND]);
    let short = volume.short(BITS);
    assert_eq!(short.number(SECOND, Remembered, 2), 77);
    // One that was made before and arrives late.
    volume.make(FIRST, 1);
    let other = short.number(FIRST, Remembered, 0);
    assert_ne!(other, 77);
    short.forget(77, 1);
    assert_eq!(
        (short.number(SECOND, Remembered, 0), short.ino(77)),
        (77, SECOND)
    );
    // Removed, and still open.
    volume.made.lock().remove(&SECOND);
    assert_eq!(
        (short.number(SECOND, Remembered, 0), short.ino(77)),
        (77, SECOND)
    );
    let third = Ino((77 << 31) + 30);
    volume.make(third, 200);
    assert!(![77, other].contains(&short.number(third, Remembered, 0)));
    short.forget(77, 1);
    // What is gone `fs` does not know.
    assert_eq!(short.ino(77), SECOND);
    // The late one has its number for good.
    assert_eq!(short.number(FIRST, Remembered, 0), other);
    volume.make(SECOND, 100);
    assert_eq!(short.number(SECOND, Remembered, 0), 77);
}

#[test]
fn a_second_number_is_not_the_upper_half_of_any_other() {
    // The first numbers that would be tried are taken by inodes that nobody asked for yet.
    let takes = |probe| joined(probed(SECOND, probe, BITS), 0);
    let short = Volume::of([FIRST, SECOND, takes(0), takes(1)]).with_gaps(BITS);
    assert_eq!(short.number(SECOND, Remembered, 0), probed(SECOND, 2, BITS));
    assert_eq!(
        short.number(takes(0), Remembered, 0),
        probed(SECOND, 0, BITS)
    );
    // One that comes later with the upper half that is a second number gets one, too.
    let volume = Volume::of([FIRST, SECOND]);
    let short = volume.with_gaps(BITS);
    let other = short.number(SECOND, Remembered, 0);
    volume.make(takes(0), 500);
    assert_ne!(short.number(takes(0), Remembered, 0), other);
    assert_eq!(short.ino(other), SECOND);
}

/// Returns an inode out of not many.
fn any(rng: &Rng, bits: u32) -> Ino {
    Ino((rng.below(1 << bits) << LOWER_BITS) | rng.below(4) | 2)
}

#[test]
fn numbers_are_short_and_one_for_each_inode_in_any_order_of_events() {
    const SMALL: u32 = 10;
    for seed in 0..40 {
        println!("seed {seed}");
        let rng = Rng::from_seed(seed);
        let volume = Volume::default();
        let short = match seed % 3 {
            0 => volume.with_gaps(SMALL),
            _ => volume.short(SMALL),
        };
        let shown = |ino: Ino| match lower(ino) {
            2 if seed % 2 == 0 => Once,
            _ => Remembered,
        };
        // What the kernel was told of each inode that exists or that it knows.
        let mut told: BTreeMap<Ino, u32> = BTreeMap::new();
        let mut lookups: BTreeMap<Ino, u64> = BTreeMap::new();
        for step in 0..600 {
            let ino = any(&rng, SMALL);
            let exists = volume.made.lock().contains_key(&ino);
            match rng.below(6) {
                // Not one that is gone and that the kernel knows: numbers are never drawn again.
                0 | 1
                    if volume.made.lock().len() < 300 && !lookups.contains_key(&ino) && !exists =>
                {
                    volume.make(ino, step);
                }
                2 => drop(volume.made.lock().remove(&ino)),
                3 => {
                    let known = lookups.keys().nth(rng.below(40) as usize).copied();
                    if let Some(ino) = known {
                        let some = 1 + rng.below(lookups[&ino]);
                        short.forget(told[&ino], some);
                        *lookups.entry(ino).or_default() -= some;
                        lookups.retain(|_, count| *count > 0);
                    }
                }
                _ if exists => {
                    let counted = match told.contains_key(&ino) {
                        true => rng.below(2) as u32,
                        false => 1,
                    };
                    let number = short.number(ino, shown(ino), counted);
                    if counted > 0 {
                        *lookups.entry(ino).or_default() += 1;
                    }
                    let before = told.insert(ino, number);
                    assert!(before.is_none_or(|before| before == number), "{ino}");
                }
                _ => {}
            }
            let here: BTreeSet<Ino> = volume.made.lock().keys().copied().collect();
            let stays = |ino: &Ino| here.contains(ino) && shown(*ino) == Remembered;
            told.retain(|ino, _| stays(ino) || lookups.contains_key(ino));
            let different: BTreeSet<u32> = told.values().copied().collect();
            assert_eq!(different.len(), told.len(), "one number for two");
            for (ino, number) in &told {
                assert!((2..(1 << SMALL) - 1).contains(number), "{number}");
                assert_eq!(short.ino(*number), *ino);
            }
            assert_eq!(short.table.lock().known.len(), lookups.len());
        }
    }
}

#[test]
fn the_tables_are_bounded_by_what_the_kernel_knows_and_give_their_memory_back() {
    let pairs = OTHERS_MAX as u64 + 5000;
    let of = |upper: u64, lower| Ino(((upper * 50) << 31) + lower);
    let first = (2..2 + pairs).map(|upper| of(upper, 1));
    let volume = Volume::of(first.chain((2..2 + pairs).map(|upper| of(upper, 2))));
    let short = volume.with_gaps(BITS);
    for upper in 2..2 + pairs {
        let _ = short.number(of(upper, 2), Remembered, 0);
    }
    assert_eq!(short.table.lock().others.len(), OTHERS_MAX);
    // What the kernel knows has its number, however many there are.
    let numbers: Vec<u32> = (2..2 + pairs)
        .map(|upper| short.number(of(upper, 2), Remembered, 1))
        .collect();
    assert_eq!(short.table.lock().others.len(), pairs as usize);
    assert!(short.table.lock().known.capacity() >= pairs as usize);
    for (upper, number) in (2..).zip(&numbers) {
        assert_eq!(short.ino(*number), of(upper, 2));
        short.forget(*number, 1);
    }
    let table = short.table.lock();
    assert_eq!((table.known.len(), table.others.len()), (0, OTHERS_MAX));
    assert_eq!(table.owners.len(), OTHERS_MAX);
    assert!(
        table.known.capacity() <= 2 * CAPACITY_MIN,
        "{}",
        table.known.capacity()
    );
}

#[test]
fn one_that_the_kernel_knows_takes_little_memory_and_more_lookups_than_can_be_counted_keep_it() {
    assert_eq!(size_of::<(u32, Known)>(), 12);
    let short = Volume::of([FIRST, SECOND]).short(BITS);
    for _ in 0..2 {
        assert_eq!(short.number(SECOND, Once, u32::MAX - 1), 77);
    }
    short.forget(77, u64::MAX);
    assert_ne!(short.number(FIRST, Remembered, 1), 77);
    assert_eq!(short.ino(77), SECOND);
}

/// Returns an entry of a file with one name.
fn entry(ino: Ino, generation: u64) -> Entry {
    let time = Timespec::default();
    let attr = Attr {
        ino,
        kind: FileKind::File,
        mode: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
    };
    Entry {
        attr,
        generation,
        entry_ttl: Duration::ZERO,
        attr_ttl: Duration::ZERO,
    }
}

#[test]
fn programs_remember_the_numbers_of_directories_and_of_files_with_several_names() {
    let of = |kind, nlink| {
        let attr = entry(FIRST, 0).attr;
        Shown::of(&Attr {
            kind,
            nlink,
            ..attr
        })
    };
    use FileKind::{Dir, Fifo, File, Symlink};
    assert_eq!([of(File, 1), of(Symlink, 1), of(File, 0)], [Once; 3]);
    assert_eq!([of(File, 2), of(Fifo, 9), of(Dir, 2)], [Remembered; 3]);
    assert_eq!([of(Dir, 0), Shown::of_kind(Dir)], [Remembered; 2]);
    assert_eq!(Shown::of_kind(File), Once);
}

#[test]
fn without_short_ones_each_inode_has_its_own_number() {
    let numbers = Numbers::default();
    let (ino, number) = (Ino(u64::MAX >> 1), INodeNo(u64::MAX >> 1));
    assert_eq!(numbers.ino(number), ino);
    assert_eq!(numbers.shown(ino, Once), number);
    assert_eq!(numbers.looked_up(&entry(ino, 3), Once), (number, 3));
    assert_eq!(numbers.known(ino), Some(number));
    assert!(numbers.positions().is_none());
}

#[test]
fn the_kernel_is_told_of_what_it_may_know_and_the_generation_is_the_lower_half() {
    let volume = Volume::of([FIRST, SECOND]);
    let numbers = Numbers {
        short: Some(Arc::new(volume.short(BITS))),
    };
    assert_eq!(numbers.known(FIRST), None);
    assert_eq!(numbers.known(Ino::ROOT), Some(INodeNo(1)));
    assert_eq!(numbers.looked_up(&entry(FIRST, 0), Once), (INodeNo(77), 9));
    assert_eq!(
        numbers.looked_up(&entry(Ino::ROOT, 0), Once),
        (INodeNo(1), 0)
    );
    assert_eq!(numbers.known(FIRST), Some(INodeNo(77)));
    numbers.forget(INodeNo(77), 1);
    assert_eq!(numbers.known(FIRST), None);
}
