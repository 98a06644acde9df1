//! The plaintext cache: whole chunks and single frames, weighed by bytes, not emptied by one big scan.
//!
//! 2Q (Johnson and Shasha 1994): what comes in first waits in a queue that is emptied oldest first;
//! only what is asked for again after it left that queue enters the main list, which is LRU. So the
//! many small reads of one chunk in a row do not count as use, and a scan passes through the queue.

use bytes::Bytes;
use lru::LruCache;

use crate::base::ChunkId;

/// What is kept as one: a chunk that was opened whole, or a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    id: ChunkId,
    /// Number of the frame; `None` for the chunk.
    frame: Option<usize>,
}

impl Key {
    /// Names a whole chunk.
    pub(super) fn whole(id: ChunkId) -> Self {
        Self { id, frame: None }
    }

    /// Names a frame.
    pub(super) fn frame(id: ChunkId, frame: usize) -> Self {
        Self {
            id,
            frame: Some(frame),
        }
    }
}

/// A cache of plaintext in memory. The caller locks it.
#[derive(Debug)]
pub(super) struct Cache {
    max_bytes: u64,
    /// What is new, oldest last.
    recent: Shelf,
    /// What proved to be used again, least recently used last.
    proven: Shelf,
    /// What lately left `recent`, without its bytes.
    ghosts: LruCache<Key, ()>,
}

#[derive(Debug)]
struct Shelf {
    items: LruCache<Key, Bytes>,
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

    /// Returns a plaintext and notes the use.
    pub(super) fn get(&mut self, key: &Key) -> Option<Bytes> {
        if let Some(plain) = self.proven.items.get(key) {
            return Some(plain.clone());
        }
        self.recent.items.peek(key).cloned()
    }

    /// Tells whether a plaintext is here, without noting a use.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.proven.items.contains(key) || self.recent.items.contains(key)
    }

    /// Adds a plaintext that shares its memory with nothing else, and drops others until there is
    /// room. One larger than all is not kept.
    pub(super) fn insert(&mut self, key: Key, plain: Bytes) {
        if plain.len() as u64 > self.max_bytes || self.contains(&key) {
            return;
        }
        if self.ghosts.pop(&key).is_some() {
            self.proven.put(key, plain);
        } else {
            self.recent.put(key, plain);
        }
        while self.bytes() > self.max_bytes {
            self.drop_one();
        }
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
        if is_recent_over || self.proven.items.is_empty() {
            if let Some(key) = self.recent.drop_last() {
                self.ghosts.put(key, ());
            }
        } else {
            self.proven.drop_last();
        }
        // As many ghosts as the whole cache has items, at least a few for tiny caches.
        let items = self.recent.items.len() + self.proven.items.len();
        while self.ghosts.len() > items.max(GHOSTS_MIN) {
            self.ghosts.pop_lru();
        }
    }
}

impl Shelf {
    fn new() -> Self {
        Self {
            items: LruCache::unbounded(),
            bytes: 0,
        }
    }

    fn put(&mut self, key: Key, plain: Bytes) {
        self.bytes += plain.len() as u64;
        if let Some(old) = self.items.put(key, plain) {
            self.bytes -= old.len() as u64;
        }
    }

    fn drop_last(&mut self) -> Option<Key> {
        let (key, plain) = self.items.pop_lru()?;
        self.bytes -= plain.len() as u64;
        Some(key)
    }
}

/// The queue of what is new has a quarter of the cache once the rest is in use, as the paper advises.
const RECENT_SHARE: u64 = 4;

/// Least number of keys remembered.
const GHOSTS_MIN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every other one is a frame.
    fn key(n: u32) -> Key {
        let id = ChunkId(*blake3::hash(&(n / 2).to_le_bytes()).as_bytes());
        match n % 2 {
            0 => Key::whole(id),
            _ => Key::frame(id, 3),
        }
    }

    fn plain(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    #[test]
    fn bytes_are_bounded_and_counted() {
        let mut cache = Cache::new(100);
        for n in 0..50 {
            cache.insert(key(n), plain(7 + n as usize % 5));
            assert!(cache.bytes() <= 100);
        }
        let before = cache.bytes();
        cache.insert(key(99), plain(101));
        assert!(!cache.contains(&key(99)));
        // What is too large takes nobody's room.
        assert_eq!(cache.bytes(), before);
        let kept: u64 = (0..50)
            .filter_map(|n| cache.get(&key(n)))
            .map(|plain| plain.len() as u64)
            .sum();
        assert_eq!(cache.bytes(), kept);
        cache.clear();
        assert_eq!(cache.bytes(), 0);
        cache.insert(key(99), plain(100));
        assert!(cache.contains(&key(99)));
    }

    #[test]
    fn a_scan_does_not_evict_what_proved_useful() {
        let mut cache = Cache::new(100);
        // Seen, dropped by a scan, and asked for again: now it is proven.
        cache.insert(key(0), plain(10));
        (1..20).for_each(|n| cache.insert(key(n), plain(10)));
        assert!(!cache.contains(&key(0)));
        cache.insert(key(0), plain(10));
        for n in 100..10_000 {
            cache.insert(key(n), plain(10));
            // A sequential reader touches each chunk several times in a row.
            (0..8).for_each(|_| assert!(cache.get(&key(n)).is_some()));
        }
        assert!(cache.get(&key(0)).is_some());
    }

    #[test]
    fn the_least_recently_used_of_the_proven_goes_first() {
        let mut cache = Cache::new(100);
        let prove = |cache: &mut Cache, n| {
            cache.insert(key(n), plain(10));
            let gone = cache.recent.items.pop(&key(n)).unwrap();
            cache.recent.bytes -= gone.len() as u64;
            cache.ghosts.put(key(n), ());
            cache.insert(key(n), plain(10));
        };
        (0..10).for_each(|n| prove(&mut cache, n));
        assert!(cache.get(&key(0)).is_some());
        prove(&mut cache, 10);
        assert!(cache.contains(&key(0)) && !cache.contains(&key(1)));
    }
}
