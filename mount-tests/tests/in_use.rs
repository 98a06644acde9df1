//! Folders in which somebody works, or something is mounted, while others move them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mount_tests::{Command, Peer, Start, scenario, wait_for_content, wait_until};

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
