//! Machines that move: new addresses, names that lead elsewhere, long cuts, sleep, slow round trips.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dfs::base::time::sleep;
use dfs::node::{Machine as Surroundings, NodeConfig, Role};
use parking_lot::Mutex;

use super::world::*;

/// How soon peers have to meet again once they can reach each other.
const SOON: u64 = 10;

/// A machine whose addresses, and what names lead to, the test changes.
#[derive(Default)]
struct Place {
    own: Mutex<Vec<SocketAddr>>,
    named: Mutex<Vec<SocketAddr>>,
}

#[async_trait]
impl Surroundings for Place {
    fn addrs(&self, _: SocketAddr) -> Vec<SocketAddr> {
        self.own.lock().clone()
    }

    async fn resolve(&self, host: &str) -> Vec<SocketAddr> {
        assert_eq!(host, "nas.home:4750");
        self.named.lock().clone()
    }
}

fn config_at(at: usize, place: &Arc<Place>) -> NodeConfig {
    NodeConfig {
        machine: Arc::clone(place) as Arc<dyn Surroundings>,
        ..config(at)
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_is_looked_up_again_at_each_dial_and_all_that_it_leads_to_is_tried() {
    let world = World::new();
    let mut founder = world.founder();
    let mut other = world.member(1, Role::Writer, &founder, 0).await;
    until(5, "a session", || all_connected(&[&founder, &other])).await;
    founder.kill(&world).await;
    other.kill(&world).await;

    // Neither is where the other knows it to be; only the name leads to one of them.
    let place = Arc::new(Place::default());
    other.transport = world.transport_at(1, addr(11));
    let mut config = config_at(1, &place);
    config.seeds = vec!["nas.home:4750".to_owned()];
    other.start_as(&world, config);
    sleep(Duration::from_secs(300)).await;
    founder.transport = world.transport_at(0, addr(10));
    founder.start(&world);
    sleep(Duration::from_secs(300)).await;
    assert!(!all_connected(&[&founder, &other]));
    // The first two addresses lead nowhere.
    *place.named.lock() = vec![addr(20), addr(21), addr(10)];
    let both = [&founder, &other];
    until(SOON, "the name leads to it", || all_connected(&both)).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_behind_a_nat_follows_a_name_whenever_it_moves() {
    let world = World::new();
    world.net.hide(addr(1));
    let mut founder = world.founder();
    let mut other = world.member(1, Role::Writer, &founder, 0).await;
    other.kill(&world).await;
    let place = Arc::new(Place::default());
    *place.named.lock() = vec![addr(0)];
    let mut config = config_at(1, &place);
    config.seeds = vec!["nas.home:4750".to_owned()];
    other.transport = world.transport(1);
    other.start_as(&world, config);
    let mut at = addr(0);
    // The name follows at once, while the silence is noticed, and at all moments of the dials.
    for (round, late) in (0..20).chain([600]).enumerate() {
        until(SOON, "a session", || all_connected(&[&founder, &other])).await;
        sleep(Duration::from_secs(20)).await;
        world.net.kill(at);
        founder.kill(&world).await;
        at = addr(20 + round);
        founder.transport = world.transport_at(0, at);
        founder.start(&world);
        sleep(Duration::from_secs(late)).await;
        assert!(!all_connected(&[&founder, &other]) || late == 0);
        *place.named.lock() = vec![at];
        let both = [&founder, &other];
        let what = format!("the name follows after {late} s");
        until(SOON, &what, || all_connected(&both)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn peers_meet_soon_after_a_long_cut() {
    let world = World::new();
    let founder = world.founder();
    let other = world.member(1, Role::Writer, &founder, 0).await;
    let both = [&founder, &other];
    until(5, "a session", || all_connected(&both)).await;
    for seconds in [20, 600, 7200] {
        world.net.partition(&[addr(0)], &[addr(1)]);
        sleep(Duration::from_secs(seconds)).await;
        assert!(founder.node().connected().is_empty());
        world.net.heal();
        until(SOON, "a session after the cut", || all_connected(&both)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_names_the_addresses_of_now_and_the_others_hear_of_them() {
    let world = World::new();
    let mut founder = world.founder();
    founder.kill(&world).await;
    founder.transport = world.transport(0);
    let place = Arc::new(Place::default());
    *place.own.lock() = vec![addr(0), "127.0.0.1:4750".parse().unwrap()];
    founder.start_as(&world, config_at(0, &place));
    let other = world.member(1, Role::Writer, &founder, 0).await;
    until(5, "a session", || all_connected(&[&founder, &other])).await;

    let named = async || {
        let hour = Duration::from_secs(3600);
        founder
            .node()
            .invite(Role::Reader, hour)
            .await
            .unwrap()
            .addrs
    };
    assert_eq!(named().await, [addr(0)]);
    let moved: SocketAddr = "10.77.0.77:4750".parse().unwrap();
    *place.own.lock() = vec![moved];
    assert_eq!(named().await.first(), Some(&moved));

    // What it says of itself gets to the others, who find it by that when it is there alone.
    sleep(Duration::from_secs(3)).await;
    founder.kill(&world).await;
    founder.transport = world.transport_at(0, moved);
    founder.start_as(&world, config_at(0, &place));
    let both = [&founder, &other];
    until(40, "a session at the new place", || all_connected(&both)).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_dials_at_once() {
    let world = World::new();
    let founder = world.founder();
    let other = world.member(1, Role::Writer, &founder, 0).await;
    let both = [&founder, &other];
    until(5, "a session", || all_connected(&both)).await;
    let before = world.net.stats().connections;
    world.clock.advance(Duration::from_secs(3600));
    until(SOON, "a new session", || {
        world.net.stats().connections > before && all_connected(&both)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_round_trip_of_seconds_lets_peers_join_and_meet_again() {
    for round_trip_ms in [600, 2500] {
        let world = World::new();
        let delay = Duration::from_millis(round_trip_ms / 2);
        world.net.set_delay(delay, delay);
        let founder = world.founder();
        let mut other = world.member(1, Role::Writer, &founder, 0).await;
        until(40, "a session", || all_connected(&[&founder, &other])).await;
        other.kill(&world).await;
        sleep(Duration::from_secs(60)).await;
        world.restart(&mut other);
        let both = [&founder, &other];
        until(40, "a session again", || all_connected(&both)).await;
        // It stays: nobody is suspected for the distance alone.
        for _ in 0..600 {
            sleep(Duration::from_millis(100)).await;
            assert!(all_connected(&both), "round trip {round_trip_ms} ms");
        }
    }
}
