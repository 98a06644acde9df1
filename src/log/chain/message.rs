//! What voters say to each other, and the letters in which it travels.

use serde::{Deserialize, Serialize};

use super::record::Record;
use super::vote::{Ballot, Certificate};
use crate::base::{DeviceId, VolumeId, variants};
use crate::crypto::{Identity, PublicIdentity, Signature};
use crate::log::LogError;
use crate::store::codec;
use crate::wire::{LockWord, RecordRef};

/// What a voter says to another. Any of them may be lost, doubled and overtaken by others.
///
/// `after` is the tip of who speaks: what it says is of the register right behind that record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// Asks for the promise to answer no smaller ballot.
    Prepare {
        /// The register.
        after: RecordRef,
        /// The ballot of who asks.
        ballot: Ballot,
    },
    /// Promises.
    Promise {
        /// The register.
        after: RecordRef,
        /// The ballot that was asked for.
        ballot: Ballot,
        /// What was accepted in this register before, at the greatest ballot.
        accepted: Option<(Ballot, Record)>,
    },
    /// Asks to accept a record; the register is the one that the record continues.
    Accept {
        /// The leader's ballot.
        ballot: Ballot,
        /// The record.
        record: Record,
    },
    /// Votes for a record.
    Accepted {
        /// The register.
        after: RecordRef,
        /// The ballot at which it was accepted.
        ballot: Ballot,
        /// The record.
        hash: [u8; 32],
        /// Over [`super::Vote`].
        signature: Signature,
    },
    /// Tells a decided record with its proof.
    Decided {
        /// The record.
        record: Record,
        /// The proof.
        certificate: Certificate,
    },
    /// A greater ballot was promised.
    Refused {
        /// Which one.
        promised: Ballot,
    },
    /// Who speaks lacks the records behind this one.
    Behind {
        /// Its tip.
        have: RecordRef,
    },
    /// Who speaks was restored and asks what was promised and accepted.
    Recall {
        /// The register.
        after: RecordRef,
        /// Tells answers to this start from those to another.
        nonce: u64,
    },
    /// Answers [`Message::Recall`].
    Recalled {
        /// The register.
        after: RecordRef,
        /// As asked.
        nonce: u64,
        /// The greatest ballot that was promised.
        promised: Ballot,
        /// What was accepted in the register.
        accepted: Option<(Ballot, Record)>,
    },
    /// The leader is there.
    Beat {
        /// Its register.
        after: RecordRef,
        /// Its ballot.
        ballot: Ballot,
    },
    /// The leader of this ballot was heard.
    Heard {
        /// Its ballot.
        ballot: Ballot,
    },
    /// Asks whether a campaign would be welcome; changes nothing.
    Ask {
        /// The register.
        after: RecordRef,
        /// Tells the answers to this question from those to another.
        round: u64,
    },
    /// It would: no leader was heard of late.
    Would {
        /// The register.
        after: RecordRef,
        /// As asked.
        round: u64,
    },
    /// Something about the locks of programs, which whoever leads those who decide grants.
    Lock(LockWord),
}

/// A message as it travels: signed by who says it, because any member may pass it on.
///
/// An old letter that comes again does no harm that a doubled message does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Who says it.
    pub from: DeviceId,
    /// To whom.
    pub to: DeviceId,
    /// What.
    pub message: Message,
    signature: Signature,
}

impl Letter {
    /// Largest form of [`Letter::to_bytes`]: a record, its certificate, and some hundred bytes.
    pub const MAX_BYTES: usize = Record::MAX_BYTES + 1024;

    const VERSION: u8 = 1;
    const DOMAIN: &str = "dfs agreement letter 1";

    /// Returns the letter in which `identity` says `message` to `to`.
    pub fn sign(identity: &Identity, volume: VolumeId, to: DeviceId, message: Message) -> Self {
        let from = identity.device();
        let bytes = Self::signed_bytes(volume, from, to, &message);
        Self {
            from,
            to,
            message,
            signature: identity.sign(Self::DOMAIN, &bytes),
        }
    }

    /// Says whether `sender`, which must be the device that the letter names, wrote this.
    pub fn is_from(&self, sender: &PublicIdentity, volume: VolumeId) -> bool {
        let bytes = Self::signed_bytes(volume, self.from, self.to, &self.message);
        sender.device() == self.from && sender.verify(Self::DOMAIN, &bytes, &self.signature).is_ok()
    }

    /// Returns the form that travels: version byte, then the fields through the codec.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        codec::encode_into(self, &mut bytes);
        bytes
    }

    /// Returns the letter of its form; nothing is verified.
    ///
    /// # Errors
    ///
    /// [`LogError::MalformedRecord`] for what is no letter; [`LogError::RecordTooNew`] for a greater version,
    /// and [`LogError::UnknownMessage`] where only a newer program knows what is said.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LogError> {
        let malformed = LogError::MalformedRecord { what: "a letter" };
        match bytes.split_first() {
            Some((&found, _)) if found > Self::VERSION => Err(LogError::RecordTooNew {
                found,
                known: Self::VERSION,
            }),
            Some((&Self::VERSION, rest)) => {
                codec::decode(rest, Self::MAX_BYTES - 1).map_err(|_| {
                    let unknown = unknown_kind(rest);
                    unknown.map_or(malformed, |kind| LogError::UnknownMessage { kind })
                })
            }
            _ => Err(malformed),
        }
    }

    fn signed_bytes(volume: VolumeId, from: DeviceId, to: DeviceId, message: &Message) -> Vec<u8> {
        let mut bytes = volume.0.to_vec();
        codec::encode_into(&(from, to, message), &mut bytes);
        bytes
    }
}

/// The number of [`Message::Lock`].
const LOCK: u32 = 13;

/// Returns the number of what a letter says, where that is beyond what is known here.
fn unknown_kind(letter: &[u8]) -> Option<u32> {
    let mut rest = letter;
    let (_, _, kind): (DeviceId, DeviceId, u32) = codec::take(&mut rest)?;
    if kind == LOCK {
        let word: u32 = codec::take(&mut rest)?;
        return (word >= variants::count::<LockWord>()).then_some(kind);
    }
    (kind >= variants::count::<Message>()).then_some(kind)
}
