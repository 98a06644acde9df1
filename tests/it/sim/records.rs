//! Records that come before the changes that they name, and whose maker loses both.

use std::time::Duration;

use dfs::base::Rng;
use dfs::base::time::sleep;
use dfs::daemon::troubles::Trouble;
use dfs::node::Role;
use dfs::store::memory::MemoryDisk;
use dfs::wire::RecordRef;
use dfs::wire::limits::SEGMENTS_MAX;
use dfs_sim::Cluster;

use super::simulate;

const A_WHILE: Duration = Duration::from_secs(60);

/// Returns a cluster of members of which the first decides alone and has told the second a record, and not
/// the change that it names; with a copy of the first one's disk of before.
/// The third one has all of it where `third` says so.
async fn cut_between(seed: u64, third: bool) -> (Cluster, MemoryDisk) {
    let mut cluster = Cluster::new(seed, 3, 0).await;
    cluster.set_role(1, Role::Admin).await;
    cluster.write(1, b"plan", b"version one").await;
    cluster.settle().await;
    let copy = cluster.copy_of(0, &Rng::from_seed(seed));
    cluster.partition(&[0], &[1, 2]);
    // More than one message takes.
    for number in 0..SEGMENTS_MAX + 10 {
        let name = format!("lost {number}");
        cluster.write(0, name.as_bytes(), b"with the disk").await;
        cluster.peer(0).flush().await.unwrap();
    }
    let (first, second) = (cluster.peer(0).node(), cluster.peer(1).node());
    let log = first.log().own_log();
    let end = first.log().vector()[&log];
    while first.chain().named(log) < end {
        sleep(Duration::from_secs(1)).await;
    }
    if third {
        cluster.heal();
        cluster.partition(&[0, 2], &[1]);
        while cluster.folded(2) != cluster.folded(0)
            || cluster.tree(2).await != cluster.tree(0).await
        {
            sleep(Duration::from_secs(1)).await;
        }
    }
    cluster.heal();
    cluster.partition(&[0, 1], &[2]);
    let has = || second.log().head(log).map_or(0, |head| head.seg_no);
    while second.chain().named(log) <= has() {
        sleep(Duration::from_micros(100)).await;
    }
    cluster.partition(&[0], &[1, 2]);
    (cluster, copy)
}

#[test]
fn what_names_a_change_that_is_nowhere_any_more_gives_way() {
    for seed in 80..83 {
        simulate(seed, |seed| async move {
            let (mut cluster, copy) = cut_between(seed, false).await;
            cluster.put_back(0, copy).await;
            cluster.restart(0).await;
            cluster.heal();
            sleep(A_WHILE).await;
            cluster.write(0, b"after", b"that").await;
            cluster.write(1, b"and", b"this").await;
            cluster.settle().await;
            for index in 0..3 {
                assert_eq!(cluster.tree(index).await, cluster.tree(0).await);
                assert!(cluster.read(index, b"and").await.is_some(), "host{index}");
            }
            cluster.assert_converged().await;
        });
    }
}

#[test]
fn an_era_begins_behind_what_can_be_folded() {
    for seed in 84..87 {
        simulate(seed, |seed| async move {
            let (mut cluster, _) = cut_between(seed, false).await;
            // The machine that decided alone is burnt.
            cluster.crash(0).await;
            cluster.heal();
            sleep(3 * A_WHILE).await;
            let told = |cluster: &Cluster| {
                let open = cluster.peer(1).troubles().open().into_iter();
                let mut told = open.map(|noted| noted.what);
                told.any(|what| what.contains("it has some of host0 that are not here yet"))
            };
            assert!(told(&cluster), "{:?}", cluster.peer(1).troubles().open());
            cluster.remove(1, 0).await;
            sleep(A_WHILE).await;
            assert!(!told(&cluster), "that is over");
            cluster.write(2, b"after", b"that").await;
            cluster.peer(2).flush().await.unwrap();
            sleep(A_WHILE).await;
            for index in 1..3 {
                let order = cluster.peer(index).order();
                assert_eq!((order.era, order.waiting_segments), (1, 0), "host{index}");
                assert!(cluster.read(index, b"after").await.is_some(), "host{index}");
                let tip = cluster.peer(index).node().chain().tip();
                assert_eq!(cluster.folded(index), tip, "host{index}");
            }
        });
    }
}

#[test]
fn an_era_begins_behind_what_another_member_has() {
    for seed in 88..91 {
        simulate(seed, |seed| async move {
            let (mut cluster, _) = cut_between(seed, true).await;
            let (all, folded) = (cluster.tree(2).await, cluster.folded(2));
            cluster.crash(0).await;
            cluster.heal();
            // The admin removes it before anything has come.
            cluster.remove(1, 0).await;
            sleep(3 * A_WHILE).await;
            cluster.settle().await;
            for index in 1..3 {
                assert_eq!(cluster.tree(index).await, all, "host{index}");
                let order = cluster.peer(index).order();
                assert_eq!((order.era, order.waiting_segments), (1, 0), "host{index}");
                let chain = cluster.peer(index).node().chain();
                assert!(chain.has(folded).unwrap(), "host{index}: {folded:?}");
            }
        });
    }
}

/// Returns a cluster of which the second member has all of a chain that the other two have left for a longer
/// one, and hears nobody; with the newest record that it has folded.
async fn left_behind(seed: u64) -> (Cluster, RecordRef) {
    let mut cluster = Cluster::new(seed, 3, 0).await;
    cluster.write(1, b"plan", b"version one").await;
    cluster.settle().await;
    let copy = cluster.copy_of(0, &Rng::from_seed(seed));
    cluster.partition(&[0, 1], &[2]);
    for name in [&b"plan"[..], b"list"] {
        cluster.write(0, name, b"of before").await;
        cluster.peer(0).flush().await.unwrap();
    }
    sleep(A_WHILE).await;
    let left = cluster.folded(1);
    assert_eq!(cluster.folded(0), left);
    // Its folder is put back, and it goes on with somebody who knows nothing of that.
    cluster.put_back(0, copy).await;
    cluster.heal();
    cluster.partition(&[0, 2], &[1]);
    cluster.restart(0).await;
    for round in 0..4 {
        let text = format!("round {round}");
        for name in [&b"list"[..], b"plan"] {
            cluster.write(0, name, text.as_bytes()).await;
            cluster.peer(0).flush().await.unwrap();
        }
        sleep(A_WHILE).await;
    }
    assert!(cluster.folded(2).number > left.number);
    (cluster, left)
}

#[test]
fn who_goes_over_to_another_chain_shows_what_that_makes_of_the_changes() {
    for seed in 92..95 {
        simulate(seed, |seed| async move {
            let (mut cluster, left) = left_behind(seed).await;
            cluster.heal();
            cluster.settle().await;
            let chain = cluster.peer(1).node().chain();
            assert!(!chain.has(left).unwrap(), "it has gone over");
            cluster.assert_converged().await;
        });
    }
}

#[test]
fn who_cannot_fold_anew_on_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    for seed in 96..98 {
        simulate(seed, |seed| async move {
            let (mut cluster, left) = left_behind(seed).await;
            for number in 0..24 {
                let name = format!("large {number}");
                cluster.write(1, name.as_bytes(), &[7; 12 << 10]).await;
            }
            cluster.peer(1).flush().await.unwrap();
            // Room for the chain and its changes, and not for all rows once more.
            cluster.leave_room(1, Some(128 << 10));
            cluster.heal();
            sleep(A_WHILE).await;
            let chain = cluster.peer(1).node().chain();
            assert!(!chain.has(left).unwrap(), "it has gone over");
            assert_eq!(cluster.folded(1), left, "what is shown has not");
            let told = |cluster: &Cluster| {
                let open = cluster.peer(1).troubles().entries().into_iter();
                let mut told = open.filter(|(trouble, _)| *trouble == Trouble::Anew);
                told.next().map(|(_, noted)| noted)
            };
            let first = told(&cluster).expect("that is told");
            assert!(first.advice.starts_with("free room"), "{first:?}");
            sleep(5 * A_WHILE).await;
            assert_eq!(told(&cluster), Some(first), "it is told since when");
            // Nobody writes, and nothing comes.
            cluster.leave_room(1, None);
            sleep(6 * A_WHILE).await;
            assert_eq!(told(&cluster), None, "that is over");
            cluster.settle().await;
            cluster.assert_converged().await;
        });
    }
}
