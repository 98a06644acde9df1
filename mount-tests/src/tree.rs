//! Two trees compared: everything that a copy must keep.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What there is of one file, folder or link.
#[derive(Clone, PartialEq, Eq)]
pub struct Facts {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Size; 0 for folders, where each filesystem has its own idea.
    pub size: u64,
    /// Modification time.
    pub mtime: (i64, i64),
    /// Links; 0 for folders.
    pub nlink: u64,
    /// Device number of a device.
    pub rdev: u64,
    /// The first path, in order, that is the same file; `None` for the first itself.
    pub same_as: Option<PathBuf>,
    /// Target of a symlink.
    pub target: Option<PathBuf>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// BLAKE3 of the content.
    pub content: Option<blake3::Hash>,
}

impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:o} {:?} {} bytes, mtime {:?}, {} links, rdev {}",
            self.mode, self.owner, self.size, self.mtime, self.nlink, self.rdev
        )?;
        if let Some(same) = &self.same_as {
            write!(f, ", same as {}", same.display())?;
        }
        if let Some(target) = &self.target {
            write!(f, ", to {}", target.display())?;
        }
        for (name, value) in &self.xattrs {
            let name = String::from_utf8_lossy(name);
            write!(f, ", {name}={:?}", String::from_utf8_lossy(value))?;
        }
        match &self.content {
            Some(hash) => write!(f, ", {}", &hash.to_hex()[..12]),
            None => Ok(()),
        }
    }
}

/// A tree by its paths below the root, the root itself as the empty path.
pub type Tree = BTreeMap<PathBuf, Facts>;

/// Reads everything of a tree.
///
/// # Panics
///
/// When something of it cannot be read.
pub fn read_tree(root: &Path) -> Tree {
    try_read_tree(root).unwrap_or_else(|error| panic!("cannot read {}: {error}", root.display()))
}

/// Reads everything of a tree that others may be changing; fails where something of it has gone
/// meanwhile or cannot be read.
pub fn try_read_tree(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    read_into(root, Path::new(""), &mut tree)?;
    // In the order of paths, so that both sides of a comparison choose the same first one.
    let mut first_paths = BTreeMap::new();
    for (path, facts) in &mut tree {
        let metadata = std::fs::symlink_metadata(root.join(path))?;
        if !metadata.is_dir() && metadata.nlink() > 1 {
            let first = first_paths
                .entry(metadata.ino())
                .or_insert_with(|| path.clone());
            if first != path {
                facts.same_as = Some(first.clone());
            }
        }
    }
    Ok(tree)
}

fn read_into(root: &Path, path: &Path, tree: &mut Tree) -> io::Result<()> {
    let full = root.join(path);
    let metadata = std::fs::symlink_metadata(&full)?;
    let facts = read_facts(&full, &metadata)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", full.display())))?;
    tree.insert(path.to_owned(), facts);
    if metadata.is_dir() {
        for entry in std::fs::read_dir(&full)? {
            read_into(root, &path.join(entry?.file_name()), tree)?;
        }
    }
    Ok(())
}

fn read_facts(path: &Path, metadata: &Metadata) -> io::Result<Facts> {
    let is_dir = metadata.is_dir();
    let content = if metadata.is_file() {
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut File::open(path)?, &mut hasher)?;
        Some(hasher.finalize())
    } else {
        None
    };
    Ok(Facts {
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        size: if is_dir { 0 } else { metadata.size() },
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        nlink: if is_dir { 0 } else { metadata.nlink() },
        rdev: metadata.rdev(),
        same_as: None,
        target: metadata
            .is_symlink()
            .then(|| std::fs::read_link(path))
            .transpose()?,
        xattrs: read_xattrs(path)?,
        content,
    })
}

fn read_xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    // The largest list and the largest value that Linux knows.
    let mut names = vec![0u8; 64 << 10];
    let len = rustix::fs::llistxattr(path, names.as_mut_slice())?;
    names.truncate(len);
    let mut xattrs = BTreeMap::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let key = name.to_bytes();
        // Facts of the moment, not of the tree.
        if key.starts_with(b"user.dfs.") || key.starts_with(b"security.") {
            continue;
        }
        let mut value = vec![0u8; 64 << 10];
        let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice())?;
        value.truncate(len);
        xattrs.insert(key.to_vec(), value);
    }
    Ok(xattrs)
}

/// Returns how two trees differ, a line for each path that does, at most `max` of them.
pub fn differences(left: &Tree, right: &Tree, max: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let paths: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
    for path in paths {
        let (here, there) = (left.get(path), right.get(path));
        if here != there && lines.len() < max {
            let name = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
            lines.push(format!("{name:?}: {here:?} against {there:?}"));
        }
    }
    lines
}

/// Checks that two trees are equal.
///
/// # Panics
///
/// With the first differences.
pub fn assert_equal(what: &str, left: &Tree, right: &Tree) {
    let lines = differences(left, right, 12);
    assert!(
        lines.is_empty(),
        "{what}: {} and {} entries, first differences:\n{}",
        left.len(),
        right.len(),
        lines.join("\n")
    );
}
