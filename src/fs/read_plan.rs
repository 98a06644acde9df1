//! The answer to a read: at once where every byte is here, else a wait that holds no lock.

use std::time::Duration;

use bytes::Bytes;

use super::FsError;
use super::contents::Contents;
use super::layout::Span;
use crate::data::SMALL_READ_BYTES;

/// The answer to `Fs::read`.
#[derive(Debug)]
pub enum ReadPlan {
    /// The bytes, in order, in pieces; fewer than asked for only at the end of the file.
    Ready(Vec<Bytes>),
    /// Some bytes must be fetched: await [`PendingRead::complete`] on the runtime.
    Wait(PendingRead),
}

/// A read of which some bytes are not on this machine.
#[derive(Debug)]
pub struct PendingRead {
    contents: Contents,
    spans: Vec<Span>,
    limit: Duration,
}

impl PendingRead {
    pub(super) fn new(contents: Contents, spans: Vec<Span>, limit: Duration) -> Self {
        Self {
            contents,
            spans,
            limit,
        }
    }

    /// Returns the bytes of a read that needs no fetching.
    pub(super) fn ready(self) -> Vec<Bytes> {
        let mut pieces = Vec::with_capacity(self.spans.len());
        for span in self.spans {
            match span {
                Span::Bytes(bytes) => pieces.push(bytes),
                Span::Zeros(len) => push_zeros(&mut pieces, len),
                Span::Chunk { .. } => {}
            }
        }
        pieces
    }

    /// Resolves to the bytes, in order, in pieces.
    ///
    /// Fails with [`FsError::Unreachable`] or [`FsError::TimedOut`] where nothing of what it waits
    /// for has come for the configured time; nothing else is affected. The answer is never short: a short one would tell the kernel
    /// that the file ends there.
    pub async fn complete(self) -> Result<Vec<Bytes>, FsError> {
        let missing: Vec<_> = self
            .spans
            .iter()
            .filter_map(|span| match span {
                Span::Chunk { id, .. } => Some(*id),
                Span::Bytes(_) | Span::Zeros(_) => None,
            })
            .collect();
        // All at once; what follows waits for each in turn. A little of each comes alone.
        let len: u64 = self.spans.iter().map(Span::len).sum();
        if missing.len() > 1 && len > SMALL_READ_BYTES as u64 {
            self.contents.prefetch(&missing);
        }
        let mut pieces = Vec::with_capacity(self.spans.len());
        for span in self.spans {
            match span {
                Span::Bytes(bytes) => pieces.push(bytes),
                Span::Zeros(len) => push_zeros(&mut pieces, len),
                Span::Chunk { id, range } => {
                    pieces.push(self.contents.read(id, range, self.limit).await?);
                }
            }
        }
        Ok(pieces)
    }
}

fn push_zeros(pieces: &mut Vec<Bytes>, mut len: u64) {
    while len > 0 {
        let take = len.min(ZEROS.len() as u64);
        pieces.push(Bytes::from_static(&ZEROS).slice(..usize::try_from(take).unwrap_or(0)));
        len -= take;
    }
}

static ZEROS: [u8; 128 << 10] = [0; 128 << 10];
