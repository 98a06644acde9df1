//! The bytes of every kind of message, and of each refusal in one.

use dfs::base::ChunkId;
use dfs::base::id::{from_hex, to_hex};
use dfs::base::variants;
use dfs::wire::{
    Asked, CheckpointBytes, ChunkRefusal, ChunkRequest, ChunkResponse, InviteRefusal, LinkBytes,
    LogRefusal, PieceOf, RecoveryRefusal, Refusal, Request, Response, StartsBytes,
};

use super::{requests, responses, state};

fn more_requests() -> Vec<Request> {
    let ids = || vec![ChunkId([1; 32]); 2];
    let secret = [2; 32];
    vec![
        Request::Introduce {
            nonce: [1; 32],
            proof: secret,
        },
        Request::Recover {
            secret,
            clock_ms: 7,
        },
        Request::Chunk(ChunkRequest::Query { ids: ids() }),
        Request::Chunk(ChunkRequest::Lost { ids: ids() }),
        Request::Chunk(ChunkRequest::Named { ids: ids() }),
        Request::Chunk(ChunkRequest::Collect),
        Request::Chunk(ChunkRequest::GetPart {
            id: ChunkId([1; 32]),
            start: 16_437,
            end: 32_837,
        }),
        Request::Checkpoints {
            words: vec![CheckpointBytes::new(vec![1; 3]).unwrap()],
        },
        Request::Starts { hash: [1; 32] },
    ]
}

fn refusals() -> Vec<Refusal> {
    use RecoveryRefusal::Ended;
    let invites = [
        InviteRefusal::Unknown,
        InviteRefusal::Used,
        InviteRefusal::Expired,
        InviteRefusal::Revoked,
    ];
    let mut all = vec![
        Refusal::WrongVolume,
        Refusal::NotOnRoster,
        Refusal::Removed,
        Refusal::ClockSkew { skew_ms: 700_000 },
        Refusal::TooNew { known: 1 },
        Refusal::Duplicate,
        Refusal::HelloFirst,
        Refusal::Malformed,
        Refusal::NotAllowed,
        Refusal::Busy,
        Refusal::NotAdmin,
    ];
    all.extend(invites.map(Refusal::Invite));
    all.extend([Refusal::NoKeys, Refusal::Denied, Refusal::AskedTooLong]);
    all.extend([RecoveryRefusal::Unknown, Ended].map(Refusal::Recovery));
    all.push(Refusal::Unknown);
    all
}

fn more_responses() -> Vec<Response> {
    let chunk_refusals = [
        ChunkRefusal::Full,
        ChunkRefusal::Corrupt,
        ChunkRefusal::Malformed,
        ChunkRefusal::Failed,
        ChunkRefusal::Busy,
    ];
    let refused_logs = [
        LogRefusal::Ahead { ahead_ms: 9 },
        LogRefusal::Forked { seg_no: 300 },
        LogRefusal::NotAllowed,
        LogRefusal::Unfounded { number: 300 },
    ];
    let mut all: Vec<Response> = refusals().into_iter().map(Response::Refused).collect();
    let refused = chunk_refusals.map(|refusal| Response::Chunk(ChunkResponse::Refused(refusal)));
    all.extend(refused);
    all.extend(refused_logs.map(|refusal| {
        let mut state = state();
        state.refuses = Some(refusal);
        Response::Sync(state)
    }));
    all.push(Response::Pieces { have: 1 << 40 });
    all.push(Response::Large(PieceOf {
        blob: [7; 32],
        body_len: 40,
        len: 1 << 20,
    }));
    all.push(Response::PieceBytes);
    let links = vec![LinkBytes::new(vec![9; 40]).unwrap()];
    all.push(Response::Chain { links });
    all.push(Response::Chunk(ChunkResponse::Noted));
    all.push(Response::Chunk(ChunkResponse::Coming));
    all.push(Response::Chunk(ChunkResponse::Part {
        len: 1_049_637,
        hashes: vec![[7; 32], [8; 32]],
    }));
    all.push(Response::Chunk(ChunkResponse::Named {
        base_line: 9,
        named: vec![true, false],
    }));
    all.push(Response::Checkpoints {
        words: vec![CheckpointBytes::new(vec![1; 3]).unwrap()],
    });
    all.push(Response::Starts { starts: None });
    let starts = StartsBytes::new(vec![2; 5]);
    all.push(Response::Starts { starts });
    all
}

/// Returns what a message is called by the numbers with which it begins: its kind, and that of what is
/// inside where that has kinds, too.
fn name_of(bytes: &[u8], names: &[&'static str]) -> String {
    let name = names[usize::from(bytes[1])];
    let inside = match name {
        "Chunk" if names.len() == variants::names::<Request>().len() => {
            variants::names::<ChunkRequest>()
        }
        "Chunk" => variants::names::<ChunkResponse>(),
        "Refused" => variants::names::<Refusal>(),
        "Asked" => variants::names::<Asked>(),
        _ => &[],
    };
    match inside {
        [] => name.to_owned(),
        inside => format!("{name}.{}", inside[usize::from(bytes[2])]),
    }
}

/// Asserts that each kind is among the samples.
fn assert_all(samples: &[(String, Vec<u8>)], prefix: &str, names: &[&str]) {
    for name in names {
        let wanted = format!("{prefix}{name}");
        let has = |(sample, _): &(String, Vec<u8>)| {
            let rest = sample.strip_prefix(&wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        assert!(samples.iter().any(has), "docs/messages.txt has no {wanted}");
    }
}

#[test]
fn every_kind_of_message_has_the_bytes_that_it_always_had() {
    let (asked, answered) = (variants::names::<Request>(), variants::names::<Response>());
    assert_ne!(
        asked.len(),
        answered.len(),
        "by which name_of tells them apart"
    );
    let mut samples = Vec::new();
    for request in requests().into_iter().chain(more_requests()) {
        let bytes = request.encode().to_vec();
        assert_eq!(Request::decode(&bytes), Ok(request));
        samples.push((format!("Request.{}", name_of(&bytes, asked)), bytes));
    }
    for response in responses().into_iter().chain(more_responses()) {
        let bytes = response.encode().to_vec();
        assert_eq!(Response::decode(&bytes), Ok(response));
        samples.push((format!("Response.{}", name_of(&bytes, answered)), bytes));
    }
    assert_all(&samples, "Request.", asked);
    assert_all(
        &samples,
        "Request.Chunk.",
        variants::names::<ChunkRequest>(),
    );
    assert_all(&samples, "Response.", answered);
    assert_all(
        &samples,
        "Response.Chunk.",
        variants::names::<ChunkResponse>(),
    );
    assert_all(&samples, "Response.Refused.", variants::names::<Refusal>());
    assert_all(&samples, "Response.Asked.", variants::names::<Asked>());
    // Those that `more_responses` and `refusals` list.
    assert_eq!(variants::count::<ChunkRefusal>(), 5);
    assert_eq!(variants::count::<LogRefusal>(), 4);
    assert_eq!(variants::count::<InviteRefusal>(), 4);
    assert_eq!(variants::count::<RecoveryRefusal>(), 2);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/messages.txt");
    let stored = std::fs::read_to_string(path).unwrap();
    let stored = stored.lines().filter(|line| !line.starts_with('#'));
    let stored: Vec<(String, Vec<u8>)> = stored
        .filter_map(|line| line.split_once(' '))
        .map(|(name, hex)| (name.to_owned(), from_hex(hex).expect("hex")))
        .collect();
    if stored != samples {
        for (name, bytes) in &samples {
            println!("{name} {}", to_hex(bytes));
        }
        panic!("docs/messages.txt has other bytes than these");
    }
}
