//! The space of keys and its metric.

use std::fmt;

use crate::base::{ChunkId, PeerId, Rng};

/// A point in the 256-bit space that peers, chunks and records share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// Bits of a key, and buckets of a table.
    pub const BITS: usize = 256;

    /// Returns the key with these bytes, the most significant first.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes, the most significant first.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns how far another key is: their XOR, read as a number.
    pub fn distance(&self, other: &Self) -> Distance {
        let mut xor = self.0;
        for (byte, other) in xor.iter_mut().zip(other.0) {
            *byte ^= other;
        }
        Distance(xor)
    }

    /// Returns a random key whose distance from this one has its highest bit at `index`.
    ///
    /// # Panics
    ///
    /// Where `index` is not below [`Key::BITS`].
    pub fn random_in_bucket(&self, index: usize, rng: &Rng) -> Self {
        assert!(index < Self::BITS, "no bucket {index}");
        let mut distance = rng.bytes::<32>();
        let byte = 31 - index / 8;
        let bit = 1u8 << (index % 8);
        for (at, value) in distance.iter_mut().enumerate() {
            if at < byte {
                *value = 0;
            } else if at == byte {
                *value = (*value & (bit - 1)) | bit;
            }
        }
        Self(self.distance(&Self(distance)).0)
    }
}

impl From<PeerId> for Key {
    fn from(peer: PeerId) -> Self {
        Self(peer.0)
    }
}

impl From<ChunkId> for Key {
    fn from(chunk: ChunkId) -> Self {
        Self(chunk.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", PeerId(self.0).short())
    }
}

/// The XOR of two keys; orders keys by closeness to a third.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance([u8; 32]);

impl Distance {
    /// From a key to itself.
    pub const ZERO: Self = Self([0; 32]);

    /// Returns the place of the highest set bit, 0 for the lowest; `None` for zero.
    ///
    /// This is the bucket that a contact at this distance belongs to.
    pub fn bucket_index(&self) -> Option<usize> {
        let byte = self.0.iter().position(|byte| *byte != 0)?;
        let zeros = byte * 8 + self.0.get(byte)?.leading_zeros() as usize;
        Some(Key::BITS - 1 - zeros)
    }

    /// Says whether the bit at `index`, 0 for the lowest, is set; false beyond the last.
    pub fn bit(&self, index: usize) -> bool {
        (31usize.checked_sub(index / 8))
            .and_then(|byte| self.0.get(byte))
            .is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }
}

impl fmt::Debug for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bucket_index() {
            Some(index) => write!(f, "Distance(2^{index}..)"),
            None => f.write_str("Distance(0)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::Rng;

    fn key() -> impl Strategy<Value = Key> {
        any::<[u8; 32]>().prop_map(Key::new)
    }

    /// Adds two distances as numbers; the second value is the carry out of the top.
    fn sum(a: &Distance, b: &Distance) -> ([u8; 32], bool) {
        let mut out = [0u8; 32];
        let mut carry = 0u16;
        for at in (0..32).rev() {
            let digit = u16::from(a.0[at]) + u16::from(b.0[at]) + carry;
            out[at] = digit as u8;
            carry = digit >> 8;
        }
        (out, carry > 0)
    }

    proptest! {
        #[test]
        fn a_key_is_at_no_distance_from_itself_alone(a in key(), b in key()) {
            prop_assert_eq!(a.distance(&a), Distance::ZERO);
            prop_assert_eq!(a.distance(&b) == Distance::ZERO, a == b);
        }

        #[test]
        fn distance_is_symmetric(a in key(), b in key()) {
            prop_assert_eq!(a.distance(&b), b.distance(&a));
        }

        #[test]
        fn the_detour_is_never_shorter(a in key(), b in key(), c in key()) {
            let (detour, over) = sum(&a.distance(&b), &b.distance(&c));
            prop_assert!(over || a.distance(&c).0 <= detour);
        }

        #[test]
        fn each_distance_leads_to_one_key(a in key(), b in key(), c in key()) {
            prop_assert_eq!(a.distance(&b) == a.distance(&c), b == c);
        }

        #[test]
        fn bucket_ranges_are_powers_of_two(a in key(), index in 0..Key::BITS, seed: u64) {
            let other = a.random_in_bucket(index, &Rng::from_seed(seed));
            let distance = a.distance(&other);
            prop_assert_eq!(distance.bucket_index(), Some(index));
            prop_assert!(distance.bit(index));
            for higher in index + 1..Key::BITS {
                prop_assert!(!distance.bit(higher));
            }
        }
    }

    #[test]
    fn the_ends_of_the_space_are_in_the_first_and_last_bucket() {
        let zero = Key::new([0; 32]);
        let mut one = [0; 32];
        one[31] = 1;
        assert_eq!(zero.distance(&Key::new(one)).bucket_index(), Some(0));
        let far = Key::new([0xff; 32]);
        assert_eq!(zero.distance(&far).bucket_index(), Some(255));
        assert_eq!(zero.distance(&zero).bucket_index(), None);
        assert!(!zero.distance(&far).bit(256));
    }
}
