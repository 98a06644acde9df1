//! Exit codes: a contract (design.md, section 7).

use crate::base::text::legible;
use crate::daemon::control::FailKind;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// No daemon.
    NoDaemon = 3,
    /// Not allowed.
    NotAllowed = 4,
    /// Timed out.
    TimedOut = 5,
}

impl From<FailKind> for Exit {
    fn from(kind: FailKind) -> Self {
        match kind {
            FailKind::Failed => Self::Failed,
            FailKind::Usage => Self::Usage,
            FailKind::NoDaemon => Self::NoDaemon,
            FailKind::NotAllowed => Self::NotAllowed,
            FailKind::TimedOut => Self::TimedOut,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Prints the one line that says what went wrong.
pub(super) fn complain(program: &str, message: &str) {
    // Paths and others' words may be in it.
    let line = message.trim().replace(['\n', '\r'], " ");
    eprintln!("{program}: {}", legible(&line));
}
