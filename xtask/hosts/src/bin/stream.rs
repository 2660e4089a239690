//! Streams the output of commands, and cancels two of them before their end.

#[path = "../spawn.rs"]
mod spawn;

use std::io::{self, Write};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use spawn::{Event, spawn};

/// Reads a command's stdout until it has ended or `enough` bytes have come. Returns their number.
async fn take(mut command: Command, enough: usize) -> io::Result<usize> {
    let mut bytes = 0;
    let mut child = spawn(&mut command)?;
    while let Some(event) = child.next_event().await? {
        match event {
            Event::Stdout(data) => bytes += data.len(),
            Event::Stderr(_) | Event::Exit(_) => {}
            Event::Close(status) => assert!(status.success(), "{status}"),
        }
        if bytes >= enough {
            break;
        }
    }
    Ok(bytes)
}

#[tokio::main]
async fn main() -> io::Result<()> {
    // `yes` never ends. It is killed when `take` returns.
    let bytes = take(Command::new("yes"), 1_000_000).await?;
    assert!((1_000_000..1_100_000).contains(&bytes), "{bytes}");

    // This command prints nothing. In a group of its own, it is killed with what it has started.
    let mut silent = Command::new("sh");
    silent.args(["-c", "sleep 1000 & sleep 1000"]);
    silent.process_group(0);
    assert!(
        timeout(Duration::from_millis(300), take(silent, 1))
            .await
            .is_err()
    );

    // Ten commands at the same time.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut head = Command::new("head");
        head.args(["-c", "1000000", "/dev/zero"]);
        tasks.spawn(take(head, usize::MAX));
    }
    let bytes: usize = tasks
        .join_all()
        .await
        .into_iter()
        .sum::<io::Result<usize>>()?;
    writeln!(io::stdout(), "{bytes} bytes")
}
