//! Readahead: which bytes of a file will be wanted soon, from how one open file is read.

use std::ops::Range;

use crate::base::limits::CHUNK_BYTES;

/// The reads of one open file. Pure: says what to prefetch, fetches nothing.
#[derive(Debug, Clone, Default)]
pub struct Readahead {
    /// End of the furthest read of the current run.
    end: u64,
    /// Reads of the current run.
    reads: u32,
    /// How far ahead of it prefetching goes now, in bytes; 0 before it began.
    window: u64,
    /// End of what was prefetched.
    ahead: u64,
}

impl Readahead {
    /// Takes note of a read; returns the range that is worth prefetching now, if any.
    ///
    /// A run is reads of which each starts where the last one ended: a read elsewhere ends it. From
    /// its third read on it is believed, as places that are chosen by chance are near each other now
    /// and then; the window doubles with each answer. The kernel sends the reads of one stream in
    /// parallel, so a read a few of its lengths before or behind the expected place belongs to the
    /// run.
    pub fn on_read(&mut self, offset: u64, len: u64) -> Option<Range<u64>> {
        let end = offset.saturating_add(len);
        let slack = len.saturating_mul(SLACK_READS).min(SLACK_MAX_BYTES);
        if offset.abs_diff(self.end) > slack {
            *self = Self {
                end,
                reads: 1,
                ..Self::default()
            };
            return None;
        }
        self.end = self.end.max(end);
        self.reads = self.reads.saturating_add(1);
        // Half a window of lead is left when the next part is asked for.
        let has_lead = self.ahead > self.end.saturating_add(self.window / 2);
        if self.reads < RUN_READS || has_lead {
            return None;
        }
        self.window = (self.window * 2).clamp(WINDOW_MIN_BYTES, WINDOW_MAX_BYTES);
        let start = self.ahead.max(end);
        self.ahead = self.end.saturating_add(self.window);
        Some(start..self.ahead)
    }
}

/// How many of its lengths a read may be away from the expected place: the kernel sends 2 MiB of a
/// stream at a time in requests of 128 KiB and more.
const SLACK_READS: u64 = 8;

/// How far it may be away at most: twice the largest that the kernel sends.
const SLACK_MAX_BYTES: u64 = 2 << 20;

/// Reads that make a run: the first may be anywhere, the second follow it by chance.
const RUN_READS: u32 = 3;

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
            let is_run = offset >= 2 * step as u64;
            assert!(!is_run || covered >= offset + step as u64 + (1 << 20));
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
    fn a_run_that_goes_over_to_random_places_is_left_at_once() {
        let mut readahead = Readahead::default();
        let asked = (0..10u64).filter(|n| readahead.on_read(n << 20, 1 << 20).is_some());
        assert!(asked.count() > 2);
        for page in [5000, 77, 3100, 9, 4500, 2400] {
            assert_eq!(readahead.on_read(page * 4096, 4096), None);
        }
    }

    #[test]
    fn random_reads_of_a_file_of_a_few_chunks_are_seldom_taken_for_a_run() {
        let mut readahead = Readahead::default();
        let rng = crate::base::Rng::from_seed(7);
        let asked = (0..10_000).filter(|_| {
            let page = u64::from(u16::from_le_bytes(rng.bytes::<2>()) % 1024);
            readahead.on_read(page * 4096, 4096).is_some()
        });
        assert!(asked.count() < 20);
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
