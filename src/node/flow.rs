//! One direction of bulk over one session: how fast it has been, and how much may be on its way.
//!
//! What is asked for is bounded by a second or two of the measured rate, so that whatever becomes
//! urgent waits no longer than that, and what a break throws away is no more. It passes in the order
//! of urgency, then of age.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::pieces::PIECE_BYTES;
use super::transfer::Transfer;
use crate::base::Clock;
use crate::base::memory::Budget;
use crate::base::time::timeout;
use crate::transport::Priority;

/// How much of the line's time may be on its way, beside the round trip.
const AHEAD_SECONDS: f64 = 2.0;

/// Most bytes on their way: what a window of 16 chunks takes.
const WINDOW_MAX_BYTES: u64 = 16 << 20;

/// Most of them while they go in pieces: each takes a stream, and both directions together leave a
/// quarter of those that a peer may open to other messages.
const PIECES_MAX_BYTES: u64 = 96 * PIECE_BYTES as u64;

/// Rate from which messages go whole: what a break then costs is less than a second.
const FAST_BYTES_PER_SECOND: u64 = 8 << 20;

/// After so many seconds of work a measurement counts half.
const HALF_LIFE_SECONDS: f64 = 3.0;

/// How often who waits looks whether it has become more urgent.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long what is less urgent makes way for a piece that goes over another session, at least and at
/// most: the next piece is asked for when one has arrived.
const WAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Round trips that a piece may take where no rate was measured: those of a busy slow line are long.
const WAY_ROUND_TRIPS: u32 = 64;

/// What goes out now, over whichever session: all share this machine's line, and a slow session makes
/// way for what is more urgent in another.
#[derive(Debug, Default)]
pub(super) struct Urgency {
    /// Until when each priority is taken to be going out.
    until: Mutex<[Duration; Priority::COUNT]>,
}

impl Urgency {
    /// Takes note of a piece that goes out over a session with a measured rate, 0 for none.
    pub(super) fn note(
        &self,
        priority: Priority,
        bytes: usize,
        (rate, round_trip): (u64, Duration),
        now: Duration,
    ) {
        let way = match rate {
            0 => round_trip.saturating_mul(WAY_ROUND_TRIPS),
            // Twice what it takes: other sessions use the line, too.
            rate => Duration::from_secs_f64(2.0 * bytes as f64 / rate as f64),
        };
        let until = now + way.clamp(WAY.0, WAY.1);
        if let Some(last) = self.until.lock().get_mut(priority as usize) {
            *last = until.max(*last);
        }
    }

    /// Tells whether something more urgent goes out.
    fn holds(&self, priority: Priority, now: Duration) -> bool {
        let until = self.until.lock();
        until
            .iter()
            .skip(priority as usize + 1)
            .any(|until| *until > now)
    }
}

/// Measures bytes over the time in which some were on their way.
#[derive(Debug, Default)]
struct Meter {
    bytes: f64,
    seconds: f64,
    last: Duration,
}

impl Meter {
    fn begin(&mut self, now: Duration) {
        self.last = now;
    }

    fn arrived(&mut self, bytes: u64, now: Duration) {
        let seconds = now.saturating_sub(self.last).as_secs_f64();
        self.last = now;
        let kept = 0.5f64.powf(seconds / HALF_LIFE_SECONDS);
        self.bytes = self.bytes * kept + bytes as f64;
        self.seconds = self.seconds * kept + seconds;
    }

    /// Returns the rate, 0 before anything was measured.
    fn rate(&self) -> f64 {
        // What took no time came at the fastest rate that counts.
        self.bytes / self.seconds.max(1e-6)
    }
}

#[derive(Debug, Default)]
struct State {
    meter: Meter,
    /// Bytes on their way.
    busy: u64,
    /// Those of them that somebody waits for.
    busy_awaited: u64,
    waiting: BTreeSet<Place>,
    next: u64,
    /// Counts what arrived.
    arrivals: u64,
}

/// A place in the queue: urgency, age of the transfer, age of the piece.
type Place = (Reverse<Priority>, u64, u64);

/// One direction of a session.
pub(super) struct Flow {
    clock: Arc<dyn Clock>,
    /// Most bytes on their way.
    window_max: u64,
    state: Mutex<State>,
    changed: Notify,
}

impl Flow {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let budget = Budget::of_process();
        Self {
            clock,
            window_max: budget.part(WINDOW_MAX_BYTES, 16).max(PIECES_MAX_BYTES),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Returns the measured bytes a second, 0 before anything was measured.
    pub(super) fn rate(&self) -> u64 {
        self.state.lock().meter.rate() as u64
    }

    /// Tells whether messages may go whole.
    pub(super) fn is_fast(&self) -> bool {
        self.rate() >= FAST_BYTES_PER_SECOND
    }

    /// Returns how many bytes of a stream of small parts make one message of about two seconds.
    pub(super) fn batch_bytes(&self, max: usize) -> usize {
        let ahead = (self.rate() as f64 * AHEAD_SECONDS) as usize;
        if self.is_fast() {
            max
        } else {
            ahead.clamp(2 * PIECE_BYTES, max)
        }
    }

    /// Waits until `bytes` of a transfer may set out; `order` says how old the transfer is. Where
    /// `urgency` is given, it makes way for what goes out over other sessions.
    pub(super) async fn enter(
        &self,
        bytes: u64,
        transfer: &Transfer,
        order: u64,
        round_trip: Duration,
        urgency: Option<&Urgency>,
    ) -> Permit<'_> {
        let mut wait = Wait::new(self, transfer.priority(), order);
        let mut seen = self.state.lock().arrivals;
        loop {
            let arrivals = self.state.lock().arrivals;
            if std::mem::replace(&mut seen, arrivals) != arrivals {
                // The line carries what comes before this: no reason to give up.
                transfer.moved(self.clock.monotonic());
            }
            let changed = self.changed.notified();
            wait.reprioritise(transfer.priority());
            let now = self.clock.monotonic();
            if urgency.is_some_and(|urgency| urgency.holds(transfer.priority(), now)) {
                transfer.moved(now);
                let _ = timeout(LOOK_EVERY, changed).await;
                continue;
            }
            if let Some(permit) = wait.begin(bytes, round_trip) {
                return permit;
            }
            let _ = timeout(LOOK_EVERY, changed).await;
        }
    }
}

fn window(rate: f64, round_trip: Duration, window_max: u64) -> u64 {
    let ahead = rate * (round_trip.as_secs_f64() + AHEAD_SECONDS);
    let max = if rate >= FAST_BYTES_PER_SECOND as f64 {
        window_max
    } else {
        PIECES_MAX_BYTES
    };
    (ahead as u64).saturating_add(PIECE_BYTES as u64).min(max)
}

/// Somebody in the queue; leaves it when dropped.
struct Wait<'a> {
    flow: &'a Flow,
    place: Place,
}

impl<'a> Wait<'a> {
    fn new(flow: &'a Flow, priority: Priority, order: u64) -> Self {
        let mut state = flow.state.lock();
        state.next += 1;
        let place = (Reverse(priority), order, state.next);
        state.waiting.insert(place);
        Self { flow, place }
    }

    fn reprioritise(&mut self, priority: Priority) {
        if self.place.0 != Reverse(priority) {
            let mut state = self.flow.state.lock();
            state.waiting.remove(&self.place);
            self.place.0 = Reverse(priority);
            state.waiting.insert(self.place);
        }
    }

    fn begin(&self, bytes: u64, round_trip: Duration) -> Option<Permit<'a>> {
        let flow = self.flow;
        let mut state = flow.state.lock();
        if state.waiting.first() != Some(&self.place) {
            return None;
        }
        let is_awaited = self.place.0.0 >= Priority::Awaited;
        // What is awaited does not wait for what is not.
        let busy = if is_awaited {
            state.busy_awaited
        } else {
            state.busy
        };
        if busy > 0 && busy + bytes > window(state.meter.rate(), round_trip, flow.window_max) {
            return None;
        }
        if state.busy == 0 {
            state.meter.begin(flow.clock.monotonic());
        }
        state.busy += bytes;
        if is_awaited {
            state.busy_awaited += bytes;
        }
        Some(Permit {
            flow,
            bytes,
            is_awaited,
        })
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.flow.state.lock().waiting.remove(&self.place);
        // The next may fit, too.
        self.flow.changed.notify_waiters();
    }
}

/// Bytes on their way; given back when dropped.
pub(super) struct Permit<'a> {
    flow: &'a Flow,
    bytes: u64,
    is_awaited: bool,
}

impl Permit<'_> {
    /// Takes note that so many bytes arrived.
    pub(super) fn arrived(self, bytes: u64) {
        let now = self.flow.clock.monotonic();
        let mut state = self.flow.state.lock();
        state.arrivals += 1;
        state.meter.arrived(bytes, now);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.flow.state.lock();
            state.busy -= self.bytes;
            if self.is_awaited {
                state.busy_awaited -= self.bytes;
            }
        }
        self.flow.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::{SimClock, sleep};

    #[test]
    fn the_meter_follows_the_line_and_counts_no_idle_time() {
        let mut meter = Meter::default();
        assert_eq!(meter.rate() as u64, 0);
        let mut now = Duration::ZERO;
        for _ in 0..20 {
            // Idle, then four seconds at 16,000 bytes a second.
            now += Duration::from_secs(100);
            meter.begin(now);
            for _ in 0..4 {
                now += Duration::from_secs(1);
                meter.arrived(16_000, now);
            }
        }
        assert!((15_900.0..16_100.0).contains(&meter.rate()));
        for _ in 0..30 {
            now += Duration::from_secs(1);
            meter.arrived(1_000, now);
        }
        assert!((1_000.0..1_100.0).contains(&meter.rate()));
    }

    #[test]
    fn two_seconds_of_the_rate_are_on_their_way_and_one_piece_at_least() {
        assert_eq!(
            window(0.0, Duration::ZERO, WINDOW_MAX_BYTES),
            PIECE_BYTES as u64
        );
        let slow = window(16_000.0, Duration::from_millis(500), WINDOW_MAX_BYTES);
        assert_eq!(slow, 40_000 + PIECE_BYTES as u64);
        assert_eq!(
            window(5e6, Duration::ZERO, WINDOW_MAX_BYTES),
            PIECES_MAX_BYTES
        );
        assert_eq!(
            window(1e12, Duration::ZERO, WINDOW_MAX_BYTES),
            WINDOW_MAX_BYTES
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_awaited_goes_before_readahead_even_when_it_became_so_later() {
        let flow = Flow::new(SimClock::new(0));
        let order = Mutex::new(Vec::new());
        let pass = async |name: &'static str, transfer: Arc<Transfer>, age| {
            let permit = flow.enter(1, &transfer, age, Duration::ZERO, None).await;
            order.lock().push(name);
            sleep(Duration::from_secs(1)).await;
            permit.arrived(1);
        };
        let (late, first) = (
            Transfer::new(Priority::Readahead),
            Transfer::new(Priority::Readahead),
        );
        let become_urgent = async {
            sleep(Duration::from_millis(500)).await;
            late.raise(Priority::Awaited);
        };
        // One of the whole window is on its way, then the others pass one by one.
        let hold = async {
            let busy = PIECE_BYTES as u64;
            let all = Transfer::new(Priority::Log);
            let permit = flow.enter(busy, &all, 0, Duration::ZERO, None).await;
            sleep(Duration::from_secs(2)).await;
            drop(permit);
        };
        tokio::join!(
            hold,
            pass("readahead", Arc::clone(&first), 1),
            pass("background", Transfer::new(Priority::Background), 2),
            pass("late", Arc::clone(&late), 3),
            become_urgent,
        );
        assert_eq!(*order.lock(), ["late", "readahead", "background"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_background_makes_way_for_what_goes_over_another_session() {
        let clock = SimClock::new(0);
        let (flow, urgency) = (Flow::new(clock.clone()), Urgency::default());
        let (rate, near) = (16_000, Duration::ZERO);
        urgency.note(Priority::Awaited, 32_000, (0, near), clock.monotonic());
        let soon = clock.monotonic() + WAY.0;
        assert!(!urgency.holds(Priority::Background, soon));
        urgency.note(Priority::Awaited, 32_000, (rate, near), clock.monotonic());
        let started = clock.monotonic();
        for (priority, waits) in [
            (Priority::Log, false),
            (Priority::Awaited, false),
            (Priority::Readahead, true),
        ] {
            let transfer = Transfer::new(priority);
            let permit = flow
                .enter(1, &transfer, 0, Duration::ZERO, Some(&urgency))
                .await;
            drop(permit);
            let waited = clock.monotonic() - started >= Duration::from_secs(4);
            assert_eq!(waited, waits, "{priority:?}");
        }
        assert!(!urgency.holds(Priority::Background, clock.monotonic()));
    }
}
