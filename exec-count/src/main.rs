//! Node's `child_process.exec()`: run a command in a shell and get all it wrote.
//!
//! ```sh
//! cargo run -p exec-count                               # find . -type f | wc -l
//! cargo run -p exec-count -- 'grep -r fn . | wc -l'     # any other command
//! ```

mod exec;
mod stdio;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigHandler, Signal, raise, signal as set_handler};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use exec::{Options, exec};

const USAGE: &str = "\
Usage: exec-count [COMMAND]

Runs COMMAND, one string for the shell, and prints what it wrote as a number of files.
Default: find . -type f | wc -l
";

async fn run() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let command = args.next().unwrap_or("find . -type f | wc -l".into());
    if command == "--help" {
        return print(io::stdout(), USAGE.into()).await;
    }
    if command.is_empty() {
        bail!("COMMAND is empty");
    }
    if args.next().is_some() {
        bail!("more than one argument: quote the command, as in exec-count 'ls | wc -l'");
    }
    let Some(command) = command.to_str() else {
        bail!("{} is not UTF-8", command.display());
    };

    match exec(command, &Options::default()).await {
        Err(error) => print(io::stderr(), format!("exec error: {error}\n")).await,
        Ok(output) => {
            print(
                io::stdout(),
                format!("Number of files: {}\n", output.stdout),
            )
            .await
        }
    }
}

/// Writes on another thread, so that `main` hears signals while a reader is slow.
async fn print(out: impl AsFd + Send + 'static, text: String) -> Result<()> {
    let written = spawn_blocking(move || stdio::write_all(out, text.as_bytes()));
    written.await?.context("cannot write the result")
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let result = tokio::select! {
        biased;
        // `run` is dropped then, and kills the command as it goes.
        asked = asked_to_end() => asked.and_then(end_by),
        result = run() => result,
    };
    // `exit`, because a return from `main` would wait for a write that nobody reads.
    process::exit(match result {
        Ok(()) => 0,
        // `| head -1` has read all it wants: not an error, and nobody to tell.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "exec-count: {error:#}");
            1
        }
    })
}

/// Waits for a signal that ends a program. The command does not hear those of the terminal.
async fn asked_to_end() -> Result<Signal> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = hangup.recv() => Signal::SIGHUP,
        _ = interrupt.recv() => Signal::SIGINT,
        _ = quit.recv() => Signal::SIGQUIT,
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
