//! What is written on two machines says the same where its bytes are the same, however often either had
//! to be on the disk in between.

use dfs::fs::{SetAttr, WriteFlags};
use dfs::volume::FileKind;

use super::lineage::{Mounted, Open};
use super::named::ROOT;
use crate::volume_laws::cluster::{Device, cluster, sync};

/// Lengths between which a file is synced, all together across the grid of chunks.
const PARTS: [usize; 7] = [9_000, 4_000, 60_000, 700_000, 500_000, 1_500_000, 12_000];

/// Writes a file from its start, and syncs it where it is `cut`.
fn fill(mounted: &Mounted<'_>, file: Open, cut: impl Fn(usize) -> bool) {
    let mut at = 0;
    for (index, len) in PARTS.into_iter().enumerate() {
        let bytes: Vec<u8> = (at..at + len).map(|at| (at / 7) as u8).collect();
        let flags = WriteFlags::default();
        let written = mounted.fs.write(file.0, file.1, at as u64, &bytes, flags);
        assert_eq!(written.unwrap(), len);
        at += len;
        if cut(index) {
            mounted.fs.fsync(file.0, file.1).unwrap();
        }
    }
}

fn is_one(devices: &[Device], name: &str) {
    sync(devices);
    for device in devices {
        assert_eq!(device.list(""), [name]);
        assert_eq!(device.volume.counts().conflicts, 0);
    }
}

#[test]
fn what_was_synced_in_between_on_one_side_is_the_same() {
    for cuts in 0..4usize {
        let devices = cluster(2);
        let [a, b] = [Mounted::new(&devices[0]), Mounted::new(&devices[1])];
        // At nothing, at all, at some.
        let cut = |index: usize| cuts > 0 && index.is_multiple_of(cuts);
        devices[0].make("new", FileKind::File);
        devices[1].later();
        devices[1].make("new", FileKind::File);
        let (here, there) = (a.open("new"), b.open("new"));
        fill(&a, here, |_| false);
        fill(&b, there, cut);
        b.fs.flush(there.0, there.1).unwrap();
        let before = devices[1].at("new");
        a.close(here);
        b.close(there);
        let after = devices[1].at("new");
        assert_eq!((after.mtime, after.size), (before.mtime, before.size));
        is_one(&devices, "new");
        // What was there is written anew.
        let (here, there) = (a.open("new"), b.open("new"));
        for (mounted, file) in [(&a, here), (&b, there)] {
            let set = SetAttr {
                size: Some(0),
                ..SetAttr::default()
            };
            mounted.fs.setattr(ROOT, file.0, set).unwrap();
        }
        fill(&a, here, cut);
        fill(&b, there, |index| index == 3);
        a.close(here);
        b.close(there);
        is_one(&devices, "new");
    }
}

#[test]
fn what_is_written_on_after_a_close_stays_where_it_is() {
    let devices = cluster(1);
    let a = Mounted::new(&devices[0]);
    devices[0].make("log", FileKind::File);
    let pieces = || {
        let extents = devices[0]
            .volume
            .extents(devices[0].at("log").ino, 0..u64::MAX);
        extents.unwrap().len()
    };
    for line in 1..9 {
        let file = a.open("log");
        let at = devices[0].at("log").size;
        let bytes = vec![7; 5_000];
        let written =
            a.fs.write(file.0, file.1, at, &bytes, WriteFlags::default());
        assert_eq!(written.unwrap(), bytes.len());
        a.close(file);
        assert_eq!(pieces(), line);
    }
}
