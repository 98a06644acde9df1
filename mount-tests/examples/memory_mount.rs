//! Mounts a volume of this process, in memory or on a folder, until somebody unmounts it: to measure
//! and to profile what a single peer does.
//!
//! `memory_mount MOUNTPOINT [STORE-FOLDER]`; prints `mounted` when it serves.

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod support;

use std::path::PathBuf;

use dfs::base::Rng;
use dfs::crypto::Identity;
use dfs::fuse::MountOptions;
use dfs::store::Store;
use dfs::store::state::StateDir;

fn main() {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let mountpoint = args
        .next()
        .expect("usage: memory_mount MOUNTPOINT [STORE-FOLDER]");
    let store = match args.next() {
        Some(folder) => {
            let _state = StateDir::open_or_create(&folder).expect("a state folder");
            let key = Identity::generate(&Rng::from_entropy())
                .expect("an identity")
                .local_key();
            Store::open(&folder, &key).expect("a store")
        }
        None => Store::memory(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let fs = support::new_fs(store);
    let mounted = support::mount(&fs, MountOptions::new(&mountpoint), &runtime);
    println!("mounted");
    let outcome = runtime.block_on(async {
        let ticks = dfs::base::task::spawn({
            let (fs, invalidator) = (fs.clone(), mounted.invalidator());
            async move {
                loop {
                    dfs::base::time::sleep(std::time::Duration::from_millis(250)).await;
                    for invalidation in fs.tick() {
                        invalidator.push(invalidation);
                    }
                }
            }
        });
        let outcome = mounted.ended().await;
        ticks.abort();
        outcome
    });
    println!("{outcome:?} {:?}", fs.counts());
    fs.sync_all().expect("synced");
}
