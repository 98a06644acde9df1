//! System calls that have no safe wrapper elsewhere, each as narrow as the tests need it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use rustix::process::{Gid, Uid};

use crate::spawn;

/// A mapped file; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes of a file: writes go to the file.
    pub fn shared(file: &File, len: usize) -> rustix::io::Result<Self> {
        Self::new(
            file,
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
        )
    }

    /// Maps the first `len` bytes of a file: writes stay in this process.
    pub fn private(file: &File, len: usize) -> rustix::io::Result<Self> {
        Self::new(
            file,
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }

    /// Maps the first `len` bytes of a file for execution, as a loader does.
    pub fn executable(file: &File, len: usize) -> rustix::io::Result<Self> {
        Self::new(
            file,
            len,
            ProtFlags::READ | ProtFlags::EXEC,
            MapFlags::PRIVATE,
        )
    }

    #[expect(unsafe_code, reason = "mmap(2)")]
    fn new(file: &File, len: usize, prot: ProtFlags, flags: MapFlags) -> rustix::io::Result<Self> {
        // SAFETY: the kernel chooses a free place, so no memory of this process changes.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, file, 0)? };
        let start = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { start, len })
    }

    /// Returns a copy of a range, read by the kernel: EFAULT where a load would be answered with
    /// SIGBUS.
    pub fn read(&self, range: Range<usize>) -> io::Result<Vec<u8>> {
        let mut copy = vec![0; range.len()];
        self.transfer(&range, copy.as_mut_ptr(), libc::process_vm_readv)?;
        Ok(copy)
    }

    /// Writes bytes at `at` by the kernel: EFAULT where a store would be answered with SIGBUS.
    pub fn write(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let range = at..at + bytes.len();
        self.transfer(&range, bytes.as_ptr().cast_mut(), libc::process_vm_writev)
    }

    /// Copies between a range and memory of ours, by one of the two calls that copy between
    /// processes.
    #[expect(unsafe_code, reason = "process_vm_readv(2) and process_vm_writev(2)")]
    fn transfer(&self, range: &Range<usize>, ours: *mut u8, call: TransferCall) -> io::Result<()> {
        assert!(range.end <= self.len, "a range of the mapping");
        let local = libc::iovec {
            iov_base: ours.cast(),
            iov_len: range.len(),
        };
        let remote = libc::iovec {
            iov_base: self.start.as_ptr().wrapping_add(range.start).cast(),
            iov_len: range.len(),
        };
        // SAFETY: `ours` points to as many bytes as the range has, which nobody else uses
        // meanwhile (the writing call only reads them); the range lies within the mapping, of
        // which no reference exists; both lists have one element.
        let done = unsafe { call(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
        match usize::try_from(done) {
            Ok(done) if done == range.len() => Ok(()),
            Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    /// Writes changed pages to the file and returns when they are durable.
    #[expect(unsafe_code, reason = "msync(2)")]
    pub fn sync(&self) -> rustix::io::Result<()> {
        // SAFETY: the range is this mapping.
        unsafe { rustix::mm::msync(self.start.as_ptr().cast(), self.len, MsyncFlags::SYNC) }
    }
}

/// process_vm_readv(2) or process_vm_writev(2).
type TransferCall = unsafe extern "C" fn(
    libc::pid_t,
    *const libc::iovec,
    libc::c_ulong,
    *const libc::iovec,
    libc::c_ulong,
    libc::c_ulong,
) -> libc::ssize_t;

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "munmap(2)")]
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, and no reference into it exists.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Whose locks fcntl(2) sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockOwner {
    /// The process (POSIX record locks).
    Process,
    /// The open file description.
    Description,
}

/// What a record lock is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Many may have it.
    Read,
    /// One may have it.
    Write,
    /// None.
    Unlock,
}

impl LockKind {
    fn raw(self) -> libc::c_short {
        let raw = match self {
            Self::Read => libc::F_RDLCK,
            Self::Write => libc::F_WRLCK,
            Self::Unlock => libc::F_UNLCK,
        };
        raw as libc::c_short
    }

    fn of(raw: libc::c_short) -> Self {
        match i32::from(raw) {
            libc::F_RDLCK => Self::Read,
            libc::F_WRLCK => Self::Write,
            _ => Self::Unlock,
        }
    }
}

/// Sets a record lock without waiting.
pub fn lock(
    file: impl AsFd,
    owner: LockOwner,
    kind: LockKind,
    range: Range<i64>,
) -> io::Result<()> {
    let command = match owner {
        LockOwner::Process => libc::F_SETLK,
        LockOwner::Description => libc::F_OFD_SETLK,
    };
    record_lock(file, command, kind, range).map(drop)
}

/// Returns the lock that keeps one from being set: its kind and range. The end of what has none is
/// `i64::MAX`.
pub fn conflicting_lock(
    file: impl AsFd,
    owner: LockOwner,
    kind: LockKind,
    range: Range<i64>,
) -> io::Result<Option<(LockKind, Range<i64>)>> {
    let command = match owner {
        LockOwner::Process => libc::F_GETLK,
        LockOwner::Description => libc::F_OFD_GETLK,
    };
    let found = record_lock(file, command, kind, range)?;
    let end = match found.l_len {
        0 => i64::MAX,
        len => found.l_start + len,
    };
    Ok(match LockKind::of(found.l_type) {
        LockKind::Unlock => None,
        kind => Some((kind, found.l_start..end)),
    })
}

#[expect(unsafe_code, reason = "fcntl(2) with a lock")]
fn record_lock(
    file: impl AsFd,
    command: i32,
    kind: LockKind,
    range: Range<i64>,
) -> io::Result<libc::flock> {
    let mut lock = libc::flock {
        l_type: kind.raw(),
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: range.start,
        l_len: if range.end == i64::MAX {
            0
        } else {
            range.end - range.start
        },
        // An OFD lock has no process: the kernel asks for 0.
        l_pid: 0,
    };
    // SAFETY: the commands take a pointer to one valid `flock`, which lives through the call.
    let done = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw mut lock) };
    match done {
        0 => Ok(lock),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets a lease (`F_RDLCK`, `F_WRLCK` or `F_UNLCK`).
#[expect(unsafe_code, reason = "fcntl(2) with F_SETLEASE")]
pub fn set_lease(file: impl AsFd, kind: i32) -> io::Result<()> {
    // SAFETY: the command takes a number.
    let done = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_SETLEASE, kind) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What name_to_handle_at(2) says: a name of a file that outlives its path.
#[derive(Clone, PartialEq, Eq)]
#[repr(C)]
pub struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

impl Handle {
    /// Returns the handle of what is at a path.
    #[expect(unsafe_code, reason = "name_to_handle_at(2)")]
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
        let mut handle = Self {
            bytes: 128,
            kind: 0,
            handle: [0; 128],
        };
        let mut mount = 0i32;
        // SAFETY: the structure is laid out as `struct file_handle` with room for 128 bytes, as
        // its first field says; all pointers live through the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                libc::AT_FDCWD,
                path.as_ptr(),
                &raw mut handle,
                &raw mut mount,
                0,
            )
        };
        match done {
            0 => Ok(handle),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Opens what it names for reading, found by any file of the same mount.
    #[expect(unsafe_code, reason = "open_by_handle_at(2)")]
    pub fn open(&self, mount: &File) -> io::Result<File> {
        // SAFETY: the structure is a `struct file_handle` that `of` filled in.
        let done = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                std::ptr::from_ref(self),
                libc::O_RDONLY,
            )
        };
        match i32::try_from(done) {
            // SAFETY: the call returned a new descriptor, which nobody else owns.
            Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Runs `body` on a thread of another user, with its groups alone, its own working directory and
/// its own umask; returns the result.
///
/// # Panics
///
/// When the body does.
pub fn as_user<T: Send + 'static>(
    uid: u32,
    groups: &[u32],
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    on_own_thread(move || {
        let (uid, gid) = (Uid::from_raw(uid), groups[0]);
        rustix::thread::set_thread_groups(&groups).expect("root may set groups");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("root may set groups");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root may become anybody");
        body()
    })
}

/// Runs `body` on a thread with its own working directory and its own umask; returns the result.
///
/// # Panics
///
/// When the body does.
pub fn on_own_thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = spawn(move || {
        #[expect(unsafe_code, reason = "unshare(2)")]
        // SAFETY: what is no longer shared is the working directory, the root and the umask.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }
            .expect("a thread may have its own working directory");
        body()
    });
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
