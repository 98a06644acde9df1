//! Which records are checkpoints, by time, by what is named and where one is asked for; and forks below one.

use std::time::Duration;

use bytes::Bytes;

use super::Stub;
use super::keep::{ALICE, BOB, Keeper, copy_of, log_of, segments, weigh};
use crate::base::DeviceId;
use crate::crypto::Signature;
use crate::log::chain::{Notary, Proposal, Record, Vote};
use crate::wire::{SealedSegment, Vector};

const HOUR_MS: u64 = 3_600_000;
const BEGIN_MS: u64 = 100 * HOUR_MS;

/// Makes records until there is nothing to say; returns which of them are checkpoints.
fn extend(keeper: &Keeper, now_ms: u64, asks_checkpoint: bool) -> Vec<u64> {
    let first = keeper.chain.tip().number + 1;
    loop {
        let stub = Stub(keeper.log.own_device());
        let proposal = Proposal {
            now_ms,
            asks_checkpoint,
            ..Proposal::default()
        };
        let outcome = keeper.chain.extend(Duration::ZERO, proposal, &stub);
        if !keeper.see_to(outcome.unwrap()) {
            break;
        }
    }
    let made = first..=keeper.chain.tip().number;
    let is_mark = |number: &u64| keeper.chain.get(*number).unwrap().unwrap().is_checkpoint;
    made.filter(is_mark).collect()
}

fn take(keeper: &Keeper, device: u64, count: u64, ops: u32) {
    keeper.take(&segments(DeviceId(device), count, ops, &[]));
}

#[test]
fn an_hour_after_the_last_one_the_next_follows_where_anything_was_named() {
    let alice = Keeper::new(ALICE);
    assert!(extend(&alice, BEGIN_MS, false).is_empty());
    take(&alice, 3, 1, 1);
    assert!(extend(&alice, BEGIN_MS, false).is_empty());
    assert!(extend(&alice, BEGIN_MS + HOUR_MS - 1, false).is_empty());
    assert_eq!(extend(&alice, BEGIN_MS + HOUR_MS, false), [2]);
    assert_eq!(alice.chain.marked(), 2);
    // Nothing was named since: by no time.
    assert!(extend(&alice, BEGIN_MS + 9 * HOUR_MS, false).is_empty());
    take(&alice, 4, 1, 1);
    assert!(extend(&alice, BEGIN_MS + HOUR_MS + 1, false).is_empty());
    // Who opens it goes on from there; a clock that went back holds nothing off.
    let again = Keeper::open(ALICE, alice.store.clone());
    assert_eq!(again.chain.marked(), 2);
    assert!(extend(&again, BEGIN_MS + 2 * HOUR_MS - 1, false).is_empty());
    assert_eq!(extend(&again, BEGIN_MS, false), [4]);
}

#[test]
fn the_first_one_follows_some_thousand_ops_and_no_later_one_does() {
    let alice = Keeper::new(ALICE);
    take(&alice, 3, 1, 4_000);
    assert!(extend(&alice, BEGIN_MS, false).is_empty());
    take(&alice, 4, 1, 96);
    assert_eq!(extend(&alice, BEGIN_MS, false), [3]);
    take(&alice, 5, 4, 4_000);
    assert!(extend(&alice, BEGIN_MS, false).is_empty());
}

#[test]
fn so_many_bytes_of_segments_make_one() {
    let alice = Keeper::new(ALICE);
    take(&alice, 3, 1, 1);
    assert_eq!(extend(&alice, BEGIN_MS, true), [2]);
    let mut large: Vec<SealedSegment> = segments(BOB, 65, 1, &[]);
    let mut prev = [0; 32];
    for segment in &mut large {
        segment.body = Bytes::from(vec![7; 1 << 20]);
        segment.header.prev = prev;
        prev = segment.hash();
    }
    alice.take(&large[..63]);
    assert!(extend(&alice, BEGIN_MS, false).is_empty());
    // What is not here any more is in a checkpoint that somebody has.
    alice.take(&large[63..]);
    let marks = extend(&alice, BEGIN_MS, false);
    assert_eq!(marks, [alice.chain.tip().number]);
    assert!(extend(&alice, BEGIN_MS, false).is_empty());
}

#[test]
fn one_that_is_asked_for_follows_a_minute_after_the_last_at_the_soonest() {
    let alice = Keeper::new(ALICE);
    assert!(
        extend(&alice, BEGIN_MS, true).is_empty(),
        "there is nothing"
    );
    take(&alice, 3, 1, 1);
    assert_eq!(extend(&alice, BEGIN_MS, true), [2]);
    assert!(
        extend(&alice, BEGIN_MS + HOUR_MS, true).is_empty(),
        "it is one"
    );
    take(&alice, 4, 1, 1);
    assert!(extend(&alice, BEGIN_MS + 59_999, true).is_empty());
    assert_eq!(extend(&alice, BEGIN_MS + 60_000, true), [4]);
}

#[test]
fn what_was_named_up_to_a_record_is_known_of_each() {
    let alice = Keeper::new(ALICE);
    let (bobs, carls) = (segments(BOB, 3, 1, &[]), segments(DeviceId(7), 2, 1, &[]));
    for part in [&bobs[..2], &carls[..1], &bobs[2..], &carls[1..]] {
        alice.take(part);
        extend(&alice, BEGIN_MS, false);
    }
    let at = |number| alice.chain.named_at(number).unwrap();
    let (of_bob, of_carl) = (log_of(BOB), log_of(DeviceId(7)));
    assert_eq!(at(0), Vector::new());
    assert_eq!(at(1), Vector::from([(of_bob, 2)]));
    assert_eq!(at(2), Vector::from([(of_bob, 2), (of_carl, 1)]));
    assert_eq!(at(3), Vector::from([(of_bob, 3), (of_carl, 1)]));
    for number in [4, 5, 9] {
        assert_eq!(at(number), Vector::from([(of_bob, 3), (of_carl, 2)]));
    }
}

/// Knows of a checkpoint of another chain that it counts.
struct Knows(u64);

impl Notary for Knows {
    fn sign(&self, vote: &Vote) -> Signature {
        Stub(BOB).sign(vote)
    }
    fn verify(&self, device: DeviceId, vote: &Vote, signature: &Signature) -> bool {
        Stub(BOB).verify(device, vote, signature)
    }
    fn may_begin_era(&self, _: DeviceId) -> bool {
        true
    }
    fn seniority(&self, device: DeviceId) -> Option<u64> {
        Some(device.0)
    }
    fn ends(&self, _: &Record, _: DeviceId) -> bool {
        false
    }
    fn endorses(&self, _: &Record) -> bool {
        true
    }
    fn counts(&self, record: &Record) -> bool {
        record.number == self.0
    }
}

#[test]
fn of_two_chains_that_with_a_checkpoint_counts_and_none_that_parts_below_it() {
    let alice = Keeper::new(ALICE);
    take(&alice, 3, 1, 1);
    extend(&alice, BEGIN_MS, false);
    let of = |keeper: &Keeper| keeper.chain.range(0, usize::MAX, usize::MAX).unwrap();
    let bob = Keeper::new(BOB);
    take(&bob, 3, 1, 1);
    assert!(bob.accept(&of(&alice)).unwrap());
    let era = bob.chain.begin_era(Duration::ZERO, 8, &Stub(BOB)).unwrap();
    assert!(bob.see_to(era));
    // Alice, who decides, goes on in the era before.
    take(&alice, 4, 1, 1);
    assert_eq!(extend(&alice, BEGIN_MS, true), [2]);
    assert!(
        weigh(&copy_of(&alice, ALICE), &of(&bob)),
        "the later era counts"
    );
    let settled = copy_of(&alice, ALICE);
    settled.chain.settle_at(2);
    assert!(!weigh(&settled, &of(&bob)));
    settled.chain.settle_at(1);
    assert!(weigh(&settled, &of(&bob)), "it parts behind the checkpoint");
    assert_eq!(settled.chain.marked(), 0, "that was of the other chain");
    let goes = |keeper: &Keeper, counting| {
        let links = of(&alice);
        let gone = keeper.chain.weigh(&links, Duration::ZERO, &Knows(counting));
        gone.unwrap().is_some()
    };
    assert!(!goes(&bob, 9));
    bob.take(&segments(DeviceId(4), 1, 1, &[]));
    assert!(goes(&bob, 2), "the earlier era has a checkpoint");
    assert_eq!(bob.chain.marked(), 2);
}
