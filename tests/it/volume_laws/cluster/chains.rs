//! What the devices do about the commit chain: who judges it, and how they meet where there are two.

use std::sync::Arc;

use dfs::base::{Clock, DeviceId, LogId};
use dfs::crypto::Signature;
use dfs::log::chain::{Notary, Proposal, Record, VOTE_DOMAIN, Vote};
use dfs::volume::{Change, VolumeError};
use dfs::wire::{RecordRef, SealedSegment};

use super::{Device, IDENTITIES, Roll};

/// How many devices are admins: the first ones, the most senior first.
const ADMINS: usize = 2;

/// Signs as the device at an index, and verifies and judges as everybody does who knows its roll.
pub(super) struct Judge {
    index: usize,
    roll: Arc<Roll>,
}

fn index_of(device: DeviceId) -> Option<usize> {
    let mut all = IDENTITIES.iter();
    all.position(|identity| identity.device() == device)
}

impl Notary for Judge {
    fn sign(&self, vote: &Vote) -> Signature {
        IDENTITIES[self.index].sign(VOTE_DOMAIN, &vote.to_bytes())
    }

    fn verify(&self, device: DeviceId, vote: &Vote, signature: &Signature) -> bool {
        let author = index_of(device).map(|index| IDENTITIES[index].public());
        author.is_some_and(|author| {
            let bytes = vote.to_bytes();
            author.verify(VOTE_DOMAIN, &bytes, signature).is_ok()
        })
    }

    fn may_begin_era(&self, device: DeviceId) -> bool {
        index_of(device).is_some_and(|index| index < ADMINS)
    }

    fn seniority(&self, device: DeviceId) -> Option<u64> {
        let is_admin = |index: &usize| *index < ADMINS && !self.roll.ends(first_admission(*index));
        index_of(device).filter(is_admin).map(|index| index as u64)
    }

    fn ends(&self, record: &Record, device: DeviceId) -> bool {
        let admission = index_of(device).map(first_admission);
        let mut ended = record.statements.iter().map(Roll::ended_by);
        ended.any(|ended| Some(ended) == admission)
    }

    fn endorses(&self, _: &Record) -> bool {
        true
    }
}

/// Returns the admission of a device that was never admitted anew.
pub(super) fn first_admission(index: usize) -> [u8; 32] {
    [index as u8 + 1; 32]
}

/// What a device takes of another when they meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Records alone.
    Records,
    /// Segments alone, so many of each log.
    Segments(usize),
    /// Records, and then segments, so many of each log.
    All(usize),
}

impl Device {
    pub(super) fn judge(&self) -> Judge {
        Judge {
            index: self.index,
            roll: Arc::clone(&self.roll),
        }
    }

    /// Begins an era, of which this device decides alone.
    pub(crate) fn begin_era(&self) {
        let (now, now_ms) = (self.clock.monotonic(), self.clock.wall_ms());
        let outcome = self.chain.begin_era(now, now_ms, &self.judge()).unwrap();
        self.see_to(outcome);
    }

    /// Makes a record where this device decides, and folds nothing.
    pub(crate) fn make_record(&self, needed: u64) {
        let (now, now_ms) = (self.clock.monotonic(), self.clock.wall_ms());
        let proposal = Proposal {
            now_ms,
            needed,
            asks_checkpoint: false,
            voters: None,
            is_checkpoint: true,
        };
        let outcome = self.chain.extend(now, proposal, &self.judge()).unwrap();
        self.see_to(outcome);
    }

    /// Takes of another what it has, as peers do of one another that may be on two chains. Nothing of it is
    /// folded.
    pub(crate) fn meet(&self, from: &Self, takes: Takes) {
        self.roll.learn(&from.roll);
        if !matches!(takes, Takes::Segments(_)) {
            self.take_chain(from);
        }
        let (Takes::Segments(max) | Takes::All(max)) = takes else {
            return;
        };
        let have = self.log.vector();
        let mut segments = Vec::new();
        for log in from.log.offered().into_keys() {
            let next = have.get(&log).copied().unwrap_or(0) + 1;
            let range = from.log.range(log, next, usize::MAX).unwrap();
            let range: Vec<SealedSegment> = range.into_iter().take(max).collect();
            self.learn_left(from, &range);
            let is_founded = |segment: &SealedSegment| {
                let lacks = self.chain.lacks(segment.header.record).unwrap();
                lacks.is_none()
            };
            segments.extend(range.into_iter().take_while(is_founded));
        }
        let now = self.clock.wall_ms() + 300_000;
        let accepted = self.log.accept(&segments, now, &|_| Ok(())).unwrap();
        assert!(accepted.refused.is_empty());
        self.chain.hold().unwrap();
    }

    /// Takes the records of another that continue the own chain, or goes over to its chain where that counts.
    fn take_chain(&self, from: &Self) {
        from.chain.hold().unwrap();
        let (tip, theirs) = (self.chain.tip(), from.chain.offered());
        let (device, now) = (from.identity().device(), self.clock.monotonic());
        if theirs.number > tip.number && theirs.era >= tip.era {
            let links = from.chain.range(tip.number, usize::MAX, usize::MAX);
            // Where they part the first of them is refused.
            let (outcome, _) = self
                .chain
                .accept(&links.unwrap(), device, now, &self.judge());
            self.see_to(outcome);
            if self.chain.tip() != tip {
                return;
            }
        }
        if theirs == RecordRef::default() || self.chain.has(theirs).unwrap() {
            return;
        }
        let links = from.chain.range(0, usize::MAX, usize::MAX).unwrap();
        if let Some(outcome) = self.chain.weigh(&links, now, &self.judge()).unwrap() {
            self.see_to(outcome);
        }
    }

    /// Learns of another on what its segments stand that is of a chain that it left, some records at a time.
    pub(super) fn learn_left(&self, from: &Self, segments: &[SealedSegment]) {
        for record in segments.iter().map(|segment| segment.header.record) {
            while let Some(lacking) = self.chain.lacks(record).unwrap() {
                let links = from.chain.left_range(lacking, usize::MAX, 3).unwrap();
                if !self.chain.keep_left(lacking, &links).unwrap() {
                    break;
                }
            }
        }
    }

    /// Folds what is here as a mount does: anew where it has gone over to another chain. Returns what kernels
    /// have to forget.
    pub(crate) fn fold(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        if !self.volume.is_of_chain().unwrap() {
            match self.volume.fold_anew() {
                Ok(anew) => {
                    assert_eq!(anew.lost, 0);
                    changes.extend(anew.changes.to_vec());
                    assert!(self.volume.is_of_chain().unwrap());
                }
                // Not all is here yet that is folded already.
                Err(error) => assert!(is_not_here(&error), "{error}"),
            }
        }
        loop {
            let merged = self.volume.apply_segments().unwrap();
            assert!(merged.refused.is_empty());
            if merged.is_nothing() {
                return changes;
            }
            changes.extend(merged.changes.to_vec());
        }
    }

    /// Folds as [`Device::fold`] does on a disk that may refuse it; says whether it took all.
    pub(crate) fn try_fold(&self) -> bool {
        let anew = match self.volume.is_of_chain() {
            Ok(true) => true,
            Ok(false) => self.volume.fold_anew().is_ok(),
            Err(_) => false,
        };
        // Whether or not it went over, it goes on.
        let first = self.volume.apply_segments();
        anew && first.is_ok() && self.volume.apply_segments().is_ok()
    }
}

fn is_not_here(error: &VolumeError) -> bool {
    matches!(
        error,
        VolumeError::NotHere { .. } | VolumeError::Corrupt { .. }
    )
}

/// Lets all meet until they are on one chain and have all of it, and folds that; returns after how many rounds.
pub(crate) fn meet_all(devices: &[Device]) -> usize {
    let newest = devices.iter().map(|device| device.clock.monotonic()).max();
    for device in devices {
        let behind = newest.unwrap_or_default() - device.clock.monotonic();
        device.clock.advance(behind);
    }
    for round in 1..20 {
        for device in devices {
            device.publish();
        }
        for device in devices {
            for other in devices {
                device.meet(other, Takes::All(usize::MAX));
            }
            device.fold();
        }
        let has = |device: &Device| -> (RecordRef, Vec<(LogId, u64)>) {
            let vector = device.log.vector();
            (device.volume.record(), vector.into_iter().collect())
        };
        let first = has(&devices[0]);
        let is_done = devices.iter().all(|device| has(device) == first);
        if is_done && first.0 == devices[0].chain.tip() {
            return round;
        }
    }
    for device in devices {
        println!(
            "{}: {:?}",
            device.index,
            (device.volume.record(), device.chain.tip())
        );
    }
    panic!("they do not come together");
}
