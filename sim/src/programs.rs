//! What programs do on a host: random calls of every kind, with files that stay open.

mod own;

use std::collections::BTreeSet;
use std::sync::Arc;

use dfs::base::time::sleep;
use dfs::base::{Ino, Rng, Timespec};
use dfs::daemon::peer::Member;
use dfs::fs::{
    Caller, Fallocate, FileHandle, Fs, FsError, OpenFlags, ReadPlan, RenameMode, SetAttr, SetTime,
    WriteFlags, XattrMode,
};
use dfs::volume::FileKind;
use std::time::Duration;

use crate::books::Books;
use crate::cluster::directories;

/// Names that hosts share in each folder.
const NAMES: u64 = 6;

/// Files that the programs of a host keep open.
const HELD_MAX: usize = 3;

/// Files that are unpacked at once.
const MANY: u64 = 1_400;

/// More files than one record names the ops of.
const OVER_A_RECORD: u64 = 4_300;

/// More bytes than one record names, and what a row takes of them.
const OVER_A_RECORD_BYTES: u64 = 9 << 20;
const INLINE_BYTES: u64 = 9_000;

/// More than any file has.
const READ_MAX: usize = 64 << 20;

/// Files of one host alone.
const FILES_MAX: usize = 5;

/// How large contents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// A row takes them.
    Small,
    /// Some are chunks.
    Mixed,
    /// Some are several chunks.
    Large,
}

/// A file that a program keeps open.
#[derive(Debug)]
struct Held {
    ino: Ino,
    fh: FileHandle,
    writes: bool,
    /// What was written through it since it was last handed over.
    tokens: Vec<Vec<u8>>,
    /// What was last written through it.
    last: Option<Vec<u8>>,
}

/// A file of one host alone that is open.
#[derive(Debug)]
struct Open {
    name: String,
    ino: Ino,
    fh: FileHandle,
}

/// The programs of one host.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    held: Vec<Held>,
    open: Vec<Open>,
    /// Names are not used again.
    files: u64,
    /// Files of which a name was removed here: what is written to one that is still open may be nobody's
    /// but who has it open.
    removed: BTreeSet<Ino>,
}

/// A looked-up node, forgotten in the end as a kernel does.
struct Looked {
    fs: Arc<Fs>,
    ino: Ino,
    kind: FileKind,
}

impl Drop for Looked {
    fn drop(&mut self) {
        self.fs.forget(self.ino, 1);
    }
}

type Done = Result<(), FsError>;

/// One operation of one host.
pub(crate) struct Turn<'a> {
    pub(crate) host: usize,
    pub(crate) member: Member,
    pub(crate) rng: &'a Rng,
    pub(crate) sizes: Sizes,
    pub(crate) books: &'a mut Books,
    pub(crate) programs: &'a mut Programs,
    /// What is told beside the call.
    pub(crate) detail: String,
}

impl Programs {
    /// The machine went down.
    pub(crate) fn killed(&mut self) {
        self.held.clear();
        self.open.clear();
    }

    /// Says whether a program keeps a file open.
    pub(crate) fn hold_any(&self) -> bool {
        !self.held.is_empty() || !self.open.is_empty()
    }
}

impl Turn<'_> {
    fn below(&self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    fn chance(&self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// Returns a name to do something with in a folder: one of a few, or one that is there, as that of a
    /// conflict file.
    fn name_in(&self, dir: Ino) -> String {
        let mut names = Vec::new();
        if self.chance(4) {
            let listed = self.member.volume.readdir(dir, None, &mut |_, entry| {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                if !is_apart(&name) {
                    names.push(name);
                }
                names.len() < 100
            });
            if listed.is_err() {
                names.clear();
            }
        }
        let at = self.below(names.len() as u64) as usize;
        names
            .into_iter()
            .nth(at)
            .unwrap_or_else(|| format!("n{}", self.below(NAMES)))
    }

    fn look(&self, dir: Ino, name: &[u8]) -> Result<Looked, FsError> {
        let fs = Arc::clone(&self.member.fs);
        let attr = fs.lookup(dir, name)?.attr;
        Ok(Looked {
            ino: attr.ino,
            kind: attr.kind,
            fs,
        })
    }

    /// Returns all of a file, `None` where some of it is not here and cannot be fetched.
    async fn content(&self, ino: Ino) -> Result<Option<Vec<u8>>, FsError> {
        for _ in 0..2 {
            match read(&self.member.fs, ino)? {
                ReadPlan::Ready(pieces) => return Ok(Some(pieces.concat())),
                ReadPlan::Wait(pending) => {
                    if pending.complete().await.is_err() {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Returns what a program sees of a file that is here now; others may change it after the next wait.
    fn seen(&self, ino: Ino) -> Result<Option<Vec<u8>>, FsError> {
        Ok(match read(&self.member.fs, ino)? {
            ReadPlan::Ready(pieces) => Some(pieces.concat()),
            ReadPlan::Wait(_) => None,
        })
    }

    fn padded(&self, token: &[u8]) -> Vec<u8> {
        let more = match (self.sizes, self.below(8)) {
            (Sizes::Large, 0) => 1_000_000 + self.below(200_000),
            (Sizes::Mixed | Sizes::Large, 1..=2) => 15_000 + self.below(60_000),
            (_, 3) => self.below(5_000),
            _ => 0,
        };
        let mut content = token.to_vec();
        let fill = [b'a' + (self.below(26) as u8)];
        content.extend(fill.repeat(more as usize));
        content
    }

    /// Does something; says what, and what came of it.
    pub(crate) async fn act(&mut self) -> (String, Done) {
        let mut dirs = directories(&self.member);
        // Folders of one host, or of a scene alone.
        let mut apart = Vec::new();
        let listed = self
            .member
            .volume
            .readdir(Ino::ROOT, None, &mut |_, entry| {
                if is_apart(&String::from_utf8_lossy(&entry.name)) && entry.name != b"many"[..] {
                    apart.push(entry.ino);
                }
                true
            });
        if listed.is_ok() {
            dirs.retain(|dir| !apart.contains(dir));
        }
        let dir = dirs[self.below(dirs.len() as u64) as usize];
        let to = dirs[self.below(dirs.len() as u64) as usize];
        let name = self.name_in(dir);
        let new = format!("n{}", self.below(NAMES));
        let kind = self.below(44);
        let what = format!("{kind} {:x}/{name} {:x}/{new}", dir.0, to.0);
        let (name, new) = (name.as_bytes(), new.as_bytes());
        let before = self.books.newest();
        let done = match kind {
            0..=4 => self.put(dir, name).await,
            5 | 6 => self.append(dir, name).await,
            7 | 8 => self.overwrite(dir, name).await,
            9 => self.cut(dir, name).await,
            10 | 11 => self.unlink(dir, name).await,
            12 | 13 => self.mkdir(dir, name),
            14 => self.member.fs.rmdir(dir, name),
            15..=17 => self.rename(dir, name, to, new).await,
            18 => self.exchange(dir, name, to, new),
            19 => self.link(dir, name, to, new),
            20 => self.make_other(dir, name),
            21 | 22 => self.attributes(dir, name),
            23 => self.xattr(dir, name),
            24 | 25 => self.hold(dir, name),
            26..=28 => self.write_held().await,
            29 => self.drop_held(),
            30 => self.copy(dir, name, to, new).await,
            31 => self.list(dir),
            32 => self.sync(),
            _ => self.own(),
        };
        let newest = self.books.newest();
        let what = match newest > before {
            true => format!("{what} <{}.{newest}>", self.host),
            false => what,
        };
        (what + &self.detail, done)
    }

    /// Writes all of a file, as `cp` does.
    async fn put(&mut self, dir: Ino, name: &[u8]) -> Done {
        let seen = match self.look(dir, name) {
            Ok(there) if there.kind != FileKind::File => return Err(FsError::IsDirectory),
            Ok(there) => {
                self.content(there.ino).await?;
                self.look(dir, name).ok()
            }
            Err(FsError::NotFound) => None,
            Err(error) => return Err(error),
        };
        if let Some(there) = &seen {
            let Some(seen) = self.seen(there.ino)? else {
                return Ok(());
            };
            self.books.superseded(&seen);
        }
        let token = self.books.token(self.host);
        let content = self.padded(&token);
        let flags = OpenFlags {
            write: true,
            truncate: true,
            ..OpenFlags::default()
        };
        let fs = Arc::clone(&self.member.fs);
        let made = fs.create(Caller::default(), dir, name, 0o644, flags)?;
        let (ino, fh) = (made.entry.attr.ino, made.opened.fh);
        self.detail = format!(" {:x}", ino.0);
        self.books
            .written(self.host, token.clone(), Some(content.clone()));
        let written = fs.write(ino, fh, 0, &content, WriteFlags::default());
        let closed = self.close(ino, fh, &[token]);
        fs.forget(ino, 1);
        written?;
        closed
    }

    /// Hands over and closes, sometimes behind an fsync.
    fn close(&mut self, ino: Ino, fh: FileHandle, tokens: &[Vec<u8>]) -> Done {
        let fs = Arc::clone(&self.member.fs);
        let synced = match self.chance(4) {
            true => fs.fsync(ino, fh).map(|()| true),
            false => Ok(false),
        };
        let flushed = fs.flush(ino, fh);
        let released = fs.release(ino, fh);
        if flushed.is_ok() {
            for token in tokens {
                self.books.closed(token);
            }
        }
        if matches!(synced, Ok(true)) {
            self.books.synced(self.host);
        }
        synced?;
        flushed?;
        released
    }

    /// Opens a file and does something with it; what is there stays, not all of it.
    async fn change(
        &mut self,
        dir: Ino,
        name: &[u8],
        append: bool,
        change: impl FnOnce(&mut Self, Ino, FileHandle, &[u8]) -> Result<Vec<Vec<u8>>, FsError>,
    ) -> Done {
        // A number may be of this machine alone, and nobody's once it is forgotten.
        let before = self.look(dir, name)?;
        self.content(before.ino).await?;
        let there = self.look(dir, name)?;
        self.detail = format!(" {:x}", there.ino.0);
        let Some(seen) = self.seen(there.ino)? else {
            return Ok(());
        };
        let flags = OpenFlags {
            write: true,
            append,
            ..OpenFlags::default()
        };
        let fs = Arc::clone(&self.member.fs);
        let fh = fs.open(Caller::default(), there.ino, flags)?.fh;
        match append {
            true => self.books.added_to(&seen),
            false => self.books.superseded(&seen),
        }
        let done = change(self, there.ino, fh, &seen);
        let tokens = done.as_ref().map_or(&[][..], Vec::as_slice);
        let closed = self.close(there.ino, fh, tokens);
        done?;
        closed
    }

    async fn append(&mut self, dir: Ino, name: &[u8]) -> Done {
        let add = |turn: &mut Self, ino, fh, _: &[u8]| {
            let token = turn.books.token(turn.host);
            turn.books.written(turn.host, token.clone(), None);
            let fs = &turn.member.fs;
            fs.write(ino, fh, 0, &token, WriteFlags::default())?;
            Ok(vec![token])
        };
        self.change(dir, name, true, add).await
    }

    async fn overwrite(&mut self, dir: Ino, name: &[u8]) -> Done {
        let write = |turn: &mut Self, ino, fh, seen: &[u8]| {
            let len = seen.len() as u64;
            let token = turn.books.token(turn.host);
            let at = match turn.below(3) {
                0 => len,
                1 => 0,
                _ => turn.below(len + 100),
            };
            let content = turn.padded(&token);
            let whole = patched(seen, at, &content);
            turn.books.written(turn.host, token.clone(), Some(whole));
            let fs = &turn.member.fs;
            fs.write(ino, fh, at, &content, WriteFlags::default())?;
            Ok(vec![token])
        };
        self.change(dir, name, false, write).await
    }

    async fn cut(&mut self, dir: Ino, name: &[u8]) -> Done {
        let cut = |turn: &mut Self, ino, fh, seen: &[u8]| {
            let len = seen.len() as u64;
            let fs = &turn.member.fs;
            match turn.below(3) {
                0 => {
                    let set = SetAttr {
                        size: Some(turn.below(len * 2 + 1)),
                        fh: Some(fh),
                        ..SetAttr::default()
                    };
                    fs.setattr(Caller::default(), ino, set)?;
                }
                1 => {
                    let mode = Fallocate::PunchHole;
                    fs.fallocate(
                        Caller::default(),
                        ino,
                        fh,
                        turn.below(len + 1),
                        1 + len / 3,
                        mode,
                    )?;
                }
                _ => {
                    let mode = Fallocate::ZeroRange { keep_size: false };
                    fs.fallocate(
                        Caller::default(),
                        ino,
                        fh,
                        turn.below(len + 1),
                        1 + len / 3,
                        mode,
                    )?;
                }
            }
            Ok(Vec::new())
        };
        self.change(dir, name, false, cut).await
    }

    /// What is at a name is about to go; says whether all of it could be seen.
    async fn seen_to_go(&mut self, dir: Ino, name: &[u8]) -> Result<bool, FsError> {
        let there = match self.look(dir, name) {
            Ok(there) => there,
            Err(FsError::NotFound) => return Ok(true),
            Err(error) => return Err(error),
        };
        if there.kind != FileKind::File {
            return Ok(true);
        }
        self.content(there.ino).await?;
        drop(there);
        let there = self.look(dir, name)?;
        if there.kind != FileKind::File {
            return Ok(true);
        }
        let seen = self.seen(there.ino)?;
        if let Some(seen) = &seen {
            self.detail = format!(" {:x} goes", there.ino.0);
            self.programs.removed.insert(there.ino);
            self.books.superseded(seen);
        }
        Ok(seen.is_some())
    }

    async fn unlink(&mut self, dir: Ino, name: &[u8]) -> Done {
        match self.seen_to_go(dir, name).await? {
            true => self.member.fs.unlink(dir, name),
            false => Ok(()),
        }
    }

    fn mkdir(&self, dir: Ino, name: &[u8]) -> Done {
        let fs = &self.member.fs;
        let made = fs.mkdir(Caller::default(), dir, name, 0o755)?;
        fs.forget(made.attr.ino, 1);
        Ok(())
    }

    async fn rename(&mut self, dir: Ino, name: &[u8], to: Ino, new: &[u8]) -> Done {
        self.look(dir, name)?;
        if self.chance(4) {
            let mode = RenameMode::NoReplace;
            return self.member.fs.rename((dir, name), (to, new), mode);
        }
        match self.seen_to_go(to, new).await? {
            true => {
                let mode = RenameMode::Replace;
                self.member.fs.rename((dir, name), (to, new), mode)
            }
            false => Ok(()),
        }
    }

    fn exchange(&self, dir: Ino, name: &[u8], to: Ino, new: &[u8]) -> Done {
        let mode = RenameMode::Exchange;
        self.member.fs.rename((dir, name), (to, new), mode)
    }

    fn link(&self, dir: Ino, name: &[u8], to: Ino, new: &[u8]) -> Done {
        let there = self.look(dir, name)?;
        let entry = self.member.fs.link(there.ino, to, new)?;
        self.member.fs.forget(entry.attr.ino, 1);
        Ok(())
    }

    fn make_other(&self, dir: Ino, name: &[u8]) -> Done {
        let fs = &self.member.fs;
        let made = match self.below(3) {
            0 => fs.mknod(Caller::default(), dir, name, libc_fifo(), 0)?,
            1 => fs.mknod(Caller::default(), dir, name, 0o100_644, 0)?,
            _ => {
                let target = format!("to-{}", self.below(9));
                fs.symlink(Caller::default(), dir, name, target.as_bytes())?
            }
        };
        fs.forget(made.attr.ino, 1);
        Ok(())
    }

    fn attributes(&self, dir: Ino, name: &[u8]) -> Done {
        let there = self.look(dir, name)?;
        let set = match self.below(3) {
            0 => SetAttr {
                mode: Some(self.below(0o1000) as u32),
                ..SetAttr::default()
            },
            1 => SetAttr {
                uid: Some(self.below(5) as u32),
                gid: Some(self.below(5) as u32),
                ..SetAttr::default()
            },
            _ => SetAttr {
                mtime: Some(SetTime::At(Timespec::from_ms(self.below(1 << 40)))),
                ..SetAttr::default()
            },
        };
        self.member.fs.setattr(Caller::default(), there.ino, set)?;
        Ok(())
    }

    fn xattr(&self, dir: Ino, name: &[u8]) -> Done {
        let there = self.look(dir, name)?;
        let (fs, key) = (
            &self.member.fs,
            [&b"user.x"[..], b"user.y"][self.below(2) as usize],
        );
        if self.chance(3) {
            return fs.removexattr(there.ino, key);
        }
        let value = format!("{}", self.below(1_000));
        let mode = XattrMode::Either;
        fs.setxattr(Caller::default(), there.ino, key, value.as_bytes(), mode)
    }

    /// Opens a file and keeps it open.
    fn hold(&mut self, dir: Ino, name: &[u8]) -> Done {
        if self.programs.held.len() >= HELD_MAX {
            return self.drop_held();
        }
        let there = self.look(dir, name)?;
        let writes = !self.chance(3);
        let flags = OpenFlags {
            read: true,
            write: writes,
            ..OpenFlags::default()
        };
        let opened = self.member.fs.open(Caller::default(), there.ino, flags)?;
        // The open file keeps its lookup.
        let ino = there.ino;
        std::mem::forget(there);
        self.programs.held.push(Held {
            ino,
            fh: opened.fh,
            writes,
            tokens: Vec::new(),
            last: None,
        });
        Ok(())
    }

    /// Reads or writes through a file that was opened some time ago.
    async fn write_held(&mut self) -> Done {
        let count = self.programs.held.len() as u64;
        if count == 0 {
            return Ok(());
        }
        let at = self.below(count) as usize;
        let (ino, fh, writes) = {
            let held = &self.programs.held[at];
            (held.ino, held.fh, held.writes)
        };
        self.content(ino).await?;
        let fs = Arc::clone(&self.member.fs);
        let ReadPlan::Ready(pieces) = fs.read(ino, fh, 0, READ_MAX)? else {
            return Ok(());
        };
        let seen = pieces.concat();
        if let Some(last) = &self.programs.held[at].last
            && self.books.is_owed(last)
        {
            assert!(
                seen.windows(last.len()).any(|bytes| bytes == last),
                "{} is not in the file any more through which host{} wrote it",
                String::from_utf8_lossy(last),
                self.host
            );
        }
        if !writes {
            return Ok(());
        }
        let token = self.books.token(self.host);
        self.detail = format!(" {:x} held", ino.0);
        let offset = self.below(seen.len() as u64 + 50);
        self.books.superseded(&seen);
        // What is written to a file that was removed here is its program's alone.
        if !self.programs.removed.contains(&ino) {
            let whole = patched(&seen, offset, &token);
            self.books.written(self.host, token.clone(), Some(whole));
        }
        fs.write(ino, fh, offset, &token, WriteFlags::default())?;
        let held = &mut self.programs.held[at];
        held.last = Some(token.clone());
        held.tokens.push(token);
        // Each close of a copy of the descriptor hands over what was written.
        if self.chance(2) {
            self.hand_over(at)?;
        }
        Ok(())
    }

    fn hand_over(&mut self, at: usize) -> Done {
        let held = &mut self.programs.held[at];
        self.member.fs.flush(held.ino, held.fh)?;
        for token in held.tokens.drain(..) {
            self.books.closed(&token);
        }
        Ok(())
    }

    fn drop_held(&mut self) -> Done {
        let count = self.programs.held.len() as u64;
        if count == 0 {
            return Ok(());
        }
        let at = self.below(count) as usize;
        let handed = self.hand_over(at);
        let held = self.programs.held.swap_remove(at);
        let released = self.member.fs.release(held.ino, held.fh);
        self.member.fs.forget(held.ino, 1);
        handed?;
        released
    }

    /// Copies ranges inside the filesystem.
    async fn copy(&mut self, dir: Ino, name: &[u8], to: Ino, new: &[u8]) -> Done {
        let from = self.look(dir, name)?;
        if from.kind != FileKind::File {
            return Ok(());
        }
        let copy = |turn: &mut Self, ino, fh, seen: &[u8]| {
            let len = seen.len() as u64;
            let fs = Arc::clone(&turn.member.fs);
            let flags = OpenFlags {
                read: true,
                ..OpenFlags::default()
            };
            if from.ino == ino {
                return Ok(Vec::new());
            }
            let source = fs.open(Caller::default(), from.ino, flags)?.fh;
            let at = turn.below(len + 1);
            let copied = fs.copy_file_range(
                Caller::default(),
                (from.ino, source, 0),
                (ino, fh, at),
                20_000,
            );
            fs.release(from.ino, source)?;
            copied?;
            Ok(Vec::new())
        };
        self.change(to, new, false, copy).await
    }

    /// Makes as many files as several slices of a merge take, in one go; sometimes more than one record
    /// names, in number or in bytes.
    pub(crate) fn unpack(&self) -> Done {
        let fs = &self.member.fs;
        let many = match self.look(Ino::ROOT, b"many") {
            Err(FsError::NotFound) => {
                self.mkdir(Ino::ROOT, b"many")?;
                self.look(Ino::ROOT, b"many")?
            }
            looked => looked?,
        };
        let (count, bytes) = match self.below(4) {
            0 => (OVER_A_RECORD, 0),
            1 => (OVER_A_RECORD_BYTES / INLINE_BYTES, INLINE_BYTES),
            _ => (MANY, 0),
        };
        let content = vec![b'm'; bytes as usize];
        for number in 0..count {
            // Every tenth is what others make, too.
            let name = match number % 10 {
                0 => format!("{number}"),
                _ => format!("{number} of {}", self.host),
            };
            let done = match bytes {
                0 => fs
                    .mknod(Caller::default(), many.ino, name.as_bytes(), 0o100_644, 0)
                    .map(|made| fs.forget(made.attr.ino, 1)),
                _ => crate::cluster::write(&self.member, many.ino, name.as_bytes(), &content),
            };
            match done {
                Ok(()) | Err(FsError::Exists) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn list(&self, dir: Ino) -> Done {
        let fs = &self.member.fs;
        let opened = fs.opendir(dir)?;
        let listed = fs.readdir(dir, opened.fh, 0, &mut |_| dfs::fs::Reply::Taken);
        fs.releasedir(dir, opened.fh)?;
        listed
    }

    /// Syncs a directory: all that was handed over.
    fn sync(&mut self) -> Done {
        let fs = &self.member.fs;
        let opened = fs.opendir(Ino::ROOT)?;
        let synced = fs.fsyncdir(Ino::ROOT, opened.fh);
        fs.releasedir(Ino::ROOT, opened.fh)?;
        synced?;
        self.books.synced(self.host);
        Ok(())
    }
}

/// Returns a content in which some bytes are others.
fn patched(content: &[u8], at: u64, bytes: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    let end = at as usize + bytes.len();
    content.resize(content.len().max(end), 0);
    content[at as usize..end].copy_from_slice(bytes);
    content
}

/// Says whether a name is not for programs of any host.
fn is_apart(name: &str) -> bool {
    name.starts_with("own") || name.starts_with("scene") || name == "many"
}

/// Lets a little time pass.
pub(crate) async fn pause(rng: &Rng) {
    sleep(Duration::from_millis(rng.below(400))).await;
}

/// Returns the name at the end of a path.
fn last(path: &str) -> &[u8] {
    path.rsplit('/').next().unwrap_or_default().as_bytes()
}

fn libc_fifo() -> u32 {
    0o010_644
}

/// Reads all of a file through a handle of its own.
fn read(fs: &Fs, ino: Ino) -> Result<ReadPlan, FsError> {
    let flags = OpenFlags {
        read: true,
        noatime: true,
        ..OpenFlags::default()
    };
    let fh = fs.open(Caller::default(), ino, flags)?.fh;
    let plan = fs.read(ino, fh, 0, READ_MAX);
    fs.release(ino, fh)?;
    plan
}
