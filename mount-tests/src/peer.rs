//! One peer: a process in its namespace with a state folder, and for members a mountpoint.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::command::pid_of;
use crate::network::enter_namespace;
use crate::wait::{poll, spawn};
use crate::{Command, Finished, machine};

/// How a peer is started.
#[derive(Debug, Clone, Default)]
pub struct Start {
    args: Vec<String>,
}

impl Start {
    /// Returns a start as every later one is: with neither peer nor invite.
    pub fn again() -> Self {
        Self::default()
    }

    /// Returns a first start that makes a volume.
    pub fn new_volume() -> Self {
        Self::default().arg("--new")
    }

    /// Returns a first start with a token.
    pub fn join(known: &Peer, token: &str) -> Self {
        Self::default()
            .arg("--peer")
            .arg(known.listen())
            .arg("--invite")
            .arg(token)
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }
}

/// A peer of a scenario; dropping it kills its process and takes its mount away.
#[derive(Debug)]
pub struct Peer {
    name: String,
    namespace: String,
    address: String,
    mountpoint: PathBuf,
    state: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    is_node: bool,
}

impl Peer {
    pub(crate) fn new(name: &str, folder: &Path, namespace: String, address: String) -> Self {
        let home = folder.join(name);
        let mountpoint = home.join("mnt");
        std::fs::create_dir_all(&mountpoint).expect("a folder can be made in the test folder");
        Self {
            name: name.to_owned(),
            namespace,
            address,
            mountpoint,
            state: home.join("state"),
            log: folder.join(format!("{name}.log")),
            child: None,
            is_node: false,
        }
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its address and port.
    pub fn listen(&self) -> String {
        format!("{}:{PORT}", self.address)
    }

    /// Returns its state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Returns its mountpoint.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Returns a path inside the mount.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.join(name)
    }

    /// Returns where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Mounts and waits until the mount is up.
    ///
    /// # Panics
    ///
    /// When it is not up in time, with what the daemon said.
    pub fn mount(&mut self, start: &Start) {
        self.is_node = false;
        let mut args = vec!["-f".to_owned(), self.mountpoint.display().to_string()];
        args.extend(self.common_args(start));
        self.start("dfs-mount", &args, "mounted");
    }

    /// Starts it as a storage peer and waits until it serves.
    ///
    /// # Panics
    ///
    /// When it does not serve in time, with what the daemon said.
    pub fn serve(&mut self, start: &Start) {
        self.is_node = true;
        let mut args = vec!["node".to_owned()];
        args.extend(self.common_args(start));
        self.start("dfs", &args, "ready");
    }

    /// Starts it again as it was, from its state folder alone.
    pub fn restart(&mut self) {
        if self.is_node {
            self.serve(&Start::again());
        } else {
            self.mount(&Start::again());
        }
    }

    /// Runs `dfs-mount` with these arguments alone, in the peer's namespace, and returns how it
    /// ended: for starts that must fail.
    pub fn attempt<A: AsRef<str>>(&self, program: &str, args: &[A]) -> Finished {
        self.inside(&machine::program(program).display().to_string())
            .args(args.iter().map(AsRef::as_ref))
            .limit(Duration::from_secs(30))
            .run()
    }

    /// Runs `body` on a thread in the peer's namespace and returns its result.
    ///
    /// # Panics
    ///
    /// When it does.
    pub fn run_inside<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = self.namespace.clone();
        let thread = spawn(move || {
            enter_namespace(&namespace);
            body()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Returns a command that runs in the peer's namespace.
    pub fn inside(&self, program: &str) -> Command {
        Command::new("nsenter")
            .arg(self.namespace_argument())
            .arg(program)
    }

    /// Runs `dfs` for this peer and returns how it ended.
    pub fn dfs(&self, args: &[&str]) -> Finished {
        Command::new(machine::program("dfs"))
            .args(args)
            .arg("--state")
            .arg(&self.state)
            .limit(Duration::from_secs(180))
            .run()
    }

    /// Runs `dfs ... --json` for this peer and returns what it printed.
    ///
    /// # Panics
    ///
    /// When it fails, or prints what is not JSON.
    pub fn facts(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let finished = self.dfs(&args);
        assert!(finished.status.success(), "{finished}");
        serde_json::from_slice(&finished.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {finished}"))
    }

    /// Returns a fresh token for a new peer.
    pub fn invite(&self, role: &str) -> String {
        let finished = self.dfs(&["invite", "--role", role]);
        assert!(finished.status.success(), "{finished}");
        let said = finished.stdout_text();
        said.lines()
            .last()
            .expect("the token stands on the last line")
            .trim()
            .to_owned()
    }

    /// Waits until all that this peer wrote is at as many holders as wanted.
    ///
    /// # Panics
    ///
    /// When it is not after three minutes.
    pub fn sync(&self) {
        let finished = self.dfs(&["sync", "--timeout", "170s"]);
        assert!(finished.status.success(), "{finished}");
    }

    /// Returns whether its process runs.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Returns its process id.
    ///
    /// # Panics
    ///
    /// When it was not started.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the peer was started").id()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_for_end(Duration::from_secs(20));
    }

    /// Ends it with SIGTERM, as systemd does, and checks that it ends well and without a mount.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
        self.expect_end("SIGTERM");
    }

    /// Takes the mount away as a user does and checks that the daemon ends well.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn unmount(&mut self) {
        Command::new("umount").arg(&self.mountpoint).ok();
        self.expect_end("umount");
    }

    /// Waits until the daemon ends, and checks that it ends well and without a mount.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn expect_end(&mut self, cause: &str) {
        let name = self.name.clone();
        let status = self.wait_for_end(Duration::from_secs(60));
        let status = status.unwrap_or_else(|| panic!("{name} did not end after {cause}"));
        assert_eq!(
            (status.code(), status.signal()),
            (Some(0), None),
            "{name} after {cause}"
        );
        let mounts = machine::mounts_below(&self.mountpoint);
        assert!(mounts.is_empty(), "{name} left {mounts:?} after {cause}");
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let _ = rustix::process::kill_process(pid_of(child), signal);
        }
    }

    fn wait_for_end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        let status = poll(limit, || child.try_wait().ok().flatten());
        if status.is_none() {
            self.child = Some(child);
        }
        status
    }

    /// Returns the argument of nsenter(1) that leads into the peer's namespace.
    pub fn namespace_argument(&self) -> String {
        format!("--net=/run/netns/{}", self.namespace)
    }

    fn common_args(&self, start: &Start) -> Vec<String> {
        let state = self.state.display().to_string();
        let mut args: Vec<String> = ["--state", &state, "--listen", &self.listen()]
            .map(str::to_owned)
            .to_vec();
        args.extend(["--name".to_owned(), self.name.clone()]);
        args.extend(start.args.iter().cloned());
        args
    }

    fn start(&mut self, program: &str, args: &[String], ready: &str) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log can be written in the test folder");
        let _ = writeln!(log, "=== {program} {}", args.join(" "));
        // The process dies with the thread that started it, so that not even a killed test run
        // leaves daemons behind.
        let mut child = std::process::Command::new("nsenter")
            .arg(self.namespace_argument())
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(machine::program(program))
            .args(args)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().expect("a descriptor can be cloned"))
            .spawn()
            .expect("nsenter can be started");
        let lines = lines_of(child.stdout.take(), log);
        self.child = Some(child);
        let deadline = Duration::from_secs(60);
        loop {
            match lines.recv_timeout(deadline) {
                Ok(line) if line.starts_with(ready) => return,
                Ok(_) => {}
                Err(_) => panic!(
                    "{} did not say {ready:?}: {}",
                    self.name,
                    std::fs::read_to_string(&self.log).unwrap_or_default()
                ),
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        self.wait_for_end(Duration::from_secs(20));
        machine::unmount_below(&self.mountpoint);
    }
}

/// Returns the lines of a daemon's standard output as they come; all of them go to the log, too.
fn lines_of(
    output: Option<impl std::io::Read + Send + 'static>,
    mut log: File,
) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let output = output.expect("the output is piped");
    spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = writeln!(log, "{line}");
            let _ = sender.send(line);
        }
    });
    receiver
}

const PORT: u16 = 4750;
