//! Bad input gets one clear line, its exit code and no mount: each row of the table is a start that
//! must fail.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use mount_tests::{
    Command, Finished, Peer, Scenario, Start, elapsed_since, machine, now, scenario, tree,
    wait_until,
};

const MINUTES: Duration = Duration::from_secs(60);

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_ALLOWED: i32 = 4;
const TIMED_OUT: i32 = 5;

/// Checks how a start failed: exit code, one line on stderr that has each of `words`, no mount.
#[track_caller]
fn assert_refused(peer: &Peer, finished: &Finished, code: i32, words: &[&str]) {
    let said = finished.stderr_text();
    assert_eq!(finished.status.code(), Some(code), "{finished}");
    assert_eq!(said.trim().lines().count(), 1, "not one line: {finished}");
    for word in words {
        assert!(
            said.to_lowercase().contains(&word.to_lowercase()),
            "no {word:?} in {said:?}"
        );
    }
    assert!(!said.contains("panicked"), "{said}");
    let mounts = machine::mounts_below(peer.mountpoint());
    assert!(mounts.is_empty(), "{finished} left {mounts:?}");
}

/// Returns the arguments of a start that would succeed, with `more` at the end.
fn mount_args(peer: &Peer, more: &[&str]) -> Vec<String> {
    let mut args = vec![peer.mountpoint().display().to_string()];
    args.extend(["--state".to_owned(), peer.state().display().to_string()]);
    args.extend(["--listen".to_owned(), peer.listen()]);
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    args
}

fn try_mount(peer: &Peer, more: &[&str]) -> Finished {
    peer.attempt("dfs-mount", &mount_args(peer, more))
}

#[test]
fn arguments_that_make_no_sense_are_wrong_usage() {
    scenario("usage", 2 * MINUTES, |s| {
        let peer = s.peer("a");
        let mounts: [(&[&str], &str); 15] = [
            (&["--nope"], "--nope"),
            (&["--new", "--invite", "dfs1x"], "--invite"),
            (&["--new", "--peer", "10.77.0.1:1"], "--peer"),
            (&["--capacity", "12parsecs"], "12parsecs"),
            (&["--capacity", "-1"], "-1"),
            (
                &["--cache", "99999999999999999999T"],
                "99999999999999999999T",
            ),
            (&["--listen", "somewhere"], "somewhere"),
            (&["--listen", "1.2.3.4:99999"], "99999"),
            (&["--listen", "1.2.3.4"], "1.2.3.4"),
            (&["--peer", "no-port"], "no-port"),
            (&["--peer", "host:port"], "host:port"),
            (&["--fsync", "sometimes"], "sometimes"),
            (&["-o", "rw,nonsense"], "nonsense"),
            (&["--peer", "10.77.0.1:1", "--invite", "garbage"], "invite"),
            (&["--peer", "10.77.0.1:1", "--invite", ""], "invite"),
        ];
        for (args, word) in mounts {
            let finished = if args.first() == Some(&"--listen") {
                // Not twice on one line.
                let mut all = vec![peer.mountpoint().display().to_string()];
                all.extend(args.iter().map(|&arg| arg.to_owned()));
                peer.attempt("dfs-mount", &all)
            } else {
                try_mount(&peer, args)
            };
            assert_refused(&peer, &finished, USAGE, &[word]);
            assert!(
                !peer.state().join("identity.key").exists(),
                "{finished} made a state"
            );
        }
        let nothing: [&str; 0] = [];
        assert_refused(
            &peer,
            &peer.attempt("dfs-mount", &nothing),
            USAGE,
            &["mountpoint"],
        );
        assert_refused(&peer, &peer.attempt("dfs", &["nope"]), USAGE, &["nope"]);
        assert_refused(
            &peer,
            &peer.attempt("dfs", &["invite", "--role", "king"]),
            USAGE,
            &["king"],
        );
    });
}

#[test]
fn mountpoints_that_do_not_fit_are_named() {
    scenario("mountpoints", 3 * MINUTES, |s| {
        let mut peer = s.peer("a");
        let at = |peer: &Peer, path: &Path| {
            let mut args = mount_args(peer, &[]);
            args[0] = path.display().to_string();
            peer.attempt("dfs-mount", &args)
        };
        let missing = s.path("missing");
        assert_refused(&peer, &at(&peer, &missing), FAILED, &["missing", "exist"]);
        let file = s.path("file");
        fs::write(&file, "x").expect("written");
        assert_refused(&peer, &at(&peer, &file), FAILED, &["file", "not a folder"]);
        let full = s.new_folder("full");
        fs::write(full.join("x"), "x").expect("written");
        assert_refused(&peer, &at(&peer, &full), FAILED, &["full", "not empty"]);
        assert!(
            !peer.state().exists(),
            "a start that cannot mount made a state"
        );

        peer.mount(&Start::new_volume());
        let other = s.path("other state");
        let mut args = mount_args(&peer, &[]);
        args[2] = other.display().to_string();
        let again = peer.attempt("dfs-mount", &args);
        assert_eq!(again.status.code(), Some(FAILED), "{again}");
        assert!(again.stderr_text().contains("already mounted"), "{again}");
        assert_eq!(again.stderr_text().trim().lines().count(), 1, "{again}");
        assert_eq!(machine::mounts_below(peer.mountpoint()).len(), 1);
        fs::write(peer.path("still works"), "x").expect("the first mount is untouched");
    });
}

/// Runs `dfs-mount` in a mount namespace of its own after `prepare`, as a user or as root.
fn attempt_where(peer: &Peer, prepare: &str, user: &str) -> Finished {
    let program = machine::program("dfs-mount").display().to_string();
    let quoted: Vec<_> = mount_args(peer, &[])
        .iter()
        .map(|arg| format!("'{arg}'"))
        .collect();
    let script = format!(
        "set -e; {prepare}; exec {user} {program} {}",
        quoted.join(" ")
    );
    peer.inside("unshare")
        .args(["--mount", "sh", "-c", &script])
        .run()
}

#[test]
fn a_machine_without_fuse_is_told_what_to_install() {
    scenario("no-fuse", 2 * MINUTES, |s| {
        let peer = s.peer("a");
        let without_device = attempt_where(&peer, WITHOUT_DEVICE, "");
        assert_refused(&peer, &without_device, FAILED, &["/dev/fuse"]);

        // Root mounts by itself; a user needs the helper.
        let hide = "for p in /usr/bin /bin; do \
                    test -e $p/fusermount3 && mount --bind /dev/null $p/fusermount3; done; true";
        std::os::unix::fs::chown(peer.mountpoint(), Some(USER), Some(USER)).expect("given");
        let home = peer.mountpoint().parent().expect("a parent");
        std::os::unix::fs::chown(home, Some(USER), Some(USER)).expect("given");
        let as_user = format!("setpriv --reuid {USER} --regid {USER} --clear-groups");
        let without_helper = attempt_where(&peer, hide, &as_user);
        assert_refused(&peer, &without_helper, FAILED, &["fusermount3", "fuse3"]);
    });
}

const USER: u32 = 54321;

/// A /dev with what every program needs, and no fuse.
const WITHOUT_DEVICE: &str = "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; \
                              mknod -m 666 /dev/urandom c 1 9";

#[test]
fn state_folders_that_do_not_fit_are_named() {
    scenario("states", 5 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        let elsewhere = s.new_folder("elsewhere");
        let mut args = mount_args(&peer, &[]);
        args[0] = elsewhere.display().to_string();
        let in_use = peer.attempt("dfs-mount", &args);
        assert_eq!(in_use.status.code(), Some(FAILED), "{in_use}");
        assert!(in_use.stderr_text().contains("in use"), "{in_use}");
        assert!(machine::mounts_below(&elsewhere).is_empty());
        peer.terminate();

        let format = peer.state().join("format");
        let written = fs::read(&format).expect("the state names its format");
        let newer = newer_format(&written);
        fs::write(&format, newer).expect("written");
        assert_refused(&peer, &try_mount(&peer, &[]), FAILED, &["newer", "format"]);
        fs::write(&format, written).expect("written");

        for mode in [0o755, 0o710, 0o701] {
            fs::set_permissions(peer.state(), Permissions::from_mode(mode)).expect("opened up");
            assert_refused(
                &peer,
                &try_mount(&peer, &[]),
                NOT_ALLOWED,
                &["state", "owner"],
            );
        }
        fs::set_permissions(peer.state(), Permissions::from_mode(0o700)).expect("closed");
        peer.restart();
        peer.terminate();

        // A disk that is mounted read-only: root is stopped by nothing else.
        let state = peer.state().display().to_string();
        let read_only =
            format!("mount --bind '{state}' '{state}'; mount -o remount,ro,bind '{state}'");
        let not_writable = attempt_where(&peer, &read_only, "");
        assert_refused(&peer, &not_writable, NOT_ALLOWED, &["state", "writ"]);
    });
}

#[test]
fn a_start_without_state_makes_nothing_unless_it_is_asked_to() {
    scenario("no-state", 5 * MINUTES, |s| {
        let mut peer = s.peer("a");
        let ways = ["--new", "--invite", "--peer"];
        assert_refused(&peer, &try_mount(&peer, &[]), FAILED, &ways);
        assert!(!peer.state().exists(), "it made a state folder");
        // As mount(8) calls it, and as systemd does: not even where it is asked to.
        let program = machine::program("dfs-mount").display().to_string();
        let mut by_mount = vec!["dfs".to_owned()];
        by_mount.extend(mount_args(&peer, &["--new", "-o", "rw,nodev"]));
        let by_mount = peer.attempt("dfs-mount", &by_mount);
        assert_refused(&peer, &by_mount, FAILED, &["mount(8)", "by hand"]);
        let by_systemd = |peer: &Peer, more: &[&str]| {
            let exec = "export SYSTEMD_EXEC_PID=$$; exec \"$@\"";
            peer.inside("sh")
                .args(["-c", exec, "sh", &program])
                .args(mount_args(peer, more))
                .run()
        };
        for more in [&["--new"][..], &["--new", "-f"], &["--peer", "10.77.0.1:1"]] {
            assert_refused(&peer, &by_systemd(&peer, more), FAILED, &["by hand"]);
        }
        assert!(!peer.state().exists(), "it made a state folder");

        peer.mount(&Start::new_volume());
        fs::write(peer.path("file"), "content").expect("written");
        peer.terminate();
        let log = peer.state().join("log");
        let before = tree::read_tree(peer.state());
        for more in [&["--new"][..], &["--new", "-o", "ro"]] {
            let finished = try_mount(&peer, more);
            assert_refused(&peer, &finished, USAGE, &["already", "without --new"]);
        }
        // A typing error, and a disk that is not mounted yet.
        let moved = s.path("moved");
        fs::rename(peer.state(), &moved).expect("moved");
        assert_refused(&peer, &try_mount(&peer, &[]), FAILED, &ways);
        assert!(!peer.state().exists(), "it made a state folder");
        fs::create_dir(peer.state()).expect("an empty mountpoint");
        assert_refused(&peer, &try_mount(&peer, &[]), FAILED, &ways);
        let left = fs::read_dir(peer.state()).expect("listed").count();
        assert_eq!(left, 0, "it left something in an empty folder");
        fs::remove_dir(peer.state()).expect("still empty");
        fs::rename(&moved, peer.state()).expect("moved back");
        tree::assert_equal("refused starts", &before, &tree::read_tree(peer.state()));
        assert!(log.exists());

        assert!(
            by_systemd(&peer, &[]).status.success(),
            "there is a state now"
        );
        assert_eq!(fs::read(peer.path("file")).expect("read"), b"content");
        Command::new("umount").arg(peer.mountpoint()).ok();
    });
}

/// Raises the version in a format file, which stands behind eight letters (docs/format.md).
fn newer_format(written: &[u8]) -> Vec<u8> {
    let mut newer = written.to_vec();
    newer[8] += 1;
    newer
}

#[test]
fn a_port_that_is_taken_and_a_peer_that_is_not_there_are_told() {
    scenario("network", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let token = a.invite("writer");
        let b = s.peer("b");

        let mut taken = mount_args(&b, &["--new"]);
        taken[4] = a.listen();
        let taken = a.attempt("dfs-mount", &taken);
        assert_refused(&b, &taken, FAILED, &["4750", "in use"]);

        for unreachable in ["10.77.0.200:4750", "10.77.0.1:4999"] {
            let started = now();
            let finished = try_mount(&b, &["--peer", unreachable, "--invite", &lonely(s, &token)]);
            assert!(
                elapsed_since(started) < Duration::from_secs(15),
                "{finished}"
            );
            // The token names the addresses of its issuer, too, so only a wrong one is unreachable.
            assert_refused(&b, &finished, TIMED_OUT, &[]);
            assert!(!b.state().exists(), "{finished} left a state folder");
        }
        let nowhere = try_mount(
            &b,
            &["--peer", "no.such.host.invalid:4750", "--invite", &token],
        );
        assert_refused(&b, &nowhere, FAILED, &["no.such.host.invalid"]);
    });
}

/// Returns a token whose issuer has gone: of a volume that ran once in this scenario.
fn lonely(s: &mut Scenario, _token: &str) -> String {
    let mut gone = s.peer(&format!(
        "gone{}",
        s.folder().read_dir().expect("listed").count()
    ));
    gone.mount(&Start::new_volume());
    let token = gone.invite("writer");
    gone.terminate();
    token
}

#[test]
fn invites_that_do_not_fit_are_told_apart() {
    scenario("invites", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut stranger = s.peer("stranger");
        stranger.mount(&Start::new_volume());
        let b = s.peer("b");
        let address = a.listen();
        let join = |token: &str| try_mount(&b, &["--peer", &address, "--invite", token]);

        let good = a.invite("writer");
        let finished = join(&change_the_end(&good));
        assert!(
            matches!(finished.status.code(), Some(USAGE | NOT_ALLOWED)),
            "{finished}"
        );
        assert_refused(
            &b,
            &finished,
            finished.status.code().unwrap_or(0),
            &["invite"],
        );

        let expired = a.dfs(&["invite", "--expires", "1s"]).stdout_text();
        let expired = expired.lines().last().expect("a token").to_owned();
        let started = now();
        wait_until("the token has expired", MINUTES, || {
            (elapsed_since(started) > Duration::from_millis(1500)).then_some(())
        });
        assert_refused(&b, &join(&expired), NOT_ALLOWED, &["expired"]);

        // A token of one volume, and only a peer of another one to ask.
        let other = stranger.invite("writer");
        stranger.terminate();
        assert_refused(&b, &join(&other), NOT_ALLOWED, &["volume"]);

        assert!(!b.state().exists(), "refused starts left a state folder");
        // After all these the good one still works, once.
        let mut c = s.peer("c");
        c.mount(&Start::join(&a, &good));
        assert_refused(&b, &join(&good), NOT_ALLOWED, &["used"]);

        let storage = a.invite("storage");
        assert_refused(&b, &join(&storage), NOT_ALLOWED, &["storage"]);
    });
}

/// Changes characters near the end of a token, where its secret stands.
fn change_the_end(token: &str) -> String {
    let (head, tail) = token.split_at(token.len() - 6);
    let swapped = tail.chars().map(|c| match c {
        'a'..='y' | 'A'..='Y' | '0'..='8' => char::from(c as u8 + 1),
        'z' => 'a',
        'Z' => 'A',
        '9' => '0',
        other => other,
    });
    format!("{head}{}", swapped.collect::<String>())
}

#[test]
fn a_removed_member_is_no_longer_served() {
    scenario("removed", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut b = s.peer("b");
        b.mount(&Start::join(&a, &a.invite("writer")));
        let id = b.facts(&["status"])["peer_id"]
            .as_str()
            .expect("an id")
            .to_owned();
        b.terminate();
        let removed = a.dfs(&["members", "remove", &id, "--yes"]);
        assert!(removed.status.success(), "{removed}");
        fs::write(a.path("after"), "not for b").expect("written");
        // B may look at what it has, and hears why nothing comes.
        b.restart();
        let warned = |b: &Peer| {
            let status = b.facts(&["status"]);
            let warnings = status["warnings"].to_string();
            (warnings.contains("roster") || warnings.contains("removed")).then_some(())
        };
        wait_until("B tells that it is not on the roster", MINUTES, || {
            warned(&b)
        });
        assert!(!b.path("after").exists());
    });
}

/// A library that shifts the time of day of whoever loads it.
const SKEW_SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <stdlib.h>
int clock_gettime(clockid_t id, struct timespec *ts) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, ts);
    if (!result && id == CLOCK_REALTIME) ts->tv_sec += atol(getenv("SKEW_SECONDS"));
    return result;
}
"#;

#[test]
fn a_clock_that_is_off_is_told_on_both_sides() {
    scenario("clock", 3 * MINUTES, |s| {
        let source = s.path("skew.c");
        fs::write(&source, SKEW_SOURCE).expect("written");
        let library = s.path("skew.so");
        Command::new("gcc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .ok();
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        for (name, seconds) in [("fast", "660"), ("slow", "-660")] {
            let b = s.peer(name);
            let token = a.invite("writer");
            let finished = b
                .inside(&machine::program("dfs-mount").display().to_string())
                .args(mount_args(&b, &["--peer", &a.listen(), "--invite", &token]))
                .env("LD_PRELOAD", &library)
                .env("SKEW_SECONDS", seconds)
                .run();
            assert_refused(&b, &finished, FAILED, &["clock"]);
        }
        let log = fs::read_to_string(a.log_path()).expect("a log");
        assert!(log.contains("clock"), "A says nothing of it:\n{log}");
        // Nine minutes are borne.
        let b = s.peer("borne");
        let token = a.invite("writer");
        let finished = b
            .inside(&machine::program("dfs-mount").display().to_string())
            .args(mount_args(&b, &["--peer", &a.listen(), "--invite", &token]))
            .env("LD_PRELOAD", &library)
            .env("SKEW_SECONDS", "540")
            .run();
        assert!(finished.status.success(), "{finished}");
        Command::new("umount").arg(b.mountpoint()).ok();
    });
}
