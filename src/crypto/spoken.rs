//! What people read to each other to tell one peer and one volume from all others: a code and four
//! words.
//!
//! Both are short, so somebody in the middle could search for a key of his own that has the same
//! ones. That is made dear: each is taken from a hash that is computed [`ROUNDS`] times over, so a
//! code (50 bits) costs 2^64 hashes and as many RSA keys to hit, four words (44 bits) 2^58.

use std::sync::LazyLock;

use crate::base::PeerId;

/// Times that a hash is computed over: 2 ms here.
const ROUNDS: u32 = 1 << 14;

/// Letters of a code, in two halves.
const CODE_LETTERS: usize = 10;

/// Words that are compared.
pub const WORDS: usize = 4;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The 2,048 English words of BIP 39: no two begin with the same four letters.
pub(super) static WORD_LIST: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| include_str!("words.txt").lines().collect());

/// Returns the word that stands for the lowest eleven bits of a number.
pub fn word(number: u16) -> &'static str {
    let at = usize::from(number & 0x7ff);
    WORD_LIST.get(at).copied().unwrap_or_default()
}

/// Returns the number from 0 to 2,047 that a word stands for, in either case.
pub fn word_number(word: &str) -> Option<u16> {
    let word = word.trim().to_ascii_lowercase();
    let at = WORD_LIST.binary_search(&word.as_str()).ok()?;
    u16::try_from(at).ok()
}

/// Returns the code that names a peer: `abcde-fghij`.
pub fn peer_code(peer: &PeerId) -> String {
    let hash = stretched("dfs/1 code of a peer that asks", &peer.0, &[]);
    let bits = number(&hash);
    let mut code = String::with_capacity(CODE_LETTERS + 1);
    for letter in 0..CODE_LETTERS {
        if letter == CODE_LETTERS / 2 {
            code.push('-');
        }
        let at = (bits >> (5 * letter)) & 31;
        code.push(char::from(ALPHABET[at as usize]));
    }
    code
}

/// Returns a code as [`peer_code`] writes it, from what a person typed: in either case, with or
/// without the hyphen; `None` for what is no code.
pub fn parse_code(text: &str) -> Option<String> {
    let mut code: String = text
        .chars()
        .filter(|letter| !letter.is_whitespace() && *letter != '-')
        .map(|letter| letter.to_ascii_lowercase())
        .collect();
    let known = code.bytes().all(|letter| ALPHABET.contains(&letter));
    if !known || code.len() != CODE_LETTERS {
        return None;
    }
    code.insert(CODE_LETTERS / 2, '-');
    Some(code)
}

/// Returns the words that name a peer together with a volume, of which `volume` is a mark.
pub fn four_words(peer: &PeerId, volume: &[u8; 32]) -> [&'static str; WORDS] {
    let hash = stretched("dfs/1 words of a peer that asks", &peer.0, volume);
    let bits = number(&hash);
    std::array::from_fn(|at| word((bits >> (11 * at)) as u16))
}

fn stretched(context: &'static str, peer: &[u8], volume: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(peer).update(volume);
    let mut hash: [u8; 32] = hasher.finalize().into();
    for _ in 0..ROUNDS {
        hash = blake3::hash(&hash).into();
    }
    hash
}

fn number(hash: &[u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_list_is_sorted_and_told_apart_by_four_letters() {
        assert_eq!(WORD_LIST.len(), 2048);
        let start = |word: &'static str| word.get(..4).unwrap_or(word);
        for pair in WORD_LIST.windows(2) {
            assert!(
                pair[0] < pair[1] && start(pair[0]) != start(pair[1]),
                "{pair:?}"
            );
        }
        for number in 0..2048 {
            assert_eq!(word_number(word(number)), Some(number));
        }
        assert_eq!(word_number(" Zoo"), Some(2047));
        assert_eq!(word_number("dfs"), None);
    }

    #[test]
    fn codes_and_words_are_of_one_peer_and_one_volume() {
        let (peer, other) = (PeerId([1; 32]), PeerId([2; 32]));
        assert_eq!(peer_code(&peer), peer_code(&peer));
        assert_ne!(peer_code(&peer), peer_code(&other));
        assert_eq!(four_words(&peer, &[3; 32]), four_words(&peer, &[3; 32]));
        assert_ne!(four_words(&peer, &[3; 32]), four_words(&peer, &[4; 32]));
        assert_ne!(four_words(&peer, &[3; 32]), four_words(&other, &[3; 32]));
    }

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = peer_code(&PeerId([1; 32]));
        assert_eq!(code.len(), CODE_LETTERS + 1);
        assert_eq!(parse_code(&code).unwrap(), code);
        let typed = format!(" {} ", code.replace('-', " ").to_uppercase());
        assert_eq!(parse_code(&typed).unwrap(), code);
        for wrong in [
            "",
            "abcde",
            "abcde-fghi1",
            "abcde-fghijk",
            "abcde-fghi\u{e9}",
        ] {
            assert_eq!(parse_code(wrong), None, "{wrong}");
        }
    }
}
