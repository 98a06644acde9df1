//! AES-256-GCM out of one buffer into another, without a copy in between.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};

use super::{CryptoError, Result};

/// Length of the tag at the end of everything sealed.
pub(super) const TAG_BYTES: usize = 16;

/// The nonce of a key that seals one message only.
pub(super) const ONE_MESSAGE_NONCE: [u8; 12] = [0; 12];

pub(super) fn cipher(key: &[u8; 32]) -> Aes256Gcm {
    Aes256Gcm::new(key.into())
}

/// Returns `header`, the ciphertext of `plain` and the tag in one allocation.
pub(super) fn seal(
    cipher: &Aes256Gcm,
    nonce: &[u8; 12],
    header: &[u8],
    aad: &[u8],
    plain: &[u8],
) -> Vec<u8> {
    let mut sealed = vec![0; header.len() + plain.len() + TAG_BYTES];
    let (head, rest) = sealed.split_at_mut(header.len());
    head.copy_from_slice(header);
    seal_into(cipher, nonce, aad, plain, rest);
    sealed
}

/// Writes the ciphertext of `plain` and the tag to `sealed`, which has room for just these.
pub(super) fn seal_into(
    cipher: &Aes256Gcm,
    nonce: &[u8; 12],
    aad: &[u8],
    plain: &[u8],
    sealed: &mut [u8],
) {
    let (body, tag) = sealed.split_at_mut(plain.len());
    let buffers = InOutBuf::new(plain, body).expect("the body is as long as the plaintext");
    let made = cipher
        .encrypt_inout_detached(nonce.into(), aad, buffers)
        .expect("nothing sealed here comes near GCM's 64 GiB");
    tag.copy_from_slice(&made);
}

/// Returns the plaintext of `sealed`, which is ciphertext and tag.
pub(super) fn open(
    cipher: &Aes256Gcm,
    nonce: &[u8; 12],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>> {
    let len = sealed.len().checked_sub(TAG_BYTES);
    let mut plain = vec![0; len.ok_or(CryptoError::Unauthentic)?];
    open_into(cipher, nonce, aad, sealed, &mut plain)?;
    Ok(plain)
}

/// Writes the plaintext of `sealed`, which is ciphertext and tag, to `plain`.
pub(super) fn open_into(
    cipher: &Aes256Gcm,
    nonce: &[u8; 12],
    aad: &[u8],
    sealed: &[u8],
    plain: &mut [u8],
) -> Result<()> {
    let (body, tag) = sealed
        .split_last_chunk::<TAG_BYTES>()
        .ok_or(CryptoError::Unauthentic)?;
    let buffers = InOutBuf::new(body, plain).map_err(|_| CryptoError::Unauthentic)?;
    cipher
        .decrypt_inout_detached(nonce.into(), aad, buffers, tag.into())
        .map_err(|_| CryptoError::Unauthentic)
}

/// Returns `first` and `second` behind the length of `first`, so that no two pairs look alike.
pub(super) fn bind(first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut bound = Vec::with_capacity(8 + first.len() + second.len());
    bound.extend_from_slice(&(first.len() as u64).to_le_bytes());
    bound.extend_from_slice(first);
    bound.extend_from_slice(second);
    bound
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{from_hex, to_hex};

    #[test]
    fn known_answers_of_the_gcm_specification() {
        // McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 13, 14 and 16.
        let zero = cipher(&[0; 32]);
        let sealed = seal(&zero, &[0; 12], b"", b"", b"");
        assert_eq!(to_hex(&sealed), "530f8afbc74536b9a963b4f1c4cb738b");
        let sealed = seal(&zero, &[0; 12], b"", b"", &[0; 16]);
        assert_eq!(
            to_hex(&sealed),
            "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
        );
        let key = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
        let key = cipher(&from_hex(key).unwrap().try_into().unwrap());
        let nonce: [u8; 12] = from_hex("cafebabefacedbaddecaf888")
            .unwrap()
            .try_into()
            .unwrap();
        let aad = from_hex("feedfacedeadbeeffeedfacedeadbeefabaddad2").unwrap();
        let plain = from_hex(concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ))
        .unwrap();
        let sealed = seal(&key, &nonce, b"", &aad, &plain);
        assert_eq!(
            to_hex(&sealed),
            concat!(
                "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa",
                "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
                "76fc6ece0f4e1768cddf8853bb2d551b"
            )
        );
        assert_eq!(open(&key, &nonce, &aad, &sealed).unwrap(), plain);
    }

    #[test]
    fn binding_tells_where_the_first_part_ends() {
        assert_ne!(bind(b"ab", b"c"), bind(b"a", b"bc"));
    }
}
