//! Which daemon serves a path: found through the mount itself.

use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

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
    let full = if std::fs::symlink_metadata(&full)?.is_dir() {
        full.canonicalize()?
    } else {
        full
    };
    let table = std::fs::read("/proc/self/mountinfo")?;
    let mut found: Option<PathBuf> = None;
    for line in table.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let kind = fields
            .iter()
            .position(|field| *field == b"-")
            .and_then(|at| fields.get(at + 1));
        let (Some(point), Some(kind)) = (fields.get(4), kind) else {
            continue;
        };
        let point = unescape(point);
        let deeper = found.as_ref().is_none_or(|best| point.starts_with(best));
        if kind.starts_with(b"fuse.dfs") && full.starts_with(&point) && deeper {
            found = Some(point);
        }
    }
    let Some(point) = found else {
        return Ok(None);
    };
    let mut state = vec![0u8; 4096];
    let len = rustix::fs::getxattr(&point, STATE_XATTR, &mut state)?;
    state.truncate(len);
    let inside = full
        .strip_prefix(&point)
        .unwrap_or_else(|_| Path::new(""))
        .to_owned();
    Ok(Some(Located {
        state: PathBuf::from(std::ffi::OsString::from_vec(state)),
        inside,
    }))
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

    #[test]
    fn what_is_not_in_a_mount_is_nowhere() {
        assert_eq!(locate(Path::new("/proc")).unwrap(), None);
        assert!(locate(Path::new("/no/such/path")).is_err());
    }
}
