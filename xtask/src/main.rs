//! `cargo xtask`: runs, checks and measures the examples.

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask verify [FILTER] [OPTION]...
       cargo xtask bench [FILTER] [--json | --write]

verify  builds the examples and checks what they do; `verify --help` tells more.
        VERIFY_SEED=N repeats the generated cases of a run, VERIFY_STORM_SECONDS=N
        makes each storm over the cluster last so long.
bench   measures what they cost, in under three minutes.
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("verify") => xtask::verify::main(args),
        Some("bench") => xtask::bench::main(args),
        // The bare programs that the bench compares with.
        Some("peer") => xtask::bench::peer_main(args),
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
