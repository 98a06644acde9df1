//! dbench: what a file server's clients do, several at once.

use std::path::Path;
use std::time::Duration;

use mount_tests::suites::{Ext4, wait_until_both_agree};
use mount_tests::{Command, Trio, scenario};

use crate::MINUTES;

/// Runs so many clients for so many seconds, on ext4 and on dfs.
///
/// # Panics
///
/// Where a client meets an error, or the other mount does not come to the same tree.
pub(crate) fn run(seconds: u64, clients: u64) {
    scenario("dbench", 30 * MINUTES, |s| {
        let ext4 = Ext4::new(s, "4G");
        let trio = Trio::start(s);
        println!("ext4: {}", measure(ext4.path(), seconds, clients));
        println!("dfs:  {}", measure(trio.a.mountpoint(), seconds, clients));
        wait_until_both_agree(&trio);
    });
}

fn measure(on: &Path, seconds: u64, clients: u64) -> String {
    let done = Command::new("dbench")
        .arg("-D")
        .arg(on)
        .args(["-t", &seconds.to_string()])
        .args(["-c", LOAD])
        .arg(clients.to_string())
        .limit(Duration::from_secs(seconds) + 10 * MINUTES)
        .run();
    let said = done.stdout_text();
    let throughput = said.lines().find(|line| line.starts_with("Throughput"));
    // dbench tells of a call that failed, and of clients that did not start, on its output alone.
    let failed = said.lines().any(|line| {
        let line = line.to_lowercase();
        line.contains("error") || line.contains("fail")
    });
    assert!(done.status.success() && !failed, "{done}");
    throughput
        .unwrap_or_else(|| panic!("no throughput: {done}"))
        .to_owned()
}

/// The recorded load that comes with Debian's package.
const LOAD: &str = "/usr/share/dbench/client.txt";
