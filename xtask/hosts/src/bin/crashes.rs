//! Runs code that can crash its process, as C code can, in a child process. When the child has
//! crashed, it is forked again. The child is the same program, as `crashes child`.

#[path = "../ipc.rs"]
mod ipc;

use std::io::{self, Write};
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

fn fork() -> io::Result<ipc::Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("child");
    ipc::fork(command)
}

/// Asks the child, and returns its answer. If the child crashes, this returns `None` and forks
/// another one.
fn ask(child: &mut ipc::Child, question: &Value) -> io::Result<Option<Value>> {
    child.send(question)?;
    let answer = child.next_message()?;
    if answer.is_none() {
        *child = fork()?;
    }
    Ok(answer)
}

fn parent() -> Result<()> {
    let mut child = fork()?;
    for number in [4, 0, 9] {
        match ask(&mut child, &json!(number))? {
            Some(answer) => writeln!(io::stdout(), "{number}: {answer}")?,
            None => writeln!(io::stdout(), "{number}: the child has crashed")?,
        }
    }
    Ok(())
}

fn child() -> Result<()> {
    // SAFETY: it changes the environment, and no other thread has been started.
    let mut process = unsafe { ipc::process()? };
    while let Some(message) = process.next_message()? {
        if message == 0 {
            std::process::abort();
        }
        process.send(&json!(message.as_f64().map(f64::sqrt)))?;
    }
    Ok(())
}

fn main() -> Result<()> {
    match std::env::args().nth(1) {
        None => parent(),
        Some(_) => child(),
    }
}
