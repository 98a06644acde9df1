//! What says the same on several sides is one, whatever the order of the ops.

use std::collections::BTreeMap;
use std::time::Duration;

use dfs::base::{Clock, Rng, Timespec};
use dfs::volume::FileKind;

use super::cluster::{Device, cluster, sync, write};

pub(super) type Step = Box<dyn Fn(&Device)>;

pub(super) fn step(f: impl Fn(&Device) + 'static) -> Step {
    Box::new(f)
}

pub(super) fn put(path: &'static str, text: &'static str) -> Step {
    step(move |device| {
        device.put(path, text);
    })
}

pub(super) fn make(path: &'static str, kind: FileKind) -> Step {
    step(move |device| {
        device.make(path, kind);
    })
}

pub(super) fn unlink(path: &'static str) -> Step {
    step(move |device| device.unlink(path))
}

pub(super) fn rename(from: &'static str, to: &'static str) -> Step {
    step(move |device| device.rename(from, to, false))
}

/// Most orders that are tried of what two do.
const ORDERS_MAX: usize = 40;

/// Returns orders of `a` steps of one and `b` of another, as who does the next: all of them, or where
/// these are many some.
fn orders(a: usize, b: usize) -> Vec<Vec<usize>> {
    fn extend(so_far: &mut Vec<usize>, left: [usize; 2], all: &mut Vec<Vec<usize>>) {
        if left == [0, 0] {
            all.push(so_far.clone());
        }
        for who in 0..2 {
            if left[who] > 0 {
                let mut rest = left;
                rest[who] -= 1;
                so_far.push(who);
                extend(so_far, rest, all);
                so_far.pop();
            }
        }
    }
    if a + b <= 7 {
        let mut all = Vec::new();
        extend(&mut Vec::new(), [a, b], &mut all);
        return all;
    }
    let rng = Rng::from_seed((a * 100 + b) as u64);
    let some = (0..ORDERS_MAX).map(|_| {
        let mut left = [a, b];
        let mut order = Vec::new();
        while left != [0, 0] {
            let who = usize::from(rng.below((left[0] + left[1]) as u64) >= left[0] as u64);
            left[who] -= 1;
            order.push(who);
        }
        order
    });
    some.collect()
}

/// Lets two devices do things that cross in every order, and checks what both come to.
pub(super) fn crossing(base: &[Step], sides: [&[Step]; 2], check: impl Fn(&Device)) {
    for order in orders(sides[0].len(), sides[1].len()) {
        let devices = cluster(2);
        for step in base {
            step(&devices[0]);
        }
        sync(&devices);
        let mut done = [0; 2];
        for who in &order {
            for device in &devices {
                device.clock.advance(Duration::from_millis(10));
            }
            sides[*who][done[*who]](&devices[*who]);
            // What is published at once is not left out where it is overwritten.
            devices[*who].publish();
            let newest = devices.iter().map(|d| d.clock.monotonic()).max().unwrap();
            for device in &devices {
                device.clock.advance(newest - device.clock.monotonic());
            }
            done[*who] += 1;
        }
        sync(&devices);
        for device in &devices {
            println!("order {order:?}: {:?}", device.files());
            check(device);
        }
        assert_eq!(times(&devices[0]), times(&devices[1]));
    }
}

/// Returns the mtime of every folder.
fn times(device: &Device) -> BTreeMap<String, Timespec> {
    let mut times = BTreeMap::new();
    let mut folders = vec![String::new()];
    while let Some(path) = folders.pop() {
        let folder = device.at(&path);
        if folder.is_dir() {
            let names = device.list(&path).into_iter();
            folders.extend(names.map(|name| format!("{path}/{name}")));
            times.insert(path, folder.mtime);
        }
    }
    times
}

/// Lets two write the same over and over, and hear of each other bit by bit.
#[test]
fn a_folder_has_one_time_in_whichever_pieces_what_is_equal_arrives() {
    for order in orders(3, 3) {
        let devices = cluster(2);
        devices[0].mkdir("r");
        sync(&devices);
        for device in &devices {
            for round in 0..3 {
                devices.iter().for_each(Device::later);
                device.put("r/same", &format!("same {round}"));
                device.publish();
            }
        }
        for who in &order {
            devices[*who].pull(&devices[1 - who], 1);
        }
        sync(&devices);
        is_exactly(&devices[0], &[("r/same", "same 2")]);
        assert_eq!(times(&devices[0]), times(&devices[1]), "{order:?}");
    }
}

#[test]
fn a_folder_that_another_was_a_part_of_for_a_while_has_its_own_time() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.mkdir("d");
    a.publish();
    a.rename("d", "e", false);
    a.publish();
    b.later();
    b.mkdir("d");
    b.put("d/file", "text");
    b.publish();
    // Here they are one until it is heard that the first had moved by then.
    c.pull(a, 1);
    c.pull(b, 1);
    assert_eq!(c.list(""), ["d"]);
    assert_eq!(c.at("d").mtime, b.at("d").mtime);
    sync(&devices);
    assert_eq!(c.list(""), ["d", "e"]);
    assert_eq!(times(a), times(c));
    assert_eq!(c.at("e").mtime, c.at("e").btime);
    assert_eq!(times(b), times(c));
}

#[test]
fn of_folders_that_are_one_the_time_is_that_of_the_last_change_by_either_number() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.mkdir("d");
    b.later();
    let number = b.mkdir("d");
    b.make("d/of-b", FileKind::File);
    let of_b = b.at("d").mtime;
    sync(&devices);
    assert_eq!((a.at("d").mtime, b.at("d").mtime), (of_b, of_b));
    a.make("d/of-a", FileKind::File);
    sync(&devices);
    let of_a = a.at("d").mtime;
    assert!(of_a > of_b);
    assert_eq!(b.at("d").mtime, of_a);
    for (ino, secs) in [(number, 5), (a.at("d").ino, 3), (number, 4)] {
        let mtime = Timespec { secs, nanos: 0 };
        b.apply(dfs::volume::OpKind::SetAttr {
            ino,
            mode: None,
            uid: None,
            gid: None,
            mtime: Some(mtime),
            ctime: b.clock.wall(),
        });
        sync(&devices);
        for device in &devices {
            assert_eq!(device.at("d").mtime, mtime);
        }
    }
}

/// Lets two make a folder or file at one name, and checks that its parent has one time.
#[test]
fn where_two_put_the_same_the_folder_has_one_time() {
    for kind in [FileKind::File, FileKind::Symlink, FileKind::Dir] {
        let made = || vec![make("x", kind)];
        for order in orders(1, 1) {
            let devices = cluster(2);
            for who in order {
                devices.iter().for_each(Device::later);
                made()[0](&devices[who]);
                devices[who].publish();
            }
            sync(&devices);
            let [a, b] = [&devices[0], &devices[1]];
            assert_eq!(a.at("").mtime, b.at("").mtime, "{kind:?}");
        }
    }
}

pub(super) fn is_exactly(device: &Device, files: &[(&str, &str)]) {
    let files = files
        .iter()
        .map(|(path, text)| (format!("/{path}"), (*text).to_owned()));
    assert_eq!(device.files(), files.collect());
    assert_eq!(device.volume.counts().conflicts, 0);
}

#[test]
fn the_same_tree_unpacked_on_both_is_one_tree() {
    let unpack = || {
        vec![
            make("d", FileKind::Dir),
            make("d/file", FileKind::File),
            step(|device| {
                let ino = device.at("d/file").ino;
                device.apply(write(ino, device.inode(ino).version, "first"));
            }),
            put("d/file", "first and second"),
            make("d/link", FileKind::Symlink),
            make("d/empty", FileKind::File),
            make("d/pipe", FileKind::Fifo),
        ]
    };
    crossing(&[], [&unpack(), &unpack()], |device| {
        assert_eq!(device.list("d"), ["empty", "file", "link", "pipe"]);
        assert_eq!(device.text("d/file"), "first and second");
        assert_eq!(device.volume.counts().conflicts, 0);
    });
}

#[test]
fn the_same_formatter_on_both_leaves_one_file() {
    let format = || {
        vec![
            make(".tmp", FileKind::File),
            put(".tmp", "x = 1"),
            rename(".tmp", "a.py"),
        ]
    };
    let base = [put("a.py", "x=1")];
    crossing(&base, [&format(), &format()], |device| {
        is_exactly(device, &[("a.py", "x = 1")]);
    });
}

#[test]
fn what_both_linked_to_a_name_is_one() {
    // As git makes its objects.
    let object = |tmp: &'static str| {
        vec![
            make(tmp, FileKind::File),
            put(tmp, "object"),
            step(move |device| device.link(tmp, "ab")),
            unlink(tmp),
        ]
    };
    crossing(&[], [&object("tmp a"), &object("tmp b")], |device| {
        is_exactly(device, &[("ab", "object")]);
        assert_eq!(device.at("ab").nlink, 1);
    });
    // A tree with hard links in it.
    let linked = || {
        vec![
            make("x", FileKind::File),
            put("x", "same"),
            step(|device| device.link("x", "y")),
        ]
    };
    crossing(&[], [&linked(), &linked()], |device| {
        is_exactly(device, &[("x", "same"), ("y", "same")]);
        assert_eq!(device.at("x").ino, device.at("y").ino);
    });
}

#[test]
fn what_both_made_and_moved_apart_is_in_both_places() {
    for text in ["same", "other"] {
        let a = [
            make(".tmp", FileKind::File),
            put(".tmp", "same"),
            rename(".tmp", "a"),
        ];
        let b = [
            make(".tmp", FileKind::File),
            put(".tmp", text),
            rename(".tmp", "b"),
        ];
        crossing(&[], [&a, &b], |device| {
            is_exactly(device, &[("a", "same"), ("b", text)]);
        });
    }
}

#[test]
fn who_saw_one_of_two_that_are_one_does_not_remove_it() {
    let made = || vec![make("x", FileKind::File), put("x", "same")];
    let mut removed = made();
    removed.push(unlink("x"));
    crossing(&[], [&removed, &made()], |device| {
        is_exactly(device, &[("x", "same")]);
    });
    // What one moved away is there, and where the other has it.
    let mut moved = made();
    moved.push(rename("x", "y"));
    crossing(&[], [&moved, &made()], |device| {
        is_exactly(device, &[("x", "same"), ("y", "same")]);
    });
    // In the place of what one saw, another: what the other made is beside it.
    let mut replaced = made();
    replaced.extend([put("z", "new"), rename("z", "x")]);
    crossing(&[], [&replaced, &made()], |device| {
        let files = device.files();
        assert_eq!(files.len(), 2, "{files:?}");
        let texts: Vec<&str> = files.values().map(String::as_str).collect();
        assert!(
            texts.contains(&"same") && texts.contains(&"new"),
            "{files:?}"
        );
    });
    // Contents that are equal, too.
    let base = [put("x", "base")];
    crossing(
        &base,
        [&[put("x", "same"), unlink("x")], &[put("x", "same")]],
        |device| {
            assert_eq!(device.text("x"), "same");
            assert_eq!(device.files().len(), 1);
        },
    );
}

#[test]
fn what_both_removed_is_gone() {
    let lock = || {
        vec![
            make("lock", FileKind::File),
            unlink("lock"),
            make("lock", FileKind::File),
            put("lock", "pid"),
            unlink("lock"),
        ]
    };
    crossing(&[], [&lock(), &lock()], |device| is_exactly(device, &[]));
    let base = [put("x", "base")];
    let edit = || vec![put("x", "same"), unlink("x")];
    crossing(&base, [&edit(), &edit()], |device| {
        assert_eq!(device.files().len(), 0);
    });
}

#[test]
fn who_goes_on_from_what_both_made_has_the_name() {
    let made = || vec![make("x", FileKind::File), put("x", "same")];
    let mut edited = made();
    edited.push(put("x", "edited"));
    crossing(&[], [&edited, &made()], |device| {
        is_exactly(device, &[("x", "edited")]);
    });
    let mut other = made();
    other.push(put("x", "edited otherwise"));
    crossing(&[], [&edited, &other], |device| {
        let files = device.files();
        assert_eq!(files.len(), 2, "{files:?}");
        assert!(files.values().any(|text| text == "edited"));
        assert!(files.values().any(|text| text == "edited otherwise"));
        assert_eq!(device.volume.counts().conflicts, 1);
    });
}

#[test]
fn privileges_are_given_to_nobody_who_owns_it_unseen() {
    let owned = |path: &'static str, uid, gid| {
        step(move |device| {
            device.apply(dfs::volume::OpKind::SetAttr {
                ino: device.at(path).ino,
                mode: None,
                uid,
                gid,
                mtime: None,
                ctime: Timespec::default(),
            });
        })
    };
    let base = [put("f", "same"), put("g", "same"), make("d", FileKind::Dir)];
    let a = [chmod("f", 0o4755), chmod("g", 0o2755), chmod("d", 0o2755)];
    let b = [
        owned("f", Some(7), None),
        owned("g", None, Some(7)),
        owned("d", None, Some(7)),
    ];
    crossing(&base, [&a, &b], |device| {
        let is = |path| {
            (
                device.at(path).mode,
                device.at(path).uid,
                device.at(path).gid,
            )
        };
        assert_eq!((is("f"), is("g")), ((0o755, 7, 2), (0o755, 1, 7)));
        // In a directory it says whose is what is made there.
        assert_eq!(is("d"), (0o2755, 1, 7));
    });
}

#[test]
fn what_a_later_write_makes_equal_is_one() {
    for (path, text) in [("x", "one"), ("x (conflict, anna, 2026-01-02)", "two")] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        a.put("x", "one");
        b.later();
        b.put("x", "two");
        sync(&devices);
        assert_eq!(a.volume.counts().conflicts, 1);
        let numbers = [a.at("x").ino, a.at("x (conflict, anna, 2026-01-02)").ino];
        b.put(path, text);
        sync(&devices);
        for device in &devices {
            is_exactly(device, &[("x", text)]);
            // Both numbers lead to it, also when it goes on.
            for ino in numbers {
                assert_eq!(device.text_of(ino), text);
            }
        }
        a.put("x", "three");
        sync(&devices);
        for ino in numbers {
            assert_eq!(b.text_of(ino), "three");
        }
        b.overwrite(numbers[1], "four");
        b.unlink("x");
        sync(&devices);
        is_exactly(a, &[]);
    }
}

#[test]
fn of_two_that_are_one_the_narrower_rights_hold() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    for (device, mode) in [(a, 0o644), (b, 0o600)] {
        device.later();
        let ino = device.make("x", FileKind::File);
        device.apply(dfs::volume::OpKind::SetAttr {
            ino,
            mode: Some(mode),
            uid: None,
            gid: None,
            mtime: None,
            ctime: Timespec::default(),
        });
        device.overwrite(ino, "same");
    }
    sync(&devices);
    for device in &devices {
        is_exactly(device, &[("x", "same")]);
        assert_eq!(device.at("x").mode, 0o600);
    }
}

#[test]
fn two_that_became_one_and_were_swapped_by_who_had_not_seen_it_are_where_they_were() {
    const ASIDE: &str = "x (conflict, anna, 2026-01-02)";
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("x", "one");
    b.later();
    b.put("x", "two");
    sync(&devices);
    a.put("x", "one");
    a.rename("x", "y", false);
    b.later();
    b.rename("x", ASIDE, true);
    sync(&devices);
    for device in &devices {
        is_exactly(device, &[("y", "one")]);
    }
}

pub(super) fn chmod(path: &'static str, mode: u32) -> Step {
    step(move |device| {
        device.apply(dfs::volume::OpKind::SetAttr {
            ino: device.at(path).ino,
            mode: Some(mode),
            uid: None,
            gid: None,
            mtime: None,
            ctime: Timespec::default(),
        });
    })
}

pub(super) fn save(text: &'static str) -> Step {
    step(move |device| {
        device.put(".new", text);
        device.rename(".new", "doc", false);
    })
}

#[test]
fn what_is_saved_by_rename_over_on_both_sides_has_one_conflict_file_in_every_order() {
    let a = [save("a 0"), save("a 1"), save("a 2")];
    let b = [save("b 0"), save("b 1"), save("b 2")];
    crossing(&[put("doc", "base")], [&a, &b], |device| {
        let texts: Vec<String> = device.files().into_values().collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(
            ["a 2", "b 2"]
                .iter()
                .all(|last| texts.iter().any(|text| text == last))
        );
        assert_eq!(device.volume.counts().conflicts, 1);
    });
}

#[test]
fn what_is_written_and_then_saved_by_rename_over_is_one_lineage() {
    let a = [put("doc", "a 0"), put("doc", "a 1")];
    let b = [put("doc", "b 0"), save("b 1"), save("b 2")];
    crossing(&[put("doc", "base")], [&a, &b], |device| {
        let texts: Vec<String> = device.files().into_values().collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(
            ["a 1", "b 2"]
                .iter()
                .all(|last| texts.iter().any(|text| text == last))
        );
    });
}

#[test]
fn what_is_removed_from_a_folder_that_both_made_stays_removed() {
    let a = [
        make("d", FileKind::Dir),
        make("d/e", FileKind::Dir),
        put("d/e/of-a", "a"),
    ];
    let b = [
        make("d", FileKind::Dir),
        make("d/e", FileKind::Dir),
        put("d/e/passing", "b"),
        unlink("d/e/passing"),
        put("d/e/of-b", "b"),
    ];
    crossing(&[], [&a, &b], |device| {
        is_exactly(device, &[("d/e/of-a", "a"), ("d/e/of-b", "b")]);
    });
}

#[test]
fn what_is_removed_from_a_folder_that_met_another_moved_there_stays_removed() {
    let a = [rename("full", "d")];
    let b = [
        make("d", FileKind::Dir),
        put("d/passing", "b"),
        unlink("d/passing"),
    ];
    let base = [make("full", FileKind::Dir), put("full/old", "old")];
    crossing(&base, [&a, &b], |device| {
        is_exactly(device, &[("d/old", "old")]);
    });
}

#[test]
fn what_both_set_on_files_that_are_one_lets_others_do_what_both_allow() {
    let side = |mode| [put("x", "same"), chmod("x", mode)];
    crossing(&[], [&side(0o640), &side(0o604)], |device| {
        is_exactly(device, &[("x", "same")]);
        assert_eq!(device.at("x").mode & 0o077, 0);
    });
}

#[test]
fn what_is_written_here_and_replaced_by_the_same_there_is_one() {
    let a = [put("doc", "new")];
    let b = [save("new")];
    crossing(&[put("doc", "base")], [&a, &b], |device| {
        is_exactly(device, &[("doc", "new")]);
    });
}

#[test]
fn what_was_written_with_and_without_holes_is_the_same() {
    let sparse = |path: &'static str| {
        step(move |device| {
            let ino = device.make(path, FileKind::File);
            let base = device.inode(ino).version;
            let dfs::volume::OpKind::Write(write) = write(ino, base, "a") else {
                unreachable!("a write");
            };
            let pieces = vec![super::cluster::inline(4, "a")];
            device.apply(dfs::volume::OpKind::Write(dfs::volume::Write {
                size: 8,
                pieces,
                ..write
            }));
        })
    };
    crossing(
        &[],
        [&[sparse("x")], &[put("x", "\0\0\0\0a\0\0\0")]],
        |device| {
            assert_eq!(device.list(""), ["x"]);
            let ino = device.at("x").ino;
            let bytes = device.bytes_of(ino).into_iter();
            let is_zero = |byte| byte == 0 || byte == b'.';
            assert!(
                bytes
                    .enumerate()
                    .all(|(at, byte)| is_zero(byte) != (at == 4))
            );
        },
    );
}

#[test]
fn privileges_are_given_to_the_content_alone_that_was_seen() {
    let capable = |path: &'static str| {
        step(move |device| {
            device.apply(dfs::volume::OpKind::SetXattr {
                ino: device.at(path).ino,
                name: "security.capability".into(),
                value: "all".into(),
                time: Timespec::default(),
            });
        })
    };
    let base = [
        put("program", "base"),
        put("able", "base"),
        put("seen", "base"),
    ];
    let a = [
        chmod("program", 0o4755),
        capable("able"),
        chmod("seen", 0o6755),
    ];
    let b = [put("program", "other"), put("able", "other")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.at("program").mode, 0o755);
        assert_eq!(device.at("able").xattrs, 0);
        assert_eq!(device.at("seen").mode, 0o6755);
    });
}

#[test]
fn what_a_later_write_makes_equal_to_what_was_set_aside_is_one() {
    const ASIDE: &str = "x (conflict, anna, 2026-01-02)";
    for (path, text) in [("x", "by anna"), (ASIDE, "by ben")] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        a.put("x", "base");
        sync(&devices);
        a.put("x", "by anna");
        b.later();
        b.put("x", "by ben");
        sync(&devices);
        assert_eq!(a.list(""), ["x", ASIDE]);
        a.put(path, text);
        sync(&devices);
        for device in &devices {
            is_exactly(device, &[("x", text)]);
            assert_eq!(device.volume.counts().conflicts, 0);
        }
    }
}

#[test]
fn of_very_many_conflict_files_none_is_lost_that_is_made_equal() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.put("x", "base");
    sync(&devices);
    for round in 0..20 {
        a.put("x", &format!("by anna {round}"));
        b.later();
        b.put("x", &format!("by ben {round}"));
        sync(&devices);
    }
    let last = a.files().into_iter();
    let mut last = last.filter(|(_, text)| text == "by anna 19");
    let (last, _) = last.next_back().unwrap();
    a.put(last.trim_start_matches('/'), "by ben 19");
    // Who had not seen that removes the file that has the name.
    c.later();
    c.unlink("x");
    sync(&devices);
    for device in &devices {
        let files = device.files();
        assert!(files.values().any(|text| text == "by ben 19"), "{files:?}");
    }
}
