//! Tests of the simulated network.

use bytes::Bytes;

use super::*;
use crate::base::task::spawn;
use crate::base::time::timeout;
use crate::transport::{Frame, Incoming};

fn addr(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 4750))
}

fn machine(net: &SimNet, host: u8) -> Arc<dyn Transport> {
    net.transport(addr(host), PeerId([host; 32]), vec![host])
}

/// Connects machine 1 to a machine 2 that echoes every request.
async fn echo_pair(net: &SimNet) -> (Arc<dyn Transport>, Arc<dyn Connection>) {
    let one = machine(net, 1);
    let two = machine(net, 2);
    spawn(async move {
        while let Some(connection) = two.accept().await {
            spawn(async move {
                while let Some(Incoming { frame, reply }) = connection.next_request().await {
                    let _ = reply.send(frame.body, frame.payload).await;
                }
            });
        }
    });
    let connection = one.connect(addr(2)).await.unwrap();
    (one, connection)
}

/// Returns the runtime's milliseconds that `future` took, and its output.
async fn timed<T>(future: impl Future<Output = T>) -> (u64, T) {
    use crate::base::Clock;
    let clock = crate::base::time::SimClock::new(0);
    let output = future.await;
    (clock.wall_ms(), output)
}

fn ask() -> (Bytes, Bytes) {
    (Bytes::from_static(b"ask"), Bytes::from_static(b"raw"))
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_after_one_round_trip() {
    let net = SimNet::new(1);
    net.set_delay(Duration::from_millis(20), Duration::from_millis(20));
    let (_one, connection) = echo_pair(&net).await;
    assert_eq!(connection.peer(), PeerId([2; 32]));
    assert_eq!(connection.remote_addr(), addr(2));
    let (body, payload) = ask();
    let (took_ms, reply) = timed(connection.request(body.clone(), payload.clone())).await;
    assert_eq!(reply.unwrap(), Frame { body, payload });
    assert!((40..=42).contains(&took_ms), "{took_ms}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_address_is_unreachable_in_bounded_time() {
    let net = SimNet::new(1);
    let one = machine(&net, 1);
    let (took_ms, outcome) = timed(one.connect(addr(9))).await;
    assert!(matches!(outcome, Err(TransportError::Unreachable { addr: a }) if a == addr(9)));
    assert!(took_ms <= 8_001, "{took_ms}");
}

#[tokio::test(start_paused = true)]
async fn a_short_partition_delays_and_a_long_one_kills() {
    let net = SimNet::new(1);
    let (_one, connection) = echo_pair(&net).await;
    net.partition(&[addr(1)], &[addr(2)]);
    let (body, payload) = ask();
    let healed = net.clone();
    spawn(async move {
        sleep(Duration::from_secs(10)).await;
        healed.heal();
    });
    let (took_ms, reply) = timed(connection.request(body.clone(), payload.clone())).await;
    assert!(reply.is_ok());
    assert!((10_000..10_100).contains(&took_ms), "{took_ms}");

    net.partition(&[addr(1)], &[addr(2)]);
    let (took_ms, reply) = timed(connection.request(body, payload)).await;
    assert!(matches!(reply, Err(TransportError::TimedOut)));
    assert!((15_000..15_100).contains(&took_ms), "{took_ms}");
    assert!(matches!(
        connection.closed().await,
        TransportError::TimedOut
    ));
}

#[tokio::test(start_paused = true)]
async fn a_one_way_partition_lets_the_request_through_and_keeps_the_reply() {
    let net = SimNet::new(1);
    let one = machine(&net, 1);
    let two = machine(&net, 2);
    let ours = one.connect(addr(2)).await.unwrap();
    let theirs = two.accept().await.unwrap();
    net.partition_one_way(&[addr(2)], &[addr(1)]);
    let (body, payload) = ask();
    let asked = spawn(async move { ours.request(body, payload).await });
    let Incoming { frame, reply } = theirs.next_request().await.unwrap();
    reply.send(frame.body, frame.payload).await.unwrap();
    assert!(matches!(
        asked.await.unwrap(),
        Err(TransportError::TimedOut)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_killed_machine_is_noticed_by_its_silence_and_may_return() {
    let net = SimNet::new(1);
    let (one, connection) = echo_pair(&net).await;
    net.kill(addr(2));
    let (body, payload) = ask();
    let (took_ms, reply) = timed(connection.request(body, payload)).await;
    assert!(matches!(reply, Err(TransportError::TimedOut)));
    assert!((15_000..15_100).contains(&took_ms), "{took_ms}");
    assert!(one.connect(addr(2)).await.is_err());

    let two = machine(&net, 2);
    let again = one.connect(addr(2)).await.unwrap();
    assert!(two.accept().await.is_some());
    net.kill(addr(1));
    assert!(matches!(
        again.closed().await,
        TransportError::Closed { .. }
    ));
    assert!(one.accept().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_close_is_told_to_the_peer_with_its_reason() {
    let net = SimNet::new(1);
    let one = machine(&net, 1);
    let two = machine(&net, 2);
    let ours = one.connect(addr(2)).await.unwrap();
    let theirs = two.accept().await.unwrap();
    ours.close("not on the roster");
    assert!(
        matches!(theirs.closed().await, TransportError::Closed { reason } if reason == "not on the roster")
    );
    assert!(theirs.next_request().await.is_none());

    let ours = one.connect(addr(2)).await.unwrap();
    let theirs = two.accept().await.unwrap();
    drop(ours);
    assert!(matches!(
        theirs.closed().await,
        TransportError::Closed { .. }
    ));

    let ours = one.connect(addr(2)).await.unwrap();
    two.close().await;
    assert!(matches!(ours.closed().await, TransportError::Closed { .. }));
    assert!(two.accept().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_reply_handle_resets_the_request() {
    let net = SimNet::new(1);
    let one = machine(&net, 1);
    let two = machine(&net, 2);
    let ours = one.connect(addr(2)).await.unwrap();
    let theirs = two.accept().await.unwrap();
    let (body, payload) = ask();
    let asked = spawn(async move { ours.request(body, payload).await });
    drop(theirs.next_request().await.unwrap());
    assert!(matches!(asked.await.unwrap(), Err(TransportError::Reset)));
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_reply_arrives_before_the_close_after_it() {
    let net = SimNet::new(7);
    net.set_delay(Duration::from_millis(1), Duration::from_millis(90));
    for _ in 0..20 {
        let one = machine(&net, 1);
        let two = machine(&net, 2);
        let ours = one.connect(addr(2)).await.unwrap();
        let theirs = two.accept().await.unwrap();
        let (body, payload) = ask();
        let asked = spawn(async move { ours.request(body, payload).await });
        let Incoming { frame, reply } = theirs.next_request().await.unwrap();
        reply
            .send_confirmed(frame.body, frame.payload)
            .await
            .unwrap();
        theirs.close("refused");
        assert!(asked.await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn lost_requests_and_lost_replies_both_end_as_timed_out() {
    let net = SimNet::new(3);
    let one = machine(&net, 1);
    let two = machine(&net, 2);
    let ours = one.connect(addr(2)).await.unwrap();
    let theirs = two.accept().await.unwrap();
    let executed = spawn(async move {
        let mut executed = 0;
        while let Some(Incoming { frame, reply }) = theirs.next_request().await {
            executed += 1;
            let _ = reply.send(frame.body, frame.payload).await;
        }
        executed
    });
    net.set_loss_permille(300);
    let mut answered = 0;
    for _ in 0..100 {
        let (body, payload) = ask();
        match ours.request(body, payload).await {
            Ok(_) => answered += 1,
            Err(error) => assert!(matches!(error, TransportError::TimedOut)),
        }
    }
    drop(ours);
    let executed = executed.await.unwrap();
    assert!(
        answered < executed && executed < 100,
        "{answered} {executed}"
    );
    assert_eq!(net.stats().lost, 100 - answered);
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_history() {
    async fn history(seed: u64) -> Vec<u64> {
        let net = SimNet::new(seed);
        net.set_delay(Duration::from_millis(1), Duration::from_millis(50));
        let (_one, connection) = echo_pair(&net).await;
        net.set_loss_permille(100);
        let mut took = Vec::new();
        for _ in 0..50 {
            let (body, payload) = ask();
            took.push(timed(connection.request(body, payload)).await.0);
        }
        took
    }
    assert_eq!(history(11).await, history(11).await);
    assert_ne!(history(11).await, history(12).await);
}

#[tokio::test(start_paused = true)]
async fn what_breaks_a_limit_is_not_sent() {
    let net = SimNet::new(1);
    let (_one, connection) = echo_pair(&net).await;
    let before = net.stats().messages;
    let big = Bytes::from(vec![0; crate::base::limits::MESSAGE_PAYLOAD_MAX_BYTES + 1]);
    let outcome = connection.request(Bytes::new(), big).await;
    assert!(matches!(outcome, Err(TransportError::TooLarge { .. })));
    assert_eq!(net.stats().messages, before);
}

#[tokio::test(start_paused = true)]
async fn bandwidth_delays_what_is_large() {
    let net = SimNet::new(1);
    net.set_bytes_per_second(Some(1 << 20));
    let (_one, connection) = echo_pair(&net).await;
    let big = Bytes::from(vec![0; 1 << 20]);
    let (took_ms, reply) = timed(connection.request(Bytes::new(), big)).await;
    assert!(reply.is_ok());
    assert!((2_000..2_100).contains(&took_ms), "{took_ms}");
}

#[tokio::test(start_paused = true)]
async fn a_callers_deadline_frees_its_stream() {
    let net = SimNet::new(1);
    let one = machine(&net, 1);
    let two = machine(&net, 2);
    let ours = one.connect(addr(2)).await.unwrap();
    let theirs = two.accept().await.unwrap();
    for _ in 0..=crate::transport::STREAMS_MAX {
        let (body, payload) = ask();
        let asked = timeout(Duration::from_millis(10), ours.request(body, payload)).await;
        assert!(asked.is_err());
    }
    assert!(theirs.next_request().await.is_some());
}
