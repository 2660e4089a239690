//! Node's `child_process.spawn()`: runs a command without a shell and prints its output as it
//! comes.
//!
//! ```sh
//! cargo run -p spawn-ls                       # ls -lh /usr
//! cargo run -p spawn-ls -- git log --stat     # any other command
//! ```

mod console;
mod spawn;

use std::process::{ExitCode, Stdio};

use anyhow::Result;
use tokio::process::Command;

use spawn::{Event, spawn};

async fn run(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null());
    let mut ls = spawn(command)?;

    while let Some(event) = ls.next_event().await? {
        match event {
            Event::Stdout(data) => console::log(format_args!("stdout: {data}"))?,
            Event::Stderr(data) => console::error(format_args!("stderr: {data}"))?,
            Event::Exit(_) => {}
            Event::Close(status) => {
                // After a signal there is no code: Node prints null.
                let code = status.code().map_or("null".into(), |code| code.to_string());
                console::log(format_args!("child process exited with code {code}"))?;
            }
        }
    }
    Ok(())
}

const USAGE: &str = "\
Usage: spawn-ls [COMMAND [ARG]...]

Runs COMMAND without a shell and prints its output as it comes.
Default: ls -lh /usr";

fn main() -> ExitCode {
    console::run(USAGE, async |args| match args.split_first() {
        None => run(Command::new("ls").args(["-lh", "/usr"])).await,
        Some((command, args)) => run(Command::new(command).args(args)).await,
    })
}
