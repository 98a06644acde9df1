//! The fs room against a naive tree in memory: random operations, everything compared after each,
//! remounting as one of the operations.
//!
//! `model.rs` is the naive tree, `mount.rs` a filesystem with all rooms below it on a store in
//! memory, `run.rs` applies an operation to both and compares, `named.rs` has single behaviours and
//! the failures that were found.

mod model;
mod mount;
mod named;
mod ops;
mod run;
mod threads;

use proptest::prelude::*;

use self::ops::op;
use self::run::Run;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_filesystem_is_the_naive_tree(ops in proptest::collection::vec(op(), 1..64)) {
        let mut run = Run::new();
        for (index, op) in ops.iter().enumerate() {
            run.step(index, op);
        }
        run.finish();
    }
}

/// Ten seconds' worth; `PROPTEST_CASES` asks for more. A failure prints the shortest operations
/// that fail, which become a named test.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if asked {
        return config;
    }
    ProptestConfig {
        cases: 64,
        ..config
    }
}
