//! One QUIC connection: requests out, requests in, frames on streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use quinn::{
    ConnectionError, ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError,
};
use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{CLOSE_CODE, tls};
use crate::base::PeerId;
use crate::base::memory::Budget;
use crate::base::task::spawn;
use crate::transport::frame::{HEADER_BYTES, Header};
use crate::transport::{
    CLOSE_REASON_MAX_BYTES, Connection, Frame, Incoming, Priority, ReplyHandle, ReplySink,
    STREAMS_MAX, Traffic, TransportError, canonical,
};

/// Bytes of large requests of one peer that are held here at once, read but not answered: three
/// full frames. Further ones stay with the peer, by QUIC's flow control.
const UNANSWERED_MAX_BYTES: u32 = 40 << 20;

/// Frames up to this size do not count there, so that a small request never waits for bulk; all
/// [`STREAMS_MAX`] of them are 16 MiB.
const SMALL_FRAME_BYTES: usize = 64 << 10;

/// Memory that is taken on a peer's word for a part of a frame; more follows as its bytes arrive.
/// A sealed chunk fits.
const RESERVE_MAX_BYTES: usize = (1 << 20) + (64 << 10);

/// Segments taken from a stream at once.
const SEGMENTS: usize = 32;

/// Stream code for a request or reply that is given up.
const GIVEN_UP: VarInt = VarInt::from_u32(1);

/// Stream code for what is not a frame within the limits.
const NOT_A_FRAME: VarInt = VarInt::from_u32(2);

/// A connection whose handshake is done.
pub(super) struct QuicConnection {
    hold: Arc<Hold>,
    peer: PeerId,
    spki: Vec<u8>,
    requests: tokio::sync::Mutex<mpsc::Receiver<Arrived>>,
}

impl QuicConnection {
    /// Takes the peer's identity from the handshake and starts to read its requests.
    pub(super) fn start(connection: quinn::Connection) -> Result<Self, TransportError> {
        let addr = canonical(connection.remote_address());
        let refused = |why: String| TransportError::BadPeer { addr, why };
        let chain = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
            .unwrap_or_default();
        let certificate = chain
            .first()
            .ok_or_else(|| refused("it shows no certificate".to_owned()))?;
        let (spki, peer) = tls::peer_of(certificate).map_err(|error| refused(error.to_string()))?;
        // The queue has a place for each stream that may be open, so it is never full for long.
        let (queue, requests) = mpsc::channel(STREAMS_MAX as usize);
        spawn(read_requests(connection.clone(), queue));
        Ok(Self {
            hold: Arc::new(Hold { connection }),
            peer,
            spki,
            requests: tokio::sync::Mutex::new(requests),
        })
    }

    fn quinn(&self) -> &quinn::Connection {
        &self.hold.connection
    }

    async fn exchange(&self, frame: Frame, priority: Priority) -> Result<Frame, StreamError> {
        let (send, mut recv) = self.quinn().open_bi().await?;
        let mut out = Outgoing::new(send);
        out.send(frame, priority).await?;
        let reply = read_frame(&mut recv, None).await;
        if reply.is_err() {
            let _ = recv.stop(NOT_A_FRAME);
        }
        Ok(reply?.0)
    }

    fn explain(&self, error: StreamError) -> TransportError {
        error.explain(self.remote_addr())
    }
}

#[async_trait]
impl Connection for QuicConnection {
    fn peer(&self) -> PeerId {
        self.peer
    }

    fn spki(&self) -> Vec<u8> {
        self.spki.clone()
    }

    fn remote_addr(&self) -> SocketAddr {
        canonical(self.quinn().remote_address())
    }

    fn rtt(&self) -> Duration {
        self.quinn().rtt()
    }

    fn traffic(&self) -> Traffic {
        let stats = self.quinn().stats();
        Traffic {
            heard: stats.udp_rx.datagrams,
            acknowledged: stats.frame_rx.acks,
            received_bytes: stats.udp_rx.bytes,
            sent_bytes: stats.udp_tx.bytes,
        }
    }

    async fn request_as(
        &self,
        body: Bytes,
        payload: Bytes,
        priority: Priority,
    ) -> Result<Frame, TransportError> {
        let frame = Frame::new(body, payload)?;
        self.exchange(frame, priority)
            .await
            .map_err(|error| self.explain(error))
    }

    async fn next_request(&self) -> Option<Incoming> {
        let mut requests = self.requests.lock().await;
        let arrived = tokio::select! {
            biased;
            arrived = requests.recv() => arrived?,
            // Requests that wait for the budget keep the queue open.
            _ = self.quinn().closed() => return None,
        };
        let reply = QuicReply {
            hold: Arc::clone(&self.hold),
            out: arrived.out,
            _budget: arrived.budget,
        };
        Some(Incoming {
            frame: arrived.frame,
            reply: ReplyHandle {
                sink: Box::new(reply),
            },
        })
    }

    fn close(&self, reason: &str) {
        let cut = reason.floor_char_boundary(CLOSE_REASON_MAX_BYTES);
        let (reason, _) = reason.split_at(cut);
        self.quinn().close(CLOSE_CODE, reason.as_bytes());
    }

    async fn closed(&self) -> TransportError {
        lost(self.remote_addr(), &self.quinn().closed().await)
    }
}

/// Keeps the connection open as long as somebody may use it.
struct Hold {
    connection: quinn::Connection,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Tasks that read requests hold the connection, too, so it would not close by itself.
        self.connection
            .close(CLOSE_CODE, b"the peer dropped the connection");
    }
}

/// A request that was read.
struct Arrived {
    frame: Frame,
    out: Outgoing,
    budget: Option<OwnedSemaphorePermit>,
}

/// Reads each stream of the peer in a task of its own, so that none waits behind another.
async fn read_requests(connection: quinn::Connection, queue: mpsc::Sender<Arrived>) {
    // At least one that counts.
    let unanswered = Budget::of_process().part(u64::from(UNANSWERED_MAX_BYTES), 16);
    let unanswered = u32::try_from(unanswered).unwrap_or(UNANSWERED_MAX_BYTES);
    let budget = Unanswered::new(unanswered.max(SMALL_FRAME_BYTES as u32));
    while let Ok((send, mut recv)) = connection.accept_bi().await {
        let queue = queue.clone();
        let budget = budget.clone();
        let from = connection.remote_address();
        spawn(async move {
            // Resets the stream when it is dropped unanswered.
            let out = Outgoing::new(send);
            match read_frame(&mut recv, Some(budget)).await {
                Ok((frame, budget)) => {
                    // A closed queue is a closed connection.
                    let _ = queue.send(Arrived { frame, out, budget }).await;
                }
                Err(error) => {
                    let _ = recv.stop(NOT_A_FRAME);
                    let error = error.explain(from);
                    tracing::debug!(%from, %error, "a request could not be read");
                }
            }
        });
    }
}

/// Bytes of large requests that may be held.
#[derive(Clone)]
struct Unanswered {
    places: Arc<Semaphore>,
    max_bytes: u32,
}

impl Unanswered {
    fn new(max_bytes: u32) -> Self {
        let places = Arc::new(Semaphore::new(max_bytes as usize));
        Self { places, max_bytes }
    }

    /// Waits for room for a frame; one that is larger than all of it comes alone.
    async fn take(self, len: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(len).unwrap_or(u32::MAX).min(self.max_bytes);
        // The semaphore is never closed.
        self.places.acquire_many_owned(bytes).await.ok()
    }
}

/// Reads one frame to the end of the stream, within the limits and, where it is large, when the
/// budget allows.
async fn read_frame(
    recv: &mut RecvStream,
    budget: Option<Unanswered>,
) -> Result<(Frame, Option<OwnedSemaphorePermit>), StreamError> {
    let mut header = [0u8; HEADER_BYTES];
    recv.read_exact(&mut header).await?;
    let header = Header::decode(header)?;
    let len = header.body_len + header.payload_len;
    let permit = match budget {
        Some(budget) if len > SMALL_FRAME_BYTES => budget.take(len).await,
        _ => None,
    };
    let mut parts = Parts::new(header);
    let mut segments = [const { Bytes::new() }; SEGMENTS];
    while let Some(count) = recv.read_chunks(&mut segments).await? {
        for segment in segments.iter_mut().take(count) {
            parts.push(std::mem::take(segment))?;
        }
    }
    Ok((parts.finish()?, permit))
}

/// The two parts of a frame as their bytes arrive.
struct Parts {
    body: Part,
    payload: Part,
}

/// Bytes of known length that arrive in pieces.
struct Part {
    bytes: BytesMut,
    missing: usize,
}

impl Part {
    fn new(len: usize) -> Self {
        Self {
            bytes: BytesMut::with_capacity(len.min(RESERVE_MAX_BYTES)),
            missing: len,
        }
    }

    /// Takes what belongs here from the front of `segment`.
    fn take(&mut self, segment: &mut Bytes) {
        let piece = segment.split_to(segment.len().min(self.missing));
        self.missing -= piece.len();
        self.bytes.extend_from_slice(&piece);
    }
}

impl Parts {
    fn new(header: Header) -> Self {
        Self {
            body: Part::new(header.body_len),
            payload: Part::new(header.payload_len),
        }
    }

    fn push(&mut self, mut segment: Bytes) -> Result<(), TransportError> {
        self.body.take(&mut segment);
        self.payload.take(&mut segment);
        if !segment.is_empty() {
            return Err(TransportError::Malformed {
                what: "bytes after the frame",
            });
        }
        Ok(())
    }

    fn finish(self) -> Result<Frame, TransportError> {
        if self.body.missing + self.payload.missing > 0 {
            return Err(TransportError::Malformed { what: "cut short" });
        }
        Ok(Frame {
            body: self.body.bytes.freeze(),
            payload: self.payload.bytes.freeze(),
        })
    }
}

/// The sending half of a stream, reset unless a whole frame was sent.
///
/// quinn finishes a dropped stream, which would look like a frame that was cut short.
struct Outgoing {
    stream: SendStream,
    sent: bool,
}

impl Outgoing {
    fn new(stream: SendStream) -> Self {
        Self {
            stream,
            sent: false,
        }
    }

    /// Sends a frame without copying its parts, and ends the stream.
    async fn send(&mut self, frame: Frame, priority: Priority) -> Result<(), StreamError> {
        let header = Header::new(frame.body.len(), frame.payload.len())?;
        // Fails where the peer stopped the stream, and then writing tells.
        let _ = self.stream.set_priority(priority as i32);
        let header = Bytes::copy_from_slice(&header.encode());
        self.stream
            .write_all_chunks(&mut [header, frame.body, frame.payload])
            .await?;
        self.sent = true;
        // Fails where the peer stopped the stream, and then reading it tells.
        let _ = self.stream.finish();
        Ok(())
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.sent {
            // Fails where the stream is over already.
            let _ = self.stream.reset(GIVEN_UP);
        }
    }
}

struct QuicReply {
    hold: Arc<Hold>,
    out: Outgoing,
    _budget: Option<OwnedSemaphorePermit>,
}

#[async_trait]
impl ReplySink for QuicReply {
    async fn send(
        mut self: Box<Self>,
        frame: Frame,
        priority: Priority,
        confirmed: bool,
    ) -> Result<(), TransportError> {
        let remote_addr = canonical(self.hold.connection.remote_address());
        self.out
            .send(frame, priority)
            .await
            .map_err(|error| error.explain(remote_addr))?;
        if !confirmed {
            return Ok(());
        }
        match self.out.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(TransportError::Reset),
            Err(_) => Err(self
                .hold
                .connection
                .close_reason()
                .map_or(TransportError::TimedOut, |error| lost(remote_addr, &error))),
        }
    }
}

/// What ends a stream early.
enum StreamError {
    Lost(ConnectionError),
    Frame(TransportError),
}

impl StreamError {
    fn explain(self, addr: SocketAddr) -> TransportError {
        match self {
            Self::Lost(error) => lost(addr, &error),
            Self::Frame(error) => error,
        }
    }
}

impl From<ConnectionError> for StreamError {
    fn from(error: ConnectionError) -> Self {
        Self::Lost(error)
    }
}

impl From<TransportError> for StreamError {
    fn from(error: TransportError) -> Self {
        Self::Frame(error)
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::Lost(error),
            WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                Self::Frame(TransportError::Reset)
            }
        }
    }
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Lost(error),
            ReadError::Reset(_)
            | ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => Self::Frame(TransportError::Reset),
        }
    }
}

impl From<ReadExactError> for StreamError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => {
                Self::Frame(TransportError::Malformed { what: "cut short" })
            }
            ReadExactError::ReadError(error) => error.into(),
        }
    }
}

/// Says why a connection is over, in this room's words.
pub(super) fn lost(addr: SocketAddr, error: &ConnectionError) -> TransportError {
    let closed = |reason: &str| TransportError::Closed {
        reason: reason.to_owned(),
    };
    let addr = canonical(addr);
    match error {
        ConnectionError::TimedOut => TransportError::TimedOut,
        ConnectionError::LocallyClosed => closed("closed by this side"),
        ConnectionError::Reset => closed("the peer restarted"),
        ConnectionError::CidsExhausted => closed("out of connection ids"),
        ConnectionError::ApplicationClosed(close) => closed(&printable(&close.reason)),
        ConnectionError::ConnectionClosed(close) => TransportError::BadPeer {
            addr,
            why: format!("{}: {}", close.error_code, printable(&close.reason)),
        },
        ConnectionError::VersionMismatch | ConnectionError::TransportError(_) => {
            TransportError::BadPeer {
                addr,
                why: error.to_string(),
            }
        }
    }
}

/// Returns a peer's words, cut to a bound and without what could fool a terminal.
fn printable(words: &[u8]) -> String {
    let (words, _) = words.split_at(words.len().min(CLOSE_REASON_MAX_BYTES));
    String::from_utf8_lossy(words)
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}
