//! What the books say of one chunk, and how that follows from what holders confirm.

use serde::{Deserialize, Serialize};

use crate::base::PeerId;
use crate::replica::limits::{HOLDERS_MAX, ROW_MAX_BYTES};
use crate::store::codec;

/// Why a chunk is on this peer's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::replica) enum Kind {
    /// Fetched for a reader, or released: may be evicted at any time.
    Cached,
    /// Made here, but to be held by others: kept until R of them have it.
    Kept,
    /// This peer is one of the holders.
    Held,
}

/// What is known of a chunk that is on this peer's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::replica) struct Holding {
    /// Length of the sealed bytes.
    pub(in crate::replica) len: u32,
    /// Why it is here.
    pub(in crate::replica) kind: Kind,
    /// Fewer than R peers are known to hold it, and this peer is to see to it.
    pub(in crate::replica) short: bool,
    /// Others that confirmed to hold it durably, sorted.
    pub(in crate::replica) confirmed: Vec<PeerId>,
    /// Others that are to be asked and sent it, sorted; each has a row of `Pending`.
    pub(in crate::replica) queued: Vec<PeerId>,
    /// The newest record of the chain that whoever made it, or asked for it last, knew: an op that
    /// names it may be on its way until the base line has passed that.
    pub(in crate::replica) asked: u64,
    /// Since when it is known that nothing names it, milliseconds since 1970.
    pub(in crate::replica) unnamed_since_ms: Option<u64>,
}

/// Where a chunk belongs, as computed from the current candidates.
#[derive(Debug, Clone)]
pub(in crate::replica) struct Plan {
    /// This peer.
    pub(in crate::replica) me: PeerId,
    /// The R holders by rank.
    pub(in crate::replica) targets: Vec<PeerId>,
    /// How many holders there must be.
    pub(in crate::replica) wanted: usize,
}

impl Holding {
    pub(super) fn new(len: u32, kind: Kind) -> Self {
        Self {
            len,
            kind,
            short: false,
            confirmed: Vec::new(),
            queued: Vec::new(),
            asked: 0,
            unnamed_since_ms: None,
        }
    }

    /// Takes note that somebody who knows the chain up to record `asked` counts on this copy.
    pub(super) fn count_on(&mut self, asked: u64) {
        self.asked = self.asked.max(asked);
        self.unnamed_since_ms = None;
    }

    /// Says whether those who confirmed this may have given it up by the time when an op names it that
    /// was issued behind record `named`.
    pub(super) fn is_stale(&self, named: u64) -> bool {
        self.asked < named || self.unnamed_since_ms.is_some()
    }

    /// Returns how many peers are known to hold the chunk, this one included.
    pub(in crate::replica) fn copies(&self) -> usize {
        self.confirmed.len() + usize::from(self.kind == Kind::Held)
    }

    /// Returns on how many disks the chunk is known to be, this one included: a chunk that was made
    /// here stays until there are enough others.
    pub(super) fn disks(&self) -> usize {
        self.confirmed.len() + usize::from(self.kind != Kind::Cached)
    }

    /// Follows from the rest: short or not, kept or released.
    pub(super) fn settle(&mut self, wanted: usize) {
        self.short = self.kind != Kind::Cached && self.copies() < wanted;
        if self.kind == Kind::Kept && !self.short && self.queued.is_empty() {
            self.kind = Kind::Cached;
        }
    }

    pub(super) fn confirm(&mut self, peer: PeerId) {
        remove(&mut self.queued, &peer);
        if self.confirmed.len() < HOLDERS_MAX {
            insert(&mut self.confirmed, peer);
        }
    }

    /// Takes over a new plan; `is_member` says who may still count as a holder.
    pub(super) fn replan(&mut self, plan: &Plan, is_member: &dyn Fn(&PeerId) -> bool) {
        self.confirmed.retain(is_member);
        self.queued.clear();
        for target in &plan.targets {
            if *target != plan.me && !self.confirmed.contains(target) {
                insert(&mut self.queued, *target);
            }
        }
        self.kind = if plan.targets.contains(&plan.me) {
            Kind::Held
        } else {
            Kind::Kept
        };
        self.settle(plan.wanted);
    }
}

pub(super) fn decode(row: &[u8]) -> Option<Holding> {
    codec::decode(row, ROW_MAX_BYTES).ok()
}

/// Returns the row of a chunk of which nobody is believed to hold it; `None` where nobody was.
pub(in crate::replica) fn doubted(row: &[u8]) -> Option<Vec<u8>> {
    let mut holding = decode(row).filter(|holding| !holding.confirmed.is_empty())?;
    holding.confirmed.clear();
    if holding.kind == Kind::Cached {
        // It may have been made here, and be nowhere else.
        holding.kind = Kind::Kept;
    }
    Some(codec::encode(&holding))
}

pub(super) fn insert(sorted: &mut Vec<PeerId>, peer: PeerId) {
    if let Err(index) = sorted.binary_search(&peer) {
        sorted.insert(index, peer);
    }
}

pub(super) fn remove(sorted: &mut Vec<PeerId>, peer: &PeerId) {
    sorted.retain(|other| other != peer);
}
