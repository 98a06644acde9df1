//! The commit chain: numbered records that name segments, and the agreement of the voters on them.
//!
//! Owns: the bytes and the form of a [`Record`], its [`Certificate`], and [`Agreement`], which makes
//! the voters decide one record after the other. It is sans-IO: rows, messages, time and chance go in
//! and out as values; it knows neither which segments are worth naming nor where the chain is kept.
//! That is [`Chain`]'s. Neither knows who carries the messages.
//!
//! The register of record `n + 1` is one single-decree Paxos, decided by a majority of the voters
//! that record `n` names (`core.rs`); who campaigns when is in `liveness.rs`. docs/format.md
//! describes the bytes.

mod core;
mod drive;
mod ends;
mod fence;
mod fork;
mod keep;
mod liveness;
mod marks;
mod message;
mod naming;
mod record;
mod row;
mod stored;
mod vote;

pub use self::core::Output;
pub use drive::{Outcome, Proposal};
pub use fence::{Ending, Fence, Pasts, Roll};
pub use fork::Footing;
pub use keep::{Chain, Wants};
pub use liveness::{Agreement, BEAT};
pub use message::{Letter, Message};
pub use record::{
    ENDED_MAX, Record, RecordBody, SEGMENTS_MAX, STATEMENTS_MAX, SegmentName, VOTERS_MAX, Voter,
};
pub use row::{Row, Tip};
pub use stored::Founding;
pub use vote::{Ballot, Certificate, Notary, VOTE_DOMAIN, Vote};

#[cfg(test)]
mod tests;
