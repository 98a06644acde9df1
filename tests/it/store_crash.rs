//! The store against crashes: the chunk files on a model disk that loses power at every step, the
//! rows by damaging what was never synced, and a real process that is killed.

mod buffered;
mod chunks;
mod disk;
mod killed;
pub(crate) mod rows;
