//! The UDP socket below QUIC, and its replacement after an error.
//!
//! quinn ends for good where reading its socket fails, and its own tokio socket reads again at once,
//! for ever. So this one says that it failed and is silent from then on; a task makes a new one of the
//! same address, and the connections go on over it.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, Endpoint, UdpPoller};
use tokio::io::Interest;
use tokio::sync::Notify;

use super::bind_socket;
use crate::base::time::{Backoff, sleep};

/// Pause before the socket is made anew, at first and at most: well below the ten seconds after which
/// a peer that can be reached is to be found.
pub(super) const REBIND: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(5));

/// How the socket of an endpoint does.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// What the system said when it failed last; `None` while it works.
    trouble: Mutex<Option<String>>,
    failed: Notify,
}

impl Health {
    /// Returns why nothing is heard; `None` while the socket works.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    pub(super) fn fail(&self, error: &dyn std::fmt::Display) {
        *self.trouble.lock() = Some(error.to_string());
        self.failed.notify_one();
    }
}

/// Wraps a socket for an endpoint.
pub(super) fn open(
    socket: std::net::UdpSocket,
    health: &Arc<Health>,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    Ok(Arc::new(UdpSocket {
        state: UdpSocketState::new((&socket).into())?,
        io: tokio::net::UdpSocket::from_std(socket)?,
        has_failed: AtomicBool::new(false),
        health: Arc::clone(health),
    }))
}

/// Makes the socket of `endpoint` anew whenever it failed, until the future is dropped.
pub(super) async fn mend(
    endpoint: Endpoint,
    addr: SocketAddr,
    health: Arc<Health>,
    pause: (Duration, Duration),
) {
    let mut backoff = Backoff::new(pause.0, pause.1);
    loop {
        health.failed.notified().await;
        tracing::warn!(%addr, error = health.trouble(), "the socket failed");
        // Twice, as the endpoint goes on listening to the one before: the port has to be free.
        for _ in 0..2 {
            let _ = endpoint.rebind_abstract(Arc::new(Nowhere { addr }));
        }
        loop {
            sleep(backoff.failed()).await;
            let bound = bind_socket(addr).map_err(|error| error.to_string());
            let rebound = bound.and_then(|socket| {
                let socket = open(socket, &health).map_err(|error| error.to_string())?;
                let rebound = endpoint.rebind_abstract(socket);
                rebound.map_err(|error| error.to_string())
            });
            match rebound {
                Ok(()) => break,
                Err(error) => *health.trouble.lock() = Some(error),
            }
        }
        backoff.reset();
        *health.trouble.lock() = None;
        tracing::info!(%addr, "the socket was made anew");
    }
}

#[derive(Debug)]
struct UdpSocket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    has_failed: AtomicBool,
    health: Arc<Health>,
}

impl AsyncUdpSocket for UdpSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            socket: self,
            wait: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // What cannot be sent is lost, as on the way.
        self.io.try_io(Interest::WRITABLE, || {
            self.state.send((&self.io).into(), transmit)
        })
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.has_failed.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        loop {
            let came = match ready!(self.io.poll_recv_ready(context)) {
                Ok(()) => self.io.try_io(Interest::READABLE, || {
                    self.state.recv((&self.io).into(), buffers, meta)
                }),
                Err(error) => Err(error),
            };
            match came {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.has_failed.store(true, Ordering::Relaxed);
                    self.health.fail(&error);
                    // The endpoint is woken when it has another socket.
                    return Poll::Pending;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits until a datagram may be sent.
struct Poller {
    socket: Arc<UdpSocket>,
    wait: Option<Writable>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Poller")
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let wait = this.wait.get_or_insert_with(|| {
            let socket = Arc::clone(&this.socket);
            Box::pin(async move { socket.io.writable().await })
        });
        let writable = ready!(wait.as_mut().poll(context));
        this.wait = None;
        Poll::Ready(writable)
    }
}

/// What takes the place of a socket while there is none: nothing comes, and what is to go waits.
#[derive(Debug)]
pub(super) struct Nowhere {
    pub(super) addr: SocketAddr,
}

impl AsyncUdpSocket for Nowhere {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Never)
    }

    fn try_send(&self, _transmit: &Transmit<'_>) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn poll_recv(
        &self,
        _context: &mut Context<'_>,
        _buffers: &mut [IoSliceMut<'_>],
        _meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

/// Never ready: a connection is woken when it gets another socket.
#[derive(Debug)]
struct Never;

impl UdpPoller for Never {
    fn poll_writable(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}
