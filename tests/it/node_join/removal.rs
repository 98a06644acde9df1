//! Who was removed and writes on: what of it goes round, and is named.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dfs::base::Rng;
use dfs::base::time::sleep;
use dfs::node::Role;

use super::roster::with_keys;
use super::world::*;

/// Lets a machine draw keys of an epoch; returns how often it did.
fn draws(machine: &Machine) -> Arc<AtomicU64> {
    let drawn = Arc::new(AtomicU64::new(0));
    let (count, rng) = (Arc::clone(&drawn), Rng::from_seed(3));
    machine.node().set_epoch_drawer(Box::new(move |heirs| {
        count.fetch_add(1, Ordering::Relaxed);
        let wrapped = heirs.iter().map(|heir| heir.wrap_key(&rng, b"epoch").ok());
        wrapped.collect()
    }));
    drawn
}

fn grants(machine: &Machine, of: usize) -> usize {
    machine.node().roster().grants(&id(of)).count()
}

#[tokio::test(start_paused = true)]
async fn an_epoch_of_keys_begins_where_a_member_leaves() {
    let world = World::new();
    let a = world.founder();
    with_keys(&a, b"the volume keys");
    let b = world.member(1, Role::Admin, &a, 0).await;
    let c = world.member(2, Role::Writer, &a, 0).await;
    let d = world.member(3, Role::Reader, &a, 0).await;
    until(10, "sessions", || all_connected(&[&a, &b, &c, &d])).await;
    let drawn = [draws(&a), draws(&b)];
    d.node().leave().await.unwrap();
    until(20, "all that stay have keys", || {
        (0..3).all(|of| [&a, &b, &c].iter().all(|machine| grants(machine, of) == 1))
    })
    .await;
    sleep(Duration::from_secs(30)).await;
    let drawn: u64 = drawn
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .sum();
    assert_eq!((drawn, grants(&a, 3)), (1, 0), "by one of the admins");
}

#[tokio::test(start_paused = true)]
async fn an_epoch_of_keys_begins_where_an_admission_proves_void() {
    let world = World::new();
    let a = world.founder();
    let b = world.member(1, Role::Admin, &a, 0).await;
    until(10, "sessions", || all_connected(&[&a, &b])).await;
    for machine in [&a, &b] {
        with_keys(machine, b"the volume keys");
    }
    let invite = a.node().invite(Role::Reader, Duration::from_secs(3600));
    let token = invite.await.unwrap();
    let knows = || b.node().roster().digest() == a.node().roster().digest();
    until(10, "the invite is known", knows).await;
    let (here, there) = ([addr(0), addr(2)], [addr(1), addr(3)]);
    world.net.partition(&here, &there);
    until(30, "cut off", || a.node().connected().is_empty()).await;
    for (at, by) in [(2, 0), (3, 1)] {
        world.machine(at).join(&token, &[addr(by)]).await.unwrap();
    }
    assert!(b.node().roster().member(&id(3)).is_some());
    let drawn = [draws(&a), draws(&b)];
    world.net.heal();
    until(90, "who stays has keys", || {
        (0..3).all(|of| [&a, &b].iter().all(|machine| grants(machine, of) == 1))
    })
    .await;
    assert!(a.node().roster().member(&id(3)).is_none());
    let drawn: u64 = drawn
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .sum();
    assert_eq!((drawn, grants(&a, 3)), (1, 0));
}

fn have(machine: &Machine, of: &Machine) -> u64 {
    let log = of.node().log().own_log();
    machine
        .node()
        .log()
        .vector()
        .get(&log)
        .copied()
        .unwrap_or(0)
}

fn named(machine: &Machine, of: &Machine) -> u64 {
    machine.node().chain().named(of.node().log().own_log())
}

#[tokio::test(start_paused = true)]
async fn what_a_removed_writer_writes_goes_as_far_as_somebody_built_on_it_whoever_hands_it_on() {
    let world = World::new();
    let a = world.founder();
    let storage = world.member(1, Role::Storage, &a, 0).await;
    let b = world.member(2, Role::Writer, &a, 0).await;
    let d = world.member(3, Role::Writer, &a, 0).await;
    until(10, "sessions", || all_connected(&[&a, &storage, &b, &d])).await;
    d.write(2);
    until(10, "named", || named(&storage, &d) == 2).await;
    // Who removes it is cut off from all others, which go on.
    world
        .net
        .partition(&[addr(0)], &[addr(1), addr(2), addr(3)]);
    until(30, "cut off", || a.node().connected().is_empty()).await;
    a.node().remove_member(id(3)).await.unwrap();
    let removal = a.node().chain().tip().number;
    d.write(3);
    until(10, "spread", || have(&b, &d) == 5).await;
    b.write_behind(&[d.node().log().own_log()], 1, 100);
    until(10, "spread", || have(&storage, &b) == 1).await;
    // The removed one and what only a storage peer has of it: nobody builds on that.
    world.net.partition(&[addr(2)], &[addr(1), addr(3)]);
    until(30, "cut off", || b.node().connected().is_empty()).await;
    d.write(4);
    until(10, "spread", || have(&storage, &d) == 9).await;
    until(10, "a record of it", || {
        a.node().chain().tip().number > removal
    })
    .await;
    world.net.heal();
    until(90, "all but the removed one meet", || {
        all_connected(&[&a, &storage, &b])
    })
    .await;
    until(30, "what was built on is named", || {
        [&a, &storage, &b]
            .iter()
            .all(|machine| named(machine, &d) == 5 && named(machine, &b) == 1)
    })
    .await;
    // It writes on, and a new member comes.
    d.write(1);
    let e = world.member(4, Role::Writer, &a, 1).await;
    until(60, "the new member has the rest", || {
        named(&e, &b) == 1 && have(&e, &d) == 5
    })
    .await;
    sleep(Duration::from_secs(120)).await;
    for machine in [&a, &b, &storage, &e] {
        assert_eq!(named(machine, &d), 5);
    }
    assert_eq!((have(&a, &d), have(&e, &d)), (5, 5));
    // It holds what it was given before it knew, and tells nobody.
    assert_eq!(have(&storage, &d), 9);
    let shown = storage.node().counting(storage.node().log().offered());
    assert_eq!(shown.get(&d.node().log().own_log()), Some(&5));
    assert!(all_connected(&[&a, &storage, &b, &e]));
}
