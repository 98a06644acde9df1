//! What the model is compared with: anything that can do the operations of a filesystem.

use std::collections::BTreeMap;

pub use rustix::io::Errno;

use super::content::Ranges;

/// The result of an operation as a program sees it.
pub type Outcome<T = ()> = Result<T, Errno>;

/// Nanoseconds since 1970.
pub type Nanos = i128;

/// The names that lead from the root to a node; none for the root itself.
pub type Path = [Vec<u8>];

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The directory.
    pub dir: &'a Path,
    /// The name.
    pub name: &'a [u8],
}

/// What is operated on: by path or through a handle.
#[derive(Debug)]
pub enum Subject<'a, F> {
    /// The node at a path; a symlink is not followed.
    Path(&'a Path),
    /// An open file.
    Open(&'a F),
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symlink.
    Symlink,
    /// A fifo.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDev,
    /// A block device.
    BlockDev,
}

/// What stat(2) tells, access time left out: reading moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The inode number.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Number of links.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space in units of 512 bytes.
    pub blocks: u64,
    /// Last change of the content.
    pub mtime: Nanos,
    /// Last change of content or attributes.
    pub ctime: Nanos,
}

/// How a file is opened, beside for reading and writing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags {
    /// `O_TRUNC`.
    pub truncate: bool,
    /// `O_APPEND`.
    pub append: bool,
    /// `O_EXCL`, with `O_CREAT`.
    pub exclusive: bool,
}

/// The number of the user without privileges, and of the only group that he has.
pub const USER: u32 = 1000;

/// The flags of renameat2(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renaming {
    /// None.
    Replace,
    /// `RENAME_NOREPLACE`.
    NoReplace,
    /// `RENAME_EXCHANGE`.
    Exchange,
    /// `RENAME_WHITEOUT`.
    Whiteout,
}

/// The modes of fallocate(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// `FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`.
    Punch,
    /// `FALLOC_FL_ZERO_RANGE`, and whether with `FALLOC_FL_KEEP_SIZE`.
    Zero(bool),
    /// 0, or `FALLOC_FL_KEEP_SIZE`.
    Reserve(bool),
}

/// The flags of setxattr(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrSet {
    /// 0.
    Either,
    /// `XATTR_CREATE`.
    Create,
    /// `XATTR_REPLACE`.
    Replace,
}

/// A time for utimensat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// `UTIME_OMIT`.
    Omit,
    /// `UTIME_NOW`.
    Now,
    /// This time.
    At(Nanos),
}

/// An entry of a listing.
pub type Listed = (Vec<u8>, u64, Kind);

/// A filesystem that can be driven: the rooms in this process, or a mount by system calls.
///
/// The caller is root with a umask of [`UMASK`]. What an operation means and how it fails is what
/// Linux says of a local filesystem.
pub trait Executor {
    /// An open file, readable and writable unless opened for looking.
    type File: std::fmt::Debug;
    /// An open directory.
    type Dir;

    /// Lets time pass before an operation, where time is simulated.
    fn begin(&mut self) {}
    /// Ends an operation; tells whether it may have failed for want of room, or because an earlier
    /// one in the background did: then nothing was changed.
    fn end(&mut self) -> bool {
        false
    }
    /// Returns the time: operations that come later have times that are not before it.
    fn now(&self) -> Nanos;

    /// open(2) with `O_CREAT`.
    fn create(&mut self, at: Place<'_>, mode: u32, flags: Flags) -> Outcome<Self::File>;
    /// open(2) for reading and writing.
    fn open(&mut self, path: &Path, flags: Flags) -> Outcome<Self::File>;
    /// open(2) for reading alone.
    fn open_to_look(&mut self, path: &Path) -> Outcome<Self::File>;
    /// close(2).
    fn close(&mut self, file: Self::File) -> Outcome;
    /// mknod(2); `rdev` as makedev(3) says.
    fn mknod(&mut self, at: Place<'_>, kind: Kind, mode: u32, rdev: u32) -> Outcome;
    /// mkdir(2).
    fn mkdir(&mut self, at: Place<'_>, mode: u32) -> Outcome;
    /// symlink(2).
    fn symlink(&mut self, at: Place<'_>, target: &[u8]) -> Outcome;
    /// link(2); a symlink is not followed.
    fn link(&mut self, path: &Path, at: Place<'_>) -> Outcome;
    /// unlink(2).
    fn unlink(&mut self, at: Place<'_>) -> Outcome;
    /// rmdir(2).
    fn rmdir(&mut self, at: Place<'_>) -> Outcome;
    /// Lets a user without privileges ([`USER`]) change contents from now on, or root again.
    ///
    /// # Errors
    ///
    /// Where only root can.
    fn become_user(&mut self, _is_user: bool) -> Outcome {
        Err(Errno::PERM)
    }

    /// renameat2(2).
    fn rename(&mut self, from: Place<'_>, to: Place<'_>, how: Renaming) -> Outcome;

    /// pwritev2(2) of all of `data`, with `RWF_DSYNC` where it is to be `durable`.
    fn write(&mut self, file: &Self::File, at: u64, data: &[u8], durable: bool) -> Outcome;
    /// truncate(2) or ftruncate(2).
    fn truncate(&mut self, subject: Subject<'_, Self::File>, size: u64) -> Outcome;
    /// fallocate(2).
    fn allocate(&mut self, file: &Self::File, at: u64, len: u64, how: Allocate) -> Outcome;
    /// copy_file_range(2), again until it has all or fails; returns how many bytes.
    fn copy(&mut self, from: (&Self::File, u64), to: (&Self::File, u64), len: u64) -> Outcome<u64>;
    /// What close(2) of another descriptor of the same open file does.
    fn flush(&mut self, file: &Self::File) -> Outcome;
    /// fsync(2), or fdatasync(2).
    fn fsync(&mut self, file: &Self::File, data_only: bool) -> Outcome;
    /// fsync(2) of a directory.
    fn fsync_dir(&mut self, path: &Path) -> Outcome;
    /// syncfs(2); tells whether that covers what was written to open files and neither closed nor
    /// synced.
    fn sync(&mut self) -> Outcome<bool>;

    /// chmod(2).
    fn chmod(&mut self, subject: Subject<'_, Self::File>, mode: u32) -> Outcome;
    /// lchown(2); `None` leaves one alone.
    fn chown(
        &mut self,
        subject: Subject<'_, Self::File>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Outcome;
    /// utimensat(2).
    fn utimes(
        &mut self,
        subject: Subject<'_, Self::File>,
        atime: SetTime,
        mtime: SetTime,
    ) -> Outcome;
    /// lsetxattr(2).
    fn set_xattr(
        &mut self,
        subject: Subject<'_, Self::File>,
        name: &[u8],
        value: &[u8],
        how: XattrSet,
    ) -> Outcome;
    /// lremovexattr(2).
    fn remove_xattr(&mut self, subject: Subject<'_, Self::File>, name: &[u8]) -> Outcome;

    /// lstat(2).
    fn stat(&mut self, subject: Subject<'_, Self::File>) -> Outcome<Attr>;
    /// All extended attributes.
    fn xattrs(&mut self, subject: Subject<'_, Self::File>) -> Outcome<BTreeMap<Vec<u8>, Vec<u8>>>;
    /// readlink(2).
    fn read_link(&mut self, path: &Path) -> Outcome<Vec<u8>>;
    /// The whole content.
    fn read(&mut self, file: &Self::File) -> Outcome<Vec<u8>>;
    /// Where data is in a file of this size, by lseek(2) with `SEEK_DATA` and `SEEK_HOLE`.
    fn data_ranges(&mut self, file: &Self::File, size: u64) -> Outcome<Ranges>;

    /// opendir(3).
    fn open_dir(&mut self, path: &Path) -> Outcome<Self::Dir>;
    /// Some further entries, none at the end.
    fn read_dir(&mut self, dir: &mut Self::Dir) -> Outcome<Vec<Listed>>;
    /// closedir(3).
    fn close_dir(&mut self, dir: Self::Dir) -> Outcome;

    /// What the daemon does about twice a second.
    fn tick(&mut self) -> Outcome {
        Ok(())
    }
    /// Hands what was changed to the other members.
    fn publish(&mut self) -> Outcome {
        Ok(())
    }
    /// Ends in order and begins again. No handle is open.
    fn remount(&mut self) -> Outcome;
    /// Ends by SIGKILL and begins again. The handles are those that were open.
    fn kill(&mut self, files: Vec<Self::File>, dirs: Vec<Self::Dir>) -> Outcome;
    /// Loses power and begins again; of what was never synced a prefix is kept.
    fn cut_power(&mut self, files: Vec<Self::File>, dirs: Vec<Self::Dir>) -> Outcome;
    /// Checks what else must hold between operations.
    fn check(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// The umask of the caller.
pub const UMASK: u32 = 0o022;
