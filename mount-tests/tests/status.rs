//! What `dfs status`, `peers` and the others tell is true, with the fields that scripts read.

use std::fs;
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::{Scenario, Start, Trio, machine, scenario, wait_for_content, wait_until};
use serde_json::Value;

const MINUTES: Duration = Duration::from_secs(60);

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
}

fn is_id(value: &Value) -> bool {
    let id = text(value);
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[test]
fn status_and_peers_tell_the_truth() {
    scenario("status", 5 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        let roles = [("a", "admin"), ("b", "writer"), ("storage", "storage")];
        for (peer, (name, role)) in trio.all().into_iter().zip(roles) {
            let status = peer.facts(&["status"]);
            assert!(
                is_id(&status["volume_id"]) && is_id(&status["peer_id"]),
                "{status}"
            );
            assert_eq!(status["role"], role);
            assert_eq!(status["name"], name);
            assert!(
                status["pending_bytes"].is_u64() && status["conflicts"].is_u64(),
                "{status}"
            );
            assert!(
                status["held_bytes"].is_u64() && status["cached_bytes"].is_u64(),
                "{status}"
            );
        }
        let ids: Vec<Value> = trio
            .all()
            .map(|peer| peer.facts(&["status"])["volume_id"].clone())
            .into();
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));

        wait_until("A sees both connected", MINUTES, || {
            let peers = trio.a.facts(&["peers"]);
            let connected = peers
                .as_array()?
                .iter()
                .filter(|peer| peer["state"] == "connected");
            (connected.count() == 2).then_some(())
        });
        for peer in trio.a.facts(&["peers"]).as_array().expect("a list") {
            assert!(
                is_id(&peer["peer_id"]) && peer["rtt_ms"].is_number(),
                "{peer}"
            );
            assert!(text(&peer["address"]).ends_with(":4750"), "{peer}");
            assert!(
                ["writer", "storage"].contains(&text(&peer["role"])),
                "{peer}"
            );
        }

        follow_a_file(s, &mut trio);
    });
}

/// A chunked file is pending while its holders are away, and not after they returned.
fn follow_a_file(s: &Scenario, trio: &mut Trio) {
    trio.sync();
    let held = trio.storage.facts(&["status"])["held_bytes"]
        .as_u64()
        .expect("a number");
    s.network().cut("storage");
    trio.b.terminate();
    let path = trio.a.path("file");
    fs::write(&path, pattern(4 << 20, 3)).expect("written");
    let of_file = || trio.a.facts(&["status", path.to_str().expect("plain")]);
    wait_until("A tells that it holds the only copy", MINUTES, || {
        let facts = of_file();
        (facts["replicas_min"] == 1 && facts["pending_bytes"].as_u64() >= Some(4 << 20))
            .then_some(())
    });
    assert_eq!(of_file()["chunks"].as_array().expect("a list").len(), 4);
    assert!(trio.a.facts(&["status"])["pending_bytes"].as_u64() >= Some(4 << 20));
    let waiting = trio.a.dfs(&["sync", "--timeout", "1s"]);
    assert_eq!(waiting.status.code(), Some(5), "{waiting}");

    s.network().mend("storage");
    trio.b.restart();
    trio.a.sync();
    let facts = of_file();
    assert_eq!(
        (&facts["replicas_min"], &facts["pending_bytes"]),
        (&3.into(), &0.into()),
        "{facts}"
    );
    assert_eq!(trio.a.facts(&["status"])["pending_bytes"], 0);
    let holds = trio.storage.facts(&["status"])["held_bytes"]
        .as_u64()
        .expect("a number");
    assert!(
        holds >= held + (4 << 20),
        "the storage peer holds {holds}, before {held}"
    );
}

#[test]
fn a_path_in_the_mount_or_the_state_picks_the_daemon_and_none_is_told() {
    scenario("pick", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        fs::write(a.path("file"), "x").expect("written");
        let by_path = mount_tests::Command::new(machine::program("dfs"))
            .args(["status", "--json"])
            .arg(a.path("file"))
            .ok();
        assert!(by_path.contains("\"ino\""), "{by_path}");
        let conflicts = a.facts(&["conflicts"]);
        assert_eq!(conflicts.as_array().map(Vec::len), Some(0));
        a.terminate();
        let nobody = a.dfs(&["status"]);
        assert_eq!(nobody.status.code(), Some(3), "{nobody}");
        assert_eq!(nobody.stderr_text().trim().lines().count(), 1, "{nobody}");
    });
}

#[test]
fn two_who_write_one_file_apart_keep_both_and_it_is_told() {
    scenario("conflict", 5 * MINUTES, |s| {
        let trio = Trio::start(s);
        fs::write(trio.a.path("plan.txt"), "base").expect("written");
        wait_for_content(&trio.b.path("plan.txt"), b"base");
        trio.sync();
        s.network().cut("b");
        fs::write(trio.a.path("plan.txt"), "from A").expect("written");
        fs::write(trio.b.path("plan.txt"), "from B").expect("written");
        fs::write(trio.a.path("new"), "new from A").expect("written");
        fs::write(trio.b.path("new"), "new from B").expect("written");
        s.network().mend("b");
        let contents = |peer: &mount_tests::Peer| {
            let entries = fs::read_dir(peer.mountpoint()).expect("listed").flatten();
            let mut read: Vec<_> = entries
                .filter_map(|entry| fs::read_to_string(entry.path()).ok())
                .collect();
            read.sort();
            read
        };
        let expected = ["from A", "from B", "new from A", "new from B"];
        for peer in [&trio.a, &trio.b] {
            wait_until("both contents are on both sides", MINUTES, || {
                (contents(peer) == expected).then_some(())
            });
            assert_eq!(peer.facts(&["status"])["conflicts"], 2);
            assert_eq!(peer.facts(&["conflicts"]).as_array().map(Vec::len), Some(2));
        }
    });
}

#[test]
fn what_the_daemon_does_in_the_background_is_listed() {
    scenario("workers", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        fs::write(a.path("file"), "x").expect("written");
        wait_until("the change is sealed, and all wait again", MINUTES, || {
            let workers = a.facts(&["status", "--workers"]);
            let workers = workers.as_array()?;
            let all = workers.iter();
            let done = all.filter(|worker| worker["last_ms"].is_u64() && worker["error"].is_null());
            (workers.len() > 10 && done.count() == workers.len()).then_some(())
        });
        let workers = a.facts(&["status", "--workers"]);
        let workers = workers.as_array().expect("a list");
        for name in ["publish", "fold", "write-out", "chain", "dial", "control"] {
            let worker = workers.iter().find(|worker| worker["name"] == name);
            let worker = worker.unwrap_or_else(|| panic!("{name} in {workers:?}"));
            assert!(worker["since_ms"].is_u64() && worker["steps"].is_u64());
            assert!(!text(&worker["does"]).is_empty());
            assert_eq!(worker["failures"], 0, "{worker}");
        }
        let told = a.dfs(&["status", "--workers"]).stdout_text();
        assert!(
            told.contains("hands the changes made here to the others"),
            "{told}"
        );
        assert!(
            told.contains("waits for changes of programs here; last step"),
            "{told}"
        );
        let of_a_file = mount_tests::Command::new(machine::program("dfs"))
            .args(["status", "--workers"])
            .arg(a.path("file"))
            .run();
        assert_eq!(of_a_file.status.code(), Some(2), "{of_a_file}");
    });
}
