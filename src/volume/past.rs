//! What a file was before: for bytes that were written on what somebody still showed.

use super::record::Record;
use super::rows::{RowKey, Stored};
use super::view::as_inode;
use super::{Result, Volume};
use crate::base::{Ino, OpId};

/// Most contents that are gone back through.
const PAST_MAX: usize = 4096;

impl Volume {
    /// Returns the size that a file had when its content was that of `version`; `None` where it never
    /// was, or that cannot be told any more.
    pub fn size_at(&self, ino: Ino, version: OpId) -> Result<Option<u64>> {
        let Some(mut at) = self.view.inode(ino)? else {
            return Ok(None);
        };
        let key = RowKey::Inode(at.ino);
        for _ in 0..PAST_MAX {
            if at.version == version {
                return Ok(Some(at.size));
            }
            let Some(record) = Record::load(&*self.view.rows, at.written_by)? else {
                return Ok(None);
            };
            let mut images = record.writes.iter().filter(|(of, _)| *of == key);
            let Some((_, Some(image))) = images.next() else {
                return Ok(None);
            };
            let row = Stored::decode(&key, image.clone())?;
            at = as_inode(&row)?.clone();
        }
        Ok(None)
    }
}
