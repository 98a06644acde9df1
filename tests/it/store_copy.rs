//! A copy of the state folder that is taken file by file while the store is still written to, as
//! `umount && cp -a` does while the daemon is ending: it opens, and has all that was committed under
//! the mount.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dfs::base::Rng;
use dfs::crypto::chunk_id;
use dfs::store::{StateDir, Store, StoreOptions};

use crate::store_crash::rows::{commit, folder, key, prefix_len};

/// Small, so that tables are flushed, log files used again and trees compacted all the time.
fn options() -> StoreOptions {
    StoreOptions {
        table_bytes: 8 << 10,
        chunk_file_max_bytes: 64 << 10,
        ..StoreOptions::default()
    }
}

/// Commits of a daemon that is ending.
const AFTER_MAX: u64 = 200;

fn sealed(n: u64) -> Vec<u8> {
    let rng = Rng::from_seed(n);
    (0..3000).map(|_| rng.below(256) as u8).collect()
}

/// Copies as `cp -a` does: what is in a folder is found out first, then each is read, in any order.
/// A file that is gone by then is told and left out.
fn copy(from: &Path, to: &Path, rng: &Rng) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    let mut paths: Vec<_> = fs::read_dir(from)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    while !paths.is_empty() {
        let path = paths.swap_remove(rng.below(paths.len() as u64) as usize);
        for _ in 0..rng.below(20) {
            std::thread::yield_now();
        }
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target, rng);
        } else {
            let _ = fs::copy(&path, &target);
        }
    }
}

#[test]
fn a_copy_taken_while_the_daemon_ends_has_all_that_was_committed_under_the_mount() {
    let seed = std::env::var("DFS_SEED").map_or(1, |seed| seed.parse().unwrap());
    for seed in seed..seed + 8 {
        let rng = Rng::from_seed(seed);
        let root = folder();
        let state = root.path().join("state");
        let _held = StateDir::open_or_create(&state).unwrap();
        let store = Store::open_with(&state, key(), &options()).unwrap();
        let mounted = Arc::new(AtomicBool::new(true));
        let watched = Arc::clone(&mounted);
        store
            .gate
            .watch(Box::new(move || watched.load(Ordering::SeqCst)));
        let (committed, end) = (AtomicU64::new(0), AtomicBool::new(false));
        let copied = root.path().join("copy");
        let wanted = 60 + rng.below(240);
        let under_the_mount = std::thread::scope(|threads| {
            threads.spawn(|| {
                for n in 0.. {
                    if n % 3 == 0 {
                        let sealed = sealed(n);
                        store.chunks.put(chunk_id(&sealed), &sealed).unwrap();
                        if n % 12 == 9 {
                            let old = self::sealed(n - 9);
                            store.chunks.delete(chunk_id(&old)).unwrap();
                        }
                    }
                    commit(&store, n).unwrap();
                    committed.store(n + 1, Ordering::SeqCst);
                    if n % 7 == 0 {
                        store.sync().unwrap();
                    }
                    // The daemon ends while the copier is at it, or soon after.
                    if end.load(Ordering::SeqCst) || n > wanted + AFTER_MAX {
                        break;
                    }
                }
                store.sync().unwrap();
            });
            while committed.load(Ordering::SeqCst) < wanted {
                std::thread::yield_now();
            }
            let under_the_mount = committed.load(Ordering::SeqCst);
            mounted.store(false, Ordering::SeqCst);
            copy(&state, &copied, &rng);
            end.store(true, Ordering::SeqCst);
            under_the_mount
        });
        drop(store);
        let what = format!("seed {seed}");
        let _copy_held = StateDir::open_or_create(&copied).expect(&what);
        let store = Store::open_with(&copied, key(), &options()).expect(&what);
        let there = prefix_len(&store, &what);
        assert!(
            there >= under_the_mount,
            "{what}: {there} of {under_the_mount}"
        );
        for n in (0..under_the_mount).step_by(3) {
            let sealed = sealed(n);
            let read = store.chunks.get(chunk_id(&sealed)).expect(&what);
            // What was deleted, or is about to be, may be there or not.
            let may_lack = n % 12 == 0;
            assert!(
                read.is_none_or(|read| read == sealed) || may_lack,
                "{what}: chunk {n}"
            );
            let is_there = store.chunks.len(chunk_id(&sealed)).unwrap().is_some();
            assert!(is_there || may_lack, "{what}: chunk {n} is missing");
        }
    }
}
