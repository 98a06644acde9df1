//! Runs a suite that others wrote on a volume with three live peers and, where a suite knows of
//! better and worse, on ext4 for reference.
//!
//! `conformance SUITE [ARGUMENT...]`; the scripts in `mount-tests/conformance` install what a suite
//! needs and call this. A run fails where dfs is worse than ext4 was in the same run. `recovery` and
//! `sizes` are our own: they work on one mount, and print figures.

mod dbench;
mod fio;
mod fsx;
mod pjdfstest;
mod recovery;
mod sizes;
mod stress_ng;

use std::time::Duration;

const MINUTES: Duration = Duration::from_secs(60);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["dbench", args @ ..] => dbench::run(number(args.first(), 60), number(args.get(1), 8)),
        ["fio", args @ ..] => fio::run(number(args.first(), 192)),
        ["fsx", args @ ..] => fsx::run(number(args.first(), 1_000_000), number(args.get(1), 8)),
        ["pjdfstest", program, tests @ ..] => pjdfstest::run(program, tests),
        ["recovery", args @ ..] => recovery::run(number(args.first(), 100_000)),
        ["sizes", parts @ ..] => sizes::run(parts),
        ["stress-ng", args @ ..] => {
            let (seconds, stressors) = args.split_at(args.len().min(1));
            stress_ng::run(number(seconds.first(), 4), stressors);
        }
        _ => panic!("usage: conformance SUITE [ARGUMENT...], see mount-tests/conformance"),
    }
}

fn number(arg: Option<&&str>, default: u64) -> u64 {
    arg.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("not a number: {text}"))
    })
}
