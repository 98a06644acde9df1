//! The embedded peer: sessions, requests, the roster, joining, log sync, discovery.
//!
//! Must never know: plaintext, names.

pub mod log;

pub use log::{Accepted, LogError, LogHead, LogStore};
