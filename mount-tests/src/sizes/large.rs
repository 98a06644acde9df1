//! A real file, larger than any cache, written and read block by block.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::source::pattern;

/// A file whose every page is known from a seed.
#[derive(Debug)]
pub struct LargeFile {
    path: PathBuf,
    blocks: u64,
    seed: u64,
    base: Vec<u8>,
}

impl LargeFile {
    /// Returns a file to be written at a path, of so many MiB.
    pub fn new(path: &Path, mib: u64, seed: u64) -> Self {
        Self {
            path: path.to_owned(),
            blocks: mib,
            seed,
            base: pattern(BLOCK, seed),
        }
    }

    /// Writes it from its start to its end, and fsyncs it.
    ///
    /// # Panics
    ///
    /// When the filesystem refuses.
    pub fn write(&self) {
        let mut file = File::create(&self.path).expect("a file can be made");
        let mut block = self.base.clone();
        for number in 0..self.blocks {
            self.stamp(&mut block, number);
            file.write_all(&block).expect("written");
        }
        file.sync_all().expect("synced");
    }

    /// Reads it and compares every byte.
    ///
    /// # Panics
    ///
    /// At the first block that is not as it was written.
    pub fn check(&self) {
        let mut file = File::open(&self.path).expect("it is there");
        let mut expected = self.base.clone();
        let mut read = vec![0; BLOCK];
        for number in 0..self.blocks {
            file.read_exact(&mut read)
                .unwrap_or_else(|error| panic!("MiB {number}: {error}"));
            self.stamp(&mut expected, number);
            if read != expected {
                let at = read.iter().zip(&expected).position(|(a, b)| a != b);
                panic!("MiB {number} differs from byte {at:?}, seed {}", self.seed);
            }
        }
        let more = file.read(&mut read).expect("read");
        assert_eq!(more, 0, "bytes behind the end");
    }

    /// Makes each page of a block say where it belongs, so that no two of them are equal: what is
    /// read from a wrong place, or from another run, is seen.
    fn stamp(&self, block: &mut [u8], number: u64) {
        for (page, bytes) in block.chunks_exact_mut(PAGE).enumerate() {
            let place = (number * (BLOCK / PAGE) as u64 + page as u64).to_le_bytes();
            bytes[..place.len()].copy_from_slice(&place);
        }
    }
}

const BLOCK: usize = 1 << 20;

const PAGE: usize = 4096;
