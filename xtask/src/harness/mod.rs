//! What the checks and the bench share: how they start programs, look at them, and talk to them.

#[path = "../../../exec-count/src/exec.rs"]
pub mod exec;
pub mod gate;
pub mod http;
#[path = "../../../fork-ipc/src/ipc.rs"]
pub mod ipc;
pub mod packages;
pub mod pipes;
pub mod processes;
pub mod programs;
pub mod run;
mod same;
pub mod server;
mod wait;

pub use same::same;
pub use wait::{LIMIT, block_on, takes_less_than, wait_for, wait_until};
