//! Collection: giving up chunks that nothing names any more.
//!
//! A member that reads looks through all that names chunks: files, what undo may bring back, history and
//! snapshots, what is known and not folded, what is being written. What it holds and none of these names may go where an op
//! cannot come that names it. There are two ways to such an op:
//!
//! - its author put the chunk anew. Then it counts on no copy that was confirmed before: it asks all
//!   holders again, and tells the newest record that it knows, `asked`. The op is built on that record or
//!   one before it, so it is folded here by the time when the base line has passed `asked`.
//! - its author found the chunk named in its own rows. What the base line has passed all authors have
//!   folded, and what was removed behind it undo still names here.
//!
//! A snapshot's op names what its author's rows named when it was begun: nothing is folded there until it is
//! issued, so no base line has passed a removal by then that is not behind it, and undo names it everywhere.
//!
//! So a chunk goes that nothing names, whose `asked` is below the base line. One that was asked for since
//! stays, whoever asked: its author keeps it, too, until it is confirmed again.
//!
//! A peer without keys asks a member that reads which of its chunks are named.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::limits::{COLLECT_SLICE, NAMED_TIMEOUT, TELL_TIMEOUT};
use super::peers::{Answer, Ask, Peers};
use super::{Replica, ReplicaError};
use crate::base::{ChunkId, ChunkSet, PeerId};

/// How long it is known that nothing names a chunk before it goes, at least: between two looks at what is named
/// lies so much, and a file that is open while others remove it is fetched by then.
pub const UNNAMED_MIN: Duration = Duration::from_secs(30);

/// What names chunks, at one moment.
#[derive(Debug, Default)]
pub struct Named {
    /// The record below which no op on its way was issued.
    pub base_line: u64,
    /// No other device issues ops.
    pub is_alone: bool,
    /// What files name, and what is being written.
    pub files: ChunkSet,
    /// What is named beside that as somebody may look back to it.
    pub past: ChunkSet,
    /// What can be had back one day names.
    pub history: ChunkSet,
    /// What was named while it was looked.
    pub noted: ChunkSet,
}

impl Named {
    /// Tells whether anything names a chunk.
    pub fn has(&self, id: &ChunkId) -> bool {
        let sets = [&self.files, &self.past, &self.history, &self.noted];
        sets.iter().any(|set| set.has(id))
    }
}

/// Tells what names chunks, for peers that cannot see it.
pub trait Names: Send + Sync {
    /// Returns it as of a moment ago; `None` where that cannot be told now, and may be in a while. Waits for
    /// nothing.
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
    /// Sealed bytes of the chunks that nothing names but what can be had back.
    pub kept_bytes: u64,
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
                let (is_past, is_kept) = (named.past.has(id), named.history.has(id));
                if (is_past || is_kept) && !named.files.has(id) {
                    let holding = self.replica.ledger.holding(id)?;
                    let bytes = holding.map_or(0, |holding| u64::from(holding.len));
                    match is_past {
                        true => collected.past_bytes += bytes,
                        false => collected.kept_bytes += bytes,
                    }
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

    /// Gives up what may go of what is here from a chunk on, by what a member that reads says: for a peer that
    /// cannot see what names chunks. Returns where to go on where `of` did not answer to the end. `lost` has
    /// since when nothing names chunks that the disk lost.
    pub async fn collect_by(
        self: &Arc<Self>,
        of: PeerId,
        terms: &Terms,
        from: Option<ChunkId>,
        collected: &mut Collected,
        lost: &mut BTreeMap<ChunkId, u64>,
    ) -> Result<Option<ChunkId>, ReplicaError> {
        let Some(peers) = self.peers.clone() else {
            return Ok(None);
        };
        let _collection = self.collection();
        let mut next = Some(from.unwrap_or(super::ledger::FIRST));
        while let Some(start) = next {
            let ids = self.ledger.ids_from(start, COLLECT_SLICE)?;
            let Some(last) = ids.last() else {
                break;
            };
            let after = super::ledger::after(last);
            let Some((base_line, named)) = ask_which(&peers, of, &ids).await else {
                return Ok(Some(start));
            };
            let terms = Terms {
                // Nobody is believed that more is behind everybody than the chain itself says.
                base_line: base_line.min(terms.base_line),
                ..*terms
            };
            let ids: Vec<_> = ids.into_iter().zip(named).collect();
            self.ledger.collect(&ids, &terms, collected)?;
            next = after;
        }
        // What the disk lost and nothing names for as long is not looked for any more.
        let mut unnamed = BTreeMap::new();
        for ids in self.ledger.missing().chunks(COLLECT_SLICE) {
            if let Some((_, named)) = ask_which(&peers, of, ids).await {
                let ids = ids.iter().zip(named).filter(|(_, is_named)| !is_named);
                unnamed.extend(ids.map(|(id, _)| {
                    let since = lost.get(id).copied().unwrap_or(terms.now_ms);
                    (*id, since)
                }));
            }
        }
        let is_over = |since: &u64| since.saturating_add(terms.wait_ms) <= terms.now_ms;
        let over: Vec<ChunkId> = unnamed
            .iter()
            .filter(|(_, since)| is_over(since))
            .map(|(id, _)| *id)
            .collect();
        self.give_up_missing(&over)?;
        *lost = unnamed;
        Ok(None)
    }

    /// Keeps those of some chunks that are here from being evicted, until others are named so: this machine
    /// alone may name them, whatever all have folded, and the holders give up what nobody else names. Returns
    /// those that are not here.
    pub fn pin(&self, ids: HashSet<ChunkId>) -> Result<Vec<ChunkId>, ReplicaError> {
        let mut elsewhere = Vec::new();
        for id in &ids {
            if self.ledger.holding(id)?.is_none() {
                elsewhere.push(*id);
            }
        }
        self.ledger.pin(ids);
        Ok(elsewhere)
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

/// Asks a member which of some chunks are named; `None` where it does not say so.
async fn ask_which(
    peers: &Arc<dyn Peers>,
    of: PeerId,
    ids: &[ChunkId],
) -> Option<(u64, Vec<bool>)> {
    let asked = peers.ask(of, Ask::Named(ids.to_vec()), NAMED_TIMEOUT).await;
    match asked {
        Ok(Answer::Named { base_line, named }) if named.len() == ids.len() => {
            Some((base_line, named))
        }
        _ => None,
    }
}
