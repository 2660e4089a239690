//! `cargo xtask`: runs, checks and measures the examples.

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask verify [FILTER] [OPTION]...

verify  builds the examples and checks what they do; `verify --help` tells more
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("verify") => xtask::verify::main(args),
        Some("--help") => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprint!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}
