//! Every bound of the system in one place, each with its arithmetic.

use std::time::Duration;

/// Size of a chunk's plaintext and of the grid it lies on in a file's offset space.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// Files and fragments up to this many bytes live as inline rows and travel with their op.
pub const INLINE_MAX_BYTES: u64 = 16 << 10;

/// Longest name of a directory entry (NAME_MAX of Linux).
pub const NAME_MAX_BYTES: usize = 255;

/// Longest symlink target: PATH_MAX less the terminating NUL.
pub const SYMLINK_MAX_BYTES: usize = 4095;

/// Longest name of an extended attribute (XATTR_NAME_MAX).
pub const XATTR_NAME_MAX_BYTES: usize = 255;

/// Largest value of an extended attribute (XATTR_SIZE_MAX).
pub const XATTR_VALUE_MAX_BYTES: usize = 64 << 10;

/// Longest list of the names of a node's extended attributes (XATTR_LIST_MAX).
pub const XATTR_LIST_MAX_BYTES: usize = 64 << 10;

/// Largest file: what a signed 64-bit offset addresses.
pub const FILE_MAX_BYTES: u64 = i64::MAX as u64;

/// Most links of a file, as on ext4.
pub const LINK_MAX: u32 = 65_000;

/// Largest plaintext body of a segment; a bigger batch of ops is cut into several.
pub const SEGMENT_BODY_MAX_BYTES: usize = 1 << 20;

/// Most ops in one segment.
pub const SEGMENT_OPS_MAX: usize = 4096;

/// How long a draft op waits at most before it is sealed and pushed.
pub const DRAFT_AGE_MAX: Duration = Duration::from_secs(1);

/// Largest encoded message body on the wire. A reply with segments of
/// [`SEGMENT_BODY_MAX_BYTES`] fits with room for headers.
pub const MESSAGE_BODY_MAX_BYTES: usize = 4 << 20;

/// Largest raw payload behind a message: a batch of eight full sealed chunks.
pub const MESSAGE_PAYLOAD_MAX_BYTES: usize = 9 << 20;

/// How far the clock of a machine that is to become a member may be ahead or behind before it is refused, and
/// that of a member before it is told.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(600);

/// How far ops may be dated ahead of this machine's clock before their log waits, ten years: more than a
/// clock is wrong by that is to be believed, and little enough that stamps never run out.
pub const STAMP_AHEAD_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How far a clock may be ahead of the newest record of the chain before ops are not dated by it: less
/// than what others wait for.
pub const STAMP_BEYOND_RECORD_MAX: Duration = Duration::from_secs(9 * 365 * 86_400);

/// 2026-01-01, milliseconds since 1970: no record counts as made before.
pub const STAMPS_BEGIN_MS: u64 = 1_767_225_600_000;

/// How long a machine that nobody invited may ask to be admitted.
pub const ASKING_MAX: Duration = Duration::from_secs(3600);

/// How long one request to a peer may take, without its payload's transfer.
pub const RPC_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a read waits for a chunk of which no byte comes before it answers EIO.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a request waits for the one that writes to the volume: a hundred times the longest slice of
/// a merge. Beyond it the disk hangs, and the request fails.
pub const WRITER_WAIT_MAX: Duration = Duration::from_secs(20);

/// Copies of each chunk that are aimed for, this peer's own included.
pub const REPLICAS: usize = 3;

/// Default size of the plaintext cache in memory: two windows of readahead. What programs read again
/// is in the kernel's cache.
pub const MEMORY_CACHE_BYTES: u64 = 32 << 20;

/// Most inodes that the kernel is left with once it needs them no more. Each takes 33 bytes of a
/// table that is between a half and seven eighths full, and about 130 more where the file was open:
/// 50 MiB at the most, and twenty times as much of the kernel's memory.
pub const KERNEL_INODES_MAX: usize = 256 << 10;

/// Kademlia's k: contacts in a bucket, and peers that a lookup returns (Maymounkov 2002).
pub const K: usize = 20;

/// Kademlia's alpha: lookups in flight at once.
pub const ALPHA: usize = 3;

/// Default UDP port.
pub const DEFAULT_PORT: u16 = 4750;
