//! Directories that others removed and that the kernel still has by their names.
//!
//! The kernel takes away what is mounted below a directory when it drops the name of that, also where
//! it only finds at a lookup that the name is gone. So a name goes on to be found until whoever tells the
//! kernel says that it may go: while something is mounted below, it may not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::Fs;
use crate::base::Ino;

/// Which directory a name stood for, by the numbers that the kernel has. A leaf lock.
#[derive(Debug, Default)]
pub(super) struct Departed {
    /// Somebody says when names may go.
    is_told: AtomicBool,
    names: Mutex<HashMap<(Ino, Vec<u8>), Ino>>,
}

impl Fs {
    /// Shows directories that others remove until [`Fs::let_depart`] is called for their names.
    pub fn show_departed(&self) {
        self.departed.is_told.store(true, Ordering::Relaxed);
    }

    /// Goes on to show the kernel a directory that was removed.
    pub(super) fn keep_departed(&self, parent: Ino, name: &[u8], child: Ino) {
        if !self.departed.is_told.load(Ordering::Relaxed) {
            return;
        }
        let mut names = self.departed.names.lock();
        names.insert((parent, name.to_vec()), child);
    }

    /// Shows a directory that was removed no longer.
    pub fn let_depart(&self, parent: Ino, name: &[u8]) {
        let mut names = self.departed.names.lock();
        if !names.is_empty() {
            names.remove(&(parent, name.to_vec()));
        }
    }

    /// Returns the directory that a name stood for.
    pub(super) fn departed(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        let names = self.departed.names.lock();
        if names.is_empty() {
            return None;
        }
        names.get(&(parent, name.to_vec())).copied()
    }
}
