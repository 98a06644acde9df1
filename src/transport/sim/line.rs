//! A machine's line out: packets one after another, at a rate.
//!
//! The connections take turns, as the packets of independent senders mix; within one the most urgent
//! message goes first, and of equals the one that came first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::time::sleep;
use crate::transport::Priority;

/// Bytes that go out at once.
pub(super) const PACKET_BYTES: usize = 1200;

/// A place in the queue of one connection.
type Place = (Reverse<Priority>, u64);

pub(super) struct Line {
    rate: u64,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    is_busy: bool,
    next: u64,
    /// Connections and who waits in each.
    queues: BTreeMap<u64, BTreeSet<Place>>,
    /// The connection that had the last turn.
    last: u64,
}

impl State {
    /// Returns who is next: the first in the connection behind the one that had the last turn.
    fn first(&self) -> Option<(u64, Place)> {
        let behind = self.queues.range(self.last + 1..).next();
        let (link, queue) = behind.or_else(|| self.queues.iter().next())?;
        Some((*link, *queue.first()?))
    }

    fn leave(&mut self, link: u64, place: &Place) {
        if let Some(queue) = self.queues.get_mut(&link) {
            queue.remove(place);
            if queue.is_empty() {
                self.queues.remove(&link);
            }
        }
    }
}

impl Line {
    pub(super) fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            state: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// Sends one packet when it is its turn; given up when dropped.
    pub(super) async fn send(&self, link: u64, priority: Priority, bytes: usize) {
        let mut turn = self.queue(link, priority);
        loop {
            let freed = self.freed.notified();
            if turn.begin() {
                break;
            }
            freed.await;
        }
        sleep(Duration::from_secs_f64(bytes as f64 / self.rate as f64)).await;
    }

    fn queue(&self, link: u64, priority: Priority) -> Turn<'_> {
        let mut state = self.state.lock();
        state.next += 1;
        let place = (Reverse(priority), state.next);
        state.queues.entry(link).or_default().insert(place);
        Turn {
            line: self,
            link,
            place,
            is_sending: false,
        }
    }
}

/// A packet that waits or is being sent.
struct Turn<'a> {
    line: &'a Line,
    link: u64,
    place: Place,
    is_sending: bool,
}

impl Turn<'_> {
    fn begin(&mut self) -> bool {
        let mut state = self.line.state.lock();
        if state.is_busy || state.first() != Some((self.link, self.place)) {
            return false;
        }
        state.leave(self.link, &self.place);
        state.is_busy = true;
        state.last = self.link;
        self.is_sending = true;
        true
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.line.state.lock();
            if self.is_sending {
                state.is_busy = false;
            } else {
                state.leave(self.link, &self.place);
            }
        }
        self.line.freed.notify_waiters();
    }
}
