//! Who asked: whether the thread behind a request is being killed while it waits for the answer.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Tells whose answers nobody waits for any more, from `/proc`.
#[derive(Debug, Clone)]
pub(super) struct Callers {
    proc: PathBuf,
}

impl Callers {
    /// Returns the look into `/proc`; `None` where that is not mounted, or shows other numbers than
    /// those that the kernel sends with the requests: those of this process's namespace.
    pub(super) fn of_this_machine() -> Option<Self> {
        let proc = PathBuf::from("/proc");
        let shown = fs::read_link(proc.join("self")).ok()?;
        let own = std::process::id().to_string();
        (shown.as_os_str() == own.as_str()).then_some(Self { proc })
    }

    #[cfg(test)]
    fn at(proc: &std::path::Path) -> Self {
        let proc = proc.to_owned();
        Self { proc }
    }

    /// Returns the caller that a request names, whom the request may outlive: one that reads ahead
    /// needs no thread that waits for it.
    pub(super) fn with_process(&self, tid: u32) -> Option<Caller> {
        let process = self.thread(tid).and_then(|thread| thread.process);
        Caller::of(tid).map(|caller| Caller { process, ..caller })
    }

    /// Takes a look at a caller and returns whether it is being killed, or gone with its process.
    ///
    /// What cannot be read tells nothing: such a caller waits for its answer.
    pub(super) fn is_doomed(&self, caller: &mut Caller) -> bool {
        let Some(thread) = self.thread(caller.tid) else {
            return caller.process.is_some_and(|pid| self.is_gone(pid));
        };
        caller.process = thread.process.or(caller.process);
        // A thread passes through its exit in no time, unless it waits there for a request that it
        // left behind, as for asynchronous direct reads.
        let is_stuck_in_exit = thread.is_exiting && caller.was_exiting;
        caller.was_exiting = thread.is_exiting;
        // A signal for the process may be another thread's, who takes it in no time.
        let is_interrupted = caller.heeds_signals && thread.is_signalled && caller.was_signalled;
        caller.was_signalled = thread.is_signalled;
        thread.is_killed || is_stuck_in_exit || is_interrupted
    }

    fn thread(&self, tid: u32) -> Option<Thread> {
        let folder = self.proc.join(tid.to_string());
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let signals = |name| u64::from_str_radix(field(&status, name)?, 16).ok();
        let pending: u64 = ["SigPnd:", "ShdPnd:"]
            .into_iter()
            .filter_map(signals)
            .fold(0, |all, some| all | some);
        Some(Thread {
            process: field(&status, "Tgid:").and_then(|text| text.parse().ok()),
            is_killed: pending & SIGKILL_BIT != 0,
            is_signalled: pending & !signals("SigBlk:").unwrap_or(u64::MAX) != 0,
            is_exiting: stat_field(&stat, STAT_FLAGS)
                .is_some_and(|flags: u64| flags & PF_EXITING != 0),
        })
    }

    /// Returns whether a process has ended, to the last of its threads.
    fn is_gone(&self, pid: u32) -> bool {
        match fs::read_to_string(self.proc.join(pid.to_string()).join("stat")) {
            // Nobody has waited for it yet.
            Ok(stat) => {
                let state: Option<char> = stat_field(&stat, STAT_STATE);
                let threads: Option<u64> = stat_field(&stat, STAT_THREADS);
                state == Some('Z') && threads <= Some(1)
            }
            // Where /proc hides the processes of others, this says nothing; `kill` knows.
            Err(error) => error.kind() == ErrorKind::NotFound && !exists(pid),
        }
    }
}

/// The thread that sent a request, and what the looks at it have shown so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    tid: u32,
    /// The process that it belongs to, where that is known.
    process: Option<u32>,
    was_exiting: bool,
    was_signalled: bool,
    /// Any signal that it does not hold back ends its wait.
    heeds_signals: bool,
}

impl Caller {
    /// Returns the caller that a request names; `None` where it lives in a namespace of which this
    /// process sees nothing, or is the kernel.
    pub(super) fn of(tid: u32) -> Option<Self> {
        (tid != 0).then_some(Self {
            tid,
            process: None,
            was_exiting: false,
            was_signalled: false,
            heeds_signals: false,
        })
    }

    /// Returns the same, of whom any signal ends the wait.
    pub(super) fn heeding_signals(self) -> Self {
        Self {
            heeds_signals: true,
            ..self
        }
    }
}

struct Thread {
    process: Option<u32>,
    is_killed: bool,
    is_signalled: bool,
    is_exiting: bool,
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim())
}

/// Returns a field of `stat`, counted from the one behind the name, which may hold anything.
fn stat_field<T: std::str::FromStr>(stat: &str, index: usize) -> Option<T> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(index)?.parse().ok()
}

fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// A kill by any signal whose default ends the process without a dump: the kernel turns it into
/// SIGKILL for each thread. No other signal ends a wait here but that for a lock: programs do not expect
/// EINTR of what else they do with regular files.
const SIGKILL_BIT: u64 = 1 << (libc::SIGKILL - 1);

/// The thread is on its way out (include/linux/sched.h).
const PF_EXITING: u64 = 0x4;

/// Places in `stat` behind the name (proc_pid_stat(5), fields 3, 9 and 20).
const STAT_STATE: usize = 0;
const STAT_FLAGS: usize = 6;
const STAT_THREADS: usize = 17;

#[cfg(test)]
mod tests {
    use super::*;

    /// A /proc with one thread.
    struct Proc(tempfile::TempDir);

    impl Proc {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn show(&self, tid: u32, pending: u64, flags: u64, state: char) {
            let folder = self.0.path().join(tid.to_string());
            fs::create_dir_all(&folder).unwrap();
            let status = format!("Name:\tx\nTgid:\t{tid}\nSigPnd:\t{pending:016x}\nShdPnd:\t0\n");
            fs::write(folder.join("status"), status).unwrap();
            let stat =
                format!("{tid} (a) Z (b) {state} 1 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0");
            fs::write(folder.join("stat"), stat).unwrap();
        }

        fn callers(&self) -> Callers {
            Callers::at(self.0.path())
        }
    }

    #[test]
    fn only_a_kill_dooms_a_caller() {
        let proc = Proc::new();
        let mut caller = Caller::of(77).unwrap();
        proc.show(77, 0, 0, 'D');
        assert!(!proc.callers().is_doomed(&mut caller));
        proc.show(77, 1 << (libc::SIGUSR1 - 1), 0, 'D');
        assert!(!proc.callers().is_doomed(&mut caller));
        proc.show(77, SIGKILL_BIT | 1, 0, 'D');
        assert!(proc.callers().is_doomed(&mut caller));
    }

    #[test]
    fn who_hangs_in_its_exit_is_doomed_at_the_second_look() {
        let proc = Proc::new();
        let mut caller = Caller::of(77).unwrap();
        proc.show(77, 0, PF_EXITING, 'D');
        assert!(!proc.callers().is_doomed(&mut caller));
        assert!(proc.callers().is_doomed(&mut caller));
    }

    #[test]
    fn a_thread_that_ended_is_outlived_by_its_request_until_its_process_ends() {
        let own = std::process::id();
        let callers = Callers::of_this_machine().unwrap();
        let mut caller = Caller::of(own).unwrap();
        assert!(!callers.is_doomed(&mut caller));
        assert_eq!(caller.process, Some(own));
        // A number beyond the largest that the kernel gives.
        let mut ended = Caller {
            tid: 1 << 23,
            ..caller
        };
        assert!(!callers.is_doomed(&mut ended));
        ended.process = Some(1 << 23);
        assert!(callers.is_doomed(&mut ended));
        let mut unknown = Caller::of(1 << 23).unwrap();
        assert!(
            !callers.is_doomed(&mut unknown),
            "never seen: may be hidden"
        );
        assert!(Caller::of(0).is_none());
    }

    #[test]
    fn a_process_that_nobody_waited_for_is_gone() {
        let proc = Proc::new();
        let callers = proc.callers();
        let mut caller = Caller::of(77).unwrap();
        caller.process = Some(78);
        proc.show(78, 0, 0, 'Z');
        assert!(callers.is_doomed(&mut caller));
        proc.show(78, 0, 0, 'S');
        assert!(!callers.is_doomed(&mut caller));
    }
}
