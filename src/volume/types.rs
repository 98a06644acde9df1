//! The rows of the view as the rooms above see them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::{ChunkId, DeviceId, Ino, OpId, Timespec};

mod row;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDev,
    /// A block device.
    BlockDev,
}

/// One name of an inode: the directory that holds it and the bytes of the name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub parent: Ino,
    /// The name in it.
    pub name: Bytes,
}

/// A file, directory or other node: everything but its contents, names and extended attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Its number, the same on every member.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a character or block device, else 0.
    pub rdev: u64,
    /// Bytes of a file; length of the target of a symlink; 0 for others.
    pub size: u64,
    /// Bytes of a file that extents cover: what is not a hole.
    pub stored: u64,
    /// Names of it, as `st_nlink`: 2 + subdirectories for a directory; 0 once removed.
    pub nlink: u32,
    /// Entries of a directory, without `.` and `..`; 0 for others.
    pub entries: u64,
    /// Extended attributes that it has.
    pub xattrs: u32,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of anything.
    pub ctime: Timespec,
    /// Birth.
    pub btime: Timespec,
    /// Target of a symlink.
    pub target: Option<Bytes>,
    /// Names the present content: what a write names as its base. Nearly always the op that made it;
    /// an append that joined what its author had not seen makes content that nobody has seen, under
    /// a name of its own.
    pub version: OpId,
    /// The op that made the present content.
    pub written_by: OpId,
    /// The op that made it.
    pub created_by: OpId,
    /// The file whose losing content it took over, for a conflict file.
    pub origin: Option<Ino>,
    /// Where it is, for a directory and for what has one name; where it was last, for what has
    /// none. With more names: one of them. `None` for the root.
    pub home: Option<Place>,
    /// For a directory that is several in one: the last op that made it so.
    pub joined: Option<OpId>,
    /// The conflict that it has the name that it has from.
    pub conflict: Option<OpId>,
    /// The ops that set its attributes.
    pub cells: Cells,
    /// What it has to do with others that say the same.
    pub kin: Kin,
}

/// What a node has to do with others that say the same: with few there is anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kin(Option<Box<Kindred>>);

/// What is to say of a node with kin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kindred {
    /// The ops that made the present content, each by itself, where that is more than one: those that
    /// nobody has removed.
    pub made: Vec<OpId>,
    /// For what says the same as another node at its place: that stands for both.
    pub twin: Option<Twin>,
    /// The nodes that it stands for, and those that stand aside of it. For a directory those that are a
    /// part of it.
    pub beside: Vec<Ino>,
}

static NO_KIN: Kindred = Kindred {
    made: Vec::new(),
    twin: None,
    beside: Vec::new(),
};

impl std::ops::Deref for Kin {
    type Target = Kindred;

    fn deref(&self) -> &Kindred {
        self.0.as_deref().unwrap_or(&NO_KIN)
    }
}

impl std::ops::DerefMut for Kin {
    fn deref_mut(&mut self) -> &mut Kindred {
        self.0.get_or_insert_default()
    }
}

impl Kin {
    /// Takes out the ops that made the content, which changes.
    pub(super) fn take_made(&mut self) -> Vec<OpId> {
        match &mut self.0 {
            Some(kin) => std::mem::take(&mut kin.made),
            None => Vec::new(),
        }
    }

    /// Lets go of what says nothing, so that equal rows have equal bytes.
    pub(super) fn tidy(&mut self) {
        self.0.take_if(|kin| **kin == NO_KIN);
    }
}

/// An attribute that is set by itself: of two that set it, neither having seen the other, the later
/// one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Field {
    Mode = 1,
    Uid = 2,
    Gid = 4,
    Mtime = 8,
}

/// Which ops set attributes of an inode since it was made, the last of each: with a bit for each
/// [`Field`] that it set last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cells(Vec<(u8, OpId)>);

impl Cells {
    /// Tells whether an op that sets a field comes behind the one that did last.
    pub(super) fn wins(&self, field: Field, id: OpId) -> bool {
        let set = self.0.iter().find(|(fields, _)| fields & field as u8 != 0);
        set.is_none_or(|(_, by)| *by <= id)
    }

    /// Returns the op that set a field last, `created_by` where none has since.
    pub(super) fn by(&self, field: Field, created_by: OpId) -> OpId {
        let set = self.0.iter().find(|(fields, _)| fields & field as u8 != 0);
        set.map_or(created_by, |(_, by)| *by)
    }

    /// Takes over from others which op set a field last; they stand in one order, so that it shows in none
    /// which of them was folded first.
    pub(super) fn take(&mut self, field: Field, from: &Self) {
        self.clear(field);
        let set = from.0.iter().find(|(fields, _)| fields & field as u8 != 0);
        if let Some((_, by)) = set {
            self.put(field, *by);
        }
    }

    fn clear(&mut self, field: Field) {
        for (fields, _) in &mut self.0 {
            *fields &= !(field as u8);
        }
        self.0.retain(|(fields, _)| *fields != 0);
    }

    fn put(&mut self, field: Field, id: OpId) {
        match self.0.binary_search_by_key(&id, |(_, by)| *by) {
            Ok(at) => {
                if let Some((fields, _)) = self.0.get_mut(at) {
                    *fields |= field as u8;
                }
            }
            Err(at) => self.0.insert(at, (field as u8, id)),
        }
    }

    /// Takes note that an op sets a field, where it wins; says whether it does.
    pub(super) fn set(&mut self, field: Field, id: OpId) -> bool {
        if !self.wins(field, id) {
            return false;
        }
        self.clear(field);
        self.put(field, id);
        true
    }
}

/// Says that a node has no name of its own because another one that says the same has it, or went on
/// from what both said. Who had not seen that acts on the node itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    /// The other.
    pub of: Ino,
    /// The op that put it at its place.
    pub by: OpId,
    /// The content of the node, and that of the other when they said the same.
    pub same: (OpId, OpId),
    /// Who had seen these ops had seen that the two are one.
    pub seen: Vec<OpId>,
}

impl Inode {
    /// Returns true for a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Dir
    }

    /// Returns it without its ctime, which is each machine's own, and its mtime, which for a directory may
    /// be one that was taken back with who was removed.
    pub fn without_times(mut self) -> Self {
        (self.mtime, self.ctime) = Default::default();
        self.cells.clear(Field::Mtime);
        self
    }

    /// Returns the content that goes with a name of it, which who removes that states as seen: none where it
    /// has other names.
    pub fn goes_with_a_name(&self) -> OpId {
        match self.nlink > 1 && !self.is_dir() {
            true => OpId::default(),
            false => self.version,
        }
    }

    /// Returns true when no name is left: kept while open, or until no write can bring it back.
    pub fn is_orphan(&self) -> bool {
        self.nlink == 0
    }
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirent {
    /// The name.
    pub name: Bytes,
    /// The inode that it names.
    pub ino: Ino,
    /// What that inode is.
    pub kind: FileKind,
    /// The op that put it here.
    pub by: OpId,
}

/// Where an entry stands in its directory: the keyed hash of its name. The order of a directory,
/// stable under concurrent change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DirKey(pub [u8; 16]);

/// Where bytes of a file are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Here, in the row.
    Inline(Bytes),
    /// In a chunk, from `skip` bytes into its plaintext.
    Chunk {
        /// The sealed chunk.
        id: ChunkId,
        /// Bytes of its plaintext to leave out.
        skip: u32,
    },
}

/// A range of a file that is not a hole. The extents of a file never overlap and lie within its
/// size; no extent is longer than [`crate::base::limits::CHUNK_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes covered; never 0.
    pub len: u64,
    /// Where they are.
    pub src: Source,
}

impl Extent {
    /// Returns the first byte after it.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// A range that a write puts in place of what was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// First byte in the file; for an append, from the start of what is appended.
    pub offset: u64,
    /// Bytes replaced. At most [`crate::base::limits::CHUNK_BYTES`], but for holes.
    pub len: u64,
    /// Where the new bytes are; `None` makes a hole.
    pub src: Option<Source>,
}

/// What a conflict was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConflictKind {
    /// Two things at one name: the later one has a conflict name.
    Name,
    /// Two writes from one version: the losing content is in a file of its own.
    Content,
    /// A removed file was written by somebody who had not seen that: it is back.
    WriteAgainstUnlink,
    /// A removed directory got entries elsewhere: it is back.
    DirRevived,
    /// Directories at one name became one.
    DirsMerged,
    /// A removal of a directory that had got entries elsewhere: it stays.
    RmdirDropped,
    /// A move into its own subtree: dropped.
    CycleDropped,
    /// A file that a rename replaced had been changed elsewhere: it is kept.
    ReplacedKept,
    /// One file moved twice: it is at the later place.
    MovedTwice,
    /// What several appended to one file stands one behind the other.
    Joined,
    /// A removal of a file that had been written elsewhere: it stays.
    UnlinkDropped,
    /// Several removed each another name of a file, the last of them unaware: that one stays.
    LastName,
}

/// A conflict: what crossed, and where both sides are now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The first op of the content that stands aside, else the op at which the two met; names the
    /// conflict.
    pub op: OpId,
    /// What it was about.
    pub kind: ConflictKind,
    /// The inode that kept the place.
    pub ino: Ino,
    /// The place that was contended.
    pub place: Option<Place>,
    /// The inode that stands aside, where there is one.
    pub other: Option<Ino>,
    /// The name that it got beside `place`.
    pub other_name: Option<Bytes>,
    /// Whose side stands aside; where nothing does, who did what does not count, or the author of
    /// the op where that is not known.
    pub device: DeviceId,
    /// True once someone said that it is settled.
    pub resolved: bool,
}

/// What a merge changed in the view: what a kernel cache has to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Attributes of an inode.
    Attr(Ino),
    /// The content of a file, and attributes.
    Content(Ino),
    /// An entry of a directory.
    Entry {
        /// The directory.
        parent: Ino,
        /// The name in it.
        name: Bytes,
        /// The inode that the name no longer names.
        gone: Option<Ino>,
    },
}

/// Sums over the volume, kept as ops are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Inodes, those without a name that are still kept included.
    pub inodes: u64,
    /// Bytes of files that are not holes.
    pub bytes: u64,
    /// Conflicts that nobody has settled.
    pub conflicts: u64,
    /// Ops not yet sealed into a segment.
    pub drafts: u64,
    /// Bytes, holes not counted, of files too large to lie in one row: what chunks hold, and a
    /// little more.
    pub large_bytes: u64,
}
