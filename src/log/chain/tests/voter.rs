//! What one of three voters answers, believes and waits for, whoever says what when.

use std::time::Duration;

use super::super::core::Output;
use super::super::{Agreement, BEAT, Ballot, Certificate, Message, Notary, Record, Row, Tip, Vote};
use super::{Stub, first_row, genesis, next, volume_of, voters};
use crate::base::DeviceId;
use crate::wire::RecordRef;

const ME: DeviceId = DeviceId(1);
const TWO: DeviceId = DeviceId(2);
const THREE: DeviceId = DeviceId(3);
/// No voter.
const STRANGER: DeviceId = DeviceId(9);

/// How long a leader that was heard is left in peace, and how long one goes on that nobody answers.
const LEASE: Duration = Duration::from_secs(8);
const ALONE_MAX: Duration = Duration::from_secs(12);

/// A notary that does not endorse one record.
struct But(Stub, Option<[u8; 32]>);

impl Notary for But {
    fn sign(&self, vote: &Vote) -> crate::crypto::Signature {
        self.0.sign(vote)
    }
    fn verify(&self, device: DeviceId, vote: &Vote, signature: &crate::crypto::Signature) -> bool {
        self.0.verify(device, vote, signature)
    }
    fn may_begin_era(&self, device: DeviceId) -> bool {
        self.0.may_begin_era(device)
    }
    fn seniority(&self, device: DeviceId) -> Option<u64> {
        self.0.seniority(device)
    }
    fn ends(&self, record: &Record, device: DeviceId) -> bool {
        self.0.ends(record, device)
    }
    fn endorses(&self, record: &Record) -> bool {
        Some(record.hash()) != self.1
    }
}

/// One of three voters, and its clock.
struct One {
    agreement: Agreement,
    now: Duration,
    notary: But,
}

impl One {
    fn new(change: impl FnOnce(&mut Row)) -> Self {
        let first = genesis(&[1, 2, 3]);
        let mut row = first_row(1, &first);
        change(&mut row);
        let now = Duration::from_secs(100);
        Self {
            agreement: Agreement::new(volume_of(&first), row, now, 1),
            now,
            notary: But(Stub(ME), None),
        }
    }

    /// Returns a voter that has just begun to lead.
    fn leading() -> Self {
        let mut one = Self::new(|_| {});
        one.lead(None);
        one
    }

    /// Begins to lead, by a promise that took a while; the second voter tells what it accepted.
    fn lead(&mut self, accepted: Option<Record>) {
        let ballot = self.campaign();
        self.now += Duration::from_secs(3);
        let below = Ballot {
            round: ballot.round - 1,
            leader: THREE,
        };
        let promise = Message::Promise {
            after: self.tip(),
            ballot,
            accepted: accepted.map(|record| (below, record)),
        };
        self.hear(TWO, promise);
        assert!(self.agreement.leads());
    }

    /// Asks whether it may lead, and begins to; returns its ballot.
    fn campaign(&mut self) -> Ballot {
        let (_, round) = self.asks();
        let after = self.tip();
        let output = self.hear(TWO, Message::Would { after, round });
        let asked = output.messages.into_iter().map(|(_, message)| message);
        let ballots = asked.filter_map(|message| match message {
            Message::Prepare { ballot, .. } => Some(ballot),
            _ => None,
        });
        ballots.last().expect("a campaign")
    }

    /// Waits until it asks the others; returns how long that was, and the number of the question.
    fn asks(&mut self) -> (Duration, u64) {
        let begin = self.now;
        loop {
            let rounds = self.tick().messages.into_iter();
            let mut rounds = rounds.filter_map(|(_, message)| match message {
                Message::Ask { round, .. } => Some(round),
                _ => None,
            });
            if let Some(round) = rounds.next() {
                return (self.now - begin, round);
            }
            self.now += Duration::from_millis(500);
            assert!(self.now < begin + 3 * LEASE, "it never asks");
        }
    }

    fn tick(&mut self) -> Output {
        self.agreement.tick(self.now, &self.notary);
        self.agreement.poll()
    }

    fn hear(&mut self, from: DeviceId, message: Message) -> Output {
        self.agreement
            .receive(self.now, from, message, &self.notary);
        self.agreement.poll()
    }

    fn tip(&self) -> RecordRef {
        self.agreement.tip().at
    }

    fn ballot(&self) -> Ballot {
        self.agreement.row().promised
    }

    /// Returns a ballot of another leader, so many rounds above the own.
    fn above(&self, rounds: u64, leader: DeviceId) -> Ballot {
        let round = self.ballot().round + rounds;
        Ballot { round, leader }
    }

    /// Returns a record behind the tip.
    fn next(&self, mark: u64) -> Record {
        let tip = self.agreement.tip();
        next(tip, mark, tip.voters.clone())
    }

    fn decided(&self, record: Record, ballot: Ballot, by: &[DeviceId]) -> Message {
        let volume = volume_of(&genesis(&[1, 2, 3]));
        let vote = Vote::new(volume, &record, ballot);
        let votes = by.iter().map(|device| (*device, Stub(*device).sign(&vote)));
        let certificate = Certificate {
            ballot,
            votes: votes.collect(),
        };
        Message::Decided {
            record,
            certificate,
        }
    }
}

/// A tip that is further than the first record, and one that is none of the chain.
fn ahead_and_elsewhere(of: RecordRef) -> [RecordRef; 2] {
    let number = of.number + 1;
    let hash = [5; 32];
    [RecordRef { number, ..of }, RecordRef { hash, ..of }]
}

/// Says of which kinds messages are.
fn kinds(output: &Output) -> Vec<&'static str> {
    let kind = |message: &Message| match message {
        Message::Prepare { .. } => "prepare",
        Message::Promise { .. } => "promise",
        Message::Accept { .. } => "accept",
        Message::Accepted { .. } => "accepted",
        Message::Decided { .. } => "decided",
        Message::Refused { .. } => "refused",
        Message::Behind { .. } => "behind",
        Message::Recall { .. } => "recall",
        Message::Recalled { .. } => "recalled",
        Message::Beat { .. } => "beat",
        Message::Heard { .. } => "heard",
        Message::Ask { .. } => "ask",
        Message::Would { .. } => "would",
        Message::Lock(_) => "lock",
    };
    let messages = output.messages.iter();
    messages.map(|(_, message)| kind(message)).collect()
}

#[test]
fn a_leader_yields_to_a_greater_ballot_of_a_voter_and_to_nothing_else() {
    let one = One::leading();
    let (own, after) = (one.ballot(), one.tip());
    let (greater, smaller) = (
        one.above(1, TWO),
        Ballot {
            round: 0,
            leader: TWO,
        },
    );
    let [ahead, elsewhere] = ahead_and_elsewhere(after);
    let refused = |promised| Message::Refused { promised };
    let beat = |after, ballot| Message::Beat { after, ballot };
    let of = |leader| one.above(1, leader);
    let record = one.next(1);
    // Who says what, whether it leads no more by that, and what it answers.
    let cases: Vec<(DeviceId, Message, bool, &[&str])> = vec![
        (TWO, refused(greater), true, &[]),
        (TWO, refused(smaller), false, &[]),
        (TWO, refused(own), false, &[]),
        (STRANGER, refused(greater), false, &[]),
        (TWO, beat(after, greater), true, &["heard"]),
        (TWO, beat(after, smaller), false, &["refused"]),
        (TWO, beat(after, of(THREE)), false, &[]),
        (STRANGER, beat(after, of(STRANGER)), false, &[]),
        (TWO, beat(ahead, greater), true, &["behind", "heard"]),
        (TWO, beat(elsewhere, greater), false, &[]),
        (
            TWO,
            Message::Prepare {
                after,
                ballot: greater,
            },
            true,
            &["promise"],
        ),
        (
            TWO,
            Message::Accept {
                ballot: greater,
                record: record.clone(),
            },
            true,
            &["accepted"],
        ),
        (
            TWO,
            one.decided(record.clone(), greater, &[TWO, THREE]),
            true,
            &[],
        ),
    ];
    for (from, message, yields, answers) in cases {
        let mut one = One::leading();
        let case = format!("{from:?}: {message:?}");
        let output = one.hear(from, message);
        assert_eq!(one.agreement.leads(), !yields, "{case}");
        assert_eq!(kinds(&output), answers, "{case}");
    }
}

#[test]
fn who_is_behind_is_told_records_and_who_is_ahead_is_asked_for_them() {
    let mut one = One::new(|_| {});
    let after = one.tip();
    let [ahead, elsewhere] = ahead_and_elsewhere(after);
    let ballot = one.above(1, TWO);
    let nonce = 1;
    let round = 1;
    let ask = |after| {
        [
            Message::Prepare { after, ballot },
            Message::Recall { after, nonce },
            Message::Ask { after, round },
        ]
    };
    one.now += LEASE;
    for message in ask(ahead) {
        let output = one.hear(TWO, message);
        assert_eq!(kinds(&output), ["behind"]);
        assert!(output.lacking.is_empty());
    }
    for message in ask(elsewhere) {
        let output = one.hear(TWO, message);
        assert!(output.messages.is_empty());
        assert_eq!(output.lacking, [(TWO, elsewhere)]);
    }
    for message in ask(after) {
        assert_eq!(one.hear(STRANGER, message), Output::default());
    }
    let answers = ask(after).map(|message| {
        let output = one.hear(TWO, message);
        assert!(output.lacking.is_empty());
        kinds(&output)
    });
    assert_eq!(answers, [["promise"], ["recalled"], ["would"]]);
}

#[test]
fn what_is_asked_twice_is_answered_twice_and_written_once() {
    let mut one = One::new(|_| {});
    let (after, ballot) = (one.tip(), one.above(1, TWO));
    let record = one.next(1);
    let accept = Message::Accept { ballot, record };
    for message in [Message::Prepare { after, ballot }, accept] {
        let first = one.hear(TWO, message.clone());
        assert!(first.must_sync && first.row.is_some());
        let again = one.hear(TWO, message);
        assert_eq!(again.messages, first.messages);
        assert!(!again.must_sync && again.row.is_none());
    }
    // A leader that is heard at the ballot that was promised is none that is refused.
    let beat = Message::Beat { after, ballot };
    assert_eq!(kinds(&one.hear(TWO, beat)), ["heard"]);
}

#[test]
fn one_that_is_ahead_leads_whatever_was_promised_for_what_is_behind_it() {
    let mut one = One::new(|_| {});
    let (after, ballot) = (one.tip(), one.above(9, THREE));
    one.hear(THREE, Message::Prepare { after, ballot });
    let [after, _] = ahead_and_elsewhere(after);
    let ballot = Ballot {
        round: 1,
        leader: TWO,
    };
    let output = one.hear(TWO, Message::Beat { after, ballot });
    assert_eq!(kinds(&output), ["behind", "heard"]);
}

#[test]
fn who_hears_a_leader_disturbs_it_with_no_question_and_welcomes_no_other() {
    let mut one = One::new(|_| {});
    let (after, ballot) = (one.tip(), one.above(1, TWO));
    let ask = Message::Ask { after, round: 1 };
    // As at the start.
    for _ in 0..2 {
        let begin = one.now;
        one.now = begin + LEASE - Duration::from_millis(1);
        assert!(one.hear(THREE, ask.clone()).messages.is_empty());
        assert!(one.tick().messages.is_empty());
        one.now = begin + LEASE;
        assert_eq!(kinds(&one.hear(THREE, ask.clone())), ["would"]);
        one.hear(TWO, Message::Beat { after, ballot });
    }
    let (waited, _) = one.asks();
    assert!(waited >= LEASE);
    // Who leads welcomes nobody.
    let mut one = One::leading();
    one.now += 2 * LEASE;
    assert!(one.hear(THREE, ask).messages.is_empty());
}

#[test]
fn nobody_begins_to_lead_whom_only_who_does_not_decide_welcomes_or_trusts() {
    let mut one = One::new(|_| {});
    let (_, round) = one.asks();
    let after = one.tip();
    let [ahead, elsewhere] = ahead_and_elsewhere(after);
    let would = |after, round| Message::Would { after, round };
    for (from, message) in [
        (STRANGER, would(after, round)),
        (TWO, would(ahead, round)),
        (TWO, would(elsewhere, round)),
        (TWO, would(after, round ^ 1)),
    ] {
        assert_eq!(one.hear(from, message), Output::default());
    }
    let output = one.hear(TWO, would(after, round));
    assert_eq!(kinds(&output), ["prepare", "prepare"]);
    let own = one.ballot();
    let not_next = next(&Tip::of(&one.next(1)), 2, voters(&[1, 2, 3]));
    let promise = |after, ballot, accepted| Message::Promise {
        after,
        ballot,
        accepted,
    };
    for (from, message) in [
        (STRANGER, promise(after, own, None)),
        (TWO, promise(ahead, own, None)),
        (TWO, promise(after, one.above(1, TWO), None)),
        // Lies: it promised not to have accepted such.
        (TWO, promise(after, own, Some((own, one.next(1))))),
        (
            TWO,
            promise(after, own, Some((one.above(1, TWO), one.next(1)))),
        ),
        (
            TWO,
            promise(after, own, Some((Ballot::default(), not_next))),
        ),
    ] {
        one.hear(from, message.clone());
        assert!(!one.agreement.leads(), "{from:?}: {message:?}");
    }
    one.hear(TWO, promise(after, own, None));
    assert!(one.agreement.is_free());
}

#[test]
fn a_leader_goes_on_while_a_majority_answers_and_no_longer() {
    let mut one = One::leading();
    let own = one.ballot();
    let heard = |ballot| Message::Heard { ballot };
    // It tells at once that it leads, and then at each beat, and not between.
    for _ in 0..20 {
        assert_eq!(kinds(&one.tick()), ["beat", "beat"]);
        one.hear(TWO, heard(own));
        one.now += BEAT / 2;
        assert!(one.tick().messages.is_empty());
        one.now += BEAT / 2;
    }
    let last = one.now - BEAT;
    let one_left = |one: &mut One, at| {
        one.now = at;
        one.hear(STRANGER, heard(own));
        one.hear(TWO, heard(one.above(1, TWO)));
        one.hear(TWO, heard(Ballot::default()));
        one.tick();
        one.agreement.leads()
    };
    let moment = Duration::from_millis(1);
    assert!(one_left(&mut one, last + ALONE_MAX - moment));
    assert!(!one_left(&mut one, last + ALONE_MAX));
    // Others have their turn then.
    let (waited, _) = one.asks();
    assert!(waited >= LEASE);
    // Before anybody has answered it has that time from when it began.
    let mut one = One::leading();
    let begin = one.now;
    assert!(one_left(&mut one, begin + ALONE_MAX - moment));
    assert!(!one_left(&mut one, begin + ALONE_MAX));
}

#[test]
fn a_leader_that_may_not_endorse_what_it_has_to_propose_gives_others_their_turn() {
    let mut one = One::new(|_| {});
    let record = one.next(1);
    one.notary.1 = Some(record.hash());
    one.lead(Some(record));
    let (begin, ballot) = (one.now, one.ballot());
    while one.now < begin + ALONE_MAX {
        assert!(one.agreement.leads() && !one.agreement.is_free());
        one.tick();
        one.hear(TWO, Message::Heard { ballot });
        one.now += BEAT;
    }
    one.tick();
    assert!(!one.agreement.leads());
}

#[test]
fn what_has_no_answer_is_said_again_at_each_beat() {
    let begin = |unsure| One::new(|row| row.is_unsure = unsure);
    let mut preparing = begin(false);
    preparing.campaign();
    // Until it asks anew.
    let mut said = Vec::new();
    loop {
        preparing.now += BEAT / 4;
        match kinds(&preparing.tick()) {
            asked if asked == ["ask"; 2] => break,
            again => said.push(again),
        }
    }
    let mut times = (0..said.len()).filter(|at| !said[*at].is_empty());
    let first = times.next().expect("it is said again");
    assert!(times.all(|at| (at - first) % 4 == 0), "{said:?}");
    assert_eq!(said[first], ["prepare"; 2]);
    let mut proposing = One::leading();
    let record = proposing.next(1);
    let (now, notary) = (proposing.now, But(Stub(ME), None));
    assert!(proposing.agreement.propose(now, record, &notary));
    proposing.agreement.poll();
    for (mut one, said) in [
        (begin(true), ["recall"; 2].to_vec()),
        (proposing, vec!["beat", "beat", "accept", "accept"]),
    ] {
        for _ in 0..3 {
            assert_eq!(kinds(&one.tick()), said);
            one.now += BEAT / 2;
            assert!(one.tick().messages.is_empty());
            one.now += BEAT / 2;
        }
    }
}

#[test]
fn who_leads_proposes_what_follows_and_it_endorses_and_stays_free_once_that_is_decided() {
    let mut one = One::leading();
    let (now, other) = (one.now, one.next(7));
    let [_, elsewhere] = ahead_and_elsewhere(one.tip());
    let of_another = Tip {
        at: elsewhere,
        ..one.agreement.tip().clone()
    };
    let of_another = next(&of_another, 1, voters(&[1, 2, 3]));
    one.notary.1 = Some(other.hash());
    let record = one.next(1);
    for refused in [of_another, other] {
        assert!(!one.agreement.propose(now, refused, &one.notary));
    }
    assert!(one.agreement.propose(now, record.clone(), &one.notary));
    // Another one only behind it.
    assert!(!one.agreement.propose(now, one.next(2), &one.notary));
    assert_eq!(kinds(&one.agreement.poll()), ["accept", "accept"]);
    let (after, ballot) = (one.tip(), one.ballot());
    let vote = Vote::new(volume_of(&genesis(&[1, 2, 3])), &record, ballot);
    let accepted = Message::Accepted {
        after,
        ballot,
        hash: record.hash(),
        signature: Stub(TWO).sign(&vote),
    };
    let output = one.hear(TWO, accepted);
    assert_eq!(kinds(&output), ["decided", "decided"]);
    assert!(one.agreement.is_free());
    assert_eq!(one.tip(), record.reference());
    // Who does not lead proposes nothing.
    let mut one = One::new(|_| {});
    assert!(!one.agreement.propose(now, one.next(1), &one.notary));
    assert_eq!(one.agreement.poll(), Output::default());
}

#[test]
fn a_record_is_learned_that_follows_and_a_majority_has_signed() {
    let mut one = One::leading();
    let ballot = one.above(1, TWO);
    let elsewhere = Tip {
        at: ahead_and_elsewhere(one.tip())[1],
        ..one.agreement.tip().clone()
    };
    let elsewhere = next(&elsewhere, 1, voters(&[1, 2, 3]));
    let (tip, record) = (one.tip(), one.next(1));
    for message in [
        one.decided(record.clone(), ballot, &[TWO]),
        one.decided(record.clone(), ballot, &[TWO, STRANGER]),
        one.decided(elsewhere, ballot, &[TWO, THREE]),
    ] {
        assert_eq!(one.hear(TWO, message), Output::default());
        assert_eq!(one.tip(), tip);
    }
    let message = one.decided(record.clone(), ballot, &[TWO, THREE]);
    let output = one.hear(STRANGER, message);
    assert_eq!(one.tip(), record.reference());
    assert_eq!(output.decided.len(), 1);
    assert!(!output.must_sync, "what is decided is nobody's vote");
}

#[test]
fn who_was_put_back_votes_again_once_the_others_have_told_what_they_know() {
    let first = One::new(|_| {});
    let ballot = |round| Ballot { round, leader: TWO };
    let fewer = next(first.agreement.tip(), 8, voters(&[1]));
    let elsewhere = Tip {
        at: ahead_and_elsewhere(first.tip())[1],
        ..first.agreement.tip().clone()
    };
    let elsewhere = next(&elsewhere, 9, voters(&[1, 2, 3]));
    let one_of = |round, record: &Record| Some((ballot(round), record.clone()));
    let (x, y) = (first.next(1), first.next(2));
    // What the row has, what the others accepted, and what it has then: nothing where that may have
    // been decided and names other voters.
    let cases = [
        (None, [None, None], Some(None)),
        (None, [one_of(1, &x), one_of(2, &y)], Some(one_of(2, &y))),
        (None, [one_of(2, &x), None], Some(one_of(2, &x))),
        (one_of(3, &x), [one_of(2, &y), None], Some(one_of(3, &x))),
        (None, [one_of(2, &fewer), one_of(1, &x)], None),
        (
            None,
            [one_of(1, &fewer), one_of(2, &x)],
            Some(one_of(2, &x)),
        ),
        (
            None,
            [one_of(2, &elsewhere), one_of(1, &x)],
            Some(one_of(1, &x)),
        ),
    ];
    for (had, told, has) in cases {
        let mut one = One::new(|row| {
            row.is_unsure = true;
            row.promised = ballot(3);
            row.accepted = had.clone();
        });
        let asked = one.tick().messages;
        let Some((_, Message::Recall { after, nonce })) = asked.first() else {
            panic!("it asks nobody: {asked:?}");
        };
        let (after, nonce) = (*after, *nonce);
        let [ahead, elsewhere] = ahead_and_elsewhere(after);
        let answer = |after, nonce, round, accepted: &Option<_>| Message::Recalled {
            after,
            nonce,
            promised: ballot(round),
            accepted: Option::clone(accepted),
        };
        for (from, message) in [
            (STRANGER, answer(after, nonce, 9, &None)),
            (THREE, answer(after, nonce ^ 1, 9, &None)),
            (THREE, answer(ahead, nonce, 9, &None)),
            (THREE, answer(elsewhere, nonce, 9, &None)),
            (TWO, answer(after, nonce, 5, &told[0])),
            (TWO, answer(after, nonce, 5, &told[0])),
            // It has no vote, and knows nothing to tell.
            (
                THREE,
                Message::Prepare {
                    after,
                    ballot: Ballot {
                        round: 7,
                        leader: THREE,
                    },
                },
            ),
            (THREE, Message::Recall { after, nonce: 5 }),
        ] {
            let case = format!("{from:?}: {message:?}");
            assert_eq!(one.hear(from, message), Output::default(), "{case}");
            assert!(one.agreement.is_recalling(), "{case}");
        }
        let output = one.hear(THREE, answer(after, nonce, 4, &told[1]));
        let case = format!("{had:?}, {told:?}");
        match has {
            Some(has) => {
                let row = output.row.expect("a row");
                assert!(output.must_sync && !row.is_unsure, "{case}");
                assert_eq!((row.promised, row.accepted), (ballot(5), has), "{case}");
                assert!(!one.agreement.is_recalling(), "{case}");
            }
            None => assert!(one.agreement.is_recalling(), "{case}"),
        }
    }
}
