//! Tests of the roster: who may what, and that merging is a join of sets.

mod changes;
mod full;
mod stored;

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::base::{LogId, Rng};
use crate::crypto::Identity;
use crate::wire::limits::{SHOWN_MAX, STATEMENT_MAX_BYTES};

static PEERS: LazyLock<Vec<Identity>> = LazyLock::new(|| {
    (0..7)
        .map(|seed| Identity::generate(&Rng::from_seed(seed)).unwrap())
        .collect()
});

/// Identities behind phrases.
static PHRASES: LazyLock<Vec<Identity>> = LazyLock::new(|| {
    (20..23)
        .map(|seed| Identity::generate(&Rng::from_seed(seed)).unwrap())
        .collect()
});

/// What issuers here have folded.
static NOTHING: Vector = Vector::new();

fn lookup(phrase: u8) -> RecoveryId {
    RecoveryId::of_secret(&[phrase; 32])
}

fn issuer(peer: usize, ms: u64) -> Issuer<'static> {
    Issuer {
        identity: &PEERS[peer],
        stamp: Stamp::from_ms(ms),
        shown: &NOTHING,
    }
}

fn id(peer: usize) -> PeerId {
    PEERS[peer].id()
}

/// A volume made by peer 0 at 1,000 ms.
fn volume() -> Roster {
    Roster::create(issuer(0, 1_000), "zero", &Rng::from_seed(1)).unwrap()
}

fn admit(roster: &mut Roster, by: Issuer<'_>, peer: usize, role: Role) -> Vec<u8> {
    roster
        .admit(
            by,
            &PEERS[peer].public(),
            role,
            &format!("peer-{peer}"),
            None,
        )
        .unwrap()
}

fn invite(name: u8) -> InviteId {
    InviteId::of_secret(&[name; 16])
}

#[test]
fn the_maker_is_the_first_admin_and_the_volume_is_named_by_the_genesis() {
    let roster = volume();
    assert_eq!(roster.role_of(&id(0)), Some(Role::Admin));
    assert_eq!(roster.member(&id(0)).unwrap().name, "zero");
    assert_eq!(roster.member(&id(0)).unwrap().identity, PEERS[0].public());
    let genesis = roster.statements().next().unwrap();
    assert_eq!(roster.volume(), VolumeId(blake3::hash(genesis).into()));
    let other = Roster::create(issuer(0, 1_000), "zero", &Rng::from_seed(2)).unwrap();
    assert_ne!(other.volume(), roster.volume());
}

#[test]
fn a_joiner_that_knows_the_volume_id_learns_its_members() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Writer);
    let mut joiner = Roster::empty(roster.volume());
    assert!(!joiner.has_genesis() && joiner.members().len() == 0);
    let merged = joiner.merge(roster.statements());
    assert_eq!((merged.added, merged.unattached, merged.refused), (2, 0, 0));
    assert!(joiner.has_genesis());
    assert_eq!(joiner, roster);
    assert_eq!(joiner.digest(), roster.digest());
    assert_eq!(joiner.author(PEERS[1].device()).unwrap().id, id(1));
    // Another volume's genesis has another id: it is nothing here.
    let other = Roster::create(issuer(2, 1_000), "two", &Rng::from_seed(2)).unwrap();
    assert_eq!(joiner.merge_roster(&other).refused, 1);
    assert_eq!(joiner, roster);
}

#[test]
fn only_admins_issue() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Writer);
    let refused = roster.invite(issuer(1, 3_000), invite(1), Role::Reader, 9_000);
    assert_eq!(refused, Err(RosterError::NotAdmin));
    let stranger = roster.admit(
        issuer(2, 3_000),
        &PEERS[3].public(),
        Role::Reader,
        "x",
        None,
    );
    assert_eq!(stranger, Err(RosterError::NotAdmin));

    // A writer that signs all the same, naming its own admission or the genesis as its authority.
    for authority in [roster.member(&id(1)).unwrap().admission, roster.genesis()] {
        let content = statement::Content {
            authority: Some(authority),
            prev: None,
            stamp: Stamp::from_ms(3_000),
            claim: Claim::Admit {
                shown: Vector::new(),
                identity: PEERS[3].public(),
                role: Role::Admin,
                name: "x".into(),
                invite: None,
            },
        };
        let forged = Statement::sign(&PEERS[1], content).unwrap();
        let merged = roster.merge([forged.bytes.as_slice()]);
        assert_eq!((merged.added, merged.refused), (0, 1));
    }
    assert_eq!(roster.role_of(&id(3)), None);
}

#[test]
fn an_invite_is_redeemed_once_by_any_admin_and_in_time() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Admin);
    roster
        .invite(issuer(0, 3_000), invite(1), Role::Reader, 9_000)
        .unwrap();
    let join = |roster: &mut Roster, name, peer: usize, ms| {
        roster.redeem(
            issuer(1, ms),
            invite(name),
            &PEERS[peer].public(),
            "new",
            ms,
        )
    };
    assert_eq!(
        join(&mut roster, 2, 2, 4_000),
        Err(RosterError::InviteUnknown)
    );
    assert_eq!(
        join(&mut roster, 1, 2, 9_000),
        Err(RosterError::InviteExpired)
    );
    join(&mut roster, 1, 2, 8_999).unwrap();
    assert_eq!(roster.role_of(&id(2)), Some(Role::Reader));
    let used = Err(RosterError::InviteUsed { by: id(2) });
    assert_eq!(join(&mut roster, 1, 3, 4_000), used);
}

#[test]
fn of_two_redemptions_of_one_invite_the_senior_one_holds() {
    let mut one = volume();
    admit(&mut one, issuer(0, 2_000), 1, Role::Admin);
    one.invite(issuer(0, 3_000), invite(1), Role::Writer, 9_000)
        .unwrap();
    let mut two = one.clone();
    two.redeem(
        issuer(1, 4_000),
        invite(1),
        &PEERS[2].public(),
        "early",
        4_000,
    )
    .unwrap();
    one.redeem(
        issuer(0, 5_000),
        invite(1),
        &PEERS[3].public(),
        "late",
        5_000,
    )
    .unwrap();
    one.merge_roster(&two);
    two.merge_roster(&one);
    assert_eq!(one, two);
    for roster in [one, two] {
        assert_eq!(roster.role_of(&id(3)), Some(Role::Writer));
        assert_eq!(roster.role_of(&id(2)), None);
    }
}

#[test]
fn removed_members_are_former_ones_and_can_come_back() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Writer);
    assert_eq!(
        roster.remove(issuer(0, 3_000), &id(2)),
        Err(RosterError::NotMember(id(2)))
    );
    roster.remove(issuer(0, 3_000), &id(1)).unwrap();
    assert_eq!(roster.role_of(&id(1)), None);
    assert_eq!(roster.former(&id(1)).unwrap().name, "peer-1");
    assert_eq!(roster.author(PEERS[1].device()).unwrap().id, id(1));
    admit(&mut roster, issuer(0, 4_000), 1, Role::Reader);
    assert_eq!(roster.role_of(&id(1)), Some(Role::Reader));
    assert_eq!(roster.former(&id(1)), None);
    assert_eq!(
        roster.admit(issuer(0, 5_000), &PEERS[1].public(), Role::Admin, "x", None),
        Err(RosterError::AlreadyMember(id(1)))
    );
    assert_eq!(
        roster.remove(issuer(0, 6_000), &id(0)),
        Err(RosterError::LastAdmin)
    );
}

#[test]
fn what_a_removed_admin_issued_before_holds_and_what_it_dates_back_does_not() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Admin);
    admit(&mut roster, issuer(1, 3_000), 2, Role::Writer);
    let mut removed = roster.clone();
    roster.remove(issuer(0, 9_000), &id(1)).unwrap();
    assert_eq!(roster.role_of(&id(2)), Some(Role::Writer));

    admit(&mut removed, issuer(1, 2_500), 3, Role::Admin);
    admit(&mut removed, issuer(3, 2_600), 4, Role::Admin);
    removed.remove(issuer(4, 2_700), &id(0)).unwrap();
    removed.merge_roster(&roster);
    roster.merge_roster(&removed);
    assert_eq!(roster, removed);
    let members: Vec<PeerId> = roster.members().map(|member| member.id).collect();
    let mut expected = vec![id(0), id(2)];
    expected.sort();
    assert_eq!(members, expected);
}

#[test]
fn of_two_admins_that_remove_each_other_the_senior_stays() {
    let mut one = volume();
    admit(&mut one, issuer(0, 2_000), 1, Role::Admin);
    let mut two = one.clone();
    one.remove(issuer(0, 9_000), &id(1)).unwrap();
    two.remove(issuer(1, 3_000), &id(0)).unwrap();
    one.merge_roster(&two);
    two.merge_roster(&one);
    assert_eq!(one, two);
    assert_eq!(one.role_of(&id(0)), Some(Role::Admin));
    assert_eq!(one.role_of(&id(1)), None);
}

#[test]
fn a_junior_admin_can_remove_the_maker_whose_statements_go_on_to_hold() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Admin);
    admit(&mut roster, issuer(0, 3_000), 2, Role::Writer);
    roster.remove(issuer(1, 4_000), &id(0)).unwrap();
    assert_eq!(roster.role_of(&id(0)), None);
    assert_eq!(roster.role_of(&id(1)), Some(Role::Admin));
    assert_eq!(roster.role_of(&id(2)), Some(Role::Writer));
    let refused = roster.invite(issuer(0, 5_000), invite(1), Role::Admin, 9_000);
    assert_eq!(refused, Err(RosterError::NotAdmin));
}

#[test]
fn an_admin_that_left_issues_nothing_more() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Admin);
    admit(&mut roster, issuer(1, 3_000), 2, Role::Writer);
    let mut before = roster.clone();
    roster.remove(issuer(1, 4_000), &id(1)).unwrap();
    assert_eq!(roster.role_of(&id(2)), Some(Role::Writer));
    admit(&mut before, issuer(1, 3_500), 3, Role::Admin);
    roster.merge_roster(&before);
    assert_eq!(roster.role_of(&id(3)), None);
}

#[test]
fn names_that_cannot_be_shown_are_refused() {
    let mut roster = volume();
    let long = "x".repeat(65);
    for name in [
        "",
        " ",
        "a\u{1b}[2J",
        "line\nline",
        "nas\u{202e}",
        "na\u{200b}s",
        &long,
    ] {
        let refused = roster.admit(issuer(0, 2), &PEERS[1].public(), Role::Reader, name, None);
        assert_eq!(refused, Err(RosterError::BadName), "{name:?}");
    }
}

#[test]
fn grants_reach_their_member() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Reader);
    roster.grant(issuer(0, 3_000), id(1), vec![7; 315]).unwrap();
    assert_eq!(roster.grants(&id(1)).collect::<Vec<_>>(), [[7; 315]]);
    assert_eq!(roster.grants(&id(0)).count(), 0);
    let refused = roster.grant(issuer(0, 4_000), id(2), vec![]);
    assert_eq!(refused, Err(RosterError::NotMember(id(2))));
    let refused = roster.grant(issuer(0, 4_000), id(1), vec![0; STATEMENT_MAX_BYTES]);
    assert!(matches!(refused, Err(RosterError::Malformed { .. })));
}

#[test]
fn who_was_admitted_by_an_admin_that_may_not_know_of_an_epoch_lacks_its_keys() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Admin);
    admit(&mut roster, issuer(0, 3_000), 2, Role::Reader);
    let lacking = |roster: &Roster, admin: usize| {
        let lacking = roster.lacks_keys_of(&id(admin)).into_iter();
        lacking.map(|peer| peer.id()).collect::<Vec<_>>()
    };
    assert!(lacking(&roster, 1).is_empty(), "no epoch began");
    for peer in [0, 1, 2] {
        let grant = roster.grant(issuer(1, 4_000), id(peer), vec![7; 315]);
        grant.unwrap();
    }
    assert!(lacking(&roster, 1).is_empty());
    admit(&mut roster, issuer(0, 5_000), 3, Role::Writer);
    admit(&mut roster, issuer(0, 6_000), 4, Role::Storage);
    // It had its keys when it was admitted.
    admit(&mut roster, issuer(1, 7_000), 5, Role::Reader);
    assert_eq!(lacking(&roster, 1), [id(3)]);
    assert!(lacking(&roster, 0).is_empty());
    roster.grant(issuer(1, 8_000), id(3), vec![8; 600]).unwrap();
    assert!(lacking(&roster, 1).is_empty());
}

#[test]
fn every_changed_byte_of_a_statement_is_refused_or_kept_aside() {
    let mut roster = volume();
    let statement = admit(&mut roster, issuer(0, 2_000), 1, Role::Writer);
    for index in 0..statement.len() {
        let mut fresh = volume();
        let mut changed = statement.clone();
        changed[index] ^= 1;
        let merged = fresh.merge([changed.as_slice()]);
        assert_eq!(merged.added, 0, "byte {index}");
        let told = merged.refused + merged.unattached + merged.newer;
        assert_eq!(told, 1, "byte {index}");
        assert_eq!(fresh.merge([&statement[..index]]).added, 0);
    }
    let mut newer = statement;
    newer[0] = 2;
    assert!(matches!(
        Statement::decode(&newer),
        Err(RosterError::TooNew { found: 2, known: 1 })
    ));
}

#[test]
fn statements_without_a_known_issuer_are_kept_aside_within_a_bound() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Admin);
    for name in 0..=UNATTACHED_MAX {
        let invite = InviteId([u8::try_from(name % 256).unwrap(); 32]);
        roster
            .invite(issuer(1, 3_000 + name as u64), invite, Role::Reader, 9_000)
            .unwrap();
    }
    let statements: Vec<&[u8]> = roster.statements().collect();
    let (first, invites) = statements.split_at(2);
    let mut late = Roster::empty(roster.volume());
    let merged = late.merge(invites.iter().copied());
    assert_eq!(
        (merged.added, merged.unattached, merged.refused),
        (0, UNATTACHED_MAX, 1)
    );
    assert_eq!(Roster::from_bytes(&late.to_bytes()).unwrap(), late);
    assert_eq!(late.merge(first.iter().copied()).added, 2 + UNATTACHED_MAX);
    assert_eq!(late.merge_roster(&roster).added, 1);
    assert_eq!(late, roster);
}

#[test]
fn the_order_of_statements_needs_nothing_kept_aside() {
    let mut roster = volume();
    // The stamps of those below lie before the stamps of those above.
    admit(&mut roster, issuer(0, 9_000), 1, Role::Admin);
    admit(&mut roster, issuer(1, 5_000), 2, Role::Admin);
    admit(&mut roster, issuer(2, 3_000), 3, Role::Reader);
    let mut fresh = Roster::empty(roster.volume());
    for statement in roster.statements() {
        assert_eq!(fresh.merge([statement]).added, 1);
    }
    assert_eq!(fresh, roster);
}

#[test]
fn rosters_survive_bytes_and_damaged_ones_are_refused() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Writer);
    let bytes = roster.to_bytes();
    let back = Roster::from_bytes(&bytes).unwrap();
    assert_eq!(back, roster);
    assert_eq!(back.role_of(&id(1)), Some(Role::Writer));
    for cut in (0..bytes.len()).step_by(7) {
        assert!(Roster::from_bytes(&bytes[..cut]).is_err());
    }
    let mut newer = bytes;
    newer[0] = 9;
    assert!(matches!(
        Roster::from_bytes(&newer),
        Err(RosterError::TooNew { found: 9, .. })
    ));
}

/// Something an admin does on one of several copies of the roster.
#[derive(Debug, Clone)]
enum Step {
    Admit(usize, Role),
    Invite(u8),
    Redeem(u8, usize),
    Remove(usize),
    Grant(usize),
    Role(usize, Role),
    Rename(usize, u8),
    Revoke(u8),
    Recovery(u8),
    EndRecovery,
    Learn(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0..PEERS_IN_LAWS;
    let role = prop_oneof![3 => Just(Role::Admin), 1 => prop::sample::select(&Role::ALL[..])];
    prop_oneof![
        4 => (peer.clone(), role).prop_map(|(peer, role)| Step::Admit(peer, role)),
        1 => (0u8..3).prop_map(Step::Invite),
        2 => (0u8..3, peer.clone()).prop_map(|(name, peer)| Step::Redeem(name, peer)),
        3 => peer.clone().prop_map(Step::Remove),
        1 => peer.clone().prop_map(Step::Grant),
        4 => (peer.clone(), prop::sample::select(&Role::ALL[..]))
            .prop_map(|(peer, role)| Step::Role(peer, role)),
        2 => (peer, 0u8..4).prop_map(|(peer, name)| Step::Rename(peer, name)),
        1 => (0u8..3).prop_map(Step::Revoke),
        2 => (0u8..3).prop_map(Step::Recovery),
        1 => Just(Step::EndRecovery),
        2 => (0..COPIES).prop_map(Step::Learn),
    ]
}

const PEERS_IN_LAWS: usize = 7;
const ISSUERS_IN_LAWS: usize = 5;
const COPIES: usize = 3;

/// Returns copies of one volume's roster on which admins worked apart from one another.
fn worked_on(steps: Vec<(usize, usize, u64, Step)>) -> Vec<Roster> {
    let mut copies = vec![volume(); COPIES];
    for (at, by, ms, step) in steps {
        // The last are those behind the phrases.
        let by = match by.checked_sub(ISSUERS_IN_LAWS) {
            None => issuer(by, ms),
            Some(phrase) => Issuer {
                identity: &PHRASES[phrase],
                stamp: Stamp::from_ms(ms),
                shown: &NOTHING,
            },
        };
        let mut roster = copies[at].clone();
        // What is not allowed changes nothing, and is one of the cases.
        match step {
            Step::Admit(peer, role) => {
                let _ = roster.admit(by, &PEERS[peer].public(), role, "peer", None);
            }
            Step::Invite(name) => {
                let _ = roster.invite(by, invite(name), Role::Admin, 1 << 40);
            }
            Step::Redeem(name, peer) => {
                let _ = roster.redeem(by, invite(name), &PEERS[peer].public(), "peer", ms);
            }
            Step::Remove(peer) => {
                let _ = roster.remove(by, &id(peer));
            }
            Step::Grant(peer) => {
                let _ = roster.grant(by, id(peer), vec![1; 40]);
            }
            Step::Role(peer, role) => {
                let _ = roster.set_role(by, &id(peer), role);
            }
            Step::Rename(peer, name) => {
                let _ = roster.rename(by, &id(peer), &format!("name-{name}"));
            }
            Step::Revoke(name) => {
                let _ = roster.revoke(by, invite(name));
            }
            Step::Recovery(phrase) => {
                let secrets = &PHRASES[usize::from(phrase)];
                let _ = roster.set_recovery(by, &secrets.public(), lookup(phrase), vec![1; 40]);
            }
            Step::EndRecovery => {
                let _ = roster.end_recovery(by);
            }
            Step::Learn(from) => {
                roster.merge_roster(&copies[from]);
            }
        }
        copies[at] = roster;
    }
    copies
}

/// What a roster says to its readers.
#[derive(Debug, PartialEq)]
struct Meaning {
    digest: [u8; 32],
    members: Vec<Member>,
    former: Vec<Option<Member>>,
    left: Vec<bool>,
    recoveries: Vec<Recovery>,
    invites: Vec<Result<Role, RosterError>>,
    statements: Vec<Vec<u8>>,
}

fn meaning(roster: &Roster) -> Meaning {
    Meaning {
        digest: roster.digest(),
        members: roster.members().cloned().collect(),
        former: PEERS
            .iter()
            .map(|peer| roster.former(&peer.id()).cloned())
            .collect(),
        left: PEERS
            .iter()
            .map(|peer| roster.has_left(&peer.id()))
            .collect(),
        recoveries: roster.recoveries().to_vec(),
        invites: (0..3)
            .map(|name| roster.invite_role(invite(name), 1_000))
            .collect(),
        statements: roster.statements().map(<[u8]>::to_vec).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn merging_is_commutative_associative_and_idempotent(
        steps in prop::collection::vec(
            (0..COPIES, 0..ISSUERS_IN_LAWS + 2, 1_000..9_000u64, step()),
            0..32,
        ),
        shuffle in prop::collection::vec(any::<Index>(), 64),
    ) {
        let copies = worked_on(steps);
        let merged = |order: [usize; 3]| {
            let mut roster = copies[order[0]].clone();
            roster.merge_roster(&copies[order[1]]);
            roster.merge_roster(&copies[order[2]]);
            roster
        };
        let all = merged([0, 1, 2]);
        for order in [[0, 2, 1], [1, 2, 0], [2, 1, 0]] {
            prop_assert_eq!(&merged(order), &all);
            prop_assert_eq!(meaning(&merged(order)), meaning(&all));
        }
        let mut right = copies[1].clone();
        right.merge_roster(&copies[2]);
        let mut grouped = copies[0].clone();
        grouped.merge_roster(&right);
        prop_assert_eq!(&grouped, &all);
        grouped.merge_roster(&all);
        prop_assert_eq!(&grouped, &all);

        // One statement after the other, in any order.
        let mut statements: Vec<&[u8]> = all.statements().collect();
        let mut single = Roster::empty(all.volume());
        for index in shuffle.iter().cycle() {
            if statements.is_empty() {
                break;
            }
            let next = statements.swap_remove(index.index(statements.len()));
            single.merge([next]);
        }
        prop_assert_eq!(&single, &all);
        prop_assert_eq!(meaning(&single), meaning(&all));
        prop_assert_eq!(Roster::from_bytes(&all.to_bytes()).unwrap(), all);
    }

    /// Whatever admins did apart from one another: those may issue whose role says so, and nobody is
    /// both a member and a former one.
    #[test]
    fn what_a_roster_says_agrees_with_itself(
        steps in prop::collection::vec(
            (0..COPIES, 0..ISSUERS_IN_LAWS + 2, 1_000..9_000u64, step()),
            0..32,
        ),
    ) {
        let copies = worked_on(steps);
        let mut all = copies[0].clone();
        all.merge_roster(&copies[1]);
        all.merge_roster(&copies[2]);
        for (at, peer) in PEERS.iter().enumerate() {
            prop_assert!(!(all.member(&peer.id()).is_some() && all.former(&peer.id()).is_some()));
            prop_assert!(!all.has_left(&peer.id()) || all.former(&peer.id()).is_some());
            let mut trial = all.clone();
            let may = trial.invite(issuer(at, 10_000), invite(9), Role::Reader, 1 << 40);
            let role = all.role_of(&peer.id());
            prop_assert_eq!(may.is_ok(), role == Some(Role::Admin), "peer {} is {:?}", at, role);
            if may.is_ok() {
                // What the roster lets an admin issue holds on it.
                prop_assert_eq!(trial.invite_role(invite(9), 0), Ok(Role::Reader));
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at: Index) {
        prop_assert!(Statement::decode(&bytes).is_err());
        let _ = Roster::from_bytes(&bytes);
        let mut roster = volume();
        let _ = roster.merge([bytes.as_slice()]);
        let mut honest = roster.to_bytes();
        let from = at.index(honest.len());
        let until = honest.len().min(from + bytes.len());
        honest[from..until].copy_from_slice(&bytes[..until - from]);
        let _ = Roster::from_bytes(&honest);
    }
}
