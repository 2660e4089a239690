//! Node's `child_process.spawn()`: run a command without a shell and pass on what it
//! writes, as it writes it.
//!
//! ```sh
//! cargo run -p spawn-ls                       # ls -lh /usr
//! cargo run -p spawn-ls -- git log --stat     # any other command
//! ```

mod chunk;
mod stdio;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{self, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{SigHandler, Signal, raise, signal as set_handler};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, spawn_blocking};

const USAGE: &str = "\
Usage: spawn-ls [COMMAND [ARG]...]

Runs COMMAND without a shell and passes on what it writes, as it writes it.
Default: ls -lh /usr
";

async fn run() -> Result<()> {
    let mut command: Vec<OsString> = std::env::args_os().skip(1).collect();
    if command.first().is_some_and(|first| first == "--help") {
        return Ok(write!(io::stdout(), "{USAGE}")?);
    }
    if command.is_empty() {
        command = ["ls", "-lh", "/usr"].map(OsString::from).into();
    }

    let mut ls = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot spawn {}", command[0].display()))?;

    // Both at once, or a child whose other pipe is full would wait for us for ever. Each on a
    // thread of its own: while they wait for a slow reader, `main` still hears signals.
    let stdout = ls.stdout.take().expect("stdout is piped");
    let stdout = File::from(stdout.into_owned_fd()?);
    let stderr = ls.stderr.take().expect("stderr is piped");
    let stderr = File::from(stderr.into_owned_fd()?);
    let mut pipes = JoinSet::new();
    pipes.spawn_blocking(|| on_data(stdout, "stdout", io::stdout()));
    pipes.spawn_blocking(|| on_data(stderr, "stderr", io::stderr()));

    // Node's 'close': the pipes have ended, which a grandchild can delay, and the process has.
    while let Some(ended) = pipes.join_next().await {
        ended??;
    }
    let status = ls.wait().await.context("cannot wait for the child")?;
    let code = status.code().map_or("null".into(), |code| code.to_string());
    let close = format!("child process exited with code {code}\n");
    let written = spawn_blocking(move || stdio::write_all(io::stdout(), close.as_bytes()));
    written.await?.context("cannot write to stdout")
}

/// Writes each chunk that comes from `pipe` to `out`, with its `name` before it.
fn on_data(mut pipe: File, name: &str, out: impl AsFd) -> Result<()> {
    // The prefix stands ready before the place for the chunk, so that one write takes it all.
    let mut line = format!("{name}: ").into_bytes();
    let start = line.len();
    line.resize(start + chunk::MAX + 1, 0);
    loop {
        let read = chunk::read(&mut pipe, &mut line[start..start + chunk::MAX]);
        let end = start + read.with_context(|| format!("cannot read the child's {name}"))?;
        if end == start {
            return Ok(());
        }
        line[end] = b'\n';
        stdio::write_all(&out, &line[..=end]).with_context(|| format!("cannot write to {name}"))?;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let result = tokio::select! {
        biased;
        // `run` is dropped then, and kills the child as it goes.
        asked = asked_to_end() => asked.and_then(end_by),
        result = run() => result,
    };
    // `exit`, because a return from `main` would wait for a write that nobody reads.
    process::exit(match result {
        Ok(()) => 0,
        // `| head -1` has read all it wants: not an error, and nobody to tell.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "spawn-ls: {error:#}");
            1
        }
    })
}

/// Waits for a signal that ends a program.
async fn asked_to_end() -> Result<Signal> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = hangup.recv() => Signal::SIGHUP,
        _ = interrupt.recv() => Signal::SIGINT,
        _ = terminate.recv() => Signal::SIGTERM,
    })
}

/// Ends this program by the signal that it was sent, so that whoever waits for it sees that.
fn end_by(signal: Signal) -> Result<()> {
    // SAFETY: the default has no code of ours to run.
    unsafe { set_handler(signal, SigHandler::SigDfl)? };
    Ok(raise(signal)?)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
