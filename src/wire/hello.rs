//! The first words of a session, and the ways to be refused.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::bounded;
use super::limits::VECTOR_MAX;
use super::message::Vector;
use super::record::SignedRecord;
use crate::base::VolumeId;

/// What this program knows beyond the first version of the protocol: nothing yet. A request that
/// was added later is sent to peers alone whose hello has its bit.
pub const FEATURES: u64 = 0;

/// What each side of a session says first.
///
/// The identity is not in it: TLS has proved the peer's id, and the roster holds its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The volume.
    pub volume: VolumeId,
    /// A random number of this run of the peer: tells a restart from a second dial.
    pub incarnation: u64,
    /// The peer's wall clock, milliseconds since 1970.
    pub clock_ms: u64,
    /// Digest of the roster statements that the peer knows.
    pub roster_digest: [u8; 32],
    /// The peer's node record.
    pub record: SignedRecord,
    /// The address from which the peer sees the other one: so it learns its own.
    pub observed: SocketAddr,
    /// The segments that the peer has.
    #[serde(deserialize_with = "bounded::map::<_, _, _, VECTOR_MAX>")]
    pub vector: Vector,
    /// What the peer knows beyond the first version, one bit each ([`FEATURES`]). Bits that are not
    /// known mean nothing.
    pub features: u64,
}

/// Why a peer does not do what it was asked; both sides show it to their users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The two are peers of different volumes.
    #[error("it belongs to another volume")]
    WrongVolume,
    /// The asking peer is not on the roster.
    #[error("this peer is not on its roster")]
    NotOnRoster,
    /// The asking peer was on the roster and was removed.
    #[error("this peer was removed from the volume")]
    Removed,
    /// The clocks differ by more than is allowed.
    #[error("the clocks differ by {} s, which is more than is allowed", skew_ms / 1000)]
    ClockSkew {
        /// The difference, milliseconds.
        skew_ms: u64,
    },
    /// The asking peer speaks a newer version of the protocol.
    #[error("it knows the protocol up to version {known} only")]
    TooNew {
        /// The newest version that the refusing peer knows.
        known: u8,
    },
    /// There is a session between the two already.
    #[error("there is a session already")]
    Duplicate,
    /// A request other than a hello or a join came before the hello.
    #[error("a hello comes first")]
    HelloFirst,
    /// The bytes were no request.
    #[error("the request is malformed")]
    Malformed,
    /// The role of the asking peer does not allow this.
    #[error("the role of this peer does not allow it")]
    NotAllowed,
    /// The peer has too much to do, or its store fails; to be tried again later.
    #[error("it is busy")]
    Busy,
    /// Only admins redeem invites, and this peer is none.
    #[error("it is not an admin of the volume")]
    NotAdmin,
    /// The invite was not accepted.
    #[error("{0}")]
    Invite(InviteRefusal),
    /// The admin has no volume keys at hand for a new member.
    #[error("it cannot hand out the volume keys now")]
    NoKeys,
    /// An admin decided not to admit the asking peer.
    #[error("an admin of the volume denied it")]
    Denied,
    /// The peer has asked to be admitted for too long.
    #[error("nobody approved it in time")]
    AskedTooLong,
    /// The recovery phrase was not accepted.
    #[error("{0}")]
    Recovery(RecoveryRefusal),
    /// The refusing peer does not know requests of this kind: it is of an older version.
    #[error("it does not know this request: it runs an older version of dfs")]
    Unknown,
}

/// Why an invite is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum InviteRefusal {
    /// No admin has issued this invite.
    #[error("the invite is not known to the volume")]
    Unknown,
    /// The invite has admitted a peer already.
    #[error("the invite was used already")]
    Used,
    /// The time of the invite is over.
    #[error("the invite has expired")]
    Expired,
    /// An admin has taken the invite back.
    #[error("the invite was revoked")]
    Revoked,
}

/// Why a recovery phrase opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RecoveryRefusal {
    /// No admin has made it.
    #[error("its volume knows no such recovery phrase")]
    Unknown,
    /// A newer one was made, or an admin has ended it.
    #[error("this recovery phrase does not hold any more")]
    Ended,
}
