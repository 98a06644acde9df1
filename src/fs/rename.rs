//! Rename: moving and swapping names (rename(2) with its flags).

use super::create_ops::{NewNode, check_name, live_dir};
use super::name_ops::{check_empty, place};
use super::{Caller, FileKind, Fs, FsError, RenameMode, Result};
use crate::base::Ino;
use crate::volume::{Inode, OpKind, Replaced, Writer, is_aside};

impl Fs {
    /// Moves a name, replacing what is there as `mode` says.
    ///
    /// A file with unwritten data is written first, so that a program that writes a new version
    /// beside the old one and moves it over never leaves an empty file behind after a crash.
    pub fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> Result<()> {
        self.move_name(from, to, mode, None)
    }

    /// Moves a name and leaves a whiteout in its place (`RENAME_WHITEOUT`): a device with the
    /// number 0, by which an overlay says that what lies below is gone.
    pub fn rename_leaving_whiteout(
        &self,
        caller: Caller,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<()> {
        self.move_name(from, to, mode, Some(caller))
    }

    /// Moves a name; leaves a whiteout of `whiteout` in its place.
    fn move_name(
        &self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        whiteout: Option<Caller>,
    ) -> Result<()> {
        self.check_writable(from.0)?;
        self.check_writable(to.0)?;
        check_name(from.1)?;
        check_name(to.1)?;
        self.commit_before_rename(from)?;
        let mut writer = self.volume.write()?;
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
                return Ok(());
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
                    check_replaceable(&source, target)?;
                    self.keep_if_last_name(target);
                }
            }
        }
        let time = self.now();
        let rename = OpKind::Rename {
            from: place(from.0, from.1),
            to: place(to.0, to.1),
            ino: source.ino,
            replaced: target.map(|target| Replaced {
                ino: target.ino,
                saw: target.goes_with_a_name(),
            }),
            exchange: mode == RenameMode::Exchange,
            time,
        };
        let Some(caller) = whiteout else {
            writer.apply(rename)?;
            return Ok(());
        };
        let dir = live_dir(&writer, from.0)?;
        let node = NewNode::of(FileKind::CharDev, 0);
        let create = self.inherit(&writer, caller, &dir, from.1, node, time)?;
        Ok(writer.apply_together([rename, OpKind::Create(create)])?)
    }

    /// Returns whether what is unwritten of a file at a name keeps its rename waiting: better not on
    /// the thread that answers the kernel.
    pub fn is_rename_slow(&self, parent: Ino, name: &[u8]) -> bool {
        if is_aside(parent) {
            return false;
        }
        let dirent = self.volume.dirent(parent, name).ok().flatten();
        dirent.is_some_and(|dirent| self.is_flush_slow(self.number_of(dirent.ino)))
    }

    fn commit_before_rename(&self, from: (Ino, &[u8])) -> Result<()> {
        let Some(dirent) = self.volume.dirent(from.0, from.1)? else {
            return Err(FsError::NotFound);
        };
        if let Some(node) = self.inodes.known(self.number_of(dirent.ino)) {
            self.write_out(&node)?;
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

fn check_replaceable(source: &Inode, target: &Inode) -> Result<()> {
    match (source.is_dir(), target.is_dir()) {
        (true, false) => Err(FsError::NotDirectory),
        (false, true) => Err(FsError::IsDirectory),
        (true, true) => check_empty(target),
        (false, false) => Ok(()),
    }
}
