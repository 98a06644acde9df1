//! Tests of the room, alone on one machine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::cache::Key;
use super::flight::{Flight, Goal};
use super::parts::SMALL_READ_BYTES;
use super::{
    Boarded, ChunkRef, Data, DataError, Lead, SEALS_IN_FLIGHT_MAX, SEALS_IN_FLIGHT_MIN,
    seals_in_flight,
};
use crate::base::limits::CHUNK_BYTES;
use crate::base::task::{Pool, thread};
use crate::base::time::SimClock;
use crate::base::worker::Workers;
use crate::base::{ChunkId, Rng};
use crate::crypto::{FRAME_BYTES, VolumeKeys};
use crate::replica::{Replica, ReplicaConfig, ReplicaError};
use crate::store::Store;
use crate::store::memory::MemoryDisk;
use crate::transport::Priority;

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
fn ranges_are_read_at_all_boundaries_of_frames() {
    let data = data_over(&Store::memory(), Pool::inline(), 8 << 20);
    let len = 2 * FRAME_BYTES + 1000;
    let plain = plain(1, len);
    let chunk = seal(&data, &plain);
    let near = |at: usize| [at.saturating_sub(1), at, at + 1];
    let places: Vec<usize> = [0, FRAME_BYTES, 2 * FRAME_BYTES, len]
        .into_iter()
        .flat_map(near)
        .collect();
    for start in &places {
        for end in places.iter().filter(|end| *end >= start) {
            data.clear_cache();
            let expected = &plain[*start.min(&len)..*end.min(&len)];
            // From the disk, then with what that left in memory.
            for _ in 0..2 {
                let read = data.read_local(chunk.id, *start..*end).unwrap().unwrap();
                assert!(read == expected, "{start}..{end}");
            }
            assert!(!data.is_cached(&chunk.id));
        }
    }
}

#[test]
fn a_small_read_opens_one_frame_and_keeps_it() {
    let data = data_over(&Store::memory(), Pool::inline(), 8 << 20);
    let plain = plain(1, 5 * FRAME_BYTES);
    let chunk = seal(&data, &plain);
    data.clear_cache();
    let at = 2 * FRAME_BYTES + 4096;
    let read = data.read_local(chunk.id, at..at + 4096).unwrap().unwrap();
    assert_eq!(read, plain[at..at + 4096]);
    assert_eq!(data.cached_bytes(), FRAME_BYTES as u64);
    // What is taken whole is not kept: the first and the last one are not here.
    data.clear_cache();
    let range = FRAME_BYTES - 1..4 * FRAME_BYTES + 1;
    let read = data.read_local(chunk.id, range.clone()).unwrap().unwrap();
    assert_eq!(read, plain[range]);
    assert_eq!(data.cached_bytes(), 2 * FRAME_BYTES as u64);
    data.clear_cache();
    data.read_local(chunk.id, 0..4 * FRAME_BYTES)
        .unwrap()
        .unwrap();
    assert_eq!(data.cached_bytes(), 0);
}

#[test]
fn a_rotten_frame_costs_its_range_alone() {
    let disk = MemoryDisk::new();
    let data = data_over(&disk.store(), Pool::inline(), 8 << 20);
    let plain = plain(1, 3 * FRAME_BYTES);
    let chunk = seal(&data, &plain);
    data.clear_cache();
    // The last byte.
    assert!(disk.rot(chunk.id));
    let read = |range: std::ops::Range<usize>| data.read_local(chunk.id, range).unwrap();
    for _ in 0..2 {
        assert!(read(2 * FRAME_BYTES..2 * FRAME_BYTES + 1).is_none());
        assert!(read(0..3 * FRAME_BYTES).is_none());
        assert_eq!(read(0..2 * FRAME_BYTES).unwrap(), plain[..2 * FRAME_BYTES]);
    }
    // It is on the books as lost, and one that is put again takes its place.
    assert_eq!(data.replica().usage().held_count, 0);
    assert!(!data.replica().is_local(chunk.id).unwrap());
    seal(&data, &plain);
    data.clear_cache();
    assert_eq!(read(0..3 * FRAME_BYTES).unwrap(), plain);
    assert_eq!(data.replica().usage().held_count, 1);
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
async fn a_failure_is_passed_on_only_while_the_chunk_is_nowhere() {
    let store = Store::memory();
    let data = data_over(&store, Pool::inline(), 8 << 20);
    let limit = Duration::from_secs(1);
    let fails = |id, error: ReplicaError| {
        let now = data.clock.monotonic();
        data.failures.lock().note(id, now, Err(&error.into()));
    };
    let plain = plain(1, 5000);
    let chunk = seal(&data, &plain);
    let id = chunk.id;
    fails(id, ReplicaError::Missing { id });
    // In memory and on the disk, on the disk alone, in memory alone, and on its way.
    assert_eq!(data.read(id, 0..9999, limit).await.unwrap(), plain);
    data.clear_cache();
    assert_eq!(data.read(id, 0..9999, limit).await.unwrap(), plain);
    let other = ChunkId([7; 32]);
    fails(other, ReplicaError::Missing { id: other });
    assert!(data.failed_lately(other).unwrap().is_some());
    data.cache.lock().insert(Key::whole(other), plain.clone());
    assert_eq!(data.read(other, 0..9999, limit).await.unwrap(), plain);
    data.clear_cache();
    let flight = Arc::new(Flight::new(Priority::Awaited));
    let board = |id| {
        data.flights
            .lock()
            .insert(Goal::whole(id), Arc::clone(&flight))
    };
    board(other);
    assert!(data.failed_lately(other).unwrap().is_none());

    // That a copy is damaged says nothing of the others.
    let damaged = ChunkId([8; 32]);
    fails(damaged, ReplicaError::Corrupt { id: damaged });
    assert!(data.failed_lately(damaged).unwrap().is_none());
}

#[test]
fn a_little_of_a_chunk_comes_alone_where_nothing_of_it_is_here_or_on_its_way() {
    let data = data_over(&Store::memory(), Pool::inline(), 8 << 20);
    let is_alone = |id, len| data.goal_of(id, &(10..10 + len)).unwrap().frames.is_some();
    let id = ChunkId([7; 32]);
    assert!(is_alone(id, SMALL_READ_BYTES) && !is_alone(id, SMALL_READ_BYTES + 1));
    let flight = Arc::new(Flight::new(Priority::Awaited));
    data.flights.lock().insert(Goal::whole(id), flight);
    assert!(!is_alone(id, 1));
    let here = seal(&data, &plain(1, 100));
    data.clear_cache();
    assert!(!is_alone(here.id, 1));
}

#[test]
fn only_what_is_neither_here_nor_on_its_way_is_prefetched() {
    let data = data_over(&Store::memory(), Pool::inline(), 8 << 20);
    let cached = seal(&data, &plain(1, 100)).id;
    let (coming, elsewhere) = (ChunkId([7; 32]), ChunkId([8; 32]));
    let flight = Arc::new(Flight::new(Priority::Awaited));
    data.flights.lock().insert(Goal::whole(coming), flight);
    data.prefetch(&[cached, coming, elsewhere]);
    let mut queue = data.prefetch_queue.lock().take().unwrap();
    assert_eq!(queue.try_recv().ok(), Some(elsewhere));
    assert!(queue.try_recv().is_err());
}

#[test]
fn a_frame_in_memory_serves_what_lies_in_it() {
    let data = data_over(&Store::memory(), Pool::inline(), 8 << 20);
    let id = ChunkId([7; 32]);
    let frame = plain(1, FRAME_BYTES);
    data.cache.lock().insert(Key::frame(id, 2), frame.clone());
    let start = 2 * FRAME_BYTES;
    let cached = |range: std::ops::Range<usize>| data.cached(id, &range);
    assert_eq!(cached(start..start + FRAME_BYTES), Some(frame.clone()));
    assert_eq!(cached(start + 5..start + 9), Some(frame.slice(5..9)));
    assert_eq!(cached(start..start + FRAME_BYTES + 1), None);
    assert_eq!(cached(start - 1..start + 1), None);
}

#[test]
fn chunks_are_sealed_beside_each_other_as_the_cache_allows() {
    let all = [0, 32 << 20, u64::MAX].map(seals_in_flight);
    assert_eq!(all, [SEALS_IN_FLIGHT_MIN, 4, SEALS_IN_FLIGHT_MAX]);
}

#[test]
fn who_waits_for_an_opening_is_told_of_its_end_however_it_ends() {
    let data = data_over(&Store::memory(), Pool::inline(), 8 << 20);
    let goal = Goal::whole(ChunkId([7; 32]));
    let board = || match data.board(&goal, &(0..1), Priority::Awaited) {
        Boarded::Pilot(flight) => flight,
        _ => panic!("nobody opens it"),
    };
    // It goes on among the peers, it ends well, and it breaks off: each told in time to a thread.
    for end in 0..3 {
        let flight = board();
        let lead = Lead {
            data: &data,
            goal: &goal,
            flight: &flight,
        };
        let (sender, told) = std::sync::mpsc::channel();
        let waiting = Arc::clone(&flight);
        let waiter = thread("waiter", move || {
            sender.send(waiting.wait_local()).unwrap();
        });
        match end {
            0 => flight.go_remote(),
            1 => lead.land(Ok(Some(plain(1, 10)))),
            _ => {}
        }
        let is_on_its_way = end == 0;
        if !is_on_its_way {
            drop(lead);
        }
        let outcome = told.recv_timeout(Duration::from_secs(30)).expect("word");
        waiter.unwrap().join().unwrap();
        match end {
            0 => assert!(outcome.is_none()),
            1 => assert_eq!(outcome.unwrap().unwrap(), Some(plain(1, 10))),
            _ => assert!(matches!(outcome, Some(Err(DataError::Aborted)))),
        }
    }
    // Whoever comes later begins anew.
    board();
}

#[tokio::test(start_paused = true)]
async fn prefetched_chunks_are_in_memory() {
    let data = data_over(&Store::memory(), Pool::inline(), 64 << 20);
    let chunks: Vec<ChunkRef> = (0..20).map(|seed| seal(&data, &plain(seed, 100))).collect();
    data.clear_cache();
    data.prefetch(&chunks.iter().map(|chunk| chunk.id).collect::<Vec<_>>());
    let running = crate::base::task::spawn(Arc::clone(&data).run(Workers::new(SimClock::new(0))));
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

mod over_a_network {
    use super::*;
    use crate::base::Clock;
    use crate::base::task::spawn;
    use crate::base::time::{sleep, timeout};
    use crate::replica::tests::net::Swarm;

    /// Five peers; a synced chunk; the contents at a peer that does not hold it.
    async fn scene(seed: u64) -> (Swarm, ChunkRef, Bytes, Arc<Data>) {
        scene_of(seed, 30_000).await
    }

    async fn scene_of(seed: u64, len: usize) -> (Swarm, ChunkRef, Bytes, Arc<Data>) {
        let mut swarm = Swarm::empty(seed);
        swarm.add_many(
            5,
            ReplicaConfig {
                cache_bytes: 0,
                ..ReplicaConfig::default()
            },
        );
        let keys = Arc::new(VolumeKeys::generate(&Rng::from_seed(seed)));
        let data_at = |swarm: &Swarm, index| {
            let keys = Arc::clone(&keys);
            Data::new(
                keys,
                swarm.at(index),
                Pool::inline(),
                swarm.clock(),
                8 << 20,
            )
        };
        swarm.sync().await;
        let plain = plain(7, len);
        let chunk = seal(&data_at(&swarm, 0), &plain);
        swarm.sync().await;
        let holders = swarm.holders(chunk.id);
        let reader = (0..5).find(|index| !holders.contains(index)).unwrap();
        let data = data_at(&swarm, reader);
        (swarm, chunk, plain, data)
    }

    #[tokio::test(start_paused = true)]
    async fn a_little_of_a_chunk_comes_alone_and_much_of_it_as_a_whole() {
        let (swarm, chunk, plain, data) = scene_of(6, 40 * FRAME_BYTES).await;
        let limit = Duration::from_secs(9);
        let read = async |at: usize| {
            let range = at * FRAME_BYTES + 5000..at * FRAME_BYTES + 9000;
            let here = data.read_local(chunk.id, range.clone()).unwrap();
            let read = data.read(chunk.id, range.clone(), limit).await.unwrap();
            assert_eq!(read, plain[range]);
            here.is_some()
        };
        assert!(!read(30).await);
        assert_eq!((swarm.parts(), swarm.traffic().0), (1, 0));
        // The frame is in memory.
        assert!(read(30).await);
        assert_eq!(data.cached_bytes(), FRAME_BYTES as u64);
        for frame in 0..15 {
            assert!(!read(frame).await);
        }
        assert_eq!((swarm.parts(), swarm.traffic().0), (16, 0));
        assert!(!data.replica().is_local(chunk.id).unwrap());
        // Once more, and all of it comes.
        assert!(!read(20).await);
        assert_eq!((swarm.parts(), swarm.traffic().0), (16, 1));
        assert!(read(21).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_chunk_comes_alone() {
        let (swarm, chunk, plain, data) = scene_of(7, 3 * FRAME_BYTES + 100).await;
        let limit = Duration::from_secs(9);
        for (range, expected) in [
            (
                3 * FRAME_BYTES + 50..4 * FRAME_BYTES,
                &plain[3 * FRAME_BYTES + 50..],
            ),
            (
                3 * FRAME_BYTES - 1..3 * FRAME_BYTES + 1,
                &plain[3 * FRAME_BYTES - 1..3 * FRAME_BYTES + 1],
            ),
            (5 * FRAME_BYTES..5 * FRAME_BYTES + 9, &[][..]),
        ] {
            assert_eq!(data.read(chunk.id, range, limit).await.unwrap(), expected);
        }
        assert_eq!(swarm.traffic().0, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn readers_of_one_frame_share_one_fetch() {
        let (swarm, chunk, plain, data) = scene(8).await;
        let readers: Vec<_> = (0..4)
            .map(|n| {
                let data = Arc::clone(&data);
                let range = n * 4000..(n + 1) * 4000;
                spawn(async move { data.read(chunk.id, range, Duration::from_secs(9)).await })
            })
            .collect();
        for (n, reader) in readers.into_iter().enumerate() {
            assert_eq!(
                reader.await.unwrap().unwrap(),
                plain[n * 4000..(n + 1) * 4000]
            );
        }
        assert_eq!((swarm.parts(), swarm.traffic().0), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn readers_of_one_chunk_share_one_fetch() {
        let (swarm, chunk, plain, data) = scene_of(1, 300_000).await;
        let readers: Vec<_> = (0..6)
            .map(|n| {
                let data = Arc::clone(&data);
                let range = n * 50_000..(n + 1) * 50_000;
                spawn(async move { data.read(chunk.id, range, Duration::from_secs(9)).await })
            })
            .collect();
        for (n, reader) in readers.into_iter().enumerate() {
            assert_eq!(
                reader.await.unwrap().unwrap(),
                plain[n * 50_000..(n + 1) * 50_000]
            );
        }
        assert_eq!(swarm.traffic().0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_fetch_is_under_way_a_thread_is_told_to_wait_elsewhere() {
        let (_swarm, chunk, plain, data) = scene(2).await;
        let reader = Arc::clone(&data);
        let read = spawn(async move { reader.read(chunk.id, 0..5, Duration::from_secs(9)).await });
        sleep(Duration::from_millis(1)).await;
        assert!(data.read_local(chunk.id, 0..5).unwrap().is_none());
        assert_eq!(read.await.unwrap().unwrap(), plain[..5]);
        assert_eq!(
            data.read_local(chunk.id, 0..5).unwrap().unwrap(),
            plain[..5]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_gives_up_takes_nothing_from_the_others() {
        let (swarm, chunk, plain, data) = scene(3).await;
        for index in 0..5 {
            swarm.set_delay(index, Duration::from_secs(2));
        }
        let impatient = data.read(chunk.id, 0..5, Duration::from_secs(60));
        let reader = Arc::clone(&data);
        let patient =
            spawn(async move { reader.read(chunk.id, 0..5, Duration::from_secs(60)).await });
        assert!(timeout(Duration::from_secs(1), impatient).await.is_err());
        assert_eq!(patient.await.unwrap().unwrap(), plain[..5]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_again_at_once_hears_at_once_that_nobody_has_it() {
        let (swarm, chunk, plain, data) = scene(5).await;
        swarm.cut(&[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]);
        let clock = swarm.clock();
        let limit = Duration::from_secs(20);
        let took = async || {
            let started = clock.monotonic();
            let outcome = data.read(chunk.id, 0..5, limit).await;
            (outcome, clock.monotonic() - started)
        };
        let (first, patience) = took().await;
        assert!(first.is_err() && patience > Duration::ZERO && patience <= limit);
        let (second, at_once) = took().await;
        assert_eq!(
            second.unwrap_err().to_string(),
            first.unwrap_err().to_string()
        );
        assert_eq!(at_once, Duration::ZERO);
        // Not for long: the peers may be back.
        swarm.heal();
        sleep(Duration::from_secs(2)).await;
        assert_eq!(data.read(chunk.id, 0..5, limit).await.unwrap(), plain[..5]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_reader_has_its_own_deadline() {
        let (swarm, chunk, plain, data) = scene(4).await;
        for index in 0..5 {
            swarm.set_delay(index, Duration::from_secs(2));
        }
        let clock = swarm.clock();
        let started = clock.monotonic();
        let reader = Arc::clone(&data);
        let short = spawn(async move { reader.read(chunk.id, 0..5, Duration::from_secs(1)).await });
        tokio::task::yield_now().await;
        let long = data.read(chunk.id, 0..5, Duration::from_secs(60));
        assert_eq!(long.await.unwrap(), plain[..5]);
        assert!(clock.monotonic() - started < Duration::from_secs(10));
        let late = short.await.unwrap();
        assert!(matches!(
            late,
            Err(DataError::Replica(ReplicaError::TimedOut { .. }))
        ));
    }
}
