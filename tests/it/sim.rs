//! Whole peers in one thread under one seed: the network, the clocks and the disks are simulated,
//! everything between them is what a daemon runs.
//!
//! `DFS_SIM_SEED=N cargo test --test it sim` repeats one run; without it the seeds below are run.
//! A failure prints its seed.

mod checkpoints;
mod collection;
mod members;
mod records;
mod seeds;
mod voters;
mod workers;

use std::time::Duration;

use dfs_sim::Cluster;

/// What every run goes through; more can be tried with `DFS_SIM_SEED`.
const SEEDS: [u64; 3] = [1, 7, 20_261_121];

fn seeds() -> Vec<u64> {
    match std::env::var("DFS_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("DFS_SIM_SEED is a number")],
        Err(_) => SEEDS.to_vec(),
    }
}

/// Runs `body` on a paused runtime of one thread.
fn simulate<F: Future<Output = ()>>(seed: u64, body: impl FnOnce(u64) -> F) {
    println!("seed {seed}: DFS_SIM_SEED={seed} cargo test --test it sim");
    dfs_sim::simulate(seed, body);
}

#[test]
fn five_peers_converge_through_loss_partition_and_restart() {
    for seed in seeds() {
        simulate(seed, |seed| async move {
            let mut cluster = Cluster::new(seed, 4, 1).await;
            cluster.settle().await;
            cluster.net.set_loss_permille(50);
            for _ in 0..40 {
                cluster.random_operation().await;
            }
            // Two and two members, the storage peer with the first side.
            cluster.partition(&[0, 1, 4], &[2, 3]);
            for _ in 0..40 {
                cluster.random_operation().await;
            }
            cluster.crash(1).await;
            for _ in 0..20 {
                cluster.random_operation().await;
            }
            cluster.restart(1).await;
            cluster.heal();
            cluster.settle().await;
            cluster.assert_converged().await;
            cluster.assert_nothing_acknowledged_is_lost().await;
        });
    }
}

#[test]
fn two_members_that_never_meet_hear_of_each_other_through_a_storage_peer() {
    simulate(11, |seed| async move {
        let mut cluster = Cluster::new(seed, 2, 1).await;
        cluster.settle().await;
        cluster.partition(&[0], &[1]);
        cluster.write(0, b"from-a", b"written by a").await;
        cluster.write(1, b"from-b", b"written by b").await;
        cluster.settle().await;
        assert_eq!(
            cluster.read(1, b"from-a").await.as_deref(),
            Some(&b"written by a"[..])
        );
        assert_eq!(
            cluster.read(0, b"from-b").await.as_deref(),
            Some(&b"written by b"[..])
        );
    });
}

/// Three copies on five peers: most who read have to fetch, and from others than who went.
#[test]
fn any_one_peer_can_go_after_a_sync() {
    for gone in 0..5 {
        simulate(13 + gone as u64, |seed| async move {
            let mut cluster = Cluster::new(seed, 4, 1).await;
            cluster.settle().await;
            let large = cluster.random_bytes(6 << 20);
            cluster.write(0, b"large", &large).await;
            cluster.write(1, b"small", b"a few bytes").await;
            cluster.settle().await;
            cluster.synced().await;
            cluster.crash(gone).await;
            let mut fetched = 0;
            for reader in (0..4).filter(|reader| *reader != gone) {
                fetched += cluster.lacking(reader, b"large");
                cluster.forget_cached(reader);
                assert!(cluster.read(reader, b"large").await.as_deref() == Some(&large[..]));
                assert_eq!(
                    cluster.read(reader, b"small").await.as_deref(),
                    Some(&b"a few bytes"[..])
                );
            }
            assert!(fetched > 0, "seed {seed}: every reader held all of it");
        });
    }
}

#[test]
fn a_change_is_seen_within_a_second_of_the_close() {
    simulate(17, |seed| async move {
        let mut cluster = Cluster::new(seed, 2, 0).await;
        cluster.settle().await;
        cluster
            .net
            .set_delay(Duration::from_millis(5), Duration::from_millis(10));
        for round in 0..20u32 {
            let text = format!("round {round}");
            cluster.write(0, b"note", text.as_bytes()).await;
            dfs::base::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(
                cluster.read(1, b"note").await.as_deref(),
                Some(text.as_bytes())
            );
        }
    });
}

#[test]
fn both_sides_of_a_partition_keep_what_they_wrote_to_one_file() {
    simulate(19, |seed| async move {
        let mut cluster = Cluster::new(seed, 2, 0).await;
        cluster.write(0, b"plan.txt", b"the plan").await;
        cluster.settle().await;
        cluster.partition(&[0], &[1]);
        cluster.write(0, b"plan.txt", b"the plan of a").await;
        cluster.write(1, b"plan.txt", b"the plan of b").await;
        cluster.write(0, b"new.txt", b"new at a").await;
        cluster.write(1, b"new.txt", b"new at b").await;
        cluster.write(1, b"late", b"seen later").await;
        dfs::base::time::sleep(Duration::from_secs(60)).await;
        cluster.write(0, b"backup", b"up to now").await;
        let backup = cluster.ctime(0, b"backup");
        cluster.heal();
        cluster.settle().await;
        cluster.assert_converged().await;
        let contents: Vec<Vec<u8>> = cluster
            .tree(0)
            .await
            .into_values()
            .map(|node| node.content)
            .collect();
        for kept in ["the plan of a", "the plan of b", "new at a", "new at b"] {
            assert!(
                contents.iter().any(|content| content == kept.as_bytes()),
                "{kept} is lost"
            );
        }
        assert!(cluster.conflicts(0) >= 2);
        // What a backup looks at: it changed here since, and not where it was written.
        assert!(cluster.ctime(0, b"late") > backup);
        assert!(cluster.ctime(1, b"late") < backup);
    });
}
