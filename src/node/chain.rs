//! The commit chain between peers: who leads makes records, all others pull them from whoever has them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use super::event::NodeEvent;
use super::roster::{Role, Roster, StatementId};
use super::session::Session;
use super::sync::REFUSED_PAUSE;
use crate::base::time::sleep;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::base::{DeviceId, PeerId};
use crate::crypto::{Identity, Signature};
use crate::log::LogError;
use crate::log::chain::{
    Chain, Notary, Outcome, Proposal, Record, VOTE_DOMAIN, Vote, Voter, Wants,
};
use crate::wire::limits::{LINKS_BATCH_BYTES, LINKS_MAX};
use crate::wire::{LinkBytes, RecordRef, Response, Vector};

/// Pause between two records, unless there is more to name than one takes.
const RECORD_PAUSE: Duration = Duration::from_secs(1);

/// Pause at most where no record can be made.
const RECORD_PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long an admin waits for a more senior one, or the one who removed who decided, to begin an era.
const ERA_PAUSE: Duration = Duration::from_secs(30);

/// How long an admin waits where changes are missing that records name, and members are away that may have
/// them.
const MISSING_PAUSE: Duration = Duration::from_secs(3_600);

/// How often it is looked at who is there, and how often that is kept.
const LOOK_PAUSE: Duration = Duration::from_secs(10);
const KEEP_PAUSE: Duration = Duration::from_secs(300);

/// How long it is known that nobody needs a record before the base line passes it: what a program has
/// written and no op holds yet is built on what was there some seconds ago.
const SETTLE_TIME: Duration = Duration::from_secs(60);

/// Who signs and judges for this peer.
pub(super) struct Judge<'a> {
    node: &'a Node,
    identity: &'a Identity,
    roster: &'a Roster,
    /// The base line of the newest record.
    base_line: u64,
    /// The least records that those who write may look back to, who are here and said so.
    needed: Vec<(DeviceId, u64)>,
}

impl Notary for Judge<'_> {
    fn sign(&self, vote: &Vote) -> Signature {
        self.identity.sign(VOTE_DOMAIN, &vote.to_bytes())
    }

    fn verify(&self, device: DeviceId, vote: &Vote, signature: &Signature) -> bool {
        let author = self.roster.author(device);
        author.is_some_and(|author| {
            let identity = &author.identity;
            identity
                .verify(VOTE_DOMAIN, &vote.to_bytes(), signature)
                .is_ok()
        })
    }

    fn may_begin_era(&self, device: DeviceId) -> bool {
        let author = self.roster.author(device);
        author.is_some_and(|author| author.role == Role::Admin)
    }

    fn seniority(&self, device: DeviceId) -> Option<u64> {
        let admins = admins(self.roster);
        let place = admins.iter().position(|id| DeviceId::from(*id) == device);
        place.and_then(|place| u64::try_from(place).ok())
    }

    fn counts(&self, record: &Record) -> bool {
        self.node.counts_elsewhere(record, self.roster)
    }

    fn ends(&self, record: &Record, device: DeviceId) -> bool {
        let statements = record.statements.iter();
        let mut ended = statements.filter_map(|id| self.roster.ended_by(StatementId(*id)));
        ended.any(|ended| ended == device)
    }

    fn endorses(&self, record: &Record) -> bool {
        let (needed, own) = (&self.needed, self.identity.device());
        needed.iter().all(|(device, needs)| {
            // What the maker of a record knows of this device it was told.
            let may = record.base_line <= (*needs).max(self.base_line);
            if !may && *device == own {
                tracing::warn!(
                    number = record.number,
                    "a record gives up what is needed here"
                );
            }
            may
        })
    }
}

/// Too few that decide are members.
#[derive(Debug, Clone, Copy)]
struct Leaderless {
    /// Since when that is so, with the rest as it is.
    since: Duration,
    /// The record that names what is missing.
    missing: Option<u64>,
    /// Whether all other members are heard.
    hears_all: bool,
}

/// The worker that does this peer's part in making records.
pub(super) struct Chaining {
    node: Arc<Node>,
    needed: Needed,
    leaderless: Option<Leaderless>,
    /// When it was looked who is there, and when that was kept.
    looked: Option<Duration>,
    kept: Duration,
}

impl Chaining {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        Self {
            node: Arc::clone(node),
            needed: Needed::default(),
            leaderless: None,
            looked: None,
            kept: node.now(),
        }
    }

    fn look(&mut self) {
        let now = self.node.now();
        if is_due(self.looked, LOOK_PAUSE, now) {
            self.looked = Some(now);
            self.node.note_presence();
        }
        if is_due(Some(self.kept), KEEP_PAUSE, now) {
            self.kept = now;
            self.node.keep_presence();
        }
    }
}

impl Worker for Chaining {
    fn job(&self) -> Job {
        Job::new("chain", "decides with others in which order changes stand")
            .again(RECORD_PAUSE, RECORD_PAUSE_MAX)
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        self.look();
        let node = &self.node;
        let begun = match node.is_era_due(&mut self.leaderless) {
            true => node.begin_era().await,
            false => Ok(()),
        };
        let settled = self.needed.settled(node.least_needed(), node.now());
        node.extend_chain(settled).await?;
        begun?;
        Ok(Step::Idle("changes to put on record"))
    }

    async fn wait(&mut self) {
        tokio::select! {
            biased;
            () = self.node.chain_wake.notified() => {}
            () = sleep(RECORD_PAUSE) => {}
        }
    }
}

impl Node {
    /// Begins an era, of which this admin decides alone.
    async fn begin_era(self: &Arc<Self>) -> Result<(), LogError> {
        tracing::warn!("too few that decide are members: this admin decides alone now");
        let node = Arc::clone(self);
        let begin = move |judge: &Judge<'_>| {
            let now_ms = node.clock.wall_ms();
            node.chain.begin_era(node.now(), now_ms, judge)
        };
        self.step_chain(begin).await
    }

    /// Says whether no other member has a longer chain, as far as it can be known: of those that are
    /// heard at least one said how long its is.
    fn knows_the_tip(&self) -> bool {
        let tip = self.chain.tip();
        let is_only = self.roster().members().len() == 1;
        let table = self.table.lock();
        let mut up = table.peers.values().filter(|peer| peer.up);
        let is_longest = up.all(|peer| !is_longer(peer.chain, tip));
        is_only || self.heard_chain.load(Ordering::Relaxed) && is_longest
    }

    /// Says whether this peer is to begin an era: it is an admin's, and of those who decide too few are
    /// members any more. Who removed the last of them does so at once, others after a while, one after
    /// the other. Where changes are missing that records name, the era leaves those records out: only after
    /// long where they may come, as who may have them is away, or is heard and has more.
    fn is_era_due(&self, since: &mut Option<Leaderless>) -> bool {
        let wants = self.chain.wants().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell what the chain waits for");
            None
        });
        let hears_all = self.hears_all();
        // Those who go on behind what can be folded nowhere are no help.
        let is_stuck = |wants: &Wants| self.is_few(&wants.voters) && hears_all;
        let is_due = self.lacks_majority() || wants.as_ref().is_some_and(is_stuck);
        if !is_due || self.role() != Some(Role::Admin) {
            *since = None;
            return false;
        }
        let missing = wants.as_ref().map(|wants| wants.number);
        let now = Leaderless {
            since: self.now(),
            missing,
            hears_all,
        };
        let is_same = |before: &Leaderless| {
            before.missing == missing && (before.hears_all == hears_all || missing.is_none())
        };
        let at = since.filter(is_same).unwrap_or(now);
        *since = Some(at);
        let begins = self.begins_era.swap(false, Ordering::Relaxed);
        let may_come = wants.is_some_and(|wants| !hears_all || self.hears_of(&wants));
        let pause = match missing {
            None if begins => return true,
            Some(_) if may_come => MISSING_PAUSE,
            _ => ERA_PAUSE,
        };
        let roster = self.roster();
        let place = admins(&roster).iter().position(|id| *id == self.id);
        let place = u32::try_from(place.unwrap_or(0)).unwrap_or(u32::MAX);
        self.now() >= at.since + pause.saturating_mul(place.saturating_add(1))
    }

    /// Says whether a member is heard that has what is missing, or tells of a chain that goes further.
    pub fn hears_of(&self, wants: &Wants) -> bool {
        let told: Vec<(RecordRef, Vector)> = {
            let table = self.table.lock();
            let up = table.peers.values().filter(|peer| peer.session.is_some());
            up.map(|peer| (peer.chain, peer.vector.clone())).collect()
        };
        let have = self.log.vector();
        told.iter().any(|(record, vector)| {
            let mut logs = wants.logs.iter();
            record.number >= wants.number && self.is_of_chain(*record)
                || logs.any(|log| vector.get(log) > have.get(log))
        })
    }

    /// Says whether all other members are heard.
    fn hears_all(&self) -> bool {
        let roster = self.roster();
        let table = self.table.lock();
        let is_heard = |id: &PeerId| {
            let peer = table.peers.get(id);
            *id == self.id || peer.is_some_and(|peer| peer.session.is_some())
        };
        let mut members = roster.members().map(|member| member.id);
        members.all(|id| is_heard(&id))
    }

    /// Says whether of those who decide too few are members that may.
    pub(super) fn lacks_majority(&self) -> bool {
        self.is_few(&self.chain.voters())
    }

    fn is_few(&self, voters: &[Voter]) -> bool {
        let roster = self.roster();
        let may = |voter: &&Voter| {
            let author = roster.author(voter.device);
            let role = author.and_then(|author| roster.role_of(&author.id));
            role.is_some_and(|role| role != Role::Reader)
        };
        voters.iter().filter(may).count() < voters.len() / 2 + 1
    }

    /// Makes the next record where this peer leads those who decide and there is something to name.
    async fn extend_chain(self: &Arc<Self>, needed: u64) -> Result<(), LogError> {
        if self.chain.is_in_doubt() && self.knows_the_tip() {
            let node = Arc::clone(self);
            self.step_chain(move |_| node.chain.trust(node.now()))
                .await?;
        }
        let node = Arc::clone(self);
        let make = move |judge: &Judge<'_>| {
            let proposal = Proposal {
                now_ms: node.clock.wall_ms(),
                needed,
                asks_checkpoint: node.is_checkpoint_asked(),
                voters: node.chain.leads().then(|| node.choose_voters()).flatten(),
                is_checkpoint: false,
            };
            node.chain.extend(node.now(), proposal, judge)
        };
        self.step_chain(make).await
    }

    /// Has the chain take a step, and does what that leaves to be done.
    pub(super) async fn step_chain(
        self: &Arc<Self>,
        step: impl FnOnce(&Judge<'_>) -> Result<Outcome, LogError> + Send + 'static,
    ) -> Result<(), LogError> {
        let node = Arc::clone(self);
        let step = move || {
            let roster = node.roster();
            let outcome = step(&node.chain_judge(&roster))?;
            node.see_to(&outcome)?;
            Ok::<_, LogError>(outcome)
        };
        let Some(outcome) = self.config.pool.call(step).await else {
            return Ok(());
        };
        self.follow_up(outcome?);
        Ok(())
    }

    /// Makes durable what a step of the chain says.
    pub(super) fn see_to(&self, outcome: &Outcome) -> Result<(), LogError> {
        let is_heard = self.roster().members().len() > 1 || !outcome.messages.is_empty();
        if outcome.must_sync && is_heard {
            self.store.rows.sync()?;
        }
        Ok(())
    }

    /// Tells what is durable now.
    pub(super) fn follow_up(self: &Arc<Self>, outcome: Outcome) {
        for (to, message) in outcome.messages {
            self.post(to, message);
        }
        if let Some(tip) = outcome.grew {
            self.chain.publish(tip);
            self.chain_grew();
        }
        if outcome.is_full {
            self.chain_wake.notify_one();
        }
    }

    /// Returns the least record that own ops may look back to, in a chain of this era: any, until what is folded
    /// is of it.
    pub(super) fn needs_in(&self, era: u64) -> u64 {
        let (of, needs) = *self.needs.lock();
        if of == era { needs } else { 0 }
    }

    /// Returns the least record that a member which writes may look back to, as it said last. One that is
    /// away holds it for as long as it is a member.
    fn least_needed(&self) -> u64 {
        let roster = self.roster();
        let era = self.chain.tip().era;
        let table = self.table.lock();
        let writers = roster.members().filter(|member| member.role.writes());
        let needs = writers.map(|member| match table.peers.get(&member.id) {
            Some(peer) => peer.needs_in(era),
            None if member.id == self.id => self.needs_in(era),
            None => 0,
        });
        needs.min().unwrap_or(0)
    }

    pub(super) fn chain_judge<'a>(&'a self, roster: &'a Roster) -> Judge<'a> {
        let era = self.chain.tip().era;
        let table = self.table.lock();
        let here = roster.members().filter(|member| member.role.writes());
        let needed = here.filter_map(|member| {
            let needs = match table.peers.get(&member.id) {
                Some(peer) => peer.session.as_ref().map(|_| peer.needs_in(era)),
                None => (member.id == self.id).then(|| self.needs_in(era)),
            };
            Some((DeviceId::from(member.id), needs?))
        });
        let needed = needed.collect();
        drop(table);
        Judge {
            node: self,
            identity: &self.config.identity,
            roster,
            base_line: self.chain.base_line(),
            needed,
        }
    }

    /// Tells everybody that the chain is longer.
    pub(super) fn chain_grew(&self) {
        self.emit(NodeEvent::Chain);
        if self.checkpoints.is_open.load(Ordering::Relaxed) {
            self.checkpoints.judge_again();
        }
        for session in self.table.lock().sessions() {
            session.pulse_wake.notify_one();
        }
    }

    /// Pulls the next records that the peer has and this one lacks; says whether the chain grew.
    pub(super) async fn pull_chain(
        self: &Arc<Self>,
        session: &Arc<Session>,
        paused: &mut Option<Duration>,
    ) -> bool {
        let theirs = {
            let table = self.table.lock();
            let peer = table.peers.get(&session.peer());
            peer.map(|peer| peer.chain).unwrap_or_default()
        };
        let tip = self.chain.tip();
        let differs = !self.is_of_chain(theirs);
        if !(differs || is_longer(theirs, tip)) || paused.is_some_and(|until| until > self.now()) {
            return false;
        }
        *paused = None;
        if differs {
            let went = self.pull_branch(session, theirs).await;
            if !went {
                *paused = Some(self.now() + REFUSED_PAUSE);
            }
            return went;
        }
        let Some(grew) = self.pull_links(session, tip).await else {
            return false;
        };
        let grew = grew || self.pull_branch(session, theirs).await;
        if !grew {
            *paused = Some(self.now() + REFUSED_PAUSE);
        }
        grew
    }

    /// Says whether a peer has more records than are here, as far as that is known.
    pub(super) fn has_more_records(&self, session: &Session) -> bool {
        let table = self.table.lock();
        let theirs = table.peers.get(&session.peer()).map(|peer| peer.chain);
        theirs.is_some_and(|theirs| is_longer(theirs, self.chain.tip()))
    }

    /// Pulls the records behind the last one; says whether the chain grew, `None` where no answer came.
    pub(super) async fn pull_links(
        self: &Arc<Self>,
        session: &Arc<Session>,
        tip: RecordRef,
    ) -> Option<bool> {
        let links = self.ask_links(session, tip.number).await?;
        let (node, from) = (Arc::clone(self), DeviceId::from(session.peer()));
        let take = move || {
            let roster = node.roster();
            let judge = node.chain_judge(&roster);
            let (outcome, taken) = node.chain.accept(&links, from, node.now(), &judge);
            node.see_to(&outcome)?;
            Ok::<_, LogError>((outcome, taken))
        };
        match self.config.pool.call(take).await {
            Some(Ok((outcome, taken))) => {
                if let Err(error) = taken {
                    self.note_newer(session, &error);
                    tracing::debug!(peer = %session.peer().short(), %error, "records are not taken");
                }
                self.follow_up(outcome);
            }
            Some(Err(error)) => tracing::warn!(%error, "records cannot be kept"),
            None => {}
        }
        // They may have come from another meanwhile.
        Some(self.chain.tip() != tip)
    }

    /// Returns the records behind a number, as many as one message takes.
    pub(super) async fn answer_chain(self: &Arc<Self>, after: u64, room: u32) -> Response {
        self.answer_links(room, move |chain, room| chain.range(after, room, LINKS_MAX))
            .await
    }

    /// Answers with records that `read` finds in a chain, in as much room as there is.
    pub(super) async fn answer_links(
        self: &Arc<Self>,
        room: u32,
        read: impl FnOnce(&Chain, usize) -> Result<Vec<Vec<u8>>, LogError> + Send + 'static,
    ) -> Response {
        let node = Arc::clone(self);
        let read = move || read(&node.chain, LINKS_BATCH_BYTES.min(room as usize));
        let links = match self.config.pool.call(read).await {
            Some(Ok(links)) => links,
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot read the chain");
                Vec::new()
            }
            None => Vec::new(),
        };
        let links = links.into_iter().filter_map(LinkBytes::new).collect();
        Response::Chain { links }
    }
}

/// What was needed at the last moments, oldest first.
#[derive(Debug, Default)]
struct Needed(VecDeque<(Duration, u64)>);

impl Needed {
    /// Takes note of what is needed now; returns what was, some time ago.
    fn settled(&mut self, needed: u64, now: Duration) -> u64 {
        // Who is new, or writes from now on, may look back further than all others.
        if self.0.back().is_some_and(|(_, last)| *last > needed) {
            self.0.clear();
        }
        if self.0.back().is_none_or(|(_, last)| *last < needed) {
            self.0.push_back((now, needed));
        }
        while let Some((at, _)) = self.0.get(1)
            && *at + SETTLE_TIME <= now
        {
            self.0.pop_front();
        }
        let first = self.0.front().filter(|(at, _)| *at + SETTLE_TIME <= now);
        first.map_or(0, |(_, needed)| *needed)
    }
}

/// Returns the admins that there are, in the order of their admission.
fn admins(roster: &Roster) -> Vec<PeerId> {
    let admins = roster.members().filter(|member| member.role == Role::Admin);
    let mut admins: Vec<_> = admins.map(|admin| (admin.admitted, admin.id)).collect();
    admins.sort_unstable();
    admins.into_iter().map(|(_, id)| id).collect()
}

/// Says whether something is to be done again.
fn is_due(last: Option<Duration>, pause: Duration, now: Duration) -> bool {
    last.is_none_or(|last| now >= last + pause)
}

/// Says whether a chain that ends in `one` may go on behind one that ends in `other`.
fn is_longer(one: RecordRef, other: RecordRef) -> bool {
    (one.era, one.number) > (other.era, other.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_counts_once_it_was_known_for_a_while_and_at_once_where_it_is_less() {
        let mut needed = Needed::default();
        let at = Duration::from_secs;
        assert_eq!(needed.settled(3, at(0)), 0);
        assert_eq!(needed.settled(4, at(30)), 0);
        assert_eq!(needed.settled(5, at(60)), 3);
        assert_eq!(needed.settled(5, at(89)), 3);
        assert_eq!(needed.settled(5, at(90)), 4);
        // Somebody was admitted that looks back further.
        assert_eq!(needed.settled(1, at(100)), 0);
        assert_eq!(needed.settled(9, at(161)), 1);
        assert_eq!(needed.settled(9, at(221)), 9);
    }
}
