//! The filesystem that a suite's results are compared with.

use std::path::{Path, PathBuf};

use crate::{Command, Scenario};

/// An ext4 in a file of the scenario's folder, mounted; the scenario takes it away.
#[derive(Debug)]
pub struct Ext4 {
    mountpoint: PathBuf,
}

impl Ext4 {
    /// Makes and mounts one of a size as truncate(1) takes it.
    ///
    /// # Panics
    ///
    /// Where the machine has no loop device to spare.
    pub fn new(scenario: &Scenario, size: &str) -> Self {
        let mountpoint = scenario.new_folder("ext4");
        let image = scenario.path("ext4.image");
        Command::new("truncate").args(["-s", size]).arg(&image).ok();
        Command::new("mkfs.ext4").arg("-q").arg(&image).ok();
        Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &mountpoint])
            .ok();
        Self { mountpoint }
    }

    /// Returns its mountpoint.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }
}
