//! The one place that sleeps, asks for the time, and starts threads.

use std::time::{Duration, Instant};

/// Returns the present moment, for [`elapsed_since`].
#[expect(
    clippy::disallowed_methods,
    reason = "mount tests watch real processes in real time"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Returns the time of day, which peers stamp what they write with.
#[expect(
    clippy::disallowed_methods,
    reason = "mount tests watch real processes in real time"
)]
pub(crate) fn clock() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// Returns how long ago a moment was.
pub fn elapsed_since(moment: Instant) -> Duration {
    moment.elapsed()
}

/// Starts a thread.
#[expect(
    clippy::disallowed_methods,
    reason = "mount tests watch real processes from threads"
)]
pub fn spawn<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(body)
}

/// Asks `condition` until it gives a value.
///
/// # Panics
///
/// When `limit` has passed, with `what` was waited for.
pub fn wait_until<T>(what: &str, limit: Duration, condition: impl FnMut() -> Option<T>) -> T {
    match poll(limit, condition) {
        Some(value) => value,
        None => panic!("waited {limit:?} in vain until {what}"),
    }
}

/// Asks `condition` until it gives a value, `None` when `limit` has passed.
#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two looks at a condition of another process"
)]
pub(crate) fn poll<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let started = now();
    let mut pause = BRIEF;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if elapsed_since(started) >= limit {
            return None;
        }
        std::thread::sleep(pause);
        // What takes milliseconds is measured in milliseconds, and what takes long costs little.
        if elapsed_since(started) > Duration::from_millis(200) {
            pause = (pause * 3 / 2).min(Duration::from_millis(100));
        }
    }
}

/// The first pauses between two looks.
const BRIEF: Duration = Duration::from_millis(1);
