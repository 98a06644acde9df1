//! What the tests of the chain share: records of a few bytes, and votes that cost no arithmetic.

mod check;
mod fork;
mod keep;
mod marks;
mod rules;
mod stored;
mod storm;
mod voter;

use super::{Notary, Record, RecordBody, Row, SegmentName, Tip, Vote, Voter};
use crate::base::{DeviceId, LogId, OpId, VolumeId};
use crate::crypto::Signature;

/// A notary whose signatures name their device and what was signed, and prove nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stub(pub(super) DeviceId);

fn stub_signature(device: DeviceId, vote: &Vote) -> Signature {
    let mut bytes = [0; 64];
    let numbers = [
        device.0,
        vote.number,
        vote.ballot.round,
        vote.ballot.leader.0,
    ];
    for (part, number) in bytes.chunks_mut(8).zip(numbers) {
        part.copy_from_slice(&number.to_le_bytes());
    }
    bytes[32..].copy_from_slice(&vote.hash);
    Signature(bytes)
}

impl Notary for Stub {
    fn sign(&self, vote: &Vote) -> Signature {
        stub_signature(self.0, vote)
    }
    fn verify(&self, device: DeviceId, vote: &Vote, signature: &Signature) -> bool {
        *signature == stub_signature(device, vote)
    }
    fn may_begin_era(&self, _: DeviceId) -> bool {
        true
    }
    fn seniority(&self, device: DeviceId) -> Option<u64> {
        Some(device.0)
    }
    fn ends(&self, _: &Record, _: DeviceId) -> bool {
        false
    }
    fn endorses(&self, _: &Record) -> bool {
        true
    }
}

pub(super) fn voters(devices: &[u64]) -> Vec<Voter> {
    let voter = |device: &u64| Voter {
        device: DeviceId(*device),
        incarnation: 1,
    };
    devices.iter().map(voter).collect()
}

pub(super) fn genesis(devices: &[u64]) -> Record {
    let body = RecordBody {
        era: 0,
        number: 0,
        prev: [0; 32],
        segments: Vec::new(),
        ended: Vec::new(),
        statements: vec![[7; 32]],
        base_line: 0,
        time_ms: 0,
        voters: voters(devices),
        is_checkpoint: false,
    };
    Record::new(body).unwrap()
}

pub(super) fn volume_of(genesis: &Record) -> VolumeId {
    genesis.volume().unwrap()
}

/// Returns a record behind `tip` that no other `mark` makes.
pub(super) fn next(tip: &Tip, mark: u64, voters: Vec<Voter>) -> Record {
    let body = RecordBody {
        era: tip.at.era,
        number: tip.at.number + 1,
        prev: tip.at.hash,
        segments: vec![SegmentName {
            log: LogId(mark),
            seg_no: 1,
            hash: [mark as u8; 32],
            last: OpId::default(),
        }],
        ended: Vec::new(),
        statements: Vec::new(),
        base_line: tip.base_line,
        time_ms: mark,
        voters,
        is_checkpoint: false,
    };
    Record::new(body).unwrap()
}

pub(super) fn first_row(device: u64, genesis: &Record) -> Row {
    Row::new(voters(&[device])[0], Tip::of(genesis))
}
