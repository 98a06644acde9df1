//! The activity log: one file in the state folder, cut when it is large.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

use super::error::DaemonError;

/// At this size the log moves aside at the next start; the one before is dropped.
const LOG_MAX_BYTES: u64 = 16 << 20;

/// Returns where the daemon of a state folder writes its activity log.
pub fn log_path(state: &Path) -> PathBuf {
    state.join("log").join("dfs.log")
}

/// Sends what this process logs to the state folder, and to stderr where asked.
///
/// The log names peers and numbers, never names or contents of files.
pub(super) fn start(state: &Path, verbose: u8, to_stderr: bool) -> Result<(), DaemonError> {
    let path = log_path(state);
    let failed = |what| {
        let path = path.clone();
        move |source| DaemonError::Io { what, path, source }
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed("make the folder of the log"))?;
    }
    if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_MAX_BYTES) {
        let _ = std::fs::rename(&path, path.with_extension("log.1"));
    }
    let file: File = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open the log"))?;
    let level = match verbose {
        0 => "dfs=info,warn",
        1 => "dfs=debug,info",
        _ => "dfs=trace,debug",
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_ansi(false)
        .with_target(true);
    // A second daemon in one process (tests) keeps the first one's log.
    let _ = if to_stderr {
        subscriber
            .with_writer(std::sync::Arc::new(file).and(std::io::stderr))
            .try_init()
    } else {
        subscriber.with_writer(std::sync::Arc::new(file)).try_init()
    };
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a thread panicked");
    }));
    Ok(())
}
