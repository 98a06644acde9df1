//! A machine that nobody invited: it asks a storage peer, an admin elsewhere decides.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use mount_tests::{Finished, Peer, Scenario, Start, machine, scenario, wait_until};
use rustix::process::{Pid, Signal};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

/// An admin with a file in its volume, and a storage peer.
fn volume(s: &mut Scenario) -> (Peer, Peer) {
    let (mut admin, mut storage) = (s.peer("admin"), s.peer("storage"));
    admin.mount(&Start::new_volume());
    fs::write(admin.path("file"), "content").expect("written");
    storage.serve(&Start::join(&admin, &admin.invite("storage")));
    (admin, storage)
}

fn arguments(peer: &Peer, contact: &Peer) -> Vec<String> {
    let shown = |path: &std::path::Path| path.display().to_string();
    let (mountpoint, state) = (shown(peer.mountpoint()), shown(peer.state()));
    let peer_option = ["--peer".to_owned(), contact.listen()];
    let rest = ["--state".to_owned(), state, "--name".to_owned()];
    let mut args = vec![mountpoint];
    args.extend(peer_option.into_iter().chain(rest));
    args.push(peer.name().to_owned());
    args
}

/// Waits until one machine asks, and returns what the admin is shown of it.
fn listed(admin: &Peer) -> Value {
    wait_until("somebody asks", MINUTE, || {
        let list = admin.facts(&["approve"]);
        let list = list.as_array().expect("a list");
        list.first().cloned()
    })
}

fn text<'a>(asking: &'a Value, field: &str) -> &'a str {
    asking[field].as_str().expect("a text")
}

/// A start that waits, with what it has said so far.
struct Waiting {
    child: Child,
    _lines: BufReader<ChildStdout>,
    said: String,
}

impl Waiting {
    /// Starts and reads until it waits.
    fn start(peer: &Peer, args: &[String]) -> Self {
        let program = machine::program("dfs-mount");
        let (netns, args) = (peer.namespace_argument(), args.to_vec());
        // Of its own, as the end of a thread ends nothing else here.
        let mut child = std::process::Command::new("nsenter")
            .arg(netns)
            // What runs in the background of a shell would ignore an interrupt.
            .args(["env", "--default-signal=INT"])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("nsenter can be started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut said = String::new();
        while !said.contains("waiting") {
            let read = lines.read_line(&mut said).expect("it says something");
            assert!(read > 0, "{} ended: {said}", peer.name());
        }
        Self {
            child,
            _lines: lines,
            said,
        }
    }

    fn interrupt(mut self) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::INT).expect("it runs");
        self.child.wait().expect("it ends");
    }
}

#[test]
fn a_machine_that_nobody_invited_is_mounted_once_an_admin_says_so() {
    scenario("asking", 3 * MINUTE, |s| {
        let (admin, storage) = volume(s);
        let newcomer = s.peer("laptop");
        let args = arguments(&newcomer, &storage);
        let finished = std::thread::scope(|scope| {
            let start = scope.spawn(|| newcomer.attempt("dfs-mount", &args));
            let asking = listed(&admin);
            assert_eq!(text(&asking, "name"), "laptop");
            assert_eq!(text(&asking, "told_by"), "storage");
            let status = admin.dfs(&["status"]);
            assert!(
                status.stdout_text().contains("laptop asks to be admitted"),
                "{status}"
            );
            let code = text(&asking, "code");
            let approved = admin.dfs(&["approve", &code.to_uppercase(), "--name", "lap"]);
            assert!(approved.status.success(), "{approved}");
            let finished: Finished = start.join().expect("it ends");
            // The same on both screens.
            let said = finished.stdout_text();
            let words = text(&asking, "words");
            assert!(
                said.contains(&format!("  dfs approve {code}\n")),
                "{finished}"
            );
            assert!(said.contains(words), "{finished}");
            assert!(approved.stdout_text().contains(words), "{approved}");
            finished
        });
        assert!(finished.status.success(), "{finished}");
        assert_eq!(fs::read(newcomer.path("file")).expect("read"), b"content");
        fs::write(newcomer.path("answer"), "mine").expect("written");
        mount_tests::wait_for_content(&admin.path("answer"), b"mine");
        let members = admin.facts(&["members"]);
        let members = members.as_array().expect("a list");
        let is_there = |member: &Value| member["name"] == "lap" && member["role"] == "writer";
        assert!(members.iter().any(is_there), "{members:?}");
        assert_eq!(
            admin.facts(&["approve"]).as_array().expect("a list").len(),
            0
        );
        let unknown = admin.dfs(&["approve", "aaaaa-aaaaa"]);
        assert_eq!(unknown.status.code(), Some(1), "{unknown}");
        let refused = newcomer.dfs(&["approve"]);
        assert_eq!(refused.status.code(), Some(4), "{refused}");
        mount_tests::Command::new("umount")
            .arg(newcomer.mountpoint())
            .ok();
    });
}

#[test]
fn who_is_denied_leaves_nothing_and_who_gives_up_keeps_its_code() {
    scenario("denied", 4 * MINUTE, |s| {
        let (admin, storage) = volume(s);
        let newcomer = s.peer("laptop");
        let args = arguments(&newcomer, &storage);
        let denied = std::thread::scope(|scope| {
            let start = scope.spawn(|| newcomer.attempt("dfs-mount", &args));
            let asking = listed(&admin);
            let done = admin.dfs(&["approve", text(&asking, "code"), "--deny"]);
            assert!(done.status.success(), "{done}");
            start.join().expect("it ends")
        });
        assert_eq!(denied.status.code(), Some(4), "{denied}");
        assert_eq!(denied.stderr_text().lines().count(), 1, "{denied}");
        assert!(!newcomer.state().exists());
        assert!(machine::mounts_below(newcomer.mountpoint()).is_empty());

        // In the background and in the foreground.
        let mut foreground = vec!["-f".to_owned()];
        foreground.extend(args.iter().cloned());
        let mut codes = Vec::new();
        for args in [&args, &foreground] {
            let start = Waiting::start(&newcomer, args);
            let code = start.said.split("dfs approve ").nth(1).expect("a code");
            codes.push(code.lines().next().expect("a line").to_owned());
            start.interrupt();
            wait_until("the daemon ends", MINUTE, || {
                machine::processes_with(newcomer.state())
                    .is_empty()
                    .then_some(())
            });
            let left = fs::read_dir(newcomer.state()).expect("the folder is kept");
            let mut left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
            left.sort();
            assert_eq!(left, ["first-start", "format", "identity.key"]);
        }
        assert_eq!(codes[0], codes[1]);
        wait_until("it vanishes from the list", MINUTE, || {
            let list = admin.facts(&["approve"]);
            list.as_array().expect("a list").is_empty().then_some(())
        });

        // A machine that starts by itself never asks.
        let unattended = ["dfs", &args[0]].map(str::to_owned);
        let unattended: Vec<_> = unattended.into_iter().chain(args[1..].to_vec()).collect();
        let refused = newcomer.attempt("dfs-mount", &unattended);
        assert_eq!(refused.status.code(), Some(1), "{refused}");
        assert!(refused.stdout.is_empty(), "{refused}");
    });
}
