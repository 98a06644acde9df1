//! The same calls in a mount and on ext4, side by side: a program must not be able to tell them
//! apart.
//!
//! A body makes calls in a folder and notes what came of each. It runs on ext4 and in the mount of
//! a volume with three live peers; the notes must be equal, line by line. So the oracle of a test is
//! the kernel's own filesystem, and a body says nothing but which calls are made. What ext4 does
//! differently for a reason of its own is asserted by the body itself.

use std::fmt::{Debug, Display};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::suites::Ext4;
use crate::{Trio, scenario};

/// Runs `body` on ext4 and in a mount, and compares what it noted.
///
/// # Panics
///
/// When the body does, and when the notes differ, with each difference.
pub fn beside(name: &str, body: impl Fn(&mut Side<'_>)) {
    scenario(name, Duration::from_secs(300), |s| {
        // As a mount of dfs is, unless asked otherwise.
        let ext4 = Ext4::with_options(s, "4G", "loop,nosuid,nodev");
        let reference = notes_of(
            &ext4.path().join("here"),
            false,
            &mut || ext4.remount(),
            &body,
        );
        ext4.unmount();

        let mut trio = Trio::start(s);
        let root = trio.a.path("here");
        let mut again = || {
            trio.a.unmount();
            trio.a.restart();
        };
        let ours = notes_of(&root, true, &mut again, &body);
        let differences: Vec<_> = differences(&reference, &ours);
        assert!(
            differences.is_empty(),
            "what was noted differs from ext4:\n{}",
            differences.join("\n")
        );
    });
}

fn notes_of(
    root: &Path,
    is_dfs: bool,
    again: &mut dyn FnMut(),
    body: &impl Fn(&mut Side<'_>),
) -> Vec<String> {
    std::fs::create_dir(root).expect("a folder can be made");
    let mut side = Side {
        root: root.to_owned(),
        is_dfs,
        notes: Vec::new(),
        again,
    };
    body(&mut side);
    side.notes
}

/// Returns the notes that only one side has, in order: those outside of a longest common
/// subsequence.
fn differences(reference: &[String], ours: &[String]) -> Vec<String> {
    // common[i][j]: how many notes the rests from i and j have in common.
    let mut common = vec![vec![0usize; ours.len() + 1]; reference.len() + 1];
    for (i, expected) in reference.iter().enumerate().rev() {
        for (j, found) in ours.iter().enumerate().rev() {
            common[i][j] = if expected == found {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < reference.len() || j < ours.len() {
        match (reference.get(i), ours.get(j)) {
            (Some(expected), Some(found)) if expected == found => (i, j) = (i + 1, j + 1),
            (Some(expected), found) if found.is_none() || common[i + 1][j] >= common[i][j + 1] => {
                lines.push(format!("  ext4  {}", cut(expected)));
                i += 1;
            }
            (_, Some(found)) => {
                lines.push(format!("  dfs   {}", cut(found)));
                j += 1;
            }
            (_, None) => break,
        }
    }
    lines
}

fn cut(note: &str) -> String {
    match note.char_indices().nth(NOTE_CHARS_SHOWN) {
        Some((end, _)) => format!("{}...", &note[..end]),
        None => note.to_owned(),
    }
}

/// What a difference shows of a note.
const NOTE_CHARS_SHOWN: usize = 400;

/// One of the two filesystems, and what was noted there.
pub struct Side<'a> {
    root: PathBuf,
    is_dfs: bool,
    notes: Vec<String>,
    again: &'a mut dyn FnMut(),
}

impl Debug for Side<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl Side<'_> {
    /// Returns the folder to work in, empty at first.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns a path in that folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// Makes a folder and returns its path.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).expect("a folder can be made");
        path
    }

    /// Makes a file with a content and returns its path.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("a file can be written");
        path
    }

    /// Returns whether this is the mount, for what ext4 does in its own way.
    pub fn is_dfs(&self) -> bool {
        self.is_dfs
    }

    /// Notes what came of a call.
    pub fn note(&mut self, what: impl Display, outcome: impl Debug) {
        let root = self.root.display().to_string();
        let note = format!("{what}: {outcome:?}");
        self.notes.push(note.replace(&root, "HERE"));
    }

    /// Unmounts and mounts again: what is in no cache.
    pub fn remount(&mut self) {
        (self.again)();
    }
}
