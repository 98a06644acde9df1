//! What lies under the row log: an ordered map that is changed seldom and in large steps.

use super::StoreError;

/// A row of a tree: stored key and value.
pub type TreeRow = Result<(Vec<u8>, Vec<u8>), StoreError>;

/// Rows by stored key (the table's tag, then the key), behind [`BufferedRows`](super::buffered::BufferedRows).
pub trait Tree: Send + Sync + std::fmt::Debug {
    /// Returns the value of a row, `None` where there is no such row.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Tells whether there is such a row.
    fn contains(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.get(key)?.is_some())
    }

    /// Returns the rows with `start <= key < end` as they are at this moment, ascending or, where
    /// `is_reverse`, descending.
    fn range<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        is_reverse: bool,
    ) -> Box<dyn Iterator<Item = TreeRow> + 'a>;

    /// Returns the same rows as [`Tree::range`], ascending, each with an empty value.
    fn keys<'a>(&'a self, start: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = TreeRow> + 'a> {
        let rows = self.range(start, end, false);
        Box::new(rows.map(|row| row.map(|(key, _)| (key, Vec::new()))))
    }

    /// Applies changes as a whole: after a crash all of them are there or none, and none without
    /// those of the calls before. `visit` calls back with each change, in key order; a value of
    /// `None` removes the row. Durable at the next sync.
    fn apply(&self, visit: &mut dyn FnMut(&mut TreeChange<'_>)) -> Result<(), StoreError>;

    /// Returns about how many rows there are, those counted that say that one was removed; 0 where that is not known.
    fn count(&self) -> u64 {
        0
    }

    /// Lets the tree give up what it only still has of rows that were removed, in its own time; for when nobody
    /// changes anything.
    fn rest(&self) {}

    /// Makes everything that was applied before this call durable.
    fn sync(&self) -> Result<(), StoreError>;
}

/// What [`Tree::apply`] is called back with: key and value.
pub type TreeChange<'a> = dyn FnMut(&[u8], Option<&[u8]>) + 'a;
