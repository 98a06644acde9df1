//! The bytes of records, votes, certificates, rows of voters, and of each thing that voters say.

use crate::base::{DeviceId, LogId, OpId, Stamp, stored, variants};
use crate::crypto::Signature;
use crate::log::LogError;
use crate::log::chain::stored::Link;
use crate::log::chain::{
    Ballot, Certificate, Letter, Message, Record, RecordBody, Row, SegmentName, Tip, Vote, Voter,
};
use crate::store::codec;
use crate::wire::{
    LockAnswer, LockHow, LockKey, LockRange, LockWant, LockWish, LockWord, RecordRef,
};

fn voter(device: u64) -> Voter {
    Voter {
        device: DeviceId(device),
        incarnation: 0x1234,
    }
}

fn record() -> Record {
    let body = RecordBody {
        era: 1,
        number: 300,
        prev: [2; 32],
        segments: vec![SegmentName {
            log: LogId(0x0123_4567_89ab_cdef),
            seg_no: 4,
            hash: [5; 32],
            last: OpId {
                stamp: Stamp(0x0fed_cba9_8765_4321),
                log: LogId(0x0011_2233_4455_6677),
            },
        }],
        ended: vec![LogId(6), LogId(7)],
        statements: vec![[8; 32]],
        base_line: 250,
        time_ms: 1 << 40,
        voters: vec![voter(9), voter(10), voter(11)],
        is_checkpoint: false,
    };
    Record::new(body).unwrap()
}

fn ballot() -> Ballot {
    Ballot {
        round: 12,
        leader: DeviceId(9),
    }
}

fn certificate() -> Certificate {
    let ballot = ballot();
    let vote = |device, byte| (DeviceId(device), Signature([byte; 64]));
    let votes = vec![vote(9, 13), vote(10, 14)];
    Certificate { ballot, votes }
}

fn messages() -> Vec<Message> {
    let (record, ballot) = (record(), ballot());
    let after = RecordRef {
        era: 1,
        number: 299,
        hash: [2; 32],
    };
    let (accepted, promised) = (Some((ballot, record.clone())), ballot);
    let (round, nonce) = (15, 16);
    vec![
        Message::Prepare { after, ballot },
        Message::Promise {
            after,
            ballot,
            accepted: accepted.clone(),
        },
        Message::Accept {
            ballot,
            record: record.clone(),
        },
        Message::Accepted {
            after,
            ballot,
            hash: record.hash(),
            signature: Signature([17; 64]),
        },
        Message::Decided {
            record,
            certificate: certificate(),
        },
        Message::Refused { promised },
        Message::Behind { have: after },
        Message::Recall { after, nonce },
        Message::Recalled {
            after,
            nonce,
            promised,
            accepted,
        },
        Message::Beat { after, ballot },
        Message::Heard { ballot },
        Message::Ask { after, round },
        Message::Would { after, round },
    ]
    .into_iter()
    .chain(lock_words().into_iter().map(Message::Lock))
    .collect()
}

/// Returns one of each thing that is said about locks.
fn lock_words() -> Vec<LockWord> {
    let (run, manager, sent_ms) = (20, 21, 22);
    let (key, log) = (LockKey([23; 16]), LogId(24));
    let range = LockRange {
        start: 25,
        end: 300,
        exclusive: true,
    };
    let want = |id, how| LockWant { id, range, how };
    let hows = [LockHow::Test, LockHow::Try, LockHow::Wait];
    vec![
        LockWord::Wish(LockWish {
            run,
            key,
            version: 26,
            fence: 27,
            whole: false,
            held: vec![range],
            wants: (28..).zip(hows).map(|(id, how)| want(id, how)).collect(),
            head: Some((log, 31)),
        }),
        LockWord::Answer(LockAnswer {
            manager,
            run,
            key,
            version: 26,
            whole: true,
            recall: false,
            lost: true,
            granted: vec![28],
            refused: vec![(29, range)],
            base: 32,
            heads: vec![(log, 33)],
        }),
        LockWord::Renew {
            run,
            since: 34,
            base: 32,
            sent_ms,
        },
        LockWord::Renewed {
            manager,
            run,
            sent_ms,
            valid_ms: 35,
            base: 32,
            heads: vec![(log, 33)],
        },
        LockWord::Vouch {
            manager,
            sent_ms,
            voters: vec![DeviceId(9), DeviceId(10)],
        },
        LockWord::Vouched { manager, sent_ms },
    ]
}

/// Returns a letter as its form says; nobody signed it.
fn letter(message: &Message) -> Vec<u8> {
    let (from, to, signature) = (DeviceId(9), DeviceId(10), Signature([18; 64]));
    let mut bytes = vec![1];
    codec::encode_into(&(from, to, message, signature), &mut bytes);
    bytes
}

#[test]
fn what_the_chain_stores_and_says_has_the_bytes_that_it_always_had() {
    let record = record();
    let row = Row {
        own: voter(9),
        tip: Tip::of(&record),
        promised: ballot(),
        accepted: Some((ballot(), record.clone())),
        is_unsure: true,
    };
    let link = Link {
        record: record.clone(),
        certificate: certificate(),
    };
    let vote = Vote::new(crate::base::VolumeId([19; 32]), &record, ballot());
    let mut samples = vec![
        ("record", record.to_bytes()),
        ("hash", record.hash().to_vec()),
        ("vote", vote.to_bytes()),
        ("link", codec::encode(&link)),
        ("row", row.to_bytes()),
    ];
    let names = variants::names::<Message>();
    let messages = messages();
    for message in &messages {
        let kind = usize::from(codec::encode(message)[0]);
        samples.push((names[kind], letter(message)));
    }
    let bytes = stored::check("docs/chain.txt", names, &samples);
    assert_eq!(Record::from_bytes(&bytes[0]).unwrap(), record);
    assert_eq!(Row::from_bytes(&bytes[4]).unwrap(), row);
    for (message, bytes) in messages.iter().zip(&bytes[5..]) {
        let letter = Letter::from_bytes(bytes).unwrap();
        assert_eq!(&letter.message, message);
        assert_eq!(&letter.to_bytes(), bytes);
    }
}

#[test]
fn a_letter_that_says_what_is_not_known_is_told_from_what_is_no_letter() {
    let known = variants::count::<Message>();
    for kind in 0..=250 {
        let mut bytes = vec![1];
        codec::encode_into(&(DeviceId(9), DeviceId(10), kind), &mut bytes);
        let read = Letter::from_bytes(&bytes);
        let is_unknown = matches!(read, Err(LogError::UnknownMessage { kind: of }) if of == kind);
        assert_eq!(is_unknown, kind >= known, "{kind}: {read:?}");
    }
    // Of what is said about locks, too.
    for word in 0..=250 {
        let mut bytes = vec![1];
        codec::encode_into(&(DeviceId(9), DeviceId(10), 13_u32, word), &mut bytes);
        let read = Letter::from_bytes(&bytes);
        let is_unknown = matches!(read, Err(LogError::UnknownMessage { kind: 13 }));
        assert_eq!(is_unknown, word >= variants::count::<LockWord>(), "{word}");
    }
    for bytes in [&[][..], &[1], &[1, 9], &[0, 9, 10, 200]] {
        let read = Letter::from_bytes(bytes);
        assert!(
            matches!(read, Err(LogError::MalformedRecord { .. })),
            "{read:?}"
        );
    }
}

#[test]
fn a_record_that_is_cut_off_is_of_no_newer_version() {
    let cut = Link::from_bytes(&[Record::VERSION]);
    assert!(!matches!(cut, Err(LogError::RecordTooNew { .. })));
    let newer = Link::from_bytes(&[Record::VERSION + 1]);
    assert!(matches!(newer, Err(LogError::RecordTooNew { .. })));
}
