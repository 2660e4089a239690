//! The checks of `cargo xtask verify`, under `cargo test`.

fn main() -> std::process::ExitCode {
    xtask::verify::main(std::env::args().skip(1))
}
