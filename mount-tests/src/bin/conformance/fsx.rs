//! fsx at length: as programs are served, and past the kernel's page cache.

use mount_tests::suites::{fsx, seed, wait_until_same};
use mount_tests::{Start, Trio, elapsed_since, now, scenario};

use crate::MINUTES;

/// Runs so many operations, shared out among so many seeds, with the page cache and without.
///
/// # Panics
///
/// Where a file was not what fsx expected, here or on the other mount.
pub(crate) fn run(operations: u64, seeds: u64) {
    let seeds = seeds.max(1);
    scenario("fsx", 180 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        let first = seed();
        for past_the_cache in [false, true] {
            if past_the_cache {
                trio.a.unmount();
                trio.a.mount(&Start::again().arg("-o").arg("direct_io"));
            }
            for seed in (0..seeds).map(|number| first.wrapping_add(number)) {
                let name = format!("fsx {seed} {past_the_cache}");
                let begun = now();
                fsx::run(&trio.a.path(&name), s.folder(), seed, operations / seeds);
                wait_until_same(&trio.a.path(&name), &trio.b.path(&name));
                println!(
                    "seed {seed}, page cache {}: {} operations, the same on both mounts, {} s",
                    if past_the_cache { "off" } else { "on" },
                    operations / seeds,
                    elapsed_since(begun).as_secs()
                );
            }
        }
    });
}
