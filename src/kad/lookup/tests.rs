//! Laws of lookups, on swarms in memory.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::base::Rng;
use crate::kad::{FAILURES_MAX, RoutingTable};

/// A swarm of peers with full routing tables, some of which do not answer.
struct Swarm {
    tables: BTreeMap<PeerId, RoutingTable>,
    dead: BTreeSet<PeerId>,
}

impl Swarm {
    /// Makes `count` peers that all met each other once, in random order.
    fn new(count: usize, rng: &Rng) -> Self {
        let ids: Vec<_> = (0..count).map(|_| PeerId(rng.bytes())).collect();
        let mut tables = BTreeMap::new();
        for local in &ids {
            let mut met = ids.clone();
            let mut table = RoutingTable::new(*local);
            while !met.is_empty() {
                let at = rng.below(met.len() as u64) as usize;
                table.seen(Contact::new(met.swap_remove(at), []), Duration::ZERO);
            }
            tables.insert(*local, table);
        }
        Self {
            tables,
            dead: BTreeSet::new(),
        }
    }

    fn kill(&mut self, share_percent: u64, rng: &Rng) {
        let dead = |_: &&PeerId| rng.below(100) < share_percent;
        self.dead = self.tables.keys().filter(dead).copied().collect();
    }

    /// Lets every peer find out, by requests, which of its contacts are dead.
    fn notice(&mut self) {
        for table in self.tables.values_mut() {
            for dead in &self.dead {
                for _ in 0..FAILURES_MAX {
                    table.failed(dead);
                }
            }
        }
    }

    /// The K peers closest to a key, dead or alive, by looking at all.
    fn closest_of_all(&self, target: &Key, local: PeerId) -> Vec<PeerId> {
        self.closest_where(target, |peer| *peer != local)
    }

    /// The K live peers closest to a key, by looking at all.
    fn closest_alive(&self, target: &Key, local: PeerId) -> Vec<PeerId> {
        self.closest_where(target, |peer| *peer != local && !self.dead.contains(peer))
    }

    fn closest_where(&self, target: &Key, is_meant: impl Fn(&PeerId) -> bool) -> Vec<PeerId> {
        let mut peers: Vec<_> = self.tables.keys().copied().filter(is_meant).collect();
        peers.sort_by_key(|peer| Key::from(*peer).distance(target));
        peers.truncate(K);
        peers
    }

    /// Runs a lookup with answers in random order; half of the dead fail at once, the others say
    /// nothing.
    fn look_up(&self, local: PeerId, target: Key, rng: &Rng) -> Lookup {
        let seeds = self.tables[&local].closest(&target, K);
        let mut lookup = Lookup::new(local, target, seeds);
        let mut now = Duration::ZERO;
        let mut asked: VecDeque<Contact> = VecDeque::new();
        for _step in 0..10_000 {
            match lookup.next(now) {
                Next::Ask(contact) => asked.push_back(contact),
                Next::Done => return lookup,
                Next::Wait { until } => {
                    assert!(until > now);
                    let at = rng.below(asked.len() as u64) as usize;
                    match asked.remove(at) {
                        None => now = until,
                        Some(contact) if !self.dead.contains(&contact.peer) => {
                            let closer = self.tables[&contact.peer].closest(&target, K);
                            lookup.on_success(&contact.peer, closer);
                        }
                        Some(contact) if rng.below(2) == 0 => lookup.on_failure(&contact.peer),
                        Some(_) => {}
                    }
                }
            }
        }
        panic!("the lookup does not end");
    }
}

fn peers(contacts: &[Contact]) -> Vec<PeerId> {
    contacts.iter().map(|contact| contact.peer).collect()
}

/// Runs lookups in a swarm of 200, and compares with what looking at all of them finds.
fn check(swarm: &Swarm, seed: u64, rng: &Rng, judge: impl Fn(&Key, PeerId, &Lookup)) {
    let locals: Vec<_> = swarm.tables.keys().copied().collect();
    for _ in 0..10 {
        let local = locals[rng.below(locals.len() as u64) as usize];
        let target = Key::new(rng.bytes());
        let lookup = swarm.look_up(local, target, rng);
        let found = lookup.closest();
        assert!(found.is_sorted_by_key(|contact| contact.key().distance(&target)));
        assert!(
            !found
                .iter()
                .any(|contact| swarm.dead.contains(&contact.peer))
        );
        println!("seed {seed}, local {local}, target {target:?}");
        judge(&target, local, &lookup);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn the_true_closest_are_found(seed: u64) {
        let rng = Rng::from_seed(seed);
        let swarm = Swarm::new(200, &rng);
        check(&swarm, seed, &rng, |target, local, lookup| {
            assert_eq!(peers(&lookup.closest()), swarm.closest_alive(target, local));
            assert!(lookup.asked() <= 2 * K, "{} asked", lookup.asked());
        });
    }

    #[test]
    fn the_true_closest_are_found_after_failures_were_noticed(seed: u64) {
        let rng = Rng::from_seed(seed);
        let mut swarm = Swarm::new(200, &rng);
        swarm.kill(30, &rng);
        swarm.notice();
        check(&swarm, seed, &rng, |target, local, lookup| {
            assert_eq!(peers(&lookup.closest()), swarm.closest_alive(target, local));
        });
    }

    /// Answers that name dead peers have less room for live ones, so what is beyond the K closest
    /// of all may be missed, and nothing nearer.
    #[test]
    fn nobody_alive_is_missed_for_failures_that_nobody_noticed(seed: u64) {
        let rng = Rng::from_seed(seed);
        let mut swarm = Swarm::new(200, &rng);
        swarm.kill(30, &rng);
        check(&swarm, seed, &rng, |target, local, lookup| {
            let mut live = swarm.closest_of_all(target, local);
            live.retain(|peer| !swarm.dead.contains(peer));
            assert!(peers(&lookup.closest()).starts_with(&live));
        });
    }

    #[test]
    fn at_most_alpha_are_asked_at_once(seed: u64) {
        let rng = Rng::from_seed(seed);
        let swarm = Swarm::new(60, &rng);
        let local = *swarm.tables.keys().next().unwrap();
        let target = Key::new(rng.bytes());
        let mut lookup = Lookup::new(local, target, swarm.tables[&local].closest(&target, K));
        let mut asked = 0;
        while let Next::Ask(_) = lookup.next(Duration::ZERO) {
            asked += 1;
        }
        prop_assert_eq!(asked, ALPHA);
    }
}

/// Returns a peer at distance `distance` from the zero key.
fn near(distance: u128) -> Contact {
    let mut id = [0; 32];
    id[16..].copy_from_slice(&distance.to_be_bytes());
    Contact::new(PeerId(id), [])
}

const LOCAL: PeerId = PeerId([0xff; 32]);
const ZERO: Duration = Duration::ZERO;

fn zero() -> Key {
    Key::new([0; 32])
}

#[test]
fn a_liar_that_invents_ever_closer_peers_cannot_hold_a_lookup_open() {
    let mut next_invented = u128::MAX;
    let mut lookup = Lookup::new(LOCAL, zero(), [near(next_invented)]);
    loop {
        match lookup.next(ZERO) {
            Next::Ask(contact) => {
                let invented = (0..1000).map(|_| {
                    next_invented -= 1;
                    near(next_invented)
                });
                lookup.on_success(&contact.peer, invented);
            }
            Next::Wait { .. } => unreachable!("every question was answered"),
            Next::Done => break,
        }
        assert!(lookup.peers.len() <= CANDIDATES_MAX + ASKED_MAX);
    }
    assert_eq!(lookup.asked(), ASKED_MAX);
}

#[test]
fn silent_peers_are_waited_for_once_and_may_answer_late() {
    let mut lookup = Lookup::new(LOCAL, zero(), (1..=4).map(near));
    for number in 1..=3 {
        assert_eq!(lookup.next(ZERO), Next::Ask(near(number)));
    }
    assert_eq!(lookup.next(ZERO), Next::Wait { until: PATIENCE });
    assert_eq!(lookup.next(PATIENCE), Next::Ask(near(4)));
    lookup.on_success(&near(2).peer, [near(9)]);
    lookup.on_success(&near(4).peer, []);
    assert_eq!(lookup.next(PATIENCE), Next::Ask(near(9)));
    lookup.on_failure(&near(9).peer);
    assert_eq!(lookup.next(PATIENCE), Next::Done);
    assert_eq!(lookup.closest(), [near(2), near(4)]);
    lookup.on_success(&near(1).peer, []);
    assert_eq!(lookup.closest(), [near(1), near(2), near(4)]);
}

#[test]
fn answers_nobody_asked_for_and_the_local_peer_count_for_nothing() {
    let mut lookup = Lookup::new(LOCAL, zero(), [near(5), Contact::new(LOCAL, [])]);
    lookup.on_success(&near(5).peer, [near(1)]);
    lookup.on_success(&near(6).peer, [near(1)]);
    lookup.on_failure(&near(5).peer);
    assert_eq!(lookup.next(ZERO), Next::Ask(near(5)));
    lookup.on_success(&near(5).peer, []);
    lookup.on_success(&near(5).peer, [near(1)]);
    assert_eq!(lookup.next(ZERO), Next::Done);
    assert_eq!(lookup.closest(), [near(5)]);
}

#[test]
fn a_lookup_from_nobody_is_done_at_once() {
    let mut lookup = Lookup::new(LOCAL, zero(), []);
    assert_eq!(lookup.next(ZERO), Next::Done);
    assert!(lookup.closest().is_empty());
}
