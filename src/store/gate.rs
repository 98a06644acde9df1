//! Whether anything but appending may happen to the state folder.
//!
//! Once the mount is gone somebody may copy the folder, file by file and in any order, while the
//! daemon is still ending. So each step that a copier must not be surprised by (a log file used
//! again or removed, a hole in a chunk file, a new version of the tree, a claim that something is
//! durable) asks the gate first. Where it is open, the mount is there, so whoever copies begins
//! later and sees what the step follows from; where it is closed, it stays closed, and the step is
//! left to the next opening.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Open while the folder may be changed at will; closes once, for good. Clones are one gate.
#[derive(Clone, Default)]
pub struct Gate {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    closed: AtomicBool,
    watch: OnceLock<Box<Watch>>,
}

/// Tells whether the mount is there.
type Watch = dyn Fn() -> bool + Send + Sync;

impl Gate {
    /// Closes the gate.
    pub fn close(&self) {
        self.inner.closed.store(true, Ordering::SeqCst);
    }

    /// Lets the gate ask, each time, whether the mount is still there, which `watch` must be able
    /// to tell from the moment on in which `umount` returns. Set once.
    pub fn watch(&self, watch: Box<Watch>) {
        let _ = self.inner.watch.set(watch);
    }

    /// Tells whether the gate is open.
    pub fn is_open(&self) -> bool {
        if self.inner.closed.load(Ordering::SeqCst) {
            return false;
        }
        let is_open = self.inner.watch.get().is_none_or(|watch| watch());
        if !is_open {
            self.close();
        }
        is_open
    }

    /// Tells whether the gate was found closed before, without asking.
    pub(super) fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_closes_with_its_mount_and_never_opens_again() {
        let gate = Gate::default();
        assert!(gate.is_open());
        let mounted = Arc::new(AtomicBool::new(true));
        let watched = Arc::clone(&mounted);
        gate.watch(Box::new(move || watched.load(Ordering::SeqCst)));
        assert!(gate.clone().is_open());
        mounted.store(false, Ordering::SeqCst);
        assert!(!gate.is_open());
        mounted.store(true, Ordering::SeqCst);
        assert!(!gate.is_open() && gate.is_closed());
    }
}
