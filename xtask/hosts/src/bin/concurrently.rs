//! Runs shell commands at the same time, labels each line of their output, and ends all when one
//! fails: `concurrently COMMAND...`. Ctrl-C ends them, too.

#[path = "../spawn.rs"]
mod spawn;

use std::process::{Stdio, exit};
use std::time::Duration;
use std::{env, io};

use nix::sys::signal::Signal;
use tokio::io::{AsyncWrite, AsyncWriteExt, stderr, stdout};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::task::JoinSet;
use tokio::time::timeout;

use spawn::{Event, spawn};

/// How long a command may take to end after SIGTERM. Then it gets SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (stop, mut stopped) = channel(false);
    let mut tasks = JoinSet::new();
    for (number, script) in env::args_os().skip(1).enumerate() {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).stdin(Stdio::null());
        // A signal then reaches what the shell has started, too. Ctrl-C reaches only this program.
        command.process_group(0);
        tasks.spawn(run(number, command, stop.clone(), stopped.clone()));
    }
    let failed = tokio::select! {
        () = all(&mut tasks) => *stop.borrow(),
        _ = stopped.changed() => true,
        _ = interrupt.recv() => true,
        _ = terminate.recv() => true,
    };
    stop.send_replace(true);
    let _ = timeout(GRACE, all(&mut tasks)).await;
    // What is left is dropped, which kills it.
    tasks.shutdown().await;
    // A return would wait for a stdout that nobody reads.
    exit(failed.into())
}

async fn all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// Runs a command. Its failure stops all commands.
async fn run(number: usize, mut command: Command, stop: Sender<bool>, stopped: Receiver<bool>) {
    if let Err(error) = print(number, &mut command, &stop, stopped).await {
        stop.send_replace(true);
        let line = format!("{error}\n");
        let _ = Lines::new(number, stderr()).print(line.as_bytes()).await;
    }
}

async fn print(
    number: usize,
    command: &mut Command,
    stop: &Sender<bool>,
    mut stopped: Receiver<bool>,
) -> io::Result<()> {
    let (mut out, mut err) = (Lines::new(number, stdout()), Lines::new(number, stderr()));
    let mut child = spawn(command)?;
    loop {
        tokio::select! {
            event = child.next_event() => match event? {
                Some(Event::Stdout(data)) => out.print(&data).await?,
                Some(Event::Stderr(data)) => err.print(&data).await?,
                Some(Event::Exit(status)) if status.success() => {}
                Some(Event::Exit(_)) => { stop.send_replace(true); }
                Some(Event::Close(status)) => {
                    out.end().await?;
                    err.end().await?;
                    return err.print(format!("{status}\n").as_bytes()).await;
                }
                None => return Ok(()),
            },
            // An error means that the command has exited.
            Ok(()) = stopped.changed() => drop(child.kill(Signal::SIGTERM)),
        }
    }
}

/// One output of a command, by lines.
struct Lines<W> {
    label: String,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
    out: W,
}

impl<W: AsyncWrite + Unpin> Lines<W> {
    fn new(number: usize, out: W) -> Self {
        let label = format!("[{number}] ");
        let rest = Vec::new();
        Self { label, rest, out }
    }

    /// Prints the lines that end in `chunk`, all at once: the lines of several commands do not mix.
    async fn print(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.rest.extend_from_slice(chunk);
        let is_end = |byte: &u8| *byte == b'\n';
        let whole = self.rest.iter().rposition(is_end).map_or(0, |end| end + 1);
        let mut lines = Vec::new();
        for line in self.rest[..whole].split_inclusive(is_end) {
            lines.extend_from_slice(self.label.as_bytes());
            lines.extend_from_slice(line);
        }
        self.rest.drain(..whole);
        self.out.write_all(&lines).await?;
        self.out.flush().await
    }

    /// Prints a last line that has no end.
    async fn end(&mut self) -> io::Result<()> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => self.print(b"\n").await,
        }
    }
}
