//! Having back: whatever a file held is what it holds again, and a removed one is made anew.

use dfs::base::{Ino, Rng};
use dfs::fs::{Caller, Fallocate, FileHandle, Fs, OpenFlags, SetAttr, WriteFlags};
use mount_tests::source::pattern;

use super::mount::Disk;
use super::room::read_all;

const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
    umask: 0,
};
const BOTH: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
    exclusive: false,
    sync: false,
    noatime: false,
};
const MIB: u64 = 1 << 20;

fn create(fs: &Fs, name: &str) -> (Ino, FileHandle) {
    let created = fs.create(ROOT, Ino::ROOT, name.as_bytes(), 0o640, BOTH);
    let created = created.unwrap();
    (created.entry.attr.ino, created.opened.fh)
}

fn content(fs: &Fs, name: &str) -> Vec<u8> {
    let ino = fs.lookup(Ino::ROOT, name.as_bytes()).unwrap().attr.ino;
    let fh = fs.open(ROOT, ino, BOTH).unwrap().fh;
    let bytes = read_all(fs, ino, fh);
    fs.release(ino, fh).unwrap();
    bytes
}

/// Changes a file at random: writes anywhere, cuts, grows, makes holes.
fn change(fs: &Fs, (ino, fh): (Ino, FileHandle), rng: &Rng, seed: u64) {
    let at = |rng: &Rng| rng.below(4 * MIB);
    for step in 0..1 + rng.below(3) {
        match rng.below(5) {
            0 => {
                let size = SetAttr {
                    size: Some(at(rng)),
                    ..SetAttr::default()
                };
                fs.setattr(ROOT, ino, size).unwrap();
            }
            1 => {
                let (start, punch) = (at(rng), Fallocate::PunchHole);
                fs.fallocate(ROOT, ino, fh, start, MIB, punch).unwrap();
            }
            _ => {
                let len = 1 + rng.below(3 * MIB / 2) as usize;
                let bytes = pattern(len, seed * 10 + step);
                let written = fs.write(ino, fh, at(rng), &bytes, WriteFlags::default());
                assert_eq!(written.unwrap(), len);
            }
        }
    }
    fs.flush(ino, fh).unwrap();
}

#[test]
fn what_a_file_held_it_holds_again() {
    for seed in 0..12 {
        let rng = Rng::from_seed(seed);
        let disk = Disk::new();
        let fs = disk.mount();
        let volume = fs.volume();
        volume.keep_history(u64::MAX).unwrap();
        let file = create(&fs, "f");
        let mut held = Vec::new();
        for round in 0..8 {
            change(&fs, file, &rng, seed * 100 + round);
            held.push(read_all(&fs, file.0, file.1));
            for _ in 0..30 {
                disk.advance();
            }
            if rng.below(2) == 0 {
                volume.seal_drafts().unwrap();
            }
        }
        let before = volume.revisions(file.0).unwrap();
        assert!(before.len() > 2, "seed {seed}");
        for of in &before {
            fs.restore_content(file.0, file.0, of.by).unwrap();
            let now = read_all(&fs, file.0, file.1);
            assert_eq!(now.len() as u64, of.inode.size, "seed {seed}");
            let past = volume.content_by(file.0, of.by).unwrap().unwrap();
            assert_eq!(past.inode.size, of.inode.size);
            assert!(held.contains(&now), "seed {seed}: {:?}", of.by);
        }
        fs.release(file.0, file.1).unwrap();
        let last = content(&fs, "f");
        fs.unlink(Ino::ROOT, b"f").unwrap();
        fs.forget(file.0, 3);
        if rng.below(2) == 0 {
            volume.seal_drafts().unwrap();
        }
        let removals = volume.removals().unwrap();
        let done = fs.restore_below(&removals, Ino::ROOT, &mut |_| {}).unwrap();
        assert_eq!((done.files, done.bytes), (1, last.len() as u64));
        assert!(content(&fs, "f") == last, "seed {seed}");
        let attr = fs.lookup(Ino::ROOT, b"f").unwrap().attr;
        assert!(attr.ino != file.0 && attr.mode & 0o7777 == 0o640);
    }
}
