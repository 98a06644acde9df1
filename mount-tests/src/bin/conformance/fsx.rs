//! fsx at length: as programs are served, and past the kernel's page cache.

use mount_tests::suites::{fsx, seed, wait_until_same};
use mount_tests::{Start, Trio, elapsed_since, now, scenario};

use crate::MINUTES;

/// Runs so many operations, shared out among so many seeds, with the page cache and without.
///
/// Each seed has a volume of its own: what is overwritten stays on the disks of its peers.
///
/// # Panics
///
/// Where a file was not what fsx expected, here or on the other mount.
pub(crate) fn run(operations: u64, seeds: u64) {
    let seeds = seeds.max(1);
    let first = seed();
    for past_the_cache in [false, true] {
        for seed in (0..seeds).map(|number| first.wrapping_add(number)) {
            run_one(seed, operations / seeds, past_the_cache);
        }
    }
}

fn run_one(seed: u64, operations: u64, past_the_cache: bool) {
    let cache = if past_the_cache { "off" } else { "on" };
    println!("seed {seed}, page cache {cache}: {operations} operations");
    scenario("fsx", 90 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        if past_the_cache {
            trio.a.unmount();
            trio.a.mount(&Start::again().arg("-o").arg("direct_io"));
        }
        let begun = now();
        fsx::run(&trio.a.path("file"), s.folder(), seed, operations);
        let seconds = elapsed_since(begun).as_secs();
        wait_until_same(&trio.a.path("file"), &trio.b.path("file"));
        println!("  as expected after {seconds} s, and the same on the other mount");
    });
}
