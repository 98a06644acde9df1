//! Whatever bytes arrive, decoding neither panics nor fills memory, and messages round-trip.

mod stored;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use dfs::base::limits::MESSAGE_BODY_MAX_BYTES;
use dfs::base::{ChunkId, DeviceId, LogId, PeerId, Stamp, VolumeId, variants};
use dfs::crypto::{PublicIdentity, Signature};
use dfs::wire::bounded::BoundedBytes;
use dfs::wire::{
    Asked, Asking, ChunkLen, ChunkRefusal, ChunkRequest, ChunkResponse, Denial, Hello,
    InviteRefusal, JoinInfo, LetterBytes, LogRefusal, NodeRecord, PassedAsking, PieceOf, RecordRef,
    Redeem, Redeemed, Refusal, Request, Response, SealedSegment, Seen, SegmentHeader, Settled,
    SignedAsking, SignedRecord, StatementBytes, SyncState, VolumeMark, WIRE_VERSION, WireError,
    limits,
};
use proptest::prelude::*;

fn segment(seg_no: u64, body: usize) -> SealedSegment {
    SealedSegment {
        header: SegmentHeader {
            volume: VolumeId([1; 32]),
            device: DeviceId(0x0123_4567_89ab_cdef),
            incarnation: 8,
            origin: 9,
            seg_no,
            prev: [2; 32],
            record: RecordRef {
                era: 1,
                number: 40,
                hash: [7; 32],
            },
            seen: vec![Seen {
                log: LogId(3),
                seg_no: 2,
                hash: [8; 32],
                last: Stamp::from_ms(900),
            }],
            first: Stamp::from_ms(1_000),
            last: Stamp::from_ms(2_000),
            op_count: 3,
            epoch: 4,
            admission: (seg_no == 1).then_some([4; 32]),
        },
        body: Bytes::from(vec![5; body]),
        signature: Signature([6; 64]),
    }
}

fn record() -> SignedRecord {
    let record = NodeRecord {
        volume: VolumeId([1; 32]),
        peer: PeerId([7; 32]),
        signed_ms: 1 << 40,
        name: "desk".to_owned(),
        addrs: vec![
            "192.0.2.1:4750".parse().unwrap(),
            "[2001:db8::1]:1".parse().unwrap(),
        ],
        capacity_bytes: 1 << 40,
        free_bytes: 12,
    };
    assert_eq!(NodeRecord::decode(&record.encode()), Ok(record.clone()));
    SignedRecord {
        record: BoundedBytes::new(record.encode()).unwrap(),
        signature: Signature([8; 64]),
    }
}

fn hello() -> Hello {
    Hello {
        volume: VolumeId([1; 32]),
        incarnation: 9,
        clock_ms: 1 << 40,
        roster_digest: [3; 32],
        record: record(),
        observed: SocketAddr::from(([127, 0, 0, 1], 4750)),
        vector: BTreeMap::from([(LogId(1), 5), (LogId(2), 1 << 50)]),
        features: 1 << 63,
    }
}

fn state() -> SyncState {
    SyncState {
        clock_ms: 1,
        roster_digest: [0; 32],
        free_bytes: 2,
        vector: BTreeMap::from([(LogId(1), 5)]),
        refuses: Some(LogRefusal::Ahead { ahead_ms: 9 }),
        record: RecordRef::default(),
        voter: 1 << 50,
        needs: 3,
        settled: Some(Settled {
            record: RecordRef::default(),
            mac: [4; 16],
        }),
        alike: vec![PeerId([5; 32])],
        checkpoints: [6; 32],
        asks_checkpoint: true,
    }
}

fn statements() -> Vec<StatementBytes> {
    vec![
        StatementBytes::new(vec![1; 700]).unwrap(),
        StatementBytes::new(vec![]).unwrap(),
    ]
}

fn requests() -> Vec<Request> {
    vec![
        Request::Hello(hello()),
        Request::Join {
            volume: VolumeId([1; 32]),
            clock_ms: 7,
        },
        Request::Redeem(Redeem {
            volume: VolumeId([1; 32]),
            secret: BoundedBytes::new(vec![3; 32]).unwrap(),
            identity: PublicIdentity {
                spki: vec![1; 294],
                signing: [2; 32],
                certificate: vec![3; 256],
            },
            name: "desk".to_owned(),
        }),
        Request::Sync(state()),
        Request::Push {
            segments: vec![segment(1, 0), segment(2, 5_000)],
        },
        Request::Pull {
            room: 7,
            from: BTreeMap::from([(LogId(1), 5)]),
        },
        Request::RosterPush {
            statements: statements(),
        },
        Request::Chain {
            after: 1 << 40,
            room: 7,
        },
        Request::Left {
            record: RecordRef {
                era: 1,
                number: 1 << 40,
                hash: [7; 32],
            },
            room: 7,
        },
        Request::Letters {
            letters: vec![LetterBytes::new(vec![9; 300]).unwrap()],
        },
        Request::Restore { clock_ms: 1 << 41 },
        Request::RosterPull { skip: 3 },
        Request::Piece {
            of: PieceOf {
                blob: [7; 32],
                body_len: 40,
                len: 1 << 20,
            },
            index: 3,
        },
        Request::Piecewise {
            request: BoundedBytes::new(vec![1, 2]).unwrap(),
            priority: 2,
            index: 0,
        },
        Request::Rest {
            blob: [7; 32],
            priority: 1,
            index: 32,
        },
        Request::FindNode { key: [4; 32] },
        Request::PutRecords {
            records: vec![record(); 2],
        },
        Request::Chunk(ChunkRequest::Put {
            chunks: vec![ChunkLen {
                id: ChunkId([1; 32]),
                len: 1 << 20,
            }],
            asked: 9,
        }),
        Request::Chunk(ChunkRequest::Get {
            id: ChunkId([1; 32]),
        }),
        Request::Chunk(ChunkRequest::Have {
            ids: vec![ChunkId([1; 32]); 3],
            asked: 9,
        }),
        Request::Knock { clock_ms: 7 },
        Request::Ask(asking()),
        Request::Askings {
            askings: vec![passed(); 2],
            denials: vec![denial()],
        },
    ]
}

fn asking() -> SignedAsking {
    SignedAsking {
        asking: Asking {
            volume: VolumeMark([1; 32]),
            identity: PublicIdentity {
                spki: vec![1; 294],
                signing: [2; 32],
                certificate: vec![3; 256],
            },
            name: "desk".to_owned(),
            since_ms: 7,
            clock_ms: 8,
        },
        signature: Signature([4; 64]),
    }
}

fn passed() -> PassedAsking {
    PassedAsking {
        signed: asking(),
        addr: SocketAddr::from(([192, 0, 2, 1], 4750)),
    }
}

fn denial() -> Denial {
    Denial {
        volume: VolumeMark([1; 32]),
        peer: PeerId([2; 32]),
        admin: PeerId([3; 32]),
        denied_ms: 9,
        signature: Signature([4; 64]),
    }
}

fn responses() -> Vec<Response> {
    vec![
        Response::Hello(hello()),
        Response::Join(JoinInfo {
            clock_ms: 1,
            statements: statements(),
            total: 2,
            admins: vec![record()],
            shown: BTreeMap::from([(LogId(1), 5)]),
        }),
        Response::Redeemed(Redeemed {
            statements: statements(),
            records: vec![record()],
            wrapped_keys: BoundedBytes::new(vec![1; 300]),
        }),
        Response::Sync(state()),
        Response::Segments {
            segments: vec![segment(1, 100)],
        },
        Response::Roster {
            statements: statements(),
            total: 2,
        },
        Response::Nodes {
            records: vec![record()],
        },
        Response::Chunk(ChunkResponse::Stored {
            refused: vec![None, Some(ChunkRefusal::Full)],
        }),
        Response::Chunk(ChunkResponse::Found),
        Response::Chunk(ChunkResponse::Missing),
        Response::Chunk(ChunkResponse::Have {
            kept: vec![true, false],
        }),
        Response::Chunk(ChunkResponse::Refused(ChunkRefusal::Busy)),
        Response::Done,
        Response::Refused(Refusal::ClockSkew { skew_ms: 700_000 }),
        Response::Refused(Refusal::Invite(InviteRefusal::Used)),
        Response::Knocked {
            volume: VolumeMark([1; 32]),
        },
        Response::Asked(Asked::Waiting),
        Response::Asked(Asked::Admitted(JoinInfo {
            clock_ms: 1,
            statements: statements(),
            total: 2,
            admins: vec![record()],
            shown: BTreeMap::from([(LogId(1), 5)]),
        })),
        Response::Refused(Refusal::Denied),
    ]
}

#[test]
fn every_message_round_trips() {
    for request in requests() {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    for response in responses() {
        assert_eq!(Response::decode(&response.encode()), Ok(response));
    }
}

#[test]
fn every_truncation_and_every_tail_is_refused() {
    let all = requests().into_iter().map(|message| message.encode());
    for bytes in all {
        for cut in 0..bytes.len() {
            assert!(Request::decode(&bytes[..cut]).is_err());
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(Request::decode(&longer).is_err());
    }
}

#[test]
fn other_versions_are_told_apart() {
    let mut bytes = Response::Done.encode().to_vec();
    bytes[0] = WIRE_VERSION + 1;
    assert_eq!(
        Response::decode(&bytes),
        Err(WireError::TooNew {
            found: WIRE_VERSION + 1
        })
    );
    bytes[0] = 0;
    assert!(matches!(
        Response::decode(&bytes),
        Err(WireError::Malformed { .. })
    ));
    assert_eq!(Response::decode(&[]), Err(WireError::Empty));
    let large = vec![WIRE_VERSION; MESSAGE_BODY_MAX_BYTES + 1];
    assert!(matches!(
        Request::decode(&large),
        Err(WireError::TooLarge { .. })
    ));
}

#[test]
fn a_kind_of_request_that_is_not_known_is_told_from_what_is_no_request() {
    let known = variants::count::<Request>() as u8;
    for kind in 0..=u8::MAX {
        let (bytes, number) = match kind {
            0..=250 => (vec![WIRE_VERSION, kind, 7, 7], u32::from(kind)),
            // A number above 250 is a marker and two bytes.
            _ => (vec![WIRE_VERSION, 0xfb, kind, 1], u32::from(kind) + 256),
        };
        let unknown = Err(WireError::Unknown { found: number });
        let decoded = Request::decode(&bytes);
        assert_eq!(decoded == unknown, kind >= known, "{kind}: {decoded:?}");
    }
    let known = variants::count::<ChunkRequest>() as u8;
    for kind in 0..=250 {
        let decoded = Request::decode(&[WIRE_VERSION, 10, kind, 1]);
        let unknown = Err(WireError::Unknown { found: kind.into() });
        assert_eq!(decoded == unknown, kind >= known, "{kind}: {decoded:?}");
    }
    for cut in [
        &[WIRE_VERSION][..],
        &[WIRE_VERSION, 10],
        &[WIRE_VERSION, 0xfb, 1],
    ] {
        let malformed = Err(WireError::Malformed { what: "a request" });
        assert_eq!(Request::decode(cut), malformed);
    }
}

#[test]
fn lists_over_their_limit_are_refused() {
    let long = Request::Chunk(ChunkRequest::Have {
        ids: vec![ChunkId([0; 32]); limits::HAVE_MAX + 1],
        asked: 0,
    });
    assert!(Request::decode(&long.encode()).is_err());
    let many = (0..=limits::VECTOR_MAX as u64).map(|log| (LogId(log), 1));
    let sync = Request::Sync(SyncState {
        vector: many.collect(),
        ..state()
    });
    assert!(Request::decode(&sync.encode()).is_err());
    let sync = Request::Sync(SyncState {
        alike: vec![PeerId([5; 32]); limits::ALIKE_MAX + 1],
        ..state()
    });
    assert!(Request::decode(&sync.encode()).is_err());
    let empty = StatementBytes::new(vec![]).unwrap();
    let push = Request::RosterPush {
        statements: vec![empty; limits::STATEMENTS_MAX + 1],
    };
    assert!(Request::decode(&push.encode()).is_err());
    let askings = |askings: usize, denials: usize| Request::Askings {
        askings: vec![passed(); askings],
        denials: vec![denial(); denials],
    };
    let most = limits::ASKINGS_MAX;
    assert!(Request::decode(&askings(most, most).encode()).is_ok());
    assert!(Request::decode(&askings(most + 1, 0).encode()).is_err());
    assert!(Request::decode(&askings(0, most + 1).encode()).is_err());
    assert!(StatementBytes::new(vec![0; limits::STATEMENT_MAX_BYTES + 1]).is_none());
}

#[test]
fn a_vector_has_one_encoding() {
    let request = Request::Pull {
        room: 7,
        from: BTreeMap::from([(LogId(1), 5), (LogId(2), 5)]),
    };
    let mut bytes = request.encode().to_vec();
    let len = bytes.len();
    // Behind the pairs stands the room.
    bytes.swap(len - 5, len - 3);
    assert!(Request::decode(&bytes).is_err());
}

#[test]
fn a_segment_of_the_largest_body_fits_a_message() {
    let push = Request::Push {
        segments: vec![segment(1, SealedSegment::BODY_MAX_BYTES)],
    };
    assert_eq!(Request::decode(&push.encode()), Ok(push));
}

#[test]
fn stored_segments_round_trip_and_their_hash_covers_all_of_them() {
    let one = segment(1, 300);
    let bytes = Bytes::from(one.to_bytes());
    let overhead = SealedSegment::OVERHEAD_BYTES + SegmentHeader::SEEN_BYTES;
    assert_eq!(bytes.len(), overhead + 300);
    assert_eq!(SealedSegment::from_bytes(&bytes), Ok(one.clone()));
    for cut in 0..overhead {
        assert!(SealedSegment::from_bytes(&bytes.slice(..cut)).is_err());
    }
    for at in 1..bytes.len() {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1;
        // Another count of what was seen may need more bytes than there are.
        if let Ok(changed) = SealedSegment::from_bytes(&changed.into()) {
            assert_ne!(changed.hash(), one.hash(), "byte {at}");
        }
    }
    let mut many = one;
    many.header.seen = vec![many.header.seen[0]; limits::SEEN_MAX];
    let most = Bytes::from(many.to_bytes());
    assert_eq!(SealedSegment::from_bytes(&most), Ok(many.clone()));
    many.header.seen.push(many.header.seen[0]);
    assert!(SealedSegment::from_bytes(&many.to_bytes().into()).is_err());
}

#[test]
fn the_worked_examples_of_the_wire_document_hold() {
    assert_eq!(Request::RosterPull { skip: 3 }.encode(), [1, 7, 3][..]);
    assert_eq!(Response::Done.encode(), [1, 8][..]);
    let get = Request::Chunk(ChunkRequest::Get {
        id: ChunkId([9; 32]),
    });
    assert_eq!(get.encode()[..4], [1, 10, 1, 9]);
    let refused = Response::Refused(Refusal::ClockSkew { skew_ms: 700_000 });
    assert_eq!(refused.encode(), [1, 9, 3, 0xfc, 0x60, 0xae, 0x0a, 0][..]);
}

#[test]
fn the_layout_of_segments_is_that_of_the_wire_document() {
    let bytes = segment(7, 0).header.to_bytes();
    assert_eq!(bytes.len(), 172 + 56);
    assert_eq!(bytes[..32], [1; 32]);
    assert_eq!(bytes[32..40], 0x0123_4567_89ab_cdef_u64.to_le_bytes());
    assert_eq!(bytes[40..48], 8u64.to_le_bytes());
    assert_eq!(bytes[48..56], 9u64.to_le_bytes());
    assert_eq!(bytes[56..64], 7u64.to_le_bytes());
    assert_eq!(bytes[64..96], [2; 32]);
    assert_eq!(bytes[96..104], 1u64.to_le_bytes());
    assert_eq!(bytes[104..112], 40u64.to_le_bytes());
    assert_eq!(bytes[112..144], [7; 32]);
    assert_eq!(bytes[144..152], Stamp::from_ms(1_000).0.to_le_bytes());
    assert_eq!(bytes[152..160], Stamp::from_ms(2_000).0.to_le_bytes());
    assert_eq!(bytes[160..168], [3, 0, 0, 0, 4, 0, 0, 0]);
    assert_eq!(bytes[168..172], 1u32.to_le_bytes());
    assert_eq!(bytes[172..180], 3u64.to_le_bytes());
    assert_eq!(bytes[180..188], 2u64.to_le_bytes());
    assert_eq!(bytes[188..220], [8; 32]);
    assert_eq!(bytes[220..228], Stamp::from_ms(900).0.to_le_bytes());
    assert_eq!(segment(7, 5).to_bytes()[0], 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Request::decode(&bytes);
        let _ = Response::decode(&bytes);
        let _ = NodeRecord::decode(&bytes);
        let _ = SealedSegment::from_bytes(&bytes.clone().into());
        if let Some(first) = bytes.first_mut() {
            *first = WIRE_VERSION;
        }
        let _ = Request::decode(&bytes);
        let _ = Response::decode(&bytes);
        let _ = NodeRecord::decode(&bytes);
    }

    #[test]
    fn changed_messages_never_panic_and_decode_to_what_encodes(
        pick in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let requests = requests();
        let mut bytes = pick.get(&requests).encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(decoded) = Request::decode(&bytes) {
            prop_assert_eq!(Request::decode(&decoded.encode()), Ok(decoded));
        }
    }
}
