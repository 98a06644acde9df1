//! Calls at random while descriptors and mappings stay open and caches are dropped, beside ext4:
//! what the kernel keeps (names that are not there, attributes, pages of mappings) must follow
//! every call, also one through another name or another descriptor.
//!
//! `DFS_SEED` repeats a run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mount_tests::beside::{Side, beside};
use mount_tests::suites::seed;
use mount_tests::sys::Mapping;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags, chownat,
    copy_file_range, fallocate, fcntl_setfl, linkat, mkdirat, mkfifoat, open, renameat_with,
    unlinkat,
};
use rustix::io::Errno;

/// A small generator of numbers (SplitMix64): the same ones on both sides.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Returns an offset or a length: often small, often at a border, seldom large.
    fn size(&mut self) -> u64 {
        let base = self.of(&[0, 0, 100, 4096, 16 << 10, 1 << 20]);
        let spread = self.of(&[3, 200, 5000]);
        base + self.below(spread)
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let first = self.next() as u8;
        (0..len)
            .map(|at| first.wrapping_add(at as u8) | 1)
            .collect()
    }
}

/// What a run of calls holds open.
struct World {
    root: PathBuf,
    numbers: Numbers,
    files: Vec<File>,
    /// Mappings, each with the file that it shows.
    maps: Vec<(Mapping, File)>,
}

const FOLDERS: [&str; 4] = [".", "x", "y", "x/z"];
const NAMES: [&str; 7] = ["a", "b", "c", "d", "x", "y", "z"];
const OPEN_MAX: usize = 6;
const MAPS_MAX: usize = 3;
const MAP_BYTES: u64 = 64 << 10;

/// Returns the number of an error, without a word that may name a path.
fn code<T>(done: std::io::Result<T>) -> Result<T, Option<i32>> {
    done.map_err(|error| error.raw_os_error())
}

impl World {
    fn path(&mut self) -> PathBuf {
        let (folder, name) = (self.numbers.of(&FOLDERS), self.numbers.of(&NAMES));
        self.root.join(folder).join(name)
    }

    fn file(&mut self) -> Option<usize> {
        let count = self.files.len() as u64;
        (count > 0).then(|| self.numbers.below(count) as usize)
    }

    /// Makes one call and returns what it was and what came of it.
    fn step(&mut self) -> String {
        match self.numbers.below(36) {
            0..4 => self.open(),
            4..8 => self.write(),
            8..11 => self.read(),
            11..13 => self.resize(),
            13..15 => self.allocate(),
            15 => self.copy(),
            16..18 => self.map(),
            18..21 => self.rename(),
            21..23 => self.link(),
            23..26 => self.remove(),
            26..28 => self.make(),
            28..31 => self.set(),
            31..33 => self.attribute(),
            33 => self.close(),
            34 => self.flush(),
            _ => self.list(),
        }
    }

    fn open(&mut self) -> String {
        let path = self.path();
        let access = self
            .numbers
            .of(&[OFlags::RDWR, OFlags::RDWR, OFlags::RDONLY, OFlags::WRONLY]);
        let extra = self.numbers.of(&[
            OFlags::CREATE,
            OFlags::CREATE,
            OFlags::CREATE | OFlags::TRUNC,
            OFlags::CREATE | OFlags::EXCL,
            OFlags::CREATE | OFlags::APPEND,
            OFlags::TRUNC,
            OFlags::NOFOLLOW,
            OFlags::DIRECTORY,
            OFlags::empty(),
        ]);
        let mode = Mode::from_raw_mode(self.numbers.of(&[0o644, 0o600, 0o400, 0o777]));
        let opened = open(&path, access | extra | OFlags::NONBLOCK, mode);
        let outcome = opened.as_ref().map(drop).map_err(|error| *error);
        if let Ok(opened) = opened {
            if self.files.len() == OPEN_MAX {
                self.files.remove(0);
            }
            self.files.push(File::from(opened));
        }
        format!("open {path:?} {access:?} {extra:?}: {outcome:?}")
    }

    fn write(&mut self) -> String {
        let (at, len) = (self.numbers.size(), self.numbers.size() % 70_000);
        let bytes = self.numbers.bytes(len);
        let Some(file) = self.file() else {
            return "nothing to write".to_owned();
        };
        let how = self.numbers.below(3);
        let file = &self.files[file];
        let written = match how {
            0 => code(std::io::Write::write(&mut &*file, &bytes)),
            1 => {
                let flags = [OFlags::APPEND, OFlags::empty()][bytes.len() % 2];
                let _ = fcntl_setfl(file, flags | OFlags::NONBLOCK);
                code(file.write_at(&bytes, at))
            }
            _ => code(file.write_at(&bytes, at)),
        };
        let is_file = |meta: &fs::Metadata| meta.is_file();
        let meta = file.metadata().ok().filter(is_file);
        let size = meta.map(|meta| (meta.size(), meta.nlink()));
        format!("write {how} {} at {at}: {written:?} {size:?}", bytes.len())
    }

    fn read(&mut self) -> String {
        let (at, len) = (self.numbers.size(), self.numbers.size());
        let Some(file) = self.file() else {
            return self.read_by_name();
        };
        let mut bytes = vec![0; len as usize];
        let read = code(self.files[file].read_at(&mut bytes, at));
        let hash = read.as_ref().map_or(0, |len| sum(&bytes[..*len]));
        format!("read {len} at {at}: {read:?} {hash:x}")
    }

    fn read_by_name(&mut self) -> String {
        let path = self.path();
        let read = code(fs::metadata(&path)).and_then(|meta| match meta.is_file() {
            true => code(fs::read(&path)),
            false => Ok(Vec::new()),
        });
        format!(
            "read {path:?}: {:?}",
            read.map(|bytes| (bytes.len(), sum(&bytes)))
        )
    }

    fn resize(&mut self) -> String {
        let size = self.numbers.size();
        if self.numbers.below(2) == 0
            && let Some(file) = self.file()
        {
            let done = code(self.files[file].set_len(size));
            return format!("ftruncate {size}: {done:?}");
        }
        let path = self.path();
        // A truncation by name opens nothing.
        let done = code(fs::metadata(&path)).and_then(|meta| match meta.is_file() {
            true => code(
                File::options()
                    .write(true)
                    .open(&path)
                    .and_then(|file| file.set_len(size)),
            ),
            false => Err(None),
        });
        format!("truncate {path:?} {size}: {done:?}")
    }

    fn allocate(&mut self) -> String {
        let mode = self.numbers.of(&[
            FallocateFlags::empty(),
            FallocateFlags::KEEP_SIZE,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocateFlags::ZERO_RANGE,
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        ]);
        let (at, len) = (self.numbers.size(), self.numbers.size());
        let Some(file) = self.file() else {
            return "nothing to allocate".to_owned();
        };
        let done = fallocate(&self.files[file], mode, at, len);
        format!("fallocate {mode:?} {len} at {at}: {done:?}")
    }

    fn copy(&mut self) -> String {
        let (mut at, mut to, len) = (
            self.numbers.size(),
            self.numbers.size(),
            self.numbers.size(),
        );
        let (Some(source), Some(target)) = (self.file(), self.file()) else {
            return "nothing to copy".to_owned();
        };
        let (source, target) = (&self.files[source], &self.files[target]);
        let done = copy_file_range(source, Some(&mut at), target, Some(&mut to), len as usize);
        format!("copy {len} from {at} to {to}: {done:?}")
    }

    fn map(&mut self) -> String {
        let at = self.numbers.below(MAP_BYTES - 5000) as usize;
        let len = self.numbers.below(5000);
        let bytes = self.numbers.bytes(len);
        let count = self.maps.len() as u64;
        let choice = self.numbers.below(4);
        if choice == 0 || count == 0 {
            let Some(file) = self.file() else {
                return "nothing to map".to_owned();
            };
            let file = self.files[file].try_clone().expect("a descriptor more");
            let mapped = Mapping::shared(&file, MAP_BYTES as usize);
            let outcome = mapped.as_ref().map(drop).map_err(|error| *error);
            if let Ok(mapped) = mapped {
                if self.maps.len() == MAPS_MAX {
                    self.maps.remove(0);
                }
                self.maps.push((mapped, file));
            }
            return format!("map: {outcome:?}");
        }
        let (map, file) = &self.maps[self.numbers.below(count) as usize];
        // What is stored behind the end of a file, but within its last page, is nobody's: a FUSE
        // kernel shows it when a write makes the file longer (docs/semantics.md).
        let size = file.metadata().map_or(0, |meta| meta.size() as usize);
        let bytes = match size.checked_sub(at) {
            Some(left) => &bytes[..bytes.len().min(left)],
            None if at < size.next_multiple_of(4096) => &[],
            None => &bytes[..],
        };
        match choice {
            1 => {
                let read = code(map.read(at..at + bytes.len()));
                format!("read mapped {at}: {:?}", read.map(|bytes| sum(&bytes)))
            }
            2 => format!(
                "write mapped {} at {at}: {:?}",
                bytes.len(),
                code(map.write(at, bytes))
            ),
            _ => format!("msync: {:?}", map.sync()),
        }
    }

    fn rename(&mut self) -> String {
        let (from, to) = (self.path(), self.path());
        let flags = self.numbers.of(&[
            RenameFlags::empty(),
            RenameFlags::empty(),
            RenameFlags::NOREPLACE,
            RenameFlags::EXCHANGE,
            RenameFlags::WHITEOUT,
        ]);
        let done = renameat_with(CWD, &from, CWD, &to, flags);
        format!("rename {from:?} {to:?} {flags:?}: {done:?}")
    }

    fn link(&mut self) -> String {
        let (from, to) = (self.path(), self.path());
        if self.numbers.below(3) == 0 {
            let target = self.numbers.of(&["a", "../b", "nothing", ".", "x"]);
            return format!("symlink {target} {to:?}: {:?}", code(symlink(target, &to)));
        }
        let done = linkat(CWD, &from, CWD, &to, AtFlags::empty());
        format!("link {from:?} {to:?}: {done:?}")
    }

    fn remove(&mut self) -> String {
        let path = self.path();
        let flags = self
            .numbers
            .of(&[AtFlags::empty(), AtFlags::empty(), AtFlags::REMOVEDIR]);
        format!(
            "remove {path:?} {flags:?}: {:?}",
            unlinkat(CWD, &path, flags)
        )
    }

    fn make(&mut self) -> String {
        let path = self.path();
        let mode = Mode::from_raw_mode(self.numbers.of(&[0o755, 0o2777, 0o1777, 0o700]));
        let done = match self.numbers.below(4) {
            0 => mkfifoat(CWD, &path, mode),
            _ => mkdirat(CWD, &path, mode),
        };
        format!("make {path:?} {mode:?}: {done:?}")
    }

    fn set(&mut self) -> String {
        let path = self.path();
        let done = match self.numbers.below(3) {
            0 => {
                let mode = self
                    .numbers
                    .of(&[0o644, 0o4755, 0o2755, 0o2644, 0o700, 0o000]);
                let is_link = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink());
                match is_link {
                    true => Ok(()),
                    false => code(fs::set_permissions(&path, fs::Permissions::from_mode(mode))),
                }
            }
            1 => {
                let (uid, gid) = (self.numbers.of(&[0, 1, 65534]), self.numbers.of(&[0, 2]));
                let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                let done = chownat(CWD, &path, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
                done.map_err(|error| Some(error.raw_os_error()))
            }
            _ => {
                let time = |secs| rustix::fs::Timespec {
                    tv_sec: secs,
                    tv_nsec: 7,
                };
                let times = rustix::fs::Timestamps {
                    last_access: time(self.numbers.below(1 << 31) as i64),
                    last_modification: time(self.numbers.below(1 << 31) as i64),
                };
                let done = rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW);
                let seen =
                    fs::symlink_metadata(&path).map(|meta| (meta.mtime(), meta.mtime_nsec()));
                if done.is_ok() {
                    return format!("utimensat {path:?}: {:?}", code(seen));
                }
                done.map_err(|error| Some(error.raw_os_error()))
            }
        };
        format!("set {path:?}: {done:?} {:?}", facts(&path))
    }

    fn attribute(&mut self) -> String {
        let path = self.path();
        let name = self.numbers.of(&["user.one", "user.two", "trusted.three"]);
        let len = self.numbers.below(300);
        let value = self.numbers.bytes(len);
        let done = match self.numbers.below(4) {
            0 => rustix::fs::lremovexattr(&path, name),
            _ => rustix::fs::lsetxattr(&path, name, &value, XattrFlags::empty()),
        };
        format!(
            "attribute {path:?} {name}: {done:?} {:?}",
            attributes(&path)
        )
    }

    fn close(&mut self) -> String {
        match self.file() {
            Some(file) => drop(self.files.remove(file)),
            None => self.maps.clear(),
        }
        "close".to_owned()
    }

    fn flush(&mut self) -> String {
        let Some(file) = self.file() else {
            return "nothing to flush".to_owned();
        };
        let done = match self.numbers.below(2) {
            0 => code(self.files[file].sync_all()),
            _ => code(self.files[file].sync_data()),
        };
        // What the kernel keeps is dropped, what is dirty stays.
        fs::write("/proc/sys/vm/drop_caches", "3").expect("root may");
        format!("flush: {done:?}")
    }

    fn list(&mut self) -> String {
        let path = self.path();
        let names = code(fs::read_dir(&path)).map(|entries| {
            let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            names
        });
        format!("list {path:?}: {names:?} {:?}", facts(&path))
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    u64::from_le_bytes(std::array::from_fn(|at| hash.as_bytes()[at]))
}

/// Returns what stat(2) says of a path, without times and numbers.
fn facts(path: &Path) -> Result<String, Option<i32>> {
    let meta = code(fs::symlink_metadata(path))?;
    let size = if meta.is_dir() { 0 } else { meta.size() };
    let (mode, links) = (meta.mode(), meta.nlink());
    Ok(format!(
        "{mode:o} {links} {}:{} {size} {:x}",
        meta.uid(),
        meta.gid(),
        meta.rdev()
    ))
}

/// Returns the extended attributes of a path.
fn attributes(path: &Path) -> Result<BTreeMap<String, u64>, Errno> {
    let mut list = vec![0; 1024];
    let len = rustix::fs::llistxattr(path, &mut list[..])?;
    let names = list[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let mut found = BTreeMap::new();
    for name in names {
        let mut value = [0; 1024];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        found.insert(
            String::from_utf8_lossy(name).into_owned(),
            sum(&value[..len]),
        );
    }
    Ok(found)
}

/// Notes everything that is there.
fn note_tree(side: &mut Side<'_>, what: &str) {
    let root = side.root().to_owned();
    let mut folders = vec![root];
    let mut lines = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("it lists") {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("what is listed is there");
            let mut line = format!("{path:?} {:?} {:?}", facts(&path), attributes(&path));
            if meta.is_dir() {
                folders.push(path);
            } else if meta.is_symlink() {
                line += &format!(" {:?}", fs::read_link(&path));
            } else if meta.is_file() {
                line += &format!(" {:x}", sum(&fs::read(&path).expect("it reads")));
            }
            lines.push(line);
        }
    }
    lines.sort();
    for line in lines {
        side.note(what, line);
    }
}

fn run(side: &mut Side<'_>, seed: u64, steps: usize) {
    let mut world = World {
        root: side.root().to_owned(),
        numbers: Numbers(seed),
        files: Vec::new(),
        maps: Vec::new(),
    };
    for step in 0..steps {
        let outcome = world.step();
        side.note(format!("{step}"), outcome);
        if step % 250 == 249 {
            note_tree(side, "there");
        }
        if step % 1000 == 999 {
            world.files.clear();
            world.maps.clear();
            side.remount();
            note_tree(side, "after a remount");
        }
    }
}

#[test]
fn what_is_held_open_follows_every_call() {
    let seed = seed();
    println!("seed {seed}");
    beside("held", |side| run(side, seed, 2000));
}
