//! A recovery phrase: a secret that a person keeps on paper, and what it opens.
//!
//! Fifteen words of the list of BIP 39 (2048 words, told apart by their first four letters) carry
//! 165 bits: a secret of 128 and a checksum of 37. So much checksum finds which one word is wrong,
//! or which two were exchanged; with 128 random bits a plain key derivation is enough, as nobody
//! tries them all.

use std::fmt;
use std::str::FromStr;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::spoken::{WORD_LIST, word};
use super::{CryptoError, Identity, Result, aead};
use crate::base::{Rng, VolumeId};

/// How many words a phrase has.
pub const PHRASE_WORDS: usize = 15;

/// Longest text that is looked at for a phrase.
const TEXT_MAX_BYTES: usize = 4096;

const WORD_BITS: usize = 11;
const WORD_MASK: u128 = 0x7ff;
/// Bits of the checksum; the secret has the others.
const SUM_BITS: usize = PHRASE_WORDS * WORD_BITS - SECRET_BYTES * 8;
const SECRET_BYTES: usize = 16;
const SEALED_VERSION: u8 = 1;

/// The secret behind a phrase. [`fmt::Display`] gives the words; [`FromStr`] takes them back, in
/// either case, with any white space, and each cut to four letters if one likes.
#[derive(PartialEq, Eq)]
pub struct RecoveryPhrase([u8; SECRET_BYTES]);

/// Says why a text is not accepted as a phrase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhraseError {
    /// Words are missing, or there are more.
    #[error("a recovery phrase has {PHRASE_WORDS} words, this has {0}")]
    Count(usize),
    /// A word is not in the list.
    #[error("word {at} of the recovery phrase, {word:?}, is none of its words: {likely} would be")]
    Unknown {
        /// Its place, from 1.
        at: usize,
        /// As it was typed.
        word: String,
        /// What it may have been; what it must have been where the other words are right.
        likely: &'static str,
    },
    /// One word is another one than it should be.
    #[error(
        "word {at} of the recovery phrase is wrong: {word} does not fit the others, {likely} does"
    )]
    Wrong {
        /// Its place, from 1.
        at: usize,
        /// The word that stands there.
        word: &'static str,
        /// What fits.
        likely: &'static str,
    },
    /// Two words that stand side by side were exchanged.
    #[error("words {at} and {} of the recovery phrase are exchanged", at + 1)]
    Exchanged {
        /// The place of the first, from 1.
        at: usize,
    },
    /// More than that is wrong.
    #[error("the words of the recovery phrase do not belong together: more than one is wrong")]
    Mismatch,
}

impl RecoveryPhrase {
    /// Returns a fresh phrase.
    pub fn generate(rng: &Rng) -> Self {
        Self(rng.bytes())
    }

    /// Returns what is shown to a peer to be given what this phrase opens; it opens nothing itself.
    pub fn lookup_secret(&self) -> [u8; 32] {
        *self.derive(b"lookup")
    }

    /// Returns the secrets of an identity sealed under the phrase, for one volume.
    ///
    /// A phrase seals one identity only: the key is used once.
    pub fn seal(&self, volume: VolumeId, identity: &Identity) -> Vec<u8> {
        let header = [SEALED_VERSION];
        let cipher = aead::cipher(&self.derive(b"identity"));
        let aad = aead::bind(&header, &volume.0);
        let plain = identity.to_bytes();
        aead::seal(&cipher, &aead::ONE_MESSAGE_NONCE, &header, &aad, &plain)
    }

    /// Returns the identity of [`RecoveryPhrase::seal`].
    pub fn open(&self, volume: VolumeId, sealed: &[u8]) -> Result<Identity> {
        let (header, body) = sealed
            .split_first_chunk::<1>()
            .ok_or(CryptoError::Unauthentic)?;
        if header[0] > SEALED_VERSION {
            return Err(CryptoError::TooNew {
                what: "recovery phrase",
                found: header[0].into(),
                known: SEALED_VERSION.into(),
            });
        }
        let cipher = aead::cipher(&self.derive(b"identity"));
        let aad = aead::bind(header, &volume.0);
        let plain = aead::open(&cipher, &aead::ONE_MESSAGE_NONCE, &aad, body)?;
        Identity::from_bytes(&Zeroizing::new(plain))
    }

    fn derive(&self, what: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(b"dfs/1 recovery phrase"), &self.0)
            .expand(what, key.as_mut_slice())
            .expect("HKDF-SHA256 yields up to 8160 bytes");
        key
    }

    /// Returns the numbers of the words: the bits of the secret, then those of its checksum.
    fn numbers(&self) -> Zeroizing<[u16; PHRASE_WORDS]> {
        let sum = blake3::derive_key("dfs/1 recovery phrase checksum", &self.0);
        let [a, b, c, d, e, ..] = sum;
        let sum = u64::from_be_bytes([0, 0, 0, a, b, c, d, e]) >> (40 - SUM_BITS);
        let secret = u128::from_be_bytes(self.0);
        let mut numbers = Zeroizing::new([0; PHRASE_WORDS]);
        for (at, number) in numbers.iter_mut().enumerate() {
            let bits_behind = WORD_BITS * (PHRASE_WORDS - 1 - at);
            let bits = match bits_behind.checked_sub(SUM_BITS) {
                Some(behind) => secret >> behind,
                None => secret << (SUM_BITS - bits_behind) | u128::from(sum) >> bits_behind,
            };
            *number = (bits & WORD_MASK) as u16;
        }
        numbers
    }

    /// Returns the phrase of these words, `None` where their checksum does not fit.
    fn of_numbers(numbers: &[u16; PHRASE_WORDS]) -> Option<Self> {
        let secret = numbers
            .iter()
            .enumerate()
            .fold(0, |secret: u128, (at, number)| {
                let bits_behind = WORD_BITS * (PHRASE_WORDS - 1 - at);
                match bits_behind.checked_sub(SUM_BITS) {
                    Some(behind) => secret | u128::from(*number) << behind,
                    None => secret | u128::from(*number) >> (SUM_BITS - bits_behind).min(WORD_BITS),
                }
            });
        let phrase = Self(secret.to_be_bytes());
        (*phrase.numbers() == *numbers).then_some(phrase)
    }
}

impl Drop for RecoveryPhrase {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for RecoveryPhrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryPhrase")
    }
}

impl fmt::Display for RecoveryPhrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, number) in self.numbers().iter().enumerate() {
            let gap = if at == 0 { "" } else { " " };
            write!(f, "{gap}{}", word(*number))?;
        }
        Ok(())
    }
}

impl FromStr for RecoveryPhrase {
    type Err = PhraseError;

    fn from_str(text: &str) -> std::result::Result<Self, PhraseError> {
        let text = Zeroizing::new(text.to_ascii_lowercase());
        let text = text.get(..TEXT_MAX_BYTES).unwrap_or(&text);
        let typed: Vec<&str> = text.split_whitespace().collect();
        if typed.len() != PHRASE_WORDS {
            return Err(PhraseError::Count(typed.len()));
        }
        let mut numbers = Zeroizing::new([0; PHRASE_WORDS]);
        let mut unknown = Vec::new();
        for (at, (word, number)) in typed.iter().zip(numbers.iter_mut()).enumerate() {
            match find(word) {
                Some(found) => *number = found,
                None => unknown.push((at, *word)),
            }
        }
        match unknown.as_slice() {
            [] => Self::of_numbers(&numbers).ok_or_else(|| mistake(&numbers)),
            [(at, word), rest @ ..] => {
                let fits = if rest.is_empty() {
                    fitting(&numbers, *at)
                } else {
                    None
                };
                Err(PhraseError::Unknown {
                    at: at + 1,
                    word: (*word).to_owned(),
                    likely: fits.unwrap_or_else(|| nearest(word)),
                })
            }
        }
    }
}

/// Returns the number of a word, or of the only word that begins with its four letters or more.
fn find(typed: &str) -> Option<u16> {
    let at = WORD_LIST.partition_point(|word| *word < typed);
    let found = WORD_LIST.get(at)?;
    let is_whole = *found == typed;
    let is_cut = typed.len() >= 4 && found.starts_with(typed);
    (is_whole || is_cut).then(|| u16::try_from(at).ok())?
}

/// Returns the word that makes a phrase of the others in the place `at`.
fn fitting(numbers: &[u16; PHRASE_WORDS], at: usize) -> Option<&'static str> {
    let mut trial = Zeroizing::new(*numbers);
    (0u16..).zip(WORD_LIST.iter()).find_map(|(number, word)| {
        *trial.get_mut(at)? = number;
        RecoveryPhrase::of_numbers(&trial).map(|_| *word)
    })
}

/// Returns what is wrong with words of the list that are no phrase.
fn mistake(numbers: &[u16; PHRASE_WORDS]) -> PhraseError {
    for at in 0..PHRASE_WORDS - 1 {
        let mut trial = Zeroizing::new(*numbers);
        trial.swap(at, at + 1);
        if RecoveryPhrase::of_numbers(&trial).is_some() {
            return PhraseError::Exchanged { at: at + 1 };
        }
    }
    for (at, number) in numbers.iter().enumerate() {
        if let Some(likely) = fitting(numbers, at) {
            return PhraseError::Wrong {
                at: at + 1,
                word: word(*number),
                likely,
            };
        }
    }
    PhraseError::Mismatch
}

/// Returns the word of the list that is most like a mistyped one.
fn nearest(typed: &str) -> &'static str {
    let typed: Vec<char> = typed.chars().take(16).collect();
    let nearest = WORD_LIST.iter().min_by_key(|word| distance(word, &typed));
    nearest.copied().unwrap_or_default()
}

/// Returns how many letters must be changed, added or left out to make one word of the other.
fn distance(word: &str, typed: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=typed.len()).collect();
    for (at, letter) in word.chars().enumerate() {
        let mut left = at + 1;
        let mut above_left = at;
        for (place, other) in typed.iter().enumerate() {
            let above = row.get(place + 1).copied().unwrap_or(usize::MAX);
            let cost = (above_left + usize::from(letter != *other))
                .min(left + 1)
                .min(above + 1);
            if let Some(cell) = row.get_mut(place) {
                *cell = left;
            }
            (left, above_left) = (cost, above);
        }
        if let Some(cell) = row.last_mut() {
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};

    use super::*;

    fn phrase() -> RecoveryPhrase {
        RecoveryPhrase::generate(&Rng::from_seed(5))
    }

    fn parse(words: &[&str]) -> std::result::Result<RecoveryPhrase, PhraseError> {
        words.join(" ").parse()
    }

    #[test]
    fn phrases_come_back_as_people_write_them() {
        let text = phrase().to_string();
        assert_eq!(text.split(' ').count(), PHRASE_WORDS);
        assert_eq!(text.parse::<RecoveryPhrase>(), Ok(phrase()));
        let loud = format!("\n {} \n", text.to_uppercase().replace(' ', "\n  "));
        assert_eq!(loud.parse::<RecoveryPhrase>(), Ok(phrase()));
        let cut: Vec<&str> = text
            .split(' ')
            .map(|word| word.get(..4).unwrap_or(word))
            .collect();
        assert_eq!(parse(&cut), Ok(phrase()));
        assert_eq!(format!("{:?}", phrase()), "RecoveryPhrase");
    }

    #[test]
    fn every_single_mistake_is_found_and_named() {
        let text = phrase().to_string();
        let words: Vec<&str> = text.split(' ').collect();
        for at in [0, 6, PHRASE_WORDS - 1] {
            let mut wrong = words.clone();
            wrong[at] = if words[at] == "zebra" { "zoo" } else { "zebra" };
            let found = parse(&wrong).unwrap_err();
            assert!(
                matches!(found, PhraseError::Wrong { at: place, likely, .. }
                    if place == at + 1 && likely == words[at]),
                "{found}"
            );
            wrong[at] = "zzz";
            let found = parse(&wrong).unwrap_err();
            assert!(
                matches!(&found, PhraseError::Unknown { at: place, likely, .. }
                    if *place == at + 1 && *likely == words[at]),
                "{found}"
            );
        }
        let mut wrong = words.clone();
        wrong.swap(3, 4);
        assert_eq!(parse(&wrong), Err(PhraseError::Exchanged { at: 4 }));
        wrong = words.clone();
        (wrong[2], wrong[9]) = ("zebra", "zebra");
        assert_eq!(parse(&wrong), Err(PhraseError::Mismatch));
        (wrong[2], wrong[9]) = ("zebr4", "abandn");
        let found = parse(&wrong).unwrap_err();
        assert_eq!(
            found.to_string(),
            "word 3 of the recovery phrase, \"zebr4\", is none of its words: zebra would be"
        );
        assert_eq!(parse(&words[1..]), Err(PhraseError::Count(14)));
        assert_eq!(parse(&[]), Err(PhraseError::Count(0)));
    }

    #[test]
    fn what_a_phrase_seals_opens_for_it_and_its_volume_only() {
        let identity = Identity::generate(&Rng::from_seed(1)).unwrap();
        let volume = VolumeId([3; 32]);
        let sealed = phrase().seal(volume, &identity);
        assert_eq!(phrase().open(volume, &sealed).unwrap().id(), identity.id());
        let other = RecoveryPhrase::generate(&Rng::from_seed(6));
        assert!(other.open(volume, &sealed).is_err());
        assert_ne!(other.lookup_secret(), phrase().lookup_secret());
        assert!(phrase().open(VolumeId([4; 32]), &sealed).is_err());
        for cut in [0, 1, 16, sealed.len() - 1] {
            assert!(phrase().open(volume, &sealed[..cut]).is_err());
        }
        let mut newer = sealed;
        newer[0] = 2;
        let refused = phrase().open(volume, &newer);
        assert!(matches!(refused, Err(CryptoError::TooNew { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_secret_comes_back(secret in any::<[u8; SECRET_BYTES]>()) {
            let text = RecoveryPhrase(secret).to_string();
            prop_assert_eq!(text.parse::<RecoveryPhrase>(), Ok(RecoveryPhrase(secret)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,200}", words in "([a-zA-Zé]{1,9}[ \n]){15}") {
            let _ = text.parse::<RecoveryPhrase>();
            let _ = words.parse::<RecoveryPhrase>();
        }
    }
}
