//! What two people changed at once is listed with paths that are there, and can be acted on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mount_tests::{
    Peer, Scenario, Trio, scenario, wait_for_a_later_stamp, wait_for_content, wait_until,
};
use serde_json::Value;

const MINUTES: Duration = Duration::from_secs(60);

fn path_of(value: &Value) -> PathBuf {
    PathBuf::from(value.as_str().unwrap_or_else(|| panic!("no path: {value}")))
}

/// Lets both write files apart, A the later, and waits until each has the conflicts of all.
fn cross(s: &Scenario, trio: &Trio, files: &[&str]) {
    for file in files {
        fs::write(trio.a.path(file), "base\n").expect("written");
        wait_for_content(&trio.b.path(file), b"base\n");
    }
    trio.sync();
    let before = count(&trio.a);
    s.network().cut("b");
    for file in files {
        fs::write(trio.b.path(file), "from B\n").expect("written");
    }
    wait_for_a_later_stamp();
    for file in files {
        fs::write(trio.a.path(file), "from A\n").expect("written");
    }
    s.network().mend("b");
    for peer in [&trio.a, &trio.b] {
        wait_until("the conflicts are told", MINUTES, || {
            (count(peer) == before + files.len()).then_some(())
        });
    }
}

/// Returns how many conflicts are listed; `dfs status` counts as many.
fn count(peer: &Peer) -> usize {
    wait_until("list and count say the same", MINUTES, || {
        let list = peer.facts(&["conflicts"]);
        let len = list.as_array().map(Vec::len);
        len.filter(|len| peer.facts(&["status"])["conflicts"] == *len)
    })
}

fn resolve(peer: &Peer, path: &Path, keep: &str) -> mount_tests::Finished {
    mount_tests::Command::new(mount_tests::machine::program("dfs"))
        .args(["resolve", "--keep", keep])
        .arg(path)
        .arg("--state")
        .arg(peer.state())
        .run()
}

fn files_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("listed").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Waits until a folder has one file alone, with a content, on both, and nothing is in conflict.
fn wait_for_one(trio: &Trio, folder: &str, name: &str, content: &[u8]) {
    for peer in [&trio.a, &trio.b] {
        wait_for_content(&peer.path(folder).join(name), content);
        wait_until("the copy is gone, and the list is empty", MINUTES, || {
            (files_in(&peer.path(folder)) == [name] && count(peer) == 0).then_some(())
        });
    }
}

#[test]
fn both_sides_are_listed_where_they_are_and_one_is_chosen_by_its_device() {
    scenario("sides", 5 * MINUTES, |s| {
        let trio = Trio::start(s);
        fs::create_dir(trio.a.path("folder")).expect("made");
        cross(s, &trio, &["folder/plan.txt"]);
        // Paths follow what people move.
        fs::rename(trio.a.path("folder"), trio.a.path("moved")).expect("moved");
        wait_for_content(&trio.b.path("moved/plan.txt"), b"from A\n");
        for peer in [&trio.a, &trio.b] {
            let list = peer.facts(&["conflicts"]);
            let (kept, copy) = (path_of(&list[0]["path"]), path_of(&list[0]["copy"]));
            assert_eq!(kept, peer.path("moved/plan.txt"));
            assert_eq!(fs::read(&kept).expect("read"), b"from A\n");
            assert_eq!(fs::read(&copy).expect("read"), b"from B\n");
            assert_eq!(list[0]["kept"]["device"], "a", "{list}");
            assert_eq!(list[0]["aside"]["device"], "b", "{list}");
            let told = peer.dfs(&["conflicts"]).stdout_text();
            assert!(told.contains(&*copy.to_string_lossy()), "{told}");
            assert!(!told.contains('?'), "{told}");
            let differs = peer.dfs(&["conflicts", "--diff"]).stdout_text();
            for line in ["-from A", "+from B"] {
                assert!(differs.lines().any(|told| told == line), "{differs}");
            }
        }
        // Who is meant is never guessed.
        let file = trio.b.path("moved/plan.txt");
        let nobody = resolve(&trio.b, &file, "carol");
        assert_eq!(nobody.status.code(), Some(2), "{nobody}");
        assert_eq!(nobody.stderr_text().trim().lines().count(), 1, "{nobody}");
        assert_eq!(files_in(&trio.b.path("moved")).len(), 2);
        // On B its own side is "mine".
        let chosen = resolve(&trio.b, &file, "mine");
        assert!(chosen.status.success(), "{chosen}");
        wait_for_one(&trio, "moved", "plan.txt", b"from B\n");
        let none = resolve(&trio.b, &file, "mine");
        assert_eq!(none.status.code(), Some(1), "{none}");
        assert_eq!(fs::read(&file).expect("read"), b"from B\n");
    });
}

#[test]
fn a_conflict_leaves_the_list_by_a_choice_by_both_and_by_hand() {
    scenario("settled", 5 * MINUTES, |s| {
        let trio = Trio::start(s);
        let folders = ["name", "both", "removed", "renamed"];
        for folder in folders {
            fs::create_dir(trio.a.path(folder)).expect("made");
        }
        let files = folders.map(|folder| format!("{folder}/file"));
        cross(s, &trio, &files.each_ref().map(String::as_str));
        let copy_in = |peer: &Peer, folder: &str| {
            let names = files_in(&peer.path(folder));
            let copy = names.iter().find(|name| *name != "file");
            let copy = copy.unwrap_or_else(|| panic!("no copy in {names:?}"));
            peer.path(folder).join(copy)
        };
        let by_name = resolve(&trio.a, &trio.a.path("name/file"), "a");
        assert!(by_name.status.success(), "{by_name}");
        let both = resolve(&trio.b, &copy_in(&trio.b, "both"), "both");
        assert!(both.status.success(), "{both}");
        fs::remove_file(copy_in(&trio.a, "removed")).expect("removed");
        let renamed = trio.b.path("renamed/other");
        fs::rename(copy_in(&trio.b, "renamed"), renamed).expect("moved");
        wait_for_one(&trio, "name", "file", b"from A\n");
        wait_for_one(&trio, "removed", "file", b"from A\n");
        for peer in [&trio.a, &trio.b] {
            assert_eq!(files_in(&peer.path("both")).len(), 2);
            wait_for_content(&peer.path("renamed/other"), b"from B\n");
        }
    });
}

#[test]
fn what_is_chosen_of_a_file_with_two_names_is_there_by_both() {
    scenario("names", 5 * MINUTES, |s| {
        let trio = Trio::start(s);
        fs::write(trio.a.path("f"), "first\n").expect("written");
        fs::hard_link(trio.a.path("f"), trio.a.path("g")).expect("linked");
        cross(s, &trio, &["f"]);
        let chosen = resolve(&trio.a, &trio.a.path("g"), "b");
        assert!(chosen.status.success(), "{chosen}");
        for peer in [&trio.a, &trio.b] {
            for name in ["f", "g"] {
                wait_for_content(&peer.path(name), b"from B\n");
            }
            wait_until("the copy is gone, and the list is empty", MINUTES, || {
                (files_in(peer.mountpoint()) == ["f", "g"] && count(peer) == 0).then_some(())
            });
        }
    });
}
