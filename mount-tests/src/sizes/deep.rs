//! Folders in folders, deeper than a path can name.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use crate::Command;
use crate::source::pattern;

/// Makes so many folders, each in the one before, and a file in the last; checks that `find` sees
/// each of them once and the file is the same when it is reached by another walk.
///
/// # Panics
///
/// Where it is not so.
pub fn make_deep(root: &Path, levels: usize) {
    let mut folder = open_root(root);
    for level in 0..levels {
        mkdirat(&folder, name(level), Mode::RWXU).expect("a folder can be made");
        folder = open_folder(&folder, level);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let file = openat(&folder, "bottom", flags, Mode::RUSR | Mode::WUSR).expect("made");
    let content = pattern(5000, levels as u64);
    std::io::Write::write_all(&mut std::fs::File::from(file), &content).expect("written");

    // From within: the path of the deepest is longer than the kernel takes.
    let found = Command::new("find").arg(".").folder(root).ok();
    let mut lines: Vec<&str> = found.lines().filter(|line| line.contains(NAME)).collect();
    lines.sort_by_key(|line| line.len());
    assert_eq!(lines.len(), levels + 1, "found by find");
    let mut path = String::from(".");
    for (level, line) in lines.iter().take(levels).enumerate() {
        path.push('/');
        path.push_str(&name(level));
        assert_eq!(*line, path);
    }
    assert_eq!(lines[levels], format!("{path}/bottom"));

    let bottom = (0..levels).fold(open_root(root), |folder, level| open_folder(&folder, level));
    let file = openat(&bottom, "bottom", OFlags::RDONLY, Mode::empty()).expect("it is there");
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut read).expect("read");
    assert!(read == content, "what is at the bottom");
}

/// Removes what [`make_deep`] made with `rm -r`.
///
/// # Panics
///
/// When something of it is left.
pub fn remove_deep(root: &Path) {
    Command::new("rm").arg("-r").arg(name(0)).folder(root).ok();
    assert!(!root.join(name(0)).exists());
}

fn open_root(root: &Path) -> OwnedFd {
    openat(CWD, root, OFlags::DIRECTORY, Mode::empty()).expect("a folder")
}

fn open_folder(parent: &OwnedFd, level: usize) -> OwnedFd {
    openat(parent, name(level), OFlags::DIRECTORY, Mode::empty()).expect("it was made before")
}

fn name(level: usize) -> String {
    format!("{NAME} {level}")
}

/// So long that 400 of them exceed PATH_MAX.
const NAME: &str = "one folder of many";
