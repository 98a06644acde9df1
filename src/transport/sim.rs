//! A network in memory: seeded delay, loss, partitions, death and return of whole machines.
//!
//! All waiting goes through the runtime's time, all chance through one seeded generator, and all
//! order through ordered maps, so that under paused time on one thread a seed replays everything.
//! What a real network does to QUIC is kept, and only that:
//!
//! - A message takes a random delay, so messages overtake each other.
//! - Across a partition messages wait, as retransmissions would; a connection that stays cut for
//!   [`IDLE_TIMEOUT`](super::IDLE_TIMEOUT) dies on both sides, each on its own.
//! - A killed machine says nothing: its peers notice after [`IDLE_TIMEOUT`](super::IDLE_TIMEOUT). A transport that is
//!   closed tells its peers.
//! - A lost request ends as [`TransportError::TimedOut`] after [`LOSS_TOLD`]; so does a lost
//!   reply, and then the request was executed. Duplicates come from callers that retry; a network may
//!   also let requests arrive twice, the second as late as chance has it: nobody may rely on retries being rare.
//! - A network may lose packets that go again, later each time, as on a long way: of messages, and of
//!   handshakes, where the dialler has its connection and the other side does not yet.
//! - A machine may have a line out with a rate, which all its connections share (`line.rs`): messages go
//!   in packets, the most urgent of a connection first; a lost packet goes again. What was given up
//!   goes no further.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{CONNECT_TIMEOUT, Connection, HANDSHAKE_TIMEOUT, Priority, Transport, TransportError};
use crate::base::task::spawn;
use crate::base::time::sleep;
use crate::base::told::Told;
use crate::base::{PeerId, Rng};

mod line;
mod link;

use line::Line;
use link::{Link, SimConnection, Way};

/// Connections that wait for `accept`; more are refused.
const BACKLOG_MAX: usize = 256;

/// Pauses after which the first packet of a dial goes again, as in QUIC.
const RESENDS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// When the loss of a message is noticed.
pub const LOSS_TOLD: Duration = Duration::from_secs(5);

/// The network that simulated transports talk through; clones are the same network.
///
/// Its methods that cut, kill or heal must be called within a tokio runtime.
#[derive(Clone)]
pub struct SimNet {
    net: Arc<Net>,
}

/// What the network carried so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SimStats {
    /// Requests and replies that set out.
    pub messages: u64,
    /// Those that were lost.
    pub lost: u64,
    /// Bytes of all that set out, bodies and payloads.
    pub bytes: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Bytes that left over lines with a rate, repetitions included.
    pub line_bytes: u64,
}

impl SimNet {
    /// Returns a network without loss and with a delay of 1 ms each way.
    pub fn new(seed: u64) -> Self {
        Self {
            net: Arc::new(Net {
                rng: Rng::from_seed(seed),
                topology: Told::new(0),
                state: Mutex::new(State {
                    delay_min: Duration::from_millis(1),
                    delay_max: Duration::from_millis(1),
                    loss_permille: 0,
                    bytes_per_second: None,
                    lines: BTreeMap::new(),
                    packet_loss_permille: 0,
                    repeated_permille: 0,
                    doubled_permille: 0,
                    endpoints: BTreeMap::new(),
                    cut: BTreeSet::new(),
                    undialled: BTreeSet::new(),
                    links: BTreeMap::new(),
                    link_next: 0,
                    stats: SimStats::default(),
                }),
            }),
        }
    }

    /// Starts a machine at `addr` whose handshakes prove `peer` and show `spki`.
    ///
    /// A machine that is still there is killed first, so this is also how one restarts.
    pub fn transport(&self, addr: SocketAddr, peer: PeerId, spki: Vec<u8>) -> Arc<dyn Transport> {
        self.kill(addr);
        let (backlog, accepted) = mpsc::channel(BACKLOG_MAX);
        let endpoint = Arc::new(Endpoint {
            addr,
            peer,
            spki,
            backlog,
            down: Told::new(false),
        });
        let mut state = self.net.state.lock();
        state.endpoints.insert(addr, Arc::clone(&endpoint));
        Arc::new(SimTransport {
            net: Arc::clone(&self.net),
            endpoint,
            accepted: tokio::sync::Mutex::new(accepted),
        })
    }

    /// Sets how long a message travels one way, evenly between two bounds.
    pub fn set_delay(&self, min: Duration, max: Duration) {
        let mut state = self.net.state.lock();
        state.delay_min = min.min(max);
        state.delay_max = min.max(max);
    }

    /// Sets how many of a thousand messages and connection attempts are lost.
    pub fn set_loss_permille(&self, permille: u32) {
        self.net.state.lock().loss_permille = permille;
    }

    /// Sets how fast a message flows once it is on its way; `None` is at once.
    pub fn set_bytes_per_second(&self, rate: Option<u64>) {
        self.net.state.lock().bytes_per_second = rate;
    }

    /// Gives the machine at `addr` a line out of so many bytes a second, for all its connections
    /// together; `None` takes it away. Meant for messages that set out later.
    pub fn set_line(&self, addr: SocketAddr, rate: Option<u64>) {
        let mut state = self.net.state.lock();
        match rate {
            Some(rate) => state.lines.insert(addr, Arc::new(Line::new(rate))),
            None => state.lines.remove(&addr),
        };
    }

    /// Sets how many of a thousand packets on lines with a rate are lost and go again.
    pub fn set_packet_loss_permille(&self, permille: u32) {
        self.net.state.lock().packet_loss_permille = permille;
    }

    /// Sets how many of a thousand messages, and flights of a handshake, are lost and go again: after
    /// three round trips, as in QUIC, and after twice that where they are lost once more.
    pub fn set_repeated_permille(&self, permille: u32) {
        self.net.state.lock().repeated_permille = permille;
    }

    /// Sets how many of a thousand requests arrive twice, each on its own way: the reply to the second is
    /// for nobody.
    pub fn set_doubled_permille(&self, permille: u32) {
        self.net.state.lock().doubled_permille = permille;
    }

    /// Cuts every path between an address of `left` and one of `right`, both ways.
    pub fn partition(&self, left: &[SocketAddr], right: &[SocketAddr]) {
        self.net.cut(pairs(left, right).chain(pairs(right, left)));
    }

    /// Cuts the paths from `from` to `to` alone: `to` is still heard by `from`.
    pub fn partition_one_way(&self, from: &[SocketAddr], to: &[SocketAddr]) {
        self.net.cut(pairs(from, to));
    }

    /// Lets nobody dial the machine at `addr`, which dials others: it is behind a NAT.
    pub fn hide(&self, addr: SocketAddr) {
        self.net.state.lock().undialled.insert(addr);
    }

    /// Mends every cut, and ends all loss.
    pub fn heal(&self) {
        let mut state = self.net.state.lock();
        state.loss_permille = 0;
        state.cut.clear();
        let links = state.live_links();
        drop(state);
        for link in links {
            link.heard_again();
        }
        self.net.topology.change(|version| *version += 1);
    }

    /// Pulls the plug of the machine at `addr`: it says nothing more and its peers are not told.
    pub fn kill(&self, addr: SocketAddr) {
        let mut state = self.net.state.lock();
        let Some(endpoint) = state.endpoints.remove(&addr) else {
            return;
        };
        let links = state.live_links();
        drop(state);
        endpoint.down.set(true);
        for link in links {
            link.machine_died(addr);
        }
        self.net.topology.change(|version| *version += 1);
    }

    /// Returns the addresses of the machines that run, in order.
    pub fn alive(&self) -> Vec<SocketAddr> {
        self.net.state.lock().endpoints.keys().copied().collect()
    }

    /// Returns what the network carried so far.
    pub fn stats(&self) -> SimStats {
        self.net.state.lock().stats
    }
}

impl std::fmt::Debug for SimNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimNet")
            .field("alive", &self.alive())
            .finish()
    }
}

fn pairs<'a>(
    from: &'a [SocketAddr],
    to: &'a [SocketAddr],
) -> impl Iterator<Item = (SocketAddr, SocketAddr)> + 'a {
    from.iter()
        .flat_map(move |from| to.iter().map(move |to| (*from, *to)))
}

struct Net {
    rng: Rng,
    /// Counts the changes of `cut` and `endpoints`, for those who wait for one.
    topology: Told<u64>,
    state: Mutex<State>,
}

struct State {
    delay_min: Duration,
    delay_max: Duration,
    loss_permille: u32,
    bytes_per_second: Option<u64>,
    /// Lines out with a rate.
    lines: BTreeMap<SocketAddr, Arc<Line>>,
    packet_loss_permille: u32,
    repeated_permille: u32,
    doubled_permille: u32,
    endpoints: BTreeMap<SocketAddr, Arc<Endpoint>>,
    /// Paths (from, to) on which nothing moves.
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
    /// Machines that nobody can dial.
    undialled: BTreeSet<SocketAddr>,
    links: BTreeMap<u64, Weak<Link>>,
    link_next: u64,
    stats: SimStats,
}

impl State {
    fn live_links(&mut self) -> Vec<Arc<Link>> {
        self.links.retain(|_, link| link.strong_count() > 0);
        self.links.values().filter_map(Weak::upgrade).collect()
    }
}

impl Net {
    fn cut(&self, paths: impl Iterator<Item = (SocketAddr, SocketAddr)>) {
        let mut state = self.state.lock();
        state.cut.extend(paths);
        let mut links = state.live_links();
        links.retain(|link| {
            let (a, b) = link.addrs();
            state.cut.contains(&(a, b)) || state.cut.contains(&(b, a))
        });
        drop(state);
        for link in links {
            link.fell_silent();
        }
        self.topology.change(|version| *version += 1);
    }

    fn is_cut(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.state.lock().cut.contains(&(from, to))
    }

    fn delay(&self) -> Duration {
        let (min, max) = {
            let state = self.state.lock();
            (state.delay_min, state.delay_max)
        };
        let span_us = u64::try_from((max - min).as_micros()).unwrap_or(u64::MAX);
        min + Duration::from_micros(self.rng.below(span_us.saturating_add(1)))
    }

    fn is_lost(&self) -> bool {
        let permille = u64::from(self.state.lock().loss_permille);
        // No draw without loss: turning loss on must not change the delays before it.
        permille > 0 && self.rng.below(1000) < permille
    }

    fn is_doubled(&self) -> bool {
        let permille = u64::from(self.state.lock().doubled_permille);
        // As without loss: no draw.
        permille > 0 && self.rng.below(1000) < permille
    }

    /// Returns how much later something comes because it had to go again.
    fn repeats(&self) -> Duration {
        let (permille, round_trip) = {
            let state = self.state.lock();
            let round_trip = state.delay_min + state.delay_max;
            (u64::from(state.repeated_permille), round_trip)
        };
        let (mut late, mut pause) = (Duration::ZERO, round_trip * 3);
        while permille > 0 && self.rng.below(1000) < permille {
            late += pause;
            pause *= 2;
        }
        late
    }

    /// Carries a message of `bytes` from one address to another; false where it got lost on the
    /// way, which is told after [`LOSS_TOLD`]. Waits while the path is cut.
    async fn carry(&self, way: Way<'_>, bytes: usize, priority: Priority) -> bool {
        let (from, to) = (way.from.addr(), way.to.addr());
        let lost = self.is_lost();
        let flow = {
            let mut state = self.state.lock();
            state.stats.messages += 1;
            state.stats.lost += u64::from(lost);
            state.stats.bytes += bytes as u64;
            state.bytes_per_second.map_or(Duration::ZERO, |rate| {
                Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)
            })
        };
        if lost {
            sleep(LOSS_TOLD).await;
            return false;
        }
        let late = self.repeats();
        if late > Duration::ZERO {
            sleep(late).await;
        }
        let line = self.state.lock().lines.get(&from).cloned();
        match line {
            Some(line) => self.through(&line, way, bytes, priority).await,
            None => way.passed(bytes),
        }
        sleep(self.delay() + flow).await;
        self.uncut(from, to).await;
        way.to.hear();
        true
    }

    /// Sends a message through a line, packet by packet.
    async fn through(&self, line: &Line, way: Way<'_>, bytes: usize, priority: Priority) {
        let mut left = bytes.max(1);
        while left > 0 {
            let packet = left.min(line::PACKET_BYTES);
            line.send(way.link, priority, packet).await;
            self.uncut(way.from.addr(), way.to.addr()).await;
            let lost = {
                let mut state = self.state.lock();
                state.stats.line_bytes += packet as u64;
                u64::from(state.packet_loss_permille)
            };
            if lost == 0 || self.rng.below(1000) >= lost {
                left -= packet;
                way.passed(packet);
            }
        }
    }

    /// Waits while the path is cut.
    async fn uncut(&self, from: SocketAddr, to: SocketAddr) {
        while self.is_cut(from, to) {
            let seen = self.topology.get();
            if self.is_cut(from, to) {
                self.topology.wait_for(|version| *version != seen).await;
            }
        }
    }
}

struct Endpoint {
    addr: SocketAddr,
    peer: PeerId,
    spki: Vec<u8>,
    backlog: mpsc::Sender<Arc<dyn Connection>>,
    down: Told<bool>,
}

impl Endpoint {
    async fn went_down(&self) {
        self.down.wait_for(|down| *down).await;
    }
}

struct SimTransport {
    net: Arc<Net>,
    endpoint: Arc<Endpoint>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<Arc<dyn Connection>>>,
}

impl SimTransport {
    async fn dial(&self, addr: SocketAddr) -> Result<Arc<dyn Connection>, TransportError> {
        let here = self.endpoint.addr;
        let out = self.net.delay();
        let reachable = |state: &State| {
            let cut = state.cut.contains(&(here, addr)) || state.cut.contains(&(addr, here));
            !cut && !state.undialled.contains(&addr)
        };
        let mut waited = out;
        sleep(out).await;
        let target = {
            let mut resends = RESENDS.iter();
            loop {
                // Of the way there, and of the way back.
                let again = [self.net.repeats(), self.net.repeats()];
                let lost = self.net.is_lost() || again != [Duration::ZERO; 2];
                let found = {
                    let state = self.net.state.lock();
                    let found = state.endpoints.get(&addr).cloned();
                    found.filter(|_| !lost && reachable(&state))
                };
                let pause = match (found, resends.next()) {
                    (Some(target), _) => break target,
                    (None, Some(pause)) => *pause,
                    (None, None) => {
                        sleep(CONNECT_TIMEOUT.saturating_sub(waited)).await;
                        return Err(TransportError::Unreachable { addr });
                    }
                };
                waited += pause;
                sleep(pause).await;
            }
        };
        sleep(self.net.delay()).await;
        if target.down.get() {
            sleep(CONNECT_TIMEOUT.saturating_sub(waited + out)).await;
            return Err(TransportError::Unreachable { addr });
        }
        let (ours, theirs) = self.link(&target);
        let late = self.net.repeats();
        if late > Duration::ZERO {
            // What proves this side is still on its way: the other has no connection yet.
            let (way, backlog) = (self.net.delay(), target.backlog.clone());
            spawn(async move {
                sleep((late + way).min(HANDSHAKE_TIMEOUT)).await;
                if late + way < HANDSHAKE_TIMEOUT {
                    // Where nobody takes it, it is closed.
                    let _ = backlog.try_send(Arc::new(theirs));
                }
            });
        } else if target.backlog.try_send(Arc::new(theirs)).is_err() {
            return Err(TransportError::Unreachable { addr });
        }
        Ok(Arc::new(ours))
    }

    /// Makes a connection between this machine and another.
    fn link(&self, target: &Endpoint) -> (SimConnection, SimConnection) {
        let link = {
            let mut state = self.net.state.lock();
            state.link_next += 1;
            let number = state.link_next;
            drop(state);
            Link::new(number, &self.net, &self.endpoint, target)
        };
        let number = link.number();
        let mut state = self.net.state.lock();
        state.stats.connections += 1;
        state.links.insert(number, Arc::downgrade(&link));
        let cut = state.cut.contains(&(self.endpoint.addr, target.addr))
            || state.cut.contains(&(target.addr, self.endpoint.addr));
        drop(state);
        if cut {
            link.fell_silent();
        }
        SimConnection::pair(link)
    }
}

#[async_trait]
impl Transport for SimTransport {
    fn local_addr(&self) -> SocketAddr {
        self.endpoint.addr
    }

    async fn connect(&self, addr: SocketAddr) -> Result<Arc<dyn Connection>, TransportError> {
        tokio::select! {
            biased;
            () = self.endpoint.went_down() => Err(TransportError::Closed {
                reason: "this transport was closed".to_owned(),
            }),
            dialled = self.dial(addr) => dialled,
        }
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        let mut accepted = self.accepted.lock().await;
        tokio::select! {
            biased;
            () = self.endpoint.went_down() => None,
            connection = accepted.recv() => connection,
        }
    }

    async fn close(&self) {
        let here = self.endpoint.addr;
        let links = {
            let mut state = self.net.state.lock();
            // A machine that was restarted at this address is somebody else.
            let ours = state
                .endpoints
                .get(&here)
                .is_some_and(|endpoint| Arc::ptr_eq(endpoint, &self.endpoint));
            if !ours {
                return;
            }
            state.endpoints.remove(&here);
            state.live_links()
        };
        self.endpoint.down.set(true);
        for link in links {
            link.machine_closed(here);
        }
    }
}

#[cfg(test)]
mod tests;
