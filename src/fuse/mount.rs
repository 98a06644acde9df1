//! From options to an open connection with the kernel: mount(2) as root, fusermount3 as a user.
//!
//! The connection is made here and handed to fuser, which then neither mounts nor unmounts: its
//! own unmount takes a connection that has ended for one that lives, and would take away whatever
//! was mounted at the same place since.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{getegid, geteuid};

use super::FuseError;
use super::mountpoint::{find_helper, find_ours, first_line, mounted_at, prepare};
use super::options::{AllowOther, MountOptions, SUBTYPE};

/// A mountpoint that is fit and a machine that can mount: what [`super::mount`] starts from.
///
/// Made before anything else of a start, so that a start that cannot end in a mount changes
/// nothing.
#[derive(Debug)]
pub struct Prepared {
    pub(super) options: MountOptions,
    /// Absolute and without links, so that it can be found in the kernel's tables.
    pub(super) mountpoint: PathBuf,
    allow_other: bool,
}

impl Prepared {
    /// Checks the mountpoint and the machine; takes a dead mount of ours away.
    ///
    /// Each obstacle is its own [`FuseError`] with a text for the user.
    pub fn new(options: MountOptions) -> Result<Self, FuseError> {
        let mountpoint = prepare(&options.mountpoint, options.nonempty)?;
        if !Path::new(DEVICE).exists() {
            return Err(FuseError::DeviceMissing);
        }
        let is_root = geteuid().is_root();
        if !is_root && find_helper().is_none() {
            return Err(FuseError::HelperMissing);
        }
        if !is_root && (options.suid || options.dev) {
            return Err(FuseError::OnlyRoot {
                option: if options.suid { "suid" } else { "dev" },
            });
        }
        let permitted = is_root || user_allow_other();
        let allow_other = match options.allow_other {
            AllowOther::WherePermitted => permitted,
            AllowOther::Yes if !permitted => return Err(FuseError::AllowOtherNotPermitted),
            AllowOther::Yes => true,
            AllowOther::No => false,
        };
        Ok(Self {
            options,
            mountpoint,
            allow_other,
        })
    }

    /// Returns the mountpoint as an absolute path without links.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Tells whether what is left of a damaged state folder is to be shown.
    pub fn is_rescue(&self) -> bool {
        self.options.rescue
    }

    /// Makes the mount and returns the connection; the kernel's INIT request waits in it.
    pub(super) fn connect(&self) -> Result<OwnedFd, FuseError> {
        match self.connect_directly() {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => self.connect_by_helper(),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.connect_by_helper()
            }
            result => result.map_err(|source| FuseError::Io {
                what: "mount",
                path: self.mountpoint.clone(),
                source,
            }),
        }
    }

    fn connect_directly(&self) -> io::Result<OwnedFd> {
        let device: OwnedFd = OpenOptions::new()
            .read(true)
            .write(true)
            .open(DEVICE)?
            .into();
        let root_mode = std::fs::metadata(&self.mountpoint)?.permissions().mode();
        let mut data = format!(
            "fd={},rootmode={root_mode:o},user_id={},group_id={},default_permissions",
            device.as_raw_fd(),
            geteuid().as_raw(),
            getegid().as_raw(),
        );
        if self.allow_other {
            data.push_str(",allow_other");
        }
        // The type carries the subtype, which is how a dead mount is known as ours later.
        rustix::mount::mount(
            self.options.fsname.as_str(),
            &self.mountpoint,
            format!("fuse.{SUBTYPE}"),
            flags(&self.options),
            CString::new(data)?.as_c_str(),
        )?;
        Ok(device)
    }

    /// Lets fusermount3 mount: it opens the device and sends it back over its standard input,
    /// a socket named in the environment.
    fn connect_by_helper(&self) -> Result<OwnedFd, FuseError> {
        let helper = find_helper().ok_or(FuseError::HelperMissing)?;
        let failed = |source| FuseError::Io {
            what: "mount",
            path: self.mountpoint.clone(),
            source,
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let child = Command::new(helper)
            .arg("-o")
            .arg(self.helper_options())
            .arg("--")
            .arg(&self.mountpoint)
            .env("_FUSE_COMMFD", "0")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let received = receive_fd(&ours);
        let output = child.wait_with_output().map_err(failed)?;
        received.map_err(|_| FuseError::Refused {
            path: self.mountpoint.clone(),
            reason: first_line(&String::from_utf8_lossy(&output.stderr)),
        })
    }

    fn helper_options(&self) -> String {
        // fusermount3 splits at commas that no backslash protects.
        let fsname = self
            .options
            .fsname
            .replace('\\', "\\\\")
            .replace(',', "\\,");
        let mut options = format!("fsname={fsname},subtype={SUBTYPE},default_permissions");
        for (wanted, option) in [
            (self.allow_other, ",allow_other"),
            (self.options.read_only, ",ro"),
            (!self.options.exec, ",noexec"),
            (self.options.suid, ",suid"),
            (self.options.dev, ",dev"),
        ] {
            if wanted {
                options.push_str(option);
            }
        }
        options
    }
}

/// Changes read-only, noexec, nosuid and nodev of the mount that is there, for everybody at once.
///
/// Asks no daemon. [`FuseError::NotMounted`] where no mount of ours is there,
/// [`FuseError::OnlyRoot`] for a user who is not root.
pub fn remount(options: &MountOptions) -> Result<(), FuseError> {
    let path = find_ours(&options.mountpoint)?;
    match rustix::mount::mount_remount(&path, flags(options), c"") {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => Err(FuseError::OnlyRoot { option: "remount" }),
        // Somebody writes.
        Err(Errno::BUSY) => Err(FuseError::Busy { path }),
        Err(error) => Err(FuseError::Io {
            what: "remount",
            path,
            source: error.into(),
        }),
    }
}

fn flags(options: &MountOptions) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NODEV, !options.dev);
    flags.set(MountFlags::NOEXEC, !options.exec);
    flags.set(MountFlags::RDONLY, options.read_only);
    flags
}

/// Receives one descriptor over a socket.
fn receive_fd(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut byte)];
        recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Returns the `major:minor` of the mount that was just made at `mountpoint`.
pub(super) fn device_of(mountpoint: &Path) -> Option<String> {
    Some(mounted_at(mountpoint).ok()?.pop()?.device)
}

/// Raises the kernel's readahead for a mount; only root may, and where it cannot be done reads
/// are a third slower and that is all.
pub(super) fn raise_readahead(device: &str) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%path, %error, "readahead stays as the kernel chose it");
    }
}

const DEVICE: &str = "/dev/fuse";

/// One request of the largest size the kernel sends (max_write), and one ahead of it.
const READ_AHEAD_KIB: u32 = 2048;

fn user_allow_other() -> bool {
    std::fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_sends_no_descriptor_is_noticed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(receive_fd(&ours).is_err());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        io::Write::write_all(&mut theirs, b"x").unwrap();
        assert!(receive_fd(&ours).is_err());
    }
}
