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

impl Replica {
    /// Fetches what is missing, for ever.
    pub(super) async fn mend_on_loss(self: Arc<Self>, peers: Arc<dyn Peers>) {
        loop {
            let missing = self.ledger.missing();
            if missing.is_empty() {
                self.mend.notified().await;
                continue;
            }
            let mut lost = Vec::new();
            for id in missing {
                match self.mend(id).await {
                    Ok(()) => tracing::info!(%id, "a chunk that was lost here is back"),
                    Err(ReplicaError::Missing { .. } | ReplicaError::Corrupt { .. }) => {
                        lost.push(id);
                    }
                    Err(error) => tracing::debug!(%id, %error, "a lost chunk is not back yet"),
                }
            }
            self.ledger.note_nobody_has(&lost);
            self.changed();
            for batch in lost.chunks(LOST_BATCH) {
                for link in peers.links() {
                    let told = Ask::Lost(batch.to_vec());
                    let _ = peers
                        .ask(link.peer, told, super::limits::HOLD_TIMEOUT)
                        .await;
                }
            }
            let _ = timeout(MEND_RETRY, self.mend.notified()).await;
        }
    }

    /// Brings one chunk back, as one that this peer sees to.
    async fn mend(self: &Arc<Self>, id: ChunkId) -> Result<(), ReplicaError> {
        let limit: Duration = FETCH_MEND_LIMIT;
        self.fetch(id, limit).await?;
        self.ledger.reinstate(id, &|id| self.view().plan(id))?;
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
