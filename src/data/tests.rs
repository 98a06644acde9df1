//! Tests of the room, alone on one machine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{ChunkRef, Data, DataError};
use crate::base::limits::CHUNK_BYTES;
use crate::base::task::{Pool, thread};
use crate::base::time::SimClock;
use crate::base::{ChunkId, Rng};
use crate::crypto::VolumeKeys;
use crate::replica::{Replica, ReplicaConfig, ReplicaError};
use crate::store::Store;

fn data_over(store: &Store, pool: Pool, cache_bytes: u64) -> Arc<Data> {
    let clock = SimClock::new(0);
    let replica = Replica::new(
        store.clone(),
        None,
        ReplicaConfig::default(),
        clock.clone(),
        pool.clone(),
    )
    .unwrap();
    let keys = VolumeKeys::generate(&Rng::from_seed(1));
    Data::new(Arc::new(keys), replica, pool, clock, cache_bytes)
}

fn plain(seed: u8, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut bytes);
    Bytes::from(bytes)
}

fn seal(data: &Arc<Data>, plain: &Bytes) -> ChunkRef {
    data.seal(plain.clone()).wait().unwrap()
}

#[test]
fn what_was_sealed_is_read_from_memory_and_from_disk() {
    let data = data_over(&Store::memory(), Pool::inline(), 8 << 20);
    for (seed, len) in [(1, 0), (2, 1), (3, 70_000), (4, CHUNK_BYTES as usize)] {
        let plain = plain(seed, len);
        let chunk = seal(&data, &plain);
        assert_eq!(chunk.len as usize, len);
        for _ in 0..2 {
            let all = data.read_local(chunk.id, 0..usize::MAX).unwrap().unwrap();
            assert_eq!(all, plain);
            let part = data
                .read_local(chunk.id, len / 3..len / 2)
                .unwrap()
                .unwrap();
            assert_eq!(part, plain[len / 3..len / 2]);
            data.clear_cache();
        }
    }
}

#[test]
fn equal_plaintexts_are_one_chunk() {
    let store = Store::memory();
    let data = data_over(&store, Pool::inline(), 8 << 20);
    let plain = plain(1, 5000);
    assert_eq!(seal(&data, &plain), seal(&data, &plain));
    assert_eq!(store.chunks.usage().count, 1);
    assert_eq!(data.replica().usage().held_count, 1);
}

#[test]
fn a_plaintext_larger_than_a_chunk_is_refused() {
    let data = data_over(&Store::memory(), Pool::inline(), 8 << 20);
    let outcome = data.seal(plain(1, CHUNK_BYTES as usize + 1)).wait();
    assert!(matches!(outcome, Err(DataError::TooLarge { .. })));
}

#[test]
fn ranges_beyond_the_end_are_cut_off() {
    let data = data_over(&Store::memory(), Pool::inline(), 8 << 20);
    let chunk = seal(&data, &plain(1, 100));
    for (range, len) in [(90..200, 10), (100..200, 0), (500..600, 0), (7..7, 0)] {
        assert_eq!(
            data.read_local(chunk.id, range).unwrap().unwrap().len(),
            len
        );
    }
}

#[test]
fn a_chunk_that_is_nowhere_is_missing() {
    let data = data_over(&Store::memory(), Pool::inline(), 8 << 20);
    assert!(data.read_local(ChunkId([7; 32]), 0..1).unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn reading_what_is_nowhere_fails_and_what_is_here_does_not() {
    let data = data_over(&Store::memory(), Pool::inline(), 8 << 20);
    let limit = Duration::from_secs(1);
    let missing = data.read(ChunkId([7; 32]), 0..1, limit).await;
    assert!(matches!(
        missing,
        Err(DataError::Replica(ReplicaError::Missing { .. }))
    ));
    let plain = plain(1, 5000);
    let chunk = seal(&data, &plain);
    data.clear_cache();
    assert_eq!(data.read(chunk.id, 0..9999, limit).await.unwrap(), plain);
}

#[tokio::test(start_paused = true)]
async fn prefetched_chunks_are_in_memory() {
    let data = data_over(&Store::memory(), Pool::inline(), 64 << 20);
    let chunks: Vec<ChunkRef> = (0..20).map(|seed| seal(&data, &plain(seed, 100))).collect();
    data.clear_cache();
    data.prefetch(&chunks.iter().map(|chunk| chunk.id).collect::<Vec<_>>());
    let running = crate::base::task::spawn(Arc::clone(&data).run());
    crate::base::time::sleep(Duration::from_secs(1)).await;
    running.abort();
    assert!(chunks.iter().all(|chunk| data.is_cached(&chunk.id)));
}

#[test]
fn a_chunk_of_another_volume_does_not_open() {
    let store = Store::memory();
    let data = data_over(&store, Pool::inline(), 8 << 20);
    let other = VolumeKeys::generate(&Rng::from_seed(2)).seal_chunk(b"theirs");
    data.replica().put(other.id, &other.bytes).unwrap();
    assert!(matches!(
        data.read_local(other.id, 0..6),
        Err(DataError::Open { .. })
    ));
}

#[test]
fn a_corrupt_local_copy_is_dropped_and_counts_as_not_here() {
    let store = Store::memory();
    let data = data_over(&store, Pool::inline(), 8 << 20);
    let id = ChunkId([9; 32]);
    store.chunks.put(id, b"not what the id names").unwrap();
    assert!(data.read_local(id, 0..1).unwrap().is_none());
    assert!(store.chunks.len(id).unwrap().is_none());
}

#[test]
fn many_threads_seal_and_read_through_a_small_pool() {
    let pool = Pool::threads("test", 2, 4).unwrap();
    let data = data_over(&Store::memory(), pool, 1 << 20);
    let threads: Vec<_> = (0..4u8)
        .map(|worker| {
            let data = Arc::clone(&data);
            thread("test-writer", move || {
                let plains: Vec<Bytes> = (0..40)
                    .map(|n| plain(worker.wrapping_mul(40).wrapping_add(n), 50_000))
                    .collect();
                let tickets: Vec<_> = plains.iter().map(|p| data.seal(p.clone())).collect();
                for (ticket, plain) in tickets.into_iter().zip(&plains) {
                    let chunk = ticket.wait().unwrap();
                    assert_eq!(
                        data.read_local(chunk.id, 0..50_000).unwrap().unwrap(),
                        plain
                    );
                }
            })
            .unwrap()
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(data.cached_bytes() <= 1 << 20);
    assert_eq!(data.replica().usage().held_count, 160);
}
