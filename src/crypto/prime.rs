//! Primes for RSA keys.
//!
//! The search of OpenSSL and of FIPS 186-5, B.9: from a random odd start upwards, past what small
//! primes divide, to the first number that the Miller-Rabin test with random bases calls prime. It
//! takes a quarter of the time of drawing each candidate afresh.

use rand_core::{CryptoRng, RngCore};
use rsa::BigUint;

/// Returns a random prime of exactly `bits` (a multiple of 8), its two highest bits set, so that a
/// product of two has exactly twice as many.
pub(super) fn random(rng: &mut (impl RngCore + CryptoRng), bits: usize) -> BigUint {
    let mut bytes = zeroize::Zeroizing::new(vec![0; bits / 8]);
    loop {
        rng.fill_bytes(&mut bytes);
        if let Some(first) = bytes.first_mut() {
            *first |= 0b1100_0000;
        }
        if let Some(last) = bytes.last_mut() {
            *last |= 1;
        }
        if let Some(prime) = search(rng, &BigUint::from_bytes_be(&bytes), bits) {
            return prime;
        }
    }
}

/// Returns the first prime of `bits` among the odd numbers from `start` on, `None` where there is
/// none near.
fn search(rng: &mut (impl RngCore + CryptoRng), start: &BigUint, bits: usize) -> Option<BigUint> {
    let mut composite = vec![false; WINDOW];
    for prime in small_odd_primes() {
        let residue = (start % prime).to_bytes_le();
        let residue = residue
            .iter()
            .rev()
            .fold(0, |sum, &byte| sum * 256 + usize::from(byte));
        // start + 2 * index is a multiple of the prime where 2 * index = -residue.
        let prime = prime as usize;
        let negated = (prime - residue) % prime;
        let first = if negated.is_multiple_of(2) {
            negated / 2
        } else {
            (negated + prime) / 2
        };
        for index in (first..WINDOW).step_by(prime) {
            composite[index] = true;
        }
    }
    composite
        .iter()
        .enumerate()
        .filter(|(_, composite)| !**composite)
        .map(|(index, _)| start + BigUint::from(2 * index))
        .take_while(|candidate| candidate.bits() == bits)
        .find(|candidate| is_probably_prime(rng, candidate))
}

/// Says whether an odd number above 3 passes the Miller-Rabin test.
fn is_probably_prime(rng: &mut (impl RngCore + CryptoRng), candidate: &BigUint) -> bool {
    let one = BigUint::from(1u8);
    let minus_one = candidate - &one;
    let Some(twos) = minus_one.trailing_zeros() else {
        return false;
    };
    let odd = &minus_one >> twos;
    (0..ROUNDS).all(|_| {
        let mut bytes = vec![0; candidate.bits().div_ceil(8)];
        rng.fill_bytes(&mut bytes);
        // 2 to candidate - 2
        let span = candidate - BigUint::from(3u8);
        let base = BigUint::from_bytes_be(&bytes) % span + BigUint::from(2u8);
        let mut power = base.modpow(&odd, candidate);
        if power == one || power == minus_one {
            return true;
        }
        for _ in 1..twos {
            power = &power * &power % candidate;
            if power == minus_one {
                return true;
            }
        }
        false
    })
}

/// Odd numbers tried from one start. One in 355 of this size is prime: all of them composite is
/// as likely as e^-11.
const WINDOW: usize = 4096;

/// FIPS 186-5, table B.1: 4 rounds leave 2^-100 for a prime of 1024 bits.
const ROUNDS: usize = 8;

const SMALL_PRIME_MAX: u32 = 4096;

fn small_odd_primes() -> impl Iterator<Item = u32> {
    let is_prime = |number: &u32| {
        (3..)
            .step_by(2)
            .take_while(|factor| factor * factor <= *number)
            .all(|factor| !number.is_multiple_of(factor))
    };
    (3..SMALL_PRIME_MAX).step_by(2).filter(is_prime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    #[test]
    fn primes_have_the_asked_size_and_follow_from_the_generator() {
        for bits in [64, 256, 512] {
            let prime = Rng::from_seed(1).with(|rng| random(rng, bits));
            assert_eq!(prime.bits(), bits);
            assert_eq!((&prime * &prime).bits(), 2 * bits);
            assert_eq!(prime, Rng::from_seed(1).with(|rng| random(rng, bits)));
            // Fermat's little theorem, with a base that the test did not draw.
            let power = BigUint::from(2u8).modpow(&(&prime - BigUint::from(1u8)), &prime);
            assert_eq!(power, BigUint::from(1u8));
        }
    }

    #[test]
    fn primality_agrees_with_trial_division() {
        let primes: Vec<u32> = small_odd_primes().collect();
        let tested: Vec<u32> = (5..SMALL_PRIME_MAX)
            .step_by(2)
            .filter(|number| {
                let number = BigUint::from(*number);
                Rng::from_seed(2).with(|rng| is_probably_prime(rng, &number))
            })
            .collect();
        assert_eq!(primes[0], 3);
        assert_eq!(primes[1..], tested);
    }

    #[test]
    fn composites_that_fool_fermat_are_recognized() {
        for carmichael in [561u32, 1105, 294_409, 118_901_521] {
            let number = BigUint::from(carmichael);
            assert!(!Rng::from_seed(3).with(|rng| is_probably_prime(rng, &number)));
        }
    }
}
