//! How row values are encoded: bincode's standard configuration, always decoded with a limit.

use bincode::config::{Configuration, standard};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// Returns the bytes of a value.
///
/// Fails for no type made of plain structs, enums, collections and numbers; a type whose own
/// `Serialize` refuses is a mistake in the program.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FIRST_ROOM_BYTES);
    encode_into(value, &mut bytes);
    // Caches and tables keep it for long: in no more than it takes.
    bytes.as_slice().to_vec()
}

/// Appends the bytes of a value, as [`encode`] makes them.
pub fn encode_into<T: Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(value, bytes, standard())
        .expect("row types serialize without fail");
}

/// More than most rows take, so that encoding one does not move it.
const FIRST_ROOM_BYTES: usize = 192;

/// Returns the value of bytes that [`encode`] made.
///
/// [`StoreError::Corrupt`] where they are longer than `limit`, where a length inside them claims
/// more memory than any row of `limit` bytes needs, where they end early or go on behind the value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, StoreError> {
    if bytes.len() > limit {
        return Err(StoreError::Corrupt {
            what: "a row value is longer than its kind may be",
        });
    }
    // The limit of bincode counts the memory of collections, not the bytes read, and is a constant:
    // the smallest step that honest values of this length cannot reach.
    let result = match bytes.len() {
        0..=0xff => with_config(bytes, standard().with_limit::<{ 64 << 10 }>()),
        0x100..=0xffff => with_config(bytes, standard().with_limit::<{ 16 << 20 }>()),
        _ => with_config(bytes, standard().with_limit::<{ 1 << 30 }>()),
    };
    result.ok_or(StoreError::Corrupt {
        what: "a row value does not decode",
    })
}

/// Takes a value that [`encode`] made off the front of bytes; `None` where there is none. For numbers and
/// what is made of a few.
pub fn take<T: DeserializeOwned>(bytes: &mut &[u8]) -> Option<T> {
    let config = standard().with_limit::<TAKEN_MAX_BYTES>();
    let (value, read) = bincode::serde::decode_from_slice(bytes, config).ok()?;
    *bytes = bytes.get(read..)?;
    Some(value)
}

const TAKEN_MAX_BYTES: usize = 1 << 10;

/// Takes a number off the front of bytes, as [`take`].
pub fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes)
}

fn with_config<T: DeserializeOwned, const N: usize>(
    bytes: &[u8],
    config: Configuration<
        bincode::config::LittleEndian,
        bincode::config::Varint,
        bincode::config::Limit<N>,
    >,
) -> Option<T> {
    let (value, read) = bincode::serde::decode_from_slice(bytes, config).ok()?;
    (read == bytes.len()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip_and_damage_is_refused() {
        let value = (7u64, Some("name".to_owned()), vec![1u8, 2, 3]);
        let bytes = encode(&value);
        assert_eq!(
            decode::<(u64, Option<String>, Vec<u8>)>(&bytes, 100).unwrap(),
            value
        );
        let corrupt = |bytes: &[u8], limit| {
            matches!(
                decode::<(u64, Option<String>, Vec<u8>)>(bytes, limit),
                Err(StoreError::Corrupt { .. })
            )
        };
        assert!(corrupt(&bytes, 3));
        for cut in 0..bytes.len() {
            assert!(corrupt(&bytes[..cut], 100));
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(corrupt(&longer, 100));
    }

    #[test]
    fn a_hostile_length_is_refused_without_memory() {
        let huge = [253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(decode::<Vec<u8>>(&huge, 100).is_err());
        assert!(decode::<Vec<u64>>(&huge, 100).is_err());
        assert!(decode::<String>(&huge, 100).is_err());
        assert!(decode::<bytes::Bytes>(&huge, 100).is_err());
        assert!(decode::<std::collections::BTreeMap<u8, u8>>(&huge, 100).is_err());
    }
}
