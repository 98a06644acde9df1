//! Batches: changes of rows that are applied together or not at all.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::FrozenRow;
use super::table::Table;

/// Changes by stored key; a value of `None` removes the row.
pub(super) type Changes = BTreeMap<Vec<u8>, Option<Bytes>>;

/// A set of row changes for [`Rows::commit`](super::Rows::commit).
///
/// A later change of the same row replaces the earlier one, so a batch holds at most one change a
/// row; what the batch looked like before does not matter to the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    changes: Changes,
}

impl Batch {
    /// Returns an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a row.
    pub fn put(&mut self, table: Table, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) {
        self.put_bytes(table, key, Bytes::from(value.into()));
    }

    /// Sets a row to a value that is shared, not copied.
    pub fn put_bytes(&mut self, table: Table, key: impl AsRef<[u8]>, value: Bytes) {
        self.changes
            .insert(stored_key(table, key.as_ref()), Some(value));
    }

    /// Removes a row; nothing happens where there is none.
    pub fn delete(&mut self, table: Table, key: impl AsRef<[u8]>) {
        self.changes.insert(stored_key(table, key.as_ref()), None);
    }

    /// Returns what the batch does to a row: `None` leaves it, `Some(None)` removes it.
    pub fn change(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        let change = self.changes.get(&stored_key(table, key))?;
        Some(change.as_deref())
    }

    /// Returns each change in table and key order; a value of `None` removes the row.
    pub fn iter(&self) -> impl Iterator<Item = (Table, &[u8], Option<&[u8]>)> {
        self.changes.iter().filter_map(|(key, value)| {
            let (tag, key) = key.split_first()?;
            Some((Table::from_tag(*tag)?, key, value.as_deref()))
        })
    }

    /// Adds all changes of `later`, which win over those already here.
    pub fn append(&mut self, later: Self) {
        if self.changes.is_empty() {
            self.changes = later.changes;
        } else {
            self.changes.extend(later.changes);
        }
    }

    /// Returns how many rows change.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Tells whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Returns the changes with their stored keys (tag, then key), ascending.
    pub(super) fn into_changes(self) -> Changes {
        self.changes
    }

    /// Borrows the changes with their stored keys.
    pub(super) fn changes(&self) -> &Changes {
        &self.changes
    }
}

/// Returns the key under which a row is stored: the table's tag, then the key.
pub(super) fn stored_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(table.tag());
    stored.extend_from_slice(key);
    stored
}

/// Returns the bounds of the stored keys of a scan; the end is exclusive.
pub(super) fn stored_range(table: Table, start: &[u8], end: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let end = match end {
        Some(end) => stored_key(table, end),
        // Tags are below 255, so the next tag is a key above each row of this table.
        None => vec![table.tag() + 1],
    };
    (stored_key(table, start), end)
}

/// Returns the range of the stored keys of all tables from one to another.
pub(super) fn tables_range(first: Table, last: Table) -> (Vec<u8>, Vec<u8>) {
    (vec![first.tag()], vec![last.tag() + 1])
}

/// Returns a row by its stored key; `None` for one of no table.
pub(super) fn frozen_row(key: &[u8], value: Vec<u8>) -> Option<FrozenRow> {
    let (tag, key) = key.split_first()?;
    Some((Table::from_tag(*tag)?, key.to_vec(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_a_row_wins() {
        let mut batch = Batch::new();
        batch.put(Table::Inode, b"a", b"1");
        batch.put(Table::Inode, b"a", b"2");
        batch.put(Table::Inode, b"b", b"3");
        let mut later = Batch::new();
        later.delete(Table::Inode, b"b");
        batch.append(later);
        assert_eq!(batch.len(), 2);
        assert_eq!(batch.change(Table::Inode, b"a"), Some(Some(&b"2"[..])));
        assert_eq!(batch.change(Table::Inode, b"b"), Some(None));
        assert_eq!(batch.change(Table::Inode, b"c"), None);
    }
}
