//! The mark: what must be known of the row log before it is read, and cannot be told from it.
//!
//! A log that lost its end, or a file, looks like one that ended there. So the mark says up to which
//! commit the log was durable, and which commits the tree had; and it counts the epochs. It is one
//! block of two slots that are written in turn, in place: on a full disk, too, and a write that is
//! torn leaves the other slot. docs/format.md describes the bytes.

use std::io;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::disk::{Disk, DiskFile};

/// What a mark says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// The sealing epoch of the last opening.
    pub(super) epoch: u32,
    /// Number of the last commit that is known to be durable.
    pub(super) durable: u64,
    /// Number of the last commit that the tree is known to hold.
    pub(super) flushed: u64,
    /// Number of the log file with the last durable commit.
    pub(super) file: u64,
}

/// The file of the mark.
#[derive(Debug)]
pub(super) struct Mark {
    file: Arc<dyn DiskFile>,
    owner: u64,
    said: Said,
    /// Counted up with each write; the slot with the greater number is the newer one.
    turn: u64,
}

/// Its name in the folder of the row log.
const NAME: &str = "mark";

const MAGIC: [u8; 8] = *b"dfsmark1";

/// Of each slot; a sector, which a disk writes as a whole.
const SLOT_BYTES: u64 = 512;

/// Magic, owner, turn, durable, flushed, file, epoch and four zeros, checksum.
const SAID_BYTES: usize = 8 * 8;

impl Mark {
    /// Returns what the mark in a folder says to the owner of the folder; `None` where there is no
    /// mark, where it is damaged, and where it is another owner's.
    pub(super) fn read(disk: &dyn Disk, owner: u64) -> io::Result<Option<Said>> {
        Ok(Self::find(disk, owner)?.map(|(_, said)| said))
    }

    /// Opens or makes the mark and writes what is to be said, durably.
    pub(super) fn open(disk: &dyn Disk, owner: u64, said: Said) -> io::Result<Self> {
        let turn = Self::find(disk, owner)?.map_or(0, |(turn, _)| turn);
        let is_new = !disk.names()?.iter().any(|name| name == NAME);
        let file = disk.open(NAME, true)?;
        if file.size()? < 2 * SLOT_BYTES {
            file.write_at(&[0; 2 * SLOT_BYTES as usize], &[], 0)?;
        }
        let mut mark = Self {
            file,
            owner,
            said,
            turn,
        };
        mark.write()?;
        mark.file.sync_data()?;
        if is_new {
            disk.sync_names()?;
        }
        Ok(mark)
    }

    /// Returns what it says.
    pub(super) fn said(&self) -> Said {
        self.said
    }

    /// Says something else; the system writes it to the disk when it likes.
    pub(super) fn say(&mut self, said: Said) -> io::Result<()> {
        if said == self.said {
            return Ok(());
        }
        self.said = said;
        self.write()
    }

    /// Makes durable what it says.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&mut self) -> io::Result<()> {
        self.turn += 1;
        let slot = encode(self.owner, self.turn, self.said);
        self.file.write_at(&slot, &[], self.turn % 2 * SLOT_BYTES)
    }

    fn find(disk: &dyn Disk, owner: u64) -> io::Result<Option<(u64, Said)>> {
        let file = match disk.open(NAME, false) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let bytes = file.read_at(2 * SLOT_BYTES as usize, 0)?;
        let slots = bytes.chunks(SLOT_BYTES as usize);
        let said = slots.filter_map(|slot| decode(owner, slot));
        Ok(said.max_by_key(|(turn, _)| *turn))
    }
}

fn encode(owner: u64, turn: u64, said: Said) -> [u8; SAID_BYTES] {
    let words = [
        u64::from_le_bytes(MAGIC),
        owner,
        turn,
        said.durable,
        said.flushed,
        said.file,
        u64::from(said.epoch),
    ];
    let mut slot = [0; SAID_BYTES];
    for (bytes, word) in slot.chunks_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let (body, sum) = slot.split_at_mut(SAID_BYTES - 8);
    sum.copy_from_slice(&xxh3_64(body).to_le_bytes());
    slot
}

fn decode(owner: u64, slot: &[u8]) -> Option<(u64, Said)> {
    let slot = slot.first_chunk::<SAID_BYTES>()?;
    let mut words = [0; SAID_BYTES / 8];
    for (word, bytes) in words.iter_mut().zip(slot.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    let [magic, of, turn, durable, flushed, file, epoch, sum] = words;
    let (body, _) = slot.split_at(SAID_BYTES - 8);
    let is_ours = magic.to_le_bytes() == MAGIC && of == owner && sum == xxh3_64(body);
    let said = Said {
        epoch: u32::try_from(epoch).ok()?,
        durable,
        flushed,
        file,
    };
    is_ours.then_some((turn, said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::Folder;
    use crate::store::told::{Done, ToldFolder};

    fn said(n: u64) -> Said {
        Said {
            epoch: n as u32,
            durable: 10 * n,
            flushed: 9 * n,
            file: 8 * n,
        }
    }

    #[test]
    fn the_newest_whole_slot_of_the_same_owner_counts() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::new(folder.path());
        assert_eq!(Mark::read(&disk, 1).unwrap(), None);
        let mut mark = Mark::open(&disk, 1, said(1)).unwrap();
        assert_eq!(Mark::read(&disk, 1).unwrap(), Some(said(1)));
        for n in 2..6 {
            mark.say(said(n)).unwrap();
            assert_eq!(Mark::read(&disk, 1).unwrap(), Some(said(n)));
            assert_eq!(Mark::read(&disk, 2).unwrap(), None);
        }
        // Each byte of either slot: what is left is the one before, or the same.
        let path = folder.path().join(NAME);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut torn = bytes.clone();
            torn[at] ^= 0x40;
            std::fs::write(&path, &torn).unwrap();
            let left = Mark::read(&disk, 1).unwrap();
            assert!(
                left == Some(said(5)) || left == Some(said(4)),
                "{at}: {left:?}"
            );
        }
        for len in [0, 1, 63, 511, 512] {
            std::fs::write(&path, &bytes[..len]).unwrap();
            Mark::read(&disk, 1).unwrap();
        }
        let mark = Mark::open(&disk, 1, said(7)).unwrap();
        assert_eq!(mark.said(), said(7));
        assert_eq!(Mark::read(&disk, 1).unwrap(), Some(said(7)));
    }

    #[test]
    fn a_new_mark_is_there_for_good_once_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let disk = ToldFolder::new(folder.path());
        let done = |n| {
            Mark::open(&*disk, 1, said(n)).unwrap();
            let done = disk.take().into_iter();
            done.map(|(what, _)| what).collect::<Vec<_>>()
        };
        let made = done(1);
        assert_eq!(made.first(), Some(&Done::Make));
        assert_eq!(made[made.len() - 2..], [Done::Sync, Done::SyncNames]);
        assert_eq!(done(2), [Done::Read, Done::Write, Done::Sync]);
    }

    #[test]
    fn a_mark_that_is_opened_keeps_what_it_said_until_the_new_is_whole_and_grows_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::new(folder.path());
        let path = folder.path().join(NAME);
        let mut before = None;
        for n in 1..6 {
            let mark = Mark::open(&disk, 1, said(n)).unwrap();
            // All that it will ever take, so that it is written on a full disk, too.
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len() as u64, 2 * SLOT_BYTES);
            // As if power had gone while the new slot was written.
            let mut torn = bytes.clone();
            let slot = (mark.turn % 2 * SLOT_BYTES) as usize;
            torn[slot + 8..slot + SAID_BYTES].fill(0);
            std::fs::write(&path, torn).unwrap();
            assert_eq!(Mark::read(&disk, 1).unwrap(), before);
            std::fs::write(&path, bytes).unwrap();
            before = Some(said(n));
        }
    }
}
