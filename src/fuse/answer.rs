//! From the outcome of an operation to the answer that the kernel gets.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use fuser::{
    Errno, Generation, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyWrite,
    ReplyXattr,
};

use super::convert::file_attr;
use super::errno::{errno, is_ordinary};
use super::numbers::{Numbers, Shown};
use crate::fs::{Attributes, Entry, Fs, FsError};

/// Runs an operation; a panic in it fails this operation alone.
pub(super) fn run<T>(
    fs: &Fs,
    what: &'static str,
    operation: impl FnOnce(&Fs) -> Result<T, FsError>,
) -> Result<T, Errno> {
    match catch_unwind(AssertUnwindSafe(|| operation(fs))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failure(what, &error)),
        Err(_) => {
            tracing::error!(what, "the handler panicked");
            Err(Errno::EIO)
        }
    }
}

/// Returns the errno of an error, and notes in the log what is not ordinary.
pub(super) fn failure(what: &'static str, error: &FsError) -> Errno {
    if is_ordinary(error) {
        tracing::trace!(what, %error);
    } else {
        tracing::warn!(what, %error, "an operation failed");
    }
    errno(error)
}

/// Answers that it is done.
pub(super) fn answer(reply: ReplyEmpty, outcome: Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with attributes.
pub(super) fn answer_attr(
    numbers: &Numbers,
    reply: ReplyAttr,
    outcome: Result<&Attributes, Errno>,
) {
    match outcome {
        Ok(found) => {
            let number = numbers.shown(found.attr.ino, Shown::of(&found.attr));
            reply.attr(&found.ttl, &file_attr(number, &found.attr));
        }
        Err(errno) => reply.error(errno),
    }
}

/// Answers with an entry.
pub(super) fn answer_entry(numbers: &Numbers, reply: ReplyEntry, outcome: Result<Entry, Errno>) {
    answer_shown(numbers, reply, outcome, |entry| Shown::of(&entry.attr));
}

/// Answers with the entry of a directory that was made.
pub(super) fn answer_new_dir(numbers: &Numbers, reply: ReplyEntry, outcome: Result<Entry, Errno>) {
    answer_shown(numbers, reply, outcome, |_| Shown::New);
}

fn answer_shown(
    numbers: &Numbers,
    reply: ReplyEntry,
    outcome: Result<Entry, Errno>,
    shown: impl FnOnce(&Entry) -> Shown,
) {
    match outcome {
        Ok(entry) => {
            let (number, generation) = numbers.looked_up(&entry, shown(&entry));
            reply.entry_with_ttls(
                &entry.attr_ttl,
                &entry.entry_ttl,
                &file_attr(number, &entry.attr),
                Generation(generation),
            );
        }
        Err(errno) => reply.error(errno),
    }
}

/// Answers with bytes.
pub(super) fn answer_data(reply: ReplyData, pieces: &[Bytes]) {
    match pieces {
        [] => reply.data(&[]),
        [piece] => reply.data(piece),
        pieces => reply.data(&pieces.concat()),
    }
}

/// Answers with how much was written.
pub(super) fn answer_written(reply: ReplyWrite, outcome: Result<usize, Errno>) {
    match outcome.map(u32::try_from) {
        Ok(Ok(written)) => reply.written(written),
        // No request is as large as 4 GiB.
        Ok(Err(_)) => reply.error(Errno::EIO),
        Err(errno) => reply.error(errno),
    }
}

/// Answers with an offset.
pub(super) fn answer_offset(reply: ReplyLseek, outcome: Result<u64, Errno>) {
    match outcome.map(i64::try_from) {
        Ok(Ok(offset)) => reply.offset(offset),
        Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
        Err(errno) => reply.error(errno),
    }
}

/// Answers for a value of which the caller first asks the size (`room` 0) and then the bytes.
pub(super) fn answer_xattr(reply: ReplyXattr, room: u32, outcome: Result<impl AsRef<[u8]>, Errno>) {
    let value = match outcome {
        Ok(value) => value,
        Err(errno) => return reply.error(errno),
    };
    let value = value.as_ref();
    match u32::try_from(value.len()) {
        Ok(len) if room == 0 => reply.size(len),
        Ok(len) if len <= room => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}
