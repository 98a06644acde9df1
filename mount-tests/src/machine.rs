//! What there is on this machine: programs under test, mounts, processes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

/// Returns the path of a program under test.
///
/// # Panics
///
/// When it is not built.
pub fn program(name: &str) -> PathBuf {
    let folders = match std::env::var_os("DFS_BIN_DIR") {
        Some(folder) => vec![PathBuf::from(folder)],
        None => vec![
            target_folder().join("release"),
            target_folder().join("debug"),
        ],
    };
    let found = folders.iter().map(|folder| folder.join(name));
    let found: Vec<_> = found.filter(|path| path.exists()).collect();
    let newest = found.into_iter().max_by_key(|path| {
        std::fs::metadata(path)
            .and_then(|meta| meta.modified())
            .ok()
    });
    newest.unwrap_or_else(|| panic!("{name} is not built: cargo build, or set DFS_BIN_DIR"))
}

/// Returns cargo's target folder, in which this program lies.
///
/// # Panics
///
/// When it lies elsewhere.
pub fn target_folder() -> PathBuf {
    // .../target/PROFILE/deps/TEST-HASH
    let own = std::env::current_exe().expect("a test has a path");
    own.ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").exists())
        .expect("tests lie in a target folder")
        .to_owned()
}

/// Returns the mountpoints at or below `folder`, the deepest and newest first.
pub fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = std::fs::read("/proc/self/mountinfo").expect("the kernel lists its mounts");
    let mut mounts: Vec<PathBuf> = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
        .filter(|path| path.starts_with(folder))
        .collect();
    mounts.reverse();
    mounts
}

/// Undoes the octal escapes of the kernel's table.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut parts = field.split(|byte| *byte == b'\\');
    let mut bytes = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(part.len().min(3));
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        bytes.extend(u8::from_str_radix(digits, 8));
        bytes.extend_from_slice(rest);
    }
    bytes
}

/// Takes every mount at or below `folder` away, whoever uses it.
pub fn unmount_below(folder: &Path) {
    for path in mounts_below(folder) {
        let _ = rustix::mount::unmount(&path, UnmountFlags::FORCE | UnmountFlags::DETACH);
    }
}

/// Returns the processes that name `text` in their arguments, this one excepted.
pub fn processes_with(text: &Path) -> Vec<Pid> {
    let own = std::process::id().to_string();
    let needle = text.as_os_str().as_bytes();
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name() != own.as_str())
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| line.windows(needle.len()).any(|part| part == needle))
        })
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// Kills the processes that name `text` in their arguments: those that this run started, since the
/// scenario's folder stands in the arguments of nobody else.
pub fn kill_processes_with(text: &Path) {
    for pid in processes_with(text) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// Returns whether a process of that number lives.
pub fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Makes sure that the tests can run at all.
///
/// # Panics
///
/// With what is missing.
pub fn require() {
    assert!(
        rustix::process::geteuid().is_root(),
        "mount tests need root: they make network namespaces and mounts"
    );
    assert!(
        Path::new("/dev/fuse").exists(),
        "mount tests need /dev/fuse"
    );
}
