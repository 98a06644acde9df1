//! Logs and joins over slow lines.

use std::time::Duration;

use dfs::base::Clock;
use dfs::base::time::sleep;
use dfs::node::{NodeEvent, Role};

use super::world::*;

/// 128 kbit/s.
const SLOW: u64 = 16_000;

#[tokio::test(start_paused = true)]
async fn logs_cross_a_slow_line_once_and_nobody_is_suspected() {
    let world = World::new();
    let founder = world.founder();
    let other = world.member(1, Role::Writer, &founder, 0).await;
    until(5, "a session", || all_connected(&[&founder, &other])).await;
    world.net.set_line(addr(0), Some(SLOW));
    let mut events = other.node().subscribe();
    let started = world.clock.monotonic();
    founder.write_large(3, 900_000);
    founder.write(100);
    let want = [(0, 103), (1, 0)];
    let want = &want[..1];
    until(600, "the log is there", || {
        same_logs(&[&founder, &other], want)
    })
    .await;
    let took = world.clock.monotonic().saturating_sub(started).as_secs();
    let (bytes, sent) = (3 * 900_000 + 100 * 2_200, world.net.stats().line_bytes);
    println!(
        "log: {sent} sent for {bytes}, {took} s of {} s",
        bytes / SLOW
    );
    assert!(sent <= bytes * 11 / 10 + took * 1_000, "{sent} for {bytes}");
    assert!(took <= bytes / SLOW * 5 / 4 + 10, "{took} s");
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, NodeEvent::PeerDown(_)), "{event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_breaks_off_goes_on_where_it_was() {
    let world = World::new();
    let founder = world.founder();
    let other = world.member(1, Role::Writer, &founder, 0).await;
    until(5, "a session", || all_connected(&[&founder, &other])).await;
    world.net.set_line(addr(0), Some(SLOW));
    founder.write_large(2, 900_000);
    let started = world.clock.monotonic();
    // A segment takes 56 s; no session lives as long.
    while !same_logs(&[&founder, &other], &[(0, 2)]) {
        sleep(Duration::from_secs(35)).await;
        world.net.partition(&[addr(0)], &[addr(1)]);
        sleep(Duration::from_secs(20)).await;
        world.net.heal();
        let took = world.clock.monotonic().saturating_sub(started);
        assert!(took < Duration::from_secs(600), "after {took:?}");
    }
    let took = world.clock.monotonic().saturating_sub(started).as_secs();
    let sent = world.net.stats().line_bytes;
    assert!(sent <= 2 * 900_000 * 115 / 100 + took * 1_000, "{sent}");
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_takes_the_logs_of_others_over_a_slow_line() {
    let world = World::new();
    let mut founder = world.founder();
    let mut relay = world.member(1, Role::Storage, &founder, 0).await;
    founder.write_large(2, 600_000);
    let two = [&founder, &relay];
    until(60, "the relay has it", || same_logs(&two, &[(0, 2)])).await;
    let hour = Duration::from_secs(3600);
    let token = founder.node().invite(Role::Reader, hour).await.unwrap();
    for machine in [&mut founder, &mut relay] {
        world.net.set_line(addr(machine.at), Some(SLOW));
    }
    let mut newcomer = world.machine(2);
    newcomer.join(&token, &[addr(0)]).await.unwrap();
    // Whose log it is has gone: all comes by pulling from the relay.
    founder.kill(&world).await;
    newcomer.start(&world);
    let before = world.net.stats().line_bytes;
    let two = [&relay, &newcomer];
    until(300, "the newcomer has it", || same_logs(&two, &[(0, 2)])).await;
    let sent = world.net.stats().line_bytes - before;
    assert!(sent <= 2 * 600_000 * 11 / 10 + 100_000, "{sent}");
}
