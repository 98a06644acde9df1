//! A folder on a disk that loses power: what is durable, and what may be.
//!
//! Data that was never synced is there or not, sector by sector, whatever its order. Names are
//! there in the order in which they were changed, as on the journaling file systems of Linux: a
//! prefix of the changes, with at least those up to the last sync of a folder.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use dfs::base::Rng;

use super::trace::Event;

const SECTOR_BYTES: u64 = 512;

/// What a power cut takes of that which was never synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nothing: the process is killed, the machine goes on.
    Nothing,
    /// Everything.
    All,
    /// Whole writes, chosen by chance.
    Writes,
    /// Sectors, chosen by chance.
    Sectors,
}

/// The folder as it is, and as it is on the disk for sure.
#[derive(Debug, Default)]
pub(super) struct Disk {
    files: BTreeMap<u64, Contents>,
    names: BTreeMap<String, Entry>,
    durable_names: BTreeMap<String, Entry>,
    /// Changes of names since the last sync of a folder.
    renamed: Vec<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(u64),
    Folder,
}

#[derive(Debug, Default)]
struct Contents {
    live: Bytes,
    durable: Bytes,
    /// Changes since the last sync of the file.
    unsynced: Vec<Event>,
}

/// Bytes whose end may be a hole.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Bytes {
    written: Vec<u8>,
    len: u64,
}

impl Bytes {
    fn write(&mut self, at: u64, bytes: &[u8]) {
        let start = usize::try_from(at).unwrap();
        let end = start + bytes.len();
        if self.written.len() < end {
            self.written.resize(end, 0);
        }
        self.written[start..end].copy_from_slice(bytes);
        self.len = self.len.max(end as u64);
    }

    fn apply(&mut self, change: &Event) {
        match change {
            Event::Write(_, at, bytes) => self.write(*at, bytes),
            Event::Zero(_, at, len) => {
                let end = usize::try_from(at + len).unwrap().min(self.written.len());
                let start = usize::try_from(*at).unwrap().min(end);
                self.written[start..end].fill(0);
            }
            Event::Resize(_, len) => {
                self.len = *len;
                self.written.truncate(usize::try_from(*len).unwrap());
            }
            _ => unreachable!("not a change of a file"),
        }
    }
}

impl Disk {
    /// Takes note of what was done.
    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Write(path, ..) | Event::Zero(path, ..) | Event::Resize(path, _) => {
                if let Some(Entry::File(id)) = self.names.get(path) {
                    let file = self.files.get_mut(id).expect("it has a name");
                    file.live.apply(event);
                    file.unsynced.push(event.clone());
                }
            }
            Event::Sync(path) => match self.names.get(path) {
                Some(Entry::File(id)) => {
                    let file = self.files.get_mut(id).expect("it has a name");
                    file.durable = file.live.clone();
                    file.unsynced.clear();
                }
                // A folder; the state folder itself has no name in itself.
                _ => {
                    self.durable_names = self.names.clone();
                    self.renamed.clear();
                }
            },
            Event::Create(_)
            | Event::Mkdir(_)
            | Event::Rename(..)
            | Event::Link(..)
            | Event::Remove(_) => {
                let next = self.files.len() as u64;
                if rename(&mut self.names, event, next) {
                    self.files.insert(next, Contents::default());
                }
                self.renamed.push(event.clone());
            }
            Event::Said(_) => {}
        }
    }

    /// Writes a folder as a power cut may leave it.
    pub(super) fn write_out(&self, to: &Path, loss: Loss, rng: &Rng) {
        let mut names = self.durable_names.clone();
        let kept = match loss {
            Loss::Nothing => self.renamed.len(),
            Loss::All => 0,
            Loss::Writes | Loss::Sectors => rng.below(self.renamed.len() as u64 + 1) as usize,
        };
        // The numbers of files that were made are those from the first that is not durable.
        let made = |event: &&Event| matches!(event, Event::Create(_));
        let mut next = self.files.len() - self.renamed.iter().filter(made).count();
        for event in self.renamed.iter().take(kept) {
            if rename(&mut names, event, next as u64) {
                next += 1;
            }
        }
        make_folder(to);
        let mut made: BTreeMap<u64, &str> = BTreeMap::new();
        // Sorted, so a folder comes before what is in it.
        for (path, entry) in &names {
            match entry {
                Entry::Folder => make_folder(&to.join(path)),
                Entry::File(id) if made.contains_key(id) => {
                    fs::hard_link(to.join(made[id]), to.join(path)).unwrap();
                }
                Entry::File(id) => {
                    made.insert(*id, path);
                    let bytes = self.files[id].after(loss, rng);
                    let file = OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(0o600)
                        .open(to.join(path))
                        .unwrap();
                    write_sparse(&file, &bytes);
                }
            }
        }
    }

    /// Checks that the record is complete: it leads to what is in the folder now.
    pub(super) fn check(&self, folder: &Path) {
        for (path, entry) in &self.names {
            let real = folder.join(path);
            match entry {
                Entry::Folder => assert!(real.is_dir(), "{path}"),
                Entry::File(id) => {
                    let bytes = &self.files[id].live;
                    let real = fs::read(&real).unwrap_or_else(|e| panic!("{path}: {e}"));
                    assert_eq!(real.len() as u64, bytes.len, "length of {path}");
                    let (start, rest) = real.split_at(bytes.written.len());
                    assert!(start == bytes.written, "content of {path}");
                    assert!(rest.iter().all(|byte| *byte == 0), "end of {path}");
                }
            }
        }
    }
}

impl Contents {
    fn after(&self, loss: Loss, rng: &Rng) -> Bytes {
        if loss == Loss::Nothing {
            return self.live.clone();
        }
        let mut bytes = self.durable.clone();
        for change in &self.unsynced {
            match (loss, change) {
                (Loss::All | Loss::Nothing, _) => {}
                (Loss::Sectors, Event::Write(_, at, written)) => {
                    let mut at = *at;
                    let mut rest = &written[..];
                    while !rest.is_empty() {
                        let len = (SECTOR_BYTES - at % SECTOR_BYTES).min(rest.len() as u64);
                        let (sector, next) = rest.split_at(usize::try_from(len).unwrap());
                        if rng.below(2) == 0 {
                            bytes.write(at, sector);
                        }
                        at += len;
                        rest = next;
                    }
                }
                _ if rng.below(2) == 0 => bytes.apply(change),
                _ => {}
            }
        }
        bytes
    }
}

/// Changes names; tells whether it made a file, which is number `next`.
fn rename(names: &mut BTreeMap<String, Entry>, event: &Event, next: u64) -> bool {
    match event {
        Event::Create(path) => {
            names.insert(path.clone(), Entry::File(next));
            return true;
        }
        Event::Mkdir(path) => {
            names.insert(path.clone(), Entry::Folder);
        }
        Event::Remove(path) => {
            names.remove(path);
        }
        Event::Link(from, to) => {
            if let Some(entry) = names.get(from).copied() {
                names.insert(to.clone(), entry);
            }
        }
        Event::Rename(from, to) => {
            if let Some(entry) = names.remove(from) {
                names.insert(to.clone(), entry);
            }
            let below = format!("{from}/");
            let moved: Vec<String> = names
                .keys()
                .filter(|path| path.starts_with(&below))
                .cloned()
                .collect();
            for path in moved {
                let entry = names.remove(&path).expect("listed above");
                names.insert(format!("{to}/{}", &path[below.len()..]), entry);
            }
        }
        _ => unreachable!("not a change of names"),
    }
    false
}

fn make_folder(path: &Path) {
    DirBuilder::new().mode(0o700).create(path).unwrap();
}

/// Leaves out the zeros: journals are allocated ahead.
fn write_sparse(file: &File, bytes: &Bytes) {
    for (index, block) in bytes.written.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, index as u64 * 4096).unwrap();
        }
    }
    file.set_len(bytes.len).unwrap();
}
