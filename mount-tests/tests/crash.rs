//! kill -9 in a loop: a writer notes each operation that was acknowledged and each fsync that
//! returned in a file outside of the mount; after each kill all of them must be there.
//!
//! `DFS_CRASH_ROUNDS=N` kills more often, `DFS_CRASH_SEED=N` repeats a run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mount_tests::model::op::Dice;
use mount_tests::source::pattern;
use mount_tests::tree::{assert_equal, read_tree};
use mount_tests::{Peer, Start, Trio, scenario, spawn, wait_for_content, wait_until};

const MINUTES: Duration = Duration::from_secs(60);

fn number(variable: &str, usual: u64) -> u64 {
    let asked = std::env::var(variable);
    asked.map_or(usual, |text| text.parse().expect("a number"))
}

/// What a program was told of a file.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The content as of the last close or fsync that returned.
    handed_over: Vec<u8>,
    /// Contents since then that may be there as well, the newest last.
    since: Vec<Vec<u8>>,
}

impl Known {
    fn now(&self) -> &Vec<u8> {
        self.since.last().unwrap_or(&self.handed_over)
    }
}

/// What was acknowledged, by name, and what was being done when the mount died.
#[derive(Debug, Default)]
struct Ledger {
    files: BTreeMap<String, Known>,
    /// The names that the operation in progress was about.
    pending: Vec<String>,
}

/// A program that works with files of one folder and remembers what it was told.
struct Writer {
    folder: PathBuf,
    dice: Dice,
    ledger: Ledger,
    /// What it did, outside of the mount, for whoever looks into a failure.
    notes: BufWriter<File>,
    done: Arc<AtomicU64>,
    made: u64,
}

impl Writer {
    /// Works until the mount is gone.
    fn work(mut self, stop: &AtomicBool) -> Ledger {
        while !stop.load(Ordering::Relaxed) {
            match self.step() {
                Ok(()) => {
                    self.ledger.pending.clear();
                    self.done.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let _ = writeln!(self.notes, "failed: {error}");
                    break;
                }
            }
        }
        let _ = self.notes.flush();
        self.ledger
    }

    fn step(&mut self) -> io::Result<()> {
        let names: Vec<String> = self.ledger.files.keys().cloned().collect();
        let any = names.get(self.dice.index().checked_rem(names.len()).unwrap_or(0));
        match (self.dice.below(10), any.cloned()) {
            (0..4, Some(name)) => self.change(&name),
            (4, Some(name)) => self.remove(&name),
            (5, Some(name)) => self.rename(&name),
            (6, Some(name)) => self.replace(&name),
            _ => self.create(),
        }
    }

    fn note(&mut self, what: &str, names: &[&str]) -> io::Result<()> {
        self.ledger.pending = names.iter().map(|name| (*name).to_owned()).collect();
        writeln!(self.notes, "{what} {names:?}")
    }

    fn new_name(&mut self) -> String {
        self.made += 1;
        format!("file {}", self.made)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let size = self
            .dice
            .one_of(&[0, 10, 3000, 17_000, 300_000, (1 << 20) + 5]);
        pattern(size, self.dice.any())
    }

    fn create(&mut self) -> io::Result<()> {
        let (name, bytes) = (self.new_name(), self.bytes());
        self.note("create", &[&name])?;
        let mut file = File::create_new(self.folder.join(&name))?;
        let known = Known {
            handed_over: Vec::new(),
            since: vec![bytes.clone()],
        };
        self.ledger.files.insert(name.clone(), known);
        file.write_all(&bytes)?;
        self.finish(file, &name, bytes)
    }

    /// Writes into a file in several places, with an fsync in between.
    fn change(&mut self, name: &str) -> io::Result<()> {
        self.note("change", &[name])?;
        let file = File::options().write(true).open(self.folder.join(name))?;
        let mut content = self.known(name).now().clone();
        for _ in 0..1 + self.dice.below(4) {
            let at = self.dice.below(content.len() as u64 + 1) as usize;
            let size = self.dice.one_of(&[1, 100, 4096, 20_000]);
            let piece = pattern(size, self.dice.any());
            let end = (at + size).max(content.len());
            content.resize(end, 0);
            content[at..at + size].copy_from_slice(&piece);
            self.known(name).since.push(content.clone());
            file.write_all_at(&piece, at as u64)?;
            if self.dice.below(3) == 0 {
                file.sync_data()?;
                self.handed_over(name, content.clone(), "fsynced")?;
            }
        }
        self.finish(file, name, content)
    }

    /// Ends the work on a file: what a close returned from is in the journal.
    fn finish(&mut self, file: File, name: &str, content: Vec<u8>) -> io::Result<()> {
        if self.dice.below(4) == 0 {
            file.sync_all()?;
        }
        self.close(file)?;
        self.handed_over(name, content, "closed")
    }

    /// Closes a file, and fails where the daemon was gone by then: std tells nothing of how a close
    /// ended, but a daemon that answers afterwards has answered the close.
    fn close(&self, file: File) -> io::Result<()> {
        drop(file);
        File::open(&self.folder).map(drop)
    }

    fn handed_over(&mut self, name: &str, content: Vec<u8>, how: &str) -> io::Result<()> {
        *self.known(name) = Known {
            handed_over: content,
            since: Vec::new(),
        };
        writeln!(self.notes, "{how} {name:?}")
    }

    fn known(&mut self, name: &str) -> &mut Known {
        self.ledger.files.entry(name.to_owned()).or_default()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.note("remove", &[name])?;
        fs::remove_file(self.folder.join(name))?;
        self.ledger.files.remove(name);
        Ok(())
    }

    fn rename(&mut self, name: &str) -> io::Result<()> {
        let to = self.new_name();
        self.note("rename", &[name, &to])?;
        fs::rename(self.folder.join(name), self.folder.join(&to))?;
        if let Some(known) = self.ledger.files.remove(name) {
            self.ledger.files.insert(to, known);
        }
        Ok(())
    }

    /// Writes beside and renames over, as editors do, without an fsync.
    fn replace(&mut self, name: &str) -> io::Result<()> {
        let bytes = self.bytes();
        // A new name each time: what a kill left beside is a file like others from then on.
        let beside = self.new_name();
        self.note("replace", &[name, &beside])?;
        self.known(name).since.push(bytes.clone());
        let mut file = File::create(self.folder.join(&beside))?;
        file.write_all(&bytes)?;
        self.close(file)?;
        fs::rename(self.folder.join(&beside), self.folder.join(name))?;
        self.handed_over(name, bytes, "replaced")
    }
}

impl Ledger {
    /// Checks that all that was acknowledged is in a folder, and takes over what is there.
    fn check(&mut self, folder: &Path, what: &str) {
        let mut there: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for entry in fs::read_dir(folder).expect("listed") {
            let entry = entry.expect("listed");
            let name = entry.file_name().into_string().expect("plain");
            there.insert(name, fs::read(entry.path()).expect("read"));
        }
        for (name, known) in &self.files {
            let is_pending = self.pending.contains(name);
            let Some(content) = there.get(name) else {
                assert!(is_pending, "{what}: {name} is gone");
                continue;
            };
            let known_as = known.since.iter().chain([&known.handed_over]);
            let is_known = known_as.into_iter().any(|known| known == content);
            // What was being written is as after some of the writes, the last of them in part.
            let torn = is_pending && known.since.iter().any(|next| next.starts_with(content));
            assert!(
                is_known || torn,
                "{what}: {name} has {} bytes that nobody handed over",
                content.len()
            );
        }
        for name in there.keys() {
            let is_known = self.files.contains_key(name) || self.pending.contains(name);
            assert!(is_known, "{what}: {name} is there again");
        }
        self.pending.clear();
        let files = there.into_iter().map(|(name, handed_over)| {
            let known = Known {
                handed_over,
                since: Vec::new(),
            };
            (name, known)
        });
        self.files = files.collect();
    }
}

/// Lets a writer work in a folder until the peer is killed after so many operations.
fn work_and_kill(peer: &mut Peer, writer: Writer, operations: u64) -> Ledger {
    let done = Arc::clone(&writer.done);
    let stop = Arc::new(AtomicBool::new(false));
    let thread = spawn({
        let stop = Arc::clone(&stop);
        move || writer.work(&stop)
    });
    wait_until("the writer is on its way", MINUTES, || {
        (done.load(Ordering::Relaxed) >= operations).then_some(())
    });
    peer.kill();
    stop.store(true, Ordering::Relaxed);
    thread.join().expect("the writer ends with its mount")
}

#[test]
fn what_was_acknowledged_survives_a_kill_again_and_again() {
    scenario("kill-loop", 30 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        let seed = number("DFS_CRASH_SEED", 1);
        let rounds = number("DFS_CRASH_ROUNDS", 25);
        println!("seed {seed}, {rounds} rounds");
        let notes = s.path("notes");
        let folder = trio.a.path("work");
        fs::create_dir(&folder).expect("a folder can be made");
        let mut dice = Dice::new(seed);
        let (mut ledger, mut made) = (Ledger::default(), 0);
        for round in 0..rounds {
            let notes = File::options().append(true).create(true).open(&notes);
            let writer = Writer {
                folder: folder.clone(),
                dice: Dice::new(dice.any()),
                ledger,
                notes: BufWriter::new(notes.expect("outside of the mount")),
                done: Arc::default(),
                made,
            };
            let operations = 1 + dice.below(60);
            made += 1_000_000;
            ledger = work_and_kill(&mut trio.a, writer, operations);
            trio.a.restart();
            let what = format!("seed {seed}, round {round}, after {operations} operations");
            ledger.check(&folder, &what);
            let status = trio.a.facts(&["status"]);
            assert_eq!(status["warnings"], serde_json::json!([]), "{what}");
            assert_eq!(status["conflicts"], 0, "{what}");
        }
        // The others come to the same tree.
        fs::write(trio.a.path("the end"), "here").expect("written");
        wait_for_content(&trio.b.path("the end"), b"here");
        assert_equal(
            "on both",
            &read_tree(trio.a.mountpoint()),
            &read_tree(trio.b.mountpoint()),
        );
        trio.sync();
    });
}

#[test]
fn a_kill_right_after_the_start_loses_nothing() {
    scenario("kill-early", 5 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        for round in 0..5 {
            let name = format!("round {round}");
            fs::write(peer.path(&name), &name).expect("written");
            // Once in the middle of work, once with nothing to recover but a recovery.
            for _ in 0..2 {
                peer.kill();
                peer.restart();
                for earlier in 0..=round {
                    let name = format!("round {earlier}");
                    assert_eq!(fs::read(peer.path(&name)).expect("read"), name.as_bytes());
                }
            }
        }
        peer.terminate();
    });
}
