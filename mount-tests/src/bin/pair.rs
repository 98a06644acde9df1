//! Measures two mounts and a storage peer in network namespaces: how soon a close on A is seen on
//! B, and how fast B reads what it has not got.
//!
//!     cargo build --release
//!     DFS_BIN_DIR=target/release cargo run --release -p mount-tests --bin pair
//!
//! Needs root, as the mount tests do. `DFS_BIG_MIB` sets the size of the large file.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::{Trio, elapsed_since, now, scenario, wait_until};

/// Closes measured.
const ROUNDS: usize = 200;

/// How long the whole measurement may take.
const LIMIT: Duration = Duration::from_secs(900);

/// How long B may take to see a change.
const SEEN_MAX: Duration = Duration::from_secs(30);

fn main() {
    scenario("pair", LIMIT, |s| {
        let mut trio = Trio::start(s);
        seen(&trio);
        let mib = std::env::var("DFS_BIG_MIB")
            .ok()
            .and_then(|text| text.parse().ok());
        read_away(&mut trio, mib.unwrap_or(1024));
    });
}

/// From the return of close on A to a read on B that returns the new content.
fn seen(trio: &Trio) {
    let (on_a, on_b) = (trio.a.path("note"), trio.b.path("note"));
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let text = format!("round {round:05}");
        fs::write(&on_a, &text).expect("A writes");
        let closed = now();
        while !fs::read(&on_b).is_ok_and(|read| read == text.as_bytes()) {
            assert!(elapsed_since(closed) < SEEN_MAX, "B never saw {text}");
            std::thread::yield_now();
        }
        times.push(elapsed_since(closed));
        // Changes of a person, not a stream: the next one finds everybody at rest.
        std::thread::park_timeout(Duration::from_millis(40));
    }
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!(
        "close on A to seen on B: p50 {:?}, p99 {:?} of {ROUNDS}",
        at(50),
        at(99)
    );
}

/// B is away while A writes; then it comes back and reads at once, from A and the storage peer.
fn read_away(trio: &mut Trio, mib: u64) {
    trio.b.terminate();
    let mut file = fs::File::create(trio.a.path("big")).expect("A creates");
    for block in 0..mib {
        file.write_all(&pattern(1 << 20, block)).expect("A writes");
    }
    file.sync_all().expect("A syncs");
    drop(file);
    trio.b.restart();
    let on_b = trio.b.path("big");
    wait_until("B sees the file", SEEN_MAX, || {
        fs::metadata(&on_b)
            .is_ok_and(|meta| meta.len() == mib << 20)
            .then_some(())
    });
    let (seconds, peak) = (read_all(&on_b), peak_mib(trio.b.pid()));
    println!(
        "{mib} MiB read cold on B: {:.0} MB/s, its daemon's peak {peak} MiB",
        mib as f64 * 1.048_576 / seconds
    );
}

fn read_all(path: &Path) -> f64 {
    let started = now();
    let mut file = fs::File::open(path).expect("it opens");
    let mut buffer = vec![0u8; 1 << 20];
    while file.read(&mut buffer).expect("it is read") > 0 {}
    elapsed_since(started).as_secs_f64()
}

fn peak_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
