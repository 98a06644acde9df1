//! How long a volume takes to be back after kill -9.

use std::fs;
use std::path::Path;

use mount_tests::{Peer, Start, elapsed_since, now, scenario};

use crate::MINUTES;

/// Files of one folder.
const FOLDER_FILES: u64 = 1_000;

/// Fills a volume with small files, kills its daemon while it writes and once more when it is idle,
/// and says how long the mount takes to be back each time, beside a mount after an orderly end.
///
/// # Panics
///
/// Where a file that was closed is not there afterwards with its content.
pub(crate) fn run(files: u64) {
    scenario("recovery", 60 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        let began = now();
        for number in 0..files {
            write(peer.mountpoint(), number);
        }
        println!("{files} files written in {:.1?}", elapsed_since(began));
        report("killed while busy", &mut peer, files, Peer::kill);
        report("killed once more", &mut peer, files, Peer::kill);
        report("ended in order", &mut peer, files, Peer::terminate);
    });
}

fn write(root: &Path, number: u64) {
    let folder = root.join(format!("folder {}", number / FOLDER_FILES));
    if number.is_multiple_of(FOLDER_FILES) {
        fs::create_dir(&folder).expect("a folder can be made");
    }
    fs::write(folder.join(number.to_string()), content(number)).expect("a file can be written");
}

fn content(number: u64) -> String {
    format!("the content of file {number}\n").repeat(40)
}

fn report(how: &str, peer: &mut Peer, files: u64, end: impl FnOnce(&mut Peer)) {
    end(peer);
    let began = now();
    peer.restart();
    let mounted = elapsed_since(began);
    let busy = cpu_seconds(peer.pid());
    let names = fs::read_dir(peer.mountpoint()).expect("listed").count();
    let listed = elapsed_since(began);
    // Every 97th: all of them would measure reading.
    for number in (0..files).step_by(97) {
        let folder = format!("folder {}", number / FOLDER_FILES);
        let path = peer.path(folder).join(number.to_string());
        let read = fs::read_to_string(&path).expect("what was closed is there");
        assert_eq!(read, content(number), "{}", path.display());
    }
    let status = peer.facts(&["status"]);
    assert_eq!(status["warnings"], serde_json::json!([]));
    println!(
        "{how}: mounted after {:.2} s ({busy:.2} s of CPU), {names} folders listed after {:.2} s, \
         {} inodes, no warnings",
        mounted.as_secs_f64(),
        listed.as_secs_f64(),
        status["inodes"],
    );
}

/// Returns how long a process kept a CPU busy until now: what the clock shows depends on what else
/// the machine does.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u32 = ticks
        .map(|ticks| ticks.parse::<u32>().expect("a number"))
        .sum();
    f64::from(ticks) / f64::from(TICKS_PER_SECOND)
}

/// What Linux counts in `/proc`, on every machine.
const TICKS_PER_SECOND: u32 = 100;
