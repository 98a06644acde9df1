//! Plain values that cross the room's border: what callers pass in and what they get back.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Ino, Timespec};
use crate::store::Rows;
use crate::volume::FileKind;

/// Names an open file or folder; valid from open to release, never reused while the mount lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileHandle(pub u64);

/// Says on whose behalf an operation is done.
///
/// Permissions are the kernel's business (`default_permissions`): these decide only who owns what
/// is created and which privileges a change clears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller {
    /// The filesystem uid of the process, or [`Caller::UNTOLD`].
    pub uid: u32,
    /// The filesystem gid of the process, or [`Caller::UNTOLD`].
    pub gid: u32,
    /// The process, 0 where the kernel itself asks (writeback).
    pub pid: u32,
    /// The umask to apply to the mode of what is created. 0 where the kernel has applied it.
    pub umask: u32,
}

impl Caller {
    /// The uid and the gid of a caller that the request does not tell.
    pub const UNTOLD: u32 = u32::MAX;
}

/// The attributes of an inode as stat(2) shows them, unwritten changes included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: `mode & 0o7777`.
    pub mode: u32,
    /// Number of links; 0 for what is unlinked and still open.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as `makedev` encodes it.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Allocated space in units of 512 bytes: holes do not count.
    pub blocks: u64,
    /// Last access; local to this machine.
    pub atime: Timespec,
    /// Last change of the content.
    pub mtime: Timespec,
    /// Last change of content or attributes.
    pub ctime: Timespec,
    /// Creation.
    pub btime: Timespec,
}

/// What a lookup found. Each one handed to the kernel counts one `nlookup`, until forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The attributes; `attr.ino` is the node id.
    pub attr: Attr,
    /// The generation of the inode number. Numbers are never reused, so it is always 0.
    pub generation: u64,
    /// How long the kernel may trust the name.
    pub entry_ttl: Duration,
    /// How long the kernel may trust the attributes.
    pub attr_ttl: Duration,
}

/// The attributes of an inode and how long the kernel may trust them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// The attributes.
    pub attr: Attr,
    /// How long the kernel may trust them.
    pub ttl: Duration,
}

/// An opened file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The handle, to be given back to `release` or `releasedir`.
    pub fh: FileHandle,
    /// The kernel may keep the pages that it cached before this open: the content is the same.
    pub keep_cache: bool,
}

/// A created and opened file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// The new entry; counts one `nlookup`.
    pub entry: Entry,
    /// The open handle.
    pub opened: Opened,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags {
    /// Readable: `O_RDONLY` or `O_RDWR`.
    pub read: bool,
    /// Writable: `O_WRONLY` or `O_RDWR`.
    pub write: bool,
    /// `O_APPEND`.
    pub append: bool,
    /// `O_TRUNC`, where the kernel leaves it to the filesystem.
    pub truncate: bool,
    /// `O_EXCL`, for `create`.
    pub exclusive: bool,
    /// `O_SYNC` or `O_DSYNC`: a write returns when it is on disk.
    pub sync: bool,
    /// `O_NOATIME`: reads leave the access time alone.
    pub noatime: bool,
}

impl OpenFlags {
    /// Returns whether a handle that is opened so can change the content.
    pub fn changes_content(self) -> bool {
        self.write || self.truncate
    }

    /// Returns the meaning of the flags of open(2).
    pub fn from_raw(flags: i32) -> Self {
        let access = flags & libc::O_ACCMODE;
        Self {
            read: access != libc::O_WRONLY,
            write: access != libc::O_RDONLY,
            append: flags & libc::O_APPEND != 0,
            truncate: flags & libc::O_TRUNC != 0,
            exclusive: flags & libc::O_EXCL != 0,
            // O_SYNC contains the bit of O_DSYNC.
            sync: flags & libc::O_DSYNC != 0,
            noatime: flags & libc::O_NOATIME != 0,
        }
    }
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the operation.
    Now,
    /// This time.
    At(Timespec),
}

impl SetTime {
    /// Returns the time meant at `now`.
    pub(super) fn at(self, now: Timespec) -> Timespec {
        match self {
            Self::Now => now,
            Self::At(time) => time,
        }
    }
}

/// Attributes to set; `None` leaves a field alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits; the file type bits are ignored.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size: truncates or extends by a hole.
    pub size: Option<u64>,
    /// Access time; kept on this machine.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Through which handle, where the caller has the file open.
    pub fh: Option<FileHandle>,
    /// Clears setuid and setgid as a change of owner does. The kernel asks for it only with
    /// FUSE_HANDLE_KILLPRIV; else it sends the new mode.
    pub kill_privileges: bool,
    /// Clears them unless the caller is root, as a truncation does.
    pub kill_privileges_of_user: bool,
}

/// How a write came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteFlags {
    /// Clears setuid and setgid for this writer, who is not privileged (FUSE_WRITE_KILL_SUIDGID).
    pub kill_privileges: Option<Caller>,
    /// Dirty pages of the kernel's cache: the offset stands even for an `O_APPEND` handle
    /// (FUSE_WRITE_CACHE).
    pub from_cache: bool,
    /// `O_APPEND` as the descriptor has it now, since fcntl(2) can change it; `None`: as it was
    /// opened.
    pub append: Option<bool>,
    /// The write returns when it is on disk, as for a handle with `O_DSYNC`: `RWF_DSYNC` asks for
    /// it by the call.
    pub sync: bool,
}

/// How rename treats an existing target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RenameMode {
    /// Replaces it.
    #[default]
    Replace,
    /// Fails with [`super::FsError::Exists`] (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swaps the two (`RENAME_EXCHANGE`).
    Exchange,
}

/// What fallocate(2) does to its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallocate {
    /// Extends the file to the end of the range; `keep_size` leaves it as it is.
    Reserve {
        /// `FALLOC_FL_KEEP_SIZE`.
        keep_size: bool,
    },
    /// Makes the range a hole; the size stays (`FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`).
    PunchHole,
    /// Makes the range read as zeros, extending the file unless `keep_size`
    /// (`FALLOC_FL_ZERO_RANGE`).
    ZeroRange {
        /// `FALLOC_FL_KEEP_SIZE`.
        keep_size: bool,
    },
}

impl Fallocate {
    /// Returns the meaning of the mode of fallocate(2); `None` for what is not supported.
    pub fn from_raw(mode: i32) -> Option<Self> {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Some(Self::Reserve { keep_size }),
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => Some(Self::PunchHole),
            libc::FALLOC_FL_ZERO_RANGE => Some(Self::ZeroRange { keep_size }),
            _ => None,
        }
    }
}

/// What lseek(2) looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

/// How far a search of lseek(2) came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    /// There it is.
    Found(u64),
    /// Not up to here.
    Further(u64),
}

/// How setxattr(2) treats an existing attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XattrMode {
    /// Creates or replaces.
    #[default]
    Either,
    /// Fails with [`super::FsError::Exists`] where it exists (`XATTR_CREATE`).
    Create,
    /// Fails with [`super::FsError::NoAttribute`] where it does not (`XATTR_REPLACE`).
    Replace,
}

impl XattrMode {
    /// Returns the meaning of the flags of setxattr(2); `None` for what is not known.
    pub fn from_raw(flags: i32) -> Option<Self> {
        match flags {
            0 => Some(Self::Either),
            libc::XATTR_CREATE => Some(Self::Create),
            libc::XATTR_REPLACE => Some(Self::Replace),
            _ => None,
        }
    }
}

/// One entry of a directory, as `readdir` hands it to its replier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// The name.
    pub name: &'a [u8],
    /// Where to go on after this entry: 1 to 2^63-1, stable while others change the directory.
    pub cookie: u64,
    /// The full entry, in `readdirplus` alone and not for `.` and `..`. One `nlookup` is
    /// counted where the replier took it.
    pub entry: Option<Entry>,
}

/// What a directory replier says to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The entry is in the reply.
    Taken,
    /// The reply is full; the entry is not in it.
    Full,
}

/// Space and counts of the volume, for statfs(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Unit of the block counts, in bytes.
    pub block_bytes: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes that may still be made.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_bytes_max: u32,
}

/// Capacity of the swarm over the number of copies, as the daemon last measured it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes of content that fit in all.
    pub total_bytes: u64,
    /// Bytes of content that still fit.
    pub free_bytes: u64,
}

/// What this machine still takes of contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnRoom {
    /// What its disk takes; what is here only because it was read is not counted as free.
    pub disk_bytes: u64,
    /// What this peer gives, less all that it holds.
    pub allowed_bytes: u64,
}

/// Tells what this machine takes, without waiting for anybody.
pub trait RoomSource: Send + Sync {
    /// Returns what it still takes.
    fn own(&self) -> OwnRoom;
}

/// Tells the supplementary groups of a process, which requests do not carry.
pub type GroupSource = Arc<dyn Fn(u32) -> Vec<u32> + Send + Sync>;

/// Tells owner and group for files of a process, which not all requests carry.
pub type OwnerSource = Arc<dyn Fn(u32) -> Option<(u32, u32)> + Send + Sync>;

/// Tells the capacity of the volume without waiting for anybody.
pub type CapacitySource = Arc<dyn Fn() -> Capacity + Send + Sync>;

/// Returns what resolves, not later than a deadline of its own, when all that is durable here is
/// replicated.
pub type ReplicationWait = Arc<dyn Fn() -> Replicated + Send + Sync>;

/// Resolves when something is replicated, or says why it is not.
pub type Replicated = Pin<Box<dyn Future<Output = Result<(), super::FsError>> + Send>>;

/// Settings of the filesystem.
#[derive(Clone)]
pub struct FsConfig {
    /// How long the kernel may trust a name. Long: remote changes invalidate what they touch.
    pub entry_ttl: Duration,
    /// How long the kernel may trust attributes. Long, for the same reason.
    pub attr_ttl: Duration,
    /// How long the kernel may trust that a name does not exist.
    pub negative_ttl: Duration,
    /// Most bytes of unwritten data in memory, over all files.
    pub dirty_bytes_max: u64,
    /// Refuses every change with [`super::FsError::ReadOnly`].
    pub read_only: bool,
    /// How long a read waits for bytes that are not here.
    pub fetch_timeout: Duration,
    /// Waits until what was made durable here is on other holders' disks too, or says why it is
    /// not: what fsync does beyond this machine's disk, where that is asked for.
    pub replicated: Option<ReplicationWait>,
    /// The state folder of this peer, told as the extended attribute `user.dfs.state`: how a
    /// program in the mount finds its daemon.
    pub state: Option<PathBuf>,
    /// Tells the groups of a caller beside its own; `None`: there are none.
    pub groups: Option<GroupSource>,
    /// Tells owner and group of a caller that a request does not say; `None`: nobody knows.
    pub owner: Option<OwnerSource>,
    /// Tells the capacity for `statfs`; `None` shows a round number.
    pub capacity: Option<CapacitySource>,
    /// Tells what this machine still takes; `None`: whatever its disk does.
    pub room: Option<Arc<dyn RoomSource>>,
    /// Where access times are kept over a remount; `None` forgets them with the inode.
    pub rows: Option<Arc<dyn Rows>>,
}

impl Default for FsConfig {
    fn default() -> Self {
        Self {
            entry_ttl: TTL,
            attr_ttl: TTL,
            negative_ttl: TTL,
            dirty_bytes_max: DIRTY_BYTES_MAX,
            read_only: false,
            fetch_timeout: crate::base::limits::FETCH_TIMEOUT,
            replicated: None,
            state: None,
            groups: None,
            owner: None,
            capacity: None,
            room: None,
            rows: None,
        }
    }
}

impl std::fmt::Debug for FsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FsConfig")
            .field("entry_ttl", &self.entry_ttl)
            .field("attr_ttl", &self.attr_ttl)
            .field("dirty_bytes_max", &self.dirty_bytes_max)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

/// What the kernel must drop from its caches after a remote change.
///
/// Sent by a thread of its own, never from a handler: the kernel may wait for locks that an
/// unanswered request holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalidation {
    /// The attributes of an inode.
    Attr(Ino),
    /// The attributes and the cached pages of an inode.
    Content(Ino),
    /// A name in a directory: found anew at the next lookup.
    Entry {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// A name of a directory that is elsewhere now: what works in it or is mounted below it goes along,
    /// where the kernel finds it there before it drops the name.
    Moved {
        /// The directory that it was in.
        parent: Ino,
        /// The name that it had.
        name: Vec<u8>,
        /// The directory.
        child: Ino,
        /// The directory that it is in.
        to: Ino,
        /// The path to it from the root of the mount.
        path: Vec<u8>,
    },
    /// A name that is gone, with what it named: also tells inotify.
    Delete {
        /// The directory.
        parent: Ino,
        /// What the name stood for.
        child: Ino,
        /// The name.
        name: Vec<u8>,
    },
}

/// Counts that show whether the tables follow the kernel: all return to (nearly) zero when it
/// forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsCounts {
    /// Inodes that the kernel holds.
    pub inodes: usize,
    /// Sum of their `nlookup`.
    pub nlookup: u64,
    /// Open handles.
    pub handles: usize,
    /// Inodes with unwritten data.
    pub dirty_inodes: usize,
    /// Bytes of unwritten data.
    pub dirty_bytes: u64,
}

/// An hour: the kernel is told of remote changes, the limit only bounds a lost notice.
const TTL: Duration = Duration::from_secs(3600);

/// 64 MiB: a quarter second of the fastest sequential writer, and small against any machine.
const DIRTY_BYTES_MAX: u64 = 64 << 20;
