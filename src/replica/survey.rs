//! Asking the others where chunks are, for whoever tells it to people: the books of one peer know
//! only who confirmed to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::ledger::Kind;
use super::limits::{HOLD_SERVED_MAX, HOLD_TIMEOUT, SURVEY_PEERS_MAX};
use super::peers::{Answer, Ask, Peers};
use super::{Replica, ReplicaError};
use crate::base::task::spawn;
use crate::base::time::timeout;
use crate::base::{ChunkId, PeerId};

/// What is known of where one chunk is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// Its sealed bytes are on this peer's disk.
    pub local: bool,
    /// Peers known to hold it durably, this one included where it has to keep it; sorted.
    pub holders: Vec<PeerId>,
    /// Peers that should hold it and could not be asked; sorted.
    pub unknown: Vec<PeerId>,
    /// How many holders there should be.
    pub wanted: usize,
    /// This peer sees to it that others get it, and they have not.
    pub pending: bool,
    /// Length of the sealed bytes; 0 where the chunk is not here.
    pub len: u64,
}

/// Who answered what of each chunk.
type Answers = BTreeMap<ChunkId, (BTreeSet<PeerId>, BTreeSet<PeerId>)>;

impl Replica {
    /// Asks every peer with a session which of `ids` it holds, within `limit`, and returns that
    /// together with what the books say.
    ///
    /// A peer that has lost what it confirmed is taken off the books, so that it gets it again.
    pub async fn survey(
        self: &Arc<Self>,
        ids: &[ChunkId],
        limit: Duration,
    ) -> Result<BTreeMap<ChunkId, Whereabouts>, ReplicaError> {
        let ids: Arc<Vec<ChunkId>> = Arc::new(ids.to_vec());
        let answers = self.ask_everybody(&ids, limit).await;
        let replica = Arc::clone(self);
        let judge = move || replica.judge(&ids, &answers);
        let judged = self.pool.call(judge).await;
        judged.unwrap_or_else(|| Ok(BTreeMap::new()))
    }

    async fn ask_everybody(&self, ids: &Arc<Vec<ChunkId>>, limit: Duration) -> Answers {
        let Some(peers) = &self.peers else {
            return Answers::new();
        };
        let answers: Arc<Mutex<Answers>> = Arc::default();
        let tasks: Vec<_> = peers
            .links()
            .into_iter()
            .take(SURVEY_PEERS_MAX)
            .map(|link| {
                let (peers, ids, answers) =
                    (Arc::clone(peers), Arc::clone(ids), Arc::clone(&answers));
                spawn(async move {
                    let asked = ask_one(&peers, link.peer, &ids, &answers);
                    // What came until then counts.
                    let _ = timeout(limit, asked).await;
                })
            })
            .collect();
        for task in tasks {
            let _ = task.await;
        }
        std::mem::take(&mut *answers.lock())
    }

    fn judge(
        &self,
        ids: &[ChunkId],
        answers: &Answers,
    ) -> Result<BTreeMap<ChunkId, Whereabouts>, ReplicaError> {
        let view = self.view();
        let none = (BTreeSet::new(), BTreeSet::new());
        let mut known = BTreeMap::new();
        let mut lost: BTreeMap<PeerId, Vec<ChunkId>> = BTreeMap::new();
        for id in ids {
            let plan = view.plan(id);
            let holding = self.ledger.holding(id)?;
            let (yes, no) = answers.get(id).unwrap_or(&none);
            let mut holders = yes.clone();
            let mut place = Whereabouts {
                wanted: plan.wanted,
                ..Whereabouts::default()
            };
            if let Some(holding) = &holding {
                place.local = true;
                place.len = u64::from(holding.len);
                place.pending = holding.short;
                if holding.kind != Kind::Cached {
                    holders.insert(plan.me);
                }
                for peer in &holding.confirmed {
                    if no.contains(peer) {
                        lost.entry(*peer).or_default().push(*id);
                    } else if view.is_member(peer) {
                        holders.insert(*peer);
                    }
                }
            }
            let unknown = plan.targets.iter().filter(|peer| {
                **peer != plan.me && !holders.contains(*peer) && !no.contains(*peer)
            });
            place.unknown = unknown.copied().collect();
            place.unknown.sort_unstable();
            place.holders = holders.into_iter().collect();
            known.insert(*id, place);
        }
        for (peer, ids) in lost {
            self.unconfirm(peer, &ids)?;
        }
        Ok(known)
    }

    /// Books that `peer` does not hold chunks that it had confirmed; it is to get them again.
    pub(super) fn unconfirm(&self, peer: PeerId, ids: &[ChunkId]) -> Result<(), ReplicaError> {
        if self
            .ledger
            .unconfirm(peer, ids, &|id| self.view().plan(id))?
        {
            tracing::warn!(peer = %peer.short(), count = ids.len(), "a holder has lost chunks");
            self.changed();
        }
        Ok(())
    }
}

async fn ask_one(peers: &Arc<dyn Peers>, peer: PeerId, ids: &[ChunkId], answers: &Mutex<Answers>) {
    for batch in ids.chunks(HOLD_SERVED_MAX) {
        let ask = Ask::Query(batch.to_vec());
        let Ok(Answer::Hold(held)) = peers.ask(peer, ask, HOLD_TIMEOUT).await else {
            return;
        };
        if held.len() != batch.len() {
            return;
        }
        let mut answers = answers.lock();
        for (id, held) in batch.iter().zip(held) {
            let (yes, no) = answers.entry(*id).or_default();
            if held { yes } else { no }.insert(peer);
        }
    }
}
