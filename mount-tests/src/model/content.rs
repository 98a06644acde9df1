//! The content of a naive file: its bytes, and which of them take up space.

use std::sync::Arc;

/// A set of byte offsets as disjoint ranges in order, no two of which touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds `from..to`.
    pub fn add(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let (mut from, mut to) = (from, to);
        self.0.retain(|(start, end)| {
            let touches = *start <= to && from <= *end;
            if touches {
                from = from.min(*start);
                to = to.max(*end);
            }
            !touches
        });
        let at = self.0.partition_point(|(start, _)| *start < from);
        self.0.insert(at, (from, to));
    }

    /// Removes `from..to`.
    pub fn remove(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let mut kept = Vec::with_capacity(self.0.len() + 1);
        for (start, end) in self.0.drain(..) {
            if start < from {
                kept.push((start, end.min(from)));
            }
            if end > to {
                kept.push((start.max(to), end));
            }
        }
        self.0 = kept;
    }

    /// Returns the part within `from..to`, moved so that `from` becomes `at`.
    #[must_use]
    pub fn moved(&self, from: u64, to: u64, at: u64) -> Self {
        let mut moved = Self::default();
        for (start, end) in &self.0 {
            let (start, end) = ((*start).max(from), (*end).min(to));
            if start < end {
                moved.add(start - from + at, end - from + at);
            }
        }
        moved
    }

    /// Returns the ranges.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    /// Returns how many offsets are in it.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }
}

/// What a file holds. Cheap to clone: histories keep many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// The bytes.
    pub bytes: Arc<Vec<u8>>,
    /// Which of them were written, and are not a hole.
    pub stored: Arc<Ranges>,
}

impl Content {
    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Cuts or extends by a hole.
    pub fn resize(&mut self, size: u64) {
        if size < self.size() {
            Arc::make_mut(&mut self.stored).remove(size, u64::MAX);
        }
        Arc::make_mut(&mut self.bytes).resize(index(size), 0);
    }

    /// Makes what lies in a range a hole; the size stays.
    pub fn clear(&mut self, from: u64, to: u64) {
        let to = to.min(self.size());
        if from < to {
            Arc::make_mut(&mut self.stored).remove(from, to);
            Arc::make_mut(&mut self.bytes)[index(from)..index(to)].fill(0);
        }
    }

    /// Puts bytes at an offset.
    pub fn put(&mut self, at: u64, data: &[u8]) {
        let mut stored = Ranges::default();
        stored.add(at, at + data.len() as u64);
        self.put_with_holes(at, data, &stored);
    }

    /// Puts bytes of which only some take up space.
    pub fn put_with_holes(&mut self, at: u64, data: &[u8], stored: &Ranges) {
        let end = at + data.len() as u64;
        if self.size() < end {
            self.resize(end);
        }
        Arc::make_mut(&mut self.bytes)[index(at)..index(end)].copy_from_slice(data);
        let ranges = Arc::make_mut(&mut self.stored);
        ranges.remove(at, end);
        for (from, to) in stored.iter() {
            ranges.add(from, to);
        }
    }

    /// Returns the part of a range that exists, as a content of its own that begins at `at`.
    #[must_use]
    pub fn part(&self, from: u64, to: u64, at: u64) -> (Vec<u8>, Ranges) {
        let from = from.min(self.size());
        let to = to.min(self.size()).max(from);
        let bytes = self.bytes[index(from)..index(to)].to_vec();
        (bytes, self.stored.moved(from, to, at))
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("the files of the model fit the memory")
}
