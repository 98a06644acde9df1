//! A source tree to work with: real sources, and what real trees hold that tests forget.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::Command;

/// Makes a tree of at least `files` files from the sources of crates that cargo has unpacked, and
/// one of each odd thing beside them.
///
/// # Panics
///
/// When there are not enough sources, or the filesystem refuses something.
pub fn make_source_tree(root: &Path, files: usize) {
    fs::create_dir_all(root).expect("a folder can be made");
    let mut made = 0;
    for package in packages() {
        if made >= files {
            break;
        }
        let count = count_files(&package);
        // Huge packages (bindings, tables) would fill the tree with a few packages of one kind.
        if count < 400 {
            Command::new("cp").arg("-a").arg(&package).arg(root).ok();
            made += count;
        }
    }
    assert!(made >= files, "only {made} source files below ~/.cargo");
    make_odd_things(&root.join("odd"));
}

/// Makes one of each: links, modes, times, attributes, names, sparse and special files.
///
/// # Panics
///
/// When the filesystem refuses something.
pub fn make_odd_things(root: &Path) {
    let make = |name: &str, content: &[u8]| -> PathBuf {
        let path = root.join(name);
        fs::write(&path, content).expect("a file can be written");
        path
    };
    fs::create_dir_all(root).expect("a folder can be made");

    make("empty", b"");
    make("Case", b"one");
    make("case", b"another");
    make(" leading and trailing ", b"spaces");
    make("line\nbreak\ttab", b"control");
    make(&"n".repeat(255), b"longest name");
    fs::write(
        root.join(OsStr::from_bytes(b"\xff\xfe not utf-8 \x80")),
        b"bytes",
    )
    .expect("a name");
    fs::create_dir(root.join("empty folder")).expect("a folder can be made");
    let deep = (0..40).fold(root.join("deep"), |path, level| {
        path.join(format!("level{level}"))
    });
    fs::create_dir_all(&deep).expect("a deep folder can be made");
    fs::write(deep.join("bottom"), b"here").expect("a deep file can be written");

    for size in [
        1,
        4095,
        4096,
        16 << 10,
        (16 << 10) + 1,
        (1 << 20) - 1,
        1 << 20,
        (3 << 20) + 17,
    ] {
        make(&format!("size {size}"), &pattern(size, size as u64));
    }
    let sparse = File::create(root.join("sparse")).expect("a file can be made");
    sparse.set_len(64 << 20).expect("a file can be sparse");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", 40 << 20).expect("a write");

    make_links(root);
    make_modes(root);
    make_times(root);
    make_xattrs(root);
    let fifo = root.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a fifo");
}

fn make_links(root: &Path) {
    fs::write(root.join("linked"), b"many names").expect("a file can be written");
    fs::create_dir(root.join("links")).expect("a folder can be made");
    for name in ["linked again", "links/linked elsewhere"] {
        fs::hard_link(root.join("linked"), root.join(name)).expect("a hard link");
    }
    symlink("linked", root.join("relative")).expect("a symlink");
    symlink("/nowhere/at/all", root.join("dangling")).expect("a symlink");
    symlink(".", root.join("to itself")).expect("a symlink");
    symlink("t".repeat(4000), root.join("long target")).expect("a symlink");
    symlink(OsStr::from_bytes(b"\xfftarget"), root.join("bytes target")).expect("a symlink");
}

fn make_modes(root: &Path) {
    for mode in [0o000, 0o400, 0o555, 0o644, 0o777, 0o4755, 0o2755, 0o6711] {
        let path = root.join(format!("mode {mode:o}"));
        fs::write(&path, b"x").expect("a file can be written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
    }
    for mode in [0o700, 0o1777, 0o2775] {
        let path = root.join(format!("folder {mode:o}"));
        fs::create_dir(&path).expect("a folder can be made");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
    }
    let owned = root.join("owned");
    fs::write(&owned, b"x").expect("a file can be written");
    std::os::unix::fs::chown(&owned, Some(1234), Some(5678)).expect("an owner");
}

fn make_times(root: &Path) {
    let after = |secs, nanos| UNIX_EPOCH + Duration::new(secs, nanos);
    let times = [
        ("time 1969", UNIX_EPOCH - Duration::new(86_400, 500)),
        ("time 1970", after(0, 0)),
        ("time 2001", after(1_000_000_000, 123_456_789)),
        ("time 2038", after(1 << 31, 1)),
        ("time 2107", after(1 << 32, 999_999_999)),
    ];
    for (name, time) in times {
        let file = File::create(root.join(name)).expect("a file can be made");
        file.set_times(FileTimes::new().set_modified(time))
            .expect("a time can be set");
    }
}

fn make_xattrs(root: &Path) {
    let path = root.join("attributes");
    fs::write(&path, b"x").expect("a file can be written");
    let large = pattern(3000, 7);
    for (name, value) in [
        ("user.empty", b"".as_slice()),
        ("user.text", b"secret-attribute-value"),
        ("user.bytes", b"\0\xff\n"),
        ("user.large", &large),
    ] {
        rustix::fs::setxattr(&path, name, value, XattrFlags::empty()).expect("an attribute");
    }
    let folder = root.join("folder with attribute");
    fs::create_dir(&folder).expect("a folder can be made");
    rustix::fs::setxattr(&folder, "user.of", b"folder", XattrFlags::empty()).expect("one");
}

/// Returns bytes that look random, repeat nowhere, and are the same for the same seed.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn packages() -> Vec<PathBuf> {
    let cargo = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let folders = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect()
    };
    let mut packages: Vec<_> = folders(&cargo.join("registry/src"))
        .iter()
        .flat_map(|index| folders(index))
        .collect();
    packages.sort();
    packages
}

fn count_files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count_files(&entry.path()),
            _ => 1,
        })
        .sum()
}
