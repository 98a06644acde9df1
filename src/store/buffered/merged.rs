//! The rows of all layers, walked as one.

use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use crate::store::memtable::{Cursor, Memtable};
use crate::store::tree::TreeRow;
use crate::store::{RowVisitor, StoreError};

/// A value out of memory or out of the tree.
pub(super) enum RowValue {
    Buffered(Bytes),
    Tree(Vec<u8>),
}

impl RowValue {
    pub(super) fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Buffered(value) => value.into(),
            Self::Tree(value) => value,
        }
    }
}

impl AsRef<[u8]> for RowValue {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Buffered(value) => value,
            Self::Tree(value) => value,
        }
    }
}

/// Rows of all layers in key order; of one key the newest layer's.
pub(super) struct Merged<'a> {
    pub(super) active: Cursor,
    pub(super) flushing: Option<Cursor>,
    pub(super) tree: Box<dyn Iterator<Item = TreeRow> + 'a>,
    pub(super) tree_next: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) is_reverse: bool,
}

impl Merged<'_> {
    /// Returns the next row.
    pub(super) fn next(&mut self) -> Result<Option<(Vec<u8>, RowValue)>, StoreError> {
        loop {
            if self.tree_next.is_none() {
                self.tree_next = self.tree.next().transpose()?;
            }
            let from_tree = self.tree_next.as_ref().map(|(key, _)| &**key);
            let flushing = self.flushing.as_mut().and_then(Cursor::peek);
            let active = self.active.peek();
            let keys = [active, flushing, from_tree].into_iter().flatten();
            let first = if self.is_reverse {
                keys.max()
            } else {
                keys.min()
            };
            let Some(first) = first else {
                return Ok(None);
            };
            let is_next = [active, flushing, from_tree].map(|key| key == Some(first));
            let [is_active, is_flushing, is_tree] = is_next;
            let active = is_active.then(|| self.active.take()).flatten();
            let flushing = match &mut self.flushing {
                Some(flushing) if is_flushing => flushing.take(),
                _ => None,
            };
            let tree = if is_tree { self.tree_next.take() } else { None };
            match (active.or(flushing), tree) {
                (Some((key, Some(value))), _) => {
                    return Ok(Some((key, RowValue::Buffered(value))));
                }
                // Removed.
                (Some((_, None)), _) => {}
                (None, Some((key, value))) => return Ok(Some((key, RowValue::Tree(value)))),
                (None, None) => return Ok(None),
            }
        }
    }
}

/// How rows are walked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Walk {
    Forwards,
    Backwards,
    /// Forwards; values do not matter.
    Keys,
}

impl Shared {
    /// Returns what a scan walks, all as of one moment.
    ///
    /// The tree may wait until a version is durable, so that is under no lock. A table that goes there
    /// meanwhile may be in none of what is seen, and rows behind it in the tree: then once more.
    pub(super) fn merged(&self, start: &[u8], end: &[u8], walk: Walk) -> Merged<'_> {
        let is_reverse = matches!(walk, Walk::Backwards);
        loop {
            let moved = self.layers.read().moved;
            let tree = match walk {
                Walk::Keys => self.tree.keys(start, end),
                Walk::Forwards | Walk::Backwards => self.tree.range(start, end, is_reverse),
            };
            let layers = self.layers.read();
            if layers.moved != moved {
                continue;
            }
            let cursor =
                |table: &Arc<Memtable>| table.cursor(start.to_vec(), end.to_vec(), is_reverse);
            return Merged {
                active: cursor(&layers.active),
                flushing: layers.flushing.as_ref().map(cursor),
                tree,
                tree_next: None,
                is_reverse,
            };
        }
    }

    pub(super) fn visit(
        &self,
        start: &[u8],
        end: &[u8],
        walk: Walk,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        if start >= end {
            return Ok(());
        }
        let mut rows = self.merged(start, end, walk);
        while let Some((key, value)) = rows.next()? {
            if f(key.get(1..).unwrap_or_default(), value.as_ref()).is_break() {
                break;
            }
        }
        Ok(())
    }
}
