//! The last room on a disk is kept back, so that a full disk never stops what frees room.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;

/// Room that rows must leave: a flush of the memtables and a compaction behind it, which the row
/// database does by itself and which must not fail half way.
const ROW_RESERVE_BYTES: u64 = 96 << 20;

/// The free room is asked for again after this many bytes written.
const RECHECK_BYTES: u64 = 1 << 20;

/// Watches the free room of the disk below a folder.
#[derive(Debug)]
pub(super) struct Space {
    folder: PathBuf,
    /// Bytes that may be written before the next look at the disk.
    credit: AtomicU64,
    reserve_bytes: u64,
    /// The reserve takes at most this fraction of the disk.
    reserve_fraction: u64,
}

impl Space {
    /// Watches for rows.
    pub(super) fn for_rows(folder: PathBuf) -> Self {
        Self::new(folder, ROW_RESERVE_BYTES, 32)
    }

    fn new(folder: PathBuf, reserve_bytes: u64, reserve_fraction: u64) -> Self {
        Self {
            folder,
            credit: AtomicU64::new(0),
            reserve_bytes,
            reserve_fraction,
        }
    }

    /// Fails with [`StoreError::Full`] where writing `bytes` would eat into the reserve.
    pub(super) fn take(&self, bytes: u64) -> Result<(), StoreError> {
        let spend = |credit: u64| credit.checked_sub(bytes);
        let spent = self
            .credit
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        if spent.is_ok() {
            return Ok(());
        }
        let stat = rustix::fs::statvfs(&self.folder)
            .map_err(|e| StoreError::io("ask for the free space of", &self.folder, e.into()))?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let available = stat.f_bavail.saturating_mul(stat.f_frsize);
        let reserve = self.reserve_bytes.min(total / self.reserve_fraction);
        let usable = available.saturating_sub(reserve);
        if usable < bytes {
            return Err(StoreError::Full);
        }
        self.credit
            .store((usable - bytes).min(RECHECK_BYTES), Ordering::Relaxed);
        Ok(())
    }
}
