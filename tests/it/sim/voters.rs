//! Three that decide the order together, and what becomes of it where some of them are away.

use std::time::Duration;

use dfs::base::time::sleep;
use dfs::node::Role;
use dfs_sim::Cluster;

use super::simulate;

const A_WHILE: Duration = Duration::from_secs(60);

/// Returns a cluster in which the first three members decide together.
async fn of_three(seed: u64, members: usize, storage: usize) -> Cluster {
    let mut cluster = Cluster::new(seed, members, storage).await;
    cluster.write(0, b"plan", b"version one").await;
    cluster.settle().await;
    sleep(2 * A_WHILE).await;
    cluster.settle().await;
    for index in 0..members + storage {
        let voters = cluster.peer(index).node().chain().voters();
        assert_eq!(voters.len(), 3, "seed {seed}: host{index}: {voters:?}");
    }
    cluster
}

/// Waits until what is written is in its order, as one sees it; says whether that took less than a while.
async fn is_decided(cluster: &Cluster, index: usize) -> bool {
    for _ in 0..A_WHILE.as_secs() {
        if cluster.peer(index).order().waiting_segments == 0 {
            return true;
        }
        sleep(Duration::from_secs(1)).await;
    }
    false
}

/// Returns those of the hosts that decide.
fn deciding(cluster: &Cluster, hosts: std::ops::Range<usize>) -> Vec<usize> {
    let order = cluster.peer(hosts.start).order();
    let names = hosts.map(|index| (index, format!("host{index}")));
    let among = names.filter(|(_, name)| order.decided_by.contains(name));
    among.map(|(index, _)| index).collect()
}

#[test]
fn three_decide_once_three_are_there_and_go_on_without_any_one_of_them() {
    for seed in 51..54 {
        simulate(seed, |seed| async move {
            let mut cluster = of_three(seed, 3, 0).await;
            for away in 0..3 {
                let others: Vec<usize> = (0..3).filter(|index| *index != away).collect();
                cluster.crash(away).await;
                let record = cluster.peer(others[0]).order().record;
                let text = format!("written without {away}");
                cluster.write(others[0], b"plan", text.as_bytes()).await;
                cluster.write(others[1], b"other", text.as_bytes()).await;
                cluster.peer(others[0]).flush().await.unwrap();
                cluster.peer(others[1]).flush().await.unwrap();
                for index in others {
                    assert!(
                        is_decided(&cluster, index).await,
                        "seed {seed}: {away} is away"
                    );
                    let order = cluster.peer(index).order();
                    assert!(order.record > record, "seed {seed}: {order:?}");
                }
                cluster.restart(away).await;
                cluster.settle().await;
                assert!(is_decided(&cluster, away).await);
            }
            cluster.assert_converged().await;
        });
    }
}

#[test]
fn two_of_three_away_stop_nothing_but_the_order_and_are_told() {
    simulate(55, |seed| async move {
        let mut cluster = of_three(seed, 3, 0).await;
        cluster.crash(1).await;
        cluster.crash(2).await;
        cluster.write(0, b"plan", b"version two").await;
        cluster.peer(0).flush().await.unwrap();
        assert!(!is_decided(&cluster, 0).await);
        let mut missed = cluster.peer(0).order().missed;
        missed.sort();
        assert_eq!(missed, ["host1", "host2"]);
        cluster.restart(2).await;
        assert!(is_decided(&cluster, 0).await);
        cluster.restart(1).await;
        cluster.settle().await;
        assert_eq!(
            cluster.read(1, b"plan").await.as_deref(),
            Some(&b"version two"[..])
        );
        cluster.assert_converged().await;
    });
}

#[test]
fn they_agree_where_none_of_them_reaches_another_but_through_a_fourth() {
    simulate(57, |seed| async move {
        let mut cluster = of_three(seed, 3, 1).await;
        let three = deciding(&cluster, 0..4);
        for (index, one) in three.iter().enumerate() {
            cluster.partition(&[*one], &three[index + 1..]);
        }
        sleep(A_WHILE).await;
        let record = cluster.peer(0).order().record;
        for index in 0..3 {
            let name = format!("by host{index}");
            cluster
                .write(index, name.as_bytes(), b"through another")
                .await;
            cluster.peer(index).flush().await.unwrap();
        }
        sleep(A_WHILE).await;
        for index in 0..4 {
            assert!(
                is_decided(&cluster, index).await,
                "seed {seed}: host{index}"
            );
        }
        assert!(cluster.peer(0).order().record > record);
        cluster.heal();
        cluster.settle().await;
        cluster.assert_converged().await;
    });
}

#[test]
fn one_that_is_removed_decides_no_more_and_another_takes_its_place() {
    simulate(59, |seed| async move {
        let mut cluster = of_three(seed, 4, 0).await;
        let three = deciding(&cluster, 0..4);
        let gone = *three.iter().find(|index| **index != 0).unwrap();
        cluster.remove(0, gone).await;
        cluster.crash(gone).await;
        sleep(A_WHILE).await;
        for index in (0..4).filter(|index| *index != gone) {
            let order = cluster.peer(index).order();
            assert_eq!(order.decided_by.len(), 3, "seed {seed}: {order:?}");
            assert!(
                !order.decided_by.contains(&format!("host{gone}")),
                "{order:?}"
            );
        }
        // Nobody is left to take the place of the next.
        let three = deciding(&cluster, 0..4);
        let gone = *three.iter().find(|index| **index != 0).unwrap();
        cluster.remove(0, gone).await;
        cluster.crash(gone).await;
        sleep(A_WHILE).await;
        assert_eq!(cluster.peer(0).order().decided_by.len(), 1, "seed {seed}");
        cluster.write(0, b"plan", b"of those who stay").await;
        cluster.peer(0).flush().await.unwrap();
        assert!(is_decided(&cluster, 0).await, "seed {seed}");
        cluster.settle().await;
        cluster.assert_converged().await;
    });
}

#[test]
fn one_of_three_that_is_seldom_there_is_replaced() {
    simulate(61, |seed| async move {
        let mut cluster = of_three(seed, 4, 0).await;
        let three = deciding(&cluster, 0..4);
        let away = *three.iter().find(|index| **index != 0).unwrap();
        cluster.crash(away).await;
        sleep(A_WHILE / 6).await;
        assert!(deciding(&cluster, 0..4).contains(&away));
        sleep(10 * A_WHILE).await;
        let order = cluster.peer(0).order();
        let is_one = order.decided_by.contains(&format!("host{away}"));
        assert!(!is_one, "seed {seed}: {order:?}");
        assert_eq!(order.decided_by.len(), 3, "seed {seed}: {order:?}");
        cluster.restart(away).await;
        cluster.settle().await;
        cluster.assert_converged().await;
    });
}

#[test]
fn an_admin_that_removes_who_decided_alone_decides_from_then_on() {
    simulate(63, |seed| async move {
        let mut cluster = Cluster::new(seed, 3, 1).await;
        cluster.set_role(1, Role::Admin).await;
        cluster.write(1, b"plan", b"version one").await;
        cluster.settle().await;
        assert_eq!(cluster.peer(1).order().decided_by, ["host0"]);
        // Its disk is lost.
        cluster.crash(0).await;
        cluster.write(1, b"plan", b"version two").await;
        cluster.write(2, b"other", b"of another").await;
        for index in [1, 2] {
            cluster.peer(index).flush().await.unwrap();
        }
        assert!(!is_decided(&cluster, 1).await);
        cluster.remove(1, 0).await;
        for index in [1, 2, 3] {
            assert!(
                is_decided(&cluster, index).await,
                "seed {seed}: host{index}"
            );
            let tip = cluster.peer(index).node().chain().tip();
            assert_eq!(tip.era, 1, "seed {seed}: {tip:?}");
        }
        // Who comes later takes the chain of both eras, and a restart goes on with it.
        for index in [1, 2, 3] {
            cluster.crash(index).await;
            cluster.restart(index).await;
        }
        cluster.write(2, b"plan", b"version three").await;
        cluster.settle().await;
        let new = cluster.admit_by(1, Role::Writer).await;
        cluster.restart(new).await;
        cluster.peer(new).caught_up().await.unwrap();
        cluster.settle().await;
        assert!(is_decided(&cluster, new).await);
        assert_eq!(cluster.tree(new).await, cluster.tree(1).await);
        assert_eq!(cluster.tree(2).await, cluster.tree(1).await);
    });
}

#[test]
fn a_removed_admin_begins_no_era_for_those_who_know_it() {
    simulate(65, |seed| async move {
        let mut cluster = Cluster::new(seed, 3, 0).await;
        cluster.set_role(1, Role::Admin).await;
        cluster.write(1, b"plan", b"version one").await;
        cluster.settle().await;
        cluster.partition(&[1], &[0, 2]);
        cluster.remove(0, 1).await;
        // Cut off, it removes who decides, and goes on alone.
        cluster.remove(1, 0).await;
        cluster.write(1, b"plan", b"of one that was removed").await;
        cluster.peer(1).flush().await.unwrap();
        sleep(A_WHILE).await;
        assert_eq!(cluster.peer(1).node().chain().tip().era, 1);
        cluster.heal();
        sleep(2 * A_WHILE).await;
        for index in [0, 2] {
            assert_eq!(cluster.peer(index).node().chain().tip().era, 0);
        }
        cluster.write(2, b"plan", b"of those who stay").await;
        cluster.crash(1).await;
        cluster.settle().await;
        assert!(is_decided(&cluster, 0).await);
        assert_eq!(
            cluster.read(0, b"plan").await.as_deref(),
            Some(&b"of those who stay"[..])
        );
    });
}

#[test]
fn two_chains_end_in_one_and_nothing_of_who_stays_is_lost() {
    for seed in 67..70 {
        simulate(seed, |seed| async move {
            let mut cluster = Cluster::new(seed, 4, 0).await;
            cluster.set_role(1, Role::Admin).await;
            cluster.write(3, b"plan", b"version one").await;
            cluster.settle().await;
            // One side goes on under who decided, the other removes it.
            cluster.partition(&[0, 2], &[1, 3]);
            cluster.write(2, b"plan", b"of the side that is left").await;
            cluster.write(2, b"two", b"of the side that is left").await;
            cluster.peer(2).flush().await.unwrap();
            assert!(is_decided(&cluster, 2).await);
            // It stands on a record that nobody else will have.
            cluster.write(2, b"more", b"that stands on it").await;
            cluster.peer(2).flush().await.unwrap();
            assert!(is_decided(&cluster, 2).await);
            cluster.write(3, b"three", b"of the side that counts").await;
            cluster.peer(3).flush().await.unwrap();
            cluster.remove(1, 0).await;
            assert!(is_decided(&cluster, 3).await);
            cluster.crash(0).await;
            let era = |index: usize| cluster.peer(index).node().chain().tip().era;
            assert_eq!((era(1), era(2), era(3)), (1, 0, 1));
            cluster.heal();
            sleep(A_WHILE).await;
            cluster.settle().await;
            for index in 1..4 {
                assert!(
                    is_decided(&cluster, index).await,
                    "seed {seed}: host{index}"
                );
                assert_eq!(cluster.peer(index).node().chain().tip().era, 1);
                let parted = cluster.peer(index).order().parted;
                assert!(parted.is_empty(), "seed {seed}: {parted:?}");
                for (name, content) in [
                    (&b"plan"[..], &b"of the side that is left"[..]),
                    (b"two", b"of the side that is left"),
                    (b"more", b"that stands on it"),
                    (b"three", b"of the side that counts"),
                ] {
                    let read = cluster.read(index, name).await;
                    assert_eq!(read.as_deref(), Some(content), "seed {seed}: host{index}");
                }
                assert_eq!(cluster.tree(index).await, cluster.tree(1).await);
            }
            let new = cluster.admit_by(1, Role::Writer).await;
            cluster.restart(new).await;
            cluster.peer(new).caught_up().await.unwrap();
            cluster.settle().await;
            assert_eq!(cluster.tree(new).await, cluster.tree(1).await);
        });
    }
}

/// Returns what members say of two chains, with since when.
fn told(cluster: &Cluster) -> Vec<Option<(String, u64)>> {
    let of = |index| {
        let open = cluster.peer(index).troubles().open().into_iter();
        let mut told = open.filter(|noted| noted.what.contains("two orders of the changes"));
        told.next().map(|noted| (noted.what, noted.since_ms))
    };
    (1..4).map(of).collect()
}

#[test]
fn two_chains_are_told_on_both_sides_while_there_are_two() {
    // The one that is left is the shorter, or the longer.
    for more in [0, 4] {
        simulate(71 + more, |seed| async move {
            let mut cluster = Cluster::new(seed, 4, 0).await;
            cluster.set_role(1, Role::Admin).await;
            cluster.write(3, b"plan", b"version one").await;
            cluster.settle().await;
            cluster.partition(&[0, 2], &[1, 3]);
            for round in 0..=more {
                let text = format!("of round {round}");
                cluster.write(2, b"two", text.as_bytes()).await;
                cluster.peer(2).flush().await.unwrap();
                assert!(is_decided(&cluster, 2).await);
            }
            cluster.remove(1, 0).await;
            cluster.write(3, b"three", b"of the side that counts").await;
            cluster.peer(3).flush().await.unwrap();
            assert!(is_decided(&cluster, 3).await);
            cluster.crash(0).await;
            assert_eq!(told(&cluster), [None, None, None]);
            // Whose disk is full cannot go over.
            cluster.fill(2, true);
            let healed_ms = cluster.peer(1).clock().wall_ms();
            cluster.heal();
            sleep(A_WHILE).await;
            let first = told(&cluster);
            for (place, names) in [(0, "host2"), (1, "host1"), (1, "host3"), (2, "host2")] {
                let Some((what, since_ms)) = &first[place] else {
                    panic!("seed {seed}: host{} says nothing: {first:?}", place + 1);
                };
                assert!(what.contains(names), "{what}");
                let late_ms = since_ms.saturating_sub(healed_ms);
                assert!(late_ms < 60_000, "{late_ms}");
            }
            sleep(A_WHILE).await;
            assert_eq!(told(&cluster), first, "with the same time");
            for index in 1..4 {
                let parted = cluster.peer(index).order().parted;
                assert!(!parted.is_empty(), "host{index}");
            }
            cluster.fill(2, false);
            sleep(A_WHILE).await;
            cluster.settle().await;
            assert_eq!(told(&cluster), [None, None, None]);
            for index in 1..4 {
                let order = cluster.peer(index).order();
                assert_eq!((order.era, order.parted.len()), (1, 0), "host{index}");
                let read = cluster.read(index, b"two").await;
                let text = format!("of round {more}");
                assert_eq!(read.as_deref(), Some(text.as_bytes()), "host{index}");
            }
        });
    }
}
