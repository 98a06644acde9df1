//! The mountpoint before and after: is it fit, what is mounted there, and how to get rid of it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::FuseError;
use super::options::SUBTYPE;
use crate::base::task;

/// One line of /proc/self/mountinfo, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountEntry {
    /// Its number, and that of the mount that it lies in.
    id: u64,
    parent: u64,
    /// `major:minor` of the mounted filesystem, which names its folders under /sys.
    pub(super) device: String,
    /// What of the filesystem is there: a bind mount shows a part of it.
    root: PathBuf,
    pub(super) mountpoint: PathBuf,
    pub(super) fstype: OsString,
}

impl MountEntry {
    fn is_ours(&self) -> bool {
        self.fstype == OsStr::new(&format!("fuse.{SUBTYPE}"))
    }

    /// Parses a line; `None` where it is not one. Fields: id, parent, major:minor, root,
    /// mountpoint, options, optional ones, a dash, type, source, options.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
        let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
        let (device, root, mountpoint) = (fields.next()?, fields.next()?, fields.next()?);
        let fstype = fields.skip_while(|field| *field != b"-").nth(1)?;
        Some(Self {
            id,
            parent,
            device: String::from_utf8(device.to_vec()).ok()?,
            root: OsString::from_vec(unescape(root)).into(),
            mountpoint: OsString::from_vec(unescape(mountpoint)).into(),
            fstype: OsString::from_vec(unescape(fstype)),
        })
    }
}

/// Returns where something is mounted in a filesystem: the paths from its root.
pub(super) fn mounted_below(device: &str) -> Result<Vec<PathBuf>, FuseError> {
    Ok(below(&table()?, device))
}

fn below(table: &[MountEntry], device: &str) -> Vec<PathBuf> {
    let ours: BTreeMap<u64, &MountEntry> = table
        .iter()
        .filter(|entry| entry.device == device)
        .map(|entry| (entry.id, entry))
        .collect();
    let path = |entry: &MountEntry| {
        let within = ours.get(&entry.parent)?;
        let path = entry.mountpoint.strip_prefix(&within.mountpoint).ok()?;
        let root = within.root.strip_prefix("/").ok()?;
        Some(root.join(path))
    };
    table.iter().filter_map(path).collect()
}

/// Returns what is mounted at `path`, which is absolute and has no links: the uppermost last.
pub(super) fn mounted_at(path: &Path) -> Result<Vec<MountEntry>, FuseError> {
    let mut entries = table()?;
    entries.retain(|entry| entry.mountpoint == path);
    Ok(entries)
}

fn table() -> Result<Vec<MountEntry>, FuseError> {
    const MOUNTINFO: &str = "/proc/self/mountinfo";
    let table = std::fs::read(MOUNTINFO).map_err(|source| FuseError::Io {
        what: "read",
        path: MOUNTINFO.into(),
        source,
    })?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(MountEntry::parse)
        .collect())
}

/// Returns the mountpoint as an absolute path without links, when a mount can be made there.
///
/// A dead mount of ours (its daemon was killed) is taken away first. A mountpoint that does not
/// fit is one of the `Mountpoint*` errors, [`FuseError::AlreadyMounted`] or
/// [`FuseError::DeadMount`].
pub(super) fn prepare(path: &Path, nonempty: bool) -> Result<PathBuf, FuseError> {
    let resolved = resolve(path)?;
    loop {
        // The table comes first: to look at a mount whose daemon is stuck would hang.
        let top = mounted_at(&resolved)?.pop();
        let Some(top) = top.filter(|top| top.fstype.as_bytes().starts_with(b"fuse")) else {
            break;
        };
        match (is_dead(&resolved), top.is_ours()) {
            (true, true) => {
                tracing::info!(path = %resolved.display(), "taking away the dead mount");
                detach(&resolved)?;
            }
            (true, false) => {
                return Err(FuseError::DeadMount {
                    path: resolved,
                    fstype: top.fstype.to_string_lossy().into_owned(),
                });
            }
            (false, _) => return Err(FuseError::AlreadyMounted { path: resolved }),
        }
    }
    check_folder(&resolved, nonempty)?;
    Ok(resolved)
}

/// Returns whether a mount of ours lies uppermost at `path`, which is absolute and has no links; asks
/// no daemon.
pub fn is_mounted(path: &Path) -> bool {
    mounted_at(path).is_ok_and(|mut mounts| mounts.pop().is_some_and(|top| top.is_ours()))
}

/// Returns whether the daemon of the mount at `path` has ended.
///
/// Asks for what the kernel has to ask the daemon for: attributes it would answer itself for an
/// hour after the daemon's death. One that does not answer in time lives, for what we know.
fn is_dead(path: &Path) -> bool {
    let (sender, answer) = mpsc::channel();
    let asked = path.to_owned();
    let asking = task::thread("fuse-ask", move || {
        let _ = sender.send(rustix::fs::statvfs(&asked).err());
    });
    let answer = asking.map(|_| answer.recv_timeout(ANSWER_MAX));
    matches!(answer, Ok(Ok(Some(error))) if says_dead(error))
}

/// Returns whether an error is that of a mount whose daemon has ended, or has just ended with the
/// question before it.
fn says_dead(error: Errno) -> bool {
    matches!(error, Errno::NOTCONN | Errno::CONNABORTED)
}

/// How long a mount that lives may take to say so.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Returns where a mount of ours lies, as an absolute path without links.
pub(super) fn find_ours(path: &Path) -> Result<PathBuf, FuseError> {
    let resolved = resolve(path)?;
    match mounted_at(&resolved)?.pop() {
        Some(top) if top.is_ours() => Ok(resolved),
        _ => Err(FuseError::NotMounted { path: resolved }),
    }
}

/// Returns `path` without links in it, also where a dead mount lies on it.
fn resolve(path: &Path) -> Result<PathBuf, FuseError> {
    match path.canonicalize() {
        Ok(resolved) => Ok(resolved),
        // A dead mount answers nothing, so its own name cannot be looked at; what leads there can.
        Err(error) if Errno::from_io_error(&error).is_some_and(says_dead) => {
            let absolute = std::path::absolute(path).map_err(|error| refusal(path, error))?;
            match (absolute.parent(), absolute.file_name()) {
                (Some(parent), Some(name)) => {
                    let parent = parent
                        .canonicalize()
                        .map_err(|error| refusal(path, error))?;
                    Ok(parent.join(name))
                }
                _ => Err(refusal(path, error)),
            }
        }
        Err(error) => Err(refusal(path, error)),
    }
}

fn check_folder(path: &Path, nonempty: bool) -> Result<(), FuseError> {
    let metadata = std::fs::metadata(path).map_err(|error| refusal(path, error))?;
    if !metadata.is_dir() {
        return Err(FuseError::MountpointNotAFolder { path: path.into() });
    }
    let mut entries = std::fs::read_dir(path).map_err(|error| refusal(path, error))?;
    if !nonempty && entries.next().is_some() {
        return Err(FuseError::MountpointNotEmpty { path: path.into() });
    }
    Ok(())
}

fn refusal(path: &Path, source: io::Error) -> FuseError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => FuseError::MountpointMissing { path },
        io::ErrorKind::NotADirectory => FuseError::MountpointNotAFolder { path },
        _ => FuseError::Io {
            what: "look at",
            path,
            source,
        },
    }
}

/// Unmounts `path` if nobody uses it; [`FuseError::Busy`] where somebody does.
pub(super) fn unmount(path: &Path) -> Result<(), FuseError> {
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(FuseError::Busy { path: path.into() }),
        Err(Errno::PERM) => unmount_by_helper(path, &[]),
        Err(error) => Err(FuseError::Io {
            what: "unmount",
            path: path.into(),
            source: error.into(),
        }),
    }
}

/// Takes the mount at `path` out of the tree at once; who has files open there keeps them until
/// the daemon ends.
pub(super) fn detach(path: &Path) -> Result<(), FuseError> {
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => unmount_by_helper(path, &["-z"]),
        Err(error) => Err(FuseError::Io {
            what: "unmount",
            path: path.into(),
            source: error.into(),
        }),
    }
}

/// Takes the mount at `path` out of the tree at once and fails what is open there; as a user, as
/// [`detach`].
pub(super) fn abort(path: &Path) -> Result<(), FuseError> {
    let flags = UnmountFlags::NOFOLLOW | UnmountFlags::FORCE | UnmountFlags::DETACH;
    match rustix::mount::unmount(path, flags) {
        Ok(()) => Ok(()),
        Err(_) => detach(path),
    }
}

/// Asks fusermount3, which is setuid root, to unmount what this user mounted.
fn unmount_by_helper(path: &Path, flags: &[&str]) -> Result<(), FuseError> {
    let helper = find_helper().ok_or(FuseError::HelperMissing)?;
    let output = Command::new(helper)
        .arg("-u")
        .args(flags)
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| FuseError::Io {
            what: "unmount",
            path: path.into(),
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(FuseError::Busy { path: path.into() });
    }
    Err(FuseError::Refused {
        path: path.into(),
        reason: first_line(&said),
    })
}

/// Returns where fusermount3 is: in PATH, or where distributions put it.
pub(super) fn find_helper() -> Option<PathBuf> {
    const NAME: &str = "fusermount3";
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/bin", "/usr/local/bin", "/sbin", "/usr/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(NAME))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Returns the first line of what a program said, without its name in front.
pub(super) fn first_line(said: &str) -> String {
    let line = said.lines().next().unwrap_or("no reason given").trim();
    let line = line.strip_prefix("fusermount3: ").unwrap_or(line);
    line.strip_prefix("fusermount: ").unwrap_or(line).to_owned()
}

/// Undoes the octal escapes (`\040`) of the kernel's mount tables.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| {
                let digits = std::str::from_utf8(digits).ok()?;
                u8::from_str_radix(digits, 8).ok()
            });
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_tables_are_read_with_their_escapes() {
        let line =
            br"36 35 0:52 / /mnt/a\040b rw,noatime master:1 - fuse.dfs-mount my\134vol rw,user_id=0";
        let entry = MountEntry::parse(line).unwrap();
        assert_eq!(entry.device, "0:52");
        assert_eq!(entry.mountpoint, Path::new("/mnt/a b"));
        assert!(entry.is_ours());
        assert_eq!(MountEntry::parse(b"36 35 0:52 / /mnt rw"), None);
        assert_eq!(MountEntry::parse(b""), None);
        assert_eq!(unescape(br"\04x\1"), br"\04x\1");
    }

    #[test]
    fn what_is_mounted_in_a_filesystem_is_found_by_its_path_there() {
        let lines = [
            "30 1 0:52 / /mnt/dfs rw - fuse.dfs-mount vol rw",
            "31 30 0:60 / /mnt/dfs/a/tmp rw - tmpfs none rw",
            "32 31 0:61 / /mnt/dfs/a/tmp/deeper rw - tmpfs none rw",
            "33 1 0:52 /b /srv/part rw - fuse.dfs-mount vol rw",
            "34 33 0:62 / /srv/part/c\\040d rw - tmpfs none rw",
            "35 1 0:63 / /mnt/dfs-other rw - tmpfs none rw",
        ];
        let table: Vec<MountEntry> = lines
            .iter()
            .filter_map(|line| MountEntry::parse(line.as_bytes()))
            .collect();
        let paths = ["a/tmp", "b/c d"].map(PathBuf::from);
        assert_eq!(below(&table, "0:52"), paths);
    }

    #[test]
    fn mountpoints_that_do_not_fit_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        std::fs::create_dir(path("empty")).unwrap();
        std::os::unix::fs::symlink(path("empty"), path("link")).unwrap();

        let missing = prepare(&path("missing"), false).unwrap_err();
        assert!(matches!(missing, FuseError::MountpointMissing { .. }));
        for not_a_folder in ["file", "file/below"] {
            let error = prepare(&path(not_a_folder), false).unwrap_err();
            assert!(matches!(error, FuseError::MountpointNotAFolder { .. }));
        }
        let not_empty = prepare(folder.path(), false).unwrap_err();
        assert!(matches!(not_empty, FuseError::MountpointNotEmpty { .. }));
        assert!(prepare(folder.path(), true).is_ok());
        let through_link = prepare(&path("link"), false).unwrap();
        assert_eq!(through_link, path("empty").canonicalize().unwrap());
    }
}
