//! Attributes: times, modes, owners, statx(2), statvfs(3), extended attributes, beside ext4.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use mount_tests::beside::{Side, beside};
use mount_tests::sys::{Mapping, as_user};
use mount_tests::wait_until;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, StatVfs, StatxFlags, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, Uid, XattrFlags, chownat, makedev, mknodat, statx, utimensat,
};

const NOBODY: u32 = 65534;

fn at(secs: i64, nanos: i64) -> Timespec {
    Timespec {
        tv_sec: secs,
        tv_nsec: nanos,
    }
}

fn set_times(path: &Path, atime: Timespec, mtime: Timespec) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: atime,
        last_modification: mtime,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn times(path: &Path) -> ((i64, i64), (i64, i64)) {
    let meta = fs::symlink_metadata(path).expect("it stats");
    (
        (meta.atime(), meta.atime_nsec()),
        (meta.mtime(), meta.mtime_nsec()),
    )
}

/// Returns which of atime, mtime and ctime are later than before `change`.
fn changed_by(path: &Path, change: impl FnOnce()) -> String {
    let look = || {
        let meta = fs::symlink_metadata(path).expect("it stats");
        [
            (meta.atime(), meta.atime_nsec()),
            (meta.mtime(), meta.mtime_nsec()),
            (meta.ctime(), meta.ctime_nsec()),
        ]
    };
    let before = look();
    wait_for_a_later_time(path, before[2]);
    change();
    let after = look();
    let names = ["atime", "mtime", "ctime"];
    let changed = names.into_iter().zip(before.iter().zip(&after));
    changed
        .filter(|(_, (before, after))| after != before)
        .map(|(name, (before, after))| match after > before {
            true => name.to_owned(),
            false => format!("{name} back"),
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Waits until what is changed now gets a later time: ext4's clock ticks slowly.
fn wait_for_a_later_time(path: &Path, time: (i64, i64)) {
    let probe = path.with_file_name("clock");
    wait_until(
        "the clock ticks",
        std::time::Duration::from_secs(10),
        || {
            fs::write(&probe, "x").expect("written");
            let meta = fs::metadata(&probe).expect("it stats");
            ((meta.mtime(), meta.mtime_nsec()) > time).then_some(())
        },
    );
    fs::remove_file(probe).expect("removed");
}

#[test]
fn each_operation_moves_the_times_that_it_should() {
    beside("attrs-times", |side| {
        let path = side.file("file", "content");
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .open(&path)
                .expect("it opens")
        };
        let file = open();
        let note = |side: &mut Side<'_>, what: &str, change: &mut dyn FnMut()| {
            side.note(what, changed_by(&path, change));
        };
        note(side, "open", &mut || drop(open()));
        note(side, "write", &mut || {
            file.write_all_at(b"x", 0).expect("written");
        });
        note(side, "write nothing", &mut || drop(file.write_at(b"", 0)));
        note(side, "close after a write", &mut || {
            drop(open().write_all_at(b"y", 1));
        });
        note(side, "ftruncate to the same", &mut || {
            file.set_len(7).expect("truncated");
        });
        note(side, "ftruncate shorter", &mut || {
            file.set_len(5).expect("truncated");
        });
        note(side, "ftruncate longer", &mut || {
            file.set_len(50).expect("truncated");
        });
        note(side, "O_TRUNC", &mut || drop(File::create(&path)));
        note(side, "O_TRUNC of an empty one", &mut || {
            drop(File::create(&path));
        });
        note(side, "truncate by name", &mut || {
            drop(
                mount_tests::Command::new("truncate")
                    .args(["-s", "100"])
                    .arg(&path)
                    .ok(),
            );
        });
        note(side, "fallocate", &mut || {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 5000).expect("allocated");
        });
        note(side, "fallocate keep", &mut || {
            rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 9000).expect("allocated");
        });
        note(side, "punch", &mut || {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, mode, 0, 4096).expect("punched");
        });
        note(side, "chmod", &mut || {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        });
        note(side, "chmod to the same", &mut || {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        });
        note(side, "chown", &mut || {
            chownat(
                CWD,
                &path,
                Some(Uid::from_raw(1)),
                Some(Gid::from_raw(1)),
                AtFlags::empty(),
            )
            .expect("chown");
        });
        note(side, "chown to the same", &mut || {
            chownat(
                CWD,
                &path,
                Some(Uid::from_raw(1)),
                Some(Gid::from_raw(1)),
                AtFlags::empty(),
            )
            .expect("chown");
        });
        note(side, "chown to nothing", &mut || {
            chownat(CWD, &path, None, None, AtFlags::empty()).expect("chown");
        });
        note(side, "setxattr", &mut || {
            rustix::fs::setxattr(&path, "user.x", b"1", XattrFlags::empty()).expect("set");
        });
        note(side, "removexattr", &mut || {
            rustix::fs::removexattr(&path, "user.x").expect("removed");
        });
        note(side, "link", &mut || {
            fs::hard_link(&path, side_path(&path, "link")).expect("a link");
        });
        note(side, "unlink", &mut || {
            fs::remove_file(side_path(&path, "link")).expect("removed");
        });
        note(side, "rename", &mut || {
            fs::rename(&path, side_path(&path, "moved")).expect("moved");
            fs::rename(side_path(&path, "moved"), &path).expect("moved");
        });
        note(side, "utimensat of both", &mut || {
            set_times(
                &path,
                at(i64::from(i32::MAX), 0),
                at(i64::from(i32::MAX), 0),
            )
            .expect("set");
        });
        note(side, "utimensat now", &mut || {
            set_times(&path, at(0, UTIME_NOW), at(0, UTIME_NOW)).expect("set");
        });
        note(side, "utimensat of neither", &mut || {
            set_times(&path, at(0, UTIME_OMIT), at(0, UTIME_OMIT)).expect("set");
        });
        note(side, "copy_file_range into it", &mut || {
            let from = File::open(&path).expect("it opens");
            rustix::fs::copy_file_range(&from, Some(&mut 0), &file, Some(&mut 4096), 10)
                .expect("copied");
        });
        note(side, "a store in a mapping", &mut || {
            let map = Mapping::shared(&file, 4096).expect("mapped");
            map.write(0, b"mapped").expect("written");
            map.sync().expect("synced");
        });
        note(side, "fsync", &mut || file.sync_all().expect("synced"));
    });
}

fn side_path(path: &Path, name: &str) -> PathBuf {
    path.with_file_name(name)
}

#[test]
fn times_are_kept_to_the_nanosecond_over_the_whole_range() {
    beside("attrs-utimens", |side| {
        for kind in ["file", "folder", "link"] {
            let path = side.path(kind);
            match kind {
                "file" => drop(side.file(kind, "x")),
                "folder" => drop(side.folder(kind)),
                _ => symlink("nothing", &path).expect("a link"),
            }
            for (secs, nanos) in [
                (0, 0),
                (0, 1),
                (1, 999_999_999),
                (-1, 0),
                (-1, 1),
                (-1, 999_999_999),
                (-2_000_000_000, 123_456_789),
                (i64::from(i32::MAX), 5),
                (i64::from(i32::MAX) + 1, 5),
                (i64::from(u32::MAX) + 1, 6),
                (10_000_000_000, 999_999_999),
            ] {
                let set = set_times(&path, at(secs, nanos), at(secs + 1, nanos));
                side.note(format!("{kind} at {secs}.{nanos}"), (set, times(&path)));
            }
            for (nanos, what) in [(1_000_000_000, "too many"), (-1, "negative")] {
                side.note(
                    format!("{kind} {what}"),
                    set_times(&path, at(1, nanos), at(1, 0)),
                );
            }
            set_times(&path, at(5, 5), at(6, 6)).expect("set");
            set_times(&path, at(0, UTIME_OMIT), at(7, 7)).expect("set");
            side.note(format!("{kind} atime omitted"), times(&path));
            set_times(&path, at(8, 8), at(0, UTIME_OMIT)).expect("set");
            side.note(format!("{kind} mtime omitted"), times(&path));
            set_times(&path, at(0, UTIME_NOW), at(0, UTIME_OMIT)).expect("set");
            side.note(
                format!("{kind} atime now"),
                (times(&path).0.0 > 1_000_000_000, times(&path).1),
            );
            // With an open descriptor that has written.
            if kind == "file" {
                let mut file = File::options().append(true).open(&path).expect("it opens");
                file.write_all(b"more").expect("written");
                set_times(&path, at(11, 11), at(12, 12)).expect("set");
                side.note("set over unwritten data", times(&path));
                drop(file);
                side.note("after the close", times(&path));
            }
        }
        // Beyond ext4's range: 1901 to 2446.
        if side.is_dfs() {
            let path = side.path("file");
            for secs in [-62_135_596_800, 253_402_300_799] {
                set_times(&path, at(secs, 7), at(secs, 8)).expect("set");
                assert_eq!(times(&path), ((secs, 7), (secs, 8)));
            }
        }
        set_times(&side.path("file"), at(-5, 9), at(5_000_000_000, 10)).expect("set");
        side.remount();
        for kind in ["file", "folder", "link"] {
            side.note(format!("{kind} after a remount"), times(&side.path(kind)).1);
        }
        side.note("both after a remount", times(&side.path("file")));
        let path = side.file("root's", "x");
        let other = side.file("writable", "x");
        fs::set_permissions(&other, fs::Permissions::from_mode(0o666)).expect("chmod");
        for path in [path, other] {
            let name = path.file_name().map(OsStr::to_owned);
            let outcome = as_user(NOBODY, &[NOBODY], move || {
                (
                    set_times(&path, at(0, UTIME_NOW), at(0, UTIME_NOW)),
                    set_times(&path, at(1, 0), at(1, 0)),
                    set_times(&path, at(0, UTIME_NOW), at(1, 0)),
                    set_times(&path, at(0, UTIME_OMIT), at(0, UTIME_OMIT)),
                )
            });
            side.note(format!("by nobody {name:?}"), outcome);
        }
    });
}

#[test]
fn access_times_follow_relatime() {
    beside("attrs-atime", |side| {
        let path = side.file("file", vec![1; 10_000]);
        let folder = side.folder("folder");
        let link = side.path("link");
        symlink("file", &link).expect("a link");
        let cold = || fs::write("/proc/sys/vm/drop_caches", "1").expect("root may");
        let read = |path: &Path| drop(fs::read(path).expect("it reads"));
        side.note("first read", changed_by(&path, || read(&path)));
        cold();
        side.note("second read", changed_by(&path, || read(&path)));
        fs::write(&path, vec![2; 10_000]).expect("written");
        cold();
        side.note("read after a write", changed_by(&path, || read(&path)));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        cold();
        side.note("read after a chmod", changed_by(&path, || read(&path)));
        set_times(&path, at(5_000_000, 0), at(0, UTIME_OMIT)).expect("set");
        cold();
        side.note("read of an old one", changed_by(&path, || read(&path)));
        set_times(&path, at(5_000_000, 0), at(0, UTIME_OMIT)).expect("set");
        cold();
        let without = changed_by(&path, || {
            let flags = rustix::fs::OFlags::NOATIME;
            let file = File::from(rustix::fs::open(&path, flags, Mode::empty()).expect("it opens"));
            file.read_at(&mut [0; 10], 0).expect("it reads");
        });
        side.note("O_NOATIME", without);
        let list = |path: &Path| assert_eq!(fs::read_dir(path).expect("it lists").count(), 0);
        side.note("first listing", changed_by(&folder, || list(&folder)));
        side.note("second listing", changed_by(&folder, || list(&folder)));
        side.note("readlink", changed_by(&link, || drop(fs::read_link(&link))));
    });
}

#[test]
fn statx_tells_what_is_known() {
    beside("attrs-statx", |side| {
        let path = side.file("file", vec![7; 300_000]);
        symlink("file", side.path("link")).expect("a link");
        side.folder("folder");
        for name in ["file", "link", "folder"] {
            let path = side.path(name);
            let all = StatxFlags::BASIC_STATS;
            let found = statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, all).expect("it stats");
            let has = StatxFlags::from_bits_retain(found.stx_mask).contains(all);
            side.note(
                name,
                (
                    has,
                    found.stx_mode,
                    found.stx_nlink,
                    found.stx_uid,
                    found.stx_gid,
                ),
            );
            if name != "folder" {
                // Folders: each filesystem has its own idea.
                side.note(name, found.stx_size);
            }
            let meta = fs::symlink_metadata(&path).expect("it stats");
            side.note(
                "as stat",
                (
                    meta.ino() == found.stx_ino,
                    meta.mtime() == found.stx_mtime.tv_sec,
                ),
            );
            side.note("its block size", meta.blksize());
        }
        side.note(
            "blocks",
            fs::metadata(&path).map(|meta| meta.blocks() >= 586),
        );
        side.note("a descriptor", {
            let file = File::open(&path).expect("it opens");
            statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::SIZE).map(|found| found.stx_size)
        });
        side.note(
            "nothing",
            statx(
                CWD,
                side.path("nothing"),
                AtFlags::empty(),
                StatxFlags::SIZE,
            )
            .map(drop),
        );
        for flag in [AtFlags::STATX_DONT_SYNC, AtFlags::STATX_FORCE_SYNC] {
            side.note(
                "size",
                statx(CWD, &path, flag, StatxFlags::SIZE).map(|found| found.stx_size),
            );
        }
        // What a file takes shows before it is written and after.
        let path = side.path("blocks");
        let file = File::create(&path).expect("it opens");
        file.write_all_at(&[1; 100_000], 0).expect("written");
        let blocks = || fs::metadata(&path).map(|meta| meta.blocks() * 512 >= 100_000);
        let unwritten = blocks();
        side.note("unwritten", unwritten);
        file.sync_all().expect("synced");
        let written = blocks();
        side.note("written", written);
    });
}

/// Tells whether a filesystem is told as large as by its root. What others write to the disk below
/// changes the size of a mount: only an answer between two equal ones counts.
fn is_of_size(root: &Path, ask: impl Fn() -> rustix::io::Result<StatVfs>) -> bool {
    let blocks = || rustix::fs::statvfs(root).expect("it answers").f_blocks;
    (0..1000)
        .find_map(|_| {
            let before = blocks();
            let found = ask().expect("it answers");
            (blocks() == before).then_some(found.f_blocks == before)
        })
        .expect("a size that stays for three calls")
}

#[test]
fn space_is_told_in_sensible_numbers() {
    beside("attrs-statvfs", |side| {
        let space = rustix::fs::statvfs(side.root()).expect("it answers");
        side.note("units", (space.f_bsize, space.f_frsize, space.f_namemax));
        side.note(
            "order",
            (
                space.f_bfree <= space.f_blocks,
                space.f_bavail <= space.f_bfree,
            ),
        );
        side.note("files", (space.f_ffree <= space.f_files, space.f_files > 0));
        let root = File::open(side.root()).expect("it opens");
        side.note(
            "fstatvfs",
            is_of_size(side.root(), || rustix::fs::fstatvfs(&root)),
        );
        let file = side.file("file", "x");
        side.note(
            "same for a file",
            is_of_size(side.root(), || rustix::fs::statvfs(&file)),
        );
        let type_of = rustix::fs::statfs(side.root()).expect("it answers").f_type;
        if side.is_dfs() {
            assert_eq!(type_of, 0x6573_5546, "FUSE_SUPER_MAGIC");
        }
        side.note("getflags of a socket", {
            let _listener = UnixListener::bind(side.path("socket")).expect("bound");
            File::open(side.path("socket"))
                .map(drop)
                .map_err(|error| error.raw_os_error())
        });
        // chattr(1) and lsattr(1): flags that only some filesystems have.
        if side.is_dfs() {
            let file = File::open(&file).expect("it opens");
            assert_eq!(
                rustix::fs::ioctl_getflags(&file).err(),
                Some(rustix::io::Errno::NOTTY)
            );
        }
    });
}

#[test]
fn special_files_work_as_such() {
    beside("attrs-special", |side| {
        let listener = UnixListener::bind(side.path("socket")).expect("bound");
        let mut client = UnixStream::connect(side.path("socket")).expect("connected");
        let (mut server, _) = listener.accept().expect("accepted");
        client.write_all(b"through").expect("sent");
        drop(client);
        let mut text = String::new();
        server.read_to_string(&mut text).expect("received");
        side.note("through a socket", text);
        side.note(
            "bound twice",
            UnixListener::bind(side.path("socket")).map(drop),
        );
        let kind = fs::metadata(side.path("socket")).map(|meta| meta.file_type().is_socket());
        side.note("a socket", kind);
        drop((listener, server));
        side.note(
            "nobody listens",
            UnixStream::connect(side.path("socket")).map(drop),
        );
        for (name, kind, device) in [
            ("null", FileType::CharacterDevice, makedev(1, 3)),
            ("large", FileType::CharacterDevice, makedev(4000, 1_000_000)),
            ("block", FileType::BlockDevice, makedev(7, 200)),
            ("whiteout", FileType::CharacterDevice, makedev(0, 0)),
            ("fifo", FileType::Fifo, 0),
            ("socket 2", FileType::Socket, 0),
            ("plain", FileType::RegularFile, 0),
            ("folder", FileType::Directory, 0),
            ("link", FileType::Symlink, 0),
        ] {
            let made = mknodat(
                CWD,
                side.path(name),
                kind,
                Mode::from_raw_mode(0o640),
                device,
            );
            side.note(format!("mknod {name}"), made);
            let meta = fs::symlink_metadata(side.path(name))
                .map(|meta| (meta.mode(), meta.rdev(), meta.size()));
            side.note("it is", meta);
        }
        // The mounts are nodev.
        side.note(
            "open a device",
            File::open(side.path("null"))
                .map(drop)
                .map_err(|error| error.raw_os_error()),
        );
        let by_nobody = side.path("by nobody");
        fs::set_permissions(side.root(), fs::Permissions::from_mode(0o777)).expect("chmod");
        let made = as_user(NOBODY, &[NOBODY], move || {
            mknodat(
                CWD,
                &by_nobody,
                FileType::CharacterDevice,
                Mode::RUSR,
                makedev(1, 3),
            )
        });
        side.note("mknod by nobody", made);
        side.remount();
        for name in [
            "null", "large", "block", "whiteout", "fifo", "socket", "plain",
        ] {
            let meta = fs::symlink_metadata(side.path(name))
                .map(|meta| (meta.mode(), meta.rdev(), meta.nlink()));
            side.note(format!("{name} after a remount"), meta);
        }
    });
}

#[test]
fn extended_attributes_keep_to_their_limits() {
    beside("attrs-xattr", |side| {
        let file = side.file("file", "x");
        side.folder("folder");
        symlink("file", side.path("link")).expect("a link");
        rustix::fs::mkfifoat(CWD, side.path("fifo"), Mode::RWXU).expect("a fifo");
        let long = |len: usize| format!("user.{}", "n".repeat(len - 5));
        let names = [
            "user.name",
            "user.",
            "user",
            "trusted.name",
            "trusted.",
            "security.name",
            "security.",
            "system.name",
            "other.name",
            "name",
            "",
            ".",
            "system.posix_acl_access",
        ];
        for kind in ["file", "folder", "link", "fifo", "nothing"] {
            let path = side.path(kind);
            for name in names {
                let what = format!("{kind} {name:?}");
                if kind == "folder" && name == "system.posix_acl_access" {
                    continue;
                }
                let set = rustix::fs::lsetxattr(&path, name, b"value", XattrFlags::empty());
                side.note(format!("set {what}"), set);
                let mut value = [0; 16];
                let got = rustix::fs::lgetxattr(&path, name, &mut value[..]);
                side.note(format!("get {what}"), got.map(|len| value[..len].to_vec()));
            }
            let mut list = vec![0; 4096];
            let listed = rustix::fs::llistxattr(&path, &mut list[..]).map(|len| {
                let mut names: Vec<_> = list[..len]
                    .split(|byte| *byte == 0)
                    .map(<[u8]>::to_vec)
                    .collect();
                names.sort();
                names
            });
            side.note(format!("list {kind}"), listed);
        }
        for (what, flags) in [
            ("create", XattrFlags::CREATE),
            ("replace", XattrFlags::REPLACE),
        ] {
            for name in ["user.name", "user.other"] {
                side.note(
                    format!("{what} {name}"),
                    rustix::fs::setxattr(&file, name, b"again", flags),
                );
            }
            let _ = rustix::fs::removexattr(&file, "user.other");
        }
        let mut small = [0; 3];
        side.note(
            "too small a buffer",
            rustix::fs::getxattr(&file, "user.name", &mut small[..]),
        );
        side.note(
            "its size",
            rustix::fs::getxattr(&file, "user.name", &mut small[..0]),
        );
        side.note(
            "a list too large",
            rustix::fs::listxattr(&file, &mut small[..]),
        );
        side.note(
            "what is not there",
            rustix::fs::getxattr(&file, "user.none", &mut small[..]),
        );
        side.note("removed", rustix::fs::removexattr(&file, "user.name"));
        side.note("removed twice", rustix::fs::removexattr(&file, "user.name"));
        for len in [254, 255, 256] {
            side.note(
                format!("a name of {len}"),
                rustix::fs::setxattr(&file, long(len), b"x", XattrFlags::empty()),
            );
        }
        let _ = rustix::fs::removexattr(&file, long(254));
        let _ = rustix::fs::removexattr(&file, long(255));
        side.note("an empty value", {
            let set = rustix::fs::setxattr(&file, "user.empty", b"", XattrFlags::empty());
            (
                set,
                rustix::fs::getxattr(&file, "user.empty", &mut small[..]),
            )
        });
        // ext4 has room for a block of them; here the limits are the kernel's.
        let large = vec![7; 65_537];
        let beyond = rustix::fs::setxattr(&file, "user.large", &large, XattrFlags::empty());
        side.note("a value beyond the limit", beyond);
        if side.is_dfs() {
            for len in [4096, 60_000, 65_536] {
                let set =
                    rustix::fs::setxattr(&file, "user.large", &large[..len], XattrFlags::empty());
                assert_eq!(set, Ok(()));
                let mut value = vec![0; 65_536];
                assert_eq!(
                    rustix::fs::getxattr(&file, "user.large", &mut value[..]),
                    Ok(len)
                );
                assert_eq!(value[..len], large[..len]);
            }
            rustix::fs::removexattr(&file, "user.large").expect("removed");
        }
        let readable = side.file("readable", "x");
        rustix::fs::setxattr(&readable, "trusted.x", b"secret", XattrFlags::empty()).expect("set");
        rustix::fs::setxattr(&readable, "user.x", b"open", XattrFlags::empty()).expect("set");
        let by_nobody = as_user(NOBODY, &[NOBODY], move || {
            let (mut value, mut list) = ([0; 16], [0; 256]);
            (
                rustix::fs::getxattr(&readable, "trusted.x", &mut value[..]),
                rustix::fs::getxattr(&readable, "user.x", &mut value[..]),
                rustix::fs::setxattr(&readable, "user.x", b"y", XattrFlags::empty()),
                rustix::fs::setxattr(&readable, "security.x", b"y", XattrFlags::empty()),
                rustix::fs::setxattr(&readable, "trusted.y", b"y", XattrFlags::empty()),
                rustix::fs::listxattr(&readable, &mut list[..])
                    .map(|len| String::from_utf8_lossy(&list[..len]).into_owned()),
            )
        });
        side.note("by nobody", by_nobody);
    });
}
