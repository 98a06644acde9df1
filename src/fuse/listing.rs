//! Listing a directory into a reply.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{Generation, ReplyDirectory, ReplyDirectoryPlus};

use super::answer::run;
use super::convert::{file_attr, file_type, no_entry};
use super::numbers::{Numbers, Shown};
use super::positions::Positions;
use crate::base::Ino;
use crate::fs::{DirEntry, FileHandle, Fs, FsError, Reply};

/// What is listed, and from where on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed<'a> {
    pub(super) fs: &'a Fs,
    pub(super) numbers: &'a Numbers,
    pub(super) dir: Ino,
    pub(super) fh: FileHandle,
    pub(super) offset: u64,
}

/// Answers readdir.
pub(super) fn readdir(of: Listed<'_>, mut reply: ReplyDirectory) {
    let outcome = run(of.fs, "readdir", |_| {
        let add = &mut |entry: DirEntry<'_>| {
            let number = of.numbers.shown(entry.ino, Shown::of_kind(entry.kind));
            let name = OsStr::from_bytes(entry.name);
            taken(!reply.add(number, entry.cookie, file_type(entry.kind), name))
        };
        let list = |fs: &Fs, from, add: &mut Add<'_>| fs.readdir(of.dir, of.fh, from, add);
        list_from(of, list, add)
    });
    match outcome {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Answers readdirplus.
pub(super) fn readdirplus(of: Listed<'_>, mut reply: ReplyDirectoryPlus) {
    let outcome = run(of.fs, "readdirplus", |_| {
        let add = &mut |found: DirEntry<'_>| {
            let name = OsStr::from_bytes(found.name);
            let Some(entry) = found.entry else {
                // `.` and `..`: the kernel takes their number and kind and nothing else.
                let mut attr = no_entry();
                attr.ino = of.numbers.shown(found.ino, Shown::of_kind(found.kind));
                attr.kind = file_type(found.kind);
                let ttl = Duration::ZERO;
                return taken(!reply.add(attr.ino, found.cookie, name, &ttl, &attr, Generation(0)));
            };
            let ttl = entry.attr_ttl.min(entry.entry_ttl);
            let (number, generation) = of.numbers.looked_up(&entry, Shown::of(&entry.attr));
            let attr = file_attr(number, &entry.attr);
            let generation = Generation(generation);
            let is_full = reply.add(number, found.cookie, name, &ttl, &attr, generation);
            if is_full {
                of.numbers.forget(number, 1);
            }
            taken(!is_full)
        };
        let list = |fs: &Fs, from, add: &mut Add<'_>| fs.readdirplus(of.dir, of.fh, from, add);
        list_from(of, list, add)
    });
    match outcome {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Has here what a reply would hold, and as much as the largest one: who lists then waits for nobody.
pub(super) fn warm(of: Listed<'_>, is_plus: bool) -> Result<(), FsError> {
    let mut count = 0;
    let add = &mut |found: DirEntry<'_>| {
        count += 1;
        if count > WARM_MAX {
            return Reply::Full;
        }
        if let Some(entry) = found.entry {
            of.fs.forget(entry.attr.ino, 1);
        }
        Reply::Taken
    };
    let list = |fs: &Fs, from, add: &mut Add<'_>| match is_plus {
        true => fs.readdirplus(of.dir, of.fh, from, add),
        false => fs.readdir(of.dir, of.fh, from, add),
    };
    list_from(of, list, add)
}

/// Entries of the largest reply, of names of usual length.
const WARM_MAX: usize = 512;

type Add<'a> = dyn FnMut(DirEntry<'_>) -> Reply + 'a;

fn taken(is_taken: bool) -> Reply {
    match is_taken {
        true => Reply::Taken,
        false => Reply::Full,
    }
}

/// Lists by `list`; with short positions, where those are asked for.
fn list_from(
    of: Listed<'_>,
    list: impl FnOnce(&Fs, u64, &mut Add<'_>) -> Result<(), FsError>,
    add: &mut Add<'_>,
) -> Result<(), FsError> {
    let Some(positions) = of.numbers.positions() else {
        return list(of.fs, of.offset, add);
    };
    let Some(from) = positions.long(of.dir, of.offset) else {
        return Err(FsError::Invalid {
            what: "a position in a directory",
        });
    };
    let mut behind = Behind {
        positions,
        dir: of.dir,
        waits: None,
        name: Vec::new(),
        add,
    };
    let mut is_full = false;
    let listed = list(of.fs, from, &mut |entry| {
        let reply = behind.add(of.fs, Some(entry));
        is_full = reply == Reply::Full;
        reply
    });
    match (&listed, is_full) {
        (Ok(()), false) => drop(behind.add(of.fs, None)),
        _ => behind.give_up(of.fs),
    }
    listed
}

/// Keeps each entry back until it is known what follows it: its short position depends on that.
struct Behind<'a, 'b> {
    positions: &'a Positions,
    dir: Ino,
    /// What `fs` takes for an entry that is in the reply; its name is in `name`.
    waits: Option<DirEntry<'static>>,
    name: Vec<u8>,
    add: &'a mut Add<'b>,
}

impl Behind<'_, '_> {
    /// Adds the entry that waits, and lets the next one wait.
    fn add(&mut self, fs: &Fs, next: Option<DirEntry<'_>>) -> Reply {
        if let Some(waits) = self.waits {
            let next = next.as_ref().map(|next| next.cookie);
            let entry = DirEntry {
                name: &self.name,
                cookie: self.positions.short(self.dir, waits.cookie, next),
                ..waits
            };
            if (self.add)(entry) == Reply::Full {
                self.give_up(fs);
                return Reply::Full;
            }
        }
        self.name.clear();
        self.waits = next.map(|next| {
            self.name.extend_from_slice(next.name);
            DirEntry {
                ino: next.ino,
                kind: next.kind,
                name: &[],
                cookie: next.cookie,
                entry: next.entry,
            }
        });
        Reply::Taken
    }

    /// Takes back the lookup of an entry that is in no reply.
    fn give_up(&mut self, fs: &Fs) {
        if let Some(entry) = self.waits.take().and_then(|waits| waits.entry) {
            fs.forget(entry.attr.ino, 1);
        }
    }
}
