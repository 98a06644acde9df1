//! Eras and forks in rows: behind what one begins, and what going over leaves.

use std::time::Duration;

use super::Stub;
use super::keep::{ALICE, BOB, Keeper, log_of, segments};
use crate::base::DeviceId;

#[test]
fn an_era_begins_also_where_what_is_missing_stands_behind_the_begin_of_another() {
    let alice = Keeper::new(ALICE);
    let threes = segments(DeviceId(3), 2, 1, &[]);
    alice.take(&threes[..1]);
    assert_eq!(alice.extend(), Some(false));
    alice.take(&threes);
    assert_eq!(alice.extend(), Some(false));
    let begun = alice.chain.begin_era(Duration::ZERO, 8, &Stub(ALICE));
    assert!(alice.see_to(begun.unwrap()));
    let links = alice.chain.range(0, usize::MAX, 9).unwrap();
    let bob = Keeper::new(BOB);
    bob.take(&threes[..1]);
    assert!(bob.accept(&links).unwrap());
    assert_eq!(bob.chain.tip().era, 1);
    // Nobody has any more what record 2 names.
    let begun = bob.chain.begin_era(Duration::ZERO, 9, &Stub(BOB));
    assert!(bob.see_to(begun.unwrap()));
    assert_eq!((bob.chain.tip().era, bob.chain.tip().number), (1, 2));
    assert_eq!(bob.chain.named(log_of(DeviceId(3))), 1);
    // Also for another one that has not, though the other chain is longer.
    let carl = Keeper::new(DeviceId(7));
    carl.take(&threes[..1]);
    assert!(carl.accept(&links).unwrap());
    assert!(super::keep::weigh(
        &carl,
        &bob.chain.range(0, usize::MAX, 9).unwrap()
    ));
    assert_eq!(carl.chain.tip(), bob.chain.tip());
}
