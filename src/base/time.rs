//! Time: the clock that is passed in, hybrid logical stamps, file times, and sleeping.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A source of time. The real one is [`SystemClock`]; simulations pass their own.
pub trait Clock: Send + Sync + 'static {
    /// Returns the time of day.
    fn wall(&self) -> Timespec;
    /// Returns the time since an arbitrary moment; never goes back, and goes on while the machine is suspended,
    /// as what others believe of it ends meanwhile, too.
    fn monotonic(&self) -> Duration;

    /// Returns the time of day in milliseconds since 1970; 0 before.
    fn wall_ms(&self) -> u64 {
        let now = self.wall();
        u64::try_from(now.secs).unwrap_or(0) * 1000 + u64::from(now.nanos / 1_000_000)
    }
}

/// A point in time as files carry it: seconds since 1970 (negative before) and nanoseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Timespec {
    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// 0 to 999,999,999, counted forwards from `secs` also before 1970.
    pub nanos: u32,
}

impl Timespec {
    /// Returns the point `ms` milliseconds after 1970.
    pub fn from_ms(ms: u64) -> Self {
        Self {
            secs: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            nanos: u32::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
        }
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started: Duration,
}

impl SystemClock {
    /// Returns the clock; its monotonic time starts at zero now.
    pub fn new() -> Self {
        Self {
            started: since_boot(),
        }
    }
}

/// Returns the time since the machine was started, with what it was suspended.
#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Returns the time since this was asked first.
#[cfg(not(target_os = "linux"))]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks the machine for time"
)]
fn since_boot() -> Duration {
    static FIRST: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    FIRST.get_or_init(std::time::Instant::now).elapsed()
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the machine for time"
    )]
    fn wall(&self) -> Timespec {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => Timespec {
                secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                nanos: since.subsec_nanos(),
            },
            Err(_) => Timespec::default(),
        }
    }

    fn monotonic(&self) -> Duration {
        since_boot().saturating_sub(self.started)
    }
}

/// A clock for simulations and tests: follows the (paused) time of the tokio runtime, with an offset.
///
/// Without a runtime it stands still but for [`SimClock::advance`].
#[derive(Debug)]
pub struct SimClock {
    start_ms: u64,
    runtime_start: Option<tokio::time::Instant>,
    extra_ms: AtomicU64,
    wrong_ms: AtomicU64,
}

impl SimClock {
    /// Returns a clock that shows `start_ms` (since 1970) now and follows the runtime's time.
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulated clock reads the paused runtime"
    )]
    pub fn new(start_ms: u64) -> Arc<Self> {
        let runtime_start = tokio::runtime::Handle::try_current()
            .ok()
            .map(|_| tokio::time::Instant::now());
        Arc::new(Self {
            start_ms,
            runtime_start,
            extra_ms: AtomicU64::new(0),
            wrong_ms: AtomicU64::new(0),
        })
    }

    /// Moves this clock alone forwards: skew, or time passing where there is no runtime.
    pub fn advance(&self, by: Duration) {
        self.extra_ms.fetch_add(
            u64::try_from(by.as_millis()).unwrap_or(0),
            Ordering::Relaxed,
        );
    }

    /// Makes the time of day alone wrong: so far ahead from now on.
    pub fn set_ahead(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.wrong_ms.store(ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn wall(&self) -> Timespec {
        let wrong = Duration::from_millis(self.wrong_ms.load(Ordering::Relaxed));
        let now = Duration::from_millis(self.start_ms) + wrong + self.monotonic();
        Timespec {
            secs: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            nanos: now.subsec_nanos(),
        }
    }

    fn monotonic(&self) -> Duration {
        let elapsed = self
            .runtime_start
            .map_or(Duration::ZERO, |start| start.elapsed());
        elapsed + Duration::from_millis(self.extra_ms.load(Ordering::Relaxed))
    }
}

/// Returns year, month and day (UTC) of a time in milliseconds since 1970: the civil calendar from
/// a count of days, by eras of 400 years that begin on the first of March.
pub fn civil_date(ms: u64) -> (u64, u64, u64) {
    let days = ms / 86_400_000 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// Says that a deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// Waits for `duration` of the runtime's time, which simulations control.
#[expect(clippy::disallowed_methods, reason = "the one place that sleeps")]
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Runs `future` for at most `duration` of the runtime's time.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that sets deadlines"
)]
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(duration, future)
        .await
        .map_err(|_| Elapsed)
}

/// How long to wait before the next try: twice as long after each failure, up to a limit.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Returns a backoff that begins with `first` and ends at `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// Takes note of a failure; returns how long to wait.
    pub fn failed(&mut self) -> Duration {
        let now = self.next;
        self.next = self.next.saturating_mul(2).min(self.most);
        now
    }

    /// Takes note of a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A hybrid logical clock reading: milliseconds since 1970 above a 20-bit counter.
///
/// Kulkarni et al., "Logical Physical Clocks" (2014), packed into 64 bits: 44 bits of milliseconds
/// last until the year 2527, 20 bits of counter allow a million ops a millisecond.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Stamp(pub u64);

impl Stamp {
    const COUNTER_BITS: u32 = 20;

    /// Returns the first stamp of a millisecond.
    pub fn from_ms(ms: u64) -> Self {
        Self(ms << Self::COUNTER_BITS)
    }

    /// Returns the milliseconds since 1970 of this stamp.
    pub fn ms(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// Returns the smallest stamp that is greater.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Issues stamps: each greater than all issued and observed before, close to the wall clock.
#[derive(Debug, Default)]
pub struct Hlc {
    last: AtomicU64,
}

impl Hlc {
    /// Returns a clock that has seen everything up to `last`.
    pub fn new(last: Stamp) -> Self {
        Self {
            last: AtomicU64::new(last.0),
        }
    }

    /// Returns a fresh stamp.
    pub fn tick(&self, wall_ms: u64) -> Stamp {
        let wall = Stamp::from_ms(wall_ms).0;
        let issue = |last: u64| wall.max(last.saturating_add(1));
        let previous = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(issue(last))
            })
            .unwrap_or_else(|last| last);
        Stamp(issue(previous))
    }

    /// Takes note of a stamp seen on another device.
    pub fn observe(&self, seen: Stamp) {
        self.last.fetch_max(seen.0, Ordering::Relaxed);
    }

    /// Returns the newest stamp issued or observed.
    pub fn last(&self) -> Stamp {
        Stamp(self.last.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's word for the time since the start counts what the machine was suspended. Where it never was,
    /// `unshare --time --boottime 5000` makes the difference.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_clock_goes_on_while_the_machine_is_suspended() {
        let uptime = || {
            let told = std::fs::read_to_string("/proc/uptime").unwrap();
            let seconds = told.split(' ').next().unwrap().parse().unwrap();
            Duration::from_secs_f64(seconds)
        };
        let (before, now, after) = (uptime(), since_boot(), uptime());
        // It is told in hundredths.
        let least = before.saturating_sub(Duration::from_millis(10));
        let most = after + Duration::from_millis(10);
        assert!(least <= now && now <= most, "{before:?} {now:?} {after:?}");
    }

    #[test]
    fn stamps_only_grow_even_when_the_wall_clock_goes_back() {
        let hlc = Hlc::default();
        let first = hlc.tick(1_000);
        let second = hlc.tick(500);
        assert!(second > first);
        assert_eq!(second.ms(), 1_000);
        hlc.observe(Stamp::from_ms(5_000));
        assert!(hlc.tick(1_000) > Stamp::from_ms(5_000));
        assert_eq!(hlc.tick(9_000), Stamp::from_ms(9_000));
    }
}
