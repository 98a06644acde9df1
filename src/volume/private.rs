//! Files without a name that local handles go on changing.
//!
//! What happens to an unlinked file that a program keeps open concerns nobody else, and must not
//! cross what others do to it: a write elsewhere can bring the file back. So the first such change
//! copies its rows to a number with the top bit set, which handles read from then on and which
//! never enters an op or a record. The copy goes with the last handle or with a restart. Where the file is back,
//! only a number of the kernel that was kept with its content stands for it ([`super::lineage`]).

use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::committed::Committed;
use super::fold::fold;
use super::op::OpKind;
use super::overlay::{Base, Overlay};
use super::rows::{Row, RowKey, Stored, Value};
use super::sight::Sight;
use super::state::State;
use super::types::Inode;
use super::view::{as_inode, is_private, private_of, xattr_range};
use super::{Result, Volume};
use crate::base::{Ino, OpId};
use crate::store::Batch;

/// Private copies removed in one batch when a volume is opened.
const DROP_SLICE: usize = 256;

/// Rows of a node that are removed in one batch.
const REMOVED_ROWS_MAX: usize = 2048;

impl Volume {
    /// Says that a local handle of what a number stands for is open: its rows stay after the last unlink.
    pub fn hold(&self, number: Ino) {
        *self.holds.lock().entry(number).or_default() += 1;
    }

    /// Takes back one [`Volume::hold`]. A file without a name that nobody holds is reaped by the
    /// next trim ([`Volume::seal_drafts`], [`Volume::set_stable`]).
    pub fn release(&self, number: Ino) {
        let mut holds = self.holds.lock();
        let Some(count) = holds.get_mut(&number) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        holds.remove(&number);
        drop(holds);
        self.drop_unheld();
    }

    /// Removes the private copies of files that nobody holds.
    pub(super) fn drop_unheld(&self) {
        let is_unheld = |file: &Ino| !self.is_held(*file);
        let is_over = |file: &Ino| !self.is_held(private_of(*file));
        if self.view.private_files().iter().any(is_unheld) || self.view.parted().iter().any(is_over)
        {
            let mut state = self.state.lock();
            // A failed store refuses all writes; the copy goes when the volume is opened again.
            if let Err(error) = self.drop_private(&mut state, |file| !self.is_held(file)) {
                tracing::warn!("the private copy of a removed file stays: {error}");
            }
        }
    }

    /// Tells whether a local handle of `ino` is open.
    pub(super) fn is_held(&self, ino: Ino) -> bool {
        let numbers = self.numbers_of(ino);
        let holds = self.holds.lock();
        numbers.iter().any(|number| holds.contains_key(number))
    }

    /// Folds a change of a file without a name onto its private copy, to be committed with what the
    /// overlay has.
    pub(super) fn fold_private(
        &self,
        overlay: &mut Overlay,
        committed: &Committed,
        id: OpId,
        ino: Ino,
        kind: OpKind,
    ) -> Result<()> {
        let copy = private_of(ino);
        let is_made = overlay.row(&RowKey::Inode(copy)).is_some();
        if !is_made && self.view.row(&RowKey::Inode(copy))?.is_none() {
            self.copy_rows(ino, copy, overlay)?;
        }
        let base = Base {
            view: &self.view,
            overlay,
            committed,
        };
        let effects = fold(
            base,
            id,
            &kind.with_target(copy),
            &Sight::Everything { record: 0 },
        )?;
        for effect in effects.writes {
            overlay.put_effect(effect);
        }
        Ok(())
    }

    /// Commits changes of the private copy of `ino`.
    pub(super) fn commit_private(
        &self,
        state: &mut State,
        ino: Ino,
        overlay: Overlay,
    ) -> Result<()> {
        state.commit(&self.view, overlay, Batch::new(), None)?;
        if !self.view.parted().contains(&ino) {
            self.view.set_private(ino, true);
        }
        Ok(())
    }

    fn copy_rows(&self, from: Ino, to: Ino, overlay: &mut Overlay) -> Result<()> {
        let mut put = |key: RowKey, row: Row| {
            overlay.put(key, Some(row));
            ControlFlow::Continue(())
        };
        if let Some(inode) = self.view.inode(from)? {
            let copy = Inode { ino: to, ..inode };
            let _ = put(RowKey::Inode(to), Stored::encode(Value::Inode(copy)));
        }
        let end = RowKey::Extent(Ino(from.0.saturating_add(1)), 0);
        self.view
            .scan(&RowKey::Extent(from, 0), &end, &mut |key, row| match key {
                RowKey::Extent(_, offset) => put(RowKey::Extent(to, offset), Arc::clone(&row)),
                _ => ControlFlow::Continue(()),
            })?;
        let (low, high) = xattr_range(from);
        self.view.scan(&low, &high, &mut |key, row| match key {
            RowKey::Xattr(_, hash) => put(RowKey::Xattr(to, hash), Arc::clone(&row)),
            _ => ControlFlow::Continue(()),
        })
    }

    /// Adds the removal of a node's extents from offset `from` on, attributes and at last inode to an
    /// overlay, as far as that is the work of a few milliseconds; returns at which offset to go on,
    /// `None` where that was all.
    ///
    /// A long file is removed in several batches: a crash in between leaves an inode that is removed
    /// again.
    pub(super) fn remove_node(
        &self,
        ino: Ino,
        from: u64,
        overlay: &mut Overlay,
    ) -> Result<Option<u64>> {
        let row = self.view.row(&RowKey::Inode(ino))?;
        let inode = row.as_ref().map(as_inode).transpose()?;
        // Most files that go are small and plain; to look for what they have not costs more than
        // to remove them.
        if inode.is_none_or(|inode| inode.stored > 0) {
            let mut left = REMOVED_ROWS_MAX;
            let mut next = None;
            let end = RowKey::Extent(Ino(ino.0.saturating_add(1)), 0);
            let start = RowKey::Extent(ino, from);
            self.view.scan_keys(&start, &end, &mut |key| {
                if left == 0 {
                    next = match key {
                        RowKey::Extent(_, offset) => Some(offset),
                        _ => None,
                    };
                    return ControlFlow::Break(());
                }
                left -= 1;
                overlay.put(key, None);
                ControlFlow::Continue(())
            })?;
            if next.is_some() {
                return Ok(next);
            }
        }
        if inode.is_none_or(|inode| inode.xattrs > 0) {
            let (low, high) = xattr_range(ino);
            self.view.scan_keys(&low, &high, &mut |key| {
                overlay.put(key, None);
                ControlFlow::Continue(())
            })?;
        }
        overlay.put(RowKey::Inode(ino), None);
        Ok(None)
    }

    /// Removes the private copies that `gone` selects; others have the writer's lock in between.
    pub(super) fn drop_private(
        &self,
        state: &mut MutexGuard<'_, State>,
        gone: impl Fn(Ino) -> bool,
    ) -> Result<()> {
        let parted = self.view.parted();
        let gone = |ino: Ino| match parted.contains(&ino) {
            true => !self.is_held(private_of(ino)),
            false => gone(ino),
        };
        let private = self.view.private_files().into_iter();
        for ino in private.chain(parted.iter().copied()) {
            let mut from = Some(0);
            while let Some(start) = from.filter(|_| gone(ino)) {
                let mut overlay = Overlay::default();
                from = self.remove_node(private_of(ino), start, &mut overlay)?;
                state.commit(&self.view, overlay, Batch::new(), None)?;
                if from.is_none() {
                    self.view.set_private(ino, false);
                    self.view.forget_parted(ino);
                }
                MutexGuard::bump(state);
            }
        }
        Ok(())
    }

    /// Removes the private copies that a process left behind.
    pub(super) fn drop_private_rows(&self) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            let mut copies = Vec::new();
            let from = RowKey::Inode(private_of(Ino(0)));
            let to = RowKey::Inode(Ino(u64::MAX));
            self.view.scan(&from, &to, &mut |key, _| {
                if let RowKey::Inode(ino) = key
                    && is_private(ino)
                {
                    copies.push(ino);
                }
                if copies.len() < DROP_SLICE {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            if copies.is_empty() {
                return Ok(());
            }
            let mut overlay = Overlay::default();
            for copy in copies {
                self.remove_node(copy, 0, &mut overlay)?;
            }
            state.commit(&self.view, overlay, Batch::new(), None)?;
        }
    }
}
