//! The write-ahead log of the rows: batches in the order of their commits, sealed, in numbered
//! files. docs/format.md describes the bytes.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::batch::Changes;
use super::disk::{Disk, DiskFile};
use super::error::is_full;
use super::{KEY_MAX_BYTES, StoreError, VALUE_MAX_BYTES};
use crate::crypto::RowSealer;

/// A file larger than that is removed after its use; it was made for a batch larger than others.
const KEPT_MAX_BYTES: u64 = 64 << 20;

/// Bytes that [`LogFile::create_written`] writes at once.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Before each sealed batch: its length u32, its number u64, their checksum u64, all LE.
const HEADER_BYTES: usize = 4 + 8 + 8;

/// Longest sealed batch that is looked at; no caller makes one as long.
const SEALED_MAX_BYTES: usize = 256 << 20;

/// Length of a value that says that the row is removed.
const REMOVED: u32 = u32::MAX;

/// The file that batches are appended to.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) number: u64,
    pub(super) file: Arc<dyn DiskFile>,
    /// Where the next batch begins.
    pub(super) len: u64,
    /// Its blocks were written before, so that a sync is cheap.
    pub(super) is_written: bool,
}

impl LogFile {
    /// Makes the file with a number, with room for `room` bytes: a sync of a file whose length
    /// stays is cheaper. Its name is durable when this returns.
    pub(super) fn create(disk: &dyn Disk, number: u64, room: u64) -> io::Result<Self> {
        let file = disk.open(&name_of(number), true)?;
        match file.reserve(room) {
            // On a disk with less room than that it may well be enough for what comes.
            Err(error) if !is_full(&error) => return Err(error),
            _ => {}
        }
        disk.sync_names()?;
        Ok(Self {
            number,
            file,
            len: 0,
            is_written: false,
        })
    }

    /// Makes the file as [`LogFile::create`] does, and writes zeros over its room, durably.
    ///
    /// A sync of what is written over them is cheaper by a commit of the file system's journal: it
    /// has not to say of any block that it is written to from now on. Takes the disk's time.
    pub(super) fn create_written(disk: &dyn Disk, number: u64, room: u64) -> io::Result<Self> {
        let mut log = Self::create(disk, number, room)?;
        let step = ZEROS.len() as u64;
        let written = (0..room / step)
            .try_for_each(|n| log.file.write_at(&ZEROS, &[], n * step))
            .and_then(|()| log.file.sync_data());
        log.is_written = written.is_ok();
        match written {
            Err(error) if !is_full(&error) => Err(error),
            _ => Ok(log),
        }
    }

    /// Makes the file with a number of one that is needed no more, whose blocks are written
    /// already. What it holds has its old number, so that nobody takes it for batches of the new.
    pub(super) fn recycle(disk: &dyn Disk, old: u64, number: u64) -> io::Result<Self> {
        let name = name_of(number);
        disk.rename(&name_of(old), &name)?;
        disk.sync_names()?;
        Ok(Self {
            number,
            file: disk.open(&name, false)?,
            len: 0,
            is_written: true,
        })
    }

    /// Writes a batch that [`encode`] made, to be visible to [`replay`] as batch `seq`. Where this
    /// fails the log is as it was.
    pub(super) fn append(&mut self, sealer: &RowSealer, seq: u64, body: &[u8]) -> io::Result<()> {
        let sealed = sealer.seal(&place(self.number, seq), body);
        let header = header(self.number, seq, &sealed);
        self.file.write_at(&header, &sealed, self.len)?;
        self.len += (HEADER_BYTES + sealed.len()) as u64;
        Ok(())
    }
}

/// Tells whether a file of a length is worth keeping for [`LogFile::recycle`].
pub(super) fn is_kept(len: u64) -> bool {
    (1..=KEPT_MAX_BYTES).contains(&len)
}

/// Encodes changes for [`LogFile::append`]; `durable` is the number of the last batch known to be.
pub(super) fn encode(body: &mut Vec<u8>, durable: u64, changes: &Changes) {
    body.clear();
    body.extend_from_slice(&durable.to_le_bytes());
    body.extend_from_slice(&count_of(changes.len()).to_le_bytes());
    for (key, value) in changes {
        let value_len = value
            .as_ref()
            .map_or(REMOVED, |value| count_of(value.len()));
        body.extend_from_slice(&count_of(key.len()).to_le_bytes());
        body.extend_from_slice(&value_len.to_le_bytes());
        body.extend_from_slice(key);
        body.extend_from_slice(value.as_deref().unwrap_or_default());
    }
}

/// Limits of the store keep every length far below.
fn count_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(REMOVED - 1)
}

fn decode(body: &[u8]) -> Option<(u64, Changes)> {
    let mut rest = body;
    let durable = u64::from_le_bytes(take(&mut rest)?);
    let count = u32::from_le_bytes(take(&mut rest)?);
    let mut changes = Changes::new();
    for _ in 0..count {
        let key_len = u32::from_le_bytes(take(&mut rest)?) as usize;
        let value_len = u32::from_le_bytes(take(&mut rest)?);
        if key_len > KEY_MAX_BYTES + 1 {
            return None;
        }
        let key = rest.split_off(..key_len)?.to_vec();
        let value = match value_len {
            REMOVED => None,
            len if len as usize > VALUE_MAX_BYTES => return None,
            len => Some(Bytes::copy_from_slice(rest.split_off(..len as usize)?)),
        };
        changes.insert(key, value);
    }
    rest.is_empty().then_some((durable, changes))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*first)
}

/// What binds a sealed batch to its place.
fn place(number: u64, seq: u64) -> [u8; 19] {
    let mut place = *b"wal----------------";
    let (_, numbers) = place.split_at_mut(3);
    let (first, second) = numbers.split_at_mut(8);
    first.copy_from_slice(&number.to_le_bytes());
    second.copy_from_slice(&seq.to_le_bytes());
    place
}

fn header(number: u64, seq: u64, sealed: &[u8]) -> [u8; HEADER_BYTES] {
    let len = count_of(sealed.len());
    let mut header = [0; HEADER_BYTES];
    let (first, rest) = header.split_at_mut(4);
    let (second, third) = rest.split_at_mut(8);
    first.copy_from_slice(&len.to_le_bytes());
    second.copy_from_slice(&seq.to_le_bytes());
    third.copy_from_slice(&checksum(number, len, seq).to_le_bytes());
    header
}

/// Tells a header from what a disk leaves after a power cut; the seal proves the batch itself.
fn checksum(number: u64, len: u32, seq: u64) -> u64 {
    let mut hash = Xxh3::with_seed(number);
    hash.update(&len.to_le_bytes());
    hash.update(&seq.to_le_bytes());
    hash.digest()
}

/// What [`replay`] found.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Number of the last batch that is whole with all before it; what the tree holds where the
    /// log holds nothing more.
    pub(super) last: u64,
    /// How many batches were given.
    pub(super) count: u64,
    /// How many later ones were given up, because one before them was never synced.
    pub(super) lost: u64,
    /// The files that were read, ascending.
    pub(super) files: Vec<u64>,
}

/// Calls `f` for each batch of the log behind `flushed`, in order, up to the first that is missing.
///
/// After a power cut what was never synced may be there or not: what lies behind a gap is given up.
/// [`StoreError::Corrupt`] where a later batch says that the missing one was durable.
pub(super) fn replay(
    disk: &dyn Disk,
    folder: &Path,
    sealer: &RowSealer,
    flushed: u64,
    f: &mut dyn FnMut(u64, Changes),
) -> Result<Replayed, StoreError> {
    let io = |e| StoreError::io("read the row log in", folder, e);
    let names = disk.names().map_err(io)?;
    let mut files: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    files.sort_unstable();
    let mut found = Replayed {
        last: flushed,
        ..Replayed::default()
    };
    for number in &files {
        let file = disk.open(&name_of(*number), false).map_err(io)?;
        let len = usize::try_from(file.size().map_err(io)?).unwrap_or(usize::MAX);
        let bytes = file.read_at(len, 0).map_err(io)?;
        for (seq, sealed) in Records::new(*number, &bytes) {
            if seq <= found.last {
                continue;
            }
            let body = sealer.open(&place(*number, seq), sealed);
            let Some((durable, changes)) = body.ok().and_then(|body| decode(&body)) else {
                continue;
            };
            if seq == found.last + 1 {
                found.last = seq;
                found.count += 1;
                f(seq, changes);
                continue;
            }
            if durable > found.last {
                return Err(StoreError::Corrupt {
                    what: "the row log lacks a batch that was durable",
                });
            }
            found.lost += 1;
        }
    }
    found.files = files;
    Ok(found)
}

/// Walks the batches of a file, those that do not open included, up to the first broken header.
struct Records<'a> {
    number: u64,
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    fn new(number: u64, bytes: &'a [u8]) -> Self {
        Self {
            number,
            rest: bytes,
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = u32::from_le_bytes(take(&mut self.rest)?);
        let seq = u64::from_le_bytes(take(&mut self.rest)?);
        let sum = u64::from_le_bytes(take(&mut self.rest)?);
        if sum != checksum(self.number, len, seq) || len as usize > SEALED_MAX_BYTES {
            return None;
        }
        let sealed = self.rest.split_off(..len as usize)?;
        Some((seq, sealed))
    }
}

/// Returns the name of the file with a number.
pub(super) fn name_of(number: u64) -> String {
    format!("{number:016x}.wal")
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (name_of(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::base::Rng;
    use crate::crypto::Identity;
    use crate::store::disk::Folder;

    fn sealer() -> &'static RowSealer {
        static SEALER: OnceLock<RowSealer> = OnceLock::new();
        SEALER.get_or_init(|| {
            let identity = Identity::generate(&Rng::from_seed(1)).unwrap();
            identity.local_key().sealer(1)
        })
    }

    fn changes(n: u64) -> Changes {
        let value = (!n.is_multiple_of(3)).then(|| Bytes::from(vec![n as u8; 100]));
        Changes::from([(n.to_le_bytes().to_vec(), value)])
    }

    fn write(disk: &dyn Disk, number: u64, batches: std::ops::Range<u64>, durable: u64) {
        let mut file = LogFile::create(disk, number, 1 << 20).unwrap();
        let mut body = Vec::new();
        for seq in batches {
            encode(&mut body, durable, &changes(seq));
            file.append(sealer(), seq, &body).unwrap();
        }
    }

    fn read(disk: &dyn Disk, flushed: u64) -> Result<(Vec<u64>, Replayed), StoreError> {
        let mut seen = Vec::new();
        let replayed = replay(
            disk,
            Path::new("log"),
            sealer(),
            flushed,
            &mut |seq, got| {
                assert_eq!(got, changes(seq));
                seen.push(seq);
            },
        )?;
        Ok((seen, replayed))
    }

    #[test]
    fn batches_come_back_in_order_behind_what_is_flushed() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::new(folder.path());
        write(&disk, 7, 1..6, 0);
        write(&disk, 8, 6..9, 0);
        disk.open("0000000000000009.tmp", true).unwrap();
        let (seen, replayed) = read(&disk, 3).unwrap();
        assert_eq!(seen, [4, 5, 6, 7, 8]);
        assert_eq!((replayed.last, replayed.lost), (8, 0));
        assert_eq!(replayed.files, [7, 8]);
        assert!(read(&disk, 8).unwrap().0.is_empty());
    }

    #[test]
    fn what_a_recycled_file_held_is_no_batch_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::new(folder.path());
        write(&disk, 1, 1..9, 0);
        let mut file = LogFile::recycle(&disk, 1, 2).unwrap();
        assert_eq!(disk.names().unwrap(), [name_of(2)]);
        assert!(read(&disk, 0).unwrap().0.is_empty());
        let mut body = Vec::new();
        for seq in 9..12 {
            encode(&mut body, 8, &changes(seq));
            file.append(sealer(), seq, &body).unwrap();
        }
        let (seen, replayed) = read(&disk, 8).unwrap();
        assert_eq!(seen, [9, 10, 11]);
        assert_eq!((replayed.last, replayed.lost), (11, 0));
        // One that is written ahead has nothing either.
        LogFile::create_written(&disk, 3, 200 << 10).unwrap();
        assert_eq!(read(&disk, 8).unwrap().0, seen);
        let written = disk.open(&name_of(3), false).unwrap();
        assert_eq!(written.size().unwrap(), 200 << 10);
    }

    #[test]
    fn a_torn_batch_ends_the_log_unless_it_was_durable() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::new(folder.path());
        write(&disk, 1, 1..4, 0);
        write(&disk, 2, 4..6, 2);
        let file = disk.open(&name_of(1), false).unwrap();
        let bytes = file.read_at(10_000, 0).unwrap();
        let starts: Vec<usize> = {
            let mut at = 0;
            Records::new(1, &bytes)
                .map(|(_, sealed)| {
                    let start = at;
                    at += HEADER_BYTES + sealed.len();
                    start
                })
                .collect()
        };
        // The third is torn: nobody said that it is durable.
        file.write_at(&[1], &[], starts[2] as u64 + 30).unwrap();
        let (seen, replayed) = read(&disk, 0).unwrap();
        assert_eq!(seen, [1, 2]);
        assert_eq!(replayed.lost, 2);
        // The second is: the later file says that it was.
        file.write_at(&[1], &[], starts[1] as u64 + 30).unwrap();
        assert!(matches!(read(&disk, 0), Err(StoreError::Corrupt { .. })));
        // But not where the tree has it.
        assert_eq!(read(&disk, 3).unwrap().0, [4, 5]);
    }

    #[test]
    fn damage_anywhere_never_panics_and_never_invents() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::new(folder.path());
        write(&disk, 1, 1..4, 0);
        let file = disk.open(&name_of(1), false).unwrap();
        let bytes = file.read_at(10_000, 0).unwrap();
        let records = Records::new(1, &bytes);
        let len: usize = records.map(|(_, sealed)| HEADER_BYTES + sealed.len()).sum();
        let bytes = bytes.slice(..len);
        for at in 0..bytes.len() {
            file.write_at(&[bytes[at] ^ 0x55], &[], at as u64).unwrap();
            let (seen, _) = read(&disk, 0).unwrap();
            assert!((0..3).contains(&seen.len()), "{at}: {seen:?}");
            file.write_at(&bytes[at..=at], &[], at as u64).unwrap();
        }
        assert_eq!(read(&disk, 0).unwrap().0, [1, 2, 3]);
    }
}
