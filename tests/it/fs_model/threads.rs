//! Many threads on one filesystem: nothing hangs, nothing is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs::base::task::thread;
use dfs::base::{Ino, Rng};
use dfs::fs::{Caller, Fs, FsConfig, OpenFlags, ReadPlan, RenameMode, Reply, WriteFlags};

use super::mount::Disk;
use super::room::read_all;

const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
    umask: 0,
};
const WRITERS: u64 = 3;
const ROUNDS: usize = 60;

#[test]
fn writers_readers_and_the_tick_get_along() {
    let disk = Disk::new();
    let fs = Arc::new(disk.mount_with(FsConfig {
        dirty_bytes_max: 1 << 20,
        ..FsConfig::default()
    }));
    let log = fs
        .mknod(CALLER, Ino::ROOT, b"log", 0o644, 0)
        .unwrap()
        .attr
        .ino;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let fs = Arc::clone(&fs);
            thread("writer", move || write_and_rename(&fs, number, log)).unwrap()
        })
        .collect();
    let watchers: Vec<_> = (0..2)
        .map(|number| {
            let (fs, stop, clock) = (Arc::clone(&fs), Arc::clone(&stop), Arc::clone(&disk.clock));
            thread("watcher", move || {
                while !stop.load(Ordering::Relaxed) {
                    if number == 0 {
                        clock.advance(std::time::Duration::from_millis(300));
                        fs.tick();
                        fs.volume().seal_drafts().unwrap();
                        fs.collect().unwrap();
                    } else {
                        look_at_everything(&fs);
                    }
                }
            })
            .unwrap()
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for watcher in watchers {
        watcher.join().unwrap();
    }
    fs.sync_all().unwrap();
    let fh = fs.open(CALLER, log, flags(false)).unwrap().fh;
    let lines = read_all(&fs, log, fh);
    let lines: Vec<_> = lines
        .split(|byte| *byte == b'\n')
        .filter(|l| !l.is_empty())
        .collect();
    assert_eq!(lines.len(), WRITERS as usize * ROUNDS);
    assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len());
}

/// What is unwritten and what the volume has are read as one state, whenever a commit moves the one
/// into the other.
#[test]
fn a_size_never_goes_back_while_others_write_out() {
    let disk = Disk::new();
    let fs = Arc::new(disk.mount());
    let created = fs
        .create(CALLER, Ino::ROOT, b"grows", 0o644, flags(false))
        .unwrap();
    let (ino, fh) = (created.entry.attr.ino, created.opened.fh);
    let stop = Arc::new(AtomicBool::new(false));
    let committer = {
        let (fs, stop) = (Arc::clone(&fs), Arc::clone(&stop));
        thread("committer", move || {
            while !stop.load(Ordering::Relaxed) {
                fs.flush(ino, fh).unwrap();
            }
        })
        .unwrap()
    };
    let look = |size: u64| {
        assert_eq!(fs.getattr(ino).unwrap().attr.size, size, "getattr");
        let entry = fs.lookup(Ino::ROOT, b"grows").unwrap();
        fs.forget(ino, 1);
        assert_eq!(entry.attr.size, size, "lookup");
        let ReadPlan::Ready(pieces) = fs.read(ino, fh, size - 1, 10).unwrap() else {
            panic!("the byte is here");
        };
        assert_eq!(pieces.concat(), b"x", "read");
        let dir = fs.opendir(Ino::ROOT).unwrap().fh;
        fs.readdirplus(Ino::ROOT, dir, 0, &mut |found| {
            if let Some(entry) = found.entry {
                assert_eq!(entry.attr.size, size, "readdirplus");
                fs.forget(ino, 1);
            }
            Reply::Taken
        })
        .unwrap();
        fs.releasedir(Ino::ROOT, dir).unwrap();
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for round in 0..3_000 {
            fs.write(ino, fh, round, b"x", WriteFlags::default())
                .unwrap();
            look(round + 1);
        }
    }));
    stop.store(true, Ordering::Relaxed);
    committer.join().unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    fs.release(ino, fh).unwrap();
}

fn flags(append: bool) -> OpenFlags {
    OpenFlags {
        read: true,
        write: true,
        append,
        ..OpenFlags::default()
    }
}

fn write_and_rename(fs: &Fs, number: u64, log: Ino) {
    let rng = Rng::from_seed(number);
    let names = [format!("a{number}"), format!("b{number}")];
    let created = fs
        .create(CALLER, Ino::ROOT, names[0].as_bytes(), 0o644, flags(false))
        .unwrap();
    let (ino, fh) = (created.entry.attr.ino, created.opened.fh);
    let append = fs.open(CALLER, log, flags(true)).unwrap().fh;
    let mut expected = Vec::new();
    for round in 0..ROUNDS {
        let at = rng.below(1_500_000) as usize;
        let len = 1 + rng.below(if round % 10 == 0 { 600_000 } else { 6_000 }) as usize;
        let byte = round as u8;
        expected.resize(expected.len().max(at + len), 0);
        expected[at..at + len].fill(byte);
        let data = vec![byte; len];
        fs.write(ino, fh, at as u64, &data, WriteFlags::default())
            .unwrap();
        let line = format!("{number} {round}\n");
        fs.write(log, append, 0, line.as_bytes(), WriteFlags::default())
            .unwrap();
        match round % 7 {
            0 => fs.fsync(ino, fh).unwrap(),
            3 => fs.flush(log, append).unwrap(),
            _ => {}
        }
        let (from, to) = (&names[round % 2], &names[(round + 1) % 2]);
        fs.rename(
            (Ino::ROOT, from.as_bytes()),
            (Ino::ROOT, to.as_bytes()),
            RenameMode::Replace,
        )
        .unwrap();
        if round % 20 == 0 {
            assert!(
                read_all(fs, ino, fh) == expected,
                "writer {number} round {round}"
            );
        }
    }
    fs.flush(ino, fh).unwrap();
    assert!(
        read_all(fs, ino, fh) == expected,
        "writer {number} at the end"
    );
    fs.release(ino, fh).unwrap();
    fs.release(log, append).unwrap();
}

fn look_at_everything(fs: &Fs) {
    let dir = fs.opendir(Ino::ROOT).unwrap().fh;
    let mut found = Vec::new();
    fs.readdirplus(Ino::ROOT, dir, 0, &mut |entry| {
        if let Some(entry) = entry.entry {
            found.push(entry.attr);
        }
        Reply::Taken
    })
    .unwrap();
    fs.releasedir(Ino::ROOT, dir).unwrap();
    for attr in found {
        let fh = fs.open(CALLER, attr.ino, flags(false)).unwrap().fh;
        let plan = fs.read(attr.ino, fh, attr.size / 2, 5000).unwrap();
        assert!(matches!(plan, ReadPlan::Ready(_)));
        assert!(fs.getattr(attr.ino).unwrap().attr.size >= attr.size);
        fs.release(attr.ino, fh).unwrap();
        fs.forget(attr.ino, 1);
    }
}
