//! Open files and folders.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{FileHandle, FsError, OpenFlags};
use crate::base::Ino;
use crate::data::Readahead;

/// An open file or folder.
#[derive(Debug)]
pub(super) struct Handle {
    /// What is open.
    pub(super) ino: Ino,
    /// How.
    pub(super) flags: OpenFlags,
    /// How it is being read. A leaf lock.
    pub(super) readahead: Mutex<Readahead>,
}

impl Handle {
    /// Returns whether the content may have changed through this handle.
    pub(super) fn changes_content(&self) -> bool {
        self.flags.changes_content()
    }
}

/// The table of open handles. Its lock is a leaf.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Handle>>>,
}

impl Handles {
    /// Opens a handle.
    pub(super) fn open(&self, ino: Ino, flags: OpenFlags) -> FileHandle {
        let fh = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let handle = Handle {
            ino,
            flags,
            readahead: Mutex::default(),
        };
        self.open.lock().insert(fh, Arc::new(handle));
        FileHandle(fh)
    }

    /// Returns an open handle of `ino`.
    pub(super) fn of(&self, ino: Ino, fh: FileHandle) -> Result<Arc<Handle>, FsError> {
        match self.open.lock().get(&fh.0) {
            Some(handle) if handle.ino == ino => Ok(Arc::clone(handle)),
            _ => Err(FsError::BadHandle),
        }
    }

    /// Closes a handle and returns it.
    pub(super) fn close(&self, ino: Ino, fh: FileHandle) -> Result<Arc<Handle>, FsError> {
        let mut open = self.open.lock();
        match open.get(&fh.0) {
            Some(handle) if handle.ino == ino => {}
            _ => return Err(FsError::BadHandle),
        }
        open.remove(&fh.0).ok_or(FsError::BadHandle)
    }

    /// Returns how many are open.
    pub(super) fn count(&self) -> usize {
        self.open.lock().len()
    }
}
