//! One folder with many files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Command;

/// What is done to each file of the folder, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Made, with a content of its own.
    Create,
    /// Listed by `ls -U`.
    List,
    /// Looked at, by its name.
    Stat,
    /// Given another name in the folder.
    Rename,
    /// Removed, and the folder after the last one.
    Remove,
}

impl Step {
    /// All of them in order.
    pub const ALL: [Self; 5] = [
        Self::Create,
        Self::List,
        Self::Stat,
        Self::Rename,
        Self::Remove,
    ];

    /// Returns a word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::List => "ls -U",
            Self::Stat => "stat",
            Self::Rename => "rename",
            Self::Remove => "rm",
        }
    }
}

/// A folder and how many files it is to have.
#[derive(Debug)]
pub struct ManyFiles {
    folder: PathBuf,
    count: u64,
}

impl ManyFiles {
    /// Returns a new folder, without files yet.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn new(folder: PathBuf, count: u64) -> Self {
        fs::create_dir(&folder).expect("a folder can be made");
        Self { folder, count }
    }

    /// Returns how many files it is to have.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Does one step with each file. What a step does beyond it to check the one before is not part
    /// of it: see [`check_after`](Self::check_after).
    ///
    /// # Panics
    ///
    /// Where a call fails, a file is missing or listed twice, or is not what it was.
    pub fn take(&self, step: Step) {
        match step {
            Step::Create => self.for_each(|number| {
                fs::write(self.before(number), content(number)).expect("a file can be made");
            }),
            Step::List => self.expect_listed("before "),
            Step::Stat => self.for_each(|number| {
                let found = fs::symlink_metadata(self.before(number)).expect("it is there");
                assert_eq!(found.len(), content(number).len() as u64, "file {number}");
            }),
            Step::Rename => self.for_each(|number| {
                fs::rename(self.before(number), self.after(number)).expect("it can be renamed");
            }),
            Step::Remove => {
                self.for_each(|number| {
                    fs::remove_file(self.after(number)).expect("it can be removed");
                });
                fs::remove_dir(&self.folder).expect("nothing is left in it");
            }
        }
    }

    /// Checks what a step left: after the renames each file is listed once, under its new name, and
    /// has its content.
    ///
    /// # Panics
    ///
    /// Where it is not so.
    pub fn check_after(&self, step: Step) {
        if step != Step::Rename {
            return;
        }
        self.expect_listed("after ");
        self.for_each(|number| {
            let read = fs::read_to_string(self.after(number)).expect("it can be read");
            assert_eq!(read, content(number));
        });
    }

    fn for_each(&self, body: impl Fn(u64)) {
        (0..self.count).for_each(body);
    }

    fn before(&self, number: u64) -> PathBuf {
        self.folder.join(format!("before {number}"))
    }

    fn after(&self, number: u64) -> PathBuf {
        self.folder.join(format!("after {number}"))
    }

    fn expect_listed(&self, prefix: &str) {
        let mut seen = vec![false; usize::try_from(self.count).expect("they fit in memory")];
        for name in list(&self.folder).lines() {
            let number: Option<usize> = name.strip_prefix(prefix).and_then(|n| n.parse().ok());
            match number.and_then(|number| seen.get_mut(number)) {
                Some(seen) if !*seen => *seen = true,
                Some(_) => panic!("{name:?} is listed twice"),
                None => panic!("{name:?} was never made"),
            }
        }
        let missing = seen.iter().position(|seen| !seen);
        assert_eq!(missing, None, "a file that is not listed");
    }
}

fn list(folder: &Path) -> String {
    Command::new("ls")
        .arg("-U")
        .arg(folder)
        .limit(Duration::from_secs(600))
        .ok()
}

fn content(number: u64) -> String {
    format!("the content of file {number}")
}
