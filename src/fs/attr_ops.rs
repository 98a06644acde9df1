//! Attributes: getattr, setattr, access times.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::atimes::Atime;
use super::dirty::{Body, Dirty};
use super::inode_table::{Content, Node};
use super::{Attr, Attributes, Caller, Entry, FileKind, Fs, FsError, GroupSource, Result, SetAttr};
use crate::base::limits::FILE_MAX_BYTES;
use crate::base::{Ino, Timespec};
use crate::volume::{Inode, OpKind, is_past};

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
        self.check_writable(ino)?;
        let node = self.inodes.node(ino);
        let mut content = node.content();
        let inode = self.inode(ino)?;
        let now = self.now();
        if let Some(size) = set.size {
            check_size(&inode, size)?;
        }
        let is_long = match set.size {
            Some(size) => self.is_cut_long(ino, size)?,
            None => false,
        };
        // That of a file that nobody has open is in the journal when this returns.
        let is_handed_over = set.size.is_some() && self.inodes.opens(ino) == 0;
        let is_whole = is_handed_over && !is_long;
        if is_whole {
            self.commit(&node, &mut content)?;
        }
        let inode = self.inode(ino)?;
        // First what may fail.
        let waits = set.size.is_some() || content.dirty.is_some();
        let mut ops = self.attribute_ops(caller, &inode, &set, waits, now)?;
        if !is_whole {
            self.volume
                .write()?
                .apply_together(std::mem::take(&mut ops))?;
        }
        if let Some(size) = set.size {
            let dirty = self.dirty(&node, &mut content, &inode);
            if size == dirty.size {
                dirty.mtime = now;
            } else {
                dirty.set_size(size);
                dirty.touch(now);
                dirty.is_long |= is_long;
            }
            self.recharge(&mut content);
        }
        if let Some(dirty) = &mut content.dirty {
            dirty.ctime = dirty.ctime.max(now);
            dirty.privileges_clear &= set.mode.is_none();
            if let Some(mtime) = set.mtime {
                dirty.mtime = mtime.at(now);
            }
        }
        if is_whole {
            self.commit_or_forget(&node, &mut content, ops)?;
        } else if is_handed_over {
            drop(content);
            // It is cut; what is left to do is done again where that fails.
            self.write_out_in_background(&node);
            content = node.content();
        }
        if let Some(atime) = set.atime {
            content.atime = Atime::Changed(atime.at(now));
        }
        let inode = self.inode(ino)?;
        let attr = self.attr_with(&inode, &mut content)?;
        drop(content);
        self.inodes.rest(node);
        Ok(self.attributes(attr))
    }

    /// Tells whether to cut a file at `size` takes so much away that it takes a while.
    pub fn is_cut_long(&self, ino: Ino, size: u64) -> Result<bool> {
        let ino = self.file(ino);
        if is_past(ino) {
            return Ok(false);
        }
        let Some(inode) = self.volume.inode(ino)? else {
            return Ok(false);
        };
        if inode.stored == 0 || size >= inode.size {
            return Ok(false);
        }
        Ok(self.volume.light_start(ino, size..inode.size)? > size)
    }

    /// Returns the ops that set attributes; where unwritten changes wait, the times go with them.
    fn attribute_ops(
        &self,
        caller: Caller,
        inode: &Inode,
        set: &SetAttr,
        waits: bool,
        now: Timespec,
    ) -> Result<Vec<OpKind>> {
        let mode = self.mode_after(caller, inode, set);
        let attributes = mode.is_some() || set.uid.is_some() || set.gid.is_some();
        // An empty request still moves ctime.
        if !attributes && waits {
            return Ok(Vec::new());
        }
        let attributes = OpKind::SetAttr {
            ino: self.file(inode.ino),
            mode,
            uid: set.uid,
            gid: set.gid,
            mtime: set.mtime.filter(|_| !waits).map(|mtime| mtime.at(now)),
            ctime: now,
        };
        Ok(vec![attributes])
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
        let number = self.number_of(ino);
        if number != ino {
            let node = self.inodes.remember(number);
            let found = self.attr_of_row(number, node);
            match found {
                Ok(Some(attr)) if attr.ino == ino => {
                    return Ok(Some(self.entry(Attr {
                        ino: number,
                        ..attr
                    })));
                }
                _ => self.forget(number, 1),
            }
            // A file whose own number stands for another is not found under that.
            if self.file(ino) != ino {
                return match found? {
                    _ if self.number_of(ino) != number => self.looked_up(ino),
                    Some(attr) => self.looked_up(attr.ino),
                    None => Ok(None),
                };
            }
        }
        let node = self.inodes.remember(ino);
        if is_past(ino) {
            self.volume.keep_past(ino);
        }
        let found = self.attr_of_row(ino, node);
        match found {
            Ok(Some(attr)) if attr.ino == ino => return Ok(Some(self.entry(attr))),
            _ => self.forget(ino, 1),
        }
        if self.number_of(ino) != number {
            // It got another just now.
            return self.looked_up(ino);
        }
        match found? {
            // A directory that was merged into another: the kernel is to know the other.
            Some(attr) => self.looked_up(attr.ino),
            None => Ok(None),
        }
    }

    /// Returns the attributes under the number that the row has.
    fn attr_of_row(&self, ino: Ino, node: Option<Arc<Node>>) -> Result<Option<Attr>> {
        with_content(node, |content| {
            let (file, inode) = self.volume.undisturbed(ino, || {
                let file = self.file(ino);
                Ok::<_, FsError>((file, self.volume.inode(file)?))
            })?;
            let Some(inode) = inode else {
                return Ok(None);
            };
            let of_row = inode.ino;
            let inode = match file == ino {
                true => inode,
                false => Inode { ino, ..inode },
            };
            let attr = self.attr_with(&inode, content)?;
            Ok(Some(Attr {
                ino: of_row,
                ..attr
            }))
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
            ctime: self.ctime(inode)?,
            btime: inode.btime,
        };
        if let Some(dirty) = &mut content.dirty {
            attr.size = dirty.size;
            attr.mtime = dirty.mtime;
            attr.ctime = dirty.ctime.max(attr.ctime);
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
        if let [all] = &*ranges
            && all.start == 0
            && all.end >= inode.size
        {
            return Ok(added);
        }
        // Where much is hidden, the rest is told when it is written.
        let mut left = HIDDEN_PIECES_MAX;
        let mut is_rough = false;
        let hidden = dirty.hidden.bytes_in(inode.version, ranges, &mut |range| {
            let mut found = Vec::new();
            // Nothing is stored behind the end.
            if range.start >= inode.size {
                return Ok(found);
            }
            // To look and find nothing costs as much as a piece.
            if left == 0 {
                is_rough = true;
                return Ok(found);
            }
            left -= 1;
            self.volume
                .each_extent(self.file(inode.ino), range, &mut |extent| {
                    if left == 0 {
                        is_rough = true;
                        return ControlFlow::Break(());
                    }
                    left -= 1;
                    found.push(extent.offset..extent.end());
                    ControlFlow::Continue(())
                })?;
            Ok::<_, FsError>(found)
        })?;
        dirty.is_rough |= is_rough;
        Ok(inode.stored.saturating_sub(hidden) + added)
    }

    /// Returns the ctime that this machine shows: no earlier than the change was seen here.
    fn ctime(&self, inode: &Inode) -> Result<Timespec> {
        let arrived = self.volume.arrived(self.file(inode.ino))?;
        Ok(arrived.map_or(inode.ctime, |time| time.max(inode.ctime)))
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
        if is_past(inode.ino) {
            return;
        }
        let atime = self.atime(inode.ino, content, inode.btime);
        let mtime = content
            .dirty
            .as_ref()
            .map_or(inode.mtime, |dirty| dirty.mtime);
        let day = i64::try_from(RELATIME_MAX.as_secs()).unwrap_or(i64::MAX);
        // A time that cannot be read moves nothing.
        let ctime = self.ctime(inode).unwrap_or(inode.ctime);
        if atime <= mtime || atime <= ctime || now.secs.saturating_sub(atime.secs) >= day {
            content.atime = Atime::Changed(now);
        }
    }
}

impl Fs {
    /// Returns the permission bits that a request leads to, where they change.
    fn mode_after(&self, caller: Caller, inode: &Inode, set: &SetAttr) -> Option<u32> {
        let mode = set.mode.map(|mode| mode & 0o7777);
        let kills = set.kill_privileges || set.kill_privileges_of_user;
        if mode.is_none() && kills && inode.kind != FileKind::Dir {
            let cleared = self.without_privileges(caller, inode);
            let spared = |fs: &Self| !set.kill_privileges && fs.is_root(caller);
            return (cleared != inode.mode && !spared(self)).then_some(cleared);
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
        let (uid, own) = self.owner_of(caller);
        uid == 0 || own == gid || self.config.groups.as_ref().is_some_and(has)
    }

    /// Returns whether the caller is root. One that cannot be found out is not.
    pub(super) fn is_root(&self, caller: Caller) -> bool {
        self.owner_of(caller).0 == 0
    }

    /// Returns uid and gid of a caller, asking for those that the request does not tell: that takes a
    /// look at the process, and is for what is seldom needed.
    fn owner_of(&self, caller: Caller) -> (u32, u32) {
        if caller.uid != Caller::UNTOLD {
            return (caller.uid, caller.gid);
        }
        let owner = self.config.owner.as_ref();
        let told = owner.and_then(|owner| owner(caller.pid));
        told.unwrap_or((Caller::UNTOLD, Caller::UNTOLD))
    }
}

/// Checks that an inode can have a size.
fn check_size(inode: &Inode, size: u64) -> Result<()> {
    match inode.kind {
        FileKind::File if size > FILE_MAX_BYTES => Err(FsError::FileTooLarge),
        FileKind::File => Ok(()),
        FileKind::Dir => Err(FsError::IsDirectory),
        _ => Err(FsError::Invalid {
            what: "no content to truncate",
        }),
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

/// Most extents that the attributes of a file are worth: a millisecond or two.
const HIDDEN_PIECES_MAX: usize = 256;

/// The unit of st_blocks.
const STAT_BLOCK_BYTES: u64 = 512;

/// How old an access time gets before a read moves it in any case.
const RELATIME_MAX: Duration = Duration::from_secs(24 * 3600);
