//! What the volume was is in the mount of each member, as ordinary files, and a tree becomes it again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use mount_tests::source::make_source_tree;
use mount_tests::tree::{assert_equal, read_tree};
use mount_tests::{Command, Peer, Start, scenario, wait_until};
use serde_json::Value;

const MINUTES: Duration = Duration::from_secs(60);

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Makes a snapshot, and waits until each has heard of it.
fn keep(name: &str, by: &Peer, all: [&Peer; 2]) {
    let made = by.dfs(&["snapshot", "create", name]);
    assert!(made.status.success(), "{made}");
    for peer in all {
        wait_until("all have the snapshot", MINUTES, || {
            peer.path(".dfs/snapshots")
                .join(name)
                .exists()
                .then_some(())
        });
    }
}

fn restore_to(peer: &Peer, to: &str, path: &Path) -> Value {
    let done = peer.dfs(&["restore", "--json", "--yes", "--to", to, &text(path)]);
    assert!(done.status.success(), "{done}");
    serde_json::from_str(&done.stdout_text()).expect("JSON")
}

#[test]
fn what_was_is_got_back_by_cp_and_a_tree_by_one_command() {
    scenario("past", 10 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut b = s.peer("b");
        b.mount(&Start::join(&a, &a.invite("writer")));
        let (tree, copy) = (a.path("tree"), s.new_folder("copy").join("tree"));
        make_source_tree(&tree, 300);
        fs::write(tree.join("first"), "first").expect("written");
        fs::hard_link(tree.join("first"), tree.join("second")).expect("linked");
        fs::create_dir(tree.join("moved")).expect("made");
        fs::write(tree.join("moved/file"), "moved").expect("written");
        let expected = read_tree(&tree);
        keep("one", &a, [&a, &b]);

        // Nothing that walks the tree meets it.
        let names: Vec<_> = fs::read_dir(b.mountpoint()).expect("listed").collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let found = Command::new("find").arg(b.mountpoint()).ok();
        assert!(found.contains("tree/first") && !found.contains(".dfs"));

        // Another one removes and changes; what was is there for all.
        fs::remove_file(b.path("tree/first")).expect("removed");
        fs::write(b.path("tree/second"), "changed").expect("written");
        fs::rename(b.path("tree/moved"), b.path("tree/elsewhere")).expect("moved");
        fs::write(b.path("tree/new"), "new").expect("written");
        let changed = read_tree(&b.path("tree"));
        for peer in [&a, &b] {
            let was = peer.path(".dfs/snapshots/one/tree");
            assert_equal("what was", &expected, &read_tree(&was));
            let of = |name: &str| fs::symlink_metadata(was.join(name)).expect("it is there");
            assert_eq!(of("first").ino(), of("second").ino(), "one file");
            assert_eq!(
                of("first").dev(),
                fs::metadata(peer.mountpoint()).unwrap().dev()
            );
            let refused = fs::write(was.join("first"), "x").expect_err("read-only");
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        }
        let was = b.path(".dfs/snapshots/one/tree");
        Command::new("cp").arg("-a").args([&was, &copy]).ok();
        assert_equal("what was copied", &expected, &read_tree(&copy));
        let tomorrow = tomorrow("+%Y-%m-%dT%H:%M");
        let at = a.path(".dfs/at").join(&tomorrow);
        assert_equal("what was then", &expected, &read_tree(&at.join("tree")));
        assert!(!a.path(".dfs/at/1999-12-31").exists());

        // One command makes it what it was, and takes that back.
        wait_until("the other has the changes", MINUTES, || {
            let found = mount_tests::tree::try_read_tree(&tree).ok()?;
            (found == changed).then_some(())
        });
        let inside = fs::metadata(tree.join("elsewhere"))
            .expect("it is there")
            .ino();
        let done = restore_to(&a, "one", &tree);
        assert_equal("what is again", &expected, &read_tree(&tree));
        let moved = fs::metadata(tree.join("moved")).expect("it is there").ino();
        assert_eq!(moved, inside, "it is the same folder");
        let counts = ["back", "changed", "removed"].map(|of| done[of].as_u64().unwrap());
        assert_eq!(counts, [2, 1, 1], "{done}");
        let before = done["before"].as_str().expect("a name").to_owned();
        wait_until("the other has it again", MINUTES, || {
            let found = mount_tests::tree::try_read_tree(&b.path("tree")).ok()?;
            (found == expected && b.path(".dfs/snapshots").join(&before).exists()).then_some(())
        });
        restore_to(&b, &before, &b.path("tree"));
        assert_equal("what was changed", &changed, &read_tree(&b.path("tree")));

        // A folder that is gone.
        fs::remove_dir_all(b.path("tree")).expect("removed");
        restore_to(&b, &tomorrow[..10], &b.path("tree"));
        let done = restore_to(&b, "one", &b.path("tree"));
        assert_equal("what is again", &expected, &read_tree(&b.path("tree")));
        assert!(done["before"].is_string());
        for (to, path, status) in [("never", "tree", 1), ("one", "nowhere", 1)] {
            let path = text(&b.path(path));
            let failed = b.dfs(&["restore", "--yes", "--to", to, &path]);
            assert_eq!(failed.status.code(), Some(status), "{failed}");
        }
        let asks = b.dfs(&["restore", "--to", "one", &text(&b.path("tree"))]);
        assert!(!asks.status.success(), "nobody answers: {asks}");

        // Who is in a snapshot that is removed is told.
        let folder = a.path(".dfs/snapshots/one/tree");
        let open = fs::File::open(folder.join("first")).expect("opened");
        let removed = a.dfs(&["snapshot", "remove", "one"]);
        assert!(removed.status.success(), "{removed}");
        let gone = fs::read_dir(&folder)
            .expect_err("it is gone")
            .raw_os_error();
        assert!(
            matches!(gone, Some(libc::ENOENT | libc::ESTALE)),
            "{gone:?}"
        );
        let names = fs::read_dir(a.path(".dfs/snapshots")).expect("listed");
        assert!(names.count() >= 2, "the others are there");
        drop(open);
    });
}

/// Returns a moment that is no earlier than any snapshot.
fn tomorrow(form: &str) -> String {
    let said = Command::new("date").args(["-d", "tomorrow", form]).ok();
    said.trim().to_owned()
}
