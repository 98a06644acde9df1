//! What a state folder takes on its disk, and what the disk still takes of chunks.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

use super::space::Reserve;
use super::state;
use crate::base::Clock;
use crate::base::time::SystemClock;

/// Looks at a state folder from outside: at what its files take, and at the room around it.
#[derive(Debug)]
pub struct Footprint {
    folder: PathBuf,
    clock: SystemClock,
    /// The rows as they were measured last. Held while they are measured.
    rows: Mutex<Option<(Duration, u64)>>,
}

/// Bytes on the disk, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// The row database, in which segments lie too.
    pub rows: u64,
    /// The chunk files.
    pub chunks: u64,
    /// All of the folder: these, the row log, what is kept back for removing files, the activity log.
    pub all: u64,
}

impl Footprint {
    /// Returns what looks at the state folder at `folder`.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            clock: SystemClock::new(),
            rows: Mutex::new(None),
        }
    }

    /// Returns the bytes of the row database, at most [`MEASURED_MAX`] ago.
    pub fn rows_bytes(&self) -> u64 {
        let mut rows = self.rows.lock();
        let now = self.clock.monotonic();
        match *rows {
            Some((then, bytes)) if now.saturating_sub(then) < MEASURED_MAX => bytes,
            _ => {
                let bytes = bytes_in(&self.folder.join(state::ROWS_FOLDER), DEPTH_MAX);
                *rows = Some((now, bytes));
                bytes
            }
        }
    }

    /// Returns what the folder takes now. Looks at each file of it.
    pub fn measure(&self) -> Held {
        Held {
            rows: bytes_in(&self.folder.join(state::ROWS_FOLDER), DEPTH_MAX),
            chunks: bytes_in(&self.folder.join(state::CHUNKS_FOLDER), DEPTH_MAX),
            all: bytes_in(&self.folder, DEPTH_MAX),
        }
    }

    /// Returns how many bytes of chunks the disk still takes: what is kept back for rows is not
    /// among them. A disk that does not say takes any.
    pub fn free_bytes(&self) -> u64 {
        let Ok(disk) = rustix::fs::statvfs(&self.folder) else {
            return u64::MAX;
        };
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        // The ballast is a part of what is kept back.
        let ballast = self.folder.join(state::BALLAST_FILE);
        let ballast = std::fs::metadata(ballast).map_or(0, |meta| room_of(&meta));
        bytes(disk.f_bavail)
            .saturating_add(ballast)
            .saturating_sub(Reserve::CHUNKS.most_of(bytes(disk.f_blocks)))
    }
}

/// Returns what the files below a folder take; what cannot be looked at takes nothing.
fn bytes_in(folder: &Path, depth: usize) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of_entry = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() && depth > 0 => {
            room_of(&meta) + bytes_in(&entry.path(), depth - 1)
        }
        Ok(meta) => room_of(&meta),
        Err(_) => 0,
    };
    entries.map(of_entry).sum()
}

fn room_of(meta: &Metadata) -> u64 {
    meta.blocks() * 512
}

/// How long the rows count as they were measured: they change by a table of 16 MiB at a time.
const MEASURED_MAX: Duration = Duration::from_secs(1);

/// Folders in folders that are looked at; the row database has two.
const DEPTH_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_folder_takes_is_what_its_files_take() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join(state::ROWS_FOLDER).join("a").join("b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::create_dir(folder.path().join(state::CHUNKS_FOLDER)).unwrap();
        std::fs::write(deep.join("x"), vec![1; 1 << 20]).unwrap();
        let chunks = folder.path().join(state::CHUNKS_FOLDER).join("y");
        std::fs::write(&chunks, vec![1; 3 << 20]).unwrap();
        // A hole takes nothing.
        let file = std::fs::File::options().write(true).open(&chunks).unwrap();
        file.set_len(1 << 30).unwrap();
        let near = |bytes: u64, mib: u64| (mib << 20..=(mib << 20) + (64 << 10)).contains(&bytes);
        let footprint = Footprint::new(folder.path());
        let held = footprint.measure();
        assert!(near(held.rows, 1) && near(held.chunks, 3), "{held:?}");
        assert!(near(held.all, 4), "{held:?}");
        assert_eq!(footprint.rows_bytes(), held.rows);
        assert!(footprint.free_bytes() > 0);
    }
}
