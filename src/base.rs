//! Ids, sizes, time, chance, tasks and limits: what every room may name.
//!
//! Owns: [`id`] (newtypes of every identifier), [`time`] (the clock, stamps), [`rng`] (the source of
//! chance), [`task`] (how work is spawned), [`text`] (what may stand on a terminal), [`limits`] (every bound of the system with its
//! arithmetic), [`chunk_set`] (many chunks in little memory), [`marks`] (a filter of numbers), [`memory`] (how much caches may take), [`told`] (a value that many wait for), [`when`] (moments as people say them),
//! [`panics`] (what ended by a mistake, and nobody else tells of), [`variants`] (which numbers a type of messages knows), [`worker`] (what repeats in the background, and what is told of it). Must never know: anything else of this crate.
//!
//! The clock, the sleeps, the rng and the spawner live here and only here, so that a whole cluster
//! of peers runs in one thread under one seed; `clippy.toml` forbids their originals elsewhere.

pub mod chunk_set;
pub mod id;
pub mod limits;
pub mod marks;
pub mod memory;
pub mod panics;
pub mod rng;
#[cfg(test)]
pub(crate) mod stored;
pub mod task;
pub mod text;
pub mod time;
pub mod told;
pub mod variants;
pub mod waits;
pub mod when;
pub mod worker;

pub use chunk_set::ChunkSet;
pub use id::{ChunkId, DeviceId, Ino, LogId, OpId, PeerId, VolumeId};
pub use rng::Rng;
pub use time::{Clock, Stamp, Timespec};
