//! What other peers ask of this one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::Node;
use super::bulk::answer_priority;
use super::membership::page;
use super::session::Session;
use super::sync::FOUNDING_ROUNDS_PUSHED;
use crate::base::PeerId;
use crate::base::time::{sleep, timeout};
use crate::base::worker::{Failed, Job, Step, Worker};
use crate::transport::{Connection, Incoming, Priority};
use crate::wire::limits::{SEGMENTS_BATCH_BYTES, SEGMENTS_MAX};
use crate::wire::{
    ChunkRefusal, ChunkRequest, ChunkResponse, Refusal, Request, Response, Vector, WIRE_VERSION,
    WireError,
};

/// Requests of one peer that are worked on at once; further ones wait in the transport.
const REQUESTS_MAX: usize = 64;

/// Longest time that a join may take whose bytes move.
const JOIN_MAX: Duration = Duration::from_secs(600);

/// How long a connection may stay without a hello, or without the end of a join, while nothing moves.
const HELLO_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the answer to one request may take to be found. Beyond it the peer has given up long
/// ago.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a peer that broke the rules too often is not listened to.
const BAN_TIME: Duration = Duration::from_secs(60);

/// Bans that are remembered; new identities are cheap, so more would only be memory.
const BANS_MAX: usize = 1024;

/// The worker that takes in connections.
pub(super) struct Accept {
    node: Arc<Node>,
    /// What came in; `None` inside once the transport is closed.
    next: Option<Option<Arc<dyn Connection>>>,
}

impl Accept {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        Self {
            node: Arc::clone(node),
            next: None,
        }
    }
}

impl Worker for Accept {
    fn job(&self) -> Job {
        Job::new("accept", "takes in connections")
    }

    async fn step(&mut self) -> Result<Step, Failed> {
        match self.next.take() {
            Some(None) => return Ok(Step::Over),
            Some(Some(connection)) => self.node.take_in(connection),
            None => {}
        }
        Ok(Step::Idle("connections"))
    }

    async fn wait(&mut self) {
        self.next = Some(self.node.transport.accept().await);
    }
}

impl Node {
    /// Takes in a connection.
    fn take_in(self: &Arc<Self>, connection: Arc<dyn Connection>) {
        if self.is_banned(&connection.peer()) {
            connection.close("cut off");
            return;
        }
        let is_member = self.roster().member(&connection.peer()).is_some();
        let session = Session::new(connection, Arc::clone(&self.clock), false);
        if !self.strangers.admit(&session, is_member) {
            session.close("busy");
            return;
        }
        self.tasks.spawn(Arc::clone(self).receive(session));
    }

    /// Serves a connection that came in; one that does not say hello in time is closed, unless its
    /// peer waits to be admitted.
    async fn receive(self: Arc<Self>, session: Arc<Session>) {
        let (node, watched) = (Arc::clone(&self), Arc::downgrade(&session));
        // On a long way what is lost comes late.
        let patience = HELLO_TIMEOUT + session.grace();
        self.tasks.spawn(async move {
            let began = node.now();
            loop {
                sleep(patience).await;
                let Some(session) = watched.upgrade() else {
                    return;
                };
                if session.is_open() {
                    return;
                }
                // A large roster takes as long as the line does.
                let now = node.now();
                let moves = session.look() + patience > now && now < began + JOIN_MAX;
                if !moves && !node.asks_here(&session.peer()) {
                    session.close("no hello");
                    return;
                }
            }
        });
        self.serve(session).await;
    }

    /// Serves the requests on a connection until it ends.
    pub(super) async fn serve(self: Arc<Self>, session: Arc<Session>) {
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&requests).acquire_owned().await else {
                break;
            };
            let Some(incoming) = session.connection().next_request().await else {
                break;
            };
            let (node, session) = (Arc::clone(&self), Arc::clone(&session));
            self.tasks.spawn(async move {
                node.handle(&session, incoming).await;
                drop(permit);
            });
        }
        self.ended(&session);
    }

    async fn handle(self: &Arc<Self>, session: &Arc<Session>, incoming: Incoming) {
        let Incoming { frame, reply } = incoming;
        let request = Request::decode(&frame.body);
        let priority = request.as_ref().ok().and_then(answer_priority);
        let is_piece = matches!(
            &request,
            Ok(Request::Piecewise { .. } | Request::Rest { .. })
        );
        let answer = async {
            match request {
                Ok(request) => self.answer(session, request, frame.payload).await,
                Err(error) => (self.answer_unread(session, &error), Bytes::new()),
            }
        };
        let Ok((response, payload)) = timeout(ANSWER_TIMEOUT, answer).await else {
            return;
        };
        if session.is_open() {
            self.heard_from(session);
        }
        let body = response.encode();
        let priority = priority.unwrap_or_else(|| Priority::of(body.len() + payload.len()));
        if is_piece {
            self.note_urgent(session, priority, payload.len());
        }
        // Takes as long as the line does. A peer that gave up has stopped the stream.
        if let Err(error) = reply.send_as(body, payload, priority).await {
            tracing::debug!(peer = %session.peer().short(), %error, "an answer was not sent");
        }
    }

    /// Answers what is no request that this peer knows.
    pub(super) fn answer_unread(&self, session: &Session, error: &WireError) -> Response {
        let (refusal, is_offence) = match error {
            WireError::TooNew { .. } => {
                let known = WIRE_VERSION;
                (Refusal::TooNew { known }, false)
            }
            // A newer member cannot know what this one does not. Strangers have no such excuse: they
            // might go on for ever.
            WireError::Unknown { .. } => {
                session.note_newer();
                (Refusal::Unknown, !session.is_open())
            }
            WireError::Empty | WireError::TooLarge { .. } | WireError::Malformed { .. } => {
                (Refusal::Malformed, true)
            }
        };
        if is_offence {
            self.strike(session, 1);
        }
        Response::Refused(refusal)
    }

    pub(super) async fn answer(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: Request,
        payload: Bytes,
    ) -> (Response, Bytes) {
        let response = match request {
            Request::Hello(hello) => self.greeted(session, hello).await,
            Request::Join { volume, clock_ms } => self.answer_join(session, volume, clock_ms),
            Request::Redeem(redeem) => self.answer_redeem(session, redeem).await,
            Request::Recover { secret, clock_ms } => {
                self.answer_recover(session, &secret, clock_ms).await
            }
            Request::Restore { clock_ms } => self.answer_restore(session, clock_ms),
            Request::RosterPush { statements } if session.may_ask_roster() => {
                self.merge_roster(statements, Some(session)).await;
                Response::Done
            }
            Request::RosterPull { skip } if session.may_ask_roster() => {
                let roster = self.roster();
                Response::Roster {
                    statements: page(&roster, skip as usize),
                    total: u32::try_from(roster.statement_count()).unwrap_or(u32::MAX),
                }
            }
            Request::Introduce { nonce, proof } => self.answer_introduce(session, nonce, proof),
            Request::Knock { clock_ms } => self.answer_knock(session, clock_ms),
            Request::Ask(signed) => self.answer_ask(session, signed).await,
            _ if !session.is_open() => {
                self.strike(session, 1);
                Response::Refused(Refusal::HelloFirst)
            }
            Request::Chunk(request) => return self.answer_chunk(session, request, payload).await,
            Request::Piece { of, index } => {
                return self.answer_piece(session, of, index, payload).await;
            }
            Request::Piecewise { request, index, .. } => {
                let request = request.into_inner();
                return self.answer_piecewise(session, request, index).await;
            }
            Request::Rest { blob, index, .. } => {
                return self.answer_rest(session, blob, index).await;
            }
            request => self.answer_member(session, request).await,
        };
        (response, Bytes::new())
    }

    /// Answers what only members with a session may ask.
    async fn answer_member(self: &Arc<Self>, session: &Arc<Session>, request: Request) -> Response {
        match request {
            Request::Sync(state) => {
                self.note_state(session, &state);
                Response::Sync(self.tell_state(session))
            }
            Request::Push { segments } => match self
                .take_segments(session, segments, FOUNDING_ROUNDS_PUSHED)
                .await
            {
                Ok(_) => Response::Sync(self.tell_state(session)),
                Err(_) => Response::Refused(Refusal::Busy),
            },
            Request::Pull { from, room } => self.answer_pull(from, room).await,
            Request::Chain { after, room } => self.answer_chain(after, room).await,
            Request::Left { record, room } => self.answer_left(record, room).await,
            Request::Checkpoints { words } => self.answer_words(session, words).await,
            Request::Starts { hash } => self.answer_starts(hash).await,
            Request::Letters { letters } => {
                self.take_letters(session, letters).await;
                Response::Done
            }
            Request::FindNode { key } => Response::Nodes {
                records: self.records_near(&key),
            },
            Request::PutRecords { records } => {
                // A record may be of a member that this peer has not heard of: no offence.
                self.learn_records(records);
                Response::Done
            }
            Request::Askings { askings, denials } => {
                self.take_askings(session, askings, denials).await;
                Response::Done
            }
            Request::Hello(_)
            | Request::Join { .. }
            | Request::Redeem(_)
            | Request::Knock { .. }
            | Request::Ask(_)
            | Request::Recover { .. }
            | Request::Restore { .. }
            | Request::RosterPush { .. }
            | Request::RosterPull { .. }
            | Request::Introduce { .. }
            | Request::Piece { .. }
            | Request::Piecewise { .. }
            | Request::Rest { .. }
            | Request::Chunk(_) => Response::Refused(Refusal::Malformed),
        }
    }

    async fn answer_chunk(
        &self,
        session: &Session,
        request: ChunkRequest,
        payload: Bytes,
    ) -> (Response, Bytes) {
        let handler = self.handler.read().clone();
        let (response, payload) = match handler {
            Some(handler) => handler.handle(session.peer(), request, payload).await,
            None => (ChunkResponse::Refused(ChunkRefusal::Busy), Bytes::new()),
        };
        (Response::Chunk(response), payload)
    }

    /// Returns the first segments of the wanted ranges, as many as one message takes.
    async fn answer_pull(self: &Arc<Self>, from: Vector, room: u32) -> Response {
        let node = Arc::clone(self);
        let read = move || {
            let offered = node.counting(node.log.offered());
            let mut segments = Vec::new();
            let mut room = SEGMENTS_BATCH_BYTES.min(room as usize).max(1);
            for (device, first) in from {
                let last = offered.get(&device).copied().unwrap_or(0);
                if room == 0 || segments.len() >= SEGMENTS_MAX || first == 0 || first > last {
                    continue;
                }
                let mut range = match node.log.range(device, first, room) {
                    Ok(range) => range,
                    Err(error) => {
                        tracing::warn!(%error, "cannot read the log");
                        continue;
                    }
                };
                range.retain(|segment| segment.header.seg_no <= last);
                range.truncate(SEGMENTS_MAX - segments.len());
                let sizes = range.iter().map(|segment| segment.body.len());
                room = room.saturating_sub(sizes.sum());
                segments.extend(range);
            }
            segments
        };
        match self.config.pool.call(read).await {
            Some(segments) => Response::Segments { segments },
            None => Response::Refused(Refusal::Busy),
        }
    }

    /// Takes note of an offence; a peer that has committed too many is cut off for a while.
    pub(super) fn strike(&self, session: &Session, weight: u32) {
        if !session.strike(weight) {
            return;
        }
        let peer = session.peer();
        tracing::warn!(peer = %peer.short(), "cut off: it broke the rules too often");
        {
            let mut bans = self.bans.lock();
            bans.insert(peer, self.now() + BAN_TIME);
            if bans.len() > BANS_MAX {
                // The one that is over first.
                let first = bans.iter().min_by_key(|(_, until)| **until);
                if let Some(first) = first.map(|(peer, _)| *peer) {
                    bans.remove(&first);
                }
            }
        }
        session.close("cut off");
    }

    pub(super) fn is_banned(&self, peer: &PeerId) -> bool {
        let now = self.now();
        self.bans.lock().get(peer).is_some_and(|until| *until > now)
    }

    /// Ends the bans whose time is over.
    pub(super) fn forgive(&self) {
        let now = self.clock.monotonic();
        self.bans.lock().retain(|_, until| *until > now);
    }
}
