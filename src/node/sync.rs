//! Log sync: own segments are pushed at once, all others pulled from whoever has them.
//!
//! A session pushes what this device wrote, as its peer's vector says that it is missing there. What
//! came from others is announced by the pulse instead, and pulled by those who lack it: so in a
//! fully connected swarm a segment travels once to each peer, and elsewhere each hop relays it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Node;
use super::error::NodeError;
use super::event::NodeEvent;
use super::roster::{Role, Roster, StatementId};
use super::session::Session;
use super::transfer::Transfer;
use crate::base::limits::RPC_TIMEOUT;
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::base::{DeviceId, LogId, PeerId};
use crate::log::chain::Fence;
use crate::log::{Accepted, LogError};
use crate::transport::Priority;
use crate::wire::limits::{SEGMENTS_BATCH_BYTES, SEGMENTS_MAX, WANTS_MAX};
use crate::wire::{
    LogRefusal, RecordRef, Request, Response, SEGMENT_DOMAIN, SealedSegment, Vector,
};

/// How long a batch may make no progress.
pub(super) const BATCH_TIMEOUT: Duration = RPC_TIMEOUT.saturating_add(Duration::from_secs(20));

/// How long other peers are not asked for what one was asked for: a slow one does not hold up a log.
const CLAIM_TIME: Duration = Duration::from_secs(2);

/// How long a log whose segments were refused is not pulled from that peer again.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// The same where the peer gave nothing at all.
const EMPTY_PAUSE: Duration = Duration::from_millis(1500);

/// How often records are fetched for one batch of segments that is pulled. What takes more goes on with the
/// next one.
const FOUNDING_ROUNDS: usize = 8;

/// The same for one that is pushed: who is far behind pulls.
pub(super) const FOUNDING_ROUNDS_PUSHED: usize = 2;

/// The worker that pushes to a peer and pulls from it until the connection ends.
pub(super) struct Exchange {
    node: Arc<Node>,
    session: Arc<Session>,
    /// Logs that are not pulled for a while.
    paused: BTreeMap<LogId, Paused>,
    /// The same for the chain.
    chain_paused: Option<Duration>,
    /// Own logs of which what was pushed last was not taken: not pushed before this time, with how long
    /// that is.
    refused: BTreeMap<LogId, (Duration, Duration)>,
    is_closed: bool,
}

/// A log that is not pulled from a peer for a while, as what came of it was of no use.
#[derive(Debug, Clone, Copy)]
struct Paused {
    /// Until when.
    until: Duration,
    /// How long that is: longer each time that nothing came.
    pause: Duration,
    /// Up to which segment it was here: where it goes on, it goes on at once.
    have: u64,
}

/// What came of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pulled {
    /// Logs are longer.
    Grown,
    /// What came is not taken.
    Useless,
    /// Nothing came.
    Nothing,
}

impl Exchange {
    pub(super) fn new(node: &Arc<Node>, session: &Arc<Session>) -> Self {
        Self {
            node: Arc::clone(node),
            session: Arc::clone(session),
            paused: BTreeMap::new(),
            chain_paused: None,
            refused: BTreeMap::new(),
            is_closed: false,
        }
    }

    /// Says whether anything moved on.
    async fn exchange(&mut self) -> bool {
        let (node, session) = (&self.node, &self.session);
        let chained = node.pull_chain(session, &mut self.chain_paused).await;
        let pushed = node.push(session, &mut self.refused).await;
        // What segments build on comes before the segments.
        let pulled = !(chained && node.has_more_records(session))
            && node.pull(session, &mut self.paused).await;
        chained || pushed || pulled
    }
}

impl Worker for Exchange {
    fn job(&self) -> Job {
        Job::new("sync", "exchanges changes with the peer").of(self.session.peer())
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        if self.is_closed {
            return Ok(Step::Over);
        }
        let session = Arc::clone(&self.session);
        tokio::select! {
            biased;
            _ = session.connection().closed() => Ok(Step::Over),
            moved = self.exchange() => Ok(match moved {
                true => Step::Busy,
                false => Step::Idle("changes of either side"),
            }),
        }
    }

    async fn wait(&mut self) {
        tokio::select! {
            biased;
            _ = self.session.connection().closed() => self.is_closed = true,
            () = self.session.log_wake.notified() => {}
        }
    }
}

impl Node {
    /// Pushes the next own segments that the peer lacks; says whether that moved the peer on.
    async fn push(
        self: &Arc<Self>,
        session: &Arc<Session>,
        refused: &mut BTreeMap<LogId, (Duration, Duration)>,
    ) -> bool {
        if !self.role().is_some_and(Role::writes) {
            return false;
        }
        let now = self.now();
        let is_paused = |log: LogId| refused.get(&log).is_some_and(|(until, _)| *until > now);
        let Some((log, has, offered)) = self.lacks(session, &is_paused) else {
            return false;
        };
        let room = session.out.batch_bytes(SEGMENTS_BATCH_BYTES);
        let segments = match self.own_range(log, has + 1, offered, room).await {
            Ok(segments) if !segments.is_empty() => segments,
            Ok(_) => return false,
            Err(error) => {
                tracing::warn!(%error, "cannot read the own log");
                return false;
            }
        };
        let request = Request::Push { segments };
        let transfer = Transfer::new(Priority::Log);
        let pushed = self.exchange(session, request, Bytes::new(), BATCH_TIMEOUT, &transfer);
        match pushed.await {
            Ok((Response::Sync(state), _)) => {
                self.heard_from(session);
                self.note_state(session, &state);
                let moved = self.known_at(session, log) > has;
                let before = refused
                    .remove(&log)
                    .map_or(Duration::ZERO, |(_, pause)| pause);
                if !moved {
                    let pause = (before * 2).clamp(EMPTY_PAUSE, REFUSED_PAUSE);
                    refused.insert(log, (self.now() + pause, pause));
                }
                moved
            }
            Ok(_) => {
                self.strike(session, 1);
                false
            }
            Err(error) => {
                tracing::debug!(peer = %session.peer().short(), %error, "a push failed");
                false
            }
        }
    }

    /// Pulls the next segments that the peer has and this one lacks; says whether logs grew.
    async fn pull(
        self: &Arc<Self>,
        session: &Arc<Session>,
        paused: &mut BTreeMap<LogId, Paused>,
    ) -> bool {
        let now = self.now();
        let Some(claim) = self.claim(session, paused) else {
            return false;
        };
        let wanted = claim.wanted.clone();
        let pulled = self.pull_wanted(session, &wanted, paused).await;
        let pulled = pulled.unwrap_or_else(|error| {
            tracing::debug!(peer = %session.peer().short(), %error, "a pull failed");
            Pulled::Useless
        });
        if pulled == Pulled::Grown {
            return true;
        }
        for (log, from) in &wanted {
            let have = from.saturating_sub(1);
            let before = paused.get(log).filter(|at| at.have == have);
            if before.is_some_and(|at| at.until > now) {
                continue;
            }
            // The peer cannot give now what it has; the next pulse but one asks again. Or it has it no
            // more, as it has a checkpoint: it is asked less and less often, until this one has it, too.
            let pause = match before {
                Some(before) if pulled == Pulled::Nothing => before.pause * 2,
                _ => EMPTY_PAUSE,
            };
            let pause = pause.min(REFUSED_PAUSE);
            let until = now + pause;
            paused.insert(*log, Paused { until, pause, have });
        }
        false
    }

    async fn pull_wanted(
        self: &Arc<Self>,
        session: &Arc<Session>,
        wanted: &Vector,
        paused: &mut BTreeMap<LogId, Paused>,
    ) -> Result<Pulled, NodeError> {
        let from = wanted.clone();
        let room = session.inward.batch_bytes(SEGMENTS_BATCH_BYTES) as u32;
        let request = Request::Pull { from, room };
        let transfer = Transfer::new(Priority::Log);
        let answer = self
            .exchange(session, request, Bytes::new(), BATCH_TIMEOUT, &transfer)
            .await?;
        let (Response::Segments { segments }, _) = answer else {
            self.strike(session, 1);
            let peer = session.peer();
            return Err(NodeError::Protocol { peer });
        };
        self.heard_from(session);
        if segments.is_empty() {
            return Ok(Pulled::Nothing);
        }
        let accepted = self
            .take_segments(session, segments, FOUNDING_ROUNDS)
            .await?;
        let unknown = |error: &LogError| matches!(error, LogError::UnknownAuthor(_));
        let mut grown = !accepted.grown.is_empty();
        let known = self.roster().digest();
        if accepted.refused.values().any(|(_, error)| unknown(error)) {
            self.pull_roster(session).await;
        }
        let knows_more = self.roster().digest() != known;
        for (log, (_, error)) in &accepted.refused {
            if unknown(error) && knows_more {
                grown = true;
            } else if matches!(error, LogError::Over { .. }) {
                // Asked for again once something that counts builds on it.
            } else {
                let pause = match self.is_untold(session, error) {
                    true => EMPTY_PAUSE,
                    false => REFUSED_PAUSE,
                };
                let have = self.log.head(*log).map_or(0, |head| head.seg_no);
                let until = self.now() + pause;
                paused.insert(*log, Paused { until, pause, have });
            }
        }
        Ok(match grown {
            true => Pulled::Grown,
            false => Pulled::Useless,
        })
    }

    /// Verifies and stores segments that a peer sent, with the records that they build on, and tells whoever
    /// wants to know. Records are fetched `rounds` times at most.
    pub(super) async fn take_segments(
        self: &Arc<Self>,
        session: &Arc<Session>,
        segments: Vec<SealedSegment>,
        rounds: usize,
    ) -> Result<Accepted, NodeError> {
        let segments = Arc::new(segments);
        let mut accepted = self.store_segments(session, &segments).await?;
        for round in 0.. {
            let unfounded = |(_, error): &(DeviceId, LogError)| match error {
                LogError::Unfounded { record, .. } => Some(*record),
                _ => None,
            };
            let lacking = accepted.refused.values().filter_map(unfounded);
            let lacking: BTreeSet<RecordRef> = lacking.collect();
            if round >= rounds {
                // More of them come: that is no refusal.
                accepted.refused.retain(|_, it| unfounded(it).is_none());
            }
            let mut any = false;
            for record in lacking.into_iter().filter(|_| round < rounds) {
                any |= self.pull_founding(session, record).await;
            }
            if !any {
                break;
            }
            let more = self.store_segments(session, &segments).await?;
            accepted.grown.extend(more.grown);
            accepted.refused = more.refused;
        }
        self.note_refused(session, &accepted);
        Ok(accepted)
    }

    /// Verifies and stores segments that are founded, and tells whoever wants to know.
    async fn store_segments(
        self: &Arc<Self>,
        session: &Session,
        segments: &Arc<Vec<SealedSegment>>,
    ) -> Result<Accepted, NodeError> {
        let (node, segments) = (Arc::clone(self), Arc::clone(segments));
        let from = session.peer();
        let take = move || {
            let roster = node.roster();
            let now_ms = node.clock.wall_ms();
            let over = Over::new(&node);
            let accepted = node.log.accept(&segments, now_ms, &|segment| {
                let author = roster.author(segment.header.device);
                verify(segment, author, from)?;
                stands(segment, &roster)?;
                over.takes(segment)?;
                node.founds(segment)
            })?;
            let holds_more = !accepted.grown.is_empty() && node.chain.hold()?;
            Ok::<_, LogError>((accepted, holds_more))
        };
        let accepted = self.config.pool.call(take).await;
        let (accepted, holds_more) = accepted.ok_or(NodeError::ShutDown)??;
        if holds_more {
            self.chain_grew();
        }
        if !accepted.grown.is_empty() {
            for (log, seg_no) in &accepted.grown {
                let (log, seg_no) = (*log, *seg_no);
                self.emit(NodeEvent::Segments { log, seg_no });
            }
            self.announce(&accepted.grown);
        }
        Ok(accepted)
    }

    /// Refuses a segment while a record is not here that it builds on. It could not be folded; and where its
    /// author alone has that record and loses it, as its folder is put back, it never could.
    pub(super) fn founds(&self, segment: &SealedSegment) -> Result<(), LogError> {
        let header = &segment.header;
        match self.chain.lacks(header.record)? {
            None => Ok(()),
            Some(record) => Err(LogError::Unfounded {
                device: header.device,
                seg_no: header.seg_no,
                record,
            }),
        }
    }

    /// Says whether a segment builds on a record that the peer which handed it on does not tell of yet: not
    /// all is there that it names.
    fn is_untold(&self, session: &Session, error: &LogError) -> bool {
        let LogError::Unfounded { record, .. } = error else {
            return false;
        };
        let table = self.table.lock();
        let told = table.peers.get(&session.peer()).map(|peer| peer.chain);
        told.is_none_or(|told| told.number < record.number)
    }

    /// Takes note of why logs of others are not taken, and of who is at fault.
    fn note_refused(&self, session: &Session, accepted: &Accepted) {
        let peer = session.peer();
        {
            let mut refused_logs = self.refused_logs.lock();
            for log in accepted.grown.keys() {
                if let Some(device) = self.log.author(*log) {
                    refused_logs.grew(device, *log);
                }
            }
            // It may have come from another peer meanwhile, with what it builds on; or the peer does not tell
            // of that yet.
            let is_here = |log: &LogId, error: &LogError| match error {
                error if self.is_untold(session, error) => true,
                LogError::Unfounded { seg_no, .. } => {
                    let head = self.log.head(*log);
                    head.is_some_and(|head| head.seg_no >= *seg_no)
                }
                _ => false,
            };
            let refused = accepted.refused.iter();
            let refused = refused.filter(|(log, (_, error))| !is_here(log, error));
            for (log, (device, error)) in refused {
                if let Some(refusal) = log_refusal(error) {
                    refused_logs.note(*device, *log, refusal);
                }
            }
        }
        for (log, (_, error)) in &accepted.refused {
            tracing::debug!(peer = %peer.short(), %error, "a segment was refused");
            // Gaps, forks and clocks may be the fault of others than the peer that passes them on.
            match error {
                LogError::Unauthentic { .. }
                | LogError::OtherVolume
                | LogError::Malformed { .. } => self.strike(session, 4),
                LogError::Forked { .. } if *log == self.log.own_log() => {
                    self.emit(NodeEvent::OwnLogForked { peer });
                }
                _ => {}
            }
        }
    }

    /// Returns how much of a log the peer is known to have.
    fn known_at(&self, session: &Session, log: LogId) -> u64 {
        let table = self.table.lock();
        let peer = table.peers.get(&session.peer());
        peer.and_then(|peer| peer.vector.get(&log).copied())
            .unwrap_or(0)
    }

    /// Returns the first log of this device of which the peer is not known to have all, but for paused
    /// ones, with the last number that it has and the last that there is.
    fn lacks(
        &self,
        session: &Session,
        is_paused: &dyn Fn(LogId) -> bool,
    ) -> Option<(LogId, u64, u64)> {
        let offered = self.counting(self.log.offered());
        let logs = self.log.logs_of(DeviceId::from(self.id)).into_iter();
        let logs = logs.filter(|log| !is_paused(*log));
        let mut ends = logs.filter_map(|log| Some((log, offered.get(&log).copied()?)));
        ends.find_map(|(log, offered)| {
            let has = self.known_at(session, log);
            // What is below the floor is not here: the peer takes a checkpoint first.
            let is_here = has >= self.log.floor(log);
            (is_here && has < offered).then_some((log, has, offered))
        })
    }

    /// Reads own segments from `from` to `to`, as many as one message takes.
    async fn own_range(
        self: &Arc<Self>,
        log: LogId,
        from: u64,
        to: u64,
        room: usize,
    ) -> Result<Vec<SealedSegment>, NodeError> {
        let recent = self.recent.lock().from(log, from, room);
        let mut segments = match recent {
            Some(segments) => segments,
            None => {
                let node = Arc::clone(self);
                let read = move || node.log.range(log, from, room);
                let read = self.config.pool.call(read).await;
                read.ok_or(NodeError::ShutDown)??
            }
        };
        segments.retain(|segment| segment.header.seg_no <= to);
        segments.truncate(SEGMENTS_MAX);
        Ok(segments)
    }

    /// Claims the logs of which the peer has more than this one, but those that are being pulled
    /// from others, and what their author is pushing.
    fn claim(
        self: &Arc<Self>,
        session: &Session,
        paused: &mut BTreeMap<LogId, Paused>,
    ) -> Option<Claim> {
        let theirs = {
            let table = self.table.lock();
            table.peers.get(&session.peer())?.vector.clone()
        };
        let theirs = self.counting(theirs);
        let ours = self.log.vector();
        let since = self.now();
        let have = |log: &LogId| ours.get(log).copied().unwrap_or(0);
        paused.retain(|log, at| at.have == have(log) && at.until + at.pause > since);
        let is_paused = |log: &LogId| paused.get(log).is_some_and(|at| at.until > since);
        let author = DeviceId::from(session.peer());
        let newest = session.incarnation().map(|run| LogId::of(author, run));
        let of_author = |log: &LogId| Some(*log) == newest || self.log.author(*log) == Some(author);
        let mut ahead = theirs
            .iter()
            .filter(|(log, last)| ours.get(log) < Some(last));
        let pushes = session.is_pushing(ahead.any(|(log, _)| of_author(log)), since);
        let mut pulling = self.pulling.lock();
        let mut wanted = Vector::new();
        for (log, last) in theirs {
            let have = ours.get(&log).copied().unwrap_or(0);
            let asked = pulling.get(&log).is_some_and(|at| since < *at + CLAIM_TIME);
            let comes = pushes && of_author(&log);
            if last > have && !asked && !comes && !is_paused(&log) && wanted.len() < WANTS_MAX {
                pulling.insert(log, since);
                wanted.insert(log, have + 1);
            }
        }
        drop(pulling);
        if wanted.is_empty() {
            return None;
        }
        let node = Arc::clone(self);
        Some(Claim {
            node,
            wanted,
            since,
        })
    }
}

impl Node {
    /// Takes note of the admission by which this peer writes.
    pub(super) fn stand(&self) {
        if let Some(own) = self.roster().member(&self.id) {
            self.log.stand_on(own.admission.0);
        }
    }

    /// Returns the last segments of logs without what counts no more, as its author was removed. Of a log
    /// of which nothing is here all is left.
    pub fn counting(&self, mut ends: Vector) -> Vector {
        let over = Over::new(self);
        for (log, end) in &mut ends {
            match over.limit(*log) {
                Ok(Some(limit)) => *end = limit.min(*end),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot tell what counts of a log"),
            }
        }
        ends.retain(|_, end| *end > 0);
        ends
    }
}

/// What counts of the logs of who was removed, by the newest record; looked up where it is asked for.
struct Over<'a> {
    node: &'a Node,
    fence: Arc<Fence>,
    reach: OnceCell<Vector>,
}

impl<'a> Over<'a> {
    fn new(node: &'a Node) -> Self {
        Self {
            node,
            fence: node.chain.fence(),
            reach: OnceCell::new(),
        }
    }

    /// Returns the last segment of a log that counts, here or not; `None` where all do.
    fn limit(&self, log: LogId) -> Result<Option<u64>, LogError> {
        if !self.fence.is_over(&self.node.log, log) {
            return Ok(None);
        }
        self.reach(log).map(Some)
    }

    fn reach(&self, log: LogId) -> Result<u64, LogError> {
        if self.reach.get().is_none() {
            let reach = self.node.chain.reach()?;
            let _ = self.reach.set(reach);
        }
        let reach = self.reach.get().and_then(|reach| reach.get(&log).copied());
        Ok(reach.unwrap_or(0).max(self.node.chain.named(log)))
    }

    /// Refuses a segment that counts no more, and is not here.
    fn takes(&self, segment: &SealedSegment) -> Result<(), LogError> {
        let header = &segment.header;
        let (device, seg_no, log) = (header.device, header.seg_no, header.log());
        let is_over = match &header.admission {
            Some(admission) => self.fence.ends(admission),
            None => self.fence.is_over(&self.node.log, log),
        };
        if is_over && seg_no > self.reach(log)? {
            return Err(LogError::Over { device, seg_no });
        }
        Ok(())
    }
}

/// Checks that a log begins on an admission by which its author may write.
fn stands(segment: &SealedSegment, roster: &Roster) -> Result<(), LogError> {
    let device = segment.header.device;
    let Some(admission) = segment.header.admission else {
        return Ok(());
    };
    match roster.lets_write(StatementId(admission), device) {
        Some(true) => Ok(()),
        Some(false) => Err(LogError::NotAuthor(device)),
        None => Err(LogError::UnknownAuthor(device)),
    }
}

/// Returns what the author and the users here are told of a segment that was not taken; `None` where
/// that is no fault of the log.
fn log_refusal(error: &LogError) -> Option<LogRefusal> {
    match error {
        LogError::Future { ahead_ms, .. } => Some(LogRefusal::Ahead {
            ahead_ms: *ahead_ms,
        }),
        LogError::Forked { seg_no, .. } => Some(LogRefusal::Forked { seg_no: *seg_no }),
        LogError::NotAuthor(_) | LogError::Over { .. } => Some(LogRefusal::NotAllowed),
        LogError::Unfounded { record, .. } => Some(LogRefusal::Unfounded {
            number: record.number,
        }),
        // Who passes a forged segment on may be the one who forged it.
        LogError::Malformed { .. }
        | LogError::Unauthentic { .. }
        | LogError::OtherVolume
        | LogError::UnknownAuthor(_)
        | LogError::Gap { .. }
        | LogError::Corrupt { .. }
        | LogError::MalformedRecord { .. }
        | LogError::RecordTooNew { .. }
        | LogError::UnknownMessage { .. }
        | LogError::Uncertified { .. }
        | LogError::Store(_) => None,
    }
}

/// Logs that are being pulled; given back when dropped, and the other sessions may go on then.
struct Claim {
    node: Arc<Node>,
    wanted: Vector,
    since: Duration,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let taken_over = |log: &LogId, since: &mut Duration| {
            !self.wanted.contains_key(log) || *since != self.since
        };
        self.node.pulling.lock().retain(taken_over);
        for session in self.node.table.lock().sessions() {
            session.log_wake.notify_one();
        }
    }
}

/// Checks that a segment is signed by its author, and that the author may change the volume.
///
/// What a member wrote before it was removed, or before it lost the right to, stays: the author may
/// be a former member or a reader now. A removed peer is cut off and of a reader its own word is not
/// taken, so that nothing newer of either comes in.
pub(super) fn verify(
    segment: &SealedSegment,
    author: Option<&super::roster::Member>,
    from: PeerId,
) -> Result<(), LogError> {
    let header = &segment.header;
    let author = author.ok_or(LogError::UnknownAuthor(header.device))?;
    if !(author.role.writes() || author.wrote && author.id != from) {
        return Err(LogError::NotAuthor(header.device));
    }
    let signed = SealedSegment::signed_bytes(header, &segment.body);
    let identity = &author.identity;
    identity
        .verify(SEGMENT_DOMAIN, &signed, &segment.signature)
        .map_err(|_| LogError::Unauthentic {
            device: header.device,
            seg_no: header.seg_no,
        })
}
