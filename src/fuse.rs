//! The skin between the kernel and [`crate::fs`]: requests in, replies out, and notices when
//! something changed elsewhere.
//!
//! Owns: mounting and unmounting ([`Prepared`], [`mount`], [`Mounted`]), the handlers (`skin`), the
//! choice of an errno for each error (`errno`), the numbers that the kernel is shown (`numbers`,
//! `positions`), the invalidation of its caches ([`Invalidator`]) and their bound (`prune`). Must
//! never know: chunks, peers.
//!
//! ```text
//! kernel ──request──▶ fuser's threads ──▶ Skin ──plain call──▶ Fs
//!                                          │ bytes not here ──▶ a task of the runtime, deadline
//!                                          └ fsync, long work ──▶ a pool of a few threads,
//!                                            other holders    ──▶ a task of the runtime
//! kernel ◀──notice── one thread ◀── Invalidator ◀── whoever applied a remote change
//! kernel ◀──notice── one thread ◀── Fs: it knows too many inodes
//! ```
//!
//! Few of fuser's threads read; where one is kept by a request, for whatever reason, another takes its
//! place (`crew`).
//!
//! Invariants: a handler answers on the thread that it was called on, unless the answer needs a
//! peer or the disk's flush; no handler calls into the mount; every request is answered within a
//! deadline, also when a handler panics (EIO), and one that waits for peers or the disk's flush as soon
//! as its caller is being killed (EINTR); a notice to the kernel is sent by a thread that
//! holds no lock, since the kernel may make it wait for a request that is not answered yet.

mod answer;
mod caller;
mod capabilities;
mod convert;
mod crew;
mod errno;
mod listing;
mod locking;
mod mount;
mod mountpoint;
mod notify;
mod numbers;
mod options;
mod pace;
mod past;
mod positions;
mod prune;
mod running;
mod session;
mod skin;
mod waiting;

use std::io;
use std::path::PathBuf;

pub use convert::{groups_of, owner_of};
pub use mount::{Prepared, remount};
pub use mountpoint::is_mounted;
pub use notify::Invalidator;
pub use options::{AllowOther, MountOptions};
pub use session::{Mounted, mount};

/// Says why a mount cannot be made, or not be taken away. Each text is for the user, on one line.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// The mountpoint does not exist.
    #[error("the mountpoint {} does not exist", path.display())]
    MountpointMissing {
        /// As it was given.
        path: PathBuf,
    },
    /// The mountpoint is a file, or a part of its path is.
    #[error("the mountpoint {} is not a folder", path.display())]
    MountpointNotAFolder {
        /// As it was given.
        path: PathBuf,
    },
    /// The mountpoint holds something, which a mount would hide.
    #[error("the mountpoint {} is not empty (-o nonempty covers what is there)", path.display())]
    MountpointNotEmpty {
        /// Without links.
        path: PathBuf,
    },
    /// A FUSE filesystem that works is mounted there.
    #[error("{} is already mounted", path.display())]
    AlreadyMounted {
        /// Without links.
        path: PathBuf,
    },
    /// No dfs volume is mounted there.
    #[error("no dfs volume is mounted at {}", path.display())]
    NotMounted {
        /// Without links.
        path: PathBuf,
    },
    /// A FUSE filesystem of another kind is mounted there, whose daemon is dead.
    #[error("a dead mount of type {fstype} is at {} (fusermount3 -uz takes it away)", path.display())]
    DeadMount {
        /// Without links.
        path: PathBuf,
        /// Its type, as /proc/mounts shows it.
        fstype: String,
    },
    /// The machine has no /dev/fuse.
    #[error("/dev/fuse does not exist: load the kernel module fuse, or give it to the container")]
    DeviceMissing,
    /// A user who is not root mounts by fusermount3, and it is not installed.
    #[error("fusermount3 is not installed: install the package fuse3, or mount as root")]
    HelperMissing,
    /// `-o allow_other` by a user on a machine that does not permit it.
    #[error("-o allow_other is not permitted: user_allow_other is not set in /etc/fuse.conf")]
    AllowOtherNotPermitted,
    /// An option that weakens the machine's protection, by a user who is not root.
    #[error("only root may mount with -o {option}")]
    OnlyRoot {
        /// The option.
        option: &'static str,
    },
    /// An option that nobody knows.
    #[error("unknown mount option {option:?}")]
    UnknownOption {
        /// As it was given.
        option: String,
    },
    /// Somebody has a file open there, or works there.
    #[error("{} is in use", path.display())]
    Busy {
        /// Without links.
        path: PathBuf,
    },
    /// fusermount3 said no.
    #[error("fusermount3 refuses {}: {reason}", path.display())]
    Refused {
        /// Without links.
        path: PathBuf,
        /// Its words.
        reason: String,
    },
    /// The kernel and fuser do not agree on a protocol.
    #[error("the kernel's FUSE does not answer as it should: {0}")]
    Handshake(#[source] io::Error),
    /// The connection with the kernel broke.
    #[error("the connection with the kernel broke: {reason}")]
    Broken {
        /// What fuser said.
        reason: String,
    },
    /// A system call failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}
