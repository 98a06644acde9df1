//! Logs that begin at a checkpoint, on whole peers: nobody has what led there, and nobody misses it.

use std::time::Duration;

use dfs::base::time::{sleep, timeout};
use dfs_sim::Cluster;

use super::{seeds, simulate};
use dfs::node::Role;

/// How long a checkpoint may take to count and the logs to begin there.
const COUNTS_MAX: Duration = Duration::from_secs(300);

/// Waits until the logs of some peers begin behind a record.
async fn begun(cluster: &Cluster, hosts: &[usize], number: u64) {
    let mut left = COUNTS_MAX;
    const STEP: Duration = Duration::from_secs(1);
    let is_begun = |host: &usize| {
        let node = cluster.peer(*host).node();
        let counted = node.checkpoint();
        let is_new = counted.is_some_and(|counted| counted.checkpoint.record.number > number);
        let floors = node.log().floors();
        let first = floors.iter().next();
        is_new && first.is_some_and(|(log, _)| node.log().get(*log, 1).unwrap().is_none())
    };
    while !hosts.iter().all(is_begun) {
        left = left
            .checked_sub(STEP)
            .expect("no checkpoint counts everywhere");
        sleep(STEP).await;
    }
}

async fn some_files(cluster: &mut Cluster, round: u8) {
    for number in 0..6u8 {
        let by = usize::from(number % 3);
        let name = format!("file {}", number % 4).into_bytes();
        let content = cluster.random_bytes(if number % 2 == 0 { 60 << 10 } else { 100 });
        cluster.write(by, &name, &content).await;
        cluster.settle().await;
        let own = format!("own {round} {number}").into_bytes();
        cluster.write(by, &own, &content).await;
        cluster.settle().await;
    }
    cluster.settle().await;
}

#[test]
fn who_joins_takes_a_checkpoint_over_when_nobody_has_what_led_there() {
    for seed in seeds() {
        simulate(seed, |seed| async move {
            let mut cluster = Cluster::new(seed, 3, 1).await;
            some_files(&mut cluster, 0).await;
            let number = cluster.folded(0).number;
            cluster.peer(1).node().ask_checkpoint();
            begun(&cluster, &[0, 1, 2, 3], number - 1).await;
            some_files(&mut cluster, 1).await;
            for role in [Role::Writer, Role::Reader, Role::Storage] {
                let host = cluster.admit(role).await;
                cluster.restart(host).await;
                let caught_up = timeout(COUNTS_MAX, cluster.peer(host).caught_up()).await;
                caught_up.expect("it catches up").unwrap();
            }
            cluster.settle().await;
            let expected = cluster.tree(0).await;
            assert_eq!(cluster.tree(4).await, expected);
            assert_eq!(cluster.tree(5).await, expected);
            assert!(!cluster.peer(6).node().log().floors().is_empty());
            // Who came goes on as the others do, and after a power cut.
            cluster.write(4, b"of who came", b"content").await;
            cluster.crash(4).await;
            cluster.restart(4).await;
            some_files(&mut cluster, 2).await;
            cluster.assert_converged().await;
            for host in [0, 1, 2, 4, 5] {
                let content = cluster.read(host, b"of who came").await;
                assert_eq!(content.as_deref(), Some(&b"content"[..]), "host{host}");
            }
        });
    }
}

#[test]
fn who_was_away_takes_a_checkpoint_over_and_loses_nothing_of_its_own() {
    for seed in seeds() {
        simulate(seed, |seed| async move {
            let mut cluster = Cluster::new(seed, 4, 1).await;
            some_files(&mut cluster, 0).await;
            let number = cluster.folded(0).number;
            cluster.partition(&[3], &[0, 1, 2, 4]);
            for file in 0..4u8 {
                let name = format!("while away {file}").into_bytes();
                cluster.write(3, &name, &[file; 200]).await;
            }
            some_files_of_three(&mut cluster).await;
            cluster.peer(0).node().ask_checkpoint();
            begun(&cluster, &[0, 1, 2, 4], number).await;
            cluster.heal();
            begun(&cluster, &[3], number).await;
            cluster.settle().await;
            cluster.assert_converged().await;
            for (host, file) in (0..4).flat_map(|host| (0..4u8).map(move |file| (host, file))) {
                let name = format!("while away {file}").into_bytes();
                let content = cluster.read(host, &name).await;
                assert_eq!(content, Some(vec![file; 200]), "host{host}");
            }
        });
    }
}

#[test]
fn when_nothing_changes_any_more_segments_that_are_much_of_what_is_here_go() {
    simulate(1, |seed| async move {
        let mut cluster = Cluster::new(seed, 3, 1).await;
        let first = cluster.peer(0).node().chain().marked();
        // Contents that lie in the segments themselves.
        for file in 0..200u8 {
            let content = cluster.random_bytes(8 << 10);
            let name = format!("file {file}").into_bytes();
            cluster.write(0, &name, &content).await;
        }
        cluster.settle().await;
        let bytes = |cluster: &Cluster, host| cluster.peer(host).node().log().bytes();
        let before = bytes(&cluster, 0);
        assert!(before > 1 << 20, "{before}");
        assert_eq!(cluster.peer(0).node().chain().marked(), first);
        sleep(COUNTS_MAX).await;
        for host in 0..4 {
            assert!(bytes(&cluster, host) < 64 << 10, "host{host}");
        }
        // It is not asked for again and again.
        let number = cluster.folded(0).number;
        sleep(COUNTS_MAX).await;
        assert_eq!(cluster.folded(0).number, number);
        cluster.assert_converged().await;
    });
}

async fn some_files_of_three(cluster: &mut Cluster) {
    for number in 0..9u8 {
        let name = format!("meanwhile {number}").into_bytes();
        let content = cluster.random_bytes(2000);
        cluster
            .write(usize::from(number % 3), &name, &content)
            .await;
        sleep(Duration::from_secs(2)).await;
    }
}
