//! The activity log: two files in the state folder, of which the older goes when both are full.

mod file;
mod limit;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

use self::file::{LogFile, ToFile};
use self::limit::Limited;
use super::error::DaemonError;
use crate::base::time::SystemClock;
use crate::base::{Clock, panics};

/// The log of this process, for [`reopen`].
static LOG: OnceLock<Arc<LogFile>> = OnceLock::new();

/// Returns where the daemon of a state folder writes its activity log.
pub fn log_path(state: &Path) -> PathBuf {
    state.join("log").join("dfs.log")
}

/// Sends what this process logs to the state folder, and to stderr where asked.
///
/// The log names peers and numbers, never names or contents of files. What is said often is said
/// once a second, with a count.
pub(super) fn start(state: &Path, verbose: u8, to_stderr: bool) -> Result<(), DaemonError> {
    let path = log_path(state);
    let failed = |what| {
        let path = path.clone();
        move |source| DaemonError::Io { what, path, source }
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed("make the folder of the log"))?;
    }
    let file = LogFile::open(path.clone()).map_err(failed("open the log"))?;
    let file = Arc::new(file);
    let level = match verbose {
        0 => "dfs=info,warn",
        1 => "dfs=debug,info",
        _ => "dfs=trace,debug",
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_ansi(false)
        .with_target(true)
        .map_event_format(Limited::new);
    let of_process = Arc::clone(&file);
    // A second daemon in one process (tests) keeps the first one's log.
    let started = if to_stderr {
        subscriber
            .with_writer(ToFile(file).and(std::io::stderr))
            .try_init()
            .is_ok()
    } else {
        subscriber.with_writer(ToFile(file)).try_init().is_ok()
    };
    if started {
        LOG.get_or_init(|| of_process);
    }
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a thread panicked");
        panics::note(panic, SystemClock::new().wall_ms());
    }));
    Ok(())
}

/// Opens the log's file anew, where another program has moved it away.
pub(super) fn reopen() {
    if let Some(log) = LOG.get() {
        match log.reopen() {
            Ok(()) => tracing::info!("the log was opened anew"),
            Err(error) => tracing::warn!(%error, "the log stays in its file"),
        }
    }
}
