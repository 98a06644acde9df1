//! Composition: configuration -> objects -> run -> ordered shutdown, and the control socket.
//!
//! Owns: [`Config`] and what is made of it ([`peer`]), the life of a daemon ([`run`]), the
//! control socket's protocol ([`control`]) and server, the reports it answers with ([`report`]).
//! It is the only room that knows all others below `cli`; it decides nothing that a room below
//! could decide.

pub mod control;
pub mod peer;
pub mod report;
pub mod troubles;

mod addresses;
mod asking;
mod birth;
mod checkpoints;
mod config;
mod conflicts;
mod ending;
mod epochs;
mod error;
mod facts;
mod history;
mod locate;
mod logging;
mod look;
mod members;
mod notify;
mod order;
mod past;
mod place;
mod protection;
mod repair;
mod rescue;
mod restore_to;
mod rights;
mod room;
mod run;
mod server;
mod settings;
mod snapshots;
mod sums;
mod waiting;
mod whereabouts;
mod workers;

pub use crate::crypto::PHRASE_WORDS;
pub use crate::node::Schedule;
pub use asking::Starter;
pub use config::{Config, Fsync, default_state_base, default_state_dir};
pub use ending::{await_end, await_exit, is_held};
pub use error::DaemonError;
pub use locate::{Located, STATE_XATTR, dead_mount, locate, path_to_hex};
pub use logging::log_path;
pub use repair::{Repaired, repair};
pub use run::{MountCall, Started, check_mount, run_mount, run_node};
