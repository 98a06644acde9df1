//! Lines that are slow, long or lossy: everything arrives, once, and what is awaited first.

use std::time::Duration;

use super::over_nodes::{World, addr};
use crate::base::time::sleep;
use crate::base::{ChunkId, Clock};
use crate::node::{NodeEvent, PeerState};

const MIB: usize = 1 << 20;

/// What peers tell each other while nothing is pushed, a second and peer.
const TALK_BYTES: u64 = 600;

impl World {
    /// Returns the bytes of chunks that others hold for machine 0.
    fn stored(&self) -> u64 {
        let others = self.replicas.iter().skip(1);
        others.map(|replica| replica.usage().held_bytes).sum()
    }

    /// Pushes `count` chunks from machine 0 over its line and returns what the line carried, what was
    /// stored, and the seconds it took.
    async fn push_all(&self, count: usize, limit: Duration) -> (u64, u64, f64) {
        let before = (self.net.stats().line_bytes, self.stored());
        let started = self.clock.monotonic();
        // Neither who sends nor who receives is suspected by anybody.
        let events: Vec<_> = self.nodes.iter().map(|node| node.subscribe()).collect();
        for n in 0..count {
            self.put(0, MIB + 28 - n);
        }
        let synced = self.replicas[0].wait_synced(limit).await;
        assert_eq!(synced, Ok(()), "after {limit:?}");
        for (at, mut events) in events.into_iter().enumerate() {
            while let Ok(event) = events.try_recv() {
                assert!(!matches!(event, NodeEvent::PeerDown(_)), "{at}: {event:?}");
            }
        }
        let took = self.clock.monotonic().saturating_sub(started).as_secs_f64();
        let sent = self.net.stats().line_bytes - before.0;
        let talk = (took * self.nodes.len() as f64) as u64 * TALK_BYTES;
        (sent.saturating_sub(talk), self.stored() - before.1, took)
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_over_a_slow_line_moves_at_its_rate_and_sends_nothing_twice() {
    for (rate, others) in [
        (16_000, 1),
        (16_000, 3),
        (64_000, 3),
        (125_000, 1),
        (125_000, 3),
    ] {
        let world = World::new(1 + others).await;
        sleep(Duration::from_secs(30)).await;
        world.net.set_line(addr(0), Some(rate));
        let (sent, stored, took) = world.push_all(3, Duration::from_secs(3600)).await;
        let ideal = stored as f64 / rate as f64;
        println!(
            "{rate} B/s, {others} holders: {sent} sent for {stored}, {took:.0} s of {ideal:.0} s"
        );
        assert!(stored >= 3 * MIB as u64);
        assert!(sent <= stored * 11 / 10, "{rate}: {sent} for {stored}");
        assert!(took <= ideal * 1.25 + 10.0, "{rate}: {took} s of {ideal}");
    }
}

#[tokio::test(start_paused = true)]
async fn long_and_lossy_lines_carry_a_push_too() {
    for (round_trip_ms, loss, rate) in [
        (600, 0, 125_000),
        (2500, 0, 125_000),
        (600, 50, 64_000),
        (2500, 50, 16_000),
    ] {
        let world = World::new(3).await;
        sleep(Duration::from_secs(30)).await;
        let delay = Duration::from_millis(round_trip_ms / 2);
        world.net.set_delay(delay, delay);
        world.net.set_packet_loss_permille(loss);
        world.net.set_line(addr(0), Some(rate));
        let (sent, stored, took) = world.push_all(3, Duration::from_secs(3600)).await;
        let ideal = stored as f64 / rate as f64;
        println!(
            "{rate} B/s, {round_trip_ms} ms, {loss} permille: {sent} for {stored}, {took:.0} s of {ideal:.0} s"
        );
        assert!(sent * 1000 / (1000 + u64::from(loss)) <= stored * 11 / 10);
        assert!(took <= ideal * 1.5 + 60.0, "{took} s of {ideal}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_that_breaks_off_goes_on_where_it_was() {
    let world = World::new(2).await;
    sleep(Duration::from_secs(30)).await;
    world.net.set_line(addr(0), Some(16_000));
    let before = world.net.stats().line_bytes;
    for n in 0..4 {
        world.put(0, MIB + n);
    }
    let started = world.clock.monotonic();
    // A chunk takes 66 s; no session lives as long.
    while !world.replicas[0].progress().is_synced() {
        sleep(Duration::from_secs(40)).await;
        world.net.partition(&[addr(0)], &[addr(1)]);
        sleep(Duration::from_secs(20)).await;
        world.net.heal();
        let took = world.clock.monotonic().saturating_sub(started);
        assert!(took < Duration::from_secs(1200), "after {took:?}");
    }
    let took = world.clock.monotonic().saturating_sub(started).as_secs();
    let sent = world.net.stats().line_bytes - before - took * TALK_BYTES;
    println!("with breaks: {sent} sent for {}, {took} s", world.stored());
    assert!(
        sent <= world.stored() * 115 / 100,
        "{sent} for {}",
        world.stored()
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_program_waits_for_comes_before_the_copies_in_the_background() {
    let world = World::new(2).await;
    sleep(Duration::from_secs(30)).await;
    for rate in [16_000, 125_000] {
        world.net.set_line(addr(0), Some(rate));
        let ids: Vec<ChunkId> = (0..8).map(|n| world.put(0, MIB + n)).collect();
        sleep(Duration::from_secs(5)).await;
        let started = world.clock.monotonic();
        let not_there: Vec<&ChunkId> = {
            let has = |id: &&ChunkId| !world.replicas[1].is_local(**id).unwrap();
            ids.iter().filter(has).collect()
        };
        let wanted = *not_there.last().unwrap();
        // 20 s are what a read is given without progress; a chunk takes 66 s at the slower rate.
        let read = world.replicas[1]
            .fetch(*wanted, Duration::from_secs(20))
            .await;
        assert!(read.is_ok(), "{read:?}");
        let took = world
            .clock
            .monotonic()
            .saturating_sub(started)
            .as_secs_f64();
        let alone = MIB as f64 / rate as f64;
        println!("read at {rate} B/s beside a push: {took:.0} s, alone {alone:.0} s");
        assert!(took <= alone * 1.3 + 8.0, "{took} s, alone {alone}");
        let peer = &world.nodes[1].peers()[0];
        assert_eq!(peer.state, PeerState::Connected);
        world.net.set_line(addr(0), None);
        sleep(Duration::from_secs(120)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn readers_that_share_a_slow_line_all_get_what_they_wait_for() {
    let world = World::new(2).await;
    sleep(Duration::from_secs(30)).await;
    world.net.set_line(addr(0), Some(64_000));
    let ids: Vec<ChunkId> = (0..6).map(|n| world.put(0, MIB + n)).collect();
    let started = world.clock.monotonic();
    let reads: Vec<_> = ids
        .iter()
        .map(|id| {
            let (reader, id) = (std::sync::Arc::clone(&world.replicas[1]), *id);
            crate::base::task::spawn(async move { reader.fetch(id, Duration::from_secs(20)).await })
        })
        .collect();
    // The last one waits five times as long as it may without progress.
    for read in reads {
        let read = read.await.unwrap();
        assert!(read.is_ok(), "{read:?}");
    }
    let took = world
        .clock
        .monotonic()
        .saturating_sub(started)
        .as_secs_f64();
    let alone = 6.0 * MIB as f64 / 64_000.0;
    assert!(took <= alone * 1.25 + 10.0, "{took} s of {alone}");
}

#[tokio::test(start_paused = true)]
async fn a_read_goes_on_after_a_break_and_fails_only_where_nothing_comes() {
    let world = World::new(2).await;
    sleep(Duration::from_secs(30)).await;
    world.net.set_line(addr(0), Some(16_000));
    let id = world.put(0, MIB);
    sleep(Duration::from_millis(10)).await;
    let before = world.net.stats().line_bytes;
    let reader = std::sync::Arc::clone(&world.replicas[1]);
    let read =
        crate::base::task::spawn(async move { reader.fetch(id, Duration::from_secs(20)).await });
    for _ in 0..3 {
        sleep(Duration::from_secs(15)).await;
        // Shorter than a session's patience, then longer.
        world.net.partition(&[addr(0)], &[addr(1)]);
        sleep(Duration::from_secs(16)).await;
        world.net.heal();
    }
    let read = read.await.unwrap();
    assert!(read.is_ok(), "{read:?}");
    let sent = world.net.stats().line_bytes - before;
    assert!(sent <= 2 * MIB as u64, "{sent}");

    let id = world.put(0, MIB + 1);
    world.net.partition(&[addr(0)], &[addr(1)]);
    let started = world.clock.monotonic();
    let gone = world.replicas[1].fetch(id, Duration::from_secs(20)).await;
    assert!(gone.is_err());
    let took = world.clock.monotonic().saturating_sub(started);
    assert!(took <= Duration::from_secs(45), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_read_beside_a_push_to_the_same_peer_sends_nothing_twice() {
    for others in [1, 3] {
        let world = World::new(1 + others).await;
        sleep(Duration::from_secs(30)).await;
        world.net.set_line(addr(0), Some(64_000));
        let (before, stored) = (world.net.stats().line_bytes, world.stored());
        let started = world.clock.monotonic();
        let ids: Vec<ChunkId> = (0..4).map(|n| world.put(0, MIB + n)).collect();
        // A few seconds into the push, as its operation arrives first.
        sleep(Duration::from_secs(2)).await;
        let reads: Vec<_> = ids
            .iter()
            .map(|id| {
                let (reader, id) = (std::sync::Arc::clone(&world.replicas[1]), *id);
                crate::base::task::spawn(
                    async move { reader.fetch(id, Duration::from_secs(20)).await },
                )
            })
            .collect();
        for read in reads {
            let read = read.await.unwrap();
            assert!(read.is_ok(), "{read:?}");
        }
        let elapsed = || {
            let took = world.clock.monotonic().saturating_sub(started);
            took.as_secs_f64()
        };
        let (read, alone) = (elapsed(), 4.0 * MIB as f64 / 64_000.0);
        let synced = world.replicas[0]
            .wait_synced(Duration::from_secs(3600))
            .await;
        assert_eq!(synced, Ok(()));
        let took = elapsed();
        let talk = (took * world.nodes.len() as f64) as u64 * TALK_BYTES;
        let sent = (world.net.stats().line_bytes - before).saturating_sub(talk);
        let stored = world.stored() - stored;
        // What is here only as a cache was sent, too.
        let cached = world.replicas[1].usage().cached_bytes;
        println!(
            "{others} others: read in {read:.0} s of {alone:.0} s; {sent} sent for {stored} and {cached} cached in {took:.0} s"
        );
        assert!(read <= alone * 1.3 + 12.0, "{read} s of {alone}");
        assert!(sent <= (stored + cached) * 11 / 10, "{sent} for {stored}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_rate_and_what_is_left_of_a_push_can_be_told() {
    let world = World::new(2).await;
    sleep(Duration::from_secs(30)).await;
    world.net.set_line(addr(0), Some(64_000));
    for n in 0..4 {
        world.put(0, MIB + n);
    }
    let peer = world.nodes[1].id();
    sleep(Duration::from_secs(40)).await;
    let rate = world.nodes[0].peers()[0].sent_rate;
    assert!((54_000..74_000).contains(&rate), "{rate} bytes a second");
    // What is told as left is what a client works out of the two.
    let left = world.replicas[0].queued_bytes(&peer) / rate;
    let now = world.clock.monotonic();
    let synced = world.replicas[0].wait_synced(Duration::from_secs(600));
    assert_eq!(synced.await, Ok(()));
    let took = world.clock.monotonic().saturating_sub(now).as_secs();
    // A chunk is in the queue until all of it is there.
    assert!(
        left + 5 >= took && left <= took + 20,
        "{left} s, but {took} s"
    );
    assert_eq!(world.replicas[0].queued_bytes(&peer), 0);
}
