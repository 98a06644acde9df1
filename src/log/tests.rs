//! Laws of the logs: what continues a chain is taken, and nothing else.

use super::*;
use crate::base::Rng;
use crate::crypto::Signature;
use crate::store::Store;
use crate::store::memory::MemoryDisk;
use crate::wire::{RecordRef, SegmentHeader};

pub(super) const VOLUME: VolumeId = VolumeId([1; 32]);
pub(super) const ME: DeviceId = DeviceId(1);
pub(super) const OTHER: DeviceId = DeviceId(u64::MAX);

/// Which start of each device writes here.
pub(super) const RUN: u64 = 3;

const TEN_YEARS_MS: u64 = 315_360_000_000;

pub(super) fn log_of(device: DeviceId) -> LogId {
    LogId::of(device, RUN)
}

/// Returns `count` chained segments of a device, stamped one millisecond apart from 1,000.
pub(super) fn chain(device: DeviceId, count: u64) -> Vec<SealedSegment> {
    let mut prev = [0; 32];
    (1..=count)
        .map(|seg_no| {
            let stamp = Stamp::from_ms(1_000 + seg_no);
            let segment = SealedSegment {
                header: SegmentHeader {
                    volume: VOLUME,
                    device,
                    incarnation: RUN,
                    origin: RUN,
                    seg_no,
                    admission: (seg_no == 1).then_some([0; 32]),
                    prev,
                    record: RecordRef::default(),
                    seen: Vec::new(),
                    first: stamp,
                    last: stamp,
                    op_count: 1,
                    epoch: 1,
                },
                body: Bytes::from(vec![7; 100]),
                signature: Signature([0; 64]),
            };
            prev = segment.hash();
            segment
        })
        .collect()
}

pub(super) fn open(store: &Store) -> LogStore {
    LogStore::open(Arc::clone(&store.rows), VOLUME, ME, RUN).unwrap()
}

pub(super) fn anyone(_: &SealedSegment) -> Result<(), LogError> {
    Ok(())
}

#[test]
fn what_a_killed_process_left_is_durable_once_it_is_opened() {
    for seed in 0..10 {
        let disk = MemoryDisk::new();
        let mine = chain(ME, 3);
        open(&disk.store()).append(&mine, Batch::new()).unwrap();
        // From here on others may be told of it.
        assert_eq!(open(&disk.store()).offered().len(), 1);
        let left = disk.crash(&Rng::from_seed(seed)).store();
        let ends = open(&left).vector();
        assert_eq!(ends, Vector::from([(log_of(ME), 3)]), "seed {seed}");
    }
}

#[test]
fn own_segments_are_told_of_only_once_published() {
    let store = Store::memory();
    let log = open(&store);
    let mine = chain(ME, 3);
    log.append(&mine[..2], Batch::new()).unwrap();
    assert_eq!(log.vector(), Vector::from([(log_of(ME), 2)]));
    assert!(log.offered().is_empty());
    log.publish(9);
    assert_eq!(log.offered(), Vector::from([(log_of(ME), 2)]));
    log.append(&mine[2..], Batch::new()).unwrap();
    assert_eq!(log.range(log_of(ME), 1, usize::MAX).unwrap(), mine);
    assert_eq!(log.range(log_of(ME), 2, 1).unwrap(), mine[1..2]);
    assert!(log.range(log_of(ME), 4, usize::MAX).unwrap().is_empty());

    let again = open(&store);
    assert_eq!(again.head(log_of(ME)), log.head(log_of(ME)));
    assert_eq!(again.offered(), Vector::from([(log_of(ME), 3)]));
}

#[test]
fn an_append_that_does_not_fit_changes_nothing() {
    let store = Store::memory();
    let log = open(&store);
    let mine = chain(ME, 3);
    let mut with = Batch::new();
    with.put(Table::Draft, b"d", b"x");
    assert!(matches!(
        log.append(&mine[1..], with.clone()),
        Err(LogError::Gap { have: 0, .. })
    ));
    assert!(log.append(&chain(OTHER, 1), with.clone()).is_err());
    assert_eq!(store.rows.get(Table::Draft, b"d").unwrap(), None);
    assert!(log.vector().is_empty());
    log.append(&mine, with).unwrap();
    assert!(store.rows.get(Table::Draft, b"d").unwrap().is_some());
}

#[test]
fn remote_segments_must_continue_their_log() {
    let log = open(&Store::memory());
    let theirs = chain(OTHER, 5);
    let gap = log.accept(&theirs[1..3], 2_000, &anyone).unwrap();
    assert!(matches!(
        gap.refused[&log_of(OTHER)].1,
        LogError::Gap { have: 0, .. }
    ));
    assert!(gap.grown.is_empty());

    let taken = log.accept(&theirs[..3], 2_000, &anyone).unwrap();
    assert_eq!(taken.grown, Vector::from([(log_of(OTHER), 3)]));
    let overlap = log.accept(&theirs, 2_000, &anyone).unwrap();
    assert!(overlap.refused.is_empty());
    assert_eq!(log.offered(), Vector::from([(log_of(OTHER), 5)]));
    assert_eq!(log.range(log_of(OTHER), 1, usize::MAX).unwrap(), theirs);

    let mut fork = chain(OTHER, 6).split_off(5);
    fork[0].header.prev = [9; 32];
    let forked = log.accept(&fork, 2_000, &anyone).unwrap();
    assert!(matches!(
        forked.refused[&log_of(OTHER)].1,
        LogError::Forked { seg_no: 6, .. }
    ));
}

#[test]
fn what_is_wrong_with_one_device_does_not_touch_another() {
    let log = open(&Store::memory());
    let mut segments = chain(OTHER, 2);
    segments.extend(chain(DeviceId(5), 2));
    let verify = |segment: &SealedSegment| match segment.header.device {
        OTHER => Err(LogError::UnknownAuthor(OTHER)),
        _ => Ok(()),
    };
    let accepted = log.accept(&segments, 2_000, &verify).unwrap();
    assert_eq!(accepted.grown, Vector::from([(log_of(DeviceId(5)), 2)]));
    assert!(matches!(
        accepted.refused[&log_of(OTHER)].1,
        LogError::UnknownAuthor(_)
    ));
}

#[test]
fn stamps_of_the_future_and_of_another_volume_are_refused() {
    let log = open(&Store::memory());
    let mut late = chain(OTHER, 1);
    let now_ms = 2 * STAMPS_BEGIN_MS;
    late[0].header.last = Stamp::from_ms(now_ms + TEN_YEARS_MS + 1);
    let refused = log.accept(&late, now_ms, &anyone).unwrap().refused;
    assert!(matches!(
        refused[&log_of(OTHER)].1,
        LogError::Future {
            ahead_ms: 315_360_000_001,
            ..
        }
    ));
    let later = log.accept(&late, now_ms + 1, &anyone).unwrap();
    assert_eq!(later.grown, Vector::from([(log_of(OTHER), 1)]));

    // Whose clock is lost takes what is written today.
    let mut today = chain(DeviceId(4), 1);
    today[0].header.last = Stamp::from_ms(STAMPS_BEGIN_MS + TEN_YEARS_MS);
    let taken = log.accept(&today, 0, &anyone).unwrap();
    assert_eq!(taken.grown, Vector::from([(log_of(DeviceId(4)), 1)]));

    let mut foreign = chain(DeviceId(3), 1);
    foreign[0].header.volume = VolumeId([2; 32]);
    let refused = log.accept(&foreign, 2_000, &anyone).unwrap().refused;
    assert!(matches!(
        refused[&log_of(DeviceId(3))].1,
        LogError::OtherVolume
    ));
}

/// Chains segments anew after their headers were changed.
pub(super) fn rechain(segments: &mut [SealedSegment], mut prev: [u8; 32]) {
    for segment in segments {
        segment.header.prev = prev;
        prev = segment.hash();
    }
}

/// Returns `count` chained segments that the next start of a device writes, of which the first `of_last`
/// carry what the one before had not sealed; they are stamped from 2,001 ms on.
pub(super) fn next_chain(device: DeviceId, count: u64, of_last: u64) -> Vec<SealedSegment> {
    let mut segments = chain(device, count);
    for segment in &mut segments {
        let header = &mut segment.header;
        header.incarnation = RUN + 1;
        header.origin = RUN + u64::from(header.seg_no > of_last);
        let stamp = Stamp::from_ms(2_000 + header.seg_no);
        (header.first, header.last) = (stamp, stamp);
    }
    rechain(&mut segments, [0; 32]);
    segments
}

#[test]
fn what_is_known_of_a_log_holds_from_its_beginning_on_and_after_a_restart() {
    let store = Store::memory();
    let log = open(&store);
    let (mine, theirs) = (log_of(ME), log_of(OTHER));
    let known = |log: &LogStore, of| (log.author(of), log.incarnation_of(of));
    assert_eq!(known(&log, mine), (Some(ME), Some(RUN)));
    assert_eq!(known(&log, theirs), (None, None));
    assert_eq!(log.logs_of(ME), [mine]);
    assert!(log.logs_of(OTHER).is_empty());
    log.stand_on([5; 32]);
    assert_eq!(log.admission(mine), Some([5; 32]));
    assert_eq!(log.admission(theirs), None);
    // Its ops are known as this device's before there is a segment, of which nobody is told.
    log.begin().unwrap();
    assert_eq!((log.head(mine), log.bytes()), (None, 0));
    assert!(log.vector().is_empty() && log.offered().is_empty());

    let next = LogStore::open(Arc::clone(&store.rows), VOLUME, ME, RUN + 1).unwrap();
    let before = LogId::of(ME, RUN - 1);
    assert_eq!(known(&next, mine), (Some(ME), Some(RUN)));
    assert_eq!(next.admission(mine), Some([5; 32]));
    next.stand_on([6; 32]);
    assert_eq!(next.admission(mine), Some([5; 32]));
    next.know(RUN - 1).unwrap();
    next.know(RUN).unwrap();
    let again = LogStore::open(Arc::clone(&store.rows), VOLUME, ME, RUN + 2).unwrap();
    assert_eq!(known(&again, before), (Some(ME), Some(RUN - 1)));
    assert_eq!(again.admission(mine), Some([5; 32]), "it was known");
    let mut logs = again.logs_of(ME);
    logs.sort();
    let mut expected = [before, mine, LogId::of(ME, RUN + 2)];
    expected.sort();
    assert_eq!(logs, expected);
    // Another log is begun as by a new start.
    again.renew(RUN + 3);
    assert_eq!(again.own_log(), LogId::of(ME, RUN + 3));

    // A log stands on what its first segment says.
    log.append(&chain(ME, 2), Batch::new()).unwrap();
    log.begin().unwrap();
    assert_eq!(log.admission(mine), Some([0; 32]));
    assert_eq!(log.logs_of(ME), [mine]);
    log.accept(&chain(OTHER, 1), 2_000, &anyone).unwrap();
    assert_eq!(known(&log, theirs), (Some(OTHER), Some(RUN)));
    assert_eq!(log.logs_of(OTHER), [theirs]);
    let sizes = chain(ME, 2).into_iter().chain(chain(OTHER, 1));
    let sizes = sizes.map(|segment| segment.to_bytes().len() as u64);
    assert_eq!(log.bytes(), sizes.sum::<u64>());
}

#[test]
fn the_segment_that_carries_an_op_is_found() {
    let log = open(&Store::memory());
    let first = chain(OTHER, 5);
    log.accept(&first, 3_000, &anyone).unwrap();
    let next = next_chain(OTHER, 4, 2);
    log.accept(&next, 3_000, &anyone).unwrap();
    // What the last start had not sealed when it ended does not become the end of its log.
    assert_eq!(log.head(log_of(OTHER)).unwrap().seg_no, 5);
    let find = |log_id, ms| {
        let stamp = Stamp::from_ms(ms);
        log.find(OpId { stamp, log: log_id }).unwrap()
    };
    for seg_no in 1..=5 {
        let there = (log_of(OTHER), seg_no);
        assert_eq!(find(log_of(OTHER), 1_000 + seg_no), Some(there));
    }
    let of_next = LogId::of(OTHER, RUN + 1);
    for seg_no in 1..=4 {
        let log_id = if seg_no <= 2 { log_of(OTHER) } else { of_next };
        assert_eq!(find(log_id, 2_000 + seg_no), Some((of_next, seg_no)));
    }
    assert_eq!(find(log_of(OTHER), 2_003), None, "that is another log's");
    assert_eq!(find(of_next, 2_005), None);
    assert_eq!(find(log_of(DeviceId(9)), 1_001), None);
}

#[test]
fn ops_are_known_as_their_authors_whose_log_has_no_segment() {
    let log = open(&Store::memory());
    log.stand_on([5; 32]);
    let accepted = log.accept(&next_chain(OTHER, 1, 1), 3_000, &anyone);
    let of_next = LogId::of(OTHER, RUN + 1);
    assert_eq!(accepted.unwrap().grown, Vector::from([(of_next, 1)]));
    let begun = log_of(OTHER);
    assert_eq!(log.author(begun), Some(OTHER));
    assert_eq!(log.admission(begun), Some([0; 32]), "not this device's");
    assert_eq!(log.head(begun), None);
    assert_eq!(log.vector(), Vector::from([(of_next, 1)]));
}

#[test]
fn a_range_ends_at_its_bytes_and_before_what_is_damaged() {
    let store = Store::memory();
    let log = open(&store);
    let theirs = chain(OTHER, 4);
    log.accept(&theirs, 2_000, &anyone).unwrap();
    let of = log_of(OTHER);
    let two: usize = theirs[..2].iter().map(|s| s.to_bytes().len()).sum();
    assert_eq!(log.range(of, 1, two).unwrap(), theirs[..2]);
    assert_eq!(log.range(of, 1, two - 1).unwrap(), theirs[..1]);
    let put = |table, key: &[u8]| {
        let mut batch = Batch::new();
        batch.put(table, key, b"damaged");
        store.rows.commit(batch).unwrap();
    };
    put(Table::Segment, &segment_key(of, 3));
    assert_eq!(log.range(of, 1, usize::MAX).unwrap(), theirs[..2]);
    let damaged = |error| matches!(error, LogError::Corrupt { log, seg_no: 3 } if log == of);
    assert!(log.range(of, 3, usize::MAX).is_err_and(damaged));
    put(Table::LogHead, &of.0.to_be_bytes());
    let opened = LogStore::open(Arc::clone(&store.rows), VOLUME, ME, RUN);
    let damaged = |error| matches!(error, LogError::Corrupt { log, .. } if log == of);
    assert!(opened.is_err_and(damaged));
}

#[test]
fn each_thing_that_makes_no_sense_is_refused_by_itself() {
    type Flaw = fn(&mut SealedSegment);
    let flaws: [(usize, Flaw); 5] = [
        (0, |segment| segment.header.admission = None),
        (1, |segment| segment.header.admission = Some([0; 32])),
        (1, |segment| segment.header.first = Stamp::from_ms(5_000)),
        (1, |segment| {
            segment.body = Bytes::from(vec![7; SealedSegment::BODY_MAX_BYTES + 1]);
        }),
        // As late as the one before, whose last op it would have again.
        (1, |segment| segment.header.first = Stamp::from_ms(1_001)),
    ];
    for (index, (at, flaw)) in flaws.into_iter().enumerate() {
        let log = open(&Store::memory());
        let mut theirs = chain(OTHER, 3);
        flaw(&mut theirs[at]);
        let accepted = log.accept(&theirs, 2_000, &anyone).unwrap();
        let error = &accepted.refused[&log_of(OTHER)].1;
        let is_it = matches!(error, LogError::Malformed { seg_no, .. }
            if *seg_no == theirs[at].header.seg_no);
        assert!(is_it, "{index}: {error:?}");
        assert_eq!(log.vector().len(), at, "{index}");
    }
    let log = open(&Store::memory());
    let mut largest = chain(OTHER, 1);
    largest[0].body = Bytes::from(vec![7; SealedSegment::BODY_MAX_BYTES]);
    let accepted = log.accept(&largest, 2_000, &anyone).unwrap();
    assert!(accepted.refused.is_empty());
}

#[test]
fn what_is_here_or_comes_behind_what_is_refused_is_not_looked_at() {
    let log = open(&Store::memory());
    let theirs = chain(OTHER, 6);
    log.accept(&theirs[..2], 2_000, &anyone).unwrap();
    let asked = Mutex::new(Vec::new());
    let verify = |segment: &SealedSegment| {
        asked.lock().push(segment.header.seg_no);
        match segment.header.seg_no {
            4 => Err(LogError::UnknownAuthor(OTHER)),
            _ => Ok(()),
        }
    };
    let accepted = log.accept(&theirs, 2_000, &verify).unwrap();
    assert_eq!(asked.into_inner(), [3, 4]);
    assert_eq!(accepted.grown, Vector::from([(log_of(OTHER), 3)]));
    // Twice in one message.
    let twice = [theirs[3].clone(), theirs[3].clone()];
    let accepted = log.accept(&twice, 2_000, &anyone).unwrap();
    assert!(accepted.refused.is_empty());
    // Said is what is wrong with the first.
    let mut forked = theirs[4..].to_vec();
    rechain(&mut forked, [9; 32]);
    let accepted = log.accept(&forked, 2_000, &anyone).unwrap();
    assert!(matches!(
        accepted.refused[&log_of(OTHER)].1,
        LogError::Forked { seg_no: 5, .. }
    ));
}
