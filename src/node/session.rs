//! One connection to one peer, from the first byte to the last.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::error::NodeError;
use super::flow::Flow;
use super::places::StrangersPlace;
use super::transfer::Transfer;
use crate::base::time::timeout;
use crate::base::{Clock, PeerId};
use crate::transport::{Connection, Priority, Traffic, TransportError};
use crate::wire::{Request, Response, Vector, WireError};

/// Requests of the owner that are open to one peer at once; half of the transport's streams, so
/// that sync and pings always find one.
const OWNER_REQUESTS_MAX: usize = 128;

/// How many offences end a connection. One costs its sender little and this peer less; a broken
/// but honest peer must not be cut off for a single bad message.
const STRIKES_MAX: u32 = 16;

/// Requests of roster, invites and askings that are served without a session: as many as the largest roster
/// takes, pulled and pushed.
const FAVOURS_MAX: u32 = 64;

/// Round trips that a request may take beside its time: one lost packet after another is sent again.
const ROUND_TRIPS: u32 = 4;

/// Longest round trip that deadlines make room for.
const RTT_MAX: Duration = Duration::from_secs(5);

/// A line moves where so many bytes pass in [`MOVING_TIME`]: more than what peers that do nothing
/// tell each other.
const MOVING_BYTES: u64 = 16 << 10;

/// Time over which moving is measured.
const MOVING_TIME: Duration = Duration::from_secs(10);

/// How long a peer that pushes what it has written may let nothing come before it is asked.
const PUSH_PATIENCE: Duration = Duration::from_secs(10);

/// What passes in [`LOOK_EVERY`] where a transfer flows.
const FLOW_BYTES: u64 = 1 << 10;

/// How often who waits for an answer looks whether the line moves.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Longest wait for an answer, however much else moves meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(3600);

/// What a request came to, short of an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("no answer in time")]
    TimedOut,
}

/// Sends a request and waits for the answer, until nothing has moved for `within`.
pub(super) async fn ask(
    session: &Session,
    request: &Request,
    payload: Bytes,
    within: Duration,
) -> Result<(Response, Bytes), AskError> {
    let exchange = session.connection.request(request.encode(), payload);
    let answer = session.patiently(within, None, exchange).await;
    let frame = answer.ok_or(AskError::TimedOut)??;
    Ok((Response::decode(&frame.body)?, frame.payload))
}

/// A connection, whoever dialled it, and the session on it once both sides said hello.
pub(super) struct Session {
    connection: Arc<dyn Connection>,
    clock: Arc<dyn Clock>,
    /// Whether this side dialled.
    pub(super) dialled: bool,
    /// The peer's run, set by its hello: from then on the session is open.
    incarnation: OnceLock<u64>,
    /// When the peer gave its last sign of life, milliseconds of the monotonic clock.
    heard_ms: AtomicU64,
    strikes: AtomicU32,
    /// What this connection holds until the session is open.
    place: Mutex<Option<StrangersPlace>>,
    /// Whether the peer has shown that it knows the volume's id: strangers do not.
    knows_volume: AtomicBool,
    /// True once the peer said what only a newer program knows.
    says_newer: AtomicBool,
    /// Requests that were served without a session.
    favours: AtomicU32,
    owner_requests: Semaphore,
    /// Bulk to the peer.
    pub(super) out: Flow,
    /// Bulk from the peer.
    pub(super) inward: Flow,
    signs: Mutex<Signs>,
    /// Since when the peer has had segments of its own that are not here.
    unpushed_since: Mutex<Option<Duration>>,
    /// Wakes the log's work: there may be something to push or to pull.
    pub(super) log_wake: Notify,
    /// Wakes the pulse: there is news that the peer is to hear now.
    pub(super) pulse_wake: Notify,
    /// What the peer was last told that this one has.
    pub(super) told: Mutex<Vector>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer())
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(
        connection: Arc<dyn Connection>,
        clock: Arc<dyn Clock>,
        dialled: bool,
    ) -> Arc<Self> {
        let session = Self {
            connection,
            out: Flow::new(Arc::clone(&clock)),
            inward: Flow::new(Arc::clone(&clock)),
            signs: Mutex::default(),
            unpushed_since: Mutex::default(),
            clock,
            dialled,
            incarnation: OnceLock::new(),
            heard_ms: AtomicU64::new(0),
            strikes: AtomicU32::new(0),
            place: Mutex::new(None),
            knows_volume: AtomicBool::new(false),
            says_newer: AtomicBool::new(false),
            favours: AtomicU32::new(0),
            owner_requests: Semaphore::new(OWNER_REQUESTS_MAX),
            log_wake: Notify::new(),
            pulse_wake: Notify::new(),
            told: Mutex::new(Vector::new()),
        };
        session.heard();
        Arc::new(session)
    }

    /// Returns who the peer has proved to be.
    pub(super) fn peer(&self) -> PeerId {
        self.connection.peer()
    }

    pub(super) fn remote_addr(&self) -> SocketAddr {
        self.connection.remote_addr()
    }

    pub(super) fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    pub(super) fn connection(&self) -> &Arc<dyn Connection> {
        &self.connection
    }

    /// Opens the session after the hellos; a second hello changes nothing.
    pub(super) fn open(&self, incarnation: u64) {
        let _ = self.incarnation.set(incarnation);
        self.place.lock().take();
    }

    /// Keeps a place until the session is open or gone.
    pub(super) fn hold(&self, place: StrangersPlace) {
        *self.place.lock() = Some(place);
    }

    pub(super) fn is_open(&self) -> bool {
        self.incarnation.get().is_some()
    }

    pub(super) fn incarnation(&self) -> Option<u64> {
        self.incarnation.get().copied()
    }

    /// Takes note of a sign of life.
    pub(super) fn heard(&self) {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(now, Ordering::Relaxed);
    }

    /// Looks at what the connection carried: any packet is a sign of life. Returns when bytes moved
    /// last in either direction.
    pub(super) fn look(&self) -> Duration {
        let (traffic, now) = (self.connection.traffic(), self.clock.monotonic());
        let (heard, moved_at) = {
            let mut signs = self.signs.lock();
            let heard = std::mem::replace(&mut signs.heard, traffic.heard) != traffic.heard;
            signs.note(&traffic, now);
            (heard, signs.moved_at)
        };
        if heard {
            self.heard();
        }
        moved_at
    }

    /// Waits for `work` until nothing has moved for `within`; `None` then. What moves meanwhile is
    /// told to the transfer that it is for.
    pub(super) async fn patiently<T>(
        &self,
        within: Duration,
        transfer: Option<&Transfer>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let started = self.clock.monotonic();
        let within = within + self.rtt().min(RTT_MAX) * ROUND_TRIPS;
        let mut before = self.connection.traffic();
        loop {
            let now = self.clock.monotonic();
            let left = (self.look().max(started) + within).saturating_sub(now);
            if left.is_zero() || now.saturating_sub(started) > ANSWER_MAX {
                return None;
            }
            if let Ok(done) = timeout(left.min(LOOK_EVERY), work.as_mut()).await {
                return Some(done);
            }
            let traffic = self.connection.traffic();
            if let Some(transfer) = transfer
                && flows(&before, &traffic)
            {
                transfer.moved(self.clock.monotonic());
            }
            before = traffic;
        }
    }

    /// Tells whether what the peer has written is on its way, so that it need not be asked for: it
    /// pushes it by itself, and takes as long as the line does.
    pub(super) fn is_pushing(&self, has_more: bool, now: Duration) -> bool {
        let mut since = self.unpushed_since.lock();
        if !has_more {
            *since = None;
            return false;
        }
        let since = *since.get_or_insert(now);
        now < since.max(self.look()) + PUSH_PATIENCE
    }

    /// Returns how long the peer may be silent beyond what all may: the way is long.
    pub(super) fn grace(&self) -> Duration {
        self.rtt().min(RTT_MAX) * 3
    }

    /// Returns for how long the peer has been silent.
    pub(super) fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.clock.monotonic().saturating_sub(heard)
    }

    /// Takes note of an offence, and says whether the peer has now committed too many.
    pub(super) fn strike(&self, weight: u32) -> bool {
        self.strikes.fetch_add(weight, Ordering::Relaxed) + weight >= STRIKES_MAX
    }

    /// Takes note that the peer said what only a newer program knows: no offence, and worth an update here.
    pub(super) fn note_newer(&self) {
        self.says_newer.store(true, Ordering::Relaxed);
    }

    /// Says whether it did.
    pub(super) fn says_newer(&self) -> bool {
        self.says_newer.load(Ordering::Relaxed)
    }

    pub(super) fn know_volume(&self) {
        self.knows_volume.store(true, Ordering::Relaxed);
    }

    /// Says whether roster requests of this peer are served: on an open session always, before it
    /// a few of a peer that knows the volume.
    pub(super) fn may_ask_roster(&self) -> bool {
        self.is_open() || self.knows_volume.load(Ordering::Relaxed) && self.takes_favour()
    }

    /// Says whether one more request is served without a session, and counts it.
    pub(super) fn takes_favour(&self) -> bool {
        self.favours.fetch_add(1, Ordering::Relaxed) < FAVOURS_MAX
    }

    pub(super) fn close(&self, reason: &str) {
        self.connection.close(reason);
    }

    /// Sends one of this room's own requests.
    pub(super) async fn request(
        &self,
        request: &Request,
        payload: Bytes,
        within: Duration,
    ) -> Result<(Response, Bytes), NodeError> {
        let body = request.encode();
        let priority = Priority::of(body.len() + payload.len());
        self.request_as(body, payload, within, priority, None).await
    }

    /// Sends an encoded request; the time counts from the last progress.
    pub(super) async fn request_as(
        &self,
        body: Bytes,
        payload: Bytes,
        within: Duration,
        priority: Priority,
        transfer: Option<&Transfer>,
    ) -> Result<(Response, Bytes), NodeError> {
        let peer = self.peer();
        let exchange = self.connection.request_as(body, payload, priority);
        let frame = match self.patiently(within, transfer, exchange).await {
            Some(Ok(frame)) => frame,
            Some(Err(TransportError::TooLarge { .. })) => return Err(NodeError::TooLarge),
            Some(Err(_)) | None => return Err(NodeError::NoAnswer { peer }),
        };
        let response = Response::decode(&frame.body);
        match response.map_err(|_| NodeError::Protocol { peer })? {
            Response::Refused(refusal) => {
                self.heard();
                Err(NodeError::Refused { peer, refusal })
            }
            response => {
                self.heard();
                Ok((response, frame.payload))
            }
        }
    }

    /// Waits until one more request of the owner may be open.
    pub(super) async fn owner_turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.owner_requests.acquire().await.ok()
    }
}

/// Tells whether more passed between two looks than what peers that do nothing tell each other.
fn flows(before: &Traffic, now: &Traffic) -> bool {
    let received = now.received_bytes - before.received_bytes;
    let sent = now.sent_bytes - before.sent_bytes;
    received >= FLOW_BYTES || sent >= FLOW_BYTES && now.acknowledged > before.acknowledged
}

/// What was seen of a connection's traffic.
#[derive(Debug, Default)]
struct Signs {
    heard: u64,
    mark: Traffic,
    mark_at: Duration,
    moved_at: Duration,
}

impl Signs {
    /// Takes note that bulk moved: bytes came, or went and were acknowledged.
    fn note(&mut self, traffic: &Traffic, now: Duration) {
        let received = traffic.received_bytes - self.mark.received_bytes;
        let sent = traffic.sent_bytes - self.mark.sent_bytes;
        let is_acknowledged = traffic.acknowledged > self.mark.acknowledged;
        let moved = received >= MOVING_BYTES || sent >= MOVING_BYTES && is_acknowledged;
        if moved {
            self.moved_at = now;
        }
        if moved || now.saturating_sub(self.mark_at) > MOVING_TIME {
            (self.mark, self.mark_at) = (*traffic, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_is_progress_and_what_idle_peers_say_is_none() {
        let mut signs = Signs::default();
        let mut traffic = Traffic::default();
        for second in 1..100 {
            // A pulse and its answer.
            traffic.sent_bytes += 500;
            traffic.received_bytes += 500;
            traffic.acknowledged += 1;
            signs.note(&traffic, Duration::from_secs(second));
        }
        assert_eq!(signs.moved_at, Duration::ZERO);
        for second in 100..120 {
            traffic.sent_bytes += 4_000;
            traffic.acknowledged += 1;
            signs.note(&traffic, Duration::from_secs(second));
        }
        assert!(signs.moved_at >= Duration::from_secs(115));
        let moved_at = signs.moved_at;
        for second in 120..200 {
            // It goes out again and again, and nothing says that it arrives.
            traffic.sent_bytes += 4_000;
            signs.note(&traffic, Duration::from_secs(second));
        }
        assert!(signs.moved_at <= moved_at + MOVING_TIME);
    }
}
