//! What is told where a log is not taken.

use std::sync::Arc;
use std::time::Duration;

use dfs::base::Stamp;
use dfs::base::time::{SimClock, sleep};
use dfs::node::Role;
use dfs::wire::LogRefusal;

use super::world::*;

#[tokio::test(start_paused = true)]
async fn a_log_that_is_dated_hours_ahead_is_taken() {
    let world = World::new();
    let a = world.founder();
    let mut b = world.member(1, Role::Writer, &a, 0).await;
    until(5, "a session", || all_connected(&[&a, &b])).await;
    b.write(1);
    until(5, "taken", || same_logs(&[&a, &b], &[(1, 1)])).await;

    // Its clock was wrong once: two hours ahead.
    b.kill(&world).await;
    let right = Arc::clone(&b.clock);
    b.clock = SimClock::new(START_MS + 7_200_000);
    world.restart(&mut b);
    b.write(1);
    b.kill(&world).await;
    b.clock = right;
    world.restart(&mut b);
    let last = |(log, _)| b.node().log().head(log).unwrap().last;
    let newest = b.node().own_ends().into_iter().map(last).max().unwrap();
    assert!(newest > Stamp::from_ms(START_MS + 7_000_000));
    until(60, "taken all the same", || same_logs(&[&a, &b], &[(1, 2)])).await;
    assert!(b.node().peers()[0].refuses_log.is_none() && a.node().refused_logs().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_not_taken_is_told_to_its_author_and_where_it_is_not() {
    const YEARS_MS: u64 = 20 * 365 * 86_400_000;
    let world = World::new();
    let a = world.founder();
    let mut b = world.member(1, Role::Writer, &a, 0).await;
    until(5, "a session", || all_connected(&[&a, &b])).await;
    b.kill(&world).await;
    let right = Arc::clone(&b.clock);
    b.clock = SimClock::new(START_MS + YEARS_MS);
    world.restart(&mut b);
    b.write(1);
    b.kill(&world).await;
    b.clock = right;
    world.restart(&mut b);
    let is_ahead = |refusal: &LogRefusal| matches!(refusal, LogRefusal::Ahead { ahead_ms } if *ahead_ms > YEARS_MS / 2);
    until(60, "both are told", || {
        let peers = b.node().peers();
        let told = peers.first().and_then(|peer| peer.refuses_log);
        let refused = a.node().refused_logs();
        told.as_ref().is_some_and(is_ahead) && refused.values().any(is_ahead)
    })
    .await;
    assert!(b.node().peers()[0].vector.len() < b.node().log().vector().len());
    // What is not taken is not sent again and again.
    let before = world.net.stats().messages;
    sleep(Duration::from_secs(60)).await;
    let sent = world.net.stats().messages - before;
    assert!(sent < 600, "{sent} messages in a minute");
}
