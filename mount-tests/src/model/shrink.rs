//! Runs of seeds: on a failure the shortest operations that still fail are looked for and shown.

use super::op::{Ends, Op, random_ops};

/// A failure: after which operation, and what was different.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The operations up to the one that failed.
    pub ops: Vec<Op>,
    /// What was different.
    pub what: String,
}

/// Runs the operations of a seed.
///
/// # Panics
///
/// When a run fails, with the seed, the shortest operations that fail in `tries` further runs, and
/// what is different.
pub fn run_seed(
    seed: u64,
    count: usize,
    ends: Ends,
    tries: usize,
    mut run: impl FnMut(&[Op]) -> Result<(), Failure>,
) {
    let ops = random_ops(seed, count, ends);
    if let Err(failure) = run(&ops) {
        let first = failure.what.clone();
        let shortest = shrink(failure, tries, run);
        let ops: Vec<String> = shortest.ops.iter().map(|op| format!("  {op:?}")).collect();
        panic!(
            "seed {seed}, {} operations (of {count}), the last of which fails:\n{}\n{}\nat first: {first}",
            ops.len(),
            ops.join("\n"),
            shortest.what,
        );
    }
}

/// Leaves out ever smaller stretches of operations while the rest still fails.
fn shrink(
    failure: Failure,
    mut tries: usize,
    mut run: impl FnMut(&[Op]) -> Result<(), Failure>,
) -> Failure {
    let mut best = failure;
    let mut stretch = best.ops.len() / 2;
    while stretch > 0 {
        let mut at = 0;
        while at < best.ops.len() && tries > 0 {
            let mut ops = best.ops.clone();
            ops.drain(at..(at + stretch).min(ops.len()));
            tries -= 1;
            match run(&ops) {
                Err(shorter) => best = shorter,
                Ok(()) => at += stretch,
            }
        }
        stretch /= 2;
    }
    best
}
