//! Trimming: what undo needs goes when nothing can sort before it any more.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use parking_lot::MutexGuard;

use super::history::RemovalTimes;
use super::overlay::Overlay;
use super::record::Record;
use super::rows::{Removed, RowKey, Value};
use super::settled::{Settled, Trimmed};
use super::state::State;
use super::{Result, Volume};
use crate::base::{Ino, LogId, OpId};
use crate::log::LogError;
use crate::store::{Batch, Table};
use crate::wire::Vector;
use crate::wire::limits::SHOWN_MAX;

/// Nodes removed in one batch.
const REAP_SLICE: usize = 16;

/// Rows removed under one hold of the writer's lock.
pub(super) const TRIM_SLICE: usize = 256;

impl Volume {
    /// Says that another device may author ops from now on. While none does, what is sealed is below
    /// the cut, and nothing is kept to undo it; that never comes back.
    ///
    /// What the other device has to fold before it changes the volume is what was sealed until then:
    /// [`Volume::shown`].
    pub fn end_alone(&self) {
        self.state.lock().trimmed.alone = false;
    }

    /// Returns the last segments that are folded, of which none is in the past of another, the newest
    /// where they are many; they are durable. Who has folded these has folded all that is folded here.
    ///
    /// For a device that is about to be admitted: where it is to author ops, [`Volume::end_alone`]
    /// goes before.
    pub fn shown(&self) -> std::result::Result<Vector, LogError> {
        let progress = self.state.lock().progress.clone();
        self.config.store.sync()?;
        let mut past = BTreeSet::new();
        let mut ends = Vec::new();
        for (log, at) in progress.iter().filter(|(_, at)| at.seg_no > 0) {
            let segment = self.config.log.get(*log, at.seg_no)?;
            let seen = segment.map(|segment| segment.header.seen);
            let covered = seen.into_iter().flatten().filter(|seen| {
                let known = progress.get(&seen.log);
                known.is_some_and(|known| known.seg_no <= seen.seg_no)
            });
            past.extend(covered.map(|seen| seen.log));
            ends.push((at.stamp, *log, at.seg_no));
        }
        ends.retain(|(_, log, _)| !past.contains(log));
        ends.sort_unstable();
        ends.reverse();
        let ends = ends.into_iter().take(SHOWN_MAX);
        Ok(ends.map(|(_, log, seg_no)| (log, seg_no)).collect())
    }

    /// Returns those of some segments that are not folded here, by log the last of them.
    pub fn unfolded(&self, shown: &Vector) -> Vector {
        let state = self.state.lock();
        let is_folded = |log: &LogId, seg_no: u64| {
            let at = state.progress.get(log);
            at.is_some_and(|at| at.seg_no >= seg_no)
        };
        let missing = shown
            .iter()
            .filter(|(log, seg_no)| !is_folded(log, **seg_no));
        missing.map(|(log, seg_no)| (*log, *seg_no)).collect()
    }

    /// Returns the op up to which nothing is undone.
    pub fn stable(&self) -> OpId {
        self.state.lock().trimmed.cut
    }

    /// Says that every op which is not folded here yet sorts after `cut`, and that its author had
    /// seen all ops up to `cut`. Drops their records, and files that were removed by them and that
    /// no local handle holds. Never goes back.
    pub fn set_stable(&self, cut: OpId) -> Result<()> {
        let mut state = self.state.lock();
        let first_draft = state.drafts.front();
        // What is not sealed is needed to be sealed.
        let cut = first_draft.map_or(cut, |draft| cut.min(before(draft)));
        if cut > state.trimmed.cut {
            let mut batch = Batch::new();
            Trimmed::put_cut(&mut batch, cut);
            self.view.rows.commit(batch)?;
            state.trimmed.cut = cut;
        }
        drop(state);
        while self.trim_records()? == TRIM_SLICE {}
        self.reap()
    }

    /// Trims a volume of one author after its drafts are sealed.
    pub(super) fn trim_alone(&self) -> Result<()> {
        if self.state.lock().trimmed.alone {
            while self.trim_records()? == TRIM_SLICE {}
            self.reap()?;
            self.thin_in_turn()?;
        }
        Ok(())
    }

    /// Removes one slice of records up to the cut; returns how many.
    fn trim_records(&self) -> Result<usize> {
        // From where the last trim ended: what was removed below slows a scan down.
        let (from, to) = {
            let state = self.state.lock();
            (state.trimmed.gone, state.trimmed.cut)
        };
        let mut gone = BTreeSet::new();
        let mut take = |key: &[u8]| {
            gone.extend(OpId::from_key(key));
            match gone.len() < TRIM_SLICE {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let (start, end) = (from.to_key(), after(to).to_key());
        self.view
            .rows
            .scan_keys(Table::Op, &start, Some(&end), &mut take)?;
        let is_full = gone.len() == TRIM_SLICE;
        let last = gone.last().copied().filter(|_| is_full).unwrap_or(to);
        let mut batch = Batch::new();
        self.keep_replaced(gone.iter(), &mut batch)?;
        for id in &gone {
            batch.delete(Table::Op, id.to_key());
        }
        Record::delete_parts(&*self.view.rows, &mut batch, &|id| id <= last)?;
        let mut state = self.state.lock();
        if !batch.is_empty() {
            self.view.rows.commit(batch)?;
        }
        state.trimmed.gone = state.trimmed.gone.max(last);
        Ok(gone.len())
    }

    /// Removes the nodes without a name that nothing can bring back and no local handle holds.
    pub(super) fn reap(&self) -> Result<()> {
        let mut after = RowKey::Orphan(Ino(0));
        loop {
            // What was removed of this table slows the look down: nobody waits for it.
            let (next, reaped) = self.reapable(after)?;
            let mut times = self.removal_times()?;
            let mut state = self.state.lock();
            let (mut orphans, mut from) = (&*reaped, 0);
            while !orphans.is_empty() {
                let gone;
                (gone, from) = self.reap_some(&mut state, orphans, from, &mut times)?;
                orphans = orphans.get(gone..).unwrap_or_default();
                // Whoever changes something waits no longer than for one batch.
                MutexGuard::bump(&mut state);
            }
            self.drop_private(&mut state, |ino| !self.is_held(ino))?;
            drop(state);
            if times.is_none() {
                self.forget_gone(&reaped)?;
            }
            match next {
                Some(next) => after = next,
                None => return Ok(()),
            }
        }
    }

    fn settled(&self) -> Settled {
        self.state.lock().settled()
    }

    /// Returns the next slice of nodes to reap, and where the one after it starts.
    fn reapable(&self, from: RowKey) -> Result<(Option<RowKey>, Vec<Ino>)> {
        let mut orphans = Vec::new();
        let mut next = None;
        let mut seen = 0;
        let to = RowKey::Orphan(Ino(u64::MAX));
        let settled = self.settled();
        self.view.scan(&from, &to, &mut |key, row| {
            if seen == TRIM_SLICE {
                next = Some(key);
                return ControlFlow::Break(());
            }
            seen += 1;
            if let (RowKey::Orphan(ino), Value::Orphan(Removed { by, .. })) = (key, &row.value)
                && settled.has(*by)
                && !self.is_held(ino)
            {
                orphans.push(ino);
            }
            ControlFlow::Continue(())
        })?;
        Ok((next, orphans))
    }

    /// Tells whether a node is still one without a name: it may have got one back.
    fn is_reapable(&self, ino: Ino, state: &State) -> Result<bool> {
        let row = self.view.row(&RowKey::Orphan(ino))?;
        Ok(match row.as_ref().map(|row| &row.value) {
            Some(Value::Orphan(Removed { by, .. })) => state.settled().has(*by),
            _ => false,
        })
    }

    /// Removes the first of some nodes; returns how many are done with, and from which offset on the
    /// next one has extents: of a long file a part is removed, of the first that before `from` was.
    fn reap_some(
        &self,
        state: &mut State,
        orphans: &[Ino],
        from: u64,
        times: &mut Option<RemovalTimes<'_>>,
    ) -> Result<(usize, u64)> {
        let mut overlay = Overlay::default();
        let (mut gone, mut from) = (0, from);
        let mut batch = Batch::new();
        for ino in orphans.iter().take(REAP_SLICE) {
            if !self.is_held(*ino) && self.is_reapable(*ino, state)? {
                if let Some(next) = self.remove_node(*ino, from, &mut overlay)? {
                    from = next;
                    break;
                }
                overlay.put(RowKey::Orphan(*ino), None);
            }
            (gone, from) = (gone + 1, 0);
            if overlay.rows().len() >= TRIM_SLICE {
                break;
            }
        }
        self.keep_removed(&overlay, &mut batch, times)?;
        state.commit(&self.view, overlay, batch, None)?;
        Ok((gone, from))
    }
}

/// Returns the greatest op below `id`.
pub(super) fn before(id: OpId) -> OpId {
    let mut key = u128::from_be_bytes(id.to_key());
    key = key.saturating_sub(1);
    OpId::from_key(&key.to_be_bytes()).unwrap_or_default()
}

/// Returns the least op above `id`.
pub(super) fn after(id: OpId) -> OpId {
    let key = u128::from_be_bytes(id.to_key()).saturating_add(1);
    OpId::from_key(&key.to_be_bytes()).unwrap_or(id)
}
