//! What people do on two machines at the same time, in every order: nothing that somebody wrote last is in
//! no file, nothing is there twice, and nobody may do more than one of them allowed.

use std::collections::BTreeMap;

use dfs::base::{Ino, Timespec};
use dfs::volume::{FileKind, OpKind};

use super::cluster::{Device, cluster, sync};
use super::equal::{Step, chmod, crossing, make, put, rename, save, step, unlink};

pub(super) fn link(from: &'static str, to: &'static str) -> Step {
    step(move |device| device.link(from, to))
}

pub(super) fn exchange(one: &'static str, two: &'static str) -> Step {
    step(move |device| device.rename(one, two, true))
}

fn append(path: &'static str, text: &'static str) -> Step {
    step(move |device| {
        device.append(path, text);
    })
}

pub(super) fn rmdir(path: &'static str) -> Step {
    step(move |device| device.rmdir(path))
}

pub(super) fn mkdir(path: &'static str) -> Step {
    make(path, FileKind::Dir)
}

pub(super) fn files(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    let files = of.iter();
    files
        .map(|(path, text)| (format!("/{path}"), (*text).to_owned()))
        .collect()
}

pub(super) fn texts(device: &Device) -> Vec<String> {
    let mut texts: Vec<String> = device.files().into_values().collect();
    texts.sort();
    texts
}

#[test]
fn names_of_a_file_go_their_ways() {
    let base = [put("x", "x"), put("y", "y"), link("x", "z")];
    // A name less, and another place.
    let a = [exchange("x", "y")];
    let b = [unlink("z"), append("x", "+")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.files(), files(&[("x", "y"), ("y", "x+")]));
        assert_eq!(device.at("y").nlink, 1);
    });
    // Replaced under one name, written under the other.
    let base = [put("x", "x"), link("x", "z")];
    let a = [save_as("x", "new")];
    let b = [append("z", "+")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.files(), files(&[("x", "new"), ("z", "x+")]));
        assert_eq!(device.volume.counts().conflicts, 0);
    });
    // A name that comes while the others go.
    let a = [link("x", "d/kept")];
    let b = [unlink("x"), unlink("z")];
    let base = [put("x", "x"), link("x", "z"), mkdir("d")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.files(), files(&[("d/kept", "x")]));
        assert_eq!(device.at("d/kept").nlink, 1);
    });
}

fn save_as(path: &'static str, text: &'static str) -> Step {
    step(move |device| {
        device.put(".new", text);
        device.rename(".new", path, false);
    })
}

#[test]
fn what_is_edited_goes_where_it_is_moved_however_names_are_passed_on() {
    let base = [put("log", "0"), put("log.1", "1")];
    let a = [rename("log", "log.2"), rename("log.1", "log")];
    let b = [append("log", "+"), append("log.1", "+")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.files(), files(&[("log", "1+"), ("log.2", "0+")]));
    });
    let a = [rename("log", "log.2"), put("log", "next")];
    crossing(&base[..1], [&a, &b[..1]], |device| {
        assert_eq!(device.files(), files(&[("log", "next"), ("log.2", "0+")]));
    });
}

#[test]
fn a_folder_that_is_moved_into_one_that_is_removed_is_there_with_all_in_it() {
    let base = [
        mkdir("d"),
        put("d/f", "f"),
        mkdir("e"),
        mkdir("e/in"),
        put("e/in/g", "g"),
    ];
    let a = [rename("d", "e/in/d")];
    let b = [unlink("e/in/g"), rmdir("e/in"), rmdir("e")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.text("e/in/d/f"), "f");
    });
    // And out of it, while it is emptied.
    let base = [mkdir("d"), mkdir("d/sub"), put("d/sub/f", "f")];
    let a = [rename("d/sub", "sub"), put("sub/new", "new")];
    let b = [unlink("d/sub/f"), rmdir("d/sub"), rmdir("d")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.text("sub/f"), "f");
        assert_eq!(device.text("sub/new"), "new");
    });
}

#[test]
fn of_three_who_move_remove_and_add_all_is_where_it_was_moved() {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let devices = cluster(3);
        devices[0].mkdir("d");
        devices[0].mkdir("d/sub");
        devices[0].put("d/sub/old", "old");
        sync(&devices);
        for who in order {
            devices.iter().for_each(Device::later);
            let device = &devices[who];
            match who {
                0 => {
                    device.unlink("d/sub/old");
                    device.rmdir("d/sub");
                    device.rmdir("d");
                }
                1 => device.rename("d", "e", false),
                _ => {
                    device.put("d/sub/new", "new");
                }
            }
            device.publish();
        }
        sync(&devices);
        let expected = files(&[("e/sub/new", "new"), ("e/sub/old", "old")]);
        assert_eq!(devices[0].files(), expected, "{order:?}");
    }
}

#[test]
fn folders_that_are_swapped_while_a_file_goes_from_one_to_the_other() {
    let base = [mkdir("p"), mkdir("q"), put("p/f", "f"), put("q/g", "g")];
    let a = [exchange("p", "q")];
    let b = [rename("p/f", "q/f")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.files(), files(&[("p/f", "f"), ("p/g", "g")]));
        assert_eq!(device.list("q"), [] as [&str; 0]);
    });
    // One into the other, and the other into it.
    let a = [rename("p", "q/p")];
    let b = [rename("q", "p/q")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(texts(device), ["f", "g"]);
    });
}

#[test]
fn a_link_or_a_pipe_in_the_place_of_a_file_loses_nothing_of_it() {
    for kind in [FileKind::Symlink, FileKind::Fifo] {
        let base = [put("doc", "old")];
        let a = [make(".new", kind), rename(".new", "doc")];
        let b = [append("doc", "+")];
        crossing(&base, [&a, &b], |device| {
            assert_eq!(device.at("doc").kind, kind);
            let names = device.list("").into_iter();
            let aside: Vec<String> = names.filter(|name| name.starts_with("doc (")).collect();
            assert_eq!(aside.len(), 1);
            assert_eq!(device.text(&aside[0]), "old+");
        });
        let a = [make("new", kind)];
        let b = [put("new", "text")];
        crossing(&[], [&a, &b], |device| {
            assert_eq!(device.list("").len(), 2);
            assert_eq!(device.volume.counts().conflicts, 1);
        });
    }
}

#[test]
fn appends_survive_what_others_do_with_the_name() {
    let base = [put("log", "begun"), mkdir("old")];
    let b = [append("log", " 1"), append("log", " 2")];
    for a in [
        vec![rename("log", "old/log")],
        vec![put("log", "")],
        vec![rename("log", "old/log"), put("log", "next")],
        vec![save_as("log", "next")],
        vec![unlink("log")],
    ] {
        crossing(&base, [&a, &b], |device| {
            let all = texts(device).concat();
            assert!(all.contains(" 1") && all.contains(" 2"), "{all}");
        });
    }
}

#[test]
fn a_private_folder_stays_private_whatever_comes_to_its_name() {
    let secret = [mkdir("s"), chmod("s", 0o700), put("s/secret", "secret")];
    let base = [mkdir("open"), chmod("open", 0o755), put("open/f", "f")];
    for b in [
        vec![rename("open", "s")],
        vec![mkdir("s"), chmod("s", 0o755)],
        vec![mkdir("s"), put("s/f", "f")],
    ] {
        crossing(&base, [&secret, &b], |device| {
            let found = secret_folder(device, "");
            let mode = device.at(&found.unwrap()).mode;
            assert_eq!(mode & 0o077, 0, "{:?}", device.files());
        });
    }
}

/// Sets an access list by which none but the owner may do anything.
fn close(path: &'static str) -> Step {
    step(move |device| {
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, perm) in [(1u16, 6u16), (4, 0), (32, 0)] {
            list.extend(tag.to_le_bytes());
            list.extend(perm.to_le_bytes());
            list.extend(u32::MAX.to_le_bytes());
        }
        device.apply(OpKind::SetXattr {
            ino: device.at(path).ino,
            name: "system.posix_acl_access".into(),
            value: list.into(),
            time: Timespec::default(),
        });
    })
}

#[test]
fn what_is_made_private_after_it_was_written_is_private_where_it_stands_aside() {
    let base = [put("x", "base")];
    for b in [
        vec![put("x", "other")],
        vec![put("x", "other"), put("x", "other still")],
        vec![save_as("x", "saved")],
    ] {
        for narrow in [chmod("x", 0o600), close("x")] {
            let a = [put("x", "secret"), narrow];
            crossing(&base, [&a, &b], |device| {
                let mut names = device.list("").into_iter();
                let secret = names.find(|name| device.text(name) == "secret");
                let mode = device.at(&secret.unwrap()).mode;
                assert_eq!(mode & 0o077, 0, "{:?}", device.files());
            });
        }
    }
    // Of a conflict file that was seen nothing is said by that.
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("x", "base");
    sync(&devices);
    a.put("x", "one");
    b.later();
    b.put("x", "two");
    sync(&devices);
    chmod("x", 0o600)(a);
    sync(&devices);
    for (name, mode) in [("x", 0o600), ("x (conflict, anna, 2026-01-02)", 0o644)] {
        assert_eq!(b.at(name).mode, mode);
    }
}

/// Returns the folder in which the secret is.
fn secret_folder(device: &Device, within: &str) -> Option<String> {
    device.list(within).into_iter().find_map(|name| {
        let path = format!("{within}/{name}");
        if device.at(&path).is_dir() {
            return secret_folder(device, &path);
        }
        (name == "secret").then(|| within.to_owned())
    })
}

fn tag(path: &'static str, value: &'static str) -> Step {
    step(move |device| {
        device.apply(OpKind::SetXattr {
            ino: device.at(path).ino,
            name: "user.tag".into(),
            value: value.into(),
            time: Timespec::default(),
        });
    })
}

fn tag_of(device: &Device, ino: Ino) -> Option<String> {
    let value = device.volume.xattr(ino, b"user.tag").unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

#[test]
fn attributes_follow_what_they_were_set_on() {
    let base = [put("x", "x"), put("y", "y"), mkdir("d")];
    let a = [tag("x", "of x")];
    let b = [rename("x", "d/x"), rename("y", "x")];
    crossing(&base, [&a, &b], |device| {
        let [x, y] = ["d/x", "x"].map(|path| tag_of(device, device.at(path).ino));
        assert_eq!((x.as_deref(), y), (Some("of x"), None));
    });
    let a = [tag("x", "of x"), chmod("x", 0o640)];
    let b = [exchange("x", "y"), tag("y", "later")];
    crossing(&base, [&a, &b], |device| {
        assert_eq!(device.at("y").mode, 0o640);
        assert!(tag_of(device, device.at("y").ino).is_some());
        assert_eq!(tag_of(device, device.at("x").ino), None);
    });
}

#[test]
fn a_tree_that_both_made_is_removed_by_who_knew_it_all() {
    let tree = || vec![mkdir("t"), put("t/same", "same")];
    for removes in [false, true] {
        let devices = cluster(2);
        for device in &devices {
            device.later();
            for step in tree() {
                step(device);
            }
        }
        sync(&devices);
        let [a, b] = [&devices[0], &devices[1]];
        a.unlink("t/same");
        a.rmdir("t");
        if removes {
            b.unlink("t/same");
            b.rmdir("t");
        } else {
            b.later();
            b.put("t/more", "more");
        }
        sync(&devices);
        let expected = if removes {
            files(&[])
        } else {
            files(&[("t/more", "more")])
        };
        assert_eq!(a.files(), expected);
    }
}

#[test]
fn what_is_saved_here_and_edited_in_place_there_is_both_there_once() {
    let base = [put("doc", "base"), link("doc", "other name")];
    let a = [save("saved"), save("saved again")];
    let b = [put("doc", "edited"), append("doc", "+")];
    crossing(&base, [&a, &b], |device| {
        let texts = texts(device);
        let count = |text: &str| texts.iter().filter(|there| *there == text).count();
        assert_eq!(count("saved again"), 1, "{texts:?}");
        assert!(count("edited+") >= 1, "{texts:?}");
        assert_eq!(count("saved"), 0, "{texts:?}");
    });
}
