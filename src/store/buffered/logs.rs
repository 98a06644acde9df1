//! The log files: what an opening makes of those it finds, and which are kept for later.

use std::path::Path;
use std::sync::Arc;

use super::{BufferOptions, OpenLog};
use crate::crypto::RowSealer;
use crate::store::StoreError;
use crate::store::disk::{Disk, Folder};
use crate::store::mark::{Mark, Said};
use crate::store::wal::{self, LogFile, ReplayedFile};

/// Log files that are kept for the next tables.
pub(super) const FREE_FILES_MAX: usize = 2;

/// The log files of an opening.
pub(super) struct Logs {
    pub(super) current: LogFile,
    pub(super) unsynced: Vec<OpenLog>,
    /// Hold what is not in the tree, and are written to no more.
    pub(super) held: Vec<(u64, u64)>,
    pub(super) free: Vec<u64>,
    pub(super) next_number: u64,
}

impl Logs {
    /// Goes on with the newest file of which the tree does not hold everything, or else begins one.
    pub(super) fn take_over(
        disk: &dyn Disk,
        folder: &Path,
        files: Vec<ReplayedFile>,
        flushed: u64,
        options: BufferOptions,
    ) -> Result<Self, StoreError> {
        let io = |e| StoreError::io("make the row log in", folder, e);
        let next_number = files.last().map_or(1, |file| file.number + 1);
        let (mut needed, free): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| file.last > flushed);
        let newest = needed.pop();
        let mut unsynced = Vec::new();
        for file in &needed {
            unsynced.push(OpenLog {
                number: file.number,
                file: disk.open(&wal::name_of(file.number), false).map_err(io)?,
            });
        }
        let current = newest.map(|file| LogFile::go_on(disk, &file)).transpose();
        let current = current.map_err(io)?;
        let mut free = keep_some(disk, folder, free.iter().map(|file| file.number))?;
        let (current, next_number) = match current {
            Some(current) => (current, next_number),
            None => {
                let made = match free.pop() {
                    Some(free) => LogFile::recycle(disk, free, next_number),
                    None => LogFile::create(disk, next_number, options.new_file_bytes()),
                };
                (made.map_err(io)?, next_number + 1)
            }
        };
        unsynced.push(OpenLog {
            number: current.number,
            file: Arc::clone(&current.file),
        });
        Ok(Self {
            current,
            unsynced,
            held: needed.iter().map(|file| (file.number, file.size)).collect(),
            free,
            next_number,
        })
    }
}

/// What is to be known of a log before the tree is opened.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Seen {
    /// No epoch above that was used.
    pub(in crate::store) epoch: u32,
    /// The log has all that was ever committed.
    pub(in crate::store) tree_is_needless: bool,
}

/// Looks at the log without the tree, and without writing: fails where it is damaged, as far as
/// that can be told.
pub(in crate::store) fn look(
    disk: &dyn Disk,
    folder: &Path,
    sealer: &RowSealer,
) -> Result<Seen, StoreError> {
    let said = said(disk, folder, sealer)?;
    let flushed = said.map(|said| said.flushed);
    let replayed = wal::replay(disk, folder, sealer, flushed, &mut |_, _| {})?;
    replayed.check(said, false, folder)?;
    Ok(Seen {
        epoch: said.map_or(0, |said| said.epoch).max(replayed.epoch),
        tree_is_needless: flushed == Some(0),
    })
}

/// Fails where the log in a state folder does not reach down to what the tree holds.
pub(in crate::store) fn check_flushed(
    log: &Path,
    sealer: &RowSealer,
    flushed: u64,
) -> Result<(), StoreError> {
    let disk = Folder::new(log);
    let said = said(&disk, log, sealer)?;
    if said.is_some_and(|said| said.flushed > flushed) {
        return Err(StoreError::Damaged {
            path: log.to_owned(),
            what: "belongs to newer rows than those that lie beside it",
        });
    }
    let replayed = wal::replay(&disk, log, sealer, Some(flushed), &mut |_, _| {})?;
    replayed.check(said, true, log)
}

/// Returns what the mark says.
pub(super) fn said(
    disk: &dyn Disk,
    folder: &Path,
    sealer: &RowSealer,
) -> Result<Option<Said>, StoreError> {
    let said = Mark::read(disk, sealer.owner());
    said.map_err(|e| StoreError::io("read the mark in", folder, e))
}

/// Keeps the largest files for recycling and removes the others: on a full disk these have what is left of its room.
pub(super) fn keep_some(
    disk: &dyn Disk,
    folder: &Path,
    files: impl Iterator<Item = u64>,
) -> Result<Vec<u64>, StoreError> {
    let io = |e| StoreError::io("look at a row log in", folder, e);
    let (mut kept, mut superfluous) = (Vec::new(), Vec::new());
    for number in files {
        let file = disk.open(&wal::name_of(number), false).map_err(io)?;
        let size = file.size().map_err(io)?;
        if wal::is_kept(size) {
            kept.push((size, number));
        } else {
            superfluous.push(number);
        }
    }
    kept.sort_unstable();
    let smaller = kept.len().saturating_sub(FREE_FILES_MAX);
    superfluous.extend(kept.drain(..smaller).map(|(_, number)| number));
    let kept = kept.into_iter().map(|(_, number)| number).collect();
    remove(disk, folder, superfluous.into_iter())?;
    Ok(kept)
}

/// Keeps the files that are no longer than `most` and removes the others.
pub(super) fn keep_short(
    disk: &dyn Disk,
    folder: &Path,
    files: Vec<u64>,
    most: u64,
) -> Result<Vec<u64>, StoreError> {
    let io = |e| StoreError::io("look at a row log in", folder, e);
    let (mut kept, mut long) = (Vec::new(), Vec::new());
    for number in files {
        let file = disk.open(&wal::name_of(number), false).map_err(io)?;
        let is_long = file.size().map_err(io)? > most;
        if is_long { &mut long } else { &mut kept }.push(number);
    }
    remove(disk, folder, long.into_iter())?;
    Ok(kept)
}

fn remove(
    disk: &dyn Disk,
    folder: &Path,
    files: impl Iterator<Item = u64>,
) -> Result<(), StoreError> {
    for number in files {
        let removed = disk.remove(&wal::name_of(number));
        removed.map_err(|e| StoreError::io("remove a row log in", folder, e))?;
    }
    Ok(())
}
