//! The push to the holders.

use std::time::Duration;

use super::net::Swarm;
use crate::base::ChunkId;
use crate::base::time::sleep;
use crate::replica::{Blocked, ReplicaConfig};

/// Makes chunks at the given peers in turn.
fn fill(swarm: &Swarm, at: &[usize], count: usize) -> Vec<ChunkId> {
    (0..count)
        .map(|n| swarm.put(at[n % at.len()], 500 + n))
        .collect()
}

fn assert_held_by(swarm: &Swarm, chunks: &[ChunkId], wanted: usize) {
    for id in chunks {
        let holders = swarm.holders(*id);
        assert!(
            holders.len() >= wanted,
            "{id:?} is held by {holders:?} only"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn alone_everything_is_synced_at_once() {
    let swarm = Swarm::new(1, 1);
    let chunks = fill(&swarm, &[0], 10);
    swarm.sync().await;
    assert_held_by(&swarm, &chunks, 1);
}

#[tokio::test(start_paused = true)]
async fn after_sync_any_two_of_the_holders_can_be_killed() {
    for count in [2, 3, 5, 8] {
        let mut swarm = Swarm::new(count, count as u64);
        let authors: Vec<usize> = (0..count).collect();
        let chunks = fill(&swarm, &authors, 60);
        swarm.sync().await;
        let wanted = count.min(3);
        assert_held_by(&swarm, &chunks, wanted);
        swarm.check_books();
        for id in &chunks {
            let holders = swarm.holders(*id);
            let (left, killed) = holders.split_last().unwrap();
            killed.iter().for_each(|index| swarm.kill(*index));
            let reader = (0..count).rev().find(|index| swarm.is_up(*index)).unwrap();
            let read = swarm.at(reader).fetch(*id, Duration::from_secs(10)).await;
            assert!(
                read.is_ok(),
                "{id:?} at {reader} with {left} left: {read:?}"
            );
            killed.iter().for_each(|index| swarm.start(*index));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_chunk_is_sent_to_each_holder_once() {
    let swarm = Swarm::new(3, 4);
    fill(&swarm, &[0], 300);
    swarm.sync().await;
    assert_eq!(swarm.traffic(), (0, 600));
}

#[tokio::test(start_paused = true)]
async fn an_author_that_is_no_holder_releases_what_others_hold() {
    let swarm = Swarm::new(8, 5);
    let chunks = fill(&swarm, &[0], 100);
    assert_eq!(swarm.at(0).usage().held_count, 100);
    swarm.sync().await;
    let usage = swarm.at(0).usage();
    assert_eq!(usage.held_count + usage.cached_count, 100);
    assert!((15..60).contains(&usage.held_count), "{usage:?}");
    for id in chunks {
        assert_eq!(swarm.holders(id).len(), 3);
        assert_eq!(swarm.at(0).status(id).unwrap().holders.len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn loss_delays_but_does_not_lose() {
    for seed in 0..5 {
        let swarm = Swarm::new(4, seed);
        swarm.set_loss(30);
        let chunks = fill(&swarm, &[0, 2], 100);
        swarm.sync().await;
        assert_held_by(&swarm, &chunks, 3);
        swarm.check_books();
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_unreachable_peer_is_said_and_sent_when_it_is_back() {
    let swarm = Swarm::new(3, 6);
    swarm.cut(&[0, 1], &[2]);
    let chunks = fill(&swarm, &[0], 20);
    let left = swarm
        .at(0)
        .wait_synced(Duration::from_secs(60))
        .await
        .unwrap_err();
    assert_eq!(left.pending_count, 20);
    assert_eq!(left.pending_bytes, (500..520).sum::<u64>());
    let blocked = Blocked {
        peer: swarm.ids[2],
        count: 20,
        bytes: left.pending_bytes,
    };
    assert_eq!(left.blocked, [blocked]);
    // The peer that can be reached has them all the same.
    assert_held_by(&swarm, &chunks, 2);
    swarm.heal();
    swarm.sync().await;
    assert_held_by(&swarm, &chunks, 3);
    assert!(swarm.at(0).progress().blocked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_holder_is_stood_in_for() {
    let mut swarm = Swarm::empty(7);
    swarm.add(ReplicaConfig::default());
    swarm.add(ReplicaConfig {
        capacity_bytes: 5_000,
        ..ReplicaConfig::default()
    });
    swarm.add_many(3, ReplicaConfig::default());
    let chunks = fill(&swarm, &[0], 100);
    swarm.sync().await;
    assert_held_by(&swarm, &chunks, 3);
    assert!(swarm.at(1).usage().held_bytes <= 5_000);
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn where_no_peer_has_room_the_chunk_stays_pending_and_is_kept() {
    let mut swarm = Swarm::empty(8);
    swarm.add(ReplicaConfig::default());
    let full = ReplicaConfig {
        capacity_bytes: 1_000,
        ..ReplicaConfig::default()
    };
    swarm.add_many(4, full);
    let chunks = fill(&swarm, &[0], 50);
    let left = swarm
        .at(0)
        .wait_synced(Duration::from_secs(300))
        .await
        .unwrap_err();
    assert!(left.pending_count > 40, "{left:?}");
    for id in &chunks {
        assert!(swarm.at(0).get_local(*id).unwrap().is_some());
    }
    // Nothing spins: in an hour there are few attempts.
    let (_, before) = swarm.traffic();
    sleep(Duration::from_secs(3600)).await;
    assert!(swarm.traffic().1 - before < 60 * 4 * 16);
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn what_is_pending_survives_a_restart() {
    let mut swarm = Swarm::new(3, 9);
    swarm.sync().await;
    swarm.cut(&[0], &[1, 2]);
    let chunks = fill(&swarm, &[0], 30);
    let before = swarm.at(0).usage();
    assert_eq!(before.pending_count, 30);
    swarm.crash(0);
    swarm.heal();
    swarm.start(0);
    assert_eq!(swarm.at(0).usage(), before);
    swarm.sync().await;
    assert_held_by(&swarm, &chunks, 3);
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn a_holder_confirms_only_what_survives_its_power_cut() {
    let mut swarm = Swarm::new(3, 10);
    let chunks = fill(&swarm, &[0], 30);
    swarm.sync().await;
    swarm.crash(1);
    swarm.crash(2);
    assert_held_by(&swarm, &chunks, 3);
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_disk_fails_confirms_nothing() {
    let swarm = Swarm::new(2, 11);
    swarm.disk(1).fail_syncs(true);
    fill(&swarm, &[0], 3);
    let left = swarm
        .at(0)
        .wait_synced(Duration::from_secs(60))
        .await
        .unwrap_err();
    assert_eq!(left.pending_count, 3);
}

#[tokio::test(start_paused = true)]
async fn members_that_come_get_their_share() {
    let mut swarm = Swarm::new(1, 12);
    let chunks = fill(&swarm, &[0], 200);
    swarm.sync().await;
    for count in 2..=6 {
        swarm.add(ReplicaConfig::default());
        let (_, before) = swarm.traffic();
        swarm.sync().await;
        assert_held_by(&swarm, &chunks, count.min(3));
        swarm.check_books();
        // Let what only moves move too.
        sleep(Duration::from_secs(600)).await;
        let moved = swarm.traffic().1 - before;
        let newest = swarm.at(count - 1).usage().held_count;
        assert!(newest >= 60, "the member number {count} holds {newest}");
        assert!(
            moved <= 2 * newest,
            "{moved} chunks sent where {newest} had to move"
        );
    }
    // Nobody keeps more than there must be, once all has moved.
    let held: usize = chunks.iter().map(|id| swarm.holders(*id).len()).sum();
    assert!(held <= 200 * 3 + 20, "{held} copies");
}

#[tokio::test(start_paused = true)]
async fn copies_of_a_member_that_is_removed_are_made_anew() {
    let swarm = Swarm::new(5, 13);
    let chunks = fill(&swarm, &[0, 1, 2, 3, 4], 100);
    swarm.sync().await;
    swarm.dismiss(4);
    swarm.sync().await;
    for id in &chunks {
        let holders = swarm.holders(*id);
        assert!(
            holders.iter().filter(|index| **index != 4).count() >= 3,
            "{holders:?}"
        );
    }
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn a_check_that_a_restart_interrupted_is_taken_up() {
    let mut swarm = Swarm::new(1, 14);
    let chunks = fill(&swarm, &[0], 20);
    swarm.kill(0);
    swarm.add(ReplicaConfig::default());
    swarm.start(0);
    assert!(swarm.at(0).progress().checking);
    swarm.sync().await;
    assert_held_by(&swarm, &chunks, 2);
}
