//! Makes the snapshots that somebody asked for or that are due, and finds out what those of others name.

use std::sync::Arc;

use super::{NEXT_TICK, TICK_INTERVAL};
use crate::base::OpId;
use crate::base::time::timeout;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::daemon::peer::{Member, Peer};

/// The worker.
pub(super) struct Snapshots {
    peer: Arc<Peer>,
    member: Member,
    /// The snapshots of which it is known what they name.
    read: Option<Vec<OpId>>,
}

impl Snapshots {
    pub(super) fn new(peer: &Arc<Peer>, member: &Member) -> Self {
        Self {
            peer: Arc::clone(peer),
            member: member.clone(),
            read: None,
        }
    }
}

impl Worker for Snapshots {
    fn job(&self) -> Job {
        Job::new(
            "snapshots",
            "makes snapshots, and finds out what those of others name",
        )
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        if self.peer.make_snapshot(&self.member).await?
            || self.peer.follow_schedule(&self.member)?
        {
            return Ok(Step::Busy);
        }
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
        let _ = timeout(TICK_INTERVAL, self.peer.snapshots.asked.notified()).await;
    }
}
