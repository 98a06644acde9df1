//! The naive tree: what a filesystem is, without any thought of speed.

use std::collections::BTreeMap;

use super::acl::{ACCESS, Acl, DEFAULT};
use super::content::Content;
use super::executor::{Errno, Kind, Nanos, Outcome, Path, Renaming, UMASK, USER, XattrSet};

/// A time that lies within two moments, both included; exact once it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Not before.
    pub from: Nanos,
    /// Not after.
    pub to: Nanos,
}

impl Stamp {
    /// Returns an exact time.
    pub fn exact(time: Nanos) -> Self {
        Self {
            from: time,
            to: time,
        }
    }

    /// Returns whether a time that was seen fits, and takes it as the exact one.
    pub(super) fn meet(&mut self, seen: Nanos) -> bool {
        let fits = self.from <= seen && seen <= self.to;
        if fits {
            *self = Self::exact(seen);
        }
        fits
    }

    /// Returns the time from the earlier of both to the later.
    #[must_use]
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            to: self.to.max(other.to),
        }
    }
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum Body {
    /// A regular file.
    File(Content),
    /// A directory: entries, and the directory that holds it.
    Dir(BTreeMap<Vec<u8>, usize>, usize),
    /// A symlink and its target.
    Symlink(Vec<u8>),
    /// A fifo, socket or device.
    Special(Kind),
}

/// A state of a file that was never handed to the journal for sure.
#[derive(Debug, Clone)]
pub struct Version {
    /// The content.
    pub content: Content,
    /// The time of its last change.
    pub mtime: Stamp,
    /// The change time.
    pub ctime: Stamp,
}

/// A node; its place in [`Tree::nodes`] never changes.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is.
    pub body: Body,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u64,
    /// Number of links.
    pub nlink: u64,
    /// Last change of the content.
    pub mtime: Stamp,
    /// Last change of content or attributes.
    pub ctime: Stamp,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The inode number, once it was seen.
    pub ino: Option<u64>,
    /// What a crash may bring back: the state that was handed to the journal last, and those since.
    /// Empty where the file is as it was handed over.
    pub unwritten: Vec<Version>,
}

impl Node {
    fn new(body: Body, mode: u32, now: Stamp) -> Self {
        Self {
            body,
            mode,
            uid: 0,
            gid: 0,
            rdev: 0,
            nlink: 1,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
            ino: None,
            unwritten: Vec::new(),
        }
    }

    /// Returns what it is.
    pub fn kind(&self) -> Kind {
        match &self.body {
            Body::File(_) => Kind::File,
            Body::Dir(..) => Kind::Dir,
            Body::Symlink(_) => Kind::Symlink,
            Body::Special(kind) => *kind,
        }
    }

    /// Returns the entries of a directory, none of anything else.
    pub fn entries(&self) -> &BTreeMap<Vec<u8>, usize> {
        static NONE: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        match &self.body {
            Body::Dir(entries, _) => entries,
            _ => &NONE,
        }
    }

    /// Returns the content of a file, nothing for anything else.
    pub fn content(&self) -> Content {
        match &self.body {
            Body::File(content) => content.clone(),
            _ => Content::default(),
        }
    }

    /// Returns the present state of a file.
    pub fn version(&self) -> Version {
        Version {
            content: self.content(),
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }

    /// Changes the content of a file, in memory alone until it is handed over.
    pub fn change(&mut self, now: Stamp, change: impl FnOnce(&mut Content)) {
        self.keep_version();
        if let Body::File(content) = &mut self.body {
            change(content);
        }
        self.touch(now);
    }

    /// Keeps the present state of a file as one that a crash may bring back.
    pub fn keep_version(&mut self) {
        let version = self.version();
        self.unwritten.push(version);
    }

    /// Hands the file to the journal.
    pub fn hand_over(&mut self) {
        self.unwritten.clear();
    }

    fn touch(&mut self, now: Stamp) {
        self.mtime = now;
        self.ctime = now;
    }
}

/// The tree. Node 0 is the root.
#[derive(Debug, Clone)]
pub struct Tree {
    /// All nodes that ever were.
    pub nodes: Vec<Node>,
}

impl Tree {
    /// Returns a root directory.
    pub fn new(now: Stamp) -> Self {
        let mut root = Node::new(Body::Dir(BTreeMap::new(), 0), 0o755, now);
        root.nlink = 2;
        Self { nodes: vec![root] }
    }

    /// Returns what stands at a name.
    pub fn child(&self, dir: usize, name: &[u8]) -> Option<usize> {
        self.nodes[dir].entries().get(name).copied()
    }

    /// Returns the nodes that have a name and are wanted.
    pub fn live(&self, wanted: impl Fn(&Node) -> bool) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|index| self.nodes[*index].nlink > 0 && wanted(&self.nodes[*index]))
            .collect()
    }

    /// Returns a path to a node that has a name.
    pub fn path(&self, node: usize) -> Vec<Vec<u8>> {
        let mut path = Vec::new();
        let mut at = node;
        while at != 0 {
            let holds = |dir: &usize| self.nodes[*dir].entries().values().any(|n| *n == at);
            let dirs = self.live(|node| node.kind() == Kind::Dir);
            let dir = dirs.into_iter().find(holds).expect("it has a name");
            let entry = self.nodes[dir].entries().iter().find(|(_, n)| **n == at);
            path.push(entry.expect("found above").0.clone());
            at = dir;
        }
        path.reverse();
        path
    }

    /// Makes a node.
    pub fn make(
        &mut self,
        (dir, name): (usize, &[u8]),
        body: Body,
        mode: u32,
        now: Stamp,
    ) -> Outcome<usize> {
        check(name)?;
        if self.child(dir, name).is_some() {
            return Err(Errno::EXIST);
        }
        let mut new = Node::new(body, mode, now);
        let parent = &self.nodes[dir];
        if parent.mode & 0o2000 != 0 {
            new.gid = parent.gid;
            if new.kind() == Kind::Dir {
                new.mode |= 0o2000;
            }
        }
        if new.kind() != Kind::Symlink {
            inherit(parent, &mut new);
        }
        let index = self.nodes.len();
        if let Body::Dir(_, parent) = &mut new.body {
            *parent = dir;
            new.nlink = 2;
            self.nodes[dir].nlink += 1;
        }
        self.nodes.push(new);
        self.enter(dir, name, index, now);
        Ok(index)
    }

    /// Gives a node another name.
    pub fn link(&mut self, node: usize, (dir, name): (usize, &[u8]), now: Stamp) -> Outcome {
        check(name)?;
        if self.child(dir, name).is_some() {
            return Err(Errno::EXIST);
        }
        if self.nodes[node].kind() == Kind::Dir {
            return Err(Errno::PERM);
        }
        self.nodes[node].nlink += 1;
        self.nodes[node].ctime = now;
        self.enter(dir, name, node, now);
        Ok(())
    }

    /// Removes a name.
    pub fn unlink(&mut self, (dir, name): (usize, &[u8]), now: Stamp) -> Outcome {
        check(name)?;
        let node = self.child(dir, name).ok_or(Errno::NOENT)?;
        if self.nodes[node].kind() == Kind::Dir {
            return Err(Errno::ISDIR);
        }
        self.leave(dir, name, now);
        self.nodes[node].nlink -= 1;
        self.nodes[node].ctime = now;
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&mut self, (dir, name): (usize, &[u8]), now: Stamp) -> Outcome {
        check(name)?;
        let node = self.child(dir, name).ok_or(Errno::NOENT)?;
        if self.nodes[node].kind() != Kind::Dir {
            return Err(Errno::NOTDIR);
        }
        if !self.nodes[node].entries().is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.leave(dir, name, now);
        self.nodes[dir].nlink -= 1;
        self.nodes[node].nlink = 0;
        Ok(())
    }

    /// Moves or swaps names.
    pub fn rename(
        &mut self,
        from: (usize, &[u8]),
        to: (usize, &[u8]),
        how: Renaming,
        now: Stamp,
    ) -> Outcome {
        check(from.1)?;
        let source = self.child(from.0, from.1).ok_or(Errno::NOENT)?;
        check(to.1)?;
        let target = self.child(to.0, to.1);
        match how {
            Renaming::NoReplace if target.is_some() => return Err(Errno::EXIST),
            Renaming::Exchange if target.is_none() => return Err(Errno::NOENT),
            _ => {}
        }
        if self.is_within(to.0, source) {
            return Err(Errno::INVAL);
        }
        if target.is_some_and(|target| self.is_within(from.0, target)) {
            return Err(match how {
                Renaming::Exchange => Errno::INVAL,
                _ => Errno::NOTEMPTY,
            });
        }
        if target == Some(source) {
            return Ok(());
        }
        if let (Some(target), Renaming::Exchange) = (target, how) {
            self.take(from, source, now);
            self.take(to, target, now);
            self.give(to, source, now);
            self.give(from, target, now);
            return Ok(());
        }
        if let Some(target) = target {
            let is_dir = |node: usize| self.nodes[node].kind() == Kind::Dir;
            match (is_dir(source), is_dir(target)) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.nodes[target].entries().is_empty() => {
                    return Err(Errno::NOTEMPTY);
                }
                _ => {}
            }
            self.take(to, target, now);
            let target = &mut self.nodes[target];
            let is_dir = target.kind() == Kind::Dir;
            target.nlink = if is_dir { 0 } else { target.nlink - 1 };
        }
        self.take(from, source, now);
        self.give(to, source, now);
        if how == Renaming::Whiteout {
            self.make(from, Body::Special(Kind::CharDev), 0, now)?;
        }
        Ok(())
    }

    fn take(&mut self, (dir, name): (usize, &[u8]), node: usize, now: Stamp) {
        self.leave(dir, name, now);
        self.nodes[node].ctime = now;
        if self.nodes[node].kind() == Kind::Dir {
            self.nodes[dir].nlink -= 1;
        }
    }

    fn give(&mut self, (dir, name): (usize, &[u8]), node: usize, now: Stamp) {
        self.enter(dir, name, node, now);
        if let Body::Dir(_, parent) = &mut self.nodes[node].body {
            *parent = dir;
            self.nodes[dir].nlink += 1;
        }
    }

    fn is_within(&self, mut dir: usize, node: usize) -> bool {
        loop {
            if dir == node {
                return true;
            }
            match &self.nodes[dir].body {
                Body::Dir(_, parent) if dir != 0 => dir = *parent,
                _ => return false,
            }
        }
    }

    fn enter(&mut self, dir: usize, name: &[u8], node: usize, now: Stamp) {
        if let Body::Dir(entries, _) = &mut self.nodes[dir].body {
            entries.insert(name.to_vec(), node);
        }
        self.nodes[dir].touch(now);
    }

    fn leave(&mut self, dir: usize, name: &[u8], now: Stamp) {
        if let Body::Dir(entries, _) = &mut self.nodes[dir].body {
            entries.remove(name);
        }
        self.nodes[dir].touch(now);
    }

    /// Lets files be as any state of `next` that is not in this tree yet: a crash came while the
    /// operation that led there was at work.
    pub fn widen(&mut self, next: &Self) {
        for (node, later) in self.nodes.iter_mut().zip(&next.nodes) {
            let same = later.unwritten.is_empty()
                && later.mtime == node.mtime
                && later.ctime == node.ctime
                && matches!(&node.body, Body::File(content) if *content == later.content());
            if !same && node.kind() == Kind::File {
                node.unwritten.extend(later.unwritten.iter().cloned());
                node.unwritten.push(later.version());
            }
        }
    }
}

impl Node {
    /// Sets permission bits; a list follows.
    pub fn chmod(&mut self, mode: u32, now: Stamp) {
        self.mode = mode;
        self.ctime = now;
        if let Some(value) = self.xattrs.get_mut(ACCESS) {
            let mut list = Acl::decode(value);
            list.set_mode(mode);
            *value = list.encode();
        }
    }

    /// Sets owner and group: privileges go, root's hand or not.
    pub fn chown(&mut self, uid: Option<u32>, gid: Option<u32>, now: Stamp) {
        self.uid = uid.unwrap_or(self.uid);
        self.gid = gid.unwrap_or(self.gid);
        self.ctime = now;
        if self.kind() != Kind::Dir {
            self.mode &= !0o4000;
            if self.mode & 0o010 != 0 {
                self.mode &= !0o2000;
            }
        }
    }

    /// Takes away what a change of the content by the user takes away: setuid, and setgid unless it is
    /// of his group and no privilege.
    pub fn drop_privileges(&mut self) {
        self.mode &= !0o4000;
        if self.mode & 0o010 != 0 || self.gid != USER {
            self.mode &= !0o2000;
        }
    }

    /// Sets an extended attribute that is no access control list.
    pub fn set_xattr(&mut self, name: &[u8], value: Vec<u8>, how: XattrSet, now: Stamp) -> Outcome {
        self.check_xattr(name)?;
        match (how, self.xattrs.contains_key(name)) {
            (XattrSet::Create, true) => return Err(Errno::EXIST),
            (XattrSet::Replace, false) => return Err(Errno::NODATA),
            _ => {}
        }
        self.xattrs.insert(name.to_vec(), value);
        self.ctime = now;
        Ok(())
    }

    /// Removes an extended attribute that is no access control list.
    pub fn remove_xattr(&mut self, name: &[u8], now: Stamp) -> Outcome {
        self.check_xattr(name)?;
        self.xattrs.remove(name).ok_or(Errno::NODATA)?;
        self.ctime = now;
        Ok(())
    }

    fn check_xattr(&self, name: &[u8]) -> Outcome {
        let has_own = matches!(self.kind(), Kind::File | Kind::Dir);
        if name.starts_with(b"user.") && !has_own {
            return Err(Errno::PERM);
        }
        if name.starts_with(b"strange.") {
            return Err(Errno::OPNOTSUPP);
        }
        Ok(())
    }

    /// Sets an access control list.
    pub fn set_acl(&mut self, default: bool, list: &Acl, now: Stamp) -> Outcome {
        match (self.kind(), default) {
            (Kind::Symlink, _) => return Err(Errno::OPNOTSUPP),
            (Kind::Dir, true) => {
                self.xattrs.insert(DEFAULT.to_vec(), list.encode());
            }
            (_, true) => return Err(Errno::ACCESS),
            (_, false) => {
                self.mode = list.apply_to(self.mode);
                if list.is_minimal() {
                    self.xattrs.remove(ACCESS);
                } else {
                    self.xattrs.insert(ACCESS.to_vec(), list.encode());
                }
            }
        }
        // Setting what is there already may leave the time alone.
        self.ctime = self.ctime.or(now);
        Ok(())
    }

    /// Removes an access control list; there need not be one.
    pub fn remove_acl(&mut self, default: bool, now: Stamp) -> Outcome {
        match (self.kind(), default) {
            (Kind::Symlink, _) => return Err(Errno::OPNOTSUPP),
            (kind, true) if kind != Kind::Dir => return Ok(()),
            _ => {}
        }
        let name = if default { DEFAULT } else { ACCESS };
        if self.xattrs.remove(name).is_some() {
            self.ctime = now;
        }
        Ok(())
    }
}

/// Lets a new node take its permissions from its directory's default list, else from the umask.
fn inherit(parent: &Node, new: &mut Node) {
    let Some(value) = parent.xattrs.get(DEFAULT) else {
        new.mode &= !UMASK;
        return;
    };
    let mut list = Acl::decode(value);
    new.mode = list.inherit(new.mode);
    if !list.is_minimal() {
        new.xattrs.insert(ACCESS.to_vec(), list.encode());
    }
    if new.kind() == Kind::Dir {
        new.xattrs.insert(DEFAULT.to_vec(), value.clone());
    }
}

/// Returns whether a path is short enough to say in a message, as text.
pub fn show(path: &Path) -> String {
    let names = path.iter().map(|name| String::from_utf8_lossy(name));
    let names: Vec<String> = names.map(|name| name.chars().take(20).collect()).collect();
    format!("/{}", names.join("/"))
}

fn check(name: &[u8]) -> Outcome {
    if name.len() > 255 {
        return Err(Errno::NAMETOOLONG);
    }
    Ok(())
}
