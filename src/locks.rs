//! Locks of programs across machines: flock, fcntl and OFD locks, and who may grant them.
//!
//! Owns: [`Desk`], where the programs of a machine ask; [`Client`], which tells for whom this machine
//! answers by itself and for what it asks; [`Manager`], which grants locks to machines; and [`Voter`],
//! by which there is one manager at a time. All but the desk are sans-IO: time and words go in and out
//! as values. Must never know: names, contents, who carries the words.
//!
//! ```text
//! programs -> Desk (Client) -- Wish --> Manager, on the leader of those who decide records
//!                           <- Answer --
//! ```
//!
//! A **wish** is all that the programs of a machine hold and want of one file. So words may be lost, doubled
//! and overtaken: the newest wish says all. Who is alone with a file is given the **whole** of it, and asks
//! nobody until another machine asks for it; then it says what its programs hold, and the manager decides
//! each lock. What a machine gives up it does with the head of its log; what it is granted it uses when it has
//! folded the heads that came with the grant and the kernel knows.
//!
//! **One at a time.** A manager grants while a majority of those who decide have vouched for it, each for
//! [`TERM`] from when it was asked, and none for another meanwhile. What it grants holds no longer than that:
//! a machine that was not told in time that its **lease** goes on uses nothing of it. A manager that begins
//! grants nothing for a term, in which the machines say what they hold. Two may say that of the same: one that
//! was cut off, and one that was granted it since. So an answer has a number that grows before what one
//! machine had goes to another, and from manager to manager: the **fence** of what is held by it. Clocks may show anything, but have
//! to run alike: a tenth is allowed for.

mod absent;
mod client;
mod desk;
mod held;
mod manager;
mod range;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use absent::Absent;
pub use client::{Client, Effect, Outcome, Reach};
pub use desk::{Answer, Desk, LockSpace};
pub use held::Ask;
pub use manager::{Manager, Standing, Voter};

/// How long who decides vouches for a manager.
pub const TERM: Duration = Duration::from_secs(8);

/// How often a manager asks to be vouched for, and a machine for its lease to go on.
pub const RENEW: Duration = Duration::from_millis(1_500);

/// How often [`Manager::tick`] and [`Client::tick`] are to be called at least.
pub const TICK: Duration = Duration::from_millis(500);

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
