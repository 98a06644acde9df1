//! dfs: a shared, encrypted drive without a server.
//!
//! The library is a house of rooms, listed here from top to bottom. A room imports only what
//! stands below it; `tests/it/tidy.rs` checks that. ARCHITECTURE.md has the map.

pub mod base;
pub mod cli;
pub mod crypto;
pub mod daemon;
pub mod data;
pub mod fs;
pub mod fuse;
pub mod kad;
pub mod locks;
pub mod log;
pub mod node;
pub mod replica;
pub mod store;
pub mod transport;
pub mod volume;
pub mod wire;
