//! The index of chunks made anew from the files alone, each checked against its id.

use std::collections::BTreeSet;

use super::layout::{self, ALIGN_BYTES, FIRST_OFFSET, Place, RECORD_HEADER_BYTES, Totals};
use super::recover::{files, is_whole};
use super::{LocalChunks, failed};
use crate::base::ChunkId;
use crate::crypto::chunk_head;
use crate::store::disk::{Disk, DiskFile};
use crate::store::{Batch, Rows, StoreError, Table};

/// Rows in one batch.
const BATCH_ROWS: usize = 256;

/// What was found in chunk files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Chunks that are whole.
    pub kept: u64,
    /// Records whose bytes are not those of their chunk.
    pub damaged: u64,
}

impl LocalChunks {
    /// Puts the index rows of all whole chunks in the files of a disk into rows that have none yet.
    pub fn adopt(disk: &dyn Disk, rows: &dyn Rows) -> Result<Adopted, StoreError> {
        let mut adopted = Adopted::default();
        let mut seen = BTreeSet::new();
        for number in files(disk)? {
            let file = disk
                .open(&layout::file_name(number), false)
                .map_err(|e| failed("open", e))?;
            adopt_file(&*file, number, rows, &mut seen, &mut adopted)?;
        }
        Ok(adopted)
    }
}

fn adopt_file(
    file: &dyn DiskFile,
    number: u32,
    rows: &dyn Rows,
    seen: &mut BTreeSet<ChunkId>,
    adopted: &mut Adopted,
) -> Result<(), StoreError> {
    let size = file.size().map_err(|e| failed("look at", e))?;
    let mut totals = Totals::default();
    let mut batch = Batch::new();
    let mut offset = FIRST_OFFSET;
    while offset < size {
        // A place that cannot be read has nothing to keep.
        let header = file.read_at(RECORD_HEADER_BYTES as usize, offset);
        let record = header.ok().and_then(|header| layout::parse_header(&header));
        let place = record.and_then(|(id, len)| Some((id, Place::at(number, offset, len)?)));
        let Some((id, place)) = place else {
            offset += ALIGN_BYTES;
            continue;
        };
        if !is_whole(file, id, place).unwrap_or(false) {
            adopted.damaged += 1;
            offset += ALIGN_BYTES;
            continue;
        }
        offset = place.end();
        if !seen.insert(id) {
            continue;
        }
        let sealed = file.read_at(place.len as usize, place.body());
        let sealed = sealed.map_err(|e| failed("read", e))?;
        let row = layout::index_row(place, chunk_head(&sealed));
        batch.put(Table::ChunkIndex, id.as_bytes(), row);
        totals.add(id, place);
        adopted.kept += 1;
        if batch.len() >= BATCH_ROWS {
            rows.commit(std::mem::take(&mut batch))?;
        }
    }
    batch.put(Table::ChunkFile, number.to_be_bytes(), totals.to_row());
    rows.commit(batch)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crypto::chunk_id;
    use crate::store::disk::Folder;
    use crate::store::{Chunks, Store};

    #[test]
    fn whole_chunks_are_found_again_without_their_index() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(Folder::new(folder.path()));
        let open = |rows: &Arc<dyn Rows>| {
            LocalChunks::open(
                Arc::clone(&disk) as Arc<dyn Disk>,
                Arc::clone(rows),
                64 << 10,
            )
        };
        let of = |n: u8| vec![n; 3000 + usize::from(n) * 700];
        let ids: Vec<ChunkId> = (0..20).map(|n| chunk_id(&of(n))).collect();
        let rows = Store::memory().rows;
        let chunks = open(&rows).unwrap();
        for n in 0..20 {
            chunks.put(ids[usize::from(n)], &of(n)).unwrap();
        }
        chunks.delete(ids[3]).unwrap();
        chunks.sync().unwrap();
        drop(chunks);
        // One is damaged.
        let path = folder.path().join(layout::file_name(1));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[FIRST_OFFSET as usize + 100] ^= 1;
        std::fs::write(&path, bytes).unwrap();

        let rows = Store::memory().rows;
        let adopted = LocalChunks::adopt(&*disk, &*rows).unwrap();
        let expected = Adopted {
            kept: 18,
            damaged: 1,
        };
        assert_eq!(adopted, expected);
        let chunks = open(&rows).unwrap();
        assert_eq!(chunks.usage().count, 18);
        let here = |n: u8| chunks.get(ids[usize::from(n)]).unwrap();
        let found: Vec<u8> = (0..20).filter(|n| here(*n).is_some()).collect();
        assert_eq!(found.len(), 18);
        for n in found {
            assert_eq!(here(n).unwrap(), of(n));
        }
        // It goes on behind them.
        chunks.put(ids[3], &of(3)).unwrap();
        assert_eq!(here(3).unwrap(), of(3));
        assert_eq!(here(19).unwrap(), of(19));
    }
}
