//! fio with verification at length.

use mount_tests::suites::{Ext4, fio, seed, wait_until_same};
use mount_tests::{Trio, scenario};

use crate::MINUTES;

/// Writes so many MiB with each job, and reads them back: at once, on the other mount, and after a
/// remount without a cache.
///
/// # Panics
///
/// Where a call fails, or a byte is not what was written.
pub(crate) fn run(mib: u64) {
    scenario("fio", 60 * MINUTES, |s| {
        let seed = seed();
        println!("seed {seed}, {} files of {mib} MiB", fio::FILES.len());
        let workload = fio::Workload::new(s.folder(), seed, mib);
        let ext4 = Ext4::new(s, &format!("{}M", mib * 11 + 256));
        println!("ext4:          {}", workload.write(ext4.path()));
        let mut trio = Trio::start(s);
        println!("dfs:           {}", workload.write(trio.a.mountpoint()));
        for file in fio::FILES {
            wait_until_same(&trio.a.path(file), &trio.b.path(file));
        }
        println!("other mount:   {}", workload.verify(trio.b.mountpoint()));
        trio.a.unmount();
        trio.a.restart();
        println!("after remount: {}", workload.verify(trio.a.mountpoint()));
    });
}
