//! Writes out what programs leave open and unflushed: no dirty data is older than the limit for long.

use std::sync::Arc;

use super::{NEXT_TICK, TICK_INTERVAL};
use crate::base::time::sleep;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::daemon::error::DaemonError;
use crate::daemon::peer::{Member, Peer};
use crate::fs::Fs;

impl Peer {
    /// Hands everything that programs wrote to the journal.
    pub(in crate::daemon) async fn write_out(&self) -> Result<(), DaemonError> {
        let Some(member) = self.member_parts() else {
            return Ok(());
        };
        let fs = Arc::clone(&member.fs);
        let written = self.fold_pool().call(move || fs.sync_all()).await;
        Ok(written.ok_or(DaemonError::WorkerFailed)??)
    }
}

/// The worker.
pub(super) struct WriteOut {
    peer: Arc<Peer>,
    fs: Arc<Fs>,
}

impl WriteOut {
    pub(super) fn new(peer: &Arc<Peer>, member: &Member) -> Self {
        Self {
            peer: Arc::clone(peer),
            fs: Arc::clone(&member.fs),
        }
    }
}

impl Worker for WriteOut {
    fn job(&self) -> Job {
        Job::new("write-out", "writes out what programs leave unflushed")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        let fs = Arc::clone(&self.fs);
        let stale = self.peer.fold_pool().call(move || fs.tick()).await;
        self.peer
            .invalidate(stale.ok_or(DaemonError::WorkerFailed)?);
        Ok(Step::Idle(NEXT_TICK))
    }

    async fn wait(&mut self) {
        sleep(TICK_INTERVAL).await;
    }
}
