//! Large messages: whole where the line is fast, else in pieces, in both directions.
//!
//! A deadline counts from the last progress and never from the beginning. What arrived in pieces is
//! kept where it arrived, whatever becomes of the session: the next attempt sends or asks for the rest.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::Node;
use super::error::NodeError;
use super::flow::Urgency;
use super::pieces::{
    BlobId, Inbox, Landing, Landings, Outbox, PIECE_BYTES, Shape, Taken, WHOLE_MAX_BYTES, blob_id,
    piece,
};
use super::session::Session;
use super::transfer::{Transfer, priority_of};
use crate::base::PeerId;
use crate::base::memory::Budget;
use crate::transport::Priority;
use crate::wire::bounded::BoundedBytes;
use crate::wire::{ChunkRequest, PieceOf, Refusal, Request, Response};

/// What an answer with a chunk takes at most of a window while it is not known.
const ANSWER_BYTES: u64 = 1 << 20;

/// Messages that were begun and may be half there: a peer is asked before they are sent again.
const BEGUN_MAX: usize = 256;

/// How often a message that the receiver lost pieces of is begun anew within one attempt.
const ROUNDS_MAX: usize = 3;

/// Large messages that are under way.
pub(super) struct Bulk {
    inbox: Mutex<Inbox>,
    outbox: Mutex<Outbox>,
    landings: Mutex<Landings>,
    begun: Mutex<VecDeque<(PeerId, BlobId)>>,
    /// Counts transfers: the older goes first.
    order: AtomicU64,
    urgency: Urgency,
}

impl Bulk {
    /// Returns empty tables for their part of the budget.
    pub(super) fn within(budget: Budget) -> Self {
        Self {
            inbox: Mutex::new(Inbox::within(budget)),
            outbox: Mutex::new(Outbox::within(budget)),
            landings: Mutex::new(Landings::within(budget)),
            begun: Mutex::default(),
            order: AtomicU64::new(0),
            urgency: Urgency::default(),
        }
    }

    fn order(&self) -> u64 {
        self.order.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes note that a message is being sent; says whether that was begun before.
    fn begin(&self, key: (PeerId, BlobId)) -> bool {
        let mut begun = self.begun.lock();
        let known = begun.contains(&key);
        if !known {
            begun.push_back(key);
            if begun.len() > BEGUN_MAX {
                begun.pop_front();
            }
        }
        known
    }

    fn end(&self, key: &(PeerId, BlobId)) {
        self.begun.lock().retain(|known| known != key);
    }
}

type Answered = Result<(Response, Bytes), NodeError>;

impl Node {
    /// Sends a request for which a deadline of `within` counts from the last progress, and waits for
    /// the answer.
    pub(super) async fn exchange(
        &self,
        session: &Arc<Session>,
        request: Request,
        payload: Bytes,
        within: Duration,
        transfer: &Transfer,
    ) -> Answered {
        let body = request.encode();
        let len = body.len() + payload.len();
        if len > WHOLE_MAX_BYTES {
            let shape = Shape::new(body.len(), len);
            if let Some(shape) = shape.filter(|_| !session.out.is_fast()) {
                return self
                    .send_in_pieces(session, (body, payload), shape, within, transfer)
                    .await;
            }
            let (len, order) = (len as u64, self.bulk.order());
            let permit = session
                .out
                .enter(len, transfer, order, session.rtt(), None)
                .await;
            let answer = session
                .request_as(body, payload, within, transfer.priority(), Some(transfer))
                .await?;
            permit.arrived(len);
            transfer.moved(self.now());
            return Ok(answer);
        }
        if !has_large_answer(&request) {
            return session
                .request_as(body, payload, within, Priority::Small, Some(transfer))
                .await;
        }
        if !session.inward.is_fast() {
            return self.fetch_in_pieces(session, body, within, transfer).await;
        }
        let order = self.bulk.order();
        let permit = session
            .inward
            .enter(ANSWER_BYTES, transfer, order, session.rtt(), None)
            .await;
        let answer = session
            .request_as(body, payload, within, Priority::Small, Some(transfer))
            .await?;
        permit.arrived(answer.1.len().max(PIECE_BYTES / 8) as u64);
        transfer.moved(self.now());
        Ok(answer)
    }

    /// Takes note that a piece goes out over a slow session: what is less urgent in others makes way.
    pub(super) fn note_urgent(&self, session: &Session, priority: Priority, bytes: usize) {
        let out = &session.out;
        if priority > Priority::Background && bytes > 0 && !out.is_fast() {
            let urgency = &self.bulk.urgency;
            urgency.note(priority, bytes, (out.rate(), session.rtt()), self.now());
        }
    }

    /// Sends a request in pieces; those that the peer has are not sent again.
    async fn send_in_pieces(
        &self,
        session: &Arc<Session>,
        (body, payload): (Bytes, Bytes),
        shape: Shape,
        within: Duration,
        transfer: &Transfer,
    ) -> Answered {
        let peer = session.peer();
        let blob = blob_id(&body, &payload);
        let of = PieceOf {
            blob,
            body_len: shape.body_len as u32,
            len: shape.len as u32,
        };
        let order = self.bulk.order();
        let mut have = 0;
        if self.bulk.begin((peer, blob)) {
            let request = Request::Piece { of, index: 0 };
            let answer = session.request(&request, Bytes::new(), within).await?;
            let (Response::Pieces { have: known }, _) = answer else {
                return Err(NodeError::Protocol { peer });
            };
            have = known;
        }
        for _ in 0..ROUNDS_MAX {
            let latest = AtomicU64::new(have);
            let mut sends: Vec<Pin<Box<dyn Future<Output = Option<Answered>> + Send + '_>>> =
                Vec::new();
            for index in (0..shape.count()).filter(|index| have & (1 << index) == 0) {
                let (body, payload, latest) = (&body, &payload, &latest);
                sends.push(Box::pin(async move {
                    let bytes = piece(body, payload, index);
                    let len = bytes.len() as u64;
                    let (round_trip, urgency) = (session.rtt(), Some(&self.bulk.urgency));
                    let out = &session.out;
                    let permit = out.enter(len, transfer, order, round_trip, urgency).await;
                    self.note_urgent(session, transfer.priority(), bytes.len());
                    let request = Request::Piece {
                        of,
                        index: index as u8,
                    };
                    let answer = session
                        .request_as(
                            request.encode(),
                            bytes,
                            within,
                            transfer.priority(),
                            Some(transfer),
                        )
                        .await;
                    match answer {
                        Ok((Response::Pieces { have }, _)) => {
                            permit.arrived(len);
                            transfer.moved(self.now());
                            latest.store(have, Ordering::Relaxed);
                            None
                        }
                        Ok(last) => {
                            permit.arrived(len);
                            transfer.moved(self.now());
                            Some(Ok(last))
                        }
                        Err(error) => Some(Err(error)),
                    }
                }));
            }
            if let Some(answer) = first_of(sends).await {
                if answer.is_ok() {
                    self.bulk.end(&(peer, blob));
                }
                return answer;
            }
            // The peer dropped some of them meanwhile.
            have = latest.into_inner();
        }
        Err(NodeError::NoAnswer { peer })
    }

    /// Asks for an answer in pieces; those that are here from an attempt before, or come from another
    /// peer meanwhile, are not asked for.
    async fn fetch_in_pieces(
        &self,
        session: &Arc<Session>,
        request: Bytes,
        within: Duration,
        transfer: &Transfer,
    ) -> Answered {
        let peer = session.peer();
        let name = blob_id(&request, &[]);
        let order = self.bulk.order();
        let first = self.bulk.landings.lock().wanted(&name);
        let piece_len = PIECE_BYTES as u64;
        let permit = session
            .inward
            .enter(piece_len, transfer, order, session.rtt(), None)
            .await;
        let begin = Request::Piecewise {
            request: BoundedBytes::new(request).ok_or(NodeError::TooLarge)?,
            priority: transfer.priority() as u8,
            index: first as u8,
        };
        let (begin, small) = (begin.encode(), Priority::Small);
        let answer = session
            .request_as(begin, Bytes::new(), within, small, Some(transfer))
            .await?;
        permit.arrived(answer.1.len().max(PIECE_BYTES / 8) as u64);
        transfer.moved(self.now());
        let (of, bytes) = match answer {
            (Response::Large(of), bytes) => (of, bytes),
            whole => return Ok(whole),
        };
        let shape = Shape::new(of.body_len as usize, of.len as usize);
        let shape = shape.ok_or(NodeError::Protocol { peer })?;
        let (landing, is_second) = {
            let mut landings = self.bulk.landings.lock();
            let landing = landings.open(name, of.blob, shape);
            let is_second = Arc::strong_count(&landing) > 2;
            (landing, is_second)
        };
        if !bytes.is_empty() && !landing.put(first, &bytes) {
            return Err(NodeError::Protocol { peer });
        }
        if let Some(answer) = self.landed(peer, name, &landing) {
            return answer;
        }
        let mut order_of: Vec<usize> = (0..shape.count()).collect();
        if is_second {
            order_of.reverse();
        }
        let mut gets: Vec<Pin<Box<dyn Future<Output = Option<Answered>> + Send + '_>>> = Vec::new();
        for index in order_of {
            let landing = &landing;
            gets.push(Box::pin(async move {
                if landing.have() & (1 << index) != 0 {
                    return None;
                }
                let permit = session
                    .inward
                    .enter(piece_len, transfer, order, session.rtt(), None)
                    .await;
                if landing.have() & (1 << index) != 0 {
                    return self.landed(peer, name, landing);
                }
                let request = Request::Rest {
                    blob: of.blob,
                    priority: transfer.priority() as u8,
                    index: index as u8,
                };
                let (request, small) = (request.encode(), Priority::Small);
                let asked =
                    session.request_as(request, Bytes::new(), within, small, Some(transfer));
                match asked.await {
                    Ok((Response::PieceBytes, bytes)) if landing.put(index, &bytes) => {
                        permit.arrived(bytes.len() as u64);
                        transfer.moved(self.now());
                        self.landed(peer, name, landing)
                    }
                    Ok(_) => Some(Err(NodeError::NoAnswer { peer })),
                    Err(error) => Some(Err(error)),
                }
            }));
        }
        let answer = first_of(gets).await;
        // Another attempt took it.
        answer.unwrap_or(Err(NodeError::NoAnswer { peer }))
    }

    /// Takes an answer whose last piece came.
    fn landed(&self, peer: PeerId, name: BlobId, landing: &Landing) -> Option<Answered> {
        let taken = landing.take()?;
        self.bulk.landings.lock().close(name, landing);
        let Ok((body, payload)) = taken else {
            return Some(Err(NodeError::Protocol { peer }));
        };
        let response = Response::decode(&body);
        Some(match response {
            Ok(response) => Ok((response, payload)),
            Err(_) => Err(NodeError::Protocol { peer }),
        })
    }

    /// Takes a piece of a request; answers the request itself when it is complete.
    pub(super) async fn answer_piece(
        self: &Arc<Self>,
        session: &Arc<Session>,
        of: PieceOf,
        index: u8,
        bytes: Bytes,
    ) -> (Response, Bytes) {
        let malformed = (Response::Refused(Refusal::Malformed), Bytes::new());
        let Some(shape) = Shape::new(of.body_len as usize, of.len as usize) else {
            self.strike(session, 1);
            return malformed;
        };
        let taken =
            self.bulk
                .inbox
                .lock()
                .take(session.peer(), of.blob, shape, usize::from(index), &bytes);
        drop(bytes);
        match taken {
            Taken::Have(have) => (Response::Pieces { have }, Bytes::new()),
            Taken::Complete(body, payload) => match Request::decode(&body) {
                Ok(request @ (Request::Chunk(_) | Request::Push { .. })) => {
                    Box::pin(self.answer(session, request, payload)).await
                }
                Ok(_) => {
                    self.strike(session, 1);
                    malformed
                }
                Err(error) => (self.answer_unread(session, &error), Bytes::new()),
            },
            Taken::Malformed => {
                self.strike(session, 1);
                malformed
            }
        }
    }

    /// Answers a request with one piece of the answer where that is large, and keeps the others.
    pub(super) async fn answer_piecewise(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: Bytes,
        index: u8,
    ) -> (Response, Bytes) {
        if let Err(error) = Request::decode(&request) {
            return (self.answer_unread(session, &error), Bytes::new());
        }
        let Some((response, payload)) = self.answer_again(session, &request).await else {
            self.strike(session, 1);
            return (Response::Refused(Refusal::Malformed), Bytes::new());
        };
        let body = response.encode();
        let shape = Shape::new(body.len(), body.len() + payload.len());
        let Some(shape) = shape.filter(|shape| shape.len > WHOLE_MAX_BYTES) else {
            return (response, payload);
        };
        let blob = blob_id(&body, &payload);
        let bytes = piece(&body, &payload, usize::from(index));
        self.bulk
            .outbox
            .lock()
            .keep(session.peer(), blob, request, (body, payload));
        let of = PieceOf {
            blob,
            body_len: shape.body_len as u32,
            len: shape.len as u32,
        };
        (Response::Large(of), bytes)
    }

    /// Returns one more piece of an answer; makes the answer anew where it is no longer kept.
    pub(super) async fn answer_rest(
        self: &Arc<Self>,
        session: &Arc<Session>,
        blob: BlobId,
        index: u8,
    ) -> (Response, Bytes) {
        let gone = (Response::Refused(Refusal::Busy), Bytes::new());
        let peer = session.peer();
        let Some(kept) = self.bulk.outbox.lock().get(peer, &blob) else {
            return gone;
        };
        let (body, payload) = match kept.answer {
            Some(answer) => answer,
            None => {
                let Some((response, payload)) = self.answer_again(session, &kept.request).await
                else {
                    return gone;
                };
                let body = response.encode();
                if blob_id(&body, &payload) != blob {
                    return gone;
                }
                let answer = (body.clone(), payload.clone());
                self.bulk
                    .outbox
                    .lock()
                    .keep(peer, blob, kept.request, answer);
                (body, payload)
            }
        };
        let bytes = piece(&body, &payload, usize::from(index));
        (Response::PieceBytes, bytes)
    }

    async fn answer_again(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: &Bytes,
    ) -> Option<(Response, Bytes)> {
        let request = Request::decode(request).ok()?;
        if !has_large_answer(&request) {
            return None;
        }
        Some(Box::pin(self.answer(session, request, Bytes::new())).await)
    }
}

/// Returns how urgent the answer to a request is; `None` where its size says it.
pub(super) fn answer_priority(request: &Request) -> Option<Priority> {
    match request {
        Request::Piecewise { priority, .. } | Request::Rest { priority, .. } => {
            Some(priority_of(*priority))
        }
        Request::Pull { .. } => Some(Priority::Log),
        _ => None,
    }
}

/// Tells whether the answer to a request may be large, and may be asked for in pieces.
fn has_large_answer(request: &Request) -> bool {
    matches!(
        request,
        Request::Chunk(ChunkRequest::Get { .. }) | Request::Pull { .. } | Request::Starts { .. }
    )
}

/// Runs futures side by side until one yields something or all have ended.
async fn first_of<T>(
    mut futures: Vec<Pin<Box<dyn Future<Output = Option<T>> + Send + '_>>>,
) -> Option<T> {
    std::future::poll_fn(move |context| {
        let mut index = 0;
        while let Some(future) = futures.get_mut(index) {
            match future.as_mut().poll(context) {
                Poll::Ready(Some(found)) => return Poll::Ready(Some(found)),
                Poll::Ready(None) => drop(futures.remove(index)),
                Poll::Pending => index += 1,
            }
        }
        if futures.is_empty() {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    })
    .await
}
