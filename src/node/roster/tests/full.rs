//! What a roster keeps where there are more statements than it holds.

use std::sync::Arc;

use super::*;

/// A volume of three admins, the last admitted by the second, each of whom says much; and a reader.
/// Returns it with the statement that ends the last one's membership, said by the second.
fn talkative() -> (Roster, StatementId) {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Admin);
    admit(&mut roster, issuer(1, 3_000), 2, Role::Admin);
    admit(&mut roster, issuer(0, 3_500), 3, Role::Reader);
    for name in 0..15 {
        for admin in 0..3 {
            let invite = invite(16 * u8::try_from(admin).unwrap() + name);
            let issuer = issuer(admin, 4_000 + u64::from(name));
            roster.invite(issuer, invite, Role::Reader, 9_000).unwrap();
        }
        let name = format!("reader-{name}");
        let by = issuer(3, 4_000);
        roster.rename(by, &id(3), &name).unwrap();
    }
    let removal = remove(&mut roster, issuer(1, 8_000), 2);
    let removal = StatementId(blake3::hash(&removal).into());
    (roster, removal)
}

/// Ends the one admission of a peer.
fn remove(roster: &mut Roster, by: Issuer<'_>, peer: usize) -> Vec<u8> {
    let mut removals = roster.remove(by, &id(peer)).unwrap();
    assert_eq!(removals.len(), 1);
    removals.remove(0)
}

/// Returns the statements of a roster in some order.
fn shuffled(roster: &Roster, rng: &Rng) -> Vec<Vec<u8>> {
    let mut statements: Vec<Vec<u8>> = roster.statements().map(<[u8]>::to_vec).collect();
    for at in (1..statements.len()).rev() {
        statements.swap(at, rng.below(at as u64 + 1) as usize);
    }
    statements
}

/// Merges statements a few at a time.
fn merged(of: &Roster, pinned: &[StatementId], max: usize, rng: &Rng) -> Roster {
    let mut roster = Roster::empty(of.volume());
    roster.pin(Arc::new(pinned.iter().copied().collect()));
    let statements = shuffled(of, rng);
    let mut rest = &statements[..];
    while !rest.is_empty() {
        let (some, more) = rest.split_at(rest.len().min(1 + rng.below(9) as usize));
        roster.merge_within(some.iter().map(Vec::as_slice), max);
        rest = more;
    }
    // What came before its authority had gone comes again.
    roster.merge_within(statements.iter().map(Vec::as_slice), max);
    roster
}

#[test]
fn of_more_statements_than_a_roster_holds_all_keep_the_same() {
    let (all, removal) = talkative();
    assert!(all.statement_count() > 45);
    for seed in 0..40 {
        let rng = Rng::from_seed(seed);
        let max = 6 + rng.below(40) as usize;
        let pinned: &[StatementId] = if seed % 2 == 0 { &[] } else { &[removal] };
        let mut one = merged(&all, pinned, max, &rng);
        let mut two = merged(&all, pinned, max, &rng);
        assert_eq!(one.digest(), two.digest(), "seed {seed}, {max}");
        assert_eq!(one.statement_count(), max, "seed {seed}");
        // Nothing more comes of it when they exchange what they keep.
        for (to, from) in [(&mut one, two.clone()), (&mut two, all.clone())] {
            let statements: Vec<&[u8]> = from.statements().collect();
            let merged = to.merge_within(statements, max);
            assert_eq!((merged.added, merged.refused), (0, 0), "seed {seed}");
        }
        assert_eq!(one.digest(), two.digest(), "seed {seed}");
        // Each has its authority.
        assert_eq!(one.statements().count(), max);
    }
}

#[test]
fn what_a_record_names_is_kept_with_what_it_rests_on() {
    let (all, removal) = talkative();
    for seed in 0..10 {
        let rng = Rng::from_seed(seed);
        let spare = merged(&all, &[], 24, &rng);
        assert!(spare.ending(removal).is_none(), "it is the last of all");
        let kept = merged(&all, &[removal], 24, &rng);
        assert!(kept.ending(removal).is_some());
        assert_eq!(kept.role_of(&id(2)), None);
        assert_eq!(kept.role_of(&id(1)), Some(Role::Admin));
    }
}

#[test]
fn who_floods_a_roster_pushes_out_nothing_that_was_said_above() {
    let (all, _) = talkative();
    let said = |roster: &Roster, by: usize| {
        let invites = roster.invites();
        invites.iter().filter(|invite| invite.by == id(by)).count()
    };
    let kept = merged(&all, &[], 30, &Rng::from_seed(1));
    assert_eq!((said(&kept, 0), said(&kept, 2)), (15, 0));
}

#[test]
fn no_later_word_of_a_member_takes_the_place_of_a_leave_that_a_record_names() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Writer);
    let mut copy = roster.clone();
    let first = remove(&mut roster, issuer(1, 3_000), 1);
    let again = remove(&mut copy, issuer(1, 4_000), 1);
    let named = StatementId(blake3::hash(&first).into());
    let mut unaware = roster.clone();
    assert_eq!(unaware.merge([&again[..]]).added, 1);
    assert!(unaware.ending(named).is_none());

    let pinned: Arc<BTreeSet<StatementId>> = Arc::new([named].into());
    roster.pin(Arc::clone(&pinned));
    assert_eq!(roster.merge([&again[..]]).added, 0);
    assert!(roster.ending(named).is_some());
    // Who had the later one takes it once it knows of the record.
    unaware.pin(pinned);
    assert_eq!(unaware.merge([&first[..]]).added, 1);
    assert_eq!(unaware.digest(), roster.digest());
    assert_eq!(unaware.role_of(&id(1)), None);
}
