//! Node's `console`, and how the program starts and ends.

use std::{env, fmt::Display, io, os::fd::AsFd, process::ExitCode};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::write;
use tokio::signal::unix::{SignalKind, signal};

const NAME: &str = env!("CARGO_PKG_NAME");

/// Writes a line to stdout: Node's `console.log()`.
///
/// The line is lost if it cannot be written at once, for instance because the disk is full or the
/// reader is slow. The service goes on.
pub fn log(line: impl Display) {
    write_line(io::stdout(), line);
}

/// Writes a line to stderr, with the program's name first: Node's `console.error()`. The line is
/// lost in the same cases.
pub fn error(line: impl Display) {
    write_line(io::stderr(), format_args!("{NAME}: {line}"));
}

/// Writes the line with one `write` if possible, so that the lines of several processes do not mix.
fn write_line(out: impl AsFd, line: impl Display) {
    let mut room = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut room, PollTimeout::ZERO) == Ok(1) {
        let _ = write(&out, format!("{line}\n").as_bytes());
    }
}

/// Runs `program` with the arguments of this process, as text: what is not UTF-8 becomes U+FFFD, as
/// in Node. Handles `--help`, `-h` and `--version`. An error becomes one line on stderr and
/// status 1.
#[tokio::main(flavor = "current_thread")]
pub async fn run(usage: &str, program: impl AsyncFnOnce(&[String]) -> Result<()>) -> ExitCode {
    // Without a handler, this signal would kill the service at the limit of `ulimit -f`.
    let _handler = signal(SignalKind::from_raw(nix::libc::SIGXFSZ));
    // Each connection needs a descriptor. Node raises this limit, too, where it may.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    let args = env::args_os().skip(1);
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into()).collect();
    match args.first().map(String::as_str) {
        Some("-h" | "--help") => log(usage),
        Some("--version") => log(format_args!("{NAME} {}", env!("CARGO_PKG_VERSION"))),
        _ => {
            if let Err(error) = program(&args).await {
                self::error(format_args!("{error:#}"));
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
