//! The rows of a tree, read where they lie.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use crate::base::ChunkId;
use crate::base::limits::CHUNK_BYTES;
use crate::log::checkpoint::Tree;
use crate::replica::ReplicaError;
use crate::store::{Batch, RowVisitor, Rows, StoreError, Table, VALUE_MAX_BYTES};
use crate::volume::VolumeError;
use crate::volume::checkpoint::tree::{LEVELS_MAX, Node, PARTS_MAX, each_item, list_of};

/// Called for the plaintext of a node; `None` where it is not here. May be called again for one that it gave.
pub type NodeSource =
    dyn Fn(&ChunkId) -> std::result::Result<Option<Bytes>, ReplicaError> + Send + Sync;

/// Bytes of nodes that are kept decoded: some eighty leaves.
const CACHE_BYTES: usize = 8 << 20;

/// What a row of a leaf takes beside its bytes.
const ROW_BYTES: usize = 80;

/// A row by its table and key, in the order of trees.
type At<'a> = (u8, &'a [u8]);

/// Rows of a tree, read as they are asked for; they do not change. What `source` has not is told by
/// [`StoreError::Elsewhere`], and what is no tree, whoever made it, as damaged.
pub struct TreeRows {
    tree: Tree,
    source: Arc<NodeSource>,
    cache: Mutex<Cache>,
}

/// Nodes that were read, with what they take.
struct Cache {
    nodes: LruCache<ChunkId, (Arc<Decoded>, usize)>,
    bytes: usize,
}

impl Cache {
    fn put(&mut self, id: ChunkId, node: Arc<Decoded>, bytes: usize) {
        self.bytes += bytes;
        if let Some((_, before)) = self.nodes.put(id, (node, bytes)) {
            self.bytes -= before;
        }
        while self.bytes > CACHE_BYTES
            && let Some((_, (_, bytes))) = self.nodes.pop_lru()
        {
            self.bytes -= bytes;
        }
    }
}

/// A node.
enum Decoded {
    List(Vec<Node>),
    Leaf(Vec<LeafRow>),
}

/// A row in a leaf, or a part of it.
struct LeafRow {
    tag: u8,
    key: Bytes,
    value: Bytes,
    /// The rest is in the next leaf.
    goes_on: bool,
}

impl LeafRow {
    fn at(&self) -> At<'_> {
        (self.tag, &self.key)
    }
}

/// A node on the way down.
#[derive(Clone, Copy)]
struct Below<'a> {
    tree: Tree,
    /// With which row it begins, as the list above says.
    first: Option<At<'a>>,
    /// It begins with the rest of it.
    is_rest: bool,
}

/// What was found of a row in parts.
struct Gathered {
    value: Vec<u8>,
    /// Those behind the first one.
    parts: usize,
    /// There is more.
    goes_on: bool,
}

/// The rows of a table that are asked for.
struct Span<'a> {
    from: At<'a>,
    end: Option<&'a [u8]>,
    is_reverse: bool,
}

impl Span<'_> {
    /// Tells whether the span ends behind a row.
    fn ends_behind(&self, (tag, key): At<'_>) -> bool {
        match tag.cmp(&self.from.0) {
            Ordering::Less => true,
            Ordering::Equal => self.end.is_none_or(|end| key < end),
            Ordering::Greater => false,
        }
    }
}

type Result<T> = std::result::Result<T, StoreError>;

const BAD_NODE: StoreError = StoreError::Corrupt {
    what: "a node of a tree of rows",
};

impl TreeRows {
    /// Returns the rows of a tree whose nodes come from `source`.
    pub fn new(tree: Tree, source: Arc<NodeSource>) -> Self {
        let cache = Cache {
            nodes: LruCache::unbounded(),
            bytes: 0,
        };
        Self {
            tree,
            source,
            cache: Mutex::new(cache),
        }
    }

    fn root(&self) -> Below<'_> {
        Below {
            tree: self.tree,
            first: None,
            is_rest: false,
        }
    }

    /// Returns a node. What is kept is checked again, as another list may say other things of it.
    fn node(&self, at: Below<'_>) -> Result<Arc<Decoded>> {
        let kept = self.cache.lock().nodes.get(&at.tree.root).cloned();
        let node = match kept {
            Some((node, _)) => node,
            None => self.load(&at.tree)?,
        };
        let (is_leaf, first) = match &*node {
            Decoded::List(nodes) => (false, nodes.first().map(Node::first)),
            Decoded::Leaf(rows) => (true, rows.first().map(LeafRow::at)),
        };
        let is_as_said = at.first.is_none() || at.first == first;
        match is_leaf == (at.tree.level == 0) && is_as_said {
            true => Ok(node),
            false => Err(BAD_NODE),
        }
    }

    fn load(&self, tree: &Tree) -> Result<Arc<Decoded>> {
        if tree.level > LEVELS_MAX {
            return Err(BAD_NODE);
        }
        let plain = (self.source)(&tree.root).map_err(|error| match error {
            ReplicaError::Store(error) => Arc::into_inner(error).unwrap_or(BAD_NODE),
            _ => BAD_NODE,
        })?;
        let plain = plain.ok_or(StoreError::Elsewhere { id: tree.root })?;
        if plain.len() as u64 > CHUNK_BYTES {
            return Err(BAD_NODE);
        }
        let (node, bytes) = match tree.level {
            0 => {
                let rows = leaf_of(&plain)?;
                let bytes = plain.len() + rows.len() * ROW_BYTES;
                (Decoded::Leaf(rows), bytes)
            }
            _ => (Decoded::List(nodes_in(&plain)?), plain.len() * 2),
        };
        let node = Arc::new(node);
        let mut cache = self.cache.lock();
        cache.put(tree.root, Arc::clone(&node), bytes);
        Ok(node)
    }

    /// Calls `f` with the rows of a span below a node until it breaks.
    fn visit(
        &self,
        at: Below<'_>,
        span: &Span<'_>,
        f: &mut RowVisitor<'_>,
    ) -> Result<ControlFlow<()>> {
        match &*self.node(at)? {
            Decoded::List(nodes) => {
                // The last one that begins at the first row or before it may have it.
                let begins = |node: &Node| match node.first().cmp(&span.from) {
                    Ordering::Less => true,
                    Ordering::Equal => !node.is_rest,
                    Ordering::Greater => false,
                };
                let low = nodes.partition_point(begins).saturating_sub(1);
                let high = nodes.partition_point(|node| span.ends_behind(node.first()));
                // Between two rests of a row no other one begins.
                let has_rows = |at: usize| match (nodes.get(at), nodes.get(at + 1)) {
                    (Some(node), Some(next)) => !node.is_rest || next.first() != node.first(),
                    _ => true,
                };
                let visited = (low..high).filter(|at| has_rows(*at));
                let visited: Vec<&Node> = visited.filter_map(|at| nodes.get(at)).collect();
                let mut visit = |node: &Node| self.visit(below(at, node), span, f);
                match span.is_reverse {
                    false => each(visited.into_iter(), &mut visit),
                    true => each(visited.into_iter().rev(), &mut visit),
                }
            }
            Decoded::Leaf(rows) => {
                // A row is where it begins.
                let rows = rows.get(usize::from(at.is_rest)..).unwrap_or_default();
                let low = rows.partition_point(|row| row.at() < span.from);
                let high = rows.partition_point(|row| span.ends_behind(row.at()));
                let rows = rows.get(low..high).unwrap_or_default();
                let mut visit = |row: &LeafRow| {
                    if !row.goes_on {
                        return Ok(f(&row.key, &row.value));
                    }
                    let mut gathered = Gathered {
                        value: row.value.to_vec(),
                        parts: 0,
                        goes_on: true,
                    };
                    self.gather(self.root(), row.at(), &mut gathered)?;
                    match gathered.goes_on {
                        false => Ok(f(&row.key, &gathered.value)),
                        true => Err(BAD_NODE),
                    }
                };
                match span.is_reverse {
                    false => each(rows.iter(), &mut visit),
                    true => each(rows.iter().rev(), &mut visit),
                }
            }
        }
    }

    /// Adds to a value what leaves have that begin with the rest of its row.
    fn gather(&self, at: Below<'_>, key: At<'_>, to: &mut Gathered) -> Result<()> {
        match &*self.node(at)? {
            Decoded::List(nodes) => {
                let low = nodes.partition_point(|node| node.first() < key);
                let nodes = nodes.get(low.saturating_sub(1)..).unwrap_or_default();
                for node in nodes.iter().take_while(|node| node.first() <= key) {
                    if to.goes_on && (node.is_rest || at.tree.level > 1) {
                        self.gather(below(at, node), key, to)?;
                    }
                }
            }
            Decoded::Leaf(rows) => {
                if let Some(row) = rows.first()
                    && at.is_rest
                    && row.at() == key
                {
                    to.value.extend_from_slice(&row.value);
                    to.parts += 1;
                    to.goes_on = row.goes_on;
                }
            }
        }
        match to.value.len() > VALUE_MAX_BYTES || to.parts > PARTS_MAX {
            true => Err(BAD_NODE),
            false => Ok(()),
        }
    }
}

/// Calls `f` with each until it breaks.
fn each<'a, T: 'a>(
    mut of: impl Iterator<Item = &'a T>,
    f: &mut dyn FnMut(&'a T) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let ended = of.find_map(|one| match f(one) {
        Ok(ControlFlow::Continue(())) => None,
        ended => Some(ended),
    });
    ended.unwrap_or(Ok(ControlFlow::Continue(())))
}

fn below<'a>(at: Below<'_>, node: &'a Node) -> Below<'a> {
    Below {
        // Of a list, which has levels below it.
        tree: node.tree(at.tree.level.saturating_sub(1)),
        first: Some(node.first()),
        is_rest: node.is_rest,
    }
}

fn nodes_in(plain: &[u8]) -> Result<Vec<Node>> {
    let nodes = list_of(plain).map_err(|_| BAD_NODE)?;
    let is_ordered = |pair: &[Node]| match pair {
        [one, next] if next.is_rest => one.first() <= next.first(),
        [one, next] => one.first() < next.first(),
        _ => true,
    };
    match nodes.windows(2).all(is_ordered) {
        true => Ok(nodes),
        false => Err(BAD_NODE),
    }
}

fn leaf_of(plain: &Bytes) -> Result<Vec<LeafRow>> {
    let mut rows: Vec<LeafRow> = Vec::new();
    let read = each_item(plain, &mut |table, goes_on, key, value| {
        let row = LeafRow {
            tag: table.tag(),
            key: plain.slice_ref(key),
            value: plain.slice_ref(value),
            goes_on,
        };
        // Nothing follows in a leaf on a part of a row.
        let last = rows.last();
        if last.is_some_and(|last| last.goes_on || last.at() >= row.at()) {
            return Err(VolumeError::BadCheckpoint { what: "its order" });
        }
        rows.push(row);
        Ok(())
    });
    match read {
        Ok(()) => Ok(rows),
        Err(_) => Err(BAD_NODE),
    }
}

impl Rows for TreeRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut found = None;
        let end = [key, &[0]].concat();
        self.scan(table, key, Some(&end), &mut |_, value| {
            found = Some(value.to_vec());
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<()> {
        let span = Span {
            from: (table.tag(), start),
            end,
            is_reverse: false,
        };
        self.visit(self.root(), &span, f).map(|_| ())
    }

    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<()> {
        let span = Span {
            from: (table.tag(), start),
            end,
            is_reverse: true,
        };
        self.visit(self.root(), &span, f).map(|_| ())
    }

    fn commit(&self, _: Batch) -> Result<()> {
        Err(StoreError::OfThePast)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for TreeRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeRows")
            .field("tree", &self.tree)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
