//! Readahead: which bytes of a file will be wanted soon, from how one open file is read.

use std::ops::Range;

use crate::base::limits::CHUNK_BYTES;

/// The reads of one open file. Pure: says what to prefetch, fetches nothing.
#[derive(Debug, Clone, Default)]
pub struct Readahead {
    /// End of the furthest read of the current run.
    end: u64,
    /// How far ahead of it prefetching goes now, in bytes; 0 outside a run.
    window: u64,
    /// End of what was prefetched.
    ahead: u64,
}

impl Readahead {
    /// Takes note of a read; returns the range that is worth prefetching now, if any.
    ///
    /// A run begins with a read that starts where the last one ended, or at 0. The window doubles
    /// with each answer, and a read elsewhere closes it. The kernel sends the reads of one stream in
    /// parallel, so a read a little before or behind the expected place belongs to the run.
    pub fn on_read(&mut self, offset: u64, len: u64) -> Option<Range<u64>> {
        let end = offset.saturating_add(len);
        if offset.abs_diff(self.end) > SLACK_BYTES {
            *self = Self {
                end,
                window: 0,
                ahead: 0,
            };
            return None;
        }
        self.end = self.end.max(end);
        // Half a window of lead is left when the next part is asked for.
        if self.window > 0 && self.ahead > self.end.saturating_add(self.window / 2) {
            return None;
        }
        self.window = (self.window * 2).clamp(WINDOW_MIN_BYTES, WINDOW_MAX_BYTES);
        let start = self.ahead.max(end);
        self.ahead = self.end.saturating_add(self.window);
        (start < self.ahead).then_some(start..self.ahead)
    }
}

/// How far from the expected place a read may be: twice the largest that the kernel sends.
const SLACK_BYTES: u64 = 2 << 20;

/// First window: the chunk after this one, and one more.
const WINDOW_MIN_BYTES: u64 = 2 * CHUNK_BYTES;

/// Largest window: 16 chunks of 1 MiB are 0.1 s of reading at 160 MB/s.
const WINDOW_MAX_BYTES: u64 = 16 * CHUNK_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequential_read_is_prefetched_once_and_ever_further() {
        let mut readahead = Readahead::default();
        let mut covered = 0;
        let step = 128 << 10;
        for offset in (0..64 << 20).step_by(step) {
            let offset = offset as u64;
            if let Some(range) = readahead.on_read(offset, step as u64) {
                assert!(range.start >= covered, "{range:?} overlaps {covered}");
                covered = range.end;
            }
            assert!(covered >= offset + step as u64 + (1 << 20));
        }
        assert_eq!(readahead.window, WINDOW_MAX_BYTES);
    }

    #[test]
    fn reads_at_random_places_are_not_prefetched() {
        let mut readahead = Readahead::default();
        for offset in [50 << 20, 10 << 20, 90 << 20, 30 << 20] {
            assert_eq!(readahead.on_read(offset, 4096), None);
        }
    }

    #[test]
    fn reads_that_overtake_each_other_stay_one_run() {
        let mut readahead = Readahead::default();
        let step = 128 << 10;
        for pair in 0..100u64 {
            readahead.on_read((2 * pair + 1) * step, step);
            readahead.on_read(2 * pair * step, step);
        }
        assert_eq!(readahead.window, WINDOW_MAX_BYTES);
    }

    #[test]
    fn the_end_of_the_offset_space_does_not_overflow() {
        let mut readahead = Readahead::default();
        readahead.on_read(u64::MAX - 10, u64::MAX);
        readahead.on_read(u64::MAX, 10);
    }
}
