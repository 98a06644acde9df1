//! Tests of what changes for members: roles, names, leaves, invites taken back, recovery phrases.

use super::*;

/// Merges two copies into each other, and returns what both are then.
fn met(mut one: Roster, mut two: Roster) -> Roster {
    one.merge_roster(&two);
    two.merge_roster(&one);
    assert_eq!(one, two);
    assert_eq!(meaning(&one), meaning(&two));
    one
}

fn recover(roster: &mut Roster, by: Issuer<'_>, phrase: u8) {
    let secrets = PHRASES[usize::from(phrase)].public();
    roster
        .set_recovery(by, &secrets, lookup(phrase), vec![7; 40])
        .unwrap();
}

fn behind(phrase: usize, ms: u64) -> Issuer<'static> {
    Issuer {
        identity: &PHRASES[phrase],
        stamp: Stamp::from_ms(ms),
        shown: &NOTHING,
    }
}

#[test]
fn who_was_joined_by_a_writer_is_never_the_sole_author_again() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Reader);
    admit(&mut roster, issuer(0, 2_100), 2, Role::Storage);
    roster.remove(issuer(0, 2_200), &id(1)).unwrap();
    assert!(roster.is_sole_author(&id(0)));
    let mut phrased = roster.clone();
    let behind = PHRASES[0].public();
    phrased
        .set_recovery(issuer(0, 2_300), &behind, lookup(0), vec![1])
        .unwrap();
    assert!(!phrased.is_sole_author(&id(0)));
    admit(&mut roster, issuer(0, 3_000), 3, Role::Writer);
    assert!(!roster.is_sole_author(&id(0)));
    roster.remove(issuer(0, 4_000), &id(3)).unwrap();
    assert!(!roster.is_sole_author(&id(0)));
}

#[test]
fn what_ends_the_right_to_write_is_what_holds_and_took_it_from_somebody() {
    let mut roster = volume();
    let on = |roster: &Roster, peer| roster.member(&id(peer)).unwrap().admission;
    let ends = |roster: &Roster| roster.endings().collect::<Vec<_>>();
    for (peer, role) in [(1, Role::Writer), (2, Role::Admin), (3, Role::Storage)] {
        admit(&mut roster, issuer(0, 2_000), peer, role);
    }
    // A storage peer never wrote, and who may do more goes on.
    roster.remove(issuer(0, 2_100), &id(3)).unwrap();
    let first = on(&roster, 1);
    roster
        .set_role(issuer(0, 2_200), &id(1), Role::Admin)
        .unwrap();
    assert_eq!(ends(&roster), []);
    let second = on(&roster, 1);
    assert_eq!(roster.line(second), [second, first]);
    assert_eq!(roster.lets_write(first, PEERS[1].device()), Some(true));
    assert_eq!(roster.lets_write(first, PEERS[2].device()), Some(false));
    assert_eq!(
        roster.lets_write(StatementId([0; 32]), PEERS[1].device()),
        None
    );
    let other = roster.clone();
    // A reader writes no more by what it had before, whatever it is later.
    roster
        .set_role(issuer(0, 2_300), &id(1), Role::Reader)
        .unwrap();
    let reader = ends(&roster);
    let ended = roster.ending(reader[0]).unwrap();
    assert_eq!((reader.len(), ended.removed), (1, None));
    assert_eq!(ended.admissions, [second.0, first.0]);
    roster
        .set_role(issuer(0, 2_400), &id(1), Role::Writer)
        .unwrap();
    assert_eq!(ends(&roster), reader);
    assert!(!ended.admissions.contains(&on(&roster, 1).0));
    // Where another admin let it write at the same time, it goes on.
    let mut beside = other.clone();
    beside
        .set_role(issuer(2, 2_350), &id(1), Role::Writer)
        .unwrap();
    let mut both = other.clone();
    both.set_role(issuer(0, 2_300), &id(1), Role::Reader)
        .unwrap();
    let both = met(both, beside);
    assert_eq!(both.role_of(&id(1)), Some(Role::Writer));
    assert_eq!(ends(&both), []);
    // A removal ends all that took the place of what it ends.
    let mut removed = other.clone();
    removed.remove(issuer(0, 2_500), &id(1)).unwrap();
    let removals = ends(&removed);
    let of = |id: &StatementId| removed.ending(*id).unwrap().removed;
    let of: Vec<_> = removals.iter().filter_map(of).collect();
    assert!(of.contains(&first.0) && of.contains(&second.0));
    // One by an admin that had no right to it any more ends nothing.
    let mut junior = other.clone();
    junior.remove(issuer(2, 2_500), &id(1)).unwrap();
    let mut senior = other;
    senior.remove(issuer(0, 2_400), &id(2)).unwrap();
    let both = met(junior, senior);
    assert!(both.member(&id(1)).is_some());
    assert_eq!(ends(&both).len(), 1, "that of the junior admin alone");
    // What is not here cannot be told.
    assert_eq!(Roster::empty(both.volume()).ending(removals[0]), None);
}

#[test]
fn a_member_is_told_what_it_has_to_have_first() {
    let mut roster = volume();
    let [first, second] = [
        [(LogId(1), 5)].into(),
        [(LogId(1), 7), (LogId(2), 1)].into(),
    ];
    let by = |ms, shown| Issuer {
        shown,
        ..issuer(0, ms)
    };
    admit(&mut roster, by(2_000, &first), 1, Role::Reader);
    assert_eq!(roster.shown_to(&id(1)), first);
    roster
        .set_role(by(3_000, &second), &id(1), Role::Writer)
        .unwrap();
    assert_eq!(roster.shown_to(&id(1)), second);
    assert_eq!(roster.shown_to(&id(0)), Vector::new());
    let too_many = (0..=SHOWN_MAX as u64).map(|log| (LogId(log), 1)).collect();
    let refused = roster.set_role(by(4_000, &too_many), &id(1), Role::Admin);
    assert!(matches!(refused, Err(RosterError::Malformed { .. })));
}

#[test]
fn a_member_that_is_made_admin_issues_and_one_that_is_none_any_more_does_not() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Writer);
    let writer = Err(RosterError::NotAdmin);
    assert_eq!(
        roster.set_role(issuer(1, 3_000), &id(1), Role::Admin),
        writer
    );
    roster
        .set_role(issuer(0, 3_000), &id(1), Role::Admin)
        .unwrap();
    assert_eq!(roster.role_of(&id(1)), Some(Role::Admin));
    assert_eq!(roster.member(&id(1)).unwrap().name, "peer-1");
    assert_eq!(
        roster.member(&id(1)).unwrap().admitted,
        Stamp::from_ms(2_000)
    );
    admit(&mut roster, issuer(1, 4_000), 2, Role::Writer);
    assert_eq!(
        roster.set_role(issuer(1, 5_000), &id(1), Role::Admin),
        Err(RosterError::SameRole(Role::Admin))
    );
    let mut aside = roster.clone();
    roster
        .set_role(issuer(0, 6_000), &id(1), Role::Reader)
        .unwrap();
    assert_eq!(roster.role_of(&id(1)), Some(Role::Reader));
    // What it admitted stays, what it dates back does not come to hold.
    assert_eq!(roster.role_of(&id(2)), Some(Role::Writer));
    admit(&mut aside, issuer(1, 4_500), 3, Role::Admin);
    let roster = met(roster, aside);
    assert_eq!(roster.role_of(&id(3)), None);
    assert_eq!(roster.role_of(&id(1)), Some(Role::Reader));
    assert_eq!(roster.members().len(), 3);
}

#[test]
fn who_wrote_once_is_known_as_an_author_whatever_its_role_is_now() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Writer);
    admit(&mut roster, issuer(0, 2_000), 2, Role::Reader);
    roster
        .set_role(issuer(0, 3_000), &id(1), Role::Reader)
        .unwrap();
    let author = |peer: usize| roster.author(PEERS[peer].device()).unwrap();
    assert!(author(1).wrote && !author(1).role.writes());
    assert!(!author(2).wrote);
}

#[test]
fn a_removal_wins_over_a_change_of_role_that_it_did_not_know() {
    let mut one = volume();
    admit(&mut one, issuer(0, 2_000), 1, Role::Writer);
    admit(&mut one, issuer(0, 2_000), 2, Role::Admin);
    one.set_role(issuer(0, 2_500), &id(1), Role::Reader)
        .unwrap();
    let mut two = one.clone();
    one.remove(issuer(2, 3_000), &id(1)).unwrap();
    two.set_role(issuer(0, 9_000), &id(1), Role::Admin).unwrap();
    let roster = met(one, two);
    assert_eq!(roster.role_of(&id(1)), None);
    assert!(roster.former(&id(1)).is_some());
}

#[test]
fn of_two_roles_given_at_one_time_the_greater_holds_and_the_next_change_ends_both() {
    let mut one = volume();
    admit(&mut one, issuer(0, 2_000), 1, Role::Writer);
    admit(&mut one, issuer(0, 2_000), 2, Role::Admin);
    let mut two = one.clone();
    one.set_role(issuer(2, 3_000), &id(1), Role::Admin).unwrap();
    two.set_role(issuer(0, 4_000), &id(1), Role::Reader)
        .unwrap();
    let mut roster = met(one, two);
    assert_eq!(roster.role_of(&id(1)), Some(Role::Admin));
    roster
        .set_role(issuer(2, 5_000), &id(1), Role::Storage)
        .unwrap();
    assert_eq!(roster.role_of(&id(1)), Some(Role::Storage));
    assert_eq!(roster.view.admissions[&id(1)].len(), 1);
    roster.remove(issuer(0, 6_000), &id(1)).unwrap();
    assert_eq!(roster.role_of(&id(1)), None);
}

#[test]
fn the_last_admin_stays_one_while_others_are_there() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Writer);
    let last = Err(RosterError::LastAdmin);
    assert_eq!(
        roster.set_role(issuer(0, 3_000), &id(0), Role::Writer),
        last
    );
    assert_eq!(
        roster.remove(issuer(0, 3_000), &id(0)),
        Err(RosterError::LastAdmin)
    );
    roster
        .set_role(issuer(0, 3_000), &id(1), Role::Admin)
        .unwrap();
    roster
        .set_role(issuer(0, 4_000), &id(0), Role::Writer)
        .unwrap();
    assert_eq!(roster.role_of(&id(0)), Some(Role::Writer));
    let refused = roster.invite(issuer(0, 5_000), invite(1), Role::Reader, 9_000);
    assert_eq!(refused, Err(RosterError::NotAdmin));
    roster.remove(issuer(0, 5_000), &id(0)).unwrap();
    assert!(roster.has_left(&id(0)));
    // The last member may go.
    roster.remove(issuer(1, 6_000), &id(1)).unwrap();
    assert_eq!(roster.members().len(), 0);
}

#[test]
fn members_leave_by_their_own_word_and_nobody_elses() {
    let mut roster = volume();
    for peer in [1, 2] {
        admit(&mut roster, issuer(0, 2_000), peer, Role::Storage);
    }
    assert_eq!(
        roster.remove(issuer(2, 3_000), &id(1)),
        Err(RosterError::NotAdmin)
    );
    roster.remove(issuer(1, 3_000), &id(1)).unwrap();
    assert_eq!(roster.role_of(&id(1)), None);
    assert!(roster.has_left(&id(1)) && !roster.has_left(&id(2)));
    assert_eq!(roster.former(&id(1)).unwrap().name, "peer-1");
    roster.remove(issuer(0, 4_000), &id(2)).unwrap();
    assert!(!roster.has_left(&id(2)));
    admit(&mut roster, issuer(0, 5_000), 1, Role::Writer);
    assert!(!roster.has_left(&id(1)));

    // A member that ends another's admission all the same, under its own.
    let own = roster.member(&id(1)).unwrap().admission;
    for claim in [
        Claim::Remove {
            admission: roster.genesis(),
            keep: Vec::new(),
        },
        Claim::Rename {
            peer: id(0),
            name: "x".into(),
        },
        Claim::Revoke { invite: invite(1) },
    ] {
        let content = statement::Content {
            authority: Some(own),
            prev: None,
            stamp: Stamp::from_ms(6_000),
            claim,
        };
        let forged = Statement::sign(&PEERS[1], content).unwrap();
        assert_eq!(roster.merge([forged.bytes.as_slice()]).refused, 1);
    }
}

#[test]
fn names_are_given_by_their_owner_and_by_admins_and_the_newest_holds() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Reader);
    admit(&mut roster, issuer(0, 2_000), 2, Role::Reader);
    assert_eq!(
        roster.rename(issuer(1, 3_000), &id(2), "x"),
        Err(RosterError::NotAdmin)
    );
    assert_eq!(
        roster.rename(issuer(1, 3_000), &id(1), "a\u{200b}"),
        Err(RosterError::BadName)
    );
    // Far in the future: the next one is newer all the same.
    roster.rename(issuer(1, 1 << 40), &id(1), "laptop").unwrap();
    assert_eq!(roster.member(&id(1)).unwrap().name, "laptop");
    roster.rename(issuer(0, 4_000), &id(1), "vm").unwrap();
    assert_eq!(roster.member(&id(1)).unwrap().name, "vm");
    roster
        .set_role(issuer(0, 5_000), &id(1), Role::Writer)
        .unwrap();
    assert_eq!(roster.member(&id(1)).unwrap().name, "vm");
    roster.rename(issuer(1, 6_000), &id(1), "desk").unwrap();
    roster.remove(issuer(0, 7_000), &id(1)).unwrap();
    assert_eq!(roster.former(&id(1)).unwrap().name, "desk");
}

#[test]
fn a_member_cannot_fill_the_roster_with_what_it_says_of_itself() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Storage);
    let before = roster.statement_count();
    let mut words = Vec::new();
    for turn in 0..50u64 {
        let name = format!("name-{turn}");
        words.push(
            roster
                .rename(issuer(1, 3_000 + turn), &id(1), &name)
                .unwrap(),
        );
    }
    assert_eq!(roster.statement_count(), before + 1);
    assert_eq!(roster.member(&id(1)).unwrap().name, "name-49");
    // An older one that comes late is nothing new, in whichever order they come.
    let mut late = roster.clone();
    let merged = late.merge(words.iter().rev().map(Vec::as_slice));
    assert_eq!((merged.added, merged.refused), (0, 0));
    assert_eq!(late.digest(), roster.digest());
    roster.remove(issuer(1, 9_000), &id(1)).unwrap();
    assert_eq!(roster.statement_count(), before + 2);
}

#[test]
fn an_invite_that_was_taken_back_admits_nobody() {
    let mut roster = volume();
    roster
        .invite(issuer(0, 2_000), invite(1), Role::Writer, 9_000)
        .unwrap();
    roster
        .invite(issuer(0, 2_001), invite(2), Role::Reader, 9_000)
        .unwrap();
    roster.revoke(issuer(0, 3_000), invite(1)).unwrap();
    assert_eq!(
        roster.redeem(issuer(0, 4_000), invite(1), &PEERS[1].public(), "x", 4_000),
        Err(RosterError::InviteRevoked)
    );
    assert_eq!(
        roster.revoke(issuer(0, 4_000), invite(3)),
        Err(RosterError::InviteUnknown)
    );
    roster
        .redeem(issuer(0, 4_000), invite(2), &PEERS[1].public(), "x", 4_000)
        .unwrap();
    assert_eq!(
        roster.revoke(issuer(0, 5_000), invite(2)),
        Err(RosterError::InviteUsed { by: id(1) })
    );
    let listed = roster.invites();
    let told: Vec<_> = listed
        .iter()
        .map(|invite| (invite.role, invite.used_by, invite.revoked, invite.by))
        .collect();
    assert_eq!(
        told,
        [
            (Role::Writer, None, true, id(0)),
            (Role::Reader, Some(id(1)), false, id(0))
        ]
    );
}

#[test]
fn a_phrase_is_an_admin_but_no_member() {
    let mut roster = volume();
    admit(&mut roster, issuer(0, 2_000), 1, Role::Storage);
    let refused = roster.set_recovery(
        issuer(1, 3_000),
        &PHRASES[0].public(),
        lookup(0),
        vec![7; 40],
    );
    assert_eq!(refused, Err(RosterError::NotAdmin));
    recover(&mut roster, issuer(0, 3_000), 0);
    assert_eq!(roster.members().len(), 2);
    assert_eq!(roster.role_of(&PHRASES[0].id()), None);
    assert_eq!(roster.recoveries()[0].by, id(0));
    let (identity, sealed) = roster.recovery(lookup(0)).unwrap();
    assert_eq!((identity.id(), sealed.len()), (PHRASES[0].id(), 40));
    roster
        .grant(issuer(0, 3_000), PHRASES[0].id(), vec![1; 315])
        .unwrap();
    // A phrase is no second admin: the last one cannot go because of it.
    assert_eq!(
        roster.remove(issuer(0, 4_000), &id(0)),
        Err(RosterError::LastAdmin)
    );
    admit(&mut roster, behind(0, 4_000), 2, Role::Admin);
    assert_eq!(roster.role_of(&id(2)), Some(Role::Admin));
    admit(&mut roster, issuer(2, 5_000), 3, Role::Writer);
    assert_eq!(roster.role_of(&id(3)), Some(Role::Writer));
}

#[test]
fn a_new_phrase_ends_the_old_one_whoever_made_it() {
    let mut roster = volume();
    recover(&mut roster, issuer(0, 2_000), 0);
    admit(&mut roster, issuer(0, 3_000), 1, Role::Admin);
    let mut thief = roster.clone();
    // Made by an admin that came after the phrase.
    recover(&mut roster, issuer(1, 4_000), 1);
    assert_eq!(roster.recoveries().len(), 1);
    assert_eq!(roster.recovery(lookup(0)), None);
    admit(&mut thief, behind(0, 2_500), 4, Role::Admin);
    thief.remove(behind(0, 2_600), &id(1)).unwrap();
    let mut roster = met(roster, thief);
    assert_eq!(roster.role_of(&id(4)), None);
    assert_eq!(roster.role_of(&id(1)), Some(Role::Admin));
    assert_eq!(roster.end_recovery(issuer(0, 5_000)), Ok(1));
    assert!(roster.recoveries().is_empty());
}

#[test]
fn who_came_in_by_a_phrase_ends_it_for_good() {
    let mut roster = volume();
    recover(&mut roster, issuer(0, 2_000), 0);
    admit(&mut roster, behind(0, 3_000), 1, Role::Admin);
    let mut thief = roster.clone();
    recover(&mut roster, issuer(1, 4_000), 1);
    assert_eq!(roster.role_of(&id(1)), Some(Role::Admin));
    assert_eq!(roster.recoveries().len(), 1);
    // The phrase is found by somebody, who dates its work back.
    admit(&mut thief, behind(0, 2_500), 4, Role::Admin);
    thief.remove(issuer(4, 2_600), &id(0)).unwrap();
    let roster = met(roster, thief);
    assert_eq!(roster.role_of(&id(4)), None);
    assert_eq!(roster.role_of(&id(0)), Some(Role::Admin));
    assert_eq!(roster.role_of(&id(1)), Some(Role::Admin));
    assert_eq!(roster.recovery(lookup(0)), None);
    assert!(roster.recovery(lookup(1)).is_some());
}

#[test]
fn of_two_that_end_the_phrase_that_let_both_in_the_senior_stays() {
    let mut roster = volume();
    recover(&mut roster, issuer(0, 2_000), 0);
    let (mut one, mut two) = (roster.clone(), roster);
    admit(&mut one, behind(0, 3_000), 1, Role::Admin);
    recover(&mut one, issuer(1, 4_000), 1);
    admit(&mut two, behind(0, 3_500), 2, Role::Admin);
    recover(&mut two, issuer(2, 3_600), 2);
    let roster = met(one, two);
    assert_eq!(roster.role_of(&id(1)), Some(Role::Admin));
    assert_eq!(roster.role_of(&id(2)), None);
    assert_eq!(roster.recoveries().len(), 1);
    assert!(roster.recovery(lookup(1)).is_some());
}
