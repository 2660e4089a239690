//! Node's `child_process.exec()`: runs a command in a shell and gives back all its output.
//!
//! ```sh
//! cargo run -p exec-count                               # find . -type f | wc -l
//! cargo run -p exec-count -- 'ls | wc -l'               # any other command
//! ```

mod console;
mod exec;

use std::process::ExitCode;

use anyhow::{Result, bail};

use exec::{Options, exec};

async fn run(command: &str) -> Result<()> {
    match exec(command, &Options::default()).await {
        Err(error) => console::error(format_args!("exec error: {error}"))?,
        Ok(output) => console::log(format_args!("Number of files: {}", output.stdout))?,
    }
    Ok(())
}

const USAGE: &str = "\
Usage: exec-count [COMMAND]

Runs COMMAND, one string for the shell such as 'ls | wc -l', and prints its output as a number of
files.
Default: find . -type f | wc -l";

fn main() -> ExitCode {
    console::run(USAGE, async |args| match args {
        [] => run("find . -type f | wc -l").await,
        // Node throws here, and does not call the callback.
        [command] if command.is_empty() => bail!("COMMAND is empty"),
        [command] => run(command).await,
        _ => bail!("too many arguments: see --help"),
    })
}
