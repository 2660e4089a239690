//! `cargo xtask`: checks, measures and copies the examples.

mod bench;
mod copy;
mod examples;
mod harness;
mod host;
mod verify;

use std::io::{Write, stdout};
use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask verify [FILTER] [OPTION]...
       cargo xtask bench [FILTER | --write | --alternatives [--write]]
       cargo xtask copy [FILE DIR]
       cargo xtask host [NAME [ARG]...]

verify  Builds the examples and checks what they do. FILTER is an example or a part of a check's
        name; `verify --help` lists the options.
        VERIFY_SEED=N repeats the generated cases of a run. VERIFY_LOAD_SECONDS=N sets how long
        each load test of the cluster lasts. VERIFY_FAIL_FAST=1 stops at the first failure.
bench   Measures what the examples cost, in about five minutes.
copy    Copies a file into the package in DIR and adds the crates it needs. Without arguments, it
        lists the files.
host    Builds and runs a program of xtask/hosts, with the files copied into it. Without arguments,
        it lists the programs.";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let done = match args.next().as_deref() {
        Some("verify") => verify::main(args),
        Some("bench") => bench::main(args),
        Some("copy") => copy::main(args),
        Some("host") => host::main(args),
        Some("-h" | "--help") => {
            let _ = writeln!(stdout(), "{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::FAILURE)
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
