//! Laws of floors: what lies below one is as if it were here and not needed, whatever was here before, and
//! whenever the power goes.

use bytes::Bytes;

use super::super::tests::{ME, OTHER, RUN, VOLUME, anyone, chain, log_of, next_chain, open};
use super::*;
use crate::base::{Rng, Stamp};
use crate::store::Store;
use crate::store::memory::MemoryDisk;
use crate::wire::Vector;

/// Returns where a log goes on behind some segments of it.
fn behind(segments: &[SealedSegment]) -> LogStart {
    let last = segments.last().unwrap();
    LogStart {
        log: last.header.log(),
        device: last.header.device,
        incarnation: last.header.incarnation,
        admission: [0; 32],
        seg_no: last.header.seg_no,
        hash: last.hash(),
        last: last.header.last,
    }
}

fn sizes(segments: &[SealedSegment]) -> u64 {
    let sizes = segments.iter().map(|segment| segment.to_bytes().len());
    sizes.sum::<usize>() as u64
}

/// Returns the numbers of the segments of a log that have rows.
fn rows_of(store: &Store, log: LogId) -> Vec<u64> {
    let mut numbers = Vec::new();
    let all = &mut |key: &[u8], _: &[u8]| {
        let (of, number) = key.split_at(8);
        if of == log.0.to_be_bytes() {
            numbers.push(u64::from_be_bytes(number.try_into().unwrap()));
        }
        ControlFlow::Continue(())
    };
    store.rows.scan(Table::Segment, &[], None, all).unwrap();
    numbers
}

#[test]
fn a_log_that_is_longer_here_keeps_what_lies_behind_its_floor_alone() {
    let store = Store::memory();
    let log = open(&store);
    let (theirs, mine) = (chain(OTHER, 9), chain(ME, 4));
    let of = log_of(OTHER);
    log.accept(&theirs, 2_000, &anyone).unwrap();
    log.append(&mine, Batch::new()).unwrap();
    let before = (log.vector(), log.head(of).map(|head| head.hash));
    log.start_at(&[behind(&theirs[..6])]).unwrap();
    for log in [log, open(&store)] {
        assert_eq!((log.floor(of), log.floor(log_of(ME))), (6, 0));
        assert_eq!(log.starts(), [behind(&theirs[..6])]);
        assert_eq!((log.vector(), log.head(of).map(|head| head.hash)), before);
        assert_eq!(rows_of(&store, of), [7, 8, 9]);
        assert_eq!(log.get(of, 6).unwrap(), None);
        assert_eq!(log.get(of, 7).unwrap().as_ref(), Some(&theirs[6]));
        assert_eq!(log.range(of, 7, usize::MAX).unwrap(), theirs[6..]);
        for from in 1..7 {
            assert!(log.range(of, from, usize::MAX).unwrap().is_empty());
        }
        assert_eq!(log.bytes(), sizes(&theirs[6..]) + sizes(&mine));
        let end = |seg_no| log.end_at(of, seg_no).unwrap().map(|(hash, _)| hash);
        assert_eq!(end(5), None);
        assert_eq!(end(6), Some(theirs[5].hash()));
        assert_eq!(end(7), Some(theirs[6].hash()));
        assert_eq!(
            (log.author(of), log.incarnation_of(of)),
            (Some(OTHER), Some(RUN))
        );
    }
}

#[test]
fn a_log_that_is_shorter_here_goes_on_behind_its_floor() {
    let theirs = chain(OTHER, 9);
    for have in [0, 1, 3, 6] {
        let store = Store::memory();
        let log = open(&store);
        let of = log_of(OTHER);
        log.accept(&theirs[..have], 2_000, &anyone).unwrap();
        let start = LogStart {
            admission: [5; 32],
            ..behind(&theirs[..6])
        };
        log.start_at(&[start]).unwrap();
        assert_eq!(log.offered(), Vector::from([(of, 6)]), "{have}");
        assert!(rows_of(&store, of).is_empty());
        assert_eq!(log.bytes(), 0);
        let admission = if have < 6 { [5; 32] } else { [0; 32] };
        assert_eq!(log.admission(of), Some(admission));
        // What comes again from below is not looked at, and what does not continue is none of it.
        let again = log.accept(&theirs[2..5], 2_000, &anyone).unwrap();
        assert!(again.grown.is_empty() && again.refused.is_empty());
        let gap = log.accept(&theirs[7..], 2_000, &anyone).unwrap();
        assert!(matches!(gap.refused[&of].1, LogError::Gap { have: 6, .. }));
        log.accept(&theirs, 2_000, &anyone).unwrap();
        let log = open(&store);
        assert_eq!(log.vector(), Vector::from([(of, 9)]));
        assert_eq!(log.range(of, 7, usize::MAX).unwrap(), theirs[6..]);
        assert_eq!(log.bytes(), sizes(&theirs[6..]));
    }
}

#[test]
fn floors_never_go_back_and_heads_neither() {
    let store = Store::memory();
    let log = open(&store);
    let theirs = chain(OTHER, 9);
    let of = log_of(OTHER);
    log.accept(&theirs, 2_000, &anyone).unwrap();
    log.start_at(&[behind(&theirs[..6])]).unwrap();
    log.start_at(&[behind(&theirs[..3])]).unwrap();
    assert_eq!((log.floor(of), log.vector()), (6, Vector::from([(of, 9)])));
    log.start_at(&[behind(&theirs[..8])]).unwrap();
    log.start_at(&[behind(&theirs[..8])]).unwrap();
    assert_eq!(rows_of(&store, of), [9]);
    assert_eq!(log.bytes(), sizes(&theirs[8..]));
    log.start_at(&[behind(&theirs)]).unwrap();
    assert_eq!((log.bytes(), log.vector()[&of]), (0, 9));
}

#[test]
fn another_history_of_a_log_and_what_is_written_here_are_left_as_they_are() {
    let store = Store::memory();
    let log = open(&store);
    let (theirs, mine) = (chain(OTHER, 5), chain(ME, 5));
    log.accept(&theirs, 2_000, &anyone).unwrap();
    log.append(&mine[..3], Batch::new()).unwrap();
    for count in [3, 5] {
        let mut start = behind(&theirs[..count]);
        start.hash[0] ^= 1;
        log.start_at(&[start]).unwrap();
    }
    // More of the own log than was ever written in it.
    log.start_at(&[behind(&mine)]).unwrap();
    let all = Vector::from([(log_of(OTHER), 5), (log_of(ME), 3)]);
    assert_eq!((log.vector(), log.starts()), (all, Vec::new()));
    assert_eq!(log.range(log_of(OTHER), 1, usize::MAX).unwrap(), theirs);
    log.append(&mine[3..], Batch::new()).unwrap();
    log.start_at(&[behind(&mine[..4])]).unwrap();
    assert_eq!(rows_of(&store, log_of(ME)), [5]);
}

#[test]
fn whose_a_log_is_is_known_of_those_without_a_segment_too() {
    let store = Store::memory();
    let of = log_of(OTHER);
    let start = LogStart {
        seg_no: 0,
        hash: [0; 32],
        last: Stamp::default(),
        ..behind(&chain(OTHER, 1))
    };
    open(&store).start_at(&[start]).unwrap();
    let log = open(&store);
    assert_eq!((log.author(of), log.floor(of)), (Some(OTHER), 0));
    assert!(log.vector().is_empty() && log.offered().is_empty());
    assert!(log.head(of).is_none() && log.starts().is_empty());
    // It begins at its beginning.
    log.accept(&chain(OTHER, 2), 2_000, &anyone).unwrap();
    assert_eq!(log.vector(), Vector::from([(of, 2)]));
    log.start_at(&[start]).unwrap();
    assert_eq!(log.vector(), Vector::from([(of, 2)]));
}

#[test]
fn who_has_the_floor_of_a_log_has_the_ops_below_it() {
    let store = Store::memory();
    let log = open(&store);
    let (first, next) = (chain(OTHER, 5), next_chain(OTHER, 6, 3));
    let (of, of_next) = (log_of(OTHER), LogId::of(OTHER, RUN + 1));
    log.accept(&first, 3_000, &anyone).unwrap();
    log.accept(&next, 3_000, &anyone).unwrap();
    let find = |log_id, ms| {
        let stamp = Stamp::from_ms(ms);
        log.find(OpId { stamp, log: log_id }).unwrap()
    };
    log.start_at(&[behind(&first[..3]), behind(&next[..2])])
        .unwrap();
    for seg_no in 1..=5 {
        let there = (of, seg_no.max(3));
        assert_eq!(find(of, 1_000 + seg_no), Some(there));
    }
    // What the next start carried of it: below its floor, and behind.
    assert_eq!(find(of, 2_001), Some((of_next, 2)));
    assert_eq!(find(of, 2_003), Some((of_next, 3)));
    assert_eq!(find(of_next, 2_004), Some((of_next, 4)));
    log.start_at(&[behind(&next[..5])]).unwrap();
    assert_eq!(find(of, 2_003), Some((of_next, 5)));
    assert_eq!(find(of_next, 2_004), Some((of_next, 5)));
    assert_eq!(find(of_next, 2_006), Some((of_next, 6)));
    assert_eq!(find(of_next, 2_007), None);
    // What was not sealed here yet is nowhere.
    assert_eq!(find(log_of(ME), 1_001), None);
}

#[test]
fn no_batch_grows_with_the_log() {
    let disk = MemoryDisk::new();
    let log = open(&disk.store());
    let theirs = chain(OTHER, 5_000);
    for part in theirs.chunks(500) {
        log.accept(part, 100_000, &anyone).unwrap();
    }
    let _ = (disk.take_largest_batch(), disk.take_largest_bytes());
    log.start_at(&[behind(&theirs[..4_990])]).unwrap();
    let largest = (disk.take_largest_batch(), disk.take_largest_bytes());
    assert!(largest.0 <= DROP_SLICE + 1, "{largest:?}");
    assert!(largest.1 < 256 << 10, "{largest:?}");
    assert_eq!(rows_of(&disk.store(), log_of(OTHER)).len(), 10);
}

#[test]
fn whenever_the_power_goes_nothing_is_missing_behind_the_floor_and_the_next_opening_goes_on() {
    let theirs = chain(OTHER, 3_000);
    let shorter = next_chain(OTHER, 8, 0);
    let (of, of_shorter) = (log_of(OTHER), LogId::of(OTHER, RUN + 1));
    let starts = [behind(&theirs[..2_500]), behind(&shorter[..6])];
    let mut seen = [false; 3];
    for cut in 0..8 {
        for seed in 0..12 {
            let disk = MemoryDisk::new();
            let store = disk.store();
            let log = open(&store);
            for part in theirs.chunks(1_000) {
                log.accept(part, 100_000, &anyone).unwrap();
            }
            log.accept(&shorter[..2], 100_000, &anyone).unwrap();
            disk.cut_power_after(cut, Box::new(|| {}));
            let _ = log.start_at(&starts);
            let left = disk.crash(&Rng::from_seed(seed));
            let opened = open(&left.store());
            let told = format!("cut {cut}, seed {seed}");
            let floor = opened.floor(of);
            let ends = opened.vector();
            assert_eq!(ends[&of], 3_000, "{told}");
            let rows = rows_of(&left.store(), of);
            // The opening has gone on with what was durable.
            let expected: Vec<u64> = (floor + 1..=3_000).collect();
            assert!(
                rows == expected,
                "{told}: floor {floor}, {} rows",
                rows.len()
            );
            let short = opened.floor(of_shorter);
            assert_eq!((floor > 0, short > 0), (floor > 0, floor > 0), "{told}");
            assert_eq!(ends[&of_shorter], short.max(2), "{told}");
            let dropped = opened.floors.read().get(&of).map(|floor| floor.dropped);
            assert_eq!(dropped.unwrap_or(0), floor, "{told}");
            seen[usize::from(floor > 0) + usize::from(floor > 0 && cut > 3)] = true;
            opened.start_at(&starts).unwrap();
            opened.accept(&shorter[6..], 100_000, &anyone).unwrap();
            let again = LogStore::open(left.store().rows, VOLUME, ME, RUN).unwrap();
            let ends = Vector::from([(of, 3_000), (of_shorter, 8)]);
            assert_eq!((again.vector(), again.floor(of)), (ends, 2_500), "{told}");
            assert_eq!(again.bytes(), opened.bytes(), "{told}");
            let all = sizes(&theirs[2_500..]) + sizes(&shorter[6..]);
            assert_eq!(again.bytes(), all, "{told}");
        }
    }
    assert_eq!(seen, [true; 3], "the power went before, between and behind");
}

#[test]
fn a_floor_that_is_damaged_is_told() {
    let store = Store::memory();
    let theirs = chain(OTHER, 3);
    open(&store).start_at(&[behind(&theirs)]).unwrap();
    let mut batch = Batch::new();
    batch.put(
        Table::Floor,
        log_of(OTHER).0.to_be_bytes(),
        Bytes::from_static(b"x"),
    );
    store.rows.commit(batch).unwrap();
    let opened = LogStore::open(store.rows, VOLUME, ME, RUN);
    let of = log_of(OTHER);
    assert!(matches!(opened, Err(LogError::Corrupt { log, .. }) if log == of));
}
