//! `cargo test` runs what `cargo xtask verify` runs.

use std::env::args_os;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut verify = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let status = verify.arg("verify").args(args_os().skip(1)).status();
    match status.is_ok_and(|status| status.success()) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
