//! A set of chunks in eight bytes each.

use std::collections::HashSet;

use super::ChunkId;

/// A set of chunks, by the first eight bytes of their ids, which are as good as random: 8 MiB and its
/// table for a million of them. It may say that it has one that it has not, and never the reverse.
#[derive(Debug, Clone, Default)]
pub struct ChunkSet(HashSet<u64>);

impl ChunkSet {
    /// Adds a chunk.
    pub fn insert(&mut self, id: &ChunkId) {
        self.0.insert(first_of(id));
    }

    /// Tells whether a chunk is in it, or one that begins alike.
    pub fn has(&self, id: &ChunkId) -> bool {
        self.0.contains(&first_of(id))
    }
}

impl<'a> Extend<&'a ChunkId> for ChunkSet {
    fn extend<T: IntoIterator<Item = &'a ChunkId>>(&mut self, ids: T) {
        self.0.extend(ids.into_iter().map(first_of));
    }
}

fn first_of(id: &ChunkId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
