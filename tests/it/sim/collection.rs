//! Chunks that nothing names any more: given up everywhere, and none that anybody comes to name again.

use std::collections::BTreeSet;
use std::time::Duration;

use dfs::base::time::sleep;
use dfs::base::{ChunkId, Rng};
use dfs::node::Setting;
use dfs_sim::Cluster;

use super::{seeds, simulate};

/// What a program writes in one go, and is no small file.
const LEN: usize = 60 << 10;

/// Founds a volume that keeps nothing that was replaced or removed.
async fn without_history(seed: u64, members: usize, storage: usize) -> Cluster {
    let cluster = Cluster::new(seed, members, storage).await;
    let node = cluster.peer(0).node();
    node.set(Setting::HistoryMs(0)).await.unwrap();
    cluster
}

/// Lets a time pass in which all peers collect now and then.
async fn collecting(cluster: &Cluster, hosts: usize, time: Duration) {
    const STEP: Duration = Duration::from_secs(10);
    for _ in 0..time.as_secs() / STEP.as_secs() {
        (0..hosts).for_each(|index| cluster.peer(index).collect_soon());
        sleep(STEP).await;
    }
}

fn all_chunks(cluster: &Cluster, hosts: usize) -> BTreeSet<ChunkId> {
    (0..hosts).flat_map(|index| cluster.chunks(index)).collect()
}

/// Nothing is anywhere that no file names, and what files name is on three peers.
fn assert_exact(cluster: &Cluster, hosts: usize) {
    let all = all_chunks(cluster, hosts);
    let named = cluster.named(0, &all);
    for index in 0..hosts {
        let more: Vec<_> = cluster.chunks(index).difference(&named).copied().collect();
        assert!(more.is_empty(), "host{index} has more: {more:?}");
    }
    for id in &named {
        let holders = (0..hosts).filter(|index| cluster.chunks(*index).contains(id));
        assert!(holders.count() >= 3, "{id}");
    }
}

#[test]
fn what_a_snapshot_alone_names_stays_on_all_peers_until_it_is_removed() {
    for seed in seeds() {
        simulate(seed, |seed| async move {
            let mut cluster = without_history(seed, 3, 1).await;
            let names: Vec<Vec<u8>> = (0..6).map(|n| format!("file {n}").into_bytes()).collect();
            for (number, name) in names.iter().enumerate() {
                let content = cluster.random_bytes(LEN);
                cluster.write(number % 3, name, &content).await;
            }
            cluster.settle().await;
            let files = all_chunks(&cluster, 4);
            cluster.peer(0).keep_snapshot("before").await.unwrap();
            cluster.settle().await;
            cluster.synced().await;
            let before = all_chunks(&cluster, 4);
            assert!(before.len() > files.len(), "its tree is there, too");
            for name in &names[..4] {
                cluster.unlink(1, name);
            }
            cluster.settle().await;
            collecting(&cluster, 4, Duration::from_secs(240)).await;
            assert!(before.is_subset(&all_chunks(&cluster, 4)));
            for index in 0..3 {
                let volume = &cluster.peer(index).member_parts().unwrap().volume;
                let kept = volume.snapshots().unwrap().remove(0);
                assert_eq!((&*kept.name, kept.nodes), ("before", 7));
                assert!(volume.unread_nodes().unwrap().is_empty());
            }
            cluster.peer(2).remove_snapshot("before").unwrap();
            cluster.settle().await;
            collecting(&cluster, 4, Duration::from_secs(240)).await;
            cluster.synced().await;
            assert_exact(&cluster, 4);
            assert_eq!(all_chunks(&cluster, 4).len(), 2);
        });
    }
}

#[test]
fn what_is_overwritten_and_removed_goes_on_all_peers_also_where_there_are_no_keys() {
    for seed in seeds() {
        simulate(seed, |seed| async move {
            let mut cluster = without_history(seed, 3, 1).await;
            let mut names = Vec::new();
            for number in 0..12u8 {
                let name = format!("file {number}").into_bytes();
                let content = cluster.random_bytes(LEN);
                cluster
                    .write(usize::from(number % 3), &name, &content)
                    .await;
                names.push(name);
            }
            cluster.settle().await;
            cluster.synced().await;
            let before = all_chunks(&cluster, 4);
            for (number, name) in names.iter().enumerate().skip(4) {
                let by = (number + 1) % 3;
                if number % 2 == 0 {
                    cluster.unlink(by, name);
                } else {
                    let content = cluster.random_bytes(LEN);
                    cluster.write(by, name, &content).await;
                }
            }
            cluster.settle().await;
            // What was replaced is looked back to for a minute.
            collecting(&cluster, 4, Duration::from_secs(20)).await;
            assert!(before.is_subset(&all_chunks(&cluster, 4)));
            collecting(&cluster, 4, Duration::from_secs(180)).await;
            cluster.synced().await;
            assert_exact(&cluster, 4);
            let gone = before.difference(&all_chunks(&cluster, 4)).count();
            assert_eq!(gone, 8);
        });
    }
}

#[test]
fn what_is_named_again_while_it_goes_is_on_as_many_peers_as_any_other() {
    for seed in seeds().into_iter().chain(200..202) {
        simulate(seed, |seed| async move {
            let rng = Rng::from_seed(seed ^ 0x636f_6c6c);
            let mut cluster = without_history(seed, 4, 2).await;
            // Few contents, so that they come again and again.
            let contents: Vec<Vec<u8>> = (0..4).map(|_| cluster.random_bytes(LEN)).collect();
            for _ in 0..40 {
                let by = rng.below(4) as usize;
                let name = format!("file {}", rng.below(4)).into_bytes();
                let content = &contents[rng.below(4) as usize];
                let is_there = cluster
                    .tree(by)
                    .await
                    .contains_key(&[b"/", &name[..]].concat());
                if is_there && rng.below(2) == 0 {
                    cluster.unlink(by, &name);
                } else {
                    cluster.write(by, &name, content).await;
                }
                match rng.below(12) {
                    0 => cluster.partition(&[by], &[(by + 1) % 4, (by + 2) % 4]),
                    1 => cluster.partition(&[0, 1, 4], &[2, 3, 5]),
                    2..=6 => cluster.heal(),
                    _ => {}
                }
                let time = Duration::from_secs(rng.below(40));
                collecting(&cluster, 6, time).await;
            }
            cluster.heal();
            cluster.settle().await;
            cluster.synced().await;
            collecting(&cluster, 6, Duration::from_secs(300)).await;
            cluster.synced().await;
            assert_exact(&cluster, 6);
            for index in 0..4 {
                cluster.forget_cached(index);
                for (path, node) in cluster.tree(index).await {
                    let is_whole = node.content.is_empty() || contents.contains(&node.content);
                    let path = String::from_utf8_lossy(&path);
                    assert!(is_whole, "host{index}: {path} is not what was written");
                }
            }
        });
    }
}
