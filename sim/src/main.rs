//! `dfs-sim`: runs clusters under seeds, and prints the seed of each that fails.

use std::process::ExitCode;

use dfs_sim::{Plan, Report, run, simulate};

const HELP: &str = "\
Runs whole clusters of dfs in one thread each, with simulated network, disks and clocks.

usage: dfs-sim [--seeds N] [--from S] [--seed S] [--steps N] [--first] [-v]

  --seeds N   so many seeds (100)
  --from S    the first of them (0)
  --seed S    this seed alone, and all that happens in it
  --steps N   operations of programs in each (150)
  --first     ends at the first that fails
  -v          tells all that happens
";

struct Options {
    seeds: u64,
    from: u64,
    plan: Plan,
    ends_at_first: bool,
}

fn options() -> Option<Options> {
    let mut options = Options {
        seeds: 100,
        from: 0,
        plan: Plan::default(),
        ends_at_first: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next()?.parse::<u64>().ok();
        match arg.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.from = number()?,
            "--steps" => options.plan.steps = number()?,
            "--seed" => {
                (options.from, options.seeds) = (number()?, 1);
                options.plan.is_told = true;
            }
            "--first" => options.ends_at_first = true,
            "-v" => options.plan.is_told = true,
            _ => return None,
        }
    }
    Some(options)
}

/// Runs one seed; `None` where it fails.
fn attempt(seed: u64, plan: Plan) -> Option<Report> {
    std::panic::catch_unwind(|| simulate(seed, |seed| run(seed, plan))).ok()
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        print!("{HELP}");
        return ExitCode::from(2);
    };
    let mut failed = Vec::new();
    let seeds = options.from..options.from.saturating_add(options.seeds);
    let mut run = 0;
    for seed in seeds {
        run += 1;
        match attempt(seed, options.plan) {
            Some(report) => println!(
                "seed {seed}: ok, {} operations, {} events, {} records, {} compared, trace {:016x}",
                report.done, report.events, report.records, report.compared, report.trace
            ),
            None => {
                println!("seed {seed}: FAILED; cargo run --release -p dfs-sim -- --seed {seed}");
                failed.push(seed);
                if options.ends_at_first {
                    break;
                }
            }
        }
    }
    println!("{run} seeds, {} failed {failed:?}", failed.len());
    ExitCode::from(u8::from(!failed.is_empty()))
}
