//! Node's `child_process.fork()`: a child process, and a channel to talk with it.
//!
//! ```sh
//! cargo run -p fork-ipc                       # parent and child are both this program
//! cargo run -p fork-ipc -- node child.js      # the child is another program
//! ```

mod inspect;
mod ipc;
mod stdio;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use inspect::inspect;
use ipc::{Receiver, Sender};

const USAGE: &str = "\
Usage: fork-ipc [COMMAND [ARG]...]
       fork-ipc child

Forks COMMAND with a channel open, sends it a message and prints what it answers.
As `child` it is the other side, on the channel that NODE_CHANNEL_FD names.
Default: this program, as `fork-ipc child`
";

// parent.js

fn parent(command: Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let (mut child, sender, receiver) =
        ipc::fork(command).with_context(|| format!("cannot fork {}", program.display()))?;

    let answers = talk(sender, receiver);
    if answers.is_err() {
        // It may not notice that nobody talks with it any more.
        let _ = child.kill();
    }
    let status = child.wait().context("cannot wait for the child")?;
    match answers? {
        0 => bail!("the child ended before it answered ({status})"),
        _ if !status.success() => bail!("the child failed ({status})"),
        _ => Ok(()),
    }
}

/// Greets the child, prints what it says until the channel closes, and counts that.
fn talk(mut sender: Sender, receiver: Receiver) -> Result<usize> {
    // In JavaScript the handler has to be there before the answer. Here the answer waits.
    send(&mut sender, json!({ "hello": "world" }))?;

    let mut sender = Some(sender);
    let mut answers = 0;
    for message in receiver {
        print("Message from child:", &message?)?;
        answers += 1;
        // The document's program stays here for ever, as does its child: nobody disconnects.
        if let Some(sender) = sender.take() {
            sender.disconnect();
        }
    }
    Ok(answers)
}

// child.js

fn child() -> Result<()> {
    // SAFETY: nothing has started a thread, or touched a descriptor.
    let (mut sender, receiver) = unsafe { ipc::channel_from_env()? };
    for message in receiver {
        print("Message from parent:", &message?)?;
        send(&mut sender, json!({ "foo": "bar" }))?;
    }
    Ok(())
}

/// Sends, unless the other side has disconnected: what it sent before may still be coming.
fn send(sender: &mut Sender, message: Value) -> Result<()> {
    match sender.send(&message) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot send a message"),
    }
}

fn print(label: &str, message: &Value) -> Result<()> {
    let line = format!("{label} {}\n", inspect(message));
    stdio::write_all(io::stdout(), line.as_bytes()).context("cannot write to stdout")
}

fn run() -> Result<()> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.split_first() {
        None => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("child");
            parent(command)
        }
        Some((first, _)) if first == "--help" => Ok(write!(io::stdout(), "{USAGE}")?),
        Some((first, [])) if first == "child" => child(),
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest);
            parent(command)
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // `| head -1` has read all it wants: not an error, and nobody to tell.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "fork-ipc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
