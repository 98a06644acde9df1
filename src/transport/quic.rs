//! QUIC between peers: one UDP socket that dials and is dialled.
//!
//! Each handshake is mutual TLS 1.3 with the RSA identities (`tls`). Any peer that proves a key
//! is let in here; whether that key is a member's is the node's question.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use quinn::{
    AsyncUdpSocket, ConnectError, ConnectionError, Endpoint, EndpointConfig, TransportConfig,
    VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::{
    CONNECT_TIMEOUT, Connection, HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, KEEP_ALIVE, STREAMS_MAX,
    Transport, TransportError,
};
use crate::base::memory::Budget;
use crate::base::task::spawn;
use crate::base::time::timeout;
use crate::crypto::Identity;

mod connection;
mod reset;
mod socket;
mod tls;

use connection::{QuicConnection, lost};

/// Bytes of one stream that the peer may send before they are read here: one full frame's payload,
/// so that a batch of chunks never waits for credit where there is memory.
const STREAM_WINDOW_BYTES: u32 = 10 << 20;

/// Bytes of one connection that may be on their way or unread: 300 MB/s at 100 ms round trip.
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Smallest window: 10 MB/s at 100 ms round trip.
const WINDOW_MIN_BYTES: u32 = 1 << 20;

/// Asked of the system for each direction of the socket; it may give less. A burst of one window
/// fits, so that a busy moment does not drop packets.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// Largest UDP payload that is tried on a path; discovery finds what passes. The cost of bulk is
/// per packet, and loopback and jumbo frames carry more than Ethernet's 1,472 bytes.
///
/// quinn hands the kernel batches of 10 datagrams, and a batch beyond 65,507 bytes is dropped
/// without a word, which looks like a black hole: so 6,500 and not the 8,952 of jumbo frames.
const DATAGRAM_MAX_BYTES: u16 = 6_500;
const _: () = assert!(10 * DATAGRAM_MAX_BYTES as usize <= 65_507);

/// Handshakes that peers may have open here at once: each costs an RSA signature, 1 ms of a core.
const HANDSHAKES_MAX: usize = 64;

/// Connections open at once; further ones are refused. 40 KiB each when idle.
const CONNECTIONS_MAX: usize = 1024;

/// Connections that wait for `accept`.
const BACKLOG_MAX: usize = 64;

/// How long `close` waits for the peers to hear of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The name in the handshake. Peers are named by their keys, so it means nothing.
const SERVER_NAME: &str = "dfs";

/// Close code of the transport: all reasons are in the text.
const CLOSE_CODE: VarInt = VarInt::from_u32(0);

/// A UDP socket that speaks QUIC in both directions.
pub struct Quic {
    endpoint: Endpoint,
    local_addr: SocketAddr,
    deadlines: Deadlines,
    health: Arc<socket::Health>,
    mender: JoinHandle<()>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<Arc<dyn Connection>>>,
}

/// The deadlines of a transport, which tests shorten.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    connect: Duration,
    handshake: Duration,
    idle: Duration,
    keep_alive: Duration,
    rebind: (Duration, Duration),
}

impl Deadlines {
    const DEFAULT: Self = Self {
        connect: CONNECT_TIMEOUT,
        handshake: HANDSHAKE_TIMEOUT,
        idle: IDLE_TIMEOUT,
        keep_alive: KEEP_ALIVE,
        rebind: socket::REBIND,
    };
}

impl Quic {
    /// Binds `listen` and starts to serve; must be called within the runtime that is to drive it.
    ///
    /// A runtime of one thread is nearly twice as fast as one of two. `0.0.0.0` listens on IPv4,
    /// `[::]` on IPv6 and, where the system allows, on IPv4 too.
    ///
    /// # Errors
    ///
    /// [`TransportError::PortTaken`] where another program has the port, unless
    /// `fallback_any_port` is set: then any free port is taken.
    pub fn bind(
        listen: SocketAddr,
        fallback_any_port: bool,
        identity: &Identity,
    ) -> Result<Self, TransportError> {
        Self::bind_with(listen, fallback_any_port, identity, Deadlines::DEFAULT)
    }

    fn bind_with(
        listen: SocketAddr,
        fallback_any_port: bool,
        identity: &Identity,
        deadlines: Deadlines,
    ) -> Result<Self, TransportError> {
        let socket = match bind_socket(listen) {
            Err(TransportError::PortTaken { .. }) if fallback_any_port => {
                bind_socket(SocketAddr::new(listen.ip(), 0))?
            }
            outcome => outcome?,
        };
        Self::over(socket, identity, deadlines)
    }

    /// Serves at an address that this machine does not have yet, as soon as it has it: until then
    /// nobody is heard, and [`Transport::trouble`] says so.
    ///
    /// # Errors
    ///
    /// Those of the identity.
    pub fn bind_later(listen: SocketAddr, identity: &Identity) -> Result<Self, TransportError> {
        Self::bind_later_with(listen, identity, Deadlines::DEFAULT)
    }

    fn bind_later_with(
        listen: SocketAddr,
        identity: &Identity,
        deadlines: Deadlines,
    ) -> Result<Self, TransportError> {
        let health: Arc<socket::Health> = Arc::default();
        let source = std::io::ErrorKind::AddrNotAvailable.into();
        let addr = listen;
        health.fail(&TransportError::Bind { addr, source });
        let nowhere = Arc::new(socket::Nowhere { addr: listen });
        Self::serve_over(nowhere, listen, health, identity, deadlines)
    }

    fn over(
        socket: UdpSocket,
        identity: &Identity,
        deadlines: Deadlines,
    ) -> Result<Self, TransportError> {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let local_addr = socket.local_addr();
        let addr = *local_addr.as_ref().unwrap_or(&any);
        let bind_failed = |source| TransportError::Bind { addr, source };
        let local_addr = local_addr.map_err(bind_failed)?;
        let health: Arc<socket::Health> = Arc::default();
        let socket = socket::open(socket, &health).map_err(bind_failed)?;
        Self::serve_over(socket, local_addr, health, identity, deadlines)
    }

    fn serve_over(
        socket: Arc<dyn AsyncUdpSocket>,
        local_addr: SocketAddr,
        health: Arc<socket::Health>,
        identity: &Identity,
        deadlines: Deadlines,
    ) -> Result<Self, TransportError> {
        let credentials = tls::Credentials::new(identity)?;
        let budget = Budget::of_process();
        let transport = Arc::new(transport_config(deadlines, budget));
        let mut server = quinn::ServerConfig::with_crypto(credentials.server()?);
        server.transport_config(Arc::clone(&transport));
        let mut client = quinn::ClientConfig::new(credentials.client()?);
        client.transport_config(transport);

        let mut endpoint = Endpoint::new_with_abstract_socket(
            endpoint_config(identity),
            Some(server),
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(|source| TransportError::Bind {
            addr: local_addr,
            source,
        })?;
        endpoint.set_default_client_config(client);
        let (broken, pause) = (Arc::clone(&health), deadlines.rebind);
        let mender = spawn(socket::mend(endpoint.clone(), local_addr, broken, pause));

        let (backlog, accepted) = mpsc::channel(BACKLOG_MAX);
        spawn(serve(endpoint.clone(), deadlines.handshake, backlog));
        Ok(Self {
            endpoint,
            local_addr,
            deadlines,
            health,
            mender,
            accepted: tokio::sync::Mutex::new(accepted),
        })
    }
}

impl std::fmt::Debug for Quic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quic")
            .field("local_addr", &self.local_addr)
            .field("connections", &self.endpoint.open_connections())
            .finish_non_exhaustive()
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.mender.abort();
        self.endpoint.close(CLOSE_CODE, b"the peer shut down");
    }
}

#[async_trait]
impl Transport for Quic {
    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    async fn connect(&self, addr: SocketAddr) -> Result<Arc<dyn Connection>, TransportError> {
        let mut connecting =
            self.endpoint
                .connect(addr, SERVER_NAME)
                .map_err(|error| match error {
                    ConnectError::EndpointStopping => TransportError::Closed {
                        reason: "this transport was closed".to_owned(),
                    },
                    _ => TransportError::Unreachable { addr },
                })?;
        let shaken = async {
            let answer = async { connecting.handshake_data().await.map(drop) };
            let answered = timeout(self.deadlines.connect, answer).await;
            // Who answers with an error says it again below.
            answered.is_ok().then_some(())?;
            Some(connecting.await)
        };
        let connection = match timeout(self.deadlines.handshake, shaken).await {
            Ok(Some(Ok(connection))) => connection,
            Ok(Some(Err(ConnectionError::TimedOut)) | None) | Err(_) => {
                return Err(TransportError::Unreachable { addr });
            }
            Ok(Some(Err(error))) => return Err(lost(addr, &error)),
        };
        Ok(Arc::new(QuicConnection::start(connection)?))
    }

    fn trouble(&self) -> Option<String> {
        self.health.trouble()
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        self.accepted.lock().await.recv().await
    }

    async fn close(&self) {
        self.endpoint.close(CLOSE_CODE, b"the peer shut down");
        // A peer that cannot be told finds out by itself.
        let _ = timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await;
    }
}

/// Takes handshakes as they come, each in its own task, so that a slow one delays nobody.
async fn serve(
    endpoint: Endpoint,
    handshake_timeout: Duration,
    backlog: mpsc::Sender<Arc<dyn Connection>>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let incoming = tokio::select! {
            biased;
            () = backlog.closed() => return,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let permit = match Arc::clone(&handshakes).try_acquire_owned() {
            Ok(permit) if endpoint.open_connections() < CONNECTIONS_MAX => permit,
            _ => {
                incoming.refuse();
                continue;
            }
        };
        let backlog = backlog.clone();
        spawn(async move {
            let from = incoming.remote_address();
            let shaken = timeout(handshake_timeout, async { incoming.accept()?.await }).await;
            drop(permit);
            let connection = match shaken {
                Ok(Ok(connection)) => QuicConnection::start(connection),
                Ok(Err(error)) => Err(lost(from, &error)),
                Err(_) => Err(TransportError::TimedOut),
            };
            match connection {
                Ok(connection) => {
                    // Nobody accepts any more: dropping the connection closes it.
                    let _ = backlog.send(Arc::new(connection)).await;
                }
                Err(error) => tracing::debug!(%from, %error, "handshake failed"),
            }
        });
    }
}

/// Returns a window of at most `usual` bytes within the budget, of which it is one of 32 parts: a few
/// connections are busy at once. Less is slower, not wrong.
fn window(usual: u32, budget: Budget) -> u32 {
    let bytes = budget.part(u64::from(usual), 32);
    u32::try_from(bytes).unwrap_or(usual).max(WINDOW_MIN_BYTES)
}

fn transport_config(deadlines: Deadlines, budget: Budget) -> TransportConfig {
    let connection_window = window(CONNECTION_WINDOW_BYTES, budget);
    let mut mtu = quinn::MtuDiscoveryConfig::default();
    mtu.upper_bound(DATAGRAM_MAX_BYTES);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(0u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(window(STREAM_WINDOW_BYTES, budget).into())
        .receive_window(connection_window.into())
        .send_window(connection_window.into())
        // Bulk messages go out one after another: each arrives earlier than if all took turns.
        // Small ones have precedence anyway.
        .send_fairness(false)
        .keep_alive_interval(Some(deadlines.keep_alive))
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(deadlines.idle.try_into().ok());
    config
}

fn endpoint_config(identity: &Identity) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(reset::token_key(identity)));
    config.cid_generator(|| Box::new(reset::connection_ids()));
    // In range by its definition: at least 1,200, at most 65,527.
    let _ = config.max_udp_payload_size(DATAGRAM_MAX_BYTES);
    config
}

fn bind_socket(addr: SocketAddr) -> Result<UdpSocket, TransportError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => TransportError::PortTaken { addr },
        _ => TransportError::Bind { addr, source },
    };
    let socket =
        Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP)).map_err(failed)?;
    if addr.is_ipv6() {
        // Listening on IPv4 as well is a courtesy that some systems refuse.
        let _ = socket.set_only_v6(false);
    }
    // The system caps the sizes at its own limits; less is slower, not wrong.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&addr.into()).map_err(failed)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests;
