//! What is done to members by the commands of a person: roles, names, removals, leaves, invites taken
//! back; and a volume entered again when the machine that made it is lost.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use mount_tests::source::pattern;
use mount_tests::{Finished, Peer, Start, scenario, wait_for_content, wait_until};
use serde_json::Value;

const MINUTES: Duration = Duration::from_secs(60);

fn assert_good(finished: &Finished) -> String {
    assert!(finished.status.success(), "{finished}");
    finished.stdout_text()
}

/// Checks that a command was refused with this exit code, by one line that says this.
fn assert_refused(finished: &Finished, code: i32, says: &str) {
    assert_eq!(finished.status.code(), Some(code), "{finished}");
    let said = finished.stderr_text();
    assert!(said.contains(says), "{finished}");
    assert_eq!(said.trim().lines().count(), 1, "{finished}");
}

fn role_of(peer: &Peer, name: &str) -> Option<String> {
    let members = peer.facts(&["members"]);
    let members = members.as_array().expect("a list");
    let found = members.iter().find(|member| member["name"] == name)?;
    found["role"].as_str().map(str::to_owned)
}

fn id_of(peer: &Peer) -> String {
    let status = peer.facts(&["status"]);
    status["peer_id"].as_str().expect("an id").to_owned()
}

fn advises(peer: &Peer, of: &str) -> bool {
    let status = peer.facts(&["status"]);
    status["advice"].to_string().contains(of)
}

/// The advice of a volume that hangs on one machine.
const SOLE_ADMIN: &str = "only this machine can invite";

#[test]
fn roles_and_names_change_while_the_volume_is_mounted() {
    scenario("roles", 4 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        assert!(!advises(&a, SOLE_ADMIN));
        let mut b = s.peer("b");
        b.mount(&Start::join(&a, &a.invite("writer")));
        wait_until("A asks for a second admin", MINUTES, || {
            advises(&a, SOLE_ADMIN).then_some(())
        });
        assert!(!advises(&b, SOLE_ADMIN));
        fs::write(b.path("file"), "as a writer").expect("written");
        wait_for_content(&a.path("file"), b"as a writer");

        assert_refused(
            &b.dfs(&["members", "role", "b", "admin"]),
            4,
            "only an admin",
        );
        assert_refused(&a.dfs(&["members", "role", "x", "admin"]), 2, "dfs members");
        assert_good(&a.dfs(&["members", "role", "b", "reader"]));
        wait_until("B's mount takes no changes", MINUTES, || {
            let refused = fs::write(b.path("more"), "x").err()?;
            (refused.kind() == ErrorKind::ReadOnlyFilesystem).then_some(())
        });
        assert_eq!(fs::read(b.path("file")).expect("read"), b"as a writer");
        assert_good(&a.dfs(&["members", "role", "b", "admin"]));
        wait_until("B writes again", MINUTES, || {
            fs::write(b.path("more"), "as an admin").ok()
        });
        wait_for_content(&a.path("more"), b"as an admin");
        wait_until("nothing hangs on A alone", MINUTES, || {
            (!advises(&a, SOLE_ADMIN)).then_some(())
        });

        // Each names itself; of two with one name the id tells which.
        assert_good(&b.dfs(&["rename", "nas"]));
        assert_good(&a.dfs(&["rename", "nas"]));
        wait_until("both are called nas", MINUTES, || {
            let members = a.facts(&["members"]).to_string();
            (members.matches("\"nas\"").count() == 2).then_some(())
        });
        let ambiguous = a.dfs(&["members", "role", "nas", "writer"]);
        assert_refused(&ambiguous, 2, &id_of(&b)[..8]);
        assert_refused(&a.dfs(&["rename", "a\u{202e}b"]), 1, "not seen");
        assert_good(&a.dfs(&["members", "role", &id_of(&b)[..8], "writer"]));
        assert_good(&a.dfs(&["members", "rename", &id_of(&b)[..8], "desk"]));
        wait_until("B hears its name", MINUTES, || role_of(&b, "desk"));
    });
}

#[test]
fn what_was_written_before_a_role_was_lost_is_set_aside_as_files() {
    scenario("aside", 4 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut b = s.peer("b");
        b.mount(&Start::join(&a, &a.invite("writer")));
        fs::write(b.path("file"), "in time").expect("written");
        wait_for_content(&a.path("file"), b"in time");
        a.sync();
        s.network().cut("b");
        fs::create_dir(b.path("folder")).expect("made");
        let late = pattern(3, 3 << 20);
        fs::write(b.path("folder/late"), &late).expect("written");
        fs::write(b.path("file"), "in time, and changed").expect("written");
        assert_good(&a.dfs(&["members", "role", "b", "reader"]));
        s.network().mend("b");
        let aside = b.path(".dfs/aside");
        wait_until("it is set aside", MINUTES, || {
            fs::metadata(aside.join("folder")).ok()
        });
        let check = |b: &Peer| {
            assert_eq!(fs::read(aside.join("folder/late")).expect("read"), late);
            let changed = fs::read(aside.join("file")).expect("read");
            assert_eq!(changed, b"in time, and changed");
            assert_eq!(fs::read(b.path("file")).expect("read"), b"in time");
            assert!(!b.path("folder").exists());
            let told = b.facts(&["status"]).to_string();
            assert!(
                told.contains("in 2 files") && told.contains(".dfs/aside"),
                "{told}"
            );
        };
        check(&b);
        let refused = fs::write(aside.join("file"), "x").expect_err("read-only");
        assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
        let listed = fs::read_dir(b.mountpoint()).expect("listed");
        let names: Vec<_> = listed
            .map(|entry| entry.expect("read").file_name())
            .collect();
        assert_eq!(names, ["file"]);
        b.kill();
        b.restart();
        check(&b);
        fs::remove_file(aside.join("file")).expect("removed");
        fs::remove_dir_all(aside.join("folder")).expect("removed");
        wait_until("status has nothing to tell of it", MINUTES, || {
            let told = b.facts(&["status"]).to_string();
            (!told.contains(".dfs/aside")).then_some(())
        });
    });
}

#[test]
fn a_removal_asks_and_a_leave_takes_nothing_along() {
    scenario("leave", 4 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut b = s.peer("b");
        b.mount(&Start::join(&a, &a.invite("writer")));
        let mut c = s.peer("c");
        c.serve(&Start::join(&a, &a.invite("storage")));
        assert_refused(&a.dfs(&["members", "remove", "b"]), 2, "--yes");
        assert_refused(
            &b.dfs(&["members", "remove", "c", "--yes"]),
            4,
            "only an admin",
        );
        assert_refused(&a.dfs(&["leave", "--yes"]), 1, "last admin");
        assert_eq!(role_of(&a, "b").as_deref(), Some("writer"));

        // What only B has is not left behind.
        fs::write(b.path("last"), "words").expect("written");
        assert_good(&b.dfs(&["leave", "--yes"]));
        b.expect_end("dfs leave");
        wait_for_content(&a.path("last"), b"words");
        wait_until("A hears it", MINUTES, || {
            role_of(&a, "b").is_none().then_some(())
        });
        let state = b.state().display().to_string();
        let mountpoint = b.mountpoint().display().to_string();
        let again = b.attempt("dfs-mount", &[&mountpoint, "--state", &state]);
        assert_refused(&again, 4, "left the volume");

        assert_good(&a.dfs(&["members", "remove", "c", "--yes"]));
        assert_eq!(a.facts(&["members"]).as_array().expect("a list").len(), 1);
        // All of it would be gone.
        assert_refused(&a.dfs(&["leave", "--yes"]), 1, "--force");
        assert_good(&a.dfs(&["leave", "--yes", "--force"]));
        a.expect_end("dfs leave");
    });
}

#[test]
fn an_invite_is_listed_and_taken_back() {
    scenario("invites", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        assert_refused(&a.dfs(&["invite", "--expires", "0s"]), 2, "admits nobody");
        let said = assert_good(&a.dfs(&["invite", "--role", "storage"]));
        assert!(said.contains("One new storage peer can join"), "{said}");
        assert!(said.contains("24 h"), "{said}");
        let token = said.lines().last().expect("a token").to_owned();
        let invites = a.facts(&["invite", "--list"]);
        assert_eq!(invites[0]["state"], "open");
        let id = invites[0]["id"].as_str().expect("an id")[..8].to_owned();
        assert_good(&a.dfs(&["invite", "--revoke", &id]));
        let invites: Value = a.facts(&["invite", "--list"]);
        assert_eq!(invites[0]["state"], "revoked");
        let b = s.peer("b");
        let refused = b.attempt(
            "dfs",
            &[
                "node",
                "--state",
                &b.state().display().to_string(),
                "--peer",
                &a.listen(),
                "--invite",
                &token,
            ],
        );
        assert_refused(&refused, 4, "revoked");
        assert_refused(&a.dfs(&["invite", "--revoke", "00000000"]), 2, "--list");
    });
}

/// Starts a machine with a phrase that a file holds, in the way that must fail.
fn enter(peer: &Peer, through: &Peer, phrase: &Path) -> Finished {
    let mountpoint = peer.mountpoint().display().to_string();
    let state = peer.state().display().to_string();
    let phrase = format!("@{}", phrase.display());
    peer.attempt(
        "dfs-mount",
        &[
            &mountpoint,
            "--state",
            &state,
            "--peer",
            &through.listen(),
            "--recovery",
            &phrase,
        ],
    )
}

#[test]
fn a_phrase_enters_the_volume_when_the_first_machine_is_burnt() {
    scenario("recovery", 6 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut storage = s.peer("storage");
        storage.serve(&Start::join(&a, &a.invite("storage")));
        assert_refused(&storage.dfs(&["recovery"]), 4, "only an admin");
        fs::create_dir(a.path("folder")).expect("made");
        fs::write(a.path("folder/small"), "a small one").expect("written");
        let large = pattern(5 << 20, 3);
        fs::write(a.path("large"), &large).expect("written");
        wait_until("A asks for a second admin", MINUTES, || {
            advises(&a, SOLE_ADMIN).then_some(())
        });
        let old = assert_good(&a.dfs(&["recovery"]));
        let said = assert_good(&a.dfs(&["recovery"]));
        assert!(!advises(&a, SOLE_ADMIN), "a phrase is enough");
        assert_eq!(
            a.facts(&["recovery", "--list"])
                .as_array()
                .expect("a list")
                .len(),
            1
        );
        assert_eq!(a.facts(&["members"]).as_array().expect("a list").len(), 2);
        assert!(assert_good(&a.dfs(&["members"])).contains("recovery phrase, made by a ("));
        a.sync();
        wait_until("the storage peer knows the phrase", MINUTES, || {
            let known = storage.facts(&["recovery", "--list"]);
            (known == a.facts(&["recovery", "--list"])).then_some(())
        });

        // The first machine burns down.
        a.kill();
        fs::remove_dir_all(a.state()).expect("burnt");

        let mut new = s.peer("new");
        let words: Vec<&str> = said.lines().last().expect("words").split(' ').collect();
        let phrase = s.path("phrase");
        let write = |words: &[&str]| fs::write(&phrase, words.join(" ")).expect("written");
        write(&words[1..]);
        assert_refused(&enter(&new, &storage, &s.path("phrase")), 2, "15 words");
        let mut wrong = words.clone();
        wrong[4] = if words[4] == "zoo" { "zone" } else { "zoo" };
        write(&wrong);
        let refused = enter(&new, &storage, &s.path("phrase"));
        assert_refused(
            &refused,
            2,
            &format!(
                "word 5 of the recovery phrase is wrong: {} does not",
                wrong[4]
            ),
        );
        let words_of_old: Vec<&str> = old.lines().last().expect("words").split(' ').collect();
        write(&words_of_old);
        assert_refused(
            &enter(&new, &storage, &s.path("phrase")),
            4,
            "replaced or revoked",
        );
        assert!(
            !new.state().exists(),
            "a start that is refused leaves nothing"
        );

        // As it was printed, all of it.
        fs::write(&phrase, &said).expect("written");
        new.mount(
            &Start::again()
                .arg("--peer")
                .arg(storage.listen())
                .arg("--recovery")
                .arg(format!("@{}", phrase.display())),
        );
        wait_for_content(&new.path("folder/small"), b"a small one");
        wait_for_content(&new.path("large"), &large);
        assert_eq!(new.facts(&["status"])["role"], "admin");

        // It is an admin like any other.
        let mut b = s.peer("b");
        b.mount(&Start::join(&new, &new.invite("writer")));
        fs::write(b.path("after"), "the fire").expect("written");
        wait_for_content(&new.path("after"), b"the fire");
        new.unmount();
        new.restart();
        wait_for_content(&new.path("after"), b"the fire");
    });
}

#[test]
fn a_storage_peer_that_may_read_mounts_at_its_next_start() {
    scenario("promoted", 3 * MINUTES, |s| {
        let mut a = s.peer("a");
        a.mount(&Start::new_volume());
        let mut b = s.peer("b");
        b.serve(&Start::join(&a, &a.invite("storage")));
        fs::write(a.path("file"), "content").expect("written");
        let said = assert_good(&a.dfs(&["members", "role", "b", "writer"]));
        assert!(said.contains("start it with dfs-mount"), "{said}");
        wait_until("B hears it", MINUTES, || {
            (role_of(&b, "b").as_deref() == Some("writer")).then_some(())
        });
        wait_until("B's status says what to do", MINUTES, || {
            let told = b.facts(&["status"])["troubles"].to_string();
            (told.contains("no key of the volume") && told.contains("dfs-mount")).then_some(())
        });
        b.terminate();
        b.mount(&Start::again());
        wait_for_content(&b.path("file"), b"content");
        fs::write(b.path("back"), "from b").expect("written");
        wait_for_content(&a.path("back"), b"from b");
    });
}
