//! The laws of the volume: what becomes of ops that crossed, and that every device agrees.
//!
//! The oracle is a device that gets all logs at once: it folds every op in the total order and
//! undoes nothing. Each other device, however its ops and segments came in, must hold the same rows.

mod anew;
mod attributes;
mod beside;
mod chains;
mod checkpoints;
pub(crate) mod cluster;
mod content;
mod crossed;
mod cuts;
mod equal;
mod history;
mod joined;
mod large;
mod listed;
mod logs;
mod names;
mod newer;
mod random;
mod rebuilt;
mod records;
mod removal;
mod replaced;
mod several;
mod snapshots;
mod sums;
mod times;
mod tree;
mod unseen;
