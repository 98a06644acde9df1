//! fsx: one file, every call that changes or reads it, in random order, against a copy in memory.

use std::path::Path;
use std::time::Duration;

use super::tool;
use crate::Command;

/// Runs so many operations on a file that fsx makes, and leaves it as they left it.
///
/// # Panics
///
/// Where the file was not what fsx expected, with its last operations.
pub fn run(file: &Path, scratch: &Path, seed: u64, operations: u64) {
    let config = scratch.join("fsx.toml");
    std::fs::write(&config, CONFIGURATION).expect("written");
    let done = Command::new(tool("fsx"))
        .arg("-f")
        .arg(&config)
        .args(["-S", &seed.to_string()])
        .args(["-N", &operations.to_string()])
        .arg("-P")
        .arg(scratch)
        .arg(file)
        .limit(
            Duration::from_secs(60)
                + PER_OPERATION_MAX * u32::try_from(operations).unwrap_or(u32::MAX),
        )
        .run();
    if !done.status.success() {
        let said = done.stderr_text();
        let lines: Vec<_> = said.lines().collect();
        let last = lines.len().saturating_sub(LINES_SHOWN);
        panic!(
            "fsx with seed {seed} on {}: {}\n{}\n...\n{}",
            file.display(),
            done.status,
            lines.first().unwrap_or(&""),
            lines.get(last..).unwrap_or_default().join("\n")
        );
    }
}

/// Four chunks, so that most operations lie within one and many cross a border. Mapped reads are
/// few: fsx never unmaps them, and a process has 65,530 mappings.
const CONFIGURATION: &str = "\
flen = 4194304
[opsize]
max = 65536
min = 1
[weights]
close_open = 1
read = 20
write = 20
mapread = 4
mapwrite = 10
invalidate = 2
truncate = 5
fsync = 1
fdatasync = 1
posix_fallocate = 3
punch_hole = 5
sendfile = 5
posix_fadvise = 3
copy_file_range = 8
";

/// Far more than an operation takes, for the limit of a run.
const PER_OPERATION_MAX: Duration = Duration::from_millis(10);

/// The operations before the failure that are shown.
const LINES_SHOWN: usize = 150;
