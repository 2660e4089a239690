//! Runs commands with time limits on a runtime of several threads, and cancels some of them:
//! `commands FOLDER`. A command that is cancelled creates a file in the folder.

#[path = "../exec.rs"]
mod exec;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use exec::{Cause, Options, exec, exec_file};

/// Long enough for a command to start, also on a busy machine.
const START: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder: PathBuf = std::env::args_os().nth(1).expect("FOLDER").into();
    let in_folder = Options {
        cwd: Some(folder),
        ..Options::default()
    };

    // Without a time limit, tokio's `output` is enough.
    let date = Command::new("date").output().await?;
    assert!(date.status.success() && !date.stdout.is_empty());

    // Two commands at the same time, each with a time limit. What a user has typed is passed as one
    // argument, without a shell.
    let limited = Options {
        timeout: Some(START),
        ..in_folder.clone()
    };
    let typed = "; touch typed";
    let (echo, slow) = tokio::join!(
        exec_file("echo", [typed], &limited),
        exec("(sleep 1000; touch slow) | cat", &limited),
    );
    assert_eq!(echo?.stdout.text()?, format!("{typed}\n"));
    assert!(matches!(slow.unwrap_err().cause, Cause::Timeout));

    // Bytes in, bytes out.
    let input = Some(vec![0xff; 1_000_000]);
    let options = Options {
        input: input.clone(),
        ..limited
    };
    let packed = exec("gzip -c | gzip -dc", &options).await?.stdout;
    assert_eq!(Some(&packed[..]), input.as_deref());

    // Three commands that are cancelled: by tokio's `timeout`, and by dropping the set of their
    // tasks.
    // When this program has been killed, a command that writes gets SIGPIPE, and a shell writes when
    // a signal has ended what it runs.
    let cleans_up =
        "exec 2>/dev/null; trap 'touch cleaned-$NAME; exit' TERM; while :; do sleep 0.01; done";
    let named = |name: &str| format!("NAME={name}; {cleans_up}");
    let cancelled = timeout(START, exec(&named("timeout"), &in_folder)).await;
    assert!(cancelled.is_err());
    let mut tasks = JoinSet::new();
    for name in ["abort", "drop"] {
        let (command, options) = (named(name), in_folder.clone());
        tasks.spawn(async move { exec(&command, &options).await.map(drop) });
    }

    // The last one runs until this program gets Ctrl-C, which it does not handle.
    tokio::spawn(async move {
        sleep(START).await;
        drop(tasks);
        writeln!(io::stdout(), "waiting")
    });
    exec(&named("interrupt"), &in_folder).await?;
    Ok(())
}
