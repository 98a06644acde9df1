//! Logs: each start begins one, what an earlier start had not sealed counts once, and no segment is
//! folded before what its author had seen.

use dfs::base::Clock as _;
use dfs::store::{Batch, Table};
use dfs::volume::Missing;

use super::cluster::{Device, cluster, sync};

#[test]
fn a_folder_that_was_put_back_goes_on_and_nothing_is_lost() {
    let mut devices = cluster(2);
    devices[1].put("old", "old");
    sync(&devices);
    // Not sealed yet: the device that goes on and the one that is put back both have it.
    devices[1].put("draft", "draft");
    let copy = devices[1].copy();
    devices[1].put("late", "late");
    sync(&devices);
    devices[1].put_back(copy);
    devices[1].put("new", "new");
    devices[1].publish();
    devices[1].put("newer", "newer");
    sync(&devices);
    for device in &devices {
        assert_eq!(device.list(""), ["draft", "late", "new", "newer", "old"]);
        assert_eq!(device.conflicts(), []);
    }
}

#[test]
fn a_cloned_folder_is_two_logs() {
    let mut devices = cluster(2);
    devices[1].put("draft", "draft");
    let mut clone = Device::new(1);
    clone.put_back(devices[1].copy());
    devices[1].restart();
    clone.put("clone", "clone");
    devices[1].put("original", "original");
    devices.push(clone);
    sync(&devices);
    sync(&devices);
    for device in &devices {
        assert_eq!(device.list(""), ["clone", "draft", "original"]);
        assert_eq!(device.conflicts(), []);
    }
}

#[test]
fn a_segment_waits_for_what_its_author_had_seen() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.put("file", "from a");
    a.publish();
    b.pull(a, usize::MAX);
    b.put("file", "from b, who had seen it");
    b.put("other", "by itself, but behind it");
    b.publish();
    let [of_a, of_b] = [a, b].map(|device| device.log.own_log());
    let merged = c.pull_logs(b, &[of_b]);
    assert_eq!(merged.waiting.get(&of_b), Some(&Missing::Log(of_a)));
    assert_eq!((merged.op_count, c.list("")), (0, Vec::new()));
    let merged = c.pull_logs(b, &[of_a]);
    assert!(merged.waiting.is_empty());
    assert_eq!(merged.undone_count, 0);
    assert_eq!(c.text("file"), "from b, who had seen it");
    sync(&devices);
}

#[test]
fn what_a_segment_had_seen_is_what_was_folded_when_its_ops_were_issued() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    b.put("first", "1");
    a.put("seen", "s");
    a.publish();
    b.pull(a, usize::MAX);
    b.put("first", "2");
    b.publish();
    let (own, of_a) = (b.log.own_log(), a.log.own_log());
    let last = b.log.head(own).unwrap().seg_no;
    // Folding what another wrote ends the segment: the second write is in one of its own.
    let seen = |seg_no| {
        let segment = b.log.get(own, seg_no).unwrap().unwrap();
        let seen = segment.header.seen.iter().find(|seen| seen.log == of_a);
        seen.map(|seen| (seen.seg_no, seen.hash))
    };
    let head = a.log.head(of_a).unwrap();
    assert_eq!(seen(last), Some((head.seg_no, head.hash)));
    assert_eq!(
        seen(last - 1).map(|(seg_no, _)| seg_no),
        Some(head.seg_no - 1)
    );
    sync(&devices);
}

#[test]
fn what_was_folded_before_a_failure_is_told() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    for name in ["one", "two", "three"] {
        a.put(name, name);
        a.publish();
    }
    let log = a.log.own_log();
    let end = a.log.vector()[&log];
    let from = b.log.vector().get(&log).copied().unwrap_or(0) + 1;
    let segments = a.log.range(log, from, usize::MAX).unwrap();
    let now = b.clock.wall_ms() + 300_000;
    b.log.accept(&segments, now, &|_| Ok(())).unwrap();
    // The disk loses the last of them.
    let mut damage = Batch::new();
    let key = [log.0.to_be_bytes(), end.to_be_bytes()].concat();
    damage.put(Table::Segment, key, b"rotten".to_vec());
    b.store.rows.commit(damage).unwrap();
    let merged = b.volume.apply_segments().unwrap();
    assert_eq!(b.list(""), ["one", "two"]);
    assert!(!merged.changes.is_empty());
    assert!(b.volume.apply_segments().is_err());
}

#[test]
fn who_has_folded_what_was_shown_has_folded_all() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.put("of a", "1");
    a.publish();
    b.pull(a, usize::MAX);
    b.put("of b", "2");
    b.publish();
    a.pull(b, usize::MAX);
    // What b wrote was built on all of a.
    let shown = a.volume.shown().unwrap();
    assert_eq!(shown.keys().collect::<Vec<_>>(), [&b.log.own_log()]);
    a.put("more of a", "3");
    a.publish();
    let shown = a.volume.shown().unwrap();
    assert_eq!(shown.keys().collect::<Vec<_>>(), [&a.log.own_log()]);
    c.pull_logs(a, &[a.log.own_log()]);
    assert_eq!(c.volume.unfolded(&shown), shown);
    c.pull(a, usize::MAX);
    assert!(c.volume.unfolded(&shown).is_empty());
    assert_eq!(c.files(), a.files());
}
