//! The control socket's server: accepts, reads one request, answers it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::control::{FailKind, Reply, Request, SOCKET_NAME, with_short_path};
use super::error::DaemonError;
use super::facts::{self, Surroundings};
use super::peer::Peer;
use crate::base::task::spawn;
use crate::base::time::{sleep, timeout};

/// Longest request line: a path of PATH_MAX bytes in hex, with room.
const REQUEST_MAX_BYTES: u64 = 64 << 10;

/// How long a client may take to send its request.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// How often `sync` looks again and tells its client.
const SYNC_STEP: Duration = Duration::from_millis(100);

/// A listening control socket; dropping it removes the file and ends the server.
#[derive(Debug)]
pub(super) struct Server {
    path: std::path::PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Listens in the state folder. The caller holds the folder's lock, so a socket that is there
    /// already is a dead daemon's and is replaced.
    pub(super) fn start(
        state: &Path,
        peer: Arc<Peer>,
        surroundings: Arc<Surroundings>,
    ) -> Result<Self, DaemonError> {
        let path = state.join(SOCKET_NAME);
        let listener = with_short_path(state, |short| {
            match std::fs::remove_file(short) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            UnixListener::bind(short)
        })
        .map_err(|source| DaemonError::Io {
            what: "open the control socket",
            path: path.clone(),
            source,
        })?;
        let task = spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (peer, surroundings) = (Arc::clone(&peer), Arc::clone(&surroundings));
                spawn(async move {
                    if let Err(error) = serve(stream, &peer, &surroundings).await {
                        tracing::debug!(%error, "a control client went away");
                    }
                });
            }
        });
        Ok(Self { path, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(
    mut stream: UnixStream,
    peer: &Arc<Peer>,
    surroundings: &Surroundings,
) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(read.take(REQUEST_MAX_BYTES));
    if timeout(REQUEST_MAX, reader.read_until(b'\n', &mut line))
        .await
        .is_err()
    {
        return Ok(());
    }
    let reply = match serde_json::from_slice(&line) {
        Ok(Request::Sync { timeout_s }) => {
            sync(peer, Duration::from_secs(timeout_s), &mut write).await?
        }
        Ok(request) => answer(peer, surroundings, request).await,
        Err(_) => Reply::Failed {
            kind: FailKind::Usage,
            message: "the daemon is of another version: restart it".to_owned(),
        },
    };
    send(&mut write, &reply).await
}

async fn send(write: &mut (impl AsyncWriteExt + Unpin), reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    write.write_all(&line).await
}

async fn answer(peer: &Arc<Peer>, surroundings: &Surroundings, request: Request) -> Reply {
    let result = match request {
        Request::Status { path: None } => facts::status(peer, surroundings).and_then(value),
        Request::Status { path: Some(path) } => facts::file(peer, &path).and_then(value),
        Request::Peers => value(facts::peers(peer)),
        Request::Members => value(facts::members(peer)),
        Request::Conflicts => facts::conflicts(peer).and_then(value),
        Request::Invite { role, expires_s } => {
            facts::invite(peer, &role, Duration::from_secs(expires_s))
                .await
                .and_then(value)
        }
        Request::Remove { id } => facts::remove(peer, &id).await.and_then(value),
        Request::Sync { .. } => Ok(Value::Null),
    };
    match result {
        Ok(value) => Reply::Done { value },
        Err(error) => failed(&error),
    }
}

fn failed(error: &DaemonError) -> Reply {
    Reply::Failed {
        kind: error.kind(),
        message: error.to_string(),
    }
}

fn value(report: impl Serialize) -> Result<Value, DaemonError> {
    serde_json::to_value(report).map_err(|_| DaemonError::Unprintable)
}

/// Waits until nothing is pending, as long as there is progress.
async fn sync(
    peer: &Arc<Peer>,
    patience: Duration,
    write: &mut (impl AsyncWriteExt + Unpin),
) -> std::io::Result<Reply> {
    if let Err(error) = peer.flush().await {
        return Ok(failed(&error));
    }
    let clock = peer.clock();
    let mut best = u64::MAX;
    let mut moved = clock.monotonic();
    loop {
        let report = match facts::sync(peer) {
            Ok(report) => report,
            Err(error) => return Ok(failed(&error)),
        };
        let value = serde_json::to_value(&report)?;
        if report.is_done() {
            return Ok(Reply::Done { value });
        }
        let left = report.pending_bytes + report.pending_chunks + report.pending_segments;
        if left < best {
            best = left;
            moved = clock.monotonic();
        }
        if clock.monotonic().saturating_sub(moved) >= patience {
            let waiting = if report.unreachable.is_empty() {
                String::new()
            } else {
                format!("; cannot reach {}", report.unreachable.join(", "))
            };
            return Ok(Reply::Failed {
                kind: FailKind::TimedOut,
                message: format!(
                    "{} bytes are not yet on enough peers, and nothing moved for {} s{waiting}",
                    report.pending_bytes,
                    patience.as_secs()
                ),
            });
        }
        send(write, &Reply::Progress { value }).await?;
        sleep(SYNC_STEP).await;
    }
}
