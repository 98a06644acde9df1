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
            // Until another chain is folded, what is needed is told by numbers of the one that was left.
            let is_folded = member.volume.record().era == peer.node().chain().tip().era;
            let needs = is_folded.then(|| member.volume.needs());
            peer.node().set_needs(needs.unwrap_or(0));
        }
        Ok(Step::Idle(NEXT_TICK))
    }

    async fn wait(&mut self) {
        sleep(TICK_INTERVAL).await;
    }
}
