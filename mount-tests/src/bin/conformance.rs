//! Runs a suite that others wrote on a volume with three live peers and, for reference, on ext4.
//!
//! `conformance pjdfstest PROGRAM [TEST...]`; `mount-tests/conformance/pjdfstest` installs the
//! program and calls this.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mount_tests::{Command, Trio, scenario};

const MINUTES: Duration = Duration::from_secs(60);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["pjdfstest", program, tests @ ..] => pjdfstest(program, tests),
        _ => panic!("usage: conformance pjdfstest PROGRAM [TEST...]"),
    }
}

fn pjdfstest(program: &str, tests: &[&str]) {
    scenario("pjdfstest", 30 * MINUTES, |s| {
        let ext4 = s.new_folder("ext4");
        let image = s.path("ext4.image");
        let other = s.new_folder("other filesystem");
        Command::new("truncate")
            .args(["-s", "512M"])
            .arg(&image)
            .ok();
        Command::new("mkfs.ext4").arg("-q").arg(&image).ok();
        Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &ext4])
            .ok();
        Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(&other)
            .ok();
        let config = s.path("pjdfstest.toml");
        std::fs::write(&config, configuration(&other)).expect("written");
        let trio = Trio::start(s);

        // The suite remounts with mount(8), which for a FUSE filesystem calls the program named by
        // its type, from the folders where programs are installed.
        let installed = program_folder();
        let run = |on: &Path| {
            let suite = Command::new("unshare")
                .args(["--mount", "sh", "-ec", AS_INSTALLED, "sh"])
                .arg(&installed)
                .arg(program)
                .arg("-c")
                .arg(&config)
                .arg("-p")
                .arg(on);
            let done = suite
                .args(tests)
                .env("NO_COLOR", "1")
                .limit(10 * MINUTES)
                .run();
            results(&done.stdout_text())
        };
        let reference = run(&ext4);
        let ours = run(trio.a.mountpoint());
        summary("ext4", &reference);
        summary("dfs", &ours);
        // A test that is skipped asks glibc for a limit that it knows of ext4 alone.
        let worse: Vec<_> = ours
            .iter()
            .filter(|(name, test)| {
                test.verdict == Verdict::Failed
                    && reference
                        .get(*name)
                        .is_some_and(|test| test.verdict == Verdict::Passed)
            })
            .collect();
        for (name, test) in &worse {
            println!("{name}: passes on ext4, not on dfs\n{}", test.said);
        }
        assert!(!ours.is_empty(), "no test ran");
        assert!(
            worse.is_empty(),
            "{} tests pass on ext4 and not on dfs",
            worse.len()
        );
    });
}

/// Shows a folder as /usr/local/bin to the program in the other arguments alone.
const AS_INSTALLED: &str = "mount --bind \"$1\" /usr/local/bin; shift; exec \"$@\"";

fn program_folder() -> PathBuf {
    let program = mount_tests::machine::program("dfs-mount");
    program
        .canonicalize()
        .ok()
        .and_then(|path| Some(path.parent()?.to_owned()))
        .expect("a program lies in a folder")
}

fn configuration(other: &Path) -> String {
    format!(
        "[features]\n\
         posix_fallocate = {{}}\nrename_ctime = {{}}\nutime_now = {{}}\nutimensat = {{}}\n\
         secondary_fs = {other:?}\n\
         [settings]\nnaptime = 0.02\nallow_remount = true\n\
         [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n"
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

struct Test {
    verdict: Verdict,
    said: String,
}

/// Reads the suite's report: a line for each test, what it said indented below.
fn results(report: &str) -> BTreeMap<String, Test> {
    let mut tests: BTreeMap<String, Test> = BTreeMap::new();
    let mut last = None;
    for line in report.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            [name, verdict @ ("ok" | "FAILED" | "skipped")] if name.contains("::") => {
                let verdict = match *verdict {
                    "ok" => Verdict::Passed,
                    "skipped" => Verdict::Skipped,
                    _ => Verdict::Failed,
                };
                let said = String::new();
                tests.insert((*name).to_owned(), Test { verdict, said });
                last = Some((*name).to_owned());
            }
            _ => {
                if let Some(test) = last.as_ref().and_then(|name| tests.get_mut(name)) {
                    test.said.push_str(line);
                    test.said.push('\n');
                }
            }
        }
    }
    tests
}

fn summary(what: &str, tests: &BTreeMap<String, Test>) {
    let count = |verdict| {
        tests
            .values()
            .filter(|test| test.verdict == verdict)
            .count()
    };
    let passed = count(Verdict::Passed);
    println!("{what}: {passed} of {} passed", tests.len());
    for (name, test) in tests {
        if test.verdict != Verdict::Passed {
            println!("  {:?}: {name}", test.verdict);
        }
    }
}
