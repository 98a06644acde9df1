//! Reads the rows again, in rounds, and compares them with what the others say of theirs
//! (`daemon/sums.rs`).

use std::sync::Arc;

use super::{NEXT_TICK, TICK_INTERVAL};
use crate::base::time::sleep;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::daemon::peer::{Member, Peer};

/// The worker.
pub(super) struct Rows {
    peer: Arc<Peer>,
    member: Member,
}

impl Rows {
    pub(super) fn new(peer: &Arc<Peer>, member: &Member) -> Self {
        Self {
            peer: Arc::clone(peer),
            member: member.clone(),
        }
    }
}

impl Worker for Rows {
    fn job(&self) -> Job {
        Job::new(
            "rows",
            "reads the rows again and compares them with the others'",
        )
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        self.peer.watch_rows(&self.member).await;
        Ok(Step::Idle(NEXT_TICK))
    }

    async fn wait(&mut self) {
        sleep(TICK_INTERVAL).await;
    }
}
