//! Chance: one cryptographic generator that is passed in, from the machine or from a seed.

use std::sync::Arc;

use parking_lot::Mutex;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

/// A shared source of cryptographic randomness (ChaCha20). Clones draw from the same stream.
#[derive(Clone)]
pub struct Rng {
    inner: Arc<Mutex<ChaCha20Rng>>,
}

impl std::fmt::Debug for Rng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rng")
    }
}

impl Rng {
    /// Returns a generator seeded by the machine's entropy.
    pub fn from_entropy() -> Self {
        Self {
            inner: Arc::new(Mutex::new(ChaCha20Rng::from_entropy())),
        }
    }

    /// Returns a generator that always yields the same stream for one seed: tests and simulations.
    pub fn from_seed(seed: u64) -> Self {
        Self {
            inner: Arc::new(Mutex::new(ChaCha20Rng::seed_from_u64(seed))),
        }
    }

    /// Returns random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0u8; N];
        self.inner.lock().fill_bytes(&mut bytes);
        bytes
    }

    /// Returns a random number below `bound`, 0 for a bound of 0.
    pub fn below(&self, bound: u64) -> u64 {
        // The bias of a 64-bit modulus is below 2^-32 for every bound used here.
        self.inner.lock().next_u64().checked_rem(bound).unwrap_or(0)
    }

    /// Runs `f` with the generator as the `rand_core` 0.6 trait object that the crypto crates take.
    pub fn with<T>(&self, f: impl FnOnce(&mut ChaCha20Rng) -> T) -> T {
        f(&mut self.inner.lock())
    }
}
