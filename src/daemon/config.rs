//! What a daemon is started with, already parsed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::limits::NAME_MAX_BYTES;

/// What fsync waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// This machine's disk.
    #[default]
    Local,
    /// Other holders too.
    Replicated,
}

/// What a daemon is started with.
///
/// What is `None` here is as it was at the last start; the texts say what it is at the first.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The state folder.
    pub state: PathBuf,
    /// Peers to contact, `HOST:PORT`.
    pub peers: Vec<String>,
    /// The token of a first start.
    pub invite: Option<String>,
    /// The recovery phrase of a first start.
    pub recovery: Option<String>,
    /// Whether a first start makes a volume.
    pub new_volume: bool,
    /// Whether mount(8) or systemd starts this and no person looks on: a volume is then neither
    /// made nor asked for.
    pub unattended: bool,
    /// Where to listen; `None` means the default port, or a free one where that is taken.
    pub listen: Option<SocketAddr>,
    /// This machine's name for the others; `None` means the host name.
    pub name: Option<String>,
    /// Disk space offered, in bytes; `None` means half of what is free.
    pub capacity_bytes: Option<u64>,
    /// Disk space for chunks beyond what must be held, in bytes; `None` means the same again.
    pub cache_bytes: Option<u64>,
    /// What fsync waits for; `None` means this machine's disk.
    pub fsync: Option<Fsync>,
    /// How much to log: 0 warnings and what happens, 1 more, 2 everything.
    pub verbose: u8,
    /// Whether the log also goes to stderr.
    pub log_to_stderr: bool,
}

/// Returns the folder below which state folders are made by default: `/var/lib/dfs` for root,
/// `$XDG_DATA_HOME/dfs` or `~/.local/share/dfs` for others.
pub fn default_state_base() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/dfs"));
    }
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("dfs"))
}

/// Returns the default state folder of a mountpoint, or of the storage peer where there is none.
///
/// The mountpoint's path becomes one file name: `-` for `/`, `--` for `-`; of a long one the start.
pub fn default_state_dir(mountpoint: Option<&Path>) -> Option<PathBuf> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let base = default_state_base()?;
    let Some(mountpoint) = mountpoint else {
        return Some(base.join("node"));
    };
    let mut name = Vec::new();
    for &byte in mountpoint.as_os_str().as_bytes() {
        match byte {
            b'/' if name.is_empty() => {}
            b'/' => name.push(b'-'),
            b'-' => name.extend_from_slice(b"--"),
            other => name.push(other),
        }
    }
    if name.is_empty() {
        name.extend_from_slice(b"root");
    }
    if name.len() > NAME_MAX_BYTES {
        // Told apart by what is cut off, which a hash stands for.
        let hash = blake3::hash(mountpoint.as_os_str().as_bytes()).to_hex();
        let suffix: String = std::iter::once('-')
            .chain(hash.chars().take(HASH_DIGITS))
            .collect();
        name.truncate(NAME_MAX_BYTES - suffix.len());
        name.extend_from_slice(suffix.as_bytes());
    }
    Some(base.join(std::ffi::OsString::from_vec(name)))
}

/// Digits of the hash in the name of a state folder: no two mountpoints of a machine share them.
const HASH_DIGITS: usize = 32;

/// Returns the host name, for a peer that was given none.
pub(super) fn host_name() -> String {
    let raw = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    if raw.is_empty() {
        "peer".to_owned()
    } else {
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_folders_differ_where_mountpoints_do() {
        let of = |path: &str| default_state_dir(Some(Path::new(path))).unwrap();
        assert!(of("/mnt/dfs").ends_with("mnt-dfs"));
        assert_ne!(of("/mnt/dfs"), of("/mnt-dfs"));
        assert_ne!(of("/a-b/c"), of("/a/b-c"));
        let long = |end| of(&format!("/{}/{}/{end}", "a".repeat(200), "b".repeat(200)));
        assert!(long("c").file_name().unwrap().len() <= NAME_MAX_BYTES);
        assert_eq!(long("c"), long("c"));
        assert_ne!(long("c"), long("d"));
    }
}
