//! Rows at rest: what is needed only while they are written is given up when nobody does.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::logs::keep_short;
use crate::store::StoreError;

/// How often is looked whether anybody works.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// No more commits than that between two looks are what goes on in the background.
const QUIET_MAX: u64 = 16;

/// After fewer commits than that, and for fewer rows, it is not worth it.
const COMMITS_MIN: u64 = 256;
const ROWS_MIN: usize = 64;

/// So often: the tree lets go of the files of a version when two more were made after the one that replaced them,
/// which takes its time.
const RESTS: u32 = 6;

/// Tells when to rest, by the numbers of the last commit at each look.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    seen: Option<u64>,
    rested: u64,
    /// How often is still to be rested.
    left: u32,
}

impl Quiet {
    /// Takes note of a look, and of how many rows are in memory; says whether next to nothing was committed since the
    /// one before, and enough before that.
    pub(super) fn is_due(&mut self, last: u64, rows: usize) -> bool {
        let seen = self.seen.replace(last);
        let is_quiet = seen.is_some_and(|seen| last <= seen.saturating_add(QUIET_MAX));
        if last >= self.rested.saturating_add(COMMITS_MIN) || rows >= ROWS_MIN {
            self.left = RESTS;
        }
        is_quiet && self.left > 0
    }

    /// Takes note that all was done that is to be done at rest, as of the last look.
    pub(super) fn rested(&mut self) {
        self.rested = self.seen.unwrap_or_default();
        self.left = self.left.saturating_sub(1);
    }
}

impl Shared {
    /// Gives up what is needed only while rows are written: the table in memory, log files as long as such a table,
    /// what is kept back for its flush, and what the tree still has of removed rows. For who flushes; tells whether
    /// that could be done.
    ///
    /// A log file goes only the way of every flush: its table is in the tree, that is durable, and so is the mark
    /// that says so ([`Shared::retire`]). What is removed here is of those that this left for later use.
    pub(super) fn rest(&self) -> Result<bool, StoreError> {
        // Whoever has it may wait for a flush.
        let Some(mut writer) = self.writer.try_lock() else {
            return Ok(false);
        };
        let active = Arc::clone(&self.layers.read().active);
        let most = self.options.new_file_bytes();
        let is_busy = self.flush.lock().is_wanted || !self.gate.is_open();
        let room = (active.net_bytes() as u64).saturating_add(2 * most);
        if self.group.check().is_err() || is_busy || self.space.missing_for_flush(room) > 0 {
            return Ok(false);
        }
        drop(active);
        self.drop_long_logs()?;
        self.flush.lock().is_resting = true;
        self.freeze(&mut writer, None)?;
        drop(writer);
        self.flush_table()?;
        let is_done = !self.flush.lock().is_resting && self.layers.read().flushing.is_none();
        if !is_done || !self.gate.is_open() {
            return Ok(false);
        }
        self.space.rest()?;
        self.tree.rest();
        Ok(true)
    }

    /// Removes the log files kept for later that have grown; for who has the writer's lock, or flushes.
    pub(super) fn drop_long_logs(&self) -> Result<(), StoreError> {
        if !self.gate.is_open() {
            return Ok(());
        }
        let mut flush = self.flush.lock();
        let spare = flush.spare.take();
        let mut free = std::mem::take(&mut flush.free);
        drop(flush);
        free.extend(spare.map(|spare| spare.number));
        let most = self.options.new_file_bytes();
        let free = keep_short(&*self.disk, &self.folder, free, most)?;
        self.flush.lock().free = free;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_quiet_when_next_to_nothing_came_since_the_look_before() {
        let mut quiet = Quiet::default();
        let mut look = |last, rows| {
            let is_due = quiet.is_due(last, rows);
            if is_due {
                quiet.rested();
            }
            is_due
        };
        assert!(!look(1000, 10) && !look(2000, 10));
        assert!(look(2010, 10) && look(2020, 10));
        assert!(!look(2200, 10), "somebody works");
        for _ in 2..RESTS {
            assert!(look(2205, 10));
        }
        // Too little came since.
        assert!(!look(2205, 10) && !look(2400, 10) && !look(2400, 10));
        assert!(!look(2460, 10) && look(2470, 10));
        for _ in 1..RESTS {
            assert!(look(2470, 10));
        }
        // One commit may change many rows.
        assert!(!look(2471, 10) && look(2472, 500));
    }
}
