//! The background work of a peer: all of it is listed, with what it waits for or fails with.

use std::collections::BTreeSet;
use std::time::Duration;

use dfs::base::time::sleep;
use dfs::base::worker::{Doing, WorkerStatus};
use dfs_sim::Cluster;

use super::simulate;

/// What a storage peer does.
const OF_ALL: [&str; 11] = [
    "accept",
    "chain",
    "checkpoints",
    "collect",
    "dial",
    "discover",
    "links",
    "locks",
    "look",
    "mend",
    "recheck",
];

/// What a member with the key does beside.
const OF_MEMBERS: [&str; 11] = [
    "fold",
    "lock-requests",
    "lost",
    "prefetch",
    "publish",
    "rows",
    "seal-ahead",
    "snapshot-nodes",
    "snapshots",
    "take-over",
    "write-out",
];

/// What is done for each peer with a session.
const OF_SESSIONS: [&str; 3] = ["pulse", "push", "sync"];

fn list(cluster: &Cluster, index: usize) -> Vec<WorkerStatus> {
    cluster.peer(index).node().workers().list()
}

fn names(cluster: &Cluster, index: usize, of_sessions: bool) -> Vec<&'static str> {
    let all = list(cluster, index).into_iter();
    let mut names: Vec<&str> = all
        .filter(|status| status.job.peer.is_some() == of_sessions)
        .map(|status| status.job.name)
        .collect();
    names.sort_unstable();
    names
}

fn worker(cluster: &Cluster, index: usize, name: &str) -> WorkerStatus {
    let mut all = list(cluster, index).into_iter();
    all.find(|status| status.job.name == name).expect(name)
}

#[test]
fn each_worker_is_listed_and_waits_for_something_that_is_named() {
    simulate(61, |seed| async move {
        let mut cluster = Cluster::new(seed, 2, 1).await;
        cluster.write(0, b"note", b"some words").await;
        cluster.settle().await;
        let of_member: BTreeSet<&str> = OF_ALL.into_iter().chain(OF_MEMBERS).collect();
        let of_member: Vec<&str> = of_member.into_iter().collect();
        for (index, expected) in [(0, &of_member[..]), (1, &of_member), (2, &OF_ALL)] {
            assert_eq!(names(&cluster, index, false), expected);
            let sessions: Vec<&str> = OF_SESSIONS.into_iter().flat_map(|name| [name; 2]).collect();
            assert_eq!(names(&cluster, index, true), sessions);
            for status in list(&cluster, index) {
                assert!(status.steps > 0 && status.last_ms.is_some(), "{status:?}");
                assert_eq!(status.failing, None, "{status:?}");
                assert!(!status.job.does.is_empty());
            }
        }
        let waits = worker(&cluster, 0, "publish").doing;
        assert_eq!(waits, Doing::Waits("changes of programs here"));
        // What works for a peer goes with it.
        cluster.crash(1).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(names(&cluster, 0, true), OF_SESSIONS);
        assert_eq!(names(&cluster, 0, false), of_member);
    });
}

#[test]
fn a_worker_that_fails_says_why_and_since_when_and_goes_on_by_itself() {
    simulate(62, |seed| async move {
        let cluster = Cluster::new(seed, 2, 0).await;
        cluster.settle().await;
        let began_ms = cluster.peer(0).clock().wall_ms();
        cluster.try_write(0, b"note", b"some words").unwrap();
        cluster.fill(0, true);
        sleep(Duration::from_secs(30)).await;
        let status = worker(&cluster, 0, "publish");
        let failing = status.failing.expect("nothing can be sealed");
        assert!(failing.why.contains("no space left"), "{failing:?}");
        let late_ms = failing.since_ms.saturating_sub(began_ms);
        assert!(
            failing.since_ms >= began_ms && late_ms < 2_000,
            "{failing:?}"
        );
        // 0.25, 0.5, 1, 2, 4, 8 and 10 s apart.
        assert!((6..9).contains(&failing.count), "{failing:?}");
        let Doing::Pauses(until_ms) = status.doing else {
            panic!("{:?}", status.doing);
        };
        let now_ms = cluster.peer(0).clock().wall_ms();
        assert!(
            (now_ms..=now_ms + 10_000).contains(&until_ms),
            "{until_ms} at {now_ms}"
        );
        cluster.fill(0, false);
        sleep(Duration::from_secs(12)).await;
        let status = worker(&cluster, 0, "publish");
        assert_eq!(status.failing, None);
        assert!(status.last_ms > Some(now_ms), "{status:?}");
        cluster.settle().await;
        let read = cluster.read(1, b"note").await;
        assert_eq!(read.as_deref(), Some(&b"some words"[..]));
    });
}
