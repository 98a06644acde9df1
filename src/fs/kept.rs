//! Numbers that the kernel keeps for directories that are others by now.
//!
//! A directory that became a part of another one is known to the kernel by its old number, perhaps
//! with a shell in it or a mount below. As long as that is so, the other one is shown under it.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::Fs;
use crate::base::Ino;

/// Which number the kernel has for which directory. A leaf lock.
#[derive(Debug, Default)]
pub(super) struct Kept {
    numbers: Mutex<HashMap<Ino, Ino>>,
}

/// With more of them, those that the kernel has forgotten are looked for.
const KEPT_MANY: usize = 1024;

impl Fs {
    /// Keeps `number`, which the kernel knows, for the directory that it became a part of.
    pub(super) fn keep_number(&self, number: Ino, dir: Ino) {
        let mut numbers = self.kept.numbers.lock();
        if numbers.len() >= KEPT_MANY {
            numbers.retain(|_, number| self.inodes.is_known(*number));
        }
        if numbers.len() < KEPT_MANY {
            numbers.insert(dir, number);
        }
    }

    /// Returns the number under which the kernel knows a node, or gets to know it.
    pub(super) fn number_of(&self, ino: Ino) -> Ino {
        self.kept_number(ino)
            .unwrap_or_else(|| self.volume.number_of(ino))
    }

    /// Returns the number that is kept for a directory.
    pub(super) fn kept_number(&self, ino: Ino) -> Option<Ino> {
        let kept = self.kept.numbers.lock().get(&ino).copied();
        kept.filter(|number| self.inodes.is_known(*number))
    }
}
