//! The last room on a disk is kept back, so that a full disk never stops what frees room.
//!
//! Against what this process writes a look at the free room is enough. Against other programs,
//! which take the last byte, the rows own a file, the ballast, which they give back when it comes
//! to that: so files can still be removed, and what the row database writes in the background does
//! not fail half way. It grows to the size of the reserve while the disk has plenty of room, and stays
//! as it is where others have taken that already. What these need grows with the rows, and so does
//! the reserve: what there is next to nothing of takes next to nothing of the disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use super::StoreError;
use super::disk::{Disk, Room};
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
    /// What the rows take, in memory and on the disk.
    rows: AtomicU64,
    reserve: Reserve,
    ballast: OnceLock<Ballast>,
}

/// How much room must be left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserve {
    /// Bytes where there are no rows.
    least: u64,
    /// Bytes for each that the rows take.
    per_row_byte: u64,
    most: u64,
    /// The reserve takes at most this fraction of the disk.
    fraction: u64,
}

impl Reserve {
    /// Room that chunks must leave: rows go on when contents are refused already, so that files
    /// can still be removed.
    pub(super) const CHUNKS: Self = Self {
        least: 192 << 20,
        per_row_byte: 0,
        most: 192 << 20,
        fraction: 16,
    };

    /// Room that rows must leave: a flush of the memtables and a compaction behind it, which the
    /// row database does by itself and which must not fail half way.
    ///
    /// These have the quarter that nobody else may take: all rows, up to the most that is kept back. The
    /// half that is for removals is twice the rows: what removes all of them.
    pub(super) const ROWS: Self = Self {
        least: 2 << 20,
        per_row_byte: 4,
        most: 96 << 20,
        fraction: 32,
    };

    /// Returns the bytes of a disk that are kept back for rows that take so much.
    fn of(self, rows: u64, disk_bytes: u64) -> u64 {
        let grown = self
            .least
            .saturating_add(rows.saturating_mul(self.per_row_byte));
        let grown = grown / STEP_BYTES * STEP_BYTES;
        grown.min(self.most).min(disk_bytes / self.fraction)
    }

    /// Returns the most bytes of a disk that are ever kept back.
    pub(super) fn most_of(self, disk_bytes: u64) -> u64 {
        self.of(self.most, disk_bytes)
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
            reserve,
            ballast: OnceLock::new(),
        }
    }

    /// Lets the reserve lie in a file.
    pub(super) fn set_ballast(&self, path: &Path) -> Result<(), StoreError> {
        self.ballast.get_or_init(|| Ballast::new(path.to_owned()));
        self.look(0).map(drop)
    }

    /// Says how much the rows take, in memory and on the disk.
    pub(super) fn set_rows(&self, bytes: u64) {
        self.rows.store(bytes, Ordering::Relaxed);
    }

    /// Returns the room, of which the ballast is a part, and the reserve with so many bytes more.
    fn look(&self, more: u64) -> Result<(Room, u64), StoreError> {
        let room = self.disk.room();
        let room =
            room.map_err(|e| StoreError::io("ask for the free space of", &self.folder, e))?;
        let rows = self.rows.load(Ordering::Relaxed).saturating_add(more);
        let reserve = self.reserve.of(rows, room.total);
        let ballast = self.ballast.get();
        let held = ballast.map_or(0, |ballast| ballast.adjust(room.available, reserve));
        let room = Room {
            available: room.available.saturating_add(held),
            last: room.last.saturating_add(held),
            ..room
        };
        Ok((room, reserve))
    }

    /// Tells whether `bytes` could be written without eating into the reserve.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let room = self.look(0);
        room.is_ok_and(|(room, reserve)| room.available.saturating_sub(reserve) >= bytes)
    }

    /// Fails with [`StoreError::Full`] where writing `bytes` would eat into the reserve.
    ///
    /// A few bytes may take a quarter of the reserve, and three quarters where something is removed
    /// by them: so what is small can be removed also where it is what filled the disk.
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
        let (room, reserve) = self.look(bytes)?;
        let usable = room.available.saturating_sub(reserve);
        if usable < bytes {
            let kept = if is_removal {
                reserve / 4
            } else {
                reserve / 4 * 3
            };
            if bytes > SMALL_BYTES || room.last.saturating_sub(kept) < bytes {
                return Err(StoreError::Full);
            }
        }
        let credit = usable.saturating_sub(bytes).min(RECHECK_BYTES);
        self.credit.store(credit, Ordering::Relaxed);
        self.looked_ms.store(now, Ordering::Relaxed);
        Ok(())
    }
}

/// Gives back the ballast that an earlier process left, where the disk is nearly full.
pub(super) fn give_back(disk: &dyn Disk, path: &Path) -> std::io::Result<()> {
    let ballast = Ballast::new(path.to_owned());
    let held = *ballast.held.lock();
    if held > 0 && disk.room()?.available < held / 2 {
        ballast.shrink(0)?;
    }
    Ok(())
}

/// A file of no content that takes up room.
#[derive(Debug)]
struct Ballast {
    path: PathBuf,
    /// Its bytes. A leaf lock.
    held: Mutex<u64>,
}

impl Ballast {
    /// Returns the ballast that an earlier process left, or none yet.
    fn new(path: PathBuf) -> Self {
        let held = std::fs::metadata(&path).map_or(0, |meta| meta.blocks() * 512);
        Self {
            path,
            held: Mutex::new(held),
        }
    }

    /// Gives the ballast back where the disk is nearly full, makes it as large as the reserve where
    /// there is plenty; returns how much of the room it was when `available` was found out.
    fn adjust(&self, available: u64, reserve: u64) -> u64 {
        let mut held = self.held.lock();
        let before = *held;
        let changed = if before > 0 && available < reserve / 2 {
            tracing::warn!("the disk is full: what is kept back for removing files is used now");
            self.shrink(0).map(|()| 0)
        } else if before < reserve && available / PLENTY > reserve {
            self.grow(reserve).map(|()| reserve)
        } else if before / 2 > reserve {
            self.shrink(reserve).map(|()| reserve)
        } else {
            return before;
        };
        match changed {
            Ok(now) => *held = now,
            // A file system that cannot set room aside has a reserve all the same.
            Err(error) => tracing::debug!(%error, "the ballast stays as it is"),
        }
        before
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
        Ok(rustix::fs::fallocate(
            &file,
            FallocateFlags::empty(),
            0,
            bytes,
        )?)
    }
}

/// The reserve grows by this much at a time. Less than [`Reserve::least`].
const STEP_BYTES: u64 = 1 << 20;

/// The free room is asked for again after this many bytes written: a look at the disk costs 2 us,
/// other programs take room, too, and the reserve grows by a step.
const RECHECK_BYTES: u64 = STEP_BYTES / 4;

/// How long such a look counts: other programs fill the reserve in no shorter time.
const CREDIT_MS: u64 = 10;

/// The ballast is made as large as the reserve where this many times as much is free.
const PLENTY: u64 = 3;

/// What removing a file or a chunk writes, without the contents of a small file.
const SMALL_BYTES: u64 = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of which other programs take what they like.
    #[derive(Debug)]
    struct Shared {
        available: AtomicU64,
        ballast: PathBuf,
    }

    const TOTAL: u64 = 320 << 20;
    const RESERVE: u64 = TOTAL / Reserve::ROWS.fraction;

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
                total: TOTAL,
            })
        }
    }

    #[test]
    fn the_ballast_is_given_back_when_others_fill_the_disk_and_taken_again_later() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = folder.path().join("ballast");
        let disk = Arc::new(Shared {
            available: AtomicU64::new(TOTAL),
            ballast: ballast.clone(),
        });
        let held = || std::fs::metadata(&ballast).map_or(0, |meta| meta.blocks() * 512);
        let space = Space::new(Arc::<Shared>::clone(&disk), "x".into(), Reserve::ROWS);
        space.set_rows(RESERVE);
        space.set_ballast(&ballast).unwrap();
        assert_eq!(held(), RESERVE);
        space.take(1 << 20, false).unwrap();

        // Everything but the ballast: a few bytes go on, much does not.
        disk.available.store(RESERVE, Ordering::Relaxed);
        space.looked_ms.store(0, Ordering::Relaxed);
        space.credit.store(0, Ordering::Relaxed);
        assert!(matches!(space.take(1 << 20, true), Err(StoreError::Full)));
        space.take(100, false).unwrap();
        assert_eq!(held(), 0);
        // What is added ends before what is removed, and that before what goes on in the background.
        disk.available.store(RESERVE / 2, Ordering::Relaxed);
        assert!(matches!(space.take(100, false), Err(StoreError::Full)));
        space.take(100, true).unwrap();
        disk.available.store(RESERVE / 4, Ordering::Relaxed);
        assert!(matches!(space.take(100, true), Err(StoreError::Full)));

        disk.available.store(TOTAL, Ordering::Relaxed);
        space.take(1 << 20, false).unwrap();
        assert_eq!(held(), RESERVE);

        // One that is there is used by the next process.
        disk.available.store(RESERVE, Ordering::Relaxed);
        let next = Space::new(Arc::<Shared>::clone(&disk), "x".into(), Reserve::ROWS);
        next.set_rows(RESERVE);
        give_back(&*disk, &ballast).unwrap();
        assert_eq!(held(), 0);
        next.set_ballast(&ballast).unwrap();
        next.take(100, true).unwrap();
        assert_eq!(held(), 0);
    }

    #[test]
    fn the_ballast_is_small_without_rows_and_grows_before_there_are_more() {
        let folder = tempfile::tempdir().unwrap();
        let ballast = folder.path().join("ballast");
        let disk = Arc::new(Shared {
            available: AtomicU64::new(TOTAL),
            ballast: ballast.clone(),
        });
        let held = || std::fs::metadata(&ballast).map_or(0, |meta| meta.blocks() * 512);
        let space = Space::new(disk, "x".into(), Reserve::ROWS);
        space.set_ballast(&ballast).unwrap();
        assert_eq!(held(), Reserve::ROWS.least);
        let mut rows = 0;
        for bytes in [100, 5_000, 60_000].into_iter().cycle().take(200) {
            space.take(bytes, false).unwrap();
            rows += bytes;
            space.set_rows(rows);
            // The quarter that only what goes on in the background may take holds each row.
            assert!(
                held() / 4 >= rows.min(RESERVE / 4),
                "{rows} bytes of rows, {}",
                held()
            );
        }
        // The file system may count a block of its own.
        assert!(
            (RESERVE..RESERVE + (64 << 10)).contains(&held()),
            "{}",
            held()
        );
        // Who has removed much has the room for other things.
        space.set_rows(rows / 16);
        assert!(space.has_room(1));
        assert!((rows / 4..RESERVE / 2).contains(&held()), "{}", held());
    }
}
