//! Starting a daemon: in the foreground, or in the background with a wait until it is up.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::args::{MountArgs, PeerArgs};
use super::detach;
use super::exit::{Exit, complain};
use super::mount_options;
use super::secret::{self, Secret};
use super::show_asking;
use crate::daemon::control::FailKind;
use crate::daemon::report::AskReport;
use crate::daemon::{self, Config, DaemonError, Fsync, MountCall, Started, Starter};

/// Set in the environment of the background process; its stdout is then a pipe to the starter.
const BACKGROUND: &str = "DFS_BACKGROUND";

/// Its value where no person waits for the starter.
const UNATTENDED: &str = "unattended";

/// What a person is asked for who passes `--invite -` at a terminal.
const TOKEN: &str = "token";

/// What a person is asked for who passes `--recovery -` at a terminal.
const PHRASE: &str = "recovery phrase";

/// What the background process tells its starter, one JSON line.
#[derive(Debug, Serialize, Deserialize)]
enum Launch {
    /// More follows.
    Asks {
        report: AskReport,
    },
    Up {
        told: String,
    },
    Failed {
        kind: FailKind,
        message: String,
    },
}

pub(super) fn mount(mut args: MountArgs) -> Exit {
    if let Some((Secret::Text(secret), _)) = secret_of(&args.peer)
        && !secret.is_empty()
    {
        return not_hidden("dfs-mount", &secret::hide("dfs-mount", secret));
    }
    let background = std::env::var_os(BACKGROUND);
    // The background process has another number than the one that systemd started.
    let unattended = match &background {
        Some(starter) => starter == UNATTENDED,
        None => args.mountpoint.len() > 1 || is_service(),
    };
    let background = background.is_some();
    if let Err(message) = mount_options::take(&mut args) {
        complain("dfs-mount", &message);
        return Exit::Usage;
    }
    let Some(mountpoint) = args.mountpoint.last().map(|path| absolute(path)) else {
        return Exit::Usage;
    };
    if !background {
        // One that was told to end may still have its mount.
        let ended = await_end(&args.peer, Some(&mountpoint), "dfs-mount");
        // What is wrong with the machine is told before a process is started on it.
        match daemon::check_mount(&mountpoint, &args.options) {
            Ok(MountCall::Remounted) => return Exit::Done,
            Ok(MountCall::Start) => {}
            Err(error) => return finish("dfs-mount", false, Err(error)),
        }
        if ended.is_err() {
            return finish("dfs-mount", false, ended);
        }
        if !args.foreground {
            return start_in_background(&args.peer, unattended);
        }
    }
    let fsync = args.fsync.map(Fsync::from);
    let told = |started: &Started| {
        let line = format!("mounted {}", mountpoint.display());
        if background {
            tell(&Launch::Up {
                told: introduction(started),
            });
            detach::hush();
        } else {
            say(&line);
        }
    };
    detach::restrict();
    let result = config(args.peer, Some(&mountpoint), fsync, !background)
        .map(|config| Config {
            new_volume: args.new,
            unattended,
            ..config
        })
        .and_then(|config| {
            if background {
                // Behind the reading of secrets, which may come by a descriptor.
                detach::begin();
            }
            detach::leave();
            let starter = Waiting { background };
            daemon::run_mount(config, &mountpoint, &args.options, &starter, told)
        });
    finish("dfs-mount", background, result)
}

pub(super) fn node(args: PeerArgs) -> Exit {
    if let Some((Secret::Text(secret), _)) = secret_of(&args)
        && !secret.is_empty()
    {
        return not_hidden("dfs", &secret::hide("dfs", secret));
    }
    if let Err(error) = await_end(&args, None, "dfs") {
        return finish("dfs", false, Err(error));
    }
    detach::restrict();
    let told = |_: &Started| say("ready");
    let result = config(args, None, None, true).and_then(|config| {
        detach::leave();
        let starter = Waiting { background: false };
        daemon::run_node(config, &starter, told)
    });
    finish("dfs", false, result)
}

/// Waits for a daemon that is ending where this one is to start.
fn await_end(args: &PeerArgs, mountpoint: Option<&Path>, program: &str) -> Result<(), DaemonError> {
    daemon::await_end(&state_of(args, mountpoint)?, |pid| {
        complain(program, &format!("waiting for process {pid} to finish"));
    })
}

fn state_of(args: &PeerArgs, mountpoint: Option<&Path>) -> Result<PathBuf, DaemonError> {
    match &args.state {
        Some(state) => Ok(absolute(state)),
        None => daemon::default_state_dir(mountpoint).ok_or(DaemonError::NoHome),
    }
}

fn finish(program: &str, background: bool, result: Result<(), DaemonError>) -> Exit {
    let Err(error) = result else {
        return Exit::Done;
    };
    let kind = error.kind();
    if background {
        tell(&Launch::Failed {
            kind,
            message: error.to_string(),
        });
    } else {
        complain(program, &error.to_string());
    }
    kind.into()
}

/// Returns the secret of a first start, and what it is called: one at most.
fn secret_of(args: &PeerArgs) -> Option<(&Secret, &'static str)> {
    let invite = args.invite.as_ref().map(|secret| (secret, TOKEN));
    let phrase = args.recovery.as_ref().map(|secret| (secret, PHRASE));
    invite.or(phrase)
}

fn not_hidden(program: &str, error: &std::io::Error) -> Exit {
    let needs = "it needs to run this program again";
    complain(
        program,
        &format!("cannot hide the secret: {error}; {needs}"),
    );
    Exit::Failed
}

/// Starts this same command again, detached, and waits for its word.
fn start_in_background(peer: &PeerArgs, unattended: bool) -> Exit {
    // Read here, where a person may be asked for it.
    let secret = match secret_of(peer) {
        Some((Secret::Stdin, what)) => match Secret::Stdin.read(what) {
            Ok(text) => Some(text),
            Err(message) => {
                complain("dfs-mount", &message);
                return Exit::Usage;
            }
        },
        _ => None,
    };
    let started = std::env::current_exe().and_then(|program| {
        let stdin = match &secret {
            Some(secret) => secret::piped(secret)?,
            None => Stdio::null(),
        };
        Command::new(program)
            .arg0("dfs-mount")
            .args(std::env::args_os().skip(1))
            .env(BACKGROUND, if unattended { UNATTENDED } else { "1" })
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
    });
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            let needs = "it needs to run this program again, and /dev/null";
            complain(
                "dfs-mount",
                &format!("cannot start the daemon: {error}; {needs}"),
            );
            return Exit::Failed;
        }
    };
    let mut lines = child.stdout.take().map(BufReader::new);
    let mut next = || {
        let mut line = String::new();
        if let Some(lines) = &mut lines {
            let _ = lines.read_line(&mut line);
        }
        serde_json::from_str(&line)
    };
    let mut word = next();
    while let Ok(Launch::Asks { report }) = &word {
        say(&show_asking::asks(report));
        word = next();
    }
    match word {
        Ok(Launch::Up { told }) => {
            say(told.trim_end());
            Exit::Done
        }
        Ok(Launch::Failed { kind, message }) => {
            complain("dfs-mount", &message);
            kind.into()
        }
        Ok(Launch::Asks { .. }) | Err(_) => {
            let ended = child
                .wait()
                .map_or_else(|e| e.to_string(), |status| status.to_string());
            complain(
                "dfs-mount",
                &format!("the daemon ended before the mount was up ({ended})"),
            );
            Exit::Failed
        }
    }
}

/// Who waits for this process to be up: a person at a terminal, or a process that shows him what it
/// is told.
struct Waiting {
    background: bool,
}

impl Starter for Waiting {
    fn asks(&self, report: &AskReport) {
        if self.background {
            tell(&Launch::Asks {
                report: report.clone(),
            });
        } else {
            say(&show_asking::asks(report));
        }
    }

    /// A starter that was interrupted does not read from its end of the pipe any more.
    fn is_there(&self) -> bool {
        let out = std::io::stdout();
        let mut pipe = [PollFd::new(&out, PollFlags::empty())];
        let polled = poll(&mut pipe, Some(&Timespec::default()));
        let [pipe] = &pipe;
        let is_closed = pipe.revents().intersects(PollFlags::ERR | PollFlags::HUP);
        !self.background || polled.is_err() || !is_closed
    }
}

fn introduction(started: &Started) -> String {
    let mountpoint = started
        .mountpoint
        .as_deref()
        .unwrap_or_else(|| Path::new(""))
        .display();
    let state = started.state.display();
    let listen = started.listen;
    if let Some(rescued) = &started.rescued {
        format!(
            "mounted what is left of {state} read-only on {mountpoint}: {rescued}\ncopy out what \
             you need; nothing in {state} is changed"
        )
    } else if started.new_volume {
        format!(
            "new volume {} mounted on {mountpoint}\nstate is in {state}; listening on {listen}\n\
             invite another machine with: dfs invite --state {state}",
            started.volume
        )
    } else if started.joined {
        format!(
            "joined volume {} and mounted it on {mountpoint}\nstate is in {state}; listening on \
             {listen}",
            started.volume
        )
    } else {
        format!("mounted {mountpoint}")
    }
}

fn config(
    args: PeerArgs,
    mountpoint: Option<&Path>,
    fsync: Option<Fsync>,
    log_to_stderr: bool,
) -> Result<Config, DaemonError> {
    let invite = args.invite.as_ref().map(|secret| secret.read(TOKEN));
    let invite = invite.transpose();
    let invite = invite.map_err(|what| DaemonError::BadRequest { what })?;
    let recovery = args.recovery.as_ref().map(|secret| secret.read(PHRASE));
    let recovery = recovery.transpose();
    let recovery = recovery.map_err(|what| DaemonError::BadRequest { what })?;
    let state = state_of(&args, mountpoint)?;
    Ok(Config {
        state,
        peers: args.peers,
        invite: invite.map(|text| secret::last_line(&text)),
        recovery: recovery.map(|text| secret::phrase(&text)),
        new_volume: false,
        unattended: is_service(),
        listen: args.listen,
        name: args.name,
        capacity_bytes: args.capacity,
        cache_bytes: args.cache,
        fsync,
        verbose: args.verbose,
        log_to_stderr: log_to_stderr && args.verbose > 0,
    })
}

/// Returns whether this process is the one that a unit of systemd names (systemd.exec(5)); what a
/// person runs in a session has another number.
fn is_service() -> bool {
    std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn tell(launch: &Launch) {
    if let Ok(line) = serde_json::to_string(launch) {
        say(&line);
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
