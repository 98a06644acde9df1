//! A peer's long-term secrets.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey};
use hkdf::Hkdf;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey};
use rsa::{Pss, RsaPrivateKey};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::public::{
    CERTIFICATE_SALT_BYTES, RSA_BITS, RSA_BLOCK_BYTES, WRAPPED_KEY, WRAPPED_KEY_VERSION,
    certified_digest, in_domain, oaep,
};
use super::{CryptoError, LocalKey, PublicIdentity, Result, Signature, aead};
use crate::base::{DeviceId, PeerId, Rng};

/// A peer's secrets: an RSA-2048 key that names it, and the Ed25519 key that signs for it.
///
/// The RSA key authenticates handshakes, unwraps keys and certifies the Ed25519 key; segments,
/// statements and records are signed with the latter, a hundred times faster. Both are wiped from
/// memory when this is dropped.
pub struct Identity {
    rsa: RsaPrivateKey,
    signing: SigningKey,
    public: PublicIdentity,
    id: PeerId,
    /// Blinds operations with the RSA key. It never shows in a result, so it need not be passed in.
    blinding: Rng,
}

impl Identity {
    /// Returns a new identity; equal generators give equal identities.
    ///
    /// Takes some tenths of a second.
    pub fn generate(rng: &Rng) -> Result<Self> {
        let failed = |_| CryptoError::Rsa {
            what: "making a key",
        };
        let rsa = rng
            .with(|rng| RsaPrivateKey::new(rng, RSA_BITS))
            .map_err(failed)?;
        let seed = Zeroizing::new(rng.bytes::<32>());
        let signing = SigningKey::from_bytes(&seed);
        let verifying = signing.verifying_key().to_bytes();
        let pss = Pss::new_blinded_with_salt::<Sha256>(CERTIFICATE_SALT_BYTES);
        let certificate = rng
            .with(|rng| rsa.sign_with_rng(rng, pss, &certified_digest(&verifying)))
            .map_err(failed)?;
        Self::assemble(rsa, signing, certificate)
    }

    /// Returns the bytes of the identity file: all secrets, in clear.
    ///
    /// Layout: magic, version u16 LE, three parts with a length u32 LE before each (RSA key in
    /// PKCS#8 DER, Ed25519 secret, certificate), BLAKE3 of all before it.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let rsa = self.rsa_pkcs8_der();
        let parts: [&[u8]; 3] = [&rsa, self.signing.as_bytes(), &self.public.certificate];
        let length = FILE_MAGIC.len() + 2 + parts.iter().map(|part| 4 + part.len()).sum::<usize>();
        // Reserved at once: growth would leave copies of the secrets behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(length + CHECKSUM_BYTES));
        bytes.extend_from_slice(FILE_MAGIC);
        bytes.extend_from_slice(&FILE_VERSION.to_le_bytes());
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }

    /// Returns the identity of [`Identity::to_bytes`].
    ///
    /// Fails with [`CryptoError::Malformed`] for anything cut or changed, [`CryptoError::TooNew`]
    /// for a later version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        const MALFORMED: CryptoError = CryptoError::Malformed {
            what: "identity file",
        };
        let rest = bytes.strip_prefix(FILE_MAGIC).ok_or(MALFORMED)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(MALFORMED)?;
        let version = u16::from_le_bytes(*version);
        if version > FILE_VERSION {
            return Err(CryptoError::TooNew {
                what: "identity file",
                found: version.into(),
                known: FILE_VERSION.into(),
            });
        }
        let (content, checksum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(MALFORMED)?;
        if version != FILE_VERSION || blake3::hash(content) != *checksum {
            return Err(MALFORMED);
        }
        let rest = rest.get(..rest.len() - CHECKSUM_BYTES).ok_or(MALFORMED)?;
        let (rsa, rest) = split_part(rest).ok_or(MALFORMED)?;
        let (seed, rest) = split_part(rest).ok_or(MALFORMED)?;
        let (certificate, rest) = split_part(rest).ok_or(MALFORMED)?;
        if !rest.is_empty() {
            return Err(MALFORMED);
        }
        let rsa = RsaPrivateKey::from_pkcs8_der(rsa).map_err(|_| MALFORMED)?;
        let signing = SigningKey::from_bytes(seed.try_into().map_err(|_| MALFORMED)?);
        Self::assemble(rsa, signing, certificate.to_vec()).map_err(|_| MALFORMED)
    }

    /// Returns the name of this peer.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Returns the id under which this peer authors ops.
    pub fn device(&self) -> DeviceId {
        self.id.into()
    }

    /// Returns what everybody may know of this peer.
    pub fn public(&self) -> PublicIdentity {
        self.public.clone()
    }

    /// Returns this peer's signature over a message of a domain.
    ///
    /// A domain names one kind of message, as in `"dfs/1 segment"`: a signature given for one kind
    /// never passes for another.
    pub fn sign(&self, domain: &'static str, msg: &[u8]) -> Signature {
        Signature(self.signing.sign(&in_domain(domain, msg)).to_bytes())
    }

    /// Returns the RSA key in PKCS#8 DER, for the TLS provider.
    pub fn rsa_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        self.rsa
            .to_pkcs8_der()
            .expect("a key with two primes has a PKCS#8 form")
            .to_bytes()
    }

    /// Returns the key that [`PublicIdentity::wrap_key`] wrapped for this peer.
    ///
    /// Blinded; fails with [`CryptoError::Unauthentic`] alike for every reason but a newer version,
    /// so that an answer tells a stranger nothing. Takes some milliseconds.
    pub fn unwrap_key(&self, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let (&version, _) = wrapped.split_first().ok_or(CryptoError::Unauthentic)?;
        if version > WRAPPED_KEY_VERSION {
            return Err(CryptoError::TooNew {
                what: WRAPPED_KEY,
                found: version.into(),
                known: WRAPPED_KEY_VERSION.into(),
            });
        }
        let (header, body) = wrapped
            .split_at_checked(1 + RSA_BLOCK_BYTES)
            .ok_or(CryptoError::Unauthentic)?;
        let block = header.get(1..).ok_or(CryptoError::Unauthentic)?;
        let key = self
            .blinding
            .with(|rng| self.rsa.decrypt_blinded(rng, oaep(), block))
            .map(Zeroizing::new)
            .map_err(|_| CryptoError::Unauthentic)?;
        let key: &[u8; 32] = key
            .as_slice()
            .try_into()
            .map_err(|_| CryptoError::Unauthentic)?;
        let nonce = aead::ONE_MESSAGE_NONCE;
        aead::open(&aead::cipher(key), &nonce, header, body).map(Zeroizing::new)
    }

    /// Returns the key that seals this machine's state folder; always the same for one identity.
    pub fn local_key(&self) -> LocalKey {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(b"dfs/1 local key"), self.signing.as_bytes())
            .expand(b"rows", key.as_mut_slice())
            .expect("HKDF-SHA256 yields up to 8160 bytes");
        LocalKey::new(key)
    }

    fn assemble(rsa: RsaPrivateKey, signing: SigningKey, certificate: Vec<u8>) -> Result<Self> {
        let spki = rsa
            .to_public_key()
            .to_public_key_der()
            .map_err(|_| CryptoError::Rsa {
                what: "encoding a key",
            })?
            .into_vec();
        let public = PublicIdentity {
            spki,
            signing: signing.verifying_key().to_bytes(),
            certificate,
        };
        public.check()?;
        Ok(Self {
            id: public.id(),
            rsa,
            signing,
            public,
            blinding: Rng::from_entropy(),
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.id.short())
    }
}

const FILE_MAGIC: &[u8] = b"dfs identity\0";
const FILE_VERSION: u16 = 1;
const CHECKSUM_BYTES: usize = 32;

/// Splits a part with its length before it from the front of `bytes`.
fn split_part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use sha2::Digest;

    use super::*;

    static ALICE: LazyLock<Identity> =
        LazyLock::new(|| Identity::generate(&Rng::from_seed(1)).unwrap());
    static BOB: LazyLock<Identity> =
        LazyLock::new(|| Identity::generate(&Rng::from_seed(2)).unwrap());

    #[test]
    fn equal_generators_give_equal_identities() {
        let again = Identity::generate(&Rng::from_seed(1)).unwrap();
        assert_eq!(*again.to_bytes(), *ALICE.to_bytes());
        assert_ne!(ALICE.id(), BOB.id());
        let digest: [u8; 32] = Sha256::digest(&ALICE.public().spki).into();
        assert_eq!(ALICE.id(), PeerId(digest));
        assert_eq!(ALICE.public().device(), ALICE.device());
    }

    #[test]
    fn the_file_round_trips_and_every_change_is_noticed() {
        let bytes = ALICE.to_bytes();
        let back = Identity::from_bytes(&bytes).unwrap();
        assert_eq!(back.public(), ALICE.public());
        assert_eq!(*back.to_bytes(), *bytes);
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert!(Identity::from_bytes(&changed).is_err(), "byte {index}");
            assert!(
                Identity::from_bytes(&bytes[..index]).is_err(),
                "cut at {index}"
            );
        }
        let mut newer = bytes.clone();
        newer[FILE_MAGIC.len()] = 2;
        assert!(matches!(
            Identity::from_bytes(&newer),
            Err(CryptoError::TooNew {
                found: 2,
                known: 1,
                ..
            })
        ));
    }

    #[test]
    fn signatures_hold_for_their_signer_domain_and_message() {
        let signature = ALICE.sign("test", b"message");
        let public = ALICE.public();
        public.verify("test", b"message", &signature).unwrap();
        for refused in [
            public.verify("text", b"message", &signature),
            public.verify("testm", b"essage", &signature),
            public.verify("test", b"massage", &signature),
            BOB.public().verify("test", b"message", &signature),
        ] {
            assert_eq!(refused, Err(CryptoError::Unauthentic));
        }
        for index in 0..64 {
            let mut changed = signature;
            changed.0[index] ^= 0x10;
            let refused = public.verify("test", b"message", &changed);
            assert_eq!(refused, Err(CryptoError::Unauthentic));
        }
    }

    #[test]
    fn a_public_identity_with_any_byte_changed_does_not_check() {
        let public = ALICE.public();
        public.check().unwrap();
        for index in 0..public.spki.len() {
            let mut changed = public.clone();
            changed.spki[index] ^= 1;
            assert!(changed.check().is_err(), "byte {index} of the RSA key");
        }
        for index in 0..32 {
            let mut changed = public.clone();
            changed.signing[index] ^= 1;
            assert!(changed.check().is_err(), "byte {index} of the signing key");
        }
        for index in 0..public.certificate.len() {
            let mut changed = public.clone();
            changed.certificate[index] ^= 1;
            assert_eq!(changed.check(), Err(CryptoError::Unauthentic));
        }
        let mut mixed = public;
        mixed.signing = BOB.public().signing;
        assert_eq!(mixed.check(), Err(CryptoError::Unauthentic));
        mixed.spki = Vec::new();
        assert!(matches!(mixed.check(), Err(CryptoError::Malformed { .. })));
    }

    #[test]
    fn wrapped_keys_open_for_their_peer_only() {
        let rng = Rng::from_seed(3);
        for length in [0, 32, 5_000] {
            let key = vec![0xa5; length];
            let wrapped = ALICE.public().wrap_key(&rng, &key).unwrap();
            assert_eq!(*ALICE.unwrap_key(&wrapped).unwrap(), key);
            assert_eq!(BOB.unwrap_key(&wrapped), Err(CryptoError::Unauthentic));
        }
        let wrapped = ALICE.public().wrap_key(&rng, &[7; 32]).unwrap();
        for index in (1..wrapped.len()).step_by(3) {
            let mut changed = wrapped.clone();
            changed[index] ^= 1;
            assert_eq!(ALICE.unwrap_key(&changed), Err(CryptoError::Unauthentic));
            assert_eq!(
                ALICE.unwrap_key(&wrapped[..index]),
                Err(CryptoError::Unauthentic)
            );
        }
        assert!(ALICE.public().wrap_key(&rng, &vec![0; 1 << 20]).is_err());
    }

    #[test]
    fn public_parts_survive_serde() {
        let signature = ALICE.sign("test", b"message");
        let text = serde_json::to_string(&(ALICE.public(), signature)).unwrap();
        let back: (PublicIdentity, Signature) = serde_json::from_str(&text).unwrap();
        assert_eq!(back, (ALICE.public(), signature));
    }

    #[test]
    fn signing_agrees_with_rfc_8032() {
        // Test 2 of RFC 8032, 7.1, through the library that `sign` uses.
        let seed = crate::base::id::from_hex(
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        );
        let key = SigningKey::from_bytes(&seed.unwrap().try_into().unwrap());
        let signature = key.sign(&[0x72]).to_bytes();
        assert_eq!(
            crate::base::id::to_hex(&signature[..16]),
            "92a009a9f0d4cab8720e820b5f642540"
        );
    }

    #[test]
    fn the_local_key_follows_from_the_identity() {
        let sealed = ALICE.local_key().sealer(1).seal(b"place", b"row");
        let again = Identity::from_bytes(&ALICE.to_bytes()).unwrap();
        assert_eq!(
            again.local_key().sealer(2).open(b"place", &sealed).unwrap(),
            b"row"
        );
        assert!(BOB.local_key().sealer(1).open(b"place", &sealed).is_err());
    }
}
