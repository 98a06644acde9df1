//! The end of a daemon: who asked for it and waits, and how the next one waits for it.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::control::{self, FailKind, Reply, Request};
use super::error::DaemonError;
use crate::base::Clock;
use crate::base::task::spawn;
use crate::base::time::{SystemClock, timeout};
use crate::node::NodeError;
use crate::store::{StateDir, holder, is_founded};

/// Turns of the runtime after which a signal that came before them is known.
const SIGNAL_TURNS: usize = 4;

/// Most clients that wait for one end.
const WAITING_MAX: usize = 16;

/// How long a client may take to read that all is over.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// A client that wants the daemon to end.
#[derive(Debug)]
pub(super) struct Wish {
    client: tokio::net::UnixStream,
    force: bool,
}

/// Where clients leave their wish, and where it is seen whether the daemon goes by one, or by a signal.
#[derive(Debug, Clone)]
pub(super) struct Wishes {
    sender: mpsc::Sender<Wish>,
    is_told: Arc<AtomicBool>,
}

impl Wishes {
    /// Returns where wishes are left, and where they are heard.
    pub(super) fn new() -> (Self, Heard) {
        let (sender, wishes) = mpsc::channel(WAITING_MAX);
        let waiting = Vec::new();
        let is_told = Arc::default();
        (Self { sender, is_told }, Heard { wishes, waiting })
    }

    /// Takes note that the daemon is to end, or that it goes on all the same.
    pub(super) fn set_told(&self, is_told: bool) {
        self.is_told.store(is_told, Ordering::Relaxed);
    }

    /// Returns whether the daemon was told to end before this was asked.
    ///
    /// A signal is known to the runtime when it has looked for events, and to who waits for it one
    /// turn later.
    pub(super) async fn is_told(&self) -> bool {
        for _ in 0..SIGNAL_TURNS {
            tokio::task::yield_now().await;
        }
        self.is_told.load(Ordering::Relaxed)
    }

    /// Hands a client over, which hears no more until the daemon has ended.
    pub(super) fn leave(&self, client: tokio::net::UnixStream, force: bool) {
        // Where there is no room the client is dropped, and hears that nobody answers.
        let _ = self.sender.try_send(Wish { client, force });
    }
}

/// Hears the wishes, and keeps those who wait for the end.
#[derive(Debug)]
pub(super) struct Heard {
    wishes: mpsc::Receiver<Wish>,
    waiting: Vec<tokio::net::UnixStream>,
}

impl Heard {
    /// Resolves when somebody wants the end; to whether open files do not matter.
    pub(super) async fn any(&mut self) -> bool {
        match self.wishes.recv().await {
            Some(wish) => {
                self.waiting.push(wish.client);
                wish.force
            }
            None => std::future::pending().await,
        }
    }

    /// Tells who came last that the daemon goes on.
    pub(super) fn refuse(&mut self, error: &DaemonError) {
        let reply = line(&Reply::Failed {
            kind: error.kind(),
            message: error.to_string(),
        });
        if let Some(mut client) = self.waiting.pop() {
            spawn(async move {
                let _ = timeout(FAREWELL_MAX, client.write_all(&reply)).await;
            });
        }
    }
}

/// What outlives the runtime of a daemon: nothing changes any more when it is let go of.
#[derive(Debug, Default)]
pub(super) struct Last {
    pub(super) state: Option<StateDir>,
    /// Somebody may have admitted the key that lies in the folder, so it stays for another try.
    pub(super) may_be_member: bool,
    waiting: Vec<UnixStream>,
}

impl Last {
    /// Takes over those who wait.
    pub(super) fn keep(&mut self, mut heard: Heard) {
        heard.wishes.close();
        while let Ok(wish) = heard.wishes.try_recv() {
            heard.waiting.push(wish.client);
        }
        let blocking = |client: tokio::net::UnixStream| {
            let client = client.into_std().ok()?;
            client.set_nonblocking(false).ok()?;
            client.set_write_timeout(Some(FAREWELL_MAX)).ok()?;
            Some(client)
        };
        self.waiting = heard.waiting.into_iter().filter_map(blocking).collect();
    }

    /// Lets go of the state folder, and tells those who waited for it.
    pub(super) fn let_go(self, outcome: &Result<(), DaemonError>) {
        // An admin may admit this very key meanwhile, and knows its code.
        let goes_on = matches!(
            outcome,
            Err(DaemonError::GivenUp | DaemonError::Node(NodeError::AskedTooLong))
        );
        match self.state {
            Some(state) if goes_on => state.suspend(),
            Some(state) if state.is_first_start() && !self.may_be_member => state.discard(),
            // Its lock goes with the process: where the mount is gone the store is not closed, and
            // whoever starts next must come after that.
            state => std::mem::forget(state),
        }
        let reply = line(&match outcome {
            Ok(()) => Reply::Done {
                value: json!({ "ended": true, "pid": std::process::id() }),
            },
            Err(error) => Reply::Failed {
                kind: error.kind(),
                message: format!("the daemon has ended, but: {error}"),
            },
        });
        for mut client in self.waiting {
            let _ = client.write_all(&reply);
        }
    }
}

fn line(reply: &Reply) -> Vec<u8> {
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Returns whether a daemon holds a state folder, answering or not.
pub fn is_held(state: &Path) -> bool {
    holder(state).is_some()
}

/// Waits a moment for a process that has said its last word.
pub fn await_exit(pid: u32) {
    let clock = SystemClock::new();
    while clock.monotonic() < FAREWELL_MAX && is_running(pid) {
        std::thread::park_timeout(POLL);
    }
}

/// Returns whether a process runs: not one that has ended, and that nobody has taken note of yet.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, fields)| fields.trim_start());
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// How long a process that ends may be seen to do nothing.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How long it is waited for at all: what takes longer is told, and may be waited for again.
const ENDING_MAX: Duration = Duration::from_secs(600);

/// After this long a person who waits is told what for.
const TOLD_AFTER: Duration = Duration::from_millis(300);

const POLL: Duration = Duration::from_millis(20);

/// How long a daemon may take to say whether it is ending.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Waits until the daemon that is ending in a state folder has let go of it: its mount is gone before
/// its last bytes are on the disk, so whoever mounts again may come too early. `told` hears the number
/// of the process where that takes a while.
///
/// # Errors
///
/// [`DaemonError::Held`] where the daemon there is not ending, or does nothing for half a minute.
pub fn await_end(state: &Path, told: impl FnOnce(u32)) -> Result<(), DaemonError> {
    let clock = SystemClock::new();
    let mut told = Some(told);
    let mut seen = (None, Duration::ZERO);
    while let Some(pid) = holder(state) {
        let now = clock.monotonic();
        let done = activity(pid);
        if done != seen.0 {
            seen = (done, now);
        }
        let over = now.saturating_sub(seen.1) > IDLE_MAX || now > ENDING_MAX;
        if over || !is_ending(state) {
            return Err(DaemonError::Held {
                state: state.to_owned(),
                pid,
            });
        }
        if now > TOLD_AFTER
            && let Some(told) = told.take()
        {
            told(pid);
        }
        std::thread::park_timeout(POLL);
    }
    Ok(())
}

/// Returns whether the daemon of a state folder is on its way out, or not yet where it answers.
fn is_ending(state: &Path) -> bool {
    match control::ask(state, &Request::Life, ANSWER_MAX, |_| {}) {
        Ok(life) => life["ending"].as_bool().unwrap_or(false),
        // A first start has no socket for as long as it takes, which may be an hour.
        Err(control::ControlError::NoDaemon { .. }) => is_founded(state).unwrap_or(true),
        // One that is stuck, or gone in the middle of the answer: looked at again.
        Err(control::ControlError::Broken { .. } | control::ControlError::Silent { .. }) => true,
        Err(control::ControlError::Refused { kind, .. }) => kind != FailKind::Usage,
        Err(control::ControlError::NotAllowed { .. }) => false,
    }
}

/// Returns a number that grows while a process works: of its processor time and written bytes.
fn activity(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything: proc(5), fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let written = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: ")?.parse::<u64>().ok());
    Some(ticks.wrapping_add(written.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_waited_for_where_nobody_is() {
        let root = tempfile::tempdir().unwrap();
        await_end(&root.path().join("none"), |_| panic!("told")).unwrap();
        assert_eq!(root.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn who_ends_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        let state = StateDir::open_or_create(&path).unwrap();
        // A first start, which may take as long as it likes, is not waited for.
        assert!(matches!(
            await_end(&path, |_| {}),
            Err(DaemonError::Held { .. })
        ));
        state.founded().unwrap();
        std::thread::scope(|threads| {
            let (heard, hears) = std::sync::mpsc::channel();
            let waits = threads.spawn(|| await_end(&path, move |pid| heard.send(pid).unwrap()));
            assert_eq!(hears.recv().unwrap(), std::process::id());
            assert!(!waits.is_finished());
            drop(state);
            waits.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_key_that_may_be_admitted_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        for may_be_member in [false, true] {
            let last = Last {
                state: Some(StateDir::open_or_create(&path).unwrap()),
                may_be_member,
                waiting: Vec::new(),
            };
            last.let_go(&Ok(()));
            assert_eq!(path.exists(), may_be_member);
        }
    }

    #[test]
    fn a_process_that_nobody_took_note_of_has_ended_all_the_same() {
        assert!(is_running(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while is_running(child.id()) {
            std::thread::yield_now();
        }
        assert!(Path::new(&format!("/proc/{}", child.id())).exists());
        child.wait().unwrap();
        assert!(!is_running(child.id()));
    }

    #[test]
    fn work_is_seen() {
        let before = activity(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while activity(std::process::id()).unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert_eq!(activity(0), None);
    }
}
