//! Asking the kernel to let go of inodes that nobody uses, when it holds more of them than this
//! process wants to know about.
//!
//! The kernel gives inodes back when memory is short, and then only. So [`Fs`] says when there are
//! too many and which may go, and one thread names them to the kernel (FUSE_NOTIFY_PRUNE). It drops
//! those that nobody uses: no file that is open or mapped, no working directory, no descriptor of
//! `O_PATH`, nothing under a mount, no directory with entries in the kernel's cache. The others
//! stay, and what is dropped by mistake is found again by a lookup.
//!
//! A kernel before Linux 6.18 does not know the notice, and is not asked in another way: to have it
//! drop a name that it knows (FUSE_NOTIFY_INVAL_ENTRY) would also unmount what is mounted on it and
//! make files that are in use look deleted. There the kernel's memory is the limit, of which an
//! inode takes twenty times as much as here.
//!
//! The thread has nothing else to do: to drop an inode the kernel may wait for a read ahead.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fuser::INodeNo;
use parking_lot::{Condvar, Mutex};

use super::numbers::Numbers;
use crate::base::{Ino, task};
use crate::fs::Fs;

/// The thread that keeps the number of the kernel's inodes in bounds; ends when this is dropped.
#[derive(Debug)]
pub(super) struct Pruner {
    shared: Arc<Shared>,
}

impl Pruner {
    /// Starts the thread; from now on `fs` says when the kernel holds more than `inodes_max`.
    pub(super) fn start(
        fs: Arc<Fs>,
        inodes_max: usize,
        kernel: impl Prune + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_fs = Arc::clone(&shared);
        fs.limit_inodes(inodes_max, move || of_fs.tell());
        let of_thread = Arc::clone(&shared);
        task::thread("fuse-prune", move || of_thread.run(&*fs, &kernel))?;
        Ok(Self { shared })
    }
}

impl Drop for Pruner {
    fn drop(&mut self) {
        *self.shared.closed.lock() = true;
        self.shared.wake.notify_one();
    }
}

/// Tells what there is to prune: an [`Fs`], and one for tests.
trait Inodes {
    /// Returns those that may go; none while there are not too many.
    fn spare(&self) -> Vec<Ino>;
    /// Returns whether there are too many.
    fn are_too_many(&self) -> bool;
    /// Returns whether the kernel still has one.
    fn know(&self, ino: Ino) -> bool;
}

impl Inodes for Fs {
    fn spare(&self) -> Vec<Ino> {
        self.spare_inodes()
    }

    fn are_too_many(&self) -> bool {
        self.has_too_many_inodes()
    }

    fn know(&self, ino: Ino) -> bool {
        self.knows_inode(ino)
    }
}

/// Lets go of inodes: the kernel, and one for tests.
pub(super) trait Prune {
    /// Drops those of at most [`PRUNE_MAX`] inodes that nobody uses.
    fn prune(&self, inodes: &[Ino]) -> io::Result<()>;
}

/// The kernel of a mount.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) connection: OwnedFd,
    pub(super) numbers: Numbers,
}

impl Prune for Device {
    fn prune(&self, inodes: &[Ino]) -> io::Result<()> {
        let known = inodes.iter().filter_map(|ino| self.numbers.known(*ino));
        let known: Vec<INodeNo> = known.collect();
        if !known.is_empty() {
            rustix::io::write(&self.connection, &notice(&known))?;
        }
        Ok(())
    }
}

/// Returns a notice as linux/fuse.h has it: `fuse_out_header`, whose error is the code where no
/// request is answered, `fuse_notify_prune_out`, and the numbers. fuser has no call for it.
#[expect(
    clippy::host_endian_bytes,
    reason = "the kernel reads numbers in the machine's order"
)]
fn notice(inodes: &[INodeNo]) -> Vec<u8> {
    let len = HEADER_BYTES + 8 * inodes.len();
    let mut bytes = Vec::with_capacity(len);
    bytes.extend((len as u32).to_ne_bytes());
    bytes.extend(FUSE_NOTIFY_PRUNE.to_ne_bytes());
    bytes.extend(0u64.to_ne_bytes());
    bytes.extend((inodes.len() as u32).to_ne_bytes());
    bytes.extend([0; 12]);
    for ino in inodes {
        bytes.extend(ino.0.to_ne_bytes());
    }
    bytes
}

#[derive(Debug, Default)]
struct Shared {
    /// There are too many inodes, or were a moment ago: whoever finds it set has nothing to do.
    crowded: AtomicBool,
    /// The mount is gone.
    closed: Mutex<bool>,
    /// One of the two was set.
    wake: Condvar,
}

impl Shared {
    /// Says that there are too many inodes. Called by who answers the kernel, with no lock held.
    fn tell(&self) {
        if !self.crowded.load(Ordering::Relaxed) {
            let _closed = self.closed.lock();
            self.crowded.store(true, Ordering::Relaxed);
            self.wake.notify_one();
        }
    }

    /// Waits until there are too many; false when the mount is gone.
    fn wait(&self) -> bool {
        let mut closed = self.closed.lock();
        while !*closed && !self.crowded.load(Ordering::Relaxed) {
            self.wake.wait(&mut closed);
        }
        !*closed
    }

    /// Waits for a time; false when the mount is gone.
    fn pause(&self, time: Duration) -> bool {
        let mut closed = self.closed.lock();
        if !*closed {
            self.wake.wait_for(&mut closed, time);
        }
        !*closed
    }

    fn run(&self, inodes: &impl Inodes, kernel: &impl Prune) {
        let mut time = PAUSE_MIN;
        while self.wait() {
            let spare = inodes.spare();
            for some in spare.chunks(PRUNE_MAX) {
                if *self.closed.lock() {
                    return;
                }
                match kernel.prune(some) {
                    Ok(()) => {}
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                        tracing::info!("this kernel alone decides how many inodes it keeps");
                        return;
                    }
                    // The mount is going, or memory is short, which makes the kernel drop some.
                    Err(error) => tracing::debug!(%error, "the kernel did not take a notice"),
                }
            }
            // What it dropped it gives back by requests, which take their time.
            if !self.pause(time) {
                return;
            }
            let stayed = spare.iter().filter(|ino| inodes.know(**ino)).count();
            time = match stayed > spare.len() / 2 {
                // In use in a way that we do not see: no need to ask again soon.
                true => PAUSE_MAX.min(2 * time),
                false => PAUSE_MIN,
            };
            self.crowded.store(false, Ordering::Relaxed);
            if inodes.are_too_many() {
                self.crowded.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Notices behind the code of FUSE_NOTIFY_INC_EPOCH (protocol 7.45).
const FUSE_NOTIFY_PRUNE: i32 = 9;

/// `fuse_out_header` and `fuse_notify_prune_out`.
const HEADER_BYTES: usize = 16 + 16;

/// Inodes of one notice: as many as the kernel takes at once.
const PRUNE_MAX: usize = 512;

/// How long the thread waits for the inodes of one round: the kernel gives back some hundred
/// thousand in a second.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// How long it waits where they stay.
const PAUSE_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A kernel that lets go of what it is asked to, but for some; also the table that knows.
    struct Kernel {
        known: Arc<Mutex<Vec<Ino>>>,
        in_use: Vec<Ino>,
        most: usize,
        asked: mpsc::Sender<usize>,
        error: Option<i32>,
    }

    impl Inodes for Kernel {
        fn spare(&self) -> Vec<Ino> {
            match self.are_too_many() {
                true => self.known.lock().clone(),
                false => Vec::new(),
            }
        }

        fn are_too_many(&self) -> bool {
            self.known.lock().len() > self.most
        }

        fn know(&self, ino: Ino) -> bool {
            self.known.lock().contains(&ino)
        }
    }

    impl Prune for Kernel {
        fn prune(&self, inodes: &[Ino]) -> io::Result<()> {
            self.asked.send(inodes.len()).map_err(io::Error::other)?;
            if let Some(error) = self.error {
                return Err(io::Error::from_raw_os_error(error));
            }
            let stays = |ino: &Ino| self.in_use.contains(ino) || !inodes.contains(ino);
            self.known.lock().retain(stays);
            Ok(())
        }
    }

    /// Starts a thread, with `count` inodes, of which those in use stay.
    fn start(count: u64, in_use: u64, error: Option<i32>) -> Running {
        let (asked, requests) = mpsc::channel();
        let known = Arc::new(Mutex::new((0..count).map(Ino).collect::<Vec<_>>()));
        let kernel = Kernel {
            known: Arc::clone(&known),
            in_use: (0..in_use).map(Ino).collect(),
            most: 600,
            asked,
            error,
        };
        let pruner = Pruner {
            shared: Arc::new(Shared::default()),
        };
        let shared = Arc::clone(&pruner.shared);
        let thread = task::thread("test", move || shared.run(&kernel, &kernel)).unwrap();
        Running {
            pruner,
            known,
            requests,
            thread,
        }
    }

    struct Running {
        pruner: Pruner,
        known: Arc<Mutex<Vec<Ino>>>,
        requests: mpsc::Receiver<usize>,
        thread: std::thread::JoinHandle<()>,
    }

    impl Running {
        fn next(&self) -> usize {
            self.requests.recv_timeout(LONG).unwrap()
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_crowd_is_pruned_by_and_by_and_the_end_of_the_mount_ends_the_thread() {
        let running = start(1300, 0, None);
        // Nobody has called yet.
        assert!(running.requests.try_recv().is_err());
        running.pruner.shared.tell();
        assert_eq!(
            [running.next(), running.next(), running.next()],
            [512, 512, 276]
        );
        // It is over, and begins again when somebody calls.
        while running.pruner.shared.crowded.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        running.known.lock().extend((0..601).map(Ino));
        running.pruner.shared.tell();
        assert_eq!([running.next(), running.next()], [512, 89]);
        drop(running.pruner);
        running.thread.join().unwrap();
    }

    #[test]
    fn what_stays_is_asked_for_again_without_a_call() {
        let running = start(700, 700, None);
        running.pruner.shared.tell();
        for _ in 0..3 {
            assert_eq!([running.next(), running.next()], [512, 188]);
        }
        drop(running.pruner);
        running.thread.join().unwrap();
    }

    #[test]
    fn a_kernel_that_does_not_know_the_notice_is_asked_once() {
        let running = start(1300, 0, Some(libc::EINVAL));
        running.pruner.shared.tell();
        assert_eq!(running.next(), 512);
        running.thread.join().unwrap();
        assert!(running.requests.try_recv().is_err());
    }

    #[expect(
        clippy::host_endian_bytes,
        reason = "the kernel reads numbers in the machine's order"
    )]
    #[test]
    fn a_notice_is_laid_out_as_the_kernel_reads_it() {
        let bytes = notice(&[INodeNo(1), INodeNo(u64::MAX)]);
        let words: Vec<u32> = bytes
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        let ids = [1u64, u64::MAX].map(u64::to_ne_bytes).concat();
        // Length, code, no request; count, padding, spare.
        assert_eq!(words[..8], [48, 9, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[32..], ids);
    }
}
