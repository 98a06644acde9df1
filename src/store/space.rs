//! The last room on a disk is kept back, so that a full disk never stops what frees room.
//!
//! Against what this process writes a look at the free room is enough. Against other programs,
//! which take the last byte, the rows own a file, the ballast. What it holds is never free in
//! between, where others could take it: where the row log cannot grow, the ballast becomes its next
//! file. So files can still be removed. A flush of the row database, which makes files of its own, is put off where
//! there is no room for it, and takes some of the ballast where that has enough.
//!
//! What these need grows with the rows, and so does the reserve: what there is next to nothing of takes next to
//! nothing of the disk. It is what a flush takes and what removed rows leave, not what the rows hold: what is removed goes
//! through the log, whose files are used again when their table is flushed. It grows before the rows do: rows that
//! it cannot grow for are refused.

use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use super::StoreError;
use super::disk::{Disk, Room};
use super::error::is_full;
use crate::base::Clock;
use crate::base::time::SystemClock;

/// Watches the free room of a disk.
#[derive(Debug)]
pub(super) struct Space {
    disk: Arc<dyn Disk>,
    /// For messages.
    folder: PathBuf,
    clock: SystemClock,
    /// Bytes that may be written before the next look at the disk.
    credit: AtomicU64,
    /// When the disk was looked at, in milliseconds.
    looked_ms: AtomicU64,
    /// How many rows there are, in memory and on the disk.
    rows: AtomicU64,
    /// What a flush of the rows in memory writes.
    unflushed: AtomicU64,
    /// What the row log may grow by without taking room from the disk.
    log_room: AtomicU64,
    /// What a flush is about to take.
    flush: AtomicU64,
    reserve: Reserve,
    ballast: OnceLock<Ballast>,
}

/// How much room must be left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserve {
    /// Bytes where there are no rows.
    least: u64,
    /// Bytes for each row.
    per_row: u64,
    most: u64,
    /// The reserve takes at most this fraction of the disk.
    fraction: u64,
}

impl Reserve {
    /// Room that chunks must leave: rows go on when contents are refused already, so that files
    /// can still be removed.
    pub(super) const CHUNKS: Self = Self {
        least: 192 << 20,
        per_row: 0,
        most: 192 << 20,
        fraction: 16,
    };

    /// Room that rows must leave: for the log of what removes them, and for a flush of the memtables and a
    /// compaction behind it, which the row database does by itself.
    ///
    /// Twice what a flush takes, since that gets half at most ([`Space::give`]). A row that is removed leaves its key
    /// in the tree, until that is compacted, and there is what the log of the volume says of it: 64 bytes. Of the
    /// least, a quarter is what others may have taken by small changes when removals begin, and the rest takes
    /// the log of what removes some thousand rows, until there is so much that it is flushed.
    pub(super) const ROWS: Self = Self {
        least: 3 << 20,
        per_row: 64,
        most: 96 << 20,
        fraction: 32,
    };

    /// Returns the bytes of a disk that are kept back for so many rows, of which those in memory take so much when
    /// they are flushed.
    fn of(self, rows: u64, unflushed: u64, disk_bytes: u64) -> u64 {
        let flush = needed_for_flush(unflushed).saturating_mul(2);
        let removals = rows.saturating_mul(self.per_row);
        let grown = self.least.max(flush).saturating_add(removals);
        let grown = grown.min(self.most).next_multiple_of(STEP_BYTES);
        grown.min(disk_bytes / self.fraction)
    }

    /// Returns the most bytes of a disk that are ever kept back.
    pub(super) fn most_of(self, disk_bytes: u64) -> u64 {
        self.most.min(disk_bytes / self.fraction)
    }
}

impl Space {
    pub(super) fn new(disk: Arc<dyn Disk>, folder: PathBuf, reserve: Reserve) -> Self {
        Self {
            disk,
            folder,
            clock: SystemClock::new(),
            credit: AtomicU64::new(0),
            looked_ms: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            unflushed: AtomicU64::new(0),
            log_room: AtomicU64::new(0),
            flush: AtomicU64::new(0),
            reserve,
            ballast: OnceLock::new(),
        }
    }

    /// Lets the reserve lie in a file.
    pub(super) fn set_ballast(&self, path: &Path) -> Result<(), StoreError> {
        self.ballast.get_or_init(|| Ballast::new(path.to_owned()));
        self.look(0).map(drop)
    }

    /// Says how many rows there are, in memory and on the disk, and what a flush of those in memory writes.
    pub(super) fn set_rows(&self, rows: u64, unflushed: u64) {
        self.rows.store(rows, Ordering::Relaxed);
        self.unflushed.store(unflushed, Ordering::Relaxed);
    }

    /// Says how much the row log may grow by without taking room from the disk.
    pub(super) fn set_log_room(&self, bytes: u64) {
        self.log_room.store(bytes, Ordering::Relaxed);
    }

    /// Returns the room, of which the ballast is a part, and the reserve with so many bytes more.
    fn look(&self, more: u64) -> Result<Look, StoreError> {
        let room = self.room()?;
        let rows = self.rows.load(Ordering::Relaxed);
        let unflushed = self.unflushed.load(Ordering::Relaxed);
        // And what comes before the next look.
        let unflushed = unflushed.saturating_add(more).saturating_add(RECHECK_BYTES);
        let reserve = self.reserve.of(rows, unflushed, room.total);
        let ballast = self.ballast.get();
        let free = room.available;
        let free = free.saturating_sub(self.flush.load(Ordering::Relaxed));
        let held = ballast.map(|ballast| ballast.adjust(free, reserve));
        let (before, kept) = held.map_or((0, None), |held| (held.before, held.kept));
        Ok(Look {
            available: room.available.saturating_add(before),
            last: room.last.saturating_add(before),
            kept,
            reserve,
        })
    }

    fn room(&self) -> Result<Room, StoreError> {
        let room = self.disk.room();
        room.map_err(|e| StoreError::io("ask for the free space of", &self.folder, e))
    }

    /// Tells whether `bytes` could be written without eating into the reserve.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let look = self.look(0);
        look.is_ok_and(|look| look.is_kept() && look.usable() >= bytes)
    }

    /// Gives back what is kept back beyond the reserve; for when nothing is written.
    pub(super) fn rest(&self) -> Result<(), StoreError> {
        let reserve = self.look(0)?.reserve;
        if let Some(ballast) = self.ballast.get() {
            ballast.rest(reserve);
        }
        Ok(())
    }

    /// Says what a flush that runs takes: what is free for it is not kept back again meanwhile.
    pub(super) fn set_flush(&self, bytes: u64) {
        let needed = if bytes == 0 {
            0
        } else {
            needed_for_flush(bytes)
        };
        self.flush.store(needed, Ordering::Relaxed);
    }

    /// Returns how much of the room for a flush of so many bytes is missing on the disk.
    pub(super) fn missing_for_flush(&self, bytes: u64) -> u64 {
        let needed = needed_for_flush(bytes);
        // A disk that does not say takes any. Of what it keeps for root not all can be written: ext4 counts as free
        // what it needs for itself.
        let room = self.room().map_or(u64::MAX, |room| room.available);
        needed.saturating_sub(room)
    }

    /// Gives so much of the ballast back to the disk, where at least as much is left for the log.
    pub(super) fn give(&self, bytes: u64) -> bool {
        self.credit.store(0, Ordering::Relaxed);
        let ballast = self.ballast.get();
        ballast.is_some_and(|ballast| ballast.give(bytes))
    }

    /// Makes the ballast a file of the row log; tells whether there is one.
    pub(super) fn turn_to_log(&self, path: &Path) -> std::io::Result<bool> {
        self.credit.store(0, Ordering::Relaxed);
        let ballast = self.ballast.get();
        ballast.map_or(Ok(false), |ballast| ballast.turn(path))
    }

    /// Fails with [`StoreError::Full`] where writing `bytes` would eat into the reserve.
    ///
    /// A few bytes may take a quarter of the reserve, and all of it where something is removed by them: so what is
    /// small can be removed also where it is what filled the disk.
    pub(super) fn take(&self, bytes: u64, is_removal: bool) -> Result<(), StoreError> {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(self.looked_ms.load(Ordering::Relaxed)) < CREDIT_MS {
            let spend = |credit: u64| credit.checked_sub(bytes);
            let spent = self
                .credit
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
            if spent.is_ok() {
                return Ok(());
            }
        }
        let look = self.look(bytes)?;
        let mut credit = 0;
        if look.is_kept() && look.usable() >= bytes {
            credit = (look.usable() - bytes).min(RECHECK_BYTES);
        } else if bytes > SMALL_BYTES || !self.takes_small(look, bytes, is_removal) {
            return Err(StoreError::Full);
        }
        self.credit.store(credit, Ordering::Relaxed);
        self.looked_ms.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// Tells whether a few bytes may go to what is kept back.
    fn takes_small(&self, look: Look, bytes: u64, is_removal: bool) -> bool {
        let left = match look.kept {
            // The log says where it ends.
            Some(_) if is_removal => return true,
            Some(kept) => kept.saturating_add(self.log_room.load(Ordering::Relaxed)),
            None => look.last,
        };
        let parts = if is_removal { 1 } else { 3 };
        left.saturating_sub(look.reserve / 4 * parts) >= bytes
    }
}

fn needed_for_flush(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 8).saturating_add(FLUSH_BYTES)
}

/// What there is on the disk.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// What any process could write where nothing was kept back.
    available: u64,
    /// The same of this process.
    last: u64,
    /// What nobody else can take; `None` where no file can keep room.
    kept: Option<u64>,
    reserve: u64,
}

impl Look {
    /// Tells whether the reserve is kept from others.
    fn is_kept(self) -> bool {
        self.kept.is_none_or(|kept| kept >= self.reserve)
    }

    fn usable(self) -> u64 {
        self.available.saturating_sub(self.reserve)
    }
}

/// A file of no content that takes up room.
#[derive(Debug)]
struct Ballast {
    path: PathBuf,
    state: Mutex<Kept>,
}

/// A leaf lock.
#[derive(Debug)]
struct Kept {
    bytes: u64,
    /// The file system cannot set room aside: the reserve is what others leave of it.
    is_without: bool,
}

/// What [`Ballast::adjust`] found and left.
struct Adjusted {
    before: u64,
    kept: Option<u64>,
}

impl Ballast {
    /// Returns the ballast that an earlier process left, or none yet.
    fn new(path: PathBuf) -> Self {
        let meta = std::fs::metadata(&path).ok().filter(Metadata::is_file);
        let bytes = meta.map_or(0, |meta| meta.blocks() * 512);
        let state = Mutex::new(Kept {
            bytes,
            is_without: false,
        });
        Self { path, state }
    }

    /// Makes the ballast as large as the reserve, where that fits into what was `available`, and much smaller
    /// where the reserve is.
    fn adjust(&self, available: u64, reserve: u64) -> Adjusted {
        let mut state = self.state.lock();
        let before = state.bytes;
        let changed = if before < reserve && !state.is_without && available >= reserve - before {
            Some(self.grow(reserve))
        } else if before / 4 > reserve {
            Some(self.shrink(reserve))
        } else {
            None
        };
        match changed {
            Some(Ok(())) => state.bytes = reserve,
            Some(Err(error)) => {
                tracing::debug!(%error, "the ballast stays as it is");
                state.is_without |= before == 0 && !is_full(&error);
            }
            None => {}
        }
        Adjusted {
            before,
            kept: (!state.is_without).then_some(state.bytes),
        }
    }

    /// Gives so many bytes back to the disk, where that leaves at least as many.
    fn give(&self, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let left = state.bytes.saturating_sub(bytes);
        if left < bytes || self.shrink(left).is_err() {
            return false;
        }
        tracing::warn!("the disk is full: what is kept back for removing files is used now");
        state.bytes = left;
        true
    }

    fn rest(&self, reserve: u64) {
        let mut state = self.state.lock();
        if state.bytes > reserve && self.shrink(reserve).is_ok() {
            state.bytes = reserve;
        }
    }

    fn turn(&self, path: &Path) -> std::io::Result<bool> {
        let mut state = self.state.lock();
        if state.bytes == 0 {
            return Ok(false);
        }
        std::fs::rename(&self.path, path)?;
        tracing::warn!("the disk is full: what is kept back for removing files is used now");
        state.bytes = 0;
        Ok(true)
    }

    fn shrink(&self, bytes: u64) -> std::io::Result<()> {
        let file = File::options().write(true).open(&self.path)?;
        file.set_len(bytes)?;
        // The room counts as free only after a commit of the file system.
        file.sync_all()
    }

    fn grow(&self, bytes: u64) -> std::io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)?;
        let take = || rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes);
        Ok(rustix::io::retry_on_intr(take)?)
    }
}

/// The reserve grows by this much at a time.
const STEP_BYTES: u64 = 256 << 10;

/// The free room is asked for again after this many bytes written: a look at the disk costs 2 us,
/// other programs take room, too, and the reserve grows.
const RECHECK_BYTES: u64 = 256 << 10;

/// How long such a look counts: other programs fill the reserve in no shorter time.
const CREDIT_MS: u64 = 10;

/// What a flush writes beside its rows.
const FLUSH_BYTES: u64 = 256 << 10;

/// What removing a file or a chunk writes, without the contents of a small file.
pub(super) const SMALL_BYTES: u64 = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of which other programs take what they like.
    #[derive(Debug)]
    struct Shared {
        available: AtomicU64,
        total: AtomicU64,
        ballast: PathBuf,
    }

    impl Shared {
        fn new(available: u64, ballast: &Path) -> Self {
            Self {
                available: AtomicU64::new(available),
                total: AtomicU64::new(TOTAL),
                ballast: ballast.to_owned(),
            }
        }
    }

    const TOTAL: u64 = 320 << 20;
    const RESERVE: u64 = TOTAL / Reserve::ROWS.fraction;

    /// For which all of it is kept back.
    const ROWS: u64 = RESERVE / Reserve::ROWS.per_row;

    impl Disk for Shared {
        fn open(&self, _: &str, _: bool) -> std::io::Result<Arc<dyn super::super::disk::DiskFile>> {
            Err(std::io::ErrorKind::Unsupported.into())
        }
        fn remove(&self, _: &str) -> std::io::Result<()> {
            Ok(())
        }
        fn rename(&self, _: &str, _: &str) -> std::io::Result<()> {
            Ok(())
        }
        fn names(&self) -> std::io::Result<Vec<String>> {
            Ok(Vec::new())
        }
        fn sync_names(&self) -> std::io::Result<()> {
            Ok(())
        }
        fn room(&self) -> std::io::Result<Room> {
            let ballast = std::fs::metadata(&self.ballast).map_or(0, |meta| meta.blocks() * 512);
            let available = self.available.load(Ordering::Relaxed);
            Ok(Room {
                available: available.saturating_sub(ballast),
                last: available.saturating_sub(ballast),
                total: self.total.load(Ordering::Relaxed),
            })
        }
    }

    #[test]
    fn what_is_kept_back_is_never_free_in_between_and_is_kept_again_later() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = folder.path().join("ballast");
        let disk = Arc::new(Shared::new(TOTAL, &ballast));
        let held = || std::fs::metadata(&ballast).map_or(0, |meta| meta.blocks() * 512);
        let space = Space::new(Arc::<Shared>::clone(&disk), "x".into(), Reserve::ROWS);
        space.set_rows(ROWS, 0);
        space.set_ballast(&ballast).unwrap();
        assert_eq!(held(), RESERVE);
        space.take(1 << 20, false).unwrap();

        // Others take everything else, and would take what is given back: a few bytes go on, much does not.
        disk.available.store(RESERVE, Ordering::Relaxed);
        space.looked_ms.store(0, Ordering::Relaxed);
        space.credit.store(0, Ordering::Relaxed);
        assert!(matches!(space.take(1 << 20, true), Err(StoreError::Full)));
        space.take(100, false).unwrap();
        assert_eq!(held(), RESERVE);
        // What is added ends before what is removed.
        let log = folder.path().join("log");
        assert!(space.turn_to_log(&log).unwrap());
        assert_eq!(std::fs::metadata(&log).unwrap().blocks() * 512, RESERVE);
        assert!(!space.turn_to_log(&log).unwrap());
        disk.available.store(0, Ordering::Relaxed);
        space.set_log_room(RESERVE - 1000);
        space.take(100, false).unwrap();
        space.set_log_room(RESERVE / 4 * 3);
        assert!(matches!(space.take(100, false), Err(StoreError::Full)));
        space.set_log_room(100);
        space.take(100, true).unwrap();

        disk.available.store(TOTAL, Ordering::Relaxed);
        space.take(1 << 20, false).unwrap();
        assert_eq!(held(), RESERVE);

        // One that is there is used by the next process.
        disk.available.store(RESERVE, Ordering::Relaxed);
        let next = Space::new(Arc::<Shared>::clone(&disk), "x".into(), Reserve::ROWS);
        next.set_rows(ROWS, 0);
        next.set_ballast(&ballast).unwrap();
        next.take(100, true).unwrap();
        assert_eq!(held(), RESERVE);
    }

    #[test]
    fn what_is_kept_back_grows_while_there_is_room_and_rows_without_it_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = folder.path().join("ballast");
        let disk = Arc::new(Shared::new(RESERVE + (1 << 20), &ballast));
        let held = || std::fs::metadata(&ballast).map_or(0, |meta| meta.blocks() * 512);
        let space = Space::new(Arc::<Shared>::clone(&disk), "x".into(), Reserve::ROWS);
        space.set_rows(ROWS, 0);
        space.set_ballast(&ballast).unwrap();
        assert_eq!(held(), RESERVE);
        drop(space);

        // There is room for what is asked, and none for what would have to be kept back for it.
        std::fs::remove_file(&ballast).unwrap();
        std::fs::create_dir(&ballast).unwrap();
        let space = Space::new(disk, "x".into(), Reserve::ROWS);
        space.set_ballast(&ballast).unwrap();
        // A file system that can keep nothing back has what others leave.
        space.take(100 << 10, false).unwrap();
        let look = Look {
            available: TOTAL,
            last: TOTAL,
            kept: Some(RESERVE - 1),
            reserve: RESERVE,
        };
        assert!(!look.is_kept());
        assert!(!space.takes_small(
            Look {
                kept: Some(RESERVE / 2),
                ..look
            },
            100,
            false
        ));
        assert!(space.takes_small(
            Look {
                kept: Some(0),
                ..look
            },
            100,
            true
        ));
    }

    #[test]
    fn a_flush_takes_half_of_what_is_kept_back_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = folder.path().join("ballast");
        let disk = Arc::new(Shared::new(TOTAL, &ballast));
        let held = || std::fs::metadata(&ballast).map_or(0, |meta| meta.blocks() * 512);
        let space = Space::new(Arc::<Shared>::clone(&disk), "x".into(), Reserve::ROWS);
        space.set_rows(ROWS, 0);
        space.set_ballast(&ballast).unwrap();
        assert_eq!(space.missing_for_flush(TOTAL / 2), 0);
        disk.available.store(RESERVE, Ordering::Relaxed);
        let missing = space.missing_for_flush(RESERVE / 4);
        assert!(missing > RESERVE / 4);
        assert!(!space.give(RESERVE / 2 + 1));
        assert!(space.give(missing));
        assert_eq!(space.missing_for_flush(RESERVE / 4), 0);
        let left = held();
        assert!(left >= RESERVE / 2);
        // It is not taken back before the flush has it.
        space.set_flush(RESERVE / 4);
        space.take(100, true).unwrap();
        assert_eq!(held(), left);
        space.set_flush(0);
        space.take(100, true).unwrap();
        assert_eq!(held(), RESERVE);
    }

    #[test]
    fn the_ballast_is_small_without_rows_and_grows_before_there_are_more() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = folder.path().join("ballast");
        let disk = Arc::new(Shared::new(TOTAL, &ballast));
        let held = || std::fs::metadata(&ballast).map_or(0, |meta| meta.blocks() * 512);
        let space = Space::new(Arc::<Shared>::clone(&disk), "x".into(), Reserve::ROWS);
        space.set_ballast(&ballast).unwrap();
        assert_eq!(held(), Reserve::ROWS.least);
        let (mut rows, mut unflushed) = (0, 0);
        for bytes in [100, 5_000, 60_000].into_iter().cycle().take(300) {
            space.take(bytes, false).unwrap();
            unflushed += bytes;
            rows += 1;
            space.set_rows(rows, unflushed);
            // Half of it is for the flush of all that is in memory.
            let needed = rows * Reserve::ROWS.per_row + 2 * needed_for_flush(unflushed);
            assert!(
                held() >= needed.min(RESERVE),
                "{unflushed} bytes of rows, {}",
                held()
            );
        }
        // The file system may count a block of its own.
        assert!(
            (RESERVE..RESERVE + (64 << 10)).contains(&held()),
            "{}",
            held()
        );
        // Rows in the tree are removed by little more than their keys; who has removed much has the room for
        // other things.
        space.set_rows(2_000_000, 0);
        disk.available.store(64 << 30, Ordering::Relaxed);
        disk.total.store(64 << 30, Ordering::Relaxed);
        assert!(space.has_room(1));
        assert!(held() >= Reserve::ROWS.most);
        space.set_rows(100_000, 0);
        assert!(space.has_room(1));
        assert!((6 << 20..10 << 20).contains(&held()), "{}", held());
    }
}
