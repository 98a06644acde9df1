//! The chain in rows: what is named, in which order and how much of it at once, and what is taken of others.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Stub;
use crate::base::{DeviceId, LogId, Stamp, VolumeId};
use crate::crypto::Signature;
use crate::log::chain::fork::Footing;
use crate::log::chain::naming::Endorser;
use crate::log::chain::{
    Chain, Ending, Founding, Notary, Outcome, Proposal, Record, RecordBody, Roll, Vote,
};
use crate::log::{LogError, LogStore};
use crate::store::memory::MemoryDisk;
use crate::store::{Batch, Store, Table};
use crate::wire::{RecordRef, SealedSegment, Seen, SegmentHeader, Vector};

pub(super) const VOLUME: VolumeId = VolumeId([1; 32]);
pub(super) const ALICE: DeviceId = DeviceId(1);
pub(super) const BOB: DeviceId = DeviceId(2);
const RUN: u64 = 3;

/// A peer: its rows, its logs, its chain.
pub(super) struct Keeper {
    pub(super) store: Store,
    pub(super) log: Arc<LogStore>,
    pub(super) chain: Chain,
    /// What the others still need.
    pub(super) needed: Cell<u64>,
}

impl Keeper {
    pub(super) fn open(own: DeviceId, store: Store) -> Self {
        let founding = Founding {
            volume: VOLUME,
            founder: ALICE,
        };
        let (log, chain) = open(&store, founding, own);
        Self {
            store,
            log,
            chain,
            needed: Cell::new(0),
        }
    }

    pub(super) fn new(own: DeviceId) -> Self {
        let store = Store::memory();
        if own == ALICE {
            found(&store, ALICE);
        }
        Self::open(own, store)
    }

    pub(super) fn take(&self, segments: &[SealedSegment]) {
        let taken = self.log.accept(segments, u64::MAX / 2, &|_| Ok(()));
        assert!(taken.unwrap().refused.is_empty());
        self.chain.hold().unwrap();
    }

    /// Makes a record; says whether it names all that one may.
    pub(super) fn extend(&self) -> Option<bool> {
        let stub = Stub(self.log.own_device());
        let proposal = Proposal {
            now_ms: 7,
            needed: self.needed.get(),
            asks_checkpoint: false,
            voters: None,
            is_checkpoint: false,
        };
        let outcome = self.chain.extend(Duration::ZERO, proposal, &stub).unwrap();
        let is_full = outcome.is_full;
        self.see_to(outcome).then_some(is_full)
    }

    pub(super) fn accept(&self, links: &[Vec<u8>]) -> Result<bool, LogError> {
        let stub = Stub(self.log.own_device());
        let (outcome, taken) = self.chain.accept(links, ALICE, Duration::ZERO, &stub);
        let grew = self.see_to(outcome);
        taken.map(|()| grew)
    }

    /// Does what a step leaves to do; says whether the chain grew.
    pub(super) fn see_to(&self, outcome: Outcome) -> bool {
        let Some(tip) = outcome.grew else {
            return false;
        };
        assert!(outcome.must_sync);
        self.store.rows.sync().unwrap();
        self.chain.publish(tip);
        true
    }

    /// Returns what a record names, by the author and number of each segment.
    pub(super) fn names(&self, number: u64) -> Vec<(LogId, u64)> {
        let record = self.chain.get(number).unwrap().unwrap();
        let names = record.segments.iter();
        names.map(|name| (name.log, name.seg_no)).collect()
    }
}

fn found(store: &Store, founder: DeviceId) {
    let mut batch = Batch::new();
    let volume = VOLUME;
    Chain::found(&mut batch, Founding { volume, founder }).unwrap();
    store.rows.commit(batch).unwrap();
}

fn open(store: &Store, founding: Founding, own: DeviceId) -> (Arc<LogStore>, Chain) {
    let rows = Arc::clone(&store.rows);
    let log = Arc::new(LogStore::open(Arc::clone(&rows), VOLUME, own, RUN).unwrap());
    let (of, now) = (Arc::clone(&log), Duration::ZERO);
    let chain = Chain::open(rows, of, founding, own, now, 1).unwrap();
    (log, chain)
}

/// A notary of Alice without her key, who believes all signatures.
struct Forger;

impl Notary for Forger {
    fn sign(&self, vote: &Vote) -> Signature {
        Stub(BOB).sign(vote)
    }
    fn verify(&self, _: DeviceId, _: &Vote, _: &Signature) -> bool {
        true
    }
    fn may_begin_era(&self, _: DeviceId) -> bool {
        false
    }
    fn seniority(&self, _: DeviceId) -> Option<u64> {
        None
    }
    fn ends(&self, _: &Record, _: DeviceId) -> bool {
        false
    }
    fn endorses(&self, _: &Record) -> bool {
        true
    }
}

/// The statement `[9; 32]` ends the admission `[0; 32]`, on which all logs here stand but Alice's.
struct AllButAlice(bool);

impl Roll for AllButAlice {
    fn endings(&self) -> Vec<[u8; 32]> {
        vec![[9; 32]]
    }

    fn ending(&self, statement: &[u8; 32]) -> Option<Ending> {
        let ends = |of: [u8; 32]| Ending {
            admissions: Vec::new(),
            removed: (*statement == of).then_some([0; 32]),
        };
        self.0.then(|| ends([9; 32]))
    }

    fn line(&self, admission: &[u8; 32]) -> Vec<[u8; 32]> {
        vec![*admission]
    }
}

#[test]
fn a_removal_is_recorded_once_and_later_segments_are_named_where_somebody_built_on_them() {
    let mut alice = Keeper::new(ALICE);
    alice.chain = alice.chain.with_roll(Arc::new(AllButAlice(true)));
    let bobs = segments(BOB, 6, 1, &[]);
    alice.take(&bobs[..2]);
    // What is here by then is named with it.
    assert_eq!(alice.extend(), Some(false));
    let record = alice.chain.get(1).unwrap().unwrap();
    assert_eq!(
        (record.statements.clone(), record.segments.len()),
        (vec![[9; 32]], 2)
    );
    alice.take(&bobs[2..]);
    assert_eq!(alice.extend(), None, "it is over");
    let limits = alice.chain.limits().unwrap();
    assert_eq!(limits, Vector::from([(log_of(BOB), 2)]));
    // Carl was removed as Bob was: what he had seen counts where somebody else has seen Carl.
    let carls = segments(DeviceId(3), 1, 1, &[&bobs[4]]);
    alice.take(&carls);
    assert_eq!(alice.extend(), None);
    let mut own = segments(ALICE, 1, 1, &[&carls[0]]);
    own[0].header.admission = Some([5; 32]);
    alice.take(&own);
    // Before a record names it, too: so far what Bob wrote is taken of others.
    let reach = alice.chain.reach().unwrap();
    assert_eq!(reach.get(&log_of(BOB)), Some(&5));
    assert_eq!(reach.get(&log_of(DeviceId(3))), Some(&1));
    assert_eq!(alice.extend(), Some(false));
    let of = |number| alice.names(number).into_iter().collect::<Vector>();
    assert_eq!(
        of(2),
        Vector::from([
            (log_of(ALICE), 1),
            (log_of(BOB), 5),
            (log_of(DeviceId(3)), 1)
        ])
    );
    assert_eq!(
        alice.chain.limits().unwrap(),
        Vector::from([(log_of(BOB), 5)])
    );
    // So it is after a restart, and for who takes the records.
    let again = Keeper::open(ALICE, alice.store.clone());
    let chain = again.chain.with_roll(Arc::new(AllButAlice(true)));
    assert_eq!(chain.limits().unwrap(), Vector::from([(log_of(BOB), 5)]));
    assert!(chain.fence_at(0).is_empty() && chain.fence_at(1).ends(&[0; 32]));
    let bob = Keeper::new(BOB);
    bob.accept(&alice.chain.range(0, usize::MAX, usize::MAX).unwrap())
        .unwrap();
    let lacking = bob.chain.with_roll(Arc::new(AllButAlice(false)));
    assert!(!lacking.knows_statements_of(&record) && lacking.fence().is_empty());
    let knowing = lacking.with_roll(Arc::new(AllButAlice(true)));
    assert!(knowing.knows_statements_of(&record) && knowing.fence().ends(&[0; 32]));
}

fn ends(footing: &Footing) -> Vec<(LogId, u64)> {
    footing.ends().collect()
}

pub(super) fn log_of(device: DeviceId) -> LogId {
    LogId::of(device, RUN)
}

/// Returns a log of `count` segments of so many ops, the first of which had seen `seen`.
pub(super) fn segments(
    device: DeviceId,
    count: u64,
    ops: u32,
    seen: &[&SealedSegment],
) -> Vec<SealedSegment> {
    let mut prev = [0; 32];
    let mut log = Vec::new();
    for seg_no in 1..=count {
        let stamp = Stamp::from_ms(1_000 * device.0 + seg_no);
        let past = |segment: &&SealedSegment| Seen {
            log: segment.header.log(),
            seg_no: segment.header.seg_no,
            hash: segment.hash(),
            last: segment.header.last,
        };
        let segment = SealedSegment {
            header: SegmentHeader {
                volume: VOLUME,
                device,
                incarnation: RUN,
                origin: RUN,
                seg_no,
                admission: (seg_no == 1).then_some([0; 32]),
                prev,
                record: RecordRef::default(),
                seen: seen.iter().map(past).collect(),
                first: stamp,
                last: stamp,
                op_count: ops,
                epoch: 1,
            },
            body: Bytes::from(vec![7; 100]),
            signature: Signature([0; 64]),
        };
        prev = segment.hash();
        log.push(segment);
    }
    log
}

#[test]
fn a_record_names_what_others_build_on_first_and_each_segment_once() {
    let alice = Keeper::new(ALICE);
    let bobs = segments(BOB, 3, 1, &[]);
    let carls = segments(DeviceId(0), 2, 1, &[&bobs[2]]);
    alice.take(&carls);
    // What Carl had seen is not here: it waits, and nothing is there to name.
    assert_eq!(alice.extend(), None);
    assert_eq!(alice.chain.tip().number, 0);
    alice.take(&bobs);
    assert_eq!(alice.extend(), Some(false));
    let of = |log, numbers: &[u64]| numbers.iter().map(|n| (log, *n)).collect::<Vec<_>>();
    let expected = [
        of(log_of(BOB), &[1, 2, 3]),
        of(log_of(DeviceId(0)), &[1, 2]),
    ];
    assert_eq!(alice.names(1), expected.concat());
    assert_eq!(alice.chain.named(log_of(BOB)), 3);
    assert_eq!(alice.extend(), None, "all is named");
}

#[test]
fn a_voter_endorses_what_it_offers_in_its_order_and_nothing_else() {
    let alice = Keeper::new(ALICE);
    let voter = Keeper::new(DeviceId(5));
    let bobs = segments(BOB, 3, 1, &[]);
    let carls = segments(DeviceId(0), 1, 1, &[&bobs[1]]);
    for keeper in [&alice, &voter] {
        keeper.take(&bobs);
        keeper.take(&carls);
    }
    assert_eq!(alice.extend(), Some(false));
    let made = alice.chain.get(1).unwrap().unwrap();
    assert_eq!(made.segments.len(), 4);
    let all = voter.log.offered();
    let none = Vector::new();
    let asked = |change: &dyn Fn(&mut RecordBody), named: &Vector, offered: &Vector, knows| {
        let mut body = RecordBody::clone(&made);
        change(&mut body);
        let endorser = Endorser {
            notary: &Stub(DeviceId(5)),
            footing: &|record| voter.chain.footing(record),
            log: &voter.log,
            named,
            offered,
            roll: &AllButAlice(knows),
            base_line: 0,
        };
        endorser.endorses(&Record::new(body).unwrap())
    };
    let endorses = |change: &dyn Fn(&mut RecordBody)| asked(change, &none, &all, true);
    assert!(endorses(&|_| {}));
    assert!(endorses(&|body| body.segments.truncate(1)));
    assert!(!endorses(&|body| body.segments[0].hash = [9; 32]));
    assert!(!endorses(&|body| body.segments.swap(0, 1)));
    // Before what it builds on, and what is not here.
    assert!(!endorses(&|body| body.segments.rotate_right(1)));
    assert!(!endorses(&|body| body
        .segments
        .iter_mut()
        .for_each(|name| name.seg_no += 3)));
    // A statement that is not known here.
    let states = |body: &mut RecordBody| body.statements = vec![[9; 32]];
    assert!(endorses(&states));
    assert!(!asked(&states, &none, &all, false));
    let mut fewer = all.clone();
    fewer.insert(log_of(BOB), 2);
    assert!(!asked(&|_| {}, &none, &fewer, true), "nobody is told of it");
    let named = Vector::from([(log_of(BOB), 3)]);
    assert!(!asked(&|_| {}, &named, &all, true), "it was named before");
}

#[test]
fn a_record_names_no_more_than_it_may_and_the_next_goes_on_behind_it() {
    let alice = Keeper::new(ALICE);
    alice.take(&segments(BOB, 5, 2_000, &[]));
    assert_eq!(alice.extend(), Some(true));
    assert_eq!(alice.extend(), Some(true));
    assert_eq!(alice.extend(), Some(false));
    let numbers = |number| {
        alice
            .names(number)
            .iter()
            .map(|name| name.1)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (numbers(1), numbers(2), numbers(3)),
        (vec![1, 2], vec![3, 4], vec![5])
    );
}

#[test]
fn the_base_line_follows_what_is_needed_and_comes_to_rest() {
    let alice = Keeper::new(ALICE);
    let base_line = |number| alice.chain.get(number).unwrap().unwrap().base_line;
    let bobs = segments(BOB, 3, 1, &[]);
    for (at, segment) in bobs.iter().enumerate() {
        alice.take(std::slice::from_ref(segment));
        alice.needed.set(at as u64);
        assert_eq!(alice.extend(), Some(false));
    }
    // Their author had folded record 0 alone.
    assert_eq!((base_line(1), base_line(2), base_line(3)), (0, 0, 0));
    assert_eq!(alice.extend(), None);
    // It comes to rest in the same way, and again, behind a start in between.
    let mut copy = copy_of(&alice, ALICE);
    for (device, number) in [(4, 4), (5, 6)] {
        copy.take(&segments(DeviceId(device), 1, 1, &[]));
        assert_eq!(copy.extend(), Some(false));
        copy = Keeper::open(ALICE, copy.store);
        copy.needed.set(u64::MAX);
        assert_eq!(copy.extend(), Some(false));
        assert_eq!((copy.chain.base_line(), copy.extend()), (number, None));
    }
    // Nothing more comes, and nobody looks back to any of them.
    alice.needed.set(u64::MAX);
    assert_eq!(alice.extend(), Some(false));
    assert_eq!((base_line(4), alice.names(4).len()), (3, 0));
    assert_eq!(alice.chain.base_line(), 3);
    assert_eq!(alice.extend(), None, "what names nothing asks for no other");
    let again = Keeper::open(ALICE, alice.store.clone());
    again.needed.set(u64::MAX);
    assert_eq!(again.extend(), None);
    // It never goes back.
    again.needed.set(1);
    again.take(&segments(DeviceId(4), 1, 1, &[]));
    assert_eq!(again.extend(), Some(false));
    assert_eq!(again.chain.get(5).unwrap().unwrap().base_line, 3);
}

#[test]
fn peers_are_told_of_the_records_that_are_durable_and_of_no_others() {
    let alice = Keeper::new(ALICE);
    let first = alice.chain.tip();
    let mut tips = Vec::new();
    for device in [BOB, DeviceId(3)] {
        alice.take(&segments(device, 1, 1, &[]));
        let proposal = Proposal {
            now_ms: 7,
            needed: 0,
            asks_checkpoint: false,
            voters: None,
            is_checkpoint: false,
        };
        let outcome = alice
            .chain
            .extend(Duration::ZERO, proposal, &Stub(ALICE))
            .unwrap();
        tips.extend(outcome.grew);
    }
    assert_eq!((tips.len(), alice.chain.tip()), (2, tips[1]));
    assert_eq!(alice.chain.offered(), first);
    // A sync that ends later says nothing of what was made since.
    for (durable, offered) in [(0, 0), (1, 1), (0, 1)] {
        alice.store.rows.sync().unwrap();
        alice.chain.publish(tips[durable]);
        assert_eq!(alice.chain.offered(), tips[offered]);
    }
}

#[test]
fn a_record_that_the_disk_does_not_take_is_none_and_the_next_stands_in_its_place() {
    let disk = MemoryDisk::new();
    let store = disk.store();
    found(&store, ALICE);
    let alice = Keeper::open(ALICE, store);
    alice.take(&segments(BOB, 1, 1, &[]));
    let before = alice.chain.tip();
    for writes in 0..2 {
        disk.set_writes_left(Some(writes));
        let proposal = Proposal {
            now_ms: 7,
            needed: 0,
            asks_checkpoint: false,
            voters: None,
            is_checkpoint: false,
        };
        let failed = alice
            .chain
            .extend(Duration::ZERO, proposal, &Stub(ALICE))
            .is_err();
        if !failed {
            // So many writes are enough.
            break;
        }
        assert_eq!(alice.chain.tip(), before);
        assert_eq!(alice.chain.named(log_of(BOB)), 0);
        assert!(alice.chain.get(1).unwrap().is_none());
        assert!(!alice.chain.leads(), "it begins from what is on the disk");
    }
    disk.set_writes_left(None);
    alice.take(&segments(DeviceId(3), 1, 1, &[]));
    while alice.extend().is_some() {}
    let tip = alice.chain.tip();
    let named = [(log_of(BOB), 1), (log_of(DeviceId(3)), 1)].into();
    assert_eq!(alice.chain.all_named(), named);
    let again = Keeper::open(ALICE, alice.store.clone());
    assert_eq!((again.chain.tip(), again.chain.all_named()), (tip, named));
}

#[test]
fn only_who_decides_makes_records() {
    let bob = Keeper::new(BOB);
    bob.take(&segments(DeviceId(3), 1, 1, &[]));
    assert_eq!(bob.extend(), None);
}

#[test]
fn records_are_taken_that_continue_the_chain_and_are_there_after_a_restart() {
    let alice = Keeper::new(ALICE);
    let bobs = segments(BOB, 6, 2_000, &[]);
    alice.take(&bobs);
    while alice.extend().is_some() {}
    let links = alice.chain.range(0, usize::MAX, usize::MAX).unwrap();
    assert_eq!(links.len(), 3);
    assert_eq!(alice.chain.range(0, 1, 9).unwrap().len(), 1, "one always");
    assert_eq!(alice.chain.range(1, usize::MAX, 1).unwrap(), links[1..2]);

    let bob = Keeper::new(BOB);
    let gap = bob.accept(&links[1..]);
    assert!(
        matches!(gap, Err(LogError::Uncertified { number: 2, .. })),
        "{gap:?}"
    );
    assert!(bob.accept(&links[..2]).unwrap());
    // What is here is passed over.
    assert!(bob.accept(&links).unwrap());
    assert!(!bob.accept(&links).unwrap());
    assert_eq!(bob.chain.tip(), alice.chain.tip());
    let again = Keeper::open(BOB, bob.store.clone());
    assert_eq!(again.chain.tip(), alice.chain.tip());
    assert_eq!(again.chain.all_named(), [(log_of(BOB), 6)].into());
    assert!(alice.chain.leads() && !bob.chain.leads());
    // He tells of a record when he has what it names.
    let named = |number| again.names(number).last().map_or(0, |(_, seg_no)| *seg_no);
    for (have, bobs) in (1..).zip(bobs.chunks(1)) {
        again.take(bobs);
        let told = again.chain.offered();
        let mut records = 1..=3;
        let most = records.rfind(|number| named(*number) <= have);
        assert_eq!(told.number, most.unwrap_or(0));
        assert!(again.chain.has(told).unwrap());
        let handed = again.chain.range(0, usize::MAX, usize::MAX).unwrap();
        assert_eq!(handed, links[..usize::try_from(told.number).unwrap()]);
        let opened = Keeper::open(BOB, bob.store.clone());
        assert_eq!(opened.chain.offered(), told);
    }
    assert_eq!(again.chain.offered(), alice.chain.tip());
    let again = Keeper::open(ALICE, alice.store.clone());
    assert_eq!(again.extend(), None);
    again.take(&segments(DeviceId(4), 1, 1, &[]));
    assert_eq!(again.extend(), Some(false));
    assert_eq!(again.names(4), [(log_of(DeviceId(4)), 1)]);
}

#[test]
fn what_another_signed_in_the_name_of_who_decides_is_not_taken() {
    let forged = Keeper::new(ALICE);
    forged.take(&segments(BOB, 1, 1, &[]));
    let proposal = Proposal {
        now_ms: 7,
        needed: 0,
        asks_checkpoint: false,
        voters: None,
        is_checkpoint: false,
    };
    let outcome = forged
        .chain
        .extend(Duration::ZERO, proposal, &Forger)
        .unwrap();
    assert!(forged.see_to(outcome));
    let links = forged.chain.range(0, usize::MAX, usize::MAX).unwrap();
    let carl = Keeper::new(DeviceId(3));
    let taken = carl.accept(&links);
    assert!(
        matches!(taken, Err(LogError::Uncertified { number: 1, .. })),
        "{taken:?}"
    );
    assert_eq!(carl.chain.tip().number, 0);
}

#[test]
fn what_nobody_who_decides_has_signed_is_not_taken() {
    // Bob calls himself the founder of the same volume.
    let store = Store::memory();
    let founding = Founding {
        volume: VOLUME,
        founder: BOB,
    };
    found(&store, BOB);
    let (log, chain) = open(&store, founding, BOB);
    let liar = Keeper {
        chain,
        log,
        store,
        needed: Cell::new(0),
    };
    liar.take(&segments(DeviceId(3), 1, 1, &[]));
    assert_eq!(liar.extend(), Some(false));
    let links = liar.chain.range(0, usize::MAX, usize::MAX).unwrap();
    let carl = Keeper::new(DeviceId(3));
    assert!(matches!(
        carl.accept(&links),
        Err(LogError::Uncertified { .. })
    ));
    let mut newer = links[0].clone();
    newer[0] = 2;
    let newer = carl.accept(&[newer]);
    assert!(
        matches!(newer, Err(LogError::RecordTooNew { found: 2, known: 1 })),
        "{newer:?}"
    );
    let noise = carl.accept(&[vec![1; 40]]);
    assert!(noise.is_err(), "{noise:?}");
    assert_eq!(carl.chain.tip().number, 0);
    assert_eq!(carl.chain.named(log_of(DeviceId(3))), 0);
    let none: Vector = Vector::new();
    assert_eq!(carl.log.vector(), none);
}

#[test]
fn an_era_begins_behind_the_newest_record_of_which_all_is_here_that_was_named() {
    let alice = Keeper::new(ALICE);
    let (threes, fours) = (
        segments(DeviceId(3), 3, 1, &[]),
        segments(DeviceId(4), 1, 1, &[]),
    );
    for three in threes.chunks(1) {
        alice.take(three);
        assert_eq!(alice.extend(), Some(false));
    }
    let links = alice.chain.range(0, usize::MAX, 9).unwrap();
    let bob = Keeper::new(BOB);
    bob.take(&threes[..1]);
    assert!(bob.accept(&links).unwrap());
    assert_eq!(bob.chain.offered().number, 1);
    let begun = bob.chain.begin_era(Duration::ZERO, 8, &Stub(BOB)).unwrap();
    assert!(bob.see_to(begun));
    let tip = bob.chain.tip();
    assert_eq!((tip.era, tip.number), (1, 2));
    assert_eq!(bob.chain.offered(), tip);
    assert_eq!(bob.chain.named(log_of(DeviceId(3))), 1);
    // What the other chain named comes behind, where somebody has it after all.
    bob.take(&threes);
    bob.take(&fours);
    assert_eq!(bob.extend(), Some(false));
    let mut names = bob.names(3);
    names.sort_unstable();
    let threes = [2, 3].map(|seg_no| (log_of(DeviceId(3)), seg_no));
    let mut wanted = [&threes[..], &[(log_of(DeviceId(4)), 1)]].concat();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    let footing = bob.chain.footing(alice.chain.tip()).unwrap().unwrap();
    assert_eq!(footing.number, 1);
    assert_eq!(ends(&footing), [(log_of(DeviceId(3)), 3)]);
    // And of the two that of the later era counts, though the other is as long.
    alice.take(&fours);
    assert_eq!(alice.extend(), Some(false));
    assert!(weigh(&alice, &bob.chain.range(1, usize::MAX, 9).unwrap()));
    assert_eq!(alice.chain.tip(), bob.chain.tip());
    let opened = Keeper::open(BOB, bob.store.clone());
    assert_eq!(opened.chain.tip(), bob.chain.tip());
    assert_eq!(opened.extend(), None);
}

#[test]
fn of_two_chains_what_names_what_is_not_here_gives_way_to_a_shorter_one() {
    let alice = Keeper::new(ALICE);
    let threes = segments(DeviceId(3), 4, 1, &[]);
    alice.take(&threes[..1]);
    assert_eq!(alice.extend(), Some(false));
    let again = copy_of(&alice, ALICE);
    for three in threes[1..].chunks(1) {
        alice.take(three);
        assert_eq!(alice.extend(), Some(false));
    }
    let told = alice.chain.range(0, usize::MAX, 9).unwrap();
    let (bob, carl) = (Keeper::new(BOB), Keeper::new(DeviceId(7)));
    for (keeper, has) in [(&bob, 2), (&carl, 4)] {
        keeper.take(&threes[..has]);
        assert!(keeper.accept(&told).unwrap());
        assert_eq!(keeper.chain.offered().number, has as u64);
    }
    again.take(&segments(DeviceId(5), 2, 1, &[])[..1]);
    assert_eq!(again.extend(), Some(false));
    again.take(&segments(DeviceId(5), 2, 1, &[]));
    assert_eq!(again.extend(), Some(false));
    let other = again.chain.range(1, usize::MAX, 9).unwrap();
    assert!(!weigh(&carl, &other), "it has all of a longer one");
    assert!(weigh(&bob, &other));
    assert_eq!(bob.chain.tip(), again.chain.tip());
    assert_eq!(bob.chain.offered().number, 1);
    bob.take(&segments(DeviceId(5), 2, 1, &[]));
    assert_eq!(bob.chain.offered(), again.chain.tip());
}

#[test]
fn an_era_goes_on_from_the_newest_record_and_is_taken_from_an_admin_alone() {
    let alice = Keeper::new(ALICE);
    alice.take(&segments(DeviceId(3), 1, 1, &[]));
    assert_eq!(alice.extend(), Some(false));
    let bob = Keeper::new(BOB);
    bob.take(&segments(DeviceId(3), 1, 1, &[]));
    assert!(
        bob.accept(&alice.chain.range(0, usize::MAX, 9).unwrap())
            .unwrap()
    );
    let begun = bob.chain.begin_era(Duration::ZERO, 8, &Stub(BOB)).unwrap();
    assert!(bob.see_to(begun));
    let tip = bob.chain.tip();
    assert_eq!((tip.era, tip.number), (1, 2));
    bob.take(&segments(DeviceId(4), 1, 1, &[]));
    assert_eq!(bob.extend(), Some(false));
    assert_eq!(bob.names(3), [(log_of(DeviceId(4)), 1)]);
    let links = bob.chain.range(0, usize::MAX, 9).unwrap();

    let carl = Keeper::new(DeviceId(3));
    let (outcome, taken) =
        carl.chain
            .accept(&links, BOB, Duration::ZERO, &NoAdmins(Stub(DeviceId(3))));
    assert!(carl.see_to(outcome) && taken.is_err());
    assert_eq!(carl.chain.tip().number, 1);
    assert!(carl.accept(&links).unwrap());
    assert_eq!(carl.chain.tip(), bob.chain.tip());
    let again = Keeper::open(BOB, bob.store.clone());
    assert_eq!(again.chain.tip(), bob.chain.tip());
    again.take(&segments(DeviceId(5), 1, 1, &[]));
    assert_eq!(again.extend(), Some(false));
}

#[test]
fn a_lone_voter_whose_folder_was_put_back_names_nothing_until_it_is_trusted() {
    let alice = Keeper::new(ALICE);
    alice.take(&segments(DeviceId(3), 1, 1, &[]));
    assert_eq!(alice.extend(), Some(false));
    alice.take(&segments(DeviceId(4), 1, 1, &[]));
    Chain::doubt(&*alice.store.rows).unwrap();
    let again = Keeper::open(ALICE, alice.store.clone());
    assert!(again.chain.is_in_doubt());
    assert_eq!(again.extend(), None);
    let again = Keeper::open(ALICE, alice.store.clone());
    let trusted = again.chain.trust(Duration::ZERO).unwrap();
    assert!(trusted.must_sync && !again.see_to(trusted));
    assert!(!again.chain.is_in_doubt());
    assert_eq!(again.extend(), Some(false));
    // Who never had a row has none to doubt.
    Chain::doubt(&*Store::memory().rows).unwrap();
}

/// Knows of nobody that may begin an era.
pub(super) struct NoAdmins(pub(super) Stub);

impl Notary for NoAdmins {
    fn sign(&self, vote: &Vote) -> Signature {
        self.0.sign(vote)
    }
    fn verify(&self, device: DeviceId, vote: &Vote, signature: &Signature) -> bool {
        self.0.verify(device, vote, signature)
    }
    fn may_begin_era(&self, _: DeviceId) -> bool {
        false
    }
    fn seniority(&self, _: DeviceId) -> Option<u64> {
        None
    }
    fn ends(&self, _: &Record, _: DeviceId) -> bool {
        false
    }
    fn endorses(&self, record: &Record) -> bool {
        self.0.endorses(record)
    }
}

/// Returns a copy of what a keeper has on its disk.
pub(super) fn copy_of(keeper: &Keeper, own: DeviceId) -> Keeper {
    copy_to(keeper, own, Store::memory())
}

/// Copies to a store.
pub(super) fn copy_to(keeper: &Keeper, own: DeviceId, store: Store) -> Keeper {
    let mut batch = Batch::new();
    for table in [
        Table::Meta,
        Table::Chain,
        Table::Named,
        Table::Segment,
        Table::LogHead,
        Table::Taken,
    ] {
        let rows = &keeper.store.rows;
        let copied = rows.scan(table, &[], None, &mut |key, value| {
            batch.put(table, key, value);
            ControlFlow::Continue(())
        });
        copied.unwrap();
    }
    store.rows.commit(batch).unwrap();
    Keeper::open(own, store)
}

pub(super) fn weigh(keeper: &Keeper, links: &[Vec<u8>]) -> bool {
    let stub = Stub(keeper.log.own_device());
    let outcome = keeper.chain.weigh(links, Duration::ZERO, &stub).unwrap();
    outcome.is_some_and(|outcome| keeper.see_to(outcome))
}

#[test]
fn of_two_chains_of_one_voter_the_longer_counts_and_what_the_other_named_is_named_anew() {
    let alice = Keeper::new(ALICE);
    alice.take(&segments(DeviceId(3), 1, 1, &[]));
    assert_eq!(alice.extend(), Some(false));
    // Her folder is put back where nothing tells it, and both go on.
    let again = copy_of(&alice, ALICE);
    let (fours, fives) = (
        segments(DeviceId(4), 1, 1, &[]),
        segments(DeviceId(5), 2, 1, &[]),
    );
    alice.take(&fours);
    assert_eq!(alice.extend(), Some(false));
    again.take(&fives[..1]);
    assert_eq!(again.extend(), Some(false));
    again.take(&fives[1..]);
    assert_eq!(again.extend(), Some(false));

    let links = again.chain.range(0, usize::MAX, 9).unwrap();
    assert!(!alice.chain.has(again.chain.tip()).unwrap());
    assert!(!weigh(
        &again,
        &alice.chain.range(1, usize::MAX, 9).unwrap()
    ));
    assert_eq!(again.chain.tip().number, 3);
    let left = alice.chain.tip();
    assert!(weigh(&alice, &links));
    assert_eq!(alice.chain.tip(), again.chain.tip());
    assert!(!weigh(&alice, &links), "it is the same by now");
    assert_eq!(alice.chain.named(log_of(DeviceId(4))), 0);
    assert_eq!(alice.chain.named(log_of(DeviceId(5))), 2);
    assert_eq!(alice.chain.offered().number, 1);
    alice.take(&fives);
    assert_eq!(alice.chain.offered(), again.chain.tip());
    assert_eq!(alice.extend(), Some(false));
    assert_eq!(alice.names(4), [(log_of(DeviceId(4)), 1)]);
    let opened = Keeper::open(ALICE, alice.store.clone());
    assert_eq!(opened.chain.named(log_of(DeviceId(4))), 1);

    // Who stood on what was left had seen what that names.
    let footing = alice.chain.footing(left).unwrap().unwrap();
    assert_eq!(footing.number, 1);
    assert_eq!(ends(&footing), [(log_of(DeviceId(4)), 1)]);
    // Somebody who never had it asks for it, and believes hashes alone.
    assert_eq!(again.chain.footing(left).unwrap(), None);
    assert_eq!(again.chain.lacks(left).unwrap(), Some(left));
    let wrong = again
        .chain
        .keep_left(left, &alice.chain.range(0, usize::MAX, 1).unwrap());
    assert!(
        matches!(wrong, Err(LogError::MalformedRecord { .. })),
        "{wrong:?}"
    );
    let handed = alice.chain.left_range(left, usize::MAX, 9).unwrap();
    assert!(again.chain.keep_left(left, &handed).unwrap());
    assert!(!again.chain.keep_left(left, &handed).unwrap());
    assert_eq!(again.chain.footing(left).unwrap().unwrap(), footing);
    // One that is ahead on this chain comes by itself.
    let ahead = RecordRef {
        era: 0,
        number: 900,
        hash: [9; 32],
    };
    assert_eq!(again.chain.footing(ahead).unwrap(), None);
    assert_eq!(again.chain.lacks(ahead).unwrap(), Some(ahead));
}

#[test]
fn what_an_author_had_folded_of_a_longer_chain_is_known_once_this_one_goes_another_way() {
    let alice = Keeper::new(ALICE);
    let (threes, fours) = (
        segments(DeviceId(3), 1, 1, &[]),
        segments(DeviceId(4), 70, 1, &[]),
    );
    alice.take(&threes);
    assert_eq!(alice.extend(), Some(false));
    let again = copy_of(&alice, ALICE);
    for segment in &fours {
        alice.take(std::slice::from_ref(segment));
        assert_eq!(alice.extend(), Some(false));
    }
    let far = alice.chain.tip();
    assert_eq!(again.chain.lacks(far).unwrap(), Some(far));

    // It comes in pieces, and goes on where one ended.
    let mut lacking = far;
    for round in 1..=8 {
        let links = alice.chain.left_range(lacking, usize::MAX, 9).unwrap();
        assert!(again.chain.keep_left(lacking, &links).unwrap());
        lacking = again.chain.lacks(far).unwrap().unwrap();
        let next = far.number - 9 * round.min(7);
        assert_eq!(lacking.number, if round < 8 { next } else { far.number });
    }
    // All of it continues what is here: it may come as part of this chain still.
    assert_eq!(again.chain.lacks(far).unwrap(), Some(far));
    assert_eq!(again.chain.footing(far).unwrap(), None);

    again.take(&segments(DeviceId(5), 1, 1, &[]));
    assert_eq!(again.extend(), Some(false));
    for record in [far, alice.chain.get(40).unwrap().unwrap().reference(), far] {
        let footing = again.chain.footing(record).unwrap().unwrap();
        assert_eq!(footing.number, 1);
        assert_eq!(ends(&footing), [(log_of(DeviceId(4)), record.number - 1)]);
        // And up to which op, whether those segments are here or not.
        let last = fours[record.number as usize - 2].header.last;
        assert_eq!(footing.beyond[&log_of(DeviceId(4))].last, last);
        assert_eq!(again.chain.lacks(record).unwrap(), None);
    }
    // And where that other chain counts in the end it is had as its own.
    let links = alice.chain.range(1, usize::MAX, 99).unwrap();
    assert!(weigh(&again, &links));
    let footing = again.chain.footing(far).unwrap().unwrap();
    assert_eq!((footing.number, ends(&footing)), (far.number, Vec::new()));
}
