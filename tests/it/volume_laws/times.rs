//! When nodes changed: what arrives late changed here when it arrived.

use std::time::Duration;

use bytes::Bytes;
use dfs::base::{Clock, Ino, Timespec};
use dfs::volume::{FileKind, OpKind};

use super::cluster::{Device, cluster, sync};

/// Lets a minute pass for both, takes what the other published, and returns when that was.
fn meet(devices: &[Device]) -> Timespec {
    for device in devices {
        device.clock.advance(Duration::from_secs(60));
    }
    let now = devices[0].clock.wall();
    sync(devices);
    now
}

fn arrived(device: &Device, path: &str) -> Option<Timespec> {
    device.volume.arrived(device.at(path).ino).unwrap()
}

fn xattr(ino: Ino, value: &'static [u8], time: Timespec) -> OpKind {
    OpKind::SetXattr {
        ino,
        name: Bytes::from_static(b"user.a"),
        value: Bytes::from_static(value),
        time,
    }
}

#[test]
fn what_arrives_late_changed_here_when_it_arrived() {
    let mut devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.mkdir("docs");
    a.mkdir("mine");
    for name in ["edited", "untouched", "moved", "tagged", "linked", "own"] {
        a.put(&format!("docs/{name}"), name);
    }
    a.link("docs/linked", "docs/second");
    a.link("docs/linked", "docs/third");
    a.apply(xattr(a.at("docs/tagged").ino, b"1", a.clock.wall()));
    sync(&devices);
    b.put("docs/edited", "far away");
    b.put("docs/made", "far away");
    b.rename("docs/moved", "mine/moved", false);
    b.rename("docs/second", "docs/2nd", false);
    b.apply(xattr(b.at("docs/tagged").ino, b"2", b.clock.wall()));
    // What came later here hides it from the rows that both wrote, and from the folder's times.
    a.later();
    for path in ["docs/tagged", "docs/linked"] {
        let kind = OpKind::SetAttr {
            ino: a.at(path).ino,
            mode: Some(0o600),
            uid: None,
            gid: None,
            mtime: None,
            ctime: a.clock.wall(),
        };
        a.apply(kind);
    }
    a.put("docs/own", "and later");
    a.unlink("docs/own");
    a.put("docs/own2", "new");
    let now = meet(&devices);
    for changed in [
        "docs",
        "docs/edited",
        "docs/made",
        "mine",
        "mine/moved",
        "docs/linked",
        "docs/tagged",
    ] {
        assert!(arrived(&devices[0], changed) >= Some(now), "{changed}");
    }
    for kept in ["docs/untouched", "docs/own2"] {
        assert_eq!(arrived(&devices[0], kept), None, "{kept}");
    }
    // The same after a restart; and no others know of it.
    let before = arrived(&devices[0], "docs/made");
    devices[0].restart();
    assert_eq!(arrived(&devices[0], "docs/made"), before);
    assert_eq!(arrived(&devices[1], "docs/made"), None);
    // What goes leaves no time behind.
    let made = devices[0].at("docs/made").ino;
    devices[0].unlink("docs/made");
    let cut = devices[0]
        .apply(OpKind::Device {
            name: "anna".into(),
        })
        .id;
    devices[0].publish();
    devices[0].volume.set_stable(cut).unwrap();
    assert_eq!(devices[0].volume.inode(made).unwrap(), None);
    assert_eq!(devices[0].volume.arrived(made).unwrap(), None);
}

#[test]
fn a_folder_that_became_a_part_of_another_has_its_times() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    let [first, second] = [a, b].map(|device| {
        device.later();
        device.make("same", FileKind::Dir)
    });
    let now = meet(&devices);
    assert_eq!(devices[1].at("same").ino, first);
    for ino in [first, second] {
        assert!(devices[1].volume.arrived(ino).unwrap() >= Some(now));
    }
    b.put("same/file", "x");
    let now = meet(&devices);
    for ino in [first, second] {
        assert!(devices[0].volume.arrived(ino).unwrap() >= Some(now));
        assert!(devices[1].volume.arrived(ino).unwrap() < Some(now));
    }
}
