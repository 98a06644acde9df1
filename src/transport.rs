//! Messages between peers: QUIC over one UDP socket, and a simulated network with the same face.
//!
//! Owns: connections, their proven peer identities, request/reply streams and the frames on them.
//! Must never know: what a message means, who is a member, chunks, names.
//!
//! ```text
//! Transport --connect/accept--> Connection --request--------> Frame
//!   Quic | sim::SimNet              |       <--next_request--- Incoming { frame, reply }
//! ```
//!
//! One request is one bidirectional stream, so that nothing waits behind a bulk transfer. A
//! [`Frame`] is a message body and raw payload bytes behind it; chunk bytes travel in the payload
//! and meet no codec. docs/wire.md has the bytes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::PeerId;
use crate::base::limits::{MESSAGE_BODY_MAX_BYTES, MESSAGE_PAYLOAD_MAX_BYTES};

mod frame;
pub mod quic;
pub mod sim;

pub use quic::Quic;
pub use sim::SimNet;

/// Longest wait for a connection to an address that does not answer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// Longest handshake with a peer that answers: a lost packet of it is sent again after three round
/// trips, which are 7.5 s on a long way.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// Silence after which a connection is dead. Three keepalives may be lost before.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often a quiet connection shows that it lives.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Requests of one peer that may be open on one connection; further ones wait their turn.
///
/// QUIC allocates per allowed stream: 4,096 of them cost 330 KiB a connection, 256 about 20.
pub const STREAMS_MAX: u32 = 256;

/// Longest close reason that is sent, in bytes; a longer one is cut.
pub const CLOSE_REASON_MAX_BYTES: usize = 512;

/// What goes first where a line is slow: of two messages on one connection the more urgent one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Nobody waits for it: copies for other holders.
    Background,
    /// Somebody will probably want it.
    Readahead,
    /// A program waits for it.
    Awaited,
    /// The logs: what others wait to see.
    Log,
    /// Messages of a few bytes that keep peers informed.
    #[default]
    Small,
}

/// Messages up to this size go before larger ones of which nothing else is said.
const SMALL_BYTES: usize = 64 << 10;

impl Priority {
    /// How many there are.
    pub const COUNT: usize = Self::Small as usize + 1;

    /// Returns the priority of a message of which only the size is known.
    pub fn of(bytes: usize) -> Self {
        if bytes <= SMALL_BYTES {
            Self::Small
        } else {
            Self::Awaited
        }
    }
}

/// What a connection has carried so far, for who waits for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets that came from the peer, whatever is in them: signs of life.
    pub heard: u64,
    /// Acknowledgements among them.
    pub acknowledged: u64,
    /// Bytes that came.
    pub received_bytes: u64,
    /// Bytes that went out, those that had to go again included.
    pub sent_bytes: u64,
}

/// A message: its encoded body, and raw bytes behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// The encoded message, at most [`MESSAGE_BODY_MAX_BYTES`].
    pub body: Bytes,
    /// Raw bytes that no codec touches, at most [`MESSAGE_PAYLOAD_MAX_BYTES`]; may be empty.
    pub payload: Bytes,
}

impl Frame {
    /// Returns the frame of a body and a payload that keep the limits.
    pub fn new(body: Bytes, payload: Bytes) -> Result<Self, TransportError> {
        check_len(Part::Body, body.len() as u64)?;
        check_len(Part::Payload, payload.len() as u64)?;
        Ok(Self { body, payload })
    }
}

/// Names one of the two parts of a frame, for errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The encoded message.
    Body,
    /// The raw bytes behind it.
    Payload,
}

impl Part {
    /// Returns the most bytes this part may have.
    pub fn max_bytes(self) -> usize {
        match self {
            Self::Body => MESSAGE_BODY_MAX_BYTES,
            Self::Payload => MESSAGE_PAYLOAD_MAX_BYTES,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Body => "body",
            Self::Payload => "payload",
        })
    }
}

fn check_len(part: Part, len: u64) -> Result<(), TransportError> {
    if len > part.max_bytes() as u64 {
        return Err(TransportError::TooLarge { part, len });
    }
    Ok(())
}

/// What goes wrong between two peers.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Nobody answered at the address within [`CONNECT_TIMEOUT`].
    #[error("no peer answers at {addr}")]
    Unreachable {
        /// The address that was tried.
        addr: SocketAddr,
    },
    /// The peer fell silent. A request may or may not have been executed.
    #[error("the peer does not answer any more")]
    TimedOut,
    /// The connection was closed, here or there. A request may or may not have been executed.
    #[error("connection closed: {reason}")]
    Closed {
        /// Why, in the words of the side that closed.
        reason: String,
    },
    /// The peer took the request and dropped it without a reply.
    #[error("the peer dropped the request")]
    Reset,
    /// A frame breaks a limit; nothing was sent, or nothing was read.
    #[error("message {part} of {len} bytes is over the limit of {} bytes", .part.max_bytes())]
    TooLarge {
        /// Which part of the frame.
        part: Part,
        /// Its length in bytes.
        len: u64,
    },
    /// The bytes on a stream are not a frame.
    #[error("malformed frame: {what}")]
    Malformed {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The peer failed to prove an identity, or does not speak this protocol.
    #[error("the peer at {addr} was refused: {why}")]
    BadPeer {
        /// Where it is.
        addr: SocketAddr,
        /// What the handshake said.
        why: String,
    },
    /// Another program listens at this address.
    #[error("the UDP port of {addr} is already in use: choose another with --listen ADDR:PORT")]
    PortTaken {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// The socket could not be made.
    #[error("cannot listen on {addr}{}", bind_advice(.source))]
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// This peer's own key does not work for TLS.
    #[error("cannot use the identity for TLS: {why}")]
    BadIdentity {
        /// What the TLS library said.
        why: String,
    },
}

/// Says what to do where a socket cannot be bound.
fn bind_advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrNotAvailable => {
            ": this machine has no such address: choose another with --listen ADDR:PORT"
        }
        std::io::ErrorKind::PermissionDenied => {
            ": ports below 1024 are root's: choose another with --listen ADDR:PORT"
        }
        _ => "",
    }
}

/// Returns an IPv4 address as such where a socket of both kinds shows it in IPv6 form. One that counts
/// on one link alone keeps which.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

/// A socket that reaches and is reached by other peers.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Returns the address that was bound.
    fn local_addr(&self) -> SocketAddr;

    /// Returns why nothing can be sent or heard now; `None` while that works.
    ///
    /// The transport sees by itself to it that it works again.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Opens a connection, whoever answers; the caller checks [`Connection::peer`].
    ///
    /// Ends within [`CONNECT_TIMEOUT`], or within [`HANDSHAKE_TIMEOUT`] where somebody answers; [`TransportError::Unreachable`] where nobody answers.
    async fn connect(&self, addr: SocketAddr) -> Result<Arc<dyn Connection>, TransportError>;

    /// Waits for the next peer that connects; `None` once this transport is closed.
    ///
    /// Peers that fail the handshake are not seen here.
    async fn accept(&self) -> Option<Arc<dyn Connection>>;

    /// Closes all connections and the socket; waits, shortly, until the peers were told.
    async fn close(&self);
}

/// A connection to one peer, which both sides may send requests over.
///
/// Dropping the last handle closes it. Requests are independent: they neither wait for each
/// other nor keep an order.
#[async_trait]
pub trait Connection: Send + Sync + 'static {
    /// Returns the peer's identity, proven by the handshake.
    fn peer(&self) -> PeerId;

    /// Returns the peer's public key (SubjectPublicKeyInfo, DER), whose SHA-256 is the peer's id.
    fn spki(&self) -> Vec<u8>;

    /// Returns where the peer is now.
    fn remote_addr(&self) -> SocketAddr;

    /// Returns the current estimate of the round-trip time.
    fn rtt(&self) -> Duration;

    /// Returns what was carried so far.
    fn traffic(&self) -> Traffic;

    /// Sends a request and waits for its reply.
    ///
    /// Has no deadline but the connection's [`IDLE_TIMEOUT`]: a peer that lives may take its time,
    /// so callers set their own. Dropping the future gives the request up; it may be executed.
    async fn request_as(
        &self,
        body: Bytes,
        payload: Bytes,
        priority: Priority,
    ) -> Result<Frame, TransportError>;

    /// Sends a request that goes before others where it is small; see [`Connection::request_as`].
    async fn request(&self, body: Bytes, payload: Bytes) -> Result<Frame, TransportError> {
        let priority = Priority::of(body.len() + payload.len());
        self.request_as(body, payload, priority).await
    }

    /// Waits for the peer's next request; `None` once the connection is closed.
    async fn next_request(&self) -> Option<Incoming>;

    /// Closes the connection at once, with a reason that the peer gets to see.
    ///
    /// What was not delivered is lost: see [`ReplyHandle::send_confirmed`].
    fn close(&self, reason: &str);

    /// Waits until the connection is closed, by whichever side or by silence; returns why.
    async fn closed(&self) -> TransportError;
}

/// A request of the peer, and the way to answer it.
#[derive(Debug)]
pub struct Incoming {
    /// What the peer sent.
    pub frame: Frame,
    /// Answers it; dropping it unused tells the peer [`TransportError::Reset`].
    pub reply: ReplyHandle,
}

/// Sends the one reply of a request.
pub struct ReplyHandle {
    sink: Box<dyn ReplySink>,
}

impl ReplyHandle {
    /// Sends the reply; it may still be on its way when this returns.
    pub async fn send(self, body: Bytes, payload: Bytes) -> Result<(), TransportError> {
        let priority = Priority::of(body.len() + payload.len());
        self.send_as(body, payload, priority).await
    }

    /// Sends the reply as urgently as is said.
    pub async fn send_as(
        self,
        body: Bytes,
        payload: Bytes,
        priority: Priority,
    ) -> Result<(), TransportError> {
        let frame = Frame::new(body, payload)?;
        self.sink.send(frame, priority, false).await
    }

    /// Sends the reply and waits until the peer has it, for replies before a close.
    pub async fn send_confirmed(self, body: Bytes, payload: Bytes) -> Result<(), TransportError> {
        let frame = Frame::new(body, payload)?;
        self.sink.send(frame, Priority::Small, true).await
    }
}

impl fmt::Debug for ReplyHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyHandle")
    }
}

/// What a transport puts behind a [`ReplyHandle`].
#[async_trait]
trait ReplySink: Send + Sync {
    async fn send(
        self: Box<Self>,
        frame: Frame,
        priority: Priority,
        confirmed: bool,
    ) -> Result<(), TransportError>;
}
