//! What records, votes, certificates and letters promise one by one.

use std::sync::LazyLock;
use std::time::Duration;

use super::super::core::Core;
use super::super::{
    Agreement, Ballot, Certificate, Letter, Message, Notary, Record, RecordBody, Row, SEGMENTS_MAX,
    SegmentName, Tip, VOTE_DOMAIN, Vote, Voter,
};
use super::{Stub, first_row, genesis, next, volume_of, voters};
use crate::base::{DeviceId, LogId, OpId, Rng, Stamp};
use crate::crypto::{Identity, Signature};
use crate::log::LogError;

/// A record in which every list holds something.
fn full() -> RecordBody {
    RecordBody {
        era: 2,
        number: 300,
        prev: [9; 32],
        segments: vec![
            SegmentName {
                log: LogId(0x0102_0304_0506_0708),
                seg_no: 70_000,
                hash: [1; 32],
                last: OpId {
                    stamp: Stamp::from_ms(1_700_000_000_000),
                    log: LogId(6),
                },
            },
            SegmentName {
                log: LogId(5),
                seg_no: 1,
                hash: [2; 32],
                last: OpId::default(),
            },
        ],
        ended: vec![LogId(4), LogId(1000)],
        statements: vec![[3; 32]],
        base_line: 299,
        time_ms: 1_700_000_000_000,
        voters: voters(&[1, 2, 3]),
        is_checkpoint: true,
    }
}

fn malformed(change: impl FnOnce(&mut RecordBody)) {
    let mut body = full();
    change(&mut body);
    let refused = Record::new(body);
    assert!(
        matches!(refused, Err(LogError::MalformedRecord { .. })),
        "{refused:?}"
    );
}

#[test]
fn the_bytes_of_a_record_are_those_of_the_format() {
    let bytes = genesis(&[1]).to_bytes();
    // Version, era, number, prev, no segments, no ends, one statement, base line, time, one voter
    // with its incarnation, no checkpoint.
    let mut expected = vec![1, 0, 0];
    expected.extend([0; 32]);
    expected.extend([0, 0, 1]);
    expected.extend([7; 32]);
    expected.extend([0, 0, 1, 1, 1, 0]);
    assert_eq!(bytes, expected);

    let record = Record::new(full()).unwrap();
    let mut expected = vec![1, 2, 251, 44, 1];
    expected.extend([9; 32]);
    expected.extend([2, 253, 8, 7, 6, 5, 4, 3, 2, 1, 252, 112, 17, 1, 0]);
    expected.extend([1; 32]);
    expected.extend([253, 0, 0, 0, 128, 86, 254, 188, 24, 6, 5, 1]);
    expected.extend([2; 32]);
    expected.extend([0, 0, 2, 4, 251, 232, 3, 1]);
    expected.extend([3; 32]);
    expected.extend([251, 43, 1, 253, 0, 104, 229, 207, 139, 1, 0, 0]);
    expected.extend([3, 1, 1, 2, 1, 3, 1, 1]);
    assert_eq!(record.to_bytes(), expected);
    let hash = blake3::derive_key("dfs/1 record", &expected);
    assert_eq!(record.hash(), hash);
    assert_eq!(Record::from_bytes(&expected).unwrap(), record);
}

#[test]
fn every_other_form_of_a_record_is_refused() {
    let bytes = Record::new(full()).unwrap().to_bytes();
    let hash = Record::new(full()).unwrap().hash();
    for at in 0..bytes.len() {
        assert!(Record::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            let other = Record::from_bytes(&changed);
            assert!(other.is_err() || other.unwrap().hash() != hash, "byte {at}");
        }
    }
    let mut newer = bytes.clone();
    newer[0] = 2;
    let refused = Record::from_bytes(&newer);
    assert!(matches!(
        refused,
        Err(LogError::RecordTooNew { found: 2, known: 1 })
    ));
    // The era in two bytes more than it needs.
    let longer = [&[1, 251, 2, 0], &bytes[2..]].concat();
    assert!(Record::from_bytes(&longer).is_err());
    assert!(Record::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    assert!(Record::from_bytes(&[]).is_err());
}

#[test]
fn a_record_has_one_form_and_bounds() {
    malformed(|body| body.voters = voters(&[1, 2]));
    malformed(|body| body.voters = voters(&[]));
    malformed(|body| body.voters = voters(&[1, 3, 2]));
    malformed(|body| body.voters = voters(&[1, 1, 2]));
    malformed(|body| body.voters = voters(&[1, 2, 3, 4, 5]));
    malformed(|body| body.prev = [0; 32]);
    malformed(|body| body.number = 0);
    malformed(|body| body.base_line = 300);
    malformed(|body| body.ended = vec![LogId(2), LogId(2)]);
    malformed(|body| body.statements = vec![[2; 32], [1; 32]]);
    malformed(|body| body.segments[1].hash = body.segments[0].hash);
    let segments = |count: usize| {
        let name = |index: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&index.to_le_bytes());
            SegmentName {
                log: LogId(u64::MAX),
                seg_no: u64::MAX,
                hash,
                last: OpId {
                    stamp: Stamp(u64::MAX),
                    log: LogId(u64::MAX),
                },
            }
        };
        (0..count).map(name).collect::<Vec<_>>()
    };
    malformed(|body| body.segments = segments(SEGMENTS_MAX + 1));
    let mut greatest = full();
    greatest.segments = segments(SEGMENTS_MAX);
    greatest.ended = (u64::MAX - 4095..=u64::MAX).map(LogId).collect();
    greatest.statements = (0..1024u32)
        .map(|index| {
            let mut hash = [0xff; 32];
            hash[..4].copy_from_slice(&index.to_be_bytes());
            hash
        })
        .collect();
    let greatest = Record::new(greatest).unwrap();
    let bytes = greatest.to_bytes();
    assert!(bytes.len() + 200 < Record::MAX_BYTES, "{}", bytes.len());
    assert_eq!(Record::from_bytes(&bytes).unwrap(), greatest);
}

#[test]
fn a_record_follows_its_tip_alone() {
    let tip = Tip::of(&Record::new(full()).unwrap());
    let good = next(&tip, 1, voters(&[1]));
    assert!(good.follows(&tip));
    let other = |change: fn(&mut RecordBody)| {
        let mut body = (*good).clone();
        change(&mut body);
        Record::new(body).unwrap().follows(&tip)
    };
    assert!(other(|body| body.base_line = 300));
    assert!(!other(|body| body.base_line = 298));
    assert!(!other(|body| body.era = 3));
    assert!(!other(|body| body.number = 302));
    assert!(!other(|body| body.prev = [8; 32]));
}

/// A certificate of stub votes, in the order given.
fn certificate(record: &Record, ballot: Ballot, signers: &[u64]) -> Certificate {
    let volume = volume_of(&genesis(&[1, 2, 3]));
    let vote = Vote::new(volume, record, ballot);
    let signed = |device: &u64| (DeviceId(*device), Stub(DeviceId(*device)).sign(&vote));
    Certificate {
        ballot,
        votes: signers.iter().map(signed).collect(),
    }
}

#[test]
fn a_certificate_is_of_a_majority_of_the_voters_before() {
    let first = genesis(&[1, 2, 3]);
    let volume = volume_of(&first);
    let before = Tip::of(&first);
    let ballot = Ballot {
        round: 1,
        leader: DeviceId(1),
    };
    // It names other voters than those that decide it.
    let record = next(&before, 1, voters(&[4]));
    let holds = |certificate: &Certificate| {
        let checked = certificate.check(volume, &before, &record, &Stub(DeviceId(9)));
        checked.is_ok()
    };
    assert!(holds(&certificate(&record, ballot, &[1, 3])));
    assert!(holds(&certificate(&record, ballot, &[1, 2, 3])));
    let refused: [&[u64]; 7] = [&[], &[2], &[2, 2], &[3, 1], &[4], &[1, 4], &[1, 2, 4]];
    for signers in refused {
        assert!(
            !holds(&certificate(&record, ballot, signers)),
            "{signers:?}"
        );
    }
    let mut forged = certificate(&record, ballot, &[1, 3]);
    forged.votes[1].1.0[40] ^= 1;
    assert!(!holds(&forged));
    // Votes at two ballots do not add up.
    let mut mixed = certificate(&record, ballot, &[1, 3]);
    let later = Ballot { round: 2, ..ballot };
    mixed.votes[1] = certificate(&record, later, &[3]).votes[0];
    assert!(!holds(&mixed));
    let elsewhere = next(&Tip::of(&record), 1, voters(&[1]));
    let proof = certificate(&elsewhere, ballot, &[1, 3]);
    assert!(
        proof
            .check(volume, &before, &elsewhere, &Stub(DeviceId(9)))
            .is_err()
    );
}

/// A notary with keys.
struct Keys<'a> {
    own: &'a Identity,
    all: &'a [&'a Identity],
}

impl Notary for Keys<'_> {
    fn sign(&self, vote: &Vote) -> Signature {
        self.own.sign(VOTE_DOMAIN, &vote.to_bytes())
    }
    fn verify(&self, device: DeviceId, vote: &Vote, signature: &Signature) -> bool {
        let identity = self.all.iter().find(|identity| identity.device() == device);
        identity.is_some_and(|identity| {
            let public = identity.public();
            let verified = public.verify(VOTE_DOMAIN, &vote.to_bytes(), signature);
            verified.is_ok()
        })
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

static ALICE: LazyLock<Identity> =
    LazyLock::new(|| Identity::generate(&Rng::from_seed(1)).unwrap());
static BOB: LazyLock<Identity> = LazyLock::new(|| Identity::generate(&Rng::from_seed(2)).unwrap());

#[test]
fn a_volume_of_one_decides_without_a_message() {
    let keys = Keys {
        own: &ALICE,
        all: &[&ALICE],
    };
    let first = genesis(&[ALICE.device().0]);
    let (volume, now) = (volume_of(&first), Duration::ZERO);
    let row = first_row(ALICE.device().0, &first);
    let mut agreement = Agreement::new(volume, row, now, 1);
    agreement.tick(now, &keys);
    let lead = agreement.poll();
    assert!(agreement.is_free() && lead.must_sync && lead.messages.is_empty());
    for number in 1..4 {
        let before = agreement.tip().clone();
        let record = next(&before, number, before.voters.clone());
        assert!(agreement.propose(now, record.clone(), &keys));
        let output = agreement.poll();
        assert!(output.messages.is_empty() && output.must_sync);
        assert_eq!(output.row.unwrap().tip, Tip::of(&record));
        let [(decided, proof)] = &output.decided[..] else {
            panic!("{number} is not decided");
        };
        assert_eq!(*decided, record);
        proof.check(volume, &before, &record, &keys).unwrap();
        let stranger = Keys {
            own: &BOB,
            all: &[&BOB],
        };
        assert!(proof.check(volume, &before, &record, &stranger).is_err());
        assert!(agreement.is_free());
    }
}

#[test]
fn a_letter_is_of_its_sender_to_its_receiver() {
    let first = genesis(&[1, 2, 3]);
    let volume = volume_of(&first);
    let message = Message::Accept {
        ballot: Ballot::default(),
        record: next(&Tip::of(&first), 1, voters(&[1])),
    };
    let letter = Letter::sign(&ALICE, volume, BOB.device(), message);
    let bytes = letter.to_bytes();
    let read = Letter::from_bytes(&bytes).unwrap();
    assert_eq!(read, letter);
    assert!(read.is_from(&ALICE.public(), volume));
    assert!(!read.is_from(&BOB.public(), volume));
    assert!(!read.is_from(&ALICE.public(), volume_of(&genesis(&[1]))));
    for at in 0..bytes.len() {
        assert!(Letter::from_bytes(&bytes[..at]).is_err());
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let read = Letter::from_bytes(&changed);
        assert!(
            read.is_err() || !read.unwrap().is_from(&ALICE.public(), volume),
            "{at}"
        );
    }
}

#[test]
fn a_row_is_read_as_it_was_written() {
    let first = genesis(&[1, 2, 3]);
    let mut row = first_row(2, &first);
    row.accepted = Some((Ballot::default(), next(&row.tip, 1, voters(&[1]))));
    row.is_unsure = true;
    let bytes = row.to_bytes();
    assert_eq!(Row::from_bytes(&bytes).unwrap(), row);
    for at in 0..bytes.len() {
        assert!(Row::from_bytes(&bytes[..at]).is_err());
    }
}

#[test]
fn who_lost_its_row_is_another_voter() {
    let first = genesis(&[1]);
    let own = Voter {
        device: DeviceId(1),
        incarnation: 2,
    };
    let row = Row::new(own, Tip::of(&first));
    let mut agreement = Agreement::new(volume_of(&first), row, Duration::ZERO, 1);
    agreement.tick(Duration::from_secs(60), &Stub(own.device));
    assert!(!agreement.is_voter() && !agreement.leads());
    assert_eq!(agreement.poll(), Default::default());
}

#[test]
fn a_lone_voter_that_was_put_back_waits_for_a_word() {
    let first = genesis(&[1]);
    let mut row = first_row(1, &first);
    row.is_unsure = true;
    let stub = Stub(DeviceId(1));
    let mut agreement = Agreement::new(volume_of(&first), row, Duration::ZERO, 1);
    agreement.tick(Duration::from_secs(60), &stub);
    assert!(agreement.is_recalling() && !agreement.leads());
    agreement.trust_row();
    agreement.tick(Duration::from_secs(62), &stub);
    let row = agreement.poll().row.unwrap();
    assert!(agreement.is_free() && !row.is_unsure);
}

#[test]
fn who_resigns_says_nothing_again_and_who_lost_its_row_goes_on_asking() {
    let first = genesis(&[1, 2, 3]);
    let stub = Stub(DeviceId(1));
    for (is_unsure, said) in [(false, 0), (true, 2)] {
        let mut row = first_row(1, &first);
        row.is_unsure = is_unsure;
        let mut core = Core::new(volume_of(&first), row, 1);
        core.campaign(&stub);
        core.resend(&stub);
        core.poll();
        core.resign();
        core.resend(&stub);
        assert_eq!(core.poll().messages.len(), said);
        assert_eq!(core.is_recalling(), is_unsure);
    }
}

#[test]
fn one_vote_a_ballot_and_none_for_what_is_not_endorsed() {
    struct Strict(Stub, [u8; 32]);
    impl Notary for Strict {
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
            record.hash() != self.1
        }
    }
    let first = genesis(&[1, 2, 3]);
    let row = first_row(2, &first);
    let leader = DeviceId(1);
    let ballot = Ballot { round: 1, leader };
    let record = |mark| next(&row.tip, mark, row.tip.voters.clone());
    let strict = Strict(Stub(DeviceId(2)), record(7).hash());
    let mut agreement = Agreement::new(volume_of(&first), row.clone(), Duration::ZERO, 1);
    let mut answers = |from, mark| {
        let accept = Message::Accept {
            ballot,
            record: record(mark),
        };
        agreement.receive(Duration::ZERO, from, accept, &strict);
        agreement.poll().messages.len()
    };
    assert_eq!(answers(leader, 7), 0, "not endorsed");
    assert_eq!(answers(DeviceId(3), 1), 0, "another's ballot");
    assert_eq!(answers(leader, 1), 1);
    assert_eq!(answers(leader, 1), 1, "said again");
    assert_eq!(answers(leader, 2), 0, "a second record at one ballot");
}

#[test]
fn promises_of_other_voters_are_asked_for_anew() {
    let first = genesis(&[1]);
    let (now, stub) = (Duration::ZERO, Stub(DeviceId(1)));
    let mut agreement = Agreement::new(volume_of(&first), first_row(1, &first), now, 1);
    agreement.tick(now, &stub);
    assert!(agreement.is_free());
    let record = next(&Tip::of(&first), 1, voters(&[1, 2, 3]));
    assert!(agreement.propose(now, record, &stub));
    // A greater ballot than that of its old promises may be unknown to it, and a smaller one have
    // decided already.
    assert!(!agreement.leads());
    let messages = agreement.poll().messages;
    let asked = messages
        .iter()
        .filter(|(_, message)| matches!(message, Message::Prepare { .. }));
    assert_eq!(asked.count(), 2);
}
