//! Random ops on several devices, random exchange, restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use dfs::base::{ChunkId, DeviceId, Ino, OpId, Rng};
use dfs::volume::{
    Append, Change, DirKey, FileKind, Inode, OpKind, Piece, Place, Replaced, Source, Write,
};

use super::cluster::{
    Device, SharedRows, agree, create, exchange_all, inline, name_of, place, sync, without_times,
};

mod chains;
mod otherwise;

/// Rounds of one seed.
const STEPS: usize = 120;

/// Few names, so that devices meet often.
const NAMES: [&str; 5] = ["a", "b", "c.txt", "d", "e"];

/// What some device once had as a file's newest content.
struct Content {
    bytes: Vec<u8>,
    /// What the author put into it.
    token: String,
    /// True where the author's view need not be a file's whole content in the end: it was appended,
    /// or built on what only a merge had made.
    joined: bool,
}

#[derive(Default)]
struct Model {
    contents: BTreeMap<OpId, Content>,
    /// Versions whose author went on from them, or removed them knowingly.
    superseded: BTreeSet<OpId>,
    /// What somebody went on from: who wrote the same went on with it.
    gone_on: BTreeSet<Vec<u8>>,
    by_token: BTreeMap<Vec<u8>, Vec<OpId>>,
    tokens: u64,
    /// What each device issued since it published last.
    recent: BTreeMap<usize, Vec<OpId>>,
    /// Devices that were removed, of which not all counts.
    removed: BTreeSet<DeviceId>,
}

impl Model {
    /// A device removes a content: all that was put into it, and by whom the same was, of those that it
    /// has folded.
    fn remove(&mut self, device: &Device, version: OpId, bytes: &[u8]) {
        self.superseded.insert(version);
        for put in tokens(bytes).filter_map(|token| self.by_token.get(token)) {
            let seen = put.iter().copied();
            let is_seen = |id: &OpId| put.len() == 1 || device.has_folded(*id);
            self.superseded.extend(seen.filter(is_seen));
        }
    }

    /// A device goes on from a content.
    fn go_on(&mut self, version: OpId, bytes: &[u8]) {
        self.superseded.insert(version);
        self.gone_on.extend(tokens(bytes).map(<[u8]>::to_vec));
    }

    /// A device issued an op that may be lost with its power.
    fn issued(&mut self, index: usize, id: OpId) {
        self.recent.entry(index).or_default().push(id);
    }

    /// A device lost power: what it had not published may be nowhere, and what that went on from is not
    /// asked for.
    fn crashed(&mut self, device: &Device) {
        for id in self.recent.remove(&device.index()).unwrap_or_default() {
            if device.has_folded(id) {
                self.recent.entry(device.index()).or_default().push(id);
            } else {
                self.contents.remove(&id);
            }
        }
    }
}

/// Returns the whole tokens in a file's content.
fn tokens(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'<');
    starts.filter_map(|(start, _)| {
        let rest = &bytes[start..];
        let end = rest.iter().position(|byte| *byte == b'>')?;
        Some(&rest[..=end])
    })
}

struct Run {
    seed: u64,
    rng: Rng,
    /// For what changes nothing, so that a seed means the same with and without it.
    aside: Rng,
    devices: Vec<Device>,
    model: Model,
    /// Whether devices lose power now and then.
    crashes: bool,
    /// Whether devices write the same few contents.
    alike: bool,
    /// Whether devices are removed, or made readers, now and then.
    removes: bool,
    /// Whether they do what else there is, and the last of them hears nothing for long.
    wide: bool,
    /// What devices do that are on two chains of records now and then.
    apart: Option<chains::Apart>,
    /// Steps so far.
    steps: usize,
}

/// A place and the node there, as a device sees it.
struct Found {
    at: Place,
    inode: Inode,
}

impl Run {
    fn new(seed: u64, count: usize, crashes: bool) -> Self {
        let devices: Vec<Device> = (0..count).map(Device::new).collect();
        devices[0].volume.format(1, 1, 0o755).unwrap();
        let run = Self {
            seed,
            rng: Rng::from_seed(seed),
            aside: Rng::from_seed(seed),
            devices,
            model: Model::default(),
            crashes,
            alike: false,
            removes: false,
            wide: false,
            apart: None,
            steps: 0,
        };
        for device in &run.devices {
            device.volume.announce().unwrap();
            // Clocks that differ by up to two seconds.
            device
                .clock
                .advance(Duration::from_millis(run.rng.below(2_000)));
        }
        sync(&run.devices);
        run
    }

    fn chance(&self, one_in: u64) -> bool {
        self.rng.below(one_in) == 0
    }

    fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.rng.below(from.len() as u64) as usize)
    }

    /// Returns every entry of a device's tree.
    fn entries(device: &Device) -> Vec<Found> {
        let mut found = Vec::new();
        let mut open = vec![Ino::ROOT];
        while let Some(dir) = open.pop() {
            let mut after: Option<DirKey> = None;
            loop {
                // Three at a time, to resume in the middle.
                let mut batch = Vec::new();
                let mut visit = |key, dirent: &dfs::volume::Dirent| {
                    batch.push((key, dirent.clone()));
                    batch.len() < 3
                };
                device.volume.readdir(dir, after, &mut visit).unwrap();
                let Some((last, _)) = batch.last() else {
                    break;
                };
                after = Some(*last);
                for (_, dirent) in batch {
                    let inode = device.inode(dirent.ino);
                    if inode.is_dir() {
                        open.push(inode.ino);
                    }
                    let at = place(dir, &dirent.name);
                    found.push(Found { at, inode });
                }
            }
        }
        found
    }

    /// Returns a place in a random directory, and what a device has there.
    fn somewhere(&self, device: &Device, entries: &[Found]) -> (Place, Option<Inode>) {
        let mut dirs = vec![Ino::ROOT];
        dirs.extend(
            entries
                .iter()
                .filter(|f| f.inode.is_dir())
                .map(|f| f.inode.ino),
        );
        let dir = *self.pick(&dirs).unwrap();
        let name = *self.pick(&NAMES).unwrap();
        let there = device.volume.dirent(dir, name.as_bytes()).unwrap();
        let inode = there.map(|dirent| device.inode(dirent.ino));
        (place(dir, name.as_bytes()), inode)
    }

    fn step(&mut self) {
        self.steps += 1;
        let index = self.rng.below(self.devices.len() as u64) as usize;
        let wait = Duration::from_millis(self.rng.below(30));
        self.devices[index].clock.advance(wait);
        match self.aside.below(80) {
            0 | 1 => self.fold_anew(index),
            2 | 3 => self.take_over(index),
            _ => {}
        }
        if self.removes && self.chance(40) {
            self.remove_one();
        }
        match self.rng.below(10) {
            0 | 2 | 3 if self.apart.is_some() => self.meet_apart(index),
            1 if self.apart.is_some() && self.chance(2) => self.commit_apart(),
            0 => self.exchange(index),
            1 if self.crashes && self.chance(3) => {
                self.closed_apart(index);
                self.devices[index].crash(&self.rng);
                self.model.crashed(&self.devices[index]);
                super::tree::check(&self.devices[index]);
            }
            1 if self.chance(4) => {
                self.closed_apart(index);
                self.devices[index].restart();
            }
            1 if self.apart.is_none() && self.chance(3) => self.commit(),
            1 if self.apart.is_none() && self.chance(8) => self.meet(),
            1 => {
                self.devices[index].publish();
                self.model.recent.remove(&index);
            }
            _ => {
                for _ in 0..=self.rng.below(4) {
                    self.change(index);
                }
            }
        }
    }

    /// A device folds all anew, and finds nothing that differs: its drafts included.
    fn fold_anew(&self, index: usize) {
        // What it has come to know of the members since may let it fold a record.
        self.devices[index].volume.apply_segments().unwrap();
        if !self.devices[index].volume.is_of_chain().unwrap() {
            return;
        }
        self.expect_nothing(index, |device| device.volume.fold_anew().unwrap());
    }

    /// A device takes over a checkpoint that another, or itself, made of what it has folded, and finds nothing
    /// that differs. All who made it have the same.
    fn take_over(&self, index: usize) {
        let device = &self.devices[index];
        device.volume.apply_segments().unwrap();
        if !device.volume.is_of_chain().unwrap() {
            return;
        }
        let mut all: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for other in &self.devices {
            for (number, made) in other.checkpoints() {
                let is_known = device.chain.has(made.record).unwrap();
                if is_known && number <= device.volume.record().number {
                    all.entry(number).or_default().push(other.index());
                }
            }
        }
        for (number, makers) in &all {
            let made = |of: &usize| self.devices[*of].checkpoints()[number];
            let differs = makers.iter().find(|of| made(of) != made(&makers[0]));
            let seed = self.seed;
            assert_eq!(differs, None, "seed {seed}: at {number}, of {makers:?}");
        }
        let numbers: Vec<u64> = all.keys().copied().collect();
        let newest = self.aside.below(3).min(numbers.len() as u64);
        let Some(number) = numbers.iter().rev().nth(newest as usize) else {
            return;
        };
        let makers = &all[number];
        let maker = makers[self.aside.below(makers.len() as u64) as usize];
        // Who made it may have dated a directory by what no record names yet.
        let before = without_times(device.rows());
        let anew = device.take_over(&self.devices[maker], *number).unwrap();
        self.expect_same(before, without_times(device.rows()));
        assert_eq!((anew.differing, anew.lost), (0, 0), "seed {}", self.seed);
    }

    fn expect_nothing(&self, index: usize, fold: impl FnOnce(&Device) -> dfs::volume::Anew) {
        let before = self.devices[index].rows();
        let anew = fold(&self.devices[index]);
        self.expect_same(before, self.devices[index].rows());
        let said = (anew.differing, anew.lost, anew.changes.len());
        assert_eq!(said, (0, 0, 0), "seed {}", self.seed);
    }

    fn expect_same(&self, before: SharedRows, after: SharedRows) {
        let differ = before.iter().find(|(key, row)| after.get(key) != Some(row));
        let differ = differ.or_else(|| after.iter().find(|(key, _)| !before.contains_key(key)));
        let seed = self.seed;
        assert!(differ.is_none(), "seed {seed}: {differ:?} differs");
    }

    /// All meet, and have all of it named.
    fn meet(&self) {
        for _ in 0..2 {
            sync(&self.devices);
            self.commit();
        }
    }

    /// The first device makes a record, and gives up what nobody looks back to.
    fn commit(&self) {
        let before = self.stamps(0);
        let voter = &self.devices[0];
        let writers = self.devices.iter();
        let writers = writers.filter(|device| !voter.roll.ends(device.admission));
        let needs = writers.map(|device| device.volume.needs());
        let needed = needs.min().filter(|_| !self.wide).unwrap_or(0);
        let merged = voter.commit_from(needed);
        self.check_changes(0, &before, &merged.changes.to_vec());
    }

    fn exchange(&mut self, index: usize) {
        let from = self.rng.below(self.devices.len() as u64) as usize;
        let last = self.devices.len() - 1;
        let is_late = self.wide && self.steps < STEPS * 3 / 4;
        if from == index || is_late && (from == last || index == last) {
            return;
        }
        let max = 1 + self.rng.below(3) as usize;
        let before = self.stamps(index);
        if self.removes {
            let (one, two) = (&self.devices[index], &self.devices[from]);
            let refuses = |device: &Device, other: &Device| {
                other.index().is_multiple_of(2) && device.roll.ends(other.admission)
            };
            if refuses(one, two) || refuses(two, one) {
                return;
            }
            if self.chance(3) {
                // What it knows of the members comes by itself.
                one.take_records_alone(two);
                let merged = one.volume.apply_segments().unwrap();
                self.check_changes(index, &before, &merged.changes.to_vec());
                return;
            }
        }
        let merged = self.devices[index].pull(&self.devices[from], max);
        self.check_changes(index, &before, &merged.changes.to_vec());
        if self.chance(3) {
            super::tree::check(&self.devices[index]);
        }
        if self.wide && self.aside.below(4) == 0 {
            self.fold_anew(index);
        }
    }

    /// Returns what a kernel may have cached: entries and attributes.
    fn stamps(&self, index: usize) -> BTreeMap<(Ino, Bytes), Inode> {
        let entries = Self::entries(&self.devices[index]).into_iter();
        entries
            .map(|found| ((found.at.parent, found.at.name), found.inode))
            .collect()
    }

    fn check_changes(
        &self,
        index: usize,
        before: &BTreeMap<(Ino, Bytes), Inode>,
        changes: &[Change],
    ) {
        let after = self.stamps(index);
        let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        for key in keys {
            let (old, new) = (before.get(key), after.get(key));
            if old.map(|inode| inode.ino) != new.map(|inode| inode.ino) {
                let said = changes.iter().any(|change| {
                    matches!(change, Change::Entry { parent, name, .. }
                        if (*parent, name) == (key.0, &key.1))
                });
                assert!(said, "seed {}: {key:?} changed silently", self.seed);
            } else if let (Some(old), Some(new)) = (old, new)
                && old != new
            {
                let said = changes.iter().any(|change| match change {
                    Change::Attr(ino) => *ino == new.ino && old.version == new.version,
                    Change::Content(ino) => *ino == new.ino,
                    Change::Entry { .. } => false,
                });
                assert!(said, "seed {}: {old:?} {new:?} silently", self.seed);
            }
        }
    }

    /// The first device hears that another was removed, an even one, or made a reader, an odd one. One
    /// that was is admitted anew.
    fn remove_one(&mut self) {
        let index = 1 + self.rng.below(self.devices.len() as u64 - 1) as usize;
        let voter = &self.devices[0];
        let ended = self.devices[index].admission;
        let id = self.devices[index].identity().device();
        self.model.removed.insert(id);
        if !voter.roll.ends(ended) {
            voter.roll.end(ended);
            return;
        }
        // Until a record says so, it keeps to itself what it has not sealed.
        self.commit();
        let device = &mut self.devices[index];
        device.roll.end(ended);
        device.admission = self.rng.bytes();
        device.restart();
    }

    fn change(&mut self, index: usize) {
        let device = &self.devices[index];
        if device.volume.is_over() || device.volume.awaits_fence() {
            return;
        }
        let entries = Self::entries(device);
        let files: Vec<&Found> = entries
            .iter()
            .filter(|found| found.inode.kind == FileKind::File)
            .collect();
        let time = dfs::base::Clock::wall(&*device.clock);
        let (to, there) = self.somewhere(device, &entries);
        if self.wide && self.chance(3) {
            self.change_otherwise(index, &entries, &files, to, there);
            return;
        }
        match self.rng.below(14) {
            0..=2 => {
                if there.is_none() {
                    let kinds = [
                        FileKind::File,
                        FileKind::File,
                        FileKind::Dir,
                        FileKind::Symlink,
                    ];
                    let kind = *self.pick(&kinds).unwrap();
                    device.apply(create(to, kind, time));
                }
            }
            3 => {
                if let Some(found) = self.pick(&entries) {
                    self.remove(index, found, time);
                }
            }
            4 | 5 => {
                if let Some(found) = self.pick(&entries) {
                    self.rename(index, found, to, there, time);
                }
            }
            6 => {
                if let (Some(found), None) = (self.pick(&files), there) {
                    let ino = found.inode.ino;
                    device.apply(OpKind::Link { ino, to, time });
                }
            }
            7 => {
                if let Some(found) = self.pick(&entries) {
                    device.apply(self.attribute(&found.inode, time));
                }
            }
            8 => {
                if let Some(conflict) = self.pick(&device.volume.conflicts().unwrap()) {
                    let conflict = conflict.op;
                    device.apply(OpKind::Resolve { conflict });
                }
            }
            _ => {
                if let Some(found) = self.pick(&files) {
                    let inode = found.inode.clone();
                    self.write(index, &inode, time);
                }
            }
        }
    }

    fn remove(&mut self, index: usize, found: &Found, time: dfs::base::Timespec) {
        let (from, ino, saw) = (
            found.at.clone(),
            found.inode.ino,
            found.inode.goes_with_a_name(),
        );
        let device = &self.devices[index];
        if found.inode.is_dir() {
            if found.inode.entries == 0 {
                device.apply(OpKind::Rmdir { from, ino, time });
            }
            return;
        }
        // Where another device removes the other names, the last of them stays.
        if found.inode.nlink == 1 {
            self.model.remove(device, saw, &device.bytes_of(ino));
        }
        let kind = OpKind::Unlink {
            from,
            ino,
            saw,
            time,
        };
        device.apply(kind);
    }

    fn rename(
        &mut self,
        index: usize,
        found: &Found,
        to: Place,
        there: Option<Inode>,
        time: dfs::base::Timespec,
    ) {
        let device = &self.devices[index];
        let writer = device.volume.write().unwrap();
        let node = &found.inode;
        let exchange = there.is_some() && self.chance(3);
        // What rename(2) refuses.
        let into_itself = node.is_dir() && writer.is_within(to.parent, node.ino).unwrap();
        let refused = match &there {
            Some(other) if exchange => {
                other.ino == node.ino
                    || (other.is_dir() && writer.is_within(found.at.parent, other.ino).unwrap())
            }
            Some(other) => {
                other.ino == node.ino || other.is_dir() != node.is_dir() || other.entries > 0
            }
            None => false,
        };
        drop(writer);
        if into_itself || refused {
            return;
        }
        if let Some(other) = &there
            && !exchange
            && other.nlink == 1
        {
            let seen = device.bytes_of(other.ino);
            self.model.remove(device, other.version, &seen);
        }
        device.apply(OpKind::Rename {
            from: found.at.clone(),
            to,
            ino: node.ino,
            replaced: there.map(|other| Replaced {
                ino: other.ino,
                saw: other.goes_with_a_name(),
            }),
            exchange,
            time,
        });
    }

    fn attribute(&self, inode: &Inode, time: dfs::base::Timespec) -> OpKind {
        let ino = inode.ino;
        let name = Bytes::from_static([b"user.x", b"user.y"][self.rng.below(2) as usize]);
        match self.rng.below(3) {
            0 => OpKind::SetAttr {
                ino,
                mode: Some(self.rng.below(0o1000) as u32),
                uid: None,
                gid: Some(self.rng.below(9) as u32),
                mtime: None,
                ctime: time,
            },
            1 => OpKind::SetXattr {
                ino,
                name,
                value: Bytes::copy_from_slice(&self.rng.bytes::<4>()),
                time,
            },
            _ => OpKind::RemoveXattr { ino, name, time },
        }
    }

    fn write(&mut self, index: usize, inode: &Inode, time: dfs::base::Timespec) {
        if self.alike {
            let text = ["", "one", "two"][self.rng.below(3) as usize];
            let device = &self.devices[index];
            device.overwrite(inode.ino, text);
            return;
        }
        self.model.tokens += 1;
        let token = format!("<{}{}>", name_of(index), self.model.tokens);
        let (ino, base) = (inode.ino, inode.version);
        let len = token.len() as u64;
        let appended = self.chance(3);
        let kind = if appended {
            OpKind::Append(Append {
                ino,
                base,
                len,
                pieces: vec![inline(0, &token)],
                mtime: time,
                ctime: time,
                mode: None,
            })
        } else {
            let at = match self.rng.below(3) {
                0 => inode.size,
                1 => 0,
                _ => self.rng.below(64),
            };
            let mut pieces = vec![inline(at, &token)];
            if self.chance(3) {
                pieces.push(Piece {
                    offset: at + len + self.rng.below(8),
                    len: 1 + self.rng.below(16),
                    src: self.chance(2).then(|| Source::Chunk {
                        id: ChunkId(self.rng.bytes()),
                        skip: 3,
                    }),
                });
            }
            let end = pieces.iter().map(|piece| piece.offset + piece.len).max();
            let end = end.unwrap_or(0);
            let size = if self.chance(3) {
                end
            } else {
                end.max(inode.size)
            };
            OpKind::Write(Write {
                ino,
                base,
                size,
                pieces,
                mtime: time,
                ctime: time,
                mode: self.chance(5).then_some(0o600),
                empties: false,
            })
        };
        let device = &self.devices[index];
        self.model.go_on(base, &device.bytes_of(ino));
        let id = device.apply(kind).id;
        self.model.issued(index, id);
        let bytes = device.bytes_of(ino);
        let made_by_merge = device.log.author(base.log).is_none();
        let on_joined = self.model.contents.get(&base).is_some_and(|on| on.joined);
        // Where another chain counts there may be no such conflict file: what was changed of it is kept.
        let may_not_be = self.apart.is_some() && inode.origin.is_some();
        let content = Content {
            bytes,
            token,
            joined: appended || made_by_merge || on_joined || may_not_be,
        };
        let token = content.token.as_bytes().to_vec();
        self.model.by_token.entry(token).or_default().push(id);
        self.model.contents.insert(id, content);
    }

    /// Checks that every newest content of some device that nobody went on from is in a file.
    fn check_nothing_lost(&self) {
        let device = &self.devices[0];
        let mut files: BTreeSet<Vec<u8>> = BTreeSet::new();
        for found in Self::entries(device) {
            if found.inode.kind == FileKind::File {
                files.insert(device.bytes_of(found.inode.ino));
            }
        }
        let kept_tokens: BTreeSet<&[u8]> = files.iter().flat_map(|file| tokens(file)).collect();
        for (id, content) in &self.model.contents {
            let author = device.log.author(id.log);
            let may_not_count = author.is_none_or(|author| self.model.removed.contains(&author));
            let gone_on = self.model.gone_on.contains(content.token.as_bytes());
            if self.model.superseded.contains(id) || gone_on || may_not_count {
                continue;
            }
            let kept = if content.joined {
                kept_tokens.contains(content.token.as_bytes())
            } else {
                files.contains(&content.bytes)
            };
            assert!(
                kept,
                "seed {}: {} of {id:?} is in no file",
                self.seed, content.token
            );
        }
    }
}

fn run(seed: u64, count: usize, crashes: bool) {
    println!("seed {seed}, {count} devices");
    let mut run = Run::new(seed, count, crashes);
    for _ in 0..STEPS {
        run.step();
    }
    sync(&run.devices);
    run.check_nothing_lost();
    for device in &mut run.devices {
        device.restart();
    }
    agree(&run.devices);
    // Where all have all of it, nothing is kept to fold it again.
    (0..3).for_each(|_| run.meet());
    sync(&run.devices);
    for device in &run.devices {
        assert_eq!(device.left_count(), 0, "seed {seed}: {}", device.index());
    }
}

fn seeds() -> std::ops::Range<u64> {
    // `DFS_SEED=n` runs that one alone; `DFS_SEEDS=n` runs more of them.
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("DFS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DFS_SEEDS").unwrap_or(15),
    }
}

#[test]
fn two_devices_agree_whatever_crosses() {
    for seed in seeds() {
        run(seed, 2, false);
    }
}

#[test]
fn four_devices_agree_whatever_crosses() {
    for seed in seeds() {
        run(1_000_000 + seed, 4, false);
    }
}

#[test]
fn devices_agree_where_they_write_the_same() {
    for seed in seeds() {
        println!("seed {seed}");
        let mut run = Run::new(3_000_000 + seed, 3, false);
        run.alike = true;
        for _ in 0..STEPS {
            run.step();
        }
        sync(&run.devices);
        for device in &mut run.devices {
            device.restart();
        }
        agree(&run.devices);
    }
}

#[test]
fn devices_agree_though_they_lose_power() {
    for seed in seeds() {
        run(2_000_000 + seed, 3, true);
    }
}

#[test]
fn devices_agree_though_some_are_removed_and_go_on_to_write() {
    for seed in seeds() {
        println!("seed {seed}");
        let mut run = Run::new(4_000_000 + seed, 4, false);
        run.removes = true;
        for _ in 0..STEPS {
            run.step();
        }
        // Until a record says so, who was removed keeps to itself what it had not sealed.
        exchange_all(&run.devices);
        run.commit();
        sync(&run.devices);
        run.check_nothing_lost();
        for device in &mut run.devices {
            device.restart();
        }
        agree(&run.devices);
    }
}

#[test]
fn devices_agree_whatever_else_they_do() {
    for seed in seeds() {
        println!("seed {seed}");
        let mut run = Run::new(5_000_000 + seed, 4, false);
        run.wide = true;
        for _ in 0..STEPS {
            run.step();
        }
        sync(&run.devices);
        run.check_nothing_lost();
        for device in &mut run.devices {
            device.restart();
        }
        agree(&run.devices);
    }
}
