//! The control socket's server: accepts, reads one request, answers it.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::asking;
use super::conflicts;
use super::control::{FailKind, Reply, Request, SOCKET_NAME, with_short_path};
use super::error::DaemonError;
use super::facts::{self, Surroundings};
use super::history;
use super::members;
use super::peer::Peer;
use super::protection;
use super::report::{CollectReport, RestoreReport, RestoreToReport, SyncReport};
use super::restore_to::{self, Wish};
use super::snapshots;
use super::troubles::Trouble;
use super::whereabouts::{self, Found};
use super::workers;
use crate::base::task::spawn;
use crate::base::time::{sleep, timeout};
use crate::base::worker::{Failed, Job, Step, Worker};

/// Longest request line: a path of PATH_MAX bytes in hex, with room.
const REQUEST_MAX_BYTES: u64 = 64 << 10;

/// How long a client may take to send its request.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// How long a client may take to read a line of its answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Clients that are served at once.
const CLIENTS_MAX: usize = 64;

/// How long after a failure the next client is taken in, at first and at most.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);
const ACCEPT_AGAIN_MAX: Duration = Duration::from_secs(1);

/// How often `sync` looks again and tells its client.
const SYNC_STEP: Duration = Duration::from_millis(100);

/// Pause between two collections that `dfs gc` asks for, between two times that it asks the others, and how
/// long it waits for one.
const RESTORE_STEP: Duration = Duration::from_millis(500);
const COLLECT_STEP: Duration = Duration::from_secs(2);
const TELL_PAUSE: Duration = Duration::from_secs(20);
const COLLECT_MAX: Duration = Duration::from_secs(900);

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
        let troubles = Arc::clone(peer.troubles());
        let told = move |error: Option<&std::io::Error>| {
            let now = error.map(|error| {
                let what = format!("the control socket takes no clients: {error}");
                (what, "raise the limit of open files".to_owned())
            });
            troubles.set(Trouble::Control, now);
        };
        let workers = Arc::clone(peer.node().workers());
        let serve = move |stream, place| {
            let (peer, surroundings) = (Arc::clone(&peer), Arc::clone(&surroundings));
            spawn(async move {
                if let Err(error) = serve(stream, &peer, &surroundings).await {
                    tracing::debug!(%error, "a control client went away");
                }
                drop(place);
            });
        };
        let task = spawn(workers.run(Admission::new(listener, told, serve)));
        Ok(Self { path, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What clients come in by.
#[async_trait]
trait Door: Send + 'static {
    /// A client.
    type Client: Send;

    async fn accept(&mut self) -> std::io::Result<Self::Client>;
}

#[async_trait]
impl Door for UnixListener {
    type Client = UnixStream;

    async fn accept(&mut self) -> std::io::Result<UnixStream> {
        Ok(Self::accept(self).await?.0)
    }
}

/// The worker that takes clients in, at most [`CLIENTS_MAX`] at once: further ones wait outside, where
/// they cost nothing.
///
/// `told` hears of each attempt, whether and why it failed.
struct Admission<D: Door, T, S> {
    door: D,
    told: T,
    serve: S,
    places: Arc<Semaphore>,
    /// Who came, or why nobody can.
    next: Option<(std::io::Result<D::Client>, OwnedSemaphorePermit)>,
    begun: bool,
}

impl<D: Door, T, S> Admission<D, T, S> {
    fn new(door: D, told: T, serve: S) -> Self {
        Self {
            door,
            told,
            serve,
            places: Arc::new(Semaphore::new(CLIENTS_MAX)),
            next: None,
            begun: false,
        }
    }

    async fn attend(&mut self) {
        // The semaphore is never closed.
        if let Ok(place) = Arc::clone(&self.places).acquire_owned().await {
            self.next = Some((self.door.accept().await, place));
        }
    }
}

impl<D, T, S> Worker for Admission<D, T, S>
where
    D: Door,
    T: Fn(Option<&std::io::Error>) + Send + Sync + 'static,
    S: Fn(D::Client, OwnedSemaphorePermit) + Send + Sync + 'static,
{
    fn job(&self) -> Job {
        Job::new("control", "answers commands").again(ACCEPT_AGAIN, ACCEPT_AGAIN_MAX)
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        // After a failure it is tried again at once: only a client shows that it works.
        if self.next.is_none() && std::mem::replace(&mut self.begun, true) {
            self.attend().await;
        }
        match self.next.take() {
            Some((Ok(client), place)) => {
                (self.told)(None);
                (self.serve)(client, place);
            }
            // Of descriptors or memory there will be some again.
            Some((Err(error), _)) => {
                (self.told)(Some(&error));
                return Err(error.into());
            }
            None => {}
        }
        Ok(Step::Idle("commands"))
    }

    async fn wait(&mut self) {
        self.attend().await;
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
        Ok(Request::Collect { limit_s }) => {
            collect(peer, Duration::from_secs(limit_s), &mut write).await?
        }
        Ok(Request::History { path }) => match history::list(peer, &path).await.and_then(value) {
            Ok(value) => Reply::Done { value },
            Err(error) => failed(&error),
        },
        Ok(Request::Restore {
            path,
            at_ms,
            deleted,
        }) => {
            let (told, news) = tokio::sync::watch::channel(RestoreReport::default());
            let done = history::restore(peer, path, at_ms, deleted, told);
            restore(done, news, &mut write).await?
        }
        Ok(Request::RestoreTo {
            path,
            to,
            at_ms,
            confirmed,
        }) => {
            let wish = Wish { path, to, at_ms };
            match confirmed {
                true => {
                    let (told, news) = tokio::sync::watch::channel(RestoreToReport::default());
                    restore(restore_to::restore(peer, wish, told), news, &mut write).await?
                }
                false => match restore_to::find(peer, &wish).and_then(value) {
                    Ok(value) => Reply::Done { value },
                    Err(error) => failed(&error),
                },
            }
        }
        Ok(Request::Stop { force }) => {
            drop(reader);
            surroundings.wishes.leave(stream, force);
            return Ok(());
        }
        Ok(Request::Status { path: Some(path) }) => look_up(peer, &path, &mut write).await?,
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
    // Who does not read its answer keeps nobody's place.
    match timeout(ANSWER_MAX, write.write_all(&line)).await {
        Ok(written) => written,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

async fn answer(peer: &Arc<Peer>, surroundings: &Surroundings, request: Request) -> Reply {
    let result = match request {
        Request::Status { path: None } => facts::status(peer, surroundings).and_then(value),
        Request::Workers => value(workers::list(peer)),
        Request::Peers => value(facts::peers(peer)),
        Request::Members => value(members::list(peer)),
        Request::Conflicts { path } => {
            conflicts::list(peer, surroundings, path.as_deref()).and_then(value)
        }
        Request::Settle { ids } => conflicts::settle(peer, &ids).and_then(value),
        Request::Invite { role, expires_s } => {
            members::invite(peer, &role, Duration::from_secs(expires_s))
                .await
                .and_then(value)
        }
        Request::Config { change: None } => value(surroundings.settings.report(peer)),
        Request::Config {
            change: Some(change),
        } => surroundings
            .settings
            .change(peer, change)
            .await
            .and_then(value),
        Request::Remove { who, confirmed } => {
            members::remove(peer, &who, confirmed).await.and_then(value)
        }
        Request::SetRole { who, role } => {
            members::set_role(peer, &who, &role).await.and_then(value)
        }
        Request::Rename { who, name } => members::rename(peer, who.as_deref(), &name)
            .await
            .and_then(value),
        Request::Leave { confirmed, forced } => members::leave(peer, confirmed, forced)
            .await
            .and_then(value),
        Request::Invites => value(members::invites(peer)),
        Request::Revoke { id } => members::revoke(peer, &id).await.and_then(value),
        Request::MakeRecovery => members::make_recovery(peer).await.and_then(value),
        Request::Recoveries => value(members::recoveries(peer)),
        Request::EndRecovery => members::end_recovery(peer).await.and_then(value),
        Request::Life => Ok(json!({ "ending": surroundings.is_ending().await })),
        Request::Status { path: Some(_) }
        | Request::Sync { .. }
        | Request::Collect { .. }
        | Request::History { .. }
        | Request::Restore { .. }
        | Request::RestoreTo { .. }
        | Request::Stop { .. } => Ok(Value::Null),
        Request::CreateSnapshot { name } => snapshots::create(peer, &name).await.and_then(value),
        Request::Snapshots => snapshots::list(peer).and_then(value),
        Request::RemoveSnapshot { name } => snapshots::remove(peer, &name).and_then(value),
        Request::Askings => asking::list(peer).and_then(value),
        Request::Approve { code, role, name } => {
            let admitted = asking::approve(peer, &code, &role, name.as_deref()).await;
            admitted.and_then(value)
        }
        Request::Deny { code } => asking::deny(peer, &code).and_then(value),
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

/// Tells of a file at once, and of a folder in growing sums.
async fn look_up(
    peer: &Arc<Peer>,
    path: &str,
    write: &mut (impl AsyncWriteExt + Unpin),
) -> std::io::Result<Reply> {
    let mut folder = match whereabouts::look_up(peer, path).await {
        Ok(Found::File(report)) => {
            let value = serde_json::to_value(&report)?;
            return Ok(Reply::Done { value });
        }
        Ok(Found::Folder(folder)) => folder,
        Err(error) => return Ok(failed(&error)),
    };
    loop {
        let more = folder.go_on().await;
        let value = serde_json::to_value(folder.report())?;
        match more {
            Ok(true) => send(write, &Reply::Progress { value }).await?,
            Ok(false) => return Ok(Reply::Done { value }),
            Err(error) => return Ok(failed(&error)),
        }
    }
}

/// Waits for what has back what was, and tells how far it is.
async fn restore<R: Serialize + Clone>(
    done: impl Future<Output = Result<R, DaemonError>>,
    mut news: tokio::sync::watch::Receiver<R>,
    write: &mut (impl AsyncWriteExt + Unpin),
) -> std::io::Result<Reply> {
    let mut done = Box::pin(done);
    loop {
        tokio::select! {
            done = &mut done => return Ok(match done.and_then(value) {
                Ok(value) => Reply::Done { value },
                Err(error) => failed(&error),
            }),
            () = sleep(RESTORE_STEP) => {
                let value = serde_json::to_value(news.borrow_and_update().clone())?;
                // Who broke off is told of no more; what was begun goes on to its end.
                send(write, &Reply::Progress { value }).await?;
            }
        }
    }
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
        let report = match protection::sync(peer) {
            Ok(report) => report,
            Err(error) => return Ok(failed(&error)),
        };
        let value = serde_json::to_value(&report)?;
        if report.removed {
            return Ok(Reply::Failed {
                kind: FailKind::NotAllowed,
                message: "this peer was removed from the volume: nobody takes what it writes"
                    .to_owned(),
            });
        }
        if report.is_done() {
            return Ok(Reply::Done { value });
        }
        let left = report.pending_bytes + report.pending_chunks + report.pending_segments;
        if left < best {
            best = left;
            moved = clock.monotonic();
        }
        if clock.monotonic().saturating_sub(moved) >= patience {
            return Ok(Reply::Failed {
                kind: FailKind::TimedOut,
                message: stuck(&report, patience),
            });
        }
        send(write, &Reply::Progress { value }).await?;
        sleep(SYNC_STEP).await;
    }
}

/// Collects here, and has the others collect that are there, until nothing is left that goes soon.
async fn collect(
    peer: &Arc<Peer>,
    limit: Duration,
    write: &mut (impl AsyncWriteExt + Unpin),
) -> std::io::Result<Reply> {
    if let Err(error) = peer.flush().await {
        return Ok(failed(&error));
    }
    // What led to it goes as soon as it counts.
    peer.node().ask_checkpoint();
    let clock = peer.clock();
    let end = clock.monotonic() + limit;
    let mut sums = peer.collections().watch();
    let before = sums.borrow_and_update().clone();
    let (mut told, mut report) = (None, CollectReport::default());
    loop {
        let now = clock.monotonic();
        if told.is_none_or(|told| now.saturating_sub(told) >= TELL_PAUSE) {
            told = Some(now);
            peer.tell_to_collect(true).await;
        }
        peer.collections().ask();
        let asked = clock.monotonic();
        // A look through all files takes what it takes; who broke off is noticed by the write.
        while timeout(COLLECT_STEP, sums.changed()).await.is_err() {
            if clock.monotonic().saturating_sub(asked) >= COLLECT_MAX {
                return Ok(Reply::Failed {
                    kind: FailKind::TimedOut,
                    message: "the look through all files does not end: see dfs log".to_owned(),
                });
            }
            let value = serde_json::to_value(report)?;
            send(write, &Reply::Progress { value }).await?;
        }
        let sum = sums.borrow_and_update().clone();
        let found = match sum.last {
            Ok(found) => found,
            Err(message) => {
                return Ok(Reply::Failed {
                    kind: FailKind::Failed,
                    message: format!("what nothing names any more cannot be told: {message}"),
                });
            }
        };
        report = CollectReport {
            freed_chunks: sum.count.saturating_sub(before.count),
            freed_bytes: sum.bytes.saturating_sub(before.bytes),
            waiting_bytes: found.waiting_bytes,
            next_ms: found.next_ms,
            past_bytes: found.past_bytes,
            kept_bytes: found.kept_bytes,
        };
        let value = serde_json::to_value(report)?;
        let now = clock.monotonic();
        let left_ms = u64::try_from(end.saturating_sub(now).as_millis()).unwrap_or(u64::MAX);
        let last_ms = clock.wall_ms().saturating_add(left_ms);
        let goes_soon = found.next_ms.is_some_and(|next_ms| next_ms <= last_ms);
        if now >= end || !(goes_soon || found.is_blocked || found.past_bytes > 0) {
            return Ok(Reply::Done { value });
        }
        send(write, &Reply::Progress { value }).await?;
        sleep(COLLECT_STEP).await;
    }
}

/// Returns why nothing moves any more.
fn stuck(report: &SyncReport, patience: Duration) -> String {
    let mut message = format!(
        "{} bytes are not yet on enough peers, and nothing moved for {} s",
        report.pending_bytes,
        patience.as_secs()
    );
    if report.missing_chunks > 0 {
        message = format!("{} chunks are lost from this disk", report.missing_chunks);
        if !report.missing_files.is_empty() {
            message.push_str(" (");
            message.push_str(&report.missing_files.join(", "));
            message.push(')');
        }
        message.push_str(" and no peer that answers has them");
    }
    if !report.refused.is_empty() {
        message.push_str("; ");
        message.push_str(&report.refused.join("; "));
    }
    if !report.unreachable.is_empty() {
        message.push_str("; cannot reach ");
        message.push_str(&report.unreachable.join(", "));
    }
    message
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::Mutex;

    use super::*;
    use crate::base::time::SimClock;
    use crate::base::worker::Workers;

    /// Fails three times of four, and has so many clients.
    struct Rough {
        calls: usize,
        clients: usize,
    }

    #[async_trait]
    impl Door for Rough {
        type Client = usize;

        async fn accept(&mut self) -> std::io::Result<usize> {
            self.calls += 1;
            if !self.calls.is_multiple_of(4) {
                return Err(std::io::Error::from_raw_os_error(libc::EMFILE));
            }
            match self.clients.checked_sub(1) {
                Some(left) => {
                    self.clients = left;
                    Ok(left)
                }
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_accept_ends_nothing_and_clients_are_bounded() {
        let served = Arc::new(AtomicUsize::new(0));
        let places = Arc::new(Mutex::new(Vec::new()));
        let door = Rough {
            calls: 0,
            clients: 3 * CLIENTS_MAX,
        };
        let (counted, kept) = (Arc::clone(&served), Arc::clone(&places));
        let serve = move |_, place| {
            counted.fetch_add(1, Ordering::Relaxed);
            kept.lock().push(place);
        };
        let workers = Workers::new(SimClock::new(0));
        let accepting =
            spawn(workers.run(Admission::new(door, |_: Option<&std::io::Error>| {}, serve)));
        for round in 1..=3 {
            sleep(Duration::from_secs(600)).await;
            assert_eq!(served.load(Ordering::Relaxed), round * CLIENTS_MAX);
            places.lock().clear();
        }
        accepting.abort();
    }
}
