//! What happened, as one number: two runs of a seed have the same.

use std::hash::{DefaultHasher, Hash, Hasher};

/// A digest of all that was noted, in order.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hasher: DefaultHasher,
    is_told: bool,
}

impl Trace {
    /// Returns a trace that also tells what it notes.
    pub(crate) fn new(is_told: bool) -> Self {
        Self {
            hasher: DefaultHasher::new(),
            is_told,
        }
    }

    /// Takes note of what happened.
    pub(crate) fn note(&mut self, what: &str) {
        what.hash(&mut self.hasher);
        if self.is_told {
            println!("{what}");
        }
    }

    /// Returns the digest of all until now.
    pub(crate) fn digest(&self) -> u64 {
        self.hasher.finish()
    }
}
