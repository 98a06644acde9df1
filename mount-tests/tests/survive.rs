//! Any one can go: killed, cut off, killed in the middle of writing. What remains has everything,
//! what returns catches up.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mount_tests::source::{make_source_tree, pattern};
use mount_tests::tree::{Tree, assert_equal, differences, read_tree, try_read_tree};
use mount_tests::{
    Peer, Start, Trio, elapsed_since, is_quick, machine, now, scenario, wait_for_content,
    wait_until, wait_until_gone,
};

const MINUTES: Duration = Duration::from_secs(60);

/// Makes content of every kind: inline files, chunks, odd things.
fn fill(root: &Path) {
    make_source_tree(root, if is_quick() { 100 } else { 600 });
    for number in 0..6 {
        fs::write(
            root.join(format!("chunks {number}")),
            pattern(5 << 20, number),
        )
        .expect("written");
    }
}

/// Waits until a peer's tree is as expected: the log may come in several pieces.
fn wait_for_tree(what: &str, expected: &Tree, root: &Path) {
    let limit = 2 * MINUTES;
    let started = now();
    wait_until(what, limit + MINUTES, || {
        let read = try_read_tree(root);
        match read {
            Ok(tree) if differences(expected, &tree, 1).is_empty() => Some(()),
            // Too late: say what is different.
            Ok(tree) if elapsed_since(started) > limit => {
                assert_equal(what, expected, &tree);
                None
            }
            Err(error) if elapsed_since(started) > limit => panic!("{what}: {error}"),
            Ok(_) | Err(_) => None,
        }
    });
}

#[test]
fn each_of_three_is_killed_and_the_others_have_everything() {
    scenario("killed", 15 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        fill(&trio.a.path("tree"));
        trio.sync();
        let expected = read_tree(&trio.a.path("tree"));

        for victim in 0..3 {
            let name = trio.all()[victim].name().to_owned();
            trio.all()[victim].kill();
            for peer in [&mut trio.a, &mut trio.b] {
                if peer.is_running() {
                    let root = peer.path("tree");
                    wait_for_tree(&format!("without {name}"), &expected, &root);
                    fs::write(peer.path(format!("while {name} was away")), &name).expect("written");
                }
            }
            trio.all()[victim].restart();
            let mark = format!("while {name} was away");
            for peer in [&trio.a, &trio.b] {
                wait_for_content(&peer.path(&mark), name.as_bytes());
                assert_equal(
                    "after the return",
                    &expected,
                    &read_tree(&peer.path("tree")),
                );
            }
            trio.sync();
        }
    });
}

#[test]
fn each_of_three_is_cut_off_works_alone_and_catches_up() {
    scenario("cut", 15 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        fill(&trio.a.path("tree"));
        trio.sync();
        let expected = read_tree(&trio.a.path("tree"));

        for victim in ["a", "b", "storage"] {
            s.network().cut(victim);
            // Both sides read all and go on working, whoever is cut off.
            for peer in [&trio.a, &trio.b] {
                assert_equal("while cut off", &expected, &read_tree(&peer.path("tree")));
                let name = format!("{} without {victim}", peer.name());
                fs::write(peer.path(&name), pattern(3 << 20, 1)).expect("written");
                fs::write(peer.path(format!("{name}, small")), &name).expect("written");
            }
            wait_until("the others notice", MINUTES, || {
                let watcher = if victim == "a" { &trio.b } else { &trio.a };
                let peers = watcher.facts(&["peers"]);
                let peers = peers.as_array().expect("a list");
                peers
                    .iter()
                    .any(|peer| peer["name"] == victim && peer["state"] != "connected")
                    .then_some(())
            });
            s.network().mend(victim);
            for peer in [&trio.a, &trio.b] {
                for author in ["a", "b"] {
                    let name = format!("{author} without {victim}");
                    let small = peer.path(format!("{name}, small"));
                    wait_for_content(&small, name.as_bytes());
                    assert_eq!(
                        fs::read(peer.path(&name)).expect("read"),
                        pattern(3 << 20, 1)
                    );
                }
            }
            trio.sync();
        }
        assert_eq!(trio.a.facts(&["status"])["conflicts"], 0);
        for peer in trio.all() {
            peer.terminate();
        }
    });
}

/// Takes its address from a peer's machine, or gives it back.
fn set_address(peer: &Peer, what: &str) {
    let address = peer.listen().replace(":4750", "/24");
    let args = ["addr", what, &address, "dev", "eth0"];
    peer.inside("ip").args(args).ok();
}

/// Its address is a setting, and the network gives it later than the machine starts.
#[test]
fn a_member_mounts_before_its_address_is_there_and_meets_the_others_as_soon_as_it_is() {
    scenario("address", 3 * MINUTES, |scenario| {
        let (mut a, mut b) = (scenario.peer("a"), scenario.peer("b"));
        a.mount(&Start::new_volume());
        b.mount(&Start::join(&a, &a.invite("writer")));
        fs::write(a.path("before"), "known").expect("written");
        wait_for_content(&b.path("before"), b"known");
        b.unmount();
        set_address(&b, "del");
        b.mount(&Start::again());
        assert_eq!(fs::read(b.path("before")).expect("read"), b"known");
        let troubles = b.facts(&["status"])["troubles"].to_string();
        assert!(troubles.contains("no such address"), "{troubles}");
        fs::write(a.path("behind"), "new").expect("written");
        set_address(&b, "add");
        wait_for_content(&b.path("behind"), b"new");
        wait_until("the trouble is over", MINUTES, || {
            let troubles = b.facts(&["status"])["troubles"].to_string();
            (!troubles.contains("no such address")).then_some(())
        });
    });
}

#[test]
fn a_member_catches_up_from_the_storage_peer_alone() {
    scenario("storage-alone", 10 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        trio.b.terminate();
        fill(&trio.a.path("tree"));
        let expected = read_tree(&trio.a.path("tree"));
        // B is on the roster and away, so two of three holders is all that can be reached.
        wait_until("the storage peer has it all", 2 * MINUTES, || {
            let held = |number: u64| {
                let file = trio.a.path(format!("tree/chunks {number}"));
                let facts = trio.a.facts(&["status", file.to_str().expect("plain")]);
                facts["replicas_min"].as_u64() >= Some(2)
            };
            (0..6).all(held).then_some(())
        });
        // The log is handed over before an orderly end.
        trio.a.terminate();
        trio.b.restart();
        wait_for_tree("from the storage peer", &expected, &trio.b.path("tree"));
    });
}

/// What a writer did, in order, and up to where it is safe.
struct Journal {
    /// Name and content as of each step.
    steps: Vec<(String, Vec<u8>)>,
    /// How many steps were done when the last fsync returned.
    synced: usize,
}

/// Writes files one after another until told to stop, with an fsync now and then.
fn write_until_it_fails(root: &Path, round: u64) -> Journal {
    let mut journal = Journal {
        steps: Vec::new(),
        synced: 0,
    };
    for number in 0u64.. {
        let name = format!("round {round} file {number:05}");
        let size = [10, 3000, 20_000, 1 << 20, 2_500_000][(number % 5) as usize];
        let bytes = pattern(size, round << 32 | number);
        journal.steps.push((name.clone(), bytes.clone()));
        let step = || -> std::io::Result<bool> {
            let mut file = fs::File::create(root.join(&name))?;
            file.write_all(&bytes)?;
            if number % 7 == 6 {
                file.sync_all()?;
                return Ok(true);
            }
            Ok(false)
        };
        match step() {
            Ok(true) => journal.synced = journal.steps.len(),
            Ok(false) => {}
            Err(_) => break,
        }
    }
    journal
}

/// Checks that what is there is a prefix of what was done, and contains all that was synced.
fn assert_clean_prefix(root: &Path, journal: &Journal) {
    let mut there = BTreeMap::new();
    for (index, (name, bytes)) in journal.steps.iter().enumerate() {
        if let Ok(read) = fs::read(root.join(name)) {
            let whole = read == *bytes;
            // The last of the prefix may have been caught in the middle.
            assert!(
                whole || bytes.starts_with(&read),
                "{name} holds what nobody wrote"
            );
            there.insert(index, whole);
        }
    }
    let count = there.len();
    assert!(
        there.keys().copied().eq(0..count),
        "not a prefix of {} steps: {:?} are there",
        journal.steps.len(),
        there.keys()
    );
    assert!(
        count >= journal.synced,
        "{} were synced, {count} are there",
        journal.synced
    );
    for (index, whole) in &there {
        assert!(
            *whole || *index >= journal.synced,
            "step {index} was synced and is cut"
        );
        assert!(
            *whole || *index + 1 == count,
            "step {index} is cut and not the last"
        );
    }
    println!(
        "{} steps, {} synced, {count} there",
        journal.steps.len(),
        journal.synced
    );
}

#[test]
fn a_kill_in_the_middle_of_writing_keeps_what_was_synced() {
    scenario("kill-writer", 10 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        for round in 0..if is_quick() { 2 } else { 6 } {
            let root = trio.a.mountpoint().to_owned();
            let writer = mount_tests::spawn({
                let root = root.clone();
                move || write_until_it_fails(&root, round)
            });
            // Far enough for several fsyncs, and in the middle of something.
            let seen = root.join(format!("round {round} file {:05}", 20 + 9 * round));
            wait_until("the writer is on its way", 2 * MINUTES, || {
                seen.exists().then_some(())
            });
            trio.a.kill();
            let journal = writer.join().expect("the writer ends with its mount");

            // The dead mount is still there; nobody but dfs-mount takes it away.
            assert!(!machine::mounts_below(&root).is_empty());
            trio.a.restart();
            assert_clean_prefix(&root, &journal);

            // And the other member comes to the same.
            let mark = format!("after round {round}");
            fs::write(root.join(&mark), &mark).expect("the mount works again");
            wait_for_content(&trio.b.path(&mark), mark.as_bytes());
            assert_equal(
                "on both",
                &read_tree(&root),
                &read_tree(trio.b.mountpoint()),
            );
        }
    });
}

#[test]
fn what_was_synced_in_place_survives_a_kill() {
    scenario("kill-in-place", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let path = a.path("database");
        let file = fs::File::create(&path).expect("created");
        let mut content = pattern(3 << 20, 1);
        file.write_all_at(&content, 0).expect("written");
        for number in 0..50u64 {
            let at = (number * 61_441) % (3 << 20) - (number * 61_441) % 4096;
            let page = pattern(4096, 100 + number);
            file.write_all_at(&page, at).expect("written");
            content.splice(at as usize..at as usize + page.len(), page);
        }
        file.sync_data().expect("synced");
        let kept: Vec<PathBuf> = vec![path.clone()];
        a.kill();
        drop(file);
        a.restart();
        assert!(
            fs::read(&path).expect("read") == content,
            "{kept:?} differs after the kill"
        );
    });
}

#[test]
fn names_that_were_synced_survive_a_kill_and_deleted_ones_stay_away() {
    scenario("kill-names", 5 * MINUTES, |s| {
        let mut a: Peer = s.peer("a");
        a.mount(&Start::new_volume());
        for number in 0..200 {
            fs::write(a.path(format!("file {number}")), format!("{number}")).expect("written");
        }
        for number in 0..100 {
            fs::remove_file(a.path(format!("file {number}"))).expect("deleted");
        }
        fs::rename(a.path("file 150"), a.path("renamed")).expect("renamed");
        fs::File::open(a.mountpoint())
            .expect("opened")
            .sync_all()
            .expect("synced");
        let before = read_tree(a.mountpoint());
        a.kill();
        a.restart();
        assert_equal("after the kill", &before, &read_tree(a.mountpoint()));
        wait_until_gone(&a.path("file 1"));
    });
}
