//! A few frames of a chunk that lies elsewhere, for who reads here and there.
//!
//! A small read of a chunk that is not here fetches the frames that hold it, each checked against the
//! chunk's id, and keeps them in memory. Who comes back for more of the same chunk gets all of it in
//! the end, and that is kept on the disk.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;

use super::cache::Key;
use super::flight::Goal;
use super::{Data, DataError};
use crate::base::ChunkId;
use crate::crypto::{CryptoError, FRAME_BYTES, Frames, sealed_range};
use crate::node::Transfer;

/// Most bytes of a read that does not fetch all of a chunk.
pub const SMALL_READ_BYTES: usize = 32 << 10;

/// Frames of one chunk that come alone, a quarter of a full one: then all of it does.
const ALONE_MAX: usize = 16;

/// Chunks of which it is remembered how many frames came alone: 256 MiB of a file.
const CHUNKS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not 0");

/// How many frames of which chunks came alone. The caller locks it.
#[derive(Debug)]
pub(super) struct Parts {
    fetched: LruCache<ChunkId, usize>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            fetched: LruCache::new(CHUNKS_MAX),
        }
    }
}

impl Parts {
    /// Takes note that frames of a chunk are wanted; tells whether they are to come alone.
    fn admit(&mut self, id: ChunkId, count: usize) -> bool {
        let fetched = self.fetched.get_or_insert_mut(id, || 0);
        *fetched = fetched.saturating_add(count);
        *fetched <= ALONE_MAX
    }
}

impl Data {
    /// Returns what is to be opened for a read of a range.
    pub(super) fn goal_of(&self, id: ChunkId, range: &Range<usize>) -> Result<Goal, DataError> {
        let whole = Goal::whole(id);
        let is_small = !range.is_empty() && range.len() <= SMALL_READ_BYTES;
        let is_here = || self.cached(id, range).is_some();
        if !is_small || is_here() || self.is_coming(&id) || self.replica.is_local(id)? {
            return Ok(whole);
        }
        let (first, end) = (range.start / FRAME_BYTES, range.end.div_ceil(FRAME_BYTES));
        if !self.parts.lock().admit(id, end - first) {
            return Ok(whole);
        }
        let frames = Some((first, end));
        Ok(Goal { id, frames })
    }

    /// Fetches frames from a peer, opens and keeps them.
    pub(super) async fn fetch_frames(
        self: &Arc<Self>,
        id: ChunkId,
        frames: &(usize, usize),
        limit: Duration,
        transfer: &Arc<Transfer>,
    ) -> Result<Bytes, DataError> {
        let wanted = frames.0..frames.1;
        let sealed = sealed_range(&wanted);
        let fetched = self.replica.fetch_part(id, sealed, limit, transfer).await;
        let part = self.note_fetched(id, fetched)?;
        let data = Arc::clone(self);
        let open = move || {
            let failed = |source| DataError::Open { id, source };
            let frames =
                Frames::of_sealed(part.len).ok_or_else(|| failed(CryptoError::Unauthentic))?;
            // The chunk may end before.
            let wanted = wanted.start.min(frames.count())..wanted.end.min(frames.count());
            let opened = data
                .keys
                .open_frames(&part.head, frames, wanted.clone(), &part.bytes);
            let plain = Bytes::from(opened.map_err(failed)?);
            let start = frames.plain(&wanted).start;
            let mut cache = data.cache.lock();
            for frame in wanted {
                let held = frames.plain(&(frame..frame + 1));
                let held = plain.slice(held.start - start..held.end - start);
                // A copy: a slice would keep all of them in memory.
                cache.insert(Key::frame(id, frame), Bytes::copy_from_slice(&held));
            }
            Ok(plain)
        };
        let opened = self.pool.call(open).await;
        opened.unwrap_or(Err(DataError::Aborted))
    }
}
