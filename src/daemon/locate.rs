//! Which daemon serves a path: found through the mount itself.

use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};

/// The extended attribute by which a mount names its state folder; never listed, never stored.
pub const STATE_XATTR: &str = "user.dfs.state";

/// Where a path lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The state folder of the daemon that serves it.
    pub state: PathBuf,
    /// The path below the mountpoint; empty for the mountpoint.
    pub inside: PathBuf,
}

/// Returns which daemon serves `path`, `None` where it is not in a dfs mount.
///
/// The path itself need not be readable, but its parent must exist.
pub fn locate(path: &Path) -> io::Result<Option<Located>> {
    let absolute = std::path::absolute(path)?;
    // The last component may be a symlink that is meant itself.
    let full = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize()?.join(name),
        _ => absolute,
    };
    let kind = std::fs::symlink_metadata(&full)?.file_type();
    let full = if kind.is_dir() {
        full.canonicalize()?
    } else {
        full
    };
    match served(&full)? {
        // One that lies elsewhere is none of a mount: what it leads to is meant.
        None if kind.is_symlink() => served(&full.canonicalize()?),
        found => Ok(found),
    }
}

/// Returns which daemon serves a path without symlinks in its parents.
fn served(full: &Path) -> io::Result<Option<Located>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    let Some(mount) = mount_of(&table, mount_id(full), full) else {
        return Ok(None);
    };
    if !mount.is_ours {
        return Ok(None);
    }
    let mut state = vec![0u8; 4096];
    let len = rustix::fs::getxattr(&mount.point, STATE_XATTR, &mut state)?;
    state.truncate(len);
    Ok(Some(Located {
        state: PathBuf::from(std::ffi::OsString::from_vec(state)),
        inside: mount.inside(full),
    }))
}

/// Returns the mountpoint of ours in which `path` lies where its daemon has died: nothing there can be
/// looked at any more, so the path is taken as it is written.
pub fn dead_mount(path: &Path) -> Option<PathBuf> {
    let full = std::path::absolute(path).ok()?;
    let table = std::fs::read("/proc/self/mountinfo").ok()?;
    let mount = mount_of(&table, None, &full).filter(|mount| mount.is_ours)?;
    let looked = std::fs::symlink_metadata(&mount.point);
    let died = looked.is_err_and(|error| error.kind() == io::ErrorKind::NotConnected);
    died.then_some(mount.point)
}

/// Returns the number of the mount in which a path lies; `None` before Linux 5.8.
fn mount_id(path: &Path) -> Option<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let found = rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

/// A line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// Where it is mounted.
    point: PathBuf,
    /// What of the file system is there: a bind mount shows a part of it.
    root: PathBuf,
    is_ours: bool,
}

impl Mount {
    /// Returns the path within the file system of a path in the mount.
    fn inside(&self, full: &Path) -> PathBuf {
        let root = self.root.strip_prefix("/").unwrap_or(&self.root);
        let below = full
            .strip_prefix(&self.point)
            .unwrap_or_else(|_| Path::new(""));
        // Collected anew: joining nothing would leave a slash at the end.
        root.join(below).iter().collect()
    }
}

/// Returns the mount with the number `id`; where that is not known the deepest that `full` can be
/// in, and of several at one place the last.
fn mount_of(table: &[u8], id: Option<u64>, full: &Path) -> Option<Mount> {
    let mut found: Option<Mount> = None;
    for line in table.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let kind = fields
            .iter()
            .position(|field| *field == b"-")
            .and_then(|at| fields.get(at + 1));
        let (Some(number), Some(root), Some(point), Some(kind)) =
            (fields.first(), fields.get(3), fields.get(4), kind)
        else {
            continue;
        };
        let mount = Mount {
            point: unescape(point),
            root: unescape(root),
            is_ours: kind.starts_with(b"fuse.dfs"),
        };
        let is_it = match id {
            Some(id) => *number == id.to_string().as_bytes(),
            None => {
                full.starts_with(&mount.point)
                    && found
                        .as_ref()
                        .is_none_or(|best| mount.point.starts_with(&best.point))
            }
        };
        if is_it {
            found = Some(mount);
        }
    }
    found
}

/// Returns the path of a mountinfo field, where space, tab, newline and backslash are octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(value) => {
                path.push(value);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                path.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

/// Returns the hex form in which paths below the mountpoint cross the control socket.
pub fn path_to_hex(path: &[u8]) -> String {
    crate::base::id::to_hex(path)
}

/// Returns the components of a path in the hex form.
pub(super) fn components(hex: &str) -> Option<Vec<Vec<u8>>> {
    let bytes = crate::base::id::from_hex(hex)?;
    let path = Path::new(std::ffi::OsStr::from_bytes(&bytes));
    Some(path.iter().map(|part| part.as_bytes().to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cross_as_hex() {
        let hex = path_to_hex(b"a/b \xff");
        assert_eq!(
            components(&hex),
            Some(vec![b"a".to_vec(), b"b \xff".to_vec()])
        );
        assert_eq!(components("zz"), None);
    }

    #[test]
    fn mountinfo_octal() {
        assert_eq!(unescape(br"/mnt/a\040b\134"), Path::new("/mnt/a b\\"));
        assert_eq!(unescape(br"/mnt/\9"), Path::new(r"/mnt/\9"));
    }

    const TABLE: &[u8] = br"21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
40 21 0:50 / /mnt/dfs rw - fuse.dfs-mount dfs rw
41 21 0:50 /a/b\040c /srv/bind rw - fuse.dfs-mount dfs rw
42 40 0:51 / /mnt/dfs/tmp rw - tmpfs none rw
43 21 0:50 /a/file /srv/file rw - fuse.dfs-mount dfs rw
";

    #[test]
    fn a_bind_mount_shows_a_part_and_what_is_mounted_below_is_not_ours() {
        let at = |path: &str, id| {
            let mount = mount_of(TABLE, id, Path::new(path)).unwrap();
            mount.is_ours.then(|| mount.inside(Path::new(path)))
        };
        for id in [true, false] {
            let id = |number| id.then_some(number);
            assert_eq!(at("/mnt/dfs/x/y", id(40)), Some("x/y".into()));
            assert_eq!(at("/mnt/dfs", id(40)), Some("".into()));
            assert_eq!(at("/srv/bind/f", id(41)), Some("a/b c/f".into()));
            assert_eq!(at("/srv/bind", id(41)), Some("a/b c".into()));
            assert_eq!(at("/srv/file", id(43)), Some("a/file".into()));
            assert_eq!(at("/mnt/dfs/tmp/f", id(42)), None);
            assert_eq!(at("/etc/f", id(21)), None);
        }
        assert_eq!(mount_of(TABLE, Some(99), Path::new("/mnt/dfs")), None);
    }

    #[test]
    fn what_is_not_in_a_mount_is_nowhere() {
        assert_eq!(locate(Path::new("/proc")).unwrap(), None);
        assert!(locate(Path::new("/no/such/path")).is_err());
    }
}
