//! Folders in which somebody works, or something is mounted, while others move them; files that somebody
//! has open while others write them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mount_tests::{
    Command, Peer, Start, scenario, wait_for_a_later_stamp, wait_for_content, wait_until,
};

const MINUTES: Duration = Duration::from_secs(60);

/// A process that works in a folder until it is dropped.
struct Worker(std::process::Child);

impl Worker {
    fn new(folder: &Path) -> Self {
        let mut command = std::process::Command::new("sleep");
        let child = command.arg("600").current_dir(folder).spawn();
        Self(child.expect("works there"))
    }

    /// Returns where it works, as the kernel has it.
    fn place(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/cwd", self.0.id())).expect("alive")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for_place(worker: &Worker, place: &Path) {
    wait_until(&format!("it works in {}", place.display()), MINUTES, || {
        (worker.place() == place).then_some(())
    });
}

fn two(s: &mut mount_tests::Scenario) -> (Peer, Peer) {
    let mut a = s.peer("a");
    let mut b = s.peer("b");
    a.mount(&Start::new_volume());
    b.mount(&Start::join(&a, &a.invite("writer")));
    (a, b)
}

#[test]
fn what_works_in_a_folder_or_is_mounted_below_goes_along_with_it() {
    scenario("in-use", 5 * MINUTES, |s| {
        let (a, b) = two(s);
        for folder in ["proj/sub", "proj/below", "one/in", "two/in"] {
            fs::create_dir_all(a.path(folder)).expect("made");
        }
        fs::write(a.path("proj/sub/file"), "here").expect("written");
        wait_for_content(&b.path("proj/sub/file"), b"here");
        // The kernel knows that there is nothing of the new name.
        assert!(!b.path("renamed").exists());
        let below = b.path("proj/below");
        let mut mount = Command::new("mount").args(["-t", "tmpfs", "none"]);
        mount = mount.arg(&below);
        mount.ok();
        fs::write(below.join("inside"), "of the other").expect("written");
        let worker = Worker::new(&b.path("proj/sub"));
        fs::rename(a.path("proj"), a.path("renamed")).expect("moved");
        wait_for_place(&worker, &b.path("renamed/sub"));
        let below = b.path("renamed/below");
        let inside = fs::read(below.join("inside"));
        Command::new("umount").arg(&below).ok();
        assert_eq!(inside.expect("still mounted"), b"of the other");
        assert!(!below.join("inside").exists());
        assert!(!b.path("proj").exists());
        // Swapped.
        let workers = [
            Worker::new(&b.path("one/in")),
            Worker::new(&b.path("two/in")),
        ];
        for (from, to) in [("one", "three"), ("two", "one"), ("three", "two")] {
            fs::rename(a.path(from), a.path(to)).expect("moved");
        }
        wait_for_place(&workers[0], &b.path("two/in"));
        wait_for_place(&workers[1], &b.path("one/in"));
    });
}

#[test]
fn what_is_mounted_below_a_folder_that_others_remove_stays_until_it_is_unmounted() {
    scenario("in-use", 5 * MINUTES, |s| {
        let (a, b) = two(s);
        for folder in ["proj/deep/below", "itself"] {
            fs::create_dir_all(a.path(folder)).expect("made");
        }
        fs::write(a.path("proj/deep/file"), "text").expect("written");
        fs::write(a.path("last"), "first").expect("written");
        wait_for_content(&b.path("last"), b"first");
        let points = ["proj/deep/below", "itself"].map(|folder| b.path(folder));
        for point in &points {
            Command::new("mount")
                .args(["-t", "tmpfs", "none"])
                .arg(point)
                .ok();
            fs::write(point.join("inside"), "of the other").expect("written");
        }
        fs::remove_dir_all(a.path("proj")).expect("removed");
        fs::remove_dir(a.path("itself")).expect("removed");
        // One that is new by that name.
        fs::create_dir(a.path("proj")).expect("made");
        fs::write(a.path("proj/new"), "new").expect("written");
        fs::write(a.path("last"), "second").expect("written");
        // The kernel is told of that together with what is gone, or after.
        wait_for_content(&b.path("last"), b"second");
        wait_until("what was removed is told", MINUTES, || {
            let names = fs::read_dir(b.mountpoint()).ok()?;
            let mut names = names.filter_map(|name| name.ok()?.file_name().into_string().ok());
            (!names.any(|name| name == "itself")).then_some(())
        });
        for point in &points {
            fs::write(point.join("more"), "more").expect("still mounted");
            let inside = fs::read(point.join("inside"));
            assert_eq!(inside.expect("still mounted"), b"of the other");
        }
        assert!(fs::create_dir(b.path("itself")).is_err());
        assert!(fs::write(b.path("proj/deep/made"), "x").is_err());
        assert!(!b.path("proj/deep/file").exists());
        for point in &points {
            Command::new("umount").arg(point).ok();
        }
        wait_for_content(&b.path("proj/new"), b"new");
        wait_until("they are gone", MINUTES, || {
            let is_gone = ["itself", "proj/deep"].map(|name| !b.path(name).exists());
            (is_gone == [true, true]).then_some(())
        });
        for peer in [&a, &b] {
            let names = fs::read_dir(peer.path("proj")).expect("listed");
            assert_eq!(names.count(), 1);
        }
        fs::create_dir(b.path("itself")).expect("free");
    });
}

#[test]
fn a_folder_that_became_one_with_another_is_that_of_who_works_in_it() {
    scenario("in-use", 5 * MINUTES, |s| {
        let (a, b) = two(s);
        s.network().cut("b");
        let mut workers = Vec::new();
        for peer in [&a, &b] {
            fs::create_dir_all(peer.path("same/deep")).expect("made");
            fs::write(peer.path(format!("same/deep/of {}", peer.name())), "x").expect("written");
            workers.push(Worker::new(&peer.path("same/deep")));
        }
        s.network().mend("b");
        for (peer, worker) in [&a, &b].into_iter().zip(&workers) {
            for of in ["a", "b"] {
                wait_for_content(&peer.path(format!("same/deep/of {of}")), b"x");
            }
            assert_eq!(worker.place(), peer.path("same/deep"));
            let here = PathBuf::from(format!("/proc/{}/cwd", worker.0.id()));
            let mut names: Vec<_> = fs::read_dir(&here)
                .expect("listed")
                .map(|entry| entry.expect("read").file_name())
                .collect();
            names.sort();
            assert!(
                ["of a", "of b"]
                    .iter()
                    .all(|of| names.iter().any(|name| name == of)),
                "{names:?}"
            );
            fs::write(here.join(format!("new {}", peer.name())), "new").expect("written");
        }
        for peer in [&a, &b] {
            for of in ["a", "b"] {
                wait_for_content(&peer.path(format!("same/deep/new {of}")), b"new");
            }
        }
    });
}

#[test]
fn what_others_wrote_meanwhile_is_kept_where_a_mapped_page_is_written_back() {
    scenario("in-use", 5 * MINUTES, |s| {
        let (a, b) = two(s);
        fs::write(a.path("file"), [b'.'; 4096]).expect("written");
        wait_for_content(&b.path("file"), &[b'.'; 4096]);
        let mapped = s.path("mapped");
        // Stores into a page and leaves it dirty, until the other machine's write has come.
        let script = "import mmap, sys, time, os
with open(sys.argv[1], 'r+b') as file:
    page = mmap.mmap(file.fileno(), 4096)
    page[100:104] = b'mine'
    open(sys.argv[2], 'w').close()
    while not any('conflict' in name for name in os.listdir(os.path.dirname(sys.argv[1]))):
        time.sleep(0.05)
";
        let mut command = std::process::Command::new("python3");
        command
            .args(["-c", script])
            .arg(b.path("file"))
            .arg(&mapped);
        let worker = Worker(command.spawn().expect("started"));
        wait_until("the page is dirty", MINUTES, || {
            mapped.exists().then_some(())
        });
        let mut theirs = [b'.'; 4096];
        theirs[2000..2006].copy_from_slice(b"theirs");
        fs::write(a.path("file"), theirs).expect("written");
        wait_until("both are kept", MINUTES, || {
            let files = fs::read_dir(a.mountpoint()).ok()?;
            let contents: Vec<Vec<u8>> = files
                .filter_map(|file| fs::read(file.ok()?.path()).ok())
                .collect();
            let has = |text: &[u8]| {
                let holds = |content: &Vec<u8>| content.windows(text.len()).any(|at| at == text);
                contents.iter().any(holds)
            };
            (has(b"mine") && has(b"theirs")).then_some(())
        });
        drop(worker);
    });
}

/// A program that does what it is told, a line at a time, until it is dropped.
struct Program {
    child: std::process::Child,
    says: BufReader<std::process::ChildStdout>,
}

impl Program {
    fn new() -> Self {
        let script = "import fcntl, mmap, os, sys
from os import *
here = dict(globals())
for line in sys.stdin:
    try:
        said = eval(line, here)
    except SyntaxError:
        said = exec(line, here)
    except Exception as error:
        said = error
    print(repr(said), flush=True)
";
        let mut command = std::process::Command::new("python3");
        command.args(["-c", script]);
        command.stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("started");
        let says = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, says }
    }

    /// Does a line of Python and returns what it says.
    fn does(&mut self, line: &str) -> String {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{line}").expect("alive");
        let mut said = String::new();
        self.says.read_line(&mut said).expect("alive");
        said.trim_end().to_owned()
    }

    fn open(&mut self, file: &str, path: &Path, flags: &str) {
        let path = path.display();
        let said = self.does(&format!("{file} = open({path:?}, {flags})"));
        assert_eq!(said, "None");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the name of the one file that stands aside of another, once it is there.
fn wait_for_aside(peer: &Peer, of: &str) -> String {
    let stem = of.split('.').next().unwrap_or(of);
    wait_until(&format!("{of} stands aside"), MINUTES, || {
        let names = fs::read_dir(peer.mountpoint()).ok()?;
        let names = names.filter_map(|name| name.ok()?.file_name().into_string().ok());
        names
            .filter(|name| name.starts_with(&format!("{stem} (conflict")))
            .min()
    })
}

#[test]
fn who_has_a_file_open_goes_on_with_what_it_wrote() {
    scenario("in-use", 5 * MINUTES, |s| {
        let (a, b) = two(s);
        let (file, log) = (b.path("file"), b.path("log"));
        fs::write(a.path("file"), [b'.'; 65536]).expect("written");
        fs::write(a.path("log"), "begun\n").expect("written");
        wait_for_content(&file, &[b'.'; 65536]);
        wait_for_content(&log, b"begun\n");
        let number = fs::metadata(&file).expect("there").ino();
        let mut program = Program::new();
        let mut reader = Program::new();
        reader.open("file", &file, "O_RDONLY");
        program.open("file", &file, "O_RDWR");
        program.open("log", &log, "O_RDWR | O_APPEND");
        program.does("map = mmap.mmap(file, 65536)");
        program.does("fcntl.flock(file, fcntl.LOCK_EX)");
        s.network().cut("b");
        program.does("pwrite(file, b'ours' * 1024, 0), fsync(file)");
        program.does("write(log, b'of b\\n'), fsync(log)");
        // Left in the kernel's pages.
        program.does("map[32768:32772] = b'page'");
        let mut theirs = [b'.'; 65536];
        theirs[8192..8198].copy_from_slice(b"theirs");
        wait_for_a_later_stamp();
        fs::write(a.path("file"), theirs).expect("written");
        let mut appends = fs::OpenOptions::new();
        let mut appends = appends.append(true).open(a.path("log")).expect("open");
        writeln!(appends, "of a").expect("written");
        s.network().mend("b");
        let aside = wait_for_aside(&b, "file");
        let by_name = |name: &str, at: usize, len: usize| {
            let bytes = fs::read(b.path(name)).expect("read");
            String::from_utf8_lossy(&bytes[at..at + len]).into_owned()
        };
        wait_until("the name has the other", MINUTES, || {
            (by_name("file", 8192, 6) == "theirs").then_some(())
        });
        // Of pages that it had seen, and of those that it had not.
        let reads =
            "pread(file, 4, 0), pread(file, 6, 8192), pread(file, 4, 32768), map[8192:8198]";
        assert_eq!(
            program.does(reads),
            "(b'ours', b'......', b'page', b'......')"
        );
        let reads = "pread(file, 4, 0), pread(file, 6, 8192)";
        assert_eq!(reader.does(reads), "(b'ours', b'......')");
        let same = format!("fstat(file).st_ino == {number}, fstat(file).st_size");
        assert_eq!(program.does(&same), "(True, 65536)");
        let found = |name: &str| fs::metadata(b.path(name)).expect("there").ino();
        assert_eq!(found(&aside), number);
        assert_ne!(found("file"), number);
        // What it does then is all in one file.
        program.does("map[40960:40964] = b'more'");
        program.does("map.flush()");
        program.does("again = open('/proc/self/fd/%d' % file, O_RDWR)");
        program.does("pwrite(again, b'again', 4096), close(again)");
        program.does("copy_file_range(file, file, 4096, 0, 20480)");
        program.does("ftruncate(file, 49152), fchmod(file, 0o600), fsync(file)");
        program.does("setxattr(file, 'user.tag', b'ours')");
        let seen = program.does("lseek(file, 0, SEEK_DATA), fstat(file).st_size");
        assert_eq!(seen, "(0, 49152)");
        fs::rename(b.path(&aside), b.path("mine")).expect("renamed");
        let whole = |peer: &Peer| {
            let bytes = fs::read(peer.path("mine")).ok()?;
            let at = |at: usize, text: &[u8]| bytes.get(at..at + text.len()) == Some(text);
            let has = at(0, b"ours") && at(32768, b"page") && at(40960, b"more");
            (has && at(4096, b"again") && at(20480, b"ours") && bytes.len() == 49152).then_some(())
        };
        for peer in [&a, &b] {
            wait_until("all of it is in one file", MINUTES, || whole(peer));
            let mut found = [0; 6];
            let bytes = fs::read(peer.path("file")).expect("there");
            found.copy_from_slice(&bytes[8192..8198]);
            assert_eq!((&found, bytes.len()), (b"theirs", 65536));
            assert_eq!(bytes.iter().filter(|byte| **byte != b'.').count(), 6);
        }
        // What others write to it then is its as well.
        fs::write(a.path("mine"), "built on it").expect("written");
        wait_until("it is read by who has it open", MINUTES, || {
            (program.does("pread(file, 100, 0)") == "b'built on it'").then_some(())
        });
        // Appends were joined: one file, and who appends goes on with it.
        program.does("write(log, b'again\\n'), fsync(log)");
        for peer in [&a, &b] {
            wait_until("the log has all lines", MINUTES, || {
                let log = fs::read_to_string(peer.path("log")).ok()?;
                let joined = ["begun\nof a\nof b\nagain\n", "begun\nof b\nof a\nagain\n"];
                joined.contains(&&*log).then_some(())
            });
        }
        // Closed, all have their numbers.
        program.does("map.close(), close(file)");
        reader.does("close(file)");
        wait_until("the numbers are those of all", MINUTES, || {
            let same = |name: &str| {
                fs::metadata(a.path(name))
                    .ok()?
                    .ino()
                    .eq(&found(name))
                    .then_some(())
            };
            same("mine").and_then(|_| same("file"))
        });
        assert_eq!(found("file"), number);
        assert_eq!(by_name("mine", 0, 11), "built on it");
        assert_eq!(by_name("file", 8192, 6), "theirs");
    });
}

#[test]
fn a_file_that_others_removed_is_back_when_who_has_it_open_writes() {
    scenario("in-use", 5 * MINUTES, |s| {
        let (a, b) = two(s);
        fs::create_dir(a.path("dir")).expect("made");
        for name in ["notes", "dir/mapped", "kept"] {
            fs::write(a.path(name), [b'.'; 16384]).expect("written");
            wait_for_content(&b.path(name), &[b'.'; 16384]);
        }
        let mut program = Program::new();
        for (file, name) in [
            ("notes", "notes"),
            ("mapped", "dir/mapped"),
            ("kept", "kept"),
        ] {
            program.open(file, &b.path(name), "O_RDWR");
        }
        program.does("map = mmap.mmap(mapped, 16384)");
        for name in ["notes", "dir/mapped", "kept"] {
            fs::remove_file(a.path(name)).expect("removed");
        }
        fs::remove_dir(a.path("dir")).expect("removed");
        wait_until("they are gone", MINUTES, || {
            let is_gone = ["notes", "dir", "kept"].map(|name| !b.path(name).exists());
            is_gone.iter().all(|is_gone| *is_gone).then_some(())
        });
        program.does("pwrite(notes, b'ours', 4096), fsync(notes)");
        program.does("map[8192:8196] = b'page'");
        let reads = "pread(notes, 4, 0), pread(notes, 4, 4096), map[8192:8196]";
        assert_eq!(program.does(reads), "(b'....', b'ours', b'page')");
        // Closed with its pages not written back yet.
        program.does("map.close(), close(mapped)");
        for peer in [&a, &b] {
            for (name, at, text) in [("notes", 4096, b"ours"), ("mapped", 8192, b"page")] {
                let mut whole = [b'.'; 16384];
                whole[at..at + 4].copy_from_slice(text);
                wait_for_content(&peer.path(name), &whole);
            }
            assert!(!peer.path("kept").exists());
        }
        program.does("pwrite(notes, b'more', 0), fsync(notes)");
        let mut whole = [b'.'; 16384];
        whole[..4].copy_from_slice(b"more");
        whole[4096..4100].copy_from_slice(b"ours");
        wait_for_content(&a.path("notes"), &whole);
        fs::write(a.path("notes"), "built on it").expect("written");
        wait_until("it is read by who has it open", MINUTES, || {
            (program.does("pread(notes, 100, 0)") == "b'built on it'").then_some(())
        });
    });
}
