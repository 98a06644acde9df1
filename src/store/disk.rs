//! What the chunk files need of a disk, as a trait: the folder itself, or a model that crashes.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::FallocateFlags;

use crate::base::waits;

/// A flat folder of files.
///
/// What a crash may do to it: a file that was made or removed since the last
/// [`Disk::sync_names`] may be there or not. Of the bytes written to a file since its last
/// [`DiskFile::sync_data`] each sector may be there or not; synced bytes stay.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Opens a file for reading and writing, making it where `create` is set and it is missing.
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// Removes a file; those who have it open may go on reading it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, which no file has. Like other changes of names, that is durable
    /// with the next [`Disk::sync_names`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Returns the names of all files.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Makes durable which files there are.
    fn sync_names(&self) -> io::Result<()>;

    /// Returns how much room there is.
    fn room(&self) -> io::Result<Room>;
}

/// The room of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What any process may still write.
    pub available: u64,
    /// What this one may still write: for root also what the file system keeps for root.
    pub last: u64,
    /// What the disk holds in all.
    pub total: u64,
}

/// A file of a [`Disk`].
pub trait DiskFile: Send + Sync + std::fmt::Debug {
    /// Writes two pieces, one behind the other, from `offset` on.
    fn write_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<()>;

    /// Returns `len` bytes from `offset` on, fewer where the file ends before.
    fn read_at(&self, len: usize, offset: u64) -> io::Result<Bytes>;

    /// Makes everything that was written before durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Gives the room of a range back to the disk; it reads as zeros from then on.
    ///
    /// Does nothing where the file system cannot.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Returns the length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Takes room for the first `len` bytes of an empty file, which read as zeros.
    ///
    /// A hint, which this does nothing about: later writes then need not change the file's length.
    fn reserve(&self, len: u64) -> io::Result<()> {
        let _ = len;
        Ok(())
    }
}

/// A folder of the local file system.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    is_writable: bool,
}

impl Folder {
    /// Returns the folder at `path`, which is there.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            is_writable: true,
        }
    }

    /// Returns the folder at `path` in which nothing can be changed.
    pub fn read_only(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            is_writable: false,
        }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.is_writable {
            return Ok(());
        }
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

impl Disk for Folder {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(self.is_writable)
            .create(create && self.is_writable)
            .truncate(false)
            .mode(0o600)
            .open(self.path.join(name))?;
        Ok(Arc::new(LocalFile(file)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        std::fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // A name that is not text is not one of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn room(&self) -> io::Result<Room> {
        let stat = rustix::fs::statvfs(&self.path)?;
        let is_root = rustix::process::geteuid().is_root();
        let last = if is_root { stat.f_bfree } else { stat.f_bavail };
        Ok(Room {
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            last: last.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}

#[derive(Debug)]
struct LocalFile(File);

impl LocalFile {
    /// Reads what the kernel has in memory of `len` bytes into the room of `bytes`, which is empty, and
    /// makes it begin to read the rest; less or nothing where it does not know how.
    #[expect(unsafe_code, reason = "reads into memory that nobody has written to")]
    fn read_from_memory(&self, bytes: &mut Vec<u8>, len: usize, offset: u64) {
        let Ok(offset) = libc::off_t::try_from(offset) else {
            return;
        };
        let room = bytes.spare_capacity_mut();
        let piece = libc::iovec {
            iov_base: room.as_mut_ptr().cast(),
            iov_len: room.len().min(len),
        };
        let (file, flags) = (self.0.as_raw_fd(), libc::RWF_NOWAIT);
        // SAFETY: the one piece is the vector's own room, which lives and is not touched through
        // the call.
        let read = unsafe { libc::preadv2(file, &raw const piece, 1, offset, flags) };
        if let Ok(read) = usize::try_from(read) {
            // SAFETY: so many bytes of the room of an empty vector were just written.
            unsafe { bytes.set_len(read) };
        }
    }
}

impl DiskFile for LocalFile {
    fn write_at(&self, first: &[u8], second: &[u8], offset: u64) -> io::Result<()> {
        let (mut first, mut second, mut offset) = (first, second, offset);
        while !first.is_empty() || !second.is_empty() {
            let pieces = [IoSlice::new(first), IoSlice::new(second)];
            let written = match rustix::io::pwritev(&self.0, &pieces, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            offset += written as u64;
            let of_first = written.min(first.len());
            first = first.get(of_first..).unwrap_or_default();
            second = second.get(written - of_first..).unwrap_or_default();
        }
        Ok(())
    }

    fn read_at(&self, len: usize, offset: u64) -> io::Result<Bytes> {
        let mut bytes = Vec::with_capacity(len);
        if waits::is_set() {
            self.read_from_memory(&mut bytes, len, offset);
            if bytes.len() < len {
                waits::begin();
            }
        }
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            let spare = rustix::buffer::spare_capacity(&mut bytes);
            match rustix::io::pread(&self.0, spare, at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // The allocation may be a little larger than asked for.
        bytes.truncate(len);
        Ok(Bytes::from(bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.0, flags, offset, len) {
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_lie_one_behind_the_other_and_holes_read_as_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Folder::new(folder.path());
        assert!(disk.open("a", false).is_err());
        let file = disk.open("a", true).unwrap();
        file.write_at(b"head", &[7; 8192], 4096).unwrap();
        assert_eq!(file.size().unwrap(), 4096 + 4 + 8192);
        assert_eq!(&file.read_at(6, 4095).unwrap()[..], b"\0head\x07");
        assert_eq!(file.read_at(100, 4096 + 8192).unwrap().len(), 4);
        file.punch(4096, 4096).unwrap();
        assert_eq!(&file.read_at(5, 8191).unwrap()[1..], &[7; 4]);
        file.sync_data().unwrap();
        disk.sync_names().unwrap();
        assert_eq!(disk.names().unwrap(), ["a"]);
        disk.rename("a", "b").unwrap();
        assert_eq!(disk.names().unwrap(), ["b"]);
        disk.remove("b").unwrap();
        assert!(disk.names().unwrap().is_empty());
        assert_eq!(file.read_at(1, 9000).unwrap().len(), 1);
    }
}
