//! The floor: a filesystem that keeps everything in plain maps in memory and promises nothing. What
//! the kernel and fuser cost, and no filesystem can do without.
//!
//! `floor MOUNTPOINT`; prints `mounted` when it serves, and ends when somebody unmounts it. For
//! `rates` beside a real mount.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};

const TTL: Duration = Duration::from_secs(3600);

struct Node {
    attr: FileAttr,
    content: Vec<u8>,
    entries: BTreeMap<OsString, u64>,
}

#[derive(Default)]
struct Nodes {
    nodes: HashMap<u64, Node>,
    last: u64,
}

impl Nodes {
    fn add(&mut self, kind: FileType, mode: u32) -> FileAttr {
        self.last += 1;
        let attr = FileAttr {
            ino: INodeNo(self.last),
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: u16::try_from(mode & 0o7777).unwrap_or(0o644),
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        let node = Node {
            attr,
            content: Vec::new(),
            entries: BTreeMap::new(),
        };
        self.nodes.insert(self.last, node);
        attr
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Option<&Node> {
        let number = self.nodes.get(&parent.0)?.entries.get(name)?;
        self.nodes.get(number)
    }

    fn make(&mut self, parent: INodeNo, name: &OsStr, kind: FileType, mode: u32) -> FileAttr {
        let attr = self.add(kind, mode);
        if let Some(parent) = self.nodes.get_mut(&parent.0) {
            parent.entries.insert(name.to_owned(), attr.ino.0);
        }
        attr
    }

    fn remove(&mut self, parent: INodeNo, name: &OsStr) -> Option<u64> {
        self.nodes.get_mut(&parent.0)?.entries.remove(name)
    }
}

struct Floor {
    nodes: Mutex<Nodes>,
}

impl Floor {
    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().expect("no handler panics")
    }
}

impl Filesystem for Floor {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // As dfs asks for.
        let wanted = [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_DO_READDIRPLUS.union(InitFlags::FUSE_READDIRPLUS_AUTO),
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        for flag in wanted {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_readahead(1 << 20);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.nodes().find(parent, name) {
            Some(node) => reply.entry(&TTL, &node.attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.nodes().nodes.get(&ino.0) {
            Some(node) => reply.attr(&TTL, &node.attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut nodes = self.nodes();
        let Some(node) = nodes.nodes.get_mut(&ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        if let Some(size) = size {
            node.content
                .resize(usize::try_from(size).unwrap_or(usize::MAX), 0);
            node.attr.size = size;
        }
        reply.attr(&TTL, &node.attr);
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let attr = self
            .nodes()
            .make(parent, name, FileType::Directory, mode | 0o700);
        reply.entry(&TTL, &attr, Generation(0));
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let attr = self.nodes().make(parent, name, FileType::RegularFile, mode);
        let opened = FopenFlags::FOPEN_KEEP_CACHE;
        reply.created(&TTL, &attr, Generation(0), FileHandle(1), opened);
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let nodes = self.nodes();
        let content = nodes.nodes.get(&ino.0).map(|node| &node.content[..]);
        let content = content.unwrap_or_default();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let start = start.min(content.len());
        let end = start.saturating_add(size as usize).min(content.len());
        reply.data(&content[start..end]);
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut nodes = self.nodes();
        let Some(node) = nodes.nodes.get_mut(&ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(data.len());
        if node.content.len() < end {
            node.content.resize(end, 0);
            node.attr.size = end as u64;
        }
        node.content[start..end].copy_from_slice(data);
        reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut nodes = self.nodes();
        match nodes.remove(parent, name) {
            Some(number) => {
                nodes.nodes.remove(&number);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(req, parent, name, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut nodes = self.nodes();
        let Some(number) = nodes.remove(parent, name) else {
            return reply.error(Errno::ENOENT);
        };
        if let Some(parent) = nodes.nodes.get_mut(&newparent.0) {
            parent.entries.insert(newname.to_owned(), number);
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let nodes = self.nodes();
        let entries = nodes.nodes.get(&ino.0).map(|node| &node.entries);
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let entries = entries.into_iter().flatten().enumerate().skip(skip);
        for (at, (name, number)) in entries {
            let Some(node) = nodes.nodes.get(number) else {
                continue;
            };
            let ino = INodeNo(*number);
            if reply.add(ino, at as u64 + 1, name, &TTL, &node.attr, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }
}

fn main() {
    let mut args = std::env::args_os().skip(1);
    let mountpoint = args.next().expect("usage: floor MOUNTPOINT");
    let mut nodes = Nodes::default();
    nodes.add(FileType::Directory, 0o755);
    let floor = Floor {
        nodes: Mutex::new(nodes),
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("floor".to_owned()),
        MountOption::DefaultPermissions,
    ];
    let session = fuser::Session::new(floor, &mountpoint, &config).expect("mounted");
    println!("mounted");
    session.run().expect("served");
}
