//! Single behaviours and the failures that were found.

use std::sync::Arc;

use bytes::Bytes;
use dfs::base::limits::DRAFT_AGE_MAX;
use dfs::base::{Ino, Rng, Timespec};
use dfs::fs::{
    Caller, Created, Fallocate, FileHandle, FileKind, Fs, FsConfig, FsError, Invalidation,
    OpenFlags, ReadPlan, RenameMode, Reply, SetAttr, SetTime, WriteFlags, XattrMode,
};
use dfs::store::memory::MemoryDisk;
use dfs::volume::{Change, Extent, Inode, OpKind, Piece, Source, Write};
use mount_tests::model::executor::Errno;

use super::mount::Disk;
use super::room::{outcome, read_all};

pub(super) const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
    umask: 0,
};
const USER: Caller = Caller {
    uid: 1000,
    gid: 1000,
    pid: 2,
    umask: 0o022,
};
pub(super) const BOTH: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
    exclusive: false,
    sync: false,
    noatime: false,
};
const MIB: usize = 1 << 20;

pub(super) fn create(fs: &Fs, name: &str) -> (Ino, FileHandle) {
    let Created { entry, opened } = fs
        .create(ROOT, Ino::ROOT, name.as_bytes(), 0o644, BOTH)
        .unwrap();
    (entry.attr.ino, opened.fh)
}

pub(super) fn write(fs: &Fs, (ino, fh): (Ino, FileHandle), at: u64, data: &[u8]) {
    let written = fs.write(ino, fh, at, data, WriteFlags::default()).unwrap();
    assert_eq!(written, data.len());
}

fn close(fs: &Fs, (ino, fh): (Ino, FileHandle)) {
    fs.flush(ino, fh).unwrap();
    fs.release(ino, fh).unwrap();
}

/// Replaces a file's content behind the filesystem, as a merge does.
pub(super) fn write_elsewhere(fs: &Fs, inode: &Inode, bytes: &'static [u8]) {
    let len = bytes.len() as u64;
    let write = Write {
        ino: inode.ino,
        base: inode.version,
        size: len,
        pieces: vec![Piece {
            offset: 0,
            len,
            src: Some(Source::Inline(Bytes::from_static(bytes))),
        }],
        mtime: inode.mtime,
        ctime: inode.ctime,
        mode: None,
        empties: false,
    };
    fs.volume()
        .write()
        .unwrap()
        .apply(OpKind::Write(write))
        .unwrap();
}

fn drafts(fs: &Fs) -> u64 {
    fs.volume().counts().drafts
}

/// Bytes that no deduplication makes smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = len as u32 | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn a_small_append_and_its_fsync_are_one_op_with_inline_bytes() {
    let disk = Disk::new();
    let fs = disk.mount();
    let flags = OpenFlags {
        append: true,
        ..BOTH
    };
    let created = fs.create(ROOT, Ino::ROOT, b"log", 0o644, flags).unwrap();
    let file = (created.entry.attr.ino, created.opened.fh);
    for round in 1..=5 {
        let before = drafts(&fs);
        write(&fs, file, 0, &[round; 4096]);
        fs.fsync(file.0, file.1).unwrap();
        assert_eq!(drafts(&fs), before + 1);
    }
    let inode = fs.volume().inode(file.0).unwrap().unwrap();
    assert_eq!((inode.size, inode.stored), (5 * 4096, 5 * 4096));
    let extents = fs.volume().extents(file.0, 0..inode.size).unwrap();
    let is_inline = |extent: &Extent| matches!(extent.src, Source::Inline(_));
    assert!(extents.iter().all(is_inline));
}

#[test]
fn a_large_file_that_is_written_and_closed_is_one_op() {
    let disk = Disk::new();
    let fs = disk.mount_with(FsConfig::default());
    let file = create(&fs, "big");
    let before = drafts(&fs);
    let data = noise(5 * MIB + 300_000);
    for (index, part) in data.chunks(128 << 10).enumerate() {
        write(&fs, file, (index * (128 << 10)) as u64, part);
    }
    assert_eq!(drafts(&fs), before);
    fs.flush(file.0, file.1).unwrap();
    assert_eq!(drafts(&fs), before + 1);
    assert_eq!(fs.volume().extents(file.0, 0..u64::MAX).unwrap().len(), 6);
    assert!(read_all(&fs, file.0, file.1) == data);
}

/// Fills a file with more bytes in rows than one record may keep: blocks, each written by itself.
fn fill_with_rows(fs: &Fs, file: (Ino, FileHandle)) -> Vec<u8> {
    const BLOCK_BYTES: usize = 16 << 10;
    let data = noise(12 * MIB);
    for (index, block) in data.chunks(BLOCK_BYTES).enumerate() {
        write(fs, file, (index * BLOCK_BYTES) as u64, block);
        fs.flush(file.0, file.1).unwrap();
    }
    let extents = fs.volume().extents(file.0, 0..u64::MAX).unwrap();
    let is_inline = |extent: &Extent| matches!(extent.src, Source::Inline(_));
    assert!(extents.iter().all(is_inline));
    data
}

#[test]
fn what_is_too_much_for_one_op_is_replaced_by_several() {
    let disk = Disk::new().alone(false);
    let fs = disk.mount_with(FsConfig::default());
    let file = create(&fs, "database");
    let reopened = |truncate| {
        let flags = OpenFlags { truncate, ..BOTH };
        (file.0, fs.open(ROOT, file.0, flags).unwrap().fh)
    };
    // Written over from end to end.
    let mut data = fill_with_rows(&fs, file);
    data.reverse();
    let before = drafts(&fs);
    for (index, part) in data.chunks(MIB).enumerate() {
        write(&fs, file, (index * MIB) as u64, part);
    }
    fs.flush(file.0, file.1).unwrap();
    assert!(drafts(&fs) > before + 1);
    assert!(read_all(&fs, file.0, file.1) == data);
    close(&fs, file);
    // Emptied.
    close(&fs, reopened(true));
    let file = reopened(false);
    assert_eq!(read_all(&fs, file.0, file.1), b"");
    // Emptied, and a little written.
    fill_with_rows(&fs, file);
    let file = reopened(true);
    write(&fs, file, 0, b"new");
    fs.flush(file.0, file.1).unwrap();
    assert_eq!(read_all(&fs, file.0, file.1), b"new");
    // A hole from end to end.
    let data = fill_with_rows(&fs, file);
    let all = data.len() as u64;
    fs.fallocate(ROOT, file.0, file.1, 0, all, Fallocate::PunchHole)
        .unwrap();
    fs.flush(file.0, file.1).unwrap();
    assert!(read_all(&fs, file.0, file.1) == vec![0; data.len()]);
    assert_eq!(fs.volume().inode(file.0).unwrap().unwrap().stored, 0);
    drop(fs);
    disk.check_fold();
}

#[test]
fn truncating_on_open_and_writing_anew_is_one_op() {
    let disk = Disk::new();
    let fs = disk.mount();
    let file = create(&fs, "conf");
    write(&fs, file, 0, b"the old version");
    close(&fs, file);
    let before = drafts(&fs);
    let flags = OpenFlags {
        truncate: true,
        ..BOTH
    };
    let fh = fs.open(ROOT, file.0, flags).unwrap().fh;
    assert_eq!(fs.getattr(file.0).unwrap().attr.size, 0);
    write(&fs, (file.0, fh), 0, b"new");
    close(&fs, (file.0, fh));
    assert_eq!(drafts(&fs), before + 1);
    let fh = fs.open(ROOT, file.0, BOTH).unwrap().fh;
    assert_eq!(read_all(&fs, file.0, fh), b"new");
}

#[test]
fn dirty_data_is_written_by_the_tick_once_it_is_old() {
    let disk = Disk::new();
    let fs = disk.mount();
    let file = create(&fs, "file");
    write(&fs, file, 0, b"bytes");
    fs.tick();
    assert_eq!(fs.counts().dirty_inodes, 1);
    disk.clock.advance(DRAFT_AGE_MAX);
    fs.tick();
    assert_eq!(fs.counts().dirty_inodes, 0);
    assert_eq!(fs.counts().dirty_bytes, 0);
    assert_eq!(fs.volume().inode(file.0).unwrap().unwrap().size, 5);
}

#[test]
fn small_overwrites_of_a_large_file_are_gathered_before_they_are_many() {
    let disk = Disk::new();
    let fs = disk.mount();
    let file = create(&fs, "database");
    let mut bytes = noise(MIB);
    write(&fs, file, 0, &bytes);
    for round in 0..500usize {
        let at = (round * 7919 % 250) * 4096;
        bytes[at..at + 100].fill(round as u8);
        write(&fs, file, at as u64, &bytes[at..at + 100]);
        fs.fsync(file.0, file.1).unwrap();
        let extents = fs.volume().extents(file.0, 0..u64::MAX).unwrap().len();
        assert!(extents < 140, "{extents} extents after {round} writes");
    }
    assert!(read_all(&fs, file.0, file.1) == bytes);
}

#[test]
fn a_full_disk_is_told_at_once_and_costs_no_byte() {
    let memory = MemoryDisk::new();
    let disk = Disk::on(memory.store());
    let fs = disk.mount();
    let file = create(&fs, "file");
    write(&fs, file, 0, &noise(MIB));
    fs.fsync(file.0, file.1).unwrap();
    memory.set_capacity(Some(0));
    write(&fs, file, MIB as u64, &noise(400_000));
    assert!(matches!(fs.flush(file.0, file.1), Err(FsError::NoSpace)));
    assert!(matches!(fs.fsync(file.0, file.1), Err(FsError::NoSpace)));
    assert_eq!(read_all(&fs, file.0, file.1).len(), MIB + 400_000);
    assert!(matches!(
        fs.mkdir(ROOT, Ino::ROOT, b"dir", 0o755),
        Err(FsError::NoSpace)
    ));
    memory.set_capacity(None);
    fs.fsync(file.0, file.1).unwrap();
    assert_eq!(fs.counts().dirty_bytes, 0);
    let size = fs.volume().inode(file.0).unwrap().unwrap().size;
    assert_eq!(size, (MIB + 400_000) as u64);
}

#[test]
fn a_write_that_failed_in_the_background_is_told_once() {
    let memory = MemoryDisk::new();
    let disk = Disk::on(memory.store());
    let fs = disk.mount();
    let file = create(&fs, "file");
    write(&fs, file, 0, b"bytes");
    memory.set_capacity(Some(0));
    disk.clock.advance(DRAFT_AGE_MAX);
    fs.tick();
    memory.set_capacity(None);
    assert!(matches!(fs.fsync(file.0, file.1), Err(FsError::NoSpace)));
    fs.fsync(file.0, file.1).unwrap();
    assert_eq!(read_all(&fs, file.0, file.1), b"bytes");
}

#[tokio::test]
async fn a_missing_chunk_fails_its_range_alone() {
    let disk = Disk::new();
    let fs = disk.mount();
    let file = create(&fs, "file");
    write(&fs, file, 0, &noise(2 * MIB));
    fs.fsync(file.0, file.1).unwrap();
    let extents = fs.volume().extents(file.0, 0..u64::MAX).unwrap();
    let Source::Chunk { id, .. } = extents[1].src else {
        panic!("a chunk");
    };
    drop(fs);
    disk.store.chunks.delete(id).unwrap();
    let fs = disk.mount();
    let fh = fs.open(ROOT, file.0, BOTH).unwrap().fh;
    assert!(matches!(
        fs.read(file.0, fh, 0, MIB).unwrap(),
        ReadPlan::Ready(_)
    ));
    let ReadPlan::Wait(pending) = fs.read(file.0, fh, MIB as u64 - 10, 20).unwrap() else {
        panic!("half of the range is not here");
    };
    assert!(matches!(pending.complete().await, Err(FsError::Missing(missing)) if missing == id));
    let attr = fs.getattr(file.0).unwrap().attr;
    assert_eq!(attr.size, 2 * MIB as u64);
}

#[test]
fn writes_from_one_version_are_both_kept_and_the_kernel_is_told() {
    let disk = Disk::new().alone(false);
    let fs = disk.mount();
    let file = create(&fs, "notes.txt");
    write(&fs, file, 0, b"base");
    fs.flush(file.0, file.1).unwrap();
    write(&fs, file, 0, b"mine");
    // Somebody else writes between this handle's last look and its commit.
    let inode = fs.volume().inode(file.0).unwrap().unwrap();
    write_elsewhere(&fs, &inode, b"theirs");
    fs.flush(file.0, file.1).unwrap();
    assert_eq!(read_all(&fs, file.0, file.1), b"mine");
    assert_eq!(fs.tick(), [Invalidation::Content(file.0)]);
    let conflicts = fs.volume().conflicts().unwrap();
    let other = conflicts[0].other.unwrap();
    let fh = fs.open(ROOT, other, BOTH).unwrap().fh;
    assert_eq!(read_all(&fs, other, fh), b"theirs");
    // The open handle goes on from the merged version: no second conflict.
    write(&fs, file, 4, b" again");
    fs.flush(file.0, file.1).unwrap();
    assert_eq!(fs.volume().conflicts().unwrap().len(), conflicts.len());
    assert_eq!(read_all(&fs, file.0, file.1), b"mine again");
}

#[test]
fn unwritten_changes_never_show_over_content_from_elsewhere() {
    let disk = Disk::new().alone(false);
    let fs = disk.mount();
    let file = create(&fs, "notes.txt");
    write(&fs, file, 0, b"base and more");
    fs.flush(file.0, file.1).unwrap();
    write(&fs, file, 0, b"MINE");
    let inode = fs.volume().inode(file.0).unwrap().unwrap();
    write_elsewhere(&fs, &inode, b"theirs, which is longer");
    fs.apply_changes([Change::Content(file.0)]);
    assert_eq!(fs.counts().dirty_inodes, 0);
    assert_eq!(read_all(&fs, file.0, file.1), b"MINE and more");
    assert_eq!(fs.volume().conflicts().unwrap().len(), 1);
}

#[test]
fn the_kernel_hears_of_what_it_knows_alone() {
    let disk = Disk::new();
    let fs = disk.mount();
    let dir = fs.mkdir(ROOT, Ino::ROOT, b"dir", 0o755).unwrap().attr.ino;
    let (ino, fh) = create(&fs, "file");
    fs.release(ino, fh).unwrap();
    let entry = |parent, gone| Change::Entry {
        parent,
        name: "file".into(),
        gone,
    };
    let changes = [
        Change::Content(ino),
        Change::Attr(ino),
        entry(Ino::ROOT, Some(ino)),
        entry(Ino::ROOT, Some(ino)),
        entry(Ino(77), None),
        Change::Attr(Ino(78)),
    ];
    let name = Invalidation::Entry {
        parent: Ino::ROOT,
        name: b"file".to_vec(),
    };
    let expected = [
        name,
        Invalidation::Content(ino),
        Invalidation::Attr(Ino::ROOT),
    ];
    assert_eq!(fs.apply_changes(changes), expected);
    fs.rmdir(Ino::ROOT, b"dir").unwrap();
    let gone = fs.apply_changes([Change::Entry {
        parent: Ino::ROOT,
        name: "dir".into(),
        gone: Some(dir),
    }]);
    assert!(matches!(&gone[0], Invalidation::Delete { child, .. } if *child == dir));
}

#[test]
fn the_kernel_keeps_its_pages_while_the_version_is_the_same() {
    let disk = Disk::new();
    let fs = disk.mount();
    let file = create(&fs, "file");
    write(&fs, file, 0, b"bytes");
    close(&fs, file);
    let opened = fs.open(ROOT, file.0, BOTH).unwrap();
    assert!(opened.keep_cache);
    fs.apply_changes([Change::Content(file.0)]);
    assert!(!fs.open(ROOT, file.0, BOTH).unwrap().keep_cache);
    assert!(fs.open(ROOT, file.0, BOTH).unwrap().keep_cache);
}

#[test]
fn a_setgid_directory_gives_its_group() {
    let disk = Disk::new();
    let fs = disk.mount();
    let dir = fs.mkdir(ROOT, Ino::ROOT, b"dir", 0o2775).unwrap().attr.ino;
    let chown = SetAttr {
        gid: Some(50),
        ..SetAttr::default()
    };
    fs.setattr(ROOT, dir, chown).unwrap();
    let file = fs.mknod(USER, dir, b"file", 0o666, 0).unwrap().attr;
    assert_eq!((file.uid, file.gid, file.mode), (1000, 50, 0o644));
    let inner = fs.mkdir(USER, dir, b"inner", 0o777).unwrap().attr;
    assert_eq!((inner.gid, inner.mode), (50, 0o2755));
}

#[test]
fn an_unprivileged_write_clears_setuid_and_capabilities() {
    let disk = Disk::new();
    let fs = disk.mount();
    let file = create(&fs, "tool");
    let chmod = |mode| SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    };
    fs.setattr(ROOT, file.0, chmod(0o6755)).unwrap();
    fs.setxattr(
        ROOT,
        file.0,
        b"security.capability",
        b"caps",
        XattrMode::Either,
    )
    .unwrap();
    write(&fs, file, 0, b"by root");
    assert_eq!(fs.getattr(file.0).unwrap().attr.mode, 0o6755);
    let flags = WriteFlags {
        kill_privileges: Some(USER),
        ..WriteFlags::default()
    };
    fs.write(file.0, file.1, 0, b"by a user", flags).unwrap();
    assert_eq!(fs.getattr(file.0).unwrap().attr.mode, 0o755);
    assert!(fs.getxattr(file.0, b"security.capability").is_err());
    // Set again while the file is dirty: the next write clears it again.
    fs.setattr(ROOT, file.0, chmod(0o4755)).unwrap();
    fs.write(file.0, file.1, 0, b"once more", flags).unwrap();
    assert_eq!(fs.getattr(file.0).unwrap().attr.mode, 0o755);
}

#[test]
fn a_setgid_bit_without_execution_stays_for_members_of_the_group() {
    let disk = Disk::new();
    let fs = disk.mount_with(FsConfig {
        groups: Some(Arc::new(|pid| if pid == 7 { vec![0] } else { Vec::new() })),
        ..FsConfig::default()
    });
    let file = create(&fs, "tool");
    let set = SetAttr {
        mode: Some(0o6745),
        ..SetAttr::default()
    };
    fs.setattr(ROOT, file.0, set).unwrap();
    let member = Caller { pid: 7, ..USER };
    // The stranger comes last: what was left to a member is not left to him.
    for (caller, mode) in [(member, 0o2745), (member, 0o2745), (USER, 0o745)] {
        let flags = WriteFlags {
            kill_privileges: Some(caller),
            ..WriteFlags::default()
        };
        fs.write(file.0, file.1, 0, b"x", flags).unwrap();
        assert_eq!(fs.getattr(file.0).unwrap().attr.mode, mode);
    }
}

#[test]
fn a_descriptor_that_began_or_ended_to_append_does_so() {
    let disk = Disk::new();
    let fs = disk.mount();
    let (ino, fh) = create(&fs, "log");
    write(&fs, (ino, fh), 0, b"0123");
    for (append, at, len) in [(Some(true), 0, 6), (Some(false), 0, 6), (None, 6, 8)] {
        let flags = WriteFlags {
            append,
            ..WriteFlags::default()
        };
        fs.write(ino, fh, at, b"xy", flags).unwrap();
        assert_eq!(fs.getattr(ino).unwrap().attr.size, len);
    }
    assert_eq!(read_all(&fs, ino, fh), b"xy23xyxy");
}

/// user::rwx, user:7:rwx, group::r-x, mask::rwx, other::r--
fn acl() -> Vec<u8> {
    let none = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (1, 7, none),
        (2, 7, 7),
        (4, 5, none),
        (16, 7, none),
        (32, 4, none),
    ];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

#[test]
fn access_control_lists_are_inherited_and_follow_chmod() {
    let disk = Disk::new();
    let fs = disk.mount();
    let dir = fs.mkdir(ROOT, Ino::ROOT, b"dir", 0o755).unwrap().attr.ino;
    let default = b"system.posix_acl_default";
    let access = b"system.posix_acl_access";
    fs.setxattr(ROOT, dir, default, &acl(), XattrMode::Either)
        .unwrap();
    // The umask counts for nothing where a default list is.
    let file = fs.mknod(USER, dir, b"file", 0o660, 0).unwrap().attr;
    assert_eq!(file.mode, 0o660);
    assert!(fs.getxattr(file.ino, access).is_ok());
    assert!(fs.getxattr(file.ino, default).is_err());
    let inner = fs.mkdir(USER, dir, b"inner", 0o777).unwrap().attr;
    assert_eq!(fs.getxattr(inner.ino, default).unwrap(), acl());
    let chmod = SetAttr {
        mode: Some(0o640),
        ..SetAttr::default()
    };
    fs.setattr(ROOT, file.ino, chmod).unwrap();
    let list = fs.getxattr(file.ino, access).unwrap();
    assert_eq!(list[4 + 3 * 8 + 2], 4, "the mask follows the group bits");
    let denied = fs.setxattr(ROOT, file.ino, default, &acl(), XattrMode::Either);
    assert!(matches!(denied, Err(FsError::Access)));
    // Removing a list that is not there is fine, unlike any other attribute.
    for _ in 0..2 {
        fs.removexattr(file.ino, access).unwrap();
    }
}

#[test]
fn a_list_and_the_mode_bits_that_it_implies_survive_a_crash_together() {
    for seed in 0..20 {
        let mut disk = Disk::losing_power();
        let fs = disk.mount();
        let file = fs.mknod(ROOT, Ino::ROOT, b"file", 0o600, 0).unwrap().attr;
        fs.sync_all().unwrap();
        let access = b"system.posix_acl_access";
        fs.setxattr(ROOT, file.ino, access, &acl(), XattrMode::Either)
            .unwrap();
        drop(fs);
        disk.cut_power(&Rng::from_seed(seed));
        let fs = disk.mount();
        let mode = fs.getattr(file.ino).unwrap().attr.mode;
        let has_list = fs.getxattr(file.ino, access).is_ok();
        // Mode bits of a mask without its list would give the group what the mask allows.
        assert_eq!(mode != 0o600, has_list, "seed {seed}: {mode:o}");
    }
}

#[test]
fn a_moved_name_and_its_whiteout_survive_a_crash_together() {
    for seed in 0..20 {
        let mut disk = Disk::losing_power();
        let fs = disk.mount();
        fs.mkdir(ROOT, Ino::ROOT, b"from", 0o755).unwrap();
        fs.sync_all().unwrap();
        let (from, to) = ((Ino::ROOT, &b"from"[..]), (Ino::ROOT, &b"to"[..]));
        let mode = RenameMode::NoReplace;
        fs.rename_leaving_whiteout(ROOT, from, to, mode).unwrap();
        let look = |fs: &Fs| [from, to].map(|(dir, name)| fs.lookup(dir, name).ok());
        let seen = |fs: &Fs| look(fs).map(|entry| entry.map(|entry| entry.attr.kind));
        let moved = [Some(FileKind::CharDev), Some(FileKind::Dir)];
        assert_eq!(seen(&fs), moved);
        drop(fs);
        disk.cut_power(&Rng::from_seed(seed));
        let kept = seen(&disk.mount());
        assert!(
            kept == moved || kept == [Some(FileKind::Dir), None],
            "seed {seed}: {kept:?}"
        );
    }
}

#[test]
fn a_write_that_asks_for_it_by_the_call_is_on_disk_when_it_returns() {
    for seed in 0..20 {
        let mut disk = Disk::losing_power();
        let fs = disk.mount();
        let (ino, fh) = create(&fs, "file");
        let flags = WriteFlags {
            sync: true,
            ..WriteFlags::default()
        };
        fs.write(ino, fh, 0, b"durable", flags).unwrap();
        drop(fs);
        disk.cut_power(&Rng::from_seed(seed));
        let fs = disk.mount();
        let size = fs.lookup(Ino::ROOT, b"file").map(|entry| entry.attr.size);
        assert_eq!(size.ok(), Some(7), "seed {seed}");
    }
}

#[test]
fn virtual_attributes_are_readable_and_nothing_else() {
    let disk = Disk::new();
    let fs = disk.mount();
    let file = create(&fs, "file");
    assert_eq!(
        fs.getxattr(file.0, b"user.dfs.ino").unwrap(),
        file.0.to_string()
    );
    assert!(fs.listxattr(ROOT, file.0).unwrap().is_empty());
    let set = fs.setxattr(ROOT, file.0, b"user.dfs.ino", b"1", XattrMode::Either);
    assert!(matches!(set, Err(FsError::NotPermitted)));
}

#[test]
fn access_times_are_kept_here_as_relatime_does() {
    let disk = Disk::new();
    let config = || FsConfig {
        rows: Some(Arc::clone(&disk.store.rows)),
        ..FsConfig::default()
    };
    let fs = disk.mount_with(config());
    let file = create(&fs, "file");
    write(&fs, file, 0, b"bytes");
    close(&fs, file);
    disk.advance();
    let before = drafts(&fs);
    let fh = fs.open(ROOT, file.0, BOTH).unwrap().fh;
    read_all(&fs, file.0, fh);
    let first = fs.getattr(file.0).unwrap().attr.atime;
    assert_eq!(first.secs, disk.time().secs);
    disk.advance();
    read_all(&fs, file.0, fh);
    assert_eq!(fs.getattr(file.0).unwrap().attr.atime, first);
    assert_eq!(drafts(&fs), before, "reading is nobody else's business");
    close(&fs, (file.0, fh));
    fs.forget(file.0, 1);
    let again = fs.lookup(Ino::ROOT, b"file").unwrap().attr;
    assert_eq!(again.atime, first);
    let old = Timespec { secs: -5, nanos: 1 };
    let set = SetAttr {
        atime: Some(SetTime::At(old)),
        ..SetAttr::default()
    };
    fs.setattr(ROOT, file.0, set).unwrap();
    fs.sync_all().unwrap();
    drop(fs);
    let fs = disk.mount_with(config());
    assert_eq!(fs.lookup(Ino::ROOT, b"file").unwrap().attr.atime, old);
}

#[test]
fn readdir_lists_once_what_stays_while_others_come_and_go() {
    let disk = Disk::new();
    let fs = disk.mount();
    let name = |index: usize| format!("stays {index}").into_bytes();
    for index in 0..40 {
        fs.mknod(ROOT, Ino::ROOT, &name(index), 0o644, 0).unwrap();
    }
    let fh = fs.opendir(Ino::ROOT).unwrap().fh;
    let (mut cookie, mut seen, mut round) = (0, Vec::new(), 0);
    loop {
        let mut taken = 0;
        fs.readdirplus(Ino::ROOT, fh, cookie, &mut |entry| {
            if taken == 3 {
                return Reply::Full;
            }
            taken += 1;
            cookie = entry.cookie;
            if entry.name.starts_with(b"stays") {
                assert_eq!(entry.entry.unwrap().attr.ino, entry.ino);
                seen.push(entry.name.to_vec());
            }
            Reply::Taken
        })
        .unwrap();
        if taken == 0 {
            break;
        }
        let noise = format!("noise {round}").into_bytes();
        fs.mknod(ROOT, Ino::ROOT, &noise, 0o644, 0).unwrap();
        if round % 2 == 1 {
            fs.unlink(Ino::ROOT, &noise).unwrap();
        }
        round += 1;
    }
    seen.sort();
    let mut expected: Vec<_> = (0..40).map(name).collect();
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn a_removed_directory_is_empty_and_takes_nothing_new() {
    let disk = Disk::new();
    let fs = disk.mount();
    let dir = fs.mkdir(ROOT, Ino::ROOT, b"dir", 0o755).unwrap().attr.ino;
    let fh = fs.opendir(dir).unwrap().fh;
    fs.rmdir(Ino::ROOT, b"dir").unwrap();
    assert_eq!(fs.getattr(dir).unwrap().attr.nlink, 0);
    let mut listed = 0;
    fs.readdir(dir, fh, 0, &mut |_| {
        listed += 1;
        Reply::Taken
    })
    .unwrap();
    assert_eq!(listed, 0);
    let made = outcome(fs.mkdir(ROOT, dir, b"inner", 0o755).map(drop));
    assert_eq!(made, Err(Errno::NOENT));
    fs.releasedir(dir, fh).unwrap();
    fs.forget(dir, 1);
    assert_eq!(fs.counts().inodes, 0);
}

#[test]
fn appends_of_two_handles_land_behind_each_other() {
    let disk = Disk::new();
    let fs = disk.mount();
    let flags = OpenFlags {
        append: true,
        ..BOTH
    };
    let created = fs.create(ROOT, Ino::ROOT, b"log", 0o644, flags).unwrap();
    let ino = created.entry.attr.ino;
    let second = fs.open(ROOT, ino, flags).unwrap().fh;
    write(&fs, (ino, created.opened.fh), 0, b"one ");
    write(&fs, (ino, second), 0, b"two ");
    write(&fs, (ino, created.opened.fh), 4, b"three");
    assert_eq!(read_all(&fs, ino, second), b"one two three");
    // A page of a mapping knows where it belongs.
    let from_cache = WriteFlags {
        from_cache: true,
        ..WriteFlags::default()
    };
    fs.write(ino, second, 0, b"ONE", from_cache).unwrap();
    assert_eq!(read_all(&fs, ino, second), b"ONE two three");
}

#[test]
fn offsets_beyond_the_largest_file_are_refused() {
    let disk = Disk::new();
    let fs = disk.mount();
    let (ino, fh) = create(&fs, "file");
    let max = i64::MAX as u64;
    let written = fs.write(ino, fh, max, b"x", WriteFlags::default());
    assert!(matches!(written, Err(FsError::FileTooLarge)));
    let grow = Fallocate::Reserve { keep_size: false };
    let reserved = fs.fallocate(ROOT, ino, fh, max - 1, 2, grow);
    assert!(matches!(reserved, Err(FsError::FileTooLarge)));
    let set = SetAttr {
        size: Some(max),
        ..SetAttr::default()
    };
    let attr = fs.setattr(ROOT, ino, set).unwrap().attr;
    assert_eq!((attr.size, attr.blocks), (max, 0));
    write(&fs, (ino, fh), max - 1, b"x");
    assert_eq!(fs.lseek(ino, fh, 0, dfs::fs::Seek::Data).unwrap(), max - 1);
    close(&fs, (ino, fh));
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let disk = Disk::new();
    let fs = disk.mount_with(FsConfig {
        read_only: true,
        ..FsConfig::default()
    });
    let made = fs.mkdir(ROOT, Ino::ROOT, b"dir", 0o755);
    assert!(matches!(made, Err(FsError::ReadOnly)));
    assert!(fs.getattr(Ino::ROOT).is_ok());
}

/// Returns how many chunks a disk holds.
fn chunk_count(disk: &Disk) -> u64 {
    disk.store.chunks.usage().count
}

#[test]
fn chunks_that_no_file_has_any_more_are_given_up_and_no_other() {
    let disk = Disk::new();
    let fs = disk.mount();
    let settle = || {
        fs.volume().seal_drafts().unwrap();
        fs.collect().unwrap();
    };
    let bytes = |seed| mount_tests::source::pattern(2 * MIB, seed);
    let first = create(&fs, "first");
    write(&fs, first, 0, &bytes(1));
    fs.flush(first.0, first.1).unwrap();
    settle();
    assert_eq!(chunk_count(&disk), 2);

    // A copy shares its chunks, at first unwritten, then by its rows.
    let copy = create(&fs, "copy");
    let len = 2 * MIB as u64;
    let copied = fs.copy_file_range(ROOT, (first.0, first.1, 0), (copy.0, copy.1, 0), len);
    assert_eq!(copied.unwrap(), len);
    fs.unlink(Ino::ROOT, b"first").unwrap();
    close(&fs, first);
    fs.forget(first.0, 1);
    settle();
    assert_eq!(read_all(&fs, copy.0, copy.1), bytes(1));
    close(&fs, copy);
    settle();
    assert_eq!(chunk_count(&disk), 2);

    // Overwritten, but for half a chunk.
    let opened = fs.open(ROOT, copy.0, BOTH).unwrap();
    let copy = (copy.0, opened.fh);
    write(&fs, copy, 0, &bytes(2)[..MIB + MIB / 2]);
    fs.flush(copy.0, copy.1).unwrap();
    settle();
    let mut expected = bytes(2)[..MIB + MIB / 2].to_vec();
    expected.extend_from_slice(&bytes(1)[MIB + MIB / 2..]);
    assert_eq!(read_all(&fs, copy.0, copy.1), expected);
    assert_eq!(chunk_count(&disk), 3);

    // Without a name and open, then gone.
    fs.unlink(Ino::ROOT, b"copy").unwrap();
    settle();
    assert_eq!(read_all(&fs, copy.0, copy.1), expected);
    write(&fs, copy, 0, &bytes(3)[..MIB]);
    settle();
    assert_eq!(read_all(&fs, copy.0, copy.1)[..MIB], bytes(3)[..MIB]);
    close(&fs, copy);
    fs.forget(copy.0, 1);
    settle();
    assert_eq!(chunk_count(&disk), 0);
}

#[test]
fn a_power_cut_after_a_collection_brings_back_nothing_without_its_chunks() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut disk = Disk::losing_power();
        let fs = disk.mount();
        let file = create(&fs, "file");
        let old = mount_tests::source::pattern(MIB, 1);
        let new = mount_tests::source::pattern(MIB, 2);
        write(&fs, file, 0, &old);
        fs.fsync(file.0, file.1).unwrap();
        write(&fs, file, 0, &new);
        fs.flush(file.0, file.1).unwrap();
        // Not synced, and its old content is superfluous already.
        fs.collect().unwrap();
        drop(fs);
        disk.cut_power(&Rng::from_seed(seed));
        let fs = disk.mount();
        let entry = fs.lookup(Ino::ROOT, b"file").unwrap();
        let opened = fs.open(ROOT, entry.attr.ino, BOTH).unwrap();
        let found = read_all(&fs, entry.attr.ino, opened.fh);
        assert!(found == old || found == new, "seed {seed}");
    }
}

#[test]
fn an_fsync_waits_for_other_holders_only_while_it_is_told_to() {
    let disk = Disk::new();
    let fs = disk.mount_with(FsConfig {
        replicated: Some(Arc::new(|| Box::pin(async { Err(FsError::TimedOut) }))),
        ..FsConfig::default()
    });
    assert!(fs.waits_for_holders() && fs.replicated().is_some());
    fs.wait_for_holders(false);
    assert!(!fs.waits_for_holders() && fs.replicated().is_none());
    fs.wait_for_holders(true);
    assert!(fs.waits_for_holders() && fs.replicated().is_some());
}
