//! The fold: what one op does to the view. Deterministic; an op that makes no sense any more, after
//! what sorted before it, is bent or dropped (docs/semantics.md), never refused.

mod conflicts;
mod content;
mod entries;
mod equal;
pub(super) mod names;
mod places;
mod rename;
mod rights;
mod times;

pub(super) use names::{conflict_names, label};

use bytes::Bytes;

use self::rights::CAPABILITIES;
use super::acl::Acl;
use super::op::OpKind;
use super::overlay::{Base, Effects, Room, Tx};
use super::rows::{Fork, Removed, RowKey, Value, Xattr};
use super::sight::Sight;
use super::types::{Cells, Dirent, FileKind, Inode, Kin};
use super::view::{is_private, name_scope};
use super::{Result, VolumeError};
use crate::base::{DeviceId, Ino, OpId, Timespec};

/// Longest chain of merged directories or forked versions that is followed.
const HOPS_MAX: usize = 64;

/// Folds one op onto the view and returns what it depends on and does.
pub(super) fn fold(base: Base<'_>, id: OpId, kind: &OpKind, sight: &Sight) -> Result<Effects> {
    fold_within(base, id, kind, sight, Room::ENDLESS)
}

/// Folds as [`fold`] does, or fails with [`VolumeError::TooMuch`] where the op meets more
/// rows than there is `room` for: what others have applied is folded whatever it takes.
pub(super) fn fold_within(
    base: Base<'_>,
    id: OpId,
    kind: &OpKind,
    sight: &Sight,
    room: Room,
) -> Result<Effects> {
    let mut fold = Fold {
        tx: Tx::new(base, room),
        id,
        sight,
    };
    // A member can write anything; what is not an op changes nothing anywhere.
    if kind.flaw().is_none() {
        fold.apply(kind)?;
    }
    Ok(fold.tx.finish())
}

/// Returns the file in which the content goes on that a version of a file names.
pub(super) fn locate(base: Base<'_>, ino: Ino, version: OpId) -> Result<Ino> {
    let mut fold = Fold {
        tx: Tx::new(base, Room::ENDLESS),
        id: OpId::default(),
        sight: &Sight::Everything { record: 0 },
    };
    Ok(fold.locate(ino, version)?.0)
}

/// One op on its way into the view.
struct Fold<'a> {
    tx: Tx<'a>,
    id: OpId,
    /// What its author had seen.
    sight: &'a Sight,
}

impl Fold<'_> {
    fn apply(&mut self, kind: &OpKind) -> Result<()> {
        self.change(kind)?;
        // Where the op was issued, the times of these directories have moved, whatever becomes of it here.
        let time = match kind {
            OpKind::Create(create) => create.time,
            OpKind::Link { time, .. }
            | OpKind::Unlink { time, .. }
            | OpKind::Rmdir { time, .. }
            | OpKind::Rename { time, .. } => *time,
            _ => return Ok(()),
        };
        for place in kind.shape().places() {
            self.touch(place.parent, time)?;
        }
        Ok(())
    }

    fn change(&mut self, kind: &OpKind) -> Result<()> {
        match kind {
            OpKind::Format {
                uid,
                gid,
                mode,
                time,
            } => self.format(*uid, *gid, *mode, *time),
            OpKind::Device { name } => {
                let key = RowKey::Device(self.author());
                self.tx.put(key, Value::Device(name.clone()))
            }
            OpKind::Create(create) => self.create(create),
            OpKind::Link { ino, to, time } => self.link(*ino, to, *time),
            OpKind::Unlink {
                from,
                ino,
                saw,
                time,
            } => self.unlink(from, *ino, *saw, *time),
            OpKind::Rmdir { from, ino, time } => self.rmdir(from, *ino, *time),
            OpKind::Rename {
                from,
                to,
                ino,
                replaced,
                exchange,
                time,
            } => self.rename(&rename::Rename {
                from,
                to,
                ino: *ino,
                replaced: *replaced,
                exchange: *exchange,
                time: *time,
            }),
            OpKind::SetAttr {
                ino,
                mode,
                uid,
                gid,
                mtime,
                ctime,
            } => self.set_attr(&rights::SetAttr {
                ino: *ino,
                mode: *mode,
                uid: *uid,
                gid: *gid,
                mtime: *mtime,
                ctime: *ctime,
            }),
            OpKind::Write(write) => self.write(write),
            OpKind::Append(append) => self.append(append),
            OpKind::SetXattr {
                ino,
                name,
                value,
                time,
            } => self.set_xattr(*ino, name, Some(value), *time, false),
            OpKind::RemoveXattr { ino, name, time } => {
                self.set_xattr(*ino, name, None, *time, false)
            }
            OpKind::Resolve { conflict } => self.resolve_conflict(*conflict),
            OpKind::Snapshot(kept) => {
                let key = RowKey::Snapshot(self.id);
                self.tx.put(key, Value::Snapshot(kept.clone()))
            }
            OpKind::DropSnapshot { snapshot } => match self.tx.get(RowKey::Snapshot(*snapshot))? {
                Some(_) => self.tx.delete(RowKey::Snapshot(*snapshot)),
                None => Ok(()),
            },
        }
    }

    /// Tells whether the author of this op had seen another one.
    fn saw(&self, other: OpId) -> bool {
        self.sight.saw(self.id, other)
    }

    /// Returns the device that wrote this op.
    fn author(&self) -> DeviceId {
        self.tx.device_of(self.id.log)
    }

    fn format(&mut self, uid: u32, gid: u32, mode: u32, time: Timespec) -> Result<()> {
        if self.row_of(Ino::ROOT)?.is_some() {
            return Ok(());
        }
        let mut root = self.new_inode(Ino::ROOT, FileKind::Dir, time);
        root.uid = uid;
        root.gid = gid;
        root.mode = mode & 0o7777;
        root.nlink = 2;
        self.save(root)
    }

    /// Returns an inode that this op makes.
    fn new_inode(&self, ino: Ino, kind: FileKind, time: Timespec) -> Inode {
        Inode {
            ino,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            stored: 0,
            nlink: 0,
            entries: 0,
            xattrs: 0,
            mtime: time,
            ctime: time,
            btime: time,
            target: None,
            version: self.id,
            written_by: self.id,
            created_by: self.id,
            origin: None,
            home: None,
            joined: None,
            conflict: None,
            cells: Cells::default(),
            kin: Kin::default(),
        }
    }

    /// Returns the inode row of exactly this number.
    fn row_of(&mut self, ino: Ino) -> Result<Option<Inode>> {
        let inode = match self.tx.get(RowKey::Inode(ino))? {
            Some(Value::Inode(inode)) => inode.clone(),
            Some(_) => return Err(WRONG_KIND),
            None => return Ok(None),
        };
        // What this op makes has no name yet.
        let is_named = !inode.is_orphan() || inode.created_by == self.id;
        let is_gone = !is_named && self.is_gone(ino)?;
        Ok((!is_gone).then_some(inode))
    }

    /// Returns the inode that `ino` names now, as the author of the op had seen it: a directory may
    /// have been merged into another, and another file may stand for this one.
    fn inode(&mut self, ino: Ino) -> Result<Option<Inode>> {
        let mut at = ino;
        for _ in 0..HOPS_MAX {
            if let Some(inode) = self.row_of(at)? {
                if let Some(twin) = inode.kin.twin.as_ref().filter(|twin| self.knows(twin)) {
                    at = twin.of;
                    continue;
                }
                return Ok(Some(inode));
            }
            match self.tx.get(RowKey::Alias(at))? {
                Some(Value::Alias(to)) => at = *to,
                Some(_) => return Err(WRONG_KIND),
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Tells whether a node without a name was removed by what a record names that this op's author had
    /// folded, or the base line passed: nothing brings it back, also where its rows are still here.
    fn is_gone(&mut self, ino: Ino) -> Result<bool> {
        Ok(match self.tx.get(RowKey::Orphan(ino))? {
            Some(Value::Orphan(Removed { by, .. })) => {
                let by = *by;
                self.tx.is_settled(by) || self.tx.rank(by).record <= self.sight.record()
            }
            _ => false,
        })
    }

    fn save(&mut self, mut inode: Inode) -> Result<()> {
        inode.kin.tidy();
        self.tx.put(RowKey::Inode(inode.ino), Value::Inode(inode))
    }

    fn entry(&mut self, parent: Ino, name: &Bytes) -> Result<Option<Dirent>> {
        let key = RowKey::Dirent(parent, self.tx.dir_key(parent, name));
        match self.tx.get(key)? {
            Some(Value::Dirent(dirent)) => Ok(Some(dirent.clone())),
            Some(_) => Err(WRONG_KIND),
            None => Ok(None),
        }
    }

    /// Sets or removes an attribute; `alone` where its author meant what this node stands for.
    fn set_xattr(
        &mut self,
        ino: Ino,
        name: &Bytes,
        given: Option<&Bytes>,
        time: Timespec,
        alone: bool,
    ) -> Result<()> {
        let Some(mut inode) = self.inode(ino)? else {
            return Ok(());
        };
        let scope = name_scope(inode.ino);
        let key = RowKey::Xattr(inode.ino, self.tx.dir_key(scope, name));
        let had = self.tx.get(key)?.is_some();
        if let Some(Value::Xattr(there)) = self.tx.get(key)?
            && there.by > self.id
        {
            // A later one was set, and this had not seen it.
            return Ok(());
        }
        let mut value = given.cloned();
        if &**name == Acl::ACCESS {
            let alone = alone || self.is_for_less(&inode, ino);
            value = self.mode_follows(&mut inode, value.as_ref(), alone)?;
        }
        if &**name == CAPABILITIES && self.is_unseen(&inode) {
            value = None;
        }
        match value {
            Some(value) => {
                let xattr = Xattr {
                    name: name.clone(),
                    value,
                    by: self.id,
                };
                self.tx.put(key, Value::Xattr(xattr))?;
                inode.xattrs += u32::from(!had);
            }
            // Someone else removed it before.
            None if !had => return Ok(()),
            None => {
                self.tx.delete(key)?;
                inode.xattrs = inode.xattrs.saturating_sub(1);
            }
        }
        inode.ctime = time;
        let stands_for = inode.kin.twin.as_ref().map(|twin| twin.of);
        let meant = match &**name == Acl::ACCESS && given.is_some() {
            true => self.meant_aside(&inode)?,
            false => Vec::new(),
        };
        self.save(inode)?;
        for ino in meant {
            self.set_xattr(ino, name, given, time, true)?;
        }
        match stands_for {
            Some(of) => self.set_xattr(of, name, given, time, true),
            None => Ok(()),
        }
    }

    /// Returns the name that people gave a device, fit for a file name.
    fn device_name(&mut self, device: DeviceId) -> Result<String> {
        match self.tx.get(RowKey::Device(device))? {
            Some(Value::Device(name)) => Ok(label(name)),
            Some(_) => Err(WRONG_KIND),
            None => Ok(format!("{:08x}", device.0 >> 32)),
        }
    }

    /// Returns where the content that `version` of a file names is now.
    fn locate(&mut self, ino: Ino, version: OpId) -> Result<(Ino, OpId)> {
        let (mut ino, mut version) = (ino, version);
        for _ in 0..HOPS_MAX {
            match self.tx.get(RowKey::Fork(ino, version))? {
                Some(Value::Fork(Fork::File(file))) => ino = *file,
                Some(Value::Fork(Fork::Same(same))) => version = *same,
                // Of a joined append its author saw a content that is nowhere as such.
                Some(Value::Fork(Fork::Joined)) | None => break,
                Some(_) => return Err(WRONG_KIND),
            }
        }
        Ok((ino, version))
    }

    /// Tells whether the file being changed is the private copy of local handles.
    fn is_private(inode: &Inode) -> bool {
        is_private(inode.ino)
    }
}

const WRONG_KIND: VolumeError = VolumeError::Corrupt {
    what: "a row of another kind than its key",
};
