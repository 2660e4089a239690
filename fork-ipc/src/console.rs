//! Node's `console`, and how the program starts and ends.

use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::unistd::write;
use tokio::runtime::{Builder, Runtime};

const NAME: &str = env!("CARGO_PKG_NAME");

/// Writes a line to stdout: Node's `console.log()`.
///
/// # Errors
///
/// When stdout cannot be written to; `BrokenPipe` if its reader has gone.
pub fn log(line: impl Display) -> io::Result<()> {
    write_line(io::stdout(), "stdout", &line)
}

/// Writes a line to stderr: Node's `console.error()`.
///
/// # Errors
///
/// When stderr cannot be written to.
pub fn error(line: impl Display) -> io::Result<()> {
    write_line(io::stderr(), "stderr", &line)
}

/// Writes the line with one `write` if possible, so that the lines of several processes do not mix.
fn write_line(out: impl AsFd, name: &str, line: &impl Display) -> io::Result<()> {
    let line = format!("{line}\n");
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        match write(&out, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::EINTR) => {}
            // Node makes its pipes non-blocking, for every process that shares them.
            Err(Errno::EAGAIN) => {
                let room = PollFd::new(out.as_fd(), PollFlags::POLLOUT);
                let _ = poll(&mut [room], PollTimeout::NONE);
            }
            Err(error) => {
                let error = io::Error::from(error);
                let text = format!("cannot write to {name}: {error}");
                return Err(io::Error::new(error.kind(), text));
            }
        }
    }
    Ok(())
}

/// Runs `program` with the arguments of this process. Handles `--help`, `-h` and `--version`.
///
/// An error becomes one line on stderr and status 1. It is no error when the reader of stdout
/// closes it early, as `head -1` does.
pub fn run(usage: &str, program: impl AsyncFnOnce(Vec<OsString>) -> Result<()>) -> ExitCode {
    match start(usage, program) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = self::error(format_args!("{NAME}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(usage: &str, program: impl AsyncFnOnce(Vec<OsString>) -> Result<()>) -> Result<()> {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    match args.first().and_then(|first| first.to_str()) {
        Some("-h" | "--help") => log(usage)?,
        Some("--version") => log(format_args!("{NAME} {}", env!("CARGO_PKG_VERSION")))?,
        _ => {
            // The parent may have blocked signals. Node resets this when it starts.
            SigSet::empty().thread_set_mask()?;
            let runtime = runtime().context("cannot start the async runtime")?;
            runtime.block_on(program(args))?;
        }
    }
    Ok(())
}

fn runtime() -> io::Result<Runtime> {
    // tokio panics if it cannot open six descriptors.
    drop([
        UnixStream::pair()?,
        UnixStream::pair()?,
        UnixStream::pair()?,
    ]);
    Builder::new_current_thread().enable_all().build()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
