//! Chunk files in a folder: what is read is the chunk, and what files there are.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::crypto::chunk_id;
use crate::store::Store;
use crate::store::disk::Folder;

const FILE_MAX_BYTES: u64 = 64 << 10;

struct World {
    folder: tempfile::TempDir,
    rows: Arc<dyn Rows>,
}

impl World {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            rows: Store::memory().rows,
        }
    }

    fn open(&self) -> LocalChunks {
        let disk = Arc::new(Folder::new(self.folder.path()));
        LocalChunks::open(disk, Arc::clone(&self.rows), FILE_MAX_BYTES).unwrap()
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.path().join(layout::file_name(number))
    }

    /// Returns the sizes of the files, of which the first has number 1.
    fn sizes(&self) -> Vec<u64> {
        let all = (1..100).map(|number| std::fs::metadata(self.path(number)));
        all.map_while(|found| Some(found.ok()?.len())).collect()
    }

    fn flip(&self, at: u64) {
        let mut bytes = std::fs::read(self.path(1)).unwrap();
        bytes[at as usize] ^= 1;
        std::fs::write(self.path(1), bytes).unwrap();
    }
}

fn sealed(n: u8) -> Vec<u8> {
    vec![n; 9_000]
}

fn put(chunks: &LocalChunks, n: u8) -> ChunkId {
    let id = chunk_id(&sealed(n));
    chunks.put(id, &sealed(n)).unwrap();
    id
}

#[test]
fn what_has_another_header_or_another_head_is_no_chunk() {
    let world = World::new();
    let chunks = world.open();
    let id = put(&chunks, 1);
    chunks.sync().unwrap();
    let record = FIRST_OFFSET;
    for at in [record + 10, record + layout::RECORD_HEADER_BYTES] {
        world.flip(at);
        assert!(world.open().get(id).is_err(), "{at}");
        world.flip(at);
        assert_eq!(world.open().get(id).unwrap().unwrap(), sealed(1));
    }
}

#[test]
fn a_part_of_a_chunk_is_read_as_far_as_that_goes() {
    let world = World::new();
    let chunks = world.open();
    let id = put(&chunks, 1);
    let part = |wanted: Range<usize>| chunks.get_part(id, &|_| wanted.clone()).unwrap().unwrap();
    assert_eq!(part(10..100).bytes, sealed(1)[10..100]);
    assert_eq!(part(8_990..10_000).bytes, sealed(1)[8_990..]);
    assert!(part(10_000..10_010).bytes.is_empty());
    let whole = part(0..usize::MAX);
    assert_eq!((whole.len, whole.head), (9_000, chunk_head(&sealed(1))));
    let other = chunks.get_part(chunk_id(b"other"), &|len| 0..len);
    assert!(other.unwrap().is_none());
}

#[test]
fn files_are_filled_one_after_the_other_also_after_a_restart() {
    let world = World::new();
    for n in 0..20 {
        put(&world.open(), n);
    }
    let sizes = world.sizes();
    // Each takes three pages, and the last of a file may begin before its end.
    let of_one = 12 << 10;
    assert_eq!(sizes.len(), 4, "{sizes:?}");
    for (index, size) in sizes.iter().enumerate() {
        let is_full = *size + (4 << 10) > FILE_MAX_BYTES;
        assert!(is_full || index == 3, "{sizes:?}");
        assert!(*size <= FILE_MAX_BYTES + of_one, "{sizes:?}");
    }
}

#[test]
fn room_is_given_back_of_files_in_which_nothing_is_alive() {
    let world = World::new();
    let chunks = world.open();
    let ids: Vec<ChunkId> = (0..8).map(|n| put(&chunks, n)).collect();
    assert_eq!(world.sizes().len(), 2);
    for id in &ids {
        chunks.delete(*id).unwrap();
    }
    chunks.give_back().unwrap();
    assert!(!world.path(1).exists());
    assert_eq!(chunks.usage().count, 0);
    put(&chunks, 1);
    drop(chunks);
    assert_eq!(world.open().usage().count, 1);
}

#[test]
fn chunks_of_a_file_that_is_gone_are_damaged_and_its_number_is_not_used_again() {
    let world = World::new();
    let id = put(&world.open(), 1);
    world.open().sync().unwrap();
    std::fs::remove_file(world.path(1)).unwrap();
    let chunks = world.open();
    assert!(chunks.get(id).is_err());
    assert_eq!(chunks.usage().count, 1);
    let other = put(&chunks, 2);
    assert_eq!(chunks.get(other).unwrap().unwrap(), sealed(2));
    assert!(!world.path(1).exists());
    drop(chunks);
    assert_eq!(world.open().usage().count, 2);
}
