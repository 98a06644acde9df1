//! A real process that writes until it is killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use dfs::base::Rng;
use dfs::crypto::chunk_id;
use dfs::store::{StateDir, Store, StoreOptions};

use super::rows::{LogEnd, commit, damage_behind, key, prefix_len, written};

const FOLDER_VARIABLE: &str = "DFS_TEST_STORE_TO_KILL";

/// Small, so that the row database flushes and compacts while it is killed, and chunk files follow
/// one another.
fn options() -> StoreOptions {
    StoreOptions {
        table_bytes: 32 << 10,
        chunk_file_max_bytes: 1 << 20,
        ..StoreOptions::default()
    }
}

/// The chunk that goes before batch `n`.
fn chunk(n: u64) -> Vec<u8> {
    let mut bytes = vec![n as u8; 20_000];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    bytes
}

/// Runs in the process to be killed: says what is committed, and what is synced.
#[test]
fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else {
        return;
    };
    let folder = Path::new(&folder);
    let _held = StateDir::open_or_create(folder).unwrap();
    let store = Store::open_with(folder, key(), &options()).unwrap();
    let mut out = std::io::stdout().lock();
    let mut say = |line: String| writeln!(out, "{line}").and_then(|()| out.flush()).is_ok();
    for n in prefix_len(&store, "in the process").. {
        let bytes = chunk(n);
        store.chunks.put(chunk_id(&bytes), &bytes).unwrap();
        commit(&store, n).unwrap();
        if !say(format!("committed {}", n + 1)) {
            return;
        }
        if n % 97 == 96 {
            say("syncing".to_owned());
            store.sync().unwrap();
            let LogEnd { number, offset } = written(folder);
            say(format!("synced {} {number} {offset}", n + 1));
        }
    }
}

/// Lets the process write `count` batches more, kills it, and returns how many it said were
/// committed and synced, and where the log ended when they were.
fn write_and_kill(folder: &Path, count: u64) -> (u64, u64, LogEnd) {
    // A process that another test is about to become may hold the lock of the folder for a moment.
    let mut written = (0..100).map(|_| write_once_and_kill(folder, count));
    written.find(|(committed, ..)| *committed > 0).unwrap()
}

fn write_once_and_kill(folder: &Path, count: u64) -> (u64, u64, LogEnd) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store_crash::killed::writes_until_it_is_killed"])
        .args(["--nocapture", "--test-threads=1"])
        .env(FOLDER_VARIABLE, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut first, mut committed, mut synced, mut end) = (None, 0, 0, LogEnd::default());
    for line in lines.map_while(Result::ok) {
        if let Some((_, number)) = line.split_once("committed ") {
            committed = number.parse().unwrap();
            if committed >= *first.get_or_insert(committed) + count {
                child.kill().unwrap();
            }
        } else if let Some(numbers) = line.strip_prefix("synced ") {
            let numbers: Vec<u64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
            synced = numbers[0];
            end = LogEnd {
                number: numbers[1],
                offset: numbers[2],
            };
        } else if line == "syncing" {
            // Where it is killed before it says more all of the log may be on the disk.
            end = LogEnd::ALL;
        }
    }
    child.wait().unwrap();
    (committed, synced, end)
}

#[test]
fn a_killed_process_loses_nothing_that_it_committed() {
    let root = super::rows::folder();
    let folder = root.path().join("state");
    for round in 1..=4 {
        let (committed, _, _) = write_and_kill(&folder, 150);
        assert!(committed >= 150 * round);
        let _held = StateDir::open_or_create(&folder).unwrap();
        let store = Store::open_with(&folder, key(), &options()).unwrap();
        let survived = prefix_len(&store, "after the kill");
        assert!(survived >= committed, "{survived} of {committed}");
        for n in 0..survived {
            let bytes = chunk(n);
            let got = store.chunks.get(chunk_id(&bytes)).unwrap();
            assert_eq!(got.unwrap(), bytes, "chunk {n}");
        }
    }
}

#[test]
fn a_power_cut_between_flushes_and_compactions_keeps_what_was_synced() {
    let rng = Rng::from_seed(11);
    let root = super::rows::folder();
    let folder = root.path().join("state");
    for round in 1..=4 {
        let (_, synced, end) = write_and_kill(&folder, 150 + rng.below(100));
        assert!(synced > 0, "round {round}");
        damage_behind(&folder, end, &rng);
        let _held = StateDir::open_or_create(&folder).unwrap();
        let store = Store::open_with(&folder, key(), &options()).unwrap();
        let survived = prefix_len(&store, &format!("seed 11, round {round}"));
        assert!(survived >= synced, "seed 11: {survived} of {synced}");
        for n in 0..synced {
            let bytes = chunk(n);
            let got = store.chunks.get(chunk_id(&bytes)).unwrap();
            assert_eq!(got.unwrap(), bytes, "chunk {n}");
        }
    }
}
