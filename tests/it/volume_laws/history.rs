//! History: what was replaced or removed is had back, byte for byte, on every device.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use dfs::base::{ChunkId, Clock, Ino, OpId, Rng};
use dfs::store::Table;
use dfs::volume::{FileKind, OpKind, Piece, Removed, Source, Write};

use super::cluster::{Device, cluster, exchange_all, inline, render, sync, write};

const DAY_MS: u64 = 24 * 3_600_000;

/// Returns devices that keep what was replaced or removed for 30 days.
fn keeping(count: usize) -> Vec<Device> {
    let devices = cluster(count);
    keep(&devices, 30 * DAY_MS);
    devices
}

fn keep(devices: &[Device], kept_ms: u64) {
    for device in devices {
        device.volume.keep_history(kept_ms).unwrap();
    }
}

/// Lets all have all, and gives up what undo needs of it.
pub(super) fn settle(devices: &[Device]) {
    exchange_all(devices);
    for _ in 0..3 {
        devices[0].commit_from(u64::MAX);
        exchange_all(devices);
        // There is something for the next record to name, and nothing else is in it.
        devices[0].setattr();
    }
    for device in devices {
        device.volume.apply_segments().unwrap();
    }
}

impl Device {
    fn setattr(&self) {
        self.apply(OpKind::SetAttr {
            ino: Ino::ROOT,
            mode: Some(0o755),
            uid: None,
            gid: None,
            mtime: None,
            ctime: self.clock.wall(),
        });
    }

    fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// Returns the contents of a file, newest first, as text.
    fn revisions(&self, ino: Ino) -> Vec<String> {
        let revisions = self.volume.revisions(ino).unwrap();
        let text = |by: OpId| self.content(ino, by);
        revisions.iter().map(|of| text(of.by)).collect()
    }

    fn content(&self, ino: Ino, by: OpId) -> String {
        let content = self.volume.content_by(ino, by).unwrap().unwrap();
        String::from_utf8(render(&content.extents, content.inode.size)).unwrap()
    }

    /// Returns what was removed from a directory, by name, the newest of each.
    fn removed(&self, parent: Ino) -> BTreeMap<String, Removed> {
        let removals = self.volume.removals().unwrap();
        let mut by_name = BTreeMap::new();
        for removed in removals.of(parent).unwrap() {
            let name = String::from_utf8(removed.name.to_vec()).unwrap();
            by_name.entry(name).or_insert(removed);
        }
        by_name
    }

    /// Returns the rows of history.
    fn history(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let mut take = |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            std::ops::ControlFlow::Continue(())
        };
        self.store
            .rows
            .scan(Table::History, &[], None, &mut take)
            .unwrap();
        rows
    }
}

/// Checks that the undo records of all but the last few ops are gone, so that history is what is read.
fn is_settled(device: &Device) -> bool {
    device.record_count() < 4
}

#[test]
fn each_content_of_a_file_is_had_back_on_every_device() {
    for is_given_up in [false, true] {
        let devices = keeping(2);
        let [a, b] = [&devices[0], &devices[1]];
        let mut expected = vec!["one".to_owned()];
        a.put("f", "one");
        let ino = a.at("f").ino;
        let step = |by: &Device, text: &str, expected: &mut Vec<String>| {
            sync(&devices);
            by.pass(Duration::from_secs(20));
            if is_given_up {
                settle(&devices);
            }
            expected.push(text.to_owned());
        };
        step(a, "two, longer", &mut expected);
        a.overwrite(ino, "two, longer");
        step(b, "two, longer and more", &mut expected);
        b.append("f", " and more");
        step(a, "two", &mut expected);
        let base = a.inode(ino).version;
        let mut cut = write(ino, base, "");
        if let OpKind::Write(write) = &mut cut {
            write.size = 3;
        }
        a.apply(cut);
        step(b, "", &mut expected);
        b.overwrite(ino, "");
        step(b, "last", &mut expected);
        b.overwrite(ino, "last");
        b.rename("f", "g", false);
        settle(&devices);
        expected.reverse();
        for device in &devices {
            assert_eq!(device.revisions(ino), expected);
            if is_given_up {
                assert!(is_settled(device) && !device.history().is_empty());
            }
        }
        assert!(a.history() == b.history());
        // By whom and when.
        let first = &a.volume.revisions(ino).unwrap();
        let (by, _) = first[1].until.unwrap();
        assert_eq!(a.volume.device_of(by.log), b.volume.device());
    }
}

#[test]
fn what_was_not_closed_is_no_version() {
    let devices = keeping(2);
    let a = &devices[0];
    a.put("f", "old");
    let ino = a.at("f").ino;
    settle(&devices);
    a.pass(Duration::from_secs(20));
    // Emptied, and written piece by piece, as a program does that writes it anew.
    a.overwrite(ino, "");
    a.overwrite(ino, "a");
    for _ in 0..20 {
        a.append("f", "b");
        settle(&devices);
    }
    for device in &devices {
        let all = device.revisions(ino);
        assert_eq!(all, [format!("a{}", "b".repeat(20)), "old".to_owned()]);
    }
    // One after the other, each whole, is each a version, however soon.
    a.overwrite(ino, "x");
    a.overwrite(ino, "y");
    settle(&devices);
    assert_eq!(devices[1].revisions(ino)[..2], ["y", "x"]);
}

#[test]
fn a_file_that_was_written_anew_is_no_history_of_the_first_time() {
    let devices = keeping(2);
    devices[0].make("f", FileKind::File);
    devices[0].put("f", "a");
    devices[0].append("f", "b");
    settle(&devices);
    settle(&devices);
    assert!(devices.iter().all(|device| device.history().is_empty()));
}

#[test]
fn a_removed_tree_is_had_back_with_all_that_was_in_it() {
    for is_given_up in [false, true] {
        let devices = keeping(2);
        let [a, b] = [&devices[0], &devices[1]];
        let dir = a.mkdir("d");
        let nested = a.mkdir("d/n");
        a.put("d/n/f", "content");
        let file = a.at("d/n/f").ino;
        a.pass(Duration::from_secs(20));
        a.put("d/n/f", "newer");
        a.link("d/n/f", "d/second");
        let link = a.make("d/s", FileKind::Symlink);
        a.apply(OpKind::SetXattr {
            ino: file,
            name: Bytes::from_static(b"user.k"),
            value: Bytes::from_static(b"v"),
            time: a.clock.wall(),
        });
        sync(&devices);
        for path in ["d/n/f", "d/second", "d/s"] {
            b.unlink(path);
        }
        b.rmdir("d/n");
        b.rmdir("d");
        sync(&devices);
        if is_given_up {
            settle(&devices);
        }
        for device in &devices {
            let volume = &device.volume;
            assert_eq!(is_given_up, volume.inode(file).unwrap().is_none());
            let top = device.removed(Ino::ROOT);
            assert_eq!(top["d"].ino, dir);
            let within = device.removed(dir);
            let names: Vec<&str> = within.keys().map(String::as_str).collect();
            assert_eq!(names, ["n", "s", "second"]);
            assert_eq!((within["n"].ino, within["second"].ino), (nested, file));
            assert_eq!(device.removed(nested)["f"].ino, file);
            assert_eq!(volume.device_of(within["n"].by.log), b.volume.device());
            let node = volume.node_or_gone(file).unwrap().unwrap();
            assert_eq!((node.mode, node.uid, node.gid), (0o644, 1, 2));
            let target = volume.node_or_gone(link).unwrap().unwrap().target;
            assert_eq!(target, Some(Bytes::from_static(b"target")));
            assert_eq!(device.revisions(file), ["newer", "content"]);
            let xattrs = volume.xattrs_or_gone(file).unwrap();
            assert_eq!(xattrs, [(Bytes::from("user.k"), Bytes::from("v"))]);
        }
        if is_given_up {
            assert!(a.history() == b.history());
        }
    }
}

#[test]
fn what_a_rename_replaced_is_had_back() {
    let devices = keeping(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "old");
    let old = a.at("f").ino;
    a.put("f.tmp", "new");
    sync(&devices);
    b.rename("f.tmp", "f", false);
    settle(&devices);
    for device in &devices {
        let removed = device.removed(Ino::ROOT);
        assert_eq!(
            removed.keys().collect::<Vec<_>>(),
            ["f"],
            "a move removes nothing"
        );
        assert_eq!(removed["f"].ino, old);
        assert_eq!(device.revisions(old), ["old"]);
    }
}

#[test]
fn of_old_versions_one_each_ten_minutes_hour_and_day_is_kept() {
    let devices = keeping(2);
    let a = &devices[0];
    a.put("f", "start");
    let ino = a.at("f").ino;
    let minutes = 60 * 24 * 9;
    // More often first, and then less.
    let mut expected: BTreeMap<u64, String> = BTreeMap::new();
    let mut at = 0;
    while at < minutes {
        let step = if at / 720 % 2 == 0 { 7 } else { 90 };
        a.pass(Duration::from_secs(60 * step));
        at += step;
        let by = a.overwrite(ino, &format!("at {at}"));
        expected.insert(by.stamp.ms(), format!("at {at}"));
        if at % 40 == 0 {
            settle(&devices);
        }
    }
    settle(&devices);
    keep(&devices, 30 * DAY_MS);
    let now = a.clock.wall_ms();
    for device in &devices {
        assert!(device.volume.thin_history().unwrap());
    }
    assert!(devices[0].history() == devices[1].history());
    // By the same rule as it is stated: whatever stretch has passed has its last one alone.
    let all: Vec<u64> = expected.keys().copied().collect();
    let newest = *all.last().unwrap();
    let minute = 60_000;
    let classes = [(60, 10), (24 * 60, 60), (7 * 24 * 60, 24 * 60)];
    let is_kept = |made: &u64| {
        *made == newest
            || classes.iter().all(|(age, stretch)| {
                let (age, stretch) = (age * minute, stretch * minute);
                let end = (made / stretch + 1) * stretch;
                // The one that is there now is no version of before.
                let later = all.iter().any(|of| of > made && *of < end && *of != newest);
                end + age > now || !later
            })
    };
    let kept: Vec<String> = all
        .iter()
        .rev()
        .filter(|made| is_kept(made))
        .map(|made| expected[made].clone())
        .collect();
    let counts = (kept.len(), expected.len());
    assert!(counts.0 < counts.1 / 2 && counts.0 > 10, "{counts:?}");
    let found = devices[1].revisions(ino);
    // What was there at first is the first of its day.
    assert_eq!(found, kept);
}

#[test]
fn dropping_versions_between_leaves_the_others_whole() {
    for seed in 0..20 {
        let rng = Rng::from_seed(seed);
        let devices = keeping(2);
        let a = &devices[0];
        a.make("f", FileKind::File);
        let ino = a.at("f").ino;
        let mut expected: BTreeMap<OpId, Vec<u8>> = BTreeMap::new();
        for _ in 0..40 {
            a.pass(Duration::from_secs(60 * (1 + rng.below(20))));
            let inode = a.inode(ino);
            let kind = random_write(&rng, &inode);
            let by = a.apply(kind).id;
            expected.insert(by, a.bytes_of(ino));
            if rng.below(4) == 0 {
                settle(&devices);
            }
        }
        a.pass(Duration::from_secs(rng.below(200_000)));
        settle(&devices);
        for device in &devices {
            assert!(device.volume.thin_history().unwrap());
            let revisions = device.volume.revisions(ino).unwrap();
            assert!(revisions.len() > 2, "seed {seed}");
            for of in &revisions[..revisions.len() - 1] {
                let content = device.volume.content_by(ino, of.by).unwrap().unwrap();
                let bytes = render(&content.extents, content.inode.size);
                assert_eq!(Some(&bytes), expected.get(&of.by), "seed {seed}");
            }
        }
        assert!(devices[0].history() == devices[1].history(), "seed {seed}");
    }
}

/// Returns a write of some pieces anywhere, of bytes, holes and chunks, that may also cut the file.
fn random_write(rng: &Rng, inode: &dfs::volume::Inode) -> OpKind {
    let size = if rng.below(4) == 0 {
        rng.below(60)
    } else {
        inode.size.max(40)
    };
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = rng.below(30);
    while at + 1 < size && pieces.len() < 3 {
        let len = (1 + rng.below(12)).min(size - at);
        pieces.push(match rng.below(3) {
            0 => Piece {
                offset: at,
                len,
                src: None,
            },
            1 => Piece {
                offset: at,
                len,
                src: Some(Source::Chunk {
                    id: ChunkId([rng.below(20) as u8; 32]),
                    skip: 0,
                }),
            },
            _ => inline(at, &"xyz".repeat(8)[..len as usize]),
        });
        at += len + 1 + rng.below(9);
    }
    OpKind::Write(Write {
        ino: inode.ino,
        base: inode.version,
        size,
        pieces,
        mtime: Default::default(),
        ctime: Default::default(),
        mode: None,
        empties: false,
    })
}

#[test]
fn after_its_time_it_is_gone_and_what_it_named_is_given_up() {
    let devices = keeping(2);
    let [a, b] = [&devices[0], &devices[1]];
    let chunk = |n: u8| ChunkId([n; 32]);
    let of_chunk = |device: &Device, path: &str, n: u8| {
        let inode = device.at(path);
        device.apply(OpKind::Write(Write {
            ino: inode.ino,
            base: inode.version,
            size: 1000,
            pieces: vec![Piece {
                offset: 0,
                len: 1000,
                src: Some(Source::Chunk {
                    id: chunk(n),
                    skip: 0,
                }),
            }],
            mtime: Default::default(),
            ctime: Default::default(),
            mode: None,
            empties: false,
        }));
    };
    for path in ["f", "g"] {
        a.make(path, FileKind::File);
    }
    of_chunk(a, "f", 1);
    of_chunk(a, "g", 2);
    sync(&devices);
    let (file, gone) = (a.at("f").ino, a.at("g").ino);
    a.pass(Duration::from_secs(60));
    of_chunk(b, "f", 3);
    b.unlink("g");
    settle(&devices);
    settle(&devices);
    for device in &devices {
        assert!(is_settled(device));
        let named = device.volume.named().unwrap();
        assert!(named.files.has(&chunk(3)));
        assert!(named.history.has(&chunk(1)) && named.history.has(&chunk(2)));
    }
    a.pass(Duration::from_millis(31 * DAY_MS));
    settle(&devices);
    for device in &devices {
        assert!(device.history().is_empty());
        let named = device.volume.named().unwrap();
        assert!(named.has(&chunk(3)) && !named.has(&chunk(1)) && !named.has(&chunk(2)));
        assert_eq!(device.volume.revisions(file).unwrap().len(), 1);
        assert!(device.volume.node_or_gone(gone).unwrap().is_none());
        assert!(device.removed(Ino::ROOT).is_empty());
    }
}

#[test]
fn a_volume_of_one_has_history_and_who_joins_it_the_same() {
    let one = Device::alone();
    keep(std::slice::from_ref(&one), 30 * DAY_MS);
    one.put("f", "old");
    one.put("g", "removed");
    let (file, gone) = (one.at("f").ino, one.at("g").ino);
    one.publish();
    one.pass(Duration::from_secs(60));
    one.put("f", "new");
    one.unlink("g");
    one.publish();
    assert_eq!(one.record_count(), 0, "nothing waits for others");
    assert_eq!(one.revisions(file), ["new", "old"]);
    assert_eq!(one.removed(Ino::ROOT)["g"].ino, gone);
    assert_eq!(one.revisions(gone), ["removed"]);
    one.volume.end_alone();
    let devices = [one, Device::new(1)];
    keep(&devices, 30 * DAY_MS);
    settle(&devices);
    settle(&devices);
    assert_eq!(devices[1].revisions(file), ["new", "old"]);
    assert_eq!(devices[1].removed(Ino::ROOT)["g"].ino, gone);
    assert_eq!(devices[1].revisions(gone), ["removed"]);
}

#[test]
fn folding_anew_makes_the_same_history() {
    let devices = keeping(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "one");
    a.put("g", "gone");
    sync(&devices);
    for n in 0..5 {
        a.pass(Duration::from_secs(60));
        b.put("f", &format!("round {n}"));
        sync(&devices);
    }
    b.unlink("g");
    settle(&devices);
    settle(&devices);
    let expected = a.history();
    assert!(expected.len() > 8);
    let mut batch = dfs::store::Batch::new();
    for (key, _) in expected.iter().step_by(2) {
        batch.delete(Table::History, key);
    }
    a.store.rows.commit(batch).unwrap();
    a.volume.fold_anew().unwrap();
    assert!(a.history() == expected);
}

#[test]
fn who_takes_a_checkpoint_over_keeps_the_history_that_it_has() {
    let devices = keeping(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "one");
    a.put("g", "gone");
    sync(&devices);
    let (file, gone) = (a.at("f").ino, a.at("g").ino);
    a.pass(Duration::from_secs(60));
    b.put("f", "two");
    b.unlink("g");
    settle(&devices);
    settle(&devices);
    assert!(is_settled(a));
    let (revisions, number) = (a.revisions(file), *a.checkpoints().keys().last().unwrap());
    assert_eq!(revisions, ["two", "one"]);
    a.pass(Duration::from_secs(60));
    a.put("f", "three");
    settle(&devices);
    a.take_over(b, number).unwrap();
    assert_eq!(a.revisions(file), ["three", "two", "one"]);
    assert_eq!(a.revisions(gone), ["gone"]);
    assert_eq!(a.removed(Ino::ROOT)["g"].ino, gone);
}

#[test]
fn a_power_cut_at_any_moment_leaves_what_can_be_had_back() {
    let devices = keeping(2);
    let [a, b] = [&devices[0], &devices[1]];
    for n in 0..6 {
        a.put(&format!("f{n}"), "one");
    }
    sync(&devices);
    for round in 0..4 {
        a.pass(Duration::from_secs(60));
        for n in 0..6 {
            b.put(&format!("f{n}"), &format!("round {round} of {n}"));
        }
        b.publish();
    }
    let files: Vec<Ino> = (0..6).map(|n| b.at(&format!("f{n}")).ino).collect();
    for n in 0..3 {
        b.unlink(&format!("f{n}"));
    }
    b.publish();
    a.pull(b, usize::MAX);
    let before = b.copy();
    for _ in 0..3 {
        a.commit_from(u64::MAX);
        a.setattr();
        a.publish();
    }
    for step in 0..80 {
        let mut third = Device::new(1);
        third.put_back(before.crash(&Rng::from_seed(step)));
        third.refuse_writes_after(step);
        third.try_pull(a);
        third.refuse_writes(false);
        let rng = Rng::from_seed(step);
        third.crash(&rng);
        third.pull(a, usize::MAX);
        third.volume.apply_segments().unwrap();
        for (n, ino) in files.iter().enumerate() {
            let expected: Vec<String> = (0..4)
                .rev()
                .map(|round| format!("round {round} of {n}"))
                .chain(["one".to_owned()])
                .collect();
            assert_eq!(third.revisions(*ino), expected, "cut behind {step} writes");
        }
        assert!(is_settled(&third));
    }
}
