//! Applies operations to the filesystem and to the naive tree, and compares everything.

use std::collections::BTreeMap;

use dfs::base::{Ino, Timespec};
use dfs::fs::{
    Attr, Caller, Fallocate, FileHandle, FileKind, Fs, FsCounts, FsError, OpenFlags, ReadPlan,
    Reply, Seek, SetAttr, SetTime, WriteFlags, XattrMode,
};

use super::model::{self, Kind, Model, Outcome};
use super::mount::Disk;
use super::ops::{Op, name, xattr_name};

const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
    umask: 0o022,
};

/// An open file on both sides.
struct Open {
    node: usize,
    fh: FileHandle,
    append: bool,
}

/// Both sides.
pub(super) struct Run {
    disk: Disk,
    fs: Option<Fs>,
    model: Model,
    /// The number of each node; what the kernel would know.
    inos: Vec<Ino>,
    /// Lookups that this "kernel" has to give back.
    lookups: BTreeMap<Ino, u64>,
    open: Vec<Open>,
}

impl Run {
    pub(super) fn new() -> Self {
        let disk = Disk::new();
        let model = Model::new(disk.now());
        Self {
            fs: Some(disk.mount()),
            disk,
            model,
            inos: vec![Ino::ROOT],
            lookups: BTreeMap::new(),
            open: Vec::new(),
        }
    }

    fn fs(&self) -> &Fs {
        self.fs.as_ref().expect("mounted between operations")
    }

    /// Applies an operation to both sides and compares outcome and tree.
    pub(super) fn step(&mut self, index: usize, op: &Op) {
        self.disk.advance();
        if let Some((expected, seen)) = self.apply(op) {
            assert_eq!(seen, expected, "outcome of operation {index}, {op:?}");
        }
        self.compare(&format!("after operation {index}, {op:?}"));
    }

    /// Unmounts and mounts once more, and compares.
    pub(super) fn finish(&mut self) {
        self.remount();
        self.compare("at the end");
    }

    fn apply(&mut self, op: &Op) -> Option<(Outcome, Outcome)> {
        let now = self.disk.now();
        match op {
            Op::Create { .. } | Op::Mknod { .. } | Op::Mkdir { .. } | Op::Symlink { .. } => {
                Some(self.make(op, now))
            }
            Op::Link { .. } | Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename { .. } => {
                Some(self.move_names(op, now))
            }
            Op::Open {
                dir,
                name: n,
                truncate,
                append,
            } => {
                let (dir, name) = self.place(*dir, *n);
                let flags = flags(*truncate, *append, false);
                self.open_at(dir, &name, flags, now)
            }
            Op::Chmod { .. } | Op::Chown { .. } | Op::Utimes { .. } | Op::Truncate { .. } => {
                Some(self.set_attributes(op, now))
            }
            Op::SetXattr { .. } | Op::RemoveXattr { .. } => Some(self.set_xattr(op, now)),
            Op::Tick => {
                assert!(self.fs().tick().is_empty());
                None
            }
            Op::Seal => {
                self.fs().volume().seal_drafts().unwrap();
                None
            }
            Op::Remount => {
                self.remount();
                None
            }
            op => self.use_handle(op, now),
        }
    }

    fn dir(&self, index: usize) -> usize {
        let dirs = self.model.live(model::Node::is_dir);
        dirs[index % dirs.len()]
    }

    /// Returns a place: mostly one where something is, else any.
    fn place(&self, dir: usize, index: usize) -> (usize, Vec<u8>) {
        let dirs = self.model.live(model::Node::is_dir);
        let taken: Vec<_> = dirs
            .iter()
            .flat_map(|dir| {
                let names = self.model.nodes[*dir].entries().keys();
                names.map(|name| (*dir, name.clone()))
            })
            .collect();
        match taken.len() {
            0 => (self.dir(dir), name(index)),
            _ if index.is_multiple_of(8) => (self.dir(dir), name(index / 8)),
            len => taken[index % len].clone(),
        }
    }

    fn any(&self, index: usize) -> usize {
        let nodes = self.model.live(|_| true);
        nodes[index % nodes.len()]
    }

    fn learn(&mut self, ino: Ino) {
        *self.lookups.entry(ino).or_default() += 1;
    }

    fn make(&mut self, op: &Op, now: i64) -> (Outcome, Outcome) {
        match op {
            Op::Create {
                dir,
                name: n,
                mode,
                exclusive,
                truncate,
                append,
            } => {
                let (dir, name) = (self.dir(*dir), name(*n));
                let flags = flags(*truncate, *append, *exclusive);
                self.create(dir, &name, *mode, flags, now)
            }
            Op::Mknod { dir, name: n, kind } => {
                let (dir, name) = (self.dir(*dir), name(*n));
                let (kind, bits, rdev) = match kind % 4 {
                    0 => (FileKind::Fifo, libc::S_IFIFO, 0),
                    1 => (FileKind::Socket, libc::S_IFSOCK, 0),
                    2 => (FileKind::CharDev, libc::S_IFCHR, 0x501),
                    _ => (FileKind::BlockDev, libc::S_IFBLK, 0x802),
                };
                let made = self
                    .fs()
                    .mknod(CALLER, self.inos[dir], &name, bits | 0o666, rdev);
                let expected = self.model.make(dir, &name, Kind::Other(kind), 0o644, now);
                if let Ok(index) = expected {
                    self.model.nodes[index].rdev = rdev;
                }
                self.made(made.map(|entry| entry.attr), expected)
            }
            Op::Mkdir { dir, name: n, mode } => {
                let (dir, name) = (self.dir(*dir), name(*n));
                let made = self.fs().mkdir(CALLER, self.inos[dir], &name, *mode);
                let kind = model::directory(dir);
                let expected = self.model.make(dir, &name, kind, mode & !0o022, now);
                self.made(made.map(|entry| entry.attr), expected)
            }
            Op::Symlink { dir, name: n, len } => {
                let (dir, name) = (self.dir(*dir), name(*n));
                let target = vec![b't'; *len];
                let made = self.fs().symlink(CALLER, self.inos[dir], &name, &target);
                let expected = match *len {
                    0 => Err("NotFound"),
                    4096.. => Err("NameTooLong"),
                    _ => self
                        .model
                        .make(dir, &name, Kind::Symlink(target), 0o777, now),
                };
                self.made(made.map(|entry| entry.attr), expected)
            }
            _ => unreachable!("not a making operation"),
        }
    }

    fn made(
        &mut self,
        seen: Result<Attr, FsError>,
        expected: Outcome<usize>,
    ) -> (Outcome, Outcome) {
        if let Ok(attr) = &seen {
            self.learn(attr.ino);
        }
        if let (Ok(attr), Ok(_)) = (&seen, &expected) {
            self.inos.push(attr.ino);
        }
        (expected.map(drop), outcome(seen.map(drop)))
    }

    fn create(
        &mut self,
        dir: usize,
        name: &[u8],
        mode: u32,
        flags: OpenFlags,
        now: i64,
    ) -> (Outcome, Outcome) {
        let existing = self.model.child(dir, name);
        if let (Some(_), false) = (existing, flags.exclusive) {
            let outcomes = self.open_at(dir, name, flags, now);
            return outcomes.unwrap_or((Ok(()), Ok(())));
        }
        let made = self.fs().create(CALLER, self.inos[dir], name, mode, flags);
        let expected = self
            .model
            .make(dir, name, model::file(), mode & !0o022, now);
        if let (Ok(created), Ok(node)) = (&made, &expected) {
            self.open.push(Open {
                node: *node,
                fh: created.opened.fh,
                append: flags.append,
            });
        }
        self.made(made.map(|created| created.entry.attr), expected)
    }

    fn open_at(
        &mut self,
        dir: usize,
        name: &[u8],
        flags: OpenFlags,
        now: i64,
    ) -> Option<(Outcome, Outcome)> {
        let node = self.model.child(dir, name)?;
        if !self.model.nodes[node].is_file() {
            return None;
        }
        let opened = self.fs().open(CALLER, self.inos[node], flags);
        if flags.truncate {
            self.model.nodes[node].resize(0);
            self.model.nodes[node].touch(now);
        }
        if let Ok(opened) = &opened {
            self.open.push(Open {
                node,
                fh: opened.fh,
                append: flags.append,
            });
        }
        Some((Ok(()), outcome(opened.map(drop))))
    }

    fn move_names(&mut self, op: &Op, now: i64) -> (Outcome, Outcome) {
        match op {
            Op::Link { node, dir, name: n } => {
                let (node, dir, name) = (self.any(*node), self.dir(*dir), name(*n));
                let linked = self.fs().link(self.inos[node], self.inos[dir], &name);
                if let Ok(entry) = &linked {
                    self.learn(entry.attr.ino);
                }
                let expected = self.model.link(node, dir, &name, now);
                (expected, outcome(linked.map(drop)))
            }
            Op::Unlink { dir, name: n } => {
                let (dir, name) = self.place(*dir, *n);
                let seen = self.fs().unlink(self.inos[dir], &name);
                (self.model.unlink(dir, &name, now), outcome(seen))
            }
            Op::Rmdir { dir, name: n } => {
                let (dir, name) = self.place(*dir, *n);
                let seen = self.fs().rmdir(self.inos[dir], &name);
                (self.model.rmdir(dir, &name, now), outcome(seen))
            }
            Op::Rename { from, to, mode } => {
                let (from_dir, from_name) = self.place(from.0, from.1);
                let (to_dir, to_name) = match to.1 % 3 {
                    0 => self.place(to.0, to.1 / 3),
                    _ => (self.dir(to.0), name(to.1 / 3)),
                };
                let seen = self.fs().rename(
                    (self.inos[from_dir], &from_name),
                    (self.inos[to_dir], &to_name),
                    *mode,
                );
                let from = (from_dir, &from_name[..]);
                let to = (to_dir, &to_name[..]);
                (self.model.rename(from, to, *mode, now), outcome(seen))
            }
            _ => unreachable!("not an operation on names"),
        }
    }

    fn set_attributes(&mut self, op: &Op, now: i64) -> (Outcome, Outcome) {
        let mut set = SetAttr::default();
        let node = match op {
            Op::Chmod { node, mode } => {
                set.mode = Some(*mode);
                self.any(*node)
            }
            Op::Chown { node, uid, gid } => {
                set.uid = Some(*uid);
                set.gid = Some(*gid);
                self.any(*node)
            }
            Op::Utimes { node, mtime } => {
                set.mtime = Some(SetTime::At(Timespec {
                    secs: *mtime,
                    nanos: 7,
                }));
                self.any(*node)
            }
            Op::Truncate { node, size } => {
                set.size = Some(*size);
                self.any(*node)
            }
            _ => unreachable!("not an operation on attributes"),
        };
        let seen = outcome(self.fs().setattr(CALLER, self.inos[node], set).map(drop));
        let node = &mut self.model.nodes[node];
        if let Some(size) = set.size {
            match &node.kind {
                Kind::File { .. } => {
                    node.resize(size as usize);
                    node.touch(now);
                }
                Kind::Dir { .. } => return (Err("IsDirectory"), seen),
                _ => return (Err("Invalid"), seen),
            }
        }
        node.ctime = now;
        node.mode = set.mode.unwrap_or(node.mode);
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        if let Some(SetTime::At(time)) = set.mtime {
            node.mtime = time.secs;
        }
        (Ok(()), seen)
    }

    fn set_xattr(&mut self, op: &Op, now: i64) -> (Outcome, Outcome) {
        let (index, name) = match op {
            Op::SetXattr { node, name, .. } | Op::RemoveXattr { node, name } => {
                (self.any(*node), xattr_name(*name))
            }
            _ => unreachable!("not an operation on extended attributes"),
        };
        let ino = self.inos[index];
        let (value, mode) = match op {
            Op::SetXattr { len, mode, .. } => {
                let modes = [XattrMode::Either, XattrMode::Create, XattrMode::Replace];
                (Some(vec![*len as u8; *len]), modes[mode % 3])
            }
            _ => (None, XattrMode::Either),
        };
        let seen = match &value {
            Some(value) => self.fs().setxattr(CALLER, ino, &name, value, mode),
            None => self.fs().removexattr(ino, &name),
        };
        let node = &mut self.model.nodes[index];
        let user = name.starts_with(b"user.");
        let exists = node.xattrs.contains_key(&name);
        let expected = if user && !node.is_dir() && !node.is_file() {
            Err("NotPermitted")
        } else if name.starts_with(b"strange.") {
            Err("Unsupported")
        } else {
            match (value, mode, exists) {
                (Some(_), XattrMode::Create, true) => Err("Exists"),
                (Some(_), XattrMode::Replace, false) | (None, _, false) => Err("NoAttribute"),
                (Some(value), ..) => {
                    node.xattrs.insert(name, value);
                    node.ctime = now;
                    Ok(())
                }
                (None, ..) => {
                    node.xattrs.remove(&name);
                    node.ctime = now;
                    Ok(())
                }
            }
        };
        (expected, outcome(seen))
    }

    fn use_handle(&mut self, op: &Op, now: i64) -> Option<(Outcome, Outcome)> {
        let handle = match op {
            Op::Close { handle }
            | Op::Write { handle, .. }
            | Op::Ftruncate { handle, .. }
            | Op::Punch { handle, .. }
            | Op::Zero { handle, .. }
            | Op::Reserve { handle, .. }
            | Op::Flush { handle }
            | Op::Fsync { handle } => *handle,
            Op::Copy { from, .. } => *from,
            _ => unreachable!("not an operation on a handle"),
        };
        let index = handle.checked_rem(self.open.len())?;
        let (node, fh, append) = {
            let open = &self.open[index];
            (open.node, open.fh, open.append)
        };
        let ino = self.inos[node];
        let fs = self.fs.as_ref()?;
        let model = &mut self.model.nodes[node];
        let mut expected = Ok(());
        let seen = match op {
            Op::Close { .. } => {
                self.open.swap_remove(index);
                fs.flush(ino, fh).and_then(|()| fs.release(ino, fh))
            }
            Op::Write { at, len, byte, .. } => {
                let data = vec![*byte; *len];
                let at = if append {
                    model.file().0.len() as u64
                } else {
                    *at
                };
                model.put(at as usize, &data, &vec![true; *len]);
                model.touch(now);
                fs.write(ino, fh, at, &data, WriteFlags::default())
                    .map(drop)
            }
            Op::Ftruncate { size, .. } => {
                model.resize(*size as usize);
                model.touch(now);
                let set = SetAttr {
                    size: Some(*size),
                    fh: Some(fh),
                    ..SetAttr::default()
                };
                fs.setattr(CALLER, ino, set).map(drop)
            }
            Op::Punch { at, len, .. } => {
                model.clear(*at as usize, (*at + *len) as usize);
                model.touch(now);
                fs.fallocate(CALLER, ino, fh, *at, *len, Fallocate::PunchHole)
            }
            Op::Zero {
                at, len, keep_size, ..
            }
            | Op::Reserve {
                at, len, keep_size, ..
            } => {
                let end = (*at + *len) as usize;
                let keep_size = *keep_size;
                let mode = if let Op::Zero { .. } = op {
                    model.clear(*at as usize, end);
                    Fallocate::ZeroRange { keep_size }
                } else {
                    Fallocate::Reserve { keep_size }
                };
                if !keep_size && end > model.file().0.len() {
                    model.resize(end);
                }
                model.touch(now);
                fs.fallocate(CALLER, ino, fh, *at, *len, mode)
            }
            Op::Copy {
                to, at, to_at, len, ..
            } => {
                let target = &self.open[to % self.open.len()];
                let to = (self.inos[target.node], target.fh, *to_at);
                let seen = fs.copy_file_range(CALLER, (ino, fh, *at), to, *len);
                expected = self.copy(index, to_at, at, *len, target.append, target.node, now);
                seen.map(drop)
            }
            Op::Flush { .. } => fs.flush(ino, fh),
            Op::Fsync { .. } => fs.fsync(ino, fh),
            _ => unreachable!("matched above"),
        };
        Some((expected, outcome(seen)))
    }

    #[expect(clippy::too_many_arguments, reason = "one call, named at the call")]
    fn copy(
        &mut self,
        from: usize,
        to_at: &u64,
        at: &u64,
        len: u64,
        append: bool,
        target: usize,
        now: i64,
    ) -> Outcome {
        let source = self.open[from].node;
        if append {
            return Err("BadHandle");
        }
        if source == target && *at < to_at + len && *to_at < at + len {
            return Err("Invalid");
        }
        let (bytes, stored) = self.model.nodes[source].file();
        let from = (*at as usize).min(bytes.len());
        let to = ((at + len) as usize).min(bytes.len());
        let (bytes, stored) = (bytes[from..to].to_vec(), stored[from..to].to_vec());
        if !bytes.is_empty() {
            let target = &mut self.model.nodes[target];
            target.put(*to_at as usize, &bytes, &stored);
            target.touch(now);
        }
        Ok(())
    }

    fn remount(&mut self) {
        let fs = self.fs.take().expect("mounted between operations");
        for open in self.open.drain(..) {
            let ino = self.inos[open.node];
            fs.flush(ino, open.fh).unwrap();
            fs.release(ino, open.fh).unwrap();
        }
        for (ino, nlookup) in std::mem::take(&mut self.lookups) {
            fs.forget(ino, nlookup);
        }
        fs.sync_all().unwrap();
        assert_eq!(
            fs.counts(),
            FsCounts::default(),
            "tables after the last forget"
        );
        drop(fs);
        self.fs = Some(self.disk.mount());
    }

    fn compare(&self, when: &str) {
        let fs = self.fs();
        let known = fs.counts();
        self.compare_dir(0, Ino::ROOT, when);
        for open in &self.open {
            if self.model.nodes[open.node].nlink == 0 {
                let attr = fs.getattr(self.inos[open.node]).unwrap().attr;
                self.compare_node(open.node, &attr, when);
                self.compare_bytes(open.node, self.inos[open.node], open.fh, when);
            }
        }
        let counts = fs.counts();
        assert_eq!(counts.nlookup, known.nlookup, "lookups {when}");
        assert_eq!(counts.handles, self.open.len(), "handles {when}");
    }

    fn compare_dir(&self, dir: usize, ino: Ino, when: &str) {
        let model = &self.model.nodes[dir];
        let entries = self.list(ino);
        let mut expected: Vec<Vec<u8>> = vec![b".".to_vec(), b"..".to_vec()];
        expected.extend(model.entries().keys().cloned());
        let mut names: Vec<Vec<u8>> = entries.iter().map(|entry| entry.0.clone()).collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected, "names in a directory {when}");
        for (name, number, kind) in entries {
            let Some(child) = model.entries().get(&name) else {
                continue;
            };
            assert_eq!(number, self.inos[*child], "number of {name:?} {when}");
            assert_eq!(kind, self.model.nodes[*child].file_kind());
            let entry = self.fs().lookup(ino, &name).unwrap();
            self.compare_node(*child, &entry.attr, when);
            if self.model.nodes[*child].is_dir() {
                self.compare_dir(*child, number, when);
            } else if self.model.nodes[*child].is_file() {
                let flags = OpenFlags {
                    read: true,
                    ..OpenFlags::default()
                };
                let fh = self.fs().open(CALLER, number, flags).unwrap().fh;
                self.compare_bytes(*child, number, fh, when);
                self.fs().release(number, fh).unwrap();
            }
            self.fs().forget(number, 1);
        }
    }

    /// Lists a directory in replies of three entries.
    fn list(&self, ino: Ino) -> Vec<(Vec<u8>, Ino, FileKind)> {
        let fs = self.fs();
        let fh = fs.opendir(ino).unwrap().fh;
        let mut entries = Vec::new();
        let mut cookie = 0;
        loop {
            let before = entries.len();
            fs.readdir(ino, fh, cookie, &mut |entry| {
                if entries.len() - before == 3 {
                    return Reply::Full;
                }
                assert!(entry.cookie > cookie && entry.cookie <= i64::MAX as u64);
                cookie = entry.cookie;
                entries.push((entry.name.to_vec(), entry.ino, entry.kind));
                Reply::Taken
            })
            .unwrap();
            if entries.len() == before {
                break;
            }
        }
        fs.releasedir(ino, fh).unwrap();
        entries
    }

    fn compare_node(&self, index: usize, attr: &Attr, when: &str) {
        let node = &self.model.nodes[index];
        let (size, stored) = match &node.kind {
            Kind::File { bytes, stored } => {
                (bytes.len(), stored.iter().filter(|stored| **stored).count())
            }
            Kind::Symlink(target) => (target.len(), 0),
            Kind::Dir { .. } | Kind::Other(_) => (0, 0),
        };
        let seen = (
            attr.ino, attr.kind, attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev,
        );
        let expected = (
            self.inos[index],
            node.file_kind(),
            node.mode,
            node.nlink,
            node.uid,
            node.gid,
            node.rdev,
        );
        assert_eq!(seen, expected, "attributes of node {index} {when}");
        let seen = (attr.size, attr.blocks, attr.mtime.secs, attr.ctime.secs);
        let expected = (
            size as u64,
            stored.div_ceil(512) as u64,
            node.mtime,
            node.ctime,
        );
        assert_eq!(seen, expected, "size, blocks, times of node {index} {when}");
        let fs = self.fs();
        if let Kind::Symlink(target) = &node.kind {
            assert_eq!(&fs.readlink(attr.ino).unwrap(), target);
        }
        let list = fs.listxattr(CALLER, attr.ino).unwrap();
        let mut names: Vec<&[u8]> = list
            .split(|byte| *byte == 0)
            .filter(|n| !n.is_empty())
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            node.xattrs.keys().collect::<Vec<_>>(),
            "xattrs {when}"
        );
        for (name, value) in &node.xattrs {
            assert_eq!(&fs.getxattr(attr.ino, name).unwrap(), value);
        }
    }

    fn compare_bytes(&self, index: usize, ino: Ino, fh: FileHandle, when: &str) {
        let Kind::File { bytes, stored } = &self.model.nodes[index].kind else {
            return;
        };
        let seen = read_all(self.fs(), ino, fh);
        if seen != *bytes {
            let at = seen.iter().zip(bytes).position(|(a, b)| a != b);
            panic!(
                "bytes of node {index} differ at {at:?} of {} {when}",
                bytes.len()
            );
        }
        self.compare_holes(stored, ino, fh, when);
    }

    fn compare_holes(&self, stored: &[bool], ino: Ino, fh: FileHandle, when: &str) {
        let fs = self.fs();
        let mut at = 0;
        while at < stored.len() {
            let end = |wanted| stored[at..].iter().position(|s| *s == wanted);
            let data = outcome(fs.lseek(ino, fh, at as u64, Seek::Data));
            let hole = outcome(fs.lseek(ino, fh, at as u64, Seek::Hole));
            let expected = end(true)
                .map(|skip| (at + skip) as u64)
                .ok_or("NoSuchRange");
            assert_eq!(data, expected, "data after {at} {when}");
            let expected = end(false).map_or(stored.len(), |skip| at + skip) as u64;
            assert_eq!(hole, Ok(expected), "hole after {at} {when}");
            let next = end(!stored[at]).map_or(stored.len(), |skip| at + skip);
            at = next;
        }
        assert!(fs.lseek(ino, fh, stored.len() as u64, Seek::Data).is_err());
    }
}

/// Reads a file to its end.
pub(super) fn read_all(fs: &Fs, ino: Ino, fh: FileHandle) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match fs.read(ino, fh, bytes.len() as u64, 700_000).unwrap() {
            ReadPlan::Ready(pieces) if pieces.is_empty() => return bytes,
            ReadPlan::Ready(pieces) => pieces.iter().for_each(|piece| bytes.extend(piece)),
            ReadPlan::Wait(_) => panic!("everything is here"),
        }
    }
}

fn flags(truncate: bool, append: bool, exclusive: bool) -> OpenFlags {
    OpenFlags {
        read: true,
        write: true,
        append,
        truncate,
        exclusive,
        ..OpenFlags::default()
    }
}

/// Returns the name of an error's variant.
pub(super) fn outcome<T>(result: Result<T, FsError>) -> Outcome<T> {
    result.map_err(|error| match error {
        FsError::NotFound => "NotFound",
        FsError::Exists => "Exists",
        FsError::NotDirectory => "NotDirectory",
        FsError::IsDirectory => "IsDirectory",
        FsError::NotEmpty => "NotEmpty",
        FsError::NameTooLong => "NameTooLong",
        FsError::Invalid { .. } => "Invalid",
        FsError::NoAttribute => "NoAttribute",
        FsError::NotPermitted => "NotPermitted",
        FsError::BadHandle => "BadHandle",
        FsError::NoSuchRange => "NoSuchRange",
        FsError::Unsupported => "Unsupported",
        error => panic!("unexpected: {error}"),
    })
}
