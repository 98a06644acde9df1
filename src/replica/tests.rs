//! Tests of the room over a simulated network under paused time.

pub(crate) mod net;

mod collecting;
mod fetching;
mod holding;
mod mending;
mod over_nodes;
mod pushing;
mod slow_lines;
mod weather;
