//! Making, linking and removing.

use super::rights::Rights;
use super::{Fold, Result};
use crate::base::{Ino, OpId, Timespec};
use crate::volume::acl::Acl;
use crate::volume::op::{Create, ino_of};
use crate::volume::rows::{Dated, RowKey, Value, Xattr};
use crate::volume::types::{ConflictKind, Dirent, FileKind, Inode, Place};

impl Fold<'_> {
    pub(super) fn create(&mut self, create: &Create) -> Result<()> {
        let ino = ino_of(self.id);
        if self.row_of(ino)?.is_some() {
            // Two ops with one digest of 63 bits.
            return Ok(());
        }
        let place = Place {
            parent: self.live_dir(create.at.parent, create.time)?,
            name: create.at.name.clone(),
        };
        if create.kind == FileKind::Dir
            && let Some(there) = self.entry(place.parent, &place.name)?
            && there.kind == FileKind::Dir
        {
            let list = |name: &[u8]| {
                let mut lists = create.xattrs.iter().filter(|(of, _)| &**of == name);
                lists.next().and_then(|(_, value)| Acl::decode(value))
            };
            let rights = Rights {
                mode: create.mode & 0o7777,
                uid: create.uid,
                gid: create.gid,
                access: list(Acl::ACCESS),
                default: list(Acl::DEFAULT),
            };
            self.narrow(there.ino, &rights, self.id)?;
            let (mtime, by) = (create.time, self.id);
            self.make_part(ino, &[], there.ino, Dated { mtime, by })?;
            return self.tx.put(RowKey::Alias(ino), Value::Alias(there.ino));
        }
        let mut node = self.new_inode(ino, create.kind, create.time);
        node.mode = create.mode & 0o7777;
        node.uid = create.uid;
        node.gid = create.gid;
        node.rdev = create.rdev;
        node.size = create.target.as_ref().map_or(0, |to| to.len() as u64);
        node.target = create.target.clone();
        for (name, value) in &create.xattrs {
            let key = RowKey::Xattr(ino, self.tx.dir_key(ino, name));
            let xattr = Xattr {
                name: name.clone(),
                value: value.clone(),
                by: self.id,
            };
            node.xattrs += u32::from(self.tx.get(key)?.is_none());
            self.tx.put(key, Value::Xattr(xattr))?;
        }
        self.save(node)?;
        self.place(ino, &place, create.time)
    }

    pub(super) fn link(&mut self, ino: Ino, to: &Place, time: Timespec) -> Result<()> {
        let Some(node) = self.inode(ino)?.filter(|node| !node.is_dir()) else {
            return Ok(());
        };
        self.stand_alone(node.ino)?;
        let place = Place {
            parent: self.live_dir(to.parent, time)?,
            name: to.name.clone(),
        };
        self.place(node.ino, &place, time)
    }

    /// Returns the node at a place if it is still the one that the op's author meant there, and he
    /// had seen that it was put there, and where all directories above it are: a removal takes only
    /// what its author had seen, so what was moved meanwhile keeps its contents.
    fn meant(&mut self, at: &Place, ino: Ino) -> Result<Option<(Inode, Place)>> {
        let (Some(parent), Some(node)) = (self.inode(at.parent)?, self.inode(ino)?) else {
            return Ok(None);
        };
        let place = Place {
            parent: parent.ino,
            name: at.name.clone(),
        };
        let there = self.entry(place.parent, &place.name)?;
        let (there, place) = match there.filter(|there| there.ino == node.ino) {
            Some(there) => (there, place),
            // By whatever name it got where it met another one.
            None => match self.aside(&node, &place)? {
                Some(aside) => aside,
                None => return Ok(None),
            },
        };
        let is_beside = place.parent == parent.ino;
        let dir = if is_beside { at.parent } else { place.parent };
        let is_meant = self.saw(there.by) && self.saw_way_to(dir)?;
        Ok(is_meant.then_some((node, place)))
    }

    /// Returns the entry of a node that stands aside of `place`, and where that is.
    pub(super) fn aside(&mut self, node: &Inode, place: &Place) -> Result<Option<(Dirent, Place)>> {
        let (Some(conflict), Some(home)) = (node.conflict, &node.home) else {
            return Ok(None);
        };
        let is_aside = match self.tx.get(RowKey::Conflict(conflict))? {
            Some(Value::Conflict(conflict)) => {
                conflict.other == Some(node.ino) && conflict.place.as_ref() == Some(place)
            }
            _ => false,
        };
        if !is_aside || node.nlink != 1 {
            return Ok(None);
        }
        let entry = self.entry(home.parent, &home.name)?;
        Ok(entry.map(|entry| (entry, home.clone())))
    }

    pub(super) fn unlink(
        &mut self,
        from: &Place,
        ino: Ino,
        saw: OpId,
        time: Timespec,
    ) -> Result<()> {
        if self.unlink_twin(from, ino, saw)? {
            return Ok(());
        }
        let Some((node, place)) = self.meant(from, ino)?.filter(|(node, _)| !node.is_dir()) else {
            return Ok(());
        };
        if node.nlink <= 1 && saw == OpId::default() {
            // Its author had left it another name.
            return self.conflict(ConflictKind::LastName, node.ino, Some(place));
        }
        // Where it is the present content that its author saw, nothing tells of another place.
        if node.nlink <= 1 && node.version != saw {
            let (holder, version) = self.locate(node.ino, saw)?;
            if holder != node.ino {
                // What its author saw and removed is in a conflict file by now.
                self.unlink_fork(holder, version, time)?;
                return self.conflict(ConflictKind::UnlinkDropped, node.ino, Some(place));
            }
            if version != node.version {
                return self.conflict(ConflictKind::UnlinkDropped, node.ino, Some(place));
            }
        }
        if node.nlink <= 1 && self.leave_unseen(&node)? {
            return self.conflict(ConflictKind::UnlinkDropped, node.ino, Some(place));
        }
        let had = self.detach(node.ino, &place, time)?;
        self.settle(node.ino, &place)?;
        self.bury(node.ino, had)?;
        self.succeed(node.ino, &place, time)?;
        // What has a name less may be one with another now.
        if node.nlink > 1 && (node.conflict.is_some() || !node.kin.beside.is_empty()) {
            self.settle_equal(node.ino, time)?;
        }
        Ok(())
    }

    /// Removes a conflict file whose content is the one that was to be removed.
    fn unlink_fork(&mut self, ino: Ino, saw: OpId, time: Timespec) -> Result<()> {
        let Some(node) = self.row_of(ino)? else {
            return Ok(());
        };
        let Some(home) = node.home.filter(|_| node.nlink == 1 && node.version == saw) else {
            return Ok(());
        };
        let had = self.detach(ino, &home, time)?;
        self.settle(ino, &home)?;
        self.bury(ino, had)
    }

    pub(super) fn rmdir(&mut self, from: &Place, ino: Ino, time: Timespec) -> Result<()> {
        let Some((node, place)) = self.meant(from, ino)?.filter(|(node, _)| node.is_dir()) else {
            return Ok(());
        };
        self.tx.depend_on_counts(node.ino)?;
        if node.entries > 0 {
            return self.conflict(ConflictKind::RmdirDropped, node.ino, Some(place));
        }
        let had = self.detach(node.ino, &place, time)?;
        self.settle(node.ino, &place)?;
        self.bury(node.ino, had)
    }
}
