//! Makes the snapshots that somebody asked for or that are due.

use std::sync::Arc;

use super::{NEXT_TICK, TICK_INTERVAL};
use crate::base::time::timeout;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::daemon::peer::{Member, Peer};

/// The worker.
pub(super) struct Snapshots {
    peer: Arc<Peer>,
    member: Member,
}

impl Snapshots {
    pub(super) fn new(peer: &Arc<Peer>, member: &Member) -> Self {
        Self {
            peer: Arc::clone(peer),
            member: member.clone(),
        }
    }
}

impl Worker for Snapshots {
    fn job(&self) -> Job {
        Job::new("snapshots", "makes snapshots that are asked for or due")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        let is_made = self.peer.make_snapshot(&self.member).await;
        // Also where one that is asked for cannot be made.
        let is_asked = self.peer.follow_schedule(&self.member)?;
        match is_made? || is_asked {
            true => Ok(Step::Busy),
            false => Ok(Step::Idle(NEXT_TICK)),
        }
    }

    async fn wait(&mut self) {
        let _ = timeout(TICK_INTERVAL, self.peer.snapshots.asked.notified()).await;
    }
}
