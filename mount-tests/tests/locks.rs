//! Locks across machines: who has one is the only one, and finds what was written under it before.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mount_tests::{Command, Peer, Scenario, Start, scenario, wait_for_content, wait_until};

const MINUTES: Duration = Duration::from_secs(60);

const KINDS: [&str; 3] = ["flock", "fcntl", "ofd"];

/// Processes, and how often each counts.
const PROCESSES: usize = 4;
const TIMES: usize = 40;

/// Reads a number under a lock and writes the next one.
const COUNT: &str = "
import fcntl, os, struct, sys
path, kind, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
F_OFD_SETLKW = 38
for _ in range(times):
    fd = os.open(path, os.O_RDWR)
    if kind == 'flock':
        fcntl.flock(fd, fcntl.LOCK_EX)
    elif kind == 'fcntl':
        fcntl.lockf(fd, fcntl.LOCK_EX)
    else:
        fcntl.fcntl(fd, F_OFD_SETLKW, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))
    value = int(os.pread(fd, 20, 0) or b'0')
    os.pwrite(fd, b'%d' % (value + 1), 0)
    os.close(fd)
";

fn count(peer: &Peer, name: &str, kind: &str) -> std::process::Child {
    let mut command = std::process::Command::new("python3");
    command.args(["-c", COUNT]).arg(peer.path(name));
    command.args([kind, &TIMES.to_string()]);
    command.spawn().expect("it starts")
}

/// Returns the number once all have counted.
fn counted(peer: &Peer, name: &str, children: Vec<std::process::Child>) -> String {
    for mut child in children {
        assert!(child.wait().expect("it ends").success());
    }
    // Under a lock, as all that was written before is here then.
    let script = "import fcntl, sys
file = open(sys.argv[1], 'r+')
fcntl.flock(file, fcntl.LOCK_EX)
fcntl.lockf(file, fcntl.LOCK_EX)
print(file.read())";
    let mut read = Command::new("python3").args(["-c", script]);
    read = read.arg(peer.path(name));
    read.ok().trim().to_owned()
}

fn join(s: &mut Scenario, known: &Peer, name: &str, options: &[&str]) -> Peer {
    let mut peer = s.peer(name);
    let mut start = Start::join(known, &known.invite("writer"));
    for option in options {
        start = start.arg("-o").arg(*option);
    }
    peer.mount(&start);
    peer
}

fn founder(s: &mut Scenario, name: &str, options: &[&str]) -> Peer {
    let mut peer = s.peer(name);
    let mut start = Start::new_volume();
    for option in options {
        start = start.arg("-o").arg(*option);
    }
    peer.mount(&start);
    peer
}

#[test]
fn a_counter_that_is_incremented_under_a_lock_on_two_machines_counts_each() {
    scenario("locks-count", 8 * MINUTES, |s| {
        let a = founder(s, "a", &[]);
        let b = join(s, &a, "b", &[]);
        for kind in KINDS {
            fs::write(a.path(kind), "0").expect("written");
            wait_for_content(&b.path(kind), b"0");
            let counting = (0..PROCESSES).map(|at| {
                let peer = if at % 2 == 0 { &a } else { &b };
                count(peer, kind, kind)
            });
            let counting = counting.collect();
            assert_eq!(
                counted(&b, kind, counting),
                (PROCESSES * TIMES).to_string(),
                "{kind}"
            );
        }
    });
}

/// Returns who decides the records of the volume.
fn deciders(peer: &Peer) -> usize {
    let facts = peer.facts(&["status"]);
    facts["order"]["decided_by"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_counter_counts_each_also_where_the_machine_that_grants_locks_is_killed() {
    scenario("locks-leader", 12 * MINUTES, |s| {
        let mut leader = founder(s, "leader", &[]);
        let a = join(s, &leader, "a", &[]);
        let b = join(s, &leader, "b", &[]);
        for kind in KINDS {
            fs::write(a.path(kind), "0").expect("written");
            for peer in [&b, &leader] {
                wait_for_content(&peer.path(kind), b"0");
            }
        }
        wait_until("three decide", 5 * MINUTES, || {
            (deciders(&a) == 3).then_some(())
        });
        // All kinds at once: what takes time is that another comes to lead.
        let counting = KINDS.map(|kind| [&a, &b].map(|peer| count(peer, kind, kind)));
        wait_until("some of each kind have counted", 2 * MINUTES, || {
            let is_under_way = |kind: &str| {
                let counted = fs::read_to_string(a.path(kind)).unwrap_or_default();
                counted.parse::<usize>().is_ok_and(|counted| counted > 5)
            };
            KINDS.into_iter().all(is_under_way).then_some(())
        });
        leader.kill();
        for (kind, counting) in KINDS.into_iter().zip(counting) {
            let counted = counted(&b, kind, counting.into());
            assert_eq!(counted, (2 * TIMES).to_string(), "{kind}");
        }
    });
}

#[test]
fn without_a_majority_locks_are_refused_where_that_is_asked_for_and_else_told_to_be_of_one_machine()
{
    scenario("locks-strict", 6 * MINUTES, |s| {
        let a = founder(s, "a", &[]);
        let strict = join(s, &a, "strict", &["locks=strict"]);
        let b = join(s, &a, "b", &["locks=available"]);
        fs::write(a.path("file"), "x").expect("written");
        for peer in [&b, &strict] {
            wait_for_content(&peer.path("file"), b"x");
            s.network().cut(peer.name());
        }
        let lock = |peer: &Peer| {
            let script = "import fcntl, sys
file = open(sys.argv[1], 'r+')
fcntl.lockf(file, fcntl.LOCK_EX)
sys.stdin.read()";
            let mut command = std::process::Command::new("python3");
            command.args(["-c", script]).arg(peer.path("file"));
            command.stdin(std::process::Stdio::piped());
            command.stderr(std::process::Stdio::piped());
            command.spawn().expect("it starts")
        };
        let refused = lock(&strict).wait_with_output().expect("it ends");
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(told.contains("No locks available"), "{told}");
        let mut held = lock(&b);
        let says = |words: &str| {
            let told = b.dfs(&["status"]).stdout_text();
            told.contains(words).then_some(())
        };
        wait_until("it is told", MINUTES, || says("hold on this machine alone"));
        drop(held.stdin.take());
        assert!(held.wait().expect("it ends").code().is_some());
    });
}

/// Writes rows in transactions, and reads beside others.
const ROWS: &str = "
import sqlite3, sys
path, name, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
base = sqlite3.connect(path, timeout=120, isolation_level=None)
for at in range(times):
    base.execute('begin immediate')
    base.execute('insert into rows values (?, ?)', (name, at))
    base.execute('commit')
";

#[test]
fn a_database_is_written_by_two_machines_at_once_and_read_side_by_side() {
    scenario("locks-sqlite", 8 * MINUTES, |s| {
        let a = founder(s, "a", &[]);
        let b = join(s, &a, "b", &[]);
        let sqlite = |path: &Path, sql: &str| {
            let script = "import sqlite3, sys
base = sqlite3.connect(sys.argv[1], timeout=120)
print(base.execute(sys.argv[2]).fetchall())
base.commit()";
            let command = Command::new("python3")
                .args(["-c", script])
                .arg(path)
                .arg(sql);
            command.ok().trim().to_owned()
        };
        sqlite(&a.path("base"), "create table rows (name, at)");
        wait_until("it is there", MINUTES, || {
            b.path("base").exists().then_some(())
        });
        let write = |peer: &Peer, name: &str| {
            let mut command = std::process::Command::new("python3");
            command.args(["-c", ROWS]).arg(peer.path("base"));
            command.args([name, "25"]).spawn().expect("it starts")
        };
        for mut child in [write(&a, "a"), write(&b, "b")] {
            assert!(child.wait().expect("it ends").success());
        }
        for peer in [&a, &b] {
            let path = peer.path("base");
            assert_eq!(sqlite(&path, "pragma integrity_check"), "[('ok',)]");
            assert_eq!(sqlite(&path, "select count(*) from rows"), "[(50,)]");
        }
        // One reads while the other does.
        let reader = |path: &Path| {
            let script = "import sqlite3, sys
base = sqlite3.connect(sys.argv[1], timeout=1, isolation_level=None)
base.execute('begin')
print(base.execute('select count(*) from rows').fetchone()[0], flush=True)
sys.stdin.read()";
            let mut command = std::process::Command::new("python3");
            command.args(["-c", script]).arg(path);
            command.stdin(std::process::Stdio::piped());
            command.spawn().expect("it starts")
        };
        let mut reading = reader(&a.path("base"));
        assert_eq!(
            sqlite(&b.path("base"), "select count(*) from rows"),
            "[(50,)]"
        );
        drop(reading.stdin.take());
        reading.wait().expect("it ends");
        for peer in [&a, &b] {
            let names = fs::read_dir(peer.mountpoint()).expect("listed");
            let names: Vec<_> = names
                .map(|entry| entry.expect("an entry").file_name())
                .collect();
            assert_eq!(names, ["base"]);
        }
    });
}
