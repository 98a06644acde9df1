//! Who was removed and writes on: what of it goes round, and is named.

use std::time::Duration;

use dfs::base::time::sleep;
use dfs::node::Role;

use super::world::*;

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
