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
use super::mark::Said;
use super::{KEY_MAX_BYTES, StoreError, VALUE_MAX_BYTES};
use crate::crypto::RowSealer;

/// A file larger than that is removed after its use; it was made for a batch larger than others. What was kept
/// back for the log is not.
const KEPT_MAX_BYTES: u64 = 96 << 20;

/// Bytes that [`LogFile::create_written`] writes at once.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Before each sealed batch: its length u32, its number u64, their checksum u64, all LE.
const HEADER_BYTES: usize = 4 + 8 + 8;

/// Records begin at multiples of this, so that they can be searched for behind a damaged one.
const ALIGN_BYTES: usize = 32;

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
    /// Its size: up to there it has its blocks.
    pub(super) size: u64,
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
            size: file.size()?,
            file,
            len: 0,
            is_written: false,
        })
    }

    /// Takes the file with a number, which holds nothing but has its room. Its name is durable when this returns.
    pub(super) fn adopt(disk: &dyn Disk, number: u64) -> io::Result<Self> {
        disk.sync_names()?;
        let file = disk.open(&name_of(number), false)?;
        Ok(Self {
            number,
            size: file.size()?,
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
        let file = disk.open(&name, false)?;
        Ok(Self {
            number,
            size: file.size()?,
            file,
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
        self.len += (HEADER_BYTES + sealed.len()).next_multiple_of(ALIGN_BYTES) as u64;
        self.size = self.size.max(self.len);
        Ok(())
    }

    /// Returns what it may grow by without taking room from the disk.
    pub(super) fn room(&self) -> u64 {
        self.size.saturating_sub(self.len)
    }

    /// Goes on in a file behind what was replayed of it. Batches behind that which were given up
    /// are made none, durably, lest they be taken for successors of those that come.
    pub(super) fn go_on(disk: &dyn Disk, found: &ReplayedFile) -> io::Result<Self> {
        let file = disk.open(&name_of(found.number), false)?;
        for offset in &found.given_up {
            file.write_at(&[0; HEADER_BYTES], &[], *offset)?;
        }
        if !found.given_up.is_empty() {
            file.sync_data()?;
        }
        Ok(Self {
            number: found.number,
            size: found.size,
            file,
            len: found.end,
            is_written: true,
        })
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
    /// How many batches there are, whatever they are worth.
    seen: u64,
    /// How many of them opened.
    opened: u64,
    /// The newest epoch in which one of them was sealed.
    pub(super) epoch: u32,
    /// The files that were read, ascending.
    pub(super) files: Vec<ReplayedFile>,
}

/// A file that was replayed.
#[derive(Debug)]
pub(super) struct ReplayedFile {
    pub(super) number: u64,
    pub(super) size: u64,
    /// Behind the last batch that counts; 0 where none does.
    pub(super) end: u64,
    /// Number of that batch.
    pub(super) last: u64,
    /// Where there are batches behind it that were given up.
    given_up: Vec<u64>,
}

impl Replayed {
    /// Fails where the log is another's, or less than what is said of it.
    ///
    /// `is_ours` says that something else than the log opened with this key: then a batch that does
    /// not open was never synced, or is damaged.
    pub(super) fn check(
        &self,
        said: Option<Said>,
        is_ours: bool,
        folder: &Path,
    ) -> Result<(), StoreError> {
        if self.seen > 0 && self.opened == 0 && said.is_none() && !is_ours {
            return Err(StoreError::Damaged {
                path: folder.to_owned(),
                what: "holds no commit that opens with this folder's key",
            });
        }
        let Some(said) = said.filter(|said| said.durable > self.last) else {
            return Ok(());
        };
        let is_there = self.files.iter().any(|file| file.number == said.file);
        Err(StoreError::Damaged {
            path: folder.join(name_of(said.file)),
            what: if is_there {
                "lacks commits that were on the disk"
            } else {
                "is missing, with commits that were on the disk"
            },
        })
    }
}

/// Calls `f` for each batch of the log behind `flushed`, in order, up to the first that is missing.
/// Where `flushed` is not known the log begins with its first batch. Writes nothing.
///
/// After a power cut what was never synced may be there or not: what lies behind a gap is given up.
/// [`StoreError::Damaged`] where a later batch says that the missing one was durable.
pub(super) fn replay(
    disk: &dyn Disk,
    folder: &Path,
    sealer: &RowSealer,
    flushed: Option<u64>,
    f: &mut dyn FnMut(u64, Changes),
) -> Result<Replayed, StoreError> {
    let io = |e| StoreError::io("read the row log in", folder, e);
    let names = disk.names().map_err(io)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let mut last = flushed;
    let mut found = Replayed::default();
    for number in numbers {
        let handle = disk.open(&name_of(number), false).map_err(io)?;
        let size = handle.size().map_err(io)?;
        let len = usize::try_from(size).unwrap_or(usize::MAX);
        let bytes = handle.read_at(len, 0).map_err(io)?;
        let mut file = ReplayedFile {
            number,
            size,
            end: 0,
            last: 0,
            given_up: Vec::new(),
        };
        for record in Records::new(number, &bytes) {
            found.seen += 1;
            found.epoch = found.epoch.max(RowSealer::epoch_of(record.sealed));
            let seq = record.seq;
            let before = *last.get_or_insert_with(|| seq.saturating_sub(1));
            if seq <= before {
                (file.end, file.last) = (record.end, seq.max(file.last));
                continue;
            }
            let body = sealer.open(&place(number, seq), record.sealed);
            let Some((durable, changes)) = body.ok().and_then(|body| decode(&body)) else {
                file.given_up.push(record.offset);
                continue;
            };
            found.opened += 1;
            if seq == before + 1 {
                last = Some(seq);
                (file.end, file.last) = (record.end, seq);
                found.count += 1;
                f(seq, changes);
                continue;
            }
            if durable > before {
                return Err(StoreError::Damaged {
                    path: folder.to_owned(),
                    what: "lacks a commit that was on the disk",
                });
            }
            file.given_up.push(record.offset);
            found.lost += 1;
        }
        found.files.push(file);
    }
    found.last = last.unwrap_or(0);
    Ok(found)
}

/// Calls `f` for each batch that opens, whatever is missing; returns how many do not.
pub(super) fn salvage(
    disk: &dyn Disk,
    folder: &Path,
    sealer: &RowSealer,
    f: &mut dyn FnMut(u64, Changes),
) -> Result<u64, StoreError> {
    let io = |e| StoreError::io("read the row log in", folder, e);
    let mut lost = 0;
    for name in disk.names().map_err(io)? {
        let Some(number) = number_of(&name) else {
            continue;
        };
        let file = disk.open(&name, false).map_err(io)?;
        let len = usize::try_from(file.size().map_err(io)?).unwrap_or(usize::MAX);
        let bytes = file.read_at(len, 0).map_err(io)?;
        for record in Records::new(number, &bytes) {
            let body = sealer.open(&place(number, record.seq), record.sealed);
            match body.ok().and_then(|body| decode(&body)) {
                Some((_, changes)) => f(record.seq, changes),
                None => lost += 1,
            }
        }
    }
    Ok(lost)
}

/// A batch as it lies in a file.
struct Record<'a> {
    offset: u64,
    /// Where the next one begins.
    end: u64,
    seq: u64,
    sealed: &'a [u8],
}

/// Walks the batches of a file, those that do not open included, and behind a damaged header those
/// that can be found.
struct Records<'a> {
    number: u64,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    fn new(number: u64, bytes: &'a [u8]) -> Self {
        let at = 0;
        Self { number, bytes, at }
    }

    fn record_at(&self, at: usize) -> Option<Record<'a>> {
        let mut rest = self.bytes.get(at..)?;
        let len = u32::from_le_bytes(take(&mut rest)?);
        let seq = u64::from_le_bytes(take(&mut rest)?);
        let sum = u64::from_le_bytes(take(&mut rest)?);
        // Most places hold nothing, which costs no hash to see.
        if len == 0 || len as usize > SEALED_MAX_BYTES {
            return None;
        }
        let sealed = rest.get(..len as usize)?;
        if sum != checksum(self.number, len, seq) {
            return None;
        }
        let end = (at + HEADER_BYTES + len as usize).next_multiple_of(ALIGN_BYTES);
        Some(Record {
            offset: at as u64,
            end: end as u64,
            seq,
            sealed,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.bytes.len() {
            match self.record_at(self.at) {
                Some(record) => {
                    self.at = usize::try_from(record.end).unwrap_or(usize::MAX);
                    return Some(record);
                }
                None => self.at += ALIGN_BYTES,
            }
        }
        None
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
    use crate::store::told::{Done, ToldFolder};

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
            Some(flushed),
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
        let numbers: Vec<u64> = replayed.files.iter().map(|file| file.number).collect();
        assert_eq!(numbers, [7, 8]);
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
        assert_eq!(replayed.files[0].end, file.len);
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
        let starts: Vec<u64> = Records::new(1, &bytes)
            .map(|record| record.offset)
            .collect();
        // The third is torn: nobody said that it is durable.
        file.write_at(&[1], &[], starts[2] + 30).unwrap();
        let (seen, replayed) = read(&disk, 0).unwrap();
        assert_eq!(seen, [1, 2]);
        assert_eq!(replayed.lost, 2);
        // The second is: the later file says that it was.
        let whole = file.read_at(1, starts[1] + 30).unwrap();
        file.write_at(&[1], &[], starts[1] + 30).unwrap();
        assert!(matches!(read(&disk, 0), Err(StoreError::Damaged { .. })));
        // But not where the tree has it.
        assert_eq!(read(&disk, 3).unwrap().0, [4, 5]);
        // Nor does a damaged header hide what lies behind it, in its file or a later one.
        file.write_at(&whole, &[], starts[1] + 30).unwrap();
        for at in 0..HEADER_BYTES as u64 {
            let whole = file.read_at(1, starts[0] + at).unwrap();
            file.write_at(&[whole[0] ^ 4], &[], starts[0] + at).unwrap();
            let outcome = read(&disk, 0);
            assert!(matches!(outcome, Err(StoreError::Damaged { .. })), "{at}");
            file.write_at(&whole, &[], starts[0] + at).unwrap();
        }
    }

    #[test]
    fn what_was_given_up_never_comes_back_behind_what_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::new(folder.path());
        write(&disk, 1, 1..9, 0);
        let file = disk.open(&name_of(1), false).unwrap();
        let bytes = file.read_at(10_000, 0).unwrap();
        let third = Records::new(1, &bytes).nth(2).unwrap();
        file.write_at(&[1], &[], third.offset + 30).unwrap();
        let (seen, replayed) = read(&disk, 0).unwrap();
        assert_eq!((seen, replayed.lost), (vec![1, 2], 5));
        // The new third is as long as the old one was: the old fourth lies right behind it.
        let mut log = LogFile::go_on(&disk, &replayed.files[0]).unwrap();
        let mut body = Vec::new();
        encode(&mut body, 2, &changes(3));
        log.append(sealer(), 3, &body).unwrap();
        let (seen, replayed) = read(&disk, 0).unwrap();
        assert_eq!((seen, replayed.lost), (vec![1, 2, 3], 0));
    }

    #[test]
    fn a_new_file_does_with_the_room_that_there_is_and_with_no_other_failure() {
        for what in [Done::Reserve, Done::Write] {
            for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
                let folder = tempfile::tempdir().unwrap();
                let disk = ToldFolder::new(folder.path());
                disk.refuse(what, ".wal", kind);
                let made = LogFile::create_written(&*disk, 1, 200 << 10);
                let is_full = kind == io::ErrorKind::StorageFull;
                assert_eq!(made.is_ok(), is_full, "{what:?} {kind}");
                let Ok(mut made) = made else {
                    continue;
                };
                assert_eq!(made.is_written, what == Done::Reserve);
                disk.allow();
                let mut body = Vec::new();
                encode(&mut body, 0, &changes(1));
                made.append(sealer(), 1, &body).unwrap();
                assert_eq!(read(&*disk, 0).unwrap().0, [1]);
            }
        }
    }

    #[test]
    fn what_was_given_up_is_none_for_good_before_anything_is_written_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let disk = ToldFolder::new(folder.path());
        write(&*disk, 1, 1..9, 0);
        let file = disk.open(&name_of(1), false).unwrap();
        file.write_at(&[0; HEADER_BYTES], &[], 0).unwrap();
        let (_, replayed) = read(&*disk, 0).unwrap();
        disk.take();
        LogFile::go_on(&*disk, &replayed.files[0]).unwrap();
        let done: Vec<Done> = disk.take().into_iter().map(|(what, _)| what).collect();
        let expected = [vec![Done::Write; 7], vec![Done::Sync]].concat();
        assert_eq!(done, expected);
        // Nothing to give up is nothing to wait for.
        let (_, replayed) = read(&*disk, 0).unwrap();
        disk.take();
        LogFile::go_on(&*disk, &replayed.files[0]).unwrap();
        assert_eq!(disk.take(), []);
    }

    #[test]
    fn who_reads_out_what_is_left_gets_each_batch_that_opens_and_how_many_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::new(folder.path());
        write(&disk, 1, 1..5, 4);
        write(&disk, 2, 5..7, 4);
        let left = || {
            let mut seen = Vec::new();
            let lost = salvage(&disk, Path::new("log"), sealer(), &mut |seq, got| {
                assert_eq!(got, changes(seq));
                seen.push(seq);
            });
            seen.sort_unstable();
            (seen, lost.unwrap())
        };
        assert_eq!(left(), (vec![1, 2, 3, 4, 5, 6], 0));
        let file = disk.open(&name_of(1), false).unwrap();
        let bytes = file.read_at(10_000, 0).unwrap();
        for lost in Records::new(1, &bytes).skip(1).take(2) {
            let whole = bytes[lost.offset as usize + 30];
            file.write_at(&[whole ^ 1], &[], lost.offset + 30).unwrap();
        }
        assert_eq!(left(), (vec![1, 4, 5, 6], 2));
    }

    #[test]
    fn the_greatest_rows_are_read_and_no_greater_ones() {
        let mut body = Vec::new();
        // A key is stored with the tag of its table.
        for (more_key, more_value) in [(0, 0), (1, 0), (0, 1)] {
            let key = vec![7; KEY_MAX_BYTES + 1 + more_key];
            let value = Bytes::from(vec![9; VALUE_MAX_BYTES + more_value]);
            let changes = Changes::from([(key, Some(value))]);
            encode(&mut body, 5, &changes);
            let read = decode(&body);
            match more_key + more_value {
                0 => assert!(read == Some((5, changes))),
                _ => assert!(read.is_none()),
            }
        }
    }

    #[test]
    fn a_damaged_header_hides_nothing_but_its_own_batch() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::new(folder.path());
        write(&disk, 1, 1..9, 0);
        let file = disk.open(&name_of(1), false).unwrap();
        let mut bytes = file.read_at(10_000, 0).unwrap().to_vec();
        let found = |bytes: &[u8]| -> Vec<u64> {
            let all = Records::new(1, bytes);
            all.map(|record| record.seq).collect()
        };
        assert_eq!(found(&bytes), [1, 2, 3, 4, 5, 6, 7, 8]);
        let third = Records::new(1, &bytes).nth(2).unwrap().offset as usize;
        for bit in 0..HEADER_BYTES * 8 {
            bytes[third + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(found(&bytes), [1, 2, 4, 5, 6, 7, 8], "bit {bit}");
            bytes[third + bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn damage_anywhere_never_panics_and_never_invents() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::new(folder.path());
        write(&disk, 1, 1..4, 0);
        let file = disk.open(&name_of(1), false).unwrap();
        let bytes = file.read_at(10_000, 0).unwrap();
        let ends: Vec<u64> = Records::new(1, &bytes)
            .map(|record| record.offset + (HEADER_BYTES + record.sealed.len()) as u64)
            .collect();
        let bytes = bytes.slice(..ends[2] as usize);
        for at in 0..bytes.len() {
            file.write_at(&[bytes[at] ^ 0x55], &[], at as u64).unwrap();
            let (seen, replayed) = read(&disk, 0).unwrap();
            let is_padding = ends
                .iter()
                .any(|end| (*end..end.next_multiple_of(ALIGN_BYTES as u64)).contains(&(at as u64)));
            assert_eq!(seen.len() == 3, is_padding, "{at}: {seen:?}");
            // The mark knows better.
            let said = |durable| {
                let file = 1;
                Some(Said {
                    durable,
                    file,
                    ..Said::default()
                })
            };
            let checked = replayed.check(said(3), true, Path::new("log"));
            assert_eq!(checked.is_ok(), is_padding, "{at}");
            replayed
                .check(said(seen.len() as u64), true, Path::new("log"))
                .unwrap();
            file.write_at(&bytes[at..=at], &[], at as u64).unwrap();
        }
        assert_eq!(read(&disk, 0).unwrap().0, [1, 2, 3]);
    }
}
