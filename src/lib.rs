//! dfs: a shared, encrypted drive without a server.
//!
//! The library is a house of rooms, listed here from top to bottom. A room imports only what
//! stands below it; `tests/it/tidy.rs` checks that. ARCHITECTURE.md has the map.

pub mod cli;
pub mod daemon;
pub mod fuse;
pub mod fs;
pub mod volume;
pub mod data;
pub mod replica;
pub mod node;
pub mod kad;
pub mod transport;
pub mod wire;
pub mod store;
pub mod crypto;
pub mod base;
