//! Mounts that end while they are used, and tables that are empty again when nobody uses them.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::{Command, Peer, Start, machine, scenario, wait_until};
use rustix::fs::{Mode, OFlags, inotify};

const MINUTES: Duration = Duration::from_secs(60);

fn count(peer: &Peer, what: &str) -> u64 {
    let facts = peer.facts(&["status"]);
    facts[what]
        .as_u64()
        .unwrap_or_else(|| panic!("{what} in {facts}"))
}

#[test]
fn a_mount_in_use_is_not_unmounted_and_works_on() {
    scenario("busy", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut file = File::create(a.path("open")).expect("created");
        file.write_all(b"before ").expect("written");
        let refused = Command::new("umount").arg(a.mountpoint()).run();
        assert!(!refused.status.success(), "{refused}");
        assert!(refused.stderr_text().contains("busy"), "{refused}");
        assert!(a.is_running());
        file.write_all(b"after").expect("written");
        fs::create_dir(a.path("folder")).expect("made");
        assert_eq!(fs::read(a.path("open")).expect("read"), b"before after");
        drop(file);
        a.unmount();
        a.restart();
        assert_eq!(fs::read(a.path("open")).expect("read"), b"before after");
    });
}

#[test]
fn a_lazy_unmount_serves_the_last_user_and_then_ends_in_order() {
    scenario("lazy", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(a.path("open"))
            .expect("created");
        let content = pattern(3 << 20, 1);
        let (first, rest) = content.split_at(1 << 20);
        file.write_all(first).expect("written");
        Command::new("umount").arg("-l").arg(a.mountpoint()).ok();
        assert!(machine::mounts_below(a.mountpoint()).is_empty());
        assert!(a.is_running(), "somebody has a file open");
        file.write_all(rest).expect("written after the unmount");
        let mut read = vec![0; content.len()];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).expect("read");
        assert!(read == content);
        drop(file);
        a.expect_end("the last close after a lazy unmount");
        a.restart();
        assert!(fs::read(a.path("open")).expect("read") == content);
    });
}

#[test]
fn what_is_unwritten_at_sigterm_is_there_afterwards() {
    scenario("term", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let contents = [
            pattern(100, 1),
            pattern(70_000, 2),
            pattern((3 << 20) + 17, 3),
        ];
        // Neither closed nor synced, and written a moment ago.
        let open: Vec<File> = contents
            .iter()
            .enumerate()
            .map(|(number, bytes)| {
                let path = a.path(number.to_string());
                let mut file = File::create(path).expect("created");
                file.write_all(bytes).expect("written");
                file
            })
            .collect();
        a.terminate();
        drop(open);
        a.restart();
        for (number, bytes) in contents.iter().enumerate() {
            let read = fs::read(a.path(number.to_string())).expect("read");
            assert!(read == *bytes, "file {number} differs");
        }
    });
}

#[test]
fn a_read_only_mount_changes_nothing_and_says_so() {
    scenario("read-only", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        fs::write(a.path("file"), "content").expect("written");
        fs::create_dir(a.path("folder")).expect("made");
        std::os::unix::fs::symlink("file", a.path("link")).expect("made");
        a.terminate();
        a.mount(&Start::again().arg("-o").arg("ro"));
        assert_eq!(fs::read(a.path("link")).expect("read"), b"content");
        let file = a.path("file");
        let open = |options: &mut OpenOptions| options.open(&file).map(drop);
        let set = |program: &str, args: &[&str]| {
            let done = Command::new(program).args(args).arg(&file).run();
            assert!(done.stderr_text().contains("Read-only"), "{done}");
            Err(std::io::Error::from(std::io::ErrorKind::ReadOnlyFilesystem))
        };
        let attempts = [
            ("open to write", open(OpenOptions::new().write(true))),
            ("open to append", open(OpenOptions::new().append(true))),
            (
                "truncate",
                open(OpenOptions::new().write(true).truncate(true)),
            ),
            ("create", fs::write(a.path("new"), "")),
            ("mkdir", fs::create_dir(a.path("new"))),
            ("unlink", fs::remove_file(&file)),
            ("rmdir", fs::remove_dir(a.path("folder"))),
            ("rename", fs::rename(&file, a.path("new"))),
            ("link", fs::hard_link(&file, a.path("new"))),
            ("symlink", std::os::unix::fs::symlink("x", a.path("new"))),
            (
                "chmod",
                fs::set_permissions(&file, Permissions::from_mode(0o600)),
            ),
            ("chown", std::os::unix::fs::chown(&file, Some(1), None)),
            ("utimens", set("touch", &["-m"])),
            ("setxattr", set("setfattr", &["-n", "user.x", "-v", "y"])),
            ("mknod", mkfifo(&a.path("pipe"))),
        ];
        for (what, outcome) in attempts {
            let error = outcome.expect_err(what);
            let kind = error.kind();
            assert_eq!(
                kind,
                std::io::ErrorKind::ReadOnlyFilesystem,
                "{what}: {error}"
            );
        }
        a.terminate();
        a.mount(&Start::again());
        assert_eq!(fs::read_dir(a.mountpoint()).expect("listed").count(), 3);
    });
}

fn mkfifo(path: &Path) -> std::io::Result<()> {
    let kind = rustix::fs::FileType::Fifo;
    Ok(rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        kind,
        0o600.into(),
        0,
    )?)
}

/// Lets the kernel give back the names and inodes that it keeps.
fn drop_name_caches() {
    fs::write(Path::new("/proc/sys/vm/drop_caches"), "2").expect("root may");
}

#[test]
fn the_tables_are_small_again_when_the_kernel_has_forgotten() {
    scenario("forget", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let tree = a.path("tree");
        for folder in 0..20 {
            let folder = tree.join(format!("folder {folder}/deeper"));
            fs::create_dir_all(&folder).expect("made");
            for file in 0..150 {
                fs::write(folder.join(format!("file {file}")), "x").expect("written");
            }
        }
        // Each way in which the kernel comes to know an inode: created, listed, looked up, linked,
        // opened, renamed, missed.
        Command::new("ls").args(["-lR"]).arg(&tree).ok();
        fs::hard_link(tree.join("folder 0/deeper/file 0"), tree.join("linked")).expect("linked");
        fs::rename(tree.join("folder 1"), tree.join("renamed")).expect("renamed");
        assert!(fs::metadata(tree.join("missing")).is_err());
        assert_eq!(fs::read(tree.join("linked")).expect("read"), b"x");
        assert!(
            count(&a, "inodes_in_use") > 3000,
            "{}",
            count(&a, "inodes_in_use")
        );
        assert!(count(&a, "lookups") >= count(&a, "inodes_in_use"));

        // Held beyond its name for as long as it is open.
        let open = File::open(tree.join("renamed/deeper/file 7")).expect("opened");
        Command::new("rm").arg("-r").arg(&tree).ok();
        wait_until("the kernel has forgotten", MINUTES, || {
            drop_name_caches();
            // The open file, and the three folders that it was in.
            (count(&a, "inodes_in_use") <= 4).then_some(())
        });
        assert_eq!(count(&a, "open_handles"), 1);
        drop(open);
        wait_until("the last file is closed", MINUTES, || {
            drop_name_caches();
            let all = [
                "open_handles",
                "inodes_in_use",
                "lookups",
                "dirty_inodes",
                "dirty_bytes",
            ];
            let left: Vec<u64> = all.iter().map(|what| count(&a, what)).collect();
            // The root is nobody's lookup.
            left.iter().all(|count| *count == 0).then_some(())
        });
        // A tree that stays is forgotten as well.
        fs::create_dir(&tree).expect("made");
        for file in 0..500 {
            fs::write(tree.join(file.to_string()), "x").expect("written");
        }
        wait_until("what stays is forgotten, too", MINUTES, || {
            drop_name_caches();
            (count(&a, "inodes_in_use") == 0).then_some(())
        });
        assert_eq!(fs::read_dir(&tree).expect("listed").count(), 500);
    });
}

/// Opens a file again and again, writes a byte to each, and waits.
const OPENER: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int count = atoi(argv[2]);
    struct rlimit limit = { count + 100, count + 100 };
    if (setrlimit(RLIMIT_NOFILE, &limit)) return 1;
    for (int n = 0; n < count; n++) {
        char name[64];
        snprintf(name, sizeof name, "%s/%d", argv[1], n % (count / 2));
        int fd = open(name, O_RDWR | O_CREAT, 0644);
        if (fd < 0 || write(fd, "x", 1) != 1) return 2;
        if (n % 10 == 0) unlink(name);
    }
    for (;;) pause();
}
"#;

#[test]
fn a_killed_process_leaves_no_handle_behind() {
    scenario("handles", 5 * MINUTES, |s| {
        const FILES: u64 = 10_000;
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let (source, program) = (s.path("opener.c"), s.path("opener"));
        fs::write(&source, OPENER).expect("written");
        Command::new("gcc").arg("-o").args([&program, &source]).ok();
        let mut child = std::process::Command::new(&program)
            .arg(a.mountpoint())
            .arg(FILES.to_string())
            .stdin(Stdio::null())
            .spawn()
            .expect("compiled");
        wait_until("all are open", 2 * MINUTES, || {
            let ended = child.try_wait().expect("our child");
            assert!(ended.is_none(), "the opener gave up: {ended:?}");
            (count(&a, "open_handles") >= FILES).then_some(())
        });
        child.kill().expect("it lives");
        child.wait().expect("our child");
        wait_until("no handle is left", MINUTES, || {
            (count(&a, "open_handles") == 0).then_some(())
        });
        wait_until("no inode is left", MINUTES, || {
            drop_name_caches();
            (count(&a, "inodes_in_use") == 0 && count(&a, "dirty_inodes") == 0).then_some(())
        });
        // The same again, one file after the other.
        let script = "i=0; while :; do echo $i > \"$0/$i\"; i=$((i + 1)); done";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(a.mountpoint())
            .stdin(Stdio::null())
            .spawn()
            .expect("sh is there");
        wait_until("it is on its way", MINUTES, || {
            a.path("2000").exists().then_some(())
        });
        child.kill().expect("it lives");
        child.wait().expect("our child");
        wait_until("no handle is left", MINUTES, || {
            (count(&a, "open_handles") == 0).then_some(())
        });
        a.unmount();
    });
}

/// Inodes that the kernel may keep in the test of the limit.
const KEPT_INODES: u64 = 400;

/// Returns whether the kernel knows the notice that names inodes to let go: since Linux 6.18.
fn kernel_prunes() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(|char: char| !char.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(18))
}

/// A tree of ten folders with 300 files each, of which some are used in each way that there is.
struct Used {
    tree: PathBuf,
    reader: File,
    writer: File,
    removed: File,
    path_only: OwnedFd,
    watch: OwnedFd,
    worker: Child,
}

impl Used {
    fn start(tree: PathBuf) -> Self {
        for folder in 0..10 {
            let folder = tree.join(folder.to_string());
            fs::create_dir_all(&folder).expect("made");
            for file in 0..300 {
                fs::write(folder.join(file.to_string()), file.to_string()).expect("written");
            }
        }
        let mut writer = File::create(tree.join("1/written")).expect("created");
        writer.write_all(b"before ").expect("written");
        let removed = File::open(tree.join("2/7")).expect("opened");
        fs::remove_file(tree.join("2/7")).expect("removed");
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let path_only = rustix::fs::open(tree.join("3/7"), flags, Mode::empty()).expect("opened");
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).expect("made");
        inotify::add_watch(&watch, tree.join("9/7"), inotify::WatchFlags::MODIFY).expect("watched");
        // Says where it is when told to.
        let worker = std::process::Command::new("sh")
            .args(["-c", "read line; pwd -P; ls | wc -l; cat 299"])
            .current_dir(tree.join("4"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh is there");
        // A folder and a file of the mount, each on another one of it.
        for (what, on) in [("5", "6"), ("7/7", "8/8")] {
            let mount = Command::new("mount").arg("--bind");
            mount.args([tree.join(what), tree.join(on)]).ok();
        }
        Self {
            reader: File::open(tree.join("0/7")).expect("opened"),
            tree,
            writer,
            removed,
            path_only,
            watch,
            worker,
        }
    }

    /// Checks that all of it is as if nothing had happened.
    fn check(mut self) {
        let tree = &self.tree;
        let mut text = String::new();
        self.reader.read_to_string(&mut text).expect("read");
        self.removed.read_to_string(&mut text).expect("read");
        assert_eq!(text, "77");
        self.writer.write_all(b"after").expect("written");
        let written = fs::read(tree.join("1/written")).expect("read");
        assert_eq!(written, b"before after");
        let by_path = format!("/proc/self/fd/{}", self.path_only.as_raw_fd());
        assert_eq!(fs::read_link(&by_path).expect("a link"), tree.join("3/7"));
        assert_eq!(fs::read(&by_path).expect("read"), b"7");
        fs::write(tree.join("9/7"), "7").expect("written");
        let mut buffer = [MaybeUninit::uninit(); 512];
        let mut events = inotify::Reader::new(&self.watch, &mut buffer);
        let seen = events.next().map(|event| event.events());
        assert_eq!(seen, Ok(inotify::ReadFlags::MODIFY));
        fs::write(tree.join("5/new"), "new").expect("written");
        assert_eq!(fs::read(tree.join("6/new")).expect("read"), b"new");
        assert_eq!(fs::read(tree.join("8/8")).expect("read"), b"7");
        for on in ["6", "8/8"] {
            let path = tree.join(on);
            assert_eq!(machine::mounts_below(&path), [path.as_path()]);
            Command::new("umount").arg(&path).ok();
        }
        assert_eq!(fs::read(tree.join("8/8")).expect("read"), b"8");
        assert!(!tree.join("6/new").exists());
        let stdin = self.worker.stdin.take();
        stdin.expect("piped").write_all(b"go\n").expect("it waits");
        let said = self.worker.wait_with_output().expect("our child");
        let expected = format!("{}\n300\n299", tree.join("4").display());
        assert_eq!(String::from_utf8_lossy(&said.stdout), expected);
    }
}

#[test]
fn the_kernel_keeps_no_more_inodes_than_the_limit_and_all_that_are_used() {
    if !kernel_prunes() {
        println!("skipped: this kernel alone decides how many inodes it keeps");
        return;
    }
    keep_few("prune", "rw");
    keep_few("prune-ino64", "ino64");
}

fn keep_few(name: &str, more: &str) {
    scenario(name, 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        let option = format!("kept_inodes={KEPT_INODES},{more}");
        a.mount(&Start::new_volume().arg("-o").arg(option));
        let tree = a.path("tree");
        let used = Used::start(tree.clone());
        let is_small = || (count(&a, "inodes_in_use") <= KEPT_INODES).then_some(());
        wait_until("the kernel keeps few after the writing", MINUTES, is_small);
        for round in 0..3 {
            let listed = Command::new("find").arg(&tree).arg("-ls").ok();
            // One file was removed, and one more made.
            assert_eq!(listed.lines().count(), 1 + 10 + 10 * 300, "{round}");
            wait_until("the kernel keeps few after the listing", MINUTES, is_small);
        }
        used.check();
        for folder in 0..10 {
            for file in (0..300).filter(|file| (folder, *file) != (2, 7)) {
                let path = tree.join(format!("{folder}/{file}"));
                assert_eq!(fs::read(path).expect("read"), file.to_string().as_bytes());
            }
        }
        wait_until("the kernel keeps few after the reading", MINUTES, is_small);
        assert_eq!(count(&a, "open_handles"), 0);
        a.unmount();
    });
}
