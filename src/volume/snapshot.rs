//! Snapshots: what one member saw of the volume at a moment, as a tree of rows that an op names.
//!
//! The tree is made as that of a checkpoint is, of the tables by which files are looked up and read, so what did
//! not change between two is the same chunks. Its nodes are smaller: numbers of files are spread at random, so
//! each file that changed is in leaves of its own. What it was made of stays as long as a row names it that all
//! members share: the chunks of the tree, and the contents that its rows name.

mod named;

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub(super) use self::named::{Trees, key_of_tree};

use super::anew::is_of_private;
use super::checkpoint::tree::{Growing, Item, PutNode, Shared, Sizes};
use super::checkpoint::{NodeSource, TreeRows};
use super::op::{Kept, OpKind, flaw_of_name};
use super::rows::{RowKey, Stored, Value};
use super::view::OP_MAX;
use super::{Result, Volume, VolumeError};
use crate::base::limits::NAME_MAX_BYTES;
use crate::base::{ChunkId, DeviceId, Ino, OpId};
use crate::log::checkpoint::Tree;
use crate::replica::ReplicaError;
use crate::store::{Batch, FrozenRows, Rows, Table, VALUE_MAX_BYTES, codec};

/// How long a snapshot waits for what is being folded.
const FEED_WAIT_MAX: Duration = Duration::from_millis(250);

/// The names of the snapshots that are wanted and not made.
const ASKED_KEY: &[u8] = b"volume/snapshots";

/// The tables by which files are looked up and read: the first and the last of those that stand together.
const TABLES: [(Table, Table); 3] = [
    (Table::Inode, Table::Alias),
    (Table::Volume, Table::Volume),
    (Table::Dated, Table::Dated),
];

/// A snapshot that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The op that made it.
    pub op: OpId,
    /// What people call it: no other has this name.
    pub name: String,
    /// Of which moment it is, milliseconds since 1970.
    pub time_ms: u64,
    /// Who made it.
    pub device: DeviceId,
    /// Where its rows are.
    pub tree: Tree,
    /// Files, directories and other nodes in it.
    pub nodes: u64,
    /// Bytes that the extents of its files cover.
    pub bytes: u64,
}

/// Where a snapshot is to be kept, and how that goes on.
pub trait Keep {
    /// Keeps a node of the tree as a chunk, but where a snapshot names that which is kept.
    fn put(
        &mut self,
        plain: Bytes,
        is_kept: &dyn Fn(&ChunkId) -> bool,
    ) -> std::result::Result<ChunkId, ReplicaError>;

    /// Hears that the moment is chosen: what changes from now on is not in it.
    fn frozen(&mut self);
}

impl Volume {
    /// Returns the snapshots that are kept, oldest first. Where two who had not seen each other gave one name
    /// the later one has a number behind it.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let mut kept = self.kept_snapshots()?;
        kept.sort_unstable_by_key(|(op, _)| *op);
        let mut names = BTreeSet::new();
        let mut snapshots = Vec::with_capacity(kept.len());
        for (op, kept) in kept {
            let name = (1..=u64::MAX)
                .map(|number| numbered(&kept.name, number))
                .find(|name| !names.contains(name));
            let name = name.unwrap_or_else(|| kept.name.clone());
            names.insert(name.clone());
            snapshots.push(Snapshot {
                op,
                name,
                time_ms: kept.time_ms,
                device: self.device_of(op.log),
                tree: kept.tree,
                nodes: kept.nodes,
                bytes: kept.bytes,
            });
        }
        snapshots.sort_by_key(|snapshot| snapshot.time_ms);
        Ok(snapshots)
    }

    /// Returns the rows of a snapshot, which do not change. They are read as they are asked for: what `source`
    /// has not is told by [`crate::store::StoreError::Elsewhere`].
    pub fn snapshot_rows(&self, snapshot: &Snapshot, source: Arc<NodeSource>) -> Arc<dyn Rows> {
        Arc::new(TreeRows::new(snapshot.tree, source))
    }

    /// Makes a snapshot of the rows as they are. Nothing of others is folded meanwhile; own changes go on.
    ///
    /// So all that its rows name is still named somewhere by whoever has not folded it yet: nobody's base line
    /// passes a removal before this machine has folded the record that names it, and that is behind its op.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Busy`] while something is folded, [`VolumeError::BadOp`] for a name that is none; those of
    /// the store and of `keep`.
    pub fn make_snapshot(&self, name: &str, keep: &mut dyn Keep) -> Result<Snapshot> {
        check_name(name)?;
        let feed = self.feed.try_lock_for(FEED_WAIT_MAX);
        let _feed = feed.ok_or(VolumeError::Busy)?;
        // What is here is not the volume yet.
        if self.awaits_checkpoint()? {
            return Err(VolumeError::Busy);
        }
        let (frozen, time_ms) = {
            let _writer = self.write()?;
            let time_ms = self.context.clock.wall_ms();
            (Frozen::of(&*self.view.rows)?, time_ms)
        };
        keep.frozen();
        let before = self.walk(&self.snapshot_trees()?, &mut |_| {})?;
        let mut kept: HashSet<ChunkId> = before.nodes.iter().map(|(id, _)| *id).collect();
        for node in &before.missing {
            kept.remove(&node.root);
        }
        let mut failed = None;
        let mut put = |plain: Bytes| {
            let id = keep.put(plain.clone(), &|id| kept.contains(id))?;
            if kept.insert(id)
                && let Err(error) = self.note_own_node(id, &plain)
            {
                failed.get_or_insert(error);
            }
            Ok(id)
        };
        let (tree, nodes, bytes) = frozen.grow(&mut put)?;
        failed.map_or(Ok(()), Err)?;
        self.config.store.sync()?;
        let kept = Kept {
            name: name.to_owned(),
            time_ms,
            tree,
            nodes,
            bytes,
        };
        let op = self.write()?.apply(OpKind::Snapshot(kept))?.id;
        let made = self.snapshots()?.into_iter().find(|made| made.op == op);
        made.ok_or(VolumeError::Over)
    }

    /// Takes note that a snapshot is wanted, until [`Volume::forget_asked`]; durable on return.
    pub fn ask_snapshot(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.change_asked(&mut |names| names.push(name.to_owned()))?;
        self.sync()
    }

    /// Takes note that it is not wanted any more.
    pub fn forget_asked(&self, name: &str) -> Result<()> {
        self.change_asked(&mut |names| names.retain(|of| of != name))
    }

    /// Returns the names of the snapshots that are wanted.
    pub fn asked_snapshots(&self) -> Result<Vec<String>> {
        match self.view.rows.get(Table::Meta, ASKED_KEY)? {
            Some(names) => Ok(codec::decode(&names, VALUE_MAX_BYTES)?),
            None => Ok(Vec::new()),
        }
    }

    fn change_asked(&self, change: &mut dyn FnMut(&mut Vec<String>)) -> Result<()> {
        let _writer = self.write()?;
        let mut names = self.asked_snapshots()?;
        change(&mut names);
        let mut batch = Batch::new();
        batch.put(Table::Meta, ASKED_KEY, codec::encode(&names));
        Ok(self.view.rows.commit(batch)?)
    }

    /// Lets go of a snapshot.
    pub fn drop_snapshot(&self, op: OpId) -> Result<()> {
        let drop = OpKind::DropSnapshot { snapshot: op };
        self.write()?.apply(drop)?;
        Ok(())
    }

    /// Returns the trees of the snapshots that are kept.
    pub(super) fn snapshot_trees(&self) -> Result<Trees> {
        let kept = self.kept_snapshots()?;
        let trees = kept
            .iter()
            .map(|(_, kept)| (key_of_tree(&kept.tree), kept.tree));
        Ok(trees.collect())
    }

    /// Returns the rows of snapshots.
    fn kept_snapshots(&self) -> Result<Vec<(OpId, Kept)>> {
        let mut kept = Vec::new();
        let (from, to) = (RowKey::Snapshot(OpId::default()), RowKey::Snapshot(OP_MAX));
        self.view.scan(&from, &to, &mut |key, row| {
            if let (RowKey::Snapshot(op), Value::Snapshot(row)) = (key, &row.value) {
                kept.push((op, row.clone()));
            }
            ControlFlow::Continue(())
        })?;
        Ok(kept)
    }
}

fn check_name(name: &str) -> Result<()> {
    let flaw = flaw_of_name(name.as_bytes());
    flaw.map_or(Ok(()), |what| Err(VolumeError::BadOp { what }))
}

/// Returns a name of which there are several: the first one as it is.
fn numbered(name: &str, number: u64) -> String {
    if number == 1 {
        return name.to_owned();
    }
    let end = format!(" ({number})");
    let room = NAME_MAX_BYTES.saturating_sub(end.len());
    let fits = name.char_indices().map(|(at, char)| at + char.len_utf8());
    let len = fits.take_while(|len| *len <= room).last().unwrap_or(0);
    format!("{}{end}", name.get(..len).unwrap_or_default())
}

/// The rows as they were at a moment.
struct Frozen<'a>(Vec<FrozenRows<'a>>);

impl<'a> Frozen<'a> {
    /// Freezes rows; nobody writes meanwhile.
    fn of(rows: &'a dyn Rows) -> Result<Self> {
        let mut frozen = Vec::new();
        for (first, last) in TABLES {
            frozen.push(rows.freeze(first, last)?.ok_or(VolumeError::Busy)?);
        }
        Ok(Self(frozen))
    }

    /// Makes the tree of them; returns it, and how many nodes and bytes of contents are in it.
    fn grow(self, put: &mut PutNode<'_>) -> Result<(Tree, u64, u64)> {
        let mut growing = Growing::new(Sizes::APART, put);
        let (mut nodes, mut bytes) = (0, 0);
        let mut nameless = HashSet::new();
        for row in self.0.into_iter().flatten() {
            let (table, key, value) = row?;
            let ino = key.first_chunk().map(|ino| Ino(u64::from_be_bytes(*ino)));
            let is_of_nameless = |ino: Option<Ino>| ino.is_some_and(|ino| nameless.contains(&ino));
            let mut item = Item {
                table,
                key,
                value,
                shared: Shared::Whole,
            };
            match table {
                _ if is_of_private(table, &item.key) => continue,
                Table::Inode => {
                    let key = RowKey::parse(&RowKey::Inode(Ino(0)), &item.key)?;
                    let row = Stored::decode(&key, item.value.clone().into())?;
                    if let Value::Inode(inode) = &row.value {
                        if inode.is_orphan() {
                            nameless.insert(inode.ino);
                            continue;
                        }
                        nodes += 1;
                        bytes += inode.stored;
                    }
                    item.share(&row.value);
                }
                Table::Extent | Table::Xattr if is_of_nameless(ino) => continue,
                Table::Dirent | Table::Extent | Table::Xattr | Table::Alias => {}
                Table::Volume if RowKey::is_of_link(&item.key) => {}
                Table::Dated => item.shared = Shared::Nothing,
                _ => continue,
            }
            growing.add(&item)?;
        }
        let (tree, _) = growing.end()?;
        Ok((tree, nodes, bytes))
    }
}
