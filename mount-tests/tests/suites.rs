//! Short runs of suites that others wrote, on a volume with three live peers; the long ones are in
//! `mount-tests/conformance`.

use std::time::Duration;

use mount_tests::suites::{fio, fsx, seed, wait_until_same};
use mount_tests::{Start, Trio, is_quick, scenario};

const MINUTES: Duration = Duration::from_secs(60);

#[test]
fn fsx_finds_the_file_as_it_left_it() {
    scenario("fsx", 4 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        let operations = if is_quick() { 1_000 } else { 8_000 };
        let first = seed();
        for seed in [first, first.wrapping_add(1)] {
            println!("fsx seed {seed}");
            let name = format!("fsx {seed}");
            fsx::run(&trio.a.path(&name), s.folder(), seed, operations);
            wait_until_same(&trio.a.path(&name), &trio.b.path(&name));
        }
        let name = format!("fsx {first}");
        let before = std::fs::read(trio.a.path(&name)).expect("read");
        trio.a.unmount();
        trio.a.mount(&Start::again().arg("-o").arg("direct_io"));
        assert!(std::fs::read(trio.a.path(&name)).expect("read") == before);
        let seed = first.wrapping_add(2);
        println!("fsx seed {seed}, past the page cache");
        fsx::run(&trio.a.path("past"), s.folder(), seed, operations);
        wait_until_same(&trio.a.path("past"), &trio.b.path("past"));
    });
}

#[test]
fn fio_reads_what_it_wrote_here_elsewhere_and_after_a_remount() {
    scenario("fio", 4 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        let seed = seed();
        println!("fio seed {seed}");
        let workload = fio::Workload::new(s.folder(), seed, if is_quick() { 2 } else { 8 });
        workload.write(trio.a.mountpoint());
        for file in fio::FILES {
            wait_until_same(&trio.a.path(file), &trio.b.path(file));
        }
        workload.verify(trio.b.mountpoint());
        trio.a.unmount();
        trio.a.restart();
        workload.verify(trio.a.mountpoint());
    });
}
