//! Segments with ops of kinds that this program does not know: their log waits, nothing is skipped.

use std::time::Duration;

use bytes::Bytes;
use dfs::base::{Clock, Ino, LogId, Rng, Stamp};
use dfs::store::{Batch, codec};
use dfs::volume::{FileKind, Merged, VolumeError};
use dfs::wire::{SEGMENT_DOMAIN, SealedSegment, SegmentHeader};

use super::cluster::*;

/// Adds to a device's log a segment with these encoded ops, as whoever has the keys can.
fn seal_raw(device: &Device, ops: &[Vec<u8>]) {
    let identity = device.identity();
    let own = device.log.own_log();
    let seg_no = device.log.vector()[&own];
    let before = device.log.range(own, seg_no, usize::MAX).unwrap().remove(0);
    device.later();
    let first = Stamp::from_ms(device.clock.wall_ms());
    let mut plain = vec![1];
    codec::encode_into(&(ops.len() as u64), &mut plain);
    let mut last = first;
    for (index, op) in ops.iter().enumerate() {
        last = if index == 0 { first } else { last.next() };
        codec::encode_into(&last, &mut plain);
        codec::encode_into(&(op.len() as u64), &mut plain);
        plain.extend_from_slice(op);
    }
    let header = SegmentHeader {
        seg_no: seg_no + 1,
        prev: before.hash(),
        first,
        last,
        op_count: ops.len() as u32,
        admission: None,
        ..before.header
    };
    let body = KEYS.seal_segment(&Rng::from_seed(seg_no), &header.to_bytes(), &plain);
    let body = Bytes::from(body);
    let signature = identity.sign(SEGMENT_DOMAIN, &SealedSegment::signed_bytes(&header, &body));
    let segment = SealedSegment {
        header,
        body,
        signature,
    };
    device.log.append(&[segment], Batch::new()).unwrap();
    device.log.publish(seg_no + 1);
}

/// Returns an op that makes a folder.
fn folder(device: &Device, name: &str) -> Vec<u8> {
    let at = place(Ino::ROOT, name.as_bytes());
    codec::encode(&create(at, FileKind::Dir, device.clock.wall()))
}

/// Takes everything of another device.
fn take(device: &Device, from: &Device) -> Merged {
    let own = from.log.own_log();
    let next = device.log.vector()[&own] + 1;
    let segments = from.log.range(own, next, usize::MAX).unwrap();
    let now = device.clock.wall_ms() + 300_000;
    device.log.accept(&segments, now, &|_| Ok(())).unwrap();
    device.volume.apply_segments().unwrap()
}

fn log_of(device: &Device) -> LogId {
    device.log.own_log()
}

#[test]
fn the_log_of_a_newer_kind_of_op_waits_and_no_other_does() {
    let devices = cluster(3);
    let [here, newer, third] = &devices[..] else {
        unreachable!("three devices");
    };
    seal_raw(newer, &[folder(newer, "before"), vec![15, 1, 2, 3]]);
    seal_raw(newer, &[folder(newer, "after")]);
    for _ in 0..2 {
        let merged = take(here, newer);
        assert_eq!(merged.op_count, 0);
        let error = &merged.refused[&log_of(newer)];
        assert!(
            matches!(
                error,
                VolumeError::TooNew {
                    found: 15,
                    known: 14,
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains("newer version of dfs"),
            "{error}"
        );
    }
    assert!(here.list("").is_empty());
    // The others, and what is done here, go on; so does a restart.
    third.mkdir("third");
    third.publish();
    take(here, third);
    here.mkdir("here");
    here.publish();
    assert_eq!(here.list(""), ["here", "third"]);
    let mut devices = devices;
    devices[0].restart();
    let merged = devices[0].volume.apply_segments().unwrap();
    assert_eq!(merged.refused.len(), 1);
    assert_eq!(devices[0].list(""), ["here", "third"]);
}

#[test]
fn what_is_no_op_for_anybody_is_skipped() {
    let devices = cluster(2);
    let [here, author] = &devices[..] else {
        unreachable!("two devices");
    };
    // A known kind, and nothing behind it.
    seal_raw(author, &[folder(author, "before"), vec![2]]);
    seal_raw(author, &[folder(author, "after")]);
    let merged = take(here, author);
    assert!(merged.refused.is_empty());
    assert_eq!(here.list(""), ["after"]);
}

const YEAR_MS: u64 = 365 * 86_400_000;

#[test]
fn a_clock_that_is_far_ahead_costs_its_owner_nothing() {
    for years in [1, 100, 9_000] {
        let devices = cluster(2);
        let [here, ahead] = &devices[..] else {
            unreachable!("two devices");
        };
        here.put("both", "before");
        sync(&devices);
        ahead
            .clock
            .set_ahead(Duration::from_millis(years * YEAR_MS));
        ahead.put("mine", "while the clock was wrong");
        ahead.put("both", "from ahead");
        ahead.publish();
        here.put("both", "from here");
        here.publish();
        ahead.clock.set_ahead(Duration::ZERO);
        ahead.put("later", "once it was right");
        sync(&devices);
        here.put("both", "and here again");
        here.put("mine", "on top of it");
        sync(&devices);
        here.commit();
        sync(&devices);
        assert_eq!(ahead.text("mine"), "on top of it");
        assert_eq!(ahead.text("later"), "once it was right");
        assert_eq!(ahead.text("both"), "and here again");
        // What was written at one time is kept both.
        assert_eq!(ahead.files().len(), 4, "{:?}", ahead.files());
    }
}

#[test]
fn what_is_dated_back_undoes_nothing_that_a_record_names() {
    const NAMED: usize = 200;
    let devices = cluster(3);
    let [here, other, back] = &devices[..] else {
        unreachable!("three devices");
    };
    for device in [here, other] {
        device.clock.set_ahead(Duration::from_millis(YEAR_MS));
    }
    for n in 0..NAMED {
        here.put(&n.to_string(), "named");
    }
    here.publish();
    other.pull(here, usize::MAX);
    here.commit();
    other.pull(here, usize::MAX);
    // As early as nothing of the others is, at their names.
    for n in (0..NAMED).step_by(10) {
        back.put(&n.to_string(), "dated back");
    }
    back.publish();
    for device in [here, other] {
        let merged = device.pull(back, usize::MAX);
        assert!(merged.op_count > 0);
        assert_eq!(merged.undone_count, 0, "what a record names stays");
    }
    here.commit();
    sync(&devices);
    let texts: Vec<String> = here.files().into_values().collect();
    let count = |text: &str| texts.iter().filter(|of| *of == text).count();
    assert_eq!((count("named"), count("dated back")), (NAMED, NAMED / 10));
}
