//! The naive tree: what a filesystem is, without any thought of speed.

use std::collections::BTreeMap;

use dfs::fs::{FileKind, RenameMode};

/// The outcome of an operation: the name of the error's variant.
pub(super) type Outcome<T = ()> = Result<T, &'static str>;

/// What a node is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    File {
        bytes: Vec<u8>,
        stored: Vec<bool>,
    },
    Dir {
        entries: BTreeMap<Vec<u8>, usize>,
        parent: usize,
    },
    Symlink(Vec<u8>),
    Other(FileKind),
}

/// A node; its place in [`Model::nodes`] never changes.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u32,
    pub(super) nlink: u32,
    pub(super) mtime: i64,
    pub(super) ctime: i64,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Node {
    pub(super) fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir { .. })
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File { .. })
    }

    pub(super) fn file_kind(&self) -> FileKind {
        match &self.kind {
            Kind::File { .. } => FileKind::File,
            Kind::Dir { .. } => FileKind::Dir,
            Kind::Symlink(_) => FileKind::Symlink,
            Kind::Other(kind) => *kind,
        }
    }

    pub(super) fn entries(&self) -> &BTreeMap<Vec<u8>, usize> {
        match &self.kind {
            Kind::Dir { entries, .. } => entries,
            _ => panic!("not a directory"),
        }
    }

    pub(super) fn file(&mut self) -> (&mut Vec<u8>, &mut Vec<bool>) {
        match &mut self.kind {
            Kind::File { bytes, stored } => (bytes, stored),
            _ => panic!("not a file"),
        }
    }

    pub(super) fn resize(&mut self, size: usize) {
        let (bytes, stored) = self.file();
        bytes.resize(size, 0);
        stored.resize(size, false);
    }

    pub(super) fn clear(&mut self, from: usize, to: usize) {
        let (bytes, stored) = self.file();
        let to = to.min(bytes.len());
        if from < to {
            bytes[from..to].fill(0);
            stored[from..to].fill(false);
        }
    }

    pub(super) fn put(&mut self, at: usize, data: &[u8], is_stored: &[bool]) {
        let end = at + data.len();
        if self.file().0.len() < end {
            self.resize(end);
        }
        let (bytes, stored) = self.file();
        bytes[at..end].copy_from_slice(data);
        stored[at..end].copy_from_slice(is_stored);
    }

    pub(super) fn touch(&mut self, now: i64) {
        self.mtime = now;
        self.ctime = now;
    }
}

/// The tree. Node 0 is the root.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) nodes: Vec<Node>,
}

impl Model {
    pub(super) fn new(now: i64) -> Self {
        let mut root = node(directory(0), 0o755, now);
        root.nlink = 2;
        Self { nodes: vec![root] }
    }

    pub(super) fn child(&self, dir: usize, name: &[u8]) -> Option<usize> {
        self.nodes[dir].entries().get(name).copied()
    }

    pub(super) fn live(&self, wanted: impl Fn(&Node) -> bool) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|index| self.nodes[*index].nlink > 0 && wanted(&self.nodes[*index]))
            .collect()
    }

    pub(super) fn make(
        &mut self,
        dir: usize,
        name: &[u8],
        kind: Kind,
        mode: u32,
        now: i64,
    ) -> Outcome<usize> {
        check(name)?;
        if self.child(dir, name).is_some() {
            return Err("Exists");
        }
        let mut new = node(kind, mode, now);
        if self.nodes[dir].mode & 0o2000 != 0 {
            new.gid = self.nodes[dir].gid;
            if new.is_dir() {
                new.mode |= 0o2000;
            }
        }
        if let Kind::Dir { parent, .. } = &mut new.kind {
            *parent = dir;
            new.nlink = 2;
            self.nodes[dir].nlink += 1;
        }
        self.nodes.push(new);
        let index = self.nodes.len() - 1;
        self.enter(dir, name, index, now);
        Ok(index)
    }

    pub(super) fn link(&mut self, node: usize, dir: usize, name: &[u8], now: i64) -> Outcome {
        check(name)?;
        if self.nodes[node].is_dir() {
            return Err("NotPermitted");
        }
        if self.child(dir, name).is_some() {
            return Err("Exists");
        }
        self.nodes[node].nlink += 1;
        self.nodes[node].ctime = now;
        self.enter(dir, name, node, now);
        Ok(())
    }

    pub(super) fn unlink(&mut self, dir: usize, name: &[u8], now: i64) -> Outcome {
        check(name)?;
        let node = self.child(dir, name).ok_or("NotFound")?;
        if self.nodes[node].is_dir() {
            return Err("IsDirectory");
        }
        self.leave(dir, name, now);
        self.nodes[node].nlink -= 1;
        self.nodes[node].ctime = now;
        Ok(())
    }

    pub(super) fn rmdir(&mut self, dir: usize, name: &[u8], now: i64) -> Outcome {
        check(name)?;
        let node = self.child(dir, name).ok_or("NotFound")?;
        if !self.nodes[node].is_dir() {
            return Err("NotDirectory");
        }
        if !self.nodes[node].entries().is_empty() {
            return Err("NotEmpty");
        }
        self.leave(dir, name, now);
        self.nodes[dir].nlink -= 1;
        self.nodes[node].nlink = 0;
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        from: (usize, &[u8]),
        to: (usize, &[u8]),
        mode: RenameMode,
        now: i64,
    ) -> Outcome {
        check(from.1)?;
        check(to.1)?;
        let source = self.child(from.0, from.1).ok_or("NotFound")?;
        let target = self.child(to.0, to.1);
        match mode {
            RenameMode::NoReplace if target.is_some() => return Err("Exists"),
            RenameMode::Exchange if target.is_none() => return Err("NotFound"),
            _ => {}
        }
        if self.is_within(to.0, source) {
            return Err("Invalid");
        }
        if target == Some(source) {
            return Ok(());
        }
        if let (Some(target), RenameMode::Exchange) = (target, mode) {
            if self.is_within(from.0, target) {
                return Err("Invalid");
            }
            self.take(from, source, now);
            self.take(to, target, now);
            self.give(to, source, now);
            self.give(from, target, now);
            return Ok(());
        }
        if let Some(target) = target {
            match (self.nodes[source].is_dir(), self.nodes[target].is_dir()) {
                (true, false) => return Err("NotDirectory"),
                (false, true) => return Err("IsDirectory"),
                (true, true) if !self.nodes[target].entries().is_empty() => return Err("NotEmpty"),
                _ => {}
            }
            self.take(to, target, now);
            let target = &mut self.nodes[target];
            target.nlink = if target.is_dir() { 0 } else { target.nlink - 1 };
        }
        self.take(from, source, now);
        self.give(to, source, now);
        Ok(())
    }

    fn take(&mut self, (dir, name): (usize, &[u8]), node: usize, now: i64) {
        self.leave(dir, name, now);
        self.nodes[node].ctime = now;
        if self.nodes[node].is_dir() {
            self.nodes[dir].nlink -= 1;
        }
    }

    fn give(&mut self, (dir, name): (usize, &[u8]), node: usize, now: i64) {
        self.enter(dir, name, node, now);
        if let Kind::Dir { parent, .. } = &mut self.nodes[node].kind {
            *parent = dir;
            self.nodes[dir].nlink += 1;
        }
    }

    fn is_within(&self, mut dir: usize, node: usize) -> bool {
        loop {
            if dir == node {
                return true;
            }
            match &self.nodes[dir].kind {
                Kind::Dir { parent, .. } if dir != 0 => dir = *parent,
                _ => return false,
            }
        }
    }

    fn enter(&mut self, dir: usize, name: &[u8], node: usize, now: i64) {
        if let Kind::Dir { entries, .. } = &mut self.nodes[dir].kind {
            entries.insert(name.to_vec(), node);
        }
        self.nodes[dir].touch(now);
    }

    fn leave(&mut self, dir: usize, name: &[u8], now: i64) {
        if let Kind::Dir { entries, .. } = &mut self.nodes[dir].kind {
            entries.remove(name);
        }
        self.nodes[dir].touch(now);
    }
}

/// Returns an empty directory inside `parent`.
pub(super) fn directory(parent: usize) -> Kind {
    Kind::Dir {
        entries: BTreeMap::new(),
        parent,
    }
}

/// Returns an empty file.
pub(super) fn file() -> Kind {
    Kind::File {
        bytes: Vec::new(),
        stored: Vec::new(),
    }
}

fn node(kind: Kind, mode: u32, now: i64) -> Node {
    Node {
        kind,
        mode,
        uid: 0,
        gid: 0,
        rdev: 0,
        nlink: 1,
        mtime: now,
        ctime: now,
        xattrs: BTreeMap::new(),
    }
}

fn check(name: &[u8]) -> Outcome {
    if name.len() > 255 {
        return Err("NameTooLong");
    }
    Ok(())
}
