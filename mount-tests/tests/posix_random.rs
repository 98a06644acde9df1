//! Calls at random, by root and by an ordinary user, beside ext4: each answer is the same, and so
//! is the tree that is left, before and after a remount.
//!
//! `DFS_SEED` repeats a run, `DFS_CALLS` sets its length; `mount-tests/conformance/random` makes
//! many.

use std::fmt::Debug;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dfs::base::Rng;
use mount_tests::beside::{Side, beside};
use mount_tests::suites::seed;
use mount_tests::sys::{Mapping, as_user};
use mount_tests::tree::read_tree;
use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, FlockOperation, Gid, Mode, OFlags, RenameFlags, SeekFrom,
    Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

#[test]
fn calls_at_random_are_answered_as_on_ext4() {
    let seed = seed();
    println!("seed {seed}");
    let calls: u32 =
        std::env::var("DFS_CALLS").map_or(1_500, |text| text.parse().expect("a number"));
    beside("random", |side| {
        let root = nested(side);
        let rng = Rng::from_seed(seed);
        let world = Arc::new(Mutex::new(World {
            root: root.clone(),
            files: Default::default(),
        }));
        for number in 0..calls {
            let call = Call::draw(&rng);
            let text = format!("{number} {call:?}");
            let outcome = if rng.below(4) == 0 {
                let world = Arc::clone(&world);
                as_user(USER, &[USER], move || {
                    world.lock().expect("no panic").run(&call)
                })
            } else {
                world.lock().expect("no panic").run(&call)
            };
            side.note(text, outcome);
        }
        world.lock().expect("no panic").files = Default::default();
        note_tree(side, &root);
        side.remount();
        note_tree(side, &root);
    });
}

/// Returns a folder in folders of its own, so that `..` does not lead to what the two filesystems
/// have at their roots.
fn nested(side: &Side<'_>) -> PathBuf {
    let mut path = side.root().to_owned();
    for name in ["1", "2", "3", "4", "5"] {
        path.push(name);
        std::fs::create_dir(&path).expect("made");
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o777)).expect("changed");
    }
    path
}

fn note_tree(side: &mut Side<'_>, root: &Path) {
    for (path, facts) in read_tree(root) {
        let facts = format!(
            "{:o} {:?} {} bytes, {} links, {:?} {:?} {:?} {:?}",
            facts.mode,
            facts.owner,
            facts.size,
            facts.nlink,
            facts.same_as,
            facts.target,
            facts.xattrs,
            facts.content
        );
        side.note(path.display(), facts);
    }
}

/// Somebody with neither privileges nor, in the beginning, files.
const USER: u32 = 1000;

/// Open files that calls go to.
const SLOTS: usize = 3;

struct World {
    root: PathBuf,
    files: [Option<OwnedFd>; SLOTS],
}

/// Bytes to write: so many of one value.
#[derive(Debug, Clone, Copy)]
struct Fill(u8, usize);

impl Fill {
    fn bytes(self) -> Vec<u8> {
        vec![self.0; self.1]
    }
}

#[derive(Debug, Clone)]
enum Call {
    Open(usize, String, OFlags, u32),
    Close(usize),
    Write(usize, Fill),
    WriteAt(usize, Fill, u64),
    Read(usize, usize),
    ReadAt(usize, usize, u64),
    Seek(usize, SeekFrom),
    Resize(usize, u64),
    Sync(usize),
    Stat(usize),
    Allocate(usize, FallocateFlags, u64, u64),
    Copy(usize, usize, u64, u64, usize),
    ChangeMode(usize, u32),
    LinkOpen(usize, String),
    MapAndWrite(usize, usize, Fill),
    MapAndRead(usize),
    Lock(usize, FlockOperation),
    MakeFolder(String, u32),
    RemoveFolder(String),
    Unlink(String),
    Rename(String, String, RenameFlags),
    Link(String, String, AtFlags),
    Symlink(String, String),
    ReadLink(String),
    MakeNode(String, u32),
    SetMode(String, u32),
    SetOwner(String, Option<u32>, u32, AtFlags),
    SetTimes(String, (i64, i64), (i64, i64), AtFlags),
    Truncate(String, u64),
    Look(String, AtFlags),
    Access(String, Access),
    List(String),
    SetXattr(String, String, Fill, XattrFlags),
    GetXattr(String, String),
    ListXattrs(String),
    RemoveXattr(String, String),
}

fn one_of<T: Clone>(rng: &Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize].clone()
}

/// Names of what mostly is a folder.
const FOLDERS: [&str; 3] = ["a", "b", "c"];

/// Names of what mostly is a file.
const FILES: [&str; 4] = ["p", "q", "r", "f f"];

fn name(rng: &Rng, usual: &[&str]) -> String {
    match rng.below(60) {
        0 => "n".repeat(255),
        1 => "x".repeat(256),
        2 => ".".to_owned(),
        3 => "..".to_owned(),
        4..=6 => one_of(rng, &FOLDERS).to_owned(),
        7..=9 => one_of(rng, &FILES).to_owned(),
        _ => one_of(rng, usual).to_owned(),
    }
}

fn path_to(rng: &Rng, usual: &[&str]) -> String {
    let depth = [0, 0, 0, 0, 1, 1, 1, 2, 2, 3][rng.below(10) as usize];
    let mut names: Vec<_> = (0..depth).map(|_| name(rng, &FOLDERS)).collect();
    names.push(name(rng, usual));
    let end = if rng.below(30) == 0 { "/" } else { "" };
    names.join("/") + end
}

fn path(rng: &Rng) -> String {
    let usual: &[&str] = if rng.below(3) == 0 { &FOLDERS } else { &FILES };
    path_to(rng, usual)
}

fn fill(rng: &Rng) -> Fill {
    let len = one_of(rng, &[0, 1, 10, 100, 4095, 4096, 4097, 20_000, 70_000]);
    Fill(rng.below(256) as u8, len)
}

fn offset(rng: &Rng) -> u64 {
    one_of(
        rng,
        &[
            0,
            1,
            100,
            4095,
            4096,
            10_000,
            65_536,
            1 << 20,
            (1 << 20) + 7,
            3 << 20,
        ],
    )
}

fn mode(rng: &Rng) -> u32 {
    one_of(
        rng,
        &[
            0o644, 0o755, 0o777, 0o600, 0o000, 0o4755, 0o2755, 0o1777, 0o2777, 0o6777, 0o666,
            0o2775,
        ],
    )
}

fn open_flags(rng: &Rng) -> OFlags {
    let mut flags = one_of(
        rng,
        &[OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR, OFlags::RDWR],
    );
    // A fifo would be waited for.
    flags |= OFlags::NONBLOCK | OFlags::CLOEXEC;
    for (flag, percent) in [
        (OFlags::CREATE, 75),
        (OFlags::EXCL, 5),
        (OFlags::TRUNC, 15),
        (OFlags::APPEND, 15),
        (OFlags::DIRECTORY, 3),
        (OFlags::NOFOLLOW, 5),
        (OFlags::DSYNC, 3),
        (OFlags::NOATIME, 2),
    ] {
        if rng.below(100) < percent {
            flags |= flag;
        }
    }
    flags
}

fn owner(rng: &Rng) -> u32 {
    one_of(rng, &[0, USER, USER, 65534])
}

fn time(rng: &Rng) -> (i64, i64) {
    one_of(
        rng,
        &[
            (0, 0),
            (0, 1),
            (1_500_000_000, 123_456_789),
            (1 << 31, 0),
            (-1, 0),
            (-2, 500_000_000),
        ],
    )
}

fn follow(rng: &Rng) -> AtFlags {
    one_of(rng, &[AtFlags::empty(), AtFlags::SYMLINK_NOFOLLOW])
}

fn attribute(rng: &Rng) -> String {
    match rng.below(12) {
        0 => "user.".to_owned(),
        1 => "bogus".to_owned(),
        2 => "system.x".to_owned(),
        3 => format!("user.{}", "n".repeat(250)),
        4 => format!("user.{}", "n".repeat(251)),
        _ => one_of(rng, &["user.a", "user.b", "trusted.t", "security.s"]).to_owned(),
    }
}

impl Call {
    fn draw(rng: &Rng) -> Self {
        let slot = rng.below(SLOTS as u64) as usize;
        if rng.below(2) == 0 {
            return Self::draw_on_names(rng, slot);
        }
        match rng.below(22) {
            0 => Self::Close(slot),
            1..=3 => Self::Write(slot, fill(rng)),
            4..=6 => Self::WriteAt(slot, fill(rng), offset(rng)),
            7 | 8 => Self::Read(slot, 50_000),
            9 | 10 => Self::ReadAt(slot, 50_000, offset(rng)),
            11 => Self::Seek(
                slot,
                one_of(
                    rng,
                    &[
                        SeekFrom::Start(offset(rng)),
                        SeekFrom::Current(offset(rng).cast_signed() - 5000),
                        SeekFrom::End(offset(rng).cast_signed() - 5000),
                    ],
                ),
            ),
            12 | 13 => Self::Resize(slot, offset(rng)),
            14 => Self::Sync(slot),
            15 => Self::Stat(slot),
            16 => {
                let (keep, punch) = (FallocateFlags::KEEP_SIZE, FallocateFlags::PUNCH_HOLE);
                let zero = FallocateFlags::ZERO_RANGE;
                let flags = [
                    FallocateFlags::empty(),
                    keep,
                    punch,
                    punch | keep,
                    zero,
                    zero | keep,
                ];
                let len = one_of(rng, &[0, 1, 5_000, 100_000]);
                Self::Allocate(slot, one_of(rng, &flags), offset(rng), len)
            }
            17 => {
                let to = rng.below(SLOTS as u64) as usize;
                let len = one_of(rng, &[0, 10, 5_000, 100_000]);
                Self::Copy(slot, to, offset(rng), offset(rng), len)
            }
            18 => Self::ChangeMode(slot, mode(rng)),
            19 => Self::MapAndWrite(slot, offset(rng) as usize, fill(rng)),
            20 => Self::MapAndRead(slot),
            _ => Self::Lock(
                slot,
                one_of(
                    rng,
                    &[
                        FlockOperation::NonBlockingLockShared,
                        FlockOperation::NonBlockingLockExclusive,
                        FlockOperation::NonBlockingUnlock,
                    ],
                ),
            ),
        }
    }

    fn draw_on_names(rng: &Rng, slot: usize) -> Self {
        match rng.below(40) {
            0..=7 => Self::Open(slot, path_to(rng, &FILES), open_flags(rng), mode(rng)),
            8..=11 => Self::MakeFolder(path_to(rng, &FOLDERS), mode(rng)),
            12 => Self::RemoveFolder(path_to(rng, &FOLDERS)),
            13..=15 => Self::Unlink(path(rng)),
            16..=19 => {
                let (no, swap) = (RenameFlags::NOREPLACE, RenameFlags::EXCHANGE);
                let flags = [
                    RenameFlags::empty(),
                    RenameFlags::empty(),
                    no,
                    swap,
                    no | swap,
                    RenameFlags::WHITEOUT,
                    RenameFlags::WHITEOUT | no,
                ];
                Self::Rename(path(rng), path(rng), one_of(rng, &flags))
            }
            20 | 21 => Self::Link(
                path(rng),
                path(rng),
                one_of(rng, &[AtFlags::empty(), AtFlags::SYMLINK_FOLLOW]),
            ),
            22 => Self::LinkOpen(slot, path(rng)),
            23 | 24 => {
                let targets = [
                    path(rng),
                    "nowhere".to_owned(),
                    "y".repeat(4095),
                    ".".to_owned(),
                ];
                Self::Symlink(one_of(rng, &targets), path(rng))
            }
            25 => Self::ReadLink(path(rng)),
            26 => {
                let kind = one_of(
                    rng,
                    &[0o100_000, 0o010_000, 0o140_000, 0o020_000, 0o060_000],
                );
                Self::MakeNode(path(rng), mode(rng) | kind)
            }
            27 | 28 => Self::SetMode(path(rng), mode(rng)),
            29 => {
                let uid = one_of(rng, &[None, Some(owner(rng))]);
                Self::SetOwner(path(rng), uid, owner(rng), follow(rng))
            }
            30 => Self::SetTimes(path(rng), time(rng), time(rng), follow(rng)),
            31 => Self::Truncate(path(rng), offset(rng)),
            32 | 33 => Self::Look(path(rng), follow(rng)),
            34 => {
                let wanted = [
                    Access::EXISTS,
                    Access::READ_OK,
                    Access::WRITE_OK,
                    Access::EXEC_OK,
                ];
                Self::Access(path(rng), one_of(rng, &wanted))
            }
            35 => Self::List(path(rng)),
            36 => {
                let flags = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE];
                let value = Fill(rng.below(256) as u8, one_of(rng, &[0, 10, 1000]));
                Self::SetXattr(path(rng), attribute(rng), value, one_of(rng, &flags))
            }
            37 => Self::GetXattr(path(rng), attribute(rng)),
            38 => Self::ListXattrs(path(rng)),
            _ => Self::RemoveXattr(path(rng), attribute(rng)),
        }
    }
}

/// What came of a call, in words that are the same wherever the same came of it.
fn said<T: Debug>(outcome: Result<T, Errno>) -> String {
    match outcome {
        Ok(value) => format!("{value:?}"),
        Err(errno) => format!("{errno}"),
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn facts(stat: &rustix::fs::Stat) -> String {
    let is_folder = stat.st_mode & 0o170_000 == 0o040_000;
    // What a folder takes is each filesystem's own matter.
    let size = if is_folder { 0 } else { stat.st_size };
    format!(
        "{:o} {}:{} {size} bytes, {} links",
        stat.st_mode, stat.st_uid, stat.st_gid, stat.st_nlink
    )
}

impl World {
    fn at(&self, path: &str) -> PathBuf {
        // Not Path::join, which would drop a slash at the end.
        let mut whole = self.root.clone().into_os_string().into_vec();
        whole.push(b'/');
        whole.extend_from_slice(path.as_bytes());
        std::ffi::OsString::from_vec(whole).into()
    }

    fn file(&self, slot: usize) -> Result<&OwnedFd, Errno> {
        self.files[slot].as_ref().ok_or(Errno::BADF)
    }

    /// Returns a file that has bytes at places.
    fn regular(&self, slot: usize) -> Result<std::fs::File, Errno> {
        let file = self
            .file(slot)?
            .try_clone()
            .map_err(|error| errno(&error))?;
        let file = std::fs::File::from(file);
        let meta = file.metadata().map_err(|error| errno(&error))?;
        if meta.is_file() {
            Ok(file)
        } else {
            Err(Errno::NODEV)
        }
    }

    fn run(&mut self, call: &Call) -> String {
        match call {
            Call::Open(slot, path, flags, mode) => {
                self.files[*slot] = None;
                let opened = rustix::fs::open(self.at(path), *flags, Mode::from_raw_mode(*mode));
                said(opened.and_then(|file| {
                    let stat = rustix::fs::fstat(&file)?;
                    self.files[*slot] = Some(file);
                    Ok(facts(&stat))
                }))
            }
            Call::Close(slot) => {
                self.files[*slot] = None;
                String::new()
            }
            call => self
                .run_on_file(call)
                .unwrap_or_else(|| self.run_on_names(call)),
        }
    }

    fn run_on_file(&self, call: &Call) -> Option<String> {
        let file = |slot: &usize| self.file(*slot);
        Some(match call {
            Call::Write(slot, fill) => {
                said(file(slot).and_then(|file| rustix::io::write(file, &fill.bytes())))
            }
            Call::WriteAt(slot, fill, at) => {
                said(file(slot).and_then(|file| rustix::io::pwrite(file, &fill.bytes(), *at)))
            }
            Call::Read(slot, len) => said(file(slot).and_then(|file| {
                let mut bytes = vec![0; *len];
                let read = rustix::io::read(file, &mut bytes)?;
                Ok((read, blake3::hash(&bytes)))
            })),
            Call::ReadAt(slot, len, at) => said(file(slot).and_then(|file| {
                let mut bytes = vec![0; *len];
                let read = rustix::io::pread(file, &mut bytes, *at)?;
                Ok((read, blake3::hash(&bytes)))
            })),
            // The offsets of a folder are each filesystem's own.
            Call::Seek(slot, to) => said(
                self.regular(*slot)
                    .and_then(|file| rustix::fs::seek(file, *to)),
            ),
            Call::Resize(slot, size) => {
                said(file(slot).and_then(|file| rustix::fs::ftruncate(file, *size)))
            }
            Call::Sync(slot) => said(file(slot).and_then(rustix::fs::fsync)),
            Call::Stat(slot) => said(
                file(slot)
                    .and_then(rustix::fs::fstat)
                    .map(|stat| facts(&stat)),
            ),
            Call::Allocate(slot, flags, at, len) => {
                said(file(slot).and_then(|file| rustix::fs::fallocate(file, *flags, *at, *len)))
            }
            Call::Copy(from, to, read_at, write_at, len) => said(file(from).and_then(|from| {
                let (mut read_at, mut write_at) = (*read_at, *write_at);
                let to = file(to)?;
                rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), *len)
            })),
            Call::ChangeMode(slot, mode) => said(
                file(slot).and_then(|file| rustix::fs::fchmod(file, Mode::from_raw_mode(*mode))),
            ),
            Call::LinkOpen(slot, path) => said(file(slot).and_then(|file| {
                let open = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
                rustix::fs::linkat(CWD, open, CWD, self.at(path), AtFlags::SYMLINK_FOLLOW)
            })),
            Call::MapAndWrite(slot, at, fill) => said(self.regular(*slot).and_then(|file| {
                let len = usize::try_from(file.metadata().map_or(0, |meta| meta.size()));
                let (len, bytes) = (len.unwrap_or(0), fill.bytes());
                if len == 0 || bytes.is_empty() || at + bytes.len() > len {
                    return Err(Errno::FAULT);
                }
                let map = Mapping::shared(&file, len)?;
                map.write(*at, &bytes).map_err(|error| errno(&error))?;
                map.sync()
            })),
            Call::MapAndRead(slot) => said(self.regular(*slot).and_then(|file| {
                let len = usize::try_from(file.metadata().map_or(0, |meta| meta.size()));
                let len = len.ok().filter(|len| *len > 0).ok_or(Errno::FAULT)?;
                // Not Mapping::read, which a descriptor without leave to write would not get.
                let mut bytes = vec![0; len];
                let read = file.read_at(&mut bytes, 0).map_err(|error| errno(&error))?;
                let map = Mapping::private(&file, len)?;
                let mapped = map.read(0..len).map_err(|error| errno(&error))?;
                Ok((read, mapped == bytes, blake3::hash(&mapped)))
            })),
            Call::Lock(slot, operation) => {
                said(file(slot).and_then(|file| rustix::fs::flock(file.as_fd(), *operation)))
            }
            _ => return None,
        })
    }

    fn run_on_names(&self, call: &Call) -> String {
        let at = |path: &String| self.at(path);
        match call {
            Call::MakeFolder(path, mode) => {
                said(rustix::fs::mkdir(at(path), Mode::from_raw_mode(*mode)))
            }
            Call::RemoveFolder(path) => said(rustix::fs::rmdir(at(path))),
            Call::Unlink(path) => said(rustix::fs::unlink(at(path))),
            Call::Rename(from, to, flags) => said(rustix::fs::renameat_with(
                CWD,
                at(from),
                CWD,
                at(to),
                *flags,
            )),
            Call::Link(from, to, flags) => {
                said(rustix::fs::linkat(CWD, at(from), CWD, at(to), *flags))
            }
            Call::Symlink(target, path) => said(rustix::fs::symlink(target.as_str(), at(path))),
            Call::ReadLink(path) => said(rustix::fs::readlink(at(path), Vec::new())),
            Call::MakeNode(path, mode) => said(rustix::fs::mknodat(
                CWD,
                at(path),
                rustix::fs::FileType::from_raw_mode(*mode),
                Mode::from_raw_mode(*mode),
                rustix::fs::makedev(1, 7),
            )),
            Call::SetMode(path, mode) => {
                said(rustix::fs::chmod(at(path), Mode::from_raw_mode(*mode)))
            }
            Call::SetOwner(path, uid, gid, flags) => said(rustix::fs::chownat(
                CWD,
                at(path),
                uid.map(Uid::from_raw),
                Some(Gid::from_raw(*gid)),
                *flags,
            )),
            Call::SetTimes(path, accessed, modified, flags) => {
                said(set_times(&at(path), (*accessed, *modified), *flags))
            }
            Call::Truncate(path, size) => {
                let opened =
                    rustix::fs::open(at(path), OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty());
                said(opened.and_then(|file| rustix::fs::ftruncate(file, *size)))
            }
            Call::Look(path, flags) => {
                said(rustix::fs::statat(CWD, at(path), *flags).map(|stat| facts(&stat)))
            }
            Call::Access(path, wanted) => said(rustix::fs::accessat(
                CWD,
                at(path),
                *wanted,
                AtFlags::EACCESS,
            )),
            Call::List(path) => said(list(&at(path))),
            Call::SetXattr(path, name, value, flags) => said(rustix::fs::lsetxattr(
                at(path),
                name.as_str(),
                &value.bytes(),
                *flags,
            )),
            Call::GetXattr(path, name) => {
                let mut value = vec![0; 2000];
                said(
                    rustix::fs::lgetxattr(at(path), name.as_str(), value.as_mut_slice())
                        .map(|len| (len, blake3::hash(&value))),
                )
            }
            Call::ListXattrs(path) => {
                let mut names = vec![0; 8000];
                let listed = rustix::fs::llistxattr(at(path), names.as_mut_slice());
                said(listed.map(|len| {
                    let mut names: Vec<_> = names[..len].split(|byte| *byte == 0).collect();
                    names.sort_unstable();
                    names
                        .iter()
                        .map(|name| String::from_utf8_lossy(name).into_owned())
                        .collect::<Vec<_>>()
                }))
            }
            Call::RemoveXattr(path, name) => {
                said(rustix::fs::lremovexattr(at(path), name.as_str()))
            }
            call => unreachable!("{call:?} is for an open file"),
        }
    }
}

/// Sets both times and returns the one that nobody else moves.
fn set_times(
    path: &Path,
    (accessed, modified): ((i64, i64), (i64, i64)),
    flags: AtFlags,
) -> Result<(i64, u64), Errno> {
    let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(accessed),
        last_modification: time(modified),
    };
    rustix::fs::utimensat(CWD, path, &times, flags)?;
    let stat = rustix::fs::statat(CWD, path, flags)?;
    Ok((stat.st_mtime, stat.st_mtime_nsec))
}

fn list(path: &Path) -> Result<Vec<String>, Errno> {
    let folder = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&folder)? {
        let entry = entry?;
        names.push(format!("{:?} {:?}", entry.file_name(), entry.file_type()));
    }
    names.sort();
    Ok(names)
}
