//! Applying own ops.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::MutexGuard;

use super::committed::Rank;
use super::fold::fold_within;
use super::op::{OpKind, ino_of};
use super::overlay::{Base, Effect, Overlay, Room};
use super::record::Record;
use super::rows::RowKey;
use super::sight::Sight;
use super::state::State;
use super::types::{DirKey, Dirent, Extent, Inode, Place};
use super::view::as_inode;
use super::{DFS_NAME, Result, Volume, VolumeError};
use crate::base::{Ino, OpId};
use crate::store::VALUE_MAX_BYTES;

/// Most bytes of rows that an own op meets: its record, which is one row, keeps them to be undone.
const UNDO_MAX_BYTES: usize = VALUE_MAX_BYTES / 4;

/// What an op meets that is the work of a few milliseconds: more than any one piece of a file does
/// whose cells are gathered now and then.
pub(super) const LIGHT_ROOM: Room = Room {
    bytes: 2 << 20,
    rows: 1024,
};

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
    /// [`VolumeError::BadOp`] where the op breaks a limit, [`VolumeError::Reserved`] where it gives a name
    /// that is no user's, [`VolumeError::NoInode`] where it names a node that is not there, [`VolumeError::TooMuch`] where it replaces so many bytes that are
    /// stored in rows that it has to be several ops, or the store's; nothing is changed then.
    pub fn apply(&mut self, kind: OpKind) -> Result<Applied> {
        let mut together = self.together();
        let applied = together.add(kind)?;
        together.commit()?;
        Ok(applied)
    }

    /// Applies an op as [`Writer::apply`] does where it is the work of some milliseconds, so that
    /// nobody waits for the writer longer than that.
    ///
    /// # Errors
    ///
    /// [`VolumeError::TooMuch`] where it meets more, and else those of [`Writer::apply`].
    pub fn apply_lightly(&mut self, kind: OpKind) -> Result<Applied> {
        let mut together = self.together();
        together.room = LIGHT_ROOM;
        let applied = together.add(kind)?;
        together.commit()?;
        Ok(applied)
    }

    /// Applies ops one after the other, in one batch: a crash leaves all of them or none.
    ///
    /// # Errors
    ///
    /// Those of [`Writer::apply`]; nothing is changed then.
    pub fn apply_together(&mut self, kinds: impl IntoIterator<Item = OpKind>) -> Result<()> {
        let mut together = self.together();
        for kind in kinds {
            together.add(kind)?;
        }
        together.commit()
    }

    /// Returns what gathers ops that are applied in one batch: a crash leaves all of them or none.
    pub fn together(&mut self) -> Together<'_, 'a> {
        Together {
            writer: self,
            room: Room::of_bytes(UNDO_MAX_BYTES),
            overlay: Overlay::default(),
            ops: Vec::new(),
            private: None,
        }
    }

    pub(super) fn volume(&self) -> &'a Volume {
        self.volume
    }

    pub(super) fn next_id(&self) -> OpId {
        let wall_ms = self.volume.context.clock.wall_ms();
        OpId {
            stamp: self.volume.hlc.tick(wall_ms.min(self.state.chain.last_ms)),
            log: self.volume.config.log.own_log(),
        }
    }

    /// Returns true when `ino` is `dir` or an ancestor of it: what a rename must not move into.
    pub fn is_within(&self, dir: Ino, ino: Ino) -> Result<bool> {
        self.volume.view.is_within(dir, ino)
    }

    /// Returns an inode, as [`Volume::inode`].
    pub fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        self.volume.inode(ino)
    }

    /// Returns an entry, as [`Volume::dirent`].
    pub fn dirent(&self, parent: Ino, name: &[u8]) -> Result<Option<Dirent>> {
        self.volume.dirent(parent, name)
    }

    /// Visits entries, as [`Volume::readdir`].
    pub fn readdir(
        &self,
        parent: Ino,
        after: Option<DirKey>,
        f: &mut dyn FnMut(DirKey, &Dirent) -> bool,
    ) -> Result<()> {
        self.volume.readdir(parent, after, f)
    }

    /// Returns extents, as [`Volume::extents`].
    pub fn extents(&self, ino: Ino, range: Range<u64>) -> Result<Vec<Extent>> {
        self.volume.extents(ino, range)
    }

    /// Returns an extended attribute, as [`Volume::xattr`].
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Bytes>> {
        self.volume.xattr(ino, name)
    }

    /// Returns names of extended attributes, as [`Volume::xattr_names`].
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<Bytes>> {
        self.volume.xattr_names(ino)
    }
}

/// Ops on their way into one batch. Dropped, it leaves nothing behind.
pub struct Together<'w, 'a> {
    writer: &'w mut Writer<'a>,
    /// What each op may meet.
    room: Room,
    overlay: Overlay,
    ops: Vec<FoldedOp>,
    /// A file without a name that ops change, and its private copy then.
    private: Option<(Ino, Overlay)>,
}

impl std::fmt::Debug for Together<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Together({} ops)", self.ops.len())
    }
}

impl Together<'_, '_> {
    /// Folds an op on top of those before it.
    ///
    /// # Errors
    ///
    /// Those of [`Writer::apply`]; the ops before stay.
    pub fn add(&mut self, kind: OpKind) -> Result<Applied> {
        if let Some(what) = kind.flaw() {
            return Err(VolumeError::BadOp { what });
        }
        // This name is each machine's own.
        let is_own = |place: &Place| place.parent == Ino::ROOT && place.name == DFS_NAME;
        if kind.shape().places().any(is_own) {
            return Err(VolumeError::Reserved);
        }
        self.show_last();
        let volume = self.writer.volume;
        if !volume.stands(&self.writer.state) {
            return Err(VolumeError::Over);
        }
        if let Some(named) = &mut self.writer.state.named {
            kind.shape().chunks().for_each(|id| named.insert(&id));
        }
        if let Some(ino) = kind.shape().changes() {
            let made = match self.overlay.row(&RowKey::Inode(ino)) {
                Some(Some(row)) => Some(as_inode(row)?.clone()),
                _ => volume.view.inode(ino)?,
            };
            let inode = made.ok_or(VolumeError::NoInode(ino))?;
            if inode.is_orphan() {
                return self.add_private(inode.ino, kind);
            }
        }
        if kind.shape().chunks().next().is_some() {
            // Order on disk: a chunk is there before the op that names it.
            volume.config.store.chunks.sync()?;
        }
        let id = self.writer.next_id();
        let base = Base {
            view: &volume.view,
            overlay: &self.overlay,
            committed: &self.writer.state.chain.committed,
        };
        let record = self.writer.state.record_of_new(id.log);
        let sight = Sight::Everything { record };
        let effects = fold_within(base, id, &kind, &sight, self.room)?;
        let ino = kind.shape().node(|| ino_of(id)).unwrap_or(Ino::ROOT);
        let op = FoldedOp {
            id,
            record: Arc::new(Record::new(Arc::new(kind), &effects)),
            effects: effects.writes,
        };
        self.ops.push(op);
        Ok(Applied { id, ino })
    }

    /// Lets the next op see what the last one did.
    fn show_last(&mut self) {
        if let Some(op) = self.ops.last() {
            for effect in &op.effects {
                self.overlay.put_effect(effect.clone());
            }
            let record = Some(Arc::clone(&op.record));
            self.overlay.records.insert(op.id, record);
        }
    }

    fn add_private(&mut self, ino: Ino, kind: OpKind) -> Result<Applied> {
        let id = self.writer.next_id();
        let (file, mut overlay) = self
            .private
            .take()
            .unwrap_or_else(|| (ino, Overlay::default()));
        if file != ino {
            return Err(VolumeError::BadOp {
                what: "two files without a name at once",
            });
        }
        let committed = &self.writer.state.chain.committed;
        let volume = self.writer.volume;
        let folded = volume.fold_private(&mut overlay, committed, id, ino, kind);
        self.private = Some((file, overlay));
        folded.map(|()| Applied { id, ino })
    }

    /// Applies the ops.
    ///
    /// # Errors
    ///
    /// The store's; nothing is changed then.
    pub fn commit(self) -> Result<()> {
        let Self {
            writer,
            ops,
            private,
            ..
        } = self;
        let volume = writer.volume;
        if let Some((ino, overlay)) = private {
            volume.commit_private(&mut writer.state, ino, overlay)?;
        }
        if ops.is_empty() {
            return Ok(());
        }
        volume.config.log.begin()?;
        writer.state.commit_ops(&volume.view, &ops)?;
        for op in &ops {
            writer.state.note(Rank::tentative(op.id), &op.record);
            writer.state.drafts.push(op.id, &op.record.kind);
        }
        writer.told.news = Some(writer.state.drafts.bytes());
        volume.spare_index(&mut writer.state);
        Ok(())
    }
}
