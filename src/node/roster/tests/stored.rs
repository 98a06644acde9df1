//! The bytes of each kind of statement.

use super::*;
use crate::base::{stored, variants};
use crate::crypto::{PublicIdentity, Signature};
use crate::node::roster::statement::{Claim, Content, Statement};
use crate::store::codec;

fn claims() -> Vec<Claim> {
    let identity = || PublicIdentity {
        spki: vec![1; 8],
        signing: [2; 32],
        certificate: vec![3; 4],
    };
    let name = || "desk".to_owned();
    let (admission, keep) = (StatementId([4; 32]), vec![StatementId([5; 32])]);
    let shown = Vector::from([(LogId(6), 7)]);
    let (invite, peer) = (InviteId([8; 32]), PeerId([9; 32]));
    vec![
        Claim::Genesis {
            identity: identity(),
            name: name(),
            salt: [10; 16],
        },
        Claim::Admit {
            identity: identity(),
            role: Role::Writer,
            name: name(),
            invite: Some(invite),
            shown: shown.clone(),
        },
        Claim::Invite {
            invite,
            role: Role::Reader,
            expires_ms: 1 << 40,
        },
        Claim::Remove {
            admission,
            keep: keep.clone(),
        },
        Claim::Grant {
            peer,
            wrapped: vec![11; 5],
        },
        Claim::Reassign {
            replaces: admission,
            identity: identity(),
            role: Role::Storage,
            name: name(),
            keep,
            shown,
        },
        Claim::Rename { peer, name: name() },
        Claim::Revoke { invite },
        Claim::Recovery {
            identity: identity(),
            lookup: RecoveryId([12; 32]),
            sealed: vec![13; 6],
        },
        Claim::Set(Setting::HistoryMs(90 * 86_400_000)),
        Claim::Set(Setting::Snapshots(Schedule {
            hourly: 24,
            daily: 7,
            weekly: 300,
        })),
    ]
}

fn content(claim: Claim) -> Content {
    let is_genesis = matches!(claim, Claim::Genesis { .. });
    let by = |byte| (!is_genesis).then_some(StatementId([byte; 32]));
    Content {
        authority: by(14),
        prev: by(15),
        stamp: Stamp::from_ms(1_000),
        claim,
    }
}

#[test]
fn every_kind_of_statement_has_the_bytes_that_it_always_had() {
    let names = variants::names::<Claim>();
    let contents: Vec<Content> = claims().into_iter().map(content).collect();
    let samples = contents.iter().map(|content| {
        let kind = usize::from(codec::encode(&content.claim)[0]);
        let mut bytes = vec![1];
        // Nobody signed it.
        codec::encode_into(&(content, Signature([16; 64])), &mut bytes);
        (names[kind], bytes)
    });
    let samples: Vec<(&str, Vec<u8>)> = samples.collect();
    let stored = stored::check("docs/statements.txt", names, &samples);
    for (content, bytes) in contents.iter().zip(stored) {
        assert_eq!(&Statement::decode(&bytes).unwrap().content, content);
    }
}

#[test]
fn a_statement_of_a_newer_kind_is_told_from_what_is_none() {
    let known = variants::count::<Claim>();
    for kind in 0..=250 {
        let (authority, prev) = (Some(StatementId([1; 32])), None::<StatementId>);
        let mut bytes = vec![1];
        codec::encode_into(&(authority, prev, Stamp(2), kind, [7u8; 3]), &mut bytes);
        let decoded = Statement::decode(&bytes).err();
        let is_newer = matches!(decoded, Some(RosterError::UnknownClaim { .. }));
        assert_eq!(is_newer, kind >= known, "{kind}: {decoded:?}");
        // Who hands it on does nothing wrong.
        let merged = volume().merge([&bytes[..]]);
        let counted = (merged.refused, merged.newer);
        assert_eq!(counted == (0, 1), kind >= known, "{kind}: {counted:?}");
    }
}
