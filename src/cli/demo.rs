//! `dfs demo`: three peers on this machine, shown at work.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::args::DemoArgs;
use super::exit::{Exit, complain};
use super::show;
use crate::base::Clock;
use crate::base::time::SystemClock;
use crate::daemon::control::{Request, ask};
use crate::daemon::report::InviteReport;

/// How long a peer may take to come up, and a file to be seen on the other side.
const UP_MAX: Duration = Duration::from_secs(60);

/// How long a peer may take to end after it was asked to.
const DOWN_MAX: Duration = Duration::from_secs(20);

pub(super) fn run(args: &DemoArgs) -> Exit {
    let root = std::env::temp_dir().join(format!("dfs-demo-{}", std::process::id()));
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            complain("dfs", &format!("cannot start: {error}"));
            return Exit::Failed;
        }
    };
    // Asked for before anything is started, so that no early Ctrl-C is missed.
    let stop = {
        let _guard = runtime.enter();
        interrupted()
    };
    let mut demo = Demo {
        root,
        peers: Vec::new(),
    };
    let shown = demo.show();
    let exit = match shown {
        Ok(()) if args.once => Exit::Done,
        Ok(()) => {
            println!("\nCtrl-C ends the demonstration and removes everything it made.");
            runtime.block_on(stop);
            Exit::Done
        }
        Err(message) => {
            complain("dfs", &message);
            Exit::Failed
        }
    };
    drop(demo);
    exit
}

/// Resolves at the first SIGINT, SIGTERM or SIGHUP.
fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut kinds: Vec<_> = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ]
    .into_iter()
    .filter_map(|kind| signal(kind).ok())
    .collect();
    async move {
        std::future::poll_fn(|context| {
            if kinds
                .iter_mut()
                .any(|kind| kind.poll_recv(context).is_ready())
            {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }
}

/// The three peers and their folder; dropping it ends the one and removes the other.
struct Demo {
    root: PathBuf,
    peers: Vec<Child>,
}

impl Demo {
    fn show(&mut self) -> Result<(), String> {
        let folder = |name: &str| self.root.join(name);
        let (a, b) = (folder("a"), folder("b"));
        let (state_a, state_b, state_c) = (folder("state-a"), folder("state-b"), folder("state-c"));
        for dir in [&a, &b] {
            std::fs::create_dir_all(dir).map_err(|e| format!("cannot make {dir:?}: {e}"))?;
        }
        println!("Starting three peers under {}", self.root.display());
        self.start("dfs-mount", "mounted", &[&a], &state_a, "anna", None)?;
        println!("  anna   made a new volume, mounted on {}", a.display());
        let writer = invite(&state_a, "writer")?;
        self.start(
            "dfs-mount",
            "mounted",
            &[&b],
            &state_b,
            "ben",
            Some(&writer),
        )?;
        println!("  ben    joined with an invite, mounted on {}", b.display());
        let storage = invite(&state_a, "storage")?;
        self.start(
            "dfs",
            "ready",
            &[Path::new("node")],
            &state_c,
            "carl",
            Some(&storage),
        )?;
        println!("  carl   joined as a storage peer: it holds bytes that it cannot read");

        std::fs::create_dir_all(a.join("photos")).map_err(|e| e.to_string())?;
        let letter = "Nobody but the members of this volume can read this.\n";
        std::fs::write(a.join("letter.txt"), letter).map_err(|e| e.to_string())?;
        let picture: Vec<u8> = (0..3u32 << 20)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        std::fs::write(a.join("photos/picture.raw"), &picture).map_err(|e| e.to_string())?;
        println!("\nWrote letter.txt and photos/picture.raw (3 MiB) into anna's mount.");
        wait_for("the files in ben's mount", || {
            std::fs::read_to_string(b.join("letter.txt")).is_ok_and(|text| text == letter)
                && std::fs::read(b.join("photos/picture.raw")).is_ok_and(|bytes| bytes == picture)
        })?;
        println!("Ben's mount shows both, byte for byte.");
        ask(
            &state_a,
            &Request::Sync { timeout_s: 60 },
            UP_MAX * 2,
            |_| {},
        )
        .map_err(|e| e.to_string())?;
        println!("Everything is on all three peers now: any two may go and nothing is lost.\n");
        let dfs = program("dfs")?;
        let dfs = dfs.display();
        println!("Try, in another terminal:");
        println!("  ls -lR {}", b.display());
        println!("  cp -a /usr/share/common-licenses {}", a.display());
        println!("  {dfs} status {}", a.display());
        println!("  {dfs} status {}", a.join("photos/picture.raw").display());
        println!("  {dfs} peers --state {}", state_b.display());
        println!("  {dfs} sync {}", a.display());
        println!(
            "  grep -r 'Nobody but' {}    # finds nothing",
            state_c.display()
        );
        Ok(())
    }

    fn start(
        &mut self,
        name: &str,
        ready: &str,
        arguments: &[&Path],
        state: &Path,
        peer: &str,
        invite: Option<&InviteReport>,
    ) -> Result<(), String> {
        let mut command = Command::new(program(name)?);
        command
            .args(arguments)
            .arg("--state")
            .arg(state)
            .args(["--name", peer]);
        command.args(["--listen", "127.0.0.1:0", "--capacity", "1G"]);
        if name == "dfs-mount" {
            command.arg("-f");
            command.args(invite.is_none().then_some("--new"));
        }
        if let Some(invite) = invite {
            let address = invite
                .addresses
                .first()
                .ok_or("the first peer has no address")?;
            command.args(["--peer", address, "--invite", &invite.token]);
        }
        // A process group of its own: Ctrl-C reaches the demo alone, which then ends them in order.
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|e| format!("cannot start {name}: {e}"))?;
        let stdout = child.stdout.take();
        self.peers.push(child);
        let mut line = String::new();
        if let Some(stdout) = stdout {
            // Ends at the latest when the child does, and that has time-outs of its own.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        if line.starts_with(ready) {
            Ok(())
        } else {
            Err(format!("{peer} did not come up"))
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // The last one first: the volume's founder is there while the others say goodbye.
        for peer in self.peers.iter_mut().rev() {
            let asked = i32::try_from(peer.id())
                .ok()
                .and_then(rustix::process::Pid::from_raw)
                .is_some_and(|pid| {
                    rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok()
                });
            let ended = asked && poll(DOWN_MAX, || matches!(peer.try_wait(), Ok(Some(_)) | Err(_)));
            if !ended {
                let _ = peer.kill();
                let _ = peer.wait();
            }
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn invite(state: &Path, role: &str) -> Result<InviteReport, String> {
    let request = Request::Invite {
        role: role.to_owned(),
        expires_s: 600,
    };
    let value = ask(state, &request, UP_MAX, |_| {}).map_err(|e| e.to_string())?;
    serde_json::from_value(value).map_err(|e| e.to_string())
}

/// Returns the path of one of the two programs, which are installed side by side.
fn program(name: &str) -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|e| format!("cannot find myself: {e}"))?;
    let program = this.with_file_name(name);
    if program.exists() {
        Ok(program)
    } else {
        Err(format!("{} is missing", program.display()))
    }
}

fn wait_for(what: &str, done: impl FnMut() -> bool) -> Result<(), String> {
    if poll(UP_MAX, done) {
        Ok(())
    } else {
        Err(show::waited(what, UP_MAX))
    }
}

/// Looks every 50 ms until `done` or the deadline.
fn poll(max: Duration, mut done: impl FnMut() -> bool) -> bool {
    let clock = SystemClock::new();
    loop {
        if done() {
            return true;
        }
        if clock.monotonic() > max {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
