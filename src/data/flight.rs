//! One opening of a chunk, or of some frames of it, that several readers wait for.

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use std::ops::Range;
use std::sync::Arc;

use super::DataError;
use crate::base::ChunkId;
use crate::crypto::FRAME_BYTES;
use crate::node::Transfer;
use crate::transport::Priority;

/// What is opened: a chunk, or some frames of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Goal {
    pub(super) id: ChunkId,
    /// First frame, and the first behind them; `None` for all.
    pub(super) frames: Option<(usize, usize)>,
}

impl Goal {
    /// Names a whole chunk.
    pub(super) fn whole(id: ChunkId) -> Self {
        Self { id, frames: None }
    }

    /// Cuts a range of the chunk's plaintext out of what was opened.
    pub(super) fn cut(&self, plain: &Bytes, range: &Range<usize>) -> Bytes {
        let skipped = self.frames.map_or(0, |(first, _)| first * FRAME_BYTES);
        let at = |at: usize| at.saturating_sub(skipped).min(plain.len());
        plain.slice(at(range.start)..at(range.end.max(range.start)))
    }
}

/// The plaintext; `None` where the reader looked only here and the chunk is not.
type Outcome = Result<Option<Bytes>, DataError>;

/// How far the opening of a chunk is.
#[derive(Debug, Clone)]
enum Stage {
    /// The local disk is being read and opened on a thread that waits for nobody. Entered first.
    Local,
    /// The chunk is not here, or not well; it comes from another peer.
    Remote,
    /// Final.
    Done(Outcome),
}

/// What one reader does and the others wait for, in threads or in futures.
#[derive(Debug)]
pub(super) struct Flight {
    stage: Mutex<Stage>,
    blocked: Condvar,
    waiting: Notify,
    /// How urgent it is, and when something of it came.
    pub(super) transfer: Arc<Transfer>,
}

impl Flight {
    /// Returns a flight in its local stage.
    pub(super) fn new(priority: Priority) -> Self {
        Self {
            stage: Mutex::new(Stage::Local),
            blocked: Condvar::new(),
            waiting: Notify::new(),
            transfer: Transfer::new(priority),
        }
    }

    /// Says that the chunk must come from another peer.
    pub(super) fn go_remote(&self) {
        *self.stage.lock() = Stage::Remote;
        self.blocked.notify_all();
    }

    /// Says how it ended.
    pub(super) fn land(&self, outcome: Outcome) {
        *self.stage.lock() = Stage::Done(outcome);
        self.blocked.notify_all();
        self.waiting.notify_waiters();
    }

    /// Tells whether it ended.
    pub(super) fn is_done(&self) -> bool {
        matches!(*self.stage.lock(), Stage::Done(_))
    }

    /// Blocks while the flight is in its local stage; `None` where it goes on remotely, which a
    /// thread must not wait for.
    pub(super) fn wait_local(&self) -> Option<Outcome> {
        let mut stage = self.stage.lock();
        loop {
            match &*stage {
                Stage::Local => self.blocked.wait(&mut stage),
                Stage::Remote => return None,
                Stage::Done(outcome) => return Some(outcome.clone()),
            }
        }
    }

    /// Waits for the end.
    pub(super) async fn wait(&self) -> Outcome {
        loop {
            let waiting = self.waiting.notified();
            if let Stage::Done(outcome) = &*self.stage.lock() {
                return outcome.clone();
            }
            waiting.await;
        }
    }
}
