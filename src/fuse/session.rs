//! The life of a mount: made, served by its threads, gone by our will or the user's.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::FuseError;
use super::crew::Crew;
use super::mount::{Prepared, device_of, raise_readahead};
use super::mountpoint::{abort, detach, unmount};
use super::notify::{Gate, Invalidator, Told};
use super::numbers::Numbers;
use super::pace::Pace;
use super::past;
use super::prune::{Device, Pruner};
use super::skin::Skin;
use super::waiting::Waiting;
use crate::base::memory::Budget;
use crate::base::task::{self, Pool};
use crate::base::time::{sleep, timeout};
use crate::fs::Fs;

/// Mounts `fs`; it is served when this returns.
///
/// `runtime` is where reads wait for peers. The mount lasts until [`Mounted::close`], until the
/// value is dropped, or until the user unmounts.
pub fn mount(prepared: &Prepared, fs: Arc<Fs>, runtime: Handle) -> Result<Mounted, FuseError> {
    let threads = prepared.options.thread_count();
    let disk = Pool::threads("fuse-disk", DISK_THREADS, DISK_QUEUE_MAX).map_err(failed_thread)?;
    let past = Pool::threads("fuse-past", past::THREADS, past::QUEUE_MAX).map_err(failed_thread)?;
    let gate = Gate::default();
    let waiting = Waiting::start().map_err(failed_thread)?;
    let numbers = match prepared.options.ino64 {
        true => Numbers::default(),
        false => Numbers::short(Arc::clone(&fs)),
    };
    fs.locks().set_strict(prepared.options.strict_locks);
    let connection = prepared.connect()?;
    // From here on an error must not leave the mount behind.
    let mut mounted = Mounted {
        mountpoint: prepared.mountpoint.clone(),
        device: device_of(&prepared.mountpoint),
        fs: Arc::clone(&fs),
        connection: connection.try_clone().map_err(failed_thread)?,
        invalidator: None,
        pruner: None,
        ended: watch::channel(None).1,
    };
    let pace = Arc::new(Pace::new(connection.try_clone().map_err(failed_thread)?));
    let asked = Arc::clone(&pace);
    let spare = spare_threads(Budget::of_process());
    let skin = Skin {
        fs: Arc::clone(&fs),
        crew: Crew::new(threads, spare / 4 * 3, move || asked.is_asked()),
        runtime,
        disk,
        past,
        pace,
        waiting,
        gate: gate.clone(),
        numbers: numbers.clone(),
        direct_io: prepared.options.direct_io,
    };
    let mut config = Config::default();
    config.n_threads = Some(threads + spare);
    // The kernel checks who may enter (allow_other, default_permissions). fuser's own check would
    // refuse what the kernel does in the name of somebody else.
    config.acl = SessionACL::All;
    let session = Session::from_fd(skin, connection, SessionACL::All, config)
        .map_err(FuseError::Handshake)?;
    let told = Told {
        notifier: session.notifier(),
        numbers: numbers.clone(),
        fs: Arc::clone(&fs),
        mountpoint: mounted.mountpoint.clone(),
        device: mounted.device.clone(),
    };
    fs.show_departed();
    mounted.invalidator = Some(Invalidator::start(told, gate).map_err(failed_thread)?);
    let device = Device {
        connection: mounted.connection.try_clone().map_err(failed_thread)?,
        numbers,
    };
    let pruner = Pruner::start(fs, prepared.options.kept_inodes, device);
    mounted.pruner = Some(pruner.map_err(failed_thread)?);
    let (end, ended) = watch::channel(None);
    mounted.ended = ended;
    task::thread("fuse-session", move || {
        end.send_replace(Some(how_it_ended(session.run())));
    })
    .map_err(failed_thread)?;
    if let Some(device) = &mounted.device {
        raise_readahead(device);
    }
    tracing::info!(mountpoint = %mounted.mountpoint.display(), threads, "mounted");
    Ok(mounted)
}

/// A mount that is served. Dropping it takes it away at once, whoever uses it.
#[derive(Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
    /// `major:minor` of the mount; given to another one as soon as this one is gone.
    device: Option<String>,
    fs: Arc<Fs>,
    /// Shows an error condition from the moment on in which the mount is gone.
    connection: OwnedFd,
    /// `None` while the session starts.
    invalidator: Option<Invalidator>,
    /// `None` while the session starts; works until it is dropped.
    pruner: Option<Pruner>,
    ended: watch::Receiver<Option<Result<(), String>>>,
}

impl Mounted {
    /// Returns the mountpoint as an absolute path without links.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Returns where to send notices of remote changes.
    ///
    /// # Panics
    ///
    /// Never: a value that [`mount`] returned has one.
    pub fn invalidator(&self) -> Invalidator {
        self.invalidator
            .clone()
            .expect("mount() returns after it was started")
    }

    /// Returns what tells, at any time, whether the kernel still has the mount: from the moment on
    /// in which `umount` returns it has not.
    pub fn watch(&self) -> Result<impl Fn() -> bool + Send + Sync + 'static, FuseError> {
        let connection = self.connection.try_clone().map_err(failed_thread)?;
        Ok(move || is_connected(&connection))
    }

    /// Resolves when the mount has gone: the user unmounted it, or the connection broke.
    pub async fn ended(&self) -> Result<(), FuseError> {
        let mut ended = self.ended.clone();
        let outcome = ended.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(Err(reason))) => Err(FuseError::Broken {
                reason: reason.clone(),
            }),
            // A thread that ended without a word has ended all the same.
            Ok(Some(Ok(())) | None) | Err(_) => Ok(()),
        }
    }

    /// Takes the mount away as umount does: not where somebody uses it, which is
    /// [`FuseError::Busy`].
    pub async fn unmount(&self) -> Result<(), FuseError> {
        if !self.is_present() {
            return Ok(());
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let path = self.mountpoint.clone();
        task::thread("fuse-unmount", move || {
            let _ = sender.send(unmount(&path));
        })
        .map_err(failed_thread)?;
        receiver.await.unwrap_or(Ok(()))
    }

    /// Takes the mount away and resolves when the last request is answered.
    ///
    /// Where somebody uses it, it goes out of the tree at once, but what is open there is served for
    /// some seconds more: at a shutdown, programs are told to end when this is, and save what they
    /// have through what they have open. The outcome is then [`FuseError::Busy`], for the log. What
    /// was written is in `fs` either way, and `Fs::sync_all` comes after this.
    pub async fn close(self) -> Result<(), FuseError> {
        if !self.is_present() {
            return Ok(());
        }
        // The kernel writes mapped pages back before it lets go, so the runtime must stay free.
        let path = self.mountpoint.clone();
        let left = timeout(LEAVE_MAX, on_thread(move || leave(&path))).await;
        let outcome = match left {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error @ FuseError::Busy { .. })) => {
                self.serve_out().await;
                Err(error)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(FuseError::Busy {
                path: self.mountpoint.clone(),
            }),
        };
        if outcome.is_err() && !self.has_ended() {
            self.abort().await;
        }
        if !self.is_present() {
            // One that is out of the tree and cannot be aborted ends with this process.
            timeout(ABORT_MAX, self.ended()).await.unwrap_or(Ok(()))?;
        }
        outcome
    }

    /// Serves a mount that is out of the tree until nobody has anything open there, for a while.
    async fn serve_out(&self) {
        let quiet = async {
            let mut polls = 0;
            while polls < QUIET_POLLS && !self.has_ended() {
                let is_quiet = self.fs.counts().handles == 0;
                polls = if is_quiet { polls + 1 } else { 0 };
                sleep(QUIET_POLL).await;
            }
        };
        let _ = timeout(SERVE_OUT_MAX, quiet).await;
    }

    /// Ends the connection, whoever uses it.
    async fn abort(&self) {
        let path = self.is_present().then(|| self.mountpoint.clone());
        let device = self.device.clone();
        let aborted = on_thread(move || {
            if let Some(path) = path {
                abort(&path)?;
            }
            let minor = device.as_deref().and_then(|device| device.split_once(':'));
            if let Some((_, minor)) = minor {
                let switch = format!("/sys/fs/fuse/connections/{minor}/abort");
                // Where it is not there, the end of this process does the same.
                let _ = std::fs::write(switch, "1");
            }
            Ok(())
        });
        if !matches!(timeout(LEAVE_MAX, aborted).await, Ok(Ok(()))) {
            tracing::warn!("the mount stays");
        }
    }

    fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Returns whether what lies uppermost at the mountpoint is this mount.
    ///
    /// Asks the connection last: while it lives nobody else has our device number.
    fn is_present(&self) -> bool {
        self.device.is_some()
            && device_of(&self.mountpoint) == self.device
            && is_connected(&self.connection)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.pruner = None;
        if let Some(invalidator) = &self.invalidator {
            invalidator.close();
        }
        if self.is_present()
            && let Err(error) = abort(&self.mountpoint).or_else(|_| detach(&self.mountpoint))
        {
            tracing::warn!(%error, "the mount stays");
        }
    }
}

/// Unmounts; where somebody uses the mount, hands what is written over and takes it out of the tree.
fn leave(path: &Path) -> Result<(), FuseError> {
    let busy = match unmount(path) {
        Err(error @ FuseError::Busy { .. }) => error,
        outcome => return outcome,
    };
    // Pages of mappings, whose programs may end without a word.
    let synced = std::fs::File::open(path).and_then(|root| Ok(rustix::fs::syncfs(root)?));
    if let Err(error) = synced {
        tracing::warn!(%error, "what is mapped may not be written");
    }
    detach(path)?;
    Err(busy)
}

/// Runs what may wait for the kernel on a thread of its own.
async fn on_thread(
    work: impl FnOnce() -> Result<(), FuseError> + Send + 'static,
) -> Result<(), FuseError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    task::thread("fuse-unmount", move || {
        let _ = sender.send(work());
    })
    .map_err(failed_thread)?;
    receiver.await.unwrap_or(Ok(()))
}

#[expect(unsafe_code, reason = "std has no poll(2)")]
fn is_connected(connection: &OwnedFd) -> bool {
    let mut watched = libc::pollfd {
        fd: connection.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    loop {
        // SAFETY: the pointer is to one valid pollfd that lives through the call, and the count
        // says one.
        let ready = unsafe { libc::poll(&raw mut watched, 1, 0) };
        let interrupted = std::io::Error::last_os_error().kind() == ErrorKind::Interrupted;
        if ready >= 0 || !interrupted {
            return ready == 0;
        }
    }
}

/// Returns whether a session ended as one does whose mount has gone, or what broke it.
///
/// A read of the device says ENODEV once the kernel has let go of the mount, or was told to abort
/// the connection; that fuser knows. It says ECONNABORTED instead where the reader had a request in its
/// hands at that moment.
fn how_it_ended(outcome: std::io::Result<()>) -> Result<(), String> {
    match outcome {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENODEV | libc::ECONNABORTED)
            ) =>
        {
            Ok(())
        }
        outcome => outcome.map_err(|error| error.to_string()),
    }
}

fn failed_thread(source: std::io::Error) -> FuseError {
    FuseError::Io {
        what: "start a thread for",
        path: "fuse".into(),
        source,
    }
}

/// How long the kernel may take to let go of a mount.
const LEAVE_MAX: Duration = Duration::from_secs(10);

/// How long a session may take to end whose mount is gone.
const ABORT_MAX: Duration = Duration::from_secs(3);

/// How long what is open is served once the mount is out of the tree.
const SERVE_OUT_MAX: Duration = Duration::from_secs(10);

/// It ends earlier when nothing was open for a second: who has only his working folder there saves
/// nothing, or opens a file at once.
const QUIET_POLL: Duration = Duration::from_millis(50);
const QUIET_POLLS: u32 = 20;

/// Threads that take over from those that wait inside a request, where there is memory.
const SPARE_THREADS: u64 = 8;

/// Bytes of a thread's buffer for requests: of the largest that fuser knows.
const BUFFER_BYTES: u64 = 16 << 20;

/// Returns how many threads may take over: their buffers have half of the budget, and one there is
/// always.
fn spare_threads(budget: Budget) -> usize {
    let bytes = budget.part(SPARE_THREADS * BUFFER_BYTES, 2);
    usize::try_from(bytes / BUFFER_BYTES).map_or(1, |threads| threads.max(1))
}

/// Flushes to disk that wait side by side, so that one disk flush serves several.
const DISK_THREADS: usize = 4;

/// Flushes that wait for a thread before the serving thread waits, too.
const DISK_QUEUE_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    #[test]
    fn spare_threads_follow_the_memory_of_the_process() {
        assert_eq!(spare_threads(Budget::within(8 << 30)), 8);
        // A quarter of it is for all caches and queues, and half of that for these.
        assert_eq!(spare_threads(Budget::within(128 << 20)), 1);
        assert_eq!(spare_threads(Budget::within(0)), 1);
    }

    #[test]
    fn each_word_of_the_kernel_for_a_mount_that_has_gone_is_an_end_in_order() {
        for errno in [libc::ENODEV, libc::ECONNABORTED] {
            assert_eq!(how_it_ended(Err(Error::from_raw_os_error(errno))), Ok(()));
        }
        assert_eq!(how_it_ended(Ok(())), Ok(()));
        for errno in [libc::EIO, libc::EPERM, libc::EINVAL] {
            assert!(how_it_ended(Err(Error::from_raw_os_error(errno))).is_err());
        }
        assert!(how_it_ended(Err(Error::other("a thread panicked"))).is_err());
    }
}
