//! Seals full segments while nobody hears, so that what undoes their ops can be given up.

use std::sync::Arc;

use crate::base::worker::{Failed, Job, Step, Worker};
use crate::daemon::error::DaemonError;
use crate::daemon::peer::{Member, Peer};
use crate::daemon::troubles::Trouble;
use crate::volume::Volume;

/// The worker.
pub(super) struct SealAhead {
    peer: Arc<Peer>,
    volume: Arc<Volume>,
}

impl SealAhead {
    pub(super) fn new(peer: &Arc<Peer>, member: &Member) -> Self {
        Self {
            peer: Arc::clone(peer),
            volume: Arc::clone(&member.volume),
        }
    }
}

impl Worker for SealAhead {
    fn job(&self) -> Job {
        Job::new(
            "seal-ahead",
            "seals many changes while no peer is connected",
        )
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        // Else they are sealed as they go out.
        if self.peer.node().connected().is_empty() {
            let volume = Arc::clone(&self.volume);
            let sealed = self.peer.fold_pool().call(move || volume.seal_ahead());
            let sealed = sealed.await.ok_or(DaemonError::WorkerFailed);
            let sealed = sealed.and_then(|sealed| sealed.map_err(DaemonError::from));
            if let Err(error) = &sealed {
                self.peer.note_failure(Trouble::Sealing, error);
            }
            sealed?;
        }
        Ok(Step::Idle("many changes of programs here"))
    }

    async fn wait(&mut self) {
        self.peer.drafts().many.notified().await;
    }
}
