//! Taking back what a removal leaves out: ops of logs that are over which no record names, and nothing
//! that counts was built on.
//!
//! They were folded as tentative ones. The fold of the record that takes the removal into account undoes
//! them with all that touched the same rows, and folds the rest again. The log is then folded up to what
//! counts of it; what is found later to be in the past of what counts is folded again as it comes. Segments
//! stay where they are. The files that ops of this device gave are set aside before ([`super::aside`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::feed::Feed;
use super::progress::Progress;
use super::records::Named;
use super::state::State;
use super::{Result, Volume};
use crate::base::{LogId, OpId, Stamp};
use crate::log::chain::{Fence, Record};
use crate::store::{Batch, Table};
use crate::wire::{Seen, Vector};

/// What a record takes back.
#[derive(Debug, Default)]
pub(super) struct TakenBack {
    /// The ops.
    pub(super) ops: BTreeSet<OpId>,
    /// How far their logs are folded without them.
    pub(super) progress: BTreeMap<LogId, Progress>,
    /// Those of this device that no segment holds yet.
    pub(super) drafts: BTreeSet<OpId>,
}

impl Volume {
    /// Says whether this device has lost the right to write, by what is folded of the chain: what it would
    /// go on to write counts nowhere.
    pub fn is_over(&self) -> bool {
        !self.stands(&self.state.lock())
    }

    /// Says whether what this device goes on to write counts. Where it has lost the right by which its log
    /// began, and has it anew, that is in another log from now on.
    pub(super) fn stands(&self, state: &State) -> bool {
        let log = &self.config.log;
        if !state.is_over(self, log.own_log()) {
            return true;
        }
        let standing = log.standing();
        let fence = state.chain.fence.as_ref();
        let stands = fence.is_none_or(|fence| !fence.ends(&standing));
        if stands {
            log.renew(u64::from_le_bytes(self.context.rng.bytes()));
        }
        stands
    }

    /// Says whether this device was removed in between, and no record is folded yet that takes it into
    /// account: what it wrote until then is to be taken back, and nothing may be built on that, nor go on
    /// in the log that is over.
    pub fn awaits_fence(&self) -> bool {
        let fence = self.config.chain.fence_of_roll();
        if fence.is_empty() {
            return false;
        }
        let log = &self.config.log;
        let state = self.state.lock();
        log.logs_of(self.device).into_iter().any(|id| {
            let at = state.progress.get(&id);
            let has_more = at.is_some_and(|at| at.seg_no > at.named);
            let has_drafts = || state.drafts.iter().any(|draft| draft.log == id);
            fence.is_over(log, id)
                && !state.is_over(self, id)
                && (id == log.own_log() || has_more || has_drafts())
        })
    }

    /// Says whether an op that an earlier start left behind is not to be sealed: a removal has ended its log.
    pub(super) fn is_left_out(&self, draft: OpId) -> bool {
        let log = &self.config.log;
        draft.log != log.own_log() && self.config.chain.fence_of_roll().is_over(log, draft.log)
    }

    /// Returns the last segments that count of the logs that are over and have more than that.
    pub(super) fn limits(&self, feed: &mut Feed, ends: &Vector) -> Result<Vector> {
        let (fence, progress, drafts) = {
            let state = self.state.lock();
            let fence = state.chain.fence.clone();
            let Some(fence) = fence.filter(|fence| !fence.is_empty()) else {
                return Ok(Vector::new());
            };
            let drafts = state.seen_by_drafts(self);
            (fence, state.progress.clone(), drafts)
        };
        let named = |id: LogId| progress.get(&id).map_or(0, |at| at.named);
        let chain = &self.config.chain;
        let mut limits = feed.pasts.limits(chain, &fence, ends, &named, &drafts)?;
        // What the next record names is folded before it.
        if !limits.is_empty()
            && let Some(record) = self.unfolded_record()?
            && self.config.chain.knows_statements_of(&record)
            && record
                .segments
                .iter()
                .all(|name| ends.get(&name.log) >= Some(&name.seg_no))
        {
            for name in &record.segments {
                if let Some(limit) = limits.get_mut(&name.log) {
                    *limit = name.seg_no.max(*limit);
                }
            }
        }
        Ok(limits)
    }

    /// Finds what a record takes back.
    pub(super) fn taken_back(
        &self,
        state: &State,
        fence: &Fence,
        record: &Record,
        of_record: &Named,
    ) -> Result<TakenBack> {
        let mut back = TakenBack::default();
        if state
            .chain
            .fence
            .as_ref()
            .is_some_and(|before| before.len() == fence.len())
        {
            return Ok(back);
        }
        let log = &self.config.log;
        tracing::info!(
            number = record.number,
            "a record ends the right to write of somebody"
        );
        let named = |id: LogId| {
            let by_record = of_record.segments.get(&id).copied().unwrap_or(0);
            state
                .progress
                .get(&id)
                .map_or(0, |at| at.named)
                .max(by_record)
        };
        let is_over = |id: LogId| fence.is_over(log, id);
        let drafts = state.drafts.seen_by(|id| !is_over(id));
        let (ends, mut pasts) = (log.vector(), crate::log::chain::Pasts::default());
        let reach = pasts.reach(&self.config.chain, fence, &ends, &named, &drafts)?;
        let counts = |id: LogId| reach.get(&id).copied().unwrap_or(0).max(named(id));
        // The logs that ops to be taken back are named after.
        let mut of_ops: BTreeSet<LogId> = BTreeSet::new();
        for (id, at) in state.progress.iter().filter(|(id, _)| is_over(**id)) {
            let limit = counts(*id);
            // Of the one behind a part may be folded.
            for seg_no in limit + 1..=at.seg_no + 1 {
                let Some(segment) = log.get(*id, seg_no)? else {
                    break;
                };
                of_ops.insert(segment.header.op_log());
            }
            if at.seg_no > limit {
                let hash = log.end_at(*id, limit)?.map_or([0; 32], |(hash, _)| hash);
                let seg_no = limit;
                back.progress.insert(
                    *id,
                    Progress {
                        seg_no,
                        hash,
                        ..*at
                    },
                );
            }
        }
        let drafts = state.drafts.iter().filter(|draft| is_over(draft.log));
        back.drafts = drafts.collect();
        of_ops.extend(back.drafts.iter().map(|draft| draft.log));
        for id in of_ops {
            let by_record = of_record.ends.get(&id).copied().unwrap_or_default();
            let mut last = state.chain.committed.end(id).max(by_record);
            for carrier in log
                .author(id)
                .map(|author| log.logs_of(author))
                .unwrap_or_default()
            {
                let folded = state.progress.get(&carrier).map_or(0, |at| at.seg_no);
                let end = if is_over(carrier) {
                    counts(carrier).min(folded)
                } else {
                    folded
                };
                last = last.max(self.last_carried(carrier, named(carrier), end, id)?);
            }
            let at = back
                .progress
                .entry(id)
                .or_insert_with(|| state.progress.get(&id).copied().unwrap_or_default());
            at.stamp = at.stamp.min(last);
            back.ops.extend(self.ops_behind(id, last)?);
        }
        Ok(back)
    }

    /// Returns the last op that is named after a log, of those in the segments of one of its author's
    /// between two numbers.
    fn last_carried(&self, carrier: LogId, after: u64, end: u64, id: LogId) -> Result<Stamp> {
        let log = &self.config.log;
        let mut last = Stamp::default();
        if carrier == id {
            for seg_no in (after + 1..=end).rev() {
                let Some(segment) = log.get(carrier, seg_no)? else {
                    break;
                };
                if segment.header.op_log() == id {
                    return Ok(segment.header.last);
                }
            }
            return Ok(last);
        }
        // What an earlier start left stands first.
        for seg_no in after + 1..=end {
            let Some(segment) = log.get(carrier, seg_no)? else {
                break;
            };
            match segment.header.op_log() {
                of if of == id => last = segment.header.last.max(last),
                of if of == carrier => break,
                _ => {}
            }
        }
        Ok(last)
    }

    /// Returns the applied ops that are named after a log and come behind one of it.
    pub(super) fn ops_behind(&self, id: LogId, last: Stamp) -> Result<Vec<OpId>> {
        let from = OpId {
            stamp: last.next(),
            log: LogId(0),
        };
        let mut found = Vec::new();
        let rows = &self.view.rows;
        rows.scan_keys(Table::Op, &from.to_key(), None, &mut |key| {
            found.extend(OpId::from_key(key).filter(|op| op.log == id));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Lets go of drafts of which the right to write has ended by what is folded beside.
    pub(super) fn drop_over(&self, state: &mut State, anew: &State) {
        let is_over = |draft: &OpId| anew.is_over(self, draft.log);
        let drafts: BTreeSet<OpId> = state.drafts.iter().filter(is_over).collect();
        let Some(fence) = anew.chain.fence.as_deref().filter(|_| !drafts.is_empty()) else {
            return;
        };
        let fence = fence.clone();
        let back = TakenBack {
            drafts,
            ..TakenBack::default()
        };
        state.note_taken_back(back, fence);
    }

    /// Puts the rows of what a record takes back into a batch.
    pub(super) fn put_back(&self, batch: &mut Batch, back: &TakenBack) -> Result<()> {
        for (log, at) in &back.progress {
            at.put(batch, *log);
            super::sight::delete_from(&*self.view.rows, batch, *log, at.stamp.next())?;
        }
        Ok(())
    }
}

impl State {
    /// Says whether the right to write has ended by which a log began.
    pub(super) fn is_over(&self, volume: &Volume, id: LogId) -> bool {
        let fence = self.chain.fence.as_ref();
        fence.is_some_and(|fence| fence.is_over(&volume.config.log, id))
    }

    /// Returns what was seen by who issued the drafts, but those of logs that are over.
    pub(super) fn seen_by_drafts(&self, volume: &Volume) -> Vec<Seen> {
        self.drafts.seen_by(|id| !self.is_over(volume, id))
    }

    /// Takes note of what a record took back, once that is committed.
    pub(super) fn note_taken_back(&mut self, back: TakenBack, fence: Fence) {
        self.drafts.put_aside(&back.drafts);
        self.progress.extend(back.progress);
        self.chain.fence = Some(Arc::new(fence));
    }
}
