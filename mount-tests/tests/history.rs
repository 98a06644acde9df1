//! What was replaced or removed is had back by whoever wants it, wherever it was done.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use mount_tests::source::make_source_tree;
use mount_tests::tree::{Tree, assert_equal, read_tree};
use mount_tests::{Peer, Start, scenario, wait_for_content, wait_until};
use serde_json::Value;

const MINUTES: Duration = Duration::from_secs(60);

/// Starts two members of a volume that keeps what was replaced or removed.
fn two(s: &mut mount_tests::Scenario) -> (Peer, Peer) {
    let mut a = s.peer("a");
    a.mount(&Start::new_volume());
    let mut b = s.peer("b");
    b.mount(&Start::join(&a, &a.invite("writer")));
    let done = a.dfs(&["config", "history", "30d"]);
    assert!(done.status.success(), "{done}");
    wait_until("both know how long is kept", MINUTES, || {
        (b.dfs(&["config", "history"]).stdout_text() == "30d\n").then_some(())
    });
    (a, b)
}

/// Returns a tree without the mtimes of folders: to remove what is in them changes these.
fn without_folder_times(mut tree: Tree) -> Tree {
    let folders = tree
        .values_mut()
        .filter(|of| of.mode & 0o170_000 == 0o040_000);
    folders.for_each(|folder| folder.mtime = (0, 0));
    tree
}

fn restore(peer: &Peer, args: &[&str]) -> Value {
    let done = peer.dfs(&[&["restore", "--json"], args].concat());
    assert!(done.status.success(), "{done}");
    serde_json::from_str(&done.stdout_text()).expect("JSON")
}

#[test]
fn what_one_member_removed_another_has_back_with_all_that_was_in_it() {
    scenario("undelete", 10 * MINUTES, |s| {
        let (a, b) = two(s);
        let tree = a.path("tree");
        make_source_tree(&tree, 2_000);
        fs::write(tree.join("private"), "mine").expect("written");
        fs::set_permissions(tree.join("private"), fs::Permissions::from_mode(0o600)).expect("set");
        fs::hard_link(tree.join("private"), tree.join("second")).expect("linked");
        a.sync();
        wait_for_content(&b.path("tree/private"), b"mine");
        let expected = without_folder_times(read_tree(&tree));
        // A folder that stays, from which some is removed.
        fs::create_dir(a.path("kept")).expect("made");
        fs::write(a.path("kept/gone"), "gone").expect("written");
        fs::write(a.path("kept/there"), "there").expect("written");
        wait_for_content(&b.path("kept/there"), b"there");
        fs::remove_file(b.path("kept/gone")).expect("removed");
        fs::remove_dir_all(b.path("tree")).expect("removed");
        wait_until("it is gone on the other", MINUTES, || {
            (!tree.exists() && !a.path("kept/gone").exists()).then_some(())
        });
        let top = a.mountpoint().display().to_string();
        let listed = a.facts(&["history", &top]);
        let removed = listed["removed"].as_array().expect("a list");
        assert!(removed.len() > 2_000, "{}", removed.len());
        let entry = removed.iter().find(|of| of["path"] == "tree/private");
        let entry = entry.expect("each file is told");
        assert_eq!((&entry["device"], &entry["size"]), (&"b".into(), &4.into()));
        let done = restore(&a, &["--deleted", &top]);
        assert!(done["files"].as_u64() > Some(2_000), "{done}");
        let back = without_folder_times(read_tree(&tree));
        assert_equal("what is back", &expected, &back);
        let [first, second] = ["private", "second"].map(|name| {
            let found = fs::symlink_metadata(tree.join(name)).expect("it is back");
            (found.ino(), found.nlink(), found.mode() & 0o777)
        });
        assert_eq!(first, second);
        assert_eq!((first.1, first.2), (2, 0o600));
        assert_eq!(fs::read(a.path("kept/gone")).expect("read"), b"gone");
        // The others have it, too, as any other change.
        wait_for_content(&b.path("tree/private"), b"mine");
        a.sync();
        wait_until("the other has all", MINUTES, || {
            let found = mount_tests::tree::try_read_tree(&b.path("tree")).ok()?;
            (without_folder_times(found) == expected).then_some(())
        });
        // Nothing is left to have back.
        let again = restore(&a, &["--deleted", &top]);
        assert_eq!(again["files"], 0, "{again}");
    });
}

#[test]
fn a_file_is_had_back_as_it_was() {
    scenario("versions", 10 * MINUTES, |s| {
        let (a, b) = two(s);
        let file = a.path("file");
        let path = file.display().to_string();
        fs::write(&file, "one").expect("written");
        wait_for_content(&b.path("file"), b"one");
        fs::write(b.path("file"), "two, longer").expect("written");
        wait_for_content(&file, b"two, longer");
        fs::write(&file, "three").expect("written");
        fs::write(&file, "four").expect("written");
        wait_for_content(&b.path("file"), b"four");
        for peer in [&a, &b] {
            let listed = peer.facts(&["history", &peer.path("file").display().to_string()]);
            let versions = listed["versions"].as_array().expect("a list");
            let found: Vec<(u64, &str)> = versions
                .iter()
                .map(|of| (of["size"].as_u64().unwrap(), of["device"].as_str().unwrap()))
                .collect();
            assert_eq!(found, [(4, "a"), (5, "a"), (11, "b"), (3, "a")], "{listed}");
        }
        let listed = a.facts(&["history", &path]);
        let said = a.dfs(&["history", &path]).stdout_text();
        assert_eq!(said.lines().count(), 4, "{said}");
        let oldest = said.lines().last().expect("the first");
        let time = oldest.split_whitespace().next().expect("a time");
        assert!(listed["versions"][0]["state"] == "there");
        // By the time that is shown.
        let done = restore(&a, &[&format!("{path}@{time}")]);
        assert_eq!(done["files"], 1, "{done}");
        wait_for_content(&file, b"one");
        wait_for_content(&b.path("file"), b"one");
        // What the restore replaced is had back as well, on the other.
        restore(&b, &[&b.path("file").display().to_string()]);
        wait_for_content(&b.path("file"), b"four");
        wait_for_content(&file, b"four");
        // A file that somebody moved another over, and one that was removed.
        fs::write(a.path("next"), "moved").expect("written");
        fs::rename(a.path("next"), &file).expect("moved");
        restore(&a, &[&path]);
        wait_for_content(&file, b"four");
        fs::remove_file(&file).expect("removed");
        wait_until("it is gone", MINUTES, || {
            (!b.path("file").exists()).then_some(())
        });
        restore(&b, &[&b.path("file").display().to_string()]);
        wait_for_content(&b.path("file"), b"four");
        wait_for_content(&file, b"four");
        let none = a.dfs(&["restore", &a.path("never").display().to_string()]);
        assert_eq!(none.status.code(), Some(1), "{none}");
        let wrong = a.dfs(&["restore", &format!("{path}@yesterday")]);
        assert_eq!(wrong.status.code(), Some(2), "{wrong}");
    });
}
