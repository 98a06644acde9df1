//! One test from the first namespace to the check that nothing is left.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::time::Duration;

use crate::network::{Network, namespaces, remove_namespaces};
use crate::peer::Peer;
use crate::wait::{poll, spawn};
use crate::{Command, machine};

/// Runs a test body with peers and a network of its own, and leaves nothing behind.
///
/// # Panics
///
/// When the body does, when it takes longer than `limit`, and when something is left.
pub fn scenario(name: &str, limit: Duration, body: impl FnOnce(&mut Scenario)) {
    let turn = take_turn();
    machine::require();
    remove_what_dead_runs_left();
    let mut scenario = Scenario::new(name, turn);
    let watchdog = Watchdog::start(&scenario, limit);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&mut scenario)));
    if outcome.is_err() {
        scenario.show_logs();
    }
    let folder = scenario.folder.clone();
    let tag = scenario.tag.clone();
    drop(scenario);
    watchdog.stop();
    let left = what_is_left(&folder, &tag);
    match outcome {
        Err(panic) => std::panic::resume_unwind(panic),
        Ok(()) => assert!(left.is_empty(), "{name} left behind: {left:?}"),
    }
}

/// What a test body works with.
#[derive(Debug)]
pub struct Scenario {
    tag: String,
    folder: PathBuf,
    network: Option<Network>,
    logs: Vec<(String, PathBuf)>,
    _turn: MutexGuard<'static, ()>,
}

impl Scenario {
    fn new(name: &str, turn: MutexGuard<'static, ()>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // The process id, so that a later run knows whether this one still lives; the name, for
        // whoever looks at the machine meanwhile.
        let tag = format!("{TAG}{}-{count}", std::process::id());
        let folder = base_folder().join(format!("{tag}-{name}"));
        std::fs::create_dir_all(&folder).expect("the test folder can be made");
        let folder = folder.canonicalize().expect("it was just made");
        Self {
            network: None,
            tag,
            folder,
            logs: Vec::new(),
            _turn: turn,
        }
    }

    /// Returns the folder of this scenario, outside of any mount.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of something in the scenario's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns a new folder in the scenario's folder.
    pub fn new_folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).expect("a folder can be made in the test folder");
        path
    }

    /// Returns a peer with a namespace, a mountpoint and a state folder, not yet started.
    pub fn peer(&mut self, name: &str) -> Peer {
        let tag = self.tag.clone();
        let network = self.network.get_or_insert_with(|| Network::new(&tag));
        let (namespace, address) = network.add(name);
        let peer = Peer::new(name, &self.folder, namespace, address);
        self.logs
            .push((name.to_owned(), peer.log_path().to_owned()));
        peer
    }

    /// Returns the scenario's network.
    ///
    /// # Panics
    ///
    /// Before the first peer was made.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("a peer was made before")
    }

    fn show_logs(&self) {
        for (name, path) in &self.logs {
            let log = std::fs::read(path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
            eprintln!("--- log of {name}, {} lines", lines.len());
            for line in lines.get(from..).unwrap_or_default() {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Scenario {
    /// Peers have ended themselves by now, unless the body panicked while it held one elsewhere;
    /// this is the net below.
    fn drop(&mut self) {
        machine::kill_processes_with(&self.folder);
        machine::unmount_below(&self.folder);
        self.network = None;
        let folder = self.folder.clone();
        poll(Duration::from_secs(20), || {
            machine::unmount_below(&folder);
            std::fs::remove_dir_all(&folder).ok()
        });
    }
}

/// Frees a body that hangs: kills its peers, and when that does not help, ends the test run.
struct Watchdog {
    stop: mpsc::Sender<()>,
}

impl Watchdog {
    fn start(scenario: &Scenario, limit: Duration) -> Self {
        let (stop, stopped) = mpsc::channel();
        let folder = scenario.folder.clone();
        let tag = scenario.tag.clone();
        spawn(move || {
            if stopped.recv_timeout(limit) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            eprintln!(
                "{}: longer than {limit:?}, killing its peers",
                folder.display()
            );
            let processes = Command::new("ps")
                .args(["-eo", "pid,stat,wchan:24,args"])
                .run();
            eprintln!("{}", processes.stdout_text());
            machine::kill_processes_with(&folder);
            machine::unmount_below(&folder);
            if stopped.recv_timeout(GRACE) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            eprintln!("{}: still there, giving up", folder.display());
            remove_namespaces(&format!("{tag}-"));
            std::process::exit(101);
        });
        Self { stop }
    }

    fn stop(self) {
        let _ = self.stop.send(());
    }
}

fn take_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed poisons nothing: it cleaned up.
    TURN.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn base_folder() -> PathBuf {
    std::env::var_os("DFS_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

fn what_is_left(folder: &Path, tag: &str) -> Vec<String> {
    let mut left = Vec::new();
    left.extend(
        machine::mounts_below(folder)
            .iter()
            .map(|path| format!("mount {}", path.display())),
    );
    // A process that was just killed may need a moment to be gone.
    let gone = poll(Duration::from_secs(5), || {
        machine::processes_with(folder).is_empty().then_some(())
    });
    if gone.is_none() {
        left.push(format!("processes {:?}", machine::processes_with(folder)));
    }
    left.extend(
        namespaces(&format!("{tag}-"))
            .iter()
            .map(|name| format!("namespace {name}")),
    );
    if folder.exists() {
        left.push(format!("folder {}", folder.display()));
    }
    left
}

/// A run that was itself killed could not clean up; its name says that it is dead.
fn remove_what_dead_runs_left() {
    let owner =
        |name: &str| -> Option<u32> { name.strip_prefix(TAG)?.split('-').next()?.parse().ok() };
    let is_dead = |name: &str| owner(name).is_some_and(|pid| !machine::is_alive(pid));
    for entry in std::fs::read_dir(base_folder())
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.file_name().to_str().is_some_and(is_dead) {
            machine::kill_processes_with(&entry.path());
            machine::unmount_below(&entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    for name in namespaces(TAG).iter().filter(|name| is_dead(name)) {
        remove_namespaces(name);
    }
}

/// Begins the names of everything that the tests make on the machine.
const TAG: &str = "dfst";

/// How long a body may take to fail after its peers were killed.
const GRACE: Duration = Duration::from_secs(30);

/// The end of each peer's log that a failure shows.
const LOG_LINES_SHOWN: usize = 120;
