//! A thing is said once a second: what comes more often is counted, and the count is said.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::base::Clock;
use crate::base::time::SystemClock;

/// For how long what was said is not said again.
const WINDOW: Duration = Duration::from_secs(1);

/// What goes well is told of one by one up to so many times within [`WINDOW`]: each tells of another
/// peer or file.
const CALM_MAX: u32 = 20;

/// Formats events as `F` does, but leaves out what its place in the program has just said.
#[derive(Debug)]
pub(super) struct Limited<F> {
    inner: F,
    clock: SystemClock,
    /// Bounded by the places in the program that say something. A leaf lock.
    places: Mutex<HashMap<Identifier, Place>>,
}

#[derive(Debug, Default)]
struct Place {
    /// The window that was begun last.
    since: Duration,
    /// How often it was said there.
    said: u32,
    /// How often it was not, since it was said last.
    left_out: u64,
}

impl Place {
    /// Takes note of an event; returns how many were left out before it, `None` where it is left
    /// out itself.
    fn admit(&mut self, now: Duration, most: u32) -> Option<u64> {
        if self.said == 0 || now.saturating_sub(self.since) >= WINDOW {
            self.since = now;
            self.said = 0;
        }
        if self.said >= most {
            self.left_out += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl<F> Limited<F> {
    /// Returns the format that limits `inner`.
    pub(super) fn new(inner: F) -> Self {
        Self {
            inner,
            clock: SystemClock::new(),
            places: Mutex::default(),
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let most = match *metadata.level() {
            Level::ERROR | Level::WARN => 1,
            _ => CALM_MAX,
        };
        let admitted = {
            let mut places = self.places.lock();
            let place = places.entry(metadata.callsite()).or_default();
            place.admit(self.clock.monotonic(), most)
        };
        let Some(left_out) = admitted else {
            return Ok(());
        };
        if left_out > 0 {
            let module = metadata.target();
            writeln!(writer, "{left_out} more lines like the next, of {module}")?;
        }
        self.inner.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_often_is_said_once_a_second_with_a_count() {
        let mut place = Place::default();
        let ms = Duration::from_millis;
        assert_eq!(place.admit(ms(0), 1), Some(0));
        for now in 1..1000 {
            assert_eq!(place.admit(ms(now), 1), None);
        }
        assert_eq!(place.admit(ms(1000), 1), Some(999));
        assert_eq!(place.admit(ms(1001), 1), None);
        assert_eq!(place.admit(ms(60_000), 1), Some(1));
        let mut calm = Place::default();
        let said = (0..100).filter(|now| calm.admit(ms(*now), CALM_MAX).is_some());
        assert_eq!(said.count(), CALM_MAX as usize);
    }
}
