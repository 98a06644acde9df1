//! The bytes of files: holes, allocation, copies within the kernel, mappings, flushes, beside ext4.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use mount_tests::beside::{Side, beside};
use mount_tests::sys::Mapping;
use mount_tests::{Command, spawn};
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek, sendfile};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn both(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true);
    options.open(path).expect("it opens")
}

/// Returns a content in which each place is told from each other.
fn numbered(len: u64) -> Vec<u8> {
    let words = 0..len.div_ceil(8);
    let mut bytes: Vec<u8> = words
        .flat_map(|word| (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).to_le_bytes())
        .collect();
    bytes.truncate(len as usize);
    bytes
}

fn note_content(side: &mut Side<'_>, what: &str, file: &File) {
    let mut content = Vec::new();
    (&*file).rewind().expect("rewound");
    (&*file).read_to_end(&mut content).expect("it reads");
    let size = file.metadata().map(|meta| meta.len());
    side.note(what, (size, content.len(), blake3::hash(&content)));
}

/// Returns the ranges of data, as SEEK_DATA and SEEK_HOLE tell them.
fn data(file: &File) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Ok(start) = seek(file, SeekFrom::Data(at)) {
        let end = seek(file, SeekFrom::Hole(start)).expect("every file ends with a hole");
        // ext4 knows whole blocks alone.
        ranges.push(start..end.next_multiple_of(4096));
        at = end;
    }
    ranges
}

#[test]
fn every_mode_of_fallocate_does_what_it_says() {
    beside("data-fallocate", |side| {
        let modes = [
            ("plain", FallocateFlags::empty()),
            ("keep", FallocateFlags::KEEP_SIZE),
            (
                "punch",
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            ),
            ("punch without keep", FallocateFlags::PUNCH_HOLE),
            ("zero", FallocateFlags::ZERO_RANGE),
            (
                "zero keep",
                FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            ),
        ];
        let ranges = [
            (0, 10),
            (3000, 9000),
            (4096, 4096),
            (0, 3 * MIB),
            (MIB - 5, 10),
            (2 * MIB + 1, 3 * MIB),
            (9 * MIB, 100),
            (5, 0),
        ];
        for (name, mode) in modes {
            for size in [100, 10_000, 2 * MIB + 77] {
                for (at, len) in ranges {
                    let what = format!("{name} of {len} at {at} in {size}");
                    let path = side.file("file", numbered(size));
                    let file = both(&path);
                    side.note(&what, fallocate(&file, mode, at, len));
                    note_content(side, &what, &file);
                    let again = fs::read(&path).expect("it reads");
                    side.note(format!("{what}, opened again"), blake3::hash(&again));
                    fs::remove_file(&path).expect("removed");
                }
            }
        }
        let path = side.file("file", numbered(10_000));
        let reader = File::open(&path).expect("it opens");
        side.note(
            "of a reader",
            fallocate(&reader, FallocateFlags::empty(), 0, 1),
        );
        let folder = File::open(side.root()).expect("it opens");
        side.note(
            "of a folder",
            fallocate(&folder, FallocateFlags::empty(), 0, 1),
        );
        let posix = Command::new("fallocate")
            .args(["-x", "-l", "1234567"])
            .arg(&path)
            .run();
        side.note(
            "posix_fallocate",
            (
                posix.status.success(),
                fs::metadata(&path).map(|meta| meta.len()),
            ),
        );
        let file = both(&path);
        let largest = i64::MAX as u64;
        let far = fallocate(&file, FallocateFlags::empty(), largest - 5, 10);
        side.note("beyond what an offset can say", far);

        // ext4 moves whole blocks; here a file has none, and the caller is told to do without.
        for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
            let done = fallocate(&file, mode, 4096, 4096);
            let expected = if side.is_dfs() {
                Err(rustix::io::Errno::OPNOTSUPP)
            } else {
                Ok(())
            };
            assert_eq!(done, expected, "{mode:?}");
        }
    });
}

#[test]
fn holes_are_found_and_cost_nothing() {
    beside("data-holes", |side| {
        let path = side.path("sparse");
        let file = both(&path);
        for at in [64 * KIB, MIB, 5 * MIB + 4 * KIB, 9 * MIB] {
            file.write_all_at(&numbered(8 * KIB), at).expect("written");
        }
        file.set_len(20 * MIB).expect("extended");
        side.note("unwritten", data(&file));
        file.sync_all().expect("synced");
        side.note("synced", data(&file));
        file.write_all_at(&numbered(4 * KIB), 12 * MIB)
            .expect("written");
        side.note("some unwritten", data(&file));
        for at in [
            0,
            5 * MIB,
            12 * MIB,
            12 * MIB + 4095,
            20 * MIB - 1,
            20 * MIB,
            21 * MIB,
        ] {
            side.note(format!("data from {at}"), seek(&file, SeekFrom::Data(at)));
            side.note(format!("hole from {at}"), seek(&file, SeekFrom::Hole(at)));
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, punch, MIB, 8 * KIB).expect("punched");
        fallocate(&file, punch, 9 * MIB + 4 * KIB, 4 * KIB).expect("punched");
        side.note("punched", data(&file));
        file.set_len(9 * MIB + 100).expect("truncated");
        side.note("truncated", data(&file).len());
        file.set_len(20 * MIB).expect("extended");
        note_content(side, "content", &file);
        let empty = both(&side.path("empty"));
        side.note("data of nothing", seek(&empty, SeekFrom::Data(0)));
        side.note("hole of nothing", seek(&empty, SeekFrom::Hole(0)));
        drop((file, empty));
        let blocks = |path: &Path| fs::metadata(path).expect("it stats").blocks() * 512 < MIB;
        side.note("few blocks", blocks(&path));
        let copy = side.path("copy");
        Command::new("cp")
            .arg("--sparse=auto")
            .args([&path, &copy])
            .ok();
        side.note(
            "the copy",
            (
                blocks(&copy),
                fs::read(&copy).expect("it reads") == fs::read(&path).expect("it reads"),
            ),
        );
        side.note("the copy's holes", data(&both(&copy)));
        Command::new("cp")
            .args(["--sparse=always", "--reflink=never"])
            .args([&path, &copy])
            .ok();
        side.note("the sparse copy", (blocks(&copy), data(&both(&copy)).len()));
        side.remount();
        side.note("after a remount", data(&both(&path)));
        let large = both(&side.path("tebibyte"));
        large.set_len(1 << 40).expect("extended");
        large.write_all_at(b"end", (1 << 40) - 3).expect("written");
        side.note(
            "data of a tebibyte",
            seek(&large, SeekFrom::Data(0)).map(|at| at >> 12),
        );
        side.note(
            "its size",
            large
                .metadata()
                .map(|meta| (meta.len(), meta.blocks() < 64)),
        );
    });
}

#[test]
fn ranges_are_copied_within_and_between_files() {
    beside("data-copy", |side| {
        let size = 3 * MIB + 123;
        let from = side.file("from", numbered(size));
        let source = both(&from);
        for (at, to, len) in [
            (0, 0, size),
            (10, 0, 100),
            (MIB - 7, 13, 2 * MIB),
            (0, 5 * MIB, 1000),
            (size - 10, 0, 100),
            (size, 0, 10),
            (size + 5, 0, 10),
            (0, 0, 0),
            (100, 100, u64::MAX >> 2),
        ] {
            let target = both(&side.path("to"));
            target.set_len(0).expect("emptied");
            target.write_all_at(&numbered(50_000), 0).expect("written");
            let (mut at_now, mut to_now) = (at, to);
            let what = format!("{len} from {at} to {to}");
            let mut copied = Vec::new();
            // Each call may copy less than was asked for.
            loop {
                let left = len - (at_now - at);
                let done = copy_file_range(
                    &source,
                    Some(&mut at_now),
                    &target,
                    Some(&mut to_now),
                    left as usize,
                );
                match done {
                    Ok(0) => break,
                    Ok(_) if at_now - at < len => {}
                    Ok(_) => break,
                    Err(error) => {
                        copied.push(error);
                        break;
                    }
                }
            }
            side.note(&what, (copied, at_now, to_now));
            note_content(side, &what, &target);
        }
        // Within one file.
        let file = both(&side.file("one", numbered(100_000)));
        for (at, to, len) in [
            (0u64, 50_000u64, 40_000usize),
            (0, 10, 100),
            (10, 0, 100),
            (5, 5, 10),
            (0, 100_000, 1000),
            (90_000, 89_000, 5000),
        ] {
            let what = format!("within: {len} from {at} to {to}");
            side.note(
                &what,
                copy_file_range(&file, Some(&mut { at }), &file, Some(&mut { to }), len),
            );
            note_content(side, &what, &file);
        }
        let reader = File::open(&from).expect("it opens");
        let appender = File::options().append(true).open(&from).expect("it opens");
        let folder = File::open(side.root()).expect("it opens");
        side.note(
            "to a reader",
            copy_file_range(&source, None, &reader, None, 10),
        );
        side.note(
            "to an appender",
            copy_file_range(&source, Some(&mut 0), &appender, None, 10),
        );
        side.note(
            "from an appender",
            copy_file_range(&appender, None, &file, None, 10),
        );
        side.note(
            "from a folder",
            copy_file_range(&folder, None, &file, None, 10),
        );
        // What was written and not flushed is copied, what is mapped as well.
        let map = Mapping::shared(&source, MIB as usize).expect("mapped");
        map.write(100, b"mapped").expect("written");
        source.write_all_at(b"written", 200).expect("written");
        let target = both(&side.path("fresh"));
        side.note(
            "unflushed",
            copy_file_range(&source, Some(&mut 0), &target, Some(&mut 0), 1000),
        );
        note_content(side, "unflushed", &target);
        // Pages of the target that are cached are not shown any more.
        let mut seen = [0; 8];
        target.write_all_at(b"old old ", 500).expect("written");
        target.read_exact_at(&mut seen, 500).expect("it reads");
        side.note(
            "over it",
            copy_file_range(&source, Some(&mut 0), &target, Some(&mut 500), 8),
        );
        target.read_exact_at(&mut seen, 500).expect("it reads");
        side.note("seen", seen);
        // Holes stay holes, and the size is right at once by every name.
        let sparse = both(&side.path("sparse"));
        sparse.set_len(3 << 30).expect("extended");
        sparse.write_all_at(b"end", (3 << 30) - 3).expect("written");
        let target = both(&side.path("sparse copy"));
        let (mut at, mut to) = (0, 0);
        while let Ok(1..) = copy_file_range(&sparse, Some(&mut at), &target, Some(&mut to), 3 << 30)
        {
        }
        side.note(
            "3 GiB",
            (
                at,
                to,
                fs::metadata(side.path("sparse copy")).map(|meta| meta.len()),
            ),
        );
        let mut end = [0; 5];
        target
            .read_exact_at(&mut end, (3 << 30) - 5)
            .expect("it reads");
        side.note("its end", end);
    });
}

#[test]
fn sendfile_and_splice_move_bytes() {
    beside("data-splice", |side| {
        let source = both(&side.file("from", numbered(300_000)));
        let target = both(&side.path("to"));
        let mut at = 1000;
        let mut sent = 0;
        while sent < 250_000 {
            sent += sendfile(&target, &source, Some(&mut at), 250_000 - sent).expect("sent");
        }
        side.note("sent", (sent, at));
        note_content(side, "sent", &target);
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let target = both(&side.path("spliced"));
        let (mut from, mut to) = (0, 10);
        while from < 200_000 {
            let flags = rustix::pipe::SpliceFlags::empty();
            let part = rustix::pipe::splice(&source, Some(&mut from), &writer, None, 30_000, flags);
            let mut part = part.expect("spliced in");
            while part > 0 {
                let out = rustix::pipe::splice(&reader, None, &target, Some(&mut to), part, flags);
                part -= out.expect("spliced out");
            }
        }
        side.note("spliced", (from, to));
        note_content(side, "spliced", &target);
    });
}

#[test]
fn a_mapping_and_the_file_are_one() {
    beside("data-mmap", |side| {
        let path = side.file("file", numbered(10_000));
        let file = both(&path);
        let shared = Mapping::shared(&file, 16_384).expect("mapped");
        let other = Mapping::shared(&both(&path), 16_384).expect("mapped");
        let private = Mapping::private(&file, 16_384).expect("mapped");
        let read = |map: &Mapping, range| map.read(range).map_err(|error| error.raw_os_error());
        shared.write(5, b"shared").expect("written");
        side.note("seen by another mapping", read(&other, 0..20));
        side.note("seen by a private one", read(&private, 0..20));
        let mut seen = [0; 20];
        file.read_exact_at(&mut seen, 0).expect("it reads");
        side.note("seen by read", seen);
        private.write(4096, b"private").expect("written");
        side.note("a private write", read(&shared, 4096..4106));
        file.write_all_at(b"written", 6000).expect("written");
        side.note("a write, shared", read(&shared, 6000..6010));
        side.note("a write, private, page copied", read(&private, 6000..6010));
        side.note("behind the end, same page", read(&shared, 10_000..10_010));
        side.note("behind the end, next page", read(&shared, 12_288..12_290));
        side.note(
            "a store behind the end",
            shared
                .write(10_010, b"lost")
                .map_err(|error| error.raw_os_error()),
        );
        side.note(
            "a store on the next page",
            shared
                .write(12_288, b"x")
                .map_err(|error| error.raw_os_error()),
        );
        side.note("size", file.metadata().map(|meta| meta.len()));
        shared.sync().expect("synced");
        file.set_len(13_000).expect("extended");
        side.note(
            "extended: what was behind the end",
            read(&shared, 10_000..10_020),
        );
        side.note("extended: the next page", read(&shared, 12_288..12_300));
        shared.write(12_500, b"later").expect("written");
        file.set_len(5000).expect("truncated");
        side.note("truncated: behind the page", read(&shared, 8192..8200));
        side.note("truncated: behind the end", read(&shared, 5000..5010));
        file.set_len(13_000).expect("extended");
        side.note("extended again", read(&shared, 12_500..12_505));
        shared.write(12_000, b"last").expect("written");
        note_content(side, "content", &file);
        drop((shared, other, private, file));
        let content = fs::read(&path).expect("it reads");
        side.note("reopened", blake3::hash(&content));
        side.remount();
        let content = fs::read(&path).expect("it reads");
        side.note("after a remount", blake3::hash(&content));
    });
}

#[test]
fn a_mapping_outlives_descriptor_and_name() {
    beside("data-mmap-alone", |side| {
        let path = side.path("kept");
        let file = both(&path);
        file.set_len(3 * MIB).expect("extended");
        let map = Mapping::shared(&file, 3 * MIB as usize).expect("mapped");
        drop(file);
        for at in (0..3 * MIB as usize - 8).step_by(70_001) {
            map.write(at, &at.to_le_bytes()).expect("written");
        }
        side.note("stat", fs::metadata(&path).map(|meta| meta.len()));
        map.sync().expect("synced");
        drop(map);
        let content = fs::read(&path).expect("it reads");
        side.note("content", blake3::hash(&content));
        side.remount();
        side.note(
            "after a remount",
            fs::read(&path).map(|content| blake3::hash(&content)),
        );

        let file = both(&side.file("gone", numbered(100_000)));
        let map = Mapping::shared(&file, 100_000).expect("mapped");
        drop(file);
        fs::remove_file(side.path("gone")).expect("removed");
        map.write(50_000, b"still").expect("written");
        side.note("of a removed file", map.read(49_990..50_010).ok());
        side.note("synced", map.sync());
    });
}

#[test]
fn two_processes_share_a_mapping() {
    beside("data-mmap-two", |side| {
        let path = side.path("shared");
        both(&path).set_len(8192).expect("extended");
        // Each adds its own number at its own places, both in the same page.
        let script = "import mmap, sys
with open(sys.argv[1], 'r+b') as file:
    map = mmap.mmap(file.fileno(), 8192)
    for at in range(int(sys.argv[2]), 8192, 2):
        map[at] = int(sys.argv[2]) + 1
    map.flush()";
        let writers: Vec<_> = ["0", "1"]
            .into_iter()
            .map(|which| {
                let path = path.clone();
                spawn(move || {
                    let python = Command::new("python3").args(["-c", script]);
                    python.arg(path).arg(which).ok()
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("it writes");
        }
        let content = fs::read(&path).expect("it reads");
        side.note("all there", content == [1, 2].repeat(4096));
        side.remount();
        side.note(
            "after a remount",
            fs::read(&path).map(|content| blake3::hash(&content)),
        );
    });
}

#[test]
fn sizes_are_right_through_every_descriptor() {
    beside("data-sizes", |side| {
        let path = side.path("file");
        let (one, two) = (both(&path), both(&path));
        let sizes = |side: &mut Side<'_>, what: &str| {
            let by = |meta: std::io::Result<fs::Metadata>| meta.map(|meta| meta.len()).ok();
            let all = (
                by(one.metadata()),
                by(two.metadata()),
                by(fs::metadata(&path)),
            );
            side.note(what, (all, (&two).seek(std::io::SeekFrom::End(0))));
        };
        for (what, at, len) in [
            ("a start", 0, 10),
            ("an append", 10, 5),
            ("a gap", 100_000, 1),
            ("inside", 50, 100),
            ("across chunks", MIB - 1, 2),
        ] {
            one.write_all_at(&vec![7; len], at).expect("written");
            sizes(side, what);
        }
        two.set_len(20).expect("truncated");
        sizes(side, "truncated");
        one.write_all_at(b"x", 30).expect("written");
        sizes(side, "grown again");
        let mut read = [1; 40];
        side.note("read across the end", two.read_at(&mut read, 0));
        side.note("what was cut off", read[20..30] == [0; 10]);
        fs::write(&path, "anew").expect("written");
        sizes(side, "truncated by open");
        side.note(
            "a write at the end of all",
            one.write_at(b"x", i64::MAX as u64)
                .map_err(|error| error.raw_os_error()),
        );
        let limited = Command::shell("ulimit -f 4; trap '' XFSZ; head -c 10000 /dev/zero > \"$1\"");
        let done = limited.arg("sh").arg(side.path("limited")).run();
        side.note(
            "RLIMIT_FSIZE",
            (
                done.status.success(),
                fs::metadata(side.path("limited")).map(|meta| meta.len()),
            ),
        );
    });
}

#[test]
fn every_flush_is_answered() {
    beside("data-flush", |side| {
        let path = side.file("file", numbered(2 * MIB));
        let file = both(&path);
        file.write_all_at(b"dirty", 5).expect("written");
        side.note("fdatasync", rustix::fs::fdatasync(&file));
        file.write_all_at(b"dirty", 500_000).expect("written");
        side.note("fsync", rustix::fs::fsync(&file));
        file.write_all_at(b"dirty", 1_500_000).expect("written");
        side.note("syncfs", rustix::fs::syncfs(&file));
        side.note("sync_file_range", sync_file_range(&path));
        side.note(
            "fsync of a reader",
            File::open(&path).and_then(|file| file.sync_all()),
        );
        side.note(
            "fsync of a folder",
            File::open(side.root()).and_then(|file| file.sync_all()),
        );
        side.note("fadvise", {
            use rustix::fs::Advice;
            [Advice::Sequential, Advice::DontNeed, Advice::WillNeed]
                .map(|advice| rustix::fs::fadvise(&file, 0, None, advice))
        });
        note_content(side, "content", &file);
    });
}

/// Returns how sync_file_range(2) ends, by way of coreutils' sync.
fn sync_file_range(path: &Path) -> bool {
    Command::new("sync")
        .arg("--data")
        .arg(path)
        .run()
        .status
        .success()
}
