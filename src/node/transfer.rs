//! What somebody wants over the network: how urgently, and when something of it came last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::transport::Priority;

/// Shared by who waits and who fetches: the one may become more urgent, the other shows progress.
#[derive(Debug)]
pub struct Transfer {
    priority: AtomicU8,
    /// When bytes came last, milliseconds of the monotonic clock; 0 before the first.
    moved_ms: AtomicU64,
}

impl Transfer {
    /// Returns a transfer that has not begun.
    pub fn new(priority: Priority) -> Arc<Self> {
        Arc::new(Self {
            priority: AtomicU8::new(priority as u8),
            moved_ms: AtomicU64::new(0),
        })
    }

    /// Returns how urgent it is now.
    pub fn priority(&self) -> Priority {
        priority_of(self.priority.load(Ordering::Relaxed))
    }

    /// Makes it as urgent as `priority`, if it is not.
    pub fn raise(&self, priority: Priority) {
        self.priority.fetch_max(priority as u8, Ordering::Relaxed);
    }

    /// Takes note that something came.
    pub fn moved(&self, now: Duration) {
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(1);
        self.moved_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// Returns when something came last, `None` before the first.
    pub fn moved_at(&self) -> Option<Duration> {
        let moved_ms = self.moved_ms.load(Ordering::Relaxed);
        (moved_ms > 0).then(|| Duration::from_millis(moved_ms))
    }
}

/// Returns the priority that a number of the wire means. Nothing bulky is small, so that it does not
/// push out what keeps peers informed.
pub(super) fn priority_of(number: u8) -> Priority {
    const READAHEAD: u8 = Priority::Readahead as u8;
    const AWAITED: u8 = Priority::Awaited as u8;
    const LOG: u8 = Priority::Log as u8;
    match number {
        READAHEAD => Priority::Readahead,
        AWAITED => Priority::Awaited,
        LOG => Priority::Log,
        _ => Priority::Background,
    }
}
