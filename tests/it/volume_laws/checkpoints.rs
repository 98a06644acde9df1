//! Logs that begin at a checkpoint: who joins or was away takes it over, and what led there is nowhere.

use dfs::base::Rng;
use dfs::volume::{OpKind, VolumeError};

use super::cluster::{Device, agree, cluster, exchange_all, inline, sync, write};

/// Has a device make a record of all that is there, which all fold.
pub(super) fn commit(devices: &[Device]) -> u64 {
    exchange_all(devices);
    devices[0].commit();
    exchange_all(devices);
    devices[0].chain.tip().number
}

/// Lets the logs of a device begin at what another made at a record, and takes that over.
pub(super) fn begin_at(device: &Device, from: &Device, number: u64) {
    device.take_records(from);
    device.log.start_at(&from.starts_at(number)).unwrap();
    device.take_over(from, number).unwrap();
}

fn some_changes(devices: &[Device]) {
    devices[0].mkdir("/d");
    devices[0].put("/d/a", "one");
    devices[0].put("/d/b", "two");
    devices[0].link("/d/b", "/c");
    sync(devices);
    devices[1].put("/d/a", "three");
    devices[1].rename("/d/b", "/e", false);
    devices[0].append("/d/a", " and more");
    devices[0].mkdir("/gone");
    devices[0].rmdir("/gone");
    devices[1].unlink("/c");
}

/// Checks that a device that has not all segments holds the rows of another that has.
pub(super) fn expect_rows(device: &Device, like: &Device) {
    assert_eq!(device.log.vector(), like.log.vector());
    let (rows, expected) = (device.rows(), like.rows());
    let differs = expected
        .iter()
        .find(|(key, row)| rows.get(key) != Some(row));
    assert_eq!(differs, None);
    assert_eq!(rows.len(), expected.len());
    assert_eq!(device.volume.counts(), like.volume.counts());
    super::cluster::read_again(device);
}

#[test]
fn who_joins_takes_a_checkpoint_over_and_only_what_comes_behind_it() {
    let devices = cluster(2);
    some_changes(&devices);
    let number = commit(&devices);
    some_more(&devices);
    exchange_all(&devices);

    let mut joiner = Device::new(2);
    begin_at(&joiner, &devices[1], number);
    let first = joiner.log.starts().first().map(|start| start.log).unwrap();
    assert!(joiner.log.get(first, 1).unwrap().is_none());
    assert_eq!(joiner.volume.record().number, number);
    joiner.pull(&devices[0], usize::MAX);
    expect_rows(&joiner, &devices[0]);
    // It goes on with the others, and so after a restart and a power cut.
    joiner.crash(&Rng::from_seed(3));
    joiner.put("/d/a", "of who joined");
    joiner.put("/f", "new");
    devices[1].put("/f", "another");
    let mut all = devices;
    all.push(joiner);
    exchange_all(&all);
    exchange_all(&all);
    agree(&all[..2]);
    expect_rows(&all[2], &all[0]);
    let text = all[0].text("/d/a");
    assert_eq!(text, "of who joined");
}

#[test]
fn who_joins_and_is_cut_short_anywhere_has_nothing_of_it_and_takes_it_over_later() {
    let devices = cluster(2);
    some_changes(&devices);
    // More than goes in one batch.
    for n in 0..6 {
        devices[0].put(&format!("/large {n}"), &"x".repeat(100_000));
    }
    let number = commit(&devices);
    let mut cuts = 0;
    for writes in 0.. {
        let mut joiner = Device::new(2);
        joiner.take_records(&devices[1]);
        joiner.log.start_at(&devices[1].starts_at(number)).unwrap();
        joiner.volume.sync().unwrap();
        let blank = joiner.rows();
        joiner.refuse_writes_after(writes);
        if joiner.take_over(&devices[1], number).is_ok() {
            expect_rows(&joiner, &devices[1]);
            break;
        }
        joiner.crash(&Rng::from_seed(writes));
        if joiner.volume.awaits_checkpoint().unwrap() {
            cuts += 1;
            assert_eq!(joiner.rows(), blank, "after {writes} writes");
        }
        joiner.take_over(&devices[1], number).unwrap();
        expect_rows(&joiner, &devices[1]);
    }
    assert!(cuts > 5, "{cuts} cuts before it counts");
}

#[test]
fn who_joins_writes_each_row_once() {
    let devices = cluster(2);
    for n in 0..20 {
        devices[0].put(&format!("/large {n}"), &"x".repeat(100_000));
    }
    let number = commit(&devices);
    let joiner = Device::new(2);
    joiner.take_records(&devices[1]);
    joiner.log.start_at(&devices[1].starts_at(number)).unwrap();
    joiner.take_written_bytes();
    let before = joiner.used_bytes();
    let anew = joiner.take_over(&devices[1], number).unwrap();
    assert!(anew.differing >= 40, "{}", anew.differing);
    let written = joiner.take_written_bytes();
    let rows = joiner.used_bytes() - before;
    assert!(written < rows + rows / 4, "{written} for {rows}");
}

fn some_more(devices: &[Device]) {
    devices[0].put("/d/x", "behind it");
    devices[1].put("/d/a", "again");
}

#[test]
fn who_was_away_takes_a_checkpoint_over_and_keeps_what_it_did() {
    let devices = cluster(3);
    some_changes(&devices);
    commit(&devices);
    // Sealed, and not.
    devices[2].put("/d/a", "while away");
    devices[2].put("/own", "sealed");
    devices[2].publish();
    devices[2].put("/draft", "not sealed");
    some_more(&devices);
    for _ in 0..3 {
        devices[0].put("/d/y", "more");
        commit(&devices[..2]);
    }
    let number = commit(&devices[..2]);
    begin_at(&devices[2], &devices[0], number);
    assert_eq!(devices[2].text("/draft"), "not sealed");
    exchange_all(&devices);
    exchange_all(&devices);
    agree(&devices[..2]);
    expect_rows(&devices[2], &devices[0]);
    for device in &devices {
        assert_eq!(device.text("/own"), "sealed");
        assert_eq!(device.text("/draft"), "not sealed");
        // Both contents of what crossed are there.
        let files = device.files();
        for text in ["while away", "again"] {
            let named = files.iter().filter(|(name, _)| name.starts_with("/d/a"));
            assert!(named.into_iter().any(|(_, is)| is == text), "{files:?}");
        }
    }
}

#[test]
fn nobody_misses_the_segments_that_led_to_a_checkpoint() {
    let mut devices = cluster(2);
    some_changes(&devices);
    let number = commit(&devices);
    for device in &devices {
        device.log.start_at(&device.starts_at(number)).unwrap();
    }
    assert!(matches!(
        devices[0].volume.fold_anew(),
        Err(VolumeError::NotHere { .. })
    ));
    some_more(&devices);
    devices[1].put("/d/new", "one");
    devices[0].put("/d/new", "two");
    commit(&devices);
    devices[0].restart();
    devices[1].crash(&Rng::from_seed(5));
    commit(&devices);
    expect_rows(&devices[1], &devices[0]);
    for number in [number, devices[0].chain.tip().number] {
        let (one, other) = (&devices[0], &devices[1]);
        assert_eq!(one.checkpoints()[&number], other.checkpoints()[&number]);
        assert_eq!(one.take_over(other, number).unwrap().differing, 0);
    }
    expect_rows(&devices[0], &devices[1]);
}

#[test]
fn a_checkpoint_that_is_not_what_was_signed_changes_nothing() {
    let devices = cluster(2);
    some_changes(&devices);
    let number = commit(&devices);
    let before = devices[0].rows();
    devices[1].spoil_node(number);
    let refused = devices[0].take_over(&devices[1], number).unwrap_err();
    assert!(
        matches!(refused, VolumeError::BadCheckpoint { .. }),
        "{refused}"
    );
    devices[1].lose_node(number);
    let refused = devices[0].take_over(&devices[1], number).unwrap_err();
    assert!(matches!(refused, VolumeError::NoNode { .. }), "{refused}");
    assert_eq!(devices[0].rows(), before);
    sync(&devices);
}

#[test]
fn who_joins_knows_what_was_replaced_and_may_be_looked_up() {
    let devices = cluster(3);
    devices[0].put("/f", "0123456789");
    commit(&devices);
    // Away, on the first content: a part of it, and something behind it in another file.
    let file = devices[2].at("/f");
    let mut kind = write(file.ino, file.version, "ab");
    if let OpKind::Write(write) = &mut kind {
        write.size = file.size;
        write.pieces = vec![inline(4, "ab")];
    }
    devices[2].apply(kind);
    devices[2].publish();
    devices[0].put("/f", "another one");
    commit(&devices[..2]);
    devices[1].put("/f", "and another");
    let number = commit(&devices[..2]);

    let joiner = Device::new(3);
    begin_at(&joiner, &devices[0], number);
    let mut all = devices;
    all.push(joiner);
    exchange_all(&all);
    exchange_all(&all);
    agree(&all[..3]);
    expect_rows(&all[3], &all[0]);
    let files = all[3].files();
    assert!(files.values().any(|text| text == "0123ab6789"), "{files:?}");
}

#[test]
fn who_takes_over_what_one_author_made_makes_what_that_author_makes() {
    let alone = Device::alone();
    alone.put("/f", "one");
    alone.put("/f", "two");
    alone.publish();
    let number = {
        alone.commit();
        alone.chain.tip().number
    };
    let made = alone.checkpoints();
    let joiner = Device::new(1);
    alone.volume.end_alone();
    begin_at(
        &joiner,
        &alone,
        made.keys().next_back().copied().unwrap_or(number),
    );
    let both = [alone, joiner];
    exchange_all(&both);
    both[1].put("/f", "three");
    both[0].put("/g", "of the first");
    for _ in 0..4 {
        exchange_all(&both);
        both[0].commit_from(u64::MAX);
        exchange_all(&both);
    }
    let (one, other) = (both[0].checkpoints(), both[1].checkpoints());
    let of_both = one.keys().filter(|of| other.contains_key(of));
    let mut of_both = of_both.filter(|of| **of > number).peekable();
    assert!(of_both.peek().is_some(), "{one:?} {other:?}");
    for number in of_both {
        assert_eq!(one[number], other[number]);
    }
    expect_rows(&both[1], &both[0]);
}
