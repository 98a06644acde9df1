//! POSIX semantics on top of the volume: what a program sees of it.
//!
//! Owns: the inode table (who the kernel knows, `nlookup`), handles, dirty data, readdir cookies,
//! extended attributes, sparse files. Must never know: fuser, the network.
//!
//! Every operation is a plain call that returns plain values. None waits for the network: a read
//! of bytes that are not here returns [`ReadPlan::Wait`], which the caller awaits elsewhere.
//! `flush`, `fsync`, `release` and `sync_all` may take as long as the local disk does.

mod error;
mod read_plan;
mod types;

pub use error::FsError;
pub use read_plan::{PendingRead, ReadPlan};
pub use types::{
    Attr, Attributes, Caller, Capacity, CapacitySource, Created, DirEntry, Entry, Fallocate,
    FileHandle, FileKind, FsConfig, FsCounts, Invalidation, OpenFlags, Opened, RenameMode, Reply,
    Seek, SetAttr, SetTime, StatFs, WriteFlags, XattrMode,
};

use crate::base::Ino;

/// The filesystem over one volume.
#[derive(Debug)]
pub struct Fs {
    config: FsConfig,
}

type Result<T, E = FsError> = std::result::Result<T, E>;

#[expect(
    unused_variables,
    reason = "signatures for the rooms above; bodies follow the volume"
)]
impl Fs {
    /// Returns the settings.
    pub fn config(&self) -> &FsConfig {
        &self.config
    }

    /// Finds a name in a directory; counts one `nlookup`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Entry> {
        Err(FsError::Unsupported)
    }

    /// Takes back `nlookup` lookups of an inode.
    pub fn forget(&self, ino: Ino, nlookup: u64) {}

    /// Returns the attributes of an inode.
    pub fn getattr(&self, ino: Ino) -> Result<Attributes> {
        Err(FsError::Unsupported)
    }

    /// Sets attributes and returns the new ones.
    pub fn setattr(&self, caller: Caller, ino: Ino, set: SetAttr) -> Result<Attributes> {
        Err(FsError::Unsupported)
    }

    /// Returns the target of a symlink.
    pub fn readlink(&self, ino: Ino) -> Result<bytes::Bytes> {
        Err(FsError::Unsupported)
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
        Err(FsError::Unsupported)
    }

    /// Makes a directory.
    pub fn mkdir(&self, caller: Caller, parent: Ino, name: &[u8], mode: u32) -> Result<Entry> {
        Err(FsError::Unsupported)
    }

    /// Makes a symlink.
    pub fn symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry> {
        Err(FsError::Unsupported)
    }

    /// Makes another name of an inode.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Entry> {
        Err(FsError::Unsupported)
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Moves a name.
    pub fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Makes a regular file and opens it; opens what is there unless `flags.exclusive`.
    pub fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
    ) -> Result<Created> {
        Err(FsError::Unsupported)
    }

    /// Opens a regular file.
    pub fn open(&self, caller: Caller, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        Err(FsError::Unsupported)
    }

    /// Reads up to `len` bytes at `offset`.
    pub fn read(&self, ino: Ino, fh: FileHandle, offset: u64, len: usize) -> Result<ReadPlan> {
        Err(FsError::Unsupported)
    }

    /// Writes `data` and returns how many bytes were taken: all of them.
    pub fn write(
        &self,
        ino: Ino,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
    ) -> Result<usize> {
        Err(FsError::Unsupported)
    }

    /// Hands what was written to the journal: called at each close(2).
    pub fn flush(&self, ino: Ino, fh: FileHandle) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Closes a handle.
    pub fn release(&self, ino: Ino, fh: FileHandle) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Returns when what was written to the inode is on this disk.
    pub fn fsync(&self, ino: Ino, fh: FileHandle) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Changes how a range is allocated.
    pub fn fallocate(
        &self,
        caller: Caller,
        ino: Ino,
        fh: FileHandle,
        offset: u64,
        len: u64,
        mode: Fallocate,
    ) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Finds the next data or hole at or after `offset`.
    pub fn lseek(&self, ino: Ino, fh: FileHandle, offset: u64, seek: Seek) -> Result<u64> {
        Err(FsError::Unsupported)
    }

    /// Copies a range within the volume by reference; returns how many bytes, 0 at the end.
    pub fn copy_file_range(
        &self,
        from: (Ino, FileHandle, u64),
        to: (Ino, FileHandle, u64),
        len: u64,
    ) -> Result<u64> {
        Err(FsError::Unsupported)
    }

    /// Opens a directory.
    pub fn opendir(&self, ino: Ino) -> Result<Opened> {
        Err(FsError::Unsupported)
    }

    /// Lists a directory from after `cookie` (0: from the start) until the replier is full.
    pub fn readdir(
        &self,
        ino: Ino,
        fh: FileHandle,
        cookie: u64,
        reply: &mut dyn FnMut(DirEntry<'_>) -> Reply,
    ) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Lists a directory with the attributes of each entry; counts one `nlookup` for each taken.
    pub fn readdirplus(
        &self,
        ino: Ino,
        fh: FileHandle,
        cookie: u64,
        reply: &mut dyn FnMut(DirEntry<'_>) -> Reply,
    ) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Closes a directory.
    pub fn releasedir(&self, ino: Ino, fh: FileHandle) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Returns when all changes of the directory are on this disk.
    pub fn fsyncdir(&self, ino: Ino, fh: FileHandle) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Returns space and counts of the volume.
    pub fn statfs(&self) -> Result<StatFs> {
        Err(FsError::Unsupported)
    }

    /// Sets an extended attribute.
    pub fn setxattr(
        &self,
        caller: Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Returns the value of an extended attribute.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<bytes::Bytes> {
        Err(FsError::Unsupported)
    }

    /// Returns the names of the extended attributes, each ended by a NUL.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        Err(FsError::Unsupported)
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Writes everything dirty and returns when it is on this disk.
    pub fn sync_all(&self) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Writes what has been dirty for `DRAFT_AGE_MAX`; to be called a few times a second.
    pub fn tick(&self) -> Result<()> {
        Err(FsError::Unsupported)
    }

    /// Returns the counts of the tables.
    pub fn counts(&self) -> FsCounts {
        FsCounts::default()
    }
}
