//! One simulated connection: two ends, each with its inbox and its own idea of being alive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Endpoint, Net};
use crate::base::PeerId;
use crate::base::time::sleep;
use crate::base::told::Told;
use crate::transport::{
    Connection, Frame, IDLE_TIMEOUT, Incoming, Priority, ReplyHandle, ReplySink, STREAMS_MAX,
    Traffic, TransportError,
};

/// How much longer than others a request is on its way that arrives once more.
const DOUBLE_DELAYS: u32 = 3;

/// What one end knows about the connection.
#[derive(Debug, Clone)]
enum Fate {
    /// It works, or so it seems.
    Open,
    /// The peer was silent for too long; final.
    TimedOut,
    /// One side closed it; final.
    Closed { reason: String },
}

impl Fate {
    fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    fn error(&self) -> TransportError {
        match self {
            Self::Open | Self::TimedOut => TransportError::TimedOut,
            Self::Closed { reason } => TransportError::Closed {
                reason: reason.clone(),
            },
        }
    }
}

/// A request in an inbox.
struct Arrived {
    frame: Frame,
    reply: oneshot::Sender<Reply>,
}

/// A reply on its way back.
struct Reply {
    frame: Frame,
    priority: Priority,
    /// Told when the requester has it.
    confirm: Option<oneshot::Sender<()>>,
}

pub(super) struct End {
    addr: SocketAddr,
    peer: PeerId,
    spki: Vec<u8>,
    inbox: mpsc::UnboundedSender<Arrived>,
    arrived: tokio::sync::Mutex<mpsc::UnboundedReceiver<Arrived>>,
    fate: Told<Fate>,
    /// Bounds the requests that this end has open, and so the other end's inbox.
    streams: Semaphore,
    traffic: Mutex<Traffic>,
}

/// One direction of a connection.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    /// The connection.
    pub(super) link: u64,
    pub(super) from: &'a End,
    pub(super) to: &'a End,
}

impl Way<'_> {
    /// Takes note of bytes that arrived, and were acknowledged; a machine that was killed says nothing.
    pub(super) fn passed(self, bytes: usize) {
        if !self.to.is_open() {
            return;
        }
        {
            let mut sent = self.from.traffic.lock();
            sent.sent_bytes += bytes as u64;
            sent.acknowledged += 1;
            sent.heard += 1;
        }
        let mut received = self.to.traffic.lock();
        received.received_bytes += bytes as u64;
        received.heard += 1;
    }
}

impl End {
    fn new(endpoint: &Endpoint) -> Self {
        let (inbox, arrived) = mpsc::unbounded_channel();
        Self {
            addr: endpoint.addr,
            peer: endpoint.peer,
            spki: endpoint.spki.clone(),
            inbox,
            arrived: tokio::sync::Mutex::new(arrived),
            fate: Told::new(Fate::Open),
            streams: Semaphore::new(STREAMS_MAX as usize),
            traffic: Mutex::default(),
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes note of a sign of life.
    pub(super) fn hear(&self) {
        self.traffic.lock().heard += 1;
    }

    /// Ends this end's view of the connection, unless it ended before.
    fn end(&self, fate: Fate) {
        self.fate.change(|current| {
            if current.is_open() {
                *current = fate;
            }
        });
    }

    fn is_open(&self) -> bool {
        self.fate.get().is_open()
    }

    async fn ended(&self) -> TransportError {
        self.fate.wait_for(|fate| !fate.is_open()).await.error()
    }
}

/// Both ends of a connection and the network between them.
pub(super) struct Link {
    number: u64,
    net: Arc<Net>,
    ends: [End; 2],
    /// Counts changes between silence and sound: a countdown to death holds for one silence.
    silence: AtomicU64,
}

impl Link {
    pub(super) fn new(
        number: u64,
        net: &Arc<Net>,
        dialler: &Endpoint,
        target: &Endpoint,
    ) -> Arc<Self> {
        Arc::new(Self {
            number,
            net: Arc::clone(net),
            ends: [End::new(dialler), End::new(target)],
            silence: AtomicU64::new(0),
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn addrs(&self) -> (SocketAddr, SocketAddr) {
        (self.ends[0].addr, self.ends[1].addr)
    }

    /// Starts the countdown to death by silence, of both ends.
    pub(super) fn fell_silent(self: &Arc<Self>) {
        let silence = self.silence.fetch_add(1, Ordering::Relaxed) + 1;
        let link = Arc::clone(self);
        crate::base::task::spawn(async move {
            sleep(IDLE_TIMEOUT).await;
            if link.silence.load(Ordering::Relaxed) == silence {
                link.ends[0].end(Fate::TimedOut);
                link.ends[1].end(Fate::TimedOut);
            }
        });
    }

    /// Ends a silence before it killed the connection.
    pub(super) fn heard_again(&self) {
        self.silence.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the ends on a machine that lost power; the others find out by its silence.
    pub(super) fn machine_died(self: &Arc<Self>, addr: SocketAddr) {
        for (side, end) in self.ends.iter().enumerate() {
            if end.addr == addr && end.is_open() {
                end.end(Fate::Closed {
                    reason: "this machine was killed".to_owned(),
                });
                let link = Arc::clone(self);
                crate::base::task::spawn(async move {
                    sleep(IDLE_TIMEOUT).await;
                    link.ends[1 - side].end(Fate::TimedOut);
                });
            }
        }
    }

    /// Closes the ends on a machine that shuts down in order.
    pub(super) fn machine_closed(self: &Arc<Self>, addr: SocketAddr) {
        for side in 0..2 {
            if self.ends[side].addr == addr {
                self.close(side, "the peer shut down");
            }
        }
    }

    /// Closes one end at once, and the other when the word gets there.
    fn close(self: &Arc<Self>, side: usize, reason: &str) {
        if !self.ends[side].is_open() {
            return;
        }
        self.ends[side].end(Fate::Closed {
            reason: "closed by this side".to_owned(),
        });
        if tokio::runtime::Handle::try_current().is_err() {
            // The last handle went down with its runtime; nobody is left to be told.
            return;
        }
        let fate = Fate::Closed {
            reason: reason.to_owned(),
        };
        let link = Arc::clone(self);
        crate::base::task::spawn(async move {
            let (here, there) = (link.ends[side].addr, link.ends[1 - side].addr);
            sleep(link.net.delay()).await;
            if link.net.is_cut(here, there) {
                // A close is said once. The silence after it says the rest.
                sleep(IDLE_TIMEOUT).await;
                link.ends[1 - side].end(Fate::TimedOut);
            } else {
                link.ends[1 - side].end(fate);
            }
        });
    }
}

/// Closes the connection when the last handle of its side is gone.
struct Hold {
    link: Arc<Link>,
    side: usize,
}

impl Hold {
    fn here(&self) -> &End {
        &self.link.ends[self.side]
    }

    fn there(&self) -> &End {
        &self.link.ends[1 - self.side]
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.link
            .close(self.side, "the peer dropped the connection");
    }
}

/// One side of a [`Link`].
pub(super) struct SimConnection {
    hold: Arc<Hold>,
}

impl SimConnection {
    /// Returns the dialler's side and the other.
    pub(super) fn pair(link: Arc<Link>) -> (Self, Self) {
        let side = |side| Self {
            hold: Arc::new(Hold {
                link: Arc::clone(&link),
                side,
            }),
        };
        (side(0), side(1))
    }

    /// Lets a request arrive once more, at some time: nobody waits for the reply.
    fn double(&self, frame: Frame) {
        let link = Arc::clone(&self.hold.link);
        let side = self.hold.side;
        crate::base::task::spawn(async move {
            sleep(link.net.delay() * DOUBLE_DELAYS).await;
            let (here, there) = (&link.ends[side], &link.ends[1 - side]);
            if there.is_open() && !link.net.is_cut(here.addr, there.addr) {
                let (reply, _) = oneshot::channel();
                let _ = there.inbox.send(Arrived { frame, reply });
            }
        });
    }

    async fn exchange(&self, frame: Frame, priority: Priority) -> Result<Frame, TransportError> {
        let (here, there) = (self.hold.here(), self.hold.there());
        let net = &self.hold.link.net;
        // The semaphore is never closed.
        let _stream = here.streams.acquire().await;
        let len = frame.body.len() + frame.payload.len();
        let link = self.hold.link.number;
        let (out, back) = (
            Way {
                link,
                from: here,
                to: there,
            },
            Way {
                link,
                from: there,
                to: here,
            },
        );
        if !net.carry(out, len, priority).await {
            return Err(TransportError::TimedOut);
        }
        if net.is_doubled() {
            self.double(frame.clone());
        }
        let (reply, replied) = oneshot::channel();
        if !there.is_open() || there.inbox.send(Arrived { frame, reply }).is_err() {
            // The other end is gone and this one does not know it yet.
            return std::future::pending().await;
        }
        let Ok(reply) = replied.await else {
            if there.is_open() {
                sleep(net.delay()).await;
                return Err(TransportError::Reset);
            }
            return std::future::pending().await;
        };
        let len = reply.frame.body.len() + reply.frame.payload.len();
        if !net.carry(back, len, reply.priority).await {
            return Err(TransportError::TimedOut);
        }
        if let Some(confirm) = reply.confirm {
            let _ = confirm.send(());
        }
        Ok(reply.frame)
    }
}

#[async_trait]
impl Connection for SimConnection {
    fn peer(&self) -> PeerId {
        self.hold.there().peer
    }

    fn spki(&self) -> Vec<u8> {
        self.hold.there().spki.clone()
    }

    fn remote_addr(&self) -> SocketAddr {
        self.hold.there().addr
    }

    fn rtt(&self) -> Duration {
        let state = self.hold.link.net.state.lock();
        state.delay_min + state.delay_max
    }

    fn traffic(&self) -> Traffic {
        *self.hold.here().traffic.lock()
    }

    async fn request_as(
        &self,
        body: Bytes,
        payload: Bytes,
        priority: Priority,
    ) -> Result<Frame, TransportError> {
        let frame = Frame::new(body, payload)?;
        tokio::select! {
            biased;
            error = self.hold.here().ended() => Err(error),
            reply = self.exchange(frame, priority) => reply,
        }
    }

    async fn next_request(&self) -> Option<Incoming> {
        let here = self.hold.here();
        let arrived = async { here.arrived.lock().await.recv().await };
        tokio::select! {
            biased;
            _ = here.ended() => None,
            arrived = arrived => arrived.map(|Arrived { frame, reply }| Incoming {
                frame,
                reply: ReplyHandle {
                    sink: Box::new(SimReply { hold: Arc::clone(&self.hold), reply }),
                },
            }),
        }
    }

    fn close(&self, reason: &str) {
        self.hold.link.close(self.hold.side, reason);
    }

    async fn closed(&self) -> TransportError {
        self.hold.here().ended().await
    }
}

struct SimReply {
    hold: Arc<Hold>,
    reply: oneshot::Sender<Reply>,
}

#[async_trait]
impl ReplySink for SimReply {
    async fn send(
        self: Box<Self>,
        frame: Frame,
        priority: Priority,
        confirmed: bool,
    ) -> Result<(), TransportError> {
        let here = self.hold.here();
        if !here.is_open() {
            return Err(here.ended().await);
        }
        let (confirm, delivered) = oneshot::channel();
        let reply = Reply {
            frame,
            priority,
            confirm: confirmed.then_some(confirm),
        };
        if self.reply.send(reply).is_err() {
            // The requester gave up.
            return Err(TransportError::Reset);
        }
        if !confirmed {
            return Ok(());
        }
        tokio::select! {
            biased;
            delivered = delivered => delivered.map_err(|_| TransportError::TimedOut),
            error = here.ended() => Err(error),
        }
    }
}
