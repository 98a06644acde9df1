//! Finds out which files name the chunks that are lost.

use std::sync::Arc;

use super::{NEXT_TICK, TICK_INTERVAL};
use crate::base::ChunkId;
use crate::base::time::sleep;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::daemon::error::DaemonError;
use crate::daemon::facts;
use crate::daemon::peer::{Member, Peer};

/// Files that are named where chunks are lost.
const FILES_MAX: usize = 5;

/// The worker.
pub(super) struct Lost {
    peer: Arc<Peer>,
    member: Member,
    /// The chunks whose files are known.
    known: Vec<ChunkId>,
}

impl Lost {
    pub(super) fn new(peer: &Arc<Peer>, member: &Member) -> Self {
        Self {
            peer: Arc::clone(peer),
            member: member.clone(),
            known: Vec::new(),
        }
    }

    /// Looks for the files of chunks that are lost. What no file names is not missed.
    async fn name(&mut self, lost: Vec<ChunkId>) -> Result<(), Failed> {
        let (volume, ids) = (Arc::clone(&self.member.volume), lost.clone());
        let is_settled = self.member.fs.counts().dirty_inodes == 0;
        let named = self.peer.asking_pool();
        let named = named.call(move || volume.who_names(&ids)).await;
        let named = named.ok_or(DaemonError::WorkerFailed)??;
        let files = named.values().take(FILES_MAX);
        let files = files.filter_map(|ino| facts::path_of_inode(&self.member, *ino));
        self.peer.set_lost_files(files.collect());
        let mut unnamed = lost;
        unnamed.retain(|id| !named.contains_key(id));
        let replica = self.peer.replica();
        // Contents may be sealed before their op is applied.
        if is_settled {
            replica.give_up_missing(&unnamed)?;
        }
        self.known = replica.lost();
        Ok(())
    }
}

impl Worker for Lost {
    fn job(&self) -> Job {
        Job::new("lost", "finds the files of chunks that are lost")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        let lost = self.peer.replica().lost();
        if lost != self.known {
            self.name(lost).await?;
        }
        Ok(Step::Idle(NEXT_TICK))
    }

    async fn wait(&mut self) {
        sleep(TICK_INTERVAL).await;
    }
}
