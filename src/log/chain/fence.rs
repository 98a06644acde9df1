//! The fence: how far the logs of who was removed count.
//!
//! A log stands on the admission that its first segment names. From the record on that takes into account
//! what ends that admission, those of its segments count, and are named, which a record up to then names,
//! and those in the past of a segment of a log that goes on; no others, whoever hands them on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::fork::Footing;
use super::keep::Chain;
use crate::base::LogId;
use crate::log::{LogError, LogStore};
use crate::wire::{SealedSegment, Seen, Vector};

/// What a statement of the roster ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ending {
    /// Admissions by which nobody writes any more, whatever takes their place.
    pub admissions: Vec<[u8; 32]>,
    /// An admission that ends together with all that take its place.
    pub removed: Option<[u8; 32]>,
}

/// What is asked of the roster about the admissions on which logs stand. Admissions and what ends them
/// are named by the hashes of their statements.
pub trait Roll: Send + Sync {
    /// Returns the statements that hold and end the right to write of somebody who had it.
    fn endings(&self) -> Vec<[u8; 32]>;

    /// Returns what a statement ends, `None` where it is not here, or what it speaks of. Of one statement
    /// it is the same for everybody, whatever else the roster says.
    fn ending(&self, statement: &[u8; 32]) -> Option<Ending>;

    /// Returns an admission and those whose place it took, one after the other; so for everybody.
    fn line(&self, admission: &[u8; 32]) -> Vec<[u8; 32]>;
}

/// The roll of a volume whose members never change.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NoChanges;

impl Roll for NoChanges {
    fn endings(&self) -> Vec<[u8; 32]> {
        Vec::new()
    }

    fn ending(&self, _: &[u8; 32]) -> Option<Ending> {
        Some(Ending::default())
    }

    fn line(&self, admission: &[u8; 32]) -> Vec<[u8; 32]> {
        vec![*admission]
    }
}

/// The admissions that have ended by some record of the chain.
#[derive(Clone)]
pub struct Fence {
    roll: Arc<dyn Roll>,
    admissions: BTreeSet<[u8; 32]>,
    removed: BTreeSet<[u8; 32]>,
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence")
            .field("admissions", &self.admissions.len())
            .field("removed", &self.removed.len())
            .finish_non_exhaustive()
    }
}

impl Fence {
    pub(super) fn new(roll: Arc<dyn Roll>) -> Self {
        Self {
            roll,
            admissions: BTreeSet::new(),
            removed: BTreeSet::new(),
        }
    }

    /// Takes into account what a statement ends.
    pub(super) fn add(&mut self, ending: Ending) {
        self.admissions.extend(ending.admissions);
        self.removed.extend(ending.removed);
    }

    /// Returns how much has ended: a record that takes nothing into account leaves it as it is.
    pub fn len(&self) -> usize {
        self.admissions.len() + self.removed.len()
    }

    /// Says whether nothing has ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says whether an admission has ended.
    pub fn ends(&self, admission: &[u8; 32]) -> bool {
        if self.admissions.contains(admission) {
            return true;
        }
        let removed = |of: &[u8; 32]| self.removed.contains(of);
        !self.removed.is_empty() && self.roll.line(admission).iter().any(removed)
    }

    /// Says whether the admission has ended on which a log stands.
    pub fn is_over(&self, log: &LogStore, id: LogId) -> bool {
        !self.is_empty() && log.admission(id).is_some_and(|on| self.ends(&on))
    }
}

/// What the authors of segments had seen of the logs that are over, as far as it was looked up.
#[derive(Debug, Default)]
pub struct Pasts {
    /// How much had ended by then.
    ended: usize,
    /// Of each log that goes on up to where it was read, and what was seen until then.
    read: BTreeMap<LogId, (u64, Vector)>,
}

impl Pasts {
    /// Returns the last segment that counts, of each log that is over and has more than that up to `ends`;
    /// of all others every segment counts. See [`Pasts::reach`].
    pub fn limits(
        &mut self,
        chain: &Chain,
        fence: &Fence,
        ends: &Vector,
        named: &dyn Fn(LogId) -> u64,
        drafts: &[Seen],
    ) -> Result<Vector, LogError> {
        let unnamed = ends.iter().filter(|(id, end)| named(**id) < **end);
        let over: Vec<LogId> = unnamed
            .map(|(id, _)| *id)
            .filter(|id| fence.is_over(&chain.log, *id))
            .collect();
        if over.is_empty() {
            return Ok(Vector::new());
        }
        let reach = self.reach(chain, fence, ends, named, drafts)?;
        let counts = |id: LogId| reach.get(&id).copied().unwrap_or(0).max(named(id));
        let limits = over.into_iter().map(|id| (id, counts(id)));
        let more = |(id, limit): &(LogId, u64)| ends.get(id).is_some_and(|end| end > limit);
        Ok(limits.filter(more).collect())
    }

    /// Returns up to where logs are in the past of what counts by itself and is here up to `ends`: of
    /// those that are over the rest counts no more, but for what records name. `named` says what that is,
    /// `drafts` what had been seen by who has not sealed yet what it goes on to write.
    pub fn reach(
        &mut self,
        chain: &Chain,
        fence: &Fence,
        ends: &Vector,
        named: &dyn Fn(LogId) -> u64,
        drafts: &[Seen],
    ) -> Result<Vector, LogError> {
        if self.ended != fence.len() {
            *self = Self::default();
            self.ended = fence.len();
        }
        let mut reach = Vector::new();
        note(&mut reach, drafts);
        let mut over = Vec::new();
        for (id, end) in ends.iter().filter(|(id, end)| named(**id) < **end) {
            if fence.is_over(&chain.log, *id) {
                over.push((*id, *end, named(*id)));
                continue;
            }
            let (read, seen) = self.read.entry(*id).or_default();
            for seg_no in (*read).max(named(*id)) + 1..=*end {
                if !note_past(seen, chain, chain.log.get(*id, seg_no)?)? {
                    break;
                }
                *read = seg_no;
            }
            for (id, seg_no) in seen {
                let at = reach.entry(*id).or_default();
                *at = (*at).max(*seg_no);
            }
        }
        // What is in the past of what counts counts, too.
        let mut grew = true;
        while std::mem::take(&mut grew) {
            for (id, end, done) in &mut over {
                let until = reach.get(id).copied().unwrap_or(0).min(*end);
                for seg_no in *done + 1..=until {
                    note_past(&mut reach, chain, chain.log.get(*id, seg_no)?)?;
                    grew = true;
                }
                *done = until.max(*done);
            }
        }
        Ok(reach)
    }
}

/// Takes note of what was seen.
fn note<'a>(reach: &mut Vector, all: impl IntoIterator<Item = &'a Seen>) {
    for seen in all {
        let at = reach.entry(seen.log).or_default();
        *at = (*at).max(seen.seg_no);
    }
}

/// Takes note of what the author of a segment had seen, also by records of a chain that was left; says
/// whether all of that is known.
fn note_past(
    reach: &mut Vector,
    chain: &Chain,
    segment: Option<SealedSegment>,
) -> Result<bool, LogError> {
    let Some(SealedSegment { header, .. }) = segment else {
        return Ok(true);
    };
    note(reach, &header.seen);
    let footing = chain.footing(header.record)?;
    let is_known = footing.is_some();
    for (log, seg_no) in footing.iter().flat_map(Footing::ends) {
        let at = reach.entry(log).or_default();
        *at = (*at).max(seg_no);
    }
    Ok(is_known)
}
