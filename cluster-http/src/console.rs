//! Node's `console`, and how the program starts and ends.

use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::write;
use tokio::runtime::{Builder, Runtime};

const NAME: &str = env!("CARGO_PKG_NAME");

/// Writes a line to stdout: Node's `console.log()`.
///
/// The line is lost if it cannot be written at once, for instance because the disk is full or the
/// reader is slow. The service goes on.
pub fn log(line: impl Display) {
    write_line(io::stdout(), &line);
}

/// Writes a line to stderr, with the program's name first: Node's `console.error()`. The line is
/// lost in the same cases.
pub fn error(line: impl Display) {
    write_line(io::stderr(), &format_args!("{NAME}: {line}"));
}

/// Writes the line with one `write` if possible, so that the lines of several processes do not mix.
fn write_line(out: impl AsFd, line: &impl Display) {
    let mut room = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut room, PollTimeout::ZERO) == Ok(1) {
        let _ = write(&out, format!("{line}\n").as_bytes());
    }
}

/// Runs `program` with the arguments of this process, or with `defaults` for those left out.
/// Handles `--help`, `-h` and `--version`.
///
/// An error becomes one line on stderr and status 1.
pub fn run<const N: usize>(
    usage: &str,
    defaults: [&str; N],
    program: impl AsyncFnOnce([String; N]) -> Result<()>,
) -> ExitCode {
    match start(usage, defaults, program) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            self::error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start<const N: usize>(
    usage: &str,
    defaults: [&str; N],
    program: impl AsyncFnOnce([String; N]) -> Result<()>,
) -> Result<()> {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    match args.first().and_then(|first| first.to_str()) {
        Some("-h" | "--help") => log(usage),
        Some("--version") => log(format_args!("{NAME} {}", env!("CARGO_PKG_VERSION"))),
        _ => {
            let args = complete(args, defaults)?;
            reset_signals()?;
            // Each connection needs a descriptor. Node raises this limit, too, where it may.
            let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
            let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
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

/// The number in the argument `value`, whose name in the usage is `name`.
pub fn count(name: &str, value: &str) -> Result<usize> {
    match value.parse() {
        Ok(count @ 1..=1024) => Ok(count),
        _ => bail!("{name} is '{value}', which is not a whole number from 1 to 1024"),
    }
}

/// The arguments, with the defaults for those left out.
fn complete<const N: usize>(args: Vec<OsString>, defaults: [&str; N]) -> Result<[String; N]> {
    ensure!(args.len() <= N, "too many arguments: see --help");
    let mut complete = defaults.map(str::to_owned);
    for (value, arg) in complete.iter_mut().zip(args) {
        let not_utf_8 = |arg: OsString| anyhow!("{} is not UTF-8", arg.to_string_lossy());
        *value = arg.into_string().map_err(not_utf_8)?;
    }
    Ok(complete)
}

/// Resets the signals that the parent has blocked or ignores, as Node does when it starts. If the
/// parent ignores SIGHUP (`nohup`) or SIGINT (a shell's `&`), this blocks it. Otherwise the
/// program's handler would get it.
fn reset_signals() -> Result<()> {
    let mut blocked = SigSet::empty();
    // Without SIGCHLD, no child could be waited for.
    for number in [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: the default action runs no code of this program.
        let before = unsafe { signal(number, SigHandler::SigDfl)? };
        if matches!(before, SigHandler::SigIgn) && number != Signal::SIGCHLD {
            blocked.add(number);
        }
    }
    // A terminal may stop processes in the background that write to it (`stty tostop`), and the
    // workers are.
    blocked.add(Signal::SIGTTOU);
    Ok(blocked.thread_set_mask()?)
}
