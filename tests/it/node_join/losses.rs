//! First contacts over long lines that lose packets: whatever is lost, each comes to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dfs::base::Clock;
use dfs::base::time::sleep;
use dfs::crypto::RecoveryPhrase;
use dfs::node::{Node, Role};

use super::roster::recover;
use super::world::*;

/// What is lost of a thousand messages where one packet of twenty is, and a message takes two.
const LOST_PERMILLE: u32 = 100;

/// Histories of losses that each contact is tried under; `DFS_SEEDS=n` tries more.
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("DFS_SEEDS").ok();
    *SEED..*SEED + asked.and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// Makes the network long, and lossy from now on.
fn stretch(world: &World, round_trip_ms: u64) {
    let way = Duration::from_millis(round_trip_ms / 2);
    world.net.set_delay(way, way);
    world.net.set_repeated_permille(LOST_PERMILLE);
}

#[tokio::test(start_paused = true)]
async fn a_join_ends_whatever_is_lost() {
    for round_trip_ms in [600, 2_500] {
        for seed in seeds() {
            let world = World::seeded(seed);
            let founder = world.founder();
            let token = founder
                .node()
                .invite(Role::Writer, Duration::from_secs(3600));
            let token = token.await.unwrap();
            stretch(&world, round_trip_ms);
            let mut newcomer = world.machine(1);
            let joined = newcomer.join(&token, &[]).await;
            assert!(
                joined.is_ok(),
                "seed {seed}, {round_trip_ms} ms: {joined:?}"
            );
            newcomer.start(&world);
            founder.write(2);
            let both = [&founder, &newcomer];
            until(600, "the log is there", || same_logs(&both, &[(0, 2)])).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_asking_ends_whatever_is_lost() {
    for round_trip_ms in [600, 2_500] {
        for seed in seeds() {
            let world = World::seeded(seed);
            let founder = world.founder();
            stretch(&world, round_trip_ms);
            let asker = world.machine(1);
            let (config, clock) = (config(1), Arc::clone(&asker.clock) as Arc<dyn Clock>);
            let peers = [addr(0)];
            let asked = Node::ask(&asker.transport, &config, &clock, &peers, |_| {});
            let approved = async {
                until(600, "it asks", || !founder.node().askings().is_empty()).await;
                let approved = founder.node().approve(id(1), Role::Storage, None);
                approved.await.unwrap();
            };
            let (asked, ()) = tokio::join!(asked, approved);
            assert!(asked.is_ok(), "seed {seed}, {round_trip_ms} ms: {asked:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_recovery_ends_whatever_is_lost() {
    let world = World::new();
    let founder = world.founder();
    let rng = world.rng.clone();
    let wrap = move |to: &dfs::crypto::PublicIdentity| to.wrap_key(&rng, b"keys").ok();
    founder.node().set_key_wrapper(Box::new(wrap));
    let phrase = founder.node().make_recovery().await.unwrap();
    let phrase: RecoveryPhrase = phrase.to_string().parse().unwrap();
    for round_trip_ms in [600, 2_500] {
        stretch(&world, round_trip_ms);
        for number in seeds() {
            let new = world.machine(1);
            let joined = recover(&new, &phrase, &[0]).await;
            assert!(
                joined.is_ok(),
                "number {number}, {round_trip_ms} ms: {joined:?}"
            );
        }
    }
}

/// A hello whose answer takes longer than who waits for the contact: the dial is not given up half
/// said, which would leave a peer that is dialled by nobody.
#[tokio::test(start_paused = true)]
async fn a_contact_that_takes_long_keeps_no_session_from_standing() {
    let world = World::new();
    let founder = world.founder();
    let way = Duration::from_millis(1_250);
    world.net.set_delay(way, way);
    let mut other = world.member(1, Role::Storage, &founder, 0).await;
    until(60, "a session", || all_connected(&[&founder, &other])).await;
    other.kill(&world).await;
    // Nobody dials it, and where it was it does not find the founder by itself.
    let elsewhere = SocketAddr::from(([10, 0, 9, 9], 4750));
    world.net.hide(addr(1));
    let founder = elsewhere_now(&world, founder, elsewhere).await;
    world.restart(&mut other);
    let node = Arc::clone(other.node());
    let contact = dfs::base::task::spawn(async move { node.contact(elsewhere).await });
    // The connection stands, and the hello waits.
    sleep(Duration::from_millis(2_600)).await;
    world.net.partition(&[addr(1)], &[elsewhere]);
    sleep(Duration::from_secs(11)).await;
    world.net.heal();
    let met = contact.await.unwrap();
    assert!(matches!(met, Ok(peer) if peer == id(0)), "{met:?}");
    until(10, "a session", || all_connected(&[&founder, &other])).await;
}

/// Starts a machine anew at another place.
async fn elsewhere_now(world: &World, mut machine: Machine, place: SocketAddr) -> Machine {
    machine.kill(world).await;
    machine.transport = world.transport_at(machine.at, place);
    machine.start(world);
    machine
}
