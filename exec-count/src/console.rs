//! Node's `console`, and how the program starts and ends.

use std::{env, fmt::Display, io, os::fd::AsFd, process::ExitCode};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;
use tokio::signal::unix::{SignalKind, signal};

const NAME: &str = env!("CARGO_PKG_NAME");

/// Writes a line to stdout: Node's `console.log()`.
pub fn log(line: impl Display) -> Result<()> {
    write_line(io::stdout(), line).context("cannot write to stdout")
}

/// Writes a line to stderr: Node's `console.error()`.
pub fn error(line: impl Display) -> Result<()> {
    write_line(io::stderr(), line).context("cannot write to stderr")
}

/// Writes the line with one `write` if possible, so that the lines of several processes do not mix.
fn write_line(out: impl AsFd, line: impl Display) -> Result<()> {
    let line = format!("{line}\n");
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        let mut room = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
        match write(&out, rest) {
            // A Node process makes a pipe that it shares with this one non-blocking.
            Err(Errno::EAGAIN) => _ = poll(&mut room, PollTimeout::NONE),
            written => rest = &rest[written?..],
        }
    }
    Ok(())
}

/// Runs `program` with the arguments of this process, as text: what is not UTF-8 becomes U+FFFD, as
/// in Node. Handles `--help`, `-h` and `--version`. An error becomes one line on stderr and
/// status 1.
#[tokio::main(flavor = "current_thread")]
pub async fn run(usage: &str, program: impl AsyncFnOnce(&[String]) -> Result<()>) -> ExitCode {
    // Without a handler, this signal would kill the program at the limit of `ulimit -f`. With one,
    // `write` fails.
    let _handler = signal(SignalKind::from_raw(nix::libc::SIGXFSZ));
    let args = env::args_os().skip(1);
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into()).collect();
    let done = match args.first().map(String::as_str) {
        Some("-h" | "--help") => log(usage),
        Some("--version") => log(format_args!("{NAME} {}", env!("CARGO_PKG_VERSION"))),
        _ => program(&args).await,
    };
    match done {
        // It is no error when the reader of stdout closes it early, as `head -1` does.
        Err(error) if error.downcast_ref() != Some(&Errno::EPIPE) => {
            let _ = self::error(format_args!("{NAME}: {error:#}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
