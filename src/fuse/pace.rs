//! Whether a flush of the disk is worth a thread of its own.
//!
//! Handing a request to another thread and back costs more than a fast disk needs for a flush. So
//! where the disk was fast the last time and nobody else asks for anything, the flush is waited for
//! on the thread that answers the kernel.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::base::time::{Clock, SystemClock};

/// Longest flush that others may be made to wait for: some requests' time.
const FAST_MAX: Duration = Duration::from_micros(400);

/// How the last flush went, and whether requests wait.
#[derive(Debug)]
pub(super) struct Pace {
    clock: SystemClock,
    /// The kernel's requests come from it.
    connection: OwnedFd,
    last_us: AtomicU64,
}

impl Pace {
    /// Returns one that knows of no flush yet.
    pub(super) fn new(connection: OwnedFd) -> Self {
        Self {
            clock: SystemClock::new(),
            connection,
            last_us: AtomicU64::new(u64::MAX),
        }
    }

    /// Runs a flush and takes note of how long it took.
    pub(super) fn measure<T>(&self, flush: impl FnOnce() -> T) -> T {
        let started = self.clock.monotonic();
        let outcome = flush();
        let taken = self.clock.monotonic().saturating_sub(started);
        let taken_us = u64::try_from(taken.as_micros()).unwrap_or(u64::MAX);
        self.last_us.store(taken_us, Ordering::Relaxed);
        outcome
    }

    /// Tells whether to wait for a flush here and now.
    pub(super) fn is_wait_short(&self) -> bool {
        let last = Duration::from_micros(self.last_us.load(Ordering::Relaxed));
        last <= FAST_MAX && !self.is_asked()
    }

    /// Tells whether another request can be read.
    pub(super) fn is_asked(&self) -> bool {
        let mut watched = [PollFd::new(&self.connection, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // Where nobody can tell, somebody may.
        poll(&mut watched, Some(&now)).map_or(true, |ready| ready > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_flush_is_waited_for_where_the_last_was_fast_and_nobody_asks() {
        let (mut kernel, connection) = UnixStream::pair().unwrap();
        let pace = Pace::new(connection.into());
        assert!(!pace.is_wait_short());
        assert_eq!(pace.measure(|| 7), 7);
        pace.last_us.store(100, Ordering::Relaxed);
        assert!(pace.is_wait_short());
        kernel.write_all(b"request").unwrap();
        assert!(!pace.is_wait_short());
        drop(kernel);
        pace.last_us.store(1_000_000, Ordering::Relaxed);
        assert!(!pace.is_wait_short());
    }
}
