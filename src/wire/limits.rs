//! The greatest length of each list in a message, each with its arithmetic.

/// Longest name of a peer, in bytes: a host name label.
pub const NAME_MAX_BYTES: usize = 64;

/// Most addresses of a peer: IPv4 and IPv6 on four interfaces.
pub const ADDRS_MAX: usize = 8;

/// Most logs in a version vector: 18 bytes each at most, so 74 KiB.
pub const VECTOR_MAX: usize = 4096;

/// Most last segments that an admission names, of which none is in the past of another: 18 bytes each
/// at most, so that a statement has room for them.
pub const SHOWN_MAX: usize = 64;

/// Most roster statements in one message; at under a KiB each they stay within 1 MiB.
pub const STATEMENTS_MAX: usize = 1024;

/// Most bytes of statements that a sender puts into one message; the rest goes into the next.
pub const STATEMENTS_BATCH_BYTES: usize = 1 << 20;

/// Largest single roster statement: an identity is about 700 bytes.
pub const STATEMENT_MAX_BYTES: usize = 4 << 10;

/// Most segments in one message: small ones, as each costs its receiver a signature check (50 us).
pub const SEGMENTS_MAX: usize = 512;

/// Most bytes of segments that a sender puts into one message (but always one segment): two such
/// batches stay below the 4 MiB of a message body.
pub const SEGMENTS_BATCH_BYTES: usize = 2 << 20;

/// Most records of the commit chain in one message, and most bytes of them but that one always goes:
/// each costs its receiver a signature check for each voter.
pub const LINKS_MAX: usize = 256;
pub const LINKS_BATCH_BYTES: usize = 1 << 20;

/// Largest record with its certificate: 4,096 segments of 68 bytes each and its other lists.
pub const LINK_MAX_BYTES: usize = 385 << 10;

/// Largest letter between those who decide records, one with a record and its certificate; and most of
/// them in one message, with as many bytes as of records.
pub const LETTER_MAX_BYTES: usize = LINK_MAX_BYTES;
pub const LETTERS_MAX: usize = 16;

/// Largest word on a checkpoint, and most of them in one message: sixteen of each of 256 members, 1 MiB.
pub const CHECKPOINT_MAX_BYTES: usize = 256;
pub const CHECKPOINTS_MAX: usize = 4096;

/// Largest list of where logs go on behind a checkpoint: 16,384 of 112 bytes each.
pub const STARTS_MAX_BYTES: usize = 2 << 20;

/// Ranges of one file that a machine has locked, or wants, at a time, and logs that a grant names: 1,024
/// take 20 KiB.
pub const LOCK_RANGES_MAX: usize = 1024;
pub const LOCK_HEADS_MAX: usize = 1024;

/// Most that decide records.
pub const LOCK_VOTERS_MAX: usize = 3;

/// Most logs that an author says to have seen beyond the newest record that it had folded: 56 bytes
/// each, so 56 KiB.
pub const SEEN_MAX: usize = 1024;

/// Most ranges of logs asked for at once.
pub const WANTS_MAX: usize = 256;

/// Most chunks in one put: their bytes are bounded by the payload's limit first.
pub const CHUNKS_MAX: usize = 1024;

/// Most chunks asked about at once: 32 bytes each, 128 KiB.
pub const HAVE_MAX: usize = 4096;

/// Most node records in one message: Kademlia's k and some, each under 512 bytes.
pub const RECORDS_MAX: usize = 32;

/// Largest encoded node record.
pub const RECORD_MAX_BYTES: usize = 1024;

/// Largest set of volume keys wrapped for one new member: an RSA block and an AES-GCM envelope.
pub const WRAPPED_KEYS_MAX_BYTES: usize = 64 << 10;

/// Longest secret of an invite.
pub const SECRET_MAX_BYTES: usize = 64;

/// Most machines that ask to be admitted in one message, and as many denials: about 800 bytes each.
pub const ASKINGS_MAX: usize = 32;

/// Longest request whose answer may be fetched in pieces: the ranges of logs of a pull.
pub const PIECEWISE_MAX_BYTES: usize = 16 << 10;

/// Peers that a pulse names as having as much as the one that sends it.
pub const ALIKE_MAX: usize = 64;
