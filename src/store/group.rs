//! Group commit: concurrent callers of a sync share one flush of the disk.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use super::StoreError;

/// Counts writes and makes them durable in groups; remembers for good that a flush failed.
#[derive(Debug, Default)]
pub(super) struct GroupSync {
    /// Writes that are complete but for durability.
    written: AtomicU64,
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How many of `written` are durable.
    synced: u64,
    /// A caller flushes now; the others wait for it.
    flushing: bool,
    /// Final: a write or flush failed, nobody knows what the disk holds.
    poisoned: bool,
}

impl GroupSync {
    /// Notes that a write is complete, so that the next sync must cover it.
    pub(super) fn wrote(&self) {
        self.written.fetch_add(1, Ordering::Release);
    }

    /// Refuses further writes for good.
    pub(super) fn poison(&self) {
        self.state.lock().poisoned = true;
    }

    /// Fails with [`StoreError::Poisoned`] where an earlier write or flush failed.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.state.lock().poisoned {
            return Err(StoreError::Poisoned);
        }
        Ok(())
    }

    /// Returns when all writes noted before this call are durable.
    ///
    /// Runs `flush` unless another caller's flush began after those writes. The caller whose flush
    /// fails gets its error, all others [`StoreError::Poisoned`].
    pub(super) fn sync(
        &self,
        flush: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let wanted = self.written.load(Ordering::Acquire);
        let mut state = self.state.lock();
        loop {
            if state.poisoned {
                return Err(StoreError::Poisoned);
            }
            if state.synced >= wanted {
                return Ok(());
            }
            if !state.flushing {
                break;
            }
            self.done.wait(&mut state);
        }
        state.flushing = true;
        drop(state);

        // All that is written until now rides along, not only what this caller waits for.
        let covered = self.written.load(Ordering::Acquire);
        let mut ending = Ending {
            group: self,
            covered: None,
        };
        let result = flush();
        if result.is_ok() {
            ending.covered = Some(covered);
        }
        result
    }
}

/// Ends a flush on each way out, a panic included, so that no waiter is left behind.
struct Ending<'a> {
    group: &'a GroupSync,
    covered: Option<u64>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.group.state.lock();
        state.flushing = false;
        match self.covered {
            Some(covered) => state.synced = state.synced.max(covered),
            None => state.poisoned = true,
        }
        self.group.done.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::{Arc, Barrier};

    use super::*;
    use crate::base::task;

    #[test]
    fn a_sync_without_writes_leaves_the_disk_alone() {
        let group = GroupSync::default();
        group.sync(|| panic!("nothing to flush")).unwrap();
        group.wrote();
        group.sync(|| Ok(())).unwrap();
        group.sync(|| panic!("flushed already")).unwrap();
    }

    #[test]
    fn waiters_of_one_flush_share_the_next() {
        let group = Arc::new(GroupSync::default());
        let flushes = Arc::new(AtomicUsize::new(0));
        let started = Arc::new(Barrier::new(9));
        group.wrote();
        let mut threads = Vec::new();
        group
            .sync(|| {
                for n in 0..8 {
                    let (group, flushes, started) = (
                        Arc::clone(&group),
                        Arc::clone(&flushes),
                        Arc::clone(&started),
                    );
                    let body = move || {
                        group.wrote();
                        started.wait();
                        let flush = || {
                            flushes.fetch_add(1, Ordering::SeqCst);
                            Ok(())
                        };
                        group.sync(flush).unwrap();
                    };
                    threads.push(task::thread(&format!("sync-{n}"), body).unwrap());
                }
                started.wait();
                Ok(())
            })
            .unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        // All eight wrote before the first flush ended, so the first one after it covers them all.
        assert_eq!(flushes.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failed_flush_is_final() {
        let group = GroupSync::default();
        group.wrote();
        assert!(matches!(
            group.sync(|| Err(StoreError::Full)),
            Err(StoreError::Full)
        ));
        assert!(matches!(group.sync(|| Ok(())), Err(StoreError::Poisoned)));
        assert!(matches!(group.check(), Err(StoreError::Poisoned)));
    }

    #[test]
    fn after_a_write_that_failed_nothing_is_written_or_said_to_be_durable() {
        let group = GroupSync::default();
        group.wrote();
        group.poison();
        assert!(matches!(group.check(), Err(StoreError::Poisoned)));
        let flush = || panic!("nothing is flushed any more");
        assert!(matches!(group.sync(flush), Err(StoreError::Poisoned)));
    }
}
