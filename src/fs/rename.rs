//! Rename: moving and swapping names (rename(2) with its flags).

use super::create_ops::{NewNode, check_name, live_dir};
use super::name_ops::{check_empty, place};
use super::{Caller, FileKind, Fs, FsError, RenameMode, Result};
use crate::base::Ino;
use crate::volume::{Inode, OpKind, Replaced, Writer};

impl Fs {
    /// Moves a name, replacing what is there as `mode` says.
    ///
    /// A file with unwritten data is written first, so that a program that writes a new version
    /// beside the old one and moves it over never leaves an empty file behind after a crash.
    pub fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> Result<()> {
        self.move_name(from, to, mode).map(drop)
    }

    /// Moves a name and leaves a whiteout in its place (`RENAME_WHITEOUT`): a device with the
    /// number 0, by which an overlay says that what lies below is gone.
    ///
    /// Nobody sees the one without the other on this machine; a crash may keep the move alone.
    pub fn rename_leaving_whiteout(
        &self,
        caller: Caller,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<()> {
        let Some(mut writer) = self.move_name(from, to, mode)? else {
            return Ok(());
        };
        let dir = live_dir(&writer, from.0)?;
        let whiteout = NewNode::of(FileKind::CharDev, 0);
        let create = self.inherit(&writer, caller, &dir, from.1, whiteout, self.now())?;
        writer.apply(OpKind::Create(create))?;
        Ok(())
    }

    /// Moves a name; returns the writer that did it, `None` where there was nothing to do.
    fn move_name(
        &self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<Option<Writer<'_>>> {
        self.check_writable()?;
        check_name(from.1)?;
        check_name(to.1)?;
        self.commit_before_rename(from)?;
        let mut writer = self.volume.write();
        let source = inode_at(&writer, from)?.ok_or(FsError::NotFound)?;
        live_dir(&writer, to.0)?;
        let target = inode_at(&writer, to)?;
        match mode {
            RenameMode::NoReplace if target.is_some() => return Err(FsError::Exists),
            RenameMode::Exchange if target.is_none() => return Err(FsError::NotFound),
            _ => {}
        }
        if source.is_dir() && writer.is_within(to.0, source.ino)? {
            return Err(FsError::Invalid {
                what: "a directory moved into itself",
            });
        }
        if let Some(target) = &target {
            if target.ino == source.ino {
                // Two names of one file: rename(2) does nothing.
                return Ok(None);
            }
            match mode {
                RenameMode::Exchange => {
                    if target.is_dir() && writer.is_within(from.0, target.ino)? {
                        return Err(FsError::Invalid {
                            what: "a directory moved into itself",
                        });
                    }
                }
                RenameMode::Replace | RenameMode::NoReplace => {
                    check_replaceable(&writer, &source, target)?;
                    self.keep_if_last_name(target);
                }
            }
        }
        writer.apply(OpKind::Rename {
            from: place(from.0, from.1),
            to: place(to.0, to.1),
            ino: source.ino,
            replaced: target.map(|target| Replaced {
                ino: target.ino,
                saw: target.version,
            }),
            exchange: mode == RenameMode::Exchange,
            time: self.now(),
        })?;
        Ok(Some(writer))
    }

    fn commit_before_rename(&self, from: (Ino, &[u8])) -> Result<()> {
        let Some(dirent) = self.volume.dirent(from.0, from.1)? else {
            return Err(FsError::NotFound);
        };
        if let Some(node) = self.inodes.known(dirent.ino) {
            self.commit(&node, &mut node.content())?;
        }
        Ok(())
    }
}

fn inode_at(writer: &Writer<'_>, (parent, name): (Ino, &[u8])) -> Result<Option<Inode>> {
    match writer.dirent(parent, name)? {
        Some(dirent) => Ok(writer.inode(dirent.ino)?),
        None => Ok(None),
    }
}

fn check_replaceable(writer: &Writer<'_>, source: &Inode, target: &Inode) -> Result<()> {
    match (source.is_dir(), target.is_dir()) {
        (true, false) => Err(FsError::NotDirectory),
        (false, true) => Err(FsError::IsDirectory),
        (true, true) => check_empty(writer, target),
        (false, false) => Ok(()),
    }
}
