//! Folds what the others wrote, tells the kernel what changed, and follows the roster: what this member may
//! do, and which keys it was given.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::base::PeerId;
use crate::base::time::{sleep, timeout};
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::daemon::error::DaemonError;
use crate::daemon::look::FORK_ADVICE;
use crate::daemon::peer::{Member, Peer};
use crate::daemon::troubles::Trouble;
use crate::locks::Absent;
use crate::node::NodeEvent;
use crate::volume::{Merged, VolumeError};
use crate::wire::Vector;

/// How often is looked at whether changes are folded, of which nobody tells.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

impl Peer {
    /// Folds what the logs have and the view does not, and tells the kernel.
    pub(in crate::daemon) async fn fold(&self) -> Result<(), DaemonError> {
        let Some(member) = self.member_parts() else {
            return Ok(());
        };
        loop {
            if let Some(sink) = self.sink() {
                sink.has_room().await;
            }
            let _turn = self.fold_turn.lock().await;
            self.fold_anew(member).await?;
            let volume = Arc::clone(&member.volume);
            let merged = self.fold_pool().call(move || volume.apply_segments()).await;
            let merged = merged.ok_or(DaemonError::WorkerFailed)??;
            self.tell_waiting(member, &merged);
            if member.fs.is_read_only() || member.volume.is_over() {
                self.rights_changed();
            }
            if merged.is_nothing() {
                return Ok(());
            }
            tracing::debug!(
                ops = merged.op_count,
                undone = merged.undone_count,
                "folded"
            );
            self.invalidate(member.fs.apply_changes(&merged.changes));
            self.shown.notify_waiters();
        }
    }

    /// Waits until some of these segments are folded and the kernel's caches know, or some are not to be had:
    /// returns both.
    pub(super) async fn folded_of(
        &self,
        member: &Member,
        heads: &Vector,
        absent: &mut Absent,
    ) -> Result<(Vector, Vector), DaemonError> {
        let mut waited = Duration::ZERO;
        loop {
            let shown = self.shown.notified();
            let missing = {
                // Behind one that is under way: what it changes the kernel is told in its turn.
                let _turn = self.fold_turn.lock().await;
                let (volume, heads) = (Arc::clone(&member.volume), heads.clone());
                let unfolded = self.fold_pool().call(move || volume.unfolded(&heads)).await;
                unfolded.ok_or(DaemonError::WorkerFailed)?
            };
            let gone = absent.look(waited, &missing, &self.node().log().vector());
            if missing.len() < heads.len() || !gone.is_empty() {
                if let Some(sink) = self.sink() {
                    sink.settled().await;
                }
                let done = heads.iter().filter(|(log, _)| !missing.contains_key(log));
                return Ok((done.map(|(log, end)| (*log, *end)).collect(), gone));
            }
            let began = self.clock().monotonic();
            let _ = timeout(LOOK_PAUSE, shown).await;
            waited = self
                .clock()
                .monotonic()
                .saturating_sub(began)
                .min(LOOK_PAUSE);
        }
    }

    /// Folds everything anew where this peer has gone over to another chain since. Where that cannot be
    /// done, as not all is here that it takes or the disk is full, changes are shown in their tentative
    /// order until it can.
    async fn fold_anew(&self, member: &Member) -> Result<(), DaemonError> {
        if member.volume.is_of_chain()? {
            self.waiting.anew.done();
            return Ok(());
        }
        let (log, chain) = (self.node().log(), self.node().chain());
        let here = (chain.tip(), log.vector(), self.node().roster().digest());
        if !self.waiting.anew.is_due(&here, self.clock().monotonic()) {
            return Ok(());
        }
        match self.anew(member).await {
            Ok(anew) => {
                self.waiting.anew.done();
                self.invalidate(member.fs.apply_changes(&anew.changes));
            }
            Err(error) => {
                let clock = self.clock();
                let (now, now_ms) = (clock.monotonic(), clock.wall_ms());
                self.waiting.anew.failed(here, error, now, now_ms);
            }
        }
        Ok(())
    }

    /// Notes which logs cannot be folded, and what others wait for.
    fn tell_waiting(&self, member: &Member, merged: &Merged) {
        let (troubles, now_ms) = (self.troubles(), self.clock().wall_ms());
        self.waiting.set(&merged.waiting, now_ms);
        self.waiting.statements.set(merged.lacks_statements, now_ms);
        troubles.clear_all(|trouble| match trouble {
            Trouble::Log(log) => !merged.refused.contains_key(log),
            _ => false,
        });
        for (log, error) in &merged.refused {
            let name = self.device_name(member.volume.device_of(*log));
            let what = format!("the changes of {name} cannot be folded further: {error}");
            let advice = match error {
                VolumeError::TooNew { .. } => "upgrade dfs on this machine",
                _ => "see dfs log",
            };
            troubles.note(Trouble::Log(*log), what, advice);
        }
    }

    /// A peer has another history of this device's log.
    fn forked(&self, peer: PeerId) {
        let name = self.peer_name(peer);
        let what = format!(
            "{name} has another history of this device's log: the others do not take what is written \
             here"
        );
        self.troubles().note(Trouble::Forked, what, FORK_ADVICE);
    }
}

/// The worker.
pub(super) struct Fold {
    peer: Arc<Peer>,
    events: Receiver<NodeEvent>,
    is_closed: bool,
}

impl Fold {
    pub(super) fn new(peer: &Arc<Peer>) -> Self {
        let events = peer.node().subscribe();
        // The roster may have changed before anybody listened.
        peer.rights_changed();
        Self {
            peer: Arc::clone(peer),
            events,
            is_closed: false,
        }
    }

    /// Says whether an event may have brought something to fold.
    async fn heed(&self, event: Result<NodeEvent, RecvError>) -> bool {
        match event {
            Ok(NodeEvent::Segments { .. } | NodeEvent::Chain) => true,
            Ok(NodeEvent::RosterChanged) => {
                self.peer.rights_changed();
                // Who has just joined asks for all that is written until now.
                if !self.peer.adopt_keys()
                    && let Err(error) = self.peer.publish().await
                {
                    tracing::debug!(%error, "the last changes are not sealed yet");
                }
                // A record may have waited for what is known of the members now.
                true
            }
            Ok(NodeEvent::OwnLogForked { peer }) => {
                self.peer.forked(peer);
                false
            }
            Err(RecvError::Lagged(_)) => {
                self.peer.rights_changed();
                self.peer.adopt_keys();
                true
            }
            Err(RecvError::Closed) => true,
            Ok(_) => false,
        }
    }
}

impl Worker for Fold {
    fn job(&self) -> Job {
        Job::new("fold", "shows the changes of the others")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        if self.is_closed {
            return Ok(Step::Over);
        }
        let folded = self.peer.fold().await;
        if let Err(error) = &folded {
            self.peer.note_failure(Trouble::Folding, error);
        }
        folded?;
        self.peer.troubles().clear(Trouble::Folding);
        Ok(Step::Idle("changes of the others"))
    }

    async fn wait(&mut self) {
        loop {
            let pause = self.peer.waiting.anew.pause(self.peer.clock().monotonic());
            let event = tokio::select! {
                event = self.events.recv() => event,
                () = sleep(pause.unwrap_or_default()), if pause.is_some() => return,
            };
            self.is_closed = matches!(event, Err(RecvError::Closed));
            if self.heed(event).await {
                return;
            }
        }
    }
}
