//! Programs run to their end, each with a deadline and its output kept.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::wait::spawn;

/// A program to run; killed when its time is up.
#[derive(Debug)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    folder: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
    limit: Duration,
}

impl Command {
    /// Returns a command without arguments and a limit of a minute.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            folder: None,
            env: Vec::new(),
            limit: Duration::from_secs(60),
        }
    }

    /// Returns a shell script that tells what it does and stops at its first failure.
    pub fn shell(script: &str) -> Self {
        Self::new("sh").args(["-euxc", script])
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Runs it in a folder.
    #[must_use]
    pub fn folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = Some(folder.as_ref().to_owned());
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.into(), value.as_ref().to_owned()));
        self
    }

    /// Sets how long it may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it and returns how it ended.
    ///
    /// # Panics
    ///
    /// When it cannot be started, or did not end in time.
    pub fn run(&self) -> Finished {
        let text = self.text();
        let mut command = std::process::Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
        let pid = pid_of(&child);
        let stdout = read_all(child.stdout.take());
        let stderr = read_all(child.stderr.take());
        let (sender, ended) = mpsc::channel();
        spawn(move || sender.send(child.wait()));
        let status = match ended.recv_timeout(self.limit) {
            Ok(status) => status.expect("a child that was started can be waited for"),
            Err(_) => {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let limit = self.limit;
                let said = [stdout.take(), stderr.take()].concat();
                let said = String::from_utf8_lossy(&said);
                panic!("{text} did not end within {limit:?}\n{said}");
            }
        };
        Finished {
            text,
            status,
            stdout: stdout.take(),
            stderr: stderr.take(),
        }
    }

    /// Runs it and returns its output.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn ok(&self) -> String {
        let finished = self.run();
        assert!(finished.status.success(), "{finished}");
        finished.stdout_text()
    }

    fn text(&self) -> String {
        std::iter::once(&self.program)
            .chain(&self.args)
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Finished {
    text: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Returns the standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns the standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {}\n{}{}",
            self.text,
            self.status,
            self.stdout_text(),
            self.stderr_text()
        )
    }
}

pub(crate) fn pid_of(child: &Child) -> Pid {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a child has a pid above 0")
}

/// What comes out of a pipe, read in the background.
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: mpsc::Receiver<()>,
}

impl Output {
    /// Returns what came until the pipe ended. It ends with the program, unless that left another
    /// behind with it: then, what came so far.
    fn take(self) -> Vec<u8> {
        let _ = self.ended.recv_timeout(PIPE_WAIT);
        let mut bytes = self
            .bytes
            .lock()
            .expect("who reads the pipe does not panic");
        std::mem::take(&mut *bytes)
    }
}

fn read_all(mut pipe: Option<impl Read + Send + 'static>) -> Output {
    let (sender, ended) = mpsc::channel();
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&bytes);
    spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Some(pipe) = &mut pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => into
                    .lock()
                    .expect("who takes it does not panic")
                    .extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let _ = sender.send(());
    });
    Output { bytes, ended }
}

/// How long the end of a pipe is waited for when the program has ended.
const PIPE_WAIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_said_is_kept_where_it_leaves_another_with_its_output() {
        let done = Command::new("sh")
            .args(["-c", "echo said; sleep 60 & echo $! >&2; exit 3"])
            .run();
        let left = done.stderr_text();
        Command::new("kill").arg(left.trim()).ok();
        assert_eq!(done.status.code(), Some(3));
        assert_eq!(done.stdout_text(), "said\n");
    }

    #[test]
    #[should_panic(expected = "began\n")]
    fn what_a_program_said_is_told_where_its_time_is_up() {
        Command::new("sh")
            .args(["-c", "echo began; exec sleep 30"])
            .limit(Duration::from_millis(200))
            .run();
    }
}
