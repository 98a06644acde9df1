//! Callers that a request does not name, as of a mount that allows id-mapped ones.

use std::sync::Arc;

use dfs::base::Ino;
use dfs::fs::{Caller, Fallocate, FsConfig, FsError, OpenFlags, SetAttr, WriteFlags, XattrMode};
use dfs::store::memory::MemoryDisk;

use super::mount::Disk;

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
    umask: 0,
};

/// The process that is root's; the others are a user's, or gone.
const ROOTS: u32 = 7;

fn untold(pid: u32) -> Caller {
    Caller {
        uid: Caller::UNTOLD,
        gid: Caller::UNTOLD,
        pid,
        umask: 0,
    }
}

#[test]
fn a_caller_that_is_not_told_is_found_out_and_else_has_no_privilege() {
    let disk = Disk::new();
    let owner = |pid| match pid {
        ROOTS => Some((0, 0)),
        8 => Some((1000, 1000)),
        _ => None,
    };
    let fs = disk.mount_with(FsConfig {
        owner: Some(Arc::new(owner)),
        ..FsConfig::default()
    });
    let flags = OpenFlags {
        read: true,
        write: true,
        ..OpenFlags::default()
    };
    let created = fs.create(ROOT, Ino::ROOT, b"file", 0o4755, flags).unwrap();
    let (ino, fh) = (created.entry.attr.ino, created.opened.fh);
    fs.write(ino, fh, 0, b"bytes", WriteFlags::default())
        .unwrap();
    fs.setxattr(ROOT, ino, b"trusted.mark", b"v", XattrMode::Either)
        .unwrap();
    let mode = || fs.getattr(ino).unwrap().attr.mode;
    let is_kept = |pid, change: &dyn Fn(Caller)| {
        let set = SetAttr {
            mode: Some(0o4755),
            ..SetAttr::default()
        };
        fs.setattr(ROOT, ino, set).unwrap();
        change(untold(pid));
        mode() == 0o4755
    };
    let cut = |caller| {
        let set = SetAttr {
            size: Some(3),
            kill_privileges_of_user: true,
            ..SetAttr::default()
        };
        fs.setattr(caller, ino, set).unwrap();
    };
    let punch = |caller| {
        fs.fallocate(caller, ino, fh, 0, 1, Fallocate::PunchHole)
            .unwrap();
    };
    let chown = |caller| {
        let set = SetAttr {
            uid: Some(5),
            kill_privileges: true,
            ..SetAttr::default()
        };
        fs.setattr(caller, ino, set).unwrap();
    };
    for (pid, is_root) in [(ROOTS, true), (8, false), (9, false)] {
        assert_eq!(is_kept(pid, &cut), is_root, "cut by {pid}");
        assert_eq!(is_kept(pid, &punch), is_root, "punched by {pid}");
        assert!(!is_kept(pid, &chown), "given away by {pid}");
        let list = fs.listxattr(untold(pid), ino).unwrap();
        assert_eq!(!list.is_empty(), is_root, "listed by {pid}");
    }
}

#[test]
fn a_write_that_fails_takes_no_privilege_away() {
    let memory = MemoryDisk::new();
    let disk = Disk::on(memory.store());
    let fs = disk.mount();
    let flags = OpenFlags {
        read: true,
        write: true,
        ..OpenFlags::default()
    };
    let created = fs.create(ROOT, Ino::ROOT, b"file", 0o644, flags).unwrap();
    let (ino, fh) = (created.entry.attr.ino, created.opened.fh);
    let user = Caller {
        uid: 1000,
        gid: 1000,
        pid: 8,
        umask: 0,
    };
    let mut failed = 0;
    // Further writes to the disk that go well.
    for left in 0..5 {
        let set = SetAttr {
            mode: Some(0o6755),
            ..SetAttr::default()
        };
        fs.setattr(ROOT, ino, set).unwrap();
        fs.fsync(ino, fh).unwrap();
        let flags = WriteFlags {
            kill_privileges: Some(user),
            sync: true,
            ..WriteFlags::default()
        };
        memory.set_writes_left(Some(left));
        let written = fs.write(ino, fh, 0, &[left as u8; 20_000], flags);
        memory.set_writes_left(None);
        let mode = fs.getattr(ino).unwrap().attr.mode;
        match written {
            Ok(_) => assert_eq!(mode, 0o755, "{left}"),
            Err(FsError::NoSpace) => {
                assert_eq!(mode, 0o6755, "{left}");
                failed += 1;
            }
            Err(error) => panic!("{left}: {error}"),
        }
    }
    assert!((1..5).contains(&failed), "{failed}");
}
