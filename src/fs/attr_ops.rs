//! Attributes: getattr, setattr, access times.

use std::sync::Arc;
use std::time::Duration;

use super::atimes::Atime;
use super::dirty::{Body, Dirty};
use super::inode_table::{Content, Node};
use super::{Attr, Attributes, Caller, Entry, FileKind, Fs, FsError, GroupSource, Result, SetAttr};
use crate::base::limits::FILE_MAX_BYTES;
use crate::base::{Ino, Timespec};
use crate::volume::{Inode, OpKind};

/// The setuid bit.
pub(super) const SETUID: u32 = 0o4000;
/// The setgid bit.
pub(super) const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

impl Fs {
    /// Returns the attributes of an inode, unwritten changes included.
    pub fn getattr(&self, ino: Ino) -> Result<Attributes> {
        Ok(self.attributes(self.attr(ino)?))
    }

    /// Sets attributes and returns the new ones.
    ///
    /// Changes of times and size of an open file wait with its other unwritten changes; all else
    /// is an op at once.
    pub fn setattr(&self, caller: Caller, ino: Ino, set: SetAttr) -> Result<Attributes> {
        self.check_writable()?;
        let node = self.inodes.node(ino);
        let mut content = node.content();
        let inode = self.inode(ino)?;
        let now = self.now();
        if let Some(size) = set.size {
            self.set_size(&node, &mut content, &inode, size, now)?;
        }
        self.apply_setattr(caller, &inode, &mut content, &set, now)?;
        if let Some(atime) = set.atime {
            content.atime = Atime::Changed(atime.at(now));
        }
        if set.size.is_some() && self.inodes.opens(ino) == 0 {
            self.commit(&node, &mut content)?;
        }
        let inode = self.inode(ino)?;
        let attr = self.attr_with(&inode, &mut content)?;
        drop(content);
        self.inodes.rest(node);
        Ok(self.attributes(attr))
    }

    fn apply_setattr(
        &self,
        caller: Caller,
        inode: &Inode,
        content: &mut Content,
        set: &SetAttr,
        now: Timespec,
    ) -> Result<()> {
        let mtime = set.mtime.map(|mtime| mtime.at(now));
        let mode = self.mode_after(caller, inode, set);
        let mut op_mtime = mtime;
        if let Some(dirty) = &mut content.dirty {
            dirty.ctime = dirty.ctime.max(now);
            dirty.privileges_clear &= set.mode.is_none();
            if let Some(mtime) = mtime {
                dirty.mtime = mtime;
            }
            op_mtime = None;
        }
        let attributes = mode.is_some() || set.uid.is_some() || set.gid.is_some();
        // With dirty data, the times go with it; an empty request still moves ctime.
        if !attributes && content.dirty.is_some() {
            return Ok(());
        }
        let mut writer = self.volume.write()?;
        let list = match set.mode {
            Some(mode) => Self::acl_follows_mode(&writer, inode, mode, now)?,
            None => None,
        };
        let attributes = OpKind::SetAttr {
            ino: inode.ino,
            mode,
            uid: set.uid,
            gid: set.gid,
            mtime: op_mtime,
            ctime: now,
        };
        match list {
            // A crash leaves both or none.
            Some(list) => writer.apply_together([list, attributes])?,
            None => {
                writer.apply(attributes)?;
            }
        }
        Ok(())
    }

    fn set_size(
        &self,
        node: &Arc<Node>,
        content: &mut Content,
        inode: &Inode,
        size: u64,
        now: Timespec,
    ) -> Result<()> {
        match inode.kind {
            FileKind::File => {}
            FileKind::Dir => return Err(FsError::IsDirectory),
            _ => {
                return Err(FsError::Invalid {
                    what: "no content to truncate",
                });
            }
        }
        if size > FILE_MAX_BYTES {
            return Err(FsError::FileTooLarge);
        }
        let dirty = self.dirty(node, content, inode);
        if size == dirty.size {
            dirty.mtime = now;
            dirty.ctime = dirty.ctime.max(now);
        } else {
            dirty.set_size(size);
            dirty.touch(now);
        }
        self.recharge(content);
        Ok(())
    }

    /// Returns the attributes of an inode whose content is not locked by the caller.
    ///
    /// The row is read under the lock of the content: a commit moves what is unwritten into the
    /// row, and in between neither of the two alone is the file.
    pub(super) fn attr(&self, ino: Ino) -> Result<Attr> {
        with_content(self.inodes.known(ino), |content| {
            let inode = self.inode(ino)?;
            self.attr_with(&inode, content)
        })
    }

    /// Counts one lookup of an inode and returns its entry; `None` where it is gone.
    pub(super) fn looked_up(&self, ino: Ino) -> Result<Option<Entry>> {
        let node = self.inodes.remember(ino);
        let found = self.attr_of_row(ino, node);
        match found {
            Ok(Some(attr)) if attr.ino == ino => return Ok(Some(self.entry(attr))),
            _ => self.forget(ino, 1),
        }
        match found? {
            // A directory that was merged into another: the kernel is to know the other.
            Some(attr) => self.looked_up(attr.ino),
            None => Ok(None),
        }
    }

    /// Returns the attributes under the number that the row has.
    fn attr_of_row(&self, ino: Ino, node: Option<Arc<Node>>) -> Result<Option<Attr>> {
        with_content(node, |content| match self.volume.inode(ino)? {
            Some(inode) => self.attr_with(&inode, content).map(Some),
            None => Ok(None),
        })
    }

    /// Returns the attributes of an inode with what this mount alone knows about it.
    pub(super) fn attr_with(&self, inode: &Inode, content: &mut Content) -> Result<Attr> {
        let mut attr = Attr {
            ino: inode.ino,
            kind: inode.kind,
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: u32::try_from(inode.rdev).unwrap_or(0),
            size: inode.size,
            blocks: inode.stored.div_ceil(STAT_BLOCK_BYTES),
            atime: self.atime(inode.ino, content, inode.btime),
            mtime: inode.mtime,
            ctime: inode.ctime,
            btime: inode.btime,
        };
        if let Some(dirty) = &mut content.dirty {
            attr.size = dirty.size;
            attr.mtime = dirty.mtime;
            attr.ctime = dirty.ctime.max(inode.ctime);
            attr.blocks = self.stored_with(inode, dirty)?.div_ceil(STAT_BLOCK_BYTES);
        }
        Ok(attr)
    }

    /// Returns the bytes that will be stored when the changes are written.
    fn stored_with(&self, inode: &Inode, dirty: &mut Dirty) -> Result<u64> {
        let fragments = dirty.fragments.iter().map(|(_, fragment)| fragment);
        let added: u64 = fragments
            .filter(|fragment| !matches!(fragment.body, Body::Hole))
            .map(|fragment| fragment.len)
            .sum();
        if inode.stored == 0 {
            return Ok(added);
        }
        let ranges = dirty.fragments.ranges();
        let hidden = dirty.hidden.bytes_in(inode.version, ranges, &|range| {
            self.volume.extents(inode.ino, range)
        })?;
        Ok(inode.stored.saturating_sub(hidden) + added)
    }

    pub(super) fn attributes(&self, attr: Attr) -> Attributes {
        Attributes {
            attr,
            ttl: self.config.attr_ttl,
        }
    }

    pub(super) fn entry(&self, attr: Attr) -> Entry {
        Entry {
            attr,
            generation: 0,
            entry_ttl: self.config.entry_ttl,
            attr_ttl: self.config.attr_ttl,
        }
    }

    /// Notes an access of what the kernel knows, by a call that needs its content for nothing else.
    pub(super) fn note_access(&self, inode: &Inode) {
        let node = self.inodes.node(inode.ino);
        self.touch_atime(inode, &mut node.content(), self.now());
        self.inodes.rest(node);
    }

    /// Notes an access at `now`, as a mount with `relatime` does: the time moves where it is not
    /// newer than the last change, or a day old.
    pub(super) fn touch_atime(&self, inode: &Inode, content: &mut Content, now: Timespec) {
        let atime = self.atime(inode.ino, content, inode.btime);
        let mtime = content
            .dirty
            .as_ref()
            .map_or(inode.mtime, |dirty| dirty.mtime);
        let day = i64::try_from(RELATIME_MAX.as_secs()).unwrap_or(i64::MAX);
        if atime <= mtime || atime <= inode.ctime || now.secs.saturating_sub(atime.secs) >= day {
            content.atime = Atime::Changed(now);
        }
    }
}

impl Fs {
    /// Returns the permission bits that a request leads to, where they change.
    fn mode_after(&self, caller: Caller, inode: &Inode, set: &SetAttr) -> Option<u32> {
        let mode = set.mode.map(|mode| mode & 0o7777);
        if mode.is_none() && set.kill_privileges && inode.kind != FileKind::Dir {
            let cleared = self.without_privileges(caller, inode);
            return (cleared != inode.mode).then_some(cleared);
        }
        mode
    }

    /// Returns the mode without setuid, and without setgid where that means a privilege: it is
    /// left to a caller of the group where the group may not execute, as a mark of mandatory
    /// locking from old times.
    pub(super) fn without_privileges(&self, caller: Caller, inode: &Inode) -> u32 {
        let mode = inode.mode & !SETUID;
        if mode & GROUP_EXECUTE == 0 && mode & SETGID != 0 && self.is_member(caller, inode.gid) {
            mode
        } else {
            mode & !SETGID
        }
    }

    /// Returns whether the caller has a group, or the privilege to act as if.
    pub(super) fn is_member(&self, caller: Caller, gid: u32) -> bool {
        let has = |groups: &GroupSource| groups(caller.pid).contains(&gid);
        caller.uid == 0 || caller.gid == gid || self.config.groups.as_ref().is_some_and(has)
    }
}

/// Shows what this mount alone knows about an inode. Without a node that is nothing, and what the
/// visitor adds is not kept: what it finds in the volume is then the state of a moment at which
/// nothing was unwritten.
pub(super) fn with_content<T>(node: Option<Arc<Node>>, visit: impl FnOnce(&mut Content) -> T) -> T {
    match node {
        Some(node) => visit(&mut node.content()),
        None => visit(&mut Content::default()),
    }
}

/// The unit of st_blocks.
const STAT_BLOCK_BYTES: u64 = 512;

/// How old an access time gets before a read moves it in any case.
const RELATIME_MAX: Duration = Duration::from_secs(24 * 3600);
