//! Suites that others wrote, as far as short tests and long runs share them, and ext4 beside them.

mod ext4;

pub use ext4::Ext4;
