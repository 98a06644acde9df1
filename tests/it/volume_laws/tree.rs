//! What holds for every view: it is a tree, counts fit, extents lie within their file.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use dfs::base::Ino;
use dfs::store::Table;
use dfs::volume::FileKind;

use super::cluster::Device;

fn inos(device: &Device, table: Table) -> BTreeSet<Ino> {
    let mut inos = BTreeSet::new();
    let mut take = |key: &[u8], _: &[u8]| {
        let first = key[..8].try_into().unwrap();
        inos.insert(Ino(u64::from_be_bytes(first)));
        ControlFlow::Continue(())
    };
    device.store.rows.scan(table, &[], None, &mut take).unwrap();
    inos
}

/// Checks the invariants of a device's view.
pub(crate) fn check(device: &Device) {
    let mut names: BTreeMap<Ino, u32> = BTreeMap::new();
    let mut homes = BTreeSet::new();
    let mut dirs = BTreeSet::from([Ino::ROOT]);
    let mut open = vec![Ino::ROOT];
    while let Some(dir) = open.pop() {
        let inode = device.inode(dir);
        let (mut entries, mut subdirs) = (0, 0);
        let mut last = None;
        let mut children = Vec::new();
        let mut visit = |key, dirent: &dfs::volume::Dirent| {
            assert!(last.is_none_or(|last| last < key));
            last = Some(key);
            children.push(dirent.clone());
            true
        };
        device.volume.readdir(dir, None, &mut visit).unwrap();
        for dirent in children {
            entries += 1;
            let child = device.inode(dirent.ino);
            assert_eq!((child.ino, child.kind), (dirent.ino, dirent.kind));
            let found = device.volume.dirent(dir, &dirent.name).unwrap();
            assert_eq!(found.as_ref(), Some(&dirent));
            *names.entry(child.ino).or_default() += 1;
            let home = child.home.clone().unwrap();
            if (home.parent, &home.name) == (dir, &dirent.name) {
                homes.insert(child.ino);
            }
            if child.is_dir() {
                subdirs += 1;
                assert!(dirs.insert(child.ino), "a directory in two places");
                open.push(child.ino);
            }
        }
        assert_eq!((inode.entries, inode.nlink), (entries, 2 + subdirs));
    }
    let orphans = inos(device, Table::Orphan);
    for ino in inos(device, Table::Inode) {
        let inode = device.inode(ino);
        if inode.ino != ino {
            // Another file stands for it.
            assert!(inode.kin.beside.contains(&ino) && !inode.is_dir());
            assert!(!orphans.contains(&ino) && !names.contains_key(&ino));
            continue;
        }
        assert_eq!(inode.kin.twin, None);
        let count = names.get(&ino).copied().unwrap_or(0);
        assert!(
            count == 0 || homes.contains(&ino),
            "no name of {inode:?} is its home"
        );
        match inode.kind {
            FileKind::Dir => assert_eq!(dirs.contains(&ino), inode.nlink > 0),
            _ => assert_eq!(inode.nlink, count, "{inode:?}"),
        }
        assert_eq!(orphans.contains(&ino), inode.is_orphan(), "{inode:?}");
        let extents = device.volume.extents(ino, 0..u64::MAX).unwrap();
        if inode.size <= 1 << 20 {
            super::cluster::render(&extents, inode.size);
        }
        let stored: u64 = extents.iter().map(|extent| extent.len).sum();
        assert_eq!(inode.stored, stored);
        let xattrs = device.volume.xattr_names(ino).unwrap();
        assert_eq!(inode.xattrs as usize, xattrs.len());
    }
    // What is listed is there, and leaves the list with its name.
    for conflict in device.volume.conflicts().unwrap() {
        let marked = conflict.other.unwrap_or(conflict.ino);
        let node = device.volume.inode(marked).unwrap();
        let is_there = node
            .as_ref()
            .is_some_and(|node| !node.is_orphan() && node.conflict == Some(conflict.op));
        assert!(conflict.resolved || is_there, "{conflict:?} of {node:?}");
    }
    for ino in inos(device, Table::Extent) {
        assert!(
            device.volume.inode(ino).unwrap().is_some(),
            "extents of nothing"
        );
    }
}
