//! Small signed mutable records: the newest word of one peer on one matter.

use bytes::Bytes;

use super::Key;
use crate::base::PeerId;
use crate::crypto::{CryptoError, Identity, PublicIdentity, Signature};

/// What a record is about; each peer has at most one record of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// Where the peer is and what it gives.
    Node,
    /// The head of the peer's log.
    LogHead,
    /// The newest checkpoint that the peer signed.
    Checkpoint,
}

impl RecordKind {
    fn tag(self) -> u8 {
        match self {
            Self::Node => 1,
            Self::LogHead => 2,
            Self::Checkpoint => 3,
        }
    }

    fn from_tag(tag: u8) -> Option<Self> {
        [Self::Node, Self::LogHead, Self::Checkpoint]
            .into_iter()
            .find(|kind| kind.tag() == tag)
    }
}

/// A signed value that its author may replace by a newer one, and nobody else.
///
/// Where it lives follows from the author and the kind: [`Record::key_of`]. A record from the
/// network is believed only after [`Record::verify`], which [`super::RecordStore::put`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    author: PeerId,
    kind: RecordKind,
    seq: u64,
    expires_ms: u64,
    value: Bytes,
    signature: Signature,
}

impl Record {
    /// Largest value: a few hundred bytes of addresses or hashes are meant.
    pub const VALUE_MAX_BYTES: usize = 1024;

    /// Largest encoding.
    pub const ENCODED_MAX_BYTES: usize = HEADER_BYTES + Self::VALUE_MAX_BYTES + SIGNATURE_BYTES;

    /// The signing domain of records.
    pub const DOMAIN: &'static str = "dfs kad record 1";

    /// Returns a record signed by `author`. The highest `seq` counts, until `expires_ms` (wall
    /// time, milliseconds since 1970).
    ///
    /// # Errors
    ///
    /// [`RecordError::TooLarge`] for a value over [`Record::VALUE_MAX_BYTES`].
    pub fn sign(
        author: &Identity,
        kind: RecordKind,
        seq: u64,
        expires_ms: u64,
        value: Bytes,
    ) -> Result<Self, RecordError> {
        if value.len() > Self::VALUE_MAX_BYTES {
            return Err(RecordError::TooLarge { len: value.len() });
        }
        let mut record = Self {
            author: author.id(),
            kind,
            seq,
            expires_ms,
            value,
            signature: Signature([0; SIGNATURE_BYTES]),
        };
        record.signature = author.sign(Self::DOMAIN, &record.signed_bytes());
        Ok(record)
    }

    /// Checks that the author, whose identity was checked before, signed this record.
    pub fn verify(&self, author: &PublicIdentity) -> Result<(), RecordError> {
        if author.id() != self.author {
            return Err(RecordError::Unauthentic(CryptoError::Unauthentic));
        }
        author.verify(Self::DOMAIN, &self.signed_bytes(), &self.signature)?;
        Ok(())
    }

    /// Returns the bytes of the record.
    ///
    /// Layout: version u8, kind u8, author \[32\], seq u64 LE, expires_ms u64 LE, length of the value
    /// u16 LE, value, Ed25519 signature \[64\] over all before it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.signed_bytes();
        bytes.extend_from_slice(&self.signature.0);
        bytes
    }

    /// Reads a record from the network; it is not verified yet.
    ///
    /// # Errors
    ///
    /// [`RecordError::Malformed`] for anything that [`Record::encode`] did not write,
    /// [`RecordError::TooNew`] for a newer release's record.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut rest = bytes;
        let [version] = take(&mut rest)?;
        if version != VERSION {
            return Err(RecordError::TooNew { found: version });
        }
        let [kind] = take(&mut rest)?;
        let kind = RecordKind::from_tag(kind).ok_or(RecordError::Malformed { what: "kind" })?;
        let author = PeerId(take(&mut rest)?);
        let seq = u64::from_le_bytes(take(&mut rest)?);
        let expires_ms = u64::from_le_bytes(take(&mut rest)?);
        let len = usize::from(u16::from_le_bytes(take(&mut rest)?));
        if len > Self::VALUE_MAX_BYTES {
            return Err(RecordError::TooLarge { len });
        }
        let (value, mut rest) = rest.split_at_checked(len).ok_or(CUT_SHORT)?;
        let signature = Signature(take(&mut rest)?);
        if !rest.is_empty() {
            return Err(RecordError::Malformed { what: "end" });
        }
        Ok(Self {
            author,
            kind,
            seq,
            expires_ms,
            value: Bytes::copy_from_slice(value),
            signature,
        })
    }

    /// Returns where the record of an author on a matter lives.
    pub fn key_of(author: &PeerId, kind: RecordKind) -> Key {
        let mut hasher = blake3::Hasher::new_derive_key("dfs 2026 kad record key");
        hasher.update(&author.0);
        hasher.update(&[kind.tag()]);
        Key::new(*hasher.finalize().as_bytes())
    }

    /// Returns where this record lives.
    pub fn key(&self) -> Key {
        Self::key_of(&self.author, self.kind)
    }

    /// Returns who signed it.
    pub fn author(&self) -> PeerId {
        self.author
    }

    /// Returns what it is about.
    pub fn kind(&self) -> RecordKind {
        self.kind
    }

    /// Returns its number: of two records at one key the higher counts.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Returns until when it counts, in milliseconds since 1970.
    pub fn expires_ms(&self) -> u64 {
        self.expires_ms
    }

    /// Returns what it says.
    pub fn value(&self) -> &Bytes {
        &self.value
    }

    /// Decides between two records at one key, the same everywhere: the higher number, and for an
    /// author that signed two of one number, the greater bytes.
    pub(super) fn rank(&self) -> (u64, u64, &[u8], Signature) {
        (self.seq, self.expires_ms, &self.value, self.signature)
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.value.len() + SIGNATURE_BYTES);
        bytes.push(VERSION);
        bytes.push(self.kind.tag());
        bytes.extend_from_slice(&self.author.0);
        bytes.extend_from_slice(&self.seq.to_le_bytes());
        bytes.extend_from_slice(&self.expires_ms.to_le_bytes());
        // `sign` and `decode` let no longer value through.
        let len = u16::try_from(self.value.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&self.value);
        bytes
    }
}

/// Takes the next bytes off the front.
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], RecordError> {
    let (front, back) = rest.split_first_chunk::<N>().ok_or(CUT_SHORT)?;
    *rest = back;
    Ok(*front)
}

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 1 + 32 + 8 + 8 + 2;
const SIGNATURE_BYTES: usize = 64;
const CUT_SHORT: RecordError = RecordError::Malformed { what: "length" };

/// Why a record is not made, read or kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Its value is over the limit.
    #[error(
        "record of {len} bytes is over the limit of {} bytes",
        Record::VALUE_MAX_BYTES
    )]
    TooLarge {
        /// Length of the value in bytes.
        len: usize,
    },
    /// The bytes are not a record.
    #[error("malformed record: {what}")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// A newer release wrote it.
    #[error("record of version {found}, this release knows {VERSION}")]
    TooNew {
        /// Its version.
        found: u8,
    },
    /// Its author did not sign this.
    #[error("record is not its author's: {0}")]
    Unauthentic(#[from] CryptoError),
    /// Its time is over.
    #[error("record expired")]
    Expired,
    /// It claims to count for longer than records may.
    #[error("record claims to live too long")]
    TooLasting,
    /// A newer one of the same author and kind is known.
    #[error("record {seq} is older than {known}")]
    Stale {
        /// Its number.
        seq: u64,
        /// The number of the newer one.
        known: u64,
    },
    /// The store is full of records that are closer to this peer.
    #[error("no place for the record")]
    Full,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kad::store::tests::identity;

    fn record() -> Record {
        let value = Bytes::from_static(b"10.0.0.1:4750");
        Record::sign(identity(0), RecordKind::LogHead, 7, 1_000_000, value).unwrap()
    }

    #[test]
    fn a_record_round_trips_and_verifies() {
        let decoded = Record::decode(&record().encode()).unwrap();
        assert_eq!(decoded, record());
        assert_eq!(decoded.verify(&identity(0).public()), Ok(()));
        assert!(decoded.verify(&identity(1).public()).is_err());
        assert_eq!(decoded.author(), identity(0).id());
        assert!(decoded.encode().len() <= Record::ENCODED_MAX_BYTES);
    }

    #[test]
    fn each_author_and_kind_has_a_key_of_its_own() {
        let keys: std::collections::BTreeSet<_> = [0, 1]
            .into_iter()
            .flat_map(|index| {
                [
                    RecordKind::Node,
                    RecordKind::LogHead,
                    RecordKind::Checkpoint,
                ]
                .map(|kind| Record::key_of(&identity(index).id(), kind))
            })
            .collect();
        assert_eq!(keys.len(), 6);
    }

    #[test]
    fn a_value_over_the_limit_is_not_signed() {
        let value = Bytes::from(vec![0; Record::VALUE_MAX_BYTES + 1]);
        let refused = Record::sign(identity(0), RecordKind::Node, 1, 1, value);
        assert_eq!(refused, Err(RecordError::TooLarge { len: 1025 }));
    }

    proptest! {
        #[test]
        fn any_change_of_a_byte_is_noticed(at in 0..record().encode().len(), flip in 1u8..) {
            let mut bytes = record().encode();
            bytes[at] ^= flip;
            let noticed = Record::decode(&bytes)
                .and_then(|record| record.verify(&identity(0).public()))
                .is_err();
            prop_assert!(noticed);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Record::decode(&bytes);
            let mut versioned = vec![VERSION, 1];
            versioned.extend(bytes);
            if let Ok(record) = Record::decode(&versioned) {
                prop_assert_eq!(record.encode(), versioned);
            }
        }

        #[test]
        fn every_cut_is_refused(len in 0..record().encode().len()) {
            prop_assert!(Record::decode(&record().encode()[..len]).is_err());
        }
    }
}
