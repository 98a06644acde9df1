//! Files that are open here while others write them, too: no program finds other bytes than those that
//! it wrote or could have read.

use std::sync::Arc;

use dfs::base::task::Pool;
use dfs::base::{Clock, Ino, Rng};
use dfs::data::Data;
use dfs::fs::{
    FileHandle, Fs, FsConfig, FsError, Invalidation, OpenFlags, RenameMode, SetAttr, WriteFlags,
    XattrMode,
};
use dfs::replica::{Replica, ReplicaConfig};
use dfs::volume::{OpKind, Piece, Write};

use super::named::{BOTH, ROOT};
use super::room::read_all;
use crate::volume_laws::cluster::{Device, KEYS, agree, cluster, inline, sync};

const ANNA: &str = " (conflict, anna, 2026-01-02)";

/// A handle of a program.
pub(super) type Open = (Ino, FileHandle);

/// A device with a mount, whose kernel asks for every name anew.
pub(super) struct Mounted<'a> {
    device: &'a Device,
    pub(super) fs: Fs,
}

impl<'a> Mounted<'a> {
    pub(super) fn new(device: &'a Device) -> Self {
        let clock: Arc<dyn Clock> = device.clock.clone();
        let replica = Replica::new(
            device.store.clone(),
            None,
            ReplicaConfig::default(),
            Arc::clone(&clock),
            Pool::inline(),
        );
        let data = Data::new(
            Arc::clone(&KEYS),
            replica.unwrap(),
            Pool::inline(),
            Arc::clone(&clock),
            4 << 20,
        );
        let volume = Arc::clone(&device.volume);
        let fs = Fs::new(volume, data, clock, FsConfig::default());
        Self { device, fs }
    }

    fn number(&self, name: &str) -> Ino {
        self.fs.lookup(Ino::ROOT, name.as_bytes()).unwrap().attr.ino
    }

    fn open_as(&self, name: &str, flags: OpenFlags) -> Open {
        self.open_number(self.number(name), flags)
    }

    fn open_number(&self, number: Ino, flags: OpenFlags) -> Open {
        (number, self.fs.open(ROOT, number, flags).unwrap().fh)
    }

    pub(super) fn open(&self, name: &str) -> Open {
        self.open_as(name, BOTH)
    }

    fn write(&self, file: Open, at: u64, text: &str) {
        let written = self
            .fs
            .write(file.0, file.1, at, text.as_bytes(), WriteFlags::default());
        assert_eq!(written.unwrap(), text.len());
    }

    /// Writes so that it is an op.
    fn put(&self, file: Open, at: u64, text: &str) {
        self.device.later();
        self.write(file, at, text);
        self.fs.fsync(file.0, file.1).unwrap();
    }

    fn text(&self, file: Open) -> String {
        String::from_utf8(read_all(&self.fs, file.0, file.1)).unwrap()
    }

    /// Returns what a program finds that opens a name.
    fn by_name(&self, name: &str) -> String {
        let file = self.open_as(
            name,
            OpenFlags {
                read: true,
                ..OpenFlags::default()
            },
        );
        let text = self.text(file);
        self.close(file);
        text
    }

    pub(super) fn close(&self, file: Open) {
        self.fs.flush(file.0, file.1).unwrap();
        self.fs.release(file.0, file.1).unwrap();
    }

    /// Takes what another device has, and tells the kernel, which takes it in.
    fn pull(&self, from: &Device) -> Vec<Invalidation> {
        let merged = self.device.pull(from, usize::MAX);
        let mut told = self.fs.apply_changes(&merged.changes);
        told.extend(self.settle());
        told
    }

    /// Lets the kernel take in what there is to take in.
    fn settle(&self) -> Vec<Invalidation> {
        let mut told = Vec::new();
        loop {
            let some = self.fs.tick();
            if some.is_empty() {
                return told;
            }
            for one in &some {
                if let Invalidation::Content(ino) = one {
                    self.fs.pages_dropped(*ino);
                }
            }
            told.extend(some);
        }
    }

    /// Exchanges all with other devices.
    fn meet(&self, others: &[&Device]) {
        for _ in 0..2 {
            self.device.publish();
            for other in others {
                other.publish();
            }
            for other in others {
                self.pull(other);
            }
            for other in others {
                other.pull(self.device, usize::MAX);
            }
        }
        let all = others.iter().copied().chain([self.device]);
        let newest = all.clone().map(|device| device.clock.monotonic()).max();
        for device in all {
            let behind = newest.unwrap() - device.clock.monotonic();
            device.clock.advance(behind);
        }
    }
}

/// Returns two devices that have a file, which has been written to by a program of the first and by
/// the second, later; they have not met.
fn crossed() -> Vec<Device> {
    let devices = cluster(2);
    devices[0].put("f", "base....");
    devices[0].publish();
    devices[1].pull(&devices[0], usize::MAX);
    devices
}

#[test]
fn a_file_that_was_written_while_open_stays_with_what_was_written() {
    let devices = crossed();
    let (a, b) = (Mounted::new(&devices[0]), &devices[1]);
    let reader = a.open_as(
        "f",
        OpenFlags {
            read: true,
            ..OpenFlags::default()
        },
    );
    let file = a.open("f");
    a.put(file, 0, "anna");
    b.later();
    b.later();
    b.put("f", "ben's work");
    a.meet(&[b]);
    let aside = format!("f{ANNA}");
    // Who has it open, reader or not, goes on with the one; who opens it now has the other.
    assert_eq!(a.text(file), "anna....");
    assert_eq!(a.text(reader), "anna....");
    assert_eq!(a.by_name("f"), "ben's work");
    assert_eq!(a.by_name(&aside), "anna....");
    assert_eq!(a.number(&aside), file.0);
    assert_ne!(a.number("f"), file.0);
    let attr = a.fs.getattr(file.0).unwrap().attr;
    assert_eq!(attr.size, 8);
    // All of it goes to one file.
    a.put(file, 4, "more");
    a.write(file, 8, "unwritten");
    assert_eq!(a.text(file), "annamoreunwritten");
    assert_eq!(a.by_name(&aside), "annamoreunwritten");
    a.fs.fsync(file.0, file.1).unwrap();
    a.meet(&[b]);
    assert_eq!(b.text(&aside), "annamoreunwritten");
    assert_eq!(b.text("f"), "ben's work");
    assert_eq!(b.list("").len(), 2);
    // What is set by the handle is set there, too.
    let set = SetAttr {
        mode: Some(0o600),
        size: Some(4),
        fh: Some(file.1),
        ..SetAttr::default()
    };
    a.fs.setattr(ROOT, file.0, set).unwrap();
    let value = b"value";
    a.fs.setxattr(ROOT, file.0, b"user.tag", value, XattrMode::Either)
        .unwrap();
    a.fs.fsync(file.0, file.1).unwrap();
    assert_eq!(&*a.fs.getxattr(file.0, b"user.tag").unwrap(), value);
    a.meet(&[b]);
    assert_eq!(b.text(&aside), "anna");
    assert_eq!(b.at(&aside).mode, 0o600);
    assert_eq!(b.at(&aside).xattrs, 1);
    assert_eq!((b.at("f").mode, b.at("f").xattrs), (0o644, 0));
    agree(&devices);
}

#[test]
fn who_opens_the_name_and_loses_as_well_has_a_file_of_its_own() {
    let devices = cluster(2);
    let (a, b) = (Mounted::new(&devices[0]), &devices[1]);
    devices[0].put("f", "base");
    a.meet(&[b]);
    let mut open = Vec::new();
    for round in 0..4 {
        let file = a.open("f");
        assert!(
            open.iter()
                .all(|(other, _): &(Open, String)| other.0 != file.0)
        );
        a.put(file, 0, &format!("a{round}"));
        for _ in 0..10 {
            b.later();
        }
        b.put("f", &format!("ben {round}"));
        a.meet(&[b]);
        open.push((file, String::new()));
        for (round, (file, added)) in open.iter_mut().enumerate() {
            let before = a.text(*file);
            assert!(before.starts_with(&format!("a{round}")), "{before}");
            assert!(before.ends_with(&*added), "{before}");
            added.push('+');
            a.put(*file, before.len() as u64, "+");
        }
        assert_eq!(a.by_name("f"), format!("ben {round}"));
    }
    a.meet(&[b]);
    assert_eq!(b.list("").len(), 5);
    let files: Vec<String> = b.files().into_values().collect();
    for (file, _) in &open {
        assert!(files.contains(&a.text(*file)), "{files:?}");
    }
    for (file, _) in open {
        a.close(file);
    }
    a.settle();
    let names = b.list("");
    for name in names {
        assert_eq!(a.number(&name), b.at(&name).ino, "{name}");
        assert_eq!(a.by_name(&name), b.text(&name));
    }
    agree(&devices);
}

#[test]
fn numbers_are_those_of_all_members_again_when_nothing_is_open() {
    let devices = crossed();
    let (a, b) = (Mounted::new(&devices[0]), &devices[1]);
    let aside = format!("f{ANNA}");
    let file = a.open("f");
    a.put(file, 0, "anna");
    b.later();
    b.later();
    b.put("f", "ben's");
    a.meet(&[b]);
    let other = a.open("f");
    a.close(file);
    a.settle();
    // As long as either is open both keep theirs.
    assert_eq!((a.number(&aside), a.number("f")), (file.0, other.0));
    a.close(other);
    let told = a.fs.tick();
    // Names first: who asks for one file never gets the other.
    let entry = |name: &str| Invalidation::Entry {
        parent: Ino::ROOT,
        name: name.as_bytes().to_vec(),
    };
    assert_eq!(told, [entry(&aside), Invalidation::Content(file.0)]);
    assert_eq!(a.number(&aside), b.at(&aside).ino);
    assert_eq!(a.by_name("f"), "ben's");
    a.fs.pages_dropped(file.0);
    let told = a.settle();
    assert_eq!(told, [entry("f"), Invalidation::Content(file.0)]);
    assert_eq!(a.number("f"), b.at("f").ino);
    for name in ["f", &aside] {
        assert_eq!(a.by_name(name), b.text(name));
        assert_eq!(a.number(name), b.at(name).ino);
    }
    // What the kernel still has under the number that was in between is the file of the name.
    let late = a.open_number(other.0, BOTH);
    a.put(late, 0, "late");
    assert_eq!(a.by_name("f"), "lates");
    a.close(late);
    let told = a.fs.tick();
    assert!(told.contains(&Invalidation::Content(file.0)), "{told:?}");
    a.meet(&[b]);
    assert_eq!(b.text("f"), "lates");
    agree(&devices);
}

#[test]
fn a_name_that_is_opened_while_its_number_is_to_come_back_keeps_it_from_that() {
    let devices = crossed();
    let (a, b) = (Mounted::new(&devices[0]), &devices[1]);
    let aside = format!("f{ANNA}");
    let file = a.open("f");
    a.put(file, 0, "anna");
    b.later();
    b.later();
    b.put("f", "ben's");
    a.meet(&[b]);
    a.close(file);
    let _ = a.fs.tick();
    // By a name that the kernel has not dropped yet.
    let again = a.open_number(file.0, BOTH);
    a.settle();
    a.fs.pages_dropped(file.0);
    assert_eq!(a.text(again), "anna....");
    a.put(again, 0, "ANNA");
    assert_eq!(a.by_name(&aside), "ANNA....");
    assert_eq!(a.by_name("f"), "ben's");
    a.close(again);
    a.settle();
    for name in ["f", &aside] {
        assert_eq!(a.number(name), b.at(name).ino);
    }
}

#[test]
fn the_kernel_forgets_numbers_and_gets_those_of_all_members() {
    let devices = crossed();
    let (a, b) = (Mounted::new(&devices[0]), &devices[1]);
    let aside = format!("f{ANNA}");
    let file = a.open("f");
    a.put(file, 0, "anna");
    b.later();
    b.later();
    b.put("f", "ben's");
    a.meet(&[b]);
    let local = a.number("f");
    a.fs.forget(local, u64::MAX);
    assert_ne!(a.number("f"), file.0);
    assert_eq!(a.by_name("f"), "ben's");
    a.fs.release(file.0, file.1).unwrap();
    a.fs.forget(file.0, u64::MAX);
    a.fs.forget(a.number("f"), u64::MAX);
    assert_eq!(a.number("f"), b.at("f").ino);
    assert_eq!(a.number(&aside), b.at(&aside).ino);
}

#[test]
fn what_is_unwritten_is_never_shown_over_what_others_wrote_meanwhile() {
    let devices = crossed();
    let (a, b) = (Mounted::new(&devices[0]), &devices[1]);
    let file = a.open("f");
    a.write(file, 0, "anna");
    b.later();
    b.put("f", "ben's work");
    b.publish();
    // The kernel reads before it is told.
    devices[0].later();
    let merged = devices[0].pull(b, usize::MAX);
    assert_eq!(a.text(file), "anna....");
    a.fs.apply_changes(&merged.changes);
    assert_eq!(a.text(file), "anna....");
    a.settle();
    a.meet(&[b]);
    assert_eq!(b.text("f"), "anna....");
    let contents: Vec<String> = b.files().into_values().collect();
    assert!(contents.contains(&"ben's work".to_owned()));
    agree(&devices);
}

#[test]
fn what_was_appended_alone_follows_where_appends_are_joined() {
    let devices = crossed();
    let (a, b) = (Mounted::new(&devices[0]), &devices[1]);
    let log = a.open_as(
        "f",
        OpenFlags {
            append: true,
            ..BOTH
        },
    );
    a.put(log, 0, "a1 ");
    b.later();
    b.later();
    b.append("f", "b1 ");
    a.meet(&[b]);
    assert_eq!(a.number("f"), log.0);
    assert_eq!(a.text(log), "base....a1 b1 ");
    a.put(log, 0, "a2 ");
    assert_eq!(a.text(log), "base....a1 b1 a2 ");
    a.meet(&[b]);
    assert_eq!(b.text("f"), "base....a1 b1 a2 ");
    assert_eq!(b.list("").len(), 1);
}

#[test]
fn who_empties_a_file_and_appends_to_it_at_once_meets_who_appends() {
    for earlier in [true, false] {
        let devices = crossed();
        let (a, b) = (Mounted::new(&devices[0]), &devices[1]);
        let append = true;
        let log = a.open_as("f", OpenFlags { append, ..BOTH });
        let other = |n: u32| {
            (0..n).for_each(|_| b.later());
            b.append("f", "b1 ");
        };
        if earlier {
            other(1);
        }
        a.device.later();
        a.write(log, 0, "a1 ");
        let size = Some(0);
        let emptied = SetAttr {
            size,
            fh: Some(log.1),
            ..SetAttr::default()
        };
        a.fs.setattr(ROOT, log.0, emptied).unwrap();
        a.write(log, 0, "a2 ");
        assert_eq!(a.text(log), "a2 ");
        a.put(log, 0, "a3 ");
        assert_eq!(a.text(log), "a2 a3 ");
        if !earlier {
            other(9);
        }
        a.meet(&[b]);
        let all = if earlier { "b1 a2 a3 " } else { "a2 a3 b1 " };
        assert_eq!(a.text(log), all);
        assert_eq!((b.text("f"), b.list("").len()), (all.to_owned(), 1));
        agree(&devices);
    }
}

#[test]
fn what_others_built_on_it_is_read_by_who_wrote_it() {
    let devices = crossed();
    let (a, b) = (Mounted::new(&devices[0]), &devices[1]);
    let file = a.open("f");
    a.put(file, 0, "anna");
    a.meet(&[b]);
    b.put("f", "anna and ben");
    a.meet(&[b]);
    assert_eq!(a.number("f"), file.0);
    assert_eq!(a.text(file), "anna and ben");
    // In the conflict file as well.
    a.put(file, 0, "ANNA");
    b.later();
    b.later();
    b.put("f", "ben alone");
    a.meet(&[b]);
    let aside = format!("f{ANNA}");
    assert_eq!(a.text(file), "ANNA and ben");
    b.put(&aside, "ANNA and ben and carl");
    a.meet(&[b]);
    assert_eq!(a.text(file), "ANNA and ben and carl");
    a.put(file, 0, "all.");
    a.meet(&[b]);
    assert_eq!(b.text(&aside), "all. and ben and carl");
    assert_eq!(b.list("").len(), 2);
    agree(&devices);
}

#[test]
fn names_are_moved_and_removed_while_what_they_stand_for_is_open() {
    let devices = crossed();
    let (a, b) = (Mounted::new(&devices[0]), &devices[1]);
    devices[0].link("f", "g");
    a.meet(&[b]);
    let file = a.open("f");
    a.put(file, 0, "anna");
    b.later();
    b.later();
    b.put("f", "ben's");
    let told = {
        devices[0].publish();
        b.publish();
        a.pull(b)
    };
    // Both names are looked up anew.
    for name in ["f", "g"] {
        let name = name.as_bytes().to_vec();
        let entry = Invalidation::Entry {
            parent: Ino::ROOT,
            name,
        };
        assert!(told.contains(&entry), "{told:?}");
    }
    let aside = format!("f{ANNA}");
    assert_eq!(a.number("f"), a.number("g"));
    assert_eq!(a.by_name("g"), "ben's");
    // Here.
    let rename = |from: &str, to: &str, mode| {
        let (from, to) = (from.as_bytes(), to.as_bytes());
        a.fs.rename((Ino::ROOT, from), (Ino::ROOT, to), mode)
            .unwrap();
    };
    rename(&aside, "mine", RenameMode::Replace);
    rename("f", "theirs", RenameMode::Replace);
    a.put(file, 4, "more");
    assert_eq!(
        (a.by_name("mine"), a.text(file)),
        ("annamore".into(), "annamore".into())
    );
    assert_eq!(a.by_name("theirs"), "ben's");
    // And there.
    a.meet(&[b]);
    b.rename("mine", "moved", false);
    b.rename("theirs", "f", false);
    a.meet(&[b]);
    a.put(file, 8, "again");
    assert_eq!(a.by_name("moved"), "annamoreagain");
    assert_eq!(a.by_name("f"), "ben's");
    // Over each other.
    rename("moved", "f", RenameMode::Replace);
    assert_eq!(a.by_name("f"), "annamoreagain");
    assert_eq!(a.by_name("g"), "ben's");
    assert_eq!(a.number("f"), file.0);
    // Removed here it is changed in private.
    a.meet(&[b]);
    a.fs.unlink(Ino::ROOT, b"f").unwrap();
    a.put(file, 0, "gone");
    assert_eq!(a.text(file), "gonemoreagain");
    a.meet(&[b]);
    assert_eq!(b.list(""), ["g"]);
    assert_eq!(a.text(file), "gonemoreagain");
    a.close(file);
    a.settle();
    a.meet(&[b]);
    assert_eq!(a.number("g"), b.at("g").ino);
    assert_eq!(b.text("g"), "ben's");
    agree(&devices);
}

#[test]
fn what_is_written_to_a_file_that_others_removed_brings_it_back() {
    for is_committed in [false, true] {
        let devices = crossed();
        let (a, b) = (Mounted::new(&devices[0]), &devices[1]);
        for name in ["f", "taken", "unwritten", "closed"] {
            devices[0].put(name, "base....");
        }
        devices[0].mkdir("dir");
        // More pieces than a few ops take.
        let deep = devices[0].make("dir/deep", dfs::volume::FileKind::File);
        a.meet(&[b]);
        let long = a.open_number(deep, BOTH);
        let page = "p".repeat(4096);
        for piece in 0..600 {
            a.write(long, piece * 8192, &page);
        }
        a.fs.fsync(long.0, long.1).unwrap();
        let mut whole = a.text(long);
        let file = a.open("f");
        let [taken, unwritten, closed] = ["taken", "unwritten", "closed"].map(|name| a.open(name));
        let value = b"value";
        a.fs.setxattr(ROOT, file.0, b"user.tag", value, XattrMode::Either)
            .unwrap();
        a.meet(&[b]);
        a.write(unwritten, 0, "anna");
        for name in ["f", "taken", "unwritten", "closed", "dir/deep"] {
            b.unlink(name);
        }
        b.rmdir("dir");
        b.put("taken", "another");
        b.publish();
        a.pull(b);
        if is_committed {
            let merged = devices[0].commit();
            a.fs.apply_changes(&merged.changes);
            b.pull(&devices[0], usize::MAX);
        }
        for file in [file, taken, closed, long] {
            assert_eq!(a.fs.getattr(file.0).unwrap().attr.nlink, 0);
        }
        assert_eq!(a.text(file), "base....");
        let set = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        a.fs.setattr(ROOT, file.0, set).unwrap();
        a.put(file, 4, "anna");
        a.put(taken, 8, "more");
        a.put(long, 1 << 30, "end");
        a.settle();
        // The one that was not written stays removed.
        a.close(closed);
        let beside = format!("taken{ANNA}");
        assert_eq!(a.by_name("f"), "baseanna");
        assert_eq!(a.number("f"), file.0);
        assert_eq!(a.by_name(&beside), "base....more");
        assert_eq!(a.by_name("taken"), "another");
        a.fs.fsync(unwritten.0, unwritten.1).unwrap();
        assert_eq!(a.by_name("unwritten"), "anna....");
        a.put(file, 0, "ANNA");
        a.meet(&[b]);
        assert_eq!(b.text("f"), "ANNAanna");
        let there = b.at("f");
        assert_eq!((there.mode, there.xattrs), (0o600, 1));
        assert_eq!(b.text(&beside), "base....more");
        assert_eq!(b.text("unwritten"), "anna....");
        let deep = b.find("deep").or_else(|| b.find("dir/deep")).unwrap();
        assert_eq!(deep.size, (1 << 30) + 3);
        whole.truncate(2 << 20);
        let start = b.volume.extents(deep.ino, 0..2 << 20).unwrap();
        assert_eq!(
            shown(&start, 2 << 20),
            whole.replace('\0', "."),
            "the pieces"
        );
        assert!(!b.list("").contains(&"closed".to_owned()));
        // What others write then is read.
        b.put("f", "built on it");
        a.meet(&[b]);
        assert_eq!(a.text(file), "built on it");
        for file in [file, taken, unwritten, long] {
            a.close(file);
        }
        a.settle();
        for name in ["f", "taken", "unwritten", &beside] {
            assert_eq!(a.number(name), b.at(name).ino);
            assert_eq!(a.by_name(name), b.text(name));
        }
        for number in [file, taken, unwritten, closed, long] {
            a.fs.forget(number.0, u64::MAX);
        }
        a.meet(&[b]);
        agree(&devices);
    }
}

fn shown(extents: &[dfs::volume::Extent], size: u64) -> String {
    let bytes = crate::volume_laws::cluster::render(extents, size);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn what_was_removed_here_is_changed_in_private_also_when_the_file_is_back() {
    let devices = crossed();
    let (a, b) = (Mounted::new(&devices[0]), &devices[1]);
    let file = a.open("f");
    a.fs.unlink(Ino::ROOT, b"f").unwrap();
    a.put(file, 4, "anna");
    let value = b"value";
    a.fs.setxattr(ROOT, file.0, b"user.tag", value, XattrMode::Either)
        .unwrap();
    b.later();
    b.later();
    b.put("f", "ben's work");
    a.meet(&[b]);
    // Who had it open goes on with what it wrote, and who opens it now has the other.
    assert_eq!(a.text(file), "baseanna");
    assert_eq!(a.by_name("f"), "ben's work");
    assert_ne!(a.number("f"), file.0);
    a.put(file, 0, "more");
    a.write(file, 8, "unwritten");
    assert_eq!(a.text(file), "moreannaunwritten");
    assert_eq!(&*a.fs.getxattr(file.0, b"user.tag").unwrap(), value);
    let attr = a.fs.getattr(file.0).unwrap().attr;
    assert_eq!((attr.nlink, attr.size), (0, 17));
    let other = a.open("f");
    a.put(other, 0, "BEN");
    assert_eq!(a.fs.listxattr(ROOT, other.0).unwrap(), b"");
    a.meet(&[b]);
    assert_eq!(
        (a.by_name("f"), b.text("f")),
        ("BEN's work".into(), "BEN's work".into())
    );
    assert_eq!(a.text(file), "moreannaunwritten");
    a.close(file);
    a.close(other);
    a.settle();
    assert_eq!(a.number("f"), b.at("f").ino);
    a.fs.forget(file.0, u64::MAX);
    a.fs.forget(other.0, u64::MAX);
    a.meet(&[b]);
    assert_eq!(b.list(""), ["f"]);
    agree(&devices);
}

/// Each program writes a part of the file that nobody else writes: it always finds what it wrote last.
#[test]
fn no_program_finds_other_bytes_than_its_own_whoever_meets_when() {
    for seed in seeds() {
        let dice = Rng::from_seed(seed);
        let devices = cluster(3);
        let (a, others) = (Mounted::new(&devices[0]), [&devices[1], &devices[2]]);
        let names = ["f", "g"];
        for name in names {
            devices[0].put(name, &".".repeat(40));
        }
        a.meet(&others);
        let mut open: Vec<(Open, u64, String)> = Vec::new();
        for step in 0..60 {
            match dice.below(10) {
                0 | 1 if open.len() < 8 => {
                    let name = names[dice.below(2) as usize];
                    if devices[0].find(name).is_none() {
                        devices[0].put(name, &".".repeat(40));
                    }
                    let file = a.open(name);
                    let at = (0..8).map(|part| part * 4);
                    let taken = |at: &u64| open.iter().all(|(_, taken, _)| taken != at);
                    let at = at.into_iter().find(taken).unwrap();
                    open.push((file, at, a.text(file)[at as usize..][..4].to_owned()));
                }
                2 if !open.is_empty() => {
                    let (file, ..) = open.swap_remove(dice.below(open.len() as u64) as usize);
                    a.close(file);
                    a.settle();
                }
                3..6 if !open.is_empty() => {
                    let at = dice.below(open.len() as u64) as usize;
                    let (file, at, text) = &mut open[at];
                    *text = format!("{step:04}");
                    a.write(*file, *at, text);
                    if dice.below(2) == 0 {
                        devices[0].later();
                        a.fs.fsync(file.0, file.1).unwrap();
                    }
                }
                6 | 7 => {
                    // Behind what the programs write.
                    let by = others[dice.below(2) as usize];
                    let all: Vec<String> = by.list("");
                    if all.is_empty() {
                        continue;
                    }
                    if dice.below(6) == 0 {
                        by.unlink(&all[dice.below(all.len() as u64) as usize]);
                        continue;
                    }
                    let inode = by.at(&all[dice.below(all.len() as u64) as usize]);
                    for _ in 0..dice.below(3) {
                        by.later();
                    }
                    let time = by.clock.wall();
                    by.apply(OpKind::Write(Write {
                        ino: inode.ino,
                        base: inode.version,
                        size: 40,
                        pieces: vec![Piece {
                            ..inline(32, &format!("{step:08}"))
                        }],
                        mtime: time,
                        ctime: time,
                        mode: None,
                        empties: false,
                    }));
                }
                8 => {
                    let by = others[dice.below(2) as usize];
                    a.device.publish();
                    by.publish();
                    by.pull(a.device, usize::MAX);
                    a.pull(by);
                }
                _ => {
                    others[0].publish();
                    others[1].publish();
                    others[0].pull(others[1], usize::MAX);
                    others[1].pull(others[0], usize::MAX);
                    let merged = devices[0].commit();
                    a.fs.apply_changes(&merged.changes);
                    a.settle();
                }
            }
            for (file, at, text) in &open {
                let found = a.text(*file);
                assert_eq!(
                    &found[*at as usize..][..4],
                    text,
                    "seed {seed}, step {step}"
                );
            }
        }
        for (file, ..) in open {
            a.close(file);
        }
        a.settle();
        a.meet(&others);
        a.meet(&others);
        for name in devices[1].list("") {
            assert_eq!(a.number(&name), devices[1].at(&name).ino, "seed {seed}");
            assert_eq!(a.by_name(&name), devices[1].text(&name), "seed {seed}");
        }
        agree(&devices);
    }
}

fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("DFS_SEEDS").ok();
    0..asked.map_or(15, |asked| asked.parse().expect("a number"))
}

#[test]
fn what_is_set_aside_can_be_read_and_removed_and_not_changed() {
    let devices = cluster(3);
    for _ in 0..2 {
        devices[0].commit();
        sync(&devices);
    }
    let m = Mounted::new(&devices[2]);
    devices[2].mkdir("d");
    devices[2].put("d/f", "not taken");
    assert!(m.fs.lookup(Ino::ROOT, b".dfs").is_err());
    devices[0].roll.end(devices[2].admission);
    devices[0].commit();
    let told = m.pull(&devices[0]);
    let entry = |parent, name: &[u8]| Invalidation::Entry {
        parent,
        name: name.to_vec(),
    };
    assert!(told.contains(&entry(Ino::ROOT, b".dfs")), "{told:?}");
    let mut dir = Ino::ROOT;
    for name in [&b".dfs"[..], b"aside", b"d"] {
        let above = dir;
        dir = m.fs.lookup(dir, name).unwrap().attr.ino;
        assert_eq!(m.fs.lookup(dir, b"..").unwrap().attr.ino, above);
    }
    let attr = m.fs.lookup(dir, b"f").unwrap().attr;
    let read = OpenFlags {
        read: true,
        ..OpenFlags::default()
    };
    let file = m.open_number(attr.ino, read);
    assert_eq!((m.text(file), attr.size), ("not taken".to_owned(), 9));
    m.close(file);

    let refuses =
        |done: Result<(), FsError>| assert!(matches!(done, Err(FsError::ReadOnly)), "{done:?}");
    refuses(m.fs.open(ROOT, attr.ino, BOTH).map(drop));
    refuses(m.fs.mkdir(ROOT, dir, b"x", 0o755).map(drop));
    refuses(m.fs.setattr(ROOT, attr.ino, SetAttr::default()).map(drop));
    refuses(m.fs.link(attr.ino, Ino::ROOT, b"x").map(drop));
    for (from, to) in [((dir, &b"f"[..]), Ino::ROOT), ((Ino::ROOT, b"x"), dir)] {
        refuses(m.fs.rename(from, (to, b"y"), RenameMode::Replace));
    }
    let set =
        m.fs.setxattr(ROOT, attr.ino, b"user.x", b"y", XattrMode::Either);
    refuses(set);
    let aside = m.fs.lookup(dir, b"..").unwrap().attr.ino;
    assert!(matches!(m.fs.rmdir(aside, b"d"), Err(FsError::NotEmpty)));
    m.fs.unlink(dir, b"f").unwrap();
    m.fs.rmdir(aside, b"d").unwrap();
    assert!(matches!(m.fs.lookup(aside, b"d"), Err(FsError::NotFound)));
    assert_eq!(devices[2].volume.aside(), 0);
}
