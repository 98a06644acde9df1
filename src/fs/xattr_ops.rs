//! Extended attributes (xattr(7)).
//!
//! Stored as given: `user.`, `trusted.`, `security.` and the two access control lists, whose mode
//! bits are kept in step. `user.dfs.` is virtual: readable by name, never listed, never set.

use bytes::Bytes;

use super::attr_ops::SETGID;
use super::{Caller, FileKind, Fs, FsError, Result, XattrMode};
use crate::base::limits::{XATTR_LIST_MAX_BYTES, XATTR_NAME_MAX_BYTES, XATTR_VALUE_MAX_BYTES};
use crate::base::{Ino, Timespec};
use crate::volume::{Acl, Inode, OpKind, Writer};

impl Fs {
    /// Sets an extended attribute.
    pub fn setxattr(
        &self,
        caller: Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        self.check_writable(ino)?;
        let mut writer = self.volume.write()?;
        let ino = self.file(ino);
        let inode = writer.inode(ino)?.ok_or(FsError::Stale(ino))?;
        check_settable(&inode, name)?;
        if value.len() > XATTR_VALUE_MAX_BYTES {
            return Err(FsError::AttributeTooLarge);
        }
        let exists = writer.xattr(ino, name)?.is_some();
        match mode {
            XattrMode::Create if exists => return Err(FsError::Exists),
            XattrMode::Replace if !exists => return Err(FsError::NoAttribute),
            _ => {}
        }
        if !exists {
            check_list_room(&writer, &inode, name)?;
        }
        let time = self.now();
        if name == Acl::ACCESS || name == Acl::DEFAULT {
            let keeps_setgid = self.is_member(caller, inode.gid);
            return set_acl(
                &mut writer,
                &inode,
                name,
                (value, exists),
                keeps_setgid,
                time,
            );
        }
        set(&mut writer, ino, name, value, time)
    }

    /// Returns the value of an extended attribute.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes> {
        let inode = self.inode(ino)?;
        if let Some(key) = name.strip_prefix(VIRTUAL) {
            return self.virtual_xattr(&inode, key);
        }
        check_namespace(name)?;
        if inode.xattrs == 0 {
            return Err(FsError::NoAttribute);
        }
        self.volume
            .xattr(self.file(ino), name)?
            .ok_or(FsError::NoAttribute)
    }

    /// Returns the names of the extended attributes that the caller may see, each ended by a NUL.
    ///
    /// The kernel guards the values of `trusted.` and leaves their names to the filesystem: they
    /// are root's to see.
    pub fn listxattr(&self, caller: Caller, ino: Ino) -> Result<Vec<u8>> {
        let mut list = Vec::new();
        if self.inode(ino)?.xattrs == 0 {
            return Ok(list);
        }
        let names = self.volume.xattr_names(self.file(ino))?;
        let some_trusted = names.iter().any(|name| name.starts_with(TRUSTED));
        let shows_trusted = some_trusted && self.is_root(caller);
        for name in names {
            if name.starts_with(TRUSTED) && !shows_trusted {
                continue;
            }
            // What two devices set apart can be more than a list can say: once some are removed,
            // the others show.
            if list.len() + name.len() < XATTR_LIST_MAX_BYTES {
                list.extend_from_slice(&name);
                list.push(0);
            }
        }
        Ok(list)
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.check_writable(ino)?;
        let mut writer = self.volume.write()?;
        let ino = self.file(ino);
        let inode = writer.inode(ino)?.ok_or(FsError::Stale(ino))?;
        check_settable(&inode, name)?;
        if writer.xattr(ino, name)?.is_none() {
            // There always is a list: the mode bits, where nothing else is.
            return match name {
                Acl::ACCESS | Acl::DEFAULT => Ok(()),
                _ => Err(FsError::NoAttribute),
            };
        }
        remove(&mut writer, ino, name, self.now())
    }

    /// Returns what removes file capabilities before an unprivileged write, as Linux does; `None`
    /// where there are none.
    pub(super) fn without_capability(&self, ino: Ino, time: Timespec) -> Result<Option<OpKind>> {
        let ino = self.file(ino);
        let capability = self.volume.xattr(ino, CAPABILITY)?;
        Ok(capability.map(|_| removal(ino, CAPABILITY, time)))
    }

    fn virtual_xattr(&self, inode: &Inode, key: &[u8]) -> Result<Bytes> {
        let node = self.inodes.known(inode.ino);
        let dirty = node.is_some_and(|node| node.content().dirty.is_some());
        let text = match key {
            b"ino" => self.file(inode.ino).to_string(),
            b"version" => crate::base::id::to_hex(&inode.version.to_key()),
            b"author" => format!("{:016x}", self.volume.device_of(inode.written_by.log).0),
            b"stored" => inode.stored.to_string(),
            b"dirty" => u8::from(dirty).to_string(),
            b"state" => {
                use std::os::unix::ffi::OsStrExt;
                let state = self.config.state.as_ref().ok_or(FsError::NoAttribute)?;
                return Ok(Bytes::copy_from_slice(state.as_os_str().as_bytes()));
            }
            _ => return Err(FsError::NoAttribute),
        };
        Ok(Bytes::from(text))
    }
}

fn set(writer: &mut Writer<'_>, ino: Ino, name: &[u8], value: &[u8], time: Timespec) -> Result<()> {
    writer.apply(setting(ino, name, value, time))?;
    Ok(())
}

fn setting(ino: Ino, name: &[u8], value: &[u8], time: Timespec) -> OpKind {
    OpKind::SetXattr {
        ino,
        name: Bytes::copy_from_slice(name),
        value: Bytes::copy_from_slice(value),
        time,
    }
}

fn remove(writer: &mut Writer<'_>, ino: Ino, name: &[u8], time: Timespec) -> Result<()> {
    writer.apply(removal(ino, name, time))?;
    Ok(())
}

fn removal(ino: Ino, name: &[u8], time: Timespec) -> OpKind {
    OpKind::RemoveXattr {
        ino,
        name: Bytes::copy_from_slice(name),
        time,
    }
}

/// Returns the list that an attribute's value encodes.
pub(super) fn decode_acl(value: &[u8]) -> Result<Acl> {
    if Acl::is_foreign(value) {
        return Err(FsError::Unsupported);
    }
    Acl::decode(value).ok_or(FsError::Invalid {
        what: "malformed access control list",
    })
}

/// Sets a list and the mode bits that it implies, both or none. One that says no more than mode
/// bits do is not stored. A setgid bit goes where the caller has not the group, as with chmod(2).
fn set_acl(
    writer: &mut Writer<'_>,
    inode: &Inode,
    name: &[u8],
    (value, exists): (&[u8], bool),
    keeps_setgid: bool,
    time: Timespec,
) -> Result<()> {
    let list = decode_acl(value)?;
    let is_access = name == Acl::ACCESS;
    let mut mode = inode.mode;
    if is_access && !list.is_empty() {
        mode = list.apply_to(mode);
        if !keeps_setgid {
            mode &= !SETGID;
        }
    }
    let mode = (mode != inode.mode).then(|| OpKind::SetAttr {
        ino: inode.ino,
        mode: Some(mode),
        uid: None,
        gid: None,
        mtime: None,
        ctime: time,
    });
    let says_nothing = match is_access {
        true => list.is_minimal(),
        false => list.is_empty(),
    };
    let stored = match (says_nothing, exists) {
        (false, _) => Some(setting(inode.ino, name, value, time)),
        (true, true) => Some(removal(inode.ino, name, time)),
        (true, false) => None,
    };
    writer.apply_together(mode.into_iter().chain(stored))?;
    Ok(())
}

/// Checks that all names fit a list with one more: what listxattr(2) cannot tell, nobody can copy
/// or clean up.
fn check_list_room(writer: &Writer<'_>, inode: &Inode, name: &[u8]) -> Result<()> {
    // Most nodes have few, and need not be looked at.
    let longest = XATTR_NAME_MAX_BYTES + 1;
    if (inode.xattrs as usize + 1) * longest <= XATTR_LIST_MAX_BYTES {
        return Ok(());
    }
    let names = writer.xattr_names(inode.ino)?;
    let used: usize = names.iter().map(|name| name.len() + 1).sum();
    match used + name.len() < XATTR_LIST_MAX_BYTES {
        true => Ok(()),
        false => Err(FsError::NoSpace),
    }
}

fn check_settable(inode: &Inode, name: &[u8]) -> Result<()> {
    if name.len() > XATTR_NAME_MAX_BYTES {
        return Err(FsError::Range);
    }
    if name.starts_with(VIRTUAL) {
        return Err(FsError::NotPermitted);
    }
    check_namespace(name)?;
    match name {
        Acl::ACCESS if inode.kind == FileKind::Symlink => Err(FsError::Unsupported),
        Acl::DEFAULT if !inode.is_dir() => Err(FsError::Access),
        // Those of special files and symlinks would be writable by anyone.
        _ if name.starts_with(USER) && !matches!(inode.kind, FileKind::File | FileKind::Dir) => {
            Err(FsError::NotPermitted)
        }
        _ => Ok(()),
    }
}

/// Checks that a name is one that an attribute can have.
fn check_namespace(name: &[u8]) -> Result<()> {
    if matches!(name, Acl::ACCESS | Acl::DEFAULT) {
        return Ok(());
    }
    let mut prefixes = [USER, TRUSTED, SECURITY].into_iter();
    match prefixes.find_map(|prefix| name.strip_prefix(prefix)) {
        Some(b"") => Err(FsError::Invalid {
            what: "an attribute without a name",
        }),
        Some(_) => Ok(()),
        None => Err(FsError::Unsupported),
    }
}

/// The namespaces of attributes that are stored as given.
const USER: &[u8] = b"user.";
const TRUSTED: &[u8] = b"trusted.";
const SECURITY: &[u8] = b"security.";

/// The namespace of what dfs itself says about a file.
const VIRTUAL: &[u8] = b"user.dfs.";

/// File capabilities (capabilities(7)).
const CAPABILITY: &[u8] = b"security.capability";
