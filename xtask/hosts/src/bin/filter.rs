//! Writes stdin to a command and prints its output: `filter [COMMAND [ARG]...]`, `gzip` by default.
//! Both happen at the same time, so that the input may be of any length.

#[path = "../spawn.rs"]
mod spawn;

use std::env;
use std::io::{self, Write};
use std::process::{ExitStatus, Stdio, exit};

use tokio::io::{copy, stdin};
use tokio::process::{ChildStdin, Command};

use spawn::{ChildProcess, Event, spawn};

#[tokio::main]
async fn main() {
    let code = match filter().await {
        Ok(status) => status.code().unwrap_or(1),
        Err(error) => {
            let _ = writeln!(io::stderr(), "filter: {error}");
            1
        }
    };
    // A return would wait for the thread that reads stdin.
    exit(code)
}

async fn filter() -> io::Result<ExitStatus> {
    let mut args = env::args_os().skip(1);
    let mut command = Command::new(args.next().unwrap_or("gzip".into()));
    let mut child = spawn(command.args(args).stdin(Stdio::piped()))?;
    let input = child.stdin.take();
    tokio::select! {
        status = print(&mut child) => status,
        Err(error) = feed(input) => Err(error),
    }
}

/// Writes stdin to the command. At the end of this, the command's input is closed.
async fn feed(input: Option<ChildStdin>) -> io::Result<()> {
    let Some(mut input) = input else {
        return Ok(());
    };
    match copy(&mut stdin(), &mut input).await {
        // A command such as `head` need not read all of it.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

async fn print(child: &mut ChildProcess) -> io::Result<ExitStatus> {
    let mut stdout = io::stdout();
    while let Some(event) = child.next_event().await? {
        match event {
            Event::Stdout(data) => {
                stdout.write_all(&data)?;
                stdout.flush()?;
            }
            Event::Stderr(data) => io::stderr().write_all(&data)?,
            Event::Exit(_) => {}
            Event::Close(status) => return Ok(status),
        }
    }
    unreachable!("'close' has been returned")
}
