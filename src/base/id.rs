//! Identifiers: one newtype for each, with hex text forms.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::time::Stamp;

/// Says that a text is not the hex form of an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hex digits")]
pub struct ParseIdError {
    /// How many digits the identifier has.
    pub expected: usize,
}

/// Returns the lower-case hex text of `bytes`.
pub fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Returns the bytes of a hex text, or `None` where it is not one.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

macro_rules! id32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Returns the raw bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Returns the identifier from 32 raw bytes, `None` for another length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(bytes.try_into().ok()?))
            }

            /// Returns the first eight hex digits, for people and logs.
            pub fn short(&self) -> String {
                to_hex(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                from_hex(text)
                    .and_then(|bytes| Self::from_slice(&bytes))
                    .ok_or(ParseIdError { expected: 64 })
            }
        }
    };
}

id32! {
    /// Names a peer: the SHA-256 of its RSA public key in SPKI DER.
    PeerId
}
id32! {
    /// Names a volume: the BLAKE3 of its genesis statement.
    VolumeId
}
id32! {
    /// Names a sealed chunk: the BLAKE3 of its sealed bytes.
    ChunkId
}

/// Names the device that authors ops: the first eight bytes of its [`PeerId`], big-endian.
///
/// The roster refuses a second peer with the same device id, so it is unique in a volume.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct DeviceId(pub u64);

impl From<PeerId> for DeviceId {
    fn from(peer: PeerId) -> Self {
        let mut first = [0u8; 8];
        first.copy_from_slice(&peer.0[..8]);
        Self(u64::from_be_bytes(first))
    }
}

/// Names a log: what one start of one device wrote. See [`LogId::of`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct LogId(pub u64);

impl LogId {
    /// Returns the log that a device writes in one of its incarnations: the first eight bytes,
    /// big-endian, of the BLAKE3 of both.
    pub fn of(device: DeviceId, incarnation: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"dfs log");
        hasher.update(&device.0.to_be_bytes());
        hasher.update(&incarnation.to_be_bytes());
        let mut first = [0u8; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_be_bytes(first))
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// An inode number, the same on every member; 1 is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ino(pub u64);

impl Ino {
    /// The root folder of every volume.
    pub const ROOT: Self = Self(1);
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names an op; its order is the total order of the volume.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct OpId {
    /// When the author issued it.
    pub stamp: Stamp,
    /// The log that it belongs to; decides between equal stamps.
    pub log: LogId,
}

impl OpId {
    /// Length of [`OpId::to_key`].
    pub const KEY_BYTES: usize = 16;

    /// Returns 16 bytes whose byte order is the total order.
    pub fn to_key(self) -> [u8; Self::KEY_BYTES] {
        let mut key = [0u8; Self::KEY_BYTES];
        key[..8].copy_from_slice(&self.stamp.0.to_be_bytes());
        key[8..].copy_from_slice(&self.log.0.to_be_bytes());
        key
    }

    /// Returns the op named by [`OpId::to_key`] bytes, `None` for another length.
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let key: &[u8; Self::KEY_BYTES] = key.try_into().ok()?;
        let (stamp, log) = key.split_at(8);
        Some(Self {
            stamp: Stamp(u64::from_be_bytes(stamp.try_into().ok()?)),
            log: LogId(u64::from_be_bytes(log.try_into().ok()?)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_what_is_not_hex() {
        let id = PeerId([0xab; 32]);
        assert_eq!(id.to_string().parse::<PeerId>().unwrap(), id);
        assert!("ab".parse::<PeerId>().is_err());
        assert!("zz".repeat(32).parse::<PeerId>().is_err());
        assert!(from_hex("é0").is_none());
    }

    #[test]
    fn op_keys_sort_as_ops_do() {
        let op = |stamp, log| OpId {
            stamp: Stamp(stamp),
            log: LogId(log),
        };
        let ops = [op(1, 9), op(2, 1), op(2, 2), op(300, 0)];
        for pair in ops.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_key() < pair[1].to_key());
            assert_eq!(OpId::from_key(&pair[0].to_key()), Some(pair[0]));
        }
    }
}
