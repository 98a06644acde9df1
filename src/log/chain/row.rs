//! The one row in which a voter keeps what it must not forget.

use serde::{Deserialize, Serialize};

use super::record::{Record, VOTERS_MAX, Voter};
use super::vote::Ballot;
use crate::base::DeviceId;
use crate::log::LogError;
use crate::store::codec;
use crate::wire::{RecordRef, bounded};

/// What the agreement needs of the newest decided record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tip {
    /// The record.
    pub at: RecordRef,
    /// The base line that it states.
    pub base_line: u64,
    /// Who decides the next one.
    #[serde(deserialize_with = "bounded::list::<_, _, VOTERS_MAX>")]
    pub voters: Vec<Voter>,
}

impl Tip {
    /// Returns the tip that a record is once it is decided.
    pub fn of(record: &Record) -> Self {
        Self {
            at: record.reference(),
            base_line: record.base_line,
            voters: record.voters.clone(),
        }
    }

    /// Says whether a device has a vote on the next record.
    pub fn has_voter(&self, device: DeviceId) -> bool {
        self.voters.iter().any(|voter| voter.device == device)
    }

    /// Returns how many voters decide.
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }
}

/// The row of a device, voter or not. It is durable before what follows from it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Row {
    /// The voter that keeps its promises here.
    pub own: Voter,
    /// The newest record that is known to be decided.
    pub tip: Tip,
    /// No ballot below this one is answered with yes. It outlives the register: ballots only grow.
    pub promised: Ballot,
    /// What was accepted in the register behind `tip`, and the greatest ballot at which.
    pub accepted: Option<(Ballot, Record)>,
    /// The row may be older than what this voter has promised and signed: its folder was put back
    /// from a copy, or moved. It has no vote until the others have said what they know.
    pub is_unsure: bool,
}

impl Row {
    /// Largest form of [`Row::to_bytes`]: a record and some hundred bytes.
    pub const MAX_BYTES: usize = Record::MAX_BYTES + 1024;

    const VERSION: u8 = 1;

    /// Returns the first row of a device, which stands at a decided record and has promised
    /// nothing. `own.incarnation` must never have been used before by this device.
    pub fn new(own: Voter, tip: Tip) -> Self {
        Self {
            own,
            tip,
            promised: Ballot::default(),
            accepted: None,
            is_unsure: false,
        }
    }

    /// Returns the stored form: version byte, then the fields through the codec.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        codec::encode_into(self, &mut bytes);
        bytes
    }

    /// Returns the row of its stored form.
    ///
    /// # Errors
    ///
    /// [`LogError::MalformedRecord`] for what is no row, [`LogError::RecordTooNew`] for a greater version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LogError> {
        let malformed = LogError::MalformedRecord {
            what: "the row of the voter",
        };
        match bytes.split_first() {
            Some((&found, _)) if found > Self::VERSION => Err(LogError::RecordTooNew {
                found,
                known: Self::VERSION,
            }),
            Some((&Self::VERSION, rest)) => {
                codec::decode(rest, Self::MAX_BYTES - 1).map_err(|_| malformed)
            }
            _ => Err(malformed),
        }
    }
}
