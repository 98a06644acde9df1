//! (room)
//! The namespace: rows, ops, their fold in one total order, logs, merge, conflicts.
//!
//! Must never know: FUSE, sockets, how bytes are sealed into chunks.
//!
//! An [`OpKind`] names what its author wanted and saw. A [`Writer`] applies it at once; devices
//! exchange ops in sealed segments and fold them in one order, so that all see one tree.

mod error;
mod op;
mod types;

use std::marker::PhantomData;
use std::ops::Range;

pub use error::VolumeError;
pub use op::{Append, Create, Op, OpKind, Replaced, Write, ino_of};
pub use types::{
    Change, Conflict, ConflictKind, Counts, DirKey, Dirent, Extent, FileKind, Inode, Piece, Place,
    Source,
};

use crate::base::{Ino, OpId};

/// The result type of the room.
pub type Result<T> = std::result::Result<T, VolumeError>;

/// One volume's namespace on this device.
///
/// Reading takes no lock that a writer holds; [`Volume::write`] waits for the one writer.
#[derive(Debug)]
pub struct Volume {}

/// What [`Writer::apply`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The op: the new content version after a write.
    pub id: OpId,
    /// The node made by a create, else the node that the op names.
    pub ino: Ino,
}

/// The one writer: holds its lock until dropped, so that what it checks still holds when it applies.
#[derive(Debug)]
pub struct Writer<'a> {
    _volume: PhantomData<&'a Volume>,
}

macro_rules! reads {
    () => {
        /// Returns an inode; follows a directory that was merged into another.
        pub fn inode(&self, _ino: Ino) -> Result<Option<Inode>> {
            Ok(None)
        }

        /// Returns the entry `name` of a directory.
        pub fn dirent(&self, _parent: Ino, _name: &[u8]) -> Result<Option<Dirent>> {
            Ok(None)
        }

        /// Visits the entries of a directory in its order, those behind `after`; `f` returns false to stop.
        pub fn readdir(
            &self,
            _parent: Ino,
            _after: Option<DirKey>,
            _f: &mut dyn FnMut(DirKey, &Dirent) -> bool,
        ) -> Result<()> {
            Ok(())
        }

        /// Returns the extents that overlap a range of a file, in order, uncut.
        pub fn extents(&self, _ino: Ino, _range: Range<u64>) -> Result<Vec<Extent>> {
            Ok(Vec::new())
        }

        /// Returns the value of an extended attribute.
        pub fn xattr(&self, _ino: Ino, _name: &[u8]) -> Result<Option<bytes::Bytes>> {
            Ok(None)
        }

        /// Returns the names of the extended attributes of a node.
        pub fn xattr_names(&self, _ino: Ino) -> Result<Vec<bytes::Bytes>> {
            Ok(Vec::new())
        }
    };
}

impl Volume {
    reads!();

    /// Waits for the writer's lock.
    pub fn write(&self) -> Writer<'_> {
        Writer {
            _volume: PhantomData,
        }
    }

    /// Says that a local handle of `ino` is open: its rows stay, also after the last unlink.
    pub fn hold(&self, _ino: Ino) {}

    /// Takes back one [`Volume::hold`].
    pub fn release(&self, _ino: Ino) {}

    /// Makes everything applied so far durable.
    pub fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Returns the conflicts, oldest first.
    pub fn conflicts(&self) -> Result<Vec<Conflict>> {
        Ok(Vec::new())
    }

    /// Returns the sums over the volume.
    pub fn counts(&self) -> Counts {
        Counts::default()
    }
}

impl Writer<'_> {
    reads!();

    /// Returns true when `ino` is `dir` or an ancestor of it: what a rename must not move into.
    pub fn is_within(&self, _dir: Ino, _ino: Ino) -> Result<bool> {
        Ok(false)
    }

    /// Applies an op as this device's newest, in one batch. Not durable until [`Volume::sync`].
    ///
    /// The caller has checked what POSIX asks for (existence, emptiness, permissions) under this
    /// writer. An op on a file without a name stays on this device.
    pub fn apply(&mut self, _kind: OpKind) -> Result<Applied> {
        Err(VolumeError::BadOp { what: "not yet" })
    }
}
