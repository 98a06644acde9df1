//! The background work of a peer, one file a worker; what the rooms below do by themselves is listed with
//! it.

mod checkpoints;
mod collect;
mod fold;
mod locks;
mod look;
mod lost;
mod publish;
mod rows;
mod seal_ahead;
mod snapshot_nodes;
mod snapshots;
mod write_out;

use std::sync::Arc;
use std::time::Duration;

pub(super) use collect::Collections;
pub(super) use publish::Drafts;

use super::error::DaemonError;
use super::peer::Peer;
use super::report::WorkerReport;
use super::troubles::Trouble;
use crate::base::task::spawn;
use crate::base::worker::{Doing, Worker, WorkerStatus};
use crate::store::StoreError;

/// How often is looked at what nobody tells of.
pub(super) const TICK_INTERVAL: Duration = Duration::from_millis(500);

/// What those wait for that do something then.
const NEXT_TICK: &str = "the next half second";

/// Starts the workers of a peer.
pub(super) fn start(peer: &Arc<Peer>) {
    let workers = peer.node().workers();
    peer.keep_task(spawn(Arc::clone(peer.replica()).run(Arc::clone(workers))));
    run(peer, look::Look::new(peer));
    run(peer, collect::Collect::new(peer));
    let Some(member) = peer.member_parts() else {
        return;
    };
    peer.keep_task(spawn(Arc::clone(&member.data).run(Arc::clone(workers))));
    run(peer, publish::Publish::new(peer, member));
    run(peer, seal_ahead::SealAhead::new(peer, member));
    run(peer, fold::Fold::new(peer));
    run(peer, checkpoints::Checkpoints::new(peer, member));
    run(peer, write_out::WriteOut::new(peer, member));
    run(peer, locks::Locks::new(peer, member));
    run(peer, rows::Rows::new(peer, member));
    run(peer, lost::Lost::new(peer, member));
    run(peer, snapshots::Snapshots::new(peer, member));
    run(peer, snapshot_nodes::SnapshotNodes::new(peer, member));
}

fn run(peer: &Arc<Peer>, worker: impl Worker) {
    peer.keep_task(spawn(peer.node().workers().run(worker)));
}

/// Returns what each worker does, in the order in which they were started.
pub(super) fn list(peer: &Peer) -> Vec<WorkerReport> {
    let list = peer.node().workers().list().into_iter();
    list.map(|status| report(peer, status)).collect()
}

fn report(peer: &Peer, status: WorkerStatus) -> WorkerReport {
    let WorkerStatus {
        job,
        doing,
        since_ms,
        last_ms,
        steps,
        failing,
    } = status;
    let (mut waits_for, mut next_try_ms, mut panic) = (None, None, None);
    let state = match doing {
        Doing::Works => "works",
        Doing::Waits(what) => {
            waits_for = Some(what.to_owned());
            "waits"
        }
        Doing::Pauses(until_ms) => {
            next_try_ms = Some(until_ms);
            "pauses"
        }
        Doing::Panicked(what) => {
            panic = Some(what);
            "panicked"
        }
    };
    let failures = failing.as_ref().map_or(0, |failing| failing.count);
    let failing_since_ms = failing.as_ref().map(|failing| failing.since_ms);
    WorkerReport {
        name: job.name.to_owned(),
        peer: job.peer.map(|id| peer.peer_name(id)),
        does: job.does.to_owned(),
        state: state.to_owned(),
        since_ms,
        waits_for,
        last_ms,
        steps,
        error: panic.or_else(|| failing.map(|failing| failing.why)),
        failing_since_ms,
        failures,
        next_try_ms,
    }
}

impl Peer {
    /// Notes what keeps work from going on.
    pub(super) fn note_failure(&self, trouble: Trouble, error: &DaemonError) {
        let advice = match error.store() {
            Some(StoreError::Full) => "free room on the disk of the state folder",
            Some(StoreError::Poisoned) => {
                let what = "the store takes no writes: an earlier write to the disk failed";
                let advice = "check the disk, unmount, and mount again";
                self.troubles().note(Trouble::Store, what, advice);
                advice
            }
            Some(_) | None => "see dfs log; if it goes on, unmount and mount again",
        };
        let what = match trouble {
            Trouble::Sealing => "the changes made here cannot be handed to the others",
            _ => "the changes of others cannot be shown",
        };
        self.troubles()
            .note(trouble, format!("{what}: {error}"), advice);
    }
}
