//! The plaintext cache: chunks by id, weighed by bytes, not emptied by one big scan.
//!
//! 2Q (Johnson and Shasha 1994): what comes in first waits in a queue that is emptied oldest first;
//! only what is asked for again after it left that queue enters the main list, which is LRU. So the
//! many small reads of one chunk in a row do not count as use, and a scan passes through the queue.

use bytes::Bytes;
use lru::LruCache;

use crate::base::ChunkId;

/// A cache of chunks in memory. The caller locks it.
#[derive(Debug)]
pub(super) struct Cache {
    max_bytes: u64,
    /// New chunks, oldest last.
    recent: Shelf,
    /// Chunks that proved to be used again, least recently used last.
    proven: Shelf,
    /// Ids that lately left `recent`, without their bytes.
    ghosts: LruCache<ChunkId, ()>,
}

#[derive(Debug)]
struct Shelf {
    chunks: LruCache<ChunkId, Bytes>,
    bytes: u64,
}

impl Cache {
    /// Returns an empty cache of at most `max_bytes`.
    pub(super) fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            recent: Shelf::new(),
            proven: Shelf::new(),
            ghosts: LruCache::unbounded(),
        }
    }

    /// Returns a chunk and notes the use.
    pub(super) fn get(&mut self, id: &ChunkId) -> Option<Bytes> {
        if let Some(plain) = self.proven.chunks.get(id) {
            return Some(plain.clone());
        }
        self.recent.chunks.peek(id).cloned()
    }

    /// Tells whether a chunk is here, without noting a use.
    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        self.proven.chunks.contains(id) || self.recent.chunks.contains(id)
    }

    /// Adds a chunk, and drops others until there is room. A chunk larger than all is not kept.
    pub(super) fn insert(&mut self, id: ChunkId, plain: Bytes) {
        if plain.len() as u64 > self.max_bytes || self.contains(&id) {
            return;
        }
        if self.ghosts.pop(&id).is_some() {
            self.proven.put(id, plain);
        } else {
            self.recent.put(id, plain);
        }
        while self.bytes() > self.max_bytes {
            self.drop_one();
        }
    }

    /// Drops a chunk.
    pub(super) fn remove(&mut self, id: &ChunkId) {
        self.recent.take(id);
        self.proven.take(id);
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.max_bytes);
    }

    /// Returns the plaintext bytes kept.
    pub(super) fn bytes(&self) -> u64 {
        self.recent.bytes + self.proven.bytes
    }

    fn drop_one(&mut self) {
        let is_recent_over = self.recent.bytes > self.max_bytes / RECENT_SHARE;
        if is_recent_over || self.proven.chunks.is_empty() {
            if let Some(id) = self.recent.drop_last() {
                self.ghosts.put(id, ());
            }
        } else {
            self.proven.drop_last();
        }
        // As many ghosts as the whole cache has chunks, at least a few for tiny caches.
        let chunks = self.recent.chunks.len() + self.proven.chunks.len();
        while self.ghosts.len() > chunks.max(GHOSTS_MIN) {
            self.ghosts.pop_lru();
        }
    }
}

impl Shelf {
    fn new() -> Self {
        Self {
            chunks: LruCache::unbounded(),
            bytes: 0,
        }
    }

    fn put(&mut self, id: ChunkId, plain: Bytes) {
        self.bytes += plain.len() as u64;
        if let Some(old) = self.chunks.put(id, plain) {
            self.bytes -= old.len() as u64;
        }
    }

    fn take(&mut self, id: &ChunkId) {
        if let Some(plain) = self.chunks.pop(id) {
            self.bytes -= plain.len() as u64;
        }
    }

    fn drop_last(&mut self) -> Option<ChunkId> {
        let (id, plain) = self.chunks.pop_lru()?;
        self.bytes -= plain.len() as u64;
        Some(id)
    }
}

/// The queue of new chunks has a quarter of the cache once the rest is in use, as the paper advises.
const RECENT_SHARE: u64 = 4;

/// Least number of ids remembered.
const GHOSTS_MIN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> ChunkId {
        ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    fn plain(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    #[test]
    fn bytes_are_bounded_and_counted() {
        let mut cache = Cache::new(100);
        for n in 0..50 {
            cache.insert(id(n), plain(7 + n as usize % 5));
            assert!(cache.bytes() <= 100);
        }
        cache.insert(id(99), plain(101));
        assert!(!cache.contains(&id(99)));
        for n in 0..50 {
            cache.remove(&id(n));
        }
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn a_scan_does_not_evict_what_proved_useful() {
        let mut cache = Cache::new(100);
        // Seen, dropped by a scan, and asked for again: now it is proven.
        cache.insert(id(0), plain(10));
        (1..20).for_each(|n| cache.insert(id(n), plain(10)));
        assert!(!cache.contains(&id(0)));
        cache.insert(id(0), plain(10));
        for n in 100..10_000 {
            cache.insert(id(n), plain(10));
            // A sequential reader touches each chunk several times in a row.
            (0..8).for_each(|_| assert!(cache.get(&id(n)).is_some()));
        }
        assert!(cache.get(&id(0)).is_some());
    }

    #[test]
    fn the_least_recently_used_of_the_proven_goes_first() {
        let mut cache = Cache::new(100);
        let prove = |cache: &mut Cache, n| {
            cache.insert(id(n), plain(10));
            cache.recent.take(&id(n));
            cache.ghosts.put(id(n), ());
            cache.insert(id(n), plain(10));
        };
        (0..10).for_each(|n| prove(&mut cache, n));
        assert!(cache.get(&id(0)).is_some());
        prove(&mut cache, 10);
        assert!(cache.contains(&id(0)) && !cache.contains(&id(1)));
    }
}
