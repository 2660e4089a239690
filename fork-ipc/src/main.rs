//! Node's `child_process.fork()`: a child process, and a channel to exchange messages with it.
//!
//! ```sh
//! cargo run -p fork-ipc                       # parent and child are both this program
//! cargo run -p fork-ipc -- node fork-ipc/node/child.cjs
//! ```

mod console;
mod inspect;
mod ipc;

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::process::Command;

use inspect::inspect;
use ipc::fork;

// parent.js
async fn parent(program: &OsStr, args: &[OsString]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args);
    let mut child = fork(command)?;

    // If this fails, the channel is closed, but the child may have sent something first.
    let _ = child.send(&json!({ "hello": "world" })).await;

    let mut answered = false;
    while let Some(message) = child.next_message().await? {
        console::log(format_args!("Message from child: {}", inspect(&message)))?;
        // Without this, both processes would wait for ever.
        child.disconnect();
        answered = true;
    }
    // Node's parent is silent when its child fails. Here that is an error.
    let status = child.wait().await?;
    ensure!(answered, "the child ended before it answered ({status})");
    ensure!(status.success(), "the child failed ({status})");
    Ok(())
}

// child.js
async fn child() -> Result<()> {
    let mut process = ipc::process()?;

    while let Some(message) = process.next_message().await? {
        // No `?` here: the parent gets its answer even if stdout is closed.
        let _ = console::log(format_args!("Message from parent: {}", inspect(&message)));
        process.send(&json!({ "foo": "bar" })).await?;
    }
    Ok(())
}

const USAGE: &str = "\
Usage: fork-ipc [COMMAND [ARG]...]
       fork-ipc child

Forks COMMAND with a channel open, sends it a message and prints what it answers.
With `child` it is the child process, on the channel in NODE_CHANNEL_FD.
Default: this program, as `fork-ipc child`";

fn main() -> ExitCode {
    console::run(USAGE, async |args| match &args[..] {
        // fork('./child.js')
        [] => parent(env::current_exe()?.as_os_str(), &["child".into()]).await,
        [role] if role == "child" => child().await,
        [program, args @ ..] => parent(program, args).await,
    })
}
