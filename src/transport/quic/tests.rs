//! Tests of QUIC over loopback.

use std::sync::OnceLock;

use bytes::Bytes;
use tokio::net::UdpSocket as AsyncUdpSocket;

use super::*;
use crate::base::Rng;
use crate::base::limits::MESSAGE_PAYLOAD_MAX_BYTES;
use crate::base::task::thread;
use crate::transport::Incoming;

/// Long enough for any step on a busy machine; a test that meets it fails.
const PATIENCE: Duration = Duration::from_secs(30);

const SHORT: Deadlines = Deadlines {
    connect: Duration::from_secs(1),
    handshake: Duration::from_secs(1),
    idle: Duration::from_secs(1),
    keep_alive: Duration::from_millis(100),
    rebind: (Duration::from_millis(50), Duration::from_millis(50)),
};

fn identity(index: usize) -> &'static Identity {
    static IDENTITIES: [OnceLock<Identity>; 3] = [const { OnceLock::new() }; 3];
    IDENTITIES[index].get_or_init(|| Identity::generate(&Rng::from_seed(index as u64)).unwrap())
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn quic(index: usize) -> Quic {
    Quic::bind(loopback(), false, identity(index)).unwrap()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .expect("within the patience")
}

/// Connects `one` to `two` and returns both sides.
async fn join(one: &Quic, two: &Quic) -> (Arc<dyn Connection>, Arc<dyn Connection>) {
    let (ours, theirs) =
        soon(async { tokio::join!(one.connect(two.local_addr()), two.accept()) }).await;
    (ours.unwrap(), theirs.unwrap())
}

/// Answers every request with itself until the connection ends.
fn echo(connection: Arc<dyn Connection>) {
    spawn(async move {
        while let Some(Incoming { frame, reply }) = connection.next_request().await {
            spawn(async move { reply.send(frame.body, frame.payload).await });
        }
    });
}

fn bytes(len: usize) -> Bytes {
    (0..len).map(|index| (index % 251) as u8).collect()
}

#[tokio::test]
async fn both_sides_ask_and_both_identities_are_proven() {
    let (one, two) = (quic(0), quic(1));
    let (ours, theirs) = join(&one, &two).await;
    assert_eq!(ours.peer(), identity(1).id());
    assert_eq!(ours.spki(), identity(1).public().spki);
    assert_eq!(theirs.peer(), identity(0).id());
    assert_eq!(theirs.remote_addr(), one.local_addr());
    assert_eq!(ours.remote_addr(), two.local_addr());
    echo(Arc::clone(&ours));
    echo(Arc::clone(&theirs));
    for connection in [ours, theirs] {
        for (body, payload) in [(0, 0), (1, 0), (0, 1), (1000, 70_000)] {
            let reply = soon(connection.request(bytes(body), bytes(payload)))
                .await
                .unwrap();
            assert_eq!((reply.body, reply.payload), (bytes(body), bytes(payload)));
        }
    }
}

#[tokio::test]
async fn the_largest_frame_passes_and_a_larger_one_is_not_sent() {
    let (one, two) = (quic(0), quic(1));
    let (ours, theirs) = join(&one, &two).await;
    echo(theirs);
    let largest = bytes(MESSAGE_PAYLOAD_MAX_BYTES);
    let reply = soon(ours.request(bytes(4 << 20), largest.clone()))
        .await
        .unwrap();
    assert_eq!(reply.payload, largest);
    assert_eq!(reply.body, bytes(4 << 20));
    let larger = bytes(MESSAGE_PAYLOAD_MAX_BYTES + 1);
    let refused = soon(ours.request(Bytes::new(), larger)).await;
    assert!(matches!(refused, Err(TransportError::TooLarge { .. })));
}

#[tokio::test]
async fn bulk_goes_in_large_datagrams_and_none_is_swallowed() {
    let (one, two) = (quic(0), quic(1));
    let dialled = one.endpoint.connect(two.local_addr(), SERVER_NAME).unwrap();
    let (dialled, theirs) = soon(async { tokio::join!(dialled, two.accept()) }).await;
    echo(theirs.unwrap());
    let dialled = dialled.unwrap();
    let ours = QuicConnection::start(dialled.clone()).unwrap();
    for _ in 0..3 {
        let reply = soon(ours.request(Bytes::new(), bytes(8 << 20))).await;
        assert_eq!(reply.unwrap().payload.len(), 8 << 20);
    }
    let path = dialled.stats().path;
    assert_eq!(path.black_holes_detected, 0);
    assert!(path.current_mtu > 1_472, "{}", path.current_mtu);
}

#[tokio::test]
async fn a_thousand_requests_at_once_are_all_answered() {
    let (one, two) = (quic(0), quic(1));
    let (ours, theirs) = join(&one, &two).await;
    echo(theirs);
    let asked: Vec<_> = (0..1000u32)
        .map(|number| {
            let ours = Arc::clone(&ours);
            spawn(async move {
                let body = Bytes::copy_from_slice(&number.to_le_bytes());
                ours.request(body.clone(), Bytes::new()).await.unwrap().body == body
            })
        })
        .collect();
    for answer in asked {
        assert!(soon(answer).await.unwrap());
    }
}

/// Dials `to` below the frames, to send what a hostile peer would.
async fn raw(to: &Quic) -> (Endpoint, quinn::Connection) {
    let credentials = tls::Credentials::new(identity(2)).unwrap();
    let mut endpoint = Endpoint::client(loopback()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(credentials.client().unwrap()));
    let connecting = endpoint.connect(to.local_addr(), SERVER_NAME).unwrap();
    let connection = soon(connecting).await.unwrap();
    (endpoint, connection)
}

#[tokio::test]
async fn hostile_frames_end_their_stream_and_nothing_else() {
    let two = quic(1);
    let (_endpoint, hostile) = raw(&two).await;
    let theirs = soon(two.accept()).await.unwrap();
    let cases: [&[u8]; 5] = [
        &[0xff; 8],
        &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 2, 3],
        &[5, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3],
        &[1, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3],
        &[1, 0, 0],
    ];
    for case in cases {
        let (mut send, mut recv) = hostile.open_bi().await.unwrap();
        send.write_all(case).await.unwrap();
        let _ = send.finish();
        let reply = soon(recv.read_to_end(100)).await;
        assert!(reply.is_err(), "{case:?} was answered");
    }
    let (mut send, mut recv) = hostile.open_bi().await.unwrap();
    send.write_all(&[1, 0, 0, 0, 0, 0, 0, 0, 7]).await.unwrap();
    send.finish().unwrap();
    let Incoming { frame, reply } = soon(theirs.next_request()).await.unwrap();
    assert_eq!(&frame.body[..], [7]);
    reply.send(frame.body, frame.payload).await.unwrap();
    let reply = soon(recv.read_to_end(100)).await.unwrap();
    assert_eq!(reply, [1, 0, 0, 0, 0, 0, 0, 0, 7]);
}

#[tokio::test]
async fn unanswered_bulk_and_stuck_streams_do_not_delay_a_small_request() {
    let two = quic(1);
    let (_endpoint, hostile) = raw(&two).await;
    let theirs = soon(two.accept()).await.unwrap();
    let mut stuck = Vec::new();
    let nine_mib = [[0; 4], (MESSAGE_PAYLOAD_MAX_BYTES as u32).to_le_bytes()].concat();
    for _ in 0..20 {
        let (mut send, recv) = hostile.open_bi().await.unwrap();
        send.write_all(&nine_mib).await.unwrap();
        stuck.push((send, recv));
    }
    let (mut send, _recv) = hostile.open_bi().await.unwrap();
    send.write_all(&[1, 0, 0, 0, 0, 0, 0, 0, 7]).await.unwrap();
    send.finish().unwrap();
    let small = soon(theirs.next_request()).await.unwrap();
    assert_eq!(&small.frame.body[..], [7]);
}

#[tokio::test]
async fn a_dropped_reply_handle_resets_the_request() {
    let (one, two) = (quic(0), quic(1));
    let (ours, theirs) = join(&one, &two).await;
    let (asked, incoming) = soon(async {
        tokio::join!(ours.request(bytes(3), Bytes::new()), async {
            drop(theirs.next_request().await);
        })
    })
    .await;
    assert!(matches!(asked, Err(TransportError::Reset)));
    let () = incoming;
}

#[tokio::test]
async fn a_close_is_told_with_its_reason_after_a_confirmed_reply() {
    let (one, two) = (quic(0), quic(1));
    for _ in 0..5 {
        let (ours, theirs) = join(&one, &two).await;
        let (asked, ()) = soon(async {
            tokio::join!(ours.request(bytes(3), Bytes::new()), async {
                let Incoming { frame, reply } = theirs.next_request().await.unwrap();
                reply
                    .send_confirmed(frame.body, bytes(100_000))
                    .await
                    .unwrap();
                theirs.close("not on the\nroster");
            })
        })
        .await;
        assert_eq!(asked.unwrap().payload.len(), 100_000);
        let why = soon(ours.closed()).await;
        assert!(
            matches!(&why, TransportError::Closed { reason } if reason == "not on the roster"),
            "{why}"
        );
        assert!(soon(ours.next_request()).await.is_none());
    }
}

#[tokio::test]
async fn dropping_and_shutting_down_are_told() {
    let (one, two) = (quic(0), quic(1));
    let (ours, theirs) = join(&one, &two).await;
    drop(ours);
    assert!(matches!(
        soon(theirs.closed()).await,
        TransportError::Closed { .. }
    ));

    let (ours, _theirs) = join(&one, &two).await;
    soon(two.close()).await;
    let why = soon(ours.closed()).await;
    assert!(matches!(&why, TransportError::Closed { reason } if reason == "the peer shut down"));
    assert!(soon(two.accept()).await.is_none());
    assert!(soon(two.connect(one.local_addr())).await.is_err());
}

#[tokio::test]
async fn a_taken_port_is_said_or_avoided() {
    let one = quic(0);
    let taken = one.local_addr();
    let refused = Quic::bind(taken, false, identity(1));
    assert!(matches!(refused, Err(TransportError::PortTaken { addr }) if addr == taken));
    let two = Quic::bind(taken, true, identity(1)).unwrap();
    assert_ne!(two.local_addr().port(), taken.port());
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
    let refused = Quic::bind(elsewhere, true, identity(1));
    assert!(matches!(refused, Err(TransportError::Bind { .. })));
}

#[tokio::test]
async fn each_family_of_addresses_can_be_listened_on() {
    let port = |quic: &Quic| quic.local_addr().port();
    let v4 = Quic::bind("0.0.0.0:0".parse().unwrap(), false, identity(0)).unwrap();
    let one = quic(1);
    let to_v4 = SocketAddr::from(([127, 0, 0, 1], port(&v4)));
    assert!(soon(one.connect(to_v4)).await.is_ok());
    // A machine without IPv6 cannot bind it, and has no more to show.
    let Ok(v6) = Quic::bind("[::]:0".parse().unwrap(), false, identity(2)) else {
        return;
    };
    let to_v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port(&v6)));
    let client = Quic::bind("[::1]:0".parse().unwrap(), false, identity(1)).unwrap();
    assert!(soon(client.connect(to_v6)).await.is_ok());
    soon(v6.accept()).await.unwrap();
    let to_both = SocketAddr::from(([127, 0, 0, 1], port(&v6)));
    let ours = soon(one.connect(to_both)).await.unwrap();
    let theirs = soon(v6.accept()).await.unwrap();
    assert_eq!(theirs.remote_addr(), one.local_addr());
    assert_eq!(ours.remote_addr(), to_both);
    assert!(soon(v6.connect(to_v4)).await.is_ok());
    let unreachable = soon(one.connect(to_v6)).await;
    assert!(matches!(
        unreachable,
        Err(TransportError::Unreachable { .. })
    ));
}

#[tokio::test]
async fn a_dead_address_is_unreachable_in_bounded_time() {
    let silent = UdpSocket::bind(loopback()).unwrap();
    let addr = silent.local_addr().unwrap();
    let one = Quic::bind_with(loopback(), false, identity(0), SHORT).unwrap();
    let outcome = timeout(SHORT.connect * 4, one.connect(addr)).await.unwrap();
    assert!(matches!(outcome, Err(TransportError::Unreachable { addr: a }) if a == addr));
    assert!(Deadlines::DEFAULT.connect <= Duration::from_secs(8));
}

/// Passes datagrams between a dialler and `target` until the task is aborted.
async fn relay(target: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let socket = AsyncUdpSocket::bind(loopback()).await.unwrap();
    let addr = socket.local_addr().unwrap();
    let task = spawn(async move {
        let mut dialler = None;
        let mut datagram = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut datagram).await {
            let to = if from == target {
                dialler
            } else {
                dialler = Some(from);
                Some(target)
            };
            if let Some(to) = to {
                let _ = socket.send_to(&datagram[..len], to).await;
            }
        }
    });
    (addr, task)
}

#[tokio::test]
async fn a_peer_that_vanishes_times_out_in_bounded_time() {
    let one = Quic::bind_with(loopback(), false, identity(0), SHORT).unwrap();
    let two = Quic::bind_with(loopback(), false, identity(1), SHORT).unwrap();
    let (addr, wire) = relay(two.local_addr()).await;
    let (ours, theirs) = soon(async { tokio::join!(one.connect(addr), two.accept()) }).await;
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    echo(Arc::clone(&theirs));
    assert!(soon(ours.request(bytes(3), bytes(9))).await.is_ok());
    wire.abort();
    let lost = timeout(SHORT.idle * 6, ours.request(bytes(3), Bytes::new())).await;
    assert!(matches!(lost.unwrap(), Err(TransportError::TimedOut)));
    assert!(matches!(
        soon(ours.closed()).await,
        TransportError::TimedOut
    ));
    assert!(matches!(
        soon(theirs.closed()).await,
        TransportError::TimedOut
    ));
    assert!(soon(theirs.next_request()).await.is_none());
}

#[tokio::test]
async fn a_quiet_connection_lives_on() {
    let one = Quic::bind_with(loopback(), false, identity(0), SHORT).unwrap();
    let two = Quic::bind_with(loopback(), false, identity(1), SHORT).unwrap();
    let (ours, theirs) = join(&one, &two).await;
    echo(theirs);
    assert!(timeout(SHORT.idle * 2, ours.closed()).await.is_err());
    assert!(soon(ours.request(bytes(3), Bytes::new())).await.is_ok());
}

#[tokio::test]
async fn a_peer_that_restarts_at_its_address_is_recognized_at_once() {
    let one = quic(0);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let two = {
        let _inside = runtime.enter();
        Quic::bind(loopback(), false, identity(1)).unwrap()
    };
    let addr = two.local_addr();
    let (ours, theirs) = join(&one, &two).await;
    {
        let _inside = runtime.enter();
        echo(theirs);
    }
    assert!(soon(ours.request(bytes(3), Bytes::new())).await.is_ok());
    // Without its runtime the endpoint can say no farewell, like a killed process.
    thread("killer", move || {
        runtime.shutdown_timeout(PATIENCE);
        drop(two);
    })
    .unwrap()
    .join()
    .unwrap();
    let _again = Quic::bind(addr, false, identity(1)).unwrap();
    let lost = timeout(Duration::from_secs(5), ours.request(bytes(3), Bytes::new())).await;
    assert!(
        matches!(&lost, Ok(Err(TransportError::Closed { reason })) if reason == "the peer restarted"),
        "{lost:?}"
    );
}

#[tokio::test]
async fn random_datagrams_at_the_port_change_nothing() {
    const SEED: u64 = 4750;
    let (one, two) = (quic(0), quic(1));
    let (ours, theirs) = join(&one, &two).await;
    echo(theirs);
    let stranger = AsyncUdpSocket::bind(loopback()).await.unwrap();
    let rng = Rng::from_seed(SEED);
    for round in 0..400 {
        let mut datagram = rng.bytes::<1500>();
        let len = rng.below(1501) as usize;
        if round % 2 == 0 {
            // The shape of a first packet of QUIC version 1, with garbage inside.
            datagram[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
        }
        stranger
            .send_to(&datagram[..len], two.local_addr())
            .await
            .unwrap();
        if round % 40 == 0 {
            let reply = soon(ours.request(bytes(round), Bytes::new())).await;
            assert_eq!(reply.unwrap().body, bytes(round), "seed {SEED}");
        }
    }
    let (again, _theirs) = join(&one, &two).await;
    assert_eq!(again.peer(), identity(1).id());
    assert!(soon(ours.request(bytes(5), Bytes::new())).await.is_ok());
}

mod impostors;

#[test]
fn windows_follow_the_memory_of_the_process() {
    let large = Budget::within(64 << 30);
    assert_eq!(
        window(CONNECTION_WINDOW_BYTES, large),
        CONNECTION_WINDOW_BYTES
    );
    // A quarter of 200 MB are all the caches and queues.
    let small = window(CONNECTION_WINDOW_BYTES, Budget::within(200_000_000));
    assert_eq!(small, 200_000_000 / 4 / 32);
    assert_eq!(
        window(CONNECTION_WINDOW_BYTES, Budget::within(0)),
        WINDOW_MIN_BYTES
    );
}

#[tokio::test]
async fn a_socket_that_fails_is_told_and_made_anew_and_connections_go_on() {
    let socket = bind_socket(loopback()).unwrap();
    let handle = socket.try_clone().unwrap();
    let one = Quic::over(socket, identity(0), SHORT).unwrap();
    let two = quic(1);
    let (ours, theirs) = join(&one, &two).await;
    echo(theirs);
    assert_eq!(one.trouble(), None);

    // Tied to a partner that refuses what is sent, it hears an error, and nobody else any more.
    let nobody = bind_socket(loopback()).unwrap().local_addr().unwrap();
    handle.connect(nobody).unwrap();
    handle.send(b"hello").unwrap();
    // The handle keeps the port taken.
    let told = async {
        while !one.trouble().is_some_and(|why| why.contains("in use")) {
            tokio::task::yield_now().await;
        }
    };
    soon(told).await;
    drop(handle);

    let reply = soon(ours.request(bytes(3), bytes(70_000))).await.unwrap();
    assert_eq!(reply.body, bytes(3));
    assert_eq!(one.trouble(), None);
    let (again, _) = join(&two, &one).await;
    assert_eq!(again.peer(), identity(0).id());
}

#[tokio::test]
async fn an_address_that_comes_later_is_served_as_soon_as_it_is_there() {
    let holder = UdpSocket::bind(loopback()).unwrap();
    let addr = holder.local_addr().unwrap();
    let later = Quic::bind_later_with(addr, identity(0), SHORT).unwrap();
    assert!(later.trouble().is_some());
    let other = Quic::bind_with(loopback(), false, identity(1), SHORT).unwrap();
    assert!(soon(other.connect(addr)).await.is_err());
    assert!(soon(later.connect(other.local_addr())).await.is_err());
    drop(holder);
    let served = async {
        while later.trouble().is_some() {
            tokio::task::yield_now().await;
        }
    };
    soon(served).await;
    let (ours, theirs) = join(&other, &later).await;
    echo(theirs);
    assert!(soon(ours.request(bytes(3), Bytes::new())).await.is_ok());
    let (ours, theirs) = join(&later, &other).await;
    echo(theirs);
    assert!(soon(ours.request(bytes(3), Bytes::new())).await.is_ok());
}
