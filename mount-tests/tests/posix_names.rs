//! Names: link(2), rename(2), symlink(2), directories and how they are listed, beside ext4.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mount_tests::beside::{Side, beside};
use mount_tests::sys::{Handle, as_user, on_own_thread};
use mount_tests::{Command, spawn};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Uid, linkat, mkdirat, openat,
    renameat, renameat_with, seek, unlinkat,
};
use rustix::io::Errno;

/// Notes the kind, links and content of everything in the folder.
fn note_all(side: &mut Side<'_>, what: &str) {
    let mut all = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(side.path(&folder)).expect("it lists") {
            let entry = entry.expect("an entry");
            let path = folder.join(entry.file_name());
            let meta = entry.metadata().expect("it stats");
            let mut facts = format!("{:o} {} {}", meta.mode(), meta.nlink(), meta.rdev());
            if meta.is_dir() {
                folders.push(path.clone());
            } else if meta.is_symlink() {
                facts += &format!(" {:?}", fs::read_link(entry.path()));
            } else if meta.is_file() {
                facts += &format!(" {:?}", fs::read_to_string(entry.path()));
            }
            all.insert(path, facts);
        }
    }
    side.note(what, all);
}

/// Makes one of each kind, twice.
fn make_kinds(side: &Side<'_>, prefix: &str) {
    for copy in ["1", "2"] {
        let name = |kind: &str| format!("{prefix}{kind}{copy}");
        side.file(&name("file"), name("content"));
        side.folder(&name("empty"));
        fs::write(side.folder(&name("full")).join("inside"), "x").expect("written");
        symlink(name("target"), side.path(name("symlink"))).expect("a link");
        rustix::fs::mkfifoat(CWD, side.path(name("fifo")), Mode::RWXU).expect("a fifo");
    }
}

#[test]
fn every_kind_is_renamed_onto_every_kind() {
    beside("names-rename", |side| {
        let kinds = ["file", "empty", "full", "symlink", "fifo", "nothing"];
        let modes = [
            ("", RenameFlags::empty()),
            ("NOREPLACE", RenameFlags::NOREPLACE),
            ("EXCHANGE", RenameFlags::EXCHANGE),
            (
                "NOREPLACE|EXCHANGE",
                RenameFlags::NOREPLACE | RenameFlags::EXCHANGE,
            ),
            ("WHITEOUT", RenameFlags::WHITEOUT),
            (
                "WHITEOUT|NOREPLACE",
                RenameFlags::WHITEOUT | RenameFlags::NOREPLACE,
            ),
            (
                "WHITEOUT|EXCHANGE",
                RenameFlags::WHITEOUT | RenameFlags::EXCHANGE,
            ),
        ];
        for (mode, flags) in modes {
            for from in kinds {
                for to in kinds {
                    let prefix = format!("{mode}-{from}-{to}-");
                    make_kinds(side, &prefix);
                    let path = |kind: &str, copy: &str| side.path(format!("{prefix}{kind}{copy}"));
                    let (from, to) = (path(from, "1"), path(to, "2"));
                    let renamed = renameat_with(CWD, &from, CWD, &to, flags);
                    side.note(&prefix, renamed);
                }
            }
        }
        note_all(side, "what is there");
        side.remount();
        note_all(side, "after a remount");
    });
}

#[test]
fn rename_refuses_what_makes_no_sense() {
    beside("names-rename-odd", |side| {
        fs::create_dir_all(side.path("a/b/c")).expect("folders");
        side.file("file", "x");
        fs::hard_link(side.path("file"), side.path("same")).expect("a link");
        fs::hard_link(side.path("file"), side.path("a/same")).expect("a link");
        let at = |name: &str| side.path(name);
        let pairs = [
            ("a", "a"),
            ("a", "a/b"),
            ("a", "a/b/c"),
            ("a", "a/new"),
            ("a/b", "a/b/c/new"),
            ("a/b", "a"),
            ("a/b/c", "a"),
            ("file", "file"),
            ("file", "same"),
            ("same", "a/same"),
            ("file", "file/x"),
            ("file", "nothing/x"),
            ("nothing", "file"),
            ("file", "a/."),
            ("file", "a/.."),
            ("a/.", "x"),
            ("a/..", "x"),
            ("file", "new/"),
            ("a/b", "new/"),
            ("file/", "new"),
            ("", "x"),
            ("file", ""),
        ];
        let mut notes = Vec::new();
        for (from, to) in pairs {
            let path = |name: &str| {
                if name.is_empty() {
                    PathBuf::new()
                } else {
                    at(name)
                }
            };
            for (mode, flags) in [
                ("", RenameFlags::empty()),
                ("exchange", RenameFlags::EXCHANGE),
            ] {
                let renamed = renameat_with(CWD, path(from), CWD, path(to), flags);
                notes.push((format!("{mode} {from:?} to {to:?}"), renamed));
                if renamed.is_ok() {
                    // Back again, for the pairs that follow.
                    let _ = renameat_with(CWD, path(to), CWD, path(from), flags);
                }
            }
        }
        for (what, outcome) in notes {
            side.note(what, outcome);
        }
        note_all(side, "left");
    });
}

#[test]
fn times_and_links_follow_every_change_of_a_name() {
    beside("names-times", |side| {
        for folder in ["from", "to"] {
            side.folder(folder);
        }
        let names = [
            "from",
            "to",
            "from/sub",
            "to/sub",
            "to/file",
            "from/file",
            "from/link",
        ];
        let mut before = BTreeMap::new();
        let mut step = |side: &mut Side<'_>, what: &str, change: &dyn Fn(&Side<'_>)| {
            let look = |side: &Side<'_>| -> BTreeMap<_, _> {
                let look = |name| {
                    let meta = fs::symlink_metadata(side.path(name)).ok()?;
                    let times = (
                        meta.mtime(),
                        meta.mtime_nsec(),
                        meta.ctime(),
                        meta.ctime_nsec(),
                    );
                    Some((name, (times, meta.nlink())))
                };
                names.into_iter().filter_map(look).collect()
            };
            before = look(side);
            wait_for_the_clock(side);
            change(side);
            let after = look(side);
            let changed: Vec<_> = after
                .iter()
                .map(|(name, (times, nlink))| match before.get(name) {
                    None => format!("{name} is new, {nlink} links"),
                    Some((earlier, links)) => format!(
                        "{name} mtime {} ctime {} links {links} {nlink}",
                        (times.0, times.1) > (earlier.0, earlier.1),
                        (times.2, times.3) > (earlier.2, earlier.3),
                    ),
                })
                .collect();
            side.note(what, changed);
        };
        step(side, "mkdir", &|side| drop(side.folder("from/sub")));
        step(side, "create", &|side| drop(side.file("from/file", "")));
        step(side, "write", &|side| {
            drop(side.file("from/file", "content"));
        });
        step(side, "link", &|side| {
            fs::hard_link(side.path("from/file"), side.path("from/link")).expect("a link");
        });
        step(side, "rename within", &|side| {
            fs::rename(side.path("from/link"), side.path("from/other")).expect("renamed");
        });
        step(side, "rename back", &|side| {
            fs::rename(side.path("from/other"), side.path("from/link")).expect("renamed");
        });
        step(side, "rename across", &|side| {
            fs::rename(side.path("from/file"), side.path("to/file")).expect("renamed");
        });
        step(side, "rename a folder across", &|side| {
            fs::rename(side.path("from/sub"), side.path("to/sub")).expect("renamed");
        });
        step(side, "rename to the same file", &|side| {
            fs::rename(side.path("to/file"), side.path("from/link")).expect("nothing");
        });
        step(side, "exchange file and folder", &|side| {
            let (a, b) = (side.path("to/sub"), side.path("from/link"));
            renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).expect("exchanged");
        });
        step(side, "exchange back", &|side| {
            let (a, b) = (side.path("to/sub"), side.path("from/link"));
            renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).expect("exchanged");
        });
        step(side, "unlink of one name", &|side| {
            fs::remove_file(side.path("from/link")).expect("removed");
        });
        step(side, "symlink", &|side| {
            symlink("x", side.path("from/link")).expect("a link");
        });
        step(side, "rename over", &|side| {
            fs::rename(side.path("from/link"), side.path("to/file")).expect("renamed");
        });
        step(side, "rmdir", &|side| {
            fs::remove_dir(side.path("to/sub")).expect("removed");
        });
        step(side, "unlink", &|side| {
            fs::remove_file(side.path("to/file")).expect("removed");
        });
        step(side, "chmod", &|side| {
            fs::set_permissions(side.path("to"), fs::Permissions::from_mode(0o700)).expect("chmod");
        });
    });
}

/// Waits until a new file of this filesystem has a later time: ext4's clock ticks slowly.
fn wait_for_the_clock(side: &Side<'_>) {
    let made = || {
        let path = std::env::temp_dir().join(format!("clock-{}", std::process::id()));
        let probe = if side.is_dfs() {
            path
        } else {
            side.root().with_file_name("clock")
        };
        fs::write(&probe, "x").expect("written");
        let meta = fs::metadata(&probe).expect("it stats");
        fs::remove_file(&probe).expect("removed");
        (meta.mtime(), meta.mtime_nsec())
    };
    let first = made();
    let limit = std::time::Duration::from_secs(10);
    mount_tests::wait_until("the clock ticks", limit, || (made() > first).then_some(()));
}

#[test]
fn links_are_made_of_what_may_have_them() {
    beside("names-link", |side| {
        make_kinds(side, "");
        symlink("file1", side.path("to file")).expect("a link");
        for (from, flags) in [
            ("file1", AtFlags::empty()),
            ("empty1", AtFlags::empty()),
            ("symlink1", AtFlags::empty()),
            ("symlink1", AtFlags::SYMLINK_FOLLOW),
            ("to file", AtFlags::empty()),
            ("to file", AtFlags::SYMLINK_FOLLOW),
            ("fifo1", AtFlags::empty()),
            ("nothing", AtFlags::empty()),
            ("file1/", AtFlags::empty()),
        ] {
            let to = side.path(format!("of {} {}", from.replace('/', "_"), flags.bits()));
            side.note(
                format!("link {from} {flags:?}"),
                linkat(CWD, side.path(from), CWD, to, flags),
            );
        }
        side.note(
            "onto itself",
            fs::hard_link(side.path("file1"), side.path("file1")),
        );
        side.note(
            "onto another",
            fs::hard_link(side.path("file1"), side.path("empty1")),
        );
        side.note(
            "below a file",
            fs::hard_link(side.path("file1"), side.path("file2/x")),
        );
        side.note("to another filesystem", {
            let outside = std::env::temp_dir().join(format!("link-{}", std::process::id()));
            let linked = fs::hard_link(side.path("file1"), &outside);
            let _ = fs::remove_file(outside);
            linked.map_err(|error| error.raw_os_error())
        });
        side.note("rename to another filesystem", {
            let outside = std::env::temp_dir().join(format!("rename-{}", std::process::id()));
            fs::rename(side.path("file1"), outside).map_err(|error| error.raw_os_error())
        });
        note_all(side, "left");
        // Writes through one name show through another, at once and later.
        let (a, b) = (side.path("file2"), side.path("file2 again"));
        fs::hard_link(&a, &b).expect("a link");
        for size in [10, 5000, 100_000, 0, 3] {
            fs::write(&a, vec![b'a'; size]).expect("written");
            side.note(
                format!("size of the other name {size}"),
                fs::metadata(&b).map(|meta| meta.len()),
            );
            side.note(
                "read by the other name",
                fs::read(&b).map(|read| read.len()),
            );
        }
        fs::set_permissions(&a, fs::Permissions::from_mode(0o604)).expect("chmod");
        side.note(
            "mode by the other name",
            fs::metadata(&b).map(|meta| meta.mode()),
        );
        fs::remove_file(&a).expect("removed");
        side.note(
            "links by the other name",
            fs::metadata(&b).map(|meta| meta.nlink()),
        );
    });
}

#[test]
fn negative_entries_do_not_outlive_what_makes_the_name() {
    beside("names-negative", |side| {
        side.folder("away");
        let away = side.path("away");
        for (how, make) in [
            (
                "create",
                &(|to: &Path| fs::write(to, "x")) as &dyn Fn(&Path) -> std::io::Result<()>,
            ),
            ("mkdir", &|to| fs::create_dir(to)),
            ("symlink", &|to| symlink("x", to)),
            ("link", &|to| fs::hard_link(away.join("file"), to)),
            ("rename", &|to| fs::rename(away.join("file"), to)),
            ("rename folder", &|to| fs::rename(away.join("folder"), to)),
            ("mknod", &|to| {
                Ok(rustix::fs::mkfifoat(CWD, to, Mode::RWXU)?)
            }),
        ] {
            let _ = fs::write(away.join("file"), "x");
            let _ = fs::create_dir(away.join("folder"));
            let to = side.path(format!("by {how}"));
            side.note(format!("{how}: before"), fs::symlink_metadata(&to).is_ok());
            side.note(format!("{how}: before"), fs::symlink_metadata(&to).is_ok());
            side.note(format!("{how}: made"), make(&to));
            side.note(
                format!("{how}: after"),
                fs::symlink_metadata(&to).map(|meta| meta.file_type()),
            );
            side.note(format!("{how}: again"), File::create_new(&to).map(drop));
            let inside = to.join("inside");
            side.note(
                format!("{how}: inside"),
                fs::symlink_metadata(&inside).map(drop),
            );
        }
        // A folder that takes the place of another brings other entries.
        fs::create_dir_all(side.path("one/x")).expect("made");
        side.folder("two");
        side.note("two/x", fs::metadata(side.path("two/x")).map(drop));
        side.note(
            "renamed over",
            fs::rename(side.path("one"), side.path("two")),
        );
        side.note("two/x", fs::metadata(side.path("two/x")).map(drop));
        side.note("one/x", fs::metadata(side.path("one/x")).map(drop));
    });
}

#[test]
fn names_of_any_bytes_and_symlinks_of_any_length() {
    beside("names-bytes", |side| {
        let folder = side.folder("bytes");
        for byte in (1..=255u8).filter(|byte| *byte != b'/') {
            for name in [vec![byte], vec![byte, b'x'], vec![b'x', byte]] {
                let path = folder.join(OsStr::from_bytes(&name));
                if fs::symlink_metadata(&path).is_err() {
                    side.note(format!("create {name:?}"), fs::write(&path, &name));
                }
                side.note("read", fs::read(&path));
            }
        }
        let names = |folder: &Path| {
            let mut names: Vec<_> = fs::read_dir(folder)
                .expect("it lists")
                .map(|entry| entry.expect("an entry").file_name())
                .collect();
            names.sort();
            names
        };
        side.note("names", names(&folder));
        let long = |len: usize| "ü".repeat(len / 2) + &"n".repeat(len % 2);
        for len in [254, 255, 256, 300, 4000, 5000] {
            let path = side.path(long(len));
            side.note(format!("create {len}"), fs::write(&path, "x"));
            side.note(
                format!("stat {len}"),
                fs::metadata(&path).map(|meta| meta.len()),
            );
            side.note(
                format!("mkdir {len}"),
                fs::create_dir(side.path(format!("d{}", long(len - 1)))),
            );
            side.note(
                format!("symlink {len}"),
                symlink("x", side.path(format!("s{}", long(len - 1)))),
            );
            side.note(
                format!("rename {len}"),
                fs::rename(&path, side.path(format!("r{}", long(len - 1)))),
            );
            side.note(
                format!("unlink {len}"),
                fs::remove_file(side.path(long(len))),
            );
        }
        for len in [1, 255, 256, 4094, 4095, 4096, 5000] {
            let path = side.path(format!("to {len}"));
            side.note(format!("symlink to {len}"), symlink("t".repeat(len), &path));
            side.note(format!("readlink {len}"), fs::read_link(&path));
            side.note(
                format!("its size {len}"),
                fs::symlink_metadata(&path).map(|meta| meta.len()),
            );
        }
        side.note("symlink to nothing", symlink("", side.path("to 0")));
        side.remount();
        side.note("names", names(&folder));
        side.note("all names", names(side.root()));
        side.note("readlink 4095", fs::read_link(side.path("to 4095")));
    });
}

#[test]
fn paths_go_deeper_than_a_path_can_say() {
    beside("names-deep", |side| {
        let name = "d".repeat(200);
        let root = File::open(side.root()).expect("it opens");
        let mut at = root.try_clone().expect("cloned");
        for _ in 0..100 {
            mkdirat(&at, &name, Mode::RWXU).expect("made");
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            at = File::from(openat(&at, &name, flags, Mode::empty()).expect("it opens"));
        }
        let flags = OFlags::CREATE | OFlags::WRONLY;
        side.note(
            "a file at the end",
            openat(&at, "end", flags, Mode::RWXU).map(drop),
        );
        let link = fs::read_link(format!("/proc/self/fd/{}", at.as_raw_fd()));
        side.note("its path cannot be told", link.is_err());
        drop(at);
        let found = Command::new("find")
            .arg(side.root())
            .args(["-name", "end"])
            .ok();
        side.note("found", found.len() - side.root().as_os_str().len());
        let first = side.path(&name);
        side.note("removed", Command::new("rm").arg("-rf").arg(&first).ok());
        side.note("left", fs::read_dir(side.root()).map(Iterator::count));
    });
}

#[test]
fn a_removed_working_directory_is_empty_and_stays_so() {
    beside("names-gone", |side| {
        let path = side.folder("gone");
        let above = side.root().to_owned();
        let notes = on_own_thread(move || {
            std::env::set_current_dir(&path).expect("entered");
            let open = File::open(".").expect("it opens");
            fs::remove_dir(&path).expect("removed");
            let list = || fs::read_dir(".").map(Iterator::count);
            let mut notes = vec![
                format!("{:?}", fs::metadata(".").map(|meta| meta.nlink())),
                format!("{:?}", open.metadata().map(|meta| meta.nlink())),
                format!("{:?}", list()),
                format!("{:?}", fs::write("file", "x")),
                format!("{:?}", fs::create_dir("folder")),
                format!("{:?}", symlink("x", "link")),
                format!("{:?}", fs::hard_link(above.join("other"), "link")),
                format!("{:?}", fs::rename(above.join("other"), "other")),
                format!("{:?}", File::open("nothing").map(drop)),
                format!("{:?}", fs::metadata("..").is_ok()),
                format!("{:?}", std::env::current_dir()),
                format!("{:?}", fs::remove_dir("../gone")),
                format!("{:?}", open.sync_all()),
            ];
            // A new one of the same name is another.
            fs::create_dir(&path).expect("made");
            fs::write(path.join("new"), "x").expect("written");
            notes.push(format!("{:?}", list()));
            notes.push(format!("{:?}", fs::read("new").map(drop)));
            std::env::set_current_dir("/").expect("left");
            notes
        });
        side.file("other", "x");
        side.note("in a folder that is gone", notes);
        let path = side.folder("replaced");
        let open = File::open(&path).expect("it opens");
        side.note("replaced by rename", fs::rename(side.folder("with"), &path));
        side.note("links", open.metadata().map(|meta| meta.nlink()));
        let made = openat(&open, "x", OFlags::CREATE | OFlags::RDWR, Mode::RWXU);
        side.note("create in it", made.map(drop));
    });
}

/// Reads a whole folder with a small buffer: names, kinds and numbers, and the offset behind each.
fn list(folder: impl AsFd) -> Vec<(Vec<u8>, u64, u64)> {
    let mut buffer = [MaybeUninit::uninit(); 512];
    let mut dir = RawDir::new(folder, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = dir.next() {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_bytes().to_vec();
        entries.push((name, entry.ino(), entry.next_entry_cookie()));
    }
    entries
}

#[test]
fn a_folder_is_listed_from_any_place_while_it_changes() {
    beside("names-seekdir", |side| {
        let folder = side.folder("folder");
        for number in 0..400 {
            fs::write(folder.join(format!("stays {number}")), "").expect("written");
            fs::write(folder.join(format!("goes {number}")), "").expect("written");
        }
        let dir = File::open(&folder).expect("it opens");
        let all = list(&dir);
        let stays = |entries: &[(Vec<u8>, u64, u64)]| {
            let mut names: Vec<_> = entries
                .iter()
                .map(|(name, ..)| String::from_utf8_lossy(name).into_owned())
                .filter(|name| name.starts_with("stays"))
                .collect();
            names.sort();
            names
        };
        side.note("all", all.len());
        // seekdir to each position gives what follows it.
        let mut wrong = 0;
        for (index, (_, _, offset)) in all.iter().enumerate().step_by(37) {
            seek(&dir, SeekFrom::Start(*offset)).expect("sought");
            wrong += usize::from(list(&dir) != all[index + 1..]);
        }
        side.note("wrong continuations", wrong);
        seek(&dir, SeekFrom::Start(0)).expect("rewound");
        side.note("rewound", list(&dir) == all);

        // What stays is seen exactly once, whatever comes and goes meanwhile.
        seek(&dir, SeekFrom::Start(0)).expect("rewound");
        let mut seen = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 512];
        let mut reader = RawDir::new(&dir, &mut buffer);
        let mut number = 0;
        while let Some(entry) = reader.next() {
            let entry = entry.expect("an entry");
            seen.push((entry.file_name().to_bytes().to_vec(), 0, 0));
            if number < 400 {
                let _ = fs::remove_file(folder.join(format!("goes {}", (number * 7) % 400)));
                fs::write(folder.join(format!("comes {number}")), "").expect("written");
                let from = folder.join(format!("stays {number}"));
                let to = folder.join(format!("moved {number}"));
                fs::rename(&from, &to).expect("renamed");
                fs::rename(&to, &from).expect("renamed");
            }
            number += 1;
        }
        let mut expected: Vec<_> = (0..400).map(|number| format!("stays {number}")).collect();
        expected.sort();
        // ext4 may show what was renamed away and back twice or not at all; a name that is back is
        // the same name here.
        if side.is_dfs() {
            assert_eq!(stays(&seen), expected);
        }
        seek(&dir, SeekFrom::Start(0)).expect("rewound");
        side.note("afterwards", stays(&list(&dir)) == expected);
        // A descriptor at the end sees what came since only after a rewind.
        fs::write(folder.join("late"), "").expect("written");
        let is_late = |(name, ..): &(Vec<u8>, u64, u64)| name == b"late";
        seek(&dir, SeekFrom::Start(0)).expect("rewound");
        side.note(
            "late",
            list(&dir).iter().filter(|entry| is_late(entry)).count(),
        );
        fs::remove_file(folder.join("late")).expect("removed");
        seek(&dir, SeekFrom::Start(0)).expect("rewound");
        side.note("late, gone", list(&dir).iter().any(is_late));
    });
}

#[test]
fn dots_have_the_numbers_of_the_folder_and_the_one_above() {
    beside("names-dots", |side| {
        fs::create_dir_all(side.path("a/b/c")).expect("made");
        fs::rename(side.path("a/b/c"), side.path("c")).expect("moved");
        for name in ["", "a", "a/b", "c"] {
            let path = side.path(name);
            let numbers: BTreeMap<_, _> = list(File::open(&path).expect("it opens"))
                .into_iter()
                .map(|(name, ino, _)| (name, ino))
                .collect();
            let own = fs::metadata(&path).expect("it stats").ino();
            let above = fs::metadata(path.join("..")).expect("it stats").ino();
            side.note(format!("{name:?} ."), numbers[&b"."[..]] == own);
            side.note(format!("{name:?} .."), numbers[&b".."[..]] == above);
            let entries = numbers.iter().filter(|(name, _)| name[0] != b'.');
            let wrong: Vec<_> = entries
                .filter(|(name, ino)| {
                    let meta = fs::metadata(path.join(OsStr::from_bytes(name)));
                    meta.expect("it stats").ino() != **ino
                })
                .collect();
            side.note("wrong numbers", wrong);
            side.note("links", fs::metadata(&path).map(|meta| meta.nlink()));
        }
        side.note("same folder", {
            let inner = fs::metadata(side.path("a/b/.."))
                .map(|meta| meta.ino())
                .ok();
            inner == fs::metadata(side.path("a")).map(|meta| meta.ino()).ok()
        });
        for (what, path) in [
            ("rmdir .", "a/b/."),
            ("rmdir ..", "a/b/.."),
            ("rmdir full", "a"),
            ("rmdir file", "file"),
        ] {
            let _ = fs::write(side.path("file"), "x");
            side.note(what, fs::remove_dir(side.path(path)));
        }
        for (what, path) in [
            ("unlink folder", "a"),
            ("unlink .", "a/."),
            ("unlink file/", "file/"),
        ] {
            side.note(what, unlinkat(CWD, side.path(path), AtFlags::empty()));
        }
        for path in [
            "a/b/.",
            "a/b/..",
            "a",
            "file",
            "file/x",
            "nothing/x",
            "new/",
        ] {
            side.note(format!("mkdir {path}"), fs::create_dir(side.path(path)));
        }
    });
}

#[test]
fn sticky_folders_protect_what_others_own() {
    beside("names-sticky", |side| {
        let sticky = side.folder("sticky");
        fs::set_permissions(&sticky, fs::Permissions::from_mode(0o1777)).expect("chmod");
        let plain = side.folder("plain");
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o777)).expect("chmod");
        let owned = |path: PathBuf, uid: u32| {
            fs::write(&path, "x").expect("written");
            rustix::fs::chown(&path, Some(Uid::from_raw(uid)), None).expect("chown");
            path
        };
        for folder in [&sticky, &plain] {
            let name = folder.file_name().map(OsStr::to_owned);
            for (owner, uid) in [("own", 65534), ("other", 1), ("root's", 0)] {
                let file = owned(folder.join(owner), uid);
                let target = owned(folder.join(format!("{owner} target")), uid);
                let moved = folder.join(format!("{owner} moved"));
                let mine = owned(folder.join(format!("mine over {owner}")), 65534);
                let outcomes = as_user(65534, &[65534], move || {
                    (
                        renameat(CWD, &file, CWD, &moved),
                        renameat(CWD, &mine, CWD, &target),
                        unlinkat(CWD, &target, AtFlags::empty()),
                        unlinkat(CWD, &moved, AtFlags::empty()),
                    )
                });
                side.note(
                    format!("{name:?} {owner}: rename, over, unlink, unlink"),
                    outcomes,
                );
            }
        }
    });
}

#[test]
fn handles_find_files_without_their_names() {
    beside("names-handles", |side| {
        let path = side.file("file", "content");
        let folder = side.folder("folder");
        let mount = File::open(side.root()).expect("it opens");
        let handle = Handle::of(&path).expect("a handle");
        let of_folder = Handle::of(&folder).expect("a handle");
        let read = |handle: &Handle| {
            let mut text = String::new();
            handle
                .open(&mount)
                .and_then(|mut file| file.read_to_string(&mut text))
                .map(|_| text)
        };
        side.note("same file", Handle::of(&path).ok() == Some(handle.clone()));
        side.note("read", read(&handle));
        fs::rename(&path, folder.join("moved")).expect("moved");
        fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
        side.note("read after a move, cold", read(&handle));
        side.note(
            "its folder",
            of_folder.open(&mount).map(|folder| list(folder).len()),
        );
        // When it is gone: the kernel's FUSE may still open what it has in its caches, without
        // asking (docs/semantics.md).
        fs::remove_file(folder.join("moved")).expect("removed");
        if let Err(error) = read(&handle) {
            assert_eq!(error.raw_os_error(), Some(Errno::STALE.raw_os_error()));
        }
    });
}

#[test]
fn names_are_made_by_many_at_once_and_each_once() {
    beside("names-many", |side| {
        let root = side.root().to_owned();
        let makers: Vec<_> = (0..4)
            .map(|_| {
                let root = root.clone();
                spawn(move || {
                    let made =
                        |number: &usize| File::create_new(root.join(format!("{number}"))).is_ok();
                    (0..300).filter(made).count()
                })
            })
            .collect();
        let made: usize = makers
            .into_iter()
            .map(|maker| maker.join().expect("made"))
            .sum();
        side.note("made", made);
        side.note("there", fs::read_dir(side.root()).map(Iterator::count));
    });
}
