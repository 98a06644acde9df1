//! Suites that others wrote, as far as short tests and long runs share them, and ext4 beside them.

mod ext4;
pub mod fio;
pub mod fsx;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use ext4::Ext4;

use crate::tree::{differences, try_read_tree};
use crate::{Trio, machine, wait_until};

/// Returns a program that the scripts install with cargo into `target/tools`.
///
/// # Panics
///
/// When it is not there.
pub fn tool(name: &str) -> PathBuf {
    let path = machine::target_folder().join("tools/bin").join(name);
    assert!(
        path.exists(),
        "{name} is not installed: run ./check or mount-tests/conformance/{name}"
    );
    path
}

/// Returns the seed of a run: `DFS_SEED` to repeat one, else another each time. It is for the
/// caller to print.
///
/// # Panics
///
/// When `DFS_SEED` is no number.
pub fn seed() -> u64 {
    if let Ok(text) = std::env::var("DFS_SEED") {
        return text.parse().expect("DFS_SEED is a number");
    }
    let mut bytes = [0; 4];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .expect("the kernel has random bytes");
    u32::from_le_bytes(bytes).into()
}

/// Waits until a file of one mount has on another what it has here.
///
/// # Panics
///
/// When it has not within a minute.
pub fn wait_until_same(here: &Path, there: &Path) {
    let content = digest(here).expect("the file can be read where it was written");
    wait_until(
        &format!("{} is {}", there.display(), here.display()),
        Duration::from_secs(60),
        || {
            digest(there)
                .is_ok_and(|found| found == content)
                .then_some(())
        },
    );
}

/// Waits until both mounts show one tree, with equal contents and attributes.
///
/// # Panics
///
/// When they do not within two minutes.
pub fn wait_until_both_agree(trio: &Trio) {
    let mut last = Vec::new();
    wait_until(
        "both mounts show one tree",
        Duration::from_secs(120),
        || match (
            try_read_tree(trio.a.mountpoint()),
            try_read_tree(trio.b.mountpoint()),
        ) {
            (Ok(here), Ok(there)) if here == there => Some(()),
            (Ok(here), Ok(there)) => {
                let found = differences(&here, &there, 5);
                if found != last {
                    for line in &found {
                        println!("not yet: {:.200}", line);
                    }
                    last = found;
                }
                None
            }
            // What is removed while it is listed: the next look finds it gone.
            _ => None,
        },
    );
}

fn digest(path: &Path) -> std::io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    Ok(hasher.finalize())
}
