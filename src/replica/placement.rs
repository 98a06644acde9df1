//! Where a chunk lives: a pure function of its id and of who stores.
//!
//! Weighted rendezvous hashing (Thaler and Ravishankar 1998; Schindelhauer and Schomaker 2005 for
//! the weights) among the [`K`] peers whose ids are closest to the chunk's by XOR. Every peer that
//! knows the same candidates computes the same holders, so no directory of chunks is needed, and a
//! candidate that comes or goes moves only the chunks that it gains or loses.

use crate::base::limits::K;
use crate::base::{ChunkId, PeerId};

/// A peer that stores chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Who it is.
    pub peer: PeerId,
    /// Its share relative to the others, in coarse steps so that all peers see the same; 0 holds
    /// nothing.
    pub weight: u32,
    /// Names the machine or site it is on: equal values fail together. 0 is unknown, and unlike any other.
    pub host: u64,
}

/// Returns the `r` peers that hold chunk `id`, best first; fewer where there are not so many.
pub fn holders(id: &ChunkId, candidates: &[Candidate], r: usize) -> Vec<PeerId> {
    let mut ranked = ranked(id, candidates);
    ranked.truncate(r);
    ranked
}

/// Returns the candidates among the [`K`] closest in the order in which they are chosen for chunk
/// `id`: the best of each host by score, then the rest by score.
///
/// The first R are the holders; the next ones stand in for a holder that is full.
pub fn ranked(id: &ChunkId, candidates: &[Candidate]) -> Vec<PeerId> {
    let mut near: Vec<&Candidate> = candidates.iter().filter(|c| c.weight > 0).collect();
    if near.len() > K {
        near.select_nth_unstable_by_key(K, |c| distance(id, &c.peer));
        near.truncate(K);
    }
    let mut scored: Vec<(f64, &Candidate)> = near.into_iter().map(|c| (score(id, c), c)).collect();
    // Equal scores are decided by the id, so that the order is total.
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.peer.cmp(&b.1.peer)));

    let mut hosts: Vec<u64> = Vec::with_capacity(scored.len());
    let mut first = Vec::with_capacity(scored.len());
    let mut rest = Vec::new();
    for (_, candidate) in scored {
        if candidate.host != 0 && hosts.contains(&candidate.host) {
            rest.push(candidate.peer);
        } else {
            hosts.push(candidate.host);
            first.push(candidate.peer);
        }
    }
    first.extend(rest);
    first
}

fn distance(id: &ChunkId, peer: &PeerId) -> [u8; 32] {
    let mut distance = id.0;
    for (byte, other) in distance.iter_mut().zip(peer.0) {
        *byte ^= other;
    }
    distance
}

/// Logarithmic weighted rendezvous score: -weight / ln(u) for u uniform in (0, 1).
fn score(id: &ChunkId, candidate: &Candidate) -> f64 {
    let mut hasher = blake3::Hasher::new_derive_key(SCORE_CONTEXT);
    hasher.update(&id.0);
    hasher.update(&candidate.peer.0);
    let mut first = [0u8; 8];
    hasher.finalize_xof().fill(&mut first);
    // 53 bits fill a double's mantissa; the half keeps u away from both ends.
    let u = ((u64::from_le_bytes(first) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(candidate.weight) / -u.ln()
}

/// Domain of the score's hash: another use of BLAKE3 over the same bytes yields other numbers.
const SCORE_CONTEXT: &str = "dfs 2025 placement score";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::Rng;

    fn peer(n: u32) -> PeerId {
        PeerId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    fn chunk(n: u32) -> ChunkId {
        ChunkId(*blake3::hash(&(u64::from(n) << 32).to_le_bytes()).as_bytes())
    }

    fn swarm(count: u32) -> Vec<Candidate> {
        (0..count)
            .map(|n| Candidate {
                peer: peer(n),
                weight: 1,
                host: u64::from(n) + 1,
            })
            .collect()
    }

    #[test]
    fn holders_are_distinct_and_as_many_as_there_are() {
        for count in 0..6 {
            let swarm = swarm(count);
            for n in 0..50 {
                let mut holders = holders(&chunk(n), &swarm, 3);
                assert_eq!(holders.len(), swarm.len().min(3));
                holders.sort();
                holders.dedup();
                assert_eq!(holders.len(), swarm.len().min(3));
            }
        }
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter() {
        let rng = Rng::from_seed(7);
        let swarm = swarm(40);
        for n in 0..100 {
            let mut shuffled = swarm.clone();
            for index in (1..shuffled.len()).rev() {
                shuffled.swap(index, rng.below(index as u64 + 1) as usize);
            }
            assert_eq!(ranked(&chunk(n), &swarm), ranked(&chunk(n), &shuffled));
        }
    }

    #[test]
    fn load_is_balanced_by_weight() {
        let mut swarm = swarm(10);
        swarm[0].weight = 4;
        swarm[1].weight = 0;
        let mut first: BTreeMap<PeerId, u32> = BTreeMap::new();
        let chunks = 20_000;
        for n in 0..chunks {
            *first.entry(holders(&chunk(n), &swarm, 1)[0]).or_default() += 1;
        }
        assert!(!first.contains_key(&swarm[1].peer));
        let unit = f64::from(chunks) / 12.0;
        for candidate in swarm.iter().filter(|c| c.weight > 0) {
            let share = f64::from(first[&candidate.peer]) / (unit * f64::from(candidate.weight));
            assert!(
                (0.9..1.1).contains(&share),
                "{candidate:?} has {share} of its share"
            );
        }
    }

    #[test]
    fn a_newcomer_takes_only_what_it_holds() {
        let before = swarm(9);
        let after = swarm(10);
        let newcomer = after[9].peer;
        let mut moved = 0;
        for n in 0..2_000 {
            let old = holders(&chunk(n), &before, 3);
            let new = holders(&chunk(n), &after, 3);
            if new.contains(&newcomer) {
                moved += 1;
                assert_eq!(new.iter().filter(|p| old.contains(p)).count(), 2);
            } else {
                assert_eq!(old, new);
            }
        }
        // Three of ten hold each chunk, so the newcomer is due 30 %.
        assert!((500..700).contains(&moved), "{moved} of 2000 moved");
    }

    #[test]
    fn one_that_leaves_is_replaced_by_the_next_in_rank() {
        let swarm = swarm(8);
        for n in 0..500 {
            let order = ranked(&chunk(n), &swarm);
            let left: Vec<Candidate> = swarm
                .iter()
                .copied()
                .filter(|c| c.peer != order[0])
                .collect();
            assert_eq!(holders(&chunk(n), &left, 3), order[1..4]);
        }
    }

    #[test]
    fn copies_go_to_distinct_hosts_first() {
        let mut swarm = swarm(9);
        for (index, candidate) in swarm.iter_mut().enumerate() {
            candidate.host = index as u64 / 3 + 1;
        }
        let host_of: BTreeMap<PeerId, u64> = swarm.iter().map(|c| (c.peer, c.host)).collect();
        for n in 0..500 {
            let mut hosts: Vec<u64> = holders(&chunk(n), &swarm, 3)
                .iter()
                .map(|p| host_of[p])
                .collect();
            hosts.sort_unstable();
            assert_eq!(hosts, [1, 2, 3]);
        }
        // Two hosts cannot carry three copies apart: the third goes beside one of them.
        let two: Vec<Candidate> = swarm.into_iter().filter(|c| c.host < 3).collect();
        assert_eq!(holders(&chunk(1), &two, 3).len(), 3);
    }

    #[test]
    fn beyond_k_only_the_closest_are_considered() {
        let swarm = swarm(100);
        for n in 0..50 {
            let id = chunk(n);
            let mut by_distance: Vec<PeerId> = swarm.iter().map(|c| c.peer).collect();
            by_distance.sort_by_key(|p| distance(&id, p));
            let order = ranked(&id, &swarm);
            assert_eq!(order.len(), K);
            assert!(order.iter().all(|p| by_distance[..K].contains(p)));
        }
    }
}
