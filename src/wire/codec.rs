//! Messages to bytes and back: a version byte, then bincode with hard limits.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::limits::MESSAGE_BODY_MAX_BYTES;

/// The version of the messages that this build speaks: the first byte of each.
pub const WIRE_VERSION: u8 = 1;

/// Says why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// There is no byte at all.
    #[error("the message is empty")]
    Empty,
    /// The sender speaks a newer version.
    #[error("the message has version {found}, this program knows up to {WIRE_VERSION}")]
    TooNew {
        /// The sender's version.
        found: u8,
    },
    /// The message is of a kind that only a newer program knows.
    #[error("the message is of kind {found}, which this program does not know")]
    Unknown {
        /// The number of the kind.
        found: u32,
    },
    /// The bytes exceed the limit of a message.
    #[error("the message has {len} bytes, the limit is {limit}")]
    TooLarge {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The bytes do not decode to the expected type within its limits.
    #[error("{what} is malformed")]
    Malformed {
        /// The expected type.
        what: &'static str,
    },
}

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MESSAGE_BODY_MAX_BYTES>,
> = bincode::config::standard().with_limit::<MESSAGE_BODY_MAX_BYTES>();

/// Returns the bytes of a message: version byte and bincode.
///
/// The types of this room always encode; the fallible signature of bincode is for foreign types,
/// and a message that exceeds the limit is refused by the transport. An empty result, which no
/// peer decodes, stands for a failure.
pub(super) fn encode<T: Serialize>(message: &T) -> Bytes {
    let mut bytes = vec![WIRE_VERSION];
    let config = bincode::config::standard();
    match bincode::serde::encode_into_std_write(message, &mut bytes, config) {
        Ok(_) => bytes.into(),
        Err(_) => Bytes::new(),
    }
}

/// Returns the message that the bytes hold, all of them.
///
/// # Errors
///
/// [`WireError`] for every input that [`encode`] did not write in a version known here.
pub(super) fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    what: &'static str,
) -> Result<T, WireError> {
    if bytes.len() > MESSAGE_BODY_MAX_BYTES {
        return Err(WireError::TooLarge {
            len: bytes.len(),
            limit: MESSAGE_BODY_MAX_BYTES,
        });
    }
    let (&version, rest) = bytes.split_first().ok_or(WireError::Empty)?;
    if version > WIRE_VERSION {
        return Err(WireError::TooNew { found: version });
    }
    if version != WIRE_VERSION {
        return Err(WireError::Malformed { what });
    }
    match bincode::serde::decode_from_slice(rest, CONFIG) {
        Ok((message, used)) if used == rest.len() => Ok(message),
        _ => Err(WireError::Malformed { what }),
    }
}

/// How many kinds of a message are known.
pub(super) struct Kinds {
    /// Kinds of the message itself.
    pub(super) count: u32,
    /// The kind that is a message with kinds of its own, and how many those are.
    pub(super) nested: (u32, u32),
}

/// Returns the number with which a message of this version begins, where that is beyond the kinds
/// that are known: so what a newer program says is told from what is no message.
pub(super) fn unknown_kind(bytes: &[u8], kinds: &Kinds) -> Option<u32> {
    let number = |bytes| bincode::serde::decode_from_slice::<u32, _>(bytes, CONFIG).ok();
    let message = bytes.strip_prefix(&[WIRE_VERSION])?;
    let (kind, read) = number(message)?;
    if kind >= kinds.count {
        return Some(kind);
    }
    let (outer, inner_count) = kinds.nested;
    let (inner, _) = number(message.get(read..)?).filter(|_| kind == outer)?;
    (inner >= inner_count).then_some(inner)
}
