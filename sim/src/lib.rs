//! Whole peers in one thread under one seed: the network, the clocks and the disks are simulated,
//! everything between them is what a daemon runs.

pub mod cluster;
pub mod tree;

mod books;
mod check;
mod level;
mod machines;
mod programs;
mod scenes;
mod trace;
mod weather;
mod world;

use std::future::Future;

pub use cluster::Cluster;
pub use world::{Plan, Report, run};

/// Runs `body` on a paused runtime of one thread.
///
/// # Panics
///
/// Where the runtime cannot be made.
pub fn simulate<F: Future>(seed: u64, body: impl FnOnce(u64) -> F) -> F::Output {
    check::note_panics();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(body(seed))
}
