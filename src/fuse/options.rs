//! What a mount is asked for: the options of `-o`, as mount(8), fstab and systemd write them.

use std::path::PathBuf;

use super::FuseError;
use crate::base::limits::KERNEL_INODES_MAX;

/// Who besides the mounting user may use the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AllowOther {
    /// Everybody where that is permitted (root, or `user_allow_other` in /etc/fuse.conf), else
    /// the mounting user alone. File modes decide as on any filesystem.
    #[default]
    WherePermitted,
    /// Everybody; an error where that is not permitted (`-o allow_other`).
    Yes,
    /// The mounting user alone (`-o noallow_other`).
    No,
}

/// What [`mount`](super::mount) needs to know.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// The folder that becomes the root of the volume.
    pub mountpoint: PathBuf,
    /// What `df` and /proc/mounts show as the source.
    pub fsname: String,
    /// Who besides the mounting user may use the mount.
    pub allow_other: AllowOther,
    /// Whether the kernel refuses every change with EROFS.
    pub read_only: bool,
    /// The mount shows what is left of a damaged state folder.
    pub rescue: bool,
    /// Whether setuid bits count at execution; off unless asked for, since other members write
    /// files here. Only root may ask.
    pub suid: bool,
    /// Whether device nodes can be opened; off unless asked for, as for `suid`.
    pub dev: bool,
    /// Whether files can be executed.
    pub exec: bool,
    /// Whether a mountpoint that holds files may be covered (`-o nonempty`).
    pub nonempty: bool,
    /// Whether the kernel keeps no pages of files: each read and write comes here (`-o direct_io`).
    pub direct_io: bool,
    /// Whether inode numbers and positions in directories have 63 bits (`-o ino64`), which 32-bit
    /// programs without large-file support cannot hold; else 32 and 31.
    pub ino64: bool,
    /// Changes the flags of the mount that is there, and makes none (`-o remount`, which mount(8)
    /// passes on): for [`remount`](super::remount).
    pub remount: bool,
    /// Most inodes that the kernel is left with once it needs them no more (`-o kept_inodes=N`).
    pub kept_inodes: usize,
    /// Whether locks fail where no machine grants them (`-o locks=strict`); else they hold on this machine
    /// alone then.
    pub strict_locks: bool,
    /// Threads that read requests at a time (`-o threads=N`); `None` follows the cores.
    pub threads: Option<usize>,
}

impl MountOptions {
    /// Returns the defaults for a mountpoint.
    pub fn new(mountpoint: impl Into<PathBuf>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            fsname: "dfs".to_owned(),
            allow_other: AllowOther::default(),
            read_only: false,
            rescue: false,
            suid: false,
            dev: false,
            exec: true,
            nonempty: false,
            direct_io: false,
            ino64: false,
            remount: false,
            kept_inodes: KERNEL_INODES_MAX,
            strict_locks: false,
            threads: None,
        }
    }

    /// Takes the comma-separated options of one `-o` on board.
    ///
    /// Options that mount(8), fstab(5) and systemd address to themselves (`noauto`, `_netdev`,
    /// `x-...`) are accepted and mean nothing here. An unknown one is
    /// [`FuseError::UnknownOption`], so that a typing error does not pass for a setting.
    pub fn parse(&mut self, options: &str) -> Result<(), FuseError> {
        for option in options.split(',').filter(|option| !option.is_empty()) {
            self.parse_one(option)?;
        }
        Ok(())
    }

    /// Takes one option on board, in which a comma means nothing.
    ///
    /// As [`Self::parse`] where it is unknown.
    pub fn parse_one(&mut self, option: &str) -> Result<(), FuseError> {
        let unknown = || FuseError::UnknownOption {
            option: option.to_owned(),
        };
        if let Some((key, value)) = option.split_once('=') {
            match key {
                "fsname" => value.clone_into(&mut self.fsname),
                "threads" => self.threads = Some(parse_threads(value).ok_or_else(unknown)?),
                "kept_inodes" => self.kept_inodes = value.parse().map_err(|_| unknown())?,
                "locks" if value == "strict" => self.strict_locks = true,
                "locks" if value == "available" => self.strict_locks = false,
                // The subtype is part of what makes a mount one of ours.
                "subtype" if value == SUBTYPE => {}
                // As the kernel shows them and mount(8) hands them back at a remount.
                "user_id" | "group_id" | "max_read" if value.parse::<u32>().is_ok() => {}
                _ if key.starts_with("x-") || key == "comment" => {}
                _ => return Err(unknown()),
            }
            return Ok(());
        }
        match option {
            "ro" => self.read_only = true,
            "rescue" => {
                self.rescue = true;
                self.read_only = true;
            }
            "rw" => self.read_only = false,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "exec" => self.exec = true,
            "noexec" => self.exec = false,
            "nonempty" => self.nonempty = true,
            "direct_io" => self.direct_io = true,
            "ino64" => self.ino64 = true,
            "remount" => self.remount = true,
            "allow_other" => self.allow_other = AllowOther::Yes,
            "noallow_other" => self.allow_other = AllowOther::No,
            // Always on, or of no consequence, or meant for mount(8) and systemd.
            "default_permissions"
            | "defaults"
            | "auto"
            | "noauto"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "nofail"
            | "_netdev"
            | "async"
            | "atime"
            | "noatime"
            | "relatime"
            | "norelatime"
            | "strictatime"
            | "diratime"
            | "nodiratime" => {}
            _ if option.starts_with("x-") => {}
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// Returns how many threads read requests at a time.
    ///
    /// On two cores one thread answers metadata faster than two (the kernel's wake-ups cost more
    /// than the second thread brings); beyond that half of the cores, the others are for the
    /// programs that ask.
    pub(super) fn thread_count(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let fitting = match cores {
            0..=2 => 1,
            _ => (cores / 2).min(THREADS_MAX),
        };
        self.threads.unwrap_or(fitting)
    }
}

/// The type of our mounts in /proc/mounts is `fuse.` and this: the program that mount(8) calls for
/// a line of fstab with that type, and for a remount.
pub(super) const SUBTYPE: &str = "dfs-mount";

/// Beyond this the kernel's one queue of requests is the bottleneck.
const THREADS_MAX: usize = 8;

fn parse_threads(value: &str) -> Option<usize> {
    value
        .parse()
        .ok()
        .filter(|threads| (1..=64).contains(threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &str) -> Result<MountOptions, FuseError> {
        let mut parsed = MountOptions::new("/mnt");
        parsed.parse(options)?;
        Ok(parsed)
    }

    #[test]
    fn options_of_fstab_are_understood_or_passed_over() {
        let options = parsed("ro,suid,dev,noexec,_netdev,x-systemd.automount,fsname=a b").unwrap();
        assert!(options.read_only && options.suid && options.dev && !options.exec);
        assert_eq!(options.fsname, "a b");
        assert_eq!(options.allow_other, AllowOther::WherePermitted);
        let options = parsed("defaults,ro,rw,allow_other,threads=3,,").unwrap();
        assert!(!options.read_only && !options.suid && options.exec && !options.direct_io);
        assert!(parsed("direct_io").unwrap().direct_io);
        assert!(!options.ino64 && parsed("ino64").unwrap().ino64);
        assert_eq!(options.kept_inodes, KERNEL_INODES_MAX);
        assert_eq!(parsed("kept_inodes=9").unwrap().kept_inodes, 9);
        assert_eq!(options.allow_other, AllowOther::Yes);
        assert_eq!(options.thread_count(), 3);
        assert!(!options.strict_locks && parsed("locks=strict").unwrap().strict_locks);
        assert!(parsed("locks=some").is_err() && parsed("locks=available").is_ok());
    }

    #[test]
    fn a_remount_as_mount8_passes_it_on_is_understood() {
        let options = parsed(
            "ro,nosuid,nodev,relatime,remount,noexec,user_id=0,group_id=0,default_permissions,\
             allow_other",
        );
        let options = options.unwrap();
        assert!(options.remount && options.read_only && !options.exec && !options.suid);
    }

    #[test]
    fn an_unknown_option_is_named() {
        for wrong in [
            "rwx",
            "threads=0",
            "threads=x",
            "kept_inodes=-1",
            "subtype=ext4",
            "uid=0",
            "user_id=me",
        ] {
            let error = parsed(&format!("rw,{wrong}")).unwrap_err();
            assert!(matches!(error, FuseError::UnknownOption { option } if option == wrong));
        }
    }
}
