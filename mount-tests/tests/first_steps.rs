//! The first commands that a person tries: a new volume, a second machine, a storage peer, a stop
//! and a start.

use std::fs;
use std::process::ExitStatus;
use std::time::Duration;

use mount_tests::source::make_odd_things;
use mount_tests::tree::{assert_equal, read_tree};
use mount_tests::{Command, Start, Trio, machine, scenario, wait_for_content, wait_until};

const MINUTES: Duration = Duration::from_secs(60);

fn assert_good(status: ExitStatus, what: &dyn std::fmt::Display) {
    assert!(status.success(), "{what}");
}

#[test]
fn a_new_volume_is_one_command_that_returns() {
    scenario("new-volume", 2 * MINUTES, |s| {
        let peer = s.peer("a");
        let state = peer.state().display().to_string();
        let mountpoint = peer.mountpoint().display().to_string();
        let finished = peer.attempt("dfs-mount", &[&mountpoint, "--new", "--state", &state]);
        assert_good(finished.status, &finished);
        let said = finished.stdout_text() + &finished.stderr_text();
        assert!(
            said.contains(&state) && said.contains("dfs invite"),
            "{finished}"
        );
        assert_eq!(machine::mounts_below(peer.mountpoint()).len(), 1);
        let table = fs::read_to_string("/proc/mounts").expect("a table");
        let line = table
            .lines()
            .find(|line| line.contains(&mountpoint))
            .expect("our line");
        assert!(line.contains(" fuse.dfs-mount "), "{line}");

        fs::write(peer.path("file"), "content").expect("written");
        let pid = peer.facts(&["status"])["pid"].as_u64().expect("a pid");
        Command::new("umount").arg(&mountpoint).ok();
        wait_until("the daemon ends with its mount", MINUTES, || {
            (!machine::is_alive(u32::try_from(pid).expect("a pid"))).then_some(())
        });
        // Again, through mount(8) and its conventions, and read-only.
        let finished = peer.attempt(
            "dfs-mount",
            &[
                "dfs",
                &mountpoint,
                "-o",
                "ro,noauto,_netdev",
                "--state",
                &state,
            ],
        );
        assert_good(finished.status, &finished);
        assert_eq!(fs::read(peer.path("file")).expect("read"), b"content");
        let refused = fs::write(peer.path("file"), "other").expect_err("it is read-only");
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        Command::new("umount").arg(&mountpoint).ok();
    });
}

#[test]
fn three_machines_join_once_and_start_again_without_a_word() {
    scenario("join", 5 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        make_odd_things(&trio.a.path("tree"));
        let expected = read_tree(&trio.a.path("tree"));
        fs::write(trio.a.path("first"), "first").expect("written");
        wait_for_content(&trio.b.path("first"), b"first");
        trio.sync();
        for peer in trio.all() {
            peer.terminate();
        }
        // In the other order, so that nobody finds at once whom it knows.
        let [a, b, storage] = trio.all();
        for peer in [storage, b, a] {
            peer.restart();
        }
        fs::write(trio.b.path("second"), "second").expect("written");
        wait_for_content(&trio.a.path("second"), b"second");
        assert_equal(
            "after the restart",
            &expected,
            &read_tree(&trio.b.path("tree")),
        );
        trio.sync();
        trio.a.unmount();
        trio.b.unmount();
        trio.storage.terminate();
    });
}

#[test]
fn a_mount_is_made_again_as_soon_as_it_is_gone() {
    scenario("again", 2 * MINUTES, |s| {
        let peer = s.peer("a");
        let mountpoint = peer.mountpoint().display().to_string();
        let state = peer.state().display().to_string();
        for round in 0..10 {
            let mut args = vec![&*mountpoint, "--state", &state];
            args.extend((round == 0).then_some("--new"));
            let finished = peer.attempt("dfs-mount", &args);
            assert_good(finished.status, &finished);
            // There is something to bring to the disk at the end.
            let path = peer.path(format!("file {round}"));
            fs::write(path, vec![7; 3 << 20]).expect("written");
            Command::new("umount").arg(&mountpoint).ok();
        }
        let finished = peer.attempt("dfs-mount", &[&mountpoint, "--state", &state]);
        assert_good(finished.status, &finished);
        assert_eq!(fs::read_dir(peer.mountpoint()).expect("listed").count(), 10);
    });
}

#[test]
fn a_reader_reads_and_cannot_write() {
    scenario("reader", 2 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        fs::write(a.path("file"), "content").expect("written");
        let mut reader = s.peer("reader");
        reader.mount(&Start::join(&a, &a.invite("reader")));
        wait_for_content(&reader.path("file"), b"content");
        for attempt in [
            fs::write(reader.path("file"), "x"),
            fs::write(reader.path("new"), "x"),
            fs::create_dir(reader.path("folder")),
            fs::remove_file(reader.path("file")),
            fs::rename(reader.path("file"), reader.path("other")),
        ] {
            let error = attempt.expect_err("a reader cannot change anything");
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        }
    });
}

#[test]
fn a_user_mounts_without_being_root() {
    scenario("user", 2 * MINUTES, |s| {
        let peer = s.peer("a");
        let home = peer.mountpoint().parent().expect("a parent").to_owned();
        for path in [&home, &peer.mountpoint().to_owned()] {
            std::os::unix::fs::chown(path, Some(USER), Some(USER)).expect("given");
        }
        // Everything in one mount namespace, whose /dev/fuse and /dev/null are open to all as on a
        // real machine; some containers keep them for root.
        let script = s.path("user.sh");
        fs::write(&script, AS_USER).expect("written");
        let device = s.path("fuse");
        let done = peer
            .inside("unshare")
            .args(["--mount", "sh", "-ec", OPEN_DEVICE, "sh"])
            .args([&device, &script, &machine::program("dfs-mount")])
            .args([peer.mountpoint(), peer.state()])
            .env("HOME", &home)
            .run();
        assert_good(done.status, &done);
        assert!(machine::mounts_below(peer.mountpoint()).is_empty());
    });
}

/// Nobody: fusermount3 wants a user with a name.
const USER: u32 = 65534;

/// Makes devices for all, and goes on as a user with the other arguments.
const OPEN_DEVICE: &str = "mknod -m 666 $1 c 10 229; mount --bind $1 /dev/fuse
    mknod -m 666 $1-null c 1 3; mount --bind $1-null /dev/null; shift
    exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -ex \"$@\"";

/// Mounts, works, unmounts: program, mountpoint, state.
const AS_USER: &str = "
\"$1\" \"$2\" --new --state \"$3\"
cd \"$2\"
echo hello > file; cat file; ls -l; df .; mkdir d; mv file d; chmod 600 d/file
test \"$(stat -c %u d/file)\" = 65534
cd /
fusermount3 -u \"$2\"
! mountpoint -q \"$2\"
\"$1\" \"$2\" --state \"$3\"
test \"$(cat \"$2\"/d/file)\" = hello
fusermount3 -u \"$2\"
";

#[test]
fn a_mount_in_use_is_busy_and_sigterm_takes_it_all_the_same() {
    scenario("busy", 2 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut open = fs::File::create(a.path("open")).expect("created");
        std::io::Write::write_all(&mut open, b"not yet closed").expect("written");
        let refused = Command::new("umount").arg(a.mountpoint()).run();
        assert!(
            !refused.status.success() && refused.stderr_text().contains("busy"),
            "{refused}"
        );
        assert!(a.is_running());
        a.terminate();
        assert!(std::io::Write::write_all(&mut open, b"x").is_err());
        drop(open);
        a.restart();
        assert_eq!(fs::read(a.path("open")).expect("read"), b"not yet closed");
    });
}
