//! The fs room against the naive tree of `mount_tests::model`: random operations, everything compared
//! after each, remounting, a kill and a power cut among the operations.
//!
//! `room.rs` is the executor, `mount.rs` a filesystem with all rooms below it on a store in memory,
//! `named.rs` has single behaviours and the failures that were found, `space.rs` those of a full disk.
//!
//! `DFS_MODEL_SEEDS=FROM..TO` runs other seeds than the usual few.

mod callers;
mod cuts;
mod faults;
mod lineage;
mod long;
pub(crate) mod mount;
mod named;
mod pages;
mod past;
mod restore;
pub(crate) mod room;
mod space;
mod threads;

use std::ops::Range;

use dfs::base::Rng;
use mount_tests::model::{Ends, Failure, Op, Run, run_all, run_counted, run_seed};

use self::faults::Faults;
use self::mount::Disk;
use self::room::Room;

/// Operations of a seed.
const OPS: usize = 120;

/// Runs that look for a shorter failure.
const TRIES: usize = 400;

fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(asked) = std::env::var("DFS_MODEL_SEEDS") else {
        return usual;
    };
    let (from, to) = asked.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Runs operations alone in a volume, or, by the seed, as one of several authors: then the view at
/// the end is that of another device that folds the log from scratch.
fn run(disk: Disk, seed: u64, ops: &[Op]) -> Result<(), Failure> {
    let alone = seed.is_multiple_of(2);
    let room = run_all(
        Run::new(Room::new(disk.alone(alone), Rng::from_seed(seed))),
        ops,
    )?;
    if !alone {
        room.into_disk().check_fold();
    }
    Ok(())
}

#[test]
fn the_filesystem_is_the_naive_tree() {
    let ends = Ends {
        remounts: 25,
        kills: 15,
        users: 20,
        ..Ends::default()
    };
    for seed in seeds(0..40) {
        run_seed(seed, OPS, ends, TRIES, |ops| run(Disk::new(), seed, ops));
    }
}

#[test]
fn a_power_cut_leaves_what_was_synced_and_a_prefix_of_the_rest() {
    let ends = Ends {
        remounts: 5,
        kills: 10,
        power_cuts: 50,
        ..Ends::default()
    };
    for seed in seeds(1000..1040) {
        run_seed(seed, OPS, ends, TRIES, |ops| {
            run(Disk::losing_power(), seed, ops)
        });
    }
}

/// Returns how many operations failed.
fn run_failing(seed: u64, ops: &[Op]) -> Result<usize, Failure> {
    let alone = seed.is_multiple_of(2);
    let disk = Disk::losing_power().alone(alone);
    let faults = Faults::new(disk.memory(), Rng::from_seed(seed));
    let room = Room::new(disk, Rng::from_seed(seed)).failing(faults);
    let mut failed = 0;
    let room = run_counted(Run::new(room).map(Run::failing), ops, &mut failed)?;
    if !alone {
        room.into_disk().check_fold();
    }
    Ok(failed)
}

#[test]
fn a_call_that_failed_for_want_of_room_changed_nothing() {
    let ends = Ends {
        remounts: 25,
        users: 50,
        ..Ends::default()
    };
    let (mut failed, mut runs) = (0, 0);
    let seeds = seeds(2000..2060);
    for seed in seeds.clone() {
        run_seed(seed, OPS, ends, TRIES, |ops| {
            failed += run_failing(seed, ops)?;
            Ok(())
        });
        runs += 1;
    }
    println!("{failed} calls failed in {runs} runs, seeds {seeds:?}");
    assert!(failed > 5 * runs, "{failed} in {runs} runs");
}
