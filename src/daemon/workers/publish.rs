//! Hands the changes made here to the others: seals the drafts and pushes the segments.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::base::limits::DRAFT_AGE_MAX;
use crate::base::time::{sleep, timeout};
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::daemon::error::DaemonError;
use crate::daemon::peer::{Member, Peer};
use crate::daemon::troubles::Trouble;
use crate::volume::Volume;

/// How long the first draft waits for what belongs to it: a create, its write and its close come
/// within this time and go out as one segment.
const GATHER: Duration = Duration::from_millis(2);

/// How long drafts gather while there is a stream of them: at most forty segments, and so forty
/// flushes of the disk, a second.
const INTERVAL: Duration = Duration::from_millis(25);

/// How long drafts gather while no other peer is connected: with nobody to tell, what is sealed now and
/// not later only costs flushes of the disk.
const UNHEARD_INTERVAL: Duration = Duration::from_millis(500);

/// Drafts that take so much memory are sealed although nobody hears: what undoes them is given up
/// then, and is best given up before it goes from memory into the row database.
const DRAFTS_MAX_BYTES: usize = 1 << 20;

/// Who waits for drafts.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Drafts {
    /// Told of each.
    any: Notify,
    /// Told when they are many.
    pub(super) many: Notify,
}

impl Drafts {
    /// Tells of drafts; all of them take so many bytes.
    pub(in crate::daemon) fn tell(&self, bytes: usize) {
        self.any.notify_one();
        if bytes >= DRAFTS_MAX_BYTES {
            self.many.notify_one();
        }
    }
}

impl Peer {
    /// Seals the drafts there are and pushes them.
    pub(in crate::daemon) async fn publish(&self) -> Result<(), DaemonError> {
        match self.member_parts() {
            Some(member) => self.publish_of(&member.volume).await,
            None => Ok(()),
        }
    }

    async fn publish_of(&self, volume: &Arc<Volume>) -> Result<(), DaemonError> {
        let volume = Arc::clone(volume);
        let sealed = self.fold_pool().call(move || volume.seal_drafts()).await;
        let sealed = sealed.ok_or(DaemonError::WorkerFailed)??;
        if !sealed.is_empty() {
            self.node().publish(&sealed);
        }
        Ok(())
    }
}

/// The worker.
pub(super) struct Publish {
    peer: Arc<Peer>,
    volume: Arc<Volume>,
}

impl Publish {
    pub(super) fn new(peer: &Arc<Peer>, member: &Member) -> Self {
        Self {
            peer: Arc::clone(peer),
            volume: Arc::clone(&member.volume),
        }
    }

    async fn wait_for_drafts(&self) {
        let any = self.peer.drafts().any.notified();
        // What was not told of is found all the same.
        if timeout(DRAFT_AGE_MAX, any).await.is_ok() {
            sleep(GATHER).await;
        }
    }
}

impl Worker for Publish {
    fn job(&self) -> Job {
        Job::new("publish", "hands the changes made here to the others")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        let published = self.peer.publish_of(&self.volume).await;
        if let Err(error) = &published {
            self.peer.note_failure(Trouble::Sealing, error);
        }
        published?;
        self.peer.troubles().clear(Trouble::Sealing);
        Ok(Step::Idle("changes of programs here"))
    }

    async fn wait(&mut self) {
        let is_heard = !self.peer.node().connected().is_empty();
        sleep(if is_heard { INTERVAL } else { UNHEARD_INTERVAL }).await;
        self.wait_for_drafts().await;
    }
}
