//! A machine that moves: its addresses come and go, and it sleeps.
//!
//! The machine is asked for its addresses whenever they are needed, and every few seconds. Where they
//! changed, or time was lost, what was learned of the old place no longer counts: the others are told
//! the new addresses and everybody who has no session is dialled at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Node;
use super::peers::DEAD_AFTER;
use crate::transport::canonical;
use crate::wire::limits::ADDRS_MAX;

/// How often the machine is asked whether it has moved.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How much longer than it was meant to be a pause is that the machine slept through.
const ASLEEP_AFTER: Duration = Duration::from_secs(5);

/// The moments at which the machine was looked at last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    monotonic: Duration,
    wall: Duration,
    looked: Duration,
}

impl Watch {
    pub(super) fn new(monotonic: Duration, wall: Duration) -> Self {
        Self {
            monotonic,
            wall,
            looked: monotonic,
        }
    }

    /// Takes note of the time after a short pause; returns how long the machine slept meanwhile,
    /// zero where it did not.
    ///
    /// The monotonic clock of Linux stands still while the machine is asleep, the time of day does
    /// not; a process that was stopped sees both go on.
    fn slept(&mut self, monotonic: Duration, wall: Duration) -> Duration {
        let by_wall = wall.saturating_sub(self.wall);
        let gap = by_wall.max(monotonic.saturating_sub(self.monotonic));
        (self.monotonic, self.wall) = (monotonic, wall);
        if gap > ASLEEP_AFTER {
            gap
        } else {
            Duration::ZERO
        }
    }

    fn is_due(&mut self, now: Duration) -> bool {
        let due = now >= self.looked + LOOK_EVERY;
        if due {
            self.looked = now;
        }
        due
    }
}

impl Node {
    /// Returns the addresses at which this peer can be reached now, as far as it knows: never
    /// loopback ones, unless it listens there alone.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        let listen = self.local_addr();
        let observed = self.own.lock().observed.clone();
        let local = Some(listen).filter(|addr| !addr.ip().is_unspecified());
        let machine = self.config.machine.addrs(listen);
        reachable(listen, machine.iter().chain(&local).chain(&observed))
    }

    /// Returns when bulk moved last between this peer and any other, on its monotonic clock.
    pub fn moved_at(&self) -> Duration {
        let sessions = self.table.lock().sessions();
        let moved = sessions.iter().map(|session| session.look());
        moved.max().unwrap_or_default()
    }

    pub(super) fn watch(&self) -> Watch {
        Watch::new(self.now(), Duration::from_millis(self.clock.wall_ms()))
    }

    /// Looks whether the machine moved or slept since the last call, and acts on it.
    pub(super) fn look_around(self: &Arc<Self>, watch: &mut Watch) {
        let slept = watch.slept(self.now(), Duration::from_millis(self.clock.wall_ms()));
        if !slept.is_zero() {
            tracing::info!(
                seconds = slept.as_secs(),
                "time was lost: asleep, or stopped"
            );
            self.woke(slept);
        }
        if watch.is_due(self.now()) || !slept.is_zero() {
            self.look_at_addrs();
        }
    }

    /// The peers have given this one up where it slept for longer than they wait.
    fn woke(&self, slept: Duration) {
        let sessions = self.table.lock().sessions();
        for session in sessions {
            if slept >= DEAD_AFTER {
                session.close("was asleep");
            } else {
                session.pulse_wake.notify_one();
            }
        }
        self.dial_all_soon();
    }

    fn look_at_addrs(self: &Arc<Self>) {
        let local = self.config.machine.addrs(self.local_addr());
        {
            let mut own = self.own.lock();
            if own.local == local {
                return;
            }
            own.local = local;
            // Seen at the old place; the next hello says how it is here.
            own.observed.clear();
        }
        tracing::info!(addrs = ?self.addrs(), "this machine's addresses changed");
        self.sign_own_record();
        self.spread_own_record();
        for session in self.table.lock().sessions() {
            session.pulse_wake.notify_one();
        }
        self.dial_all_soon();
    }

    /// Lets all dials that wait come at once: something says that the network is there.
    pub(super) fn dial_all_soon(&self) {
        self.table.lock().dial_all_soon();
        self.dial_wake.notify_one();
    }
}

/// Puts addresses into the form that others can use, each once.
fn reachable<'a>(
    listen: SocketAddr,
    addrs: impl Iterator<Item = &'a SocketAddr>,
) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for addr in addrs {
        let addr = canonical(*addr);
        let is_of_use = !addr.ip().is_unspecified()
            && (!addr.ip().is_loopback() || listen.ip().to_canonical().is_loopback());
        if is_of_use && !found.contains(&addr) {
            found.push(addr);
        }
    }
    found.truncate(ADDRS_MAX);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_on_either_clock_is_sleep() {
        let seconds = Duration::from_secs;
        let mut watch = Watch::new(seconds(10), seconds(1000));
        assert_eq!(watch.slept(seconds(11), seconds(1001)), Duration::ZERO);
        // Suspended: the monotonic clock stood still.
        assert_eq!(watch.slept(seconds(12), seconds(4601)), seconds(3600));
        assert_eq!(watch.slept(seconds(13), seconds(4602)), Duration::ZERO);
        // Stopped.
        assert_eq!(watch.slept(seconds(43), seconds(4632)), seconds(30));
        // The time of day was set back.
        assert_eq!(watch.slept(seconds(44), seconds(32)), Duration::ZERO);
    }

    #[test]
    fn only_who_listens_on_loopback_alone_names_it() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        let all = [
            addr("[::ffff:10.0.0.7]:4750"),
            addr("127.0.0.1:4750"),
            addr("10.0.0.7:4750"),
            addr("[::1]:4750"),
            addr("[::]:4750"),
            addr("[fd77::1]:4750"),
        ];
        assert_eq!(
            reachable(addr("[::]:4750"), all.iter()),
            [addr("10.0.0.7:4750"), addr("[fd77::1]:4750")]
        );
        assert_eq!(
            reachable(addr("0.0.0.0:4750"), all[1..2].iter()),
            Vec::<SocketAddr>::new()
        );
        assert_eq!(
            reachable(addr("127.0.0.1:4750"), all[1..2].iter()),
            [addr("127.0.0.1:4750")]
        );
    }
}
