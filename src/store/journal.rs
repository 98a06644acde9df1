//! What the store itself does to the row database's journals: repair before opening, and emptying.
//!
//! The row database (fjall 3) appends each batch to the newest `N.jnl` of its folder and refuses to
//! open where a batch there is damaged. But after a power cut the part that was never synced may
//! hold anything: sectors that were written, others that were not. So before it opens, [`repair`]
//! cuts the newest journal behind the last batch that is whole; older journals were synced before
//! their successor was made, and damage in them is damage.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, SeekFrom, flock, seek};
use xxhash_rust::xxh3::Xxh3;

use super::{KEY_MAX_BYTES, StoreError, VALUE_MAX_BYTES};

/// What [`repair`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Repaired {
    /// Length of the whole batches, which the database replays.
    pub(super) kept_bytes: u64,
    /// Bytes written behind them; 0 after an orderly end.
    pub(super) cut_bytes: u64,
}

/// Cuts the newest journal of the folder behind its last whole batch.
///
/// Does nothing in a folder without journals.
pub(super) fn repair(folder: &Path) -> Result<Repaired, StoreError> {
    let Some((_, path)) = newest(folder)? else {
        return Ok(Repaired::default());
    };
    let _lock = hold(folder)?;
    let io = |op| move |e| StoreError::io(op, folder, e);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(io("open a journal in"))?;
    let kept = valid_len(&mut BufReader::with_capacity(1 << 20, &file));
    let kept = kept.map_err(io("read a journal in"))?;
    let cut = written_behind(&file, kept).map_err(io("read a journal in"))?;
    cut_to(&file, kept).map_err(io("cut a journal in"))?;
    Ok(Repaired {
        kept_bytes: kept,
        cut_bytes: cut,
    })
}

fn cut_to(file: &File, len: u64) -> io::Result<()> {
    file.set_len(len)?;
    file.sync_all()
}

/// Empties the newest journal when dropped, once that is allowed.
///
/// To be dropped after the database is closed, and allowed when all that the journal says is in
/// the tree: the database does the same when it begins a new journal, but only at 64 MB.
#[derive(Debug)]
pub(super) struct EmptyJournal {
    folder: PathBuf,
    allowed: bool,
}

impl EmptyJournal {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            allowed: false,
        }
    }

    pub(super) fn allow(&mut self) {
        self.allowed = true;
    }

    fn empty(&self) -> Result<(), StoreError> {
        let Some((_, path)) = newest(&self.folder)? else {
            return Ok(());
        };
        let _lock = hold(&self.folder)?;
        let file = OpenOptions::new().write(true).open(&path);
        file.and_then(|file| cut_to(&file, 0))
            .map_err(|e| StoreError::io("cut", &path, e))
    }
}

impl Drop for EmptyJournal {
    fn drop(&mut self) {
        if self.allowed
            && let Err(error) = self.empty()
        {
            tracing::warn!(%error, "the row journal stays as long as it is");
        }
    }
}

/// Takes the database's own lock, so that no journal is cut under a database that is open.
fn hold(folder: &Path) -> Result<Option<File>, StoreError> {
    let path = folder.join("lock");
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io("open", &path, e)),
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse {
            path: folder.to_owned(),
        }),
        Err(e) => Err(StoreError::io("lock", &path, e.into())),
    }
}

/// Returns the journal with the highest number, `None` where there is none.
fn newest(folder: &Path) -> Result<Option<(u64, PathBuf)>, StoreError> {
    let io = |e| StoreError::io("list", folder, e);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    let mut newest = None;
    for entry in entries {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jnl"));
        if let Some(number) = number.and_then(|number| number.parse::<u64>().ok())
            && newest.as_ref().is_none_or(|(best, _)| number > *best)
        {
            newest = Some((number, entry.path()));
        }
    }
    Ok(newest)
}

/// Returns how far behind `from` the last byte other than zero lies.
///
/// The file is allocated ahead; only what the file system says was written is read.
fn written_behind(file: &File, from: u64) -> io::Result<u64> {
    let mut block = vec![0; 64 << 10];
    let (mut at, mut end) = (from, from);
    while let Ok(data) = seek(file, SeekFrom::Data(at)) {
        let hole = seek(file, SeekFrom::Hole(data))?;
        at = data;
        while at < hole {
            let len = file.read_at(&mut block, at)?;
            let Some(read) = block.get(..len).filter(|read| !read.is_empty()) else {
                return Ok(end - from);
            };
            if let Some(last) = read.iter().rposition(|byte| *byte != 0) {
                end = at + last as u64 + 1;
            }
            at += len as u64;
        }
    }
    Ok(end - from)
}

/// Returns the length of the longest part of a journal that consists of whole batches.
fn valid_len(reader: &mut impl Read) -> io::Result<u64> {
    let mut scanner = Scanner {
        reader,
        read: 0,
        value: Vec::new(),
    };
    let mut valid = 0;
    loop {
        match scanner.batch() {
            Ok(()) => valid = scanner.read,
            Err(Broken::Io(e)) => return Err(e),
            Err(Broken::End) => return Ok(valid),
        }
    }
}

/// Why there is no whole batch at this place.
enum Broken {
    /// The disk cannot be read.
    Io(io::Error),
    /// The file ends, or what is here is not what the database writes.
    End,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::End,
            _ => Self::Io(error),
        }
    }
}

/// Reads the batches of a journal: a start, items and clears, an end with their checksum.
struct Scanner<'a, R> {
    reader: &'a mut R,
    read: u64,
    value: Vec<u8>,
}

const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;
const TRAILER: [u8; 4] = *b"FJL\x03";

/// Behind the tag: value type u8, compression u8, keyspace u64, key length u16, value length u32,
/// stored value length u32.
const ITEM_HEADER_BYTES: usize = 1 + 1 + 8 + 2 + 4 + 4;

/// What sealing and the table tag add to a row, with room for what they may add one day.
const SEAL_ROOM_BYTES: usize = 256;

impl<R: Read> Scanner<'_, R> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.read += N as u64;
        Ok(bytes)
    }

    fn batch(&mut self) -> Result<(), Broken> {
        if self.take::<1>()? != [TAG_START] {
            return Err(Broken::End);
        }
        let count = u32::from_le_bytes(self.take()?);
        self.take::<8>()?;
        let mut hash = Xxh3::default();
        for _ in 0..count {
            let tag = self.take::<1>()?;
            hash.update(&tag);
            match tag {
                [TAG_ITEM] => self.item(&mut hash)?,
                [TAG_CLEAR] => hash.update(&self.take::<8>()?),
                _ => return Err(Broken::End),
            }
        }
        if self.take::<1>()? != [TAG_END] {
            return Err(Broken::End);
        }
        let checksum = u64::from_le_bytes(self.take()?);
        if checksum != hash.digest() || self.take::<4>()? != TRAILER {
            return Err(Broken::End);
        }
        Ok(())
    }

    fn item(&mut self, hash: &mut Xxh3) -> Result<(), Broken> {
        let header = self.take::<ITEM_HEADER_BYTES>()?;
        hash.update(&header);
        let [.., k0, k1, v0, v1, v2, v3, s0, s1, s2, s3] = header;
        let key_len = usize::from(u16::from_le_bytes([k0, k1]));
        let value_len = u32::from_le_bytes([v0, v1, v2, v3]);
        let stored_len = u32::from_le_bytes([s0, s1, s2, s3]);
        let len = key_len + stored_len as usize;
        if value_len != stored_len || len > KEY_MAX_BYTES + VALUE_MAX_BYTES + SEAL_ROOM_BYTES {
            return Err(Broken::End);
        }
        self.value.resize(len, 0);
        self.reader.read_exact(&mut self.value)?;
        self.read += len as u64;
        hash.update(&self.value);
        Ok(())
    }
}
