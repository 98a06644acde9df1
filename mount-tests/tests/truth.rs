//! What is told of others and of oneself is true, and a stranger's word counts for nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::{
    Command, Peer, Start, elapsed_since, now, scenario, wait_for_content, wait_until,
};
use serde_json::Value;

const MINUTES: Duration = Duration::from_secs(60);

#[test]
fn a_known_volume_mounts_whoever_answers_where_a_peer_was() {
    scenario("rogue", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        let mut b = s.peer("b");
        let mut stranger = s.peer("stranger");
        a.mount(&Start::new_volume());
        b.mount(&Start::join(&a, &a.invite("writer")));
        stranger.mount(&Start::new_volume());
        let peers = |peers: &[&str]| {
            let args = peers.iter().flat_map(|peer| ["--peer", *peer]);
            args.fold(Start::again(), |start, arg| start.arg(arg))
        };
        let nobody = "10.77.0.200:4750";
        let nameless = "no.such.host.invalid:4750";

        // The good one comes last.
        b.terminate();
        b.mount(&peers(&[&stranger.listen(), nobody, nameless, &a.listen()]));
        fs::write(a.path("news"), "news").expect("written");
        wait_for_content(&b.path("news"), b"news");
        // It does not come at all.
        b.terminate();
        a.terminate();
        b.mount(&peers(&[&stranger.listen(), nobody, nameless]));
        assert_eq!(fs::read(b.path("news")).expect("read"), b"news");
        fs::write(b.path("more"), "more").expect("written");
    });
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Returns what `status` tells of a path.
fn of(peer: &Peer, path: &Path) -> Value {
    peer.facts(&["status", path.to_str().expect("plain")])
}

/// Waits until a peer's status has a trouble with these words, and returns it.
fn wait_for_trouble(peer: &Peer, words: &str) -> Value {
    wait_until(&format!("{} tells: {words}", peer.name()), MINUTES, || {
        let status = peer.facts(&["status"]);
        let troubles = status["troubles"].as_array()?.clone();
        let told = |trouble: &Value| text(&trouble["what"]).contains(words);
        troubles.into_iter().find(told)
    })
}

#[test]
fn replicated_means_as_many_copies_as_wanted() {
    scenario("copies", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        fs::write(a.path("small"), "inline").expect("written");
        fs::write(a.path("big"), pattern(3 << 20, 1)).expect("written");
        let alone = a.dfs(&["sync"]);
        assert!(alone.status.success(), "{alone}");
        for told in [alone.stdout_text(), a.dfs(&["status"]).stdout_text()] {
            assert!(told.contains("1 of 3 copies"), "{told}");
            assert!(!told.contains("all is replicated"), "{told}");
        }
        let protection = &a.facts(&["status"])["protection"];
        assert_eq!(
            (&protection["wanted"], &protection["have"]),
            (&3.into(), &1.into())
        );

        let mut b = s.peer("b");
        b.mount(&Start::join(&a, &a.invite("writer")));
        wait_until("two copies", MINUTES, || {
            let told = a.dfs(&["sync"]).stdout_text();
            assert!(!told.contains("all is replicated"), "{told}");
            told.contains("2 of 3 copies").then_some(())
        });

        let mut storage = s.peer("storage");
        storage.serve(&Start::join(&a, &a.invite("storage")));
        wait_until("three copies", MINUTES, || {
            let told = a.dfs(&["sync"]).stdout_text();
            told.contains("3 of 3 copies: all is replicated")
                .then_some(())
        });
        b.sync();

        // The same at every member, also where others made the copies.
        fs::create_dir(b.path("dir")).expect("made");
        fs::write(b.path("dir/of b"), "inline").expect("written");
        fs::write(b.path("dir/big of b"), pattern(2 << 20, 2)).expect("written");
        b.sync();
        wait_for_content(&a.path("dir/of b"), b"inline");
        for peer in [&a, &b] {
            for name in ["small", "big", "dir/of b", "dir/big of b"] {
                wait_until("three copies of each", MINUTES, || {
                    let facts = of(peer, &peer.path(name));
                    (facts["replicas_min"] == 3 && facts["pending_bytes"] == 0).then_some(())
                });
            }
            let sums = of(peer, &peer.path("dir"));
            assert_eq!(
                (&sums["files"], &sums["bytes"], &sums["at_risk_files"]),
                (&2.into(), &((2 << 20) + 6).into(), &0.into()),
                "{sums}"
            );
        }

        // With the others away a change is on one disk, and that is told.
        a.terminate();
        storage.terminate();
        fs::write(b.path("dir/of b"), "changed").expect("written");
        let facts = of(&b, &b.path("dir/of b"));
        assert_eq!(
            (&facts["replicas_min"], &facts["pending_bytes"]),
            (&1.into(), &7.into()),
            "{facts}"
        );
        assert_eq!(of(&b, &b.path("dir"))["at_risk_files"], 1);
        // What is here and was copied by somebody else: at least what is known, and who is unknown.
        for chunk in of(&b, &b.path("big"))["chunks"].as_array().expect("a list") {
            let holders = chunk["holders"].as_array().expect("a list").len();
            let unknown = chunk["unknown"].as_array().expect("a list").len();
            assert!(holders >= 1 && holders + unknown == 3, "{chunk}");
        }
    });
}

#[test]
fn a_removed_member_is_read_only_and_says_so() {
    scenario("removal", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        let mut b = s.peer("b");
        a.mount(&Start::new_volume());
        b.mount(&Start::join(&a, &a.invite("writer")));
        fs::write(b.path("before"), "before").expect("written");
        b.sync();
        let id = text(&b.facts(&["status"])["peer_id"]);
        s.network().cut("b");
        fs::write(b.path("in between"), "not taken").expect("written");
        let removed = a.dfs(&["members", "remove", &id, "--yes"]);
        assert!(removed.status.success(), "{removed}");
        s.network().mend("b");
        let told = wait_for_trouble(&b, "removed from the volume");
        assert!(text(&told["what"]).contains("nobody has taken"), "{told}");
        let status = b.facts(&["status"]);
        assert_eq!(status["role"], "removed");
        assert!(status["untaken_segments"].as_u64() >= Some(1), "{status}");
        let refused = fs::write(b.path("after"), "x").expect_err("read-only");
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert!(
            fs::create_dir(b.path("dir")).is_err() && fs::remove_file(b.path("before")).is_err()
        );
        assert_eq!(fs::read(b.path("before")).expect("read"), b"before");
        let sync = b.dfs(&["sync", "--timeout", "5s"]);
        assert_eq!(sync.status.code(), Some(4), "{sync}");
        assert!(sync.stderr_text().contains("removed"), "{sync}");
    });
}

#[test]
fn what_of_a_file_is_not_here_is_told_with_who_has_it_and_whether_it_can_be_read() {
    scenario("not-here", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        let mut b = s.peer("b");
        // It holds nothing for others.
        a.mount(&Start::new_volume().arg("--capacity").arg("0"));
        b.mount(&Start::join(&a, &a.invite("writer")));
        let bytes = pattern(3 << 20, 1);
        fs::write(b.path("big"), &bytes).expect("written");
        let big = a.path("big");
        let line = || {
            let told = a.dfs(&["status", big.to_str().expect("plain")]);
            let told = told.stdout_text();
            let line = told.lines().find(|line| line.starts_with("not here: "));
            line.map(str::to_owned)
        };
        wait_until("all of it is told as on b", MINUTES, || {
            let found = fs::metadata(&big).ok()?;
            let facts = of(&a, &big);
            let is_told = facts["away_bytes"] == 3 << 20 && facts["away_on"][0] == "b";
            (found.len() == 3 << 20 && is_told).then_some(())
        });
        let facts = of(&a, &big);
        assert_eq!(facts["unreadable_bytes"], 0, "{facts}");
        assert_eq!(facts["writer"], "b", "{facts}");
        let told = line().expect("a line");
        assert!(told.contains(", on b; written by b, "), "{told}");
        b.terminate();
        wait_until("none of it can be read", MINUTES, || {
            (of(&a, &big)["unreadable_bytes"] == 3 << 20).then_some(())
        });
        let told = line().expect("a line");
        assert!(told.contains("cannot be read now"), "{told}");
        let failed = fs::read(&big).expect_err("nobody has it");
        assert_eq!(failed.raw_os_error(), Some(5), "{failed}");
        // Once its writer is back it is the same file.
        b.restart();
        wait_for_content(&big, &bytes);
        wait_until("all of it can be read", MINUTES, || {
            (of(&a, &big)["unreadable_bytes"] == 0).then_some(())
        });
    });
}

#[test]
fn a_daemon_that_is_frozen_or_dead_is_told_apart() {
    scenario("frozen", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let pid = rustix::process::Pid::from_raw(
            a.facts(&["status"])["pid"].as_i64().expect("a pid") as i32,
        )
        .expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("it runs");
        let started = now();
        let frozen = a.dfs(&["status"]);
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("it runs");
        assert!(elapsed_since(started) < Duration::from_secs(20), "{frozen}");
        assert_eq!(frozen.status.code(), Some(5), "{frozen}");
        let said = frozen.stderr_text();
        let pid = format!("(pid {})", pid.as_raw_nonzero());
        assert!(
            said.contains(&pid) && said.contains("does not answer"),
            "{said}"
        );
        a.kill();
        let dead = a.dfs(&["status"]);
        assert_eq!(dead.status.code(), Some(3), "{dead}");
        let by_path = Command::new(mount_tests::machine::program("dfs"))
            .arg("status")
            .arg(a.mountpoint())
            .run();
        assert_eq!(by_path.status.code(), Some(3), "{by_path}");
        assert!(by_path.stderr_text().contains("dfs-mount"), "{by_path}");
    });
}

#[test]
fn a_state_folder_that_was_put_back_goes_on_and_gets_back_what_the_others_have() {
    scenario("put-back", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        let mut b = s.peer("b");
        a.mount(&Start::new_volume());
        b.mount(&Start::join(&a, &a.invite("writer")));
        b.sync();
        b.terminate();
        let copy = s.path("copy");
        Command::new("cp").arg("-a").args([b.state(), &copy]).ok();
        b.restart();
        fs::write(b.path("one"), "one").expect("written");
        b.sync();
        b.terminate();
        fs::remove_dir_all(b.state()).expect("removed");
        Command::new("cp").arg("-a").args([&copy, b.state()]).ok();
        s.network().cut("b");
        b.restart();
        for number in 0..3 {
            fs::write(b.path(format!("other {number}")), "other").expect("written");
            wait_until("it is sealed", MINUTES, || {
                (b.facts(&["status"])["pending_segments"].as_u64()? > number).then_some(())
            });
        }
        s.network().mend("b");
        // What it had forgotten comes back from those who have it, and nothing of either is lost.
        for peer in [&a, &b] {
            wait_for_content(&peer.path("one"), b"one");
            for number in 0..3 {
                wait_for_content(&peer.path(format!("other {number}")), b"other");
            }
        }
        b.sync();
        for peer in [&a, &b] {
            let status = peer.facts(&["status"]);
            assert_eq!(status["conflicts"], 0, "{status}");
            assert_eq!(status["troubles"], serde_json::json!([]), "{status}");
        }
    });
}
