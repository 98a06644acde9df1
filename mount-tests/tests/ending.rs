//! The end of a daemon: asked for, awaited by the next start, and told where it came by itself.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::{Command, Finished, Peer, Start, machine, scenario, wait_until};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

const MINUTES: Duration = Duration::from_secs(60);

fn start(peer: &Peer, state: &Path, more: &[&str]) -> Finished {
    let state = state.display().to_string();
    let mountpoint = peer.mountpoint().display().to_string();
    let args = [&[mountpoint.as_str(), "--state", &state], more].concat();
    let finished = peer.attempt("dfs-mount", &args);
    assert!(finished.status.success(), "{finished}");
    finished
}

fn stop(path: &Path, more: &[&str]) -> Finished {
    Command::new(machine::program("dfs"))
        .arg("stop")
        .args(more)
        .arg(path)
        .run()
}

fn sums(folder: &Path) -> String {
    Command::shell("find . -type f -exec md5sum {} + | sort")
        .folder(folder)
        .ok()
}

#[test]
fn when_stop_returns_nothing_changes_any_more() {
    scenario("stop", 3 * MINUTES, |s| {
        let peer = s.peer("a");
        start(&peer, peer.state(), &["--new"]);
        let content = pattern(20 << 20, 1);
        fs::write(peer.path("large"), &content).expect("written");
        fs::write(peer.path("small"), "small").expect("written");
        let pid = peer.facts(&["status"])["pid"].as_u64().expect("a pid");
        // From a folder in the mount, too: it is not this command that keeps it busy.
        let stopped = stop(peer.mountpoint(), &["--json"]);
        assert!(stopped.status.success(), "{stopped}");
        assert!(
            stopped.stdout_text().contains("\"ended\":true"),
            "{stopped}"
        );
        // Ended, whether or not init has taken note of it.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
        assert!(machine::mounts_below(peer.mountpoint()).is_empty());
        let copy = s.path("copy");
        let before = sums(peer.state());
        Command::new("cp")
            .arg("-a")
            .args([peer.state(), &copy])
            .ok();
        assert_eq!(before, sums(peer.state()));
        start(&peer, &copy, &[]);
        assert!(fs::read(peer.path("large")).expect("read") == content);
        assert_eq!(fs::read(peer.path("small")).expect("read"), b"small");
        let again = peer.dfs(&["stop"]);
        assert_eq!(again.status.code(), Some(3), "nobody is there: {again}");
        let stopped = stop(peer.mountpoint(), &[]);
        assert!(stopped.status.success(), "{stopped}");
    });
}

#[test]
fn a_mount_in_use_is_stopped_only_by_force() {
    scenario("stop-busy", 3 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        let mut open = File::create(peer.path("open")).expect("created");
        open.write_all(b"before ").expect("written");
        let refused = stop(peer.mountpoint(), &[]);
        assert_eq!(refused.status.code(), Some(1), "{refused}");
        let said = refused.stderr_text();
        assert!(
            said.contains("in use") && said.contains("--force"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        open.write_all(b"after").expect("it goes on");
        let stopped = stop(peer.mountpoint(), &["--force"]);
        assert!(stopped.status.success(), "{stopped}");
        peer.expect_end("dfs stop --force");
        drop(open);
        peer.restart();
        assert_eq!(fs::read(peer.path("open")).expect("read"), b"before after");
        peer.unmount();
    });
}

#[test]
fn a_node_is_stopped_too() {
    scenario("stop-node", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut stores = s.peer("stores");
        stores.serve(&Start::join(&a, &a.invite("storage")));
        let stopped = stores.dfs(&["stop"]);
        assert!(stopped.status.success(), "{stopped}");
        stores.expect_end("dfs stop");
        a.unmount();
    });
}

#[test]
fn a_start_waits_for_the_daemon_that_ends_and_says_so() {
    scenario("await", 3 * MINUTES, |s| {
        let peer = s.peer("a");
        start(&peer, peer.state(), &["--new"]);
        assert!(stop(peer.mountpoint(), &[]).status.success());
        // Somebody who has let go of the socket and not yet of the folder.
        let lock = File::open(peer.state().join("lock")).expect("a lock");
        flock(&lock, FlockOperation::LockExclusive).expect("free");
        let said = s.path("said");
        let (state, to) = (peer.state().to_owned(), said.clone());
        let mountpoint = peer.mountpoint().to_owned();
        let program = machine::program("dfs-mount");
        let waits = mount_tests::spawn(move || {
            Command::new("sh")
                .args(["-c", "to=$1; shift; exec \"$@\" 2> \"$to\"", "sh"])
                .args([&to, &program, &mountpoint])
                .arg("--state")
                .arg(&state)
                .args(["--listen", "127.0.0.1:0"])
                .run()
        });
        wait_until("it says what it waits for", MINUTES, || {
            let said = fs::read_to_string(&said).unwrap_or_default();
            (said.contains("waiting for process") && said.contains("to finish")).then_some(())
        });
        assert!(!waits.is_finished());
        drop(lock);
        let started = waits.join().expect("it ends");
        assert!(started.status.success(), "{started}");
        // One that goes on is not waited for.
        let elsewhere = s.new_folder("elsewhere").display().to_string();
        let state = peer.state().display().to_string();
        let held = peer.attempt("dfs-mount", &[&elsewhere, "--state", &state]);
        assert_eq!(held.status.code(), Some(1), "{held}");
        let pid = peer.facts(&["status"])["pid"].to_string();
        let said = held.stderr_text();
        assert!(said.contains(&pid) && said.contains("dfs stop"), "{said}");
        assert!(stop(peer.mountpoint(), &[]).status.success());
    });
}

/// Ends the daemon in one of several ways, and returns as soon as it has been told to.
fn end(peer: &Peer, way: &str) {
    let pid = peer.facts(&["status"])["pid"].as_i64().expect("a pid");
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let tell = |signal| kill_process(pid.expect("not 0"), signal).expect("told");
    match way {
        "umount" | "umount -l" => {
            let command = format!("{way} \"$0\"");
            Command::shell(&command).arg(peer.mountpoint()).ok();
        }
        "stop" => assert!(stop(peer.mountpoint(), &[]).status.success()),
        "TERM" => tell(Signal::TERM),
        "INT" => tell(Signal::INT),
        _ => tell(Signal::KILL),
    }
}

#[test]
fn a_start_right_behind_any_end_mounts_what_was_written() {
    const WAYS: [&str; 6] = ["umount", "umount -l", "stop", "TERM", "INT", "KILL"];
    scenario("behind", 5 * MINUTES, |s| {
        let peer = s.peer("a");
        start(&peer, peer.state(), &["--new"]);
        for (round, way) in (0..).zip(WAYS.iter().cycle().take(4 * WAYS.len())) {
            let large = pattern(300_000, round);
            fs::write(peer.path("small"), round.to_string()).expect("written");
            fs::write(peer.path("large"), &large).expect("written");
            end(&peer, way);
            // What is started while the mount is still there waits, too.
            start(&peer, peer.state(), &[]);
            let small = fs::read(peer.path("small")).expect("read");
            assert_eq!(small, round.to_string().as_bytes(), "{round}: {way}");
            let read = fs::read(peer.path("large")).expect("read");
            assert!(read == large, "{round}: {way}");
        }
        end(&peer, "stop");
    });
}

#[test]
fn a_mount_whose_daemon_died_is_told_with_what_to_do() {
    scenario("died", 3 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        fs::write(peer.path("file"), "content").expect("written");
        peer.kill();
        for path in [peer.mountpoint().to_owned(), peer.path("file")] {
            let told = Command::new(machine::program("dfs"))
                .arg("status")
                .arg(&path)
                .run();
            assert_eq!(told.status.code(), Some(3), "{told}");
            let said = told.stderr_text();
            let todo = format!("run dfs-mount {}", peer.mountpoint().display());
            assert!(said.contains("died") && said.contains(&todo), "{said}");
        }
        peer.restart();
        assert_eq!(fs::read(peer.path("file")).expect("read"), b"content");
        peer.unmount();
    });
}

#[test]
fn systemd_is_told_when_a_peer_is_up() {
    scenario("notify", 3 * MINUTES, |s| {
        let peer = s.peer("a");
        let path = s.path("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        socket.set_read_timeout(Some(MINUTES)).expect("set");
        let mount = peer
            .inside(&machine::program("dfs-mount").display().to_string())
            .arg(peer.mountpoint())
            .args(["--new", "--state"])
            .arg(peer.state())
            .env("NOTIFY_SOCKET", &path)
            .run();
        assert!(mount.status.success(), "{mount}");
        let mut said = [0; 64];
        let len = socket.recv(&mut said).expect("told");
        assert_eq!(said.get(..len), Some(&b"READY=1"[..]));
        assert!(stop(peer.mountpoint(), &[]).status.success());
    });
}
