//! The pulse of a session: both ends tell each other what they know, often enough to notice when
//! one is gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::Node;
use super::error::NodeError;
use super::event::NodeEvent;
use super::membership::{Change, admins, batches};
use super::peers::{Peer, PeerTable};
use super::roster::{Member, Role, Roster};
use super::session::Session;
use crate::base::limits::RPC_TIMEOUT;
use crate::base::time::{Backoff, sleep};
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::base::{DeviceId, LogId, PeerId};
use crate::wire::limits::{ALIKE_MAX, VECTOR_MAX};
use crate::wire::{Request, Response, StatementBytes, SyncState, Vector};

/// Pause between two pulses: three may be lost before the peer is suspected.
const PULSE: Duration = Duration::from_secs(2);

/// How long a pulse waits for its answer.
const PULSE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long at most two rosters that do not become one are left as they are before it is tried again.
const RECONCILE_MAX: Duration = Duration::from_secs(600);

/// How long news wait for more news before they are told.
const NEWS_DELAY: Duration = Duration::from_millis(10);

/// The worker that exchanges states with a peer until the connection ends.
pub(super) struct Pulse {
    node: Arc<Node>,
    session: Arc<Session>,
    differing: Differing,
    /// The same of words on checkpoints.
    words: Differing,
    is_closed: bool,
}

impl Pulse {
    pub(super) fn new(node: &Arc<Node>, session: &Arc<Session>) -> Self {
        Self {
            node: Arc::clone(node),
            session: Arc::clone(session),
            differing: Differing::default(),
            words: Differing::default(),
            is_closed: false,
        }
    }
}

impl Worker for Pulse {
    fn job(&self) -> Job {
        Job::new(
            "pulse",
            "tells the peer what is known here, and asks the same",
        )
        .of(self.session.peer())
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        if self.is_closed {
            return Ok(Step::Over);
        }
        let (node, session) = (&self.node, &self.session);
        let request = Request::Sync(node.tell_state(session));
        let answer = session.request(&request, Bytes::new(), PULSE_TIMEOUT).await;
        // Who does not answer is asked again at the next pulse, and given up by who dials.
        if let Ok((Response::Sync(state), _)) = answer {
            node.heard_from(session);
            node.note_state(session, &state);
            let own = node.roster().digest();
            let theirs = state.roster_digest;
            if theirs != own && self.differing.is_due(own, theirs, node.now()) {
                node.reconcile_roster(session, theirs).await;
            }
            let own = node.checkpoints.words.digest();
            let theirs = state.checkpoints;
            if theirs != own && self.words.is_due(own, theirs, node.now()) {
                node.exchange_words(session).await;
            }
        }
        Ok(Step::Idle("news, or the next pulse"))
    }

    async fn wait(&mut self) {
        tokio::select! {
            biased;
            _ = self.session.connection().closed() => self.is_closed = true,
            () = self.session.pulse_wake.notified() => sleep(NEWS_DELAY).await,
            () = sleep(PULSE) => {}
        }
    }
}

impl Node {
    /// Returns what this peer knows.
    pub(super) fn sync_state(&self) -> SyncState {
        let record = self.chain.offered();
        SyncState {
            clock_ms: self.clock.wall_ms(),
            roster_digest: self.roster().digest(),
            free_bytes: self.free_bytes.load(Ordering::Relaxed),
            vector: self.counting(self.log.offered()),
            refuses: None,
            record,
            needs: self.needs_in(record.era),
            voter: self.chain.own_voter().incarnation,
            settled: *self.settled.lock(),
            alike: Vec::new(),
            checkpoints: self.checkpoints.words.digest(),
            asks_checkpoint: self.asks_checkpoint(),
        }
    }

    /// Returns the peers that have all that this one has of what `author` wrote.
    fn alike(&self, author: PeerId) -> Vec<PeerId> {
        let logs = self.log.logs_of(DeviceId::from(author)).into_iter();
        let ends = logs.filter_map(|log| Some((log, self.log.head(log)?.seg_no)));
        let ends: Vec<(LogId, u64)> = ends.collect();
        let table = self.table.lock();
        let has_all = |peer: &Peer| {
            let mut ends = ends.iter();
            peer.up && ends.all(|(log, end)| peer.vector.get(log) >= Some(end))
        };
        let others = table.peers.iter().filter(|(id, _)| **id != author);
        let alike = others.filter(|(_, peer)| has_all(peer));
        alike.map(|(id, _)| *id).take(ALIKE_MAX).collect()
    }

    /// Takes note that others have as much of the own logs as one that told so.
    fn note_alike(&self, table: &mut PeerTable, teller: &Vector, alike: &[PeerId]) {
        for (log, _) in self.own_ends() {
            let Some(end) = teller.get(&log) else {
                continue;
            };
            for id in alike {
                let peer = table.peers.get_mut(id);
                let Some(peer) = peer.filter(|peer| peer.session.is_none()) else {
                    continue;
                };
                if peer.vector.len() < VECTOR_MAX || peer.vector.contains_key(&log) {
                    let known = peer.vector.entry(log).or_default();
                    *known = (*known).max(*end);
                }
            }
        }
    }

    /// Returns what this peer knows, to be told over a session.
    pub(super) fn tell_state(&self, session: &Session) -> SyncState {
        let device = DeviceId::from(session.peer());
        let refuses = self.refused_logs.lock().of(device);
        let state = SyncState {
            refuses,
            alike: self.alike(session.peer()),
            ..self.sync_state()
        };
        session.told.lock().clone_from(&state.vector);
        state
    }

    /// Takes note of what a peer says that it knows.
    pub(super) fn note_state(&self, session: &Arc<Session>, state: &SyncState) {
        let id = session.peer();
        {
            let mut table = self.table.lock();
            let Some(peer) = table.peers.get_mut(&id) else {
                return;
            };
            peer.free_bytes = state.free_bytes;
            peer.clock_ahead_ms = self.ahead_ms(state.clock_ms);
            peer.refuses_log = state.refuses;
            peer.chain = state.record;
            peer.voter = Some(state.voter);
            // Of an older one the rows may not be what they were.
            peer.settled = state.settled;
            peer.asks_checkpoint = state.asks_checkpoint;
            peer.note_needs(state.record.era, state.needs);
            // States overtake each other on the way, so within a session numbers only grow; a peer
            // that has lost its log says so in its next hello.
            for (log, seg_no) in &state.vector {
                if peer.vector.len() >= VECTOR_MAX && !peer.vector.contains_key(log) {
                    continue;
                }
                let known = peer.vector.entry(*log).or_default();
                *known = (*known).max(*seg_no);
            }
            self.note_alike(&mut table, &state.vector, &state.alike);
        }
        self.heard_chain.store(true, Ordering::Relaxed);
        session.log_wake.notify_one();
    }

    /// Tells all peers that do not know it yet that this one has more of the logs now.
    pub(super) fn announce(&self, grown: &Vector) {
        for session in self.table.lock().sessions() {
            let knows = {
                let told = session.told.lock();
                grown
                    .iter()
                    .all(|(log, seg_no)| told.get(log) >= Some(seg_no))
            };
            if !knows {
                session.pulse_wake.notify_one();
            }
        }
    }

    /// Takes over the peer's roster statements, and hands over all where that leaves a difference.
    async fn reconcile_roster(self: &Arc<Self>, session: &Arc<Session>, digest: [u8; 32]) {
        self.pull_roster(session).await;
        if self.roster().digest() != digest {
            self.push_roster(session).await;
        }
    }

    /// Takes over roster statements from a peer, and passes on what is new.
    pub(super) async fn merge_roster(
        self: &Arc<Self>,
        statements: Vec<StatementBytes>,
        from: Option<&Session>,
    ) {
        let node = Arc::clone(self);
        let merge = move || {
            node.membership.pin(node.chain.statements())?;
            let before = node.roster();
            let change = node.membership.merge(&statements)?;
            Ok::<_, NodeError>((before, change))
        };
        match self.config.pool.call(merge).await {
            Some(Ok((before, change))) => {
                self.renew_keys_after(&before);
                if let (Some(from), 1..) = (from, change.refused) {
                    self.strike(from, 1);
                }
                if let (Some(from), 1..) = (from, change.newer) {
                    from.note_newer();
                }
                self.roster_changed(change, from);
            }
            Some(Err(error)) => tracing::warn!(%error, "cannot store roster statements"),
            None => tracing::warn!("cannot check roster statements"),
        }
    }

    /// Begins an epoch of keys where a member that reads is none any more and no admin did so with that:
    /// it left, or another that is more senior was admitted by the same invite.
    fn renew_keys_after(self: &Arc<Self>, before: &Roster) {
        let roster = self.roster();
        if self.role() != Some(Role::Admin) || roster.digest() == before.digest() {
            return;
        }
        let reads = |member: &&Member| member.role.reads();
        let gone = before.members().filter(reads).map(|member| member.id);
        let gone = gone.filter(|id| roster.member(id).is_none());
        let (left, others): (Vec<PeerId>, Vec<_>) = gone.partition(|id| roster.has_left(id));
        let is_void = others.iter().any(|id| roster.former(id).is_none());
        // Of those who hear of a leave one does it; an admission that is void not all have seen.
        let connected = self.connected();
        let first = admins(&roster).find(|id| *id == self.id || connected.contains(id));
        if !(is_void || !left.is_empty() && first == Some(self.id)) {
            return;
        }
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            let of = Arc::clone(&node);
            let begun = node.issue(move |roster, issuer| of.begin_epoch(roster, issuer));
            if let Err(error) = begun.await {
                tracing::warn!(%error, "no new epoch of keys begins");
            }
        });
    }

    /// Acts on a change of the roster: removed peers are cut off, new ones looked for, and the new
    /// statements passed on to all at once.
    pub(super) fn roster_changed(self: &Arc<Self>, change: Change, from: Option<&Session>) {
        if change.new.is_empty() {
            return;
        }
        let roster = self.roster();
        self.stand();
        self.checkpoints.judge_again();
        self.grant_missed(&roster);
        let (cut_off, sessions) = {
            let mut table = self.table.lock();
            let gone = table
                .peers
                .iter()
                .filter(|(id, _)| roster.member(id).is_none());
            let gone: Vec<_> = gone.map(|(id, _)| *id).collect();
            let gone = gone
                .iter()
                .filter_map(|id| Some((*id, table.peers.remove(id)?)));
            let cut_off: Vec<_> = gone.collect();
            for member in roster.members().filter(|member| member.id != self.id) {
                table.peers.entry(member.id).or_default();
            }
            (cut_off, table.sessions())
        };
        self.emit(NodeEvent::RosterChanged);
        for session in sessions {
            if from.is_some_and(|from| from.peer() == session.peer()) {
                continue;
            }
            let new = change.new.clone();
            self.tasks.spawn(async move {
                for statements in batches(&new) {
                    let statements = statements.to_vec();
                    let request = Request::RosterPush { statements };
                    // A peer that misses this sees the other digest in the next pulse.
                    let _ = session.request(&request, Bytes::new(), RPC_TIMEOUT).await;
                }
            });
        }
        for (id, peer) in cut_off {
            self.routing.lock().remove(&id);
            if let Some(session) = peer.session {
                session.close("removed from the volume");
            }
            if peer.up {
                self.emit(NodeEvent::PeerDown(id));
            }
        }
        self.dial_wake.notify_one();
    }
}

/// Two rosters that differ: where one takes what the other does not, as at the bound of what a roster
/// holds, they never become one.
struct Differing {
    digests: Option<([u8; 32], [u8; 32])>,
    next: Duration,
    backoff: Backoff,
}

impl Default for Differing {
    fn default() -> Self {
        Self {
            digests: None,
            next: Duration::ZERO,
            backoff: Backoff::new(PULSE, RECONCILE_MAX),
        }
    }
}

impl Differing {
    /// Says whether it is time to make them one: at once where one of them is another than last time.
    fn is_due(&mut self, own: [u8; 32], theirs: [u8; 32], now: Duration) -> bool {
        if self.digests != Some((own, theirs)) {
            self.digests = Some((own, theirs));
            self.backoff.reset();
        } else if now < self.next {
            return false;
        }
        self.next = now + self.backoff.failed();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rosters_that_do_not_become_one_are_exchanged_more_and_more_seldom() {
        let mut differing = Differing::default();
        let pulses = |from: u64, to: u64| (from..to).step_by(2).map(Duration::from_secs);
        let mut count = 0;
        for now in pulses(0, 24 * 3600) {
            count += u32::from(differing.is_due([1; 32], [2; 32], now));
        }
        assert!((140..160).contains(&count), "{count} in a day");
        // News are looked at when they come.
        let day = Duration::from_secs(24 * 3600);
        assert!(differing.is_due([1; 32], [3; 32], day));
        assert!(!differing.is_due([1; 32], [3; 32], day + PULSE / 2));
        assert!(differing.is_due([1; 32], [3; 32], day + PULSE));
    }
}
