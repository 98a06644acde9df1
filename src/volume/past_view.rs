//! What the volume was: its snapshots, read-only, below [`DFS_NAME`] at the top.
//!
//! `snapshots` in there has a folder for each; `at` has, for whatever moment is looked up, a symlink to the
//! newest of those that were made no later. Neither costs anything that nobody looks at.
//!
//! The numbers are this machine's own: made of the snapshot and the number that the node has in it, so that
//! each node has the same one as long as anybody knows it. What a number stands for is remembered while the
//! kernel knows it, and a little longer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;

use super::aside::{ASIDE_NAME, DFS, DFS_NAME, copy_of, is_past, past_number};
use super::checkpoint::NodeSource;
use super::history::PastContent;
use super::rows::RowKey;
use super::snapshot::Snapshot;
use super::types::{Cells, DirKey, Dirent, FileKind, Inode, Kin, Place};
use super::view::View;
use super::{Result, Volume, VolumeError};
use crate::base::{Ino, OpId, Timespec, when};

/// The names in the folder at the top.
const SNAPSHOTS_NAME: &[u8] = b"snapshots";
const AT_NAME: &[u8] = b"at";

/// The folders of these names.
const SNAPSHOTS: Ino = past_number(1);
const AT: Ino = past_number(2);

/// Lower ones are those of the folders.
const NUMBERS_MIN: u64 = 16;

/// Nodes that the kernel does not know and that are remembered all the same: it was told of them just now.
const RECENT_MAX: usize = 4096;

/// Snapshots that stay open though nobody knows a node of them.
const OPEN_MAX: usize = 4;

/// A snapshot that is looked at.
#[derive(Debug)]
struct PastView {
    of: Snapshot,
    /// Made when it is read first.
    view: OnceLock<View>,
}

/// What a volume was, by the numbers that its nodes had and have.
#[derive(Debug)]
pub struct PastVolume(View);

impl PastVolume {
    /// Returns an inode.
    pub fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        self.0.inode(ino)
    }

    /// Returns the entry `name` of a directory.
    pub fn dirent(&self, parent: Ino, name: &[u8]) -> Result<Option<Dirent>> {
        self.0.dirent(parent, name)
    }

    /// Returns the entries of a directory, in its order.
    pub fn entries(&self, parent: Ino) -> Result<Vec<Dirent>> {
        let mut found = Vec::new();
        self.0.readdir(parent, None, &mut |_, entry| {
            found.push(entry.clone());
            true
        })?;
        Ok(found)
    }

    /// Returns what a file held.
    pub fn content(&self, inode: Inode) -> Result<PastContent> {
        let extents = self.0.extents(inode.ino, 0..inode.size)?;
        Ok(PastContent { inode, extents })
    }

    /// Returns the extended attributes of a node.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<(Bytes, Bytes)>> {
        let mut found = Vec::new();
        for name in self.0.xattr_names(ino)? {
            if let Some(value) = self.0.xattr(ino, &name)? {
                found.push((name, value));
            }
        }
        Ok(found)
    }
}

/// What a number stands for.
#[derive(Debug, Clone)]
enum Node {
    /// A node of a snapshot.
    Of(Arc<PastView>, Ino),
    /// The symlink to a snapshot.
    Link(Snapshot),
}

impl Node {
    fn snapshot(&self) -> OpId {
        match self {
            Self::Of(past, _) => past.of.op,
            Self::Link(of) => of.op,
        }
    }

    /// Tells whether two are the same.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Of(_, one), Self::Of(_, other_ino)) => {
                one == other_ino && self.snapshot() == other.snapshot()
            }
            (Self::Link(one), Self::Link(other)) => one.op == other.op,
            _ => false,
        }
    }

    /// Returns the number that it has unless another has it.
    fn number(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"dfs past 1");
        hasher.update(&self.snapshot().to_key());
        if let Self::Of(_, ino) = self {
            hasher.update(&ino.0.to_be_bytes());
        }
        let mut first = [0u8; 8];
        hasher.finalize_xof().fill(&mut first);
        u64::from_be_bytes(first).max(NUMBERS_MIN)
    }
}

/// What is shown of the past.
#[derive(Default)]
pub(super) struct Pasts {
    /// Where their nodes come from.
    source: OnceLock<Arc<NodeSource>>,
    /// A leaf lock.
    nodes: Mutex<Nodes>,
}

impl std::fmt::Debug for Pasts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pasts")
    }
}

#[derive(Default)]
struct Nodes {
    by_number: HashMap<Ino, Slot>,
    /// Those that the kernel may not know, in the order in which they were met.
    recent: VecDeque<Ino>,
    /// Those that were looked at last, the last one at the end.
    open: Vec<Arc<PastView>>,
}

struct Slot {
    node: Node,
    is_known: bool,
}

impl Nodes {
    /// Returns the number of a node, and remembers it for a while.
    fn number(&mut self, node: Node) -> Ino {
        let first = node.number();
        let mut number = past_number(first);
        for probe in 1.. {
            match self.by_number.get(&number) {
                Some(slot) if slot.node.is(&node) => return number,
                Some(_) => number = past_number(first.wrapping_add(probe).max(NUMBERS_MIN)),
                None => break,
            }
        }
        let is_known = false;
        self.by_number.insert(number, Slot { node, is_known });
        self.let_go(number);
        number
    }

    /// Returns a snapshot to look at.
    fn past(&mut self, of: &Snapshot) -> Arc<PastView> {
        let past = match self.open.iter().position(|open| open.of == *of) {
            Some(at) => self.open.remove(at),
            None => Arc::new(PastView {
                of: of.clone(),
                view: OnceLock::new(),
            }),
        };
        self.open.push(Arc::clone(&past));
        if self.open.len() > OPEN_MAX {
            self.open.remove(0);
        }
        past
    }

    /// Forgets what the kernel does not know where there is much of it.
    fn let_go(&mut self, number: Ino) {
        self.recent.push_back(number);
        while self.recent.len() > RECENT_MAX {
            let Some(old) = self.recent.pop_front() else {
                return;
            };
            if self.by_number.get(&old).is_some_and(|slot| !slot.is_known) {
                self.by_number.remove(&old);
            }
        }
    }
}

impl Volume {
    /// Sets where the nodes of snapshots come from; none is shown without. Only the first one set is asked: it may
    /// wait for peers, then and now.
    pub fn show_past(&self, source: Arc<NodeSource>) {
        let _ = self.pasts.source.set(source);
    }

    fn shows_past(&self) -> bool {
        self.pasts.source.get().is_some()
    }

    /// Returns what the volume was in a snapshot.
    pub fn past_volume(&self, of: &Snapshot) -> Result<PastVolume> {
        Ok(PastVolume(self.open_past(of)?))
    }

    /// Returns the view of a snapshot, of which nothing is read yet.
    fn open_past(&self, of: &Snapshot) -> Result<View> {
        let source = self.pasts.source.get();
        let source = source.ok_or(VolumeError::NoInode(SNAPSHOTS))?;
        let rows = self.snapshot_rows(of, Arc::clone(source));
        let (keys, log) = (Arc::clone(&self.config.keys), Arc::clone(&self.config.log));
        Ok(View::of_past(rows, keys, log))
    }

    /// Remembers what a number stands for until [`Volume::forget_past`]: the kernel was told of it.
    pub fn keep_past(&self, number: Ino) {
        if let Some(slot) = self.pasts.nodes.lock().by_number.get_mut(&number) {
            slot.is_known = true;
        }
    }

    /// Says that the kernel has forgotten a number, unless `is_known` says that it got to know it again.
    pub fn forget_past(&self, number: Ino, is_known: impl FnOnce() -> bool) {
        let mut nodes = self.pasts.nodes.lock();
        if let Some(slot) = nodes.by_number.get_mut(&number)
            && !is_known()
        {
            slot.is_known = false;
            // Somebody may be about to tell of it again.
            nodes.let_go(number);
        }
    }

    /// Returns how many nodes of the past are remembered.
    pub fn pasts_known(&self) -> usize {
        self.pasts.nodes.lock().by_number.len()
    }

    /// Returns the rows of a snapshot as they are read.
    fn view_in<'a>(&self, past: &'a PastView) -> Result<&'a View> {
        if let Some(view) = past.view.get() {
            return Ok(view);
        }
        let view = self.open_past(&past.of)?;
        Ok(past.view.get_or_init(|| view))
    }

    /// Returns what a number stands for; nothing where its snapshot is gone.
    fn past_node(&self, number: Ino) -> Result<Option<Node>> {
        let node = match self.pasts.nodes.lock().by_number.get(&number) {
            Some(slot) => slot.node.clone(),
            None => return Ok(None),
        };
        let row = self.view.row(&RowKey::Snapshot(node.snapshot()))?;
        Ok(row.map(|_| node))
    }

    /// Reads what a number names where its rows are. What this machine alone shows has nothing.
    pub(super) fn read_at<T: Default>(
        &self,
        number: Ino,
        read: impl FnOnce(&View, Ino) -> Result<T>,
    ) -> Result<T> {
        if !is_past(number) {
            return read(self.view_of(number), number);
        }
        match self.past_node(number)? {
            Some(Node::Of(past, ino)) => read(self.view_in(&past)?, ino),
            Some(Node::Link(_)) => Ok(T::default()),
            None if is_fleeting(number) => Ok(T::default()),
            // Its snapshot is gone: it has not become empty.
            None => Err(VolumeError::NoInode(number)),
        }
    }

    fn number_in(&self, past: &Arc<PastView>, ino: Ino) -> Ino {
        let node = Node::Of(Arc::clone(past), ino);
        self.pasts.nodes.lock().number(node)
    }

    pub(super) fn past_inode(&self, number: Ino) -> Result<Option<Inode>> {
        if number == DFS || number == SNAPSHOTS || number == AT {
            let Some(root) = self.view.inode(Ino::ROOT)? else {
                return Ok(None);
            };
            return Ok(Some(Inode {
                nlink: if number == DFS { 4 } else { 2 },
                home: match number {
                    DFS => None,
                    AT => Some(place(DFS, AT_NAME)),
                    _ => Some(place(DFS, SNAPSHOTS_NAME)),
                },
                ..copy_of(&root, number)
            }));
        }
        let (past, ino) = match self.past_node(number)? {
            Some(Node::Of(past, ino)) => (past, ino),
            Some(Node::Link(of)) => return self.link_inode(number, &of),
            None => return Ok(None),
        };
        let Some(node) = self.view_in(&past)?.inode(ino)? else {
            return Ok(None);
        };
        let number = match node.ino == ino {
            true => number,
            // Another stands for it.
            false => self.number_in(&past, node.ino),
        };
        let home = match &node.home {
            Some(home) if node.ino != Ino::ROOT => Place {
                parent: self.number_in(&past, home.parent),
                name: home.name.clone(),
            },
            _ => place(SNAPSHOTS, past.of.name.as_bytes()),
        };
        Ok(Some(Inode {
            ino: number,
            home: Some(home),
            origin: None,
            joined: None,
            conflict: None,
            cells: Cells::default(),
            kin: Kin::default(),
            ..node
        }))
    }

    fn link_inode(&self, number: Ino, of: &Snapshot) -> Result<Option<Inode>> {
        let Some(root) = self.view.inode(Ino::ROOT)? else {
            return Ok(None);
        };
        let target = [b"../", SNAPSHOTS_NAME, b"/", of.name.as_bytes()].concat();
        let ms = of.time_ms;
        let time = Timespec {
            secs: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            nanos: (ms % 1000) as u32 * 1_000_000,
        };
        Ok(Some(Inode {
            kind: FileKind::Symlink,
            mode: 0o777,
            nlink: 1,
            xattrs: 0,
            size: target.len() as u64,
            target: Some(Bytes::from(target)),
            mtime: time,
            ctime: time,
            btime: time,
            home: Some(place(AT, of.name.as_bytes())),
            ..copy_of(&root, number)
        }))
    }

    /// Returns the entry at the top below which this machine shows what is its own, where there is any.
    pub(super) fn top_of_own(&self) -> Result<Option<Dirent>> {
        let is_there = self.shows_past() || self.has_aside()?;
        Ok(is_there.then(|| folder(DFS_NAME, DFS)))
    }

    pub(super) fn past_dirent(&self, parent: Ino, name: &[u8]) -> Result<Option<Dirent>> {
        if parent == DFS {
            return match name {
                SNAPSHOTS_NAME if self.shows_past() => Ok(Some(folder(name, SNAPSHOTS))),
                AT_NAME if self.shows_past() => Ok(Some(folder(name, AT))),
                name => self.view_of(DFS).dirent(DFS, name),
            };
        }
        if parent == SNAPSHOTS || parent == AT {
            let all = self.snapshots()?;
            if parent == SNAPSHOTS {
                let found = all.iter().find(|past| past.name.as_bytes() == name);
                return Ok(found.map(|past| self.past_entry(past)));
            }
            let moment = str::from_utf8(name).ok().and_then(when::parse);
            let Some(of) = moment.and_then(|moment| newest_at(all, moment)) else {
                return Ok(None);
            };
            let ino = self.pasts.nodes.lock().number(Node::Link(of));
            return Ok(Some(Dirent {
                kind: FileKind::Symlink,
                ..folder(name, ino)
            }));
        }
        let Some(Node::Of(past, dir)) = self.past_node(parent)? else {
            return Ok(None);
        };
        let Some(found) = self.view_in(&past)?.dirent(dir, name)? else {
            return Ok(None);
        };
        let ino = self.number_in(&past, found.ino);
        Ok(Some(Dirent { ino, ..found }))
    }

    /// Returns the entry of a snapshot.
    fn past_entry(&self, of: &Snapshot) -> Dirent {
        let past = self.pasts.nodes.lock().past(of);
        folder(of.name.as_bytes(), self.number_in(&past, Ino::ROOT))
    }

    pub(super) fn past_readdir(
        &self,
        parent: Ino,
        after: Option<DirKey>,
        f: &mut dyn FnMut(DirKey, &Dirent) -> bool,
    ) -> Result<()> {
        let mut found = Vec::new();
        match parent {
            AT => return Ok(()),
            DFS => {
                for name in [ASIDE_NAME, AT_NAME, SNAPSHOTS_NAME] {
                    found.extend(self.past_dirent(DFS, name)?);
                }
            }
            SNAPSHOTS => {
                for past in self.snapshots()? {
                    found.push(self.past_entry(&past));
                }
            }
            _ => {
                let Some(Node::Of(past, dir)) = self.past_node(parent)? else {
                    // Its snapshot is gone: it has not become empty.
                    return Err(VolumeError::NoInode(parent));
                };
                return self.view_in(&past)?.readdir(dir, after, &mut |key, entry| {
                    let ino = self.number_in(&past, entry.ino);
                    f(
                        key,
                        &Dirent {
                            ino,
                            ..entry.clone()
                        },
                    )
                });
            }
        }
        let key = |entry: &Dirent| self.view.dir_key(parent, &entry.name);
        let mut found: Vec<_> = found.iter().map(|entry| (key(entry), entry)).collect();
        found.sort_unstable_by_key(|(key, _)| *key);
        found
            .into_iter()
            .filter(|(key, _)| after.is_none_or(|after| *key > after))
            .all(|(key, entry)| f(key, entry));
        Ok(())
    }
}

/// Tells whether what a folder shows is to be asked for anew each time: others may make snapshots.
pub fn is_fleeting(dir: Ino) -> bool {
    dir == DFS || dir == SNAPSHOTS || dir == AT
}

/// Returns the newest that is no newer than a moment.
fn newest_at(all: Vec<Snapshot>, moment_ms: u64) -> Option<Snapshot> {
    let fit = all.into_iter().filter(|past| past.time_ms <= moment_ms);
    fit.max_by_key(|past| (past.time_ms, past.op))
}

fn place(parent: Ino, name: &[u8]) -> Place {
    Place {
        parent,
        name: Bytes::copy_from_slice(name),
    }
}

fn folder(name: &[u8], ino: Ino) -> Dirent {
    Dirent {
        name: Bytes::copy_from_slice(name),
        ino,
        kind: FileKind::Dir,
        by: OpId::default(),
    }
}
