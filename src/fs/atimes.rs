//! Access times, which this machine keeps for itself: never part of an op, lost by nobody else.
//!
//! An inode without one was never read here: its birth stands for it.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::inode_table::Content;
use super::{Fs, Result};
use crate::base::marks::Marks;
use crate::base::{Ino, Timespec};
use crate::store::{Batch, Rows, StoreError, Table};

/// The access times on disk.
pub(super) struct Atimes {
    rows: Option<Arc<dyn Rows>>,
    /// Which inodes may have one, so that those without cost no look at the disk.
    marks: Marks,
}

/// What is known of an inode's access time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Atime {
    /// Entered at the start: nobody has looked.
    #[default]
    Unknown,
    /// As on disk; `None` for an inode that was never read here.
    Saved(Option<Timespec>),
    /// Newer than on disk.
    Changed(Timespec),
}

impl Atimes {
    /// Opens the access times in `rows`, or keeps none beyond the memory of an inode.
    pub(super) fn open(rows: Option<Arc<dyn Rows>>) -> Self {
        let marks = Marks::default();
        if let Some(rows) = &rows {
            let mut count = 0;
            let scanned = rows.scan(Table::Atime, &[], None, &mut |key, _| {
                if let Ok(ino) = key.try_into().map(u64::from_be_bytes) {
                    marks.mark(ino);
                }
                count += 1;
                if count < Marks::FULL {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            if scanned.is_err() || count == Marks::FULL {
                // They tell nothing apart any more: every question goes to the rows.
                marks.mark_all();
            }
        }
        Self { rows, marks }
    }

    fn load(&self, ino: Ino) -> Option<Timespec> {
        let rows = self.rows.as_ref()?;
        if !self.marks.may_have(ino.0) {
            return None;
        }
        // A time that cannot be read is a time that was never written.
        let row = rows.get(Table::Atime, &ino.0.to_be_bytes()).ok()??;
        let (secs, nanos) = row.split_first_chunk::<8>()?;
        Some(Timespec {
            secs: i64::from_le_bytes(*secs),
            nanos: u32::from_le_bytes(nanos.try_into().ok()?),
        })
    }

    fn save(&self, atimes: &[(Ino, Timespec)]) -> Result<(), StoreError> {
        let Some(rows) = &self.rows else {
            return Ok(());
        };
        for slice in atimes.chunks(SAVE_SLICE) {
            let mut batch = Batch::new();
            for (ino, time) in slice {
                let mut row = [0u8; 12];
                let (secs, nanos) = row.split_at_mut(8);
                secs.copy_from_slice(&time.secs.to_le_bytes());
                nanos.copy_from_slice(&time.nanos.to_le_bytes());
                batch.put(Table::Atime, ino.0.to_be_bytes(), row);
                self.marks.mark(ino.0);
            }
            rows.commit(batch)?;
        }
        Ok(())
    }
}

impl Fs {
    /// Returns the access time of an inode that was born at `btime`.
    pub(super) fn atime(&self, ino: Ino, content: &mut Content, btime: Timespec) -> Timespec {
        if content.atime == Atime::Unknown {
            content.atime = Atime::Saved(self.atimes.load(self.file(ino)));
        }
        match content.atime {
            Atime::Changed(time) | Atime::Saved(Some(time)) => time,
            Atime::Unknown | Atime::Saved(None) => btime,
        }
    }

    /// Saves the access times of all known inodes.
    pub(super) fn save_atimes(&self) -> Result<()> {
        let mut changed = Vec::new();
        for node in self.inodes.all() {
            // Who holds the content reads it: its time is saved the next time.
            if let Some(mut content) = node.try_content()
                && let Atime::Changed(time) = content.atime
            {
                content.atime = Atime::Saved(Some(time));
                changed.push((self.file(node.ino), time));
            }
        }
        Ok(self.atimes.save(&changed)?)
    }

    /// Saves the access time of an inode that left the table.
    pub(super) fn save_atime(&self, ino: Ino, atime: Atime) {
        let Atime::Changed(time) = atime else {
            return;
        };
        let ino = self.file(ino);
        // What is gone keeps no time.
        if !matches!(self.volume.inode(ino), Ok(Some(inode)) if !inode.is_orphan()) {
            return;
        }
        if let Err(error) = self.atimes.save(&[(ino, time)]) {
            tracing::debug!(%error, "an access time is not kept");
        }
    }
}

/// Access times saved in one batch.
const SAVE_SLICE: usize = 1024;
