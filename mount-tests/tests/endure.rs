//! Never hang: with the peers gone, who waits for them can be killed, and everybody else goes on.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::{Command, Peer, Scenario, Start, elapsed_since, now, scenario, wait_until};

const MINUTES: Duration = Duration::from_secs(60);

/// Far less than the twenty seconds that a read waits for its chunk, and more than the second in
/// which a killed process is to be gone, since the machine may be busy.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// How long a read of what cannot be had takes at most, on a busy machine.
const EIO_WITHIN: Duration = Duration::from_secs(30);

/// A member that has everything, and one that stores nothing but a few chunks that it has read.
struct Pair {
    _a: Peer,
    b: Peer,
}

const FILE_CHUNKS: u64 = 48;
const MIB: u64 = 1 << 20;

impl Pair {
    /// Lets `a` write a file of [`FILE_CHUNKS`] chunks, and `b` see it.
    fn start(s: &mut Scenario, more: &[&str]) -> Self {
        let mut a = s.peer("a");
        let mut b = s.peer("b");
        a.mount(&Start::new_volume());
        let mut start = Start::join(&a, &a.invite("writer"))
            .arg("--capacity")
            .arg("0")
            .arg("--cache")
            .arg("1G");
        for arg in more {
            start = start.arg(*arg);
        }
        b.mount(&start);
        fs::write(a.path("big"), content()).expect("written");
        fs::write(a.path("small"), "inline").expect("written");
        mount_tests::wait_for_content(&b.path("small"), b"inline");
        Self { _a: a, b }
    }

    fn big(&self) -> PathBuf {
        self.b.path("big")
    }

    /// Returns which chunks of the file `b` has.
    fn local_chunks(&self) -> Vec<bool> {
        let facts = self
            .b
            .facts(&["status", self.big().to_str().expect("plain")]);
        let chunks = facts["chunks"].as_array().expect("a list");
        chunks.iter().map(|chunk| chunk["local"] == true).collect()
    }
}

fn content() -> Vec<u8> {
    pattern((FILE_CHUNKS * MIB) as usize, 7)
}

/// Starts a program that will wait for something.
fn start(program: &str, args: &[&str]) -> Child {
    std::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a program that is installed")
}

/// Waits until a process waits in one of these functions of the kernel.
fn wait_until_it_waits(child: &Child, places: &[&str]) {
    let wchan = format!("/proc/{}/wchan", child.id());
    let mut last = String::new();
    wait_until("the program waits", MINUTES, || {
        let place = fs::read_to_string(&wchan).ok()?;
        if place != last {
            println!("it is in {place}");
            last.clone_from(&place);
        }
        places
            .iter()
            .any(|known| place.contains(known))
            .then_some(())
    });
}

/// Kills a program and waits until it is gone.
fn kill_and_wait(mut child: Child, what: &str) {
    let started = now();
    child.kill().expect("it lives");
    wait_until(&format!("{what} is gone"), GONE_WITHIN, || {
        child.try_wait().expect("our child")
    });
    println!("{what} was gone after {:?}", elapsed_since(started));
}

/// Where the kernel waits for the answer to a request, and for a page that a request fills.
const IN_REQUEST: [&str; 3] = ["request_wait_answer", "folio", "fuse"];

#[test]
fn who_waits_for_a_missing_chunk_can_be_killed() {
    scenario("kill-reader", 5 * MINUTES, |s| {
        let pair = Pair::start(s, &[]);
        let big = pair.big();
        let big = big.to_str().expect("plain");
        s.network().cut("b");
        let from = format!("if={big}");
        for (what, program, args) in [
            (
                "a direct reader",
                "dd",
                vec![
                    from.as_str(),
                    "of=/dev/null",
                    "bs=1M",
                    "count=1",
                    "skip=30",
                    "iflag=direct",
                ],
            ),
            (
                "a reader",
                "dd",
                vec![
                    from.as_str(),
                    "of=/dev/null",
                    "bs=4k",
                    "count=1",
                    "skip=10000",
                ],
            ),
            ("a copier", "cp", vec![big, "/dev/null"]),
        ] {
            let child = start(program, &args);
            wait_until_it_waits(&child, &IN_REQUEST);
            kill_and_wait(child, what);
        }
    });
}

#[test]
fn a_reader_that_was_killed_does_not_hold_the_unmount_up() {
    scenario("kill-unmount", 5 * MINUTES, |s| {
        let mut pair = Pair::start(s, &[]);
        let big = pair.big();
        s.network().cut("b");
        let child = start("cp", &[big.to_str().expect("plain"), "/dev/null"]);
        wait_until_it_waits(&child, &IN_REQUEST);
        kill_and_wait(child, "the copier");
        Command::new("umount")
            .arg(pair.b.mountpoint())
            .limit(GONE_WITHIN)
            .ok();
        pair.b.expect_end("umount");
    });
}

#[test]
fn an_fsync_that_waits_for_holders_can_be_killed_and_holds_nobody_up() {
    scenario("kill-fsync", 5 * MINUTES, |s| {
        let pair = Pair::start(s, &["--fsync", "replicated"]);
        s.network().cut("b");
        // More than there are threads for flushes, of each kind.
        let waiting: Vec<Child> = (0..12)
            .map(|number| {
                let to = format!("of={}", pair.b.path(number.to_string()).display());
                let flag = if number % 2 == 0 {
                    "conv=fsync"
                } else {
                    "oflag=sync"
                };
                start("dd", &["if=/dev/zero", &to, "bs=4k", "count=1", flag])
            })
            .collect();
        for child in &waiting {
            wait_until_it_waits(child, &IN_REQUEST);
        }
        // Those who wait for the local disk alone do not wait behind them.
        let large = pattern(4 << 20, 3);
        let started = now();
        fs::write(pair.b.path("chunks"), &large).expect("closed");
        assert!(fs::read(pair.b.path("chunks")).expect("read") == large);
        println!(
            "a close behind {} fsyncs took {:?}",
            waiting.len(),
            elapsed_since(started)
        );
        for (number, child) in waiting.into_iter().enumerate() {
            kill_and_wait(child, &format!("fsync {number}"));
        }
    });
}

#[test]
fn who_waits_for_a_lock_can_be_killed() {
    scenario("kill-lock", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let program = compile(s, "lock", LOCK_SOURCE);
        let program = program.to_str().expect("plain");
        let path = a.path("file");
        let path = path.to_str().expect("plain");
        for kind in ["flock", "fcntl", "ofd"] {
            let file = File::create(path).expect("created");
            let holder = start(program, &[kind, path]);
            wait_until_it_waits(&holder, &["pause"]);
            let waiter = start(program, &[kind, path]);
            wait_until_it_waits(&waiter, &["request_wait_answer"]);
            kill_and_wait(waiter, &format!("the waiter for {kind}"));
            kill_and_wait(holder, &format!("the holder of {kind}"));
            // And what a killed one held is free.
            let next = start(program, &[kind, path]);
            wait_until_it_waits(&next, &["pause"]);
            kill_and_wait(next, "the next one");
            drop(file);
        }
    });
}

/// Takes a lock of the kind and on the file in its arguments, and keeps it.
const LOCK_SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int fd = open(argv[2], O_RDWR);
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    int failed = !strcmp(argv[1], "flock") ? flock(fd, LOCK_EX)
               : fcntl(fd, !strcmp(argv[1], "fcntl") ? F_SETLKW : F_OFD_SETLKW, &whole);
    if (fd < 0 || failed) return 1;
    for (;;) pause();
}
"#;

fn compile(s: &Scenario, name: &str, source: &str) -> PathBuf {
    let (code, program) = (s.path(&format!("{name}.c")), s.path(name));
    fs::write(&code, source).expect("written");
    Command::new("gcc").arg("-o").args([&program, &code]).ok();
    program
}

fn read_chunk(file: &File, chunk: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; MIB as usize];
    file.read_exact_at(&mut bytes, chunk * MIB)?;
    Ok(bytes)
}

/// Prints a byte of a file, as a mapping shows it.
const PEEK_SOURCE: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
int main(int argc, char **argv) {
    long at = atol(argv[2]);
    int fd = open(argv[1], O_RDONLY);
    unsigned char *map = mmap(0, at + 1, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return 1;
    printf("%d\n", map[at]);
    return 0;
}
"#;

#[test]
fn with_all_peers_gone_only_what_is_not_here_fails() {
    scenario("alone", 10 * MINUTES, |s| {
        let pair = Pair::start(s, &[]);
        let peek = compile(s, "peek", PEEK_SOURCE);
        let expected = content();
        let chunk = |number: usize| &expected[number << 20..(number + 1) << 20];
        fs::create_dir(pair.b.path("folder")).expect("made");
        for number in 0..20 {
            fs::write(pair.b.path(format!("folder/{number}")), "x").expect("written");
        }
        // A few chunks in the middle come here, in the order that no readahead follows.
        let file = File::open(pair.big()).expect("opened");
        for number in [30, 20, 25] {
            assert!(read_chunk(&file, number).expect("fetched") == chunk(number as usize));
        }
        let local = wait_until("the chunks are kept", MINUTES, || {
            let local = pair.local_chunks();
            (local[30] && local[20] && local[25]).then_some(local)
        });
        let missing = local.iter().filter(|local| !**local).count();
        println!("{missing} of {FILE_CHUNKS} chunks are elsewhere");
        assert!(
            !local[0] && !local[10] && !local[31] && !local[47],
            "{local:?}"
        );
        s.network().cut("b");
        drop_page_caches();

        // The first read meets sessions that nobody knows to be dead yet.
        assert_eio("the first read", || read_chunk(&file, 10));
        for number in [30, 20, 25] {
            let started = now();
            assert!(read_chunk(&file, number).expect("here") == chunk(number as usize));
            println!("chunk {number}, here: {:?}", elapsed_since(started));
        }
        // Reads that end where the missing part begins, and the missing part itself.
        let mut end = vec![0; 8192];
        file.read_exact_at(&mut end, 31 * MIB - 8192).expect("here");
        assert!(end == chunk(30)[(MIB - 8192) as usize..]);
        assert_eio("a read across the border", || {
            file.read_exact_at(&mut vec![0; 4096], 31 * MIB)
        });

        let big = pair.big();
        let at = |offset: u64| Command::new(&peek).arg(&big).arg(offset.to_string()).run();
        let seen = at(30 * MIB + 77);
        assert_eq!(
            seen.stdout_text().trim(),
            chunk(30)[77].to_string(),
            "{seen}"
        );
        let started = now();
        let lost = at(10 * MIB + 77);
        println!(
            "a mapping of what is not here: {:?}",
            elapsed_since(started)
        );
        let signal = std::os::unix::process::ExitStatusExt::signal(&lost.status);
        assert_eq!(signal, Some(BUS), "{lost}");

        // Names and attributes are all here.
        assert_eq!(fs::metadata(&big).expect("stat").len(), FILE_CHUNKS * MIB);
        assert_eq!(
            fs::read_dir(pair.b.path("folder")).expect("listed").count(),
            20
        );
        Command::new("df").arg(pair.b.mountpoint()).ok();
        Command::new("setfattr")
            .args(["-n", "user.x", "-v", "y"])
            .arg(&big)
            .ok();
        let value = Command::new("getfattr")
            .args(["--only-values", "-n", "user.x"])
            .arg(&big)
            .ok();
        assert_eq!(value, "y");
        fs::write(pair.b.path("new"), pattern(3 << 20, 5)).expect("written");
        assert!(fs::read(pair.b.path("new")).expect("read") == pattern(3 << 20, 5));
        fs::rename(pair.b.path("new"), pair.b.path("folder/new")).expect("renamed");

        // Back again, everything is.
        s.network().mend("b");
        wait_until("what was missing comes", MINUTES, || {
            read_chunk(&file, 10)
                .is_ok_and(|read| read == chunk(10))
                .then_some(())
        });
        assert!(fs::read(&big).expect("read") == expected);
    });
}

const BUS: i32 = 7;

/// Checks that a read fails with EIO, and says how long it took.
fn assert_eio<T: std::fmt::Debug>(what: &str, read: impl FnOnce() -> io::Result<T>) {
    let started = now();
    let error = read().expect_err(what);
    let took = elapsed_since(started);
    println!("{what}: {error} after {took:?}");
    assert_ne!(error.kind(), ErrorKind::UnexpectedEof, "{what}");
    assert_eq!(error.raw_os_error(), Some(EIO), "{what}");
    assert!(took < EIO_WITHIN, "{what} took {took:?}");
}

const EIO: i32 = 5;

fn drop_page_caches() {
    fs::write(Path::new("/proc/sys/vm/drop_caches"), "1").expect("root may");
}
