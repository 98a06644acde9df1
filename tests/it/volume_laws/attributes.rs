//! Of two who set attributes the later one counts, and of two nodes that are one the narrower rights,
//! whichever of them arrives, or is named by a record, first.

use dfs::base::{Clock, Ino, Timespec};
use dfs::volume::{FileKind, OpKind};

use super::cluster::{Device, cluster, sync, write};
use super::names::{access, list};

/// Attributes to be set.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Set {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<u64>,
}

fn at(secs: u64) -> Timespec {
    Timespec {
        secs: secs as i64,
        nanos: 0,
    }
}

fn set(device: &Device, ino: Ino, set: Set) {
    device.apply(OpKind::SetAttr {
        ino,
        mode: set.mode,
        uid: set.uid,
        gid: set.gid,
        mtime: set.mtime.map(at),
        ctime: device.clock.wall(),
    });
}

/// Lets one device do something and another one something else later, in both roles, and a record name
/// both, neither, or the later one first; checks what all come to.
pub(super) fn earlier_and_later(
    base: impl Fn(&Device),
    earlier: impl Fn(&Device),
    later: impl Fn(&Device),
    check: impl Fn(&Device, &str),
) {
    for (first, second) in [(0, 1), (1, 0)] {
        for named in ["nothing", "both", "the later"] {
            // Only the first device makes records.
            if named == "the later" && second != 0 {
                continue;
            }
            let devices = cluster(2);
            base(&devices[0]);
            sync(&devices);
            earlier(&devices[first]);
            devices[second].later();
            later(&devices[second]);
            if named == "the later" {
                devices[0].publish();
                devices[0].commit();
            }
            sync(&devices);
            if named == "both" {
                devices[0].commit();
                sync(&devices);
            }
            for device in &devices {
                check(
                    device,
                    &format!("{first} before {second}, {named} is named"),
                );
            }
        }
    }
}

#[test]
fn of_two_who_set_any_attribute_of_any_node_the_later_one_counts() {
    let kinds = [
        FileKind::File,
        FileKind::Dir,
        FileKind::Symlink,
        FileKind::Fifo,
    ];
    let all = Set {
        mode: Some(0o640),
        uid: Some(5),
        gid: Some(6),
        mtime: Some(700),
    };
    // What the later one does not set stays as the earlier one set it.
    let others = [
        Set {
            mode: Some(0o4751),
            mtime: Some(7),
            ..Set::default()
        },
        Set {
            uid: Some(9),
            ..Set::default()
        },
    ];
    for kind in kinds {
        for other in others {
            for (one, two) in [(all, other), (other, all)] {
                earlier_and_later(
                    |device| {
                        device.make("x", kind);
                    },
                    |device| set(device, device.at("x").ino, one),
                    |device| set(device, device.at("x").ino, two),
                    |device, case| {
                        let x = device.at("x");
                        let case = format!("{kind:?}: {one:?} before {two:?}, {case}");
                        let uid = two.uid.or(one.uid).unwrap_or(1);
                        let gid = two.gid.or(one.gid).unwrap_or(2);
                        assert_eq!((x.uid, x.gid), (uid, gid), "{case}");
                        if let Some(mtime) = two.mtime.or(one.mtime) {
                            assert_eq!(x.mtime, at(mtime), "{case}");
                        }
                        let mode = two.mode.or(one.mode).unwrap_or(0o644);
                        // Setuid holds for the owner alone that was seen.
                        assert_eq!(x.mode & 0o777, mode & 0o777, "{case}");
                    },
                );
            }
        }
    }
}

#[test]
fn a_file_was_changed_when_it_was_last_written_or_set_to_have_been() {
    let put = |device: &Device| {
        let file = device.at("x");
        if let OpKind::Write(made) = write(file.ino, file.version, "new") {
            let mtime = at(2);
            device.apply(OpKind::Write(dfs::volume::Write { mtime, ..made }));
        }
    };
    let touch = |device: &Device| {
        let mtime = Some(1);
        let all = Set {
            mtime,
            ..Set::default()
        };
        set(device, device.at("x").ino, all);
    };
    let base = |device: &Device| {
        device.put("x", "old");
    };
    let is = |secs: u64| {
        move |device: &Device, case: &str| {
            assert_eq!(device.at("x").mtime, at(secs), "{case}");
            assert_eq!(device.text("x"), "new");
        }
    };
    earlier_and_later(base, touch, put, is(2));
    earlier_and_later(base, put, touch, is(1));
}

/// A file that one of two makes.
#[derive(Debug, Clone, Copy)]
struct Made {
    mode: u32,
    uid: u32,
    gid: u32,
    /// What the list allows that user alone, where there is one.
    named: Option<u16>,
}

#[test]
fn of_two_files_that_are_one_nobody_may_do_more_than_with_each() {
    let of = |mode, uid, gid| Made {
        mode,
        uid,
        gid,
        named: None,
    };
    let listed = |named, made: Made| Made {
        named: Some(named),
        ..made
    };
    let open = of(0o664, 5, 6);
    // Which two, what both allow, and whose owner and group it has where one allows others less.
    let cases = [
        (open, of(0o600, 7, 8), 0o600, Some(of(0, 7, 8))),
        (open, of(0o640, 5, 6), 0o640, Some(of(0, 5, 6))),
        // The group of one is of the others to the other.
        (open, of(0o664, 5, 8), 0o644, None),
        (open, of(0o664, 7, 6), 0o664, None),
        (of(0o640, 5, 6), of(0o604, 7, 6), 0o600, None),
        (open, listed(6, open), 0o664, None),
        (listed(7, open), listed(4, open), 0o664, None),
    ];
    for (one, two, mode, owned) in cases {
        for (first, second) in [(one, two), (two, one)] {
            let devices = cluster(2);
            let mut numbers = Vec::new();
            devices[1].later();
            for (device, made) in devices.iter().zip([first, second]) {
                let beside = format!(".x {}", device.index());
                let ino = device.make(&beside, FileKind::File);
                numbers.push(ino);
                let rights = Set {
                    mode: Some(made.mode),
                    uid: Some(made.uid),
                    gid: Some(made.gid),
                    mtime: None,
                };
                set(device, ino, rights);
                if let Some(named) = made.named {
                    let group = (made.mode >> 3 & 7) as u16;
                    device.apply(OpKind::SetXattr {
                        ino,
                        name: dfs::volume::Acl::ACCESS.into(),
                        value: list([6, named, group, 6, 4]).into(),
                        time: device.clock.wall(),
                    });
                }
                device.overwrite(ino, "same");
                device.rename(&beside, "x", false);
            }
            sync(&devices);
            for device in &devices {
                let case = format!("{first:?} and {second:?}");
                assert_eq!(device.list(""), ["x"], "{case}");
                let x = device.at("x");
                assert_eq!(x.mode, mode, "{case}");
                // Where neither is the narrower, it is whose it was.
                let kept = if x.ino == numbers[0] { first } else { second };
                let owner = owned.unwrap_or(kept);
                assert_eq!((x.uid, x.gid), (owner.uid, owner.gid), "{case}");
                // Whom a list does not name may do what others may.
                let named = [one, two].map(|made| made.named.unwrap_or(4));
                if one.named.or(two.named).is_some() {
                    let least = named.into_iter().fold(7, |all, one| all & one);
                    let expected = list([6, least, 6, 6, 4]);
                    assert_eq!(access(device, "x"), Some(expected), "{case}");
                }
            }
        }
    }
}
