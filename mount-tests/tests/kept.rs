//! What others' drives were seen to break, and this one does right: it stays so.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::{Peer, Start, Trio, is_quick, scenario, spawn, wait_for_content, wait_until};

const MINUTES: Duration = Duration::from_secs(60);

#[test]
fn who_reads_while_a_file_is_replaced_sees_whole_contents() {
    const REPLACEMENTS: u8 = 150;
    const LEN: usize = 200_000;
    scenario("replaced", 5 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        let (path, next) = (peer.path("file"), peer.path("next"));
        fs::write(&path, vec![0; LEN]).expect("written");
        let first = File::open(&path).expect("opened");
        let is_done = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (path, is_done) = (path.clone(), Arc::clone(&is_done));
                spawn(move || {
                    let mut last = 0;
                    while !is_done.load(Ordering::Relaxed) {
                        let content = fs::read(&path).expect("there is always one");
                        assert_eq!(content.len(), LEN);
                        assert!(content.iter().all(|byte| *byte == content[0]));
                        assert!(content[0] >= last, "an older content came back");
                        last = content[0];
                    }
                })
            })
            .collect();
        for content in 1..=REPLACEMENTS {
            fs::write(&next, vec![content; LEN]).expect("written");
            fs::rename(&next, &path).expect("replaced");
        }
        is_done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("no reader saw a mixture");
        }
        // Whoever had it open has what was there then.
        let mut content = Vec::new();
        (&first).read_to_end(&mut content).expect("read");
        assert!(content == vec![0; LEN]);
    });
}

#[test]
fn a_name_is_by_turns_a_file_a_folder_and_a_link_for_both() {
    scenario("turns", 5 * MINUTES, |s| {
        let trio = Trio::start(s);
        let (here, there) = (trio.a.path("name"), trio.b.path("name"));
        for round in 0..8 {
            let content = format!("file {round}");
            fs::write(&here, &content).expect("written");
            wait_for_content(&there, content.as_bytes());
            fs::remove_file(&here).expect("removed");
            fs::create_dir(&here).expect("made");
            fs::write(here.join("inside"), &content).expect("written");
            wait_for_content(&there.join("inside"), content.as_bytes());
            assert!(fs::symlink_metadata(&there).expect("there").is_dir());
            fs::remove_file(here.join("inside")).expect("removed");
            fs::remove_dir(&here).expect("removed");
            symlink(&content, &here).expect("linked");
            wait_until("the link is there", MINUTES, || {
                let target = fs::read_link(&there).ok()?;
                (target.to_str() == Some(&content)).then_some(())
            });
            fs::remove_file(&here).expect("removed");
        }
        assert_eq!(trio.a.facts(&["status"])["conflicts"], 0);
    });
}

#[test]
fn tail_follows_a_log_that_another_machine_writes_and_rotates() {
    scenario("tail", 5 * MINUTES, |s| {
        let trio = Trio::start(s);
        let (here, there) = (trio.a.path("log"), trio.b.path("log"));
        fs::write(&here, "").expect("made");
        wait_for_content(&there, b"");
        let out = s.path("tail.out");
        let mut tail = std::process::Command::new("tail");
        tail.args(["-n", "+1", "-s", "0.1", "-F"])
            .arg(&there)
            .stdout(File::create(&out).expect("made"))
            .stderr(Stdio::null());
        let mut tail = tail.spawn().expect("tail runs");
        let mut lines = String::new();
        for rotation in 0..3 {
            for line in 0..40 {
                let line = format!("line {line} of log {rotation}\n");
                let mut log = File::options();
                let mut log = log.append(true).create(true).open(&here).expect("opened");
                log.write_all(line.as_bytes()).expect("appended");
                lines.push_str(&line);
            }
            let seen = wait_until("tail has shown it all", MINUTES, || {
                let seen = fs::read_to_string(&out).expect("read");
                (seen.len() >= lines.len()).then_some(seen)
            });
            if seen != lines {
                tail.kill().expect("killed");
            }
            assert_eq!(seen, lines);
            fs::rename(&here, trio.a.path(format!("log.{rotation}"))).expect("rotated");
        }
        tail.kill().expect("killed");
        tail.wait().expect("ended");
    });
}

#[test]
fn a_file_has_as_many_names_and_a_folder_as_many_subfolders_as_elsewhere() {
    let (links, folders) = if is_quick() {
        (3_000, 3_000)
    } else {
        (65_000, 70_000)
    };
    scenario("many", 15 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        let (names, dirs) = (peer.path("names"), peer.path("dirs"));
        fs::create_dir(&names).expect("made");
        fs::create_dir(&dirs).expect("made");
        let file = peer.path("file");
        fs::write(&file, "x").expect("written");
        for number in 1..links {
            fs::hard_link(&file, names.join(number.to_string())).expect("linked");
        }
        assert_eq!(fs::metadata(&file).expect("looked at").nlink(), links);
        for number in 0..folders {
            fs::create_dir(dirs.join(number.to_string())).expect("made");
        }
        // Two and the subfolders, as on ext4 below its limit.
        assert_eq!(fs::metadata(&dirs).expect("looked at").nlink(), folders + 2);
        assert_eq!(fs::read_dir(&dirs).expect("listed").count() as u64, folders);
        fs::remove_file(&file).expect("removed");
        let other = names.join("1");
        assert_eq!(fs::metadata(&other).expect("there").nlink(), links - 1);
        assert_eq!(fs::read(&other).expect("read"), b"x");
    });
}

#[test]
fn offsets_reach_to_the_last_that_there_is() {
    scenario("offsets", 2 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        let file = File::options();
        let path = peer.path("sparse");
        let file = { file }.read(true).write(true).create(true).open(&path);
        let file = file.expect("made");
        let last = i64::MAX as u64 - 1;
        for offset in [1 << 32, 8 << 40, 1 << 60, last] {
            file.write_all_at(b"x", offset).expect("written");
            assert_eq!(file.metadata().expect("looked at").len(), offset + 1);
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).expect("read");
            assert_eq!(byte, *b"x");
        }
        let beyond = file.write_at(b"xx", last).map(|len| len == 1);
        assert!(matches!(beyond, Ok(true)) || beyond.is_err());
        file.sync_all().expect("synced");
        drop(file);
        peer.unmount();
        peer.mount(&Start::again());
        let file = File::open(&path).expect("opened");
        assert_eq!(file.metadata().expect("looked at").len(), last + 1);
        let mut byte = [0];
        file.read_exact_at(&mut byte, 8 << 40).expect("read");
        assert_eq!(byte, *b"x");
    });
}

#[test]
fn many_threads_on_chunks_that_nobody_has_fail_and_stop_nobody() {
    const THREADS: u64 = 300;
    scenario("absent", 10 * MINUTES, |s| {
        let (mut a, mut b) = (s.peer("a"), s.peer("b"));
        a.mount(&Start::new_volume());
        // It holds nothing for others, so all of the film is elsewhere.
        let join = Start::join(&a, &a.invite("writer"));
        b.mount(&join.arg("--capacity").arg("0"));
        fs::write(a.path("film"), pattern(40 << 20, 7)).expect("written");
        let there = b.path("film");
        wait_until("its name arrives", MINUTES, || {
            let looked = fs::metadata(&there).ok()?;
            (looked.len() == 40 << 20).then_some(())
        });
        s.network().cut("b");
        let file = Arc::new(File::open(&there).expect("opened"));
        let readers: Vec<_> = (0..THREADS)
            .map(|number| {
                let file = Arc::clone(&file);
                spawn(move || {
                    let at = (number % 40) << 20;
                    file.read_exact_at(&mut [0; 4096], at).err()
                })
            })
            .collect();
        // What is here goes on meanwhile.
        for number in 0..100 {
            let path = b.path(format!("made meanwhile {number}"));
            fs::write(&path, "x").expect("written");
            assert_eq!(fs::read(&path).expect("read"), b"x");
        }
        let failed = readers
            .into_iter()
            .map(|reader| reader.join().expect("ended"));
        let failed = failed.flatten();
        let kinds: Vec<_> = failed.map(|error| error.raw_os_error()).collect();
        assert_eq!(kinds, vec![Some(5); THREADS as usize]);
        s.network().mend("b");
        wait_until("it can be read again", 2 * MINUTES, || {
            let read = file.read_exact_at(&mut [0; 4096], 39 << 20);
            match read {
                Ok(()) => Some(()),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => panic!("{error}"),
                Err(_) => None,
            }
        });
    });
}

#[test]
fn eight_join_at_once() {
    scenario("joins", 10 * MINUTES, |s| {
        let mut founder = s.peer("a");
        founder.mount(&Start::new_volume());
        fs::write(founder.path("file"), "for all").expect("written");
        let mut joiners: Vec<(Peer, Start)> = (0..8)
            .map(|number| {
                let peer = s.peer(&format!("j{number}"));
                let start = Start::join(&founder, &founder.invite("writer"));
                (peer, start)
            })
            .collect();
        // Each thread outlasts its peer's work: a process ends with the thread that started it.
        let seen = std::sync::Barrier::new(joiners.len());
        std::thread::scope(|threads| {
            for (peer, start) in &mut joiners {
                let seen = &seen;
                threads.spawn(move || {
                    peer.mount(start);
                    let path = peer.path("file");
                    let has = || (fs::read(&path).ok()? == b"for all").then_some(());
                    let arrived = std::panic::catch_unwind(|| wait_until("it", MINUTES, has));
                    let knows = || {
                        let members = peer.facts(&["members"]);
                        (members.as_array()?.len() == 9).then_some(())
                    };
                    let knows_all = std::panic::catch_unwind(|| wait_until("all", MINUTES, knows));
                    seen.wait();
                    assert!(arrived.is_ok(), "{} has not the file", peer.name());
                    assert!(knows_all.is_ok(), "{} does not know all", peer.name());
                });
            }
        });
    });
}
