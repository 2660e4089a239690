//! Runs code that can crash or hang its process, as C code can, in a child process. The child is
//! the same program, as `crashes child`. When it has crashed, another one is forked.

#[path = "../ipc.rs"]
mod ipc;

use std::env;
use std::io::{self, Write};
use std::process::abort;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// How long the child may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

fn fork() -> io::Result<ipc::Child> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("child");
    ipc::fork(command)
}

/// Asks the child, and returns its answer. If the child crashes, this returns `None` and forks
/// another one.
async fn ask(child: &mut ipc::Child, question: f64) -> io::Result<Option<f64>> {
    if child.send(&question).await.is_err() {
        // It has ended since its last answer.
        *child = fork()?;
        child.send(&question).await?;
    }
    match timeout(PATIENCE, child.next_message()).await {
        Ok(Ok(Some(answer))) => Ok(Some(answer)),
        // The old child is killed if it has not ended.
        _ => {
            *child = fork()?;
            Ok(None)
        }
    }
}

async fn parent() -> io::Result<()> {
    let mut child = fork()?;
    for number in [4.0, 0.0, 9.0] {
        match ask(&mut child, number).await? {
            Some(answer) => writeln!(io::stdout(), "{number}: {answer}")?,
            None => writeln!(io::stdout(), "{number}: the child has crashed")?,
        }
    }
    Ok(())
}

async fn child() -> io::Result<()> {
    let mut process = ipc::process()?;
    while let Some(number) = process.next_message::<f64>().await? {
        if number == 0.0 {
            abort();
        }
        process.send(&number.sqrt()).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> io::Result<()> {
    match env::args().nth(1) {
        None => parent().await,
        Some(_) => child().await,
    }
}
