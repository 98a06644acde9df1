//! What must not grow, stop or stay: space, memory, logs, the control socket, what a daemon keeps of
//! where it was started, and the end of one that is used.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::sys::Mapping;
use mount_tests::{Command, Peer, Start, machine, scenario, wait_until};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

const MINUTES: Duration = Duration::from_secs(60);
const ENOSPC: i32 = 28;
const MIB: u64 = 1 << 20;

fn pid_of(peer: &Peer) -> Pid {
    Pid::from_raw(i32::try_from(peer.pid()).expect("a pid")).expect("not 0")
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Returns the free bytes that df shows.
fn free_bytes(peer: &Peer) -> u64 {
    let stat = rustix::fs::statvfs(peer.mountpoint()).expect("statvfs");
    stat.f_bavail * stat.f_frsize
}

/// Mounts a peer whose state folder is an ext4 of so many MiB.
fn on_small_disk(s: &mut mount_tests::Scenario, mib: u64, start: &Start) -> Peer {
    let mut peer = s.peer("a");
    Command::shell(
        "truncate -s \"$2M\" \"$0\"; mkfs.ext4 -q \"$0\"; mkdir -p \"$1\"; \
         mount -o loop \"$0\" \"$1\"; chmod 700 \"$1\"",
    )
    .arg(s.path("disk.image"))
    .arg(peer.state())
    .arg(mib.to_string())
    .ok();
    peer.mount(start);
    peer
}

fn unmount_disk(mut peer: Peer) {
    peer.unmount();
    let state = peer.state().to_owned();
    drop(peer);
    wait_until("the disk is free", MINUTES, || {
        let finished = Command::new("umount").arg(&state).run();
        finished.status.success().then_some(())
    });
}

#[test]
fn a_small_disk_takes_what_df_says_and_again_what_was_removed() {
    scenario("space", 8 * MINUTES, |s| {
        let start = Start::new_volume().arg("--capacity").arg("100G");
        let peer = on_small_disk(s, 200, &start);
        let said = free_bytes(&peer);
        assert!(said < 200 * MIB, "df says {said} on a disk of 200 MiB");
        write_synced(&peer.path("kept"), &pattern(4 << 20, 1)).expect("written");
        fs::copy(peer.path("kept"), peer.path("copy")).expect("copied");
        // More than there is, with as much removed before.
        for round in 0..4 {
            for part in 0..2 {
                let name = format!("part {part}");
                let bytes = pattern(20 << 20, 10 * round + part);
                write_synced(&peer.path(&name), &bytes).unwrap_or_else(|error| {
                    panic!("round {round}, {name}: {error}, free {}", free_bytes(&peer))
                });
            }
            for part in 0..2 {
                fs::remove_file(peer.path(format!("part {part}"))).expect("removed");
            }
        }
        // What df says fits, and no more.
        let mut written = 0;
        let refused = loop {
            let name = format!("fill {written}");
            match write_synced(&peer.path(&name), &pattern(10 << 20, 100 + written)) {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused.raw_os_error(), Some(ENOSPC), "{refused}");
        assert!((3..15).contains(&written), "{written} files of 10 MiB");
        // What did not fit, as a program that cleans up removes it.
        fs::remove_file(peer.path(format!("fill {written}"))).expect("removed");
        let said = free_bytes(&peer);
        assert!(said < 10 * MIB, "df says {said} where 10 MiB do not fit");
        let facts = peer.facts(&["status"]);
        let on_disk = facts["disk_bytes"].as_u64().expect("a number");
        assert!((80 * MIB..200 * MIB).contains(&on_disk), "{facts}");
        assert_eq!(
            facts["free_bytes"].as_u64().expect("a number") / (10 * MIB),
            0
        );
        assert!(fs::read(peer.path("copy")).expect("read") == pattern(4 << 20, 1));
        unmount_disk(peer);
    });
}

#[test]
fn a_new_volume_that_is_idle_takes_less_than_8_mib() {
    scenario("idle", 2 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        let taken = |peer: &Peer| {
            let said = Command::new("du").arg("-sB1").arg(peer.state()).ok();
            let said = said.split_whitespace().next().map(str::parse::<u64>);
            said.expect("a number").expect("a number")
        };
        assert!(
            taken(&peer) < 8 * MIB,
            "{} bytes when mounted",
            taken(&peer)
        );
        // What is made ahead in the background is there by now.
        peer.terminate();
        assert!(taken(&peer) < 8 * MIB, "{} bytes at the end", taken(&peer));
    });
}

#[test]
fn the_capacity_bounds_contents_and_small_files_alike() {
    scenario("capacity", 5 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume().arg("--capacity").arg("64M"));
        assert!(free_bytes(&peer) <= 64 * MIB);
        let mut written = 0;
        let refused = loop {
            let name = format!("large {written}");
            match write_synced(&peer.path(&name), &pattern(4 << 20, written)) {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused.raw_os_error(), Some(ENOSPC), "{refused}");
        assert!((10..=16).contains(&written), "{written} files of 4 MiB");
        assert!(free_bytes(&peer) < 4 * MIB);
        fs::remove_file(peer.path(format!("large {written}"))).expect("removed");
        fs::remove_file(peer.path("large 0")).expect("removed");
        write_synced(&peer.path("again"), &pattern(3 << 20, 99)).expect("there is room again");
        // A larger one takes effect at once.
        let set = peer.dfs(&["config", "capacity", "1G"]);
        assert!(set.status.success(), "{set}");
        write_synced(&peer.path("more"), &pattern(20 << 20, 77)).expect("there is room");
        peer.unmount();
    });
}

#[test]
fn a_bind_mount_names_the_file_that_it_shows() {
    scenario("bind", 3 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        fs::create_dir_all(peer.path("a b/c")).expect("made");
        fs::write(peer.path("a b/c/f"), "inner file").expect("written");
        fs::write(peer.path("f"), "x").expect("written");
        let bind = s.new_folder("bind");
        let status = |path: &Path| {
            Command::new(machine::program("dfs"))
                .args(["status", "--json"])
                .arg(path)
                .run()
        };
        Command::new("mount")
            .arg("--bind")
            .arg(peer.path("a b/c"))
            .arg(&bind)
            .ok();
        let said = status(&bind.join("f"));
        let facts: serde_json::Value = serde_json::from_slice(&said.stdout).expect("JSON");
        assert_eq!(facts["size"], 10, "{said}");
        // So does a link that lies elsewhere.
        let link = s.path("link");
        std::os::unix::fs::symlink(peer.path("a b/c/f"), &link).expect("made");
        let said = status(&link);
        let facts: serde_json::Value = serde_json::from_slice(&said.stdout).expect("JSON");
        assert_eq!(facts["size"], 10, "{said}");
        // What is mounted below is not of the volume.
        let below = peer.path("a b");
        Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(&below)
            .ok();
        fs::write(below.join("f"), "of the other").expect("written");
        let said = status(&below.join("f"));
        assert!(!said.status.success(), "{said}");
        for mount in [&below, &bind] {
            Command::new("umount").arg(mount).ok();
        }
        peer.unmount();
    });
}

#[test]
fn a_daemon_without_descriptors_answers_when_it_has_some_again() {
    scenario("descriptors", 3 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        peer.facts(&["status"]);
        let limit = |current| Rlimit {
            current: Some(current),
            maximum: Some(4096),
        };
        let open = fs::read_dir(format!("/proc/{}/fd", peer.pid())).expect("listed");
        let open = open.count() as u64;
        prlimit(Some(pid_of(&peer)), Resource::Nofile, limit(open)).expect("limited");
        let socket = peer.state().join("control.sock");
        let mut clients = Vec::new();
        for _ in 0..60 {
            clients.push(UnixStream::connect(&socket).expect("the backlog takes it"));
        }
        // It has tried, and says so.
        wait_until("a failure is told", MINUTES, || {
            let log = fs::read_to_string(peer.state().join("log/dfs.log")).ok()?;
            log.contains("takes no clients").then_some(())
        });
        drop(clients);
        prlimit(Some(pid_of(&peer)), Resource::Nofile, limit(4096)).expect("raised");
        peer.facts(&["status"]);

        // More clients than are served at once, who say nothing.
        let mut idle: Vec<UnixStream> = Vec::new();
        for _ in 0..80 {
            idle.push(UnixStream::connect(&socket).expect("connected"));
        }
        let served = || {
            let open = fs::read_dir(format!("/proc/{}/fd", peer.pid())).expect("listed");
            open.count() as u64
        };
        wait_until("as many as may are served", MINUTES, || {
            (served() >= open + 60).then_some(())
        });
        assert!(served() <= open + 70, "{} descriptors", served());
        drop(idle);
        peer.facts(&["status"]);
        peer.unmount();
    });
}

#[test]
fn a_daemon_whose_files_may_not_grow_fails_calls_and_lives() {
    scenario("fsize", 3 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        write_synced(&peer.path("before"), &pattern(100_000, 1)).expect("written");
        let limit = |current| Rlimit {
            current,
            maximum: None,
        };
        prlimit(Some(pid_of(&peer)), Resource::Fsize, limit(Some(4096))).expect("limited");
        let refused = write_synced(&peer.path("during"), &pattern(8 << 20, 2));
        assert!(refused.is_err(), "8 MiB in files of 4 KiB");
        let read = fs::read(peer.path("before")).expect("it lives");
        assert!(read == pattern(100_000, 1));
        prlimit(Some(pid_of(&peer)), Resource::Fsize, limit(None)).expect("raised");
        peer.facts(&["status"]);
        peer.kill();
        peer.restart();
        let read = fs::read(peer.path("before")).expect("read");
        assert!(read == pattern(100_000, 1));
        write_synced(&peer.path("after"), &pattern(100_000, 3)).expect("written");
        peer.unmount();
    });
}

#[test]
fn a_hangup_opens_the_log_anew_and_ends_nothing() {
    scenario("hangup", 3 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        let log = peer.state().join("log/dfs.log");
        fs::rename(&log, peer.state().join("log/moved")).expect("moved away");
        kill_process(pid_of(&peer), Signal::HUP).expect("told");
        wait_until("the log is there again", MINUTES, || {
            let said = fs::read_to_string(&log).ok()?;
            said.contains("opened anew").then_some(())
        });
        fs::write(peer.path("f"), "works").expect("written");
        peer.unmount();
    });
}

#[test]
fn a_daemon_keeps_nothing_of_where_it_was_started() {
    scenario("started", 3 * MINUTES, |s| {
        let peer = s.peer("a");
        let stick = s.new_folder("stick");
        Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(&stick)
            .ok();
        let lock = s.path("lock");
        let script = format!(
            "umask 000; cd '{}'; exec 9>'{}'; flock -n 9; exec env --block-signal '{}' --new \
             --listen 127.0.0.1:0 --state '{}' '{}'",
            stick.display(),
            lock.display(),
            machine::program("dfs-mount").display(),
            peer.state().display(),
            peer.mountpoint().display(),
        );
        let started = peer.inside("sh").args(["-euc", &script]).run();
        assert!(started.status.success(), "{started}");
        Command::new("flock").arg("-n").arg(&lock).arg("true").ok();
        Command::new("umount").arg(&stick).ok();
        let pid = peer.facts(&["status"])["pid"].as_u64().expect("a pid");
        let proc = |what: &str| fs::read_link(format!("/proc/{pid}/{what}")).expect("a link");
        assert_eq!(proc("cwd"), Path::new("/"));
        for stream in 0..3 {
            let target = proc(&format!("fd/{stream}"));
            assert_eq!(target, Path::new("/dev/null"), "stream {stream}");
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read");
        assert!(status.contains("Umask:\t0077"), "{status}");
        assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
        Command::new("umount").arg(peer.mountpoint()).ok();
        wait_until("the daemon ends with its mount", MINUTES, || {
            (!machine::is_alive(u32::try_from(pid).expect("a pid"))).then_some(())
        });
    });
}

#[test]
fn a_start_from_a_folder_that_is_gone_mounts_what_is_known() {
    scenario("gone", 3 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        fs::write(peer.path("f"), "here").expect("written");
        peer.unmount();
        let gone = s.new_folder("gone");
        let script = format!(
            "cd '{0}'; rmdir '{0}'; exec '{1}' --state '{2}' '{3}'",
            gone.display(),
            machine::program("dfs-mount").display(),
            peer.state().display(),
            peer.mountpoint().display(),
        );
        let started = peer.inside("sh").args(["-euc", &script]).run();
        assert!(started.status.success(), "{started}");
        assert_eq!(fs::read(peer.path("f")).expect("read"), b"here");
        let stopped = peer.dfs(&["stop"]);
        assert!(stopped.status.success(), "{stopped}");
    });
}

#[test]
fn programs_that_are_told_to_end_with_the_daemon_save_what_they_have() {
    scenario("together", 3 * MINUTES, |s| {
        let mut peer = s.peer("a");
        peer.mount(&Start::new_volume());
        fs::write(peer.path("map"), vec![b'o'; 4096]).expect("written");
        let mapped = File::options()
            .read(true)
            .write(true)
            .open(peer.path("map"))
            .expect("opened");
        let map = Mapping::shared(&mapped, 4096).expect("mapped");
        map.write(0, b"new").expect("stored");
        // A program that saves half a second after it was told to end.
        let script = format!(
            "exec 3>'{}'; trap 'sleep 0.5; echo saved >&3; exit 0' TERM; echo ready; \
             while :; do sleep 0.05; done",
            peer.path("save").display()
        );
        let mut program = std::process::Command::new("sh")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut ready = [0; 6];
        let mut out = program.stdout.take().expect("piped");
        out.read_exact(&mut ready).expect("it is ready");
        let pid = i32::try_from(program.id()).ok().and_then(Pid::from_raw);
        kill_process(pid_of(&peer), Signal::TERM).expect("told");
        kill_process(pid.expect("a pid"), Signal::TERM).expect("told");
        let ended = program.wait().expect("waited for");
        drop((map, mapped));
        peer.expect_end("SIGTERM");
        assert!(ended.success(), "{ended}");
        peer.restart();
        assert_eq!(fs::read(peer.path("save")).expect("read"), b"saved\n");
        assert_eq!(&fs::read(peer.path("map")).expect("read")[..4], b"newo");
        peer.unmount();
    });
}
