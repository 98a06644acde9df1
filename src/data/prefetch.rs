//! Brings chunks into memory that somebody is about to read.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::flight::Goal;
use super::{Data, FETCH_TIMEOUT, PREFETCH_PARALLEL};
use crate::base::ChunkId;
use crate::base::task::spawn;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::transport::Priority;

/// The worker that works off what is to be prefetched.
pub(super) struct Prefetch {
    data: Arc<Data>,
    queue: mpsc::Receiver<ChunkId>,
    slots: Arc<Semaphore>,
    /// The next one; `None` inside once nobody asks any more.
    next: Option<Option<ChunkId>>,
}

impl Prefetch {
    pub(super) fn new(data: Arc<Data>, queue: mpsc::Receiver<ChunkId>) -> Self {
        Self {
            data,
            queue,
            slots: Arc::new(Semaphore::new(PREFETCH_PARALLEL)),
            next: None,
        }
    }
}

impl Worker for Prefetch {
    fn job(&self) -> Job {
        Job::new("prefetch", "brings chunks into memory that are read next")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        let id = match self.next.take() {
            Some(Some(id)) => id,
            Some(None) => return Ok(Step::Over),
            None => return Ok(Step::Idle("readers")),
        };
        let slot = Arc::clone(&self.slots).acquire_owned().await?;
        let data = Arc::clone(&self.data);
        spawn(async move {
            let read = data.read_as(
                Goal::whole(id),
                0..usize::MAX,
                FETCH_TIMEOUT,
                Priority::Readahead,
            );
            if let Err(error) = read.await {
                tracing::debug!(%id, %error, "a chunk is not prefetched");
            }
            drop(slot);
        });
        Ok(Step::Idle("readers"))
    }

    async fn wait(&mut self) {
        self.next = Some(self.queue.recv().await);
    }
}
