//! Finds out what the snapshots of others name: until that is known nothing is given up here.

use std::sync::Arc;

use super::{NEXT_TICK, TICK_INTERVAL};
use crate::base::OpId;
use crate::base::time::sleep;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::daemon::peer::{Member, Peer};

/// The worker.
pub(super) struct SnapshotNodes {
    peer: Arc<Peer>,
    member: Member,
    /// The snapshots of which it is known what they name.
    read: Option<Vec<OpId>>,
}

impl SnapshotNodes {
    pub(super) fn new(peer: &Arc<Peer>, member: &Member) -> Self {
        Self {
            peer: Arc::clone(peer),
            member: member.clone(),
            read: None,
        }
    }
}

impl Worker for SnapshotNodes {
    fn job(&self) -> Job {
        Job::new(
            "snapshot-nodes",
            "finds out what the snapshots of others name",
        )
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        let volume = &self.member.volume;
        let snapshots = volume.snapshots()?;
        let ops: Vec<OpId> = snapshots.into_iter().map(|kept| kept.op).collect();
        if self.read.as_ref() != Some(&ops) || volume.has_unread_nodes() {
            if self.peer.read_nodes(&self.member).await? {
                return Ok(Step::Busy);
            }
            self.read = Some(ops);
        }
        Ok(Step::Idle(NEXT_TICK))
    }

    async fn wait(&mut self) {
        sleep(TICK_INTERVAL).await;
    }
}
