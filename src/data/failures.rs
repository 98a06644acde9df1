//! Chunks that could not be had a moment ago.
//!
//! The kernel asks for the same bytes several times before it gives up on them: by reading ahead,
//! then page by page, for a mapping once more. Each time would take the whole time that a read is
//! given, so the failure is remembered for those who ask again at once.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;

use super::DataError;
use crate::base::ChunkId;
use crate::replica::ReplicaError;

/// The latest failures. The caller locks it.
#[derive(Debug)]
pub(super) struct Failures {
    /// With the time of each, on the monotonic clock.
    latest: LruCache<ChunkId, (Duration, DataError)>,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            latest: LruCache::new(FAILURES_MAX),
        }
    }
}

impl Failures {
    /// Takes note of how a search among the peers ended.
    pub(super) fn note(&mut self, id: ChunkId, now: Duration, outcome: Result<(), &DataError>) {
        match outcome {
            Ok(()) => {
                self.latest.pop(&id);
            }
            Err(error) if is_absence(error) => {
                self.latest.put(id, (now, error.clone()));
            }
            Err(_) => {}
        }
    }

    /// Returns the failure of a chunk that nobody could give a moment before `now`.
    pub(super) fn lately(&mut self, id: &ChunkId, now: Duration) -> Option<DataError> {
        let (at, error) = self.latest.peek(id)?;
        (now.saturating_sub(*at) < REMEMBERED).then(|| error.clone())
    }
}

/// Returns whether an error says that no peer gave the chunk.
fn is_absence(error: &DataError) -> bool {
    match error {
        DataError::Replica(
            ReplicaError::Missing { .. }
            | ReplicaError::Unreachable { .. }
            | ReplicaError::TimedOut { .. },
        ) => true,
        DataError::Replica(ReplicaError::Corrupt { .. } | ReplicaError::Store(_))
        | DataError::Open { .. }
        | DataError::TooLarge { .. }
        | DataError::Aborted => false,
    }
}

/// Long enough for the kernel's next try, and for a program to step over a chunk page by page;
/// shorter than anybody waits before trying again by hand.
const REMEMBERED: Duration = Duration::from_secs(1);

/// Failures remembered: far more than chunks that are asked for within a second.
const FAILURES_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("not 0");
