//! Chains that part: a peer fetches the other one and goes over to it where that counts, and fetches
//! the records of others on which segments stand that it is handed.

use std::sync::Arc;

use bytes::Bytes;

use super::Node;
use super::session::Session;
use super::sync::BATCH_TIMEOUT;
use super::transfer::Transfer;
use crate::base::PeerId;
use crate::log::LogError;
use crate::transport::Priority;
use crate::wire::limits::{LINKS_BATCH_BYTES, LINKS_MAX};
use crate::wire::{LinkBytes, RecordRef, Request, Response};

/// Most bytes of another chain that are weighed at once: some 70,000 records. Where both are longer from
/// where they part, and of one era, the one that is here stays.
const BRANCH_MAX_BYTES: usize = 32 << 20;

impl Node {
    /// Fetches the chain of a peer from where it parts from the own one, and goes over to it where it
    /// counts; says whether it did.
    pub(super) async fn pull_branch(
        self: &Arc<Self>,
        session: &Arc<Session>,
        theirs: RecordRef,
    ) -> bool {
        let fetched = self.fetch_branch(session, theirs).await;
        let apart = match &fetched {
            Ok(Some(links)) => self.chain.parts_at(links).ok().flatten(),
            Ok(None) | Err(_) => None,
        };
        // Else it follows from what the peer says that it has.
        let apart = apart.or_else(|| (!self.is_of_chain(theirs)).then_some(theirs));
        let went = match fetched {
            Ok(Some(links)) => self.weigh_branch(session, links).await,
            Ok(None) => false,
            Err(error) => {
                self.note_newer(session, &error);
                tracing::debug!(peer = %session.peer().short(), %error, "another chain is not taken");
                false
            }
        };
        let mut parted = self.parted.lock();
        if went {
            parted.clear();
        } else if let Some(apart) = apart {
            parted.insert(session.peer(), apart);
        }
        went
    }

    /// Returns the members whose chain is another one than that which counts here, as they said last.
    pub fn parted(&self) -> Vec<PeerId> {
        let known = self.parted.lock().clone();
        let has = |at: RecordRef| self.chain.has(at).unwrap_or(false);
        let is_other = |(id, apart): &(PeerId, RecordRef)| {
            let said = {
                let table = self.table.lock();
                table.peers.get(id).map(|peer| peer.chain)
            };
            // One that has not said anything since its start has what it had.
            let is_joined = |said| said != RecordRef::default() && has(said);
            said.is_some_and(|said| !is_joined(said)) && !has(*apart)
        };
        let (parted, joined): (Vec<_>, Vec<_>) = known.into_iter().partition(is_other);
        let mut known = self.parted.lock();
        for (id, _) in joined {
            known.remove(&id);
        }
        parted.into_iter().map(|(id, _)| id).collect()
    }

    /// Says whether what a peer has may be of this chain, as far as that can be told here.
    pub(super) fn is_of_chain(&self, theirs: RecordRef) -> bool {
        // One that has not said yet what it has is not apart.
        let is_told = theirs != RecordRef::default();
        let tip = self.chain.tip();
        // Behind the newest record here comes none of an era before.
        let is_ahead = theirs.number > tip.number && theirs.era >= tip.era;
        !is_told || is_ahead || self.chain.has(theirs).unwrap_or(true)
    }

    async fn fetch_branch(
        self: &Arc<Self>,
        session: &Arc<Session>,
        theirs: RecordRef,
    ) -> Result<Option<Vec<Bytes>>, LogError> {
        let tip = self.chain.tip();
        let mut after = tip.number.min(theirs.number).saturating_sub(1);
        let mut back = 1;
        let mut links = loop {
            let Some(links) = self.ask_links(session, after).await else {
                return Ok(None);
            };
            let Some(first) = links.first() else {
                return Ok(None);
            };
            if self.chain.joins(first)?.1 {
                break links;
            }
            if after == 0 {
                return Ok(None);
            }
            after = after.saturating_sub(back);
            back = back.saturating_mul(4);
        };
        let mut bytes: usize = links.iter().map(Bytes::len).sum();
        while let Some(last) = links.last() {
            let number = self.chain.joins(last)?.0;
            if number >= theirs.number || bytes >= BRANCH_MAX_BYTES {
                break;
            }
            match self.ask_links(session, number).await {
                Some(more) if !more.is_empty() => {
                    bytes += more.iter().map(Bytes::len).sum::<usize>();
                    links.extend(more);
                }
                _ => break,
            }
        }
        Ok(Some(links))
    }

    /// Takes note that a peer hands on records that only a newer program knows: they are not taken, and no
    /// offence.
    pub(super) fn note_newer(&self, session: &Session, error: &LogError) {
        if matches!(error, LogError::RecordTooNew { .. }) {
            session.note_newer();
        }
    }

    async fn weigh_branch(self: &Arc<Self>, session: &Session, links: Vec<Bytes>) -> bool {
        let node = Arc::clone(self);
        let weigh = move || {
            let roster = node.roster();
            let judge = node.chain_judge(&roster);
            let outcome = node.chain.weigh(&links, node.now(), &judge)?;
            if let Some(outcome) = &outcome {
                node.see_to(outcome)?;
            }
            Ok::<_, LogError>(outcome)
        };
        match self.config.pool.call(weigh).await {
            Some(Ok(Some(outcome))) => {
                self.follow_up(outcome);
                true
            }
            Some(Ok(None)) | None => false,
            Some(Err(error)) => {
                self.note_newer(session, &error);
                tracing::debug!(%error, "another chain is not proved");
                false
            }
        }
    }

    /// Asks for the records behind a number; `None` where no answer came.
    pub(super) async fn ask_links(
        self: &Arc<Self>,
        session: &Arc<Session>,
        after: u64,
    ) -> Option<Vec<Bytes>> {
        let room = session.inward.batch_bytes(LINKS_BATCH_BYTES) as u32;
        let request = Request::Chain { after, room };
        self.ask_for_links(session, request).await
    }

    async fn ask_for_links(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: Request,
    ) -> Option<Vec<Bytes>> {
        let transfer = Transfer::new(Priority::Log);
        let answer = self.exchange(session, request, Bytes::new(), BATCH_TIMEOUT, &transfer);
        match answer.await {
            Ok((Response::Chain { links }, _)) => {
                self.heard_from(session);
                Some(links.into_iter().map(LinkBytes::into_inner).collect())
            }
            Ok(_) => {
                self.strike(session, 1);
                None
            }
            Err(error) => {
                tracing::debug!(peer = %session.peer().short(), %error, "a pull of the chain failed");
                None
            }
        }
    }

    /// Fetches a record on which a segment of the peer builds, and those before it, as many as one message
    /// takes: who hands on a segment has them. Says whether any came.
    pub(super) async fn pull_founding(
        self: &Arc<Self>,
        session: &Arc<Session>,
        lacking: RecordRef,
    ) -> bool {
        // Another exchange may have brought it.
        let is_missing = || self.chain.lacks(lacking).ok().flatten() == Some(lacking);
        if !is_missing() {
            return true;
        }
        let tip = self.chain.tip();
        if lacking.number > tip.number && self.pull_links(session, tip).await == Some(true) {
            return true;
        }
        // It is of another chain, to which this peer does not go over.
        let room = session.inward.batch_bytes(LINKS_BATCH_BYTES) as u32;
        let request = Request::Left {
            record: lacking,
            room,
        };
        let Some(links) = self.ask_for_links(session, request).await else {
            return false;
        };
        let node = Arc::clone(self);
        let keep = move || node.chain.keep_left(lacking, &links);
        match self.config.pool.call(keep).await {
            Some(Ok(kept)) => kept || !is_missing(),
            Some(Err(error)) => {
                tracing::debug!(peer = %session.peer().short(), %error, "records are not taken");
                if matches!(error, LogError::MalformedRecord { .. }) {
                    self.strike(session, 1);
                }
                false
            }
            None => false,
        }
    }

    /// Returns a record of a chain that was left, and those before it.
    pub(super) async fn answer_left(self: &Arc<Self>, record: RecordRef, room: u32) -> Response {
        self.answer_links(room, move |chain, room| {
            chain.left_range(record, room, LINKS_MAX)
        })
        .await
    }
}
