//! Rows that are made anew beside those that are used: one table holds them, by the table that each
//! belongs to.

use std::sync::Arc;

use super::batch::stored_key;
use super::{Batch, KeyVisitor, RowVisitor, Rows, StoreError, Table};

/// Rows removed in one batch.
const CLEAR_SLICE: usize = 1024;

/// Rows of some tables that are empty at first, with the other tables as they are.
#[derive(Debug)]
pub struct BesideRows {
    inner: Arc<dyn Rows>,
    /// Which one holds them.
    holder: Table,
    tables: &'static [Table],
}

impl BesideRows {
    /// Returns rows over `inner` of which `tables` lie beside. What was left there is removed.
    pub fn new(inner: Arc<dyn Rows>, tables: &'static [Table]) -> Result<Self, StoreError> {
        let rows = Self::in_table(Table::Beside, inner, tables);
        rows.clear()?;
        Ok(rows)
    }

    /// Returns rows over `inner` of which `tables` lie in another one, as they were left there.
    pub fn in_table(holder: Table, inner: Arc<dyn Rows>, tables: &'static [Table]) -> Self {
        Self {
            inner,
            holder,
            tables,
        }
    }

    /// Removes all that lies beside, some rows at a time.
    pub fn clear(&self) -> Result<(), StoreError> {
        let mut from = Vec::new();
        loop {
            let mut batch = Batch::new();
            let mut last = Vec::new();
            self.inner.scan_keys(self.holder, &from, None, &mut |key| {
                batch.delete(self.holder, key);
                if batch.len() < CLEAR_SLICE {
                    return std::ops::ControlFlow::Continue(());
                }
                last = key.to_vec();
                std::ops::ControlFlow::Break(())
            })?;
            if batch.is_empty() {
                return Ok(());
            }
            self.inner.commit(batch)?;
            if last.is_empty() {
                return Ok(());
            }
            // What was just removed slows the next look down.
            from = last;
        }
    }

    fn is_beside(&self, table: Table) -> bool {
        self.tables.contains(&table)
    }

    /// Calls `scan` with the bounds of the rows of a table in the one that holds them.
    fn within<R>(
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        scan: impl FnOnce(&[u8], &[u8]) -> R,
    ) -> R {
        let end = match end {
            Some(end) => stored_key(table, end),
            None => vec![table.tag() + 1],
        };
        scan(&stored_key(table, start), &end)
    }
}

/// Returns the key of a row without the table that it belongs to.
fn own_key(key: &[u8]) -> &[u8] {
    key.get(1..).unwrap_or_default()
}

impl Rows for BesideRows {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if self.is_beside(table) {
            self.inner.get(self.holder, &stored_key(table, key))
        } else {
            self.inner.get(table, key)
        }
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        if !self.is_beside(table) {
            return self.inner.scan(table, start, end, f);
        }
        let mut visit = |key: &[u8], value: &[u8]| f(own_key(key), value);
        Self::within(table, start, end, |start, end| {
            self.inner.scan(self.holder, start, Some(end), &mut visit)
        })
    }

    fn scan_rev(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        if !self.is_beside(table) {
            return self.inner.scan_rev(table, start, end, f);
        }
        let mut visit = |key: &[u8], value: &[u8]| f(own_key(key), value);
        Self::within(table, start, end, |start, end| {
            self.inner
                .scan_rev(self.holder, start, Some(end), &mut visit)
        })
    }

    fn scan_keys(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        f: &mut KeyVisitor<'_>,
    ) -> Result<(), StoreError> {
        if !self.is_beside(table) {
            return self.inner.scan_keys(table, start, end, f);
        }
        let mut visit = |key: &[u8]| f(own_key(key));
        Self::within(table, start, end, |start, end| {
            self.inner
                .scan_keys(self.holder, start, Some(end), &mut visit)
        })
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut beside = Batch::new();
        for (key, value) in batch.into_changes() {
            let table = key.first().and_then(|tag| Table::from_tag(*tag));
            match (table, value) {
                (Some(table), value) if self.is_beside(table) => match value {
                    Some(value) => beside.put_bytes(self.holder, &key, value),
                    None => beside.delete(self.holder, &key),
                },
                (Some(table), Some(value)) => beside.put_bytes(table, own_key(&key), value),
                (Some(table), None) => beside.delete(table, own_key(&key)),
                (None, _) => {}
            }
        }
        self.inner.commit(beside)
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.inner.settle()
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.inner.has_room(bytes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::store::Store;

    #[test]
    fn rows_beside_are_apart_from_those_that_are_used_and_go_as_a_whole() {
        let store = Store::memory();
        let mut batch = Batch::new();
        batch.put(Table::Inode, b"a", b"used");
        batch.put(Table::Segment, b"s", b"shared");
        store.rows.commit(batch).unwrap();
        let tables = &[Table::Inode, Table::Dirent];
        let beside = BesideRows::new(Arc::clone(&store.rows), tables).unwrap();
        assert_eq!(beside.get(Table::Inode, b"a").unwrap(), None);
        let shared = beside.get(Table::Segment, b"s").unwrap();
        assert_eq!(shared.as_deref(), Some(&b"shared"[..]));

        let mut batch = Batch::new();
        for n in 0..3000u16 {
            batch.put(Table::Inode, n.to_be_bytes(), b"anew");
        }
        batch.put(Table::Dirent, b"d", b"entry");
        batch.put(Table::Segment, b"t", b"shared, too");
        beside.commit(batch).unwrap();
        let mut keys = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        };
        let (from, to) = (2998u16.to_be_bytes(), 5000u16.to_be_bytes());
        beside.scan(Table::Inode, &from, None, &mut visit).unwrap();
        beside
            .scan_rev(Table::Inode, &from, Some(&to), &mut visit)
            .unwrap();
        let (last, before) = (2999u16.to_be_bytes().to_vec(), from.to_vec());
        assert_eq!(keys, [&before, &last, &last, &before].map(Clone::clone));
        let used = store.rows.get(Table::Inode, b"a").unwrap();
        assert_eq!(used.as_deref(), Some(&b"used"[..]));
        assert_eq!(store.rows.get(Table::Dirent, b"d").unwrap(), None);
        assert!(store.rows.get(Table::Segment, b"t").unwrap().is_some());

        beside.clear().unwrap();
        let mut visit = |_: &[u8]| -> ControlFlow<()> { panic!("something is left") };
        let rows = &store.rows;
        rows.scan_keys(Table::Beside, &[], None, &mut visit)
            .unwrap();
        assert!(rows.get(Table::Inode, b"a").unwrap().is_some());
    }
}
