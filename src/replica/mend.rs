//! Getting back what the local disk lost of the chunks that this peer has to hold or to send.
//!
//! Such a chunk stays on the books as missing until it is back, or no file needs it: so nothing
//! counts as replicated because it was forgotten. It is fetched from whoever has it at once, and
//! again whenever a peer comes up. What nobody has is told to everybody, so that those who count
//! this peer as a holder do not, and who still has it sends it again.

use std::sync::Arc;
use std::time::Duration;

use super::limits::{FETCH_MEND_LIMIT, LOST_BATCH, MEND_RETRY};
use super::peers::{Ask, Peers};
use super::{Replica, ReplicaError};
use crate::base::ChunkId;
use crate::base::time::timeout;
use crate::base::worker::{Failed, Job, Step, Worker};

/// The worker that fetches what is missing.
pub(super) struct Mend {
    replica: Arc<Replica>,
    peers: Arc<dyn Peers>,
    /// True where something is missing still.
    is_short: bool,
}

impl Mend {
    pub(super) fn new(replica: &Arc<Replica>, peers: &Arc<dyn Peers>) -> Self {
        Self {
            replica: Arc::clone(replica),
            peers: Arc::clone(peers),
            is_short: false,
        }
    }
}

impl Worker for Mend {
    fn job(&self) -> Job {
        Job::new("mend", "fetches chunks that this disk has lost")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        let missing = self.replica.ledger.missing();
        self.is_short = !missing.is_empty();
        if !self.is_short {
            return Ok(Step::Idle("losses"));
        }
        self.replica.mend_all(&self.peers, missing).await;
        Ok(Step::Idle("peers that may have what is lost"))
    }

    async fn wait(&mut self) {
        let told = self.replica.mend.notified();
        if self.is_short {
            let _ = timeout(MEND_RETRY, told).await;
        } else {
            told.await;
        }
    }
}

impl Replica {
    /// Fetches chunks that are missing, and tells the others what nobody has.
    async fn mend_all(self: &Arc<Self>, peers: &Arc<dyn Peers>, missing: Vec<ChunkId>) {
        let mut lost = Vec::new();
        for id in missing {
            match self.mend(id).await {
                Ok(()) => tracing::info!(%id, "a chunk that was lost here is back"),
                Err(ReplicaError::Missing { .. } | ReplicaError::Corrupt { .. }) => lost.push(id),
                Err(error) => tracing::debug!(%id, %error, "a lost chunk is not back yet"),
            }
        }
        self.ledger.note_nobody_has(&lost);
        self.changed();
        for batch in lost.chunks(LOST_BATCH) {
            for link in peers.links() {
                let told = Ask::Lost(batch.to_vec());
                // Who misses this hears it at the next try.
                let _ = peers
                    .ask(link.peer, told, super::limits::HOLD_TIMEOUT)
                    .await;
            }
        }
    }

    /// Brings one chunk back, as one that this peer sees to.
    async fn mend(self: &Arc<Self>, id: ChunkId) -> Result<(), ReplicaError> {
        let limit: Duration = FETCH_MEND_LIMIT;
        let sealed = self.fetch(id, limit).await?;
        self.ledger
            .reinstate(id, &sealed, self.newest_record(), &|id| {
                self.view().plan(id)
            })?;
        self.changed();
        Ok(())
    }

    /// Takes chunks that no file needs any more off the list of what is missing.
    pub fn give_up_missing(&self, ids: &[ChunkId]) -> Result<(), ReplicaError> {
        self.ledger.give_up(ids)?;
        self.changed();
        Ok(())
    }

    /// Returns the chunks that are missing here and that no peer has, as far as was found out.
    pub fn lost(&self) -> Vec<ChunkId> {
        self.ledger.lost()
    }
}
