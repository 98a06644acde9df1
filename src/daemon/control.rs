//! The control socket: a Unix socket in the state folder, one JSON line a message.
//!
//! A client sends one [`Request`] line; the daemon answers with any number of
//! [`Reply::Progress`] lines and then one [`Reply::Done`] or [`Reply::Failed`]. The socket lies in
//! a folder that only its owner may enter, which is all the authentication that is needed.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::Fsync;
use crate::node::Schedule;

/// Longest line either side accepts: a status of a file with a million chunks stays below.
pub const LINE_MAX_BYTES: u64 = 256 << 20;

/// The socket's name in the state folder.
pub const SOCKET_NAME: &str = "control.sock";

/// What a client asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// The volume and this peer, or one file by its path below the mountpoint (hex of its bytes).
    Status {
        /// Path below the mountpoint, hex; absent for the volume.
        path: Option<String>,
    },
    /// What the daemon does in the background.
    Workers,
    /// The other peers.
    Peers,
    /// A new token.
    Invite {
        /// `admin`, `writer`, `reader` or `storage`.
        role: String,
        /// Seconds from now.
        expires_s: u64,
    },
    /// The roster.
    Members,
    /// Removes a member.
    Remove {
        /// Its name, or the first digits of its id.
        who: String,
        /// Whether it is to be done; else it is only said who is meant.
        confirmed: bool,
    },
    /// Gives a member another role.
    SetRole {
        /// Its name, or the first digits of its id.
        who: String,
        /// `admin`, `writer`, `reader` or `storage`.
        role: String,
    },
    /// Gives a member another name.
    Rename {
        /// Its name, or the first digits of its id; absent for the peer that is asked.
        who: Option<String>,
        /// The new name.
        name: String,
    },
    /// Takes the peer that is asked out of its volume; what it has then is to be ended.
    Leave {
        /// Whether it is to be done; else it is only said whether it can be.
        confirmed: bool,
        /// Whether what is only here may be left behind.
        forced: bool,
    },
    /// The invites.
    Invites,
    /// Takes an invite back.
    Revoke {
        /// The first digits of its id.
        id: String,
    },
    /// Makes a recovery phrase.
    MakeRecovery,
    /// The recovery phrases that hold.
    Recoveries,
    /// Ends them.
    EndRecovery,
    /// The conflicts.
    Conflicts {
        /// A side of those that are meant, by its path below the mountpoint, hex; absent for all.
        path: Option<String>,
    },
    /// What a file was before, or what was removed from a folder.
    History {
        /// Path below the mountpoint, hex; it may be one that is gone.
        path: String,
    },
    /// Has back what was replaced or removed; sends progress.
    Restore {
        /// Path below the mountpoint, hex; it may be one that is gone.
        path: String,
        /// The time of the content that is wanted, milliseconds since 1970; absent for the newest that is
        /// not there now.
        at_ms: Option<u64>,
        /// True for all that was removed from a folder and those below it.
        deleted: bool,
    },
    /// Keeps what this machine sees of the volume now.
    CreateSnapshot {
        /// What it is to be called.
        name: String,
    },
    /// The snapshots.
    Snapshots,
    /// Lets go of a snapshot.
    RemoveSnapshot {
        /// Its name.
        name: String,
    },
    /// Makes a tree what it was in a snapshot; sends progress.
    RestoreTo {
        /// Path below the mountpoint, hex; it may be one that is gone.
        path: String,
        /// The name of the snapshot, or a moment as somebody wrote it.
        to: String,
        /// That moment, milliseconds since 1970: the newest snapshot that is no newer is meant.
        at_ms: Option<u64>,
        /// False to hear which snapshot that is, and do nothing.
        confirmed: bool,
    },
    /// Takes conflicts off the list, of which both sides stay.
    Settle {
        /// Their ids.
        ids: Vec<String>,
    },
    /// The settings of this machine, after a change of one where there is one.
    Config {
        /// The change.
        change: Option<Change>,
    },
    /// Whether the daemon is on its way out.
    Life,
    /// Ends the daemon, and takes its mount away; the answer comes when it has ended.
    Stop {
        /// Also where files are open in the mount.
        force: bool,
    },
    /// The machines that ask to be admitted.
    Askings,
    /// Admits one of them.
    Approve {
        /// Its code, as a person typed it.
        code: String,
        /// `admin`, `writer`, `reader` or `storage`.
        role: String,
        /// Its name for the members; absent for the one that it gives itself.
        name: Option<String>,
    },
    /// Does not admit one of them.
    Deny {
        /// Its code, as a person typed it.
        code: String,
    },
    /// Gives up chunks that nothing names any more, here and on the others that are there; sends progress.
    Collect {
        /// Seconds that it waits at most for what cannot go at once.
        limit_s: u64,
    },
    /// Waits until nothing is pending; sends progress.
    Sync {
        /// Seconds without progress after which it gives up.
        timeout_s: u64,
    },
}

/// One setting and its new value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "key", content = "value", rename_all = "snake_case")]
pub enum Change {
    /// Where to listen from the next start on.
    Listen(SocketAddr),
    /// Disk space offered, in bytes.
    Capacity(u64),
    /// Disk space for chunks beyond what must be held, in bytes.
    Cache(u64),
    /// What fsync waits for.
    Fsync(Fsync),
    /// This machine's name for the others.
    Name(String),
    /// Memory of the caches of rows and contents from the next start on, in bytes.
    Memory(u64),
    /// How long the volume keeps what was replaced or removed, in milliseconds.
    History(u64),
    /// How many snapshots the volume makes by itself and keeps.
    Snapshots(Schedule),
}

/// What the daemon answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Work is going on.
    Progress {
        /// How far it is.
        value: Value,
    },
    /// The answer.
    Done {
        /// A report of the verb.
        value: Value,
    },
    /// It cannot be done.
    Failed {
        /// Chooses the exit code.
        kind: FailKind,
        /// One line that says what to do.
        message: String,
    },
}

/// Why something failed, as far as an exit code tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailKind {
    /// Exit code 1.
    Failed,
    /// Exit code 2.
    Usage,
    /// Exit code 3.
    NoDaemon,
    /// Exit code 4.
    NotAllowed,
    /// Exit code 5.
    TimedOut,
}

/// Why a client got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nothing listens at the state folder.
    #[error("no dfs daemon is running on {state}")]
    NoDaemon {
        /// The state folder.
        state: PathBuf,
    },
    /// The socket is not ours to open.
    #[error("not allowed to speak to the daemon of {state}: run this as its owner")]
    NotAllowed {
        /// The state folder.
        state: PathBuf,
    },
    /// The daemon said no.
    #[error("{message}")]
    Refused {
        /// Chooses the exit code.
        kind: FailKind,
        /// What it said.
        message: String,
    },
    /// The daemon takes no requests: it is stopped, or stuck.
    #[error(
        "the daemon{} does not answer: it is stopped or very busy (state folder {state})",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(),
        state = state.display()
    )]
    Silent {
        /// The state folder.
        state: PathBuf,
        /// The daemon's process.
        pid: Option<i32>,
    },
    /// The connection broke or the answer was not in the form above.
    #[error("the daemon of {state} broke off: {source}")]
    Broken {
        /// The state folder.
        state: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Sends `request` to the daemon of a state folder and returns its answer; `progress` sees what
/// comes before. `patience` bounds the wait for each line.
pub fn ask(
    state: &Path,
    request: &Request,
    patience: Duration,
    mut progress: impl FnMut(&Value),
) -> Result<Value, ControlError> {
    let pid = std::cell::Cell::new(None);
    let broken = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ControlError::Silent {
            state: state.to_owned(),
            pid: pid.get(),
        },
        _ => ControlError::Broken {
            state: state.to_owned(),
            source,
        },
    };
    let stream = connect(state).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ControlError::NotAllowed {
            state: state.to_owned(),
        },
        _ => ControlError::NoDaemon {
            state: state.to_owned(),
        },
    })?;
    // Of a connection it is the process that listens.
    let owner = rustix::net::sockopt::socket_peercred(&stream).ok();
    pid.set(owner.map(|owner| owner.pid.as_raw_nonzero().get()));
    stream.set_read_timeout(Some(patience)).map_err(broken)?;
    stream.set_write_timeout(Some(patience)).map_err(broken)?;
    let mut line = serde_json::to_vec(request).map_err(|e| broken(e.into()))?;
    line.push(b'\n');
    (&stream).write_all(&line).map_err(broken)?;
    let mut reader = BufReader::new(&stream);
    loop {
        let mut line = Vec::new();
        let mut limited = io::Read::take(&mut reader, LINE_MAX_BYTES);
        let got = limited.read_until(b'\n', &mut line).map_err(broken)?;
        if got == 0 {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_slice(&line).map_err(|e| broken(e.into()))? {
            Reply::Progress { value } => progress(&value),
            Reply::Done { value } => return Ok(value),
            Reply::Failed { kind, message } => {
                return Err(ControlError::Refused { kind, message });
            }
        }
    }
}

/// Returns whether a daemon listens at a state folder.
pub fn is_running(state: &Path) -> bool {
    connect(state).is_ok()
}

/// Opens the state folder and names the socket through its descriptor: socket addresses hold at
/// most 107 bytes, state folders may lie deeper.
pub(super) fn with_short_path<T>(
    state: &Path,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let folder = std::fs::File::open(state)?;
    act(Path::new(&format!(
        "/proc/self/fd/{}/{SOCKET_NAME}",
        folder.as_raw_fd()
    )))
}

fn connect(state: &Path) -> io::Result<UnixStream> {
    with_short_path(state, |path| UnixStream::connect(path))
}
