//! Gives up chunks that no file has any more, once they are worth looking for.

use std::sync::Arc;

use super::{NEXT_TICK, TICK_INTERVAL};
use crate::base::time::sleep;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::daemon::error::DaemonError;
use crate::daemon::peer::{Member, Peer};
use crate::fs::{Fs, RoomSource};

/// Bytes that no file seems to have any more before chunks are collected, where the capacity is
/// not small; else this fraction of it.
const MIN_BYTES: u64 = 64 << 20;
const MIN_FRACTION: u64 = 32;

/// The worker.
pub(super) struct Collect {
    peer: Arc<Peer>,
    fs: Arc<Fs>,
}

impl Collect {
    pub(super) fn new(peer: &Arc<Peer>, member: &Member) -> Self {
        Self {
            peer: Arc::clone(peer),
            fs: Arc::clone(&member.fs),
        }
    }
}

impl Worker for Collect {
    fn job(&self) -> Job {
        Job::new("collect", "gives up chunks that no file has any more")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        let fs = Arc::clone(&self.fs);
        let may_collect = self.peer.room().may_collect();
        let worth = MIN_BYTES.min(self.peer.node().capacity_bytes() / MIN_FRACTION);
        let collect = move || {
            if may_collect {
                return fs.collect_if_worth(worth);
            }
            fs.forget_superfluous().map(|()| None)
        };
        let collected = self.peer.fold_pool().call(collect).await;
        if let Some(count) = collected.ok_or(DaemonError::WorkerFailed)?? {
            tracing::info!(chunks = count, "gave up what no file has any more");
        }
        Ok(Step::Idle(NEXT_TICK))
    }

    async fn wait(&mut self) {
        sleep(TICK_INTERVAL).await;
    }
}
