//! The last room on a disk is kept back, so that a full disk never stops what frees room.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;
use super::disk::{Disk, Room};

/// Watches the free room of a disk.
#[derive(Debug)]
pub(super) struct Space {
    disk: Arc<dyn Disk>,
    /// For messages.
    folder: PathBuf,
    /// Bytes that may be written before the next look at the disk.
    credit: AtomicU64,
    reserve: Reserve,
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

impl Space {
    pub(super) fn new(disk: Arc<dyn Disk>, folder: PathBuf, reserve: Reserve) -> Self {
        Self {
            disk,
            folder,
            credit: AtomicU64::new(0),
            reserve,
        }
    }

    /// Fails with [`StoreError::Full`] where writing `bytes` would eat into the reserve.
    ///
    /// A few bytes may take half of the reserve, for removing something writes a little first.
    pub(super) fn take(&self, bytes: u64) -> Result<(), StoreError> {
        let spend = |credit: u64| credit.checked_sub(bytes);
        let spent = self
            .credit
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        if spent.is_ok() {
            return Ok(());
        }
        let room = self.disk.room();
        let Room { available, total } =
            room.map_err(|e| StoreError::io("ask for the free space of", &self.folder, e))?;
        let reserve = self.reserve.bytes.min(total / self.reserve.fraction);
        let usable = available.saturating_sub(reserve);
        let last = available.saturating_sub(reserve / 2);
        if usable < bytes && (bytes > SMALL_BYTES || last < bytes) {
            return Err(StoreError::Full);
        }
        let credit = usable.saturating_sub(bytes).min(RECHECK_BYTES);
        self.credit.store(credit, Ordering::Relaxed);
        Ok(())
    }
}

/// The free room is asked for again after this many bytes written: a look at the disk costs 2 us,
/// and other programs take room, too.
const RECHECK_BYTES: u64 = 2 << 20;

/// What removing a file or a chunk writes, without the contents of a small file.
const SMALL_BYTES: u64 = 4 << 10;
