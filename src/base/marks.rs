//! Which of many numbers may be meant: a filter in front of rows that few of them have.

use std::sync::atomic::{AtomicU64, Ordering};

/// A set of numbers that are hashes, in 128 KiB whatever their count: it never forgets one, and takes
/// some that were not marked for marked.
#[derive(Debug)]
pub struct Marks {
    words: Box<[AtomicU64]>,
}

impl Default for Marks {
    fn default() -> Self {
        Self::of_words(WORDS)
    }
}

impl Marks {
    /// Marks so many leave one in ten of the others marked; beyond, all may as well be.
    pub const FULL: usize = 100_000;

    /// Returns a set in 1 MiB: a million marks leave one in nine of the others marked.
    pub fn large() -> Self {
        Self::of_words(8 * WORDS)
    }

    fn of_words(words: usize) -> Self {
        Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Marks a number.
    pub fn mark(&self, number: u64) {
        let (word, bit) = self.place(number);
        if let Some(word) = word {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Marks all numbers.
    pub fn mark_all(&self) {
        for word in &self.words {
            word.store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// Returns false for a number that was never marked.
    pub fn may_have(&self, number: u64) -> bool {
        let (word, bit) = self.place(number);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn place(&self, number: u64) -> (Option<&AtomicU64>, u64) {
        // Numbers are hashes, so their low bits are as good as any.
        let bit = number as usize % (self.words.len() * 64);
        (self.words.get(bit / 64), 1 << (bit % 64))
    }
}

/// A million bits.
const WORDS: usize = (1 << 20) / 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_marked_is_and_little_else() {
        let marks = Marks::default();
        let marked = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for n in 0..1000 {
            marks.mark(marked(n));
        }
        assert!((0..1000).all(|n| marks.may_have(marked(n))));
        let wrong = (1000..11_000).filter(|n| marks.may_have(marked(*n)));
        assert!(wrong.count() < 100);
        marks.mark_all();
        assert!(marks.may_have(marked(5000)));
    }
}
