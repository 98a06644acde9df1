//! Messages that travel in pieces, so that a break costs a piece and not the message.
//!
//! A message (its body, and its payload behind it) is a **blob**, named by its BLAKE3. Three tables
//! keep what is under way across sessions, each bounded in bytes, the longest unused dropped first:
//! requests of others of which some pieces came ([`Inbox`]), answers that others fetch in pieces
//! ([`Outbox`]), and answers of others of which this peer has some pieces ([`Landings`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::base::PeerId;
use crate::base::limits::{MESSAGE_BODY_MAX_BYTES, MESSAGE_PAYLOAD_MAX_BYTES};
use crate::base::memory::Budget;

/// Bytes of a piece: two seconds of 128 kbit/s.
pub(super) const PIECE_BYTES: usize = 32 << 10;

/// Most pieces of a blob: one bit each in a word. A sealed chunk or segment takes 33.
pub(super) const PIECES_MAX: usize = 64;

/// Messages above this size go in pieces over slow lines.
pub(super) const WHOLE_MAX_BYTES: usize = 2 * PIECE_BYTES;

/// Bytes of requests of others that are kept while they are incomplete, and those of one peer.
const INBOX_MAX_BYTES: usize = 32 << 20;
const INBOX_PEER_MAX_BYTES: usize = 6 << 20;

/// Bytes of answers that are kept for those who fetch them. Beyond it an answer is made anew.
const OUTBOX_MAX_BYTES: usize = 16 << 20;

/// Answers that others fetch: who has a window of 16 MiB asks for 16 at once.
const OUTBOX_MAX: usize = 1024;

/// Incomplete answers that are kept; each is at most [`PIECES_MAX`] pieces.
const LANDINGS_MAX: usize = 32;

/// Most bytes of a message that goes in pieces.
const BLOB_MAX_BYTES: usize = PIECES_MAX * PIECE_BYTES;

/// Returns the bytes that a table takes which is to have `usual`: a sixteenth of the budget, and two of
/// the largest messages at least, without which nothing large comes over a slow line.
fn room(usual: usize, budget: Budget) -> usize {
    let bytes = budget.part(usual as u64, 16);
    usize::try_from(bytes)
        .unwrap_or(usual)
        .max(2 * BLOB_MAX_BYTES)
}

/// Names a message by its bytes.
pub(super) type BlobId = [u8; 32];

/// Names a message: body and payload one after another.
pub(super) fn blob_id(body: &[u8], payload: &[u8]) -> BlobId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(body).update(payload);
    *hasher.finalize().as_bytes()
}

/// How a message is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) body_len: usize,
    pub(super) len: usize,
}

impl Shape {
    /// Returns the shape of a message; `None` where it is too large to be cut.
    pub(super) fn new(body_len: usize, len: usize) -> Option<Self> {
        let fits = body_len <= len
            && len <= PIECES_MAX * PIECE_BYTES
            && body_len <= MESSAGE_BODY_MAX_BYTES
            && len - body_len <= MESSAGE_PAYLOAD_MAX_BYTES;
        fits.then_some(Self { body_len, len })
    }

    pub(super) fn count(self) -> usize {
        self.len.div_ceil(PIECE_BYTES)
    }

    /// Returns the bits of all pieces.
    pub(super) fn all(self) -> u64 {
        match self.count() {
            0 => 0,
            count => u64::MAX >> (PIECES_MAX - count),
        }
    }

    fn len_of(self, index: usize) -> usize {
        let start = (index * PIECE_BYTES).min(self.len);
        (self.len - start).min(PIECE_BYTES)
    }
}

/// Returns one piece of a message; empty beyond its end.
pub(super) fn piece(body: &Bytes, payload: &Bytes, index: usize) -> Bytes {
    let (body_len, len) = (body.len(), body.len() + payload.len());
    let start = index.saturating_mul(PIECE_BYTES).min(len);
    let end = (start + PIECE_BYTES).min(len);
    if start >= body_len {
        return payload.slice(start - body_len..end - body_len);
    }
    if end <= body_len {
        return body.slice(start..end);
    }
    let mut bytes = BytesMut::with_capacity(end - start);
    bytes.extend_from_slice(&body[start..]);
    bytes.extend_from_slice(&payload[..end - body_len]);
    bytes.freeze()
}

/// A message of which some pieces are here.
#[derive(Debug)]
struct Partial {
    shape: Shape,
    pieces: Vec<Option<Bytes>>,
    have: u64,
    bytes: usize,
}

impl Partial {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            pieces: vec![None; shape.count()],
            have: 0,
            bytes: 0,
        }
    }

    /// Takes a piece; `false` where it does not fit.
    fn put(&mut self, index: usize, bytes: &[u8]) -> bool {
        let Some(place) = self.pieces.get_mut(index) else {
            return false;
        };
        if bytes.len() != self.shape.len_of(index) {
            return false;
        }
        if place.is_none() {
            // A copy of its own: a slice would keep all of the message that brought it.
            *place = Some(Bytes::copy_from_slice(bytes));
            self.have |= 1 << index;
            self.bytes += bytes.len();
        }
        true
    }

    fn is_complete(&self) -> bool {
        self.have == self.shape.all()
    }

    /// Puts the pieces of a complete message together, as its body and its payload.
    fn join(self) -> (Bytes, Bytes) {
        let mut joined = BytesMut::with_capacity(self.shape.len);
        for piece in self.pieces.into_iter().flatten() {
            joined.extend_from_slice(&piece);
        }
        let mut joined = joined.freeze();
        let body = joined.split_to(self.shape.body_len.min(joined.len()));
        (body, joined)
    }
}

/// What a piece of a request led to.
#[derive(Debug)]
pub(super) enum Taken {
    /// These pieces are here now.
    Have(u64),
    /// All came: the body and the payload.
    Complete(Bytes, Bytes),
    /// It is not a piece of that message.
    Malformed,
}

/// Requests of others of which some pieces came.
#[derive(Debug)]
pub(super) struct Inbox {
    partials: BTreeMap<(PeerId, BlobId), (u64, Partial)>,
    ticks: u64,
    /// Most bytes of one peer, and of all.
    peer_max: usize,
    max: usize,
}

impl Inbox {
    /// Returns an empty one for its part of the budget.
    pub(super) fn within(budget: Budget) -> Self {
        let max = room(INBOX_MAX_BYTES, budget);
        Self {
            partials: BTreeMap::new(),
            ticks: 0,
            peer_max: INBOX_PEER_MAX_BYTES.min(max),
            max,
        }
    }

    /// Takes a piece of a request; an empty one only asks which are here.
    pub(super) fn take(
        &mut self,
        from: PeerId,
        blob: BlobId,
        shape: Shape,
        index: usize,
        bytes: &[u8],
    ) -> Taken {
        let key = (from, blob);
        if bytes.is_empty() {
            return Taken::Have(self.partials.get(&key).map_or(0, |(_, known)| known.have));
        }
        self.ticks += 1;
        let entry = self.partials.entry(key);
        let (used, partial) = entry.or_insert_with(|| (0, Partial::new(shape)));
        *used = self.ticks;
        if partial.shape != shape || !partial.put(index, bytes) {
            return Taken::Malformed;
        }
        let have = partial.have;
        if partial.is_complete()
            && let Some((_, partial)) = self.partials.remove(&key)
        {
            let (body, payload) = partial.join();
            if blob_id(&body, &payload) != blob {
                return Taken::Malformed;
            }
            return Taken::Complete(body, payload);
        }
        self.shorten(&from);
        Taken::Have(have)
    }

    fn shorten(&mut self, from: &PeerId) {
        let bytes = |partials: &BTreeMap<(PeerId, BlobId), (u64, Partial)>, of: Option<&PeerId>| {
            let those = partials
                .iter()
                .filter(|((peer, _), _)| of.is_none_or(|of| of == peer));
            those.map(|(_, (_, partial))| partial.bytes).sum::<usize>()
        };
        for (of, max) in [(Some(from), self.peer_max), (None, self.max)] {
            while bytes(&self.partials, of) > max {
                let those = self.partials.iter();
                let those = those.filter(|((peer, _), _)| of.is_none_or(|of| of == peer));
                let oldest = those
                    .min_by_key(|(_, (used, _))| *used)
                    .map(|(key, _)| *key);
                match oldest {
                    Some(key) => self.partials.remove(&key),
                    None => return,
                };
            }
        }
    }
}

/// An answer that somebody fetches in pieces.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// The request, by which the answer is made anew where its bytes were dropped.
    pub(super) request: Bytes,
    /// Body and payload.
    pub(super) answer: Option<(Bytes, Bytes)>,
    used: u64,
}

/// Answers that others fetch in pieces.
#[derive(Debug)]
pub(super) struct Outbox {
    kept: BTreeMap<(PeerId, BlobId), Kept>,
    ticks: u64,
    /// Most bytes of answers.
    max: usize,
}

impl Outbox {
    /// Returns an empty one for its part of the budget.
    pub(super) fn within(budget: Budget) -> Self {
        Self {
            kept: BTreeMap::new(),
            ticks: 0,
            max: room(OUTBOX_MAX_BYTES, budget),
        }
    }

    /// Keeps an answer for `to`.
    pub(super) fn keep(
        &mut self,
        to: PeerId,
        blob: BlobId,
        request: Bytes,
        answer: (Bytes, Bytes),
    ) {
        self.ticks += 1;
        let kept = Kept {
            request,
            answer: Some(answer),
            used: self.ticks,
        };
        self.kept.insert((to, blob), kept);
        let mut order: Vec<(u64, (PeerId, BlobId))> = self
            .kept
            .iter()
            .map(|(key, kept)| (kept.used, *key))
            .collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        let mut bytes = 0;
        for (place, (_, key)) in order.into_iter().enumerate() {
            if place >= OUTBOX_MAX {
                self.kept.remove(&key);
            } else if let Some(kept) = self.kept.get_mut(&key)
                && let Some((body, payload)) = &kept.answer
            {
                bytes += body.len() + payload.len();
                if bytes > self.max {
                    kept.answer = None;
                }
            }
        }
    }

    /// Returns an answer that was kept for `to`.
    pub(super) fn get(&mut self, to: PeerId, blob: &BlobId) -> Option<Kept> {
        self.ticks += 1;
        let kept = self.kept.get_mut(&(to, *blob))?;
        kept.used = self.ticks;
        Some(kept.clone())
    }
}

/// An answer of which some pieces are here, shared by all who fetch it.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) shape: Shape,
    blob: BlobId,
    /// `None` once it was taken.
    partial: Mutex<Option<Partial>>,
}

impl Landing {
    /// Takes a piece; `false` where it does not fit.
    pub(super) fn put(&self, index: usize, bytes: &[u8]) -> bool {
        match &mut *self.partial.lock() {
            Some(partial) => partial.put(index, bytes),
            None => true,
        }
    }

    /// Returns the bits of the pieces that are here; of all once it was taken.
    pub(super) fn have(&self) -> u64 {
        let partial = self.partial.lock();
        partial
            .as_ref()
            .map_or_else(|| self.shape.all(), |partial| partial.have)
    }

    /// Takes the answer if it is complete: its body and payload, `Err` where it is not what the
    /// name says.
    pub(super) fn take(&self) -> Option<Result<(Bytes, Bytes), ()>> {
        let mut partial = self.partial.lock();
        if !partial.as_ref().is_some_and(Partial::is_complete) {
            return None;
        }
        let (body, payload) = partial.take()?.join();
        Some(if blob_id(&body, &payload) == self.blob {
            Ok((body, payload))
        } else {
            Err(())
        })
    }
}

/// Answers of others of which some pieces are here, by the request that they answer.
#[derive(Debug)]
pub(super) struct Landings {
    landings: BTreeMap<(BlobId, BlobId), (u64, Arc<Landing>)>,
    ticks: u64,
    /// Most incomplete answers.
    max: usize,
}

impl Landings {
    /// Returns an empty one for its part of the budget.
    pub(super) fn within(budget: Budget) -> Self {
        Self {
            landings: BTreeMap::new(),
            ticks: 0,
            max: room(LANDINGS_MAX * BLOB_MAX_BYTES, budget) / BLOB_MAX_BYTES,
        }
    }

    /// Returns the place where an answer lands.
    pub(super) fn open(&mut self, request: BlobId, blob: BlobId, shape: Shape) -> Arc<Landing> {
        self.ticks += 1;
        let fresh = || {
            let partial = Mutex::new(Some(Partial::new(shape)));
            (
                0,
                Arc::new(Landing {
                    shape,
                    blob,
                    partial,
                }),
            )
        };
        let (used, landing) = self.landings.entry((request, blob)).or_insert_with(fresh);
        if landing.shape != shape {
            *landing = fresh().1;
        }
        *used = self.ticks;
        let landing = Arc::clone(landing);
        if self.landings.len() > self.max {
            let oldest = self.landings.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(key) = oldest.map(|(key, _)| *key) {
                self.landings.remove(&key);
            }
        }
        landing
    }

    /// Returns a piece that is missing of an answer to a request, the first where nothing is known
    /// and the last where somebody fetches from the front.
    pub(super) fn wanted(&self, request: &BlobId) -> usize {
        let range = (*request, [0; 32])..=(*request, [0xff; 32]);
        let Some((_, (_, landing))) = self.landings.range(range).next_back() else {
            return 0;
        };
        let missing = landing.shape.all() & !landing.have();
        if Arc::strong_count(landing) > 1 {
            (PIECES_MAX - 1).saturating_sub(missing.leading_zeros() as usize)
        } else {
            missing.trailing_zeros() as usize % PIECES_MAX
        }
    }

    /// Forgets an answer that was taken, or is not what it should be.
    pub(super) fn close(&mut self, request: BlobId, landing: &Landing) {
        self.landings.remove(&(request, landing.blob));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId([1; 32]);
    const PLENTY: Budget = Budget::within(64 << 30);

    fn message(body_len: usize, payload_len: usize) -> (Bytes, Bytes, BlobId, Shape) {
        let byte = |at: usize| (at * 7 + at / 251) as u8;
        let body: Bytes = (0..body_len).map(byte).collect::<Vec<u8>>().into();
        let payload: Bytes = (0..payload_len).map(byte).collect::<Vec<u8>>().into();
        let blob = blob_id(&body, &payload);
        let shape = Shape::new(body_len, body_len + payload_len).unwrap();
        (body, payload, blob, shape)
    }

    #[test]
    fn a_message_comes_back_from_its_pieces_in_any_order() {
        for (body_len, payload_len) in [
            (1, 0),
            (40, 1 << 20),
            (PIECE_BYTES, PIECE_BYTES),
            (100_000, 0),
            (PIECE_BYTES - 1, 2),
            (0, PIECES_MAX * PIECE_BYTES),
        ] {
            let (body, payload, blob, shape) = message(body_len, payload_len);
            let mut inbox = Inbox::within(PLENTY);
            let mut came = None;
            for index in (0..shape.count()).rev() {
                let bytes = piece(&body, &payload, index);
                // Twice is as good as once.
                for _ in 0..2 {
                    match inbox.take(PEER, blob, shape, index, &bytes) {
                        Taken::Have(have) => assert_ne!(have & (1 << index), 0),
                        Taken::Complete(body, payload) => came = Some((body, payload)),
                        Taken::Malformed => panic!("piece {index} of {shape:?}"),
                    }
                    if came.is_some() {
                        break;
                    }
                }
            }
            assert_eq!(came, Some((body.clone(), payload.clone())));
            assert!(piece(&body, &payload, shape.count()).is_empty());
            assert!(inbox.partials.is_empty());
        }
        assert_eq!(Shape::new(0, PIECES_MAX * PIECE_BYTES + 1), None);
        assert_eq!(Shape::new(2, 1), None);
    }

    #[test]
    fn what_is_not_a_piece_is_refused() {
        let (body, payload, blob, shape) = message(10, 100_000);
        let mut inbox = Inbox::within(PLENTY);
        let first = piece(&body, &payload, 0);
        let short = first.slice(1..);
        assert!(matches!(
            inbox.take(PEER, blob, shape, 0, &short),
            Taken::Malformed
        ));
        assert!(matches!(
            inbox.take(PEER, blob, shape, 99, &first),
            Taken::Malformed
        ));
        assert!(matches!(
            inbox.take(PEER, blob, shape, 0, &first),
            Taken::Have(1)
        ));
        assert!(matches!(
            inbox.take(PEER, blob, shape, 7, &[]),
            Taken::Have(1)
        ));
        // All there, but other bytes than the name says.
        let mut last = Taken::Have(0);
        for index in 1..shape.count() {
            let wrong = vec![0; piece(&body, &payload, index).len()];
            last = inbox.take(PEER, blob, shape, index, &wrong);
        }
        assert!(matches!(last, Taken::Malformed));
    }

    #[test]
    fn tables_are_bounded_and_drop_the_longest_unused() {
        let mut inbox = Inbox::within(PLENTY);
        let full = vec![0; PIECE_BYTES];
        let shape = Shape::new(0, PIECES_MAX * PIECE_BYTES).unwrap();
        for peer in 0..20u8 {
            for blob in 0..8u8 {
                for index in 0..PIECES_MAX / 2 {
                    inbox.take(PeerId([peer; 32]), [blob; 32], shape, index, &full);
                }
            }
            let of_peer = |(key, (_, partial)): (&(PeerId, BlobId), &(u64, Partial))| {
                (key.0 == PeerId([peer; 32])).then_some(partial.bytes)
            };
            let held: usize = inbox.partials.iter().filter_map(of_peer).sum();
            assert!(held <= INBOX_PEER_MAX_BYTES);
        }
        let held: usize = inbox
            .partials
            .values()
            .map(|(_, partial)| partial.bytes)
            .sum();
        assert!(held <= INBOX_MAX_BYTES);
        assert!(inbox.partials.contains_key(&(PeerId([19; 32]), [7; 32])));

        let mut outbox = Outbox::within(PLENTY);
        for blob in 0..40u8 {
            let answer = (Bytes::new(), Bytes::from(vec![0; 1 << 20]));
            outbox.keep(PEER, [blob; 32], Bytes::from_static(b"again"), answer);
        }
        assert!(outbox.get(PEER, &[0; 32]).unwrap().answer.is_none());
        assert!(outbox.get(PEER, &[39; 32]).unwrap().answer.is_some());
        assert!(outbox.get(PeerId([2; 32]), &[39; 32]).is_none());
    }

    #[test]
    fn tables_follow_the_memory_of_the_process() {
        let little = Budget::within(200_000_000);
        let mut inbox = Inbox::within(little);
        let full = vec![0; PIECE_BYTES];
        let shape = Shape::new(0, BLOB_MAX_BYTES).unwrap();
        for peer in 0..20u8 {
            for index in 0..PIECES_MAX - 1 {
                inbox.take(PeerId([peer; 32]), [peer; 32], shape, index, &full);
            }
        }
        let partials = inbox.partials.values();
        let held: usize = partials.map(|(_, partial)| partial.bytes).sum();
        assert!(held <= 2 * BLOB_MAX_BYTES, "{held}");
        assert_eq!(Landings::within(little).max, 2);
        assert_eq!(Outbox::within(little).max, 2 * BLOB_MAX_BYTES);
    }

    #[test]
    fn an_answer_lands_from_several_peers_and_outlives_a_break() {
        let (body, payload, blob, shape) = message(3, 200_000);
        let mut landings = Landings::within(PLENTY);
        assert_eq!(landings.wanted(&[9; 32]), 0);
        let landing = landings.open([9; 32], blob, shape);
        assert!(landing.put(0, &piece(&body, &payload, 0)));
        // Somebody is at it: the next begins at the end.
        assert_eq!(landings.wanted(&[9; 32]), shape.count() - 1);
        drop(landing);
        assert_eq!(landings.wanted(&[9; 32]), 1);
        let landing = landings.open([9; 32], blob, shape);
        assert_eq!(landing.have(), 1);
        for index in 1..shape.count() {
            assert!(landing.take().is_none());
            assert!(landing.put(index, &piece(&body, &payload, index)));
        }
        assert_eq!(landing.take(), Some(Ok((body, payload))));
        assert!(landing.take().is_none());
    }
}
