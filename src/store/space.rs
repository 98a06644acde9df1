//! The last room on a disk is kept back, so that a full disk never stops what frees room.
//!
//! Against what this process writes a look at the free room is enough. Against other programs,
//! which take the last byte, the rows own a file of the reserve's size, the ballast, which they
//! give back when it comes to that: so files can still be removed, and what the row database
//! writes in the background does not fail half way.

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
    reserve: Reserve,
    ballast: OnceLock<Ballast>,
}

/// How much room must be left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserve {
    bytes: u64,
    /// The reserve takes at most this fraction of the disk.
    fraction: u64,
}

impl Reserve {
    /// Room that chunks must leave: rows go on when contents are refused already, so that files
    /// can still be removed.
    pub(super) const CHUNKS: Self = Self {
        bytes: 192 << 20,
        fraction: 16,
    };

    /// Room that rows must leave: a flush of the memtables and a compaction behind it, which the
    /// row database does by itself and which must not fail half way.
    pub(super) const ROWS: Self = Self {
        bytes: 96 << 20,
        fraction: 32,
    };
}

impl Reserve {
    /// Returns the bytes of a disk that are kept back.
    pub(super) fn of(self, disk_bytes: u64) -> u64 {
        self.bytes.min(disk_bytes / self.fraction)
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
            reserve,
            ballast: OnceLock::new(),
        }
    }

    /// Lets the reserve lie in a file; gives it back at once where the disk is full already.
    pub(super) fn set_ballast(&self, path: &Path) -> Result<(), StoreError> {
        self.ballast.get_or_init(|| Ballast::new(path.to_owned()));
        self.look().map(drop)
    }

    /// Returns the room, of which the ballast is a part, and the reserve.
    fn look(&self) -> Result<(Room, u64), StoreError> {
        let room = self.disk.room();
        let room =
            room.map_err(|e| StoreError::io("ask for the free space of", &self.folder, e))?;
        let reserve = self.reserve.of(room.total);
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
        let room = self.look();
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
        let (room, reserve) = self.look()?;
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

    /// Gives the ballast back where the disk is nearly full, takes it again where there is plenty;
    /// returns how much of the room it was when `available` was found out.
    fn adjust(&self, available: u64, reserve: u64) -> u64 {
        let mut held = self.held.lock();
        let changed = if *held > 0 && available < reserve / 2 {
            tracing::warn!("the disk is full: what is kept back for removing files is used now");
            let given_back = File::options().write(true).open(&self.path);
            // The room counts as free only after a commit of the file system.
            let given_back =
                given_back.and_then(|file| file.set_len(0).and_then(|()| file.sync_all()));
            given_back.map(|()| 0)
        } else if *held == 0 && available / PLENTY > reserve && reserve > 0 {
            self.take(reserve).map(|()| reserve)
        } else {
            return *held;
        };
        let before = *held;
        match changed {
            Ok(now) => *held = now,
            // A file system that cannot set room aside has a reserve all the same.
            Err(error) => tracing::debug!(%error, "the ballast stays as it is"),
        }
        before
    }

    fn take(&self, bytes: u64) -> std::io::Result<()> {
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

/// The free room is asked for again after this many bytes written: a look at the disk costs 2 us,
/// and other programs take room, too.
const RECHECK_BYTES: u64 = 2 << 20;

/// How long such a look counts: other programs fill the reserve in no shorter time.
const CREDIT_MS: u64 = 10;

/// The ballast is taken where this many times its size is free.
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
        let next = Space::new(disk, "x".into(), Reserve::ROWS);
        next.set_ballast(&ballast).unwrap();
        next.take(100, true).unwrap();
        assert_eq!(held(), 0);
    }
}
