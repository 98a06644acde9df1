//! The check of everything held after the candidates changed, in slices.

use std::sync::Arc;

use super::limits::{BACKOFF, RECHECK_SLICE};
use super::{Replica, ReplicaError};
use crate::base::told::Changes;
use crate::base::worker::{Failed, Job, Step, Worker};

/// The worker that checks what is held whenever that is due.
pub(super) struct Recheck {
    replica: Arc<Replica>,
    changes: Changes,
}

impl Recheck {
    pub(super) fn new(replica: &Arc<Replica>) -> Self {
        Self {
            replica: Arc::clone(replica),
            changes: replica.watch(),
        }
    }
}

impl Worker for Recheck {
    fn job(&self) -> Job {
        let job = Job::new("recheck", "checks who is to hold what is held here");
        job.again(BACKOFF.1, BACKOFF.1)
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        self.changes.mark_unchanged();
        if !self.replica.view().is_unchecked() {
            return Ok(Step::Idle("other holders"));
        }
        self.replica.recheck().await?;
        Ok(Step::Busy)
    }

    async fn wait(&mut self) {
        self.changes.changed().await;
    }
}

impl Replica {
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
