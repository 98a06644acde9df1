//! Files without a name that local handles go on changing.
//!
//! What happens to an unlinked file that a program keeps open concerns nobody else, and must not
//! cross what others do to it: a write elsewhere can bring the file back. So the first such change
//! copies its rows to a number with the top bit set, which handles read from then on and which
//! never enters an op or a record. The copy goes with the last handle, with a restart, or when the
//! file is back.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::fold::fold;
use super::op::OpKind;
use super::overlay::{Base, Overlay};
use super::rows::{Row, RowKey, Stored, Value};
use super::state::State;
use super::types::Inode;
use super::view::{as_inode, is_private, private_of, xattr_range};
use super::{Result, Volume};
use crate::base::{Ino, OpId};
use crate::store::Batch;

/// Private copies removed in one batch when a volume is opened.
const DROP_SLICE: usize = 256;

impl Volume {
    /// Says that a local handle of `ino` is open: its rows stay after the last unlink.
    pub fn hold(&self, ino: Ino) {
        *self.holds.lock().entry(ino).or_default() += 1;
    }

    /// Takes back one [`Volume::hold`]. A file without a name that nobody holds is reaped by the
    /// next trim ([`Volume::seal_drafts`], [`Volume::set_stable`]).
    pub fn release(&self, ino: Ino) {
        let mut holds = self.holds.lock();
        let Some(count) = holds.get_mut(&ino) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        holds.remove(&ino);
        drop(holds);
        if self.view.effective(ino) != ino {
            let mut state = self.state.lock();
            // A failed store refuses all writes; the copy goes when the volume is opened again.
            if let Err(error) = self.drop_private(&mut state, |file| !self.is_held(file)) {
                tracing::warn!("the private copy of a removed file stays: {error}");
            }
        }
    }

    /// Tells whether a local handle of `ino` is open.
    pub(super) fn is_held(&self, ino: Ino) -> bool {
        self.holds.lock().contains_key(&ino)
    }

    /// Applies a change of a file without a name to its private copy.
    pub(super) fn apply_private(
        &self,
        state: &mut State,
        id: OpId,
        ino: Ino,
        kind: OpKind,
    ) -> Result<()> {
        let copy = private_of(ino);
        let mut overlay = Overlay::default();
        if self.view.effective(ino) != copy {
            self.copy_rows(ino, copy, &mut overlay)?;
        }
        let base = Base {
            view: &self.view,
            overlay: &overlay,
        };
        let effects = fold(base, id, &kind.with_target(copy))?;
        for effect in effects.writes {
            overlay.rows.insert(effect.key, effect.after);
        }
        state.commit(&self.view, overlay, Batch::new(), false)?;
        self.view.set_private(ino, true);
        Ok(())
    }

    fn copy_rows(&self, from: Ino, to: Ino, overlay: &mut Overlay) -> Result<()> {
        let mut put = |key: RowKey, row: Row| {
            overlay.rows.insert(key, Some(row));
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

    /// Adds the removal of a node's inode, extents and attributes to an overlay.
    pub(super) fn remove_node(&self, ino: Ino, overlay: &mut Overlay) -> Result<()> {
        let row = self.view.row(&RowKey::Inode(ino))?;
        let inode = row.as_ref().map(as_inode).transpose()?;
        overlay.rows.insert(RowKey::Inode(ino), None);
        let mut remove = |key: RowKey| {
            overlay.rows.insert(key, None);
        };
        // Most files that go are small and plain; to look for what they have not costs more than
        // to remove them.
        if inode.is_none_or(|inode| inode.stored > 0) {
            let next = Ino(ino.0.saturating_add(1));
            let (low, high) = (RowKey::Extent(ino, 0), RowKey::Extent(next, 0));
            self.view.scan_keys(&low, &high, &mut remove)?;
        }
        if inode.is_none_or(|inode| inode.xattrs > 0) {
            let (low, high) = xattr_range(ino);
            self.view.scan_keys(&low, &high, &mut remove)?;
        }
        Ok(())
    }

    /// Removes the private copies that `gone` selects.
    pub(super) fn drop_private(&self, state: &mut State, gone: impl Fn(Ino) -> bool) -> Result<()> {
        for ino in self.view.private_files() {
            if gone(ino) {
                let mut overlay = Overlay::default();
                self.remove_node(private_of(ino), &mut overlay)?;
                state.commit(&self.view, overlay, Batch::new(), false)?;
                self.view.set_private(ino, false);
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
                self.remove_node(copy, &mut overlay)?;
            }
            state.commit(&self.view, overlay, Batch::new(), false)?;
        }
    }
}
