//! Runs a CI step with live output, a log and a time limit: `ci_step LOG SECONDS COMMAND [ARG]...`.
//! At the time limit, and when the job is cancelled, the command is killed, with all processes that
//! it has started.
//!
//! The exit status is the command's, 128 + N if signal N has ended it (as in a shell), or 124 after
//! the time limit (as with `timeout`).

#[path = "../spawn.rs"]
mod spawn;

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio, exit};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncWriteExt, stderr, stdout};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use spawn::{ChildProcess, Event, spawn};

/// How long a process in the background may have the output open after the command has exited.
const REST: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() {
    let code = run().await.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "ci_step: {error:#}");
        1
    });
    // A return would wait for a stdout that nobody reads.
    exit(code)
}

async fn run() -> Result<i32> {
    let mut args = env::args_os().skip(1);
    let usage = "usage: ci_step LOG SECONDS COMMAND [ARG]...";
    let log = args.next().context(usage)?;
    let log = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let seconds = args.next().context(usage)?;
    let seconds = seconds.to_str().and_then(|text| text.parse().ok());
    let limit = Duration::from_secs(seconds.context(usage)?);
    let mut command = Command::new(args.next().context(usage)?);
    // A group that is not the terminal's must not read from it.
    command.args(args).stdin(Stdio::null()).process_group(0);

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // When the command is not the first, its future is dropped. This kills its whole group at once.
    // After SIGTERM, it could exit before the processes that it has started, and these would stay.
    tokio::select! {
        status = step(command, log) => {
            let status = status?;
            Ok(status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1))
        }
        () = sleep(limit) => {
            writeln!(io::stderr(), "ci_step: killed after {limit:?}")?;
            Ok(124)
        }
        _ = interrupt.recv() => Ok(130),
        _ = terminate.recv() => Ok(143),
    }
}

async fn step(mut command: Command, mut log: File) -> io::Result<ExitStatus> {
    let mut child = spawn(&mut command)?;
    let status = forward(&mut child, &mut log).await?;
    match timeout(REST, forward(&mut child, &mut log)).await {
        Ok(closed) => closed,
        Err(_) => Ok(status),
    }
}

/// Prints and logs the output until 'exit', or if that has been, until 'close'.
async fn forward(child: &mut ChildProcess, log: &mut File) -> io::Result<ExitStatus> {
    // `flush` waits only for what the same value has written.
    let (mut out, mut err) = (stdout(), stderr());
    while let Some(event) = child.next_event().await? {
        match event {
            Event::Stdout(data) => {
                log.write_all(&data)?;
                out.write_all(&data).await?;
                out.flush().await?;
            }
            Event::Stderr(data) => {
                log.write_all(&data)?;
                err.write_all(&data).await?;
                err.flush().await?;
            }
            Event::Exit(status) | Event::Close(status) => return Ok(status),
        }
    }
    unreachable!("'close' has been returned")
}
