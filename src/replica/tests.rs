//! Tests of the room over a simulated network under paused time.

pub(crate) mod net;

mod fetching;
mod holding;
mod pushing;
mod weather;
