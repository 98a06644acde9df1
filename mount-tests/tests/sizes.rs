//! What is large, in short: the long runs, with their figures, are in `mount-tests/conformance/sizes`.

use std::time::Duration;

use mount_tests::sizes::{ManyFiles, OpenFiles, Step, make_deep, remove_deep, work_on_sparse};
use mount_tests::{Start, is_quick, scenario, wait_until};

const MINUTES: Duration = Duration::from_secs(60);

#[test]
fn many_files_of_one_folder_are_each_listed_renamed_and_removed() {
    scenario("many", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let count = if is_quick() { 2_000 } else { 20_000 };
        let files = ManyFiles::new(a.path("folder"), count);
        for step in Step::ALL {
            files.take(step);
            files.check_after(step);
        }
        a.unmount();
    });
}

#[test]
fn a_sparse_file_of_a_tebibyte_has_its_data_and_its_holes() {
    scenario("sparse", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        work_on_sparse(a.mountpoint(), 1 << 40);
        a.unmount();
    });
}

#[test]
fn thousands_of_open_files_are_written_and_read() {
    scenario("open", 3 * MINUTES, |s| {
        const FILES: usize = 2_000;
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let handles = || a.facts(&["status"])["open_handles"].as_u64();
        let open = OpenFiles::open(a.path("open"), FILES);
        assert_eq!(handles(), Some(FILES as u64));
        open.write();
        open.check();
        open.close();
        wait_until("no handle is left", MINUTES, || {
            (handles() == Some(0)).then_some(())
        });
        a.unmount();
    });
}

#[test]
fn folders_are_made_found_and_removed_400_deep() {
    scenario("deep", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        make_deep(a.mountpoint(), 400);
        a.unmount();
        a.restart();
        remove_deep(a.mountpoint());
        a.unmount();
    });
}
