//! POSIX semantics on top of the volume: what a program sees of it.
//!
//! Owns: the inode table (who the kernel knows, `nlookup`), handles, dirty data, readdir cookies,
//! extended attributes, sparse files, where locks are asked for. Must never know: fuser, the network.
//!
//! Every operation is a plain call that returns plain values. None waits for the network: a read
//! of bytes that are not here returns [`ReadPlan::Wait`], which the caller awaits elsewhere.
//! `flush`, `fsync`, `release`, `tick` and `sync_all` may take as long as the local disk does.
//!
//! Where this cannot do what a local filesystem does stands in docs/semantics.md.
//!
//! Lock order: the contents of inodes by ascending number, then the volume's writer, then the
//! tables, which are leaves. No lock is held while bytes are fetched.

mod atimes;
mod attr_ops;
mod commit;
mod contents;
mod cookies;
mod create_ops;
mod cuts;
mod departed;
mod dirty;
mod error;
mod file_ops;
mod handles;
mod inode_table;
mod invalidate;
mod kept;
mod layout;
mod lineage;
mod name_ops;
mod read_plan;
mod readdir;
mod rename;
mod restore;
mod restore_to;
mod room;
mod sparse;
mod twins;
mod types;
mod write;
mod xattr_ops;

pub use error::FsError;
pub use read_plan::{PendingRead, ReadPlan};
pub use restore::{Restored, Way};
pub use restore_to::Brought;
pub use types::{
    Attr, Attributes, Caller, Capacity, CapacitySource, Created, DirEntry, Entry, Fallocate,
    FileHandle, FsConfig, FsCounts, GroupSource, Invalidation, OpenFlags, Opened, OwnRoom,
    OwnerSource, RenameMode, Replicated, ReplicationWait, Reply, RoomSource, Seek, SetAttr,
    SetTime, Sought, StatFs, WriteFlags, XattrMode,
};

pub use crate::volume::FileKind;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use self::atimes::{Atime, Atimes};
use self::contents::Contents;
use self::cuts::Cuts;
use self::departed::Departed;
use self::handles::Handles;
use self::inode_table::{Dropped, InodeTable};
use self::kept::Kept;
use self::room::Room;
use crate::base::{Clock, Ino, OpId, Timespec};
use crate::data::Data;
use crate::locks::Desk;
use crate::volume::{Inode, OpKind, Volume, is_aside, is_past};

type Result<T, E = FsError> = std::result::Result<T, E>;

/// The filesystem over one volume.
pub struct Fs {
    volume: Arc<Volume>,
    contents: Contents,
    clock: Arc<dyn Clock>,
    config: FsConfig,
    read_only: AtomicBool,
    inodes: InodeTable,
    handles: Handles,
    locks: Desk,
    atimes: Atimes,
    kept: Kept,
    departed: Departed,
    cuts: Cuts,
    /// Whether an fsync waits for other holders, where it was told how to.
    waits_for_holders: AtomicBool,
    room: Room,
    /// Bytes that all dirty data is charged with.
    dirty_bytes: AtomicU64,
    /// What local commits changed behind the kernel's back. A leaf lock.
    invalid: Mutex<Vec<Invalidation>>,
}

impl std::fmt::Debug for Fs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fs")
            .field("config", &self.config)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl Fs {
    /// Returns the filesystem over an open volume.
    pub fn new(
        volume: Arc<Volume>,
        data: Arc<Data>,
        clock: Arc<dyn Clock>,
        config: FsConfig,
    ) -> Self {
        let locks_clock = Arc::clone(&clock);
        let fs = Self {
            volume,
            contents: Contents::new(data),
            clock,
            atimes: Atimes::open(config.rows.clone()),
            kept: Kept::default(),
            departed: Departed::default(),
            cuts: Cuts::default(),
            read_only: AtomicBool::new(config.read_only),
            config,
            inodes: InodeTable::default(),
            handles: Handles::default(),
            locks: Desk::new(locks_clock),
            waits_for_holders: AtomicBool::new(true),
            room: Room::default(),
            dirty_bytes: AtomicU64::new(0),
            invalid: Mutex::default(),
        };
        fs.note_superfluous();
        fs
    }

    /// Returns the settings.
    pub fn config(&self) -> &FsConfig {
        &self.config
    }

    /// Returns where locks are asked for.
    pub fn locks(&self) -> &Desk {
        &self.locks
    }

    /// Returns the volume that this filesystem shows.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Returns space and counts of the volume. Never waits for anybody.
    pub fn statfs(&self) -> Result<StatFs> {
        let counts = self.volume.counts();
        let capacity = match &self.config.capacity {
            Some(source) => source(),
            None => Capacity {
                total_bytes: counts.bytes.saturating_add(UNKNOWN_FREE_BYTES),
                free_bytes: UNKNOWN_FREE_BYTES,
            },
        };
        let block = u64::from(BLOCK_BYTES);
        let blocks_free = capacity.free_bytes / block;
        Ok(StatFs {
            block_bytes: BLOCK_BYTES,
            blocks: capacity.total_bytes / block,
            blocks_free,
            // A node needs no place set aside: as many fit as there are blocks.
            files: counts.inodes.saturating_add(blocks_free),
            files_free: blocks_free,
            name_bytes_max: crate::base::limits::NAME_MAX_BYTES as u32,
        })
    }

    /// Returns the counts of the tables.
    pub fn counts(&self) -> FsCounts {
        let (inodes, nlookup, dirty_inodes) = self.inodes.counts();
        FsCounts {
            inodes,
            nlookup,
            handles: self.handles.count(),
            dirty_inodes,
            dirty_bytes: self.dirty_bytes.load(Ordering::Relaxed),
        }
    }

    /// Sets how many inodes the kernel may keep without using them; the first limit stays.
    ///
    /// `crowded` is called, under no lock, by who looks an inode up when there are more or nearly
    /// so: often, and it must not wait for anything.
    pub fn limit_inodes(&self, most: usize, crowded: impl Fn() + Send + Sync + 'static) {
        self.inodes.limit(most, Box::new(crowded));
    }

    /// Returns whether the kernel has more inodes than the limit.
    pub fn has_too_many_inodes(&self) -> bool {
        self.inodes.excess() > 0
    }

    /// Returns inodes that the kernel may let go, those first that it did not ask for lately; none
    /// while there are not too many.
    pub fn spare_inodes(&self) -> Vec<Ino> {
        self.inodes.spare(self.inodes.excess())
    }

    /// Returns whether the kernel has an inode.
    pub fn knows_inode(&self, ino: Ino) -> bool {
        self.inodes.is_known(ino)
    }

    /// Returns the inodes whose numbers lie in a range, in the order in which they were made. The
    /// range is to be as small as not to hold many.
    pub fn inodes_within(&self, range: &RangeInclusive<u64>) -> Result<Vec<Ino>> {
        let mut found = self.volume.inodes_within(range)?;
        if found.len() > 1 {
            let mut made = Vec::with_capacity(found.len());
            for ino in found {
                if let Some(inode) = self.volume.inode(ino)? {
                    made.push((inode.created_by, ino));
                }
            }
            made.sort_unstable();
            found = made.into_iter().map(|(_, ino)| ino).collect();
        }
        Ok(found)
    }

    /// Returns how many bytes of a file are written and not yet in the volume.
    pub fn unwritten_bytes(&self, ino: Ino) -> u64 {
        let node = self.inodes.known(ino);
        node.map_or(0, |node| {
            let content = node.content();
            content
                .dirty
                .as_ref()
                .map_or(0, |dirty| dirty.fragments.memory_bytes())
        })
    }

    fn now(&self) -> Timespec {
        self.clock.wall()
    }

    /// Checks that what a number names may be changed.
    fn check_writable(&self, ino: Ino) -> Result<()> {
        if self.is_read_only() || is_aside(ino) {
            return Err(FsError::ReadOnly);
        }
        Ok(())
    }

    /// Refuses every change from now on, or refuses none but where the settings say so. What was
    /// taken before still goes to the journal.
    pub fn set_read_only(&self, read_only: bool) {
        self.read_only
            .store(read_only || self.config.read_only, Ordering::Relaxed);
    }

    /// Takes a conflict off the list: both sides of it stay.
    ///
    /// # Errors
    ///
    /// [`FsError::ReadOnly`] where changes are refused; else those of the store.
    pub fn settle_conflict(&self, conflict: OpId) -> Result<()> {
        self.check_writable(Ino::ROOT)?;
        self.volume.write()?.apply(OpKind::Resolve { conflict })?;
        Ok(())
    }

    /// Returns whether changes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Returns an inode under the number by which the kernel knows it: that of a directory which
    /// was merged into another, of an unlinked file that is changed in private, or of a file that was
    /// written here while open and stands aside.
    fn inode(&self, ino: Ino) -> Result<Inode> {
        self.volume.undisturbed(ino, || self.inode_as_is(ino))
    }

    /// Returns an inode as [`Fs::inode`] does, for who sees to it that no merge is in between.
    fn inode_as_is(&self, ino: Ino) -> Result<Inode> {
        let inode = self.volume.inode(self.file(ino))?;
        let inode = inode.ok_or(FsError::Stale(ino))?;
        Ok(Inode { ino, ..inode })
    }

    /// Returns the file, as ops and rows name it, that a number of the kernel stands for.
    fn file(&self, number: Ino) -> Ino {
        self.volume.file_of(number)
    }

    /// Gives back what was kept for an inode that left the table.
    fn retire(&self, dropped: Option<Dropped>) {
        if let Some(dropped) = dropped {
            let atime = match &dropped.node {
                Some(node) => node.content().atime,
                None => Atime::Unknown,
            };
            self.retire_with(&dropped, atime);
        }
    }

    /// Gives back what was kept for an inode whose content the caller may have locked.
    fn retire_with(&self, dropped: &Dropped, atime: Atime) {
        if is_past(dropped.ino) {
            let is_known = || self.inodes.is_known(dropped.ino);
            self.volume.forget_past(dropped.ino, is_known);
        }
        self.save_atime(dropped.ino, atime);
        if dropped.held {
            self.volume.release(dropped.ino);
        }
        let is_known = || self.inodes.is_known(dropped.ino);
        self.volume.forget_number(dropped.ino, is_known);
    }
}

/// The unit of statfs(2).
const BLOCK_BYTES: u32 = 4096;

/// Shown as free where nobody told the capacity: 1 TiB.
const UNKNOWN_FREE_BYTES: u64 = 1 << 40;
