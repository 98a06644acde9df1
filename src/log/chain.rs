//! The commit chain: numbered records that name segments, and the agreement of the voters on them.
//!
//! Owns: the bytes and the form of a [`Record`], and its [`Certificate`]. Must never know: which
//! segments are worth naming, where the chain is kept. docs/format.md describes the bytes.

mod record;
mod row;
mod vote;

pub use record::{
    ENDED_MAX, Record, RecordBody, RecordHash, RecordRef, SEGMENTS_MAX, STATEMENTS_MAX,
    SegmentName, VOTERS_MAX, Voter,
};
pub use row::{Row, Tip};
pub use vote::{Ballot, Certificate, Notary, VOTE_DOMAIN, Vote};

#[cfg(test)]
mod tests;
