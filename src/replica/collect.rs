//! Collection: giving up chunks that nothing names any more.
//!
//! A member that reads looks through all that names chunks: files, what undo may bring back, what is
//! known and not folded, what is being written. What it holds and none of these names may go where an op
//! cannot come that names it. There are two ways to such an op:
//!
//! - its author put the chunk anew. Then it counts on no copy that was confirmed before: it asks all
//!   holders again, and tells the newest record that it knows, `asked`. The op is built on that record or
//!   one before it, so it is folded here by the time when the base line has passed `asked`.
//! - its author found the chunk named in its own rows. What the base line has passed all authors have
//!   folded, and what was removed behind it undo still names here.
//!
//! So a chunk goes that nothing names, whose `asked` is below the base line. One that was asked for since
//! stays, whoever asked: its author keeps it, too, until it is confirmed again.
//!
//! A peer without keys asks a member that reads which of its chunks are named.

use std::sync::Arc;
use std::time::Duration;

use super::limits::{COLLECT_SLICE, NAMED_TIMEOUT, TELL_TIMEOUT};
use super::peers::{Answer, Ask};
use super::{Replica, ReplicaError};
use crate::base::{ChunkId, ChunkSet, PeerId};

/// How long it is known that nothing names a chunk before it goes, at least: an open file that others
/// removed, and that is to be brought back, is told to its holders within that time.
pub const UNNAMED_MIN: Duration = Duration::from_secs(30);

/// What names chunks, at one moment.
#[derive(Debug, Default)]
pub struct Named {
    /// The record below which no op on its way was issued.
    pub base_line: u64,
    /// What files name, and what is about to be.
    pub files: ChunkSet,
    /// What is named beside that as somebody may look back to it.
    pub past: ChunkSet,
}

impl Named {
    /// Tells whether anything names a chunk.
    pub fn has(&self, id: &ChunkId) -> bool {
        self.files.has(id) || self.past.has(id)
    }
}

/// Tells what names chunks, for peers that cannot see it.
pub trait Names: Send + Sync {
    /// Returns it as of a moment ago; `None` where that cannot be told now. May take seconds.
    fn named(&self) -> Option<Arc<Named>>;

    /// Takes note that a peer says that there is something to collect.
    fn collect(&self, from: PeerId);
}

/// When chunks go that nothing names.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The time, milliseconds since 1970.
    pub now_ms: u64,
    /// How long it must be known that nothing names one.
    pub wait_ms: u64,
    /// The record below which no op on its way was issued.
    pub base_line: u64,
}

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Chunks that were given up.
    pub count: u64,
    /// Their sealed bytes.
    pub bytes: u64,
    /// Chunks that nothing names and that go later.
    pub waiting: u64,
    /// Their sealed bytes.
    pub waiting_bytes: u64,
    /// Sealed bytes of the chunks that no file names, and that somebody may look back to.
    pub past_bytes: u64,
    /// When the first of those that wait for their time goes, milliseconds since 1970.
    pub next_ms: Option<u64>,
    /// Some wait until the base line has passed what is asked for.
    pub is_blocked: bool,
}

/// A collection that goes on: chunks that are put from its beginning on are not given up by it.
#[derive(Debug)]
pub struct Collection<'a> {
    replica: &'a Replica,
}

impl Collection<'_> {
    /// Gives up what may go of all that is here.
    pub fn run(&self, named: &Named, terms: &Terms) -> Result<Collected, ReplicaError> {
        let mut collected = Collected::default();
        let mut from = Some(super::ledger::FIRST);
        while let Some(start) = from {
            let ids = self.replica.ledger.ids_from(start, COLLECT_SLICE)?;
            from = ids.last().and_then(super::ledger::after);
            for id in &ids {
                if named.past.has(id) && !named.files.has(id) {
                    let holding = self.replica.ledger.holding(id)?;
                    collected.past_bytes += holding.map_or(0, |holding| u64::from(holding.len));
                }
            }
            let ids: Vec<_> = ids.into_iter().map(|id| (id, named.has(&id))).collect();
            self.replica.ledger.collect(&ids, terms, &mut collected)?;
        }
        Ok(collected)
    }
}

impl Drop for Collection<'_> {
    fn drop(&mut self) {
        self.replica.ledger.note_authored(false);
        self.replica.changed();
    }
}

impl Replica {
    /// Begins a collection.
    ///
    /// It ends when the value is dropped. One at a time.
    pub fn collection(&self) -> Collection<'_> {
        self.ledger.note_authored(true);
        Collection { replica: self }
    }

    /// Says who tells others what names chunks.
    pub fn set_names(&self, names: Arc<dyn Names>) {
        let _ = self.names.set(names);
    }

    /// Asks the holders again for chunks that own ops name which were issued behind record `record`.
    pub fn renew(&self, ids: &[ChunkId], record: u64) -> Result<(), ReplicaError> {
        let asked = self.newest_record();
        let plan = |id: &ChunkId| self.view().plan(id);
        if self.ledger.renew(ids, record, asked, &plan)? {
            self.changed();
        }
        Ok(())
    }

    /// Gives up what may go of all that is here, by what a member that reads says: for a peer that cannot
    /// see what names chunks. Returns `None` where `of` did not answer to the end.
    pub async fn collect_by(
        self: &Arc<Self>,
        of: PeerId,
        now_ms: u64,
        wait_ms: u64,
    ) -> Result<Option<Collected>, ReplicaError> {
        let Some(peers) = self.peers.clone() else {
            return Ok(None);
        };
        let _collection = self.collection();
        let mut collected = Collected::default();
        let mut from = Some(super::ledger::FIRST);
        while let Some(start) = from {
            let ids = self.ledger.ids_from(start, COLLECT_SLICE)?;
            let Some(last) = ids.last() else {
                break;
            };
            from = super::ledger::after(last);
            let asked = peers.ask(of, Ask::Named(ids.clone()), NAMED_TIMEOUT).await;
            let Ok(Answer::Named { base_line, named }) = asked else {
                return Ok(None);
            };
            if named.len() != ids.len() {
                return Ok(None);
            }
            let terms = Terms {
                now_ms,
                wait_ms,
                base_line,
            };
            let ids: Vec<_> = ids.into_iter().zip(named).collect();
            self.ledger.collect(&ids, &terms, &mut collected)?;
        }
        Ok(Some(collected))
    }

    /// Tells a peer that there is something to collect.
    pub async fn tell_to_collect(&self, peer: PeerId) {
        if let Some(peers) = &self.peers {
            // Who misses this looks by itself, later.
            let _ = peers.ask(peer, Ask::Collect, TELL_TIMEOUT).await;
        }
    }

    /// Answers which of some chunks are named.
    pub(super) fn serve_named(&self, ids: &[ChunkId]) -> Option<Answer> {
        let named = self.names.get()?.named()?;
        Some(Answer::Named {
            base_line: named.base_line,
            named: ids.iter().map(|id| named.has(id)).collect(),
        })
    }

    /// Returns the newest record of the chain that this peer knows.
    pub(super) fn newest_record(&self) -> u64 {
        self.peers.as_ref().map_or(0, |peers| peers.newest_record())
    }
}
