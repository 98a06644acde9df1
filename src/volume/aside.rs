//! What was set aside: the files that this device made or wrote in changes that count nowhere, since it
//! lost the right to write before anybody built on them.
//!
//! Just before such changes are taken back, the files are copied as they are here, with the folders above
//! them, into rows that this machine alone has. They are shown below [`DFS_NAME`] at the top of the volume,
//! which is not listed and is no name of a user's: read-only, but for their owner, who may remove them.
//!
//! A copy is named after the file and the last op that is taken back of it, so that one that is made again
//! after a crash is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::anew::FOLDED;
use super::fold::names::numbered;
use super::op::ino_of;
use super::record::Record;
use super::rows::{Fork, RowKey, Stored, Value, Xattr};
use super::state::State;
use super::types::{Cells, Change, Dirent, Extent, FileKind, Inode, Kin, Place};
use super::view::{DEPTH_MAX, OP_MAX, View, as_inode, xattr_range};
use super::{Result, Volume, VolumeConfig, VolumeError};
use crate::base::{Ino, OpId};
use crate::store::{Batch, BesideRows, StoreError, Table};

/// The name at the top of a volume below which this machine shows what is its own.
pub const DFS_NAME: &[u8] = b".dfs";

/// The name in there of what was set aside.
pub(super) const ASIDE_NAME: &[u8] = b"aside";

/// The numbers of what is this machine's own are those with these bits set, which no op makes.
const ASIDE_BITS: u64 = 0xffff << 47;

/// With this bit, those of what was, as `past_view` shows it.
const PAST_BIT: u64 = 1 << 46;

/// The folder [`DFS_NAME`], and the one in it.
pub(super) const DFS: Ino = Ino(ASIDE_BITS | 1);
const ASIDE: Ino = Ino(ASIDE_BITS | 2);

/// Names tried for one copy.
const NAMES_TRIED_MAX: u32 = 10_000;

/// Bytes of rows that go as one batch.
const STEP_BYTES: usize = 256 << 10;

/// Rows removed in one batch.
const REMOVED_ROWS_MAX: usize = 1024;

/// Rows that are kept decoded: few ever look here.
const CACHE_ROWS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// The rows of what is set aside.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) view: View,
    /// Files, folders not counted.
    files: AtomicU64,
}

/// Tells whether a number is one of this machine's own: of what was set aside, or of what was.
pub fn is_aside(ino: Ino) -> bool {
    ino.0 >> 47 == ASIDE_BITS >> 47
}

/// Tells whether a number is that of [`DFS_NAME`], or of what was.
pub fn is_past(ino: Ino) -> bool {
    ino == DFS || ino.0 >> 46 == (ASIDE_BITS | PAST_BIT) >> 46
}

/// Returns the number of what was that these bits choose.
pub(super) const fn past_number(bits: u64) -> Ino {
    Ino(ASIDE_BITS | PAST_BIT | bits & (PAST_BIT - 1))
}

/// Returns a number that is none of those set aside, as good as the one given.
pub(super) fn not_aside(number: u64) -> u64 {
    match is_aside(Ino(number)) {
        true => number & !(1 << 62),
        false => number,
    }
}

/// Returns the number of a copy.
fn number_of(domain: &[u8], of: Ino, rest: &[u8]) -> Ino {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain);
    hasher.update(&of.0.to_be_bytes());
    hasher.update(rest);
    let mut first = [0u8; 8];
    hasher.finalize_xof().fill(&mut first);
    let number = u64::from_be_bytes(first) & (PAST_BIT - 1);
    Ino(ASIDE_BITS | number.max(16))
}

impl Aside {
    /// Opens what the rows hold.
    pub(super) fn open(config: &VolumeConfig) -> Self {
        let inner = Arc::clone(&config.store.rows);
        let rows = Arc::new(BesideRows::in_table(Table::Aside, inner, FOLDED));
        let (keys, log) = (Arc::clone(&config.keys), Arc::clone(&config.log));
        let view = View::with_cache(rows, keys, log, CACHE_ROWS);
        let mut files = 0;
        let (from, to) = (RowKey::Inode(Ino(0)), RowKey::Inode(Ino(u64::MAX)));
        let counted = view.scan(&from, &to, &mut |_, row| {
            files += u64::from(as_inode(&row).is_ok_and(|inode| !inode.is_dir()));
            ControlFlow::Continue(())
        });
        // Nothing of the volume rests on it.
        if let Err(error) = counted {
            tracing::warn!(%error, "what was set aside cannot be counted");
        }
        Self {
            view,
            files: AtomicU64::new(files),
        }
    }

    fn has(&self, ino: Ino) -> Result<bool> {
        Ok(self.view.row(&RowKey::Inode(ino))?.is_some())
    }

    fn commit(&self, rows: Vec<(RowKey, Option<Value>)>) -> Result<()> {
        let mut batch = Batch::new();
        for (key, value) in rows {
            match value {
                Some(value) => {
                    let bytes = Stored::encode(value).bytes.clone();
                    batch.put_bytes(key.table(), key.bytes(), bytes);
                }
                None => batch.delete(key.table(), key.bytes()),
            }
        }
        self.view.rows.commit(batch)?;
        self.view.forget();
        Ok(())
    }

    /// Puts a node into a folder, last of its rows.
    fn attach(
        &self,
        mut node: Inode,
        dir: Ino,
        name: Bytes,
        changes: &mut Vec<Change>,
    ) -> Result<()> {
        let Some(mut parent) = self.view.inode(dir)? else {
            return Err(VolumeError::NoInode(dir));
        };
        parent.entries += 1;
        parent.nlink += u32::from(node.is_dir());
        node.home = Some(Place {
            parent: dir,
            name: name.clone(),
        });
        let entry = Dirent {
            name: name.clone(),
            ino: node.ino,
            kind: node.kind,
            by: OpId::default(),
        };
        let (is_dir, key) = (node.is_dir(), self.view.dir_key(dir, &name));
        self.commit(vec![
            (RowKey::Inode(node.ino), Some(Value::Inode(node))),
            (RowKey::Dirent(dir, key), Some(Value::Dirent(entry))),
            (RowKey::Inode(dir), Some(Value::Inode(parent))),
        ])?;
        self.files.fetch_add(u64::from(!is_dir), Ordering::Relaxed);
        changes.push(Change::Attr(dir));
        changes.push(Change::Entry {
            parent: dir,
            name,
            gone: None,
        });
        Ok(())
    }

    /// Makes the two folders at the top, as open as the root of the volume.
    fn make_top(&self, root: &Inode, changes: &mut Vec<Change>) -> Result<()> {
        if self.has(ASIDE)? {
            return Ok(());
        }
        let top = Inode {
            home: None,
            ..copy_of(root, DFS)
        };
        self.commit(vec![(RowKey::Inode(DFS), Some(Value::Inode(top)))])?;
        let name = Bytes::from_static(ASIDE_NAME);
        self.attach(copy_of(root, ASIDE), DFS, name, changes)?;
        changes.push(Change::Entry {
            parent: Ino::ROOT,
            name: Bytes::from_static(DFS_NAME),
            gone: None,
        });
        Ok(())
    }
}

/// Returns a node as it is when it is copied: a folder without entries.
pub(super) fn copy_of(node: &Inode, number: Ino) -> Inode {
    Inode {
        ino: number,
        nlink: if node.is_dir() { 2 } else { 1 },
        entries: 0,
        xattrs: if node.is_dir() { 0 } else { node.xattrs },
        origin: None,
        joined: None,
        conflict: None,
        cells: Cells::default(),
        kin: Kin::default(),
        ..node.clone()
    }
}

impl Volume {
    /// Returns how many files are set aside.
    pub fn aside(&self) -> u64 {
        self.aside.files.load(Ordering::Relaxed)
    }

    /// Returns where what a number names is looked up.
    pub(super) fn view_of(&self, ino: Ino) -> &View {
        match is_aside(ino) {
            true => &self.aside.view,
            false => &self.view,
        }
    }

    /// Tells whether anything was set aside, ever.
    pub(super) fn has_aside(&self) -> Result<bool> {
        self.aside.has(DFS)
    }

    /// Copies the files that own ops made or wrote, as they are here, before these ops are taken back.
    /// What cannot be read is left out.
    ///
    /// May take long under the writer's lock: nobody but this device waits for that, and it may not write.
    pub(super) fn keep_aside(&self, ops: impl Iterator<Item = OpId>) -> Result<Vec<Change>> {
        let mut files: BTreeMap<Ino, (OpId, bool)> = BTreeMap::new();
        for id in ops.filter(|id| self.view.device_of(id.log) == self.device) {
            let Some(record) = readable(Record::load(&*self.view.rows, id))?.flatten() else {
                continue;
            };
            if !record.kind.shape().gives() {
                continue;
            }
            let Some(ino) = record.kind.shape().node(|| ino_of(id)) else {
                continue;
            };
            let (last, is_made) = files.entry(ino).or_default();
            *last = id.max(*last);
            *is_made |= record.kind.shape().changes().is_none();
        }
        let mut changes = Vec::new();
        for (ino, (last, is_made)) in files {
            let mut copies = BTreeSet::from([ino]);
            copies.extend(readable(self.forks_of(ino))?.unwrap_or_default());
            for file in copies {
                readable(self.copy_aside(file, last, is_made, &mut changes))?;
            }
        }
        Ok(changes)
    }

    /// Returns the own ops that are folded here, and are not where a merge was made beside, as they count
    /// no more there.
    pub(super) fn lost_beside(
        &self,
        state: &State,
        beside: &Self,
        anew: &State,
    ) -> Result<Vec<OpId>> {
        let mut lost = Vec::new();
        for log in self.config.log.logs_of(self.device) {
            if !anew.is_over(self, log) || state.is_over(self, log) {
                continue;
            }
            for id in self.ops_behind(log, anew.chain.committed.end(log))? {
                if beside.view.rows.get(Table::Op, &id.to_key())?.is_none() {
                    lost.push(id);
                }
            }
        }
        Ok(lost)
    }

    /// Returns the files that contents of a file went to.
    fn forks_of(&self, ino: Ino) -> Result<Vec<Ino>> {
        let mut forks = Vec::new();
        let (from, to) = (
            RowKey::Fork(ino, OpId::default()),
            RowKey::Fork(ino, OP_MAX),
        );
        self.view.scan(&from, &to, &mut |_, row| {
            if let Value::Fork(Fork::File(file)) = &row.value {
                forks.push(*file);
            }
            ControlFlow::Continue(())
        })?;
        Ok(forks)
    }

    fn copy_aside(
        &self,
        ino: Ino,
        last: OpId,
        is_made: bool,
        changes: &mut Vec<Change>,
    ) -> Result<()> {
        let Some(node) = self.view.inode(ino)? else {
            return Ok(());
        };
        // What was emptied lost nothing that others have not.
        let is_nothing = node.kind == FileKind::File && node.size == 0 && !is_made;
        let Some(home) = node.home.clone() else {
            return Ok(());
        };
        if node.is_orphan() || is_nothing {
            return Ok(());
        }
        if let Some(root) = self.view.inode(Ino::ROOT)? {
            self.aside.make_top(&root, changes)?;
        }
        let dir = self.folder_aside(home.parent, changes)?;
        if node.is_dir() {
            self.subfolder_aside(&node, dir, &home.name, changes)?;
            return Ok(());
        }
        let number = number_of(b"dfs aside file 1", node.ino, &last.to_key());
        if self.aside.has(number)? {
            return Ok(());
        }
        self.copy_rows_aside(node.ino, number)?;
        let Some(name) = self.name_aside(dir, &home.name, false)? else {
            return Ok(());
        };
        self.aside
            .attach(copy_of(&node, number), dir, name, changes)
    }

    /// Copies the content of a file and its extended attributes.
    fn copy_rows_aside(&self, from: Ino, to: Ino) -> Result<()> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut failed = Ok(());
        self.view.each_extent(from, 0..u64::MAX, &mut |extent| {
            bytes += size_of::<Extent>() + usize::try_from(extent.len).unwrap_or(usize::MAX);
            let key = RowKey::Extent(to, extent.offset);
            rows.push((key, Some(Value::Extent(extent.clone()))));
            if bytes < STEP_BYTES && rows.len() < REMOVED_ROWS_MAX {
                return ControlFlow::Continue(());
            }
            bytes = 0;
            failed = self.aside.commit(std::mem::take(&mut rows));
            match failed.is_ok() {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        failed?;
        for name in self.view.xattr_names(from)? {
            let key = RowKey::Xattr(to, self.aside.view.dir_key(to, &name));
            if let Some(value) = self.view.xattr(from, &name)? {
                let by = OpId::default();
                rows.push((key, Some(Value::Xattr(Xattr { name, value, by }))));
            }
        }
        self.aside.commit(rows)
    }

    /// Returns the folder that stands for one of the volume, and makes those on the way there.
    fn folder_aside(&self, dir: Ino, changes: &mut Vec<Change>) -> Result<Ino> {
        let mut way = Vec::new();
        let mut at = dir;
        while way.len() < DEPTH_MAX {
            let Some(node) = self.view.inode(at)? else {
                break;
            };
            let Some(home) = node.home.clone().filter(|_| node.ino != Ino::ROOT) else {
                break;
            };
            at = home.parent;
            way.push((node, home.name));
        }
        let mut at = ASIDE;
        for (node, name) in way.into_iter().rev() {
            at = self.subfolder_aside(&node, at, &name, changes)?;
        }
        Ok(at)
    }

    /// Returns the folder of a name in one, and makes it where there is none.
    fn subfolder_aside(
        &self,
        node: &Inode,
        dir: Ino,
        name: &[u8],
        changes: &mut Vec<Change>,
    ) -> Result<Ino> {
        let number = number_of(b"dfs aside folder 1", dir, name);
        if self.aside.has(number)? {
            return Ok(number);
        }
        let Some(name) = self.name_aside(dir, name, true)? else {
            return Ok(dir);
        };
        self.aside
            .attach(copy_of(node, number), dir, name, changes)?;
        Ok(number)
    }

    /// Returns the name that a copy gets in a folder: the one given, or that with a number.
    fn name_aside(&self, dir: Ino, name: &[u8], is_dir: bool) -> Result<Option<Bytes>> {
        for attempt in 1..=NAMES_TRIED_MAX {
            let name = match attempt {
                1 => Bytes::copy_from_slice(name),
                attempt => numbered(name, is_dir, attempt),
            };
            if self.aside.view.dirent(dir, &name)?.is_none() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Removes a file or an empty folder that was set aside; says whether it was there, and may go.
    pub fn remove_aside(&self, dir: Ino, name: &[u8]) -> Result<bool> {
        // Nothing is added in between.
        let _state = self.state.lock();
        let view = &self.aside.view;
        let Some(entry) = view.dirent(dir, name)?.filter(|entry| entry.ino != ASIDE) else {
            return Ok(false);
        };
        let node = view.inode(entry.ino)?.filter(|node| node.entries == 0);
        let (Some(node), Some(mut parent)) = (node, view.inode(dir)?) else {
            return Ok(false);
        };
        parent.entries = parent.entries.saturating_sub(1);
        parent.nlink -= u32::from(node.is_dir() && parent.nlink > 2);
        self.aside.commit(vec![
            (RowKey::Dirent(dir, view.dir_key(dir, name)), None),
            (RowKey::Inode(dir), Some(Value::Inode(parent))),
            (RowKey::Inode(node.ino), None),
        ])?;
        let files = u64::from(!node.is_dir());
        self.aside.files.fetch_sub(files, Ordering::Relaxed);
        loop {
            let mut rows = Vec::new();
            let mut gone = |key| {
                rows.push((key, None));
                match rows.len() < REMOVED_ROWS_MAX {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            };
            let (from, to) = (
                RowKey::Extent(node.ino, 0),
                RowKey::Extent(node.ino, u64::MAX),
            );
            view.scan_keys(&from, &to, &mut gone)?;
            let (from, to) = xattr_range(node.ino);
            view.scan_keys(&from, &to, &mut gone)?;
            if rows.is_empty() {
                return Ok(true);
            }
            self.aside.commit(rows)?;
        }
    }
}

/// Passes errors on but those of damaged rows: what they told is left out.
fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(
            error @ (VolumeError::Corrupt { .. } | VolumeError::Store(StoreError::Corrupt { .. })),
        ) => {
            tracing::warn!(%error, "a file is not set aside");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
