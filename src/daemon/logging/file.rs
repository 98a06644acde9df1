//! The file of the log: bounded, and never what fills a disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

/// At this size the file moves aside; the one before is dropped. So the log takes twice as much.
const FILE_MAX_BYTES: u64 = 8 << 20;

/// Room that the log leaves on its disk, or a sixteenth of a small one: what frees room comes first.
const ROOM_KEPT_BYTES: u64 = 16 << 20;
const ROOM_KEPT_FRACTION: u64 = 16;

/// Bytes that are written before the disk is looked at again.
const LOOK_BYTES: u64 = 64 << 10;

/// The file that the log goes to.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    /// Tells whether the disk has room for the log. An argument for tests.
    has_room: fn(&Path) -> bool,
    /// A leaf lock.
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    len: u64,
    /// Bytes that may be written before the next look at the disk.
    credit: u64,
    /// Lines that were left out since the last one that was written.
    left_out: u64,
}

impl LogFile {
    /// Opens the log at `path`, or makes it.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        Self::open_with(path, FILE_MAX_BYTES, has_room)
    }

    fn open_with(path: PathBuf, max_bytes: u64, has_room: fn(&Path) -> bool) -> io::Result<Self> {
        let (file, len) = append(&path)?;
        let open = Open {
            file,
            len,
            credit: 0,
            left_out: 0,
        };
        Ok(Self {
            path,
            max_bytes,
            has_room,
            open: Mutex::new(open),
        })
    }

    /// Opens the file anew.
    pub(super) fn reopen(&self) -> io::Result<()> {
        let mut open = self.open.lock();
        (open.file, open.len) = append(&self.path)?;
        Ok(())
    }

    /// Writes one line; one for which the disk has no room is left out, and counted.
    fn write_line(&self, line: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock();
        let len = line.len() as u64;
        if open.credit < len {
            if !(self.has_room)(&self.path) {
                open.left_out += 1;
                return Ok(());
            }
            open.credit = LOOK_BYTES.max(len);
        }
        if open.len.saturating_add(len) > self.max_bytes && open.len > 0 {
            // Where it cannot move, what it holds goes: the bound stands.
            if std::fs::rename(&self.path, self.path.with_extension("log.1")).is_err() {
                open.file.set_len(0)?;
            }
            (open.file, open.len) = append(&self.path)?;
        }
        if open.left_out > 0 {
            let told = format!("{} lines were left out: the disk was full\n", open.left_out);
            open.file.write_all(told.as_bytes())?;
            open.len += told.len() as u64;
            open.left_out = 0;
        }
        open.file.write_all(line)?;
        open.len += len;
        open.credit -= len;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let open = || {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600).open(path)
    };
    let file = match (open(), path.parent()) {
        // Somebody removed the folder.
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(folder)?;
            open()?
        }
        (opened, _) => opened?,
    };
    let len = file.metadata()?.len();
    Ok((file, len))
}

fn has_room(path: &Path) -> bool {
    // A disk that does not say is written to.
    path.parent()
        .and_then(|folder| rustix::fs::statvfs(folder).ok())
        .is_none_or(|disk| {
            let unit = disk.f_frsize;
            let kept = ROOM_KEPT_BYTES.min(disk.f_blocks.saturating_mul(unit) / ROOM_KEPT_FRACTION);
            disk.f_bavail.saturating_mul(unit) > kept
        })
}

/// Writes to a [`LogFile`], a line a call.
#[derive(Debug)]
pub(super) struct Line(Arc<LogFile>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !line.is_empty() {
            self.0.write_line(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The [`MakeWriter`] of a log.
#[derive(Debug, Clone)]
pub(super) struct ToFile(pub(super) Arc<LogFile>);

impl MakeWriter<'_> for ToFile {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn bytes_in(folder: &Path) -> u64 {
        let files = std::fs::read_dir(folder).unwrap();
        files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum()
    }

    #[test]
    fn the_log_takes_twice_its_bound_and_has_the_newest_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dfs.log");
        let log = LogFile::open_with(path.clone(), 1000, |_| true).unwrap();
        for number in 0..1000 {
            log.write_line(format!("line {number}\n").as_bytes())
                .unwrap();
            assert!(bytes_in(folder.path()) <= 2000);
        }
        assert!(bytes_in(folder.path()) > 1000);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("line 999\n"), "{text}");
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dfs.log");
        let log = LogFile::open_with(path.clone(), 1000, |_| true).unwrap();
        log.write_line(b"before\n").unwrap();
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        log.reopen().unwrap();
        log.write_line(b"behind\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "behind\n");
    }

    #[test]
    fn a_folder_that_was_removed_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log").join("dfs.log");
        let log = LogFile::open_with(path.clone(), 1000, |_| true).unwrap();
        for text in ["by hand\n", "when it is full\n"] {
            std::fs::remove_dir_all(folder.path().join("log")).unwrap();
            if text == "by hand\n" {
                log.reopen().unwrap();
            } else {
                log.open.lock().len = 1000;
            }
            log.write_line(text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_full_disk_gets_no_lines_and_later_their_count() {
        static FULL: AtomicBool = AtomicBool::new(true);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dfs.log");
        let room = |_: &Path| !FULL.load(Ordering::Relaxed);
        let log = LogFile::open_with(path.clone(), 1000, room).unwrap();
        for _ in 0..3 {
            log.write_line(b"a line\n").unwrap();
        }
        assert_eq!(bytes_in(folder.path()), 0);
        FULL.store(false, Ordering::Relaxed);
        log.write_line(b"room again\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "3 lines were left out: the disk was full\nroom again\n"
        );
    }
}
