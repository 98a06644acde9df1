//! Chunk files in a folder: what is read is the chunk, and what files there are.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::crypto::chunk_id;
use crate::store::Store;
use crate::store::disk::Folder;
use crate::store::told::{Done, ToldFolder, ToldRows};

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

/// Chunk files and rows that tell what is done to them.
struct Told {
    world: World,
    disk: Arc<ToldFolder>,
    rows: Arc<ToldRows>,
}

impl Told {
    fn new() -> Self {
        let world = World::new();
        Self {
            disk: ToldFolder::new(world.folder.path()),
            rows: ToldRows::new(Arc::clone(&world.rows)),
            world,
        }
    }

    fn open(&self) -> Result<LocalChunks, StoreError> {
        self.open_behind(Gate::default())
    }

    fn open_behind(&self, gate: Gate) -> Result<LocalChunks, StoreError> {
        let (disk, rows) = (Arc::clone(&self.disk), Arc::clone(&self.rows));
        Ok(LocalChunks {
            core: Arc::new(Core::open(disk, rows, FILE_MAX_BYTES, gate)?),
            reclaim: Reclaim::Inline,
        })
    }

    fn count(&self, table: Table) -> usize {
        let mut count = 0;
        let mut visit = |_: &[u8]| {
            count += 1;
            ControlFlow::Continue(())
        };
        let rows = &self.world.rows;
        rows.scan_keys(table, &[], None, &mut visit).unwrap();
        count
    }
}

#[test]
fn what_was_synced_is_looked_at_no_more_but_what_a_copy_of_the_folder_may_lack_is() {
    let (told, gate) = (Told::new(), Gate::default());
    let chunks = told.open_behind(gate.clone()).unwrap();
    put(&chunks, 1);
    assert_eq!(told.count(Table::ChunkFresh), 1);
    chunks.sync().unwrap();
    assert_eq!(told.count(Table::ChunkFresh), 0);
    gate.close();
    put(&chunks, 2);
    chunks.sync().unwrap();
    assert_eq!(told.count(Table::ChunkFresh), 1);
    // The next process knows better.
    drop(chunks);
    told.open().unwrap().sync().unwrap();
    assert_eq!(told.count(Table::ChunkFresh), 0);
}

#[test]
fn puts_do_without_a_sync_until_an_opening_would_have_much_to_read() {
    let told = Told::new();
    let chunks = told.open().unwrap();
    for n in 1..=FRESH_MAX {
        let bytes = (n as u64).to_le_bytes();
        chunks.put(chunk_id(&bytes), &bytes).unwrap();
        let fresh = if n < FRESH_MAX { n } else { 0 };
        assert_eq!(chunks.core.state.lock().fresh.len(), fresh);
    }
    let done = told.disk.take();
    let syncs = done.iter().filter(|(what, _)| *what == Done::Sync);
    assert_eq!(syncs.count(), chunks.core.state.lock().files.len());
}

#[test]
fn a_put_that_failed_leaves_its_room_to_the_next_and_its_file_can_go() {
    let told = Told::new();
    let chunks = told.open().unwrap();
    let kept = put(&chunks, 0);
    let size = told.world.sizes()[0];
    told.rows.refuse_commits(io::ErrorKind::StorageFull);
    for n in 1..40 {
        let refused = chunks.put(chunk_id(&sealed(n)), &sealed(n));
        assert!(matches!(refused, Err(StoreError::Full)));
    }
    told.rows.allow();
    let ids: Vec<ChunkId> = (1..4).map(|n| put(&chunks, n)).collect();
    assert!(told.world.sizes()[0] <= 4 * size);

    // One that fails while another is put behind it.
    let chunks = Arc::new(chunks);
    let beside = Arc::clone(&chunks);
    told.disk.set_rule(move |(what, _)| match what {
        Done::Write => {
            put(&beside, 50);
            Err(io::ErrorKind::Other.into())
        }
        _ => Ok(()),
    });
    assert!(chunks.put(chunk_id(&sealed(51)), &sealed(51)).is_err());
    told.disk.allow();
    let beside = chunk_id(&sealed(50));
    let later: Vec<ChunkId> = (60..70).map(|n| put(&chunks, n)).collect();
    assert_eq!(chunks.get(beside).unwrap().unwrap(), sealed(50));
    assert_eq!(chunks.get(later[0]).unwrap().unwrap(), sealed(60));
    assert!(told.world.sizes().len() > 1);
    for id in ids.into_iter().chain([kept, beside]).chain(later) {
        chunks.delete(id).unwrap();
    }
    chunks.give_back().unwrap();
    assert!(!told.world.path(1).exists());
}

#[test]
fn a_chunk_that_is_deleted_while_it_is_read_was_there_or_was_not() {
    for is_put_again in [false, true] {
        for is_part in [false, true] {
            let told = Told::new();
            let chunks = Arc::new(told.open().unwrap());
            let id = put(&chunks, 1);
            put(&chunks, 2);
            let (of_other, mut is_due) = (Arc::clone(&chunks), true);
            told.disk.set_rule(move |(what, _)| {
                if what == Done::Read && std::mem::take(&mut is_due) {
                    of_other.delete(id).unwrap();
                    of_other.give_back().unwrap();
                    if is_put_again {
                        put(&of_other, 1);
                    }
                }
                Ok(())
            });
            let read = if is_part {
                let part = chunks.get_part(id, &|_| 5..9_000).unwrap();
                part.map(|part| part.bytes)
            } else {
                chunks.get(id).unwrap().map(|bytes| bytes.slice(5..))
            };
            let expected = is_put_again.then(|| Bytes::from(sealed(1)).slice(5..));
            assert_eq!(read, expected, "{is_put_again} {is_part}");
        }
    }
}

#[test]
fn the_thread_gives_back_room_whenever_there_is_some() {
    let told = Told::new();
    let (sender, removed) = std::sync::mpsc::channel();
    told.disk.set_rule(move |(what, name)| {
        if what == Done::Remove {
            sender.send(name).unwrap();
        }
        Ok(())
    });
    let (disk, rows) = (Arc::clone(&told.disk), Arc::clone(&told.rows));
    let chunks = LocalChunks::open_with_thread(disk, rows, FILE_MAX_BYTES, Gate::default());
    let chunks = chunks.unwrap();
    for round in 1..4 {
        let ids: Vec<ChunkId> = (0..8).map(|n| put(&chunks, 8 * round + n)).collect();
        for id in ids {
            chunks.delete(id).unwrap();
        }
        chunks.sync().unwrap();
        let name = removed.recv_timeout(std::time::Duration::from_secs(30));
        assert_eq!(name.unwrap(), layout::file_name(u32::from(round)));
    }
}

#[test]
fn room_that_is_given_back_counts_as_free_when_that_is_said() {
    let told = Told::new();
    let chunks = told.open().unwrap();
    let id = put(&chunks, 1);
    put(&chunks, 2);
    chunks.sync().unwrap();
    chunks.delete(id).unwrap();
    told.disk.take();
    chunks.give_back().unwrap();
    let done: Vec<Done> = told.disk.take().into_iter().map(|(what, _)| what).collect();
    assert_eq!(done, [Done::Punch, Done::SyncNames, Done::Sync]);
}

#[test]
fn what_cannot_be_given_back_waits_for_the_next_opening() {
    let told = Told::new();
    let chunks = told.open().unwrap();
    let ids: Vec<ChunkId> = (0..8).map(|n| put(&chunks, n)).collect();
    for id in &ids {
        chunks.delete(*id).unwrap();
    }
    // Each dead place is known for good, by an opening that gives nothing back, too.
    drop(chunks);
    drop(told.open().unwrap());
    assert_eq!(told.count(Table::ChunkDead), 8);
    let chunks = told.open().unwrap();
    told.disk.refuse(Done::Remove, "", io::ErrorKind::Other);
    assert!(chunks.give_back().is_err());
    told.disk.allow();
    drop(chunks);
    told.open().unwrap().give_back().unwrap();
    assert!(!told.world.path(1).exists());
    assert_eq!(told.count(Table::ChunkDead), 0);
    assert_eq!(told.count(Table::ChunkFile), 1);
}

#[test]
fn chunks_of_a_file_that_is_gone_can_be_deleted() {
    for is_open in [false, true] {
        let told = Told::new();
        let mut chunks = told.open().unwrap();
        let ids: Vec<ChunkId> = (0..8).map(|n| put(&chunks, n)).collect();
        chunks.sync().unwrap();
        std::fs::remove_file(told.world.path(1)).unwrap();
        if !is_open {
            chunks = told.open().unwrap();
            let lost = chunks.get(ids[0]);
            assert!(matches!(lost, Err(StoreError::Corrupt { .. })), "{lost:?}");
        }
        // A part of what lies there, and then all.
        for some in [&ids[..1], &ids[1..]] {
            for id in some {
                chunks.delete(*id).unwrap();
            }
            chunks.give_back().unwrap();
        }
        assert_eq!(chunks.usage().count, 0);
        assert_eq!(told.count(Table::ChunkDead), 0);
        put(&told.open().unwrap(), 9);
    }
}

#[test]
fn a_file_that_no_row_names_is_not_written_over() {
    let world = World::new();
    let of_somebody = vec![7; 20_000];
    std::fs::write(world.path(1), &of_somebody).unwrap();
    let chunks = world.open();
    let ids: Vec<ChunkId> = (0..8).map(|n| put(&chunks, n)).collect();
    for (n, id) in (0..).zip(ids) {
        assert_eq!(chunks.get(id).unwrap().unwrap(), sealed(n));
    }
    let bytes = std::fs::read(world.path(1)).unwrap();
    assert!(bytes.starts_with(&of_somebody));
}

#[test]
fn what_an_opening_finds_out_is_said_to_the_rows_or_found_out_again() {
    let told = Told::new();
    let chunks = told.open().unwrap();
    let (id, other) = (put(&chunks, 1), put(&chunks, 2));
    drop(chunks);
    // As a power cut leaves what was never synced.
    told.world.flip(FIRST_OFFSET + 100);
    told.rows.refuse_commits(io::ErrorKind::Other);
    assert!(told.open().is_err());
    told.rows.refuse_commits(io::ErrorKind::StorageFull);
    drop(told.open().unwrap());
    told.rows.allow();
    let chunks = told.open().unwrap();
    assert_eq!(chunks.get(id).unwrap(), None);
    assert_eq!(chunks.get(other).unwrap().unwrap(), sealed(2));
}

#[test]
fn chunks_that_cannot_be_read_now_keep_nobody_from_the_others() {
    let told = Told::new();
    let chunks = told.open().unwrap();
    let id = put(&chunks, 1);
    drop(chunks);
    told.disk.refuse(Done::Read, "", io::ErrorKind::Other);
    let chunks = told.open().expect("an opening");
    chunks.sync().unwrap();
    assert!(chunks.get(id).is_err());
    let other = put(&chunks, 2);
    drop(chunks);
    told.disk.allow();
    // Nor is it forgotten, or taken for whole, unread.
    assert_eq!(told.count(Table::ChunkFresh), 2);
    let chunks = told.open().unwrap();
    assert_eq!(chunks.get(id).unwrap().unwrap(), sealed(1));
    assert_eq!(chunks.get(other).unwrap().unwrap(), sealed(2));
    chunks.sync().unwrap();
    assert_eq!(told.count(Table::ChunkFresh), 0);
}
