//! The core under a model checker: every interleaving of deliveries (what was sent may come never,
//! twice, in any order), campaigns, proposals, crashes and restored folders, within bounds.
//!
//! `DFS_CHECK_DEEP=1` checks larger bounds, for some minutes in a release build.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use stateright::{Checker, Model, Property};

use super::super::core::Core;
use super::super::{Message, Record, Row, Voter};
use super::{Stub, first_row, genesis, next, volume_of, voters};
use crate::base::{DeviceId, VolumeId};

/// What may happen at most.
#[derive(Clone)]
struct Bounds {
    genesis: Record,
    volume: VolumeId,
    /// Whom a record may name as voters, beside those that there are.
    change: Option<Vec<Voter>>,
    /// Who campaigns. Of voters that are alike two are as good as three: who the third is in a
    /// history of two campaigns is but a name.
    leaders: Vec<DeviceId>,
    campaigns: u8,
    crashes: u8,
    /// How often a folder is put back as it was at first.
    restores: u8,
    records: u64,
}

const DEVICES: [u64; 3] = [1, 2, 3];

/// A value with its hash, so that a state of which a part changed hashes that part alone.
#[derive(Debug)]
struct Hashed<T> {
    value: T,
    hash: u64,
}

impl<T: Hash> Hashed<T> {
    fn new(value: T) -> Arc<Self> {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        let hash = hasher.finish();
        Arc::new(Self { value, hash })
    }
}

impl<T> Hash for Hashed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl<T> PartialEq for Hashed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

type Packet = (DeviceId, DeviceId, Message);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    core: Core,
    /// The row as it is after a crash.
    disk: Row,
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct State {
    nodes: Vec<Arc<Hashed<Node>>>,
    /// All that was ever sent: a delivery takes nothing out. In the order of the hashes.
    net: Vec<Arc<Hashed<Packet>>>,
    decided: BTreeSet<(u64, [u8; 32])>,
    changed: bool,
    campaigns: u8,
    crashes: u8,
    restores: u8,
}

#[derive(Debug, Clone, PartialEq)]
enum Action {
    Deliver(Arc<Hashed<Packet>>),
    Campaign(usize),
    Propose(usize, bool),
    Resend(usize),
    Crash(usize),
    Restore(usize),
}

impl Bounds {
    /// Does what a call left to do.
    fn settle(&self, state: &mut State, index: usize, mut node: Node) {
        let me = node.core.row().own.device;
        let output = node.core.poll();
        if let Some(row) = output.row.filter(|_| output.must_sync) {
            node.disk = row;
        }
        for (to, message) in output.messages {
            // What only makes others hurry is left out; decided records are told below.
            let is_moot = matches!(
                message,
                Message::Behind { .. } | Message::Decided { .. } | Message::Refused { .. }
            );
            if !is_moot {
                send(state, (me, to, message));
            }
        }
        for (record, certificate) in output.decided {
            state.decided.insert((record.number, record.hash()));
            state.changed |= Some(&record.voters) == self.change.as_ref();
            // Who knows a decided record tells everybody.
            for to in DEVICES.map(DeviceId) {
                let message = Message::Decided {
                    record: record.clone(),
                    certificate: certificate.clone(),
                };
                send(state, (DeviceId(0), to, message));
            }
        }
        state.nodes[index] = Hashed::new(node);
    }
}

fn send(state: &mut State, packet: Packet) {
    let packet = Hashed::new(packet);
    if let Err(at) = state.net.binary_search_by_key(&packet.hash, |p| p.hash) {
        state.net.insert(at, packet);
    }
}

impl Model for Bounds {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let node = |device| {
            let row = first_row(device, &self.genesis);
            let core = Core::new(self.volume, row.clone(), 0);
            Hashed::new(Node { core, disk: row })
        };
        vec![State {
            nodes: DEVICES.map(node).into(),
            net: Vec::new(),
            decided: BTreeSet::new(),
            changed: false,
            campaigns: 0,
            crashes: 0,
            restores: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(state.net.iter().cloned().map(Action::Deliver));
        for (index, node) in state.nodes.iter().enumerate() {
            let core = &node.value.core;
            let may_lead = core.is_voter() && self.leaders.contains(&core.row().own.device);
            if state.campaigns < self.campaigns && may_lead && !core.is_recalling() {
                actions.push(Action::Campaign(index));
            }
            if core.is_free() && core.tip().at.number < self.records {
                actions.push(Action::Propose(index, false));
                let change = self.change.as_ref();
                if change.is_some_and(|change| *change != core.tip().voters) {
                    actions.push(Action::Propose(index, true));
                }
            }
            if core.is_recalling() {
                actions.push(Action::Resend(index));
            }
            if state.crashes < self.crashes {
                actions.push(Action::Crash(index));
            }
            if state.restores < self.restores {
                actions.push(Action::Restore(index));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let (mut campaigns, mut crashes, mut restores) = (0, 0, 0);
        let index = match &action {
            Action::Deliver(packet) => packet.value.1.0 as usize - 1,
            Action::Campaign(index)
            | Action::Propose(index, _)
            | Action::Resend(index)
            | Action::Crash(index)
            | Action::Restore(index) => *index,
        };
        let before = &last.nodes[index].value;
        let mut node = before.clone();
        let notary = Stub(node.core.row().own.device);
        match action {
            Action::Deliver(packet) => {
                let (from, _, message) = &packet.value;
                node.core.step(*from, message.clone(), &notary);
            }
            Action::Campaign(_) => {
                campaigns = 1;
                node.core.campaign(&notary);
            }
            Action::Propose(_, changes) => {
                let tip = node.core.tip();
                let voters = if changes {
                    self.change.clone()?
                } else {
                    tip.voters.clone()
                };
                // No two leaders want the same, nor does one at another ballot.
                let round = node.core.leads()?.round;
                let record = next(tip, notary.0.0 * 100 + round, voters);
                assert!(node.core.propose(record, &notary));
            }
            Action::Resend(_) => node.core.resend(&notary),
            Action::Crash(_) => {
                crashes = 1;
                node.core = Core::new(self.volume, node.disk.clone(), 0);
            }
            Action::Restore(_) => {
                restores = 1;
                let mut row = first_row(notary.0.0, &self.genesis);
                row.is_unsure = true;
                let nonce = u64::from(last.restores) + 1;
                node.core = Core::new(self.volume, row.clone(), nonce);
                node.disk = row;
            }
        }
        if node == *before && crashes + restores == 0 {
            return None;
        }
        let mut state = last.clone();
        state.campaigns += campaigns;
        state.crashes += crashes;
        state.restores += restores;
        self.settle(&mut state, index, node);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one record a number", |_, state: &State| {
                let numbers: BTreeSet<u64> = state.decided.iter().map(|(n, _)| *n).collect();
                numbers.len() == state.decided.len()
            }),
            Property::always("nothing accepted above the promise", |_, state: &State| {
                state.nodes.iter().all(|node| {
                    let row = node.value.core.row();
                    let accepted = row.accepted.as_ref();
                    accepted.is_none_or(|(ballot, _)| *ballot <= row.promised)
                })
            }),
            Property::sometimes("all records are decided", |bounds: &Self, state: &State| {
                state.decided.iter().any(|(n, _)| *n == bounds.records)
            }),
            Property::sometimes("the voters change", |bounds: &Self, state: &State| {
                bounds.change.is_none() || state.changed
            }),
            Property::sometimes(
                "who was restored votes again",
                |bounds: &Self, state: &State| {
                    let is_unsure = |node: &Arc<Hashed<Node>>| node.value.core.is_recalling();
                    bounds.restores == 0 || state.restores > 0 && !state.nodes.iter().any(is_unsure)
                },
            ),
        ]
    }
}

fn begin_with(devices: &[u64]) -> Bounds {
    let genesis = genesis(devices);
    Bounds {
        volume: volume_of(&genesis),
        genesis,
        change: None,
        leaders: vec![DeviceId(1), DeviceId(2)],
        campaigns: 2,
        crashes: 0,
        restores: 0,
        records: 1,
    }
}

fn is_deep() -> bool {
    std::env::var_os("DFS_CHECK_DEEP").is_some()
}

/// Checks all states within the bounds, or the first `states_max` of them in breadth.
fn check(name: &str, bounds: Bounds, states_max: Option<usize>) {
    let mut checker = bounds.checker().threads(1);
    if let Some(states_max) = states_max {
        checker = checker.target_state_count(states_max);
    }
    let checker = checker.spawn_bfs().join();
    println!(
        "{name}: {} states, {} of them different, depth {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
    );
    match states_max {
        None => checker.assert_properties(),
        Some(_) => {
            checker.assert_no_discovery("one record a number");
            checker.assert_no_discovery("nothing accepted above the promise");
        }
    }
}

#[test]
fn three_voters_decide_one_record() {
    check("three voters", begin_with(&DEVICES), None);
}

#[test]
fn three_voters_decide_one_record_through_a_crash() {
    let bounds = Bounds {
        crashes: 1,
        ..begin_with(&DEVICES)
    };
    check("a crash", bounds, None);
}

#[test]
fn one_voter_names_three() {
    let bounds = Bounds {
        change: Some(voters(&DEVICES)),
        leaders: DEVICES.map(DeviceId).into(),
        records: 2,
        ..begin_with(&[1])
    };
    check("1 -> 3", bounds, None);
}

#[test]
fn one_voter_names_three_through_a_crash() {
    let bounds = Bounds {
        change: Some(voters(&DEVICES)),
        leaders: DEVICES.map(DeviceId).into(),
        crashes: 1,
        records: 2,
        ..begin_with(&[1])
    };
    let states_max = (!is_deep()).then_some(100_000);
    check("1 -> 3 through a crash", bounds, states_max);
}

#[test]
fn three_voters_name_one() {
    let bounds = Bounds {
        change: Some(voters(&[3])),
        leaders: vec![DeviceId(1), DeviceId(3)],
        records: 2,
        ..begin_with(&DEVICES)
    };
    let states_max = if is_deep() { 5_000_000 } else { 100_000 };
    check("3 -> 1", bounds, Some(states_max));
}

#[test]
fn a_restored_voter_votes_for_nothing_else() {
    let bounds = Bounds {
        restores: 1,
        ..begin_with(&DEVICES)
    };
    let states_max = (!is_deep()).then_some(100_000);
    check("a restored folder", bounds, states_max);
}

#[test]
fn deep_bounds() {
    if !is_deep() {
        return;
    }
    let two_records = Bounds {
        records: 2,
        ..begin_with(&DEVICES)
    };
    check("two records", two_records, Some(5_000_000));
    let to_three = Bounds {
        change: Some(voters(&DEVICES)),
        leaders: DEVICES.map(DeviceId).into(),
        campaigns: 3,
        crashes: 1,
        records: 2,
        ..begin_with(&[1])
    };
    check("1 -> 3 through a crash", to_three.clone(), None);
    let restored = Bounds {
        crashes: 0,
        restores: 1,
        campaigns: 2,
        ..to_three
    };
    check("1 -> 3 with a restored folder", restored, Some(5_000_000));
}
