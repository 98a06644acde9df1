//! What a member shows: the whole tree with contents, to be compared.

use std::collections::BTreeMap;
use std::time::Duration;

use dfs::base::Ino;
use dfs::daemon::peer::Member;
use dfs::volume::{FileKind, Source};

/// Everything about one name that has to be the same on every member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The inode.
    pub ino: Ino,
    /// Permissions.
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// When the content changed; nothing for a directory.
    pub mtime: (i64, u32),
    /// The bytes of a file.
    pub content: Vec<u8>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Returns every path of the volume with what it stands for.
pub async fn of(member: &Member) -> BTreeMap<Vec<u8>, Node> {
    let mut tree = BTreeMap::new();
    let mut todo = vec![(Ino::ROOT, Vec::new())];
    while let Some((dir, path)) = todo.pop() {
        let mut entries = Vec::new();
        member
            .volume
            .readdir(dir, None, &mut |_, entry| {
                entries.push(entry.clone());
                true
            })
            .unwrap();
        for entry in entries {
            let mut path = path.clone();
            path.push(b'/');
            path.extend_from_slice(&entry.name);
            let inode = member
                .volume
                .inode(entry.ino)
                .unwrap()
                .expect("a name stands for a node");
            if inode.kind == FileKind::Dir {
                todo.push((inode.ino, path.clone()));
            }
            let mut xattrs = BTreeMap::new();
            for name in member.volume.xattr_names(inode.ino).unwrap() {
                let value = member.volume.xattr(inode.ino, &name).unwrap().unwrap();
                xattrs.insert(name.to_vec(), value.to_vec());
            }
            let node = Node {
                ino: inode.ino,
                mode: inode.mode,
                nlink: inode.nlink,
                // That of a directory is each machine's own.
                mtime: if inode.is_dir() {
                    (0, 0)
                } else {
                    (inode.mtime.secs, inode.mtime.nanos)
                },
                content: content(member, inode.ino, inode.size).await,
                xattrs,
            };
            tree.insert(path, node);
        }
    }
    tree
}

/// What the content of a file that cannot be read begins with.
pub const UNREADABLE: &[u8] = b"unreadable: ";

/// Returns the bytes of a file, fetched where they are elsewhere.
pub async fn content(member: &Member, ino: Ino, size: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; usize::try_from(size).unwrap()];
    for extent in member.volume.extents(ino, 0..size).unwrap() {
        let at = usize::try_from(extent.offset).unwrap();
        let len = usize::try_from(extent.len).unwrap();
        let piece = match extent.src {
            Source::Inline(bytes) => bytes,
            Source::Chunk { id, skip } => {
                let skip = usize::try_from(skip).unwrap();
                let range = skip..skip + len;
                let read = member.data.read(id, range, Duration::from_secs(60));
                match read.await {
                    Ok(piece) => piece,
                    Err(error) => return [UNREADABLE, error.to_string().as_bytes()].concat(),
                }
            }
        };
        bytes[at..at + len].copy_from_slice(&piece[..len]);
    }
    bytes
}
