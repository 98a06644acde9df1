//! One chunk, one way: what a slow peer fetches is not pushed to it, and what is being pushed to it is
//! not sent once more when it asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::limits::{ASKED_MAX, ASKED_TIME};
use crate::base::{ChunkId, PeerId};
use crate::node::Transfer;
use crate::transport::Priority;

/// A chunk and the peer that it goes to.
type Way = (PeerId, ChunkId);

/// Chunks on their way to slow peers.
#[derive(Debug, Default)]
pub(super) struct Crossing {
    /// Puts under way: the batches of all lanes, so a few for each peer.
    puts: Mutex<BTreeMap<Way, Arc<Transfer>>>,
    /// What was asked for, and when.
    asked: Mutex<BTreeMap<Way, Duration>>,
}

impl Crossing {
    /// Takes note of a put for as long as the result lives.
    pub(super) fn put(&self, peer: PeerId, ids: &[ChunkId], transfer: &Arc<Transfer>) -> Put<'_> {
        let ways: Vec<Way> = ids.iter().map(|id| (peer, *id)).collect();
        let mut puts = self.puts.lock();
        puts.extend(ways.iter().map(|way| (*way, Arc::clone(transfer))));
        Put {
            crossing: self,
            ways,
        }
    }

    /// Takes note that a peer asks for a chunk; `true` where it is being put to that peer, now as
    /// urgently as what is awaited.
    pub(super) fn ask(&self, peer: PeerId, id: ChunkId, now: Duration) -> bool {
        if let Some(transfer) = self.puts.lock().get(&(peer, id)) {
            transfer.raise(Priority::Awaited);
            return true;
        }
        let mut asked = self.asked.lock();
        asked.insert((peer, id), now);
        if asked.len() > ASKED_MAX {
            let oldest = asked.iter().min_by_key(|(_, at)| **at);
            if let Some(way) = oldest.map(|(way, _)| *way) {
                asked.remove(&way);
            }
        }
        false
    }

    /// Tells whether a peer has asked for a chunk and may be receiving it.
    pub(super) fn is_asked(&self, peer: PeerId, id: ChunkId, now: Duration) -> bool {
        let mut asked = self.asked.lock();
        let at = asked.get(&(peer, id)).copied();
        let is_over = at.is_some_and(|at| now.saturating_sub(at) >= ASKED_TIME);
        if is_over {
            asked.remove(&(peer, id));
        }
        at.is_some() && !is_over
    }

    /// Forgets what a peer asked for: its session ended, or it has all of it.
    pub(super) fn forget(&self, peer: PeerId) {
        self.asked.lock().retain(|(of, _), _| *of != peer);
    }
}

/// A put under way.
#[derive(Debug)]
pub(super) struct Put<'a> {
    crossing: &'a Crossing,
    ways: Vec<Way>,
}

impl Drop for Put<'_> {
    fn drop(&mut self) {
        let mut puts = self.crossing.puts.lock();
        for way in &self.ways {
            puts.remove(way);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId([1; 32]);

    #[test]
    fn a_chunk_goes_one_way_at_a_time() {
        let (crossing, id) = (Crossing::default(), ChunkId([2; 32]));
        let transfer = Transfer::new(Priority::Background);
        let put = crossing.put(PEER, &[id], &transfer);
        assert!(crossing.ask(PEER, id, Duration::ZERO));
        assert_eq!(transfer.priority(), Priority::Awaited);
        assert!(!crossing.ask(PeerId([3; 32]), id, Duration::ZERO));
        drop(put);
        assert!(!crossing.is_asked(PEER, id, Duration::ZERO));
        assert!(!crossing.ask(PEER, id, Duration::ZERO));
        assert!(crossing.is_asked(PEER, id, Duration::from_secs(1)));
        assert!(!crossing.is_asked(PEER, id, ASKED_TIME));
        assert!(!crossing.ask(PEER, id, Duration::ZERO));
        crossing.forget(PEER);
        assert!(!crossing.is_asked(PEER, id, Duration::ZERO));
        for n in 0..ASKED_MAX + 10 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_le_bytes());
            crossing.ask(PEER, ChunkId(id), Duration::from_secs(n as u64));
        }
        assert_eq!(crossing.asked.lock().len(), ASKED_MAX);
    }
}
