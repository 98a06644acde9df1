//! The key of this machine's state folder.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aes_gcm::Aes256Gcm;
use zeroize::Zeroizing;

use super::{CryptoError, Result, aead};

/// Length that [`RowSealer::seal`] adds: the nonce before the ciphertext, the tag behind it.
pub const ROW_OVERHEAD_BYTES: usize = NONCE_BYTES + aead::TAG_BYTES;

const NONCE_BYTES: usize = 12;

/// The key that seals the rows of the local store; follows from the identity's secret.
#[derive(Clone)]
pub struct LocalKey {
    key: Zeroizing<[u8; 32]>,
}

impl LocalKey {
    pub(super) fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self { key }
    }

    /// Returns a number that stands for this key and tells nothing of it: what belongs to a state
    /// folder carries it, so that a file of another folder is known as such.
    pub fn owner(&self) -> u64 {
        let digest = blake3::keyed_hash(&self.key, b"dfs owner of a state folder");
        let (first, _) = digest.as_bytes().split_at(8);
        first
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    /// Returns the sealer of one opening of the store.
    ///
    /// `epoch` must never have been used with this key before: the store counts it up, durably,
    /// each time it opens. A store that is restored from a copy must continue above the highest
    /// epoch that any copy has used, for a nonce used twice gives away the XOR of two rows.
    pub fn sealer(&self, epoch: u32) -> RowSealer {
        RowSealer {
            inner: Arc::new(Inner {
                cipher: aead::cipher(&self.key),
                owner: self.owner(),
                epoch,
                sealed_count: AtomicU64::new(0),
            }),
        }
    }
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalKey")
    }
}

/// Seals and opens rows; clones count nonces together.
///
/// A sealed row is the nonce (epoch u32 BE, counter u64 BE), the ciphertext, the tag: any sealer of
/// the same [`LocalKey`] opens it, whatever its epoch.
#[derive(Clone)]
pub struct RowSealer {
    inner: Arc<Inner>,
}

struct Inner {
    cipher: Aes256Gcm,
    owner: u64,
    epoch: u32,
    sealed_count: AtomicU64,
}

impl RowSealer {
    /// Returns [`LocalKey::owner`] of the key behind it.
    pub fn owner(&self) -> u64 {
        self.inner.owner
    }

    /// Returns the epoch in which this sealer seals.
    pub fn epoch(&self) -> u32 {
        self.inner.epoch
    }

    /// Returns the epoch in which a row was sealed, 0 where it is no sealed row.
    pub fn epoch_of(sealed: &[u8]) -> u32 {
        sealed
            .first_chunk()
            .map_or(0, |epoch| u32::from_be_bytes(*epoch))
    }

    /// Returns `plain` sealed for the place that `aad` names (table and key of the row).
    pub fn seal(&self, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        let (epoch, counter) = nonce.split_at_mut(4);
        let count = self.inner.sealed_count.fetch_add(1, Ordering::Relaxed);
        epoch.copy_from_slice(&self.inner.epoch.to_be_bytes());
        counter.copy_from_slice(&count.to_be_bytes());
        aead::seal(&self.inner.cipher, &nonce, &nonce, aad, plain)
    }

    /// Returns the plaintext of a row that was sealed for the same `aad`.
    ///
    /// Fails with [`CryptoError::Unauthentic`] where the row was changed, cut or moved, or sealed
    /// with another identity's key.
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let (nonce, body) = sealed
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(CryptoError::Unauthentic)?;
        aead::open(&self.inner.cipher, nonce, aad, body)
    }
}

impl fmt::Debug for RowSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowSealer")
            .field("epoch", &self.inner.epoch)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> LocalKey {
        LocalKey::new(Zeroizing::new([byte; 32]))
    }

    #[test]
    fn rows_open_in_later_epochs_and_only_in_their_place() {
        let sealed = key(1).sealer(7).seal(b"inode/1", b"row");
        assert_eq!(sealed.len(), 3 + ROW_OVERHEAD_BYTES);
        let later = key(1).sealer(8);
        assert_eq!(later.open(b"inode/1", &sealed).unwrap(), b"row");
        assert_eq!(
            later.open(b"inode/2", &sealed),
            Err(CryptoError::Unauthentic)
        );
        let other = key(2).sealer(7);
        assert_eq!(
            other.open(b"inode/1", &sealed),
            Err(CryptoError::Unauthentic)
        );
    }

    #[test]
    fn every_flipped_or_missing_byte_is_unauthentic() {
        let sealer = key(1).sealer(1);
        let sealed = sealer.seal(b"aad", b"some row of a table");
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 0x20;
            assert_eq!(sealer.open(b"aad", &changed), Err(CryptoError::Unauthentic));
            assert_eq!(
                sealer.open(b"aad", &sealed[..index]),
                Err(CryptoError::Unauthentic)
            );
        }
    }

    #[test]
    fn no_two_rows_share_a_nonce() {
        let sealer = key(1).sealer(3);
        let clone = sealer.clone();
        let nonces: std::collections::BTreeSet<Vec<u8>> = (0..100)
            .map(|turn| if turn % 2 == 0 { &sealer } else { &clone })
            .chain([&key(1).sealer(4)])
            .map(|sealer| sealer.seal(b"", b"")[..NONCE_BYTES].to_vec())
            .collect();
        assert_eq!(nonces.len(), 101);
    }
}
