//! The check of everything held after the candidates changed, in slices.

use std::sync::Arc;

use super::limits::{BACKOFF, RECHECK_SLICE};
use super::{Replica, ReplicaError};
use crate::base::time::sleep;

impl Replica {
    /// Checks what is held whenever that is due, for ever.
    pub(super) async fn recheck_on_change(&self) {
        let mut changes = self.watch();
        loop {
            changes.mark_unchanged();
            if !self.view().is_unchecked() {
                changes.changed().await;
                continue;
            }
            if let Err(error) = self.recheck().await {
                tracing::warn!(%error, "checking what is held failed");
                sleep(BACKOFF.1).await;
            }
        }
    }

    /// Checks everything held against the current candidates and queues what is to be asked and
    /// sent; ends early where the candidates change meanwhile.
    async fn recheck(&self) -> Result<(), ReplicaError> {
        let view = self.view();
        let mut cursor = None;
        while Arc::ptr_eq(&view, &self.view()) {
            cursor = self
                .ledger
                .recheck(cursor, RECHECK_SLICE, &|id| view.plan(id), &|peer| {
                    view.is_member(peer)
                })?;
            if cursor.is_none() {
                self.finish_recheck(&view)?;
            }
            self.changed();
            if cursor.is_none() {
                return self.trim();
            }
            // Between two slices everybody else has a turn.
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}
