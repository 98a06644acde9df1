//! Laws of the logs: what continues a chain is taken, and nothing else.

use super::*;
use crate::crypto::Signature;
use crate::store::Store;
use crate::wire::{RecordRef, SegmentHeader};

const VOLUME: VolumeId = VolumeId([1; 32]);
const ME: DeviceId = DeviceId(1);
const OTHER: DeviceId = DeviceId(u64::MAX);

/// Which start of each device writes here.
const RUN: u64 = 3;

const TEN_YEARS_MS: u64 = 315_360_000_000;

fn log_of(device: DeviceId) -> LogId {
    LogId::of(device, RUN)
}

/// Returns `count` chained segments of a device, stamped one millisecond apart from 1,000.
fn chain(device: DeviceId, count: u64) -> Vec<SealedSegment> {
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

fn open(store: &Store) -> LogStore {
    LogStore::open(Arc::clone(&store.rows), VOLUME, ME, RUN).unwrap()
}

fn anyone(_: &SealedSegment) -> Result<(), LogError> {
    Ok(())
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
