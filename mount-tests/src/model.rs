//! The reference model: a naive tree in memory, random operations, and a run that applies each to
//! the tree and to a filesystem and then compares everything.
//!
//! The filesystem is an [`Executor`]: the `fs` room of this process (`tests/it/fs_model`), or a
//! mount by real system calls ([`Mount`]); ending it in order, by SIGKILL and by a power cut are
//! operations like others. What a crash must leave is said in docs/semantics.md, and
//! [`Node::unwritten`](tree::Node::unwritten) and [`recovered`] are the same in code.
//!
//! Operations come from a seed; they name their targets by indices into what exists, so that a
//! failure can be cut down to the few operations that it takes ([`run_seed`]).

pub mod acl;
pub mod content;
pub mod executor;
pub mod look;
pub mod mount;
pub mod op;
pub mod run;
pub mod shrink;
mod steps;
pub mod tree;

pub use executor::{Executor, Outcome};
pub use look::{After, look};
pub use mount::Mount;
pub use op::{Ends, Op, random_ops};
pub use run::{Run, recovered};
pub use shrink::{Failure, run_seed};
pub use tree::Tree;

/// Applies operations to an executor over an empty filesystem, comparing after each, and returns
/// the executor after a last remount.
///
/// # Errors
///
/// The operations up to the first that failed.
pub fn run_all<E: Executor>(run: Result<Run<E>, String>, ops: &[Op]) -> Result<E, Failure> {
    run_counted(run, ops, &mut 0)
}

/// Does as [`run_all`], and counts the operations that failed for want of room.
///
/// # Errors
///
/// The operations up to the first that failed in another way.
pub fn run_counted<E: Executor>(
    run: Result<Run<E>, String>,
    ops: &[Op],
    count: &mut usize,
) -> Result<E, Failure> {
    let failed = |upto: usize, what: String| Failure {
        ops: ops.get(..upto).unwrap_or(ops).to_vec(),
        what,
    };
    let mut run = run.map_err(|what| failed(0, what))?;
    for (index, op) in ops.iter().enumerate() {
        run.step(op).map_err(|what| failed(index + 1, what))?;
    }
    run.step(&Op::Remount)
        .map_err(|what| failed(ops.len(), format!("after a last remount: {what}")))?;
    *count += run.failed();
    Ok(run.into_executor())
}
