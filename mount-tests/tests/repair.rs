//! `dfs repair`: a member whose state folder was damaged is made whole from the others and from what is
//! left, whichever of its files it was, and stays the member that it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::{Finished, Peer, Start, scenario, wait_for_content, wait_until};

const MINUTES: Duration = Duration::from_secs(60);

fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let inside = path.strip_prefix(root).expect("inside").to_owned();
                found.insert(inside, fs::read(&path).expect("read"));
            }
        }
    }
    found
}

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// A file that says what the folder is.
    Format,
    /// The row database, beside the log.
    Rows,
    /// All that was in rows.
    AllRows,
    /// All contents that are not in rows.
    Chunks,
}

impl Damage {
    fn to(self, state: &Path) {
        match self {
            Self::Format => fs::write(state.join("format"), b"nonsense").expect("spoilt"),
            Self::Rows => {
                // The log does not have all any more either, so the rows are missed.
                fs::remove_dir_all(state.join("rows")).expect("removed");
            }
            Self::AllRows => {
                fs::remove_dir_all(state.join("rows")).expect("removed");
                fs::remove_dir_all(state.join("wal")).expect("removed");
            }
            Self::Chunks => fs::remove_dir_all(state.join("chunks")).expect("removed"),
        }
    }
}

/// Returns the peer's id.
fn id_of(peer: &Peer) -> String {
    let status = peer.facts(&["status"]);
    status["peer_id"].as_str().expect("an id").to_owned()
}

fn good(finished: &Finished) -> String {
    assert!(finished.status.success(), "{finished}");
    finished.stdout_text()
}

#[test]
fn a_damaged_member_that_reaches_nobody_has_all_that_can_be_read_of_it() {
    scenario("repair-alone", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut b = s.peer("b");
        b.mount(&Start::join(&a, &a.invite("writer")));
        for n in 0..3 {
            let name = format!("from-a-{n}");
            fs::write(a.path(&name), name.as_bytes()).expect("written");
            wait_for_content(&b.path(&name), name.as_bytes());
        }
        for peer in [&a, &b] {
            peer.sync();
        }
        a.unmount();
        fs::write(b.path("only"), "only").expect("written");
        let before = tree(b.mountpoint());
        b.unmount();
        Damage::Format.to(b.state());
        let state = b.state().display().to_string();
        println!(
            "{}",
            good(&b.attempt("dfs", &["repair", "--state", &state]))
        );
        b.mount(&Start::again());
        assert_eq!(tree(b.mountpoint()), before, "at once");
        a.mount(&Start::again());
        wait_for_content(&a.path("only"), b"only");
        fs::write(b.path("later"), "later").expect("written");
        wait_for_content(&a.path("later"), b"later");
    });
}

#[test]
fn a_damaged_member_is_made_whole_by_the_line_that_its_start_names() {
    scenario("repair", 10 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut b = s.peer("b");
        b.mount(&Start::join(&a, &a.invite("writer")));
        let mut c = s.peer("c");
        c.mount(&Start::join(&a, &a.invite("writer")));
        fs::create_dir(a.path("folder")).expect("made");
        for (n, peer) in [&a, &b, &c].into_iter().enumerate() {
            let name = format!("folder/{}", peer.name());
            wait_until("the folder is there", MINUTES, || {
                peer.path("folder").is_dir().then_some(())
            });
            fs::write(peer.path(&name), pattern(300_000, n as u64)).expect("written");
        }
        for name in ["a", "b", "c"] {
            let path = format!("folder/{name}");
            let size =
                |peer: &Peer| fs::metadata(peer.path(&path)).is_ok_and(|m| m.len() == 300_000);
            wait_until("all have all", MINUTES, || {
                (size(&a) && size(&b) && size(&c)).then_some(())
            });
        }
        for peer in [&a, &b, &c] {
            peer.sync();
        }
        let id = id_of(&b);
        let damages = [
            Damage::Format,
            Damage::Rows,
            Damage::AllRows,
            Damage::Chunks,
        ];
        for damage in damages {
            println!("{damage:?}");
            // What only B has.
            a.unmount();
            c.unmount();
            let only = format!("only-{damage:?}");
            fs::write(b.path(&only), only.as_bytes()).expect("written");
            b.unmount();
            damage.to(b.state());
            a.mount(&Start::again());
            c.mount(&Start::again());

            let refused = b.attempt(
                "dfs-mount",
                &[
                    "-f".to_owned(),
                    b.mountpoint().display().to_string(),
                    "--state".to_owned(),
                    b.state().display().to_string(),
                ],
            );
            assert_eq!(refused.status.code(), Some(1), "{refused}");
            let said = refused.stderr_text();
            let line = format!(
                "dfs repair --state {} --peer HOST:PORT",
                b.state().display()
            );
            assert!(said.contains(&line), "{refused}");
            let state = b.state().display().to_string();
            let repaired = b.attempt("dfs", &["repair", "--state", &state, "--peer", &a.listen()]);
            println!("{}", good(&repaired));

            b.mount(&Start::again());
            assert_eq!(id_of(&b), id, "{damage:?}");
            if damage != Damage::AllRows {
                wait_for_content(&a.path(&only), only.as_bytes());
                wait_for_content(&b.path(&only), only.as_bytes());
            }
            wait_until("B has what the others have", MINUTES, || {
                (tree(b.mountpoint()) == tree(a.mountpoint())).then_some(())
            });
            // It goes on as the member that it was.
            let after = format!("after-{damage:?}");
            fs::write(b.path(&after), "more").expect("written");
            wait_for_content(&c.path(&after), b"more");
            wait_until("all are equal", MINUTES, || {
                (tree(c.mountpoint()) == tree(a.mountpoint())).then_some(())
            });
            assert_eq!(b.facts(&["status"])["conflicts"], 0, "{damage:?}");
        }
        // Without its key it is nobody.
        b.unmount();
        fs::remove_file(b.state().join("identity.key")).expect("removed");
        let state = b.state().display().to_string();
        let refused = b.attempt("dfs", &["repair", "--state", &state, "--peer", &a.listen()]);
        assert_eq!(refused.status.code(), Some(1), "{refused}");
        assert!(refused.stderr_text().contains("identity.key"), "{refused}");
        assert!(b.state().join("damaged").exists());
    });
}

#[test]
fn a_volume_of_one_that_has_its_changes_in_a_checkpoint_alone_is_whole_again() {
    scenario("repair-checkpoint", 5 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        fs::create_dir(a.path("folder")).expect("made");
        for n in 0..40 {
            fs::write(a.path(format!("folder/{n}")), pattern(500 * n, n as u64)).expect("written");
        }
        fs::write(a.path("large"), pattern(3_000_000, 7)).expect("written");
        a.sync();
        let before = tree(a.mountpoint());
        let state = a.state().display().to_string();
        // What it frees is another matter; it asks for a checkpoint.
        let asked = a.attempt("dfs", &["gc", "--state", &state, "--timeout", "1s"]);
        assert!(matches!(asked.status.code(), Some(0 | 5)), "{asked}");
        wait_until("the segments went", 2 * MINUTES, || {
            let status = a.facts(&["status"]);
            (status["disk_segments_bytes"] == 0).then_some(())
        });
        a.unmount();
        Damage::Format.to(a.state());
        println!(
            "{}",
            good(&a.attempt("dfs", &["repair", "--state", &state]))
        );
        a.mount(&Start::again());
        wait_until("all is there", MINUTES, || {
            (tree(a.mountpoint()) == before).then_some(())
        });
        wait_until("it can be written", MINUTES, || {
            fs::write(a.path("later"), "later").ok()
        });
    });
}
