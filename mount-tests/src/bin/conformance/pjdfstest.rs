//! The POSIX suite pjdfstest: each test that passes on ext4 passes on dfs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mount_tests::suites::Ext4;
use mount_tests::{Command, Trio, scenario};

use crate::MINUTES;

/// Runs the suite, or the tests whose names contain one of `tests`.
///
/// # Panics
///
/// Where a test passes on ext4 and not on dfs.
pub(crate) fn run(program: &str, tests: &[&str]) {
    scenario("pjdfstest", 30 * MINUTES, |s| {
        let ext4 = Ext4::new(s, "512M");
        let other = s.new_folder("other filesystem");
        Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(&other)
            .ok();
        let config = s.path("pjdfstest.toml");
        std::fs::write(&config, configuration(&other)).expect("written");
        let trio = Trio::start(s);
        let suite = Suite {
            program,
            config: &config,
            installed: program_folder(),
        };

        let reference = suite.run(ext4.path(), tests);
        let ours = suite.run(trio.a.mountpoint(), tests);
        summary("ext4", &reference);
        summary("dfs", &ours);
        if tests.is_empty() {
            hard_links_end_at_the_limit(trio.a.mountpoint());
        }
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

struct Suite<'a> {
    program: &'a str,
    config: &'a Path,
    installed: PathBuf,
}

impl Suite<'_> {
    /// Runs the tests on a filesystem, those of read-only mounts each in a process of its own: the
    /// suite leaves files of earlier tests open for writing, with which no filesystem can be
    /// remounted.
    fn run(&self, on: &Path, tests: &[&str]) -> BTreeMap<String, Test> {
        let mut results = self.run_once(on, tests);
        let read_only: Vec<_> = results
            .keys()
            .filter(|name| name.contains("::erofs"))
            .cloned()
            .collect();
        for name in read_only {
            let full = format!("pjdfstest::tests::{name}");
            results.extend(self.run_once(on, &["--exact", &full]));
        }
        results
    }

    /// The suite remounts with mount(8), which for a FUSE filesystem calls the program named by
    /// its type, from the folders where programs are installed.
    fn run_once(&self, on: &Path, args: &[&str]) -> BTreeMap<String, Test> {
        let done = Command::new("unshare")
            .args(["--mount", "sh", "-ec", AS_INSTALLED, "sh"])
            .arg(&self.installed)
            .arg(self.program)
            .arg("-c")
            .arg(self.config)
            .arg("-p")
            .arg(on)
            .args(args)
            .env("NO_COLOR", "1")
            .limit(10 * MINUTES)
            .run();
        results(&done.stdout_text())
    }
}

/// Does what the suite's `link::link_count_max` does. The suite skips it on every FUSE filesystem,
/// since glibc answers pathconf(_PC_LINK_MAX) from a table of its own in which FUSE is not.
fn hard_links_end_at_the_limit(root: &Path) {
    let folder = root.join("links");
    std::fs::create_dir(&folder).expect("made");
    let file = folder.join("0");
    std::fs::write(&file, "one of many").expect("written");
    let mut links: u32 = 1;
    let ended = loop {
        match std::fs::hard_link(&file, folder.join(links.to_string())) {
            Ok(()) => links += 1,
            Err(error) => break error,
        }
    };
    let names = std::fs::read_dir(&folder).expect("listed").count();
    println!("dfs: {links} links of one file, then: {ended}");
    let too_many = rustix::io::Errno::MLINK.raw_os_error();
    assert_eq!(ended.raw_os_error(), Some(too_many), "{ended}");
    assert_eq!(names, links as usize);
    std::fs::remove_dir_all(&folder).expect("removed");
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
