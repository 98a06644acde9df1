//! The tree of a checkpoint: rows in their order, cut into leaves, and lists of nodes up to one root.
//!
//! Each node is a chunk. Where a leaf ends is decided by the key of its last row, so leaves of which no row
//! changed are the same chunks in the next tree. A row that is longer than a leaf takes goes in several
//! items. A list says with which row each of its nodes begins, so one way down finds a row.

use std::io::Write as _;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::base::ChunkId;
use crate::base::limits::CHUNK_BYTES;
use crate::log::checkpoint::Tree;
use crate::replica::ReplicaError;
use crate::store::{KEY_MAX_BYTES, Table, VALUE_MAX_BYTES, codec};
use crate::volume::{Result, VolumeError};

/// Called with the plaintext of each node, which it keeps as a chunk.
pub(in crate::volume) type PutNode<'a> =
    dyn FnMut(Bytes) -> std::result::Result<ChunkId, ReplicaError> + 'a;

/// Called for the plaintext of a node; `None` where it is not here.
pub type GetNode<'a> = dyn FnMut(&ChunkId) -> std::result::Result<Option<Bytes>, ReplicaError> + 'a;

/// How large the nodes of a tree are.
#[derive(Debug, Clone, Copy)]
pub(in crate::volume) struct Sizes {
    /// The least and the greatest leaf, in bytes.
    leaf_min: usize,
    leaf_max: usize,
    /// How seldom a row ends one.
    leaf_end_mask: u64,
    /// Most bytes of a value in one item.
    part: usize,
    /// The fewest and the most nodes in a list.
    list_min: usize,
    list_max: usize,
    /// How seldom a node ends one.
    list_end_mask: u64,
}

impl Sizes {
    /// Those of what is read as a whole: leaves of some 100 KiB in the mean.
    pub(in crate::volume) const WHOLE: Self = Self {
        leaf_min: 32 << 10,
        leaf_max: 512 << 10,
        leaf_end_mask: 0x1ff,
        part: 256 << 10,
        list_min: LIST_MAX,
        list_max: LIST_MAX,
        list_end_mask: 0,
    };

    /// Those of what is read a row at a time, and of which there are many that differ little: leaves of some
    /// 7 KiB, and lists of some forty nodes.
    pub(in crate::volume) const APART: Self = Self {
        leaf_min: 2 << 10,
        leaf_max: 64 << 10,
        leaf_end_mask: 0x1f,
        part: 64 << 10,
        list_min: 8,
        list_max: 256,
        list_end_mask: 0x1f,
    };
}

/// Most nodes in a list: 256 KiB of them.
const LIST_MAX: usize = 4096;

/// More levels than any tree has.
pub(in crate::volume) const LEVELS_MAX: u8 = 6;

/// Most parts of a row behind its first one.
pub(in crate::volume) const PARTS_MAX: usize = VALUE_MAX_BYTES / Sizes::APART.part;

const VERSION: u8 = 1;
const LEAF: u8 = 0;
const LIST: u8 = 1;
const HEAD_BYTES: usize = 2;

/// A row as a tree holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::volume) struct Item {
    pub(in crate::volume) table: Table,
    pub(in crate::volume) key: Vec<u8>,
    pub(in crate::volume) value: Vec<u8>,
    pub(in crate::volume) shared: Shared,
}

/// What all who have folded the same have of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::volume) enum Shared {
    /// The whole of it.
    Whole,
    /// This value: the rest is each machine's own.
    Value(Vec<u8>),
    /// Nothing.
    Nothing,
}

impl Item {
    fn shared(&self) -> Option<&[u8]> {
        match &self.shared {
            Shared::Whole => Some(&self.value),
            Shared::Value(value) => Some(value),
            Shared::Nothing => None,
        }
    }

    /// Adds what all have of the row to the hash of all rows.
    pub(in crate::volume) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        if let Some(shared) = self.shared() {
            let head = (self.table.tag(), self.key.len(), shared.len());
            hasher.update(&codec::encode(&head));
            hasher.update(&self.key);
            hasher.update(shared);
        }
    }
}

/// A node in a list: where it is, and with which row it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::volume) struct Node {
    id: ChunkId,
    len: u32,
    tag: u8,
    key: Vec<u8>,
    /// It begins with the rest of that row.
    pub(in crate::volume) is_rest: bool,
}

impl Node {
    /// Returns its chunk.
    pub(in crate::volume) fn id(&self) -> ChunkId {
        self.id
    }

    /// Returns the row with which it begins.
    pub(in crate::volume) fn first(&self) -> (u8, &[u8]) {
        (self.tag, &self.key)
    }

    /// Returns the tree below it, which has so many levels.
    pub(in crate::volume) fn tree(&self, level: u8) -> Tree {
        Tree {
            root: self.id,
            len: self.len,
            level,
        }
    }
}

/// A tree that is being made.
pub(in crate::volume) struct Growing<'a> {
    sizes: Sizes,
    put: &'a mut PutNode<'a>,
    leaf: Vec<u8>,
    /// With which row the leaf begins, and whether with the rest of it.
    first: Option<(u8, Vec<u8>, bool)>,
    /// What all have of the leaf: where it ends is the same for all.
    shared_bytes: usize,
    lists: Vec<Vec<Node>>,
    ids: Vec<ChunkId>,
}

impl<'a> Growing<'a> {
    pub(in crate::volume) fn new(sizes: Sizes, put: &'a mut PutNode<'a>) -> Self {
        Self {
            sizes,
            put,
            leaf: head(LEAF),
            first: None,
            shared_bytes: 0,
            lists: vec![Vec::new()],
            ids: Vec::new(),
        }
    }

    /// Adds the row that comes next.
    pub(in crate::volume) fn add(&mut self, item: &Item) -> Result<()> {
        let mut rest = &*item.value;
        loop {
            let (part, later) = rest.split_at(rest.len().min(self.sizes.part));
            let is_rest = rest.len() < item.value.len();
            rest = later;
            self.first
                .get_or_insert_with(|| (item.table.tag(), item.key.clone(), is_rest));
            put_item(&mut self.leaf, item, part, !rest.is_empty());
            if rest.is_empty() {
                break;
            }
            self.end_leaf()?;
        }
        let Some(shared) = item.shared() else {
            return Ok(());
        };
        self.shared_bytes += item.key.len() + shared.len().min(self.sizes.part);
        let ends = xxh3_64(&item.key) & self.sizes.leaf_end_mask == 0;
        let bytes = self.shared_bytes;
        if bytes >= self.sizes.leaf_max || ends && bytes >= self.sizes.leaf_min {
            self.end_leaf()?;
        }
        Ok(())
    }

    /// Ends the tree; returns it, and the chunks that it is made of.
    pub(in crate::volume) fn end(mut self) -> Result<(Tree, Vec<ChunkId>)> {
        if self.leaf.len() > HEAD_BYTES || self.lists.iter().all(Vec::is_empty) {
            self.end_leaf()?;
        }
        let mut level = 0;
        loop {
            let list = self.lists.get_mut(level).map(std::mem::take);
            let list = list.unwrap_or_default();
            let is_last = self.lists.iter().skip(level + 1).all(Vec::is_empty);
            if let ([root], true) = (&*list, is_last) {
                let tree = Tree {
                    root: root.id,
                    len: root.len,
                    level: u8::try_from(level).unwrap_or(u8::MAX),
                };
                return Ok((tree, self.ids));
            }
            if !list.is_empty() {
                self.end_list(level, &list)?;
            }
            level += 1;
        }
    }

    fn end_leaf(&mut self) -> Result<()> {
        self.shared_bytes = 0;
        let leaf = std::mem::replace(&mut self.leaf, head(LEAF));
        let first = self.first.take().unwrap_or_default();
        self.put_node(0, leaf, first)
    }

    fn end_list(&mut self, level: usize, list: &[Node]) -> Result<()> {
        let mut bytes = head(LIST);
        codec::encode_into(list, &mut bytes);
        let first = list
            .first()
            .map(|node| (node.tag, node.key.clone(), node.is_rest));
        self.put_node(level + 1, bytes, first.unwrap_or_default())
    }

    fn put_node(
        &mut self,
        level: usize,
        bytes: Vec<u8>,
        (tag, key, is_rest): (u8, Vec<u8>, bool),
    ) -> Result<()> {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let id = (self.put)(Bytes::from(bytes))?;
        self.ids.push(id);
        if self.lists.len() <= level {
            self.lists.resize(level + 1, Vec::new());
        }
        let Some(list) = self.lists.get_mut(level) else {
            return Ok(());
        };
        // What comes before and behind does not change where lists end.
        let ends = xxh3_64(&key) & self.sizes.list_end_mask == 0;
        list.push(Node {
            id,
            len,
            tag,
            key,
            is_rest,
        });
        let len = list.len();
        if len == self.sizes.list_max || ends && len >= self.sizes.list_min {
            let list = std::mem::take(list);
            self.end_list(level, &list)?;
        }
        Ok(())
    }
}

fn head(kind: u8) -> Vec<u8> {
    vec![VERSION, kind]
}

fn put_item(leaf: &mut Vec<u8>, item: &Item, part: &[u8], goes_on: bool) {
    let head = (item.table.tag(), goes_on, item.key.len(), part.len());
    codec::encode_into(&head, leaf);
    // Writing to a vector does not fail.
    let _ = leaf.write_all(&item.key);
    let _ = leaf.write_all(part);
}

const BAD_NODE: VolumeError = VolumeError::BadCheckpoint {
    what: "a node of its tree",
};

/// Calls `f` with each row of a tree in order; returns the chunks that it is made of.
pub(in crate::volume) fn read(
    tree: &Tree,
    get: &mut GetNode<'_>,
    f: &mut dyn FnMut(Table, Vec<u8>, Vec<u8>) -> Result<()>,
) -> Result<Vec<ChunkId>> {
    let mut ids = Vec::new();
    let mut part: Option<(Table, Vec<u8>, Vec<u8>)> = None;
    let mut last: Option<(Table, Vec<u8>)> = None;
    let mut parts = 0;
    each_leaf(tree, get, &mut ids, &mut |leaf| {
        // A leaf that adds nothing might be there any number of times.
        if leaf.len() <= HEAD_BYTES && tree.level > 0 {
            return Err(BAD_NODE);
        }
        each_item(leaf, &mut |table, goes_on, key, value| {
            parts = if part.is_some() { parts + 1 } else { 0 };
            if parts > PARTS_MAX {
                return Err(BAD_NODE);
            }
            let row = match part.take() {
                Some((of, at, mut before)) => {
                    if (of, &*at) != (table, key) {
                        return Err(BAD_NODE);
                    }
                    before.extend_from_slice(value);
                    if before.len() > VALUE_MAX_BYTES {
                        return Err(BAD_NODE);
                    }
                    (of, at, before)
                }
                None => (table, key.to_vec(), value.to_vec()),
            };
            if goes_on {
                part = Some(row);
                return Ok(());
            }
            // So no tree is longer than its rows, whoever made it.
            let rank = |(table, key): &(Table, Vec<u8>)| (table.tag(), key.clone());
            let at = (row.0, row.1.clone());
            if last.as_ref().is_some_and(|last| rank(last) >= rank(&at)) {
                return Err(BAD_NODE);
            }
            last = Some(at);
            f(row.0, row.1, row.2)
        })
    })?;
    match part {
        None => Ok(ids),
        Some(_) => Err(BAD_NODE),
    }
}

/// Returns the nodes below one of the lists of a tree, and whether those are leaves. For who fetches a tree.
pub fn nodes_of(tree: &Tree, plain: &[u8]) -> Result<Vec<Tree>> {
    let nodes = list_of(plain)?;
    let level = tree.level.checked_sub(1).ok_or(BAD_NODE)?;
    Ok(nodes.iter().map(|node| node.tree(level)).collect())
}

/// Tells whether a node that was made here is a list.
pub(in crate::volume) fn is_list(plain: &[u8]) -> bool {
    plain.get(1) == Some(&LIST)
}

/// Returns the nodes of a list.
pub(in crate::volume) fn list_of(plain: &[u8]) -> Result<Vec<Node>> {
    let list = plain.strip_prefix(&[VERSION, LIST]).ok_or(BAD_NODE)?;
    let nodes: Vec<Node> = codec::decode(list, plain.len()).map_err(|_| BAD_NODE)?;
    match nodes.len() {
        1..=LIST_MAX => Ok(nodes),
        _ => Err(BAD_NODE),
    }
}

fn each_leaf(
    tree: &Tree,
    get: &mut GetNode<'_>,
    ids: &mut Vec<ChunkId>,
    f: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    if tree.level > LEVELS_MAX {
        return Err(BAD_NODE);
    }
    let plain = get(&tree.root)?.ok_or(VolumeError::NoNode { id: tree.root })?;
    if plain.len() as u64 > CHUNK_BYTES {
        return Err(BAD_NODE);
    }
    if tree.level == 0 {
        f(&plain)?;
    } else {
        for node in nodes_of(tree, &plain)? {
            each_leaf(&node, get, ids, f)?;
        }
    }
    ids.push(tree.root);
    Ok(())
}

/// Called with the table of an item, whether it goes on in the next one, its key, and its part of the value.
type ItemVisitor<'a> = dyn FnMut(Table, bool, &[u8], &[u8]) -> Result<()> + 'a;

/// Calls `f` with each item of a leaf.
pub(in crate::volume) fn each_item(leaf: &[u8], f: &mut ItemVisitor<'_>) -> Result<()> {
    let mut rest = leaf.strip_prefix(&[VERSION, LEAF]).ok_or(BAD_NODE)?;
    while !rest.is_empty() {
        let (tag, goes_on, key, value) = take_item(&mut rest).ok_or(BAD_NODE)?;
        let table = Table::from_tag(tag).ok_or(BAD_NODE)?;
        if key.len() > KEY_MAX_BYTES || goes_on && value.is_empty() {
            return Err(BAD_NODE);
        }
        f(table, goes_on, key, value)?;
    }
    Ok(())
}

/// Takes an item off the rest of a leaf.
fn take_item<'a>(rest: &mut &'a [u8]) -> Option<(u8, bool, &'a [u8], &'a [u8])> {
    let (tag, goes_on, key_len, len): (u8, bool, usize, usize) = codec::take(rest)?;
    let (key, later) = rest.split_at_checked(key_len)?;
    let (value, later) = later.split_at_checked(len)?;
    *rest = later;
    Some((tag, goes_on, key, value))
}

/// Tells whether a newer release may find more in a node: its version, its kind or a table in it is not known here.
pub(in crate::volume) fn is_newer(plain: &[u8]) -> bool {
    let [version, kind, rest @ ..] = plain else {
        return false;
    };
    let mut rest = rest;
    match (*version, *kind) {
        (VERSION, LIST) => false,
        (VERSION, LEAF) => {
            let items = std::iter::from_fn(|| take_item(&mut rest));
            items
                .map(|(tag, ..)| tag)
                .any(|tag| Table::from_tag(tag).is_none())
        }
        (version, _) => version >= VERSION,
    }
}

#[cfg(test)]
impl Sizes {
    /// Trees of few rows that have several levels.
    pub(in crate::volume) const TINY: Self = Self {
        leaf_min: 64,
        leaf_max: 512,
        leaf_end_mask: 3,
        part: 128,
        list_min: 2,
        list_max: 6,
        list_end_mask: 1,
    };
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;
    use crate::crypto::chunk_id;
    use crate::store::Rows as _;
    use crate::volume::checkpoint::TreeRows;

    type Kept = RefCell<BTreeMap<ChunkId, Bytes>>;

    fn grow(items: &[Item], kept: &Kept) -> (Tree, Vec<ChunkId>) {
        let mut put = |plain: Bytes| {
            let id = chunk_id(&plain);
            kept.borrow_mut().insert(id, plain);
            Ok(id)
        };
        let mut growing = Growing::new(Sizes::WHOLE, &mut put);
        for item in items {
            growing.add(item).unwrap();
        }
        growing.end().unwrap()
    }

    fn rows_of(tree: &Tree, kept: &Kept) -> Result<(Vec<Item>, Vec<ChunkId>)> {
        let mut items = Vec::new();
        let mut get = |id: &ChunkId| Ok(kept.borrow().get(id).cloned());
        let ids = read(tree, &mut get, &mut |table, key, value| {
            items.push(item(table, &key, value));
            Ok(())
        })?;
        Ok((items, ids))
    }

    fn item(table: Table, key: &[u8], value: Vec<u8>) -> Item {
        Item {
            table,
            key: key.to_vec(),
            value,
            shared: Shared::Whole,
        }
    }

    fn some(count: u64) -> Vec<Item> {
        let value = |n: u64| vec![n as u8; (n % 300) as usize];
        let items = (0..count).map(|n| item(Table::Inode, &n.to_be_bytes(), value(n)));
        items.collect()
    }

    #[test]
    fn a_tree_of_any_size_is_read_as_it_was_made() {
        let long = |len: usize| vec![item(Table::Op, &(len as u64).to_be_bytes(), vec![9; len])];
        let mut mixed = some(3000);
        mixed.extend(long(Sizes::WHOLE.part));
        mixed.extend(long(3 << 20));
        for items in [
            Vec::new(),
            some(1),
            some(100_000),
            long(Sizes::WHOLE.part),
            long(Sizes::WHOLE.part + 1),
            mixed,
        ] {
            let kept = Kept::default();
            let (tree, ids) = grow(&items, &kept);
            let (read, mut seen) = rows_of(&tree, &kept).unwrap();
            assert_eq!(read, items);
            let mut ids = ids;
            ids.sort_unstable();
            seen.sort_unstable();
            assert_eq!(seen, ids, "all chunks are told");
            assert!(
                kept.borrow()
                    .values()
                    .all(|plain| plain.len() as u64 <= CHUNK_BYTES)
            );
        }
    }

    #[test]
    fn rows_that_come_twice_or_out_of_order_are_no_tree() {
        let rows = some(3);
        for order in [[0, 0, 1], [0, 2, 1]] {
            let kept = Kept::default();
            let items: Vec<Item> = order.map(|at: usize| rows[at].clone()).into();
            let (tree, _) = grow(&items, &kept);
            let read = rows_of(&tree, &kept);
            assert!(matches!(read, Err(VolumeError::BadCheckpoint { .. })));
        }
    }

    #[test]
    fn what_did_not_change_is_the_same_chunks() {
        let (kept, mut items) = (Kept::default(), some(100_000));
        let (_, before) = grow(&items, &kept);
        items[50_000].value = vec![1; 40];
        items.remove(70_000);
        let (_, after) = grow(&items, &kept);
        let news = after.iter().filter(|id| !before.contains(id)).count();
        assert!(news <= 5, "{news} of {} nodes are new", after.len());
    }

    #[test]
    fn bytes_that_are_no_tree_are_told_from_what_is_missing() {
        let (kept, items) = (Kept::default(), some(20_000));
        let (tree, ids) = grow(&items, &kept);
        let id = ids[ids.len() / 2];
        let whole = kept.borrow_mut().remove(&id).unwrap();
        let missing = rows_of(&tree, &kept).unwrap_err();
        assert!(matches!(missing, VolumeError::NoNode { id: of } if of == id));
        for cut in [0, 1, 2, 5, whole.len() - 1] {
            kept.borrow_mut().insert(id, whole.slice(..cut));
            let read = rows_of(&tree, &kept);
            assert!(
                matches!(read, Err(VolumeError::BadCheckpoint { .. })),
                "{cut}"
            );
        }
        let deep = Tree { level: 200, ..tree };
        assert!(matches!(
            rows_of(&deep, &kept),
            Err(VolumeError::BadCheckpoint { .. })
        ));
    }

    /// Makes a tree of many levels of which each list has one node many times.
    fn repeated(leaf: Vec<u8>, kept: &Kept) -> Tree {
        let put = |plain: Vec<u8>| {
            let id = chunk_id(&plain);
            kept.borrow_mut().insert(id, plain.into());
            id
        };
        let mut id = put(leaf);
        for _ in 0..LEVELS_MAX {
            let node = Node {
                id,
                len: 0,
                tag: Table::Op.tag(),
                key: vec![1],
                is_rest: true,
            };
            let mut list = head(LIST);
            codec::encode_into(&vec![node; LIST_MAX], &mut list);
            id = put(list);
        }
        Tree {
            root: id,
            len: 0,
            level: LEVELS_MAX,
        }
    }

    #[test]
    fn nodes_that_add_little_are_no_tree_however_often_they_are_there() {
        let part = |part: &[u8]| {
            let mut leaf = head(LEAF);
            put_item(&mut leaf, &item(Table::Op, &[1], Vec::new()), part, true);
            leaf
        };
        for leaf in [head(LEAF), part(&[]), part(&[7])] {
            let kept = Kept::default();
            let tree = repeated(leaf, &kept);
            let read = rows_of(&tree, &kept);
            assert!(matches!(read, Err(VolumeError::BadCheckpoint { .. })));
            // Looked up and listed, that ends as well, whatever it says.
            let nodes = kept.into_inner();
            let source = move |id: &ChunkId| Ok(nodes.get(id).cloned());
            let rows = TreeRows::new(tree, std::sync::Arc::new(source));
            let none = &mut |_: &[u8], _: &[u8]| panic!("there is no row");
            let _ = rows.scan(Table::Op, &[], None, none);
            let _ = rows.scan_rev(Table::Op, &[], None, none);
        }
    }

    #[test]
    fn what_a_newer_release_made_is_told_from_what_is_no_node() {
        let mut leaf = head(LEAF);
        put_item(&mut leaf, &item(Table::Op, &[1], Vec::new()), &[7], false);
        for known in [&*leaf, &leaf[..1], &leaf[..leaf.len() - 1], &[0, 0], &[]] {
            assert!(!is_newer(known), "{known:?}");
        }
        leaf.extend(codec::encode(&(251u8, false, 0usize, 0usize)));
        for newer in [&*leaf, &[VERSION + 1, LEAF], &[VERSION, LIST + 1]] {
            assert!(is_newer(newer), "{newer:?}");
        }
    }
}
