//! Rows of docs/semantics.md about names and directories.

use std::time::Duration;

use dfs::base::Clock;
use dfs::volume::{ConflictKind, FileKind, OpKind, VolumeError};

use super::cluster::{Device, cluster, sync};

const BEN: &str = " (conflict, ben, 2026-01-02)";
const ANNA: &str = " (conflict, anna, 2026-01-02)";

#[test]
fn two_files_created_at_one_name_are_both_kept() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("note.txt", "from anna");
    b.later();
    b.put("note.txt", "and from ben");
    sync(&devices);
    let aside = format!("note{ANNA}.txt");
    assert_eq!(a.list(""), [aside.clone(), "note.txt".to_owned()]);
    assert_eq!(b.text("note.txt"), "and from ben");
    assert_eq!(a.text(&aside), "from anna");
    assert_eq!(b.conflicts(), [(ConflictKind::Name, Some(aside))]);
    assert_eq!(b.volume.counts().conflicts, 1);
}

#[test]
fn a_conflict_name_that_is_taken_is_followed_by_four_characters() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("x", "1");
    a.put(&format!("x{ANNA}"), "2");
    b.later();
    b.put("x", "3");
    sync(&devices);
    let files = a.files().into_iter();
    let mut files = files.filter(|(_, text)| text == "1");
    let (name, _) = files.next().unwrap();
    let mark = name.strip_prefix(&format!("/x{ANNA} ")).unwrap();
    assert!(mark.len() == 4 && mark.chars().all(|c| c.is_ascii_alphanumeric()));
}

#[test]
fn a_third_history_renames_no_conflict_file() {
    let devices = cluster(3);
    let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
    a.put("x", "base");
    a.mkdir("d");
    sync(&devices);
    let meet = || {
        for (device, other) in [(a, b), (b, a)] {
            other.publish();
            device.pull(other, usize::MAX);
        }
    };
    for round in 0..3 {
        a.put("x", &format!("anna {round}"));
        b.later();
        b.put("x", &format!("ben {round}"));
        meet();
        if round == 0 {
            // Between the first and the second.
            c.later();
            c.later();
            c.put("x", "carl");
            for device in [a, b, a, b, a, b] {
                device.later();
            }
        }
        a.later();
    }
    let mut before = a.files();
    assert_eq!(before.remove("/x").as_deref(), Some("ben 2"));
    assert_eq!(before.len(), 3);
    sync(&devices);
    let after = a.files();
    for (name, text) in &before {
        assert_eq!(after.get(name), Some(text), "{name} in {after:?}");
    }
    assert_eq!(after.len(), 5, "{after:?}");
}

#[test]
fn of_a_file_moved_to_a_name_and_one_made_there_the_later_keeps_it() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    b.put("mine", "b");
    sync(&devices);
    a.put("target", "a");
    b.later();
    b.rename("mine", "target", false);
    sync(&devices);
    assert_eq!(a.text("target"), "b");
    assert_eq!(a.text(&format!("target{ANNA}")), "a");
}

#[test]
fn two_saves_by_rename_over_one_file_are_both_kept() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("doc", "old");
    sync(&devices);
    b.later();
    for device in [a, b] {
        let temporary = format!(".doc.{}", device.index());
        device.put(&temporary, &format!("new {}", device.index()));
        device.rename(&temporary, "doc", false);
    }
    sync(&devices);
    assert_eq!(a.text("doc"), "new 1");
    assert_eq!(a.text(&format!("doc{ANNA}")), "new 0");
    assert_eq!(a.list("").len(), 2);
}

#[test]
fn two_directories_at_one_name_become_one() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.mkdir("photos");
    a.put("photos/1", "a");
    a.put("photos/same", "a");
    b.later();
    let other = b.mkdir("photos");
    b.put("photos/2", "b");
    b.put("photos/same", "b");
    b.mkdir("photos/sub");
    b.put("photos/sub/3", "b");
    sync(&devices);
    let same = format!("same{ANNA}");
    assert_eq!(a.list(""), ["photos"]);
    assert_eq!(a.list("photos"), ["1", "2", "same", &same, "sub"]);
    assert_eq!(a.text("photos/sub/3"), "b");
    // Who knows the directory by its other number still reaches it.
    assert_eq!(b.inode(other).ino, a.at("photos").ino);
    assert_eq!(b.volume.dirent(other, b"1").unwrap().unwrap().name, "1");
}

#[test]
fn a_full_directory_moved_onto_another_brings_its_entries() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    b.mkdir("d");
    b.mkdir("d/sub");
    b.put("d/sub/x", "b");
    sync(&devices);
    a.mkdir("e");
    a.mkdir("e/sub");
    a.put("e/sub/x", "a");
    b.later();
    b.rename("d", "e", false);
    sync(&devices);
    assert_eq!(a.list(""), ["e"]);
    // Of two files the one that was made later keeps the name.
    assert_eq!(a.text("e/sub/x"), "a");
    assert_eq!(a.text(&format!("e/sub/x{BEN}")), "b");
}

#[test]
fn of_two_full_directories_that_are_moved_to_one_name_each_keeps_its_entries() {
    for b_later in [false, true] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        for dir in ["x", "y"] {
            a.mkdir(dir);
            a.put(&format!("{dir}/same"), dir);
        }
        sync(&devices);
        let (first, second, aside) = if b_later { (a, b, ANNA) } else { (b, a, BEN) };
        first.rename("x", "final", false);
        second.later();
        second.rename("y", "final", false);
        sync(&devices);
        assert_eq!(a.text("final/same"), "y");
        assert_eq!(a.text(&format!("final{aside}/same")), "x");
        let listed = [(ConflictKind::Name, Some(format!("final{aside}")))];
        assert_eq!(b.conflicts(), listed);
    }
}

#[test]
fn a_directory_keeps_its_name_against_a_file() {
    for dir_first in [true, false] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        let [dir, file] = if dir_first { [a, b] } else { [b, a] };
        let make_dir = || {
            dir.mkdir("x");
            dir.put("x/in", "in");
        };
        b.later();
        make_dir();
        file.put("x", "file");
        sync(&devices);
        let owner = if dir_first { "ben" } else { "anna" };
        assert_eq!(a.text("x/in"), "in");
        assert_eq!(
            a.text(&format!("x (conflict, {owner}, 2026-01-02)")),
            "file"
        );
    }
}

#[test]
fn what_is_made_in_a_removed_directory_brings_it_back() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.mkdir("d");
    a.mkdir("d/e");
    sync(&devices);
    a.rmdir("d/e");
    a.rmdir("d");
    b.later();
    b.put("d/e/f", "late");
    sync(&devices);
    assert_eq!(a.text("d/e/f"), "late");
    // It is told once, of the uppermost.
    let [told] = a.volume.conflicts().unwrap().try_into().unwrap();
    assert_eq!(told.kind, ConflictKind::DirRevived);
    assert_eq!(told.place.unwrap().name, "d");
}

#[test]
fn what_is_moved_into_a_removed_directory_brings_it_back() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.mkdir("d");
    a.put("f", "f");
    sync(&devices);
    a.rmdir("d");
    a.put("d", "a file now");
    b.later();
    b.rename("f", "d/f", false);
    sync(&devices);
    assert_eq!(a.text("d/f"), "f");
    assert_eq!(a.text("d (conflict, anna, 2026-01-02)"), "a file now");
}

#[test]
fn a_directory_that_is_no_longer_empty_stays() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.mkdir("d");
    sync(&devices);
    a.put("d/f", "early");
    b.later();
    b.rmdir("d");
    sync(&devices);
    assert_eq!(a.text("d/f"), "early");
    assert_eq!(a.conflicts(), [(ConflictKind::RmdirDropped, None)]);
}

#[test]
fn of_two_moves_that_would_make_a_cycle_the_later_is_dropped() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.mkdir("x");
    a.mkdir("y");
    a.mkdir("y/deep");
    sync(&devices);
    a.rename("x", "y/deep/x", false);
    b.later();
    b.rename("y", "x/y", false);
    sync(&devices);
    assert!(a.find("y/deep/x").is_some());
    assert_eq!(a.list(""), ["y"]);
    assert_eq!(a.conflicts(), [(ConflictKind::CycleDropped, None)]);
}

#[test]
fn of_two_moves_of_one_file_the_later_place_wins() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "f");
    sync(&devices);
    a.rename("f", "first", false);
    b.later();
    b.rename("f", "second", false);
    sync(&devices);
    assert_eq!(a.list(""), ["second"]);
}

#[test]
fn a_file_moved_and_removed_is_at_its_new_place() {
    for move_first in [true, false] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        a.put("f", "f");
        sync(&devices);
        let [mover, remover] = if move_first { [a, b] } else { [b, a] };
        b.later();
        mover.rename("f", "moved", false);
        remover.unlink("f");
        sync(&devices);
        assert_eq!(a.list(""), ["moved"]);
        assert_eq!(a.text("moved"), "f");
    }
}

#[test]
fn a_replaced_file_that_changed_is_kept() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "old");
    b.put("new", "n");
    sync(&devices);
    a.put("f", "edited");
    b.later();
    b.rename("new", "f", false);
    sync(&devices);
    let aside = "f (conflict, anna, 2026-01-02)";
    assert_eq!(a.text("f"), "n");
    assert_eq!(a.text(aside), "edited");
    assert_eq!(
        a.conflicts(),
        [(ConflictKind::ReplacedKept, Some(aside.to_owned()))]
    );
}

#[test]
fn names_of_one_file_are_counted_and_found() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "f");
    sync(&devices);
    a.link("f", "g");
    b.later();
    b.link("f", "h");
    b.rename("f", "moved", false);
    sync(&devices);
    assert_eq!(a.list(""), ["g", "h", "moved"]);
    assert_eq!(a.at("g").nlink, 3);
    a.unlink("g");
    b.unlink("moved");
    sync(&devices);
    // The one that is left is its home again, so that it can be moved and brought back.
    assert_eq!(a.at("h").home.unwrap().name, "h");
    a.unlink("h");
    b.later();
    b.put("h", "written");
    sync(&devices);
    assert_eq!(a.text("h"), "written");
}

#[test]
fn of_the_last_names_of_a_file_that_several_remove_one_stays() {
    for replaces in [false, true] {
        let devices = cluster(3);
        let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
        a.put("f", "text");
        for name in ["g", "h"] {
            a.link("f", name);
        }
        a.put("new", "new");
        sync(&devices);
        // Each leaves it the names that the others remove.
        for (device, name) in [(a, "f"), (b, "g"), (c, "h")] {
            devices.iter().for_each(Device::later);
            match replaces && name == "f" {
                true => device.rename("new", name, false),
                false => device.unlink(name),
            }
        }
        sync(&devices);
        assert_eq!(c.text("h"), "text");
        assert_eq!(c.at("h").nlink, 1);
        assert_eq!(c.conflicts(), [(ConflictKind::LastName, None)]);
        // Who knew it as the last one removes it.
        b.unlink("h");
        sync(&devices);
        assert_eq!((c.find("h"), c.volume.counts().conflicts), (None, 0));
    }
    // Who removes all that it knew removes all; who meant one alone does not remove the last.
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("f", "text");
    a.link("f", "g");
    sync(&devices);
    a.unlink("f");
    a.unlink("g");
    b.later();
    b.unlink("g");
    sync(&devices);
    assert_eq!((a.files().len(), a.volume.counts().conflicts), (0, 0));
}

#[test]
fn swapped_nodes_are_swapped_everywhere() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.mkdir("d");
    a.put("d/in", "in");
    a.put("f", "f");
    sync(&devices);
    b.rename("d", "f", true);
    sync(&devices);
    assert_eq!(a.text("d"), "f");
    assert_eq!(a.text("f/in"), "in");
}

#[test]
fn of_two_changes_of_one_attribute_the_later_wins() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    let ino = a.make("f", FileKind::File);
    sync(&devices);
    let set = |mode, uid| OpKind::SetAttr {
        ino,
        mode,
        uid,
        gid: None,
        mtime: None,
        ctime: dfs::base::Timespec::default(),
    };
    let xattr = |value: &'static [u8]| OpKind::SetXattr {
        ino,
        name: bytes::Bytes::from_static(b"user.k"),
        value: bytes::Bytes::from_static(value),
        time: dfs::base::Timespec::default(),
    };
    b.later();
    a.apply(set(Some(0o600), Some(5)));
    a.apply(xattr(b"a"));
    b.apply(set(Some(0o640), None));
    b.apply(xattr(b"b"));
    sync(&devices);
    let inode = a.at("f");
    assert_eq!((inode.mode, inode.uid), (0o640, 5));
    assert_eq!(a.volume.xattr(ino, b"user.k").unwrap().unwrap(), "b");
    assert!(a.conflicts().is_empty());
}

#[test]
fn a_writer_that_does_not_end_keeps_nobody_for_ever() {
    let devices = cluster(1);
    let volume = &devices[0].volume;
    let counts = volume.counts();
    let stuck = volume.write().unwrap();
    let limit = Duration::from_millis(1);
    assert!(matches!(volume.write_within(limit), Err(VolumeError::Busy)));
    assert_eq!(volume.counts(), counts);
    drop(stuck);
    assert!(volume.write_within(limit).is_ok());
}

#[test]
fn a_directory_that_was_moved_keeps_what_was_removed_from_it_unaware() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.mkdir("outer");
    a.mkdir("outer/dir");
    a.mkdir("outer/dir/sub");
    a.put("outer/dir/sub/file", "kept");
    a.put("outer/seen", "goes");
    sync(&devices);
    a.rename("outer/dir", "moved", false);
    b.later();
    b.unlink("outer/dir/sub/file");
    b.rmdir("outer/dir/sub");
    b.unlink("outer/seen");
    sync(&devices);
    assert_eq!(a.at("moved/sub").mtime, b.at("moved/sub").mtime);
    for device in &devices {
        assert_eq!(device.text("moved/sub/file"), "kept");
        assert_eq!(device.find("outer/seen"), None);
    }
    // Who knows where it is now may remove it.
    b.unlink("moved/sub/file");
    sync(&devices);
    assert_eq!(a.list("moved/sub"), Vec::<String>::new());
}

#[test]
fn entries_made_side_by_side_in_one_directory_are_not_folded_again() {
    const EACH: usize = 600;
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.mkdir("dir");
    a.put("dir/both", "base");
    sync(&devices);
    for number in 0..EACH {
        a.make(&format!("dir/a{number}"), FileKind::File);
        b.make(&format!("dir/b{number}"), FileKind::File);
        if number % 10 == 0 {
            a.mkdir(&format!("dir/sub a{number}"));
            a.unlink(&format!("dir/a{number}"));
            b.mkdir(&format!("dir/sub b{number}"));
        }
    }
    // What clashes, and what reads how many there are.
    a.make("dir/clash", FileKind::File);
    b.make("dir/clash", FileKind::Symlink);
    a.publish();
    b.publish();
    let undone = a.pull(b, usize::MAX).undone_count + b.pull(a, usize::MAX).undone_count;
    assert!(undone <= 4, "{undone} were folded again");
    sync(&devices);
    let dir = a.at("dir");
    let entries = EACH as u64 * 2 - EACH as u64 / 10 + 2 * EACH as u64 / 10 + 1 + 2;
    assert_eq!(
        (dir.entries, dir.nlink),
        (entries, 2 + 2 * EACH as u32 / 10)
    );
}

#[test]
fn a_directory_that_was_moved_later_keeps_what_was_removed_from_it_unseen() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    for dir in ["whole", "whole/sub", "part", "part/sub", "seen"] {
        a.mkdir(dir);
    }
    for file in [
        "whole/sub/file",
        "whole/file",
        "part/sub/file",
        "part/file",
        "seen/file",
    ] {
        a.put(file, file);
    }
    sync(&devices);
    b.unlink("seen/file");
    sync(&devices);
    for file in ["whole/sub/file", "whole/file", "part/sub/file"] {
        b.unlink(file);
    }
    for dir in ["whole/sub", "whole", "part/sub"] {
        b.rmdir(dir);
    }
    a.later();
    for dir in ["whole", "part", "seen"] {
        a.rename(dir, &format!("moved {dir}"), false);
    }
    sync(&devices);
    assert_eq!(b.list(""), ["moved part", "moved seen", "moved whole"]);
    for file in ["whole/sub/file", "whole/file", "part/sub/file", "part/file"] {
        assert_eq!(b.text(&format!("moved {file}")), file);
    }
    assert_eq!(b.list("moved seen"), Vec::<String>::new());
}

#[test]
fn a_conflict_file_is_beside_a_name_that_the_file_has() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    for dir in ["one", "two", "three", "four"] {
        a.mkdir(dir);
    }
    a.put("one/doc", "base");
    for dir in ["two", "three", "four"] {
        a.link("one/doc", &format!("{dir}/doc"));
    }
    sync(&devices);
    for dir in ["one", "two"] {
        a.unlink(&format!("{dir}/doc"));
        a.rmdir(dir);
    }
    sync(&devices);
    a.put("three/doc", "from a");
    b.later();
    b.put("four/doc", "from b");
    sync(&devices);
    assert_eq!(a.list(""), ["four", "three"]);
    assert_eq!(a.files().len(), 3);
}

pub(super) fn list(perms: [u16; 5]) -> Vec<u8> {
    // user::, user:4711:, group::, mask::, other::
    let tags = [
        (1u16, u32::MAX),
        (2, 4711),
        (4, u32::MAX),
        (16, u32::MAX),
        (32, u32::MAX),
    ];
    let mut value = 2u32.to_le_bytes().to_vec();
    for ((tag, id), perm) in tags.into_iter().zip(perms) {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

pub(super) fn access(device: &Device, path: &str) -> Option<Vec<u8>> {
    let ino = device.at(path).ino;
    let value = device.volume.xattr(ino, dfs::volume::Acl::ACCESS).unwrap();
    value.map(|value| value.to_vec())
}

fn set_access(device: &Device, path: &str, value: &[u8]) {
    device.apply(OpKind::SetXattr {
        ino: device.at(path).ino,
        name: bytes::Bytes::from_static(dfs::volume::Acl::ACCESS),
        value: bytes::Bytes::copy_from_slice(value),
        time: device.clock.wall(),
    });
}

fn chmod(device: &Device, path: &str, mode: u32) {
    device.apply(OpKind::SetAttr {
        ino: device.at(path).ino,
        mode: Some(mode),
        uid: None,
        gid: None,
        mtime: None,
        ctime: device.clock.wall(),
    });
}

#[test]
fn a_list_and_a_mode_that_cross_say_the_same() {
    for list_first in [true, false] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        a.put("f", "private");
        chmod(a, "f", 0o600);
        sync(&devices);
        let [lister, changer] = if list_first { [a, b] } else { [b, a] };
        b.later();
        set_access(lister, "f", &list([6, 6, 0, 6, 0]));
        chmod(changer, "f", 0o640);
        sync(&devices);
        let (mask, mode) = if list_first { (4, 0o640) } else { (6, 0o660) };
        assert_eq!(a.at("f").mode, mode);
        assert_eq!(access(b, "f"), Some(list([6, 6, 0, mask, 0])));
        assert_eq!(a.at("f").xattrs, 1);
    }
}

#[test]
fn of_two_directories_that_become_one_the_narrower_rights_hold() {
    for private_first in [true, false] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        let [private, open] = if private_first { [a, b] } else { [b, a] };
        b.later();
        open.mkdir("keys");
        chmod(open, "keys", 0o755);
        private.mkdir("keys");
        chmod(private, "keys", 0o700);
        private.put("keys/secret", "for me");
        // Whatever it allows later, it allows for what it knows.
        chmod(open, "keys", 0o775);
        sync(&devices);
        assert_eq!(a.at("keys").mode, 0o700);
        // Who has seen both may open it.
        chmod(open, "keys", 0o750);
        sync(&devices);
        assert_eq!(a.at("keys").mode, 0o750);
    }
}

#[test]
fn of_two_directories_that_become_one_the_narrower_lists_hold() {
    for listed_first in [true, false] {
        let devices = cluster(2);
        let [a, b] = [&devices[0], &devices[1]];
        let [listed, private] = if listed_first { [a, b] } else { [b, a] };
        b.later();
        listed.mkdir("new");
        set_access(listed, "new", &list([7, 7, 5, 7, 5]));
        listed.put("new/file", "x");
        listed.rename("new", "dir", false);
        private.mkdir("other");
        chmod(private, "other", 0o710);
        private.rename("other", "dir", false);
        private.put("dir/mine", "y");
        sync(&devices);
        assert_eq!(a.list("dir"), ["file", "mine"]);
        assert_eq!(access(a, "dir"), Some(list([7, 0, 1, 7, 0])));
        assert_eq!(b.at("dir").mode, 0o770);
    }
}

#[test]
fn a_file_that_is_saved_often_by_rename_over_has_one_conflict_file() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("doc", "old");
    sync(&devices);
    let save = |device: &Device, round: u32| {
        device.put(".new", &format!("{} {round}", device.index()));
        device.rename(".new", "doc", false);
    };
    for round in 0..4 {
        save(a, round);
    }
    b.later();
    for round in 0..4 {
        save(b, round);
    }
    sync(&devices);
    let aside = format!("doc{ANNA}");
    assert_eq!(a.list(""), ["doc".to_owned(), aside.clone()]);
    assert_eq!(
        (a.text("doc"), a.text(&aside)),
        ("1 3".into(), "0 3".into())
    );
    let listed = [(ConflictKind::Name, Some(aside.clone()))];
    assert_eq!(a.conflicts(), listed);
    // It is settled as any other, when what stands aside is gone.
    b.unlink(&aside);
    sync(&devices);
    assert_eq!(a.volume.counts().conflicts, 0);
}

#[test]
fn a_save_by_rename_that_makes_both_sides_equal_leaves_one_file() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    a.put("doc", "old");
    sync(&devices);
    a.put(".new", "formatted");
    a.rename(".new", "doc", false);
    b.later();
    for text in ["draft", "formatted"] {
        b.put(".new", text);
        b.rename(".new", "doc", false);
    }
    sync(&devices);
    assert_eq!(a.list(""), ["doc"]);
    assert_eq!(a.text("doc"), "formatted");
    assert_eq!(a.volume.counts().conflicts, 0);
}

#[test]
fn a_directory_that_was_swapped_later_keeps_what_was_removed_from_it_unseen() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    for dir in ["one", "one/sub", "two"] {
        a.mkdir(dir);
        a.put(&format!("{dir}/file"), dir);
    }
    sync(&devices);
    for file in ["one/sub/file", "one/file"] {
        b.unlink(file);
    }
    for dir in ["one/sub", "one"] {
        b.rmdir(dir);
    }
    a.later();
    a.rename("one", "two", true);
    sync(&devices);
    assert_eq!(a.text("two/sub/file"), "one/sub");
    assert_eq!(a.text("two/file"), "one");
    assert_eq!(a.text("one/file"), "two");
}

#[test]
fn what_was_moved_stays_moved_where_a_third_brought_it_back_meanwhile() {
    for is_dir in [true, false] {
        let devices = cluster(3);
        let [a, b, c] = [&devices[0], &devices[1], &devices[2]];
        a.mkdir("kept");
        a.mkdir("dir");
        a.put("dir/old", "old");
        a.put("file", "old");
        sync(&devices);
        if is_dir {
            b.rename("dir", "kept/dir", false);
        } else {
            b.rename("file", "kept/file", false);
        }
        a.later();
        if is_dir {
            a.unlink("dir/old");
            a.rmdir("dir");
        } else {
            a.unlink("file");
        }
        c.later();
        c.later();
        if is_dir {
            c.put("dir/new", "new");
        } else {
            c.overwrite(c.at("file").ino, "new");
        }
        // The move comes last, though it was made first.
        for device in [a, c] {
            device.publish();
        }
        a.pull(c, usize::MAX);
        a.commit();
        sync(&devices);
        if is_dir {
            assert_eq!(a.list("kept/dir"), ["new", "old"]);
        } else {
            assert_eq!(a.text("kept/file"), "new");
        }
    }
}

#[test]
fn a_dropped_move_leaves_the_times_of_directories_alike() {
    let devices = cluster(2);
    let [a, b] = [&devices[0], &devices[1]];
    for dir in ["one", "two", "two/in"] {
        a.mkdir(dir);
    }
    a.put("two/file", "file");
    sync(&devices);
    a.rename("one", "two/in/one", false);
    a.link("two/file", "two/in/link");
    b.later();
    b.rename("two", "one/two", false);
    b.link("one/two/file", "link");
    sync(&devices);
    for path in ["two", "two/in", "two/in/one", "one"] {
        let [x, y] = [a, b].map(|device| device.find(path).map(|dir| dir.mtime));
        assert_eq!(x, y, "{path}");
    }
}
