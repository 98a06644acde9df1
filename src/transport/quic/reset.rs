//! What a restarted peer still recognizes: the stateless-reset tokens, made from its identity.
//!
//! A peer that restarts has forgotten its connections. Because it derives the same reset tokens
//! again, the first packet that reaches it on an old connection is answered with a reset, and the
//! other side learns at once what it would otherwise notice after the idle timeout
//! (RFC 9000, section 10.3).

use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};

use crate::base::Rng;
use crate::crypto::Identity;

/// Length of a connection id.
const ID_BYTES: usize = 8;

/// Returns the key of the reset tokens of `identity`.
///
/// It is secret: whoever has it can cut this peer's connections.
pub(super) fn token_key(identity: &Identity) -> TokenKey {
    let secret = identity.rsa_pkcs8_der();
    TokenKey(blake3::derive_key(
        "dfs 2026 QUIC stateless reset tokens",
        &secret,
    ))
}

/// Returns the source of this process's connection ids.
pub(super) fn connection_ids() -> RandomIds {
    RandomIds {
        rng: Rng::from_entropy(),
    }
}

/// Makes the reset token of a connection id.
pub(super) struct TokenKey([u8; 32]);

impl HmacKey for TokenKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(data);
        hasher.finalize_xof().fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Compared in constant time.
        match <[u8; 32]>::try_from(signature) {
            Ok(signature) if blake3::keyed_hash(&self.0, data) == signature => Ok(()),
            _ => Err(CryptoError),
        }
    }
}

/// Makes random connection ids.
///
/// The default of quinn makes ids that it recognizes by a key of the process, and so drops the
/// packets that a restarted peer should answer with a reset.
pub(super) struct RandomIds {
    rng: Rng,
}

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.rng.bytes::<ID_BYTES>())
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
