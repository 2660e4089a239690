//! Runs a command in one of several ways: `alternatives WAY TASK COMMAND [ARG]...`. The bench
//! measures how long that takes, and looks at what it leaves running.

mod exec;
mod spawn;

use std::future::pending;
use std::io::{Read, Write, stdout};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use processkit::host_containment;
use tokio::io::{AsyncReadExt, sink};
use tokio::process::Command;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_process_stream::ProcessChunkStream;
use tokio_stream::StreamExt;

/// The longest chunk of output, in bytes, where the caller chooses it. It is spawn.rs's.
const CHUNK: usize = 64 * 1024;

/// Long enough for a command to start, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<()> {
    // Tasks and threads use them until the program ends.
    let args: &'static [String] = Vec::leak(std::env::args().skip(1).collect());
    let [way, task, command @ ..] = args else {
        bail!("usage: alternatives WAY TASK COMMAND [ARG]...");
    };
    match &**task {
        "one" => repeat(1, 200, move || collect(way, command, None)).await,
        "eight" => repeat(8, 50, move || collect(way, command, None)).await,
        "stream" => repeat(1, 1, move || stream(way, command)).await,
        "limit" => leave(collect(way, command, Some(LIMIT))).await,
        "drop" => leave(timeout(LIMIT, collect(way, command, None))).await,
        "kill" => collect(way, command, None).await,
        "mechanism" => Ok(writeln!(stdout(), "{:?}", host_containment().mechanism())?),
        _ => bail!("there is no task '{task}'"),
    }
}

/// Does something `times` times in each of `tasks` tasks. Prints the mean time in seconds.
async fn repeat<F: Future<Output = Result<()>> + Send>(
    tasks: u32,
    times: u32,
    run: impl Fn() -> F + Copy + Send + 'static,
) -> Result<()> {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        running.spawn(async move {
            for _ in 0..times {
                run().await?;
            }
            anyhow::Ok(())
        });
    }
    let ended = running.join_all().await;
    ended.into_iter().collect::<Result<()>>()?;
    let mean = began.elapsed() / (tasks * times);
    Ok(writeln!(stdout(), "{}", mean.as_secs_f64())?)
}

/// Says that a run is over, and waits until this program is killed.
async fn leave<T>(run: impl Future<Output = T>) -> Result<()> {
    run.await;
    writeln!(stdout(), "over")?;
    pending().await
}

/// Runs a command and collects its whole output, with a time limit: the way's own if it has one,
/// otherwise tokio's.
async fn collect(way: &str, command: &'static [String], limit: Option<Duration>) -> Result<()> {
    let (program, args) = command.split_first().context("there is no command")?;
    match way.split(", ").next().context("a name")? {
        "exec.rs" => {
            let options = exec::Options {
                timeout: limit,
                ..exec::Options::default()
            };
            exec::exec_file(program, args, &options).await?;
        }
        "duct" => {
            let command = duct::cmd(program, args).stdout_capture().stderr_capture();
            let run = move || match limit {
                None => command.run().map(drop),
                Some(limit) => {
                    let handle = command.start()?;
                    match handle.wait_timeout(limit)? {
                        Some(_) => Ok(()),
                        None => handle.kill(),
                    }
                }
            };
            spawn_blocking(run).await??;
        }
        "processkit" => {
            let mut command = processkit::Command::new(program).args(args);
            if way.ends_with("kill_on_parent_death") {
                command = command.kill_on_parent_death();
            }
            if let Some(limit) = limit {
                command = command.timeout(limit);
            }
            let _ = command.output_bytes().await?;
        }
        "tokio::process" => {
            let mut command = Command::new(program);
            let kill = way.ends_with("kill_on_drop");
            let output = command.args(args).kill_on_drop(kill).output();
            timeout(limit.unwrap_or(Duration::MAX), output).await??;
        }
        // Nothing of these collects the whole output.
        _ => timeout(limit.unwrap_or(Duration::MAX), stream(way, command)).await??,
    }
    Ok(())
}

/// Reads a command's output as it comes.
async fn stream(way: &str, command: &'static [String]) -> Result<()> {
    let (program, args) = command.split_first().context("there is no command")?;
    let mut command = Command::new(program);
    command.args(args);
    let mut chunk = vec![0; CHUNK];
    match way.split(", ").next().context("a name")? {
        "spawn.rs" => {
            if way.ends_with("process_group") {
                command.process_group(0);
            }
            let mut child = spawn::spawn(&mut command)?;
            while child.next_event().await?.is_some() {}
        }
        "tokio-process-stream" => {
            let mut items = ProcessChunkStream::try_from(command)?;
            while items.next().await.is_some() {}
        }
        "duct" => {
            let mut reader = duct::cmd(program, args).reader()?;
            let read = move || {
                while reader.read(&mut chunk)? > 0 {}
                anyhow::Ok(())
            };
            spawn_blocking(read).await??;
        }
        "processkit" => {
            let command = processkit::Command::new(program).args(args);
            let run = command.stdout_raw_tee(sink()).start().await?;
            run.drain().await?;
        }
        "tokio::process" => {
            let mut child = command.stdout(Stdio::piped()).spawn()?;
            let mut stdout = child.stdout.take().context("it is piped")?;
            while stdout.read(&mut chunk).await? > 0 {}
            child.wait().await?;
        }
        _ => bail!("{way} returns the output at its end"),
    }
    Ok(())
}
