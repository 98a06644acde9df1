//! Where things lie in a chunk file, and the rows that say so. docs/format.md has the byte maps.

use crate::base::ChunkId;
use crate::crypto::CHUNK_HEAD_BYTES;
use crate::store::{ChunkUsage, StoreError};

/// Records begin at multiples of this: a page of memory and a block of the file system, so that no
/// two chunks share one and the room of each can be given back by itself.
pub(super) const ALIGN_BYTES: u64 = 4096;

/// Where the first record of a file begins.
pub(super) const FIRST_OFFSET: u64 = ALIGN_BYTES;

/// What lies before the sealed bytes of each chunk.
pub(super) const RECORD_HEADER_BYTES: u64 = 4 + 4 + 32 + 8;

/// Version of the chunk files.
const FILE_VERSION: u32 = 1;
const FILE_MAGIC: [u8; 8] = *b"dfschunk";
const FILE_SUFFIX: &str = ".chunks";

/// "dfsc" in the order of the bytes: the start of a record, for whoever must search for it.
const RECORD_MAGIC: [u8; 4] = *b"dfsc";

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Number of the chunk file.
    pub(super) file: u32,
    /// Where its record begins.
    pub(super) offset: u64,
    /// Length of its sealed bytes.
    pub(super) len: u32,
}

impl Place {
    /// Returns where the sealed bytes begin.
    pub(super) fn body(self) -> u64 {
        self.offset + RECORD_HEADER_BYTES
    }

    /// Returns where the next record may begin.
    pub(super) fn end(self) -> u64 {
        (self.body() + u64::from(self.len)).next_multiple_of(ALIGN_BYTES)
    }

    /// Returns the length of its record.
    pub(super) fn record_len(self) -> usize {
        RECORD_HEADER_BYTES as usize + self.len as usize
    }

    /// Returns the key of its row among the fresh or the dead.
    pub(super) fn to_key(self) -> [u8; 12] {
        let mut key = [0; 12];
        let (file, offset) = key.split_at_mut(4);
        file.copy_from_slice(&self.file.to_be_bytes());
        offset.copy_from_slice(&self.offset.to_be_bytes());
        key
    }

    /// Returns the place that the key of a fresh or dead row and its length name.
    pub(super) fn from_key(key: &[u8], len: &[u8]) -> Result<Self, StoreError> {
        let place = || {
            let (file, offset) = key.split_first_chunk()?;
            Some(Self {
                file: u32::from_be_bytes(*file),
                offset: u64::from_be_bytes(offset.try_into().ok()?),
                len: u32::from_le_bytes(len.try_into().ok()?),
            })
        };
        place().and_then(Self::checked).ok_or(BAD_ROW)
    }

    /// Returns the place of a record, `None` where there can be none.
    pub(super) fn at(file: u32, offset: u64, len: u32) -> Option<Self> {
        Self { file, offset, len }.checked()
    }

    /// Offsets beyond what a file can have would overflow the arithmetic above.
    fn checked(self) -> Option<Self> {
        let sane = self.offset <= i64::MAX as u64 - (1 << 33)
            && self.offset.is_multiple_of(ALIGN_BYTES)
            && self.len as usize <= crate::store::SEALED_MAX_BYTES;
        sane.then_some(self)
    }
}

/// What the sealed bytes of a chunk begin with: no frame opens under the head of another chunk.
pub(super) type Head = [u8; CHUNK_HEAD_BYTES];

/// Returns the value of an index row.
pub(super) fn index_row(place: Place, head: Head) -> Vec<u8> {
    let mut row = Vec::with_capacity(16 + CHUNK_HEAD_BYTES);
    row.extend_from_slice(&place.file.to_le_bytes());
    row.extend_from_slice(&place.len.to_le_bytes());
    row.extend_from_slice(&place.offset.to_le_bytes());
    row.extend_from_slice(&head);
    row
}

/// Returns what an index row names.
pub(super) fn parse_index(row: &[u8]) -> Result<(Place, Head), StoreError> {
    let parse = || {
        let (file, rest) = row.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (offset, head) = rest.split_first_chunk()?;
        let place = Place {
            file: u32::from_le_bytes(*file),
            len: u32::from_le_bytes(*len),
            offset: u64::from_le_bytes(*offset),
        };
        Some((place.checked()?, head.try_into().ok()?))
    };
    parse().ok_or(BAD_ROW)
}

/// How much of a file is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) count: u64,
    pub(super) bytes: u64,
    /// As in [`ChunkUsage`].
    pub(super) ids: u64,
}

impl Totals {
    /// Returns the value of its row.
    pub(super) fn to_row(self) -> Vec<u8> {
        [self.count, self.bytes, self.ids]
            .map(u64::to_le_bytes)
            .concat()
    }

    /// Returns the totals that a row names.
    pub(super) fn from_row(row: &[u8]) -> Result<Self, StoreError> {
        let totals = || {
            let (count, rest) = row.split_first_chunk()?;
            let (bytes, ids) = rest.split_first_chunk()?;
            Some(Self {
                count: u64::from_le_bytes(*count),
                bytes: u64::from_le_bytes(*bytes),
                ids: u64::from_le_bytes(ids.try_into().ok()?),
            })
        };
        totals().ok_or(BAD_ROW)
    }

    pub(super) fn add(&mut self, id: ChunkId, place: Place) {
        self.ids ^= ChunkUsage::of(id);
        self.count += 1;
        self.bytes += u64::from(place.len);
    }

    pub(super) fn remove(&mut self, id: ChunkId, place: Place) {
        self.ids ^= ChunkUsage::of(id);
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(u64::from(place.len));
    }
}

/// Returns the value of a fresh row: the id, then the length.
pub(super) fn fresh_row(id: ChunkId, place: Place) -> Vec<u8> {
    [&id.0[..], &place.len.to_le_bytes()].concat()
}

/// Returns what a fresh row names.
pub(super) fn parse_fresh(key: &[u8], row: &[u8]) -> Result<(ChunkId, Place), StoreError> {
    let (id, len) = row.split_first_chunk().ok_or(BAD_ROW)?;
    Ok((ChunkId(*id), Place::from_key(key, len)?))
}

/// Returns the header of a record.
pub(super) fn record_header(id: ChunkId, place: Place) -> [u8; RECORD_HEADER_BYTES as usize] {
    let mut header = [0; RECORD_HEADER_BYTES as usize];
    let (magic, rest) = header.split_at_mut(4);
    magic.copy_from_slice(&RECORD_MAGIC);
    let (len, rest) = rest.split_at_mut(4);
    len.copy_from_slice(&place.len.to_le_bytes());
    let (name, _) = rest.split_at_mut(32);
    name.copy_from_slice(&id.0);
    header
}

/// Returns the chunk and the length that the header of a record names, `None` for what is none.
pub(super) fn parse_header(header: &[u8]) -> Option<(ChunkId, u32)> {
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (id, rest) = rest.split_first_chunk()?;
    let is_header = *magic == RECORD_MAGIC && rest.len() == 8;
    is_header.then_some((ChunkId(*id), u32::from_le_bytes(*len)))
}

/// Returns the header of a file.
pub(super) fn file_header(file: u32) -> Vec<u8> {
    let mut header = FILE_MAGIC.to_vec();
    header.extend_from_slice(&FILE_VERSION.to_le_bytes());
    header.extend_from_slice(&file.to_le_bytes());
    header
}

/// Returns the name of a file.
pub(super) fn file_name(file: u32) -> String {
    format!("{file:08x}{FILE_SUFFIX}")
}

/// Returns the number in the name of a file, `None` where it is not one of ours.
pub(super) fn file_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(FILE_SUFFIX)?;
    let number = u32::from_str_radix(digits, 16).ok()?;
    (file_name(number) == name).then_some(number)
}

const BAD_ROW: StoreError = StoreError::Corrupt {
    what: "a row of the chunk index",
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::chunk_head;

    #[test]
    fn records_never_share_a_page_and_waste_less_than_one() {
        for len in (0..20_000).chain([(1 << 20) - 1, 1 << 20, (1 << 20) + 69]) {
            let place = Place {
                file: 1,
                offset: 3 * ALIGN_BYTES,
                len,
            };
            let used = RECORD_HEADER_BYTES + u64::from(len);
            let end = place.end();
            assert!(end.is_multiple_of(ALIGN_BYTES));
            assert!(end >= place.offset + used && end < place.offset + used + ALIGN_BYTES);
        }
    }

    #[test]
    fn rows_round_trip_and_nonsense_is_refused() {
        let place = Place {
            file: 7,
            offset: 5 * ALIGN_BYTES,
            len: 1234,
        };
        let head = chunk_head(b"some sealed bytes that are longer than a head");
        assert_eq!(parse_index(&index_row(place, head)).unwrap(), (place, head));
        assert_eq!(&chunk_head(b"short")[..6], b"short\0");
        let fresh = fresh_row(ChunkId([9; 32]), place);
        let parsed = parse_fresh(&place.to_key(), &fresh).unwrap();
        assert_eq!(parsed, (ChunkId([9; 32]), place));
        let totals = Totals {
            count: 3,
            bytes: 9,
            ids: 7,
        };
        assert_eq!(Totals::from_row(&totals.to_row()).unwrap(), totals);
        for row in [&[][..], &[1; 52], &[1; 54], &[0xff; 53]] {
            assert!(parse_index(row).is_err());
            assert!(parse_fresh(row, row).is_err());
        }
        assert!(Totals::from_row(&[1; 17]).is_err());
        let longest = crate::store::SEALED_MAX_BYTES as u32;
        let is_there = |offset, len| Place::at(1, offset, len).is_some();
        assert!(is_there(ALIGN_BYTES, longest) && !is_there(ALIGN_BYTES, longest + 1));
        assert!(!is_there(ALIGN_BYTES + 1, 5) && !is_there(1 << 63, 5));
    }

    /// The worked example of docs/format.md.
    #[test]
    fn the_documented_example_is_what_is_written() {
        let place = Place {
            file: 1,
            offset: FIRST_OFFSET,
            len: 5,
        };
        let id = crate::crypto::chunk_id(b"hello");
        assert_eq!(file_header(1), b"dfschunk\x01\0\0\0\x01\0\0\0");
        let header = concat!(
            "6466736305000000ea8f163db38682925e4491c5e58d4bb3",
            "506ef8c14eb78a86e908c5624a67200f0000000000000000"
        );
        assert_eq!(crate::base::id::to_hex(&record_header(id, place)), header);
        assert_eq!(place.body(), 4096 + 48);
        assert_eq!(place.end(), 8192);
        let row = b"\x01\0\0\0\x05\0\0\0\0\x10\0\0\0\0\0\0hello";
        let row = [&row[..], &[0; 32]].concat();
        assert_eq!(index_row(place, chunk_head(b"hello")), row);
    }

    #[test]
    fn file_names_are_exact() {
        assert_eq!(file_number(&file_name(0xab)), Some(0xab));
        for name in [
            "ab.chunks",
            "000000AB.chunks",
            "000000ab",
            "+00000ab.chunks",
        ] {
            assert_eq!(file_number(name), None);
        }
    }
}
