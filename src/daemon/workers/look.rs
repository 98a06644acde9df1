//! Notes what is wrong (`daemon/look.rs`), and tells the others what this peer has room for and what its
//! ops may look back to.

use std::sync::Arc;

use super::{NEXT_TICK, TICK_INTERVAL};
use crate::base::time::sleep;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::daemon::peer::Peer;

/// The worker.
pub(super) struct Look {
    peer: Arc<Peer>,
}

impl Look {
    pub(super) fn new(peer: &Arc<Peer>) -> Self {
        Self {
            peer: Arc::clone(peer),
        }
    }
}

impl Worker for Look {
    fn job(&self) -> Job {
        Job::new(
            "look",
            "notes what is wrong, and tells the others of the room here",
        )
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        let peer = &self.peer;
        peer.look_around();
        peer.node().set_free_bytes(peer.room().offered_bytes());
        if let Some(member) = peer.member_parts() {
            // The era first: where another chain is folded in between the number is one of that.
            let era = member.volume.record().era;
            let needs = member.volume.needs();
            if member.volume.record().era == era {
                peer.node().set_needs(era, needs);
            }
        }
        Ok(Step::Idle(NEXT_TICK))
    }

    async fn wait(&mut self) {
        sleep(TICK_INTERVAL).await;
    }
}
