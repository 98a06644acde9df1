//! One connection to one peer, from the first byte to the last.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::error::NodeError;
use super::places::StrangersPlace;
use crate::base::time::timeout;
use crate::base::{Clock, PeerId};
use crate::transport::{Connection, TransportError};
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

/// Sends a request over a connection and waits for the answer, within `within`.
pub(super) async fn ask(
    connection: &Arc<dyn Connection>,
    request: &Request,
    payload: Bytes,
    within: Duration,
) -> Result<(Response, Bytes), AskError> {
    let answer = timeout(within, connection.request(request.encode(), payload)).await;
    let frame = answer.map_err(|_| AskError::TimedOut)??;
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
    /// Requests that were served without a session.
    favours: AtomicU32,
    owner_requests: Semaphore,
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
            clock,
            dialled,
            incarnation: OnceLock::new(),
            heard_ms: AtomicU64::new(0),
            strikes: AtomicU32::new(0),
            place: Mutex::new(None),
            knows_volume: AtomicBool::new(false),
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

    /// Returns for how long the peer has been silent.
    pub(super) fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.clock.monotonic().saturating_sub(heard)
    }

    /// Takes note of an offence, and says whether the peer has now committed too many.
    pub(super) fn strike(&self, weight: u32) -> bool {
        self.strikes.fetch_add(weight, Ordering::Relaxed) + weight >= STRIKES_MAX
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
        let peer = self.peer();
        match ask(&self.connection, request, payload, within).await {
            Ok((Response::Refused(refusal), _)) => {
                self.heard();
                Err(NodeError::Refused { peer, refusal })
            }
            Ok(answer) => {
                self.heard();
                Ok(answer)
            }
            Err(AskError::Transport(TransportError::TooLarge { .. })) => Err(NodeError::TooLarge),
            Err(AskError::Wire(_)) => Err(NodeError::Protocol { peer }),
            Err(AskError::Transport(_) | AskError::TimedOut) => Err(NodeError::NoAnswer { peer }),
        }
    }

    /// Sends a request of the owner, after those that are open already.
    pub(super) async fn owner_request(
        &self,
        request: &Request,
        payload: Bytes,
        within: Duration,
    ) -> Result<(Response, Bytes), NodeError> {
        let peer = self.peer();
        let work = async {
            let _permit = self.owner_requests.acquire().await;
            self.request(request, payload, within).await
        };
        timeout(within, work)
            .await
            .unwrap_or(Err(NodeError::NoAnswer { peer }))
    }
}
