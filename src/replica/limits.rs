//! Bounds of the replica room, each with its arithmetic.

use std::time::Duration;

use crate::base::memory::Budget;

/// Most chunks in one [`super::peers::Ask::Put`]: four full ones are 4 MiB, under half of what a
/// message may carry.
pub const PUT_BATCH_CHUNKS: usize = 4;

/// Payload after which a batch of puts is full. A chunk is at most 1 MiB and its overhead.
pub const PUT_BATCH_BYTES: u64 = 4 << 20;

/// Batches on their way to one peer: the next one is under way while the holder syncs the last.
pub const PUT_LANES: usize = 2;

/// MiB of batches on their way to all peers. A slow peer takes two of them, so that a few do not hold
/// up the others.
pub const PUTS_IN_FLIGHT_MIB: usize = 24;

/// Returns the MiB of batches on their way: an eighth of the budget, and one full batch at least.
pub fn puts_in_flight_mib(budget: Budget) -> usize {
    let bytes = budget.part((PUTS_IN_FLIGHT_MIB as u64) << 20, 8);
    let batch = (PUT_BATCH_BYTES >> 20) as usize;
    usize::try_from(bytes >> 20).unwrap_or(batch).max(batch)
}

/// Rate from which batches are full.
pub const FAST_BYTES_PER_SECOND: u64 = 8 << 20;

/// Small chunks that go together to a slow peer; a larger one goes alone, so that it can go on where
/// it broke off.
pub const SLOW_BATCH_BYTES: u64 = 48 << 10;

/// Ids in one [`super::peers::Ask::Hold`]. Few enough that the answer is still true when the
/// last of the missing ones is sent.
pub const HOLD_BATCH: usize = 64;

/// Most ids of one peer's queue that are kept in memory: 4,096 take about 200 KiB, and are 4 GiB of
/// full chunks.
pub const DUE_WINDOW_MAX: usize = 4096;

/// Most ids that a peer may ask about at once: 1,024 of 32 bytes fit a message many times.
pub const HOLD_SERVED_MAX: usize = 1024;

/// Records that a peer which asks for chunks may be ahead of this one: those of a day in which there is
/// something new each second.
pub const RECORDS_AHEAD_MAX: u64 = 86_400;

/// How long a peer may take to note what it is told.
pub const TELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Chunks that are looked at in one step of a collection; as many as a peer may ask about at once.
pub const COLLECT_SLICE: usize = HOLD_SERVED_MAX;

/// How long a member may take to tell which chunks are named, from what it found out a moment ago.
pub const NAMED_TIMEOUT: Duration = Duration::from_secs(10);

/// Rows of this peer's chunks that are re-checked in one step after a change of the roster.
pub const RECHECK_SLICE: usize = 256;

/// First and longest pause after a failed push to a peer.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Pause after a holder said that it is full.
pub const FULL_BACKOFF: Duration = Duration::from_secs(60);

/// How long a batch of puts may make no progress.
pub const PUT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a question without payload may take.
pub const HOLD_TIMEOUT: Duration = Duration::from_secs(10);

/// Most sealed bytes of a chunk that are asked for and sent as a part: a larger one goes in pieces over
/// slow lines, which only whole chunks do.
pub const PART_MAX_BYTES: usize = 60 << 10;

/// Holders that one fetch asks at the same time.
pub const FETCH_PARALLEL_MAX: usize = 3;

/// Bounds of the delay after which a fetch asks one more holder.
pub const HEDGE: (Duration, Duration) = (Duration::from_millis(30), Duration::from_secs(2));

/// How long a fetch that found nobody waits for a session to come up, within its deadline.
/// Covers the seconds after a start in which sessions are still being made.
pub const FETCH_GRACE: Duration = Duration::from_secs(2);

/// How often a fetch looks whether a peer that may come has come or was given up.
pub const EXPECT_LOOK: Duration = Duration::from_millis(250);

/// Pause before a holder that is putting the chunk already is asked for it again.
pub const COMING_PAUSE: Duration = Duration::from_secs(2);

/// How long a chunk that a slow peer asked for is not pushed to it, too: what a full one takes at
/// 32 kbit/s.
pub const ASKED_TIME: Duration = Duration::from_secs(300);

/// Chunks that are remembered as asked for: four windows of readahead of sixteen peers.
pub const ASKED_MAX: usize = 1024;

/// Longest pause before what a peer asked for is offered to it.
pub const ASKED_PAUSE: Duration = Duration::from_secs(5);

/// Default limit of the sealed chunks that are kept only as a cache.
pub const DISK_CACHE_BYTES: u64 = 10 << 30;

/// Longest encoded row of this room: two lists of at most 64 peers and a few numbers.
pub const ROW_MAX_BYTES: usize = 8 << 10;

/// Most peers remembered as holders of one chunk, and queued for it. R is 3; the rest are stand-ins.
pub const HOLDERS_MAX: usize = 64;

/// How long a holder that is asked for a chunk may send nothing of it.
pub const GET_TIMEOUT: Duration = Duration::from_secs(20);

/// Peers that a survey asks at once.
pub const SURVEY_PEERS_MAX: usize = 32;

/// Ids in one [`super::peers::Ask::Lost`].
pub const LOST_BATCH: usize = 64;

/// Lost chunks that are kept in mind: 64 Ki of them are 64 GiB, and 4 MiB of memory.
pub const MISSING_MAX: usize = 64 << 10;

/// How long the search for a lost chunk may take.
pub const FETCH_MEND_LIMIT: Duration = Duration::from_secs(10);

/// Pause before all lost chunks are searched for again, unless a peer comes up.
pub const MEND_RETRY: Duration = Duration::from_secs(60);
