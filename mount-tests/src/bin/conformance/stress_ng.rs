//! stress-ng's stressors of filesystems: each that ends well on ext4 ends well on dfs.

use std::path::Path;
use std::time::Duration;

use mount_tests::suites::{Ext4, seed, wait_until_both_agree};
use mount_tests::{Command, Trio, scenario};

use crate::MINUTES;

/// Runs each stressor for so many seconds; all of the classes `filesystem` and `io`, and those in
/// [`MORE`], unless some are named.
///
/// # Panics
///
/// Where one fails on dfs and not on ext4.
pub(crate) fn run(seconds: u64, named: &[&str]) {
    scenario("stress-ng", 120 * MINUTES, |s| {
        let ext4 = Ext4::new(s, "2G");
        let trio = Trio::start(s);
        let seed = seed();
        let stressors: Vec<String> = match named {
            [] => all(),
            named => named.iter().map(ToString::to_string).collect(),
        };
        println!("seed {seed}, {} stressors", stressors.len());
        let mut worse = Vec::new();
        for name in &stressors {
            let run = |on: &Path| stress(name, on, seconds, seed);
            let (reference, ours) = (run(ext4.path()), run(trio.a.mountpoint()));
            println!(
                "{name}: ext4 {:?}, dfs {:?}",
                reference.verdict, ours.verdict
            );
            if ours.verdict > reference.verdict {
                println!("{}", ours.said);
            }
            // What a stressor finds missing and says so (FIEMAP, which the kernel does not pass on
            // to FUSE) is not a wrong answer.
            if ours.verdict == Verdict::Failed && reference.verdict != Verdict::Failed {
                worse.push(name);
            }
        }
        wait_until_both_agree(&trio);
        assert!(worse.is_empty(), "worse than on ext4: {worse:?}");
    });
}

/// From best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Passed,
    Skipped,
    Failed,
}

struct Outcome {
    verdict: Verdict,
    said: String,
}

fn stress(name: &str, on: &Path, seconds: u64, seed: u64) -> Outcome {
    let folder = on.join("stress-ng");
    std::fs::create_dir_all(&folder).expect("made");
    let done = Command::new("stress-ng")
        .args([&format!("--{name}"), "2"])
        .args(["--timeout", &format!("{seconds}s")])
        .args(["--seed", &seed.to_string()])
        .arg("--verify")
        .arg("--temp-path")
        .arg(&folder)
        .folder(&folder)
        .limit(MINUTES + Duration::from_secs(seconds))
        .run();
    let said = done.to_string();
    let verdict = match done.status.code() {
        Some(0) if !says_skipped(&said) => Verdict::Passed,
        Some(0 | RESOURCES_MISSING | NOT_IMPLEMENTED) => Verdict::Skipped,
        _ => Verdict::Failed,
    };
    Outcome { verdict, said }
}

/// A stressor that finds out on its way that something is missing ends well and says so.
fn says_skipped(said: &str) -> bool {
    said.contains("skipping stressor") || said.contains("skipped: ") && !said.contains("skipped: 0")
}

fn all() -> Vec<String> {
    let mut names: Vec<String> = ["filesystem", "io"]
        .into_iter()
        .flat_map(of_class)
        .collect();
    names.extend(MORE.map(str::to_owned));
    names.sort();
    names.dedup();
    names
}

/// Returns the stressors of a class: `class 'io' stressors: aio hdd ...`.
fn of_class(class: &str) -> Vec<String> {
    let listed = Command::new("stress-ng")
        .args(["--class", &format!("{class}?")])
        .run();
    let said = listed.stdout_text() + &listed.stderr_text();
    let names: Vec<String> = said
        .lines()
        .filter_map(|line| line.split_once("stressors:"))
        .flat_map(|(_, names)| names.split_whitespace())
        .map(str::to_owned)
        .collect();
    assert!(
        !names.is_empty(),
        "stress-ng lists no class {class}: {said}"
    );
    names
}

/// Stressors of other classes that work on files of the folder under test.
const MORE: [&str; 12] = [
    "chroot",
    "close",
    "fifo",
    "full",
    "loop",
    "mmap",
    "mmapfork",
    "msync",
    "sendfile",
    "splice",
    "tee",
    "vm-splice",
];

/// Exit codes of stress-ng.
const RESOURCES_MISSING: i32 = 3;
const NOT_IMPLEMENTED: i32 = 4;
