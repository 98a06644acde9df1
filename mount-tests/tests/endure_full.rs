//! A full disk: the right call says so, nothing is damaged, and all is well when there is room.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::{Command, Peer, Scenario, Start, scenario, wait_until};

const MINUTES: Duration = Duration::from_secs(60);
const ENOSPC: i32 = 28;

/// A peer whose state folder is a disk of its own.
struct OnSmallDisk {
    peer: Peer,
    /// What another program keeps there, for the time being.
    others: PathBuf,
    /// What was fsynced, or stored and closed while there was room.
    kept: BTreeMap<PathBuf, Vec<u8>>,
}

impl OnSmallDisk {
    fn start(s: &mut Scenario, mib: u64) -> Self {
        let peer = s.peer("a");
        let image = s.path("disk.image");
        let others = peer.state().join("others");
        Command::shell(
            "truncate -s \"$2M\" \"$0\"; mkfs.ext4 -q \"$0\"; mkdir -p \"$1\"; \
             mount -o loop \"$0\" \"$1\"; chmod 700 \"$1\"",
        )
        .arg(&image)
        .arg(peer.state())
        .arg(mib.to_string())
        .ok();
        let mut this = Self {
            peer,
            others,
            kept: BTreeMap::new(),
        };
        this.peer.mount(&Start::new_volume());
        Command::new("fallocate")
            .args(["-l", "200M"])
            .arg(&this.others)
            .ok();
        this
    }

    fn make_room(&self) {
        fs::remove_file(&self.others).expect("removed");
    }

    /// Writes a file and remembers it where it was fsynced.
    fn write(&mut self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        let path = PathBuf::from(name);
        write_and_sync(&self.peer.path(&path), &bytes)?;
        self.kept.insert(path, bytes);
        Ok(())
    }

    /// Writes files of a size until one is refused; the refused one is removed, as a program that
    /// cleans up does. Returns how many fitted.
    fn fill(&mut self, what: &str, size: usize) -> usize {
        for number in 0.. {
            let name = format!("{what} {number}");
            match self.write(&name, pattern(size, number as u64)) {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(ENOSPC), "{name}: {error}");
                    let path = self.peer.path(&name);
                    if path.exists() {
                        fs::remove_file(path).expect("removed from a full disk");
                    }
                    return number;
                }
            }
        }
        unreachable!("the disk is full at some time")
    }

    fn remove(&mut self, name: &str) {
        fs::remove_file(self.peer.path(name)).expect("removed from a full disk");
        self.kept.remove(Path::new(name));
    }

    /// Checks that everything that was kept is there, and nothing else.
    fn check(&self, when: &str) {
        for (path, bytes) in &self.kept {
            let read = fs::read(self.peer.path(path));
            let read = read.unwrap_or_else(|error| panic!("{when}: {}: {error}", path.display()));
            assert!(read == *bytes, "{when}: {} differs", path.display());
        }
        let listed = fs::read_dir(self.peer.mountpoint()).expect("listed");
        let names: Vec<_> = listed
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names.len(), self.kept.len(), "{when}: {names:?}");
    }

    /// Takes what every program may of the disk, and leaves what the file system keeps for root.
    fn fill_but_for_root(&self) {
        let filler = self.peer.state().join("filler");
        Command::shell(
            "n=$(stat -f -c '%a * %S' \"$1\"); fallocate -l $(($n)) \"$0\" && sync -f \"$1\"",
        )
        .arg(filler)
        .arg(self.peer.state())
        .ok();
    }

    /// Takes the last byte of the disk, as another program may.
    fn fill_from_outside(&self) -> PathBuf {
        let filler = self.peer.state().join("filler");
        // Ends where there is no room, which is what it is for.
        Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", "oflag=append", "conv=notrunc"])
            .arg(format!("of={}", filler.display()))
            .run();
        filler
    }

    /// Waits until a write succeeds: the disk takes a moment to count what was given back.
    fn wait_for_room(&mut self) {
        wait_until("there is room", MINUTES, || {
            self.write("with room again", pattern(3 << 20, 99)).ok()
        });
    }
}

fn write_and_sync(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[test]
fn a_full_disk_is_told_by_the_fsync_at_the_latest_and_room_helps() {
    scenario("full", 8 * MINUTES, |s| {
        let mut disk = OnSmallDisk::start(s, 512);
        let large = disk.fill("large", 20 << 20);
        let small = disk.fill("small", 15_000);
        println!("{large} large and {small} small files fitted");
        assert!(large > 3 && small > 10, "there are 300 MiB for them");
        disk.check("when full");
        for number in (0..small).step_by(2) {
            disk.remove(&format!("small {number}"));
        }
        disk.remove("large 0");
        fs::rename(disk.peer.path("large 1"), disk.peer.path("moved")).expect("renamed");
        let moved = disk.kept.remove(Path::new("large 1")).expect("it was kept");
        disk.kept.insert("moved".into(), moved);
        disk.check("after removals");

        // Neither a clean end nor a kill loses anything, and both start on the full disk.
        disk.peer.terminate();
        disk.peer.restart();
        disk.check("after a clean end");
        disk.peer.kill();
        disk.peer.restart();
        disk.check("after a kill");

        disk.make_room();
        disk.wait_for_room();
        disk.check("with room");
        disk.peer.terminate();
        disk.peer.restart();
        disk.check("in the end");
    });
}

#[test]
fn removing_large_files_makes_room_for_others() {
    scenario("room", 8 * MINUTES, |s| {
        let mut disk = OnSmallDisk::start(s, 512);
        let first = disk.fill("large", 20 << 20);
        for number in 1..first {
            disk.remove(&format!("large {number}"));
        }
        disk.wait_for_room();
        disk.remove("with room again");
        // Not the last bit of it: how soon the last removal counts is nobody's promise.
        for number in 0..first / 2 {
            let name = format!("second {number}");
            wait_until("there is room for another", MINUTES, || {
                disk.write(&name, pattern(20 << 20, 100 + number as u64))
                    .ok()
            });
        }
        disk.check("with other large files");
    });
}

#[test]
fn a_disk_that_others_fill_still_lets_files_be_removed() {
    scenario("filled", 8 * MINUTES, |s| {
        let mut disk = OnSmallDisk::start(s, 840);
        for number in 0..100 {
            let name = format!("file {number}");
            disk.write(&name, pattern(50_000, number))
                .expect("there is room");
        }
        for round in 0..2 {
            let filler = disk.fill_from_outside();
            let refused = disk.write("too much", pattern(3 << 20, 1));
            let error = refused.expect_err("there is no room");
            assert_eq!(error.raw_os_error(), Some(ENOSPC), "{error}");
            if disk.peer.path("too much").exists() {
                fs::remove_file(disk.peer.path("too much")).expect("removed");
            }
            for number in 0..30 {
                disk.remove(&format!("file {}", 30 * round + number));
            }
            disk.check("when filled");
            if round == 1 {
                disk.peer.kill();
                disk.peer.restart();
                disk.check("after a kill");
            }
            fs::remove_file(filler).expect("removed");
            disk.wait_for_room();
            disk.check("with room");
        }
        disk.peer.terminate();
        disk.peer.restart();
        disk.check("in the end");
    });
}

#[test]
fn all_of_a_small_volume_can_be_removed_when_others_take_the_last_byte() {
    scenario("filled-small", 8 * MINUTES, |s| {
        let mut disk = OnSmallDisk::start(s, 840);
        let mut number = 0;
        for round in 0..2 {
            for size in [0, 1, 2_000].repeat(200) {
                let path = PathBuf::from(format!("file {number}"));
                let bytes = pattern(size, number);
                fs::write(disk.peer.path(&path), &bytes).expect("there is room");
                disk.kept.insert(path, bytes);
                number += 1;
            }
            // What others have not taken yet they take later.
            disk.fill_but_for_root();
            let path = PathBuf::from(format!("late {round}"));
            write_and_sync(&disk.peer.path(&path), b"late").expect("what is small goes on");
            disk.kept.insert(path, b"late".into());
            let filler = disk.fill_from_outside();
            // Fsync keeps what was acknowledged, on a disk without a byte.
            let last = File::open(disk.peer.path(format!("file {}", number - 1)));
            last.and_then(|file| file.sync_all()).expect("synced");
            disk.peer.kill();
            disk.peer.restart();
            disk.check("after a kill");
            for path in disk.kept.keys().cloned().collect::<Vec<_>>() {
                disk.remove(path.to_str().expect("text"));
            }
            disk.check("without files");
            if round == 0 {
                disk.peer.kill();
            } else {
                disk.peer.terminate();
            }
            disk.peer.restart();
            disk.check("after removals");
            fs::remove_file(filler).expect("removed");
            disk.wait_for_room();
            disk.remove("with room again");
        }
    });
}

#[test]
fn all_of_many_files_can_be_removed_when_others_take_the_last_byte() {
    scenario("filled-many", 8 * MINUTES, |s| {
        const FILES: u64 = 12_000;
        let mut disk = OnSmallDisk::start(s, 840);
        for number in 0..FILES {
            let path = disk.peer.path(format!("file {number}"));
            // Several tables of rows, and the last of them full of contents.
            let size = if number < FILES / 2 { 0 } else { 1_000 };
            fs::write(path, pattern(size, number)).expect("there is room");
        }
        disk.fill_but_for_root();
        let filler = disk.fill_from_outside();
        for number in 0..FILES {
            let path = disk.peer.path(format!("file {number}"));
            fs::remove_file(path).unwrap_or_else(|error| panic!("{number}: {error}"));
        }
        disk.peer.kill();
        disk.peer.restart();
        disk.check("after removals");
        fs::remove_file(filler).expect("removed");
        disk.wait_for_room();
        disk.check("with room");
    });
}

#[test]
fn what_was_written_without_fsync_is_told_at_close_or_kept_for_later() {
    scenario("full-close", 5 * MINUTES, |s| {
        let mut disk = OnSmallDisk::start(s, 512);
        // Open before the disk is full, written after.
        let path = disk.peer.path("open before");
        let mut file = File::create(&path).expect("created");
        disk.fill("large", 20 << 20);
        let bytes = pattern(45 << 20, 5);
        // Memory takes it, the disk does not, although what the last one left is given up; whoever asks is told.
        let told = file.write_all(&bytes).and_then(|()| file.sync_all());
        assert_eq!(told.expect_err("full").raw_os_error(), Some(ENOSPC));
        // The bytes are still there, for a second try.
        disk.make_room();
        let written = fs::metadata(&path).expect("stat").len() as usize;
        wait_until("the second try succeeds", MINUTES, || file.sync_all().ok());
        disk.kept
            .insert("open before".into(), bytes[..written].to_vec());
        disk.peer.kill();
        disk.peer.restart();
        disk.check("in the end");
    });
}
