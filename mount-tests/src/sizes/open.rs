//! Many files open at once.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::source::pattern;

/// Files of a folder, all open; closed when dropped.
#[derive(Debug)]
pub struct OpenFiles {
    folder: PathBuf,
    files: Vec<File>,
}

impl OpenFiles {
    /// Makes a folder with so many files, each open for reading and writing and empty. Every fifth
    /// has no name any more.
    ///
    /// # Panics
    ///
    /// When the filesystem refuses one.
    pub fn open(folder: PathBuf, count: usize) -> Self {
        allow_descriptors(count as u64 + OTHER_DESCRIPTORS);
        fs::create_dir(&folder).expect("a folder can be made");
        let mut files = Vec::with_capacity(count);
        for number in 0..count {
            let path = folder.join(number.to_string());
            let file = OpenOptions::new()
                .create_new(true)
                .read(true)
                .write(true)
                .open(&path)
                .unwrap_or_else(|error| panic!("open file {number}: {error}"));
            if !has_name(number) {
                fs::remove_file(&path).expect("removed");
            }
            files.push(file);
        }
        Self { folder, files }
    }

    /// Writes to each of them, in two rounds, so that each is written while all are open.
    ///
    /// # Panics
    ///
    /// When a write fails.
    pub fn write(&self) {
        for half in [0..HALF, HALF..LEN] {
            for (number, file) in self.files.iter().enumerate() {
                let content = &content(number)[half.clone()];
                file.write_all_at(content, half.start as u64)
                    .expect("written");
            }
        }
    }

    /// Checks what each has by its descriptor.
    ///
    /// # Panics
    ///
    /// Where one is not as it was written.
    pub fn check(&self) {
        for (number, file) in self.files.iter().enumerate() {
            let mut read = vec![0; LEN];
            file.read_exact_at(&mut read, 0).expect("read");
            assert!(read == content(number), "open file {number}");
            assert_eq!(file.metadata().expect("it is open").len(), LEN as u64);
        }
    }

    /// Closes all and checks what is in those that have a name.
    ///
    /// # Panics
    ///
    /// Where one is not as it was written, or should not be there.
    pub fn close(self) {
        let Self { folder, files } = self;
        let count = files.len();
        drop(files);
        for number in (0..count).filter(|number| has_name(*number)) {
            let read = fs::read(folder.join(number.to_string())).expect("read");
            assert!(read == content(number), "closed file {number}");
        }
        let names = fs::read_dir(&folder).expect("listed").count();
        assert_eq!(names, (0..count).filter(|number| has_name(*number)).count());
    }
}

fn has_name(number: usize) -> bool {
    number % 5 != 4
}

fn content(number: usize) -> Vec<u8> {
    pattern(LEN, number as u64)
}

/// Raises this process's limit of descriptors to at least so many.
fn allow_descriptors(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    let at_least = |limit: Option<u64>| limit.map(|limit| limit.max(wanted));
    let raised = Rlimit {
        current: at_least(limit.current),
        maximum: at_least(limit.maximum),
    };
    setrlimit(Resource::Nofile, raised).expect("root may raise the limit");
}

/// Bytes of each file: inline data.
const LEN: usize = 600;

/// What the first round writes of each.
const HALF: usize = LEN / 2;

/// What this process has open besides.
const OTHER_DESCRIPTORS: u64 = 200;
