//! What snapshots name: the chunks of their trees, and the contents that their rows name.
//!
//! Of each node is kept here what it names, so a look at all of them costs no more than there are different
//! ones. Of nodes that others made that is known once they were read ([`Volume::note_node`]); until then
//! nobody here can say what is named.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::base::{ChunkId, ChunkSet, Ino};
use crate::log::checkpoint::Tree;
use crate::store::{Batch, Table};
use crate::volume::checkpoint::tree::{LEVELS_MAX, Node, each_item, is_list, is_newer, list_of};
use crate::volume::rows::{RowKey, Stored, Value};
use crate::volume::types::Source;
use crate::volume::{Result, Volume, VolumeError};

/// Rows of nodes that nothing names any more which go in one batch.
const DROPPED_SLICE: usize = 1024;

/// Trees of snapshots, by root and level: of two that say other things of one root each is looked at.
pub(in crate::volume) type Trees = BTreeMap<(ChunkId, u8), Tree>;

/// Returns how a tree is found among others.
pub(in crate::volume) fn key_of_tree(tree: &Tree) -> (ChunkId, u8) {
    (tree.root, tree.level)
}

/// What was found below some trees.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// All nodes, with how many levels are below each.
    pub(super) nodes: HashSet<(ChunkId, u8)>,
    /// Those of which it is not known what they name.
    pub(super) missing: Vec<Tree>,
}

impl Volume {
    /// Returns nodes of snapshots of which it is not known here yet what they name.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn unread_nodes(&self) -> Result<Vec<Tree>> {
        let mut trees = self.unread.lock().clone();
        trees.extend(self.snapshot_trees()?);
        let walked = self.walk(&trees, &mut |_| {})?;
        if walked.missing.is_empty() {
            self.unread.lock().clear();
        }
        Ok(walked.missing)
    }

    /// Tells whether it is known what all snapshots name that are kept here.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(in crate::volume) fn knows_snapshots(&self) -> Result<bool> {
        let trees = self.snapshot_trees()?;
        let is_known = self.walk(&trees, &mut |_| {})?.missing.is_empty();
        if !is_known {
            *self.unread.lock() = trees;
        }
        Ok(is_known)
    }

    /// Tells whether somebody asked what is named, and that was not known of all snapshots.
    pub fn has_unread_nodes(&self) -> bool {
        !self.unread.lock().is_empty()
    }

    /// Takes note of what a node of a snapshot names. What is no node names nothing, whoever made it.
    ///
    /// # Errors
    ///
    /// [`VolumeError::NewerNode`] where a newer release may find more in it; and the store's.
    pub fn note_node(&self, node: &Tree, plain: &[u8]) -> Result<()> {
        if is_newer(plain) {
            return Err(VolumeError::NewerNode { id: node.root });
        }
        let is_list = node.level > 0;
        let ids = names_of(is_list, plain).unwrap_or_else(|error| {
            tracing::warn!(id = %node.root, %error, "a node of a snapshot is none");
            Vec::new()
        });
        self.put_names(&node.root, is_list, &ids)
    }

    /// Takes note of what a node names that was made here.
    pub(super) fn note_own_node(&self, id: ChunkId, plain: &[u8]) -> Result<()> {
        let is_list = is_list(plain);
        self.put_names(&id, is_list, &names_of(is_list, plain)?)
    }

    fn put_names(&self, node: &ChunkId, is_list: bool, ids: &[ChunkId]) -> Result<()> {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.0).collect();
        let mut batch = Batch::new();
        batch.put(Table::SnapshotNode, key_of(node, is_list), bytes);
        Ok(self.view.rows.commit(batch)?)
    }

    /// Adds what trees name to `named`, and lets go of what is known of other nodes. Of `gone`, which are of
    /// snapshots that were removed, it is what is known of them: others may have given up their nodes, and
    /// removed they are again whenever that is undone.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Busy`] where that is not known of all nodes of `trees`.
    pub(in crate::volume) fn name_snapshots(
        &self,
        trees: &Trees,
        gone: &Trees,
        named: &mut ChunkSet,
    ) -> Result<()> {
        let walked = self.walk(trees, &mut |id| named.insert(id))?;
        // Those of before may be gone by now.
        let is_known = walked.missing.is_empty();
        *self.unread.lock() = match is_known {
            true => Trees::new(),
            false => trees.clone(),
        };
        if !is_known {
            return Err(VolumeError::Busy);
        }
        let of_gone = self.walk(gone, &mut |id| named.insert(id))?;
        let nodes = walked.nodes.iter().chain(&of_gone.nodes);
        let kept: HashSet<[u8; 33]> = nodes.map(|(id, level)| key_of(id, *level > 0)).collect();
        let mut others = Vec::new();
        let rows = &*self.view.rows;
        rows.scan_keys(Table::SnapshotNode, &[], None, &mut |key| {
            if !<[u8; 33]>::try_from(key).is_ok_and(|key| kept.contains(&key)) {
                others.push(key.to_vec());
            }
            ControlFlow::Continue(())
        })?;
        for keys in others.chunks(DROPPED_SLICE) {
            let mut batch = Batch::new();
            keys.iter()
                .for_each(|key| batch.delete(Table::SnapshotNode, key));
            rows.commit(batch)?;
        }
        Ok(())
    }

    /// Calls `each` with what is named below trees, nodes and contents; each node is looked at once.
    pub(super) fn walk(&self, trees: &Trees, each: &mut dyn FnMut(&ChunkId)) -> Result<Walked> {
        let rows = &*self.view.rows;
        let mut walked = Walked::default();
        let mut open: Vec<Tree> = trees.values().copied().collect();
        while let Some(node) = open.pop() {
            // What is deeper than any tree is none.
            if node.level > LEVELS_MAX || !walked.nodes.insert((node.root, node.level)) {
                continue;
            }
            each(&node.root);
            let key = key_of(&node.root, node.level > 0);
            let Some(ids) = rows.get(Table::SnapshotNode, &key)? else {
                walked.missing.push(node);
                continue;
            };
            let ids = ids.as_chunks().0.iter().map(|id| ChunkId(*id));
            match node.level.checked_sub(1) {
                None => ids.for_each(|id| each(&id)),
                Some(level) => open.extend(ids.map(|root| Tree {
                    root,
                    len: 0,
                    level,
                })),
            }
        }
        Ok(walked)
    }
}

/// Returns the key of what a node names: one that a tree calls a leaf may be a list in another.
fn key_of(node: &ChunkId, is_list: bool) -> [u8; 33] {
    let mut key = [u8::from(is_list); 33];
    key.iter_mut().zip(node.0).for_each(|(to, from)| *to = from);
    key
}

/// Returns what a node names: the nodes below a list, the contents of a leaf.
fn names_of(is_list: bool, plain: &[u8]) -> Result<Vec<ChunkId>> {
    match is_list {
        true => Ok(list_of(plain)?.iter().map(Node::id).collect()),
        false => contents_of(plain),
    }
}

/// Returns the contents that the rows of a leaf name.
fn contents_of(plain: &[u8]) -> Result<Vec<ChunkId>> {
    let mut ids = Vec::new();
    let like = RowKey::Extent(Ino(0), 0);
    each_item(plain, &mut |table, _, key, value| {
        // What does not decode is a part of a row, or none: no row that names a chunk is in parts.
        if table == Table::Extent
            && let Ok(key) = RowKey::parse(&like, key)
            && let Ok(row) = Stored::decode(&key, Bytes::copy_from_slice(value))
            && let Value::Extent(extent) = &row.value
            && let Source::Chunk { id, .. } = &extent.src
        {
            ids.push(*id);
        }
        Ok(())
    })?;
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
