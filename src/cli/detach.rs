//! What a daemon gives back of the place where it was started.
//!
//! A folder that is somebody's working directory cannot be unmounted, and a lock lasts as long as
//! anybody has its descriptor: neither may wait for a daemon that runs for months.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;

use rustix::fs::Mode;

/// First descriptor that is not a standard stream.
const FIRST_OWN: u32 = 3;

/// Closes what the starter left open, and begins a session of its own: closing the terminal must not
/// end the mount.
///
/// To be called while this process has nothing open itself.
pub(super) fn begin() {
    if !close_from(FIRST_OWN) {
        close_one_by_one(FIRST_OWN);
    }
    // Fails only for a group leader, which a child of the starter is not.
    let _ = rustix::process::setsid();
}

/// What no setting of the starter may do: open files in the state folder and the socket to others, keep
/// the daemon from hearing that it is to end or that a child of it has, or end it where a file reaches
/// `ulimit -f`, which is then an error as any other.
///
/// To be called before any thread is started: each has the mask of the one that starts it.
#[expect(
    unsafe_code,
    reason = "std neither ignores a signal nor lets it through"
)]
pub(super) fn restrict() {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    // SAFETY: no handler is installed, nothing else of this process asks for these signals, and the set
    // is written before it is read.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Leaves the folder in which the process was started, which may be gone already: the row database asks
/// for it as it opens. Behind all that reads relative paths.
pub(super) fn leave() {
    // The root folder is always there.
    let _ = std::env::set_current_dir("/");
}

/// Lets go of the pipes to the starter, which has heard and said all.
#[expect(unsafe_code, reason = "std has no dup2(2)")]
pub(super) fn hush() {
    let nowhere = OpenOptions::new().read(true).write(true).open("/dev/null");
    if let Ok(nowhere) = nowhere {
        for stream in [libc::STDIN_FILENO, libc::STDOUT_FILENO] {
            // SAFETY: both descriptors are open, and who uses the streams goes on doing so.
            unsafe { libc::dup2(nowhere.as_raw_fd(), stream) };
        }
    }
}

#[expect(unsafe_code, reason = "std cannot close what it did not open")]
fn close_from(first: u32) -> bool {
    // SAFETY: no value of this process owns such a descriptor, as the caller promises.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) == 0 }
}

/// For kernels before 5.9.
#[expect(unsafe_code, reason = "std cannot close what it did not open")]
fn close_one_by_one(first: u32) {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| u32::try_from(*fd).is_ok_and(|fd| fd >= first))
        .collect();
    for fd in open {
        // SAFETY: as above; that of the listing is closed already, and closing it again fails.
        unsafe { libc::close(fd) };
    }
}
