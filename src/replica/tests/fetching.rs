//! Fetching from holders that are slow, gone, or lie.

use std::ops::Range;
use std::time::Duration;

use super::net::Swarm;
use crate::base::time::sleep;
use crate::base::{ChunkId, Clock};
use crate::crypto::chunk_id;
use crate::node::Transfer;
use crate::replica::{ReplicaConfig, ReplicaError};
use crate::transport::Priority;

const LIMIT: Duration = Duration::from_secs(20);

/// Five peers, a synced chunk of peer 0, its holders, and a reader that has it not.
async fn scene(seed: u64) -> (Swarm, ChunkId, Vec<usize>, usize) {
    let mut swarm = Swarm::empty(seed);
    let config = ReplicaConfig {
        cache_bytes: 0,
        ..ReplicaConfig::default()
    };
    swarm.add_many(5, config);
    let id = swarm.put(0, 5_000);
    swarm.sync().await;
    let holders = swarm.holders(id);
    let reader = (0..5).find(|index| !holders.contains(index)).unwrap();
    (swarm, id, holders, reader)
}

#[tokio::test(start_paused = true)]
async fn what_is_fetched_is_right_and_kept_within_the_cache() {
    let mut swarm = Swarm::empty(1);
    let config = ReplicaConfig {
        cache_bytes: 20_000,
        ..ReplicaConfig::default()
    };
    swarm.add_many(6, config);
    let chunks: Vec<ChunkId> = (0..60).map(|_| swarm.put(0, 5_000)).collect();
    swarm.sync().await;
    for id in &chunks {
        let sealed = swarm.at(5).fetch(*id, LIMIT).await.unwrap();
        assert_eq!(ChunkId(*blake3::hash(&sealed).as_bytes()), *id);
        assert!(swarm.at(5).usage().cached_bytes <= 20_000);
    }
    let last: Vec<&ChunkId> = chunks
        .iter()
        .filter(|id| !swarm.holders(**id).contains(&5))
        .rev()
        .take(4)
        .collect();
    let (gets, _) = swarm.traffic();
    for id in last {
        swarm.at(5).fetch(*id, LIMIT).await.unwrap();
    }
    assert_eq!(swarm.traffic().0, gets, "the most recent are still cached");
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn a_slow_holder_is_hedged() {
    let (swarm, id, holders, reader) = scene(2).await;
    let clock = swarm.clock();
    // The session looks fast and is not: one answers late, the others as ever.
    swarm.set_delay(holders[0], Duration::from_millis(5));
    swarm.at(reader).fetch(id, LIMIT).await.unwrap();
    swarm.set_delay(holders[0], Duration::from_secs(5));
    swarm.set_delay(holders[1], Duration::from_secs(5));
    let started = clock.monotonic();
    swarm.at(reader).fetch(id, LIMIT).await.unwrap();
    assert!(clock.monotonic() - started < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_holder_is_passed_over() {
    let (swarm, id, holders, reader) = scene(3).await;
    swarm.set_liar(holders[0]);
    swarm.set_liar(holders[1]);
    let sealed = swarm.at(reader).fetch(id, LIMIT).await.unwrap();
    assert_eq!(ChunkId(*blake3::hash(&sealed).as_bytes()), id);
    swarm.set_liar(holders[2]);
    let outcome = swarm.at(reader).fetch(id, LIMIT).await;
    assert!(
        matches!(outcome, Err(ReplicaError::Corrupt { .. })),
        "{outcome:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_part_is_that_of_the_chunk_and_a_holder_that_lies_is_passed_over() {
    for seed in 10..30 {
        let (swarm, id, holders, reader) = scene(seed).await;
        let sealed = swarm.at(holders[0]).get_local(id).unwrap().unwrap();
        let transfer = Transfer::new(Priority::Awaited);
        let fetch = async |range: Range<usize>| {
            swarm
                .at(reader)
                .fetch_part(id, range, LIMIT, &transfer)
                .await
        };
        swarm.set_liar(holders[0]);
        swarm.set_liar(holders[1]);
        for range in [0..5_000, 2_000..2_001, 4_990..9_000] {
            let part = fetch(range.clone()).await.unwrap();
            assert_eq!(part.len, 5_000);
            assert_eq!(part.head, sealed[..part.head.len()]);
            assert_eq!(part.bytes, sealed[range.start..range.end.min(5_000)]);
        }
        // Nothing of it is kept, and no chunk was asked for.
        assert!(!swarm.at(reader).is_local(id).unwrap());
        assert_eq!(swarm.traffic().0, 0);
        swarm.set_liar(holders[2]);
        let outcome = fetch(2_000..2_001).await;
        assert!(
            matches!(outcome, Err(ReplicaError::Corrupt { .. })),
            "seed {seed}: {outcome:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_asked_for_a_part_of_a_rotten_chunk_finds_out_and_mends_it() {
    let (swarm, id, holders, reader) = scene(6).await;
    for rotten in &holders[1..] {
        assert!(swarm.disk(*rotten).rot(id));
    }
    let transfer = Transfer::new(Priority::Awaited);
    // All are asked in turn: the fastest changes.
    for slow in &holders {
        swarm.set_delay(*slow, Duration::from_secs(3));
        let reader = swarm.at(reader);
        let part = reader.fetch_part(id, 0..100, LIMIT, &transfer).await;
        assert_eq!(part.unwrap().bytes.len(), 100);
        swarm.set_delay(*slow, Duration::from_millis(5));
    }
    sleep(Duration::from_secs(5)).await;
    assert!(holders.iter().all(|index| {
        let sealed = swarm.at(*index).get_local(id).unwrap().unwrap();
        chunk_id(&sealed) == id
    }));
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn rot_on_a_holders_disk_is_found_and_mended_by_the_next_read() {
    let (swarm, id, holders, reader) = scene(4).await;
    let rotten = holders[0];
    assert!(swarm.disk(rotten).rot(id));
    assert!(matches!(
        swarm.at(rotten).get_local(id),
        Err(ReplicaError::Corrupt { .. })
    ));
    assert!(swarm.at(rotten).get_local(id).unwrap().is_none());
    swarm.at(reader).fetch(id, LIMIT).await.unwrap();
    swarm.at(rotten).fetch(id, LIMIT).await.unwrap();
    assert!(swarm.holders(id).contains(&rotten));
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn missing_unreachable_and_late_are_told_apart() {
    let (mut swarm, id, holders, reader) = scene(5).await;
    let clock = swarm.clock();
    let nowhere = ChunkId([7; 32]);
    let outcome = swarm.at(reader).fetch(nowhere, LIMIT).await;
    assert!(
        matches!(outcome, Err(ReplicaError::Missing { .. })),
        "{outcome:?}"
    );

    for holder in &holders {
        swarm.set_delay(*holder, Duration::from_secs(9));
    }
    let started = clock.monotonic();
    let outcome = swarm.at(reader).fetch(id, Duration::from_secs(5)).await;
    assert!(
        matches!(outcome, Err(ReplicaError::TimedOut { .. })),
        "{outcome:?}"
    );
    assert_eq!(clock.monotonic() - started, Duration::from_secs(5));

    holders.iter().for_each(|holder| swarm.kill(*holder));
    let started = clock.monotonic();
    let outcome = swarm.at(reader).fetch(id, LIMIT).await;
    assert!(matches!(
        outcome,
        Err(ReplicaError::Unreachable { unreachable: 3, .. })
    ));
    assert!(clock.monotonic() - started < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_waits_a_moment_for_a_session() {
    let (mut swarm, id, holders, reader) = scene(6).await;
    holders.iter().for_each(|holder| swarm.kill(*holder));
    let replica = swarm.at(reader);
    let fetch = crate::base::task::spawn(async move { replica.fetch(id, LIMIT).await });
    sleep(Duration::from_secs(1)).await;
    swarm.start(holders[1]);
    assert!(fetch.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_copy_outside_the_expected_holders_is_found() {
    let (mut swarm, _, _, _) = scene(7).await;
    swarm.cut(&[0], &[1, 2, 3, 4]);
    let id = swarm.put(0, 777);
    swarm.heal();
    // Only the author has it, and nobody was told yet: one of the others asks around.
    for reader in 1..5 {
        swarm.at(reader).fetch(id, LIMIT).await.unwrap();
    }
    swarm.kill(0);
}
