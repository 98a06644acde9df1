//! A sparse file of a size that no disk has.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::source::pattern;
use crate::{Command, elapsed_since, now};

/// What a run with a sparse file took.
#[derive(Debug, Clone, Copy)]
pub struct SparseFacts {
    /// The copy by `cp --sparse=always`.
    pub copy: Duration,
    /// Everything.
    pub whole: Duration,
    /// The disk space that the copy says it has, in bytes.
    pub used: u64,
}

/// Makes a file of so many bytes in a folder, with data at its start, in its middle and at its end,
/// and seeks, copies, punches, cuts and removes it.
///
/// # Panics
///
/// Where a byte, a hole or a size is not what it has to be.
pub fn work_on_sparse(folder: &Path, size: u64) -> SparseFacts {
    let began = now();
    let path = folder.join("sparse");
    let file = OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .expect("a file can be made");
    let islands = [0, (size / 2) & !(ISLAND - 1), size - ISLAND];
    for at in islands {
        file.write_all_at(&island(at), at).expect("written");
    }
    file.sync_all().expect("synced");
    expect_islands(&file, size, &islands);

    let copy_path = folder.join("copy");
    let copy_began = now();
    Command::new("cp")
        .arg("--sparse=always")
        .args([&path, &copy_path])
        .ok();
    let copy = elapsed_since(copy_began);
    let copied = File::open(&copy_path).expect("the copy is there");
    expect_islands(&copied, size, &islands);
    for path in [&path, &copy_path] {
        let said = Command::new("du").arg("-B1").arg(path).ok();
        let used: u64 = said
            .split_whitespace()
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("a number: {said}"));
        assert!(used < USED_MAX, "du says {said}");
    }
    let used = copied.metadata().expect("it is there").blocks() * 512;

    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 0, ISLAND).expect("a hole can be punched");
    expect_islands(&file, size, &islands[1..]);
    expect_zeros(&file, 0);
    // All that is left of the middle, and the whole emptiness around it.
    fallocate(&file, punch, 1, size - ISLAND - 1).expect("a hole can be punched");
    expect_islands(&file, size, &islands[2..]);
    expect_zeros(&file, islands[1]);

    // What is cut off does not come back when the file grows again.
    file.set_len(1 << 20).expect("cut");
    assert_eq!(seek(&file, SeekFrom::Data(0)), Err(Errno::NXIO));
    file.set_len(size).expect("extended");
    expect_islands(&file, size, &[]);
    expect_zeros(&file, islands[2]);
    expect_islands(&copied, size, &islands);
    for path in [&path, &copy_path] {
        fs::remove_file(path).expect("removed");
    }
    SparseFacts {
        copy,
        whole: elapsed_since(began),
        used,
    }
}

/// Checks the size, the contents of the islands, and that data and holes are found where they are:
/// a filesystem may call more than was written data, as whole blocks, but not everything.
fn expect_islands(file: &File, size: u64, islands: &[u64]) {
    assert_eq!(file.metadata().expect("it is there").len(), size);
    let mut at = 0;
    for &expected in islands {
        assert_eq!(seek(file, SeekFrom::Data(at)), Ok(expected), "from {at}");
        let mut read = vec![0; ISLAND as usize];
        file.read_exact_at(&mut read, expected).expect("read");
        assert!(read == island(expected), "what is at {expected}");
        let end = expected + ISLAND;
        assert_eq!(seek(file, SeekFrom::Hole(expected)), Ok(end));
        at = end;
    }
    if at < size {
        assert_eq!(seek(file, SeekFrom::Data(at)), Err(Errno::NXIO));
        assert_eq!(seek(file, SeekFrom::Hole(at)), Ok(at));
    }
}

fn expect_zeros(file: &File, at: u64) {
    let mut read = vec![1; ISLAND as usize];
    file.read_exact_at(&mut read, at).expect("read");
    assert!(read.iter().all(|byte| *byte == 0), "zeros at {at}");
}

fn island(at: u64) -> Vec<u8> {
    pattern(ISLAND as usize, at)
}

/// The bytes written at each place: whole blocks of any filesystem.
const ISLAND: u64 = 64 << 10;

/// What three islands may take, whatever a filesystem adds for its tables.
const USED_MAX: u64 = 4 << 20;
