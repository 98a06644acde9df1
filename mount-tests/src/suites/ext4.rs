//! The filesystem that a suite's results are compared with.

use std::path::{Path, PathBuf};

use crate::{Command, Scenario};

/// An ext4 in a file of the scenario's folder, mounted; the scenario takes it away.
#[derive(Debug)]
pub struct Ext4 {
    mountpoint: PathBuf,
    image: PathBuf,
    options: &'static str,
}

impl Ext4 {
    /// Makes and mounts one of a size as truncate(1) takes it.
    ///
    /// # Panics
    ///
    /// Where the machine has no loop device to spare.
    pub fn new(scenario: &Scenario, size: &str) -> Self {
        Self::with_options(scenario, size, "loop")
    }

    /// Makes one as [`Ext4::new`] does and mounts it with these options of mount(8).
    ///
    /// # Panics
    ///
    /// Where the machine has no loop device to spare.
    pub fn with_options(scenario: &Scenario, size: &str, options: &'static str) -> Self {
        let mountpoint = scenario.new_folder("ext4");
        let image = scenario.path("ext4.image");
        Command::new("truncate").args(["-s", size]).arg(&image).ok();
        Command::new("mkfs.ext4").arg("-q").arg(&image).ok();
        let ext4 = Self {
            mountpoint,
            image,
            options,
        };
        ext4.mount();
        ext4
    }

    /// Unmounts it and mounts it again, with nothing in any cache.
    ///
    /// # Panics
    ///
    /// Where it is in use.
    pub fn remount(&self) {
        self.unmount();
        self.mount();
    }

    /// Takes its mount away.
    ///
    /// # Panics
    ///
    /// Where it is in use.
    pub fn unmount(&self) {
        Command::new("umount").arg(&self.mountpoint).ok();
    }

    fn mount(&self) {
        Command::new("mount")
            .args(["-o", self.options])
            .args([&self.image, &self.mountpoint])
            .ok();
    }

    /// Returns its mountpoint.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }
}
