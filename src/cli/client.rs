//! The verbs that ask a running daemon.

use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::args::{
    ApproveArgs, CollectArgs, ConfigArgs, FactArgs, StatusArgs, StopArgs, SyncArgs, TargetArgs,
    Verb,
};
use super::exit::{Exit, complain};
use super::{conflicts, history, members, settings, show, show_asking, snapshot};
use crate::daemon::control::{self, ControlError, FailKind, Request};
use crate::daemon::report::SyncReport;
use crate::daemon::{self, dead_mount, default_state_base, locate};

/// How long a daemon may take to answer what needs no waiting.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long a daemon may take to write out what it has.
const STOP_PATIENCE: Duration = Duration::from_secs(600);

/// How long it may take to tell what it knows without looking anything up.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// The part of `sync` that is not the daemon's own time-out.
const SYNC_GRACE: Duration = Duration::from_secs(15);

pub(super) fn run(verb: Verb) -> Exit {
    let done = match verb {
        Verb::Status(args) => status(&args),
        Verb::Peers(args) => fact(&args.fact, &Request::Peers, |value| {
            show::peers(value, args.verbose)
        }),
        Verb::Invite(args) => members::invite(args),
        Verb::Members(args) => members::members(args),
        Verb::Rename(args) => members::rename(args),
        Verb::Leave(args) => members::leave(&args),
        Verb::Recovery(args) => members::recovery(&args),
        Verb::Approve(args) => approve(&args),
        Verb::Stop(args) => stop(&args),
        Verb::Config(args) => config(&args),
        Verb::Conflicts(args) => conflicts::list(&args),
        Verb::Resolve(args) => conflicts::resolve(&args),
        Verb::History(args) => history::list(&args),
        Verb::Restore(args) => history::restore(&args),
        Verb::Snapshot(args) => snapshot::run(&args),
        Verb::Sync(args) => sync(&args),
        Verb::Gc(args) => collect(&args),
        Verb::Log(args) => log(&args.fact, args.lines),
        Verb::Node(_) | Verb::Demo(_) | Verb::Repair(_) | Verb::Man { .. } => Ok(()),
    };
    match done {
        Ok(()) => Exit::Done,
        Err(Failure { exit, message }) => {
            complain("dfs", &message);
            exit
        }
    }
}

/// One line and an exit code.
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) message: String,
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let exit = match &error {
            ControlError::NoDaemon { .. } => Exit::NoDaemon,
            ControlError::NotAllowed { .. } => Exit::NotAllowed,
            ControlError::Refused { kind, .. } => (*kind).into(),
            ControlError::Silent { .. } => Exit::TimedOut,
            ControlError::Broken { .. } => Exit::Failed,
        };
        Self {
            exit,
            message: error.to_string(),
        }
    }
}

fn status(args: &StatusArgs) -> Result<(), Failure> {
    let (state, inside) = pick(&args.target, args.path.as_deref())?;
    // The mountpoint itself stands for the volume.
    let inside = inside.filter(|path| !path.as_os_str().is_empty());
    if args.workers {
        if inside.is_some() {
            return Err(Failure {
                exit: Exit::Usage,
                message: "--workers is about the daemon: name the mountpoint, no file in it"
                    .to_owned(),
            });
        }
        let workers = control::ask(&state, &Request::Workers, STATUS_PATIENCE, |_| {})?;
        return output(args.json, &workers, show::workers);
    }
    let path = inside
        .as_ref()
        .map(|path| show::hex(path.as_os_str().as_bytes()));
    // A file's holders are asked, which takes a while; of the volume all is known.
    let patience = if path.is_some() {
        PATIENCE
    } else {
        STATUS_PATIENCE
    };
    let live = std::io::stderr().is_terminal() && !args.json;
    let mut drawn = false;
    let answer = control::ask(&state, &Request::Status { path }, patience, |value| {
        if live && let Some(line) = show::folder_line(value) {
            eprint!("\r\x1b[K{line}");
            drawn = true;
        }
    });
    if drawn {
        eprint!("\r\x1b[K");
    }
    let mut value = answer?;
    match (inside, &args.path) {
        (Some(_), Some(asked)) => {
            if let Some(field) = value.get_mut("path") {
                *field = Value::String(asked.to_string_lossy().into_owned());
            }
            output(args.json, &value, |value| {
                show::folder(value).or_else(|| show::file(value))
            })
        }
        _ => output(args.json, &value, show::status),
    }
}

pub(super) fn fact(
    args: &FactArgs,
    request: &Request,
    show: impl Fn(&Value) -> Option<String>,
) -> Result<(), Failure> {
    let (state, _) = pick(&args.target, args.path.as_deref())?;
    let value = control::ask(&state, request, PATIENCE, |_| {})?;
    output(args.json, &value, show)
}

fn stop(args: &StopArgs) -> Result<(), Failure> {
    let (state, _) = pick(&args.fact.target, args.fact.path.as_deref())?;
    let value = end(&state, args.force)?;
    output(args.fact.json, &value, |_| Some("stopped".to_owned()))
}

/// Ends the peer of a state folder, and returns when it has ended.
pub(super) fn end(state: &Path, force: bool) -> Result<Value, Failure> {
    // This very command must not keep the mount busy.
    let state = std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
    let _ = std::env::set_current_dir("/");
    let request = Request::Stop { force };
    Ok(
        match control::ask(&state, &request, STOP_PATIENCE, |_| {}) {
            Ok(value) => {
                if let Some(pid) = value["pid"].as_u64().and_then(|pid| pid.try_into().ok()) {
                    daemon::await_exit(pid);
                }
                value
            }
            // On its way out already.
            Err(ControlError::NoDaemon { .. } | ControlError::Broken { .. })
                if daemon::is_held(&state) =>
            {
                daemon::await_end(&state, |pid| {
                    complain("dfs", &format!("waiting for process {pid} to finish"));
                })
                .map_err(|error| Failure {
                    exit: Exit::from(error.kind()),
                    message: error.to_string(),
                })?;
                serde_json::json!({ "ended": true })
            }
            Err(error) => return Err(error.into()),
        },
    )
}

fn config(args: &ConfigArgs) -> Result<(), Failure> {
    let request = settings::request(args).map_err(|message| Failure {
        exit: Exit::Usage,
        message,
    })?;
    let (state, _) = pick(&args.target, None)?;
    let value = control::ask(&state, &request, PATIENCE, |_| {})?;
    output(args.json, &value, |value| settings::show(value, args.key))
}

fn approve(args: &ApproveArgs) -> Result<(), Failure> {
    let (state, _) = pick(&args.target, None)?;
    let ask = |request: &Request| control::ask(&state, request, PATIENCE, |_| {});
    match &args.code {
        None => output(args.json, &ask(&Request::Askings)?, show_asking::askings),
        Some(code) if args.deny => {
            let code = code.clone();
            output(
                args.json,
                &ask(&Request::Deny { code })?,
                show_asking::denied,
            )
        }
        Some(code) => {
            let request = Request::Approve {
                code: code.clone(),
                role: args.role.as_str().to_owned(),
                name: args.name.clone(),
            };
            output(args.json, &ask(&request)?, show_asking::admitted)
        }
    }
}

fn sync(args: &SyncArgs) -> Result<(), Failure> {
    let (state, _) = pick(&args.fact.target, args.fact.path.as_deref())?;
    let request = Request::Sync {
        timeout_s: args.timeout.as_secs(),
    };
    let live = std::io::stderr().is_terminal() && !args.fact.json;
    let (mut lines, mut whole, mut last) = (0u32, 0, None);
    let answer = control::ask(&state, &request, args.timeout + SYNC_GRACE, |value| {
        if live && let Ok(report) = serde_json::from_value::<SyncReport>(value.clone()) {
            whole = report.pending_bytes.max(whole);
            // Four times a second of the ten that come.
            if lines.is_multiple_of(SYNC_LINES) {
                eprint!("\r\x1b[K{}", show::sync_line(&report, whole));
            }
            lines += 1;
        }
        last = Some(value.clone());
    });
    if lines > 0 {
        eprint!("\r\x1b[K");
    }
    match (answer, last) {
        (Ok(value), _) => output(args.fact.json, &value, show::synced),
        (Err(error), last) => {
            // Scripts read how far it came.
            if let Some(last) = last.filter(|_| args.fact.json) {
                print_line(&last.to_string());
            }
            Err(error.into())
        }
    }
}

/// Has the peers give up what nothing needs, and tells what that freed here.
fn collect(args: &CollectArgs) -> Result<(), Failure> {
    let (state, _) = pick(&args.fact.target, args.fact.path.as_deref())?;
    let request = Request::Collect {
        limit_s: args.timeout.as_secs(),
    };
    let live = std::io::stderr().is_terminal() && !args.fact.json;
    let answer = control::ask(&state, &request, SYNC_GRACE, |value| {
        if live && let Some(line) = show::collecting(value) {
            eprint!("\r\x1b[K{line}");
        }
    });
    if live {
        eprint!("\r\x1b[K");
    }
    output(args.fact.json, &answer?, show::collected)
}

/// Of so many lines of progress one is shown.
const SYNC_LINES: u32 = 3;

fn log(args: &FactArgs, lines: usize) -> Result<(), Failure> {
    let (state, _) = pick(&args.target, args.path.as_deref())?;
    let path = daemon::log_path(&state);
    let text = std::fs::read(&path).map_err(|error| Failure {
        exit: Exit::Failed,
        message: format!("cannot read the log {}: {error}", path.display()),
    })?;
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let newest = all
        .get(all.len().saturating_sub(lines)..)
        .unwrap_or_default();
    if args.json {
        print_line(&Value::from(newest.to_vec()).to_string());
    } else {
        newest.iter().for_each(|line| print_line(line));
    }
    Ok(())
}

pub(super) fn output(
    json: bool,
    value: &Value,
    show: impl Fn(&Value) -> Option<String>,
) -> Result<(), Failure> {
    if json {
        print_line(&value.to_string());
        return Ok(());
    }
    let text = show(value).ok_or_else(|| Failure {
        exit: Exit::Failed,
        message: "the daemon is of another version: restart it".to_owned(),
    })?;
    print_line(text.trim_end());
    Ok(())
}

/// Prints a line; a reader that has gone (`| head`) is no error.
pub(super) fn print_line(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Returns the state folder that is meant, and the path below the mountpoint where one was given.
pub(super) fn pick(
    target: &TargetArgs,
    path: Option<&Path>,
) -> Result<(PathBuf, Option<PathBuf>), Failure> {
    let located = path.map(|path| (path, locate(path)));
    if let Some((path, found)) = located {
        return match found {
            Ok(Some(found)) => Ok((
                target.state.clone().unwrap_or(found.state),
                Some(found.inside),
            )),
            Ok(None) => Err(Failure {
                exit: Exit::Failed,
                message: format!("{} is not in a dfs mount", path.display()),
            }),
            Err(error) => Err(match dead_mount(path) {
                Some(point) => Failure {
                    exit: Exit::NoDaemon,
                    message: format!(
                        "the daemon of {point} died: run dfs-mount {point} (and --state DIR, where \
                         it was started with that)",
                        point = point.display()
                    ),
                },
                None => Failure {
                    exit: Exit::Failed,
                    message: format!("{}: {}", path.display(), show::io_error(&error)),
                },
            }),
        };
    }
    if let Some(state) = &target.state {
        return Ok((state.clone(), None));
    }
    if let Ok(Some(found)) = locate(Path::new(".")) {
        return Ok((found.state, None));
    }
    let base = default_state_base().unwrap_or_default();
    let mut running: Vec<PathBuf> = std::fs::read_dir(&base)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|state| control::is_running(state))
        .collect();
    running.sort();
    match running.len() {
        1 => Ok((running.remove(0), None)),
        0 => Err(Failure {
            exit: Exit::from(FailKind::NoDaemon),
            message: format!(
                "no dfs daemon is running below {}: start dfs-mount, or name one with --state DIR",
                base.display()
            ),
        }),
        _ => Err(Failure {
            exit: Exit::Usage,
            message: format!(
                "several daemons are running: name one with --state DIR ({})",
                running
                    .iter()
                    .map(|s| s.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }),
    }
}
