//! The invite token: one word to paste, with all that a new peer needs for its first contact.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::roster::{InviteId, Role};
use crate::base::{PeerId, Rng, VolumeId};

/// Most addresses in a token; more would make it unwieldy.
pub const TOKEN_ADDRS_MAX: usize = 8;

/// The secret of an invite: whoever knows it is admitted, once.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteSecret(pub [u8; 16]);

impl InviteSecret {
    /// Returns a fresh secret.
    pub fn generate(rng: &Rng) -> Self {
        Self(rng.bytes())
    }

    /// Returns the name under which the roster knows the invite.
    pub fn invite(&self) -> InviteId {
        InviteId::of_secret(&self.0)
    }
}

impl fmt::Debug for InviteSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteSecret")
    }
}

/// What `dfs invite` prints and `--invite` takes.
///
/// [`fmt::Display`] gives the text, with the secret in it: `dfs1`, then base32 (RFC 4648, lower
/// case, no padding) of the fields and a checksum. [`FromStr`] takes it back in either case, and
/// with white space around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteToken {
    /// The volume.
    pub volume: VolumeId,
    /// The admin that issued the invite: the first contact is with this peer or with one whose
    /// roster leads back to `volume`, so nobody can come in between.
    pub issuer: PeerId,
    /// The role that the new member gets.
    pub role: Role,
    /// When the invite ends, milliseconds since 1970.
    pub expires_ms: u64,
    /// What is redeemed.
    pub secret: InviteSecret,
    /// Where peers of the volume may be found; at most [`TOKEN_ADDRS_MAX`] are written.
    pub addrs: Vec<SocketAddr>,
}

/// Says why a text is not accepted as an invite token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is something else.
    #[error("this is not an invite token: one begins with dfs1")]
    NotAToken,
    /// The text began as a token and was cut or mistyped.
    #[error("the invite token is damaged: some of it is missing or mistyped")]
    Damaged,
    /// The token was made by a newer release.
    #[error("the invite token was made by a newer dfs: upgrade this one")]
    TooNew {
        /// Its version.
        found: u32,
    },
}

impl fmt::Display for InviteToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&self.volume.0);
        bytes.extend_from_slice(&self.issuer.0);
        bytes.extend_from_slice(&self.secret.0);
        bytes.extend_from_slice(&self.expires_ms.to_le_bytes());
        bytes.push(role_tag(self.role));
        let addrs = self.addrs.iter().take(TOKEN_ADDRS_MAX);
        bytes.push(addrs.len() as u8);
        for addr in addrs {
            match addr.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&addr.port().to_le_bytes());
        }
        bytes.extend_from_slice(&checksum(&bytes));
        write!(f, "{PREFIX}{TOKEN_VERSION}{}", base32(&bytes))
    }
}

impl FromStr for InviteToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().to_ascii_lowercase();
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        // Base32 has no 0, 1, 8 and 9; a version is one digit, so that none runs into the rest.
        let version = body.chars().next().and_then(|digit| digit.to_digit(10));
        match version {
            None | Some(0) => return Err(TokenError::NotAToken),
            Some(TOKEN_VERSION) => {}
            Some(found) => return Err(TokenError::TooNew { found }),
        }
        let body = body.get(1..).ok_or(TokenError::Damaged)?;
        if body.len() > TEXT_MAX_CHARS {
            return Err(TokenError::Damaged);
        }
        let bytes = from_base32(body).ok_or(TokenError::Damaged)?;
        let (content, sum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(TokenError::Damaged)?;
        if checksum(content) != *sum {
            return Err(TokenError::Damaged);
        }
        Fields(content).token().ok_or(TokenError::Damaged)
    }
}

/// What is left to read of a token's bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn token(mut self) -> Option<InviteToken> {
        let token = InviteToken {
            volume: VolumeId(self.take()?),
            issuer: PeerId(self.take()?),
            secret: InviteSecret(self.take()?),
            expires_ms: u64::from_le_bytes(self.take()?),
            role: {
                let [tag] = self.take()?;
                Role::ALL.into_iter().find(|role| role_tag(*role) == tag)?
            },
            addrs: {
                let [count] = self.take()?;
                if usize::from(count) > TOKEN_ADDRS_MAX {
                    return None;
                }
                (0..count).map(|_| self.addr()).collect::<Option<_>>()?
            },
        };
        self.0.is_empty().then_some(token)
    }

    fn addr(&mut self) -> Option<SocketAddr> {
        let ip: IpAddr = match self.take()? {
            [4] => self.take::<4>()?.into(),
            [6] => self.take::<16>()?.into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_le_bytes(self.take()?)))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
}

const PREFIX: &str = "dfs";
const TOKEN_VERSION: u32 = 1;
const CHECKSUM_BYTES: usize = 4;

/// All fields with eight addresses have 242 bytes with the checksum, so 388 characters.
const TEXT_MAX_CHARS: usize = 400;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn role_tag(role: Role) -> u8 {
    match role {
        Role::Storage => 0,
        Role::Reader => 1,
        Role::Writer => 2,
        Role::Admin => 3,
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = blake3::derive_key("dfs/1 invite token checksum", bytes);
    [a, b, c, d]
}

fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut held, mut held_bits) = (0u32, 0);
    let letter = |bits: u32| char::from(ALPHABET[(bits & 31) as usize]);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        held_bits += 8;
        while held_bits >= 5 {
            held_bits -= 5;
            text.push(letter(held >> held_bits));
        }
        held &= (1 << held_bits) - 1;
    }
    if held_bits > 0 {
        text.push(letter(held << (5 - held_bits)));
    }
    text
}

/// Returns the bytes of lower-case base32, `None` for what [`base32`] never writes.
fn from_base32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut held, mut held_bits) = (0u32, 0);
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        held = (held << 5) | u32::try_from(value).ok()?;
        held_bits += 5;
        if held_bits >= 8 {
            held_bits -= 8;
            bytes.push(u8::try_from(held >> held_bits).ok()?);
            held &= (1 << held_bits) - 1;
        }
    }
    (held == 0 && held_bits < 5).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> InviteToken {
        InviteToken {
            volume: VolumeId([0x11; 32]),
            issuer: PeerId([0x22; 32]),
            role: Role::Writer,
            expires_ms: 1_800_000_000_000,
            secret: InviteSecret([0x33; 16]),
            addrs: vec![
                "192.0.2.7:4750".parse().unwrap(),
                "[2001:db8::1]:4751".parse().unwrap(),
            ],
        }
    }

    #[test]
    fn base32_agrees_with_rfc_4648() {
        for (plain, text) in [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foo", "mzxw6"),
            ("foob", "mzxw6yq"),
            ("fooba", "mzxw6ytb"),
            ("foobar", "mzxw6ytboi"),
        ] {
            assert_eq!(base32(plain.as_bytes()), text);
            assert_eq!(from_base32(text).unwrap(), plain.as_bytes());
        }
        for refused in ["m", "mz1q", "mzx", "mzxw7", "mzxw6ytboj"] {
            assert_eq!(from_base32(refused), None, "{refused}");
        }
    }

    #[test]
    fn tokens_are_one_word_and_come_back() {
        let text = token().to_string();
        assert!(text.starts_with("dfs1"));
        assert!(text.chars().all(|letter| letter.is_ascii_alphanumeric()));
        assert_eq!(text.parse::<InviteToken>().unwrap(), token());
        let pasted = format!("  {}\n", text.to_uppercase());
        assert_eq!(pasted.parse::<InviteToken>().unwrap(), token());
        assert!(format!("{:?}", token()).contains("secret: InviteSecret, "));
        let mut many = token();
        many.addrs = vec!["[2001:db8::1]:1".parse().unwrap(); 20];
        let back: InviteToken = many.to_string().parse().unwrap();
        assert_eq!(back.addrs.len(), TOKEN_ADDRS_MAX);
    }

    #[test]
    fn each_mistake_has_its_own_error() {
        let text = token().to_string();
        let parse = |text: &str| text.parse::<InviteToken>();
        for other in ["", "dfs", "hello", "dfsx", "dfs0abc", "https://example.org"] {
            assert_eq!(parse(other), Err(TokenError::NotAToken), "{other:?}");
        }
        assert_eq!(parse("dfs2abc"), Err(TokenError::TooNew { found: 2 }));
        for cut in 4..text.len() {
            assert_eq!(parse(&text[..cut]), Err(TokenError::Damaged));
        }
        for index in 4..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[index] = if changed[index] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(parse(&changed), Err(TokenError::Damaged));
        }
        assert_eq!(parse(&format!("{text}a")), Err(TokenError::Damaged));
        assert_eq!(
            parse(&format!("dfs1{}", "a".repeat(10_000))),
            Err(TokenError::Damaged)
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,100}", letters in "[a-z2-7]{0,400}") {
            let _ = text.parse::<InviteToken>();
            let _ = format!("dfs1{text}").parse::<InviteToken>();
            let _ = format!("dfs1{letters}").parse::<InviteToken>();
        }

        #[test]
        fn any_fields_with_a_good_checksum_do_not_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let sum = checksum(&bytes);
            bytes.extend_from_slice(&sum);
            let _ = format!("dfs1{}", base32(&bytes)).parse::<InviteToken>();
        }
    }
}
