//! The integration tests of the library, one binary: each module is one rung of the ladder.

mod fs_model;
mod node_join;
mod power_cut;
mod sim;
mod store_copy;
mod store_crash;
mod store_damage;
mod tidy;
mod volume_laws;
mod wire_decode;
