//! What is asked of the kernel when a mount begins.

use fuser::{InitFlags, KernelConfig};

/// Asks for each capability that the kernel knows, and for large requests.
pub(super) fn negotiate(config: &mut KernelConfig) {
    for capability in CAPABILITIES {
        if let Err(missing) = config.add_capabilities(capability) {
            tracing::debug!(?missing, "the kernel lacks a capability");
        }
    }
    // Each setter refuses by naming the largest value that it takes.
    if let Err(largest) = config.set_max_write(WRITE_MAX_BYTES) {
        let _ = config.set_max_write(largest);
    }
    if let Err(largest) = config.set_max_readahead(WRITE_MAX_BYTES) {
        let _ = config.set_max_readahead(largest);
    }
    let _ = config.set_max_background(BACKGROUND_MAX);
}

/// Largest write that one request carries; the kernel's own limit.
const WRITE_MAX_BYTES: u32 = 1 << 20;

/// Reads ahead and asynchronous requests that the kernel keeps in flight.
const BACKGROUND_MAX: u16 = 64;

/// What is asked of the kernel, each where it knows it; the rest is as fuser sets it.
///
/// Not among them, on purpose: WRITEBACK_CACHE (the kernel would trust its own size and times and
/// not show a change of another peer), DO_READDIRPLUS (forced, a plain `ls` is ten times slower),
/// AUTO_INVAL_DATA (every own write would drop the page cache by its new mtime; content changed
/// elsewhere is told by notices, as EXPLICIT_INVAL_DATA promises).
const CAPABILITIES: [InitFlags; 14] = [
    InitFlags::FUSE_ASYNC_DIO,
    // Locks are asked for here, so that other machines hear of them.
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // Both: the kernel ignores AUTO alone.
    InitFlags::FUSE_DO_READDIRPLUS.union(InitFlags::FUSE_READDIRPLUS_AUTO),
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_POSIX_ACL,
    // Version 2 lets the kernel remember that a file has no capabilities; without it each write
    // is preceded by a getxattr. Its flag of setattr does not reach us, see `setattr`.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_EXPORT_SUPPORT,
    // Shared mappings of files that are opened past the page cache (`-o direct_io`).
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    // Bind mounts with mapped owners (podman, Incus). From then on only what makes a node says who
    // asks; of the others `fs` finds out where it matters.
    InitFlags::FUSE_ALLOW_IDMAP,
];
