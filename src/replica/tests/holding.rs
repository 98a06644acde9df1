//! What a peer keeps, and what it takes from others.

use std::time::Duration;

use bytes::Bytes;

use super::net::Swarm;
use crate::base::ChunkId;
use crate::replica::limits::HOLD_SERVED_MAX;
use crate::replica::peers::{Answer, Ask, PutOutcome};
use crate::replica::{ReplicaConfig, ReplicaError};
use crate::store::StoreError;

#[tokio::test(start_paused = true)]
async fn what_does_not_hash_to_its_id_is_refused() {
    let swarm = Swarm::new(2, 1);
    let id = ChunkId([5; 32]);
    let put = Ask::Put(vec![(id, Bytes::from_static(b"something else"))], 0);
    let answer = swarm.at(1).serve(crate::base::PeerId([0; 32]), put).await;
    assert!(matches!(&answer, Some(Answer::Put(o)) if o[..] == [PutOutcome::Corrupt]));
    assert!(!swarm.at(1).is_local(id).unwrap());
}

#[tokio::test(start_paused = true)]
async fn too_many_questions_at_once_are_refused() {
    let swarm = Swarm::new(1, 2);
    let ids = vec![ChunkId([5; 32]); HOLD_SERVED_MAX + 1];
    assert!(
        swarm
            .at(0)
            .serve(crate::base::PeerId([0; 32]), Ask::Hold(ids, 0))
            .await
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn naming_a_chunk_twice_counts_it_once() {
    let swarm = Swarm::new(8, 3);
    let ids: Vec<ChunkId> = (0..50).map(|n| swarm.put(0, 300 + n)).collect();
    swarm.sync().await;
    let cached = ids
        .iter()
        .find(|id| !swarm.holders(**id).contains(&0))
        .unwrap();
    let usage = swarm.at(0).usage();
    let answer = swarm
        .at(0)
        .serve(crate::base::PeerId([0; 32]), Ask::Hold(vec![*cached; 3], 0))
        .await;
    assert!(matches!(answer, Some(Answer::Hold(flags)) if flags == [true; 3]));
    assert_eq!(swarm.at(0).usage().held_count, usage.held_count + 1);
    assert_eq!(swarm.at(0).usage().cached_count, usage.cached_count - 1);
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn what_is_pending_is_never_evicted() {
    let mut swarm = Swarm::empty(4);
    let config = ReplicaConfig {
        cache_bytes: 0,
        ..ReplicaConfig::default()
    };
    swarm.add_many(6, config);
    swarm.cut(&[0], &[1, 2, 3, 4, 5]);
    let ids: Vec<ChunkId> = (0..50).map(|n| swarm.put(0, 300 + n)).collect();
    tokio::task::yield_now().await;
    for id in &ids {
        assert!(swarm.at(0).get_local(*id).unwrap().is_some());
    }
    swarm.heal();
    swarm.sync().await;
    for id in &ids {
        let holders = swarm.holders(*id);
        assert_eq!(holders.len(), 3);
        // With no room for a cache, it is here where this peer is a holder and only there.
        assert_eq!(swarm.at(0).is_local(*id).unwrap(), holders.contains(&0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_the_author_and_harms_nothing() {
    let swarm = Swarm::new(1, 5);
    let id = swarm.put(0, 1000);
    swarm.disk(0).set_capacity(Some(1500));
    let sealed = vec![1; 1000];
    let other = ChunkId(*blake3::hash(&sealed).as_bytes());
    let outcome = swarm.at(0).put(other, &sealed);
    assert!(
        matches!(&outcome, Err(ReplicaError::Store(error)) if matches!(**error, StoreError::Full))
    );
    assert!(swarm.at(0).get_local(id).unwrap().is_some());
    assert_eq!(swarm.at(0).usage().held_count, 1);
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn a_holder_with_a_full_disk_is_stood_in_for() {
    let swarm = Swarm::new(5, 6);
    swarm.disk(2).set_capacity(Some(2_000));
    let ids: Vec<ChunkId> = (0..40).map(|n| swarm.put(0, 900 + n)).collect();
    swarm.sync().await;
    for id in &ids {
        assert!(swarm.holders(*id).len() >= 3);
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_without_a_row_are_adopted_as_cached() {
    let mut swarm = Swarm::new(1, 7);
    swarm.put(0, 100);
    swarm.kill(0);
    let sealed = b"written just before the power cut";
    let id = ChunkId(*blake3::hash(sealed).as_bytes());
    swarm.disk(0).store().chunks.put(id, sealed).unwrap();
    swarm.start(0);
    let usage = swarm.at(0).usage();
    assert_eq!((usage.held_count, usage.cached_count), (1, 1));
    swarm.check_books();
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_is_lost_and_one_without_a_row_do_not_make_up_for_each_other() {
    let mut swarm = Swarm::new(1, 7);
    let lost = swarm.put(0, 100);
    swarm.kill(0);
    let chunks = swarm.disk(0).store().chunks;
    chunks.delete(lost).unwrap();
    let sealed = b"as many as before, and another one";
    let id = ChunkId(*blake3::hash(sealed).as_bytes());
    chunks.put(id, sealed).unwrap();
    swarm.start(0);
    let usage = swarm.at(0).usage();
    assert_eq!((usage.held_count, usage.cached_count), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_status_of_a_chunk_tells_who_holds_it() {
    let swarm = Swarm::new(3, 8);
    swarm.cut(&[0], &[2]);
    let id = swarm.put(0, 100);
    crate::base::time::sleep(Duration::from_secs(1)).await;
    let status = swarm.at(0).status(id).unwrap();
    let mut known = vec![swarm.ids[0], swarm.ids[1]];
    known.sort();
    assert_eq!(status.holders, known);
    assert!(status.local && status.pending);
    assert_eq!((status.wanted, status.len), (3, 100));
    swarm.heal();
    swarm.sync().await;
    let status = swarm.at(0).status(id).unwrap();
    assert!(!status.pending && status.holders.len() == 3);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_offers_to_store_the_author_keeps_its_own() {
    let mut swarm = Swarm::empty(9);
    swarm.add_many(
        1,
        ReplicaConfig {
            capacity_bytes: 0,
            cache_bytes: 0,
        },
    );
    swarm.dismiss(0);
    swarm.sync().await;
    let ids: Vec<ChunkId> = (0..5).map(|n| swarm.put(0, 300 + n)).collect();
    swarm.sync().await;
    assert!(ids.iter().all(|id| swarm.at(0).is_local(*id).unwrap()));
}
