//! Applying own ops.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::collect;
use super::fold::fold_within;
use super::op::{OpKind, ino_of};
use super::overlay::{Base, Effect, Overlay};
use super::record::Record;
use super::state::State;
use super::types::{DirKey, Dirent, Extent, Inode};
use super::{Result, Volume, VolumeError};
use crate::base::{Ino, OpId};
use crate::store::VALUE_MAX_BYTES;

/// Most bytes of rows that an own op meets: its record, which is one row, keeps them to be undone.
const UNDO_MAX_BYTES: usize = VALUE_MAX_BYTES / 4;

/// What [`Writer::apply`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The op: the new content version after a write.
    pub id: OpId,
    /// The node made by a create, else the node that the op names; the root where it names none.
    pub ino: Ino,
}

/// An own op that is folded and not committed.
pub(super) struct FoldedOp {
    pub(super) id: OpId,
    pub(super) record: Arc<Record>,
    /// The rows that it changes.
    pub(super) effects: Vec<Effect>,
}

/// The one writer: holds its lock until dropped, so that what it checks still holds when it applies.
pub struct Writer<'a> {
    /// Before `told`: dropped, and so unlocked, first.
    state: MutexGuard<'a, State>,
    volume: &'a Volume,
    told: Told<'a>,
}

/// Tells of new drafts when it is dropped.
struct Told<'a> {
    volume: &'a Volume,
    /// Bytes of all drafts, where there are new ones.
    news: Option<usize>,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if let Some(bytes) = self.news
            && let Some(told) = self.volume.on_draft.get()
        {
            told(bytes);
        }
    }
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(volume: &'a Volume, state: MutexGuard<'a, State>) -> Self {
        let told = Told { volume, news: None };
        Self {
            state,
            volume,
            told,
        }
    }

    /// Applies an op as this device's newest, in one batch. Not durable until [`Volume::sync`].
    ///
    /// The caller has checked what POSIX asks for (existence, emptiness, permissions) under this
    /// writer. A change of a file without a name goes to a private copy, which lasts until the last
    /// [`Volume::release`] and which no other device sees.
    ///
    /// # Errors
    ///
    /// [`VolumeError::BadOp`] where the op breaks a limit, [`VolumeError::NoInode`] where it names
    /// a node that is not there, [`VolumeError::TooMuch`] where it replaces so many bytes that are
    /// stored in rows that it has to be several ops, or the store's; nothing is changed then.
    pub fn apply(&mut self, kind: OpKind) -> Result<Applied> {
        let (applied, done) = self.fold(&Overlay::default(), kind)?;
        self.commit(done.as_slice())?;
        Ok(applied)
    }

    /// Applies ops one after the other, in one batch: a crash leaves all of them or none.
    ///
    /// # Errors
    ///
    /// Those of [`Writer::apply`]; nothing is changed then, but that the earlier ops stay for a file
    /// without a name, which no crash leaves anyway.
    pub fn apply_together(&mut self, kinds: impl IntoIterator<Item = OpKind>) -> Result<()> {
        let mut overlay = Overlay::default();
        let mut ops = Vec::new();
        for kind in kinds {
            let (_, done) = self.fold(&overlay, kind)?;
            if let Some(op) = &done {
                for effect in &op.effects {
                    overlay.rows.insert(effect.key, effect.after.clone());
                }
                let record = Some(Arc::clone(&op.record));
                overlay.records.insert(op.id, record);
            }
            ops.extend(done);
        }
        self.commit(&ops)
    }

    /// Folds an op on top of what an overlay has, to be committed; one of a file without a name is
    /// done at once.
    fn fold(&mut self, overlay: &Overlay, kind: OpKind) -> Result<(Applied, Option<FoldedOp>)> {
        if let Some(what) = kind.flaw() {
            return Err(VolumeError::BadOp { what });
        }
        let volume = self.volume;
        if let Some(named) = &mut self.state.named {
            collect::note(named, &kind);
        }
        if let Some(ino) = kind.changes() {
            let inode = volume.view.inode(ino)?.ok_or(VolumeError::NoInode(ino))?;
            if inode.is_orphan() {
                return Ok((self.apply_private(inode.ino, kind)?, None));
            }
        }
        if kind.names_chunks() {
            // Order on disk: a chunk is there before the op that names it.
            volume.config.store.chunks.sync()?;
        }
        let id = self.next_id();
        let base = Base {
            view: &volume.view,
            overlay,
        };
        let effects = fold_within(base, id, &kind, UNDO_MAX_BYTES)?;
        let ino = match &kind {
            OpKind::Create(_) => ino_of(id),
            kind => kind.names().unwrap_or(Ino::ROOT),
        };
        let op = FoldedOp {
            id,
            record: Arc::new(Record::new(Arc::new(kind), &effects)),
            effects: effects.writes,
        };
        Ok((Applied { id, ino }, Some(op)))
    }

    /// Commits folded ops and takes note of them.
    fn commit(&mut self, ops: &[FoldedOp]) -> Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        self.state.commit_ops(&self.volume.view, ops)?;
        for op in ops {
            self.state.note(op.id, &op.record);
            self.state.push_draft(op.id, &op.record.kind);
        }
        self.told.news = Some(self.state.kinds_bytes);
        Ok(())
    }

    fn next_id(&self) -> OpId {
        OpId {
            stamp: self.volume.hlc.tick(self.volume.context.clock.wall_ms()),
            device: self.volume.device,
        }
    }

    fn apply_private(&mut self, ino: Ino, kind: OpKind) -> Result<Applied> {
        let id = self.next_id();
        let volume = self.volume;
        volume.apply_private(&mut self.state, id, ino, kind)?;
        Ok(Applied { id, ino })
    }

    /// Returns true when `ino` is `dir` or an ancestor of it: what a rename must not move into.
    pub fn is_within(&self, dir: Ino, ino: Ino) -> Result<bool> {
        self.volume.view.is_within(dir, ino)
    }

    /// Returns an inode, as [`Volume::inode`].
    pub fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        self.volume.view.inode(ino)
    }

    /// Returns an entry, as [`Volume::dirent`].
    pub fn dirent(&self, parent: Ino, name: &[u8]) -> Result<Option<Dirent>> {
        self.volume.view.dirent(parent, name)
    }

    /// Visits entries, as [`Volume::readdir`].
    pub fn readdir(
        &self,
        parent: Ino,
        after: Option<DirKey>,
        f: &mut dyn FnMut(DirKey, &Dirent) -> bool,
    ) -> Result<()> {
        self.volume.view.readdir(parent, after, f)
    }

    /// Returns extents, as [`Volume::extents`].
    pub fn extents(&self, ino: Ino, range: Range<u64>) -> Result<Vec<Extent>> {
        self.volume.view.extents(ino, range)
    }

    /// Returns an extended attribute, as [`Volume::xattr`].
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Bytes>> {
        self.volume.view.xattr(ino, name)
    }

    /// Returns names of extended attributes, as [`Volume::xattr_names`].
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<Bytes>> {
        self.volume.view.xattr_names(ino)
    }
}
