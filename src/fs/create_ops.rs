//! Making nodes: create, mknod, mkdir, symlink.

use bytes::Bytes;

use super::attr_ops::{SETGID, with_content};
use super::xattr_ops::decode_acl;
use super::{Attr, Caller, Created, Entry, FileKind, Fs, FsError, OpenFlags, Result};
use crate::base::limits::{NAME_MAX_BYTES, SYMLINK_MAX_BYTES};
use crate::base::{Ino, Timespec};
use crate::volume::{Acl, Create, Inode, OpKind, Place, Writer};

/// What is to be made, before the parent has its say.
pub(super) struct NewNode {
    kind: FileKind,
    mode: u32,
    rdev: u64,
    target: Option<Bytes>,
}

impl Fs {
    /// Makes a regular file and opens it; opens what is there unless `flags.exclusive`.
    pub fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
    ) -> Result<Created> {
        let made = self.make(caller, parent, name, NewNode::of(FileKind::File, mode));
        match made {
            Ok(attr) => {
                // The version that the kernel's empty cache shows is the file's first.
                let node = self.inodes.node(attr.ino);
                let mut content = node.content();
                content.cached = Some(self.inode(attr.ino)?.version);
                drop(content);
                let fh = self.open_handle(attr.ino, flags);
                let opened = super::Opened {
                    fh,
                    keep_cache: true,
                };
                Ok(Created {
                    entry: self.entry(attr),
                    opened,
                })
            }
            Err(FsError::Exists) if !flags.exclusive => {
                let entry = self.lookup(parent, name)?;
                let opened = self.open(caller, entry.attr.ino, flags);
                match opened {
                    Ok(opened) => {
                        // Truncation shows in the attributes.
                        let attr = self.getattr(entry.attr.ino)?.attr;
                        Ok(Created {
                            entry: self.entry(attr),
                            opened,
                        })
                    }
                    Err(error) => {
                        self.forget(entry.attr.ino, 1);
                        Err(error)
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a file, fifo, socket or device node. `mode` has the file type bits.
    pub fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        rdev: u32,
    ) -> Result<Entry> {
        let kind = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => FileKind::File,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            libc::S_IFCHR => FileKind::CharDev,
            libc::S_IFBLK => FileKind::BlockDev,
            _ => return Err(FsError::Invalid { what: "file type" }),
        };
        let mut node = NewNode::of(kind, mode);
        if matches!(kind, FileKind::CharDev | FileKind::BlockDev) {
            node.rdev = u64::from(rdev);
        }
        let attr = self.make(caller, parent, name, node)?;
        Ok(self.entry(attr))
    }

    /// Makes a directory.
    pub fn mkdir(&self, caller: Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Entry> {
        let attr = self.make(caller, parent, name, NewNode::of(FileKind::Dir, mode))?;
        Ok(self.entry(attr))
    }

    /// Makes a symlink to a target of at most 4,095 bytes.
    pub fn symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry> {
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        if target.len() > SYMLINK_MAX_BYTES {
            return Err(FsError::NameTooLong);
        }
        if target.contains(&0) {
            return Err(FsError::Invalid {
                what: "NUL in a symlink",
            });
        }
        let mut node = NewNode::of(FileKind::Symlink, 0o777);
        node.target = Some(Bytes::copy_from_slice(target));
        let attr = self.make(caller, parent, name, node)?;
        Ok(self.entry(attr))
    }

    /// Makes a node and counts one `nlookup` of it.
    fn make(&self, caller: Caller, parent: Ino, name: &[u8], node: NewNode) -> Result<Attr> {
        self.check_writable(parent)?;
        check_name(name)?;
        self.take_room(0, NODE_BYTES)?;
        let time = self.now();
        let mut writer = self.volume.write()?;
        let dir = live_dir(&writer, parent)?;
        if writer.dirent(parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let create = self.inherit(&writer, caller, &dir, name, node, time)?;
        let applied = writer.apply(OpKind::Create(create))?;
        let inode = writer
            .inode(applied.ino)?
            .ok_or(FsError::Stale(applied.ino))?;
        drop(writer);
        let node = self.inodes.remember(inode.ino);
        with_content(node, |content| self.attr_with(&inode, content))
    }

    /// Lets a new node take group, setgid and access control lists from its directory.
    pub(super) fn inherit(
        &self,
        writer: &Writer<'_>,
        caller: Caller,
        dir: &Inode,
        name: &[u8],
        node: NewNode,
        time: Timespec,
    ) -> Result<Create> {
        let mut mode = node.mode & 0o7777;
        let mut gid = caller.gid;
        if dir.mode & SETGID != 0 {
            gid = dir.gid;
            if node.kind == FileKind::Dir {
                mode |= SETGID;
            }
        }
        let mut xattrs = Vec::new();
        let default = match dir.xattrs {
            0 => None,
            _ => writer.xattr(dir.ino, Acl::DEFAULT)?,
        };
        match default {
            // Symlinks have no permissions of their own.
            Some(value) if node.kind != FileKind::Symlink => {
                let mut list = decode_acl(&value)?;
                mode = list.inherit(mode);
                if !list.is_minimal() {
                    xattrs.push((Bytes::from_static(Acl::ACCESS), list.encode().into()));
                }
                if node.kind == FileKind::Dir {
                    xattrs.push((Bytes::from_static(Acl::DEFAULT), value));
                }
            }
            _ if node.kind != FileKind::Symlink => mode &= !(caller.umask & 0o777),
            _ => {}
        }
        Ok(Create {
            at: Place {
                parent: dir.ino,
                name: Bytes::copy_from_slice(name),
            },
            kind: node.kind,
            mode,
            uid: caller.uid,
            gid,
            rdev: node.rdev,
            target: node.target,
            time,
            xattrs,
        })
    }
}

impl NewNode {
    /// Returns a node without device number and target.
    pub(super) fn of(kind: FileKind, mode: u32) -> Self {
        Self {
            kind,
            mode,
            rdev: 0,
            target: None,
        }
    }
}

/// Returns a directory in which something can be made.
pub(super) fn live_dir(writer: &Writer<'_>, ino: Ino) -> Result<Inode> {
    let dir = writer.inode(ino)?.ok_or(FsError::NotFound)?;
    if !dir.is_dir() {
        return Err(FsError::NotDirectory);
    }
    if dir.is_orphan() {
        return Err(FsError::NotFound);
    }
    Ok(dir)
}

/// Checks a name that is to be made, moved or removed.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX_BYTES {
        return Err(FsError::NameTooLong);
    }
    let special = matches!(name, b"" | b"." | b"..");
    if special || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(FsError::Invalid { what: "name" });
    }
    Ok(())
}

/// What the rows of a new node take, about.
const NODE_BYTES: u64 = 1 << 10;
