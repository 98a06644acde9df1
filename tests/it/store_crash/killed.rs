//! A real process that writes until it is killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use dfs::crypto::chunk_id;
use dfs::store::{StateDir, Store};

use super::rows::{commit, key, prefix_len};

const FOLDER_VARIABLE: &str = "DFS_TEST_STORE_TO_KILL";

/// The chunk that goes before batch `n`.
fn chunk(n: u64) -> Vec<u8> {
    let mut bytes = vec![n as u8; 20_000];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    bytes
}

/// Runs in the process to be killed: says each number whose chunk and rows are committed.
#[test]
fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else {
        return;
    };
    let folder = Path::new(&folder);
    let _held = StateDir::open_or_create(folder).unwrap();
    let store = Store::open(folder, key()).unwrap();
    let mut out = std::io::stdout().lock();
    for n in 0.. {
        let bytes = chunk(n);
        store.chunks.put(chunk_id(&bytes), &bytes).unwrap();
        commit(&store, n).unwrap();
        if writeln!(out, "committed {n}")
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_committed() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("state");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store_crash::killed::writes_until_it_is_killed"])
        .args(["--nocapture", "--test-threads=1"])
        .env(FOLDER_VARIABLE, &folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut committed = 0;
    for line in lines.map_while(Result::ok) {
        if let Some((_, number)) = line.split_once("committed ") {
            committed = number.parse::<u64>().unwrap() + 1;
            if committed == 300 {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert!(committed >= 300);

    let _held = StateDir::open_or_create(&folder).unwrap();
    let store = Store::open(&folder, key()).unwrap();
    let survived = prefix_len(&store, "after the kill");
    assert!(survived >= committed, "{survived} of {committed}");
    for n in 0..survived {
        let bytes = chunk(n);
        let got = store.chunks.get(chunk_id(&bytes)).unwrap();
        assert_eq!(got.unwrap(), bytes, "chunk {n}");
    }
}
