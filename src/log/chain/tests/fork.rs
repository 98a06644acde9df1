//! Eras and forks in rows: behind what one begins, which of two chains counts, and what going over to it
//! leaves.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Stub;
use super::keep::{
    ALICE, BOB, Keeper, NoAdmins, VOLUME, copy_of, copy_to, log_of, segments, weigh,
};
use crate::base::DeviceId;
use crate::crypto::Signature;
use crate::log::LogError;
use crate::log::chain::stored::Link;
use crate::log::chain::{Ending, Message, Notary, Proposal, Record, Roll, Vote};
use crate::store::memory::MemoryDisk;
use crate::wire::Vector;

const CARL: DeviceId = DeviceId(7);
const DORA: DeviceId = DeviceId(8);

/// Knows who the admins are, the most senior first. A statement of a device's number ends it.
struct Judge {
    own: Stub,
    admins: Vec<DeviceId>,
}

impl Notary for Judge {
    fn sign(&self, vote: &Vote) -> Signature {
        self.own.sign(vote)
    }
    fn verify(&self, device: DeviceId, vote: &Vote, signature: &Signature) -> bool {
        self.own.verify(device, vote, signature)
    }
    fn may_begin_era(&self, _: DeviceId) -> bool {
        true
    }
    fn seniority(&self, device: DeviceId) -> Option<u64> {
        let place = self.admins.iter().position(|admin| *admin == device);
        place.map(|place| place as u64)
    }
    fn ends(&self, record: &Record, device: DeviceId) -> bool {
        record.statements.contains(&ending(device))
    }
    fn endorses(&self, _: &Record) -> bool {
        true
    }
}

fn ending(device: DeviceId) -> [u8; 32] {
    [device.0 as u8; 32]
}

/// The statements that a keeper knows.
#[derive(Default)]
struct Known(Mutex<Vec<[u8; 32]>>);

impl Roll for Known {
    fn endings(&self) -> Vec<[u8; 32]> {
        self.0.lock().clone()
    }
    fn ending(&self, statement: &[u8; 32]) -> Option<Ending> {
        Some(Ending {
            admissions: vec![*statement],
            removed: None,
        })
    }
    fn line(&self, admission: &[u8; 32]) -> Vec<[u8; 32]> {
        vec![*admission]
    }
}

/// Gives a keeper a roll of its own.
fn with_roll(keeper: Keeper) -> (Keeper, Arc<Known>) {
    let known = Arc::<Known>::default();
    let roll = Arc::<Known>::clone(&known);
    let chain = keeper.chain.with_roll(roll);
    (Keeper { chain, ..keeper }, known)
}

fn all_of(keeper: &Keeper) -> Vec<Vec<u8>> {
    keeper.chain.range(0, usize::MAX, usize::MAX).unwrap()
}

/// Returns a keeper of a device that has taken the records of another.
fn following(device: DeviceId, keeper: &Keeper) -> (Keeper, Arc<Known>) {
    let (own, known) = with_roll(Keeper::new(device));
    own.take(&segments(DeviceId(3), 1, 1, &[]));
    assert!(own.accept(&all_of(keeper)).unwrap());
    (own, known)
}

fn begin(keeper: &Keeper) {
    let own = Stub(keeper.log.own_device());
    let begun = keeper.chain.begin_era(Duration::ZERO, 8, &own).unwrap();
    assert!(keeper.see_to(begun));
}

/// Says whether one goes over to the chain of another, where these are the admins.
fn goes_over(keeper: &Keeper, other: &Keeper, admins: &[DeviceId]) -> bool {
    // What is weighed is a copy, so that it can be weighed again.
    let own = keeper.log.own_device();
    let copy = copy_of(keeper, own);
    let judge = Judge {
        own: Stub(own),
        admins: admins.to_vec(),
    };
    let links = all_of(other);
    let outcome = copy.chain.weigh(&links, Duration::ZERO, &judge).unwrap();
    outcome.is_some()
}

/// Returns one record of a founder, and two who went other ways from there: each has begun an era.
fn two_eras() -> [(Keeper, Arc<Known>); 2] {
    let alice = Keeper::new(ALICE);
    alice.take(&segments(DeviceId(3), 1, 1, &[]));
    assert_eq!(alice.extend(), Some(false));
    [BOB, CARL].map(|device| {
        let (keeper, known) = following(device, &alice);
        begin(&keeper);
        (keeper, known)
    })
}

#[test]
fn of_two_eras_that_of_the_more_senior_admin_counts_and_a_later_one_before_it() {
    let [(bob, _), (carl, _)] = two_eras();
    // Though this one is the longer.
    for (keeper, log) in [(&carl, 4), (&carl, 5), (&bob, 6)] {
        keeper.take(&segments(DeviceId(log), 1, 1, &[]));
        assert_eq!(keeper.extend(), Some(false));
    }
    for (admins, bob_counts) in [([ALICE, BOB, CARL], true), ([ALICE, CARL, BOB], false)] {
        assert_eq!(goes_over(&carl, &bob, &admins), bob_counts);
        assert_eq!(goes_over(&bob, &carl, &admins), !bob_counts);
    }
    assert!(!goes_over(&bob, &bob, &[BOB]), "it is the same");
    begin(&carl);
    let admins = [ALICE, BOB, CARL];
    assert!(goes_over(&bob, &carl, &admins) && !goes_over(&carl, &bob, &admins));
    // It is the last era whose founder is asked for.
    begin(&bob);
    let (other, _) = following(DORA, &bob);
    other.take(&segments(DeviceId(6), 1, 1, &[]));
    begin(&other);
    begin(&carl);
    assert!(goes_over(&other, &carl, &[CARL, DORA, BOB]));
    assert!(!goes_over(&other, &carl, &[BOB, DORA, CARL]));
}

#[test]
fn an_era_of_who_is_no_admin_any_more_counts_where_it_took_that_into_account_alone() {
    for takes in [false, true] {
        let [(bob, known), (carl, _)] = two_eras();
        if takes {
            known.0.lock().push(ending(BOB));
            assert_eq!(bob.extend(), Some(false));
        }
        begin(&bob);
        // Though it is of a later era.
        let admins = [ALICE, CARL];
        assert_eq!(goes_over(&carl, &bob, &admins), takes);
        assert!(!goes_over(&bob, &carl, &admins));
    }
}

#[test]
fn an_era_counts_that_took_into_account_that_the_founder_of_the_other_was_removed() {
    // Which of the two knew it.
    for (of_bob, of_carl) in [(true, false), (false, true), (true, true)] {
        let [(bob, of_bobs), (carl, of_carls)] = two_eras();
        if of_carl {
            of_bobs.0.lock().push(ending(CARL));
            assert_eq!(bob.extend(), Some(false));
        }
        if of_bob {
            of_carls.0.lock().push(ending(BOB));
            assert_eq!(carl.extend(), Some(false));
        }
        for admins in [[ALICE, BOB, CARL], [ALICE, CARL, BOB]] {
            let is_bobs = match (of_bob, of_carl) {
                (true, true) => admins[1] == BOB,
                _ => of_carl,
            };
            assert_eq!(goes_over(&carl, &bob, &admins), is_bobs);
            assert_eq!(goes_over(&bob, &carl, &admins), !is_bobs);
        }
    }
}

#[test]
fn of_two_chains_of_one_era_and_length_both_sides_take_the_same() {
    let alice = Keeper::new(ALICE);
    alice.take(&segments(DeviceId(3), 1, 1, &[]));
    assert_eq!(alice.extend(), Some(false));
    let again = copy_of(&alice, ALICE);
    for (keeper, log) in [(&alice, 4), (&again, 5)] {
        keeper.take(&segments(DeviceId(log), 1, 1, &[]));
        assert_eq!(keeper.extend(), Some(false));
    }
    let is_smaller = alice.chain.tip().hash < again.chain.tip().hash;
    assert_eq!(goes_over(&again, &alice, &[ALICE]), is_smaller);
    assert_eq!(goes_over(&alice, &again, &[ALICE]), !is_smaller);
}

#[test]
fn who_lacks_what_was_named_before_the_two_part_goes_over_to_neither() {
    let alice = Keeper::new(ALICE);
    let threes = segments(DeviceId(3), 3, 1, &[]);
    for three in threes[..2].chunks(1) {
        alice.take(three);
        assert_eq!(alice.extend(), Some(false));
    }
    let again = copy_of(&alice, ALICE);
    again.take(&segments(DeviceId(5), 1, 1, &[]));
    assert_eq!(again.extend(), Some(false));
    for more in [threes.clone(), segments(DeviceId(4), 1, 1, &[])] {
        alice.take(&more);
        assert_eq!(alice.extend(), Some(false));
    }
    let bob = Keeper::new(BOB);
    bob.take(&threes[..1]);
    assert!(bob.accept(&all_of(&alice)).unwrap());
    assert!(!weigh(&bob, &all_of(&again)), "that is the shorter one");
    // It has all that both name before, and not what the longer does.
    bob.take(&threes[..2]);
    assert!(weigh(&bob, &all_of(&again)));
    assert_eq!(bob.chain.tip(), again.chain.tip());
}

#[test]
fn statements_are_those_of_the_chain_that_counts() {
    let [both, ours, shared, theirs] = [4, 5, 6, 7].map(|of| [of; 32]);
    let (alice, known) = with_roll(Keeper::new(ALICE));
    known.0.lock().push(shared);
    assert_eq!(alice.extend(), Some(false));
    let (again, elsewhere) = with_roll(copy_of(&alice, ALICE));
    assert!(again.chain.statements().contains(&shared));
    elsewhere.0.lock().push(shared);
    // There it is taken into account by the third record, here by the second.
    again.take(&segments(DeviceId(3), 1, 1, &[]));
    assert_eq!(again.extend(), Some(false));
    elsewhere.0.lock().extend([both, theirs]);
    assert_eq!(again.extend(), Some(false));
    again.take(&segments(DeviceId(3), 2, 1, &[]));
    assert_eq!(again.extend(), Some(false));
    known.0.lock().extend([both, ours]);
    assert_eq!(alice.extend(), Some(false));
    assert!(alice.chain.fence_at(2).ends(&both) && alice.chain.fence().ends(&ours));

    assert!(weigh(&alice, &all_of(&again)));
    let (opened, _) = with_roll(Keeper::open(ALICE, alice.store.clone()));
    for keeper in [&alice, &opened] {
        let chain = &keeper.chain;
        assert_eq!(chain.statements(), [VOLUME.0, both, shared, theirs].into());
        assert!(chain.fence().ends(&both) && !chain.fence().ends(&ours));
        for (number, ends) in [(1, shared), (3, both), (3, theirs)] {
            assert!(!chain.fence_at(number - 1).ends(&ends));
            assert!(chain.fence_at(number).ends(&ends));
        }
    }
    // What was left out is taken into account again.
    alice.take(&segments(DeviceId(3), 2, 1, &[]));
    assert_eq!(alice.extend(), Some(false));
    assert!(!alice.chain.fence_at(4).ends(&ours) && alice.chain.fence_at(5).ends(&ours));
}

#[test]
fn peers_are_told_of_the_chain_that_counts_once_it_is_durable() {
    let alice = Keeper::new(ALICE);
    alice.take(&segments(DeviceId(3), 1, 1, &[]));
    assert_eq!(alice.extend(), Some(false));
    let common = alice.chain.tip();
    let again = copy_of(&alice, ALICE);
    for seg_no in 1..=2 {
        again.take(&segments(DeviceId(5), seg_no, 1, &[]));
        assert_eq!(again.extend(), Some(false));
    }
    alice.take(&segments(DeviceId(4), 1, 1, &[]));
    assert_eq!(alice.extend(), Some(false));
    alice.take(&segments(DeviceId(5), 2, 1, &[]));
    let links = all_of(&again);
    let weighed = alice.chain.weigh(&links, Duration::ZERO, &Stub(ALICE));
    assert_eq!(alice.chain.offered(), common);
    assert!(alice.see_to(weighed.unwrap().unwrap()));
    assert_eq!(alice.chain.offered(), again.chain.tip());
}

#[test]
fn who_cannot_write_that_it_goes_over_stays_on_its_chain() {
    let disk = MemoryDisk::new();
    let alice = Keeper::new(ALICE);
    let again = copy_of(&alice, ALICE);
    let keeper = copy_to(&alice, ALICE, disk.store());
    for seg_no in 1..=2 {
        again.take(&segments(DeviceId(5), seg_no, 1, &[]));
        assert_eq!(again.extend(), Some(false));
    }
    keeper.take(&segments(DeviceId(4), 1, 1, &[]));
    assert_eq!(keeper.extend(), Some(false));
    let before = keeper.chain.tip();
    disk.set_writes_left(Some(0));
    let links = all_of(&again);
    let weighed = keeper.chain.weigh(&links, Duration::ZERO, &Stub(ALICE));
    assert!(weighed.is_err());
    assert_eq!(keeper.chain.tip(), before);
    let named = Vector::from([(log_of(DeviceId(4)), 1)]);
    assert_eq!(keeper.chain.all_named(), named);
    disk.set_writes_left(None);
    assert!(weigh(&keeper, &links));
    assert_eq!(keeper.chain.tip(), again.chain.tip());
}

#[test]
fn the_founder_of_an_era_is_who_began_it_whoever_decides_then() {
    let [(bob, _), (carl, _)] = two_eras();
    let (other, _) = following(DORA, &bob);
    // He hands on to another one.
    let voters = Some(vec![other.chain.own_voter()]);
    let proposal = Proposal {
        now_ms: 7,
        needed: 0,
        asks_checkpoint: false,
        voters,
        is_checkpoint: false,
    };
    let outcome = bob.chain.extend(Duration::ZERO, proposal, &Stub(BOB));
    assert!(bob.see_to(outcome.unwrap()));
    assert!(other.accept(&all_of(&bob)).unwrap());
    other.take(&segments(DeviceId(4), 1, 1, &[]));
    while other.chain.tip().number < 4 {
        other.extend();
    }
    for (admins, counts) in [([BOB, CARL, DORA], true), ([DORA, CARL, BOB], false)] {
        assert_eq!(goes_over(&carl, &other, &admins), counts);
    }
}

#[test]
fn nobody_takes_a_letter_that_begins_an_era_of_who_is_no_admin() {
    let [(bob, _), _] = two_eras();
    let (other, _) = following(DORA, &bob);
    begin(&bob);
    let Link {
        record,
        certificate,
    } = Link::from_bytes(all_of(&bob).last().unwrap()).unwrap();
    let message = Message::Decided {
        record,
        certificate,
    };
    let (before, notary) = (other.chain.tip(), NoAdmins(Stub(DORA)));
    let heard = other
        .chain
        .receive(BOB, message.clone(), Duration::ZERO, &notary);
    assert_eq!(heard.unwrap().grew, None);
    assert_eq!(other.chain.tip(), before);
    let heard = other
        .chain
        .receive(BOB, message, Duration::ZERO, &Stub(DORA));
    assert_eq!(heard.unwrap().grew, Some(bob.chain.tip()));
}

#[test]
fn the_first_of_the_records_that_were_left_is_told_however_large() {
    let alice = Keeper::new(ALICE);
    for device in 3..6 {
        alice.take(&segments(DeviceId(device), 1, 1, &[]));
        assert_eq!(alice.extend(), Some(false));
    }
    let all = all_of(&alice);
    let tip = alice.chain.tip();
    for (room, count) in [(1, 1), (all[2].len() + 1, 1), (usize::MAX, 3)] {
        let links = alice.chain.left_range(tip, room, 9).unwrap();
        assert_eq!(links.len(), count);
        assert_eq!(links[0], all[2]);
    }
}

#[test]
fn an_era_begins_also_where_what_is_missing_stands_behind_the_begin_of_another() {
    let alice = Keeper::new(ALICE);
    let threes = segments(DeviceId(3), 2, 1, &[]);
    for three in threes.chunks(1) {
        alice.take(three);
        assert_eq!(alice.extend(), Some(false));
    }
    begin(&alice);
    let links = all_of(&alice);
    let bob = Keeper::new(BOB);
    bob.take(&threes[..1]);
    assert!(bob.accept(&links).unwrap());
    assert_eq!(bob.chain.tip().era, 1);
    // Nobody has any more what record 2 names.
    begin(&bob);
    assert_eq!((bob.chain.tip().era, bob.chain.tip().number), (1, 2));
    assert_eq!(bob.chain.named(log_of(DeviceId(3))), 1);
    // Also for another one that has not, though the other chain is longer.
    let carl = Keeper::new(CARL);
    carl.take(&threes[..1]);
    assert!(carl.accept(&links).unwrap());
    assert!(weigh(&carl, &all_of(&bob)));
    assert_eq!(carl.chain.tip(), bob.chain.tip());
}

#[test]
fn of_two_chains_the_one_of_the_later_era_counts_but_for_one_that_no_admin_began() {
    let alice = Keeper::new(ALICE);
    alice.take(&segments(DeviceId(3), 1, 1, &[]));
    assert_eq!(alice.extend(), Some(false));
    let bob = Keeper::new(BOB);
    assert!(
        bob.accept(&alice.chain.range(0, usize::MAX, 9).unwrap())
            .unwrap()
    );
    assert!(bob.see_to(bob.chain.begin_era(Duration::ZERO, 8, &Stub(BOB)).unwrap()));
    for device in 5..9 {
        alice.take(&segments(DeviceId(device), 1, 1, &[]));
        assert_eq!(alice.extend(), Some(false));
    }
    let links = bob.chain.range(0, usize::MAX, 9).unwrap();
    let void = alice
        .chain
        .weigh(&links, Duration::ZERO, &NoAdmins(Stub(ALICE)));
    assert!(
        matches!(void, Err(LogError::Uncertified { .. })),
        "{void:?}"
    );
    assert!(weigh(&alice, &links));
    assert_eq!(alice.chain.tip(), bob.chain.tip());
    // Though that is the shorter one.
    assert_eq!(alice.chain.offered(), alice.chain.tip());
    assert_eq!(alice.chain.named(log_of(DeviceId(5))), 0);
    assert!(!weigh(&bob, &alice.chain.range(0, usize::MAX, 9).unwrap()));
}
