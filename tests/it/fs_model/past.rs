//! What the volume was, below `.dfs`: files as they were, that nobody changes, and numbers that stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dfs::base::{ChunkId, Clock, Ino, Rng, when};
use dfs::fs::{
    Attr, Brought, Entry, Fallocate, FileHandle, FileKind, Fs, FsError, OpenFlags, RenameMode,
    Reply, Seek, SetAttr, WriteFlags, XattrMode,
};
use dfs::replica::ReplicaError;
use dfs::volume::{Keep, PastVolume, Snapshot, VolumeError};

use super::mount::Disk;
use super::named::{BOTH, ROOT};
use super::room::read_all;

const READ: OpenFlags = OpenFlags {
    read: true,
    write: false,
    ..BOTH
};

/// Keeps the nodes of snapshots.
struct Nodes<'a>(&'a Disk);

impl Keep for Nodes<'_> {
    fn put(&mut self, plain: Bytes, _: &dyn Fn(&ChunkId) -> bool) -> Result<ChunkId, ReplicaError> {
        let sealed = self.0.keys.seal_chunk(&plain);
        self.0.store.chunks.put(sealed.id, &sealed.bytes).unwrap();
        Ok(sealed.id)
    }

    fn frozen(&mut self) {}
}

struct World {
    disk: Disk,
    fs: Fs,
}

impl World {
    fn new() -> Self {
        let disk = Disk::new();
        let fs = disk.mount();
        let (chunks, keys) = (Arc::clone(&disk.store.chunks), Arc::clone(&disk.keys));
        fs.volume().show_past(Arc::new(move |id: &ChunkId| {
            let sealed = chunks.get(*id).unwrap();
            Ok(sealed.map(|sealed| keys.open_chunk(&sealed).unwrap().into()))
        }));
        Self { disk, fs }
    }

    /// Makes a snapshot at a time, of which the clock says that it has come.
    fn take(&self, name: &str, at: &str) {
        let now = self.disk.clock.wall_ms();
        let wait = when::parse(at).unwrap() - now;
        self.disk.clock.advance(Duration::from_millis(wait));
        self.fs.sync_all().unwrap();
        let made = self.fs.volume().make_snapshot(name, &mut Nodes(&self.disk));
        made.unwrap();
    }

    fn snapshot(&self, name: &str) -> Snapshot {
        let mut all = self.fs.volume().snapshots().unwrap().into_iter();
        all.find(|snapshot| snapshot.name == name).unwrap()
    }

    fn past(&self, name: &str) -> PastVolume {
        self.fs.volume().past_volume(&self.snapshot(name)).unwrap()
    }

    fn find(&self, path: &str) -> Result<Entry, FsError> {
        let mut names = path.split('/');
        let mut entry = self
            .fs
            .lookup(Ino::ROOT, names.next().unwrap().as_bytes())?;
        for name in names {
            let found = self.fs.lookup(entry.attr.ino, name.as_bytes());
            self.fs.forget(entry.attr.ino, 1);
            entry = found?;
        }
        Ok(entry)
    }

    /// Returns the number of a path, which is known from now on.
    fn at(&self, path: &str) -> Ino {
        self.find(path).unwrap().attr.ino
    }

    fn text(&self, path: &str) -> String {
        let ino = self.at(path);
        let fh = self.fs.open(ROOT, ino, READ).unwrap().fh;
        let text = String::from_utf8(read_all(&self.fs, ino, fh)).unwrap();
        self.fs.release(ino, fh).unwrap();
        self.fs.forget(ino, 1);
        text
    }

    fn list(&self, dir: Ino) -> Vec<(String, Ino)> {
        let fh = self.fs.opendir(dir).unwrap().fh;
        let (mut found, mut cookie) = (Vec::new(), 0);
        loop {
            let before = found.len();
            // A few at a time, so that it goes on behind what it met.
            let listed = self.fs.readdir(dir, fh, cookie, &mut |entry| {
                if found.len() == before + 3 {
                    return Reply::Full;
                }
                cookie = entry.cookie;
                found.push((String::from_utf8_lossy(entry.name).into_owned(), entry.ino));
                Reply::Taken
            });
            listed.unwrap();
            if found.len() == before {
                break;
            }
        }
        self.fs.releasedir(dir, fh).unwrap();
        found.retain(|(name, _)| name != "." && name != "..");
        found
    }

    fn names(&self, path: &str) -> BTreeSet<String> {
        let dir = self.at(path);
        let names = self.list(dir).into_iter().map(|(name, _)| name).collect();
        self.fs.forget(dir, 1);
        names
    }

    fn put(&self, dir: Ino, name: &str, text: &str) -> (Ino, FileHandle) {
        let flags = OpenFlags {
            truncate: true,
            ..BOTH
        };
        let (ino, fh) = match self.fs.lookup(dir, name.as_bytes()) {
            Ok(entry) => {
                let ino = entry.attr.ino;
                (ino, self.fs.open(ROOT, ino, flags).unwrap().fh)
            }
            Err(_) => {
                let made = self.fs.create(ROOT, dir, name.as_bytes(), 0o640, flags);
                let made = made.unwrap();
                (made.entry.attr.ino, made.opened.fh)
            }
        };
        let written = self
            .fs
            .write(ino, fh, 0, text.as_bytes(), WriteFlags::default());
        assert_eq!(written.unwrap(), text.len());
        self.fs.flush(ino, fh).unwrap();
        self.fs.release(ino, fh).unwrap();
        (ino, fh)
    }

    fn mkdir(&self, dir: Ino, name: &str) -> Ino {
        let made = self.fs.mkdir(ROOT, dir, name.as_bytes(), 0o750).unwrap();
        made.attr.ino
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn what_was_is_there_as_it_was() {
    let w = World::new();
    let dir = w.mkdir(Ino::ROOT, "d");
    let (file, _) = w.put(dir, "f", "first");
    w.fs.link(file, dir, b"g").unwrap();
    w.fs.symlink(ROOT, dir, b"l", b"f").unwrap();
    w.fs.setxattr(ROOT, file, b"user.x", b"old", XattrMode::Either)
        .unwrap();
    for name in 0..20 {
        w.put(dir, &format!("n{name}"), "many");
    }
    let before = w.find("d/f").unwrap().attr;
    let listed = w.names("d");
    w.take("one", "2027-01-15T08:00");
    w.disk.advance();

    w.put(dir, "f", "second, and longer");
    w.fs.unlink(dir, b"g").unwrap();
    w.fs.unlink(dir, b"l").unwrap();
    w.fs.setxattr(ROOT, file, b"user.x", b"new", XattrMode::Either)
        .unwrap();
    w.put(dir, "h", "new");
    w.take("two", "2027-01-16T08:00");
    w.fs.unlink(dir, b"f").unwrap();

    assert_eq!(w.text(".dfs/snapshots/one/d/f"), "first");
    assert_eq!(w.text(".dfs/snapshots/one/d/g"), "first");
    assert_eq!(w.text(".dfs/snapshots/two/d/f"), "second, and longer");
    assert_eq!(w.names(".dfs/snapshots/one/d"), listed);
    assert!(w.names(".dfs/snapshots/two/d").contains("h"));
    let past = w.find(".dfs/snapshots/one/d/f").unwrap().attr;
    assert_eq!((past.size, past.nlink, past.mode), (5, 2, before.mode));
    assert_eq!((past.mtime, past.ctime), (before.mtime, before.ctime));
    assert_eq!(
        w.at(".dfs/snapshots/one/d/g"),
        past.ino,
        "one file with two names"
    );
    assert_eq!(w.fs.getxattr(past.ino, b"user.x").unwrap(), "old");
    assert_eq!(w.fs.listxattr(ROOT, past.ino).unwrap(), b"user.x\0");
    let link = w.at(".dfs/snapshots/one/d/l");
    assert_eq!(w.fs.readlink(link).unwrap(), "f");
    let dir = w.find(".dfs/snapshots/one/d").unwrap().attr;
    assert_eq!(
        w.fs.lookup(dir.ino, b"..").unwrap().attr.ino,
        w.at(".dfs/snapshots/one")
    );
    assert_eq!(w.names(".dfs/snapshots/one"), set(&["d"]));
    assert!(matches!(
        w.find(".dfs/snapshots/one/d/h"),
        Err(FsError::NotFound)
    ));
    assert!(matches!(
        w.find(".dfs/snapshots/three"),
        Err(FsError::NotFound)
    ));
}

#[test]
fn a_time_leads_to_the_newest_of_then() {
    let w = World::new();
    w.take("one", "2027-01-15T08:00:30");
    w.take("two", "2027-01-16T08:00:30");
    for (at, name) in [
        ("2027-01-15", "one"),
        ("2027-01-15T08:00", "one"),
        ("2027-01-15T08:00:30", "one"),
        ("2027-01-16T08:00:29", "one"),
        ("2027-01-16", "two"),
        ("2028-01-01T00:00", "two"),
    ] {
        let entry = w.find(&format!(".dfs/at/{at}")).unwrap();
        assert!(entry.entry_ttl.is_zero(), "a newer one may come");
        let target = w.fs.readlink(entry.attr.ino).unwrap();
        assert_eq!(target, format!("../snapshots/{name}"), "{at}");
        assert_eq!(entry.attr.size, target.len() as u64);
    }
    for at in ["2027-01-14", "2027-01-15T08:00:29", "yesterday", "one", ""] {
        let found = w.find(&format!(".dfs/at/{at}"));
        assert!(matches!(found, Err(FsError::NotFound)), "{at}");
    }
    assert_eq!(w.names(".dfs/at"), set(&[]));
    assert_eq!(w.names(".dfs/snapshots"), set(&["one", "two"]));
    assert_eq!(w.names(".dfs"), set(&["at", "snapshots"]));
    assert!(!w.list(Ino::ROOT).iter().any(|(name, _)| name == ".dfs"));
}

#[test]
fn nothing_changes_what_was() {
    let w = World::new();
    let dir = w.mkdir(Ino::ROOT, "d");
    w.put(dir, "f", "first");
    w.take("one", "2027-01-15");
    let (dir, file) = (w.at(".dfs/snapshots/one/d"), w.at(".dfs/snapshots/one/d/f"));
    let top = w.at(".dfs");
    let dirs = [
        top,
        w.at(".dfs/at"),
        w.at(".dfs/snapshots"),
        w.at(".dfs/snapshots/one"),
        dir,
    ];
    let fs = &w.fs;
    let reading = fs.open(ROOT, file, READ).unwrap().fh;
    let set_size = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    let mut refused = vec![
        fs.setattr(ROOT, file, SetAttr::default()).map(drop),
        fs.setattr(ROOT, file, set_size).map(drop),
        fs.open(ROOT, file, BOTH).map(drop),
        fs.open(
            ROOT,
            file,
            OpenFlags {
                truncate: true,
                ..READ
            },
        )
        .map(drop),
        fs.write(file, reading, 0, b"x", WriteFlags::default())
            .map(drop),
        fs.fallocate(ROOT, file, reading, 0, 1, Fallocate::PunchHole),
        fs.setxattr(ROOT, file, b"user.x", b"x", XattrMode::Either),
        fs.removexattr(file, b"user.x"),
        fs.link(file, Ino::ROOT, b"x").map(drop),
        fs.rename((dir, b"f"), (Ino::ROOT, b"x"), RenameMode::Replace),
        fs.rename((Ino::ROOT, b"d"), (dir, b"x"), RenameMode::Replace),
        fs.unlink(dir, b"f"),
        fs.rmdir(w.at(".dfs/snapshots/one"), b"d"),
        fs.rmdir(w.at(".dfs/snapshots"), b"one"),
        fs.rmdir(top, b"snapshots"),
    ];
    for dir in dirs {
        refused.extend([
            fs.mkdir(ROOT, dir, b"x", 0o755).map(drop),
            fs.create(ROOT, dir, b"x", 0o644, BOTH).map(drop),
            fs.mknod(ROOT, dir, b"x", libc::S_IFIFO | 0o644, 0)
                .map(drop),
            fs.symlink(ROOT, dir, b"x", b"y").map(drop),
            fs.link(w.at("d/f"), dir, b"x").map(drop),
            fs.setattr(ROOT, dir, SetAttr::default()).map(drop),
        ]);
    }
    for (at, outcome) in refused.into_iter().enumerate() {
        assert!(
            matches!(outcome, Err(FsError::ReadOnly)),
            "{at}: {outcome:?}"
        );
    }
    // The name at the top is nobody's.
    assert!(fs.mkdir(ROOT, Ino::ROOT, b".dfs", 0o755).is_err());
    assert!(fs.rmdir(Ino::ROOT, b".dfs").is_err());
    assert_eq!(w.text(".dfs/snapshots/one/d/f"), "first");
    assert_eq!(fs.lseek(file, reading, 0, Seek::Hole).unwrap(), 5);
    fs.release(file, reading).unwrap();
    // What was can be copied by reference.
    let (from, to) = (
        w.at(".dfs/snapshots/one/d/f"),
        w.put(Ino::ROOT, "copy", "").0,
    );
    let source = fs.open(ROOT, from, READ).unwrap().fh;
    let target = fs.open(ROOT, to, BOTH).unwrap().fh;
    let copied = fs.copy_file_range(ROOT, (from, source, 0), (to, target, 0), 100);
    assert_eq!(copied.unwrap(), 5);
    fs.release(to, target).unwrap();
    assert_eq!(w.text("copy"), "first");
}

#[test]
fn numbers_stay_while_somebody_knows_them_and_no_longer() {
    const FILES: u64 = 10_000;
    let w = World::new();
    let dir = w.mkdir(Ino::ROOT, "d");
    for file in 0..FILES {
        let name = format!("{file}");
        let made =
            w.fs.mknod(ROOT, dir, name.as_bytes(), libc::S_IFIFO | 0o644, 0);
        w.fs.forget(made.unwrap().attr.ino, 1);
    }
    w.put(dir, "f", "first");
    w.take("one", "2027-01-15");
    w.take("two", "2027-01-16");
    let kept = w.at(".dfs/snapshots/one/d/f");
    let fh = w.fs.open(ROOT, kept, READ).unwrap().fh;
    assert_ne!(kept, w.at(".dfs/snapshots/two/d/f"), "each has its own");
    let idle = w.fs.counts();
    let mut numbers = BTreeSet::new();
    for name in ["one", "two"] {
        let dir = w.at(&format!(".dfs/snapshots/{name}/d"));
        let fh = w.fs.opendir(dir).unwrap().fh;
        let plus = w.fs.readdirplus(dir, fh, 0, &mut |entry| {
            if let Some(found) = entry.entry {
                assert_eq!(found.attr.ino, entry.ino);
                numbers.insert(entry.ino);
            }
            Reply::Taken
        });
        plus.unwrap();
        w.fs.releasedir(dir, fh).unwrap();
        w.fs.forget(dir, 1);
    }
    assert_eq!(numbers.len() as u64, 2 * (FILES + 1));
    assert!(w.fs.volume().pasts_known() as u64 > 2 * FILES);
    for number in &numbers {
        w.fs.getattr(*number).unwrap();
        w.fs.forget(*number, 1);
    }
    assert_eq!(w.fs.counts().inodes, idle.inodes);
    // What the kernel knows, and what it was told of just now.
    let left = w.fs.volume().pasts_known();
    assert!(left <= 4096 + idle.inodes, "{left} are remembered");
    for _ in 0..3 {
        w.list(w.at(".dfs/snapshots/two/d"));
    }
    assert_eq!(w.at(".dfs/snapshots/one/d/f"), kept);
    assert_eq!(read_all(&w.fs, kept, fh), b"first");
}

#[test]
fn who_is_in_a_snapshot_that_is_removed_is_told() {
    let w = World::new();
    let dir = w.mkdir(Ino::ROOT, "d");
    w.put(dir, "f", "first");
    w.take("one", "2027-01-15");
    let (dir, file) = (w.at(".dfs/snapshots/one/d"), w.at(".dfs/snapshots/one/d/f"));
    let link = w.at(".dfs/at/2027-01-15");
    let fh = w.fs.open(ROOT, file, READ).unwrap().fh;
    let opened = w.fs.opendir(dir).unwrap().fh;
    w.fs.volume().drop_snapshot(w.snapshot("one").op).unwrap();
    // Nothing has become empty.
    let listed = w.fs.readdir(dir, opened, 0, &mut |_| Reply::Taken);
    assert!(matches!(listed, Err(FsError::Stale(_))), "{listed:?}");
    let held = w.fs.volume().extents(file, 0..10);
    assert!(matches!(held, Err(VolumeError::NoInode(_))), "{held:?}");
    w.fs.releasedir(dir, opened).unwrap();
    for number in [dir, file, link] {
        let told = w.fs.getattr(number);
        assert!(matches!(told, Err(FsError::Stale(_))), "{told:?}");
    }
    assert!(matches!(w.fs.lookup(dir, b"f"), Err(FsError::NotFound)));
    assert!(w.fs.read(file, fh, 0, 10).is_err());
    assert!(matches!(
        w.find(".dfs/snapshots/one"),
        Err(FsError::NotFound)
    ));
    w.fs.release(file, fh).unwrap();
}

impl World {
    /// Returns all that is below a directory, by path.
    fn dump(&self, dir: Ino, path: &str, into: &mut BTreeMap<String, String>) {
        for (name, _) in self.list(dir) {
            let attr = self.fs.lookup(dir, name.as_bytes()).unwrap().attr;
            let path = format!("{path}/{name}");
            let content = match attr.kind {
                FileKind::File => {
                    let fh = self.fs.open(ROOT, attr.ino, READ).unwrap().fh;
                    let bytes = read_all(&self.fs, attr.ino, fh);
                    self.fs.release(attr.ino, fh).unwrap();
                    format!("{:?}", (bytes.len(), blake3::hash(&bytes)))
                }
                FileKind::Symlink => format!("{:?}", self.fs.readlink(attr.ino).unwrap()),
                _ => String::new(),
            };
            let xattr = self.fs.getxattr(attr.ino, b"user.x").ok();
            let (kind, mode, links, mtime) = (attr.kind, attr.mode, attr.nlink, attr.mtime);
            let what = format!("{kind:?} {mode:o} {links} {mtime:?} {content} {xattr:?}");
            into.insert(path.clone(), what);
            if attr.kind == FileKind::Dir {
                self.dump(attr.ino, &path, into);
            }
            self.fs.forget(attr.ino, 1);
        }
    }

    fn all(&self, path: &str) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        self.dump(self.at(path), "", &mut all);
        all
    }

    /// Changes anything below a directory.
    fn change(&self, top: Ino, rng: &Rng) {
        let fs = &self.fs;
        let mut dirs = vec![top];
        let mut at = top;
        while rng.below(2) == 0 {
            let below: Vec<_> = self.list(at).into_iter().map(|(_, ino)| ino).collect();
            let below: Vec<_> = below
                .into_iter()
                .filter(|ino| {
                    fs.getattr(*ino)
                        .is_ok_and(|of| of.attr.kind == FileKind::Dir)
                })
                .collect();
            let Some(next) = below.get(rng.below(below.len().max(1) as u64) as usize) else {
                break;
            };
            at = *next;
            dirs.push(at);
        }
        let other = dirs[rng.below(dirs.len() as u64) as usize];
        let name = |rng: &Rng| [b'a' + rng.below(4) as u8];
        let (one, two) = (name(rng), name(rng));
        let there = fs.lookup(at, &one).ok().map(|entry| entry.attr);
        let is_file = there.is_some_and(|attr| attr.kind == FileKind::File);
        self.disk.advance();
        // Whatever cannot be done is not.
        match rng.below(12) {
            0..=2 => drop(fs.mkdir(ROOT, at, &one, 0o700 + rng.below(8) as u32)),
            3..=5 if there.is_none() || is_file => {
                let len = [3, 70_000, 1 << 20][rng.below(3) as usize];
                let text: String = (0..len)
                    .map(|_| (b'a' + rng.below(26) as u8) as char)
                    .collect();
                self.put(at, str::from_utf8(&one).unwrap(), &text);
            }
            6 => drop(fs.rename((at, &one), (other, &two), RenameMode::Replace)),
            7 => drop(there.map(|there| fs.link(there.ino, other, &two))),
            8 => drop(fs.symlink(ROOT, at, &one, &two)),
            9 => drop(fs.unlink(at, &one).or_else(|_| fs.rmdir(at, &one))),
            10 => {
                let mode = SetAttr {
                    mode: Some(0o600 + rng.below(64) as u32),
                    ..SetAttr::default()
                };
                drop(there.map(|there| fs.setattr(ROOT, there.ino, mode)));
            }
            _ => {
                let set = |there: Attr| match rng.below(2) {
                    0 => fs.setxattr(ROOT, there.ino, b"user.x", &two, XattrMode::Either),
                    _ => fs.removexattr(there.ino, b"user.x"),
                };
                drop(there.map(set));
            }
        }
    }
}

#[test]
fn a_tree_is_again_what_it_was_and_nothing_beside_it_changes() {
    for seed in seeds() {
        let rng = Rng::from_seed(seed);
        let w = World::new();
        let (dir, beside) = (w.mkdir(Ino::ROOT, "d"), w.mkdir(Ino::ROOT, "e"));
        for _ in 0..30 {
            w.change(dir, &rng);
            w.change(beside, &rng);
        }
        w.take("one", "2027-01-15");
        let was = w.all("d");
        assert_eq!(w.all(".dfs/snapshots/one/d"), was, "seed {seed}");
        for round in 0..4 {
            for _ in 0..12 {
                w.change(dir, &rng);
                w.change(beside, &rng);
            }
            if round == 2 {
                let gone =
                    w.fs.rename((Ino::ROOT, b"d"), (beside, b"gone"), RenameMode::Replace);
                gone.unwrap();
            }
            w.fs.sync_all().unwrap();
            let others = w.all("e");
            let past = w.past("one");
            // What breaks off on the way is gone on with.
            let mut steps = rng.below(20);
            let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                w.fs.restore_to(&past, &[b"d".to_vec()], &mut |_| {
                    assert_ne!(steps, 0, "broken off");
                    steps -= 1;
                })
            }));
            if broken.is_err() {
                w.fs.restore_to(&past, &[b"d".to_vec()], &mut |_| {})
                    .unwrap();
            }
            assert_eq!(w.all("d"), was, "seed {seed}, round {round}");
            assert_eq!(w.all("e"), others, "seed {seed}, round {round}");
            w.fs.restore_to(&past, &[b"d".to_vec()], &mut |_| {})
                .unwrap();
            assert_eq!(w.all("d"), was, "seed {seed}, round {round}, again");
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("DFS_SEEDS").ok();
    0..asked.map_or(4, |asked| asked.parse().expect("a number"))
}

#[test]
fn what_was_moved_within_a_tree_is_moved_back_and_stays_what_it_is() {
    let w = World::new();
    let dir = w.mkdir(Ino::ROOT, "d");
    let sub = w.mkdir(dir, "sub");
    let (file, _) = w.put(sub, "f", "first");
    w.take("one", "2027-01-15");
    let new = w.mkdir(dir, "new");
    w.fs.rename((dir, b"sub"), (new, b"other"), RenameMode::Replace)
        .unwrap();
    w.fs.rename((sub, b"f"), (new, b"g"), RenameMode::Replace)
        .unwrap();
    let fh = w.fs.open(ROOT, file, READ).unwrap().fh;
    let past = w.past("one");
    let done =
        w.fs.restore_to(&past, &[b"d".to_vec()], &mut |_| {})
            .unwrap();
    let counts = (done.back, done.changed, done.removed, done.bytes);
    assert_eq!(counts, (2, 0, 1, 0));
    assert_eq!((w.at("d/sub"), w.at("d/sub/f")), (sub, file));
    assert_eq!(read_all(&w.fs, file, fh), b"first");
    let again = w.fs.restore_to(&past, &[b"d".to_vec()], &mut |_| {});
    assert_eq!(again.unwrap(), Brought::default());
    let missing = w.fs.restore_to(&past, &[b"e".to_vec()], &mut |_| {});
    assert!(matches!(missing, Err(FsError::NotFound)));
    let file = [b"d".to_vec(), b"sub".to_vec(), b"f".to_vec()];
    w.fs.unlink(sub, b"f").unwrap();
    w.fs.rmdir(dir, b"sub").unwrap();
    w.put(dir, "beside", "stays");
    let done = w.fs.restore_to(&past, &file, &mut |_| {}).unwrap();
    assert_eq!((done.back, done.removed, done.bytes), (2, 0, 5));
    assert_eq!(w.text("d/sub/f"), "first");
    assert_eq!(w.names("d"), set(&["beside", "sub"]));
}

#[test]
fn what_took_the_place_of_another_is_had_back_with_it() {
    const PAIRS: usize = 8;
    let w = World::new();
    let dir = w.mkdir(Ino::ROOT, "d");
    for pair in 0..PAIRS {
        w.put(dir, &format!("a{pair}"), &format!("a{pair}"));
        w.put(dir, &format!("b{pair}"), &format!("b{pair}"));
        for name in ["x", "y"] {
            let sub = w.mkdir(dir, &format!("{name}{pair}"));
            w.put(sub, "f", &format!("{name}{pair}"));
        }
    }
    w.take("one", "2027-01-15");
    let was = w.all("d");
    for pair in 0..PAIRS {
        let of = |name: &str| format!("{name}{pair}").into_bytes();
        let rename = |from: &[u8], to: &[u8]| {
            let moved = w.fs.rename((dir, from), (dir, to), RenameMode::Replace);
            moved.unwrap();
        };
        rename(&of("a"), &of("b"));
        w.fs.unlink(w.at(&format!("d/y{pair}")), b"f").unwrap();
        rename(&of("x"), &of("y"));
    }
    let past = w.past("one");
    w.fs.restore_to(&past, &[b"d".to_vec()], &mut |_| {})
        .unwrap();
    assert_eq!(w.all("d"), was);
}
