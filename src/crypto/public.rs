//! What everybody may know of a peer, and what can be done with it: verify and wrap.

use std::fmt;

use ed25519_dalek::VerifyingKey;
use rsa::pkcs8::{DecodePublicKey, EncodePublicKey};
use rsa::traits::PublicKeyParts;
use rsa::{Oaep, Pss, RsaPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{CryptoError, Result, aead};
use crate::base::{DeviceId, PeerId, Rng};

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Signature({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

// Serde knows arrays up to 32 elements only.
impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        let (r, s) = self.0.split_at(32);
        let mut halves = [[0u8; 32]; 2];
        halves[0].copy_from_slice(r);
        halves[1].copy_from_slice(s);
        halves.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        let [r, s] = <[[u8; 32]; 2]>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&r);
        bytes[32..].copy_from_slice(&s);
        Ok(Self(bytes))
    }
}

/// A peer's public keys, and the proof that both belong to one peer.
///
/// Comes from strangers: [`PublicIdentity::check`] must have passed before anything else is
/// believed of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicIdentity {
    /// The RSA public key, as SubjectPublicKeyInfo in DER; its SHA-256 is the [`PeerId`].
    pub spki: Vec<u8>,
    /// The Ed25519 public key.
    pub signing: [u8; 32],
    /// RSA-PSS signature (SHA-256, 32 bytes of salt) by the RSA key over the Ed25519 key.
    pub certificate: Vec<u8>,
}

impl fmt::Debug for PublicIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicIdentity({})", self.id().short())
    }
}

/// Returns the id of the peer that owns an RSA public key in SPKI DER.
pub fn peer_id_of_spki(spki: &[u8]) -> PeerId {
    PeerId(Sha256::digest(spki).into())
}

impl PublicIdentity {
    /// Returns the peer that this is.
    pub fn id(&self) -> PeerId {
        peer_id_of_spki(&self.spki)
    }

    /// Returns the device id of the peer.
    pub fn device(&self) -> DeviceId {
        self.id().into()
    }

    /// Checks that both keys are sound and that the RSA key certifies the Ed25519 key.
    ///
    /// Takes about half a millisecond; fails with [`CryptoError::Malformed`] for what is no key of
    /// an accepted size, [`CryptoError::Unauthentic`] for a certificate that does not hold.
    pub fn check(&self) -> Result<()> {
        let key = self.rsa_key()?;
        let signing = self.signing_key()?;
        if signing.is_weak() {
            return Err(CryptoError::Malformed { what: SIGNING_KEY });
        }
        key.verify(
            Pss::new_with_salt::<Sha256>(CERTIFICATE_SALT_BYTES),
            &certified_digest(&self.signing),
            &self.certificate,
        )
        .map_err(|_| CryptoError::Unauthentic)
    }

    /// Checks this peer's signature over a message of a domain.
    pub fn verify(&self, domain: &'static str, msg: &[u8], signature: &Signature) -> Result<()> {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        self.signing_key()?
            .verify_strict(&in_domain(domain, msg), &signature)
            .map_err(|_| CryptoError::Unauthentic)
    }

    /// Returns `key` (at most [`WRAPPED_KEY_MAX_BYTES`]) so that only this peer can unwrap it.
    ///
    /// Layout: version u8, RSA-OAEP block of a fresh key, AES-256-GCM ciphertext and tag.
    pub fn wrap_key(&self, rng: &Rng, key: &[u8]) -> Result<Vec<u8>> {
        if key.len() > WRAPPED_KEY_MAX_BYTES {
            return Err(CryptoError::Malformed { what: WRAPPED_KEY });
        }
        let rsa_key = self.rsa_key()?;
        let fresh = Zeroizing::new(rng.bytes::<32>());
        let block = rng
            .with(|rng| rsa_key.encrypt(rng, oaep(), fresh.as_slice()))
            .map_err(|_| CryptoError::Rsa { what: "wrapping" })?;
        let mut header = vec![WRAPPED_KEY_VERSION];
        header.extend_from_slice(&block);
        let nonce = aead::ONE_MESSAGE_NONCE;
        Ok(aead::seal(
            &aead::cipher(&fresh),
            &nonce,
            &header,
            &header,
            key,
        ))
    }

    fn signing_key(&self) -> Result<VerifyingKey> {
        VerifyingKey::from_bytes(&self.signing)
            .map_err(|_| CryptoError::Malformed { what: SIGNING_KEY })
    }

    fn rsa_key(&self) -> Result<RsaPublicKey> {
        let malformed = |_| CryptoError::Malformed { what: RSA_KEY };
        if self.spki.len() > SPKI_MAX_BYTES {
            return Err(CryptoError::Malformed { what: RSA_KEY });
        }
        let key = RsaPublicKey::from_public_key_der(&self.spki).map_err(malformed)?;
        // One key must have one id, so its encoding must be the canonical one. Other exponents and
        // larger keys would only serve to make others work.
        let canonical = key.to_public_key_der().map_err(malformed)?;
        if canonical.as_bytes() != self.spki
            || key.n().bits() != RSA_BITS
            || *key.e() != rsa::BigUint::from(RSA_EXPONENT)
        {
            return Err(CryptoError::Malformed { what: RSA_KEY });
        }
        Ok(key)
    }
}

/// Size of every peer's RSA modulus.
pub(super) const RSA_BITS: usize = 2048;

/// Public exponent of every peer's RSA key.
const RSA_EXPONENT: u32 = 65_537;

/// Length of the OAEP block in a wrapped key.
pub(super) const RSA_BLOCK_BYTES: usize = RSA_BITS / 8;

/// Length of the salt in a certificate.
pub(super) const CERTIFICATE_SALT_BYTES: usize = 32;

pub(super) const WRAPPED_KEY: &str = "wrapped key";
pub(super) const WRAPPED_KEY_VERSION: u8 = 1;

/// Longest key that is wrapped: all epochs of a volume (36 bytes each, at most 1024) with room.
pub const WRAPPED_KEY_MAX_BYTES: usize = 64 << 10;

/// An SPKI of RSA-2048 has 294 bytes.
const SPKI_MAX_BYTES: usize = 512;

const RSA_KEY: &str = "RSA public key";
const SIGNING_KEY: &str = "Ed25519 public key";

/// Returns what is signed for `msg`: no message of one domain is one of another.
pub(super) fn in_domain(domain: &str, msg: &[u8]) -> Vec<u8> {
    aead::bind(domain.as_bytes(), msg)
}

/// Returns the digest that a certificate signs.
pub(super) fn certified_digest(signing: &[u8; 32]) -> [u8; 32] {
    Sha256::new_with_prefix(b"dfs/1 Ed25519 signing key\0")
        .chain_update(signing)
        .finalize()
        .into()
}

pub(super) fn oaep() -> Oaep {
    Oaep::new_with_label::<Sha256, _>("dfs/1 wrapped key")
}
