//! Uses a Python library, by a Python child. The child's half is python_child.py.

#[path = "../ipc.rs"]
mod ipc;

use std::io::{self, Write};

use anyhow::Context;
use serde::Deserialize;
use tokio::process::Command;

#[derive(Deserialize)]
struct Summary {
    mean: f64,
    deviation: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut python = Command::new("python3");
    python.args(["-c", include_str!("python_child.py")]);
    let mut child = ipc::fork(python)?;
    for numbers in [&[2, 4, 4, 4, 5, 5, 7, 9][..], &[]] {
        child.send(numbers).await?;
        // The answer to an empty list is null.
        let answer: Option<Option<Summary>> = child.next_message().await?;
        match answer.context("the child has ended")? {
            Some(Summary { mean, deviation }) => {
                writeln!(io::stdout(), "{numbers:?}: {mean} ± {deviation}")?;
            }
            None => writeln!(io::stdout(), "{numbers:?}: no numbers")?,
        }
    }
    child.disconnect();
    let status = child.wait().await?;
    anyhow::ensure!(status.success(), "the child failed: {status}");
    Ok(())
}
