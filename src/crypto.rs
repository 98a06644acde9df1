//! Identities, sealing, key wrapping and signatures.
//!
//! Owns: [`Identity`] and its public half [`PublicIdentity`] (who a peer is, what it signs, what is
//! wrapped for it), [`LocalKey`] and [`RowSealer`] (what seals the state folder), [`VolumeKeys`]
//! (what seals chunks, segments and names, by epoch). Pure: chance is passed in, nothing here
//! touches a disk or a socket. Must never know: rows, segments' contents, who is a member.
//!
//! | What | How |
//! |---|---|
//! | peer | RSA-2048; `PeerId` = SHA-256 of its SPKI DER |
//! | signatures | Ed25519 under a domain; the RSA key certifies the Ed25519 key once (PSS, SHA-256) |
//! | wrapping | RSA-OAEP (SHA-256) of a fresh key, then AES-256-GCM with it |
//! | rows | AES-256-GCM, counted nonces |
//! | chunks | AES-256-GCM in frames, the key derived from a keyed BLAKE3 of the plaintext: equal chunks seal alike |
//! | recovery phrases | 128 random bits as words; HKDF-SHA256, then AES-256-GCM |
//! | segments | AES-256-GCM, the key derived from a random salt |
//!
//! [`spoken`] is what people read to each other: codes and words.
//!
//! Every RSA operation with the private key is blinded (RUSTSEC-2023-0071), and handshakes are
//! signed by the TLS provider. docs/threats.md says what all this protects against.

mod aead;
mod frames;
mod identity;
mod local;
mod part;
mod phrase;
mod public;
pub mod spoken;
mod volume_keys;

pub use frames::{CHUNK_HEAD_BYTES, FRAME_BYTES, Frames, chunk_head, sealed_range};
pub use identity::Identity;
pub use local::{LocalKey, ROW_OVERHEAD_BYTES, RowSealer};
pub use part::{PART_HASHES_MAX, ProvenPart};
pub use phrase::{PHRASE_WORDS, PhraseError, RecoveryPhrase};
pub use public::{PublicIdentity, Signature, WRAPPED_KEY_MAX_BYTES, peer_id_of_spki};
pub use volume_keys::{EPOCHS_MAX, SEGMENT_OVERHEAD_BYTES, SealedChunk, VolumeKeys, chunk_id};

/// Says why something could not be opened, verified or made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The bytes are not what the holder of the key made: changed, moved, or made by somebody else.
    #[error("does not authenticate: changed, or made with another key")]
    Unauthentic,
    /// The bytes have not the shape of what they should be.
    #[error("malformed {what}")]
    Malformed {
        /// What they should be.
        what: &'static str,
    },
    /// The bytes were made by a newer release.
    #[error("{what} has version {found}, this release knows {known}")]
    TooNew {
        /// What they are.
        what: &'static str,
        /// Their version.
        found: u32,
        /// The newest version that is known here.
        known: u32,
    },
    /// The key of this epoch has not arrived here.
    #[error("no key of epoch {0:#x}")]
    UnknownEpoch(u32),
    /// Two different keys claim to be of one epoch.
    #[error("two different keys of epoch {0:#x}")]
    EpochConflict(u32),
    /// The keys belong to another volume.
    #[error("the keys of another volume")]
    OtherVolume,
    /// The volume has had as many epochs as it can.
    #[error("the volume has had all of its {} epochs", EPOCHS_MAX)]
    EpochsExhausted,
    /// The RSA implementation refused to work with a key.
    #[error("the RSA implementation failed at {what}")]
    Rsa {
        /// What it was asked for.
        what: &'static str,
    },
}

/// The result of this room's functions.
pub type Result<T> = std::result::Result<T, CryptoError>;
