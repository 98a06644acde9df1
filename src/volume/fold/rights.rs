//! Who may do what: permission bits and access lists, which say the same whoever changed which, and
//! are the narrower ones where two directories become one.

use bytes::Bytes;

use super::{Fold, Result};
use crate::base::{Ino, OpId, Timespec};
use crate::volume::acl::Acl;
use crate::volume::rows::{RowKey, Value, Xattr};
use crate::volume::types::{Field, FileKind, Inode};
use crate::volume::view::name_scope;

/// The fields of [`crate::volume::OpKind::SetAttr`].
pub(super) struct SetAttr {
    pub(super) ino: Ino,
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timespec>,
    pub(super) ctime: Timespec,
}

/// The permission bits of those who do not own a node.
const OF_OTHERS: u32 = 0o077;
const STICKY: u32 = 0o1000;

/// The setuid and setgid bits.
const PRIVILEGES: u32 = 0o6000;

/// The attribute that holds the capabilities of a program.
pub(super) const CAPABILITIES: &[u8] = b"security.capability";

/// What a directory lets whom do.
pub(super) struct Rights {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) access: Option<Acl>,
    pub(super) default: Option<Acl>,
}

impl Rights {
    /// Returns the list that holds, of the mode where there is no other.
    fn list(&self) -> Acl {
        let access = self.access.clone();
        access.unwrap_or_else(|| Acl::of_mode(self.mode))
    }

    /// Tells whether this lets everybody do the same.
    pub(super) fn is_equal(&self, other: &Self) -> bool {
        let facts = |rights: &Self| (rights.mode, rights.uid, rights.gid);
        facts(self) == facts(other) && self.access == other.access && self.default == other.default
    }

    /// Tells whether this lets those who do not own the node do less.
    fn is_narrower(&self, other: &Self) -> bool {
        let (own, others) = (self.mode & OF_OTHERS, other.mode & OF_OTHERS);
        own != others && own & others == own
    }
}

impl Fold<'_> {
    pub(super) fn set_attr(&mut self, set: &SetAttr) -> Result<()> {
        self.set_attr_of(set, false)
    }

    /// Sets attributes; `alone` where their author meant what this node stands for.
    fn set_attr_of(&mut self, set: &SetAttr, alone: bool) -> Result<()> {
        let Some(mut inode) = self.inode(set.ino)? else {
            return Ok(());
        };
        if let Some(mode) = set.mode.filter(|_| inode.cells.set(Field::Mode, self.id)) {
            let mut mode = mode & 0o7777;
            if alone || self.is_for_less(&inode, set.ino) {
                mode &= inode.mode | !OF_OTHERS;
            }
            if self.is_unseen(&inode) {
                mode &= !PRIVILEGES;
            }
            inode.mode = mode;
            if let Some(mut list) = self.list(&inode, Acl::ACCESS)? {
                list.set_mode(mode);
                self.put_list(&mut inode, Acl::ACCESS, Some(&list))?;
            }
        }
        let uid = set.uid.filter(|_| inode.cells.set(Field::Uid, self.id));
        let gid = set.gid.filter(|_| inode.cells.set(Field::Gid, self.id));
        if inode.kind == FileKind::File && (uid.is_some() || gid.is_some()) {
            self.keep_unprivileged(&mut inode)?;
        }
        inode.uid = uid.unwrap_or(inode.uid);
        inode.gid = gid.unwrap_or(inode.gid);
        let is_newer = inode.kind != FileKind::File || inode.written_by < self.id;
        if let Some(mtime) = set.mtime.filter(|_| is_newer)
            && !inode.is_dir()
            && inode.cells.set(Field::Mtime, self.id)
        {
            inode.mtime = mtime;
        }
        inode.ctime = set.ctime;
        let stands_for = inode.kin.twin.as_ref().map(|twin| twin.of);
        let dated = set.mtime.filter(|_| inode.is_dir());
        let meant = match set.mode {
            Some(_) => self.meant_aside(&inode)?,
            None => Vec::new(),
        };
        self.save(inode)?;
        for ino in meant {
            let narrower = SetAttr {
                ino,
                uid: None,
                gid: None,
                mtime: None,
                ..*set
            };
            self.set_attr_of(&narrower, true)?;
        }
        if let Some(mtime) = dated {
            self.date(set.ino, mtime)?;
        }
        match stands_for {
            Some(ino) => self.set_attr_of(&SetAttr { ino, ..*set }, true),
            None => Ok(()),
        }
    }

    /// Returns the conflict files in which the content is that the author of this op knew by the number of a
    /// file that has another by now: what he allows nobody with that, nobody may do with them.
    pub(super) fn meant_aside(&mut self, file: &Inode) -> Result<Vec<Ino>> {
        let mut meant = Vec::new();
        if self.saw(file.written_by) {
            return Ok(meant);
        }
        for ino in file.kin.beside.clone() {
            let aside = self.row_of(ino)?;
            let is_meant = |aside: &Inode| {
                aside.origin == Some(file.ino)
                    && aside.kin.twin.is_none()
                    && self.saw(aside.created_by)
            };
            if aside.as_ref().is_some_and(is_meant) {
                meant.push(ino);
            }
        }
        Ok(meant)
    }

    /// Tells whether a file has a content or an owner that the author of this op had not seen: privileges are
    /// given to what one knows, and to whom.
    pub(super) fn is_unseen(&self, file: &Inode) -> bool {
        let owned_by = |field| file.cells.by(field, file.created_by);
        let made = [file.written_by, owned_by(Field::Uid), owned_by(Field::Gid)];
        file.kind == FileKind::File && made.into_iter().any(|op| !self.saw(op))
    }

    /// Takes privileges off a file whose content or owner is changed by who had not seen that it got them.
    pub(super) fn keep_unprivileged(&mut self, file: &mut Inode) -> Result<()> {
        if file.mode & PRIVILEGES != 0 && !self.saw(file.cells.by(Field::Mode, file.created_by)) {
            file.mode &= !PRIVILEGES;
        }
        if file.xattrs == 0 {
            return Ok(());
        }
        let scope = name_scope(file.ino);
        let hash = self.tx.dir_key(scope, &Bytes::from_static(CAPABILITIES));
        let key = RowKey::Xattr(file.ino, hash);
        let by = match self.tx.get(key)? {
            Some(Value::Xattr(xattr)) => xattr.by,
            _ => return Ok(()),
        };
        if !self.saw(by) {
            self.tx.delete(key)?;
            file.xattrs = file.xattrs.saturating_sub(1);
        }
        Ok(())
    }

    /// Tells whether an op meant one node, called `named`, that is one with another by now, which its
    /// author had not seen: what it allows, it allowed for the contents of that one alone.
    pub(super) fn is_for_less(&self, node: &Inode, named: Ino) -> bool {
        let made_one = node.joined.is_some_and(|by| !self.saw(by));
        made_one || node.is_dir() && named != node.ino && !self.saw(node.created_by)
    }

    /// Lets the mode follow a list that is set or removed now, and allows no more than there was where
    /// that is `for_less`.
    pub(super) fn mode_follows(
        &mut self,
        inode: &mut Inode,
        value: Option<&Bytes>,
        for_less: bool,
    ) -> Result<Option<Bytes>> {
        let had = self.list(inode, Acl::ACCESS)?;
        let Some(mut list) = value.and_then(|value| Acl::decode(value)) else {
            return Ok(value.cloned());
        };
        if list.is_empty() {
            return Ok(value.cloned());
        }
        if for_less {
            let there = had.unwrap_or_else(|| Acl::of_mode(inode.mode));
            list = list.narrower(&there, true);
        }
        if inode.cells.set(Field::Mode, self.id) {
            inode.mode = list.apply_to(inode.mode);
        } else {
            // The mode was set later than this list.
            list.set_mode(inode.mode);
        }
        Ok(Some(Bytes::from(list.encode())))
    }

    /// Returns what a node lets whom do.
    pub(super) fn rights(&mut self, dir: &Inode) -> Result<Rights> {
        Ok(Rights {
            mode: dir.mode,
            uid: dir.uid,
            gid: dir.gid,
            access: self.list(dir, Acl::ACCESS)?,
            default: self.list(dir, Acl::DEFAULT)?,
        })
    }

    /// Lets nobody do more with a node than `other` allowed, which becomes one with it by `by`.
    pub(super) fn narrow(&mut self, ino: Ino, other: &Rights, by: OpId) -> Result<()> {
        let Some(mut dir) = self.row_of(ino)? else {
            return Ok(());
        };
        let mine = self.rights(&dir)?;
        let list = mine.list().narrower(&other.list(), mine.gid == other.gid);
        if other.is_narrower(&mine) {
            (dir.uid, dir.gid) = (other.uid, other.gid);
        }
        dir.mode = list.apply_to(dir.mode | other.mode & STICKY);
        let access = Some(&list).filter(|list| !list.is_minimal());
        self.put_list(&mut dir, Acl::ACCESS, access)?;
        let default = match (mine.default, &other.default) {
            (Some(mine), Some(other)) => Some(mine.narrower(other, true)),
            (mine, other) => mine.or_else(|| other.clone()),
        };
        self.put_list(&mut dir, Acl::DEFAULT, default.as_ref())?;
        dir.joined = dir.joined.max(Some(by));
        self.save(dir)
    }

    /// Returns the list that an attribute of a node holds.
    fn list(&mut self, inode: &Inode, name: &'static [u8]) -> Result<Option<Acl>> {
        if inode.xattrs == 0 {
            return Ok(None);
        }
        let scope = name_scope(inode.ino);
        let key = RowKey::Xattr(inode.ino, self.tx.dir_key(scope, name));
        Ok(match self.tx.get(key)? {
            Some(Value::Xattr(xattr)) => Acl::decode(&xattr.value),
            _ => None,
        })
    }

    fn put_list(
        &mut self,
        inode: &mut Inode,
        name: &'static [u8],
        list: Option<&Acl>,
    ) -> Result<()> {
        let scope = name_scope(inode.ino);
        let key = RowKey::Xattr(inode.ino, self.tx.dir_key(scope, name));
        let there = match self.tx.get(key)? {
            Some(Value::Xattr(xattr)) if inode.xattrs > 0 => Some(xattr.by),
            _ => None,
        };
        let had = there.is_some();
        // Who changes the mode does not say who else may do what.
        let by = there.unwrap_or(self.id);
        match list {
            Some(list) => {
                let xattr = Xattr {
                    name: Bytes::from_static(name),
                    value: Bytes::from(list.encode()),
                    by,
                };
                self.tx.put(key, Value::Xattr(xattr))?;
                inode.xattrs += u32::from(!had);
            }
            None if had => {
                self.tx.delete(key)?;
                inode.xattrs = inode.xattrs.saturating_sub(1);
            }
            None => {}
        }
        Ok(())
    }
}
