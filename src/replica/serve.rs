//! Answers to other peers' questions about chunks.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::ledger::Kind;
use super::limits::{HOLD_SERVED_MAX, PART_MAX_BYTES, RECORDS_AHEAD_MAX};
use super::peers::{Answer, Ask, PutOutcome};
use super::{Replica, ReplicaError, is_chunk};
use crate::base::{ChunkId, PeerId};
use crate::crypto::ProvenPart;
use crate::store::StoreError;

impl Replica {
    /// Answers a question of another peer; `None` refuses it.
    ///
    /// Hashing and the disk are left to the pool. What is confirmed is durable.
    pub async fn serve(self: &Arc<Self>, from: PeerId, ask: Ask) -> Option<Answer> {
        let replica = Arc::clone(self);
        match ask {
            Ask::Get(id) if self.crossing.ask(from, id, self.clock.monotonic()) => {
                Some(Answer::Coming)
            }
            Ask::Get(id) => match self.read_on_pool(id).await {
                Ok(found) => Some(Answer::Get(found)),
                Err(ReplicaError::Corrupt { .. }) => Some(Answer::Get(None)),
                Err(error) => {
                    tracing::warn!(%id, %error, "a chunk cannot be served");
                    None
                }
            },
            Ask::GetPart(id, wanted) if wanted.len() <= PART_MAX_BYTES => {
                let cut = self
                    .pool
                    .call(move || replica.cut_part(id, &wanted))
                    .await?;
                cut.map(Answer::GetPart)
                    .inspect_err(|error| tracing::warn!(%id, %error, "a chunk cannot be served"))
                    .ok()
            }
            Ask::GetPart(..) => None,
            Ask::Hold(ids, asked) if ids.len() <= HOLD_SERVED_MAX => {
                let serve = move || replica.serve_hold(&ids, asked);
                let held = self.pool.call(serve).await?;
                held.map(Answer::Hold)
                    .inspect_err(|error| tracing::warn!(%error, "a question is not answered"))
                    .ok()
            }
            Ask::Query(ids) if ids.len() <= HOLD_SERVED_MAX => {
                let held = self.pool.call(move || replica.serve_query(&ids)).await?;
                held.map(Answer::Hold)
                    .inspect_err(|error| tracing::warn!(%error, "a question is not answered"))
                    .ok()
            }
            Ask::Lost(ids) if ids.len() <= HOLD_SERVED_MAX => {
                let noted = self
                    .pool
                    .call(move || replica.unconfirm(from, &ids))
                    .await?;
                noted
                    .inspect_err(|error| tracing::warn!(%error, "a loss is not noted"))
                    .ok()
                    .map(|()| Answer::Noted)
            }
            Ask::Named(ids) if ids.len() <= HOLD_SERVED_MAX => self.serve_named(&ids),
            Ask::Collect => {
                self.names.get()?.collect(from);
                Some(Answer::Noted)
            }
            Ask::Hold(..) | Ask::Query(_) | Ask::Lost(_) | Ask::Named(_) => None,
            Ask::Put(chunks, asked) => {
                self.pool
                    .call(move || Answer::Put(replica.serve_put(chunks, asked)))
                    .await
            }
        }
    }

    /// Cuts a part out of a local chunk, which is checked against its id on the way.
    fn cut_part(
        &self,
        id: ChunkId,
        wanted: &Range<usize>,
    ) -> Result<Option<ProvenPart>, ReplicaError> {
        let sealed = match self.get_unchecked(id) {
            Ok(Some(sealed)) => sealed,
            Ok(None) | Err(ReplicaError::Corrupt { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match ProvenPart::of(&sealed, wanted) {
            (found, part) if found == id => Ok(Some(part)),
            _ => match self.note_damage::<ProvenPart>(id) {
                Err(ReplicaError::Corrupt { .. }) => Ok(None),
                noted => noted,
            },
        }
    }

    /// Reads a local chunk on the pool.
    pub(super) async fn read_on_pool(
        self: &Arc<Self>,
        id: ChunkId,
    ) -> Result<Option<Bytes>, ReplicaError> {
        let replica = Arc::clone(self);
        let read = self.pool.call(move || replica.get_local(id)).await;
        // A job that panicked read nothing.
        read.unwrap_or(Ok(None))
    }

    fn serve_query(&self, ids: &[ChunkId]) -> Result<Vec<bool>, ReplicaError> {
        let keeps = |id: &ChunkId| {
            let holding = self.ledger.holding(id)?;
            let is_kept = holding.is_some_and(|holding| holding.kind != Kind::Cached);
            Ok(is_kept && self.store.chunks.len(*id)?.is_some())
        };
        ids.iter().map(keeps).collect()
    }

    fn serve_hold(&self, ids: &[ChunkId], asked: u64) -> Result<Vec<bool>, ReplicaError> {
        let mut present = Vec::with_capacity(ids.len());
        for id in ids {
            present.push(self.store.chunks.len(*id)?.is_some());
        }
        let booked = self.ledger.hold(ids, self.bounded(asked))?;
        let held: Vec<bool> = present
            .into_iter()
            .zip(booked)
            .map(|(a, b)| a && b)
            .collect();
        if held.contains(&true) {
            self.store.sync()?;
            self.changed();
        }
        Ok(held)
    }

    fn serve_put(&self, chunks: Vec<(ChunkId, Bytes)>, asked: u64) -> Vec<PutOutcome> {
        let mut outcomes: Vec<PutOutcome> = chunks
            .iter()
            .map(|(id, sealed)| self.take(*id, sealed, asked))
            .collect();
        if outcomes.contains(&PutOutcome::Stored) {
            if let Err(error) = self.store.sync() {
                tracing::warn!(%error, "chunks of another peer could not be synced");
                for outcome in &mut outcomes {
                    if *outcome == PutOutcome::Stored {
                        *outcome = PutOutcome::Failed;
                    }
                }
            }
            self.changed();
        }
        outcomes
    }

    /// Keeps one chunk of another peer, not yet durable.
    fn take(&self, id: ChunkId, sealed: &[u8], asked: u64) -> PutOutcome {
        if !is_chunk(&id, sealed) {
            return PutOutcome::Corrupt;
        }
        match self.take_checked(id, sealed, self.bounded(asked)) {
            Ok(outcome) => outcome,
            Err(ReplicaError::Store(error)) if matches!(*error, StoreError::Full) => {
                PutOutcome::Full
            }
            Err(error) => {
                tracing::warn!(%id, %error, "a chunk of another peer could not be stored");
                PutOutcome::Failed
            }
        }
    }

    /// Returns the record that a peer says it knows, or what it may know at most: others may be ahead of
    /// this one, and nobody is to keep chunks here for ever.
    fn bounded(&self, asked: u64) -> u64 {
        asked.min(self.newest_record().saturating_add(RECORDS_AHEAD_MAX))
    }

    fn take_checked(
        &self,
        id: ChunkId,
        sealed: &[u8],
        asked: u64,
    ) -> Result<PutOutcome, ReplicaError> {
        if self.ledger.holding(&id)?.is_none() {
            if !self.has_room(sealed.len()) {
                return Ok(PutOutcome::Full);
            }
            self.store.chunks.put(id, sealed)?;
        }
        self.ledger.keep(id, sealed, Some(asked))?;
        Ok(PutOutcome::Stored)
    }
}
