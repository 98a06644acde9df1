//! Random troubles: whatever happens, after the storm everything acknowledged is on R holders.

use std::time::Duration;

use super::net::Swarm;
use crate::base::ChunkId;
use crate::base::time::sleep;
use crate::replica::ReplicaConfig;

async fn storm(seed: u64) {
    println!("seed {seed}");
    let mut swarm = Swarm::new(3, seed);
    let mut chunks: Vec<ChunkId> = Vec::new();
    for _ in 0..60 {
        let count = swarm.ids.len();
        let index = swarm.rng.below(count as u64) as usize;
        match swarm.rng.below(12) {
            0..=4 if swarm.is_up(index) => {
                for _ in 0..=swarm.rng.below(10) {
                    chunks.push(swarm.put(index, 100 + swarm.rng.below(2000) as usize));
                }
            }
            5 => swarm.kill(index),
            6 => swarm.crash(index),
            7 if !swarm.is_up(index) => swarm.start(index),
            8 => swarm.cut(
                &[index],
                &(0..count).filter(|i| *i != index).collect::<Vec<_>>(),
            ),
            9 => swarm.heal(),
            10 if count < 7 => swarm.add_many(1, ReplicaConfig::default()),
            11 => swarm.set_loss(swarm.rng.below(40)),
            _ => sleep(Duration::from_millis(swarm.rng.below(3_000))).await,
        }
    }
    swarm.heal();
    for index in 0..swarm.ids.len() {
        if !swarm.is_up(index) {
            swarm.start(index);
        }
    }
    swarm.sync().await;
    swarm.check_books();
    for id in &chunks {
        let holders = swarm.holders(*id);
        assert!(
            holders.len() >= 3,
            "seed {seed}: {id:?} is held by {holders:?} only"
        );
    }
    swarm.set_loss(0);
    for id in chunks.iter().step_by(7) {
        let holders = swarm.holders(*id);
        holders[1..].iter().for_each(|index| swarm.kill(*index));
        for reader in (0..swarm.ids.len()).filter(|index| swarm.is_up(*index)) {
            let read = swarm.at(reader).fetch(*id, Duration::from_secs(30)).await;
            assert!(read.is_ok(), "seed {seed}: {id:?} at {reader}: {read:?}");
        }
        holders[1..].iter().for_each(|index| swarm.start(*index));
    }
}

#[tokio::test(start_paused = true)]
async fn after_any_storm_everything_is_on_enough_holders() {
    for seed in 0..30 {
        storm(seed).await;
    }
}
