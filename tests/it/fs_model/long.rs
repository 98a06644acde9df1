//! Files of very many pieces: no operation costs more than what it touches, and what touches much
//! does it in parts, so that nobody waits for long. Counted in rows, not in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dfs::base::Ino;
use dfs::fs::{
    Caller, Capacity, Fallocate, FileHandle, Fs, FsConfig, FsError, OpenFlags, Seek, SetAttr,
    WriteFlags, XattrMode,
};
use dfs::store::memory::MemoryDisk;

use super::mount::Disk;
use super::room::read_all;

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
    umask: 0,
};
const BOTH: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
    exclusive: false,
    sync: false,
    noatime: false,
};

/// Distance from piece to piece, and the bytes of each.
const STEP: u64 = 16 << 10;
const PIECE: usize = 100;

/// Most rows of a batch: the others wait for one, whoever they are.
const BATCH_ROWS_MAX: usize = 2100;

struct Long {
    memory: MemoryDisk,
    disk: Disk,
    fs: Fs,
    file: (Ino, FileHandle),
    pieces: u64,
}

fn create(fs: &Fs, name: &str) -> (Ino, FileHandle) {
    let created = fs.create(ROOT, Ino::ROOT, name.as_bytes(), 0o644, BOTH);
    let created = created.unwrap();
    (created.entry.attr.ino, created.opened.fh)
}

/// Returns a file with so many pieces, and holes between them.
fn long(pieces: u64) -> Long {
    let memory = MemoryDisk::new();
    let disk = Disk::on(memory.store());
    let fs = disk.mount();
    let file = create(&fs, "long");
    for index in 0..pieces {
        let bytes = [1 + index as u8 % 250; PIECE];
        let at = index * STEP;
        fs.write(file.0, file.1, at, &bytes, WriteFlags::default())
            .unwrap();
    }
    fs.fsync(file.0, file.1).unwrap();
    fs.volume().seal_drafts().unwrap();
    memory.take_largest_batch();
    Long {
        memory,
        disk,
        fs,
        file,
        pieces,
    }
}

impl Long {
    /// Returns how many extents an operation looks at.
    fn visits<T>(&self, operation: impl FnOnce(&Fs) -> T) -> (T, u64) {
        let before = self.fs.volume().extents_visited();
        let done = operation(&self.fs);
        (done, self.fs.volume().extents_visited() - before)
    }

    fn extents(&self) -> usize {
        let extents = self.fs.volume().extents(self.file.0, 0..u64::MAX);
        extents.unwrap().len()
    }

    fn blocks(&self) -> u64 {
        self.fs.getattr(self.file.0).unwrap().attr.blocks
    }

    fn close(&self) {
        self.fs.flush(self.file.0, self.file.1).unwrap();
        self.fs.release(self.file.0, self.file.1).unwrap();
    }

    #[track_caller]
    fn check_batches(&self) {
        let rows = self.memory.take_largest_batch();
        assert!(rows <= BATCH_ROWS_MAX, "a batch of {rows} rows");
    }
}

#[test]
fn a_reservation_on_a_disk_that_is_nearly_full_looks_at_some_pieces() {
    let long = long(3_000);
    let size = 2_999 * STEP + PIECE as u64;
    let missing = size - long.pieces * PIECE as u64;
    long.close();
    let Long { disk, fs, file, .. } = long;
    drop(fs);
    let free = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&free);
    let fs = disk.mount_with(FsConfig {
        capacity: Some(Arc::new(move || Capacity {
            total_bytes: 1 << 40,
            free_bytes: told.load(Ordering::Relaxed),
        })),
        ..FsConfig::default()
    });
    let entry = fs.lookup(Ino::ROOT, b"long").unwrap();
    assert_eq!(entry.attr.ino, file.0);
    let fh = fs.open(ROOT, file.0, BOTH).unwrap().fh;
    let reserve = |bytes, end| {
        free.store(bytes, Ordering::Relaxed);
        let before = fs.volume().extents_visited();
        let mode = Fallocate::Reserve { keep_size: true };
        let done = fs.fallocate(ROOT, file.0, fh, 0, end, mode);
        let visits = fs.volume().extents_visited() - before;
        assert!(visits <= 1_100, "{visits} extents");
        done
    };
    // Of the whole file it is exact nevertheless.
    assert!(reserve(missing, size).is_ok());
    assert!(matches!(reserve(missing - 1, size), Err(FsError::NoSpace)));
    assert!(reserve(missing + 5, size + 5).is_ok());
    // And of its start, where it has only that to look at.
    let start = 100 * STEP;
    let missing = start - 100 * PIECE as u64;
    assert!(reserve(missing, start).is_ok());
    assert!(matches!(reserve(missing - 1, start), Err(FsError::NoSpace)));
}

#[test]
fn a_search_for_data_or_a_hole_looks_at_what_is_next() {
    let long = long(3_000);
    let (ino, fh) = long.file;
    for index in [0, 1, 1_500, 2_998] {
        let at = index * STEP;
        for (from, seek, found) in [
            (at, Seek::Data, at),
            (at, Seek::Hole, at + PIECE as u64),
            (at + PIECE as u64, Seek::Data, at + STEP),
        ] {
            let (answer, visits) = long.visits(|fs| fs.lseek(ino, fh, from, seek));
            assert_eq!(answer.unwrap(), found);
            assert!(visits <= 3, "{visits} extents for {seek:?} from {from}");
        }
    }
    // Unwritten changes lie between.
    let at = 7 * STEP + 5_000;
    long.fs
        .write(ino, fh, at, b"new", WriteFlags::default())
        .unwrap();
    let from = 7 * STEP + PIECE as u64;
    assert_eq!(long.fs.lseek(ino, fh, from, Seek::Data).unwrap(), at);
    assert_eq!(long.fs.lseek(ino, fh, at, Seek::Hole).unwrap(), at + 3);
}

#[test]
fn a_long_stretch_of_data_is_searched_in_parts() {
    let disk = Disk::new();
    let fs = disk.mount();
    let (ino, fh) = create(&fs, "dense");
    for index in 0..2_500u64 {
        // Apart in the log, and so in rows.
        fs.write(ino, fh, index * 10, &[1; 10], WriteFlags::default())
            .unwrap();
        fs.flush(ino, fh).unwrap();
    }
    let first = fs.lseek_some(ino, fh, 0, Seek::Hole).unwrap();
    let found = fs.lseek(ino, fh, 0, Seek::Hole).unwrap();
    assert_eq!(found, 25_000);
    let extents = fs.volume().extents(ino, 0..u64::MAX).unwrap().len();
    let is_part = matches!(first, dfs::fs::Sought::Further(_));
    assert_eq!(is_part, extents > 1_024, "{extents} extents");
}

#[test]
fn a_copy_answers_short_where_there_are_many_pieces() {
    let long = long(3_000);
    let (ino, fh) = long.file;
    let size = long.fs.getattr(ino).unwrap().attr.size;
    let copy = create(&long.fs, "copy");
    let (mut done, mut calls, mut all) = (0, 0, 0);
    while done < size {
        let (from, to) = ((ino, fh, done), (copy.0, copy.1, done));
        let (copied, visits) =
            long.visits(|fs| fs.copy_file_range(ROOT, from, to, size - done).unwrap());
        assert!(copied > 0);
        assert!(visits <= 1_500, "{visits} extents for one call");
        done += copied;
        calls += 1;
        all += visits;
    }
    assert!(calls > 10, "{calls} calls");
    assert!(all <= 8 * long.pieces, "{all} extents looked at");
    long.check_batches();
    assert!(read_all(&long.fs, copy.0, copy.1) == read_all(&long.fs, ino, fh));
}

#[test]
fn a_punch_through_many_pieces_is_done_in_parts() {
    let long = long(6_000);
    let (ino, fh) = long.file;
    let before = long.blocks();
    let (start, end) = (STEP, (long.pieces - 1) * STEP);
    let (punched, visits) =
        long.visits(|fs| fs.fallocate(ROOT, ino, fh, start, end - start, Fallocate::PunchHole));
    punched.unwrap();
    assert!(visits <= 1_100, "{visits} extents for the call");
    assert!(long.fs.is_flush_slow(ino));
    // The size of what is taken away is told when it is.
    let (blocks, visits) = long.visits(|_| long.blocks());
    assert!(visits <= 1_100, "{visits} extents for the attributes");
    assert!(blocks < before);
    let (synced, visits) = long.visits(|fs| fs.fsync(ino, fh));
    synced.unwrap();
    assert!(visits <= 8 * long.pieces, "{visits} extents to write it");
    long.check_batches();
    assert_eq!(long.extents(), 2);
    assert_eq!(long.blocks(), (2 * PIECE as u64).div_ceil(512));
    let told = long.fs.tick();
    assert!(told.contains(&dfs::fs::Invalidation::Attr(ino)), "{told:?}");
}

#[test]
fn a_file_of_many_pieces_is_cut_in_parts() {
    let long = long(6_000);
    long.close();
    let kept = 10 * STEP + PIECE as u64;
    let set = SetAttr {
        size: Some(kept),
        ..SetAttr::default()
    };
    assert!(long.fs.is_cut_long(long.file.0, kept).unwrap());
    let (changed, visits) = long.visits(|fs| fs.setattr(ROOT, long.file.0, set));
    assert_eq!(changed.unwrap().attr.size, kept);
    assert!(visits <= 8 * long.pieces, "{visits} extents");
    long.check_batches();
    // It is in the journal.
    assert_eq!(long.fs.counts().dirty_inodes, 0);
    assert_eq!(long.extents(), 11);
    assert!(!long.fs.is_cut_long(long.file.0, 0).unwrap());
    let inode = long.fs.volume().inode(long.file.0).unwrap().unwrap();
    assert_eq!((inode.size, inode.stored), (kept, 11 * PIECE as u64));
}

#[test]
fn a_long_cut_that_finds_no_room_is_there_and_goes_on_later() {
    let long = long(6_000);
    long.close();
    long.memory.set_writes_left(Some(3));
    let set = SetAttr {
        size: Some(7),
        ..SetAttr::default()
    };
    let changed = long.fs.setattr(ROOT, long.file.0, set).unwrap();
    assert_eq!(changed.attr.size, 7);
    assert!(long.memory.refused() > 0);
    long.memory.set_writes_left(None);
    // What is cut off stays so, also where the file grows again.
    let set = SetAttr {
        size: Some(3 * STEP),
        ..SetAttr::default()
    };
    long.fs.setattr(ROOT, long.file.0, set).unwrap();
    let fh = long.fs.open(ROOT, long.file.0, BOTH).unwrap().fh;
    let bytes = read_all(&long.fs, long.file.0, fh);
    let mut expected = vec![0; 3 * STEP as usize];
    expected[..7].fill(1);
    assert!(bytes == expected);
    long.fs.sync_all().unwrap();
    assert_eq!(long.extents(), 1);
}

#[test]
fn a_file_of_many_pieces_is_replaced_and_removed_in_parts() {
    let long = long(6_000);
    let truncating = OpenFlags {
        truncate: true,
        ..BOTH
    };
    let (opened, visits) = long.visits(|fs| fs.open(ROOT, long.file.0, truncating));
    let fh = opened.unwrap().fh;
    assert!(visits <= 1_100, "{visits} extents to open");
    let file = (long.file.0, fh);
    long.fs
        .write(file.0, file.1, 0, b"anew", WriteFlags::default())
        .unwrap();
    long.fs.fsync(file.0, file.1).unwrap();
    long.check_batches();
    assert_eq!(long.extents(), 1);
}

#[test]
fn what_a_removed_file_of_many_pieces_held_is_given_up_in_parts() {
    let long = long(6_000);
    let ino = long.file.0;
    long.close();
    let (removed, visits) = long.visits(|fs| fs.unlink(Ino::ROOT, b"long"));
    removed.unwrap();
    assert_eq!(visits, 0);
    long.fs.forget(ino, 1);
    long.fs.volume().seal_drafts().unwrap();
    long.check_batches();
    assert!(long.fs.volume().inode(ino).unwrap().is_none());
    assert_eq!(long.extents(), 0);
    drop(long.fs);
    let fs = long.disk.mount();
    assert_eq!(fs.volume().counts().inodes, 1);
    assert_eq!(fs.volume().counts().bytes, 0);
}

#[test]
fn what_a_program_goes_on_writing_to_a_removed_file_is_given_up_in_parts() {
    let long = long(6_000);
    let (ino, fh) = long.file;
    long.fs.unlink(Ino::ROOT, b"long").unwrap();
    long.fs
        .write(ino, fh, 5, b"private", WriteFlags::default())
        .unwrap();
    long.fs.fsync(ino, fh).unwrap();
    long.memory.take_largest_batch();
    long.close();
    long.fs.forget(ino, 1);
    long.fs.volume().seal_drafts().unwrap();
    long.check_batches();
    assert_eq!(long.fs.volume().counts().inodes, 1);
}

#[test]
fn attributes_that_could_not_be_listed_are_refused() {
    let disk = Disk::new();
    let fs = disk.mount();
    let (ino, _) = create(&fs, "many");
    let name = |n: usize| format!("user.{n:05}{}", "n".repeat(240));
    let set = |n: usize| fs.setxattr(ROOT, ino, name(n).as_bytes(), b"v", XattrMode::Either);
    let refused = (0..600).find(|n| match set(*n) {
        Ok(()) => false,
        Err(FsError::NoSpace) => true,
        Err(error) => panic!("{error}"),
    });
    let count = refused.expect("a list has an end");
    let list = fs.listxattr(ROOT, ino).unwrap();
    assert!(list.len() <= 64 << 10);
    assert_eq!(list.iter().filter(|byte| **byte == 0).count(), count);
    assert!(list.len() + name(0).len() + 1 > 64 << 10);
    // What is there can be replaced, and room be made.
    set(0).unwrap();
    fs.removexattr(ino, name(1).as_bytes()).unwrap();
    set(1).unwrap();
    // Short names are more.
    let (ino, _) = create(&fs, "short");
    for n in 0..2_000 {
        let name = format!("user.{n}");
        fs.setxattr(ROOT, ino, name.as_bytes(), b"v", XattrMode::Create)
            .unwrap();
    }
}
