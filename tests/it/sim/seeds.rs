//! Short seeds: random programs and random weather, and the laws looked at all the time
//! (`sim/src/world.rs`). `DFS_SIM_SEEDS=N` runs more of them, `dfs-sim` goes on without end.

use dfs_sim::{Plan, run, simulate};

/// Seeds of each of the four tests below, which run side by side: about two minutes of two cores in all.
const SEEDS: u64 = 25;

const PLAN: Plan = Plan {
    steps: 50,
    is_told: false,
};

fn run_part(part: u64) {
    let more = std::env::var("DFS_SIM_SEEDS").ok();
    let count = more.and_then(|count| count.parse().ok()).unwrap_or(SEEDS);
    for seed in part * 1_000_000..part * 1_000_000 + count {
        println!(
            "cargo run --release -p dfs-sim -- --steps {} --seed {seed}",
            PLAN.steps
        );
        simulate(seed, |seed| run(seed, PLAN));
    }
}

#[test]
fn the_laws_hold_in_seeds_of_the_first_part() {
    run_part(0);
}

#[test]
fn the_laws_hold_in_seeds_of_the_second_part() {
    run_part(1);
}

#[test]
fn the_laws_hold_in_seeds_of_the_third_part() {
    run_part(2);
}

#[test]
fn the_laws_hold_in_seeds_of_the_fourth_part() {
    run_part(3);
}

/// Who decides alone tells a change and not the record that it builds on, and its folder is put back.
#[test]
fn nothing_waits_for_a_record_that_its_author_lost() {
    let plan = Plan { steps: 150, ..PLAN };
    simulate(0, |seed| run(seed, plan));
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [5, 11] {
        let reports = [(); 2].map(|()| simulate(seed, |seed| run(seed, PLAN)));
        assert_eq!(reports[0], reports[1], "seed {seed}");
        assert!(reports[0].done > 0 && reports[0].events > 0);
    }
}
