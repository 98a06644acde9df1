//! What a machine that nobody invited says to be admitted, and what is passed on of it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::bounded;
use super::codec;
use super::limits::NAME_MAX_BYTES;
use super::message::JoinInfo;
use crate::base::{PeerId, VolumeId};
use crate::crypto::{PublicIdentity, Signature};

/// Tells volumes apart without naming them: a hash of the volume's id. Strangers are told this
/// alone, as whoever knows the id itself may ask for the roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMark(pub [u8; 32]);

impl VolumeMark {
    /// Returns the mark of a volume.
    pub fn of(volume: VolumeId) -> Self {
        Self(blake3::derive_key("dfs/1 mark of a volume", &volume.0))
    }
}

/// What a machine says of itself that asks to be admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asking {
    /// The volume.
    pub volume: VolumeMark,
    /// The keys of the machine.
    pub identity: PublicIdentity,
    /// Its name for people.
    #[serde(deserialize_with = "bounded::text::<_, NAME_MAX_BYTES>")]
    pub name: String,
    /// Its wall clock when it began to ask, milliseconds since 1970.
    pub since_ms: u64,
    /// Its wall clock now: the newest counts.
    pub clock_ms: u64,
}

/// An [`Asking`] and the signature of the machine, not yet verified: so whoever passes it on can
/// neither change it nor make it last longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedAsking {
    /// What it says.
    pub asking: Asking,
    /// Ed25519 signature of the machine over [`Asking::signed_bytes`].
    pub signature: Signature,
}

/// An asking as members pass it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedAsking {
    /// What the machine says.
    pub signed: SignedAsking,
    /// Where the member that it asks sees it.
    pub addr: SocketAddr,
}

/// The word of an admin that a machine is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The volume.
    pub volume: VolumeMark,
    /// The machine.
    pub peer: PeerId,
    /// The admin.
    pub admin: PeerId,
    /// The admin's wall clock, milliseconds since 1970.
    pub denied_ms: u64,
    /// Ed25519 signature of the admin over [`Denial::signed_bytes`].
    pub signature: Signature,
}

/// The answer to an asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// Nobody has decided yet: to be asked again.
    Waiting,
    /// The machine is a member: the roster says so and holds its keys, wrapped for it.
    Admitted(JoinInfo),
}

impl Asking {
    /// The signing domain of askings.
    pub const DOMAIN: &'static str = "dfs asking 1";

    /// Returns the bytes that are signed.
    pub fn signed_bytes(&self) -> bytes::Bytes {
        codec::encode(self)
    }
}

impl Denial {
    /// The signing domain of denials.
    pub const DOMAIN: &'static str = "dfs denial 1";

    /// Returns the bytes that are signed.
    pub fn signed_bytes(&self) -> bytes::Bytes {
        codec::encode(&(&self.volume, &self.peer, &self.admin, self.denied_ms))
    }
}
