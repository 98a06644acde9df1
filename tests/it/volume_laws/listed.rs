//! What is listed where changes crossed, and how it leaves the list by what people do by hand.

use std::collections::BTreeSet;

use dfs::base::Ino;
use dfs::volume::{ConflictKind, OpKind};

use super::cluster::{Device, cluster, sync};
use super::crossed::{exchange, files, link, mkdir, rmdir, texts};
use super::equal::{crossing, put, rename, unlink};

const ANNA: &str = " (conflict, anna, 2026-01-02)";
const BEN: &str = " (conflict, ben, 2026-01-02)";

/// What is listed: what met, where what has the name is, and where what stands aside is.
type Listed = (ConflictKind, Option<String>, Option<String>);

/// Returns the path of a node, `None` where it has none.
fn path_of(device: &Device, ino: Ino) -> Option<String> {
    let node = device.volume.inode(ino).unwrap()?;
    let mut parts = Vec::new();
    let mut at = node.clone();
    while at.ino != Ino::ROOT {
        if at.is_orphan() {
            return None;
        }
        let home = at.home.unwrap();
        parts.push(String::from_utf8(home.name.to_vec()).unwrap());
        at = device.inode(home.parent);
    }
    parts.reverse();
    let path = parts.join("/");
    assert_eq!(device.at(&path).ino, node.ino, "what is listed is there");
    Some(path)
}

fn listed(device: &Device) -> Vec<Listed> {
    let mut conflicts = device.volume.conflicts().unwrap();
    conflicts.retain(|conflict| !conflict.resolved);
    let count = device.volume.counts().conflicts;
    assert_eq!(count, conflicts.len() as u64, "as many are counted");
    let told = conflicts.iter().map(|conflict| {
        let aside = conflict.other.map(|ino| path_of(device, ino).unwrap());
        (conflict.kind, path_of(device, conflict.ino), aside)
    });
    told.collect()
}

fn content(kept: &str, aside: &str) -> Listed {
    let path = |path: &str| Some(path.to_owned());
    (ConflictKind::Content, path(kept), path(aside))
}

fn note(kind: ConflictKind, path: &str) -> Vec<Listed> {
    vec![(kind, Some(path.to_owned()), None)]
}

/// Returns devices of which two wrote `f`, and then the conflict file of that, and the name of what stands
/// aside of it.
fn nested() -> (Vec<Device>, String, String) {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "base");
    sync(&devices);
    let copy = format!("f{ANNA}");
    for path in ["f", &copy] {
        a.put(path, &format!("anna {path}"));
        b.later();
        b.put(path, &format!("ben {path}"));
        sync(&devices);
    }
    let names = a.list("");
    let inner = names.iter().find(|name| *name != "f" && **name != copy);
    let inner = inner.unwrap().clone();
    assert!(inner.starts_with(&copy), "{names:?}");
    (devices, copy, inner)
}

#[test]
fn a_conflict_of_a_conflict_is_listed_and_leaves_the_list_by_hand() {
    type Step = fn(&Device, &str, &str);
    type Told = fn(&str, &str) -> Vec<Listed>;
    let cases: [(Step, Told); 6] = [
        (
            |a, _, inner| a.unlink(inner),
            |copy, _| vec![content("f", copy)],
        ),
        (
            |a, _, inner| a.rename(inner, "mine", false),
            |copy, _| vec![content("f", copy)],
        ),
        // What stands aside of what is gone is still told, by its own path.
        (
            |a, copy, _| a.unlink(copy),
            |_, inner| vec![(ConflictKind::Content, None, Some(inner.to_owned()))],
        ),
        (
            |a, copy, _| a.rename(copy, "f", false),
            |_, inner| vec![content("f", inner)],
        ),
        (|a, copy, inner| a.rename(inner, copy, false), |_, _| vec![]),
        (
            |a, copy, inner| {
                a.unlink("f");
                a.rename(copy, "f", false);
                a.unlink(inner);
            },
            |_, _| vec![],
        ),
    ];
    for (case, (step, expected)) in cases.iter().enumerate() {
        let (devices, copy, inner) = nested();
        let [a, b] = [&devices[0], &devices[1]];
        let both = [content("f", &copy), content(&copy, &inner)];
        assert_eq!(listed(b), both);
        step(a, &copy, &inner);
        sync(&devices);
        for device in &devices {
            assert_eq!(listed(device), expected(&copy, &inner), "case {case}");
        }
    }
}

#[test]
fn of_several_who_wrote_one_file_each_is_listed_and_leaves_the_list_by_hand() {
    for first in 0..3 {
        let devices = cluster(4);
        devices[3].put("f", "base");
        sync(&devices);
        for turn in 0..3 {
            let device = &devices[(first + turn) % 3];
            device.put("f", &format!("by {}", device.index()));
            devices.iter().for_each(Device::later);
        }
        sync(&devices);
        let [a, .., d] = &devices[..] else {
            unreachable!("there are four");
        };
        assert_eq!(texts(a), ["by 0", "by 1", "by 2"]);
        let last = (first + 2) % 3;
        assert_eq!(d.text("f"), format!("by {last}"));
        let all = listed(a);
        let asides: BTreeSet<_> = all
            .iter()
            .map(|(.., aside)| aside.clone().unwrap())
            .collect();
        assert_eq!(asides.len(), 2);
        let asides: Vec<String> = asides.into_iter().collect();
        for (aside, told) in asides.iter().zip(["first", "second"]) {
            assert!(all.contains(&content("f", aside)), "{told} of {all:?}");
        }
        // One is chosen, and the other stands aside of that.
        d.rename(&asides[0], "f", false);
        sync(&devices);
        assert_eq!(listed(a), [content("f", &asides[1])]);
        a.unlink("f");
        a.rename(&asides[1], "f", false);
        sync(&devices);
        assert_eq!((listed(d), d.list("")), (vec![], vec!["f".to_owned()]));
    }
}

#[test]
fn of_a_file_with_two_names_what_is_listed_is_by_a_name_that_is_there() {
    let base = [put("f", "x"), link("f", "g")];
    // Written by each name, which then goes.
    let a = [put("f", "A"), rename("f", "h")];
    let b = [put("g", "B"), unlink("f")];
    crossing(&base, [&a, &b], |device| {
        let told = listed(device);
        let (contents, others): (Vec<Listed>, Vec<Listed>) = told
            .into_iter()
            .partition(|(kind, ..)| *kind == ConflictKind::Content);
        let [(_, Some(kept), Some(aside))] = &contents[..] else {
            panic!("one of two contents stands aside: {contents:?}");
        };
        let mut both = [device.text(kept), device.text(aside)];
        both.sort();
        assert_eq!(both, ["A", "B"]);
        assert!(
            others
                .iter()
                .all(|(_, path, _)| path.as_ref() == Some(kept))
        );
    });
    // Written by one name and removed by another.
    let [a, b] = [[put("f", "A")], [unlink("g")]];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(
            (device.files(), listed(device)),
            (files(&[("f", "A")]), vec![])
        );
    });
}

#[test]
fn a_folder_that_was_moved_and_what_was_above_it_are_listed_where_they_are() {
    let base = [mkdir("p"), mkdir("p/d"), put("p/d/f", "f"), mkdir("q")];
    // Out of what is removed with all in it: as if it had been moved before.
    let a = [rename("p/d", "q/d")];
    let b = [unlink("p/d/f"), rmdir("p/d"), rmdir("p")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.list(""), ["q"]);
        assert_eq!(
            (device.files(), listed(device)),
            (files(&[("q/d/f", "f")]), vec![])
        );
    });
    // Into what is removed: that is back.
    let a = [rename("p/d", "q/d")];
    let b = [rmdir("q")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.files(), files(&[("q/d/f", "f")]));
        let told = listed(device);
        let is_one = |kind| told == note(kind, "q");
        assert!(
            is_one(ConflictKind::DirRevived) || is_one(ConflictKind::RmdirDropped),
            "{told:?}"
        );
        // It leaves the list with its name.
        device.rename("q", "r", false);
        assert_eq!(listed(device), []);
    });
}

#[test]
fn what_became_a_part_of_another_folder_is_listed_as_that_and_leaves_the_list_with_it() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.mkdir("d");
    sync(&devices);
    a.rename("d", "one", false);
    b.mkdir("two");
    b.put("two/f", "f");
    b.later();
    b.rename("d", "two/d", false);
    a.mkdir("two");
    a.mkdir("two/d");
    a.put("two/d/g", "g");
    sync(&devices);
    assert_eq!(a.files(), files(&[("two/f", "f"), ("two/d/g", "g")]));
    for device in &devices {
        assert_eq!(listed(device), note(ConflictKind::MovedTwice, "two/d"));
    }
    a.unlink("two/d/g");
    a.rmdir("two/d");
    sync(&devices);
    assert_eq!((listed(a), listed(b)), (vec![], vec![]));
}

#[test]
fn what_was_swapped_is_listed_where_somebody_else_moved_it_too() {
    let base = [put("f", "f"), put("g", "g")];
    let swapped = files(&[("f", "g"), ("g", "f")]);
    let swap = [exchange("f", "g")];
    // Nothing is asked of anybody where all is as both want it.
    for other in [exchange("f", "g"), unlink("f")] {
        crossing(&base, [&swap, &[other]], |device| {
            assert_eq!((device.files(), listed(device)), (swapped.clone(), vec![]));
        });
    }
    crossing(&base, [&swap, &[put("f", "B")]], |device| {
        let expected = files(&[("f", "g"), ("g", "B")]);
        assert_eq!((device.files(), listed(device)), (expected, vec![]));
    });
    crossing(&base, [&swap, &[rename("f", "h")]], |device| {
        let at = if device.files() == swapped { "g" } else { "h" };
        assert_eq!(device.text(at), "f");
        assert_eq!(listed(device), note(ConflictKind::MovedTwice, at));
    });
    let save = [put("new", "n"), rename("new", "f")];
    crossing(&base, [&swap, &save], |device| {
        assert_eq!(texts(device), ["f", "g", "n"]);
        let told = listed(device);
        let [(ConflictKind::Name, Some(kept), Some(aside))] = &told[..] else {
            panic!("two stand at one name: {told:?}");
        };
        // Swapped again it is dealt with.
        device.rename(kept, aside, true);
        assert_eq!(listed(device), []);
    });
}

#[test]
fn conflict_names_of_names_as_long_as_there_are_differ_and_fit() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    // Alike up to where a conflict name cuts them, of one byte and of three for each character.
    let ascii = "x".repeat(250);
    let wide = "語".repeat(83);
    let long: Vec<String> = [ascii, wide]
        .iter()
        .flat_map(|stem| [1, 2].map(|n| format!("{stem}{n}.md")))
        .collect();
    for name in &long {
        a.put(name, "base");
    }
    sync(&devices);
    for device in &devices {
        devices.iter().for_each(Device::later);
        for (n, name) in long.iter().enumerate() {
            device.put(name, &format!("{n} by {}", device.index()));
        }
    }
    // Two meet before the third.
    b.publish();
    a.pull(b, usize::MAX);
    sync(&devices);
    let mut expected: Vec<String> = (0..4)
        .flat_map(|n| (0..3).map(move |by| format!("{n} by {by}")))
        .collect();
    expected.sort();
    assert_eq!(texts(c), expected);
    let told = listed(c);
    assert_eq!(told.len(), 8);
    for (_, kept, aside) in told {
        let (kept, aside) = (kept.unwrap(), aside.unwrap());
        assert!(long.contains(&kept));
        assert!(aside.len() <= 255 && aside.ends_with(".md"), "{aside}");
        let is_named = |of: &str| aside.contains(of);
        assert!(is_named(ANNA) || is_named(BEN), "{aside}");
        assert_eq!(device_text(c, &kept), device_text(c, &aside));
        a.unlink(&aside);
    }
    sync(&devices);
    assert_eq!((listed(c).len(), c.list("").len()), (0, 4));
}

/// Returns of which file the content of a path is.
fn device_text(device: &Device, path: &str) -> String {
    let text = device.text(path);
    text.split(' ').next().unwrap().to_owned()
}

#[test]
fn appends_that_joined_are_listed_once_until_that_is_settled_or_gone() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f.zip", "start;");
    sync(&devices);
    let both = |rounds: std::ops::Range<usize>| {
        for round in rounds {
            a.append("f.zip", &format!("a{round};"));
            b.append("f.zip", &format!("b{round};"));
        }
        sync(&devices);
    };
    let is_listed = |is: bool| {
        let expected = match is {
            true => note(ConflictKind::Joined, "f.zip"),
            false => Vec::new(),
        };
        assert_eq!((listed(a), listed(b)), (expected.clone(), expected));
    };
    // One after the other is no conflict.
    a.append("f.zip", "a;");
    sync(&devices);
    b.append("f.zip", "b;");
    sync(&devices);
    is_listed(false);
    both(0..3);
    is_listed(true);
    both(3..5);
    is_listed(true);
    let conflicts = a.volume.conflicts().unwrap();
    let open = conflicts.iter().find(|conflict| !conflict.resolved);
    let conflict = open.unwrap().op;
    a.apply(OpKind::Resolve { conflict });
    sync(&devices);
    is_listed(false);
    // Who empties it, writes all of it anew, cuts it, saves another over it, moves or removes it has looked at it.
    let ends: [fn(&Device); 6] = [
        |device| {
            device.put("f.zip", "");
        },
        |device| {
            device.put("f.zip", &"anew;".repeat(100));
        },
        |device| {
            device.put("f.zip", "short;");
        },
        |device| {
            device.put("new", "saved;");
            device.rename("new", "f.zip", false);
        },
        |device| {
            device.rename("f.zip", "log", false);
            device.put("f.zip", "next;");
        },
        |device| {
            device.unlink("f.zip");
            device.put("f.zip", "next;");
        },
    ];
    for end in ends {
        both(5..6);
        is_listed(true);
        end(b);
        sync(&devices);
        is_listed(false);
    }
}

#[test]
fn what_was_joined_is_not_listed_any_more_where_it_stands_aside_or_one_alone_is_left() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.put("f", "start;");
    a.put("g", "start;");
    sync(&devices);
    // Who had seen neither writes it anew, later.
    for device in [a, b] {
        for path in ["f", "g"] {
            device.append(path, &format!("{};", device.index()));
        }
    }
    a.publish();
    b.pull(a, usize::MAX);
    assert_eq!(listed(b).len(), 2);
    c.later();
    c.put("f", "anew");
    // Who had seen one of two empties it.
    c.pull(a, usize::MAX);
    c.put("g", "");
    sync(&devices);
    let aside = c.files().into_keys().find(|path| path.starts_with("/f ("));
    let aside = aside.unwrap().split_off(1);
    for device in &devices {
        assert_eq!(listed(device), [content("f", &aside)]);
        assert_eq!(device.text(&aside), "start;0;1;");
        assert_eq!(device.text("g"), "1;");
    }
}
