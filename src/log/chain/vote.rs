//! Votes: what a voter signs when it accepts a record, and the certificate that a majority makes.

use serde::{Deserialize, Serialize};

use super::record::{Record, VOTERS_MAX, ascends};
use super::row::Tip;
use crate::base::{DeviceId, VolumeId};
use crate::crypto::Signature;
use crate::log::LogError;
use crate::wire::bounded;

/// The signing domain of votes.
pub const VOTE_DOMAIN: &str = "dfs accepted record 1";

/// One attempt to lead: the greater ballot goes before. No two leaders share one, and no leader
/// uses one again after a restart.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Ballot {
    /// Counted up at each attempt above what was seen.
    pub round: u64,
    /// Whose attempt it is.
    pub leader: DeviceId,
}

/// What is signed by who accepts a record. A majority of the voters for one ballot decides it.
///
/// The ballot is part of it: acceptances at different ballots do not add up to a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vote {
    /// The volume.
    pub volume: VolumeId,
    /// The era of the record.
    pub era: u64,
    /// Its number.
    pub number: u64,
    /// The ballot at which it was accepted.
    pub ballot: Ballot,
    /// The record.
    pub hash: [u8; 32],
}

impl Vote {
    /// Length of [`Vote::to_bytes`].
    pub const BYTES: usize = 32 + 8 + 8 + 8 + 8 + 32;

    /// Returns the vote for a record at a ballot.
    pub fn new(volume: VolumeId, record: &Record, ballot: Ballot) -> Self {
        Self {
            volume,
            era: record.era,
            number: record.number,
            ballot,
            hash: record.hash(),
        }
    }

    /// Returns what is signed: the fields in their order, numbers little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend_from_slice(&self.volume.0);
        bytes.extend_from_slice(&self.era.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.ballot.round.to_le_bytes());
        bytes.extend_from_slice(&self.ballot.leader.0.to_le_bytes());
        bytes.extend_from_slice(&self.hash);
        bytes
    }
}

/// What the agreement asks of who drives it: the device's key, the keys of the others, and its
/// judgement of a record.
pub trait Notary {
    /// Signs an own vote, in the domain [`VOTE_DOMAIN`]. One vote has one signature.
    fn sign(&self, vote: &Vote) -> Signature;

    /// Says whether `device` signed this vote.
    fn verify(&self, device: DeviceId, vote: &Vote, signature: &Signature) -> bool;

    /// Says whether a record of another chain is a checkpoint that counts, so that its chain does.
    fn counts(&self, _record: &Record) -> bool {
        false
    }

    /// Says whether a device is, or was, that of an admin, who may begin an era.
    fn may_begin_era(&self, device: DeviceId) -> bool;

    /// Returns where the admin of a device stands among those that there are now, the most senior first;
    /// `None` for who is none.
    fn seniority(&self, device: DeviceId) -> Option<u64>;

    /// Says whether a record takes into account that a device's membership ended.
    fn ends(&self, record: &Record, device: DeviceId) -> bool;

    /// Says whether this device may vote for a record: it holds, durably, every segment that it
    /// names and those are closed under what they build on, its statements are known, and its
    /// base line is right by the pulses that are here. May say no now and yes later.
    fn endorses(&self, record: &Record) -> bool;
}

/// The proof that a record was decided: votes of a majority of the voters that the record before
/// names, at one ballot; or that of the admin who begins an era with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Certificate {
    /// The ballot of all its votes.
    pub ballot: Ballot,
    /// The signatures, ascending by device.
    #[serde(deserialize_with = "bounded::list::<_, _, VOTERS_MAX>")]
    pub votes: Vec<(DeviceId, Signature)>,
}

impl Certificate {
    /// Checks that this proves `record` to be the one right behind `before`.
    ///
    /// # Errors
    ///
    /// [`LogError::Uncertified`] where the record does not follow, a signer is no voter of
    /// `before` or is named twice, a signature does not hold, or they are no majority; where it begins
    /// an era, its only signer is no admin.
    pub fn check(
        &self,
        volume: VolumeId,
        before: &Tip,
        record: &Record,
        notary: &dyn Notary,
    ) -> Result<(), LogError> {
        let devices: Vec<DeviceId> = self.votes.iter().map(|(device, _)| *device).collect();
        let vote = Vote::new(volume, record, self.ballot);
        let is_entitled = if record.begins_era(before) {
            devices.len() == 1 && devices.iter().all(|device| notary.may_begin_era(*device))
        } else {
            record.follows(before)
                && ascends(&devices)
                && devices.iter().all(|device| before.has_voter(*device))
                && devices.len() >= before.majority()
        };
        let holds = is_entitled
            && self
                .votes
                .iter()
                .all(|(device, signature)| notary.verify(*device, &vote, signature));
        if holds {
            Ok(())
        } else {
            Err(LogError::Uncertified {
                era: record.era,
                number: record.number,
            })
        }
    }
}
