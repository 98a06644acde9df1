//! What is said at a first start holds at the next ones, is shown and changed while the peer runs, and
//! can stand in a line of fstab.

use std::fs;
use std::net::UdpSocket;
use std::sync::mpsc;
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::{Command, Finished, Peer, Start, machine, scenario, wait_until};
use serde_json::{Value, json};

const MINUTES: Duration = Duration::from_secs(60);

const GIB: u64 = 1 << 30;

/// Starts a peer in the background with these arguments beside its mountpoint and state.
fn start(peer: &Peer, more: &[&str]) -> Finished {
    let state = peer.state().display().to_string();
    let mountpoint = peer.mountpoint().display().to_string();
    let args = [&[mountpoint.as_str(), "--state", &state], more].concat();
    let finished = peer.attempt("dfs-mount", &args);
    assert!(finished.status.success(), "{finished}");
    finished
}

fn unmount(peer: &Peer) {
    Command::new("umount").arg(peer.mountpoint()).ok();
}

fn config(peer: &Peer) -> Value {
    peer.facts(&["config"])
}

#[test]
fn what_was_said_at_the_first_start_holds_at_the_next() {
    scenario("said-once", 3 * MINUTES, |s| {
        let peer = s.peer("a");
        let said = [
            ["--listen", "127.0.0.1:4801"],
            ["--name", "anna"],
            ["--capacity", "3G"],
            ["--cache", "1G"],
            ["--fsync", "replicated"],
        ];
        start(&peer, &[&["--new"], said.as_flattened()].concat());
        let first = config(&peer);
        let expected = json!({
            "listen": "127.0.0.1:4801", "listening": "127.0.0.1:4801", "listens_later": false,
            "name": "anna", "capacity_bytes": 3 * GIB, "cache_bytes": GIB, "fsync": "replicated",
            "memory_bytes": 64 << 20, "history_ms": 2_592_000_000_u64,
            "snapshots": { "hourly": 0, "daily": 0, "weekly": 0 },
        });
        assert_eq!(first, expected);
        unmount(&peer);
        start(&peer, &[]);
        assert_eq!(config(&peer), expected);
        assert_eq!(peer.facts(&["status"])["listen"], "127.0.0.1:4801");
        assert_eq!(peer.facts(&["status"])["name"], "anna");
        unmount(&peer);
        // A later option changes it, and holds from then on.
        start(
            &peer,
            &[
                "--capacity",
                "5G",
                "--listen",
                "127.0.0.1:4802",
                "--name",
                "ben",
            ],
        );
        unmount(&peer);
        start(&peer, &[]);
        let changed = config(&peer);
        assert_eq!(changed["name"], "ben");
        let said = peer.dfs(&["config", "name", "carla"]);
        assert!(said.status.success(), "{said}");
        assert_eq!(peer.facts(&["status"])["name"], "carla");
        assert_eq!(changed["capacity_bytes"], 5 * GIB);
        assert_eq!(changed["listening"], "127.0.0.1:4802");
        assert_eq!(changed["cache_bytes"], GIB);
        unmount(&peer);
    });
}

#[test]
fn what_nobody_said_is_decided_once() {
    scenario("decided", 3 * MINUTES, |s| {
        let mut holder = s.peer("holder");
        holder.mount(&Start::new_volume());
        // The same machine, where the default port is taken.
        let second = s.peer("second");
        let beside = |more: &[&str]| {
            let state = second.state().display().to_string();
            let mountpoint = second.mountpoint().display().to_string();
            let args = [&[mountpoint.as_str(), "--state", &state], more].concat();
            let finished = holder.attempt("dfs-mount", &args);
            assert!(finished.status.success(), "{finished}");
            config(&second)
        };
        let first = beside(&["--new"]);
        let port = |config: &Value| {
            let listening = config["listening"].as_str().expect("an address").to_owned();
            let (_, port) = listening.rsplit_once(':').expect("a port");
            port.parse::<u16>().expect("a port")
        };
        assert_ne!(port(&first), 4750);
        fs::write(second.path("file"), vec![7; 40 << 20]).expect("written");
        unmount(&second);
        assert_eq!(beside(&[]), first);
        unmount(&second);
        // Somebody else has the port now.
        let (has, wait) = mpsc::channel();
        let (free, freed) = mpsc::channel::<()>();
        let taken = port(&first);
        std::thread::scope(|threads| {
            let holder = &holder;
            threads.spawn(move || {
                holder.run_inside(move || {
                    let socket = wait_until("the port is free", MINUTES, || {
                        UdpSocket::bind(("0.0.0.0", taken)).ok()
                    });
                    has.send(()).expect("awaited");
                    let _ = freed.recv_timeout(MINUTES);
                    drop(socket);
                });
            });
            wait.recv_timeout(MINUTES).expect("the port is taken");
            let other = beside(&[]);
            assert_ne!(port(&other), taken);
            assert_eq!(other["capacity_bytes"], first["capacity_bytes"]);
            free.send(()).expect("awaited");
        });
        let log = second.dfs(&["log"]).stdout_text();
        assert!(log.contains("port of the last time is taken"), "{log}");
        unmount(&second);
    });
}

#[test]
fn settings_change_while_the_peer_runs_and_stay() {
    scenario("config", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume().arg("--capacity").arg("2G"));
        let mut b = s.peer("b");
        b.mount(&Start::join(&a, &a.invite("writer")));
        assert_eq!(b.dfs(&["config", "fsync"]).stdout_text(), "local\n");
        for change in [
            ["capacity", "7G"],
            ["cache", "512M"],
            ["fsync", "replicated"],
            ["memory", "48M"],
        ] {
            let done = b.dfs(&["config", change[0], change[1]]);
            assert!(done.status.success(), "{done}");
        }
        let changed = config(&b);
        assert_eq!(changed["capacity_bytes"], 7 * GIB);
        assert_eq!(changed["cache_bytes"], GIB / 2);
        assert_eq!(changed["memory_bytes"], 48 << 20);
        // What holds for the volume an admin says, and all hear of it.
        let refused = b.dfs(&["config", "history", "90d"]);
        assert_eq!(refused.status.code(), Some(4), "{refused}");
        let done = a.dfs(&["config", "history", "90d"]);
        assert_eq!(done.stdout_text(), "90d\n", "{done}");
        wait_until("all hear how long is kept", MINUTES, || {
            let said = b.dfs(&["config", "history"]).stdout_text();
            (said == "90d\n").then_some(())
        });
        wait_until("the others hear of the capacity", MINUTES, || {
            let peers = a.facts(&["peers"]);
            (peers[0]["capacity_bytes"] == 7 * GIB).then_some(())
        });
        let done = b.dfs(&["config", "fsync", "local"]);
        assert_eq!(done.stdout_text(), "local\n", "{done}");
        // Another address is of the next start.
        let listen = b.listen().replace("4750", "4760");
        let done = b.dfs(&["config", "listen", &listen]);
        assert!(done.stdout_text().contains("next start"), "{done}");
        assert_eq!(config(&b)["listening"], b.listen());
        b.terminate();
        let mountpoint = b.mountpoint().display().to_string();
        let state = b.state().display().to_string();
        let again = b.attempt("dfs-mount", &[&mountpoint, "--state", &state]);
        assert!(again.status.success(), "{again}");
        let kept = config(&b);
        assert_eq!(kept["listening"], listen);
        assert_eq!(kept["capacity_bytes"], 7 * GIB);
        assert_eq!(kept["fsync"], "local");
        for wrong in [
            &["config", "capacity", "much"][..],
            &["config", "listen", "here"],
            &["config", "fsync", "maybe"],
            &["config", "colour"],
        ] {
            let refused = b.dfs(wrong);
            assert_eq!(refused.status.code(), Some(2), "{refused}");
            assert_eq!(refused.stderr_text().lines().count(), 1, "{refused}");
        }
        assert_eq!(config(&b), kept);
        unmount(&b);
    });
}

#[test]
fn a_line_of_fstab_carries_all_of_it() {
    scenario("fstab", 3 * MINUTES, |s| {
        let peer = s.peer("a");
        let state = s.new_folder("state, of a").join("here");
        let mountpoint = s.new_folder("mnt of a");
        let new = [mountpoint.as_os_str(), "--new".as_ref(), "--state".as_ref()];
        let made = peer
            .inside(&machine::program("dfs-mount").display().to_string())
            .args(new)
            .arg(&state)
            .run();
        assert!(made.status.success(), "{made}");
        Command::new("umount").arg(&mountpoint).ok();
        let escaped = |path: &std::path::Path| path.display().to_string().replace(' ', "\\040");
        let options = format!(
            "state={},listen={},capacity=3G,cache=1G,fsync=local,name=x,peer=10.77.0.9:1,ro,noexec,\
             _netdev,nofail,x-systemd.automount",
            escaped(&state).replace(',', "\\,"),
            peer.listen()
        );
        let fstab = s.path("fstab");
        let line = format!(
            "dfs {} fuse.dfs-mount {options} 0 0\n",
            escaped(&mountpoint)
        );
        fs::write(&fstab, line).expect("written");
        // mount(8) looks for programs where they are installed, and nowhere else.
        let script = peer
            .inside("unshare")
            .args(["--mount", "sh", "-euxc", BY_MOUNT, "sh"])
            .arg(machine::program("dfs").parent().expect("a folder"))
            .args([&fstab, &mountpoint, &state])
            .arg(peer.listen())
            .run();
        assert!(script.status.success(), "{script}");
        assert!(machine::mounts_below(&mountpoint).is_empty());
    });
}

/// Mounts by mount(8): folder of the programs, fstab, mountpoint, state folder, address.
const BY_MOUNT: &str = r#"
mount --bind "$1" /usr/local/bin
fstab=$2 at=$3 state=$4 listen=$5
config() { dfs config --state "$state" --json; }
flags() { findmnt --noheadings --output OPTIONS --mountpoint "$at"; }
end() { umount "$at"; }

mount -T "$fstab" "$at"
config | grep -F "\"listening\":\"$listen\""
config | grep -F '"capacity_bytes":3221225472'
config | grep -F '"cache_bytes":1073741824'
flags | grep -w ro | grep -w noexec | grep -w nosuid | grep -w nodev
mount -T "$fstab" -o remount,rw,exec "$at"
flags | grep -w rw
echo content > "$at/file"
end
mount -t fuse.dfs-mount -o "state=$(echo "$state" | sed 's/,/\\,/'),suid,capacity=4G" dfs "$at"
cat "$at/file" | grep content
config | grep -F '"capacity_bytes":4294967296'
! flags | grep -w nosuid
end
! mount -t fuse.dfs-mount -o "state=$state.not,capacity=4G" dfs "$at"
! test -e "$state.not"
! mount -t fuse.dfs-mount -o "stat=/x" dfs "$at"
"#;

#[test]
fn what_is_removed_is_given_back_or_kept_as_long_as_the_volume_says() {
    scenario("gc", 3 * MINUTES, |s| {
        const CHUNKS: u64 = 6;
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let set = |time: &str| {
            let done = a.dfs(&["config", "history", time]);
            assert!(done.status.success(), "{done}");
        };
        let remove_one = |seed: u64| {
            let path = a.path("film");
            fs::write(&path, pattern((CHUNKS << 20) as usize, seed)).expect("room");
            fs::remove_file(&path).expect("it is there");
            a.facts(&["gc"])
        };
        set("0");
        let freed = remove_one(1);
        let is_freed = |said: &Value| said["freed_bytes"].as_u64() >= Some(CHUNKS << 20);
        assert!(is_freed(&freed), "{freed}");
        assert_eq!(freed["waiting_bytes"], 0, "{freed}");
        set("1d");
        let kept = remove_one(2);
        assert_eq!(kept["freed_chunks"], 0, "{kept}");
        assert!(kept["kept_bytes"].as_u64() >= Some(CHUNKS << 20), "{kept}");
        let said = a.dfs(&["gc"]).stdout_text();
        assert!(said.contains("can be had back (dfs history)"), "{said}");
        set("0");
        let freed = a.facts(&["gc"]);
        assert!(is_freed(&freed), "{freed}");
        a.unmount();
    });
}
