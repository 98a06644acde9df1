//! The harness of the mount tests: whole peers as processes, each in a network namespace of its
//! own, with real mounts, real programs, cut links and kill -9.
//!
//! A test is one call of [`scenario`]: it waits for its turn (tests share the machine's mounts and
//! network, so they run one at a time), gives the body a [`Scenario`] to start peers with, and
//! whatever happens in the body, takes processes, mounts, namespaces and files away again, prints
//! the logs of the peers where the body failed, and fails where something is left.
//!
//! Everything waits for a condition with a deadline ([`wait_until`]) and nothing for time to pass. A
//! scenario that exceeds its limit loses its peers by SIGKILL, which frees who hangs in a mount.
//!
//! Needs root, /dev/fuse, iproute2, util-linux. The programs under test are found in
//! `DFS_BIN_DIR`, else in the target folder. `DFS_QUICK=1` makes the big file small,
//! `DFS_BIG_FILE_MIB` sets its size.

pub mod beside;
pub mod capture;
pub mod command;
pub mod machine;
pub mod model;
pub mod network;
pub mod peer;
mod scenario;
pub mod sizes;
pub mod source;
pub mod suites;
pub mod sys;
pub mod tree;
mod trio;
mod wait;

pub use command::{Command, Finished};
pub use peer::{Peer, Start};
pub use scenario::{Scenario, scenario};
pub use trio::Trio;
pub use wait::{elapsed_since, now, spawn, wait_until};

/// Waits until a file is there with this content, as another peer's change is.
///
/// # Panics
///
/// When it is not within half a minute.
pub fn wait_for_content(path: &std::path::Path, content: &[u8]) {
    wait_until(
        &format!("{} has its content", path.display()),
        std::time::Duration::from_secs(30),
        || {
            std::fs::read(path)
                .is_ok_and(|read| read == content)
                .then_some(())
        },
    );
}

/// Waits until what is written next is later than what was written so far, as the merge sees it: its
/// stamps count milliseconds, and of two equal ones the device decides.
pub fn wait_for_a_later_stamp() {
    let before = wait::clock();
    wait_until(
        "the clock goes on",
        std::time::Duration::from_secs(30),
        || {
            let passed = wait::clock().duration_since(before).ok()?;
            (passed >= std::time::Duration::from_millis(1)).then_some(())
        },
    );
}

/// Waits until nothing is at a path, as after another peer's deletion.
///
/// # Panics
///
/// When it is still there after half a minute.
pub fn wait_until_gone(path: &std::path::Path) {
    wait_until(
        &format!("{} is gone", path.display()),
        std::time::Duration::from_secs(30),
        || {
            let looked = std::fs::symlink_metadata(path);
            looked
                .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
                .then_some(())
        },
    );
}

/// Returns the size of the big file in bytes.
pub fn big_file_bytes() -> u64 {
    let mib = match std::env::var("DFS_BIG_FILE_MIB") {
        Ok(text) => text.parse().expect("DFS_BIG_FILE_MIB is a number"),
        Err(_) if is_quick() => 48,
        Err(_) => 1024,
    };
    mib << 20
}

/// Returns whether a short run was asked for.
pub fn is_quick() -> bool {
    std::env::var_os("DFS_QUICK").is_some_and(|value| value != "0")
}
