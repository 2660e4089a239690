//! What `cargo xtask` does with the examples. The checks are a library, so that `cargo test`
//! runs them too.

pub mod bench;
mod procfs;
pub mod programs;
pub mod verify;
