//! fio with verification: what several jobs write at once in different ways is read back and
//! compared, by those who wrote it and by others later.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Command, Finished};

/// A set of files that fio fills and knows the content of.
#[derive(Debug)]
pub struct Workload {
    jobs: PathBuf,
    seed: u64,
    mib: u64,
}

impl Workload {
    /// Returns one with so many MiB in each of its [`FILES`].
    pub fn new(scratch: &Path, seed: u64, mib: u64) -> Self {
        let jobs = scratch.join("jobs.fio");
        std::fs::write(&jobs, JOBS).expect("written");
        Self { jobs, seed, mib }
    }

    /// Writes the files, all at once, and reads each back. Returns what fio says of the speed.
    ///
    /// # Panics
    ///
    /// Where a call fails, or a byte is not what was written.
    pub fn write(&self, folder: &Path) -> String {
        self.run(folder, &[])
    }

    /// Reads the files back, on any mount and at any time later.
    ///
    /// # Panics
    ///
    /// Where a call fails, or a byte is not what was written.
    pub fn verify(&self, folder: &Path) -> String {
        self.run(folder, &["--verify_only"])
    }

    fn run(&self, folder: &Path, args: &[&str]) -> String {
        let done = Command::new("fio")
            .args(args)
            .arg(format!("--directory={}", folder.display()))
            .arg(&self.jobs)
            .env("SIZE", format!("{}m", self.mib))
            // Whole blocks of 3,000: a file that is not of its size would be made anew.
            .env("ODD_SIZE", format!("{}k", 3000 * (self.mib / 3).max(1)))
            .env("SEED", self.seed.to_string())
            .folder(self.jobs.parent().expect("it lies in a folder"))
            .limit(Duration::from_secs(300 + 20 * self.mib))
            .run();
        assert!(done.status.success(), "fio with seed {}: {done}", self.seed);
        speed(&done)
    }
}

/// Returns the last lines of a report, in which fio sums up.
fn speed(done: &Finished) -> String {
    let said = done.stdout_text();
    let lines = said.lines().map(str::trim);
    let sums = lines.filter(|line| line.starts_with("READ:") || line.starts_with("WRITE:"));
    sums.collect::<Vec<_>>().join("; ")
}

/// The files that the jobs leave in their folder.
pub const FILES: [&str; 10] = [
    "mapped-sequential.0.0",
    "mapped.0.0",
    "random-direct-psync.0.0",
    "random-direct.0.0",
    "random-direct.1.0",
    "random-unaligned.0.0",
    "random.0.0",
    "random.1.0",
    "sequential-direct.0.0",
    "sequential.0.0",
];

const JOBS: &str = "\
[global]
size=${SIZE}
randseed=${SEED}
verify=crc32c
verify_fatal=1
fallocate=none
group_reporting=1

[sequential]
ioengine=psync
rw=write
bs=64k
fsync=100

[sequential-direct]
ioengine=libaio
direct=1
iodepth=16
rw=write
bs=256k
verify=md5

[random]
ioengine=psync
rw=randwrite
bsrange=512-64k
verify_interval=512
fsync=64
numjobs=2

[random-unaligned]
size=${ODD_SIZE}
ioengine=psync
rw=randwrite
bs=3000
fdatasync=50

[random-direct]
ioengine=libaio
direct=1
iodepth=8
rw=randwrite
bsrange=4k-128k
verify_interval=4k
numjobs=2

[random-direct-psync]
ioengine=psync
direct=1
rw=randwrite
bs=4k
fdatasync=32

[mapped]
ioengine=mmap
rw=randwrite
bs=4k
fsync=128
verify=md5

[mapped-sequential]
ioengine=mmap
rw=write
bs=64k
";
