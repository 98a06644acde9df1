//! Space: what is removed comes back, also beside copies and before a full disk is told of; what is
//! reserved is what is missing.

use std::sync::Arc;

use dfs::base::{ChunkId, Ino};
use dfs::fs::{
    Caller, Capacity, Fallocate, FileHandle, Fs, FsConfig, FsError, OpenFlags, OwnRoom, RoomSource,
    WriteFlags,
};
use dfs::log::checkpoint::Tree;
use dfs::store::Store;
use dfs::volume::{Kept, OpKind};
use mount_tests::source::pattern;

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
const MIB: u64 = 1 << 20;

/// A machine whose disk takes so many bytes of chunks.
struct Machine {
    store: Store,
    room: u64,
}

impl RoomSource for Machine {
    fn own(&self) -> OwnRoom {
        OwnRoom {
            disk_bytes: self.room.saturating_sub(self.store.chunks.usage().bytes),
            allowed_bytes: u64::MAX,
        }
    }
}

/// Mounts on a machine with room for so many chunks, and for what seals them.
fn mount(disk: &Disk, mib: u64) -> Fs {
    let machine = Arc::new(Machine {
        store: disk.store.clone(),
        room: mib * MIB + (64 << 10),
    });
    let of_volume = Arc::clone(&machine);
    let capacity = move || Capacity {
        total_bytes: of_volume.room,
        free_bytes: of_volume.own().disk_bytes,
    };
    disk.mount_with(FsConfig {
        dirty_bytes_max: 3 * MIB,
        capacity: Some(Arc::new(capacity)),
        room: Some(machine),
        rows: Some(Arc::clone(&disk.store.rows)),
        ..FsConfig::default()
    })
}

fn create(fs: &Fs, name: &str) -> (Ino, FileHandle) {
    let created = fs.create(ROOT, Ino::ROOT, name.as_bytes(), 0o644, BOTH);
    let created = created.unwrap();
    (created.entry.attr.ino, created.opened.fh)
}

fn close(fs: &Fs, (ino, fh): (Ino, FileHandle)) {
    fs.flush(ino, fh).unwrap();
    fs.release(ino, fh).unwrap();
    fs.forget(ino, 1);
}

/// Writes a file of so many MiB that no other file is like; the error of the first write that
/// fails.
fn store(fs: &Fs, name: &str, mib: u64, seed: u64) -> Result<(), FsError> {
    let file = create(fs, name);
    let bytes = pattern((mib * MIB) as usize, seed);
    let pieces = (0..).zip(bytes.chunks(MIB as usize));
    let written = pieces
        .map(|(number, piece)| fs.write(file.0, file.1, number * MIB, piece, WriteFlags::default()))
        .find_map(Result::err);
    close(fs, file);
    written.map_or(Ok(()), Err)
}

fn copy(fs: &Fs, from: &str, to: &str, mib: u64) {
    let entry = fs.lookup(Ino::ROOT, from.as_bytes()).unwrap();
    let from = (
        entry.attr.ino,
        fs.open(ROOT, entry.attr.ino, BOTH).unwrap().fh,
    );
    let to = create(fs, to);
    let copied = fs.copy_file_range(ROOT, (from.0, from.1, 0), (to.0, to.1, 0), mib * MIB);
    assert_eq!(copied.unwrap(), mib * MIB);
    close(fs, from);
    close(fs, to);
}

fn unlink(fs: &Fs, name: &str) {
    fs.unlink(Ino::ROOT, name.as_bytes()).unwrap();
}

fn remove(fs: &Fs, name: &str) {
    unlink(fs, name);
    fs.volume().seal_drafts().unwrap();
}

#[test]
fn what_is_removed_beside_copies_is_noticed_also_after_a_new_start() {
    let disk = Disk::new();
    let fs = mount(&disk, 100);
    let count = || disk.store.chunks.usage().count;
    let collect = |fs: &Fs| Some(fs.collect_if_due(3 * MIB).unwrap()?.count);
    store(&fs, "project", 4, 1).unwrap();
    for number in 0..3 {
        copy(&fs, "project", &format!("copy {number}"), 4);
    }
    assert_eq!(collect(&fs), None, "all is needed");
    store(&fs, "download", 3, 2).unwrap();
    assert_eq!(collect(&fs), None, "all is needed");
    remove(&fs, "download");
    assert_eq!(fs.superfluous_bytes() / MIB, 3);
    assert_eq!(collect(&fs), Some(3));
    assert_eq!((count(), fs.superfluous_bytes()), (4, 0));

    // What small files took is not mistaken for chunks.
    for number in 0..400 {
        let file = create(&fs, &format!("small {number}"));
        let bytes = pattern(12_000, number);
        fs.write(file.0, file.1, 0, &bytes, WriteFlags::default())
            .unwrap();
        close(&fs, file);
    }
    for number in 0..400 {
        remove(&fs, &format!("small {number}"));
    }
    assert_eq!(collect(&fs), None, "no chunk has become superfluous");

    store(&fs, "download", 5, 3).unwrap();
    assert_eq!(collect(&fs), None);
    fs.sync_all().unwrap();
    drop(fs);
    let fs = mount(&disk, 100);
    assert_eq!(collect(&fs), None, "nothing was removed meanwhile");
    remove(&fs, "download");
    assert_eq!(collect(&fs), Some(5));
    // The copies and what they are of go, one after the other.
    for name in ["project", "copy 0", "copy 1"] {
        remove(&fs, name);
        assert_eq!(collect(&fs).unwrap_or(0), 0);
    }
    assert_eq!(count(), 4);
    remove(&fs, "copy 2");
    assert_eq!(collect(&fs), Some(4));
    assert_eq!(count(), 0);
}

/// A collection that ends in the middle of a write sees chunks that no file has yet: they are no part of
/// what stays when all is needed.
#[test]
fn what_was_written_beside_a_collection_is_noticed_when_it_goes() {
    let disk = Disk::new();
    let fs = mount(&disk, 100);
    let file = create(&fs, "image");
    let bytes = pattern((6 * MIB) as usize, 1);
    for (number, piece) in (0..).zip(bytes.chunks(MIB as usize)) {
        fs.write(file.0, file.1, number * MIB, piece, WriteFlags::default())
            .unwrap();
    }
    let sealed = disk.store.chunks.usage().count;
    assert!(sealed > 0, "chunks are sealed while the file is written");
    fs.collect().unwrap();
    fs.flush(file.0, file.1).unwrap();
    assert_eq!(disk.store.chunks.usage().count, 6);
    let all = Fallocate::PunchHole;
    fs.fallocate(ROOT, file.0, file.1, 0, 6 * MIB, all).unwrap();
    fs.sync_all().unwrap();
    fs.volume().seal_drafts().unwrap();
    let collected = fs.collect_if_due(6 * MIB).unwrap();
    assert_eq!(collected.map(|collected| collected.count), Some(6));
    close(&fs, file);
}

#[test]
fn a_full_disk_gives_up_what_nothing_needs_before_it_says_so() {
    let disk = Disk::new();
    let fs = mount(&disk, 8);
    store(&fs, "kept", 1, 1).unwrap();
    copy(&fs, "kept", "copy", 1);
    for round in 0..3 {
        store(&fs, "download", 5, 10 + round).unwrap();
        unlink(&fs, "download");
    }
    store(&fs, "download", 5, 20).unwrap();
    // Nothing is superfluous now.
    let refused = store(&fs, "more", 3, 30);
    assert!(matches!(refused, Err(FsError::NoSpace)), "{refused:?}");
    let entry = fs.lookup(Ino::ROOT, b"copy").unwrap();
    let opened = fs.open(ROOT, entry.attr.ino, BOTH).unwrap();
    let copy = read_all(&fs, entry.attr.ino, opened.fh);
    assert_eq!(copy, pattern(MIB as usize, 1));
    // A small file still has room, and so has what frees some.
    let small = create(&fs, "small");
    fs.write(small.0, small.1, 0, b"small", WriteFlags::default())
        .unwrap();
    close(&fs, small);
    unlink(&fs, "more");
    unlink(&fs, "download");
    store(&fs, "again", 6, 40).unwrap();
}

#[test]
fn a_refused_write_leaves_the_file_as_it_was() {
    let disk = Disk::new();
    let fs = mount(&disk, 2);
    store(&fs, "full", 2, 1).unwrap();
    let file = create(&fs, "file");
    fs.write(file.0, file.1, 0, b"before", WriteFlags::default())
        .unwrap();
    let large = pattern(MIB as usize, 2);
    let refused = fs.write(file.0, file.1, 3, &large, WriteFlags::default());
    assert!(matches!(refused, Err(FsError::NoSpace)), "{refused:?}");
    assert_eq!(read_all(&fs, file.0, file.1), b"before");
    close(&fs, file);
}

#[test]
fn a_reservation_asks_for_what_is_missing() {
    let disk = Disk::new();
    let fs = mount(&disk, 16);
    store(&fs, "half", 8, 1).unwrap();
    let entry = fs.lookup(Ino::ROOT, b"half").unwrap();
    let ino = entry.attr.ino;
    let fh = fs.open(ROOT, ino, BOTH).unwrap().fh;
    let reserve = |from: u64, to: u64| {
        let mode = Fallocate::Reserve { keep_size: true };
        fs.fallocate(ROOT, ino, fh, from * MIB, (to - from) * MIB, mode)
    };
    assert!(reserve(0, 16).is_ok());
    assert!(reserve(4, 15).is_ok());
    assert!(matches!(reserve(0, 17), Err(FsError::NoSpace)));
    assert!(matches!(reserve(8, 17), Err(FsError::NoSpace)));
    // What is written and not stored yet is there, too; a hole is not.
    fs.write(ino, fh, 8 * MIB, &[7; 100], WriteFlags::default())
        .unwrap();
    assert!(reserve(0, 16).is_ok());
    fs.fallocate(ROOT, ino, fh, 0, 2 * MIB, Fallocate::PunchHole)
        .unwrap();
    fs.flush(ino, fh).unwrap();
    assert!(matches!(reserve(0, 17), Err(FsError::NoSpace)));
    fs.volume().seal_drafts().unwrap();
    // With the chunks of the hole given up its bytes fit again.
    assert!(reserve(0, 16).is_ok());
}

#[test]
fn history_stays_while_giving_it_up_makes_no_room() {
    let disk = Disk::new();
    let fs = mount(&disk, 6);
    let volume = fs.volume();
    volume.keep_history(u64::MAX).unwrap();
    store(&fs, "a", 3, 1).unwrap();
    remove(&fs, "a");
    // Nobody has its tree, so nobody knows what it names.
    let unknown = Kept {
        name: "unknown".to_owned(),
        time_ms: 0,
        tree: Tree {
            root: ChunkId([9; 32]),
            len: 1,
            level: 0,
        },
        nodes: 1,
        bytes: 1,
    };
    let made = volume.write().unwrap().apply(OpKind::Snapshot(unknown));
    let full = store(&fs, "b", 5, 2);
    assert!(matches!(full, Err(FsError::NoSpace)), "{full:?}");
    assert_eq!(volume.removals().unwrap().of(Ino::ROOT).unwrap().len(), 1);
    volume.drop_snapshot(made.unwrap().id).unwrap();
    remove(&fs, "b");
    store(&fs, "c", 5, 3).unwrap();
    assert_eq!(volume.removals().unwrap().of(Ino::ROOT).unwrap().len(), 0);
}
